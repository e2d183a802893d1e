package fusesrv

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"e4go/ext4/disk"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// created puts a new inode of the given mode into the model.
func (p *treeProgram) created(dir *treeNode, name string, c simkernel.Cred, mode uint32) *treeNode {
	n := &treeNode{typ: mode & unix.S_IFMT, mode: mode &^ unix.S_IFMT, uid: c.UID, gid: c.GID, nlink: 1, xattrs: map[string]string{}}
	n.mtime = p.now(dir) // a new file's times are the server's
	n.atime, n.ctime = n.mtime, n.mtime
	if dir.mode&unix.S_ISGID != 0 {
		n.gid = dir.gid
	}
	switch {
	case n.typ == unix.S_IFLNK:
		n.mode = 0o777
	case dir.deflt != nil:
		acl := slices.Clone(dir.deflt)
		if n.typ == unix.S_IFDIR {
			n.deflt = slices.Clone(acl)
		}
		got, equal := disk.InheritACL(acl, disk.Mode(n.mode))
		if n.mode = uint32(got); !equal {
			n.access = acl
		}
		if !equal && (dir != p.root || p.base != "") { // the kernel has set it
			p.relinked(n)
		}
	default:
		n.mode &^= c.Umask
	}
	if n.typ == unix.S_IFDIR {
		n.children, n.nlink = map[string]*treeNode{}, 2
		n.mode |= dir.mode & unix.S_ISGID
		dir.nlink++
	}
	if name != "" {
		dir.children[name] = n
		p.changed(dir)
	}
	return n
}

func (p *treeProgram) create() (string, error) {
	dir, path, name := p.pickName()
	c := p.pickCred()
	mode := []uint32{0o644, 0o600, 0o777, 0o666, 0o640}[p.rng.IntN(5)]
	want := error(nil)
	if dir.children[name] != nil {
		want = unix.EEXIST
	}
	var err error
	var what string
	switch p.rng.IntN(10) {
	case 0, 1, 2:
		what = fmt.Sprintf("mkdir %s %o", path, mode)
		if err = p.k.Mkdir(c, path, mode); err == nil {
			p.created(dir, name, c, unix.S_IFDIR|mode)
		}
	case 3:
		what = "symlink " + path
		target := strings.Repeat("t", 1+p.rng.IntN(100))
		if err = p.k.Symlink(c, target, path); err == nil {
			p.created(dir, name, c, unix.S_IFLNK).target = target
		}
	case 4:
		what = "mkfifo " + path
		if err = p.k.Mknod(c, path, unix.S_IFIFO|mode, 0); err == nil {
			p.created(dir, name, c, unix.S_IFIFO|mode)
		}
	case 5:
		at, dir := p.pick(isDir)
		what = "tmpfile in " + at
		var f *simkernel.File
		f, err = p.k.Tmpfile(c, at, mode)
		if err != nil {
			return what, err
		}
		n := p.created(dir, "", c, unix.S_IFREG|mode)
		n.nlink = 0
		if err := p.opened(n, c, f); err != nil {
			return what, err
		}
		if p.rng.IntN(2) == 0 {
			dir, path, name := p.pickName()
			what += " linked as " + path
			want := error(nil)
			if dir.children[name] != nil {
				want = unix.EEXIST
			}
			err := p.k.LinkFile(f, path)
			if err == nil {
				dir.children[name], n.nlink = n, 1
				p.relinked(n)
				p.changed(dir)
			}
			return what, expect(err, want)
		}
		return what, nil
	default:
		what = fmt.Sprintf("create %s %o by %d, umask %o", path, mode, c.UID, c.Umask)
		var f *simkernel.File
		f, err = p.k.Open(c, path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
		if err == nil {
			n := p.created(dir, name, c, unix.S_IFREG|mode)
			if err := p.opened(n, c, f); err != nil {
				return what, err
			}
		}
	}
	return what, expect(err, want)
}

// opened keeps f open, or closes it.
func (p *treeProgram) opened(n *treeNode, c simkernel.Cred, f *simkernel.File) error {
	if len(p.files) == 8 {
		if err := p.close(p.rng.IntN(len(p.files))); err != nil {
			return err
		}
	}
	n.opens++
	p.files = append(p.files, &treeFile{n: n, c: c, f: f})
	return nil
}

// handles opens x for direct I/O, and for looking without a trace, by a path.
func (p *treeProgram) handles(x *treeFile) (err error) {
	if x.d != nil || x.n.nlink == 0 {
		return nil
	}
	path := p.pathOf(x.n)
	if x.d, err = p.k.Open(x.c, path, unix.O_RDWR|unix.O_DIRECT, 0); err != nil {
		return err
	}
	x.look, err = p.k.Open(x.c, path, unix.O_RDONLY|unix.O_NOATIME, 0)
	return err
}

func (p *treeProgram) pathOf(want *treeNode) (found string) {
	p.root.walk(p.base, func(path string, n *treeNode) {
		if n == want {
			found = path
		}
	})
	return found
}

func (p *treeProgram) close(i int) error {
	x := p.files[i]
	p.files = slices.Delete(p.files, i, i+1)
	x.n.opens--
	err := x.f.Close()
	if x.d != nil {
		err = errors.Join(err, x.d.Close())
	}
	if x.look != nil {
		err = errors.Join(err, x.look.Close())
	}
	return err
}

func (p *treeProgram) link() (string, error) {
	from, n := p.pick(func(n *treeNode) bool { return !isDir(n) })
	dir, path, name := p.pickName()
	if n == nil {
		return "nothing", nil
	}
	want := error(nil)
	if dir.children[name] != nil {
		want = unix.EEXIST
	}
	err := p.k.Link(rootCred, from, path)
	if err == nil {
		dir.children[name] = n
		n.nlink++
		p.relinked(n)
		p.changed(dir)
	}
	return fmt.Sprintf("link %s %s", from, path), expect(err, want)
}

func (p *treeProgram) remove() (string, error) {
	dir, path, name := p.pickName()
	n := dir.children[name]
	asDir := p.rng.IntN(3) == 0
	if n != nil && p.rng.IntN(4) > 0 {
		asDir = isDir(n)
	}
	var want error
	switch {
	case n == nil:
		want = unix.ENOENT
	case asDir && !isDir(n):
		want = unix.ENOTDIR
	case asDir && len(n.children) > 0:
		want = unix.ENOTEMPTY
	case !asDir && isDir(n):
		want = unix.EISDIR
	}
	what, do := "unlink ", p.k.Unlink
	if asDir {
		what, do = "rmdir ", p.k.Rmdir
	}
	err := do(p.pickCred(), path)
	if err == nil && want == nil {
		p.dropped(dir, n)
		delete(dir.children, name)
		p.changed(dir)
	}
	return what + path, expect(err, want)
}

// dropped takes one name from n, which dir has.
func (p *treeProgram) dropped(dir, n *treeNode) {
	n.nlink--
	p.relinked(n)
	if isDir(n) {
		n.nlink = 0
		dir.nlink--
	}
}

func (p *treeProgram) rename() (string, error) {
	fromDir, from, fromName := p.pickName()
	toDir, to, toName := p.pickName()
	if path, n := p.pick(nil); n != p.root && p.rng.IntN(2) == 0 { // one that is there
		from = path
		i := strings.LastIndexByte(path, '/')
		fromName = path[i+1:]
		p.root.walk(p.base, func(at string, d *treeNode) {
			if at == path[:i] {
				fromDir = d
			}
		})
	}
	flags := []uint32{0, 0, 0, simkernel.RenameNoReplace, simkernel.RenameExchange, simkernel.RenameWhiteout}[p.rng.IntN(6)]
	exchange := flags == simkernel.RenameExchange
	n, victim := fromDir.children[fromName], toDir.children[toName]
	var want error
	switch {
	case n == nil, exchange && victim == nil:
		want = unix.ENOENT
	case victim != nil && flags == simkernel.RenameNoReplace:
		want = unix.EEXIST
	case strings.HasPrefix(to, from+"/"), exchange && strings.HasPrefix(from, to+"/"):
		want = unix.EINVAL
	case strings.HasPrefix(from, to+"/"):
		want = unix.ENOTEMPTY
	case victim == n:
	case victim == nil || exchange:
	case isDir(n) && !isDir(victim):
		want = unix.ENOTDIR
	case !isDir(n) && isDir(victim):
		want = unix.EISDIR
	case isDir(victim) && len(victim.children) > 0:
		want = unix.ENOTEMPTY
	}
	c := p.pickCred()
	err := p.k.Rename(c, from, to, flags)
	if err == nil && want == nil && victim != n {
		p.relinked(n)
		p.changed(fromDir)
		p.changed(toDir)
		if isDir(n) {
			fromDir.nlink--
			toDir.nlink++
		}
		switch {
		case exchange:
			if isDir(victim) {
				fromDir.nlink++
				toDir.nlink--
			}
			p.relinked(victim)
			fromDir.children[fromName] = victim
		default:
			if victim != nil {
				p.dropped(toDir, victim)
			}
			delete(fromDir.children, fromName)
		}
		toDir.children[toName] = n
		if flags == simkernel.RenameWhiteout {
			p.created(fromDir, fromName, c, unix.S_IFCHR)
		}
	}
	return fmt.Sprintf("rename %s %s %#x", from, to, flags), expect(err, want)
}

// randomACL returns an ACL, with names or without.
func (p *treeProgram) randomACL() ([]disk.ACLEntry, simkernel.ACL) {
	perm := func() uint16 { return uint16(p.rng.IntN(8)) }
	const none = ^uint32(0)
	acl := []disk.ACLEntry{{Tag: disk.ACLUserObj, Perm: perm(), ID: none}}
	named := false
	if p.rng.IntN(2) == 0 {
		acl, named = append(acl, disk.ACLEntry{Tag: disk.ACLUser, Perm: perm(), ID: 1000 + uint32(p.rng.IntN(3))}), true
	}
	acl = append(acl, disk.ACLEntry{Tag: disk.ACLGroupObj, Perm: perm(), ID: none})
	if p.rng.IntN(2) == 0 {
		acl, named = append(acl, disk.ACLEntry{Tag: disk.ACLGroup, Perm: perm(), ID: 2000}), true
	}
	if named || p.rng.IntN(3) == 0 {
		acl = append(acl, disk.ACLEntry{Tag: disk.ACLMask, Perm: perm(), ID: none})
	}
	acl = append(acl, disk.ACLEntry{Tag: disk.ACLOther, Perm: perm(), ID: none})
	return acl, toKernel(acl)
}

func toKernel(acl []disk.ACLEntry) (out simkernel.ACL) {
	for _, e := range acl {
		out = append(out, simkernel.ACLEntry{Tag: e.Tag, Perm: e.Perm, ID: e.ID})
	}
	return out
}

func (p *treeProgram) attributes() (string, error) {
	path, n := p.pick(notLink)
	now := p.now(n)
	c := p.owner(n)
	inGroup := c.UID == 0 || c.GID == n.gid
	switch p.rng.IntN(7) {
	case 0:
		mode := uint32(p.rng.IntN(0o1000))
		if p.rng.IntN(4) == 0 {
			mode |= uint32(p.rng.IntN(8)) << 9
		}
		if n == p.root {
			mode |= 0o755
		}
		err := p.k.Chmod(c, path, mode)
		if !inGroup {
			mode &^= unix.S_ISGID
		}
		n.mode, n.ctime = mode, now
		if n.access != nil {
			disk.ChmodACL(n.access, disk.Mode(mode))
			if _, equal := disk.ACLMode(n.access, disk.Mode(mode)); equal {
				n.access = nil
			}
		}
		return fmt.Sprintf("chmod %o %s", mode, path), err
	case 1:
		uid, gid := uint32(p.rng.IntN(2)*1000), uint32(p.rng.IntN(3)*1000)
		err := p.k.Chown(rootCred, path, uid, gid)
		n.uid, n.gid, n.ctime = uid, gid, now
		if !isDir(n) {
			p.strip(n, true)
		}
		return fmt.Sprintf("chown %d:%d %s", uid, gid, path), err
	case 2:
		a := simkernel.Time{Sec: p.rng.Int64N(1 << 31), Nsec: uint32(p.rng.IntN(1e9))}
		m := simkernel.Time{Sec: p.rng.Int64N(1<<31) - 1<<30, Nsec: uint32(p.rng.IntN(1e9))}
		err := p.k.Utimes(c, path, a, m)
		a.Nsec, m.Nsec = a.Nsec-a.Nsec%p.gran, m.Nsec-m.Nsec%p.gran
		n.atime, n.mtime, n.ctime = a, m, now
		return "utimes " + path, err
	case 3, 4:
		path, n := p.pick(func(n *treeNode) bool { return isDir(n) || isRegular(n) })
		now := p.now(n)
		names := []string{"user.a", "user.b", "trusted.t", "security.s"}
		name := names[p.rng.IntN(len(names))]
		if _, ok := n.xattrs[name]; ok && p.rng.IntN(2) == 0 || p.rng.IntN(10) == 0 {
			want := error(nil)
			if !ok {
				want = unix.ENODATA
			}
			err := p.k.Removexattr(rootCred, path, name)
			if want == nil {
				delete(n.xattrs, name)
				n.ctime = now
			}
			return "removexattr " + name + " " + path, expect(err, want)
		}
		value := strings.Repeat("v", p.rng.IntN(30)+p.rng.IntN(2)*100)
		err := p.k.Setxattr(rootCred, path, name, []byte(value))
		if old, ok := n.xattrs[name]; isRegular(n) || !ok || old != value { // ext4 does nothing for the value that is there
			n.ctime = now
		}
		n.xattrs[name] = value
		return fmt.Sprintf("setxattr %s %d %s", name, len(value), path), err
	}
	acl, wire := p.randomACL()
	take := p.rng.IntN(5) == 0
	if take {
		acl, wire = nil, nil
	}
	if isDir(n) && p.rng.IntN(2) == 0 {
		what := fmt.Sprintf("default ACL %v of %s", acl, path)
		err := p.k.SetACL(c, path, simkernel.ACLDefault, wire)
		if !slices.Equal(n.deflt, acl) {
			n.deflt, n.ctime = acl, now
		}
		return what, err
	}
	what := fmt.Sprintf("access ACL %v of %s by %d", acl, path, c.UID)
	err := p.k.SetACL(c, path, simkernel.ACLAccess, wire)
	mode, had := n.mode, n.access
	if acl != nil {
		got, equal := disk.ACLMode(acl, disk.Mode(n.mode))
		if mode = uint32(got); equal {
			acl = nil
		}
		if !inGroup {
			mode &^= unix.S_ISGID
		}
	}
	if isRegular(n) || mode != n.mode || !slices.Equal(had, acl) {
		n.ctime = now
	}
	n.access, n.mode = acl, mode
	return what, err
}

// strip takes the privileges away that do not outlive a change by c: of
// contents, or of the owner.
func (p *treeProgram) strip(n *treeNode, inGroup bool) {
	n.mode &^= unix.S_ISUID
	if n.mode&unix.S_IXGRP != 0 || !inGroup {
		n.mode &^= unix.S_ISGID
	}
}

// missing asks for what is not there, twice.
func (p *treeProgram) missing() (string, error) {
	at, _ := p.pick(isDir)
	path := at + "/missing"
	for range 2 {
		if _, err := p.k.Stat(rootCred, path); !errors.Is(err, unix.ENOENT) {
			return "stat " + path, expect(err, unix.ENOENT)
		}
	}
	return "stat " + path, nil
}

// global does something to the whole file system.
func (p *treeProgram) global() (string, error) {
	what := p.rng.IntN(5)
	if !p.alone {
		what = 2 + what%2
	}
	switch what {
	case 0:
		return "evict", p.k.Evict()
	case 1:
		return "shrink", p.k.Shrink()
	case 2:
		return "sync", p.k.SyncFS()
	case 3:
		if len(p.files) > 0 {
			return "close", p.close(p.rng.IntN(len(p.files)))
		}
		return "nothing", nil
	}
	if err := p.k.Freeze(); err != nil {
		return "freeze", err
	}
	// What changes nothing goes on.
	_, err := p.k.Stat(rootCred, "")
	if len(p.files) > 0 {
		x := p.files[p.rng.IntN(len(p.files))]
		got := make([]byte, len(x.n.data)+1)
		n, rerr := x.f.ReadAt(got, 0)
		if err = errors.Join(err, rerr); err == nil {
			err = differ(got[:n], x.n.data)
		}
	}
	return "freeze and thaw", errors.Join(err, p.k.Thaw())
}

package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// treeKinds are the mappedKinds, and one whose inodes have no room for nanoseconds.
var treeKinds = append(slices.Clone(mappedKinds), struct {
	name string
	args string
	size int64
}{"small-inodes", "-t ext3 -b 1024 -I 128", 32})

// A testClock is the clock of the kernel, and that of the server, which is
// ahead: what one of them dates within a step has one time.
type testClock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) ahead() time.Time { return c.now().Add(1100 * time.Millisecond) }

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A treeNode is an inode of the model.
type treeNode struct {
	typ                 uint32 // S_IFREG and so on
	mode                uint32 // permissions
	uid, gid            uint32
	nlink               uint32
	atime, mtime, ctime simkernel.Time
	xattrs              map[string]string
	access, deflt       []disk.ACLEntry
	target              string               // of a symbolic link
	children            map[string]*treeNode // of a directory
	data                []byte
	blocks              []byte // of data, one each: written, hole, either
	opens               int
}

// What SEEK_DATA says of a block that is nowhere but on the device.
const (
	blockHole    = 0
	blockWritten = 'D'
	blockEither  = '?'
)

// A treeFile is an open file of the model.
type treeFile struct {
	n    *treeNode
	c    simkernel.Cred
	f, d *simkernel.File // buffered and direct
	look *simkernel.File // opened with O_NOATIME
}

// A treeProgram does random things to a tree of files of all types, beside a model of it.
type treeProgram struct {
	*mapped
	rng     *rand.Rand
	clock   *testClock
	gran    uint32 // of times, ns
	bs      int64
	largest int64 // folio, bytes
	atime   simkernel.Atime
	seed    uint64
	extent  bool   // files have extents
	inline  bool   // and may be inline
	base    string // path of root
	alone   bool   // no other program runs: time goes on, and caches are emptied
	root    *treeNode
	files   []*treeFile
	step    int
	log     []string // the last steps
}

var (
	rootCred = simkernel.Cred{}
	userCred = simkernel.Cred{UID: 1000, GID: 1000}
)

// now is the time by which n is dated: the kernel's for the contents of
// regular files, the server's for all else.
func (p *treeProgram) now(n *treeNode) simkernel.Time {
	t := p.clock.ahead()
	if isRegular(n) {
		t = p.clock.now()
	}
	ns := uint32(t.Nanosecond())
	return simkernel.Time{Sec: t.Unix(), Nsec: ns - ns%p.gran}
}

func after(a, b simkernel.Time) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// accessed says what becomes of an atime when a file is read, by the rules of
// mount(8).
func (p *treeProgram) accessed(n *treeNode, rule simkernel.Atime) {
	now := p.now(n)
	fresh := after(n.atime, n.mtime) && after(n.atime, n.ctime) && now.Sec-n.atime.Sec < 24*60*60
	if rule == simkernel.StrictAtime || rule == simkernel.RelativeAtime && !fresh {
		n.atime = now
	}
}

func (p *treeProgram) changed(n *treeNode)  { n.mtime, n.ctime = p.now(n), p.now(n) }
func (p *treeProgram) relinked(n *treeNode) { n.ctime = p.now(n) }

// walk calls fn with each path and its inode, in order.
func (n *treeNode) walk(path string, fn func(path string, n *treeNode)) {
	fn(path, n)
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		n.children[name].walk(path+"/"+name, fn)
	}
}

// pick returns a path whose inode is as wanted, or "".
func (p *treeProgram) pick(want func(n *treeNode) bool) (string, *treeNode) {
	var paths []string
	var nodes []*treeNode
	p.root.walk(p.base, func(path string, n *treeNode) {
		if want == nil || want(n) {
			paths, nodes = append(paths, path), append(nodes, n)
		}
	})
	if len(paths) == 0 {
		return "", nil
	}
	i := p.rng.IntN(len(paths))
	return paths[i], nodes[i]
}

var longName = strings.Repeat("long", 50)

func isDir(n *treeNode) bool     { return n.typ == unix.S_IFDIR }
func isRegular(n *treeNode) bool { return n.typ == unix.S_IFREG }
func notLink(n *treeNode) bool   { return n.typ != unix.S_IFLNK }

// pickName returns a directory and a name for it, that it may have.
func (p *treeProgram) pickName() (dir *treeNode, path, name string) {
	at, dir := p.pick(isDir)
	names := []string{"a", "b", "c", "d", "e", longName}
	name = names[p.rng.IntN(len(names))]
	return dir, at + "/" + name, name
}

func (p *treeProgram) pickCred() simkernel.Cred {
	c := rootCred
	if p.rng.IntN(2) == 0 {
		c = userCred
	}
	c.Umask = []uint32{0o022, 0o027, 0, 0o077}[p.rng.IntN(4)]
	return c
}

// owner is somebody who may change the attributes of n.
func (p *treeProgram) owner(n *treeNode) simkernel.Cred {
	if n.uid == userCred.UID && p.rng.IntN(2) == 0 {
		return userCred
	}
	return rootCred
}

// expect compares the outcome of a call with the model's.
func expect(err error, want error) error {
	if want == nil && err == nil || want != nil && errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("got error %v, want %v", err, want)
}

// run does n things.
func (p *treeProgram) run(n int) error {
	for range n {
		p.step++
		if p.alone {
			p.clock.advance(time.Duration(1+p.rng.IntN(3_000_000_000)) * time.Nanosecond)
			if p.rng.IntN(100) == 0 {
				p.clock.advance(25 * time.Hour)
			}
		}
		what, err := p.act()
		what = strings.ReplaceAll(what, longName, "LONG")
		p.log = append(p.log, fmt.Sprintf("%d: %s", p.step, what))
		if err == nil && p.step%20 == 0 {
			err = p.compare()
		}
		if err != nil {
			return fmt.Errorf("step %d: %s: %w", p.step, what, err)
		}
	}
	return nil
}

func (p *treeProgram) act() (string, error) {
	switch k := p.rng.IntN(100); {
	case k < 12:
		return p.create()
	case k < 17:
		return p.link()
	case k < 24:
		return p.remove()
	case k < 34:
		return p.rename()
	case k < 48:
		return p.attributes()
	case k < 50:
		return p.missing()
	case k < 53:
		return p.global()
	}
	return p.contents()
}

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
		n.xattrs[name], n.ctime = value, now
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
		if take && n.deflt == nil { // nothing changes
			return what, err
		}
		n.deflt, n.ctime = acl, now
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
	if isRegular(n) || mode != n.mode || had != nil || acl != nil {
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

// grow makes the file at least n bytes long.
func (p *treeProgram) grow(n *treeNode, size int64) {
	if size > int64(len(n.data)) {
		n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
	}
	p.fit(n)
}

func (p *treeProgram) fit(n *treeNode) {
	blocks := (len(n.data) + int(p.bs) - 1) / int(p.bs)
	if len(n.blocks) > blocks {
		n.blocks = n.blocks[:blocks:blocks]
	}
	n.blocks = append(n.blocks, make([]byte, blocks-len(n.blocks))...)
}

// mark says what the blocks are that bytes [from, to) touch.
func (p *treeProgram) mark(n *treeNode, from, to int64, state byte) {
	for i := from / p.bs; i*p.bs < to && i < int64(len(n.blocks)); i++ {
		n.blocks[i] = state
	}
}

// markWhole says what the blocks are that lie in [from, to).
func (p *treeProgram) markWhole(n *treeNode, from, to int64, state byte) {
	for i := (from + p.bs - 1) / p.bs; (i+1)*p.bs <= to && i < int64(len(n.blocks)); i++ {
		n.blocks[i] = state
	}
}

// modified dates a change of contents by c.
func (p *treeProgram) modified(n *treeNode, c simkernel.Cred) {
	if c.UID != 0 {
		p.strip(n, c.GID == n.gid)
	}
	p.changed(n)
}

func (p *treeProgram) contents() (what string, err error) {
	if len(p.files) == 0 || p.rng.IntN(8) == 0 {
		path, n := p.pick(isRegular)
		if n == nil {
			return "nothing", nil
		}
		c := p.pickCred()
		flags := unix.O_RDWR
		if p.rng.IntN(10) == 0 {
			flags |= unix.O_TRUNC
		}
		if p.rng.IntN(6) == 0 {
			flags |= unix.O_SYNC
		}
		f, err := p.k.Open(c, path, flags, 0)
		if err == nil {
			if flags&unix.O_TRUNC != 0 {
				if len(n.data) > 0 {
					p.modified(n, c)
				}
				n.data = nil
				p.fit(n)
			}
			err = p.opened(n, c, f)
		}
		return fmt.Sprintf("open %s %#x by %d", path, flags, c.UID), err
	}
	i := p.rng.IntN(len(p.files))
	x := p.files[i]
	if err := p.handles(x); err != nil {
		return "open again", err
	}
	what, err = p.change(i, x)
	what = fmt.Sprintf("%s of %q by %d", what, p.pathOf(x.n), x.c.UID)
	if err == nil {
		err = p.compareContents(x)
	}
	return what, err
}

func (p *treeProgram) change(i int, x *treeFile) (what string, err error) {
	n := x.n
	off, size := p.rng.Int64N(mostBytes), 1+p.rng.Int64N(20_000)
	if p.rng.IntN(4) == 0 {
		off, size = p.rng.Int64N(200), 1+p.rng.Int64N(100) // what may be inline
	}
	fill := func(n int64) []byte { return bytes.Repeat([]byte{byte(1 + p.rng.IntN(255))}, int(n)) }
	wrote := func(off int64, b []byte) {
		p.modified(n, x.c)
		p.grow(n, off+int64(len(b)))
		copy(n.data[off:], b)
		p.mark(n, off, off+int64(len(b)), blockWritten)
	}
	switch p.rng.IntN(20) {
	case 0, 1, 2:
		b := fill(size)
		if _, err = x.f.WriteAt(b, off); err == nil {
			wrote(off, b)
		}
		return fmt.Sprintf("write %d+%d", off, size), err
	case 3, 4:
		if x.d == nil {
			return "nothing", nil
		}
		off, size = off/512*512, (size+511)/512*512
		b := fill(size)
		if _, err = x.d.WriteAt(b, off); err == nil {
			wrote(off, b)
		}
		return fmt.Sprintf("direct write %d+%d", off, size), err
	case 5:
		f := x.f
		if x.d != nil && p.rng.IntN(2) == 0 {
			f, off, size = x.d, off/512*512, (size+511)/512*512
		}
		b := fill(size)
		done, err := f.WriteNowait(b, off)
		what := fmt.Sprintf("write %d+%d without waiting: %d, %v", off, size, done, err)
		if errors.Is(err, unix.EAGAIN) { // a part may have been written: as io_uring does, again
			done, err = f.WriteAt(b, off)
		}
		if done > 0 {
			wrote(off, b[:done])
		}
		return what, err
	case 6, 7:
		if off >= int64(len(n.data)) {
			return "nothing", nil
		}
		b := fill(min(size, int64(len(n.data))-off))
		if err = x.f.Store(b, off); err == nil {
			p.changed(n) // nothing but the times: no call changes contents
			copy(n.data[off:], b)
			end := off + int64(len(b))
			from, to := off/p.largest*p.largest, (end+p.largest-1)/p.largest*p.largest
			for i := from / p.bs; i*p.bs < to && i < int64(len(n.blocks)); i++ {
				if n.blocks[i] == blockHole {
					n.blocks[i] = blockEither
				}
			}
			p.mark(n, off, end, blockWritten)
		}
		return fmt.Sprintf("store %d+%d", off, len(b)), err
	case 8, 9:
		if err = x.f.Truncate(off); err == nil {
			if off != int64(len(n.data)) {
				p.modified(n, x.c)
			}
			p.grow(n, off)
			n.data = n.data[:off:off]
			p.fit(n)
		}
		return fmt.Sprintf("truncate %d", off), err
	case 10, 11:
		if err = x.f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, off, size*3); err == nil {
			p.modified(n, x.c)
			if end, have := off+size*3, int64(len(n.data)); off < have {
				clear(n.data[off:min(have, end)])
				p.markWhole(n, off, end, blockHole)
				if end >= have { // the block of the end may go with what lies behind it
					p.mark(n, have-1, have, blockEither)
				}
			}
		}
		return fmt.Sprintf("punch %d+%d", off, size*3), err
	case 12:
		if !p.extent {
			return "nothing", nil
		}
		if err = x.f.Fallocate(simkernel.FallocZeroRange, off, size*3); err == nil {
			p.modified(n, x.c)
			p.grow(n, off+size*3)
			clear(n.data[off : off+size*3])
			p.markWhole(n, off, off+size*3, blockHole)
		}
		return fmt.Sprintf("zero %d+%d", off, size*3), err
	case 13:
		if !p.extent {
			return "nothing", nil
		}
		mode := uint32(p.rng.IntN(2)) * simkernel.FallocKeepSize
		if err = x.f.Fallocate(mode, off, size*3); err == nil {
			p.modified(n, x.c)
			if mode == 0 {
				p.grow(n, off+size*3)
			}
		}
		return fmt.Sprintf("fallocate %#x %d+%d", mode, off, size*3), err
	case 14:
		return "fsync", x.f.Fsync(p.rng.IntN(2) == 0)
	case 15:
		y := p.files[(i+1)%len(p.files)]
		if y.n == n || len(y.n.data) == 0 {
			return "nothing", nil
		}
		from := p.rng.Int64N(int64(len(y.n.data)))
		size = min(size, int64(len(y.n.data))-from)
		k, err := p.k.CopyFileRange(y.f, from, x.f, off, size)
		if err == nil && k != size {
			err = fmt.Errorf("copied %d of %d bytes", k, size)
		}
		if err == nil {
			p.accessed(y.n, p.atime)
			wrote(off, slices.Clone(y.n.data[from:from+k]))
			p.mark(n, off, off+k, blockEither)
		}
		return fmt.Sprintf("copy %d from %d of another to %d", k, from, off), err
	case 16:
		got := make([]byte, size)
		k, err := x.f.ReadAt(got, off)
		if err == nil {
			p.accessed(n, p.atime)
			have := int64(len(n.data))
			err = differ(got[:k], n.data[min(off, have):min(off+size, have)])
		}
		return fmt.Sprintf("read %d+%d", off, size), err
	case 17:
		f, got := x.f, make([]byte, (size+511)/512*512)
		if x.d != nil && p.rng.IntN(2) == 0 {
			f, off = x.d, off/512*512
		}
		k, err := f.ReadNowait(got, off)
		p.accessed(n, p.atime)
		if have := int64(len(n.data)); k > 0 {
			err = differ(got[:k], n.data[min(off, have):min(off+int64(k), have)])
		}
		if errors.Is(err, unix.EAGAIN) {
			err = nil
		}
		return fmt.Sprintf("read %d+%d without waiting: %d", off, len(got), k), err
	case 18:
		return "seek", p.compareHoles(x)
	}
	return "close", p.close(i)
}

// compareContents reads what is open, without leaving a trace.
func (p *treeProgram) compareContents(x *treeFile) error {
	f := x.look
	if f == nil || x.n.opens == 0 {
		return nil
	}
	if f.Size() != int64(len(x.n.data)) {
		return fmt.Errorf("size is %d, want %d", f.Size(), len(x.n.data))
	}
	got := make([]byte, len(x.n.data)+10)
	n, err := f.ReadAt(got, 0)
	if err != nil {
		return err
	}
	return differ(got[:n], x.n.data)
}

// compareHoles compares what SEEK_DATA, SEEK_HOLE and FIEMAP say of x with what was
// written: first with all that the page cache has, where a block with other bytes
// than zeros must be data, and then of the device alone, where it is certain.
func (p *treeProgram) compareHoles(x *treeFile) error {
	n := x.n
	for _, dropped := range []bool{false, true} {
		if dropped {
			if err := x.f.Drop(); err != nil {
				return err
			}
		}
		data, err := p.holes(n, x.f.Seek)
		if err == nil {
			err = p.judgeHoles(n, data, dropped && !p.inline)
		}
		if err != nil {
			return err
		}
	}
	if p.inline {
		return nil
	}
	extents, err := x.f.Fiemap(0, int64(len(n.data)), true)
	if err != nil {
		return err
	}
	mapped := make([]bool, len(n.blocks))
	for _, e := range extents {
		for i := e.Offset / uint64(p.bs); i*uint64(p.bs) < e.Offset+e.Length && i < uint64(len(mapped)); i++ {
			mapped[i] = e.Type == iomap.TypeMapped
		}
	}
	for i, state := range n.blocks {
		if state != blockEither && mapped[i] != (state == blockWritten) {
			return fmt.Errorf("block %d of %d: FIEMAP says mapped %t, want %t", i, len(n.blocks), mapped[i], !mapped[i])
		}
	}
	return nil
}

// holes asks seek which blocks of n have data.
func (p *treeProgram) holes(n *treeNode, seek func(off int64, whence int) (int64, error)) ([]bool, error) {
	data := make([]bool, len(n.blocks))
	for off := int64(0); off < int64(len(n.data)); {
		from, err := seek(off, simkernel.SeekData)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil || from < off {
			return nil, fmt.Errorf("SEEK_DATA at %d: %d, %w", off, from, err)
		}
		to, err := seek(from, simkernel.SeekHole)
		if err != nil || to <= from {
			return nil, fmt.Errorf("SEEK_HOLE at %d: %d, %w", from, to, err)
		}
		for i := from / p.bs; i*p.bs < to; i++ {
			data[i] = true
		}
		off = to
	}
	return data, nil
}

// judgeHoles compares which blocks have data with what was written to n. It is
// certain where nothing is in the page cache.
func (p *treeProgram) judgeHoles(n *treeNode, data []bool, certain bool) error {
	for i, state := range n.blocks {
		block := n.data[int64(i)*p.bs : min(int64(i+1)*p.bs, int64(len(n.data)))]
		nothing := bytes.Count(block, []byte{0}) == len(block)
		switch {
		case !data[i] && (!nothing || certain && state == blockWritten):
			return fmt.Errorf("block %d of %d was written, and SEEK says that it is a hole", i, len(n.blocks))
		case data[i] && certain && state == blockHole:
			return fmt.Errorf("block %d of %d was not written, and SEEK says that it has data", i, len(n.blocks))
		}
	}
	return nil
}

// compare compares the whole tree as processes see it.
func (p *treeProgram) compare() error {
	var first error
	p.root.walk(p.base, func(path string, n *treeNode) {
		if first == nil {
			if err := p.compareNode(path, n); err != nil {
				first = fmt.Errorf("%q: %w", path, err)
			}
		}
	})
	return first
}

func (p *treeProgram) compareNode(path string, n *treeNode) error {
	a, err := p.k.Stat(rootCred, path)
	if err != nil {
		return err
	}
	if err := n.compareStat(a); err != nil {
		return err
	}
	switch n.typ {
	case unix.S_IFDIR:
		names, err := p.k.Readdir(rootCred, path)
		slices.Sort(names)
		if n == p.root && p.base == "" {
			names = slices.DeleteFunc(names, func(s string) bool { return s == "lost+found" })
		}
		if want := slices.Sorted(maps.Keys(n.children)); err != nil || !slices.Equal(names, want) {
			return fmt.Errorf("has names %q, want %q: %w", names, want, err)
		}
		p.accessed(n, simkernel.RelativeAtime)
	case unix.S_IFLNK:
		if target, err := p.k.Readlink(rootCred, path); err != nil || target != n.target {
			return fmt.Errorf("leads to %q, want %q: %w", target, n.target, err)
		}
		p.accessed(n, simkernel.RelativeAtime)
		return nil
	case unix.S_IFREG:
		f, err := p.k.Open(rootCred, path, unix.O_RDONLY|unix.O_NOATIME, 0)
		if err != nil {
			return err
		}
		got := make([]byte, len(n.data)+10)
		k, err := f.ReadAt(got, 0)
		if err == nil {
			err = differ(got[:k], n.data)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return p.compareXattrs(path, n)
}

func (n *treeNode) compareStat(a simkernel.Attr) error {
	size := a.Size
	switch n.typ {
	case unix.S_IFREG:
		size = uint64(len(n.data))
	case unix.S_IFLNK:
		size = uint64(len(n.target))
	}
	got := fmt.Sprintf("mode %o, owner %d:%d, links %d, size %d, atime %v, mtime %v, ctime %v", a.Mode, a.UID, a.GID, a.Nlink, a.Size, a.Atime, a.Mtime, a.Ctime)
	want := fmt.Sprintf("mode %o, owner %d:%d, links %d, size %d, atime %v, mtime %v, ctime %v", n.typ|n.mode, n.uid, n.gid, n.nlink, size, n.atime, n.mtime, n.ctime)
	if got != want {
		return fmt.Errorf("is\n\t%s\nwant\n\t%s", got, want)
	}
	return nil
}

// allXattrs are the attributes that listxattr and getxattr show, ACLs among them.
func (n *treeNode) allXattrs() map[string]string {
	want := maps.Clone(n.xattrs)
	if n.access != nil {
		want[simkernel.ACLAccess] = string(disk.WireACL(n.access))
	}
	if n.deflt != nil {
		want[simkernel.ACLDefault] = string(disk.WireACL(n.deflt))
	}
	return want
}

func (p *treeProgram) compareXattrs(path string, n *treeNode) error {
	want := n.allXattrs()
	names, err := p.k.Listxattr(rootCred, path)
	if sorted := slices.Sorted(maps.Keys(want)); err != nil || !slices.Equal(names, sorted) {
		return fmt.Errorf("has xattrs %q, want %q: %w", names, sorted, err)
	}
	for name, value := range want {
		if got, err := p.k.Getxattr(rootCred, path, name); err != nil || string(got) != value {
			return fmt.Errorf("xattr %s is %q, want %q: %w", name, got, value, err)
		}
	}
	for name, acl := range map[string][]disk.ACLEntry{simkernel.ACLAccess: n.access, simkernel.ACLDefault: n.deflt} {
		if got, err := p.k.GetACL(rootCred, path, name); err != nil || !slices.Equal(got, toKernel(acl)) {
			return fmt.Errorf("%s is %v, want %v: %w", name, got, acl, err)
		}
	}
	return nil
}

// compareLookups compares how often the server thinks that the kernel knows each
// inode with the kernel's own count.
func (p *treeProgram) compareLookups() error {
	var got, want map[uint64]uint64
	for range 200 { // FORGET has no answer to wait for
		want, got = p.k.Lookups(), map[uint64]uint64{}
		nodes := p.s.raw.nodes
		nodes.mu.Lock()
		for ino, count := range nodes.counts {
			got[nodeOf(ino)] = count
		}
		nodes.mu.Unlock()
		if maps.Equal(got, want) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("lookups by node: the server counts %v, the kernel %v", got, want)
}

// onDevice compares with what the file system on dev has, when nothing is in
// memory any more.
func (p *treeProgram) onDevice(dev blockdev.Device) error {
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return err
	}
	defer fs.Close()
	var first error
	p.root.walk(p.base, func(path string, n *treeNode) {
		if first != nil {
			return
		}
		in, err := fs.Resolve("/"+path, false)
		if err == nil {
			t := func(t disk.Time) simkernel.Time { return simkernel.Time{Sec: t.Sec, Nsec: t.Nsec} }
			st := in.Stat()
			err = n.compareStat(simkernel.Attr{
				Size: uint64(st.Size), Mode: st.Mode, UID: st.UID, GID: st.GID, Nlink: st.Nlink,
				Atime: t(st.Atime), Mtime: t(st.Mtime), Ctime: t(st.Ctime),
			})
		}
		if err == nil && isRegular(n) {
			var data []byte
			if data, err = readWhole(fs, "/"+path); err == nil {
				err = differ(data, n.data)
			}
		}
		if err == nil && n.typ != unix.S_IFLNK {
			for name, value := range n.allXattrs() {
				if got, xerr := in.Getxattr(name); xerr != nil || string(got) != value {
					err = fmt.Errorf("xattr %s is %q, want %q: %w", name, got, value, xerr)
				}
			}
		}
		if err != nil {
			first = fmt.Errorf("%q on the device: %w", path, err)
		}
	})
	return first
}

func newTreeProgram(m *mapped, clock *testClock, o simkernel.Options, kind, base string) *treeProgram {
	sb := m.fs.Super()
	p := &treeProgram{
		mapped: m, seed: o.Seed, rng: rand.New(rand.NewPCG(o.Seed, 23)), clock: clock, gran: 1, bs: int64(sb.BlockSize()), atime: o.Atime,
		base: base, alone: base == "", extent: sb.Incompat.Has(disk.IncompatExtents), inline: kind == "inline",
	}
	if sb.InodeSize == disk.GoodOldInodeSize {
		p.gran = 1e9
	}
	p.largest = max(simkernel.PageSize, p.bs)
	if o.LargeFolios {
		p.largest *= 16
	}
	a, err := m.k.Stat(rootCred, base)
	check(m.t, err)
	p.root = &treeNode{
		typ: unix.S_IFDIR, mode: a.Mode &^ unix.S_IFMT, nlink: a.Nlink, atime: a.Atime, mtime: a.Mtime, ctime: a.Ctime,
		xattrs: map[string]string{}, children: map[string]*treeNode{},
	}
	return p
}

// treeOptions are what kind of kernel, by seed.
func treeOptions(version iomap.Version, seed uint64, clock *testClock) simkernel.Options {
	return simkernel.Options{
		Version: version, Seed: seed, Unrest: []float64{0.2, 0, 0.5}[seed%3], Now: clock.now,
		LargeFolios: seed%2 == 1, CacheMax: []int{0, 256, 0, 1024}[seed/2%4], Lazytime: seed%4 >= 2, Atime: simkernel.Atime(seed % 3),
	}
}

// testTree runs one program, and compares with the model: through the kernel as it
// goes, with empty caches at its end, on the device, and through a kernel that mounts it
// read-only and gets mappings without a cache.
func testTree(t *testing.T, dev *blockdev.Mem, kind string, o simkernel.Options, clock *testClock, steps int) {
	t.Helper()
	m := mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)})
	p := newTreeProgram(m, clock, o, kind, "")
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d: %v\n%s\nbreaches: %v", o.Seed, err, strings.Join(p.log[max(0, len(p.log)-40):], "\n"), m.k.Breaches())
		}
	}
	fail(p.run(steps))
	fail(p.compareLookups())
	for len(p.files) > 0 {
		fail(p.close(0))
	}
	fail(p.k.Evict())
	fail(p.compareLookups())
	fail(p.compare())
	m.unmount()
	fail(p.onDevice(dev))
	fail(checkers(t, dev, false))
	if p.bs <= simkernel.PageSize && o.Seed < 4 { // the kernel can mount no larger blocks; some will do
		p.judgeKernel(t, dev)
	}

	o.Atime, o.Unrest = simkernel.NoAtime, 0
	m = mountMappedWith(t, dev, dev, dev, o, ext4.Options{}, &Options{Log: log.New(os.Stderr, "", 0), IomapNoCache: true})
	p.mapped = m
	fail(p.compare())
	m.unmount()
	if t.Failed() {
		t.Fatalf("seed %d", o.Seed)
	}
}

// TestMappedTree: names, links, modes, owners, times, xattrs, ACLs, holes and contents are those of a
// model in memory, whatever a kernel with fuse-iomap does in between.
func TestMappedTree(t *testing.T) {
	first, steps := uint64(0), 250
	if s := os.Getenv("E4GO_IOMAP_TREE"); s != "" {
		_, err := fmt.Sscan(s, &first, &steps)
		check(t, err)
	}
	var done atomic.Int64
	defer func() { t.Logf("%d operations", done.Load()) }()
	for _, kind := range treeKinds {
		for _, version := range []iomap.Version{iomap.V7, iomap.V8} {
			t.Run(fmt.Sprintf("%s/%s", kind.name, version), func(t *testing.T) {
				for seed := range seeds(t, 2) {
					seed = (first+seed)*2 + uint64(version)%2 // each does what the other does not
					dev := mkfsMem(t, kind.size<<20, kind.args)
					clock := &testClock{t: time.Unix(2_000_000_000, 987_654_321)}
					testTree(t, dev, kind.name, treeOptions(version, seed, clock), clock, steps)
					done.Add(int64(steps))
				}
			})
		}
	}
}

// TestMappedTreeTogether: the same with several programs at once, each in a directory of its own.
func TestMappedTreeTogether(t *testing.T) {
	for _, kind := range mappedKinds {
		t.Run(kind.name, func(t *testing.T) {
			for seed := range seeds(t, 1) {
				clock := &testClock{t: time.Unix(2_000_000_000, 987_654_321)}
				o := treeOptions(iomap.V8, seed, clock)
				dev := mkfsMem(t, kind.size<<20, kind.args)
				m := mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)})
				var programs []*treeProgram
				for i := range 4 {
					base := fmt.Sprintf("/p%d", i)
					check(t, m.k.Mkdir(rootCred, base, 0o755))
					o.Seed = seed*4 + uint64(i)
					programs = append(programs, newTreeProgram(m, clock, o, kind.name, base))
				}
				var wg sync.WaitGroup
				for _, p := range programs {
					wg.Go(func() {
						err := p.run(120)
						for len(p.files) > 0 {
							err = errors.Join(err, p.close(0))
						}
						if err != nil {
							t.Errorf("seed %d: %v\n%s", p.seed, err, strings.Join(p.log[max(0, len(p.log)-40):], "\n"))
						}
					})
				}
				wg.Wait()
				check(t, m.k.Evict())
				for _, p := range programs {
					check(t, errors.Join(p.compare(), p.compareLookups()))
				}
				m.unmount()
				for _, p := range programs {
					check(t, p.onDevice(dev))
				}
				check(t, checkers(t, dev, false))
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

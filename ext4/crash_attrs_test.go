package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// randomAttr changes what a file is rather than what it holds.
func (r *crashRun) randomAttr() {
	r.t.Helper()
	dirs := r.rng.IntN(3) == 0
	at := r.pick(r.paths(func(_ string, n *modelNode) bool { return !dirs || n.mode.Type() == disk.ModeDir }))
	n := *r.now().node(at)
	link, dir := n.mode.Type() == disk.ModeLink, n.mode.Type() == disk.ModeDir
	switch k := r.rng.IntN(12); {
	case k < 5:
		r.xattr(at, n)
	case k == 5 && !link:
		r.acl(at, n, accessACL)
	case k == 6 && dir:
		r.acl(at, n, defaultACL)
	case k == 7 && !link:
		perm := []disk.Mode{0o600, 0o640, 0o755, 0o711, 0o444}[r.rng.IntN(5)]
		n.chmod(perm)
		r.setAttr(fmt.Sprintf("chmod %s %#o", at, perm), at, n, SetAttr{Mode: &perm})
	case k == 8:
		n.uid, n.gid = uint32(r.rng.IntN(4))*1000, uint32(r.rng.IntN(3))*70_000
		if !dir {
			n.setXattr(capability, nil)
		}
		a := SetAttr{UID: &n.uid, GID: &n.gid}
		if r.fs.sb.ROCompat.Has(disk.ROCompatProject) {
			n.project = uint32(r.rng.IntN(3))
			a.Project = &n.project
		}
		r.setAttr(fmt.Sprintf("chown %s %d %d %d", at, n.uid, n.gid, n.project), at, n, a)
	case k == 9 && (dir || n.mode.Type() == disk.ModeReg):
		n.flags ^= []disk.FileFlags{disk.FlagNodump, disk.FlagNoatime}[r.rng.IntN(2)]
		if dir && at != "/" && r.fs.sb.Incompat.Has(disk.IncompatCasefold) && len(r.now().under(at)) == 0 {
			n.flags ^= disk.FlagCasefold
		}
		in, err := r.fs.Resolve(at, false)
		if err != nil {
			r.t.Fatal(err)
		}
		flags := in.Stat().Flags&disk.FlagExtents | n.flags
		r.setAttr(fmt.Sprintf("flags %s %#x", at, uint32(flags)), at, n, SetAttr{Flags: &flags})
	case k >= 10:
		r.fsync(at)
	}
}

func (r *crashRun) setAttr(what, at string, n modelNode, a SetAttr) {
	r.t.Helper()
	r.step(what, func(s *modelState) { s.set(n) }, func() error { return r.fs.SetAttr(context.Background(), Root, r.ino(at), a) })
}

// xattr sets or removes an xattr, if there is room for it. Few values make
// blocks and EA inodes that files share; the large ones need inodes of their own.
func (r *crashRun) xattr(at string, n modelNode) {
	r.t.Helper()
	names := []string{"trusted.a", "security.b", "trusted." + strings.Repeat("n", 100)}
	switch n.mode.Type() {
	case disk.ModeReg:
		names = append(names, capability, "user.c", "user.d")
	case disk.ModeDir:
		names = append(names, "user.c", "user.d")
	}
	name := r.pick(names)
	sizes := []int{0, 5, 40, 150, 700, 3000, 20_000, 60_000}
	if !r.fs.sb.Incompat.Has(disk.IncompatEAInode) {
		sizes = sizes[:6]
	}
	size := sizes[r.rng.IntN(len(sizes))]
	value := bytes.Repeat([]byte{byte('a' + r.rng.IntN(3))}, size)
	if _, ok := n.xattrs[name]; ok && r.rng.IntN(3) == 0 {
		value = nil
	}
	n.setXattr(name, value)
	what := fmt.Sprintf("xattr %s %s %d", at, name, size)
	if value == nil {
		what = fmt.Sprintf("remove xattr %s %s", at, name)
	}
	r.step(what, func(s *modelState) { s.set(n) }, func() error {
		if value == nil {
			return r.fs.Removexattr(context.Background(), Root, r.ino(at), name)
		}
		err := r.fs.Setxattr(context.Background(), Root, r.ino(at), name, value, 0)
		if errors.Is(err, unix.ENOSPC) {
			return errNotDone
		}
		return err
	})
}

// acl sets or removes an ACL.
func (r *crashRun) acl(at string, n modelNode, name string) {
	r.t.Helper()
	perm := func() string { return []string{"rwx", "rw-", "r-x", "r--", "---"}[r.rng.IntN(5)] }
	value := wire(fmt.Sprintf("u::%s u:7:%s g::%s m::%s o::%s", perm(), perm(), perm(), perm(), perm()))
	if _, ok := n.xattrs[name]; ok && r.rng.IntN(3) == 0 {
		n.setXattr(name, nil)
		r.step("remove "+name+" "+at, func(s *modelState) { s.set(n) }, func() error {
			return r.fs.Removexattr(context.Background(), Root, r.ino(at), name)
		})
		return
	}
	if n.setXattr(name, value); name == accessACL {
		n.setACL(value)
	}
	r.step("set "+name+" "+at, func(s *modelState) { s.set(n) }, func() error {
		err := r.fs.Setxattr(context.Background(), Root, r.ino(at), name, value, 0)
		if errors.Is(err, unix.ENOSPC) {
			return errNotDone
		}
		return err
	})
}

package simkernel

import (
	"errors"
	"slices"
	"strings"
	"syscall"
)

// The calls that name files. Paths are absolute.

// Mkdir makes a directory.
func (k *Kernel) Mkdir(c Cred, path string, mode uint32) error {
	return k.make(c, opMkdir, path, syscall.S_IFDIR|mode, func(w *builder, mode uint32, name string) {
		w.u32(mode &^ syscall.S_IFDIR).u32(c.Umask).name(name)
	})
}

// Mknod makes a file of the type in mode.
func (k *Kernel) Mknod(c Cred, path string, mode, rdev uint32) error {
	return k.make(c, opMknod, path, mode, func(w *builder, mode uint32, name string) {
		w.u32(mode).u32(rdev).u32(c.Umask).u32(0).name(name)
	})
}

// Symlink makes a symbolic link to target.
func (k *Kernel) Symlink(c Cred, target, path string) error {
	return k.make(c, opSymlink, path, syscall.S_IFLNK, func(w *builder, _ uint32, name string) { w.name(name).name(target) })
}

func (k *Kernel) make(c Cred, op uint32, path string, mode uint32, body func(w *builder, mode uint32, name string)) error {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return err
	}
	dir.rw.Lock()
	defer dir.rw.Unlock()
	if _, err := k.lookup(c, dir, name); err == nil {
		return syscall.EEXIST
	} else if !errors.Is(err, syscall.ENOENT) {
		return err
	}
	var access, deflt ACL
	if mode&syscall.S_IFMT != syscall.S_IFLNK {
		if mode, access, deflt, err = k.newACLs(c, dir, mode); err != nil {
			return err
		}
	}
	w := msg()
	body(w, mode, name)
	out, err := k.call(op, dir.nodeid, c, w.b)
	if err != nil {
		return err
	}
	e, err := readEntry(out)
	if err != nil {
		return err
	}
	in, err := k.named(dir, name, e)
	if err != nil {
		return err
	}
	return in.initACLs(c, access, deflt)
}

// Readlink returns a symbolic link's target.
func (k *Kernel) Readlink(c Cred, path string) (string, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return "", err
	}
	out, err := k.call(opReadlink, in.nodeid, c, nil)
	return string(out), err
}

// Link gives the file at path another name.
func (k *Kernel) Link(c Cred, path, to string) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	return k.linkInode(c, in, to)
}

// LinkFile gives an open file a name (AT_EMPTY_PATH).
func (k *Kernel) LinkFile(f *File, to string) error { return k.linkInode(f.cred, f.in, to) }

func (k *Kernel) linkInode(c Cred, in *inode, to string) error {
	dir, name, err := k.parent(c, to)
	if err != nil {
		return err
	}
	out, err := k.call(opLink, dir.nodeid, c, msg().u64(in.nodeid).name(name).b)
	if err != nil {
		return err
	}
	e, err := readEntry(out)
	if err != nil {
		return err
	}
	if e.nodeid != in.nodeid {
		return k.breach(errors.New("LINK: the reply names another node"))
	}
	if _, err := k.named(dir, name, e); err != nil {
		return err
	}
	in.stamp(c, false)
	return in.flushTimes()
}

// Unlink removes a name. The victim's ctime follows as a SETATTR.
func (k *Kernel) Unlink(c Cred, path string) error { return k.remove(c, opUnlink, path) }

// Rmdir removes an empty directory.
func (k *Kernel) Rmdir(c Cred, path string) error { return k.remove(c, opRmdir, path) }

func (k *Kernel) remove(c Cred, op uint32, path string) error {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return err
	}
	dir.rw.Lock()
	defer dir.rw.Unlock()
	in, err := k.lookup(c, dir, name)
	if err == nil {
		err = in.mayRemove(op == opRmdir)
	}
	if err != nil {
		return err
	}
	if _, err := k.call(op, dir.nodeid, c, msg().name(name).b); err != nil {
		return err
	}
	k.forgetName(dir, name)
	return in.dropped(c)
}

// mayRemove is what may_delete says of the victim's type.
func (in *inode) mayRemove(asDir bool) error {
	switch {
	case asDir && in.typ != syscall.S_IFDIR:
		return syscall.ENOTDIR
	case !asDir && in.typ == syscall.S_IFDIR:
		return syscall.EISDIR
	}
	return nil
}

// dropped is what follows when a name of in is gone.
func (in *inode) dropped(c Cred) error {
	in.mu.Lock()
	if in.nlink > 0 {
		in.nlink--
	}
	if in.typ == syscall.S_IFDIR {
		in.nlink = 0
	}
	gone := in.nlink == 0 && in.opens == 0
	in.mu.Unlock()
	in.stamp(c, false)
	if err := in.flushTimes(); err != nil {
		return err
	}
	if gone {
		return in.evict()
	}
	return nil
}

// Flags of renameat2.
const (
	RenameNoReplace = 1 << 0
	RenameExchange  = 1 << 1
	RenameWhiteout  = 1 << 2
)

// Rename moves a name, with renameat2's flags. Directories that would come
// into themselves do not get as far as the server.
func (k *Kernel) Rename(c Cred, from, to string, flags uint32) error {
	fromDir, fromName, err := k.parent(c, from)
	if err != nil {
		return err
	}
	toDir, toName, err := k.parent(c, to)
	if err != nil {
		return err
	}
	exchange := flags&RenameExchange != 0
	in, err := k.lookup(c, fromDir, fromName)
	if err != nil {
		return err
	}
	victim, err := k.lookup(c, toDir, toName)
	switch {
	case err != nil && !errors.Is(err, syscall.ENOENT):
		return err
	case err != nil && exchange:
		return err
	case err == nil && flags&RenameNoReplace != 0:
		return syscall.EEXIST
	case strings.HasPrefix(to, from+"/"), exchange && strings.HasPrefix(from, to+"/"):
		return syscall.EINVAL
	case strings.HasPrefix(from, to+"/"):
		return syscall.ENOTEMPTY
	case victim == in:
		return nil // two names of one file
	}
	if victim != nil && !exchange {
		if err := victim.mayRemove(in.typ == syscall.S_IFDIR); err != nil {
			return err
		}
	}
	if _, err := k.call(opRename2, fromDir.nodeid, c, msg().u64(toDir.nodeid).u32(flags).u32(0).name(fromName).name(toName).b); err != nil {
		return err
	}
	k.moveName(fromDir, fromName, toDir, toName, exchange)
	in.stamp(c, false)
	if err := in.flushTimes(); err != nil {
		return err
	}
	if victim == nil {
		return nil
	}
	if exchange {
		victim.stamp(c, false)
		return victim.flushTimes()
	}
	return victim.dropped(c)
}

// Readdir lists a directory with READDIRPLUS, and takes every entry in core.
func (k *Kernel) Readdir(c Cred, path string) ([]string, error) {
	dir, err := k.walkTo(c, path)
	if err != nil {
		return nil, err
	}
	out, err := k.call(opOpendir, dir.nodeid, c, msg().u32(0).u32(0).b)
	if err != nil {
		return nil, err
	}
	o, err := readOpen(out)
	if err != nil {
		return nil, err
	}
	defer k.call(opReleasedir, dir.nodeid, c, msg().u64(o.fh).u32(0).u32(0).u64(0).b)
	var names []string
	for off := uint64(0); ; {
		out, err := k.call(opReaddirplus, dir.nodeid, c, msg().u64(o.fh).u64(off).u32(PageSize).u32(0).u64(0).u32(0).u32(0).b)
		if err != nil {
			return names, err
		}
		if len(out) == 0 {
			return names, nil
		}
		for len(out) > 0 {
			const dirent = 24
			if len(out) < entrySize+dirent {
				return names, syscall.EIO
			}
			e, err := readEntry(out)
			if err != nil {
				return names, err
			}
			n := int(le.Uint32(out[entrySize+16:]))
			size := (entrySize + dirent + n + 7) / 8 * 8
			if n == 0 || size > len(out) {
				return names, syscall.EIO
			}
			off = le.Uint64(out[entrySize+8:])
			name := string(out[entrySize+dirent : entrySize+dirent+n])
			if name != "." && name != ".." {
				names = append(names, name)
				if e.nodeid != 0 {
					if _, err := k.named(dir, name, e); err != nil {
						return names, err
					}
				}
			}
			out = out[size:]
		}
	}
}

// Setxattr sets an attribute that is no ACL.
func (k *Kernel) Setxattr(c Cred, path, name string, value []byte) error {
	return k.xattr(c, path, opSetxattr, k.setxattr(name, value, 0))
}

// setxattr is struct fuse_setxattr_in and what follows it.
func (k *Kernel) setxattr(name string, value []byte, flags uint32) []byte {
	w := msg().u32(uint32(len(value))).u32(0)
	if k.xattrExt {
		w.u32(flags).u32(0)
	}
	return w.name(name).raw(value).b
}

// Removexattr removes one.
func (k *Kernel) Removexattr(c Cred, path, name string) error {
	return k.xattr(c, path, opRemovexattr, msg().name(name).b)
}

// xattr changes an attribute, which the kernel dates itself for a file whose times it keeps.
func (k *Kernel) xattr(c Cred, path string, op uint32, body []byte) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	if _, err = k.call(op, in.nodeid, c, body); err == nil {
		in.stamp(c, false)
	}
	return err
}

// Getxattr returns an attribute.
func (k *Kernel) Getxattr(c Cred, path, name string) ([]byte, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return nil, err
	}
	return k.call(opGetxattr, in.nodeid, c, msg().u32(64<<10).u32(0).name(name).b)
}

// Listxattr returns the names of the attributes, in order.
func (k *Kernel) Listxattr(c Cred, path string) ([]string, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return nil, err
	}
	out, err := k.call(opListxattr, in.nodeid, c, msg().u32(64<<10).u32(0).b)
	if err != nil {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if len(out) == 0 {
		return nil, nil
	}
	slices.Sort(names)
	return names, nil
}

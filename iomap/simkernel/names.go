package simkernel

import (
	"errors"
	"strings"
	"syscall"

	"e4go/iomap"
)

// The calls that name files. Paths are absolute; each component is looked up
// each time.

func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

// walkTo returns the inode that path names, without following a symbolic link.
func (k *Kernel) walkTo(c Cred, path string) (*inode, error) {
	k.mu.Lock()
	in := k.inodes[rootID]
	k.mu.Unlock()
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		var err error
		if in, err = k.lookup(c, in, name); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func (k *Kernel) lookup(c Cred, dir *inode, name string) (*inode, error) {
	out, err := k.call(opLookup, dir.nodeid, c, msg().name(name).b)
	if err != nil {
		return nil, err
	}
	e, err := readEntry(out)
	if err != nil {
		return nil, err
	}
	return k.instantiate(e)
}

// parent returns the directory of path and the last name of it.
func (k *Kernel) parent(c Cred, path string) (*inode, string, error) {
	dir, name := split(path)
	in, err := k.walkTo(c, dir)
	return in, name, err
}

// File is an open file.
type File struct {
	k      *Kernel
	in     *inode
	fh     uint64
	flags  uint32 // of open(2)
	direct bool   // the server said FOPEN_DIRECT_IO
	cred   Cred
}

// Open opens path; with O_CREAT it is made, if need be, with mode.
func (k *Kernel) Open(c Cred, path string, flags int, mode uint32) (*File, error) {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return nil, err
	}
	if flags&syscall.O_CREAT != 0 { // nobody else makes it in between
		dir.rw.Lock()
		defer dir.rw.Unlock()
	}
	in, err := k.lookup(c, dir, name)
	switch {
	case err == nil && flags&syscall.O_CREAT != 0 && flags&syscall.O_EXCL != 0:
		return nil, syscall.EEXIST
	case errors.Is(err, syscall.ENOENT) && flags&syscall.O_CREAT != 0:
		return k.create(c, opCreate, dir, name, flags, mode)
	case err != nil:
		return nil, err
	}
	// Without ATOMIC_O_TRUNC, the truncation follows as a SETATTR.
	out, err := k.call(opOpen, in.nodeid, c, msg().u32(uint32(flags&^(syscall.O_CREAT|syscall.O_EXCL|syscall.O_TRUNC))).u32(0).b)
	if err != nil {
		return nil, err
	}
	o, err := readOpen(out)
	if err != nil {
		return nil, err
	}
	f, err := k.opened(c, in, o, flags)
	if err == nil && flags&syscall.O_TRUNC != 0 {
		err = in.truncate(0, nil)
	}
	return f, err
}

func (k *Kernel) create(c Cred, op uint32, dir *inode, name string, flags int, mode uint32) (*File, error) {
	if dir.exclusive && k.posixACL {
		mode &^= c.Umask // a default ACL would take its place: tests set none
	}
	w := msg().u32(uint32(flags)).u32(syscall.S_IFREG | mode).u32(c.Umask).u32(0)
	if op == opCreate {
		w.name(name)
	}
	out, err := k.call(op, dir.nodeid, c, w.b)
	if err != nil {
		return nil, err
	}
	e, err := readEntry(out)
	if err != nil {
		return nil, err
	}
	in, err := k.instantiate(e)
	if err != nil {
		return nil, err
	}
	o, err := readOpen(out[entrySize:])
	if err != nil {
		return nil, err
	}
	return k.opened(c, in, o, flags)
}

func (k *Kernel) opened(c Cred, in *inode, o opened, flags int) (*File, error) {
	if o.flags&fopenRefused != 0 && in.onIomap {
		return nil, k.breach(errors.Join(errors.New("OPEN: flags that a file on iomap cannot have"), syscall.EINVAL))
	}
	in.mu.Lock()
	in.opens++
	in.mu.Unlock()
	if o.flags&fopenKeepCache == 0 {
		in.reclaim()
	}
	return &File{k: k, in: in, fh: o.fh, flags: uint32(flags), direct: o.flags&fopenDirectIO != 0, cred: c}, nil
}

// Tmpfile opens a file without a name in dir.
func (k *Kernel) Tmpfile(c Cred, dir string, mode uint32) (*File, error) {
	in, err := k.walkTo(c, dir)
	if err != nil {
		return nil, err
	}
	return k.create(c, opTmpfile, in, "", syscall.O_RDWR, mode)
}

// Close writes the file back and closes it; the error is write-back's or
// FLUSH's. A file without a name goes with its last user.
func (f *File) Close() error {
	in, k := f.in, f.k
	err := in.sync()
	if e := in.takeError(); err == nil {
		err = e
	}
	if !k.noFlush.Load() {
		_, ferr := k.call(opFlush, in.nodeid, f.cred, msg().u64(f.fh).u32(0).u32(0).u64(0).b)
		if errors.Is(ferr, syscall.ENOSYS) {
			k.noFlush.Store(true)
		} else if err == nil {
			err = ferr
		}
	}
	k.call(opRelease, in.nodeid, f.cred, msg().u64(f.fh).u32(f.flags).u32(0).u64(0).b)
	in.mu.Lock()
	in.opens--
	gone := in.opens == 0 && in.nlink == 0
	in.mu.Unlock()
	if gone {
		if e := in.evict(); err == nil {
			err = e
		}
	}
	return err
}

// ReadAt reads up to len(p) bytes; fewer at the end of the file.
func (f *File) ReadAt(p []byte, pos int64) (int, error) {
	f.in.rw.RLock()
	defer f.in.rw.RUnlock()
	if f.flags&syscall.O_DIRECT != 0 || f.direct {
		n, err := f.in.directRead(p, pos)
		if !fallback(err) || f.direct {
			return n, err
		}
	}
	return f.in.bufferedRead(p, pos)
}

// WriteAt writes p, or appends it if the file is open so. Fewer bytes than
// asked for come without an error, as from write(2).
func (f *File) WriteAt(p []byte, pos int64) (int, error) { return f.write(p, pos, 0) }

// WriteNowait is a write that may not wait (RWF_NOWAIT).
func (f *File) WriteNowait(p []byte, pos int64) (int, error) { return f.write(p, pos, iomap.OpNowait) }

func (f *File) write(p []byte, pos int64, op iomap.Op) (int, error) {
	in := f.in
	in.rw.Lock()
	defer in.rw.Unlock()
	if f.flags&syscall.O_APPEND != 0 {
		pos = in.isize()
	}
	if pos >= in.k.maxBytes {
		return 0, syscall.EFBIG
	}
	p = p[:min(int64(len(p)), in.k.maxBytes-pos)]
	in.stamp(true)
	var n int
	var err error
	if f.flags&syscall.O_DIRECT != 0 || f.direct {
		n, err = in.directWrite(p, pos, op)
		if fallback(err) {
			if f.direct {
				return 0, syscall.EIO
			}
			n, err = in.bufferedWrite(p, pos, iomap.OpWrite|op)
			if err == nil {
				err = in.writeback(pos, pos+int64(n))
			}
		}
	} else {
		n, err = in.bufferedWrite(p, pos, iomap.OpWrite|op)
	}
	in.stir()
	if err == nil && f.flags&syscall.O_SYNC == syscall.O_SYNC {
		err = f.fsyncLocked(false)
	}
	return n, err
}

// WriteAtomic writes one block so that it does not tear.
func (f *File) WriteAtomic(p []byte, pos int64) (int, error) {
	f.in.rw.Lock()
	defer f.in.rw.Unlock()
	f.in.stamp(true)
	return f.in.atomicWrite(p, pos)
}

// Load reads through a memory mapping; it may read to the end of the last page.
func (f *File) Load(p []byte, pos int64) error { return f.in.faultRead(p, pos) }

// Store writes through a shared memory mapping.
func (f *File) Store(p []byte, pos int64) error {
	err := f.in.faultWrite(p, pos)
	f.in.stir()
	return err
}

// Truncate is ftruncate.
func (f *File) Truncate(size int64) error {
	err := f.in.truncate(size, &f.fh)
	f.in.stir()
	return err
}

// Fallocate is fallocate(2).
func (f *File) Fallocate(mode uint32, off, length int64) error {
	err := f.in.fallocate(mode, off, length, f.fh)
	f.in.stir()
	return err
}

// Fsync makes the file durable.
func (f *File) Fsync(dataOnly bool) error {
	f.in.rw.Lock()
	defer f.in.rw.Unlock()
	return f.fsyncLocked(dataOnly)
}

func (f *File) fsyncLocked(dataOnly bool) error {
	in, k := f.in, f.k
	werr := in.writeback(0, k.maxBytes)
	if e := in.takeError(); e != nil {
		werr = e
	}
	if werr != nil {
		return werr
	}
	if err := in.flushTimes(); err != nil {
		return err
	}
	if k.noFsync.Load() {
		return nil
	}
	flags := uint32(0)
	if dataOnly {
		flags = 1
	}
	_, err := k.call(opFsync, in.nodeid, f.cred, msg().u64(f.fh).u32(flags).u32(0).b)
	if errors.Is(err, syscall.ENOSYS) {
		k.noFsync.Store(true)
		return nil
	}
	return err
}

// Size returns i_size, which is what stat shows.
func (f *File) Size() int64 { return f.in.isize() }

// Drop writes the file back and drops its folios (POSIX_FADV_DONTNEED).
func (f *File) Drop() error {
	f.in.rw.Lock()
	defer f.in.rw.Unlock()
	err := f.in.writeback(0, f.k.maxBytes)
	f.in.reclaim()
	return err
}

// Stat is fstat: GETATTR, with the kernel's own size and times.
func (f *File) Stat() (Attr, error) { return f.in.getattr(f.cred) }

// Stat is lstat.
func (k *Kernel) Stat(c Cred, path string) (Attr, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return Attr{}, err
	}
	return in.getattr(c)
}

func (in *inode) getattr(c Cred) (Attr, error) {
	out, err := in.k.call(opGetattr, in.nodeid, c, msg().u32(0).u32(0).u64(0).b)
	if err != nil {
		return Attr{}, err
	}
	a, err := readAttrOut(out)
	if err != nil {
		return Attr{}, err
	}
	if err := in.apply(a); err != nil {
		return Attr{}, err
	}
	if in.onIomap {
		in.mu.Lock()
		a.Size, a.Mtime, a.Ctime, a.Atime = uint64(in.size), in.mtime, in.ctime, in.atime
		in.mu.Unlock()
	}
	return a, nil
}

// Truncate is truncate(2).
func (k *Kernel) Truncate(c Cred, path string, size int64) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	return in.truncate(size, nil)
}

// Chmod changes the permissions.
func (k *Kernel) Chmod(c Cred, path string, mode uint32) error {
	return k.setattr(c, path, setattr{valid: fattrMode, mode: mode})
}

// Chown changes owner and group.
func (k *Kernel) Chown(c Cred, path string, uid, gid uint32) error {
	return k.setattr(c, path, setattr{valid: fattrUID | fattrGID, uid: uid, gid: gid})
}

// Utimes sets the times.
func (k *Kernel) Utimes(c Cred, path string, atime, mtime Time) error {
	return k.setattr(c, path, setattr{valid: fattrAtime | fattrMtime, atime: atime, mtime: mtime})
}

func (k *Kernel) setattr(c Cred, path string, s setattr) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	if s.valid&fattrMode != 0 {
		in.mu.Lock()
		s.mode = s.mode&0o7777 | in.mode&syscall.S_IFMT
		in.mu.Unlock()
	}
	if in.onIomap {
		if err := in.sync(); err != nil {
			return err
		}
		in.mu.Lock()
		in.ctime = k.now()
		if s.valid&fattrMtime != 0 {
			in.mtime = s.mtime
		}
		if s.valid&fattrAtime != 0 {
			in.atime = s.atime
		}
		s.valid, s.ctime = s.valid|fattrCtime, in.ctime
		in.mu.Unlock()
	}
	out, err := k.call(opSetattr, in.nodeid, c, s.encode())
	if err != nil {
		return err
	}
	a, err := readAttrOut(out)
	if err != nil {
		return err
	}
	return in.apply(a)
}

// Mkdir makes a directory.
func (k *Kernel) Mkdir(c Cred, path string, mode uint32) error {
	return k.make(c, opMkdir, path, func(w *builder, name string) {
		w.u32(mode).u32(c.Umask).name(name)
	})
}

// Mknod makes a file of the type in mode.
func (k *Kernel) Mknod(c Cred, path string, mode, rdev uint32) error {
	return k.make(c, opMknod, path, func(w *builder, name string) {
		w.u32(mode).u32(rdev).u32(c.Umask).u32(0).name(name)
	})
}

// Symlink makes a symbolic link to target.
func (k *Kernel) Symlink(c Cred, target, path string) error {
	return k.make(c, opSymlink, path, func(w *builder, name string) { w.name(name).name(target) })
}

func (k *Kernel) make(c Cred, op uint32, path string, body func(w *builder, name string)) error {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return err
	}
	w := msg()
	body(w, name)
	out, err := k.call(op, dir.nodeid, c, w.b)
	if err != nil {
		return err
	}
	e, err := readEntry(out)
	if err != nil {
		return err
	}
	_, err = k.instantiate(e)
	return err
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
	if _, err := k.instantiate(e); err != nil {
		return err
	}
	in.stamp(false)
	return in.flushTimes()
}

// Unlink removes a name. The victim's ctime follows as a SETATTR.
func (k *Kernel) Unlink(c Cred, path string) error {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return err
	}
	in, err := k.lookup(c, dir, name)
	if err != nil {
		return err
	}
	if _, err := k.call(opUnlink, dir.nodeid, c, msg().name(name).b); err != nil {
		return err
	}
	return in.dropped()
}

// dropped is what follows when a name of in is gone.
func (in *inode) dropped() error {
	in.mu.Lock()
	if in.nlink > 0 {
		in.nlink--
	}
	gone := in.nlink == 0 && in.opens == 0
	in.mu.Unlock()
	in.stamp(false)
	if err := in.flushTimes(); err != nil {
		return err
	}
	if gone {
		return in.evict()
	}
	return nil
}

// Rmdir removes an empty directory.
func (k *Kernel) Rmdir(c Cred, path string) error {
	dir, name, err := k.parent(c, path)
	if err != nil {
		return err
	}
	_, err = k.call(opRmdir, dir.nodeid, c, msg().name(name).b)
	return err
}

// Rename moves a name, with renameat2's flags.
func (k *Kernel) Rename(c Cred, from, to string, flags uint32) error {
	fromDir, fromName, err := k.parent(c, from)
	if err != nil {
		return err
	}
	toDir, toName, err := k.parent(c, to)
	if err != nil {
		return err
	}
	in, err := k.lookup(c, fromDir, fromName)
	if err != nil {
		return err
	}
	victim, err := k.lookup(c, toDir, toName)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	if victim == in {
		return nil // the VFS: two names of one file
	}
	if _, err := k.call(opRename2, fromDir.nodeid, c, msg().u64(toDir.nodeid).u32(flags).u32(0).name(fromName).name(toName).b); err != nil {
		return err
	}
	const exchange = 2
	in.stamp(false)
	if err := in.flushTimes(); err != nil {
		return err
	}
	if victim != nil && flags&exchange == 0 {
		return victim.dropped()
	}
	return nil
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
					if _, err := k.instantiate(e); err != nil {
						return names, err
					}
				}
			}
			out = out[size:]
		}
	}
}

// Setxattr sets an attribute.
func (k *Kernel) Setxattr(c Cred, path, name string, value []byte) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	_, err = k.call(opSetxattr, in.nodeid, c, msg().u32(uint32(len(value))).u32(0).name(name).raw(value).b)
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

// Removexattr removes one.
func (k *Kernel) Removexattr(c Cred, path, name string) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	_, err = k.call(opRemovexattr, in.nodeid, c, msg().name(name).b)
	return err
}

package simkernel

import (
	"errors"
	"syscall"

	"e4go/iomap"
)

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
		err = in.truncate(c, 0, nil)
	}
	return f, err
}

func (k *Kernel) create(c Cred, op uint32, dir *inode, name string, flags int, mode uint32) (*File, error) {
	mode, access, deflt, err := k.newACLs(c, dir, syscall.S_IFREG|mode)
	if err != nil {
		return nil, err
	}
	w := msg().u32(uint32(flags)).u32(mode).u32(c.Umask).u32(0)
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
	var in *inode
	if op == opCreate {
		in, err = k.named(dir, name, e)
	} else {
		in, err = k.instantiate(e)
	}
	if err != nil {
		return nil, err
	}
	o, err := readOpen(out[entrySize:])
	if err != nil {
		return nil, err
	}
	f, err := k.opened(c, in, o, flags)
	if err != nil {
		return nil, err
	}
	if err := in.initACLs(c, access, deflt); err != nil {
		f.Close() // the caller has not got it, and the file stays
		return nil, err
	}
	return f, nil
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
func (f *File) ReadAt(p []byte, pos int64) (int, error) { return f.read(p, pos, 0) }

// ReadNowait is a read that may not wait (RWF_NOWAIT): through the page cache it gets
// what is there, or EAGAIN.
func (f *File) ReadNowait(p []byte, pos int64) (int, error) { return f.read(p, pos, iomap.OpNowait) }

func (f *File) read(p []byte, pos int64, op iomap.Op) (int, error) {
	f.in.rw.RLock()
	defer f.in.rw.RUnlock()
	if f.flags&syscall.O_DIRECT != 0 || f.direct {
		n, err := f.in.directRead(p, pos, op)
		if !fallback(err) || f.direct {
			f.in.accessed(f.cred, f.flags)
			return n, err
		}
	}
	n, err := f.in.bufferedRead(p, pos, op)
	f.in.accessed(f.cred, f.flags)
	return n, err
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
	if err := in.stripPrivileges(f.cred); err != nil {
		return 0, err
	}
	in.stamp(f.cred, true)
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
	f.in.stamp(f.cred, true)
	return f.in.atomicWrite(p, pos)
}

// Load reads through a memory mapping; it may read to the end of the last page.
func (f *File) Load(p []byte, pos int64) error { return f.in.faultRead(p, pos) }

// Store writes through a shared memory mapping.
func (f *File) Store(p []byte, pos int64) error {
	err := f.in.faultWrite(f.cred, p, pos)
	f.in.stir()
	return err
}

// Truncate is ftruncate.
func (f *File) Truncate(size int64) error {
	err := f.in.truncate(f.cred, size, &f.fh)
	f.in.stir()
	return err
}

// Fallocate is fallocate(2).
func (f *File) Fallocate(mode uint32, off, length int64) error {
	err := f.in.fallocate(f.cred, mode, off, length, f.fh)
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

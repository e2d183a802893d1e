package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Lock says whom [Open] keeps out, and who keeps it out.
//
// A regular file is locked with flock(2). The kernel takes no such lock on the
// image behind a loop device, so these devices are looked up as well. A block
// device is claimed with O_EXCL, as mount(2) claims it: there is one claim, so
// LockShared is as exclusive as LockExclusive.
type Lock int

const (
	LockNone      Lock = iota // nobody; Open does not refuse
	LockShared                // writers; refuses an image that a loop device has mounted read-write
	LockExclusive             // everybody; refuses an image that is attached to a loop device
)

// Options say how [Open] opens.
type Options struct {
	Write bool // otherwise the descriptor is O_RDONLY, and writes fail with [ErrReadOnly]
	Lock  Lock

	// Direct bypasses the page cache where memory, offset and length have
	// the alignment that the kernel wants. Reads that do not have it go
	// through the page cache; writes that do not have it fail with EINVAL.
	Direct bool
}

// A File is a regular file or a block device.
type File struct {
	f        *os.File // immutable
	buffered *os.File // immutable; with Direct, the same file without O_DIRECT, else nil
	path     string   // immutable
	size     int64    // immutable, bytes
	write    bool     // immutable
	block    bool     // immutable: a block device
}

// Open opens the regular file or block device at path. Anything else is
// refused with EISDIR or ENOTBLK, without waiting for the other end of a FIFO.
// What opts.Lock does not allow, or the kernel has claimed, is an *[InUseError].
func Open(path string, opts Options) (*File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := checkKind(&st); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	block := isBlock(&st)
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if opts.Write {
		flags = unix.O_RDWR | unix.O_CLOEXEC
	}
	if opts.Direct {
		flags |= unix.O_DIRECT
	}
	if !block {
		flags |= unix.O_NONBLOCK // a FIFO may have taken the file's place
	} else if opts.Lock != LockNone {
		flags |= unix.O_EXCL
	}
	fd, err := openRetry(path, flags)
	if block && errors.Is(err, unix.EBUSY) {
		return nil, &InUseError{Path: path, Holders: holders(&st), Err: err}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := &File{path: path, write: opts.Write, block: block}
	if err := f.init(fd, &st, opts); err != nil {
		f.Close()
		var inUse *InUseError
		if errors.As(err, &inUse) {
			return nil, err
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// NewFile returns the regular file f, which it takes over, as a device. path is what
// errors call it. Options but Write are not heeded: whoever made f holds it.
func NewFile(f *os.File, path string, opts Options) (*File, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return &File{f: f, path: path, size: size, write: opts.Write}, nil
}

// init makes f of fd, which it owns from now on: f.Close closes it.
func (f *File) init(fd int, st *unix.Stat_t, opts Options) error {
	nonblockErr := unix.SetNonblock(fd, false)
	f.f = os.NewFile(uintptr(fd), f.path)
	if nonblockErr != nil {
		return nonblockErr
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Dev != st.Dev || now.Ino != st.Ino || now.Rdev != st.Rdev || now.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT {
		return fmt.Errorf("another file took its place (inode %d, then %d): %w", st.Ino, now.Ino, unix.ESTALE)
	}
	if opts.Direct {
		b, err := openRetry(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			return err
		}
		f.buffered = os.NewFile(uintptr(b), f.path)
	}
	if !f.block {
		if err := f.lock(st, opts.Lock); err != nil {
			return err
		}
	}
	// stat(2) gives block devices no size; the end of both is found by seeking.
	size, err := f.f.Seek(0, io.SeekEnd)
	f.size = size
	return err
}

// lock takes the flock that l asks for, and asks the loop devices. st is f's.
func (f *File) lock(st *unix.Stat_t, l Lock) error {
	how := unix.LOCK_SH
	switch l {
	case LockNone:
		return nil
	case LockExclusive:
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.f.Fd()), how|unix.LOCK_NB)
	if err == nil {
		for _, h := range deviceHolders(st) {
			if l == LockExclusive || h.Mount != "" && !h.ReadOnly {
				err = unix.EBUSY
				break
			}
		}
	} else if !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock: %w", err)
	}
	if err == nil {
		return nil
	}
	f.Close() // so that we are not among the holders
	return &InUseError{Path: f.path, Holders: holders(st), Err: err}
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func isBlock(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFBLK }

// checkKind returns an error unless st is of a regular file or a block device.
func checkKind(st *unix.Stat_t) error {
	kind, errno := "a file of unknown type", unix.ENOTBLK
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK:
		return nil
	case unix.S_IFDIR:
		kind, errno = "a directory", unix.EISDIR
	case unix.S_IFCHR:
		kind = "a character device"
	case unix.S_IFIFO:
		kind = "a FIFO"
	case unix.S_IFSOCK:
		kind = "a socket"
	}
	return fmt.Errorf("it is %s, want a regular file or a block device: %w", kind, errno)
}

// ReadAt implements [Device].
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	q, eof := clip(p, off, f.size)
	if len(q) == 0 {
		return 0, eof
	}
	n, err := f.f.ReadAt(q, off)
	if f.buffered != nil && errors.Is(err, unix.EINVAL) {
		var m int
		m, err = f.buffered.ReadAt(q[n:], off+int64(n))
		n += m
	}
	if n == len(q) {
		err = eof
	}
	return n, err
}

// WriteAt implements [Device]. It never makes a regular file longer.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.checkWrite("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	if f.buffered != nil && errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%d bytes at %d are not aligned as direct I/O wants: %w", len(p), off, err)
	}
	return n, err
}

func (f *File) checkWrite(op string, off, n int64) error {
	err := checkRange(op, off, n, f.size)
	if !f.write {
		err = ErrReadOnly
	}
	if err != nil {
		return &os.PathError{Op: op, Path: f.path, Err: err}
	}
	return nil
}

// Flush implements [Device] with fsync(2), which empties a disk's cache as well.
func (f *File) Flush() error {
	if !f.write {
		return nil
	}
	return f.f.Sync()
}

// discardUnit is no smaller than any logical block: block devices refuse to
// punch parts of one.
const discardUnit = 4096

// Discard implements [Device] by punching a hole, where the file system or
// device can: the bytes of whole 4 KiB units then read as zeros.
func (f *File) Discard(off, n int64) error {
	if err := f.checkWrite("discard", off, n); err != nil {
		return err
	}
	if n < discardUnit {
		return nil
	}
	end := (off + n) / discardUnit * discardUnit
	off += -off & (discardUnit - 1)
	if off >= end {
		return nil
	}
	for {
		err := unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, end-off)
		switch err {
		case unix.EINTR:
			continue
		case nil, unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		}
		return &os.PathError{Op: "discard", Path: f.path, Err: err}
	}
}

// Size implements [Device]: the size when f was opened.
func (f *File) Size() int64 { return f.size }

// Fd returns the descriptor, which stays f's, for splice(2) and its kind.
func (f *File) Fd() uintptr { return f.f.Fd() }

// Path returns what was given to [Open].
func (f *File) Path() string { return f.path }

// Close gives up the lock and the descriptor. It does not flush.
func (f *File) Close() error {
	if f.buffered != nil {
		f.buffered.Close() // was only read from
	}
	return f.f.Close()
}

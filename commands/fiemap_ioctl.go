package commands

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FS_IOC_FIEMAP and struct fiemap, include/uapi/linux/fiemap.h.
const (
	fsIocFiemap     = 0xc020660b
	fiemapFlagSync  = 0x1 // FIEMAP_FLAG_SYNC: write dirty pages first, so that all is allocated
	fiemapFlagXattr = 0x2 // FIEMAP_FLAG_XATTR
	fiemapHeadSize  = 32
	fiemapExtSize   = 56
	fiemapBatch     = 512

	// fiemapMost is how many extents are taken from a kernel that does not end.
	fiemapMost = 16 << 20
)

// kernelFiemap asks the kernel where the bytes of the file at path lie. A file
// that changes meanwhile is asked about again.
func kernelFiemap(ctx context.Context, path string, q fiemapQuery) (fiemapAnswer, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fiemapAnswer{}, err
	}
	defer f.Close()
	const attempts = 3
	for i := 1; ; i++ {
		before, err := stamp(f)
		if err != nil {
			return fiemapAnswer{}, err
		}
		a, err := fiemapOnce(ctx, f, path, q)
		if err != nil {
			return a, err
		}
		after, err := stamp(f)
		if err != nil {
			return a, err
		}
		if before == after || i == attempts {
			return a, nil
		}
	}
}

// stamp is what changes when a file does.
func stamp(f *os.File) ([3]int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return [3]int64{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return [3]int64{st.Size, st.Ctim.Sec, st.Ctim.Nsec}, nil
}

func fiemapOnce(ctx context.Context, f *os.File, path string, q fiemapQuery) (fiemapAnswer, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fiemapAnswer{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	a := fiemapAnswer{size: uint64(st.Size), block: uint64(max(512, st.Blksize))}
	le := binary.LittleEndian
	flags := uint32(fiemapFlagSync)
	if q.xattr {
		flags |= fiemapFlagXattr
	}
	b := make([]byte, fiemapHeadSize+fiemapBatch*fiemapExtSize)
	for start := q.start; start < q.end() && len(a.extents) < fiemapMost; {
		if ctx.Err() != nil {
			return a, errInterrupted
		}
		clear(b)
		le.PutUint64(b[0:], start)
		length := q.end() - start
		if q.length == math.MaxUint64 {
			length = math.MaxUint64 - start
		}
		le.PutUint64(b[8:], length)
		le.PutUint32(b[16:], flags)
		le.PutUint32(b[24:], fiemapBatch)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&b[0])))
		if errno != 0 {
			return a, fiemapError(path, &st, flags, le.Uint32(b[16:]), errno)
		}
		n := min(le.Uint32(b[20:]), fiemapBatch)
		if n == 0 {
			return a, nil
		}
		last := uint32(0)
		next := start
		for i := range n {
			p := b[fiemapHeadSize+i*fiemapExtSize:]
			logical, physical, length := le.Uint64(p[0:]), le.Uint64(p[8:]), le.Uint64(p[16:])
			last = le.Uint32(p[40:])
			next = logical + length
			a.add(fiemapExtent(logical, physical, length, last))
		}
		if last&fiemapLast != 0 || next <= start {
			return a, nil
		}
		start = next
	}
	return a, nil
}

// fiemapError says what an errno of FIEMAP means.
func fiemapError(path string, st *unix.Stat_t, asked, left uint32, errno unix.Errno) error {
	err := error(&os.PathError{Op: "fiemap", Path: path, Err: errno})
	const enotsupp = unix.Errno(524) // the kernel's own, which some drivers let out
	switch {
	case errors.Is(errno, unix.EBADR):
		return &kernelError{fmt.Errorf("%w: the driver does not know flags %#x of %#x", err, left, asked), "without --xattr it may answer"}
	case errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EOPNOTSUPP), errno == enotsupp:
		m, merr := mountOf(uint64(st.Dev))
		if merr != nil {
			return &kernelError{err, "the driver of its file system has no FIEMAP"}
		}
		if m.isOurs() {
			image, err2 := m.device()
			if err2 != nil {
				image = m.source
			}
			return &kernelError{fmt.Errorf("%w: on a FUSE mount without fuse-iomap nobody is asked for FIEMAP", err),
				"e4go fiemap -i " + image + " " + fmt.Sprint(st.Ino) + " computes the answer from the image"}
		}
		return &kernelError{fmt.Errorf("%w: the driver of %s has no FIEMAP", err, m.fsType),
			"for an ext4 image, e4go fiemap -i IMAGE FILE computes the answer"}
	}
	return err
}

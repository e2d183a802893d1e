package fusesrv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func hasEncrypt(fs *ext4.FS) bool { return fs.Super().Incompat.Has(disk.IncompatEncrypt) }

// Open is declined, which makes the kernel keep pages and ask no more, unless
// the image may have encrypted files: these cannot be opened without a key, and
// we have none.
func (r *rawFS) Open(_ <-chan struct{}, i *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if r.declineOpen {
		return fuse.ENOSYS
	}
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	writes, flags := i.Flags&unix.O_ACCMODE != unix.O_RDONLY || i.Flags&unix.O_TRUNC != 0, in.Disk().Flags
	switch {
	case !r.fs.Writable() && writes:
		return fuse.EROFS
	case writes && (flags.Has(disk.FlagImmutable) || flags.Has(disk.FlagAppend) && i.Flags&(unix.O_APPEND|unix.O_TRUNC) != unix.O_APPEND):
		return fuse.EPERM // may_open
	case in.Type() == disk.ModeReg && flags.Has(disk.FlagEncrypt):
		return r.status(fmt.Errorf("open inode %d: %w", in.Ino(), unix.ENOKEY))
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if r.maps != nil {
		return r.status(r.maps.opened(in.Ino()))
	}
	return fuse.OK
}

// Flush is declined, which makes the kernel do without: otherwise every close
// is a request. A kernel that writes back itself has done so now.
func (r *rawFS) Flush(_ <-chan struct{}, i *fuse.FlushIn) fuse.Status {
	if r.maps == nil {
		return fuse.ENOSYS
	}
	return r.status(r.maps.settle(inoOf(i.NodeId)))
}

// Release has nothing to release, but what is kept for files with mappings.
func (r *rawFS) Release(_ <-chan struct{}, i *fuse.ReleaseIn) {
	if r.maps == nil {
		return
	}
	if err := r.maps.released(inoOf(i.NodeId)); err != nil {
		r.status(err) // which logs it; nobody waits for the answer
	}
}

// Read reads a file. What lies in one piece on the image goes from the image to
// the kernel without passing through our memory.
func (r *rawFS) Read(_ <-chan struct{}, i *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	in, err := r.inode(i.NodeId)
	if err != nil {
		return nil, r.status(err)
	}
	off := int64(i.Offset)
	if off < 0 {
		return nil, fuse.EINVAL
	}
	if r.maps.attrFlags(in)&attrIomap != 0 {
		return r.maps.readInline(in, buf, off)
	}
	r.ahead.read(in, off)
	r.atimes.accessed(in, i.Flags)
	if res := r.image.piece(in, off, len(buf)); res != nil {
		return res, fuse.OK
	}
	n, err := in.ReadAt(buf, off)
	if err != nil && err != io.EOF {
		return nil, r.status(err)
	}
	return bytesResult(buf[:n]), fuse.OK
}

// Lseek answers SEEK_DATA and SEEK_HOLE; the kernel deals with the rest. It asks
// before it has written back, and what is dirty in its cache must not pass for a hole: who
// copies a file would lose it. So a hole is written back before data are sought behind it.
// One that SEEK_HOLE finds need not be: whoever asks where it ends hears that it is none.
func (r *rawFS) Lseek(_ <-chan struct{}, i *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	seek := (*ext4.Inode).SeekData
	if i.Whence == unix.SEEK_HOLE {
		seek = (*ext4.Inode).SeekHole
	} else if i.Whence != unix.SEEK_DATA {
		return fuse.EINVAL
	}
	off := int64(i.Offset)
	at, err := seek(in, off)
	end := errors.Is(err, unix.ENXIO) // unless the kernel knows of more
	if r.invalidate != nil && off >= 0 && (end || err == nil && at > off && i.Whence == unix.SEEK_DATA) {
		// The kernel's answer is of no use: a page that was made dirty again
		// meanwhile is one that whoever asks comes too early for.
		r.invalidate(i.NodeId, off, max(at-off, 0))
		if in, err = r.inode(i.NodeId); err == nil {
			at, err = seek(in, off)
		}
	}
	if err != nil {
		return r.status(err)
	}
	out.Offset = uint64(at)
	return fuse.OK
}

// bytesResult answers a READ with bytes that live until the reply is sent. It
// has Slices, by which go-fuse writes it with one call; what it offers itself
// for bytes is put through a pipe first, and taken out again.
type bytesResult []byte

func (b bytesResult) Bytes([]byte) ([]byte, fuse.Status) { return b, fuse.OK }
func (b bytesResult) Size() int                          { return len(b) }
func (b bytesResult) Done()                              {}
func (b bytesResult) Slices() ([][]byte, fuse.Status)    { return [][]byte{b}, fuse.OK }

// minSplice is the size in bytes from which a splice through a pipe takes less
// time than copying twice.
const minSplice = 256 << 10

// An image is the descriptor below the file system, for reads that need
// nothing of it but bytes.
type image struct {
	fd        uintptr
	base      int64 // where the file system begins
	size      int64 // bytes that may be read, from the descriptor's start on
	blockBits uint
	max       int // bytes that one splice can carry; 0: none
}

func newImage(fs *ext4.FS, dev blockdev.Device) image {
	if dev == nil || fs.Device() != dev || fs.Writable() { // what lies there when the kernel reads may be another's
		return image{}
	}
	f, base := split(dev)
	if f == nil {
		return image{}
	}
	return image{
		fd: f.Fd(), base: base, size: base + fs.Device().Size(), blockBits: fs.Super().BlockBits(),
		max: maxPipe() - 2*os.Getpagesize(), // a page for the reply's header, one that go-fuse keeps free
	}
}

// maxPipe is the size in bytes of the largest pipe that anybody may make.
func maxPipe() int {
	b, err := os.ReadFile("/proc/sys/fs/pipe-max-size")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// piece returns the n bytes at off of the file, or those up to its end, if
// they lie in one written piece that is worth a splice; else nil.
func (im *image) piece(in *ext4.Inode, off int64, n int) fuse.ReadResult {
	size := in.Size()
	if off >= size || in.Type() != disk.ModeReg || in.Disk().Flags.Has(disk.FlagEncrypt) {
		return nil
	}
	n = int(min(int64(n), size-off))
	if n < minSplice || n > im.max || off>>im.blockBits > 1<<32-1 {
		return nil
	}
	m, err := in.Map(disk.LBlock(off >> im.blockBits))
	if err != nil || m.State != ext4.MapWritten || off+int64(n) > int64(m.End())<<im.blockBits {
		return nil
	}
	at := im.base + int64(m.Physical)<<im.blockBits + off - int64(m.Logical)<<im.blockBits
	if at+int64(n) > im.size {
		return nil
	}
	return fuse.ReadResultFd(im.fd, at, n)
}

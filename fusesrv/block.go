package fusesrv

import (
	"errors"
	"fmt"
	"math"
	"os"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What a mount by root has of a block device (type fuseblk) beside one without (type fuse):
//
//	umount(8) waits       the kernel sends DESTROY, and umount(2) returns when
//	                      it was answered: all is durable, the image is closed
//	sync, syncfs          reach us as SYNCFS (since Linux 6.18)
//	FIBMAP                reaches us as BMAP
//	nobody else           may mount the device or claim it, also when we are dead
//
// An image in a file, or a part of something, gets a loop device. That is for the kernel
// to hold; we read and write the image itself. It is cleared with its last user, the mount.

// A BlockChoice says whether a mount is one of a block device.
type BlockChoice int

const (
	BlockDefault BlockChoice = iota // where it is possible
	BlockNever
	BlockAlways // the mount fails otherwise
)

// split returns the file or block device that dev is or lies on, and where
// in it dev begins; nil if it is something else.
func split(dev blockdev.Device) (*blockdev.File, int64) {
	base := int64(0)
	if w, ok := dev.(*blockdev.Window); ok {
		base, dev = w.Offset(), w.Base()
	}
	f, ok := dev.(*blockdev.File)
	if !ok {
		return nil, 0
	}
	return f, base
}

// ErrClaimLost is returned by [Mount] when somebody else has claimed the block
// device while its claim was handed to the kernel: the file system may be another's, and
// must not be written to, not even to close it.
var ErrClaimLost = errors.New("another program has claimed the device while it was being mounted")

// mountBlock mounts dir as a file system of the block device that dev is, or of a
// loop device made for it. On return with an error all is as it was before; but
// see [ErrClaimLost].
func mountBlock(dir string, dev blockdev.Device, o *Options, flags Flags) (fd int, err error) {
	f, base := split(dev)
	if f == nil {
		return -1, fmt.Errorf("the image is neither a file nor a block device: %w", unix.ENOTBLK)
	}
	// Linux 6.18 takes every size for that of a page. With a smaller one, 6.17 may read over
	// what was written to a part of a page and is still in its cache.
	options := []string{fmt.Sprintf("blksize=%d", os.Getpagesize())}
	if f.IsBlock() && base == 0 {
		if err := f.Unclaim(); err != nil {
			return -1, err
		}
		fd, err := mountFuse(dir, f.Path(), "fuseblk."+o.Subtype, o, flags, options)
		if err != nil {
			if again := f.Claim(); again != nil {
				return -1, errors.Join(ErrClaimLost, again, err)
			}
		}
		return fd, err
	}
	loop, err := f.AttachLoop(base, dev.Size(), flags.bits&unix.MS_RDONLY != 0)
	if err != nil {
		return -1, err
	}
	defer loop.Close() // the mount holds it now, or nobody
	return mountFuse(dir, loop.Name(), "fuseblk."+o.Subtype, o, flags, options)
}

// Bmap answers FIBMAP: where block number block of a file lies on the device, in units
// of size bytes, which are the kernel's choice. As in the kernel's ext4, what has never been
// written is 0, as a hole is. So is what does not lie in one such unit: no answer
// would be true.
func (r *rawFS) Bmap(node, block uint64, size uint32) (uint64, fuse.Status) {
	in, err := r.inode(node)
	if err != nil {
		return 0, r.status(err)
	}
	bits := r.fs.Super().BlockBits()
	if in.Type() != disk.ModeReg || size == 0 || block > math.MaxInt64/uint64(size) {
		return 0, fuse.EINVAL
	}
	from := block * uint64(size)
	to := min(from+uint64(size), uint64(max(in.Size(), 0)))
	if from >= to || from>>bits > math.MaxUint32 {
		return 0, fuse.OK
	}
	m, err := in.Map(disk.LBlock(from >> bits))
	if errors.Is(err, ext4.ErrInline) {
		return 0, fuse.OK
	}
	if err != nil {
		return 0, r.status(err)
	}
	at := uint64(m.Physical)<<bits + from - uint64(m.Logical)<<bits
	if m.State != ext4.MapWritten || to > m.End()<<bits || at%uint64(size) != 0 {
		return 0, fuse.OK
	}
	return at / uint64(size), fuse.OK
}

// SyncFS is what sync(2) and syncfs(2) make of a mount of a block device. Where nothing
// is written it is declined, which makes the kernel do without.
func (r *rawFS) SyncFS() fuse.Status {
	if !r.fs.Writable() {
		return fuse.ENOSYS
	}
	if err := r.maps.settleAll(); err != nil {
		return r.status(err)
	}
	return r.status(errors.Join(r.atimes.write(), r.fs.Sync()))
}

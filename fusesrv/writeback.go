package fusesrv

import (
	"bytes"
	"fmt"
	"io"
	"log"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// The kernel's cache of writes (FUSE_WRITEBACK_CACHE) is off unless
// [Options].WriteBack asks for it, because of what the protocol cannot say:
//
// A write into the cache asks the server nothing that would tell where it writes, or how
// much. Between the call and the WRITE request nobody has taken blocks for it: a write that
// succeeded may turn out to have no room. The kernel bounds what it holds dirty (1 % of its threshold, a
// few ten MiB), and so much could be kept free for it; but one call of write(2) may
// have 2 GiB, and no answer of ours stops it half-way, or switches files that are open
// to writing through when space runs short. So with this option, as with NFS, fsync and close
// tell what write could not. Without it write does.
//
// With it, the kernel owns size, mtime and ctime of regular files that it
// knows, and sends these times in a SETATTR when it writes back, closes,
// renames or unlinks. It ignores what it is told of them.
//
// What was written through a mapping is written back in either case, and without asking.

// mayWriteBack reports whether the kernel may be given a cache of writes. Quotas
// would be exceeded without anybody being told.
func mayWriteBack(fs *ext4.FS, o *Options, logger *log.Logger) bool {
	if !o.WriteBack || !fs.Writable() {
		return false
	}
	if fs.Super().ROCompat.Has(disk.ROCompatQuota) {
		logger.Print("the file system has quotas, which are not told of what the kernel keeps: writeback_cache is not used")
		return false
	}
	return true
}

// writeBackAt takes what the kernel writes back: all of it, or an error. A
// count that is less than it has sent the kernel takes for all (fuse_writepage_end).
func (r *rawFS) writeBackAt(c ext4.Caller, ino disk.Ino, data []byte, off int64) error {
	in, err := r.fs.Inode(ino)
	if err != nil {
		return err
	}
	if in.Disk().Flags.Has(disk.FlagAppend) && off < in.Size() {
		// Whole pages come, the first with the end of what is there.
		old := make([]byte, min(int64(len(data)), in.Size()-off))
		if _, err := in.ReadAt(old, off); err != nil && err != io.EOF {
			return err
		}
		if !bytes.HasPrefix(data, old) {
			return fmt.Errorf("write back inode %d at %d: it may only be appended to: %w", ino, off, unix.EPERM)
		}
		data, off = data[len(old):], off+int64(len(old))
	}
	n, err := r.fs.WriteAt(background, c, ino, data, off)
	if err == nil && n < len(data) {
		err = fmt.Errorf("write back inode %d at %d: %d of %d bytes fit below the largest size of the file: %w", ino, off, n, len(data), unix.EFBIG)
	}
	return err
}

// ignoresTimes reports whether the times of a file that the kernel writes back are
// nothing to keep: they are those of a file that is deleted, of one whose times change with what is
// appended to it and not otherwise, or of one that cannot change any more (settleFixed).
func (r *rawFS) ignoresTimes(node uint64) bool {
	if !r.writeBack {
		return false
	}
	in, err := r.inode(node)
	return err == nil && (in.Disk().Links == 0 || in.Disk().Flags&(disk.FlagAppend|disk.FlagImmutable) != 0)
}

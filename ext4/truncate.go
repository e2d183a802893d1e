package ext4

import (
	"context"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// zeroTail makes the rest of the file's last block zeros, if the file is to
// go on behind it, at byte off: who wrote it last may have left anything there.
func (fs *FS) zeroTail(in *Inode, off int64) error {
	size := in.Size()
	if off <= size {
		return nil
	}
	return fs.zeroInBlock(in, size, off)
}

// zeroInBlock fills bytes [from, to) of a file with zeros, as far as they lie
// in the block of the first and that is written.
func (fs *FS) zeroInBlock(in *Inode, from, to int64) error {
	bits := fs.sb.BlockBits()
	if from&(1<<bits-1) == 0 || in.HasInlineData() || in.encrypted() { // encrypted zeros are no zeros
		return nil
	}
	return fs.zeroBytes(in, from, min(to, (from>>bits+1)<<bits))
}

// zeroBytes fills bytes [from, to) of a file, which lie in one block, with
// zeros, if that is written.
func (fs *FS) zeroBytes(in *Inode, from, to int64) error {
	if from >= to || fs.foreign.Load() {
		return nil
	}
	bits := fs.sb.BlockBits()
	m, err := in.mapOnce(disk.LBlock(from >> bits))
	if err != nil || m.State != MapWritten {
		return err
	}
	return fs.writeDevice(make([]byte, to-from), int64(m.Physical)<<bits+from-int64(m.Logical)<<bits)
}

// Truncate gives a regular file another size. What is cut off is given back,
// and a file that grows reads as zeros from its old end on. A crash leaves it
// with its old or its new size.
func (fs *FS) Truncate(ctx context.Context, c Caller, ino disk.Ino, size int64) (err error) {
	if fs.rw == nil {
		return ErrReadOnly
	}
	defer func() { fs.rw.noteDamage(err) }()
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	in, err := fs.writableFile(ino)
	if err != nil {
		return err
	}
	switch {
	case size < 0:
		return fmt.Errorf("truncate inode %d to %d: %w", ino, size, unix.EINVAL)
	case in.disk.Flags.Has(disk.FlagAppend):
		return fmt.Errorf("truncate inode %d: it may only be appended to: %w", ino, unix.EPERM)
	case uint64(size) > in.maxSize():
		return in.errTooLarge(uint64(size))
	}
	return fs.resize(ctx, c, in, size)
}

// resize is [FS.Truncate] for a size that in may have.
func (fs *FS) resize(ctx context.Context, c Caller, in *Inode, size int64) error {
	if in.HasInlineData() {
		done, err := fs.truncateInline(ctx, c, in, size)
		if done || err != nil {
			return err
		}
		if in, err = fs.Inode(in.ino); err != nil {
			return err
		}
	}
	set := func(h *Handle, in *Inode) error {
		in.disk.Size = uint64(size)
		h.needLargeFile(in)
		in.written(c)
		return h.clearPrivileges(c, in)
	}
	if size > in.Size() { // blocks that lie behind its end already stay
		if err := fs.zeroTail(in, size); err != nil {
			return err
		}
		return fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(in.ino)
			if err != nil {
				return err
			}
			return set(h, in)
		})
	}
	if err := fs.zeroInBlock(in, size, in.Size()); err != nil {
		return err
	}
	fs.dropPrealloc(in.ino)
	return fs.truncateBlocks(ctx, in.ino, set)
}

// dropPrealloc gives back what is kept for the inode to grow.
func (fs *FS) dropPrealloc(ino disk.Ino) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	if o := fs.rw.open[ino]; o != nil {
		fs.rw.dropPreallocLocked(o)
	}
}

// finishTruncate gives back the blocks behind the end of a file whose
// truncation a crash has cut short.
func (fs *FS) finishTruncate(ctx context.Context, ino disk.Ino) error {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	fs.rw.mu.Lock()
	orphan := fs.rw.isOrphanLocked(ino)
	fs.rw.mu.Unlock()
	if !orphan {
		return nil // it is done
	}
	in, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	if in.Type() != disk.ModeReg || in.HasInlineData() {
		return fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			return h.removeOrphan(in)
		})
	}
	if err := fs.zeroInBlock(in, in.Size(), in.Size()+int64(fs.sb.BlockSize())); err != nil {
		return err
	}
	return fs.truncateBlocks(ctx, ino, func(*Handle, *Inode) error { return nil })
}

// truncateBlocks calls first, which sets the size of ino, and gives back the
// blocks behind that, in as many updates as it takes. Until the last of them the inode
// is on record, so that a crash does not leave it half-done.
func (fs *FS) truncateBlocks(ctx context.Context, ino disk.Ino, first func(*Handle, *Inode) error) error {
	bits := fs.sb.BlockBits()
	for more := true; more; {
		err := fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			if first != nil {
				if err := first(h, in); err != nil {
					return err
				}
			}
			next, err := h.remove(in, (in.disk.Size+1<<bits-1)>>bits, maxLogical)
			if err != nil {
				return err
			}
			if more = next < maxLogical; more {
				return h.addOrphan(in)
			}
			if in.disk.Links == 0 {
				return nil // it is there to be deleted
			}
			return h.removeOrphan(in)
		})
		if err != nil {
			return err
		}
		first, ctx = nil, context.WithoutCancel(ctx)
	}
	return nil
}

// evict deletes an inode that has no name and that nobody uses
// (ext4_evict_inode), in as many updates as it takes.
func (fs *FS) evict(ctx context.Context, ino disk.Ino) error {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	for done := false; !done; ctx = context.WithoutCancel(ctx) {
		err := fs.Update(ctx, func(h *Handle) error {
			if !h.isOrphan(ino) {
				done = true // somebody else was faster
				return nil
			}
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			if in.disk.Links > 0 {
				done = true // it got a name
				return nil
			}
			done, err = h.deleteInode(in)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteInode gives back an inode without a name and all that it has. If that
// is more than one update takes, done is false, and the inode on record for the next.
// The caller holds the inode's lock.
func (h *Handle) deleteInode(in *Inode) (done bool, err error) {
	if in.mapped() && !in.HasInlineData() && !in.emptyExtents() {
		next, err := h.remove(in, 0, maxLogical)
		if err != nil {
			return false, err
		}
		if next < maxLogical {
			return false, h.addOrphan(in)
		}
	}
	if done, err := h.freeXattrs(in); err != nil {
		return false, err
	} else if !done {
		return false, h.addOrphan(in)
	}
	if err := h.removeOrphan(in); err != nil {
		return false, err
	}
	in.disk.Size, in.disk.Links = 0, 0
	in.disk.Dtime = uint32(h.rw.time().Sec)
	return true, h.freeInode(in.ino, in.Type() == disk.ModeDir)
}

// emptyExtents reports whether the inode has an extent tree without anything in it.
func (in *Inode) emptyExtents() bool {
	return in.disk.Flags.Has(disk.FlagExtents) && disk.DecodeExtentHeader(in.disk.Block[:]).Entries == 0
}

package ext4

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// FallocMode is the mode of fallocate(2): FALLOC_FL_KEEP_SIZE and one of the
// others, or neither, which allocates.
type FallocMode uint32

const (
	FallocKeepSize      FallocMode = unix.FALLOC_FL_KEEP_SIZE      // the file's size stays
	FallocPunchHole     FallocMode = unix.FALLOC_FL_PUNCH_HOLE     // makes a hole; only with FallocKeepSize
	FallocCollapseRange FallocMode = unix.FALLOC_FL_COLLAPSE_RANGE // takes the range out: what follows moves down
	FallocZeroRange     FallocMode = unix.FALLOC_FL_ZERO_RANGE     // allocated, and reads as zeros
	FallocInsertRange   FallocMode = unix.FALLOC_FL_INSERT_RANGE   // puts a hole in: what follows moves up
	FallocUnshareRange  FallocMode = unix.FALLOC_FL_UNSHARE_RANGE  // EOPNOTSUPP: nothing is shared
	FallocWriteZeroes   FallocMode = unix.FALLOC_FL_WRITE_ZEROES   // EOPNOTSUPP: devices here cannot do it
)

// Fallocate changes which bytes of a regular file have blocks, as fallocate(2)
// does with ext4: n of them from off on. It fails with what the kernel fails with: a wrapped EINVAL for an empty
// range, or one that is not made of whole clusters where the rest of the file
// moves; EOPNOTSUPP for modes that make no sense together, and for all but
// holes in files without extents; EPERM for immutable files, and append-only ones but to
// allocate; EFBIG, and ENOSPC, which leaves allocated what could be.
//
// A crash leaves a file whose contents moved as it was before or after.
// Allocating, zeroing and punching holes are done front to back, and may be cut short.
func (fs *FS) Fallocate(ctx context.Context, c Caller, ino disk.Ino, mode FallocMode, off, n int64) (err error) {
	if fs.rw == nil {
		return ErrReadOnly
	}
	defer func() { fs.rw.noteDamage(err) }()
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	in, err := fs.inUse(ino)
	if err == nil {
		err = in.checkSize()
	}
	if err != nil {
		return err
	}
	if err := in.checkFallocate(mode, off, n); err != nil {
		return fmt.Errorf("fallocate inode %d, mode %#x, %d bytes at %d: %w", ino, uint32(mode), n, off, err)
	}
	if in.HasInlineData() {
		if err := fs.growOut(ctx, c, in); err != nil {
			return err
		}
		if in, err = fs.Inode(ino); err != nil {
			return err
		}
	}
	keep := mode&FallocKeepSize != 0
	switch mode &^ FallocKeepSize {
	case FallocPunchHole:
		err = fs.punchHole(ctx, c, in, off, off+n)
	case FallocZeroRange:
		err = fs.zeroRange(ctx, c, in, off, off+n, keep)
	case FallocCollapseRange:
		err = fs.collapseRange(ctx, c, in, off, off+n)
	case FallocInsertRange:
		err = fs.insertRange(ctx, c, in, off, n)
	default:
		bits := fs.sb.BlockBits()
		err = fs.allocRange(ctx, c, in, allocating{from: uint64(off) >> bits, end: (uint64(off+n) + 1<<bits - 1) >> bits, size: in.newSize(off+n, keep)})
	}
	if err != nil {
		return fmt.Errorf("fallocate inode %d, mode %#x, %d bytes at %d: %w", ino, uint32(mode), n, off, err)
	}
	return nil
}

// checkFallocate judges the arguments, in the kernel's order (vfs_fallocate,
// ext4_fallocate).
func (in *Inode) checkFallocate(mode FallocMode, off, n int64) error {
	keep, op := mode&FallocKeepSize != 0, mode&^FallocKeepSize
	// Inline data move into blocks first, with a map as new files have it.
	extents := in.disk.Flags.Has(disk.FlagExtents) || in.HasInlineData() && in.fs.sb.Incompat.Has(disk.IncompatExtents)
	switch {
	case off < 0 || n <= 0:
		return unix.EINVAL
	case op == FallocPunchHole && !keep, keep && op&(FallocCollapseRange|FallocInsertRange|FallocWriteZeroes) != 0:
		return unix.EOPNOTSUPP
	}
	switch op {
	case 0, FallocPunchHole, FallocCollapseRange, FallocZeroRange, FallocInsertRange, FallocUnshareRange, FallocWriteZeroes:
	default:
		return unix.EOPNOTSUPP
	}
	switch t := in.Type(); {
	case op != 0 && in.disk.Flags.Has(disk.FlagAppend), in.disk.Flags.Has(disk.FlagImmutable):
		return unix.EPERM
	case t == disk.ModeFIFO:
		return unix.ESPIPE
	case t == disk.ModeDir:
		return unix.EISDIR
	case t != disk.ModeReg:
		return unix.ENODEV
	case off+n < 0 || uint64(off+n) > in.fs.sb.MaxFileSize(true):
		return unix.EFBIG
	case in.disk.Flags.Has(disk.FlagVerity), in.internal():
		return unix.EPERM
	case op == FallocUnshareRange, op == FallocWriteZeroes:
		return unix.EOPNOTSUPP
	case in.encrypted():
		return unix.ENOKEY
	case !extents && op != FallocPunchHole:
		return unix.EOPNOTSUPP
	}
	size, unit := in.Size(), int64(in.fs.sb.BlockSize())<<in.fs.sb.ClusterBits()
	switch {
	case op != FallocCollapseRange && op != FallocInsertRange:
		return nil
	case (off|n)&(unit-1) != 0:
		return unix.EINVAL
	case op == FallocCollapseRange && off+n >= size, op == FallocInsertRange && off >= size:
		return unix.EINVAL
	case op == FallocInsertRange && uint64(n) > in.maxSize()-uint64(size):
		return unix.EFBIG
	}
	return nil
}

// newSize is the size of the file after allocating up to end; 0 if it stays.
func (in *Inode) newSize(end int64, keep bool) uint64 {
	if keep || end <= in.Size() {
		return 0
	}
	return uint64(end)
}

// allocating is a range of blocks to be allocated, and what else becomes of it.
type allocating struct {
	from, end uint64
	size      uint64 // of the file, when all is allocated; 0 leaves it
	zero      bool   // what is written becomes unwritten
}

// allocRange gives blocks to what is a hole in a range (ext4_alloc_file_blocks). An
// error leaves allocated what was, and the file as long as that.
func (fs *FS) allocRange(ctx context.Context, c Caller, in *Inode, a allocating) error {
	if a.size > 0 {
		if err := fs.zeroTail(in, int64(a.size)); err != nil {
			return err
		}
	}
	part := a.end - a.from
	for from := a.from; from < a.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		next, full, err := fs.allocPart(ctx, c, in.ino, a, from, min(from+part, a.end))
		if n := next - from; errors.Is(err, unix.EDQUOT) && n > 1 {
			part = n / 2 // as much as the quota leaves
			continue
		}
		if err = errors.Join(err, full); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// allocPart is [FS.allocRange] for blocks [from, end), or as many from the
// first on as one update can map: those before next. full says why there were no more.
func (fs *FS) allocPart(ctx context.Context, c Caller, ino disk.Ino, a allocating, from, end uint64) (next uint64, full, err error) {
	in, err := fs.Inode(ino)
	if err != nil {
		return from, nil, err
	}
	changes, next, full := fs.reserveHoles(c, in, from, end)
	mapped := false
	defer func() {
		if !mapped {
			fs.rw.unreserveAll(changes)
		}
	}()
	if next == from {
		return from, full, nil
	}
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		if err != nil {
			return err
		}
		h.limit(c)
		h.mustNotFail = true
		if a.zero {
			err := h.changeExtents(in, from, next, func(e disk.Extent) disk.Extent {
				e.Unwritten = true
				return e
			})
			if err != nil {
				return err
			}
		}
		for _, ch := range changes {
			if err := h.apply(in, ch); err != nil {
				return err
			}
		}
		if size := min(a.size, next<<fs.sb.BlockBits()); size > in.disk.Size {
			in.disk.Size = size
			h.needLargeFile(in)
		}
		in.written(c)
		return h.clearPrivileges(c, in)
	})
	mapped = err == nil
	return next, full, err
}

// reserveHoles finds blocks for holes in [from, end), as many as one update
// can map. It returns up to where it got, and why not further.
func (fs *FS) reserveHoles(c Caller, in *Inode, from, end uint64) (changes []change, next uint64, err error) {
	most := fs.rw.maxChanges()
	for next = from; next < end && most > 0; most-- {
		m, err := in.mapOnce(disk.LBlock(next))
		if err != nil {
			return changes, next, err
		}
		if m.State != MapHole {
			next = min(m.End(), end)
			continue
		}
		ch, err := fs.newBlocks(c, in, disk.LBlock(next), min(m.End(), end)-next, changes)
		if err != nil {
			return changes, next, err
		}
		ch.unwritten = true
		changes = append(changes, ch)
		next += ch.run.n
	}
	return changes, next, nil
}

// zeroRange makes bytes [from, to) read as zeros, and gives blocks to all of
// them (ext4_zero_range).
func (fs *FS) zeroRange(ctx context.Context, c Caller, in *Inode, from, to int64, keep bool) error {
	bits := fs.sb.BlockBits()
	mask := int64(1)<<bits - 1
	size := in.newSize(to, keep)
	if (from|to)&mask != 0 {
		err := fs.allocRange(ctx, c, in, allocating{from: uint64(from) >> bits, end: uint64(to+mask) >> bits, size: size})
		if err != nil {
			return err
		}
	}
	if first, end := uint64(from+mask)>>bits, uint64(to)>>bits; first < end {
		if err := fs.allocRange(ctx, c, in, allocating{from: first, end: end, size: size, zero: true}); err != nil {
			return err
		}
	}
	now, err := fs.Inode(in.ino)
	if err != nil {
		return err
	}
	return fs.zeroEdges(now, from, to)
}

// zeroEdges fills with zeros what [from, to) has of blocks that lie in it in
// part (ext4_zero_partial_blocks).
func (fs *FS) zeroEdges(in *Inode, from, to int64) error {
	bits := fs.sb.BlockBits()
	if from>>bits == to>>bits {
		return fs.zeroBytes(in, from, to)
	}
	if err := fs.zeroInBlock(in, from, to); err != nil {
		return err
	}
	return fs.zeroBytes(in, to&^(1<<bits-1), to)
}

// punchHole unmaps bytes [from, to) of the file (ext4_punch_hole).
func (fs *FS) punchHole(ctx context.Context, c Caller, in *Inode, from, to int64) error {
	bits := fs.sb.BlockBits()
	mask := int64(1)<<bits - 1
	size := in.Size()
	if from >= size { // no more than the times change
		return fs.unmap(ctx, c, in.ino, 0, 0)
	}
	if to >= size {
		to = (size + mask) &^ mask
	}
	if err := fs.zeroEdges(in, from, to); err != nil {
		return err
	}
	return fs.unmap(ctx, c, in.ino, uint64(from+mask)>>bits, uint64(to)>>bits)
}

// unmap makes a hole of the blocks [from, end), in as many updates as it
// takes.
func (fs *FS) unmap(ctx context.Context, c Caller, ino disk.Ino, from, end uint64) error {
	fs.dropPrealloc(ino)
	for first := true; first || from < end; first = false {
		next := max(from, end)
		err := fs.Update(ctx, func(h *Handle) (err error) {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			if from < end {
				if next, err = h.remove(in, from, end); err != nil {
					return err
				}
			}
			in.written(c)
			return h.clearPrivileges(c, in)
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// collapseRange takes bytes [from, to) out of the file (ext4_collapse_range).
func (fs *FS) collapseRange(ctx context.Context, c Caller, in *Inode, from, to int64) error {
	bits := fs.sb.BlockBits()
	first, end := uint64(from)>>bits, uint64(to)>>bits
	s := shift{from: end, by: -int64(end - first), size: in.Size() - (to - from), gone: first}
	err := fs.shiftExtents(ctx, c, in, s)
	if !errors.Is(err, errUpdateTooLarge) {
		return err
	}
	// What goes lies in too many groups for one update: it goes first.
	if err := fs.unmap(ctx, c, in.ino, first, end); err != nil {
		return err
	}
	return fs.shiftExtents(ctx, c, in, s)
}

// insertRange puts a hole of n bytes into the file (ext4_insert_range).
func (fs *FS) insertRange(ctx context.Context, c Caller, in *Inode, off, n int64) error {
	bits := fs.sb.BlockBits()
	first := uint64(off) >> bits
	return fs.shiftExtents(ctx, c, in, shift{from: first, by: n >> bits, size: in.Size() + n, gone: first})
}

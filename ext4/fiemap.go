package ext4

import "e4go/ext4/disk"

// FiemapFlags are the flags of a struct fiemap_extent that ext4 sets.
type FiemapFlags uint32

const (
	FiemapLast       FiemapFlags = 0x0001 // FIEMAP_EXTENT_LAST
	FiemapNotAligned FiemapFlags = 0x0100 // FIEMAP_EXTENT_NOT_ALIGNED
	FiemapInline     FiemapFlags = 0x0200 // FIEMAP_EXTENT_DATA_INLINE
	FiemapUnwritten  FiemapFlags = 0x0800 // FIEMAP_EXTENT_UNWRITTEN
	FiemapMerged     FiemapFlags = 0x1000 // FIEMAP_EXTENT_MERGED: made of single blocks
)

// A FiemapExtent is one extent as FS_IOC_FIEMAP reports it, in bytes.
type FiemapExtent struct {
	Logical, Physical, Length uint64
	Flags                     FiemapFlags
}

// Fiemap calls fn with each extent of the inode's data that FS_IOC_FIEMAP
// would report for the bytes from start to before end, until fn returns false.
// Like the kernel it rounds the range out to blocks, cuts extents at it,
// reports what lies behind the end of the file too, and flags the last extent
// of the range, whatever follows behind (iomap_fiemap).
func (in *Inode) Fiemap(start, end uint64, fn func(FiemapExtent) bool) error {
	if in.HasInlineData() {
		return in.fiemapInline(start, end, fn)
	}
	bits := in.fs.sb.BlockBits()
	var flags FiemapFlags
	if !in.disk.Flags.Has(disk.FlagExtents) {
		flags = FiemapMerged
	}
	first := start >> bits
	behind := min((end-1)>>bits+1, maxLogical) // the block behind the range
	var last FiemapExtent                      // to be reported once it is known whether another follows
	var held bool
	for b := first; b < behind && start < end; {
		m, err := in.Map(disk.LBlock(b))
		if err != nil {
			return err
		}
		if m.State != MapHole {
			skip := first - min(first, uint64(m.Logical))
			x := FiemapExtent{
				Logical:  (uint64(m.Logical) + skip) << bits,
				Physical: (uint64(m.Physical) + skip) << bits,
				Length:   (min(m.End(), behind) - uint64(m.Logical) - skip) << bits,
				Flags:    flags,
			}
			if m.State == MapUnwritten {
				x.Flags |= FiemapUnwritten
			}
			if held && !fn(last) {
				return nil
			}
			last, held = x, true
		}
		b = m.End()
	}
	if held {
		last.Flags |= FiemapLast
		fn(last)
	}
	return nil
}

// fiemapInline reports the data in the inode as one extent.
func (in *Inode) fiemapInline(start, end uint64, fn func(FiemapExtent) bool) error {
	parts, err := in.inlineParts()
	if err != nil {
		return err
	}
	n := uint64(min(in.Size(), int64(len(parts[0])+len(parts[1]))))
	if start < n && end > 0 {
		fn(FiemapExtent{
			Physical: uint64(in.block)<<in.fs.sb.BlockBits() + uint64(in.off) + disk.IBlockOffset,
			Length:   n, Flags: FiemapInline | FiemapNotAligned | FiemapLast,
		})
	}
	return nil
}

// FiemapXattr is [Inode.Fiemap] with FIEMAP_FLAG_XATTR: where the xattrs lie. ok
// is false if the inode has none outside EA inodes.
func (in *Inode) FiemapXattr() (x FiemapExtent, ok bool) {
	bs := uint64(in.fs.sb.BlockSize())
	if _, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.block, in.off); ok {
		at := uint64(disk.GoodOldInodeSize) + uint64(in.disk.ExtraIsize)
		return FiemapExtent{
			Physical: uint64(in.block)*bs + uint64(in.off) + at, Length: uint64(in.fs.sb.InodeSize) - at,
			Flags: FiemapInline | FiemapNotAligned | FiemapLast,
		}, true
	}
	if blk := in.disk.XattrBlock(&in.fs.sb); blk != 0 {
		return FiemapExtent{Physical: uint64(blk) * bs, Length: bs, Flags: FiemapLast}, true
	}
	return FiemapExtent{}, false
}

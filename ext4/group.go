package ext4

import (
	"bytes"
	"fmt"

	"e4go/ext4/disk"
)

// groupBlock is a block of group descriptors, decoded and judged.
type groupBlock struct {
	descs []disk.GroupDesc
	errs  []error // by descriptor; nil if all are good
}

func (b *groupBlock) weight() uint32 { return uint32(len(b.descs))*80 + uint32(len(b.errs))*400 }

// groupBlock returns descriptor block i of the copy that belongs to the
// superblock in use.
func (fs *FS) groupBlock(i uint64) (*groupBlock, error) {
	if b, ok := get[*groupBlock](fs.cache, kindGroup, i); ok {
		return b, nil
	}
	blk := fs.sb.DescBlock(fs.super.block(), i)
	mark := fs.live.mark(blk)
	raw, err := fs.bytes(blk)
	if err != nil {
		return nil, fmt.Errorf("group descriptors: %w", err)
	}
	size, per := fs.sb.GroupDescSize(), uint64(fs.sb.DescPerBlock())
	n := min(per, fs.sb.Groups()-i*per)
	b := &groupBlock{descs: make([]disk.GroupDesc, n)}
	for j := range n {
		off := int(j) * size
		b.descs[j] = disk.DecodeGroupDesc(raw[off : off+size])
		if err := disk.CheckGroupDesc(&fs.sb, disk.Group(i*per+j), raw[off:off+size], blk, off); err != nil {
			if b.errs == nil {
				b.errs = make([]error, n)
			}
			b.errs[j] = err
		}
	}
	fs.live.keep(blk, mark, func() { fs.cache.put(kindGroup, i, b) })
	return b, nil
}

// groupDesc returns the descriptor of group g. A *disk.CorruptError comes with
// the descriptor as it was decoded.
func (fs *FS) groupDesc(g disk.Group) (disk.GroupDesc, error) {
	if uint64(g) >= fs.sb.Groups() {
		return disk.GroupDesc{}, fmt.Errorf("group %d: the file system has %d", g, fs.sb.Groups())
	}
	per := uint64(fs.sb.DescPerBlock())
	b, err := fs.groupBlock(uint64(g) / per)
	if err != nil {
		return disk.GroupDesc{}, err
	}
	j := uint64(g) % per
	if b.errs != nil {
		err = b.errs[j]
	}
	return b.descs[j], err
}

// GroupInfo is a block group: its descriptor and what the superblock says of it.
type GroupInfo struct {
	disk.GroupDesc
	Number     disk.Group
	FirstBlock disk.PBlock
	LastBlock  disk.PBlock
	HasSuper   bool
	// DescFirst and DescLast are the blocks of the group's copy of descriptors; 0, 0 if
	// it has none.
	DescFirst, DescLast disk.PBlock
	// ReservedFirst and ReservedLast are the blocks kept for more descriptors.
	ReservedFirst, ReservedLast disk.PBlock
}

// Group returns what is known of group g, as it is now. With a
// *disk.CorruptError comes what was decoded all the same.
func (fs *FS) Group(g disk.Group) (GroupInfo, error) {
	d, err := fs.currentDesc(g)
	if uint64(g) >= fs.sb.Groups() {
		return GroupInfo{}, err
	}
	sb := &fs.sb
	first := sb.FirstBlock(g)
	info := GroupInfo{
		GroupDesc: d, Number: g, FirstBlock: first,
		LastBlock: first + disk.PBlock(sb.BlocksInGroup(g)) - 1, HasSuper: sb.HasSuper(g),
	}
	if n := sb.BaseMetaBlocks(g); n > 0 {
		at := first
		if info.HasSuper {
			at, n = at+1, n-1
		}
		// With 1 KiB clusters of blocks, block 0 is the boot block.
		if g == 0 && sb.BlockSize() == 1024 && sb.FirstDataBlock == 0 {
			at++
		}
		var reserved uint64
		if !sb.Incompat.Has(disk.IncompatMetaBG) || uint64(g) < uint64(sb.FirstMetaBG)*uint64(sb.DescPerBlock()) {
			reserved = min(n, uint64(sb.ReservedGDT))
		}
		if n > reserved {
			info.DescFirst, info.DescLast = at, at+disk.PBlock(n-reserved)-1
		}
		if reserved > 0 {
			info.ReservedFirst, info.ReservedLast = at+disk.PBlock(n-reserved), at+disk.PBlock(n)-1
		}
	}
	return info, err
}

// currentDesc is the descriptor of group g with the changes of all updates.
func (fs *FS) currentDesc(g disk.Group) (disk.GroupDesc, error) {
	if fs.rw == nil {
		return fs.groupDesc(g)
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	return fs.rw.desc(g)
}

// InodeBitmap returns the inode bitmap of group g as it is now: one bit an
// inode, set if it is in use. The bitmap of a group that was never initialised is made
// up. It must not be changed.
func (fs *FS) InodeBitmap(g disk.Group) ([]byte, error) {
	if fs.rw != nil {
		fs.rw.mu.Lock()
		defer fs.rw.mu.Unlock()
		if l := fs.rw.groups[g]; l != nil && l.inodes != nil {
			return bytes.Clone(l.inodes), nil
		}
	}
	return fs.inodeBitmap(g)
}

func (fs *FS) inodeBitmap(g disk.Group) ([]byte, error) {
	d, err := fs.groupDesc(g)
	if err != nil {
		return nil, err
	}
	if fs.sb.DescChecksums() && d.Flags&disk.GroupInodeUninit != 0 {
		return make([]byte, fs.sb.BlockSize()), nil
	}
	n := int(fs.sb.InodesPerGroup / 8)
	return fs.bitmap(d.InodeBitmap, g, "inode bitmap of group", "bg_inode_bitmap_csum", n, d.InodeBitmapCsum)
}

// BlockBitmap returns the block bitmap of group g as it is now: one bit a
// cluster, set if it is in use. The bitmap of a group that was never initialised is
// computed. It must not be changed.
func (fs *FS) BlockBitmap(g disk.Group) ([]byte, error) {
	if fs.rw != nil {
		fs.rw.mu.Lock()
		defer fs.rw.mu.Unlock()
		if l := fs.rw.groups[g]; l != nil {
			return bytes.Clone(l.blocks), nil
		}
	}
	return fs.blockBitmap(g)
}

func (fs *FS) blockBitmap(g disk.Group) ([]byte, error) {
	d, err := fs.groupDesc(g)
	if err != nil {
		return nil, err
	}
	if fs.sb.DescChecksums() && d.Flags&disk.GroupBlockUninit != 0 {
		return fs.uninitBlockBitmap(g)
	}
	per := fs.sb.BlocksPerGroup >> fs.sb.ClusterBits()
	return fs.bitmap(d.BlockBitmap, g, "block bitmap of group", "bg_block_bitmap_csum", int(per/8), d.BlockBitmapCsum)
}

func (fs *FS) bitmap(blk disk.PBlock, g disk.Group, what, field string, n int, want uint32) ([]byte, error) {
	return fs.meta(kindBitmap, blk, 0, func(data []byte) error {
		if !fs.sb.MetadataCsum() {
			return nil
		}
		have := disk.BitmapChecksum(&fs.sb, data[:n])
		if fs.sb.GroupDescSize() < disk.GroupDescSize64 {
			have &= 0xffff
		}
		if have != want {
			return &disk.CorruptError{Struct: what, Num: uint64(g), Block: blk, Field: field,
				Have: fmt.Sprintf("%#08x", want), Want: fmt.Sprintf("%#08x", have)}
		}
		return nil
	})
}

// uninitBlockBitmap is what the block bitmap of a group without one would
// hold: the metadata that lies in the group (ext4_init_block_bitmap).
func (fs *FS) uninitBlockBitmap(g disk.Group) ([]byte, error) {
	sb := &fs.sb
	out := make([]byte, sb.BlockSize())
	first, n := sb.FirstBlock(g), uint64(sb.BlocksInGroup(g))
	cb := sb.ClusterBits()
	mark := func(b disk.PBlock, count uint64) {
		for i := range count {
			if at := uint64(b) + i; at >= uint64(first) && at < uint64(first)+n {
				c := (at - uint64(first)) >> cb
				out[c/8] |= 1 << (c % 8)
			}
		}
	}
	mark(first, sb.BaseMetaBlocks(g))
	// Its own metadata, where they lie here. A group that holds those of others
	// has a bitmap.
	d, err := fs.groupDesc(g)
	if err != nil {
		return nil, err
	}
	mark(d.BlockBitmap, 1)
	mark(d.InodeBitmap, 1)
	mark(d.InodeTable, uint64(sb.ItableBlocks()))
	for c := (n + 1<<cb - 1) >> cb; c < uint64(sb.BlocksPerGroup)>>cb; c++ {
		out[c/8] |= 1 << (c % 8)
	}
	return out, nil
}

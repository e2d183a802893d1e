package mkfs

import (
	"slices"

	"e4go/ext4/disk"
)

const badBlocksIno disk.Ino = 1

// takeBadBlocks takes the blocks that must not be used.
func (v *volume) takeBadBlocks() error {
	must := uint64(v.sb.FirstDataBlock) + 1 + v.p.desc
	for _, b := range v.p.o.BadBlocks {
		switch {
		case b < uint64(v.sb.FirstDataBlock) || b >= v.sb.Blocks:
			return usage("", "bad block %d: the file system has blocks %d to %d", b, v.sb.FirstDataBlock, v.sb.Blocks-1)
		case b <= must:
			return usage("the device cannot be used", "bad block %d: blocks up to %d hold the superblock and its descriptors", b, must)
		}
		v.take(disk.PBlock(b), 1)
	}
	return nil
}

// badBlocksInode is the inode that owns them. Its map is indirect, also where
// files have extents.
func (v *volume) badBlocksInode() (*inode, error) {
	t := disk.Time{Sec: v.sb.MkfsTime}
	in := &inode{Inode: disk.Inode{Atime: t, Ctime: t, Mtime: t}}
	list := slices.Clone(v.p.o.BadBlocks)
	slices.Sort(list)
	list = slices.Compact(list)
	in.Size = uint64(len(list)) << v.sb.BlockBits()
	i := -1
	m := v.newBlockMap(&in.Inode, func() (disk.PBlock, error) {
		i++
		return disk.PBlock(list[i]), nil
	})
	m.pointer = func() (disk.PBlock, error) {
		return v.alloc("a block of pointers", disk.PBlock(v.sb.FirstDataBlock), 1)
	}
	for b := range list {
		if _, err := m.add(disk.LBlock(b)); err != nil {
			return nil, err
		}
	}
	v.addBlocks(&in.Inode, uint64(len(list))) // without those of its map (ext2fs_update_bb_inode)
	return in, m.finish()
}

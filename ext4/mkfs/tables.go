package mkfs

import (
	"e4go/ext4/disk"
)

// placeTables places superblocks, descriptors, bitmaps and inode tables where
// mke2fs places them (ext2fs_initialize, ext2fs_allocate_tables). It goes through the groups once,
// a flexible group at a time, so that the blocks in use are found from front to back.
func (v *volume) placeTables() error {
	groups := v.sb.Groups()
	flex := uint64(1) << v.sb.LogGroupsPerFlex
	if v.p.o.PackedMeta {
		flex = groups
	}
	for first := uint64(0); first < groups; first += flex {
		end := min(first+flex, groups)
		for g := first; g < end; g++ {
			v.placeSupers(g)
		}
		// What the group behind them begins with may be in the way of a search.
		if end < groups {
			v.placeSupers(end)
		}
		var err error
		switch {
		case v.p.o.PackedMeta:
			err = v.placePacked()
		case v.flexible():
			err = v.placeFlex(first, end)
		default:
			err = v.placeGroup(first)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flexible reports whether groups share the place of their metadata.
func (v *volume) flexible() bool { return v.sb.LogGroupsPerFlex > 0 }

// placeSupers takes the blocks of group g's copies of superblock and
// descriptors.
func (v *volume) placeSupers(g uint64) {
	first, _ := v.group(g)
	n := v.sb.BaseMetaBlocks(disk.Group(g))
	if g == 0 && v.sb.BlockSize() == 1024 && v.sb.FirstDataBlock == 0 {
		n++ // the boot block
	}
	v.space.mark(first, n)
}

// placeGroup puts a group's metadata into the group itself.
func (v *volume) placeGroup(g uint64) error {
	first, end := v.group(g)
	start := first
	if stride := uint64(v.sb.RAIDStride); stride > 0 {
		// Bitmaps of neighbours go to different disks.
		if b, ok := v.space.find(first, end, 1); ok {
			start = b + disk.PBlock(v.p.itable)
			start += disk.PBlock(stride * g % uint64(end-start))
			if start >= end-1 {
				start = first
			}
		}
	}
	for _, at := range []*disk.PBlock{&v.blockBitmap[g], &v.inodeBitmap[g]} {
		b, ok := v.space.find(start, end, 1)
		if !ok {
			if b, ok = v.space.find(first, end, 1); !ok {
				return v.noRoom("a bitmap", 1)
			}
		}
		*at = b
		v.space.mark(b, 1)
	}
	b, ok := v.space.find(first, end, uint64(v.p.itable))
	if !ok {
		return v.noRoom("an inode table", uint64(v.p.itable))
	}
	v.inodeTable[g] = b
	v.space.mark(b, uint64(v.p.itable))
	return nil
}

// placeFlex puts the metadata of the groups [first, end) together: all block
// bitmaps, all inode bitmaps, all tables.
func (v *volume) placeFlex(first, end uint64) error {
	groups := v.sb.Groups()
	flex := uint64(1) << v.sb.LogGroupsPerFlex
	// Room for the bitmaps of a whole flexible group is kept before the next
	// kind begins, but for the last, which grows no more.
	room := flex
	if end == groups && end-first > 1 {
		room = end - first
	}
	for g := first; g < end; g++ {
		rest := end - g
		var prev disk.PBlock
		if g > first {
			prev = v.blockBitmap[g-1] + 1
		}
		if err := v.placeOne(&v.blockBitmap[g], prev, first, end, rest, 1, "a block bitmap"); err != nil {
			return err
		}
		prev = v.blockBitmap[g] + disk.PBlock(room)
		if g > first {
			prev = v.inodeBitmap[g-1] + 1
		}
		if err := v.placeOne(&v.inodeBitmap[g], prev, first, end, rest, 1, "an inode bitmap"); err != nil {
			return err
		}
		prev = v.inodeBitmap[g] + disk.PBlock(room)
		if g > first {
			prev = v.inodeTable[g-1] + disk.PBlock(v.p.itable)
		}
		if err := v.placeOne(&v.inodeTable[g], prev, first, end, rest, uint64(v.p.itable), "an inode table"); err != nil {
			return err
		}
	}
	return nil
}

// placeOne places n blocks, behind prev if that is near free space, else where
// rest times as many fit, else anywhere in the groups [first, end).
func (v *volume) placeOne(at *disk.PBlock, prev disk.PBlock, first, end, rest, n uint64, what string) error {
	start, _ := v.group(first)
	_, limit := v.group(end - 1)
	size := min(rest*n, uint64(v.sb.BlocksPerGroup)/4)
	from := start
	if b, ok := v.space.find(prev, prev+disk.PBlock(size), n); ok && prev > 0 && prev < v.space.limit {
		from = b
	} else if b, ok := v.space.find(start, limit, size); ok {
		from = b
	} else if b, ok := v.space.find(start, limit, n); ok {
		from = b
	}
	b, ok := v.space.find(from, limit, n)
	if !ok {
		if b, ok = v.space.find(start, limit, n); !ok {
			return v.noRoom(what, n)
		}
	}
	*at = b
	v.space.mark(b, n)
	v.touch(b, n)
	return nil
}

// placePacked puts the metadata of all groups at the start of the device.
func (v *volume) placePacked() error {
	var goal disk.PBlock
	for _, kind := range []struct {
		at   []disk.PBlock
		n    uint64
		what string
	}{{v.blockBitmap, 1, "a block bitmap"}, {v.inodeBitmap, 1, "an inode bitmap"}, {v.inodeTable, uint64(v.p.itable), "an inode table"}} {
		for g := range kind.at {
			b, ok := v.space.find(max(goal, disk.PBlock(v.sb.FirstDataBlock)), v.space.limit, kind.n)
			if !ok {
				return v.noRoom(kind.what, kind.n)
			}
			kind.at[g] = b
			v.space.mark(b, kind.n)
			v.touch(b, kind.n)
			goal = b
		}
	}
	return nil
}

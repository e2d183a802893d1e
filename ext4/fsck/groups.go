package fsck

import (
	"errors"
	"fmt"

	"e4go/ext4/disk"
)

// A group is a block group: its descriptor, and what is wrong with it.
type group struct {
	disk.GroupDesc
	sumOK       bool // bg_checksum is right
	noTable     bool // its inode table cannot be read: it lies nowhere, or upon others
	noBlockBits bool // likewise its block bitmap
	noInodeBits bool // likewise its inode bitmap
}

// groupsBeyond is how many groups behind the end of the device are looked at, and
// as many more as are on it: with flex_bg their tables may lie before that. A
// superblock that lies about the size has no more.
const groupsBeyond = 64

// groupCount is how many groups are looked at.
func (c *checker) groupCount() uint64 {
	if c.blocks <= uint64(c.sb.FirstDataBlock) {
		return 0
	}
	per := uint64(c.sb.BlocksPerGroup)
	onDevice := (c.blocks - uint64(c.sb.FirstDataBlock) + per - 1) / per
	if c.blocks == c.sb.Blocks {
		return onDevice
	}
	return min(c.sb.Groups(), 2*onDevice+groupsBeyond)
}

// readGroups reads the descriptors that go with the superblock in use. If they
// cannot be those of this file system, and a backup's can, that is used instead.
func (c *checker) readGroups() error {
	if err := c.decodeGroups(); err != nil {
		return err
	}
	if c.superAt != disk.SuperblockOffset || c.opts.Superblock != 0 || !c.groupsCollide(false) {
		return nil
	}
	primary, raw, at := c.groups, c.superRaw, c.superAt
	found, err := c.findBackup(at)
	if err != nil {
		return err
	}
	if found {
		if err := c.decodeGroups(); err != nil {
			return err
		}
		if !c.groupsCollide(false) {
			c.rep.add(groupsFromBackup, Problem{Have: dec(c.superBlock())})
			return nil
		}
	}
	c.useSuper(raw, at)
	c.groups = primary
	c.groupsCollide(true)
	return nil
}

// superBlock is the block that the superblock in use lies in.
func (c *checker) superBlock() disk.PBlock { return disk.PBlock(c.superAt >> c.bits) }

func (c *checker) decodeGroups() error {
	n := c.groupCount()
	const each = 128 // bytes a group takes here and in the lists of pass 5
	if err := c.take("the list of groups", int64(min(n, 1<<48))*each); err != nil {
		return err
	}
	c.groups = make([]group, n)
	size, per := c.sb.GroupDescSize(), uint64(c.sb.DescPerBlock())
	buf := make([]byte, c.bs)
	for i := uint64(0); i*per < n; i++ {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		blk := c.sb.DescBlock(c.superBlock(), i)
		switch err := c.read(blk, buf); {
		case errors.Is(err, errBeyond):
			clear(buf)
		case err != nil:
			return fmt.Errorf("group descriptors: %w", err)
		}
		for j := range min(per, n-i*per) {
			g, raw := &c.groups[i*per+j], buf[int(j)*size:][:size]
			g.GroupDesc = disk.DecodeGroupDesc(raw)
			g.sumOK = !c.sb.DescChecksums() || g.Checksum == disk.GroupDescChecksum(&c.sb, disk.Group(i*per+j), raw)
			if c.superAt != disk.SuperblockOffset {
				// A backup does not know what has been used since it was written.
				g.Flags &^= disk.GroupBlockUninit | disk.GroupInodeUninit
				g.ItableUnused, g.sumOK = 0, true
			}
		}
	}
	return nil
}

// placeRange is where the bitmaps and the table of group g may lie.
func (c *checker) placeRange(g disk.Group) (first, end uint64) {
	if c.sb.Incompat.Has(disk.IncompatFlexBG) {
		return uint64(c.sb.FirstDataBlock), c.sb.Blocks
	}
	first = uint64(c.sb.FirstBlock(g))
	return first, first + uint64(c.sb.BlocksInGroup(g))
}

// inPlace reports whether n blocks from b on lie where those of group g may.
func (c *checker) inPlace(g disk.Group, b disk.PBlock, n uint64) bool {
	first, end := c.placeRange(g)
	return b != 0 && uint64(b) >= first && uint64(b) < end && n <= end-uint64(b)
}

// groupsCollide reports whether the descriptors put a bitmap or a table where it
// cannot lie, or two upon each other (ext2fs_check_desc). With report, the first of the latter
// is told.
func (c *checker) groupsCollide(report bool) bool {
	taken := newBitset(c.blocks)
	bad := false
	mark := func(b disk.PBlock, n uint64) bool {
		if uint64(b) >= c.blocks {
			return false
		}
		return taken.addRange(uint64(b), min(n, c.blocks-uint64(b)), nil)
	}
	for g := range c.groups {
		c.eachBase(disk.Group(g), func(b disk.PBlock, n uint64) { mark(b, n) })
	}
	for i := range c.groups {
		g, num := &c.groups[i], disk.Group(i)
		for _, p := range []struct {
			b    disk.PBlock
			n    uint64
			what string
		}{{g.BlockBitmap, 1, "block bitmap"}, {g.InodeBitmap, 1, "inode bitmap"}, {g.InodeTable, uint64(c.sb.ItableBlocks()), "inode table"}} {
			if !c.inPlace(num, p.b, p.n) {
				bad = true
			} else if mark(p.b, p.n) {
				if report && !bad {
					c.rep.add(groupOverlap, Problem{Place: Place{Group: num, InGroup: true}, Have: fmt.Sprintf("the %s of group %d, block %d", p.what, num, p.b)})
				}
				bad = true
			}
		}
	}
	c.badDescs = bad
	return bad
}

// eachBase calls mark with what a copy of the superblock and of descriptors takes
// of group g.
func (c *checker) eachBase(g disk.Group, mark func(b disk.PBlock, n uint64)) {
	first := c.sb.FirstBlock(g)
	n := c.sb.BaseMetaBlocks(g)
	if g == 0 && c.bs == 1024 && c.sb.FirstDataBlock == 0 {
		n++ // the boot block has a block to itself
	}
	if n > 0 && uint64(first) < c.blocks {
		mark(first, min(n, c.blocks-uint64(first)))
	}
}

// checkGroups judges the descriptors in use.
func (c *checker) checkGroups() {
	for i := range c.groups {
		c.checkGroup(disk.Group(i), &c.groups[i])
	}
}

func (c *checker) checkGroup(num disk.Group, g *group) {
	per := uint64(c.sb.DescPerBlock())
	at := Place{Group: num, InGroup: true, Block: c.sb.DescBlock(c.superBlock(), uint64(num)/per), OnBlock: true}
	base := int(uint64(num)%per) * c.sb.GroupDescSize()
	bad := func(k *Kind, off int, have, want string) {
		p := at
		p.Off = base + off
		c.rep.add(k, Problem{Place: p, Have: have, Want: want})
	}
	first, end := c.placeRange(num)
	within := fmt.Sprintf("%d to %d", max(first, 1), end-1)
	if !c.inPlace(num, g.BlockBitmap, 1) {
		bad(groupBlockBitmap, 0x00, dec(g.BlockBitmap), within)
		g.noBlockBits = true
	}
	if !c.inPlace(num, g.InodeBitmap, 1) {
		bad(groupInodeBitmap, 0x04, dec(g.InodeBitmap), within)
		g.noInodeBits = true
	}
	if n := uint64(c.sb.ItableBlocks()); !c.inPlace(num, g.InodeTable, n) {
		bad(groupInodeTable, 0x08, dec(g.InodeTable), within)
		g.noTable = g.InodeTable == 0 || !c.legal(g.InodeTable) || n > c.sb.Blocks-uint64(g.InodeTable)
	}
	if !g.sumOK {
		bad(groupChecksum, 0x1e, hex(g.Checksum), c.wantGroupSum(num))
	}
	ipg, clusters := c.sb.InodesPerGroup, uint64(c.sb.ClustersPerGroup)
	if !c.sb.DescChecksums() {
		if g.Flags&(disk.GroupBlockUninit|disk.GroupInodeUninit) != 0 || g.ItableUnused != 0 {
			bad(groupUninit, 0x12, g.Flags.String(), dec(g.ItableUnused))
		}
	} else if g.ItableUnused > g.FreeInodes || g.ItableUnused > ipg {
		bad(groupUnused, 0x1c, dec(g.ItableUnused), fmt.Sprintf("at most %d", min(g.FreeInodes, ipg)))
	}
	if uint64(num) == c.sb.Groups()-1 && g.Flags&disk.GroupBlockUninit != 0 {
		bad(groupUninitLast, 0x12, "", "")
	}
	for _, n := range []struct {
		off   int
		field string
		have  uint32
		most  uint64
	}{
		{0x0c, "bg_free_blocks_count", g.FreeClusters, clusters},
		{0x0e, "bg_free_inodes_count", g.FreeInodes, uint64(ipg)},
		{0x10, "bg_used_dirs_count", g.UsedDirs, uint64(ipg)},
	} {
		if uint64(n.have) > n.most {
			bad(groupCounts, n.off, fmt.Sprintf("%s is %d", n.field, n.have), fmt.Sprintf("at most %d", n.most))
		}
	}
}

// wantGroupSum is the right checksum of a descriptor, read again.
func (c *checker) wantGroupSum(num disk.Group) string {
	size, per := c.sb.GroupDescSize(), uint64(c.sb.DescPerBlock())
	buf := make([]byte, c.bs)
	if err := c.read(c.sb.DescBlock(c.superBlock(), uint64(num)/per), buf); err != nil {
		return "another"
	}
	return hex(disk.GroupDescChecksum(&c.sb, num, buf[int(uint64(num)%per)*size:][:size]))
}

// uninitBlocks reports whether the block bitmap of g was never written.
func (c *checker) uninitBlocks(g *group) bool {
	return c.sb.DescChecksums() && g.Flags&disk.GroupBlockUninit != 0
}

// uninitInodes likewise of its inodes.
func (c *checker) uninitInodes(g *group) bool {
	return c.sb.DescChecksums() && g.Flags&disk.GroupInodeUninit != 0
}

// tableInodes is how many inodes of g were ever used, as its descriptor says.
func (c *checker) tableInodes(g *group) uint32 {
	if !c.sb.DescChecksums() {
		return c.sb.InodesPerGroup
	}
	if g.Flags&disk.GroupInodeUninit != 0 {
		return 0
	}
	return c.sb.InodesPerGroup - min(g.ItableUnused, c.sb.InodesPerGroup)
}

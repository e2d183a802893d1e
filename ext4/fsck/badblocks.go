package fsck

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// checkBadBlocks checks inode 1, whose blocks are the bad ones, before all
// others, so that whoever claims one of them is found out (process_bad_block).
func (c *checker) checkBadBlocks() error {
	w := &worker{c: c, ctx: c.ctx}
	raw, at, ok, err := w.readInode(disk.BadIno)
	if err != nil || !ok || zero(raw) {
		return err
	}
	in := disk.DecodeInode(raw)
	badSum := c.sb.MetadataCsum() && in.Checksum != disk.InodeChecksum(c.seed, disk.BadIno, raw)
	for _, f := range []struct {
		wrong bool
		what  string
	}{
		{badSum, "a wrong checksum"},
		{in.Mode != 0, fmt.Sprintf("mode %#o", uint16(in.Mode))},
		{in.UID&0xffff != 0, fmt.Sprintf("uid %d", in.UID)},
		{in.GID&0xffff != 0, fmt.Sprintf("gid %d", in.GID)},
		{in.Links != 0, fmt.Sprintf("%d links", in.Links)},
		{in.Flags.Has(disk.FlagInlineData), "inline data"},
		{in.FileACL&0xffffffff != 0, "a block of xattrs"},
	} {
		if f.wrong {
			c.rep.add(badBlocksInode, Problem{Place: at, Have: f.what})
			break
		}
	}
	b := badBlocks{w: w, at: at, in: &in}
	if in.Flags.Has(disk.FlagExtents) {
		return b.extents()
	}
	for i := range disk.DirectBlocks {
		b.data(disk.PBlock(binary.LittleEndian.Uint32(in.Block[4*i:])))
	}
	for level := 1; level <= 3; level++ {
		if err := b.numbers(disk.PBlock(binary.LittleEndian.Uint32(in.Block[4*(disk.DirectBlocks+level-1):])), level); err != nil {
			return err
		}
	}
	return nil
}

// badBlocks goes through the list of bad blocks.
type badBlocks struct {
	w    *worker
	at   Place
	in   *disk.Inode
	bufs [4][]byte
	all  []metaPlace
}

func (b *badBlocks) problem(k *Kind, blk disk.PBlock, want string) {
	b.w.c.rep.add(k, Problem{Place: b.at, Have: dec(blk), Want: want})
}

func (b *badBlocks) extents() error {
	runs, err := b.w.runs(disk.BadIno, b.in)
	for _, r := range runs {
		for i := range r.n {
			if !b.data(r.p + disk.PBlock(i)) {
				return err
			}
		}
	}
	return err
}

// numbers goes through a block of numbers on the given level above the blocks.
func (b *badBlocks) numbers(blk disk.PBlock, level int) error {
	c := b.w.c
	if blk == 0 {
		return nil
	}
	if !c.legal(blk) || uint64(blk) >= c.blocks {
		b.problem(badBlocksIllegal, blk, c.wantLegal())
		return nil
	}
	if cluster := c.cluster(blk); c.used.add(cluster) {
		b.problem(badBlocksMeta, blk, "")
		if c.revisits.Add(-1) < 0 {
			return nil
		}
	}
	if b.bufs[level] == nil {
		b.bufs[level] = make([]byte, c.bs)
	}
	buf := b.bufs[level]
	if err := c.read(blk, buf); err != nil {
		if errors.Is(err, errBeyond) {
			return nil
		}
		return fmt.Errorf("list of bad blocks: %w", err)
	}
	for i := 0; i < len(buf); i += 4 {
		n := disk.PBlock(binary.LittleEndian.Uint32(buf[i:]))
		if level == 1 {
			if !b.data(n) {
				return nil
			}
		} else if err := b.numbers(n, level-1); err != nil {
			return err
		}
	}
	return nil
}

// data notes that blk is a bad block. It returns false when the list names
// blocks more often than there are any.
func (b *badBlocks) data(blk disk.PBlock) (more bool) {
	c := b.w.c
	if blk == 0 {
		return true
	}
	if !c.legal(blk) {
		b.problem(badBlocksIllegal, blk, c.wantLegal())
		return true
	}
	c.stats.BadBlocks++
	if uint64(blk) >= c.blocks || !c.used.add(c.cluster(blk)) {
		return true
	}
	b.whose(blk)
	return c.revisits.Add(-1) >= 0
}

// A metaPlace is where a group has its bitmaps or its table.
type metaPlace struct {
	first disk.PBlock
	n     uint64
	group disk.Group
	kind  *Kind // of a bad block there
}

// places returns where all groups have theirs, in the order of the device.
func (b *badBlocks) places() []metaPlace {
	if b.all == nil {
		c := b.w.c
		for i := range c.groups {
			g, num := &c.groups[i], disk.Group(i)
			b.all = append(b.all, metaPlace{g.BlockBitmap, 1, num, badBlocksBBitmap}, metaPlace{g.InodeBitmap, 1, num, badBlocksIBitmap},
				metaPlace{g.InodeTable, uint64(c.sb.ItableBlocks()), num, badBlocksTable})
		}
		slices.SortFunc(b.all, func(x, y metaPlace) int { return cmp.Compare(x.first, y.first) })
	}
	return b.all
}

// whose tells what metadata the bad block blk is, since something has claimed it before.
func (b *badBlocks) whose(blk disk.PBlock) {
	c := b.w.c
	in := func(k *Kind, num disk.Group) {
		c.rep.add(k, Problem{Place: Place{Group: num, InGroup: true, Block: blk, OnBlock: true}, Have: dec(blk)})
	}
	num := c.sb.GroupOf(blk)
	if first := c.sb.FirstBlock(num); c.sb.HasSuper(num) && uint64(blk-first) <= c.sb.DescBlocks() {
		if num == 0 {
			in(badBlocksSuper, num)
		} else {
			in(badBlocksBackup, num)
		}
		return
	}
	places := b.places()
	i, ok := slices.BinarySearchFunc(places, blk, func(p metaPlace, blk disk.PBlock) int { return cmp.Compare(p.first, blk) })
	if !ok {
		i--
	}
	if i >= 0 && uint64(blk-places[i].first) < places[i].n {
		in(places[i].kind, places[i].group)
		if places[i].kind == badBlocksTable {
			b.inTable(places[i].group, blk-places[i].first)
		}
		return
	}
	for level := 1; level <= 3; level++ {
		if blk == disk.PBlock(binary.LittleEndian.Uint32(b.in.Block[4*(disk.DirectBlocks+level-1):])) {
			b.problem(badBlocksMeta, blk, "")
			return
		}
	}
	b.problem(badBlocksNowhere, blk, "")
}

// inTable notes that the inodes in block n of a group's table cannot be believed.
func (b *badBlocks) inTable(num disk.Group, n disk.PBlock) {
	c := b.w.c
	per := uint64(c.sb.InodesPerBlock())
	first := uint64(num)*uint64(c.sb.InodesPerGroup) + uint64(n)*per + 1
	end := min(first+per, uint64(num)*uint64(c.sb.InodesPerGroup)+uint64(c.tableInodes(&c.groups[num]))+1, c.inodes.used.n)
	if first < end {
		c.inodes.inBad.addRange(first, end-first, nil)
		c.inodes.used.addRange(first, end-first, nil)
	}
}

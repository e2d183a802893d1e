package fsck

import (
	"encoding/binary"
	"errors"
	"fmt"

	"e4go/ext4/disk"
)

// checkMMP judges the block of multiple mount protection.
func (c *checker) checkMMP() error {
	if !c.sb.Incompat.Has(disk.IncompatMMP) {
		return nil
	}
	b := c.sb.MMPBlock
	if uint64(b) <= uint64(c.sb.FirstDataBlock) || uint64(b) >= c.sb.Blocks {
		c.superProblem(mmpBlock, c.superAt, 0x168, dec(b), c.wantLegal())
		return nil
	}
	buf := make([]byte, c.bs)
	at := Place{Block: b, OnBlock: true}
	switch err := c.read(b, buf); {
	case errors.Is(err, errBeyond):
		c.superProblem(mmpBlock, c.superAt, 0x168, dec(b), "a block on the device")
		return nil
	case err != nil:
		return fmt.Errorf("MMP block: %w", err)
	}
	if err, _ := disk.CheckMMP(&c.sb, buf, b).(*disk.CorruptError); err != nil {
		k := mmpMagic
		if err.Field == "mmp_checksum" {
			k = mmpChecksum
		}
		at.Off = err.Off
		c.rep.add(k, Problem{Place: at, Have: err.Have, Want: err.Want})
		return nil
	}
	switch m := disk.DecodeMMP(buf); {
	case m.Seq == disk.MMPSeqClean:
	case m.Seq > disk.MMPSeqMax:
		at.Off = 4
		c.rep.add(mmpSeq, Problem{Place: at, Have: hex(m.Seq)})
	default:
		c.rep.add(mmpInUse, Problem{Place: at, Have: fmt.Sprintf("%q, device %q", m.Node, m.Dev)})
	}
	return nil
}

// checkResize compares the resize inode with the reserved descriptor blocks,
// whose map it is (check_resize_inode).
func (c *checker) checkResize() error {
	w := &worker{c: c, ctx: c.ctx}
	raw, at, ok, err := w.readInode(disk.ResizeIno)
	if err != nil || !ok {
		return err
	}
	in := disk.DecodeInode(raw)
	if !c.sb.Compat.Has(disk.CompatResizeInode) {
		if !zero(in.Block[:56]) || binary.LittleEndian.Uint32(in.Block[56:]) != 0 {
			c.rep.add(resizeUnexpected, Problem{Place: at})
		}
		return nil
	}
	bad := func(off int, have, want string) {
		at.Off += off
		c.rep.add(resizeMap, Problem{Place: at, Have: have, Want: want})
	}
	const double = 4 * (disk.DirectBlocks + 1)
	dind := disk.PBlock(binary.LittleEndian.Uint32(in.Block[double:]))
	for i := 0; i < disk.IBlockSize; i += 4 {
		if b := binary.LittleEndian.Uint32(in.Block[i:]); i != double && b != 0 {
			bad(disk.IBlockOffset+i, fmt.Sprintf("block %d", b), "0")
			return nil
		}
	}
	switch {
	case dind == 0 || !c.legal(dind) || uint64(dind) >= c.blocks:
		bad(disk.IBlockOffset+double, fmt.Sprintf("block %d", dind), c.wantLegal())
		return nil
	case in.Links == 0 || in.Mode&disk.ModeReg == 0:
		bad(0, fmt.Sprintf("mode %#o with %d links", uint16(in.Mode), in.Links), "a regular file in use")
		return nil
	}
	return c.checkReservedGDT(dind, at)
}

// checkReservedGDT goes through the reserved descriptor blocks, each of which names
// its copies in other groups.
func (c *checker) checkReservedGDT(dind disk.PBlock, at Place) error {
	bad := func(blk disk.PBlock, i int, have uint32, want disk.PBlock) {
		at.Block, at.Off = blk, 4*i
		c.rep.add(resizeMap, Problem{Place: at, Have: fmt.Sprintf("block %d", have), Want: dec(want)})
	}
	doubles, singles := make([]byte, c.bs), make([]byte, c.bs)
	if err := c.read(dind, doubles); err != nil {
		return fmt.Errorf("resize inode: %w", err)
	}
	descs := c.sb.DescBlocks()
	blk := disk.PBlock(uint64(c.sb.FirstDataBlock) + 1 + descs)
	if c.bs == 1024 && c.sb.FirstDataBlock == 0 {
		blk++
	}
	for n := range min(int(c.sb.ReservedGDT), c.bs/4) / 4 {
		i := int((descs + uint64(n)) % uint64(c.bs/4))
		if have := binary.LittleEndian.Uint32(doubles[4*i:]); disk.PBlock(have) != blk {
			bad(dind, i, have, blk)
			return nil
		}
		if err := c.read(blk, singles); err != nil {
			if errors.Is(err, errBeyond) {
				return nil
			}
			return fmt.Errorf("resize inode: %w", err)
		}
		k := 0
		for g := 1; g < len(c.groups) && 4*k < len(singles); g++ {
			if !c.sb.HasSuper(disk.Group(g)) {
				continue
			}
			want := blk + disk.PBlock(uint64(g)*uint64(c.sb.BlocksPerGroup))
			if have := binary.LittleEndian.Uint32(singles[4*k:]); have != uint32(want) {
				bad(blk, k, have, want)
				return nil
			}
			k++
		}
		blk++
	}
	return nil
}

// findOrphans marks the inodes that wait to be deleted or cut at the next
// mount: their list begins in the superblock, or they stand in the orphan
// file. Without replay they are judged as what they are now.
func (c *checker) findOrphans() error {
	if c.sb.Compat.Has(disk.CompatOrphanFile) && (c.sb.OrphanFileIno < c.sb.FirstIno || !c.sb.ValidIno(c.sb.OrphanFileIno)) {
		c.superProblem(orphanInum, c.superAt, 0x280, dec(c.sb.OrphanFileIno), fmt.Sprintf("%d to %d", c.sb.FirstIno, c.sb.Inodes))
	}
	if !c.opts.Replay || c.sb.State&disk.StateError != 0 {
		return nil // errors make the kernel forget them
	}
	w := &worker{c: c, ctx: c.ctx}
	ino, from := c.sb.LastOrphan, disk.Ino(0)
	for ino != 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		next, ok, err := w.orphan(ino, from)
		if err != nil || !ok {
			return err
		}
		ino, from = next, ino
	}
	if !c.sb.Compat.Has(disk.CompatOrphanFile) {
		return nil
	}
	return w.orphanFile(func(l uint64, blk disk.PBlock, b []byte) error {
		for _, ino := range disk.OrphanInos(b) {
			if _, _, err := w.orphan(ino, c.sb.OrphanFileIno); err != nil {
				return err
			}
		}
		return nil
	})
}

// orphan marks inode ino, which from leads to, and returns the next one.
func (w *worker) orphan(ino, from disk.Ino) (next disk.Ino, ok bool, err error) {
	c := w.c
	if ino < c.sb.FirstIno || !c.sb.ValidIno(ino) || uint64(ino) >= c.inodes.orphan.n {
		want := fmt.Sprintf("0 or %d to %d", c.sb.FirstIno, c.sb.Inodes)
		if from == 0 {
			c.superProblem(orphanHead, c.superAt, 0xe8, dec(ino), want)
		} else {
			c.rep.add(orphanNext, Problem{Place: Place{Ino: from}, Have: dec(ino), Want: want})
		}
		return 0, false, nil
	}
	if c.inodes.orphan.has(uint64(ino)) {
		c.rep.add(orphanNext, Problem{Place: Place{Ino: from}, Have: dec(ino), Want: "one that is not on it"})
		return 0, false, nil
	}
	raw, at, found, err := w.readInode(ino)
	if err != nil {
		return 0, false, fmt.Errorf("orphans: %w", err)
	}
	in := disk.DecodeInode(make([]byte, disk.GoodOldInodeSize))
	if found {
		in = disk.DecodeInode(raw)
	}
	if in.Mode == 0 {
		c.rep.add(orphanUnused, Problem{Place: at})
		return 0, false, nil
	}
	c.inodes.orphan.add(uint64(ino))
	what := "deleted"
	if in.Links > 0 {
		what = "cut"
	}
	c.rep.add(orphanPending, Problem{Place: at, Have: what})
	return disk.Ino(in.Dtime), true, nil
}

// orphanFile calls each with the blocks of the orphan file that can be read.
func (w *worker) orphanFile(each func(l uint64, blk disk.PBlock, b []byte) error) error {
	c := w.c
	raw, _, ok, err := w.readInode(c.sb.OrphanFileIno)
	if err != nil || !ok {
		return err
	}
	in := disk.DecodeInode(raw)
	runs, err := w.runs(c.sb.OrphanFileIno, &in)
	if err != nil {
		return err
	}
	buf := make([]byte, c.bs)
	end := in.Size >> c.bits
	for _, r := range runs {
		for i := range r.n {
			if r.l+i >= end {
				return nil
			}
			if err := c.ctx.Err(); err != nil {
				return err
			}
			switch err := c.read(r.p+disk.PBlock(i), buf); {
			case errors.Is(err, errBeyond):
				continue
			case err != nil:
				return fmt.Errorf("orphan file: %w", err)
			}
			if err := each(r.l+i, r.p+disk.PBlock(i), buf); err != nil {
				return err
			}
		}
	}
	return nil
}

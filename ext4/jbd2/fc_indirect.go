package jbd2

import (
	"encoding/binary"
	"fmt"
	"math"

	"e4go/ext4/disk"
)

// Files without an extent tree: twelve block numbers in i_block, then those of
// an indirect block, a double and a triple indirect one. The kernel logs their
// changes in fast commits like those of others, though its own replay cannot
// make them.

const firstIndirect = disk.DirectBlocks // the slot of i_block that holds the indirect block

// indirectLimit is the number of blocks that an indirect map has room for.
func (fs *fcFS) indirectLimit() uint64 {
	per := uint64(fs.bs / 4)
	return min(disk.DirectBlocks+per+per*per+per*per*per, 1<<32)
}

// slots calls fn with each slot of i_block, the first block of the file that it
// stands for, and how many.
func (fs *fcFS) slots(fn func(i int, at, span uint64) error) error {
	per, at, span := uint64(fs.bs/4), uint64(0), uint64(1)
	for i := range disk.IBlockSize / 4 {
		if i >= firstIndirect {
			span *= per
		}
		if err := fn(i, at, span); err != nil {
			return err
		}
		at += span
	}
	return nil
}

// readIndirect reads the block map of n. Each block of it is read once,
// whatever the map says.
func (fs *fcFS) readIndirect(n *fcInode) (fcMap, error) {
	var m fcMap
	per := uint64(fs.bs / 4)
	seen := make(map[disk.PBlock]struct{})
	var walk func(b disk.PBlock, at, span uint64) error
	walk = func(b disk.PBlock, at, span uint64) error {
		if b == 0 || at >= 1<<32 {
			return nil
		}
		if _, again := seen[b]; again || !fs.sb.ValidRange(b, 1) {
			return &disk.CorruptError{
				Struct: "block map of inode", Num: uint64(n.ino), Block: n.blk, Off: n.off + disk.IBlockOffset, Field: "i_block",
				Have: fmt.Sprint(b), Want: fmt.Sprintf("below %d, and in the map only once", fs.sb.Blocks),
			}
		}
		if span == 1 {
			if k := len(m.ext); k > 0 && m.ext[k-1].end() == at && m.ext[k-1].start+disk.PBlock(m.ext[k-1].len) == b {
				m.ext[k-1].len++
			} else {
				m.ext = append(m.ext, fcExtent{block: at, len: 1, start: b})
			}
			return nil
		}
		seen[b] = struct{}{}
		m.nodes = append(m.nodes, b)
		table, err := fs.read(b)
		if err != nil {
			return err
		}
		for i := range per {
			if err := walk(disk.PBlock(binary.LittleEndian.Uint32(table[4*i:])), at+i*(span/per), span/per); err != nil {
				return err
			}
		}
		return nil
	}
	err := fs.slots(func(i int, at, span uint64) error {
		return walk(disk.PBlock(binary.LittleEndian.Uint32(n.in.Block[4*i:])), at, span)
	})
	return m, err
}

// checkIndirect reports whether an indirect map cannot hold e.
func (fs *fcFS) checkIndirect(n *fcInode, e fcExtent) error {
	bad := func(have, want string) error {
		return fs.badRecord(n.ino, "fc_ex", have, want+", as the file has no extents")
	}
	switch {
	case e.unwritten:
		return bad("an unwritten extent", "a written one")
	case e.end() > fs.indirectLimit():
		return bad(fmt.Sprintf("file block %d", e.end()-1), fmt.Sprintf("below %d", fs.indirectLimit()))
	case uint64(e.start)+e.len > math.MaxUint32:
		return bad(fmt.Sprintf("block %d", e.start), "32 bits")
	}
	return nil
}

// writeIndirect stages the indirect blocks of n's map and puts its first slots
// into the inode. It uses the old indirect blocks first, and frees those left.
func (fs *fcFS) writeIndirect(n *fcInode) error {
	per := uint64(fs.bs / 4)
	spare := n.nodes
	n.nodes = nil
	var build func(at, span uint64) (disk.PBlock, error)
	build = func(at, span uint64) (disk.PBlock, error) {
		i := n.find(at)
		if i == len(n.ext) || n.ext[i].block >= at+span {
			return 0, nil
		}
		if span == 1 {
			b, _ := n.lookup(at)
			return b, nil
		}
		blk, err := fs.treeBlock(n, &spare)
		if err != nil {
			return 0, err
		}
		table := fs.fresh(blk)
		for i := range per {
			b, err := build(at+i*(span/per), span/per)
			if err != nil {
				return 0, err
			}
			binary.LittleEndian.PutUint32(table[4*i:], uint32(b))
		}
		return blk, nil
	}
	err := fs.slots(func(i int, at, span uint64) error {
		b, err := build(at, span)
		binary.LittleEndian.PutUint32(n.in.Block[4*i:], uint32(b))
		return err
	})
	if err != nil {
		return err
	}
	return fs.freeSpare(spare)
}

// treeBlock takes a block for n's block map: one of spare, or a new one.
func (fs *fcFS) treeBlock(n *fcInode, spare *[]disk.PBlock) (disk.PBlock, error) {
	if s := *spare; len(s) > 0 {
		*spare = s[1:]
		n.nodes = append(n.nodes, s[0])
		return s[0], nil
	}
	goal := n.blk
	if len(n.ext) > 0 {
		goal = n.ext[0].start
	}
	b, err := fs.allocate(goal)
	if err == nil {
		n.nodes = append(n.nodes, b)
	}
	return b, err
}

// freeSpare frees what a smaller block map no longer needs.
func (fs *fcFS) freeSpare(spare []disk.PBlock) error {
	for _, b := range spare {
		delete(fs.stage, b)
		if err := fs.markBlocks(b, 1, false); err != nil {
			return err
		}
	}
	return nil
}

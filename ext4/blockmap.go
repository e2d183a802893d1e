package ext4

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// The older form of a file's map: i_block holds the numbers of the first 12
// blocks, then those of a block of numbers, of a block of such blocks, and of
// a block of those (ext4_block_to_path). 0 is a hole.

// indirectLeaf returns the part of the map that covers block b: the direct
// blocks, or those that one block of numbers names. Where a block of numbers
// is missing, it is the hole that this leaves, however large.
func (in *Inode) indirectLeaf(b disk.LBlock) (mapLeaf, error) {
	if b < disk.DirectBlocks {
		return in.directLeaf()
	}
	perBits := in.fs.sb.BlockBits() - 2
	base := uint64(disk.DirectBlocks)
	for level := uint(1); level <= 3; level++ {
		span := uint64(1) << (perBits * level)
		if uint64(b) < base+span {
			return in.indirectTree(level, base, uint64(b)-base)
		}
		base += span
	}
	return mapLeaf{owner: in.ino, first: disk.LBlock(base), end: maxLogical}, nil
}

// directLeaf is the leaf of the direct blocks, decoded once.
func (in *Inode) directLeaf() (mapLeaf, error) {
	if l := in.rootLeaf.Load(); l != nil && in.tx == nil {
		return *l, nil
	}
	l := &mapLeaf{owner: in.ino, end: disk.DirectBlocks}
	if err := in.addPointers(l, in.disk.Block[:4*disk.DirectBlocks], in.block, in.off+disk.IBlockOffset); err != nil {
		return mapLeaf{}, err
	}
	if in.tx == nil {
		in.rootLeaf.Store(l)
	}
	return *l, nil
}

// indirectTree descends the tree of level levels of blocks of numbers, which
// maps the blocks from base on, to its block number rel.
func (in *Inode) indirectTree(level uint, base, rel uint64) (mapLeaf, error) {
	perBits := in.fs.sb.BlockBits() - 2
	next, err := in.pointer(in.disk.Block[:], disk.DirectBlocks+int(level)-1, in.block, in.off+disk.IBlockOffset)
	var data []byte                               // the block of numbers that next is from; nil at the root
	for below := level - 1; err == nil; below-- { // levels under the block at hand
		// What this pointer leads to.
		span := uint64(1) << (perBits * (below + 1))
		first := base + rel/span*span
		if next == 0 {
			run := uint64(1) // so many pointers, from here on, lead nowhere
			for i := int(rel/span)&(1<<perBits-1) + 1; i < len(data)/4 && binary.LittleEndian.Uint32(data[4*i:]) == 0; i++ {
				run++
			}
			return mapLeaf{owner: in.ino, first: disk.LBlock(first), end: min(first+run*span, maxLogical)}, nil
		}
		if below == 0 {
			return in.pointerLeaf(next, disk.LBlock(first), min(first+span, maxLogical))
		}
		if data, err = in.meta(kindIndirect, next, 0, nil); err == nil {
			next, err = in.pointer(data, int(rel>>(perBits*below))&(1<<perBits-1), next, 0)
		}
	}
	return mapLeaf{}, err
}

// indirectBase is the first logical block that the tree of level levels holds.
func indirectBase(level int, blockBits uint) uint64 {
	base := uint64(disk.DirectBlocks)
	for l := 1; l < level; l++ {
		base += 1 << ((blockBits - 2) * uint(l))
	}
	return base
}

// pointerLeaf is what the block of numbers n, which maps the blocks [first,
// end), says, through the cache.
func (in *Inode) pointerLeaf(n disk.PBlock, first disk.LBlock, end uint64) (mapLeaf, error) {
	if l, ok := get[*mapLeaf](in.fs.cache, kindMapLeaf, uint64(n)); ok && !in.changes(n) && l.owner == in.ino && l.first == first && l.end == end {
		return *l, nil
	}
	mark := in.fs.live.mark(n)
	data, err := in.bytes(n)
	if err != nil {
		return mapLeaf{}, err
	}
	leaf := &mapLeaf{owner: in.ino, first: first, end: end}
	if err := in.addPointers(leaf, data, n, 0); err != nil {
		return mapLeaf{}, err
	}
	in.keep(kindMapLeaf, n, mark, leaf)
	return *leaf, nil
}

// addPointers adds the blocks that the numbers in b name to leaf, in order.
func (in *Inode) addPointers(leaf *mapLeaf, b []byte, n disk.PBlock, off int) error {
	for i := 0; i < len(b)/4 && uint64(leaf.first)+uint64(i) < leaf.end; i++ {
		p, err := in.pointer(b, i, n, off)
		if err != nil {
			return err
		}
		if p != 0 {
			leaf.add(Mapping{Logical: leaf.first + disk.LBlock(i), Len: 1, Physical: p, State: MapWritten})
		}
	}
	return nil
}

// pointer is block number i of those in b, which lie in block n at byte off.
func (in *Inode) pointer(b []byte, i int, n disk.PBlock, off int) (disk.PBlock, error) {
	p := disk.PBlock(binary.LittleEndian.Uint32(b[4*i:]))
	if p == 0 {
		return 0, nil
	}
	if in.fs.sb.ValidRange(p, 1) {
		return p, in.checkBlocks(p, 1, n, off+4*i)
	}
	return 0, &disk.CorruptError{
		Struct: "indirect block of inode", Num: uint64(in.ino), Block: n, Off: off + 4*i,
		Field: fmt.Sprintf("pointer %d", i), Have: fmt.Sprint(p), Want: fmt.Sprintf("below %d", in.fs.sb.Blocks),
	}
}

package ext4

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// The older form of a file's map: i_block holds the numbers of the first 12
// blocks, then those of a block of numbers, of a block of such blocks, and of
// a block of those (ext4_block_to_path). 0 is a hole.

// indirectPath is the way to logical block b: the slot of i_block to start
// from, the slots to take in the blocks below, and the range of blocks that
// the last of them covers. ok is false for blocks beyond what the map can hold.
func indirectPath(b disk.LBlock, blockBits uint) (slots []int, first, end uint64, ok bool) {
	perBits := blockBits - 2
	n := uint64(b)
	if n < disk.DirectBlocks {
		return []int{int(n)}, 0, disk.DirectBlocks, true
	}
	base := uint64(disk.DirectBlocks)
	for level := uint(1); level <= 3; level++ {
		span := uint64(1) << (perBits * level)
		if n < base+span {
			rel := n - base
			slots = append(slots, disk.DirectBlocks+int(level)-1)
			for l := level; l > 0; l-- {
				slots = append(slots, int(rel>>(perBits*(l-1)))&(1<<perBits-1))
			}
			first = base + rel>>perBits<<perBits
			return slots, first, first + 1<<perBits, true
		}
		base += span
	}
	return nil, base, maxLogical, false
}

// indirectLeaf returns the part of the map that covers block b: the direct
// blocks, or those that one block of numbers names. Where a block of numbers
// is missing, it is the hole that this leaves, however large.
func (in *Inode) indirectLeaf(b disk.LBlock) (*mapLeaf, error) {
	bits := in.fs.sb.BlockBits()
	slots, first, end, ok := indirectPath(b, bits)
	end = min(end, maxLogical)
	leaf := &mapLeaf{owner: in.ino, first: disk.LBlock(first), end: end}
	if !ok {
		return leaf, nil
	}
	root := in.disk.Block[:]
	if len(slots) == 1 {
		return leaf, in.addPointers(leaf, root[:4*disk.DirectBlocks], in.block, in.off+disk.IBlockOffset)
	}
	at := slots[0]
	next, err := in.pointer(root, at, in.block, in.off+disk.IBlockOffset)
	for i, slot := range slots[1:] {
		if err != nil {
			return nil, err
		}
		below := uint(len(slots) - 2 - i) // levels under the block at hand
		if next == 0 {
			// All that this pointer would lead to is a hole.
			span := uint64(1) << ((bits - 2) * (below + 1))
			base := indirectBase(len(slots)-1, bits)
			f := base + (uint64(b)-base)/span*span
			return &mapLeaf{owner: in.ino, first: disk.LBlock(f), end: min(f+span, maxLogical)}, nil
		}
		if below == 0 {
			return in.pointerLeaf(next, leaf)
		}
		var data []byte
		data, err = in.fs.meta(kindIndirect, next, 0, nil)
		if err != nil {
			return nil, err
		}
		next, err = in.pointer(data, slot, next, 0)
	}
	return nil, err
}

// indirectBase is the first logical block that the tree of level levels holds.
func indirectBase(level int, blockBits uint) uint64 {
	base := uint64(disk.DirectBlocks)
	for l := 1; l < level; l++ {
		base += 1 << ((blockBits - 2) * uint(l))
	}
	return base
}

// pointerLeaf is leaf filled from the block of numbers n, through the cache.
func (in *Inode) pointerLeaf(n disk.PBlock, leaf *mapLeaf) (*mapLeaf, error) {
	if l, ok := get[*mapLeaf](in.fs.cache, kindMapLeaf, uint64(n)); ok && l.owner == in.ino && l.first == leaf.first && l.end == leaf.end {
		return l, nil
	}
	data := make([]byte, in.fs.sb.BlockSize())
	if err := in.fs.readBlocks(data, n); err != nil {
		return nil, err
	}
	if err := in.addPointers(leaf, data, n, 0); err != nil {
		return nil, err
	}
	in.fs.cache.put(kindMapLeaf, uint64(n), leaf)
	return leaf, nil
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
	if p == 0 || in.fs.sb.ValidRange(p, 1) {
		return p, nil
	}
	return 0, &disk.CorruptError{
		Struct: "indirect block of inode", Num: uint64(in.ino), Block: n, Off: off + 4*i,
		Field: fmt.Sprintf("pointer %d", i), Have: fmt.Sprint(p), Want: fmt.Sprintf("below %d", in.fs.sb.Blocks),
	}
}

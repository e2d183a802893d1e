package jbd2

import (
	"cmp"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// fcExtent is a run of blocks of a file. Unlike a disk.Extent it has no
// longest length.
type fcExtent struct {
	block     uint64 // in the file
	len       uint64
	start     disk.PBlock
	unwritten bool
}

func (e fcExtent) end() uint64 { return e.block + e.len }

// cut returns what of e lies in [from, to), which it overlaps.
func (e fcExtent) cut(from, to uint64) fcExtent {
	from, to = max(from, e.block), min(to, e.end())
	e.start += disk.PBlock(from - e.block)
	e.block, e.len = from, to-from
	return e
}

// fcMap is the block map of one file.
type fcMap struct {
	ext     []fcExtent    // in rising order, apart from each other
	nodes   []disk.PBlock // blocks of the tree, or indirect blocks
	changed bool          // the tree on the device is another
}

// find returns the index of the first extent that ends behind block.
func (m *fcMap) find(block uint64) int {
	i, _ := slices.BinarySearchFunc(m.ext, block, func(e fcExtent, b uint64) int {
		if e.end() <= b {
			return -1
		}
		return 1
	})
	return i
}

// lookup returns the physical block of a block of the file.
func (m *fcMap) lookup(block uint64) (disk.PBlock, bool) {
	i := m.find(block)
	if i == len(m.ext) || m.ext[i].block > block {
		return 0, false
	}
	return m.ext[i].start + disk.PBlock(block-m.ext[i].block), true
}

// set makes [e.block, e.end()) be e, or a hole if e.start is 0, and returns the
// runs that were mapped there to other blocks.
func (m *fcMap) set(e fcExtent) (old []Extent) {
	from, to := e.block, e.end()
	i := m.find(from)
	j := i
	var keep []fcExtent
	for ; j < len(m.ext) && m.ext[j].block < to; j++ {
		x := m.ext[j]
		if x.block < from {
			keep = append(keep, x.cut(x.block, from))
		}
		mid := x.cut(from, to)
		if e.start == 0 || mid.start != e.start+disk.PBlock(mid.block-from) {
			for mid.len > 0 {
				n := min(mid.len, 1<<31)
				old = append(old, Extent{Len: uint32(n), Start: mid.start})
				mid = fcExtent{block: mid.block + n, len: mid.len - n, start: mid.start + disk.PBlock(n)}
			}
		}
		if x.end() > to {
			keep = append(keep, x.cut(to, x.end()))
		}
	}
	if e.start != 0 {
		at := len(keep)
		if at > 0 && keep[at-1].block >= to {
			at--
		}
		keep = slices.Insert(keep, at, e)
	}
	if e.start != 0 || i != j {
		m.ext = slices.Replace(m.ext, i, j, keep...)
		m.changed = true
		m.merge(max(i-1, 0), min(i+len(keep)+1, len(m.ext)))
	}
	return old
}

// merge joins neighbours in ext[from:to] that continue each other.
func (m *fcMap) merge(from, to int) {
	out := from
	for k := from + 1; k < to; k++ {
		a, b := &m.ext[out], m.ext[k]
		if a.end() == b.block && a.start+disk.PBlock(a.len) == b.start && a.unwritten == b.unwritten {
			a.len += b.len
			continue
		}
		out++
		m.ext[out] = b
	}
	if out+1 < to {
		m.ext = slices.Delete(m.ext, out+1, to)
	}
}

// readTree reads the extent tree of inode n. Each block of it is read once,
// whatever the tree says.
func (fs *fcFS) readTree(n *fcInode) (fcMap, error) {
	var m fcMap
	seen := make(map[disk.PBlock]struct{})
	var walk func(b []byte, depth int, in disk.ExtentBounds, blk disk.PBlock, off int) error
	walk = func(b []byte, depth int, in disk.ExtentBounds, blk disk.PBlock, off int) error {
		if err := disk.CheckExtentHeader(n.ino, b, depth, blk, off); err != nil {
			return err
		}
		h := disk.DecodeExtentHeader(b)
		if depth >= 0 && fs.sb.MetadataCsum() {
			if err := disk.CheckExtentChecksum(n.ino, n.seed, b, blk); err != nil {
				return err
			}
		}
		for i := range int(h.Entries) {
			if err := disk.CheckExtentEntry(&fs.sb, n.ino, b, i, in, blk, off); err != nil {
				return err
			}
			if h.Depth == 0 {
				e := disk.DecodeExtent(disk.ExtentEntry(b, i))
				m.ext = append(m.ext, fcExtent{uint64(e.Block), uint64(e.Len), e.Start, e.Unwritten})
				continue
			}
			x := disk.DecodeExtentIdx(disk.ExtentEntry(b, i))
			if _, ok := seen[x.Leaf]; ok {
				return &disk.CorruptError{
					Struct: "extent node of inode", Num: uint64(n.ino), Block: blk, Off: off + disk.ExtentHeaderSize + i*disk.ExtentSize + 4,
					Field: "ei_leaf", Have: fmt.Sprint(x.Leaf), Want: "a block that is not in the tree already",
				}
			}
			seen[x.Leaf] = struct{}{}
			m.nodes = append(m.nodes, x.Leaf)
			child, err := fs.read(x.Leaf)
			if err != nil {
				return err
			}
			if err := walk(child, int(h.Depth)-1, disk.ChildBounds(b, i, in), x.Leaf, 0); err != nil {
				return err
			}
		}
		return nil
	}
	err := walk(n.in.Block[:], -1, disk.AllExtents, n.blk, n.off+disk.IBlockOffset)
	if err == nil && len(m.ext) > 0 {
		m.merge(0, len(m.ext))
	}
	return m, err
}

// writeTree stages a tree for n's extents and puts its root into the inode. It
// uses the blocks of the old tree first, and frees those left over.
func (fs *fcFS) writeTree(n *fcInode) error {
	perNode := (fs.bs - disk.ExtentHeaderSize) / disk.ExtentSize
	spare := n.nodes
	n.nodes = nil
	var leaf []disk.Extent
	for _, e := range n.ext {
		limit := uint64(1 << 15)
		if e.unwritten {
			limit--
		}
		for e.len > 0 {
			c := min(e.len, limit)
			leaf = append(leaf, disk.Extent{Block: disk.LBlock(e.block), Len: uint16(c), Unwritten: e.unwritten, Start: e.start})
			e = fcExtent{e.block + c, e.len - c, e.start + disk.PBlock(c), e.unwritten}
		}
	}
	const perRoot = (disk.IBlockSize - disk.ExtentHeaderSize) / disk.ExtentSize
	fill := func(b []byte, count, room, depth, from int, index []disk.ExtentIdx) {
		disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: uint16(count), Max: uint16(room), Depth: uint16(depth)}.Put(b)
		for i := range count {
			if depth == 0 {
				leaf[from+i].Put(disk.ExtentEntry(b, i))
			} else {
				index[from+i].Put(disk.ExtentEntry(b, i))
			}
		}
	}
	var index []disk.ExtentIdx
	count, depth := len(leaf), 0
	for ; count > perRoot; depth++ {
		var up []disk.ExtentIdx
		for from := 0; from < count; from += perNode {
			blk, err := fs.treeBlock(n, &spare)
			if err != nil {
				return err
			}
			first := disk.LBlock(0)
			if depth == 0 {
				first = leaf[from].Block
			} else {
				first = index[from].Block
			}
			up = append(up, disk.ExtentIdx{Block: first, Leaf: blk})
			b := fs.fresh(blk)
			fill(b, min(perNode, count-from), perNode, depth, from, index)
			if fs.sb.MetadataCsum() {
				disk.PutExtentChecksum(n.seed, b)
			}
		}
		index, count = up, len(up)
	}
	clear(n.in.Block[:])
	fill(n.in.Block[:], count, perRoot, depth, 0, index)
	return fs.freeSpare(spare)
}

// clusters is the number of clusters that the map takes, the tree's included.
func (m *fcMap) clusters(bits uint) uint64 {
	if bits == 0 {
		n := uint64(len(m.nodes))
		for _, e := range m.ext {
			n += e.len
		}
		return n
	}
	runs := make([]Extent, 0, len(m.ext))
	for _, e := range m.ext {
		first := e.start >> bits
		last := (e.start + disk.PBlock(e.len) - 1) >> bits
		runs = append(runs, Extent{Start: first, Len: uint32(last - first + 1)})
	}
	slices.SortFunc(runs, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	n := uint64(len(m.nodes))
	var end disk.PBlock
	for _, r := range runs {
		stop := r.Start + disk.PBlock(r.Len)
		if begin := max(r.Start, end); stop > begin {
			n += uint64(stop - begin)
			end = stop
		}
	}
	return n
}

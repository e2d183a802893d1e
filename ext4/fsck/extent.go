package fsck

import (
	"fmt"

	"e4go/ext4/disk"
)

// extentLevel is what is known of one level of an extent tree.
type extentLevel struct {
	block   disk.PBlock
	entries int // of all nodes of the level
	room    int // likewise
}

// extentHeader judges the head of node b by e2fsck's rules
// (ext2fs_extent_header_verify). It returns the field that is wrong, or "".
func extentHeader(b []byte) (field, have, want string) {
	h := disk.DecodeExtentHeader(b)
	room := (len(b) - disk.ExtentHeaderSize) / disk.ExtentSize
	switch {
	case h.Magic != disk.ExtentMagic:
		return "eh_magic", hex(h.Magic), "0xf30a"
	case h.Entries > h.Max:
		return "eh_entries", dec(h.Entries), fmt.Sprintf("at most %d", h.Max)
	case int(h.Max) > room || int(h.Max) < room-2:
		return "eh_max", dec(h.Max), dec(room)
	}
	return "", "", ""
}

// looksLikeExtents reports whether i_block holds the root of an extent tree.
func looksLikeExtents(in *disk.Inode) bool {
	field, _, _ := extentHeader(in.Block[:])
	return field == ""
}

// extents goes through an extent tree (check_blocks_extents, scan_extent_node).
func (m *mapWalk) extents() error {
	root := m.in.Block[:]
	if !m.rootOK {
		if field, have, want := extentHeader(root); field != "" {
			m.problem(extentRoot, m.at.Block, m.at.Off+disk.IBlockOffset, field+" is "+have, want)
			m.lost = true
			return nil
		}
	}
	h := disk.DecodeExtentHeader(root)
	depth := int(h.Depth)
	if depth > disk.ExtentMaxDepth {
		m.problem(extentRootDepth, m.at.Block, m.at.Off+disk.IBlockOffset+6, dec(depth), "at most 5")
		m.lost = true
		return nil
	}
	if most := m.deepest(); depth > most {
		m.problem(extentTooDeep, m.at.Block, m.at.Off+disk.IBlockOffset+6, dec(depth), dec(most))
	}
	clear(m.levels[:depth+1])
	blocks := (m.in.Size + uint64(m.c.bs) - 1) >> m.c.bits
	w := extentNodeWalk{m: m, depth: depth, eof: int64(blocks) - 1, try: true}
	w.end = blocks
	if err := w.node(root, m.at.Block, m.at.Off+disk.IBlockOffset, 0, 0, 0, m.w); err != nil {
		return err
	}
	if !m.quiet {
		m.adviseExtents(depth)
	}
	return nil
}

// deepest is how many levels the tree of a file of 2^32 blocks needs, when
// every node below the root is full (ext2fs_max_extent_depth).
func (m *mapWalk) deepest() int {
	per := uint64((m.c.bs - disk.ExtentHeaderSize) / disk.ExtentSize)
	n, depth := uint64(4), 0
	for n < 1<<32 && depth < disk.ExtentMaxDepth {
		n, depth = n*per, depth+1
	}
	return depth
}

// extentNodeWalk is the way through one tree.
type extentNodeWalk struct {
	m     *mapWalk
	depth int    // of the leaves
	eof   int64  // last block of the file, by its size
	end   uint64 // end of the file in blocks: what the root's last entry reaches to
	try   bool   // what is wrong is told: not so in nodes that lie upon metadata
}

// node goes through the node in b, on the given level, which lies in block blk
// at byte off. start and end are what its parent leaves to it, the last block
// included; end is 0 at the root.
func (x *extentNodeWalk) node(b []byte, blk disk.PBlock, off, level int, start, end uint64, w *worker) error {
	m := x.m
	h := disk.DecodeExtentHeader(b)
	lvl := &m.levels[level]
	lvl.block = blk
	lvl.entries += int(h.Entries)
	lvl.room += int(h.Max)
	if level > 0 && h.Entries < h.Max {
		lvl.room-- // splitting leaves one free
	}
	outer := x.end
	for i := range int(h.Entries) {
		at := off + disk.ExtentHeaderSize + i*disk.ExtentSize
		entry := disk.ExtentEntry(b, i)
		if level < x.depth {
			if i+1 < int(h.Entries) {
				x.end = uint64(disk.DecodeExtentIdx(disk.ExtentEntry(b, i+1)).Block)
			} else {
				x.end = outer
			}
			next, err := x.index(disk.DecodeExtentIdx(entry), blk, at, level, start, end)
			if err != nil {
				return err
			}
			start = next
			continue
		}
		e := disk.DecodeExtent(entry)
		if k, have, want := x.judge(e, start, end); k != nil {
			if x.try {
				m.problem(k, blk, at, have, want)
				if k == extentStart || k == extentEnd {
					m.illegal++
				}
				if end := uint64(e.Block) + uint64(e.Len); end > 1<<32-1 {
					start = end - 1 // nothing may come behind it
				}
			}
			continue
		}
		start = x.leaf(e, blk, at)
	}
	x.end = outer
	if level > 0 && m.c.sb.MetadataCsum() {
		if err, _ := disk.CheckExtentChecksum(m.ino, disk.InodeSeed(m.c.seed, m.ino, m.in.Generation), b, blk).(*disk.CorruptError); err != nil {
			m.problem(extentChecksum, blk, err.Off, err.Have, err.Want)
		}
	}
	return nil
}

// judge returns what is wrong with the leaf entry e, or nil.
func (x *extentNodeWalk) judge(e disk.Extent, start, end uint64) (k *Kind, have, want string) {
	c := x.m.c
	first, n := uint64(e.Block), uint64(e.Len)
	last := first + n - 1
	switch {
	case e.Start == 0 || !c.legal(e.Start):
		return extentStart, dec(e.Start), c.wantLegal()
	case first < start:
		return extentOrder, dec(first), fmt.Sprintf("%d and more", start)
	case end != 0 && n != 0 && last > end && !(int64(last) > x.eof && (e.Unwritten || x.m.in.Flags.Has(disk.FlagVerity))):
		return extentBounds, dec(last), fmt.Sprintf("at most %d, as its parent says", end)
	case n == 0:
		return extentZero, dec(first), ""
	case uint64(e.Start)+n > c.sb.Blocks:
		return extentEnd, dec(uint64(e.Start) + n - 1), fmt.Sprintf("below %d", c.sb.Blocks)
	case x.m.isDir && x.m.in.Size>>32 == 0 && !c.sb.Incompat.Has(disk.IncompatLargedir) && first+n > 1<<(21-c.sb.LogBlockSize):
		return blockTooBigDir, dec(first + n - 1), fmt.Sprintf("below %d", 1<<(21-c.sb.LogBlockSize))
	case last >= 1<<32-1 && !x.m.quiet:
		return extentBounds, dec(last), fmt.Sprint(uint64(1<<32 - 2))
	case first < x.m.nextBlock:
		return extentOverlap, dec(first), dec(x.m.nextBlock)
	}
	return nil, "", ""
}

// leaf takes the blocks of extent e, whose entry stands in block blk at byte at.
// It returns the last block of the file that it is for.
func (x *extentNodeWalk) leaf(e disk.Extent, blk disk.PBlock, at int) (last uint64) {
	m := x.m
	l, n := uint64(e.Block), uint64(e.Len)
	last = l + n - 1
	m.nextBlock = max(m.nextBlock, l+n)
	if m.isDir && x.try {
		if e.Unwritten {
			m.problem(blockUnwrittenDir, blk, at, dec(l), "")
		}
		if uint64(m.last+1) < l {
			m.problem(blockHoleInDir, blk, at, dec(l), dec(m.last+1))
		}
	}
	if m.previous != 0 && m.previous+1 != e.Start {
		m.fragmented = true
	}
	if m.misaligned(l, e.Start) {
		m.problem(blockMisaligned, blk, at, dec(l), dec(e.Start))
	}
	m.take(l, e.Start, n)
	if m.run != nil {
		m.run(l, e.Start, n, e.Unwritten)
	}
	m.last, m.previous = int64(last), e.Start+disk.PBlock(n)-1
	if !m.isDir && !e.Unwritten {
		m.lastInit = int64(last)
	}
	return last
}

// index follows the index entry e, which stands in block blk at byte at. It
// returns from where on the next entry may be.
func (x *extentNodeWalk) index(e disk.ExtentIdx, blk disk.PBlock, at, level int, start, end uint64) (next uint64, err error) {
	m, c := x.m, x.m.c
	first := uint64(e.Block)
	last := first + uint64(uint32(x.end-first)) - 1 // as wide as e_len is there
	switch {
	case e.Leaf == 0 || !c.legal(e.Leaf):
		if x.try {
			m.problem(extentStart, blk, at, dec(e.Leaf), c.wantLegal())
			m.lost = true
		}
		return start, nil
	case first < start:
		if x.try {
			m.problem(extentOrder, blk, at, dec(first), fmt.Sprintf("%d and more", start))
			m.lost = true
		}
		return start, nil
	case end != 0 && last > end && !(int64(last) > x.eof && m.in.Flags.Has(disk.FlagVerity)):
		if x.try {
			m.problem(extentBounds, blk, at, dec(last), fmt.Sprintf("at most %d, as its parent says", end))
			m.lost = true
		}
		return start, nil
	}
	for l := 1; l <= level; l++ {
		if m.levels[l].block == e.Leaf {
			m.problem(extentCycle, blk, at, dec(e.Leaf), "")
			m.lost = true
			return start, nil
		}
	}
	try := x.try
	if m.onMetadata(e.Leaf, blk, at) {
		x.try = false
	}
	defer func() { x.try = try }()
	lvl := &m.w.inode.nodes[level+1]
	if len(*lvl) != c.bs {
		*lvl = make([]byte, c.bs)
	}
	if ok, err := m.load(e.Leaf, *lvl, blk, at); !ok || err != nil {
		return start, err
	}
	b := *lvl
	if field, have, want := extentHeader(b); field != "" {
		if x.try {
			m.problem(extentNode, e.Leaf, 0, field+" is "+have, want)
		}
		m.lost = true
		m.mayFollow(true, blk, at)
		return start, nil
	}
	m.clusters++
	if !m.mayFollow(m.claim(c.cluster(e.Leaf), 1, true), blk, at) {
		return start, nil
	}
	h := disk.DecodeExtentHeader(b)
	if want := x.depth - level - 1; int(h.Depth) != want {
		m.problem(extentDepth, e.Leaf, 6, dec(h.Depth), dec(want))
	}
	if h.Entries == 0 {
		m.problem(extentNodeEmpty, e.Leaf, 2, "", "")
		return start, nil
	}
	// Leaf and index entries begin with the same field.
	if below := uint64(disk.DecodeExtentIdx(disk.ExtentEntry(b, 0)).Block); below != first {
		m.problem(extentIndexStart, e.Leaf, disk.ExtentHeaderSize, dec(below), dec(first))
		first = below
	}
	return start, x.node(b, e.Leaf, 0, level+1, first, last, m.w)
}

// onMetadata reports whether block b, which the map goes on in, is metadata of
// the file system, and tells so.
func (m *mapWalk) onMetadata(b, blk disk.PBlock, off int) bool {
	if m.quiet || uint64(b) >= m.c.blocks || m.ino == disk.ResizeIno || !m.c.meta.has(m.c.cluster(b)) {
		return false
	}
	m.problem(blockOnMetadata, blk, off, dec(b), "")
	return true
}

// adviseExtents tells of trees that could be smaller (e2fsck_should_rebuild_extents).
func (m *mapWalk) adviseExtents(depth int) {
	per := (m.c.bs - disk.ExtentHeaderSize) / disk.ExtentSize
	for i := range depth + 1 {
		l := &m.levels[i]
		if l.room-l.entries > per {
			m.c.rep.add(extentNarrow, Problem{Place: m.at, Number: uint64(i)})
			return
		}
		for j := range i {
			if l.entries < m.levels[j].room {
				m.c.rep.add(extentCollapse, Problem{Place: m.at, Number: uint64(i)})
				return
			}
		}
	}
}

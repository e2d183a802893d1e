package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"e4go/ext4/disk"
)

// CheckState says whether a block's checksum is right.
type CheckState uint8

const (
	CheckNone CheckState = iota // it has none: the root in the inode, indirect blocks, no metadata_csum
	CheckOK
	CheckBad
)

func (s CheckState) String() string { return [...]string{"none", "ok", "bad"}[s] }

// A MapRow is one entry of a file's map as it stands on disk.
type MapRow struct {
	Level, Depth   int         // of the entry's node, 0 at the root; and of the leaves
	Entry, Entries int         // which entry of its node, from 1, of how many
	Leaf           bool        // it maps blocks; else it leads to a node
	Logical        disk.LBlock // the first block of the file
	Len            uint64      // blocks; of a node, up to where the next may begin
	Physical       disk.PBlock // the first block on the device; of a node, where it lies
	Unwritten      bool
	Node           disk.PBlock // the block that holds the entry, 0 for the inode
	Checksum       CheckState  // of Node
	Err            error       // the rule that the entry breaks, or why what it leads to cannot be read
}

// A MapSummary is what a whole map adds up to.
type MapSummary struct {
	Extents    uint64 // leaf entries
	Nodes      uint64 // blocks of the map itself
	Blocks     uint64 // of data, written or not
	Errors     int    // rows with Err
	Indirect   bool   // not an extent tree
	DataEnd    uint64 // the logical block behind the last that is mapped
	Incomplete bool   // part of the map could not be read: the sums are too small
}

// mapWalk visits a map. Nodes are read past the caches, so that what is
// reported is what stands on the device.
type mapWalk struct {
	in    *Inode
	fn    func(MapRow) error
	sum   MapSummary
	nodes map[disk.PBlock]bool // on the way from the root: a node below itself would not end
	left  uint64               // nodes that there may still be
}

// errTooManyNodes ends a walk of a map that has more nodes than the device has blocks.
var errTooManyNodes = errors.New("more nodes than the device has blocks")

// WalkMap calls fn for each entry of the map of the inode as it is now, nodes
// before what they lead to. A broken rule is reported with the row it was met at, and the walk goes
// on where it can; an error of fn ends it and is returned. It fails with
// [ErrInline] if the inode holds its data itself. An inode that has no map has no rows.
func (in *Inode) WalkMap(fn func(MapRow) error) (MapSummary, error) {
	if now, err := in.current(); err == nil {
		in = now
	}
	w := &mapWalk{in: in, fn: fn, nodes: make(map[disk.PBlock]bool), left: in.fs.deviceBlocks()}
	if in.HasInlineData() {
		return w.sum, ErrInline
	}
	if !in.mapped() {
		return w.sum, nil
	}
	off := in.off + disk.IBlockOffset
	if !in.disk.Flags.Has(disk.FlagExtents) {
		w.sum.Indirect = true
		return w.sum, w.indirectRoot(off)
	}
	root := in.disk.Block[:]
	if err := disk.CheckExtentHeader(in.ino, root, -1, in.block, off); err != nil {
		w.sum.Incomplete = true
		return w.sum, w.row(MapRow{Err: err})
	}
	depth := int(disk.DecodeExtentHeader(root).Depth)
	return w.sum, w.extentNode(root, 0, depth, disk.AllExtents, 0, in.block, off, CheckNone)
}

func (w *mapWalk) row(r MapRow) error {
	if r.Err != nil {
		w.sum.Errors++
	}
	if r.Leaf && r.Len > 0 {
		w.sum.Extents++
		w.sum.Blocks += r.Len
		w.sum.DataEnd = max(w.sum.DataEnd, uint64(r.Logical)+r.Len)
	}
	return w.fn(r)
}

// extentNode visits the entries of node b, whose header is legal. node is its
// block for the rows; blk and off are where its bytes lie.
func (w *mapWalk) extentNode(b []byte, level, depth int, at disk.ExtentBounds, node, blk disk.PBlock, off int, sum CheckState) error {
	n := int(disk.DecodeExtentHeader(b).Entries)
	row := MapRow{Level: level, Depth: depth, Entries: n, Node: node, Checksum: sum}
	for i := range n {
		row.Entry = i + 1
		row.Err = disk.CheckExtentEntry(&w.in.fs.sb, w.in.ino, b, i, at, blk, off)
		if level == depth {
			e := disk.DecodeExtent(disk.ExtentEntry(b, i))
			row.Leaf, row.Logical, row.Len, row.Physical, row.Unwritten = true, e.Block, uint64(e.Len), e.Start, e.Unwritten
			if err := w.row(row); err != nil {
				return err
			}
			continue
		}
		x := disk.DecodeExtentIdx(disk.ExtentEntry(b, i))
		below := disk.ChildBounds(b, i, at)
		row.Logical, row.Physical, row.Len = x.Block, x.Leaf, 0
		if below.End > uint64(x.Block) {
			row.Len = below.End - uint64(x.Block)
		}
		data, state, err := w.readExtentNode(x.Leaf, depth-level-1)
		if row.Err == nil {
			row.Err = err
		}
		if werr := w.row(row); werr != nil {
			return werr
		}
		if data == nil {
			w.sum.Incomplete = true
			continue
		}
		w.nodes[x.Leaf] = true
		if err := w.extentNode(data, level+1, depth, below, x.Leaf, x.Leaf, 0, state); err != nil {
			return err
		}
		delete(w.nodes, x.Leaf)
	}
	return nil
}

// readExtentNode reads the node in block n. Its bytes come with an error if
// only the checksum is wrong: its entries can be shown all the same.
func (w *mapWalk) readExtentNode(n disk.PBlock, depth int) ([]byte, CheckState, error) {
	data, err := w.readNode(n)
	if err != nil {
		return nil, CheckNone, err
	}
	if err := disk.CheckExtentHeader(w.in.ino, data, depth, n, 0); err != nil {
		return nil, CheckNone, err
	}
	if !w.in.fs.sb.MetadataCsum() {
		return data, CheckNone, nil
	}
	if err := disk.CheckExtentChecksum(w.in.ino, w.in.seed, data, n); err != nil {
		return data, CheckBad, err
	}
	return data, CheckOK, nil
}

// readNode reads block n of the map and counts it.
func (w *mapWalk) readNode(n disk.PBlock) ([]byte, error) {
	bad := func(have string) error {
		return &disk.CorruptError{Struct: "map of inode", Num: uint64(w.in.ino), Block: w.in.block, Off: w.in.off + disk.IBlockOffset,
			Field: "node", Have: have, Want: fmt.Sprintf("each block below %d once", w.in.fs.sb.Blocks)}
	}
	if !w.in.fs.sb.ValidRange(n, 1) {
		return nil, bad(fmt.Sprintf("block %d", n))
	}
	if w.nodes[n] {
		return nil, bad(fmt.Sprintf("block %d below itself", n))
	}
	if w.left == 0 {
		return nil, errTooManyNodes
	}
	w.left--
	data, err := w.in.fs.bytes(n)
	if err != nil {
		return nil, err
	}
	w.sum.Nodes++
	return data, nil
}

// indirectRoot visits the 15 pointers of i_block.
func (w *mapWalk) indirectRoot(off int) error {
	in := w.in
	root := in.disk.Block[:]
	depth := 0
	for level := 3; level > 0 && depth == 0; level-- {
		if binary.LittleEndian.Uint32(root[4*(disk.DirectBlocks+level-1):]) != 0 {
			depth = level
		}
	}
	entries := disk.DirectBlocks + 3
	if err := w.pointers(root[:4*disk.DirectBlocks], 0, depth, 0, entries, 0, in.block, off); err != nil {
		return err
	}
	for level := 1; level <= 3; level++ {
		i := disk.DirectBlocks + level - 1
		first := indirectBase(level, in.fs.sb.BlockBits())
		row := MapRow{Depth: depth, Entry: i + 1, Entries: entries}
		if err := w.indirectNode(root, i, row, level, first, in.block, off); err != nil {
			return err
		}
	}
	return nil
}

// indirectNode visits what pointer i of b leads to: a block of numbers that is
// height levels above the data, from logical block first on.
func (w *mapWalk) indirectNode(b []byte, i int, row MapRow, height int, first uint64, blk disk.PBlock, off int) error {
	p, perr := w.in.pointer(b, i, blk, off)
	if perr == nil && p == 0 || first >= maxLogical {
		return nil
	}
	perBits := w.in.fs.sb.BlockBits() - 2
	row.Logical, row.Physical = disk.LBlock(first), disk.PBlock(binary.LittleEndian.Uint32(b[4*i:]))
	row.Len = min(uint64(1)<<(perBits*uint(height)), maxLogical-first)
	var data []byte
	if row.Err = perr; perr == nil {
		data, row.Err = w.readNode(p)
	}
	if err := w.row(row); err != nil {
		return err
	}
	if data == nil {
		w.sum.Incomplete = true
		return nil
	}
	w.nodes[p] = true
	defer delete(w.nodes, p)
	level := row.Level + 1
	if height == 1 {
		return w.pointers(data, level, row.Depth, first, 1<<perBits, p, p, 0)
	}
	span := uint64(1) << (perBits * uint(height-1))
	for j := range 1 << perBits {
		below := MapRow{Level: level, Depth: row.Depth, Entry: j + 1, Entries: 1 << perBits, Node: p}
		if err := w.indirectNode(data, j, below, height-1, first+uint64(j)*span, p, 0); err != nil {
			return err
		}
	}
	return nil
}

// pointers visits the block numbers in b, joining those that follow each other
// to one row, which counts as the entry of the first.
func (w *mapWalk) pointers(b []byte, level, depth int, first uint64, entries int, node, blk disk.PBlock, off int) error {
	run := MapRow{Leaf: true, Level: level, Depth: depth, Entries: entries, Node: node}
	flush := func() error {
		if run.Len == 0 {
			return nil
		}
		err := w.row(run)
		run.Len, run.Err = 0, nil
		return err
	}
	for i := 0; i < len(b)/4 && first+uint64(i) < maxLogical; i++ {
		p, perr := w.in.pointer(b, i, blk, off)
		if run.Len > 0 && (perr != nil || run.Err != nil || p != run.Physical+disk.PBlock(run.Len)) {
			if err := flush(); err != nil {
				return err
			}
		}
		switch {
		case perr != nil:
			run.Physical, run.Err = disk.PBlock(binary.LittleEndian.Uint32(b[4*i:])), perr
		case p == 0:
			continue
		case run.Len > 0:
			run.Len++
			continue
		default:
			run.Physical = p
		}
		run.Logical, run.Len, run.Entry = disk.LBlock(first+uint64(i)), 1, i+1
	}
	return flush()
}

// CheckBlocks compares i_blocks with what the map, the xattr block and the
// values in EA inodes add up to, and returns a *disk.CorruptError if they
// differ. It has no opinion with bigalloc, where runs may share a cluster, or
// if part of the map could not be read.
func (in *Inode) CheckBlocks(s MapSummary) error {
	sb := &in.fs.sb
	if s.Incomplete || sb.ClusterBits() > 0 {
		return nil
	}
	want := s.Blocks + s.Nodes
	if in.disk.XattrBlock(sb) != 0 {
		want++
	}
	want <<= sb.BlockBits() - 9
	have := in.disk.Sectors(sb)
	if list, err := in.stored(); err == nil {
		for i := range list {
			if list[i].ValueIno != 0 {
				bs := uint64(sb.BlockSize())
				want += (uint64(list[i].ValueSize) + bs - 1) &^ (bs - 1) >> 9
			}
		}
	}
	if have != want {
		return &disk.CorruptError{Struct: "inode", Num: uint64(in.ino), Block: in.block, Off: in.off + 0x1c, Field: "i_blocks",
			Have: fmt.Sprintf("%d sectors", have), Want: fmt.Sprintf("%d, the sum of its blocks", want)}
	}
	return nil
}

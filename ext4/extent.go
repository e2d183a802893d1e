package ext4

import (
	"sort"

	"e4go/ext4/disk"
)

// mapIndex is an index node of an extent tree, decoded and verified.
type mapIndex struct {
	owner disk.Ino
	in    disk.ExtentBounds
	depth int // levels below
	idx   []disk.ExtentIdx
}

func (x *mapIndex) weight() uint32 { return uint32(len(x.idx))*16 + 64 }

// child is the entry that leads to block b, and the bounds of what is below it.
func (x *mapIndex) child(b disk.LBlock) (disk.ExtentIdx, disk.ExtentBounds, bool) {
	i := sort.Search(len(x.idx), func(i int) bool { return x.idx[i].Block > b }) - 1
	if i < 0 {
		return disk.ExtentIdx{}, disk.ExtentBounds{First: x.in.First, End: uint64(x.idx[0].Block)}, false
	}
	return x.idx[i], childBounds(x.idx, i, x.in), true
}

// childBounds is what entry i of an index node leaves to the node below it: up
// to the next entry.
func childBounds(idx []disk.ExtentIdx, i int, in disk.ExtentBounds) disk.ExtentBounds {
	end := in.End
	if i+1 < len(idx) {
		end = uint64(idx[i+1].Block)
	}
	return disk.ExtentBounds{First: idx[i].Block, End: end, Below: true}
}

// extentLeaf descends the extent tree to the leaf that covers block b. The
// levels are bounded, and each node must be one lower than its parent.
func (in *Inode) extentLeaf(b disk.LBlock) (mapLeaf, error) {
	if l := in.rootLeaf.Load(); l != nil && in.tx == nil {
		return *l, nil
	}
	if l := in.grown.Load(); l != nil && l.first <= b && uint64(b) < l.end && in.tx == nil {
		return *l, nil
	}
	node, leaf, err := in.extentRoot()
	if err != nil {
		return mapLeaf{}, err
	}
	if leaf != nil {
		return *leaf, nil
	}
	for depth := node.depth - 1; ; depth-- {
		x, bounds, ok := node.child(b)
		if !ok { // before the first entry: a hole
			return mapLeaf{owner: in.ino, first: bounds.First, end: bounds.End}, nil
		}
		if depth == 0 {
			l, err := in.leafBlock(x.Leaf, bounds)
			if err != nil {
				return mapLeaf{}, err
			}
			return *l, nil
		}
		if node, err = in.indexBlock(x.Leaf, bounds, depth); err != nil {
			return mapLeaf{}, err
		}
	}
}

// extentRoot returns what is in i_block, an index node or a leaf, decoded
// once.
func (in *Inode) extentRoot() (*mapIndex, *mapLeaf, error) {
	if x := in.rootIndex.Load(); x != nil && in.tx == nil {
		return x, nil, nil
	}
	root, off := in.disk.Block[:], in.off+disk.IBlockOffset
	if err := disk.CheckExtentHeader(in.ino, root, -1, in.block, off); err != nil {
		return nil, nil, err
	}
	if disk.DecodeExtentHeader(root).Depth == 0 {
		l, err := in.decodeLeaf(root, disk.AllExtents, in.block, off)
		if err == nil && in.tx == nil {
			in.rootLeaf.Store(l)
		}
		return nil, l, err
	}
	x, err := in.decodeIndex(root, disk.AllExtents, in.block, off)
	if err == nil && in.tx == nil {
		in.rootIndex.Store(x)
	}
	return x, nil, err
}

func (in *Inode) leafBlock(n disk.PBlock, at disk.ExtentBounds) (*mapLeaf, error) {
	if l, ok := get[*mapLeaf](in.fs.cache, kindMapLeaf, uint64(n)); ok && !in.changes(n) && l.owner == in.ino && l.first == at.First && l.end == at.End {
		return l, nil
	}
	mark := in.fs.live.mark(n)
	data, err := in.extentNode(n, 0)
	if err != nil {
		return nil, err
	}
	l, err := in.decodeLeaf(data, at, n, 0)
	if err == nil {
		in.keep(kindMapLeaf, n, mark, l)
	}
	return l, err
}

func (in *Inode) indexBlock(n disk.PBlock, at disk.ExtentBounds, depth int) (*mapIndex, error) {
	if x, ok := get[*mapIndex](in.fs.cache, kindMapIndex, uint64(n)); ok && !in.changes(n) && x.owner == in.ino && x.in == at && x.depth == depth {
		return x, nil
	}
	mark := in.fs.live.mark(n)
	data, err := in.extentNode(n, depth)
	if err != nil {
		return nil, err
	}
	x, err := in.decodeIndex(data, at, n, 0)
	if err == nil {
		in.keep(kindMapIndex, n, mark, x)
	}
	return x, err
}

// extentNode reads the node in block n and checks its header and checksum.
func (in *Inode) extentNode(n disk.PBlock, depth int) ([]byte, error) {
	data, err := in.bytes(n)
	if err != nil {
		return nil, err
	}
	if err := disk.CheckExtentHeader(in.ino, data, depth, n, 0); err != nil {
		return nil, err
	}
	if in.fs.sb.MetadataCsum() && !in.changes(n) {
		if err := disk.CheckExtentChecksum(in.ino, in.seed, data, n); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// decodeLeaf decodes a leaf node whose header is legal and judges its entries.
func (in *Inode) decodeLeaf(b []byte, at disk.ExtentBounds, n disk.PBlock, off int) (*mapLeaf, error) {
	l := &mapLeaf{owner: in.ino, first: at.First, end: at.End}
	count := int(disk.DecodeExtentHeader(b).Entries)
	l.runs = make([]Mapping, 0, count)
	for i := range count {
		if err := disk.CheckExtentEntry(&in.fs.sb, in.ino, b, i, at, n, off); err != nil {
			return nil, err
		}
		e := disk.DecodeExtent(disk.ExtentEntry(b, i))
		if err := in.checkBlocks(e.Start, uint64(e.Len), n, off); err != nil {
			return nil, err
		}
		l.addExtent(e)
	}
	return l, nil
}

func (l *mapLeaf) addExtent(e disk.Extent) {
	m := Mapping{Logical: e.Block, Len: uint64(e.Len), Physical: e.Start, State: MapWritten}
	if e.Unwritten {
		m.State = MapUnwritten
	}
	l.add(m)
}

// decodeIndex decodes an index node whose header is legal and judges its entries.
func (in *Inode) decodeIndex(b []byte, at disk.ExtentBounds, n disk.PBlock, off int) (*mapIndex, error) {
	h := disk.DecodeExtentHeader(b)
	x := &mapIndex{owner: in.ino, in: at, depth: int(h.Depth), idx: make([]disk.ExtentIdx, h.Entries)}
	for i := range x.idx {
		if err := disk.CheckExtentEntry(&in.fs.sb, in.ino, b, i, at, n, off); err != nil {
			return nil, err
		}
		x.idx[i] = disk.DecodeExtentIdx(disk.ExtentEntry(b, i))
		if err := in.checkBlocks(x.idx[i].Leaf, 1, n, off); err != nil {
			return nil, err
		}
	}
	return x, nil
}

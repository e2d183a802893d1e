package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// extentEntry is an entry of a node, leaf or index: both begin with the first
// file block that they are about.
type extentEntry [disk.ExtentSize]byte

func (e *extentEntry) key() disk.LBlock     { return disk.LBlock(binary.LittleEndian.Uint32(e[:4])) }
func (e *extentEntry) setKey(b disk.LBlock) { binary.LittleEndian.PutUint32(e[:4], uint32(b)) }

// extentStep is a node on the way from the root of an extent tree to a leaf.
type extentStep struct {
	n       disk.PBlock // where it lies; 0 is the inode
	entries []extentEntry
	at      int // the entry that leads on
}

// extentPath is the way to the leaf where block b is, or belongs; bounds are
// the blocks that the leaf is for.
func (in *Inode) extentPath(b disk.LBlock) (path []extentStep, bounds disk.ExtentBounds, err error) {
	data, off := in.disk.Block[:], in.off+disk.IBlockOffset
	n, blk, depth := disk.PBlock(0), in.block, -1
	bounds = disk.AllExtents
	for {
		ours := n != 0 && in.wroteNode(n)
		if n == 0 {
			err = disk.CheckExtentHeader(in.ino, data, -1, blk, off)
		} else {
			data, err = in.extentNode(n, depth)
			blk, off = n, 0
		}
		if err != nil {
			return nil, bounds, err
		}
		h := disk.DecodeExtentHeader(data)
		depth = int(h.Depth)
		step := extentStep{n: n, entries: make([]extentEntry, h.Entries, int(h.Entries)+3)}
		for i := range step.entries {
			copy(step.entries[i][:], disk.ExtentEntry(data, i))
			if ours && i > 0 && i < len(step.entries)-1 {
				continue // judged, as all of them, when it was written: but two nodes may lead to one
			}
			if err := disk.CheckExtentEntry(&in.fs.sb, in.ino, data, i, bounds, blk, off); err != nil {
				return nil, bounds, err
			}
			if depth > 0 {
				err = in.checkBlocks(disk.DecodeExtentIdx(step.entries[i][:]).Leaf, 1, blk, off)
			} else {
				e := disk.DecodeExtent(step.entries[i][:])
				err = in.checkBlocks(e.Start, uint64(e.Len), blk, off)
			}
			if err != nil {
				return nil, bounds, err
			}
		}
		if depth == 0 {
			return append(path, step), bounds, nil
		}
		for step.at+1 < len(step.entries) && step.entries[step.at+1].key() <= b {
			step.at++
		}
		path = append(path, step)
		bounds = disk.ChildBounds(data, step.at, bounds)
		n = disk.DecodeExtentIdx(step.entries[step.at][:]).Leaf
		depth--
	}
}

// wroteNode reports whether block n is a node of the inode's map, and was made by an
// update whose transaction has not reached its place: what it holds was checked then.
func (in *Inode) wroteNode(n disk.PBlock) bool {
	if in.changes(n) {
		s := in.tx.blocks[n]
		return s.kind == kindMapNode && s.in.ino == in.ino
	}
	b := in.fs.live.get(n)
	return b.data != nil && b.kind == kindMapNode && b.owner == in.ino
}

// rootEntries is how many entries i_block has room for.
const rootEntries = (disk.IBlockSize - disk.ExtentHeaderSize) / disk.ExtentSize

// nodeEntries is how many entries a block has room for.
func (fs *FS) nodeEntries() int {
	return (fs.sb.BlockSize() - disk.ExtentHeaderSize) / disk.ExtentSize
}

// putNode gives the node at path[level] other entries, and makes of the tree
// above what has to follow: splits what is full, removes what is empty, grows and shrinks
// the root, and keeps the keys of the parents equal to the first keys below them.
func (h *Handle) putNode(in *Inode, path []extentStep, level int, entries []extentEntry) error {
	in.grown.Store(nil)
	depth := len(path) - 1 - level
	if level == 0 {
		return h.putRoot(in, entries, depth)
	}
	step, parent := &path[level], &path[level-1]
	siblings := parent.entries
	if len(entries) == 0 {
		if err := h.freeNode(in, step.n); err != nil {
			return err
		}
		siblings = append(append([]extentEntry(nil), siblings[:parent.at]...), siblings[parent.at+1:]...)
		return h.putNode(in, path, level-1, siblings)
	}
	room := h.fs.nodeEntries()
	if level == 1 && len(siblings) == 1 && len(entries) <= rootEntries { // ext4_ext_try_to_merge_up
		if err := h.freeNode(in, step.n); err != nil {
			return err
		}
		return h.putRoot(in, entries, depth)
	}
	if len(entries) <= room {
		if err := h.writeNode(in, step.n, entries, depth); err != nil {
			return err
		}
		if siblings[parent.at].key() == entries[0].key() {
			return nil
		}
		siblings[parent.at].setKey(entries[0].key())
		return h.putNode(in, path, level-1, siblings)
	}
	// A file that grows at its end leaves full nodes behind; elsewhere both
	// halves get room.
	keep := len(entries) / 2
	if rightmost(path[:level]) {
		keep = room
	}
	if err := h.writeNode(in, step.n, entries[:keep], depth); err != nil {
		return err
	}
	added, err := h.newNodes(in, entries[keep:], depth)
	if err != nil {
		return err
	}
	siblings[parent.at].setKey(entries[0].key())
	out := append([]extentEntry(nil), siblings[:parent.at+1]...)
	out = append(append(out, added...), siblings[parent.at+1:]...)
	return h.putNode(in, path, level-1, out)
}

func rightmost(path []extentStep) bool {
	for _, s := range path {
		if s.at+1 < len(s.entries) {
			return false
		}
	}
	return true
}

// putRoot gives the root other entries, of a tree with depth levels below it.
func (h *Handle) putRoot(in *Inode, entries []extentEntry, depth int) error {
	if len(entries) == 0 {
		depth = 0
	}
	if len(entries) > rootEntries {
		if depth == disk.ExtentMaxDepth {
			return fmt.Errorf("the extent tree of inode %d has %d levels already: %w", in.ino, depth, unix.EFBIG)
		}
		added, err := h.newNodes(in, entries, depth)
		if err != nil {
			return err
		}
		return h.putRoot(in, added, depth+1)
	}
	if depth > 0 && len(entries) == 1 {
		// ext4_ext_try_to_merge_up: what one node holds may fit here.
		n := disk.DecodeExtentIdx(entries[0][:]).Leaf
		data, err := in.extentNode(n, depth-1)
		if err != nil {
			return err
		}
		if below := disk.DecodeExtentHeader(data); int(below.Entries) <= rootEntries {
			up := make([]extentEntry, below.Entries)
			for i := range up {
				copy(up[i][:], disk.ExtentEntry(data, i))
			}
			if err := h.freeNode(in, n); err != nil {
				return err
			}
			return h.putRoot(in, up, depth-1)
		}
	}
	fillRoot(&in.disk, entries, depth)
	return nil
}

// fillRoot makes i_block the root of a tree.
func fillRoot(d *disk.Inode, entries []extentEntry, depth int) {
	clear(d.Block[:])
	fillNode(d.Block[:], entries, depth, rootEntries)
}

// fillNode makes a node of b, which is all zeros.
func fillNode(b []byte, entries []extentEntry, depth, room int) {
	disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: uint16(len(entries)), Max: uint16(room), Depth: uint16(depth)}.Put(b)
	for i := range entries {
		copy(disk.ExtentEntry(b, i), entries[i][:])
	}
}

func (h *Handle) writeNode(in *Inode, n disk.PBlock, entries []extentEntry, depth int) error {
	fillNode(h.fresh(kindMapNode, in, n), entries, depth, h.fs.nodeEntries())
	return nil
}

// newNodes puts entries into new nodes, and returns the entries that lead to
// them.
func (h *Handle) newNodes(in *Inode, entries []extentEntry, depth int) ([]extentEntry, error) {
	var out []extentEntry
	for room := h.fs.nodeEntries(); len(entries) > 0; {
		part := entries[:min(room, len(entries))]
		entries = entries[len(part):]
		n, err := h.allocFor(in)
		if err != nil {
			return nil, err
		}
		if err := h.writeNode(in, n, part, depth); err != nil {
			return nil, err
		}
		var e extentEntry
		disk.ExtentIdx{Block: part[0].key(), Leaf: n}.Put(e[:])
		out = append(out, e)
	}
	return out, nil
}

// allocFor takes a block for metadata of in.
func (h *Handle) allocFor(in *Inode) (disk.PBlock, error) {
	n, err := h.allocMeta(h.fs.inodeGoal(in.ino))
	if err != nil {
		return 0, err
	}
	in.addBlocks(1 << h.fs.sb.ClusterBits())
	return n, nil
}

// freeNode gives back a block of metadata of in.
func (h *Handle) freeNode(in *Inode, n disk.PBlock) error {
	cluster := uint64(1) << h.fs.sb.ClusterBits()
	in.addBlocks(-int64(cluster))
	delete(h.blocks, n)
	return h.free(run{n, cluster}, true)
}

// inodeGoal is where the blocks of an inode shall lie when nothing better is
// known: in its group.
func (fs *FS) inodeGoal(ino disk.Ino) disk.PBlock {
	g, _ := fs.sb.InodeGroup(ino)
	return fs.sb.FirstBlock(g)
}

// addBlocks changes i_blocks by n blocks of the file system.
func (in *Inode) addBlocks(n int64) {
	sb := &in.fs.sb
	sectors := uint64(int64(in.disk.Sectors(sb)) + n<<(sb.BlockBits()-9))
	in.disk.Flags &^= disk.FlagHugeFile
	if sectors >= 1<<48 && sb.ROCompat.Has(disk.ROCompatHugeFile) {
		in.disk.Flags |= disk.FlagHugeFile
		sectors >>= sb.BlockBits() - 9
	}
	in.disk.BlocksRaw = sectors
}

// maxExtentLen is how many blocks an extent can have (EXT_UNWRITTEN_MAX_LEN).
func maxExtentLen(unwritten bool) uint64 {
	if unwritten {
		return disk.MaxExtentLen - 1
	}
	return disk.MaxExtentLen
}

// joined appends e to list, as part of the last where that goes on.
func joined(list []disk.Extent, e disk.Extent) []disk.Extent {
	if most := maxExtentLen(e.Unwritten); uint64(e.Len) > most {
		head, tail := e, e
		head.Len = uint16(most)
		tail.Block, tail.Start, tail.Len = e.Block+disk.LBlock(most), e.Start+disk.PBlock(most), e.Len-uint16(most)
		return append(joined(list, head), tail)
	}
	if n := len(list); n > 0 {
		last := &list[n-1]
		if uint64(last.Block)+uint64(last.Len) == uint64(e.Block) && last.Start+disk.PBlock(last.Len) == e.Start &&
			last.Unwritten == e.Unwritten && uint64(last.Len)+uint64(e.Len) <= maxExtentLen(e.Unwritten) {
			last.Len += e.Len
			return list
		}
	}
	return append(list, e)
}

func extentsOf(entries []extentEntry) []disk.Extent {
	out := make([]disk.Extent, len(entries))
	for i := range entries {
		out[i] = disk.DecodeExtent(entries[i][:])
	}
	return out
}

func entriesOf(list []disk.Extent) []extentEntry {
	out := make([]extentEntry, len(list))
	for i := range list {
		list[i].Put(out[i][:])
	}
	return out
}

// splice puts extents in the place of entries[i:j] of a leaf, each joined with
// what it goes on from, the entries around them too. It changes entries.
func splice(entries []extentEntry, i, j int, with []disk.Extent) []extentEntry {
	var buf [8]disk.Extent
	list := buf[:0]
	if i > 0 {
		i--
		list = append(list, disk.DecodeExtent(entries[i][:]))
	}
	for _, e := range with {
		list = joined(list, e)
	}
	if j < len(entries) {
		list = joined(list, disk.DecodeExtent(entries[j][:]))
		j++
	}
	return slices.Replace(entries, i, j, entriesOf(list)...)
}

// lastUpTo returns the last of a leaf's entries that begins at block b or
// before it, or the first.
func lastUpTo(entries []extentEntry, b disk.LBlock) int {
	i, found := slices.BinarySearchFunc(entries, b, func(e extentEntry, b disk.LBlock) int { return cmp.Compare(e.key(), b) })
	if found {
		return i
	}
	return max(i-1, 0)
}

// insertExtents maps the blocks from at on, which are a hole, to r.
func (h *Handle) insertExtents(in *Inode, at disk.LBlock, r run, unwritten bool) error {
	for r.n > 0 {
		n := min(r.n, maxExtentLen(unwritten))
		path, bounds, err := in.extentPath(at)
		if err != nil {
			return err
		}
		leaf := &path[len(path)-1]
		taken := func(b uint64) error {
			return &disk.CorruptError{Struct: "extent tree of inode", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
				Field: fmt.Sprintf("block %d", b), Have: "mapped", Want: "a hole"}
		}
		i := lastUpTo(leaf.entries, at)
		for ; i < len(leaf.entries); i++ {
			o := disk.DecodeExtent(leaf.entries[i][:])
			if uint64(o.Block) >= uint64(at)+n {
				break
			}
			if uint64(o.Block)+uint64(o.Len) > uint64(at) {
				return taken(uint64(o.Block))
			}
		}
		if uint64(at)+n > bounds.End {
			return taken(bounds.End)
		}
		entries := splice(leaf.entries, i, i, []disk.Extent{{Block: at, Len: uint16(n), Unwritten: unwritten, Start: r.first}})
		if err := h.putNode(in, path, len(path)-1, entries); err != nil {
			return err
		}
		in.keepGrown(path, bounds, entries)
		at, r.first, r.n = at+disk.LBlock(n), r.first+disk.PBlock(n), r.n-n
	}
	return nil
}

// maxGrown is how many extents a leaf can have that an inode keeps.
const maxGrown = 128

// keepGrown keeps the leaf at the end of path, which has become entries, for the
// next look into it.
func (in *Inode) keepGrown(path []extentStep, bounds disk.ExtentBounds, entries []extentEntry) {
	if len(path) == 1 || len(entries) > min(maxGrown, in.fs.nodeEntries()) || len(path) == 2 && len(entries) <= rootEntries {
		return // it is the root, or has been split, or has perhaps become the root
	}
	l := &mapLeaf{owner: in.ino, first: min(bounds.First, entries[0].key()), end: bounds.End, runs: make([]Mapping, 0, 8)}
	for i := range entries {
		l.addExtent(disk.DecodeExtent(entries[i][:]))
	}
	in.grown.Store(l)
}

// changeExtents calls fn for each part of an extent that lies in [from, end),
// and puts what it returns in its place: an extent, or one of no length for none.
func (h *Handle) changeExtents(in *Inode, from, end uint64, fn func(disk.Extent) disk.Extent) error {
	for from < end {
		path, bounds, err := in.extentPath(disk.LBlock(from))
		if err != nil {
			return err
		}
		leaf := &path[len(path)-1]
		var buf [8]disk.Extent
		list := buf[:0]
		first := lastUpTo(leaf.entries, disk.LBlock(from))
		last := first
		for ; last < len(leaf.entries); last++ {
			e := disk.DecodeExtent(leaf.entries[last][:])
			lo, hi := uint64(e.Block), uint64(e.Block)+uint64(e.Len)
			if lo >= end {
				break
			}
			if hi <= from {
				first++ // the one before
				continue
			}
			a, b := max(lo, from), min(hi, end)
			if lo < a {
				list = append(list, disk.Extent{Block: e.Block, Len: uint16(a - lo), Unwritten: e.Unwritten, Start: e.Start})
			}
			mid := fn(disk.Extent{Block: disk.LBlock(a), Len: uint16(b - a), Unwritten: e.Unwritten, Start: e.Start + disk.PBlock(a-lo)})
			if mid.Len > 0 {
				list = append(list, mid)
			}
			if b < hi {
				list = append(list, disk.Extent{Block: disk.LBlock(b), Len: uint16(hi - b), Unwritten: e.Unwritten, Start: e.Start + disk.PBlock(b-lo)})
			}
		}
		if first < last {
			if err := h.putNode(in, path, len(path)-1, splice(leaf.entries, first, last, list)); err != nil {
				return err
			}
		}
		from = max(bounds.End, from+1)
	}
	return nil
}

// removeExtents unmaps the blocks [from, end) and gives them back.
func (h *Handle) removeExtents(in *Inode, from, end uint64) error {
	var gone []disk.Extent
	err := h.changeExtents(in, from, end, func(e disk.Extent) disk.Extent {
		gone = append(gone, e)
		return disk.Extent{}
	})
	if err != nil {
		return err
	}
	return h.freeExtents(in, gone)
}

// freeExtents gives back the clusters of extents that are unmapped already,
// but for those that other blocks of the same file still lie in.
func (h *Handle) freeExtents(in *Inode, gone []disk.Extent) error {
	meta := in.Type() != disk.ModeReg
	cluster := uint64(1) << h.fs.sb.ClusterBits()
	done := uint64(0) // logical blocks before this have been dealt with
	for _, e := range gone {
		lo, hi := uint64(e.Block)&^(cluster-1), (uint64(e.Block)+uint64(e.Len)+cluster-1)&^(cluster-1)
		start := uint64(e.Start) - (uint64(e.Block) - lo)
		for _, edge := range []uint64{lo, hi - cluster} {
			if cluster == 1 || edge < max(lo, done) || edge >= hi {
				continue
			}
			used, err := in.clusterMapped(edge, cluster)
			if err != nil {
				return err
			}
			if used && edge == lo {
				start, lo = start+cluster, lo+cluster
			} else if used {
				hi -= cluster
			}
		}
		if lo < done {
			start, lo = start+done-lo, done
		}
		done = max(done, (uint64(e.Block)+uint64(e.Len)+cluster-1)&^(cluster-1))
		if lo >= hi {
			continue
		}
		in.addBlocks(-int64(hi - lo))
		if err := h.free(run{disk.PBlock(start), hi - lo}, meta); err != nil {
			return err
		}
	}
	return nil
}

// clusterMapped reports whether any of the n blocks from b on is mapped.
func (in *Inode) clusterMapped(b, n uint64) (bool, error) {
	for at := b; at < b+n; {
		m, err := in.mapOnce(disk.LBlock(at))
		if err != nil || m.State != MapHole {
			return m.State != MapHole, err
		}
		at = m.End()
	}
	return false, nil
}

// convertExtents makes the unwritten blocks of [from, end) written.
func (h *Handle) convertExtents(in *Inode, from, end uint64) error {
	return h.changeExtents(in, from, end, func(e disk.Extent) disk.Extent {
		e.Unwritten = false
		return e
	})
}

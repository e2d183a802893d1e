package mkfs

import (
	"e4go/ext4/disk"
)

// An inode is one that is written when all is known.
type inode struct {
	disk.Inode
	tree   []disk.Extent // its extents, when they do not fit into i_block
	node   disk.PBlock   // where their nodes are looked for; 0 is behind the first extent
	body   []xattr       // that stand in the inode itself
	eaRefs int           // values in inodes of their own
}

// newInode returns an inode of the volume's own, made when the file system is.
func (v *volume) newInode(mode disk.Mode, links uint16) *inode {
	in := &inode{Inode: disk.Inode{Mode: mode, Links: links}}
	if v.sb.InodeSize > disk.GoodOldInodeSize {
		in.ExtraIsize = extraIsize
	}
	v.dateInode(in)
	return in
}

// dateInode gives an inode the time of the file system.
func (v *volume) dateInode(in *inode) {
	t := disk.Time{Sec: v.sb.MkfsTime}
	in.Atime, in.Ctime, in.Mtime = t, t, t
	if in.ExtraIsize > 0 {
		in.Crtime = t
	}
}

const (
	minTime    = -1 << 31          // seconds, of all inodes
	maxTime    = 1<<34 - 1<<31 - 1 // of those that have room for two more bits
	maxOldTime = 1<<31 - 1
)

// clampTimes brings the times of an inode to those that it can have, as the
// kernel does (timestamp_truncate).
func (v *volume) clampTimes(in *disk.Inode) {
	most := int64(maxTime)
	if v.sb.InodeSize == disk.GoodOldInodeSize {
		most = maxOldTime
	}
	for _, t := range []*disk.Time{&in.Atime, &in.Ctime, &in.Mtime, &in.Crtime} {
		if t.Sec >= most {
			*t = disk.Time{Sec: most}
		} else if t.Sec <= minTime {
			*t = disk.Time{Sec: minTime}
		}
	}
}

// addBlocks counts n blocks of the file system in i_blocks.
func (v *volume) addBlocks(in *disk.Inode, n uint64) {
	in.BlocksRaw += n << (v.sb.BlockBits() - 9)
}

// clusterBlocks is n blocks, rounded up to whole clusters.
func (v *volume) clusterBlocks(n uint64) uint64 {
	cb := v.sb.ClusterBits()
	return (n + 1<<cb - 1) >> cb << cb
}

// setExtents maps the file's extents, in order. Those that do not fit into
// the inode wait in tree for blocks of their own.
func setExtents(in *inode, list []disk.Extent) {
	in.Flags |= disk.FlagExtents
	const most = (disk.IBlockSize - disk.ExtentHeaderSize) / disk.ExtentSize
	h := disk.ExtentHeader{Magic: disk.ExtentMagic, Max: most}
	if len(list) <= most {
		h.Entries = uint16(len(list))
		for i, e := range list {
			e.Put(disk.ExtentEntry(in.Block[:], i))
		}
	} else {
		in.tree = list
	}
	h.Put(in.Block[:])
}

// extents are the extents of a file whose blocks from first on lie in runs.
func extents(first disk.LBlock, runs []run, unwritten bool) []disk.Extent {
	most := uint64(disk.MaxExtentLen)
	if unwritten {
		most = disk.MaxExtentLen - 1
	}
	var out []disk.Extent
	for _, r := range runs {
		for r.len() > 0 {
			n := min(r.len(), most)
			out = append(out, disk.Extent{Block: first, Len: uint16(n), Unwritten: unwritten, Start: r.start})
			first += disk.LBlock(n)
			r.start += disk.PBlock(n)
		}
	}
	return out
}

// mapRuns maps blocks that lie in runs as the first n of a file.
func (v *volume) mapRuns(in *inode, runs []run, n uint64) error {
	if v.sb.Incompat.Has(disk.IncompatExtents) {
		list := extents(0, runs, false)
		setExtents(in, list)
		v.addBlocks(&in.Inode, v.mappedBlocks(list))
		return nil
	}
	next := sequence(runs)
	m := v.newBlockMap(&in.Inode, func() (disk.PBlock, error) { return next(), nil })
	m.pointer = func() (disk.PBlock, error) {
		return v.alloc("a block of pointers", runs[0].start, 1)
	}
	for b := range n {
		if _, err := m.add(disk.LBlock(b)); err != nil {
			return err
		}
	}
	v.addBlocks(&in.Inode, m.n)
	return m.finish()
}

// blocksOf is how many blocks n bytes take.
func (v *volume) blocksOf(n int) uint64 { return uint64((n + v.sb.BlockSize() - 1) / v.sb.BlockSize()) }

// storeAt writes contents to the blocks of runs and maps them.
func (v *volume) storeAt(in *inode, runs []run, data []byte) error {
	bs := v.sb.BlockSize()
	next, w := sequence(runs), blockRun{v: v}
	n := int(v.blocksOf(len(data)))
	for i := range n {
		b, err := w.block(next())
		if err != nil {
			return err
		}
		copy(b, data[i*bs:])
	}
	if err := w.flush(); err != nil {
		return err
	}
	return v.mapRuns(in, trim(runs, uint64(n)), uint64(n))
}

// store writes contents to blocks that are free.
func (v *volume) store(in *inode, data []byte) error {
	n := v.blocksOf(len(data))
	runs, err := v.allocPieces("contents", disk.PBlock(v.sb.FirstDataBlock), n)
	if err != nil {
		return err
	}
	return v.storeAt(in, runs, data)
}

// trim is the first n blocks of runs.
func trim(runs []run, n uint64) []run {
	var out []run
	for _, r := range runs {
		r.end = min(r.end, r.start+disk.PBlock(n))
		if n -= r.len(); r.len() > 0 {
			out = append(out, r)
		}
	}
	return out
}

// writeExtentTree writes the nodes of a map that does not fit into the inode.
func (v *volume) writeExtentTree(ino disk.Ino, in *inode) error {
	bs := v.sb.BlockSize()
	per := (bs - disk.ExtentHeaderSize) / disk.ExtentSize
	seed := disk.InodeSeed(v.sb.Seed(), ino, in.Generation)
	node := make([]byte, bs)
	goal := in.tree[0].Start
	if in.node != 0 {
		goal = in.node
	}
	emit := func(depth, n int, fill func(i int, entry []byte)) (disk.PBlock, error) {
		clear(node)
		disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: uint16(n), Max: uint16(per), Depth: uint16(depth)}.Put(node)
		for i := range n {
			fill(i, disk.ExtentEntry(node, i))
		}
		if v.sb.MetadataCsum() {
			disk.PutExtentChecksum(seed, node)
		}
		b, err := v.alloc("a node of an extent tree", goal, 1)
		if err != nil {
			return 0, err
		}
		v.addBlocks(&in.Inode, v.clusterBlocks(1))
		return b, v.writeBlock(b, node)
	}
	var level []disk.ExtentIdx
	for list := in.tree; len(list) > 0; {
		n := min(per, len(list))
		b, err := emit(0, n, func(i int, entry []byte) { list[i].Put(entry) })
		if err != nil {
			return err
		}
		level = append(level, disk.ExtentIdx{Block: list[0].Block, Leaf: b})
		list = list[n:]
	}
	const most = (disk.IBlockSize - disk.ExtentHeaderSize) / disk.ExtentSize
	depth := 1
	for ; len(level) > most; depth++ {
		var above []disk.ExtentIdx
		for list := level; len(list) > 0; {
			n := min(per, len(list))
			b, err := emit(depth, n, func(i int, entry []byte) { list[i].Put(entry) })
			if err != nil {
				return err
			}
			above = append(above, disk.ExtentIdx{Block: list[0].Block, Leaf: b})
			list = list[n:]
		}
		level = above
	}
	disk.ExtentHeader{Magic: disk.ExtentMagic, Entries: uint16(len(level)), Max: most, Depth: uint16(depth)}.Put(in.Block[:])
	for i, x := range level {
		x.Put(disk.ExtentEntry(in.Block[:], i))
	}
	return nil
}

// fixBlocks gives i_blocks the unit that its size wants.
func (v *volume) fixBlocks(in *disk.Inode) {
	if in.BlocksRaw >= 1<<48 {
		in.Flags |= disk.FlagHugeFile
		in.BlocksRaw >>= v.sb.BlockBits() - 9
	}
}

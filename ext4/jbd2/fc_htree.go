package jbd2

import (
	"cmp"
	"slices"

	"e4go/ext4/disk"
)

// dxFrame is a node on the way from the root of a hash tree to a leaf.
type dxFrame struct {
	node disk.DxNode
	b    []byte
	at   int // the entry that was followed
}

// addIndexed puts an entry into the leaf that its hash belongs to, splitting
// the leaf, and nodes above it, where they are full (ext4_dx_add_entry). It
// returns false, with the tree whole, where that cannot be done: names whose
// hash we cannot compute, or a tree that may not grow.
func (fs *fcFS) addIndexed(d *fcDir, name string, child *fcInode) (bool, error) {
	if d.n.in.Flags.Has(disk.FlagCasefold) {
		return false, nil
	}
	root, blk, err := fs.blockOf(d, 0)
	if err != nil {
		return false, err
	}
	if err := disk.CheckDxRoot(&fs.sb, d.n.ino, root, blk); err != nil {
		return false, err
	}
	info := disk.DecodeDxRoot(root)
	version := fs.sb.EffectiveHash(info.HashVersion)
	hash, _, ok := disk.NameHash(version, fs.sb.HashSeed, []byte(name))
	if !ok {
		return false, nil
	}
	frames := []dxFrame{{node: disk.DxRootNode(root), b: root}}
	if err := disk.CheckDxNode(&fs.sb, d.n.ino, frames[0].node, d.n.seed, blk); err != nil {
		return false, err
	}
	for range info.Levels {
		f := &frames[len(frames)-1]
		f.at = f.node.Find(hash)
		b, blk, err := fs.blockOf(d, f.node.Entry(f.at).Block)
		if err != nil {
			return false, err
		}
		next := dxFrame{node: disk.DxInnerNode(b), b: b}
		if err := disk.CheckDxNode(&fs.sb, d.n.ino, next.node, d.n.seed, blk); err != nil {
			return false, err
		}
		frames = append(frames, next)
	}
	f := &frames[len(frames)-1]
	f.at = f.node.Find(hash)
	l := f.node.Entry(f.at).Block
	leaf, blk, err := fs.blockOf(d, l)
	if err != nil {
		return false, err
	}
	if err := fs.checkLeaf(d, leaf, blk); err != nil {
		return false, err
	}
	done, err := fs.insert(d.n.ino, fs.area(leaf), blk, name, child)
	if err != nil {
		return false, err
	}
	if !done {
		if frames, done, err = fs.makeRoom(d, frames); !done || err != nil {
			return false, err
		}
		if l, done, err = fs.splitLeaf(d, frames[len(frames)-1], version, hash, l); !done || err != nil {
			return false, err
		}
		if leaf, blk, err = fs.blockOf(d, l); err != nil {
			return false, err
		}
		if done, err = fs.insert(d.n.ino, fs.area(leaf), blk, name, child); !done || err != nil {
			return false, err
		}
	}
	fs.sumDir(d, leaf)
	d.where[name] = l
	return true, nil
}

// sumNode sums a node of the hash tree.
func (fs *fcFS) sumNode(d *fcDir, n disk.DxNode) {
	if fs.sb.MetadataCsum() {
		n.PutChecksum(d.n.seed)
	}
}

// newNode appends a block to d that is an interior node holding entries.
func (fs *fcFS) newNode(d *fcDir, entries []disk.DxEntry) (disk.LBlock, dxFrame, error) {
	l, b, err := fs.appendBlock(d)
	if err != nil {
		return 0, dxFrame{}, err
	}
	clear(b)
	disk.Dirent{RecLen: fs.bs}.Put(b, fs.bs)
	n := disk.DxInnerNode(b)
	for i, e := range entries {
		n.SetEntry(i, e)
	}
	n.SetCount(len(entries), n.DxLimit(fs.sb.MetadataCsum()))
	fs.sumNode(d, n)
	return l, dxFrame{node: n, b: b}, nil
}

// insertIndex puts e behind the entry that frame f followed; there is room.
func (fs *fcFS) insertIndex(d *fcDir, f dxFrame, e disk.DxEntry) {
	count, limit := f.node.Count(), f.node.Limit()
	for i := count; i > f.at+1; i-- {
		f.node.SetEntry(i, f.node.Entry(i-1))
	}
	f.node.SetEntry(f.at+1, e)
	f.node.SetCount(count+1, limit)
	fs.sumNode(d, f.node)
}

// makeRoom splits full nodes on the way to a leaf, so that the lowest has room
// for an entry. It returns the way as it is then, or false if the tree is full.
func (fs *fcFS) makeRoom(d *fcDir, frames []dxFrame) ([]dxFrame, bool, error) {
	full := func(f dxFrame) bool { return f.node.Count() >= f.node.Limit() }
	k := len(frames) - 1
	for k >= 0 && full(frames[k]) {
		k--
	}
	if k < 0 { // up to the root: a level more
		root := frames[0]
		info := disk.DecodeDxRoot(root.b)
		limit := uint8(1)
		if fs.sb.Incompat.Has(disk.IncompatLargedir) {
			limit = 2
		}
		if info.Levels >= limit {
			return frames, false, nil
		}
		var all []disk.DxEntry
		for i := range root.node.Count() {
			all = append(all, root.node.Entry(i))
		}
		l, f, err := fs.newNode(d, all)
		if err != nil {
			return frames, false, err
		}
		f.at = root.at
		info.Levels++
		info.Put(root.b)
		root.node.SetEntry(0, disk.DxEntry{Block: l})
		root.node.SetCount(1, root.node.Limit())
		fs.sumNode(d, root.node)
		frames[0].at = 0
		frames = slices.Insert(frames, 1, f)
		k = 1
		if full(f) { // a root has less room than another node
			return frames, false, nil
		}
	}
	for i := k + 1; i < len(frames); i++ {
		f := &frames[i]
		count := f.node.Count()
		half := count / 2
		var upper []disk.DxEntry
		for j := half; j < count; j++ {
			upper = append(upper, f.node.Entry(j))
		}
		l, other, err := fs.newNode(d, upper)
		if err != nil {
			return frames, false, err
		}
		f.node.SetCount(half, f.node.Limit())
		fs.sumNode(d, f.node)
		fs.insertIndex(d, frames[i-1], disk.DxEntry{Hash: upper[0].Hash, Block: l})
		if f.at >= half {
			other.at = f.at - half
			frames[i-1].at++
			*f = other
		}
	}
	return frames, true, nil
}

// splitLeaf moves the upper half of leaf l, by hash, to a new block that
// follows it in the index (do_split), and returns the one of the two that hash
// belongs to.
func (fs *fcFS) splitLeaf(d *fcDir, parent dxFrame, version disk.HashVersion, hash uint32, l disk.LBlock) (disk.LBlock, bool, error) {
	b, blk, err := fs.blockOf(d, l)
	if err != nil {
		return 0, false, err
	}
	type entry struct {
		hash uint32
		e    disk.Dirent
		name string
	}
	var all []entry
	hashed := true
	err = fs.entries(d.n.ino, fs.area(b), blk, func(_ int, e disk.Dirent, name []byte) bool {
		if e.Ino == 0 {
			return true
		}
		h, _, ok := disk.NameHash(version, fs.sb.HashSeed, name)
		hashed = hashed && ok
		all = append(all, entry{h, e, string(name)})
		return ok
	})
	if err != nil || !hashed || len(all) < 2 {
		return 0, false, err
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.hash, b.hash) })
	split, moved := len(all), 0
	for split > 1 {
		size := disk.DirentSize(all[split-1].e.NameLen, false)
		if moved+size/2 > fs.bs/2 {
			break
		}
		moved += size
		split--
	}
	if split == len(all) {
		split--
	}
	to, other, err := fs.appendBlock(d)
	if err != nil {
		return 0, false, err
	}
	fill := func(b []byte, part []entry) {
		area := fs.area(b)
		clear(area)
		off := 0
		for i, x := range part {
			x.e.RecLen = disk.DirentSize(x.e.NameLen, false)
			if i == len(part)-1 {
				x.e.RecLen = len(area) - off
			}
			x.e.Put(area[off:], fs.bs)
			copy(area[off+disk.DirentHeaderSize:], x.name)
			off += x.e.RecLen
		}
		fs.sumDir(d, b)
	}
	fill(b, all[:split])
	fill(other, all[split:])
	for _, x := range all[split:] {
		if _, ok := d.where[x.name]; ok {
			d.where[x.name] = to
		}
	}
	first := all[split].hash
	index := disk.DxEntry{Hash: first, Block: to}
	if all[split-1].hash == first {
		index.Hash |= 1 // names of one hash lie on both sides
	}
	fs.insertIndex(d, parent, index)
	if hash >= first {
		return to, true, nil
	}
	return l, true, nil
}

// unindex makes d a directory without an index: the nodes of the tree become
// blocks of entries, of which none is in use but "." and ".." in the root.
func (fs *fcFS) unindex(d *fcDir) error {
	root, blk, err := fs.blockOf(d, 0)
	if err != nil {
		return err
	}
	if err := disk.CheckDxRoot(&fs.sb, d.n.ino, root, blk); err != nil {
		return err
	}
	levels := int(disk.DecodeDxRoot(root).Levels)
	nodes := map[disk.LBlock][]byte{}
	var walk func(n disk.DxNode, blk disk.PBlock, level int) error
	walk = func(n disk.DxNode, blk disk.PBlock, level int) error {
		if err := disk.CheckDxNode(&fs.sb, d.n.ino, n, d.n.seed, blk); err != nil || level == 0 {
			return err
		}
		for i := range n.Count() {
			l := n.Entry(i).Block
			if _, again := nodes[l]; again || l == 0 {
				continue // the tree is no tree; its leaves are all searched anyway
			}
			b, blk, err := fs.blockOf(d, l)
			if err != nil {
				return err
			}
			nodes[l] = b
			if err := walk(disk.DxInnerNode(b), blk, level-1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(disk.DxRootNode(root), blk, levels); err != nil {
		return err
	}
	for _, b := range nodes {
		clear(b)
		fs.sumDir(d, b)
		disk.Dirent{RecLen: len(fs.area(b))}.Put(b, fs.bs)
		fs.sumDir(d, b)
	}
	dot := disk.DirentSize(1, false)
	dotdot := disk.DecodeDirent(root[dot:], fs.bs)
	clear(root[2*dot:])
	dotdot.RecLen = dot // no longer to the end, so that there is a tail
	dotdot.Put(root[dot:], fs.bs)
	fs.sumDir(d, root)
	dotdot.RecLen = len(fs.area(root)) - dot
	dotdot.Put(root[dot:], fs.bs)
	fs.sumDir(d, root)
	d.n.in.Flags &^= disk.FlagIndex
	d.n.dirty = true
	return nil
}

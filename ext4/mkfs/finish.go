package mkfs

import (
	"context"
	"crypto/sha256"
	"fmt"

	"e4go/ext4/disk"
)

// A finisher writes everything that has a checksum, when all contents have
// their places.
type finisher struct {
	f     *Builder
	v     *volume
	t     *tree
	last  disk.Ino // the last inode in use
	dirs  []uint32 // directories of each group
	usage usages

	itable   itableWriter
	shared   []*sharedXattrs
	open     map[uint32]*sharedXattrs // by set: the block that takes more inodes
	large    map[[sha256.Size]byte]*eaInode
	eaInodes []*eaInode
}

// sharedXattrs is a block of xattrs, for up to maxXattrRefs inodes.
type sharedXattrs struct {
	list  []xattr
	block disk.PBlock
	refs  uint32
}

const maxXattrRefs = 1024 // EXT4_XATTR_REFCOUNT_MAX

// finish writes the metadata of the volume.
func (f *Builder) finish(ctx context.Context) error {
	v := f.v
	w := &finisher{
		f: f, v: v, t: f.t, dirs: make([]uint32, v.sb.Groups()),
		open: make(map[uint32]*sharedXattrs), large: make(map[[sha256.Size]byte]*eaInode),
	}
	w.itable.v = v
	if err := w.number(); err != nil {
		return err
	}
	if err := w.inodes(ctx); err != nil {
		return err
	}
	for _, s := range w.shared {
		if err := v.writeXattrBlock(s); err != nil {
			return err
		}
	}
	if err := w.reservedInodes(); err != nil {
		return err
	}
	for _, step := range []func() error{w.itable.finish, v.finishJournal, v.finishMMP} {
		if err := step(); err != nil {
			return err
		}
	}
	return v.writeGroups(ctx, w.last, w.dirs)
}

// number gives every node its inode number, in the order of the tree.
func (w *finisher) number() error {
	next := uint64(w.v.builtin.nextIno)
	err := w.t.walk(func(id nodeID) error {
		n := w.t.node(id)
		switch {
		case n.state&nodeAlias != 0:
			return nil
		case id == rootNode:
			n.ino = disk.RootIno
		case id == lostFoundNode:
			n.ino = lostFoundIno
		default:
			n.ino = disk.Ino(next)
			next++
		}
		if n.mode.Type() == disk.ModeDir {
			n.links = 2
			if id != rootNode {
				w.t.node(n.parent).links++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if next-1 > uint64(w.v.sb.Inodes) {
		return usage("raise -N, or lower -i", "%d inodes are needed, the file system has %d", next-1, w.v.sb.Inodes)
	}
	w.last = disk.Ino(next - 1)
	return nil
}

// newIno takes the next inode number.
func (w *finisher) newIno() (disk.Ino, error) {
	if uint32(w.last) >= w.v.sb.Inodes {
		return 0, usage("raise -N, or lower -i", "more inodes are needed than the %d that the file system has", w.v.sb.Inodes)
	}
	w.last++
	return w.last, nil
}

// inodes writes the inodes of all nodes, and what belongs to them.
func (w *finisher) inodes(ctx context.Context) error {
	err := w.t.walk(func(id nodeID) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := w.t.node(id)
		if n.state&nodeAlias != 0 {
			return nil
		}
		in, err := w.inode(id)
		if err != nil {
			return errPath(w.t.path(id), "%w", err)
		}
		return w.put(n.ino, in)
	})
	if err != nil {
		return err
	}
	for i := 0; i < len(w.eaInodes); i++ {
		if err := w.eaInode(w.eaInodes[i]); err != nil {
			return err
		}
	}
	return nil
}

// put hands an inode to the table, and counts it.
func (w *finisher) put(ino disk.Ino, in *inode) error {
	if in.Mode.Type() == disk.ModeDir {
		g, _ := w.v.sb.InodeGroup(ino)
		w.dirs[g]++
	}
	if in.tree != nil {
		if err := w.v.writeExtentTree(ino, in); err != nil {
			return err
		}
	}
	w.v.fixBlocks(&in.Inode)
	w.v.clampTimes(&in.Inode)
	if in.Flags&disk.FlagEAInode == 0 && ino != w.v.builtin.orphanIno && (ino == disk.RootIno || ino >= w.v.sb.FirstIno) {
		w.usage.count(&in.Inode, in.Sectors(&w.v.sb), 1+uint64(in.eaRefs))
	}
	return w.itable.put(ino, in)
}

// inode makes the inode of a node.
func (w *finisher) inode(id nodeID) (*inode, error) {
	n := w.t.node(id)
	t := disk.Time{Sec: n.mtime, Nsec: n.nsec}
	in := &inode{Inode: disk.Inode{
		Mode: n.mode, UID: n.uid, GID: n.gid, Size: uint64(n.size), Atime: t, Ctime: t, Mtime: t, Links: uint16(n.links), Flags: n.flags,
	}}
	if !w.v.sb.Incompat.Has(disk.IncompatCasefold) {
		in.Flags &^= disk.FlagCasefold // names are what they are then
	}
	if w.v.sb.InodeSize > disk.GoodOldInodeSize {
		in.ExtraIsize, in.Crtime, in.ProjID = extraIsize, t, n.project
	}
	var inline []byte
	switch n.mode.Type() {
	case disk.ModeDir:
		var err error
		if inline, err = w.directory(id, in); err != nil {
			return nil, err
		}
	case disk.ModeReg:
		if n.state&nodeInline != 0 {
			inline = w.t.text.at(n.where, int(n.size))
			break
		}
		w.fileMap(in, n)
	case disk.ModeLink:
		if err := w.symlink(in, w.t.targetOf(n)); err != nil {
			return nil, err
		}
	case disk.ModeChar, disk.ModeBlock:
		in.SetDev(uint32(n.where>>32), uint32(n.where))
	}
	return in, w.attach(in, n.xattrs, inline)
}

// fileMap is where a file's blocks lie.
func (w *finisher) fileMap(in *inode, n *node) {
	d := w.t.details.at(n.detail)
	if !w.v.sb.Incompat.Has(disk.IncompatExtents) {
		if d.iblock != nil {
			in.Block, in.BlocksRaw = *d.iblock, d.sectors
			return
		}
		for i := range n.blocks {
			le.PutUint32(in.Block[4*i:], uint32(n.where)+i)
		}
		w.v.addBlocks(&in.Inode, uint64(n.blocks))
		return
	}
	list := w.t.extentsOf(n)
	setExtents(in, list)
	w.v.addBlocks(&in.Inode, w.v.mappedBlocks(list))
}

// mappedBlocks is how many blocks extents take, in whole clusters.
func (v *volume) mappedBlocks(list []disk.Extent) uint64 {
	cb := v.sb.ClusterBits()
	var n uint64
	last := int64(-1)
	for _, e := range list {
		first, end := int64(e.Block>>cb), (int64(e.Block)+int64(e.Len)-1)>>cb
		n += uint64(end - max(first, last+1) + 1)
		last = end
	}
	return n << cb
}

// symlink stores a target: in i_block if it is short, or in a block. As the kernel does,
// and unlike mke2fs, it makes none inline: e2fsck neither looks at the xattrs of
// such a link nor counts it for the quota.
func (w *finisher) symlink(in *inode, target []byte) error {
	if len(target) < disk.IBlockSize {
		copy(in.Block[:], target)
		return nil
	}
	if err := w.v.checkTarget(len(target)); err != nil {
		return err
	}
	return w.v.store(in, target)
}

// checkTarget refuses the target of a symbolic link that is longer than a block holds.
func (v *volume) checkTarget(n int) error {
	if n >= max(v.sb.BlockSize(), disk.IBlockSize) {
		return usage("use larger blocks, as -b 4096", "the target of the symbolic link has %d bytes, a block of %d holds less", n, v.sb.BlockSize())
	}
	return nil
}

// directory writes a directory.
func (w *finisher) directory(id nodeID, in *inode) (inline []byte, err error) {
	n := w.t.node(id)
	d := &dirWriter{
		v: w.v, ino: n.ino, parent: w.t.node(n.parent).ino,
		folds: in.Flags.Has(disk.FlagCasefold),
		seed:  disk.InodeSeed(w.v.sb.Seed(), n.ino, 0),
	}
	count := 0
	for c := n.child; c != 0; c = w.t.node(c).next {
		count++
	}
	d.entries = make([]dirEntry, 0, count)
	for c := n.child; c != 0; c = w.t.node(c).next {
		t := w.t.node(w.t.target(c))
		d.entries = append(d.entries, dirEntry{name: w.t.nameOf(w.t.node(c)), ino: t.ino, kind: t.mode.FileType()})
	}
	if d.folds {
		if err := checkFolds(&w.v.sb, w.t.path(id), d.entries); err != nil {
			return nil, err
		}
	}
	in.Links = uint16(n.links)
	if n.links > maxLinks {
		if !w.v.sb.ROCompat.Has(disk.ROCompatDirNlink) {
			return nil, fmt.Errorf("it has %d subdirectories, at most %d are possible without feature dir_nlink", n.links-2, maxLinks-2)
		}
		in.Links = 1
	}
	if id != rootNode && n.ino != lostFoundIno {
		if room, _ := w.v.inlineRoom(w.t.xattrs[n.xattrs]); room > 0 {
			if data := d.inlineDir(room); data != nil {
				in.Size = uint64(len(data))
				n.size = int64(len(data))
				return data, nil
			}
		}
	}
	l := d.layout()
	runs, err := w.dirBlocks(n, l.blocks())
	if err != nil {
		return nil, err
	}
	if n.ino == lostFoundIno {
		for uint64(len(l.leaves)) < w.v.lostFoundBlocks() && !l.indexed {
			l.leaves = append(l.leaves, len(d.entries))
		}
	}
	if l.indexed {
		in.Flags |= disk.FlagIndex
	}
	if err := d.write(l, runs); err != nil {
		return nil, err
	}
	var blocks uint64
	for _, r := range runs {
		blocks += r.len()
	}
	in.Size = blocks << w.v.sb.BlockBits()
	n.size = int64(in.Size)
	if limit := uint64(1) << 31; in.Size >= limit && !w.v.sb.Incompat.Has(disk.IncompatLargedir) {
		return nil, fmt.Errorf("the directory takes %d bytes, at most %d are possible without feature large_dir", in.Size, limit-1)
	}
	return nil, w.v.mapRuns(in, runs, blocks)
}

// dirBlocks takes n blocks for a directory. The root and lost+found have some already.
func (w *finisher) dirBlocks(n *node, blocks uint64) ([]run, error) {
	var runs []run
	switch n.ino {
	case disk.RootIno:
		runs = []run{{w.v.builtin.root, w.v.builtin.root + 1}}
	case lostFoundIno:
		runs = w.v.builtin.lostFound
	}
	for _, r := range runs {
		blocks -= min(blocks, r.len())
	}
	if blocks == 0 {
		return runs, nil
	}
	goal := disk.PBlock(w.v.sb.FirstDataBlock)
	if len(runs) > 0 {
		goal = runs[len(runs)-1].end
	}
	if cb := w.v.sb.ClusterBits(); cb > 0 && len(runs) > 0 {
		// The cluster of the last block goes on behind it.
		last := &runs[len(runs)-1]
		if rest := uint64(-last.end) & (1<<cb - 1); rest > 0 {
			more := min(rest, blocks)
			last.end += disk.PBlock(more)
			if blocks -= more; blocks == 0 {
				return runs, nil
			}
		}
	}
	if b, ok := w.v.space.find(goal, w.v.space.limit, blocks); ok {
		w.v.take(b, blocks)
		return append(runs, run{b, b + disk.PBlock(blocks)}), nil
	}
	more, err := w.v.allocPieces("a directory", goal, blocks)
	return append(runs, more...), err
}

// attach gives an inode its xattrs, and the part of its inline contents that stands
// among them.
func (w *finisher) attach(in *inode, set uint32, inline []byte) error {
	var list []xattr
	if x := w.t.xattrs[set]; x != nil {
		list = x.list
	}
	if inline != nil {
		_, inBody := w.v.inlineRoom(w.t.xattrs[set])
		in.body = append(in.body, setInline(in, inline))
		if inBody {
			in.body = append(in.body, list...)
			return nil
		}
	}
	switch {
	case len(list) == 0:
		return nil
	case inline == nil && xattrRoom(list) <= w.v.ibodyRoom():
		in.body = list
		return nil
	case xattrRoom(list) <= w.v.blockRoom():
		return w.attachBlock(in, set, list)
	}
	list, body, err := w.v.divide(list)
	if err != nil {
		return err
	}
	for _, part := range [][]xattr{list, body} {
		for i := range part {
			x := &part[i]
			if x.ea == nil {
				continue
			}
			if x.ea, err = w.largeValue(x.value); err != nil {
				return err
			}
			in.eaRefs++
			w.v.addBlocks(&in.Inode, w.v.clusterBlocks(w.v.blocksOf(len(x.value))))
		}
	}
	in.body = append(in.body, body...)
	if len(list) == 0 {
		return nil
	}
	return w.attachBlock(in, 0, list)
}

// attachBlock gives an inode a block of xattrs, one that equal sets share.
func (w *finisher) attachBlock(in *inode, set uint32, list []xattr) error {
	s := w.open[set]
	if set == 0 || s == nil || s.refs == maxXattrRefs {
		b, err := w.v.alloc("a block of extended attributes", disk.PBlock(w.v.sb.FirstDataBlock), 1)
		if err != nil {
			return err
		}
		s = &sharedXattrs{list: list, block: b}
		w.shared = append(w.shared, s)
		if set != 0 {
			w.open[set] = s
		}
	}
	s.refs++
	in.FileACL = s.block
	w.v.addBlocks(&in.Inode, w.v.clusterBlocks(1))
	return nil
}

// largeValue returns the inode that holds a value.
func (w *finisher) largeValue(value []byte) (*eaInode, error) {
	key := sha256.Sum256(value)
	e := w.large[key]
	if e == nil {
		ino, err := w.newIno()
		if err != nil {
			return nil, err
		}
		e = &eaInode{ino: ino, value: value}
		w.large[key] = e
		w.eaInodes = append(w.eaInodes, e)
	}
	e.refs++
	return e, nil
}

// eaInode writes an inode that holds a value. It keeps the value's hash in place of an access
// time, and how many xattrs it serves in those of a change time and a version.
func (w *finisher) eaInode(e *eaInode) error {
	in := w.v.newInode(disk.ModeReg|0o600, 1)
	in.Flags |= disk.FlagEAInode
	in.Size = uint64(len(e.value))
	in.Atime = disk.Time{Sec: int64(int32(disk.EAInodeHash(w.v.sb.Seed(), e.value)))}
	in.Ctime = disk.Time{Sec: int64(int32(uint32(e.refs >> 32)))}
	in.Version = uint64(uint32(e.refs))
	if err := w.v.store(in, e.value); err != nil {
		return err
	}
	return w.put(e.ino, in)
}

// reservedInodes writes the inodes that have a number of their own.
func (w *finisher) reservedInodes() error {
	v := w.v
	fixed := make(map[disk.Ino]*inode)
	if v.builtin.journalIn != nil {
		fixed[journalIno] = v.builtin.journalIn
	}
	var err error
	if fixed[resizeIno], err = v.finishResizeInode(); err != nil {
		return err
	}
	if fixed[badBlocksIno], err = v.badBlocksInode(); err != nil {
		return err
	}
	if ino := v.builtin.orphanIno; ino != 0 {
		if fixed[ino], err = v.finishOrphanFile(); err != nil {
			return err
		}
	}
	if err := v.finishQuota(&w.usage, fixed); err != nil {
		return err
	}
	for ino := disk.Ino(1); ino < v.builtin.nextIno; ino++ {
		if ino == disk.RootIno || ino == lostFoundIno {
			continue
		}
		in := fixed[ino]
		if in == nil {
			in = &inode{}
		}
		if err := w.put(ino, in); err != nil {
			return err
		}
	}
	return nil
}

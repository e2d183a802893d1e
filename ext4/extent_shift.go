package ext4

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A shift moves the blocks of a file from block from on by so many blocks, and
// takes out those from gone on, before from.
type shift struct {
	gone, from uint64
	by         int64
	size       int64 // of the file afterwards
}

// maxShift is how many extents a file can have whose blocks are to move.
const maxShift = 1 << 22

// shiftExtents moves blocks of a file. The tree that it shall have is put
// together beside the one that it has, in blocks that nothing leads to yet; one
// update leads to it and gives back the old one (ext4_ext_shift_extents changes the
// tree in place, which a crash may interrupt).
func (fs *FS) shiftExtents(ctx context.Context, c Caller, in *Inode, s shift) error {
	fs.dropPrealloc(in.ino)
	in, err := fs.Inode(in.ino)
	if err != nil {
		return err
	}
	list, err := in.shifted(s)
	if err != nil {
		return err
	}
	tree, err := fs.buildTree(c, in, list)
	if err != nil {
		return err
	}
	led := false // something leads to the tree
	defer func() {
		if !led {
			fs.rw.unreserveRuns(tree.runs)
		}
	}()
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(in.ino)
		if err != nil {
			return err
		}
		h.mustNotFail = true
		if err := h.removeExtents(in, s.gone, s.from); err != nil {
			return err
		}
		if err := h.replaceTree(in, tree); err != nil {
			return err
		}
		in.disk.Size = uint64(s.size)
		h.needLargeFile(in)
		in.written(c)
		return h.clearPrivileges(c, in)
	})
	led = err == nil
	return err
}

// shifted returns the extents that the file shall have.
func (in *Inode) shifted(s shift) ([]disk.Extent, error) {
	var out []disk.Extent
	add := func(m Mapping, from, end uint64, by int64) error {
		if from >= end {
			return nil
		}
		if by > 0 && end+uint64(by) >= maxLogical {
			return fmt.Errorf("block %d cannot move by %d: %w", end-1, by, unix.EINVAL)
		}
		for at := from; at < end; {
			n := min(end-at, maxExtentLen(m.State == MapUnwritten))
			out = joined(out, disk.Extent{
				Block: disk.LBlock(int64(at) + by), Len: uint16(n), Unwritten: m.State == MapUnwritten,
				Start: m.Physical + disk.PBlock(at-uint64(m.Logical)),
			})
			at += n
		}
		if len(out) > maxShift {
			return fmt.Errorf("more than %d extents: %w", maxShift, unix.EFBIG)
		}
		return nil
	}
	for b := uint64(0); b < maxLogical; {
		m, err := in.mapOnce(disk.LBlock(b))
		if err != nil {
			return nil, err
		}
		if m.State != MapHole {
			err := errors.Join(add(m, b, min(m.End(), s.gone), 0), add(m, max(b, s.from), m.End(), s.by))
			if err != nil {
				return nil, err
			}
		}
		b = m.End()
	}
	return out, nil
}

// A builtTree is an extent tree that the device has, but for its root.
type builtTree struct {
	root  []extentEntry
	depth int
	nodes []disk.PBlock // one a cluster
	runs  []run         // the clusters, reserved
}

// buildTree writes the nodes of a tree with the extents of list to blocks that
// it reserves. They do not go through the log: they are part of nothing until they
// are whole, and the commit that leads to them waits for what was written before it.
func (fs *FS) buildTree(c Caller, in *Inode, list []disk.Extent) (t *builtTree, err error) {
	t = &builtTree{root: entriesOf(list)}
	defer func() {
		if err != nil {
			fs.rw.unreserveRuns(t.runs)
		}
	}()
	room := fs.nodeEntries()
	count := 0
	for n := len(list); n > rootEntries; count += n {
		n = (n + room - 1) / room
	}
	cb := fs.sb.ClusterBits()
	for need := uint64(count) << cb; need > 0; {
		r, err := fs.rw.reserveFor(c, nil, 0, allocRequest{goal: fs.inodeGoal(in.ino), want: need})
		if err != nil {
			return t, err
		}
		t.runs = append(t.runs, r)
		need -= r.n
		for at := uint64(0); at < r.n; at += 1 << cb {
			t.nodes = append(t.nodes, r.first+disk.PBlock(at))
		}
	}
	left := t.nodes
	for len(t.root) > rootEntries {
		if t.depth == disk.ExtentMaxDepth {
			return t, fmt.Errorf("the extent tree would have more than %d levels: %w", t.depth, unix.EFBIG)
		}
		var above []extentEntry
		for entries := t.root; len(entries) > 0; {
			part := entries[:min(room, len(entries))]
			entries = entries[len(part):]
			data := make([]byte, fs.sb.BlockSize())
			fillNode(data, part, t.depth, room)
			if fs.sb.MetadataCsum() {
				disk.PutExtentChecksum(in.seed, data)
			}
			n := left[0]
			left = left[1:]
			if err := fs.writeDevice(data, int64(n)<<fs.sb.BlockBits()); err != nil {
				return t, err
			}
			var e extentEntry
			disk.ExtentIdx{Block: part[0].key(), Leaf: n}.Put(e[:])
			above = append(above, e)
		}
		t.root, t.depth = above, t.depth+1
	}
	return t, nil
}

// replaceTree gives in the tree t, and gives back the nodes of the one it had.
func (h *Handle) replaceTree(in *Inode, t *builtTree) error {
	old, err := in.treeNodes()
	if err != nil {
		return err
	}
	for _, n := range old {
		if err := h.freeNode(in, n); err != nil {
			return err
		}
	}
	for _, r := range t.runs {
		h.use(r)
		in.addBlocks(int64(r.n))
	}
	h.placed = append(h.placed, t.nodes...)
	in.grown.Store(nil)
	fillRoot(&in.disk, t.root, t.depth)
	return nil
}

// treeNodes returns the blocks of the nodes of the extent tree.
func (in *Inode) treeNodes() ([]disk.PBlock, error) {
	root, _, err := in.extentRoot()
	if root == nil || err != nil {
		return nil, err
	}
	var out []disk.PBlock
	var walk func(x *mapIndex) error
	walk = func(x *mapIndex) error {
		for i, e := range x.idx {
			out = append(out, e.Leaf)
			if x.depth == 1 {
				continue
			}
			below, err := in.indexBlock(e.Leaf, childBounds(x.idx, i, x.in), x.depth-1)
			if err != nil {
				return err
			}
			if err := walk(below); err != nil {
				return err
			}
		}
		return nil
	}
	return out, walk(root)
}

// unreserveRuns gives back runs that were reserved.
func (rw *writer) unreserveRuns(list []run) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	for _, r := range list {
		rw.unreserve(r)
	}
}

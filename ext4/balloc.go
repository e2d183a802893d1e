package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A run is n blocks from first on.
type run struct {
	first disk.PBlock
	n     uint64
}

// group is what the writer knows of a block group that it uses.
type group struct {
	n      disk.Group
	desc   disk.GroupDesc
	blocks bitmap // by cluster, as the next transaction writes it
	// busy has the bits of blocks, and those of clusters that are reserved for data
	// being written, or that were freed by a transaction that is not durable.
	busy    bitmap
	longest uint32 // no run of free clusters is longer
	inodes  bitmap // nil until an inode is allocated or freed
	used    uint64 // writer.tick when it was last used
}

// descBlock is a block of group descriptors as it lies on the device.
type descBlock struct {
	n    disk.PBlock
	data []byte
}

// clusters is the number of clusters of group g.
func (fs *FS) clusters(g disk.Group) uint32 {
	return (fs.sb.BlocksInGroup(g) + 1<<fs.sb.ClusterBits() - 1) >> fs.sb.ClusterBits()
}

// withInodes returns group n with its inode bitmap.
func (rw *writer) withInodes(n disk.Group) (*group, error) {
	g, err := rw.group(n)
	if err != nil || g.inodes != nil {
		return g, err
	}
	b, err := rw.view.fs.inodeBitmap(n)
	if err != nil {
		return nil, err
	}
	in := append(bitmap(nil), b...)
	in.set(rw.fs.sb.InodesPerGroup, uint32(len(b))*8-rw.fs.sb.InodesPerGroup)
	if have := in.zeros(rw.fs.sb.InodesPerGroup); have != g.desc.FreeInodes {
		return nil, &disk.CorruptError{Struct: "group descriptor", Num: uint64(n), Block: g.desc.InodeBitmap, Field: "bg_free_inodes_count",
			Have: fmt.Sprint(g.desc.FreeInodes), Want: fmt.Sprintf("%d, as the bitmap has it", have)}
	}
	g.inodes = in
	rw.groupBytes += len(in)
	return g, nil
}

// desc is the descriptor of group n as it is now.
func (rw *writer) desc(n disk.Group) (disk.GroupDesc, error) {
	if g, ok := rw.groups[n]; ok {
		return g.desc, nil
	}
	return rw.view.fs.groupDesc(n)
}

// findFree looks for a run of at most want free clusters as req asks. n is 0
// if nothing is free.
func (rw *writer) findFree(req allocRequest, want, least uint32) (g *group, first, n uint32, err error) {
	sb := &rw.fs.sb
	groups := disk.Group(sb.Groups())
	if req.low {
		groups = min(groups, disk.Group(lowBlocks/sb.BlocksPerGroup)) // s_blockfile_groups
	}
	home := sb.GroupOf(req.goal) % groups
	start := uint32(uint64(req.goal)-uint64(sb.FirstBlock(sb.GroupOf(req.goal)))) >> sb.ClusterBits()
	var best *group
	var bestFirst, bestN uint32
	for i := disk.Group(0); i < groups; i++ {
		at := (home + i) % groups
		if longest, ok := rw.longestIn(at); ok && (longest == 0 || longest < least && bestN >= longest && !(i == 0 && req.merge)) {
			continue
		}
		d, err := rw.desc(at)
		if err != nil {
			return nil, 0, 0, err
		}
		if d.FreeClusters == 0 {
			continue
		}
		g, err := rw.load(at)
		if err != nil && rw.skipDamagedLocked(err) {
			rw.longest[at] = 0
			continue
		}
		if err != nil {
			return nil, 0, 0, err
		}
		from, end := uint32(0), rw.fs.clusters(at)
		if i == 0 {
			from = start
			if req.merge {
				if stop := g.busy.next(from, min(end, from+want), true); stop > from {
					return rw.use(g), from, stop - from, nil
				}
			}
		}
		first, n := g.find(from, end, want, least)
		if n >= least && n > 0 {
			return rw.use(g), first, n, nil
		}
		if n > bestN {
			best, bestFirst, bestN = rw.use(g), first, n
		}
	}
	return best, bestFirst, bestN, nil
}

// find returns the first run of free clusters from at on, round the end, that
// has least; or the longest there is. It is cut at want.
func (g *group) find(at, end, want, least uint32) (first, n uint32) {
	longest := uint32(0)
	scan := func(from, to uint32) bool {
		for i := g.busy.next(from, to, false); i < to; i = g.busy.next(i, to, false) {
			stop := g.busy.next(i, min(to, i+max(want, least)), true)
			longest = max(longest, stop-i)
			if stop-i > n {
				first, n = i, stop-i
			}
			if n >= least {
				return true
			}
			i = stop
		}
		return false
	}
	if scan(at, end) || scan(0, at) {
		n = min(n, want)
		return first, n
	}
	// The whole group was looked at; a run over at counts in two parts.
	g.longest = min(g.longest, 2*longest)
	return first, min(n, want)
}

// An allocRequest says what is asked of the allocator (struct
// ext4_allocation_request). Lengths are in blocks, and rounded up to clusters.
type allocRequest struct {
	goal  disk.PBlock // the run lies there best, or behind
	want  uint64      // the run has no more
	least uint64      // a shorter run is taken only where no group has one that long
	merge bool        // what begins at goal continues a run of the file: any length of it will do
	low   bool        // the block numbers have to fit into 32 bits
	kept  uint64      // clusters that have to stay free
}

// splitReserve is how many clusters are kept for what must not fail for want
// of space: splitting extents (ext4_calculate_resv_clusters).
func splitReserve(sb *disk.Superblock) uint64 {
	if !sb.Incompat.Has(disk.IncompatExtents) {
		return 0
	}
	return min(sb.Blocks>>sb.ClusterBits()/50, 4096)
}

// kept is how many clusters have to be left free, by who may use the reserved
// ones and by others.
func (rw *writer) kept(reserved bool) uint64 {
	sb := &rw.super
	if reserved {
		return splitReserve(sb)
	}
	return splitReserve(sb) + sb.ReservedBlocks>>sb.ClusterBits()
}

// reserve takes a run, whole clusters, that nobody else can have. Nothing of
// it is on disk. It fails with ENOSPC if no more than req.kept are left, after
// having taken back what files are kept to grow. The caller holds rw.mu.
func (rw *writer) reserve(req allocRequest) (run, error) {
	sb := &rw.fs.sb
	cb := sb.ClusterBits()
	if req.goal < disk.PBlock(sb.FirstDataBlock) || uint64(req.goal) >= sb.Blocks {
		req.goal, req.merge = disk.PBlock(sb.FirstDataBlock), false
	}
	for {
		var n uint32
		if rw.free > req.kept {
			round := func(n uint64) uint32 {
				return uint32(max(min((n+1<<cb-1)>>cb, rw.free-req.kept, uint64(sb.BlocksPerGroup)>>cb), 1))
			}
			var g *group
			var first uint32
			var err error
			if g, first, n, err = rw.findFree(req, round(req.want), round(req.least)); err != nil {
				return run{}, err
			}
			if n > 0 {
				g.busy.set(first, n)
				rw.free -= uint64(n)
				return run{sb.FirstBlock(g.n) + disk.PBlock(first)<<cb, uint64(n) << cb}, nil
			}
		}
		if !rw.dropAllPreallocLocked() {
			return run{}, fmt.Errorf("allocate blocks: %w", unix.ENOSPC)
		}
	}
}

// unreserve gives back what reserve has taken. The caller holds rw.mu.
func (rw *writer) unreserve(r run) {
	rw.eachGroup(r, func(g *group, first, n uint32) {
		g.busy.clear(first, n)
		g.longest = rw.fs.clusters(g.n)
		rw.free += uint64(n)
	})
}

// releaseLocked makes clusters available that durable transactions have freed.
func (rw *writer) releaseLocked(frees []run) {
	for _, r := range frees {
		rw.eachGroup(r, func(g *group, first, n uint32) {
			g.busy.clear(first, n)
			g.longest = rw.fs.clusters(g.n)
			rw.free += uint64(n)
		})
	}
}

// eachGroup calls fn for the part of r, whole clusters, in each group. The
// groups are loaded.
func (rw *writer) eachGroup(r run, fn func(g *group, first, n uint32)) {
	sb := &rw.fs.sb
	cb := sb.ClusterBits()
	for r.n > 0 {
		g := rw.groups[sb.GroupOf(r.first)]
		first := uint64(r.first - sb.FirstBlock(g.n))
		n := min(r.n, uint64(sb.BlocksInGroup(g.n))-first)
		fn(g, uint32(first>>cb), uint32((n+1<<cb-1)>>cb))
		r.first, r.n = r.first+disk.PBlock(n), r.n-n
	}
}

// alloc takes a run of blocks for this update.
func (h *Handle) alloc(req allocRequest) (run, error) {
	req.kept = h.rw.kept(!h.unprivileged)
	if h.mustNotFail {
		req.kept = 0
	}
	r, err := h.rw.reserve(req)
	if err != nil {
		return run{}, err
	}
	h.undo = append(h.undo, func() { h.rw.unreserve(r) })
	h.allocs = append(h.allocs, r)
	return r, nil
}

// use makes a run that was reserved part of this update. If the update is
// dropped, the run stays reserved.
func (h *Handle) use(r run) { h.allocs = append(h.allocs, r) }

// allocMeta takes one cluster, for a block of metadata.
func (h *Handle) allocMeta(goal disk.PBlock) (disk.PBlock, error) {
	r, err := h.alloc(allocRequest{goal: goal, want: 1, least: 1})
	return r.first, err
}

// free gives back blocks, whole clusters. meta says that they held metadata,
// which this update or an earlier one has logged.
func (h *Handle) free(r run, meta bool) error {
	sb := &h.fs.sb
	if !sb.ValidRange(r.first, r.n) {
		return &disk.CorruptError{Struct: "blocks to free", Num: uint64(r.first), Field: "range",
			Have: fmt.Sprintf("%d to %d", r.first, uint64(r.first)+r.n-1), Want: fmt.Sprintf("below %d", sb.Blocks)}
	}
	cb := sb.ClusterBits()
	for at, left := r.first, r.n; left > 0; {
		g, err := h.rw.group(sb.GroupOf(at))
		if err != nil {
			return err
		}
		first := uint64(at - sb.FirstBlock(g.n))
		n := min(left, uint64(sb.BlocksInGroup(g.n))-first)
		from, count := uint32(first>>cb), uint32((n+1<<cb-1)>>cb)
		if free := g.blocks.next(from, from+count, false); free < from+count && !h.took(g, free) {
			return &disk.CorruptError{Struct: "block bitmap of group", Num: uint64(g.n), Block: g.desc.BlockBitmap, Field: fmt.Sprintf("bit %d", free),
				Have: "free", Want: fmt.Sprintf("in use: block %d is being freed", sb.FirstBlock(g.n)+disk.PBlock(free)<<cb)}
		}
		at, left = at+disk.PBlock(n), left-n
	}
	if meta {
		for i := range r.n {
			delete(h.blocks, r.first+disk.PBlock(i))
		}
	}
	h.frees = append(h.frees, freedRun{r, meta})
	return nil
}

// checkFrees returns a *disk.CorruptError if the update gives back a block twice:
// what it has unmapped leads there from two places. Each was in use when it was given back.
func (h *Handle) checkFrees() error {
	if len(h.frees) < 2 {
		return nil
	}
	runs := slices.Clone(h.frees)
	slices.SortFunc(runs, func(a, b freedRun) int { return cmp.Compare(a.first, b.first) })
	for i := range runs[1:] {
		a, b := runs[i].run, runs[i+1].run
		if uint64(b.first-a.first) < a.n {
			return &disk.CorruptError{Struct: "blocks to free", Num: uint64(b.first), Field: "range",
				Have: fmt.Sprintf("block %d, twice", b.first), Want: "each block once"}
		}
	}
	return nil
}

// took reports whether this update has taken the cluster itself.
func (h *Handle) took(g *group, cluster uint32) bool {
	b := h.fs.sb.FirstBlock(g.n) + disk.PBlock(cluster)<<h.fs.sb.ClusterBits()
	for _, r := range h.allocs {
		if b >= r.first && uint64(b-r.first) < r.n {
			return true
		}
	}
	return false
}

// applyGroups brings what the update took and gave back into the bitmaps and
// descriptors.
func (h *Handle) applyGroups() {
	rw, tx := h.rw, h.rw.running
	for _, r := range h.allocs {
		rw.eachGroup(r, func(g *group, first, n uint32) {
			g.blocks.set(first, n)
			g.desc.FreeClusters -= n
			g.desc.Flags &^= disk.GroupBlockUninit
			rw.freeDisk -= uint64(n)
			tx.groups[g.n] |= blocksChanged
		})
	}
	for _, r := range h.frees {
		rw.eachGroup(r.run, func(g *group, first, n uint32) {
			g.blocks.clear(first, n)
			g.desc.FreeClusters += n
			rw.freeDisk += uint64(n)
			tx.groups[g.n] |= blocksChanged
		})
		tx.frees = append(tx.frees, r.run)
	}
	h.applyInodes()
}

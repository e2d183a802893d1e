package ext4

import (
	"errors"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// newBlocks finds blocks for at most n blocks of a file, a hole from at on.
// before are changes that are not in the file's map yet; the last of them may have
// the same cluster.
func (fs *FS) newBlocks(c Caller, in *Inode, at disk.LBlock, n uint64, before []change) (change, error) {
	ch := change{at: at, new: true}
	cb := fs.sb.ClusterBits()
	lead := uint64(at) & (1<<cb - 1)
	if len(before) > 0 && lead > 0 {
		last := before[len(before)-1]
		if end := uint64(last.at) + last.run.n; end > uint64(at)-lead && last.new {
			ch.cluster = true
			ch.run = run{last.run.first + disk.PBlock(uint64(at)-uint64(last.at)), min(n, 1<<cb-lead)}
			return ch, nil
		}
	}
	r, ok, err := in.clusterAt(at, n)
	if ok || err != nil {
		ch.run, ch.cluster = r, true
		return ch, err
	}
	if n, err = in.beforeCluster(at, n); err != nil {
		return ch, err
	}
	req, err := in.request(at)
	if err != nil {
		return ch, err
	}
	if k := len(before) - 1; k >= 0 && uint64(before[k].at)+before[k].run.n == uint64(at) {
		req.goal, req.merge = before[k].run.first+disk.PBlock(before[k].run.n), true
	}
	req.want = n + lead
	got, err := fs.rw.reserveFor(c, in, at, req)
	if err != nil {
		return ch, err
	}
	ch.run = run{got.first + disk.PBlock(lead), min(got.n-lead, n)}
	return ch, nil
}

// request asks for blocks for block at of in, a hole, in no cluster of its own:
// behind the block before it, or in the inode's group (ext4_ext_find_goal).
func (in *Inode) request(at disk.LBlock) (allocRequest, error) {
	goal, merge, err := in.blockGoal(at)
	in.fs.alignGoal(&goal, at)
	return allocRequest{goal: goal, merge: merge, least: 1, low: !in.disk.Flags.Has(disk.FlagExtents)}, err
}

// beforeCluster returns how many of the n blocks from at on, a hole, come
// before a cluster that the file has for other blocks.
func (in *Inode) beforeCluster(at disk.LBlock, n uint64) (uint64, error) {
	cluster := uint64(1) << in.fs.sb.ClusterBits()
	last := (uint64(at) + n) &^ (cluster - 1)
	if last == uint64(at)+n || last <= uint64(at) {
		return n, nil
	}
	used, err := in.clusterMapped(last, cluster)
	if used {
		n = last - uint64(at)
	}
	return n, err
}

const (
	maxPrealloc = 8 << 20 // bytes that are kept behind a growing file, at most
	allocTries  = 3       // how often an allocation is tried, where blocks are about to be free
)

// reserveFor takes blocks for in from at on: what is kept for it, or a run as
// req asks. in is nil for metadata. It tries again when blocks that are free wait for a commit.
func (rw *writer) reserveFor(c Caller, in *Inode, at disk.LBlock, req allocRequest) (run, error) {
	for try := 0; ; try++ {
		var a readAhead
		r, coming, err := rw.tryReserveFor(c, in, at, req, &a)
		for a.fetch(rw.fs.dev) {
			r, coming, err = rw.tryReserveFor(c, in, at, req, &a)
		}
		if !coming || !errors.Is(err, unix.ENOSPC) || try == allocTries {
			return r, err
		}
		if err := rw.waitForSpace(); err != nil {
			return run{}, err
		}
	}
}

func (rw *writer) tryReserveFor(c Caller, in *Inode, at disk.LBlock, req allocRequest, a *readAhead) (r run, coming bool, err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.view.begin(a, rw.commits)
	defer rw.view.end()
	rw.tick++
	if err := rw.readOnlyLocked(); err != nil {
		return run{}, false, err
	}
	sb := &rw.fs.sb
	cb := sb.ClusterBits()
	n := (req.want + 1<<cb - 1) >> cb << cb // whole clusters
	var o *openInode
	if in != nil {
		o = rw.open[in.ino]
	}
	if o != nil && o.prealloc.n > 0 && o.at == uint64(at) {
		r := run{o.prealloc.first, min(n, o.prealloc.n)}
		o.prealloc.first += disk.PBlock(r.n)
		o.prealloc.n -= r.n
		o.at += r.n
		return r, false, nil
	}
	if o != nil && uint64(at)<<sb.BlockBits() >= in.disk.Size {
		// It grows at its end: keep as much as it has, so that it grows in one piece.
		req.want = max(n, min(in.disk.Size, maxPrealloc)>>sb.BlockBits())
		rw.dropPreallocLocked(o)
	}
	req.least, req.kept = min(n, 2048), rw.kept(c.mayUseReserved(rw))
	if r, err = rw.reserve(req); err != nil {
		return run{}, rw.spaceComingLocked(), err
	}
	if o != nil && r.n > n {
		o.prealloc, o.at = run{r.first + disk.PBlock(n), r.n - n}, uint64(at)&^(1<<cb-1)+n
		r.n = n
	}
	return r, false, nil
}

// dropAllPreallocLocked gives back what is kept for files to grow.
func (rw *writer) dropAllPreallocLocked() bool {
	any := false
	for _, o := range rw.open {
		any = any || o.prealloc.n > 0
		rw.dropPreallocLocked(o)
	}
	return any
}

// unreserveAll gives back the blocks of changes that were not mapped.
func (rw *writer) unreserveAll(list []change) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	for _, ch := range list {
		if ch.new && !ch.cluster {
			rw.unreserve(ch.clusters(rw.fs.sb.ClusterBits()))
		}
	}
}

// spaceComingLocked reports whether clusters that are free on the device wait
// for a transaction to be durable, or for a discard to end.
func (rw *writer) spaceComingLocked() bool {
	return len(rw.running.frees) > 0 || rw.committing != nil && len(rw.committing.frees) > 0 || rw.discarding
}

// waitForSpace waits until what is about to be free is.
func (rw *writer) waitForSpace() error {
	rw.trimMu.Lock()
	defer rw.trimMu.Unlock()
	return rw.commit()
}

package ext4

import (
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// insert maps the blocks of in from at on, which are a hole, to r. The run
// belongs to the update. Blocks of an indirect map are written always.
func (h *Handle) insert(in *Inode, at disk.LBlock, r run, unwritten bool) error {
	if in.disk.Flags.Has(disk.FlagExtents) {
		return h.insertExtents(in, at, r, unwritten)
	}
	return h.insertPointers(in, at, r)
}

// remove unmaps blocks of [from, end) and gives them back: as many as one
// update can take, from the first on. It returns where it stopped.
func (h *Handle) remove(in *Inode, from, end uint64) (next uint64, err error) {
	// Each run, and each group's worth of a long one, may lie in a group of its own,
	// with a bitmap and a descriptor, and behind a node of its own.
	h.mustNotFail = true
	budget := uint64(max(h.rw.maxChanges(), 2))
	group := uint64(in.fs.sb.BlocksPerGroup)
	next = end
	for b := from; b < end; {
		m, err := in.mapOnce(disk.LBlock(b))
		if err != nil {
			return from, err
		}
		if m.State != MapHole {
			n := min(m.End(), end) - b
			if budget < 2 {
				next = b
				break
			}
			if most := (budget - 1) * group; n > most {
				next = (b + most) &^ (1<<in.fs.sb.ClusterBits() - 1)
				break
			}
			budget -= 1 + (n-1)/group
		}
		b = m.End()
	}
	if in.disk.Flags.Has(disk.FlagExtents) {
		return next, h.removeExtents(in, from, next)
	}
	return next, h.removePointers(in, from, next)
}

// mapHole gives the blocks [at, at+n) of in, a hole, blocks on the device:
// those of a cluster that the file has already, or new ones near goal. It
// returns what it found for the first of them, not more than n blocks. The
// blocks are mapped as unwritten, or as written if whoever calls has filled them.
func (h *Handle) mapHole(in *Inode, at disk.LBlock, n uint64, unwritten bool) (run, error) {
	r, ok, err := in.clusterAt(at, n)
	if err != nil {
		return run{}, err
	}
	if !ok {
		if n, err = in.beforeCluster(at, n); err != nil {
			return run{}, err
		}
		req, err := in.request(at)
		if err != nil {
			return run{}, err
		}
		lead := uint64(at) & (1<<h.fs.sb.ClusterBits() - 1)
		req.want = n + lead
		got, err := h.alloc(req)
		if err != nil {
			return run{}, err
		}
		in.addBlocks(int64(got.n))
		r = run{got.first + disk.PBlock(lead), min(got.n-lead, n)}
	}
	return r, h.insert(in, at, r, unwritten)
}

// clusterAt returns where the blocks from at on, a hole, lie if the file has
// their cluster already: not more than n, and only those of that cluster.
func (in *Inode) clusterAt(at disk.LBlock, n uint64) (run, bool, error) {
	cluster := uint64(1) << in.fs.sb.ClusterBits()
	if cluster == 1 {
		return run{}, false, nil
	}
	first := uint64(at) &^ (cluster - 1)
	for b := first; b < first+cluster; {
		m, err := in.mapOnce(disk.LBlock(b))
		if err != nil {
			return run{}, false, err
		}
		if m.State != MapHole {
			// The cluster's blocks lie in order, so this one tells of all.
			phys := int64(m.Physical) + int64(uint64(at)) - int64(uint64(m.Logical))
			return run{disk.PBlock(phys), min(n, first+cluster-uint64(at))}, true, nil
		}
		b = m.End()
	}
	return run{}, false, nil
}

// blockGoal is where block at of in would best lie: behind the block before
// it, which it reports, or in the inode's group.
func (in *Inode) blockGoal(at disk.LBlock) (goal disk.PBlock, follows bool, err error) {
	if at > 0 {
		m, err := in.mapOnce(at - 1)
		if err != nil {
			return 0, false, err
		}
		follows := m.State != MapHole
		if !follows && m.Logical > 0 {
			if m, err = in.mapOnce(m.Logical - 1); err != nil {
				return 0, false, err
			}
		}
		if m.State != MapHole {
			return m.Physical + disk.PBlock(uint64(at)-uint64(m.Logical)), follows, nil
		}
	}
	return in.fs.inodeGoal(in.ino), false, nil
}

// alignGoal moves goal to the start of the cluster that a block at that place
// of a file lies in.
func (fs *FS) alignGoal(goal *disk.PBlock, at disk.LBlock) {
	cluster := disk.PBlock(1) << fs.sb.ClusterBits()
	*goal -= min(*goal, disk.PBlock(at)&(cluster-1))
}

// errTooLarge is the error of a file that would have more blocks than its map
// can lead to.
func (in *Inode) errTooLarge(size uint64) error {
	return fmt.Errorf("inode %d: %d bytes are more than a file can have here (%d): %w", in.ino, size, in.maxSize(), unix.EFBIG)
}

// maxSize is the largest size that the inode can have, in bytes.
func (in *Inode) maxSize() uint64 {
	return in.fs.sb.MaxFileSize(in.disk.Flags.Has(disk.FlagExtents))
}

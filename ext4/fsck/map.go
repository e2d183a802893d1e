package fsck

import (
	"errors"

	"e4go/ext4/disk"
)

// A mapWalk goes through the map of one inode, extents or blocks of numbers,
// once. It tells of problems unless it is quiet, and of what it finds through
// claim and run.
type mapWalk struct {
	w     *worker
	c     *checker
	ino   disk.Ino
	in    *disk.Inode
	at    Place // of the inode
	quiet bool

	// claim is called for each cluster that the map takes, in runs, and for
	// each block that the map itself lies in, with node set, before that
	// is followed. It reports whether any of them had been claimed.
	claim func(first, n uint64, node bool) (before bool)
	// run, unless nil, is called for each run of blocks of the file, in order. An
	// unwritten one reads as zeros.
	run func(l uint64, p disk.PBlock, n uint64, unwritten bool)

	levels [disk.ExtentMaxDepth + 2]extentLevel // as deep as the tree
	mapState
}

// mapState is what a walk has found so far.
type mapState struct {
	clusters   uint64      // in use
	last       int64       // last block of the file that has one, -1 if none
	lastInit   int64       // last one that is not unwritten
	previous   disk.PBlock // the one found last
	illegal    int         // how many numbers were not legal
	nextBlock  uint64      // end of the extents so far
	nodes      int         // followed
	fragmented bool
	lost       bool // a part of the map could not be followed
	rootOK     bool // the head of the tree's root has been looked at
	isDir      bool
	isReg      bool

	pendingAt, pending uint64   // clusters to be claimed: where, how many
	tooManyIs          *Problem // says how many numbers were not legal
}

// walkMap prepares w's mapWalk for inode ino.
func (w *worker) walkMap(ino disk.Ino, in *disk.Inode, at Place) *mapWalk {
	m := &w.inode.walk
	// One field after the other: this is done for each inode.
	m.w, m.c, m.ino, m.in, m.at = w, w.c, ino, in, at
	m.quiet, m.claim, m.run = false, nil, nil
	m.mapState = mapState{last: -1, lastInit: -1}
	m.isDir, m.isReg = in.Mode.Type() == disk.ModeDir, in.Mode.Type() == disk.ModeReg
	return m
}

// problem tells of a problem of the map, at byte off of block blk.
func (m *mapWalk) problem(k *Kind, blk disk.PBlock, off int, have, want string) {
	if m.quiet {
		return
	}
	at := m.at
	at.Block, at.Off, at.OnBlock = blk, off, true
	m.c.rep.add(k, Problem{Place: at, Have: have, Want: want})
}

// maxNodes bounds the blocks of one map that are read: more than the largest file has.
const maxNodes = 1 << 24

// mayRevisit is how often in all, in one pass, blocks that lead to others may be followed
// again: sound file systems need none, and damaged ones few.
func (c *checker) mayRevisit() int64 { return int64(min(c.blocks, 1<<62)/4) + 1024 }

// mayFollow reports whether the map may be followed into one more block. again
// says that something has led to that before, or that it was for nothing. parent
// is where its number stands.
func (m *mapWalk) mayFollow(again bool, parent disk.PBlock, off int) bool {
	m.nodes++
	if again && m.c.revisits.Add(-1) < 0 || m.nodes > maxNodes {
		m.problem(blockRevisited, parent, off, "", "")
		m.lost = true
		return false
	}
	return true
}

// load reads block b, which the map goes on in, into buf. ok is false if it is
// behind the end of the device, which has been told.
func (m *mapWalk) load(b disk.PBlock, buf []byte, parent disk.PBlock, off int) (ok bool, err error) {
	err = m.c.read(b, buf)
	if errors.Is(err, errBeyond) {
		m.problem(blockUnreadable, parent, off, dec(b), "")
		m.lost = true
		return false, nil
	}
	return err == nil, err
}

// take claims the clusters of n blocks from p on, which hold the file's blocks
// from l on, but for a cluster that the block before has claimed.
func (m *mapWalk) take(l uint64, p disk.PBlock, n uint64) {
	c := m.c
	first, last := c.cluster(p), c.cluster(p+disk.PBlock(n)-1)
	if c.cbits > 0 && m.previous != 0 && c.cluster(m.previous) == first {
		first++
	}
	if first <= last {
		m.claim(first, last-first+1, false)
		m.clusters += last - first + 1
	}
}

// misaligned reports whether block l of the file may not lie in block p, as
// clusters of a file are clusters of the device (has_unaligned_cluster_map).
func (m *mapWalk) misaligned(l uint64, p disk.PBlock) bool {
	c := m.c
	if c.cbits == 0 {
		return false
	}
	mask := uint64(1)<<c.cbits - 1
	if l&mask != uint64(p)&mask {
		return true
	}
	return m.previous != 0 && l&mask != 0 && m.last >= 0 && l>>c.cbits == uint64(m.last)>>c.cbits && c.cluster(p) != c.cluster(m.previous)
}

// A run is n blocks of a file from l on, in the blocks of the device from p on.
type run struct {
	l, n      uint64
	p         disk.PBlock
	unwritten bool
}

// runs returns where the blocks of the file lie, as far as its map can be
// followed; it tells of nothing.
func (w *worker) runs(ino disk.Ino, in *disk.Inode) ([]run, error) {
	var out []run
	m := w.walkMap(ino, in, Place{})
	m.quiet = true
	limit := 0
	m.claim = func(first, n uint64, node bool) bool { return false }
	m.run = func(l uint64, p disk.PBlock, n uint64, unwritten bool) {
		if k := len(out) - 1; k >= 0 && out[k].l+out[k].n == l && out[k].p+disk.PBlock(out[k].n) == p && out[k].unwritten == unwritten {
			out[k].n += n
			return
		}
		if limit++; limit <= maxRuns {
			out = append(out, run{l, n, p, unwritten})
		}
	}
	err := m.walk()
	return out, err
}

// maxRuns is how many runs of one of the files that the file system itself
// needs are kept: the largest journal has fewer.
const maxRuns = 1 << 20

// walk goes through the map, of whichever kind it is: the flag alone decides.
func (m *mapWalk) walk() error {
	switch {
	case !m.in.Flags.Has(disk.FlagExtents):
		return m.indirect()
	case !m.c.sb.Incompat.Has(disk.IncompatExtents) && !looksLikeExtents(m.in):
		m.lost = true // which has been told
		return nil
	}
	return m.extents()
}

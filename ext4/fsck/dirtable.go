package fsck

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"

	"e4go/ext4/disk"
)

// dirInfo is a directory: a row of the table that pass 1 makes, in the order of
// inodes, and passes 2 to 4 fill in and judge.
type dirInfo struct {
	ino        disk.Ino
	generation uint32
	parent     uint32 // whose entry leads here, the first that was found; atomic
	dotdot     disk.Ino
	seen       uint32 // entries that lead here, . and .. of others included; atomic
	links      uint16 // i_links_count
	flags      dirFlags
}

type dirFlags uint8

const (
	dirIndexed dirFlags = 1 << iota
	dirInline
	dirHasDotDot // dotdot was read
	dirDone      // pass 3 has followed its parents to the root
	dirOnWay     // pass 3 is following them
)

// dirRun is n blocks of directory ino from block l on, which lie from p on.
type dirRun struct {
	ino  disk.Ino
	l, n uint32
	p    disk.PBlock
}

// dirTable is what is known of all directories.
type dirTable struct {
	rank  *ranking  // of the directories among inodes
	info  []dirInfo // by rank
	runs  []dirRun  // by directory, then block
	first []uint32  // the first run of each directory; one more at the end
	order []uint32  // ranks, in the order of the first block on the device
}

// build makes the table of what pass 1 has found.
func (t *dirTable) build(c *checker) {
	s := &c.scan
	t.info, t.runs = s.dirs, s.runs
	s.dirs, s.runs = nil, nil
	set := newBitset(c.inodes.used.n)
	for i := range t.info {
		set.add(uint64(t.info[i].ino))
	}
	// Inodes that are kept for something else may say that they are directories.
	t.runs = slices.DeleteFunc(t.runs, func(r dirRun) bool { return !set.has(uint64(r.ino)) })
	slices.SortFunc(t.info, func(a, b dirInfo) int { return cmp.Compare(a.ino, b.ino) })
	slices.SortStableFunc(t.runs, func(a, b dirRun) int { return cmp.Compare(a.ino, b.ino) })
	t.rank = newRanking(set)
	t.first = make([]uint32, len(t.info)+1)
	r := 0
	for i := range t.info {
		t.first[i] = uint32(r)
		for r < len(t.runs) && t.runs[r].ino == t.info[i].ino {
			r++
		}
	}
	t.first[len(t.info)] = uint32(r)
	t.order = make([]uint32, len(t.info))
	for i := range t.order {
		t.order[i] = uint32(i)
	}
	slices.SortFunc(t.order, func(a, b uint32) int { return cmp.Or(cmp.Compare(t.place(a), t.place(b)), cmp.Compare(a, b)) })
}

// place is the first block of directory i on the device, 0 if it has none.
func (t *dirTable) place(i uint32) disk.PBlock {
	if t.first[i] == t.first[i+1] {
		return 0
	}
	return t.runs[t.first[i]].p
}

// of returns the row of directory ino, nil if it is none.
func (t *dirTable) of(ino disk.Ino) *dirInfo {
	if t.rank == nil || !t.rank.set.has(uint64(ino)) {
		return nil
	}
	return &t.info[t.rank.rank(uint64(ino))]
}

// addDirRun notes n blocks of the directory at hand, which are in the order of the map.
func (w *worker) addDirRun(l uint64, p disk.PBlock, n uint64, unwritten bool) {
	runs := &w.lists.runs
	if k := len(*runs) - 1; k >= w.inode.dirRuns {
		if r := &(*runs)[k]; uint64(r.l)+uint64(r.n) == l && r.p+disk.PBlock(r.n) == p && uint64(r.n)+n < 1<<32 {
			r.n += uint32(n)
			return
		}
	}
	*runs = append(*runs, dirRun{ino: w.inode.ino, l: uint32(l), n: uint32(n), p: p})
}

// countEntry counts an entry that leads to inode ino.
func (c *checker) countEntry(ino disk.Ino) {
	switch {
	case c.inodes.manyLink.has(uint64(ino)):
		atomic.AddUint32(&c.tables.links[c.tables.rank.rank(uint64(ino))].seen, 1)
	default:
		if d := c.dirs.of(ino); d != nil {
			atomic.AddUint32(&d.seen, 1)
		} else if c.inodes.seen.add(uint64(ino)) {
			c.inodes.twice.add(uint64(ino))
		}
	}
}

// dirBatch is how many directories a worker of pass 2 takes at once.
const dirBatch = 64

// passDirs is pass 2.
func (c *checker) passDirs() error {
	t := &c.dirs
	c.begin(PassDirs, len(t.order))
	if root := t.of(disk.RootIno); root != nil {
		root.parent = uint32(disk.RootIno)
	}
	var next atomic.Int64
	err := c.workers((len(t.order)+dirBatch-1)/dirBatch, func(w *worker) error {
		for {
			from := int(next.Add(dirBatch) - dirBatch)
			if from >= len(t.order) || w.stopped() {
				return nil
			}
			batch := t.order[from:min(from+dirBatch, len(t.order))]
			if err := w.readAhead(batch); err != nil {
				return err
			}
			for _, i := range batch {
				if err := w.directory(i); err != nil {
					return fmt.Errorf("directory %d: %w", t.info[i].ino, err)
				}
			}
			c.step(len(batch))
		}
	})
	if err != nil {
		return err
	}
	if c.scan.large && !c.sb.ROCompat.Has(disk.ROCompatLargeFile) {
		c.superProblem(largeFileFeature, c.superAt, 0x64, "", "")
	}
	return nil
}

// A window is a part of the device that a worker has read ahead.
type window struct {
	p   disk.PBlock
	n   uint64
	off int // in worker.chunk
}

const (
	aheadBytes = 256 << 10 // read ahead for one batch
	aheadGap   = 8         // blocks that are read along to save a read
)

// readAhead reads the first blocks of a batch of directories, neighbours at once.
func (w *worker) readAhead(batch []uint32) error {
	c, d, t := w.c, &w.dir, &w.c.dirs
	if cap(w.chunk) < aheadBytes {
		w.chunk = make([]byte, aheadBytes)
	}
	w.chunk = w.chunk[:cap(w.chunk)]
	d.windows = d.windows[:0]
	room := uint64(len(w.chunk) >> c.bits)
	for _, i := range batch {
		for r := t.first[i]; r < t.first[i+1]; r++ {
			run := &t.runs[r]
			if uint64(run.n) > room || uint64(run.p)+uint64(run.n) > c.blocks {
				break
			}
			if k := len(d.windows) - 1; k >= 0 {
				last := &d.windows[k]
				if end := uint64(last.p) + last.n; uint64(run.p) >= end && uint64(run.p)-end <= aheadGap {
					gap := uint64(run.p) - end
					if gap+uint64(run.n) <= room {
						last.n += gap + uint64(run.n)
						room -= gap + uint64(run.n)
						continue
					}
				}
			}
			d.windows = append(d.windows, window{p: run.p, n: uint64(run.n)})
			room -= uint64(run.n)
		}
	}
	off := 0
	for i := range d.windows {
		x := &d.windows[i]
		x.off = off
		off += int(x.n) << c.bits
		if err := c.read(x.p, w.chunk[x.off:off]); err != nil {
			return err
		}
	}
	slices.SortFunc(d.windows, func(a, b window) int { return cmp.Compare(a.p, b.p) })
	return nil
}

// ahead returns block p if it was read ahead.
func (w *worker) ahead(p disk.PBlock) []byte {
	d := &w.dir
	i, ok := slices.BinarySearchFunc(d.windows, p, func(x window, p disk.PBlock) int { return cmp.Compare(x.p, p) })
	if !ok {
		i--
	}
	if i < 0 || uint64(p-d.windows[i].p) >= d.windows[i].n {
		return nil
	}
	return w.chunk[d.windows[i].off+int(p-d.windows[i].p)<<w.c.bits:][:w.c.bs]
}

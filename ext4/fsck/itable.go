package fsck

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"e4go/ext4/disk"
)

// scanLists are what pass 1 learns of some inodes. Each worker fills its own.
type scanLists struct {
	dirs    []dirInfo   // directories
	runs    []dirRun    // their blocks
	links   []linkOf    // of inodes with other than one link
	xattrs  []xattrUse  // who has which block of xattrs
	eaRefs  []disk.Ino  // one for each value in an EA inode, by inodes' own xattrs
	crypt   []cryptRun  // encrypted inodes by policy
	waiting []waiting   // inodes whose i_blocks depends on a block of xattrs
	charges []eaCharge  // what the values of such blocks are charged for
	quota   quotaCounts // usage
	stats   Stats
	large   bool // there is a file that wants large_file
	largeD  bool // there is a directory that wants large_dir
}

// linkOf is the link count of an inode that is no directory.
type linkOf struct {
	ino   disk.Ino
	count uint16
}

// itableChunk is how much of an inode table is read at once, in bytes.
const itableChunk = 256 << 10

// tableCursor hands out pieces of the inode tables in the order of the groups.
type tableCursor struct {
	mu    sync.Mutex
	group int    // guarded by mu
	next  uint32 // guarded by mu: first inode of the group not handed out, as an index
}

// tablePiece is n inodes of a group, from index on.
type tablePiece struct {
	group    disk.Group
	index, n uint32
}

func (t *tableCursor) take(c *checker) (p tablePiece, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.group < len(c.groups) {
		g := &c.groups[t.group]
		end := c.tableInodes(g)
		if g.noTable || t.next >= end {
			t.group, t.next = t.group+1, 0
			c.step(1)
			continue
		}
		per := uint32(max(itableChunk, c.bs)) / uint32(c.bs) * uint32(c.sb.InodesPerBlock())
		p = tablePiece{group: disk.Group(t.group), index: t.next, n: min(per, end-t.next)}
		t.next += per
		return p, true
	}
	return p, false
}

// pieces is how many there are of all inode tables, or a little more.
func (c *checker) pieces() int {
	return len(c.groups) * (1 + int(c.sb.ItableBlocks())*c.bs/itableChunk)
}

// passInodes is pass 1, with 1B.
func (c *checker) passInodes() error {
	c.begin(PassInodes, len(c.groups))
	if err := c.checkBadBlocks(); err != nil {
		return err
	}
	var cursor tableCursor
	err := c.workers(c.pieces(), func(w *worker) error {
		defer w.keep()
		w.marks.begin(&c.inodes)
		defer w.marks.flush()
		w.inode.claimer = func(first, n uint64, node bool) bool { return c.claim(first, n) }
		for {
			p, ok := cursor.take(c)
			if !ok || w.stopped() || w.err != nil {
				return w.err
			}
			if err := w.table(p, w.inodeAt); err != nil {
				return err
			}
			if err := w.account(); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	c.sortLists()
	if err := c.takeBitsets(); err != nil {
		return err
	}
	if err := c.checkXattrBlocks(); err != nil {
		return err
	}
	if c.scan.largeD && !c.sb.Incompat.Has(disk.IncompatLargedir) {
		c.superProblem(largeDirFeature, c.superAt, 0x60, "", "")
	}
	return c.findOwners()
}

// claim notes that n clusters are in use, from first on. What was in use before is
// in use by several, unless the file system is one whose files share blocks.
func (c *checker) claim(first, n uint64) (before bool) {
	most := c.clusters()
	if first >= most {
		return false
	}
	n = min(n, most-first)
	if c.sb.ROCompat.Has(disk.ROCompatSharedBlocks) {
		return c.used.addRange(first, n, nil)
	}
	return c.used.addRange(first, n, c.again)
}

// table reads a piece of an inode table and calls each with every inode in it.
func (w *worker) table(p tablePiece, each func(ino disk.Ino, raw []byte, blk disk.PBlock, off int) error) error {
	c := w.c
	per, size := uint32(c.sb.InodesPerBlock()), int(c.sb.InodeSize)
	blocks := (p.n + per - 1) / per
	if need := int(blocks) * c.bs; cap(w.chunk) < need {
		w.chunk = make([]byte, need)
	}
	buf := w.chunk[:int(blocks)*c.bs]
	first := c.groups[p.group].InodeTable + disk.PBlock(p.index/per)
	if err := w.readTable(first, buf); err != nil {
		return fmt.Errorf("inode table of group %d: %w", p.group, err)
	}
	for i := range p.n {
		if i%per == 0 {
			w.inode.insane = w.insane(buf[int(i/per)*c.bs:][:c.bs], disk.Ino(uint32(p.group)*c.sb.InodesPerGroup+p.index+i+1), min(per, p.n-i))
			if w.stopped() {
				return nil
			}
		}
		blk, off := first+disk.PBlock(i/per), int(i%per)*size
		ino := disk.Ino(uint32(p.group)*c.sb.InodesPerGroup + p.index + i + 1)
		if uint32(ino) > c.sb.Inodes {
			return nil
		}
		if err := each(ino, buf[int(i/per)*c.bs+off:][:size], blk, off); err != nil {
			return err
		}
	}
	return nil
}

// readTable reads blocks of a table; those behind the end of the device are zero.
func (w *worker) readTable(first disk.PBlock, buf []byte) error {
	err := w.c.read(first, buf)
	if !errors.Is(err, errBeyond) {
		return err
	}
	clear(buf)
	for i := 0; i < len(buf); i += w.c.bs {
		if err := w.c.read(first+disk.PBlock(i>>w.c.bits), buf[i:i+w.c.bs]); err != nil && !errors.Is(err, errBeyond) {
			return err
		}
	}
	return nil
}

// keep adds what the worker has found to the lists of all.
func (w *worker) keep() {
	c, l := w.c, &w.lists
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scan.dirs = append(c.scan.dirs, l.dirs...)
	c.scan.runs = append(c.scan.runs, l.runs...)
	c.scan.links = append(c.scan.links, l.links...)
	c.scan.xattrs = append(c.scan.xattrs, l.xattrs...)
	c.scan.eaRefs = append(c.scan.eaRefs, l.eaRefs...)
	c.scan.crypt = append(c.scan.crypt, l.crypt...)
	c.scan.waiting = append(c.scan.waiting, l.waiting...)
	c.scan.quota.merge(&l.quota)
	c.scan.large = c.scan.large || l.large
	c.scan.largeD = c.scan.largeD || l.largeD
	c.stats.add(&l.stats)
	*l = scanLists{}
}

// account asks for the memory that the worker's lists have taken since it was asked last.
func (w *worker) account() error {
	n := w.lists.bytes()
	more := n - w.accounted
	w.accounted = n
	return w.c.take("what is kept of single inodes", more)
}

// bytes is the memory that the lists take, twice: they are put together when the
// pass ends, and tables made of them.
func (l *scanLists) bytes() int64 {
	const short, middle, long = 8, 24, 72 // bytes of a row
	return 2 * (short*int64(len(l.links)+len(l.eaRefs)) + middle*int64(len(l.dirs)+len(l.runs)+len(l.xattrs)+len(l.crypt)+len(l.charges)) +
		long*int64(len(l.waiting)) + l.quota.bytes())
}

// sortLists puts the lists into the order of the inodes, and makes tables of them.
func (c *checker) sortLists() {
	s := &c.scan
	slices.SortFunc(s.links, func(a, b linkOf) int { return cmp.Compare(a.ino, b.ino) })
	c.tables.rank = newRanking(c.inodes.manyLink)
	c.tables.links = make([]links, c.tables.rank.total)
	for _, l := range s.links {
		c.tables.links[c.tables.rank.rank(uint64(l.ino))].count = l.count
	}
	s.links = nil
	slices.SortFunc(s.crypt, func(a, b cryptRun) int { return cmp.Compare(a.first, b.first) })
	slices.SortFunc(s.xattrs, func(a, b xattrUse) int {
		return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.ino, b.ino))
	})
	c.dirs.build(c)
}

// add adds the counts of what one worker saw.
func (s *Stats) add(o *Stats) {
	s.Files += o.Files
	s.Directories += o.Directories
	s.CharDevs += o.CharDevs
	s.BlockDevs += o.BlockDevs
	s.FIFOs += o.FIFOs
	s.Sockets += o.Sockets
	s.Symlinks += o.Symlinks
	s.FastSymlinks += o.FastSymlinks
	s.Links += o.Links
	s.LargeFiles += o.LargeFiles
	s.BadBlocks += o.BadBlocks
	s.FragmentedFiles += o.FragmentedFiles
	s.FragmentedDirs += o.FragmentedDirs
	for i := range s.Indirect {
		s.Indirect[i] += o.Indirect[i]
	}
	for i := range s.ExtentDepth {
		s.ExtentDepth[i] += o.ExtentDepth[i]
	}
}

// findInode returns where inode ino stands. ok is false if its table is
// nowhere, or its group beyond the device.
func (c *checker) findInode(ino disk.Ino) (blk disk.PBlock, off int, ok bool) {
	if ino == 0 {
		return 0, 0, false
	}
	g, index := c.sb.InodeGroup(ino)
	if uint64(g) >= uint64(len(c.groups)) || c.groups[g].noTable {
		return 0, 0, false
	}
	per := uint32(c.sb.InodesPerBlock())
	return c.groups[g].InodeTable + disk.PBlock(index/per), int(index%per) * int(c.sb.InodeSize), true
}

// readInode reads inode ino. ok is false if it cannot be: it is not on the device.
func (w *worker) readInode(ino disk.Ino) (raw []byte, at Place, ok bool, err error) {
	blk, off, ok := w.c.findInode(ino)
	if !ok {
		return nil, Place{}, false, nil
	}
	b, err := w.block(blk)
	if errors.Is(err, errBeyond) {
		return nil, Place{}, false, nil
	}
	if err != nil {
		return nil, Place{}, false, fmt.Errorf("inode %d: %w", ino, err)
	}
	return b[off:][:w.c.sb.InodeSize], Place{Ino: ino, Block: blk, Off: off, OnBlock: true}, true, nil
}

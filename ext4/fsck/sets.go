package fsck

import (
	"fmt"

	"e4go/ext4/disk"
)

// inodeSets are what pass 1 learns of all inodes, a few bits each.
type inodeSets struct {
	used     *bitset    // in use
	kind     [3]*bitset // the bits of the disk.FileType; 0 for no type that there is
	oneLink  *bitset    // i_links_count is 1
	manyLink *bitset    // in use, and it is neither 1 nor that of a directory
	seen     *bitset    // an entry leads to it: of those that are no directories and not in manyLink
	twice    *bitset    // and another one
	bad      *bitset    // with fields that are told of when an entry leads to it
	imagic   *bitset    // not to be looked for in directories
	inBad    *bitset    // in a bad block
	casefold *bitset    // casefolded
	orphan   *bitset    // on the orphan list or in the orphan file
	eaFlag   *bitset    // with the flag ea_inode
}

// tables are what few inodes have, looked up by their rank in a set.
type tables struct {
	rank  *ranking // of inodes.manyLink
	links []links
}

// links are the links of an inode that is no directory and has not just one.
type links struct {
	count uint16 // i_links_count
	seen  uint32 // entries; atomic
}

// makeSets makes the empty sets, and that of the file system's metadata.
func (c *checker) makeSets() error {
	inodes := uint64(c.sb.InodesPerGroup) * uint64(len(c.groups))
	pages := int64(inodes/pageBits+1)*14 + int64(c.clusters()/pageBits+1)*3
	if err := c.take("the lists of inodes and blocks", 8*pages); err != nil {
		return err
	}
	s := &c.inodes
	for _, p := range []**bitset{&s.used, &s.kind[0], &s.kind[1], &s.kind[2], &s.oneLink, &s.manyLink, &s.seen, &s.twice, &s.bad, &s.imagic, &s.inBad, &s.casefold, &s.orphan, &s.eaFlag} {
		*p = newBitset(inodes + 1)
	}
	c.meta, c.used, c.again = newBitset(c.clusters()), newBitset(c.clusters()), newBitset(c.clusters())
	c.revisits.Store(c.mayRevisit())
	c.stats.Inodes, c.stats.Blocks = uint64(c.sb.Inodes), c.sb.Blocks
	return c.markMetadata()
}

// markMetadata marks what superblocks, descriptors, bitmaps and tables take,
// in e2fsck's order, so that each conflict has the same loser (mark_table_blocks).
func (c *checker) markMetadata() error {
	mark := func(b disk.PBlock, n uint64) (conflict bool) {
		if uint64(b) < uint64(c.sb.FirstDataBlock) || uint64(b) >= c.blocks {
			return false
		}
		n = min(n, c.blocks-uint64(b))
		first := c.cluster(b)
		return c.meta.addRange(first, c.cluster(b+disk.PBlock(n)-1)-first+1, nil)
	}
	for g := range c.groups {
		c.eachBase(disk.Group(g), func(b disk.PBlock, n uint64) { mark(b, n) })
	}
	if !c.badDescs {
		for i := range c.groups {
			g := &c.groups[i]
			mark(g.InodeTable, uint64(c.sb.ItableBlocks()))
			mark(g.BlockBitmap, 1)
			mark(g.InodeBitmap, 1)
		}
		return c.copyMetadata()
	}
	taken := newBitset(c.blocks)
	for g := range c.groups {
		c.eachBase(disk.Group(g), func(b disk.PBlock, n uint64) { taken.addRange(uint64(b), n, nil) })
	}
	place := func(k *Kind, num disk.Group, b disk.PBlock, n uint64) (conflict bool) {
		if b == 0 || uint64(b) >= c.blocks {
			return false
		}
		n = min(n, c.blocks-uint64(b))
		if at, ok := taken.next(uint64(b)); ok && at < uint64(b)+n {
			c.rep.add(k, Problem{Place: Place{Group: num, InGroup: true, Block: disk.PBlock(at), OnBlock: true}, Have: dec(at)})
			conflict = true
		}
		taken.addRange(uint64(b), n, nil)
		mark(b, n)
		return conflict
	}
	for i := range c.groups {
		g, num := &c.groups[i], disk.Group(i)
		if err := c.ctx.Err(); err != nil {
			return err
		}
		place(tableOnBlocks, num, g.InodeTable, uint64(c.sb.ItableBlocks()))
		place(blockBitmapOn, num, g.BlockBitmap, 1)
		place(inodeBitmapOn, num, g.InodeBitmap, 1)
	}
	return c.copyMetadata()
}

// copyMetadata makes what is metadata used.
func (c *checker) copyMetadata() error {
	for i := range c.meta.pages {
		if p := c.meta.pages[i].Load(); p != nil {
			if p != fullPage {
				clone := *p
				p = &clone
			}
			c.used.pages[i].Store(p)
		}
	}
	if c.sb.Incompat.Has(disk.IncompatMMP) && uint64(c.sb.MMPBlock) > uint64(c.sb.FirstDataBlock) && uint64(c.sb.MMPBlock) < c.blocks {
		c.used.add(c.cluster(c.sb.MMPBlock))
	}
	return c.takeBitsets()
}

// takeBitsets accounts for the sets as they are.
func (c *checker) takeBitsets() error {
	var n int64
	for _, s := range []*bitset{c.meta, c.used, c.again, c.inodes.used, c.inodes.seen, c.inodes.oneLink} {
		n += s.bytes()
	}
	if total := c.memory.Load() + n; total > c.opts.MemoryLimit {
		return &MemoryError{What: "the sets of blocks and inodes", Need: total, Limit: c.opts.MemoryLimit}
	}
	return nil
}

// inodeMarks are what a worker of pass 1 adds to the sets that nearly every inode is in.
type inodeMarks struct {
	used, oneLink collector
	kind          [3]collector
}

func (m *inodeMarks) begin(s *inodeSets) {
	m.used.set, m.oneLink.set = s.used, s.oneLink
	for bit := range m.kind {
		m.kind[bit].set = s.kind[bit]
	}
}

func (m *inodeMarks) flush() {
	m.used.flush()
	m.oneLink.flush()
	for bit := range m.kind {
		m.kind[bit].flush()
	}
}

// setKind notes the type of inode ino, which is in use.
func (m *inodeMarks) setKind(ino disk.Ino, t disk.FileType) {
	for bit := range m.kind {
		if t>>bit&1 != 0 {
			m.kind[bit].add(uint64(ino))
		}
	}
}

// typeOf is the type of inode ino, TypeUnknown for what is not in use or no file.
func (s *inodeSets) typeOf(ino disk.Ino) (t disk.FileType) {
	for bit, set := range s.kind {
		if set.has(uint64(ino)) {
			t |= 1 << bit
		}
	}
	return t
}

// describe is what a file of mode m is, in words.
func describe(m disk.Mode) string {
	if t := m.FileType(); t != disk.TypeUnknown {
		return "a " + t.String()
	}
	return fmt.Sprintf("of mode %#o", uint16(m))
}

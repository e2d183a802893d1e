package fsck

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"e4go/ext4/disk"
)

// maxLinks is EXT4_LINK_MAX: what has more subdirectories has a count of 1.
const maxLinks = 65000

// passLinks is pass 4.
func (c *checker) passLinks() error {
	s := &c.inodes
	c.begin(PassLinks, len(s.used.pages))
	slices.Sort(c.scan.eaRefs)
	l := linkPass{c: c, w: &worker{c: c, ctx: c.ctx}}
	for pg := range s.used.pages {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		used := s.used.pages[pg].Load()
		if used == nil {
			continue
		}
		word := func(s *bitset, i int) uint64 {
			if p := s.pages[pg].Load(); p != nil {
				return p[i]
			}
			return 0
		}
		for i, v := range used {
			// What has one link and one entry, and nothing odd, is in order.
			sound := word(s.oneLink, i) & word(s.seen, i) &^ word(s.twice, i) &^ word(s.eaFlag, i)
			for v &^= sound; v != 0; v &= v - 1 {
				ino := disk.Ino(pg*pageBits + i*64 + bits.TrailingZeros64(v))
				if err := l.inode(ino); err != nil {
					return err
				}
			}
		}
		c.step(1)
	}
	if l.dirNlink {
		c.superProblem(linkDirNlink, c.superAt, 0x64, "", "")
	}
	return l.strayValues()
}

type linkPass struct {
	c        *checker
	w        *worker
	dirNlink bool // a directory wants the feature
}

// refs is how many values of xattrs lie in inode ino.
func (c *checker) refs(ino disk.Ino) int {
	i, _ := slices.BinarySearch(c.scan.eaRefs, ino)
	j, _ := slices.BinarySearch(c.scan.eaRefs, ino+1)
	return j - i
}

// inode compares the links of an inode in use with the entries that lead to it.
func (l *linkPass) inode(ino disk.Ino) error {
	c, s := l.c, &l.c.inodes
	n := uint64(ino)
	if ino == disk.BadIno || ino > disk.RootIno && ino < c.sb.FirstIno || ino == c.sb.OrphanFileIno || ino == c.sb.ProjectQuotaIno ||
		c.quotaReserved(ino) || s.imagic.has(n) || s.inBad.has(n) {
		return nil
	}
	d := c.dirs.of(ino)
	var have, seen uint64
	switch {
	case d != nil:
		have, seen = uint64(d.links), uint64(d.seen)
	case s.manyLink.has(n):
		row := &c.tables.links[c.tables.rank.rank(n)]
		have, seen = uint64(row.count), uint64(row.seen)
	default:
		have = 1
		if s.seen.has(n) {
			seen = 1
		}
		if s.twice.has(n) {
			seen = 2 // or more: they are counted when the problem is named
		}
	}
	switch refs := c.refs(ino); {
	case !s.eaFlag.has(n):
	case seen > 0:
		c.rep.add(linkEANamed, Problem{Place: l.place(ino)})
		if err := l.unusedFields(ino); err != nil {
			return err
		}
	case refs > 0:
		if err := l.eaInode(ino, refs); err != nil {
			return err
		}
		seen = 1
	}
	orphan := s.orphan.has(n)
	if orphan && have == 0 && seen == 0 || d != nil && c.orphanDir(d) {
		return nil
	}
	if seen > 1 && d == nil {
		c.stats.Links += seen - 1
	}
	if seen == 0 {
		return l.unattached(ino, d != nil)
	}
	if d != nil && seen > maxLinks {
		l.dirNlink = l.dirNlink || !c.sb.ROCompat.Has(disk.ROCompatDirNlink)
		seen = 1
	}
	switch {
	case have == seen:
	case d != nil && seen > 1 && d.flags&dirIndexed != 0 && have == 1:
		c.rep.add(linkOverflow, Problem{Place: l.place(ino), Want: dec(seen)})
	default:
		at := l.place(ino)
		at.Off += 0x1a
		c.rep.add(linkCount, Problem{Place: at, Have: dec(have), Want: dec(seen)})
	}
	return nil
}

func (l *linkPass) place(ino disk.Ino) Place {
	blk, off, ok := l.c.findInode(ino)
	return Place{Ino: ino, Block: blk, Off: off, OnBlock: ok}
}

// unattached tells of an inode that no entry leads to.
func (l *linkPass) unattached(ino disk.Ino, dir bool) error {
	raw, at, ok, err := l.w.readInode(ino)
	if err != nil {
		return err
	}
	k := linkUnattached
	if ok {
		in := disk.DecodeInode(raw)
		_, xattrs := disk.XattrIbodyPlace(ino, raw, at.Block, at.Off)
		if file := in.Mode.Type() == disk.ModeReg || dir; file && in.BlocksRaw == 0 && !xattrs {
			k = linkUnattachedNil
		}
	}
	l.c.rep.add(k, Problem{Place: l.place(ino)})
	return nil
}

// eaInode compares how many values an EA inode says that it holds with refs.
func (l *linkPass) eaInode(ino disk.Ino, refs int) error {
	raw, at, ok, err := l.w.readInode(ino)
	if err != nil || !ok {
		return err
	}
	atime, ctime, version := binary.LittleEndian.Uint32(raw[0x08:]), binary.LittleEndian.Uint32(raw[0x0c:]), binary.LittleEndian.Uint32(raw[0x24:])
	// The count lies in the change time and the version; Lustre has none.
	if have := uint64(ctime)<<32 | uint64(version); have != uint64(refs) && ctime != atime {
		l.c.rep.add(linkEAInode, Problem{Place: at, Have: dec(have), Want: dec(refs)})
	}
	return nil
}

// unusedFields looks for what must be zero in an EA inode that an entry leads to.
func (l *linkPass) unusedFields(ino disk.Ino) error {
	raw, at, ok, err := l.w.readInode(ino)
	if err != nil || !ok {
		return err
	}
	s := &l.w.inode
	s.ino, s.raw, s.at, s.in = ino, raw, at, disk.DecodeInode(raw)
	l.w.checkUnusedFields()
	return nil
}

// strayValues looks for values in inodes that are not in use.
func (l *linkPass) strayValues() error {
	c := l.c
	var last disk.Ino
	for _, ino := range c.scan.eaRefs {
		if ino != last && c.sb.ValidIno(ino) && ino >= c.sb.FirstIno && !c.inodes.used.has(uint64(ino)) {
			c.rep.add(xattrEAInode, Problem{Place: l.place(ino), Have: fmt.Sprint(ino), Want: "one in use"})
		}
		last = ino
	}
	return nil
}

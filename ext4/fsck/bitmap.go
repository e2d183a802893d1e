package fsck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"e4go/ext4/disk"
)

// bitmapBatch is how many groups a worker of pass 5 takes at once: as many as
// mke2fs puts the bitmaps of together.
const bitmapBatch = 16

// groupTotals are sums over groups.
type groupTotals struct {
	freeClusters, freeInodes atomic.Uint64
	unknown                  atomic.Bool // a bitmap could not be read
}

// passGroups is pass 5.
func (c *checker) passGroups() error {
	c.begin(PassGroups, len(c.groups))
	var (
		next   atomic.Int64
		totals groupTotals
	)
	err := c.workers((len(c.groups)+bitmapBatch-1)/bitmapBatch, func(w *worker) error {
		g := bitmapScan{w: w, c: c, totals: &totals}
		for {
			from := int(next.Add(bitmapBatch) - bitmapBatch)
			if from >= len(c.groups) || w.stopped() {
				return nil
			}
			n := min(bitmapBatch, len(c.groups)-from)
			if err := g.batch(from, n); err != nil {
				return err
			}
			c.step(n)
		}
	})
	if err != nil {
		return err
	}
	c.stats.UsedBlocks = min(c.used.count(0, c.clusters())<<c.cbits+uint64(c.sb.FirstDataBlock), c.blocks)
	c.stats.UsedInodes = uint64(c.sb.Inodes) - min(totals.freeInodes.Load(), uint64(c.sb.Inodes))
	if totals.unknown.Load() {
		c.stats.UsedInodes = c.inodes.used.count(0, c.inodes.used.n)
	}
	if totals.unknown.Load() || len(c.groups) != int(c.sb.Groups()) {
		return nil
	}
	// The superblock counts blocks, not clusters (EXT4_C2B).
	if n := totals.freeClusters.Load() << c.cbits; n != c.sb.FreeBlocks {
		c.superProblem(countBlocks, c.superAt, 0x0c, dec(c.sb.FreeBlocks), dec(n))
	}
	if n := totals.freeInodes.Load(); n != uint64(c.sb.FreeInodes) {
		c.superProblem(countInodes, c.superAt, 0x10, dec(c.sb.FreeInodes), dec(n))
	}
	return nil
}

// bitmapScan compares the bitmaps of groups with what is in use.
type bitmapScan struct {
	w      *worker
	c      *checker
	totals *groupTotals
	buf    []byte // of a batch's bitmaps of one kind
	want   []byte // what one of them should be
}

// batch checks n groups.
func (s *bitmapScan) batch(from, n int) error {
	c := s.c
	if len(s.want) != c.bs {
		s.want, s.buf = make([]byte, c.bs), make([]byte, c.bs*bitmapBatch)
	}
	block := func(g *group) (disk.PBlock, bool) {
		return g.BlockBitmap, !g.noBlockBits && !(c.uninitBlocks(g) && g.sumOK)
	}
	inode := func(g *group) (disk.PBlock, bool) {
		return g.InodeBitmap, !g.noInodeBits && !(c.uninitInodes(g) && g.sumOK)
	}
	read, err := s.read(from, n, block)
	if err != nil {
		return err
	}
	for i := range n {
		s.blocks(disk.Group(from+i), read[i])
	}
	if read, err = s.read(from, n, inode); err != nil {
		return err
	}
	for i := range n {
		s.inodes(disk.Group(from+i), read[i])
	}
	return nil
}

// read reads bitmaps of n groups, neighbours at once. The result has nil for
// those that where does not want, or that lie behind the end of the device.
func (s *bitmapScan) read(from, n int, where func(g *group) (disk.PBlock, bool)) (out [bitmapBatch][]byte, err error) {
	c := s.c
	for i := 0; i < n; {
		first, ok := where(&c.groups[from+i])
		if !ok {
			i++
			continue
		}
		k := 1
		for i+k < n {
			if next, ok := where(&c.groups[from+i+k]); !ok || next != first+disk.PBlock(k) {
				break
			}
			k++
		}
		buf := s.buf[i*c.bs : (i+k)*c.bs]
		err := c.read(first, buf)
		if errors.Is(err, errBeyond) && k > 1 {
			buf, k = buf[:c.bs], 1
			err = c.read(first, buf)
		}
		switch {
		case errors.Is(err, errBeyond):
			c.rep.add(bitmapUnreadable, Problem{Place: Place{Group: disk.Group(from + i), InGroup: true}, Have: dec(first)})
		case err != nil:
			return out, fmt.Errorf("bitmap of group %d: %w", from+i, err)
		default:
			for j := range k {
				out[i+j] = buf[j*c.bs:][:c.bs]
			}
		}
		i += k
	}
	return out, nil
}

// place is where problems of a bitmap of group num are.
func (s *bitmapScan) place(num disk.Group, blk disk.PBlock) Place {
	return Place{Group: num, InGroup: true, Block: blk, OnBlock: blk != 0}
}

// descPlace is the place of the field at byte off of the descriptor of group num.
func (s *bitmapScan) descPlace(num disk.Group, off int) Place {
	c := s.c
	per := uint64(c.sb.DescPerBlock())
	return Place{
		Group: num, InGroup: true, OnBlock: true,
		Block: c.sb.DescBlock(c.superBlock(), uint64(num)/per), Off: int(uint64(num)%per)*c.sb.GroupDescSize() + off,
	}
}

// blocks checks the block bitmap of group num; b is nil if it has none.
func (s *bitmapScan) blocks(num disk.Group, b []byte) {
	c, g := s.c, &s.c.groups[num]
	cpg := uint64(c.sb.ClustersPerGroup)
	first := uint64(num) * cpg
	end := min(cpg, (uint64(c.sb.BlocksInGroup(num))+1<<c.cbits-1)>>c.cbits)
	n := min(end, c.clusters()-min(c.clusters(), first)) // on the device
	if b == nil {
		if c.uninitBlocks(g) && g.sumOK {
			s.uninitBlocks(num, first, n, end)
			return
		}
		s.totals.unknown.Store(true)
		return
	}
	nbytes := int(cpg / 8)
	if sum := disk.BitmapChecksum(&c.sb, b[:nbytes]); c.sb.MetadataCsum() && !s.sumOK(sum, g.BlockBitmapCsum) {
		c.rep.add(bitmapBlockSum, Problem{Place: s.descPlace(num, 0x18), Have: hex(g.BlockBitmapCsum), Want: hex(s.sumWidth(sum))})
	}
	free := s.compare(b, first, n, c.used, bitmapBlocks, s.place(num, g.BlockBitmap), func(i uint64) uint64 { return uint64(c.clusterBlock(i)) }, 1<<c.cbits-1)
	// Of what the device lacks the bitmap alone knows.
	for i := n; i < end; i++ {
		free += uint64(^b[i/8] >> (i % 8) & 1)
	}
	s.count(num, free)
	padded := allOnes(b[nbytes:])
	for i := end; i < cpg && padded && uint64(num) == c.sb.Groups()-1; i++ {
		padded = b[i/8]>>(i%8)&1 != 0
	}
	if !padded {
		c.rep.add(bitmapBlockPad, Problem{Place: s.place(num, g.BlockBitmap)})
	}
}

// count compares bg_free_blocks_count with free clusters.
func (s *bitmapScan) count(num disk.Group, free uint64) {
	g := &s.c.groups[num]
	s.totals.freeClusters.Add(free)
	if uint64(g.FreeClusters) != free {
		s.c.rep.add(countGroupBlocks, Problem{Place: s.descPlace(num, 0x0c), Have: dec(g.FreeClusters), Want: dec(free)})
	}
}

// uninitBlocks checks a group whose block bitmap was never written: only its
// own metadata may be in use there. Of its clusters, up to end, n are on the device.
func (s *bitmapScan) uninitBlocks(num disk.Group, first, n, end uint64) {
	c, g := s.c, &s.c.groups[num]
	own := newBitset(n)
	mark := func(b disk.PBlock, k uint64) {
		if uint64(b) >= c.blocks || uint64(b) < uint64(c.sb.FirstDataBlock) {
			return
		}
		lo, hi := max(c.cluster(b), first), min(c.cluster(b+disk.PBlock(k)-1)+1, first+n)
		if lo < hi {
			own.addRange(lo-first, hi-lo, nil)
		}
	}
	c.eachBase(num, mark)
	mark(g.BlockBitmap, 1)
	mark(g.InodeBitmap, 1)
	mark(g.InodeTable, uint64(c.sb.ItableBlocks()))
	taken := own.count(0, n)
	if c.used.count(first, n) != taken || !contains(c.used, first, own) {
		p := Problem{Place: s.place(num, 0)}
		for i := uint64(0); i < n; i += 64 {
			if v := c.used.word(first+i) &^ own.word(i) & below(n-i); v != 0 {
				eachRun(v, func(at, k uint64) {
					p.addRange(uint64(c.clusterBlock(first+i+at)), uint64(c.clusterBlock(first+i+at+k))-1, true)
				})
			}
		}
		p.classes = append(bitmapClasses(&p, 1<<c.cbits-1, 0x050005, 0x050015, 0x050004, 0x050014, 0x050003, 0x050006), 0x050018)
		c.rep.add(bitmapBlockUninit, p)
	}
	if n == end {
		s.count(num, n-taken)
	} else {
		s.totals.unknown.Store(true)
	}
	if uint64(num) == c.sb.Groups()-1 && end < uint64(c.sb.ClustersPerGroup) {
		// The kernel initialises the bitmaps of groups that are whole.
		c.rep.add(bitmapBlockPad, Problem{Place: s.place(num, g.BlockBitmap)})
	}
}

// contains reports whether all members of part, moved up by first, are in s.
func contains(s *bitset, first uint64, part *bitset) bool {
	for i := uint64(0); i < part.n; i += 64 {
		if part.word(i)&^s.word(first+i) != 0 {
			return false
		}
	}
	return true
}

// below has the lowest n bits set, all of them for n from 64 on.
func below(n uint64) uint64 {
	if n >= 64 {
		return ^uint64(0)
	}
	return 1<<n - 1
}

// inodes checks the inode bitmap of group num; b is nil if it has none.
func (s *bitmapScan) inodes(num disk.Group, b []byte) {
	c, g := s.c, &s.c.groups[num]
	ipg := uint64(c.sb.InodesPerGroup)
	first := uint64(num)*ipg + 1
	uninit := b == nil && c.uninitInodes(g) && g.sumOK
	switch {
	case uninit:
		s.uninitInodes(num, first, ipg)
		return
	case b == nil:
		s.totals.unknown.Store(true)
		return
	}
	if sum := disk.BitmapChecksum(&c.sb, b[:ipg/8]); c.sb.MetadataCsum() && !s.sumOK(sum, g.InodeBitmapCsum) {
		c.rep.add(bitmapInodeSum, Problem{Place: s.descPlace(num, 0x1a), Have: hex(g.InodeBitmapCsum), Want: hex(s.sumWidth(sum))})
	}
	free := s.compare(b, first, ipg, c.inodes.used, bitmapInodes, s.place(num, g.InodeBitmap), func(i uint64) uint64 { return i }, 0)
	var dirs uint64
	for i := uint64(0); i < ipg; i += 64 {
		dirs += uint64(bits.OnesCount64(load(b, i) & c.dirs.rank.set.word(first+i) & below(ipg-i)))
	}
	if !allOnes(b[(ipg+7)/8:]) || ipg%8 != 0 && b[ipg/8]|byte(below(ipg%8)) != 0xff {
		c.rep.add(bitmapInodePad, Problem{Place: s.place(num, g.InodeBitmap)})
	}
	s.countInodes(num, free, dirs)
}

// uninitInodes checks a group whose inodes were never used.
func (s *bitmapScan) uninitInodes(num disk.Group, first, ipg uint64) {
	c := s.c
	if c.inodes.used.anyIn(first, ipg) {
		p := Problem{Place: s.place(num, 0)}
		c.inodes.used.runs(first, first+ipg, func(at, n uint64) bool {
			p.addRange(at, at+n-1, true)
			return true
		})
		p.classes = append(bitmapClasses(&p, 0, 0x050009, 0x050017, 0x050008, 0x050016, 0x050007, 0x05000a), 0x050019)
		c.rep.add(bitmapInodeUninit, p)
	}
	s.countInodes(num, ipg, 0)
}

// countInodes compares the descriptor's counts.
func (s *bitmapScan) countInodes(num disk.Group, free, dirs uint64) {
	c, g := s.c, &s.c.groups[num]
	s.totals.freeInodes.Add(free)
	if uint64(g.FreeInodes) != free {
		c.rep.add(countGroupInodes, Problem{Place: s.descPlace(num, 0x0e), Have: dec(g.FreeInodes), Want: dec(free)})
	}
	if uint64(g.UsedDirs) != dirs {
		c.rep.add(countGroupDirs, Problem{Place: s.descPlace(num, 0x10), Have: dec(g.UsedDirs), Want: dec(dirs)})
	}
}

// sumOK compares a bitmap's checksum, of which short descriptors hold half.
func (s *bitmapScan) sumOK(sum, have uint32) bool { return s.sumWidth(sum) == have }

func (s *bitmapScan) sumWidth(sum uint32) uint32 {
	if s.c.sb.GroupDescSize() < disk.GroupDescSize64 {
		return sum & 0xffff
	}
	return sum
}

// load returns 64 bits of bitmap b from bit i, a multiple of 64; what is behind its end is zero.
func load(b []byte, i uint64) uint64 {
	if b = b[i/8:]; len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var last [8]byte
	copy(last[:], b)
	return binary.LittleEndian.Uint64(last[:])
}

func allOnes(b []byte) bool {
	for _, v := range b {
		if v != 0xff {
			return false
		}
	}
	return true
}

// compare compares the n bits of b with those of want from first on, tells of
// the differences as a problem of kind k, and returns how many bits of b are
// clear. number turns an index into the number to tell, of which each has span more.
func (s *bitmapScan) compare(b []byte, first, n uint64, want *bitset, k *Kind, at Place, number func(uint64) uint64, span uint64) (free uint64) {
	var p Problem
	found := false
	for i := uint64(0); i < n; i += 64 {
		have, mask := load(b, i), below(n-i)
		free += uint64(bits.OnesCount64(^have & mask))
		diff := (have ^ want.word(first+i)) & mask
		if diff == 0 {
			continue
		}
		found = true
		for _, missing := range []bool{false, true} {
			v := diff & have
			if missing {
				v = diff &^ have
			}
			eachRun(v, func(at, k uint64) { p.addRange(number(first+i+at), number(first+i+at+k-1)+span, missing) })
		}
	}
	if found {
		p.Place = at
		if k == bitmapBlocks {
			p.classes = bitmapClasses(&p, span, 0x050005, 0x050015, 0x050004, 0x050014, 0x050003, 0x050006)
		} else {
			p.classes = bitmapClasses(&p, span, 0x050009, 0x050017, 0x050008, 0x050016, 0x050007, 0x05000a)
		}
		s.c.rep.add(k, p)
	}
	return free
}

// eachRun calls fn with each run of ones in v.
func eachRun(v uint64, fn func(at, n uint64)) {
	for v != 0 {
		at := bits.TrailingZeros64(v)
		n := bits.TrailingZeros64(^(v >> at))
		fn(uint64(at), uint64(n))
		if at+n >= 64 {
			return
		}
		v &^= below(uint64(at + n))
	}
}

// addRange adds numbers to p, joined with those before where they go on.
func (p *Problem) addRange(first, last uint64, missing bool) {
	for k := len(p.Ranges) - 1; k >= 0 && k >= len(p.Ranges)-2; k-- {
		if r := &p.Ranges[k]; r.Missing == missing && r.Last+1 == first {
			r.Last = last
			return
		}
	}
	if len(p.Ranges) >= maxRanges {
		p.More++
		return
	}
	p.Ranges = append(p.Ranges, Range{First: first, Last: last, Missing: missing})
}

// bitmapClasses are the classes of the ranges of p: of one and of several
// numbers that are missing and that are too many, between a header and an end. One is
// as many as a bit stands for: span more.
func bitmapClasses(p *Problem, span uint64, missing, missingRange, extra, extraRange, header, end Class) []Class {
	classes := []Class{header}
	for _, r := range p.Ranges {
		c := extra
		switch {
		case r.Missing && r.Last-r.First > span:
			c = missingRange
		case r.Missing:
			c = missing
		case r.Last-r.First > span:
			c = extraRange
		}
		known := false
		for _, have := range classes {
			known = known || have == c
		}
		if !known {
			classes = append(classes, c)
		}
	}
	return append(classes, end)
}

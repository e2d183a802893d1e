package fsck

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// dxTree is the index of the directory at hand, block by block (dx_dir_info).
// It is filled in while the blocks are checked, in the order in which they lie, and
// judged when all have been seen.
type dxTree struct {
	blocks  []dxBlock
	version disk.HashVersion // as names are hashed here
	known   bool             // version is one that can be computed or read
	depth   int              // of the leaves
	broken  bool             // something was found that makes hashes meaningless
}

// dxBlock is what is known of one block of the directory.
type dxBlock struct {
	min, max         uint32 // hashes in it
	nodeMin, nodeMax uint32 // what the index says of it
	parent           uint32
	kind             dxKind
	flags            dxFlags
}

type dxKind uint8

const (
	dxUnseen dxKind = iota
	dxRoot
	dxInner
	dxLeaf
)

type dxFlags uint8

const (
	dxReferenced dxFlags = 1 << iota
	dxTwice
	dxFirst // the first below its parent
	dxLast  // the last
)

const (
	dxLargeDepth   = 3 // levels with large_dir (EXT4_HTREE_LEVEL)
	dxSmallDepth   = 2 // EXT4_HTREE_LEVEL_COMPAT
	dxNoMax        = 0xfffffffe
	dxHashIncompat = 1 // a flag that nobody may ignore
)

// checkIndexFlag judges an inode that says it is a directory with an index
// (handle_htree). m has been through its map.
func (w *worker) checkIndexFlag(m *mapWalk) error {
	c, in := w.c, &w.inode.in
	if !m.isDir {
		p := Problem{Place: w.inode.at}
		p.Place.Off += 0x20
		if p.classes = append(p.classes, htreeNoDirectory.Class, htreeRoot.Class); m.last > 0 {
			p.classes = append(p.classes, htreeUnreferenced.Class, 0x020038) // no index leads to the other blocks
		}
		c.rep.add(htreeNoDirectory, p)
	}
	if !c.sb.Compat.Has(disk.CompatDirIndex) {
		w.problem(htreeFeature, 0x20, "", "")
	}
	var blk disk.PBlock
	if !m.isDir {
		if w.hasBlocks() {
			runs, err := w.runs(w.inode.ino, in)
			if err != nil || len(runs) == 0 || runs[0].l != 0 {
				return err
			}
			blk = runs[0].p
		} else if in.Flags&(disk.FlagExtents|disk.FlagInlineData) == 0 {
			blk = disk.PBlock(binary.LittleEndian.Uint32(in.Block[:])) // a device's number, or a target
		}
		if !c.legal(blk) || uint64(blk) >= c.blocks {
			return nil
		}
	} else if runs := w.lists.runs[w.inode.dirRuns:]; len(runs) > 0 && runs[0].l == 0 {
		blk = runs[0].p
	}
	if !c.legal(blk) || uint64(blk) >= c.blocks {
		w.problem(htreeRoot, disk.IBlockOffset, fmt.Sprintf("its block is %d", blk), c.wantLegal())
		return nil
	}
	b, err := w.block(blk)
	if err != nil {
		return fmt.Errorf("index of directory %d: %w", w.inode.ino, err)
	}
	bad := func(k *Kind, off int, have, want string) {
		c.rep.add(k, Problem{Have: have, Want: want, Place: Place{Ino: w.inode.ino, InFile: true, Block: blk, Off: off, OnBlock: true}})
	}
	if zero := binary.LittleEndian.Uint32(b[24:]); zero != 0 {
		bad(htreeRoot, 24, "reserved_zero is "+hex(zero), "0")
	}
	r := disk.DecodeDxRoot(b)
	if r.InfoLength < 8 {
		bad(htreeRoot, 29, "info_length is "+dec(r.InfoLength), "8")
	}
	siphash := in.Flags.Has(disk.FlagEncrypt | disk.FlagCasefold)
	switch {
	case r.HashVersion > disk.HashTea && r.HashVersion != disk.HashSip:
		bad(htreeHashVersion, 28, dec(r.HashVersion), "0, 1, 2 or 6")
		if siphash {
			bad(htreeSiphash, 28, dec(r.HashVersion), "")
		}
	case siphash && r.HashVersion != disk.HashSip:
		bad(htreeSiphash, 28, dec(r.HashVersion), "")
	case !siphash && r.HashVersion == disk.HashSip:
		bad(htreeNoSiphash, 28, "", "")
	}
	if r.Flags&dxHashIncompat != 0 {
		bad(htreeFlags, 31, hex(r.Flags), "")
	}
	levels := int(r.Levels)
	switch {
	case levels > dxLargeDepth:
		bad(htreeDepth, 30, dec(levels), fmt.Sprintf("at most %d", c.dxDepth()-1))
	case levels >= dxSmallDepth && !c.sb.Incompat.Has(disk.IncompatLargedir) && !w.wantsThreeLevels():
		bad(htreeDepth, 30, dec(levels), "at most 1")
	}
	if levels >= dxSmallDepth || in.Size >= 1<<31 {
		w.lists.largeD = true
	}
	return nil
}

// wantsThreeLevels reports whether the directory at hand is larger than an index
// of two levels can be.
func (w *worker) wantsThreeLevels() bool {
	c := w.c
	per := uint64(c.bs / 8)
	return w.inode.in.Size >= (per-1)*(per-2)<<c.bits
}

// dxDepth is how many levels an index may have, the leaves not counted.
func (c *checker) dxDepth() int {
	if c.sb.Incompat.Has(disk.IncompatLargedir) {
		return dxLargeDepth
	}
	return dxSmallDepth
}

// begin prepares for a directory with the blocks of runs. It returns false if the
// directory cannot have an index: it has far more blocks than are there.
func (t *dxTree) begin(w *worker, runs []dirRun) bool {
	var mapped, n uint64
	for _, r := range runs {
		mapped += uint64(r.n)
		n = max(n, uint64(r.l)+uint64(r.n))
	}
	if n == 0 {
		return false
	}
	if n > 4*mapped+1024 {
		w.rep(htreeUnexpected)
		return false
	}
	if uint64(cap(t.blocks)) < n {
		t.blocks = make([]dxBlock, n)
	}
	t.blocks = t.blocks[:n]
	clear(t.blocks)
	t.broken, t.known, t.depth = false, false, 0
	return true
}

// rep tells of a problem of the directory at hand as a whole.
func (w *worker) rep(k *Kind) {
	w.c.rep.add(k, Problem{Place: Place{Ino: w.dir.info.ino}})
}

// block looks at block b, the one at hand, before its entries are checked. It
// reports whether it is a leaf.
func (t *dxTree) block(w *worker, b []byte) (leaf bool) {
	c, d := w.c, &w.dir
	x := &t.blocks[d.l]
	x.min, x.max = ^uint32(0), 0
	x.kind = dxLeaf
	e := disk.DecodeDirent(b, c.bs)
	switch {
	case d.l == 0:
		x.kind, x.flags = dxRoot, x.flags|dxFirst|dxLast|dxReferenced
		r := disk.DecodeDxRoot(b)
		if binary.LittleEndian.Uint32(b[24:]) != 0 || r.InfoLength < 8 {
			t.broken = true // told of in pass 1
		} else if int(r.Levels) >= c.dxDepth() {
			t.broken = true
			w.blockProblem(htreeRoot, 30, "indirect_levels is "+dec(r.Levels), fmt.Sprintf("at most %d", c.dxDepth()-1))
		}
		t.version = c.sb.EffectiveHash(r.HashVersion)
		t.known = r.HashVersion <= disk.HashTea || r.HashVersion == disk.HashSip && d.hashed
		t.depth = int(r.Levels) + 1
	case e.Ino == 0 && e.RecLen == c.bs && e.NameLen == 0 && disk.DxInnerNode(b).Limit() == disk.DxInnerNode(b).DxLimit(c.sb.MetadataCsum()):
		x.kind = dxInner
	}
	return x.kind == dxLeaf
}

// entry notes the hash of an entry of a leaf.
func (t *dxTree) entry(w *worker, area []byte, off int, e *disk.Dirent, name []byte) {
	d := &w.dir
	if !t.known {
		return
	}
	var hash uint32
	ok := true
	if t.version == disk.HashSip {
		hash, _, ok = disk.DirentHash(area[off:], e.NameLen, e.RecLen)
	} else {
		if d.folded && d.policy == noPolicy {
			if folded, utf8 := disk.Fold(name); utf8 {
				name = []byte(folded)
			}
		}
		hash, _, ok = disk.NameHash(t.version, w.c.sb.HashSeed, name)
	}
	if ok {
		x := &t.blocks[d.l]
		x.min, x.max = min(x.min, hash), max(x.max, hash)
	}
}

// node checks the entries of a root or inner node in block b (parse_int_node).
func (t *dxTree) node(w *worker, b []byte) {
	c, d := w.c, &w.dir
	n, at, sumKind := disk.DxInnerNode(b), 8, htreeNodeChecksum
	if d.l == 0 {
		at = 24 + int(disk.DecodeDxRoot(b).InfoLength)
		n, sumKind = disk.DxRootNode(b), htreeChecksum
		if at+8 > len(b) {
			t.broken = true
			return
		}
	}
	most := n.DxLimit(c.sb.MetadataCsum())
	count := n.Count()
	if n.Limit() != most {
		w.blockProblem(htreeLimit, at, dec(n.Limit()), dec(most))
	}
	if count > most {
		w.blockProblem(htreeCount, at+2, dec(count), fmt.Sprintf("at most %d", most))
		count = most
	}
	if c.sb.MetadataCsum() && n.Limit() == most && n.Count() <= most {
		have := binary.LittleEndian.Uint32(b[at+8*most+4:])
		if want := n.Checksum(d.seed); have != want {
			w.blockProblem(sumKind, at+8*most+4, hex(have), hex(want))
		}
	}
	self := &t.blocks[d.l]
	var hash uint32
	for i := range count {
		before := hash
		e := n.Entry(i)
		hash = e.Hash &^ 1
		if int(e.Block) >= len(t.blocks) {
			w.blockProblem(htreeBlock, at+8*i+4, dec(e.Block), fmt.Sprintf("below %d", len(t.blocks)))
			continue
		}
		if hash < before {
			w.blockProblem(htreeOrder, at+8*i, hex(hash), hex(before))
		}
		x := &t.blocks[e.Block]
		if x.flags&dxReferenced != 0 {
			x.flags |= dxTwice
		} else {
			x.flags |= dxReferenced
			x.parent = uint32(d.l)
		}
		self.min, self.max = min(self.min, hash), max(self.max, hash)
		x.nodeMin, x.nodeMax = hash, dxNoMax
		if i+1 < count {
			x.nodeMax = n.Entry(i+1).Hash &^ 1
		} else {
			x.flags |= dxLast
		}
		if i == 0 {
			x.flags |= dxFirst
		}
	}
}

// depthOf is how far below the root block i is, or -1 if it is not.
func (t *dxTree) depthOf(i int) int {
	for n := 0; n <= dxLargeDepth+1; n++ {
		x := &t.blocks[i]
		if x.kind == dxRoot {
			return n
		}
		if x.flags&dxReferenced == 0 {
			return -1
		}
		i = int(x.parent)
	}
	return -1
}

// dxFinding is what is wrong with blocks of an index, of one kind.
type dxFinding struct {
	first  *Problem
	ranges []Range
	more   uint64
}

// finish judges the whole index. Each kind of problem is told of once, with
// the blocks that have it.
func (t *dxTree) finish(w *worker) {
	c, d := w.c, &w.dir
	found := map[*Kind]*dxFinding{}
	var order []*Kind
	note := func(k *Kind, i int, number uint64, have, want string) {
		f := found[k]
		if f == nil {
			f = &dxFinding{first: &Problem{Kind: k, Number: number, Have: have, Want: want, Place: Place{Ino: d.info.ino, LBlock: uint64(i), InFile: true}}}
			found[k], order = f, append(order, k)
		}
		switch n := len(f.ranges); {
		case n > 0 && f.ranges[n-1].Last+1 == uint64(i):
			f.ranges[n-1].Last++
		case n < maxRanges:
			f.ranges = append(f.ranges, Range{First: uint64(i), Last: uint64(i)})
		default:
			f.more++
		}
	}
	t.spread(dxLeaf)
	t.spread(dxInner)
	for i := range t.blocks {
		x := &t.blocks[i]
		if x.kind == dxUnseen {
			// A hole, which is told of, or a block that could not be read.
			if x.flags&dxReferenced == 0 {
				note(htreeUnreferenced, i, 0, dec(i), "")
			}
			continue
		}
		if x.flags&dxFirst == 0 && x.min < x.nodeMin && t.known {
			note(htreeMin, i, uint64(i), hex(x.min), hex(x.nodeMin))
		}
		if x.kind == dxLeaf && t.depth > 0 {
			if n := t.depthOf(i); n >= 0 && n != t.depth {
				note(htreeLeafDepth, i, 0, dec(i), dec(t.depth))
			}
		}
		if i > 0 && x.max > x.nodeMax && t.known && x.flags&dxReferenced != 0 {
			note(htreeMax, i, uint64(i), hex(x.max), hex(x.nodeMax))
		}
		switch {
		case x.flags&dxReferenced == 0:
			note(htreeUnreferenced, i, 0, dec(i), "")
		case x.flags&dxTwice != 0:
			note(htreeTwice, i, 0, dec(i), "")
		}
	}
	for _, k := range order {
		f := found[k]
		f.first.Ranges, f.first.More = f.ranges, f.more
		c.rep.add(k, *f.first)
	}
}

// spread tells each node the lowest and highest hashes of what is below it, a
// block of that kind.
func (t *dxTree) spread(kind dxKind) {
	for i := range t.blocks {
		x := &t.blocks[i]
		if x.kind != kind || x.flags&(dxFirst|dxLast) == 0 || x.flags&dxReferenced == 0 {
			continue
		}
		parent := &t.blocks[x.parent]
		if x.flags&dxFirst != 0 {
			parent.min = x.min
		}
		if x.flags&dxLast != 0 {
			parent.max = x.max
		}
	}
}

package fsck

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// inodeScan is the inode that a worker looks at in pass 1, and its buffers.
type inodeScan struct {
	ino     disk.Ino
	in      disk.Inode
	raw     []byte
	at      Place
	badSum  bool   // i_checksum is wrong
	tree    bool   // i_block holds the root of an extent tree
	badSums []bool // i_checksum of each inode of the block is wrong
	insane  int    // how many inodes of the block are garbage
	walk    mapWalk
	nodes   [disk.ExtentMaxDepth + 2][]byte
	claimer func(first, n uint64, node bool) (before bool)
	xattr   xattrScan
	symlink []byte
	dirRuns int // of the inode at hand, in worker.lists.runs
}

// problem tells of a problem of the inode at hand; off is the field's place in it.
func (w *worker) problem(k *Kind, off int, have, want string) {
	s := &w.inode
	at := s.at
	at.Off += off
	w.c.rep.add(k, Problem{Place: at, Have: have, Want: want})
}

// inodeAt checks one inode of a table.
func (w *worker) inodeAt(ino disk.Ino, raw []byte, blk disk.PBlock, off int) error {
	c, s := w.c, &w.inode
	if ino >= c.sb.FirstIno && zero(raw) && ino != c.sb.ProjectQuotaIno && ino != c.sb.OrphanFileIno || c.inodes.inBad.has(uint64(ino)) {
		return nil // never used, or in a bad block and not to be believed
	}
	s.ino, s.raw = ino, raw
	s.xattr.reset()
	s.at = Place{Ino: ino, Block: blk, Off: off, OnBlock: true}
	s.in = disk.DecodeInode(raw)
	s.tree = looksLikeExtents(&s.in)
	s.badSum = s.badSums[off/int(c.sb.InodeSize)]
	if err := w.checkInode(); err != nil {
		return err
	}
	if s.badSum {
		at := s.at
		at.Off += 0x7c
		c.rep.add(inodeChecksum, Problem{Place: at, Have: hex(s.in.Checksum), Want: hex(disk.InodeChecksum(c.seed, ino, raw)), classes: w.sumClasses()})
	}
	return nil
}

// zero reports whether b, whose length is a multiple of 8, holds only zeros.
func zero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}

// checkInode goes through the rules for the inode at hand in e2fsck's order.
func (w *worker) checkInode() error {
	c, s := w.c, &w.inode
	in, ino := &s.in, s.ino
	special := ino < c.sb.FirstIno || ino == c.sb.ProjectQuotaIno
	if s.insane > c.sb.InodesPerBlock()/2 && in.Links > 0 {
		w.problem(inodeGarbage, 0, "", "")
	}
	orphan := c.inodes.orphan.has(uint64(ino))
	if in.Dtime != 0 && in.Dtime < c.sb.Inodes && c.lowDtime() && !orphan {
		w.problem(inodeLowDtime, 0x14, dec(in.Dtime), "0 or a time")
	}
	if in.Links == 0 && !special && !orphan {
		if in.Dtime == 0 && in.Mode != 0 && !c.quotaReserved(ino) {
			w.problem(inodeZeroDtime, 0x14, "", "")
		}
		return nil
	}
	w.checkFlags()
	if done, err := w.checkSpecial(); done || err != nil {
		return err
	}
	if in.Links == 0 && !orphan {
		return nil
	}
	if in.Dtime != 0 && !orphan {
		w.problem(inodeDtime, 0x14, dec(in.Dtime), "0")
	}
	return w.inUse(orphan)
}

// lowDtime reports whether an i_dtime that is small enough for an inode's number is
// one: the clock of who wrote the file system was right.
func (c *checker) lowDtime() bool {
	for _, t := range []int64{c.sb.Wtime, c.sb.Mtime, c.sb.MkfsTime} {
		if t != 0 && t < int64(c.sb.Inodes) {
			return false
		}
	}
	return true
}

// quotaReserved reports whether ino is kept for a quota file.
func (c *checker) quotaReserved(ino disk.Ino) bool {
	return ino == disk.UsrQuotaIno || ino == disk.GrpQuotaIno || ino != 0 && ino == c.sb.ProjectQuotaIno
}

// isQuota reports whether ino is a quota file.
func (c *checker) isQuota(ino disk.Ino) bool {
	return c.sb.ROCompat.Has(disk.ROCompatQuota) && (ino == c.sb.UserQuotaIno || ino == c.sb.GroupQuotaIno || ino == c.sb.ProjectQuotaIno)
}

// checkFlags judges the flags of an inode in use against features and each other.
func (w *worker) checkFlags() {
	c, in := w.c, &w.inode.in
	incompat := c.sb.Incompat
	extents, inline := incompat.Has(disk.IncompatExtents), incompat.Has(disk.IncompatInlineData)
	kind := in.Mode.Type()
	const off = 0x20
	if in.Flags.Has(disk.FlagCasefold) {
		if kind != disk.ModeDir {
			w.problem(inodeCasefoldFile, off, "", "")
		}
		if !incompat.Has(disk.IncompatCasefold) {
			w.problem(inodeCasefold, off, "", "")
		}
	}
	files := w.inode.ino >= c.sb.FirstIno
	if in.Flags.Has(disk.FlagEAInode) && kind != disk.ModeReg && files {
		w.problem(eaInodeType, off, describe(in.Mode), "")
	}
	if in.Flags.Has(disk.FlagVerity) && !c.sb.ROCompat.Has(disk.ROCompatVerity) && kind == disk.ModeReg && files {
		w.problem(verityFeature, off, "", "")
	}
	if in.Flags.Has(disk.FlagInlineData|disk.FlagExtents) && (extents || inline) {
		w.checkBothFlags()
	}
	if in.Flags.Has(disk.FlagInlineData) && files {
		_, err := w.inlineData()
		switch {
		case inline && err != "":
			at := w.inode.at
			at.Off += off
			c.rep.add(inlineMissing, Problem{Place: at, Have: err, classes: noXattrClasses(in)})
		case inline:
		case err == "":
			w.problem(inlineFeature, off, "", "")
		default:
			w.problem(inlineFlagOnly, off, "", "")
		}
	}
	ino := w.inode.ino
	inUse := in.Links != 0 || ino == disk.BadIno || ino == disk.RootIno || ino == disk.JournalIno
	switch {
	case in.Flags.Has(disk.FlagExtents) && !extents && inUse:
		if w.inode.tree {
			w.problem(extentsFeature, off, "", "")
		} else {
			w.problem(extentsFlagOnly, off, "", "")
		}
	case !in.Flags.Has(disk.FlagExtents) && extents && (kind == disk.ModeReg || kind == disk.ModeDir) && inUse && w.inode.tree:
		w.problem(extentsNoFlag, off, "", "")
	}
}

// checkBothFlags judges an inode that says it has inline data and an extent tree
// (fix_inline_data_extents_file, which asks about one after the other).
func (w *worker) checkBothFlags() {
	in := &w.inode.in
	const off = 0x20
	switch in.Mode.Type() {
	case disk.ModeChar, disk.ModeBlock, disk.ModeFIFO, disk.ModeSocket:
		w.problem(inodeSpecialFlags, off, "", "")
		return
	}
	if w.inode.tree {
		w.problem(inlineExtentTree, off, "", "")
	}
	room := disk.IBlockSize
	if extra := len(w.inode.raw) - disk.GoodOldInodeSize; extra > 0 {
		room += extra - int(in.ExtraIsize)
	}
	if room < 0 || in.Size < uint64(room) {
		w.problem(inlineShort, off, "", "")
	}
	mapLike := true
	for i := range disk.IBlockSize / 4 {
		if uint64(binary.LittleEndian.Uint32(in.Block[4*i:])) >= w.c.sb.Blocks {
			mapLike = false
		}
	}
	if mapLike {
		w.problem(inlineBlockMap, off, "", "")
	}
	w.problem(inlineJunk, off, "", "")
}

// checkSpecial judges the inodes with a fixed meaning. done says that there is
// nothing else to check.
func (w *worker) checkSpecial() (done bool, err error) {
	c, s := w.c, &w.inode
	in, ino := &s.in, s.ino
	used := func() { w.marks.used.add(uint64(ino)) }
	empty := in.Links == 0 && in.BlocksRaw&0xffffffff == 0 && binary.LittleEndian.Uint32(in.Block[:]) == 0
	file := func(inUse bool, mode, unused *Kind) (bool, error) {
		used()
		if inUse {
			if in.Mode.Type() != disk.ModeReg {
				w.problem(mode, 0, describe(in.Mode), "")
			}
			return true, w.checkBlocks(false)
		}
		if !empty {
			w.problem(unused, 0, "", "")
		}
		return false, nil
	}
	switch {
	case ino == disk.BadIno:
		used() // its blocks are checked before all others'
		return true, nil
	case ino == disk.RootIno:
		if in.Mode.Type() != disk.ModeDir {
			w.problem(inodeRootType, 0, describe(in.Mode), "")
		}
		if in.Dtime != 0 && in.Links != 0 {
			w.problem(inodeRootDtime, 0x14, dec(in.Dtime), "")
		}
	case ino == disk.JournalIno:
		return file(c.sb.JournalIno == ino, journalMode, journalUnused)
	case c.quotaReserved(ino):
		return file(c.isQuota(ino), quotaMode, quotaUnused)
	case ino == c.sb.OrphanFileIno:
		return file(c.sb.Compat.Has(disk.CompatOrphanFile), orphanMode, orphanNotInUse)
	case ino < c.sb.FirstIno:
		used()
		w.checkReserved()
		return true, w.checkBlocks(false)
	}
	return false, nil
}

// checkReserved judges the mode of an inode that is kept for something.
func (w *worker) checkReserved() {
	in := &w.inode.in
	kind, want := in.Mode.Type(), "0"
	switch w.inode.ino {
	case disk.BootIno:
		if kind != disk.ModeDir {
			return
		}
		want = "no directory"
	case disk.ResizeIno:
		if in.Mode == 0 || kind == disk.ModeReg {
			return
		}
		want = "0 or a regular file"
	default:
		if in.Mode == 0 {
			return
		}
	}
	p := Problem{Place: w.inode.at, Have: fmt.Sprintf("%#o", uint16(in.Mode)), Want: want}
	if p.classes = []Class{inodeReservedMode.Class}; kind == disk.ModeDir {
		p.classes = append(p.classes, direntHole.Class, direntCorrupt.Class) // its blocks are read as a directory's
	}
	w.c.rep.add(inodeReservedMode, p)
}

// inUse checks an inode of the tree of files.
func (w *worker) inUse(orphan bool) error {
	c, s := w.c, &w.inode
	in, ino := &s.in, s.ino
	w.marks.used.add(uint64(ino))
	if in.Flags.Has(disk.FlagImagic) {
		if c.sb.Compat.Has(disk.CompatImagicInodes) {
			c.inodes.imagic.add(uint64(ino))
		} else {
			w.problem(inodeImagic, 0x20, "", "")
		}
	}
	if in.Flags.Has(disk.FlagEAInode) {
		c.inodes.eaFlag.add(uint64(ino))
	}
	if !in.Flags.Has(disk.FlagEAInode) {
		w.checkUnusedFields() // no entry leads to the others
	}
	w.checkExtra()
	if err := w.checkReallyDir(); err != nil {
		return err
	}
	kind := in.Mode.FileType()
	fast := w.fastSymlink()
	if c.sb.Incompat.Has(disk.IncompatExtents) && in.Flags.Has(disk.FlagExtents) && kind == disk.TypeLink && !w.hasBlocks() {
		w.problem(extentsFastLink, 0x20, "", "")
	}
	if in.Flags.Has(disk.FlagEncrypt) {
		if err := w.checkEncryption(); err != nil {
			return err
		}
	}
	if in.Flags.Has(disk.FlagCasefold) && c.sb.Incompat.Has(disk.IncompatCasefold) {
		c.inodes.casefold.add(uint64(ino))
	}
	if err := w.checkType(kind, fast); err != nil {
		return err
	}
	w.marks.setKind(ino, kind)
	switch {
	case kind == disk.TypeDir:
		d := dirInfo{ino: ino, links: in.Links, generation: in.Generation}
		if in.Flags.Has(disk.FlagIndex) {
			d.flags |= dirIndexed
		}
		if in.Flags.Has(disk.FlagInlineData) && c.sb.Incompat.Has(disk.IncompatInlineData) {
			d.flags |= dirInline
		}
		w.lists.dirs = append(w.lists.dirs, d)
	case in.Links == 1:
		w.marks.oneLink.add(uint64(ino))
	default:
		c.inodes.manyLink.add(uint64(ino))
		w.lists.links = append(w.lists.links, linkOf{ino, in.Links})
	}
	w.countInode(kind, fast)
	return w.checkBlocks(orphan)
}

// checkUnusedFields looks for what must be zero. It is told of when an entry
// leads to the inode, as part of pass 2.
func (w *worker) checkUnusedFields() {
	c, in, raw := w.c, &w.inode.in, w.inode.raw
	bad := func(k *Kind, off int, have, want string) {
		p := Problem{Place: w.inode.at, Have: have, Want: want}
		p.Place.Off += off
		if t := in.Mode.Type(); t != disk.ModeReg && t != disk.ModeDir {
			p.classes = []Class{k.Class, direntType.Class} // e2fsck does not look at what type it is any more
		}
		if k == inodeACLBad || k == inodeACLHigh {
			p.classes = append(append(p.classes, k.Class), noXattrClasses(in)...) // nor for xattrs in the inode
		}
		c.rep.add(k, p)
	}
	if in.ObsoFaddr != 0 {
		bad(inodeFaddr, 0x70, dec(in.ObsoFaddr), "")
	}
	if c.sb.CreatorOS == osHurd {
		if raw[0x74] != 0 {
			bad(inodeFrag, 0x74, dec(raw[0x74]), "")
		}
		if raw[0x75] != 0 {
			bad(inodeFsize, 0x75, dec(raw[0x75]), "")
		}
	} else {
		if high := in.FileACL >> 32; high != 0 && !c.sb.Incompat.Has(disk.Incompat64Bit) {
			bad(inodeACLHigh, 0x76, dec(high), "")
		}
		if high := in.BlocksRaw >> 32; high != 0 && !c.sb.ROCompat.Has(disk.ROCompatHugeFile) {
			bad(inodeBlocksHigh, 0x74, dec(high), "")
		}
	}
	if high := in.Size >> 32; high != 0 && in.Mode.Type() == disk.ModeDir && !c.sb.Incompat.Has(disk.IncompatLargedir) {
		bad(inodeSizeHigh, 0x6c, dec(high), "")
	}
	acl := in.XattrBlock(&c.sb)
	if acl != 0 && !c.sb.Compat.Has(disk.CompatExtAttr) {
		bad(inodeACLFeature, 0x68, dec(acl), "")
	}
	if acl != 0 && !c.legal(acl) {
		bad(inodeACLBad, 0x68, dec(acl), c.wantLegal())
	}
}

// countInode adds the inode to the statistics.
func (w *worker) countInode(kind disk.FileType, fast bool) {
	n, in := &w.lists.stats, &w.inode.in
	switch kind {
	case disk.TypeDir:
		n.Directories++
	case disk.TypeReg:
		n.Files++
	case disk.TypeChar:
		n.CharDevs++
	case disk.TypeBlock:
		n.BlockDevs++
	case disk.TypeFIFO:
		n.FIFOs++
	case disk.TypeSocket:
		n.Sockets++
	case disk.TypeLink:
		n.Symlinks++
		if fast {
			n.FastSymlinks++
		}
	}
	if !fast && in.Flags&(disk.FlagExtents|disk.FlagInlineData) == 0 {
		for i := range n.Indirect {
			if binary.LittleEndian.Uint32(in.Block[4*(disk.DirectBlocks+i):]) != 0 {
				n.Indirect[i]++
			}
		}
	}
}

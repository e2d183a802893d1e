package mkfs

import (
	"math"

	"e4go/ext4/disk"
)

// What every file system has before anything is put into it, in the order in
// which mke2fs takes blocks for it.
type builtin struct {
	root      disk.PBlock // the first block of the root directory
	lostFound []run
	resize    disk.PBlock // the double indirect block of the resize inode, or 0
	journal   []run       // of a journal mapped by extents, or empty
	journalIn *inode
	mmp       disk.PBlock
	quota     [quotaTypes][]run // first blocks of the quota files
	orphan    []run             // with the blocks of pointers of an indirect map
	orphanIno disk.Ino

	projectIno disk.Ino // of the project quota file
	nextIno    disk.Ino // the first that belongs to contents
}

const (
	lostFoundIno  disk.Ino = 11
	lostFoundSize          = 16 << 10 // bytes, at least
)

// placeBuiltin takes the blocks of all that is built in.
func (v *volume) placeBuiltin() error {
	b := &v.builtin
	first := disk.PBlock(v.sb.FirstDataBlock)
	var err error
	if b.root, err = v.alloc("the root directory", first, 1); err != nil {
		return err
	}
	if b.lostFound, err = v.allocPieces("lost+found", first, v.lostFoundBlocks()); err != nil {
		return err
	}
	if v.sb.Compat.Has(disk.CompatResizeInode) {
		goal := first + disk.PBlock(v.p.desc) + disk.PBlock(v.sb.ReservedGDT) + 2 + disk.PBlock(v.p.itable)
		if b.resize, err = v.alloc("the resize inode", goal, 1); err != nil {
			return err
		}
	}
	if err := v.placeJournal(); err != nil {
		return err
	}
	if v.sb.Incompat.Has(disk.IncompatMMP) {
		if b.mmp, err = v.alloc("the MMP block", first, 1); err != nil {
			return err
		}
		v.sb.MMPBlock = b.mmp
	}
	v.sb.OverheadClusters = uint32(min(v.overhead+uint64(v.sb.FirstDataBlock), math.MaxUint32))
	b.nextIno = lostFoundIno + 1
	for _, t := range v.p.quota {
		if t == quotaProject {
			b.projectIno = b.nextIno
			b.nextIno++
		}
		n := (emptyQuotaSize + int64(v.sb.BlockSize()) - 1) >> v.sb.BlockBits()
		if b.quota[t], err = v.allocPieces("a quota file", first, uint64(n)); err != nil {
			return err
		}
	}
	if v.p.orphan > 0 {
		n := uint64(v.p.orphan)
		if !v.sb.Incompat.Has(disk.IncompatExtents) {
			n += v.pointerBlocksOf([]span{{0, int64(n) << v.sb.BlockBits()}})
		}
		if b.orphan, err = v.allocPieces("the orphan file", first, n); err != nil {
			return err
		}
		b.orphanIno = b.nextIno
		b.nextIno++
		v.sb.OrphanFileIno = b.orphanIno
	}
	return nil
}

// lostFoundBlocks is how many blocks lost+found has, so that e2fsck need not
// allocate any for what it finds.
func (v *volume) lostFoundBlocks() uint64 {
	n := uint64(min(max(2, lostFoundSize>>v.sb.BlockBits()), disk.DirectBlocks))
	if v.sb.Incompat.Has(disk.IncompatInlineData) {
		n-- // mke2fs makes it without a block
	}
	return n
}

package fsck

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// insane counts the inodes in block b, the first of which is first, that are
// garbage: their checksum is wrong, or their map none (check_inode_block_sanity).
func (w *worker) insane(b []byte, first disk.Ino, n uint32) (bad int) {
	c, size := w.c, int(w.c.sb.InodeSize)
	sums := c.sb.MetadataCsum()
	w.inode.badSums = w.inode.badSums[:0]
	for i := range int(n) {
		raw := b[i*size:][:size]
		badSum := false
		flags := disk.FileFlags(binary.LittleEndian.Uint32(raw[0x20:]))
		switch {
		case zero(raw):
		case sums && storedSum(raw) != disk.InodeChecksum(c.seed, first+disk.Ino(i), raw):
			badSum = true
			bad++
		case flags.Has(disk.FlagExtents):
			if field, _, _ := extentHeader(raw[disk.IBlockOffset:][:disk.IBlockSize]); field != "" {
				bad++
			}
		case w.insaneBlockMap(raw, flags):
			bad++
		}
		w.inode.badSums = append(w.inode.badSums, badSum)
	}
	if c.sb.InodesPerBlock() < 2 {
		return 0
	}
	return bad
}

// storedSum is i_checksum of the inode in raw.
func storedSum(raw []byte) uint32 {
	sum := uint32(binary.LittleEndian.Uint16(raw[0x7c:]))
	if len(raw) > disk.GoodOldInodeSize && binary.LittleEndian.Uint16(raw[0x80:]) >= 4 {
		sum |= uint32(binary.LittleEndian.Uint16(raw[0x82:])) << 16
	}
	return sum
}

// insaneBlockMap reports whether most of the block numbers in inode raw cannot
// be any (block_map_looks_insane).
func (w *worker) insaneBlockMap(raw []byte, flags disk.FileFlags) bool {
	if binary.LittleEndian.Uint16(raw[0x1a:]) == 0 || flags.Has(disk.FlagInlineData) {
		return false
	}
	in := disk.DecodeInode(raw)
	switch in.Mode.Type() {
	case disk.ModeReg, disk.ModeDir:
	case disk.ModeLink:
		if in.Size <= disk.IBlockSize {
			return false
		}
	default:
		return false
	}
	n := 0
	for i := range disk.IBlockSize / 4 {
		if b := disk.PBlock(binary.LittleEndian.Uint32(in.Block[4*i:])); b != 0 && !w.c.legal(b) {
			n++
		}
	}
	return n > disk.IBlockSize/4/2
}

// sumClasses are the classes of a wrong checksum of the inode at hand: e2fsck does
// not read such an inode a second time, and takes what rests upon it for damaged.
func (w *worker) sumClasses() []Class {
	c, in := w.c, &w.inode.in
	classes := append([]Class{inodeChecksum.Class}, inodeChecksum.Also...)
	if in.Mode.Type() == disk.ModeDir {
		classes = append(classes, dirChecksum.Class)
		if in.Flags.Has(disk.FlagIndex) {
			classes = append(classes, htreeRoot.Class, htreeChecksum.Class, htreeNodeChecksum.Class)
		}
		if c.sb.Incompat.Has(disk.IncompatInlineData) {
			classes = append(classes, treeUnconnected.Class, treeDotDot.Class, linkCount.Class)
		}
	}
	if in.Flags.Has(disk.FlagInlineData) {
		classes = append(classes, inlineMissing.Class)
	}
	if in.Flags.Has(disk.FlagExtents) && disk.DecodeExtentHeader(in.Block[:]).Depth > 0 {
		classes = append(classes, extentChecksum.Class)
	}
	if in.Flags.Has(disk.FlagEncrypt) {
		classes = append(classes, cryptMissing.Class, direntName.Class, direntPlain.Class)
	}
	if ino := w.inode.ino; c.sb.Compat.Has(disk.CompatResizeInode) {
		switch {
		case ino == disk.ResizeIno:
			classes = append(classes, 0x01004e) // it would be made anew
		case ino > disk.RootIno && ino < disk.ResizeIno:
			// The resize inode is read as if it were this one.
			classes = append(classes, inodeBlocks.Class, 0x050003, 0x050004, 0x050006)
			if !zero(in.Block[:56]) {
				classes = append(classes, blockIllegal.Class, 0x010010, 0x010011, 0x01002d)
			}
		}
	}
	if c.isQuota(w.inode.ino) {
		classes = append(classes, quotaUsage.Class)
	}
	return classes
}

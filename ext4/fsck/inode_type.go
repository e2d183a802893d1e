package fsck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"e4go/ext4/disk"
)

// fastSymlink reports whether the target of a symbolic link stands in i_block,
// as e2fsck takes it: by the size alone (ext2fs_is_fast_symlink).
func (w *worker) fastSymlink() bool {
	in := &w.inode.in
	return in.Mode.Type() == disk.ModeLink && in.Size > 0 && in.Size < disk.IBlockSize && !w.hasBlocks()
}

// hasBlocks reports whether i_block is a map (ext2fs_inode_has_valid_blocks2).
func (w *worker) hasBlocks() bool {
	in := &w.inode.in
	switch in.Mode.Type() {
	case disk.ModeDir, disk.ModeReg:
	case disk.ModeLink:
		switch {
		case in.Size < disk.IBlockSize && w.c.sb.Incompat.Has(disk.IncompatEAInode):
			// i_blocks has values of xattrs in it: the length decides.
			return in.Size == 0
		case in.XattrBlock(&w.c.sb) == 0:
			if in.BlocksRaw&0xffffffff == 0 {
				return false
			}
		case in.Size >= disk.IBlockSize:
			return true
		default:
			return in.Size > 4 && binary.LittleEndian.Uint32(in.Block[4:]) == 0
		}
	default:
		return false
	}
	return !in.Flags.Has(disk.FlagInlineData)
}

// badDevice is what is said of a special file that has what only others have.
var badDevice = [...]*Kind{disk.TypeChar: inodeCharDev, disk.TypeBlock: inodeBlockDev, disk.TypeFIFO: inodeFIFO, disk.TypeSocket: inodeSocket}

// checkType judges what belongs to one type of file.
func (w *worker) checkType(kind disk.FileType, fast bool) error {
	c, in := w.c, &w.inode.in
	switch kind {
	case disk.TypeDir, disk.TypeReg:
	case disk.TypeChar, disk.TypeBlock, disk.TypeFIFO, disk.TypeSocket:
		if !deviceOK(in) {
			w.problem(badDevice[kind], 0x20, "", "")
			return nil
		}
		if in.Flags&(disk.FlagExtents|disk.FlagInlineData) != 0 {
			w.problem(inodeSpecialFlags, 0x20, "", "")
		}
		if in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0 {
			w.problem(inodeImmutable, 0x20, "", "")
		}
		if in.Size != 0 {
			w.problem(inodeSpecialSize, 0x04, dec(in.Size), "")
		}
	case disk.TypeLink:
		have, want, err := w.symlinkProblem(fast)
		if err != nil {
			return err
		}
		if have != "" {
			w.problem(inodeSymlink, disk.IBlockOffset, have, want)
		} else if in.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0 {
			w.problem(inodeImmutable, 0x20, "", "")
		}
	default:
		w.problem(inodeMode, 0, fmt.Sprintf("%#o", uint16(in.Mode)), "")
		c.inodes.bad.add(uint64(w.inode.ino))
	}
	return nil
}

// deviceOK reports whether a device, FIFO or socket has what they have
// (e2fsck_pass1_check_device_inode): the kernel does not clear all of i_block.
func deviceOK(in *disk.Inode) bool {
	if in.Flags&(disk.FlagIndex|disk.FlagExtents) != 0 {
		return false
	}
	if in.Flags&(disk.FlagImmutable|disk.FlagAppend) == 0 {
		return true
	}
	return !bytes.ContainsFunc(in.Block[16:], func(r rune) bool { return r != 0 })
}

// symlinkProblem returns what is wrong with the symbolic link at hand, or "" (e2fsck_pass1_check_symlink).
func (w *worker) symlinkProblem(fast bool) (have, want string, err error) {
	c, in := w.c, &w.inode.in
	target := in.Block[:]
	switch {
	case in.Size == 0 || in.Size>>32 != 0:
		return fmt.Sprintf("i_size is %d", in.Size), fmt.Sprintf("1 to %d", c.bs-1), nil
	case in.Flags.Has(disk.FlagIndex):
		return "it has the flag index", "no such flag", nil
	case in.Flags.Has(disk.FlagInlineData):
		if in.Flags.Has(disk.FlagExtents) {
			return "it has the flags inline_data and extents", "one of them", nil
		}
		if n, problem := w.inlineData(); problem != "" || uint64(n) != in.Size {
			return fmt.Sprintf("i_size is %d", in.Size), fmt.Sprintf("%d, the bytes inline", n), nil
		}
		return "", "", nil
	case in.Size < disk.IBlockSize:
		if in.Flags.Has(disk.FlagExtents) {
			return "it has the flag extents", "no such flag, as the target stands in the inode", nil
		}
	default:
		var blk disk.PBlock
		if blk, have, want = w.symlinkBlock(); have != "" {
			return have, want, nil
		}
		if w.inode.symlink == nil {
			w.inode.symlink = make([]byte, c.bs)
		}
		target = w.inode.symlink
		if err := c.read(blk, target); errors.Is(err, errBeyond) {
			return fmt.Sprintf("its block is %d", blk), c.wantLegal(), nil
		} else if err != nil {
			return "", "", fmt.Errorf("symbolic link %d: %w", w.inode.ino, err)
		}
	}
	n := bytes.IndexByte(target, 0)
	if n < 0 {
		n = len(target)
	}
	if in.Flags.Has(disk.FlagEncrypt) {
		n = disk.EncryptedSymlink(target)
	}
	if n >= len(target) {
		return fmt.Sprintf("the target has %d bytes", n), fmt.Sprintf("at most %d", len(target)-1), nil
	}
	if uint64(n) != in.Size {
		return fmt.Sprintf("i_size is %d", in.Size), fmt.Sprintf("%d, the length of the target", n), nil
	}
	return "", "", nil
}

// symlinkBlock is the one block that the target of a long symbolic link lies in.
func (w *worker) symlinkBlock() (blk disk.PBlock, have, want string) {
	in := &w.inode.in
	if in.Flags.Has(disk.FlagExtents) {
		h := disk.DecodeExtentHeader(in.Block[:])
		e := disk.DecodeExtent(disk.ExtentEntry(in.Block[:], 0))
		if !looksLikeExtents(in) || h.Entries != 1 || h.Depth != 0 || e.Block != 0 || e.Len != 1 {
			return 0, "its extent tree has another form", "one extent of one block"
		}
		blk = e.Start
	} else {
		blk = disk.PBlock(binary.LittleEndian.Uint32(in.Block[:]))
		if zeroed := in.Block[4:]; bytes.ContainsFunc(zeroed, func(r rune) bool { return r != 0 }) {
			return 0, "it has more than one block", "one"
		}
	}
	if !w.c.legal(blk) {
		return 0, fmt.Sprintf("its block is %d", blk), w.c.wantLegal()
	}
	return blk, "", ""
}

// checkReallyDir looks whether what says that it is a special file is a
// directory whose mode was destroyed (check_is_really_dir).
func (w *worker) checkReallyDir() error {
	c, in := w.c, &w.inode.in
	kind := in.Mode.Type()
	first := binary.LittleEndian.Uint32(in.Block[:])
	if kind == disk.ModeDir || kind == disk.ModeReg || kind == disk.ModeLink || first == 0 {
		return nil
	}
	var blk disk.PBlock
	device := true
	switch {
	case in.Flags.Has(disk.FlagInlineData) && c.sb.Incompat.Has(disk.IncompatInlineData):
		if w.looksLikeInlineDir() {
			w.problem(inodeIsDirectory, 0, describe(in.Mode), "")
		}
		return nil
	case in.Flags.Has(disk.FlagExtents) && c.sb.Incompat.Has(disk.IncompatExtents):
		runs, err := w.runs(w.inode.ino, in)
		if err != nil {
			return err
		}
		if len(runs) == 0 || runs[0].l != 0 {
			return nil
		}
		blk, device = runs[0].p, false
	default:
		for i := range disk.IBlockSize / 4 {
			b := disk.PBlock(binary.LittleEndian.Uint32(in.Block[4*i:]))
			if b == 0 {
				continue
			}
			if i >= 4 {
				device = false
			}
			if !c.legal(b) || uint64(b) >= c.blocks || c.used.has(c.cluster(b)) {
				return nil
			}
		}
		blk = disk.PBlock(first)
	}
	if (kind == disk.ModeChar || kind == disk.ModeBlock) && in.Links == 1 && device {
		return nil
	}
	b, err := w.block(blk)
	if errors.Is(err, errBeyond) {
		return nil
	}
	if err != nil {
		return err
	}
	if looksLikeDir(b, w.inode.ino, c.bs) {
		w.problem(inodeIsDirectory, 0, describe(in.Mode), "")
	}
	return nil
}

// looksLikeDir reports whether block b begins as the first block of directory ino.
func looksLikeDir(b []byte, ino disk.Ino, bs int) bool {
	dot := disk.DecodeDirent(b, bs)
	if dot.NameLen != 1 || b[disk.DirentHeaderSize] != '.' || dot.Ino != ino || dot.RecLen < 12 || dot.RecLen%4 != 0 || dot.RecLen >= bs-12 {
		return false
	}
	dotdot := disk.DecodeDirent(b[dot.RecLen:], bs)
	name := b[dot.RecLen+disk.DirentHeaderSize:]
	return dotdot.NameLen == 2 && name[0] == '.' && name[1] == '.' && dotdot.RecLen >= 12 && dotdot.RecLen%4 == 0
}

// looksLikeInlineDir likewise of inline data: the parent's number, then an entry.
func (w *worker) looksLikeInlineDir() bool {
	c, in := w.c, &w.inode.in
	if n, problem := w.inlineData(); problem == "" && n%4 != 0 {
		return false
	}
	ok := func(ino disk.Ino, also disk.Ino) bool {
		return uint32(ino) < c.sb.Inodes && (ino >= c.sb.FirstIno || ino == also)
	}
	e := disk.DecodeDirent(in.Block[4:], c.bs)
	return ok(disk.Ino(binary.LittleEndian.Uint32(in.Block[:])), disk.RootIno) && ok(e.Ino, 0) && e.RecLen <= disk.IBlockSize-4
}

// checkExtra judges what lies behind the first 128 bytes (check_inode_extra_space).
func (w *worker) checkExtra() {
	s := &w.inode
	most := len(s.raw) - disk.GoodOldInodeSize
	if most <= 0 {
		return
	}
	extra := int(binary.LittleEndian.Uint16(s.raw[0x80:]))
	if !extraSizeOK(extra, most) {
		w.problem(inodeExtraSize, 0x80, dec(extra), fmt.Sprintf("a multiple of 4, 4 to %d", most))
		return
	}
	if extra >= most-disk.XattrIbodyHdrSize {
		return
	}
	if binary.LittleEndian.Uint32(s.raw[disk.GoodOldInodeSize+extra:]) == disk.XattrMagic {
		w.checkIbody(s.raw[disk.GoodOldInodeSize+extra:])
	}
	for _, t := range [...]struct{ sec, extra int }{{0x08, 0x8c}, {0x0c, 0x84}, {0x10, 0x88}, {0x90, 0x94}} {
		if t.extra+4 <= len(s.raw) && s.raw[t.sec+3]&0x80 != 0 && s.raw[t.extra]&3 == 3 {
			w.problem(inodeOldTimes, t.extra, "", "")
			return
		}
	}
}

package ext4

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// An inline directory keeps its entries in the inode: the parent's number and
// a chain of entries in i_block, and another chain in the value of the xattr system.data.
// It has no "." and "..".

func (dir *Inode) putInlineParent(parent disk.Ino) {
	binary.LittleEndian.PutUint32(dir.disk.Block[:inlineDirHead], uint32(parent))
}

// makeInlineDir fills a new inode as an empty inline directory, if the file
// system has them and the inode room for one (ext4_try_create_inline_dir).
func (h *Handle) makeInlineDir(dir *Inode, parent disk.Ino) (bool, error) {
	if !h.fs.sb.Incompat.Has(disk.IncompatInlineData) {
		return false, nil
	}
	data := make([]byte, disk.IBlockSize)
	disk.Dirent{RecLen: disk.IBlockSize - inlineDirHead}.Put(data[inlineDirHead:], dir.fs.sb.BlockSize())
	if err := h.setInline(dir, data); err != nil {
		if err == errOutgrown {
			err = nil
		}
		return false, err
	}
	dir.disk.Size = disk.IBlockSize
	dir.putInlineParent(parent)
	return true, nil
}

// addInline adds an entry to an inline directory, if it fits into the inode
// (ext4_try_add_inline_entry).
func (h *Handle) addInline(dir *Inode, e *dirent) (bool, error) {
	for range 2 {
		parts, err := dir.inlineParts()
		if err != nil {
			return false, err
		}
		for _, part := range [][]byte{parts[0][inlineDirHead:], parts[1]} {
			off, ok, err := dir.roomFor(part, dir.block, e.size())
			if err != nil {
				return false, err
			}
			if ok {
				dir.putDirent(part, off, e)
				h.dirChanged(dir)
				return true, nil
			}
		}
		err = h.lengthenInline(dir, parts, e.size())
		if err == errOutgrown {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// lengthenInline makes room for an entry of n bytes behind the second chain.
// It fails with errOutgrown if the inode does not have as much.
func (h *Handle) lengthenInline(dir *Inode, parts [2][]byte, n int) error {
	end := len(parts[0]) + len(parts[1])
	data := make([]byte, end+n)
	copy(data[copy(data, parts[0]):], parts[1])
	// A free entry of its own: what is before it ends where it ended.
	disk.Dirent{RecLen: n}.Put(data[end:], dir.fs.sb.BlockSize())
	if err := h.setInline(dir, data); err != nil {
		return err
	}
	dir.disk.Size = uint64(len(data))
	return nil
}

// growOut moves the entries of an inline directory into a block
// (ext4_convert_inline_data_nolock). Each stays where it was in the order, at the
// same distance from the first: what listings count on.
func (h *Handle) growOut(dir *Inode) error {
	parent, err := dir.parent()
	if err != nil {
		return err
	}
	parts, err := dir.inlineParts()
	if err != nil {
		return err
	}
	chain := append(append([]byte(nil), parts[0][inlineDirHead:]...), parts[1]...)
	// Judged before they are moved: a chain must end where its part does.
	if err := dir.inlineEntries(func(disk.Dirent, []byte, []byte, int) bool { return true }); err != nil {
		return err
	}
	if err := h.endInline(dir); err != nil {
		return err
	}
	dir.disk.Size = 0
	b, err := h.appendBlock(dir)
	if err != nil {
		return err
	}
	if err := h.addDots(dir, b, parent); err != nil {
		return err
	}
	return h.appendChain(dir, b, chain)
}

// appendChain puts a chain of entries behind "." and ".." of block b. The last
// entry of it reaches to the end of the block.
func (h *Handle) appendChain(dir *Inode, b disk.LBlock, chain []byte) error {
	data, off, err := h.editEntries(dir, direntPlace{block: b})
	if err != nil {
		return err
	}
	bs := dir.fs.sb.BlockSize()
	off += disk.DirentSize(1, false)
	dotDot := disk.DecodeDirent(data[off:], bs)
	dotDot.RecLen = disk.DirentSize(2, false)
	dotDot.Put(data[off:], bs)
	off += dotDot.RecLen
	copy(data[off:], chain)
	last := off
	for at := off; at < off+len(chain); {
		last = at
		at += disk.DecodeDirent(data[at:], bs).RecLen
	}
	e := disk.DecodeDirent(data[last:], bs)
	e.RecLen = len(data) - last
	e.Put(data[last:], bs)
	return nil
}

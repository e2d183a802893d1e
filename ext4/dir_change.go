package ext4

import (
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A dirent is an entry that a directory is to get.
type dirent struct {
	name string
	ino  disk.Ino
	kind disk.FileType
}

// size is the room that the entry takes. Directories whose entries carry their hashes
// get none: they are encrypted.
func (e *dirent) size() int { return disk.DirentSize(len(e.name), false) }

// putDirent writes e into the free space at b[off:], or behind the entry there. b
// is a part of a block of the directory.
func (dir *Inode) putDirent(b []byte, off int, e *dirent) {
	bs := dir.fs.sb.BlockSize()
	at := disk.DecodeDirent(b[off:], bs)
	room := at.RecLen
	if at.Ino != 0 {
		at.RecLen = disk.DirentSize(at.NameLen, dir.hashInDirent())
		at.Put(b[off:], bs)
		off, room = off+at.RecLen, room-at.RecLen
	}
	d := disk.Dirent{Ino: e.ino, RecLen: room, NameLen: len(e.name)}
	if dir.fs.sb.Incompat.Has(disk.IncompatFiletype) {
		d.Type = e.kind
	}
	d.Put(b[off:], bs)
	clear(b[off+disk.DirentHeaderSize+copy(b[off+disk.DirentHeaderSize:], e.name) : off+e.size()])
}

// roomFor returns where in data, entries of block phys, an entry of n bytes
// fits: free space, or an entry that has as much behind its name.
func (dir *Inode) roomFor(data []byte, phys disk.PBlock, n int) (off int, ok bool, err error) {
	bs, hashed := dir.fs.sb.BlockSize(), dir.hashInDirent()
	for off < len(data) {
		e := disk.Dirent{}
		if len(data)-off >= disk.DirentHeaderSize {
			e = disk.DecodeDirent(data[off:], bs)
		}
		if !dir.fs.goodDirent(e, len(data)-off) {
			if err := disk.CheckDirent(&dir.fs.sb, dir.ino, data, phys, off); err != nil {
				return 0, false, err
			}
		}
		room := e.RecLen
		if e.Ino != 0 {
			room -= disk.DirentSize(e.NameLen, hashed)
		}
		if room >= n {
			return off, true, nil
		}
		off += e.RecLen
	}
	return 0, false, nil
}

// addEntry gives directory dir an entry, of a name that it does not have
// (ext4_add_entry).
// free is what [Inode.find] has said of the name.
func (h *Handle) addEntry(dir *Inode, free direntPlace, e *dirent) error {
	if dir.HasInlineData() {
		if ok, err := h.addInline(dir, e); ok || err != nil {
			return err
		}
		if err := h.growOut(dir); err != nil {
			return err
		}
	} else if _, err := dir.dotDot(); err != nil {
		return err // an entry .. without an inode would be room for another name
	}
	h.dirChanged(dir)
	if dir.disk.Flags.Has(disk.FlagIndex) {
		if free.leaf {
			if ok, err := h.addToBlock(dir, free.block, e); ok || err != nil {
				return err
			}
		}
		err := h.addIndexed(dir, e)
		if err != errBadIndex || h.fs.sb.MetadataCsum() {
			return err
		}
		dir.dropIndex()
		return h.addLinear(dir, e, false)
	}
	return h.addLinear(dir, e, h.fs.sb.Compat.Has(disk.CompatDirIndex))
}

// dirChanged dates a change of directory dir. Without the feature nobody
// keeps an index up to date, and the flag goes (ext4_update_dx_flag).
func (h *Handle) dirChanged(dir *Inode) {
	dir.touch(true)
	if !h.fs.sb.Compat.Has(disk.CompatDirIndex) && !h.fs.sb.MetadataCsum() {
		dir.dropIndex()
	}
}

// dropIndex gives up the directory's index: its nodes are free space as well.
func (dir *Inode) dropIndex() {
	dir.disk.Flags &^= disk.FlagIndex
	dir.hashKnown.Store(0)
}

// addLinear adds an entry where there is room, or in a new block. With index,
// a directory of one block that is full gets an index.
func (h *Handle) addLinear(dir *Inode, e *dirent, index bool) error {
	blocks := uint64(dir.Size()) >> h.fs.sb.BlockBits()
	for b := disk.LBlock(0); uint64(b) < blocks; b++ {
		m, err := dir.mapOnce(b)
		if err != nil {
			return err
		}
		if m.State == MapHole { // e2fsck fills these, the kernel uses them
			return h.addToHole(dir, b, e)
		}
		if ok, err := h.addToBlock(dir, b, e); ok || err != nil {
			return err
		}
	}
	if blocks == 1 && index {
		if err := h.makeIndex(dir); err != nil {
			return err
		}
		return h.addIndexed(dir, e)
	}
	b, err := h.appendBlock(dir)
	if err != nil {
		return err
	}
	_, err = h.addToBlock(dir, b, e)
	return err
}

// addToBlock adds an entry to block b, if there is room.
func (h *Handle) addToBlock(dir *Inode, b disk.LBlock, e *dirent) (ok bool, err error) {
	data, phys, err := dir.dirBlock(b)
	if err != nil {
		return false, err
	}
	off, ok, err := dir.roomFor(data, phys, e.size())
	if !ok || err != nil {
		return false, err
	}
	if data, err = h.edit(kindDir, dir, phys); err != nil {
		return false, err
	}
	dir.putDirent(data, off, e)
	return true, nil
}

func (h *Handle) addToHole(dir *Inode, b disk.LBlock, e *dirent) error {
	if err := h.newDirBlock(dir, b); err != nil {
		return err
	}
	_, err := h.addToBlock(dir, b, e)
	return err
}

// appendBlock gives the directory one more block, of free space (ext4_append).
func (h *Handle) appendBlock(dir *Inode) (disk.LBlock, error) {
	bits := h.fs.sb.BlockBits()
	b := uint64(dir.Size()) >> bits
	most := uint64(1<<32) - 1
	if h.fs.sb.Incompat.Has(disk.IncompatLargedir) {
		most = min(dir.maxSize(), maxDxBlocks<<bits)
	}
	if (b+1)<<bits > most {
		return 0, fmt.Errorf("directory %d: %d bytes are as many as it can have: %w", dir.ino, b<<bits, unix.ENOSPC)
	}
	if err := h.newDirBlock(dir, disk.LBlock(b)); err != nil {
		return 0, err
	}
	dir.disk.Size = (b + 1) << bits
	return disk.LBlock(b), nil
}

// newDirBlock maps block b of the directory, a hole, to a block of free space.
func (h *Handle) newDirBlock(dir *Inode, b disk.LBlock) error {
	r, err := h.mapHole(dir, b, 1, false)
	if err != nil {
		return err
	}
	dir.emptyBlock(h.fresh(kindDir, dir, r.first))
	return nil
}

// emptyBlock makes data a directory block of free space.
func (dir *Inode) emptyBlock(data []byte) {
	room := len(data)
	if dir.fs.sb.MetadataCsum() {
		room -= disk.DirTailSize
		disk.PutDirTail(data, dir.seed)
	}
	disk.Dirent{RecLen: room}.Put(data, len(data))
}

// makeDirectory fills a new inode as an empty directory in parent
// (ext4_init_new_dir).
func (h *Handle) makeDirectory(dir *Inode, parent disk.Ino) error {
	dir.disk.Links = 2
	if ok, err := h.makeInlineDir(dir, parent); ok || err != nil {
		return err
	}
	b, err := h.appendBlock(dir)
	if err != nil {
		return err
	}
	return h.addDots(dir, b, parent)
}

// addDots puts "." and ".." into block b, which is empty.
func (h *Handle) addDots(dir *Inode, b disk.LBlock, parent disk.Ino) error {
	for _, e := range []dirent{{".", dir.ino, disk.TypeDir}, {"..", parent, disk.TypeDir}} {
		if ok, err := h.addToBlock(dir, b, &e); !ok || err != nil {
			return err
		}
	}
	return nil
}

// editDirBlock returns the bytes of block b of the directory, to be changed.
func (h *Handle) editDirBlock(k kind, dir *Inode, b disk.LBlock) ([]byte, error) {
	phys, err := dir.dirPhysical(b)
	if err != nil {
		return nil, err
	}
	return h.edit(k, dir, phys)
}

// editEntries returns the bytes that p.off counts in, to be changed, and which
// of them are entries: those of p's block, or of its part of an inline directory.
func (h *Handle) editEntries(dir *Inode, p direntPlace) (part []byte, off int, err error) {
	if dir.HasInlineData() {
		parts, err := dir.inlineParts()
		if err != nil {
			return nil, 0, err
		}
		if p.off < len(parts[0]) {
			return parts[0][inlineDirHead:], p.off - inlineDirHead, nil
		}
		return parts[1], p.off - len(parts[0]), nil
	}
	k := kindDir
	if p.block == 0 && dir.disk.Flags.Has(disk.FlagIndex) {
		k = kindDxRoot
	}
	data, err := h.editDirBlock(k, dir, p.block)
	if err != nil {
		return nil, 0, err
	}
	if k == kindDir {
		data, _ = disk.DirTail(data)
	}
	return data, p.off, nil
}

// removeEntry takes an entry out of the directory: its room goes to the entry
// before it (ext4_generic_delete_entry).
func (h *Handle) removeEntry(dir *Inode, p direntPlace) error {
	b, off, err := h.editEntries(dir, p)
	if err != nil {
		return err
	}
	bs := dir.fs.sb.BlockSize()
	gone := disk.DecodeDirent(b[off:], bs)
	for at := 0; at < off; {
		e := disk.DecodeDirent(b[at:], bs)
		if at+e.RecLen == off {
			e.RecLen += gone.RecLen
			e.Put(b[at:], bs)
			clear(b[off : off+gone.RecLen])
			break
		}
		at += e.RecLen
	}
	if off == 0 {
		clear(b[disk.DirentHeaderSize:gone.RecLen])
		disk.Dirent{RecLen: gone.RecLen}.Put(b, bs)
	}
	h.dirChanged(dir)
	return nil
}

// setEntry makes an entry name another inode (ext4_setent).
func (h *Handle) setEntry(dir *Inode, p direntPlace, ino disk.Ino, kind disk.FileType) error {
	if err := h.setEntryIno(dir, p, ino, kind); err != nil {
		return err
	}
	h.dirChanged(dir)
	return nil
}

func (h *Handle) setEntryIno(dir *Inode, p direntPlace, ino disk.Ino, kind disk.FileType) error {
	b, off, err := h.editEntries(dir, p)
	if err != nil {
		return err
	}
	e := disk.DecodeDirent(b[off:], dir.fs.sb.BlockSize())
	if e.Ino = ino; dir.fs.sb.Incompat.Has(disk.IncompatFiletype) {
		e.Type = kind
	}
	e.Put(b[off:], dir.fs.sb.BlockSize())
	return nil
}

// setParent makes ".." of directory dir name another inode.
func (h *Handle) setParent(dir *Inode, parent disk.Ino) error {
	if dir.HasInlineData() {
		dir.putInlineParent(parent)
		return nil
	}
	p, err := dir.dotDot()
	if err != nil {
		return err
	}
	return h.setEntryIno(dir, p, parent, p.kind)
}

// dotDot returns the entry ".." of a directory that is not inline: the second
// of block 0.
func (dir *Inode) dotDot() (p direntPlace, err error) {
	n := 0
	err = dir.blockEntries(0, func(e disk.Dirent, name, _ []byte, off int) bool {
		if n++; n == 2 && string(name) == ".." {
			p = direntPlace{ino: e.Ino, kind: e.Type, off: off}
		}
		return n < 2
	})
	if err == nil && p.ino == 0 {
		err = &disk.CorruptError{Struct: "directory", Num: uint64(dir.ino), Block: dir.block, Off: dir.off,
			Field: "entry ..", Have: "missing", Want: "the second entry of block 0"}
	}
	return p, err
}

// isEmpty reports whether the directory has no entries but "." and ".."
// (ext4_empty_dir).
func (dir *Inode) isEmpty() (bool, error) {
	empty := true
	each := func(_ disk.Dirent, name, _ []byte, _ int) bool {
		empty = disk.IsDot(name)
		return empty
	}
	if dir.HasInlineData() {
		err := dir.inlineEntries(each)
		return empty, err
	}
	blocks := uint64(dir.Size()) >> dir.fs.sb.BlockBits()
	for b := uint64(0); b < blocks && empty; b++ {
		m, err := dir.mapOnce(disk.LBlock(b))
		if err == nil && m.State == MapHole {
			b = m.End() - 1
			continue
		}
		if err == nil {
			err = dir.blockEntries(disk.LBlock(b), each)
		}
		if err != nil {
			return false, err
		}
	}
	return empty, nil
}

// maxDxBlocks is how many blocks an index can tell apart: its entries hold 28
// bits of block numbers.
const maxDxBlocks = 1 << 28

// badIndex is the error of an index that cannot be used, where the directory
// cannot do without.
func (dir *Inode) badIndex(err error) error {
	if errors.Is(err, disk.ErrCorrupt) && !dir.fs.sb.MetadataCsum() {
		return errBadIndex
	}
	return err
}

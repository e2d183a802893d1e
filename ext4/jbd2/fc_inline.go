package jbd2

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// An inline directory has no blocks: i_block holds the number of its parent,
// and entries; more of them may stand in the xattr system.data, in the inode's
// own space. "." and ".." have no entries.

const (
	inlineEntriesAt = 4
	inlineXattr     = "data"
)

// inlineAreas returns the places of n that hold entries, to be changed there.
func (fs *fcFS) inlineAreas(n *fcInode) ([][]byte, error) {
	areas := [][]byte{n.in.Block[inlineEntriesAt:]}
	p, ok := disk.XattrIbodyPlace(n.ino, n.raw, n.blk, n.off)
	if !ok {
		return areas, nil
	}
	xattrs, err := p.Xattrs()
	if err != nil {
		return nil, err
	}
	for _, x := range xattrs {
		if x.Index == disk.XattrSystem && string(x.Name) == inlineXattr && len(x.Value) > 0 {
			areas = append(areas, x.Value)
		}
	}
	return areas, nil
}

func (fs *fcFS) inlineEntries(n *fcInode, fn func(off int, e disk.Dirent, name []byte) bool) error {
	areas, err := fs.inlineAreas(n)
	if err != nil {
		return err
	}
	for _, a := range areas {
		if err := fs.entries(n.ino, a, n.blk, fn); err != nil {
			return err
		}
	}
	return nil
}

// insertInline puts an entry into n if there is room in what it has.
func (fs *fcFS) insertInline(n *fcInode, name string, child *fcInode) (bool, error) {
	areas, err := fs.inlineAreas(n)
	if err != nil {
		return false, err
	}
	for _, a := range areas {
		if done, err := fs.insert(n.ino, a, n.blk, name, child); done || err != nil {
			n.dirty = n.dirty || done
			return done, err
		}
	}
	return false, nil
}

func (fs *fcFS) removeInline(n *fcInode, name string, ino disk.Ino) error {
	areas, err := fs.inlineAreas(n)
	if err != nil {
		return err
	}
	for _, a := range areas {
		if done, err := fs.remove(n.ino, a, n.blk, name, ino); done || err != nil {
			n.dirty = true
			return err
		}
	}
	return nil
}

// spill moves the entries of an inline directory into a block
// (ext4_convert_inline_data).
func (fs *fcFS) spill(d *fcDir) error {
	n := d.n
	type entry struct {
		e    disk.Dirent
		name string
	}
	var all []entry
	err := fs.inlineEntries(n, func(_ int, e disk.Dirent, name []byte) bool {
		if e.Ino != 0 {
			all = append(all, entry{e, string(name)})
		}
		return true
	})
	if err != nil {
		return err
	}
	parent := &fcInode{ino: disk.Ino(binary.LittleEndian.Uint32(n.in.Block[:])), in: disk.Inode{Mode: disk.ModeDir}}
	if err := n.dropIbodyXattr(disk.XattrSystem, inlineXattr); err != nil {
		return err
	}
	n.in.Flags &^= disk.FlagInlineData
	n.kind = kindIndirect
	if fs.sb.Incompat.Has(disk.IncompatExtents) {
		n.in.Flags |= disk.FlagExtents
		n.kind = kindExtents
	}
	n.in.Size = 0
	clear(n.in.Block[:])
	n.fcMap, n.mapped, n.dirty = fcMap{changed: true}, true, true
	l, b, err := fs.appendBlock(d)
	if err != nil {
		return err
	}
	fs.putDots(b, n, parent)
	for _, x := range all {
		child := &fcInode{ino: x.e.Ino, in: disk.Inode{Mode: x.e.Type.Mode()}}
		done, err := fs.insert(n.ino, fs.area(b), n.blk, x.name, child)
		if err != nil {
			return err
		}
		if !done {
			fs.sumDir(d, b)
			if l, b, err = fs.appendBlock(d); err != nil {
				return err
			}
			fs.put(b, len(fs.area(b)), x.name, child)
		}
		if _, ok := d.known[x.name]; ok {
			d.where[x.name] = l
		}
	}
	fs.sumDir(d, b)
	return nil
}

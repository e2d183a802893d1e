package jbd2

import (
	"slices"

	"e4go/ext4/disk"
)

// dropXattrs gives up what the xattrs of n hold outside of the inode: its share
// of an xattr block, and EA inodes (ext4_xattr_delete_inode).
func (fs *fcFS) dropXattrs(n *fcInode) error {
	if p, ok := disk.XattrIbodyPlace(n.ino, n.raw, n.blk, n.off); ok {
		if err := fs.dropEAInodes(p); err != nil {
			return err
		}
	}
	blk := n.in.FileACL
	if blk == 0 {
		return nil
	}
	if !fs.sb.ValidRange(blk, 1) {
		return nil // release and replayInode take the pointer away
	}
	b, err := fs.read(blk)
	if err != nil {
		return err
	}
	if err := disk.CheckXattrBlock(&fs.sb, n.ino, b, blk); err != nil {
		return err
	}
	h := disk.DecodeXattrHeader(b)
	if h.Refcount <= 1 {
		fs.freed = append(fs.freed, Extent{Start: blk, Len: 1})
		return fs.dropEAInodes(disk.XattrBlockPlace(n.ino, b, blk))
	}
	if b, err = fs.edit(blk); err != nil {
		return err
	}
	h.Refcount--
	h.Put(b)
	if fs.sb.MetadataCsum() {
		h.Checksum = disk.XattrBlockChecksum(fs.seed, blk, b)
		h.Put(b)
	}
	return nil
}

// dropEAInodes takes one reference from each EA inode that an xattr of p has
// its value in. The count is kept in i_ctime and the low half of i_version
// (ext4_xattr_inode_get_ref).
func (fs *fcFS) dropEAInodes(p disk.XattrPlace) error {
	xattrs, err := p.Xattrs()
	if err != nil {
		return err
	}
	for _, x := range xattrs {
		if x.ValueIno == 0 {
			continue
		}
		ea, err := fs.lookup(x.ValueIno)
		if err != nil {
			return err
		}
		if ea == nil || !ea.in.Flags.Has(disk.FlagEAInode) {
			continue
		}
		refs := uint64(uint32(ea.in.Ctime.Sec))<<32 | ea.in.Version&(1<<32-1)
		if refs > 0 {
			refs--
		}
		ea.in.Ctime.Sec = int64(refs >> 32)
		ea.in.Version = ea.in.Version&^(1<<32-1) | refs&(1<<32-1)
		ea.doomed, ea.dirty = refs == 0, true
	}
	return nil
}

// dropIbodyXattr removes the xattr of that index and name from the inode's own
// space, and packs what is left.
func (n *fcInode) dropIbodyXattr(index disk.XattrIndex, name string) error {
	p, ok := disk.XattrIbodyPlace(n.ino, n.raw, n.blk, n.off)
	if !ok {
		return nil
	}
	xattrs, err := p.Xattrs()
	if err != nil {
		return err
	}
	old := slices.Clone(p.Bytes)
	clear(p.Bytes[p.Entries:])
	at, end := p.Entries, len(p.Bytes)
	for _, x := range xattrs {
		if x.Index == index && string(x.Name) == name {
			continue
		}
		e := x.XattrEntry
		if e.ValueIno == 0 && e.ValueSize > 0 {
			from := p.Base + int(e.ValueOffset)
			room := (int(e.ValueSize) + 3) &^ 3
			end -= room
			copy(p.Bytes[end:], old[from:from+int(e.ValueSize)])
			e.ValueOffset = uint16(end - p.Base)
		}
		e.Put(p.Bytes[at:])
		copy(p.Bytes[at+disk.XattrEntrySize:], old[x.Off+disk.XattrEntrySize:][:e.NameLen])
		at += disk.XattrEntryLen(int(e.NameLen))
	}
	return nil
}

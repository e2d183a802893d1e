package disk

import (
	"bytes"
	"cmp"
)

// CompareXattrs puts xattrs in the order in which a block holds them: by
// namespace, length of the name, name (ext4_xattr_find_entry).
func CompareXattrs(a, b Xattr) int {
	return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(len(a.Name), len(b.Name)), bytes.Compare(a.Name, b.Name))
}

// XattrValueLen is the room that a value of n bytes takes.
func XattrValueLen(n int) int { return (n + 3) &^ 3 }

// XattrRoom is how many bytes a list takes in a block or an inode behind what
// begins it: entries, the four zero bytes that end them, and values.
func XattrRoom(list []Xattr) int {
	n := 4
	for _, x := range list {
		n += XattrEntryLen(len(x.Name))
		if x.ValueIno == 0 {
			n += XattrValueLen(len(x.Value))
		}
	}
	return n
}

// Put writes the list in place of the entries and values that are there: the
// inverse of [XattrPlace.Xattrs]. It panics if the list takes more room than
// the place has. Of an entry, the length of its name, the size of its value and where
// that stands follow from Name and Value; the size of one in an EA inode does not.
// What lies before the first entry stays as it is.
func (p XattrPlace) Put(list []Xattr) {
	out := make([]byte, len(p.Bytes)) // what list holds may be parts of p.Bytes
	at, end := p.Entries, len(out)
	if XattrRoom(list) > end-at {
		panic("disk: xattrs that do not fit")
	}
	for _, x := range list {
		e := x.XattrEntry
		e.NameLen, e.ValueOffset = uint8(len(x.Name)), 0
		if x.ValueIno == 0 {
			e.ValueSize = uint32(len(x.Value))
			if len(x.Value) > 0 {
				end -= XattrValueLen(len(x.Value))
				copy(out[end:], x.Value)
				e.ValueOffset = uint16(end - p.Base)
			}
		}
		e.Put(out[at:])
		copy(out[at+XattrEntrySize:], x.Name)
		at += XattrEntryLen(len(x.Name))
	}
	copy(p.Bytes[p.Entries:], out[p.Entries:])
}

// XattrBlockHash is h_hash of a block that holds the list, in its order: of
// the hashes of the entries, or 0 if one of them has none (ext4_xattr_rehash).
// Such a block is not shared.
func XattrBlockHash(list []Xattr) uint32 {
	var h uint32
	for _, x := range list {
		if x.Hash == 0 {
			return 0
		}
		h = h<<valueHashShift ^ h>>(32-valueHashShift) ^ x.Hash
	}
	return h
}

// XattrIbodyRoom is the place in the inode raw where xattrs can stand, whether
// or not there are any; ok is false if it has no room for them.
func XattrIbodyRoom(owner Ino, raw []byte, blk PBlock, off int) (p XattrPlace, ok bool) {
	if len(raw) < GoodOldInodeSize+extraIsizeFull {
		return XattrPlace{}, false
	}
	extra := int(le.Uint16(raw[0x80:0x82]))
	at := GoodOldInodeSize + extra
	if extra == 0 || extra%4 != 0 || at+XattrIbodyHdrSize > len(raw) {
		return XattrPlace{}, false
	}
	return XattrPlace{Owner: owner, Bytes: raw[at:], Entries: XattrIbodyHdrSize, Base: XattrIbodyHdrSize, Block: blk, Off: off + at}, true
}

// PutXattrMagic writes what begins the xattrs in an inode, or, if there are
// none, zeros.
func PutXattrMagic(b []byte, any bool) {
	magic := uint32(0)
	if any {
		magic = XattrMagic
	}
	le.PutUint32(b, magic)
}

package mkfs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"e4go/ext4/disk"
)

// An xattr is an extended attribute in the form in which it is stored.
type xattr struct {
	index disk.XattrIndex
	name  string // without the prefix
	value []byte
	ea    *eaInode // what holds the value, if it is large
}

// xattrs is a set that one or more inodes have.
type xattrs struct {
	list []xattr // as blocks want them: by index, length of name, name
}

// An eaInode holds a large value, for all xattrs that have it.
type eaInode struct {
	ino   disk.Ino
	value []byte
	refs  uint64
}

// xattrPrefixes are the name spaces that ext4 has, the longer before those they begin with.
var xattrPrefixes = []struct {
	prefix string
	index  disk.XattrIndex
	whole  bool // the prefix is the whole name
}{
	{"system.posix_acl_access", disk.XattrACLAccess, true},
	{"system.posix_acl_default", disk.XattrACLDefault, true},
	{"user.", disk.XattrUser, false},
	{"trusted.", disk.XattrTrusted, false},
	{"security.", disk.XattrSecurity, false},
	{"gnu.", disk.XattrHurd, false},
}

// newXattrs puts a set into the form in which it is stored. ACLs come as
// getxattr(2) gives them.
func newXattrs(list []Xattr) (*xattrs, error) {
	x := &xattrs{}
	for _, a := range list {
		e := xattr{value: a.Value}
		ok := false
		for _, p := range xattrPrefixes {
			if rest, found := strings.CutPrefix(a.Name, p.prefix); found && (rest == "") == p.whole {
				e.index, e.name, ok = p.index, rest, true
				break
			}
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("extended attribute %s: ext4 has no such name space", a.Name)
		case len(e.name) > disk.MaxNameLen:
			return nil, fmt.Errorf("extended attribute %s: the name has %d bytes, at most %d are allowed", a.Name, len(e.name), disk.MaxNameLen)
		case strings.Contains(e.name, "\x00"):
			return nil, fmt.Errorf("extended attribute %q: the name has a NUL", a.Name)
		case len(a.Value) > maxXattrValue:
			return nil, fmt.Errorf("extended attribute %s: it has %d bytes, at most %d are allowed", a.Name, len(a.Value), maxXattrValue)
		case e.index == disk.XattrACLAccess || e.index == disk.XattrACLDefault:
			acl, err := decodeACL(a.Value)
			if err != nil {
				return nil, fmt.Errorf("extended attribute %s: %w", a.Name, err)
			}
			if len(acl) == 0 {
				continue // none
			}
			e.value = disk.EncodeACL(acl)
		}
		x.list = append(x.list, e)
	}
	slices.SortFunc(x.list, func(a, b xattr) int { return compareXattrs(&a, &b) })
	for i := 1; i < len(x.list); i++ {
		if compareXattrs(&x.list[i-1], &x.list[i]) == 0 {
			return nil, fmt.Errorf("extended attribute %s%s is there twice", x.list[i].index.Prefix(), x.list[i].name)
		}
	}
	return x, nil
}

// maxXattrValue is XATTR_SIZE_MAX: the kernel gives nobody a longer value.
const maxXattrValue = 65536

// decodeACL decodes an ACL that the kernel would set.
func decodeACL(wire []byte) ([]disk.ACLEntry, error) {
	acl, err := disk.DecodeWireACL(wire)
	if err == nil {
		err = disk.CheckACL(acl)
	}
	return acl, err
}

// key is the same for equal sets alone.
func (x *xattrs) key() string {
	var b []byte
	for _, e := range x.list {
		b = append(b, byte(e.index))
		b = binary.AppendUvarint(b, uint64(len(e.name)))
		b = append(b, e.name...)
		b = binary.AppendUvarint(b, uint64(len(e.value)))
		b = append(b, e.value...)
	}
	return string(b)
}

// room is how many bytes the entries and values take, with what ends the list.
func xattrRoom(list []xattr) int {
	n := 4
	for _, e := range list {
		n += disk.XattrEntryLen(len(e.name))
		if e.ea == nil {
			n += (len(e.value) + 3) &^ 3
		}
	}
	return n
}

// divide finds room for xattrs of which there are too many for a block: large values in
// inodes of their own, whose ea is toLarge, and what fits in the inode itself.
func (v *volume) divide(list []xattr) (block, body []xattr, err error) {
	list = slices.Clone(list)
	if v.sb.Incompat.Has(disk.IncompatEAInode) {
		for xattrRoom(list) > v.blockRoom() {
			big := -1
			for i := range list {
				if list[i].ea == nil && len(list[i].value) > disk.XattrEntrySize && (big < 0 || len(list[i].value) > len(list[big].value)) {
					big = i
				}
			}
			if big < 0 {
				break
			}
			list[big].ea = toLarge
		}
	}
	for i := 0; i < len(list) && xattrRoom(list) > v.blockRoom(); {
		if xattrRoom(append(body[:len(body):len(body)], list[i])) <= v.ibodyRoom() {
			body = append(body, list[i])
			list = append(list[:i:i], list[i+1:]...)
			continue
		}
		i++
	}
	if room := xattrRoom(list); room > v.blockRoom() {
		hint := "use larger blocks, as -b 4096"
		if v.sb.BlockSize() >= maxFitBlock {
			hint = "add -O ea_inode, or give -E no_copy_xattrs to leave them out"
			if v.sb.Incompat.Has(disk.IncompatEAInode) {
				hint = "give -E no_copy_xattrs to leave them out"
			}
		}
		return nil, nil, usage(hint, "its extended attributes take %d bytes, a block of %d has %d for them", room, v.sb.BlockSize(), v.blockRoom())
	}
	return list, body, nil
}

// toLarge is what holds a value that has no inode yet.
var toLarge = &eaInode{}

// putXattrs writes entries from b[at:] on and values from the end of b
// backwards; offsets of values count from b[base:].
func (v *volume) putXattrs(b []byte, at, base int, list []xattr) {
	end := len(b)
	for _, e := range list {
		d := disk.XattrEntry{NameLen: uint8(len(e.name)), Index: e.index, ValueSize: uint32(len(e.value))}
		switch {
		case e.ea != nil:
			d.ValueIno = e.ea.ino
			d.Hash = disk.XattrInodeEntryHash([]byte(e.name), disk.EAInodeHash(v.sb.Seed(), e.value), false)
		case len(e.value) > 0:
			end -= (len(e.value) + 3) &^ 3
			copy(b[end:], e.value)
			d.ValueOffset = uint16(end - base)
			d.Hash = disk.XattrEntryHash([]byte(e.name), e.value, false)
		default:
			d.Hash = disk.XattrEntryHash([]byte(e.name), nil, false)
		}
		d.Put(b[at:])
		copy(b[at+disk.XattrEntrySize:], e.name)
		at += disk.XattrEntryLen(len(e.name))
	}
}

// ibodyRoom is how many bytes an inode has for xattrs, without the magic
// number that begins them.
func (v *volume) ibodyRoom() int {
	if v.sb.InodeSize == disk.GoodOldInodeSize {
		return 0
	}
	return int(v.sb.InodeSize) - disk.GoodOldInodeSize - extraIsize - disk.XattrIbodyHdrSize
}

// blockRoom is how many bytes a block has for xattrs.
func (v *volume) blockRoom() int { return v.sb.BlockSize() - disk.XattrHeaderSize }

// blockHash is h_hash of a block with the set (ext4_xattr_rehash).
func (v *volume) blockHash(b []byte, n int) uint32 {
	var hash uint32
	at := disk.XattrHeaderSize
	for range n {
		e := disk.DecodeXattrEntry(b[at:])
		if e.Hash == 0 {
			return 0
		}
		hash = hash<<16 ^ hash>>16 ^ e.Hash
		at += disk.XattrEntryLen(int(e.NameLen))
	}
	return hash
}

// writeXattrBlock writes a block that inodes share.
func (v *volume) writeXattrBlock(x *sharedXattrs) error {
	b := make([]byte, v.sb.BlockSize())
	v.putXattrs(b, disk.XattrHeaderSize, 0, x.list)
	h := disk.XattrHeader{Magic: disk.XattrMagic, Refcount: x.refs, Blocks: 1, Hash: v.blockHash(b, len(x.list))}
	h.Put(b)
	if v.sb.MetadataCsum() {
		h.Checksum = disk.XattrBlockChecksum(v.sb.Seed(), x.block, b)
		h.Put(b)
	}
	return v.writeBlock(x.block, b)
}

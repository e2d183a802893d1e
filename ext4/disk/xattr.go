package disk

import "fmt"

const (
	XattrMagic        = 0xEA020000 // EXT4_XATTR_MAGIC
	XattrHeaderSize   = 32         // in a block
	XattrIbodyHdrSize = 4          // in the inode, behind i_extra_isize
	XattrEntrySize    = 16         // without the name
	XattrMaxRefcount  = 1024       // EXT4_XATTR_REFCOUNT_MAX
	MaxXattrValue     = 1 << 24    // EXT4_XATTR_SIZE_MAX
	xattrBlockCsumAt  = 0x10
	nameHashShift     = 5
	valueHashShift    = 16
	InlineDataName    = "data" // with XattrSystem: the part of inline data behind i_block
)

// XattrIndex is e_name_index: the namespace that an xattr's stored name misses.
type XattrIndex uint8

const (
	XattrUser       XattrIndex = 1
	XattrACLAccess  XattrIndex = 2
	XattrACLDefault XattrIndex = 3
	XattrTrusted    XattrIndex = 4
	XattrLustre     XattrIndex = 5
	XattrSecurity   XattrIndex = 6
	XattrSystem     XattrIndex = 7
	XattrRichACL    XattrIndex = 8
	XattrEncryption XattrIndex = 9
	XattrHurd       XattrIndex = 10
	XattrVerity     XattrIndex = 11
)

// Prefix is what the kernel puts before the stored name. The two ACLs have no
// stored name: their prefix is all of it. Namespaces that the kernel does not
// show have a prefix of ours, which no system call takes.
func (x XattrIndex) Prefix() string {
	switch x {
	case XattrUser:
		return "user."
	case XattrACLAccess:
		return "system.posix_acl_access"
	case XattrACLDefault:
		return "system.posix_acl_default"
	case XattrTrusted:
		return "trusted."
	case XattrLustre:
		return "lustre."
	case XattrSecurity:
		return "security."
	case XattrSystem:
		return "system."
	case XattrRichACL:
		return "system.richacl"
	case XattrEncryption:
		return "encryption."
	case XattrHurd:
		return "gnu."
	case XattrVerity:
		return "verity."
	}
	return fmt.Sprintf("index%d.", x)
}

// Shown reports whether the kernel's listxattr shows names of namespace x: it
// has no handler for the others.
func (x XattrIndex) Shown() bool {
	switch x {
	case XattrUser, XattrACLAccess, XattrACLDefault, XattrTrusted, XattrSecurity, XattrHurd:
		return true
	}
	return false
}

// XattrHeader is struct ext4_xattr_header, at the start of an xattr block.
type XattrHeader struct {
	Magic    uint32 // h_magic
	Refcount uint32 // h_refcount: inodes that share the block
	Blocks   uint32 // h_blocks: 1
	Hash     uint32 // h_hash
	Checksum uint32 // h_checksum
}

// DecodeXattrHeader decodes the header at the start of b.
func DecodeXattrHeader(b []byte) XattrHeader {
	p := (*[XattrHeaderSize]byte)(b)
	return XattrHeader{le.Uint32(p[0:4]), le.Uint32(p[4:8]), le.Uint32(p[8:12]), le.Uint32(p[12:16]), le.Uint32(p[16:20])}
}

// Put writes h into b, the inverse of [DecodeXattrHeader].
func (h XattrHeader) Put(b []byte) {
	p := (*[XattrHeaderSize]byte)(b)
	le.PutUint32(p[0:4], h.Magic)
	le.PutUint32(p[4:8], h.Refcount)
	le.PutUint32(p[8:12], h.Blocks)
	le.PutUint32(p[12:16], h.Hash)
	le.PutUint32(p[16:20], h.Checksum)
}

// XattrEntry is struct ext4_xattr_entry without its name.
type XattrEntry struct {
	NameLen     uint8      // e_name_len
	Index       XattrIndex // e_name_index
	ValueOffset uint16     // e_value_offs: from the start of the block, or of the first entry in an inode
	ValueIno    Ino        // e_value_inum: the EA inode that holds the value, or 0
	ValueSize   uint32     // e_value_size: bytes
	Hash        uint32     // e_hash: of name and value; in an inode, 0 or the hash
}

// DecodeXattrEntry decodes the entry at the start of b.
func DecodeXattrEntry(b []byte) XattrEntry {
	p := (*[XattrEntrySize]byte)(b)
	return XattrEntry{
		NameLen: p[0], Index: XattrIndex(p[1]), ValueOffset: le.Uint16(p[2:4]),
		ValueIno: Ino(le.Uint32(p[4:8])), ValueSize: le.Uint32(p[8:12]), Hash: le.Uint32(p[12:16]),
	}
}

// Put writes e into b, the inverse of [DecodeXattrEntry].
func (e XattrEntry) Put(b []byte) {
	p := (*[XattrEntrySize]byte)(b)
	p[0], p[1] = e.NameLen, byte(e.Index)
	le.PutUint16(p[2:4], e.ValueOffset)
	le.PutUint32(p[4:8], uint32(e.ValueIno))
	le.PutUint32(p[8:12], e.ValueSize)
	le.PutUint32(p[12:16], e.Hash)
}

// XattrEntryLen is the room that an entry with a name of n bytes takes.
func XattrEntryLen(n int) int { return (XattrEntrySize + n + 3) &^ 3 }

// XattrPlace is a list of xattr entries that has been found: the bytes of a
// block, or those of an inode behind i_extra_isize.
type XattrPlace struct {
	Owner   Ino
	Bytes   []byte // from the header to the end of the values
	Entries int    // where the first entry starts in Bytes
	Base    int    // what e_value_offs counts from, in Bytes
	Block   PBlock // where Bytes lie
	Off     int    // and at which byte
}

// XattrBlockPlace is the place of the xattrs in block b.
func XattrBlockPlace(owner Ino, b []byte, blk PBlock) XattrPlace {
	return XattrPlace{Owner: owner, Bytes: b, Entries: XattrHeaderSize, Block: blk}
}

// XattrIbodyPlace is the place of the xattrs in the inode raw; ok is false if
// it has none: no room, or no magic number where they would start.
func XattrIbodyPlace(owner Ino, raw []byte, blk PBlock, off int) (XattrPlace, bool) {
	p, ok := XattrIbodyRoom(owner, raw, blk, off)
	if !ok || le.Uint32(p.Bytes) != XattrMagic {
		return XattrPlace{}, false
	}
	return p, true
}

// An Xattr is one entry with its name and, unless an EA inode holds it, its
// value. The slices are parts of the place's bytes.
type Xattr struct {
	XattrEntry
	Name  []byte // without the prefix
	Value []byte // nil if ValueIno is set
	Off   int    // of the entry in the place's bytes
}

// Xattrs returns the xattrs of place p in the order they are stored. At the
// first entry that breaks a rule it ends with what came before and the rule:
// entries and values must lie within the place, and values behind the entries
// (check_xattrs).
func (p XattrPlace) Xattrs() ([]Xattr, error) {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "xattr of inode", Num: uint64(p.Owner), Block: p.Block, Off: p.Off + at, Field: field, Have: have, Want: want}
	}
	var out []Xattr
	b, at := p.Bytes, p.Entries
	end := at
	for ; ; at = end {
		if at+4 > len(b) {
			return out, bad(at, "e_name_len", "the end of the space", "a list that ends with four zero bytes")
		}
		if le.Uint32(b[at:]) == 0 {
			break
		}
		if at+XattrEntrySize > len(b) {
			return out, bad(at, "e_name_len", "the end of the space", "room for an entry")
		}
		e := DecodeXattrEntry(b[at:])
		end = at + XattrEntryLen(int(e.NameLen))
		if end+4 > len(b) {
			return out, bad(at, "e_name_len", fmt.Sprint(e.NameLen), fmt.Sprintf("at most %d", len(b)-at-XattrEntrySize-4))
		}
		name := b[at+XattrEntrySize:][:e.NameLen]
		for _, c := range name {
			if c == 0 {
				return out, bad(at+XattrEntrySize, "e_name", fmt.Sprintf("%q", name), "a name without NUL")
			}
		}
		out = append(out, Xattr{XattrEntry: e, Name: name, Off: at})
	}
	for i := range out {
		x := &out[i]
		switch {
		case x.ValueIno != 0:
			if x.ValueSize > MaxXattrValue {
				return out[:i], bad(x.Off+8, "e_value_size", fmt.Sprint(x.ValueSize), "at most 16777216")
			}
			continue
		case x.ValueSize == 0:
			x.Value = []byte{}
			continue
		}
		first, room := p.Base+int(x.ValueOffset), uint64(len(b))
		if uint64(x.ValueSize) > room || uint64(first)+uint64(x.ValueSize) > room {
			return out[:i], bad(x.Off+2, "e_value_offs", fmt.Sprintf("%d, size %d", x.ValueOffset, x.ValueSize), fmt.Sprintf("within %d bytes", len(b)-p.Base))
		}
		if first < at+4 {
			return out[:i], bad(x.Off+2, "e_value_offs", fmt.Sprint(x.ValueOffset), fmt.Sprintf("at least %d, the end of the entries", at+4-p.Base))
		}
		x.Value = b[first:][:x.ValueSize]
	}
	return out, nil
}

// XattrBlockChecksum is h_checksum of the xattr block b, which lies in
// physical block blk: crc32c over the block's number and the block, with the
// field taken as zero (ext4_xattr_block_csum).
func XattrBlockChecksum(seed uint32, blk PBlock, b []byte) uint32 {
	var num [8]byte
	le.PutUint64(num[:], uint64(blk))
	crc := crc32c(seed, num[:])
	crc = crc32c(crc, b[:xattrBlockCsumAt])
	crc = crc32c(crc, []byte{0, 0, 0, 0})
	return crc32c(crc, b[xattrBlockCsumAt+4:])
}

// CheckXattrBlock reports the first rule that the header of xattr block b of
// inode owner breaks, or nil.
func CheckXattrBlock(sb *Superblock, owner Ino, b []byte, blk PBlock) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "xattr block of inode", Num: uint64(owner), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	h := DecodeXattrHeader(b)
	if h.Magic != XattrMagic {
		return bad(0, "h_magic", fmt.Sprintf("%#08x", h.Magic), "0xea020000")
	}
	if h.Blocks != 1 {
		return bad(8, "h_blocks", fmt.Sprint(h.Blocks), "1")
	}
	if sum := XattrBlockChecksum(sb.Seed(), blk, b); sb.MetadataCsum() && h.Checksum != sum {
		return bad(xattrBlockCsumAt, "h_checksum", fmt.Sprintf("%#08x", h.Checksum), fmt.Sprintf("%#08x", sum))
	}
	return nil
}

// XattrEntryHash is e_hash for an entry whose value stands beside it, padded
// with zeros to a multiple of four bytes, or in an EA inode, whose own hash
// then stands for it (ext4_xattr_hash_entry). With signed, the bytes of the name are
// taken as signed, as some kernels did.
func XattrEntryHash(name, value []byte, signed bool) uint32 {
	h := xattrNameHash(name, signed)
	for len(value) > 0 {
		var word [4]byte
		value = value[copy(word[:], value):]
		h = h<<valueHashShift ^ h>>(32-valueHashShift) ^ le.Uint32(word[:])
	}
	return h
}

// XattrInodeEntryHash is e_hash for an entry whose value lies in an EA inode
// with hash valueHash.
func XattrInodeEntryHash(name []byte, valueHash uint32, signed bool) uint32 {
	h := xattrNameHash(name, signed)
	return h<<valueHashShift ^ h>>(32-valueHashShift) ^ valueHash
}

func xattrNameHash(name []byte, signed bool) uint32 {
	var h uint32
	for _, c := range name {
		h = h<<nameHashShift ^ h>>(32-nameHashShift) ^ charVal(c, signed)
	}
	return h
}

// EAInodeHash is the hash of the value in an EA inode, which that inode keeps
// in place of its access time.
func EAInodeHash(seed uint32, value []byte) uint32 { return crc32c(seed, value) }

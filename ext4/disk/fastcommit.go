package disk

import "fmt"

// A FastCommitTag says what one record of the fast commit area is
// (fs/ext4/fast_commit.h).
type FastCommitTag uint16

const (
	FCAddRange FastCommitTag = 1 + iota // EXT4_FC_TAG_ADD_RANGE
	FCDelRange                          // EXT4_FC_TAG_DEL_RANGE
	FCCreat                             // EXT4_FC_TAG_CREAT
	FCLink                              // EXT4_FC_TAG_LINK
	FCUnlink                            // EXT4_FC_TAG_UNLINK
	FCInode                             // EXT4_FC_TAG_INODE
	FCPad                               // EXT4_FC_TAG_PAD
	FCTail                              // EXT4_FC_TAG_TAIL
	FCHead                              // EXT4_FC_TAG_HEAD
)

var fcTagNames = [...]string{
	FCAddRange: "ADD_RANGE", FCDelRange: "DEL_RANGE", FCCreat: "CREAT", FCLink: "LINK", FCUnlink: "UNLINK",
	FCInode: "INODE", FCPad: "PAD", FCTail: "TAIL", FCHead: "HEAD",
}

func (t FastCommitTag) String() string {
	if int(t) < len(fcTagNames) && fcTagNames[t] != "" {
		return fcTagNames[t]
	}
	return fmt.Sprintf("tag %#x", uint16(t))
}

// FCTagSize is EXT4_FC_TAG_BASE_LEN: what stands before each value.
const FCTagSize = 4

// FCTL is struct ext4_fc_tl: the kind and length of the value that follows.
// Fast commits, unlike the rest of the journal, are little-endian.
type FCTL struct {
	Tag FastCommitTag // fc_tag
	Len uint16        // fc_len: bytes of the value
}

// DecodeFCTL decodes the record head at the start of b.
func DecodeFCTL(b []byte) FCTL {
	p := (*[FCTagSize]byte)(b)
	return FCTL{Tag: FastCommitTag(le.Uint16(p[0:2])), Len: le.Uint16(p[2:4])}
}

// Put writes t into b, the inverse of [DecodeFCTL].
func (t FCTL) Put(b []byte) {
	p := (*[FCTagSize]byte)(b)
	le.PutUint16(p[0:2], uint16(t.Tag))
	le.PutUint16(p[2:4], t.Len)
}

// FCLenOK reports whether a value of n bytes may follow tag on a file system
// with inodes of inodeSize bytes: ext4_fc_value_len_isvalid.
func FCLenOK(tag FastCommitTag, n, inodeSize int) bool {
	switch tag {
	case FCAddRange:
		return n == FCAddRangeSize
	case FCDelRange:
		return n == FCDelRangeSize
	case FCCreat, FCLink, FCUnlink:
		return n > FCDentrySize && n <= FCDentrySize+255
	case FCInode:
		return n >= FCInodeSize+128 && n <= FCInodeSize+inodeSize
	case FCPad:
		return true
	case FCTail:
		return n >= FCTailSize
	case FCHead:
		return n == FCHeadSize
	}
	return false
}

// FCHeadSize is the size of struct ext4_fc_head.
const FCHeadSize = 8

// FCHeadValue is struct ext4_fc_head, the first record after a full commit.
type FCHeadValue struct {
	Features uint32 // fc_features: none is known
	TID      uint32 // fc_tid: the transaction that these records stand for
}

// DecodeFCHead decodes the value of a HEAD.
func DecodeFCHead(b []byte) FCHeadValue {
	p := (*[FCHeadSize]byte)(b)
	return FCHeadValue{Features: le.Uint32(p[0:4]), TID: le.Uint32(p[4:8])}
}

// Put writes h into b, the inverse of [DecodeFCHead].
func (h FCHeadValue) Put(b []byte) {
	p := (*[FCHeadSize]byte)(b)
	le.PutUint32(p[0:4], h.Features)
	le.PutUint32(p[4:8], h.TID)
}

// FCTailSize is the size of struct ext4_fc_tail; a TAIL's value is longer, as
// it fills its block.
const FCTailSize = 8

// FCTailValue is struct ext4_fc_tail: it makes the records before it valid.
type FCTailValue struct {
	TID uint32 // fc_tid
	CRC uint32 // fc_crc: see [FCChecksum]
}

// DecodeFCTail decodes the value of a TAIL.
func DecodeFCTail(b []byte) FCTailValue {
	p := (*[FCTailSize]byte)(b)
	return FCTailValue{TID: le.Uint32(p[0:4]), CRC: le.Uint32(p[4:8])}
}

// Put writes t into b, the inverse of [DecodeFCTail].
func (t FCTailValue) Put(b []byte) {
	p := (*[FCTailSize]byte)(b)
	le.PutUint32(p[0:4], t.TID)
	le.PutUint32(p[4:8], t.CRC)
}

// FCChecksum adds record b, head and value, to crc. A fast commit's fc_crc
// starts from 0 and covers every record since the last TAIL, and of the TAIL
// itself what stands before fc_crc.
func FCChecksum(crc uint32, b []byte) uint32 {
	if DecodeFCTL(b).Tag == FCTail {
		b = b[:min(len(b), FCTagSize+4)]
	}
	return crc32c(crc, b)
}

// FCAddRangeSize is the size of struct ext4_fc_add_range.
const FCAddRangeSize = 16

// FCAddRangeValue is struct ext4_fc_add_range: the inode maps these blocks.
type FCAddRangeValue struct {
	Ino       Ino    // fc_ino
	Block     LBlock // fc_ex.ee_block
	Len       uint16 // fc_ex.ee_len without its mark
	Unwritten bool   // fc_ex.ee_len's mark
	Start     PBlock // fc_ex.ee_start_{lo,hi}
}

// DecodeFCAddRange decodes the value of an ADD_RANGE.
func DecodeFCAddRange(b []byte) FCAddRangeValue {
	p := (*[FCAddRangeSize]byte)(b)
	v := FCAddRangeValue{
		Ino:   Ino(le.Uint32(p[0x0:0x4])),
		Block: LBlock(le.Uint32(p[0x4:0x8])),
		Len:   le.Uint16(p[0x8:0xa]),
		Start: PBlock(le.Uint16(p[0xa:0xc]))<<32 | PBlock(le.Uint32(p[0xc:0x10])),
	}
	if v.Len > fcMaxInitLen {
		v.Len, v.Unwritten = v.Len-fcMaxInitLen, true
	}
	return v
}

// fcMaxInitLen is EXT_INIT_MAX_LEN: longer means unwritten, by the excess.
const fcMaxInitLen = 1 << 15

// Put writes v into b, the inverse of [DecodeFCAddRange].
func (v FCAddRangeValue) Put(b []byte) {
	p := (*[FCAddRangeSize]byte)(b)
	n := v.Len
	if v.Unwritten {
		n += fcMaxInitLen
	}
	le.PutUint32(p[0x0:0x4], uint32(v.Ino))
	le.PutUint32(p[0x4:0x8], uint32(v.Block))
	le.PutUint16(p[0x8:0xa], n)
	le.PutUint16(p[0xa:0xc], uint16(v.Start>>32))
	le.PutUint32(p[0xc:0x10], uint32(v.Start))
}

// FCDelRangeSize is the size of struct ext4_fc_del_range.
const FCDelRangeSize = 12

// FCDelRangeValue is struct ext4_fc_del_range: the inode has a hole there.
type FCDelRangeValue struct {
	Ino   Ino    // fc_ino
	Block LBlock // fc_lblk
	Len   uint32 // fc_len
}

// DecodeFCDelRange decodes the value of a DEL_RANGE.
func DecodeFCDelRange(b []byte) FCDelRangeValue {
	p := (*[FCDelRangeSize]byte)(b)
	return FCDelRangeValue{
		Ino:   Ino(le.Uint32(p[0x0:0x4])),
		Block: LBlock(le.Uint32(p[0x4:0x8])),
		Len:   le.Uint32(p[0x8:0xc]),
	}
}

// Put writes v into b, the inverse of [DecodeFCDelRange].
func (v FCDelRangeValue) Put(b []byte) {
	p := (*[FCDelRangeSize]byte)(b)
	le.PutUint32(p[0x0:0x4], uint32(v.Ino))
	le.PutUint32(p[0x4:0x8], uint32(v.Block))
	le.PutUint32(p[0x8:0xc], v.Len)
}

// FCDentrySize is the size of struct ext4_fc_dentry_info without the name.
const FCDentrySize = 8

// FCDentryValue is struct ext4_fc_dentry_info, of CREAT, LINK and UNLINK.
type FCDentryValue struct {
	Parent Ino    // fc_parent_ino
	Ino    Ino    // fc_ino
	Name   []byte // fc_dname: to the value's end; shares the decoded bytes
}

// DecodeFCDentry decodes the value b of a CREAT, LINK or UNLINK.
func DecodeFCDentry(b []byte) FCDentryValue {
	p := (*[FCDentrySize]byte)(b)
	return FCDentryValue{
		Parent: Ino(le.Uint32(p[0:4])),
		Ino:    Ino(le.Uint32(p[4:8])),
		Name:   b[FCDentrySize:],
	}
}

// Put writes v into b, the inverse of [DecodeFCDentry].
func (v FCDentryValue) Put(b []byte) {
	p := (*[FCDentrySize]byte)(b)
	le.PutUint32(p[0:4], uint32(v.Parent))
	le.PutUint32(p[4:8], uint32(v.Ino))
	copy(b[FCDentrySize:], v.Name)
}

// FCInodeSize is the size of struct ext4_fc_inode without the inode.
const FCInodeSize = 4

// FCInodeValue is struct ext4_fc_inode: an inode as it was at the commit.
type FCInodeValue struct {
	Ino Ino    // fc_ino
	Raw []byte // fc_raw_inode: 128 bytes at least; shares the decoded bytes
}

// DecodeFCInode decodes the value b of an INODE.
func DecodeFCInode(b []byte) FCInodeValue {
	p := (*[FCInodeSize]byte)(b)
	return FCInodeValue{Ino: Ino(le.Uint32(p[0:4])), Raw: b[FCInodeSize:]}
}

// Put writes v into b, the inverse of [DecodeFCInode].
func (v FCInodeValue) Put(b []byte) {
	p := (*[FCInodeSize]byte)(b)
	le.PutUint32(p[0:4], uint32(v.Ino))
	copy(b[FCInodeSize:], v.Raw)
}

package disk

import "fmt"

// Sizes and magic numbers of quota files (format vfsv1, fs/quota/quotaio_v2.h).
const (
	QuotaBlockSize    = 1024    // V2_DQBLKSIZE: blocks of the tree, whatever the file system's
	QuotaTreeRoot     = 1       // QT_TREEOFF: the block of the root
	QuotaTreeDepth    = 4       // levels of references, eight bits of the id each
	QuotaEntrySize    = 72      // struct v2r1_disk_dqblk
	quotaInfoAt       = 8       // struct v2_disk_dqinfo, behind the header
	quotaLeafHeader   = 16      // struct qt_disk_dqdbheader
	maxQuotaSize      = 1 << 31 // bytes: what e2fsprogs takes
	quotaVersion      = 1       // vfsv1: 64-bit usage
	QuotaLeafEntries  = (QuotaBlockSize - quotaLeafHeader) / QuotaEntrySize
	quotaInfoSize     = 24
	quotaHeaderLength = quotaInfoAt + quotaInfoSize
)

// QuotaType says whose usage a quota file counts.
type QuotaType uint8

const (
	QuotaUser QuotaType = iota
	QuotaGroup
	QuotaProject
	QuotaTypes // how many there are
)

func (t QuotaType) String() string {
	if t < QuotaTypes {
		return [...]string{"user", "group", "project"}[t]
	}
	return fmt.Sprintf("%#x", uint8(t))
}

// magic is what a quota file of type t begins with (V2_INITQMAGICS).
func (t QuotaType) magic() uint32 { return [...]uint32{0xd9c01f11, 0xd9c01927, 0xd9c03f14}[t] }

// QuotaIno is the inode of the quota file of type t, 0 if there is none.
func (sb *Superblock) QuotaIno(t QuotaType) Ino {
	switch t {
	case QuotaUser:
		return sb.UserQuotaIno
	case QuotaGroup:
		return sb.GroupQuotaIno
	}
	return sb.ProjectQuotaIno
}

// QuotaHeader is the head of a quota file: struct v2_disk_dqheader and, behind
// it, struct v2_disk_dqinfo.
//
//	0x00  | magic  | version| block grace | inode grace |
//	0x10  | flags  | blocks | free block  | free entry  |
type QuotaHeader struct {
	Magic      uint32 // dqh_magic
	Version    uint32 // dqh_version: 1
	BlockGrace uint32 // dqi_bgrace: seconds
	InodeGrace uint32 // dqi_igrace: seconds
	Flags      uint32 // dqi_flags
	Blocks     uint32 // dqi_blocks: of the file, in units of [QuotaBlockSize]
	FreeBlock  uint32 // dqi_free_blk: first of a list
	FreeEntry  uint32 // dqi_free_entry: first leaf with room, of a list
}

// DecodeQuotaHeader decodes the head of the quota file that begins with b.
func DecodeQuotaHeader(b []byte) QuotaHeader {
	p := (*[quotaHeaderLength]byte)(b)
	return QuotaHeader{
		Magic: le.Uint32(p[0x00:0x04]), Version: le.Uint32(p[0x04:0x08]), BlockGrace: le.Uint32(p[0x08:0x0c]), InodeGrace: le.Uint32(p[0x0c:0x10]),
		Flags: le.Uint32(p[0x10:0x14]), Blocks: le.Uint32(p[0x14:0x18]), FreeBlock: le.Uint32(p[0x18:0x1c]), FreeEntry: le.Uint32(p[0x1c:0x20]),
	}
}

// Put writes h into b, the inverse of [DecodeQuotaHeader].
func (h QuotaHeader) Put(b []byte) {
	p := (*[quotaHeaderLength]byte)(b)
	for i, v := range [...]uint32{h.Magic, h.Version, h.BlockGrace, h.InodeGrace, h.Flags, h.Blocks, h.FreeBlock, h.FreeEntry} {
		le.PutUint32(p[4*i:], v)
	}
}

// CheckQuotaHeader reports the first rule that the head of the quota file of
// type t, in inode ino, breaks, or nil (v2_read_header, v2_check_quota_file).
// The file has size bytes; b was read from block blk.
func CheckQuotaHeader(t QuotaType, ino Ino, b []byte, size uint64, blk PBlock) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: t.String() + " quota file, inode", Num: uint64(ino), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	h := DecodeQuotaHeader(b)
	blocks := size / QuotaBlockSize
	switch {
	case h.Magic != t.magic():
		return bad(0, "dqh_magic", fmt.Sprintf("%#08x", h.Magic), fmt.Sprintf("%#08x", t.magic()))
	case h.Version != quotaVersion:
		return bad(4, "dqh_version", fmt.Sprint(h.Version), "1")
	case size > maxQuotaSize:
		return bad(0x14, "i_size", fmt.Sprint(size), fmt.Sprintf("at most %d", maxQuotaSize))
	case uint64(h.Blocks) > blocks:
		return bad(0x14, "dqi_blocks", fmt.Sprint(h.Blocks), fmt.Sprintf("at most %d, the size of the file", blocks))
	case h.FreeBlock != 0 && (h.FreeBlock <= QuotaTreeRoot || h.FreeBlock >= h.Blocks):
		return bad(0x18, "dqi_free_blk", fmt.Sprint(h.FreeBlock), fmt.Sprintf("0 or 2 to %d", int64(h.Blocks)-1))
	case h.FreeEntry != 0 && (h.FreeEntry <= QuotaTreeRoot || h.FreeEntry >= h.Blocks):
		return bad(0x1c, "dqi_free_entry", fmt.Sprint(h.FreeEntry), fmt.Sprintf("0 or 2 to %d", int64(h.Blocks)-1))
	}
	return nil
}

// QuotaRef is reference i of the tree block b, a block of the file or 0.
func QuotaRef(b []byte, i int) uint32 { return le.Uint32(b[4*i:]) }

// PutQuotaRef makes n reference i of the tree block b.
func PutQuotaRef(b []byte, i int, n uint32) { le.PutUint32(b[4*i:], n) }

// QuotaRefs is how many references a tree block has.
const QuotaRefs = QuotaBlockSize / 4

// QuotaEntry is struct v2r1_disk_dqblk: what one id uses and may use.
type QuotaEntry struct {
	ID             uint32 // dqb_id
	InodeHardLimit uint64 // dqb_ihardlimit
	InodeSoftLimit uint64 // dqb_isoftlimit
	Inodes         uint64 // dqb_curinodes
	BlockHardLimit uint64 // dqb_bhardlimit: in units of 1 KiB
	BlockSoftLimit uint64 // dqb_bsoftlimit: likewise
	Space          uint64 // dqb_curspace: bytes
	BlockTime      uint64 // dqb_btime
	InodeTime      uint64 // dqb_itime
}

// DecodeQuotaEntry decodes the entry at the start of b.
func DecodeQuotaEntry(b []byte) QuotaEntry {
	p := (*[QuotaEntrySize]byte)(b)
	return QuotaEntry{
		ID: le.Uint32(p[0x00:0x04]), InodeHardLimit: le.Uint64(p[0x08:0x10]), InodeSoftLimit: le.Uint64(p[0x10:0x18]),
		Inodes: le.Uint64(p[0x18:0x20]), BlockHardLimit: le.Uint64(p[0x20:0x28]), BlockSoftLimit: le.Uint64(p[0x28:0x30]),
		Space: le.Uint64(p[0x30:0x38]), BlockTime: le.Uint64(p[0x38:0x40]), InodeTime: le.Uint64(p[0x40:0x48]),
	}
}

// Put writes e into b, the inverse of [DecodeQuotaEntry].
func (e QuotaEntry) Put(b []byte) {
	p := (*[QuotaEntrySize]byte)(b)
	le.PutUint32(p[0x00:0x04], e.ID)
	for i, v := range [...]uint64{e.InodeHardLimit, e.InodeSoftLimit, e.Inodes, e.BlockHardLimit, e.BlockSoftLimit, e.Space, e.BlockTime, e.InodeTime} {
		le.PutUint64(p[0x08+8*i:], v)
	}
}

// QuotaLeaf calls yield with each entry of leaf block b that is in use, until
// it returns false. An entry of only zeros is free; the id 0 with no usage yet
// has a time of 1 for that (v2_mem2diskdqb).
func QuotaLeaf(b []byte, yield func(QuotaEntry) bool) {
	for i := range QuotaLeafEntries {
		p := b[quotaLeafHeader+i*QuotaEntrySize:][:QuotaEntrySize]
		if !allZero(p) && !yield(DecodeQuotaEntry(p)) {
			return
		}
	}
}

// QuotaLeafHeader is struct qt_disk_dqdbheader, at the start of a leaf block.
// Leaves with room are in a list of both directions, blocks that nobody uses in one of
// the first; 0 ends them.
type QuotaLeafHeader struct {
	NextFree uint32 // dqdh_next_free
	PrevFree uint32 // dqdh_prev_free
	Entries  uint16 // dqdh_entries: in use
}

// DecodeQuotaLeafHeader decodes the header at the start of b.
func DecodeQuotaLeafHeader(b []byte) QuotaLeafHeader {
	p := (*[quotaLeafHeader]byte)(b)
	return QuotaLeafHeader{le.Uint32(p[0:4]), le.Uint32(p[4:8]), le.Uint16(p[8:10])}
}

// Put writes h into b, the inverse of [DecodeQuotaLeafHeader].
func (h QuotaLeafHeader) Put(b []byte) {
	p := (*[quotaLeafHeader]byte)(b)
	le.PutUint32(p[0:4], h.NextFree)
	le.PutUint32(p[4:8], h.PrevFree)
	le.PutUint16(p[8:10], h.Entries)
}

// QuotaLeafFind is where the entry of id starts in leaf block b, or, with
// free, where an unused one does; -1 if there is none.
func QuotaLeafFind(b []byte, id uint32, free bool) int {
	for i := range QuotaLeafEntries {
		at := quotaLeafHeader + i*QuotaEntrySize
		p := b[at:][:QuotaEntrySize]
		if unused := allZero(p); unused == free && (unused || le.Uint32(p) == id) {
			return at
		}
	}
	return -1
}

// KeepQuotaEntry marks the entry in b, which is in use, where it would be all
// zeros (v2r1_mem2diskdqb).
func KeepQuotaEntry(b []byte) {
	if allZero(b[:QuotaEntrySize]) {
		le.PutUint64(b[0x40:], 1)
	}
}

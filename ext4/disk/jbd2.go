package disk

// JournalHeaderSize is the size of struct journal_header_s in bytes.
const JournalHeaderSize = 12

// JournalHeader is struct journal_header_s, the start of every block that jbd2
// writes about a transaction. Like all of the journal it is big-endian.
type JournalHeader struct {
	Magic    uint32           // h_magic: [JournalMagic]
	Type     JournalBlockType // h_blocktype
	Sequence uint32           // h_sequence: the transaction's id
}

// JournalBlockType is h_blocktype.
type JournalBlockType uint32

const (
	JournalDescriptor  JournalBlockType = 1 + iota // JBD2_DESCRIPTOR_BLOCK
	JournalCommit                                  // JBD2_COMMIT_BLOCK
	JournalSuperV1                                 // JBD2_SUPERBLOCK_V1
	JournalSuperV2                                 // JBD2_SUPERBLOCK_V2
	JournalRevokeBlock                             // JBD2_REVOKE_BLOCK
)

// DecodeJournalHeader decodes the header at the start of b.
func DecodeJournalHeader(b []byte) JournalHeader {
	p := (*[JournalHeaderSize]byte)(b)
	return JournalHeader{
		Magic:    be.Uint32(p[0x0:0x4]),
		Type:     JournalBlockType(be.Uint32(p[0x4:0x8])),
		Sequence: be.Uint32(p[0x8:0xc]),
	}
}

// Put writes h into b, the inverse of [DecodeJournalHeader].
func (h JournalHeader) Put(b []byte) {
	p := (*[JournalHeaderSize]byte)(b)
	be.PutUint32(p[0x0:0x4], h.Magic)
	be.PutUint32(p[0x4:0x8], uint32(h.Type))
	be.PutUint32(p[0x8:0xc], h.Sequence)
}

// JournalTag is struct journal_block_tag_s or journal_block_tag3_s: one block
// of the file system whose new contents the log holds. Its form depends on the
// journal's features:
//
//	v1     | blocknr | 0     flags | high, if 64bit |
//	csum2  | blocknr | crc16 flags | high, if 64bit | 2 bytes of padding |
//	csum3  | blocknr | flags       | high           | crc32              |
//
// Without [JournalTagSameUUID] a uuid of 16 bytes follows.
type JournalTag struct {
	Block    PBlock          // t_blocknr, t_blocknr_high
	Flags    JournalTagFlags // t_flags
	Checksum uint32          // t_checksum: 16 bits in csum2, unused in v1
}

// JournalTagFlags is t_flags. Unknown bits are kept as they were found.
type JournalTagFlags uint32

const (
	JournalTagEscape   JournalTagFlags = 1 << iota // JBD2_FLAG_ESCAPE: the block began with the magic
	JournalTagSameUUID                             // JBD2_FLAG_SAME_UUID: no uuid follows
	JournalTagDeleted                              // JBD2_FLAG_DELETED: never set
	JournalTagLast                                 // JBD2_FLAG_LAST_TAG
)

// JournalTagSize is journal_tag_bytes: the length of a tag without its uuid.
func JournalTagSize(f JournalFeature) int {
	switch {
	case f&JournalCsumV3 != 0:
		return 16
	case f&JournalCsumV2 != 0 && f&Journal64Bit != 0:
		return 14
	case f&JournalCsumV2 != 0:
		return 10
	case f&Journal64Bit != 0:
		return 12
	}
	return 8
}

// DecodeJournalTag decodes the tag at the start of b, which must hold
// [JournalTagSize] bytes.
func DecodeJournalTag(f JournalFeature, b []byte) JournalTag {
	b = b[:JournalTagSize(f)]
	t := JournalTag{Block: PBlock(be.Uint32(b[0:4]))}
	if f&Journal64Bit != 0 {
		t.Block |= PBlock(be.Uint32(b[8:12])) << 32
	}
	if f&JournalCsumV3 != 0 {
		t.Flags = JournalTagFlags(be.Uint32(b[4:8]))
		t.Checksum = be.Uint32(b[12:16])
	} else {
		t.Checksum = uint32(be.Uint16(b[4:6]))
		t.Flags = JournalTagFlags(be.Uint16(b[6:8]))
	}
	return t
}

// Put writes t into b, the inverse of [DecodeJournalTag].
func (t JournalTag) Put(f JournalFeature, b []byte) {
	b = b[:JournalTagSize(f)]
	be.PutUint32(b[0:4], uint32(t.Block))
	if f&Journal64Bit != 0 {
		be.PutUint32(b[8:12], uint32(t.Block>>32))
	}
	if f&JournalCsumV3 != 0 {
		be.PutUint32(b[4:8], uint32(t.Flags))
		be.PutUint32(b[12:16], t.Checksum)
	} else {
		be.PutUint16(b[4:6], uint16(t.Checksum))
		be.PutUint16(b[6:8], uint16(t.Flags))
	}
}

// JournalTagChecksum is t_checksum of a block as the log holds it (escaped),
// logged by transaction sequence: the whole crc32c for csum3, its low half for
// csum2, 0 otherwise.
func JournalTagChecksum(f JournalFeature, seed, sequence uint32, block []byte) uint32 {
	if !f.HasChecksums() {
		return 0
	}
	var seq [4]byte
	be.PutUint32(seq[:], sequence)
	crc := crc32c(crc32c(seed, seq[:]), block)
	if f&JournalCsumV3 == 0 {
		crc &= 0xffff
	}
	return crc
}

// JournalTags calls yield with each tag of descriptor block b and the byte
// offset it stands at, until the last tag, the end of the block, or false.
func JournalTags(f JournalFeature, b []byte, yield func(off int, t JournalTag) bool) {
	size, end := JournalTagSize(f), len(b)
	if f.HasChecksums() {
		end -= JournalTailSize
	}
	for off := JournalHeaderSize; off+size <= end; {
		t := DecodeJournalTag(f, b[off:])
		if !yield(off, t) || t.Flags&JournalTagLast != 0 {
			return
		}
		off += size
		if t.Flags&JournalTagSameUUID == 0 {
			off += 16
		}
	}
}

// JournalTailSize is the size of struct jbd2_journal_block_tail: one checksum,
// at the end of descriptor and revoke blocks under csum v2 and v3.
const JournalTailSize = 4

// JournalTail returns the checksum that stands at the end of block b.
func JournalTail(b []byte) uint32 { return be.Uint32(b[len(b)-JournalTailSize:]) }

// PutJournalTail writes the checksum at the end of block b.
func PutJournalTail(b []byte, sum uint32) { be.PutUint32(b[len(b)-JournalTailSize:], sum) }

// JournalTailChecksum is t_checksum of a descriptor or revoke block: crc32c of
// all of it with the tail taken as zero.
func JournalTailChecksum(seed uint32, b []byte) uint32 {
	crc := crc32c(seed, b[:len(b)-JournalTailSize])
	return crc32c(crc, []byte{0, 0, 0, 0})
}

// JournalCommitSize is the size of struct commit_header in bytes.
const JournalCommitSize = 0x3c

// JournalCommitBlock is struct commit_header: what makes a transaction valid.
type JournalCommitBlock struct {
	Header       JournalHeader
	ChecksumType uint8     // h_chksum_type: 1 (crc32) under checksum v1, else 0
	ChecksumSize uint8     // h_chksum_size: 4 under checksum v1, else 0
	Checksum     [8]uint32 // h_chksum: the first holds v1's, or csum v2's and v3's of this block
	Sec          uint64    // h_commit_sec: seconds since 1970
	Nsec         uint32    // h_commit_nsec
}

// What a checksum v1 is marked with: JBD2_CRC32_CHKSUM, JBD2_CRC32_CHKSUM_SIZE.
const (
	JournalCRC32     = 1
	JournalCRC32Size = 4
)

// DecodeJournalCommit decodes the commit block at the start of b.
func DecodeJournalCommit(b []byte) JournalCommitBlock {
	p := (*[JournalCommitSize]byte)(b)
	c := JournalCommitBlock{
		Header:       DecodeJournalHeader(p[0x00:0x0c]),
		ChecksumType: p[0x0c],
		ChecksumSize: p[0x0d],
		Sec:          be.Uint64(p[0x30:0x38]),
		Nsec:         be.Uint32(p[0x38:0x3c]),
	}
	for i := range c.Checksum {
		c.Checksum[i] = be.Uint32(p[0x10+4*i:])
	}
	return c
}

// Put writes c into b, the inverse of [DecodeJournalCommit].
func (c *JournalCommitBlock) Put(b []byte) {
	p := (*[JournalCommitSize]byte)(b)
	c.Header.Put(p[0x00:0x0c])
	p[0x0c], p[0x0d] = c.ChecksumType, c.ChecksumSize
	for i := range c.Checksum {
		be.PutUint32(p[0x10+4*i:], c.Checksum[i])
	}
	be.PutUint64(p[0x30:0x38], c.Sec)
	be.PutUint32(p[0x38:0x3c], c.Nsec)
}

// JournalCommitChecksum is h_chksum[0] of commit block b, the whole block,
// under csum v2 and v3: crc32c with the field itself taken as zero.
func JournalCommitChecksum(seed uint32, b []byte) uint32 {
	crc := crc32c(seed, b[:0x10])
	crc = crc32c(crc, []byte{0, 0, 0, 0})
	return crc32c(crc, b[0x14:])
}

// ChecksumV1OK reports whether the commit block accepts sum as the crc32 of its
// transaction: it holds that sum, or says that it holds none.
func (c *JournalCommitBlock) ChecksumV1OK(sum uint32) bool {
	if c.ChecksumType == JournalCRC32 && c.ChecksumSize == JournalCRC32Size {
		return c.Checksum[0] == sum
	}
	return c.ChecksumType == 0 && c.ChecksumSize == 0 && c.Checksum[0] == 0
}

// crc32beTable is for the polynomial 0x04c11db7, highest bit first.
var crc32beTable = func() (t [256]uint32) {
	for i := range t {
		crc := uint32(i) << 24
		for range 8 {
			crc = crc<<1 ^ 0x04c11db7&-(crc>>31)
		}
		t[i] = crc
	}
	return t
}()

// CRC32BE adds b to crc as the kernel's crc32_be() does. Checksum v1 starts
// from all ones and adds each descriptor block and each block it describes, as
// the log holds them.
func CRC32BE(crc uint32, b []byte) uint32 {
	for _, c := range b {
		crc = crc<<8 ^ crc32beTable[byte(crc>>24)^c]
	}
	return crc
}

// JournalRevokeHeaderSize is the size of struct jbd2_journal_revoke_header_s.
const JournalRevokeHeaderSize = 16

// JournalRevokes is struct jbd2_journal_revoke_header_s: the head of a block
// that lists blocks whose older copies in the log must not be replayed.
type JournalRevokes struct {
	Header JournalHeader
	Count  uint32 // r_count: bytes in use, this head included
}

// DecodeJournalRevokes decodes the head at the start of b.
func DecodeJournalRevokes(b []byte) JournalRevokes {
	p := (*[JournalRevokeHeaderSize]byte)(b)
	return JournalRevokes{
		Header: DecodeJournalHeader(p[0x0:0xc]),
		Count:  be.Uint32(p[0xc:0x10]),
	}
}

// Put writes r into b, the inverse of [DecodeJournalRevokes].
func (r JournalRevokes) Put(b []byte) {
	p := (*[JournalRevokeHeaderSize]byte)(b)
	r.Header.Put(p[0x0:0xc])
	be.PutUint32(p[0xc:0x10], r.Count)
}

// JournalRevokeSize is the size of one record: 8 bytes under 64bit, else 4.
func JournalRevokeSize(f JournalFeature) int {
	if f&Journal64Bit != 0 {
		return 8
	}
	return 4
}

// JournalRevokeMax is the largest r_count in a block of blockSize bytes.
func JournalRevokeMax(f JournalFeature, blockSize int) uint32 {
	if f.HasChecksums() {
		blockSize -= JournalTailSize
	}
	return uint32(blockSize)
}

// JournalRevoked calls yield with each block number of revoke block b. Records
// past the block's end are not read: r_count is not judged here.
func JournalRevoked(f JournalFeature, b []byte, yield func(PBlock) bool) {
	size := JournalRevokeSize(f)
	end := int(min(DecodeJournalRevokes(b).Count, JournalRevokeMax(f, len(b))))
	for off := JournalRevokeHeaderSize; off+size <= end; off += size {
		n := PBlock(be.Uint32(b[off:]))
		if size == 8 {
			n = PBlock(be.Uint64(b[off:]))
		}
		if !yield(n) {
			return
		}
	}
}

// PutJournalRevoked writes record i of revoke block b.
func PutJournalRevoked(f JournalFeature, b []byte, i int, n PBlock) {
	off := JournalRevokeHeaderSize + i*JournalRevokeSize(f)
	if f&Journal64Bit != 0 {
		be.PutUint64(b[off:], uint64(n))
	} else {
		be.PutUint32(b[off:], uint32(n))
	}
}

// UnescapeJournalBlock restores the first four bytes of a logged block whose
// tag says [JournalTagEscape]: they were the magic, and the log holds zeros.
func UnescapeJournalBlock(b []byte) { be.PutUint32(b[0:4], JournalMagic) }

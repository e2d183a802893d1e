package disk

import (
	"fmt"
	"strings"
)

// JournalMagic is JBD2_MAGIC_NUMBER: the first four bytes of every block that
// jbd2 writes about a transaction, and of no block that it logs.
const JournalMagic = 0xc03b3998

// JournalSuperSize is the size of struct journal_superblock_s in bytes.
const JournalSuperSize = 1024

// JournalSuper is struct journal_superblock_s: where the log begins, and what
// it may contain. It stands at the start of the journal's first block.
//
//	       +0          +4          +8          +c
//	0x000 | magic     | type      | sequence  | blocksize |
//	0x010 | maxlen    | first     | sequence  | start     |
//	0x020 | errno     | compat    | incompat  | ro_compat |
//	0x030 | uuid                                          |
//	0x040 | nr_users  | dynsuper  | max_trans | max_data  |
//	0x050 | csum type | num_fc    | head      | padding   |
//	0x0f0 | padding                           | checksum  |
//	0x100 | users: 48 times a uuid                        |
//
// Version 1 ([JournalSuperV1]) ends after errno: its other bytes mean nothing.
type JournalSuper struct {
	Header         JournalHeader
	BlockSize      uint32         // s_blocksize: bytes
	MaxLen         uint32         // s_maxlen: blocks in the journal
	First          uint32         // s_first: first block of log
	Sequence       uint32         // s_sequence: first transaction expected in the log
	Start          uint32         // s_start: block of that transaction; 0 when the log is empty
	Errno          int32          // s_errno: negative errno of the abort, or 0
	Compat         JournalCompat  // s_feature_compat
	Incompat       JournalFeature // s_feature_incompat
	ROCompat       uint32         // s_feature_ro_compat: none is known
	UUID           [16]byte       // s_uuid: seeds the checksums
	NrUsers        uint32         // s_nr_users: file systems that share an external journal
	DynSuper       uint32         // s_dynsuper: unused
	MaxTransaction uint32         // s_max_transaction: unused
	MaxTransData   uint32         // s_max_trans_data: unused
	ChecksumType   uint8          // s_checksum_type
	NumFCBlocks    uint32         // s_num_fc_blks: 0 means [JournalDefaultFCBlocks]
	Head           uint32         // s_head: end of the log, only while it is empty
	Checksum       uint32         // s_checksum
	Users          [48][16]byte   // s_users: uuids of those file systems
}

// JournalDefaultFCBlocks is JBD2_DEFAULT_FAST_COMMIT_BLOCKS.
const JournalDefaultFCBlocks = 256

// JournalMinBlocks is JBD2_MIN_JOURNAL_BLOCKS: a log shorter than this is refused.
const JournalMinBlocks = 1024

// JournalCRC32C is JBD2_CRC32C_CHKSUM, the only s_checksum_type in use.
const JournalCRC32C = 4

// JournalCompat is s_feature_compat.
type JournalCompat uint32

// JournalChecksum is JBD2_FEATURE_COMPAT_CHECKSUM: commit blocks hold a crc32
// of their transaction ("checksum v1").
const JournalChecksum JournalCompat = 1

// JournalFeature is s_feature_incompat.
type JournalFeature uint32

const (
	JournalRevoke      JournalFeature = 1 << iota // JBD2_FEATURE_INCOMPAT_REVOKE
	Journal64Bit                                  // JBD2_FEATURE_INCOMPAT_64BIT
	JournalAsyncCommit                            // JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT
	JournalCsumV2                                 // JBD2_FEATURE_INCOMPAT_CSUM_V2
	JournalCsumV3                                 // JBD2_FEATURE_INCOMPAT_CSUM_V3
	JournalFastCommit                             // JBD2_FEATURE_INCOMPAT_FAST_COMMIT

	// JournalKnown is JBD2_KNOWN_INCOMPAT_FEATURES.
	JournalKnown = JournalRevoke | Journal64Bit | JournalAsyncCommit | JournalCsumV2 | JournalCsumV3 | JournalFastCommit
)

var journalFeatureNames = [...]string{
	"journal_incompat_revoke", "journal_64bit", "journal_async_commit",
	"journal_checksum_v2", "journal_checksum_v3", "fast_commit",
}

// String lists the features by the names that e2fsprogs prints, separated by
// spaces; unknown bits are FEATURE_In as there.
func (f JournalFeature) String() string {
	var names []string
	for bit := range 32 {
		switch {
		case f>>bit&1 == 0:
		case bit < len(journalFeatureNames):
			names = append(names, journalFeatureNames[bit])
		default:
			names = append(names, fmt.Sprintf("FEATURE_I%d", bit))
		}
	}
	return strings.Join(names, " ")
}

// HasChecksums reports csum v2 or v3: every block of the log is summed.
func (f JournalFeature) HasChecksums() bool { return f&(JournalCsumV2|JournalCsumV3) != 0 }

// DecodeJournalSuper decodes the journal superblock at the start of b. It
// panics if b is shorter than [JournalSuperSize].
func DecodeJournalSuper(b []byte) JournalSuper {
	p := (*[JournalSuperSize]byte)(b)
	s := JournalSuper{
		Header:         DecodeJournalHeader(p[0x00:0x0c]),
		BlockSize:      be.Uint32(p[0x0c:0x10]),
		MaxLen:         be.Uint32(p[0x10:0x14]),
		First:          be.Uint32(p[0x14:0x18]),
		Sequence:       be.Uint32(p[0x18:0x1c]),
		Start:          be.Uint32(p[0x1c:0x20]),
		Errno:          int32(be.Uint32(p[0x20:0x24])),
		Compat:         JournalCompat(be.Uint32(p[0x24:0x28])),
		Incompat:       JournalFeature(be.Uint32(p[0x28:0x2c])),
		ROCompat:       be.Uint32(p[0x2c:0x30]),
		UUID:           [16]byte(p[0x30:0x40]),
		NrUsers:        be.Uint32(p[0x40:0x44]),
		DynSuper:       be.Uint32(p[0x44:0x48]),
		MaxTransaction: be.Uint32(p[0x48:0x4c]),
		MaxTransData:   be.Uint32(p[0x4c:0x50]),
		ChecksumType:   p[0x50],
		NumFCBlocks:    be.Uint32(p[0x54:0x58]),
		Head:           be.Uint32(p[0x58:0x5c]),
		Checksum:       be.Uint32(p[0xfc:0x100]),
	}
	for i := range s.Users {
		copy(s.Users[i][:], p[0x100+16*i:])
	}
	return s
}

// Put writes s into b, the inverse of [DecodeJournalSuper].
func (s *JournalSuper) Put(b []byte) {
	p := (*[JournalSuperSize]byte)(b)
	s.Header.Put(p[0x00:0x0c])
	be.PutUint32(p[0x0c:0x10], s.BlockSize)
	be.PutUint32(p[0x10:0x14], s.MaxLen)
	be.PutUint32(p[0x14:0x18], s.First)
	be.PutUint32(p[0x18:0x1c], s.Sequence)
	be.PutUint32(p[0x1c:0x20], s.Start)
	be.PutUint32(p[0x20:0x24], uint32(s.Errno))
	be.PutUint32(p[0x24:0x28], uint32(s.Compat))
	be.PutUint32(p[0x28:0x2c], uint32(s.Incompat))
	be.PutUint32(p[0x2c:0x30], s.ROCompat)
	copy(p[0x30:0x40], s.UUID[:])
	be.PutUint32(p[0x40:0x44], s.NrUsers)
	be.PutUint32(p[0x44:0x48], s.DynSuper)
	be.PutUint32(p[0x48:0x4c], s.MaxTransaction)
	be.PutUint32(p[0x4c:0x50], s.MaxTransData)
	p[0x50] = s.ChecksumType
	be.PutUint32(p[0x54:0x58], s.NumFCBlocks)
	be.PutUint32(p[0x58:0x5c], s.Head)
	be.PutUint32(p[0xfc:0x100], s.Checksum)
	for i := range s.Users {
		copy(p[0x100+16*i:], s.Users[i][:])
	}
}

// JournalSuperChecksum is s_checksum of the journal superblock at the start of
// b: crc32c over its 1024 bytes with the field itself taken as zero.
func JournalSuperChecksum(b []byte) uint32 {
	p := (*[JournalSuperSize]byte)(b)
	crc := crc32c(^uint32(0), p[:0xfc])
	crc = crc32c(crc, []byte{0, 0, 0, 0})
	return crc32c(crc, p[0x100:])
}

// JournalSeed is what every csum v2 and v3 of a journal starts from: crc32c of
// its s_uuid.
func JournalSeed(uuid [16]byte) uint32 { return crc32c(^uint32(0), uuid[:]) }

// FastCommitBlocks is the number of blocks kept for fast commits at the end of
// the journal: jbd2_journal_get_num_fc_blks, or 0 without the feature.
func (s *JournalSuper) FastCommitBlocks() uint32 {
	switch {
	case s.Version() != 2 || s.Incompat&JournalFastCommit == 0:
		return 0
	case s.NumFCBlocks == 0:
		return JournalDefaultFCBlocks
	}
	return s.NumFCBlocks
}

// Version is 1 or 2, or 0 if the block is not a journal superblock.
func (s *JournalSuper) Version() int {
	switch s.Header.Type {
	case JournalSuperV1:
		return 1
	case JournalSuperV2:
		return 2
	}
	return 0
}

// CheckJournalSuper reports the first rule that the journal superblock b
// breaks, or nil: journal_check_superblock in fs/jbd2/journal.c. It was read
// from physical block blk of a journal with blocks of blockSize bytes, of
// which total exist. Features are not judged here: unknown ones are no damage.
func CheckJournalSuper(b []byte, blk PBlock, blockSize int, total uint32) error {
	s := DecodeJournalSuper(b)
	bad := func(at int, field, want, have string, args ...any) error {
		return &CorruptError{
			Struct: "journal superblock", Block: blk, Off: at, Field: field,
			Have: fmt.Sprintf(have, args...), Want: want,
		}
	}
	if s.Header.Magic != JournalMagic {
		return bad(0x00, "h_magic", fmt.Sprintf("%#08x", uint32(JournalMagic)), "%#08x", s.Header.Magic)
	}
	if s.Version() == 0 {
		return bad(0x04, "h_blocktype", "3 (superblock v1) or 4 (superblock v2)", "%d", s.Header.Type)
	}
	if s.Version() == 2 {
		// Before anything else is believed, as it sums it.
		v2and3 := JournalCsumV2 | JournalCsumV3
		if s.Incompat&v2and3 == v2and3 {
			return bad(0x28, "s_feature_incompat", "checksum v2 or v3, not both", "%#x", uint32(s.Incompat))
		}
		if s.Incompat.HasChecksums() {
			if s.Compat&JournalChecksum != 0 {
				return bad(0x24, "s_feature_compat", "no checksum v1 beside v2 or v3", "%#x", uint32(s.Compat))
			}
			if s.ChecksumType != JournalCRC32C {
				return bad(0x50, "s_checksum_type", "4 (crc32c)", "%d", s.ChecksumType)
			}
			if sum := JournalSuperChecksum(b); sum != s.Checksum {
				return bad(0xfc, "s_checksum", fmt.Sprintf("%#08x", sum), "%#08x", s.Checksum)
			}
		}
	}
	fc := s.FastCommitBlocks()
	switch {
	case s.BlockSize != uint32(blockSize):
		return bad(0x0c, "s_blocksize", fmt.Sprintf("%d, the file system's", blockSize), "%d", s.BlockSize)
	case s.MaxLen > total:
		return bad(0x10, "s_maxlen", fmt.Sprintf("at most %d, the journal's blocks", total), "%d", s.MaxLen)
	case s.MaxLen < JournalMinBlocks:
		return bad(0x10, "s_maxlen", fmt.Sprintf("at least %d", JournalMinBlocks), "%d", s.MaxLen)
	case s.MaxLen-JournalMinBlocks < fc:
		return bad(0x54, "s_num_fc_blks", fmt.Sprintf("at most %d", s.MaxLen-JournalMinBlocks), "%d", fc)
	case s.First == 0 || s.First >= s.MaxLen-fc:
		return bad(0x14, "s_first", fmt.Sprintf("1..%d", s.MaxLen-fc-1), "%d", s.First)
	case s.Start != 0 && (s.Start < s.First || s.Start >= s.MaxLen-fc):
		return bad(0x1c, "s_start", fmt.Sprintf("0 or %d..%d", s.First, s.MaxLen-fc-1), "%d", s.Start)
	}
	return nil
}

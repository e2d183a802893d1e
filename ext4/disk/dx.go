package disk

import "fmt"

// HashVersion says how a directory's names are hashed (DX_HASH_*).
type HashVersion uint8

const (
	HashLegacy HashVersion = iota
	HashHalfMD4
	HashTea
	HashLegacyUnsigned
	HashHalfMD4Unsigned
	HashTeaUnsigned
	HashSip // encrypted, casefolded directories: keyed, so the entries carry their hashes
)

func (v HashVersion) String() string {
	if v <= HashSip {
		return [...]string{"legacy", "half_md4", "tea", "legacy_unsigned", "half_md4_unsigned", "tea_unsigned", "siphash"}[v]
	}
	return fmt.Sprintf("%#x", uint8(v))
}

const (
	dxEntrySize  = 8
	dxTailSize   = 8
	dxRootInfoAt = 24 // behind the entries "." and ".."
	dxNodeAt     = 8  // behind one empty entry
	dxRootLen    = 8  // info_length
)

// DxRoot is struct dx_root_info: the head of a hash tree, in block 0 of its
// directory, behind the entries "." and "..".
type DxRoot struct {
	HashVersion HashVersion // hash_version
	InfoLength  uint8       // info_length: 8
	Levels      uint8       // indirect_levels: of nodes between the root and the leaves
	Flags       uint8       // unused_flags
}

// DxEntry is struct dx_entry: the names whose hashes are from Hash on are in
// or below logical block Block of the directory. The low bit of Hash says that
// names of the same hash precede it in the block before.
type DxEntry struct {
	Hash  uint32
	Block LBlock
}

// DecodeDxRoot decodes the head of the tree in block b, which is a whole block.
func DecodeDxRoot(b []byte) DxRoot {
	p := b[dxRootInfoAt : dxRootInfoAt+8]
	return DxRoot{HashVersion: HashVersion(p[4]), InfoLength: p[5], Levels: p[6], Flags: p[7]}
}

// Put writes r into the block b, the inverse of [DecodeDxRoot].
func (r DxRoot) Put(b []byte) {
	p := b[dxRootInfoAt : dxRootInfoAt+8]
	p[4], p[5], p[6], p[7] = byte(r.HashVersion), r.InfoLength, r.Levels, r.Flags
}

// DxNode is the entry table of a root or interior block of a hash tree. The
// zeroth entry has no hash of its own: its place holds limit and count.
type DxNode struct {
	b  []byte // the whole block
	at int    // where the entries start
}

// DxRootNode returns the entries of the root block b, as info_length places them.
func DxRootNode(b []byte) DxNode {
	return DxNode{b, dxRootInfoAt + int(DecodeDxRoot(b).InfoLength)}
}

// DxInnerNode returns the entries of the interior block b.
func DxInnerNode(b []byte) DxNode { return DxNode{b, dxNodeAt} }

// Count is the number of entries in use, the zeroth included.
func (n DxNode) Count() int { return int(le.Uint16(n.b[n.at+2:])) }

// Limit is the number of entries there is room for.
func (n DxNode) Limit() int { return int(le.Uint16(n.b[n.at:])) }

// SetCount stores count and limit.
func (n DxNode) SetCount(count, limit int) {
	le.PutUint16(n.b[n.at:], uint16(limit))
	le.PutUint16(n.b[n.at+2:], uint16(count))
}

// Entry returns entry i; the hash of the zeroth is 0. It panics if i is
// outside the block, which [CheckDxNode] rules out for i below Count.
func (n DxNode) Entry(i int) DxEntry {
	p := n.b[n.at+i*dxEntrySize:][:dxEntrySize]
	e := DxEntry{Hash: le.Uint32(p[0:4]), Block: LBlock(le.Uint32(p[4:8]) & 0x0fffffff)}
	if i == 0 {
		e.Hash = 0
	}
	return e
}

// SetEntry stores entry i; the hash of the zeroth has no place.
func (n DxNode) SetEntry(i int, e DxEntry) {
	p := n.b[n.at+i*dxEntrySize:][:dxEntrySize]
	if i > 0 {
		le.PutUint32(p[0:4], e.Hash)
	}
	le.PutUint32(p[4:8], uint32(e.Block))
}

// Find returns the last entry whose hash is at most hash.
func (n DxNode) Find(hash uint32) int {
	lo, hi := 1, n.Count() // the zeroth always qualifies
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if le.Uint32(n.b[n.at+mid*dxEntrySize:]) > hash {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo - 1
}

// DxLimit is the number of entries that fit the node: to the end of the
// block, less a checksum tail with metadata_csum.
func (n DxNode) DxLimit(csum bool) int {
	room := len(n.b) - n.at
	if csum {
		room -= dxTailSize
	}
	return room / dxEntrySize
}

// Checksum is dt_checksum of the node: crc32c over the block up to the last
// entry in use, the reserved half of the tail, and four zero bytes
// (ext4_dx_csum). seed is the directory's [InodeSeed].
func (n DxNode) Checksum(seed uint32) uint32 {
	tail := n.at + n.Limit()*dxEntrySize
	crc := crc32c(seed, n.b[:n.at+n.Count()*dxEntrySize])
	crc = crc32c(crc, n.b[tail:tail+4])
	return crc32cUint32(crc, 0)
}

// PutChecksum sums the node into its tail.
func (n DxNode) PutChecksum(seed uint32) {
	tail := n.at + n.Limit()*dxEntrySize
	le.PutUint32(n.b[tail+4:], n.Checksum(seed))
}

// CheckDxRoot reports the first rule that the head of the tree in block b of
// directory dir breaks, or nil (dx_probe, get_dx_countlimit).
func CheckDxRoot(sb *Superblock, dir Ino, b []byte, blk PBlock) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "hash tree root of directory", Num: uint64(dir), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	if dot := DecodeDirent(b, len(b)); dot.RecLen != dotDotOffset {
		return bad(4, "rec_len of .", fmt.Sprint(dot.RecLen), "12")
	}
	if dotdot := DecodeDirent(b[dotDotOffset:], len(b)); dotdot.RecLen != len(b)-dotDotOffset {
		return bad(dotDotOffset+4, "rec_len of ..", fmt.Sprint(dotdot.RecLen), fmt.Sprint(len(b)-dotDotOffset))
	}
	r := DecodeDxRoot(b)
	maxLevels := uint8(1)
	if sb.Incompat.Has(IncompatLargedir) {
		maxLevels = 2
	}
	switch {
	case le.Uint32(b[dxRootInfoAt:]) != 0:
		return bad(dxRootInfoAt, "reserved_zero", fmt.Sprintf("%#x", le.Uint32(b[dxRootInfoAt:])), "0")
	case r.HashVersion > HashTea && r.HashVersion != HashSip: // s_flags alone says that chars are unsigned
		return bad(dxRootInfoAt+4, "hash_version", fmt.Sprint(uint8(r.HashVersion)), "0, 1, 2 or 6")
	case r.InfoLength != dxRootLen:
		return bad(dxRootInfoAt+5, "info_length", fmt.Sprint(r.InfoLength), "8")
	case r.Levels > maxLevels:
		return bad(dxRootInfoAt+6, "indirect_levels", fmt.Sprint(r.Levels), fmt.Sprintf("at most %d", maxLevels))
	case r.Flags&1 != 0:
		return bad(dxRootInfoAt+7, "unused_flags", fmt.Sprintf("%#x", r.Flags), "bit 0 clear")
	}
	return nil
}

// CheckDxNode reports the first rule that the entry table n in block blk of
// directory dir breaks, or nil: limit, count and, with metadata_csum, the
// checksum. seed is the directory's [InodeSeed].
func CheckDxNode(sb *Superblock, dir Ino, n DxNode, seed uint32, blk PBlock) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "hash tree node of directory", Num: uint64(dir), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	if limit := n.DxLimit(sb.MetadataCsum()); n.Limit() != limit {
		return bad(n.at, "limit", fmt.Sprint(n.Limit()), fmt.Sprint(limit))
	}
	if c := n.Count(); c < 1 || c > n.Limit() {
		return bad(n.at+2, "count", fmt.Sprint(c), fmt.Sprintf("1 to %d", n.Limit()))
	}
	if !sb.MetadataCsum() {
		return nil
	}
	tail := n.at + n.Limit()*dxEntrySize
	if have, want := le.Uint32(n.b[tail+4:]), n.Checksum(seed); have != want {
		return bad(tail+4, "dt_checksum", fmt.Sprintf("%#08x", have), fmt.Sprintf("%#08x", want))
	}
	return nil
}

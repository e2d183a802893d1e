package disk

import "fmt"

const (
	ExtentMagic      = 0xF30A // EXT4_EXT_MAGIC
	ExtentHeaderSize = 12
	ExtentSize       = 12 // leaf and index entries alike
	ExtentMaxDepth   = 5  // EXT4_MAX_EXTENT_DEPTH
	ExtentTailSize   = 4  // et_checksum
	MaxExtentLen     = 32768
	extMaxBlocks     = 1<<32 - 1 // EXT_MAX_BLOCKS: the end of the longest file
)

// ExtentHeader is struct ext4_extent_header, at the start of each node.
type ExtentHeader struct {
	Magic      uint16 // eh_magic
	Entries    uint16 // eh_entries
	Max        uint16 // eh_max
	Depth      uint16 // eh_depth: 0 in leaves
	Generation uint32 // eh_generation
}

// DecodeExtentHeader decodes the header at the start of b.
func DecodeExtentHeader(b []byte) ExtentHeader {
	p := (*[ExtentHeaderSize]byte)(b)
	return ExtentHeader{le.Uint16(p[0:2]), le.Uint16(p[2:4]), le.Uint16(p[4:6]), le.Uint16(p[6:8]), le.Uint32(p[8:12])}
}

// Put writes h into b, the inverse of [DecodeExtentHeader].
func (h ExtentHeader) Put(b []byte) {
	p := (*[ExtentHeaderSize]byte)(b)
	le.PutUint16(p[0:2], h.Magic)
	le.PutUint16(p[2:4], h.Entries)
	le.PutUint16(p[4:6], h.Max)
	le.PutUint16(p[6:8], h.Depth)
	le.PutUint32(p[8:12], h.Generation)
}

// Extent is struct ext4_extent, a leaf entry: Len blocks of a file, from the
// file's block Block on, lie from physical block Start on.
type Extent struct {
	Block     LBlock // ee_block
	Len       uint16 // ee_len without its mark: 1..32768, or 0 on a corrupt image
	Unwritten bool   // ee_len's mark: allocated, reads as zeros
	Start     PBlock // ee_start_{lo,hi}: 48 bits
}

// DecodeExtent decodes the leaf entry at the start of b. A length over 32768
// marks the extent unwritten; 32768 itself is the longest written one.
func DecodeExtent(b []byte) Extent {
	p := (*[ExtentSize]byte)(b)
	e := Extent{
		Block: LBlock(le.Uint32(p[0x0:0x4])),
		Len:   le.Uint16(p[0x4:0x6]),
		Start: PBlock(le.Uint16(p[0x6:0x8]))<<32 | PBlock(le.Uint32(p[0x8:0xc])),
	}
	if e.Len > MaxExtentLen {
		e.Len, e.Unwritten = e.Len-MaxExtentLen, true
	}
	return e
}

// Put writes e into b, the inverse of [DecodeExtent].
func (e Extent) Put(b []byte) {
	p := (*[ExtentSize]byte)(b)
	n := e.Len
	if e.Unwritten {
		n += MaxExtentLen
	}
	le.PutUint32(p[0x0:0x4], uint32(e.Block))
	le.PutUint16(p[0x4:0x6], n)
	le.PutUint16(p[0x6:0x8], uint16(e.Start>>32))
	le.PutUint32(p[0x8:0xc], uint32(e.Start))
}

// ExtentIdx is struct ext4_extent_idx, an index entry: what the file has from
// its block Block on is described by the node in physical block Leaf.
type ExtentIdx struct {
	Block LBlock // ei_block
	Leaf  PBlock // ei_leaf_{lo,hi}: 48 bits
}

// DecodeExtentIdx decodes the index entry at the start of b.
func DecodeExtentIdx(b []byte) ExtentIdx {
	p := (*[ExtentSize]byte)(b)
	return ExtentIdx{LBlock(le.Uint32(p[0:4])), PBlock(le.Uint32(p[4:8])) | PBlock(le.Uint16(p[8:10]))<<32}
}

// Put writes x into b, the inverse of [DecodeExtentIdx].
func (x ExtentIdx) Put(b []byte) {
	p := (*[ExtentSize]byte)(b)
	le.PutUint32(p[0:4], uint32(x.Block))
	le.PutUint32(p[4:8], uint32(x.Leaf))
	le.PutUint16(p[8:10], uint16(x.Leaf>>32))
}

// ExtentEntry returns the bytes of entry i of node b.
func ExtentEntry(b []byte, i int) []byte {
	return b[ExtentHeaderSize+i*ExtentSize:][:ExtentSize]
}

// extentTailAt is where a node in a block keeps its checksum: behind the room
// for eh_max entries.
func extentTailAt(h ExtentHeader) int { return ExtentHeaderSize + int(h.Max)*ExtentSize }

// ExtentChecksum is et_checksum of the node in block b, which is legal:
// crc32c over all before it (ext4_extent_block_csum). seed is the inode's
// [InodeSeed]. The root, in the inode, has none of its own.
func ExtentChecksum(seed uint32, b []byte) uint32 {
	return crc32c(seed, b[:extentTailAt(DecodeExtentHeader(b))])
}

// PutExtentChecksum stores the checksum of the node in block b.
func PutExtentChecksum(seed uint32, b []byte) {
	le.PutUint32(b[extentTailAt(DecodeExtentHeader(b)):], ExtentChecksum(seed, b))
}

// CheckExtentChecksum reports whether the node in block b, whose header is
// legal, carries a wrong checksum. owner is the inode, seed its [InodeSeed].
func CheckExtentChecksum(owner Ino, seed uint32, b []byte, blk PBlock) error {
	at := extentTailAt(DecodeExtentHeader(b))
	if have, want := le.Uint32(b[at:]), ExtentChecksum(seed, b); have != want {
		return &CorruptError{Struct: "extent node of inode", Num: uint64(owner), Block: blk, Off: at, Field: "et_checksum",
			Have: fmt.Sprintf("%#08x", have), Want: fmt.Sprintf("%#08x", want)}
	}
	return nil
}

// CheckExtentHeader reports the first rule that the header of node b of inode
// owner breaks, or nil (__ext4_ext_check). b is a whole block, or the 60 bytes
// of i_block; depth is the level that the parent promises, or -1 at the root.
// The node lies in block blk, at byte off.
func CheckExtentHeader(owner Ino, b []byte, depth int, blk PBlock, off int) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "extent node of inode", Num: uint64(owner), Block: blk, Off: off + at, Field: field, Have: have, Want: want}
	}
	h := DecodeExtentHeader(b)
	room := (len(b) - ExtentHeaderSize) / ExtentSize
	switch {
	case h.Magic != ExtentMagic:
		return bad(0, "eh_magic", fmt.Sprintf("%#04x", h.Magic), "0xf30a")
	case depth >= 0 && int(h.Depth) != depth:
		return bad(6, "eh_depth", fmt.Sprint(h.Depth), fmt.Sprint(depth))
	case h.Depth > ExtentMaxDepth:
		return bad(6, "eh_depth", fmt.Sprint(h.Depth), "at most 5")
	case h.Max == 0 || int(h.Max) > room:
		return bad(4, "eh_max", fmt.Sprint(h.Max), fmt.Sprintf("1 to %d", room))
	case h.Entries > h.Max:
		return bad(2, "eh_entries", fmt.Sprint(h.Entries), fmt.Sprintf("at most %d", h.Max))
	case h.Entries == 0 && h.Depth > 0:
		return bad(2, "eh_entries", "0", "at least 1 in an index node")
	}
	return nil
}

// ExtentBounds is the range of file blocks [First, End) that a node's parent
// leaves to it; End is 1<<32 for the last.
type ExtentBounds struct {
	First LBlock
	End   uint64
	Below bool // of a node below the root, whose first entry begins at First
}

// AllExtents are the bounds of a root.
var AllExtents = ExtentBounds{End: 1 << 32}

// ChildBounds are the bounds of the node that entry i of the index node b leads
// to: from the entry's block up to that of the next.
func ChildBounds(b []byte, i int, in ExtentBounds) ExtentBounds {
	below := ExtentBounds{First: DecodeExtentIdx(ExtentEntry(b, i)).Block, End: in.End, Below: true}
	if i+1 < int(DecodeExtentHeader(b).Entries) {
		below.End = uint64(DecodeExtentIdx(ExtentEntry(b, i+1)).Block)
	}
	return below
}

// CheckExtentEntry reports the first rule that entry i of node b breaks, or
// nil: it lies within the file system, in order behind the entry before, and
// within the node's bounds, which the first entry begins
// (ext4_valid_extent_entries). The header must be legal.
func CheckExtentEntry(sb *Superblock, owner Ino, b []byte, i int, in ExtentBounds, blk PBlock, off int) error {
	at := ExtentHeaderSize + i*ExtentSize
	bad := func(d int, field, have, want string) error {
		return &CorruptError{Struct: "extent node of inode", Num: uint64(owner), Block: blk, Off: off + at + d, Field: field, Have: have, Want: want}
	}
	h := DecodeExtentHeader(b)
	if h.Depth > 0 {
		x := DecodeExtentIdx(ExtentEntry(b, i))
		if !sb.ValidRange(x.Leaf, 1) {
			return bad(4, "ei_leaf", fmt.Sprint(x.Leaf), fmt.Sprintf("below %d", sb.Blocks))
		}
		if x.Block < in.First || uint64(x.Block) >= in.End {
			return bad(0, "ei_block", fmt.Sprint(x.Block), fmt.Sprintf("%d to %d, as its parent says", in.First, in.End-1))
		}
		if i == 0 && in.Below && x.Block != in.First {
			return bad(0, "ei_block", fmt.Sprint(x.Block), fmt.Sprintf("%d, as its parent says", in.First))
		}
		if i > 0 {
			if prev := DecodeExtentIdx(ExtentEntry(b, i-1)); x.Block <= prev.Block {
				return bad(0, "ei_block", fmt.Sprint(x.Block), fmt.Sprintf("more than %d, the entry before", prev.Block))
			}
		}
		return nil
	}
	e := DecodeExtent(ExtentEntry(b, i))
	switch {
	case e.Len == 0:
		return bad(4, "ee_len", "0", "1 to 32768")
	case !sb.ValidRange(e.Start, uint64(e.Len)):
		return bad(8, "ee_start", fmt.Sprintf("%d, length %d", e.Start, e.Len), fmt.Sprintf("blocks below %d", sb.Blocks))
	case e.Block < in.First || uint64(e.Block)+uint64(e.Len) > min(in.End, extMaxBlocks):
		return bad(0, "ee_block", fmt.Sprintf("%d, length %d", e.Block, e.Len), fmt.Sprintf("within %d to %d, as its parent says", in.First, min(in.End, extMaxBlocks)-1))
	}
	if i == 0 && in.Below && e.Block != in.First {
		return bad(0, "ee_block", fmt.Sprint(e.Block), fmt.Sprintf("%d, as its parent says", in.First))
	}
	if i > 0 {
		if prev := DecodeExtent(ExtentEntry(b, i-1)); uint64(e.Block) < uint64(prev.Block)+uint64(prev.Len) {
			return bad(0, "ee_block", fmt.Sprint(e.Block), fmt.Sprintf("at least %d, the end of the extent before", uint64(prev.Block)+uint64(prev.Len)))
		}
	}
	return nil
}

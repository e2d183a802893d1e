package disk

import (
	"bytes"
	"testing"
)

// An ext is a leaf entry of a node under test; an idx an index entry.
type (
	ext = Extent
	idx = ExtentIdx
)

// extentLeaf is a leaf node of size bytes.
func extentLeaf(size int, list ...ext) []byte {
	b := extentNode(size, 0, len(list))
	for i, e := range list {
		e.Put(ExtentEntry(b, i))
	}
	return b
}

// extentIndex is an index node of size bytes and that depth.
func extentIndex(size, depth int, list ...idx) []byte {
	b := extentNode(size, depth, len(list))
	for i, x := range list {
		x.Put(ExtentEntry(b, i))
	}
	return b
}

func extentNode(size, depth, n int) []byte {
	b := make([]byte, size)
	room := (size - ExtentHeaderSize) / ExtentSize
	ExtentHeader{Magic: ExtentMagic, Entries: uint16(n), Max: uint16(room), Depth: uint16(depth)}.Put(b)
	return b
}

// FuzzExtent: entries and headers of every form; in a node whose header
// passes, every entry can be judged, and those that pass lie where they may.
func FuzzExtent(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, 60), uint8(0), 0)
	f.Add(bytes.Repeat([]byte{0xa5}, 60), uint8(7), -1)
	f.Add(extentLeaf(60, ext{1, 5, false, 100}, ext{6, 32767, true, 200}), uint8(7), -1)
	f.Add(extentIndex(60, 2, idx{0, 100}, idx{90, 101}), uint8(7), 2)
	for log := range uint8(7) {
		f.Add(extentLeaf(100, ext{1, 5, false, 100}, ext{6, 7, true, 200}), log, 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, log uint8, depth int) {
		if len(b) < ExtentHeaderSize || log > 7 || depth > ExtentMaxDepth {
			t.Skip()
		}
		roundTrip(t, b[:12], DecodeExtentHeader, ExtentHeader.Put)
		roundTrip(t, b[:12], DecodeExtent, Extent.Put)
		roundTrip(t, b[:12], DecodeExtentIdx, ExtentIdx.Put)

		sb := legalSuper(uint32(log % 7))
		node := make([]byte, IBlockSize) // a root in its inode
		if log < 7 {
			node = make([]byte, sb.BlockSize())
		}
		copy(node, b)
		if CheckExtentHeader(12, node, depth, 9, 0) != nil {
			return
		}
		if log < 7 {
			_ = CheckExtentChecksum(12, 7, node, 9)
			PutExtentChecksum(7, node)
			if err := CheckExtentChecksum(12, 7, node, 9); err != nil {
				t.Fatalf("the checksum that was put: %v", err)
			}
		}
		h := DecodeExtentHeader(node)
		next := uint64(0)
		for i := range int(h.Entries) {
			if CheckExtentEntry(&sb, 12, node, i, AllExtents, 9, 0) != nil {
				return
			}
			if h.Depth > 0 {
				x := DecodeExtentIdx(ExtentEntry(node, i))
				if uint64(x.Block) < next || uint64(x.Leaf) >= sb.Blocks {
					t.Fatalf("entry %d is %+v, behind block %d of a file system of %d", i, x, next, sb.Blocks)
				}
				next = uint64(x.Block) + 1
				continue
			}
			e := DecodeExtent(ExtentEntry(node, i))
			if e.Len == 0 || e.Len > 32768 || uint64(e.Block) < next || uint64(e.Start)+uint64(e.Len) > sb.Blocks {
				t.Fatalf("entry %d is %+v, behind block %d of a file system of %d", i, e, next, sb.Blocks)
			}
			next = uint64(e.Block) + uint64(e.Len)
		}
	})
}

func TestExtentLen(t *testing.T) {
	tests := []struct {
		eeLen     uint16
		wantLen   uint16
		unwritten bool
	}{
		{0x0000, 0, false}, // corrupt, but decodes: judging is CheckExtentEntry's work
		{0x0001, 1, false},
		{0x7fff, 32767, false},
		{0x8000, 32768, false}, // the longest initialized extent, not an empty unwritten one
		{0x8001, 1, true},
		{0xffff, 32767, true},
	}
	for _, tt := range tests {
		b := make([]byte, ExtentSize)
		le.PutUint16(b[4:], tt.eeLen)
		e := DecodeExtent(b)
		if e.Len != tt.wantLen || e.Unwritten != tt.unwritten {
			t.Errorf("ee_len %#04x: got %d unwritten=%t, want %d unwritten=%t",
				tt.eeLen, e.Len, e.Unwritten, tt.wantLen, tt.unwritten)
		}
		out := make([]byte, ExtentSize)
		if e.Put(out); !bytes.Equal(out, b) {
			t.Errorf("ee_len %#04x: Put wrote % x, want % x", tt.eeLen, out, b)
		}
	}
}

// The halves of block numbers stand in different orders in leaves and indexes.
func TestExtentBytes(t *testing.T) {
	b := []byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c")
	if got, want := DecodeExtent(b), (Extent{0x04030201, 0x0605, false, 0x08070c0b0a09}); got != want {
		t.Errorf("leaf: got %+v, want %+v", got, want)
	}
	if got, want := DecodeExtentIdx(b), (ExtentIdx{0x04030201, 0x0a0908070605}); got != want {
		t.Errorf("index: got %+v, want %+v", got, want)
	}
	if got, want := DecodeExtentHeader(b), (ExtentHeader{0x0201, 0x0403, 0x0605, 0x0807, 0x0c0b0a09}); got != want {
		t.Errorf("header: got %+v, want %+v", got, want)
	}
}

func TestCheckExtentHeader(t *testing.T) {
	tests := []struct {
		name  string
		size  int
		depth int // as the parent promises
		h     ExtentHeader
		field string
		at    int
	}{
		{"empty root", 60, -1, ExtentHeader{ExtentMagic, 0, 4, 0, 0}, "", 0},
		{"full root", 60, -1, ExtentHeader{ExtentMagic, 4, 4, 5, 9}, "", 0},
		{"full block", 4096, 0, ExtentHeader{ExtentMagic, 340, 340, 0, 0}, "", 0},
		{"full block of 64 KiB", 65536, 4, ExtentHeader{ExtentMagic, 5460, 5460, 4, 0}, "", 0},
		{"less room than there is", 1024, 1, ExtentHeader{ExtentMagic, 1, 1, 1, 0}, "", 0},
		{"magic", 60, -1, ExtentHeader{0xF30B, 0, 4, 0, 0}, "eh_magic", 0},
		{"deeper than promised", 1024, 0, ExtentHeader{ExtentMagic, 1, 84, 1, 0}, "eh_depth", 6},
		{"less deep than promised", 1024, 1, ExtentHeader{ExtentMagic, 1, 84, 0, 0}, "eh_depth", 6},
		{"too deep", 60, -1, ExtentHeader{ExtentMagic, 1, 4, 6, 0}, "eh_depth", 6},
		{"no room", 60, -1, ExtentHeader{ExtentMagic, 0, 0, 0, 0}, "eh_max", 4},
		{"room beyond the root", 60, -1, ExtentHeader{ExtentMagic, 0, 5, 0, 0}, "eh_max", 4},
		{"room beyond the block", 1024, 0, ExtentHeader{ExtentMagic, 0, 85, 0, 0}, "eh_max", 4},
		{"entries over the room", 1024, 0, ExtentHeader{ExtentMagic, 11, 10, 0, 0}, "eh_entries", 2},
		{"empty index", 1024, 1, ExtentHeader{ExtentMagic, 0, 84, 1, 0}, "eh_entries", 2},
	}
	for _, tt := range tests {
		b := make([]byte, tt.size)
		tt.h.Put(b)
		wantCorrupt(t, tt.name, CheckExtentHeader(12, b, tt.depth, 88, 0x128), tt.field, 88, 0x128+tt.at)
	}
}

func TestCheckExtentEntry(t *testing.T) {
	sb := legalSuper(0) // blocks 1 to 16483
	all := AllExtents
	below := ExtentBounds{10, 20, true}
	tests := []struct {
		name   string
		node   []byte
		bounds ExtentBounds
		field  string // of the last entry
		at     int
	}{
		{"leaf", extentLeaf(60, ext{0, 5, false, 2}, ext{5, 5, true, 7}), all, "", 0},
		{"from the first block to the last", extentLeaf(60, ext{0, 16482, false, 2}), all, "", 0},
		{"within bounds", extentLeaf(60, ext{10, 10, false, 2}), ExtentBounds{First: 10, End: 20}, "", 0},
		{"the end of the longest file", extentLeaf(60, ext{1<<32 - 2, 1, false, 2}), all, "", 0},
		{"index", extentIndex(60, 1, idx{0, 16483}, idx{1, 2}), all, "", 0},
		{"index within bounds", extentIndex(60, 1, idx{10, 2}, idx{19, 3}), ExtentBounds{First: 10, End: 20}, "", 0},
		{"as the parent says", extentLeaf(60, ext{10, 5, false, 2}, ext{16, 4, false, 9}), below, "", 0},
		{"index as the parent says", extentIndex(60, 1, idx{10, 2}, idx{19, 3}), below, "", 0},
		{"behind what the parent says", extentLeaf(60, ext{11, 5, false, 2}), below, "ee_block", 0},
		{"index behind what the parent says", extentIndex(60, 1, idx{11, 2}), below, "ei_block", 0},
		{"no length", extentLeaf(60, ext{0, 0, false, 2}), all, "ee_len", 4},
		{"the superblock", extentLeaf(60, ext{0, 1, false, 1}), all, "ee_start", 8},
		{"block 0", extentLeaf(60, ext{0, 1, false, 0}), all, "ee_start", 8},
		{"beyond the end", extentLeaf(60, ext{0, 1, false, 16484}), all, "ee_start", 8},
		{"over the end", extentLeaf(60, ext{0, 16483, false, 2}), all, "ee_start", 8},
		{"far beyond the end", extentLeaf(60, ext{0, 1, true, 1<<48 - 1}), all, "ee_start", 8},
		{"before the bounds", extentLeaf(60, ext{9, 10, false, 2}), ExtentBounds{First: 10, End: 20}, "ee_block", 0},
		{"over the bounds", extentLeaf(60, ext{10, 11, false, 2}), ExtentBounds{First: 10, End: 20}, "ee_block", 0},
		{"beyond the longest file", extentLeaf(60, ext{1<<32 - 2, 2, false, 2}), all, "ee_block", 0},
		{"overlap", extentLeaf(60, ext{0, 5, false, 2}, ext{4, 5, false, 7}), all, "ee_block", 0},
		{"order", extentLeaf(60, ext{100, 5, false, 2}, ext{0, 5, false, 7}), all, "ee_block", 0},
		{"index to the superblock", extentIndex(60, 1, idx{0, 1}), all, "ei_leaf", 4},
		{"index beyond the end", extentIndex(60, 1, idx{0, 16484}), all, "ei_leaf", 4},
		{"index before the bounds", extentIndex(60, 1, idx{9, 2}), ExtentBounds{First: 10, End: 20}, "ei_block", 0},
		{"index at the bounds' end", extentIndex(60, 1, idx{20, 2}), ExtentBounds{First: 10, End: 20}, "ei_block", 0},
		{"index twice", extentIndex(60, 1, idx{5, 2}, idx{5, 3}), all, "ei_block", 0},
		{"index order", extentIndex(60, 1, idx{5, 2}, idx{4, 3}), all, "ei_block", 0},
	}
	for _, tt := range tests {
		wantCorrupt(t, tt.name, CheckExtentHeader(12, tt.node, -1, 88, 0), "", 0, 0)
		last := int(DecodeExtentHeader(tt.node).Entries) - 1
		for i := range last {
			wantCorrupt(t, tt.name+", entries before", CheckExtentEntry(&sb, 12, tt.node, i, tt.bounds, 88, 0x100), "", 0, 0)
		}
		err := CheckExtentEntry(&sb, 12, tt.node, last, tt.bounds, 88, 0x100)
		wantCorrupt(t, tt.name, err, tt.field, 88, 0x100+12+12*last+tt.at)
	}
}

// The checksum covers all before it, and stands behind the room for eh_max entries.
func TestExtentChecksum(t *testing.T) {
	for _, max := range []uint16{84, 10} {
		b := bytes.Repeat([]byte{0x33}, 1024)
		ExtentHeader{Magic: ExtentMagic, Entries: 1, Max: max}.Put(b)
		at := 12 + 12*int(max)
		PutExtentChecksum(7, b)
		wantCorrupt(t, "put", CheckExtentChecksum(12, 7, b, 88), "", 0, 0)
		for _, i := range []int{2, 12, at - 1, at, at + 3} {
			b[i] ^= 8
			wantCorrupt(t, "a flipped bit", CheckExtentChecksum(12, 7, b, 88), "et_checksum", 88, at)
			b[i] ^= 8
		}
		wantCorrupt(t, "another inode", CheckExtentChecksum(12, 8, b, 88), "et_checksum", 88, at)
		if at+4 < len(b) {
			b[at+4] ^= 8
			wantCorrupt(t, "behind the checksum", CheckExtentChecksum(12, 7, b, 88), "", 0, 0)
		}
	}
}

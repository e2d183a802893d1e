package disk

import (
	"bytes"
	"testing"
)

const dxSeed = 7

// dxRootBlock is the root of a tree with n entries, summed if sb has checksums.
func dxRootBlock(sb *Superblock, n int) []byte {
	b := make([]byte, sb.BlockSize())
	Dirent{Ino: 12, RecLen: 12, NameLen: 1, Type: TypeDir}.Put(b, len(b))
	Dirent{Ino: 2, RecLen: len(b) - 12, NameLen: 2, Type: TypeDir}.Put(b[12:], len(b))
	DxRoot{HashVersion: HashHalfMD4, InfoLength: 8}.Put(b)
	putDxEntries(sb, DxRootNode(b), n)
	return b
}

// dxInnerBlock is a node of a tree with n entries.
func dxInnerBlock(sb *Superblock, n int) []byte {
	b := make([]byte, sb.BlockSize())
	Dirent{RecLen: len(b)}.Put(b, len(b))
	putDxEntries(sb, DxInnerNode(b), n)
	return b
}

func putDxEntries(sb *Superblock, node DxNode, n int) {
	for i := range n {
		node.SetEntry(i, DxEntry{Hash: uint32(i) * 10, Block: LBlock(i + 1)})
	}
	node.SetCount(n, node.DxLimit(sb.MetadataCsum()))
	if sb.MetadataCsum() {
		node.PutChecksum(dxSeed)
	}
}

// FuzzDx: no bytes make the checks panic, and in a node that passes every entry can be read.
func FuzzDx(f *testing.F) {
	for log := range uint8(7) {
		sb := legalSuper(uint32(log))
		f.Add(dxRootBlock(&sb, 3), log, false)
		f.Add(dxInnerBlock(&sb, 3), log, true)
		sb.ROCompat = 0
		f.Add(dxRootBlock(&sb, 2)[:64], log, false)
		f.Add(dxInnerBlock(&sb, 100)[:64], log, true)
		f.Add(bytes.Repeat([]byte{0xff}, 40), log, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, log uint8, inner bool) {
		if log > 6 {
			t.Skip()
		}
		for _, csum := range []ROCompat{0, ROCompatMetadataCsum} {
			sb := legalSuper(uint32(log))
			sb.ROCompat = csum
			block := fill(sb.BlockSize(), b)
			roundTrip(t, block, DecodeDxRoot, DxRoot.Put)
			node := DxInnerNode(block)
			if !inner {
				if CheckDxRoot(&sb, 2, block, 9) != nil {
					continue
				}
				node = DxRootNode(block)
			}
			if CheckDxNode(&sb, 2, node, dxSeed, 9) != nil {
				// The same with a limit and a checksum that are right may pass.
				node.SetCount(node.Count(), node.DxLimit(csum != 0))
				if csum != 0 && node.Count() <= node.Limit() {
					node.PutChecksum(dxSeed)
				}
				if CheckDxNode(&sb, 2, node, dxSeed, 9) != nil {
					continue
				}
			}
			walkDx(t, node)
		}
	})
}

// walkDx reads every entry of a legal node, and puts each back.
func walkDx(t *testing.T, node DxNode) {
	before := bytes.Clone(node.b)
	for i := range node.Count() {
		e := node.Entry(i)
		if i == 0 && e.Hash != 0 || e.Block > 0x0fffffff {
			t.Fatalf("entry %d is %+v", i, e)
		}
		if at := node.Find(e.Hash); at < 0 || at >= node.Count() {
			t.Fatalf("hash %#x found in entry %d of %d", e.Hash, at, node.Count())
		}
		p := node.b[node.at+i*dxEntrySize:]
		le.PutUint32(p[4:], le.Uint32(p[4:])&0x0fffffff) // the kernel ignores the top four bits
		le.PutUint32(before[node.at+i*dxEntrySize+4:], le.Uint32(p[4:]))
		node.SetEntry(i, e)
	}
	if node.SetCount(node.Count(), node.Limit()); !bytes.Equal(node.b, before) {
		t.Fatal("entries that were put back changed the block")
	}
	if end := node.at + node.Limit()*dxEntrySize; end > len(node.b) {
		t.Fatalf("%d entries end at %d of %d", node.Limit(), end, len(node.b))
	}
}

func TestCheckDxRoot(t *testing.T) {
	sb, large := legalSuper(2), legalSuper(2)
	large.Incompat |= IncompatLargedir
	root := func(r DxRoot) func([]byte) { return r.Put }
	tests := []struct {
		name  string
		sb    *Superblock
		edit  func(b []byte)
		field string
		at    int
	}{
		{"legal", &sb, func([]byte) {}, "", 0},
		{"legacy hash", &sb, root(DxRoot{HashLegacy, 8, 0, 0}), "", 0},
		{"siphash", &sb, root(DxRoot{HashSip, 8, 1, 0}), "", 0},
		{"two levels", &large, root(DxRoot{HashTea, 8, 2, 0}), "", 0},
		{"unknown flags", &sb, root(DxRoot{HashTea, 8, 1, 0xfe}), "", 0},
		{"length of .", &sb, func(b []byte) { le.PutUint16(b[4:], 16) }, "rec_len of .", 4},
		{"length of ..", &sb, func(b []byte) { le.PutUint16(b[16:], 12) }, "rec_len of ..", 16},
		{"reserved", &sb, func(b []byte) { b[27] = 1 }, "reserved_zero", 24},
		{"unsigned hash", &sb, root(DxRoot{HashLegacyUnsigned, 8, 0, 0}), "hash_version", 28},
		{"unknown hash", &sb, root(DxRoot{7, 8, 0, 0}), "hash_version", 28},
		{"info length", &sb, root(DxRoot{HashTea, 16, 0, 0}), "info_length", 29},
		{"two levels without large_dir", &sb, root(DxRoot{HashTea, 8, 2, 0}), "indirect_levels", 30},
		{"three levels", &large, root(DxRoot{HashTea, 8, 3, 0}), "indirect_levels", 30},
		{"flags", &sb, root(DxRoot{HashTea, 8, 0, 1}), "unused_flags", 31},
	}
	for _, tt := range tests {
		b := dxRootBlock(tt.sb, 3)
		tt.edit(b)
		wantCorrupt(t, tt.name, CheckDxRoot(tt.sb, 2, b, 55), tt.field, 55, tt.at)
	}
	sb64k := legalSuper(6) // where the length of .. needs no odd coding: 65524
	wantCorrupt(t, "64 KiB", CheckDxRoot(&sb64k, 2, dxRootBlock(&sb64k, 3), 55), "", 0, 0)
}

func TestCheckDxNode(t *testing.T) {
	csum := legalSuper(0)
	none := csum
	none.ROCompat = 0
	tests := []struct {
		name         string
		sb           *Superblock
		root         bool
		count, limit int
		field        string
		at           int
	}{
		{"root", &csum, true, 3, 123, "", 0},
		{"node", &csum, false, 3, 126, "", 0},
		{"root without checksums", &none, true, 3, 124, "", 0},
		{"node without checksums", &none, false, 3, 127, "", 0},
		{"full", &none, false, 127, 127, "", 0},
		{"full with checksums", &csum, true, 123, 123, "", 0},
		{"one", &csum, true, 1, 123, "", 0},
		{"limit over the tail", &csum, true, 3, 124, "limit", 32},
		{"low limit", &csum, true, 3, 122, "limit", 32},
		{"limit of a node over the end", &none, false, 3, 128, "limit", 8},
		{"largest limit", &none, false, 3, 65535, "limit", 8},
		{"no count", &csum, true, 0, 123, "count", 34},
		{"count over the limit", &none, false, 128, 127, "count", 10},
		{"largest count", &csum, false, 65535, 126, "count", 10},
	}
	for _, tt := range tests {
		b, node := dxInnerBlock(tt.sb, 3), DxInnerNode
		if tt.root {
			b, node = dxRootBlock(tt.sb, 3), DxRootNode
		}
		n := node(b)
		n.SetCount(tt.count, tt.limit)
		if tt.field == "" && tt.sb == &csum {
			n.PutChecksum(dxSeed)
		}
		wantCorrupt(t, tt.name, CheckDxNode(tt.sb, 2, n, dxSeed, 55), tt.field, 55, tt.at)
		if tt.field != "" || tt.sb != &csum {
			continue
		}
		tail := len(b) - 8
		for _, at := range []int{0, n.at + 4, n.at + tt.count*8 - 1, tail, tail + 7} {
			b[at] ^= 4
			wantCorrupt(t, tt.name+", a flipped bit", CheckDxNode(tt.sb, 2, n, dxSeed, 55), "dt_checksum", 55, tail+4)
			b[at] ^= 4
		}
		if end := n.at + tt.count*8; end < tail { // beyond the entries nothing is summed
			b[end] ^= 4
			wantCorrupt(t, tt.name+", unused room", CheckDxNode(tt.sb, 2, n, dxSeed, 55), "", 0, 0)
		}
		wantCorrupt(t, tt.name+", another directory", CheckDxNode(tt.sb, 2, n, dxSeed+1, 55), "dt_checksum", 55, tail+4)
	}
}

// The zeroth entry has limit and count where the others have a hash, and of a
// block number 28 bits count.
func TestDxEntry(t *testing.T) {
	sb := legalSuper(0)
	node := DxInnerNode(dxInnerBlock(&sb, 3))
	le.PutUint32(node.b[8+4:], 0xf0000005)
	le.PutUint32(node.b[8+8+4:], 0xffffffff)
	for i, want := range []DxEntry{{0, 5}, {10, 0x0fffffff}, {20, 3}} {
		if got := node.Entry(i); got != want {
			t.Errorf("entry %d: got %+v, want %+v", i, got, want)
		}
	}
	node.SetEntry(0, DxEntry{Hash: 99, Block: 7})
	if node.Count() != 3 || node.Limit() != 126 || node.Entry(0) != (DxEntry{0, 7}) {
		t.Errorf("after SetEntry: count %d, limit %d, entry %+v", node.Count(), node.Limit(), node.Entry(0))
	}
}

func TestDxFind(t *testing.T) {
	sb := legalSuper(0)
	node := DxInnerNode(dxInnerBlock(&sb, 5)) // 0 10 20 30 40
	for hash, want := range map[uint32]int{0: 0, 9: 0, 10: 1, 11: 1, 29: 2, 30: 3, 39: 3, 40: 4, 1<<32 - 1: 4} {
		if got := node.Find(hash); got != want {
			t.Errorf("hash %d: got entry %d, want %d", hash, got, want)
		}
	}
	one := DxInnerNode(dxInnerBlock(&sb, 1))
	if got := one.Find(99); got != 0 {
		t.Errorf("one entry: got %d, want 0", got)
	}
}

func TestHashVersionNames(t *testing.T) {
	for v, want := range map[HashVersion]string{
		0: "legacy", 1: "half_md4", 2: "tea", 3: "legacy_unsigned", 4: "half_md4_unsigned", 5: "tea_unsigned", 6: "siphash", 7: "0x7",
	} {
		if got := v.String(); got != want {
			t.Errorf("%d: got %q, want %q", uint8(v), got, want)
		}
	}
}

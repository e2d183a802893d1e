package disk

import (
	"bytes"
	"testing"
)

// xattrPut stores entries from at on, with their names behind them, and
// returns where the list ends.
func xattrPut(b []byte, at int, list ...Xattr) int {
	for _, x := range list {
		x.NameLen = uint8(len(x.Name))
		x.XattrEntry.Put(b[at:])
		copy(b[at+XattrEntrySize:], x.Name)
		at += XattrEntryLen(len(x.Name))
	}
	return at
}

// xattrBlock is a block of 1024 bytes with entries.
func xattrBlock(list ...Xattr) []byte {
	b := make([]byte, 1024)
	XattrHeader{Magic: XattrMagic, Refcount: 1, Blocks: 1}.Put(b)
	xattrPut(b, XattrHeaderSize, list...)
	return b
}

// xattrInode is an inode of 256 bytes with entries behind an i_extra_isize of 32.
func xattrInode(list ...Xattr) []byte {
	b := make([]byte, 256)
	le.PutUint16(b[0x80:], 32)
	le.PutUint32(b[160:], XattrMagic)
	xattrPut(b, 164, list...)
	return b
}

// xat is an xattr whose value, of size bytes, lies at offs.
func xat(name string, offs uint16, size uint32) Xattr {
	return Xattr{XattrEntry: XattrEntry{Index: XattrUser, ValueOffset: offs, ValueSize: size}, Name: []byte(name)}
}

// inEAInode is an xattr whose value lies in an inode of its own.
func inEAInode(name string, size uint32) Xattr {
	x := xat(name, 0xffff, size)
	x.ValueIno = 99
	return x
}

// FuzzXattrs: no bytes lead a list of xattrs out of its place.
func FuzzXattrs(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, 64), uint8(0))
	f.Add(bytes.Repeat([]byte{0xa5}, 512), uint8(6))
	f.Add(xattrBlock(xat("a", 1020, 4), xat("bcd", 1000, 20), xat("", 0, 0), inEAInode("e", 70000)), uint8(0))
	f.Add(xattrInode(xat("a", 80, 4), xat("long name", 60, 8)), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, log uint8) {
		if len(b) < XattrHeaderSize || log > 6 {
			t.Skip()
		}
		roundTrip(t, b[:XattrHeaderSize], DecodeXattrHeader, XattrHeader.Put)
		roundTrip(t, b[:XattrEntrySize], DecodeXattrEntry, XattrEntry.Put)
		sb := legalSuper(uint32(log))
		block := fill(sb.BlockSize(), b)
		_ = CheckXattrBlock(&sb, 12, block, 5)
		walkXattrs(t, XattrBlockPlace(12, block, 5))
		inode := make([]byte, max(256, min(1<<(log+8), 65536)))
		copy(inode, b)
		if place, ok := XattrIbodyPlace(12, inode, 5, 0); ok {
			walkXattrs(t, place)
		}
		copy(inode[128:], b) // so that short inputs reach the entries
		if place, ok := XattrIbodyPlace(12, inode, 5, 0); ok {
			walkXattrs(t, place)
		}
	})
}

func walkXattrs(t *testing.T, p XattrPlace) {
	list, err := p.Xattrs()
	if len(list) > len(p.Bytes)/XattrEntrySize {
		t.Fatalf("%d xattrs in %d bytes", len(list), len(p.Bytes))
	}
	end := p.Entries
	for _, x := range list {
		if x.Off != end || len(x.Name) != int(x.NameLen) || bytes.IndexByte(x.Name, 0) >= 0 {
			t.Fatalf("entry at %d, want at %d: %+v", x.Off, end, x)
		}
		end += XattrEntryLen(len(x.Name))
		_, _ = XattrEntryHash(x.Name, x.Value, true), x.Index.Prefix()
		if err != nil {
			continue
		}
		switch {
		case x.ValueIno != 0 && (x.Value != nil || x.ValueSize > MaxXattrValue):
			t.Fatalf("a value beside one in inode %d: %+v", x.ValueIno, x)
		case x.ValueIno == 0 && (x.Value == nil || len(x.Value) != int(x.ValueSize)):
			t.Fatalf("%d bytes of value, want %d", len(x.Value), x.ValueSize)
		}
	}
	if end > len(p.Bytes) {
		t.Fatalf("the entries end at %d of %d bytes", end, len(p.Bytes))
	}
}

func TestXattrs(t *testing.T) {
	b := xattrBlock(xat("a", 1020, 4), xat("bcd", 996, 20), xat("empty", 7, 0), inEAInode("far", MaxXattrValue), xat("", 1016, 3))
	copy(b[996:], "twenty bytes, if you")
	copy(b[1016:], "odd")
	copy(b[1020:], "four")
	list, err := XattrBlockPlace(12, b, 5).Xattrs()
	want := []struct {
		name, value string
		off         int
	}{{"a", "four", 32}, {"bcd", "twenty bytes, if you", 52}, {"empty", "", 72}, {"far", "", 96}, {"", "odd", 116}}
	if err != nil || len(list) != len(want) {
		t.Fatalf("got %d, %v, want %d", len(list), err, len(want))
	}
	for i, w := range want {
		x := list[i]
		if string(x.Name) != w.name || string(x.Value) != w.value || x.Off != w.off || (x.Value == nil) != (w.name == "far") {
			t.Errorf("%d: got %q=%q at %d, want %q=%q at %d", i, x.Name, x.Value, x.Off, w.name, w.value, w.off)
		}
	}

	raw := xattrInode(xat("in", 84, 8)) // counted from the first entry, byte 164
	copy(raw[248:], "behind")
	place, ok := XattrIbodyPlace(12, raw, 5, 0x300)
	list, err = place.Xattrs()
	if !ok || err != nil || len(list) != 1 || string(list[0].Value) != "behind\x00\x00" {
		t.Errorf("inode: got %v, %v, %+v", ok, err, list)
	}
}

func TestXattrRules(t *testing.T) {
	long := make([]byte, 255)
	for i := range long {
		long[i] = 'n'
	}
	tests := []struct {
		name  string
		place XattrPlace
		field string
		at    int // in the block
		n     int // xattrs before the broken rule
	}{
		{"empty", XattrBlockPlace(12, xattrBlock(), 5), "", 0, 0},
		{"value up to the end, from the entries' end", XattrBlockPlace(12, xattrBlock(xat("a", 56, 968)), 5), "", 0, 1},
		{"no end", XattrBlockPlace(12, bytes.Repeat([]byte{1}, 36), 5), "e_name_len", 32, 0},
		{"no room for an end", XattrBlockPlace(12, xattrBlock(xat("a", 0, 0))[:54], 5), "e_name_len", 32, 0},
		{"nothing at all", XattrBlockPlace(12, make([]byte, 34), 5), "e_name_len", 32, 0},
		{"name over the end", XattrBlockPlace(12, xattrBlock(xat(string(long), 0, 0))[:300], 5), "e_name_len", 32, 0},
		{"name with NUL", XattrBlockPlace(12, xattrBlock(xat("ok", 0, 0), xat("a\x00b", 0, 0)), 5), "e_name", 52 + 16, 1},
		{"value over the end", XattrBlockPlace(12, xattrBlock(xat("ok", 0, 0), xat("a", 1021, 4)), 5), "e_value_offs", 52 + 2, 1},
		{"value far beyond", XattrBlockPlace(12, xattrBlock(xat("a", 65535, 1)), 5), "e_value_offs", 34, 0},
		{"size near 2^32", XattrBlockPlace(12, xattrBlock(xat("a", 1020, 1<<32-1)), 5), "e_value_offs", 34, 0},
		{"value in the entries", XattrBlockPlace(12, xattrBlock(xat("a", 52, 4)), 5), "e_value_offs", 34, 0},
		{"value in the header", XattrBlockPlace(12, xattrBlock(xat("a", 0, 4)), 5), "e_value_offs", 34, 0},
		{"value too large for an inode", XattrBlockPlace(12, xattrBlock(inEAInode("a", MaxXattrValue+1)), 5), "e_value_size", 40, 0},
	}
	for _, tt := range tests {
		list, err := tt.place.Xattrs()
		wantCorrupt(t, tt.name, err, tt.field, 5, tt.at)
		if len(list) != tt.n {
			t.Errorf("%s: got %d xattrs before, want %d", tt.name, len(list), tt.n)
		}
	}

	// In an inode places count from its start in the block.
	for _, offs := range []uint16{89, 0, 20} { // over the end, at the entry, at the end of the list
		place, _ := XattrIbodyPlace(12, xattrInode(xat("a", offs, 4)), 5, 0x300)
		_, err := place.Xattrs()
		wantCorrupt(t, "inode", err, "e_value_offs", 5, 0x300+164+2)
	}
}

func TestXattrIbodyPlace(t *testing.T) {
	for _, tt := range []struct {
		size  int
		extra uint16
		at    int // where the magic number stands
		ok    bool
	}{
		{256, 32, 160, true},
		{256, 28, 156, true},
		{256, 124, 252, true},
		{256, 32, 156, false},
		{256, 0, 128, false},
		{256, 30, 158, false},
		{256, 128, 252, false},
		{256, 65532, 252, false},
		{128, 0, 120, false},
	} {
		b := make([]byte, tt.size)
		le.PutUint32(b[tt.at:], XattrMagic)
		if tt.size > 128 {
			le.PutUint16(b[0x80:], tt.extra)
		}
		place, ok := XattrIbodyPlace(12, b, 5, 0x300)
		if ok != tt.ok || ok && (place.Off != 0x300+tt.at || len(place.Bytes) != tt.size-tt.at) {
			t.Errorf("inode of %d, i_extra_isize %d: got %t, at %#x", tt.size, tt.extra, ok, place.Off)
		}
	}
}

func TestCheckXattrBlock(t *testing.T) {
	csum := legalSuper(0)
	none := csum
	none.ROCompat = 0
	tests := []struct {
		name  string
		sb    *Superblock
		at    int // the byte that is changed, -1 for none
		field string
		off   int
	}{
		{"legal", &csum, -1, "", 0},
		{"no checksums", &none, 500, "", 0},
		{"magic", &none, 3, "h_magic", 0},
		{"blocks", &none, 8, "h_blocks", 8},
		{"reference count", &csum, 4, "h_checksum", 16},
		{"checksum", &csum, 19, "h_checksum", 16},
		{"behind the checksum", &csum, 20, "h_checksum", 16},
		{"last byte", &csum, 1023, "h_checksum", 16},
	}
	for _, tt := range tests {
		b := xattrBlock(xat("a", 1020, 4))
		h := DecodeXattrHeader(b)
		h.Checksum = XattrBlockChecksum(csum.Seed(), 5, b)
		h.Put(b)
		if tt.at >= 0 {
			b[tt.at] ^= 2
		}
		wantCorrupt(t, tt.name, CheckXattrBlock(tt.sb, 12, b, 5), tt.field, 5, tt.off)
		if tt.name == "legal" {
			wantCorrupt(t, "another block", CheckXattrBlock(tt.sb, 12, b, 6), "h_checksum", 6, 16)
		}
	}
}

func TestXattrNames(t *testing.T) {
	for index, want := range map[XattrIndex]struct {
		prefix string
		shown  bool
	}{
		1: {"user.", true}, 2: {"system.posix_acl_access", true}, 3: {"system.posix_acl_default", true}, 4: {"trusted.", true},
		5: {"lustre.", false}, 6: {"security.", true}, 7: {"system.", false}, 8: {"system.richacl", false}, 9: {"encryption.", false},
		10: {"gnu.", true}, 11: {"verity.", false}, 0: {"index0.", false}, 12: {"index12.", false},
	} {
		if index.Prefix() != want.prefix || index.Shown() != want.shown {
			t.Errorf("%d: got %q, %t, want %q, %t", uint8(index), index.Prefix(), index.Shown(), want.prefix, want.shown)
		}
	}
}

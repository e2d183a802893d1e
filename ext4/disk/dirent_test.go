package disk

import (
	"bytes"
	"testing"
)

// FuzzDirent: every entry in blocks of every size; what CheckDirent passes
// leads from entry to entry to the block's end.
func FuzzDirent(f *testing.F) {
	for log := range uint8(7) {
		f.Add(bytes.Repeat([]byte{0xff}, 12), log)
		f.Add([]byte("\x0c\x00\x00\x00\x0c\x00\x01\x02.\x00\x00\x00\x02\x00\x00\x00\xf4\x03\x02\x02..\x00\x00"), log)
		f.Add([]byte("\x0c\x00\x00\x00\x10\x00\x05\x01fiveb\x00\x00\x00\x00\x00\x00\x00\xe4\x03\x00\x00\x00\x00\x00\x00\x0c\x00\x00\xde\x01\x02\x03\x04"), log)
		for _, raw := range []byte{0, 1, 2, 3, 0xfc, 0xff} { // rec_lens with a meaning of their own in blocks of 64 KiB
			f.Add([]byte{1, 0, 0, 0, raw, raw, 0, 0}, log)
			f.Add([]byte{1, 0, 0, 0, raw, 0, 0, 0}, log)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, log uint8) {
		if len(b) < DirentHeaderSize || log > 6 {
			t.Skip()
		}
		size := 1024 << log
		roundTrip(t, b, func(b []byte) Dirent { return DecodeDirent(b, size) }, func(d Dirent, b []byte) { d.Put(b, size) })

		sb := legalSuper(uint32(log))
		block := fill(size, b)
		_ = CheckDirBlock(2, block, 7, 9)
		entries, tail := DirTail(block)
		if tail != (len(entries) == size-DirTailSize) || !tail && len(entries) != size {
			t.Fatalf("%d of %d bytes hold entries, tail %t", len(entries), size, tail)
		}
		off := 0
		for off < len(entries) {
			if CheckDirent(&sb, 2, entries, 9, off) != nil {
				return
			}
			d := DecodeDirent(entries[off:], size)
			_ = entries[off+DirentHeaderSize:][:d.NameLen]
			if _, _, ok := DirentHash(entries[off:], d.NameLen, d.RecLen); ok && DirentSize(d.NameLen, true) > d.RecLen {
				t.Fatalf("%+v has no room for a hash", d)
			}
			off += d.RecLen
		}
		if off != len(entries) {
			t.Fatalf("the last entry ends at %d of %d", off, len(entries))
		}
	})
}

func TestRecLen(t *testing.T) {
	tests := []struct {
		raw  uint16
		size int
		want int
	}{
		{12, 1024, 12},
		{1024, 1024, 1024},
		{0xfffc, 4096, 0xfffc}, // beyond the block: decodes, and CheckDirent judges
		{0xffff, 32768, 0xffff},
		{0, 32768, 0},
		{32768, 32768, 32768},
		{12, 65536, 12},
		{0xfffc, 65536, 65532},
		{0xffff, 65536, 65536},
		{0, 65536, 65536},
		{1, 65536, 65536},
		{0x000d, 65536, 65536 + 12},
		{0x0002, 65536, 131072},
	}
	for _, tt := range tests {
		b := []byte{1, 0, 0, 0, byte(tt.raw), byte(tt.raw >> 8), 3, 1}
		d := DecodeDirent(b, tt.size)
		if d.RecLen != tt.want {
			t.Errorf("%#04x in blocks of %d: got %d, want %d", tt.raw, tt.size, d.RecLen, tt.want)
		}
		out := bytes.Clone(b)
		if d.Put(out, tt.size); !bytes.Equal(out, b) {
			t.Errorf("%#04x in blocks of %d: put % x, want % x", tt.raw, tt.size, out, b)
		}
	}
	for _, tt := range []struct { // what is written anew
		n, size int
		want    uint16
	}{
		{12, 4096, 12}, {4096, 4096, 4096}, {65532, 65536, 65532}, {65536, 65536, 0xffff},
	} {
		b := bytes.Repeat([]byte{0x55}, 8)
		Dirent{RecLen: tt.n}.Put(b, tt.size)
		if got := le.Uint16(b[4:]); got != tt.want {
			t.Errorf("%d in blocks of %d: wrote %#04x, want %#04x", tt.n, tt.size, got, tt.want)
		}
	}
}

func TestCheckDirent(t *testing.T) {
	sb := legalSuper(0)
	sb64k := legalSuper(6)
	tests := []struct {
		name  string
		sb    *Superblock
		off   int
		d     Dirent
		field string
		at    int
	}{
		{"whole block", &sb, 0, Dirent{Ino: 12, RecLen: 1024, NameLen: 1}, "", 0},
		{"whole block of 64 KiB", &sb64k, 0, Dirent{Ino: 12, RecLen: 65536, NameLen: 1}, "", 0},
		{"longest name", &sb, 0, Dirent{Ino: 12, RecLen: 264, NameLen: 255}, "", 0},
		{"shortest", &sb, 1012, Dirent{Ino: 768, RecLen: 12, NameLen: 4}, "", 0},
		{"free", &sb, 0, Dirent{Ino: 0, RecLen: 12}, "", 0},
		{"at the end", &sb, 1020, Dirent{}, "rec_len", 4},
		{"a header's room", &sb, 1016, Dirent{Ino: 12, RecLen: 8}, "rec_len", 4},
		{"no length", &sb, 0, Dirent{Ino: 12, RecLen: 0, NameLen: 1}, "rec_len", 4},
		{"no room for a name", &sb, 0, Dirent{Ino: 12, RecLen: 8, NameLen: 0}, "rec_len", 4},
		{"odd length", &sb, 0, Dirent{Ino: 12, RecLen: 14, NameLen: 1}, "rec_len", 4},
		{"beyond the end", &sb, 100, Dirent{Ino: 12, RecLen: 928, NameLen: 1}, "rec_len", 4},
		{"beyond the end of 64 KiB", &sb64k, 100, Dirent{Ino: 12, RecLen: 65536, NameLen: 1}, "rec_len", 4},
		{"name over the length", &sb, 0, Dirent{Ino: 12, RecLen: 12, NameLen: 5}, "name_len", 6},
		{"free name over the length", &sb, 0, Dirent{Ino: 0, RecLen: 12, NameLen: 5}, "name_len", 6},
		{"inode", &sb, 0, Dirent{Ino: 769, RecLen: 12, NameLen: 1}, "inode", 0},
		{"no name", &sb, 0, Dirent{Ino: 12, RecLen: 12, NameLen: 0}, "name_len", 6},
	}
	for _, tt := range tests {
		b := make([]byte, tt.sb.BlockSize()+DirentHeaderSize)
		tt.d.Put(b[tt.off:], tt.sb.BlockSize())
		b = b[:tt.sb.BlockSize()]
		wantCorrupt(t, tt.name, CheckDirent(tt.sb, 2, b, 77, tt.off), tt.field, 77, tt.off+tt.at)
	}
}

func TestDirTail(t *testing.T) {
	for _, size := range []int{1024, 4096, 65536} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i)
		}
		at := size - DirTailSize
		wantCorrupt(t, "no tail", CheckDirBlock(2, b, 7, 9), "det_reserved_ft", 9, at)
		PutDirTail(b, 7)
		wantCorrupt(t, "tail", CheckDirBlock(2, b, 7, 9), "", 0, 0)
		if entries, ok := DirTail(b); !ok || len(entries) != at {
			t.Errorf("blocks of %d: %d bytes of entries, %t", size, len(entries), ok)
		}
		if d := DecodeDirent(b[at:], size); d != (Dirent{RecLen: 12, Type: 0xde}) {
			t.Errorf("blocks of %d: the tail is %+v", size, d)
		}
		wantCorrupt(t, "another directory", CheckDirBlock(2, b, 8, 9), "det_checksum", 9, at+8)
		for _, flip := range []struct {
			at    int
			field string
			off   int
		}{
			{0, "det_checksum", at + 8}, {at - 1, "det_checksum", at + 8}, {at + 11, "det_checksum", at + 8},
			{at, "det_reserved_ft", at}, {at + 4, "det_reserved_ft", at}, {at + 6, "det_reserved_ft", at}, {at + 7, "det_reserved_ft", at},
		} {
			b[flip.at] ^= 0x20
			wantCorrupt(t, "a flipped bit", CheckDirBlock(2, b, 7, 9), flip.field, 9, flip.off)
			b[flip.at] ^= 0x20
		}
	}
	if _, ok := DirTail(make([]byte, 20)); ok {
		t.Error("20 bytes have a tail")
	}
}

// Hashes stand behind the name, padded to four bytes.
func TestDirentHash(t *testing.T) {
	b := make([]byte, 64)
	for _, tt := range []struct {
		name, recLen, at int
		ok               bool
	}{
		{1, 20, 12, true}, {4, 20, 12, true}, {5, 24, 16, true}, {16, 32, 24, true}, {48, 64, 56, true},
		{1, 16, 0, false}, {5, 20, 0, false}, {48, 60, 0, false}, {52, 200, 0, false},
	} {
		clear(b)
		if tt.ok {
			le.PutUint32(b[tt.at:], 0x11223344)
			le.PutUint32(b[tt.at+4:], 0x55667788)
		}
		hash, minor, ok := DirentHash(b, tt.name, tt.recLen)
		if ok != tt.ok || ok && (hash != 0x11223344 || minor != 0x55667788) {
			t.Errorf("name of %d in %d bytes: got %#x %#x %t", tt.name, tt.recLen, hash, minor, ok)
		}
		if need := DirentSize(tt.name, true); tt.ok != (need <= min(tt.recLen, len(b))) {
			t.Errorf("name of %d in %d bytes: DirentSize says %d", tt.name, tt.recLen, need)
		}
	}
	for n, want := range map[int]int{0: 8, 1: 12, 4: 12, 5: 16, 255: 264} {
		if got := DirentSize(n, false); got != want {
			t.Errorf("name of %d: got %d, want %d", n, got, want)
		}
	}
}

func TestIsDot(t *testing.T) {
	for name, want := range map[string]bool{".": true, "..": true, "": false, "...": false, ".a": false} {
		if got := IsDot([]byte(name)); got != want {
			t.Errorf("%q: got %t", name, got)
		}
	}
}

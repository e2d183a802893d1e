package disk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

func TestJournalTagSize(t *testing.T) {
	for _, tt := range []struct {
		f    JournalFeature
		want int
	}{
		{0, 8},
		{Journal64Bit, 12},
		{JournalCsumV2, 10},
		{JournalCsumV2 | Journal64Bit, 14},
		{JournalCsumV3, 16},
		{JournalCsumV3 | Journal64Bit, 16},
	} {
		if got := JournalTagSize(tt.f); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.f, got, tt.want)
		}
	}
}

func TestDecodeJournalTag(t *testing.T) {
	for _, tt := range []struct {
		f     JournalFeature
		bytes string
		want  JournalTag
	}{
		{0, "00000bb80000000a", JournalTag{Block: 3000, Flags: JournalTagSameUUID | JournalTagLast}},
		{Journal64Bit, "00000bb80000000100000002", JournalTag{Block: 2<<32 | 3000, Flags: JournalTagEscape}},
		{JournalCsumV2, "00000bb8abcd00020000", JournalTag{Block: 3000, Flags: JournalTagSameUUID, Checksum: 0xabcd}},
		{JournalCsumV2 | Journal64Bit, "00000bb8abcd0002000000010000", JournalTag{Block: 1<<32 | 3000, Flags: JournalTagSameUUID, Checksum: 0xabcd}},
		{JournalCsumV3, "00000bb80000000800000001deadbeef", JournalTag{Block: 3000, Flags: JournalTagLast, Checksum: 0xdeadbeef}},
		{JournalCsumV3 | Journal64Bit, "00000bb80000000800000001deadbeef", JournalTag{Block: 1<<32 | 3000, Flags: JournalTagLast, Checksum: 0xdeadbeef}},
	} {
		b, _ := hex.DecodeString(tt.bytes)
		if got := DecodeJournalTag(tt.f, b); got != tt.want {
			t.Errorf("%v %s: got %+v, want %+v", tt.f, tt.bytes, got, tt.want)
		}
		out := bytes.Clone(b)
		tt.want.Put(tt.f, out)
		if !bytes.Equal(out, b) {
			t.Errorf("%v: put % x, want % x", tt.f, out, b)
		}
	}
}

// The tags of a block end at the last one, and before the block's tail.
func TestJournalTags(t *testing.T) {
	count := func(f JournalFeature, b []byte) (offs []int) {
		JournalTags(f, b, func(off int, _ JournalTag) bool { offs = append(offs, off); return true })
		return offs
	}
	b := make([]byte, 1024)
	JournalTag{}.Put(JournalCsumV3, b[12:])
	JournalTag{Flags: JournalTagSameUUID}.Put(JournalCsumV3, b[44:])
	JournalTag{Flags: JournalTagLast}.Put(JournalCsumV3, b[60:])
	if got, want := count(JournalCsumV3, b), []int{12, 44, 60}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for off := 12; off < 1024-8; off += 8 {
		JournalTag{Flags: JournalTagSameUUID}.Put(0, b[off:])
	}
	if got := len(count(0, b)); got != (1024-12)/8 {
		t.Errorf("a full block: got %d tags", got)
	}
	clear(b)
	for off := 12; off < 1024-16; off += 16 {
		JournalTag{Flags: JournalTagSameUUID}.Put(JournalCsumV3, b[off:])
	}
	if got := len(count(JournalCsumV3, b)); got != (1024-12-4)/16 {
		t.Errorf("a full block with a tail: got %d tags", got)
	}
}

// crc32_be of the nine digits is the catalogued CRC-32/MPEG-2.
func TestCRC32BE(t *testing.T) {
	if got := CRC32BE(^uint32(0), []byte("123456789")); got != 0x0376e6e7 {
		t.Errorf("got %#08x", got)
	}
}

func TestJournalRevokes(t *testing.T) {
	for _, f := range []JournalFeature{0, Journal64Bit, JournalCsumV3, JournalCsumV3 | Journal64Bit} {
		b := make([]byte, 1024)
		want := []PBlock{1, 1<<32 - 1, 77}
		for i, n := range want {
			PutJournalRevoked(f, b, i, n)
		}
		JournalRevokes{Count: uint32(JournalRevokeHeaderSize + 3*JournalRevokeSize(f))}.Put(b)
		collect := func() []PBlock {
			return slices.Collect(func(yield func(PBlock) bool) { JournalRevoked(f, b, yield) })
		}
		if got := collect(); !slices.Equal(got, want) {
			t.Errorf("%v: got %v, want %v", f, got, want)
		}
		// A count that lies does not lead out of the block, or into its tail.
		JournalRevokes{Count: 1 << 31}.Put(b)
		room := 1024 - 16
		if f.HasChecksums() {
			room -= 4
		}
		if got := len(collect()); got != room/JournalRevokeSize(f) {
			t.Errorf("%v: got %d records", f, got)
		}
	}
}

func TestChecksumV1OK(t *testing.T) {
	for _, tt := range []struct {
		kind, size uint8
		sum        uint32
		want       bool
	}{
		{1, 4, 99, true},
		{1, 4, 98, false},
		{0, 0, 0, true}, // says that it has none
		{0, 0, 99, false},
		{4, 4, 99, false},
	} {
		c := JournalCommitBlock{ChecksumType: tt.kind, ChecksumSize: tt.size, Checksum: [8]uint32{tt.sum}}
		if got := c.ChecksumV1OK(99); got != tt.want {
			t.Errorf("%+v: got %t", tt, got)
		}
	}
}

func TestCheckJournalSuper(t *testing.T) {
	good := JournalSuper{
		Header:    JournalHeader{JournalMagic, JournalSuperV2, 0},
		BlockSize: 4096, MaxLen: 2048, First: 1, Sequence: 1, Incompat: JournalCsumV3, ChecksumType: JournalCRC32C,
	}
	tests := []struct {
		field string
		edit  func(*JournalSuper)
	}{
		{"", func(s *JournalSuper) {}},
		{"", func(s *JournalSuper) { s.Incompat |= JournalFastCommit }},
		{"", func(s *JournalSuper) { s.Header.Type = JournalSuperV1; s.Incompat = 0xffff }},
		{"s_num_fc_blks", func(s *JournalSuper) { s.Incompat |= JournalFastCommit; s.NumFCBlocks = 1025 }},
		{"s_start", func(s *JournalSuper) { s.Incompat |= JournalFastCommit; s.Start = 2048 - 256 }},
		{"s_first", func(s *JournalSuper) { s.First = 2048 }},
		{"s_maxlen", func(s *JournalSuper) { s.MaxLen = 4000 }},
		{"s_maxlen", func(s *JournalSuper) { s.MaxLen = 100 }},
		{"s_blocksize", func(s *JournalSuper) { s.BlockSize = 1024 }},
	}
	for _, tt := range tests {
		s := good
		tt.edit(&s)
		b := make([]byte, JournalSuperSize)
		s.Put(b)
		s.Checksum = JournalSuperChecksum(b)
		s.Put(b)
		err := CheckJournalSuper(b, 7, 4096, 3000)
		var c *CorruptError
		if tt.field == "" && err != nil || tt.field != "" && (!errors.As(err, &c) || c.Field != tt.field) {
			t.Errorf("want %q, got %v", tt.field, err)
		}
	}
}

func TestJournalFeatureNames(t *testing.T) {
	if got, want := (JournalRevoke | JournalFastCommit | 1<<9).String(), "journal_incompat_revoke fast_commit FEATURE_I9"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// roundTrip checks that decode and put change neither bytes nor value.
func roundTrip[T comparable](t *testing.T, b []byte, decode func([]byte) T, put func(T, []byte)) {
	t.Helper()
	v := decode(b)
	out := bytes.Clone(b)
	put(v, out)
	if !bytes.Equal(out, b) {
		t.Fatalf("decode and put changed the bytes:\nin  % x\nout % x\nvia %+v", b, out, v)
	}
	clear(out)
	put(v, out)
	if w := decode(out); w != v {
		t.Fatalf("put and decode changed the value: %+v, then %+v", v, w)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, JournalSuperSize), uint32(0x1f))
	f.Add(bytes.Repeat([]byte{0xa5}, JournalSuperSize), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, feat uint32) {
		if len(b) < JournalSuperSize {
			t.Skip()
		}
		b = b[:JournalSuperSize]
		roundTrip(t, b, DecodeJournalSuper, func(s JournalSuper, b []byte) { s.Put(b) })
		roundTrip(t, b, DecodeJournalHeader, JournalHeader.Put)
		roundTrip(t, b, DecodeJournalCommit, func(c JournalCommitBlock, b []byte) { c.Put(b) })
		roundTrip(t, b, DecodeJournalRevokes, JournalRevokes.Put)
		fe := JournalFeature(feat)
		roundTrip(t, b, func(b []byte) JournalTag { return DecodeJournalTag(fe, b) }, func(v JournalTag, b []byte) { v.Put(fe, b) })
		n := 0
		JournalTags(fe, b, func(int, JournalTag) bool { n++; return true })
		JournalRevoked(fe, b, func(PBlock) bool { n++; return true })
		if most := len(b)/8 + len(b)/4; n > most {
			t.Errorf("%d tags and revocations in a block, at most %d fit", n, most)
		}
		_ = CheckJournalSuper(b, 0, 1024, 5000)
	})
}

package disk

import (
	"bytes"
	"testing"
)

func FuzzMMP(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, MMPSize))
	f.Add(bytes.Repeat([]byte{0xa5}, MMPSize))
	b := make([]byte, MMPSize)
	(&MMP{Magic: MMPMagic, Seq: MMPSeqClean, Node: "host", Dev: "loop0", Interval: 5}).Put(b)
	copy(b[90:], "behind the NUL")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < MMPSize {
			t.Skip()
		}
		roundTrip(t, b, DecodeMMP, func(m MMP, b []byte) { m.Put(b) })
		sb := legalSuper(2)
		_ = CheckMMP(&sb, b, 5)
	})
}

func TestCheckMMP(t *testing.T) {
	csum := legalSuper(2)
	none := csum
	none.ROCompat = 0
	tests := []struct {
		name  string
		sb    *Superblock
		edit  func(b []byte)
		field string
		at    int
	}{
		{"legal", &csum, func([]byte) {}, "", 0},
		{"behind the structure", &csum, func(b []byte) { b[1024] ^= 1 }, "", 0},
		{"no checksums", &none, func(b []byte) { b[9] ^= 1 }, "", 0},
		{"magic", &none, func(b []byte) { b[0] ^= 1 }, "mmp_magic", 0},
		{"sequence", &csum, func(b []byte) { b[4] ^= 1 }, "mmp_checksum", 0x3fc},
		{"last byte summed", &csum, func(b []byte) { b[0x3fb] ^= 1 }, "mmp_checksum", 0x3fc},
		{"checksum", &csum, func(b []byte) { b[0x3ff] ^= 1 }, "mmp_checksum", 0x3fc},
	}
	for _, tt := range tests {
		b := make([]byte, 4096)
		m := MMP{Magic: MMPMagic, Seq: 77, Time: 1 << 33, Node: "host", Dev: "loop0", Interval: 5}
		m.Put(b)
		m.Checksum = MMPChecksum(csum.Seed(), b)
		m.Put(b)
		tt.edit(b)
		wantCorrupt(t, tt.name, CheckMMP(tt.sb, b, 66), tt.field, 66, tt.at)
	}
}

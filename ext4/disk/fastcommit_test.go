package disk

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func TestFCLenOK(t *testing.T) {
	for _, tt := range []struct {
		tag      FastCommitTag
		min, max int // lengths that may be, for inodes of 256 bytes
	}{
		{FCAddRange, 16, 16},
		{FCDelRange, 12, 12},
		{FCCreat, 9, 263},
		{FCLink, 9, 263},
		{FCUnlink, 9, 263},
		{FCInode, 132, 260},
		{FCHead, 8, 8},
	} {
		for n := range 400 {
			if got, want := FCLenOK(tt.tag, n, 256), n >= tt.min && n <= tt.max; got != want {
				t.Errorf("%v of %d bytes: got %t", tt.tag, n, got)
			}
		}
	}
	if !FCLenOK(FCPad, 0, 256) || FCLenOK(FCTail, 7, 256) || !FCLenOK(FCTail, 4000, 256) || FCLenOK(0, 0, 256) || FCLenOK(10, 0, 256) {
		t.Error("PAD, TAIL or an unknown tag")
	}
}

func TestDecodeFCAddRange(t *testing.T) {
	for _, tt := range []struct {
		bytes string
		want  FCAddRangeValue
	}{
		{"0c00000005000000010002000000ffff", FCAddRangeValue{Ino: 12, Block: 5, Len: 1, Start: 2<<32 | 0xffff0000}},
		{"0c000000050000000080000009000000", FCAddRangeValue{Ino: 12, Block: 5, Len: 32768, Start: 9}},
		{"0c000000050000000180000009000000", FCAddRangeValue{Ino: 12, Block: 5, Len: 1, Unwritten: true, Start: 9}},
	} {
		b, _ := hex.DecodeString(tt.bytes)
		if got := DecodeFCAddRange(b); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.bytes, got, tt.want)
		}
	}
}

// A tail's checksum leaves out fc_crc and what fills the block.
func TestFCChecksum(t *testing.T) {
	b := make([]byte, 100)
	FCTL{FCTail, 96}.Put(b)
	FCTailValue{TID: 9, CRC: 1}.Put(b[FCTagSize:])
	want := FCChecksum(5, b)
	b[8], b[99] = 0xff, 0xff
	if got := FCChecksum(5, b); got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	b[4] = 0xff
	if got := FCChecksum(5, b); got == want {
		t.Error("fc_tid is not summed")
	}
}

func FuzzFastCommit(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add([]byte("\x01\x00\x10\x00 and an extent with its length"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 16 {
			t.Skip()
		}
		roundTrip(t, b, DecodeFCTL, FCTL.Put)
		roundTrip(t, b, DecodeFCHead, FCHeadValue.Put)
		roundTrip(t, b, DecodeFCTail, FCTailValue.Put)
		roundTrip(t, b, DecodeFCAddRange, FCAddRangeValue.Put)
		roundTrip(t, b, DecodeFCDelRange, FCDelRangeValue.Put)
		out := bytes.Clone(b)
		clear(out[:8])
		DecodeFCDentry(b).Put(out)
		if !bytes.Equal(out, b) {
			t.Errorf("dentry: in % x, out % x", b, out)
		}
		clear(out[:4])
		DecodeFCInode(b).Put(out)
		if !bytes.Equal(out, b) {
			t.Errorf("inode: in % x, out % x", b, out)
		}
		_ = DecodeFCTL(b).Tag.String()
	})
}

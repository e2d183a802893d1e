package mkfs

import (
	"encoding/binary"
	"fmt"
	"testing"

	"e4go/ext4/blockdev"
)

// Every signature is found at each of its places, and is not found after Wipe.
func TestProbe(t *testing.T) {
	t.Parallel()
	const size = 9<<20 + 4096 // not a multiple of what some count from
	probe := func(what, magic string, off int64) {
		t.Run(fmt.Sprintf("%s at %d", what, off), func(t *testing.T) {
			dev := blockdev.NewMem(size)
			finds := func(want string) {
				t.Helper()
				if got, err := Probe(dev, size); err != nil || got != want {
					t.Errorf("%q, %v; want %q", got, err, want)
				}
			}
			finds("")
			if _, err := dev.WriteAt([]byte(magic), off); err != nil {
				t.Fatal(err)
			}
			finds(what)
			if err := (&Target{Dev: dev, window: true}).Wipe(); err != nil {
				t.Fatal(err)
			}
			finds("")
		})
	}
	for _, s := range signatures {
		for _, at := range s.at {
			if at < 0 {
				at += size / max(s.align, 1) * max(s.align, 1)
			}
			probe(s.what, s.magic, at)
		}
	}
	const label = 256 << 10
	zfs := binary.LittleEndian.AppendUint64(nil, zfsMagic)
	for _, at := range []int64{0, label, size/label*label - 2*label, size/label*label - label} {
		for _, slot := range []int64{0, 77, 127} {
			probe("a member of a ZFS pool", string(zfs), at+label/2+slot<<10)
		}
	}
	probe("a member of a ZFS pool", string(binary.BigEndian.AppendUint64(nil, zfsMagic)), label/2)
	probe("a boot sector", "\x55\xaa", 510)
	probe("an MBR partition table", "\x80\x01\x01\x00\x83\xfe\xff\xff\x00\x08\x00\x00\x00\x10\x00\x00"+string(make([]byte, 48))+"\x55\xaa", 446)
}

package disk

import (
	"bytes"
	"slices"
	"testing"
)

// orphanBlock is a block of size bytes of an orphan file in block 66.
func orphanBlock(size int, seed uint32, inos map[int]Ino) []byte {
	b := make([]byte, size)
	for slot, ino := range inos {
		le.PutUint32(b[4*slot:], uint32(ino))
	}
	le.PutUint32(b[size-8:], OrphanMagic)
	le.PutUint32(b[size-4:], OrphanBlockChecksum(seed, 66, b))
	return b
}

func TestOrphanInos(t *testing.T) {
	b := orphanBlock(1024, 7, map[int]Ino{0: 12, 5: 13, 253: 1<<32 - 1})
	if got, want := OrphanInos(b), []Ino{12, 13, 1<<32 - 1}; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d: the magic number and the checksum are no inodes", got, want)
	}
	if got := OrphanInos(orphanBlock(1024, 7, nil)); len(got) != 0 {
		t.Errorf("an empty block names %d", got)
	}
}

func TestCheckOrphanBlock(t *testing.T) {
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
		{"no checksums", &none, 0, "", 0},
		{"magic", &none, 1016, "ob_magic", 1016},
		{"first inode", &csum, 0, "ob_checksum", 1020},
		{"last inode", &csum, 1015, "ob_checksum", 1020},
		{"checksum", &csum, 1023, "ob_checksum", 1020},
	}
	for _, tt := range tests {
		b := orphanBlock(1024, 7, map[int]Ino{3: 99})
		if tt.at >= 0 {
			b[tt.at] ^= 2
		}
		wantCorrupt(t, tt.name, CheckOrphanBlock(tt.sb, b, 7, 66), tt.field, 66, tt.off)
	}
	b := orphanBlock(1024, 7, nil)
	wantCorrupt(t, "another block", CheckOrphanBlock(&csum, b, 7, 67), "ob_checksum", 67, 1020)
	wantCorrupt(t, "another file", CheckOrphanBlock(&csum, b, 8, 66), "ob_checksum", 66, 1020)
}

// FuzzOrphan: no block makes the checks panic, or names more inodes than fit.
func FuzzOrphan(f *testing.F) {
	f.Add(orphanBlock(1024, 7, map[int]Ino{0: 12, 253: 5}), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff}, 20), uint8(6))
	f.Add([]byte{}, uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, log uint8) {
		if log > 6 {
			t.Skip()
		}
		sb := legalSuper(uint32(log))
		block := fill(sb.BlockSize(), b)
		_ = CheckOrphanBlock(&sb, block, 7, 66)
		for _, b := range [][]byte{b, block} {
			if n := len(OrphanInos(b)); n > len(b)/4 || n > 0 && n > (len(b)-8)/4 {
				t.Fatalf("%d inodes in %d bytes", n, len(b))
			}
		}
	})
}

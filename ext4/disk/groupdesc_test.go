package disk

import (
	"bytes"
	"testing"
)

// FuzzGroupDesc: what we decode and put back is what was there, for every
// descriptor, legal or not, of every size.
func FuzzGroupDesc(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, GroupDescSize32), uint32(0))
	f.Add(bytes.Repeat([]byte{0xa5}, GroupDescSize64), uint32(1))
	f.Add(bytes.Repeat([]byte{0x01}, 128), uint32(2)) // s_desc_size may exceed 64
	f.Fuzz(func(t *testing.T, b []byte, group uint32) {
		if len(b) < GroupDescSize32 {
			t.Skip()
		}
		roundTrip(t, b, DecodeGroupDesc, func(g GroupDesc, b []byte) { g.Put(b) })
		sb := legalSuper(2)
		sb.ROCompat = 0
		if err := CheckGroupDesc(&sb, Group(group%3), b, 1, 0); err == nil {
			g := DecodeGroupDesc(b)
			if !inside(&sb, g.BlockBitmap, 1) || !inside(&sb, g.InodeBitmap, 1) || !inside(&sb, g.InodeTable, uint64(sb.ItableBlocks())) {
				t.Fatalf("passed, but lies outside: %+v", g)
			}
		}
	})
}

func inside(sb *Superblock, b PBlock, n uint64) bool {
	return uint64(b) < sb.Blocks && uint64(b)+n <= sb.Blocks
}

func TestCheckGroupDesc(t *testing.T) {
	flex := legalSuper(0) // groups of 8192 blocks from block 1 on, the last one 16385 to 16483; tables of 64 blocks
	plain := flex
	plain.Incompat &^= IncompatFlexBG
	huge := plain
	huge.Blocks = 1<<32 + 2*8192
	crc16 := flex
	crc16.ROCompat = ROCompatGDTCsum
	const hugeGroup = 1<<32/8192 + 1 // from block 1<<32 + 8193 on
	tests := []struct {
		name  string
		sb    *Superblock
		group Group
		desc  GroupDesc
		field string
		at    int
	}{
		{"legal", &flex, 1, GroupDesc{BlockBitmap: 1, InodeBitmap: 16483, InodeTable: 16420}, "", 0},
		{"legal, crc16", &crc16, 1, GroupDesc{BlockBitmap: 1, InodeBitmap: 16483, InodeTable: 16420}, "", 0},
		{"legal at the group's ends", &plain, 1, GroupDesc{BlockBitmap: 8193, InodeBitmap: 16384, InodeTable: 16321}, "", 0},
		{"legal in the last", &plain, 2, GroupDesc{BlockBitmap: 16385, InodeBitmap: 16386, InodeTable: 16420}, "", 0},
		{"legal beyond 32 bits", &huge, hugeGroup, GroupDesc{BlockBitmap: 1<<32 + 8193, InodeBitmap: 1<<32 + 8193, InodeTable: 1<<32 + 8193}, "", 0},
		{"block bitmap 0", &flex, 1, GroupDesc{BlockBitmap: 0, InodeBitmap: 2, InodeTable: 3}, "bg_block_bitmap", 0},
		{"block bitmap at the end", &flex, 1, GroupDesc{BlockBitmap: 16484, InodeBitmap: 2, InodeTable: 3}, "bg_block_bitmap", 0},
		{"inode bitmap", &flex, 1, GroupDesc{BlockBitmap: 1, InodeBitmap: 1 << 40, InodeTable: 3}, "bg_inode_bitmap", 4},
		{"inode table", &flex, 1, GroupDesc{BlockBitmap: 1, InodeBitmap: 2, InodeTable: 0}, "bg_inode_table", 8},
		{"the table's end", &flex, 1, GroupDesc{BlockBitmap: 1, InodeBitmap: 2, InodeTable: 16421}, "bg_inode_table", 8},
		{"the group before", &plain, 1, GroupDesc{BlockBitmap: 8192, InodeBitmap: 8193, InodeTable: 8193}, "bg_block_bitmap", 0},
		{"the group behind", &plain, 1, GroupDesc{BlockBitmap: 8193, InodeBitmap: 16385, InodeTable: 8193}, "bg_inode_bitmap", 4},
		{"a table into the group behind", &plain, 1, GroupDesc{BlockBitmap: 8193, InodeBitmap: 8193, InodeTable: 16322}, "bg_inode_table", 8},
		{"beyond the last", &plain, 2, GroupDesc{BlockBitmap: 16385, InodeBitmap: 16386, InodeTable: 16421}, "bg_inode_table", 8},
		{"the low half of the group's block", &huge, hugeGroup, GroupDesc{BlockBitmap: 8193, InodeBitmap: 1<<32 + 8193, InodeTable: 1<<32 + 8193}, "bg_block_bitmap", 0},
	}
	for _, tt := range tests {
		b := make([]byte, GroupDescSize64)
		tt.desc.Put(b)
		tt.desc.Checksum = GroupDescChecksum(tt.sb, tt.group, b)
		tt.desc.Put(b)
		wantCorrupt(t, tt.name, CheckGroupDesc(tt.sb, tt.group, b, 7, 0x40), tt.field, 7, 0x40+tt.at)
		if tt.field == "" {
			b[0x1e]++
			wantCorrupt(t, tt.name+", other sum", CheckGroupDesc(tt.sb, tt.group, b, 7, 0x40), "bg_checksum", 7, 0x5e)
			b[0x1e]--
			err := CheckGroupDesc(tt.sb, tt.group^1, b, 7, 0x40)
			wantCorrupt(t, tt.name+", for another group", err, "bg_checksum", 7, 0x5e)
		}
	}
}

// Without a checksum feature there is no checksum.
func TestGroupDescNoChecksum(t *testing.T) {
	sb := legalSuper(2)
	sb.ROCompat = 0
	b := make([]byte, GroupDescSize64)
	g := GroupDesc{BlockBitmap: 1, InodeBitmap: 2, InodeTable: 3, Checksum: 0xbeef}
	g.Put(b)
	if sum := GroupDescChecksum(&sb, 0, b); sum != 0 {
		t.Errorf("got %#x, want 0", sum)
	}
	wantCorrupt(t, "no feature", CheckGroupDesc(&sb, 0, b, 1, 0), "", 0, 0)
}

// The catalogued check values of CRC-16/MODBUS, which starts from ~0 as
// descriptors do, and of CRC-32C, which is inverted at the end.
func TestCRCs(t *testing.T) {
	nine := []byte("123456789")
	if got := crc16(^uint16(0), nine); got != 0x4b37 {
		t.Errorf("crc16: got %#04x, want 0x4b37", got)
	}
	if got := ^CRC32C(^uint32(0), nine); got != 0xe3069283 {
		t.Errorf("crc32c: got %#08x, want 0xe3069283", got)
	}
	if got, want := crc32cUint32(1, 0x64636261), CRC32C(1, []byte("abcd")); got != want {
		t.Errorf("crc32c of a word: got %#08x, want %#08x", got, want)
	}
}

func TestGroupFlags(t *testing.T) {
	for _, tt := range []struct {
		flags GroupFlags
		want  string
	}{
		{0, ""},
		{GroupInodeUninit, "INODE_UNINIT"},
		{GroupBlockUninit | GroupInodeZeroed, "BLOCK_UNINIT, ITABLE_ZEROED"},
		{0x8007, "INODE_UNINIT, BLOCK_UNINIT, ITABLE_ZEROED, 0x8000"},
	} {
		if got := tt.flags.String(); got != tt.want {
			t.Errorf("%#x: got %q, want %q", uint16(tt.flags), got, tt.want)
		}
	}
}

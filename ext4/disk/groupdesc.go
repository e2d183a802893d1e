package disk

import (
	"fmt"
	"strings"
)

// The sizes a group descriptor has without and, at least, with the 64bit feature.
const (
	GroupDescSize32 = 32
	GroupDescSize64 = 64
)

// GroupDesc is struct ext4_group_desc: where one block group keeps its
// bitmaps and inode table, and how much of the group is free.
//
//	       +0       +2       +4       +6
//	0x00  | block bitmap    | inode bitmap    |
//	0x08  | inode table     | free bl| free in|
//	0x10  | dirs   | flags  | exclude bitmap  |
//	0x18  | bb sum | ib sum | unused | checksum
//	0x20  | high halves of the above, where there is room (64 bytes and more)
type GroupDesc struct {
	BlockBitmap     PBlock     // bg_block_bitmap
	InodeBitmap     PBlock     // bg_inode_bitmap
	InodeTable      PBlock     // bg_inode_table: its first block
	FreeClusters    uint32     // bg_free_blocks_count: in clusters, despite its name
	FreeInodes      uint32     // bg_free_inodes_count
	UsedDirs        uint32     // bg_used_dirs_count
	Flags           GroupFlags // bg_flags
	BlockBitmapCsum uint32     // bg_block_bitmap_csum: 16 bits in 32-byte descriptors
	InodeBitmapCsum uint32     // bg_inode_bitmap_csum: likewise
	ItableUnused    uint32     // bg_itable_unused: inodes at the table's end never used
	Checksum        uint16     // bg_checksum
}

// GroupFlags is bg_flags. Unknown bits are kept as they were found.
type GroupFlags uint16

const (
	GroupInodeUninit GroupFlags = 1 << iota // EXT4_BG_INODE_UNINIT
	GroupBlockUninit                        // EXT4_BG_BLOCK_UNINIT
	GroupInodeZeroed                        // EXT4_BG_INODE_ZEROED
)

// String gives the flags as dumpe2fs prints them: "INODE_UNINIT, ITABLE_ZEROED".
func (f GroupFlags) String() string {
	var out []string
	for i, name := range []string{"INODE_UNINIT", "BLOCK_UNINIT", "ITABLE_ZEROED"} {
		if f&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	if rest := f &^ 7; rest != 0 {
		out = append(out, fmt.Sprintf("%#x", uint16(rest)))
	}
	return strings.Join(out, ", ")
}

// DecodeGroupDesc decodes the descriptor in b, which is s_desc_size bytes
// long: 32, or 64 and more for the high halves. It panics if b is shorter
// than 32 bytes.
func DecodeGroupDesc(b []byte) GroupDesc {
	lo := (*[GroupDescSize32]byte)(b)
	g := GroupDesc{
		BlockBitmap:     PBlock(le.Uint32(lo[0x00:0x04])),
		InodeBitmap:     PBlock(le.Uint32(lo[0x04:0x08])),
		InodeTable:      PBlock(le.Uint32(lo[0x08:0x0c])),
		FreeClusters:    uint32(le.Uint16(lo[0x0c:0x0e])),
		FreeInodes:      uint32(le.Uint16(lo[0x0e:0x10])),
		UsedDirs:        uint32(le.Uint16(lo[0x10:0x12])),
		Flags:           GroupFlags(le.Uint16(lo[0x12:0x14])),
		BlockBitmapCsum: uint32(le.Uint16(lo[0x18:0x1a])),
		InodeBitmapCsum: uint32(le.Uint16(lo[0x1a:0x1c])),
		ItableUnused:    uint32(le.Uint16(lo[0x1c:0x1e])),
		Checksum:        le.Uint16(lo[0x1e:0x20]),
	}
	if len(b) < GroupDescSize64 {
		return g
	}
	hi := (*[GroupDescSize64]byte)(b)
	g.BlockBitmap |= PBlock(le.Uint32(hi[0x20:0x24])) << 32
	g.InodeBitmap |= PBlock(le.Uint32(hi[0x24:0x28])) << 32
	g.InodeTable |= PBlock(le.Uint32(hi[0x28:0x2c])) << 32
	g.FreeClusters |= uint32(le.Uint16(hi[0x2c:0x2e])) << 16
	g.FreeInodes |= uint32(le.Uint16(hi[0x2e:0x30])) << 16
	g.UsedDirs |= uint32(le.Uint16(hi[0x30:0x32])) << 16
	g.ItableUnused |= uint32(le.Uint16(hi[0x32:0x34])) << 16
	g.BlockBitmapCsum |= uint32(le.Uint16(hi[0x38:0x3a])) << 16
	g.InodeBitmapCsum |= uint32(le.Uint16(hi[0x3a:0x3c])) << 16
	return g
}

// Put writes g into b, the inverse of [DecodeGroupDesc]. The bytes that
// GroupDesc has no field for stay as they are.
func (g *GroupDesc) Put(b []byte) {
	lo := (*[GroupDescSize32]byte)(b)
	le.PutUint32(lo[0x00:0x04], uint32(g.BlockBitmap))
	le.PutUint32(lo[0x04:0x08], uint32(g.InodeBitmap))
	le.PutUint32(lo[0x08:0x0c], uint32(g.InodeTable))
	le.PutUint16(lo[0x0c:0x0e], uint16(g.FreeClusters))
	le.PutUint16(lo[0x0e:0x10], uint16(g.FreeInodes))
	le.PutUint16(lo[0x10:0x12], uint16(g.UsedDirs))
	le.PutUint16(lo[0x12:0x14], uint16(g.Flags))
	le.PutUint16(lo[0x18:0x1a], uint16(g.BlockBitmapCsum))
	le.PutUint16(lo[0x1a:0x1c], uint16(g.InodeBitmapCsum))
	le.PutUint16(lo[0x1c:0x1e], uint16(g.ItableUnused))
	le.PutUint16(lo[0x1e:0x20], g.Checksum)
	if len(b) < GroupDescSize64 {
		return
	}
	hi := (*[GroupDescSize64]byte)(b)
	le.PutUint32(hi[0x20:0x24], uint32(g.BlockBitmap>>32))
	le.PutUint32(hi[0x24:0x28], uint32(g.InodeBitmap>>32))
	le.PutUint32(hi[0x28:0x2c], uint32(g.InodeTable>>32))
	le.PutUint16(hi[0x2c:0x2e], uint16(g.FreeClusters>>16))
	le.PutUint16(hi[0x2e:0x30], uint16(g.FreeInodes>>16))
	le.PutUint16(hi[0x30:0x32], uint16(g.UsedDirs>>16))
	le.PutUint16(hi[0x32:0x34], uint16(g.ItableUnused>>16))
	le.PutUint16(hi[0x38:0x3a], uint16(g.BlockBitmapCsum>>16))
	le.PutUint16(hi[0x3a:0x3c], uint16(g.InodeBitmapCsum>>16))
}

// GroupDescChecksum is bg_checksum for descriptor b of group: with
// metadata_csum the low half of crc32c over the group number and all of b,
// with gdt_csum a crc16 over the UUID, the group number and all of b, with the
// checksum field taken as zero in the one and left out in the other
// (ext4_group_desc_csum). Without either feature it is 0.
func GroupDescChecksum(sb *Superblock, group Group, b []byte) uint16 {
	var num [4]byte
	le.PutUint32(num[:], uint32(group))
	switch {
	case sb.MetadataCsum():
		crc := crc32c(sb.Seed(), num[:])
		crc = crc32c(crc, b[:0x1e])
		crc = crc32c(crc, []byte{0, 0})
		crc = crc32c(crc, b[0x20:])
		return uint16(crc)
	case sb.ROCompat.Has(ROCompatGDTCsum):
		crc := crc16(^uint16(0), sb.UUID[:])
		crc = crc16(crc, num[:])
		crc = crc16(crc, b[:0x1e])
		return crc16(crc, b[0x20:])
	}
	return 0
}

// CheckGroupDesc reports the first rule of the format that the descriptor b
// of group breaks, or nil. It was read from physical block blk, at byte off.
func CheckGroupDesc(sb *Superblock, group Group, b []byte, blk PBlock, off int) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{
			Struct: "group descriptor", Num: uint64(group),
			Block: blk, Off: off + at, Field: field, Have: have, Want: want,
		}
	}
	g := DecodeGroupDesc(b)
	if sum := GroupDescChecksum(sb, group, b); sb.DescChecksums() && g.Checksum != sum {
		return bad(0x1e, "bg_checksum", fmt.Sprintf("%#04x", g.Checksum), fmt.Sprintf("%#04x", sum))
	}
	for _, p := range []struct {
		at    int
		field string
		block PBlock
		n     uint64
	}{
		{0x00, "bg_block_bitmap", g.BlockBitmap, 1},
		{0x04, "bg_inode_bitmap", g.InodeBitmap, 1},
		{0x08, "bg_inode_table", g.InodeTable, uint64(sb.ItableBlocks())},
	} {
		first, last := uint64(sb.FirstDataBlock), sb.Blocks
		if !sb.Incompat.Has(IncompatFlexBG) {
			first = uint64(sb.FirstBlock(group))
			last = first + uint64(sb.BlocksInGroup(group))
		}
		if uint64(p.block) < first || uint64(p.block) >= last || p.n > last-uint64(p.block) {
			return bad(p.at, p.field, fmt.Sprint(p.block), fmt.Sprintf("%d blocks within %d to %d", p.n, first, last-1))
		}
	}
	return nil
}

// BitmapChecksum is the checksum of one bitmap, of which the first n bytes
// count: all clusters or inodes of a full group, rounded down
// (ext4_block_bitmap_csum_set). Descriptors of 32 bytes hold its low half.
func BitmapChecksum(sb *Superblock, bitmap []byte) uint32 { return crc32c(sb.Seed(), bitmap) }

// crc16 is the CRC with polynomial 0xA001 (reversed 0x8005), as the kernel's
// lib/crc16: not inverted at either end.
func crc16(crc uint16, b []byte) uint16 {
	for _, c := range b {
		crc = crc>>8 ^ crc16Table[byte(crc)^c]
	}
	return crc
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		v := uint16(i)
		for range 8 {
			if v&1 != 0 {
				v = v>>1 ^ 0xA001
			} else {
				v >>= 1
			}
		}
		t[i] = v
	}
	return
}()

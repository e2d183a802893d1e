package disk

import (
	"bytes"
	"testing"
)

// legalSuper is a superblock of three groups that breaks no rule, for blocks
// of 1024 << log bytes.
func legalSuper(log uint32) Superblock {
	bpg := uint32(8192) << log
	sb := Superblock{
		Inodes: 3 * 256, Blocks: 2*uint64(bpg) + 100, LogBlockSize: log, LogClusterSize: log, BlocksPerGroup: bpg, ClustersPerGroup: bpg,
		InodesPerGroup: 256, Magic: SuperMagic, RevLevel: 1, FirstIno: 11, InodeSize: 256, DescSize: 64, ChecksumType: 1,
		Incompat: IncompatExtents | Incompat64Bit | IncompatFiletype | IncompatFlexBG, ROCompat: ROCompatMetadataCsum,
		UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	}
	if log == 0 {
		sb.FirstDataBlock = 1
	}
	return sb
}

// sealed is sb as it stands on disk, with its checksum.
func sealed(sb Superblock) []byte {
	b := make([]byte, SuperblockSize)
	sb.Put(b)
	sb.Checksum = SuperblockChecksum(b)
	sb.Put(b)
	return b
}

// bigalloc makes sb one of clusters of 16 blocks.
func bigalloc(sb *Superblock) {
	sb.ROCompat |= ROCompatBigalloc
	sb.LogClusterSize = sb.LogBlockSize + 4
	sb.BlocksPerGroup = sb.ClustersPerGroup << 4
	sb.Blocks = 3 * uint64(sb.BlocksPerGroup)
	sb.FirstDataBlock = 0
}

func TestCheckSuperblock(t *testing.T) {
	tests := []struct {
		name  string
		field string // "" if the edit leaves it legal
		at    int
		log   uint32
		edit  func(*Superblock)
	}{
		{"legal 1k", "", 0, 0, func(sb *Superblock) {}},
		{"legal 4k", "", 0, 2, func(sb *Superblock) {}},
		{"largest blocks", "", 0, 6, func(sb *Superblock) {}},
		{"bigalloc", "", 0, 2, bigalloc},
		{"bigalloc, 1k, block 0", "", 0, 0, bigalloc},
		{"revision 0", "", 0, 0, func(sb *Superblock) { sb.RevLevel, sb.InodeSize, sb.FirstIno = 0, 7, 0 }},
		{"no checksum", "", 0, 2, func(sb *Superblock) { sb.ROCompat, sb.ChecksumType = 0, 0 }},
		{"largest inodes", "", 0, 2, func(sb *Superblock) { sb.InodeSize = 4096 }},
		{"smallest inodes", "", 0, 2, func(sb *Superblock) { sb.InodeSize = 128 }},
		{"largest descriptors", "", 0, 0, func(sb *Superblock) { sb.DescSize = 1024 }},
		{"descriptor size without 64bit", "", 0, 2, func(sb *Superblock) { sb.Incompat, sb.DescSize = 0, 3 }},
		{"most inodes", "", 0, 0, func(sb *Superblock) { sb.InodesPerGroup, sb.Inodes = 8192, 3*8192 }},
		{"fewest inodes", "", 0, 2, func(sb *Superblock) { sb.InodesPerGroup, sb.Inodes = 16, 48 }},
		{"highest meta group", "", 0, 2, func(sb *Superblock) { sb.Incompat |= IncompatMetaBG; sb.FirstMetaBG = 1 }},
		{"meta group without the feature", "", 0, 2, func(sb *Superblock) { sb.FirstMetaBG = 99 }},
		{"largest flexible group", "", 0, 2, func(sb *Superblock) { sb.LogGroupsPerFlex = 31 }},

		{"magic", "s_magic", 0x38, 2, func(sb *Superblock) { sb.Magic = 0xEF52 }},
		{"checksum type", "s_checksum_type", 0x175, 2, func(sb *Superblock) { sb.ChecksumType = 2 }},
		{"block size", "s_log_block_size", 0x18, 7, func(sb *Superblock) { sb.BlocksPerGroup, sb.Blocks = 8192, 3*8192 }},
		{"block size beyond shifts", "s_log_block_size", 0x18, 2, func(sb *Superblock) { sb.LogBlockSize = 1<<32 - 1 }},
		{"cluster size without bigalloc", "s_log_cluster_size", 0x1c, 0, func(sb *Superblock) { sb.LogClusterSize++ }},
		{"cluster below block", "s_log_cluster_size", 0x1c, 2, func(sb *Superblock) { bigalloc(sb); sb.LogClusterSize = 1 }},
		{"cluster size", "s_log_cluster_size", 0x1c, 2, func(sb *Superblock) { bigalloc(sb); sb.LogClusterSize = 21 }},
		{"small inodes", "s_inode_size", 0x58, 2, func(sb *Superblock) { sb.InodeSize = 64 }},
		{"no inodes", "s_inode_size", 0x58, 2, func(sb *Superblock) { sb.InodeSize = 0 }},
		{"odd inodes", "s_inode_size", 0x58, 2, func(sb *Superblock) { sb.InodeSize = 384 }},
		{"inodes over a block", "s_inode_size", 0x58, 2, func(sb *Superblock) { sb.InodeSize = 8192 }},
		{"first inode", "s_first_ino", 0x54, 2, func(sb *Superblock) { sb.FirstIno = 10 }},
		{"small descriptors", "s_desc_size", 0xfe, 2, func(sb *Superblock) { sb.DescSize = 32 }},
		{"odd descriptors", "s_desc_size", 0xfe, 2, func(sb *Superblock) { sb.DescSize = 96 }},
		{"large descriptors", "s_desc_size", 0xfe, 2, func(sb *Superblock) { sb.DescSize = 2048 }},
		{"empty groups", "s_blocks_per_group", 0x20, 2, func(sb *Superblock) { sb.BlocksPerGroup = 0 }},
		{"groups over a bitmap", "s_blocks_per_group", 0x20, 2, func(sb *Superblock) { sb.BlocksPerGroup++; sb.Blocks += 3 }},
		{"no clusters", "s_clusters_per_group", 0x24, 2, func(sb *Superblock) { bigalloc(sb); sb.ClustersPerGroup = 0 }},
		{"clusters over a bitmap", "s_clusters_per_group", 0x24, 2, func(sb *Superblock) { bigalloc(sb); sb.ClustersPerGroup++; sb.BlocksPerGroup += 16 }},
		{"groups of half clusters", "s_blocks_per_group", 0x20, 2, func(sb *Superblock) { bigalloc(sb); sb.BlocksPerGroup -= 8 }},
		{"an inode table of no block", "s_inodes_per_group", 0x28, 2, func(sb *Superblock) { sb.InodesPerGroup, sb.Inodes = 15, 45 }},
		{"inodes over a bitmap", "s_inodes_per_group", 0x28, 0, func(sb *Superblock) { sb.InodesPerGroup, sb.Inodes = 8193, 3*8193 }},
		{"1k and block 0", "s_first_data_block", 0x14, 0, func(sb *Superblock) { sb.FirstDataBlock = 0 }},
		{"1k, block 0, clusters of a block", "s_first_data_block", 0x14, 0, func(sb *Superblock) {
			sb.ROCompat |= ROCompatBigalloc
			sb.FirstDataBlock = 0
		}},
		{"no block", "s_first_data_block", 0x14, 0, func(sb *Superblock) { sb.Blocks = 1 }},
		{"too many blocks", "s_blocks_count", 0x04, 2, func(sb *Superblock) { sb.Blocks = 1<<48 + 1 }},
		{"too many groups", "s_blocks_per_group", 0x20, 2, func(sb *Superblock) { sb.BlocksPerGroup, sb.Blocks = 1, 1<<32 }},
		{"inodes", "s_inodes_count", 0, 2, func(sb *Superblock) { sb.Inodes++ }},
		{"meta group", "s_first_meta_bg", 0x104, 2, func(sb *Superblock) { sb.Incompat |= IncompatMetaBG; sb.FirstMetaBG = 2 }},
		{"flexible group", "s_log_groups_per_flex", 0x174, 2, func(sb *Superblock) { sb.LogGroupsPerFlex = 32 }},
	}
	for _, tt := range tests {
		sb := legalSuper(tt.log)
		tt.edit(&sb)
		blk, off := PBlock(0), SuperblockOffset+tt.at
		if tt.log == 0 || sb.Magic != SuperMagic || sb.LogBlockSize > 6 {
			blk, off = 1, tt.at // without a block size, places are given in blocks of 1 KiB
		}
		wantCorrupt(t, tt.name, CheckSuperblock(sealed(sb), SuperblockOffset), tt.field, blk, off)
	}
}

// A backup is named by its group, and its place is given in the file system's blocks.
func TestCheckSuperblockBackup(t *testing.T) {
	sb := legalSuper(2)
	sb.BlockGroup = 1
	b := sealed(sb)
	if err := CheckSuperblock(b, 32768*4096); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 0x78, 0x2ff, 0x3fb, 0x3fc, 0x3ff} {
		bad := bytes.Clone(b)
		bad[at] ^= 0x10
		err := CheckSuperblock(bad, 32768*4096)
		wantCorrupt(t, "a flipped bit", err, "s_checksum", 32768, 0x3fc)
		if c := err.(*CorruptError); c.Num != 1 {
			t.Errorf("the superblock of group %d, want 1", c.Num)
		}
	}
}

// The eight bits that times have beyond their 32 (s_wtime_hi and following),
// and the fields there that debugfs does not set.
func TestSuperblockHighBytes(t *testing.T) {
	b := make([]byte, SuperblockSize)
	for i := range 20 {
		b[0x274+i] = byte(i + 1)
	}
	le.PutUint32(b[0x30:], 0x10203040)
	b[0x4c] = 1
	sb := DecodeSuperblock(b)
	for _, tt := range []struct {
		name      string
		got, want int64
	}{
		{"s_wtime", sb.Wtime, 1<<32 | 0x10203040},
		{"s_mtime", sb.Mtime, 2 << 32},
		{"s_mkfs_time", sb.MkfsTime, 3 << 32},
		{"s_lastcheck", sb.LastCheck, 4 << 32},
		{"s_first_error_time", sb.FirstError.Time, 5 << 32},
		{"s_last_error_time", sb.LastError.Time, 6 << 32},
		{"s_first_error_errcode", int64(sb.FirstError.Code), 7},
		{"s_last_error_errcode", int64(sb.LastError.Code), 8},
		{"s_encoding", int64(sb.Encoding), 0x0a09},
		{"s_encoding_flags", int64(sb.EncodingFlags), 0x0c0b},
		{"s_orphan_file_inum", int64(sb.OrphanFileIno), 0x100f0e0d},
		{"s_def_resuid_hi", int64(sb.DefResUIDHi), 0x1211},
		{"s_def_resgid_hi", int64(sb.DefResGIDHi), 0x1413},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.name, tt.got, tt.want)
		}
	}
}

// In revision 0 inodes have the size and the first number they had then; the
// features count.
func TestSuperblockRevision0(t *testing.T) {
	b := bytes.Repeat([]byte{0xa5}, SuperblockSize)
	le.PutUint32(b[0x4c:], 0)
	sb := DecodeSuperblock(b)
	if sb.FirstIno != 11 || sb.InodeSize != 128 || sb.Compat != 0xa5a5a5a5 || sb.DescSize != 0xa5a5 || sb.Blocks != 0xa5a5a5a5a5a5a5a5 {
		t.Errorf("got %+v", sb)
	}
	sb.FirstIno, sb.InodeSize = 99, 99
	out := bytes.Clone(b)
	if sb.Put(out); !bytes.Equal(out, b) {
		t.Error("Put wrote what revision 0 does not have")
	}
	rev0 := legalSuper(2)
	rev0.RevLevel = 0
	b = sealed(rev0)
	b[0x78] ^= 1
	wantCorrupt(t, "a flipped bit", CheckSuperblock(b, SuperblockOffset), "s_checksum", 0, 1024+0x3fc)
}

// What stands behind the first NUL of a text survives as long as the text stays.
func TestPutText(t *testing.T) {
	for _, tt := range []struct{ old, text, want string }{
		{"abc\x00junk", "abc", "abc\x00junk"},
		{"abc\x00junk", "ab", "ab\x00\x00\x00\x00\x00\x00"},
		{"abc\x00junk", "", "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"\x00\x00\x00\x00\x00\x00\x00\x00", "exactly8", "exactly8"},
		{"exactly8", "longer than that", "longer t"},
	} {
		b := []byte(tt.old)
		if putText(b, tt.text); string(b) != tt.want {
			t.Errorf("%q over %q: got %q, want %q", tt.text, tt.old, b, tt.want)
		}
	}
}

// FuzzSuperblock: decoding and putting back keeps the bytes, and what
// CheckSuperblock passes can be computed with.
func FuzzSuperblock(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xff}, SuperblockSize))
	f.Add(bytes.Repeat([]byte{0xa5}, SuperblockSize))
	f.Add(make([]byte, SuperblockSize))
	for log := range uint32(7) {
		sb := legalSuper(log)
		f.Add(sealed(sb))
		sb.Incompat |= IncompatMetaBG
		sb.ROCompat = ROCompatSparseSuper | ROCompatGDTCsum
		f.Add(sealed(sb))
		bigalloc(&sb)
		sb.Compat = CompatSparseSuper2
		f.Add(sealed(sb))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < SuperblockSize {
			t.Skip()
		}
		b = b[:SuperblockSize]
		roundTrip(t, b, DecodeSuperblock, func(sb Superblock, b []byte) { sb.Put(b) })
		_ = CheckSuperblock(b, SuperblockOffset)
		b = bytes.Clone(b)
		le.PutUint32(b[superChecksumAt:], SuperblockChecksum(b))
		if CheckSuperblock(b, SuperblockOffset) != nil {
			return
		}
		sb := DecodeSuperblock(b)
		n := sb.Groups()
		last := Group(n - 1)
		if n == 0 || n > 1<<32 || sb.DescBlocks() == 0 || sb.DescPerBlock() < 1 || sb.InodesPerBlock() < 1 || sb.ItableBlocks() < 1 {
			t.Fatalf("%d groups, %d descriptors and %d inodes a block: %+v", n, sb.DescPerBlock(), sb.InodesPerBlock(), sb)
		}
		if end := uint64(sb.FirstBlock(last)) + uint64(sb.BlocksInGroup(last)); end != sb.Blocks || sb.BlocksInGroup(last) == 0 || sb.BlocksInGroup(last) > sb.BlocksPerGroup {
			t.Fatalf("the last group ends at %d of %d blocks", end, sb.Blocks)
		}
		for _, g := range []Group{0, 1, last / 2, last} {
			if uint64(g) >= n {
				continue
			}
			first := sb.FirstBlock(g)
			if sb.GroupOf(first) != g || sb.GroupOf(first+PBlock(sb.BlocksInGroup(g))-1) != g {
				t.Fatalf("group %d from %d on is said to be %d", g, first, sb.GroupOf(first))
			}
			if ino := Ino(uint32(g)*sb.InodesPerGroup + 1); ino != 0 && sb.ValidIno(ino) {
				if got, index := sb.InodeGroup(ino); got != g || index != 0 {
					t.Fatalf("inode %d is said to be number %d of group %d, want the first of %d", ino, index, got, g)
				}
			}
			_, _ = sb.HasSuper(g), sb.BaseMetaBlocks(g)
			_ = sb.DescBlock(first, uint64(g)/uint64(sb.DescPerBlock()))
		}
	})
}

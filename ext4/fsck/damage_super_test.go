package fsck_test

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// superField sets n bytes of the superblock, and repairs its checksum.
func superField(off, n int, value uint64) func(v *volume) {
	return func(v *volume) {
		v.change(disk.SuperblockOffset, disk.SuperblockSize, func(b []byte) {
			var buf [8]byte
			binary.LittleEndian.PutUint64(buf[:], value)
			copy(b[off:off+n], buf[:])
			if sb := disk.DecodeSuperblock(b); v.sb.MetadataCsum() {
				sb.Checksum = disk.SuperblockChecksum(b)
				sb.Put(b)
			}
		})
	}
}

// mmpField sets 32 bits of the block of multiple mount protection.
func mmpField(off int, value uint32) func(v *volume) {
	return func(v *volume) {
		v.change(int64(v.sb.MMPBlock)*v.bs, int(v.bs), func(b []byte) {
			binary.LittleEndian.PutUint32(b[off:], value)
			if v.sb.MetadataCsum() {
				binary.LittleEndian.PutUint32(b[0x3fc:], disk.MMPChecksum(v.seed, b))
			}
		})
	}
}

// damagedSupers have odd values in the superblock, or in what hangs on it.
var damagedSupers = []damaging{
	{name: "s_r_blocks_count is all", image: "ext4-4k", change: superField(0x08, 4, 16384)},
	{name: "s_free_blocks_count is wrong", image: "ext4-4k", change: superField(0x0c, 4, 5), sound: true},
	{name: "s_free_blocks_count is above all", image: "ext4-4k", change: superField(0x0c, 4, 0xffffffff), sound: true},
	{name: "s_free_inodes_count is wrong", image: "ext4-4k", change: superField(0x10, 4, 5), sound: true},
	{name: "s_free_inodes_count is above all", image: "ext4-4k", change: superField(0x10, 4, 0xffffffff), sound: true},
	{name: "s_log_block_size is 7", image: "ext4-4k", change: superField(0x18, 4, 7)},
	{name: "s_log_block_size is another", image: "ext4-4k", change: superField(0x18, 4, 0)},
	{name: "s_inodes_count is one less", image: "ext4-4k", change: superField(0x00, 4, 4095)},
	{name: "s_blocks_count is less", image: "ext4-4k", change: superField(0x04, 4, 16000)},
	{name: "s_blocks_count is more", image: "ext4-4k", change: superField(0x04, 4, 17000), unnamed: "0x050003 0x050006 0x050014"},
	{name: "s_first_data_block is 1", image: "ext4-4k", change: superField(0x14, 4, 1), unnamed: "0x00000f"},
	{name: "s_inodes_per_group is less", image: "ext4-4k", change: superField(0x28, 4, 2048)},
	{name: "s_blocks_per_group is less", image: "ext4-1k", change: superField(0x20, 4, 4096)},
	{name: "s_blocks_per_group is 0", image: "ext4-1k", change: superField(0x20, 4, 0)},
	{name: "s_state is 0", image: "ext4-4k", change: superField(0x3a, 2, 0), sound: true},
	{name: "s_state has errors", image: "ext4-4k", change: superField(0x3a, 2, 3), sound: true},
	{name: "s_state has orphans", image: "ext4-4k", change: superField(0x3a, 2, 5), sound: true},
	{name: "s_errors is 99", image: "ext4-4k", change: superField(0x3c, 2, 99), sound: true},
	{name: "s_minor_rev_level is 9", image: "ext4-4k", change: superField(0x3e, 2, 9), sound: true},
	{name: "s_creator_os is the Hurd", image: "ext2-1k", change: superField(0x48, 4, 1)},
	{name: "s_creator_os is unknown", image: "ext4-4k", change: superField(0x48, 4, 77), sound: true},
	{name: "s_rev_level is 0", image: "ext2-1k", change: superField(0x4c, 4, 0), sound: true},
	{name: "s_rev_level is 2", image: "ext4-4k", change: superField(0x4c, 4, 2)},
	{name: "s_first_ino is 5", image: "ext4-4k", change: superField(0x54, 4, 5)},
	{name: "s_first_ino is 12", image: "ext4-4k", change: superField(0x54, 4, 12)},
	{name: "s_first_ino is above all", image: "ext4-4k", change: superField(0x54, 4, 99999)},
	{name: "s_inode_size is 128", image: "ext4-4k", change: superField(0x58, 2, 128)},
	{name: "s_inode_size is 300", image: "ext4-4k", change: superField(0x58, 2, 300)},
	{name: "s_inode_size is 512", image: "ext4-4k", change: superField(0x58, 2, 512)},
	{name: "s_block_group_nr is 1", image: "ext4-4k", change: superField(0x5a, 2, 1), sound: true},
	{name: "s_uuid is zero", image: "ext2-1k", change: superField(0x68, 8, 0), sound: true},
	{name: "s_algorithm_usage_bitmap is all", image: "ext4-4k", change: superField(0xc8, 4, 0xffffffff), sound: true},
	{name: "s_prealloc_dir_blocks is all", image: "ext2-1k", change: superField(0xcd, 1, 255), sound: true},
	{name: "s_last_orphan is a file", image: "ext4-4k", change: superField(0xe8, 4, 14), sound: true},
	{name: "s_last_orphan is a directory", image: "ext4-4k", debugfs: "ssv last_orphan 23", sound: true},
	{name: "s_last_orphan is free", image: "ext4-4k", change: superField(0xe8, 4, 900), sound: true},
	{name: "s_last_orphan does not exist", image: "ext4-4k", change: superField(0xe8, 4, 99999), sound: true},
	{name: "s_last_orphan is the journal", image: "ext4-4k", change: superField(0xe8, 4, 8), sound: true},
	{name: "s_desc_size is 32", image: "ext4-4k", change: superField(0xfe, 2, 32), ours: "the kernel does not mount it: unsupported descriptor size", unnamed: "0x000035 0x00003e"},
	{name: "s_desc_size is 128", image: "ext4-4k", change: superField(0xfe, 2, 128), ours: "it is mounted to be read only"},
	{name: "s_desc_size is 65", image: "ext4-4k", change: superField(0xfe, 2, 65), unnamed: "0x000045"},
	{name: "s_default_mount_opts is all", image: "ext4-4k", change: superField(0x100, 4, 0xffffffff), sound: true},
	{name: "s_first_meta_bg is 1", image: "ext4-4k", change: superField(0x104, 4, 1), sound: true},
	{name: "s_first_meta_bg is far", image: "meta-bg", change: superField(0x104, 4, 500)},
	{name: "s_mkfs_time is 0", image: "ext4-4k", change: superField(0x108, 4, 0), sound: true},
	{name: "s_min_extra_isize is 200", image: "ext4-4k", change: superField(0x15c, 2, 200), sound: true},
	{name: "s_want_extra_isize is 3", image: "ext4-4k", change: superField(0x15e, 2, 3), sound: true},
	{name: "s_flags is 0", image: "ext4-4k", change: superField(0x160, 4, 0), sound: true},
	{name: "s_flags is of a test", image: "ext4-4k", change: superField(0x160, 4, 5), sound: true},
	{name: "s_log_groups_per_flex is 31", image: "ext4-1k", change: superField(0x174, 1, 31), sound: true},
	{name: "s_log_groups_per_flex is 77", image: "ext4-1k", change: superField(0x174, 1, 77)},
	{name: "s_checksum_type is 2", image: "ext4-4k", change: superField(0x175, 1, 2)},
	{name: "s_kbytes_written is all", image: "ext4-4k", change: superField(0x178, 8, ^uint64(0)), sound: true},
	{name: "s_overhead_blocks is all", image: "ext4-4k", change: superField(0x248, 4, 0xffffffff), sound: true},
	{name: "s_backup_bgs are 0", image: "sparse-super2", change: superField(0x24c, 8, 0)},
	{name: "s_backup_bgs are others", image: "sparse-super2", change: superField(0x24c, 8, 0x0000000300000002)},
	{name: "s_backup_bgs are far", image: "sparse-super2", change: superField(0x24c, 8, 0xffffff00ffffff00)},
	{name: "sparse_super2 is not set", image: "sparse-super2", debugfs: "feature -sparse_super2"},
	{name: "s_checksum_seed is another", image: "csum-seed", change: func(v *volume) {
		v.change(disk.SuperblockOffset+0x270, 4, func(b []byte) { b[0] ^= 1 })
	}},
	{name: "metadata_csum_seed is not set", image: "csum-seed", debugfs: "feature -metadata_csum_seed"},
	{name: "metadata_csum_seed is set alone", image: "no-csum", debugfs: "feature metadata_csum_seed", sound: true},
	{name: "metadata_csum is set", image: "no-csum", debugfs: "feature metadata_csum"},
	{name: "metadata_csum is not set", image: "ext4-4k", debugfs: "feature -metadata_csum", sound: true},
	{name: "uninit_bg too is set", image: "ext4-4k", debugfs: "feature uninit_bg", sound: true},
	{name: "uninit_bg is not set", image: "gdt-csum", debugfs: "feature -uninit_bg"},
	{name: "sparse_super is not set", image: "ext4-1k", debugfs: "feature -sparse_super"},
	{name: "flex_bg is not set", image: "ext4-1k", debugfs: "feature -flex_bg"},
	{name: "64bit is not set", image: "ext4-1k", debugfs: "feature -64bit"},
	{name: "64bit is set", image: "desc-32", debugfs: "feature 64bit"},
	{name: "extent is not set", image: "ext4-1k", debugfs: "feature -extent"},
	{name: "filetype is not set", image: "ext4-1k", debugfs: "feature -filetype"},
	{name: "large_file is not set", image: "ext4-1k", debugfs: "feature -large_file", sound: true},
	{name: "huge_file is not set", image: "ext4-1k", debugfs: "feature -huge_file", sound: true},
	{name: "extra_isize is not set", image: "ext4-1k", debugfs: "feature -extra_isize", sound: true},
	{name: "ext_attr is not set", image: "xattr-block", debugfs: "feature -ext_attr"},
	{name: "inline_data is not set", image: "inline-data", debugfs: "feature -inline_data"},
	{name: "ea_inode is not set", image: "ea-inode", debugfs: "feature -ea_inode", ours: "ea_inode specified without ea_inode feature enabled"},
	{name: "bigalloc is not set", image: "bigalloc-16k", debugfs: "feature -bigalloc"},
	{name: "bigalloc is set", image: "ext4-4k", debugfs: "feature bigalloc", sound: true},
	{name: "meta_bg is not set", image: "meta-bg", debugfs: "feature -meta_bg"},
	{name: "meta_bg is set", image: "ext4-1k", debugfs: "feature meta_bg"},
	{name: "encrypt is not set", image: "encrypted", debugfs: "feature -encrypt", sound: true},
	{name: "verity is not set", image: "verity", debugfs: "feature -verity", ours: "the file cannot be opened"},
	{name: "mmp is set", image: "ext4-4k", debugfs: "feature mmp"},

	{name: "mmp_magic is none", image: "mmp", change: mmpField(0, 0)},
	{name: "mmp_seq is of e2fsck", image: "mmp", change: mmpField(4, 0xe24d4d50)},
	{name: "mmp_seq is unsafe", image: "mmp", change: mmpField(4, 0xffffffff)},
	{name: "mmp_seq is in use", image: "mmp", change: mmpField(4, 77), sound: true},
	{name: "mmp_check_interval is large", image: "mmp", change: mmpField(0x70, 0xffff), sound: true},
	{name: "s_mmp_block is 0", image: "mmp", change: superField(0x168, 8, 0)},
	{name: "s_mmp_block is far", image: "mmp", change: superField(0x168, 8, 1<<40)},
	{name: "s_mmp_block is in the inode table", image: "mmp", change: superField(0x168, 8, 45)},

	{name: "i_blocks is 0", image: "ext4-4k", debugfs: "sif /text blocks 0"},
	{name: "i_blocks is larger", image: "ext4-4k", debugfs: "sif /text blocks 800"},
	{name: "i_blocks is odd", image: "ext4-4k", debugfs: "sif /text blocks 7"},
	{name: "i_blocks of a link", image: "ext4-4k", debugfs: "sif /symlinks/1 blocks 8"},
	{name: "i_blocks of a device", image: "ext4-4k", debugfs: "sif /special/null blocks 8"},
	{name: "i_size is smaller", image: "ext4-4k", debugfs: "sif /blocks-300 size 100"},
	{name: "i_size is larger", image: "ext4-4k", debugfs: "sif /blocks-300 size 10000000", sound: true},
	{name: "i_size is over 16 TiB", image: "ext4-4k", debugfs: "sif /blocks-300 size 0x7fffffffffffffff"},
	{name: "i_size of a device", image: "ext4-4k", debugfs: "sif /special/null size 10"},
	{name: "i_size of a FIFO", image: "ext4-4k", debugfs: "sif /special/fifo size 10"},
	{name: "i_dtime is set", image: "ext4-4k", debugfs: "sif /text dtime 1700000000"},
	{name: "i_dtime is an inode", image: "ext4-4k", debugfs: "sif /text dtime 14"},
	{name: "i_dtime of the root is set", image: "ext4-4k", debugfs: "sif / dtime 1700000000"},
	{name: "i_extra_isize is 0", image: "ext4-4k", debugfs: "sif /text extra_isize 0", sound: true},
	{name: "i_extra_isize is 3", image: "ext4-4k", debugfs: "sif /text extra_isize 3"},
	{name: "i_extra_isize is 200", image: "ext4-4k", debugfs: "sif /text extra_isize 200"},
	{name: "i_generation is another", image: "ext4-4k", debugfs: "sif /text generation 5", sound: true},
	{name: "i_generation of a directory is another", image: "ext4-4k", debugfs: "sif /dir generation 5"},
	{name: "i_generation of a deep file is another", image: "extents-deep", debugfs: "sif /depth-1 generation 5"},
	{name: "i_version is another", image: "ext4-4k", debugfs: "sif /text version 5", sound: true},
	{name: "i_obso_faddr is set", image: "ext4-4k", debugfs: "sif /text faddr 5"},
	{name: "times after 2310", image: "ext4-4k", debugfs: "sif /text mtime_extra 3", sound: true},
}

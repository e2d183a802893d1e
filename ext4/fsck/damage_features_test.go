package fsck_test

import (
	"strings"

	"e4go/ext4/disk"
)

// damagedFeatures have what belongs to a feature in disorder.
var damagedFeatures = []damaging{
	{name: "the root has a value in an EA inode", image: "ea-inode", debugfs: "ea_set / user.large " + strings.Repeat("v", 3000), sound: true, codes: "none"},

	{name: "bg_itable_unused of free inodes", image: "no-csum", debugfs: "set_bg 0 itable_unused 5", sound: true},
	{name: "bg_itable_unused of inodes in use", image: "no-csum", debugfs: "set_bg 0 itable_unused 450"},
	{name: "bg_itable_unused is above the inodes of the group", image: "no-csum", debugfs: "set_bg 0 itable_unused 3000", sound: true},
	{name: "bg_itable_unused of all inodes", image: "ext2-1k", debugfs: "set_bg 0 itable_unused 512"},
	{name: "bg_itable_unused of more than all inodes", image: "ext2-1k", debugfs: "set_bg 1 itable_unused 60000", sound: true},
	{name: "bg_itable_unused of inodes in use", image: "ext4-4k", debugfs: "set_bg 0 itable_unused 4000\nset_bg 0 checksum calc"},
	{name: "bg_itable_unused of inodes in use", image: "gdt-csum", debugfs: "set_bg 0 itable_unused 2000\nset_bg 0 checksum calc"},
	{name: "the inodes are marked unused", image: "no-csum", debugfs: "set_bg 0 flags 1"},
	{name: "the block bitmap is marked unused", image: "no-csum", debugfs: "set_bg 0 flags 2", sound: true},
	{name: "the inodes are marked unused", image: "gdt-csum", debugfs: "set_bg 0 flags 5\nset_bg 0 checksum calc"},
	{name: "the block bitmap is marked unused", image: "gdt-csum", debugfs: "set_bg 0 flags 6\nset_bg 0 checksum calc"},
	{name: "the inodes are marked unused", image: "ext4-4k", debugfs: "set_bg 0 flags 5\nset_bg 0 checksum calc"},
	{name: "the block bitmap is marked unused", image: "ext4-1k", debugfs: "set_bg 1 flags 6\nset_bg 1 checksum calc"},
	{name: "the last block bitmap is marked unused", image: "ext4-1k", debugfs: "set_bg 3 flags 6\nset_bg 3 checksum calc"},
	{name: "unknown bg_flags", image: "ext4-4k", debugfs: "set_bg 0 flags 0xfffc\nset_bg 0 checksum calc", sound: true},
	{name: "bg_checksum is wrong", image: "ext4-4k", debugfs: "set_bg 0 checksum 0x1234", ours: "it is mounted to be read only"},
	{name: "bg_checksum is wrong", image: "gdt-csum", debugfs: "set_bg 1 checksum 0x1234", ours: "it is mounted to be read only"},
	{name: "the checksum of the block bitmap is wrong", image: "ext4-4k", debugfs: "set_bg 0 block_bitmap_csum 0x12345678\nset_bg 0 checksum calc"},
	{name: "the checksum of the inode bitmap is wrong", image: "ext4-4k", debugfs: "set_bg 0 inode_bitmap_csum 0x12345678\nset_bg 0 checksum calc"},
	{name: "the free counts of a group are wrong", image: "ext4-4k", debugfs: "set_bg 0 free_blocks_count 77\nset_bg 0 free_inodes_count 3990\nset_bg 0 checksum calc"},
	{name: "the count of directories is wrong", image: "ext2-1k", debugfs: "set_bg 0 used_dirs_count 77"},
	{name: "the free counts are impossible", image: "ext2-1k", debugfs: "set_bg 0 free_blocks_count 0xffff\nset_bg 0 free_inodes_count 0xffff"},
	{name: "the bitmaps of a group are those of another", image: "ext4-1k", change: func(v *volume) {
		v.putDesc(1, func(d *disk.GroupDesc) {
			v.putDesc(0, func(o *disk.GroupDesc) { d.BlockBitmap = o.BlockBitmap })
		})
	}},
	{name: "the inode table lies on a bitmap", image: "ext4-1k", change: func(v *volume) {
		v.putDesc(1, func(d *disk.GroupDesc) { d.InodeTable = d.InodeBitmap })
	}},
	{name: "a block bitmap lies nowhere", image: "meta-bg", change: func(v *volume) {
		v.putDesc(1, func(d *disk.GroupDesc) { d.BlockBitmap = 0 })
	}},

	{name: "s_prj_quota_inum is a free inode", image: "ext2-1k", debugfs: "ssv prj_quota_inum 128"},
	{name: "s_prj_quota_inum is a file", image: "ext2-1k", debugfs: "ssv prj_quota_inum 14"},
	{name: "s_prj_quota_inum is a free inode", image: "quota", debugfs: "ssv prj_quota_inum 900"},
	{name: "s_prj_quota_inum is a file", image: "quota", debugfs: "ssv prj_quota_inum 14"},
	{name: "s_prj_quota_inum is another quota file", image: "quota", debugfs: "ssv prj_quota_inum 3"},
	{name: "s_usr_quota_inum is the group's", image: "quota", debugfs: "ssv usr_quota_inum 4"},
	{name: "s_usr_quota_inum is the root", image: "quota", debugfs: "ssv usr_quota_inum 2"},
	{name: "s_usr_quota_inum is a file", image: "quota", debugfs: "ssv usr_quota_inum 14"},
	{name: "s_usr_quota_inum is 0", image: "quota", debugfs: "ssv usr_quota_inum 0"},
	{name: "all quota files are 0", image: "quota", debugfs: "ssv usr_quota_inum 0\nssv grp_quota_inum 0"},
	{name: "the quota file is zero", image: "quota", debugfs: "clri <3>"},
	{name: "the quota file is a directory", image: "quota", debugfs: "sif <3> mode 040600"},
	{name: "the quota file has no blocks", image: "quota", change: func(v *volume) {
		v.put(disk.UsrQuotaIno, func(in *disk.Inode) { clear(in.Block[2:4]) })
	}},
	{name: "a file is of another user", image: "quota", debugfs: "sif /of-1 uid 4000"},
	{name: "a file is of a user of 2^31 and more", image: "quota", debugfs: "sif /of-1 uid 3000000000"},
	{name: "a file is of another group", image: "quota", debugfs: "sif /of-1 gid 4000"},
	{name: "a file is of another project", image: "project", debugfs: "sif /text projid 4000"},
	{name: "the quota feature is not set", image: "quota", debugfs: "feature -quota"},
	{name: "the project feature is not set", image: "project", debugfs: "feature -project", sound: true},

	{name: "the orphan file is a free inode", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 1000"},
	{name: "the bitmap of group 0 is block 0", image: "ext4-4k", change: func(v *volume) { v.putDesc(0, func(d *disk.GroupDesc) { d.BlockBitmap = 0 }) }, unnamed: "0x020020"},
	{name: "the inode bitmap of group 0 is block 0", image: "ext4-4k", change: func(v *volume) { v.putDesc(0, func(d *disk.GroupDesc) { d.InodeBitmap = 0 }) }, unnamed: "0x020020"},
	{name: "the inode table of group 0 is block 0", image: "ext4-4k", change: func(v *volume) { v.putDesc(0, func(d *disk.GroupDesc) { d.InodeTable = 0 }) }},
	{name: "the inode table of group 0 is block 0", image: "ext3-4k", change: func(v *volume) { v.putDesc(0, func(d *disk.GroupDesc) { d.InodeTable = 0 }) }, unnamed: "0x01004e"},
	{name: "the resize inode has no blocks", image: "ext3-4k", debugfs: "sif <7> block[DIND] 0"},
	{name: "the resize inode has a triple indirect block", image: "ext3-4k", debugfs: "sif <7> block[TIND] 500"},
	{name: "the resize inode is zero", image: "ext4-4k", debugfs: "clri <7>"},
	{name: "the resize inode has a size of 0", image: "ext4-4k", debugfs: "sif <7> size 0", sound: true},
	{name: "resize_inode is not set", image: "ext4-4k", debugfs: "feature -resize_inode", sound: true},
	{name: "s_reserved_gdt_blocks is larger", image: "ext4-4k", debugfs: "ssv reserved_gdt_blocks 500"},
	{name: "s_reserved_gdt_blocks is smaller", image: "ext4-4k", debugfs: "ssv reserved_gdt_blocks 2"},

	{name: "the orphan file is the journal", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 8", codes: "orphan-file-inode orphan-file-block inode-unattached"},
	{name: "the orphan file is the root", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 2"},
	{name: "the orphan file is the resize inode", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 7", codes: "orphan-file-inode orphan-file-hole inode-unattached"},
	{name: "the orphan file is a file", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 14"},
	{name: "the orphan file is a device", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 102"},
	{name: "the orphan file does not exist", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 99999"},
	{name: "the orphan file is not in use", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 5"},
	{name: "the orphan file is 0", image: "orphan-file-clean", debugfs: "ssv orphan_file_inum 0"},
	{name: "the orphan file has no size", image: "orphan-file-clean", debugfs: "sif <12> size 0"},
	{name: "the orphan file has an odd size", image: "orphan-file-clean", debugfs: "sif <12> size 4097"},
	{name: "the orphan file is larger than it has blocks", image: "orphan-file-clean", debugfs: "sif <12> size 40960000"},
	{name: "the orphan file is zero", image: "orphan-file-clean", debugfs: "clri <12>"},
	{name: "the feature orphan_file is not set", image: "orphan-file-clean", debugfs: "feature -orphan_file"},
	{name: "orphan_present without orphans", image: "orphan-file-clean", debugfs: "feature orphan_present"},
	{name: "orphan_present without an orphan file", image: "ext4-4k", debugfs: "feature orphan_present"},
}

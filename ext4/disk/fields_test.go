package disk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// mkfs makes a file system of size bytes in a new file, for a test that needs
// the file to itself or a geometry of its own.
func mkfs(t *testing.T, size int64, args ...string) string {
	t.Helper()
	fixtures.Need(t, "mke2fs")
	img := filepath.Join(t.TempDir(), "fs.img")
	if err := os.WriteFile(img, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mke2fs", append(append([]string{"-q", "-F"}, args...), img)...)
	cmd.Env = append(os.Environ(), "MKE2FS_CONFIG=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return img
}

// debugfsWrite runs requests that change img.
func debugfsWrite(t *testing.T, img string, requests []string) {
	t.Helper()
	fixtures.Need(t, "debugfs")
	cmd := exec.Command("debugfs", "-w", "-f", "-", img)
	cmd.Stdin = strings.NewReader(strings.Join(requests, "\n") + "\n")
	cmd.Env = append(os.Environ(), "TZ=UTC0", "E2FSPROGS_FAKE_TIME=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// bytesAt reads n bytes of img at off.
func bytesAt(t *testing.T, img string, off int64, n int) []byte {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

// A fieldTest sets a field with debugfs, by the name it has in e2fsprogs, and says where we have it.
type fieldTest[T any] struct {
	field, value string
	got          func(v *T) any
	want         any
}

// setFields sets the fields of tests with requests that begin with command.
func setFields[T any](t *testing.T, img, command string, tests []fieldTest[T]) {
	t.Helper()
	var requests []string
	for _, tt := range tests {
		requests = append(requests, command+" "+tt.field+" "+tt.value)
	}
	debugfsWrite(t, img, requests)
}

func checkFields[T any](t *testing.T, v T, tests []fieldTest[T]) {
	t.Helper()
	for _, tt := range tests {
		if got, want := fmt.Sprint(tt.got(&v)), fmt.Sprint(tt.want); got != want {
			t.Errorf("%s: got %s, want %s", tt.field, got, want)
		}
	}
}

// Every field of the superblock that debugfs can set is where we look for it. Of
// times it sets 32 bits.
func TestSuperblockFields(t *testing.T) {
	type sb = disk.Superblock
	const uuid = "00112233-4455-6677-8899-aabbccddeeff"
	uuidBytes := [16]byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	tests := []fieldTest[sb]{
		{"inodes_count", "1001", func(s *sb) any { return s.Inodes }, 1001},
		{"r_blocks_count", "0x700000003", func(s *sb) any { return s.ReservedBlocks }, 0x700000003},
		{"free_blocks_count", "0x600000004", func(s *sb) any { return s.FreeBlocks }, 0x600000004},
		{"free_inodes_count", "1005", func(s *sb) any { return s.FreeInodes }, 1005},
		{"log_cluster_size", "1006", func(s *sb) any { return s.LogClusterSize }, 1006},
		{"clusters_per_group", "1007", func(s *sb) any { return s.ClustersPerGroup }, 1007},
		{"mtime", "@4000000008", func(s *sb) any { return s.Mtime }, 4000000008},
		{"mnt_count", "1009", func(s *sb) any { return s.MountCount }, 1009},
		{"max_mnt_count", "-3", func(s *sb) any { return s.MaxMountCount }, -3},
		{"state", "0x21", func(s *sb) any { return s.State }, disk.StateValid | disk.StateFCReplay},
		{"errors", "1012", func(s *sb) any { return s.Errors }, 1012},
		{"minor_rev_level", "1013", func(s *sb) any { return s.MinorRev }, 1013},
		{"lastcheck", "@4000000014", func(s *sb) any { return s.LastCheck }, 4000000014},
		{"checkinterval", "1015", func(s *sb) any { return s.CheckInterval }, 1015},
		{"creator_os", "3", func(s *sb) any { return s.CreatorOS }, 3},
		{"def_resuid", "1017", func(s *sb) any { return s.DefResUID }, 1017},
		{"def_resgid", "1018", func(s *sb) any { return s.DefResGID }, 1018},
		{"first_ino", "1019", func(s *sb) any { return s.FirstIno }, 1019},
		{"uuid", uuid, func(s *sb) any { return s.UUID }, uuidBytes},
		{"volume_name", `"fifteen letters"`, func(s *sb) any { return s.Label }, "fifteen letters"},
		{"last_mounted", "/mnt/1022", func(s *sb) any { return s.LastMounted }, "/mnt/1022"},
		{"prealloc_blocks", "23", func(s *sb) any { return s.PreallocBlocks }, 23},
		{"prealloc_dir_blocks", "24", func(s *sb) any { return s.PreallocDirs }, 24},
		{"reserved_gdt_blocks", "1025", func(s *sb) any { return s.ReservedGDT }, 1025},
		{"journal_uuid", uuid, func(s *sb) any { return s.JournalUUID }, uuidBytes},
		{"journal_inum", "1027", func(s *sb) any { return s.JournalIno }, 1027},
		{"journal_dev", "1028", func(s *sb) any { return s.JournalDev }, 1028},
		{"last_orphan", "1029", func(s *sb) any { return s.LastOrphan }, 1029},
		{"hash_seed", uuid, func(s *sb) any { return s.HashSeed }, [4]uint32{0x33221100, 0x77665544, 0xbbaa9988, 0xffeeddcc}},
		{"def_hash_version", "tea", func(s *sb) any { return s.DefHashVersion }, 2},
		{"jnl_backup_type", "31", func(s *sb) any { return s.JournalBackup }, 31},
		{"default_mount_opts", "1032", func(s *sb) any { return s.DefaultMountOpts }, 1032},
		{"first_meta_bg", "1033", func(s *sb) any { return s.FirstMetaBG }, 1033},
		{"mkfs_time", "@4000000034", func(s *sb) any { return s.MkfsTime }, 4000000034},
		{"jnl_blocks[0]", "1035", func(s *sb) any { return s.JournalBlocks[0] }, 1035},
		{"jnl_blocks[16]", "1036", func(s *sb) any { return s.JournalBlocks[16] }, 1036},
		{"min_extra_isize", "1037", func(s *sb) any { return s.MinExtraIsize }, 1037},
		{"want_extra_isize", "1038", func(s *sb) any { return s.WantExtraIsize }, 1038},
		{"flags", "6", func(s *sb) any { return s.Flags }, disk.SuperUnsignedHash | disk.SuperTestFS},
		{"raid_stride", "1040", func(s *sb) any { return s.RAIDStride }, 1040},
		{"mmp_interval", "1041", func(s *sb) any { return s.MMPInterval }, 1041},
		{"mmp_block", "0x500000042", func(s *sb) any { return s.MMPBlock }, 0x500000042},
		{"raid_stripe_width", "1043", func(s *sb) any { return s.RAIDStripeWidth }, 1043},
		{"log_groups_per_flex", "44", func(s *sb) any { return s.LogGroupsPerFlex }, 44},
		{"kbytes_written", "0x500000045", func(s *sb) any { return s.KBytesWritten }, 0x500000045},
		{"snapshot_inum", "1046", func(s *sb) any { return s.SnapshotIno }, 1046},
		{"snapshot_id", "1047", func(s *sb) any { return s.SnapshotID }, 1047},
		{"snapshot_r_blocks_count", "0x500000048", func(s *sb) any { return s.SnapshotReserved }, 0x500000048},
		{"snapshot_list", "1049", func(s *sb) any { return s.SnapshotList }, 1049},
		{"mount_opts", "option-1050", func(s *sb) any { return s.MountOpts }, "option-1050"},
		{"usr_quota_inum", "1051", func(s *sb) any { return s.UserQuotaIno }, 1051},
		{"grp_quota_inum", "1052", func(s *sb) any { return s.GroupQuotaIno }, 1052},
		{"prj_quota_inum", "1053", func(s *sb) any { return s.ProjectQuotaIno }, 1053},
		{"overhead_clusters", "1054", func(s *sb) any { return s.OverheadClusters }, 1054},
		{"backup_bgs[0]", "1055", func(s *sb) any { return s.BackupGroups[0] }, 1055},
		{"backup_bgs[1]", "1056", func(s *sb) any { return s.BackupGroups[1] }, 1056},
		{"checksum", "1057", func(s *sb) any { return s.Checksum }, 1057},
		{"checksum_type", "58", func(s *sb) any { return s.ChecksumType }, 58},
		{"encryption_level", "59", func(s *sb) any { return s.EncryptionLevel }, 59},
		{"error_count", "1060", func(s *sb) any { return s.ErrorCount }, 1060},
		{"first_error_time", "@4000000061", func(s *sb) any { return s.FirstError.Time }, 4000000061},
		{"first_error_ino", "1062", func(s *sb) any { return s.FirstError.Ino }, 1062},
		{"first_error_block", "0x500000063", func(s *sb) any { return s.FirstError.Block }, 0x500000063},
		{"first_error_func", "func_1064", func(s *sb) any { return s.FirstError.Func }, "func_1064"},
		{"first_error_line", "1065", func(s *sb) any { return s.FirstError.Line }, 1065},
		{"last_error_time", "@4000000066", func(s *sb) any { return s.LastError.Time }, 4000000066},
		{"last_error_ino", "1067", func(s *sb) any { return s.LastError.Ino }, 1067},
		{"last_error_block", "0x500000068", func(s *sb) any { return s.LastError.Block }, 0x500000068},
		{"last_error_func", "func_1069", func(s *sb) any { return s.LastError.Func }, "func_1069"},
		{"last_error_line", "1070", func(s *sb) any { return s.LastError.Line }, 1070},
		{"encrypt_algos[1]", "71", func(s *sb) any { return s.EncryptAlgos[1] }, 71},
		{"encrypt_pw_salt", uuid, func(s *sb) any { return s.EncryptPWSalt }, uuidBytes},
		{"lpf_ino", "1073", func(s *sb) any { return s.LostFoundIno }, 1073},
		{"checksum_seed", "1074", func(s *sb) any { return s.ChecksumSeed }, 1074},
		{"orphan_file_inum", "1075", func(s *sb) any { return s.OrphanFileIno }, 1075},
	}
	img := mkfs(t, 4<<20, "-b", "1024", "-O", "none,extents,64bit,filetype")
	setFields(t, img, "ssv", tests)
	checkFields(t, disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize)), tests)
}

func TestInodeFields(t *testing.T) {
	type in = disk.Inode
	tests := []fieldTest[in]{
		{"mode", "0120755", func(i *in) any { return i.Mode }, uint16(disk.ModeLink | 0o755)},
		{"uid", "0x10002", func(i *in) any { return i.UID }, 0x10002},
		{"size", "0x300000004", func(i *in) any { return i.Size }, 0x300000004},
		{"atime", "@5000000005", func(i *in) any { return i.Atime.Sec }, 5000000005},
		{"ctime", "@10000000006", func(i *in) any { return i.Ctime.Sec }, 10000000006},
		{"mtime", "@-7", func(i *in) any { return i.Mtime.Sec }, -7},
		{"crtime", "@14000000008", func(i *in) any { return i.Crtime.Sec }, 14000000008},
		{"dtime", "@1009", func(i *in) any { return i.Dtime }, 1009},
		{"gid", "0x2000a", func(i *in) any { return i.GID }, 0x2000a},
		{"links_count", "1011", func(i *in) any { return i.Links }, 1011},
		{"blocks", "0x40000000c", func(i *in) any { return i.BlocksRaw }, 0x40000000c},
		{"flags", "0x80010", func(i *in) any { return i.Flags }, uint32(disk.FlagExtents | disk.FlagImmutable)},
		{"version", "0x50000000e", func(i *in) any { return i.Version }, 0x50000000e},
		{"block[0]", "0x0403020f", func(i *in) any { return i.Block[:4] }, []byte{0x0f, 2, 3, 4}},
		{"block[TIND]", "0x04030210", func(i *in) any { return i.Block[56:] }, []byte{0x10, 2, 3, 4}},
		{"generation", "1017", func(i *in) any { return i.Generation }, 1017},
		{"file_acl", "0x600000012", func(i *in) any { return i.FileACL }, 0x600000012},
		{"faddr", "1019", func(i *in) any { return i.ObsoFaddr }, 1019},
		{"checksum_lo", "0x1415", func(i *in) any { return i.Checksum & 0xffff }, 0x1415},
		{"checksum_hi", "0x1617", func(i *in) any { return i.Checksum >> 16 }, 0x1617},
		{"projid", "1024", func(i *in) any { return i.ProjID }, 1024},
		{"extra_isize", "32", func(i *in) any { return i.ExtraIsize }, 32},
	}
	img := mkfs(t, 4<<20, "-b", "1024", "-O", "none,extents,64bit,filetype", "-I", "256")
	setFields(t, img, "sif <12>", tests)
	sb := disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize))
	g := disk.DecodeGroupDesc(bytesAt(t, img, 2*1024, sb.GroupDescSize()))
	raw := bytesAt(t, img, int64(g.InodeTable)*1024+11*256, 256)
	checkFields(t, disk.DecodeInode(raw), tests)

	// Nanoseconds are set with the two bits of the epoch beside them.
	debugfsWrite(t, img, []string{"sif <12> atime_extra 0x11", "sif <12> ctime_extra 0x22", "sif <12> mtime_extra 0x33", "sif <12> crtime_extra 0x41"})
	raw = bytesAt(t, img, int64(g.InodeTable)*1024+11*256, 256)
	checkFields(t, disk.DecodeInode(raw), []fieldTest[in]{
		{"atime_extra", "", func(i *in) any { return i.Atime.Nsec }, 4},
		{"ctime_extra", "", func(i *in) any { return i.Ctime.Nsec }, 8},
		{"mtime_extra", "", func(i *in) any { return i.Mtime.Nsec }, 12},
		{"crtime_extra", "", func(i *in) any { return i.Crtime.Nsec }, 16},
	})
}

func TestGroupDescFields(t *testing.T) {
	type gd = disk.GroupDesc
	tests := []fieldTest[gd]{
		{"block_bitmap", "0x100000002", func(g *gd) any { return g.BlockBitmap }, 0x100000002},
		{"inode_bitmap", "0x300000004", func(g *gd) any { return g.InodeBitmap }, 0x300000004},
		{"inode_table", "0x500000006", func(g *gd) any { return g.InodeTable }, 0x500000006},
		{"free_blocks_count", "0x70008", func(g *gd) any { return g.FreeClusters }, 0x70008},
		{"free_inodes_count", "0x9000a", func(g *gd) any { return g.FreeInodes }, 0x9000a},
		{"used_dirs_count", "0xb000c", func(g *gd) any { return g.UsedDirs }, 0xb000c},
		{"flags", "6", func(g *gd) any { return g.Flags }, disk.GroupBlockUninit | disk.GroupInodeZeroed},
		{"block_bitmap_csum", "0xd000e", func(g *gd) any { return g.BlockBitmapCsum }, 0xd000e},
		{"inode_bitmap_csum", "0xf0010", func(g *gd) any { return g.InodeBitmapCsum }, 0xf0010},
		{"itable_unused", "0x110012", func(g *gd) any { return g.ItableUnused }, 0x110012},
		{"checksum", "0x1314", func(g *gd) any { return g.Checksum }, 0x1314},
	}
	img := mkfs(t, 32<<20, "-b", "1024", "-O", "none,extents,64bit,filetype")
	setFields(t, img, "set_bg 3", tests)
	checkFields(t, disk.DecodeGroupDesc(bytesAt(t, img, 2*1024+3*64, 64)), tests)
}

// What we put into an MMP block debugfs reads.
func TestMMPFields(t *testing.T) {
	img := mkfs(t, 4<<20, "-b", "1024", "-O", "none,mmp")
	sb := disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize))
	at := int64(sb.MMPBlock) * 1024
	b := bytesAt(t, img, at, 1024)
	if m := disk.DecodeMMP(b); m.Magic != disk.MMPMagic || m.Seq != disk.MMPSeqClean || m.Interval != 5 || m.Time == 0 {
		t.Errorf("made by mke2fs: %+v", m)
	}
	m := disk.MMP{Magic: disk.MMPMagic, Seq: 0x01020304, Time: 1700000005, Node: "host-1006", Dev: "loop-1007", Interval: 1008, Checksum: 0x0a0b0c0d}
	m.Put(b)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	out := fixtures.Debugfs(t, img, "dump_mmp")
	for _, want := range []string{
		"\ncheck_interval: 1008\n", "\nsequence: 01020304\n", "\ntime: 1700000005 -- ", "\nnode_name: host-1006\n",
		"\ndevice_name: loop-1007\n", "\nmagic: 0x4d4d50\n", "\nchecksum: 0x0a0b0c0d\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant %q", out, want)
		}
	}
}

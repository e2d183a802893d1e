package disk_test

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// What follows from the superblock is where dumpe2fs sees it, in file systems
// of odd shapes.
func TestGeometry(t *testing.T) {
	fixtures.Need(t, "mke2fs", "dumpe2fs", "debugfs")
	const k, m = int64(1) << 10, int64(1) << 20
	tests := []struct {
		name string
		size int64
		args string
	}{
		{"small", 1 * m, "-b 1024 -O none"},
		{"less than a group, 4k", 3*m + 4*k, "-b 4096 -O none,sparse_super"},
		{"revision 0", 20 * m, "-b 1024 -r 0 -O none"},
		{"reserved descriptors", 40 * m, "-b 1024 -O none,sparse_super,resize_inode -g 1024"},
		{"a superblock in each group, a short last", 40*m + 77*k, "-b 1024 -O none -g 2048"},
		{"odd inodes", 30 * m, "-b 1024 -O none,sparse_super -I 128 -N 1001 -g 4096"},
		{"64 KiB blocks", 1300 * m, "-b 65536 -O none,extents,64bit,sparse_super,flex_bg -N 4096 -g 2048"},
		{"1 KiB clusters of 64", 300*m + 1, "-b 1024 -C 65536 -O none,extents,64bit,bigalloc,sparse_super,flex_bg"},
		{"4 KiB clusters of 16", 5000 * m, "-b 4096 -C 65536 -O none,extents,64bit,bigalloc,sparse_super"},
		{"two backups", 90 * m, "-b 1024 -O none,extents,sparse_super2,uninit_bg"},
		{"one backup", 90 * m, "-b 1024 -O none,extents,sparse_super2 -E num_backup_sb=1"},
		{"meta groups", 700*m + 3*k, "-b 1024 -O none,extents,64bit,meta_bg,sparse_super,metadata_csum"},
		{"a meta group of one", 16*8*m + 2*m, "-b 1024 -O none,extents,64bit,meta_bg,sparse_super -N 4096"},
		{"meta groups of 32-byte descriptors", 700 * m, "-b 1024 -O none,extents,meta_bg,uninit_bg -g 4096 -N 4096"},
		{"meta groups, 1 KiB clusters", 600 * m, "-b 1024 -C 4096 -O none,extents,64bit,meta_bg,bigalloc,sparse_super -N 4096"},
		{"meta groups, sparse_super2", 300 * m, "-b 1024 -O none,extents,64bit,meta_bg,sparse_super2 -N 4096"},
		{"large descriptors", 300 * m, "-b 1024 -O none,extents,64bit,meta_bg,sparse_super -E desc_size=512 -N 4096"},
		{"40 GiB", 40 << 30, "-b 4096 -O none,extents,64bit,sparse_super,uninit_bg,flex_bg -N 8192 -E lazy_itable_init=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := openVolume(t, mkfs(t, tt.size, strings.Fields(tt.args)...))
			v.checkGeometry(true)
		})
	}

	// Meta groups from the second on, as they are in a file system that grew.
	t.Run("first meta group", func(t *testing.T) {
		img := mkfs(t, 700*m, strings.Fields("-b 1024 -O none,extents,64bit,meta_bg,sparse_super -N 4096")...)
		debugfsWrite(t, img, []string{"ssv first_meta_bg 1", "ssv reserved_gdt_blocks 5"})
		v := openVolume(t, img)
		if v.sb.FirstMetaBG != 1 {
			t.Fatalf("s_first_meta_bg is %d, want 1", v.sb.FirstMetaBG)
		}
		v.checkGeometry(false)
	})
}

// An inode table that ends within a block, which mke2fs never makes, has that block.
func TestItableBlocks(t *testing.T) {
	for _, tt := range []struct{ inodes, want uint32 }{{1, 1}, {15, 1}, {16, 1}, {17, 2}, {32, 2}, {8191, 512}} {
		sb := disk.Superblock{LogBlockSize: 2, InodeSize: 256, InodesPerGroup: tt.inodes}
		if got := sb.ItableBlocks(); got != tt.want {
			t.Errorf("%d inodes: got %d blocks, want %d", tt.inodes, got, tt.want)
		}
	}
}

// A dumpedGroup is what dumpe2fs tells of a group: ranges from the first block to the last.
type dumpedGroup struct {
	blocks, super, descs, reserved, table, inodes []uint64 // nil for none
}

var dumpedLine = regexp.MustCompile(`(Blocks|superblock at|Group descriptors? at|Reserved GDT blocks at|Inode table at|Free inodes:) (\d+)(?:-(\d+))?`)

func dumpGroups(t *testing.T, img string) []dumpedGroup {
	t.Helper()
	fixtures.Need(t, "dumpe2fs")
	out, err := exec.Command("dumpe2fs", img).Output()
	if err != nil {
		t.Fatalf("dumpe2fs: %v", err)
	}
	_, text, _ := strings.Cut(string(out), "\nGroup 0:")
	var groups []dumpedGroup
	for group := range strings.SplitSeq("\nGroup 0:"+text, "\nGroup ") {
		if group == "" {
			continue
		}
		var d dumpedGroup
		for _, line := range dumpedLine.FindAllStringSubmatch(group, -1) {
			first, err := strconv.ParseUint(line[2], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			last := first
			if line[3] != "" {
				if last, err = strconv.ParseUint(line[3], 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			what := map[string]*[]uint64{"Blocks": &d.blocks, "superblock at": &d.super, "Group descriptor at": &d.descs, "Group descriptors at": &d.descs,
				"Reserved GDT blocks at": &d.reserved, "Inode table at": &d.table, "Free inodes:": &d.inodes}[line[1]]
			*what = []uint64{first, last}
		}
		groups = append(groups, d)
	}
	return groups
}

// count is the number of blocks in a range.
func count(r []uint64) uint64 {
	if r == nil {
		return 0
	}
	return r[1] - r[0] + 1
}

// checkGeometry compares the functions of the superblock with dumpe2fs and,
// with copies, reads all copies of the descriptors where they should be.
func (v *volume) checkGeometry(copies bool) {
	t, sb := v.t, &v.sb
	t.Helper()
	groups := dumpGroups(t, v.f.Name())
	if sb.Groups() != uint64(len(groups)) {
		t.Fatalf("got %d groups, want %d", sb.Groups(), len(groups))
	}
	supers := 0
	for i, d := range groups {
		g := disk.Group(i)
		if got, want := uint64(sb.FirstBlock(g)), d.blocks[0]; got != want {
			t.Errorf("group %d: starts at %d, want %d", g, got, want)
		}
		if got, want := uint64(sb.BlocksInGroup(g)), count(d.blocks); got != want {
			t.Errorf("group %d: got %d blocks, want %d", g, got, want)
		}
		for _, b := range d.blocks {
			if got := sb.GroupOf(disk.PBlock(b)); got != g {
				t.Errorf("block %d is said to be in group %d, want %d", b, got, g)
			}
		}
		for _, ino := range d.inodes {
			if ino == 0 {
				continue // a full group
			}
			if got, index := sb.InodeGroup(disk.Ino(ino)); got != g || index != uint32(ino)-uint32(g)*sb.InodesPerGroup-1 {
				t.Errorf("inode %d is said to be number %d of group %d, want %d", ino, index, got, g)
			}
		}
		if got, want := sb.HasSuper(g), d.super != nil; got != want {
			t.Errorf("group %d: HasSuper is %t, want %t", g, got, want)
		}
		if got, want := sb.BaseMetaBlocks(g), count(d.super)+count(d.descs)+count(d.reserved); got != want {
			t.Errorf("group %d: got %d blocks of superblock and descriptors, want %d: %+v", g, got, want, d)
		}
		if got, want := uint64(sb.ItableBlocks()), count(d.table); got != want {
			t.Errorf("group %d: got %d blocks of inode table, want %d", g, got, want)
		}
		if d.super != nil {
			supers++
		}
	}
	if supers == 0 {
		t.Error("no group has a superblock")
	}
	v.checkDescBlocks(groups, copies)
}

// checkDescBlocks compares where each block of descriptors and its copies are.
func (v *volume) checkDescBlocks(groups []dumpedGroup, copies bool) {
	t, sb := v.t, &v.sb
	t.Helper()
	per := uint64(sb.DescPerBlock())
	check := func(super disk.PBlock, i, want uint64) {
		t.Helper()
		got := sb.DescBlock(super, i)
		if uint64(got) != want {
			t.Errorf("descriptors %d for the superblock in block %d: got block %d, want %d", i, super, got, want)
			return
		}
		g := disk.DecodeGroupDesc(v.block(got)[:sb.GroupDescSize()])
		if first := groups[i*per]; copies && uint64(g.InodeTable) != first.table[0] {
			t.Errorf("descriptors %d in block %d: the first says that its inode table is at %d, want %d", i, got, g.InodeTable, first.table[0])
		}
	}
	for i := range sb.DescBlocks() {
		meta := sb.Incompat.Has(disk.IncompatMetaBG) && i >= uint64(sb.FirstMetaBG)
		for g, d := range groups {
			switch {
			case d.super == nil:
			case !meta && sb.Incompat.Has(disk.IncompatMetaBG) && uint64(g) >= uint64(sb.FirstMetaBG)*per:
				// a superblock among meta groups, without a copy of the descriptors before them
			case !meta:
				check(disk.PBlock(d.super[0]), i, d.descs[0]+i)
			case g == 0:
				check(disk.PBlock(d.super[0]), i, groups[i*per].descs[0])
			case i*per+1 < uint64(len(groups)):
				check(disk.PBlock(d.super[0]), i, groups[i*per+1].descs[0])
			default: // the last meta group is one group, without a copy
				check(disk.PBlock(d.super[0]), i, groups[i*per].descs[0])
			}
		}
	}
}

// The sizes are those that the kernel gives: ext4.rst and the mount of such file systems.
func TestMaxFileSize(t *testing.T) {
	const huge = disk.ROCompatHugeFile
	tests := []struct {
		logBlockSize uint32
		ro           disk.ROCompat
		extents      bool
		want         uint64
	}{
		{0, huge, true, (1<<32 - 1) << 10},
		{2, huge, true, (1<<32 - 1) << 12}, // 16 TiB less a block
		{6, huge, true, (1<<32 - 1) << 16},
		{2, 0, true, (1<<32 - 1) >> 3 << 12},                                // 2 TiB, by i_blocks
		{0, huge, false, (12 + 256 + 256*256 + 256*256*256) << 10},          // 16 GiB
		{2, huge, false, (12 + 1024 + 1024*1024 + 1024*1024*1024) << 12},    // 4 TiB
		{0, 0, false, (12 + 256 + 256*256 + 256*256*256) << 10},             // fits 32 bits of sectors
		{2, 0, false, ((1<<32-1)>>3 - (1 + 1025 + 1 + 523263 + 511)) << 12}, // 2 TiB less the map
	}
	for _, tt := range tests {
		sb := disk.Superblock{LogBlockSize: tt.logBlockSize, ROCompat: tt.ro}
		if got := sb.MaxFileSize(tt.extents); got != tt.want {
			t.Errorf("blocks of %d, ro_compat %#x, extents %t: got %d, want %d", sb.BlockSize(), uint32(tt.ro), tt.extents, got, tt.want)
		}
	}
}

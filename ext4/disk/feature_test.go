package disk_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// Every feature bit, known or not, has the name that dumpe2fs gives it.
func TestFeatureNames(t *testing.T) {
	fixtures.Need(t, "dumpe2fs")
	img := mkfs(t, 1<<20, "-b", "1024", "-O", "none")
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{64}, disk.SuperblockOffset+0xfe); err != nil { // s_desc_size, for 64bit
		t.Fatal(err)
	}
	for bit := range 3 * 32 {
		at := int64(disk.SuperblockOffset + 0x5c)
		words := make([]byte, 12)
		binary.LittleEndian.PutUint32(words[bit/32*4:], 1<<(bit%32))
		if _, err := f.WriteAt(words, at); err != nil {
			t.Fatal(err)
		}
		// Its exit status is about what else it misses of the feature.
		out, _ := exec.Command("dumpe2fs", "-fh", img).Output()
		_, line, ok := strings.Cut(string(out), "Filesystem features:")
		line, _, _ = strings.Cut(line, "\n")
		want := strings.Fields(line)
		if !ok || len(want) != 1 {
			t.Fatalf("bit %d: dumpe2fs says %q", bit, out)
		}
		sb := disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize))
		got := slices.Concat(sb.Compat.Names(), sb.Incompat.Names(), sb.ROCompat.Names())
		if !slices.Equal(got, want) {
			t.Errorf("word %d, bit %d: got %q, want %q", bit/32, bit%32, got, want)
		}
	}
}

// The constants are the bits that mke2fs sets for the names.
func TestFeaturesOfMke2fs(t *testing.T) {
	tests := []struct {
		features string
		compat   disk.Compat
		incompat disk.Incompat
		ro       disk.ROCompat
	}{
		{"none", 0, 0, 0},
		{"dir_index,ext_attr,resize_inode,sparse_super", disk.CompatDirIndex | disk.CompatExtAttr | disk.CompatResizeInode, 0, disk.ROCompatSparseSuper},
		{"has_journal,orphan_file,fast_commit", disk.CompatHasJournal | disk.CompatOrphanFile | disk.CompatFastCommit, 0, 0},
		{"sparse_super2,stable_inodes", disk.CompatSparseSuper2 | disk.CompatStableInodes, 0, 0},
		{"filetype,extents,64bit,flex_bg,metadata_csum,metadata_csum_seed", 0,
			disk.IncompatFiletype | disk.IncompatExtents | disk.Incompat64Bit | disk.IncompatFlexBG | disk.IncompatCsumSeed, disk.ROCompatMetadataCsum},
		{"extents,meta_bg,mmp,ea_inode,large_dir,inline_data,ext_attr", disk.CompatExtAttr, disk.IncompatExtents | disk.IncompatMetaBG | disk.IncompatMMP |
			disk.IncompatEAInode | disk.IncompatLargedir | disk.IncompatInlineData, 0},
		{"encrypt,casefold,filetype", 0, disk.IncompatEncrypt | disk.IncompatCasefold | disk.IncompatFiletype, 0},
		{"extents,large_file,huge_file,uninit_bg,dir_nlink,extra_isize,bigalloc", 0, disk.IncompatExtents, disk.ROCompatLargeFile | disk.ROCompatHugeFile |
			disk.ROCompatGDTCsum | disk.ROCompatDirNlink | disk.ROCompatExtraIsize | disk.ROCompatBigalloc},
		{"extents,quota,project,verity", 0, disk.IncompatExtents, disk.ROCompatQuota | disk.ROCompatProject | disk.ROCompatVerity},
	}
	for _, tt := range tests {
		img := mkfs(t, 16<<20, "-b", "1024", "-I", "256", "-O", "none,"+tt.features)
		sb := disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize))
		if sb.Compat != tt.compat || sb.Incompat != tt.incompat || sb.ROCompat != tt.ro {
			t.Errorf("%s: got %q %q %q, want %q %q %q", tt.features, sb.Compat, sb.Incompat, sb.ROCompat, tt.compat, tt.incompat, tt.ro)
		}
		_, line, _ := strings.Cut(fixtures.Dumpe2fs(t, img), "Filesystem features:")
		line, _, _ = strings.Cut(line, "\n")
		got := slices.Concat(sb.Compat.Names(), sb.Incompat.Names(), sb.ROCompat.Names())
		if want := strings.Fields(line); !slices.Equal(got, want) && tt.features != "none" {
			t.Errorf("%s: got %q, want %q", tt.features, got, want)
		}
	}
}

func TestFeatureHas(t *testing.T) {
	if f := disk.IncompatExtents | disk.Incompat64Bit; !f.Has(disk.IncompatExtents) || !f.Has(f) || f.Has(f|disk.IncompatMMP) || f.Has(disk.IncompatMMP) {
		t.Errorf("%q", f)
	}
	if f := disk.CompatHasJournal; !f.Has(f) || f.Has(f|disk.CompatDirIndex) {
		t.Errorf("%q", f)
	}
	if f := disk.ROCompatQuota; !f.Has(f) || f.Has(f|disk.ROCompatVerity) {
		t.Errorf("%q", f)
	}
}

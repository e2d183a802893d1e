package mkfs

import (
	"slices"
	"strings"

	"e4go/ext4/disk"
)

// Features is a set of features of all three kinds.
type Features struct {
	Compat   disk.Compat
	Incompat disk.Incompat
	ROCompat disk.ROCompat
}

// offered are the features that can be asked for: mke2fs's, but for journal_dev.
var offered = Features{
	Compat: disk.CompatHasJournal | disk.CompatResizeInode | disk.CompatDirIndex | disk.CompatExtAttr | disk.CompatSparseSuper2 |
		disk.CompatFastCommit | disk.CompatStableInodes | disk.CompatOrphanFile,
	Incompat: disk.IncompatFiletype | disk.IncompatExtents | disk.IncompatMetaBG | disk.IncompatFlexBG | disk.IncompatEAInode |
		disk.IncompatMMP | disk.Incompat64Bit | disk.IncompatInlineData | disk.IncompatEncrypt | disk.IncompatCasefold |
		disk.IncompatCsumSeed | disk.IncompatLargedir,
	ROCompat: disk.ROCompatLargeFile | disk.ROCompatHugeFile | disk.ROCompatDirNlink | disk.ROCompatExtraIsize | disk.ROCompatSparseSuper |
		disk.ROCompatGDTCsum | disk.ROCompatBigalloc | disk.ROCompatQuota | disk.ROCompatMetadataCsum | disk.ROCompatProject | disk.ROCompatVerity,
}

// aliases are other names that mke2fs takes.
var aliases = map[string]string{
	"extents": "extent", "uninit_groups": "uninit_bg", "gdt_csum": "uninit_bg", "large_files": "large_file", "sparse_super_block": "sparse_super",
	"sparse_super_blocks": "sparse_super", "journal": "has_journal", "dirindex": "dir_index", "project_quota": "project",
}

// refused are features that exist and are not made here, with the reason.
var refused = map[string]string{
	"journal_dev":    "external journal devices are not made here: use mke2fs -O journal_dev",
	"needs_recovery": "it marks a journal that has to be replayed",
	"orphan_present": "it marks an orphan file that is in use",
	"dir_prealloc":   "no kernel uses it",
	"imagic_inodes":  "no kernel uses it",
	"lazy_bg":        "it was never merged",
	"compression":    "it was never merged",
	"dirdata":        "only Lustre uses it",
	"snapshot":       "it was never merged",
	"replica":        "it was never merged",
	"read-only":      "set it with tune2fs when the file system is complete",
	"shared_blocks":  "blocks are not shared between files here",
}

// FeatureNames returns the names of all features that can be asked for.
func FeatureNames() []string {
	return slices.Concat(offered.Compat.Names(), offered.Incompat.Names(), offered.ROCompat.Names())
}

// Names returns the names of the set.
func (f Features) Names() []string {
	return slices.Concat(f.Compat.Names(), f.Incompat.Names(), f.ROCompat.Names())
}

// featureNamed returns the feature of a name.
func featureNamed(name string) (Features, error) {
	if a, ok := aliases[name]; ok {
		name = a
	}
	for bit := disk.Compat(1); bit != 0; bit <<= 1 {
		if offered.Compat.Has(bit) && bit.String() == name {
			return Features{Compat: bit}, nil
		}
	}
	for bit := disk.Incompat(1); bit != 0; bit <<= 1 {
		if offered.Incompat.Has(bit) && bit.String() == name {
			return Features{Incompat: bit}, nil
		}
	}
	for bit := disk.ROCompat(1); bit != 0; bit <<= 1 {
		if offered.ROCompat.Has(bit) && bit.String() == name {
			return Features{ROCompat: bit}, nil
		}
	}
	if why, ok := refused[name]; ok {
		return Features{}, usage("", "feature %s cannot be asked for: %s", name, why)
	}
	return Features{}, &UnknownFeatureError{name}
}

// An UnknownFeatureError names a feature that does not exist.
type UnknownFeatureError struct{ Name string }

func (e *UnknownFeatureError) Error() string { return "there is no feature " + e.Name }

// edit applies a list as -O takes it: names set, ^ clears, none clears all.
func (f *Features) edit(list []string) error {
	for _, word := range list {
		name, clear := strings.CutPrefix(strings.ToLower(word), "^")
		switch {
		case name == "":
		case name == "none" && !clear:
			*f = Features{}
		default:
			x, err := featureNamed(name)
			if err != nil {
				return err
			}
			if clear {
				f.Compat &^= x.Compat
				f.Incompat &^= x.Incompat
				f.ROCompat &^= x.ROCompat
			} else {
				f.Compat |= x.Compat
				f.Incompat |= x.Incompat
				f.ROCompat |= x.ROCompat
			}
		}
	}
	return nil
}

// baseFeatures are in every file system of revision 1.
var baseFeatures = Features{
	Compat:   disk.CompatResizeInode | disk.CompatDirIndex | disk.CompatExtAttr,
	Incompat: disk.IncompatFiletype,
	ROCompat: disk.ROCompatSparseSuper | disk.ROCompatLargeFile,
}

// typeFeatures are what a type adds to the base.
var typeFeatures = map[string]Features{
	"ext2": {},
	"ext3": {Compat: disk.CompatHasJournal},
	"ext4": {
		Compat:   disk.CompatHasJournal | disk.CompatOrphanFile,
		Incompat: disk.IncompatExtents | disk.IncompatFlexBG | disk.Incompat64Bit | disk.IncompatCsumSeed,
		ROCompat: disk.ROCompatHugeFile | disk.ROCompatMetadataCsum | disk.ROCompatDirNlink | disk.ROCompatExtraIsize,
	},
}

// needs are features that want another: if the first is set and the second is not, the
// options contradict each other.
var needs = []struct {
	feature, other string
	why            string
}{
	{"64bit", "extent", "indirect maps have block numbers of 32 bits"},
	{"bigalloc", "extent", "indirect maps count single blocks"},
	{"verity", "extent", "the kernel keeps the hash tree behind the end of the file"},
	{"metadata_csum_seed", "metadata_csum", "there is no checksum that would start from the seed"},
	{"orphan_file", "has_journal", "the orphan file is written through the journal"},
	{"fast_commit", "has_journal", "fast commits are kept in the journal"},
}

// excludes are features that cannot go together.
var excludes = []struct {
	feature, other string
	why            string
}{
	{"meta_bg", "resize_inode", "with meta_bg no descriptor blocks are reserved"},
}

func (f Features) has(name string) bool {
	x, err := featureNamed(name)
	if err != nil {
		panic("mkfs: " + err.Error())
	}
	return f.Compat&x.Compat|disk.Compat(f.Incompat&x.Incompat)|disk.Compat(f.ROCompat&x.ROCompat) != 0
}

// check reports what contradicts itself.
func (f Features) check() error {
	for _, n := range needs {
		if f.has(n.feature) && !f.has(n.other) {
			return usage("add -O "+n.other+" or -O ^"+n.feature, "feature %s needs %s: %s", n.feature, n.other, n.why)
		}
	}
	for _, n := range excludes {
		if f.has(n.feature) && f.has(n.other) {
			return usage("add -O ^"+n.other+" or -O ^"+n.feature, "features %s and %s exclude each other: %s", n.feature, n.other, n.why)
		}
	}
	return nil
}

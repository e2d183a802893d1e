package disk

import (
	"fmt"
	"math/bits"
	"strings"
)

// Compat is s_feature_compat: a file system with an unknown bit may be read and written.
type Compat uint32

// Incompat is s_feature_incompat: a file system with an unknown bit must not be opened.
type Incompat uint32

// ROCompat is s_feature_ro_compat: a file system with an unknown bit may be read.
type ROCompat uint32

// The bits of s_feature_compat (EXT4_FEATURE_COMPAT_*).
const (
	CompatDirPrealloc   Compat = 1 << iota
	CompatImagicInodes         // AFS server inodes
	CompatHasJournal           // has a journal
	CompatExtAttr              // extended attributes in use
	CompatResizeInode          // reserved descriptor blocks belong to inode 7
	CompatDirIndex             // hash-indexed directories
	CompatLazyBG               // never merged
	CompatExcludeInode         // never merged
	CompatExcludeBitmap        // never merged
	CompatSparseSuper2         // at most two backup superblocks
	CompatFastCommit           // the journal may hold fast commits
	CompatStableInodes         // inode numbers and UUID never change (encryption relies on them)
	CompatOrphanFile           // has an orphan file
)

// The bits of s_feature_incompat (EXT4_FEATURE_INCOMPAT_*).
const (
	IncompatCompression Incompat = 0x1
	IncompatFiletype    Incompat = 0x2     // directory entries hold the file type
	IncompatRecover     Incompat = 0x4     // the journal must be replayed
	IncompatJournalDev  Incompat = 0x8     // the device is an external journal
	IncompatMetaBG      Incompat = 0x10    // descriptors are spread over the groups
	IncompatExtents     Incompat = 0x40    // extent trees
	Incompat64Bit       Incompat = 0x80    // block numbers over 2^32
	IncompatMMP         Incompat = 0x100   // multiple mount protection
	IncompatFlexBG      Incompat = 0x200   // metadata of several groups lies together
	IncompatEAInode     Incompat = 0x400   // large xattr values in inodes of their own
	IncompatDirdata     Incompat = 0x1000  // data in directory entries (Lustre)
	IncompatCsumSeed    Incompat = 0x2000  // the checksum seed is stored
	IncompatLargedir    Incompat = 0x4000  // hash trees of three levels, directories over 2 GiB
	IncompatInlineData  Incompat = 0x8000  // small files inside the inode
	IncompatEncrypt     Incompat = 0x10000 // fscrypt
	IncompatCasefold    Incompat = 0x20000 // directories that ignore case
)

// The bits of s_feature_ro_compat (EXT4_FEATURE_RO_COMPAT_*).
const (
	ROCompatSparseSuper   ROCompat = 0x1
	ROCompatLargeFile     ROCompat = 0x2
	ROCompatBtreeDir      ROCompat = 0x4
	ROCompatHugeFile      ROCompat = 0x8   // i_blocks has 48 bits, and may count file system blocks
	ROCompatGDTCsum       ROCompat = 0x10  // crc16 in descriptors; uninitialised groups
	ROCompatDirNlink      ROCompat = 0x20  // directories may have over 65,000 subdirectories
	ROCompatExtraIsize    ROCompat = 0x40  // inodes have room reserved behind 128 bytes
	ROCompatSnapshot      ROCompat = 0x80  // never merged
	ROCompatQuota         ROCompat = 0x100 // quota in hidden inodes
	ROCompatBigalloc      ROCompat = 0x200 // allocation in clusters
	ROCompatMetadataCsum  ROCompat = 0x400 // crc32c in all metadata
	ROCompatReplica       ROCompat = 0x800
	ROCompatReadonly      ROCompat = 0x1000 // must not be written
	ROCompatProject       ROCompat = 0x2000 // project ids
	ROCompatSharedBlocks  ROCompat = 0x4000 // files share blocks; must not be written
	ROCompatVerity        ROCompat = 0x8000
	ROCompatOrphanPresent ROCompat = 0x10000 // the orphan file is not empty
)

// Has reports whether every bit of x is set.
func (f Compat) Has(x Compat) bool { return f&x == x }

// Has reports whether every bit of x is set.
func (f Incompat) Has(x Incompat) bool { return f&x == x }

// Has reports whether every bit of x is set.
func (f ROCompat) Has(x ROCompat) bool { return f&x == x }

// The names are those that mke2fs -O takes and dumpe2fs prints; the letter is
// for the bits without one, as e2fsprogs prints them: FEATURE_C12.
type bitNames struct {
	letter string
	names  map[uint32]string
}

var (
	compatNames = bitNames{"C", map[uint32]string{
		0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode", 0x20: "dir_index",
		0x40: "lazy_bg", 0x100: "snapshot_bitmap", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes", 0x1000: "orphan_file",
	}}
	incompatNames = bitNames{"I", map[uint32]string{
		0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg", 0x40: "extent", 0x80: "64bit",
		0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata", 0x2000: "metadata_csum_seed", 0x4000: "large_dir",
		0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
	}}
	roCompatNames = bitNames{"R", map[uint32]string{
		0x1: "sparse_super", 0x2: "large_file", 0x8: "huge_file", 0x10: "uninit_bg", 0x20: "dir_nlink", 0x40: "extra_isize",
		0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum", 0x800: "replica", 0x1000: "read-only", 0x2000: "project",
		0x4000: "shared_blocks", 0x8000: "verity", 0x10000: "orphan_present",
	}}
)

func (n bitNames) list(v uint32) []string {
	var out []string
	for ; v != 0; v &= v - 1 {
		bit := v & -v
		name, ok := n.names[bit]
		if !ok {
			name = fmt.Sprintf("FEATURE_%s%d", n.letter, bits.TrailingZeros32(bit))
		}
		out = append(out, name)
	}
	return out
}

// Names returns the set bits by the names that e2fsprogs uses, lowest bit first.
func (f Compat) Names() []string { return compatNames.list(uint32(f)) }

// Names returns the set bits by the names that e2fsprogs uses, lowest bit first.
func (f Incompat) Names() []string { return incompatNames.list(uint32(f)) }

// Names returns the set bits by the names that e2fsprogs uses, lowest bit first.
func (f ROCompat) Names() []string { return roCompatNames.list(uint32(f)) }

func (f Compat) String() string   { return strings.Join(f.Names(), " ") }
func (f Incompat) String() string { return strings.Join(f.Names(), " ") }
func (f ROCompat) String() string { return strings.Join(f.Names(), " ") }

package mkfs

import (
	"time"

	"e4go/ext4/disk"
)

// Options say what file system to make. The zero value is what mke2fs -t ext4
// makes. Where a zero has a meaning of its own the field is a pointer.
type Options struct {
	Type  string   // -t: ext2, ext3 or ext4, the default
	Usage []string // -T: floppy small default big huge news largefile largefile4 hurd; nil: by the size

	BlockSize      int      // -b, bytes
	LeastBlockSize int      // -b with a minus: the usual size, or this if it is larger
	ClusterSize    int64    // -C, bytes; wants bigalloc
	InodeSize      int      // -I, bytes
	InodeRatio     int64    // -i, bytes of file system for each inode
	Inodes         uint64   // -N
	Reserved       *float64 // -m, percent of the blocks kept for root; nil is 5
	BlocksPerGroup uint32   // -g; clusters with bigalloc
	FlexGroups     uint32   // -G, groups whose metadata lie together
	Label          string   // -L, at most 16 bytes
	LastMounted    string   // -M, at most 64 bytes
	Errors         string   // -e: continue, remount-ro or panic
	CreatorOS      string   // -o: linux, hurd, freebsd, lites or a number
	Revision       *uint32  // -r: 0 or 1

	Features []string // -O, in the order given: a name sets, ^name clears, none clears all

	JournalMiB      uint64  // -J size=; a journal of this size even where the type has none
	FastCommitMiB   uint64  // -J fast_commit_size=
	JournalLocation *uint64 // -J location=, a block

	Stride           uint32   // -E stride=, blocks
	StripeWidth      uint32   // -E stripe_width=, blocks
	DescSize         int      // -E desc_size=
	Resize           uint64   // -E resize=, blocks that the file system can grow to
	ResizeBytes      uint64   // likewise, bytes
	HashSeed         *UUID    // -E hash_seed=; nil: derived from the contents
	HashAlgorithm    string   // legacy, half_md4 (the default) or tea
	MMPInterval      uint16   // -E mmp_update_interval=, seconds
	BackupSupers     *int     // -E num_backup_sb=: 0 to 2, with sparse_super2
	PackedMeta       bool     // -E packed_meta_blocks
	RootUID, RootGID uint32   // -E root_owner=
	RootPerms        *uint16  // -E root_perms=; nil is 0755
	RootSELinux      string   // -E root_selinux=
	TestFS           bool     // -E test_fs
	QuotaTypes       []string // -E quotatype=: usrquota grpquota prjquota; nil: usr and grp
	Encoding         string   // -E encoding=: utf8 or utf8-12.1; sets casefold
	EncodingFlags    []string // -E encoding_flags=: strict, nostrict
	OrphanFileSize   int64    // -E orphan_file_size=, bytes
	MountOptions     []string // default mount options; nil: acl and user_xattr
	BadBlocks        []uint64 // -l: blocks that must not be used

	UUID *UUID // -U; nil: derived from the contents

	// Time is the time of making, whole seconds, which files without a time of
	// their own have, too. Zero is the time of the newest file, or 1970.
	Time time.Time

	// Zeroed says that every byte of the device that is not written reads as
	// zero, as in a new file.
	Zeroed bool

	// LazyInodeTables leaves inode tables that are not in use unwritten on a
	// device that is not Zeroed: the kernel zeroes them when it first mounts.
	LazyInodeTables bool

	// LazyJournal leaves the journal unwritten but for its superblock.
	LazyJournal bool
}

// A UUID is 16 bytes, in the order in which they are written.
type UUID [16]byte

// profile is what mke2fs.conf has under a name of [fs_types].
type profile struct {
	blockSize  int // 0: not given
	inodeSize  int
	inodeRatio int64
}

// profiles are those of mke2fs's own mke2fs.conf.
var profiles = map[string]profile{
	"default":    {},
	"small":      {blockSize: 1024, inodeRatio: 4096},
	"floppy":     {blockSize: 1024, inodeRatio: 8192},
	"big":        {inodeRatio: 32768},
	"huge":       {inodeRatio: 65536},
	"news":       {inodeRatio: 4096},
	"largefile":  {inodeRatio: 1 << 20, blockSize: 4096},
	"largefile4": {inodeRatio: 4 << 20, blockSize: 4096},
	"hurd":       {blockSize: 4096, inodeSize: 128},
}

// UsageNames are the values of [Options.Usage].
func UsageNames() []string {
	return []string{"default", "small", "floppy", "big", "huge", "news", "largefile", "largefile4", "hurd"}
}

const (
	defaultBlockSize  = 4096
	defaultInodeSize  = 256
	defaultInodeRatio = 16384
	defaultFlexGroups = 16
	defaultReserved   = 5.0
)

// The default mount options (EXT4_DEFM_*).
const (
	mountXattrUser = 0x0004
	mountACL       = 0x0008
)

var mountOptionBits = map[string]uint32{
	"debug": 0x0001, "bsdgroups": 0x0002, "user_xattr": mountXattrUser, "acl": mountACL, "uid16": 0x0010,
	"journal_data": 0x0020, "journal_data_ordered": 0x0040, "journal_data_writeback": 0x0060,
	"nobarrier": 0x0100, "block_validity": 0x0200, "discard": 0x0400, "nodelalloc": 0x0800,
}

var osNumbers = map[string]uint32{"linux": 0, "gnu": 1, "hurd": 1, "masix": 2, "freebsd": 3, "lites": 4}

const osHurd = 1

var errorsNumbers = map[string]uint16{"": 1, "continue": 1, "remount-ro": 2, "panic": 3}

var hashNumbers = map[string]disk.HashVersion{"": disk.HashHalfMD4, "legacy": disk.HashLegacy, "half_md4": disk.HashHalfMD4, "tea": disk.HashTea}

var quotaNumbers = map[string]quotaType{
	"usr": quotaUser, "usrquota": quotaUser, "grp": quotaGroup, "grpquota": quotaGroup, "prj": quotaProject, "prjquota": quotaProject,
}

// TypeName is the type of the file system.
func (o *Options) TypeName() string {
	if o.Type == "" {
		return "ext4"
	}
	return o.Type
}

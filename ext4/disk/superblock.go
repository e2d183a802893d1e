package disk

import (
	"bytes"
	"fmt"
	"math/bits"
)

// Where the primary superblock lies, and its size, in bytes.
const (
	SuperblockOffset = 1024
	SuperblockSize   = 1024
	SuperMagic       = 0xEF53 // EXT4_SUPER_MAGIC
)

// Limits of the format.
const (
	MinBlockLog       = 10 // EXT4_MIN_BLOCK_LOG_SIZE: blocks of 1 KiB
	MaxBlockLog       = 16 // EXT4_MAX_BLOCK_LOG_SIZE: blocks of 64 KiB
	GoodOldInodeSize  = 128
	MaxClusterLog     = 30 // EXT4_MAX_CLUSTER_LOG_SIZE
	maxDescSize       = 1024
	maxGroups         = 1 << 32
	superChecksumAt   = 0x3fc
	checksumTypeCRC32 = 1 // EXT4_CRC32C_CHKSUM
)

// State is s_state.
type State uint16

const (
	StateValid    State = 1 << iota // EXT4_VALID_FS: unmounted cleanly
	StateError                      // EXT4_ERROR_FS: errors were detected
	StateOrphan                     // EXT4_ORPHAN_FS: orphans are being recovered
	StateFCReplay State = 1 << 5    // EXT4_FC_REPLAY: a fast-commit replay was going on
)

// SuperFlags is s_flags.
type SuperFlags uint32

const (
	SuperSignedHash   SuperFlags = 1 << iota // EXT2_FLAGS_SIGNED_HASH: char was signed where the hashes were made
	SuperUnsignedHash                        // EXT2_FLAGS_UNSIGNED_HASH
	SuperTestFS                              // EXT2_FLAGS_TEST_FILESYS
)

// ErrorRecord is one of the two error records of the superblock: what went
// wrong first, and last.
type ErrorRecord struct {
	Time  int64  // s_first_error_time: seconds
	Ino   Ino    // s_first_error_ino
	Block PBlock // s_first_error_block
	Func  string // s_first_error_func: the function that noticed
	Line  uint32 // s_first_error_line
	Code  uint8  // s_first_error_errcode: EXT4_ERR_*
}

// Superblock is struct ext4_super_block. Halves are joined, text is cut at its
// first NUL, times are whole seconds (40 bits on disk).
//
// In revision 0 s_first_ino and s_inode_size mean nothing; [DecodeSuperblock]
// fills FirstIno and InodeSize with the constants of that revision. All else
// counts in every revision: the kernel warns of features in revision 0, and heeds them.
type Superblock struct {
	Inodes           uint32     // s_inodes_count
	Blocks           uint64     // s_blocks_count
	ReservedBlocks   uint64     // s_r_blocks_count
	FreeBlocks       uint64     // s_free_blocks_count: in blocks, with bigalloc too
	FreeInodes       uint32     // s_free_inodes_count
	FirstDataBlock   uint32     // s_first_data_block: 1 for blocks of 1 KiB, else 0
	LogBlockSize     uint32     // s_log_block_size: size is 1024 << this
	LogClusterSize   uint32     // s_log_cluster_size
	BlocksPerGroup   uint32     // s_blocks_per_group
	ClustersPerGroup uint32     // s_clusters_per_group
	InodesPerGroup   uint32     // s_inodes_per_group
	Mtime            int64      // s_mtime: last mount
	Wtime            int64      // s_wtime: last write
	MountCount       uint16     // s_mnt_count
	MaxMountCount    int16      // s_max_mnt_count: negative is never
	Magic            uint16     // s_magic
	State            State      // s_state
	Errors           uint16     // s_errors: 1 continue, 2 remount read-only, 3 panic
	MinorRev         uint16     // s_minor_rev_level
	LastCheck        int64      // s_lastcheck
	CheckInterval    uint32     // s_checkinterval: seconds
	CreatorOS        uint32     // s_creator_os: 0 Linux, 1 Hurd, 2 Masix, 3 FreeBSD, 4 Lites
	RevLevel         uint32     // s_rev_level
	DefResUID        uint16     // s_def_resuid
	DefResGID        uint16     // s_def_resgid
	FirstIno         Ino        // s_first_ino
	InodeSize        uint16     // s_inode_size
	BlockGroup       uint16     // s_block_group_nr: the group of this copy
	Compat           Compat     // s_feature_compat
	Incompat         Incompat   // s_feature_incompat
	ROCompat         ROCompat   // s_feature_ro_compat
	UUID             [16]byte   // s_uuid
	Label            string     // s_volume_name
	LastMounted      string     // s_last_mounted
	PreallocBlocks   uint8      // s_prealloc_blocks
	PreallocDirs     uint8      // s_prealloc_dir_blocks
	ReservedGDT      uint16     // s_reserved_gdt_blocks
	JournalUUID      [16]byte   // s_journal_uuid: of an external journal
	JournalIno       Ino        // s_journal_inum
	JournalDev       uint32     // s_journal_dev
	LastOrphan       Ino        // s_last_orphan: head of the orphan list
	HashSeed         [4]uint32  // s_hash_seed
	DefHashVersion   uint8      // s_def_hash_version
	JournalBackup    uint8      // s_jnl_backup_type: 1 if JournalBlocks holds i_block of the journal
	DescSize         uint16     // s_desc_size as stored: 0 without 64bit
	DefaultMountOpts uint32     // s_default_mount_opts
	FirstMetaBG      uint32     // s_first_meta_bg
	MkfsTime         int64      // s_mkfs_time
	JournalBlocks    [17]uint32 // s_jnl_blocks: i_block[15], size high, size low
	MinExtraIsize    uint16     // s_min_extra_isize
	WantExtraIsize   uint16     // s_want_extra_isize
	Flags            SuperFlags // s_flags
	RAIDStride       uint16     // s_raid_stride
	MMPInterval      uint16     // s_mmp_update_interval: seconds
	MMPBlock         PBlock     // s_mmp_block
	RAIDStripeWidth  uint32     // s_raid_stripe_width
	LogGroupsPerFlex uint8      // s_log_groups_per_flex
	ChecksumType     uint8      // s_checksum_type: 1 is crc32c
	EncryptionLevel  uint8      // s_encryption_level
	KBytesWritten    uint64     // s_kbytes_written
	SnapshotIno      Ino        // s_snapshot_inum
	SnapshotID       uint32     // s_snapshot_id
	SnapshotReserved uint64     // s_snapshot_r_blocks_count
	SnapshotList     Ino        // s_snapshot_list
	ErrorCount       uint32     // s_error_count
	FirstError       ErrorRecord
	LastError        ErrorRecord
	MountOpts        string   // s_mount_opts
	UserQuotaIno     Ino      // s_usr_quota_inum
	GroupQuotaIno    Ino      // s_grp_quota_inum
	OverheadClusters uint32   // s_overhead_blocks: 0 is "not recorded"
	BackupGroups     [2]Group // s_backup_bgs: with sparse_super2
	EncryptAlgos     [4]uint8 // s_encrypt_algos
	EncryptPWSalt    [16]byte // s_encrypt_pw_salt
	LostFoundIno     Ino      // s_lpf_ino
	ProjectQuotaIno  Ino      // s_prj_quota_inum
	ChecksumSeed     uint32   // s_checksum_seed: with metadata_csum_seed
	Encoding         uint16   // s_encoding: 1 is utf8-12.1
	EncodingFlags    uint16   // s_encoding_flags: 1 is strict
	OrphanFileIno    Ino      // s_orphan_file_inum
	DefResUIDHi      uint16   // s_def_resuid_hi
	DefResGIDHi      uint16   // s_def_resgid_hi
	Checksum         uint32   // s_checksum
}

// DecodeSuperblock decodes the superblock in b, which is [SuperblockSize]
// bytes long. It panics if b is shorter.
func DecodeSuperblock(b []byte) Superblock {
	p := (*[SuperblockSize]byte)(b)
	sb := Superblock{
		Inodes:           le.Uint32(p[0x00:0x04]),
		Blocks:           uint64(le.Uint32(p[0x04:0x08])),
		ReservedBlocks:   uint64(le.Uint32(p[0x08:0x0c])),
		FreeBlocks:       uint64(le.Uint32(p[0x0c:0x10])),
		FreeInodes:       le.Uint32(p[0x10:0x14]),
		FirstDataBlock:   le.Uint32(p[0x14:0x18]),
		LogBlockSize:     le.Uint32(p[0x18:0x1c]),
		LogClusterSize:   le.Uint32(p[0x1c:0x20]),
		BlocksPerGroup:   le.Uint32(p[0x20:0x24]),
		ClustersPerGroup: le.Uint32(p[0x24:0x28]),
		InodesPerGroup:   le.Uint32(p[0x28:0x2c]),
		Mtime:            int64(le.Uint32(p[0x2c:0x30])),
		Wtime:            int64(le.Uint32(p[0x30:0x34])),
		MountCount:       le.Uint16(p[0x34:0x36]),
		MaxMountCount:    int16(le.Uint16(p[0x36:0x38])),
		Magic:            le.Uint16(p[0x38:0x3a]),
		State:            State(le.Uint16(p[0x3a:0x3c])),
		Errors:           le.Uint16(p[0x3c:0x3e]),
		MinorRev:         le.Uint16(p[0x3e:0x40]),
		LastCheck:        int64(le.Uint32(p[0x40:0x44])),
		CheckInterval:    le.Uint32(p[0x44:0x48]),
		CreatorOS:        le.Uint32(p[0x48:0x4c]),
		RevLevel:         le.Uint32(p[0x4c:0x50]),
		DefResUID:        le.Uint16(p[0x50:0x52]),
		DefResGID:        le.Uint16(p[0x52:0x54]),
		FirstIno:         GoodOldFirstIno,
		InodeSize:        GoodOldInodeSize,
	}
	if sb.RevLevel > 0 {
		sb.FirstIno = Ino(le.Uint32(p[0x54:0x58]))
		sb.InodeSize = le.Uint16(p[0x58:0x5a])
	}
	sb.BlockGroup = le.Uint16(p[0x5a:0x5c])
	sb.Compat = Compat(le.Uint32(p[0x5c:0x60]))
	sb.Incompat = Incompat(le.Uint32(p[0x60:0x64]))
	sb.ROCompat = ROCompat(le.Uint32(p[0x64:0x68]))
	copy(sb.UUID[:], p[0x68:0x78])
	sb.Label = cutNUL(p[0x78:0x88])
	sb.LastMounted = cutNUL(p[0x88:0xc8])
	sb.PreallocBlocks = p[0xcc]
	sb.PreallocDirs = p[0xcd]
	sb.ReservedGDT = le.Uint16(p[0xce:0xd0])
	copy(sb.JournalUUID[:], p[0xd0:0xe0])
	sb.JournalIno = Ino(le.Uint32(p[0xe0:0xe4]))
	sb.JournalDev = le.Uint32(p[0xe4:0xe8])
	sb.LastOrphan = Ino(le.Uint32(p[0xe8:0xec]))
	for i := range sb.HashSeed {
		sb.HashSeed[i] = le.Uint32(p[0xec+4*i:])
	}
	sb.DefHashVersion = p[0xfc]
	sb.JournalBackup = p[0xfd]
	sb.DescSize = le.Uint16(p[0xfe:0x100])
	sb.DefaultMountOpts = le.Uint32(p[0x100:0x104])
	sb.FirstMetaBG = le.Uint32(p[0x104:0x108])
	sb.MkfsTime = time40(p[0x108:0x10c], p[0x276])
	for i := range sb.JournalBlocks {
		sb.JournalBlocks[i] = le.Uint32(p[0x10c+4*i:])
	}
	if sb.Incompat.Has(Incompat64Bit) {
		sb.Blocks |= uint64(le.Uint32(p[0x150:0x154])) << 32
		sb.ReservedBlocks |= uint64(le.Uint32(p[0x154:0x158])) << 32
		sb.FreeBlocks |= uint64(le.Uint32(p[0x158:0x15c])) << 32
	}
	sb.MinExtraIsize = le.Uint16(p[0x15c:0x15e])
	sb.WantExtraIsize = le.Uint16(p[0x15e:0x160])
	sb.Flags = SuperFlags(le.Uint32(p[0x160:0x164]))
	sb.RAIDStride = le.Uint16(p[0x164:0x166])
	sb.MMPInterval = le.Uint16(p[0x166:0x168])
	sb.MMPBlock = PBlock(le.Uint64(p[0x168:0x170]))
	sb.RAIDStripeWidth = le.Uint32(p[0x170:0x174])
	sb.LogGroupsPerFlex = p[0x174]
	sb.ChecksumType = p[0x175]
	sb.EncryptionLevel = p[0x176]
	sb.KBytesWritten = le.Uint64(p[0x178:0x180])
	sb.SnapshotIno = Ino(le.Uint32(p[0x180:0x184]))
	sb.SnapshotID = le.Uint32(p[0x184:0x188])
	sb.SnapshotReserved = le.Uint64(p[0x188:0x190])
	sb.SnapshotList = Ino(le.Uint32(p[0x190:0x194]))
	sb.ErrorCount = le.Uint32(p[0x194:0x198])
	sb.FirstError = ErrorRecord{
		Time: time40(p[0x198:0x19c], p[0x278]), Ino: Ino(le.Uint32(p[0x19c:0x1a0])), Block: PBlock(le.Uint64(p[0x1a0:0x1a8])),
		Func: cutNUL(p[0x1a8:0x1c8]), Line: le.Uint32(p[0x1c8:0x1cc]), Code: p[0x27a],
	}
	sb.LastError = ErrorRecord{
		Time: time40(p[0x1cc:0x1d0], p[0x279]), Ino: Ino(le.Uint32(p[0x1d0:0x1d4])), Line: le.Uint32(p[0x1d4:0x1d8]),
		Block: PBlock(le.Uint64(p[0x1d8:0x1e0])), Func: cutNUL(p[0x1e0:0x200]), Code: p[0x27b],
	}
	sb.MountOpts = cutNUL(p[0x200:0x240])
	sb.UserQuotaIno = Ino(le.Uint32(p[0x240:0x244]))
	sb.GroupQuotaIno = Ino(le.Uint32(p[0x244:0x248]))
	sb.OverheadClusters = le.Uint32(p[0x248:0x24c])
	sb.BackupGroups = [2]Group{Group(le.Uint32(p[0x24c:0x250])), Group(le.Uint32(p[0x250:0x254]))}
	copy(sb.EncryptAlgos[:], p[0x254:0x258])
	copy(sb.EncryptPWSalt[:], p[0x258:0x268])
	sb.LostFoundIno = Ino(le.Uint32(p[0x268:0x26c]))
	sb.ProjectQuotaIno = Ino(le.Uint32(p[0x26c:0x270]))
	sb.ChecksumSeed = le.Uint32(p[0x270:0x274])
	sb.Wtime |= int64(p[0x274]) << 32
	sb.Mtime |= int64(p[0x275]) << 32
	sb.LastCheck |= int64(p[0x277]) << 32
	sb.Encoding = le.Uint16(p[0x27c:0x27e])
	sb.EncodingFlags = le.Uint16(p[0x27e:0x280])
	sb.OrphanFileIno = Ino(le.Uint32(p[0x280:0x284]))
	sb.DefResUIDHi = le.Uint16(p[0x284:0x286])
	sb.DefResGIDHi = le.Uint16(p[0x286:0x288])
	sb.Checksum = le.Uint32(p[superChecksumAt:0x400])
	return sb
}

// Put writes sb into b, the inverse of [DecodeSuperblock]. The bytes that
// Superblock has no field for stay as they are, and so do, in revision 0,
// s_first_ino and s_inode_size and, without the 64bit feature, the high halves
// of the block counts.
func (sb *Superblock) Put(b []byte) {
	p := (*[SuperblockSize]byte)(b)
	le.PutUint32(p[0x00:0x04], sb.Inodes)
	le.PutUint32(p[0x04:0x08], uint32(sb.Blocks))
	le.PutUint32(p[0x08:0x0c], uint32(sb.ReservedBlocks))
	le.PutUint32(p[0x0c:0x10], uint32(sb.FreeBlocks))
	le.PutUint32(p[0x10:0x14], sb.FreeInodes)
	le.PutUint32(p[0x14:0x18], sb.FirstDataBlock)
	le.PutUint32(p[0x18:0x1c], sb.LogBlockSize)
	le.PutUint32(p[0x1c:0x20], sb.LogClusterSize)
	le.PutUint32(p[0x20:0x24], sb.BlocksPerGroup)
	le.PutUint32(p[0x24:0x28], sb.ClustersPerGroup)
	le.PutUint32(p[0x28:0x2c], sb.InodesPerGroup)
	le.PutUint32(p[0x2c:0x30], uint32(sb.Mtime))
	le.PutUint32(p[0x30:0x34], uint32(sb.Wtime))
	le.PutUint16(p[0x34:0x36], sb.MountCount)
	le.PutUint16(p[0x36:0x38], uint16(sb.MaxMountCount))
	le.PutUint16(p[0x38:0x3a], sb.Magic)
	le.PutUint16(p[0x3a:0x3c], uint16(sb.State))
	le.PutUint16(p[0x3c:0x3e], sb.Errors)
	le.PutUint16(p[0x3e:0x40], sb.MinorRev)
	le.PutUint32(p[0x40:0x44], uint32(sb.LastCheck))
	le.PutUint32(p[0x44:0x48], sb.CheckInterval)
	le.PutUint32(p[0x48:0x4c], sb.CreatorOS)
	le.PutUint32(p[0x4c:0x50], sb.RevLevel)
	le.PutUint16(p[0x50:0x52], sb.DefResUID)
	le.PutUint16(p[0x52:0x54], sb.DefResGID)
	if sb.RevLevel > 0 {
		le.PutUint32(p[0x54:0x58], uint32(sb.FirstIno))
		le.PutUint16(p[0x58:0x5a], sb.InodeSize)
	}
	le.PutUint16(p[0x5a:0x5c], sb.BlockGroup)
	le.PutUint32(p[0x5c:0x60], uint32(sb.Compat))
	le.PutUint32(p[0x60:0x64], uint32(sb.Incompat))
	le.PutUint32(p[0x64:0x68], uint32(sb.ROCompat))
	copy(p[0x68:0x78], sb.UUID[:])
	putText(p[0x78:0x88], sb.Label)
	putText(p[0x88:0xc8], sb.LastMounted)
	p[0xcc] = sb.PreallocBlocks
	p[0xcd] = sb.PreallocDirs
	le.PutUint16(p[0xce:0xd0], sb.ReservedGDT)
	copy(p[0xd0:0xe0], sb.JournalUUID[:])
	le.PutUint32(p[0xe0:0xe4], uint32(sb.JournalIno))
	le.PutUint32(p[0xe4:0xe8], sb.JournalDev)
	le.PutUint32(p[0xe8:0xec], uint32(sb.LastOrphan))
	for i, v := range sb.HashSeed {
		le.PutUint32(p[0xec+4*i:], v)
	}
	p[0xfc] = sb.DefHashVersion
	p[0xfd] = sb.JournalBackup
	le.PutUint16(p[0xfe:0x100], sb.DescSize)
	le.PutUint32(p[0x100:0x104], sb.DefaultMountOpts)
	le.PutUint32(p[0x104:0x108], sb.FirstMetaBG)
	putTime40(p[0x108:0x10c], &p[0x276], sb.MkfsTime)
	for i, v := range sb.JournalBlocks {
		le.PutUint32(p[0x10c+4*i:], v)
	}
	if sb.Incompat.Has(Incompat64Bit) {
		le.PutUint32(p[0x150:0x154], uint32(sb.Blocks>>32))
		le.PutUint32(p[0x154:0x158], uint32(sb.ReservedBlocks>>32))
		le.PutUint32(p[0x158:0x15c], uint32(sb.FreeBlocks>>32))
	}
	le.PutUint16(p[0x15c:0x15e], sb.MinExtraIsize)
	le.PutUint16(p[0x15e:0x160], sb.WantExtraIsize)
	le.PutUint32(p[0x160:0x164], uint32(sb.Flags))
	le.PutUint16(p[0x164:0x166], sb.RAIDStride)
	le.PutUint16(p[0x166:0x168], sb.MMPInterval)
	le.PutUint64(p[0x168:0x170], uint64(sb.MMPBlock))
	le.PutUint32(p[0x170:0x174], sb.RAIDStripeWidth)
	p[0x174] = sb.LogGroupsPerFlex
	p[0x175] = sb.ChecksumType
	p[0x176] = sb.EncryptionLevel
	le.PutUint64(p[0x178:0x180], sb.KBytesWritten)
	le.PutUint32(p[0x180:0x184], uint32(sb.SnapshotIno))
	le.PutUint32(p[0x184:0x188], sb.SnapshotID)
	le.PutUint64(p[0x188:0x190], sb.SnapshotReserved)
	le.PutUint32(p[0x190:0x194], uint32(sb.SnapshotList))
	le.PutUint32(p[0x194:0x198], sb.ErrorCount)
	putTime40(p[0x198:0x19c], &p[0x278], sb.FirstError.Time)
	le.PutUint32(p[0x19c:0x1a0], uint32(sb.FirstError.Ino))
	le.PutUint64(p[0x1a0:0x1a8], uint64(sb.FirstError.Block))
	putText(p[0x1a8:0x1c8], sb.FirstError.Func)
	le.PutUint32(p[0x1c8:0x1cc], sb.FirstError.Line)
	p[0x27a] = sb.FirstError.Code
	putTime40(p[0x1cc:0x1d0], &p[0x279], sb.LastError.Time)
	le.PutUint32(p[0x1d0:0x1d4], uint32(sb.LastError.Ino))
	le.PutUint32(p[0x1d4:0x1d8], sb.LastError.Line)
	le.PutUint64(p[0x1d8:0x1e0], uint64(sb.LastError.Block))
	putText(p[0x1e0:0x200], sb.LastError.Func)
	p[0x27b] = sb.LastError.Code
	putText(p[0x200:0x240], sb.MountOpts)
	le.PutUint32(p[0x240:0x244], uint32(sb.UserQuotaIno))
	le.PutUint32(p[0x244:0x248], uint32(sb.GroupQuotaIno))
	le.PutUint32(p[0x248:0x24c], sb.OverheadClusters)
	le.PutUint32(p[0x24c:0x250], uint32(sb.BackupGroups[0]))
	le.PutUint32(p[0x250:0x254], uint32(sb.BackupGroups[1]))
	copy(p[0x254:0x258], sb.EncryptAlgos[:])
	copy(p[0x258:0x268], sb.EncryptPWSalt[:])
	le.PutUint32(p[0x268:0x26c], uint32(sb.LostFoundIno))
	le.PutUint32(p[0x26c:0x270], uint32(sb.ProjectQuotaIno))
	le.PutUint32(p[0x270:0x274], sb.ChecksumSeed)
	p[0x274] = byte(sb.Wtime >> 32)
	p[0x275] = byte(sb.Mtime >> 32)
	p[0x277] = byte(sb.LastCheck >> 32)
	le.PutUint16(p[0x27c:0x27e], sb.Encoding)
	le.PutUint16(p[0x27e:0x280], sb.EncodingFlags)
	le.PutUint32(p[0x280:0x284], uint32(sb.OrphanFileIno))
	le.PutUint16(p[0x284:0x286], sb.DefResUIDHi)
	le.PutUint16(p[0x286:0x288], sb.DefResGIDHi)
	le.PutUint32(p[superChecksumAt:0x400], sb.Checksum)
}

// SuperblockChecksum is s_checksum of the superblock in b: crc32c from ~0 over
// all before the field (ext4_superblock_csum). It is stored with metadata_csum.
func SuperblockChecksum(b []byte) uint32 {
	return crc32c(^uint32(0), b[:superChecksumAt])
}

// CheckSuperblock reports the first rule that the superblock in b breaks, or
// nil: the rules that everything else is computed from, as __ext4_fill_super
// checks them. Features are not judged here, and neither is the device's size.
// The superblock was read from byte off of its file system.
func CheckSuperblock(b []byte, off int64) error {
	sb := DecodeSuperblock(b)
	bad := func(at int, field, have, want string) error {
		blk, in := PBlock(off/1024), int(off%1024)
		if sb.LogBlockSize <= MaxBlockLog-MinBlockLog && sb.Magic == SuperMagic {
			bs := int64(1024) << sb.LogBlockSize
			blk, in = PBlock(off/bs), int(off%bs)
		}
		return &CorruptError{Struct: "superblock of group", Num: uint64(sb.BlockGroup),
			Block: blk, Off: in + at, Field: field, Have: have, Want: want}
	}
	num := func(v any) string { return fmt.Sprint(v) }
	if sb.Magic != SuperMagic {
		return bad(0x38, "s_magic", fmt.Sprintf("%#04x", sb.Magic), "0xef53")
	}
	if sb.MetadataCsum() {
		if sb.ChecksumType != checksumTypeCRC32 {
			return bad(0x175, "s_checksum_type", num(sb.ChecksumType), "1 (crc32c)")
		}
		if sum := SuperblockChecksum(b); sum != sb.Checksum {
			return bad(superChecksumAt, "s_checksum", fmt.Sprintf("%#08x", sb.Checksum), fmt.Sprintf("%#08x", sum))
		}
	}
	if sb.LogBlockSize > MaxBlockLog-MinBlockLog {
		return bad(0x18, "s_log_block_size", num(sb.LogBlockSize), "at most 6")
	}
	bs := uint64(sb.BlockSize())
	switch {
	case sb.ROCompat.Has(ROCompatBigalloc) && (sb.LogClusterSize > MaxClusterLog-MinBlockLog || sb.LogClusterSize < sb.LogBlockSize):
		return bad(0x1c, "s_log_cluster_size", num(sb.LogClusterSize), fmt.Sprintf("%d to %d", sb.LogBlockSize, MaxClusterLog-MinBlockLog))
	case !sb.ROCompat.Has(ROCompatBigalloc) && sb.LogClusterSize != sb.LogBlockSize:
		return bad(0x1c, "s_log_cluster_size", num(sb.LogClusterSize), fmt.Sprintf("%d, the block size, without bigalloc", sb.LogBlockSize))
	case uint64(sb.InodeSize) > bs || sb.InodeSize < GoodOldInodeSize || bits.OnesCount16(sb.InodeSize) != 1:
		return bad(0x58, "s_inode_size", num(sb.InodeSize), fmt.Sprintf("a power of two from 128 to %d", bs))
	case sb.FirstIno < GoodOldFirstIno && sb.RevLevel > 0:
		return bad(0x54, "s_first_ino", num(sb.FirstIno), "at least 11")
	case sb.Incompat.Has(Incompat64Bit) && (sb.DescSize < GroupDescSize64 || sb.DescSize > maxDescSize || bits.OnesCount16(sb.DescSize) != 1):
		return bad(0xfe, "s_desc_size", num(sb.DescSize), "a power of two from 64 to 1024")
	case sb.BlocksPerGroup == 0 || (!sb.ROCompat.Has(ROCompatBigalloc) && uint64(sb.BlocksPerGroup) > 8*bs):
		return bad(0x20, "s_blocks_per_group", num(sb.BlocksPerGroup), fmt.Sprintf("1 to %d", 8*bs))
	case sb.ROCompat.Has(ROCompatBigalloc) && (sb.ClustersPerGroup == 0 || uint64(sb.ClustersPerGroup) > 8*bs):
		return bad(0x24, "s_clusters_per_group", num(sb.ClustersPerGroup), fmt.Sprintf("1 to %d", 8*bs))
	case sb.ROCompat.Has(ROCompatBigalloc) && uint64(sb.BlocksPerGroup) != uint64(sb.ClustersPerGroup)<<(sb.LogClusterSize-sb.LogBlockSize):
		return bad(0x20, "s_blocks_per_group", num(sb.BlocksPerGroup), fmt.Sprintf("%d clusters of blocks", sb.ClustersPerGroup))
	case sb.InodesPerGroup < uint32(bs/uint64(sb.InodeSize)) || uint64(sb.InodesPerGroup) > 8*bs:
		return bad(0x28, "s_inodes_per_group", num(sb.InodesPerGroup), fmt.Sprintf("%d to %d", bs/uint64(sb.InodeSize), 8*bs))
	case bs == 1024 && sb.FirstDataBlock == 0 && sb.ClusterBits() == 0, uint64(sb.FirstDataBlock) >= sb.Blocks:
		return bad(0x14, "s_first_data_block", num(sb.FirstDataBlock), fmt.Sprintf("1 with blocks of 1024 bytes, and below the block count %d", sb.Blocks))
	case sb.Blocks > 1<<48:
		return bad(0x04, "s_blocks_count", num(sb.Blocks), "at most 2^48")
	case sb.Groups() >= maxGroups:
		return bad(0x20, "s_blocks_per_group", num(sb.BlocksPerGroup), fmt.Sprintf("enough for fewer than 2^32 groups in %d blocks", sb.Blocks))
	case sb.Groups()*uint64(sb.InodesPerGroup) != uint64(sb.Inodes):
		return bad(0x00, "s_inodes_count", num(sb.Inodes), fmt.Sprintf("%d groups of %d inodes", sb.Groups(), sb.InodesPerGroup))
	case sb.Incompat.Has(IncompatMetaBG) && uint64(sb.FirstMetaBG) > sb.DescBlocks():
		return bad(0x104, "s_first_meta_bg", num(sb.FirstMetaBG), fmt.Sprintf("at most %d", sb.DescBlocks()))
	case sb.LogGroupsPerFlex > 31:
		return bad(0x174, "s_log_groups_per_flex", num(sb.LogGroupsPerFlex), "at most 31")
	}
	return nil
}

func cutNUL(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// putText stores s in b. It leaves b alone when b holds s already, so that
// what stands behind the first NUL survives.
func putText(b []byte, s string) {
	if cutNUL(b) == s {
		return
	}
	clear(b[copy(b, s):])
}

func time40(lo []byte, hi byte) int64 { return int64(hi)<<32 | int64(le.Uint32(lo)) }

func putTime40(lo []byte, hi *byte, t int64) {
	le.PutUint32(lo, uint32(t))
	*hi = byte(t >> 32)
}

// ReservedUID and ReservedGID are the user and the group that may use the
// reserved blocks (s_def_resuid, s_def_resgid).
func (sb *Superblock) ReservedUID() uint32 { return uint32(sb.DefResUIDHi)<<16 | uint32(sb.DefResUID) }

// ReservedGID is described at [Superblock.ReservedUID].
func (sb *Superblock) ReservedGID() uint32 { return uint32(sb.DefResGIDHi)<<16 | uint32(sb.DefResGID) }

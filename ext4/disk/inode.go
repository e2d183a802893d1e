package disk

import (
	"fmt"
	"math"
)

// Where the parts of an inode lie, in bytes.
const (
	IBlockOffset    = 0x28 // i_block
	IBlockSize      = 60   // 15 block numbers, an extent root, a short symlink or inline data
	DirectBlocks    = 12   // EXT4_NDIR_BLOCKS
	inodeCsumLoAt   = 0x7c
	inodeCsumHiAt   = 0x82
	extraIsizeToCsm = 4  // i_extra_isize that i_checksum_hi wants
	extraIsizeFull  = 32 // all fields to i_projid
)

// FileFlags is i_flags (EXT4_*_FL).
type FileFlags uint32

const (
	FlagSecrm        FileFlags = 0x00000001
	FlagUnrm         FileFlags = 0x00000002
	FlagCompr        FileFlags = 0x00000004
	FlagSync         FileFlags = 0x00000008
	FlagImmutable    FileFlags = 0x00000010
	FlagAppend       FileFlags = 0x00000020
	FlagNodump       FileFlags = 0x00000040
	FlagNoatime      FileFlags = 0x00000080
	FlagDirty        FileFlags = 0x00000100
	FlagComprBlk     FileFlags = 0x00000200
	FlagNocompr      FileFlags = 0x00000400
	FlagEncrypt      FileFlags = 0x00000800
	FlagIndex        FileFlags = 0x00001000 // hash-indexed directory
	FlagImagic       FileFlags = 0x00002000
	FlagJournalData  FileFlags = 0x00004000
	FlagNotail       FileFlags = 0x00008000
	FlagDirsync      FileFlags = 0x00010000
	FlagTopdir       FileFlags = 0x00020000
	FlagHugeFile     FileFlags = 0x00040000 // i_blocks counts file system blocks
	FlagExtents      FileFlags = 0x00080000 // i_block holds an extent tree
	FlagVerity       FileFlags = 0x00100000
	FlagEAInode      FileFlags = 0x00200000 // holds the value of an extended attribute
	FlagEOFBlocks    FileFlags = 0x00400000
	FlagDAX          FileFlags = 0x02000000
	FlagInlineData   FileFlags = 0x10000000
	FlagProjInherit  FileFlags = 0x20000000
	FlagCasefold     FileFlags = 0x40000000
	FlagReserved     FileFlags = 0x80000000
	flagNames                  = "secrm unrm compr sync immutable append nodump noatime dirty comprblk nocompr encrypt index imagic journal_data notail dirsync topdir huge_file extents verity ea_inode eofblocks - - dax - - inline_data projinherit casefold reserved"
	fileFlagsVisible FileFlags = 0x604BDFFF // EXT4_FL_USER_VISIBLE: what FS_IOC_GETFLAGS shows
)

// Names returns the set bits in lower case, lowest first, unknown ones in hexadecimal.
func (f FileFlags) Names() []string { return names32(uint32(f), flagNames) }

// Visible is the part of f that FS_IOC_GETFLAGS and lsattr show.
func (f FileFlags) Visible() FileFlags {
	return f & (fileFlagsVisible | FlagInlineData | FlagVerity | FlagDAX)
}

// Has reports whether every bit of x is set.
func (f FileFlags) Has(x FileFlags) bool { return f&x == x }

// FlagsInherited are the flags that a new inode takes from its directory
// (EXT4_FL_INHERITED).
const FlagsInherited = FlagSecrm | FlagUnrm | FlagCompr | FlagSync | FlagNodump | FlagNoatime | FlagNocompr | FlagJournalData |
	FlagNotail | FlagDirsync | FlagProjInherit | FlagCasefold | FlagDAX

// Mode is i_mode: the file type in the top four bits, then suid, sgid, sticky and the permissions.
type Mode uint16

const (
	ModeType   Mode = 0xf000
	ModeFIFO   Mode = 0x1000
	ModeChar   Mode = 0x2000
	ModeDir    Mode = 0x4000
	ModeBlock  Mode = 0x6000
	ModeReg    Mode = 0x8000
	ModeLink   Mode = 0xa000
	ModeSocket Mode = 0xc000
	ModePerm   Mode = 0x0fff
)

// Type is the file type part of m.
func (m Mode) Type() Mode { return m & ModeType }

// FileType is the type byte that directory entries hold for files of mode m.
func (m Mode) FileType() FileType {
	switch m.Type() {
	case ModeReg:
		return TypeReg
	case ModeDir:
		return TypeDir
	case ModeChar:
		return TypeChar
	case ModeBlock:
		return TypeBlock
	case ModeFIFO:
		return TypeFIFO
	case ModeSocket:
		return TypeSocket
	case ModeLink:
		return TypeLink
	}
	return TypeUnknown
}

// Time is a point in time as an inode holds it: seconds since 1970, negative
// before, and nanoseconds after that second.
type Time struct {
	Sec  int64
	Nsec uint32
}

// decodeTime joins the 32 bits of seconds with the extra field: two more bits
// of seconds and 30 of nanoseconds. The 32 bits are signed, so 1901 to 2446 can
// be told (ext4_decode_extra_time).
func decodeTime(sec, extra uint32) Time {
	return Time{Sec: int64(int32(sec)) + int64(extra&3)<<32, Nsec: extra >> 2}
}

// After reports whether t is later than u.
func (t Time) After(u Time) bool { return t.Sec > u.Sec || t.Sec == u.Sec && t.Nsec > u.Nsec }

// encode is the inverse of decodeTime for times that the format can hold. Without room
// for the extra field, what 32 bits cannot hold becomes the nearest that they can
// (EXT4_INODE_SET_XTIME).
func (t Time) encode(hasExtra bool) (sec, extra uint32) {
	if !hasExtra {
		return uint32(int32(min(max(t.Sec, math.MinInt32), math.MaxInt32))), 0
	}
	epoch := uint64(t.Sec-int64(int32(t.Sec))) >> 32
	return uint32(t.Sec), uint32(epoch&3) | t.Nsec<<2
}

// Inode is struct ext4_inode. Halves are joined; what i_block holds depends on
// Flags and Mode.
//
// The fields behind the first 128 bytes exist where i_extra_isize reaches
// them; elsewhere they are zero, and Put leaves their bytes alone.
type Inode struct {
	Mode       Mode             // i_mode
	UID        uint32           // i_uid and l_i_uid_high
	GID        uint32           // i_gid and l_i_gid_high
	Size       uint64           // i_size_lo and i_size_high
	Atime      Time             // i_atime and i_atime_extra
	Ctime      Time             // i_ctime and i_ctime_extra
	Mtime      Time             // i_mtime and i_mtime_extra
	Dtime      uint32           // i_dtime: deletion time, or the next inode of the orphan list
	Links      uint16           // i_links_count
	BlocksRaw  uint64           // i_blocks: 48 bits; units by [Inode.Sectors]
	Flags      FileFlags        // i_flags
	Version    uint64           // l_i_version and i_version_hi
	Block      [IBlockSize]byte // i_block
	Generation uint32           // i_generation
	FileACL    PBlock           // i_file_acl: 48 bits
	ObsoFaddr  uint32           // i_obso_faddr
	ExtraIsize uint16           // i_extra_isize: bytes in use behind the first 128
	Crtime     Time             // i_crtime and i_crtime_extra
	ProjID     uint32           // i_projid
	Checksum   uint32           // l_i_checksum_lo and i_checksum_hi
}

// DecodeInode decodes the inode in b, which is s_inode_size bytes long: 128,
// or more for the extra fields. It panics if b is shorter than 128 bytes. An
// i_extra_isize beyond the end of b counts as reaching it.
func DecodeInode(b []byte) Inode {
	lo := (*[GoodOldInodeSize]byte)(b)
	in := Inode{
		Mode:       Mode(le.Uint16(lo[0x00:0x02])),
		UID:        uint32(le.Uint16(lo[0x02:0x04])) | uint32(le.Uint16(lo[0x78:0x7a]))<<16,
		Size:       uint64(le.Uint32(lo[0x04:0x08])) | uint64(le.Uint32(lo[0x6c:0x70]))<<32,
		Atime:      decodeTime(le.Uint32(lo[0x08:0x0c]), 0),
		Ctime:      decodeTime(le.Uint32(lo[0x0c:0x10]), 0),
		Mtime:      decodeTime(le.Uint32(lo[0x10:0x14]), 0),
		Dtime:      le.Uint32(lo[0x14:0x18]),
		GID:        uint32(le.Uint16(lo[0x18:0x1a])) | uint32(le.Uint16(lo[0x7a:0x7c]))<<16,
		Links:      le.Uint16(lo[0x1a:0x1c]),
		BlocksRaw:  uint64(le.Uint32(lo[0x1c:0x20])) | uint64(le.Uint16(lo[0x74:0x76]))<<32,
		Flags:      FileFlags(le.Uint32(lo[0x20:0x24])),
		Version:    uint64(le.Uint32(lo[0x24:0x28])),
		Block:      *(*[IBlockSize]byte)(lo[IBlockOffset:0x64]),
		Generation: le.Uint32(lo[0x64:0x68]),
		FileACL:    PBlock(le.Uint32(lo[0x68:0x6c])) | PBlock(le.Uint16(lo[0x76:0x78]))<<32,
		ObsoFaddr:  le.Uint32(lo[0x70:0x74]),
		Checksum:   uint32(le.Uint16(lo[0x7c:0x7e])),
	}
	if len(b) < GoodOldInodeSize+extraIsizeFull {
		return in
	}
	hi := (*[GoodOldInodeSize + extraIsizeFull]byte)(b)
	in.ExtraIsize = le.Uint16(hi[0x80:0x82])
	has := func(end int) bool { return in.extra() >= end-GoodOldInodeSize }
	if in.ExtraIsize >= extraIsizeToCsm {
		in.Checksum |= uint32(le.Uint16(hi[0x82:0x84])) << 16
	}
	if has(0x88) {
		in.Ctime = decodeTime(le.Uint32(lo[0x0c:0x10]), le.Uint32(hi[0x84:0x88]))
	}
	if has(0x8c) {
		in.Mtime = decodeTime(le.Uint32(lo[0x10:0x14]), le.Uint32(hi[0x88:0x8c]))
	}
	if has(0x90) {
		in.Atime = decodeTime(le.Uint32(lo[0x08:0x0c]), le.Uint32(hi[0x8c:0x90]))
	}
	if has(0x94) {
		in.Crtime = decodeTime(le.Uint32(hi[0x90:0x94]), 0)
	}
	if has(0x98) {
		in.Crtime = decodeTime(le.Uint32(hi[0x90:0x94]), le.Uint32(hi[0x94:0x98]))
	}
	if has(0x9c) {
		in.Version |= uint64(le.Uint32(hi[0x98:0x9c])) << 32
	}
	if has(0xa0) {
		in.ProjID = le.Uint32(hi[0x9c:0xa0])
	}
	return in
}

// extra is how many bytes behind the first 128 hold fields, in an inode that
// has such bytes. An i_extra_isize of 0 means that nobody has used them for anything, and
// the kernel then takes all fields as present (__ext4_iget), but for the checksum's
// high half.
func (in *Inode) extra() int {
	if in.ExtraIsize == 0 {
		return extraIsizeFull
	}
	return int(in.ExtraIsize)
}

// HasCrtime reports whether the inode tells when it was created.
func (in *Inode) HasCrtime(sb *Superblock) bool {
	return sb.InodeSize > GoodOldInodeSize && in.extra() >= 0x94-GoodOldInodeSize
}

// Put writes in into b, the inverse of [DecodeInode]. The bytes that Inode
// has no field for, and those beyond i_extra_isize, stay as they are.
func (in *Inode) Put(b []byte) {
	lo := (*[GoodOldInodeSize]byte)(b)
	has := func(end int) bool {
		return len(b) >= GoodOldInodeSize+extraIsizeFull && in.extra() >= end-GoodOldInodeSize
	}
	numbers := in.Flags.Has(FlagEAInode) // in place of times, of 32 bits
	asec, aextra := in.Atime.encode(has(0x90) || numbers)
	csec, cextra := in.Ctime.encode(has(0x88) || numbers)
	msec, mextra := in.Mtime.encode(has(0x8c) || numbers)
	le.PutUint16(lo[0x00:0x02], uint16(in.Mode))
	le.PutUint16(lo[0x02:0x04], uint16(in.UID))
	le.PutUint32(lo[0x04:0x08], uint32(in.Size))
	le.PutUint32(lo[0x08:0x0c], asec)
	le.PutUint32(lo[0x0c:0x10], csec)
	le.PutUint32(lo[0x10:0x14], msec)
	le.PutUint32(lo[0x14:0x18], in.Dtime)
	le.PutUint16(lo[0x18:0x1a], uint16(in.GID))
	le.PutUint16(lo[0x1a:0x1c], in.Links)
	le.PutUint32(lo[0x1c:0x20], uint32(in.BlocksRaw))
	le.PutUint32(lo[0x20:0x24], uint32(in.Flags))
	le.PutUint32(lo[0x24:0x28], uint32(in.Version))
	copy(lo[IBlockOffset:0x64], in.Block[:])
	le.PutUint32(lo[0x64:0x68], in.Generation)
	le.PutUint32(lo[0x68:0x6c], uint32(in.FileACL))
	le.PutUint32(lo[0x6c:0x70], uint32(in.Size>>32))
	le.PutUint32(lo[0x70:0x74], in.ObsoFaddr)
	le.PutUint16(lo[0x74:0x76], uint16(in.BlocksRaw>>32))
	le.PutUint16(lo[0x76:0x78], uint16(in.FileACL>>32))
	le.PutUint16(lo[0x78:0x7a], uint16(in.UID>>16))
	le.PutUint16(lo[0x7a:0x7c], uint16(in.GID>>16))
	le.PutUint16(lo[0x7c:0x7e], uint16(in.Checksum))
	if len(b) < GoodOldInodeSize+extraIsizeFull {
		return
	}
	hi := (*[GoodOldInodeSize + extraIsizeFull]byte)(b)
	le.PutUint16(hi[0x80:0x82], in.ExtraIsize)
	put := func(at int, v uint32) {
		if has(at + 4) {
			le.PutUint32(hi[at:at+4], v)
		}
	}
	if in.ExtraIsize >= extraIsizeToCsm {
		le.PutUint16(hi[0x82:0x84], uint16(in.Checksum>>16))
	}
	put(0x84, cextra)
	put(0x88, mextra)
	put(0x8c, aextra)
	sec, extra := in.Crtime.encode(has(0x98))
	put(0x90, sec)
	put(0x94, extra)
	put(0x98, uint32(in.Version>>32))
	put(0x9c, in.ProjID)
}

// Sectors is the number of 512-byte units that the file takes on the device,
// as stat reports it: i_blocks, which counts blocks of blockSize bytes when
// the inode is flagged huge_file and the file system has that feature.
func (in *Inode) Sectors(sb *Superblock) uint64 {
	if !sb.ROCompat.Has(ROCompatHugeFile) {
		return in.BlocksRaw & 0xffffffff
	}
	if in.Flags.Has(FlagHugeFile) {
		return in.BlocksRaw << (sb.BlockBits() - 9)
	}
	return in.BlocksRaw
}

// FileSize is the size in bytes: i_size_high counts for regular files, and for
// directories with the large_dir feature (ext4_isize).
func (in *Inode) FileSize(sb *Superblock) uint64 {
	if in.Mode.Type() == ModeReg || sb.Incompat.Has(IncompatLargedir) {
		return in.Size
	}
	return in.Size & 0xffffffff
}

// XattrBlock is the block of the inode's xattrs, or 0: i_file_acl has a high
// half with the 64bit feature only.
func (in *Inode) XattrBlock(sb *Superblock) PBlock {
	if !sb.Incompat.Has(Incompat64Bit) {
		return in.FileACL & 0xffffffff
	}
	return in.FileACL
}

// FastSymlink reports whether the target of a symbolic link stands in i_block
// itself (ext4_inode_is_fast_symlink): no inline data, no blocks but those of
// its xattrs, and a target shorter than i_block. With the ea_inode feature
// i_blocks counts xattr values in inodes of their own too, and the length decides alone.
func (in *Inode) FastSymlink(sb *Superblock) bool {
	if in.Mode.Type() != ModeLink || in.Flags.Has(FlagInlineData) || in.FileSize(sb) >= IBlockSize {
		return false
	}
	if sb.Incompat.Has(IncompatEAInode) {
		return in.FileSize(sb) > 0
	}
	var ea uint64
	if in.XattrBlock(sb) != 0 {
		ea = uint64(sb.BlockSize()<<sb.ClusterBits()) >> 9
	}
	return in.Sectors(sb) == ea
}

// Dev is the device number of a character or block device: the old form, 8
// bits each, in the first word of i_block, or the new one, 12 and 20 bits, in the second.
func (in *Inode) Dev() (major, minor uint32) {
	if old := le.Uint32(in.Block[0:4]); old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	v := le.Uint32(in.Block[4:8])
	return v >> 8 & 0xfff, v&0xff | v>>12&0xfff00
}

// SetDev stores a device number in the form that ext4 chooses for it
// (ext4_set_inode_dev): old if both numbers fit 8 bits.
func (in *Inode) SetDev(major, minor uint32) {
	clear(in.Block[:12])
	if major < 256 && minor < 256 {
		le.PutUint32(in.Block[0:4], major<<8|minor)
		return
	}
	le.PutUint32(in.Block[4:8], minor&0xff|major<<8|minor&^0xff<<12)
}

// InodeSeed is the crc32c that the checksums of what belongs to one inode
// start from: the inode itself, its extent blocks and its directory blocks.
func InodeSeed(seed uint32, ino Ino, generation uint32) uint32 {
	return crc32cUint32(crc32cUint32(seed, uint32(ino)), generation)
}

// InodeChecksum is the metadata_csum checksum of the inode in b, with the
// checksum fields taken as zero (ext4_inode_csum). Inodes without room for
// i_checksum_hi hold its low half.
func InodeChecksum(seed uint32, ino Ino, b []byte) uint32 {
	crc := InodeSeed(seed, ino, le.Uint32(b[0x64:0x68]))
	crc = crc32c(crc, b[:inodeCsumLoAt])
	crc = crc32cZero2(crc)
	crc = crc32c(crc, b[inodeCsumLoAt+2:GoodOldInodeSize])
	if len(b) == GoodOldInodeSize {
		return crc & 0xffff
	}
	crc = crc32c(crc, b[GoodOldInodeSize:inodeCsumHiAt])
	if le.Uint16(b[0x80:0x82]) < extraIsizeToCsm {
		return crc32c(crc, b[inodeCsumHiAt:]) & 0xffff
	}
	crc = crc32cZero2(crc)
	return crc32c(crc, b[inodeCsumHiAt+2:])
}

// CheckInode reports the first rule that the inode in b breaks, or nil: its
// checksum, and i_extra_isize, which everything behind the first 128 bytes
// rests on. An inode that was never used is all zeros and has no checksum. It
// was read from block blk, at byte off.
func CheckInode(sb *Superblock, ino Ino, b []byte, blk PBlock, off int) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "inode", Num: uint64(ino), Block: blk, Off: off + at, Field: field, Have: have, Want: want}
	}
	if len(b) > GoodOldInodeSize {
		extra := int(le.Uint16(b[0x80:0x82]))
		if extra > len(b)-GoodOldInodeSize || extra%4 != 0 {
			return bad(0x80, "i_extra_isize", fmt.Sprint(extra), fmt.Sprintf("a multiple of 4, at most %d", len(b)-GoodOldInodeSize))
		}
	}
	if !sb.MetadataCsum() {
		return nil
	}
	in := DecodeInode(b)
	if sum := InodeChecksum(sb.Seed(), ino, b); in.Checksum != sum && !allZero(b) {
		return bad(inodeCsumLoAt, "i_checksum", fmt.Sprintf("%#08x", in.Checksum), fmt.Sprintf("%#08x", sum))
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

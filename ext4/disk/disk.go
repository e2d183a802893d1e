// Package disk knows the bytes of an ext4 file system: it turns them into
// values and back, judges them, and sums them. It does no I/O and keeps no
// state, so each rule of the format can be read, tested and fuzzed alone.
//
// Every structure has four functions at most. DecodeX reads the bytes, X.Put
// writes exactly the fields that X has over the same bytes and leaves the rest
// alone, CheckX returns the first rule that is broken as a [*CorruptError],
// and XChecksum sums. Decoding never judges: a corrupt structure decodes, so
// that tools can show it.
//
// The format is described in the kernel's Documentation/filesystems/ext4 and
// in fs/ext4/ext4.h, fs/ext4/ext4_extents.h, fs/ext4/xattr.h and
// include/linux/jbd2.h, whose names stand beside the fields. Everything is
// little-endian but the journal, which is big-endian.
package disk

import (
	"encoding/binary"
	"hash/crc32"
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// A PBlock is a block number in the file system: its byte address is the
// number times the block size. The format has room for 48 bits in most places.
type PBlock uint64

// An LBlock is a block number in a file: byte offset divided by block size.
type LBlock uint32

// An Ino is an inode number. 0 means none; the first inode is 1.
type Ino uint32

// A Group is the number of a block group.
type Group uint32

// Inode numbers with a fixed meaning (EXT4_*_INO).
const (
	BadIno          Ino = 1  // list of bad blocks
	RootIno         Ino = 2  // root directory
	UsrQuotaIno     Ino = 3  // user quota
	GrpQuotaIno     Ino = 4  // group quota
	BootIno         Ino = 5  // boot loader
	UndelIno        Ino = 6  // undelete directory
	ResizeIno       Ino = 7  // reserved group descriptor blocks
	JournalIno      Ino = 8  // journal
	GoodOldFirstIno Ino = 11 // EXT4_GOOD_OLD_FIRST_INO: first inode for files in revision 0
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C adds b to crc, a crc32c as the kernel's crc32c() keeps it: neither
// inverted before the first byte nor after the last.
func CRC32C(crc uint32, b []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, b)
}

func crc32c(crc uint32, b []byte) uint32 { return CRC32C(crc, b) }

// crc32cZero2 adds two zero bytes, which stand for half a checksum in what it is
// the checksum of.
func crc32cZero2(crc uint32) uint32 {
	crc = castagnoli[byte(crc)] ^ crc>>8
	return castagnoli[byte(crc)] ^ crc>>8
}

// crc32cUint32 adds v, as four little-endian bytes: by the table, as a slice of
// them would be allocated, and two are added for each inode.
func crc32cUint32(crc uint32, v uint32) uint32 {
	crc ^= v
	for range 4 {
		crc = castagnoli[byte(crc)] ^ crc>>8
	}
	return crc
}

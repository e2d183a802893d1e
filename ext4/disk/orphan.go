package disk

import "fmt"

const (
	OrphanMagic    = 0x0b10ca04 // EXT4_ORPHAN_BLOCK_MAGIC
	orphanTailSize = 8          // struct ext4_orphan_block_tail: magic, checksum
)

// OrphanInos returns the inodes that block b of the orphan file names: those
// that are unlinked or being truncated. The block ends with a magic number and
// a checksum.
func OrphanInos(b []byte) []Ino {
	var out []Ino
	for at := 0; at+4 <= len(b)-orphanTailSize; at += 4 {
		if ino := le.Uint32(b[at:]); ino != 0 {
			out = append(out, Ino(ino))
		}
	}
	return out
}

// OrphanFree is the byte of block b of the orphan file where another inode can
// be named, or -1 if it is full.
func OrphanFree(b []byte) int {
	for at := 0; at+4 <= len(b)-orphanTailSize; at += 4 {
		if le.Uint32(b[at:]) == 0 {
			return at
		}
	}
	return -1
}

// OrphanBlockChecksum is ob_checksum of block b of the orphan file, which lies
// in physical block blk; seed is the orphan file's [InodeSeed]
// (ext4_orphan_file_block_csum).
func OrphanBlockChecksum(seed uint32, blk PBlock, b []byte) uint32 {
	var num [8]byte
	le.PutUint64(num[:], uint64(blk))
	return crc32c(crc32c(seed, num[:]), b[:len(b)-orphanTailSize])
}

// PutOrphanChecksum stores the checksum of block b of the orphan file.
func PutOrphanChecksum(seed uint32, blk PBlock, b []byte) {
	le.PutUint32(b[len(b)-4:], OrphanBlockChecksum(seed, blk, b))
}

// CheckOrphanBlock reports the first rule that block b of the orphan file, in
// physical block blk, breaks, or nil.
func CheckOrphanBlock(sb *Superblock, b []byte, seed uint32, blk PBlock) error {
	at := len(b) - orphanTailSize
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "orphan file block", Num: uint64(blk), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	if magic := le.Uint32(b[at:]); magic != OrphanMagic {
		return bad(at, "ob_magic", fmt.Sprintf("%#08x", magic), "0x0b10ca04")
	}
	if have, want := le.Uint32(b[at+4:]), OrphanBlockChecksum(seed, blk, b); sb.MetadataCsum() && have != want {
		return bad(at+4, "ob_checksum", fmt.Sprintf("%#08x", have), fmt.Sprintf("%#08x", want))
	}
	return nil
}

package disk

import (
	"bytes"
	"fmt"
)

// FileType is the type byte of a directory entry (EXT4_FT_*).
type FileType uint8

const (
	TypeUnknown FileType = iota
	TypeReg
	TypeDir
	TypeChar
	TypeBlock
	TypeFIFO
	TypeSocket
	TypeLink
	typeMax
	typeCsum FileType = 0xde // EXT4_FT_DIR_CSUM: the entry is a checksum tail
)

func (t FileType) String() string {
	if t < typeMax {
		return [...]string{"unknown", "file", "directory", "chardev", "blockdev", "fifo", "socket", "symlink"}[t]
	}
	return fmt.Sprintf("%#x", uint8(t))
}

// Mode is the i_mode type bits of files of type t, 0 if t is not a file type.
func (t FileType) Mode() Mode {
	if t < typeMax {
		return [...]Mode{0, ModeReg, ModeDir, ModeChar, ModeBlock, ModeFIFO, ModeSocket, ModeLink}[t]
	}
	return 0
}

const (
	DirentHeaderSize = 8   // inode, rec_len, name_len, file_type
	MaxNameLen       = 255 // EXT4_NAME_LEN
	DirTailSize      = 12  // struct ext4_dir_entry_tail
	direntHashSize   = 8   // struct ext4_dir_entry_hash: behind the name in encrypted casefolded directories
	dotDotOffset     = 12  // where ".." follows "." in the first block
)

// Dirent is struct ext4_dir_entry_2 without its name. An Ino of 0 is free space.
//
//	0x0  | inode number     |
//	0x4  | rec_len |len|type|
//	0x8  | name, padded to a multiple of four
type Dirent struct {
	Ino     Ino      // inode
	RecLen  int      // rec_len in bytes: up to 65536
	NameLen int      // name_len
	Type    FileType // file_type: 0 without the filetype feature
}

// DecodeDirent decodes the entry at the start of b, a part of a directory
// block of blockSize bytes. It panics if b is shorter than 8 bytes. Without
// the filetype feature name_len has 16 bits; no longer name than 255 bytes is
// legal, so the upper half is its type byte then, too, and zero.
func DecodeDirent(b []byte, blockSize int) Dirent {
	p := (*[DirentHeaderSize]byte)(b)
	return Dirent{
		Ino:     Ino(le.Uint32(p[0:4])),
		RecLen:  recLen(le.Uint16(p[4:6]), blockSize),
		NameLen: int(p[6]),
		Type:    FileType(p[7]),
	}
}

// Put writes d into b, the inverse of [DecodeDirent].
func (d Dirent) Put(b []byte, blockSize int) {
	p := (*[DirentHeaderSize]byte)(b)
	le.PutUint32(p[0:4], uint32(d.Ino))
	if raw := le.Uint16(p[4:6]); recLen(raw, blockSize) != d.RecLen {
		le.PutUint16(p[4:6], rawRecLen(d.RecLen, blockSize))
	}
	p[6] = uint8(d.NameLen)
	p[7] = uint8(d.Type)
}

// recLen undoes the encoding of record lengths in blocks of 64 KiB, where
// 65536 does not fit 16 bits: 0xffff and 0 mean the whole block, and bits 0
// and 1 stand for bits 16 and 17 (ext4_rec_len_from_disk).
func recLen(v uint16, blockSize int) int {
	switch {
	case blockSize < 65536:
		return int(v)
	case v == 0xffff || v == 0:
		return blockSize
	}
	return int(v&0xfffc) | int(v&3)<<16
}

func rawRecLen(n, blockSize int) uint16 {
	switch {
	case n < 65536:
		return uint16(n)
	case n == blockSize:
		return 0xffff
	}
	return uint16(n&0xfffc) | uint16(n>>16&3)
}

// DirentSize is the least rec_len of an entry whose name has n bytes; with
// hashed, the entry carries its hash behind the name.
func DirentSize(n int, hashed bool) int {
	if hashed {
		n += direntHashSize
	}
	return (DirentHeaderSize + n + 3) &^ 3
}

// CheckDirent reports the first rule that the entry at b[off:] breaks, or nil.
// b is the block blk of directory dir, without its checksum tail (but for
// that, whole), blockSize bytes long on disk (__ext4_check_dir_entry).
func CheckDirent(sb *Superblock, dir Ino, b []byte, blk PBlock, off int) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "entry of directory", Num: uint64(dir), Block: blk, Off: off + at, Field: field, Have: have, Want: want}
	}
	if len(b)-off < DirentHeaderSize {
		return bad(4, "rec_len", fmt.Sprintf("%d bytes to the end", len(b)-off), "room for an entry of 8 bytes")
	}
	d := DecodeDirent(b[off:], sb.BlockSize())
	switch {
	case d.RecLen < DirentHeaderSize+4 || d.RecLen%4 != 0:
		return bad(4, "rec_len", fmt.Sprint(d.RecLen), "a multiple of 4, at least 12")
	case d.RecLen > len(b)-off:
		return bad(4, "rec_len", fmt.Sprint(d.RecLen), fmt.Sprintf("at most %d, the end of the block", len(b)-off))
	case d.RecLen < DirentSize(d.NameLen, false):
		return bad(6, "name_len", fmt.Sprint(d.NameLen), fmt.Sprintf("at most %d in an entry of %d bytes", d.RecLen-DirentHeaderSize, d.RecLen))
	case d.Ino != 0 && !sb.ValidIno(d.Ino):
		return bad(0, "inode", fmt.Sprint(d.Ino), fmt.Sprintf("at most %d", sb.Inodes))
	case d.Ino != 0 && d.NameLen == 0:
		return bad(6, "name_len", "0", "1 to 255")
	}
	return nil
}

// DirTail returns the bytes of directory block b that hold entries, and
// whether a checksum tail follows them: an entry without inode or name, of
// type 0xde.
func DirTail(b []byte) (entries []byte, ok bool) {
	at := len(b) - DirTailSize
	if at < DirTailSize {
		return b, false
	}
	t := b[at:]
	if le.Uint32(t[0:4]) != 0 || le.Uint16(t[4:6]) != DirTailSize || t[6] != 0 || FileType(t[7]) != typeCsum {
		return b, false
	}
	return b[:at], true
}

// PutDirTail makes the end of directory block b a checksum tail and sums the
// block; seed is the directory's [InodeSeed].
func PutDirTail(b []byte, seed uint32) {
	t := b[len(b)-DirTailSize:]
	clear(t)
	le.PutUint16(t[4:6], DirTailSize)
	t[7] = byte(typeCsum)
	le.PutUint32(t[8:12], crc32c(seed, b[:len(b)-DirTailSize]))
}

// CheckDirBlock reports whether block b of directory dir lacks its checksum
// tail or carries a wrong one (ext4_dirblock_csum_verify). It holds for
// directories with metadata_csum only. seed is the directory's [InodeSeed].
func CheckDirBlock(dir Ino, b []byte, seed uint32, blk PBlock) error {
	at := len(b) - DirTailSize
	entries, ok := DirTail(b)
	if !ok {
		return &CorruptError{Struct: "block of directory", Num: uint64(dir), Block: blk, Off: at, Field: "det_reserved_ft",
			Have: fmt.Sprintf("% x", b[at:at+8]), Want: "a checksum tail"}
	}
	have, want := le.Uint32(b[at+8:]), crc32c(seed, entries)
	if have != want {
		return &CorruptError{Struct: "block of directory", Num: uint64(dir), Block: blk, Off: at + 8, Field: "det_checksum",
			Have: fmt.Sprintf("%#08x", have), Want: fmt.Sprintf("%#08x", want)}
	}
	return nil
}

// DirentHash returns the hash and minor hash that an entry of an encrypted,
// casefolded directory carries behind its name, of n bytes; ok is false when
// the record, of recLen bytes, has no room for it.
func DirentHash(b []byte, n, recLen int) (hash, minor uint32, ok bool) {
	at := (DirentHeaderSize + n + 3) &^ 3
	if at+direntHashSize > min(recLen, len(b)) {
		return 0, 0, false
	}
	return le.Uint32(b[at:]), le.Uint32(b[at+4:]), true
}

// IsDot reports whether name is "." or "..".
func IsDot(name []byte) bool {
	return bytes.Equal(name, []byte(".")) || bytes.Equal(name, []byte(".."))
}

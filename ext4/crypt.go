package ext4

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Encrypted names as the kernel shows them without the key
// (fs/crypto/fname.c, struct fscrypt_nokey_name): the entry's hash, the first
// 149 bytes of the stored name and, if there are more, the SHA-256 of the rest; all that in
// unpadded base64 with the alphabet of file names.
const (
	nokeyBytesAt = 8
	nokeyBytes   = 149
	nokeyFull    = nokeyBytesAt + nokeyBytes + sha256.Size
)

var nokeyEncoding = base64.RawURLEncoding

// nokeyName is the shown form of a stored name.
func nokeyName(stored []byte, hash, minor uint32) string {
	b := make([]byte, nokeyBytesAt, nokeyFull)
	binary.LittleEndian.PutUint32(b[0:4], hash)
	binary.LittleEndian.PutUint32(b[4:8], minor)
	b = append(b, stored[:min(len(stored), nokeyBytes)]...)
	if len(stored) > nokeyBytes {
		sum := sha256.Sum256(stored[nokeyBytes:])
		b = append(b, sum[:]...)
	}
	return nokeyEncoding.EncodeToString(b)
}

// shownName is the name under which a listing shows an entry.
func (in *Inode) shownName(stored []byte, hash, minor uint32) string {
	if in.encrypted() && !disk.IsDot(stored) {
		return nokeyName(stored, hash, minor)
	}
	return string(stored)
}

// matcher tells which stored name a name that the user gave stands for.
type matcher struct {
	match  func(stored []byte) bool
	hash   uint32
	hashed bool // hash is known
}

// matcher returns what name matches in directory in: itself, any name of the
// same folded form, or the encrypted name that it shows.
func (in *Inode) matcher(name string) (matcher, error) {
	if in.encrypted() {
		return nokeyMatcher(name)
	}
	if len(name) > disk.MaxNameLen {
		return matcher{}, unix.ENAMETOOLONG
	}
	if in.casefolded() {
		return in.foldMatcher(name)
	}
	m := matcher{match: func(stored []byte) bool { return string(stored) == name }}
	// A directory of one block, or inline, is searched as it is.
	if in.disk.Flags.Has(disk.FlagIndex) {
		v, err := in.hashVersion()
		if err != nil {
			return matcher{}, err
		}
		m.hash, _, m.hashed = disk.NameHash(v, in.fs.sb.HashSeed, []byte(name))
	}
	return m, nil
}

// nokeyMatcher undoes [nokeyName]. A name that does not decode matches
// nothing: without the key no such entry can exist.
func nokeyMatcher(name string) (matcher, error) {
	if len(name) > disk.MaxNameLen {
		return matcher{}, unix.ENAMETOOLONG
	}
	b, err := nokeyEncoding.DecodeString(name)
	// The decoder passes over line ends, and takes any bits behind the last byte.
	if err != nil || nokeyEncoding.EncodeToString(b) != name || len(b) <= nokeyBytesAt || (len(b) > nokeyBytesAt+nokeyBytes && len(b) != nokeyFull) {
		return matcher{}, unix.ENOENT
	}
	m := matcher{hash: binary.LittleEndian.Uint32(b), hashed: true}
	if bytes := b[nokeyBytesAt:]; len(bytes) <= nokeyBytes {
		m.match = func(stored []byte) bool { return string(stored) == string(bytes) }
	} else {
		head, sum := bytes[:nokeyBytes], [sha256.Size]byte(bytes[nokeyBytes:])
		m.match = func(stored []byte) bool {
			return len(stored) > nokeyBytes && string(stored[:nokeyBytes]) == string(head) && sha256.Sum256(stored[nokeyBytes:]) == sum
		}
	}
	// A linear listing shows no hash.
	m.hashed = m.hash != 0
	return m, nil
}

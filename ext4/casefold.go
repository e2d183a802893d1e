package ext4

import (
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// foldFallback reports whether a name that the index does not have is looked
// for in all blocks (ext4_lookup of casefolded directories).
func (in *Inode) foldFallback() bool {
	return in.casefolded() && !in.encrypted() && in.fs.sb.EncodingFlags&disk.EncodingNoFallback == 0
}

func (in *Inode) casefolded() bool {
	return in.fs.sb.Incompat.Has(disk.IncompatCasefold) && in.disk.Flags.Has(disk.FlagCasefold)
}

// hashedForm is what is hashed of a stored name.
func (in *Inode) hashedForm(name []byte) []byte {
	if in.casefolded() && !in.encrypted() {
		if f, ok := disk.Fold(name); ok {
			return []byte(f)
		}
	}
	return name
}

// foldMatcher matches the names that fold to what name folds to. What is not
// UTF-8 stands for itself, or is refused in a strict file system (generic_ci_match).
func (in *Inode) foldMatcher(name string) (matcher, error) {
	want, ok := disk.Fold([]byte(name))
	if !ok {
		if in.fs.sb.EncodingFlags&disk.EncodingStrict != 0 {
			return matcher{}, unix.EINVAL // generic_ci_d_hash
		}
		want = name
	}
	m := matcher{match: func(stored []byte) bool {
		if string(stored) == name {
			return true
		}
		f, fok := disk.Fold(stored)
		return ok && fok && f == want
	}}
	v, err := in.hashVersion()
	if err != nil {
		return matcher{}, err
	}
	m.hash, _, m.hashed = disk.NameHash(v, in.fs.sb.HashSeed, []byte(want))
	return m, nil
}

package ext4

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// strictEncoding is the bit of s_encoding_flags that refuses names that are not UTF-8.
const strictEncoding = 1

// noFoldFallback is the bit that says that all names were hashed with the
// tables of s_encoding (SB_ENC_NO_COMPAT_FALLBACK_FL).
const noFoldFallback = 2

// foldFallback reports whether a name that the index does not have is looked
// for in all blocks (ext4_lookup of casefolded directories).
func (in *Inode) foldFallback() bool {
	return in.casefolded() && !in.encrypted() && in.fs.sb.EncodingFlags&noFoldFallback == 0
}

func (in *Inode) casefolded() bool {
	return in.fs.sb.Incompat.Has(disk.IncompatCasefold) && in.disk.Flags.Has(disk.FlagCasefold)
}

// fold is the form under which names of casefolded directories are compared
// and hashed: decomposed, folded, decomposed again, without code points that
// are to be ignored (the kernel's fs/unicode, NFDICF). ok is false for what is no UTF-8.
//
// The kernel's tables are of Unicode 12.1, ours newer: names with characters
// that were added or changed since may compare differently.
func fold(name []byte) (folded string, ok bool) {
	if !utf8.Valid(name) {
		return "", false
	}
	s := norm.NFD.String(cases.Fold().String(norm.NFD.String(string(name))))
	return strings.Map(func(r rune) rune {
		if ignorable(r) {
			return -1
		}
		return r
	}, s), true
}

// ignorable reports whether r has the property Default_Ignorable_Code_Point.
func ignorable(r rune) bool {
	if r < 0xad {
		return false
	}
	switch {
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), unicode.Is(unicode.Variation_Selector, r):
		return true
	case r >= 0xfff9 && r <= 0xfffb, r >= 0x13430 && r <= 0x13440, unicode.Is(unicode.Prepended_Concatenation_Mark, r):
		return false
	}
	return unicode.Is(unicode.Cf, r)
}

// hashedForm is what is hashed of a stored name.
func (in *Inode) hashedForm(name []byte) []byte {
	if in.casefolded() && !in.encrypted() {
		if f, ok := fold(name); ok {
			return []byte(f)
		}
	}
	return name
}

// foldMatcher matches the names that fold to what name folds to. What is not
// UTF-8 stands for itself, or is refused in a strict file system (generic_ci_match).
func (in *Inode) foldMatcher(name string) (matcher, error) {
	want, ok := fold([]byte(name))
	if !ok {
		if in.fs.sb.EncodingFlags&strictEncoding != 0 {
			return matcher{}, unix.EINVAL // generic_ci_d_hash
		}
		want = name
	}
	m := matcher{match: func(stored []byte) bool {
		if string(stored) == name {
			return true
		}
		f, fok := fold(stored)
		return ok && fok && f == want
	}}
	v, err := in.hashVersion()
	if err != nil {
		return matcher{}, err
	}
	m.hash, _, m.hashed = disk.NameHash(v, in.fs.sb.HashSeed, []byte(want))
	return m, nil
}

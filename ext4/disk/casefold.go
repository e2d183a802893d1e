package disk

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// EncodingUTF8 is the s_encoding of Unicode 12.1 (EXT4_ENC_UTF8_12_1), the only one there is.
const EncodingUTF8 = 1

// Bits of s_encoding_flags.
const (
	EncodingStrict     = 1 // names that are not UTF-8 are refused
	EncodingNoFallback = 2 // all names were hashed with the tables of s_encoding (SB_ENC_NO_COMPAT_FALLBACK_FL)
)

// Fold is the form under which names of casefolded directories are compared
// and hashed: decomposed, folded, decomposed again, without code points that
// are to be ignored (the kernel's fs/unicode, NFDICF). ok is false for what is no UTF-8.
//
// The kernel's tables are of Unicode 12.1, ours newer: names with characters
// that were added or changed since may compare differently.
func Fold(name []byte) (folded string, ok bool) {
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

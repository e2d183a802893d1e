package disk

import (
	"slices"
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
// and hashed: each code point decomposed, folded, and decomposed again, without those that
// are to be ignored, and then all in canonical order (the kernel's fs/unicode, NFDICF). ok is false
// for what is no UTF-8.
//
// The tables are those of Unicode 12.1: code points that were added later stand for themselves.
func Fold(name []byte) (folded string, ok bool) {
	if !utf8.Valid(name) {
		return "", false
	}
	if !slices.ContainsFunc(name, func(c byte) bool { return c >= utf8.RuneSelf }) {
		return strings.ToLower(string(name)), true
	}
	fold := cases.Fold()
	var out, part []byte // part is to be put in order
	for _, r := range string(name) {
		switch {
		case 'A' <= r && r <= 'Z':
			part = append(part, byte(r-'A'+'a'))
		case r < utf8.RuneSelf:
			part = append(part, byte(r))
		case unicode.Is(unfolded, r):
			// What comes before is not moved behind it, nor what comes behind before it.
			out, part = utf8.AppendRune(append(out, norm.NFD.Bytes(part)...), r), part[:0]
		case ignorable(r):
			out, part = append(out, norm.NFD.Bytes(part)...), part[:0]
		default:
			part = append(part, fold.String(norm.NFD.String(string(r)))...)
		}
	}
	return string(append(out, norm.NFD.Bytes(part)...)), true
}

// unfolded are the code points that stand for themselves in Unicode 12.1, and would
// not here: those of newer versions that have another case, are decomposed, are ignored or combine; and
// the capitals of Cherokee, to which its small letters fold, as golang.org/x/text forgets.
var unfolded = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x0898, 0x089f, 1}, {0x08ca, 0x08d2, 1}, {0x0c3c, 0x0c3c, 1}, {0x13a0, 0x13f5, 1}, {0x1715, 0x1715, 1}, {0x180f, 0x180f, 1}, {0x1abf, 0x1ace, 1},
		{0x1dfa, 0x1dfa, 1}, {0x2c2f, 0x2c2f, 1}, {0xa7c0, 0xa7c0, 1}, {0xa7c7, 0xa7c9, 2}, {0xa7d0, 0xa7d0, 1}, {0xa7d6, 0xa7d8, 2}, {0xa7f5, 0xa7f5, 1},
		{0xa82c, 0xa82c, 1},
	},
	R32: []unicode.Range32{
		{0x10570, 0x1057a, 1}, {0x1057c, 0x1058a, 1}, {0x1058c, 0x10592, 1}, {0x10594, 0x10595, 1}, {0x10eab, 0x10eac, 1}, {0x10efd, 0x10eff, 1},
		{0x10f82, 0x10f85, 1}, {0x11070, 0x11070, 1}, {0x11938, 0x11938, 1}, {0x1193d, 0x1193e, 1}, {0x11943, 0x11943, 1}, {0x11f41, 0x11f42, 1},
		{0x16ff0, 0x16ff1, 1}, {0x1e08f, 0x1e08f, 1}, {0x1e2ae, 0x1e2ae, 1}, {0x1e4ec, 0x1e4ef, 1},
	},
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

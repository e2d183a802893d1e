package commands

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"e4go/ext4/disk"
)

// shownName is a name as it goes to people: what a terminal would obey or what
// cannot be read is written \n, \x1b, \xff, and so is, for the name to stay
// unambiguous, the backslash.
func shownName(s string) string {
	if isShowable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r) && r < utf8.RuneSelf:
			if q := strconv.QuoteToASCII(s[:1]); len(q) == 4 { // \n, \t and their like
				b.WriteString(q[1:3])
			} else {
				b.WriteString(`\x` + hex.EncodeToString([]byte{s[0]}))
			}
			n = 1
		case !unicode.IsPrint(r):
			q := strconv.QuoteToASCII(s[:n])
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func isShowable(s string) bool {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f || c == '\\' {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) {
			return false
		}
		i += n
	}
	return true
}

// name is a name in the form of the output: escaped for people, raw with
// --plain, except that there the bytes that end fields and lines are escaped.
func (o *output) name(s string) string {
	if !o.plain {
		return shownName(s)
	}
	if strings.ContainsAny(s, "\t\n\\") {
		return strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`).Replace(s)
	}
	return s
}

// uuidText is a UUID as people write it.
func uuidText(u [16]byte) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// timeText is t with nanoseconds, in UTC: the same everywhere.
func timeText(t disk.Time) string {
	return time.Unix(t.Sec, int64(t.Nsec)).UTC().Format("2006-01-02 15:04:05.000000000 +0000")
}

// secondsText is a time of the superblock, which has no nanoseconds.
func secondsText(sec int64) string {
	if sec == 0 {
		return "n/a"
	}
	return time.Unix(sec, 0).UTC().Format("2006-01-02 15:04:05 +0000")
}

// typeLetter is the first letter of what ls -l prints for mode.
func typeLetter(m disk.Mode) byte {
	switch m.Type() {
	case disk.ModeReg:
		return '-'
	case disk.ModeDir:
		return 'd'
	case disk.ModeLink:
		return 'l'
	case disk.ModeChar:
		return 'c'
	case disk.ModeBlock:
		return 'b'
	case disk.ModeFIFO:
		return 'p'
	case disk.ModeSocket:
		return 's'
	}
	return '?'
}

// appendMode appends mode as ls -l prints it: drwxr-xr-x.
func appendMode(b []byte, m disk.Mode) []byte {
	b = append(b, typeLetter(m))
	for shift := 6; shift >= 0; shift -= 3 {
		rwx := m >> shift & 7
		special := m&(0o1000<<(shift/3)) != 0
		letters := [3]byte{'-', '-', '-'}
		if rwx&4 != 0 {
			letters[0] = 'r'
		}
		if rwx&2 != 0 {
			letters[1] = 'w'
		}
		x, s := byte('x'), byte('s')
		if shift == 0 {
			s = 't'
		}
		switch {
		case special && rwx&1 != 0:
			letters[2] = s
		case special:
			letters[2] = s - 'a' + 'A'
		case rwx&1 != 0:
			letters[2] = x
		}
		b = append(b, letters[:]...)
	}
	return b
}

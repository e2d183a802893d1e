package mkfs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"e4go/ext4/disk"
)

var aclTags = map[string][2]uint16{ // with no name, with one
	"user": {disk.ACLUserObj, disk.ACLUser}, "u": {disk.ACLUserObj, disk.ACLUser},
	"group": {disk.ACLGroupObj, disk.ACLGroup}, "g": {disk.ACLGroupObj, disk.ACLGroup},
	"mask": {disk.ACLMask, 0}, "m": {disk.ACLMask, 0},
	"other": {disk.ACLOther, 0}, "o": {disk.ACLOther, 0},
}

// parseACL understands an ACL as archives hold it: entries separated by commas
// or line breaks, each "user:name:rwx" or, with the number behind, "user:name:rwx:1000".
// Names without a number cannot be looked up: they are those of another machine.
func parseACL(text string) ([]disk.ACLEntry, error) {
	var out []disk.ACLEntry
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		line = strings.TrimPrefix(line, "default:")
		f := strings.Split(line, ":")
		if len(f) == 2 { // "mask:rwx"
			f = []string{f[0], "", f[1]}
		}
		tags, ok := aclTags[f[0]]
		if !ok || len(f) < 3 || len(f) > 4 {
			return nil, fmt.Errorf("ACL entry %q: want tag:name:permissions", line)
		}
		e := disk.ACLEntry{Tag: tags[0], ID: 1<<32 - 1}
		if f[1] != "" {
			if tags[1] == 0 {
				return nil, fmt.Errorf("ACL entry %q: a %s has no name", line, f[0])
			}
			number := f[1]
			if len(f) == 4 {
				number = f[3]
			}
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("ACL entry %q: the name has no number; archive with --xattrs too", line)
			}
			e.Tag, e.ID = tags[1], uint32(id)
		}
		for _, c := range f[2] {
			switch c {
			case 'r':
				e.Perm |= 4
			case 'w':
				e.Perm |= 2
			case 'x':
				e.Perm |= 1
			case '-':
			default:
				return nil, fmt.Errorf("ACL entry %q: want permissions of r, w, x and -", line)
			}
		}
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b disk.ACLEntry) int {
		if a.Tag != b.Tag {
			return int(a.Tag) - int(b.Tag)
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return out, nil
}

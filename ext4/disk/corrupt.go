package disk

import (
	"errors"
	"fmt"
)

// ErrCorrupt is what every [CorruptError] is, for errors.Is.
var ErrCorrupt = errors.New("file system is corrupt")

// A CorruptError reports one structure of the image that breaks a rule of the
// format. It says where, which field, what stands there and what may stand
// there, so that a person can find the bytes with a hex editor.
type CorruptError struct {
	Struct string // the structure, in words: "group descriptor", "extent node of inode"
	Num    uint64 // which one: a group, inode or block number, as Struct says
	Block  PBlock // the block it was read from
	Off    int    // the field's byte offset in that block
	Field  string // the field's name in the kernel: "bg_checksum"
	Have   string // what stands there
	Want   string // what the rule allows, as a phrase: "at most 340"
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s %d (block %d+%#x): %s is %s, want %s",
		e.Struct, e.Num, e.Block, e.Off, e.Field, e.Have, e.Want)
}

// Is reports whether target is [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

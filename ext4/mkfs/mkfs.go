// Package mkfs makes ext2, ext3 and ext4 file systems, empty or filled from a
// directory or an archive. What it makes depends on its input alone: the same
// tree and the same [Options] give the same bytes on every machine.
//
//	Options --Resolve--> Params --layout--> volume --fill--> --finish--> device
//	         (what)               (where)            (data)  (metadata)
//
// Resolve decides what mke2fs decides: features, sizes, counts, each with
// mke2fs's defaults. The layout places what every file system has where mke2fs places it:
// superblocks, descriptors, bitmaps, inode tables, journal. An empty file
// system is, but for its times and UUID, the one that mke2fs makes. Contents of files are
// written as they come, each in one piece where it fits; everything that has a
// checksum is written last, since the UUID that all checksums start from is
// derived from the contents.
//
// The package knows the format (disk) and storage (blockdev), and shares
// nothing with package ext4, which reads what is made here.
package mkfs

import (
	"fmt"
)

// A UsageError says that options contradict each other or the size, and what
// to change.
type UsageError struct {
	What string // what is wrong
	Hint string // what to do; may be empty
}

func (e *UsageError) Error() string {
	if e.Hint == "" {
		return e.What
	}
	return e.What + ": " + e.Hint
}

func usage(hint, format string, args ...any) error {
	return &UsageError{What: fmt.Sprintf(format, args...), Hint: hint}
}

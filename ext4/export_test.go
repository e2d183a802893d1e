package ext4

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ReserveAll takes all blocks that are free, also those that are kept for
// splitting extents, until release is called.
func (fs *FS) ReserveAll() (release func(), err error) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	var runs []run
	for {
		r, err := fs.rw.reserve(allocRequest{want: 1 << 20, least: 1})
		if errors.Is(err, unix.ENOSPC) {
			return func() { fs.rw.unreserveRuns(runs) }, nil
		}
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
}

// GroupBytes is how much memory the bitmaps of groups take.
func (fs *FS) GroupBytes() (total int) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	for _, g := range fs.rw.groups {
		total += len(g.blocks) + len(g.busy) + len(g.inodes)
	}
	if total != fs.rw.groupBytes {
		panic("ext4: groupBytes is wrong")
	}
	return total
}

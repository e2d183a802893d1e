package ext4

import (
	"context"
	"errors"

	"e4go/ext4/disk"
)

// maxAccessed is how many inodes are dated in one update.
const maxAccessed = 32

// Accessed dates the last access to each inode: its atime and nothing else of it changes. An inode
// that is not in use any more, that was accessed later, or that is damaged is passed over. Which
// accesses count is the caller's to decide.
func (fs *FS) Accessed(ctx context.Context, times map[disk.Ino]disk.Time) error {
	var inos []disk.Ino
	date := func() error {
		err := fs.Update(ctx, func(h *Handle) error {
			for _, ino := range inos {
				in, err := h.inode(ino)
				if err != nil {
					return err
				}
				if t := fs.storable(times[ino]); in.mayDate(t) {
					in.disk.Atime = t
				}
			}
			return nil
		})
		inos = inos[:0]
		return err
	}
	for ino, t := range times {
		in, err := fs.Inode(ino)
		if errors.Is(err, disk.ErrCorrupt) || err == nil && !in.mayDate(t) {
			continue
		}
		if err != nil {
			return err
		}
		if inos = append(inos, ino); len(inos) == maxAccessed {
			if err := date(); err != nil {
				return err
			}
		}
	}
	if len(inos) == 0 {
		return nil
	}
	return date()
}

// mayDate reports whether t can be the time of the last access.
func (in *Inode) mayDate(t disk.Time) bool {
	const never = disk.FlagNoatime | disk.FlagEAInode // of the latter, atime is a hash
	return in.disk.Links > 0 && in.disk.Flags&never == 0 && t.After(in.disk.Atime)
}

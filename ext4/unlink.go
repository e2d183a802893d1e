package ext4

import (
	"context"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Unlink takes a name from directory dir. If it was the last, the file is
// deleted when nobody has it open. It fails with a wrapped ENOENT, EISDIR, or
// EPERM where directory or file are immutable or append-only.
func (fs *FS) Unlink(ctx context.Context, c Caller, dir disk.Ino, name string) error {
	err := error(nil)
	if disk.IsDot([]byte(name)) {
		err = unix.EISDIR
	} else {
		err = fs.removeName(ctx, c, dir, name, func(h *Handle, _, in *Inode) error {
			if in.Type() == disk.ModeDir {
				return unix.EISDIR
			}
			in.dropLink()
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("unlink %q in directory %d: %w", name, dir, err)
	}
	return nil
}

// Rmdir removes an empty directory from directory dir. It fails with a wrapped
// ENOENT, ENOTDIR, ENOTEMPTY, EINVAL for ".", or EPERM as [FS.Unlink] does.
func (fs *FS) Rmdir(ctx context.Context, c Caller, dir disk.Ino, name string) error {
	err := error(nil)
	switch name {
	case ".":
		err = unix.EINVAL
	case "..":
		err = unix.ENOTEMPTY
	default:
		err = fs.removeName(ctx, c, dir, name, func(h *Handle, dir, in *Inode) error {
			if in.Type() != disk.ModeDir {
				return unix.ENOTDIR
			}
			if empty, err := in.isEmpty(); err != nil {
				return err
			} else if !empty {
				return unix.ENOTEMPTY
			}
			in.disk.Links = 0
			dir.dropLink()
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("rmdir %q in directory %d: %w", name, dir, err)
	}
	return nil
}

// removeName takes a name from a directory. drop judges the inode and counts
// what it loses.
func (fs *FS) removeName(ctx context.Context, c Caller, dir disk.Ino, name string, drop func(h *Handle, dir, in *Inode) error) error {
	var orphan disk.Ino
	err := fs.changeNames(ctx, c, func(h *Handle) (*Inode, error) {
		orphan = 0
		dir, err := h.directory(dir)
		if err != nil {
			return dir, err
		}
		p, err := dir.findName(name)
		if err != nil {
			return dir, err
		}
		in, err := h.victim(dir, name, p)
		if err != nil {
			return dir, err
		}
		if err := dir.mayRemove(in); err != nil {
			return dir, err
		}
		if err := drop(h, dir, in); err != nil {
			return dir, err
		}
		if err := h.removeEntry(dir, p); err != nil {
			return dir, err
		}
		in.touch(false)
		orphan, err = h.unlinked(in)
		return dir, err
	})
	fs.evictLater(ctx, orphan, err)
	return err
}

// victim returns the inode that entry p of directory dir names, to be changed.
func (h *Handle) victim(dir *Inode, name string, p direntPlace) (*Inode, error) {
	in, err := h.fields(p.ino)
	if err == nil {
		err = dir.judgeEntry(name, in)
	}
	if err != nil {
		return nil, err
	}
	return h.inode(p.ino)
}

// unlinked deals with an inode that has lost a name. If it was the last, and
// nobody has it open, the inode is deleted with the same update if that is possible;
// else it goes on record, and evict is its number if it is to be deleted next.
func (h *Handle) unlinked(in *Inode) (evict disk.Ino, err error) {
	if in.disk.Links > 0 {
		return 0, nil
	}
	if h.rw.open[in.ino] != nil {
		return 0, h.addOrphan(in)
	}
	// The lock belongs outside of an update: who holds it may be waiting for us.
	if mu := h.rw.inodeLock(in.ino); mu.tryLock() {
		h.after, h.undo = append(h.after, mu.unlock), append(h.undo, mu.unlock)
		done, err := h.deleteInode(in)
		if done || err != nil {
			return 0, err
		}
	}
	return in.ino, h.addOrphan(in)
}

// evictLater deletes an inode that an update has left to be deleted. The
// update counts whether that goes well or not: if not, the inode stays on record,
// and the next who opens the file system deletes it.
func (fs *FS) evictLater(ctx context.Context, ino disk.Ino, err error) {
	if err == nil && ino != 0 {
		_ = fs.evict(context.WithoutCancel(ctx), ino)
	}
}

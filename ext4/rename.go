package ext4

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Flags of [FS.Rename], as renameat2(2) has them.
const (
	RenameNoreplace = unix.RENAME_NOREPLACE
	RenameExchange  = unix.RENAME_EXCHANGE
	RenameWhiteout  = unix.RENAME_WHITEOUT
)

// renaming is what a rename is about: the old and the new place.
type renaming struct {
	flags            uint
	from, to         *Inode // the directories; may be the same
	name, newName    string
	source, target   direntPlace // target.ino is 0 if the new name is free
	moved, displaced *Inode      // what source and target name; displaced may be nil
}

// Rename gives a file of directory dir another name, in directory newDir or
// the same. What has the new name loses it; with RenameNoreplace that is EEXIST, with
// RenameExchange it gets the old name. With RenameWhiteout a whiteout, the character device
// 0:0, takes the old name. It fails with a wrapped ENOENT, EISDIR, ENOTDIR, ENOTEMPTY,
// EINVAL for a directory that would move into itself, and for flags that do not go
// together, EMLINK, EXDEV as [FS.Link] does, EBUSY for "." and "..", EPERM, ENOKEY and ENOSPC.
func (fs *FS) Rename(ctx context.Context, c Caller, dir disk.Ino, name string, newDir disk.Ino, newName string, flags uint) error {
	const known = RenameNoreplace | RenameExchange | RenameWhiteout
	err := error(nil)
	switch {
	case flags&^known != 0 || flags&RenameExchange != 0 && flags&(RenameNoreplace|RenameWhiteout) != 0:
		err = unix.EINVAL
	case disk.IsDot([]byte(name)):
		err = unix.EBUSY
	case disk.IsDot([]byte(newName)):
		if err = unix.EBUSY; flags&RenameNoreplace != 0 {
			err = unix.EEXIST
		}
	default:
		var orphan, sync disk.Ino
		err = fs.changeNames(ctx, c, func(h *Handle) (*Inode, error) {
			orphan, sync = 0, 0
			r := renaming{flags: flags, name: name, newName: newName}
			if err := h.findRenaming(&r, dir, newDir); err != nil {
				return nil, err
			}
			if r.source.ino == r.target.ino {
				return r.from, nil // two names of one file stay
			}
			if err := r.judge(); err != nil {
				return nil, err
			}
			if r.to.disk.Flags&(disk.FlagDirsync|disk.FlagSync) != 0 {
				sync = r.to.ino
			}
			if flags&RenameExchange != 0 {
				return r.from, h.exchange(&r)
			}
			orphan, err = h.rename(c, &r)
			return r.from, err
		})
		fs.evictLater(ctx, orphan, err)
		if err == nil && sync != 0 {
			err = fs.Fsync(sync, false)
		}
	}
	if err != nil {
		return fmt.Errorf("rename %q in directory %d to %q in directory %d: %w", name, dir, newName, newDir, err)
	}
	return nil
}

// findRenaming looks up what a rename is about (do_renameat2).
func (h *Handle) findRenaming(r *renaming, dir, newDir disk.Ino) (err error) {
	if r.from, err = h.directory(dir); err != nil {
		return err
	}
	if r.to, err = h.directory(newDir); err != nil {
		return err
	}
	if r.source, err = r.from.findName(r.name); err != nil {
		return err
	}
	if r.newName == "" {
		return unix.ENOENT
	}
	if r.target, err = r.to.findName(r.newName); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	switch {
	case r.target.ino != 0 && r.flags&RenameNoreplace != 0:
		return unix.EEXIST
	case r.target.ino == 0 && r.flags&RenameExchange != 0:
		return unix.ENOENT
	}
	if r.moved, err = h.victim(r.from, r.name, r.source); err != nil {
		return err
	}
	if r.target.ino != 0 {
		if r.displaced, err = h.victim(r.to, r.newName, r.target); err != nil {
			return err
		}
	}
	if r.from == r.to {
		return nil
	}
	if r.moved.Type() == disk.ModeDir {
		if inside, err := h.isBelow(r.to, r.moved.ino); inside || err != nil {
			return cmpErr(err, unix.EINVAL)
		}
	}
	if r.displaced != nil && r.displaced.Type() == disk.ModeDir {
		if inside, err := h.isBelow(r.from, r.displaced.ino); err != nil || inside {
			if r.flags&RenameExchange != 0 {
				return cmpErr(err, unix.EINVAL)
			}
			return cmpErr(err, unix.ENOTEMPTY)
		}
	}
	return nil
}

// cmpErr is err, or else otherwise.
func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// isBelow reports whether directory dir is ino or anywhere below it.
func (h *Handle) isBelow(dir *Inode, ino disk.Ino) (bool, error) {
	for seen := map[disk.Ino]bool{}; dir.ino != ino; {
		if dir.ino == disk.RootIno {
			return false, nil
		}
		up, err := dir.parent()
		if err != nil {
			return false, err
		}
		if seen[dir.ino] || up == dir.ino {
			return false, dir.badEntry("..", up, "a way to the root")
		}
		seen[dir.ino] = true
		if dir, err = h.peek(up); err != nil {
			return false, err
		}
		if dir.Type() != disk.ModeDir {
			return false, dir.badEntry("..", up, "a directory")
		}
	}
	return true, nil
}

// judge says why the rename may not be (vfs_rename, ext4_rename).
func (r *renaming) judge() error {
	isDir := r.moved.Type() == disk.ModeDir
	if err := r.from.mayRemove(r.moved); err != nil {
		return err
	}
	if r.displaced == nil {
		if err := r.to.mayAdd(r.newName); err != nil {
			return err
		}
	} else {
		if err := r.to.mayRemove(r.displaced); err != nil {
			return err
		}
		if wasDir := r.displaced.Type() == disk.ModeDir; r.flags&RenameExchange == 0 && wasDir != isDir {
			if isDir {
				return unix.ENOTDIR
			}
			return unix.EISDIR
		}
	}
	if r.from.encrypted() || r.to.encrypted() {
		return unix.ENOKEY
	}
	if err := r.to.sameProject(r.moved); err != nil {
		return err
	}
	if r.flags&RenameExchange != 0 {
		return r.from.sameProject(r.displaced)
	}
	if !isDir {
		return nil
	}
	if r.displaced != nil {
		empty, err := r.displaced.isEmpty()
		if err == nil && !empty {
			err = unix.ENOTEMPTY
		}
		return err
	}
	if r.from != r.to && !r.to.mayHaveSubdir() {
		return unix.EMLINK
	}
	return nil
}

// rename moves the name. It returns the inode that is to be deleted next, if any.
func (h *Handle) rename(c Caller, r *renaming) (evict disk.Ino, err error) {
	if r.flags&RenameWhiteout != 0 {
		w, err := h.newInDir(c, r.from, disk.ModeChar)
		if err != nil {
			return 0, err
		}
		w.disk.Links = 1
		w.disk.SetDev(0, 0)
		err = h.setEntry(r.from, r.source, w.ino, disk.TypeChar)
		if err != nil {
			return 0, err
		}
	} else if err := h.removeEntry(r.from, r.source); err != nil {
		return 0, err
	}
	kind := r.moved.disk.Mode.FileType()
	if r.displaced == nil {
		err = h.addEntry(r.to, r.target, &dirent{r.newName, r.moved.ino, kind})
	} else {
		err = h.setEntry(r.to, r.target, r.moved.ino, kind)
	}
	if err != nil {
		return 0, err
	}
	r.moved.touch(false)
	if r.moved.Type() == disk.ModeDir {
		if r.from != r.to {
			if err := h.setParent(r.moved, r.to.ino); err != nil {
				return 0, err
			}
		}
		r.from.dropLink()
		if r.displaced == nil {
			r.to.addLink()
		} else {
			r.displaced.disk.Links = 0
		}
	} else if r.displaced != nil {
		r.displaced.dropLink()
	}
	if r.displaced == nil {
		return 0, nil
	}
	r.displaced.touch(false)
	return h.unlinked(r.displaced)
}

// exchange lets two files have each other's name (ext4_cross_rename).
func (h *Handle) exchange(r *renaming) error {
	aDir, bDir := r.moved.Type() == disk.ModeDir, r.displaced.Type() == disk.ModeDir
	if r.from != r.to && aDir != bDir {
		gains, loses := r.to, r.from
		if bDir {
			gains, loses = r.from, r.to
		}
		if !gains.mayHaveSubdir() {
			return unix.EMLINK
		}
		gains.addLink()
		loses.dropLink()
	}
	if err := h.setEntry(r.to, r.target, r.moved.ino, r.moved.disk.Mode.FileType()); err != nil {
		return err
	}
	if err := h.setEntry(r.from, r.source, r.displaced.ino, r.displaced.disk.Mode.FileType()); err != nil {
		return err
	}
	for _, x := range []struct {
		in *Inode
		to *Inode
	}{{r.moved, r.to}, {r.displaced, r.from}} {
		x.in.touch(false)
		if r.from != r.to && x.in.Type() == disk.ModeDir {
			if err := h.setParent(x.in, x.to.ino); err != nil {
				return err
			}
		}
	}
	return nil
}

package ext4

import (
	"context"
	"fmt"
	"math"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// SetAttr says which attributes of an inode to change: those that are not nil.
type SetAttr struct {
	Mode     *disk.Mode // permissions, set-user-ID, set-group-ID and sticky
	UID, GID *uint32
	Size     *int64 // of a regular file, bytes: see [FS.Truncate]
	Atime    *disk.Time
	Mtime    *disk.Time
	Ctime    *disk.Time // nil is now, if anything else changes
	Crtime   *disk.Time
	Touch    bool            // Atime and Mtime become now: allowed for append-only files
	Kept     bool            // the times are those that a kernel has kept: no flag of the file is against recording them
	Flags    *disk.FileFlags // as FS_IOC_SETFLAGS takes them; those that are not for users to change stay
	Project  *uint32
}

// SetAttr changes attributes of inode ino. A change of owner or group takes
// set-user-ID and set-group-ID away from what is no directory, and the capabilities;
// set-group-ID for a group that the caller is not in has no effect. Whose the file is, is
// not asked. It fails with a wrapped EPERM for immutable and append-only files, and for what takes
// privileges, with EOPNOTSUPP for the mode of a symbolic link and for flags and projects that
// the file or the file system cannot have, and with ENOTDIR or ENOTEMPTY where casefold does not go.
// With a size it fails as [FS.Truncate] does, before anything else has changed. Setting the extents
// flag is [FS.Migrate]; clearing it gives back a map of block numbers to a file whose
// blocks are all among the first 12, in one run, and is EOPNOTSUPP for others.
func (fs *FS) SetAttr(ctx context.Context, c Caller, ino disk.Ino, a SetAttr) error {
	err := error(nil)
	if a.Size != nil {
		if err = fs.checkAttr(c, ino, &a); err == nil {
			err = fs.Truncate(ctx, c, ino, *a.Size)
		}
		if err == nil && a == (SetAttr{Size: a.Size}) {
			return nil
		}
	}
	if err == nil {
		if a.Flags != nil && fs.rw != nil { // they may change the form of its map
			var mu inodeMutex
			if mu, err = fs.rw.lockInode(ctx, ino); err == nil {
				defer mu.unlock()
			}
		}
	}
	if err == nil {
		err = fs.changeAttr(ctx, c, ino, func(*Inode) (SetAttr, error) { return a, nil })
	}
	if err != nil {
		return fmt.Errorf("set attributes of inode %d: %w", ino, err)
	}
	return nil
}

// changeAttr changes the attributes that fn says of an inode, in one update.
func (fs *FS) changeAttr(ctx context.Context, c Caller, ino disk.Ino, fn func(in *Inode) (SetAttr, error)) error {
	return fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		if err != nil {
			return err
		}
		if in.disk.Links == 0 && !h.isOrphan(ino) {
			return in.stale()
		}
		h.limit(c)
		h.unprivileged = !c.mayUseReserved(h.rw)
		a, err := fn(in)
		if err != nil {
			return err
		}
		return h.setAttr(c, in, &a)
	})
}

// checkAttr says why attributes of an inode cannot be changed.
func (fs *FS) checkAttr(c Caller, ino disk.Ino, a *SetAttr) error {
	in, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	return in.mayChange(c, a)
}

// internal reports whether the inode belongs to the file system itself, or is
// an EA inode: no user's (is_special_ino).
func (in *Inode) internal() bool {
	sb := &in.fs.sb
	switch in.ino {
	case disk.RootIno:
		return false
	case sb.UserQuotaIno, sb.GroupQuotaIno, sb.ProjectQuotaIno, sb.OrphanFileIno:
		return true
	}
	return in.ino < sb.FirstIno || in.disk.Flags.Has(disk.FlagEAInode)
}

// mayChange says why attributes of the inode cannot be changed (notify_change,
// ext4_setattr, ext4_ioctl_setflags).
func (in *Inode) mayChange(c Caller, a *SetAttr) error {
	flags := in.disk.Flags
	attrs := a.Mode != nil || a.UID != nil || a.GID != nil || a.Crtime != nil ||
		!a.Kept && (a.Atime != nil || a.Mtime != nil || a.Ctime != nil)
	switch {
	case in.internal():
		return unix.EPERM
	case flags.Has(disk.FlagImmutable) && (attrs || a.Touch), flags.Has(disk.FlagAppend) && attrs:
		return unix.EPERM
	case a.Mode != nil && in.Type() == disk.ModeLink:
		return unix.EOPNOTSUPP
	}
	if a.Flags != nil {
		if err := in.mayFlag(c, *a.Flags, a.Project); err != nil {
			return err
		}
	}
	if a.Project != nil {
		return in.mayProject(*a.Project)
	}
	return nil
}

func (h *Handle) setAttr(c Caller, in *Inode, a *SetAttr) error {
	if err := in.mayChange(c, a); err != nil {
		return err
	}
	d := &in.disk
	had := d.GID
	if a.UID != nil {
		d.UID = *a.UID
	}
	if a.GID != nil {
		d.GID = *a.GID
	}
	mode := d.Mode & disk.ModePerm
	switch {
	case a.Mode != nil:
		mode = *a.Mode & disk.ModePerm
		if !c.mayActFor(d.GID) {
			mode &^= unix.S_ISGID
		}
	case (a.UID != nil || a.GID != nil) && in.Type() != disk.ModeDir:
		// chown_common: a new owner shall not find what the old one has allowed.
		mode &^= unix.S_ISUID
		if mode&unix.S_IXGRP != 0 || !c.mayActFor(had) {
			mode &^= unix.S_ISGID
		}
		if err := h.dropCapability(in); err != nil {
			return err
		}
	}
	d.Mode = d.Mode.Type() | mode
	if a.Flags != nil {
		in.setFlags(*a.Flags)
		if extents := a.Flags.Has(disk.FlagExtents); extents != d.Flags.Has(disk.FlagExtents) {
			if err := h.migrate(c, in, extents); err != nil {
				return err
			}
		}
	}
	if a.Project != nil {
		if err := h.setProject(in, *a.Project); err != nil {
			return err
		}
	}
	if a.Mode != nil {
		if err := h.chmodACL(in); err != nil {
			return err
		}
	}
	in.touch(false)
	if a.Touch {
		d.Atime, d.Mtime = d.Ctime, d.Ctime
	}
	for _, t := range []struct {
		to   *disk.Time
		from *disk.Time
	}{{&d.Atime, a.Atime}, {&d.Mtime, a.Mtime}, {&d.Ctime, a.Ctime}, {&d.Crtime, a.Crtime}} {
		if t.from != nil {
			*t.to = h.fs.storable(*t.from)
		}
	}
	return nil
}

// Times that an inode can hold: with room for 34 bits of seconds, or for 32
// (EXT4_TIMESTAMP_MIN, EXT4_EXTRA_TIMESTAMP_MAX).
const (
	minTime      = math.MinInt32
	maxTime      = 1<<34 - 1 + math.MinInt32
	maxTimeSmall = math.MaxInt32
)

// storable is t as an inode can hold it: at most as early or late, and without
// nanoseconds where there is no room for them (timestamp_truncate).
func (fs *FS) storable(t disk.Time) disk.Time {
	most := int64(maxTime)
	if fs.sb.InodeSize == disk.GoodOldInodeSize {
		t.Nsec, most = 0, maxTimeSmall
	}
	switch {
	case t.Sec < minTime:
		return disk.Time{Sec: minTime}
	case t.Sec > most:
		return disk.Time{Sec: most}
	}
	return t
}

package ext4

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Every change of names is one update: no crash, and no reader, finds a file
// with a name too many or too few. Whether the caller may search and write the directories
// is not asked here: that is for whoever serves the call.

// maxFileLinks is how many names an inode can have (EXT4_LINK_MAX). With
// dir_nlink an indexed directory that has more subdirectories says 1.
const maxFileLinks = 65000

// Create makes a file without contents in directory dir: a regular one, a
// FIFO or a socket, as mode's type says. mode has gone through the caller's umask. It
// fails with a wrapped EEXIST, ENOTDIR, ENAMETOOLONG, EINVAL for what is no name, EPERM in
// immutable directories, ENOKEY in encrypted ones, ENOENT in deleted ones, or ENOSPC.
func (fs *FS) Create(ctx context.Context, c Caller, dir disk.Ino, name string, mode disk.Mode) (*Inode, error) {
	switch mode.Type() {
	case disk.ModeReg, disk.ModeFIFO, disk.ModeSocket:
	default:
		return nil, fmt.Errorf("create %q in directory %d: type %#o: %w", name, dir, uint16(mode.Type()), unix.EINVAL)
	}
	return fs.make(ctx, c, "create", dir, name, mode, nil)
}

// Mknod makes the device node name in directory dir. It fails as [FS.Create] does.
func (fs *FS) Mknod(ctx context.Context, c Caller, dir disk.Ino, name string, mode disk.Mode, major, minor uint32) (*Inode, error) {
	if fs.rw == nil {
		return nil, ErrReadOnly
	}
	if t := mode.Type(); t != disk.ModeChar && t != disk.ModeBlock {
		return fs.Create(ctx, c, dir, name, mode)
	}
	return fs.make(ctx, c, "mknod", dir, name, mode, func(_ *Handle, _, in *Inode) error {
		in.disk.SetDev(major, minor)
		return nil
	})
}

// Mkdir makes a directory in directory dir. Of mode, permissions and the sticky bit
// count. It fails as [FS.Create] does, and with EMLINK.
func (fs *FS) Mkdir(ctx context.Context, c Caller, dir disk.Ino, name string, mode disk.Mode) (*Inode, error) {
	return fs.make(ctx, c, "mkdir", dir, name, mode&(0o777|unix.S_ISVTX)|disk.ModeDir, func(h *Handle, dir, in *Inode) error {
		if !dir.mayHaveSubdir() {
			return unix.EMLINK
		}
		dir.addLink()
		return h.makeDirectory(in, dir.ino)
	})
}

// Symlink makes a symbolic link in directory dir. A target of less than 60
// bytes stands in the inode, a longer one in a block. It fails as [FS.Create] does, and with
// ENAMETOOLONG if the target is as long as a block, or PATH_MAX.
func (fs *FS) Symlink(ctx context.Context, c Caller, dir disk.Ino, name, target string) (*Inode, error) {
	err := error(nil)
	switch {
	case target == "":
		err = unix.ENOENT
	case strings.IndexByte(target, 0) >= 0:
		err = unix.EINVAL
	case len(target) >= min(maxPath, fs.sb.BlockSize()):
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		return nil, fmt.Errorf("symlink %q in directory %d: the target: %w", name, dir, err)
	}
	return fs.make(ctx, c, "symlink", dir, name, disk.ModeLink|0o777, func(h *Handle, _, in *Inode) error {
		in.disk.Size = uint64(len(target))
		if len(target) < disk.IBlockSize {
			in.disk.Flags &^= disk.FlagExtents
			clear(in.disk.Block[:])
			copy(in.disk.Block[:], target)
			return nil
		}
		r, err := h.mapHole(in, 0, 1, false)
		if err == nil {
			copy(h.fresh(kindLink, in, r.first), target)
		}
		return err
	})
}

// make makes an inode of a mode and gives it a name; fill does what its type asks for.
func (fs *FS) make(ctx context.Context, c Caller, op string, dir disk.Ino, name string, mode disk.Mode,
	fill func(h *Handle, dir, in *Inode) error) (made *Inode, err error) {
	err = fs.changeNames(ctx, c, func(h *Handle) (*Inode, error) {
		dir, free, err := h.dirForNew(dir, name)
		if err != nil {
			return dir, err
		}
		in, err := h.newInDir(c, dir, mode)
		if err != nil {
			return dir, err
		}
		in.disk.Links = 1
		if fill != nil {
			if err := fill(h, dir, in); err != nil {
				return dir, err
			}
		}
		if err := h.addEntry(dir, free, &dirent{name, in.ino, mode.FileType()}); err != nil {
			return dir, err
		}
		h.after = append(h.after, func() { made, _ = fs.Inode(in.ino) })
		return dir, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s %q in directory %d: %w", op, name, dir, err)
	}
	return made, nil
}

// newInDir makes an inode for directory dir to hold.
func (h *Handle) newInDir(c Caller, dir *Inode, mode disk.Mode) (*Inode, error) {
	if mode.Type() != disk.ModeDir && dir.disk.Mode&unix.S_ISGID != 0 && mode&unix.S_IXGRP != 0 && !c.mayActFor(dir.disk.GID) {
		mode &^= unix.S_ISGID // mode_strip_sgid
	}
	in, err := h.newFile(c, dir, mode)
	if err != nil {
		return nil, err
	}
	return in, h.inheritACL(c, dir, in)
}

// changeNames runs fn as one update for a caller. fn returns a directory that it changed:
// one that is flagged so, and with dirsync any, has its changes durable at once.
func (fs *FS) changeNames(ctx context.Context, c Caller, fn func(h *Handle) (*Inode, error)) error {
	var sync disk.Ino
	err := fs.Update(ctx, func(h *Handle) error {
		h.unprivileged = !c.mayUseReserved(h.rw)
		dir, err := fn(h)
		sync = 0
		if err == nil && (fs.opts.Dirsync || dir.disk.Flags&(disk.FlagDirsync|disk.FlagSync) != 0) {
			sync = dir.ino
		}
		return err
	})
	if err != nil || sync == 0 {
		return err
	}
	return fs.Fsync(sync, false)
}

// directory returns directory ino, to be changed.
func (h *Handle) directory(ino disk.Ino) (*Inode, error) {
	dir, err := h.fields(ino)
	switch {
	case err != nil:
		return nil, err
	case dir.Type() != disk.ModeDir:
		return nil, unix.ENOTDIR
	case dir.disk.Links == 0:
		return nil, unix.ENOENT
	}
	return h.inode(ino)
}

// dirForNew returns directory ino to give it a name, which it does not have
// yet (may_create): free is where it may go.
func (h *Handle) dirForNew(ino disk.Ino, name string) (dir *Inode, free direntPlace, err error) {
	if dir, err = h.directory(ino); err != nil {
		return nil, free, err
	}
	if disk.IsDot([]byte(name)) {
		return nil, free, unix.EEXIST
	}
	if free, err = dir.findName(name); err == nil {
		return nil, free, unix.EEXIST
	} else if !errors.Is(err, unix.ENOENT) {
		return nil, free, err
	}
	return dir, free, dir.mayAdd(name)
}

// findName is find for a name that a user gave.
func (dir *Inode) findName(name string) (direntPlace, error) {
	if strings.ContainsAny(name, "/\x00") {
		return direntPlace{}, unix.EINVAL
	}
	if name == "" {
		return direntPlace{}, unix.ENOENT
	}
	return dir.find(name)
}

// mayAdd says why the directory cannot get the name, which it does not have.
func (dir *Inode) mayAdd(name string) error {
	switch {
	case name == "":
		return unix.ENOENT
	case dir.disk.Flags.Has(disk.FlagImmutable):
		return unix.EPERM
	case dir.encrypted():
		return unix.ENOKEY
	}
	return nil
}

// mayRemove says why the name of victim cannot be taken from the directory
// (may_delete).
func (dir *Inode) mayRemove(victim *Inode) error {
	const fixed = disk.FlagImmutable | disk.FlagAppend
	if dir.disk.Flags&fixed != 0 || victim.disk.Flags&fixed != 0 {
		return unix.EPERM
	}
	return nil
}

// mayHaveSubdir reports whether the directory's link count allows one more
// (EXT4_DIR_LINK_MAX).
func (dir *Inode) mayHaveSubdir() bool {
	return dir.disk.Links < maxFileLinks || dir.fs.sb.ROCompat.Has(disk.ROCompatDirNlink) && dir.indexed()
}

func (in *Inode) indexed() bool {
	return in.fs.sb.Compat.Has(disk.CompatDirIndex) && in.disk.Flags.Has(disk.FlagIndex)
}

// addLink counts one more name (ext4_inc_count).
func (in *Inode) addLink() {
	if n := in.disk.Links; in.indexed() && (n >= maxFileLinks || n == 1) {
		in.disk.Links = 1
		return
	}
	in.disk.Links++
}

// dropLink counts one name less (ext4_dec_count).
func (in *Inode) dropLink() {
	if in.disk.Links > 0 && (in.Type() != disk.ModeDir || in.disk.Links > 2) {
		in.disk.Links--
	}
}

// Link gives inode ino one more name: the first, if [FS.Tmpfile] made it. It
// fails as [FS.Create] does, and with EPERM for directories and for files that
// are immutable or append-only, EMLINK, EXDEV where the directory's project is to be
// inherited and is another, and ENOENT for a file whose last name is gone.
func (fs *FS) Link(ctx context.Context, c Caller, ino, dir disk.Ino, name string) error {
	err := fs.changeNames(ctx, c, func(h *Handle) (*Inode, error) {
		dir, free, err := h.dirForNew(dir, name)
		if err != nil {
			return dir, err
		}
		in, err := h.fields(ino)
		if err == nil {
			err = h.mayLink(dir, in)
		}
		if err == nil {
			in, err = h.inode(ino)
		}
		if err != nil {
			return dir, err
		}
		if in.disk.Links == 0 {
			if err := h.removeOrphan(in); err != nil {
				return dir, err
			}
		}
		in.addLink()
		in.touch(false)
		return dir, h.addEntry(dir, free, &dirent{name, ino, in.disk.Mode.FileType()})
	})
	if err != nil {
		return fmt.Errorf("link inode %d as %q in directory %d: %w", ino, name, dir, err)
	}
	return nil
}

func (h *Handle) mayLink(dir, in *Inode) error {
	const fixed = disk.FlagImmutable | disk.FlagAppend
	o := h.rw.open[in.ino]
	switch {
	case in.disk.Flags&fixed != 0, in.Type() == disk.ModeDir, in.internal():
		return unix.EPERM
	case in.disk.Links == 0 && (o == nil || !o.linkable):
		return unix.ENOENT
	case in.disk.Links >= maxFileLinks:
		return unix.EMLINK
	}
	return dir.sameProject(in)
}

// sameProject fails for an inode that may not move into the directory, whose
// project is another (projid_eq).
func (dir *Inode) sameProject(in *Inode) error {
	if dir.disk.Flags.Has(disk.FlagProjInherit) && dir.project() != in.project() {
		return unix.EXDEV
	}
	return nil
}

// Tmpfile makes a regular file without a name, as if in directory dir. It is
// open as by [FS.Open]; if the last [FS.Release] comes before [FS.Link] it is deleted.
func (fs *FS) Tmpfile(ctx context.Context, c Caller, dir disk.Ino, mode disk.Mode) (made *Inode, err error) {
	err = fs.Update(ctx, func(h *Handle) error {
		h.unprivileged = !c.mayUseReserved(h.rw)
		dir, err := h.directory(dir)
		if err != nil {
			return err
		}
		if err := dir.mayAdd("#"); err != nil {
			return err
		}
		in, err := h.newInDir(c, dir, mode&disk.ModePerm|disk.ModeReg)
		if err != nil {
			return err
		}
		h.after = append(h.after, func() {
			o := h.rw.openLocked(in.ino)
			o.refs++
			o.linkable = true
			made, _ = fs.Inode(in.ino)
		})
		return h.addOrphan(in)
	})
	if err != nil {
		return nil, fmt.Errorf("make a file without a name in directory %d: %w", dir, err)
	}
	return made, nil
}

package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A Caller is who a change is made for.
type Caller struct {
	UID, GID   uint32
	Groups     []uint32  // supplementary
	Umask      disk.Mode // permissions that new files do not get, unless their directory has a default ACL
	Privileged bool      // has CAP_SYS_RESOURCE, CAP_FSETID and the like
	KeepTimes  bool      // a change of contents does not change the times: whoever has kept it in a cache, or makes it himself, sets them

	// KeepPrivileges leaves a file that is written its set-user-ID, set-group-ID and capabilities.
	KeepPrivileges bool
}

// Root may do everything.
var Root = Caller{Privileged: true}

func (c Caller) inGroup(gid uint32) bool { return c.GID == gid || slices.Contains(c.Groups, gid) }

// mayActFor reports whether the caller is of a group, or may act as if
// (in_group_or_capable).
func (c Caller) mayActFor(gid uint32) bool { return c.Privileged || c.inGroup(gid) }

// mayUseReserved reports whether the caller may take the blocks that are kept
// (ext4_has_free_clusters).
func (c Caller) mayUseReserved(rw *writer) bool {
	uid, gid := rw.super.ReservedUID(), rw.fs.ReservedGID()
	if o := &rw.fs.opts; o.ReservedUID != nil {
		uid = *o.ReservedUID
	}
	return c.Privileged || c.UID == uid || gid != 0 && c.inGroup(gid)
}

// ReservedGID is the group that may use the blocks that are kept; that of root may not.
func (fs *FS) ReservedGID() uint32 {
	if gid := fs.opts.ReservedGID; gid != nil {
		return *gid
	}
	return fs.sb.ReservedGID()
}

// now is the time that changes are dated with.
func (rw *writer) time() disk.Time {
	t := rw.now()
	return rw.fs.storable(disk.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())})
}

// touch dates a change of the inode, and of its contents too if modified.
func (in *Inode) touch(modified bool) {
	in.disk.Ctime = in.tx.rw.time()
	if modified {
		in.disk.Mtime = in.disk.Ctime
	}
	in.disk.Version++
}

// written dates a change of contents, unless the caller does.
func (in *Inode) written(c Caller) {
	if c.KeepTimes {
		in.disk.Version++
		return
	}
	in.touch(true)
}

// WriteAt writes to a regular file, which grows as needed, and returns how
// many bytes it wrote. What it wrote is in the file when it returns and, like
// all of the file, durable with the next [FS.Fsync]. It fails with a wrapped EISDIR or EINVAL for
// what is no file, EPERM for immutable and append-only ones, ENOKEY, EFBIG, and ENOSPC.
func (fs *FS) WriteAt(ctx context.Context, c Caller, ino disk.Ino, p []byte, off int64) (n int, err error) {
	if fs.rw == nil {
		return 0, ErrReadOnly
	}
	defer func() { fs.rw.noteDamage(err) }()
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer mu.unlock()
	in, err := fs.writableFile(ino)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("write inode %d at %d: %w", ino, off, unix.EINVAL)
	}
	if in.disk.Flags.Has(disk.FlagAppend) && off < in.Size() {
		return 0, fmt.Errorf("write inode %d at %d: it may only be appended to: %w", ino, off, unix.EPERM)
	}
	if most := in.maxSize(); uint64(off) >= most {
		return 0, in.errTooLarge(uint64(off) + uint64(len(p)))
	} else if uint64(len(p)) > most-uint64(off) {
		p = p[:most-uint64(off)]
	}
	if len(p) == 0 {
		return 0, nil
	}
	if inline, err := fs.writeInline(ctx, c, in, p, off); err != nil {
		return 0, err
	} else if inline {
		return len(p), nil
	}
	done, part := 0, in.partSize()
	for done < len(p) {
		part = min(part, len(p)-done)
		n, err := fs.writePart(ctx, c, ino, p[done:done+part], off+int64(done))
		done += n
		if errors.Is(err, unix.EDQUOT) && part > fs.sb.BlockSize() {
			part /= 2 // as much as the quota leaves
			continue
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writableFile returns the file ino if its contents can be changed.
func (fs *FS) writableFile(ino disk.Ino) (*Inode, error) {
	fs.rw.mu.Lock()
	err := fs.rw.readOnlyLocked()
	fs.rw.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("write inode %d: %w", ino, err)
	}
	in, err := fs.inUse(ino)
	if err == nil {
		err = in.checkSize()
	}
	if err != nil {
		return nil, err
	}
	switch {
	case in.Type() == disk.ModeDir:
		err = unix.EISDIR
	case in.Type() != disk.ModeReg:
		err = unix.EINVAL
	case in.disk.Flags.Has(disk.FlagImmutable), in.disk.Flags.Has(disk.FlagVerity), in.internal():
		err = unix.EPERM
	case in.encrypted():
		err = unix.ENOKEY
	}
	if err != nil {
		return nil, fmt.Errorf("write inode %d: %w", ino, err)
	}
	return in, nil
}

// inUse returns inode ino, if it is not deleted. The caller holds the inode's
// lock, without which it may be deleted the next moment.
func (fs *FS) inUse(ino disk.Ino) (*Inode, error) {
	in, err := fs.Inode(ino)
	if err != nil || in.disk.Links > 0 {
		return in, err
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	if !fs.rw.isOrphanLocked(ino) {
		return nil, in.stale()
	}
	return in, nil
}

func (fs *FS) writeDevice(p []byte, at int64) error {
	if _, err := fs.dev.WriteAt(p, at); err != nil {
		return fmt.Errorf("write %d bytes at device byte %d: %w", len(p), at, err)
	}
	return nil
}

// needLargeFile sets the feature that files of 2 GiB and more need.
func (h *Handle) needLargeFile(in *Inode) {
	if in.disk.Size > 1<<31-1 && !h.rw.super.ROCompat.Has(disk.ROCompatLargeFile) {
		h.after = append(h.after, func() {
			h.rw.super.ROCompat |= disk.ROCompatLargeFile
			h.rw.running.super = true
		})
	}
}

// clearPrivileges drops what a write by another than a privileged caller takes
// away: set-user-ID; set-group-ID where it is one, or the caller is not of the group;
// and, whoever writes, capabilities (file_remove_privs, setattr_should_drop_suidgid).
func (h *Handle) clearPrivileges(c Caller, in *Inode) error {
	if c.KeepPrivileges {
		return nil
	}
	if !c.Privileged {
		in.disk.Mode &^= unix.S_ISUID
		if in.disk.Mode&unix.S_IXGRP != 0 || !c.mayActFor(in.disk.GID) {
			in.disk.Mode &^= unix.S_ISGID
		}
	}
	return h.dropCapability(in)
}

// ReadFrom writes all of r to a file, from byte off on.
func (fs *FS) ReadFrom(ctx context.Context, c Caller, ino disk.Ino, r io.Reader, off int64) (int64, error) {
	buf := make([]byte, 1<<20)
	total := int64(0)
	for {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			k, err := fs.WriteAt(ctx, c, ino, buf[:n], off+total)
			total += int64(k)
			if err != nil {
				return total, err
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

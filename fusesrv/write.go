package fusesrv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What writes. The kernel has checked permissions before it asks, with the
// caller's user, groups and ACLs; the file system checks what only it knows. A mount that is read-only
// refuses by itself, and ext4 does so for a file system that was opened that way.

// background is the context of changes: one that has begun is finished, as a
// system call on a disk would be.
var background = context.Background()

// judged is c where the kernel has taken set-group-ID away already if the caller may not
// have it for the group of inode ino: it knows all of the caller's groups.
func (r *rawFS) judged(c ext4.Caller, ino disk.Ino) ext4.Caller {
	if in, err := r.fs.Inode(ino); err == nil { // whoever needs the inode says why there is none
		c.Groups = append(c.Groups, in.Stat().GID)
	}
	return c
}

// maker is the caller of a request to make a file in the directory that h names.
func (r *rawFS) maker(h *fuse.InHeader, mode uint32) ext4.Caller {
	c := r.caller(h)
	if mode&unix.S_ISGID != 0 {
		c = r.judged(c, inoOf(h.NodeId))
	}
	return c
}

// writer is the caller of a request that changes contents. kill is what the kernel says:
// that he lacks the privilege to leave set-user-ID and set-group-ID as they are. A set-group-ID
// that has nothing to do with execution goes unless he is in the group.
func (r *rawFS) writer(h *fuse.InHeader, kill bool) ext4.Caller {
	c := r.caller(h)
	c.Privileged = !kill
	if kill {
		if in, err := r.fs.Inode(inoOf(h.NodeId)); err == nil && in.Disk().Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID {
			c.Groups = groupsOf(h.Pid)
		}
	}
	return c
}

// judgedWriter is writer for requests with which the kernel says nothing.
func (r *rawFS) judgedWriter(h *fuse.InHeader) ext4.Caller {
	return r.writer(h, !r.caller(h).Privileged)
}

// groupsOf are the supplementary groups of a process or thread, as far as we can see it.
func groupsOf(pid uint32) (out []uint32) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), "\nGroups:")
	line, _, _ := strings.Cut(rest, "\n")
	for f := range strings.FieldsSeq(line) {
		if gid, err := strconv.ParseUint(f, 10, 32); err == nil {
			out = append(out, uint32(gid))
		}
	}
	return out
}

// mode is the mode of a new inode: with POSIX ACLs the file system applies the
// umask, as a directory's default ACL takes its place.
func newMode(mode, umask uint32) (disk.Mode, disk.Mode) {
	return disk.Mode(mode), disk.Mode(umask & 0o777)
}

// entry answers a request that made or found in.
func (r *rawFS) entry(in *ext4.Inode, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return r.status(err)
	}
	if err := r.nodes.told(in.Ino()); err != nil {
		return r.status(err)
	}
	st := r.stat(in)
	r.fillEntry(in, &st, out)
	return fuse.OK
}

// SetAttr changes mode, owner, size and times.
func (r *rawFS) SetAttr(_ <-chan struct{}, i *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !r.fs.Writable() { // `mount -o remount,rw` of a read-only mount makes the kernel ask
		return fuse.EROFS
	}
	if i.Valid&^fuse.FATTR_FH == fuse.FATTR_MTIME|fuse.FATTR_CTIME && r.ignoresTimes(i.NodeId) {
		return r.GetAttr(nil, &fuse.GetAttrIn{InHeader: i.InHeader}, out)
	}
	ino := inoOf(i.NodeId)
	c := r.caller(&i.InHeader)
	if size, ok := i.GetSize(); ok {
		tc := r.maps.changer(r.writer(&i.InHeader, i.Valid&fuse.FATTR_KILL_SUIDGID != 0), ino)
		err := r.maps.resize(ino, int64(size), func() error { return r.fs.Truncate(background, tc, ino, int64(size)) })
		if err != nil {
			return r.status(err)
		}
	}
	var a ext4.SetAttr
	if mode, ok := i.GetMode(); ok {
		m := disk.Mode(mode)
		a.Mode = &m
		c = r.judged(c, ino)
	}
	if uid, ok := i.GetUID(); ok {
		a.UID = &uid
	}
	if gid, ok := i.GetGID(); ok {
		a.GID = &gid
	}
	if c.UID != 0 && (a.UID != nil || a.GID != nil || i.Valid == 0) {
		c.Groups = groupsOf(i.Pid)
	}
	if i.Valid == 0 {
		if err := r.takePrivileges(c, ino); err != nil {
			return r.status(err)
		}
	}
	if a.Touch = r.touchesAppendOnly(i); a.Touch {
		i.Valid &^= fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME
	}
	if err := r.owners.chown(&a); err != nil {
		return r.status(err)
	}
	if i.Valid&fuse.FATTR_ATIME != 0 {
		a.Atime = r.timeOf(i.Valid&fuse.FATTR_ATIME_NOW != 0, i.Atime, i.Atimensec)
	}
	if i.Valid&fuse.FATTR_MTIME != 0 {
		a.Mtime = r.timeOf(i.Valid&fuse.FATTR_MTIME_NOW != 0, i.Mtime, i.Mtimensec)
	}
	if i.Valid&fuse.FATTR_CTIME != 0 {
		a.Ctime = r.timeOf(false, i.Ctime, i.Ctimensec)
	}
	if i.Valid&^fuse.FATTR_FH == fuse.FATTR_ATIME|fuse.FATTR_MTIME|fuse.FATTR_CTIME {
		a.Kept = r.maps.keepsTimes(ino)
	}
	if a != (ext4.SetAttr{}) {
		set := func() error { return r.fs.SetAttr(background, c, ino, a) }
		var err error
		if a.Atime != nil {
			err = r.atimes.set(ino, set)
		} else {
			err = set()
		}
		if err != nil {
			return r.status(err)
		}
	}
	return r.GetAttr(nil, &fuse.GetAttrIn{InHeader: i.InHeader}, out)
}

// touchesAppendOnly reports whether both times of an append-only file become now: what
// whoever may write to it may do, where no other times may be set. A kernel that writes back says for the
// time of modification what now is.
func (r *rawFS) touchesAppendOnly(i *fuse.SetAttrIn) bool {
	now := i.Valid&fuse.FATTR_MTIME_NOW != 0 || i.Valid&fuse.FATTR_CTIME != 0 && i.Mtime == i.Ctime && i.Mtimensec == i.Ctimensec
	if i.Valid&fuse.FATTR_ATIME_NOW == 0 || i.Valid&fuse.FATTR_MTIME == 0 || !now {
		return false
	}
	in, err := r.fs.Inode(inoOf(i.NodeId)) // whoever needs the inode says why there is none
	return err == nil && in.Disk().Flags.Has(disk.FlagAppend)
}

// takePrivileges does what a request is for that names no attribute. It is chown(2) to nobody
// new, or contents are about to be changed: which, and by whom allowed, we are not told.
func (r *rawFS) takePrivileges(c ext4.Caller, ino disk.Ino) error {
	in, err := r.fs.Inode(ino)
	if err != nil {
		return err
	}
	st := in.Stat()
	mode, inGroup := st.Mode, c.GID == st.GID || slices.Contains(c.Groups, st.GID)
	switch {
	case c.UID == 0: // from whose changes of contents only capabilities suffer
		err := r.fs.Removexattr(background, c, ino, "security.capability")
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
		now := r.fs.Time()
		return r.fs.SetAttr(background, c, ino, ext4.SetAttr{Ctime: &now})
	case c.UID != st.UID && in.Type() != disk.ModeDir &&
		(mode&unix.S_ISUID != 0 || mode&unix.S_ISGID != 0 && (mode&unix.S_IXGRP != 0 || !inGroup)):
		return nil // the change of contents will take them itself
	}
	return r.fs.SetAttr(background, c, ino, ext4.SetAttr{UID: &st.UID})
}

func (r *rawFS) timeOf(now bool, sec uint64, nsec uint32) *disk.Time {
	t := disk.Time{Sec: int64(sec), Nsec: nsec}
	if now {
		t = r.fs.Time()
	}
	return &t
}

// Mknod makes a file without opening it, or a special one.
func (r *rawFS) Mknod(_ <-chan struct{}, i *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	major, minor := i.Rdev>>8&0xfff, i.Rdev&0xff|i.Rdev>>12&0xfff00 // new_decode_dev
	mode, umask := newMode(i.Mode, i.Umask)
	c := r.maker(&i.InHeader, i.Mode)
	c.Umask = umask
	in, err := r.fs.Mknod(background, c, inoOf(i.NodeId), name, mode, major, minor)
	return r.entry(in, err, out)
}

// Mkdir makes a directory.
func (r *rawFS) Mkdir(_ <-chan struct{}, i *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	mode, umask := newMode(i.Mode, i.Umask)
	c := r.caller(&i.InHeader)
	c.Umask = umask
	in, err := r.fs.Mkdir(background, c, inoOf(i.NodeId), name, mode)
	return r.entry(in, err, out)
}

// Symlink makes a symbolic link.
func (r *rawFS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	in, err := r.fs.Symlink(background, r.caller(h), inoOf(h.NodeId), name, target)
	return r.entry(in, err, out)
}

// Link gives an inode another name.
func (r *rawFS) Link(_ <-chan struct{}, i *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	ino := inoOf(i.Oldnodeid)
	if err := r.fs.Link(background, r.caller(&i.InHeader), ino, inoOf(i.NodeId), name); err != nil {
		return r.status(err)
	}
	in, err := r.fs.Inode(ino)
	return r.entry(in, err, out)
}

// Unlink removes a name.
func (r *rawFS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.status(r.fs.Unlink(background, r.caller(h), inoOf(h.NodeId), name))
}

// Rmdir removes an empty directory.
func (r *rawFS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.status(r.fs.Rmdir(background, r.caller(h), inoOf(h.NodeId), name))
}

// Rename moves a name, or exchanges two.
func (r *rawFS) Rename(_ <-chan struct{}, i *fuse.RenameIn, from, to string) fuse.Status {
	return r.status(r.fs.Rename(background, r.caller(&i.InHeader), inoOf(i.NodeId), from, inoOf(i.Newdir), to, uint(i.Flags)))
}

// Create makes a regular file; that it is open too is nothing to us.
func (r *rawFS) Create(_ <-chan struct{}, i *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	mode, umask := newMode(i.Mode, i.Umask)
	c := r.maker(&i.InHeader, i.Mode)
	c.Umask = umask
	in, err := r.fs.Create(background, c, inoOf(i.NodeId), name, unix.S_IFREG|mode&0o7777)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if err == nil && r.maps != nil {
		err = r.maps.opened(in.Ino())
	}
	return r.entry(in, err, &out.EntryOut)
}

// Tmpfile makes a file without a name (O_TMPFILE).
func (r *rawFS) Tmpfile(_ <-chan struct{}, i *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	mode, umask := newMode(i.Mode, i.Umask)
	c := r.maker(&i.InHeader, i.Mode)
	c.Umask = umask
	in, err := r.fs.Tmpfile(background, c, inoOf(i.NodeId), unix.S_IFREG|mode&0o7777)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	status := r.entry(in, err, &out.EntryOut)
	if err == nil {
		if r.maps != nil {
			if err := r.maps.opened(in.Ino()); err != nil {
				return r.status(err)
			}
		}
		// The kernel holds it now; Tmpfile held it until here.
		if err := r.fs.Release(background, in.Ino()); err != nil {
			return r.status(err)
		}
	}
	return status
}

// Write writes to a file.
func (r *rawFS) Write(_ <-chan struct{}, i *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	ino := inoOf(i.NodeId)
	c := r.writer(&i.InHeader, i.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	if i.WriteFlags&fuse.WRITE_CACHE != 0 {
		_, settling := r.settling.Load(ino)
		c.KeepTimes = r.writeBack && !settling
		c.KeepPrivileges = true // write(2) has taken them, and a write through a mapping takes none
		return uint32(len(data)), r.status(r.writeBackAt(c, ino, data, int64(i.Offset)))
	}
	var n int
	err := r.maps.writeInline(ino, i.Offset, uint64(len(data)), func() (err error) {
		n, err = r.fs.WriteAt(background, r.maps.changer(c, ino), ino, data, int64(i.Offset))
		return err
	})
	if n == 0 {
		return 0, r.status(err)
	}
	if r.synchronous(ino, i.Flags) {
		if err := r.fs.Fsync(ino, false); err != nil {
			return 0, r.status(err)
		}
	}
	return uint32(n), fuse.OK
}

// synchronous reports whether a write has to be durable when it returns, and the
// kernel does not see to it. It knows nothing of the inode's flag, and old ones leave O_SYNC to us.
func (r *rawFS) synchronous(ino disk.Ino, flags uint32) bool {
	if r.syncWrites && (r.sync || flags&unix.O_DSYNC != 0) {
		return true
	}
	in, err := r.fs.Inode(ino)
	return err == nil && in.Disk().Flags.Has(disk.FlagSync)
}

// CopyFileRange copies within the file system.
func (r *rawFS) CopyFileRange(_ <-chan struct{}, i *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	var n int64
	size := min(i.Len, maxCopy)
	c := r.maps.changer(r.judgedWriter(&i.InHeader), inoOf(i.NodeIdOut))
	if err := r.maps.copying(inoOf(i.NodeId), i.OffIn, size); err != nil {
		return 0, r.status(err)
	}
	err := r.maps.change(inoOf(i.NodeIdOut), i.OffOut, size, func() (err error) {
		n, err = r.fs.CopyRange(background, c, inoOf(i.NodeId), int64(i.OffIn), inoOf(i.NodeIdOut), int64(i.OffOut), int64(size))
		return err
	})
	if n > 0 {
		return uint32(n), fuse.OK
	}
	return 0, r.status(err)
}

// maxCopy is how much one copy_file_range does, in bytes: the reply has 32 bits, and who
// asks can be interrupted in between.
const maxCopy = 64 << 20

// Fallocate allocates, punches, zeroes, collapses and inserts.
func (r *rawFS) Fallocate(_ <-chan struct{}, i *fuse.FallocateIn) fuse.Status {
	ino := inoOf(i.NodeId)
	c := r.maps.changer(r.judgedWriter(&i.InHeader), ino)
	return r.status(r.maps.change(ino, i.Offset, i.Length, func() error {
		return r.fs.Fallocate(background, c, ino, ext4.FallocMode(i.Mode), int64(i.Offset), int64(i.Length))
	}))
}

// SetXAttr sets an attribute.
func (r *rawFS) SetXAttr(_ <-chan struct{}, i *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	c, ino := r.caller(&i.InHeader), inoOf(i.NodeId)
	if name == aclAccess && i.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID == 0 {
		c = r.judged(c, ino)
	}
	return r.status(r.fs.Setxattr(background, c, ino, name, value, int(i.Flags)))
}

// RemoveXAttr removes one.
func (r *rawFS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.status(r.fs.Removexattr(background, r.caller(h), inoOf(h.NodeId), name))
}

// Fsync makes a file durable. On a read-only mount it is declined, which makes
// the kernel do without.
func (r *rawFS) Fsync(_ <-chan struct{}, i *fuse.FsyncIn) fuse.Status {
	if !r.fs.Writable() {
		return fuse.ENOSYS
	}
	if err := r.maps.settle(inoOf(i.NodeId)); err != nil {
		return r.status(err)
	}
	if err := r.fs.Fsync(inoOf(i.NodeId), i.FsyncFlags&1 != 0); err != nil {
		return r.status(fmt.Errorf("fsync: %w", err))
	}
	return fuse.OK
}

// FsyncDir is Fsync of a directory.
func (r *rawFS) FsyncDir(cancel <-chan struct{}, i *fuse.FsyncIn) fuse.Status {
	return r.Fsync(cancel, i)
}

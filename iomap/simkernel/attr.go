package simkernel

import "syscall"

// Atime says which reads date a file: the mount options of these names.
type Atime int

// Relative is the default, as it is for mount(2).
const (
	RelativeAtime Atime = iota // the first after a change, and one a day
	StrictAtime
	NoAtime
)

// now is current_time: as exact as the server can keep it.
func (k *Kernel) now() Time { return k.storable(timeOf(k.opt.Now())) }

// storable is timestamp_truncate.
func (k *Kernel) storable(t Time) Time {
	if t.Sec < k.timeMin || t.Sec > k.timeMax {
		return Time{min(max(t.Sec, k.timeMin), k.timeMax), 0}
	}
	t.Nsec -= t.Nsec % k.timeGran
	return t
}

func (t Time) before(u Time) bool { return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec }

// stamp is file_update_time: mtime and ctime, kept by the kernel. c is who does it, and in
// whose name the times are sent.
func (in *inode) stamp(c Cred, mtime bool) {
	if !in.onIomap {
		return
	}
	now := in.k.now()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ctime, in.timeless, in.dirtier = now, true, c
	if mtime {
		in.mtime = now
	}
}

// accessed is file_accessed, for a file opened with the given flags.
func (in *inode) accessed(c Cred, flags uint32) {
	k := in.k
	if !in.onIomap || flags&syscall.O_NOATIME != 0 || k.opt.Atime == NoAtime || k.frozen.Load() {
		return
	}
	now := k.now()
	in.mu.Lock()
	defer in.mu.Unlock()
	const day = 24 * 60 * 60
	if k.opt.Atime == RelativeAtime && in.mtime.before(in.atime) && in.ctime.before(in.atime) && now.Sec-in.atime.Sec < day {
		return
	}
	if in.atime != now {
		in.atime, in.timeless, in.dirtier = now, true, c
	}
}

// flushTimes sends the times to the server, if they are not there.
func (in *inode) flushTimes() error {
	in.sending.Lock()
	defer in.sending.Unlock()
	in.mu.Lock()
	dirty, c := in.timeless, in.dirtier
	in.timeless = false
	s := setattr{valid: fattrAtime | fattrMtime | fattrCtime, atime: in.atime, mtime: in.mtime, ctime: in.ctime}
	in.mu.Unlock()
	if !dirty {
		return nil
	}
	_, err := in.k.call(opSetattr, in.nodeid, c, s.encode()) // the attributes of the reply are ignored
	if err != nil {
		in.mu.Lock()
		in.timeless = true
		in.mu.Unlock()
	}
	return err
}

// setattr is struct fuse_setattr_in.
type setattr struct {
	valid               uint32
	fh                  uint64
	size                int64
	atime, mtime, ctime Time
	mode, uid, gid      uint32
}

func (s setattr) encode() []byte {
	w := msg().u32(s.valid).u32(0).u64(s.fh).u64(uint64(s.size)).u64(0)
	w.u64(uint64(s.atime.Sec)).u64(uint64(s.mtime.Sec)).u64(uint64(s.ctime.Sec))
	w.u32(s.atime.Nsec).u32(s.mtime.Nsec).u32(s.ctime.Nsec)
	return w.u32(s.mode).u32(0).u32(s.uid).u32(s.gid).u32(0).b
}

// sendAttr sends a SETATTR that is not about the size, and takes what it
// answers. The caller holds in.rw.
func (in *inode) sendAttr(c Cred, s setattr) error {
	k := in.k
	if in.onIomap {
		if err := in.sync(); err != nil {
			return err
		}
		in.sending.Lock()
		defer in.sending.Unlock()
		in.mu.Lock()
		in.ctime = k.now()
		if s.valid&fattrMtime != 0 {
			s.mtime = k.storable(s.mtime)
			in.mtime = s.mtime
		}
		if s.valid&fattrAtime != 0 {
			s.atime = k.storable(s.atime)
			in.atime = s.atime
		}
		s.valid, s.ctime = s.valid|fattrCtime, in.ctime
		in.mu.Unlock()
	}
	out, err := k.call(opSetattr, in.nodeid, c, s.encode())
	if err != nil {
		return err
	}
	a, err := readAttrOut(out)
	if err != nil {
		return err
	}
	if s.valid&fattrMode != 0 {
		in.dropACLs()
	}
	return in.apply(a)
}

// mayKeepSgid reports whether c may set set-group-ID on the inode
// (in_group_or_capable).
func (in *inode) mayKeepSgid(c Cred) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return c.UID == 0 || c.GID == in.gid
}

// strippedMode returns the mode without what a change of contents by c takes
// away, and whether that is anything (setattr_should_drop_suidgid).
func (in *inode) strippedMode(c Cred) (uint32, bool) {
	keep := in.mayKeepSgid(c)
	in.mu.Lock()
	defer in.mu.Unlock()
	mode := in.mode
	if c.UID == 0 {
		return mode, false
	}
	mode &^= syscall.S_ISUID
	if mode&syscall.S_IXGRP != 0 || !keep {
		mode &^= syscall.S_ISGID
	}
	return mode, mode != in.mode
}

// stripPrivileges is file_remove_privs. The caller holds in.rw.
func (in *inode) stripPrivileges(c Cred) error {
	mode, stripped := in.strippedMode(c)
	if !in.onIomap || !stripped {
		return nil
	}
	return in.sendAttr(c, setattr{valid: fattrMode, mode: mode})
}

func (in *inode) getattr(c Cred) (Attr, error) {
	out, err := in.k.call(opGetattr, in.nodeid, c, msg().u32(0).u32(0).u64(0).b)
	if err != nil {
		return Attr{}, err
	}
	a, err := readAttrOut(out)
	if err != nil {
		return Attr{}, err
	}
	if err := in.apply(a); err != nil {
		return Attr{}, err
	}
	if in.onIomap {
		in.mu.Lock()
		a.Size, a.Mtime, a.Ctime, a.Atime = uint64(in.size), in.mtime, in.ctime, in.atime
		in.mu.Unlock()
	}
	return a, nil
}

// Stat is fstat: GETATTR, with the kernel's own size and times.
func (f *File) Stat() (Attr, error) { return f.in.getattr(f.cred) }

// Stat is lstat.
func (k *Kernel) Stat(c Cred, path string) (Attr, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return Attr{}, err
	}
	return in.getattr(c)
}

// Truncate is truncate(2).
func (k *Kernel) Truncate(c Cred, path string, size int64) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	return in.truncate(c, size, nil)
}

// Chmod changes the permissions.
func (k *Kernel) Chmod(c Cred, path string, mode uint32) error {
	return k.setattr(c, path, func(in *inode) setattr {
		if !in.mayKeepSgid(c) {
			mode &^= syscall.S_ISGID
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		return setattr{valid: fattrMode, mode: mode&0o7777 | in.mode&syscall.S_IFMT}
	})
}

// Chown changes owner and group. For a file on iomap the kernel says what
// becomes of the mode.
func (k *Kernel) Chown(c Cred, path string, uid, gid uint32) error {
	return k.setattr(c, path, func(in *inode) setattr {
		s := setattr{valid: fattrUID | fattrGID, uid: uid, gid: gid}
		in.mu.Lock()
		defer in.mu.Unlock()
		mode := in.mode &^ syscall.S_ISUID
		if mode&syscall.S_IXGRP != 0 || c.UID != 0 && c.GID != in.gid {
			mode &^= syscall.S_ISGID
		}
		if in.onIomap && mode != in.mode {
			s.valid, s.mode = s.valid|fattrMode, mode
		}
		return s
	})
}

// Utimes sets the times.
func (k *Kernel) Utimes(c Cred, path string, atime, mtime Time) error {
	return k.setattr(c, path, func(*inode) setattr {
		return setattr{valid: fattrAtime | fattrMtime, atime: atime, mtime: mtime}
	})
}

func (k *Kernel) setattr(c Cred, path string, what func(in *inode) setattr) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	return in.sendAttr(c, what(in))
}

package simkernel

import (
	"bytes"
	"errors"
	"syscall"
)

// An ACLEntry is one entry of a POSIX ACL.
type ACLEntry struct {
	Tag  uint16 // ACLUserObj and so on
	Perm uint16 // as in a mode: 4 read, 2 write, 1 execute
	ID   uint32 // of ACLUser and ACLGroup
}

// An ACL is a POSIX ACL, in the order of its tags. One without entries is none.
type ACL []ACLEntry

// Tags of ACL entries.
const (
	ACLUserObj  = 0x01
	ACLUser     = 0x02
	ACLGroupObj = 0x04
	ACLGroup    = 0x08
	ACLMask     = 0x10
	ACLOther    = 0x20
)

// Names of the attributes that ACLs are.
const (
	ACLAccess  = "system.posix_acl_access"
	ACLDefault = "system.posix_acl_default"
)

const aclVersion = 2 // POSIX_ACL_XATTR_VERSION

// Bytes is the ACL as an attribute's value.
func (a ACL) Bytes() []byte {
	w := msg().u32(aclVersion)
	for _, e := range a {
		id := e.ID
		if e.Tag != ACLUser && e.Tag != ACLGroup {
			id = ^uint32(0)
		}
		w.u16(e.Tag).u16(e.Perm).u32(id)
	}
	return w.b
}

func readACL(b []byte) (ACL, error) {
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != aclVersion {
		return nil, syscall.EINVAL
	}
	var a ACL
	for b = b[4:]; len(b) > 0; b = b[8:] {
		a = append(a, ACLEntry{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])})
	}
	return a, nil
}

// mode is posix_acl_equiv_mode: mode with the permissions of the ACL, and
// whether these say all that the ACL says.
func (a ACL) mode(mode uint32) (uint32, bool) {
	perm := [3]uint32{}
	minimal := true
	for _, e := range a {
		switch e.Tag {
		case ACLUserObj:
			perm[0] = uint32(e.Perm)
		case ACLGroupObj:
			perm[1] = uint32(e.Perm)
		case ACLOther:
			perm[2] = uint32(e.Perm)
		default:
			minimal = false
		}
	}
	for _, e := range a {
		if e.Tag == ACLMask {
			perm[1] = uint32(e.Perm)
		}
	}
	return mode&^0o777 | perm[0]<<6 | perm[1]<<3 | perm[2], minimal
}

// inherit is posix_acl_create_masq for a new file of the given mode in a
// directory with this default ACL: its mode, and its access ACL if the mode does not say it all.
func (a ACL) inherit(mode uint32) (uint32, ACL) {
	out := append(ACL(nil), a...)
	masked := false
	for _, e := range out {
		masked = masked || e.Tag == ACLMask
	}
	for i := range out {
		e := &out[i]
		switch {
		case e.Tag == ACLUserObj:
			e.Perm &= uint16(mode >> 6 & 7)
		case e.Tag == ACLOther:
			e.Perm &= uint16(mode & 7)
		case e.Tag == ACLMask, e.Tag == ACLGroupObj && !masked:
			e.Perm &= uint16(mode >> 3 & 7)
		}
	}
	got, minimal := out.mode(mode)
	if minimal {
		out = nil
	}
	return got, out
}

// localACL reports whether the kernel does what follows from ACLs itself: inheritance, and
// the mode that an ACL means. It does not for the root, which is never EXCLUSIVE.
func (in *inode) localACL() bool { return in.k.posixACL && in.exclusive }

// acl returns an ACL of the inode: what the kernel has of it, or the server.
func (in *inode) acl(c Cred, name string) (ACL, error) {
	in.mu.Lock()
	a, ok := in.acls[name]
	in.mu.Unlock()
	if ok {
		return a, nil
	}
	b, err := in.k.call(opGetxattr, in.nodeid, c, msg().u32(64<<10).u32(0).name(name).b)
	switch {
	case errors.Is(err, syscall.ENODATA):
	case err != nil:
		return nil, err
	default:
		if a, err = readACL(b); err != nil {
			return nil, in.k.breach(err)
		}
	}
	in.mu.Lock()
	in.acls[name] = a
	in.mu.Unlock()
	return a, nil
}

func (in *inode) dropACLs() {
	in.mu.Lock()
	defer in.mu.Unlock()
	clear(in.acls)
}

// newACLs are what a new file gets from its directory, and its mode.
func (k *Kernel) newACLs(c Cred, dir *inode, mode uint32) (_ uint32, access, deflt ACL, err error) {
	if !dir.localACL() {
		if !k.dontMask {
			mode &^= c.Umask
		}
		return mode, nil, nil, nil
	}
	deflt, err = dir.acl(c, ACLDefault)
	if err != nil {
		return 0, nil, nil, err
	}
	if deflt == nil {
		return mode &^ c.Umask, nil, nil, nil
	}
	mode, access = deflt.inherit(mode)
	if mode&syscall.S_IFMT != syscall.S_IFDIR {
		deflt = nil
	}
	return mode, access, deflt, nil
}

// initACLs sends the ACLs of a new file, when it is there.
func (in *inode) initACLs(c Cred, access, deflt ACL) error {
	if deflt != nil {
		if err := in.sendACL(c, ACLDefault, deflt); err != nil {
			return err
		}
	}
	if access != nil {
		return in.sendACL(c, ACLAccess, access)
	}
	return nil
}

func (in *inode) sendACL(c Cred, name string, a ACL) error {
	var err error
	if a == nil {
		_, err = in.k.call(opRemovexattr, in.nodeid, c, msg().name(name).b)
		if errors.Is(err, syscall.ENODATA) {
			err = nil
		}
	} else {
		const killSgid = 1 // FUSE_SETXATTR_ACL_KILL_SGID
		flags := uint32(0)
		if !in.localACL() && name == ACLAccess && !in.mayKeepSgid(c) {
			flags = killSgid
		}
		_, err = in.k.call(opSetxattr, in.nodeid, c, in.k.setxattr(name, a.Bytes(), flags))
	}
	if err != nil {
		return err
	}
	in.stamp(c, false)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.onIomap {
		in.acls[name] = a
	} else {
		clear(in.acls)
	}
	return nil
}

// SetACL sets an ACL of the file at path, or takes it away: that for access,
// or what a directory hands down ([ACLAccess], [ACLDefault]).
func (k *Kernel) SetACL(c Cred, path, name string, a ACL) error {
	in, err := k.walkTo(c, path)
	if err != nil {
		return err
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	in.mu.Lock()
	was := in.mode
	in.mu.Unlock()
	if name == ACLDefault && was&syscall.S_IFMT != syscall.S_IFDIR {
		if a == nil {
			return nil
		}
		return syscall.EACCES
	}
	mode := was
	if in.localACL() && name == ACLAccess && a != nil {
		var minimal bool
		if mode, minimal = a.mode(was); minimal {
			a = nil
		}
		if !in.mayKeepSgid(c) {
			mode &^= syscall.S_ISGID
		}
	}
	if err := in.sendACL(c, name, a); err != nil {
		return err
	}
	if !in.localACL() || !in.onIomap && mode == was {
		return nil
	}
	s := setattr{mode: mode}
	if mode != was {
		s.valid |= fattrMode
	}
	return in.sendAttr(c, s)
}

// GetACL returns an ACL of the file at path, nil if it has none.
func (k *Kernel) GetACL(c Cred, path, name string) (ACL, error) {
	in, err := k.walkTo(c, path)
	if err != nil {
		return nil, err
	}
	a, err := in.acl(c, name)
	if err != nil {
		return nil, err
	}
	in.dropACLs() // so that the server is asked the next time, at least
	b, err := in.acl(c, name)
	if err == nil && !bytes.Equal(a.Bytes(), b.Bytes()) {
		err = k.breach(errors.New("the kernel keeps another ACL than the server"))
	}
	return b, err
}

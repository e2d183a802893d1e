package ext4

import (
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// decodeACLValue decodes an ACL as setxattr(2) is given it; no value is none
// (posix_acl_from_xattr).
func decodeACLValue(value []byte) ([]disk.ACLEntry, error) {
	if len(value) == 0 {
		return nil, nil
	}
	acl, err := disk.DecodeWireACL(value)
	switch {
	case errors.Is(err, disk.ErrACLVersion):
		return nil, fmt.Errorf("%w: %w", err, unix.EOPNOTSUPP)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", err, unix.EINVAL)
	}
	return acl, nil
}

// setACL sets the inode's access or default ACL, or takes it away if acl has no
// entries (set_posix_acl).
func (h *Handle) setACL(c Caller, in *Inode, index disk.XattrIndex, acl []disk.ACLEntry) error {
	switch {
	case index == disk.XattrACLDefault && in.Type() != disk.ModeDir:
		if acl != nil {
			return unix.EACCES
		}
		return nil
	case !c.Privileged && c.UID != in.disk.UID:
		return unix.EPERM
	}
	if err := disk.CheckACL(acl); err != nil {
		return fmt.Errorf("%w: %w", err, unix.EINVAL)
	}
	if index == disk.XattrACLDefault {
		return h.putACL(in, index, acl)
	}
	mode := in.disk.Mode
	if acl != nil { // posix_acl_update_mode
		var equal bool
		if mode, equal = disk.ACLMode(acl, mode); equal {
			acl = nil
		}
		if !c.Privileged && !c.inGroup(in.disk.GID) {
			mode &^= unix.S_ISGID
		}
	}
	if err := h.putACL(in, index, acl); err != nil {
		return err
	}
	if mode != in.disk.Mode {
		in.disk.Mode = mode
		in.touch(false)
	}
	return nil
}

// putACL stores an ACL of the inode; one without entries is none.
func (h *Handle) putACL(in *Inode, index disk.XattrIndex, acl []disk.ACLEntry) error {
	var value []byte
	if len(acl) > 0 {
		value = disk.EncodeACL(acl)
	}
	return h.setXattr(in, index, "", value, 0)
}

// acl returns an ACL of the inode, nil if it has none.
func (in *Inode) acl(index disk.XattrIndex) ([]disk.ACLEntry, error) {
	if !in.hasXattrs() || in.fs.opts.NoACL {
		return nil, nil
	}
	wire, err := in.getxattr(index.Prefix())
	if err == unix.ENODATA {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	acl, err := disk.DecodeWireACL(wire)
	if err == nil {
		err = disk.CheckACL(acl)
	}
	if err != nil {
		return nil, &disk.CorruptError{Struct: "xattr of inode", Num: uint64(in.ino), Block: in.block, Off: in.off, Field: index.Prefix(),
			Have: err.Error(), Want: "a POSIX ACL"}
	}
	return acl, nil
}

// chmodACL makes the access ACL of the inode, if it has one, agree with its
// mode, which has changed (posix_acl_chmod).
func (h *Handle) chmodACL(in *Inode) error {
	if in.Type() == disk.ModeLink {
		return nil
	}
	acl, err := in.acl(disk.XattrACLAccess)
	if err != nil || acl == nil {
		return err
	}
	disk.ChmodACL(acl, in.disk.Mode)
	if _, equal := disk.ACLMode(acl, in.disk.Mode); equal {
		acl = nil
	}
	return h.putACL(in, disk.XattrACLAccess, acl)
}

// inheritACL gives a new inode of directory dir the ACLs that follow from the
// directory's default ACL, and takes from its mode what that does not allow; without one, what the
// caller's umask does not (ext4_init_acl).
func (h *Handle) inheritACL(c Caller, dir, in *Inode) error {
	if in.Type() == disk.ModeLink {
		return nil
	}
	acl, err := dir.acl(disk.XattrACLDefault)
	if err != nil {
		return err
	}
	if acl == nil {
		in.disk.Mode &^= c.Umask & 0o777
		return nil
	}
	if in.Type() == disk.ModeDir {
		if err := h.putACL(in, disk.XattrACLDefault, acl); err != nil {
			return err
		}
	}
	var equal bool
	if in.disk.Mode, equal = disk.InheritACL(acl, in.disk.Mode); equal {
		return nil
	}
	return h.putACL(in, disk.XattrACLAccess, acl)
}

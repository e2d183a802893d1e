package fusesrv

import (
	"errors"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The names by which the kernel asks for the ACLs that it decides by. Their
// value is what getxattr(2) gives: a version and (tag, permissions, id) entries.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// GetXAttr returns the value of one attribute. That trusted.* is for the
// privileged only, the kernel sees to.
func (r *rawFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	in, err := r.inode(h.NodeId)
	if err != nil {
		return 0, r.status(err)
	}
	value, err := in.Getxattr(name)
	if !r.noACL && errors.Is(err, unix.EOPNOTSUPP) && (name == aclAccess || name == aclDefault) {
		return 0, fuse.ENODATA // any other error denies the file
	}
	if err != nil {
		return 0, r.status(err)
	}
	return reply(dest, value)
}

// ListXAttr returns the names of the attributes, each with a zero behind it.
// The kernel leaves it to the file system to show trusted.* only to those with
// CAP_SYS_ADMIN; the protocol tells us a user, and root stands for it.
func (r *rawFS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	in, err := r.inode(h.NodeId)
	if err != nil {
		return 0, r.status(err)
	}
	names, err := in.Listxattr()
	if err != nil {
		return 0, r.status(err)
	}
	var list []byte
	for _, name := range names {
		if h.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue
		}
		list = append(append(list, name...), 0)
	}
	return reply(dest, list)
}

// reply copies value into dest; with an empty dest, only the size is wanted.
func reply(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

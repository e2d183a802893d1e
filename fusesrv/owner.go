package fusesrv

import (
	"slices"

	"e4go/ext4"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// owners shows all inodes as those of one user, one group, or both, for images whose ids are those
// of another machine. It is a view: no id of this machine gets into the image. What is made
// belongs to the owner of its directory there, and what is there keeps its owner.
type owners struct {
	uid, gid *uint32 // immutable; nil: as they are
}

func (o *owners) show(st *ext4.Stat) {
	if o.uid != nil {
		st.UID = *o.uid
	}
	if o.gid != nil {
		st.GID = *o.gid
	}
}

// chown says what a change of owner to the given ids means: nothing for those that are
// shown, which the image does not have; others it cannot be given.
func (o *owners) chown(a *ext4.SetAttr) error {
	for _, id := range []struct {
		shown *uint32
		to    **uint32
	}{{o.uid, &a.UID}, {o.gid, &a.GID}} {
		if id.shown == nil || *id.to == nil {
			continue
		}
		if **id.to != *id.shown {
			return unix.EPERM
		}
		*id.to = nil
	}
	return nil
}

// caller is who a request is from. root is what the kernel's CAP_SYS_RESOURCE is nearest to.
// Where owners are not shown as they are, the kernel has judged by those that are shown: for the file
// system the caller is who owns the inode, or the directory, in the image.
func (r *rawFS) caller(h *fuse.InHeader) ext4.Caller {
	c := ext4.Caller{UID: h.Uid, GID: h.Gid, Privileged: h.Uid == 0 || r.fakeroot}
	if r.reserve != 0 && !c.Privileged && c.GID != r.reserve && slices.Contains(groupsOf(h.Pid), r.reserve) {
		c.Groups = []uint32{r.reserve}
	}
	if r.owners == (owners{}) {
		return c
	}
	in, err := r.inode(h.NodeId)
	if err != nil {
		return c // the request will fail by it
	}
	st := in.Stat()
	if r.owners.uid != nil {
		c.UID = st.UID
	}
	if r.owners.gid != nil {
		c.GID = st.GID
	}
	return c
}

// stat is what the kernel is told of in.
func (r *rawFS) stat(in *ext4.Inode) ext4.Stat {
	st := in.Stat()
	r.atimes.show(&st)
	r.owners.show(&st)
	return st
}

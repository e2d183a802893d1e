package fusesrv

import (
	"fmt"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// inoOf is the inode number of a node id, and 0, which is none, of an id that
// we never gave away.
func inoOf(node uint64) disk.Ino {
	switch {
	case node == fuse.FUSE_ROOT_ID:
		return disk.RootIno
	case node == uint64(disk.RootIno):
		return fuse.FUSE_ROOT_ID
	case node > 1<<32-1:
		return 0
	}
	return disk.Ino(node)
}

// nodeOf is the inverse of inoOf.
func nodeOf(ino disk.Ino) uint64 { return uint64(inoOf(uint64(ino))) }

// inode returns the inode of a request's node. An id that is no inode number
// is stale.
func (r *rawFS) inode(node uint64) (*ext4.Inode, error) {
	ino := inoOf(node)
	if ino == 0 {
		return nil, fmt.Errorf("node %d: %w", node, unix.ESTALE)
	}
	return r.fs.Inode(ino)
}

// checkAttr reports what the kernel would not take: it answers EIO to whatever
// has brought it such an inode, a whole directory listing maybe.
func checkAttr(in *ext4.Inode, st *ext4.Stat) error {
	blk, off := in.Location()
	bad := func(at int, field, have, want string) error {
		return &disk.CorruptError{Struct: "inode", Num: uint64(in.Ino()), Block: blk, Off: off + at, Field: field, Have: have, Want: want}
	}
	switch {
	case in.Disk().Mode.FileType() == disk.TypeUnknown:
		return bad(0, "i_mode", fmt.Sprintf("%#o", st.Mode), "a file type, as the entry that leads here has one")
	case st.Size < 0:
		return bad(4, "i_size", fmt.Sprintf("%#x", uint64(st.Size)), "at most 2^63-1")
	}
	return nil
}

// sxTime is t as the protocol has it: seconds before 1970 are its two's
// complement.
func sxTime(t disk.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

func fillAttr(st *ext4.Stat, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino:       st.Ino,
		Size:      uint64(st.Size),
		Blocks:    st.Blocks,
		Atime:     uint64(st.Atime.Sec),
		Mtime:     uint64(st.Mtime.Sec),
		Ctime:     uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec,
		Mtimensec: st.Mtime.Nsec,
		Ctimensec: st.Ctime.Nsec,
		Mode:      st.Mode,
		Nlink:     st.Nlink,
		Owner:     fuse.Owner{Uid: st.UID, Gid: st.GID},
		Rdev:      st.Minor&0xff | st.Major<<8 | st.Minor&^0xff<<12, // new_encode_dev
		Blksize:   uint32(st.BlockSize),
	}
}

// KernelTime is the clock by which a kernel dates files (ktime_get_coarse_real_ts64): that of the last
// tick. What the kernel dates after we have dated something is never older by it.
func KernelTime() time.Time {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t); err != nil {
		panic("fusesrv: the coarse clock: " + err.Error()) // Linux has it
	}
	return time.Unix(t.Unix())
}

// fillEntry describes in as the answer to a look-up.
func (r *rawFS) fillEntry(in *ext4.Inode, st *ext4.Stat, out *fuse.EntryOut) {
	out.NodeId = nodeOf(in.Ino())
	out.Generation = uint64(st.Generation)
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	fillAttr(st, &out.Attr)
	out.Attr.Flags = r.maps.attrFlags(in)
}

// statxAttributes has the STATX_ATTR bit of each inode flag (ext4_getattr).
var statxAttributes = []struct {
	flag disk.FileFlags
	attr uint64
}{
	{disk.FlagCompr, unix.STATX_ATTR_COMPRESSED},
	{disk.FlagImmutable, unix.STATX_ATTR_IMMUTABLE},
	{disk.FlagAppend, unix.STATX_ATTR_APPEND},
	{disk.FlagNodump, unix.STATX_ATTR_NODUMP},
	{disk.FlagEncrypt, unix.STATX_ATTR_ENCRYPTED},
	{disk.FlagVerity, unix.STATX_ATTR_VERITY},
}

func fillStatx(st *ext4.Stat, out *fuse.Statx) {
	*out = fuse.Statx{
		Mask:      unix.STATX_BASIC_STATS,
		Blksize:   uint32(st.BlockSize),
		Nlink:     st.Nlink,
		Uid:       st.UID,
		Gid:       st.GID,
		Mode:      uint16(st.Mode),
		Ino:       st.Ino,
		Size:      uint64(st.Size),
		Blocks:    st.Blocks,
		Atime:     sxTime(st.Atime),
		Ctime:     sxTime(st.Ctime),
		Mtime:     sxTime(st.Mtime),
		RdevMajor: st.Major,
		RdevMinor: st.Minor,
	}
	if st.HasCrtime {
		out.Mask |= unix.STATX_BTIME
		out.Btime = sxTime(st.Crtime)
	}
	for _, x := range statxAttributes {
		out.AttributesMask |= x.attr
		if st.Flags.Has(x.flag) {
			out.Attributes |= x.attr
		}
	}
}

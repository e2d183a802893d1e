package fusesrv

import (
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ioctls that reach us and that we answer. The kernel carries as many bytes
// as the number says, in the machine's byte order.
//
// It answers FIEMAP and FS_IOC_GETFSUUID itself, with EOPNOTSUPP and ENOTTY.
// EXT4_IOC_GETFSUUID has no fixed size. FS_IOC_GETVERSION says long, where ext4
// gives an int and programs have room for no more: the kernel would write
// behind it whatever the rest of our answer was. So these two are refused.
const (
	iocGetFlags     = unix.FS_IOC_GETFLAGS // says long, but the kernel asks for an int
	iocGetVersion32 = 0x80047601           // FS_IOC32_GETVERSION: int
	iocFSGetXattr   = 0x801c581f           // FS_IOC_FSGETXATTR: struct fsxattr
	iocGetFSLabel   = 0x81009431           // FS_IOC_GETFSLABEL: char[256]
)

// Ioctl answers what asks about an inode. Everything else is ENOTTY.
func (r *rawFS) Ioctl(_ <-chan struct{}, i *fuse.IoctlIn, _ []byte, out *fuse.IoctlOut, buf []byte) fuse.Status {
	clear(buf) // go-fuse has used it before
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	st := in.Stat()
	var value []byte
	switch i.Cmd {
	case iocGetFlags:
		value = binary.NativeEndian.AppendUint32(nil, uint32(in.FlagsShown()))
	case iocGetVersion32:
		value = binary.NativeEndian.AppendUint32(nil, st.Generation)
	case iocFSGetXattr:
		x := in.FSXattr()
		value = binary.NativeEndian.AppendUint32(nil, uint32(x.Flags)) // fsx_xflags
		value = append(value, make([]byte, 8)...)                      // fsx_extsize, fsx_nextents
		value = binary.NativeEndian.AppendUint32(value, x.Project)     // fsx_projid
	case iocGetFSLabel:
		value = []byte(r.fs.Label())
	default:
		return fuse.Status(unix.ENOTTY)
	}
	if len(buf) < len(value) {
		return fuse.EINVAL
	}
	copy(buf, value)
	return fuse.OK
}

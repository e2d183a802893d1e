package fusesrv

import (
	"encoding/binary"

	"e4go/ext4"
	"e4go/ext4/disk"

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

// xflags has the FS_XFLAG_* bit (linux/fs.h) of each inode flag, as
// fileattr_fill_flags pairs them.
var xflags = []struct {
	flag disk.FileFlags
	x    uint32
}{
	{disk.FlagSync, 0x20},
	{disk.FlagImmutable, 0x8},
	{disk.FlagAppend, 0x10},
	{disk.FlagNodump, 0x80},
	{disk.FlagNoatime, 0x40},
	{disk.FlagDAX, 0x8000},
	{disk.FlagProjInherit, 0x200},
	{disk.FlagVerity, 0x20000},
}

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
		value = binary.NativeEndian.AppendUint32(nil, uint32(visibleFlags(in)))
	case iocGetVersion32:
		value = binary.NativeEndian.AppendUint32(nil, st.Generation)
	case iocFSGetXattr:
		var x uint32
		flags := visibleFlags(in)
		for _, f := range xflags {
			if flags.Has(f.flag) {
				x |= f.x
			}
		}
		value = binary.NativeEndian.AppendUint32(nil, x)            // fsx_xflags
		value = append(value, make([]byte, 8)...)                   // fsx_extsize, fsx_nextents
		value = binary.NativeEndian.AppendUint32(value, st.Project) // fsx_projid
	case iocGetFSLabel:
		value = []byte(r.fs.Super().Label)
	default:
		return fuse.Status(unix.ENOTTY)
	}
	if len(buf) < len(value) {
		return fuse.EINVAL
	}
	copy(buf, value)
	return fuse.OK
}

// visibleFlags is what FS_IOC_GETFLAGS shows (ext4_fileattr_get): for files
// not that projects are inherited.
func visibleFlags(in *ext4.Inode) disk.FileFlags {
	flags := in.Disk().Flags.Visible()
	if in.Type() == disk.ModeReg {
		flags &^= disk.FlagProjInherit
	}
	return flags
}

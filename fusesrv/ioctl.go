package fusesrv

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ioctls that reach us and that we answer. The kernel carries as many bytes
// as the number says, in the machine's byte order.
//
// It answers FIEMAP and, since 6.9, FS_IOC_GETFSUUID and FS_IOC_GETFSSYSFSPATH itself, with EOPNOTSUPP
// and ENOTTY.
//
// FS_IOC_GETVERSION says long, where ext4 gives an int and programs have room for no more. The kernel
// takes a shorter answer, which the loop makes go-fuse give.
const (
	iocGetFlags       = unix.FS_IOC_GETFLAGS // says long, but the kernel asks for an int
	iocSetFlags       = unix.FS_IOC_SETFLAGS // likewise
	iocGetVersion     = 0x80087601           // FS_IOC_GETVERSION
	iocGetVersion32   = 0x80047601           // FS_IOC32_GETVERSION: int
	iocExt4GetVersion = 0x80086603           // EXT4_IOC_GETVERSION
	iocSetVersion     = 0x40087602           // FS_IOC_SETVERSION, which says long, too, and means an int
	iocSetVersion32   = 0x40047602           // FS_IOC32_SETVERSION
	iocExt4SetVersion = 0x40086604           // EXT4_IOC_SETVERSION
	iocMigrate        = 0x6609               // EXT4_IOC_MIGRATE
	iocSetFSLabel     = 0x41009432           // FS_IOC_SETFSLABEL
	iocExt4SetFSUUID  = 0x4008662d           // EXT4_IOC_SETFSUUID: struct fsuuid, the start of it
	iocFSGetXattr     = 0x801c581f           // FS_IOC_FSGETXATTR: struct fsxattr
	iocFSSetXattr     = 0x401c5820           // FS_IOC_FSSETXATTR
	iocGetFSLabel     = 0x81009431           // FS_IOC_GETFSLABEL: char[256]
	iocGetFSUUID      = 0x80111500           // FS_IOC_GETFSUUID: struct fsuuid2
	iocExt4GetFSUUID  = 0x8008662c           // EXT4_IOC_GETFSUUID: struct fsuuid, the start of it
	iocTrim           = 0xc0185879           // FITRIM: struct fstrim_range
	iocShutdown       = 0x8004587d           // EXT4_IOC_SHUTDOWN: u32, which the number says is an answer
	iocCheckpoint     = 0x4004662b           // EXT4_IOC_CHECKPOINT: u32
)

// Bits of fsx_xflags (FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND).
const (
	xflagImmutable ext4.XFlags = 0x8
	xflagAppend    ext4.XFlags = 0x10
)

// An ioctlFunc answers with what the kernel copies to the caller. arg is what it has
// copied from there.
type ioctlFunc func(r *rawFS, in *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error)

var ioctls = map[uint32]ioctlFunc{
	iocGetFlags: func(_ *rawFS, in *ext4.Inode, _ *fuse.IoctlIn, _ []byte) ([]byte, error) {
		return native(uint32(in.FlagsShown())), nil
	},
	iocSetFlags: func(r *rawFS, in *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
		flags := disk.FileFlags(binary.NativeEndian.Uint32(arg))
		r.settleFixed(in, flags&(disk.FlagImmutable|disk.FlagAppend) != 0)
		return nil, r.changeFile(in, i, func(c ext4.Caller) error {
			return r.fs.SetAttr(background, c, in.Ino(), ext4.SetAttr{Flags: &flags})
		})
	},
	iocGetVersion: getVersion, iocExt4GetVersion: getVersion, iocGetVersion32: getVersion,
	iocSetVersion: setVersion, iocSetVersion32: setVersion, iocExt4SetVersion: setVersion,
	iocMigrate: func(r *rawFS, in *ext4.Inode, i *fuse.IoctlIn, _ []byte) ([]byte, error) {
		return nil, r.changeFile(in, i, func(c ext4.Caller) error { return r.fs.Migrate(background, c, in.Ino()) })
	},
	iocFSGetXattr: fsGetXattr,
	iocFSSetXattr: fsSetXattr,
	iocGetFSLabel: func(r *rawFS, _ *ext4.Inode, _ *fuse.IoctlIn, _ []byte) ([]byte, error) {
		return []byte(r.fs.Label()), nil
	},
	iocSetFSLabel:    setFSLabel,
	iocGetFSUUID:     getFSUUID,
	iocExt4GetFSUUID: ext4GetFSUUID,
	iocExt4SetFSUUID: ext4SetFSUUID,
	iocTrim:          trim,
	iocShutdown:      shutdown,
	iocCheckpoint:    checkpoint,
	iocRemount: func(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
		return nil, r.remounted(&i.InHeader, binary.NativeEndian.Uint32(arg))
	},
}

// Ioctl answers those of ioctls. Everything else is ENOTTY.
func (r *rawFS) Ioctl(_ <-chan struct{}, i *fuse.IoctlIn, arg []byte, _ *fuse.IoctlOut, buf []byte) fuse.Status {
	clear(buf) // go-fuse has used it before
	do, ok := ioctls[i.Cmd]
	if !ok {
		return fuse.Status(unix.ENOTTY)
	}
	// The kernel takes the sizes from the number, but for what it asks itself
	// (iocGetFlags), and a hostile kernel is none. Still, what is missing is not made up.
	if inSize := int(i.Cmd >> 16 & 0x3fff); i.Cmd>>30&1 != 0 && len(arg) < min(inSize, 4) {
		return fuse.EINVAL
	}
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	value, err := do(r, in, i, arg)
	if err != nil {
		return r.status(fmt.Errorf("ioctl %#x: %w", i.Cmd, err))
	}
	if len(buf) < len(value) {
		return fuse.EINVAL
	}
	copy(buf, value)
	return fuse.OK
}

func native(v ...uint32) []byte {
	var b []byte
	for _, n := range v {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

// may reports whether a request is from one who may do to the file system what takes
// CAP_SYS_ADMIN elsewhere: root, or whoever has mounted it.
func (r *rawFS) may(h *fuse.InHeader) bool {
	return h.Uid == 0 || h.Uid == uint32(os.Geteuid()) || r.fakeroot
}

// changeFile lets fn change flags, project or generation of an inode for its owner. The kernel judges by
// what it knows before it asks for the former two; older ones leave it to us.
func (r *rawFS) changeFile(in *ext4.Inode, i *fuse.IoctlIn, fn func(c ext4.Caller) error) error {
	c := r.caller(&i.InHeader)
	if st := in.Stat(); !c.Privileged && c.UID != st.UID {
		return unix.EPERM
	}
	if err := fn(c); err != nil {
		return err
	}
	r.notify(nodeOf(in.Ino()))
	return nil
}

// settleFixed has the kernel write back what it keeps of a file that may become immutable or
// append-only, and would refuse it later (ext4_ioctl_setflags).
func (r *rawFS) settleFixed(in *ext4.Inode, becomes bool) {
	if !becomes || in.Type() != disk.ModeReg || r.invalidate == nil {
		return
	}
	// The kernel would send the times of what it has written back later, when they cannot be set any more.
	r.settling.Store(in.Ino(), true)
	defer r.settling.Delete(in.Ino())
	r.invalidate(nodeOf(in.Ino()), 0, 0) // all of it
}

func getVersion(_ *rawFS, in *ext4.Inode, _ *fuse.IoctlIn, _ []byte) ([]byte, error) {
	return native(in.Stat().Generation), nil
}

func setVersion(r *rawFS, in *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	version := binary.NativeEndian.Uint32(arg)
	return nil, r.changeFile(in, i, func(ext4.Caller) error { return r.fs.SetGeneration(background, in.Ino(), version) })
}

func fsGetXattr(_ *rawFS, in *ext4.Inode, _ *fuse.IoctlIn, _ []byte) ([]byte, error) {
	x := in.FSXattr()
	return native(uint32(x.Flags), 0, 0, x.Project), nil // fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid
}

func fsSetXattr(r *rawFS, in *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	if len(arg) < 16 {
		return nil, unix.EINVAL
	}
	x := ext4.FSXattr{Flags: ext4.XFlags(binary.NativeEndian.Uint32(arg)), Project: binary.NativeEndian.Uint32(arg[12:])}
	r.settleFixed(in, x.Flags&(xflagImmutable|xflagAppend) != 0)
	return nil, r.changeFile(in, i, func(c ext4.Caller) error { return r.fs.SetFSXattr(background, c, in.Ino(), x) })
}

func getFSUUID(r *rawFS, _ *ext4.Inode, _ *fuse.IoctlIn, _ []byte) ([]byte, error) {
	uuid := r.fs.UUID()
	return append([]byte{byte(len(uuid))}, uuid[:]...), nil // len, uuid
}

// ext4GetFSUUID answers with the size of the UUID when the caller has left no room for it, and otherwise
// writes it behind the struct in the caller's memory, which the number does not say (ext4_ioctl_getuuid).
func ext4GetFSUUID(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, _ []byte) ([]byte, error) {
	uuid := r.fs.UUID()
	head, err := callerMemory(i, 0, 8) // fsu_len, fsu_flags
	if err != nil {
		return nil, err
	}
	room, flags := binary.NativeEndian.Uint32(head), binary.NativeEndian.Uint32(head[4:])
	switch {
	case room == 0:
		return native(uint32(len(uuid)), flags), nil
	case room < uint32(len(uuid)) || flags != 0:
		return nil, unix.EINVAL
	}
	return native(uint32(len(uuid)), 0), writeCallerMemory(i, 8, uuid[:])
}

// ext4SetFSUUID takes the UUID from behind the struct, likewise (ext4_ioctl_setuuid).
func ext4SetFSUUID(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	if !r.may(&i.InHeader) {
		return nil, unix.EPERM
	}
	var uuid [16]byte
	if len(arg) < 8 || binary.NativeEndian.Uint32(arg) != uint32(len(uuid)) || binary.NativeEndian.Uint32(arg[4:]) != 0 {
		return nil, unix.EINVAL
	}
	b, err := callerMemory(i, 8, len(uuid))
	if err != nil {
		return nil, err
	}
	copy(uuid[:], b)
	return nil, r.fs.SetUUID(background, ext4.Root, uuid)
}

// setFSLabel names the file system. A label that is full has no NUL.
func setFSLabel(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	if !r.may(&i.InHeader) {
		return nil, unix.EPERM
	}
	label, _, _ := strings.Cut(string(arg), "\x00")
	return nil, r.fs.SetLabel(background, ext4.Root, label)
}

// trim tells the device which blocks are free.
func trim(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	switch {
	case !r.may(&i.InHeader):
		return nil, unix.EPERM
	case len(arg) < 24:
		return nil, unix.EINVAL
	}
	ne := binary.NativeEndian
	start, length, least := ne.Uint64(arg), ne.Uint64(arg[8:]), ne.Uint64(arg[16:])
	n, err := r.fs.Trim(background, start, length, least)
	if err != nil {
		return nil, err
	}
	ne.PutUint64(arg[8:], n)
	return arg[:24], nil
}

// shutdown ends everything at once. What its argument is, the kernel does not carry, since the
// number says that it is an answer: it is read in the caller's memory.
func shutdown(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, _ []byte) ([]byte, error) {
	if !r.may(&i.InHeader) {
		return nil, unix.EPERM
	}
	arg, err := callerMemory(i, 0, 4)
	if err != nil {
		return nil, err
	}
	kind := binary.NativeEndian.Uint32(arg)
	r.atimes.count(false)
	if err := r.fs.Shutdown(ext4.ShutdownKind(kind)); err != nil {
		return nil, err
	}
	r.report("shut down by ioctl: every request fails from now on")
	return arg, nil // as it was
}

// checkpoint makes everything durable in its place (EXT4_IOC_CHECKPOINT). The log is not overwritten
// or discarded then, which the first two flags would ask for.
func checkpoint(r *rawFS, _ *ext4.Inode, i *fuse.IoctlIn, arg []byte) ([]byte, error) {
	const discard, zeroout, dryRun = 1, 2, 4
	flags := binary.NativeEndian.Uint32(arg)
	switch {
	case !r.may(&i.InHeader):
		return nil, unix.EPERM
	case flags&^(discard|zeroout|dryRun) != 0 || flags&(discard|zeroout) == discard|zeroout:
		return nil, unix.EINVAL
	case flags&(discard|zeroout) != 0:
		return nil, unix.EOPNOTSUPP
	case flags&dryRun != 0:
		return nil, nil
	case !r.fs.Writable():
		return nil, unix.EROFS
	}
	return nil, r.fs.Sync()
}

// callerMemory reads n bytes, off bytes behind where the argument of an ioctl points to in the memory of
// the process that waits in it. It takes a server that may look into that process: one of root.
func callerMemory(i *fuse.IoctlIn, off uintptr, n int) ([]byte, error) {
	b := make([]byte, n)
	return b, moveMemory(i, off, b, unix.ProcessVMReadv)
}

func writeCallerMemory(i *fuse.IoctlIn, off uintptr, b []byte) error {
	return moveMemory(i, off, b, unix.ProcessVMWritev)
}

func moveMemory(i *fuse.IoctlIn, off uintptr, b []byte, move func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error)) error {
	local := []unix.Iovec{{Base: unsafe.SliceData(b)}}
	local[0].SetLen(len(b))
	n, err := move(int(i.Pid), local, []unix.RemoteIovec{{Base: uintptr(i.Arg) + off, Len: len(b)}}, 0)
	switch {
	case err == unix.EFAULT || err == nil && n < len(b):
		return unix.EFAULT
	case err != nil:
		return fmt.Errorf("look into process %d: %v: %w", i.Pid, err, unix.ENOTTY)
	}
	return nil
}

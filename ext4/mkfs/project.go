package mkfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fsxattr is struct fsxattr of FS_IOC_FSGETXATTR (include/uapi/linux/fs.h).
type fsxattr struct {
	xflags     uint32
	extsize    uint32
	nextents   uint32
	projid     uint32
	cowextsize uint32
	_          [8]byte
}

const fsIocFsgetxattr = 0x801c581f // _IOR('X', 31, struct fsxattr)

// projectOf returns the project id of an open file, 0 where there is none.
func projectOf(fd int) (uint32, error) {
	var x fsxattr
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocFsgetxattr, uintptr(unsafe.Pointer(&x)))
	switch {
	case errno == 0:
		return x.projid, nil
	case errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EOPNOTSUPP), errors.Is(errno, unix.EINVAL):
		return 0, nil
	}
	return 0, errno
}

package fusesrv

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlBytes calls an ioctl that fills b.
func ioctlBytes(f *os.File, cmd uintptr, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

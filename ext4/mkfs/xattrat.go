package mkfs

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noListXattrAt is set where the kernel does not have listxattrat(2), which came with Linux 6.13.
var noListXattrAt atomic.Bool

// listXattrAt is llistxattr(2) for a name in the directory dir, or with no
// name for the directory.
func listXattrAt(dir int, name string, b []byte) (int, error) {
	if !noListXattrAt.Load() {
		p, err := unix.BytePtrFromString(name)
		if err != nil {
			return 0, err
		}
		flags := uintptr(unix.AT_SYMLINK_NOFOLLOW)
		if name == "" {
			flags |= unix.AT_EMPTY_PATH
		}
		n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), flags,
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.ENOSYS && errno != unix.EPERM { // EPERM is what old sandboxes say to new calls
			return 0, errno
		}
		noListXattrAt.Store(true)
	}
	if name == "" {
		return unix.Flistxattr(dir, b)
	}
	return unix.Llistxattr(procName(dir, name), b)
}

// procName is a path by which system calls without a directory find a name in one.
func procName(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

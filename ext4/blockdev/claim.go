package blockdev

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// IsBlock reports whether f is a block device.
func (f *File) IsBlock() bool { return f.block }

// Unclaim gives up the claim on a block device that [Open] has taken with O_EXCL, for
// mount(2) to take it: the kernel gives it to one at a time. Until then anybody
// may. The descriptor keeps its number, and reads and writes go on.
// For a regular file, which has no claim, it does nothing.
func (f *File) Unclaim() error { return f.reopen(0) }

// Claim takes back what Unclaim gave up. It fails with an *[InUseError] if
// somebody else has it now.
func (f *File) Claim() error { return f.reopen(unix.O_EXCL) }

// reopen puts another opening of the device in the place of the descriptor.
func (f *File) reopen(excl int) error {
	if !f.block {
		return nil
	}
	flags := unix.O_RDONLY | unix.O_CLOEXEC | excl
	if f.write {
		flags = unix.O_RDWR | unix.O_CLOEXEC | excl
	}
	if f.buffered != nil {
		flags |= unix.O_DIRECT
	}
	fd, err := openRetry(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags)
	if err == unix.EBUSY {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return fmt.Errorf("claim %s: %w", f.path, err)
		}
		return &InUseError{Path: f.path, Holders: deviceHolders(&st), Err: err}
	}
	if err != nil {
		return fmt.Errorf("open %s again: %w", f.path, err)
	}
	defer unix.Close(fd)
	if err := unix.Dup3(fd, int(f.Fd()), unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("open %s again: %w", f.path, err)
	}
	return nil
}

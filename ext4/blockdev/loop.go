package blockdev

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLoopTries is how often another program may take the free loop device that
// we were told of.
const maxLoopTries = 100

// AttachLoop makes a loop device of the file or block device at path, from byte base
// on, and returns it open. It goes by itself when it is closed for the last
// time, also by a mount: who is killed leaves none.
func AttachLoop(path string, base int64, readOnly bool) (*os.File, error) {
	dev, err := attachLoop(path, base, 0, readOnly)
	if err != nil {
		return nil, fmt.Errorf("make a loop device for %s: %w", path, err)
	}
	return dev, nil
}

// AttachLoop makes a loop device of the size bytes at base of f, as [AttachLoop] does. It
// outlives f, and has no part in f's lock.
func (f *File) AttachLoop(base, size int64, readOnly bool) (*os.File, error) {
	dev, err := attachLoop(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), base, size, readOnly)
	if err != nil {
		return nil, fmt.Errorf("make a loop device for %s: %w", f.path, err)
	}
	return dev, nil
}

func attachLoop(path string, base, size int64, readOnly bool) (*os.File, error) {
	mode := os.O_RDWR
	var flags uint32 = unix.LO_FLAGS_AUTOCLEAR
	if readOnly {
		mode = os.O_RDONLY
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	file, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Info: unix.LoopInfo64{Offset: uint64(base), Sizelimit: uint64(size), Flags: flags},
	}
	for range maxLoopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: another program was faster
			return nil, err
		}
	}
	return nil, fmt.Errorf("none was free in %d attempts: %w", maxLoopTries, unix.EBUSY)
}

// LoopFile returns the file that the loop device with the number dev, "major:minor", is made of, and
// the byte in it where the device begins; ok is false if it is no loop device.
func LoopFile(dev string) (path string, offset int64, ok bool) {
	dir := "/sys/dev/block/" + dev + "/loop/"
	path, at := readLine(dir+"backing_file"), readLine(dir+"offset")
	if path == "" {
		return "", 0, false
	}
	if _, err := fmt.Sscan(strings.TrimSpace(at), &offset); err != nil {
		return "", 0, false
	}
	return path, offset, true
}

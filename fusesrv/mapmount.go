package fusesrv

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkIomap says why contents cannot be served by mappings.
func checkIomap(o *Options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("iomap needs root, for the loop device and for the kernel's trust: %w", unix.EPERM)
	}
	if f, _ := split(o.Image); f == nil {
		return fmt.Errorf("iomap: the image is neither a file nor a block device: %w", unix.ENOTBLK)
	}
	support, err := AskIomap()
	if err != nil {
		return err
	}
	return support.Usable()
}

// registerLoop makes the image known to the kernel at the other end of fuseFd, through a loop device. That reads and writes
// through the same page cache as we do: blocks of metadata and of files that share a page, or follow each other
// in the same place, are never out of step. The device goes with the connection.
func registerLoop(fuseFd int, o *Options, readOnly bool) (Backing, error) {
	f, at := split(o.Image)
	loop, err := f.AttachLoop(at, o.Image.Size(), readOnly)
	if err != nil {
		return Backing{}, err
	}
	defer loop.Close() // the kernel has its own reference
	b := backingLimits(int(loop.Fd()))
	b.ID, err = backingOpen(fuseFd, int(loop.Fd()))
	return b, err
}

// backingLimits asks the block device fd for its limits. A kernel that does not know them all gives
// those that it does.
func backingLimits(fd int) (b Backing) {
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN|unix.STATX_WRITE_ATOMIC, &st) != nil {
		return b
	}
	if st.Mask&unix.STATX_DIOALIGN != 0 {
		b.MemAlign, b.OffsetAlign = st.Dio_mem_align, st.Dio_offset_align
	}
	// A loop device has none as of Linux 6.18.
	if s, err := AskIomap(); err == nil && s.Flags&IomapAtomic != 0 && st.Mask&unix.STATX_WRITE_ATOMIC != 0 {
		b.AtomicMin, b.AtomicMax = st.Atomic_write_unit_min, st.Atomic_write_unit_max
	}
	return b
}

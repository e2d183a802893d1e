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
func registerLoop(fuseFd int, o *Options, readOnly bool) (dev uint32, base uint64, err error) {
	f, at := split(o.Image)
	loop, err := f.AttachLoop(at, o.Image.Size(), readOnly)
	if err != nil {
		return 0, 0, err
	}
	defer loop.Close() // the kernel has its own reference
	dev, err = backingOpen(fuseFd, int(loop.Fd()))
	return dev, 0, err
}

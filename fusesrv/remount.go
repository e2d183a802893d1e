package fusesrv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// iocRemount is an ioctl of our own, by which [Remount] tells the server: an
// int, 1 for read-only.
const iocRemount = 0x400465e4

// Remount changes the mount flags of the e4go mount at dir, as `mount -o remount` does; flags that
// options do not name stay as they are. The kernel does so by itself and tells a server nothing. This does:
// when it has made a mount read-only, everything is durable and nothing more is
// written, times of access neither. It takes root, and fails with EBUSY while files are open for writing,
// and with EROFS if the server cannot write.
func Remount(dir string, options []string) error {
	m, err := fuseMount(dir)
	if err != nil {
		return err
	}
	f, err := ParseFlags(append(append([]string{"suid", "dev"}, m.flags()...), options...))
	if err != nil {
		return err
	}
	root, err := os.Open(m.point)
	if err != nil {
		return err
	}
	defer root.Close()
	readOnly := f.bits&unix.MS_RDONLY != 0
	if !readOnly {
		if err := tellRemount(root, false); err != nil {
			return fmt.Errorf("remount %s read-write: %w", dir, err)
		}
	}
	err = unix.Mount("", m.point, "", f.bits|unix.MS_REMOUNT, "")
	if err == nil && readOnly {
		err = tellRemount(root, true)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: remounting takes root", err)
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: files are open for writing, or deleted and open", err)
	}
	if err != nil {
		return fmt.Errorf("remount %s: %w", dir, err)
	}
	return nil
}

func tellRemount(root *os.File, readOnly bool) error {
	var arg [4]byte
	if readOnly {
		binary.NativeEndian.PutUint32(arg[:], 1)
	}
	err := ioctl(int(root.Fd()), iocRemount, arg[:])
	switch err {
	case unix.ENOTTY:
		return ErrNotOurs
	case unix.EROFS:
		return fmt.Errorf("%w: the server has the image open for reading only: unmount it, and mount it with rw", err)
	}
	return err
}

// remounted is the server's side of it.
func (r *rawFS) remounted(h *fuse.InHeader, arg uint32) error {
	readOnly := arg&1 != 0
	switch {
	case !r.may(h):
		return unix.EPERM
	case !r.fs.Writable() && !readOnly:
		return unix.EROFS
	}
	r.atimes.count(!readOnly)
	if !readOnly {
		return nil
	}
	return errors.Join(r.atimes.write(), r.fs.Sync())
}

// flags are the options of the mount as [ParseFlags] takes them.
func (m *mountInfo) flags() []string {
	var out []string
	for o := range strings.SplitSeq(m.options+","+m.mountOptions, ",") {
		if _, ok := flagBits[o]; ok {
			out = append(out, o)
		}
	}
	return out
}

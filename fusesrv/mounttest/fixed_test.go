package mounttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A fixed file takes no more, or only what is appended to it.
type fixed struct {
	name  string
	flags uint32 // of FS_IOC_SETFLAGS
	xflag uint32 // or of FS_IOC_FSSETXATTR
}

var fixedFiles = []fixed{
	{name: "immutable", flags: 0x10}, {name: "append", flags: 0x20},
	{name: "ximmutable", xflag: 0x8}, {name: "xappend", xflag: 0x10},
}

func (x *fixed) appends() bool { return strings.HasSuffix(x.name, "append") }

// fix gives file the flags, as chattr(1) and xfs_io(8) do.
func (x *fixed) fix(f *os.File) error {
	cmd, arg := uintptr(unix.FS_IOC_SETFLAGS), binary.NativeEndian.AppendUint64(nil, uint64(x.flags|0x80000))
	if x.xflag != 0 {
		cmd, arg = 0x401c5820, binary.NativeEndian.AppendUint32(nil, x.xflag)
		arg = append(arg, make([]byte, 24)...)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
		return errno
	}
	return nil
}

// A file that becomes immutable or append-only has what was written to it before, also by a mapping and into the
// kernel's cache, and nothing changes it later.
func TestFixedFiles(t *testing.T) {
	for _, tt := range []struct{ features, options string }{
		{"^encrypt", ""}, {"^encrypt", "writeback_cache"},
		{"encrypt", ""}, // there the kernel asks at open
	} {
		options := tt.options
		t.Run(tt.features+","+options, func(t *testing.T) {
			image := makeImage(t, "-t ext4 -O "+tt.features, "64M")
			m := serve(t, image, options)
			want, changed := make(map[string][]byte), make(map[string]time.Time)
			for _, x := range fixedFiles {
				b, before, err := x.use(filepath.Join(m.dir, x.name), options != "", tt.features == "encrypt")
				if err != nil {
					t.Errorf("%s: %v", x.name, err)
				}
				want[x.name], changed[x.name] = b, before
			}
			m.umount(t)
			m.start(t, options)
			for name, b := range want {
				if got, err := os.ReadFile(filepath.Join(m.dir, name)); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s: %v; %d bytes, want %d that do not differ", name, err, len(got), len(b))
				}
				if st, err := os.Stat(filepath.Join(m.dir, name)); err != nil || st.ModTime().Before(changed[name]) {
					t.Errorf("%s: modified at %v (%v), want a time after %v", name, st.ModTime(), err, changed[name])
				}
			}
			m.umount(t)
			sound(t, image)
		})
	}
}

// use writes a file, fixes it, tries to change it, and returns what it has to hold in the end, and a time before the
// last write.
func (x *fixed) use(name string, cached, asked bool) (want []byte, before time.Time, err error) {
	const size = 40000
	want = bytes.Repeat([]byte("a"), size)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, before, err
	}
	defer f.Close()
	if _, err := f.Write(want); err != nil {
		return nil, before, err
	}
	if err := f.Sync(); err != nil {
		return nil, before, err
	}
	copy(want[100:], bytes.Repeat([]byte("b"), 5000))
	if _, err := f.WriteAt(want[100:5100], 100); err != nil {
		return nil, before, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, before, err
	}
	defer func() { _ = unix.Munmap(mem) }()
	want[20000], mem[20000] = 'c', 'c'
	before = time.Now()
	time.Sleep(20 * time.Millisecond) // the kernel's times go by its tick
	if _, err := f.WriteAt(want[100:5100], 100); err != nil {
		return nil, before, err
	}
	if err := x.fix(f); err != nil {
		return nil, before, fmt.Errorf("fix it: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, before, fmt.Errorf("fsync: %w", err)
	}

	refused := func(what string, err error) error {
		if !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%s: %v, want EPERM", what, err)
		}
		return nil
	}
	_, written := f.WriteAt([]byte("never"), 0)
	if cached { // the write that is refused is the kernel's
		written = errors.Join(written, f.Sync())
	}
	trunc, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		trunc.Close()
	}
	errs := []error{
		refused("write", written), refused("open to truncate", err), refused("truncate", f.Truncate(0)),
		refused("punch", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)),
		refused("remove", os.Remove(name)), refused("rename", os.Rename(name, name+"2")), refused("chmod", os.Chmod(name, 0o666)),
	}
	if asked {
		again, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			again.Close()
		}
		errs = append(errs, refused("open to write", err))
	}
	mem[30000] = 'd'
	errs = append(errs, refused("store", unix.Msync(mem, unix.MS_SYNC)))
	more, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = more.WriteString("more")
		if err == nil {
			err = more.Sync()
		}
		more.Close()
	}
	if x.appends() {
		want = append(want, "more"...)
	} else {
		err = refused("append", err)
	}
	return want, before, errors.Join(append(errs, err)...)
}

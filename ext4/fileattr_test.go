package ext4_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

const (
	iocGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	iocSetXattr = 0x401c5820 // FS_IOC_FSSETXATTR
)

func ioctl(fd int, cmd uintptr, arg []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), cmd, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
		return errno
	}
	return nil
}

// asUser does something as a user without capabilities.
func asUser(uid int, do func()) {
	runtime.LockOSThread() // else what follows would count for others
	defer runtime.UnlockOSThread()
	same := ^uintptr(0)
	unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same)
	defer unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same)
	do()
}

// capable reports whether the test has a capability.
func capable(t *testing.T, c uint) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[c/32].Effective>>(c%32)&1 != 0
}

// Each flag is set and taken away, alone and on an immutable file, with both
// ioctls, by root and by the owner: each errno, and what the flags are then, is the kernel's.
func TestFlagsAsKernel(t *testing.T) {
	for _, args := range [][]string{
		{"-b", "1024"},
		{"-O", "inline_data"},
		{"-O", "^has_journal,^metadata_csum"},
		{"-I", "128"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			theirs, mine := makeImage(t, "16M", args...), makeImage(t, "16M", args...)
			var options []string
			if args[1] == "inline_data" {
				options = []string{"data=writeback"} // the kernel's own bug with data=ordered
			}
			root, unmount := fixtures.MountKernelWrite(t, theirs, options...)
			fs, done := openWrite(t, mine)
			k, o := kernel{root}, ours{fs, ext4.Root}
			for _, n := range []namer{k, o} {
				for _, err := range []error{n.create("f", unix.S_IFREG|0o666), n.mkdir("d", 0o777), n.mkdir("full", 0o777), n.mkdir("indexed", 0o777), n.create("full/f", unix.S_IFREG|0o666)} {
					if err != nil {
						t.Fatal(err)
					}
				}
				for i := range 100 {
					if err := n.create(fmt.Sprintf("indexed/%060d", i), unix.S_IFREG|0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, path := range []string{"f", "d", "full", "indexed"} {
				if err := os.Chown(k.at(path), 1000, 1000); err != nil {
					t.Fatal(err)
				}
				compareFlags(t, k.at(path), fs, path)
			}
			unmount()
			done()
			checkImage(t, mine)
		})
	}
}

// A flagPair is a file that the kernel and we change.
type flagPair struct {
	t    *testing.T
	path string
	fd   int
	fs   *ext4.FS
	ino  disk.Ino
}

func compareFlags(t *testing.T, theirs string, fs *ext4.FS, path string) {
	fd, err := unix.Open(theirs, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	in, err := fs.Resolve(path, true)
	if err != nil {
		t.Fatal(err)
	}
	p := flagPair{t, path, fd, fs, in.Ino()}
	for _, base := range []disk.FileFlags{0, disk.FlagImmutable, disk.FlagAppend, disk.FlagDAX, disk.FlagSync | disk.FlagProjInherit} {
		flags, _ := p.shown()
		p.setFlags(ext4.Root, flags&uint32(disk.FlagExtents))
		p.setFlags(ext4.Root, flags&uint32(disk.FlagExtents)|uint32(base))
		for bit := uint32(1); bit != 0; bit <<= 1 {
			if bit == uint32(disk.FlagExtents) {
				continue // moves the map: EXT4_IOC_MIGRATE
			}
			if bit == uint32(disk.FlagJournalData) && !capable(t, unix.CAP_SYS_RESOURCE) {
				continue
			}
			flags, x := p.shown()
			for _, c := range []ext4.Caller{{UID: 1000, GID: 1000}, ext4.Root} {
				p.setFlags(c, flags^bit)
				p.setFlags(ext4.Root, flags)
				p.setXflags(c, x^bit, 0)
				p.setXflags(c, x, 0)
				p.setFlags(ext4.Root, flags)
			}
		}
		_, x := p.shown()
		for _, project := range []uint32{1, 1<<32 - 1} {
			p.setXflags(ext4.Root, x, project)
		}
	}
}

func (p flagPair) setFlags(c ext4.Caller, flags uint32) {
	p.t.Helper()
	f := disk.FileFlags(flags)
	p.compare(c, fmt.Sprintf("flags %#x", flags),
		func() error { return unix.IoctlSetPointerInt(p.fd, unix.FS_IOC_SETFLAGS, int(int32(flags))) },
		func() error { return p.fs.SetAttr(p.t.Context(), c, p.ino, ext4.SetAttr{Flags: &f}) })
}

func (p flagPair) setXflags(c ext4.Caller, x, project uint32) {
	p.t.Helper()
	arg := make([]byte, 28)
	binary.NativeEndian.PutUint32(arg, x)
	binary.NativeEndian.PutUint32(arg[12:], project)
	p.compare(c, fmt.Sprintf("xflags %#x, project %d", x, project),
		func() error { return ioctl(p.fd, iocSetXattr, arg) },
		func() error {
			return p.fs.SetFSXattr(p.t.Context(), c, p.ino, ext4.FSXattr{Flags: ext4.XFlags(x), Project: project})
		})
}

func (p flagPair) compare(c ext4.Caller, what string, theirs, ours func() error) {
	p.t.Helper()
	before, _ := p.shown()
	want := error(nil)
	if c.Privileged {
		want = theirs()
	} else {
		asUser(int(c.UID), func() { want = theirs() })
	}
	version := p.inode().Disk().Version
	got := ours()
	if errnoOf(got) != errnoOf(want) {
		p.t.Errorf("%s with flags %#x: %s by user %d: the kernel says %v, we %v", p.path, before, what, c.UID, want, got)
	}
	in := p.inode()
	if changes := in.Disk().Version - version; got == nil && changes != 1 || got != nil && changes != 0 {
		p.t.Errorf("%s: %s: %v, and i_version moves by %d", p.path, what, got, changes)
	}
	flags, x := p.shown()
	if ours := in.FSXattr(); uint32(in.FlagsShown()) != flags || uint32(ours.Flags) != x {
		p.t.Fatalf("%s with flags %#x: %s by user %d: we have %#x and xflags %#x, the kernel %#x and %#x", p.path, before, what, c.UID, in.FlagsShown(), ours.Flags, flags, x)
	}
}

func (p flagPair) inode() *ext4.Inode {
	in, err := p.fs.Inode(p.ino)
	if err != nil {
		p.t.Fatal(err)
	}
	return in
}

// shown is what the kernel shows.
func (p flagPair) shown() (flags, x uint32) {
	got, err := unix.IoctlGetInt(p.fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		p.t.Fatal(err)
	}
	arg := make([]byte, 28)
	if err := ioctl(p.fd, iocGetXattr, arg); err != nil {
		p.t.Fatal(err)
	}
	return uint32(got), binary.NativeEndian.Uint32(arg)
}

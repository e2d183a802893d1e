package fusesrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"e4go/ext4"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// ioctlBytes calls an ioctl whose argument is b.
func ioctlBytes(f *os.File, cmd uintptr, b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

func openPath(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// asUser calls fn as user 1000, who has no privileges.
func asUser(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := errors.Join(unix.Setgroups(nil), unix.Setfsgid(1000), unix.Setfsuid(1000)); err != nil {
			panic(err)
		}
		fn()
	}()
	<-done
}

// chattr(1) and lsattr(1) change and show flags and projects; what the flags forbid, is
// forbidden, and stat(2) shows the time of the change at once.
func TestChattr(t *testing.T) {
	m := mountNew(t, "-t", "ext4", "-O", "project,quota", "-I", "256")
	file, dir := filepath.Join(m.dir, "file"), filepath.Join(m.dir, "dir")
	check(t, os.WriteFile(file, []byte("x"), 0o644))
	check(t, os.Mkdir(dir, 0o755))
	lsattr := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("lsattr", append([]string{"-d"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("lsattr: %v\n%s", err, out)
		}
		return strings.Fields(string(out))[0]
	}
	chattr := func(args ...string) error {
		out, err := exec.Command("chattr", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("chattr %v: %s", args, out)
		}
		return nil
	}
	var before, after unix.Stat_t
	check(t, unix.Stat(file, &before))
	check(t, chattr("+dA", file))
	if got := lsattr(file); !strings.Contains(got, "d") || !strings.Contains(got, "A") {
		t.Errorf("flags %s, want d and A among them", got)
	}
	check(t, unix.Stat(file, &after))
	if after.Ctim == before.Ctim {
		t.Error("ctime is as before the flags changed")
	}

	check(t, chattr("+i", file))
	if err := os.WriteFile(file, nil, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write to an immutable file: %v", err)
	}
	if err := os.Remove(file); !errors.Is(err, unix.EPERM) {
		t.Errorf("remove an immutable file: %v", err)
	}
	check(t, chattr("-i", file))
	check(t, chattr("+a", file))
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	check(t, err)
	_, err = f.Write([]byte("y"))
	check(t, errors.Join(err, f.Close()))
	check(t, chattr("-a", file))

	check(t, chattr("-p", "42", dir))
	check(t, chattr("+P", dir))
	if out, err := exec.Command("lsattr", "-pd", dir).Output(); err != nil || !strings.Contains(string(out), "42 ") || !strings.Contains(string(out), "P") {
		t.Errorf("lsattr -pd: %v, %q", err, out)
	}
	check(t, os.WriteFile(filepath.Join(dir, "in"), nil, 0o644))
	if out, err := exec.Command("lsattr", "-p", filepath.Join(dir, "in")).Output(); err != nil || !strings.Contains(string(out), "42 ") {
		t.Errorf("the project is not inherited: %v, %q", err, out)
	}

	check(t, os.Chmod(file, 0o666))
	asUser(func() {
		if err := setFlags(file, 0x40); !errors.Is(err, unix.EPERM) {
			t.Errorf("another than the owner sets flags: %v, want EPERM", err)
		}
	})
	check(t, os.Chown(file, 1000, 1000))
	asUser(func() {
		if err := setFlags(file, 0x40|0x80000); err != nil {
			t.Errorf("the owner sets nodump: %v", err)
		}
		if err := setFlags(file, 0x10|0x80000); !errors.Is(err, unix.EPERM) {
			t.Errorf("the owner makes it immutable: %v, want EPERM", err)
		}
	})
}

func setFlags(path string, flags uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return ioctlBytes(f, iocSetFlags, binary.NativeEndian.AppendUint64(nil, uint64(flags)))
}

// Names and numbers of the file system.
func TestFSIoctls(t *testing.T) {
	m := mountNew(t, "-t", "ext4", "-O", "metadata_csum_seed", "-L", "a label", "-U", "00112233-4455-6677-8899-aabbccddeeff")
	root := openPath(t, m.dir)
	want := []byte{0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	label := make([]byte, 256)
	if err := ioctlBytes(root, iocGetFSLabel, label); err != nil || !bytes.HasPrefix(label, []byte("a label\x00")) {
		t.Errorf("label: %v, %q", err, label[:10])
	}
	uuid := make([]byte, 24)
	if err := ioctlBytes(root, iocExt4GetFSUUID, uuid); err != nil || binary.NativeEndian.Uint32(uuid) != 16 || !bytes.Equal(uuid[8:], make([]byte, 16)) {
		t.Errorf("size of the UUID: %v, % x", err, uuid)
	}
	if err := ioctlBytes(root, iocExt4GetFSUUID, uuid); err != nil || !bytes.Equal(uuid[8:], want) {
		t.Errorf("UUID: %v, % x", err, uuid)
	}
	check(t, ioctlBytes(root, iocSetFSLabel, append([]byte("sixteen letters!"), make([]byte, 240)...)))
	if err := ioctlBytes(root, iocGetFSLabel, label); err != nil || !bytes.HasPrefix(label, []byte("sixteen letters!\x00")) {
		t.Errorf("label: %v, %q", err, label[:20])
	}
	if err := ioctlBytes(root, iocSetFSLabel, append([]byte("seventeen letters"), make([]byte, 239)...)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a label of 17 letters: %v, want EINVAL", err)
	}
	want[15] = 1
	other := append(native(16, 0), want...)
	check(t, ioctlBytes(root, iocExt4SetFSUUID, other))
	if err := ioctlBytes(root, iocExt4GetFSUUID, uuid); err != nil || !bytes.Equal(uuid[8:], want) {
		t.Errorf("UUID that was set: %v, % x", err, uuid)
	}
	// No more than an int is written, whatever the number says.
	version := bytes.Repeat([]byte{0xaa}, 8)
	for _, cmd := range []uintptr{iocGetVersion, iocExt4GetVersion} {
		if err := ioctlBytes(root, cmd, version); err != nil || !bytes.Equal(version[4:], bytes.Repeat([]byte{0xaa}, 4)) {
			t.Errorf("ioctl %#x: %v, % x", cmd, err, version)
		}
	}
	if out, err := exec.Command("lsattr", "-v", m.dir).CombinedOutput(); err != nil {
		t.Errorf("lsattr -v: %v\n%s", err, out)
	}
	short := append(binary.NativeEndian.AppendUint32(nil, 8), make([]byte, 20)...)
	if err := ioctlBytes(root, iocExt4GetFSUUID, short); !errors.Is(err, unix.EINVAL) {
		t.Errorf("UUID into 8 bytes: %v", err)
	}
	for flags, want := range map[uint32]error{0: nil, 4: nil, 1: unix.EOPNOTSUPP, 3: unix.EINVAL, 8: unix.EINVAL} {
		if err := ioctlBytes(root, iocCheckpoint, native(flags)); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("checkpoint with flags %d: %v, want %v", flags, err, want)
		}
	}
	asUser(func() {
		for _, cmd := range []uintptr{iocCheckpoint, iocShutdown, iocTrim, iocRemount, iocSetFSLabel, iocExt4SetFSUUID} {
			if err := ioctlBytes(root, cmd, make([]byte, 256)); !errors.Is(err, unix.EPERM) {
				t.Errorf("ioctl %#x by a user: %v, want EPERM", cmd, err)
			}
		}
	})
}

// fstrim(8) frees what was allocated in the image file.
func TestTrimIoctl(t *testing.T) {
	fixtures.Need(t, "fstrim")
	m := mountNew(t, "-t", "ext4")
	file := filepath.Join(m.dir, "big")
	check(t, os.WriteFile(file, bytes.Repeat([]byte("x"), 40<<20), 0o644))
	full, err := m.fs.Statfs()
	check(t, err)
	check(t, os.Remove(file))
	waitFor(t, func() bool { // the kernel forgets the file when it likes
		now, err := m.fs.Statfs()
		return err == nil && now.Free > full.Free+8000
	})
	check(t, m.fs.Sync())
	image, _ := mountAt(m.dir)
	var before, after unix.Stat_t
	check(t, unix.Stat(image.image(), &before))
	out, err := exec.Command("fstrim", "-v", m.dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "bytes) trimmed") {
		t.Fatalf("fstrim: %v, %s", err, out)
	}
	check(t, unix.Stat(image.image(), &after))
	if freed := (before.Blocks - after.Blocks) * 512; freed < 30<<20 {
		t.Errorf("the image is %d bytes smaller, want 30 MiB and more", freed)
	}
}

// The three ways to shut down keep what they promise, and every call fails afterwards.
func TestShutdownIoctl(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs", "e2fsck")
	for kind, kept := range map[ext4.ShutdownKind]bool{ext4.ShutdownDefault: true, ext4.ShutdownLogFlush: true, ext4.ShutdownNoLogFlush: false} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			image := newFSImage(t, "-t", "ext4")
			t.Run("mounted", func(t *testing.T) {
				m := mountFile(t, image, 0, Options{Extra: []string{"rw"}}, ext4.Options{Write: true, CommitInterval: 1 << 40})
				check(t, os.Mkdir(filepath.Join(m.dir, "early"), 0o755))
				check(t, m.fs.Sync())
				check(t, os.Mkdir(filepath.Join(m.dir, "late"), 0o755))
				if err := ioctlBytes(openPath(t, m.dir), iocShutdown, native(7)); !errors.Is(err, unix.EINVAL) {
					t.Errorf("shutdown of kind 7: %v, want EINVAL", err)
				}
				check(t, ioctlBytes(openPath(t, m.dir), iocShutdown, native(uint32(kind))))
				if err := os.Mkdir(filepath.Join(m.dir, "later"), 0o755); !errors.Is(err, unix.EIO) {
					t.Errorf("mkdir after the shutdown: %v, want EIO", err)
				}
			})
			m := mountFile(t, image, 0, Options{Extra: []string{"rw"}}, ext4.Options{Write: true})
			check(t, unix.Stat(filepath.Join(m.dir, "early"), &unix.Stat_t{}))
			if err := unix.Stat(filepath.Join(m.dir, "late"), &unix.Stat_t{}); (err == nil) != kept {
				t.Errorf("what was not durable: %v, want it to be kept: %t", err, kept)
			}
		})
	}
}

// waitFor waits until ok, for some seconds.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not happen")
}

// chattr(1) sets the generation and migrates to extents where the kernel's ext4 lets it.
func TestVersionAndMigrate(t *testing.T) {
	m := mountNew(t, "-t", "ext4", "-O", "^metadata_csum,^extent,^64bit")
	file := filepath.Join(m.dir, "file")
	check(t, os.WriteFile(file, []byte("contents"), 0o644))
	if out, err := exec.Command("chattr", "-v", "4711", file).CombinedOutput(); err != nil {
		t.Fatalf("chattr -v: %v\n%s", err, out)
	}
	if out, err := exec.Command("lsattr", "-v", file).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "4711 ") {
		t.Errorf("lsattr -v: %v, %s", err, out)
	}
	f := openPath(t, file)
	for cmd, want := range map[uintptr]uint32{iocExt4SetVersion: 1, iocSetVersion32: 2, iocSetVersion: 3} {
		check(t, ioctlBytes(f, cmd, native(want, 0)))
		got := make([]byte, 8)
		if err := ioctlBytes(f, iocGetVersion, got); err != nil || binary.NativeEndian.Uint32(got) != want {
			t.Errorf("after ioctl %#x: %v, % x, want %d", cmd, err, got, want)
		}
	}
	if err := ioctlBytes(f, iocMigrate, make([]byte, 1)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("migrate without the feature: %v, want EINVAL", err)
	}
	asUser(func() {
		if err := ioctlBytes(f, iocExt4SetVersion, native(9, 0)); !errors.Is(err, unix.EPERM) {
			t.Errorf("another than the owner sets the generation: %v, want EPERM", err)
		}
	})
	if b, err := os.ReadFile(file); err != nil || string(b) != "contents" {
		t.Errorf("the file reads %q, %v", b, err)
	}
}

package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// panicky is a device one call of which panics: what a fault of ours would do at that place.
type panicky struct {
	blockdev.Device
	left atomic.Int64 // calls before it
}

func (p *panicky) count() {
	if p.left.Add(-1) == 0 {
		panic("out of luck")
	}
}

func (p *panicky) ReadAt(b []byte, off int64) (int, error) {
	p.count()
	return p.Device.ReadAt(b, off)
}

func (p *panicky) WriteAt(b []byte, off int64) (int, error) {
	p.count()
	return p.Device.WriteAt(b, off)
}

func (p *panicky) Flush() error {
	p.count()
	return p.Device.Flush()
}

// Where a handler panics, at one of the first calls of the device, its caller gets an error, the file system is read-only then, every other call is
// answered, too, and what is in the image is sound.
func TestPanics(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs", "e2fsck")
	image := newFSImage(t, "-t", "ext4", "-b", "1024")
	for n := int64(1); n < 24; n++ {
		if !panicAt(t, image, n) {
			t.Errorf("there was no call %d of the device", n)
		}
		if t.Failed() {
			t.Fatalf("at call %d of the device", n)
		}
	}
}

// panicAt lets the nth call of the device panic, and reports whether there was one.
func panicAt(t *testing.T, pristine string, n int64) bool {
	image := filepath.Join(t.TempDir(), "image")
	check(t, fixtures.CopySparse(image, pristine))
	f, err := blockdev.Open(image, blockdev.Options{Write: true})
	check(t, err)
	defer f.Close()
	dev := &panicky{Device: f}
	fs, err := ext4.Open(dev, ext4.Options{Write: true, CommitInterval: time.Hour})
	check(t, err)
	dir, err := os.MkdirTemp("", "e4go-panic-")
	check(t, err)
	defer os.Remove(dir)
	said := &syncBuffer{}
	s, err := Mount(fs, dir, Options{Extra: []string{"rw"}, FSName: image, Log: log.New(said, "", 0)})
	check(t, err)
	go s.Serve()
	check(t, s.WaitMount())
	done := make(chan struct{})
	go func() {
		defer close(done)
		dev.left.Store(n)
		errs := someWork(dir)
		met := dev.left.Load() <= 0
		errs2 := someWork(dir)
		if !met {
			return
		}
		if len(errs) == 0 {
			t.Errorf("nobody was told of the panic")
		}
		for _, err := range errs2 {
			if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("after the panic: %v, want EROFS", err)
			}
		}
		if len(errs2) == 0 {
			t.Error("it is still written to after the panic")
		}
		if !strings.Contains(said.String(), "a fault of e4go itself") || strings.Count(said.String(), "goroutine ") > 2 {
			t.Errorf("the log says %q, want the fault and its stack, once", said.String())
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		os.WriteFile("/proc/self/fd/2", []byte("aborting a mount that hangs\n"), 0)
		s.Detach()
		t.Fatalf("a call hangs after a panic at call %d of the device; the log says %q", n, said.String())
	}
	check(t, s.Unmount())
	s.Wait()
	met := dev.left.Load() <= 0
	dev.left.Store(0)
	if err := fs.Close(); met == (err == nil) {
		t.Errorf("close: %v, after a panic: %t", err, met)
	}
	s.Close()
	// What the journal has is whole: e2fsck replays it, and has nothing else to mend but what was deleted while
	// the kernel knew it, since it does not trust the orphan record where there was an error.
	out, err := exec.Command("e2fsck", "-fy", image).CombinedOutput()
	if strings.Contains(string(out), "yes") && !strings.Contains(string(out), "Deleted inode") {
		t.Errorf("e2fsck after a panic at call %d: %v\n%s", n, err, out)
	}
	return met
}

// someWork does one of each thing and returns what went wrong.
func someWork(dir string) []error {
	var errs []error
	do := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	do(os.Mkdir(at("d"), 0o755))
	do(os.Remove(at("d")))
	for i := range 3 {
		f, err := os.Create(at(fmt.Sprint("f", i)))
		do(err)
		if err != nil {
			continue
		}
		_, err = f.Write(make([]byte, 100_000))
		do(err)
		do(f.Sync())
		do(f.Truncate(1000))
		do(f.Close())
	}
	do(os.Rename(at("f0"), at("g")))
	do(os.Remove(at("g")))
	do(unix.Setxattr(at("f1"), "user.a", make([]byte, 500), 0))
	do(os.Symlink(strings.Repeat("x", 500), at("s")))
	do(os.Remove(at("s")))
	_, err := os.ReadDir(dir)
	do(err)
	do(os.Remove(at("f1")))
	do(os.Remove(at("f2")))
	if f, err := os.Open(dir); err == nil {
		do(f.Sync())
		f.Close()
	}
	return errs
}

// Damage that a look-up meets is told once, and makes the file system read-only or not
// as errors= says.
func TestDamageStopsWriting(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs", "debugfs")
	for policy, want := range map[ext4.ErrorPolicy]error{ext4.ErrorsContinue: nil, ext4.ErrorsRemountRO: unix.EROFS, ext4.ErrorsPanic: unix.EIO} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			image := damagedImage(t)
			m := mountFile(t, image, 0, Options{Extra: []string{"rw"}}, ext4.Options{Write: true, Errors: policy})
			for range 3 {
				if err := unix.Stat(filepath.Join(m.dir, "bad"), &unix.Stat_t{}); !errors.Is(err, unix.EUCLEAN) && !(policy == ext4.ErrorsPanic && errors.Is(err, unix.EIO)) {
					t.Errorf("stat of a damaged inode: %v, want EUCLEAN", err)
				}
			}
			if err := os.Mkdir(filepath.Join(m.dir, "new"), 0o755); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("mkdir: %v, want %v", err, want)
			}
			if n := strings.Count(m.log.String(), "i_checksum"); n != 1 {
				t.Errorf("the log has %d lines about it, want one: %q", n, m.log)
			}
			check(t, m.Unmount())
			m.Wait()
			if err := m.fs.Close(); policy == ext4.ErrorsContinue && err != nil || policy == ext4.ErrorsRemountRO && !errors.Is(err, disk.ErrCorrupt) {
				t.Errorf("close: %v", err)
			}
			fs, _ := openFS(t, image, 0, ext4.Options{})
			if fs.Super().State&disk.StateError == 0 || fs.Super().LastError.Ino != 12 {
				t.Errorf("the superblock has state %#x and an error in inode %d", fs.Super().State, fs.Super().LastError.Ino)
			}
		})
	}
}

// damagedImage is a file system with a file "bad" whose inode has a wrong checksum.
func damagedImage(t *testing.T) string {
	t.Helper()
	image := makeFS(t, "-t", "ext4")
	fs, _ := openFS(t, image, 0, ext4.Options{Write: true})
	in, err := fs.Create(t.Context(), ext4.Root, 2, "bad", unix.S_IFREG|0o644)
	check(t, err)
	blk, off := in.Location()
	check(t, fs.Close())
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	check(t, err)
	at := int64(blk)*int64(fs.Super().BlockSize()) + int64(off)
	mtime := make([]byte, 1)
	_, err = f.ReadAt(mtime, at+0x10)
	check(t, err)
	_, err = f.WriteAt([]byte{mtime[0] ^ 1}, at+0x10)
	check(t, errors.Join(err, f.Close()))
	return image
}

package blockdev_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A claim can be given up and taken back while the device is in use, and not
// when somebody else has it meanwhile. The descriptor stays the same.
func TestClaim(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := blockdev.AttachLoop(path, 4096, false)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for _, o := range []blockdev.Options{{Write: true, Lock: blockdev.LockExclusive}, {Lock: blockdev.LockShared}, {Write: true, Lock: blockdev.LockExclusive, Direct: true}} {
		f, err := blockdev.Open(disk.Name(), o)
		if err != nil {
			t.Fatal(err)
		}
		fd := f.Fd()
		claim := func() (int, error) { return unix.Open(disk.Name(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0) }
		if _, err := claim(); err != unix.EBUSY {
			t.Errorf("%+v: claimed: another claim: %v, want EBUSY", o, err)
		}
		if err := f.Unclaim(); err != nil {
			t.Fatal(err)
		}
		other, err := claim()
		if err != nil {
			t.Fatalf("%+v: unclaimed: another claim: %v", o, err)
		}
		var inUse *blockdev.InUseError
		if err := f.Claim(); !errors.As(err, &inUse) || !errors.Is(err, unix.EBUSY) {
			t.Errorf("%+v: claimed by another: %v, want an InUseError", o, err)
		}
		p := make([]byte, 512)
		if _, err := f.ReadAt(p, 4096); err != nil || p[0] != 7 {
			t.Errorf("%+v: read without a claim: %v", o, err)
		}
		unix.Close(other)
		if err := f.Claim(); err != nil {
			t.Errorf("%+v: claim it back: %v", o, err)
		}
		if _, err := claim(); err != unix.EBUSY {
			t.Errorf("%+v: claimed again: another claim: %v, want EBUSY", o, err)
		}
		if _, err := f.WriteAt(p, 0); (err == nil) != o.Write && !o.Direct {
			t.Errorf("%+v: write: %v", o, err)
		}
		if f.Fd() != fd {
			t.Errorf("%+v: the descriptor was %d and is %d", o, fd, f.Fd())
		}
		if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%+v: a child would have the descriptor: %#x, %v", o, flags, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	image, err := blockdev.Open(path, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := errors.Join(image.Unclaim(), image.Claim()); err != nil || image.IsBlock() {
		t.Errorf("a regular file: %v", err)
	}
}

// A loop device has the part of the file that it should, goes with its last
// user, and is writable or not.
func TestAttachLoop(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	path := filepath.Join(t.TempDir(), "a disk")
	if err := os.WriteFile(path, append(make([]byte, 8192), bytes.Repeat([]byte{7}, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := blockdev.Open(path, blockdev.Options{Lock: blockdev.LockExclusive})
	if err != nil {
		t.Fatal(err)
	}
	loop, err := f.AttachLoop(8192, 64<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // it has no part in the lock
	dev, err := blockdev.Open(loop.Name(), blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	if _, err := dev.ReadAt(p, 0); err != nil || p[0] != 7 || dev.Size() != 64<<10 {
		t.Errorf("%d bytes that begin with %d, %v; want %d, with 7", dev.Size(), p[0], err, 64<<10)
	}
	var st unix.Stat_t
	if err := unix.Stat(loop.Name(), &st); err != nil {
		t.Fatal(err)
	}
	if file, offset, ok := blockdev.LoopFile(fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))); !ok || file != path || offset != 8192 {
		t.Errorf("it is made of %q from %d on (%v), want %q from 8192 on", file, offset, ok, path)
	}
	if w, err := os.OpenFile(loop.Name(), os.O_RDWR, 0); err == nil {
		if _, err := w.WriteAt(p, 0); err == nil {
			t.Error("it can be written to")
		}
		w.Close()
	}
	dev.Close()
	loop.Close()
	if holders, err := blockdev.Holders(path); err != nil || len(holders) != 0 {
		t.Errorf("behind its close: %v, %v", holders, err)
	}
	if _, _, ok := blockdev.LoopFile("0:0"); ok {
		t.Error("0:0 is a loop device")
	}
	if _, err := blockdev.AttachLoop(path+"-not", 0, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

package ext4

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A faultDevice fails one call of those that it is asked to count, in one of
// the ways in which devices fail.
type faultDevice struct {
	blockdev.Device
	how   string
	armed atomic.Bool
	left  atomic.Int64 // calls until the one that fails
	hit   atomic.Bool
}

func (d *faultDevice) now(kind string) bool {
	counts := d.how == "EIO" || d.how == kind || kind == "write" && (d.how == "ENOSPC" || d.how == "short")
	if !d.armed.Load() || !counts || d.left.Add(-1) != -1 {
		return false
	}
	d.hit.Store(true)
	return true
}

func (d *faultDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.now("read") {
		return 0, unix.EIO
	}
	return d.Device.ReadAt(p, off)
}

func (d *faultDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.now("write") {
		switch d.how {
		case "ENOSPC":
			return 0, unix.ENOSPC
		case "short":
			n, _ := d.Device.WriteAt(p[:len(p)/2], off)
			return n, unix.EIO
		}
		return 0, unix.EIO
	}
	return d.Device.WriteAt(p, off)
}

func (d *faultDevice) Flush() error {
	if d.now("flush") {
		return unix.EIO
	}
	return d.Device.Flush()
}

// faultOps are the operations whose every call of the device fails once. Each
// works on /f5 or makes a name, and ends durable.
var faultOps = []struct {
	name string
	do   func(fs *FS, ino, root disk.Ino) error
}{
	{"overwrite", func(fs *FS, ino, _ disk.Ino) error {
		_, err := fs.WriteAt(context.Background(), Root, ino, pattern(6, 1, 5000, 9000), 5000)
		return err
	}},
	{"extend", func(fs *FS, ino, _ disk.Ino) error {
		_, err := fs.WriteAt(context.Background(), Root, ino, pattern(6, 1, 310_000, 90_000), 310_000)
		return err
	}},
	{"truncate", func(fs *FS, ino, _ disk.Ino) error { return fs.Truncate(context.Background(), Root, ino, 1234) }},
	{"punch", func(fs *FS, ino, _ disk.Ino) error {
		return fs.Fallocate(context.Background(), Root, ino, FallocPunchHole|FallocKeepSize, 3000, 100_000)
	}},
	{"create", func(fs *FS, _, root disk.Ino) error {
		_, err := fs.Create(context.Background(), Root, root, "new", disk.ModeReg|0o600)
		return err
	}},
	{"mkdir", func(fs *FS, _, root disk.Ino) error {
		_, err := fs.Mkdir(context.Background(), Root, root, "new", disk.ModeDir|0o700)
		return err
	}},
	{"unlink", func(fs *FS, _, root disk.Ino) error {
		return fs.Unlink(context.Background(), Root, root, "f5")
	}},
	{"rename", func(fs *FS, _, root disk.Ino) error {
		return fs.Rename(context.Background(), Root, root, "f4", root, "f5", 0)
	}},
	{"sync", func(fs *FS, ino, _ disk.Ino) error { return nil }},
}

// Every call that an operation, and making it durable, makes of the device
// fails once: the error comes out, what readers see is the tree from before or from after
// the operation, and after a crash the image is sound and holds one of the two. When the
// journal could not be written it is aborted, and says so.
func TestFaults(t *testing.T) {
	images := []crashImage{crashImages()[0], noJournal}
	for _, ci := range images {
		base := ci.make(t)
		for _, op := range faultOps {
			before, after := faultTrees(t, base, op.do)
			for _, how := range []string{"EIO", "ENOSPC", "short"} {
				t.Run(fmt.Sprintf("%s/%s/%s", ci.name, op.name, how), func(t *testing.T) {
					for n := 0; ; n++ {
						if n > 500 {
							t.Fatal("there is no end of calls")
						}
						if !faultOnce(t, ci, base, op.do, before, after, how, n) {
							return
						}
					}
				})
			}
		}
	}
}

// faultOnce lets call n fail. It reports whether there was such a call.
func faultOnce(t *testing.T, ci crashImage, base *blockdev.Mem, do func(*FS, disk.Ino, disk.Ino) error, before, after map[string]foundNode, how string, n int) bool {
	t.Helper()
	mem := base.Clone()
	dev := &faultDevice{Device: mem, how: how}
	fs, err := crashOpen(dev)
	if err != nil {
		t.Fatal(err)
	}
	in, err := fs.Resolve("/f5", false)
	if err != nil {
		t.Fatal(err)
	}
	dev.left.Store(int64(n))
	dev.armed.Store(true)
	err = do(fs, in.Ino(), disk.RootIno)
	opErr := err
	if err == nil {
		err = fs.Sync()
	}
	dev.armed.Store(false)
	if !dev.hit.Load() {
		if err != nil {
			t.Fatalf("no call failed, and yet: %v", err)
		}
		fs.abandon()
		return false
	}
	if err == nil {
		t.Fatalf("call %d failed, and nobody was told", n)
	}
	want := unix.EIO
	if how == "ENOSPC" {
		want = unix.ENOSPC
	}
	if !errors.Is(err, want) && !errors.Is(err, unix.EIO) {
		t.Fatalf("call %d failed with %v, the operation with %v", n, want, err)
	}
	found, err := readTree(fs)
	if err != nil {
		t.Fatalf("call %d: reading afterwards: %v", n, err)
	}
	if err := oneOf(found, before, after); err != nil {
		t.Fatalf("call %d (%v): what is seen afterwards: %v", n, opErr, err)
	}
	fs.rw.mu.Lock()
	failed := fs.rw.failed
	fs.rw.mu.Unlock()
	if failed != nil {
		if err := fs.Truncate(context.Background(), Root, in.Ino(), 7); !errors.Is(err, unix.EROFS) {
			t.Fatalf("call %d: a change after the journal was aborted: got %v, want EROFS", n, err)
		}
		if err := fs.Close(); err == nil {
			t.Fatalf("call %d: closing after the journal was aborted said nothing", n)
		}
	} else if opErr == nil {
		t.Fatalf("call %d: sync failed, and the journal is not aborted", n)
	} else if err := fs.Close(); err != nil {
		t.Fatalf("call %d: close: %v", n, err)
	}
	checkAfterFault(t, ci, mem, failed != nil, before, after, n)
	return true
}

// checkAfterFault judges the image that a failed call has left.
func checkAfterFault(t *testing.T, ci crashImage, mem *blockdev.Mem, aborted bool, before, after map[string]foundNode, n int) {
	t.Helper()
	if !aborted {
		if err := judge(mem, false); err != nil {
			t.Fatalf("call %d: fsck-lite: %v", n, err)
		}
	} else if ci.name == noJournal.name {
		if _, err := crashOpen(mem); err == nil {
			t.Fatalf("call %d: opened for writing although it was not unmounted cleanly", n)
		}
		return
	} else {
		if _, err := crashOpen(mem.Clone()); !errors.As(err, new(*UnsupportedError)) {
			t.Fatalf("call %d: opened for writing after an abort: %v", n, err)
		}
	}
	fs, err := Open(mem, Options{})
	if err != nil {
		t.Fatalf("call %d: open: %v", n, err)
	}
	defer fs.Close()
	if s := fs.Super(); aborted && s.State&disk.StateError == 0 && fs.Journal().Super.Errno == 0 {
		t.Fatalf("call %d: neither the journal nor the superblock know of the error", n)
	}
	found, err := readTree(fs)
	if err == nil {
		err = oneOf(found, before, after)
	}
	if err != nil {
		t.Fatalf("call %d: after a crash: %v", n, err)
	}
}

// faultTrees are the trees before and after an operation that goes well.
func faultTrees(t *testing.T, base *blockdev.Mem, do func(*FS, disk.Ino, disk.Ino) error) (before, after map[string]foundNode) {
	t.Helper()
	fs, err := crashOpen(base.Clone())
	if err != nil {
		t.Fatal(err)
	}
	defer fs.abandon()
	if before, err = readTree(fs); err != nil {
		t.Fatal(err)
	}
	if err := do(fs, before["/f5"].ino, disk.RootIno); err != nil {
		t.Fatal(err)
	}
	if after, err = readTree(fs); err != nil {
		t.Fatal(err)
	}
	return before, after
}

// oneOf compares a tree with the two that it may be. Of contents that were
// being overwritten, or cut, each byte may be old or new.
func oneOf(found, before, after map[string]foundNode) error {
	err := sameTree(found, before, after)
	if err == nil {
		return nil
	}
	if err2 := sameTree(found, after, before); err2 != nil {
		return fmt.Errorf("neither before (%w) nor after (%w)", err, err2)
	}
	return nil
}

func sameTree(found, want, other map[string]foundNode) error {
	for p, w := range want {
		f, ok := found[p]
		if !ok || f.mode != w.mode || f.links != w.links || len(f.data) != len(w.data) {
			return fmt.Errorf("%s: mode %#o, %d links, %d bytes; want %#o, %d, %d", p, f.mode, f.links, len(f.data), w.mode, w.links, len(w.data))
		}
		o := other[p].data
		for i, c := range f.data {
			if c != w.data[i] && (i >= len(o) || c != o[i]) && c != 0 {
				return fmt.Errorf("%s: byte %d is %#02x, want %#02x", p, i, c, w.data[i])
			}
		}
	}
	for p := range found {
		if _, ok := want[p]; !ok {
			return fmt.Errorf("%s should not be there", p)
		}
	}
	return nil
}

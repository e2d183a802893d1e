package ext4

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// heldDevice counts the reads that are made while updates cannot run.
type heldDevice struct {
	blockdev.Device
	rw    atomic.Pointer[writer]
	reads atomic.Int32
	held  atomic.Int32
}

func (d *heldDevice) ReadAt(p []byte, off int64) (int, error) {
	if rw := d.rw.Load(); rw != nil {
		d.reads.Add(1)
		if rw.mu.TryLock() {
			rw.mu.Unlock()
		} else {
			d.held.Add(1)
		}
	}
	return d.Device.ReadAt(p, off)
}

// However cold the caches are, no update reads the device while others wait for it.
func TestUpdatesReadFirst(t *testing.T) {
	ctx := context.Background()
	for _, ci := range crashImages() {
		t.Run(ci.name, func(t *testing.T) {
			base := ci.make(t)
			prepareCold(t, base)
			unit := int64(1 << 16)
			for what, do := range map[string]func(fs *FS, ino disk.Ino) error{
				"write": func(fs *FS, ino disk.Ino) error {
					_, err := fs.WriteAt(ctx, Root, ino, make([]byte, 90_000), 250_000)
					return err
				},
				"truncate": func(fs *FS, ino disk.Ino) error { return fs.Truncate(ctx, Root, ino, 3000) },
				"zero":     func(fs *FS, ino disk.Ino) error { return fs.Fallocate(ctx, Root, ino, FallocZeroRange, unit, unit) },
				"insert":   func(fs *FS, ino disk.Ino) error { return fs.Fallocate(ctx, Root, ino, FallocInsertRange, unit, unit) },
				"create": func(fs *FS, _ disk.Ino) error {
					_, err := fs.Create(ctx, Root, disk.RootIno, "new", disk.ModeReg|0o600)
					return err
				},
				"mkdir": func(fs *FS, _ disk.Ino) error {
					_, err := fs.Mkdir(ctx, Root, disk.RootIno, "newdir", disk.ModeDir|0o700)
					return err
				},
				"tmpfile": func(fs *FS, _ disk.Ino) error {
					_, err := fs.Tmpfile(ctx, Root, disk.RootIno, disk.ModeReg|0o600)
					return err
				},
				"chmod": func(fs *FS, ino disk.Ino) error {
					mode := disk.Mode(0o600)
					return fs.SetAttr(ctx, Root, ino, SetAttr{Mode: &mode})
				},
				"xattr":  func(fs *FS, ino disk.Ino) error { return fs.Setxattr(ctx, Root, ino, "user.x", make([]byte, 500), 0) },
				"link":   func(fs *FS, ino disk.Ino) error { return fs.Link(ctx, Root, ino, disk.RootIno, "again") },
				"rename": func(fs *FS, _ disk.Ino) error { return fs.Rename(ctx, Root, disk.RootIno, "f3", disk.RootIno, "f4", 0) },
				"unlink": func(fs *FS, _ disk.Ino) error { return fs.Unlink(ctx, Root, disk.RootIno, "f5") },
				"trim":   func(fs *FS, _ disk.Ino) error { _, err := fs.Trim(ctx, 0, uint64(ci.size), 0); return err },
				"sync":   func(fs *FS, _ disk.Ino) error { return fs.Sync() },
			} {
				mem := base.Clone()
				dev := &heldDevice{Device: mem}
				fs, err := crashOpen(dev)
				if err != nil {
					t.Fatal(err)
				}
				in, err := fs.Resolve("/f5", false)
				if err != nil {
					t.Fatal(err)
				}
				fs.cache.c.InvalidateAll()
				dev.rw.Store(fs.rw)
				if err := do(fs, in.Ino()); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
					t.Errorf("%s: %v", what, err)
				}
				if err := fs.Sync(); err != nil {
					t.Error(err)
				}
				if n := dev.held.Load(); n > 0 || dev.reads.Load() == 0 && what != "sync" {
					t.Errorf("%s: %d of %d reads with the lock held", what, n, dev.reads.Load())
				}
				dev.rw.Store(nil)
				if err := fs.Close(); err != nil {
					t.Fatal(err)
				}
				if err := judge(mem, false); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// prepareCold gives an image what takes many blocks to change.
func prepareCold(t *testing.T, mem *blockdev.Mem) {
	t.Helper()
	ctx := context.Background()
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	f5, err := fs.Resolve("/f5", false)
	if err != nil {
		t.Fatal(err)
	}
	bs := int64(fs.sb.BlockSize())
	for off := bs; off < 300_000; off += 2 * bs { // many extents
		if err := fs.Fallocate(ctx, Root, f5.Ino(), FallocPunchHole|FallocKeepSize, off, bs); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if _, err := fs.Create(ctx, Root, disk.RootIno, fmt.Sprintf("name-%0100d", i), disk.ModeReg|0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Setxattr(ctx, Root, f5.Ino(), "user.long", make([]byte, 400), 0); err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
}

// Updates that lack blocks, while others commit and forget them all the time,
// come to an end, and do what they should once.
func TestUpdatesReadFirstTogether(t *testing.T) {
	mem := smallJournal.make(t)
	fs, err := Open(mem, Options{Write: true, CacheSize: 1, CommitInterval: 1})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { keepWriting(t, fs, i, 40) })
	}
	wg.Wait()
	for i := range 4 {
		checkWritten(t, fs, i)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

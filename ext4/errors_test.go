package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// badBlock is a device that cannot read one block of 1 KiB.
type badBlock struct {
	blockdev.Device
	n atomic.Int64
}

func (d *badBlock) ReadAt(p []byte, off int64) (int, error) {
	if n := d.n.Load(); n > 0 && off <= n<<10 && n<<10 < off+int64(len(p)) {
		return 0, unix.EIO
	}
	return d.Device.ReadAt(p, off)
}

// list reads a directory to its end.
func list(fs *FS, path string) error {
	in, err := fs.Resolve(path, false)
	if err != nil {
		return err
	}
	d, err := fs.OpenDir(in)
	for err == nil {
		_, err = d.Next()
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// What a reader finds corrupt, and what an update cannot read, is put on record
// in a file system that is open for writing, and errors= says what follows; in one that
// is open for reading nothing is written.
func TestErrorsOnRecord(t *testing.T) {
	base := crashImages()[0].make(t)
	ctx := context.Background()
	fs, err := crashOpen(base)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Mkdir(ctx, Root, disk.RootIno, "d", disk.ModeDir|0o755)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dir.Map(0)
	if err != nil {
		t.Fatal(err)
	}
	f0, err := fs.Resolve("/f0", false)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := fs.groupDesc(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	touch := func(fs *FS) error {
		return fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(f0.Ino())
			if err == nil {
				in.touch(true)
			}
			return err
		})
	}
	for _, c := range []struct {
		what  string
		block disk.PBlock
		code  uint8
		do    func(fs *FS) error
	}{
		{"corrupt directory, a reader", m.Physical, codeCorrupted, func(fs *FS) error { return list(fs, "/d") }},
		{"unreadable directory, an update", m.Physical, codeEIO, func(fs *FS) error {
			_, err := fs.Create(ctx, Root, dir.Ino(), "x", disk.ModeReg|0o600)
			return err
		}},
		{"unreadable bitmap, an update", desc.InodeBitmap, codeEIO, func(fs *FS) error {
			_, err := fs.Create(ctx, Root, disk.RootIno, "x", disk.ModeReg|0o600)
			return err
		}},
	} {
		for _, policy := range []ErrorPolicy{ErrorsContinue, ErrorsRemountRO, ErrorsPanic} {
			t.Run(fmt.Sprint(c.what, " ", policy), func(t *testing.T) {
				mem := base.Clone()
				if c.code == codeCorrupted {
					flip(mem, int64(c.block)<<10+500)
				}
				dev := &badBlock{Device: mem}
				fs, err := Open(dev, Options{Write: true, Errors: policy, Now: crashClock})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(touch(fs), fs.Sync()); err != nil {
					t.Fatal(err)
				}
				if c.code == codeEIO {
					dev.n.Store(int64(c.block))
				}
				err = c.do(fs)
				dev.n.Store(0)
				want := error(unix.EIO)
				if c.code == codeCorrupted {
					want = disk.ErrCorrupt
				}
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				wantErr := map[ErrorPolicy]error{ErrorsContinue: nil, ErrorsRemountRO: unix.EROFS, ErrorsPanic: unix.EIO}[policy]
				if err := touch(fs); !errors.Is(err, wantErr) {
					t.Errorf("an update afterwards: got %v, want %v", err, wantErr)
				}
				if _, err := fs.Resolve("/f1", false); (policy == ErrorsPanic) != errors.Is(err, unix.EIO) {
					t.Errorf("a look afterwards: %v", err)
				}
				if err := fs.Close(); (err == nil) != (policy == ErrorsContinue) {
					t.Errorf("close: %v", err)
				}
				sb, _, err := ReadSuper(mem, Options{})
				if err != nil {
					t.Fatal(err)
				}
				e := sb.FirstError
				if sb.State&disk.StateError == 0 || sb.ErrorCount == 0 || e.Code != c.code || e.Block != c.block || e.Time != crashClock().Unix() || e.Func == "" {
					t.Errorf("state %#x, %d errors, the first %+v", sb.State, sb.ErrorCount, e)
				}
			})
		}
	}
	t.Run("read-only", func(t *testing.T) {
		mem := base.Clone()
		flip(mem, int64(m.Physical)<<10+500)
		before := mem.Clone()
		fs, err := Open(mem, Options{Errors: ErrorsRemountRO})
		if err != nil {
			t.Fatal(err)
		}
		if err := list(fs, "/d"); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("got %v, want what is corrupt", err)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		if !sameBytes(t, mem, before) {
			t.Error("the device has changed")
		}
	})
	t.Run("frozen", func(t *testing.T) {
		mem := base.Clone()
		flip(mem, int64(m.Physical)<<10+500)
		fs, err := Open(mem, Options{Write: true, Errors: ErrorsRemountRO})
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		before := mem.Clone()
		if err := list(fs, "/d"); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("got %v, want what is corrupt", err)
		}
		if !sameBytes(t, mem, before) {
			t.Error("the device has changed while it was frozen")
		}
		if err := errors.Join(fs.Thaw(), touch(fs)); err != nil {
			t.Error(err)
		}
		if err := list(fs, "/d"); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("got %v, want what is corrupt", err)
		}
		if err := touch(fs); !errors.Is(err, unix.EROFS) {
			t.Errorf("an update afterwards: got %v, want EROFS", err)
		}
		fs.Close()
	})
}

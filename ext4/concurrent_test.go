package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/mkfs"

	"golang.org/x/sys/unix"
)

// smallJournal is a file system with the smallest journal that there is: many
// updates have to wait for room in it.
var smallJournal = crashImage{"small journal", 32 << 20, mkfs.Options{BlockSize: 1024, JournalMiB: 1}, true}

// Many goroutines change and read at once, while others make things durable;
// nobody waits for ever, what each did is there, and the file system is sound.
func TestConcurrent(t *testing.T) {
	for _, ci := range []crashImage{smallJournal, crashImages()[5]} {
		t.Run(ci.name, func(t *testing.T) {
			mem := ci.make(t)
			fs, err := Open(mem, Options{Write: true, CacheSize: 1 << 20, CommitInterval: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			stop := make(chan struct{})
			for range 2 {
				wg.Go(func() { keepReading(t, fs, stop) })
			}
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(3 * time.Millisecond):
					}
					if err := fs.Sync(); err != nil {
						t.Error(err)
						return
					}
				}
			})
			var writers sync.WaitGroup
			for i := range 6 {
				writers.Go(func() { keepWriting(t, fs, i, 40) })
			}
			writers.Wait()
			close(stop)
			wg.Wait()
			for i := range 6 {
				checkWritten(t, fs, i)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			if err := judge(mem, false); err != nil {
				t.Fatal(err)
			}
			// Readers have not taken what was changing for corrupt.
			if sb, _, err := ReadSuper(mem, Options{}); err != nil || sb.ErrorCount != 0 {
				t.Errorf("%d errors on record, the last %+v, %v", sb.ErrorCount, sb.LastError, err)
			}
		})
	}
}

// keepWriting makes files in a directory of its own, and removes every other.
func keepWriting(t *testing.T, fs *FS, id, rounds int) {
	ctx := context.Background()
	dir, err := fs.Mkdir(ctx, Root, disk.RootIno, fmt.Sprintf("w%d", id), disk.ModeDir|0o755)
	if err != nil {
		t.Error(err)
		return
	}
	for i := range rounds {
		name := fmt.Sprintf("file-%d", i)
		in, err := fs.Create(ctx, Root, dir.Ino(), name, disk.ModeReg|0o644)
		if err == nil {
			_, err = fs.WriteAt(ctx, Root, in.Ino(), pattern(id, i, 0, 3000+i*100), 0)
		}
		if err == nil && i%5 == 0 {
			err = fs.Fsync(in.Ino(), false)
		}
		if err == nil && i%7 == 0 {
			err = fs.Truncate(ctx, Root, in.Ino(), 1000)
		}
		if err == nil && i%2 == 1 {
			err = fs.Unlink(ctx, Root, dir.Ino(), name)
		}
		if err != nil {
			t.Errorf("writer %d, file %d: %v", id, i, err)
			return
		}
	}
}

func checkWritten(t *testing.T, fs *FS, id int) {
	for i := range 40 {
		in, err := fs.Resolve(fmt.Sprintf("/w%d/file-%d", id, i), false)
		if i%2 == 1 {
			if !errors.Is(err, unix.ENOENT) {
				t.Errorf("writer %d, file %d: %v, want ENOENT", id, i, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("writer %d, file %d: %v", id, i, err)
			continue
		}
		want := pattern(id, i, 0, 3000+i*100)
		if i%7 == 0 {
			want = want[:1000]
		}
		got := make([]byte, in.Size())
		if _, err := in.ReadAt(got, 0); err != nil && err != io.EOF || string(got) != string(want) {
			t.Errorf("writer %d, file %d: %v, %d bytes, want %d", id, i, err, len(got), len(want))
		}
	}
}

// keepReading walks the tree. Files may go while it looks, and nothing else may
// be wrong.
func keepReading(t *testing.T, fs *FS, stop chan struct{}) {
	rng := rand.New(rand.NewPCG(1, 1))
	for {
		select {
		case <-stop:
			return
		default:
		}
		root, err := fs.Inode(disk.RootIno)
		if err != nil {
			t.Error(err)
			return
		}
		dir, err := fs.Lookup(root, fmt.Sprintf("w%d", rng.IntN(6)))
		if err != nil {
			continue
		}
		d, err := fs.OpenDir(dir)
		for err == nil {
			var e DirEntry
			if e, err = d.Next(); err != nil || e.Name == "." || e.Name == ".." {
				continue
			}
			in, ierr := fs.Lookup(dir, e.Name)
			if ierr == nil {
				var b [5000]byte
				_, ierr = in.ReadAt(b[:], 0)
			}
			if ierr != nil && ierr != io.EOF && !errors.Is(ierr, unix.ENOENT) && !errors.Is(ierr, unix.ESTALE) {
				t.Errorf("%s: %v", e.Name, ierr)
				return
			}
		}
		if err != io.EOF {
			t.Error(err)
			return
		}
		if _, err := fs.Statfs(); err != nil {
			t.Error(err)
		}
		if _, err := fs.BlockBitmap(disk.Group(rng.IntN(2))); err != nil {
			t.Error(err)
		}
	}
}

// Closing while others write: each of their calls goes well or fails as on a
// file system that is read-only, what went well is there, and all is clean.
func TestCloseWhileWriting(t *testing.T) {
	base := smallJournal.make(t)
	for round := range 10 {
		mem := base.Clone()
		fs, err := Open(mem, Options{Write: true, CommitInterval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var made [4]atomic.Int32
		for i := range made {
			wg.Go(func() {
				for n := range 10_000 {
					_, err := fs.Create(context.Background(), Root, disk.RootIno, fmt.Sprintf("c%d-%d", i, n), disk.ModeReg|0o644)
					if errors.Is(err, unix.EROFS) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					made[i].Store(int32(n + 1))
				}
			})
		}
		time.Sleep(time.Duration(round) * 2 * time.Millisecond)
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := judge(mem, false); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		ro, err := Open(mem, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range made {
			for n := range made[i].Load() {
				if _, err := ro.Resolve(fmt.Sprintf("/c%d-%d", i, n), false); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			}
		}
		ro.Close()
	}
}

// countedDevice counts what is asked of a device.
type countedDevice struct {
	blockdev.Device
	writes, bytes, flushes atomic.Int64
}

func (d *countedDevice) WriteAt(p []byte, off int64) (int, error) {
	d.writes.Add(1)
	d.bytes.Add(int64(len(p)))
	return d.Device.WriteAt(p, off)
}

func (d *countedDevice) Flush() error {
	d.flushes.Add(1)
	return d.Device.Flush()
}

// An fsync of one file among many that have changed is one commit, of what the running
// transaction has; the next, of one small file, writes next to nothing, however many have
// changed before; and with nothing to commit it is a flush. E4GO_LONG makes
// them a million.
func TestFsyncIsOneCommit(t *testing.T) {
	files, inodes := 2000, uint64(4000)
	if os.Getenv("E4GO_LONG") != "" {
		files, inodes = 1_000_000, 1_100_000
	}
	ci := crashImage{name: "many", size: 256<<20 + int64(inodes)*1024, opts: mkfs.Options{BlockSize: 4096, Inodes: inodes, JournalMiB: 64}}
	dev := &countedDevice{Device: ci.make(t)}
	fs, err := crashOpen(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.abandon()
	ctx := context.Background()
	var last, dir *Inode
	for i := range files {
		if i%1000 == 0 {
			if dir, err = fs.Mkdir(ctx, Root, disk.RootIno, fmt.Sprintf("d%d", i), disk.ModeDir|0o755); err != nil {
				t.Fatal(err)
			}
		}
		if last, err = fs.Create(ctx, Root, dir.Ino(), fmt.Sprint(i), disk.ModeReg|0o644); err != nil {
			t.Fatal(err)
		}
	}
	write := func() error {
		_, err := fs.WriteAt(ctx, Root, last.Ino(), make([]byte, 4096), 0)
		return err
	}
	for _, step := range []struct {
		what    string
		do      func() error
		flushes int64
		most    int64 // bytes
	}{
		{"of one file among all", write, 2, 64 << 20}, // two barriers; never more than the log
		{"of a file that was written", func() error { return fs.Truncate(ctx, Root, last.Ino(), 5) }, 2, 128 << 10},
		{"with nothing to commit", func() error { return nil }, 1, 0}, // for data that may have been written in place
	} {
		err := step.do()
		fs.rw.mu.Lock()
		for fs.rw.committing != nil {
			fs.rw.changed.Wait()
		}
		fs.rw.mu.Unlock()
		writes, bytes, flushes := dev.writes.Load(), dev.bytes.Load(), dev.flushes.Load()
		start := time.Now()
		if err == nil {
			err = fs.Fsync(last.Ino(), false)
		}
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		writes, bytes, flushes = dev.writes.Load()-writes, dev.bytes.Load()-bytes, dev.flushes.Load()-flushes
		t.Logf("fsync %s: %d writes, %d KiB, %d flushes, %v", step.what, writes, bytes>>10, flushes, took)
		if flushes < 1 || flushes > step.flushes || bytes > step.most { // fewer, if the committer has begun
			t.Errorf("fsync %s took %d flushes and %d bytes, want at most %d and %d", step.what, flushes, bytes, step.flushes, step.most)
		}
	}
}

// Freezing leaves a clean image and holds back changes; thawing lets them go
// on. Each kind of shutdown leaves what it promises, and fails every call.
func TestFreezeAndShutdown(t *testing.T) {
	base := crashImages()[0].make(t)
	ctx := context.Background()
	create := func(fs *FS, name string) error {
		_, err := fs.Create(ctx, Root, disk.RootIno, name, disk.ModeReg|0o644)
		return err
	}
	exists := func(m *blockdev.Mem, name string) bool {
		t.Helper()
		fs, err := Open(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer fs.Close()
		_, err = fs.Resolve("/"+name, false)
		return err == nil
	}
	t.Run("freeze", func(t *testing.T) {
		mem := base.Clone()
		fs, err := crashOpen(mem)
		if err != nil {
			t.Fatal(err)
		}
		if err := create(fs, "a"); err != nil {
			t.Fatal(err)
		}
		if err := fs.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		if err := fs.Freeze(ctx); !errors.Is(err, unix.EBUSY) {
			t.Errorf("freezing twice: %v, want EBUSY", err)
		}
		frozen := mem.Clone()
		if err := judge(frozen, false); err != nil {
			t.Error(err)
		}
		if sb, _, _ := ReadSuper(frozen, Options{}); sb.Incompat.Has(disk.IncompatRecover) || !exists(frozen, "a") {
			t.Error("a frozen image is not clean and whole")
		}
		f3, err := fs.Resolve("/f3", false)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- create(fs, "b") }()
		go func() { // blocks that the file has already
			_, err := fs.WriteAt(ctx, Root, f3.Ino(), []byte("overwritten"), 0)
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("a change while frozen: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if !sameBytes(t, mem, frozen) {
			t.Error("the device has changed while it was frozen")
		}
		if _, err := fs.Resolve("/a", false); err != nil {
			t.Errorf("a look while frozen: %v", err)
		}
		if err := fs.Thaw(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.Thaw(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("thawing twice: %v, want EINVAL", err)
		}
		if err := fs.Close(); err != nil || !exists(mem, "b") {
			t.Errorf("close after thaw: %v", err)
		}
	})
	for kind, want := range map[ShutdownKind]bool{ShutdownDefault: true, ShutdownLogFlush: true, ShutdownNoLogFlush: false} {
		t.Run(fmt.Sprint("shutdown ", kind), func(t *testing.T) {
			mem := base.Clone()
			fs, err := crashOpen(mem)
			if err != nil {
				t.Fatal(err)
			}
			if err := create(fs, "a"); err != nil {
				t.Fatal(err)
			}
			if kind == ShutdownDefault {
				if err := fs.Freeze(ctx); err != nil { // that it is frozen is no obstacle
					t.Fatal(err)
				}
			}
			if err := fs.Shutdown(kind); err != nil {
				t.Fatal(err)
			}
			if err := create(fs, "b"); !errors.Is(err, unix.EIO) {
				t.Errorf("a change after shutdown: %v, want EIO", err)
			}
			if _, err := fs.Resolve("/f1", false); !errors.Is(err, unix.EIO) {
				t.Errorf("a look after shutdown: %v, want EIO", err)
			}
			if err := fs.Sync(); !errors.Is(err, unix.EIO) {
				t.Errorf("sync after shutdown: %v, want EIO", err)
			}
			_ = fs.Close()
			if sb, _, _ := ReadSuper(mem, Options{}); sb.Incompat.Has(disk.IncompatRecover) != (kind != ShutdownDefault) {
				t.Errorf("needs_recovery after shutdown: %v", sb.Incompat)
			}
			if got := exists(mem, "a"); got != want {
				t.Errorf("the file is there: %t, want %t", got, want)
			}
			again, err := crashOpen(mem)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if err := judge(mem, false); err != nil {
				t.Error(err)
			}
		})
	}
	if fs, err := crashOpen(base.Clone()); err != nil || !errors.Is(fs.Shutdown(3), unix.EINVAL) {
		t.Errorf("shutdown of kind 3 is not EINVAL (%v)", err)
	} else {
		fs.abandon()
	}
}

// sameBytes reports whether two devices hold the same.
func sameBytes(t *testing.T, a, b *blockdev.Mem) bool {
	t.Helper()
	x, y := make([]byte, a.Size()), make([]byte, b.Size())
	if _, err := a.ReadAt(x, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadAt(y, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

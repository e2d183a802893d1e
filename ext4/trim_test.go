package ext4_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// discards is a device that keeps what was discarded, and fills it with
// rubbish.
type discards struct {
	blockdev.Device
	mu   sync.Mutex
	runs [][2]int64 // offset and length; guarded by mu
}

func (d *discards) Discard(off, n int64) error {
	d.mu.Lock()
	d.runs = append(d.runs, [2]int64{off, n})
	d.mu.Unlock()
	rubbish := make([]byte, 1<<16)
	for i := range rubbish {
		rubbish[i] = 0xdb
	}
	for n > 0 {
		k := min(n, int64(len(rubbish)))
		if _, err := d.WriteAt(rubbish[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

func (d *discards) total() (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.runs {
		n += r[1]
	}
	return n
}

func openDiscards(t *testing.T, image string, o ext4.Options) (*discards, *ext4.FS, func()) {
	t.Helper()
	f, err := blockdev.Open(image, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	dev := &discards{Device: f}
	o.Write = true
	fs, err := ext4.Open(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	return dev, fs, func() {
		t.Helper()
		if err := errors.Join(fs.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	}
}

// All free blocks are trimmed, no other, and none that is about to be used,
// while files are being written.
func TestTrim(t *testing.T) {
	ctx := context.Background()
	for _, v := range fullVolumes {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a", "b", "c")
			_, fs, closeFS := openDiscards(t, image, ext4.Options{})
			c := newChurn(7, 3<<20, "a", "b", "c")
			c.open(t, fs)
			stop := make(chan struct{})
			done := make(chan error)
			go func() {
				for {
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
					if _, err := fs.Trim(ctx, 0, 1<<63, 0); err != nil {
						done <- err
						return
					}
				}
			}()
			for i := range 40 {
				if what, err := c.step(); err != nil {
					t.Errorf("operation %d, %s: %v", i, what, err)
					break
				}
			}
			close(stop)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for _, f := range c.files {
				if err := f.check(fs, 0, int64(len(f.data))); err != nil {
					t.Error(err)
				}
				if err := fs.Release(ctx, f.ino); err != nil {
					t.Error(err)
				}
			}
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			n, err := fs.Trim(ctx, 0, 1<<63, 0)
			st := statfs(t, fs)
			// The last cluster may reach over the end.
			if over := int64(st.Free)*st.BlockSize - int64(n); err != nil || over < 0 || over >= st.BlockSize<<fs.Super().ClusterBits() {
				t.Errorf("trimmed %d bytes (%v), %d blocks of %d are free", n, err, st.Free, st.BlockSize)
			}
			if n, err := fs.Trim(ctx, 1<<20, 8<<20, 64<<10); err != nil || n > 8<<20 {
				t.Errorf("trimmed %d bytes of 8 MiB: %v", n, err)
			}
			for _, bad := range [][3]uint64{{1 << 50, 1 << 20, 0}, {0, 100, 0}, {0, 1 << 20, 1 << 40}, {0, 1 << 20, 1<<64 - 1}} {
				if _, err := fs.Trim(ctx, bad[0], bad[1], bad[2]); !errors.Is(err, unix.EINVAL) {
					t.Errorf("trim %v: %v", bad, err)
				}
			}
			closeFS()
			sound(t, image)
			c.compareKernel(t, image)
		})
	}
}

// With Options.Discard blocks that were freed are discarded once that is
// durable, and not before.
func TestDiscard(t *testing.T) {
	ctx := context.Background()
	image := volumes[0].make(t, "a", "b")
	dev, fs, closeFS := openDiscards(t, image, ext4.Options{Discard: true, CommitInterval: 1 << 40})
	files := inos(t, fs, "a", "b")
	const n = 3 << 20
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	for _, ino := range files {
		if _, err := fs.WriteAt(ctx, ext4.Root, ino, data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := fs.Truncate(ctx, ext4.Root, files[0], 0); err != nil {
		t.Fatal(err)
	}
	if got := dev.total(); got != 0 {
		t.Errorf("%d bytes were discarded before the commit", got)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := dev.total(); got != n {
		t.Errorf("%d bytes were discarded, %d were freed", got, n)
	}
	f := contents{name: "b", ino: files[1], data: data}
	if err := f.check(fs, 0, n); err != nil {
		t.Error(err)
	}
	closeFS()
	sound(t, image)
}

// Ranges are copied; what is a hole on both sides stays one.
func TestCopyRange(t *testing.T) {
	ctx := context.Background()
	for _, v := range find("4k", "1k", "ext3", "bigalloc-1k") {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a", "b")
			fs, closeFS := writable(t, image, ext4.Options{})
			c := newChurn(3, 3<<20, "a", "b")
			c.open(t, fs)
			rng := rand.New(rand.NewPCG(5, 5))
			a, b := c.files[0], c.files[1]
			for i := range 60 {
				if what, err := c.step(); err != nil {
					t.Fatalf("operation %d, %s: %v", i, what, err)
				}
				from, to := a, b
				if rng.IntN(2) == 0 {
					from, to = to, from
				}
				if rng.IntN(4) == 0 {
					to = from
				}
				so, do, n := rng.Int64N(3<<20), rng.Int64N(3<<20), 1+rng.Int64N(1<<20)
				want := min(n, max(int64(len(from.data))-so, 0))
				k, err := fs.CopyRange(ctx, ext4.Root, from.ino, so, to.ino, do, n)
				if from == to && so < do+want && do < so+want {
					if !errors.Is(err, unix.EINVAL) {
						t.Fatalf("overlapping: %v", err)
					}
					continue
				}
				if err != nil || k != want {
					t.Fatalf("copied %d of %d bytes: %v", k, want, err)
				}
				if k > 0 {
					to.fill(slices.Clone(from.data[so:so+k]), do)
				}
				if err := to.check(fs, 0, 1<<30); err != nil {
					t.Fatalf("copy %d from %d to %d: %v", n, so, do, err)
				}
			}
			// A sparse file is copied as one.
			for _, f := range c.files {
				if err := fs.Truncate(ctx, ext4.Root, f.ino, 0); err != nil {
					t.Fatal(err)
				}
				f.resize(0)
			}
			if _, err := fs.WriteAt(ctx, ext4.Root, a.ino, []byte("end"), 40<<20); err != nil {
				t.Fatal(err)
			}
			if err := fs.Truncate(ctx, ext4.Root, a.ino, 50<<20); err != nil {
				t.Fatal(err)
			}
			if k, err := fs.CopyRange(ctx, ext4.Root, a.ino, 0, b.ino, 0, 1<<40); k != 50<<20 || err != nil {
				t.Fatal(k, err)
			}
			in, err := fs.Inode(b.ino)
			if err != nil {
				t.Fatal(err)
			}
			if st := in.Stat(); st.Size != 50<<20 || st.Blocks > 200 {
				t.Errorf("the copy has %d bytes and %d sectors", st.Size, st.Blocks)
			}
			if at, err := in.SeekData(0); err != nil || at != 40<<20 {
				t.Errorf("data begin at %d: %v", at, err)
			}
			a.fill([]byte("end"), 40<<20)
			a.resize(50 << 20)
			b.data = a.data
			if err := b.check(fs, 0, 1<<30); err != nil {
				t.Error(err)
			}
			if _, err := fs.CopyRange(ctx, ext4.Root, disk.RootIno, 0, b.ino, 0, 1); !errors.Is(err, unix.EISDIR) {
				t.Errorf("copy from a directory: %v", err)
			}
			closeFS()
			sound(t, image)
			c.compareKernel(t, image)
		})
	}
}

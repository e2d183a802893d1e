package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// faultSets are the options that the failures are tried with. Between them
// they have everything that is written.
var faultSets = []string{
	"-t ext4 -O quota,project,mmp,inline_data,fast_commit",
	"-t ext4 -b 4096 -O ea_inode,bigalloc,casefold -C 8192",
	"-t ext3 -b 1024 -l 20000,20001",
}

const faultSize = 24 << 20

// makeInPlace does what is done to make a file system on a device.
func makeInPlace(ctx context.Context, dev blockdev.Device, o Options, src Source) (err error) {
	t := &Target{Dev: dev, window: true}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Abort())
		}
	}()
	if err := t.Wipe(); err != nil {
		return err
	}
	if err := t.Dev.Discard(0, t.Dev.Size()); err != nil {
		return err
	}
	p, err := Resolve(dev.Size(), o)
	if err != nil {
		return err
	}
	if _, err := Make(ctx, t.Dev, p, src); err != nil {
		return err
	}
	if err := t.Dev.Flush(); err != nil {
		return err
	}
	return t.Commit()
}

func faultOptions(t testing.TB, set string) Options {
	o := parseArgs(t, strings.Fields(set))
	o.Zeroed = false
	return o
}

// A stale device keeps what it discards.
type stale struct{ *blockdev.Mem }

func (stale) Discard(off, n int64) error { return nil }

// long reports whether tests are to take their time.
func long() bool { return os.Getenv("E4GO_LONG") == "1" }

// oldImage is a device with a file system that nobody wants any more.
func oldImage(t testing.TB) *blockdev.Mem {
	t.Helper()
	m := blockdev.NewMem(faultSize)
	for off := int64(0); off < faultSize; off += 1 << 20 { // so that what is not zeroed shows
		if _, err := m.WriteAt(bytes.Repeat([]byte{0xa5}, 1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Resolve(faultSize, Options{Label: "old", Zeroed: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make(context.Background(), m, p); err != nil {
		t.Fatal(err)
	}
	return m
}

// primary is the superblock of a device, or nil if it has none that the kernel
// would take for one.
func primary(t testing.TB, dev blockdev.Device) *disk.Superblock {
	t.Helper()
	b := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(b, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	sb := disk.DecodeSuperblock(b)
	if sb.Magic != disk.SuperMagic || sb.MetadataCsum() && sb.Checksum != disk.SuperblockChecksum(b) {
		return nil
	}
	return &sb
}

// A failing is a device whose calls from the first-th on fail: one of them, or all.
type failing struct {
	blockdev.Device
	first int64
	all   bool
	err   error
	only  string // the call that counts; "" is any
	calls atomic.Int64
}

func (f *failing) fails(call string) error {
	if f.only != "" && f.only != call {
		return nil
	}
	n := f.calls.Add(1) - 1
	if n == f.first || f.all && n > f.first {
		return f.err
	}
	return nil
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fails("read"); err != nil {
		return 0, err
	}
	return f.Device.ReadAt(p, off)
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fails("write"); err != nil {
		return 0, err
	}
	return f.Device.WriteAt(p, off)
}

func (f *failing) Flush() error {
	if err := f.fails("flush"); err != nil {
		return err
	}
	return f.Device.Flush()
}

func (f *failing) Discard(off, n int64) error {
	if err := f.fails("discard"); err != nil {
		return err
	}
	return f.Device.Discard(off, n)
}

// Every call of the device that fails is an error, and then there is no file
// system on the device.
func TestDeviceFailsAtEveryCall(t *testing.T) {
	old := oldImage(t)
	for _, set := range faultSets {
		for _, kind := range []struct {
			err  error
			only string
			all  bool
		}{
			{err: blockdev.ErrInjected},
			{err: unix.ENOSPC, only: "write"},
			{err: unix.EIO, all: true}, // also those that clear what is there
		} {
			t.Run(fmt.Sprintf("%s/%v", set, kind.err), func(t *testing.T) {
				t.Parallel()
				n, calls := int64(0), int64(0)
				for ; ; n++ {
					if !long() && n > 12 && n < calls-12 && n%17 != 0 {
						continue
					}
					mem := old.Clone()
					dev := &failing{Device: stale{mem}, first: n, all: kind.all, err: kind.err, only: kind.only}
					err := makeInPlace(context.Background(), dev, faultOptions(t, set), oddTree(n%2 == 0))
					if calls == 0 {
						calls = countCalls(t, old, set, kind.only)
					}
					if dev.calls.Load() <= n {
						if err != nil {
							t.Fatalf("ended at call %d with %v", n, err)
						}
						break
					}
					if !errors.Is(err, kind.err) {
						t.Errorf("call %d failed, and was reported as %v", n, err)
					}
					sb := primary(t, mem)
					if sb == nil {
						continue
					}
					switch {
					case !kind.all:
						t.Errorf("call %d failed, and left a file system labelled %q", n, sb.Label)
					case n == 0: // the first call: nothing could be written
					case sb.Label == "old":
						t.Errorf("from call %d on all failed, and the old file system is still there", n)
					default:
						sameAsWhole(t, old, set, mem, n)
					}
				}
				if n < 50 {
					t.Errorf("only %d calls were made", n)
				}
			})
		}
	}
}

// countCalls is how many calls a complete run makes.
func countCalls(t testing.TB, old *blockdev.Mem, set, only string) int64 {
	t.Helper()
	dev := &failing{Device: stale{old.Clone()}, first: -1, only: only}
	if err := makeInPlace(context.Background(), dev, faultOptions(t, set), oddTree(true)); err != nil {
		t.Fatal(err)
	}
	return dev.calls.Load()
}

// sameAsWhole wants a device to have all that a complete run writes.
func sameAsWhole(t testing.TB, old *blockdev.Mem, set string, mem *blockdev.Mem, n int64) {
	t.Helper()
	whole := old.Clone()
	if err := makeInPlace(context.Background(), stale{whole}, faultOptions(t, set), oddTree(n%2 == 0)); err != nil {
		t.Fatal(err)
	}
	if off := firstDifference(t, whole, mem); off >= 0 {
		t.Errorf("from call %d on all failed: there is a superblock, and byte %d is not what it is to be", n, off)
	}
}

// firstDifference is the offset of the first byte in which two devices differ, or -1.
func firstDifference(t testing.TB, a, b blockdev.Device) int64 {
	t.Helper()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < a.Size(); off += int64(len(x)) {
		n := min(int64(len(x)), a.Size()-off)
		if _, err := a.ReadAt(x[:n], off); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadAt(y[:n], off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			for i := range x {
				if x[i] != y[i] {
					return off + int64(i)
				}
			}
		}
	}
	return -1
}

// Whenever the power goes, a device with a valid superblock is the old file
// system as it was, or the new one complete.
func TestPowerCutAtEveryWrite(t *testing.T) {
	old := oldImage(t)
	for i, set := range faultSets {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			whole := old.Clone()
			rec := blockdev.NewRecord(whole)
			if i == 0 {
				rec = blockdev.NewRecord(stale{whole})
			}
			if err := makeInPlace(context.Background(), rec, faultOptions(t, set), oddTree(false)); err != nil {
				t.Fatal(err)
			}
			if primary(t, whole) == nil {
				t.Fatal("there is no file system at the end")
			}
			dev := old.Clone()
			dev.Flush()
			was := old.Clone()
			complete := 0
			log := rec.Log()
			check := func(crashed *blockdev.Mem, n int, seed uint64) {
				sb := primary(t, crashed)
				if sb == nil {
					return
				}
				want := whole
				if sb.Label == "old" {
					want = was
				} else {
					complete++
				}
				if off := firstDifference(t, want, crashed); off >= 0 {
					t.Fatalf("power cut after event %d of %d (%s at %d), seed %d: the superblock labelled %q is valid, and byte %d is not what it is to be",
						n, len(log), log[n].Kind, log[n].Off, seed, sb.Label, off)
				}
			}
			for n, e := range log {
				switch e.Kind {
				case blockdev.EventWrite:
					if at := int64(disk.SuperblockOffset); e.Off <= at && e.Off+e.N > at+superSector {
						// Of a longer write, the sector with the magic number alone may arrive.
						torn := dev.Clone()
						torn.WriteAt(e.Data[at-e.Off:][:superSector], at)
						check(torn, n, 1<<32)
					}
					dev.WriteAt(e.Data, e.Off)
				case blockdev.EventFlush:
					dev.Flush()
				case blockdev.EventDiscard:
					if i > 0 {
						dev.Discard(e.Off, e.N)
					}
				}
				seeds := uint64(1)
				if long() || n < 12 || n > len(log)-12 {
					seeds = 10
				}
				for seed := range seeds {
					check(dev.Crash(rand.New(rand.NewPCG(seed, uint64(n)))), n, seed)
				}
			}
			if complete == 0 {
				t.Error("no crash found the new file system")
			}
		})
	}
}

// A countdown is a context that is cancelled after it was asked n times.
type countdown struct {
	context.Context
	n     int
	asked int
}

func (c *countdown) Err() error {
	if c.asked++; c.asked > c.n {
		return context.Canceled
	}
	return nil
}

// Whenever it is interrupted, it says so, and leaves no file system.
func TestCancelledAtEveryStep(t *testing.T) {
	old := oldImage(t)
	for _, set := range faultSets {
		all := &countdown{Context: context.Background(), n: math.MaxInt}
		if err := makeInPlace(all, old.Clone(), faultOptions(t, set), oddTree(true)); err != nil {
			t.Fatal(err)
		}
		if all.asked < 100 {
			t.Errorf("%s: only %d steps look at the context", set, all.asked)
		}
		for n := range all.asked {
			if !long() && n > 10 && n < all.asked-10 && n%29 != 0 {
				continue
			}
			mem := old.Clone()
			err := makeInPlace(&countdown{Context: context.Background(), n: n}, mem, faultOptions(t, set), oddTree(true))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: cancelled at step %d, and was reported as %v", set, n, err)
			}
			if primary(t, mem) != nil {
				t.Errorf("%s: cancelled at step %d, and left a file system", set, n)
			}
		}
	}
}

// When the device is full, reading ends.
func TestStopsReadingWhenFull(t *testing.T) {
	const size = 400 << 20
	dev := &failing{Device: blockdev.NewMem(1 << 30), first: 3, all: true, err: unix.ENOSPC, only: "write"}
	c := &endless{size: size}
	p, err := Resolve(1<<30, Options{Zeroed: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Make(context.Background(), dev, p, &memSource{list: []*Entry{{Path: "big", Mode: disk.ModeReg | 0o644, Size: size, Content: c}}})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	if c.read > 20<<20 {
		t.Errorf("%d bytes were read of a file that cannot be stored", c.read)
	}
}

// An endless content is zeros that come as a stream.
type endless struct{ size, read int64 }

func (c *endless) Later() bool           { return false }
func (c *endless) Sparse() bool          { return false }
func (c *endless) Open() (Reader, error) { return c, nil }
func (c *endless) Close() error          { return nil }
func (c *endless) Skip(int64) error      { return nil }
func (c *endless) Read(p []byte) (int, error) {
	c.read += int64(len(p))
	return len(p), nil
}
func (c *endless) Data(off int64) (int64, int64, error) { return off, c.size, nil }

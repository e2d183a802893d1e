package simkernel

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"e4go/iomap"
)

var root = Cred{}

func create(t *testing.T, k *Kernel, flags int) *File {
	t.Helper()
	f, err := k.Open(root, "/f", flags|syscall.O_RDWR|syscall.O_CREAT, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestContents runs random programs on a file, with all that the kernel may do
// of its own accord in between, and compares with a slice of bytes.
func TestContents(t *testing.T) {
	for _, v := range []iomap.Version{iomap.V7, iomap.V8} {
		for _, bs := range []int64{1024, 4096, 65536} {
			t.Run(fmt.Sprintf("%s/%d", v, bs), func(t *testing.T) {
				seeds := uint64(10)
				if testing.Short() {
					seeds = 2
				}
				for seed := range seeds {
					k := mount(t, toyOptions{Options: Options{Version: v, Seed: seed, Unrest: 0.3, LargeFolios: seed%2 == 1}, bs: bs, cache: true})
					if err := program(k, seed, 120); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
				}
			})
		}
	}
}

// program does n random things to a file, and says where it is not what a
// slice of bytes is.
func program(k *Kernel, seed uint64, n int) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	f, err := k.Open(root, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	if err != nil {
		return err
	}
	d, err := k.Open(root, "/f", syscall.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	const most = 300_000
	var model []byte
	grow := func(n int) {
		if n > len(model) {
			model = append(model, make([]byte, n-len(model))...)
		}
	}
	for i := range n {
		off, size := rng.IntN(most), 1+rng.IntN(20_000)
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rng.IntN(255) + 1)
		}
		what, err := "", error(nil)
		switch rng.IntN(11) {
		case 0, 1:
			what = fmt.Sprintf("write %d+%d", off, size)
			if _, err = f.WriteAt(data, int64(off)); err == nil {
				grow(off + size)
				copy(model[off:], data)
			}
		case 2:
			off, size = off/512*512, (size+511)/512*512
			data = bytes.Repeat([]byte{byte(i + 1)}, size)
			what = fmt.Sprintf("direct write %d+%d", off, size)
			if _, err = d.WriteAt(data, int64(off)); err == nil {
				grow(off + size)
				copy(model[off:], data)
			}
		case 3:
			if off >= len(model) {
				continue
			}
			data = data[:min(size, len(model)-off)]
			what = fmt.Sprintf("store %d+%d", off, len(data))
			if err = f.Store(data, int64(off)); err == nil {
				copy(model[off:], data)
			}
		case 4:
			what = fmt.Sprintf("truncate %d", off)
			if err = f.Truncate(int64(off)); err == nil {
				grow(off)
				model = model[:off:off]
			}
		case 5:
			what = fmt.Sprintf("punch %d+%d", off, size*3)
			if err = f.Fallocate(FallocPunchHole|FallocKeepSize, int64(off), int64(size*3)); err == nil && off < len(model) {
				clear(model[off:min(len(model), off+size*3)])
			}
		case 6:
			what = fmt.Sprintf("zero range %d+%d", off, size*3)
			if err = f.Fallocate(FallocZeroRange, int64(off), int64(size*3)); err == nil {
				grow(off + size*3)
				clear(model[off : off+size*3])
			}
		case 7:
			what = "fsync"
			err = f.Fsync(false)
		case 8:
			what = "drop"
			err = f.Drop()
		case 9:
			off = off / 512 * 512
			what = fmt.Sprintf("direct read %d", off)
			p := make([]byte, 64<<10)
			var n int
			if n, err = d.ReadAt(p, int64(off)); err == nil {
				if want := model[min(off, len(model)):min(len(model), off+len(p))]; !bytes.Equal(p[:n], want) {
					return fmt.Errorf("step %d: %s: %s", i, what, diff(p[:n], want))
				}
			}
		case 10:
			what = fmt.Sprintf("fallocate %d+%d", off, size)
			if err = f.Fallocate(0, int64(off), int64(size)); err == nil {
				grow(off + size)
			}
		}
		if err != nil {
			return fmt.Errorf("step %d: %s: %w", i, what, err)
		}
		if f.Size() != int64(len(model)) {
			return fmt.Errorf("step %d: after %s: size is %d, want %d", i, what, f.Size(), len(model))
		}
		p := make([]byte, len(model)+10)
		n, err := f.ReadAt(p, 0)
		if err != nil || !bytes.Equal(p[:n], model) {
			return fmt.Errorf("step %d: after %s: %s, %v", i, what, diff(p[:n], model), err)
		}
	}
	if err := errors.Join(f.Close(), d.Close(), k.Evict()); err != nil {
		return err
	}
	f, err = k.Open(root, "/f", syscall.O_RDONLY, 0)
	if err != nil {
		return err
	}
	p := make([]byte, len(model)+10)
	got, err := f.ReadAt(p, 0)
	if err != nil || !bytes.Equal(p[:got], model) {
		return fmt.Errorf("opened again: %s, %v", diff(p[:got], model), err)
	}
	return errors.Join(f.Close(), k.Unmount())
}

func diff(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return "equal"
}

// TestFaults: what a server must not do is found out.
func TestFaults(t *testing.T) {
	write := func(f *File) error {
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 10_000), 0)
		return errors.Join(err, f.Fsync(false))
	}
	read := func(f *File) error {
		_, err := f.WriteAt(make([]byte, 10_000), 0)
		return errors.Join(err, f.Drop(), f.in.fill(f.in.lockFolio(0, true), 0))
	}
	tests := []struct {
		fault  fault
		do     func(f *File) error
		want   error  // of the call, or nil
		breach string // part of what is remembered
	}{
		{"unaligned", write, iomap.EFSCORRUPTED, "rule 4"},
		{"behind", write, iomap.EFSCORRUPTED, "rule 13"},
		{"short reply", write, syscall.EIO, "reply to BEGIN has 32 bytes"},
		{"endless retry", read, syscall.EINTR, "it is not there"},
		{"hole at write-back", write, nil, "the dirty data is lost"},
		{"delayed, never allocated", write, nil, "the dirty data is lost"},
		{"forgets the size", write, nil, "behind the end"},
		{"no iomap flag", write, nil, "without EXCLUSIVE|IOMAP"},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault), func(t *testing.T) {
			k := mount(t, toyOptions{fault: tt.fault})
			f := create(t, k, 0)
			err := tt.do(f)
			if tt.fault != "no iomap flag" && !errors.Is(err, tt.want) || tt.want == nil && tt.fault != "no iomap flag" && err != nil {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			if got := k.Breaches(); !slices.ContainsFunc(got, func(e error) bool { return strings.Contains(e.Error(), tt.breach) }) {
				t.Errorf("breaches are %v, want one with %q", got, tt.breach)
			}
		})
	}
}

// TestStale: new blocks that claim to hold data show what was on the device,
// and a server that converts nothing loses what was written.
func TestStale(t *testing.T) {
	for _, fault := range []fault{"mapped", "not converted"} {
		k := mount(t, toyOptions{fault: fault})
		f := create(t, k, 0)
		err := f.Truncate(4096)
		if _, werr := f.WriteAt([]byte("x"), 100); err != nil || werr != nil {
			t.Fatal(err, werr)
		}
		if err := f.Drop(); err != nil {
			t.Fatal(err)
		}
		p, want := make([]byte, 4096), make([]byte, 4096)
		want[100] = 'x'
		if _, err := f.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(p, want) {
			t.Errorf("%s: the contents are right: the kernel hides the fault", fault)
		}
	}
}

// TestOutdatedMapping: a server without cached, revalidated mappings loses
// data, because write-back converts a block between a writer's BEGIN and its
// copy (pitfall 8). With them it does not: TestContents.
func TestOutdatedMapping(t *testing.T) {
	for seed := range uint64(300) {
		k := mount(t, toyOptions{Options: Options{Seed: seed, Unrest: 0.5}, fault: "no cache"})
		if err := program(k, seed, 150); err != nil && strings.Contains(err.Error(), "byte") {
			return
		}
	}
	t.Error("300 programs without a mapping cache lost nothing")
}

// trace returns what the server is asked, in the notation of the examples.
func trace(t *testing.T, do func(k *Kernel, trace func() []string)) {
	t.Helper()
	var mu sync.Mutex
	var got []string
	o := Options{Trace: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		s := e.Op
		switch r := e.Request; e.Opcode {
		case opBegin:
			s += fmt.Sprintf("(%s,%d,%d)", iomap.Op(le.Uint32(r)), le.Uint64(r[16:]), le.Uint64(r[24:]))
		case opEnd:
			s += fmt.Sprintf("(%s,%d,%d)", iomap.Flags(le.Uint16(r[66:])), le.Uint64(r[16:]), le.Uint64(r[32:]))
		case opIoend:
			s += fmt.Sprintf("(%s,%d,%d)=%d", iomap.IoendFlags(le.Uint32(r)), le.Uint64(r[16:]), le.Uint64(r[32:]), le.Uint64(e.Reply))
		case opSetattr:
			s += fmt.Sprintf("(%#x,%d)", le.Uint32(r), le.Uint64(r[16:]))
		case opFallocate:
			s += fmt.Sprintf("(%#x,%d,%d)", le.Uint32(r[24:]), le.Uint64(r[8:]), le.Uint64(r[16:]))
		}
		got = append(got, s)
	}}
	k := mount(t, toyOptions{Options: o})
	do(k, func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := got
		got = nil
		return out
	})
}

func TestTraces(t *testing.T) {
	check := func(t *testing.T, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("append", func(t *testing.T) {
		trace(t, func(k *Kernel, trace func() []string) {
			trace()
			f := create(t, k, 0)
			check(t, trace(), "LOOKUP", "CREATE")
			_, err := f.WriteAt(make([]byte, 5000), 0)
			must(t, err)
			check(t, trace(), "BEGIN(WRITE,0,5000)", "END(SIZE_CHANGED,0,5000)")
			must(t, f.Fsync(false))
			check(t, trace(), "BEGIN(WRITEBACK,0,4096)", "BEGIN(WRITEBACK,4096,4096)",
				"IOEND(UNWRITTEN|APPEND|WRITEBACK,0,5000)=5000", "SETATTR(0x430,0)", "FSYNC")
			must(t, f.Close())
			check(t, trace(), "FLUSH", "RELEASE")
		})
	})
	t.Run("direct", func(t *testing.T) {
		trace(t, func(k *Kernel, trace func() []string) {
			f := create(t, k, syscall.O_DIRECT)
			trace()
			_, err := f.WriteAt(make([]byte, 8192), 0)
			must(t, err)
			check(t, trace(), "BEGIN(WRITE|DIRECT,0,8192)", "IOEND(UNWRITTEN|DIRECT|APPEND,0,8192)=8192")
		})
	})
	t.Run("truncate", func(t *testing.T) {
		trace(t, func(k *Kernel, trace func() []string) {
			f := create(t, k, 0)
			_, err := f.WriteAt(make([]byte, 10000), 0)
			must(t, errors.Join(err, f.Fsync(false)))
			trace()
			must(t, f.Truncate(100))
			check(t, trace(), "BEGIN(ZERO,100,3996)", "BEGIN(WRITEBACK,0,4096)", "SETATTR(0x668,100)")
		})
	})
	t.Run("punch", func(t *testing.T) {
		trace(t, func(k *Kernel, trace func() []string) {
			f := create(t, k, 0)
			_, err := f.WriteAt(make([]byte, 20000), 0)
			must(t, errors.Join(err, f.Fsync(false)))
			trace()
			must(t, f.Fallocate(FallocKeepSize|FallocPunchHole, 1000, 8000))
			check(t, trace(), "FALLOCATE(0x3,1000,8000)", "BEGIN(ZERO,1000,8000)", "BEGIN(ZERO,4096,4904)",
				"BEGIN(ZERO,8192,808)", "SETATTR(0x430,0)")
		})
	})
}

// TestCalls: what is asked for other than contents.
func TestCalls(t *testing.T) {
	k := mount(t, toyOptions{cache: true})
	f := create(t, k, 0)
	if _, err := f.WriteAt(bytes.Repeat([]byte{7}, 8192), 4096); err != nil {
		t.Fatal(err)
	}
	if off, err := f.Seek(0, SeekData); err != nil || off != 4096 {
		t.Errorf("SEEK_DATA before write-back: %d, %v", off, err)
	}
	if err := f.Fsync(false); err != nil {
		t.Fatal(err)
	}
	if off, err := f.Seek(0, SeekData); err != nil || off != 4096 {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	if off, err := f.Seek(4096, SeekHole); err != nil || off != 12288 {
		t.Errorf("SEEK_HOLE: %d, %v", off, err)
	}
	if got, err := f.Fiemap(0, 1<<40, true); err != nil || len(got) != 1 || got[0].Type != iomap.TypeMapped || got[0].Length != 8192 {
		t.Errorf("FIEMAP: %v, %v", got, err)
	}
	if err := f.Swapon(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("swapon of a file with a hole: %v", err)
	}
	if addr, err := f.Bmap(4096); err != nil || addr < 1<<20 {
		t.Errorf("bmap: %d, %v", addr, err)
	}
	d, err := k.Open(root, "/f", syscall.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.WriteAtomic(bytes.Repeat([]byte{9}, 4096), 4096); err != nil || n != 4096 {
		t.Errorf("atomic write: %d, %v", n, err)
	}
	k.ResetCounts()
	p := make([]byte, 8192)
	for range 10 {
		if n, err := d.ReadAt(p, 4096); err != nil || n != 8192 || p[0] != 9 || p[4096] != 7 {
			t.Fatalf("direct read: %d, %v, %d, %d", n, err, p[0], p[4096])
		}
	}
	if n := k.Counts()["BEGIN"]; n > 1 {
		t.Errorf("ten reads of what is cached asked %d times", n)
	}
	// A file without a name lives until it is closed.
	if err := k.Unlink(root, "/f"); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(p, 4096); err != nil || n != 8192 || p[0] != 9 {
		t.Errorf("read of an unlinked file: %d, %v", n, err)
	}
	if err := errors.Join(f.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if k.Counts()["FORGET"] != 1 {
		t.Errorf("requests: %v, want one FORGET", k.Counts())
	}
	if err := errors.Join(k.Freeze(), k.Thaw(), k.Unmount()); err != nil {
		t.Fatal(err)
	}
}

func TestInline(t *testing.T) {
	k := mount(t, toyOptions{fault: "inline"})
	f := create(t, k, 0)
	if _, err := f.WriteAt([]byte("hello"), 3); err != nil {
		t.Fatal(err)
	}
	if err := f.Drop(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 20)
	if n, err := f.ReadAt(p, 0); err != nil || string(p[:n]) != "\x00\x00\x00hello" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	if c := k.Counts(); c["IOEND"] != 0 || c["END"] != 0 || c["WRITE"] == 0 {
		t.Errorf("requests of inline data: %v", c)
	}
	if b := k.Breaches(); len(b) != 0 {
		t.Errorf("breaches: %v", b)
	}
}

// TestErrors: what a device or a server fails with comes out where the kernel
// lets it out.
func TestErrors(t *testing.T) {
	for _, v := range []iomap.Version{iomap.V7, iomap.V8} {
		fail := ""
		k := mount(t, toyOptions{Options: Options{Version: v, Fail: func(what string) error {
			if what == fail {
				return syscall.EDQUOT
			}
			return nil
		}}})
		f := create(t, k, 0)
		step := func(what string, want bool, do func() error) {
			t.Helper()
			fail = what
			err := do()
			fail = ""
			if want != errors.Is(err, syscall.EDQUOT) {
				t.Errorf("%s: %s fails: got %v, want an error: %t", v, what, err, want)
			}
		}
		write := func() error {
			_, err := f.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
			return err
		}
		step("BEGIN", true, write)
		step("none", false, write)
		step("write", true, func() error { return f.Fsync(false) })
		step("none", false, write)
		step("IOEND", v == iomap.V8, func() error { return f.Fsync(false) }) // v7 loses it
		step("none", false, write)
		step("SETATTR", true, func() error { return f.Truncate(10) })
		step("FSYNC", true, func() error { return f.Fsync(true) })
	}
}

// TestTogether: several callers of one file, for the race detector and for
// deadlocks.
func TestTogether(t *testing.T) {
	k := mount(t, toyOptions{Options: Options{Unrest: 0.2}, cache: true})
	f := create(t, k, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			p := make([]byte, 5000)
			for i := range 60 {
				off := int64((i*7 + g) * 1000 % 200_000)
				switch (i + g) % 5 {
				case 0, 1:
					f.WriteAt(p, off)
				case 2:
					f.ReadAt(p, off)
				case 3:
					f.Fsync(false)
				case 4:
					f.Fallocate(FallocPunchHole|FallocKeepSize, off, 9000)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(f.Close(), k.Unmount()); err != nil {
		t.Error(err)
	}
}

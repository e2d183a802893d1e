package blockdev

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"
	"testing"
)

// kinds makes one device of each kind, of size bytes, all zeros.
func kinds(t *testing.T, size int64) map[string]Device {
	t.Helper()
	w, err := NewWindow(NewMem(size+8192), 1024, size)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(image(t, size), Options{Write: true, Lock: LockExclusive})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return map[string]Device{
		"File": f, "Window": w, "Mem": NewMem(size), "Overlay": NewOverlay(NewMem(size)),
		"Fault": &Fault{Device: NewMem(size), N: -1}, "Record": NewRecord(NewMem(size)),
	}
}

// Every kind has the same ends and the same errors there.
func TestBounds(t *testing.T) {
	const size = 10_000 // neither whole pages nor whole sectors
	reads := []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{0, size, size, nil},
		{size - 10, 10, 10, nil},
		{size - 10, 11, 10, io.EOF},
		{size, 1, 0, io.EOF},
		{math.MaxInt64, 4096, 0, io.EOF},
		{size, 0, 0, nil},
		{-1, 1, 0, new(RangeError)},
	}
	ranges := []struct {
		off, n int64
		ok     bool
	}{
		{0, size, true}, {size, 0, true}, {size - 1, 1, true},
		{size - 1, 2, false}, {size, 1, false}, {-1, 1, false}, {math.MaxInt64, 1, false}, {math.MaxInt64 - 1, 4096, false},
	}
	for name, d := range kinds(t, size) {
		if d.Size() != size {
			t.Errorf("%s: size %d, want %d", name, d.Size(), size)
		}
		for _, r := range reads {
			n, err := d.ReadAt(make([]byte, r.n), r.off)
			var re *RangeError
			sameErr := errors.Is(err, r.err) || r.off < 0 && errors.As(err, &re)
			if n != r.want || !sameErr {
				t.Errorf("%s: read %d at %d: got %d, %v; want %d, %v", name, r.n, r.off, n, err, r.want, r.err)
			}
		}
		for _, r := range ranges {
			n, err := d.WriteAt(bytes.Repeat([]byte{7}, int(r.n)), r.off)
			var re *RangeError
			if r.ok && (err != nil || int64(n) != r.n) || !r.ok && (!errors.As(err, &re) || n != 0) {
				t.Errorf("%s: write %d at %d: got %d, %v; want ok=%t", name, r.n, r.off, n, err, r.ok)
			}
			if err := d.Discard(r.off, r.n); (err == nil) != r.ok {
				t.Errorf("%s: discard %d at %d: got %v, want ok=%t", name, r.n, r.off, err, r.ok)
			}
		}
		if err := d.Discard(0, -1); err == nil {
			t.Errorf("%s: discard of -1 bytes: got nil, want an error", name)
		}
		if err := d.Flush(); err != nil {
			t.Errorf("%s: flush: %v", name, err)
		}
	}
}

// Goroutines that write next to each other, within pages and sectors, each
// read back what they wrote.
func TestConcurrent(t *testing.T) {
	const workers, each, rounds = 8, 1000, 50
	for name, d := range kinds(t, workers*each) {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				off := int64(w * each)
				got := make([]byte, each)
				for r := range rounds {
					want := bytes.Repeat([]byte{byte(w*rounds + r)}, each)
					if _, err := d.WriteAt(want, off); err != nil {
						t.Errorf("%s: write: %v", name, err)
					}
					if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: worker %d round %d: read back %d..., %v; want %d", name, w, r, got[0], err, want[0])
					}
					if r%10 == 0 {
						d.Flush()
						if m, ok := d.(*Mem); ok {
							m = m.Clone()
							m.WriteAt(want, 0)
							m.Flush()
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestWindow(t *testing.T) {
	base := NewMem(1 << 20)
	tests := []struct {
		off, n, size int64
		ok           bool
	}{
		{0, 0, 1 << 20, true},
		{4096, 0, 1<<20 - 4096, true},
		{4096, 8192, 8192, true},
		{1 << 20, 0, 0, true},
		{1<<20 + 1, 0, 0, false},
		{-1, 1, 0, false},
		{0, -1, 0, false},
		{4096, 1 << 20, 0, false},
		{1, math.MaxInt64, 0, false},
		{math.MaxInt64, math.MaxInt64, 0, false},
	}
	for _, tt := range tests {
		w, err := NewWindow(base, tt.off, tt.n)
		if (err == nil) != tt.ok {
			t.Errorf("window %d+%d: got %v, want ok=%t", tt.off, tt.n, err, tt.ok)
		} else if tt.ok && (w.Size() != tt.size || w.Offset() != tt.off || w.Base() != Device(base)) {
			t.Errorf("window %d+%d: got size %d offset %d, want size %d", tt.off, tt.n, w.Size(), w.Offset(), tt.size)
		}
	}
	w, _ := NewWindow(base, 4096, 8192)
	w.WriteAt([]byte("here"), 10)
	got := make([]byte, 4)
	if base.ReadAt(got, 4106); string(got) != "here" {
		t.Errorf("base at 4106: got %q, want %q", got, "here")
	}
}

func TestFault(t *testing.T) {
	for n := 0; n <= 4; n++ {
		f := &Fault{Device: NewMem(4096), N: n}
		calls := []func() error{
			func() error { _, err := f.WriteAt([]byte{1}, 0); return err },
			func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
			f.Flush,
			func() error { return f.Discard(0, 4096) },
		}
		for i, call := range calls {
			if got, want := errors.Is(call(), ErrInjected), i == n; got != want {
				t.Errorf("N=%d: call %d injected=%t, want %t", n, i, got, want)
			}
		}
		if f.Calls() != len(calls) {
			t.Errorf("N=%d: Calls() = %d, want %d", n, f.Calls(), len(calls))
		}
	}
	f := &Fault{Device: NewMem(16)}
	f.WriteAt([]byte{1}, 0)
	got := make([]byte, 1)
	if f.ReadAt(got, 0); got[0] != 0 {
		t.Error("the failed write reached the device")
	}
}

func TestRecord(t *testing.T) {
	r := NewRecord(NewMem(4096 * 4))
	buf := []byte("one")
	r.WriteAt(buf, 100)
	copy(buf, "XXX") // the log must have a copy
	r.Flush()
	r.WriteAt([]byte("two"), 101)
	r.Discard(4096, 4096)
	r.WriteAt([]byte("no"), 4096*4) // fails: not in the log
	want := []EventKind{EventWrite, EventFlush, EventWrite, EventDiscard}
	log := r.Log()
	if len(log) != len(want) {
		t.Fatalf("log has %d events, want %d: %v", len(log), len(want), log)
	}
	for i, k := range want {
		if log[i].Kind != k {
			t.Errorf("event %d: got %v, want %v", i, log[i].Kind, k)
		}
	}
	for n, want := range []string{"\x00\x00\x00\x00", "one\x00", "one\x00", "otwo", "otwo"} {
		m := NewMem(r.Size())
		if err := r.Replay(m, n); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if m.ReadAt(got, 100); string(got) != want {
			t.Errorf("after %d events: got %q, want %q", n, got, want)
		}
	}
	if err := r.Replay(&Fault{Device: NewMem(1 << 20), N: 1}, 4); !errors.Is(err, ErrInjected) {
		t.Errorf("replay onto a failing device: got %v, want %v", err, ErrInjected)
	}
}

// FuzzModel drives a Mem, an Overlay on a File, and a Window on a Mem with the
// same operations as a plain slice: they must read the same.
func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 0, 10, 200, 1, 0, 0, 255, 2, 0, 0, 0, 3, 0, 16, 255})
	f.Add([]byte{0, 15, 255, 255, 3, 0, 0, 255, 0, 16, 0, 9, 4, 0, 0, 0, 1, 15, 0, 255})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const size = 5*4096 + 100
		ops = ops[:min(len(ops), 4*200)] // unflushed writes add up
		model := make([]byte, size)
		for i := range model {
			model[i] = byte(i * 7)
		}
		base := NewMem(size)
		base.WriteAt(model, 0)
		before := bytes.Clone(model)
		mem := base.Clone()
		over := NewOverlay(base)
		win, err := NewWindow(NewMem(size+999), 500, size)
		if err != nil {
			t.Fatal(err)
		}
		win.WriteAt(model, 0)
		for i := 0; i+4 <= len(ops); i += 4 {
			off := (int64(ops[i+1])<<8 | int64(ops[i+2])) % (size + 64)
			n := int64(ops[i+3]) * 40
			p := bytes.Repeat([]byte{byte(i + 1)}, int(n))
			switch ops[i] % 5 {
			case 0: // write
				fits := off+n <= size
				for _, d := range []Device{mem, over, win} {
					if _, err := d.WriteAt(p, off); (err == nil) != fits {
						t.Fatalf("%T: write %d at %d: %v", d, n, off, err)
					}
				}
				if fits {
					copy(model[off:], p)
				}
			case 1: // read
				want := model[min(off, size):min(off+n, size)]
				for _, d := range []Device{mem, over, win} {
					if got, err := d.ReadAt(p, off); got != len(want) || !bytes.Equal(p[:got], want) || (err != nil) != (got < len(p)) {
						t.Fatalf("%T: read %d at %d: got %d bytes, %v; want %d", d, n, off, got, err, len(want))
					}
				}
			case 2:
				mem.Flush()
			case 3: // from here on a clone is used, and the old one scribbled on
				old := mem
				mem = mem.Clone()
				old.WriteAt(make([]byte, size), 0)
			case 4:
				over.Discard(min(off, size), 0)
				if got := over.Overlaid(0, size); got != (over.Pages() > 0) {
					t.Fatalf("overlay with %d pages: Overlaid(all) = %t", over.Pages(), got)
				}
			}
		}
		for _, d := range []Device{mem, over, win, base} {
			want := model
			if d == Device(base) {
				want = before // the overlay's base is never written
			}
			got := make([]byte, size)
			if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%T: at the end the contents differ (%v)", d, err)
			}
		}
	})
}

func TestOverlay(t *testing.T) {

	f, err := Open(image(t, 5*OverlayPage), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := NewOverlayLimit(f, 2*OverlayPage+1)
	if _, err := o.WriteAt([]byte("abc"), OverlayPage-1); err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt([]byte("def"), OverlayPage+5); err != nil || o.Pages() != 2 {
		t.Fatalf("write to a page that is there: %v, %d pages, want 2", err, o.Pages())
	}
	if _, err := o.WriteAt(make([]byte, 2*OverlayPage), OverlayPage); !errors.Is(err, ErrOverlayFull) {
		t.Errorf("write past the limit: got %v, want ErrOverlayFull", err)
	}
	got := make([]byte, 9)
	if o.ReadAt(got, OverlayPage-1); string(got) != "abc\x00\x00\x00def" {
		t.Errorf("the refused write left a trace: %q", got)
	}
	for _, tt := range []struct {
		off, n int64
		want   bool
	}{{0, 1, true}, {2 * OverlayPage, OverlayPage, false}, {2*OverlayPage - 1, 1, true}, {2 * OverlayPage, 3 * OverlayPage, false}, {OverlayPage, 0, false}} {
		if got := o.Overlaid(tt.off, tt.n); got != tt.want {
			t.Errorf("Overlaid(%d, %d) = %t, want %t", tt.off, tt.n, got, tt.want)
		}
	}
	// What is kept is readable where the base is not.
	bad := &Fault{Device: NewMem(3 * OverlayPage), N: 0}
	o = NewOverlay(bad)
	o.WriteAt(make([]byte, OverlayPage), OverlayPage)
	if _, err := o.ReadAt(got, OverlayPage); err != nil || bad.Calls() != 0 {
		t.Errorf("read of a kept page: %v, %d calls of the base", err, bad.Calls())
	}
	if _, err := o.WriteAt([]byte{1}, 0); !errors.Is(err, ErrInjected) || o.Pages() != 1 {
		t.Errorf("write that cannot fill its page: got %v, %d pages; want ErrInjected, 1", err, o.Pages())
	}
	if o.Base() != Device(bad) {
		t.Error("Base is not the base")
	}
}

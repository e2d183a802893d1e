package simkernel

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"e4go/iomap"
)

// TestDentries: names are asked for once while they are good, missing ones too; what the server
// is told to forget is as much as it has told.
func TestDentries(t *testing.T) {
	for valid, want := range map[uint64]string{3600: "lookups 2, known 1", 0: "lookups 10, known 4"} {
		k, s := mountToy(t, toyOptions{valid: valid})
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if _, err := k.Stat(root, "/f"); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("a missing file: %v", err)
			}
		}
		f := create(t, k, 0)
		for range 3 {
			_, err := k.Stat(root, "/f")
			must(err)
		}
		known := k.Lookups()
		if s.mu.Lock(); s.known[2] != int(known[2]) {
			t.Errorf("valid for %d s: the server has told of node 2 %d times, the kernel counts %d", valid, s.known[2], known[2])
		}
		s.mu.Unlock()
		must(f.Close())
		must(k.Unlink(root, "/f"))
		if _, err := k.Stat(root, "/f"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("a deleted file: %v", err)
		}
		if _, err := k.Stat(root, "/f"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("a deleted file: %v", err)
		}
		if got := fmt.Sprintf("lookups %d, known %d", k.Counts()["LOOKUP"], known[2]); got != want {
			t.Errorf("valid for %d s: %s, want %s", valid, got, want)
		}
		forgotten := func() bool { // FORGET has no answer
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.known[2] == 0
		}
		for end := time.Now().Add(5 * time.Second); !forgotten(); {
			if time.Now().After(end) {
				t.Fatalf("valid for %d s: node 2 is not forgotten", valid)
			}
			time.Sleep(time.Millisecond)
		}
		must(k.Unmount())
	}
}

// TestGeneration: a node id that names another file while the kernel has the first
// is found out.
func TestGeneration(t *testing.T) {
	k := mount(t, toyOptions{fault: "another generation"})
	create(t, k, 0)
	if _, err := k.Stat(root, "/f"); err != nil {
		t.Fatal(err)
	}
	if len(k.Breaches()) == 0 {
		t.Error("a node with another generation: no breach")
	}
}

// TestShrink: what nobody holds goes, what somebody has open stays.
func TestShrink(t *testing.T) {
	k := mount(t, toyOptions{valid: 3600})
	f := create(t, k, 0)
	for range 20 {
		if err := k.Shrink(); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.Lookups()) != 1 {
		t.Errorf("an open file was evicted: %v", k.Lookups())
	}
	if err := errors.Join(f.Close(), k.Evict()); err != nil || len(k.Lookups()) != 0 {
		t.Errorf("a closed file: %v, %v", k.Lookups(), err)
	}
}

// TestNowait: who may not wait gets what is at hand, and else EAGAIN.
func TestNowait(t *testing.T) {
	for _, v := range []iomap.Version{iomap.V7, iomap.V8} {
		k := mount(t, toyOptions{Options: Options{Version: v}})
		f := create(t, k, 0)
		p := make([]byte, 4096)
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if n, err := f.ReadNowait(p, 0); n != 4096 || err != nil {
			t.Errorf("%s: what is in the page cache: %d, %v", v, n, err)
		}
		if err := f.Drop(); err != nil {
			t.Fatal(err)
		}
		k.ResetCounts()
		if n, err := f.ReadNowait(p, 0); !errors.Is(err, syscall.EAGAIN) || len(k.Counts()) != 0 {
			t.Errorf("%s: what is not: %d, %v, requests %v", v, n, err, k.Counts())
		}
		d, err := k.Open(root, "/f", syscall.O_RDWR|syscall.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		k.ResetCounts()
		// v7 asks the server, v8 answers EAGAIN itself.
		n, err := d.ReadNowait(p, 0)
		asked := k.Counts()["BEGIN"]
		if v == iomap.V7 && (n != 4096 || err != nil || asked != 1) || v == iomap.V8 && (!errors.Is(err, syscall.EAGAIN) || asked != 0) {
			t.Errorf("%s: direct read: %d, %v, asked %d times", v, n, err, asked)
		}
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadNowait(p, 0); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("%s: direct read under dirty pages: %v", v, err)
		}
		if _, err := d.WriteNowait(p, 1<<20); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("%s: direct write far behind the end: %v", v, err)
		}
	}
}

// TestLargeFolios: a folio can be many pages, and what is dirty in it is
// asked for in one run.
func TestLargeFolios(t *testing.T) {
	most := uint64(0)
	k := mount(t, toyOptions{Options: Options{LargeFolios: true, Trace: func(e Event) {
		if e.Opcode == opBegin && e.Begin().Op == iomap.OpWriteback {
			most = max(most, e.Begin().Count)
		}
	}}})
	f := create(t, k, 0)
	if _, err := f.WriteAt(make([]byte, 4<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Fsync(false), f.Truncate(100_001), f.Close()); err != nil {
		t.Fatal(err)
	}
	if most != maxFolio*PageSize {
		t.Errorf("the largest folio has %d bytes, want %d", most, maxFolio*PageSize)
	}
}

// TestBatchForget: what waits to be forgotten comes in one message.
func TestBatchForget(t *testing.T) {
	d := New(Options{}).Dev()
	want := map[uint64]uint64{}
	for i := uint64(1); i < 6; i++ {
		d.send(opForget, i, Cred{}, msg().u64(i*10).b, false)
		want[i] = i * 10
	}
	p := make([]byte, 4096)
	n, err := d.Read(p)
	if err != nil || n != inHeaderSize+8+5*16 || le.Uint32(p) != uint32(n) || opOf(p) != opBatchForget || le.Uint32(p[inHeaderSize:]) != 5 {
		t.Fatalf("read %d bytes, %v: % x", n, err, p[:max(n, 0)])
	}
	for b := p[inHeaderSize+8 : n]; len(b) > 0; b = b[16:] {
		if node := le.Uint64(b); want[node] != le.Uint64(b[8:]) {
			t.Errorf("node %d: %d lookups, want %d", node, le.Uint64(b[8:]), want[node])
		}
		delete(want, le.Uint64(b))
	}
	if len(want) > 0 || len(d.queue) > 0 {
		t.Errorf("not forgotten: %v, and %d messages", want, len(d.queue))
	}
}

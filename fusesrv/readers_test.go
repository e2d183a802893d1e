package fusesrv

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Readers are added while all are busy for long, and taken away when the requests are done that they were for. One
// request after the other needs no more than there are at first.
func TestReadersComeAndGo(t *testing.T) {
	k, fs := newSlow(t)
	for range 2000 {
		if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != 0 {
			t.Fatal(errno)
		}
	}
	if n := fs.loop.number.Load(); n != fewReaders {
		t.Errorf("%d readers for one request after the other, want %d", n, fewReaders)
	}
	const slow = 20
	first := k.unique + 1
	for range slow {
		k.send(opLookup, 1, []byte("name\x00"))
		<-fs.lookups
	}
	if n := fs.loop.number.Load(); n < slow {
		t.Errorf("%d readers for %d requests that take long", n, slow)
	}
	for range slow {
		fs.answer <- struct{}{}
		k.receiveAny(first, first+slow)
	}
	for start := time.Now(); fs.loop.number.Load() > fewReaders; {
		if time.Since(start) > time.Minute {
			t.Fatalf("%d readers are left, want %d", fs.loop.number.Load(), fewReaders)
		}
		// Those that wait end with the next request that they answer.
		if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno, _ := k.ask(opSyncfs, 1, make([]byte, 8)); errno != unix.Errno(0) {
		t.Fatal(errno)
	}
}

// Requests that wait for a disk for a millisecond each are under way at once, though none takes long.
func TestReadersWaitTogether(t *testing.T) {
	k, fs := newSlow(t)
	go func() {
		for range fs.lookups {
			go func() {
				time.Sleep(time.Millisecond)
				fs.answer <- struct{}{}
			}()
		}
	}()
	const together, all = 16, 4000
	most, first := int32(0), k.unique+1
	for range together {
		k.send(opLookup, 1, []byte("name\x00"))
	}
	for range all {
		k.receiveAny(first, k.unique+1)
		k.send(opLookup, 1, []byte("name\x00"))
		most = max(most, fs.under.Load())
	}
	for range together {
		k.receiveAny(first, k.unique+1)
	}
	close(fs.lookups)
	if most < together/3 {
		t.Errorf("%d requests were under way at most, of %d that wait for a millisecond each", most, together)
	}
}

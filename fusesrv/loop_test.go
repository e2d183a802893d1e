package fusesrv

import (
	"log"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A slowFS answers LOOKUP when it is told to.
type slowFS struct {
	nullFS
	lookups   chan struct{} // one is sent for each LOOKUP that begins
	answer    chan struct{} // one is received for each that ends
	under     atomic.Int32  // LOOKUPs under way
	syncs     atomic.Int32
	destroyed atomic.Int32
	forgotten atomic.Int64
	loop      *loop // that it is served by
	t         testing.TB
}

func (s *slowFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.under.Add(1)
	defer s.under.Add(-1)
	s.lookups <- struct{}{}
	<-s.answer
	return s.nullFS.Lookup(nil, h, name, out)
}

func (s *slowFS) Forget(_, n uint64) { s.forgotten.Add(int64(n)) }

func (s *slowFS) Bmap(_, block uint64, size uint32) (uint64, fuse.Status) {
	if size == 666 {
		panic("a block size")
	}
	return block + uint64(size), fuse.OK
}

func (s *slowFS) SyncFS() fuse.Status { s.syncs.Add(1); return fuse.OK }

func (s *slowFS) Destroy() {
	s.destroyed.Add(1)
	if n := s.under.Load(); n != 0 {
		s.t.Errorf("Destroy with %d requests under way", n)
	}
}

// newSlow plays the kernel for a slowFS.
func newSlow(t *testing.T) (*kernel, *slowFS) {
	k := connectKernel(t, allCaps)
	fs := &slowFS{
		nullFS:  nullFS{RawFileSystem: fuse.NewDefaultRawFileSystem()},
		lookups: make(chan struct{}, 1000), answer: make(chan struct{}), t: t,
	}
	logger := log.New(k.log, "", 0)
	l, err := newLoop(device(k.theirs), fs, nil, &fuse.MountOptions{
		MaxWrite: maxRead, Logger: logger,
		PanicHandler: func(v any) fuse.Status {
			logger.Printf("%v\n%s", v, debug.Stack())
			return fuse.EIO
		},
	}, func(*fuse.InitIn, storeFunc) {})
	check(t, err)
	fs.loop = l
	k.run(func() {
		l.run()
		if n := fs.destroyed.Load(); n != 1 {
			t.Errorf("the file system was let go %d times", n)
		}
	})
	return k, fs
}

func (k *kernel) expect(what string, unique uint64, want unix.Errno) []byte {
	k.t.Helper()
	last := k.unique
	k.unique = unique
	defer func() { k.unique = last }()
	errno, body := k.receive()
	if errno != want {
		k.t.Errorf("%s: got %v, want %v", what, errno, want)
	}
	return body
}

// Requests that take long keep no other waiting, and DESTROY waits for them. Behind it
// nothing is answered any more.
func TestLoopDestroy(t *testing.T) {
	k, fs := newSlow(t)
	const slow = 50
	first := k.unique + 1
	for range slow {
		k.send(opLookup, 1, []byte("name\x00"))
		<-fs.lookups
	}
	if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != 0 {
		t.Errorf("GETATTR meanwhile: %v", errno)
	}
	k.send(opDestroy, 0, nil)
	destroy := k.unique
	for len(fs.lookups) > 0 || fs.destroyed.Load() != 0 {
		t.Fatal("DESTROY did not wait")
	}
	// What comes now is too late, and has its answer at once.
	for k.send(opGetattr, 1, make([]byte, 16)); ; k.send(opGetattr, 1, make([]byte, 16)) {
		errno, _ := k.receive()
		if errno == unix.ENODEV {
			break
		}
		if errno != 0 {
			t.Fatalf("GETATTR during DESTROY: %v", errno)
		}
	}
	k.send(opDestroy, 0, nil)
	k.expect("another DESTROY", k.unique, unix.ENODEV)
	for i := range slow {
		if fs.destroyed.Load() != 0 {
			t.Fatal("DESTROY did not wait")
		}
		fs.answer <- struct{}{}
		k.receiveAny(first, first+slow)
		_ = i
	}
	k.expect("DESTROY", destroy, 0)
	if n := fs.destroyed.Load(); n != 1 {
		t.Errorf("the file system was let go %d times", n)
	}
	k.send(opForget, 2, make([]byte, 8)) // has no answer
	if errno, _ := k.ask(opSyncfs, 1, make([]byte, 8)); errno != unix.ENODEV {
		t.Errorf("SYNCFS behind DESTROY: %v, want ENODEV", errno)
	}
	if fs.forgotten.Load() != 0 || fs.syncs.Load() != 0 {
		t.Error("the file system was asked behind DESTROY")
	}
}

// receiveAny takes the answer to one of the requests first to end-1.
func (k *kernel) receiveAny(first, end uint64) {
	k.t.Helper()
	n, err := unix.Read(k.fd, k.reply)
	for err == unix.EINTR {
		n, err = unix.Read(k.fd, k.reply)
	}
	if err != nil || n < outHeaderSize {
		k.t.Fatalf("an answer of %d bytes: %v", n, err)
	}
	if u := le.Uint64(k.reply[8:]); u < first || u >= end || le.Uint32(k.reply[4:]) != 0 {
		k.t.Fatalf("an answer to request %d, with status %d; want one of %d to %d", u, le.Uint32(k.reply[4:]), first, end-1)
	}
}

// What RawFileSystem has no methods for.
func TestLoopOwn(t *testing.T) {
	k, fs := newSlow(t)
	if errno, _ := k.ask(opSyncfs, 1, make([]byte, 8)); errno != 0 || fs.syncs.Load() != 1 {
		t.Errorf("SYNCFS: %v, %d calls", errno, fs.syncs.Load())
	}
	bmap := func(block uint64, size uint32) []byte {
		return le.AppendUint32(le.AppendUint32(le.AppendUint64(nil, block), size), 0)
	}
	if errno, body := k.ask(opBmap, 2, bmap(7, 4096)); errno != 0 || len(body) != 8 || le.Uint64(body) != 4103 {
		t.Errorf("BMAP: %v, % x", errno, body)
	}
	if errno, _ := k.ask(opBmap, 2, bmap(7, 666)); errno != unix.EIO || !strings.Contains(k.log.String(), "a block size") {
		t.Errorf("a fault: %v, and the log has %q", errno, k.log)
	}
	k.send(opForget, 2, le.AppendUint64(nil, 3))
	one := le.AppendUint64(le.AppendUint64(nil, 2), 4)
	k.send(opBatchForget, 0, append(append(le.AppendUint32(nil, 2), 0, 0, 0, 0), append(one, one...)...))
	if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != 0 {
		t.Errorf("behind FORGET: %v", errno)
	}
	for range 1000 {
		if fs.forgotten.Load() == 11 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d look-ups were forgotten, want 11", fs.forgotten.Load())
}

// INTERRUPT has no answer: EAGAIN would make the kernel send it again at once. What it is about
// has its own.
func TestLoopInterrupt(t *testing.T) {
	k, fs := newSlow(t)
	k.send(opLookup, 1, []byte("name\x00"))
	lookup := k.unique
	<-fs.lookups
	k.send(opInterrupt, 0, le.AppendUint64(nil, lookup))
	k.send(opInterrupt, 0, le.AppendUint64(nil, 1<<40))
	if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != 0 {
		t.Errorf("GETATTR behind INTERRUPT: %v", errno)
	}
	fs.answer <- struct{}{}
	k.expect("LOOKUP", lookup, 0)
}

// A kernel that does not begin with INIT, or with one of another protocol, is
// refused.
func TestLoopInit(t *testing.T) {
	for _, tt := range []struct {
		what   string
		opcode uint32
		major  uint32
	}{{"no INIT", opGetattr, 7}, {"protocol 6", opInit, 6}, {"INIT without a version", opInit, 0}} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		k := &kernel{t: t, fd: pair[0]}
		body := make([]byte, 64)
		le.PutUint32(body, tt.major)
		if tt.major == 0 {
			body = nil
		}
		k.send(tt.opcode, 0, body)
		var said syncBuffer
		_, err = newLoop(device(pair[1]), &slowFS{nullFS: nullFS{RawFileSystem: fuse.NewDefaultRawFileSystem()}}, nil,
			&fuse.MountOptions{Logger: log.New(&said, "", 0)}, func(*fuse.InitIn, storeFunc) {})
		if err == nil {
			t.Errorf("%s: accepted", tt.what)
		}
		unix.Close(pair[0])
		if err := unix.Close(pair[1]); err != unix.EBADF {
			t.Errorf("%s: the descriptor was left open: %v", tt.what, err)
		}
	}
}

// The data of requests and replies begin at pages, and have room for the largest. Those that are given
// back are used again, as many as are kept.
func TestLoopBuffers(t *testing.T) {
	l := &loop{free: make(chan *buffers, maxFree)}
	var all []*buffers
	for range maxFree + 3 {
		b := l.newBuffers()
		in, out := b.in[inHeaderSize+writeInSize:], b.out[outHeaderSize:]
		for _, p := range [][]byte{in, out} {
			if at := uintptr(unsafe.Pointer(&p[0])); at%pageSize != 0 || len(p) < maxRead {
				t.Errorf("data at %#x, of %d bytes at most", at, len(p))
			}
			p[0], p[len(p)-1] = 1, 1
		}
		all = append(all, b)
	}
	for _, b := range all {
		l.freeBuffers(b)
	}
	for i := range maxFree {
		b := l.newBuffers()
		if b != all[i] {
			t.Errorf("buffer %d is not one that was given back", i)
		}
		b.unmap()
	}
	if len(l.free) != 0 {
		t.Errorf("%d are left", len(l.free))
	}
}

package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestPitfalls has one test for each thing that a server must do for a kernel with fuse-iomap, and that is
// easily forgotten. docs/IOMAP.md has the list.
func TestPitfalls(t *testing.T) {
	for i, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the handshake", pitfallHandshake},
		{"flags in every entry", pitfallEntries},
		{"two mappings, always", pitfallTwoMappings},
		{"write-back has blocks", pitfallWriteback},
		{"what allocates", pitfallAllocation},
		{"new blocks are unwritten", pitfallUnwritten},
		{"IOEND", pitfallIoend},
		{"the mapping cache", pitfallCache},
		{"contents are the kernel's", pitfallContents},
		{"sizes that no SETATTR follows", pitfallSizes},
		{"SETATTR of what has no name", pitfallUnlinked},
		{"inline data", pitfallInline},
		{"DESTROY", pitfallDestroy},
		{"threads that must not reclaim", pitfallNofs},
		{"KEEP_CACHE and statx", pitfallOpen},
		{"the page cache of the device", pitfallDevice},
		{"many requests of one inode", pitfallTogether},
	} {
		t.Run(fmt.Sprintf("%d %s", i+1, test.name), test.run)
	}
}

// node opens a file, and returns its node id.
func (m *mapped) node(name string, flags int) (*simkernel.File, uint64) {
	m.t.Helper()
	f, err := m.k.Open(nobody, name, syscall.O_RDWR|syscall.O_CREAT|flags, 0o644)
	check(m.t, err)
	in, err := m.fs.Resolve(name, true)
	check(m.t, err)
	return f, nodeOf(in.Ino())
}

// begin asks the server, without the kernel between: the mapping is what the kernel would
// find in its cache, too.
func (m *mapped) begin(node uint64, op iomap.Op, pos, count uint64) iomap.Mapping {
	m.t.Helper()
	r, status := m.s.raw.maps.Begin(&fuse.InHeader{NodeId: node}, node, iomap.Request{Op: op, Pos: pos, Count: count})
	if status != fuse.OK {
		m.t.Fatalf("BEGIN %s at %d+%d: %v", op, pos, count, status)
	}
	return r.Read
}

func (m *mapped) ioend(node uint64, e iomap.Ioend) uint64 {
	m.t.Helper()
	size, status := m.s.raw.maps.Ioend(&fuse.InHeader{NodeId: node}, &e)
	if status != fuse.OK {
		m.t.Fatalf("IOEND %+v: %v", e, status)
	}
	return size
}

func (m *mapped) inode(node uint64) *ext4.Inode {
	m.t.Helper()
	in, err := m.fs.Inode(inoOf(node))
	check(m.t, err)
	return in
}

// state of the block at the beginning of a file, on the device.
func (m *mapped) state(node uint64) ext4.MapState {
	m.t.Helper()
	run, err := m.inode(node).Map(0)
	check(m.t, err)
	return run.State
}

// traced mounts a new file system and returns where the requests are kept, with their replies.
func traced(t *testing.T, args string, o simkernel.Options) (m *mapped, take func() []simkernel.Event) {
	t.Helper()
	var mu sync.Mutex
	var got []simkernel.Event
	o.Trace = func(e simkernel.Event) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
	}
	return mountMapped(t, mkfsMem(t, 32<<20, args), o), func() []simkernel.Event {
		mu.Lock()
		defer mu.Unlock()
		out := got
		got = nil
		return out
	}
}

func pitfallHandshake(t *testing.T) {
	var events []simkernel.Event
	k := simkernel.New(simkernel.Options{Trace: func(e simkernel.Event) { events = append(events, e) }})
	dev := mkfsMem(t, 32<<20, "-t ext4 -b 1024 -U 01020304-0506-0708-090a-0b0c0d0e0f10")
	fs, err := ext4.Open(dev, ext4.Options{Write: true})
	check(t, err)
	mounted := make(chan error, 1)
	go func() { mounted <- k.Mount() }()
	during := "before CONFIG"
	s, err := newServer(fs, simConn{k.Dev()}, &Options{Log: log.New(os.Stderr, "", 0)}, func() (Backing, error) {
		if k.Counts()["CONFIG"] == 1 && len(events) == 1 { // asked, and not answered
			during = "during CONFIG"
		}
		id, err := k.BackingOpen(dev, true, true)
		return Backing{ID: id}, err
	})
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(s.Serve)
	check(t, <-mounted)
	if during != "during CONFIG" {
		t.Errorf("the device was registered %s", during)
	}
	check(t, k.Unmount())
	wg.Wait()
	check(t, fs.Close())

	answer := events[0].Reply
	if minor, flags, flags2 := le.Uint32(answer[4:]), le.Uint32(answer[12:]), le.Uint32(answer[32:]); minor < 99 || flags&(1<<30) == 0 || flags2&(1<<11) == 0 {
		t.Errorf("INIT: minor %d, flags %#x, flags2 %#x", minor, flags, flags2)
	}
	config := events[1].Reply
	const uuid, blockSize, times, maxBytes = 1 << 1, 1 << 2, 1 << 4, 1 << 5
	if got := le.Uint64(config); got&(uuid|blockSize|times|maxBytes) != uuid|blockSize|times|maxBytes {
		t.Errorf("CONFIG has fields %#x", got)
	}
	if le.Uint32(config[60:]) != 1024 || config[56] != 16 || config[40] != 1 || config[55] != 16 {
		t.Errorf("CONFIG: block size %d, uuid of %d bytes % x", le.Uint32(config[60:]), config[56], config[40:56])
	}
	if gran, lo, hi, size := le.Uint32(config[68:]), int64(le.Uint64(config[72:])), int64(le.Uint64(config[80:])), le.Uint64(config[88:]); gran != 1 || lo != -1<<31 || hi != 1<<31-1+3<<32 || size != fs.Super().MaxFileSize(true) {
		t.Errorf("CONFIG: times in %d ns from %d to %d, files of %d bytes", gran, lo, hi, size)
	}
}

// Every way in which the kernel hears of an inode first has its flags. Below the root, the kernel
// hands ACLs down, for objects in the root it does not.
func pitfallEntries(t *testing.T) {
	m, take := traced(t, "-t ext4", simkernel.Options{})
	k := m.k
	acl := simkernel.ACL{{Tag: simkernel.ACLUserObj, Perm: 7}, {Tag: simkernel.ACLUser, Perm: 6, ID: 1000}, {Tag: simkernel.ACLGroupObj, Perm: 5}, {Tag: simkernel.ACLMask, Perm: 7}, {Tag: simkernel.ACLOther}}
	check(t, k.SetACL(nobody, "/", simkernel.ACLDefault, acl))
	f, _ := m.node("/f", 0)
	if got, err := k.GetACL(nobody, "/f", simkernel.ACLAccess); err != nil || len(got) != len(acl) {
		t.Errorf("what the root hands down: %v, %v", got, err)
	}
	check(t, k.Mkdir(nobody, "/d", 0o755))
	check(t, k.Mknod(nobody, "/d/reg", unix.S_IFREG|0o600, 0))
	check(t, k.Mknod(nobody, "/d/pipe", unix.S_IFIFO|0o600, 0))
	check(t, k.Symlink(nobody, "f", "/d/link"))
	check(t, k.Link(nobody, "/f", "/d/hard"))
	tmp, err := k.Tmpfile(nobody, "/d", 0o600)
	check(t, err)
	check(t, errors.Join(f.Close(), tmp.Close(), k.Evict()))
	_, err = k.Readdir(nobody, "/d")
	check(t, err)
	check(t, k.Evict())
	for _, name := range []string{"/f", "/d/reg", "/d/pipe", "/d/link"} {
		_, err := k.Stat(nobody, name)
		check(t, err)
	}
	seen := map[string]int{}
	judge := func(op string, entry []byte) {
		if le.Uint64(entry) == 0 {
			return // no such name, or "." and ".."
		}
		attr := entry[40:128]
		mode, flags := le.Uint32(attr[60:]), le.Uint32(attr[84:])
		want := uint32(1 << 2)
		if mode&unix.S_IFMT == unix.S_IFREG {
			want |= 1 << 3
			seen[op]++
		}
		if flags&(1<<2|1<<3) != want {
			t.Errorf("%s of mode %o: flags %#x, want %#x", op, mode, flags, want)
		}
	}
	for _, e := range take() {
		switch e.Op {
		case "LOOKUP", "CREATE", "TMPFILE", "MKNOD", "MKDIR", "SYMLINK", "LINK":
			if e.Err == nil {
				judge(e.Op, e.Reply)
			}
		case "READDIRPLUS":
			for b := e.Reply; len(b) > 0; {
				judge(e.Op, b)
				b = b[(128+24+int(le.Uint32(b[128+16:]))+7)/8*8:]
			}
		}
	}
	for _, op := range []string{"LOOKUP", "CREATE", "TMPFILE", "MKNOD", "LINK", "READDIRPLUS"} {
		if seen[op] == 0 {
			t.Errorf("no regular file came by %s", op)
		}
	}
	m.unmount()
}

func pitfallTwoMappings(t *testing.T) {
	for _, kind := range mappedKinds {
		m, take := traced(t, kind.args, simkernel.Options{Version: iomap.V8, Unrest: 0.2})
		if kind.size > 32 {
			m.unmount()
			continue // it has no journal in so little
		}
		p := newProgram(m, 3, kind.name != "indirect")
		check(t, p.run(60, nil))
		bs, n := uint64(m.fs.Super().BlockSize()), 0
		for _, e := range take() {
			if e.Op != "BEGIN" || e.Err != nil {
				continue
			}
			n++
			q, r := e.Begin(), e.BeginReply()
			if !r.Read.Covers(q.Pos) || r.Read.Offset%bs != 0 || r.Read.Length%bs != 0 || r.Write != iomap.Overwrite(r.Read) {
				t.Errorf("%s: BEGIN %s at %d: %v, %v", kind.name, q.Op, q.Pos, r.Read, r.Write)
			}
		}
		if n == 0 {
			t.Errorf("%s: nothing was asked", kind.name)
		}
		p.closeAll()
		m.unmount()
	}
}

// closeAll closes the files of a program.
func (p *program) closeAll() {
	p.t.Helper()
	for _, x := range p.files {
		if x.f != nil {
			check(p.t, errors.Join(x.f.Close(), x.d.Close()))
		}
	}
}

// A page of a file that a process has mapped gets blocks when it is written to; so that write-back
// finds them, also when all others are taken. Inline data are not written back.
func pitfallWriteback(t *testing.T) {
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4 -b 4096 -O inline_data -I 256"), simkernel.Options{Version: iomap.V8})
	f, node := m.node("/f", 0)
	check(t, writeAll(f, []byte("inline"), 0))
	if m.begin(node, iomap.OpReport, 0, 1).Type != iomap.TypeInline {
		t.Error("6 bytes are not inline")
	}
	check(t, f.Store([]byte("I"), 0)) // page_mkwrite, and then write-back
	check(t, f.Fsync(false))
	check(t, f.Truncate(40<<10))
	check(t, f.Store([]byte("mapped"), 20<<10))
	check(t, f.Fsync(false))
	m.begin(node, iomap.OpWriteback, 36<<10, 4096)
	if got := m.begin(node, iomap.OpReport, 36<<10, 4096).Type; got != iomap.TypeUnwritten {
		t.Errorf("after a question for write-back the hole is %s, want blocks", got)
	}
	p := make([]byte, 6)
	check(t, f.Drop())
	if _, err := f.ReadAt(p, 0); err != nil || string(p) != "Inline" {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := f.ReadAt(p, 20<<10); err != nil || string(p) != "mapped" {
		t.Errorf("%q, %v", p, err)
	}
	check(t, f.Close())
	m.unmount()
	TestMappedFull(t)
}

// Questions do not allocate, writes do.
func pitfallAllocation(t *testing.T) {
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4"), simkernel.Options{})
	f, node := m.node("/f", 0)
	check(t, f.Truncate(1<<20))
	has := func(pos uint64) iomap.Type { return m.begin(node, iomap.OpReport, pos, 1).Type }
	for i, op := range []iomap.Op{0, iomap.OpDirect, iomap.OpReport, iomap.OpZero} {
		pos := uint64(i) * 100_000
		m.begin(node, op, pos, 5000)
		if got := has(pos); got != iomap.TypeHole {
			t.Errorf("after a %s of a hole it is %s", op, got)
		}
	}
	for i, op := range []iomap.Op{iomap.OpWrite | iomap.OpDirect, iomap.OpWrite, iomap.OpWrite | iomap.OpFault} {
		pos := uint64(i) * 100_000
		m.begin(node, op, pos, 5000)
		if got := has(pos); got != iomap.TypeUnwritten {
			t.Errorf("after a %s of a hole it is %s", op, got)
		}
	}
	check(t, f.Close())
	m.unmount()
}

func pitfallUnwritten(t *testing.T) {
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4 -b 4096"), simkernel.Options{})
	f, node := m.node("/f", 0)
	if got := m.begin(node, iomap.OpWrite|iomap.OpDirect, 0, 8192); got.Type != iomap.TypeUnwritten {
		t.Errorf("new blocks are %s", got.Type)
	}
	if got := m.state(node); got != ext4.MapHole {
		t.Errorf("before the IOEND the map has a block that is %v", got)
	}
	e := iomap.Ioend{Flags: iomap.IoendDirect | iomap.IoendUnwritten | iomap.IoendAppend, Written: 8192, NewAddr: iomap.NullAddr}
	for range 2 { // it tolerates what has been converted
		if size := m.ioend(node, e); size != 8192 || m.state(node) != ext4.MapWritten {
			t.Errorf("after the IOEND: size %d, a block that is %v", size, m.state(node))
		}
	}
	// And what has become a hole, or was allocated otherwise.
	in := m.inode(node)
	check(t, m.fs.Fallocate(background, ext4.Root, in.Ino(), ext4.FallocPunchHole|ext4.FallocKeepSize, 0, 4096))
	e.Flags &^= iomap.IoendAppend
	if size := m.ioend(node, e); size != 8192 || m.state(node) != ext4.MapHole {
		t.Errorf("an IOEND for a hole: size %d, a block that is %v", size, m.state(node))
	}
	check(t, m.fs.Fallocate(background, ext4.Root, in.Ino(), 0, 16384, 8192))
	if size := m.ioend(node, iomap.Ioend{Flags: iomap.IoendWriteback | iomap.IoendUnwritten, Pos: 16384, Written: 4096}); size != 24576 {
		t.Errorf("an IOEND for what fallocate left: size %d", size)
	}
	if run, err := m.inode(node).Map(4); err != nil || run.State != ext4.MapWritten || run.Len != 1 {
		t.Errorf("it is %v, %v, want one written block", run, err)
	}
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, m.dev, false)
}

func pitfallIoend(t *testing.T) {
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4"), simkernel.Options{})
	f, node := m.node("/f", 0)
	m.begin(node, iomap.OpWrite|iomap.OpDirect, 0, 8192)
	failed := iomap.Ioend{Error: -int32(unix.EIO), Flags: iomap.IoendDirect | iomap.IoendUnwritten | iomap.IoendAppend, Written: 8192, NewAddr: iomap.NullAddr}
	if size := m.ioend(node, failed); size != 0 || m.state(node) != ext4.MapHole || m.inode(node).Size() != 0 {
		t.Errorf("a failed IOEND: size %d, a block that is %v", size, m.state(node))
	}
	// Where the data went is no matter of the kernel's: that it says so in sectors is not heard.
	for _, e := range []iomap.Ioend{
		{Flags: iomap.IoendWriteback | iomap.IoendUnwritten | iomap.IoendAppend, Written: 5000, NewAddr: 3},
		{Flags: iomap.IoendWriteback | iomap.IoendUnwritten, Written: 100, NewAddr: 1 << 60},
	} {
		if size := m.ioend(node, e); size != 5000 || m.inode(node).Size() != 5000 {
			t.Errorf("IOEND %+v: size %d, want 5000", e, size)
		}
	}
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, m.dev, false)
}

// What a writer was told is outdated when write-back comes in between: he has to notice, or zeros
// go over what is written. This is also the test of who invalidates what.
func pitfallCache(t *testing.T) {
	m, take := traced(t, "-t ext4", simkernel.Options{})
	f, node := m.node("/f", 0)
	check(t, writeAll(f, make([]byte, 100), 0))
	if m.k.Counts()["FUSE_NOTIFY_IOMAP_UPSERT_MAPPINGS"] == 0 {
		t.Errorf("nothing has come into the cache: %v", m.k.Counts())
	}
	retried := false
	for _, e := range take() {
		retried = retried || e.Op == "BEGIN" && e.Begin().Op == iomap.OpWrite && e.BeginReply().Read.Type == iomap.TypeRetryCache
	}
	if !retried {
		t.Error("a writer was not told to look into the cache")
	}
	m.begin(node, iomap.OpWrite|iomap.OpDirect, 1<<20, 4096)
	check(t, f.Close())
	m.unmount()
	for seed := range uint64(60) {
		m := mountMapped(t, mkfsMem(t, 16<<20, "-t ext4 -b 4096"), simkernel.Options{Seed: seed, Unrest: 0.9})
		f, _ := m.node("/f", 0)
		want := make([]byte, 4096*3)
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 12 {
			at, v := rng.IntN(len(want)-300), byte(1+rng.IntN(255))
			p := bytes.Repeat([]byte{v}, 300)
			check(t, writeAll(f, p, int64(at)))
			copy(want[at:], p)
		}
		got := make([]byte, f.Size())
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:len(got)]) {
			t.Fatalf("seed %d: other bytes than were written: %v", seed, err)
		}
		check(t, f.Close())
		m.unmount()
	}
}

// A spy notes where is written.
type spy struct {
	blockdev.Device
	mu     sync.Mutex
	writes [][2]int64
}

func (s *spy) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	s.writes = append(s.writes, [2]int64{off, off + int64(len(p))})
	s.mu.Unlock()
	return s.Device.WriteAt(p, off)
}

// Whatever is done to a file, the server writes to none of its blocks.
func pitfallContents(t *testing.T) {
	dev := mkfsMem(t, 32<<20, "-t ext4 -b 4096")
	server := &spy{Device: dev}
	fs, err := ext4.Open(server, ext4.Options{Write: true})
	check(t, err)
	k := simkernel.New(simkernel.Options{})
	_, wait := connectKernelTo(t, k, simConn{k.Dev()}, fs, dev, &Options{Log: log.New(os.Stderr, "", 0)})
	f, err := k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	check(t, err)
	check(t, writeAll(f, bytes.Repeat([]byte{1}, 100_000), 0))
	check(t, f.Fsync(false))
	extents, err := f.Fiemap(0, 1<<30, true)
	check(t, err)
	check(t, f.Truncate(90_001))
	check(t, f.Truncate(95_000))
	check(t, f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, 5000, 20_000))
	check(t, f.Fallocate(simkernel.FallocZeroRange, 50_001, 10_000))
	check(t, writeAll(f, []byte("x"), 120_000))
	check(t, errors.Join(f.Close(), k.Unmount()))
	wait()
	check(t, fs.Close())
	if len(extents) == 0 || len(server.writes) == 0 {
		t.Fatalf("extents %v, %d writes", extents, len(server.writes))
	}
	for _, m := range extents {
		for _, w := range server.writes {
			if w[0] < int64(m.Addr+m.Length) && int64(m.Addr) < w[1] {
				t.Errorf("the server has written bytes %d to %d, where %v is", w[0], w[1], m)
			}
		}
	}
	e2fsckMem(t, dev, false)
}

func pitfallSizes(t *testing.T) {
	m, take := traced(t, "-t ext4", simkernel.Options{})
	f, node := m.node("/f", 0)
	g, to := m.node("/g", 0)
	check(t, writeAll(f, make([]byte, 5000), 0))
	take()
	check(t, f.Fallocate(0, 0, 77_777))
	if got := m.inode(node).Size(); got != 77_777 {
		t.Errorf("after fallocate the server has %d bytes", got)
	}
	n, err := m.k.CopyFileRange(f, 0, g, 100, 5000)
	check(t, err)
	if got := m.inode(to).Size(); got != 100+n {
		t.Errorf("after a copy of %d bytes the server has %d", n, got)
	}
	for _, e := range take() {
		if e.Op == "SETATTR" && le.Uint32(e.Request)&(1<<3) != 0 {
			t.Error("a SETATTR has a size")
		}
	}
	check(t, errors.Join(f.Close(), g.Close()))
	m.unmount()
}

// A file without a name takes times without a handle, sizes, and writes.
func pitfallUnlinked(t *testing.T) {
	m, take := traced(t, "-t ext4", simkernel.Options{})
	f, node := m.node("/f", 0)
	take()
	check(t, m.k.Unlink(nobody, "/f"))
	found := false
	for _, e := range take() {
		if e.Op == "SETATTR" {
			valid := le.Uint32(e.Request)
			found = true
			if e.Err != nil || valid&(1<<6) != 0 || valid&(1<<10) == 0 {
				t.Errorf("SETATTR %#x after UNLINK: %v", valid, e.Err)
			}
		}
	}
	if !found {
		t.Error("no SETATTR follows UNLINK")
	}
	check(t, writeAll(f, make([]byte, 5000), 0))
	check(t, f.Truncate(300))
	check(t, f.Fsync(false))
	st := m.inode(node).Stat()
	a, err := f.Stat()
	check(t, err)
	if st.Size != 300 || st.Mtime != (disk.Time{Sec: a.Mtime.Sec, Nsec: a.Mtime.Nsec}) || st.Nlink != 0 {
		t.Errorf("the server has %+v, the kernel %+v", st, a)
	}
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, m.dev, false)
}

func pitfallInline(t *testing.T) {
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4 -b 4096 -O inline_data -I 256"), simkernel.Options{Version: iomap.V8})
	f, node := m.node("/f", 0)
	check(t, writeAll(f, []byte("hello"), 3))
	check(t, f.Drop())
	p := make([]byte, 20)
	if n, err := f.ReadAt(p, 0); err != nil || string(p[:n]) != "\x00\x00\x00hello" {
		t.Errorf("read %q, %v", p[:n], err)
	}
	for _, size := range []int64{8, 0} {
		check(t, f.Truncate(size))
		for _, at := range []uint64{0, 4000} {
			buf := bytes.Repeat([]byte{9}, 96)
			r, status := m.s.raw.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: at, Size: 96}, buf)
			if status != fuse.OK {
				t.Fatalf("READ of a file of %d bytes: %v", size, status)
			}
			got, _ := r.Bytes(nil)
			want := make([]byte, 96)
			if at == 0 && size > 0 {
				copy(want[3:], "hello")
			}
			if !bytes.Equal(got, want) {
				t.Errorf("READ at %d of a file of %d bytes: %q, want zeros behind them", at, size, got)
			}
		}
	}
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, m.dev, false)
}

// When umount returns, everything is on the device, which is free.
func pitfallDestroy(t *testing.T) {
	dev := mkfsMem(t, 32<<20, "-t ext4")
	fs, err := ext4.Open(dev, ext4.Options{Write: true})
	check(t, err)
	k := simkernel.New(simkernel.Options{})
	released := false
	o := &Options{Log: log.New(os.Stderr, "", 0), Release: func() error { released = true; return fs.Close() }}
	_, wait := connectKernelTo(t, k, simConn{k.Dev()}, fs, dev, o)
	f, err := k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	check(t, err)
	check(t, writeAll(f, bytes.Repeat([]byte{7}, 50_000), 0))
	check(t, errors.Join(f.Close(), k.Unmount()))
	if !released {
		t.Error("DESTROY was answered, and the image not let go")
	}
	for seed := range uint64(5) { // at once: nothing of it is lost
		after := dev.Crash(rand.New(rand.NewPCG(seed, 1)))
		again, err := ext4.Open(after, ext4.Options{})
		check(t, err)
		if data, err := readWhole(again, "/f"); err != nil || !bytes.Equal(data, bytes.Repeat([]byte{7}, 50_000)) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
		check(t, again.Close())
		e2fsckMem(t, after, false)
	}
	wait()
	TestLoopDestroy(t) // the RELEASEs before it
}

// Each thread says that no memory is to be freed by what it serves itself.
func pitfallNofs(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	dev := mkfsMem(t, 16<<20, "-t ext4 -b 1024")
	fs, err := ext4.Open(dev, ext4.Options{Write: true})
	check(t, err)
	k := simkernel.New(simkernel.Options{})
	const most = 2 << 20
	check(t, unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, most))
	check(t, unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, most))
	var pumps sync.WaitGroup
	pumps.Go(func() { // a descriptor in place of simConn
		p := make([]byte, most)
		for {
			n, err := k.Dev().Read(p)
			if err != nil {
				unix.Shutdown(pair[0], unix.SHUT_RDWR)
				return
			}
			unix.Write(pair[0], p[:n])
		}
	})
	pumps.Go(func() {
		p := make([]byte, most)
		for {
			n, err := unix.Read(pair[0], p)
			if n <= 0 || err != nil {
				return
			}
			k.Dev().Write(p[:n])
		}
	})
	var said syncBuffer
	_, wait := connectKernelTo(t, k, device(pair[1]), fs, dev, &Options{Log: log.New(&said, "", 0)})
	check(t, k.Mkdir(nobody, "/d", 0o700))
	check(t, k.Unmount())
	wait()
	pumps.Wait()
	unix.Close(pair[0])
	check(t, fs.Close())
	// A socket knows no such ioctl, which each reader has complained of.
	if n := strings.Count(said.String(), "keep the kernel from waiting for its own requests"); n < 2 {
		t.Errorf("%d threads have asked for NOFS: %s", n, &said)
	}
}

func pitfallOpen(t *testing.T) {
	m, take := traced(t, "-t ext4", simkernel.Options{})
	f, node := m.node("/f", 0)
	tmp, err := m.k.Tmpfile(nobody, "/", 0o600)
	check(t, err)
	g, err := m.k.Open(nobody, "/f", syscall.O_RDONLY, 0)
	check(t, err)
	n := 0
	for _, e := range take() {
		at, ok := map[string]int{"OPEN": 0, "CREATE": 128, "TMPFILE": 128}[e.Op]
		if !ok {
			continue
		}
		n++
		if flags := le.Uint32(e.Reply[at+8:]); flags&(1<<1) == 0 || flags&(1<<2|1<<4|1<<7) != 0 {
			t.Errorf("%s: open flags %#x", e.Op, flags)
		}
	}
	if n != 3 {
		t.Errorf("%d files were opened, want 3", n)
	}
	var out fuse.StatxOut
	if status := m.s.raw.Statx(nil, &fuse.StatxIn{InHeader: fuse.InHeader{NodeId: node}, SxMask: unix.STATX_BTIME}, &out); status != fuse.OK || out.Statx.Mask&unix.STATX_BASIC_STATS != unix.STATX_BASIC_STATS {
		t.Errorf("STATX: %v, mask %#x, want all basic stats", status, out.Statx.Mask)
	}
	check(t, errors.Join(f.Close(), g.Close(), tmp.Close()))
	m.unmount()
}

// Freed blocks of metadata need no DEV_INVAL, since the loop device that the kernel is given has no
// contents of its own: both see what the other has written, at once.
func pitfallDevice(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	path := filepath.Join(t.TempDir(), "image")
	check(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	image, err := blockdev.Open(path, blockdev.Options{Write: true})
	check(t, err)
	defer image.Close()
	loop, err := image.AttachLoop(0, 1<<20, false)
	check(t, err)
	defer loop.Close()
	kernel, err := unix.Open(loop.Name(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0) // the contents of files pass by the device's cache
	check(t, err)
	defer unix.Close(kernel)
	page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	check(t, err)
	defer unix.Munmap(page)
	p := make([]byte, 4096)
	for i := range byte(10) {
		_, err := image.WriteAt(bytes.Repeat([]byte{1 + i}, 4096), 8192) // metadata, which are freed then
		check(t, err)
		n, err := unix.Pread(kernel, page[:4096], 8192)
		if err != nil || n != 4096 || page[0] != 1+i {
			t.Fatalf("the kernel reads %d: %v, want %d", page[0], err, 1+i)
		}
		page[0] = 100 + i
		_, err = unix.Pwrite(kernel, page[:4096], 8192)
		check(t, err)
		_, err = image.ReadAt(p, 8192)
		if err != nil || p[0] != 100+i {
			t.Fatalf("we read %d: %v, want %d", p[0], err, 100+i)
		}
	}
}

func pitfallTogether(t *testing.T) {
	defer watch("many requests of one inode")()
	dev := mkfsMem(t, 64<<20, "-t ext4")
	m := mountMapped(t, dev, simkernel.Options{Unrest: 0.5})
	f, _ := m.node("/f", 0)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			for range 40 {
				at := rng.Int64N(200_000)
				switch rng.IntN(4) {
				case 0:
					f.WriteAt(make([]byte, 9000), at)
				case 1:
					f.Store(make([]byte, 5000), at)
				case 2:
					f.ReadAt(make([]byte, 9000), at)
				case 3:
					f.Fsync(true)
				}
			}
		})
	}
	wg.Wait()
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, dev, false)
	TestMappedTogether(t)
}

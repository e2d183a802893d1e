package fusesrv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A flaky is a device whose calls of one kind ("read", "write", "flush") fail with EIO from one of
// them on: that one alone, or all that follow too, of whatever kind.
type flaky struct {
	blockdev.Device
	kind    string
	forGood bool

	left  atomic.Int64 // calls of the kind until the first that fails
	armed atomic.Bool
	hit   atomic.Bool
}

func (d *flaky) fails(kind string) error {
	switch {
	case !d.armed.Load():
		return nil
	case d.forGood && d.hit.Load():
	case kind != d.kind || d.left.Add(-1) != -1:
		return nil
	}
	d.hit.Store(true)
	return unix.EIO
}

func (d *flaky) ReadAt(p []byte, off int64) (int, error) {
	if err := d.fails("read"); err != nil {
		return 0, err
	}
	return d.Device.ReadAt(p, off)
}

func (d *flaky) WriteAt(p []byte, off int64) (int, error) {
	if err := d.fails("write"); err != nil {
		return 0, err
	}
	return d.Device.WriteAt(p, off)
}

func (d *flaky) Flush() error {
	if err := d.fails("flush"); err != nil {
		return err
	}
	return d.Device.Flush()
}

// A fault is what goes wrong in a run, once or for good.
type fault struct {
	device string       // calls of the device that fail: "read", "write", "flush"; ""
	kernel string       // what the kernel fails with before it asks: "read", "write" (of data), the name of a request, "request" for any; ""
	answer iomap.Opcode // requests that are done, and answered with an error; 0
	errno  syscall.Errno
	after  int64 // how many of them work
	always bool
}

func (f fault) String() string {
	s := fmt.Sprintf("%s of the device, %d work: %v", f.device, f.after, f.errno)
	if f.kernel != "" {
		s = fmt.Sprintf("%s of the kernel, %d work: %v", f.kernel, f.after, f.errno)
	}
	if f.answer != 0 {
		s = fmt.Sprintf("answer to %s, %d work: %v", f.answer, f.after, f.errno)
	}
	if f.always {
		s += " for good"
	}
	return s
}

// A denier answers a request that the server has done with an error.
type denier struct {
	conn
	op    iomap.Opcode
	fails func() error

	mu  sync.Mutex
	ops map[uint64]iomap.Opcode // guarded by mu: of the requests under way
}

func (d *denier) Read(p []byte) (int, error) {
	n, err := d.conn.Read(p)
	if err == nil {
		d.mu.Lock()
		d.ops[le.Uint64(p[8:])] = iomap.Opcode(le.Uint32(p[4:]))
		d.mu.Unlock()
	}
	return n, err
}

func (d *denier) Write(p []byte) (int, error) {
	unique := le.Uint64(p[8:])
	d.mu.Lock()
	op := d.ops[unique]
	delete(d.ops, unique)
	d.mu.Unlock()
	if op == d.op && unique != 0 {
		if errno, ok := d.fails().(syscall.Errno); ok {
			var no [outHeaderSize]byte
			_, err := d.conn.Write(no[:answerOf(no[:], unique, fuse.Status(errno), 0)])
			return len(p), err
		}
	}
	return d.conn.Write(p)
}

// failingRun is a program among whose calls something fails.
type failingRun struct {
	*program
	failed map[*programFile]bool // an error was told of: nobody knows what it has
	lossy  bool                  // the kernel may lose an error by a defect of its own
	hit    func() bool           // something has failed
}

// step does something. An error makes the file unknown; without one, the file has what it should,
// or the next fsync says why not.
func (r *failingRun) step() {
	r.program.step++
	i := r.rng.IntN(len(r.files))
	x := r.files[i]
	if r.failed[x] && x.f != nil && r.rng.IntN(4) == 0 {
		if x.f.Truncate(0) == nil { // whatever it was, it is empty now
			x.data, x.synced = []byte{}, nil
			delete(r.failed, x)
		}
		return
	}
	what, err := r.act(i, x)
	switch {
	case err == nil && what == "unlink":
		delete(r.failed, x)
	case strings.HasPrefix(what, "copy") && r.failed[r.files[(i+1)%len(r.files)]]:
		r.failed[x] = true // what was copied is unknown
	case err == nil, what == "stat", what == "open":
	case what == "sync":
		for _, y := range r.files {
			r.failed[y] = true
		}
	default:
		r.failed[x] = true
	}
	for _, y := range r.files {
		if r.failed[y] && (what == "sync" || what == "fsync") {
			y.synced = nil
		}
	}
	if r.failed[x] || x.f == nil {
		return
	}
	if err := r.compare(x); err != nil {
		switch {
		case errors.As(err, new(syscall.Errno)): // it could not be read
		case x.f.Fsync(false) != nil, r.lossy:
			r.failed[x], x.synced = true, nil
		default:
			r.t.Errorf("step %d: after %s of %s nobody was told that %v", r.program.step, what, x.name, err)
			r.failed[x] = true
		}
	}
}

// run does n things, few of them after something has failed: more would change what was taken for durable. Then it
// unmounts. It reports whether all that was to be kept is
// kept: unmounting and closing went well.
func (r *failingRun) run(n int) (clean bool) {
	for more := 1 + r.rng.IntN(12); n > 0 && more > 0; n-- {
		r.step()
		if r.hit() {
			more--
		}
	}
	for _, x := range r.files {
		if x.f != nil && errors.Join(x.f.Close(), x.d.Close()) != nil {
			r.failed[x] = true
		}
	}
	err := r.k.Unmount()
	r.stop()
	return errors.Join(err, r.fs.Close()) == nil
}

// judge says what is wrong with what is on dev. With whole, each file that
// did not fail has all that was written to it, otherwise only what was synced.
func (r *failingRun) judge(dev *blockdev.Mem, whole bool) error {
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return err
	}
	defer fs.Close()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, x := range r.files {
		data, err := readWhole(fs, x.name)
		switch {
		case errors.Is(err, unix.ENOENT):
			if x.known && !r.failed[x] || whole && !r.failed[x] && x.data != nil {
				bad("%s is gone", x.name)
			}
			continue
		case err != nil:
			bad("%v", err)
			continue
		}
		if want := x.synced; want != nil && !r.lossy {
			if err := differ(data, want); err != nil {
				bad("%s was synced: %v", x.name, err)
			}
		} else if whole && !r.failed[x] && x.data != nil {
			if err := differ(data, x.data); err != nil {
				bad("%s: nobody was told that %v", x.name, err)
			}
		}
		if i := slices.IndexFunc(data, func(b byte) bool { return b != 0 && !x.values[b] }); i >= 0 {
			bad("byte %d of %s is %d, which was never written to it", i, x.name, data[i])
		}
	}
	return errors.Join(errs...)
}

// checkers asks e2fsck, which replays the journal first with replay, and then fsck-lite, if there is
// nothing to be replayed.
func checkers(t *testing.T, dev *blockdev.Mem, replay bool) error {
	t.Helper()
	e2fsckMem(t, dev, replay)
	if replay {
		return nil
	}
	report, err := fsck.Run(context.Background(), dev, fsck.Options{})
	if err != nil {
		return fmt.Errorf("fsck-lite: %w", err)
	}
	for _, p := range report.Problems {
		if p.Severity != fsck.Note {
			return fmt.Errorf("fsck-lite: %s, %+v: have %s, want %s", p.Code, p.Place, p.Have, p.Want)
		}
	}
	return nil
}

// watch ends the test with the stacks of all if it is not over soon.
func watch(what string) (stop func() bool) {
	return time.AfterFunc(2*time.Minute, func() {
		debug.SetTraceback("all")
		panic("hangs: " + what)
	}).Stop
}

// runFailing runs a program with f going wrong, and judges everything. It
// reports whether anything went wrong, and how many calls there were of the kind that fails.
func runFailing(t *testing.T, base *blockdev.Mem, extents bool, version iomap.Version, seed uint64, f fault) (hit bool, calls int64) {
	t.Helper()
	defer watch(fmt.Sprintf("%s, seed %d, %s", version, seed, f))()
	dev := base.Clone()
	through := &flaky{Device: dev, kind: f.device, forGood: f.always}
	through.left.Store(f.after)
	var armed, injected atomic.Bool
	var left atomic.Int64
	left.Store(f.after)
	fails := func() error {
		if !armed.Load() {
			return nil
		}
		if n := left.Add(-1); n == -1 || n < 0 && f.always {
			injected.Store(true)
			return f.errno
		}
		return nil
	}
	k := simkernel.New(simkernel.Options{Version: version, Seed: seed, Unrest: 0.2, Fail: func(what string) error {
		switch {
		case f.kernel == "":
			return nil
		case what == "RELEASE" || what == "DESTROY": // nothing keeps a kernel from sending these
			return nil
		case what != f.kernel && (f.kernel != "request" || what == "read" || what == "write"):
			return nil
		}
		return fails()
	}})
	fs, err := ext4.Open(through, ext4.Options{Write: true})
	check(t, err)
	c := &denier{conn: simConn{k.Dev()}, op: f.answer, fails: fails, ops: map[uint64]iomap.Opcode{}}
	s, wait := connectKernelTo(t, k, c, fs, through, &Options{Log: log.New(io.Discard, "", 0)})
	m := &mapped{t: t, k: k, s: s, fs: fs, dev: dev, stop: wait}
	r := &failingRun{program: newProgram(m, seed, extents), failed: map[*programFile]bool{}}
	// What the server does not know to have failed it cannot tell later, when this kernel does not.
	r.lossy = (f.kernel == "request" || f.kernel == "IOEND" || f.answer == iomap.OpcodeIoend) && version == iomap.V7
	r.hit = func() bool { return injected.Load() || through.hit.Load() }
	armed.Store(true)
	through.armed.Store(f.device != "")
	clean := r.run(60)
	through.armed.Store(false)
	for _, b := range m.k.Breaches() {
		if !errors.Is(b, unix.EIO) { // an answer that the server could not make
			t.Errorf("the kernel complains: %v", b)
		}
	}
	whole := clean && !r.lossy
	if err := errors.Join(r.judge(dev, whole), checkers(t, dev, !clean)); err != nil {
		t.Errorf("%v", err)
	}
	// The power goes, too: what was synced does not.
	rng := rand.New(rand.NewPCG(seed, uint64(f.after)))
	for range 4 {
		err := r.judge(dev.Crash(rng), whole)
		var bad *disk.CorruptError
		if errors.As(err, &bad) && bad.Field == "s_checksum" {
			continue // a torn superblock: docs/CRASH.md
		}
		if err != nil {
			t.Errorf("and the power went: %v", err)
		}
	}
	if t.Failed() {
		t.Fatalf("%s, seed %d, %s; closed: %t", version, seed, f, clean)
	}
	return r.hit(), 2*f.after - left.Load() - through.left.Load()
}

// TestMappedFaults: what fails, of the device's calls, the kernel's own, or its requests,
// whenever it does: the program is told before it takes something for kept, what was synced is there, nobody
// sees what is not his, the file system is sound, and nothing hangs. E4GO_IOMAP_FAULTS=N tries N for each way to fail.
func TestMappedFaults(t *testing.T) {
	tries := 1
	if s := os.Getenv("E4GO_IOMAP_FAULTS"); s != "" {
		_, err := fmt.Sscan(s, &tries)
		check(t, err)
	}
	var ways []fault
	for _, always := range []bool{false, true} {
		for _, call := range []string{"read", "write", "flush"} {
			ways = append(ways, fault{device: call, errno: unix.EIO, always: always})
		}
		ways = append(ways, fault{kernel: "write", errno: unix.EIO, always: always}, fault{kernel: "read", errno: unix.EIO, always: always})
	}
	for _, request := range []string{"BEGIN", "END", "IOEND", "request"} {
		for _, errno := range []syscall.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT} {
			ways = append(ways, fault{kernel: request, errno: errno})
		}
		ways = append(ways, fault{kernel: request, errno: unix.EIO, always: true})
	}
	for _, op := range []iomap.Opcode{iomap.OpcodeBegin, iomap.OpcodeEnd, iomap.OpcodeIoend} {
		ways = append(ways, fault{answer: op, errno: unix.EIO}, fault{answer: op, errno: unix.ENOSPC, always: true})
	}
	for n, kind := range mappedKinds {
		if testing.Short() && n > 0 {
			break
		}
		t.Run(kind.name, func(t *testing.T) {
			base := mkfsMem(t, kind.size<<20, kind.args)
			rng := rand.New(rand.NewPCG(uint64(n), 77))
			type calls struct {
				device, kernel string
				answer         iomap.Opcode
				version        iomap.Version
				seed           int
			}
			total := map[calls]int64{}
			runs, hits := 0, 0
			for _, f := range ways {
				for seed := range tries {
					version := iomap.V7 + iomap.Version(rng.IntN(2))*(iomap.V8-iomap.V7)
					key := calls{f.device, f.kernel, f.answer, version, seed % 4}
					if total[key] == 0 { // nothing fails: how many are there?
						none := f
						none.after = 1 << 40
						_, n := runFailing(t, base, kind.name != "indirect", version, uint64(key.seed), none)
						total[key] = max(n, 1)
					}
					f.after = rng.Int64N(total[key])
					runs++
					if hit, _ := runFailing(t, base, kind.name != "indirect", version, uint64(key.seed), f); hit {
						hits++
					}
				}
			}
			t.Logf("%d of %d runs met a failure", hits, runs)
			if hits < runs/2 {
				t.Error("too few of them")
			}
		})
	}
}

package ext4

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A crashRun does a workload on a recorded device and remembers which states
// the tree went through, and when.
type crashRun struct {
	t      testing.TB
	ci     crashImage
	fs     *FS
	rec    *blockdev.Record
	rng    *rand.Rand
	states []*modelState // the first is that at the start
	began  []int         // length of the log when the operation that led to a state began
	marks  []crashMark
	nextID int
	log    []string // what was done, for messages
}

// A crashMark says that from a length of the log on, a state is durable.
type crashMark struct{ at, state int }

func (r *crashRun) now() *modelState { return r.states[len(r.states)-1] }

// errNotDone is the error of an operation that the file system may refuse.
var errNotDone = errors.New("not done")

// step does one operation. change makes the next state, do does the same to the file
// system; [errNotDone] makes it no operation.
func (r *crashRun) step(what string, change func(*modelState), do func() error) {
	r.t.Helper()
	next := r.now().clone()
	change(next)
	next.drop()
	began := len(r.rec.Log())
	if err := do(); errors.Is(err, errNotDone) {
		return
	} else if err != nil {
		r.t.Fatalf("%s: %v\nafter %q", what, err, r.log)
	}
	r.log = append(r.log, what)
	r.states = append(r.states, next)
	r.began = append(r.began, began)
}

func (r *crashRun) ino(path string) disk.Ino {
	r.t.Helper()
	in, err := r.fs.Resolve(path, false)
	if err != nil {
		r.t.Fatalf("%s: %v\nafter %q", path, err, r.log)
	}
	return in.Ino()
}

// file is a random regular file of the current state, "" if there is none.
func (r *crashRun) file() (path string, n *modelNode) {
	var all []string
	s := r.now()
	for p, id := range s.names {
		if s.nodes[id].mode.Type() == disk.ModeReg {
			all = append(all, p)
		}
	}
	if all == nil {
		return "", nil
	}
	slices.Sort(all)
	p := all[r.rng.IntN(len(all))]
	return p, s.node(p)
}

// sync makes all durable.
func (r *crashRun) sync() {
	r.t.Helper()
	state := len(r.states) - 1
	r.log = append(r.log, "sync")
	if err := r.fs.Sync(); err != nil {
		r.t.Fatalf("sync: %v\nafter %q", err, r.log)
	}
	r.marks = append(r.marks, crashMark{len(r.rec.Log()), state})
}

// fsync makes one file or directory durable: the last state that changed what it
// is or holds, and with it what was done before.
func (r *crashRun) fsync(path string) {
	r.t.Helper()
	dataOnly := r.rng.IntN(2) == 0
	state := len(r.states) - 1
	for state > 0 && r.states[state].sameFile(r.states[state-1], path, dataOnly) {
		state--
	}
	r.log = append(r.log, "fsync "+path)
	if err := r.fs.Fsync(r.ino(path), dataOnly); err != nil {
		r.t.Fatalf("fsync %s: %v\nafter %q", path, err, r.log)
	}
	r.marks = append(r.marks, crashMark{len(r.rec.Log()), state})
}

func (r *crashRun) write(path string, off int64, n int) {
	r.t.Helper()
	id, op := r.now().names[path], len(r.states)
	p := pattern(id, op, off, n)
	r.step(fmt.Sprintf("write %s %d+%d", path, off, n), func(s *modelState) {
		s.set(s.nodes[id].write(off, p))
		s.part = &modelWrite{id, off, off + int64(n)}
	}, func() error {
		k, err := r.fs.WriteAt(context.Background(), Root, r.ino(path), p, off)
		if err == nil && k != n {
			err = fmt.Errorf("wrote %d of %d bytes", k, n)
		}
		return err
	})
}

func (r *crashRun) truncate(path string, size int64) {
	r.t.Helper()
	id := r.now().names[path]
	r.step(fmt.Sprintf("truncate %s %d", path, size), func(s *modelState) {
		s.set(s.nodes[id].truncate(size))
	}, func() error { return r.fs.Truncate(context.Background(), Root, r.ino(path), size) })
}

// random does one operation of those that there are.
func (r *crashRun) random() {
	r.t.Helper()
	path, n := r.file()
	if n == nil {
		return
	}
	switch r.rng.IntN(4) {
	case 0:
		r.randomName()
		return
	case 1:
		r.randomAttr()
		return
	}
	size := len(n.data)
	switch r.rng.IntN(16) {
	case 0, 1: // overwrite, or extend a little
		r.write(path, int64(r.rng.IntN(size+1)), 1+r.rng.IntN(3000))
	case 2: // append
		r.write(path, int64(size), 1+r.rng.IntN(20_000))
	case 3: // behind a hole
		r.write(path, int64(size+r.rng.IntN(100_000)), 1+r.rng.IntN(9000))
	case 4:
		r.truncate(path, int64(r.rng.IntN(size+1)))
	case 5:
		r.truncate(path, int64(size+r.rng.IntN(50_000)))
	case 6:
		r.truncate(path, 0)
	case 7:
		r.fsync(path)
	case 8:
		r.sync()
	case 9:
		r.fallocate(path, 0, int64(r.rng.IntN(size+1)), int64(1+r.rng.IntN(60_000)))
	case 10:
		r.fallocate(path, FallocKeepSize, int64(r.rng.IntN(size+50_000)), int64(1+r.rng.IntN(60_000)))
	case 11:
		r.fallocate(path, FallocPunchHole|FallocKeepSize, int64(r.rng.IntN(size+1)), int64(1+r.rng.IntN(30_000)))
	case 12:
		r.fallocate(path, FallocZeroRange, int64(r.rng.IntN(size+1)), int64(1+r.rng.IntN(30_000)))
	case 13, 14:
		r.shift(path, r.rng.IntN(2) == 0)
	case 15:
		r.copy(path)
	}
}

// crashOpen opens an image as the tests of crashes do: nothing is committed
// but when it is asked for.
func crashOpen(dev blockdev.Device) (*FS, error) {
	return Open(dev, Options{Write: true, CommitInterval: time.Hour, CacheSize: 4 << 20, Now: crashClock})
}

func crashClock() time.Time { return time.Unix(1_750_000_000, 0) }

// start opens a copy of the image.
func (ci crashImage) start(t testing.TB, base *blockdev.Mem, seed uint64) *crashRun {
	t.Helper()
	r := &crashRun{
		t: t, ci: ci, rec: blockdev.NewRecord(base.Clone()), rng: rand.New(rand.NewPCG(seed, 1)),
		states: []*modelState{crashStart()}, began: []int{0}, nextID: 100,
	}
	var err error
	if r.fs, err = crashOpen(r.rec); err != nil {
		t.Fatal(err)
	}
	return r
}

// record does the workload of ops random operations on a copy of the image.
func (ci crashImage) record(t testing.TB, base *blockdev.Mem, seed uint64, ops int) *crashRun {
	t.Helper()
	r := ci.start(t, base, seed)
	for range ops {
		r.random()
	}
	if r.rng.IntN(2) == 0 {
		if err := r.fs.Close(); err != nil {
			t.Fatalf("close: %v\nafter %q", err, r.log)
		}
		r.marks = append(r.marks, crashMark{len(r.rec.Log()), len(r.states) - 1})
	} else {
		r.fs.abandon()
	}
	return r
}

// Blocks that were of a directory, and are of a file now, are not replayed as
// they were in the directory.
func TestCrashRevoke(t *testing.T) {
	ci := crashImages()[0]
	base := ci.make(t)
	r := ci.start(t, base, 1)
	ctx := context.Background()
	quiet := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := r.fs.Mkdir(ctx, Root, disk.RootIno, "d", disk.ModeDir|0o755)
	quiet(err)
	name := func(i int) string { return fmt.Sprintf("%0200d", i) }
	for i := range 40 {
		_, err := r.fs.Create(ctx, Root, dir.Ino(), name(i), disk.ModeReg|0o600)
		quiet(err)
	}
	quiet(r.fs.Sync())
	for i := range 40 {
		quiet(r.fs.Unlink(ctx, Root, dir.Ino(), name(i)))
	}
	quiet(r.fs.Rmdir(ctx, Root, disk.RootIno, "d"))
	quiet(r.fs.Sync())
	from := len(r.rec.Log())
	// The file gets all that is free, and so what the directory had.
	st, err := r.fs.Statfs()
	quiet(err)
	r.write("/f0", 0, int(st.Free-splitReserve(&r.fs.sb)-200)*1024)
	r.fsync("/f0")
	r.fs.abandon()
	n := 0
	r.sweep(t, ci, base, 2, func() bool { n++; return n > from }, r.rng)
}

// abandon ends the goroutines of a file system whose process is killed:
// nothing more is written.
func (fs *FS) abandon() {
	close(fs.rw.stop)
	<-fs.rw.done
	fs.cache.close()
}

// bounds are the states between which a power cut after at events of the log
// has to leave the tree.
func (r *crashRun) bounds(at int) (first, last int) {
	for _, m := range r.marks {
		if m.at <= at {
			first = max(first, m.state)
		}
	}
	for k, began := range r.began {
		if began <= at {
			last = k
		}
	}
	return first, last
}

// cutPower is the device after a power cut. The superblock arrives whole or
// not at all: without a good one the journal is not found, and neither the kernel nor
// e2fsck survive what their own writes of it could leave then.
func cutPower(m *blockdev.Mem, super []byte, pending []blockdev.Event, rng *rand.Rand) *blockdev.Mem {
	out := m.Crash(rng)
	versions := [][]byte{super}
	for _, e := range pending {
		if e.Kind == blockdev.EventWrite && e.Off <= disk.SuperblockOffset && e.Off+int64(len(e.Data)) >= disk.SuperblockOffset+disk.SuperblockSize {
			versions = append(versions, e.Data[disk.SuperblockOffset-e.Off:][:disk.SuperblockSize])
		}
	}
	out.WriteAt(versions[rng.IntN(len(versions))], disk.SuperblockOffset)
	out.Flush()
	return out
}

func readSuperBytes(m *blockdev.Mem) []byte {
	b := make([]byte, disk.SuperblockSize)
	m.ReadAt(b, disk.SuperblockOffset)
	return b
}

// sweep cuts the power at prefixes of the log that want wants: once with all
// written until then there, and perEvent times with something of the writes since the
// last barrier.
func (r *crashRun) sweep(t testing.TB, ci crashImage, base *blockdev.Mem, perEvent int, want func() bool, rng *rand.Rand) (states int) {
	log := r.rec.Log()
	m := base.Clone()
	super := readSuperBytes(m) // as of the last barrier
	var pending []blockdev.Event
	for at := 0; ; at++ {
		if want() {
			exact := m.Clone()
			exact.Flush()
			r.checkCut(t, ci, exact, at, "all arrived", rng)
			states++
			for i := range perEvent {
				if len(pending) == 0 {
					break
				}
				r.checkCut(t, ci, cutPower(m, super, pending, rng), at, fmt.Sprintf("cut %d", i), rng)
				states++
			}
		}
		if at == len(log) {
			return states
		}
		switch e := log[at]; e.Kind {
		case blockdev.EventWrite:
			m.WriteAt(e.Data, e.Off)
			pending = append(pending, e)
		case blockdev.EventFlush:
			m.Flush()
			super, pending = readSuperBytes(m), pending[:0]
		case blockdev.EventDiscard:
			m.Discard(e.Off, e.N)
			pending = append(pending, e)
		}
	}
}

// checkCut recovers one image and judges it.
func (r *crashRun) checkCut(t testing.TB, ci crashImage, m *blockdev.Mem, at int, what string, rng *rand.Rand) {
	t.Helper()
	first, last := r.bounds(at)
	bad := func(stage string, err error) {
		t.Helper()
		t.Fatalf("%s: after event %d of %d (%s): %s: %v\nstates %d to %d of %q", ci.name, at, len(r.rec.Log()), what, stage, err, first, last, r.log)
	}
	if rng.IntN(8) == 0 {
		if err := judge(m.Clone(), true); err != nil {
			bad("fsck-lite on what the next mount finds", err)
		}
	}
	fs, err := crashOpen(m)
	if err != nil {
		bad("open", err)
	}
	found, err := readTree(fs)
	if err != nil {
		bad("read the tree", err)
	}
	if err := findState(r.states[:last+1], first, found, int64(fs.sb.BlockSize())); err != nil {
		bad("no state of the tree", err)
	}
	if err := fs.Close(); err != nil {
		bad("close", err)
	}
	if err := judge(m, false); err != nil {
		bad("fsck-lite after recovery", err)
	}
}

// crashStates is how many power cuts to try, and the seed to begin with:
// E4GO_CRASH_STATES=N and E4GO_CRASH_SEED=S.
func crashStates(t testing.TB, usual int) (n int, seed uint64) {
	n, seed = usual, 1
	var err error
	if s := os.Getenv("E4GO_CRASH_STATES"); s != "" {
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("E4GO_CRASH_STATES: %v", err)
		}
	}
	if s := os.Getenv("E4GO_CRASH_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("E4GO_CRASH_SEED: %v", err)
		}
	}
	return n, seed
}

// Whenever the power is cut, and whatever arrives of what was written since the last
// barrier, the next open finds the tree as it was before or behind some operation,
// not before the last that was made durable, and nothing is wrong with the file system.
func TestCrash(t *testing.T) {
	total, seed := crashStates(t, 2400)
	images := crashImages()
	for _, ci := range images {
		t.Run(ci.name, func(t *testing.T) {
			t.Parallel()
			base := ci.make(t)
			done := 0
			for s := seed; done < total/len(images); s++ {
				t.Logf("E4GO_CRASH_SEED=%d", s)
				rng := rand.New(rand.NewPCG(s, 2))
				r := ci.record(t, base, s, 5+int(s*7%36))
				done += r.sweep(t, ci, base, 2, func() bool { return rng.IntN(4) == 0 }, rng)
			}
			t.Logf("%d states", done)
		})
	}
}

// A power cut while the next open recovers, finishes what was left of deletions,
// and closes, leaves no less than the first has.
func TestCrashTwice(t *testing.T) {
	total, seed := crashStates(t, 400)
	images := crashImages()
	for i, ci := range images {
		t.Run(ci.name, func(t *testing.T) {
			t.Parallel()
			base := ci.make(t)
			done := 0
			for s := seed + uint64(i); done < total/len(images); s++ {
				t.Logf("E4GO_CRASH_SEED=%d", s)
				rng := rand.New(rand.NewPCG(s, 6))
				r := ci.record(t, base, s, 5+int(s*7%36))
				at := rng.IntN(len(r.rec.Log()) + 1)
				m, what := r.cutAt(t, base, at, rng)
				before := m.Clone()
				second := blockdev.NewRecord(m)
				fs, err := crashOpen(second)
				if err != nil {
					t.Fatalf("%s, event %d: %v", what, at, err)
				}
				if err := fs.Close(); err != nil {
					t.Fatalf("%s, event %d: %v", what, at, err)
				}
				super, pending := readSuperBytes(before), []blockdev.Event(nil)
				for _, e := range second.Log() {
					switch e.Kind {
					case blockdev.EventWrite:
						before.WriteAt(e.Data, e.Off)
						pending = append(pending, e)
					case blockdev.EventFlush:
						before.Flush()
						super, pending = readSuperBytes(before), nil
					case blockdev.EventDiscard:
						before.Discard(e.Off, e.N)
					}
					if rng.IntN(4) == 0 {
						r.checkCut(t, ci, cutPower(before, super, pending, rng), at, what+", and again", rng)
						done++
					}
				}
			}
		})
	}
}

package jbd2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A logged file system of the writer's tests: blocks before the journal, which
// lies in three pieces, the last of them first.
const (
	logFS    = 200
	logSize  = 1024 + 60
	logTotal = logFS + logSize
)

var logExtents = []Extent{{0, 1000, logFS + 84}, {1000, 50, logFS}, {1050, 34, logFS + 50}}

// newLog makes a device with an empty journal.
func newLog(t testing.TB, compat disk.JournalCompat, feat disk.JournalFeature, tid uint32) *blockdev.Mem {
	t.Helper()
	dev := blockdev.NewMem(logTotal * ringBlock)
	s := disk.JournalSuper{
		Header:    disk.JournalHeader{Magic: disk.JournalMagic, Type: disk.JournalSuperV2},
		BlockSize: ringBlock, MaxLen: logSize, First: 1, Sequence: tid, Compat: compat, Incompat: feat, NrUsers: 1, UUID: [16]byte{1, 2, 3},
	}
	if feat.HasChecksums() {
		s.ChecksumType = disk.JournalCRC32C
	}
	b := make([]byte, disk.JournalSuperSize)
	s.Put(b)
	s.Checksum = disk.JournalSuperChecksum(b)
	s.Put(b)
	if _, err := dev.WriteAt(b, int64(logExtents[0].Start)*ringBlock); err != nil {
		t.Fatal(err)
	}
	dev.Flush()
	return dev
}

func loadLog(t testing.TB, dev blockdev.Device) *Journal {
	t.Helper()
	j, err := Load(Location{Dev: dev, BlockSize: ringBlock, Extents: logExtents})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func newTestWriter(t testing.TB, dev blockdev.Device, feat disk.JournalFeature) *Writer {
	t.Helper()
	w, err := NewWriter(loadLog(t, dev), dev, feat)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// state is what the blocks of the file system hold, in short.
func state(t testing.TB, dev blockdev.Device) [logFS]uint64 {
	t.Helper()
	var s [logFS]uint64
	b := make([]byte, logFS*ringBlock)
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	for i := range s {
		part := b[i*ringBlock:][:ringBlock]
		s[i] = binary.LittleEndian.Uint64(part[8:])
		if !bytes.Equal(part, content(s[i], binary.BigEndian.Uint32(part) == disk.JournalMagic)) && s[i] != 0 {
			s[i] = ^uint64(0) // torn, as a file's may be
		}
	}
	return s
}

// content is a block that says v, and may look like a block of the log.
func content(v uint64, magic bool) []byte {
	b := bytes.Repeat([]byte{byte(v)}, ringBlock)
	clear(b[:8])
	if magic {
		binary.BigEndian.PutUint32(b, disk.JournalMagic)
	}
	binary.LittleEndian.PutUint64(b[8:], v)
	return b
}

// A logRun commits random transactions and remembers what each left.
type logRun struct {
	w       *Writer
	rng     *rand.Rand
	v       uint64
	states  [][logFS]uint64 // behind each transaction; the first is that at the start
	meta    [logFS]bool     // blocks that are metadata, and may be logged
	fsynced func()          // called when a commit has returned
}

// step commits one transaction. Blocks that are freed are written to in place afterwards,
// as those of a file are.
func (r *logRun) step(t testing.TB, dev blockdev.Device) error {
	now := r.states[len(r.states)-1]
	var tx Transaction
	var data []int
	for range 1 + r.rng.IntN(40) {
		n := r.rng.IntN(logFS)
		if r.rng.IntN(5) == 0 {
			logged := slices.ContainsFunc(tx.Blocks, func(b Block) bool { return b.N == disk.PBlock(n) })
			if r.meta[n] && !logged { // a block of metadata becomes one of a file
				r.meta[n] = false
				tx.Revokes = append(tx.Revokes, disk.PBlock(n))
				data = append(data, n)
			}
			continue
		}
		if slices.Contains(data, n) || slices.ContainsFunc(tx.Blocks, func(b Block) bool { return b.N == disk.PBlock(n) }) {
			continue
		}
		r.v++
		r.meta[n] = true
		tx.Blocks = append(tx.Blocks, Block{disk.PBlock(n), content(r.v, r.rng.IntN(8) == 0)})
		now[n] = r.v
	}
	r.states = append(r.states, now)
	if _, err := r.w.Commit(&tx); err != nil {
		return err
	}
	if r.fsynced != nil {
		r.fsynced()
	}
	for _, n := range data {
		r.v++
		if _, err := dev.WriteAt(content(r.v, false), int64(n)*ringBlock); err != nil {
			return err
		}
	}
	if len(data) > 0 && r.rng.IntN(2) == 0 {
		if err := dev.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// sameState compares blocks, but for those of files.
func sameState(got, want [logFS]uint64, meta [logFS]bool) error {
	for n := range got {
		if got[n] != want[n] && meta[n] {
			return fmt.Errorf("block %d: got %d, want %d", n, got[n], want[n])
		}
	}
	return nil
}

// Whatever arrives of the writes since the last barrier when the power is cut,
// recovery finds the state behind some transaction: the last that was committed, or
// one that was being committed.
func TestWriterSurvivesPowerCuts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		compat disk.JournalCompat
		feat   disk.JournalFeature
		want   disk.JournalFeature
	}{
		{"no checksums", 0, 0, 0},
		{"v1", disk.JournalChecksum, 0, 0},
		{"v1 to v3", disk.JournalChecksum, 0, disk.JournalCsumV3 | disk.Journal64Bit},
		{"v2", 0, disk.JournalCsumV2, 0},
		{"v3", 0, disk.JournalCsumV3 | disk.Journal64Bit, disk.JournalCsumV3 | disk.Journal64Bit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(2) {
				powerCuts(t, tt.compat, tt.feat, tt.want, seed)
			}
		})
	}
}

func powerCuts(t *testing.T, compat disk.JournalCompat, feat, want disk.JournalFeature, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	mem := newLog(t, compat, feat, ^uint32(20)) // numbers wrap around
	r := &logRun{w: newTestWriter(t, mem, want), rng: rng, states: make([][logFS]uint64, 1)}
	for step := range 80 {
		before, metaBefore := len(r.states)-1, r.meta
		at := mem.Clone()
		rec := blockdev.NewRecord(at)
		// The same step, on a device that can be cut at each write.
		r.w.j.loc.Dev, r.w.home = rec, rec
		durable := 0
		r.fsynced = func() { durable = len(rec.Log()) }
		if err := r.step(t, rec); err != nil {
			t.Fatal(err)
		}
		log := rec.Log()
		for cut := range len(log) + 1 {
			if len(log) > 20 && rng.IntN(len(log)) > 20 {
				continue
			}
			m := mem.Clone()
			if err := rec.Replay(m, cut); err != nil {
				t.Fatal(err)
			}
			m = m.Crash(rng)
			j := loadLog(t, m)
			if _, err := Recover(context.Background(), j, m, logFS); err != nil {
				t.Fatalf("seed %d, step %d, cut %d: %v", seed, step, cut, err)
			}
			got := state(t, m)
			err := sameState(got, r.states[before], metaBefore)
			if err != nil || cut >= durable {
				err = sameState(got, r.states[before+1], r.meta)
			}
			if err != nil {
				t.Fatalf("seed %d, step %d, cut %d of %d: neither before nor after: %v", seed, step, cut, len(log), err)
			}
		}
		if err := rec.Replay(mem, len(log)); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(10) == 0 { // another mount
			r.w.j.loc.Dev, r.w.home = mem, mem
			if err := r.w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := sameState(state(t, mem), r.states[before+1], r.meta); err != nil {
				t.Fatal(err)
			}
			r.w = newTestWriter(t, mem, want)
		}
	}
}

// When a call of the device fails the commit fails, the journal is aborted, and
// recovery finds the state before or behind the transaction.
func TestWriterFails(t *testing.T) {
	for n := 0; ; n++ {
		rng := rand.New(rand.NewPCG(7, 7))
		mem := newLog(t, 0, disk.JournalCsumV3, 1)
		r := &logRun{w: newTestWriter(t, mem, disk.JournalCsumV3), rng: rng, states: make([][logFS]uint64, 1)}
		for range 3 {
			if err := r.step(t, mem); err != nil {
				t.Fatal(err)
			}
		}
		before, metaBefore := len(r.states)-1, r.meta
		fault := &blockdev.Fault{Device: mem, N: n}
		r.w.j.loc.Dev, r.w.home = fault, fault
		err := r.step(t, fault)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d calls of the device", n)
			}
			return
		}
		if !errors.Is(err, blockdev.ErrInjected) {
			t.Fatalf("call %d: %v", n, err)
		}
		if r.w.Aborted() != nil {
			if _, err := r.w.Commit(&Transaction{Blocks: []Block{{3, content(1, false)}}}); !errors.Is(err, blockdev.ErrInjected) {
				t.Errorf("call %d: commit to an aborted journal: %v", n, err)
			}
			if err := r.w.Close(); !errors.Is(err, blockdev.ErrInjected) {
				t.Errorf("call %d: close of an aborted journal: %v", n, err)
			}
		}
		j := loadLog(t, mem)
		if r.w.Aborted() != nil && j.Super().Errno != -errnoEIO {
			t.Errorf("call %d: s_errno is %d", n, j.Super().Errno)
		}
		if _, err := Recover(context.Background(), j, mem, logFS); err != nil {
			t.Fatal(err)
		}
		got := state(t, mem)
		if err := sameState(got, r.states[before], metaBefore); err != nil {
			if err := sameState(got, r.states[before+1], r.meta); err != nil {
				t.Fatalf("call %d: neither before nor after: %v", n, err)
			}
		}
	}
}

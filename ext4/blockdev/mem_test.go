package blockdev

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestMemSparse(t *testing.T) {
	m := NewMem(16 << 40)
	want := []byte("the end")
	m.WriteAt(want, 16<<40-7)
	got := make([]byte, 7)
	if _, err := m.ReadAt(got, 16<<40-7); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if len(m.cur) != 1 {
		t.Errorf("%d chunks in memory, want 1", len(m.cur))
	}
	if err := m.Discard(0, 16<<40); err != nil || len(m.cur) != 0 {
		t.Errorf("after discarding all: %v, %d chunks in memory, want 0", err, len(m.cur))
	}
}

// After a crash each sector has one of the values it had since the last Flush
// (or zeros, if it was discarded since), and across many seeds each kind of
// outcome happens.
func TestMemCrash(t *testing.T) {
	const sectors, size = 64, 64 * sectorSize
	var none, all, reordered int
	for seed := uint64(0); seed < 2000; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := NewMem(size)
		now := make([]byte, sectors)        // the value of each sector, all of whose bytes are equal
		possible := make([][]byte, sectors) // since the last Flush
		pending := false
		for i := range possible {
			possible[i] = []byte{0}
		}
		for step := range 1 + rng.IntN(40) {
			first := rng.IntN(sectors)
			n := 1 + rng.IntN(min(10, sectors-first))
			switch k := rng.IntN(10); {
			case k == 0:
				m.Flush()
				for i, v := range now {
					possible[i] = []byte{v}
				}
				pending = false
			case k == 1 && first%8 == 0 && first+8 <= sectors:
				m.Discard(int64(first)*sectorSize, chunkSize)
				for i := first; i < first+8; i++ {
					now[i] = 0
					possible[i] = append(possible[i], 0)
				}
				pending = true
			default:
				m.WriteAt(bytes.Repeat([]byte{byte(step + 1)}, n*sectorSize), int64(first)*sectorSize)
				pending = true
				for i := first; i < first+n; i++ {
					now[i] = byte(step + 1)
					possible[i] = append(possible[i], now[i])
				}
			}
		}
		got := make([]byte, size)
		m.Crash(rand.New(rand.NewPCG(seed, 1))).ReadAt(got, 0)
		again := make([]byte, size)
		m.Crash(rand.New(rand.NewPCG(seed, 1))).ReadAt(again, 0)
		if !bytes.Equal(got, again) {
			t.Fatalf("seed %d: two crashes of one seed differ", seed)
		}
		isNone, isAll := true, true
		for i := range sectors {
			b := got[i*sectorSize : (i+1)*sectorSize]
			if bytes.Count(b, b[:1]) != sectorSize {
				t.Fatalf("seed %d: sector %d is torn", seed, i)
			}
			if !bytes.Contains(possible[i], b[:1]) {
				t.Fatalf("seed %d: sector %d has %d, want one of %d", seed, i, b[0], possible[i])
			}
			isNone = isNone && b[0] == possible[i][0]
			isAll = isAll && b[0] == now[i]
			if b[0] != possible[i][0] && b[0] != now[i] {
				reordered++ // an earlier value is there though a later one was written
			}
		}
		if pending && isNone {
			none++
		}
		if pending && isAll {
			all++
		}
		m.ReadAt(got, 0)
		for i := range sectors {
			if got[i*sectorSize] != now[i] {
				t.Fatalf("seed %d: the crash changed the device it is of", seed)
			}
		}
	}
	if none == 0 || all == 0 || reordered == 0 {
		t.Errorf("outcomes: none %d, all %d, reordered %d: want some of each", none, all, reordered)
	}
}

// One write of eight sectors, or one discard of two chunks, is lost, whole or
// torn, and each of these happens.
func TestMemCrashTorn(t *testing.T) {
	tests := []struct {
		name  string
		parts int
		do    func(*Mem)
	}{
		{"write", 8, func(m *Mem) { m.WriteAt(make([]byte, 8*sectorSize), 0) }},
		{"discard", 2, func(m *Mem) { m.Discard(0, 2*chunkSize) }},
	}
	for _, tt := range tests {
		m := NewMem(2 * chunkSize)
		m.WriteAt(bytes.Repeat([]byte{1}, 2*chunkSize), 0)
		m.Flush()
		tt.do(m)
		after := make([]byte, 2*chunkSize)
		m.ReadAt(after, 0)
		changed := bytes.Count(after, []byte{0})
		seen := make(map[int]int) // parts that arrived: how often
		for seed := range uint64(1000) {
			got := make([]byte, 2*chunkSize)
			m.Crash(rand.New(rand.NewPCG(seed, 3))).ReadAt(got, 0)
			seen[bytes.Count(got, []byte{0})*tt.parts/changed]++
		}
		for parts := range tt.parts + 1 {
			if parts < tt.parts && parts > 0 && seen[parts] == 0 || seen[0] < 100 || seen[tt.parts] < 100 {
				t.Errorf("%s: outcomes by parts that arrived: %v; want each of 0..%d, and its ends often", tt.name, seen, tt.parts)
				break
			}
		}
	}
}

// Writes that are no whole sectors: no byte has a value it never had.
func TestMemCrashUnaligned(t *testing.T) {
	const size = 3 * chunkSize
	for seed := uint64(0); seed < 500; seed++ {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := NewMem(size)
		var possible [size][]byte
		for i := range possible {
			possible[i] = []byte{0}
		}
		for v := byte(1); v <= 20; v++ {
			off := rng.IntN(size)
			n := rng.IntN(min(size-off, 2000))
			m.WriteAt(bytes.Repeat([]byte{v}, n), int64(off))
			for i := off; i < off+n; i++ {
				possible[i] = append(possible[i], v)
			}
			if v == 10 {
				m.Flush()
				for i := range possible {
					possible[i] = possible[i][len(possible[i])-1:]
				}
			}
		}
		got := make([]byte, size)
		m.Clone().Crash(rng).ReadAt(got, 0)
		for i, b := range got {
			if !bytes.Contains(possible[i], []byte{b}) {
				t.Fatalf("seed %d: byte %d is %d, want one of %d", seed, i, b, possible[i])
			}
		}
	}
}

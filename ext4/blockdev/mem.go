package blockdev

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

const (
	chunkSize  = 4096 // bytes of memory that Mem allocates and shares at once
	sectorSize = 512  // bytes that a disk writes whole or not at all
)

// A Mem is a device in memory. Bytes never written are zeros and take no room,
// so a Mem may be of any size. It remembers what was written since the last
// Flush, so that [Mem.Crash] can lose some of it: until then each write costs
// its length once more.
//
// There are two images, made of chunks that they share: cur, which is read and
// written, and durable, which is cur at the last Flush. A write to a shared
// chunk replaces it by a copy first.
//
//	cur      [a'][b][c ]      dirty {0, 2}
//	durable  [a ][b]          pending: the writes that made a' and c
type Mem struct {
	size int64 // immutable, bytes

	mu      sync.RWMutex // guards all below, and the data of chunks that are not shared
	cur     map[int64]*chunk
	durable map[int64]*chunk
	dirty   map[int64]bool // where cur and durable may differ
	pending []memWrite     // since the last Flush, in order
}

type chunk struct {
	shared bool // reachable from elsewhere too: from now on immutable
	data   [chunkSize]byte
}

// share marks c. A mark that is there already is only read: another Mem may
// be reading it under a lock of its own.
func (c *chunk) share() {
	if !c.shared {
		c.shared = true
	}
}

// A memWrite is a write, or without data a discard.
type memWrite struct {
	off, n int64
	data   []byte // immutable
}

// NewMem returns a device of size bytes, all zeros. It panics if size is negative.
func NewMem(size int64) *Mem {
	if size < 0 {
		panic(fmt.Sprintf("blockdev: memory device of %d bytes", size))
	}
	return &Mem{size: size, cur: map[int64]*chunk{}, durable: map[int64]*chunk{}, dirty: map[int64]bool{}}
}

// ReadAt implements [Device].
func (m *Mem) ReadAt(p []byte, off int64) (int, error) {
	q, err := clip(p, off, m.size)
	n := len(q)
	m.mu.RLock()
	defer m.mu.RUnlock()
	for len(q) > 0 {
		k := min(len(q), int(chunkSize-off%chunkSize))
		if c := m.cur[off/chunkSize]; c != nil {
			copy(q[:k], c.data[off%chunkSize:])
		} else {
			clear(q[:k])
		}
		q, off = q[k:], off+int64(k)
	}
	return n, err
}

// WriteAt implements [Device].
func (m *Mem) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange("write", off, int64(len(p)), m.size); err != nil {
		return 0, err
	}
	data := slices.Clone(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = append(m.pending, memWrite{off: off, n: int64(len(p)), data: data})
	m.storeLocked(data, off)
	return len(p), nil
}

// storeLocked changes cur and dirty alone.
func (m *Mem) storeLocked(p []byte, off int64) {
	for len(p) > 0 {
		i := off / chunkSize
		c := m.cur[i]
		switch {
		case c == nil:
			c = new(chunk)
		case c.shared:
			c = &chunk{data: c.data}
		}
		k := copy(c.data[off%chunkSize:], p)
		m.cur[i], m.dirty[i] = c, true
		p, off = p[k:], off+int64(k)
	}
}

// Discard implements [Device]: the whole chunks of 4 KiB in the range become
// zeros and give their memory back.
func (m *Mem) Discard(off, n int64) error {
	if err := checkRange("discard", off, n, m.size); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w := memWrite{off: off, n: n}
	m.pending = append(m.pending, w)
	m.dropLocked(w, func() bool { return true })
	return nil
}

// dropLocked forgets those chunks in cur that w discards and drop agrees to.
func (m *Mem) dropLocked(w memWrite, drop func() bool) {
	if w.n < chunkSize {
		return
	}
	first, end := (w.off+chunkSize-1)/chunkSize, (w.off+w.n)/chunkSize
	var in []int64
	for i := range m.cur {
		if first <= i && i < end {
			in = append(in, i)
		}
	}
	slices.Sort(in) // so that a seed replays
	for _, i := range in {
		if drop() {
			delete(m.cur, i)
			m.dirty[i] = true
		}
	}
}

// Flush implements [Device]: no Crash loses what was written before it.
func (m *Mem) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.dirty {
		if c := m.cur[i]; c != nil {
			c.share()
			m.durable[i] = c
		} else {
			delete(m.durable, i)
		}
	}
	clear(m.dirty)
	m.pending = nil
	return nil
}

// Size implements [Device].
func (m *Mem) Size() int64 { return m.size }

// Close does nothing: the contents stay.
func (m *Mem) Close() error { return nil }

// Clone returns a device with the same contents, which can crash in the same
// ways, and shares memory with m until one of them is written.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.dirty { // the others are shared with durable
		if c := m.cur[i]; c != nil {
			c.share()
		}
	}
	return &Mem{
		size:    m.size,
		cur:     maps.Clone(m.cur),
		durable: maps.Clone(m.durable),
		dirty:   maps.Clone(m.dirty),
		pending: slices.Clone(m.pending),
	}
}

// Crash returns what is found after a power cut now; m itself goes on. What
// was flushed is there. Of the writes since, each is there, or is not, or in
// part: any of its 512-byte sectors, aligned to the device. They may have
// arrived in any order. Often all or none are there. The same rng, writes
// and flushes make the same crash.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.RLock()
	out := NewMem(m.size)
	out.cur = maps.Clone(m.durable) // its chunks are all shared
	out.durable = maps.Clone(m.durable)
	pending := slices.Clone(m.pending)
	m.mu.RUnlock()

	keep := rng.Float64() // of the writes, this part arrives
	switch rng.IntN(8) {
	case 0:
		keep = 0
	case 1:
		keep = 1
	}
	torn := rng.Float64() / 2 // and of those, this part in pieces
	if keep == 1 {
		torn = 0
	}
	if keep < 1 {
		rng.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	}
	for _, w := range pending {
		if rng.Float64() >= keep {
			continue
		}
		part := 1.0 // of this write's sectors
		if rng.Float64() < torn {
			part = rng.Float64()
		}
		arrives := func() bool { return rng.Float64() < part }
		if w.data == nil {
			out.dropLocked(w, arrives)
			continue
		}
		for off, p := w.off, w.data; len(p) > 0; {
			k := min(len(p), int(sectorSize-off%sectorSize))
			if arrives() {
				out.storeLocked(p[:k], off)
			}
			p, off = p[k:], off+int64(k)
		}
	}
	out.Flush()
	return out
}

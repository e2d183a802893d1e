package blockdev

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// OverlayPage is how many bytes an [Overlay] keeps together, at a multiple of it.
const OverlayPage = 4096

// An Overlay keeps what is written to it in memory, and never writes its base.
// The base must not be changed by others.
type Overlay struct {
	base Device // immutable
	max  int    // immutable, pages; negative for no limit

	count atomic.Int64 // len(pages), to be read without mu
	mu    sync.RWMutex // guards pages and their bytes; not held over reads of base
	pages map[int64]*[OverlayPage]byte
}

// NewOverlay returns an overlay on base that may grow to the size of base.
func NewOverlay(base Device) *Overlay {
	return &Overlay{base: base, max: -1, pages: make(map[int64]*[OverlayPage]byte)}
}

// NewOverlayLimit returns an overlay on base that keeps at most maxBytes bytes,
// in whole pages. A write that needs more fails with [ErrOverlayFull].
func NewOverlayLimit(base Device, maxBytes int64) *Overlay {
	o := NewOverlay(base)
	o.max = int(max(maxBytes, 0) / OverlayPage)
	return o
}

// Base returns the device beneath.
func (o *Overlay) Base() Device { return o.base }

// Pages returns how many pages are kept in memory.
func (o *Overlay) Pages() int { return int(o.count.Load()) }

// Overlaid reports whether any of the n bytes at off may differ from the base's.
func (o *Overlay) Overlaid(off, n int64) bool {
	if n <= 0 || o.count.Load() == 0 {
		return false
	}
	first, last := off/OverlayPage, (off+n-1)/OverlayPage
	o.mu.RLock()
	defer o.mu.RUnlock()
	if last-first >= int64(len(o.pages)) {
		for i := range o.pages {
			if first <= i && i <= last {
				return true
			}
		}
		return false
	}
	for i := first; i <= last; i++ {
		if o.pages[i] != nil {
			return true
		}
	}
	return false
}

// ReadAt implements [Device].
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	q, eof := clip(p, off, o.base.Size())
	for n := 0; n < len(q); {
		k, kept := len(q)-n, false
		if o.count.Load() != 0 {
			k, kept = o.copyRun(q[n:], off+int64(n))
		}
		if !kept {
			if m, err := readFull(o.base, q[n:n+k], off+int64(n)); err != nil {
				return n + m, err
			}
		}
		n += k
	}
	return len(q), eof
}

// copyRun copies the pages at the start of p, which is at off, and returns how
// many bytes of them there were. If there were none, it returns for how many
// bytes there are none, and kept is false.
func (o *Overlay) copyRun(p []byte, off int64) (n int, kept bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for n < len(p) {
		at := off + int64(n)
		page := o.pages[at/OverlayPage]
		if n == 0 {
			kept = page != nil
		} else if kept != (page != nil) {
			break
		}
		k := min(len(p)-n, int(OverlayPage-at%OverlayPage))
		if kept {
			copy(p[n:n+k], page[at%OverlayPage:])
		}
		n += k
	}
	return n, kept
}

// WriteAt implements [Device]. It fails with [ErrOverlayFull] at the limit, or
// with the base's error where p covers a page in part and the rest cannot be read.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange("write", off, int64(len(p)), o.base.Size()); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	first, last := off/OverlayPage, (end-1)/OverlayPage
	// The pages covered in part are read before the lock is taken. The base
	// does not change, so it does not matter if others install them meanwhile.
	var edges [2]*[OverlayPage]byte
	for i, page := range [2]int64{first, last} {
		start := page * OverlayPage
		n := min(OverlayPage, o.base.Size()-start)
		if i == 1 && first == last || off <= start && end >= start+n || o.Overlaid(start, 1) {
			continue
		}
		edges[i] = new([OverlayPage]byte)
		if _, err := readFull(o.base, edges[i][:n], start); err != nil {
			return 0, err
		}
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	need := len(o.pages)
	for i := first; i <= last; i++ {
		if o.pages[i] == nil {
			need++
		}
	}
	if o.max >= 0 && need > o.max {
		return 0, fmt.Errorf("write of %d bytes at %d: needs %d pages of %d bytes, want at most %d: %w",
			len(p), off, need, OverlayPage, o.max, ErrOverlayFull)
	}
	for q, at := p, off; len(q) > 0; {
		i := at / OverlayPage
		page := o.pages[i]
		if page == nil {
			switch {
			case i == first && edges[0] != nil:
				page = edges[0]
			case i == last && edges[1] != nil:
				page = edges[1]
			default:
				page = new([OverlayPage]byte)
			}
			o.pages[i] = page
		}
		k := copy(page[at%OverlayPage:], q)
		q, at = q[k:], at+int64(k)
	}
	o.count.Store(int64(len(o.pages)))
	return len(p), nil
}

// Flush does nothing: nothing here becomes durable.
func (o *Overlay) Flush() error { return nil }

// Discard does nothing but check the range.
func (o *Overlay) Discard(off, n int64) error { return checkRange("discard", off, n, o.base.Size()) }

// Size implements [Device].
func (o *Overlay) Size() int64 { return o.base.Size() }

// Close drops nothing from memory, and closes the base.
func (o *Overlay) Close() error { return o.base.Close() }

package fsck

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// A bitset is a set of numbers below n, in pages that exist once they hold
// something; a page without a gap that was set at once is a mark alone. An
// empty file system of a terabyte, or one that lies about its size, costs a
// pointer for 32768 blocks.
//
// Any number of goroutines may set and read bits at once.
type bitset struct {
	n     uint64 // immutable
	pages []atomic.Pointer[page]
}

const (
	pageBits  = 1 << 15
	pageWords = pageBits / 64
)

type page [pageWords]uint64 // of a bitset; words are written atomically

// fullPage is the page of all ones. It is never written.
var fullPage = func() *page {
	p := new(page)
	for i := range p {
		p[i] = ^uint64(0)
	}
	return p
}()

func newBitset(n uint64) *bitset {
	return &bitset{n: n, pages: make([]atomic.Pointer[page], (n+pageBits-1)/pageBits)}
}

// has reports whether i is in the set; what is not below n is not.
func (s *bitset) has(i uint64) bool {
	if i >= s.n {
		return false
	}
	p := s.pages[i/pageBits].Load()
	return p != nil && atomic.LoadUint64(&p[i%pageBits/64])>>(i%64)&1 != 0
}

// add puts i into the set and reports whether it was there before.
func (s *bitset) add(i uint64) (before bool) {
	p := s.page(i/pageBits, false)
	mask := uint64(1) << (i % 64)
	word := &p[i%pageBits/64]
	if atomic.LoadUint64(word)&mask != 0 {
		return true
	}
	return atomic.OrUint64(word, mask)&mask != 0
}

// page returns page i, made if it is missing; with full, it may be made as the full page.
func (s *bitset) page(i uint64, full bool) *page {
	p := s.pages[i].Load()
	if p != nil {
		return p
	}
	fresh := fullPage
	if !full {
		fresh = new(page)
	}
	if s.pages[i].CompareAndSwap(nil, fresh) {
		if full {
			return nil // the caller has nothing left to do
		}
		return fresh
	}
	return s.pages[i].Load()
}

// addRange puts the k numbers from i on into the set, which must be below n.
// Those that were there before go into again, unless that is nil. It reports
// whether there were any.
func (s *bitset) addRange(i, k uint64, again *bitset) (before bool) {
	for k > 0 {
		first := i % pageBits
		here := min(k, pageBits-first)
		whole := first == 0 && (here == pageBits || i+here == s.n)
		p := s.page(i/pageBits, whole && here == pageBits)
		if p != nil && s.addTo(p, i, here, again) {
			before = true
		}
		i, k = i+here, k-here
	}
	return before
}

// addTo is addRange within page p.
func (s *bitset) addTo(p *page, i, k uint64, again *bitset) (before bool) {
	if p == fullPage {
		if again != nil {
			again.addRange(i, k, nil)
		}
		return true
	}
	for k > 0 {
		bit := i % 64
		here := min(k, 64-bit)
		mask := ^uint64(0) >> (64 - here) << bit
		word := &p[i%pageBits/64]
		old := atomic.LoadUint64(word)
		if old&mask != mask {
			old = atomic.OrUint64(word, mask)
		}
		if twice := old & mask; twice != 0 {
			before = true
			if again != nil {
				again.or(i/64, twice)
			}
		}
		i, k = i+here, k-here
	}
	return before
}

// or sets the bits of mask in word w.
func (s *bitset) or(w, mask uint64) {
	p := s.page(w/pageWords, false)
	if word := &p[w%pageWords]; atomic.LoadUint64(word)&mask != mask {
		atomic.OrUint64(word, mask)
	}
}

// A collector adds numbers that come mostly in order to a set, 64 at a time. It
// belongs to one goroutine; what it holds is not in the set before it is flushed.
type collector struct {
	set        *bitset
	word, bits uint64
}

func (k *collector) add(i uint64) {
	if i/64 != k.word {
		k.flush()
		k.word = i / 64
	}
	k.bits |= 1 << (i % 64)
}

func (k *collector) flush() {
	if k.bits != 0 {
		k.set.or(k.word, k.bits)
		k.bits = 0
	}
}

// anyIn reports whether one of the k numbers from i on is in the set.
func (s *bitset) anyIn(i, k uint64) bool {
	n, ok := s.next(i)
	return ok && n < i+k
}

// next returns the first member of the set from i on.
func (s *bitset) next(i uint64) (uint64, bool) {
	for i < s.n {
		p := s.pages[i/pageBits].Load()
		if p == nil {
			i = (i/pageBits + 1) * pageBits
			continue
		}
		for w := i % pageBits / 64; w < pageWords; w++ {
			v := p[w]
			if w == i%pageBits/64 {
				v &= ^uint64(0) << (i % 64)
			}
			if v != 0 {
				at := i/pageBits*pageBits + w*64 + uint64(bits.TrailingZeros64(v))
				return at, at < s.n
			}
		}
		i = (i/pageBits + 1) * pageBits
	}
	return 0, false
}

// runs calls yield with each run of members in [i, end), in order, until it returns false.
func (s *bitset) runs(i, end uint64, yield func(first, n uint64) bool) {
	for {
		first, ok := s.next(i)
		if !ok || first >= end {
			return
		}
		last := first + 1
		for last < end {
			n := min(uint64(bits.TrailingZeros64(^s.word(last))), end-last)
			if last += n; n < 64 {
				break
			}
		}
		if !yield(first, last-first) {
			return
		}
		i = last
	}
}

// word returns the 64 bits from i on, which need not be a multiple of
// anything; those from n on are zero.
func (s *bitset) word(i uint64) uint64 {
	aligned := func(w uint64) uint64 {
		if w*64 >= s.n {
			return 0
		}
		p := s.pages[w/pageWords].Load()
		if p == nil {
			return 0
		}
		v := p[w%pageWords]
		if left := s.n - w*64; left < 64 {
			v &= 1<<left - 1
		}
		return v
	}
	v := aligned(i/64) >> (i % 64)
	if i%64 != 0 {
		v |= aligned(i/64+1) << (64 - i%64)
	}
	return v
}

// count is how many of the k numbers from i on are in the set.
func (s *bitset) count(i, k uint64) (n uint64) {
	end := min(i+k, s.n)
	for i < end {
		if i%pageBits == 0 && end-i >= pageBits {
			switch s.pages[i/pageBits].Load() {
			case nil:
				i += pageBits
				continue
			case fullPage:
				n, i = n+pageBits, i+pageBits
				continue
			}
		}
		v := s.word(i)
		if end-i < 64 {
			v &= 1<<(end-i) - 1
		}
		n, i = n+uint64(bits.OnesCount64(v)), min(i+64, end)
	}
	return n
}

// copyTo writes the k bits from i on into b, least significant first, and
// leaves the rest of b alone. k is a multiple of eight.
func (s *bitset) copyTo(b []byte, i, k uint64) {
	for ; k >= 64; i, k, b = i+64, k-64, b[8:] {
		binary.LittleEndian.PutUint64(b, s.word(i))
	}
	for v := s.word(i); k > 0; k, b, v = k-8, b[1:], v>>8 {
		b[0] = byte(v)
	}
}

// bytes is the memory that the pages take.
func (s *bitset) bytes() (n int64) {
	for i := range s.pages {
		if p := s.pages[i].Load(); p != nil && p != fullPage {
			n += pageBits / 8
		}
	}
	return n + int64(8*len(s.pages))
}

// A ranking numbers the members of a bitset that no longer changes, in order.
type ranking struct {
	set   *bitset
	total uint32
	base  []uint32      // members before each page
	sub   []*[64]uint16 // and, within it, before each 512th number; nil for empty and full pages
}

func newRanking(s *bitset) *ranking {
	r := &ranking{set: s, base: make([]uint32, len(s.pages)), sub: make([]*[64]uint16, len(s.pages))}
	for i := range s.pages {
		r.base[i] = r.total
		p := s.pages[i].Load()
		if p == nil {
			continue
		}
		sub, n := new([64]uint16), 0
		for w, v := range p {
			if w%8 == 0 {
				sub[w/8] = uint16(n)
			}
			n += bits.OnesCount64(v)
		}
		r.sub[i] = sub
		r.total += uint32(n)
	}
	return r
}

// rank is how many members are below i, which is one itself.
func (r *ranking) rank(i uint64) uint32 {
	pg := i / pageBits
	p := r.set.pages[pg].Load()
	w := i % pageBits / 64
	n := r.base[pg] + uint32(r.sub[pg][w/8])
	for j := w &^ 7; j < w; j++ {
		n += uint32(bits.OnesCount64(p[j]))
	}
	return n + uint32(bits.OnesCount64(p[w]&(1<<(i%64)-1)))
}

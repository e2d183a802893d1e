package ext4

import (
	"encoding/binary"
	"math/bits"
)

// bitmap is a bitmap as it lies on disk: bit i is bit i%8 of byte i/8, and set
// if what it stands for is in use. Its length is a multiple of 8 bytes.
type bitmap []byte

func (b bitmap) get(i uint32) bool { return b[i/8]>>(i%8)&1 != 0 }

// set and clear change the bits [from, from+n).
func (b bitmap) set(from, n uint32) {
	b.each(from, n, func(i int, mask byte) { b[i] |= mask })
}

func (b bitmap) clear(from, n uint32) {
	b.each(from, n, func(i int, mask byte) { b[i] &^= mask })
}

func (b bitmap) each(from, n uint32, fn func(i int, mask byte)) {
	for end := from + n; from < end; {
		lo := from % 8
		k := min(8-lo, end-from)
		fn(int(from/8), byte(1<<k-1)<<lo)
		from += k
	}
}

// next returns the first bit from from on, below end, that is set or not; end
// if there is none.
func (b bitmap) next(from, end uint32, set bool) uint32 {
	for from < end {
		w := binary.LittleEndian.Uint64(b[from/64*8:])
		if !set {
			w = ^w
		}
		w >>= from % 64
		if w != 0 {
			return min(from+uint32(bits.TrailingZeros64(w)), end)
		}
		from = (from/64 + 1) * 64
	}
	return end
}

// zeros counts the bits of [0, end) that are not set.
func (b bitmap) zeros(end uint32) uint32 {
	n := uint32(0)
	for i := uint32(0); i < end; i += 64 {
		w := ^binary.LittleEndian.Uint64(b[i/8:])
		if left := end - i; left < 64 {
			w &= 1<<left - 1
		}
		n += uint32(bits.OnesCount64(w))
	}
	return n
}

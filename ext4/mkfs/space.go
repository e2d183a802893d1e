package mkfs

import (
	"sort"

	"e4go/ext4/disk"
)

// A run is the blocks [start, end).
type run struct{ start, end disk.PBlock }

func (r run) len() uint64 { return uint64(r.end - r.start) }

// space is the blocks that are in use, as runs in order that do not touch. A
// file system of any size has few of them until files fragment it.
type space struct {
	used  []run
	limit disk.PBlock // the end of the device
	hint  int         // where the last search ended
}

// at returns the index of the first run that ends behind b.
func (s *space) at(b disk.PBlock) int {
	for i := max(s.hint-1, 0); i < len(s.used) && i < s.hint+3; i++ {
		if s.used[i].end > b && (i == 0 || s.used[i-1].end <= b) {
			s.hint = i
			return i
		}
	}
	s.hint = sort.Search(len(s.used), func(i int) bool { return s.used[i].end > b })
	return s.hint
}

// mark takes the n blocks from b on, some of which may be in use.
func (s *space) mark(b disk.PBlock, n uint64) {
	if n == 0 {
		return
	}
	r := run{b, b + disk.PBlock(n)}
	// Those that overlap or touch become one.
	i := s.at(b)
	if i > 0 && s.used[i-1].end == b {
		i--
	}
	j := i
	for ; j < len(s.used) && s.used[j].start <= r.end; j++ {
		r.start, r.end = min(r.start, s.used[j].start), max(r.end, s.used[j].end)
	}
	if i == j {
		s.used = append(s.used, run{})
		copy(s.used[i+1:], s.used[i:])
		s.used[i] = r
		return
	}
	s.used[i] = r
	s.used = append(s.used[:i+1], s.used[j:]...)
}

// free gives the n blocks from b on back, all of which are in use.
func (s *space) free(b disk.PBlock, n uint64) {
	if n == 0 {
		return
	}
	i := s.at(b)
	u, end := s.used[i], b+disk.PBlock(n)
	left, right := run{u.start, b}, run{end, u.end}
	switch {
	case left.len() > 0 && right.len() > 0:
		s.used = append(s.used, run{})
		copy(s.used[i+1:], s.used[i:])
		s.used[i], s.used[i+1] = left, right
	case left.len() > 0:
		s.used[i] = left
	case right.len() > 0:
		s.used[i] = right
	default:
		s.used = append(s.used[:i], s.used[i+1:]...)
	}
}

// next is the first run of free blocks that begins at b or behind it and
// before end; its end may lie behind that. ok is false if there is none.
func (s *space) next(b, end disk.PBlock) (r run, ok bool) {
	i := s.at(b)
	if i < len(s.used) && s.used[i].start <= b {
		b = s.used[i].end
		i++
	}
	r = run{b, s.limit}
	if i < len(s.used) {
		r.end = s.used[i].start
	}
	return r, b < end && r.start < r.end
}

// find is the first place for n blocks in one piece that begins at b or behind it, and before end.
func (s *space) find(b, end disk.PBlock, n uint64) (disk.PBlock, bool) {
	for {
		r, ok := s.next(b, end)
		if !ok {
			return 0, false
		}
		if r.len() >= n {
			return r.start, true
		}
		b = r.end
	}
}

// usedIn is how many of the blocks [b, end) are in use.
func (s *space) usedIn(b, end disk.PBlock) uint64 {
	var n uint64
	for i := s.at(b); i < len(s.used) && s.used[i].start < end; i++ {
		n += uint64(min(s.used[i].end, end) - max(s.used[i].start, b))
	}
	return n
}

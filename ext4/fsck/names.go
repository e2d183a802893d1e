package fsck

import (
	"hash/maphash"

	"e4go/ext4/disk"
)

// A nameSet is the set of the names of a directory, by their hashes: of 64
// bits, so that no two names are taken for one.
type nameSet struct {
	table []uint64 // open addressing; 0 is free
	used  []uint32 // places that are taken, to be cleared
	seed  maphash.Seed
	ready bool
}

// clear empties the set. A large one is given back.
func (s *nameSet) clear() {
	if len(s.table) > 1<<14 {
		s.table, s.used = nil, nil
		return
	}
	for _, i := range s.used {
		s.table[i] = 0
	}
	s.used = s.used[:0]
}

// add puts name into the set, folded if the directory at hand compares so, and
// reports whether it was there.
func (s *nameSet) add(w *worker, name []byte) (before bool) {
	if !s.ready {
		s.seed, s.ready = maphash.MakeSeed(), true
	}
	if w.dir.strict {
		if folded, ok := disk.Fold(name); ok {
			name = []byte(folded)
		}
	}
	if 2*(len(s.used)+1) > len(s.table) {
		s.grow()
	}
	return s.put(maphash.Bytes(s.seed, name) | 1)
}

func (s *nameSet) put(h uint64) (before bool) {
	mask := uint64(len(s.table) - 1)
	for i := h >> 1 & mask; ; i = (i + 1) & mask {
		switch s.table[i] {
		case h:
			return true
		case 0:
			s.table[i] = h
			s.used = append(s.used, uint32(i))
			return false
		}
	}
}

func (s *nameSet) grow() {
	old, used := s.table, s.used
	s.table, s.used = make([]uint64, max(256, 2*len(old))), make([]uint32, 0, max(256, 2*len(old))/2)
	for _, i := range used {
		s.put(old[i])
	}
}

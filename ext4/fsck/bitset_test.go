package fsck

import (
	"math/rand/v2"
	"testing"
)

// A bitset and a ranking do what a map would.
func TestBitset(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		n := 1 + rng.Uint64N(5*pageBits)
		s, again := newBitset(n), newBitset(n)
		model, twice := map[uint64]bool{}, map[uint64]bool{}
		for range 30 {
			i := rng.Uint64N(n)
			k := min(rng.Uint64N(2*pageBits), n-i)
			if rng.IntN(3) == 0 {
				i = i / pageBits * pageBits
				k = min(pageBits, n-i)
			}
			before := false
			for j := i; j < i+k; j++ {
				if model[j] {
					twice[j], before = true, true
				}
				model[j] = true
			}
			if got := s.addRange(i, k, again); got != before {
				t.Fatalf("addRange(%d, %d) is %t", i, k, got)
			}
		}
		r := newRanking(s)
		rank, count := uint32(0), uint64(0)
		for i := range n {
			if s.has(i) != model[i] || again.has(i) != twice[i] {
				t.Fatalf("n %d: bit %d is %t, %t, want %t, %t", n, i, s.has(i), again.has(i), model[i], twice[i])
			}
			if model[i] {
				if r.rank(i) != rank {
					t.Fatalf("rank of %d is %d, want %d", i, r.rank(i), rank)
				}
				rank++
				count++
			}
		}
		if got := s.count(0, n); got != count || r.total != rank {
			t.Errorf("count is %d, total %d, want %d", got, r.total, count)
		}
		sum := uint64(0)
		s.runs(0, n, func(first, k uint64) bool {
			for j := first; j < first+k; j++ {
				if !model[j] {
					t.Fatalf("%d is in a run", j)
				}
			}
			sum += k
			return true
		})
		if sum != count {
			t.Errorf("runs have %d members, want %d", sum, count)
		}
		i, k := rng.Uint64N(n), uint64(8*rng.IntN(40))
		b := make([]byte, k/8)
		s.copyTo(b, i, k)
		for j := range k {
			if (b[j/8]>>(j%8)&1 != 0) != model[i+j] {
				t.Fatalf("copyTo(%d, %d): bit %d is wrong", i, k, j)
			}
		}
	}
}

func TestBitsetAdd(t *testing.T) {
	s := newBitset(100)
	if s.add(99) || !s.add(99) || s.has(98) || s.has(100) || !s.anyIn(90, 10) || s.anyIn(0, 99) {
		t.Error("add or has is wrong")
	}
}

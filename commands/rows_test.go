package commands

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// digitWord writes what %8d does, into as many bytes as it was given.
func TestDigitWord(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(v uint32, width int) {
		t.Helper()
		b := []byte("abcdefgh")
		word, ok := digitWord(uint64(v), width, binary.LittleEndian.Uint64(b))
		binary.LittleEndian.PutUint64(b, word)
		want := fmt.Sprintf("%*d", width, v)
		if fits := len(want) <= width; ok != fits {
			t.Fatalf("digitWord(%d, %d) is %t, want %t", v, width, ok, fits)
		}
		if got := string(b); ok && got != "abcdefgh"[:8-width]+want {
			t.Fatalf("digitWord(%d, %d) wrote %q, want %q", v, width, got, "abcdefgh"[:8-width]+want)
		}
	}
	for v := range uint32(20000) {
		check(v, 8)
		check(v, 3)
	}
	for range 200_000 {
		check(rng.Uint32N(1e8), 1+rng.IntN(8))
	}
	check(1e8-1, 8)
}

package commands

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// word writes what %8d does.
func TestDigitTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(v uint64) {
		t.Helper()
		const blanks = 0x2020202020202020
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], fourDigits().word(v)|blanks)
		if got, want := string(b[:]), fmt.Sprintf("%8d", v); got != want {
			t.Fatalf("word(%d) is %q, want %q", v, got, want)
		}
	}
	for v := range uint64(20000) {
		check(v)
	}
	for range 200_000 {
		check(rng.Uint64N(maxWord))
	}
	check(maxWord - 1)
}

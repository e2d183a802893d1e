package disk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"e4go/fixtures"
)

// FuzzFold holds that folding is done after one pass, that it keeps UTF-8, and
// that names which differ in case fold alike.
func FuzzFold(f *testing.F) {
	for _, s := range []string{"", "abc", "ÀÉ", "ß", "\u0130", "ﬁ", "a\u0301", "\xff", "\u1e9e\u0345", "ΑΣ", "\u00ad\u200dx", "\u0f71\u0f72"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		s, ok := Fold(name)
		if ok != utf8.Valid(name) {
			t.Fatalf("%q: ok is %t", name, ok)
		}
		if !ok {
			return
		}
		again, ok := Fold([]byte(s))
		if !ok || again != s {
			t.Errorf("%q folds to %q, and that to %q (%t)", name, s, again, ok)
		}
		for i := range len(name) {
			if name[i] >= utf8.RuneSelf {
				return
			}
		}
		if want := strings.ToLower(string(name)); s != want {
			t.Errorf("%q folds to %q, want %q", name, s, want)
		}
	})
}

// Names hash as e2fsprogs say, whose tables are the kernel's: each code point, between
// marks that it may let pass or not, and many together.
func TestFoldAsE2fsprogs(t *testing.T) {
	fixtures.Need(t, "debugfs")
	var names []string
	var pool []rune
	for r := rune(utf8.RuneSelf); r < utf8.MaxRune; r++ {
		switch {
		case r >= 0xac10 && r < 0xf900 || r >= 0x3500 && r < 0xa000 && r%7 != 0: // Hangul, surrogates, private use; Han
			continue
		case r >= 0x1f000 && r%61 != 0:
			continue
		}
		pool = append(pool, r)
		names = append(names, "Aa\u0301"+string(r)+"\u0323")
	}
	rng := rand.New(rand.NewPCG(12, 1))
	for range 30_000 {
		name := []rune{'X'}
		for range 2 + rng.IntN(5) {
			r := pool[rng.IntN(len(pool))]
			if rng.IntN(3) == 0 {
				r = 0x300 + rune(rng.IntN(0x70)) // marks
			}
			name = append(name, r)
		}
		names = append(names, string(name))
	}
	var commands bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&commands, "dx_hash -c -e utf8 -h half_md4 %s\n", name)
	}
	file := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(file, commands.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-f", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		at := strings.LastIndex(line, " is 0x")
		if !strings.HasPrefix(line, "Hash of ") || at < 0 {
			continue
		}
		if n == len(names) {
			t.Fatal("debugfs says more than it was asked")
		}
		folded, _ := Fold([]byte(names[n]))
		hash, minor, _ := NameHash(HashHalfMD4, [4]uint32{}, []byte(folded))
		if got := fmt.Sprintf(" is %#x (minor %#x)\n", hash, minor); got != line[at:] {
			t.Fatalf("%q, as %q: the hash%s, want%s", names[n], folded, got, line[at:])
		}
		n++
	}
	if n != len(names) {
		t.Errorf("debugfs has said %d hashes of %d", n, len(names))
	}
}

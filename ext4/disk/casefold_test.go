package disk

import (
	"strings"
	"testing"
	"unicode/utf8"
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

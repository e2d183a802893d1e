package mkfs

import (
	"path/filepath"
	"strings"
	"testing"
)

// A link whose target is longer than a block of a small file system makes a larger
// one, unless the blocks were asked for: that is an error at once.
func TestFitLongLink(t *testing.T) {
	data := new(rawTar).header("r", 'x', pax("linkpath", strings.Repeat("t", 2000))).header("l", '2', "").end()
	for set, want := range map[string]string{"": "", "-b 2048": "", "-b 1024": "more than a block of 1024 holds"} {
		dir := t.TempDir()
		img := filepath.Join(dir, "image")
		_, _, err := fill(dir, img, parseArgs(t, strings.Fields(set)), 0, nil, fromPipe(data, TarOptions{}))
		switch {
		case want == "" && err == nil:
			in, err := lookupAll(openImage(t, img), "l")
			if err != nil {
				t.Fatal(err)
			}
			if to, err := in.Readlink(); err != nil || len(to) != 2000 {
				t.Errorf("%q: a target of %d bytes, %v", set, len(to), err)
			}
		case want == "" || err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v, want %q", set, err, want)
		}
	}
}

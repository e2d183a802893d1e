package mkfs

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"e4go/fixtures"
)

// Links have targets and xattrs of all sizes: e2fsck does not know a block of
// xattrs beside a target that is inline, and no quota of such a link.
func TestInlineLinkXattrs(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	var w rawTar
	type link struct{ target, value string }
	want := map[string]link{}
	for length := 58; length < 180; length += 3 {
		for n := 1; n < 120; n += 7 {
			name := fmt.Sprintf("l%d.%d", length, n)
			want[name] = link{strings.Repeat("t", length), noise(n)}
			w.header("r", 'x', pax("linkpath", want[name].target, "SCHILY.xattr.trusted.t", want[name].value))
			w.header(name, '2', "")
		}
	}
	data := w.end()
	for _, set := range []string{"-O inline_data", "-O inline_data -I 512", "-O inline_data -b 1024", "-O inline_data,quota"} {
		for _, size := range []int64{0, 64 << 20} {
			dir := t.TempDir()
			img := filepath.Join(dir, "image")
			o := parseArgs(t, strings.Fields(set))
			if _, _, err := fill(dir, img, o, size, nil, fromPipe(data, TarOptions{})); err != nil {
				t.Fatal(err)
			}
			if status, out := fixtures.E2fsck(t, img); status != 0 {
				t.Errorf("%s, size %d: e2fsck: exit status %d: %s", set, size, status, out)
			}
			for _, e := range dumpImage(t, img) {
				l, ok := want[e.Path[1:]]
				if ok && (e.Target != l.target || e.Xattrs["trusted.t"] != fmt.Sprintf("%x", l.value)) {
					t.Errorf("%s, size %d: %s leads to %q and has %v", set, size, e.Path, e.Target, e.Xattrs)
				}
			}
		}
	}
}

package commands

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/fixtures"
)

// Without an image, files are found in the device behind the mount.
func TestLivePaths(t *testing.T) {
	im := fixtures.Find(t, "ext4-4k")
	image, tree := im.Open(t)
	mnt := im.Mount(t)
	compared := 0
	for _, e := range withExtents(tree) {
		path := filepath.Join(mnt, e.Path)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if status, out, errs := e4goStatus("fiemap", "--compare", path); status != 0 {
			t.Errorf("fiemap --compare %s: exit status %d: %s%s", e.Path, status, out, errs)
		}
		live := e4go(t, "dumpextents", "--plain", "--", path)
		inside := e4go(t, "dumpextents", "--plain", "-i", image, "--", fmt.Sprint(e.Ino))
		_, live, _ = strings.Cut(live, "\t")
		_, inside, _ = strings.Cut(inside, "\t")
		if firstLine(live) != firstLine(inside) {
			t.Errorf("%s: by path %q, by inode %q", e.Path, firstLine(live), firstLine(inside))
		}
		if e4go(t, "fiemap", "--plain", path) != e4go(t, "fiemap", "--plain", "-i", image, fmt.Sprint(e.Ino)) {
			t.Errorf("%s: the kernel's answer differs from the image's", e.Path)
		}
		compared++
	}
	if compared == 0 {
		t.Errorf("no file was compared")
	}
	if got, want := e4go(t, "info", "--plain", mnt), e4go(t, "info", "--plain", image); got != want {
		t.Errorf("info of the mount: got\n%s\nwant\n%s", got, want)
	}
	if got, want := e4go(t, "ls", mnt), e4go(t, "ls", "-i", image); got != want {
		t.Errorf("ls of the mount: got\n%s\nwant\n%s", got, want)
	}
}

// A range is answered as the kernel answers it: cut at the range, and the last
// extent of it is called last.
func TestFiemapRange(t *testing.T) {
	im := fixtures.Find(t, "ext4-4k")
	image, tree := im.Open(t)
	mnt := im.Mount(t)
	for _, e := range withExtents(tree) {
		path := filepath.Join(mnt, e.Path)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || e.Size < 3*4096 {
			continue
		}
		for _, r := range [][2]int64{{0, 1}, {5000, 5000}, {e.Size / 2, 1 << 20}, {e.Size, 1 << 40}} {
			flags := []string{"fiemap", "--plain", fmt.Sprintf("--start=%d", r[0]), fmt.Sprintf("--length=%d", r[1])}
			got := e4go(t, append(flags, "-i", image, fmt.Sprint(e.Ino))...)
			if want := e4go(t, append(flags, path)...); got != want {
				t.Errorf("%s, %d bytes at %d: got\n%swant\n%s", e.Path, r[1], r[0], got, want)
			}
		}
	}
}

// Different maps are told apart, each by its kind.
func TestCompareExtents(t *testing.T) {
	x := func(logical, physical, length uint64, flags uint32) extent {
		return fiemapExtent(logical, physical, length, flags)
	}
	tests := []struct {
		name string
		a, b []extent
		want string
	}{
		{"same", []extent{x(0, 100, 10, 0)}, []extent{x(0, 100, 10, fiemapLast)}, ""},
		{"hole", []extent{x(0, 100, 10, 0)}, nil, "hole 0+10"},
		{"hole behind", []extent{x(0, 100, 10, 0)}, []extent{x(0, 100, 10, 0), x(20, 50, 5, 0)}, "hole 20+5"},
		{"physical", []extent{x(0, 100, 10, 0)}, []extent{x(0, 101, 10, 0)}, "physical 0+10"},
		{"state", []extent{x(0, 100, 10, 0)}, []extent{x(0, 100, 10, fiemapUnwritten)}, "state 0+10"},
		{"boundary", []extent{x(0, 100, 10, 0)}, []extent{x(0, 100, 6, 0)}, "boundary 0+6, hole 6+4"},
		{"half unwritten", []extent{x(0, 100, 10, 0)}, []extent{x(0, 100, 4, 0), x(4, 104, 6, fiemapUnwritten)}, "boundary 0+4, state 4+6"},
	}
	for _, tt := range tests {
		var got []string
		for _, d := range compareExtents(tt.a, tt.b) {
			got = append(got, fmt.Sprintf("%s %d+%d", d.what, d.logical, d.length))
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, s, tt.want)
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

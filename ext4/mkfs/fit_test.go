package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// What is too long for a block of a small file system makes larger blocks, not
// a larger file system, unless the blocks were asked for: that is an error at once.
func TestFitBlocks(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	link := func(n int) *Entry {
		return &Entry{Path: "dir/l", Mode: disk.ModeLink | 0o777, Link: strings.Repeat("t", n)}
	}
	attrs := func(n ...int) *Entry {
		e := &Entry{Path: "dir/f", Mode: disk.ModeReg | 0o644}
		for i, n := range n {
			e.Xattrs = append(e.Xattrs, Xattr{fmt.Sprint("user.", i), bytes.Repeat([]byte("v"), n)})
		}
		return e
	}
	tests := []struct {
		name, set string
		e         *Entry
		bs        int
		want      string // of the error
	}{
		{"link that fits", "", link(1023), 1024, ""},
		{"long link", "", link(1024), 2048, ""},
		{"longer link", "", link(2048), 4096, ""},
		{"longest link", "", link(4095), 4096, ""},
		{"blocks asked for", "-b 2048", link(2000), 2048, ""},
		{"smaller blocks asked for", "-b 1024", link(2000), 0, "/dir/l: the target of the symbolic link has 2000 bytes, a block of 1024 holds less: use larger blocks, as -b 4096"},
		{"larger blocks asked for", "-b 8192", link(2000), 8192, ""},
		{"xattr that fits", "", attrs(900), 1024, ""},
		{"large xattr", "", attrs(1010), 2048, ""},
		{"larger xattr", "", attrs(2100), 4096, ""},
		{"xattrs that share with the inode", "", attrs(900, 60), 1024, ""},
		{"many xattrs", "", attrs(900, 900, 900, 900), 4096, ""},
		{"largest xattr", "", attrs(4096 - 32 - 4 - 20), 4096, ""},
		{"smaller blocks asked for", "-b 1024", attrs(1010), 0, "/dir/f: its extended attributes take 1036 bytes, a block of 1024 has 992 for them: use larger blocks, as -b 4096"},
		{"too large", "", attrs(5000), 0, "/dir/f: its extended attributes take 5024 bytes, a block of 4096 has 4064 for them: add -O ea_inode, or give -E no_copy_xattrs to leave them out"},
		{"inodes for values", "-O ea_inode", attrs(5000, 3000, 900), 1024, ""},
		{"inodes for many values", "-O ea_inode -I 1024", attrs(slices.Repeat([]int{900}, 64)...), 1024, ""},
	}
	for _, test := range tests {
		img := filepath.Join(t.TempDir(), "image")
		open := func(*Spool) (Source, bool, error) { return &memSource{list: []*Entry{test.e}}, true, nil }
		_, r, err := fill(filepath.Dir(img), img, parseArgs(t, strings.Fields(test.set)), 0, nil, open)
		switch {
		case test.want != "":
			if err == nil || err.Error() != test.want {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
		case err != nil:
			t.Errorf("%s: %v", test.name, err)
		case r.Super.BlockSize() != test.bs || r.Super.Blocks*uint64(test.bs) > 8<<20:
			t.Errorf("%s: %d blocks of %d bytes, want few of %d", test.name, r.Super.Blocks, r.Super.BlockSize(), test.bs)
		default:
			if status, out := fixtures.E2fsck(t, img); status != 0 {
				t.Errorf("%s: e2fsck: exit status %d: %s", test.name, status, out)
			}
		}
	}
}

// Whoever gives up does not wait until a size has been found.
func TestFitGivesUp(t *testing.T) {
	b, err := NewBuilder(Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.Scan(ctx, oddTree(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Fit(ctx, Free{}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := b.Fit(ctx, Free{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

// Files from the future keep their time, and e2fsck has nothing to say.
func TestFuture(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	const year2100 = 4102444800
	for _, set := range []string{"", "-b 1024 -I 128", "-t ext2", "-O quota,project", "-O mmp"} {
		img := filepath.Join(t.TempDir(), "image")
		e := &Entry{Path: "dir/made/up", Mode: disk.ModeReg | 0o644, Mtime: disk.Time{Sec: year2100, Nsec: 5}}
		open := func(*Spool) (Source, bool, error) { return &memSource{list: []*Entry{e}}, true, nil }
		if _, _, err := fill(filepath.Dir(img), img, parseArgs(t, strings.Fields(set)), 0, nil, open); err != nil {
			t.Fatal(err)
		}
		if status, out := fixtures.E2fsck(t, img); status != 0 || strings.Contains(out, "future") {
			t.Errorf("%q: e2fsck: exit status %d: %s", set, status, out)
		}
	}
}

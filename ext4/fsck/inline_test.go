package fsck_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// TestInlineLinksQuota: mke2fs and e2fsck do not count symbolic links with inline data
// for the quota, with or without a block for xattrs.
func TestInlineLinksQuota(t *testing.T) {
	fixtures.Need(t, "mke2fs", "e2fsck")
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 59, 60, 61, 100, 140, 1000} {
		if err := os.Symlink(strings.Repeat("t", n), filepath.Join(dir, strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, options := range []string{"-b 4096 -I 256", "-b 1024 -I 512", "-b 1024 -I 1024"} {
		image := filepath.Join(t.TempDir(), "image")
		mustRun(t, "mke2fs -q -F -t ext4 -O inline_data,quota "+options+" -d "+dir+" "+image+" 16M")
		mustRun(t, "e2fsck -fy "+image) // mke2fs counts fewer
		mustRun(t, "e2fsck -fn "+image)
		report, err := check(t, image, fsck.Options{Replay: true})
		if err != nil || report.Damaged() {
			t.Errorf("%s: %v%s", options, err, describeAll(report.Problems, "  "))
		}
		if report.Stats.Symlinks != 7 {
			t.Errorf("%s: %d symbolic links, want 7", options, report.Stats.Symlinks)
		}
	}
}

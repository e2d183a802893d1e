package fsck_test

import (
	"context"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// checkImage runs the checker on a fixture.
func checkImage(t *testing.T, im fixtures.Image, file string, opts fsck.Options) (*fsck.Report, error) {
	t.Helper()
	f, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var dev blockdev.Device = f
	if im.Offset != 0 {
		if dev, err = blockdev.NewWindow(f, im.Offset, 0); err != nil {
			t.Fatal(err)
		}
	}
	if im.Journal != "" {
		j, err := blockdev.Open(im.Journal, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		opts.Journal = j
	}
	return fsck.Run(context.Background(), dev, opts)
}

// unsound are the images that are not quite in order.
var unsound = map[string]string{
	"unknown-ro-compat": "it has a feature that nobody knows",
	"bad-primary":       "the primary superblock is destroyed, and the counts beside a backup are old",
}

// TestCleanImages checks what mke2fs, debugfs and the kernel make: there is
// nothing to say of it.
func TestCleanImages(t *testing.T) {
	for _, im := range fixtures.Matrix() {
		t.Run(im.Name, func(t *testing.T) {
			t.Parallel()
			file, _ := im.Open(t)
			report, err := checkImage(t, im, file, fsck.Options{Replay: true})
			errors, warnings := report.Count(fsck.Error), report.Count(fsck.Warning)
			if (errors+warnings > 0 || err != nil) != (unsound[im.Name] != "") {
				t.Errorf("%d errors, %d warnings, %v:%s", errors, warnings, err, describeAll(report.Problems, "  "))
			}
			if im.Fsck < 0 {
				return
			}
			report, err = checkImage(t, im, file, fsck.Options{})
			if got, want := report.Damaged() || err != nil, im.Fsck != 0; got != want {
				t.Errorf("as it is: damaged is %t (%v), e2fsck -fn exits with %d:%s", got, err, im.Fsck, describeAll(report.Problems, "  "))
			}
			if im.Fsck == 0 && im.Offset == 0 && im.Journal == "" {
				fixtures.Need(t, "e2fsck")
				compareStats(t, file, &report.Stats)
			}
		})
	}
}

package fsck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// TestShortDevice: a file system whose end is missing has one problem, under which
// is all that cannot be read, and none of it is told to be repairable.
func TestShortDevice(t *testing.T) {
	for _, name := range []string{"ext4-4k", "ext4-1k", "ext2-1k", "no-flex-bg", "small-groups", "bigalloc-16k", "quota", "xattr-block", "uninit-groups"} {
		for _, part := range []int64{95, 60, 20, 5} {
			t.Run(fmt.Sprintf("%s %d%%", name, part), func(t *testing.T) {
				original, _ := fixtures.Find(t, name).Open(t)
				file := filepath.Join(t.TempDir(), "image")
				if err := fixtures.CopySparse(file, original); err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(file, info.Size()*part/100); err != nil {
					t.Fatal(err)
				}
				for _, replay := range []bool{false, true} {
					report, err := check(t, file, fsck.Options{Replay: replay})
					if err != nil {
						t.Fatal(err)
					}
					var top []*fsck.Problem
					for _, p := range report.Problems {
						if p.Severity != fsck.Note {
							top = append(top, p)
						}
					}
					if len(top) != 1 || top[0].Code != "super-size" || top[0].Repair {
						t.Errorf("replay %t: want super-size alone:%s", replay, describeAll(report.Problems, "  "))
					}
				}
			})
		}
	}
}

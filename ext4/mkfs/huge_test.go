package mkfs

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// Large file systems, up to nearly 16 TiB, more than which fits no file of ext4's, are mke2fs's.
func TestHugeIsMke2fs(t *testing.T) {
	fixtures.Need(t, "mke2fs")
	for _, size := range []int64{130 << 30, 1 << 40, 16383 << 30} {
		t.Run(fmt.Sprint(size>>30, " GiB"), func(t *testing.T) {
			dir := t.TempDir()
			theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
			runMke2fs(t, theirs, size, "-t", "ext4")
			makeImage(t, ours, size, parseArgs(t, []string{"-t", "ext4"}))
			for _, d := range compareImages(t, theirs, ours) {
				t.Error(d)
			}
			if size <= 1<<40 || long() {
				if status, out := fixtures.E2fsck(t, ours); status != 0 {
					t.Errorf("e2fsck: exit status %d: %s", status, out)
				}
			}
		})
	}
}

// File systems larger than any that mke2fs can make are in order, and those that cannot be say what to change.
func TestExbibyte(t *testing.T) {
	t.Parallel()
	const exbibyte = 1 << 60
	size := int64(1 << 54) // 16 PiB
	if long() {
		size = exbibyte
	}
	for _, set := range []string{
		"-b 65536 -C 16777216 -i 4194304 -O bigalloc",
		"-b 65536 -C 16777216 -i 4194304 -O bigalloc,^resize_inode,meta_bg",
		"-b 65536 -C 16777216 -i 4194304 -O bigalloc,sparse_super2,^has_journal",
	} {
		t.Run(set, func(t *testing.T) {
			p, err := Resolve(size, parseArgs(t, append([]string{"-t", "ext4"}, strings.Fields(set)...)))
			if err != nil {
				t.Fatal(err)
			}
			dev := blockdev.NewMem(size)
			if _, err := Make(context.Background(), dev, p, oddTree(false)); err != nil {
				t.Fatal(err)
			}
			report, err := fsck.Run(context.Background(), dev, fsck.Options{MemoryLimit: 8 << 30})
			if err != nil || report.Damaged() || report.Stats.Blocks != uint64(size)>>16 {
				t.Errorf("%v: %d blocks, problems %d", err, report.Stats.Blocks, len(report.Problems))
				for _, p := range report.Problems {
					t.Logf("%+v", p)
				}
			}
		})
	}
	for set, want := range map[string]string{
		"-b 4096":                         "groups",
		"-b 4096 -O ^64bit":               "64bit",
		"-b 1024 -C 65536 -O bigalloc":    "2^48",
		"-b 65536 -O ^64bit":              "64bit",
		"-t ext3 -b 4096":                 "64bit",
		"-b 65536 -i 65536":               "inodes",
		"-b 65536 -O bigalloc -N 3000000": "inodes",
	} {
		_, err := Resolve(exbibyte, parseArgs(t, strings.Fields(set)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
}

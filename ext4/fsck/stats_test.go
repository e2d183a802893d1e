package fsck_test

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"e4go/ext4/fsck"
)

// statRows find the numbers that e2fsck -v prints.
var statRows = []struct {
	row  string
	have func(s *fsck.Stats) uint64
}{
	{`(\d+) inodes? used`, func(s *fsck.Stats) uint64 { return s.UsedInodes }},
	{`inodes? used \(.*out of (\d+)\)`, func(s *fsck.Stats) uint64 { return s.Inodes }},
	{`(\d+) non-contiguous files?`, func(s *fsck.Stats) uint64 { return s.FragmentedFiles }},
	{`(\d+) non-contiguous director`, func(s *fsck.Stats) uint64 { return s.FragmentedDirs }},
	{`tind blocks: (\d+)/`, func(s *fsck.Stats) uint64 { return s.Indirect[0] }},
	{`tind blocks: \d+/(\d+)/`, func(s *fsck.Stats) uint64 { return s.Indirect[1] }},
	{`tind blocks: \d+/\d+/(\d+)`, func(s *fsck.Stats) uint64 { return s.Indirect[2] }},
	{`histogram: (\d+)`, func(s *fsck.Stats) uint64 { return s.ExtentDepth[0] }},
	{`histogram: \d+/(\d+)`, func(s *fsck.Stats) uint64 { return s.ExtentDepth[1] }},
	{`(\d+) blocks? used`, func(s *fsck.Stats) uint64 { return s.UsedBlocks }},
	{`blocks? used \(.*out of (\d+)\)`, func(s *fsck.Stats) uint64 { return s.Blocks }},
	{`(\d+) bad block`, func(s *fsck.Stats) uint64 { return s.BadBlocks }},
	{`(\d+) large file`, func(s *fsck.Stats) uint64 { return s.LargeFiles }},
	{`(\d+) regular file`, func(s *fsck.Stats) uint64 { return s.Files }},
	{`(\d+) director(?:y|ies)\n`, func(s *fsck.Stats) uint64 { return s.Directories }},
	{`(\d+) character device`, func(s *fsck.Stats) uint64 { return s.CharDevs }},
	{`(\d+) block device`, func(s *fsck.Stats) uint64 { return s.BlockDevs }},
	{`(\d+) fifo`, func(s *fsck.Stats) uint64 { return s.FIFOs }},
	{`(\d+) links?\n`, func(s *fsck.Stats) uint64 { return s.Links }},
	{`(\d+) symbolic link`, func(s *fsck.Stats) uint64 { return s.Symlinks }},
	{`(\d+) fast symbolic link`, func(s *fsck.Stats) uint64 { return s.FastSymlinks }},
	{`(\d+) sockets?`, func(s *fsck.Stats) uint64 { return s.Sockets }},
}

// compareStats compares what was counted with what e2fsck counts.
func compareStats(t *testing.T, file string, stats *fsck.Stats) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fnv", file).Output()
	if err != nil {
		t.Fatalf("e2fsck: %v", err)
	}
	for _, r := range statRows {
		var want uint64
		if m := regexp.MustCompile(r.row).FindSubmatch(out); m != nil {
			want, _ = strconv.ParseUint(string(m[1]), 10, 64)
		}
		if got := r.have(stats); got != want {
			t.Errorf("%q: got %d, e2fsck says %d", r.row, got, want)
		}
	}
}

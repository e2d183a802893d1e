package fsck_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// check runs the checker on a file.
func check(t *testing.T, file string, opts fsck.Options) (*fsck.Report, error) {
	t.Helper()
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	return fsck.Run(context.Background(), dev, opts)
}

// classes are all classes of a report's problems.
func classes(list []*fsck.Problem) (out []string) {
	for _, p := range list {
		for _, c := range p.Classes() {
			out = append(out, c.String())
		}
		out = append(out, classes(p.Follows)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// describeAll lists problems, for messages of tests.
func describeAll(list []*fsck.Problem, indent string) string {
	var b strings.Builder
	for _, p := range list {
		b.WriteString("\n" + indent + p.Severity.String() + " " + p.Code + " " + p.Class.String() + ": ")
		b.WriteString(placeText(&p.Place) + p.Text())
		b.WriteString(describeAll(p.Follows, indent+"    "))
	}
	return b.String()
}

// disagreed are the images of which e2fsck -fn says something else, and why it
// is wrong. docs/FORMAT.md has the rules.
var disagreed = map[string]string{
	// e2fsck -n forgets what it finds before pass 1 when it gives its status.
	"f_bad_gdt_csum":          "the kernel mounts it only to be read: checksum of a group descriptor",
	"f_first_meta_bg_too_big": "the kernel refuses to mount it: first meta block group too large",
	"f_zero_inode_size":       "the kernel refuses to mount it: unsupported inode size",
	// e2fsck 1.47.0 does not look at it; later ones do.
	"f_ea_inode_dir_ref":    "the kernel refuses the file: unexpected EA_INODE flag",
	"f_ea_inode_no_feature": "the kernel refuses the file: ea_inode specified without ea_inode feature enabled",
	"f_ea_zero_size":        "the kernel refuses the xattrs: invalid size in ea xattr",
}

// mended are the images that are damaged as they are, and sound when they are
// mounted.
var mended = map[string]string{
	"f_orphan":                "directories that were removed while they were open, on the orphan list",
	"f_clear_orphan_file":     "the orphans in the orphan file are deleted",
	"f_orphan_indirect_inode": "the orphan is cut",
	"f_orphquot":              "the orphan is deleted",
	"j_recover_fast_commit":   "the fast commits are replayed",
}

// badLogs are the images that are sound as they are, as e2fsck -n does not
// look into the log, and in the log of which a replay finds damage.
var badLogs = map[string]string{
	"j_corrupt_commit_csum":   "the checksum of a commit block is wrong",
	"j_corrupt_journal_block": "the checksum of a block is wrong",
	"j_corrupt_revoke_rcount": "the length of a revoke block is wrong",
}

func TestCorpus(t *testing.T) {
	for _, v := range fixtures.Corpus(t) {
		t.Run(v.Name, func(t *testing.T) {
			file := v.Unpack(t)
			report, err := check(t, file, fsck.Options{})
			got := report.Damaged() || err != nil
			want := v.Exit != "0" || disagreed[v.Name] != ""
			if got != want {
				t.Errorf("damaged is %t (%v), e2fsck -fn exits with %s", got, err, v.Exit)
			}
			have := classes(report.Problems)
			var missing []string
			for _, c := range v.Classes {
				if !slices.Contains(have, c) {
					missing = append(missing, c)
				}
			}
			if missing != nil {
				t.Errorf("not found: %v", missing)
			}
			replayed, err := check(t, file, fsck.Options{Replay: true})
			if got, want := replayed.Damaged() || err != nil, want && mended[v.Name] == "" || badLogs[v.Name] != ""; got != want {
				t.Errorf("with a replay: damaged is %t (%v), want %t", got, err, want)
				t.Logf("%s", describeAll(replayed.Problems, "  "))
			}
			if t.Failed() {
				text := describeAll(report.Problems, "  ")
				t.Logf("%s%s", v.Classes, text[:min(len(text), 6000)])
			}
		})
	}
}

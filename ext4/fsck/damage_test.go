package fsck_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// A damaging is one way of damaging a sound image.
type damaging struct {
	name    string
	image   string          // fixture
	debugfs string          // commands, one a line
	change  func(v *volume) // what debugfs cannot do
	codes   string          // the problems that are found, in order, if that matters
	sound   bool            // it is no damaging after all
	ours    string          // why the verdict is not e2fsck's; docs/FORMAT.md has it at length
	unnamed string          // classes of e2fsck's that are not named
}

// TestDamage damages sound images, and compares the verdict and the classes with
// those of e2fsck: it names at least what that names.
func TestDamage(t *testing.T) {
	fixtures.Need(t, "e2fsck", "debugfs")
	for _, list := range [][]damaging{damagedFlags, damagedJournals, damagedMaps, damagedFeatures, damagedDirs, damagedSupers, damagedXattrs} {
		for _, d := range list {
			t.Run(d.image+" "+d.name, func(t *testing.T) {
				t.Parallel()
				d.test(t)
			})
		}
	}
}

// debugfsFailed finds what debugfs says of a command that failed: its status is 0.
var debugfsFailed = regexp.MustCompile(`(?i)not found|usage|unknown|invalid|unrecogni[sz]ed|illegal|couldn't`)

func (d *damaging) test(t *testing.T) {
	original, _ := fixtures.Find(t, d.image).Open(t)
	file := filepath.Join(t.TempDir(), "image")
	if err := fixtures.CopySparse(file, original); err != nil {
		t.Fatal(err)
	}
	if d.debugfs != "" {
		cmd := exec.Command("debugfs", "-w", "-f", "-", file)
		cmd.Stdin = strings.NewReader(d.debugfs)
		if out, err := cmd.CombinedOutput(); err != nil || debugfsFailed.Match(out) {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
	if d.change != nil {
		d.change(openVolume(t, file))
	}
	theirs, codes := e2fsckVerdict(t, file, filepath.Join(t.TempDir(), "log"))
	report, err := check(t, file, fsck.Options{})
	ours := report.Damaged() || err != nil
	switch {
	case ours == d.sound:
		t.Errorf("damaged is %t (%v)", ours, err)
	case ours != theirs && d.ours == "":
		t.Errorf("damaged is %t (%v), and e2fsck says %t", ours, err, theirs)
	case ours == theirs && d.ours != "":
		t.Errorf("e2fsck says the same, in spite of %q", d.ours)
	}
	_, list, _ := strings.Cut(codes, " ")
	have := classes(report.Problems)
	var missing []string
	for _, class := range strings.Split(list, ",") {
		if class != "" && !slices.Contains(have, class) {
			missing = append(missing, class)
		}
	}
	if got := strings.Join(missing, " "); got != d.unnamed {
		t.Errorf("not named: %q, want %q", got, d.unnamed)
	}
	found := codesOf(report.Problems)
	if len(found) == 0 {
		found = []string{"none"}
	}
	if got := strings.Join(found, " "); d.codes != "" && got != d.codes {
		t.Errorf("problems %q, want %q", got, d.codes)
	}
	if t.Failed() || os.Getenv("E4GO_FSCK_SHOW") != "" {
		text := describeAll(report.Problems, "  ")
		t.Logf("e2fsck: %s%s", codes, text[:min(len(text), 3000)])
	}
}

// codesOf are the codes of problems, with those that follow.
func codesOf(list []*fsck.Problem) (out []string) {
	for _, p := range list {
		out = append(append(out, p.Code), codesOf(p.Follows)...)
	}
	return out
}

// ino is the inode at a path.
func (v *volume) ino(path string) disk.Ino {
	in, err := v.fs.Resolve(path, false)
	if err != nil {
		v.t.Fatal(err)
	}
	return in.Ino()
}

// putAt changes the inode at a path.
func (v *volume) putAt(path string, fn func(in *disk.Inode)) { v.put(v.ino(path), fn) }

// putDesc changes the descriptor of group g.
func (v *volume) putDesc(g disk.Group, fn func(d *disk.GroupDesc)) {
	v.change(v.descAt(g), v.sb.GroupDescSize(), func(b []byte) {
		d := disk.DecodeGroupDesc(b)
		fn(&d)
		d.Put(b)
	})
	v.fixDesc(g)
}

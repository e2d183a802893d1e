package commands

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// e4go runs a command line, which must succeed, and returns what it prints.
func e4go(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := e4goStatus(args...)
	if status != 0 {
		t.Fatalf("e4go %s: exit status %d: %s", strings.Join(args, " "), status, stderr)
	}
	return stdout
}

func e4goStatus(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(context.Background(), append([]string{programName}, args...), &out, &errs)
	return status, out.String(), errs.String()
}

// openFlags are the flags that im is opened with.
func openFlags(im fixtures.Image, path string) []string {
	flags := []string{"--image=" + path, fmt.Sprintf("--offset=%d", im.Offset)}
	if im.Journal != "" {
		flags = append(flags, "--journal="+im.Journal)
	}
	return flags
}

// regular returns the first entry of each regular file and directory with
// extents, by inode.
func withExtents(tree []fixtures.Entry) []fixtures.Entry {
	seen := map[uint64]bool{}
	var out []fixtures.Entry
	for _, e := range tree {
		if !seen[e.Ino] && e.Blocks > 0 && (e.Mode&unix.S_IFMT == unix.S_IFREG || len(e.Extents) > 0) {
			seen[e.Ino] = true
			out = append(out, e)
		}
	}
	return out
}

// What fiemap computes from an image is what the kernel reported for it.
func TestFiemapIsTheKernels(t *testing.T) {
	for _, im := range fixtures.Matrix() {
		if !im.Kernel || slices.Contains(im.Ignore, "extents") {
			continue
		}
		t.Run(im.Name, func(t *testing.T) {
			t.Parallel()
			path, tree := im.Open(t)
			compared := 0
			for _, e := range withExtents(tree) {
				if e.FiemapErr != "" || e.ReadErr != "" { // the kernel opens no encrypted file
					continue
				}
				args := append([]string{"fiemap", "--plain", fmt.Sprintf("<%d>", e.Ino)}, openFlags(im, path)...)
				got := e4go(t, args...)
				var want strings.Builder
				for _, x := range fixtures.MergeExtents(e.Extents) {
					k := fiemapExtent(x.Logical, x.Physical, x.Length, x.Flags)
					fmt.Fprintf(&want, "%d\t%d\t%d\t%s\t%#x\t%s\n", k.logical, k.physical, k.length, k.state, k.flags, joinNames(k.flagNames))
				}
				if got != want.String() {
					t.Errorf("%q (inode %d): got\n%swant\n%s", e.Path, e.Ino, got, want.String())
				}
				compared++
			}
			if compared == 0 {
				t.Logf("no file of this image has extents")
			}
		})
	}
}

// debugfsExtents asks debugfs for the extent trees of inodes: its rows, by inode.
func debugfsExtents(t *testing.T, device string, inos []uint64) map[uint64][]string {
	t.Helper()
	var requests strings.Builder
	for _, ino := range inos {
		fmt.Fprintf(&requests, "dump_extents <%d>\n", ino)
	}
	cmd := exec.Command("debugfs", "-f", "-", device)
	cmd.Stdin = strings.NewReader(requests.String())
	cmd.Env = append(os.Environ(), "DEBUGFS_PAGER=__none__", "LC_ALL=C")
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", device, err)
	}
	out := map[uint64][]string{}
	var ino uint64
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if s, ok := strings.CutPrefix(line, "debugfs: dump_extents <"); ok {
			if ino, err = strconv.ParseUint(strings.TrimSuffix(s, ">"), 10, 64); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if strings.HasPrefix(line, "Level") {
			continue
		}
		out[ino] = append(out[ino], line)
	}
	return out
}

// dumpextents prints the rows of debugfs, all of them, with two columns more.
func TestDumpExtentsIsDebugfs(t *testing.T) {
	for _, im := range fixtures.Matrix() {
		if im.Name == "bad-primary" {
			continue // debugfs does not find the backup
		}
		t.Run(im.Name, func(t *testing.T) {
			t.Parallel()
			path, tree := im.Open(t)
			device := path
			if im.Offset != 0 {
				device += fmt.Sprintf("?offset=%d", im.Offset)
			}
			var inos []uint64
			for _, e := range withExtents(tree) {
				inos = append(inos, e.Ino)
			}
			want := debugfsExtents(t, device, inos)
			got := ourExtents(t, im, path, inos)
			for _, ino := range inos {
				rows, ours := want[ino], got[ino]
				if len(rows) == 0 || !strings.Contains(rows[0], "/") {
					continue // not an extent tree
				}
				if len(ours) != len(rows) {
					t.Errorf("inode %d: %d rows, debugfs has %d", ino, len(ours), len(rows))
					continue
				}
				for i := range ours {
					if g, w := rowFields(ours[i], true), rowFields(rows[i], false); g != w {
						t.Errorf("inode %d, row %d: got %q, debugfs has %q", ino, i+1, g, w)
						break
					}
				}
			}
		})
	}
}

// ourExtents is debugfsExtents by e4go. The root inode is dumped last, so that
// there are always two, and a line with the name before each.
func ourExtents(t *testing.T, im fixtures.Image, path string, inos []uint64) map[uint64][]string {
	t.Helper()
	args := append([]string{"dumpextents", "--no-recovery"}, openFlags(im, path)...)
	for _, ino := range append(inos, 2) {
		args = append(args, fmt.Sprintf("<%d>", ino))
	}
	out := map[uint64][]string{}
	var ino uint64
	for line := range strings.Lines(e4go(t, args...)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "Level"):
		case strings.HasPrefix(line, "<"):
			_, number, _ := strings.Cut(line, "inode ")
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				continue // inline data
			}
			ino = n
			out[ino] = nil
		default:
			out[ino] = append(out[ino], line)
		}
	}
	return out
}

// rowFields is a row with one blank between words, without the columns that
// debugfs does not have.
func rowFields(row string, ours bool) string {
	f := strings.Fields(row)
	if ours {
		f = f[:len(f)-2]
	}
	return strings.Join(f, " ")
}

// Every tree of the matrix keeps all rules, and i_blocks adds up.
func TestCheckFindsNothing(t *testing.T) {
	for _, im := range fixtures.Matrix() {
		if im.Fsck > 0 || im.Name == "bad-primary" { // backup descriptors are out of date
			continue
		}
		t.Run(im.Name, func(t *testing.T) {
			t.Parallel()
			path, _ := im.Open(t)
			args := append([]string{"dumpextents", "--all", "--check", "-q"}, openFlags(im, path)...)
			if status, out, errs := e4goStatus(args...); status != 0 {
				t.Errorf("exit status %d: %s%s", status, out, errs)
			}
		})
	}
}

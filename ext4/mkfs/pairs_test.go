package mkfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// axes are options that exclude each other: one of each row is taken.
var axes = [][]string{
	{"-b 1024", "-b 2048", "-b 4096"},
	{"", "-I 128", "-I 1024"},
	{"", "^64bit", "^64bit,^extent"},
	{"", "^metadata_csum", "^metadata_csum,uninit_bg"},
	{"", "^flex_bg", "-G 4"},
	{"", "sparse_super2", "^sparse_super"},
	{"", "^resize_inode", "^resize_inode,meta_bg"},
	{"", "^has_journal,^orphan_file", "fast_commit", "^orphan_file"},
	{"", "^dir_index", "large_dir", "casefold"},
	{"", "inline_data", "bigalloc"},
	{"", "quota,project", "mmp", "ea_inode,encrypt,verity"},
	{"", "-i 8192", "-g 4096"},
}

// pairs returns rows of the axes such that each two options of different axes are together in one.
func pairs(rng *rand.Rand) (rows [][]string) {
	type pair struct{ a, i, b, j int }
	open := map[pair]bool{}
	for a := range axes {
		for b := a + 1; b < len(axes); b++ {
			for i := range axes[a] {
				for j := range axes[b] {
					open[pair{a, i, b, j}] = true
				}
			}
		}
	}
	covers := func(row []int) (n int) {
		for a := range row {
			for b := a + 1; b < len(row); b++ {
				if row[a] >= 0 && row[b] >= 0 && open[pair{a, row[a], b, row[b]}] {
					n++
				}
			}
		}
		return n
	}
	for len(open) > 0 {
		var best []int
		for range 30 {
			row := slices.Repeat([]int{-1}, len(axes))
			for _, a := range rng.Perm(len(axes)) {
				most := -1
				choice := 0
				for _, i := range rng.Perm(len(axes[a])) {
					row[a] = i
					if n := covers(row); n > most {
						most, choice = n, i
					}
				}
				row[a] = choice
			}
			if best == nil || covers(row) > covers(best) {
				best = row
			}
		}
		var options, features []string
		for a, i := range best {
			for b := range best[:a] {
				delete(open, pair{b, best[b], a, i})
			}
			switch o := axes[a][i]; {
			case strings.HasPrefix(o, "-"):
				options = append(options, strings.Fields(o)...)
			case o != "":
				features = append(features, o)
			}
		}
		if len(features) > 0 {
			options = append(options, "-O", strings.Join(features, ","))
		}
		rows = append(rows, options)
	}
	return rows
}

// Each two options work together, or are refused as mke2fs refuses them: the empty file system is mke2fs's,
// and a tree comes back from the kernel, which goes on writing to it.
func TestPairs(t *testing.T) {
	fixtures.Need(t, "root", "loop", "e2fsck", "mke2fs")
	const size = 64 << 20
	src := filepath.Join(t.TempDir(), "src")
	m := &treeMaker{t: t, rng: rand.New(rand.NewPCG(5, 6))}
	m.check(os.Mkdir(src, 0o755))
	m.fill(src, 2, 30)
	many := filepath.Join(src, "many")
	m.check(os.Mkdir(many, 0o755))
	for i := range 300 {
		m.check(os.WriteFile(filepath.Join(many, fmt.Sprintf("entry number %d", i)), nil, 0o644))
	}
	want := dumpTree(t, src)
	made := 0
	for _, args := range pairs(rand.New(rand.NewPCG(1, 1))) {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			dir := t.TempDir()
			o := parseArgs(t, append([]string{"-t", "ext4"}, args...))
			p, err := Resolve(size, o)
			theirs := filepath.Join(dir, "theirs")
			mkErr := tryMke2fs(t, theirs, size, append([]string{"-t", "ext4"}, args...)...)
			if err != nil || mkErr != nil {
				line := strings.Join(args, " ")
				explained := strings.Contains(line, "verity") && strings.Contains(line, "^extent") // docs/MKFS.md
				if bad := new(UsageError); err == nil || mkErr == nil && !explained || !errors.As(err, &bad) {
					t.Errorf("we say %v, mke2fs says %v", err, mkErr)
				}
				return
			}
			made++
			ours := filepath.Join(dir, "ours")
			makeImage(t, ours, size, o)
			line := strings.Join(args, " ")
			if diffs := compareImages(t, theirs, ours); len(diffs) > 0 && !slices.ContainsFunc(explained, func(x string) bool { return strings.Contains(line, x) }) {
				t.Error(strings.Join(diffs, "\n"))
			}
			img := filepath.Join(dir, "filled")
			s, err := NewDirSource(src, false)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			target, err := NewImage(img, size)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Make(context.Background(), target.Dev, p, s); err != nil {
				t.Fatal(errors.Join(err, target.Abort()))
			}
			if err := target.Commit(); err != nil {
				t.Fatal(err)
			}
			if status, out := fixtures.E2fsck(t, img); status != 0 {
				t.Fatalf("e2fsck: exit status %d: %s", status, out)
			}
			if strings.Contains(line, "-I 128") { // no room for nanoseconds, nor for years after 2038
				return
			}
			if !kernelMounts(t, theirs, "ro") {
				return // such as a kernel without CONFIG_UNICODE
			}
			if !t.Run("tree", func(t *testing.T) { sameTree(t, want, fixtures.MountKernel(t, img)) }) {
				return
			}
			has := func(x string) bool { return strings.Contains(line, x) }
			switch {
			case has("fast_commit") && has("^extent"): // Linux 6.18 stops at a BUG when it writes to that
			case has("mmp") && !long(): // the kernel waits for ten seconds
			case !kernelMounts(t, theirs, "rw"): // such as a kernel without CONFIG_QFMT_V2
			default:
				// resize2fs 1.47.0 breaks what mke2fs makes with these, too.
				how := "loop"
				if has("inline_data") && !has("^has_journal") {
					how += ",data=writeback" // with data=ordered, Linux 6.18 may wait for itself
				}
				live(t, img, how, !has("bigalloc") && !has("sparse_super2"))
			}
		})
	}
	if made < 10 {
		t.Errorf("only %d were made", made)
	}
}

// kernelMounts reports whether the kernel mounts what mke2fs has made.
func kernelMounts(t *testing.T, img, how string) bool {
	t.Helper()
	mnt := t.TempDir()
	if exec.Command("mount", "-o", "loop,"+how, img, mnt).Run() != nil {
		return false
	}
	if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	return true
}

// live lets the kernel fill an image to the last block, delete half and write again, and
// perhaps resize2fs grow it.
func live(t *testing.T, img, how string, grow bool) {
	t.Helper()
	mnt := t.TempDir()
	run := func(ok bool, args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); (err == nil) != ok {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	sound := func(when string) {
		t.Helper()
		if status, out := fixtures.E2fsck(t, img); status != 0 {
			t.Fatalf("%s: e2fsck: exit status %d: %s", when, status, out)
		}
	}
	run(true, "mount", "-o", how, img, mnt)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			exec.Command("umount", mnt).Run()
		}
	})
	data := make([]byte, 700_000)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		dir := fmt.Sprintf("%s/new %d", mnt, n%10)
		os.Mkdir(dir, 0o755)
		err = os.WriteFile(fmt.Sprintf("%s/%d", dir, n), data[:1+n*7919%len(data)], 0o644)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filling it ended with %v after %d files", err, n)
	}
	for i := 0; i < n; i += 2 {
		os.Remove(fmt.Sprintf("%s/new %d/%d", mnt, i%10, i))
	}
	for i := range 50 {
		if err := os.WriteFile(fmt.Sprintf("%s/many/another %d", mnt, i), data[:5000], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(true, "umount", mnt)
	mounted = false
	sound("after the kernel wrote to it")
	if !grow {
		return
	}
	st, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, st.Size()*3/2); err != nil {
		t.Fatal(err)
	}
	run(true, "resize2fs", "-f", img)
	sound("after resize2fs")
}

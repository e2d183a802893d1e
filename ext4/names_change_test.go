package ext4_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// makeImage makes an image with mke2fs.
func makeImage(t testing.TB, size string, args ...string) string {
	t.Helper()
	fixtures.Need(t, "mke2fs")
	file := filepath.Join(t.TempDir(), "img")
	args = append([]string{"-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard"}, append(args, file, size)...)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %v\n%s", args, err, out)
	}
	return file
}

// openWrite opens an image for writing. done closes it; what is wrong then
// fails the test.
func openWrite(t testing.TB, file string) (fs *ext4.FS, done func()) {
	t.Helper()
	dev, err := blockdev.Open(file, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	fs, err = ext4.Open(dev, ext4.Options{Write: true})
	if err != nil {
		dev.Close()
		t.Fatal(err)
	}
	return fs, func() {
		t.Helper()
		if err := fs.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		dev.Close()
	}
}

// checkImage lets e2fsck judge an image that is closed.
func checkImage(t testing.TB, file string) {
	t.Helper()
	if status, out := fixtures.E2fsck(t, file); status != 0 {
		t.Fatalf("e2fsck: status %d\n%s", status, out)
	}
}

// checkTree compares what we read in a closed image with what the kernel
// does, if it can mount it.
func checkTree(t testing.TB, file string, mounts bool) []fixtures.Entry {
	t.Helper()
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	got, err := libTree(fs)
	if err != nil {
		t.Fatal(err)
	}
	if mounts && os.Geteuid() == 0 {
		want, err := fixtures.DumpTree(fixtures.MountKernel(t, file), fixtures.Options{Contents: true, Xattrs: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range fixtures.Diff(want, got, "extents", "fiemaperr", "data", "seekerr") {
			t.Errorf("the kernel and we: %s", line)
		}
	}
	return got
}

// A nameKind is a file system that holds names in its way.
type nameKind struct {
	name   string
	args   []string // of mke2fs
	mounts bool     // the kernel here mounts it
}

var nameKinds = []nameKind{
	{"4k", []string{"-b", "4096"}, true},
	{"1k", []string{"-b", "1024"}, true},
	{"no-index", []string{"-b", "1024", "-O", "^dir_index"}, true},
	{"inline", []string{"-b", "1024", "-O", "inline_data", "-I", "256"}, true},
	{"inline-no-index", []string{"-b", "4096", "-O", "inline_data,^dir_index", "-I", "512"}, true},
	{"casefold", []string{"-b", "1024", "-O", "casefold", "-E", "encoding=utf8"}, false},
	{"large-dir", []string{"-b", "1024", "-O", "large_dir"}, true},
	{"no-csum", []string{"-b", "1024", "-O", "^metadata_csum"}, true},
	{"no-filetype", []string{"-b", "1024", "-O", "^filetype,^metadata_csum"}, true},
	{"orphan-file", []string{"-b", "4096", "-O", "orphan_file"}, true},
	{"orphan-list", []string{"-b", "4096", "-O", "^orphan_file"}, true},
	{"small-inode", []string{"-b", "1024", "-I", "128"}, true},
	{"bigalloc", []string{"-b", "4096", "-O", "bigalloc", "-C", "16384"}, true},
	{"64k", []string{"-b", "65536"}, false},
	{"no-journal", []string{"-b", "4096", "-O", "^has_journal"}, true},
}

// steps are the rounds of a random test, as seeds, and how many operations each
// has: one round of n, or as many more as make E4GO_TEST_STEPS operations in a long run;
// E4GO_TEST_SEED is the first seed.
func steps(t testing.TB, n int) iter.Seq2[uint64, int] {
	const most = 12_000 // else what they make fills the image
	total, first := n, uint64(0)
	for name, to := range map[string]func(uint64){"E4GO_TEST_STEPS": func(v uint64) { total = int(v) }, "E4GO_TEST_SEED": func(v uint64) { first = v }} {
		if s := os.Getenv(name); s != "" {
			v, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			to(v)
		}
	}
	return func(yield func(uint64, int) bool) {
		for seed := first; total > 0; seed++ {
			t.Logf("E4GO_TEST_SEED=%d", seed)
			if !yield(seed, min(total, most)) {
				return
			}
			total -= most
		}
	}
}

// randomPath is a path of at most three names, of which there are few.
func randomPath(rng *rand.Rand) string {
	var parts []string
	for range 1 + rng.IntN(3) {
		name := fmt.Sprintf("%c%s", 'a'+rng.IntN(6), strings.Repeat("x", rng.IntN(2)*rng.IntN(60)/30*200))
		if rng.IntN(3) == 0 {
			name = strings.ToUpper(name)
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, "/")
}

// randomStep does one random operation, the same to all, and compares what they say.
func randomStep(t testing.TB, rng *rand.Rand, all ...namer) {
	t.Helper()
	p, q := randomPath(rng), randomPath(rng)
	var what string
	var do func(n namer) error
	switch k := rng.IntN(20); {
	case k < 3:
		what, do = "create "+p, func(n namer) error { return n.create(p, unix.S_IFREG|0o640) }
	case k == 3:
		typ := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK}[rng.IntN(4)]
		what, do = "mknod "+p, func(n namer) error { return n.mknod(p, typ|0o600, 300, 70000) }
	case k < 7:
		what, do = "mkdir "+p, func(n namer) error { return n.mkdir(p, 0o751) }
	case k == 7:
		target := strings.Repeat("t", 1+rng.IntN(150))
		what, do = "symlink "+p, func(n namer) error { return n.symlink(target, p) }
	case k < 10:
		what, do = "link "+p+" "+q, func(n namer) error { return n.link(p, q) }
	case k < 12:
		what, do = "unlink "+p, func(n namer) error { return n.unlink(p) }
	case k == 12:
		what, do = "rmdir "+p, func(n namer) error { return n.rmdir(p) }
	default:
		flags := []uint{0, 0, 0, 1, 2, 4, 5}[rng.IntN(7)]
		what, do = fmt.Sprintf("rename %s %s %d", p, q, flags), func(n namer) error { return n.rename(p, q, flags) }
	}
	var first unix.Errno
	for i, n := range all {
		err := do(n)
		if i == 0 {
			first = errnoOf(err)
		} else if errnoOf(err) != first {
			t.Fatalf("%s: %T says %v (%s), %T says %v", what, n, err, unix.ErrnoName(errnoOf(err)), all[0], first)
		}
	}
}

// TestNamesModel does random operations on every kind of file system, and
// compares each answer, and the tree at the end, with those of a model.
func TestNamesModel(t *testing.T) {
	for _, kind := range nameKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			for seed, n := range steps(t, 3000) {
				rng := rand.New(rand.NewPCG(uint64(len(kind.name)), 7+seed))
				t.Run(fmt.Sprint(seed), func(t *testing.T) { kind.compareModel(t, rng, n) })
			}
		})
	}
}

// compareModel does n random operations on a file system and on a model.
func (kind nameKind) compareModel(t *testing.T, rng *rand.Rand, n int) {
	size := "128M"
	if kind.name == "64k" {
		size = "512M" // as many directories as random names make
	}
	file := makeImage(t, size, append([]string{"-N", "12000"}, kind.args...)...)
	fold := func(s string) string { return s }
	fs, done := openWrite(t, file)
	if kind.name == "casefold" {
		fold = strings.ToLower
		flags := disk.FlagCasefold | disk.FlagExtents
		o := ours{fs, ext4.Root}
		if err := o.rmdir("lost+found"); err != nil {
			t.Fatal(err)
		}
		if err := fs.SetAttr(t.Context(), ext4.Root, disk.RootIno, ext4.SetAttr{Flags: &flags}); err != nil {
			t.Fatal(err)
		}
	}
	m := newModel(fold)
	if kind.name != "casefold" {
		if err := m.mkdir("lost+found", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		randomStep(t, rng, m, ours{fs, ext4.Root})
		if i%1000 == 999 {
			done()
			checkImage(t, file)
			fs, done = openWrite(t, file)
		}
	}
	done()
	checkImage(t, file)
	want, mounts := m.tree(), kind.mounts
	for _, e := range want {
		if len(e.Path) > 4000 && mounts { // no call of the kernel takes the path
			t.Logf("a path of %d bytes: not compared with the kernel's mount", len(e.Path))
			mounts = false
		}
	}
	for _, line := range fixtures.Diff(want, checkTree(t, file, mounts), "ino", "uid", "gid", "rdev", "size", "blocks", "atime", "mtime", "ctime", "btime",
		"attributes", "sha256", "xattrs", "extents", "fiemaperr", "data") {
		t.Error(line)
	}
}

// TestManyNames fills directories far beyond one block, in each way to hold
// names, and empties them in another order.
func TestManyNames(t *testing.T) {
	for _, kind := range nameKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			file := makeImage(t, "64M", append([]string{"-N", "8000"}, kind.args...)...)
			fs, done := openWrite(t, file)
			rng := rand.New(rand.NewPCG(3, 9))
			n := 4000
			if kind.name == "no-index" || kind.name == "inline-no-index" {
				n = 1500
			}
			o := ours{fs, ext4.Root}
			if err := o.mkdir("d", 0o755); err != nil {
				t.Fatal(err)
			}
			if kind.name == "casefold" {
				in, err := fs.Resolve("d", true)
				if err != nil {
					t.Fatal(err)
				}
				flags := disk.FlagCasefold | disk.FlagExtents
				if err := fs.SetAttr(t.Context(), ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}); err != nil {
					t.Fatal(err)
				}
			}
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprintf("d/%0*d", 5+rng.IntN(4)*rng.IntN(50), i)
				if err := o.create(names[i], unix.S_IFIFO|0o644); err != nil {
					t.Fatal(names[i], err)
				}
			}
			check := func() {
				t.Helper()
				done()
				checkImage(t, file)
				if got := len(checkTree(t, file, kind.mounts)); got != len(names)+3 {
					t.Fatalf("the tree has %d entries, want %d", got, len(names)+3)
				}
				fs, done = openWrite(t, file)
				o = ours{fs, ext4.Root}
			}
			check()
			rng.Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names[n/2:] {
				if err := o.unlink(name); err != nil {
					t.Fatal(name, err)
				}
			}
			names = names[:n/2]
			check()
			for _, name := range names {
				if err := o.unlink(name); err != nil {
					t.Fatal(name, err)
				}
			}
			if err := o.rmdir("d"); err != nil {
				t.Fatal(err)
			}
			done()
			checkImage(t, file)
		})
	}
}

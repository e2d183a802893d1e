package mkfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// plant makes the same tree each time, in an order that rng says: the lists of
// its directories, its inode numbers and the extents of its files differ.
func plant(t testing.TB, rng *rand.Rand, links bool) string {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(t.TempDir(), "tree")
	var names []string
	for i := range 300 {
		name := fmt.Sprintf("d%d/e%d/%s%d", i%7, i%5, strings.Repeat("n", i%40), i)
		if i%11 == 0 {
			name = strings.TrimPrefix(name, fmt.Sprintf("d%d/", i%7))
		}
		names = append(names, name)
	}
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	dirs := map[string]bool{root: true}
	for _, name := range names {
		p := filepath.Join(root, name)
		check(os.MkdirAll(filepath.Dir(p), 0o755))
		for d := filepath.Dir(p); d != root; d = filepath.Dir(d) {
			dirs[d] = true
		}
		own := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[len(name)-1]))) // what follows from the name
		switch own.IntN(6) {
		case 0:
			check(os.Symlink(strings.Repeat("t", 1+own.IntN(200)), p))
		case 1:
			f, err := os.Create(p)
			check(err)
			parts := []int64{0, 40960, 204800} // in any order
			rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			for _, at := range parts {
				_, err = f.WriteAt([]byte(noise(4096)), at)
				check(err)
			}
			check(f.Truncate(500000))
			check(f.Close())
		default:
			check(os.WriteFile(p, []byte(noise(own.IntN(1<<own.IntN(18)))), 0o600))
		}
	}
	if links {
		var ends []string
		for i := range 40 {
			ends = append(ends, fmt.Sprintf("%s/d%d/link %d", root, i%7, i))
		}
		rng.Shuffle(len(ends), func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
		check(os.WriteFile(ends[0], []byte("links"), 0o600))
		for _, p := range ends[1:] {
			check(os.Link(ends[0], p))
		}
	}
	finish := func(p string) {
		name := p[len(root):]
		own := rand.New(rand.NewPCG(uint64(len(name)), 5))
		st, err := os.Lstat(p)
		check(err)
		if st.Mode()&os.ModeSymlink == 0 {
			check(os.Chmod(p, os.FileMode(0o700+own.IntN(0o100))))
			if own.IntN(3) == 0 {
				list := []string{"user.a", "user.b", "user.c" + strings.Repeat("x", own.IntN(50))}
				rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				for _, x := range list {
					if err := unix.Lsetxattr(p, x, []byte(noise(len(x)*5)), 0); err != unix.EOPNOTSUPP {
						check(err)
					}
				}
			}
		}
		mtime := unix.Timespec{Sec: 1e9 + own.Int64N(1e9), Nsec: own.Int64N(1e9)}
		check(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW))
	}
	var all []string
	check(filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(p, "/link ") {
			all = append(all, p)
		}
		return err
	}))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		finish(p)
	}
	if links {
		check(os.Chtimes(root+"/d0/link 0", time.Unix(testTime, 5), time.Unix(testTime, 5)))
	}
	var below []string
	for d := range dirs {
		below = append(below, d)
	}
	slices.Sort(below)
	for _, d := range slices.Backward(below) {
		finish(d)
	}
	check(os.Chmod(root, 0o755)) // which an image takes of an archive alone
	return root
}

// The same input and options give the same bytes, UUID and all: in every run,
// in whatever order the input lies on its disk, in every time zone, on one CPU or more,
// of a directory and of its archive, compressed or not, from a file or a pipe.
func TestReproducible(t *testing.T) {
	fixtures.Need(t, "tar", "gzip")
	owner := func(e *Entry) { e.UID, e.GID = 0, 0 } // whoever runs this
	one, two := plant(t, rand.New(rand.NewPCG(1, 1)), true), plant(t, rand.New(rand.NewPCG(2, 2)), true)
	pack := func(dir string, args ...string) string {
		out := filepath.Join(t.TempDir(), "archive")
		command(t, "tar", append([]string{"-C", dir, "-cf", out, "--format=pax", "--xattrs", "-S", "--numeric-owner", "--owner=0", "--group=0"}, args...)...)
		return out
	}
	archive := pack(one, "--sort=name", ".")
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	packed := pack(two, "--sort=name", "-z", ".")
	runs := []struct {
		name string
		open opener
		set  func() func()
		auto bool // the order of the archive matters where a size is given
	}{
		{"a directory", fromDir(one), nil, false},
		{"again", fromDir(one), nil, false},
		{"in another order", fromDir(two), nil, false},
		{"in another time zone", fromDir(one), func() func() {
			old := time.Local
			time.Local = time.FixedZone("far", 14*3600)
			return func() { time.Local = old }
		}, false},
		{"on one CPU", fromDir(two), func() func() {
			old := runtime.GOMAXPROCS(1)
			return func() { runtime.GOMAXPROCS(old) }
		}, false},
		{"an archive", fromFile(archive, TarOptions{}), nil, false},
		{"a pipe", fromPipe(data, TarOptions{}), nil, true},
		{"a compressed archive of another order", fromFile(packed, TarOptions{}), nil, true},
	}
	for _, set := range []string{"-b 4096", "-b 1024 -O inline_data", "-t ext2 -b 1024 -I 256", "-O quota,bigalloc -b 4096"} {
		for _, size := range []int64{0, 32 << 20} {
			var want []byte
			for _, run := range runs {
				if run.auto && size != 0 {
					continue
				}
				o := parseArgs(t, strings.Fields(set))
				o.UUID, o.HashSeed, o.Time = nil, nil, time.Time{}
				dir := t.TempDir()
				img := filepath.Join(dir, "image")
				func() {
					if run.set != nil {
						defer run.set()()
					}
					if _, _, err := fill(dir, img, o, size, owner, run.open); err != nil {
						t.Fatalf("%s, size %d: %s: %v", set, size, run.name, err)
					}
				}()
				got, err := os.ReadFile(img)
				if err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = got
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s, size %d: %s: %d bytes, want those of %s, which are %d", set, size, run.name, len(got), runs[0].name, len(want))
				}
			}
		}
	}
}

// What differs gives another image, and another UUID.
func TestNotReproducible(t *testing.T) {
	base := func(change ...func(*rawTar)) []byte {
		w := new(rawTar).header("f", '0', "1").header("d", '5', "")
		for _, c := range change {
			c(w)
		}
		return w.end()
	}
	uuid := func(data []byte, args ...string) string {
		dir := t.TempDir()
		o := parseArgs(t, args)
		o.UUID, o.HashSeed, o.Time = nil, nil, time.Time{}
		_, r, err := fill(dir, filepath.Join(dir, "image"), o, 0, nil, fromPipe(data, TarOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(r.Super.UUID)
	}
	seen := map[string]string{}
	for name, got := range map[string]string{
		"nothing":      uuid(base()),
		"a label":      uuid(base(), "-L", "x"),
		"an owner":     uuid(base(func(w *rawTar) { w.header("f", '0', "1", at(108, "0000001\x00")) })),
		"a mode":       uuid(base(func(w *rawTar) { w.header("f", '0', "1", at(100, "0000600\x00")) })),
		"a time":       uuid(base(func(w *rawTar) { w.header("f", '0', "1", at(136, "00000000001\x00")) })),
		"contents":     uuid(base(func(w *rawTar) { w.header("f", '0', "2") })),
		"an xattr":     uuid(base(func(w *rawTar) { w.header("r", 'x', pax("SCHILY.xattr.user.a", "1")).header("f", '0', "1") })),
		"a name":       uuid(base(func(w *rawTar) { w.header("g", '0', "") })),
		"another name": uuid(base(func(w *rawTar) { w.header("h", '0', "") })),
		"a link":       uuid(base(func(w *rawTar) { w.header("g", '1', "", linked("f")) })),
		"a target":     uuid(base(func(w *rawTar) { w.header("g", '2', "", linked("f")) })),
		"a FIFO":       uuid(base(func(w *rawTar) { w.header("g", '6', "") })),
		"a device":     uuid(base(func(w *rawTar) { w.header("g", '3', "", at(329, "0000001\x000000002\x00")) })),
		"a number":     uuid(base(func(w *rawTar) { w.header("g", '3', "", at(329, "0000001\x000000003\x00")) })),
	} {
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s give the same UUID", name, other)
		}
		seen[got] = name
	}
}

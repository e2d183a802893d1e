package ext4_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"
)

// listFrom lists directory in from cookie on, at most n entries if n is positive.
func listFrom(t testing.TB, fs *ext4.FS, in *ext4.Inode, cookie uint64, n int) []ext4.DirEntry {
	t.Helper()
	d, err := fs.OpenDir(in)
	if err != nil {
		t.Fatal(err)
	}
	d.Seek(cookie)
	var out []ext4.DirEntry
	for n <= 0 || len(out) < n {
		e, err := d.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// eachDir calls fn for every directory of the image.
func eachDir(t testing.TB, fs *ext4.FS, tree []fixtures.Entry, fn func(path string, in *ext4.Inode)) {
	t.Helper()
	for i := range tree {
		if disk.Mode(tree[i].Mode).Type() != disk.ModeDir {
			continue
		}
		in, err := fs.Inode(disk.Ino(tree[i].Ino))
		if err != nil {
			t.Fatal(err)
		}
		fn(tree[i].Path, in)
	}
}

// A listing that is interrupted anywhere and taken up with a cookie, by the same Dir or
// another, goes on as if nothing had happened.
func TestListingGoesOnFromAnyCookie(t *testing.T) {
	images := []string{"linear-dir", "htree-4k", "htree-3-levels", "inline-data", "encrypted", "casefold", "ext4-4k",
		"hash-legacy-signed", "hash-tea-unsigned", "dir-200k"}
	for _, name := range images {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && (name == "htree-3-levels" || name == "dir-200k") {
				t.Skip("long")
			}
			fs, tree := openImage(t, fixtures.Find(t, name))
			rng := rand.New(rand.NewPCG(1, 2))
			eachDir(t, fs, tree, func(path string, in *ext4.Inode) { testSeeks(t, fs, path, in, rng) })
		})
	}
}

func testSeeks(t *testing.T, fs *ext4.FS, path string, in *ext4.Inode, rng *rand.Rand) {
	whole := listFrom(t, fs, in, 0, 0)
	seen := make(map[string]bool, len(whole))
	for i, e := range whole {
		if seen[e.Name] {
			t.Fatalf("%s: %q twice", path, e.Name)
		}
		seen[e.Name] = true
		if i > 0 && e.Cookie <= whole[i-1].Cookie {
			t.Fatalf("%s: cookie %#x of %q behind %#x", path, e.Cookie, e.Name, whole[i-1].Cookie)
		}
	}
	same := func(got, want []ext4.DirEntry, how string) {
		if len(got) != len(want) {
			t.Fatalf("%s, %s: %d entries, want %d", path, how, len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s, %s: entry %d is %+v, want %+v", path, how, i, got[i], want[i])
			}
		}
	}
	// A new Dir behind every entry, or behind some hundred of many.
	for n := range min(len(whole), 300) {
		i := n
		if len(whole) > 300 {
			i = rng.IntN(len(whole))
		}
		want := whole[i+1:]
		want = want[:min(len(want), 50)]
		if len(want) > 0 {
			same(listFrom(t, fs, in, whole[i].Cookie, 50), want, fmt.Sprintf("behind %q", whole[i].Name))
		}
	}
	// Batches of random length, each by a Dir of its own.
	var got []ext4.DirEntry
	for cookie := uint64(0); ; {
		n := 1 + rng.IntN(3)
		if len(whole) > 300 {
			n = 1 + rng.IntN(len(whole)/50)
		}
		part := listFrom(t, fs, in, cookie, n)
		if len(part) == 0 {
			break
		}
		got = append(got, part...)
		cookie = part[len(part)-1].Cookie
	}
	same(got, whole, "in batches")
	// One Dir that jumps.
	d, err := fs.OpenDir(in)
	if err != nil {
		t.Fatal(err)
	}
	for range min(len(whole), 100) {
		i := rng.IntN(len(whole))
		d.Seek(whole[i].Cookie)
		for k := i + 1; k < min(i+4, len(whole)); k++ {
			if e, err := d.Next(); err != nil || e != whole[k] {
				t.Fatalf("%s: jump behind %q: %+v, %v, want %+v", path, whole[i].Name, e, err, whole[k])
			}
		}
	}
}

// mountCopy lets the kernel change a copy of the image, which it returns.
func mountCopy(t *testing.T, image string, change func(dir string)) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "copy.img")
	if err := fixtures.CopySparse(dst, image); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dst, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", dst, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
	}()
	change(dir)
	return dst
}

func openFile(t *testing.T, file, dir string) (*ext4.FS, *ext4.Inode) {
	t.Helper()
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fs.Close()
		dev.Close()
	})
	in, err := fs.Resolve(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	return fs, in
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// collisions returns pairs of names whose legacy hashes are equal.
func collisions(n int) (a, b []string) {
	first := map[uint32]string{}
	for i := 0; len(a) < n; i++ {
		name := fmt.Sprintf("c%d", i)
		h, _, _ := disk.NameHash(disk.HashLegacy, [4]uint32{}, []byte(name))
		if other, ok := first[h]; ok {
			a, b = append(a, other), append(b, name)
			delete(first, h)
			continue
		}
		first[h] = name
	}
	return a, b
}

// What is in a directory before and after it changed is seen exactly once by
// a listing that begins before and goes on after.
func TestListingOfADirectoryThatChanges(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount", "umount")
	left, right := collisions(30)
	for _, tt := range []struct{ image, dir string }{
		{"htree-4k", "indexed"}, {"htree-4k", "thinned"}, {"htree-4k", "."}, {"hash-legacy-signed", "indexed"}, {"hash-tea-signed", "indexed"},
		{"linear-dir", "linear"}, {"inline-data", "."},
	} {
		t.Run(tt.image+"-"+tt.dir, func(t *testing.T) {
			im := fixtures.Find(t, tt.image)
			file, _ := im.Open(t)
			before := mountCopy(t, file, func(mnt string) {
				for _, name := range append(left, right...) {
					must(t, os.WriteFile(filepath.Join(mnt, tt.dir, name), nil, 0o600))
				}
			})
			after := mountCopy(t, before, func(mnt string) {
				dir := filepath.Join(mnt, tt.dir)
				names, err := os.ReadDir(dir)
				must(t, err)
				for i, e := range names {
					if i%3 == 0 && !e.IsDir() && e.Name()[0] != 'c' {
						must(t, os.Remove(filepath.Join(dir, e.Name())))
					}
				}
				for _, name := range left { // of each pair that collides, one
					must(t, os.Remove(filepath.Join(dir, name)))
				}
				for i := range 1500 {
					must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("new-%d", i)), nil, 0o600))
				}
			})
			fs0, in0 := openFile(t, before, tt.dir)
			fs1, in1 := openFile(t, after, tt.dir)
			old, now := listFrom(t, fs0, in0, 0, 0), listFrom(t, fs1, in1, 0, 0)
			both := map[string]bool{}
			for _, e := range old {
				both[e.Name] = false
			}
			for _, e := range now {
				if _, ok := both[e.Name]; ok {
					both[e.Name] = true
				}
			}
			for _, name := range right {
				if !both[name] {
					t.Fatalf("%q is not there all the time", name)
				}
			}
			step := max(1, len(old)/150)
			for cut := 0; cut < len(old); cut += step {
				testContinued(t, both, old[:cut+1], listFrom(t, fs1, in1, old[cut].Cookie, 0))
			}
			isLeft := map[string]bool{}
			for _, name := range left {
				isLeft[name] = true
			}
			for cut, e := range old {
				if isLeft[e.Name] {
					testContinued(t, both, old[:cut+1], listFrom(t, fs1, in1, e.Cookie, 0))
				}
			}
		})
	}
}

// testContinued holds that of what is in both, nothing is missing and nothing comes twice.
func testContinued(t *testing.T, both map[string]bool, old, now []ext4.DirEntry) {
	t.Helper()
	times := map[string]int{}
	for _, list := range [][]ext4.DirEntry{old, now} {
		for _, e := range list {
			times[e.Name]++
		}
	}
	for name, stays := range both {
		if n := times[name]; stays && n != 1 {
			t.Fatalf("cut behind %q: %q comes %d times", old[len(old)-1].Name, name, n)
		}
	}
}

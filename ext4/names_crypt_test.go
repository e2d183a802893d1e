package ext4_test

import (
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// TestNamesEncrypted does with encrypted directories what can be done without
// their key, and what cannot, and compares each errno and the tree with the kernel's.
func TestNamesEncrypted(t *testing.T) {
	for _, name := range []string{"encrypted", "encrypted-1k"} {
		t.Run(name, func(t *testing.T) {
			file, _ := fixtures.Find(t, name).Open(t)
			var images [2]string
			for i := range images {
				images[i] = filepath.Join(t.TempDir(), "img")
				if err := fixtures.CopySparse(images[i], file); err != nil {
					t.Fatal(err)
				}
			}
			root, unmount := fixtures.MountKernelWrite(t, images[0])
			fs, done := openWrite(t, images[1])
			k, o := kernel{root}, ours{fs, ext4.Root}
			both := func(what string, do func(n attrs) error) {
				t.Helper()
				if want, got := do(k), do(o); errnoOf(want) != errnoOf(got) {
					t.Errorf("%s: the kernel says %v, we %v", what, want, got)
				}
			}
			for _, p := range []string{"f", "f2"} {
				both("create "+p, func(n attrs) error { return n.create(p, unix.S_IFREG|0o644) })
			}
			both("mkdir", func(n attrs) error { return n.mkdir("d", 0o755) })
			tree, err := fixtures.DumpTree(root, fixtures.Options{Xattrs: true})
			if err != nil {
				t.Fatal(err)
			}
			tried := 0
			for i, e := range tree {
				p := strings.TrimPrefix(e.Path, "/")
				in := strings.Count(p, "/") // below the encrypted directory
				if !strings.HasPrefix(p, "encrypted") || strings.Count(p, "/") > 2 && i%7 > 0 {
					continue
				}
				tried++
				if e.Mode&unix.S_IFMT == unix.S_IFDIR {
					for _, name := range []string{"new", "bm90IGEgbmFtZSBvZiBhbnkgZmlsZQ"} {
						both("create in "+p, func(n attrs) error { return n.create(p+"/"+name, unix.S_IFREG|0o644) })
						both("mkdir in "+p, func(n attrs) error { return n.mkdir(p+"/"+name, 0o755) })
						both("symlink in "+p, func(n attrs) error { return n.symlink("target", p+"/"+name) })
						both("link in "+p, func(n attrs) error { return n.link("f", p+"/"+name) })
						both("rename into "+p, func(n attrs) error { return n.rename("f", p+"/"+name, 0) })
						both("unlink in "+p, func(n attrs) error { return n.unlink(p + "/" + name) })
					}
					both("rmdir "+p, func(n attrs) error { return n.rmdir(p) })
					both("chmod "+p, func(n attrs) error { return n.chmod(p, 0o700) })
					continue
				}
				if in == 0 {
					continue
				}
				both("create "+p, func(n attrs) error { return n.create(p, unix.S_IFREG|0o644) })
				both("rename "+p, func(n attrs) error { return n.rename(p, "d/moved", 0) })
				both("rename over "+p, func(n attrs) error { return n.rename("f2", p, 0) })
				both("exchange "+p, func(n attrs) error { return n.rename("f2", p, unix.RENAME_EXCHANGE) })
				if e.Mode&unix.S_IFMT == unix.S_IFREG {
					both("truncate "+p, func(n attrs) error { return n.truncate(p, 0) })
				}
				if i%3 > 0 {
					both("unlink "+p, func(n attrs) error { return n.unlink(p) })
				}
			}
			if tried < 20 {
				t.Errorf("%d files tried, want more", tried)
			}
			unmount()
			done()
			checkImage(t, images[1])
			var trees [2][]fixtures.Entry
			for i := range images {
				if trees[i], err = fixtures.DumpTree(fixtures.MountKernel(t, images[i]), fixtures.Options{Contents: true, Xattrs: true}); err != nil {
					t.Fatal(err)
				}
			}
			for _, line := range fixtures.Diff(trees[0], trees[1], timeless...) {
				t.Error(line)
			}
		})
	}
}

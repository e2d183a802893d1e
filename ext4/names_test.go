package ext4

import (
	"errors"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures/tourimage"

	"e4go/ext4/blockdev"

	"golang.org/x/sys/unix"
)

// FuzzNokeyName holds that the shown form of a stored name leads back to that
// name, and that no other spelling does.
func FuzzNokeyName(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), uint32(0x12345678), uint32(1), "x\n")
	f.Add([]byte(strings.Repeat("n", 149)), uint32(2), uint32(0), "")
	f.Add([]byte(strings.Repeat("n", 150)), uint32(0), uint32(0), "AA")
	f.Add([]byte(strings.Repeat("\xff", 255)), uint32(0xfffffffc), uint32(7), "")
	f.Fuzz(func(t *testing.T, stored []byte, hash, minor uint32, other string) {
		if _, err := nokeyMatcher(other); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Fatalf("%q: %v", other, err)
		}
		if len(stored) == 0 || len(stored) > disk.MaxNameLen {
			return
		}
		shown := nokeyName(stored, hash, minor)
		if len(shown) > disk.MaxNameLen || strings.ContainsAny(shown, "/\x00") || shown == "." || shown == ".." {
			t.Fatalf("%q is no name", shown)
		}
		m, err := nokeyMatcher(shown)
		if err != nil {
			t.Fatalf("%q, the name of %q: %v", shown, stored, err)
		}
		if !m.match(stored) || m.hashed != (hash != 0) || m.hash != hash {
			t.Errorf("%q does not match %q (hash %#x, want %#x)", shown, stored, m.hash, hash)
		}
		if m.match(append(stored[:len(stored):len(stored)], 'x')) || m.match(stored[1:]) {
			t.Errorf("%q matches what is not %q", shown, stored)
		}
		for _, alias := range []string{shown + "\n", "\r" + shown, shown[:1] + "\n" + shown[1:], shown + "=", shown + "A"} {
			if m, err := nokeyMatcher(alias); err == nil && m.match(stored) {
				t.Errorf("%q stands for the name of %q, too", alias, shown)
			}
		}
	})
}

// FuzzResolve takes paths and the targets of a link on them from the fuzzer.
func FuzzResolve(f *testing.F) {
	image := tourimage.New()
	mem := blockdev.NewMem(int64(len(image)))
	if _, err := mem.WriteAt(image, 0); err != nil {
		f.Fatal(err)
	}
	fs, err := Open(mem, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { fs.Close() })
	link, err := fs.Resolve("/docs/fast", false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/docs/fast/../many//./name-1/", "fast")
	f.Add("docs/fast", "//..//docs/guide.txt")
	f.Add(strings.Repeat("docs/../", 100), "/docs/fast/fast")
	f.Fuzz(func(t *testing.T, path, target string) {
		in := &Inode{fs: fs, ino: link.ino, disk: link.disk, raw: link.raw, block: link.block, off: link.off, seed: link.seed}
		clear(in.disk.Block[:])
		in.disk.Size = uint64(min(copy(in.disk.Block[:], target), len(in.disk.Block)-1))
		fs.cache.put(kindInode, uint64(link.ino), in)
		for _, follow := range []bool{false, true} {
			got, err := fs.Resolve(path, follow)
			if (got == nil) == (err == nil) {
				t.Fatalf("%q: %v, %v", path, got, err)
			}
			var errno unix.Errno
			if err != nil && !errors.As(err, &errno) && !errors.Is(err, disk.ErrCorrupt) {
				t.Fatalf("%q: untyped error %v", path, err)
			}
		}
	})
}

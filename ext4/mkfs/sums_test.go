package mkfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// sparseFile makes a file of size bytes with text at some places, and zeros
// or, if holes, nothing between them.
func sparseFile(t *testing.T, path string, size int64, holes bool, at ...int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !holes {
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range at {
		if _, err := f.WriteAt([]byte("some text"), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
}

// A file that is mostly a hole has a sum of its own kind, in no time.
func TestSparseSum(t *testing.T) {
	const size = 1<<40 + 1
	places := []int64{0, 5000, 1 << 30, 1<<40 - 8} // the last is short, and lies in two blocks
	h := sha256.New()
	number := func(n int64) { binary.Write(h, binary.LittleEndian, n) }
	text := []byte("some text")
	for _, off := range places {
		at := off / 1024 * 1024
		block := make([]byte, 1024)
		n := copy(block[off-at:], text)
		number(at)
		h.Write(block)
		if n < len(text) {
			number(at + 1024)
			h.Write(text[n:])
		}
	}
	number(size)
	for _, o := range []Options{{}, {BlockSize: 1024}} {
		dir := t.TempDir()
		src := filepath.Join(dir, "src")
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		sparseFile(t, filepath.Join(src, "large"), size, true, places...)
		sparseFile(t, filepath.Join(src, "small"), 10<<20, true, 5<<20)
		b, _, err := fill(dir, filepath.Join(dir, "img"), o, 0, nil, fromDir(src))
		if err != nil {
			t.Fatal(err)
		}
		err = b.Manifest(func(e *ManifestEntry) error {
			switch e.Path {
			case "/large":
				if e.SHA256 != nil || e.Sparse == nil || !bytes.Equal(e.Sparse[:], h.Sum(nil)) {
					t.Errorf("the large file has the sum %x, want %x", e.Sparse, h.Sum(nil))
				}
			case "/small":
				data, err := os.ReadFile(filepath.Join(src, "small"))
				if err != nil {
					return err
				}
				if e.Sparse != nil || e.SHA256 == nil || *e.SHA256 != sha256.Sum256(data) {
					t.Errorf("the small file has the sum %x, want the SHA-256", e.SHA256)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The content hash is the same wherever holes are, and however large blocks are.
func TestContentHashOfHoles(t *testing.T) {
	var want *[sha256.Size]byte
	for _, holes := range []bool{true, false} {
		for _, bs := range []int{1024, 4096, 65536} {
			dir := t.TempDir()
			src := filepath.Join(dir, "src")
			if err := os.Mkdir(src, 0o755); err != nil {
				t.Fatal(err)
			}
			sparseFile(t, filepath.Join(src, "f"), 3<<20+1, holes, 1<<20+1000, 3<<20-4)
			_, r, err := fill(dir, filepath.Join(dir, "img"), Options{BlockSize: bs, Time: time.Unix(1e9, 0)}, 64<<20, func(e *Entry) { e.Mtime.Sec, e.Mtime.Nsec = 1e9, 0 }, fromDir(src))
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = r.Content
			} else if *r.Content != *want {
				t.Errorf("holes %t, blocks of %d: %x, want %x", holes, bs, *r.Content, *want)
			}
		}
	}
}

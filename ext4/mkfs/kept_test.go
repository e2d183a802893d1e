package mkfs

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4/disk"
)

// Contents that wait are found again when the name that they came by is gone,
// and another that has them is in a directory that the source does not have.
func TestKeptUnderAnotherName(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("kept "), 5000)
	if err := os.WriteFile(filepath.Join(src, "d", "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	layer := func(*Spool) (Source, bool, error) {
		return &memSource{list: []*Entry{
			{Path: "e/g", HardLink: "d/f"},
			{Path: "d", Mode: disk.ModeReg | 0o644},
		}}, true, nil
	}
	b, _, err := fill(dir, filepath.Join(dir, "img"), Options{}, 0, nil, fromDir(src), layer)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	err = b.Manifest(func(e *ManifestEntry) error {
		if e.Path == "/e/g" {
			found = e.Links == 1 && *e.SHA256 == sha256.Sum256(data)
		}
		return nil
	})
	if err != nil || !found {
		t.Errorf("/e/g does not have what d/f had: %v", err)
	}
}

// Tables and texts give back what was put into them, across their chunks.
func TestTable(t *testing.T) {
	var tab table[int]
	var txt text
	var where []uint64
	piece := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, i*i*31%70000) }
	const n = 2*tableChunk + 10
	for i := range n {
		if got := tab.add(3 * i); got != uint32(i) {
			t.Fatalf("entry %d has number %d", i, got)
		}
		where = append(where, txt.add(piece(i)))
	}
	first := tab.at(0)
	for i := range n {
		if *tab.at(uint32(i)) != 3*i {
			t.Errorf("entry %d is %d", i, *tab.at(uint32(i)))
		}
		if got := txt.at(where[i], len(piece(i))); !bytes.Equal(got, piece(i)) {
			t.Errorf("text %d has %d bytes, or others, want %d", i, len(got), len(piece(i)))
		}
	}
	if tab.at(0) != first {
		t.Error("an entry has moved")
	}
}

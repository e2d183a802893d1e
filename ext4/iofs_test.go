package ext4_test

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures/tourimage"

	"golang.org/x/sys/unix"
)

// tourFS opens the image that code makes, which every machine has.
func tourFS(t testing.TB, o ext4.Options) *ext4.FS {
	t.Helper()
	mem := memOf(t, tourimage.New())
	fs, err := ext4.Open(mem, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs
}

func memOf(t testing.TB, image []byte) *blockdev.Mem {
	t.Helper()
	mem := blockdev.NewMem(int64(len(image)))
	if _, err := mem.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	return mem
}

func TestIOFS(t *testing.T) {
	f := tourFS(t, ext4.Options{}).IOFS()
	err := fstest.TestFS(f, "README.txt", "docs/guide.txt", "docs/fast", "docs/slow", "extents.dat", "indirect.dat",
		"tiny.txt", "attributes.txt", "many/name-299", "lost+found", "after-the-crash.txt")
	if err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(f, "nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of a missing file: got %v", err)
	}
	if _, err := f.ReadFile("docs"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("read of a directory: got %v, want EISDIR", err)
	}
	if target, err := fs.ReadLink(f, "docs/fast"); err != nil || target != "../README.txt" {
		t.Errorf("readlink: got %q, %v", target, err)
	}
}

// Without recovery the image shows the state before the crash, with it the one
// after, and the device is the same in both.
func TestRecoveryIsInMemory(t *testing.T) {
	image := tourimage.New()
	mem := memOf(t, image)
	for _, tt := range []struct {
		noRecovery bool
		want       bool
	}{{true, false}, {false, true}} {
		fs, err := ext4.Open(mem, ext4.Options{NoRecovery: tt.noRecovery})
		if err != nil {
			t.Fatal(err)
		}
		_, err = fs.Resolve("/after-the-crash.txt", true)
		if got := err == nil; got != tt.want {
			t.Errorf("NoRecovery %t: the file is there: %t, want %t (%v)", tt.noRecovery, got, tt.want, err)
		}
		j := fs.Journal()
		if !j.Unclean || (j.Recovered != nil) == tt.noRecovery || (j.Pending != nil) != tt.noRecovery {
			t.Errorf("NoRecovery %t: journal %+v", tt.noRecovery, j)
		}
		fs.Close()
	}
	got := make([]byte, len(image))
	if _, err := mem.ReadAt(got, 0); err != nil || string(got) != string(image) {
		t.Errorf("the device changed: %v", err)
	}
}

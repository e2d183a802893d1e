package fusesrv

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4"

	"golang.org/x/sys/unix"
)

// Who deletes a file on a full file system may use its space and its inode at once, as on the kernel's:
// that the kernel forgets it is a request which nobody waits for.
func TestSpaceAtOnce(t *testing.T) {
	img := madeFS(t, "16M", func(string) {}, "-N", "64", "-O", "^has_journal", "-m", "0")
	m := mountFile(t, img, 0, Options{Extra: []string{"rw"}}, ext4.Options{Write: true})
	mb := make([]byte, 1<<20)
	write := func(name string) error { return os.WriteFile(filepath.Join(m.dir, name), mb, 0o644) }
	var err error
	files := 0
	for ; err == nil; files++ {
		err = write(string(rune('a' + files)))
	}
	if !errors.Is(err, unix.ENOSPC) || files < 4 {
		t.Fatalf("filled with %d files: %v", files, err)
	}
	for i := range 300 {
		check(t, os.Remove(filepath.Join(m.dir, "b")))
		if err := write("b"); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	for err = nil; err == nil; files++ {
		err = os.WriteFile(filepath.Join(m.dir, "inode"+string(rune('a'+files))), nil, 0o644)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("no inode: %v", err)
	}
	for i := range 300 {
		check(t, os.Remove(filepath.Join(m.dir, "c")))
		if err := os.WriteFile(filepath.Join(m.dir, "c"), nil, 0o644); err != nil {
			t.Fatalf("an inode in round %d: %v", i, err)
		}
	}
}

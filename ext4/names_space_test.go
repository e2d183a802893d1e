package ext4_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// TestNamesReserved fills a file system with directories: who is not root
// leaves the blocks that are kept for root, which root can have; a failed call
// leaves nothing; and what is removed can be used again, all of it.
func TestNamesReserved(t *testing.T) {
	file := makeImage(t, "4M", "-b", "1024", "-N", "8000", "-m", "20", "-O", "^has_journal")
	fs, done := openWrite(t, file)
	user := ext4.Caller{UID: 1000, GID: 1000}
	fill := func(c ext4.Caller, prefix string) (n int) {
		t.Helper()
		for ; ; n++ {
			_, err := fs.Mkdir(t.Context(), c, disk.RootIno, fmt.Sprintf("%s%d", prefix, n), 0o755)
			if errors.Is(err, unix.ENOSPC) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	first := fill(user, "u")
	full, err := fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	if full.Avail > 1 || full.Free == 0 {
		t.Errorf("when it is full for a user, %d blocks are free and %d for users", full.Free, full.Avail)
	}
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 500) // takes a block
	if err := fs.Setxattr(t.Context(), user, disk.RootIno, "user.x", value, 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("an xattr of a user: got %v, want ENOSPC", err)
	}
	if err := fs.Setxattr(t.Context(), ext4.Root, disk.RootIno, "user.x", value, 0); err != nil {
		t.Errorf("an xattr of root: %v", err)
	}
	if n := fill(ext4.Root, "r"); n == 0 || n > int(full.Free) {
		t.Errorf("root could make %d directories in %d free blocks", n, full.Free)
	}
	o := ours{fs, ext4.Root}
	for _, name := range namesOf(t, fs, root) {
		if name != "lost+found" {
			if err := o.rmdir(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := fill(user, "u"); again < first-40 { // the root directory keeps its blocks
		t.Errorf("%d directories the first time, %d the second", first, again)
	}
	done()
	checkImage(t, file)
}

// namesOf lists a directory, but for "." and "..".
func namesOf(t *testing.T, fs *ext4.FS, dir *ext4.Inode) (names []string) {
	t.Helper()
	d, err := fs.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := d.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if !disk.IsDot([]byte(e.Name)) {
			names = append(names, e.Name)
		}
	}
}

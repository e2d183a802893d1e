package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

func manyFiles(n int) func(root string) {
	return func(root string) {
		for i := range n {
			os.WriteFile(filepath.Join(root, fmt.Sprint(i)), nil, 0o644)
		}
	}
}

// Inodes with the same xattrs share a block, up to 1024 of them, and a change
// of one leaves the others alone.
func TestXattrBlockSharing(t *testing.T) {
	const files = 1030
	image := newImage(t, manyFiles(files), "-I", "128", "-N", "2000")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	blocks := func() map[disk.PBlock]int {
		t.Helper()
		count := make(map[disk.PBlock]int)
		for i := range files {
			in, err := fs.Resolve(fmt.Sprint("/", i), false)
			if err != nil {
				t.Fatal(err)
			}
			if b := in.disk.XattrBlock(&fs.sb); b != 0 {
				count[b]++
				if in.Stat().Blocks != 8>>(12-fs.sb.BlockBits()) {
					t.Errorf("file %d has %d sectors", i, in.Stat().Blocks)
				}
			}
		}
		for b, n := range count {
			data, err := fs.bytes(b)
			if err != nil {
				t.Fatal(err)
			}
			if have := disk.DecodeXattrHeader(data).Refcount; int(have) != n {
				t.Errorf("block %d has %d references and %d users", b, have, n)
			}
		}
		return count
	}
	for i := range files {
		if err := fs.Setxattr(ctx, Root, fs.inoOf(t, fmt.Sprint("/", i)), "user.same", []byte("value"), 0); err != nil {
			t.Fatal(err)
		}
	}
	count := blocks()
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	if len(count) != 2 || most != disk.XattrMaxRefcount {
		t.Errorf("%d files share %d blocks, at most %d of them one", files, len(count), most)
	}
	if n := fs.rw.xattrBlocks.n; n != 1 {
		t.Errorf("%d blocks are to be found, want the one that has room", n)
	}
	one := fs.inoOf(t, "/7")
	if err := fs.Setxattr(ctx, Root, one, "user.same", []byte("other"), unix.XATTR_REPLACE); err != nil {
		t.Fatal(err)
	}
	if n := len(blocks()); n != 3 {
		t.Errorf("%d blocks after one file's xattr has changed, want 3", n)
	}
	sameMap(t, "8", ourXattrs(t, fs, "/8"), map[string]string{"user.same": "value"})
	sameMap(t, "7", ourXattrs(t, fs, "/7"), map[string]string{"user.same": "other"})
	if err := fs.Setxattr(ctx, Root, one, "user.same", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	if n := len(blocks()); n != 2 {
		t.Errorf("%d blocks after it has changed back, want 2", n)
	}
	for i := range files {
		if err := fs.Removexattr(ctx, Root, fs.inoOf(t, fmt.Sprint("/", i)), "user.same"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(blocks()); n != 0 {
		t.Errorf("%d blocks without xattrs", n)
	}
	done()
	checkImage(t, image)
}

// A file that is deleted gives back its part in blocks and EA inodes that others
// have too, and all of what nobody else has.
func TestXattrsOfDeleted(t *testing.T) {
	fixtures.Need(t, "debugfs")
	for _, args := range [][]string{{"-I", "128"}, {"-I", "256", "-b", "1024"}, {"-I", "1024", "-J", "size=1"}, {"-O", "quota"}} {
		image := newImage(t, manyFiles(4), append(args, "-O", "ea_inode")...)
		fs, done := openWrite(t, image, Options{})
		ctx := context.Background()
		free, freeInodes := fs.rw.free, fs.rw.freeInodes
		for file := range 4 {
			ino := fs.inoOf(t, fmt.Sprint("/", file))
			for i := range 20 { // many of them the same
				value := bytes.Repeat([]byte{byte(i % 7 * (1 + file/3))}, 5000+2000*(i%7))
				if err := fs.Setxattr(ctx, Root, ino, fmt.Sprint("user.", i), value, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		used := int(freeInodes) - int(fs.rw.freeInodes)
		if used != 13 { // seven values, of which one is the same when doubled
			t.Errorf("%d EA inodes, want 13", used)
		}
		for file := range 4 {
			ino := fs.inoOf(t, fmt.Sprint("/", file))
			if err := fs.Update(ctx, func(h *Handle) error { return h.orphanForTest(ino) }); err != nil {
				t.Fatal(err)
			}
			if err := fs.evict(ctx, ino); err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
		if fs.rw.free != free || fs.rw.freeInodes != freeInodes+4 {
			t.Errorf("%v: %d blocks and %d inodes are free, want %d and %d", args, fs.rw.free, fs.rw.freeInodes, free, freeInodes+4)
		}
		done()
		// The names of the deleted files are still there, which is all that e2fsck may find.
		for file := range 4 {
			if out, err := exec.Command("debugfs", "-w", "-R", fmt.Sprint("unlink /", file), image).CombinedOutput(); err != nil {
				t.Fatalf("debugfs: %s", out)
			}
		}
		checkImage(t, image)
	}
}

// orphanForTest takes the last link of an inode, but not its name.
func (h *Handle) orphanForTest(ino disk.Ino) error {
	in, err := h.inode(ino)
	if err != nil {
		return err
	}
	in.disk.Links = 0
	return h.addOrphan(in)
}

// Who reads while xattrs change sees the value before or the one after, wherever
// it is: in the inode, a block, an EA inode.
func TestXattrsReadWhileChanged(t *testing.T) {
	image := newImage(t, manyFiles(2), "-O", "ea_inode", "-b", "1024")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	values := [][]byte{{'a'}, bytes.Repeat([]byte{'b'}, 300), bytes.Repeat([]byte{'c'}, 5000), bytes.Repeat([]byte{'d'}, 40000), bytes.Repeat([]byte{'e'}, 5000)}
	inos := []disk.Ino{fs.inoOf(t, "/0"), fs.inoOf(t, "/1")}
	for _, ino := range inos {
		if err := fs.Setxattr(ctx, Root, ino, "user.x", values[0], 0); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			in, err := fs.Inode(inos[i%2])
			if err != nil {
				t.Error(err)
				return
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := in.Getxattr("user.x")
				if err != nil || !slices.ContainsFunc(values, func(w []byte) bool { return bytes.Equal(v, w) }) {
					t.Errorf("%d bytes %.10q, %v", len(v), v, err)
					return
				}
				if names, err := in.Listxattr(); err != nil || len(names) != 1 {
					t.Errorf("names %q, %v", names, err)
					return
				}
			}
		})
	}
	for i := range 600 {
		if err := fs.Setxattr(ctx, Root, inos[i%2], "user.x", values[(i*7/3)%len(values)], unix.XATTR_REPLACE); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	readers.Wait()
	done()
	checkImage(t, image)
}

// An update that fails at any device call, or at its end, leaves nothing: the
// xattrs are as before, what was to be shared as well, and the next try works.
func TestXattrUpdateFails(t *testing.T) {
	image := newImage(t, manyFiles(2), "-O", "ea_inode", "-b", "1024", "-I", "128")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	ino := fs.inoOf(t, "/0")
	failed := errors.New("not this time")
	state := func() string {
		return fmt.Sprint(fs.rw.free, fs.rw.freeInodes, fs.rw.xattrBlocks, fs.rw.eaInodes, ourXattrs(t, fs, "/0"))
	}
	for i, n := range []int{10, 10, 3000, 700, 70000, 3000, 0} {
		value := bytes.Repeat([]byte{byte('a' + i/2)}, n)
		before := state()
		err := fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			if err := h.setXattr(in, disk.XattrUser, fmt.Sprint(i%3), value, 0); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		if now := state(); now != before {
			t.Errorf("after a failed update of %d bytes: %s\nwant %s", n, now, before)
		}
		if n <= maxXattrSize {
			err = fs.Setxattr(ctx, Root, ino, fmt.Sprint("user.", i%3), value, 0)
		}
		if n <= maxXattrSize && err != nil {
			t.Fatal(err)
		}
	}
	done()
	checkImage(t, image)
}

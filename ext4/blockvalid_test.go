package ext4_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"
)

// A map that leads to the file system's own blocks is found before these are
// written to, or given back.
func TestOwnBlocksAreNotWritten(t *testing.T) {
	fixtures.Need(t, "debugfs")
	ctx := context.Background()
	for what, change := range map[string]func(fs *ext4.FS, ino disk.Ino) error{
		"write": func(fs *ext4.FS, ino disk.Ino) error {
			_, err := fs.WriteAt(ctx, ext4.Root, ino, make([]byte, 13<<10), 0)
			return err
		},
		"append": func(fs *ext4.FS, ino disk.Ino) error {
			_, err := fs.WriteAt(ctx, ext4.Root, ino, make([]byte, 20<<10), 10<<10)
			return err
		},
		"truncate": func(fs *ext4.FS, ino disk.Ino) error { return fs.Truncate(ctx, ext4.Root, ino, 10) },
		"hole": func(fs *ext4.FS, ino disk.Ino) error {
			return fs.Fallocate(ctx, ext4.Root, ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 0, 1<<20)
		},
	} {
		for _, place := range []string{"block[0]", "block[IND]"} {
			t.Run(what+" "+place, func(t *testing.T) {
				image := find("ext2")[0].make(t, "a")
				fs, closeFS := writable(t, image, ext4.Options{})
				ino := inos(t, fs, "a")[0]
				if _, err := fs.WriteAt(ctx, ext4.Root, ino, make([]byte, 14<<10), 0); err != nil {
					t.Fatal(err)
				}
				g, err := fs.Group(0)
				if err != nil {
					t.Fatal(err)
				}
				closeFS()
				out, err := exec.Command("debugfs", "-w", "-R", fmt.Sprintf("set_inode_field a %s %d", place, g.InodeTable), image).CombinedOutput()
				if err != nil {
					t.Fatalf("debugfs: %v\n%s", err, out)
				}
				table := make([]byte, 1024)
				fs, closeFS = writable(t, image, ext4.Options{})
				err = change(fs, ino)
				if !errors.Is(err, disk.ErrCorrupt) {
					t.Errorf("got %v, want the corruption", err)
				}
				if _, err := fs.Device().ReadAt(table, int64(g.InodeTable)*1024); err != nil {
					t.Fatal(err)
				}
				if disk.DecodeInode(table[int(fs.Super().InodeSize):]).Mode.Type() != disk.ModeDir { // the root directory
					t.Error("the inode table was written over")
				}
				closeFS()
			})
		}
	}
}

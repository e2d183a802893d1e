package ext4_test

import (
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// TestStatfs compares the numbers with the kernel's, for each image that it mounts.
func TestStatfs(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	for _, im := range fixtures.Matrix() {
		if !im.Kernel || im.Dirty && testing.Short() {
			continue
		}
		t.Run(im.Name, func(t *testing.T) {
			fs, _ := openImage(t, im)
			mnt := im.Mount(t)
			var want unix.Statfs_t
			if err := unix.Statfs(mnt, &want); err != nil {
				t.Fatal(err)
			}
			got, err := fs.Statfs()
			if err != nil {
				t.Fatal(err)
			}
			fsid := uint64(uint32(want.Fsid.Val[0])) | uint64(uint32(want.Fsid.Val[1]))<<32
			for _, n := range []struct {
				name      string
				got, want uint64
			}{
				{"f_bsize", uint64(got.BlockSize), uint64(want.Bsize)},
				{"f_blocks", got.Blocks, want.Blocks},
				{"f_bfree", got.Free, want.Bfree},
				{"f_bavail", got.Avail, want.Bavail},
				{"f_files", got.Files, want.Files},
				{"f_ffree", got.FreeFiles, want.Ffree},
				{"f_namelen", uint64(got.NameLen), uint64(want.Namelen)},
				{"f_fsid", uint64(got.FSID[0]) | uint64(got.FSID[1])<<32, fsid},
			} {
				if n.got != n.want {
					t.Errorf("%s: got %d, want %d", n.name, n.got, n.want)
				}
			}
		})
	}
}

package ext4_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

var fullVolumes = []volume{
	{name: "4k", args: "-t ext4 -b 4096", size: "24M"},
	{name: "1k", args: "-t ext4 -b 1024", size: "16M"},
	{name: "ext2", args: "-t ext2 -b 1024", size: "16M"},
	{name: "ext3", args: "-t ext3 -b 1024", size: "16M"},
	{name: "bigalloc", args: "-t ext4 -O bigalloc -b 1024 -C 16384", size: "24M"},
	{name: "meta_bg", args: "-t ext4 -O meta_bg,^resize_inode,^flex_bg -b 1024 -g 1024", size: "24M"},
	{name: "sparse_super2", args: "-t ext4 -O sparse_super2,^resize_inode,uninit_bg,^metadata_csum -b 1024 -G 4 -g 2048", size: "24M"},
}

// inos looks up files in the root directory, and opens them.
func inos(t *testing.T, fs *ext4.FS, names ...string) (out []disk.Ino) {
	t.Helper()
	for _, name := range names {
		in, err := fs.Resolve("/"+name, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Open(in.Ino()); err != nil {
			t.Fatal(err)
		}
		out = append(out, in.Ino())
	}
	return out
}

// appendAll appends 4 KiB to each of the files in turn until there is no space
// for any. It returns how many bytes it wrote.
func appendAll(t *testing.T, fs *ext4.FS, c ext4.Caller, files []disk.Ino) (total int64) {
	t.Helper()
	p := make([]byte, 4096)
	for i := range p {
		p[i] = 0xa5
	}
	for files := slices.Clone(files); len(files) > 0; {
		for i := 0; i < len(files); i++ {
			in, err := fs.Inode(files[i])
			if err != nil {
				t.Fatal(err)
			}
			n, err := fs.WriteAt(context.Background(), c, files[i], p, in.Size())
			total += int64(n)
			if errors.Is(err, unix.ENOSPC) {
				files = slices.Delete(files, i, i+1)
				i--
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return total
}

func statfs(t *testing.T, fs *ext4.FS) ext4.Statfs {
	t.Helper()
	st, err := fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// A file system is filled to the last block that each may have, and no
// further; when all is full, blocks that files have can be written; deleting gives back
// every block; and so again.
func TestFull(t *testing.T) {
	ctx := context.Background()
	user := ext4.Caller{UID: 1000, GID: 1000}
	for _, v := range fullVolumes {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a", "b", "c", "kept")
			fs, closeFS := writable(t, image, ext4.Options{})
			files := inos(t, fs, "a", "b", "c", "kept")
			kept, files := files[3], files[:3]
			extents := fs.Super().Incompat.Has(disk.IncompatExtents)
			const room = 512 << 10
			if extents {
				if err := fs.Fallocate(ctx, ext4.Root, kept, 0, 0, room); err != nil {
					t.Fatal(err)
				}
			} else if _, err := fs.WriteAt(ctx, ext4.Root, kept, make([]byte, room), 0); err != nil {
				t.Fatal(err)
			}
			empty := statfs(t, fs)
			forRoot := empty.Free - empty.Avail - fs.Super().ReservedBlocks // what even root leaves
			var totals []int64
			for range 3 {
				totals = append(totals, appendAll(t, fs, user, files))
				if st := statfs(t, fs); st.Avail != 0 {
					t.Errorf("full for a user, with %d blocks that are there for him", st.Avail)
				}
				// Each second block, so that an extent is split as often as can be.
				for at := int64(0); at < room; at += 8192 {
					if _, err := fs.WriteAt(ctx, user, kept, []byte{1}, at); err != nil {
						t.Fatalf("write at %d to blocks that the file has: %v", at, err)
					}
				}
				appendAll(t, fs, ext4.Root, files)
				if st := statfs(t, fs); st.Free > forRoot {
					t.Errorf("full for root, with %d blocks of which %d are kept for splitting extents", st.Free, forRoot)
				}
				if err := fs.Fallocate(ctx, ext4.Root, kept, ext4.FallocPunchHole|ext4.FallocKeepSize, 4096*10, 4096); err != nil {
					t.Errorf("a hole where there is no space: %v", err)
				}
				if err := fs.Sync(); err != nil {
					t.Fatal(err)
				}
				for _, ino := range append(slices.Clone(files), kept) {
					if err := fs.Truncate(ctx, ext4.Root, ino, 0); err != nil {
						t.Fatal(err)
					}
				}
				if extents {
					if err := fs.Fallocate(ctx, ext4.Root, kept, 0, 0, room); err != nil {
						t.Fatal(err)
					}
				} else if _, err := fs.WriteAt(ctx, ext4.Root, kept, make([]byte, room), 0); err != nil {
					t.Fatal(err)
				}
				if st := statfs(t, fs); st.Free != empty.Free {
					t.Errorf("%d blocks are free, %d were", st.Free, empty.Free)
				}
			}
			if slices.Min(totals) < slices.Max(totals)-1<<16 {
				t.Errorf("filled to %d bytes", totals)
			}
			appendAll(t, fs, ext4.Root, files)
			closeFS()
			sound(t, image)
		})
	}
}

// Nobody is told that there is no space while the kernel finds some. The
// kernel allocates late, and in larger pieces: a file may have a node or two more here.
func TestFullAsKernel(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	for _, v := range fullVolumes {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a", "b", "c")
			other := filepath.Join(t.TempDir(), "image")
			if err := fixtures.CopySparse(other, image); err != nil {
				t.Fatal(err)
			}
			kernel := fillByKernel(t, other, "a", "b", "c")
			fs, closeFS := writable(t, image, ext4.Options{})
			ours := appendAll(t, fs, ext4.Root, inos(t, fs, "a", "b", "c"))
			closeFS()
			unit := int64(fs.Super().BlockSize()) << fs.Super().ClusterBits()
			if ours < kernel-3*2*unit {
				t.Errorf("%d bytes fit, %d with the kernel", ours, kernel)
			}
			sound(t, image)
		})
	}
}

// fillByKernel does with the kernel what appendAll does.
func fillByKernel(t *testing.T, image string, names ...string) (total int64) {
	t.Helper()
	dir, umount := fixtures.MountKernelWrite(t, image)
	defer umount()
	var files []*os.File
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	p := make([]byte, 4096)
	for i := range p {
		p[i] = 0xa5
	}
	for len(files) > 0 {
		for i := 0; i < len(files); i++ {
			n, err := files[i].Write(p)
			total += int64(n)
			if errors.Is(err, unix.ENOSPC) {
				files = slices.Delete(files, i, i+1)
				i--
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return total
}

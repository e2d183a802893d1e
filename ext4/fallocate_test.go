package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// allModes are the modes of fallocate that are tried, sensible or not.
var allModes = []ext4.FallocMode{
	0, ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize, ext4.FallocPunchHole | ext4.FallocKeepSize,
	ext4.FallocZeroRange, ext4.FallocZeroRange | ext4.FallocKeepSize, ext4.FallocCollapseRange, ext4.FallocInsertRange,
	ext4.FallocPunchHole, ext4.FallocCollapseRange | ext4.FallocKeepSize, ext4.FallocInsertRange | ext4.FallocKeepSize,
	ext4.FallocUnshareRange, ext4.FallocWriteZeroes, 0x200, ext4.FallocZeroRange | ext4.FallocCollapseRange,
}

// blocksOf lists the runs of bytes of a file that have blocks, as FS_IOC_FIEMAP tells
// them.
func blocksOf(extents [][2]uint64) (out [][2]uint64) {
	for _, x := range extents {
		if n := len(out); n > 0 && out[n-1][1] == x[0] {
			out[n-1][1] = x[1]
			continue
		}
		out = append(out, x)
	}
	return out
}

// The same is done to a file of the kernel's ext4 and to one of ours: the same
// errors come out, the same contents, sizes and holes.
func TestFallocateAsKernel(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	ctx := context.Background()
	for _, v := range find("4k", "1k", "ext2-4k", "ext3", "bigalloc-1k", "inline") {
		for round := range sweep() {
			t.Run(fmt.Sprintf("%s/%d", v.name, round), func(t *testing.T) {
				image, other := v.make(t, "a"), v.make(t, "a")
				dir, umount := fixtures.MountKernelWrite(t, other, v.options)
				defer umount()
				kernel, err := os.OpenFile(filepath.Join(dir, "a"), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer kernel.Close()
				fs, closeFS := writable(t, image, ext4.Options{})
				ino := inos(t, fs, "a")[0]
				rng := rand.New(rand.NewPCG(uint64(round), 11))
				for i := range 150 {
					what, want, got := bothDo(ctx, rng, kernel, fs, ino)
					if errnoOf(want) != errnoOf(got) {
						t.Fatalf("%d, %s: %v, the kernel says %v", i, what, got, want)
					}
					// The kernel gives a file that had inline data a block at its start, also where that is a hole.
					if err := sameFile(kernel, fs, ino, i%10 == 0 && v.name != "inline"); err != nil {
						t.Fatalf("%d, %s: %v", i, what, err)
					}
				}
				closeFS()
				sound(t, image)
			})
		}
	}
}

func bothDo(ctx context.Context, rng *rand.Rand, kernel *os.File, fs *ext4.FS, ino disk.Ino) (what string, want, got error) {
	const reach = 1 << 20
	bs := int64(fs.Super().BlockSize())
	off, n := rng.Int64N(reach), 1+rng.Int64N(1<<uint(rng.IntN(19)))
	switch rng.IntN(4) {
	case 0:
		off, n = off/bs*bs, (n+bs-1)/bs*bs
	case 1:
		unit := bs << fs.Super().ClusterBits()
		off, n = off/unit*unit, (n+unit-1)/unit*unit
	}
	switch rng.IntN(5) {
	case 0:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rng.Uint32()) | 1
		}
		_, want = kernel.WriteAt(p, off)
		_, got = fs.WriteAt(ctx, ext4.Root, ino, p, off)
		return fmt.Sprintf("write %d at %d", n, off), want, got
	case 1:
		want = kernel.Truncate(off)
		return fmt.Sprintf("truncate to %d", off), want, fs.Truncate(ctx, ext4.Root, ino, off)
	}
	mode := allModes[rng.IntN(len(allModes))]
	if rng.IntN(25) == 0 {
		off = []int64{-1, math.MaxInt64 - 5, math.MaxInt64 / 2 / bs * bs, 1 << 44, 4 << 40}[rng.IntN(5)]
		if mode == 0 || mode&ext4.FallocZeroRange != 0 { // not to be filled up to there
			mode = ext4.FallocPunchHole | ext4.FallocKeepSize
		}
	}
	if rng.IntN(40) == 0 {
		n = -n + 1
	}
	want = unix.Fallocate(int(kernel.Fd()), uint32(mode), off, n)
	return fmt.Sprintf("fallocate %#x, %d at %d", uint32(mode), n, off), want, fs.Fallocate(ctx, ext4.Root, ino, mode, off, n)
}

// sameFile compares the kernel's file with ours; with blocks also which
// parts of it have blocks.
func sameFile(kernel *os.File, fs *ext4.FS, ino disk.Ino, blocks bool) error {
	in, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	st, err := kernel.Stat()
	if err != nil {
		return err
	}
	if st.Size() != in.Size() {
		return fmt.Errorf("%d bytes, %d for the kernel", in.Size(), st.Size())
	}
	want, got := make([]byte, st.Size()), make([]byte, st.Size())
	if _, err := kernel.ReadAt(want, 0); err != nil && err != io.EOF {
		return err
	}
	if _, err := in.ReadAt(got, 0); err != nil && err != io.EOF {
		return err
	}
	if !bytes.Equal(want, got) {
		return errors.New("the contents differ")
	}
	if !blocks {
		return nil
	}
	if err := kernel.Sync(); err != nil { // it allocates late
		return err
	}
	list, err := fixtures.Fiemap(kernel)
	if err != nil {
		return err
	}
	var theirs, ours [][2]uint64
	for _, x := range list {
		theirs = append(theirs, [2]uint64{uint64(x.Logical), uint64(x.Logical + x.Length)})
	}
	err = in.Fiemap(0, math.MaxInt64, func(x ext4.FiemapExtent) bool {
		ours = append(ours, [2]uint64{x.Logical, x.Logical + x.Length})
		return true
	})
	if a, b := fmt.Sprint(blocksOf(ours)), fmt.Sprint(blocksOf(theirs)); err == nil && a != b {
		err = fmt.Errorf("blocks for bytes %s, for the kernel %s", a, b)
	}
	return err
}

// A file can be as large as the kernel lets it be, and no larger.
func TestLargestFile(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	ctx := context.Background()
	for _, v := range find("4k", "1k", "ext2", "ext2-4k", "ext3", "bigalloc-1k", "nohuge") {
		t.Run(v.name, func(t *testing.T) {
			image, other := v.make(t, "a"), v.make(t, "a")
			dir, umount := fixtures.MountKernelWrite(t, other)
			defer umount()
			kernel, err := os.OpenFile(filepath.Join(dir, "a"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer kernel.Close()
			fs, closeFS := writable(t, image, ext4.Options{})
			in, err := fs.Inode(inos(t, fs, "a")[0])
			if err != nil {
				t.Fatal(err)
			}
			most := int64(fs.Super().MaxFileSize(in.Disk().Flags.Has(disk.FlagExtents)))
			for _, off := range []int64{most - 3000, most - 1, most, most + 1, 1 << 50} {
				p := []byte("0123456789")
				wantN, want := unix.Pwrite(int(kernel.Fd()), p, off)
				gotN, got := fs.WriteAt(ctx, ext4.Root, in.Ino(), p, off)
				if max(wantN, 0) != gotN || errnoOf(want) != errnoOf(got) {
					t.Errorf("write at %d, the largest size being %d: %d, %v, the kernel says %d, %v", off, most, gotN, got, wantN, want)
				}
			}
			for _, size := range []int64{most - 1, most, most + 1, 1 << 50} {
				want := kernel.Truncate(size)
				got := fs.Truncate(ctx, ext4.Root, in.Ino(), size)
				if errnoOf(want) != errnoOf(got) {
					t.Errorf("truncate to %d of %d: %v, the kernel says %v", size, most, got, want)
				}
			}
			closeFS()
			sound(t, image)
		})
	}
}

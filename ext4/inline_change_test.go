package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// Files around the size that an inode can hold, with xattrs that come and go
// beside them, are what a plain array of bytes is; for the kernel too, which changes them in turn.
func TestInlineRandomly(t *testing.T) {
	for i, args := range [][]string{
		{"-I", "256"}, {"-I", "1024", "-b", "1024", "-O", "ea_inode"}, {"-I", "512", "-O", "^metadata_csum"}, {"-I", "1024", "-O", "bigalloc"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			image := newImage(t, manyFiles(6), append(args, "-O", "inline_data")...)
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			model := make([][]byte, 6)
			inline := 0
			for round := range rounds(3) {
				fs, done := openWrite(t, image, Options{})
				inline += inlineOps(t, fs, rng, model, 500)
				done()
				checkImage(t, image)
				if os.Geteuid() != 0 {
					continue
				}
				mnt, unmount := fixtures.MountKernelWrite(t, image, "data=writeback")
				for f, want := range model {
					p := filepath.Join(mnt, fmt.Sprint(f))
					if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("round %d: the kernel reads %d bytes of file %d (%v), want %d", round, len(got), f, err, len(want))
					}
					n := rng.IntN(400)
					if round == 0 { // one that the kernel makes, in its own way
						if err := errors.Join(os.Remove(p), os.WriteFile(p, bytes.Repeat([]byte{byte(f)}, n), 0o644)); err != nil {
							t.Fatal(err)
						}
						model[f] = bytes.Repeat([]byte{byte(f)}, n)
					} else if err := os.Truncate(p, int64(n)); err != nil {
						t.Fatal(err)
					} else {
						model[f] = append(model[f], make([]byte, max(0, n-len(model[f])))...)[:n]
					}
				}
				unmount()
				checkImage(t, image)
			}
			if inline == 0 {
				t.Error("no file ever had inline data")
			}
		})
	}
}

// inlineOps changes files, and returns how often one had inline data after that.
func inlineOps(t *testing.T, fs *FS, rng *rand.Rand, model [][]byte, ops int) (inline int) {
	ctx := context.Background()
	most := int(fs.sb.InodeSize)
	for op := range ops {
		f := rng.IntN(len(model))
		ino := fs.inoOf(t, fmt.Sprint("/", f))
		var err error
		switch rng.IntN(8) {
		case 0:
			n := rng.IntN(most + 100)
			err = fs.Truncate(ctx, Root, ino, int64(n))
			model[f] = append(model[f], make([]byte, max(0, n-len(model[f])))...)[:n:n]
		case 1:
			err = fs.Truncate(ctx, Root, ino, 0) // without blocks it can be inline again
			model[f] = nil
		case 2:
			if err = fs.Setxattr(ctx, Root, ino, "user.x", make([]byte, rng.IntN(most)), 0); errors.Is(err, unix.ENOSPC) {
				err = nil
			}
		case 3:
			if err = fs.Removexattr(ctx, Root, ino, "user.x"); errors.Is(err, unix.ENODATA) {
				err = nil
			}
		default:
			off, n := rng.IntN(most/2), 1+rng.IntN(most/2)
			if rng.IntN(20) == 0 {
				off *= 40
			}
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(op + i)
			}
			_, err = fs.WriteAt(ctx, Root, ino, p, int64(off))
			model[f] = append(model[f], make([]byte, max(0, off+n-len(model[f])))...)
			copy(model[f][off:], p)
		}
		if err != nil {
			t.Fatalf("operation %d on file %d: %v", op, f, err)
		}
		in, err := fs.Inode(ino)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, in.Size())
		if _, err := in.ReadAt(got, 0); len(got) > 0 && err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, model[f]) {
			t.Fatalf("operation %d: file %d has %d bytes, want %d, or others", op, f, len(got), len(model[f]))
		}
		if in.HasInlineData() {
			inline++
		}
	}
	return inline
}

// An inode holds as much as the kernel lets it hold, beside what xattrs there are.
func TestInlineRoomAsKernel(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	for _, size := range []string{"256", "512", "1024"} {
		image := newImage(t, manyFiles(0), "-I", size, "-O", "inline_data")
		mnt, unmount := fixtures.MountKernelWrite(t, image, "data=writeback,nodelalloc") // moves contents out at once
		values := []int{-1, 0, 1, 5, 20, 40, 41, 60, 200, 390}
		for i, n := range values {
			p := filepath.Join(mnt, fmt.Sprint(i))
			if err := os.WriteFile(p, []byte{1}, 0o644); err != nil {
				t.Fatal(err)
			}
			if n >= 0 {
				if err := unix.Setxattr(p, "user.x", make([]byte, n), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		// The first size at which the kernel has moved the contents out.
		limit := make([]int, len(values))
		for i := range values {
			for n := 1; n < 1100; n++ {
				f, err := os.OpenFile(filepath.Join(mnt, fmt.Sprint(i)), os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt([]byte{1}, int64(n-1)); err != nil {
					t.Fatal(err)
				}
				flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				if disk.FileFlags(flags)&disk.FlagInlineData == 0 {
					limit[i] = n
					break
				}
			}
		}
		unmount()
		fs, done := openWrite(t, image, Options{})
		enough := errors.New("enough")
		for i := range values {
			err := fs.Update(context.Background(), func(h *Handle) error {
				in, err := h.inode(fs.inoOf(t, fmt.Sprint("/", i)))
				if err != nil {
					return err
				}
				list, err := in.bodyXattrs()
				if got := in.inlineRoom(list, -1); got != limit[i]-1 {
					t.Errorf("inode of %s bytes, xattr of %d: room for %d bytes, the kernel has %d", size, values[i], got, limit[i]-1)
				}
				return errors.Join(err, enough)
			})
			if !errors.Is(err, enough) {
				t.Fatal(err)
			}
		}
		done()
	}
}

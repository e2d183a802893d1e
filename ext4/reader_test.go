package ext4_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Who reads a file while its blocks come and go, and are taken by others at
// once, sees its own bytes or zeros.
func TestReadersSeeTheirOwn(t *testing.T) {
	ctx := context.Background()
	for _, v := range []volume{
		{name: "1k", args: "-t ext4 -b 1024 -m 0 -J size=1", size: "6M"},
		{name: "bigalloc", args: "-t ext4 -O bigalloc -b 1024 -C 8192 -m 0 -J size=1", size: "12M"},
		{name: "ext3", args: "-t ext3 -b 1024 -m 0 -J size=1", size: "6M"},
		{name: "inline", args: "-t ext4 -b 1024 -m 0 -O inline_data -J size=1", size: "6M"},
	} {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a", "b", "c")
			fs, closeFS := writable(t, image, ext4.Options{})
			files := inos(t, fs, "a", "b", "c")
			extents := fs.Super().Incompat.Has(disk.IncompatExtents)
			unit := int64(fs.Super().BlockSize()) << fs.Super().ClusterBits()
			end := time.Now().Add(1500 * time.Millisecond)
			var wg sync.WaitGroup
			for i, ino := range files {
				mark := byte('A' + i)
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), 1))
					p := make([]byte, 1<<20)
					for i := range p {
						p[i] = mark
					}
					for time.Now().Before(end) {
						off := rng.Int64N(1 << 20)
						n := 1 + rng.Int64N(1<<18)
						var err error
						switch k := rng.IntN(10); {
						case k < 4:
							_, err = fs.WriteAt(ctx, ext4.Root, ino, p[:n], off)
						case k == 4:
							_, err = fs.WriteAt(ctx, ext4.Root, ino, p[:50], off/1000)
						case k == 5:
							err = fs.Truncate(ctx, ext4.Root, ino, off)
						case k == 6:
							err = fs.Truncate(ctx, ext4.Root, ino, off/4000)
						case k == 7:
							err = fs.Fallocate(ctx, ext4.Root, ino, ext4.FallocPunchHole|ext4.FallocKeepSize, off, n)
						case !extents:
							err = fs.Sync()
						case k == 8:
							mode := []ext4.FallocMode{ext4.FallocCollapseRange, ext4.FallocInsertRange}[rng.IntN(2)]
							err = fs.Fallocate(ctx, ext4.Root, ino, mode, off/unit*unit, (n/4/unit+1)*unit)
						default:
							mode := []ext4.FallocMode{ext4.FallocZeroRange, 0, ext4.FallocKeepSize}[rng.IntN(3)]
							err = fs.Fallocate(ctx, ext4.Root, ino, mode, off, n)
						}
						if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EINVAL) {
							t.Error(err)
							return
						}
					}
				})
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), 2))
					p := make([]byte, 1<<16)
					for time.Now().Before(end) {
						in, err := fs.Inode(ino)
						if err != nil {
							t.Error(err)
							return
						}
						off := rng.Int64N(1 << 20)
						n, err := in.ReadAt(p, off)
						if err != nil && err != io.EOF {
							t.Error(err)
							return
						}
						for at, b := range p[:n] {
							if b != 0 && b != mark {
								t.Errorf("file %c has %q at %d", mark, b, off+int64(at))
								return
							}
						}
					}
				})
			}
			wg.Go(func() {
				for time.Now().Before(end) {
					if err := fs.Sync(); err != nil {
						t.Error(err)
						return
					}
				}
			})
			wg.Wait()
			closeFS()
			sound(t, image)
		})
	}
}

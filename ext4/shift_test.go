package ext4_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
)

// cuts is a device that loses power, in passing, before some of its writes.
type cuts struct {
	*blockdev.Mem
	rng    *rand.Rand
	one    int // in so many
	images []*blockdev.Mem
}

func (d *cuts) WriteAt(p []byte, off int64) (int, error) {
	if d.rng.IntN(d.one) == 0 {
		d.images = append(d.images, d.Crash(d.rng))
	}
	return d.Mem.WriteAt(p, off)
}

func (d *cuts) Flush() error {
	d.images = append(d.images, d.Crash(d.rng))
	err := d.Mem.Flush()
	d.images = append(d.images, d.Crash(d.rng))
	return err
}

// A power cut while the contents of a file move leaves it as it was before or
// after, and the file system sound.
func TestShiftPowerCut(t *testing.T) {
	ctx := context.Background()
	for i, v := range []volume{
		{name: "1k", args: "-t ext4 -b 1024 -J size=2", size: "16M"},
		{name: "4k", args: "-t ext4 -b 4096 -J size=4", size: "24M"},
		{name: "bigalloc", args: "-t ext4 -O bigalloc -b 1024 -C 4096 -J size=2", size: "24M"},
	} {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a")
			raw, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			mem := blockdev.NewMem(int64(len(raw)))
			if _, err := mem.WriteAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			if err := mem.Flush(); err != nil {
				t.Fatal(err)
			}
			dev := &cuts{Mem: mem, rng: rand.New(rand.NewPCG(uint64(i), 1)), one: 1 << 30}
			fs, err := ext4.Open(dev, ext4.Options{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
			unit := int64(fs.Super().BlockSize()) << fs.Super().ClusterBits()
			// A tree of two levels or more: pieces with holes between them.
			for i := range int64(600) {
				p := bytes.Repeat([]byte{byte(i) | 1}, int(unit))
				if _, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, 2*i*unit); err != nil {
					t.Fatal(err)
				}
				f.fill(p, 2*i*unit)
			}
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			for op := range 4 {
				before := bytes.Clone(f.data)
				dev.one, dev.images = 8, nil
				off, n := (100+int64(op))*unit, 30*unit
				if op%2 == 0 {
					err = fs.Fallocate(ctx, ext4.Root, f.ino, ext4.FallocCollapseRange, off, n)
					f.data = append(f.data[:off:off], f.data[off+n:]...)
				} else {
					err = fs.Fallocate(ctx, ext4.Root, f.ino, ext4.FallocInsertRange, off, n)
					f.data = append(f.data[:off:off], append(make([]byte, n), f.data[off:]...)...)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := fs.Sync(); err != nil {
					t.Fatal(err)
				}
				dev.one = 1 << 30
				if err := f.check(fs, 0, 1<<40); err != nil {
					t.Fatal(err)
				}
				seen := map[bool]int{}
				for j, cut := range dev.images {
					after, err := afterCut(t, cut, f.name, before, f.data, j%16 == 0)
					if err != nil {
						t.Fatalf("operation %d, cut %d of %d: %v", op, j, len(dev.images), err)
					}
					seen[after]++
				}
				if seen[false] == 0 || seen[true] == 0 {
					t.Errorf("operation %d: %d cuts left the file as it was, %d as it should be", op, seen[false], seen[true])
				}
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// afterCut recovers what a power cut has left, and reports which of two
// contents the file has.
func afterCut(t *testing.T, mem *blockdev.Mem, name string, before, after []byte, judge bool) (isAfter bool, err error) {
	fs, err := ext4.Open(mem, ext4.Options{Write: true})
	if err != nil {
		return false, err
	}
	in, err := fs.Resolve("/"+name, true)
	if err != nil {
		return false, err
	}
	got := make([]byte, in.Size())
	if _, err := in.ReadAt(got, 0); err != nil && err != io.EOF {
		return false, err
	}
	isAfter = bytes.Equal(got, after)
	if !isAfter && !bytes.Equal(got, before) {
		return false, fmt.Errorf("the file is neither as before nor as after: %d bytes, of %d and %d", len(got), len(before), len(after))
	}
	if err := fs.Close(); err != nil {
		return isAfter, err
	}
	if !judge {
		return isAfter, nil
	}
	image := filepath.Join(t.TempDir(), "image")
	raw := make([]byte, mem.Size())
	if _, err := mem.ReadAt(raw, 0); err != nil {
		return isAfter, err
	}
	if err := os.WriteFile(image, raw, 0o644); err != nil {
		return isAfter, err
	}
	sound(t, image)
	return isAfter, nil
}

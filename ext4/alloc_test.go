package ext4_test

import (
	"context"
	"errors"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// Where no block is left to split an extent, what is written to unwritten
// blocks is there all the same, and the rest of them still reads as zeros.
func TestZeroOut(t *testing.T) {
	ctx := context.Background()
	for _, v := range []volume{fullVolumes[0], fullVolumes[1], fullVolumes[4]} {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a")
			fs, closeFS := writable(t, image, ext4.Options{})
			f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
			const size = 1 << 20
			if err := fs.Fallocate(ctx, ext4.Root, f.ino, 0, 0, size); err != nil {
				t.Fatal(err)
			}
			f.resize(size)
			// What a careless reader of unwritten blocks would see.
			in, err := fs.Inode(f.ino)
			if err != nil {
				t.Fatal(err)
			}
			m, err := in.Map(0)
			if err != nil {
				t.Fatal(err)
			}
			rubbish := make([]byte, m.Len*uint64(fs.Super().BlockSize()))
			for i := range rubbish {
				rubbish[i] = 0xdb
			}
			if _, err := fs.Device().WriteAt(rubbish, int64(m.Physical)*int64(fs.Super().BlockSize())); err != nil {
				t.Fatal(err)
			}
			release, err := fs.ReserveAll()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 40 {
				p := []byte{byte(i + 1), byte(i + 2), byte(i + 3)}
				off := int64(i*13%40) * (size / 40)
				if _, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, off); err != nil {
					t.Fatalf("write %d: %v", i, err)
				}
				f.fill(p, off)
				if err := f.check(fs, 0, size); err != nil {
					t.Fatalf("write %d: %v", i, err)
				}
			}
			if n, err := fs.WriteAt(ctx, ext4.Root, f.ino, []byte("x"), size+1<<20); n != 0 || !errors.Is(err, unix.ENOSPC) {
				t.Errorf("wrote %d bytes to a full file system: %v", n, err)
			}
			// Deep trees, without space: all of the writes of one update at once.
			p := make([]byte, size-5000)
			for i := range p {
				p[i] = byte(i) | 1
			}
			if _, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, 2500); err != nil {
				t.Fatal(err)
			}
			f.fill(p, 2500)
			if err := f.check(fs, 0, size); err != nil {
				t.Fatal(err)
			}
			release()
			closeFS()
			sound(t, image)
		})
	}
}

// The memory for bitmaps is bounded, however many groups a file system has,
// and what was forgotten is read again as it was left.
func TestGroupMemory(t *testing.T) {
	ctx := context.Background()
	image := volume{args: "-t ext4 -b 1024 -J size=16 -m 0", size: "2G"}.make(t, "a", "b")
	const cache = 512 << 10
	fs, closeFS := writable(t, image, ext4.Options{CacheSize: cache})
	files := inos(t, fs, "a", "b")
	most := 0
	before := statfs(t, fs).Free
	for range 2 {
		const piece = 32 << 20
		for at := int64(0); at < 880<<20; at += piece {
			for _, ino := range files {
				if err := fs.Fallocate(ctx, ext4.Root, ino, 0, at, piece); err != nil {
					t.Fatal(err)
				}
				if err := fs.Sync(); err != nil {
					t.Fatal(err)
				}
				most = max(most, fs.GroupBytes())
			}
		}
		for _, ino := range files {
			if err := fs.Truncate(ctx, ext4.Root, ino, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	// Those of one piece are in use beyond it.
	if limit := cache/4 + 8*2*1024*4; most > limit {
		t.Errorf("the bitmaps of groups took %d bytes, want at most %d", most, limit)
	}
	if most < cache/8 {
		t.Errorf("the bitmaps of groups took %d bytes only: the test does not test", most)
	}
	if after := statfs(t, fs).Free; after != before {
		t.Errorf("%d blocks are free, %d were", after, before)
	}
	closeFS()
	sound(t, image)
}

// What is kept for a file to grow is everybody's again when nobody uses it.
func TestPreallocationEnds(t *testing.T) {
	ctx := context.Background()
	image := fullVolumes[0].make(t, "a", "b")
	fs, closeFS := writable(t, image, ext4.Options{})
	free := func() int64 {
		t.Helper()
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
		n, err := fs.Trim(ctx, 0, 1<<63, 0)
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	in, err := fs.Resolve("/a", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Open(in.Ino()); err != nil {
		t.Fatal(err)
	}
	write := func(ino disk.Ino, off, n int64) {
		t.Helper()
		if _, err := fs.WriteAt(ctx, ext4.Root, ino, make([]byte, n), off); err != nil {
			t.Fatal(err)
		}
	}
	write(in.Ino(), 0, 1<<20)
	write(in.Ino(), 1<<20, 4096)
	kept := int64(statfs(t, fs).Free)*4096 - free()
	if kept <= 0 {
		t.Errorf("%d bytes are kept for a file that grows", kept)
	}
	if err := fs.Release(ctx, in.Ino()); err != nil {
		t.Fatal(err)
	}
	if kept := int64(statfs(t, fs).Free)*4096 - free(); kept != 0 {
		t.Errorf("%d bytes are kept after the release", kept)
	}
	// Nothing is kept for one that nobody has open.
	write(in.Ino(), 1<<20+4096, 4096)
	if kept := int64(statfs(t, fs).Free)*4096 - free(); kept != 0 {
		t.Errorf("%d bytes are kept for a file that is not open", kept)
	}
	closeFS()
	sound(t, image)
}

package ext4_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"
)

// piece is a run of blocks as the rows of a map add up to it.
type piece struct {
	ext4.Mapping
	node disk.PBlock // that the rows stand in: runs are not joined over nodes
}

// pieces reads the whole map, past the cache, and joins what belongs together.
func pieces(t testing.TB, in *ext4.Inode) (out []piece, inline bool) {
	t.Helper()
	_, err := in.WalkMap(func(r ext4.MapRow) error {
		if r.Err != nil {
			t.Fatalf("inode %d: %v", in.Ino(), r.Err)
		}
		if !r.Leaf {
			return nil
		}
		state := ext4.MapWritten
		if r.Unwritten {
			state = ext4.MapUnwritten
		}
		p := piece{ext4.Mapping{Logical: r.Logical, Len: r.Len, Physical: r.Physical, State: state}, r.Node}
		if n := len(out); n > 0 {
			l := &out[n-1]
			if l.node == p.node && l.State == p.State && l.End() == uint64(p.Logical) && l.Physical+disk.PBlock(l.Len) == p.Physical {
				l.Len += p.Len
				return nil
			}
		}
		out = append(out, p)
		return nil
	})
	if errors.Is(err, ext4.ErrInline) {
		return nil, true
	}
	if err != nil {
		t.Fatal(err)
	}
	return out, false
}

// checkMap holds Map(b) against the pieces.
func checkMap(t testing.TB, in *ext4.Inode, all []piece, b disk.LBlock) {
	t.Helper()
	m, err := in.Map(b)
	if err != nil {
		t.Fatalf("inode %d: Map(%d): %v", in.Ino(), b, err)
	}
	if uint64(m.Logical) > uint64(b) || m.End() <= uint64(b) || m.End() > 1<<32 {
		t.Fatalf("inode %d: Map(%d) is %+v: not around it", in.Ino(), b, m)
	}
	lo, hi := 0, len(all) // the first piece that ends behind b
	for lo < hi {
		if mid := (lo + hi) / 2; all[mid].End() > uint64(b) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo < len(all) && all[lo].Logical <= b {
		if m != all[lo].Mapping {
			t.Fatalf("inode %d: Map(%d) is %+v, want %+v", in.Ino(), b, m, all[lo].Mapping)
		}
		return
	}
	first, end := uint64(0), uint64(1<<32)
	if lo > 0 {
		first = all[lo-1].End()
	}
	if lo < len(all) {
		end = uint64(all[lo].Logical)
	}
	if m.State != ext4.MapHole || uint64(m.Logical) < first || m.End() > end {
		t.Fatalf("inode %d: Map(%d) is %+v, want the hole %d to %d", in.Ino(), b, m, first, end)
	}
	// A hole may come in pieces, each of which the next call goes on behind.
	for n := 0; m.End() < end; n++ {
		next, err := in.Map(disk.LBlock(m.End()))
		if err != nil || next.State != ext4.MapHole || next.End() <= m.End() || n > 1<<16 {
			t.Fatalf("inode %d: Map(%d) is %+v, %v, want more of the hole to %d", in.Ino(), m.End(), next, err, end)
		}
		m = next
	}
}

// Map says of every block what the map on the device says.
func TestMapEqualsTheWholeMap(t *testing.T) {
	images := fixtures.Matrix()
	for i, im := range images {
		if testing.Short() && i%8 != 0 && im.Name != "indirect-1k" && im.Name != "extents-deep" {
			continue
		}
		t.Run(im.Name, func(t *testing.T) {
			fs, tree := openImage(t, im)
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			done := map[uint64]bool{}
			for _, e := range tree {
				if done[e.Ino] || len(done) > 3000 {
					continue
				}
				done[e.Ino] = true
				in, err := fs.Inode(disk.Ino(e.Ino))
				if err != nil {
					t.Fatal(err)
				}
				all, inline := pieces(t, in)
				if inline {
					if _, err := in.Map(0); !errors.Is(err, ext4.ErrInline) {
						t.Errorf("%s: Map: %v, want ErrInline", e.Path, err)
					}
					continue
				}
				blocks := []disk.LBlock{0, 1, 11, 12, 1<<32 - 1}
				for k := range min(len(all), 60) {
					p := all[k]
					if len(all) > 60 {
						p = all[rng.IntN(len(all))]
					}
					l, end := p.Logical, disk.LBlock(p.End())
					blocks = append(blocks, l-1, l, l+disk.LBlock(rng.Uint64N(p.Len)), end-1, end)
				}
				for range 20 {
					blocks = append(blocks, disk.LBlock(rng.Uint32()>>rng.IntN(32)))
				}
				for _, b := range blocks {
					checkMap(t, in, all, b)
				}
			}
		})
	}
}

// answers is all that a few calls say of an inode, as one sum.
func answers(fs *ext4.FS, in *ext4.Inode, rng *rand.Rand) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, in.Stat())
	for range 20 {
		m, err := in.Map(disk.LBlock(rng.Uint32() >> rng.IntN(32)))
		fmt.Fprintln(h, m, err)
	}
	buf := make([]byte, 10_000)
	for range 3 {
		n, err := in.ReadAt(buf, int64(rng.Uint64N(uint64(in.Size()+1))))
		h.Write(buf[:n])
		fmt.Fprintln(h, n, err)
	}
	xattrs, err := in.Xattrs()
	fmt.Fprintln(h, xattrs, err)
	if in.Type() == disk.ModeDir {
		d, err := fs.OpenDir(in)
		if err != nil {
			return "", err
		}
		for n := 0; n < 500; n++ {
			e, err := d.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return "", err
			}
			found, err := fs.LookupIno(in, e.Name)
			fmt.Fprintln(h, e, found, err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// Many goroutines with a cache that holds next to nothing get the answers that
// one gets with a large one.
func TestManyReadersWithATinyCache(t *testing.T) {
	for _, name := range []string{"extents-deep", "indirect-1k", "htree-4k", "ea-inode", "inline-data", "encrypted"} {
		t.Run(name, func(t *testing.T) {
			im := fixtures.Find(t, name)
			big, tree := openImage(t, im)
			file, _ := im.Open(t)
			dev, err := blockdev.Open(file, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			tiny, err := ext4.Open(dev, ext4.Options{CacheSize: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer tiny.Close()
			ask := func(fs *ext4.FS, ino uint64) string {
				in, err := fs.Inode(disk.Ino(ino))
				if err != nil {
					return err.Error()
				}
				s, err := answers(fs, in, rand.New(rand.NewPCG(ino, 9)))
				if err != nil {
					return err.Error()
				}
				return s
			}
			var inos []uint64
			want := map[uint64]string{}
			for _, e := range tree {
				if _, ok := want[e.Ino]; !ok && len(inos) < 400 {
					inos = append(inos, e.Ino)
					want[e.Ino] = ask(big, e.Ino)
				}
			}
			var wg sync.WaitGroup
			for g := range uint64(8) {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(g, 5))
					for _, i := range rng.Perm(len(inos))[:min(len(inos), 150)] {
						if got := ask(tiny, inos[i]); got != want[inos[i]] {
							t.Errorf("inode %d: %s, want %s", inos[i], got, want[inos[i]])
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// liveHeap is the bytes in use after a collection.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The memory that walking takes is bounded by the cache's size, whatever is walked.
func TestMemoryIsBoundedByTheCache(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	const limit = 4 << 20
	for _, name := range []string{"tree-20000", "extents-300k"} {
		t.Run(name, func(t *testing.T) {
			file, tree := fixtures.Find(t, name).Open(t)
			dev, err := blockdev.Open(file, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			before := liveHeap()
			fs, err := ext4.Open(dev, ext4.Options{CacheSize: limit})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			peak, n := uint64(0), 0
			look := func() {
				if n++; n%4000 == 0 {
					peak = max(peak, liveHeap())
				}
			}
			buf := make([]byte, 64<<10)
			for _, e := range tree {
				in, err := fs.Resolve(e.Path, false)
				if err != nil {
					t.Fatal(err)
				}
				look()
				if in.Type() != disk.ModeReg {
					continue
				}
				if _, err := in.ReadAt(buf, 0); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				for b := uint64(0); b < uint64(in.Size())>>12; look() {
					m, err := in.Map(disk.LBlock(b))
					if err != nil {
						t.Fatal(err)
					}
					b = m.End()
				}
			}
			grown := int64(max(peak, liveHeap())) - int64(before)
			t.Logf("%d KiB in use with a cache of %d KiB", grown>>10, limit>>10)
			if grown > 2*limit+4<<20 {
				t.Errorf("%d KiB in use, want at most twice the cache of %d KiB and 4 MiB", grown>>10, limit>>10)
			}
		})
	}
}

package ext4_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// mapped is a file whose map has a shape of its own, for queries.
type mapped struct {
	name, image, path string
}

var mappedFiles = []mapped{
	{"direct", "indirect-1k", ""},
	{"depth-0", "ext4-4k", "/holes/inside"},
	{"depth-1", "extents-300k", "/written"},
	{"depth-2", "extents-300k", "/fragmented"},
}

// openMapped returns the inode of f. Without a path it is the file of the image with
// the most rows.
func openMapped(b testing.TB, f mapped) (*ext4.Inode, uint64) {
	b.Helper()
	fs, tree := openImage(b, fixtures.Find(b, f.image))
	path := f.path
	if path == "" {
		most := 0
		for _, e := range tree {
			if len(e.Extents) > most && disk.Mode(e.Mode).Type() == disk.ModeReg {
				path, most = e.Path, len(e.Extents)
			}
		}
	}
	in, err := fs.Resolve(path, true)
	if err != nil {
		b.Fatal(err)
	}
	all, _ := pieces(b, in)
	if len(all) == 0 {
		b.Fatalf("%s of %s has no map", path, f.image)
	}
	return in, all[len(all)-1].End()
}

// A query of what was asked before allocates nothing, in whatever order.
func TestMapAllocatesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	for _, f := range mappedFiles {
		t.Run(f.name, func(t *testing.T) {
			in, end := openMapped(t, f)
			rng := rand.New(rand.NewPCG(1, 1))
			var blocks [512]disk.LBlock
			for i := range blocks {
				blocks[i] = disk.LBlock(rng.Uint64N(end))
			}
			for order, next := range map[string]func(i int) disk.LBlock{
				"random":     func(i int) disk.LBlock { return blocks[i%len(blocks)] },
				"sequential": func(i int) disk.LBlock { return disk.LBlock(uint64(i) % min(end, 512)) },
			} {
				i := 0
				query := func() {
					if _, err := in.Map(next(i)); err != nil {
						t.Fatal(err)
					}
					i++
				}
				for range 1024 {
					query()
				}
				if got := testing.AllocsPerRun(2000, query); got != 0 {
					t.Errorf("%s: %v allocations a query", order, got)
				}
			}
		})
	}
}

// userTime is how long this process has computed, which on a busy machine
// tells more than the clock.
func userTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano())
}

func BenchmarkMap(b *testing.B) {
	for _, f := range mappedFiles {
		for _, order := range []string{"sequential", "random"} {
			b.Run(f.name+"/"+order, func(b *testing.B) {
				in, end := openMapped(b, f)
				rng := rand.New(rand.NewPCG(1, 1))
				blocks := make([]disk.LBlock, 4096)
				for i := range blocks {
					blocks[i] = disk.LBlock(uint64(i) % end)
					if order == "random" {
						blocks[i] = disk.LBlock(rng.Uint64N(end))
					}
					if _, err := in.Map(blocks[i]); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportAllocs()
				i, cpu := 0, userTime(b)
				for b.Loop() {
					if _, err := in.Map(blocks[i&4095]); err != nil {
						b.Fatal(err)
					}
					i++
				}
				b.ReportMetric(float64(userTime(b)-cpu)/float64(i), "user-ns/op")
			})
		}
	}
}

// Opening a file system of 1 TiB reads as little as opening one of 1 MiB.
func TestOpenReadsLittle(t *testing.T) {
	file, _ := fixtures.Find(t, "tib").Open(t)
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	count := &blockdev.Fault{Device: dev, N: -1}
	start := time.Now()
	fs, err := ext4.Open(count, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	took, calls := time.Since(start), count.Calls()
	t.Logf("%d reads, %v", calls, took)
	if calls > 8 {
		t.Errorf("%d reads to open, want at most 8", calls)
	}
	if _, err := fs.Resolve("/", true); err != nil {
		t.Fatal(err)
	}
	if n := count.Calls() - calls; n > 2 {
		t.Errorf("%d reads for the root inode, want at most 2", n)
	}
}

func BenchmarkOpen1TiB(b *testing.B) {
	file, _ := fixtures.Find(b, "tib").Open(b)
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	b.ReportAllocs()
	for b.Loop() {
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fs.Close()
	}
}

func BenchmarkLookup200k(b *testing.B) {
	fs, _ := openImage(b, fixtures.Find(b, "dir-200k"))
	dir, err := fs.Resolve("/many", true)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fs.LookupIno(dir, fmt.Sprintf("entry-%06d", rng.IntN(200_000))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList200k(b *testing.B) {
	fs, _ := openImage(b, fixtures.Find(b, "dir-200k"))
	dir, err := fs.Resolve("/many", true)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if n := len(listFrom(b, fs, dir, 0, 0)); n != 200_002 {
			b.Fatal(n)
		}
	}
}

func BenchmarkWalkMap300k(b *testing.B) {
	fs, _ := openImage(b, fixtures.Find(b, "extents-300k"))
	in, err := fs.Resolve("/fragmented", true)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		sum, err := in.WalkMap(func(ext4.MapRow) error { return nil })
		if err != nil || sum.Extents != 300_000 {
			b.Fatal(sum, err)
		}
	}
}

// residentPeak is VmHWM of this process, in bytes.
func residentPeak(b *testing.B) uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}

// BenchmarkHashTree opens, walks and hashes 20,000 files, as
// find -type f -print0 | xargs -0 sha256sum does on a mount. Its peak counts
// when it runs alone in its process.
func BenchmarkHashTree(b *testing.B) {
	file, _ := fixtures.Find(b, "tree-20000").Open(b)
	runtime.GC()
	b.ReportAllocs()
	for b.Loop() {
		dev, err := blockdev.Open(file, blockdev.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fsys, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			b.Fatal(err)
		}
		files := 0
		h, buf := sha256.New(), make([]byte, 64<<10)
		f := fsys.IOFS()
		err = fs.WalkDir(f, ".", func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			r, err := f.Open(p)
			if err != nil {
				return err
			}
			defer r.Close()
			h.Reset()
			if _, err := io.CopyBuffer(h, r, buf); err != nil {
				return err
			}
			h.Sum(buf[:0])
			files++
			return nil
		})
		if err != nil || files != 20_000 {
			b.Fatal(files, err)
		}
		fsys.Close()
		dev.Close()
	}
	b.ReportMetric(float64(residentPeak(b)>>20), "MiB-resident-peak")
}

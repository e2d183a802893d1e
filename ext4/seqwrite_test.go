package ext4_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures"
)

// sink is a device that keeps small writes, as those of metadata are, and
// copies large ones into memory larger than the processor's caches, round and
// round: what it costs is the copy.
type sink struct {
	blockdev.Device
	ring
}

type ring struct {
	buf []byte
	at  int
}

func newRing() ring { return ring{buf: make([]byte, 256<<20)} }

// next returns the next n bytes.
func (r *ring) next(n int) []byte {
	if r.at+n > len(r.buf) {
		r.at = 0
	}
	r.at += n
	return r.buf[r.at-n : r.at]
}

func (d *sink) WriteAt(p []byte, off int64) (int, error) {
	if len(p) < 64<<10 || off < 4<<20 {
		return d.Device.WriteAt(p, off)
	}
	return copy(d.next(len(p)), p), nil
}

// openSink makes a file system of 6 GiB with one file, the data of which go to r.
func openSink(tb testing.TB, r ring) (*ext4.FS, *contents) {
	tb.Helper()
	image := volume{args: "-t ext4 -b 4096 -J size=64", size: "6G"}.make(tb, "a")
	f, err := blockdev.Open(image, blockdev.Options{Write: true})
	if err != nil {
		tb.Fatal(err)
	}
	fs, err := ext4.Open(&sink{f, r}, ext4.Options{Write: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := fs.Close(); err != nil {
			tb.Error(err)
		}
		f.Close()
	})
	in, err := fs.Resolve("/a", true)
	if err != nil {
		tb.Fatal(err)
	}
	if err := fs.Open(in.Ino()); err != nil {
		tb.Fatal(err)
	}
	return fs, &contents{name: "a", ino: in.Ino()}
}

// extents counts the runs that a file's blocks lie in.
func extents(tb testing.TB, fs *ext4.FS, f *contents) (n int) {
	tb.Helper()
	in, err := fs.Inode(f.ino)
	if err != nil {
		tb.Fatal(err)
	}
	var next uint64
	err = in.Fiemap(0, 1<<62, func(x ext4.FiemapExtent) bool {
		if x.Physical != next {
			n++
		}
		next = x.Physical + x.Length
		return true
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// BenchmarkSequentialWrite writes 4 GiB to a file in pieces, and reports the
// processor time beyond that of copying the bytes, in parts of it, and in how many runs
// of blocks the file lies.
func BenchmarkSequentialWrite(b *testing.B) {
	const total = 4 << 30
	from, to := newRing(), newRing()
	for i := range from.buf {
		from.buf[i], to.buf[i] = byte(i), byte(i)
	}
	for _, piece := range []int{128 << 10, 1 << 20, 8 << 20} {
		b.Run(fmt.Sprintf("%dK", piece>>10), func(b *testing.B) {
			b.SetBytes(total)
			for range b.N {
				fs, f := openSink(b, to)
				start := cpuTime()
				for range total / piece {
					copy(to.next(piece), from.next(piece))
				}
				copying := cpuTime() - start
				start = cpuTime()
				for off := int64(0); off < total; off += int64(piece) {
					if _, err := fs.WriteAt(context.Background(), ext4.Root, f.ino, from.next(piece), off); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(100*float64(cpuTime()-start-copying)/float64(copying), "%over-copy")
				b.ReportMetric(float64(extents(b, fs, f)), "runs")
			}
		})
	}
}

// A file that is written front to back lies in as few pieces as one that the
// kernel writes.
func TestSequentialExtents(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	const total = 300 << 20
	v := volume{args: "-t ext4 -b 4096", size: "600M"}
	image, other := v.make(t, "a"), v.make(t, "a")
	fs, closeFS := writable(t, image, ext4.Options{})
	f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
	p := make([]byte, 128<<10)
	for off := int64(0); off < total; off += int64(len(p)) {
		if _, err := fs.WriteAt(context.Background(), ext4.Root, f.ino, p, off); err != nil {
			t.Fatal(err)
		}
	}
	ours := extents(t, fs, f)
	closeFS()
	sound(t, image)
	dir, umount := fixtures.MountKernelWrite(t, other)
	out, err := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "a"), "bs=128k", "count=2400", "conv=notrunc,fsync").CombinedOutput()
	umount()
	if err != nil {
		t.Fatalf("dd: %v: %s", err, out)
	}
	kfs, closeK := writable(t, other, ext4.Options{})
	kernel := extents(t, kfs, &contents{name: "a", ino: inos(t, kfs, "a")[0]})
	closeK()
	if ours > kernel {
		t.Errorf("%d runs of blocks, %d when the kernel writes it", ours, kernel)
	}
	t.Logf("%d runs of blocks, %d when the kernel writes it", ours, kernel)
}

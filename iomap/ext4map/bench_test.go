package ext4map

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap"

	"golang.org/x/sys/unix"
)

// open takes every upsert: what it costs is the kernel's.
type open struct{}

func (open) Upsert(disk.Ino, iomap.Upsert) error    { return nil }
func (open) Invalidate(disk.Ino, iomap.Inval) error { return nil }

// benchServer is a server, and files of so many unwritten blocks of 4 KiB.
func benchServer(b testing.TB, files int, blocks int64) (*Server, []disk.Ino) {
	b.Helper()
	fs, _ := image(b, "1G", "-t", "ext4", "-b", "4096")
	s := NewServer(fs, 1, 0, open{})
	var inos []disk.Ino
	for i := range files {
		in, err := fs.Create(context.Background(), ext4.Root, disk.RootIno, fmt.Sprint("f", i), disk.ModeReg|0o644)
		if err != nil {
			b.Fatal(err)
		}
		if err := fs.Fallocate(context.Background(), ext4.Root, in.Ino(), 0, 0, blocks*4096); err != nil {
			b.Fatal(err)
		}
		inos = append(inos, in.Ino())
	}
	return s, inos
}

func (s *Server) mustBegin(b testing.TB, ino disk.Ino, op iomap.Op, pos uint64) {
	if _, err := s.Begin(context.Background(), ext4.Root, ino, iomap.Request{Op: op, Pos: pos, Count: 4096}); err != nil {
		b.Fatal(err)
	}
}

func (s *Server) mustIoend(b testing.TB, ino disk.Ino, pos, n uint64) {
	e := iomap.Ioend{Flags: iomap.IoendDirect | iomap.IoendUnwritten, Pos: pos, Written: n, NewAddr: iomap.NullAddr}
	if _, err := s.Ioend(context.Background(), ino, e); err != nil {
		b.Fatal(err)
	}
}

// cpuTime reports the processor time of an operation, all threads together, as cpu-ns/op: on a
// machine that is busy, the clock says little.
func cpuTime(b *testing.B) (stop func()) {
	now := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := now()
	return func() { b.ReportMetric(float64(now()-began)/float64(b.N), "cpu-ns/op") }
}

const benchBlocks = 3000

// fragment makes 2,000 extents of benchBlocks blocks: two of three are written.
func (s *Server) fragment(b testing.TB, ino disk.Ino) {
	for i := uint64(0); i < benchBlocks; i += 3 {
		s.mustIoend(b, ino, i*4096, 8192)
	}
}

// TestBeginAllocates: an answer from what is known allocates nothing.
func TestBeginAllocates(t *testing.T) {
	s, inos := benchServer(t, 1, benchBlocks)
	s.fragment(t, inos[0])
	for _, op := range beginOps {
		i := uint64(0)
		n := testing.AllocsPerRun(1000, func() {
			s.mustBegin(t, inos[0], op, i*4096)
			i = (i + 3) % benchBlocks
		})
		if n > 0 {
			t.Errorf("BEGIN %s allocates %v times", op, n)
		}
	}
}

// beginOps are what is asked of blocks that are written: reads, and overwrites.
var beginOps = []iomap.Op{0, iomap.OpDirect, iomap.OpReport, iomap.OpWrite, iomap.OpWrite | iomap.OpDirect, iomap.OpWriteback}

// BenchmarkServerBegin asks for a written block, by one and, of one file and of several, by as many
// goroutines as -cpu says.
func BenchmarkServerBegin(b *testing.B) {
	s, inos := benchServer(b, 4, benchBlocks)
	for _, ino := range inos {
		s.fragment(b, ino)
	}
	for _, op := range beginOps {
		b.Run(op.String(), func(b *testing.B) {
			b.ReportAllocs()
			defer cpuTime(b)()
			for i := uint64(0); b.Loop(); i = (i + 3) % benchBlocks {
				s.mustBegin(b, inos[0], op, i*4096)
			}
		})
	}
	for _, same := range []bool{true, false} {
		b.Run(fmt.Sprintf("together/same=%t", same), func(b *testing.B) {
			var n atomic.Int32
			defer cpuTime(b)()
			b.RunParallel(func(pb *testing.PB) {
				g := n.Add(1)
				ino := inos[0]
				if !same {
					ino = inos[int(g)%len(inos)]
				}
				for i := uint64(g) * 300; pb.Next(); i = (i + 3) % benchBlocks {
					s.mustBegin(b, ino, 0, i*4096)
				}
			})
		})
	}
}

// BenchmarkServerIoend: a block of an unwritten extent was written.
func BenchmarkServerIoend(b *testing.B) {
	const blocks = 120 << 8 // 120 MiB
	for _, order := range []string{"in order", "every other", "random"} {
		b.Run(order, func(b *testing.B) {
			s, inos := benchServer(b, 1, blocks)
			b.ReportAllocs()
			defer cpuTime(b)()
			for i := uint64(0); b.Loop(); i++ {
				at := i % blocks
				switch order {
				case "every other":
					at = 2 * i % blocks
				case "random":
					at = i * 2654435761 % blocks
				}
				if i == blocks {
					b.Fatal("run with fewer")
				}
				s.mustIoend(b, inos[0], at*4096, 4096)
			}
		})
	}
}

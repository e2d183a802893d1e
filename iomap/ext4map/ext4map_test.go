package ext4map

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures/tourimage"
	"e4go/iomap"

	"golang.org/x/sys/unix"
)

// tour opens the image of e4go tour: blocks of 1 KiB.
func tour(t testing.TB) *ext4.FS {
	t.Helper()
	image := tourimage.New()
	dev := blockdev.NewMem(int64(len(image)))
	if _, err := dev.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs
}

func resolve(t testing.TB, fs *ext4.FS, path string) *ext4.Inode {
	t.Helper()
	in, err := fs.Resolve(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestBegin(t *testing.T) {
	fs := tour(t)
	tests := []struct {
		name       string
		file       string
		op         iomap.Op
		pos, count uint64
		want       string // without addr
	}{
		{"a whole run, though one byte was asked for", "/README.txt", iomap.OpReport, 1500, 1, "MAPPED 0+3072 dev 1"},
		{"behind the end: to the end of the query", "/README.txt", 0, 3072, 5000, "HOLE 3072+5120 dev 0"},
		{"behind the end, one byte", "/README.txt", 0, 10_000, 1, "HOLE 3072+7168 dev 0"},
		{"a hole reaches to the next extent", "/extents.dat", iomap.OpReport, 1024, 1, "HOLE 1024+1024 dev 0"},
		{"and no further, whatever was asked for", "/extents.dat", iomap.OpReport, 1024, 1 << 40, "HOLE 1024+1024 dev 0"},
		{"unwritten", "/extents.dat", iomap.OpDirect, 18_432, 4096, "UNWRITTEN 18432+1024 dev 1"},
		{"the hole at the end: to the end of the file", "/extents.dat", 0, 408_600, 1, "HOLE 408576+1024 dev 0"},
		{"an indirect map", "/indirect.dat", 0, 22*1024 + 7, 1, "MAPPED 22528+10240 dev 1"},
		{"a piece of the hole behind all blocks of an indirect map", "/indirect.dat", 0, 2000 * 1024, 1, "HOLE 1847296+201728 dev 0"},
		{"inline data", "/tiny.txt", 0, 3, 10, "INLINE 0+1024 dev 0"},
		{"behind inline data", "/tiny.txt", 0, 4096, 10, "HOLE 1024+4096 dev 0"},
		{"the largest question", "/README.txt", iomap.OpReport, 4096, math.MaxUint64 - 4096, fmt.Sprintf("HOLE 3072+%d dev 0", uint64(1)<<63-3072)},
		{"what callers may add", "/README.txt", iomap.OpFault | iomap.OpNowait | iomap.OpDontCache, 0, 1, "MAPPED 0+3072 dev 1"},
	}
	for _, tt := range tests {
		in := resolve(t, fs, tt.file)
		req := iomap.Request{Op: tt.op, Pos: tt.pos, Count: tt.count}
		reply, err := Begin(in, req, OptionsFor(fs, in))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		m := reply.Read
		if got := fmt.Sprintf("%s %d+%d dev %d", m.Type, m.Offset, m.Length, m.Dev); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if reply.Write != iomap.Overwrite(m) {
			t.Errorf("%s: write side is %s, want PURE_OVERWRITE of the read side", tt.name, reply.Write)
		}
		for _, v := range []iomap.Version{iomap.V7, iomap.V8} {
			if err := iomap.Validate(v, req, reply, Env(fs)).Err(); err != nil {
				t.Errorf("%s: a %s kernel refuses it: %v", tt.name, v, err)
			}
		}
	}
}

// The address of a mapping is where the bytes are that the file reads.
func TestBeginAddress(t *testing.T) {
	fs := tour(t)
	for _, path := range []string{"/README.txt", "/extents.dat", "/indirect.dat"} {
		in := resolve(t, fs, path)
		o := OptionsFor(fs, in)
		o.Base = 1 << 20
		err := Walk(in, iomap.Request{Count: uint64(in.Size())}, o, func(_ iomap.Request, r iomap.Reply) error {
			m := r.Read
			n := min(int64(m.Length), in.Size()-int64(m.Offset))
			want := make([]byte, n)
			if _, err := in.ReadAt(want, int64(m.Offset)); err != nil && n > 0 && int64(m.Offset)+n < in.Size() {
				return err
			}
			got := make([]byte, n)
			if m.Type == iomap.TypeMapped {
				if _, err := fs.Device().ReadAt(got, int64(m.Addr)-1<<20); err != nil {
					return err
				}
			}
			if string(got) != string(want) {
				t.Errorf("%s: %s is not what the file reads there", path, m)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestBeginRefuses(t *testing.T) {
	fs := tour(t)
	file, dir := resolve(t, fs, "/README.txt"), resolve(t, fs, "/docs")
	most := fs.Super().MaxFileSize(true)
	tests := []struct {
		name string
		in   *ext4.Inode
		req  iomap.Request
		want unix.Errno
	}{
		{"a directory", dir, iomap.Request{Count: 1}, unix.EINVAL},
		{"nothing", file, iomap.Request{}, unix.EINVAL},
		{"behind the largest file", file, iomap.Request{Pos: most, Count: 1}, unix.EFBIG},
		{"a write", file, iomap.Request{Op: iomap.OpWrite, Count: 1}, unix.EOPNOTSUPP},
		{"zeroing", file, iomap.Request{Op: iomap.OpZero, Count: 1}, unix.EOPNOTSUPP},
		{"write-back", file, iomap.Request{Op: iomap.OpWriteback, Count: 1}, unix.EOPNOTSUPP},
		{"memory of the device", file, iomap.Request{Op: iomap.OpDAX, Count: 1}, unix.EOPNOTSUPP},
		{"an unknown bit", file, iomap.Request{Op: 1 << 20, Count: 1}, unix.EOPNOTSUPP},
	}
	for _, tt := range tests {
		_, err := Begin(tt.in, tt.req, OptionsFor(fs, tt.in))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		var op *UnsupportedOpError
		if got := errors.As(err, &op); got != (tt.want == unix.EOPNOTSUPP) {
			t.Errorf("%s: an UnsupportedOpError is %t", tt.name, got)
		}
	}
	if _, err := Begin(file, iomap.Request{Pos: most - 1, Count: 1}, OptionsFor(fs, file)); err != nil {
		t.Errorf("the last byte of the largest file: %v", err)
	}
}

// Walk covers the range without a gap, and every answer is accepted.
func TestWalk(t *testing.T) {
	fs := tour(t)
	for _, path := range []string{"/README.txt", "/extents.dat", "/indirect.dat", "/tiny.txt"} {
		in := resolve(t, fs, path)
		req := iomap.Request{Op: iomap.OpReport, Pos: 700, Count: uint64(in.Size()) + 5000}
		at := req.Pos
		err := Walk(in, req, OptionsFor(fs, in), func(q iomap.Request, r iomap.Reply) error {
			if q.Pos != at || q.Pos+q.Count != req.Pos+req.Count {
				t.Errorf("%s: asked for %d bytes at %d, want them from %d on", path, q.Count, q.Pos, at)
			}
			at, _ = r.Read.End()
			return iomap.Validate(iomap.V8, q, r, Env(fs)).Err()
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if at < req.Pos+req.Count {
			t.Errorf("%s: ended at %d, want %d", path, at, req.Pos+req.Count)
		}
	}
}

// BenchmarkBegin answers from what is cached.
func BenchmarkBegin(b *testing.B) {
	fs := tour(b)
	in := resolve(b, fs, "/extents.dat")
	o := OptionsFor(fs, in)
	b.ReportAllocs()
	for pos := uint64(0); b.Loop(); pos = (pos + 2048) % 400_000 {
		if _, err := Begin(in, iomap.Request{Pos: pos, Count: 4096}, o); err != nil {
			b.Fatal(err)
		}
	}
}

package fusesrv

import (
	"context"
	"log"
	"os"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap"
)

// sink is a kernel that takes what it is sent at once.
type sink struct{}

func (sink) Read([]byte) (int, error)    { select {} }
func (sink) Write(p []byte) (int, error) { return len(p), nil }
func (sink) Close() error                { return nil }

// question is a loop on a file system in memory, with a BEGIN of a file of 1,000 extents.
type question struct {
	l      *loop
	b      *buffers
	blocks uint64
}

func newQuestion(t testing.TB) *question {
	const blocks = 2000
	ctx := context.Background()
	fs, err := ext4.Open(mkfsMem(t, 64<<20, "-t ext4 -b 4096"), ext4.Options{Write: true})
	check(t, err)
	t.Cleanup(func() { check(t, fs.Close()) })
	in, err := fs.Create(ctx, ext4.Root, disk.RootIno, "f", disk.ModeReg|0o644)
	check(t, err)
	check(t, fs.Fallocate(ctx, ext4.Root, in.Ino(), 0, 0, blocks*4096))
	for i := uint64(0); i < blocks; i += 2 {
		_, err := fs.MapPending(ctx, in.Ino(), nil, i, i+1, 0)
		check(t, err)
	}
	check(t, fs.Sync())
	o := &Options{Subtype: Subtype, Log: log.New(os.Stderr, "", 0)}
	raw := newRawFS(fs, o, o.Log)
	l := &loop{conn: sink{}, fs: raw, log: o.Log, fault: raw.fault, free: make(chan *buffers, 1)}
	l.quiet.L = &l.mu
	m := &mapper{fs: fs, raw: raw, loop: l, opens: map[disk.Ino]int{}, register: func() (Backing, error) { return Backing{ID: 1}, nil }}
	raw.maps, l.iomap = m, m
	_, status := m.Config(iomapOffer{MaxBytes: 1 << 62})
	if !status.Ok() {
		t.Fatal(status)
	}
	q := &question{l, l.newBuffers(), blocks}
	t.Cleanup(q.b.unmap)
	le.PutUint32(q.b.in[4:], uint32(iomap.OpcodeBegin))
	le.PutUint64(q.b.in[8:], 2) // unique
	le.PutUint64(q.b.in[16:], nodeOf(in.Ino()))
	le.PutUint32(q.b.in[24:], 1000) // uid
	le.PutUint64(q.b.in[inHeaderSize+8:], uint64(in.Ino()))
	le.PutUint64(q.b.in[inHeaderSize+24:], 4096)
	return q
}

// ask asks about block i.
func (q *question) ask(t testing.TB, op iomap.Op, i uint64) {
	le.PutUint32(q.b.in[inHeaderSize:], uint32(op))
	le.PutUint64(q.b.in[inHeaderSize+16:], i%q.blocks*4096)
	q.l.answer(q.b, inHeaderSize+beginSize)
	if n := le.Uint32(q.b.out); n != outHeaderSize+replySize {
		t.Fatalf("the answer has %d bytes, error %d", n, int32(le.Uint32(q.b.out[4:])))
	}
}

// TestBeginAllocates: a BEGIN of what is known makes no garbage, from the request to the answer,
// with what goes into the kernel's cache.
func TestBeginAllocates(t *testing.T) {
	q := newQuestion(t)
	for _, op := range []iomap.Op{0, iomap.OpReport, iomap.OpWrite} {
		i := uint64(0)
		if n := testing.AllocsPerRun(1000, func() { q.ask(t, op, i); i += 2 }); n > 0 {
			t.Errorf("BEGIN %s allocates %v times", op, n)
		}
	}
}

// BenchmarkMappedBegin is a BEGIN from the request to the answer, but for what the kernel does.
func BenchmarkMappedBegin(b *testing.B) {
	q := newQuestion(b)
	for _, op := range []iomap.Op{0, iomap.OpReport, iomap.OpWrite} {
		b.Run(op.String(), func(b *testing.B) {
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i += 2 {
				q.ask(b, op, i)
			}
		})
	}
}

package fusesrv

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"e4go/iomap"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// unhex reads bytes as they go over the connection, in groups.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	check(t, err)
	return b
}

type (
	begin struct {
		AttrIno uint64
		iomap.Request
	}
	newSize uint64
)

// traces are what a kernel and a server say to each other, written down from the protocol's
// tables, byte by byte: numbers are little-endian.
var traces = []struct {
	name  string
	steps []traceStep
}{
	{"create, append 5000 bytes, fsync", []traceStep{
		{`01000000 00000000  1400000000000000  0000000000000000  8813000000000000`,
			begin{20, iomap.Request{Op: iomap.OpWrite, Pos: 0, Count: 5000}}},
		{`0000000000000000 0020000000000000 0000100000000000 0300 0200 01000000
		  0000000000000000 0020000000000000 ffffffffffffffff ff00 0000 00000000`,
			iomap.Reply{Read: appended, Write: iomap.Overwrite(appended)}},
		{`01000000 00000000  1400000000000000  0000000000000000  8813000000000000  8813000000000000
		  0000000000000000 0020000000000000 0000100000000000 0300 0201 01000000`,
			iomap.End{Op: iomap.OpWrite, AttrIno: 20, Pos: 0, Count: 5000, Written: 5000, Map: iomap.Mapping{
				Offset: 0, Length: 8192, Addr: 1 << 20, Type: iomap.TypeUnwritten, Flags: iomap.FlagDirty | iomap.FlagSizeChanged, Dev: 1}}},
		{`00000080 00000000  1400000000000000  0000000000000000  0020000000000000`,
			begin{20, iomap.Request{Op: iomap.OpWriteback, Pos: 0, Count: 8192}}},
		{`32000000 00000000  1400000000000000  0000000000000000  0008000000000000  8813000000000000  01000000 00000000`,
			iomap.Ioend{Flags: iomap.IoendWriteback | iomap.IoendUnwritten | iomap.IoendAppend, AttrIno: 20, NewAddr: 2048, Written: 5000, Dev: 1}},
		{`8813000000000000`, newSize(5000)},
	}},
	{"direct write of 8 KiB", []traceStep{
		{`11000000 00000000  1400000000000000  0000000000000000  0020000000000000`,
			begin{20, iomap.Request{Op: iomap.OpWrite | iomap.OpDirect, Pos: 0, Count: 8192}}},
		{`1a000000 00000000  1400000000000000  0000000000000000  ffffffffffffffff  0020000000000000  00000000 00000000`,
			iomap.Ioend{Flags: iomap.IoendDirect | iomap.IoendUnwritten | iomap.IoendAppend, AttrIno: 20, NewAddr: iomap.NullAddr, Written: 8192}},
		{`0020000000000000`, newSize(8192)},
		{`08000000 fbffffff  1400000000000000  0010000000000000  ffffffffffffffff  0000000000000000  00000000 00000000`,
			iomap.Ioend{Flags: iomap.IoendDirect, Error: -5, AttrIno: 20, Pos: 4096, NewAddr: iomap.NullAddr}},
	}},
	{"truncate 10000 to 100", []traceStep{
		{`02000000 00000000  1500000000000000  6400000000000000  9c0f000000000000`,
			begin{21, iomap.Request{Op: iomap.OpZero, Pos: 100, Count: 3996}}},
		{`0000000000000000 0030000000000000 0000600001000000 0200 0000 02000000
		  0000000000000000 0030000000000000 ffffffffffffffff ff00 0000 00000000`,
			iomap.Reply{Read: high, Write: iomap.Overwrite(high)}},
		{`00000080 00000000  1500000000000000  0000000000000000  0010000000000000`,
			begin{21, iomap.Request{Op: iomap.OpWriteback, Pos: 0, Count: 4096}}},
	}},
	{"punch 1000 to 9000", []traceStep{
		{`02000000 00000000  1500000000000000  e803000000000000  401f000000000000`,
			begin{21, iomap.Request{Op: iomap.OpZero, Pos: 1000, Count: 8000}}},
		{`02000000 00000000  1500000000000000  0010000000000000  2813000000000000`,
			begin{21, iomap.Request{Op: iomap.OpZero, Pos: 4096, Count: 4904}}},
		{`0010000000000000 0010000000000000 ffffffffffffffff 0000 0000 00000000
		  0010000000000000 0010000000000000 ffffffffffffffff ff00 0000 00000000`,
			iomap.Reply{Read: iomap.Hole(4096, 4096), Write: iomap.Overwrite(iomap.Hole(4096, 4096))}},
	}},
	{"CONFIG", []traceStep{
		{`7f00000000000000 ffffffffffffff7f 00000400 00000000
		  0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000`,
			iomapOffer{Fields: 0x7f, MaxBytes: 1<<63 - 1, CacheBytes: 256 << 10}},
		{`7f00000000000000
		  6534676f00000000 0000000000000000 0000000000000000 0000000000000000
		  000102030405060708090a0b0c0d0e0f 10 000000 00100000 e8fd0000 01000000
		  00000080ffffffff ffffff7f03000000 00f0ffffff0f0000 00001000 00000000`,
			iomapConfig{Fields: 0x7f, SID: "e4go", UUID: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
				BlockSize: 4096, MaxLinks: 65000, TimeGran: 1, TimeMin: -1 << 31, TimeMax: 0x37fffffff, MaxBytes: 1<<44 - 4096, CacheBytes: 1 << 20}},
		{`0400000000000000
		  0000000000000000 0000000000000000 0000000000000000 0000000000000000
		  00000000000000000000000000000000 00 000000 00040000 00000000 00000000
		  0000000000000000 0000000000000000 0000000000000000 00000000 00000000`,
			iomapConfig{Fields: configBlockSize, BlockSize: 1024, UUID: [16]byte{1}}},
	}},
}

var (
	appended = iomap.Mapping{Offset: 0, Length: 8192, Addr: 1 << 20, Type: iomap.TypeUnwritten, Flags: iomap.FlagDirty, Dev: 1}
	high     = iomap.Mapping{Offset: 0, Length: 12288, Addr: 1<<32 + 6<<20, Type: iomap.TypeMapped, Dev: 2}
)

type traceStep struct {
	bytes string
	value any
}

func TestIomapTraces(t *testing.T) {
	for _, tr := range traces {
		for i, step := range tr.steps {
			b := unhex(t, step.bytes)
			var got any
			var out []byte
			var err error
			switch v := step.value.(type) {
			case begin:
				var g begin
				g.AttrIno, g.Request, err = decodeBegin(b)
				got = g
			case iomap.End:
				got, err = decodeEnd(b)
			case iomap.Ioend:
				got, err = decodeIoend(b)
			case iomapOffer:
				got, err = decodeConfig(b)
			case iomap.Reply:
				out = bytes.Repeat([]byte{0xaa}, replySize)
				putReply(out, v)
			case iomapConfig:
				out = bytes.Repeat([]byte{0xaa}, configOutSize)
				v.put(out)
			case newSize:
				out = le.AppendUint64(nil, uint64(v))
			}
			if out != nil && !bytes.Equal(out, b) {
				t.Errorf("%s, step %d: %+v is\n% x, want\n% x", tr.name, i, step.value, out, b)
			}
			if out == nil && (err != nil || !reflect.DeepEqual(got, step.value)) {
				t.Errorf("%s, step %d:\n% x\nis %+v, %v, want\n%+v", tr.name, i, b, got, err, step.value)
			}
			// One byte more or less is another version's.
			if out == nil {
				for _, wrong := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0), nil} {
					var e *wrongSizeError
					if err := decodeAs(step.value, wrong); !errors.As(err, &e) || e.have != len(wrong) || e.want != len(b) {
						t.Errorf("%s, step %d, with %d bytes: %v", tr.name, i, len(wrong), err)
					}
				}
			}
		}
	}
	if _, err := decodeIoend(make([]byte, ioendSizeV6)); err == nil || !strings.Contains(err.Error(), "before February 2026") {
		t.Errorf("an IOEND of 2025: %v", err)
	}
}

// decodeAs decodes b as a message of v's kind.
func decodeAs(v any, b []byte) (err error) {
	switch v.(type) {
	case begin:
		_, _, err = decodeBegin(b)
	case iomap.End:
		_, err = decodeEnd(b)
	case iomap.Ioend:
		_, err = decodeIoend(b)
	case iomapOffer:
		_, err = decodeConfig(b)
	}
	return err
}

// A recorder is a connection on which nothing is asked.
type recorder struct {
	bytes.Buffer
	err error
}

func (r *recorder) Read([]byte) (int, error) { return 0, io.EOF }
func (r *recorder) Close() error             { return nil }
func (r *recorder) Write(p []byte) (int, error) {
	r.Buffer.Write(p)
	return len(p), r.err
}

func TestIomapNotifications(t *testing.T) {
	var to recorder
	l := &loop{conn: &to}
	tests := []struct {
		what string
		send func() fuse.Status
		want string
	}{
		{"upsert", func() fuse.Status {
			return l.upsert(7, 20, iomap.Upsert{Read: appended, Write: iomap.Mapping{Offset: 4096, Length: 8192, Addr: iomap.NullAddr, Type: iomap.TypeNoCache}})
		}, `60000000 64000000 0000000000000000  0700000000000000 1400000000000000
		    0000000000000000 0020000000000000 0000100000000000 0300 0200 01000000
		    0010000000000000 0020000000000000 ffffffffffffffff fd00 0000 00000000`},
		{"inval", func() fuse.Status {
			return l.inval(7, 20, iomap.Inval{Read: iomap.Range{Offset: 4096, Length: iomap.ToEOF}, Write: iomap.Range{}})
		}, `40000000 65000000 0000000000000000  0700000000000000 1400000000000000
		    0010000000000000 ffffffffffffffff 0000000000000000 0000000000000000`},
		{"dev inval", func() fuse.Status { return l.devInval(3, 8192, 4096) },
			`28000000 63000000 0000000000000000  03000000 00000000 0020000000000000 0010000000000000`},
	}
	for _, tt := range tests {
		to.Reset()
		if status := tt.send(); status != fuse.OK || !bytes.Equal(to.Bytes(), unhex(t, tt.want)) {
			t.Errorf("%s: %v,\n% x, want\n% x", tt.what, status, to.Bytes(), unhex(t, tt.want))
		}
		to.err = unix.ESTALE
		if status := tt.send(); status != 116 {
			t.Errorf("%s that the kernel refuses: %v, want ESTALE", tt.what, status)
		}
		to.err = nil
	}
}

package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"e4go/ext4"
	"e4go/iomap"
	"e4go/iomap/simkernel"
)

// A wiretap writes down the messages that pass it, byte for byte. Bytes that another server may choose, or that
// no two runs have the same, are dots.
type wiretap struct {
	conn
	mu  sync.Mutex
	on  bool
	ops map[uint64]uint32 // of the requests under way
	out strings.Builder
}

func (w *wiretap) Read(p []byte) (int, error) {
	n, err := w.conn.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if op := le.Uint32(p[4:]); err == nil && w.on {
		w.ops[le.Uint64(p[8:])] = op
		w.dump("> "+iomapName(op), p[:n], append([]span{{8, 16}, {16, 24}}, shift(freeRequest[op], inHeaderSize)...))
	}
	return n, err
}

func (w *wiretap) Write(p []byte) (int, error) {
	w.mu.Lock()
	if unique := le.Uint64(p[8:]); w.on && unique == 0 {
		code := iomap.NotifyCode(le.Uint32(p[4:]))
		w.dump("< "+code.String(), p, []span{{16, 32}, {32 + 16, 32 + 24}}) // node id, attr_ino, and where the blocks lie
	} else if op, ok := w.ops[unique]; ok {
		delete(w.ops, unique)
		w.dump("< "+iomapName(op), p, append([]span{{8, 16}}, shift(freeReply[op], outHeaderSize)...))
	}
	w.mu.Unlock()
	return w.conn.Write(p)
}

func iomapName(op uint32) string {
	if s, ok := map[uint32]string{opLookup: "LOOKUP", 14: "OPEN", 35: "CREATE", 4: "SETATTR", 20: "FSYNC", 25: "FLUSH", 18: "RELEASE", 43: "FALLOCATE"}[op]; ok {
		return s
	}
	return iomap.Opcode(op).String()
}

// A span is the bytes [from, end) of a message.
type span struct{ from, end int }

func shift(spans []span, by int) (out []span) {
	for _, s := range spans {
		out = append(out, span{s.from + by, s.end + by})
	}
	return out
}

// What is free in a message, behind its header: beside the node id, inode numbers, generations, times and where
// blocks lie on the device. NULL_ADDR is not where blocks lie, and stays.
var (
	freeAttr    = []span{{0, 8}, {24, 60}}
	freeRequest = map[uint32][]span{
		4:                         {{32, 68}},
		uint32(iomap.OpcodeBegin): {{8, 16}},
		uint32(iomap.OpcodeEnd):   {{8, 16}, {40 + 16, 40 + 24}},
		uint32(iomap.OpcodeIoend): {{8, 16}, {24, 32}},
	}
	freeReply = map[uint32][]span{
		4:                         shift(freeAttr, 16),
		35:                        append([]span{{0, 16}}, shift(freeAttr, 40)...),
		uint32(iomap.OpcodeBegin): {{16, 24}},
	}
)

func (w *wiretap) dump(title string, b []byte, free []span) {
	fmt.Fprintf(&w.out, "%s\n", title)
	dots := make([]bool, len(b))
	for _, s := range free {
		if s.end > len(b) || s.end-s.from == 8 && le.Uint64(b[s.from:]) == iomap.NullAddr {
			continue
		}
		for i := s.from; i < s.end; i++ {
			dots[i] = true
		}
	}
	for i, x := range b {
		if i%16 == 0 {
			fmt.Fprintf(&w.out, "  %03x ", i)
		}
		if dots[i] {
			w.out.WriteString(" ..")
		} else {
			fmt.Fprintf(&w.out, " %02x", x)
		}
		if i%16 == 15 || i == len(b)-1 {
			w.out.WriteByte('\n')
		}
	}
}

// TestWire: what kernel and server say to each other in the examples of docs/IOMAP.md, byte for byte. With E4GO_UPDATE=1
// the files are written.
func TestWire(t *testing.T) {
	fill := func(n int) []byte { return []byte(strings.Repeat("e4go", n/4+1))[:n] }
	for _, tt := range []struct {
		name   string
		before int // bytes that the file has, on the device
		do     func(k *simkernel.Kernel, f *simkernel.File) error
	}{
		{"append", -1, func(k *simkernel.Kernel, _ *simkernel.File) error {
			f, err := k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
			if err != nil {
				return err
			}
			return errors.Join(writeAll(f, fill(5000), 0), f.Fsync(false), f.Close())
		}},
		{"direct", 0, func(k *simkernel.Kernel, f *simkernel.File) error {
			d, err := k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_DIRECT, 0)
			if err != nil {
				return err
			}
			return errors.Join(writeAll(d, fill(8192), 0), d.Close())
		}},
		{"truncate", 10_000, func(_ *simkernel.Kernel, f *simkernel.File) error { return f.Truncate(100) }},
		{"punch", 20_000, func(_ *simkernel.Kernel, f *simkernel.File) error {
			return f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, 1000, 8000)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := mkfsMem(t, 32<<20, "-t ext4 -b 4096")
			fs, err := ext4.Open(dev, ext4.Options{Write: true})
			check(t, err)
			k := simkernel.New(simkernel.Options{})
			tap := &wiretap{conn: simConn{k.Dev()}, ops: map[uint64]uint32{}}
			_, wait := connectKernelTo(t, k, tap, fs, dev, &Options{Log: log.New(os.Stderr, "", 0)})
			var f *simkernel.File
			if tt.before >= 0 {
				f, err = k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
				check(t, err)
				check(t, errors.Join(writeAll(f, fill(tt.before), 0), f.Fsync(false)))
			}
			listen := func(on bool) {
				tap.mu.Lock()
				tap.on = on
				tap.mu.Unlock()
			}
			listen(true)
			check(t, tt.do(k, f))
			listen(false)
			if f != nil {
				check(t, f.Close())
			}
			check(t, k.Unmount())
			wait()
			check(t, fs.Close())
			for _, b := range k.Breaches() {
				t.Errorf("the kernel complains: %v", b)
			}
			golden(t, filepath.Join("testdata", "iomap", tt.name+".txt"), tap.out.String())
		})
	}
}

// golden compares got with what the file name has.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("E4GO_UPDATE") != "" {
		check(t, os.WriteFile(name, []byte(got), 0o644))
	}
	file, err := os.ReadFile(name)
	check(t, err)
	have, want := strings.Split(got, "\n"), strings.Split(string(file), "\n")
	for i := range max(len(have), len(want)) {
		var h, w string
		if i < len(have) {
			h = have[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if h != w {
			t.Fatalf("%s:%d: got\n%s\nwant\n%s\nAll of it:\n%s", name, i+1, h, w, got)
		}
	}
}

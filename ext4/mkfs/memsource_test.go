package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"e4go/ext4/disk"
)

// A memSource is a tree made up in memory.
type memSource struct {
	list []*Entry
	next int
}

func (s *memSource) Next(context.Context) (*Entry, error) {
	if s.next == len(s.list) {
		return nil, io.EOF
	}
	e := *s.list[s.next]
	s.next++
	return &e, nil
}

func (s *memSource) Close() error { return nil }

// memContent is the contents of a file; blocks of zeros are holes.
type memContent struct {
	data []byte
	now  bool // it cannot wait
}

func (c *memContent) Later() bool { return !c.now }

func (c *memContent) Sparse() bool { return c.allocated() < int64(len(c.data)) }

func (c *memContent) allocated() (n int64) {
	r := &memReader{c: c}
	for off := int64(0); ; {
		start, end, _ := r.Data(off)
		if start == int64(len(c.data)) {
			return n
		}
		n += end - start
		off = end
	}
}

func (c *memContent) Open() (Reader, error) { return &memReader{c: c}, nil }

type memReader struct {
	c   *memContent
	off int64
}

const memHole = 4096

func (r *memReader) Read(p []byte) (int, error) {
	if r.off >= int64(len(r.c.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.c.data[r.off:])
	r.off += int64(n)
	return n, nil
}

func (r *memReader) Close() error { return nil }

func (r *memReader) Skip(off int64) error {
	r.off = off
	return nil
}

func (r *memReader) hole(at int64) bool {
	return !r.c.now && bytes.Count(r.c.data[at:min(at+memHole, int64(len(r.c.data)))], []byte{0}) == len(r.c.data[at:min(at+memHole, int64(len(r.c.data)))])
}

func (r *memReader) Data(off int64) (start, end int64, err error) {
	size := int64(len(r.c.data))
	for off < size && r.hole(off/memHole*memHole) {
		off = min((off/memHole+1)*memHole, size)
	}
	end = off
	for end < size && !r.hole(end/memHole*memHole) {
		end = min((end/memHole+1)*memHole, size)
	}
	return off, end, nil
}

// oddTree is a small tree with one of everything.
func oddTree(now bool) *memSource {
	s := &memSource{}
	add := func(path string, mode disk.Mode, more func(e *Entry)) {
		e := &Entry{Path: path, Mode: mode, UID: uint32(len(s.list)), GID: 7, Mtime: disk.Time{Sec: 1e9 + int64(len(s.list)), Nsec: uint32(len(path))}}
		if more != nil {
			more(e)
		}
		s.list = append(s.list, e)
	}
	file := func(path string, data []byte, xattrs ...Xattr) {
		add(path, disk.ModeReg|0o640, func(e *Entry) {
			e.Size, e.Xattrs = int64(len(data)), xattrs
			if len(data) > 0 {
				e.Content = &memContent{data: data, now: now}
			}
		})
	}
	text := func(n int) []byte {
		return bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
	}
	add("", disk.ModeDir|0o750, nil)
	file("empty", nil)
	file("small", text(50))
	file("medium", text(200), Xattr{"user.a", []byte("b")})
	file("two megabytes", text(2<<20+7))
	sparse := make([]byte, 400<<10)
	for i := 1; i < 20; i += 2 {
		copy(sparse[i*20<<10:], text(5000))
	}
	file("sparse", sparse)
	add("holes only", disk.ModeReg|0o600, func(e *Entry) {
		e.Size, e.Content = 1<<20+5, &memContent{data: make([]byte, 1<<20+5), now: now}
	})
	shared := []Xattr{{"user.long", text(700)}, {"trusted.x", nil}}
	file("x1", text(10), shared...)
	file("x2", text(5000), shared...)
	add("short link", disk.ModeLink|0o777, func(e *Entry) { e.Link = "small" })
	add("long link", disk.ModeLink|0o777, func(e *Entry) { e.Link = strings.Repeat("t", 900) })
	add("fifo", disk.ModeFIFO|0o600, nil)
	add("socket", disk.ModeSocket|0o600, nil)
	add("device", disk.ModeBlock|0o600, func(e *Entry) { e.Major, e.Minor = 300, 70000 })
	add("dir", disk.ModeDir|0o2755, nil)
	add("dir/other name", 0, func(e *Entry) { e.HardLink = "two megabytes" })
	add("dir/sub/made up/file", disk.ModeReg|0o4755, nil)
	add("many", disk.ModeDir|0o700, nil)
	for i := range 300 {
		file(fmt.Sprintf("many/%d%s", i, strings.Repeat("m", i%200)), nil)
	}
	return s
}

// A memSource has what it was given, and its holes where they are.
func TestMemContent(t *testing.T) {
	data := make([]byte, 5*memHole+100)
	data[memHole+5], data[5*memHole] = 1, 1
	r := &memReader{c: &memContent{data: data}}
	var got []int64
	for off := int64(0); ; {
		start, end, err := r.Data(off)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, start, end)
		if start == int64(len(data)) {
			break
		}
		off = end
	}
	if want := fmt.Sprint([]int64{memHole, 2 * memHole, 5 * memHole, 5*memHole + 100, 5*memHole + 100, 5*memHole + 100}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if n := r.c.allocated(); n != memHole+100 {
		t.Errorf("%d bytes are allocated, want %d", n, memHole+100)
	}
	if _, err := io.ReadAll(r); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

package mkfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// A Spool is a file without a name, in which contents wait for their place.
type Spool struct {
	sections
	at int64
}

// NewSpool makes a spool in a directory, which must have room for what will be
// put into it.
func NewSpool(dir string) (*Spool, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &Spool{sections: sections{f: os.NewFile(uintptr(fd), dir)}}, nil
	}
	f, err := os.CreateTemp(dir, ".e4go-spool-")
	if err != nil {
		return nil, &os.PathError{Op: "make a temporary file in", Path: dir, Err: underlying(err)}
	}
	return &Spool{sections: sections{f: f}}, os.Remove(f.Name())
}

// Close gives the room back.
func (s *Spool) Close() error { return s.f.Close() }

// add copies the parts of a file from r.
func (s *Spool) add(ctx context.Context, r io.Reader, p parts) (Content, error) {
	c := &sectionContent{parts: p, in: &s.sections, at: s.at}
	buf := make([]byte, min(p.stored, 256<<10))
	for end := s.at + p.stored; s.at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buf[:min(int64(len(buf)), end-s.at)]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		if _, err := s.f.WriteAt(part, s.at); err != nil {
			return nil, fmt.Errorf("keep a copy: %w", err)
		}
		s.at += int64(len(part))
	}
	return c, nil
}

// sections are a file of which contents are sections.
type sections struct {
	f      *os.File
	s      *TarSource // whose archive f is; nil for a spool, which nobody else changes
	sparse []parts    // those that were kept
}

// content implements [keeper].
func (s *sections) content(_ string, size int64, k kept) Content {
	c := &sectionContent{in: s, at: int64(k.key)}
	if k.sparse {
		c.parts = s.sparse[k.sub]
	} else {
		c.parts = wholeFile(size)
	}
	return c
}

// sectionContent is contents that are a section of a file.
type sectionContent struct {
	parts
	in *sections
	at int64
}

// keep implements [keepable].
func (c *sectionContent) keep() (from keeper, key uint64, sub uint32) {
	if c.Sparse() {
		sub = uint32(len(c.in.sparse))
		c.in.sparse = append(c.in.sparse, c.parts)
	}
	return c.in, uint64(c.at), sub
}

// Later implements [Content].
func (c *sectionContent) Later() bool { return true }

// Open implements [Content].
func (c *sectionContent) Open() (Reader, error) {
	return &sectionReader{c.reader(io.NewSectionReader(c.in.f, c.at, c.stored)), c.in.s}, nil
}

type sectionReader struct {
	*partsReader
	s *TarSource
}

// Close implements [Reader]. It fails if the archive has changed meanwhile.
func (r *sectionReader) Close() error {
	if r.s == nil {
		return nil
	}
	return r.s.unchanged()
}

// parts are what is not in the holes of a file. They are stored one behind the other.
type parts struct {
	size   int64  // of the file
	stored int64  // of all parts
	list   []span // in order
}

// wholeFile is a file of size bytes without holes.
func wholeFile(size int64) parts { return parts{size: size, stored: size, list: []span{{0, size}}} }

// Sparse implements [Content].
func (p *parts) Sparse() bool { return p.stored < p.size }

// reader reads the file, of which r has the parts.
func (p *parts) reader(r io.Reader) *partsReader {
	return &partsReader{r: r, size: p.size, list: p.list}
}

type partsReader struct {
	r    io.Reader
	size int64
	off  int64
	list []span // what is left
}

// Read implements [Reader].
func (p *partsReader) Read(b []byte) (int, error) {
	for len(p.list) > 0 && p.list[0].end <= p.off {
		p.list = p.list[1:]
	}
	end, hole := p.size, true
	if len(p.list) > 0 {
		if end = p.list[0].start; end <= p.off {
			end, hole = p.list[0].end, false
		}
	}
	if p.off >= p.size {
		return 0, io.EOF
	}
	n, err := int(min(int64(len(b)), end-p.off)), error(nil)
	if b = b[:n]; hole {
		clear(b)
	} else if n, err = p.r.Read(b); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	p.off += int64(n)
	return n, err
}

// Close implements [Reader].
func (p *partsReader) Close() error { return nil }

// Data implements [Reader].
func (p *partsReader) Data(off int64) (start, end int64, err error) {
	i := sort.Search(len(p.list), func(i int) bool { return p.list[i].end > off })
	if i == len(p.list) {
		return p.size, p.size, nil
	}
	return max(p.list[i].start, off), p.list[i].end, nil
}

// Skip implements [Reader].
func (p *partsReader) Skip(off int64) error {
	for len(p.list) > 0 && p.list[0].end <= off {
		p.list = p.list[1:]
	}
	p.off = off
	return nil
}

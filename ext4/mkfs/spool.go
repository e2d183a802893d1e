package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Spool is a file without a name, in which contents wait for their place.
type Spool struct {
	f  *os.File
	at int64
}

// NewSpool makes a spool in a directory, which must have room for what will be
// put into it.
func NewSpool(dir string) (*Spool, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &Spool{f: os.NewFile(uintptr(fd), dir)}, nil
	}
	f, err := os.CreateTemp(dir, ".e4go-spool-")
	if err != nil {
		return nil, &os.PathError{Op: "make a temporary file in", Path: dir, Err: underlying(err)}
	}
	return &Spool{f: f}, os.Remove(f.Name())
}

// Close gives the room back.
func (s *Spool) Close() error { return s.f.Close() }

// spoolUnit is where contents begin, so that holes of the file are theirs.
const spoolUnit = 64 << 10

// add copies size bytes from r. With sparse, what is zero becomes a hole.
func (s *Spool) add(ctx context.Context, r io.Reader, size int64, sparse bool) (Content, error) {
	c := &sectionContent{f: s.f, at: s.at, size: size, whole: !sparse}
	buf := make([]byte, min(size, spoolUnit))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buf[:min(int64(len(buf)), size-off)]
		if _, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
				err = errors.New("the archive ends early")
			}
			return nil, err
		}
		if !sparse || !bytes.Equal(part, zeroMiB[:len(part)]) {
			if err := s.write(part, s.at+off, sparse); err != nil {
				return nil, fmt.Errorf("keep a copy: %w", err)
			}
		}
		off += int64(len(part))
	}
	s.at = (s.at + size + spoolUnit - 1) / spoolUnit * spoolUnit
	return c, nil
}

// write writes to the spool, pages of zeros left out with sparse.
func (s *Spool) write(b []byte, at int64, sparse bool) error {
	const page = 4096
	if !sparse {
		_, err := s.f.WriteAt(b, at)
		return err
	}
	for len(b) > 0 {
		n := min(len(b), page)
		if !bytes.Equal(b[:n], zeroMiB[:n]) {
			if _, err := s.f.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// sectionContent is a part of a file that nobody else changes.
type sectionContent struct {
	f     *os.File
	at    int64
	size  int64
	whole bool // it has no holes
}

// Later implements [Content].
func (c *sectionContent) Later() bool { return true }

// Allocated implements [Content].
func (c *sectionContent) Allocated() int64 {
	if c.whole {
		return c.size
	}
	var n int64
	r := sectionReader{c: c}
	for off := int64(0); off < c.size; {
		start, end, err := r.Data(off)
		if err != nil {
			return c.size
		}
		n += end - start
		off = end
	}
	return n
}

// Open implements [Content].
func (c *sectionContent) Open() (Reader, error) { return &sectionReader{c: c}, nil }

type sectionReader struct {
	c   *sectionContent
	off int64
}

func (r *sectionReader) Read(p []byte) (int, error) {
	if r.off >= r.c.size {
		return 0, io.EOF
	}
	n, err := r.c.f.ReadAt(p[:min(int64(len(p)), r.c.size-r.off)], r.c.at+r.off)
	r.off += int64(n)
	if n > 0 {
		err = nil
	} else if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *sectionReader) Close() error { return nil }

// Skip implements [Reader].
func (r *sectionReader) Skip(off int64) error {
	r.off = off
	return nil
}

// Data implements [Reader].
func (r *sectionReader) Data(off int64) (start, end int64, err error) {
	size := r.c.size
	if r.c.whole {
		return off, size, nil
	}
	start, err = unix.Seek(int(r.c.f.Fd()), r.c.at+off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil:
		return off, size, nil // this file system does not tell
	}
	if start -= r.c.at; start >= size {
		return size, size, nil
	}
	if end, err = unix.Seek(int(r.c.f.Fd()), r.c.at+start, unix.SEEK_HOLE); err != nil {
		return 0, 0, err
	}
	return start, min(end-r.c.at, size), nil
}

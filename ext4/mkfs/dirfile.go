package mkfs

import (
	"errors"
	"io"
	"slices"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// fileContent is a regular file of a DirSource.
type fileContent struct {
	s      *DirSource
	path   string
	size   int64
	dev    uint64
	stamp  uint64 // when it was listed
	sparse bool
}

// keep implements [keepable].
func (c *fileContent) keep() (from keeper, key uint64, sub uint32) {
	i := slices.Index(c.s.devs, c.dev)
	if i < 0 {
		i = len(c.s.devs)
		c.s.devs = append(c.s.devs, c.dev)
	}
	return c.s, c.stamp, uint32(i)
}

// content implements [keeper].
func (s *DirSource) content(path string, size int64, k kept) Content {
	return &fileContent{s: s, path: path, size: size, dev: s.devs[k.sub], stamp: k.key, sparse: k.sparse}
}

// Later implements [Content].
func (c *fileContent) Later() bool { return true }

// Sparse implements [Content].
func (c *fileContent) Sparse() bool { return c.sparse }

// Open implements [Content].
func (c *fileContent) Open() (Reader, error) {
	r, err := c.openFile()
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *fileContent) openFile() (*fileReader, error) {
	dir, path := int(c.s.fd.Fd()), c.path
	const most = unix.PathMax - 1
	for len(path) > most { // longer than a system call takes
		i := strings.LastIndexByte(path[:most], '/')
		next, err := unix.Openat(dir, path[:i], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, c.s.failed("open", c.path, err)
		}
		defer unix.Close(next)
		dir, path = next, path[i+1:]
	}
	return c.openIn(dir, path)
}

// openIn opens the file by its path from a directory.
func (c *fileContent) openIn(dir int, path string) (*fileReader, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, c.s.failed("open", c.path, err)
	}
	return &fileReader{c: c, fd: fd}, nil
}

// A fileReader reads a file that is what was listed, or its Close fails.
type fileReader struct {
	c  *fileContent
	fd int
	at int64
}

// Read implements [Reader].
func (r *fileReader) Read(p []byte) (int, error) {
	for {
		n, err := unix.Pread(r.fd, p, r.at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		r.at += int64(n)
		return n, nil
	}
}

// Close implements [Reader]. It fails if the file has changed meanwhile.
func (r *fileReader) Close() error {
	defer unix.Close(r.fd)
	return r.c.s.unchanged(r.fd, r.c.path, r.c.stamp)
}

// Data implements [Reader].
func (r *fileReader) Data(off int64) (start, end int64, err error) {
	size := r.c.size
	end, err = unix.Seek(r.fd, off, unix.SEEK_HOLE)
	if err == nil && end > off {
		return off, end, nil // most files have no hole
	}
	if err == nil {
		if start, err = unix.Seek(r.fd, off, unix.SEEK_DATA); err == nil {
			end, err = unix.Seek(r.fd, start, unix.SEEK_HOLE)
		}
	}
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return off, size, nil // this file system does not tell
	case err != nil:
		return 0, 0, r.c.s.failed("lseek", r.c.path, err)
	}
	return start, end, nil
}

// Skip implements [Reader].
func (r *fileReader) Skip(off int64) error {
	r.at = off
	return nil
}

// Attributes implements [attributed].
func (r *fileReader) Attributes() (disk.FileFlags, uint32, error) {
	return r.c.s.attributes(r.fd, r.c.dev, r.c.path)
}

package mkfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"e4go/ext4/disk"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// TarOptions say how an archive is read.
type TarOptions struct {
	// Spool is where contents wait that cannot be read again, since the place
	// they go to is not known yet. nil reads them as they come, which [Make] can
	// only do when the size of the file system is known.
	Spool *Spool

	// Layer applies OCI whiteouts: the archive is a layer above those before.
	// Else names that mean one are refused.
	Layer bool

	NoXattrs bool

	// Stop, once closed, ends the wait for an archive that comes through a pipe:
	// reading it fails with [context.Canceled].
	Stop <-chan struct{}
}

// A TarSource is an archive in one of the forms that tar(1) writes: ustar,
// pax, GNU; as it is or compressed by gzip, zstd, xz or bzip2.
type TarSource struct {
	name   string
	o      TarOptions
	tr     *tar.Reader
	file   *os.File // that contents can be read from again, or nil
	closes []func() error
}

// NewTarSource reads an archive from f, which it takes over; name is for
// errors.
func NewTarSource(name string, f *os.File, o TarOptions) (*TarSource, error) {
	s := &TarSource{name: name, o: o, closes: []func() error{f.Close}}
	if err := s.open(f); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

var compressions = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.Reader, func() error, error)
}{
	{"gzip", []byte{0x1f, 0x8b}, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, func() error { z.Close(); return nil }, nil
	}},
	{"xz", []byte("\xfd7zXZ\x00"), func(r io.Reader) (io.Reader, func() error, error) {
		z, err := xz.NewReader(r)
		return z, nil, err
	}},
	{"bzip2", []byte("BZh"), func(r io.Reader) (io.Reader, func() error, error) { return bzip2.NewReader(r), nil, nil }},
}

// open looks at how the archive begins.
func (s *TarSource) open(f *os.File) error {
	head := make([]byte, 512)
	var n int
	seekable := false
	if at, err := f.Seek(0, io.SeekCurrent); err == nil {
		if n, err = f.ReadAt(head, at); err != nil && err != io.EOF {
			return err
		}
		seekable = true
	}
	var r io.Reader = f
	if !seekable {
		b := bufio.NewReaderSize(&patientReader{f, s.o.Stop}, 1<<20)
		p, err := b.Peek(len(head))
		if err != nil && err != io.EOF {
			return err
		}
		n = copy(head, p)
		r = b
	}
	if n == 0 {
		return errors.New("the archive is empty")
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(head[:n], c.magic) {
			continue
		}
		if seekable {
			r = bufio.NewReaderSize(f, 1<<20)
		}
		z, done, err := c.open(r)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if done != nil {
			s.closes = append(s.closes, done)
		}
		s.tr = tar.NewReader(bufio.NewReaderSize(z, 1<<20))
		return nil
	}
	if seekable {
		s.file = f
	}
	s.tr = tar.NewReader(r)
	return nil
}

// CanWait reports whether contents can be read when the archive has been
// listed, without a spool.
func (s *TarSource) CanWait() bool { return s.file != nil }

// Close implements [Source].
func (s *TarSource) Close() error {
	var errs []error
	for i := len(s.closes) - 1; i >= 0; i-- {
		errs = append(errs, s.closes[i]())
	}
	s.closes = nil
	return errors.Join(errs...)
}

// Next implements [Source].
func (s *TarSource) Next(ctx context.Context) (*Entry, error) {
	for {
		h, err := s.tr.Next()
		if err == io.EOF {
			return nil, io.EOF
		}
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, fmt.Errorf("%s: the archive ends early", s.name)
			}
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e, err := s.entry(ctx, h)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", s.name, h.Name, err)
		}
		return e, nil
	}
}

// cleanPath is a name of an archive as a path from the root. What leads out of
// it is refused.
func cleanPath(name string) (string, error) {
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch p {
		case "", ".":
		case "..":
			return "", errors.New("the path leads out of the archive")
		default:
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/"), nil
}

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// entry describes what a header says.
func (s *TarSource) entry(ctx context.Context, h *tar.Header) (*Entry, error) {
	path, err := cleanPath(h.Name)
	if err != nil {
		return nil, err
	}
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		if !s.o.Layer {
			return nil, usage("give --oci if the archives are layers of a container image", "it means that another file is deleted")
		}
		if base == whiteoutOpaque {
			return &Entry{Path: dir, Opaque: true}, nil
		}
		return &Entry{Path: strings.TrimPrefix(dir+"/"+strings.TrimPrefix(base, whiteoutPrefix), "/"), Whiteout: true}, nil
	}
	e := &Entry{
		Path: path, UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size,
		Mtime: disk.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())},
	}
	if uint64(h.Uid) >= 1<<32-1 || uint64(h.Gid) >= 1<<32-1 {
		return nil, fmt.Errorf("owner %d:%d: want numbers below 2^32-1", h.Uid, h.Gid)
	}
	e.Mode = disk.Mode(h.Mode) & disk.ModePerm
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= disk.ModeReg
		if e.Content, err = s.content(ctx, h); err != nil {
			return nil, err
		}
	case tar.TypeLink:
		if e.HardLink, err = cleanPath(h.Linkname); err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		return e, nil
	case tar.TypeSymlink:
		e.Mode, e.Link = e.Mode|disk.ModeLink, h.Linkname
		if e.Mode&disk.ModePerm == 0 {
			e.Mode |= 0o777
		}
	case tar.TypeDir:
		e.Mode |= disk.ModeDir
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= disk.ModeChar
		if h.Typeflag == tar.TypeBlock {
			e.Mode ^= disk.ModeChar | disk.ModeBlock
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d: want numbers below 2^12 and 2^20", h.Devmajor, h.Devminor)
		}
	case tar.TypeFifo:
		e.Mode |= disk.ModeFIFO
	default:
		return nil, fmt.Errorf("it is of type %q, which is not known", h.Typeflag)
	}
	if s.o.NoXattrs {
		return e, nil
	}
	e.Xattrs, err = paxXattrs(h.PAXRecords, e.Mode)
	return e, err
}

// paxXattrs returns the extended attributes and ACLs that pax records hold, as
// star, GNU tar and libarchive write them.
func paxXattrs(records map[string]string, mode disk.Mode) ([]Xattr, error) {
	values := make(map[string][]byte)
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			values[name] = []byte(value)
		}
	}
	for key, value := range records {
		switch {
		case strings.HasPrefix(key, "LIBARCHIVE.xattr."):
			name, err := url.PathUnescape(strings.TrimPrefix(key, "LIBARCHIVE.xattr."))
			if err != nil {
				return nil, fmt.Errorf("record %s: %w", key, err)
			}
			b, err := base64.StdEncoding.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("record %s: %w", key, err)
			}
			if _, ok := values[name]; !ok {
				values[name] = b
			}
		case key == "SCHILY.acl.access" || key == "SCHILY.acl.default":
			name := "system.posix_acl_" + strings.TrimPrefix(key, "SCHILY.acl.")
			acl, err := parseACL(value)
			if err != nil {
				return nil, fmt.Errorf("record %s: %w", key, err)
			}
			if _, ok := values[name]; !ok && len(acl) > 3 || key == "SCHILY.acl.default" && len(acl) > 0 {
				values[name] = disk.WireACL(acl)
			}
		}
	}
	var out []Xattr
	for name, value := range values {
		if storable(name) {
			out = append(out, Xattr{name, value})
		} else if !strings.HasPrefix(name, "system.") {
			return nil, fmt.Errorf("extended attribute %s: ext4 has no such name space", name)
		}
	}
	return out, nil
}

// content is the contents of the entry that tr is at.
func (s *TarSource) content(ctx context.Context, h *tar.Header) (Content, error) {
	if h.Size == 0 {
		return nil, nil
	}
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	switch {
	case s.file != nil && !sparse:
		at, err := s.file.Seek(0, io.SeekCurrent)
		return &sectionContent{f: s.file, at: at, size: h.Size, whole: true}, err
	case s.o.Spool != nil:
		return s.o.Spool.add(ctx, s.tr, h.Size, sparse)
	}
	return &streamContent{r: s.tr, size: h.Size}, nil
}

// streamContent is contents that come once.
type streamContent struct {
	r    io.Reader
	size int64
}

func (c *streamContent) Later() bool                { return false }
func (c *streamContent) Allocated() int64           { return c.size }
func (c *streamContent) Open() (Reader, error)      { return c, nil }
func (c *streamContent) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c *streamContent) Close() error               { return nil }
func (c *streamContent) Skip(off int64) error       { return nil }
func (c *streamContent) Data(off int64) (start, end int64, err error) {
	return off, c.size, nil
}

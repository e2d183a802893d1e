package mkfs

import (
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
	"slices"
	"strings"

	"e4go/ext4/disk"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
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
	tr     *tarReader
	was    unix.Stat_t // of tr.file, when it was opened
	closes []func() error
	own    sections // of tr.file
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

// compressions are known by how a stream begins, not by a name.
var compressions = []struct {
	name   string
	begins []string
	open   func(io.Reader) (io.Reader, func() error, error) // nil: known, but not understood
}{
	{"gzip", []string{"\x1f\x8b\x08"}, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	// All but the first begin with something to be skipped, as pzstd writes it.
	{"zstd", []string{"\x28\xb5\x2f\xfd", "\x50\x2a\x4d\x18", "\x51\x2a\x4d\x18", "\x5d\x2a\x4d\x18", "\x5e\x2a\x4d\x18"}, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, func() error { z.Close(); return nil }, nil
	}},
	{"xz", []string{"\xfd7zXZ\x00"}, func(r io.Reader) (io.Reader, func() error, error) {
		x := &xzReader{packed: r}
		var err error
		x.Reader, err = xz.NewReader(xzInput{x})
		return x, nil, err
	}},
	{"bzip2", []string{"BZh"}, func(r io.Reader) (io.Reader, func() error, error) { return bzip2.NewReader(r), nil, nil }},
	{"compress", []string{"\x1f\x9d"}, nil},
	{"lz4", []string{"\x04\x22\x4d\x18"}, nil},
	{"lzip", []string{"LZIP"}, nil},
	{"lzma", []string{"\x5d\x00\x00"}, nil},
	{"lzop", []string{"\x89LZO"}, nil},
}

// open looks at how the archive begins.
func (s *TarSource) open(f *os.File) error {
	s.tr = &tarReader{}
	var end int64
	if at, err := f.Seek(0, io.SeekCurrent); err == nil {
		if end, err = f.Seek(0, io.SeekEnd); err != nil {
			return err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if end > at { // else there is nothing, or its size is not known
			s.tr.file, s.tr.end, s.tr.at = f, end, at
			s.own = sections{f: f, s: s}
			if err := unix.Fstat(int(f.Fd()), &s.was); err != nil {
				return err
			}
		}
	}
	var in io.Reader = f
	if s.tr.file == nil {
		in = &patientReader{f, s.o.Stop}
	}
	r := bufio.NewReaderSize(in, 128<<10)
	s.tr.r = r
	head, err := r.Peek(tarBlock)
	if err != nil && err != io.EOF {
		return err
	}
	if len(head) == tarBlock && tarChecksum((*[tarBlock]byte)(head)) {
		return nil // whatever name it begins with
	}
	for _, c := range compressions {
		switch {
		case !slices.ContainsFunc(c.begins, func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }):
			continue
		case c.open == nil:
			return fmt.Errorf("it is compressed by %s, which is not understood: want gzip, zstd, xz or bzip2", c.name)
		}
		z, done, err := c.open(r)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if done != nil {
			s.closes = append(s.closes, done)
		}
		s.tr.file, s.tr.at = nil, 0
		s.tr.r = bufio.NewReaderSize(&unpacker{name: c.name, r: z}, 128<<10)
		break
	}
	return nil
}

// An unpacker says who found an error in a compressed stream, and says it
// again to whoever asks once more: not all of them do.
type unpacker struct {
	name string
	r    io.Reader
	err  error
}

func (u *unpacker) Read(p []byte) (n int, err error) {
	if u.err != nil {
		return 0, u.err
	}
	n, u.err = u.r.Read(p)
	switch {
	case errors.Is(u.err, io.ErrUnexpectedEOF):
		u.err = fmt.Errorf("%s: the stream ends early", u.name)
	case u.err != nil && u.err != io.EOF && !strings.HasPrefix(u.err.Error(), u.name):
		u.err = fmt.Errorf("%s: %w", u.name, u.err)
	}
	return n, u.err
}

// An xzReader wants the end of a stream to be there: package xz takes one
// that was cut between two of its blocks for one that is complete.
type xzReader struct {
	io.Reader
	packed io.Reader
	last   [2]byte // of packed, but for the zeros behind it, which may be any number
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p)
	if err == io.EOF && string(x.last[:]) != "YZ" {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// An xzInput is what an xzReader unpacks.
type xzInput struct{ x *xzReader }

func (i xzInput) Read(p []byte) (int, error) {
	n, err := i.x.packed.Read(p)
	whole := bytes.TrimRight(p[:n], "\x00")
	for _, b := range whole[max(0, len(whole)-2):] {
		i.x.last = [2]byte{i.x.last[1], b}
	}
	return n, err
}

// unchanged fails if an archive that is read again is not what it was.
func (s *TarSource) unchanged() error {
	if s.tr.file == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.tr.file.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", s.name, err)
	}
	if st.Size != s.was.Size || st.Mtim != s.was.Mtim || st.Ctim != s.was.Ctim {
		return fmt.Errorf("%s changed while it was being read", s.name)
	}
	return nil
}

// CanWait reports whether contents can be read when the archive has been
// listed, without a spool.
func (s *TarSource) CanWait() bool { return s.tr.file != nil }

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
		h, err := s.tr.next(ctx)
		if err == io.EOF {
			if err := s.unchanged(); err != nil {
				return nil, err
			}
			if err = s.tr.drain(ctx); err == nil {
				return nil, io.EOF
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		e, err := s.entry(ctx, h)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", s.name, h.name, err)
		}
		if e != nil {
			return e, nil
		}
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

// Names of layers that mean something else, by the specification of OCI images
// (layer.md), which has the first two from AUFS. It reserves all names that begin so.
const (
	whiteoutPrefix = ".wh."         // before the name that is deleted
	whiteoutOpaque = ".wh..wh..opq" // deletes all that is in the directory
	whiteoutMeta   = ".wh..wh."     // what AUFS keeps for itself
)

// whiteout describes a path that has a name that is reserved for layers; nil
// if nothing comes of it.
func (s *TarSource) whiteout(dir, base string) (*Entry, error) {
	if !s.o.Layer {
		return nil, usage("give --oci if the archives are layers of a container image", "it means that another file is deleted")
	}
	for name := range strings.SplitSeq(dir, "/") {
		switch {
		case strings.HasPrefix(name, whiteoutMeta):
			return nil, nil
		case strings.HasPrefix(name, whiteoutPrefix):
			return nil, fmt.Errorf("it is in %q, which deletes a file and is no directory", name)
		}
	}
	switch {
	case base == whiteoutOpaque:
		return &Entry{Path: dir, Opaque: true}, nil
	case strings.HasPrefix(base, whiteoutMeta):
		return nil, nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("it deletes %q: %w", name, err)
	}
	return &Entry{Path: strings.TrimPrefix(dir+"/"+name, "/"), Whiteout: true}, nil
}

// entry describes what a header says; nil if it says nothing of a file.
func (s *TarSource) entry(ctx context.Context, h *tarHeader) (*Entry, error) {
	path, err := cleanPath(h.name)
	if err != nil {
		return nil, err
	}
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	if strings.HasPrefix(path, whiteoutPrefix) || strings.Contains(path, "/"+whiteoutPrefix) {
		return s.whiteout(dir, base)
	}
	if path == "" && h.kind != '5' && h.kind != tarDumpDir {
		return nil, errors.New("it is to be the root, and is no directory")
	}
	e := &Entry{Path: path, UID: uint32(h.uid), GID: uint32(h.gid), Size: h.size, Mtime: h.mtime}
	if uint64(h.uid) >= 1<<32-1 || uint64(h.gid) >= 1<<32-1 {
		return nil, fmt.Errorf("owner %d:%d: want numbers below 2^32-1", h.uid, h.gid)
	}
	e.Mode = disk.Mode(h.mode) & disk.ModePerm
	switch h.kind {
	case '0', tarOldFile, '7', 'S':
		if strings.HasSuffix(h.name, "/") {
			e.Mode |= disk.ModeDir // as before there was a type for it
			break
		}
		e.Mode |= disk.ModeReg
		if e.Content, err = s.content(ctx, h); err != nil {
			return nil, err
		}
	case '1':
		if e.HardLink, err = cleanPath(h.link); err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", h.link, err)
		}
		if e.HardLink == "" {
			return nil, fmt.Errorf("hard link to %q: it leads to the root, a directory", h.link)
		}
		return e, nil
	case '2':
		e.Mode, e.Link = disk.ModeLink|0o777, h.link // the kernel knows no other mode
	case '5', tarDumpDir:
		e.Mode |= disk.ModeDir
	case '3', '4':
		if e.Mode |= disk.ModeChar; h.kind == '4' {
			e.Mode |= disk.ModeBlock // which has the bits of the other, too
		}
		e.Major, e.Minor = uint32(h.major), uint32(h.minor)
		if h.major < 0 || h.major >= 1<<12 || h.minor < 0 || h.minor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d: want numbers below 2^12 and 2^20", h.major, h.minor)
		}
	case '6':
		e.Mode |= disk.ModeFIFO
	case tarVolume:
		return nil, errors.New("it begins in another archive: want one of a single volume")
	default:
		return nil, fmt.Errorf("it is of type %q, which is not known", h.kind)
	}
	if s.o.NoXattrs {
		return e, nil
	}
	return e, paxXattrs(e, h.records)
}

// tarXattrName undoes what GNU tar does to names with what records need themselves.
var tarXattrName = strings.NewReplacer("%3D", "=", "%25", "%")

// paxXattrs gives an entry the extended attributes and ACLs that pax records
// hold, as star, GNU tar and libarchive write them.
func paxXattrs(e *Entry, records map[string]string) error {
	values := make(map[string][]byte)
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			values[tarXattrName.Replace(name)] = []byte(value)
		}
	}
	for key, value := range records {
		fail := func(err error) error { return fmt.Errorf("record %s: %w", key, err) }
		name, value := "", []byte(value)
		switch {
		case strings.HasPrefix(key, "LIBARCHIVE.xattr."):
			var err error
			if name, err = url.PathUnescape(strings.TrimPrefix(key, "LIBARCHIVE.xattr.")); err != nil {
				return fail(err)
			}
			if value, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(string(value), "=")); err != nil {
				return fail(err)
			}
		case key == "RHT.security.selinux":
			name, value = selinux, append(value, 0)
		case key == "SCHILY.acl.access", key == "SCHILY.acl.default" && e.Mode.Type() == disk.ModeDir:
			name = "system.posix_acl_" + strings.TrimPrefix(key, "SCHILY.acl.")
			if _, ok := values[name]; ok {
				continue // with numbers for names
			}
			acl, err := parseACL(string(value))
			if err != nil {
				return fail(err)
			}
			value = disk.WireACL(acl)
		default:
			continue
		}
		if _, ok := values[name]; !ok {
			values[name] = value
		}
	}
	for name, value := range values {
		switch {
		case name == aclAccess:
			if done, err := e.applyACL(value); err != nil {
				return fmt.Errorf("extended attribute %s: %w", name, err)
			} else if done {
				continue
			}
		case storable(name):
		case strings.HasPrefix(name, "system."):
			continue // of another file system
		default:
			return usage("give -E no_copy_xattrs to leave extended attributes out", "extended attribute %s: ext4 has no such name space", name)
		}
		e.Xattrs = append(e.Xattrs, Xattr{name, value})
	}
	return nil
}

const (
	aclAccess = "system.posix_acl_access"
	selinux   = "security.selinux"
)

// applyACL gives an entry the mode that goes with its ACL, as the kernel does.
// It reports whether the mode is all that the ACL says.
func (e *Entry) applyACL(wire []byte) (bool, error) {
	acl, err := decodeACL(wire)
	if err != nil {
		return false, err
	}
	var equal bool
	e.Mode, equal = disk.ACLMode(acl, e.Mode)
	return equal, nil
}

// content is the contents of the entry that the reader is at.
func (s *TarSource) content(ctx context.Context, h *tarHeader) (Content, error) {
	if h.size == 0 {
		return nil, nil
	}
	p := wholeFile(h.size)
	if h.parts != nil {
		p = parts{size: h.size, stored: h.stored, list: h.parts}
	}
	switch {
	case s.tr.file != nil:
		return &sectionContent{parts: p, in: &s.own, at: s.tr.at}, nil
	case s.o.Spool != nil:
		return s.o.Spool.add(ctx, s.tr, p)
	}
	return &streamContent{parts: p, s: s}, nil
}

// streamContent is contents that come once.
type streamContent struct {
	parts
	s *TarSource
}

// Later implements [Content].
func (c *streamContent) Later() bool { return false }

// Open implements [Content].
func (c *streamContent) Open() (Reader, error) { return c.reader(c), nil }

// Read reads the parts of the file.
func (c *streamContent) Read(p []byte) (int, error) {
	n, err := c.s.tr.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", c.s.name, err)
	}
	return n, err
}

package ext4

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// IOFS is a file system as io/fs knows it, with its root at the root. It
// implements fs.ReadDirFS, fs.StatFS, fs.ReadLinkFS and fs.ReadFileFS. FileInfo.Sys
// is a *[Stat]. Symbolic links are followed inside the file system.
type IOFS struct{ fs *FS }

// IOFS returns the file system as io/fs knows it.
func (fs *FS) IOFS() IOFS { return IOFS{fs} }

var (
	_ fs.ReadDirFS  = IOFS{}
	_ fs.StatFS     = IOFS{}
	_ fs.ReadLinkFS = IOFS{}
	_ fs.ReadFileFS = IOFS{}
)

// inode finds the inode of name; its error is a *fs.PathError.
func (f IOFS) inode(op, name string, follow bool) (*Inode, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		name = ""
	}
	in, err := f.fs.Resolve(name, follow)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return in, nil
}

// pathError makes err an error of io/fs: the errnos that it has a name for
// are that, others stay themselves.
func pathError(op, name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens the named file or directory.
func (f IOFS) Open(name string) (fs.File, error) {
	in, err := f.inode("open", name, true)
	if err != nil {
		return nil, err
	}
	if in.Type() == disk.ModeDir {
		d, err := f.fs.OpenDir(in)
		if err != nil {
			return nil, pathError("open", name, err)
		}
		return &ioDir{f: f, in: in, name: name, dir: d}, nil
	}
	if in.encrypted() && in.Type() == disk.ModeReg {
		return nil, pathError("open", name, unix.ENOKEY)
	}
	return &ioFile{in: in, name: name}, nil
}

// Stat describes the named file, following a link.
func (f IOFS) Stat(name string) (fs.FileInfo, error) {
	in, err := f.inode("stat", name, true)
	if err != nil {
		return nil, err
	}
	return newFileInfo(name, in), nil
}

// Lstat describes the named file, without following a link.
func (f IOFS) Lstat(name string) (fs.FileInfo, error) {
	in, err := f.inode("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return newFileInfo(name, in), nil
}

// ReadLink returns the target of the named symbolic link.
func (f IOFS) ReadLink(name string) (string, error) {
	in, err := f.inode("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := in.Readlink()
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

// ReadFile returns the contents of the named file.
func (f IOFS) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// Not by the size that the inode claims: memory grows with what was read.
	b, err := io.ReadAll(file)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	return b, nil
}

// ReadDir returns the entries of the named directory, sorted by name.
func (f IOFS) ReadDir(name string) ([]fs.DirEntry, error) {
	in, err := f.inode("readdir", name, true)
	if err != nil {
		return nil, err
	}
	d, err := f.fs.OpenDir(in)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	list, err := (&ioDir{f: f, in: in, name: name, dir: d}).ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

type fileInfo struct {
	name string
	st   Stat
}

func newFileInfo(name string, in *Inode) *fileInfo {
	return &fileInfo{path.Base(name), in.Stat()}
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.st.Size }
func (i *fileInfo) Mode() fs.FileMode  { return fileMode(i.st.Mode) }
func (i *fileInfo) ModTime() time.Time { return time.Unix(i.st.Mtime.Sec, int64(i.st.Mtime.Nsec)) }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return &i.st }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

// fileMode is a st_mode as io/fs has it.
func fileMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	switch disk.Mode(m).Type() {
	case disk.ModeDir:
		out |= fs.ModeDir
	case disk.ModeLink:
		out |= fs.ModeSymlink
	case disk.ModeFIFO:
		out |= fs.ModeNamedPipe
	case disk.ModeSocket:
		out |= fs.ModeSocket
	case disk.ModeChar:
		out |= fs.ModeDevice | fs.ModeCharDevice
	case disk.ModeBlock:
		out |= fs.ModeDevice
	case disk.ModeReg:
	default:
		out |= fs.ModeIrregular
	}
	if m&unix.S_ISUID != 0 {
		out |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		out |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		out |= fs.ModeSticky
	}
	return out
}

type ioFile struct {
	in   *Inode
	name string
	off  int64
}

func (f *ioFile) Stat() (fs.FileInfo, error) { return newFileInfo(f.name, f.in), nil }
func (f *ioFile) Close() error               { return nil }

// Read reads a regular file; devices, FIFOs and sockets are empty in an image.
func (f *ioFile) Read(p []byte) (int, error) {
	if f.in.Type() != disk.ModeReg {
		return 0, io.EOF
	}
	n, err := f.in.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *ioFile) ReadAt(p []byte, off int64) (int, error) {
	if f.in.Type() != disk.ModeReg {
		return 0, io.EOF
	}
	return f.in.ReadAt(p, off)
}

// Seek implements io.Seeker.
func (f *ioFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.in.Size()
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.off = offset
	return offset, nil
}

type ioDir struct {
	f    IOFS
	in   *Inode
	name string
	dir  *Dir
}

func (d *ioDir) Stat() (fs.FileInfo, error) { return newFileInfo(d.name, d.in), nil }
func (d *ioDir) Close() error               { return nil }
func (d *ioDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: unix.EISDIR}
}

// ReadDir returns the next n entries, or all that are left if n is not positive.
func (d *ioDir) ReadDir(n int) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for n <= 0 || len(out) < n {
		e, err := d.dir.Next()
		if err == io.EOF {
			if n > 0 && len(out) == 0 {
				return nil, io.EOF
			}
			break
		}
		if err != nil {
			return out, pathError("readdir", d.name, err)
		}
		if e.Name != "." && e.Name != ".." {
			out = append(out, &ioEntry{d.f.fs, e})
		}
	}
	return out, nil
}

type ioEntry struct {
	fs *FS
	e  DirEntry
}

func (e *ioEntry) Name() string   { return e.e.Name }
func (e *ioEntry) IsDir() bool    { return e.Type().IsDir() }
func (e *ioEntry) String() string { return fs.FormatDirEntry(e) }

// Type is the type that the entry says, or the inode's where entries do not say.
func (e *ioEntry) Type() fs.FileMode {
	m := uint32(e.e.Type.Mode())
	if m == 0 {
		in, err := e.fs.Inode(e.e.Ino)
		if err != nil {
			return fs.ModeIrregular
		}
		m = uint32(in.Type())
	}
	return fileMode(m).Type()
}

func (e *ioEntry) Info() (fs.FileInfo, error) {
	in, err := e.fs.Inode(e.e.Ino)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.e.Name, err)
	}
	return newFileInfo(e.e.Name, in), nil
}

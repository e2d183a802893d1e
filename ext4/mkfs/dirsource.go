package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A DirSource is a directory of the machine, walked in the order of names. It
// needs no privilege but to read. Of the directory itself only times, flags and
// extended attributes are taken: who owns the root of a file system, and who may enter it, is
// not for the place where its contents were put together to say.
//
// Names are looked at, and small files read, by several goroutines; what these
// share is only read, but for noFlags.
type DirSource struct {
	root    string
	fd      *os.File // of root
	xattrs  bool
	stack   []*dirLevel
	started bool
	noFlags sync.Map // by number, the devices whose files have none
	devs    []uint64 // the devices that files are on
	seed    maphash.Seed
}

type dirLevel struct {
	path   string // from the root of the source
	fd     *os.File
	stamp  uint64 // before it was listed
	names  []string
	looked []looked // at the first of names
}

// looked is what can be told of a name without opening it.
type looked struct {
	st     unix.Stat_t
	link   string // where a symbolic link leads
	xattrs []Xattr
	err    error
}

// NewDirSource opens the directory at path. noXattrs leaves extended
// attributes out.
func NewDirSource(path string, noXattrs bool) (*DirSource, error) {
	s := &DirSource{root: path, xattrs: !noXattrs, seed: maphash.MakeSeed()}
	fd, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s.fd = fd
	l := &dirLevel{fd: fd}
	var st unix.Stat_t
	if err = unix.Fstat(int(fd.Fd()), &st); err == nil {
		l.stamp = s.stamp(&st)
		err = s.list(l)
	}
	if err != nil {
		fd.Close()
		return nil, err
	}
	s.stack = append(s.stack, l)
	return s, nil
}

// list reads the names of a directory.
func (s *DirSource) list(l *dirLevel) error {
	names, err := l.fd.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	l.names = names
	return nil
}

// leave goes up from the directory that is being read. It fails if that has
// changed meanwhile.
func (s *DirSource) leave() error {
	l := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	if l.fd != s.fd {
		defer l.fd.Close()
	}
	return s.unchanged(int(l.fd.Fd()), l.path, l.stamp)
}

// stamp is a hash of what tells a file from others, and from itself once it has
// changed: whoever writes to a file can give it any time of writing, but not the one of
// that change.
func (s *DirSource) stamp(st *unix.Stat_t) uint64 {
	return maphash.Comparable(s.seed, struct {
		dev, ino, size, mode int64
		mtime, ctime         unix.Timespec
	}{int64(st.Dev), int64(st.Ino), st.Size, int64(st.Mode), st.Mtim, st.Ctim})
}

// unchanged fails if an open file is not what it was.
func (s *DirSource) unchanged(fd int, path string, was uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return s.failed("stat", path, err)
	}
	if s.stamp(&st) != was {
		return s.changed(path)
	}
	return nil
}

func (s *DirSource) changed(path string) error {
	return fmt.Errorf("%s changed while it was being read", s.full(path))
}

// Close implements [Source]. Contents cannot be opened any more.
func (s *DirSource) Close() error {
	for _, l := range s.stack {
		if l.fd != s.fd {
			l.fd.Close()
		}
	}
	s.stack = nil
	return s.fd.Close()
}

// Next implements [Source].
func (s *DirSource) Next(ctx context.Context) (*Entry, error) {
	if !s.started {
		s.started = true
		root := s.look(int(s.fd.Fd()), "", "")
		e, _, err := s.entry(s.fd, "", "", &root)
		if err != nil {
			return nil, err
		}
		e.Bare = true
		return e, nil
	}
	for len(s.stack) > 0 {
		l := s.stack[len(s.stack)-1]
		if len(l.names) == 0 {
			if err := s.leave(); err != nil {
				return nil, err
			}
			continue
		}
		if len(l.looked) == 0 {
			s.lookAt(l)
		}
		name, found := l.names[0], &l.looked[0]
		l.names[0] = "" // it is no garbage as long as the list has it
		l.names, l.looked = l.names[1:], l.looked[1:]
		e, down, err := s.entry(l.fd, name, l.join(name), found)
		if err != nil {
			return nil, err
		}
		if down != nil {
			if err := s.list(down); err != nil {
				return nil, err
			}
			s.stack = append(s.stack, down)
		}
		return e, nil
	}
	return nil, io.EOF
}

// full is a path of the source as the user would write it.
func (s *DirSource) full(path string) string { return filepath.Join(s.root, path) }

// failed names what could not be done with which file.
func (s *DirSource) failed(op, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %s: it vanished while the directory was being read: %w", op, s.full(path), err)
	}
	return &fs.PathError{Op: op, Path: s.full(path), Err: err}
}

// join is the path of a name in the directory.
func (l *dirLevel) join(name string) string {
	if l.path == "" {
		return name
	}
	return l.path + "/" + name
}

const (
	lookNames  = 256 // names of a directory that are looked at together
	lookAlone  = 16  // fewer are not worth a goroutine
	dirWorkers = 4   // goroutines that look or read: they wait more than they work
)

// lookAt looks at the next names of a directory.
func (s *DirSource) lookAt(l *dirLevel) {
	names := l.names[:min(len(l.names), lookNames)]
	l.looked = make([]looked, len(names))
	dir := int(l.fd.Fd())
	var wg sync.WaitGroup
	share := max(lookAlone, (len(names)+dirWorkers-1)/dirWorkers)
	for from := 0; from < len(names); from += share {
		part := func() {
			for i := from; i < min(from+share, len(names)); i++ {
				l.looked[i] = s.look(dir, names[i], l.join(names[i]))
			}
		}
		if from+share < len(names) {
			wg.Go(part)
		} else {
			part()
		}
	}
	wg.Wait()
}

// look looks at a name of the directory dir, or with no name at the directory itself.
func (s *DirSource) look(dir int, name, path string) (f looked) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Fstatat(dir, name, &f.st, flags); err != nil {
		f.err = s.failed("stat", path, err)
		return f
	}
	if disk.Mode(f.st.Mode).Type() == disk.ModeLink {
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			f.err = s.failed("readlink", path, err)
			return f
		}
		f.link = string(target[:n])
	}
	if s.xattrs {
		f.xattrs, f.err = s.listXattrs(dir, name, path)
	}
	return f
}

// entry describes what was found under a name of the directory dir, or with no name the
// directory itself. down is the directory that it is.
func (s *DirSource) entry(dir *os.File, name, path string, found *looked) (e *Entry, down *dirLevel, err error) {
	if found.err != nil {
		return nil, nil, found.err
	}
	st := &found.st
	e = &Entry{
		Path: path, Mode: disk.Mode(st.Mode), UID: st.Uid, GID: st.Gid, Size: st.Size,
		Mtime: disk.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}, Link: found.link, Xattrs: found.xattrs,
	}
	if st.Nlink > 1 && e.Mode.Type() != disk.ModeDir {
		e.File = FileID{st.Dev, st.Ino}
	}
	switch e.Mode.Type() {
	case disk.ModeDir:
		fd := dir
		if name != "" {
			n, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
				return nil, nil, s.changed(path)
			}
			if err != nil {
				return nil, nil, s.failed("open", path, err)
			}
			fd = os.NewFile(uintptr(n), s.full(path))
			down = &dirLevel{path: path, fd: fd, stamp: s.stamp(st)}
		}
		if e.Flags, e.Project, err = s.attributes(int(fd.Fd()), st.Dev, path); err != nil {
			return nil, nil, err
		}
	case disk.ModeReg:
		c := &fileContent{s: s, path: path, size: st.Size, dev: st.Dev, stamp: s.stamp(st), sparse: st.Blocks*512 < st.Size}
		e.Content = c
		if _, none := s.noFlags.Load(st.Dev); st.Size == 0 && !none { // nobody is going to open it
			r, err := c.openIn(int(dir.Fd()), name)
			if err != nil {
				return nil, nil, err
			}
			e.Flags, e.Project, err = r.Attributes()
			if err = errors.Join(err, r.Close()); err != nil {
				return nil, nil, err
			}
		}
	case disk.ModeChar, disk.ModeBlock:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return e, down, nil
}

// userFlags are the inode flags that are taken over: those that a user can
// set and that say something of the file, not of how it was stored.
const userFlags = disk.FlagSecrm | disk.FlagUnrm | disk.FlagSync | disk.FlagImmutable | disk.FlagAppend | disk.FlagNodump |
	disk.FlagNoatime | disk.FlagJournalData | disk.FlagNotail | disk.FlagDirsync | disk.FlagTopdir | disk.FlagProjInherit | disk.FlagCasefold | disk.FlagDAX

// attributes returns the flags and the project of an open file.
func (s *DirSource) attributes(fd int, dev uint64, path string) (disk.FileFlags, uint32, error) {
	if _, none := s.noFlags.Load(dev); none {
		return 0, 0, nil
	}
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		s.noFlags.Store(dev, true)
		return 0, 0, nil
	case err != nil:
		return 0, 0, s.failed("ioctl FS_IOC_GETFLAGS", path, err)
	}
	project, err := projectOf(fd)
	if err != nil {
		return 0, 0, s.failed("ioctl FS_IOC_FSGETXATTR", path, err)
	}
	return disk.FileFlags(flags) & userFlags, project, nil
}

// listXattrs returns the extended attributes of a file that ext4 can store.
func (s *DirSource) listXattrs(dir int, name, path string) ([]Xattr, error) {
	var small [1024]byte
	names, err := readXattr(small[:], func(b []byte) (int, error) { return listXattrAt(dir, name, b) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, s.failed("listxattr", path, err)
	case len(names) == 0:
		return nil, nil
	}
	get := func(attr string, b []byte) (int, error) { return unix.Fgetxattr(dir, attr, b) }
	if name != "" {
		full := procName(dir, name)
		get = func(attr string, b []byte) (int, error) { return unix.Lgetxattr(full, attr, b) }
	}
	var out []Xattr
	for _, n := range bytes.Split(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		attr := string(n)
		if !storable(attr) {
			continue
		}
		value, err := readXattr(nil, func(b []byte) (int, error) { return get(attr, b) })
		if errors.Is(err, unix.ENODATA) {
			return nil, fmt.Errorf("%s: the extended attribute %s vanished while it was being read", s.full(path), attr)
		}
		if err != nil {
			return nil, s.failed("getxattr "+attr, path, err)
		}
		out = append(out, Xattr{attr, value})
	}
	return out, nil
}

// storable reports whether an xattr is the file's own: others are made up by
// the file system that it is read from.
func storable(name string) bool {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && (rest == "") == p.whole {
			return true
		}
	}
	return false
}

// readXattr calls get with buffers that grow until one is large enough.
func readXattr(buf []byte, get func([]byte) (int, error)) ([]byte, error) {
	for {
		if len(buf) == 0 {
			n, err := get(nil)
			if err != nil || n == 0 {
				return []byte{}, err
			}
			buf = make([]byte, n)
		}
		n, err := get(buf)
		if errors.Is(err, unix.ERANGE) {
			buf = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n:n], nil
	}
}

package fusesrv

import (
	"errors"
	"io"
	"slices"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxStreams is how many listings are kept for their next request. One more
// costs the oldest its place in its directory, which its cookie finds again.
const maxStreams = 64

// maxDamage is how many unreadable places of one directory are gone past.
const maxDamage = 1000

// A stream is a listing between two READDIR requests.
type stream struct {
	ino     disk.Ino
	version uint64 // of the directory: one that has changed may have more to tell
	cookie  uint64 // where the next request must go on for the stream to fit
	dir     *ext4.Dir
	entry   ext4.DirEntry // read and not yet sent; no name: none
	end     error         // how the listing ended, io.EOF or worse; nil: it has not
	damage  int           // places gone past
	first   error         // what was wrong with the first of them
}

// next returns the next entry without going past it. Damaged parts of the
// directory are gone past, so that what is left of it is seen; what was wrong
// stands at the end, in io.EOF's place.
func (s *stream) next() (*ext4.DirEntry, error) {
	for s.entry.Name == "" && s.end == nil {
		e, err := s.dir.Next()
		switch {
		case err == nil:
			s.entry = e
		case err == io.EOF:
			s.end = err
			if s.first != nil {
				s.end = s.first
			}
		default:
			if s.first == nil {
				s.first = err
			}
			if s.damage++; s.damage == maxDamage || !errors.Is(err, disk.ErrCorrupt) {
				s.end = s.first
			}
		}
	}
	if s.entry.Name != "" {
		return &s.entry, nil
	}
	return nil, s.end
}

// sent goes past the entry that next has returned.
func (s *stream) sent() {
	s.cookie = s.entry.Cookie
	s.entry = ext4.DirEntry{}
}

// dirStreams keeps listings, the oldest first. A listing in use is not in it,
// so each is used by one request at a time.
type dirStreams struct {
	mu   sync.Mutex
	list []*stream // guarded by mu: at most maxStreams
}

// take removes and returns the stream that goes on at cookie, or nil.
func (d *dirStreams) take(ino disk.Ino, cookie uint64) *stream {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.list, func(s *stream) bool { return s.ino == ino && s.cookie == cookie })
	if i < 0 {
		return nil
	}
	s := d.list[i]
	d.list = slices.Delete(d.list, i, i+1)
	return s
}

// keep adds s, which the caller uses no more.
func (d *dirStreams) keep(s *stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == maxStreams {
		d.list = slices.Delete(d.list, 0, 1)
	}
	d.list = append(d.list, s)
}

func (d *dirStreams) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = nil
}

// OpenDir is declined, which makes the kernel cache listings and ask no more;
// an old one is told to cache.
func (r *rawFS) OpenDir(_ <-chan struct{}, i *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if r.declineOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReleaseDir has nothing to release.
func (r *rawFS) ReleaseDir(*fuse.ReleaseIn) {}

// ReadDir lists names and types from a cookie on.
func (r *rawFS) ReadDir(_ <-chan struct{}, i *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(i, func(e *ext4.DirEntry) bool {
		return out.AddDirEntry(direntry(e))
	})
}

// ReadDirPlus is ReadDir and a Lookup of each name. An inode that cannot be
// had comes without attributes: to look it up is what fails then, not the listing.
func (r *rawFS) ReadDirPlus(_ <-chan struct{}, i *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	var files []listed
	status := r.list(i, func(e *ext4.DirEntry) bool {
		entry := out.AddDirLookupEntry(direntry(e))
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." || e.Ino == disk.RootIno { // the kernel takes none of these
			return true
		}
		in, err := r.fs.Inode(e.Ino)
		if err != nil {
			return true
		}
		st := r.stat(in)
		if checkAttr(in, &st) != nil {
			return true
		}
		if r.nodes.told(e.Ino) != nil {
			return true
		}
		r.fillEntry(in, &st, entry)
		out.FixMode(st.Mode)
		if in.Type() == disk.ModeReg && st.Size > 0 && st.Size <= smallFile {
			files = append(files, listed{e.Ino, e.Name})
		}
		return true
	})
	r.ahead.listed(inoOf(i.NodeId), i.Offset == 0, files)
	return status
}

func direntry(e *ext4.DirEntry) fuse.DirEntry {
	return fuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: uint32(e.Type.Mode()), Off: e.Cookie}
}

// list gives entries to add until it refuses one. The error at the end of a
// directory waits for a request of its own, so that what stands before it is seen.
func (r *rawFS) list(i *fuse.ReadIn, add func(*ext4.DirEntry) bool) fuse.Status {
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	r.atimes.accessed(in, i.Flags)
	ino, version := in.Ino(), in.Stat().Version
	s := r.dirs.take(ino, i.Offset)
	if s == nil || s.version != version {
		d, err := r.fs.OpenDir(in)
		if err != nil {
			return r.status(err)
		}
		d.Seek(i.Offset)
		s = &stream{ino: ino, version: version, cookie: i.Offset, dir: d}
	}
	for n := 0; ; n++ {
		e, err := s.next()
		if err != nil {
			if n == 0 && err != io.EOF {
				return r.status(err)
			}
			break
		}
		if !add(e) {
			if n == 0 {
				return fuse.EINVAL // an empty answer would be the end of the directory
			}
			break
		}
		s.sent()
	}
	if s.cookie != 0 {
		r.dirs.keep(s)
	}
	return fuse.OK
}

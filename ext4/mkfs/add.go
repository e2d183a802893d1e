package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"e4go/ext4/disk"
)

// A Builder takes the entries of sources into a tree and gives their contents a
// place: at once, when the volume exists and the content cannot wait; else later.
//
//	Scan... --> Fit --> Write            the size follows from the contents
//	[Scan...] --> Resolve --> Write...   the size is given
//
// It belongs to one goroutine, but for [Builder.Stats].
type Builder struct {
	t       *tree
	v       *volume // nil until the size is known
	w       *dataWriter
	ahead   *readAhead
	direct  bool // contents need not wait for other entries
	o       *Options
	change  func(*Entry)
	stats   *counters
	sums    sums
	others  others
	lastDir string              // the last directory that was looked up
	lastID  nodeID              // 0 is none
	newest  int64               // the time of the newest entry
	aliases map[nodeID][]nodeID // of what has several names; nil until it is needed

	// Of the source that is being read, to tell what comes from those before.
	first   nodeID          // its first new node
	touched map[nodeID]bool // older nodes that it has named
	files   map[FileID]nodeID
}

// NewBuilder returns a builder of a tree that has nothing but lost+found. change,
// if not nil, may change owners, mode and times of each entry before it is taken.
func NewBuilder(o Options, change func(*Entry)) (*Builder, error) {
	f := &Builder{t: newTree(), o: &o, change: change, stats: &counters{}, sums: sums{plains: fileSums{}, sparses: fileSums{}}}
	err := f.root()
	f.first = nodeID(f.t.nodes.n)
	return f, err
}

// HashContents makes the builder sum contents for the content hash of [Result].
func (f *Builder) HashContents() { f.sums.contents = true }

// HashFiles makes the builder sum the contents of each file for [Builder.Manifest].
func (f *Builder) HashFiles() { f.sums.files = true }

// Scan takes all entries of a source. Its contents must be such that can wait.
func (f *Builder) Scan(ctx context.Context, src Source) error { return f.addAll(ctx, src) }

// Stats say how far a builder has come.
type Stats struct {
	Entries uint64 // that were read
	Bytes   uint64 // of contents that were written, holes not counted
	Total   uint64 // of contents that are known of
}

// counters are the Stats while they grow.
type counters struct{ entries, bytes, total atomic.Uint64 }

// Stats may be called from any goroutine at any time.
func (f *Builder) Stats() Stats {
	c := f.stats
	return Stats{c.entries.Load(), c.bytes.Load(), c.total.Load()}
}

// Counts are of what is in a tree, without its root and lost+found.
type Counts struct{ Files, Dirs, Others, HardLinks uint64 }

// Counts counts what has been taken.
func (f *Builder) Counts() (c Counts) {
	f.t.walk(func(id nodeID) error {
		n := f.t.node(id)
		switch {
		case n.state&nodeAlias != 0:
			c.HardLinks++
		case n.mode.Type() == disk.ModeReg:
			c.Files++
		case n.mode.Type() == disk.ModeDir:
			c.Dirs++
		default:
			c.Others++
		}
		return nil
	})
	c.Dirs -= 2
	return c
}

// addAll adds all entries of a source.
func (f *Builder) addAll(ctx context.Context, src Source) error {
	f.first, f.touched, f.files = nodeID(f.t.nodes.n), make(map[nodeID]bool), make(map[FileID]nodeID)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := src.Next(ctx)
		if err == io.EOF {
			f.files = nil
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.add(ctx, e); err != nil {
			return err
		}
	}
}

// errPath says what is wrong with an entry.
func errPath(path string, format string, args ...any) error {
	return fmt.Errorf("%s: %w", shownPath(path), fmt.Errorf(format, args...))
}

func shownPath(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

// add adds one entry. A later entry of the same path takes the place of an
// earlier one; a directory keeps what is in it.
func (f *Builder) add(ctx context.Context, e *Entry) error {
	if e.Whiteout || e.Opaque {
		return f.whiteout(e)
	}
	if first, ok := f.files[e.File]; ok {
		e = &Entry{Path: e.Path, HardLink: f.t.path(first)}
	}
	if f.change != nil {
		f.change(e)
	}
	f.stats.entries.Add(1)
	id, err := f.place(e)
	if err != nil {
		return err
	}
	if e.File != (FileID{}) {
		f.files[e.File] = id
	}
	if id < f.first {
		f.touched[id] = true
	}
	if e.HardLink != "" {
		return nil
	}
	n := f.t.node(id)
	if !e.Bare {
		n.mode, n.uid, n.gid = e.Mode, e.UID, e.GID
	}
	n.flags, n.project = e.Flags, e.Project
	n.mtime, n.nsec = e.Mtime.Sec, e.Mtime.Nsec
	f.newest = max(f.newest, n.mtime)
	n.state |= nodeExplicit
	if e.Bare && f.o.RootSELinux != "" {
		e.Xattrs = slices.DeleteFunc(e.Xattrs, func(x Xattr) bool { return x.Name == selinux })
		e.Xattrs = append(e.Xattrs, Xattr{selinux, append([]byte(f.o.RootSELinux), 0)})
	}
	if n.xattrs, err = f.t.xattrSet(e.Xattrs); err != nil {
		return errPath(e.Path, "%w", err)
	}
	switch e.Mode.Type() {
	case disk.ModeDir:
	case disk.ModeReg:
		f.stats.total.Add(uint64(max(0, e.Size)))
		n.size = e.Size
		if e.Size < 0 {
			return errPath(e.Path, "its size is %d", e.Size)
		}
		if e.Size == 0 {
			return nil
		}
		if f.v == nil || e.Content.Later() {
			if !e.Content.Later() {
				panic("mkfs: a stream without a volume to go to")
			}
			if f.direct {
				return f.ahead.write(ctx, id, e.Content)
			}
			f.keep(id, e.Content)
			return nil
		}
		return f.write(ctx, id, e.Content)
	case disk.ModeLink:
		if e.Link == "" || len(e.Link) >= 4096 {
			return errPath(e.Path, "the target of the symbolic link has %d bytes, want 1 to 4095", len(e.Link))
		}
		if strings.Contains(e.Link, "\x00") {
			return errPath(e.Path, "the target of the symbolic link has a NUL")
		}
		n.size = int64(len(e.Link))
		n.where = f.t.text.add([]byte(e.Link))
	case disk.ModeChar, disk.ModeBlock:
		n.where = uint64(e.Major)<<32 | uint64(e.Minor)
	case disk.ModeFIFO, disk.ModeSocket:
	default:
		return errPath(e.Path, "its mode is %#o, which is of no known type", e.Mode)
	}
	return nil
}

// place returns the node for an entry's path, made new unless both what is there and the
// entry are directories.
func (f *Builder) place(e *Entry) (nodeID, error) {
	path := strings.Trim(e.Path, "/")
	if path == "" {
		if e.Mode.Type() != disk.ModeDir || e.HardLink != "" {
			return 0, errPath(e.Path, "the root is no directory")
		}
		return rootNode, nil
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	parent, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	if err := checkName(name); err != nil {
		return 0, errPath(e.Path, "%w", err)
	}
	target, err := f.linked(e)
	if err != nil {
		return 0, err
	}
	if old := f.t.find(parent, []byte(name)); old != 0 {
		o := f.t.node(old)
		switch {
		case e.HardLink != "" && f.t.target(old) == target:
			return old, nil // it is that already
		case e.HardLink == "" && o.mode.Type() == disk.ModeDir && e.Mode.Type() == disk.ModeDir:
			return old, nil
		case old == lostFoundNode:
			return 0, errPath(e.Path, "every file system has a directory of this name")
		}
		f.forget(old)
		if target, err = f.linked(e); err != nil { // it was below old
			return 0, err
		}
	}
	id, err := f.t.add(parent, []byte(name))
	if err != nil {
		return 0, err
	}
	if target != 0 {
		n := f.t.node(id)
		n.state |= nodeAlias | nodeExplicit
		n.mode = f.t.node(target).mode
		n.where = uint64(target)
		if f.aliases != nil {
			f.aliases[target] = append(f.aliases[target], id)
		}
		f.t.node(target).links++
		if f.t.node(target).links > maxLinks {
			return 0, errPath(e.Path, "its inode has more than %d names", maxLinks)
		}
	}
	return id, nil
}

// maxLinks is EXT4_LINK_MAX.
const maxLinks = 65000

var errNoSuchEntry = errors.New("no such entry before it")

// linked returns the node that an entry is to be another name of, 0 if it is none.
func (f *Builder) linked(e *Entry) (nodeID, error) {
	if e.HardLink == "" {
		return 0, nil
	}
	id, err := f.lookup(e.HardLink)
	if err != nil {
		return 0, errPath(e.Path, "hard link to %s: %w", e.HardLink, err)
	}
	if id = f.t.target(id); f.t.node(id).mode.Type() == disk.ModeDir {
		return 0, errPath(e.Path, "hard link to %s, a directory", e.HardLink)
	}
	return id, nil
}

// lookup finds the node of a path.
func (f *Builder) lookup(path string) (nodeID, error) {
	path = strings.Trim(path, "/")
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	id, err := f.existing(dir)
	if err != nil || name == "" {
		return id, err
	}
	if id = f.t.find(id, []byte(name)); id == 0 {
		return 0, errNoSuchEntry
	}
	return id, nil
}

// dir returns the directory of a path. Those that have not been named yet are
// made, with the time of the file system.
func (f *Builder) dir(path string) (nodeID, error) {
	if path == f.lastDir && f.lastID != 0 {
		return f.lastID, nil
	}
	hops := maxHops
	id, err := f.follow(rootNode, path, true, &hops)
	if err != nil {
		return 0, errPath(path, "%w", err)
	}
	f.lastDir, f.lastID = path, id
	return id, nil
}

// existing returns the directory of a path, if there is one.
func (f *Builder) existing(path string) (nodeID, error) {
	hops := maxHops
	return f.follow(rootNode, path, false, &hops)
}

// maxHops is how many symbolic links a path may lead over, as in the kernel.
const maxHops = 40

// follow goes down a path of directories from id on, and makes those that are
// not there. Symbolic links lead on within the tree, as they do where an archive is unpacked.
func (f *Builder) follow(id nodeID, path string, create bool, hops *int) (nodeID, error) {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if name == "." || name == ".." {
			if create { // only links may have these
				return 0, checkName(name)
			}
			if name == ".." {
				id = f.t.node(id).parent
			}
			continue
		}
		c := f.t.find(id, []byte(name))
		if c == 0 && !create {
			return 0, errNoSuchEntry
		}
		if c == 0 {
			if err := checkName(name); err != nil {
				return 0, err
			}
			var err error
			if c, err = f.t.add(id, []byte(name)); err != nil {
				return 0, err
			}
			f.t.node(c).mode = disk.ModeDir | 0o755
		}
		switch n := f.t.node(f.t.target(c)); n.mode.Type() {
		case disk.ModeDir:
			id = c
		case disk.ModeLink:
			to := string(f.t.targetOf(n))
			if *hops--; *hops < 0 {
				return 0, fmt.Errorf("%s: the symbolic links lead in circles", f.t.path(c))
			}
			if strings.HasPrefix(to, "/") {
				id = rootNode
			}
			next, err := f.follow(id, to, false, hops)
			if err != nil {
				return 0, fmt.Errorf("%s is a symbolic link to %s: %w", f.t.path(c), to, err)
			}
			id = next
		default:
			return 0, fmt.Errorf("%s is no directory", f.t.path(c))
		}
	}
	return id, nil
}

// checkName refuses what cannot be the name of an entry.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is no name of an entry", name)
	case len(name) > disk.MaxNameLen:
		return fmt.Errorf("the name has %d bytes, at most %d are allowed", len(name), disk.MaxNameLen)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("the name %q has a slash or a NUL", name)
	}
	return nil
}

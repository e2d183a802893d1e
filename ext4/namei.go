package ext4

import (
	"errors"
	"fmt"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one path may lead through (MAXSYMLINKS).
const maxLinks = 40

// maxPath is PATH_MAX: the target of a link that is followed is shorter.
const maxPath = 4096

// Lookup returns the inode that name stands for in directory dir. It fails
// with unix.ENOENT, ENOTDIR or ENAMETOOLONG, or with a *disk.CorruptError. In
// an encrypted directory the names are those that a listing without the key shows.
func (fs *FS) Lookup(dir *Inode, name string) (in *Inode, err error) {
	err = dir.stable(func(now *Inode) error {
		ino, err := now.lookup(name)
		if err == nil {
			in, err = fs.Inode(ino)
		}
		if err == nil {
			err = now.judgeEntry(name, in)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// judgeEntry reports an entry that names an inode that no name may lead to: one that is deleted,
// or that the file system has for itself (__ext4_iget, check_igot_inode).
func (dir *Inode) judgeEntry(name string, in *Inode) error {
	switch {
	case in.disk.Links == 0:
		return dir.badEntry(name, in.ino, "an inode that is not deleted")
	case in.internal():
		return dir.badEntry(name, in.ino, "an inode that is a user's")
	}
	return nil
}

// LookupIno is [FS.Lookup] without reading the inode that was found.
func (fs *FS) LookupIno(dir *Inode, name string) (ino disk.Ino, err error) {
	err = dir.stable(func(now *Inode) (err error) {
		ino, err = now.lookup(name)
		return err
	})
	return ino, err
}

func (dir *Inode) lookup(name string) (disk.Ino, error) {
	if dir.Type() != disk.ModeDir {
		return 0, unix.ENOTDIR
	}
	switch name {
	case ".":
		return dir.ino, nil
	case "..":
		return dir.parent()
	}
	p, err := dir.find(name)
	return p.ino, err
}

// direntPlace is an entry of a directory, and where it stands.
type direntPlace struct {
	ino   disk.Ino // 0: nowhere
	kind  disk.FileType
	block disk.LBlock // of the directory; 0 in an inline one
	off   int         // byte of the block, or of the inline data
	leaf  bool        // nowhere, and block is the one leaf where it belongs
}

// find returns the entry that name stands for in directory dir (ext4_find_entry).
func (dir *Inode) find(name string) (found direntPlace, err error) {
	fs := dir.fs
	m, err := dir.matcher(name)
	if err != nil {
		return found, err
	}
	each := func(e disk.Dirent, stored, _ []byte, off int) bool {
		if m.match(stored) {
			found.ino, found.kind, found.off = e.Ino, e.Type, off
		}
		return found.ino == 0
	}
	switch {
	case dir.HasInlineData():
		err = dir.inlineEntries(each)
	case dir.disk.Flags.Has(disk.FlagIndex) && fs.sb.Compat.Has(disk.CompatDirIndex) && m.hashed:
		err = dir.lookupTree(m.hash, &found, each)
		// The hash of a folded name depends on the tables that whoever stored it
		// had: what is not where it should be may be elsewhere.
		if err == errBadIndex || err == nil && found.ino == 0 && dir.foldFallback() {
			found.leaf = false
			err = dir.lookupLinear(&found, each)
		}
	default:
		err = dir.lookupLinear(&found, each)
	}
	switch { // ext4_lookup
	case found.ino == dir.ino:
		return direntPlace{}, dir.badEntry(name, found.ino, "another inode than the directory itself")
	case found.ino != 0 && found.ino < fs.sb.FirstIno && found.ino != disk.RootIno:
		return direntPlace{}, dir.badEntry(name, found.ino, fmt.Sprintf("%d or more: the ones before are reserved", fs.sb.FirstIno))
	case found.ino != 0:
		return found, nil
	}
	if err == nil {
		err = unix.ENOENT
	}
	return direntPlace{block: found.block, leaf: found.leaf && err == unix.ENOENT}, err
}

// badEntry reports the entry name, which names an inode that it may not.
func (in *Inode) badEntry(name string, ino disk.Ino, want string) error {
	return &disk.CorruptError{Struct: "directory", Num: uint64(in.ino), Block: in.block, Off: in.off,
		Field: fmt.Sprintf("entry %q", name), Have: fmt.Sprintf("inode %d", ino), Want: want}
}

// errBadIndex says that the index of a directory cannot be used, so that all
// blocks have to be searched (ERR_BAD_DX_DIR).
var errBadIndex = errors.New("directory index unusable")

// maxCollisionLeaves is how many leaves are searched for names of one hash. A
// tree that claims more leads to the same ones again and again.
const maxCollisionLeaves = 1 << 14

// lookupTree searches the leaves that may hold names with the hash.
func (in *Inode) lookupTree(hash uint32, found *direntPlace, each func(e disk.Dirent, name, raw []byte, off int) bool) error {
	w, err := in.dxWalk(hash)
	if errors.Is(err, disk.ErrCorrupt) {
		return errBadIndex
	}
	if err != nil {
		return err
	}
	for i := range maxCollisionLeaves {
		leaf, err := w.leaf()
		if err == nil {
			found.block, found.leaf = leaf, i == 0
			err = in.blockEntries(leaf, each)
		}
		if err != nil || found.ino != 0 {
			return err
		}
		// Names with this hash go on in the next leaf only if its own hash says so.
		more, continued, err := w.advance()
		if err != nil || !more || !continued || w.hash()&^1 != hash {
			return err
		}
	}
	return w.tooManyLeaves()
}

// hash is the hash where the walk stands.
func (w *dxWalk) hash() uint32 {
	for i := len(w.frames) - 1; i >= 0; i-- {
		if f := w.frames[i]; f.at > 0 {
			return f.node.Entry(f.at).Hash
		}
	}
	return 0
}

// lookupLinear searches all blocks. It goes on behind a block that cannot be
// read, and returns the first error if the name is nowhere else.
func (in *Inode) lookupLinear(found *direntPlace, each func(e disk.Dirent, name, raw []byte, off int) bool) error {
	var first error
	seen := make(map[disk.PBlock]bool)
	blocks := uint64(max(in.Size(), 0)) >> in.fs.sb.BlockBits()
	for b, errs := uint64(0), 0; b < min(blocks, maxLogical) && found.ino == 0 && errs < maxDirErrors; b++ {
		m, err := in.mapOnce(disk.LBlock(b))
		if err == nil && m.State != MapWritten {
			b = m.End() - 1
			continue
		}
		end := err != nil // the map itself
		if err == nil {
			phys := m.Physical + disk.PBlock(b-uint64(m.Logical))
			if seen[phys] {
				err = in.mappedTwice(disk.LBlock(b), phys)
			} else {
				seen[phys] = true
				found.block = disk.LBlock(b)
				err = in.blockEntries(disk.LBlock(b), each)
			}
		}
		if err != nil {
			errs++
			if first == nil {
				first = err
			}
		}
		if end {
			break
		}
	}
	return first
}

// Root returns the root directory. It fails with a *disk.CorruptError where there is none
// (ext4_fill_super).
func (fs *FS) Root() (*Inode, error) {
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		return nil, err
	}
	if root.Type() != disk.ModeDir || root.disk.Size == 0 {
		return nil, &disk.CorruptError{Struct: "root inode", Num: uint64(root.ino), Block: root.block, Off: root.off, Field: "i_mode",
			Have: fmt.Sprintf("%#o, of %d bytes", root.disk.Mode, root.disk.Size), Want: "a directory that is not empty"}
	}
	return root, nil
}

// Resolve returns the inode at path, which starts at the root of the file
// system with or without a slash. Symbolic links on the way are followed
// inside the file system; the last one only if followLast is set. It fails as
// [FS.Lookup] does, with the part of the path that failed, and with ELOOP.
func (fs *FS) Resolve(path string, followLast bool) (*Inode, error) {
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		return nil, err
	}
	links := 0
	return fs.resolve(root, root, path, "", followLast, &links)
}

func (fs *FS) resolve(root, at *Inode, path, done string, followLast bool, links *int) (*Inode, error) {
	if strings.HasPrefix(path, "/") {
		at = root
	}
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	for i, name := range parts {
		fail := func(err error) error { return fmt.Errorf("%s/%s: %w", done, strings.Join(parts[:i+1], "/"), err) }
		if name == ".." && at.ino == disk.RootIno {
			continue // whatever its entry .. says
		}
		next, err := fs.Lookup(at, name)
		if err != nil {
			return nil, fail(err)
		}
		last := i == len(parts)-1 && !strings.HasSuffix(path, "/")
		if next.Type() == disk.ModeLink && (!last || followLast) {
			if *links++; *links > maxLinks {
				return nil, fail(unix.ELOOP)
			}
			target, err := next.Readlink()
			if err == nil && len(target) >= maxPath {
				err = unix.ENAMETOOLONG
			}
			if err != nil {
				return nil, fail(err)
			}
			if next, err = fs.resolve(root, at, target, done+"/"+strings.Join(parts[:i+1], "/")+" -> ", true, links); err != nil {
				return nil, err
			}
		}
		at = next
	}
	if strings.HasSuffix(path, "/") && at.Type() != disk.ModeDir {
		return nil, fmt.Errorf("%s: %w", path, unix.ENOTDIR)
	}
	return at, nil
}

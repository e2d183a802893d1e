package ext4_test

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A namer changes names, by paths without a leading slash. Three are compared:
// ours, the kernel's, and a plain model in memory.
type namer interface {
	create(p string, mode uint32) error
	mknod(p string, mode uint32, major, minor uint32) error
	mkdir(p string, mode uint32) error
	symlink(target, p string) error
	link(old, p string) error
	unlink(p string) error
	rmdir(p string) error
	rename(old, p string, flags uint) error
	stat(p string) (mode uint32, nlink uint64, target string, err error)
}

// ours is package ext4 as a namer.
type ours struct {
	fs *ext4.FS
	c  ext4.Caller
}

func (o ours) parent(p string) (disk.Ino, string, error) {
	dir, name := path.Split(p)
	in, err := o.fs.Resolve(dir, true)
	if err != nil {
		return 0, "", err
	}
	return in.Ino(), name, nil
}

func (o ours) create(p string, mode uint32) error {
	dir, name, err := o.parent(p)
	if err == nil {
		_, err = o.fs.Create(context.Background(), o.c, dir, name, disk.Mode(mode))
	}
	return err
}

func (o ours) mknod(p string, mode, major, minor uint32) error {
	dir, name, err := o.parent(p)
	if err == nil {
		_, err = o.fs.Mknod(context.Background(), o.c, dir, name, disk.Mode(mode), major, minor)
	}
	return err
}

func (o ours) mkdir(p string, mode uint32) error {
	dir, name, err := o.parent(p)
	if err == nil {
		_, err = o.fs.Mkdir(context.Background(), o.c, dir, name, disk.Mode(mode))
	}
	return err
}

func (o ours) symlink(target, p string) error {
	dir, name, err := o.parent(p)
	if err == nil {
		_, err = o.fs.Symlink(context.Background(), o.c, dir, name, target)
	}
	return err
}

func (o ours) link(old, p string) error {
	in, err := o.fs.Resolve(old, false)
	if err != nil {
		return err
	}
	dir, name, err := o.parent(p)
	if err == nil {
		err = o.fs.Link(context.Background(), o.c, in.Ino(), dir, name)
	}
	return err
}

func (o ours) unlink(p string) error {
	dir, name, err := o.parent(p)
	if err == nil {
		err = o.fs.Unlink(context.Background(), o.c, dir, name)
	}
	return err
}

func (o ours) rmdir(p string) error {
	dir, name, err := o.parent(p)
	if err == nil {
		err = o.fs.Rmdir(context.Background(), o.c, dir, name)
	}
	return err
}

func (o ours) rename(old, p string, flags uint) error {
	dir, name, err := o.parent(old)
	if err != nil {
		return err
	}
	newDir, newName, err := o.parent(p)
	if err == nil {
		err = o.fs.Rename(context.Background(), o.c, dir, name, newDir, newName, flags)
	}
	return err
}

func (o ours) stat(p string) (uint32, uint64, string, error) {
	in, err := o.fs.Resolve(p, false)
	if err != nil {
		return 0, 0, "", err
	}
	st, target := in.Stat(), ""
	if in.Type() == disk.ModeLink {
		target, err = in.Readlink()
	}
	return st.Mode, uint64(st.Nlink), target, err
}

// kernel is a mounted file system as a namer.
type kernel struct{ root string }

func (k kernel) at(p string) string { return k.root + "/" + p }

func (k kernel) create(p string, mode uint32) error { return unix.Mknod(k.at(p), mode, 0) }
func (k kernel) mknod(p string, mode, major, minor uint32) error {
	return unix.Mknod(k.at(p), mode, int(unix.Mkdev(major, minor)))
}
func (k kernel) mkdir(p string, mode uint32) error { return unix.Mkdir(k.at(p), mode) }
func (k kernel) symlink(target, p string) error    { return unix.Symlink(target, k.at(p)) }
func (k kernel) link(old, p string) error          { return unix.Link(k.at(old), k.at(p)) }
func (k kernel) unlink(p string) error             { return unix.Unlink(k.at(p)) }
func (k kernel) rmdir(p string) error              { return unix.Rmdir(k.at(p)) }
func (k kernel) rename(old, p string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, k.at(old), unix.AT_FDCWD, k.at(p), flags)
}
func (k kernel) stat(p string) (uint32, uint64, string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(k.at(p), &st); err != nil {
		return 0, 0, "", err
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, _ = os.Readlink(k.at(p))
	}
	return st.Mode, uint64(st.Nlink), target, nil
}

// model is a file system that has names and nothing else.
type model struct {
	root *modelNode
	fold func(string) string
}

type modelNode struct {
	mode    uint32
	nlink   uint64
	target  string
	entries map[string]*modelEntry // of a directory, by folded name
}

type modelEntry struct {
	name string
	node *modelNode
}

func newModel(fold func(string) string) *model {
	return &model{&modelNode{mode: unix.S_IFDIR | 0o755, nlink: 2, entries: map[string]*modelEntry{}}, fold}
}

func (n *modelNode) isDir() bool { return n.entries != nil }

// resolve returns what is at p. No symbolic link here leads anywhere.
func (m *model) resolve(p string, follow bool) (*modelNode, error) {
	at := m.root
	for name := range strings.SplitSeq(p, "/") {
		if name == "" {
			continue
		}
		if at.target != "" {
			return nil, unix.ENOENT
		}
		if !at.isDir() {
			return nil, unix.ENOTDIR
		}
		if len(name) > 255 {
			return nil, unix.ENAMETOOLONG
		}
		e := at.entries[m.fold(name)]
		if e == nil {
			return nil, unix.ENOENT
		}
		at = e.node
	}
	if follow && at.target != "" {
		return nil, unix.ENOENT
	}
	return at, nil
}

// parent returns the directory of a path, the key of the name in it, and what
// is there.
func (m *model) parent(p string) (dir *modelNode, key string, e *modelEntry, err error) {
	head, name := path.Split(p)
	if dir, err = m.resolve(head, true); err != nil {
		return
	}
	if !dir.isDir() {
		return nil, "", nil, unix.ENOTDIR
	}
	if len(name) > 255 {
		return nil, "", nil, unix.ENAMETOOLONG
	}
	key = m.fold(name)
	return dir, key, dir.entries[key], nil
}

func (m *model) add(p string, n *modelNode) error {
	dir, key, e, err := m.parent(p)
	if err != nil {
		return err
	}
	if e != nil {
		return unix.EEXIST
	}
	dir.entries[key] = &modelEntry{path.Base(p), n}
	if n.isDir() {
		dir.nlink++
	}
	return nil
}

func (m *model) create(p string, mode uint32) error {
	return m.add(p, &modelNode{mode: mode, nlink: 1})
}
func (m *model) mknod(p string, mode, _, _ uint32) error {
	return m.add(p, &modelNode{mode: mode, nlink: 1})
}
func (m *model) mkdir(p string, mode uint32) error {
	return m.add(p, &modelNode{mode: unix.S_IFDIR | mode, nlink: 2, entries: map[string]*modelEntry{}})
}
func (m *model) symlink(target, p string) error {
	return m.add(p, &modelNode{mode: unix.S_IFLNK | 0o777, nlink: 1, target: target})
}

func (m *model) link(old, p string) error {
	n, err := m.resolve(old, false)
	if err != nil {
		return err
	}
	_, _, e, err := m.parent(p)
	switch {
	case err != nil:
		return err
	case e != nil:
		return unix.EEXIST
	case n.isDir():
		return unix.EPERM
	}
	n.nlink++
	return m.add(p, n)
}

func (m *model) unlink(p string) error {
	dir, key, e, err := m.parent(p)
	switch {
	case err != nil:
		return err
	case e == nil:
		return unix.ENOENT
	case e.node.isDir():
		return unix.EISDIR
	}
	delete(dir.entries, key)
	e.node.nlink--
	return nil
}

func (m *model) rmdir(p string) error {
	dir, key, e, err := m.parent(p)
	switch {
	case err != nil:
		return err
	case e == nil:
		return unix.ENOENT
	case !e.node.isDir():
		return unix.ENOTDIR
	case len(e.node.entries) > 0:
		return unix.ENOTEMPTY
	}
	delete(dir.entries, key)
	dir.nlink--
	return nil
}

func (n *modelNode) has(x *modelNode) bool {
	if n == x {
		return true
	}
	for _, e := range n.entries {
		if e.node.has(x) {
			return true
		}
	}
	return false
}

func (m *model) rename(old, p string, flags uint) error {
	from, key, a, err := m.parent(old)
	if err != nil {
		return err
	}
	to, newKey, b, err := m.parent(p)
	exchange := flags&unix.RENAME_EXCHANGE != 0
	switch {
	case err != nil:
		return err
	case a == nil:
		return unix.ENOENT
	case b != nil && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case b == nil && exchange:
		return unix.ENOENT
	case a.node.has(to) && from != to:
		return unix.EINVAL
	case b != nil && exchange && b.node.has(from) && from != to:
		return unix.EINVAL
	case b != nil && b.node.has(from) && from != to:
		return unix.ENOTEMPTY
	case b != nil && a.node == b.node:
		return nil
	case b != nil && !exchange && a.node.isDir() && !b.node.isDir():
		return unix.ENOTDIR
	case b != nil && !exchange && !a.node.isDir() && b.node.isDir():
		return unix.EISDIR
	case b != nil && !exchange && len(b.node.entries) > 0:
		return unix.ENOTEMPTY
	}
	move := func(n *modelNode, from, to *modelNode) {
		if n.isDir() {
			from.nlink--
			to.nlink++
		}
	}
	move(a.node, from, to)
	switch {
	case exchange:
		move(b.node, to, from)
		a.node, b.node = b.node, a.node
		return nil
	case b != nil:
		if b.node.nlink--; b.node.isDir() {
			to.nlink--
		}
		b.node = a.node
	default:
		to.entries[newKey] = &modelEntry{path.Base(p), a.node}
	}
	if flags&unix.RENAME_WHITEOUT != 0 {
		from.entries[key] = &modelEntry{a.name, &modelNode{mode: unix.S_IFCHR, nlink: 1}}
	} else {
		delete(from.entries, key)
	}
	return nil
}

func (m *model) stat(p string) (uint32, uint64, string, error) {
	n, err := m.resolve(p, false)
	if err != nil {
		return 0, 0, "", err
	}
	return n.mode, n.nlink, n.target, nil
}

// tree lists the model as [fixtures.DumpTree] lists a file system: path, mode,
// links, target.
func (m *model) tree() (out []fixtures.Entry) {
	var walk func(p string, n *modelNode)
	walk = func(p string, n *modelNode) {
		out = append(out, fixtures.Entry{Path: p, Mode: n.mode, Nlink: uint32(n.nlink), Target: n.target})
		for _, e := range n.entries {
			walk(filepath.Join(p, e.name), e.node)
		}
	}
	walk("/", m.root)
	fixtures.SortTree(out)
	return out
}

// errnoOf is the errno of an error, or 0.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return unix.EUCLEAN
	}
	return errno
}

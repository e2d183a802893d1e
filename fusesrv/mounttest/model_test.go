package mounttest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A model is a file system in memory, as root sees it who works on it with one
// process: names, contents, modes, owners, xattrs and ACLs.
type model struct {
	root  *node
	umask uint32
	files [slots]*opened
}

// A node is an inode.
type node struct {
	mode     uint32
	uid, gid uint32
	nlink    int
	rdev     uint64
	data     []byte
	target   string
	entries  map[string]*node // of a directory
	parent   *node            // of a directory
	xattrs   map[string][]byte
	access   []byte // the ACL, as getxattr(2) has it, if it says more than the mode
	initial  []byte // the default ACL
	linkable bool   // made by O_TMPFILE without O_EXCL
}

// An opened is an open file.
type opened struct {
	*node
	flags int
	pos   int64
}

func (n *node) kind() uint32 { return n.mode & unix.S_IFMT }
func (n *node) isDir() bool  { return n.kind() == unix.S_IFDIR }
func (n *node) isReg() bool  { return n.kind() == unix.S_IFREG }

func newModel() *model {
	m := &model{umask: 0o022, root: &node{mode: unix.S_IFDIR | 0o755, nlink: 2, entries: map[string]*node{}, xattrs: map[string][]byte{}}}
	m.root.parent = m.root
	return m
}

// walk finds what is at p from dir on: its directory, its name there, and the node, nil
// if there is none. The last link is followed if follow.
func (m *model) walk(dir *node, p string, follow bool, depth int) (*node, string, *node, error) {
	if p == "" {
		return nil, "", nil, unix.ENOENT
	}
	parts := strings.Split(strings.TrimRight(p, "/"), "/")
	for i, name := range parts {
		last := i == len(parts)-1
		if !dir.isDir() {
			return nil, "", nil, unix.ENOTDIR
		}
		if len(name) > 255 {
			return nil, "", nil, unix.ENAMETOOLONG
		}
		n := dir.entries[name]
		if n == nil && !last {
			return nil, "", nil, unix.ENOENT
		}
		if n != nil && n.kind() == unix.S_IFLNK && (!last || follow) {
			if depth == 40 {
				return nil, "", nil, unix.ELOOP
			}
			d, name, to, err := m.walk(dir, n.target, true, depth+1)
			if err != nil || last {
				if err == nil && to == nil && strings.HasSuffix(n.target, "/") {
					err = unix.ENOENT
				}
				return d, name, to, err
			}
			if to == nil {
				return nil, "", nil, unix.ENOENT
			}
			n = to
		}
		if last {
			return dir, name, n, nil
		}
		dir = n
	}
	return nil, "", nil, unix.ENOENT
}

func (m *model) find(p string, follow bool) (*node, error) {
	_, _, n, err := m.walk(m.root, p, follow, 0)
	if err == nil && n == nil {
		err = unix.ENOENT
	}
	return n, err
}

// place finds where a new name goes.
func (m *model) place(p string) (*node, string, error) {
	dir, name, n, err := m.walk(m.root, p, false, 0)
	if err == nil && n != nil {
		err = unix.EEXIST
	}
	return dir, name, err
}

// add makes a node in dir (posix_acl_create).
func (m *model) add(dir *node, name string, mode uint32) *node {
	n := &node{mode: mode, nlink: 1, parent: dir, xattrs: map[string][]byte{}}
	if dir.mode&unix.S_ISGID != 0 {
		n.gid = dir.gid
	}
	if n.isDir() {
		n.nlink, n.entries = 2, map[string]*node{}
		if dir.mode&unix.S_ISGID != 0 {
			n.mode |= unix.S_ISGID
		}
		if name != "" {
			dir.nlink++
		}
		n.initial = dir.initial
	}
	switch {
	case n.kind() == unix.S_IFLNK:
	case dir.initial == nil:
		n.mode &^= m.umask
	default:
		n.access = masked(dir.initial, &n.mode)
	}
	if name != "" {
		dir.entries[name] = n
	}
	return n
}

// skips says of what the model has no idea: open FIFOs.
func (m *model) skips(o op) bool {
	if o.Do != "open" {
		return false
	}
	n, _ := m.find(o.P, true)
	return n != nil && (n.kind() == unix.S_IFIFO || o.Flags&direct != 0 && !n.isReg())
}

// do executes o.
func (m *model) do(o op) (string, error) {
	switch o.Do {
	case "open", "tmpfile":
		return "", m.open(o)
	case "mkdir", "mknod", "symlink":
		return "", m.make(o)
	case "rmdir", "unlink":
		return "", m.remove(o)
	case "rename":
		return "", m.rename(o)
	case "link":
		n, err := m.find(o.P, false)
		if err != nil {
			return "", err
		}
		return "", m.link(n, o.Q)
	case "readlink":
		n, err := m.find(o.P, false)
		if err == nil && n.kind() != unix.S_IFLNK {
			err = unix.EINVAL
		}
		if err != nil {
			return "", err
		}
		return n.target, nil
	case "chmod":
		n, err := m.find(o.P, true)
		if err == nil {
			n.chmod(o.Mode)
		}
		return "", err
	case "chown":
		n, err := m.find(o.P, false)
		if err == nil {
			n.chown(o)
		}
		return "", err
	case "utimes":
		if o.Atime.Nsec == unix.UTIME_OMIT && o.Mtime_.Nsec == unix.UTIME_OMIT {
			return "", nil
		}
		_, err := m.find(o.P, false)
		return "", err
	case "truncate":
		n, err := m.find(o.P, true)
		switch {
		case err != nil:
			return "", err
		case n.isDir():
			return "", unix.EISDIR
		case !n.isReg():
			return "", unix.EINVAL
		}
		n.resize(o.N)
		return "", nil
	case "access":
		n, err := m.find(o.P, true)
		if err == nil && o.Mode&1 != 0 && !n.isDir() && n.mode&0o111 == 0 {
			err = unix.EACCES
		}
		return "", err
	case "umask":
		old := m.umask
		m.umask = o.Mode
		return fmt.Sprintf("%#o", old), nil
	case "stat":
		n, err := m.find(o.P, false)
		if err != nil {
			return "", err
		}
		return n.text(), nil
	case "readdir":
		n, err := m.find(o.P, false)
		switch {
		case err != nil:
			return "", err
		case !n.isDir():
			return "", unix.ENOTDIR
		}
		return strings.Join(slices.Sorted(maps.Keys(n.entries)), "|"), nil
	case "setxattr", "removexattr", "getxattr", "listxattr":
		n, err := m.find(o.P, false)
		if err != nil {
			return "", err
		}
		return n.xattr(o)
	}
	f := m.files[o.Slot]
	if f == nil {
		return "closed", unix.EBADF
	}
	return m.doFile(f, o)
}

// doFile executes an op on an open file.
func (m *model) doFile(f *opened, o op) (string, error) {
	reads, writes := f.flags&unix.O_ACCMODE != unix.O_WRONLY, f.flags&unix.O_ACCMODE != unix.O_RDONLY
	size := int64(len(f.data))
	off, n := o.span(f.flags&direct != 0)
	switch o.Do {
	case "close":
		m.files[o.Slot] = nil
		return "", nil
	case "linkfd":
		return "", m.link(f.node, o.Q)
	case "fsync", "fdatasync":
		return "", nil
	case "fstat":
		return f.text(), nil
	case "fchmod":
		f.chmod(o.Mode)
		return "", nil
	case "fchown":
		f.chown(o)
		return "", nil
	case "data", "hole":
		if f.isReg() && o.Off >= size {
			return "-1", unix.ENXIO
		}
		return "", nil
	case "ftruncate":
		if !writes || !f.isReg() {
			return "", unix.EINVAL
		}
		f.resize(o.N)
		return "", nil
	case "pread":
		return f.read(off, n, reads)
	case "read":
		if f.flags&direct != 0 {
			return "", nil
		}
		out, err := f.read(f.pos, n, reads)
		if err != nil {
			return "", err
		}
		f.pos = max(f.pos, min(f.pos+n, size))
		return fmt.Sprintf("%s then at %d", out, f.pos), nil
	case "pwrite", "write":
		if !f.isReg() {
			return "", nil
		}
		if o.Do == "write" {
			if f.flags&direct != 0 {
				return "", nil
			}
			off = f.pos
		}
		if !writes {
			return "", unix.EBADF
		}
		if f.flags&unix.O_APPEND != 0 {
			off = size
		}
		f.fill(pattern(o.Seed, n), off)
		if o.Do == "pwrite" {
			return fmt.Sprint(n), nil
		}
		f.pos = off + n
		return fmt.Sprintf("%d then at %d", n, f.pos), nil
	case "mmapwrite", "mmapread":
		end := min(o.Off+o.N, size)
		switch {
		case !f.isReg():
			return "", unix.ENODEV
		case end <= o.Off:
			return "0", nil
		case !reads, o.Do == "mmapwrite" && !writes:
			return "", unix.EACCES
		case o.Do == "mmapread":
			return digest(f.data[o.Off:end]), nil
		}
		copy(f.data[o.Off:end], pattern(o.Seed, end-o.Off))
		return fmt.Sprint(end - o.Off), nil
	case "fallocate":
		return "", f.fallocate(o, writes)
	case "copy":
		return m.copy(f, o)
	}
	return "", fmt.Errorf("no op %q", o.Do)
}

func (m *model) open(o op) error {
	accmode := o.Flags & unix.O_ACCMODE
	if o.Do == "tmpfile" {
		dir, err := m.find(o.P, true)
		switch {
		case err != nil:
			return err
		case !dir.isDir():
			return unix.ENOTDIR
		}
		n := m.add(dir, "", unix.S_IFREG|o.Mode&0o7777)
		n.nlink, n.linkable = 0, o.Flags&unix.O_EXCL == 0
		m.files[o.Slot] = &opened{node: n, flags: o.Flags}
		return nil
	}
	create, excl := o.Flags&unix.O_CREAT != 0, o.Flags&unix.O_EXCL != 0
	if create && o.Flags&unix.O_DIRECTORY != 0 {
		return unix.EINVAL
	}
	dir, name, n, err := m.walk(m.root, o.P, o.Flags&unix.O_NOFOLLOW == 0 && !(create && excl), 0)
	if err != nil {
		return err
	}
	switch {
	case n == nil && !create:
		return unix.ENOENT
	case n == nil:
		n = m.add(dir, name, unix.S_IFREG|o.Mode&0o7777)
	case create && excl:
		return unix.EEXIST
	case n.kind() == unix.S_IFLNK:
		return unix.ELOOP
	case n.isDir() && (create || accmode != unix.O_RDONLY || o.Flags&unix.O_TRUNC != 0):
		return unix.EISDIR
	case !n.isDir() && o.Flags&unix.O_DIRECTORY != 0:
		return unix.ENOTDIR
	case !n.isDir() && !n.isReg():
		return unix.ENXIO
	case o.Flags&unix.O_TRUNC != 0:
		n.resize(0)
	}
	m.files[o.Slot] = &opened{node: n, flags: o.Flags}
	return nil
}

func (m *model) make(o op) error {
	if o.Do == "symlink" && o.Q == "" {
		return unix.ENOENT
	}
	dir, name, err := m.place(o.P)
	if err != nil {
		return err
	}
	switch o.Do {
	case "mkdir":
		m.add(dir, name, unix.S_IFDIR|o.Mode&0o1777)
	case "mknod":
		n := m.add(dir, name, o.Mode)
		if k := n.kind(); k == unix.S_IFCHR || k == unix.S_IFBLK {
			n.rdev = uint64(o.N)
		}
	default:
		m.add(dir, name, unix.S_IFLNK|0o777).target = o.Q
	}
	return nil
}

func (m *model) remove(o op) error {
	dir, name, n, err := m.walk(m.root, o.P, false, 0)
	switch {
	case err != nil:
		return err
	case n == nil:
		return unix.ENOENT
	case o.Do == "unlink" && n.isDir():
		return unix.EISDIR
	case o.Do == "rmdir" && !n.isDir():
		return unix.ENOTDIR
	case o.Do == "rmdir" && len(n.entries) > 0:
		return unix.ENOTEMPTY
	}
	delete(dir.entries, name)
	n.drop(dir)
	return nil
}

// drop notes that dir has n no longer.
func (n *node) drop(dir *node) {
	n.nlink--
	if n.isDir() {
		n.nlink = 0
		dir.nlink--
	}
}

func (m *model) link(n *node, p string) error {
	dir, name, err := m.place(p)
	switch {
	case err != nil:
		return err
	case n.isDir():
		return unix.EPERM
	case n.nlink == 0 && !n.linkable:
		return unix.ENOENT
	}
	n.linkable = false
	n.nlink++
	dir.entries[name] = n
	return nil
}

// within says whether n is dir or below it.
func (n *node) within(dir *node) bool {
	for ; ; n = n.parent {
		if n == dir {
			return true
		}
		if n == n.parent {
			return false
		}
	}
}

func (m *model) rename(o op) error {
	noReplace, exchange := o.Flags&unix.RENAME_NOREPLACE != 0, o.Flags&unix.RENAME_EXCHANGE != 0
	if noReplace && exchange {
		return unix.EINVAL
	}
	from, oldName, a, err := m.walk(m.root, o.P, false, 0)
	if err != nil && err != unix.ENAMETOOLONG {
		return err
	}
	to, newName, b, err2 := m.walk(m.root, o.Q, false, 0)
	if err2 != nil && err2 != unix.ENAMETOOLONG {
		return err2
	}
	switch {
	case err != nil:
		return err
	case a == nil:
		return unix.ENOENT
	case err2 != nil:
		return err2
	case b != nil && noReplace:
		return unix.EEXIST
	case b == nil && exchange:
		return unix.ENOENT
	case a.isDir() && to.within(a):
		return unix.EINVAL
	case b != nil && b.isDir() && from.within(b):
		if exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	case a == b:
		return nil
	case b != nil && !exchange && a.isDir() && !b.isDir():
		return unix.ENOTDIR
	case b != nil && !exchange && !a.isDir() && b.isDir():
		return unix.EISDIR
	case b != nil && !exchange && len(b.entries) > 0:
		return unix.ENOTEMPTY
	}
	if b != nil && !exchange {
		b.drop(to)
	}
	move := func(n, from, to *node) {
		if n.isDir() {
			from.nlink--
			to.nlink++
			n.parent = to
		}
	}
	move(a, from, to)
	delete(from.entries, oldName)
	to.entries[newName] = a
	switch {
	case exchange:
		move(b, to, from)
		from.entries[oldName] = b
	case o.Flags&unix.RENAME_WHITEOUT != 0:
		m.add(from, oldName, unix.S_IFCHR)
	}
	return nil
}

func (n *node) text() string {
	return statText(&unix.Stat_t{Mode: n.mode, Uid: n.uid, Gid: n.gid, Nlink: uint64(n.nlink), Size: int64(len(n.data) + len(n.target)), Rdev: n.rdev})
}

// touch is what a change of contents takes away, from root's files too.
func (n *node) touch() { delete(n.xattrs, "security.capability") }

func (n *node) resize(size int64) {
	n.touch()
	if have := int64(len(n.data)); size > have {
		n.data = append(n.data, make([]byte, size-have)...)
	}
	n.data = n.data[:size:size]
}

func (n *node) fill(p []byte, off int64) {
	n.touch()
	if end := off + int64(len(p)); end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[off:], p)
}

func (n *node) read(off, k int64, may bool) (string, error) {
	switch {
	case !may:
		return "", unix.EBADF
	case n.isDir():
		return "", unix.EISDIR
	}
	size := int64(len(n.data))
	return digest(n.data[min(off, size):min(off+k, size)]), nil
}

func (n *node) fallocate(o op, writes bool) error {
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	switch {
	case o.Mode&punch != 0 && o.Mode&keep == 0, o.Mode&unix.FALLOC_FL_COLLAPSE_RANGE != 0:
		return unix.EOPNOTSUPP
	case !writes:
		return unix.EBADF
	}
	n.touch()
	size := int64(len(n.data))
	if o.Mode&(punch|zero) != 0 {
		clear(n.data[min(o.Off, size):min(o.Off+o.N, size)])
	}
	if o.Mode&keep == 0 && o.Off+o.N > size {
		n.resize(o.Off + o.N)
	}
	return nil
}

func (m *model) copy(to *opened, o op) (string, error) {
	from := m.files[o.From]
	switch {
	case from == nil:
		return "closed", unix.EBADF
	case from.flags&direct != 0 || to.flags&direct != 0:
		return "", nil
	case from.isDir() || to.isDir():
		return "", unix.EISDIR
	case from.flags&unix.O_ACCMODE == unix.O_WRONLY, to.flags&unix.O_ACCMODE == unix.O_RDONLY, to.flags&unix.O_APPEND != 0:
		return "", unix.EBADF
	}
	total := int64(0)
	for total < o.N {
		at, into := o.Off+total, o.Off2+total
		n := min(o.N-total, max(int64(len(from.data))-at, 0))
		if n == 0 {
			break
		}
		if from.node == to.node && at < into+n && into < at+n {
			if total == 0 {
				return "", unix.EINVAL
			}
			break
		}
		to.fill(bytes.Clone(from.data[at:at+n]), into)
		total += n
	}
	return fmt.Sprint(total), nil
}

func (n *node) chown(o op) {
	if o.UID >= 0 {
		n.uid = uint32(o.UID)
	}
	if o.GID >= 0 {
		n.gid = uint32(o.GID)
	}
	if !n.isDir() {
		n.mode &^= unix.S_ISUID
		if n.mode&unix.S_IXGRP != 0 {
			n.mode &^= unix.S_ISGID
		}
		n.touch()
	}
}

func (n *node) chmod(mode uint32) {
	n.mode = n.kind() | mode&0o7777
	if n.access != nil { // posix_acl_chmod
		n.access = bytes.Clone(n.access)
		group := -1
		for i := 4; i < len(n.access); i += 8 {
			set := func(perm uint32) { binary.LittleEndian.PutUint16(n.access[i+2:], uint16(perm&7)) }
			switch binary.LittleEndian.Uint16(n.access[i:]) {
			case aclUserObj:
				set(mode >> 6)
			case aclGroupObj:
				group = i
			case aclMask:
				group = i
			case aclOther:
				set(mode)
			}
		}
		binary.LittleEndian.PutUint16(n.access[group+2:], uint16(mode>>3&7))
	}
}

// masked is the ACL of a file made with mode where acl is the default, nil if it is the
// mode, which it changes (posix_acl_create_masq).
func masked(acl []byte, mode *uint32) []byte {
	acl = bytes.Clone(acl)
	group, mask := -1, -1
	perm := func(i int) uint32 { return uint32(binary.LittleEndian.Uint16(acl[i+2:])) }
	and := func(i int, shift uint) {
		p := perm(i) & (*mode >> shift)
		binary.LittleEndian.PutUint16(acl[i+2:], uint16(p))
		*mode = *mode&^(7<<shift) | p<<shift
	}
	for i := 4; i < len(acl); i += 8 {
		switch binary.LittleEndian.Uint16(acl[i:]) {
		case aclUserObj:
			and(i, 6)
		case aclGroupObj:
			group = i
		case aclMask:
			mask = i
		case aclOther:
			and(i, 0)
		}
	}
	if mask < 0 {
		and(group, 3)
	} else {
		and(mask, 3)
	}
	if len(acl) == 4+3*8 {
		return nil
	}
	return acl
}

// validACL is posix_acl_valid for what the generator makes.
func validACL(acl []byte) bool {
	have := map[uint16]int{}
	for i := 4; i < len(acl); i += 8 {
		have[binary.LittleEndian.Uint16(acl[i:])]++
	}
	return have[aclUserObj] == 1 && have[aclGroupObj] == 1 && have[aclOther] == 1 && (have[aclUser]+have[aclGroup] == 0 || have[aclMask] == 1)
}

func (n *node) setACL(o op) error {
	value := o.Value
	if len(value) <= 4 {
		value = nil
	}
	isDefault := o.Name == someACL+"default"
	switch {
	case n.kind() == unix.S_IFLNK:
		return unix.EOPNOTSUPP
	case isDefault && !n.isDir():
		if value != nil {
			return unix.EACCES
		}
		return nil
	case value != nil && !validACL(value):
		return unix.EINVAL
	case isDefault:
		n.initial = value
		return nil
	case value == nil:
		n.access = nil
		return nil
	}
	perm := map[uint16]uint32{}
	for i := 4; i < len(value); i += 8 {
		perm[binary.LittleEndian.Uint16(value[i:])] = uint32(binary.LittleEndian.Uint16(value[i+2:]))
	}
	group := perm[aclGroupObj]
	if p, ok := perm[aclMask]; ok {
		group = p
	}
	n.mode = n.mode&^0o777 | perm[aclUserObj]<<6 | group<<3 | perm[aclOther]
	if n.access = value; len(value) == 4+3*8 {
		n.access = nil
	}
	return nil
}

// all are the xattrs with the ACLs.
func (n *node) all() map[string][]byte {
	out := maps.Clone(n.xattrs)
	if n.access != nil {
		out[someACL+"access"] = n.access
	}
	if n.initial != nil {
		out[someACL+"default"] = n.initial
	}
	return out
}

func (n *node) xattr(o op) (string, error) {
	if o.Do == "listxattr" {
		names := append(slices.Sorted(maps.Keys(n.all())), "")
		slices.Sort(names)
		return strings.Join(names, " "), nil
	}
	isACL := strings.HasPrefix(o.Name, someACL)
	_, have := n.all()[o.Name]
	switch {
	case o.Do != "getxattr" && strings.HasPrefix(o.Name, "user.") && !n.isReg() && !n.isDir():
		return "", unix.EPERM
	case o.Name == "user." && o.Do == "getxattr" && !n.isReg() && !n.isDir():
		return "", unix.ENODATA
	case o.Name == "user.":
		return "", unix.EINVAL
	case o.Name == "nospace", isACL && n.kind() == unix.S_IFLNK:
		return "", unix.EOPNOTSUPP
	}
	switch o.Do {
	case "getxattr":
		if !have {
			return "", unix.ENODATA
		}
		v := n.all()[o.Name]
		return fmt.Sprintf("%d %q", len(v), v[:min(len(v), 100)]), nil
	case "removexattr":
		switch {
		case isACL:
			o.Value = nil
			return "", n.setACL(o)
		case !have:
			return "", unix.ENODATA
		}
		delete(n.xattrs, o.Name)
		return "", nil
	}
	switch {
	case isACL:
		return "", n.setACL(o)
	case o.Name == "security.capability" && len(o.Value) != 20:
		return "", unix.EINVAL
	case have && o.Flags == unix.XATTR_CREATE:
		return "", unix.EEXIST
	case !have && o.Flags == unix.XATTR_REPLACE:
		return "", unix.ENODATA
	}
	n.xattrs[o.Name] = o.Value
	return "", nil
}

// xattrRoom is how much of xattrs finds room in every inode that has an xattr block.
const xattrRoom = 700

// mayLack says whether a file system may say that it has no room for what o sets.
func (m *model) mayLack(o op) bool {
	n, err := m.find(o.P, false)
	if err != nil || o.Do != "setxattr" {
		return false
	}
	sum := len(o.Name) + len(o.Value)
	for name, v := range n.all() {
		sum += len(name) + len(v) + 20
	}
	return sum > xattrRoom
}

// entries lists the tree below dir for a comparison: path to what stat, readlink, read
// and getxattr say of it.
func (m *model) entries(p string, n *node, out map[string]string) {
	out[p] = describe(n.text(), n.target, n.data, n.all())
	for name, e := range n.entries {
		m.entries(path.Join(p, name), e, out)
	}
}

func describe(stat, target string, data []byte, xattrs map[string][]byte) string {
	s := fmt.Sprintf("%s %q %s", stat, target, digest(data))
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		s += fmt.Sprintf(" %s=%s", short(name), digest(xattrs[name]))
	}
	return s
}

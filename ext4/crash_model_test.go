package ext4

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"e4go/ext4/disk"
)

// A modelNode is a file of the model. It is never changed.
type modelNode struct {
	id       int
	mode     disk.Mode
	uid, gid uint32
	project  uint32
	dev      [2]uint32 // of a device
	flags    disk.FileFlags
	data     []byte            // of a regular file, or the target of a link
	xattrs   map[string]string // ACLs in the form of setxattr(2)
	shifts   []modelShift      // all that its bytes went through
}

// modelFlags are the flags that the model knows.
const modelFlags = disk.FlagNodump | disk.FlagNoatime | disk.FlagCasefold

// A modelShift is where bytes of a file moved: at at came by bytes in, or, if
// it is negative, so many went.
type modelShift struct{ at, by int64 }

// A modelState is a whole tree: what each path is, the root as "/". It is
// never changed.
type modelState struct {
	names map[string]int
	nodes map[int]*modelNode
	part  *modelWrite // the write that led here, of which a crash may leave a part
}

type modelWrite struct {
	id       int
	off, end int64
}

func (s *modelState) clone() *modelState {
	return &modelState{names: maps.Clone(s.names), nodes: maps.Clone(s.nodes)}
}

func (s *modelState) node(path string) *modelNode {
	if id, ok := s.names[path]; ok {
		return s.nodes[id]
	}
	return nil
}

// set puts another node in the place of that with its id.
func (s *modelState) set(n modelNode) { s.nodes[n.id] = &n }

// drop forgets nodes that have no name any more.
func (s *modelState) drop() {
	used := make(map[int]bool)
	for _, id := range s.names {
		used[id] = true
	}
	for id := range s.nodes {
		if !used[id] {
			delete(s.nodes, id)
		}
	}
}

// changed is a copy of n as a change of its contents leaves it: without capabilities.
func (n *modelNode) changed() modelNode {
	out := *n
	out.setXattr(capability, nil)
	return out
}

const capability = "security.capability"

// setXattr gives the node an xattr, or takes it away if value is nil.
func (n *modelNode) setXattr(name string, value []byte) {
	n.xattrs = maps.Clone(n.xattrs)
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	if delete(n.xattrs, name); value != nil {
		n.xattrs[name] = string(value)
	}
}

// shift moves the bytes from at on.
func (n *modelNode) shift(at, by int64) modelNode {
	out := n.changed()
	out.shifts = append(slices.Clip(n.shifts), modelShift{at, by})
	if by > 0 {
		out.data = slices.Concat(n.data[:at], make([]byte, by), n.data[at:])
	} else {
		out.data = slices.Concat(n.data[:at], n.data[at-by:])
	}
	return out
}

// place is where byte o of an earlier state of the file is by now.
func (n *modelNode) place(earlier *modelNode, o int64) (at int64, ok bool) {
	for _, s := range n.shifts[len(earlier.shifts):] {
		if s.by < 0 && o >= s.at && o < s.at-s.by {
			return 0, false
		}
		if o >= s.at {
			o += s.by
		}
	}
	return o, true
}

func (n *modelNode) write(off int64, p []byte) modelNode {
	out := n.changed()
	out.data = make([]byte, max(int64(len(n.data)), off+int64(len(p))))
	copy(out.data, n.data)
	copy(out.data[off:], p)
	return out
}

func (n *modelNode) truncate(size int64) modelNode {
	out := n.changed()
	out.data = make([]byte, size)
	copy(out.data, n.data)
	return out
}

// sameFile reports whether the file at p is in both states, and what fsync of it, or
// fdatasync, makes durable has not changed between them.
func (s *modelState) sameFile(o *modelState, p string, dataOnly bool) bool {
	a, b := s.node(p), o.node(p)
	if a == nil || b == nil || a.id != b.id || !bytes.Equal(a.data, b.data) {
		return false
	}
	if a.mode.Type() == disk.ModeDir {
		return maps.Equal(s.under(p), o.under(p)) && (dataOnly || a.sameAttrs(b))
	}
	return dataOnly || a.sameAttrs(b)
}

func (n *modelNode) sameAttrs(o *modelNode) bool {
	return n.mode == o.mode && n.uid == o.uid && n.gid == o.gid && n.project == o.project && n.flags == o.flags && maps.Equal(n.xattrs, o.xattrs)
}

// under are the names in a directory.
func (s *modelState) under(dir string) map[string]int {
	out := make(map[string]int)
	for p, id := range s.names {
		if p != "/" && path.Dir(p) == dir {
			out[p] = id
		}
	}
	return out
}

// move gives what has path old, and all under it, path at.
func (s *modelState) move(old, at string) {
	for p, id := range maps.Clone(s.names) {
		if p == old || strings.HasPrefix(p, old+"/") {
			delete(s.names, p)
			s.names[at+p[len(old):]] = id
		}
	}
}

// create is a new file at path at, as its directory makes it.
func (s *modelState) create(at string, id int, mode disk.Mode) modelNode {
	dir := s.node(path.Dir(at))
	n := modelNode{id: id, mode: mode, flags: dir.flags}
	if mode.Type() != disk.ModeDir {
		n.flags &^= disk.FlagCasefold
	}
	acl, ok := dir.xattrs[defaultACL]
	if mode.Type() == disk.ModeLink || !ok {
		return n
	}
	if mode.Type() == disk.ModeDir {
		n.setXattr(defaultACL, []byte(acl))
	}
	b := []byte(acl)
	aclPerm(b, aclUser, mode>>6&7)
	aclPerm(b, aclMask, mode>>3&7)
	aclPerm(b, aclOther, mode&7)
	n.setACL(b)
	return n
}

// The entries of the model's ACLs, which are all "u:: u:7: g:: m:: o::".
const (
	aclUser  = 0
	aclMask  = 3
	aclOther = 4
)

// aclPerm takes permissions from an entry of an ACL, and returns what it has then.
func aclPerm(acl []byte, entry int, may disk.Mode) disk.Mode {
	p := &acl[4+8*entry+2]
	*p &= byte(may)
	return disk.Mode(*p)
}

// setACL gives the node an access ACL.
func (n *modelNode) setACL(acl []byte) {
	n.setXattr(accessACL, acl)
	n.mode = n.mode&^0o777 | aclPerm(acl, aclUser, 7)<<6 | aclPerm(acl, aclMask, 7)<<3 | aclPerm(acl, aclOther, 7)
}

// chmod gives the node other permissions.
func (n *modelNode) chmod(perm disk.Mode) {
	n.mode = n.mode.Type() | perm
	if acl, ok := n.xattrs[accessACL]; ok {
		b := []byte(acl)
		for entry, bits := range map[int]disk.Mode{aclUser: perm >> 6, aclMask: perm >> 3, aclOther: perm} {
			b[4+8*entry+2] = byte(bits & 7)
		}
		n.setXattr(accessACL, b)
	}
}

// A foundNode is a file as a reader found it.
type foundNode struct {
	ino   disk.Ino
	links int
	modelNode
}

// readTree reads a whole tree but for lost+found.
func readTree(fs *FS) (map[string]foundNode, error) { return readTreeBut(fs, 0) }

// readTreeBut reads a tree but for lost+found, and one inode with all under it.
func readTreeBut(fs *FS, but disk.Ino) (map[string]foundNode, error) {
	out := make(map[string]foundNode)
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		return nil, err
	}
	return out, readInto(fs, out, "/", root, but)
}

func readInto(fs *FS, out map[string]foundNode, at string, in *Inode, but disk.Ino) error {
	st := in.Stat()
	n := foundNode{in.Ino(), int(st.Nlink), modelNode{id: int(in.Ino()), mode: disk.Mode(st.Mode), uid: st.UID, gid: st.GID, project: st.Project,
		dev: [2]uint32{st.Major, st.Minor}, flags: st.Flags & modelFlags, xattrs: map[string]string{}}}
	list, err := in.Xattrs()
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	for _, x := range list {
		if !x.Shown {
			continue
		}
		if v, err := in.Getxattr(x.Name); err != nil || x.Index != disk.XattrACLAccess && x.Index != disk.XattrACLDefault && !bytes.Equal(v, x.Value) {
			return fmt.Errorf("%s: xattr %s is %d bytes in the list, and by its name %d, %v", at, x.Name, len(x.Value), len(v), err)
		} else {
			n.xattrs[x.Name] = string(v)
		}
	}
	switch in.Type() {
	case disk.ModeReg:
		n.data = make([]byte, st.Size)
		if _, err := in.ReadAt(n.data, 0); err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", at, err)
		}
	case disk.ModeLink:
		target, err := in.Readlink()
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		n.data = []byte(target)
	}
	out[at] = n
	if in.Type() != disk.ModeDir {
		return nil
	}
	d, err := fs.OpenDir(in)
	if err != nil {
		return err
	}
	for {
		e, err := d.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if e.Name == "." || e.Name == ".." || at == "/" && e.Name == "lost+found" || e.Ino == but {
			continue
		}
		child, err := fs.Inode(e.Ino)
		if err != nil {
			return err
		}
		if byName, err := fs.Lookup(in, e.Name); err != nil || byName.Ino() != e.Ino {
			return fmt.Errorf("%s in %s is listed as inode %d and looked up as %v, %v", e.Name, at, e.Ino, byName, err)
		}
		if err := readInto(fs, out, path.Join(at, e.Name), child, but); err != nil {
			return err
		}
	}
}

// matches says in what a tree that was found differs from the state, but for
// contents: "" if in nothing. A regular file that was being written may have any size
// on the way.
func (s *modelState) matches(found map[string]foundNode, next *modelState) string {
	var diffs []string
	for _, p := range slices.Sorted(maps.Keys(s.names)) {
		want := s.nodes[s.names[p]]
		got, ok := found[p]
		var part *modelWrite // of this file
		if next != nil && next.part != nil && next.part.id == want.id {
			part = next.part
		}
		differs := func(what string, got, want any) {
			diffs = append(diffs, fmt.Sprintf("%s has %s %v, want %v", p, what, got, want))
		}
		if !ok {
			diffs = append(diffs, p+" is missing")
			continue
		}
		if got.mode != want.mode || got.uid != want.uid || got.gid != want.gid || got.dev != want.dev || got.project != want.project {
			differs("mode, owners, device and project", fmt.Sprintf("%#o %d %d %d %d", got.mode, got.uid, got.gid, got.dev, got.project),
				fmt.Sprintf("%#o %d %d %d %d", want.mode, want.uid, want.gid, want.dev, want.project))
		}
		if got.flags != want.flags {
			differs("flags", got.flags, want.flags)
		}
		if want.mode.Type() == disk.ModeLink && string(got.data) != string(want.data) {
			differs("target", fmt.Sprintf("%q", got.data), fmt.Sprintf("%q", want.data))
		}
		if want.mode.Type() == disk.ModeReg && len(got.data) != len(want.data) {
			size := int64(len(got.data))
			if part == nil || size <= int64(len(want.data)) || size <= part.off || size > part.end {
				differs("size", size, len(want.data))
			}
		}
		if !maps.Equal(got.xattrs, want.xattrs) && (part == nil || !maps.Equal(got.xattrs, next.nodes[want.id].xattrs)) {
			differs("xattrs", xattrText(got.xattrs), xattrText(want.xattrs))
		}
		if links := s.links(p); links != got.links {
			differs("links", got.links, links)
		}
	}
	for p := range found {
		if _, ok := s.names[p]; !ok {
			diffs = append(diffs, p+" should not be there")
		}
	}
	return strings.Join(diffs, "; ")
}

// links is how many links the file at p has.
func (s *modelState) links(p string) (n int) {
	node := s.node(p)
	if node.mode.Type() != disk.ModeDir {
		for _, id := range s.names {
			if id == node.id {
				n++
			}
		}
		return n
	}
	n = 2
	if p == "/" {
		n++ // lost+found
	}
	for q, id := range s.names {
		if q != "/" && path.Dir(q) == p && s.nodes[id].mode.Type() == disk.ModeDir {
			n++
		}
	}
	return n
}

func xattrText(x map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(x)) {
		out = append(out, fmt.Sprintf("%s: %d bytes %.12q", name, len(x[name]), x[name]))
	}
	return fmt.Sprint(out)
}

// checkContents looks for bytes that the files cannot have in state k of states:
// each must have been there then, or have been written in place by a later operation,
// or be zero where a later one ends the file in that block.
func checkContents(states []*modelState, k int, found map[string]foundNode, blockSize int64) error {
	for _, p := range slices.Sorted(maps.Keys(states[k].names)) {
		id := states[k].names[p]
		want := states[k].nodes[id]
		if want.mode.Type() != disk.ModeReg {
			continue
		}
		got := found[p].data
		if bytes.Equal(got, want.data) {
			continue
		}
		later := make([]*modelNode, 0, len(states)-k)
		for _, s := range states[k:] {
			if n := s.nodes[id]; n != nil {
				later = append(later, n)
			}
		}
		for o := range int64(len(got)) {
			ok := slices.ContainsFunc(later, func(n *modelNode) bool {
				size := int64(len(n.data))
				at, ok := n.place(want, o)
				if ok && at < size {
					return n.data[at] == got[o]
				}
				return ok && got[o] == 0 && at < (size+blockSize-1)/blockSize*blockSize
			})
			if !ok {
				had := "nothing"
				if o < int64(len(want.data)) {
					had = fmt.Sprintf("%#02x", want.data[o])
				}
				return fmt.Errorf("%s has byte %#02x at %d of %d, want %s", p, got[o], o, len(got), had)
			}
		}
	}
	return nil
}

// findState is the state, of those from first on, that the tree which was
// found is in.
func findState(states []*modelState, first int, found map[string]foundNode, blockSize int64) error {
	var why error
	for k := len(states) - 1; k >= first; k-- {
		var next *modelState
		if k+1 < len(states) {
			next = states[k+1]
		}
		diff := states[k].matches(found, next)
		if diff == "" {
			err := checkContents(states, k, found, blockSize)
			if err == nil {
				return nil
			}
			diff = err.Error()
		}
		if why == nil {
			why = fmt.Errorf("state %d: %s", k, diff)
		} else {
			why = fmt.Errorf("%w\n\tstate %d: %s", why, k, diff)
		}
	}
	return why
}

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
	id     int
	mode   disk.Mode
	data   []byte // of a regular file, or the target of a link
	xattrs map[string]string
}

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

func (n *modelNode) write(off int64, p []byte) modelNode {
	out := *n
	out.data = make([]byte, max(int64(len(n.data)), off+int64(len(p))))
	copy(out.data, n.data)
	copy(out.data[off:], p)
	return out
}

func (n *modelNode) truncate(size int64) modelNode {
	out := *n
	out.data = make([]byte, size)
	copy(out.data, n.data)
	return out
}

// A foundNode is a file as a reader found it.
type foundNode struct {
	ino    disk.Ino
	mode   disk.Mode
	links  int
	data   []byte
	xattrs map[string]string
}

// readTree reads a whole tree but for lost+found.
func readTree(fs *FS) (map[string]foundNode, error) {
	out := make(map[string]foundNode)
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		return nil, err
	}
	return out, readInto(fs, out, "/", root)
}

func readInto(fs *FS, out map[string]foundNode, at string, in *Inode) error {
	st := in.Stat()
	n := foundNode{ino: in.Ino(), mode: disk.Mode(st.Mode), links: int(st.Nlink), xattrs: map[string]string{}}
	list, err := in.Xattrs()
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	for _, x := range list {
		if x.Shown {
			n.xattrs[x.Name] = string(x.Value)
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
		if e.Name == "." || e.Name == ".." || at == "/" && e.Name == "lost+found" {
			continue
		}
		child, err := fs.Inode(e.Ino)
		if err != nil {
			return err
		}
		if byName, err := fs.Lookup(in, e.Name); err != nil || byName.Ino() != e.Ino {
			return fmt.Errorf("%s in %s is listed as inode %d and looked up as %v, %v", e.Name, at, e.Ino, byName, err)
		}
		if err := readInto(fs, out, path.Join(at, e.Name), child); err != nil {
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
		switch {
		case !ok:
			diffs = append(diffs, p+" is missing")
			continue
		case got.mode != want.mode:
			diffs = append(diffs, fmt.Sprintf("%s has mode %#o, want %#o", p, got.mode, want.mode))
		case want.mode.Type() == disk.ModeLink && string(got.data) != string(want.data):
			diffs = append(diffs, fmt.Sprintf("%s leads to %q, want %q", p, got.data, want.data))
		case want.mode.Type() == disk.ModeReg && len(got.data) != len(want.data):
			size, w := int64(len(got.data)), (*modelWrite)(nil)
			if next != nil {
				w = next.part
			}
			if w == nil || w.id != want.id || size <= int64(len(want.data)) || size <= w.off || size > w.end {
				diffs = append(diffs, fmt.Sprintf("%s has %d bytes, want %d", p, size, len(want.data)))
			}
		case !maps.Equal(got.xattrs, want.xattrs) && want.mode.Type() != disk.ModeLink:
			diffs = append(diffs, fmt.Sprintf("%s has xattrs %q, want %q", p, got.xattrs, want.xattrs))
		}
		if want.mode.Type() != disk.ModeDir {
			links := 0
			for _, id := range s.names {
				if id == want.id {
					links++
				}
			}
			if links != got.links {
				diffs = append(diffs, fmt.Sprintf("%s has %d links, want %d", p, got.links, links))
			}
		}
	}
	for p := range found {
		if _, ok := s.names[p]; !ok {
			diffs = append(diffs, p+" should not be there")
		}
	}
	return strings.Join(diffs, "; ")
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
				if o < size {
					return n.data[o] == got[o]
				}
				return got[o] == 0 && o < (size+blockSize-1)/blockSize*blockSize
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

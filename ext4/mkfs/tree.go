package mkfs

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"

	"e4go/ext4/disk"
)

// nodeID numbers the nodes of a tree; 0 is none.
type nodeID uint32

const (
	rootNode      nodeID = 1
	lostFoundNode nodeID = 2
)

// A node is an inode to be, and one name of it. There may be millions: it has no
// pointers, and what only few have stands in tables beside.
type node struct {
	size    int64
	mtime   int64  // seconds
	where   uint64 // the first block of a file of one extent; see also state and tree.text
	name    uint64 // where the name stands in tree.text
	nsec    uint32
	uid     uint32
	gid     uint32
	project uint32
	flags   disk.FileFlags
	blocks  uint32 // of a file of one extent
	links   uint32
	parent  nodeID
	child   nodeID // the first of a directory
	next    nodeID // the next of the same directory
	prev    nodeID // the one before; until they are sorted
	ino     disk.Ino
	xattrs  uint32 // in tree.xattrs, 0 is none
	detail  uint32 // in tree.details, 0 is none; with nodeWaits in tree.kept
	crc     uint32 // crc32c of the contents
	mode    disk.Mode
	nameLen uint8
	state   nodeState
}

type nodeState uint8

const (
	nodeExplicit nodeState = 1 << iota // an entry said what it is; else it was made up
	nodeAlias                          // another name of the node where
	nodeDead                           // replaced or removed
	nodeInline                         // its contents stand in the inode, and until then at where in tree.text
	nodeWaits                          // its contents have not been read yet
)

// A detail is what few nodes have.
type detail struct {
	extents []disk.Extent          // of a file of several
	iblock  *[disk.IBlockSize]byte // of an indirect map, whose blocks are taken
	taken   []run
	sectors uint64 // of an indirect map
}

// A tree is all that goes into a file system.
type tree struct {
	nodes   table[node] // by nodeID; the zeroth is not used
	text    text        // names, targets of symbolic links and inline contents
	details table[detail]
	kept    table[kept]
	keepers []keeper
	xattrs  []*xattrs // the sets in use; the zeroth is none
	sets    map[string]uint32
	index   []nodeID // by hash of parent and name: where each node is found
	used    int      // of index
	seed    maphash.Seed
}

func newTree() *tree {
	t := &tree{
		xattrs: make([]*xattrs, 1), sets: make(map[string]uint32),
		index: make([]nodeID, 1024), seed: maphash.MakeSeed(),
	}
	t.nodes.add(node{})
	t.nodes.add(node{mode: disk.ModeDir | 0o755, links: 2, parent: rootNode})
	t.details.add(detail{})
	return t
}

func (t *tree) node(id nodeID) *node { return t.nodes.at(uint32(id)) }

func (t *tree) nameOf(n *node) []byte { return t.text.at(n.name, int(n.nameLen)) }

// targetOf is where a symbolic link leads.
func (t *tree) targetOf(n *node) []byte { return t.text.at(n.where, int(n.size)) }

// extentsOf are the extents of a regular file.
func (t *tree) extentsOf(n *node) []disk.Extent {
	if n.blocks > 0 {
		return extents(0, []run{{disk.PBlock(n.where), disk.PBlock(n.where) + disk.PBlock(n.blocks)}}, false)
	}
	return t.details.at(n.detail).extents
}

// detailOf returns the node's detail, made if it had none.
func (t *tree) detailOf(id nodeID) *detail {
	n := t.node(id)
	if n.detail == 0 {
		n.detail = t.details.add(detail{})
	}
	return t.details.at(n.detail)
}

// path is the node's path from the root, for people.
func (t *tree) path(id nodeID) string {
	if id == rootNode {
		return "/"
	}
	var parts [][]byte
	for ; id != rootNode; id = t.node(id).parent {
		parts = append(parts, t.nameOf(t.node(id)))
	}
	slices.Reverse(parts)
	return "/" + string(bytes.Join(parts, []byte("/")))
}

// hash is where the search for a name of a directory begins.
func (t *tree) hash(parent nodeID, name []byte) uint64 {
	return maphash.Bytes(t.seed, name) + uint64(parent)*0x9e3779b97f4a7c15
}

// find returns the node of a name in a directory, or 0.
func (t *tree) find(parent nodeID, name []byte) nodeID {
	mask := uint64(len(t.index) - 1)
	for h := t.hash(parent, name) & mask; t.index[h] != 0; h = (h + 1) & mask {
		if n := t.node(t.index[h]); n.parent == parent && n.state&nodeDead == 0 && bytes.Equal(t.nameOf(n), name) {
			return t.index[h]
		}
	}
	return 0
}

// add makes a node of a new name in a directory. It fails when there are more
// than nodeIDs can count.
func (t *tree) add(parent nodeID, name []byte) (nodeID, error) {
	if len(name) > disk.MaxNameLen {
		return 0, fmt.Errorf("%s/%s: the name has %d bytes, at most %d are allowed", t.path(parent), name, len(name), disk.MaxNameLen)
	}
	if t.nodes.n >= 1<<32-1 {
		return 0, fmt.Errorf("%s/%s: more names than there can be inodes", t.path(parent), name)
	}
	p := t.node(parent)
	id := nodeID(t.nodes.add(node{name: t.text.add(name), nameLen: uint8(len(name)), parent: parent, next: p.child, links: 1}))
	if next := p.child; next != 0 {
		t.node(next).prev = id
	}
	p.child = id
	t.insert(id)
	return id, nil
}

func (t *tree) insert(id nodeID) {
	if 3*(t.used+1) > 2*len(t.index) {
		old := t.index
		t.index, t.used = make([]nodeID, 2*len(old)), 0
		for _, o := range old {
			if o != 0 && t.node(o).state&nodeDead == 0 {
				t.insert(o)
			}
		}
	}
	n := t.node(id)
	mask := uint64(len(t.index) - 1)
	h := t.hash(n.parent, t.nameOf(n)) & mask
	for t.index[h] != 0 && t.node(t.index[h]).state&nodeDead == 0 {
		h = (h + 1) & mask
	}
	if t.index[h] == 0 {
		t.used++
	}
	t.index[h] = id
}

// remove takes a node out of its directory.
func (t *tree) remove(id nodeID) {
	n := t.node(id)
	if n.prev == 0 {
		t.node(n.parent).child = n.next
	} else {
		t.node(n.prev).next = n.next
	}
	if n.next != 0 {
		t.node(n.next).prev = n.prev
	}
}

// sort puts the names of every directory in order of their bytes.
func (t *tree) sort() {
	var list []nodeID
	for id := range nodeID(t.nodes.n) {
		d := t.node(id)
		if d.child == 0 {
			continue
		}
		list = list[:0]
		for c := d.child; c != 0; c = t.node(c).next {
			list = append(list, c)
		}
		slices.SortFunc(list, func(a, b nodeID) int { return bytes.Compare(t.nameOf(t.node(a)), t.nameOf(t.node(b))) })
		at := &d.child
		for _, c := range list {
			*at = c
			at = &t.node(c).next
		}
		*at = 0
	}
}

// walk calls fn for each node in order, a directory before what is in it.
func (t *tree) walk(fn func(id nodeID) error) error {
	id := rootNode
	for {
		if err := fn(id); err != nil {
			return err
		}
		n := t.node(id)
		if n.child != 0 && n.mode.Type() == disk.ModeDir {
			id = n.child
			continue
		}
		for n.next == 0 {
			if id == rootNode {
				return nil
			}
			id = n.parent
			n = t.node(id)
		}
		if id == rootNode {
			return nil
		}
		id = n.next
	}
}

// target is the node that a name stands for: itself, or what it is an alias of.
func (t *tree) target(id nodeID) nodeID {
	if n := t.node(id); n.state&nodeAlias != 0 {
		return nodeID(n.where)
	}
	return id
}

// xattrSet returns the number of a set of xattrs; equal sets share one.
func (t *tree) xattrSet(list []Xattr) (uint32, error) {
	if len(list) == 0 {
		return 0, nil
	}
	x, err := newXattrs(list)
	if err != nil {
		return 0, err
	}
	if len(x.list) == 0 {
		return 0, nil
	}
	key := x.key()
	if i, ok := t.sets[key]; ok {
		return i, nil
	}
	i := uint32(len(t.xattrs))
	t.sets[key] = i
	t.xattrs = append(t.xattrs, x)
	return i, nil
}

func compareXattrs(a, b *xattr) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
}

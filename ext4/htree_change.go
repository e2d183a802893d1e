package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// nameHash is the hash of a name in directory dir, of an entry that is to be
// added.
func (dir *Inode) nameHash(name string) (uint32, error) {
	v, err := dir.hashVersion()
	if err != nil {
		return 0, err
	}
	hash, _, ok := disk.NameHash(v, dir.fs.sb.HashSeed, dir.hashedForm([]byte(name)))
	if !ok {
		return 0, fmt.Errorf("directory %d: names are hashed with %v: %w", dir.ino, v, unix.ENOKEY)
	}
	return hash, nil
}

// addIndexed adds an entry to the leaf where its hash belongs, and makes room
// there if it must (ext4_dx_add_entry). It fails with errBadIndex if the
// index cannot be used and may be given up.
func (h *Handle) addIndexed(dir *Inode, e *dirent) error {
	hash, err := dir.nameHash(e.name)
	if err != nil {
		return err
	}
	// Each turn but the last splits or packs a block on the way, or adds a level.
	for range 2 * maxDxLevels {
		w, err := dir.dxWalk(hash)
		if err != nil {
			return dir.badIndex(err)
		}
		leaf, err := w.leaf()
		if err != nil {
			return dir.badIndex(err)
		}
		if ok, err := h.addToBlock(dir, leaf, e); ok || err != nil {
			return err
		}
		ok, err := h.packLeaf(dir, leaf, e.size())
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if ok, err = h.dxRoom(dir, w); ok && err == nil {
			err = h.splitLeaf(dir, w, leaf)
		}
		if err != nil {
			return err
		}
	}
	return dir.badEntry(e.name, e.ino, "room for an entry in a leaf that has been split")
}

// maxDxLevels is how many levels of nodes an index has at most, with large_dir
// (EXT4_HTREE_LEVEL); one less without.
const maxDxLevels = 3

// dxRoom reports whether the lowest node of the way w has room for one more
// entry. If not, it splits the lowest node whose parent has, or, when all are
// full, gives the tree another level; the way must be looked up again then.
func (h *Handle) dxRoom(dir *Inode, w *dxWalk) (bool, error) {
	low := len(w.frames) - 1
	i := low
	for i >= 0 && w.frames[i].node.Count() >= w.frames[i].node.Limit() {
		i--
	}
	if i == low {
		return true, nil
	}
	if i < 0 {
		most := maxDxLevels
		if !h.fs.sb.Incompat.Has(disk.IncompatLargedir) {
			most--
		}
		if w.levels >= most {
			return false, fmt.Errorf("directory %d: its index is full: %w", dir.ino, unix.ENOSPC)
		}
		return false, h.deepenIndex(dir)
	}
	return false, h.splitNode(dir, w, i+1)
}

// editNode returns the node of the index in block b, to be changed.
func (h *Handle) editNode(dir *Inode, b disk.LBlock) (disk.DxNode, error) {
	if b == 0 {
		data, err := h.editDirBlock(kindDxRoot, dir, 0)
		if err != nil {
			return disk.DxNode{}, err
		}
		return disk.DxRootNode(data), nil
	}
	data, err := h.editDirBlock(kindDxInner, dir, b)
	return disk.DxInnerNode(data), err
}

// newNode gives the directory a block for a node of its index, without entries.
func (h *Handle) newNode(dir *Inode) (disk.DxNode, disk.LBlock, error) {
	b, err := h.appendBlock(dir)
	if err != nil {
		return disk.DxNode{}, 0, err
	}
	phys, err := dir.dirPhysical(b)
	if err != nil {
		return disk.DxNode{}, 0, err
	}
	data := h.fresh(kindDxInner, dir, phys)
	disk.Dirent{RecLen: len(data)}.Put(data, len(data))
	n := disk.DxInnerNode(data)
	n.SetCount(0, n.DxLimit(h.fs.sb.MetadataCsum()))
	return n, b, nil
}

// setEntries makes list the entries of node n.
func setEntries(n disk.DxNode, list []disk.DxEntry) {
	n.SetCount(len(list), n.Limit())
	for i, e := range list {
		n.SetEntry(i, e)
	}
}

func dxEntries(n disk.DxNode) []disk.DxEntry {
	list := make([]disk.DxEntry, n.Count())
	for i := range list {
		list[i] = n.Entry(i)
	}
	return list
}

// deepenIndex puts a node between the root and what is below it.
func (h *Handle) deepenIndex(dir *Inode) error {
	n, b, err := h.newNode(dir)
	if err != nil {
		return err
	}
	data, err := h.editDirBlock(kindDxRoot, dir, 0)
	if err != nil {
		return err
	}
	root := disk.DxRootNode(data)
	setEntries(n, dxEntries(root))
	setEntries(root, []disk.DxEntry{{Block: b}})
	info := disk.DecodeDxRoot(data)
	info.Levels++
	info.Put(data)
	return nil
}

// splitNode moves the upper half of the node at level i of the way w into a
// new one. The node above has room.
func (h *Handle) splitNode(dir *Inode, w *dxWalk, i int) error {
	n, b, err := h.newNode(dir)
	if err != nil {
		return err
	}
	old, err := h.editNode(dir, w.frames[i].block)
	if err != nil {
		return err
	}
	list := dxEntries(old)
	half := len(list) / 2
	setEntries(n, list[half:])
	setEntries(old, list[:half])
	return h.insertNode(dir, w.frames[i-1], disk.DxEntry{Hash: list[half].Hash, Block: b})
}

// insertNode adds an entry to the node of a way, behind the one that the way
// takes.
func (h *Handle) insertNode(dir *Inode, f dxFrame, e disk.DxEntry) error {
	n, err := h.editNode(dir, f.block)
	if err != nil {
		return err
	}
	n.SetCount(n.Count()+1, n.Limit())
	for i := n.Count() - 1; i > f.at+1; i-- {
		n.SetEntry(i, n.Entry(i-1))
	}
	n.SetEntry(f.at+1, e)
	return nil
}

// hashedEntry is an entry of a leaf and its hash.
type hashedEntry struct {
	dirent
	hash uint32
}

// leafEntries returns the entries of block b, but for "." and "..".
func (h *Handle) leafEntries(dir *Inode, b disk.LBlock) ([]hashedEntry, error) {
	v, err := dir.hashVersion()
	if err != nil {
		return nil, err
	}
	var list []hashedEntry
	err = dir.blockEntries(b, func(e disk.Dirent, name, raw []byte, _ int) bool {
		if !disk.IsDot(name) {
			hash, _ := dir.entryHash(v, e, name, raw)
			list = append(list, hashedEntry{dirent{string(name), e.Ino, e.Type}, hash})
		}
		return true
	})
	return list, err
}

func sizeOf(list []hashedEntry) int {
	n := 0
	for i := range list {
		n += list[i].size()
	}
	return n
}

// writeLeaf makes list the entries of block b.
func (h *Handle) writeLeaf(dir *Inode, b disk.LBlock, list []hashedEntry) error {
	phys, err := dir.dirPhysical(b)
	if err != nil {
		return err
	}
	data := h.fresh(kindDir, dir, phys)
	dir.emptyBlock(data)
	off := 0
	for i := range list {
		dir.putDirent(data, off, &list[i].dirent)
		if i > 0 {
			off += list[i-1].size()
		}
	}
	return nil
}

// packLeaf brings the free space of a leaf together, if it makes room for an
// entry of n bytes.
func (h *Handle) packLeaf(dir *Inode, b disk.LBlock, n int) (bool, error) {
	data, phys, err := dir.dirBlock(b)
	if err != nil {
		return false, err
	}
	used := 0
	err = dir.entries(data, phys, func(e disk.Dirent, _, _ []byte, _ int) bool {
		used += disk.DirentSize(e.NameLen, false)
		return true
	})
	if err != nil || used+n > len(data) {
		return false, err
	}
	list, err := h.leafEntries(dir, b)
	if err != nil {
		return false, err
	}
	return true, h.writeLeaf(dir, b, list)
}

// splitLeaf moves the entries with the greater hashes, half of what is in a
// leaf, into a new one (do_split). w is the way to the leaf, and its lowest node has room.
func (h *Handle) splitLeaf(dir *Inode, w *dxWalk, leaf disk.LBlock) error {
	list, err := h.leafEntries(dir, leaf)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return dir.badEntry("", 0, "two entries or more in a leaf that is full")
	}
	slices.SortStableFunc(list, func(a, b hashedEntry) int { return cmp.Compare(a.hash, b.hash) })
	at, upper, all := len(list), 0, sizeOf(list)
	for at > 1 && upper+list[at-1].size()/2 <= all/2 {
		at--
		upper += list[at].size()
	}
	if at == len(list) {
		at--
	}
	b, err := h.appendBlock(dir)
	if err != nil {
		return err
	}
	if err := h.writeLeaf(dir, b, list[at:]); err != nil {
		return err
	}
	if err := h.writeLeaf(dir, leaf, list[:at]); err != nil {
		return err
	}
	e := disk.DxEntry{Hash: list[at].hash, Block: b}
	if list[at-1].hash == e.Hash {
		e.Hash |= 1 // the names of this hash begin in the leaf before
	}
	return h.insertNode(dir, w.frames[len(w.frames)-1], e)
}

// makeIndex gives a directory of one block an index, and its entries a leaf
// of their own (make_indexed_dir).
func (h *Handle) makeIndex(dir *Inode) error {
	dotDot, err := dir.dotDot()
	if err != nil {
		return err
	}
	list, err := h.leafEntries(dir, 0)
	if err != nil {
		return err
	}
	leaf, err := h.appendBlock(dir)
	if err != nil {
		return err
	}
	if err := h.writeLeaf(dir, leaf, list); err != nil {
		return err
	}
	phys, err := dir.dirPhysical(0)
	if err != nil {
		return err
	}
	data := h.fresh(kindDxRoot, dir, phys)
	disk.Dirent{RecLen: len(data)}.Put(data, len(data))
	dir.putDirent(data, 0, &dirent{".", dir.ino, disk.TypeDir})
	dir.putDirent(data, 0, &dirent{"..", dotDot.ino, disk.TypeDir})
	v := disk.HashVersion(h.fs.sb.DefHashVersion)
	if v > disk.HashTea {
		v = disk.HashHalfMD4 // that chars are unsigned stands in s_flags
	}
	disk.DxRoot{HashVersion: v, InfoLength: dxInfoLength}.Put(data)
	n := disk.DxRootNode(data)
	n.SetCount(0, n.DxLimit(h.fs.sb.MetadataCsum()))
	setEntries(n, []disk.DxEntry{{Block: leaf}})
	dir.disk.Flags |= disk.FlagIndex
	dir.hashKnown.Store(0)
	return nil
}

// dxInfoLength is info_length of the root: the bytes between ".." and the entries.
const dxInfoLength = 8

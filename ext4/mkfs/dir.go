package mkfs

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// A dirEntry is a name of a directory that is being written.
type dirEntry struct {
	name        []byte
	ino         disk.Ino
	kind        disk.FileType
	hash, minor uint32
}

// A dirWriter lays out and writes one directory.
type dirWriter struct {
	v       *volume
	ino     disk.Ino
	parent  disk.Ino
	entries []dirEntry
	folds   bool
	seed    uint32 // of its checksums
}

// size is the room that an entry takes.
func (e *dirEntry) size() int { return disk.DirentSize(len(e.name), false) }

// room is how many bytes of a block entries can take.
func (d *dirWriter) room() int {
	n := d.v.sb.BlockSize()
	if d.v.sb.MetadataCsum() {
		n -= disk.DirTailSize
	}
	return n
}

// put writes an entry at b[at:] that takes n bytes.
func (d *dirWriter) put(b []byte, at, n int, e *dirEntry) {
	x := disk.Dirent{Ino: e.ino, RecLen: n, NameLen: len(e.name)}
	if d.v.sb.Incompat.Has(disk.IncompatFiletype) {
		x.Type = e.kind
	}
	x.Put(b[at:], d.v.sb.BlockSize())
	copy(b[at+disk.DirentHeaderSize:], e.name)
}

// fill writes entries into block b from at on, the last up to the end.
func (d *dirWriter) fill(b []byte, at int, list []dirEntry) {
	end := d.room()
	for i := range list {
		n := list[i].size()
		if i == len(list)-1 {
			n = end - at
		}
		d.put(b, at, n, &list[i])
		at += n
	}
	if len(list) == 0 {
		(disk.Dirent{RecLen: end - at}).Put(b[at:], d.v.sb.BlockSize())
	}
	if d.v.sb.MetadataCsum() {
		disk.PutDirTail(b, d.seed)
	}
}

// dots are the entries that every directory begins with.
func (d *dirWriter) dots() []dirEntry {
	return []dirEntry{
		{name: []byte("."), ino: d.ino, kind: disk.TypeDir},
		{name: []byte(".."), ino: d.parent, kind: disk.TypeDir},
	}
}

// A dirLayout says which entries go into which block.
type dirLayout struct {
	indexed bool
	leaves  []int // where the entries of each leaf begin
	inner   []int // of the nodes above the leaves, from the lowest level up: how many each level has
}

// blocks is how many blocks the directory has.
func (l *dirLayout) blocks() uint64 {
	n := len(l.leaves)
	for _, k := range l.inner {
		n += k
	}
	if l.indexed {
		n++ // the root
	}
	return uint64(n)
}

// pack divides the entries among blocks, in the first of which used bytes are
// taken, and returns where each block begins.
func (d *dirWriter) pack(used int) []int {
	starts := []int{0}
	for i := range d.entries {
		n := d.entries[i].size()
		if used+n > d.room() {
			starts = append(starts, i)
			used = 0
		}
		used += n
	}
	return starts
}

// dotsSize is the room that "." and ".." take.
var dotsSize = disk.DirentSize(1, false) + disk.DirentSize(2, false)

// layout decides on the form: one block, or an index over leaves in the order of hashes, or,
// without the feature, one block after the other.
func (d *dirWriter) layout() *dirLayout {
	linear := &dirLayout{leaves: d.pack(dotsSize)}
	if len(linear.leaves) == 1 || !d.v.sb.Compat.Has(disk.CompatDirIndex) {
		return linear
	}
	d.sortByHash()
	l := &dirLayout{indexed: true, leaves: d.pack(0)}
	root, inner := d.limits()
	levels := 1
	if d.v.sb.Incompat.Has(disk.IncompatLargedir) {
		levels = 2
	}
	for n := len(l.leaves); n > root; n = l.inner[len(l.inner)-1] {
		l.inner = append(l.inner, (n+inner-1)/inner)
	}
	if len(l.inner) > levels {
		// More names than the kernel would index: it looks through all blocks.
		return &dirLayout{leaves: d.pack(dotsSize)}
	}
	return l
}

// limits are how many entries the root of an index and its other nodes have.
func (d *dirWriter) limits() (root, inner int) {
	b := make([]byte, d.v.sb.BlockSize())
	disk.DxRoot{InfoLength: 8}.Put(b)
	csum := d.v.sb.MetadataCsum()
	return disk.DxRootNode(b).DxLimit(csum), disk.DxInnerNode(b).DxLimit(csum)
}

// sortByHash puts the entries in the order of an index.
func (d *dirWriter) sortByHash() {
	version := d.v.sb.EffectiveHash(disk.HashVersion(d.v.sb.DefHashVersion))
	for i := range d.entries {
		e := &d.entries[i]
		name := e.name
		if d.folds {
			if s, ok := disk.Fold(name); ok {
				name = []byte(s)
			}
		}
		e.hash, e.minor, _ = disk.NameHash(version, d.v.sb.HashSeed, name)
	}
	slices.SortFunc(d.entries, func(a, b dirEntry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), bytes.Compare(a.name, b.name))
	})
}

// write writes the directory to the blocks of runs.
func (d *dirWriter) write(l *dirLayout, runs []run) error {
	next := sequence(runs)
	emit := func(b []byte) error { return d.v.writeBlock(next(), b) }
	b := make([]byte, d.v.sb.BlockSize())
	if !l.indexed {
		for k := range l.leaves {
			clear(b)
			list := d.leaf(l, k)
			if k == 0 {
				list = append(d.dots(), list...)
			}
			d.fill(b, 0, list)
			if err := emit(b); err != nil {
				return err
			}
		}
		return nil
	}
	for _, node := range d.index(l) {
		if err := emit(node); err != nil {
			return err
		}
	}
	for k := range l.leaves {
		clear(b)
		d.fill(b, 0, d.leaf(l, k))
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

// leaf is the entries of leaf k.
func (d *dirWriter) leaf(l *dirLayout, k int) []dirEntry {
	end := len(d.entries)
	if k+1 < len(l.leaves) {
		end = l.leaves[k+1]
	}
	return d.entries[l.leaves[k]:end]
}

// index is the blocks above the leaves: the root, and behind it the nodes
// from the highest level down.
func (d *dirWriter) index(l *dirLayout) [][]byte {
	nodes := int(l.blocks()) - len(l.leaves)
	// What the level below looks like from above: where it begins, and the
	// hash of each block.
	below := make([]disk.DxEntry, len(l.leaves))
	for k := range below {
		below[k] = disk.DxEntry{Block: disk.LBlock(nodes + k)}
		if at := l.leaves[k]; k > 0 {
			below[k].Hash = d.entries[at].hash
			if d.entries[at-1].hash == d.entries[at].hash {
				below[k].Hash |= 1 // the names of this hash begin in the block before
			}
		}
	}
	blocks := make([][]byte, nodes)
	at := nodes
	_, limit := d.limits()
	csum := d.v.sb.MetadataCsum()
	for _, n := range l.inner {
		at -= n
		above := make([]disk.DxEntry, n)
		for i := range n {
			b := make([]byte, d.v.sb.BlockSize())
			(disk.Dirent{RecLen: d.v.sb.BlockSize()}).Put(b, d.v.sb.BlockSize())
			list := below[len(below)*i/n : len(below)*(i+1)/n]
			d.node(disk.DxInnerNode(b), list, limit, csum)
			blocks[at+i] = b
			above[i] = disk.DxEntry{Hash: list[0].Hash, Block: disk.LBlock(at + i)}
		}
		below = above
	}
	b := make([]byte, d.v.sb.BlockSize())
	dots := d.dots()
	d.put(b, 0, disk.DirentSize(1, false), &dots[0])
	d.put(b, disk.DirentSize(1, false), len(b)-disk.DirentSize(1, false), &dots[1])
	disk.DxRoot{HashVersion: disk.HashVersion(d.v.sb.DefHashVersion), InfoLength: 8, Levels: uint8(len(l.inner))}.Put(b)
	root, _ := d.limits()
	d.node(disk.DxRootNode(b), below, root, csum)
	blocks[0] = b
	return blocks
}

// node fills a node of the index.
func (d *dirWriter) node(n disk.DxNode, list []disk.DxEntry, limit int, csum bool) {
	n.SetCount(len(list), limit)
	for i, e := range list {
		n.SetEntry(i, e)
	}
	if csum {
		n.PutChecksum(d.seed)
	}
}

// sequence gives the blocks of runs one after the other.
func sequence(runs []run) func() disk.PBlock {
	i, at := 0, disk.PBlock(0)
	return func() disk.PBlock {
		for runs[i].start+at == runs[i].end {
			i, at = i+1, 0
		}
		at++
		return runs[i].start + at - 1
	}
}

// checkFolds reports two names of a casefolded directory that stand for the
// same, or one that a strict file system refuses.
func checkFolds(sb *disk.Superblock, path string, entries []dirEntry) error {
	seen := make(map[string][]byte)
	for i := range entries {
		name := entries[i].name
		s, ok := disk.Fold(name)
		if !ok {
			if sb.EncodingFlags&disk.EncodingStrict != 0 {
				return fmt.Errorf("%s: the name %q is not UTF-8, which the encoding flag strict wants", path, name)
			}
			s = string(name)
		}
		if other, ok := seen[s]; ok {
			return fmt.Errorf("%s: the names %q and %q are the same when case is ignored", path, other, name)
		}
		seen[s] = name
	}
	return nil
}

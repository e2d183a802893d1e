package jbd2

import (
	"fmt"

	"e4go/ext4/disk"
)

// fcDir is a directory that records change. Of its entries only those are
// known that some record names, so that reading it once is enough and memory
// is bounded by the records.
type fcDir struct {
	n     *fcInode
	known map[string]struct{}    // names that records use
	where map[string]disk.LBlock // the block of each such entry that exists; inline entries are in none
	// No block before this has room for an entry of that many words:
	// searches for room pass each block once for each size.
	room [disk.DirentHeaderSize/4 + disk.MaxNameLen/4 + 2]disk.LBlock
}

// dir returns the directory in inode n, reading it when first asked.
func (fs *fcFS) dir(n *fcInode) (*fcDir, error) {
	if d, ok := fs.dirs[n.ino]; ok {
		return d, nil
	}
	d := &fcDir{n: n, known: fs.names[n.ino], where: make(map[string]disk.LBlock)}
	if n.in.Flags.Has(disk.FlagInlineData) {
		fs.dirs[n.ino] = d
		return d, nil // small enough to be searched every time
	}
	if err := fs.loadMap(n); err != nil {
		return nil, err
	}
	for l := range disk.LBlock(d.blocks(fs)) {
		blk, ok := n.lookup(uint64(l))
		if !ok {
			continue
		}
		b, err := fs.read(blk)
		if err != nil {
			return nil, err
		}
		err = fs.entries(n.ino, fs.area(b), blk, func(_ int, e disk.Dirent, name []byte) bool {
			if _, wanted := d.known[string(name)]; wanted && e.Ino != 0 {
				d.where[string(name)] = l
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	fs.dirs[n.ino] = d
	return d, nil
}

// blocks is the length of the directory; one that claims more than its map has
// blocks to look at is cut there.
func (d *fcDir) blocks(fs *fcFS) uint64 {
	n := d.n.in.Size / uint64(fs.bs)
	if len(d.n.ext) == 0 {
		return 0
	}
	return min(n, d.n.ext[len(d.n.ext)-1].end())
}

// area is the part of directory block b that holds entries. Nodes of a hash
// tree have no tail, but may still hold the bytes of one from before they
// became nodes; their last entry covers the whole block.
func (fs *fcFS) area(b []byte) []byte {
	if !fs.sb.MetadataCsum() {
		return b
	}
	first := disk.DecodeDirent(b, fs.bs)
	if first.RecLen == fs.bs {
		return b
	}
	if dot := disk.DirentSize(1, false); first.RecLen == dot && disk.DecodeDirent(b[dot:], fs.bs).RecLen == fs.bs-dot {
		return b
	}
	area, _ := disk.DirTail(b)
	return area
}

// entries calls fn with each entry of area, free ones included, until it
// returns false. It fails on the first that breaks a rule.
func (fs *fcFS) entries(dir disk.Ino, area []byte, blk disk.PBlock, fn func(off int, e disk.Dirent, name []byte) bool) error {
	for off := 0; off < len(area); {
		if err := disk.CheckDirent(&fs.sb, dir, area, blk, off); err != nil {
			return err
		}
		e := disk.DecodeDirent(area[off:], fs.bs)
		if !fn(off, e, area[off+disk.DirentHeaderSize:][:e.NameLen]) {
			return nil
		}
		off += e.RecLen
	}
	return nil
}

// insert puts an entry into area if there is room between its entries.
func (fs *fcFS) insert(dir disk.Ino, area []byte, blk disk.PBlock, name string, child *fcInode) (done bool, err error) {
	size := disk.DirentSize(len(name), false)
	err = fs.entries(dir, area, blk, func(off int, e disk.Dirent, _ []byte) bool {
		used := 0
		if e.Ino != 0 {
			used = disk.DirentSize(e.NameLen, false)
		}
		if e.RecLen-used < size {
			return true
		}
		if used > 0 {
			rest := e.RecLen - used
			e.RecLen = used
			e.Put(area[off:], fs.bs)
			off, e.RecLen = off+used, rest
			clear(area[off : off+disk.DirentHeaderSize])
		}
		fs.put(area[off:], e.RecLen, name, child)
		done = true
		return false
	})
	return done, err
}

// put writes an entry of recLen bytes at the start of b.
func (fs *fcFS) put(b []byte, recLen int, name string, child *fcInode) {
	e := disk.Dirent{Ino: child.ino, RecLen: recLen, NameLen: len(name)}
	if fs.sb.Incompat.Has(disk.IncompatFiletype) {
		e.Type = child.in.Mode.FileType()
	}
	clear(b[:disk.DirentHeaderSize])
	e.Put(b, fs.bs)
	copy(b[disk.DirentHeaderSize:], name)
}

// remove takes the entry name of inode ino out of area: the entry before it
// grows over it, or it becomes free itself (ext4_generic_delete_entry).
func (fs *fcFS) remove(dir disk.Ino, area []byte, blk disk.PBlock, name string, ino disk.Ino) (done bool, err error) {
	prev := -1
	err = fs.entries(dir, area, blk, func(off int, e disk.Dirent, have []byte) bool {
		if e.Ino != ino || string(have) != name {
			prev = off
			return true
		}
		done = true
		if prev < 0 {
			e.Ino = 0
			e.Put(area[off:], fs.bs)
			return false
		}
		p := disk.DecodeDirent(area[prev:], fs.bs)
		p.RecLen += e.RecLen
		p.Put(area[prev:], fs.bs)
		return false
	})
	return done, err
}

// blockOf returns block l of d to be changed, and where it lies.
func (fs *fcFS) blockOf(d *fcDir, l disk.LBlock) ([]byte, disk.PBlock, error) {
	blk, ok := d.n.lookup(uint64(l))
	if !ok {
		return nil, 0, &disk.CorruptError{
			Struct: "directory", Num: uint64(d.n.ino), Block: d.n.blk, Off: d.n.off, Field: "block map",
			Have: fmt.Sprintf("a hole at block %d", l), Want: "a block",
		}
	}
	b, err := fs.edit(blk)
	return b, blk, err
}

// sumDir sums directory block b, which holds entries only.
func (fs *fcFS) sumDir(d *fcDir, b []byte) {
	if fs.sb.MetadataCsum() {
		disk.PutDirTail(b, d.n.seed)
	}
}

// checkLeaf judges a block before an entry of it is changed: a checksum that
// was wrong must not be made right.
func (fs *fcFS) checkLeaf(d *fcDir, b []byte, blk disk.PBlock) error {
	if !fs.sb.MetadataCsum() {
		return nil
	}
	return disk.CheckDirBlock(d.n.ino, b, d.n.seed, blk)
}

// has returns the inode that name stands for, as far as records use the name.
func (fs *fcFS) has(d *fcDir, name string) (disk.Ino, error) {
	var found disk.Ino
	match := func(_ int, e disk.Dirent, have []byte) bool {
		if e.Ino != 0 && string(have) == name {
			found = e.Ino
		}
		return found == 0
	}
	if d.n.in.Flags.Has(disk.FlagInlineData) {
		return found, fs.inlineEntries(d.n, match)
	}
	l, ok := d.where[name]
	if !ok {
		return 0, nil
	}
	b, blk, err := fs.blockOf(d, l)
	if err != nil {
		return 0, err
	}
	return found, fs.entries(d.n.ino, fs.area(b), blk, match)
}

// addEntry puts an entry into d, which has none of that name (ext4_add_entry).
func (fs *fcFS) addEntry(d *fcDir, name string, child *fcInode) error {
	if d.n.in.Flags.Has(disk.FlagEncrypt) {
		return &UnsupportedError{What: fmt.Sprintf("fast commit, directory %d", d.n.ino), Features: []string{"encrypted names"}}
	}
	if d.n.in.Flags.Has(disk.FlagInlineData) {
		done, err := fs.insertInline(d.n, name, child)
		if err != nil || done {
			return err
		}
		if err := fs.spill(d); err != nil {
			return err
		}
	}
	if d.n.in.Flags.Has(disk.FlagIndex) {
		done, err := fs.addIndexed(d, name, child)
		if err != nil || done {
			return err
		}
		if err := fs.unindex(d); err != nil {
			return err
		}
	}
	class := disk.DirentSize(len(name), false) / 4
	for ; uint64(d.room[class]) < d.blocks(fs); d.room[class]++ {
		l := d.room[class]
		blk, ok := d.n.lookup(uint64(l))
		if !ok {
			continue
		}
		b, err := fs.read(blk)
		if err != nil {
			return err
		}
		if err := fs.checkLeaf(d, b, blk); err != nil {
			return err
		}
		done, err := fs.insert(d.n.ino, fs.area(b), blk, name, child)
		if err != nil {
			return err
		}
		if done {
			fs.stage[blk] = b
			fs.sumDir(d, b)
			d.where[name] = l
			return nil
		}
	}
	l, b, err := fs.appendBlock(d)
	if err != nil {
		return err
	}
	fs.put(b, len(fs.area(b)), name, child)
	fs.sumDir(d, b)
	d.where[name] = l
	return nil
}

// appendBlock adds a block to d and returns it: zeros, and with metadata_csum
// a tail to be summed.
func (fs *fcFS) appendBlock(d *fcDir) (disk.LBlock, []byte, error) {
	n := d.n
	l := n.in.Size / uint64(fs.bs)
	if l >= 1<<32-1 {
		return 0, nil, &disk.CorruptError{
			Struct: "inode", Num: uint64(n.ino), Block: n.blk, Off: n.off + 4, Field: "i_size",
			Have: fmt.Sprint(n.in.Size), Want: "room for a block more",
		}
	}
	mask := uint64(1)<<fs.sb.ClusterBits() - 1
	goal := n.blk
	if l > 0 {
		if p, ok := n.lookup(l - 1); ok {
			goal = p
		}
	}
	var blk disk.PBlock
	if l&mask != 0 && goal != n.blk { // the rest of a cluster that it has
		blk = goal + 1
	} else {
		c, err := fs.allocate(goal)
		if err != nil {
			return 0, nil, err
		}
		blk = c + disk.PBlock(l&mask)
	}
	if err := fs.setMap(n, fcExtent{block: l, len: 1, start: blk}); err != nil {
		return 0, nil, err
	}
	n.in.Size = (l + 1) * uint64(fs.bs)
	n.dirty = true
	b := fs.fresh(blk)
	fs.sumDir(d, b)
	return disk.LBlock(l), b, nil
}

// removeEntry takes name, which stands for ino, out of d.
func (fs *fcFS) removeEntry(d *fcDir, name string, ino disk.Ino) error {
	if d.n.in.Flags.Has(disk.FlagInlineData) {
		return fs.removeInline(d.n, name, ino)
	}
	l := d.where[name]
	b, blk, err := fs.blockOf(d, l)
	if err != nil {
		return err
	}
	if err := fs.checkLeaf(d, b, blk); err != nil {
		return err
	}
	if _, err := fs.remove(d.n.ino, fs.area(b), blk, name, ino); err != nil {
		return err
	}
	fs.sumDir(d, b)
	delete(d.where, name)
	for i := range d.room {
		d.room[i] = min(d.room[i], l)
	}
	return nil
}

// initDir makes n, a new directory without blocks, one with "." and ".."
// (ext4_init_new_dir).
func (fs *fcFS) initDir(n, parent *fcInode) error {
	n.in.Size = 0
	n.in.Flags &^= disk.FlagIndex
	n.in.Links = 2
	d := &fcDir{n: n, known: fs.names[n.ino], where: make(map[string]disk.LBlock)}
	fs.dirs[n.ino] = d
	_, b, err := fs.appendBlock(d)
	if err != nil {
		return err
	}
	fs.putDots(b, n, parent)
	fs.sumDir(d, b)
	return nil
}

// putDots writes "." and ".." over the whole of directory block b.
func (fs *fcFS) putDots(b []byte, n, parent *fcInode) {
	area := fs.area(b)
	size := disk.DirentSize(1, false)
	fs.put(area, size, ".", n)
	fs.put(area[size:], len(area)-size, "..", parent)
}

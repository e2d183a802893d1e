package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A DirEntry is one entry of a directory.
type DirEntry struct {
	Name   string
	Ino    disk.Ino
	Type   disk.FileType // TypeUnknown without the filetype feature
	Cookie uint64        // where to go on behind this entry, for [Dir.Seek]
}

// Cookies of the entries that come first. Behind them, in hash order, the
// cookie of an entry is its place in that order plus firstCookie: 31 bits of hash and 32 of minor hash,
// as the kernel's telldir has it. In directories that are listed by offset, it is the byte
// where the next entry starts plus firstCookie.
const (
	cookieDot    = 1
	cookieDotDot = 2
	firstCookie  = 3
)

// A Dir lists a directory. It belongs to one goroutine at a time.
//
// In a file system with the dir_index feature entries come in the order of
// their hashes, so a cookie stays right while entries come and go: whatever
// was there all the time is seen exactly once. In others they come as they lie.
type Dir struct {
	in     *Inode
	next   uint64     // cookie: what comes next
	hashed bool       // in hash order
	tree   *dxWalk    // the leaves, of an indexed directory in hash order; nil else
	batch  []dirPlace // read ahead, in order of place
	at     int        // in batch
	end    uint64     // the place behind batch
	last   bool       // nothing follows batch
	left   uint64     // blocks that may still be listed by offset: no more than the device has
}

// dirPlace is an entry and its place in the order of the listing.
type dirPlace struct {
	place uint64
	ent   DirEntry
}

// OpenDir returns a listing of directory in, at its start. It fails with a
// wrapped ENOTDIR if in is none.
func (fs *FS) OpenDir(in *Inode) (*Dir, error) {
	if in.Type() != disk.ModeDir {
		return nil, fmt.Errorf("list inode %d: %w", in.ino, unix.ENOTDIR)
	}
	d := &Dir{in: in, left: fs.deviceBlocks()}
	// is_dx_dir: one block is listed by hash, too, so that cookies stay right when it grows.
	if fs.sb.Compat.Has(disk.CompatDirIndex) &&
		(in.disk.Flags.Has(disk.FlagIndex) || in.Size() == int64(fs.sb.BlockSize()) || in.HasInlineData()) {
		d.hashed = true
	}
	return d, nil
}

// Seek moves the listing to a cookie that an entry gave; 0 is the start.
func (d *Dir) Seek(cookie uint64) {
	if cookie == d.next {
		return
	}
	d.next, d.batch, d.at, d.end, d.last, d.tree = cookie, nil, 0, 0, false, nil
}

// Next returns the next entry, and io.EOF behind the last. After a
// *disk.CorruptError it may be called again: it goes on behind what it could not read.
func (d *Dir) Next() (DirEntry, error) {
	switch d.next {
	case 0:
		d.next = cookieDot
		return DirEntry{Name: ".", Ino: d.in.ino, Type: disk.TypeDir, Cookie: cookieDot}, nil
	case cookieDot:
		d.next = cookieDotDot
		parent, err := d.in.Parent()
		return DirEntry{Name: "..", Ino: parent, Type: disk.TypeDir, Cookie: cookieDotDot}, err
	}
	for d.at >= len(d.batch) {
		if d.last {
			return DirEntry{}, io.EOF
		}
		if err := d.fill(); err != nil {
			return DirEntry{}, err
		}
	}
	e := d.batch[d.at].ent
	d.at++
	d.next = e.Cookie
	return e, nil
}

// fill reads the next batch. It makes progress even when it fails.
func (d *Dir) fill() error {
	start := d.next - min(d.next, firstCookie-1) // the least place wanted
	d.batch, d.at = d.batch[:0], 0
	switch {
	case !d.hashed:
		return d.fillLinear(start)
	case d.in.disk.Flags.Has(disk.FlagIndex) && !d.in.HasInlineData():
		err := d.fillTree(start)
		if errors.Is(err, disk.ErrCorrupt) && d.tree == nil {
			// The index cannot be used: list the blocks as they lie (ERR_BAD_DX_DIR).
			d.hashed, d.last = false, false
			if start == 0 {
				return d.fillLinear(0)
			}
		}
		if err != nil && d.tree == nil {
			d.last = true
		}
		return err
	default:
		d.last = true
		err := d.eachOfBlock(0, d.addHashed)
		d.sortFrom(start)
		return err
	}
}

// sortFrom puts the batch in order, parts entries whose hashes are equal, and drops what lies before start.
func (d *Dir) sortFrom(start uint64) {
	slices.SortStableFunc(d.batch, func(a, b dirPlace) int { return cmp.Compare(a.place, b.place) })
	for i := range d.batch {
		p := &d.batch[i]
		if i > 0 && p.place <= d.batch[i-1].place {
			p.place = d.batch[i-1].place + 1
		}
		p.ent.Cookie = p.place + firstCookie
	}
	i, _ := slices.BinarySearchFunc(d.batch, start, func(p dirPlace, s uint64) int { return cmp.Compare(p.place, s) })
	d.at = i
}

// addHashed adds the entry at b, with name, to the batch, by its hash.
func (d *Dir) addHashed(e disk.Dirent, name, b []byte) {
	if disk.IsDot(name) {
		return
	}
	hash, minor := d.in.entryHash(e, name, b)
	d.batch = append(d.batch, dirPlace{
		place: uint64(hash>>1)<<32 | uint64(minor),
		ent:   DirEntry{Name: d.in.shownName(name, hash, minor), Ino: e.Ino, Type: e.Type},
	})
}

// fillTree adds the entries of the next leaf of the hash tree, and of those
// that continue its last hash. Without a tree (d.tree nil after an error), the
// index is of no use.
func (d *Dir) fillTree(start uint64) error {
	if d.tree == nil {
		tree, err := d.in.dxWalk(uint32(start>>32) << 1)
		if err != nil {
			return err
		}
		d.tree = tree
	}
	for {
		leaf, err := d.tree.leaf()
		if err != nil {
			d.last = true
			return err
		}
		err = d.eachOfBlock(leaf, d.addHashed)
		more, continued, nerr := d.tree.advance()
		if err == nil {
			err = nerr
		}
		d.last = !more
		if err != nil {
			// What was read stays in the batch: it comes before what follows.
			d.sortFrom(start)
			return err
		}
		if !more || !continued {
			break
		}
	}
	d.sortFrom(start)
	return nil
}

// fillLinear adds the entries of the block that byte start lies in, from there on.
func (d *Dir) fillLinear(start uint64) error {
	in := d.in
	if in.HasInlineData() {
		d.last = true
		at := uint64(0)
		err := d.eachOfBlock(0, func(e disk.Dirent, name, b []byte) {
			at++
			d.addLinear(e, name, at)
		})
		d.sortLinear(start)
		return err
	}
	bits := in.fs.sb.BlockBits()
	blocks := uint64(in.Size()) >> bits
	for b := max(start, d.end) >> bits; ; b++ {
		if b >= blocks || b >= maxLogical {
			d.last = true
			return nil
		}
		// A hole in a directory is passed over, as the kernel does.
		m, err := in.Map(disk.LBlock(b))
		if err != nil {
			d.last = true
			return err
		}
		if m.State != MapWritten {
			b = m.End() - 1
			continue
		}
		if d.left == 0 {
			d.last = true
			return in.tooManyBlocks()
		}
		d.left--
		d.end = (b + 1) << bits
		err = d.eachEntry(disk.LBlock(b), func(e disk.Dirent, name, _ []byte, off int) {
			d.addLinear(e, name, b<<bits+uint64(off+e.RecLen))
		})
		d.sortLinear(start)
		if err != nil || d.at < len(d.batch) {
			return err
		}
	}
}

// tooManyBlocks reports a directory that maps more blocks than there are: some
// of them many times.
func (in *Inode) tooManyBlocks() error {
	return &disk.CorruptError{Struct: "directory", Num: uint64(in.ino), Block: in.block, Off: in.off + 4, Field: "i_size",
		Have: fmt.Sprintf("%d, with more blocks mapped than the device has", in.Size()), Want: fmt.Sprintf("at most %d blocks", in.fs.deviceBlocks())}
}

func (d *Dir) addLinear(e disk.Dirent, name []byte, next uint64) {
	if disk.IsDot(name) {
		return
	}
	d.batch = append(d.batch, dirPlace{place: next, ent: DirEntry{
		Name: d.in.shownName(name, 0, 0), Ino: e.Ino, Type: e.Type, Cookie: next + firstCookie - 1,
	}})
}

// sortLinear drops what was listed before: entries that end at or before start.
func (d *Dir) sortLinear(start uint64) {
	i, found := slices.BinarySearchFunc(d.batch, start, func(p dirPlace, s uint64) int { return cmp.Compare(p.place, s) })
	if found {
		i++
	}
	d.at = i
}

// eachOfBlock calls fn for the entries in use of block b, or of the inline data.
func (d *Dir) eachOfBlock(b disk.LBlock, fn func(e disk.Dirent, name, raw []byte)) error {
	return d.eachEntry(b, func(e disk.Dirent, name, raw []byte, _ int) { fn(e, name, raw) })
}

func (d *Dir) eachEntry(b disk.LBlock, fn func(e disk.Dirent, name, raw []byte, off int)) error {
	if d.in.HasInlineData() {
		return d.in.inlineEntries(func(e disk.Dirent, name, raw []byte) bool { fn(e, name, raw, 0); return true })
	}
	return d.in.blockEntries(b, func(e disk.Dirent, name, raw []byte, off int) bool { fn(e, name, raw, off); return true })
}

// blockEntries calls fn for each entry in use of block b of the directory,
// with its name and its bytes, until fn returns false.
func (in *Inode) blockEntries(b disk.LBlock, fn func(e disk.Dirent, name, raw []byte, off int) bool) error {
	data, phys, err := in.dirBlock(b)
	if err != nil {
		return err
	}
	return in.entries(data, phys, 0, fn)
}

// entries walks the chain of entries in data, which lie in block phys at byte base.
func (in *Inode) entries(data []byte, phys disk.PBlock, base int, fn func(e disk.Dirent, name, raw []byte, off int) bool) error {
	for off := 0; off < len(data); {
		if err := disk.CheckDirent(&in.fs.sb, in.ino, data, phys, off); err != nil {
			return err
		}
		raw := data[off:]
		e := disk.DecodeDirent(raw, in.fs.sb.BlockSize())
		if e.Ino != 0 {
			if !in.fs.sb.Incompat.Has(disk.IncompatFiletype) {
				e.Type = disk.TypeUnknown
			}
			if !fn(e, raw[disk.DirentHeaderSize:][:e.NameLen], raw[:e.RecLen], base+off) {
				return nil
			}
		}
		off += e.RecLen
	}
	return nil
}

// inlineDirHead is the inode number of the parent, at the start of an inline directory.
const inlineDirHead = 4

// inlineEntries is blockEntries for a directory whose entries stand in the
// inode: a chain in i_block behind the parent's number, and one in the xattr.
func (in *Inode) inlineEntries(fn func(e disk.Dirent, name, raw []byte) bool) error {
	parts, err := in.inlineParts()
	if err != nil {
		return err
	}
	stop := false
	each := func(e disk.Dirent, name, raw []byte, _ int) bool {
		stop = !fn(e, name, raw)
		return !stop
	}
	if err := in.entries(parts[0][inlineDirHead:], in.block, in.off+disk.IBlockOffset+inlineDirHead, each); err != nil || stop {
		return err
	}
	return in.entries(parts[1], in.block, in.off, each)
}

// dirBlock returns the part of block b that holds entries, and where it lies.
func (in *Inode) dirBlock(b disk.LBlock) ([]byte, disk.PBlock, error) {
	phys, err := in.dirPhysical(b)
	if err != nil {
		return nil, 0, err
	}
	csum := in.fs.sb.MetadataCsum()
	data, err := in.fs.meta(kindDir, phys, in.ino, func(data []byte) error {
		if !csum || in.isDxBlock(b, data) {
			return nil
		}
		return disk.CheckDirBlock(in.ino, data, in.seed, phys)
	})
	if err != nil {
		return nil, 0, err
	}
	if csum && !in.isDxBlock(b, data) {
		data, _ = disk.DirTail(data)
	}
	return data, phys, nil
}

// isDxBlock reports whether block b of an indexed directory is part of the
// index, which carries another kind of checksum: its root, or an interior node, which
// looks like one empty entry over the whole block.
func (in *Inode) isDxBlock(b disk.LBlock, data []byte) bool {
	if !in.disk.Flags.Has(disk.FlagIndex) {
		return false
	}
	if b == 0 {
		return true
	}
	e := disk.DecodeDirent(data, len(data))
	return e.Ino == 0 && e.RecLen == len(data) && e.NameLen == 0
}

// dirPhysical is the block that block b of the directory lies in.
func (in *Inode) dirPhysical(b disk.LBlock) (disk.PBlock, error) {
	m, err := in.Map(b)
	if err != nil {
		return 0, err
	}
	if m.State != MapWritten || int64(b) >= (in.Size()+int64(in.fs.sb.BlockSize())-1)>>in.fs.sb.BlockBits() {
		return 0, &disk.CorruptError{
			Struct: "block of directory", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
			Field: fmt.Sprintf("block %d", b), Have: m.State.String(), Want: "written, and within i_size",
		}
	}
	return m.Physical + disk.PBlock(b-m.Logical), nil
}

// Parent is the inode that the directory's entry ".." names.
func (in *Inode) Parent() (disk.Ino, error) {
	if in.HasInlineData() {
		p := disk.DecodeDirent(in.disk.Block[:], in.fs.sb.BlockSize()).Ino
		if !in.fs.sb.ValidIno(p) {
			return 0, &disk.CorruptError{Struct: "inline directory", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
				Field: "parent", Have: fmt.Sprint(p), Want: fmt.Sprintf("1 to %d", in.fs.sb.Inodes)}
		}
		return p, nil
	}
	var parent disk.Ino
	err := in.blockEntries(0, func(e disk.Dirent, name, _ []byte, _ int) bool {
		if string(name) == ".." {
			parent = e.Ino
			return false
		}
		return true
	})
	if err == nil && parent == 0 {
		err = &disk.CorruptError{Struct: "directory", Num: uint64(in.ino), Block: in.block, Off: in.off,
			Field: "entry ..", Have: "missing", Want: "an entry in block 0"}
	}
	return parent, err
}

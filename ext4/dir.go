package ext4

import (
	"bytes"
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
// where the next entry starts plus firstCookie-1.
const (
	cookieDot    = 1
	cookieDotDot = 2
	firstCookie  = 3
)

const (
	maxDirErrors = 1000 // broken blocks and entries after which a listing or a search gives up
	batchLeaves  = 64   // leaves with names of one hash that are put in order together
	hashLast     = 0xfffffffc
)

// A Dir lists a directory. It belongs to one goroutine at a time.
//
// In a file system with the dir_index feature entries come in the order of
// their hashes, so a cookie stays right while entries come and go: whatever
// was there all the time is seen exactly once. In others they come as they lie.
type Dir struct {
	in     *Inode
	next   uint64           // cookie: what comes next
	hashed bool             // in hash order
	hash   disk.HashVersion // of the batch at hand
	tree   *dxWalk          // the leaves, of an indexed directory in hash order; nil else
	batch  []dirPlace       // read ahead, in order of place
	at     int              // in batch
	end    uint64           // the place behind batch, by offset
	last   bool             // nothing follows batch
	errs   int              // how often fill failed
	bad    error            // of an entry of the batch at hand: its name
	seen   map[disk.PBlock]bool
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
	return &Dir{in: in, hashed: in.listedByHash()}, nil
}

// listedByHash reports whether a listing is in the order of hashes: one block,
// too, so that cookies stay right when it grows (is_dx_dir).
func (in *Inode) listedByHash() bool {
	return in.fs.sb.Compat.Has(disk.CompatDirIndex) &&
		(in.disk.Flags.Has(disk.FlagIndex) || in.Size()>>in.fs.sb.BlockBits() == 1 || in.HasInlineData())
}

// Seek moves the listing to a cookie that an entry gave; 0 is the start.
func (d *Dir) Seek(cookie uint64) {
	if cookie == d.next {
		return
	}
	d.next, d.batch, d.at, d.end, d.last, d.tree, d.seen = cookie, nil, 0, 0, false, nil, nil
}

// Next returns the next entry, and io.EOF behind the last. After a
// *disk.CorruptError it may be called again: it goes on behind what it could
// not read, and ends where too much is broken.
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
			if d.errs++; d.errs >= maxDirErrors {
				d.last = true
			}
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
	again := false
	return d.in.stable(func(now *Inode) error {
		if again || now != d.in {
			// The places of the entries are still right, the blocks may be others, and
			// what an earlier try has left is not to be counted on.
			d.in, d.end, d.tree, d.seen, d.last = now, 0, nil, nil, false
			d.hashed = now.listedByHash()
		}
		again = true
		return d.fillOnce()
	})
}

func (d *Dir) fillOnce() error {
	start := d.next - min(d.next, firstCookie-1) // the least place wanted
	d.batch, d.at = d.batch[:0], 0
	if !d.hashed {
		return d.fillLinear(start)
	}
	var err error
	if d.hash, err = d.in.hashVersion(); err != nil {
		d.last = true
		return err
	}
	if d.in.disk.Flags.Has(disk.FlagIndex) && !d.in.HasInlineData() {
		// Who begins anew at a place finds what was listed already first. Where that goes on to
		// damage, and damage makes him begin anew, he must come as far as that.
		for {
			err := d.fillTree(start)
			if err != nil || d.last || d.at < len(d.batch) || !d.hashed {
				return err
			}
			d.batch, d.at = d.batch[:0], 0
		}
	}
	d.last = true
	err = d.eachEntry(0, d.addHashed)
	d.sortHashed(0, start)
	return err
}

// sortHashed puts the batch in order, from place least on, parts entries whose
// hashes are equal, and drops what lies before start.
func (d *Dir) sortHashed(least, start uint64) {
	slices.SortFunc(d.batch, func(a, b dirPlace) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.ent.Name, b.ent.Name))
	})
	for i := range d.batch {
		p := &d.batch[i]
		p.place = max(p.place, least)
		least = p.place + 1
		p.ent.Cookie = p.place + firstCookie
	}
	d.dropBefore(start)
}

// dropBefore passes over the entries of the batch whose place is less than start.
func (d *Dir) dropBefore(start uint64) {
	d.at, _ = slices.BinarySearchFunc(d.batch, start, func(p dirPlace, s uint64) int { return cmp.Compare(p.place, s) })
}

// addHashed adds an entry to the batch, by its hash.
func (d *Dir) addHashed(e disk.Dirent, name, raw []byte, off int) {
	if disk.IsDot(name) || !d.fitName(name) {
		return
	}
	hash, minor := d.in.entryHash(d.hash, e, name, raw)
	tie := minor
	if tie == 0 {
		// The legacy hash has no second word, and its 31 bits alone collide.
		// With one of ours, a name keeps its place when another of its hash goes away.
		tie = disk.CRC32C(^uint32(0), name)
	}
	d.batch = append(d.batch, dirPlace{
		place: uint64(min(hash, hashLast)>>1)<<32 | uint64(tie),
		ent:   DirEntry{Name: d.in.shownName(name, hash, minor), Ino: e.Ino, Type: e.Type},
	})
}

// fitName reports whether a stored name is one that a file can have. A name
// with a slash would lead whoever uses it elsewhere (verify_dirent_name).
// Encrypted names are bytes of all kinds, and shown encoded.
func (d *Dir) fitName(name []byte) bool {
	if d.in.encrypted() || bytes.IndexByte(name, '/') < 0 && bytes.IndexByte(name, 0) < 0 {
		return true
	}
	if d.bad == nil {
		d.bad = &disk.CorruptError{Struct: "entry of directory", Num: uint64(d.in.ino), Block: d.in.block, Off: d.in.off,
			Field: "name", Have: fmt.Sprintf("%q", name), Want: "a name without slash and NUL"}
	}
	return false
}

// fillTree adds the entries of the next leaf of the hash tree, and of those
// that continue its last hash.
func (d *Dir) fillTree(start uint64) error {
	least := start // on the way from leaf to leaf, nothing is listed that was before
	if d.tree == nil {
		tree, err := d.in.dxWalk(uint32(start>>32) << 1)
		if errors.Is(err, disk.ErrCorrupt) && (tree == nil || start>>32 == 0) {
			// The index cannot be used: list the blocks as they lie
			// (ERR_BAD_DX_DIR). Whoever comes back with a cookie gets here again.
			d.hashed = false
			return d.fillLinear(start)
		}
		d.tree, d.last, least = tree, tree == nil, 0
		if err != nil {
			return err
		}
	}
	if d.tree.broken() {
		more, _, err := d.tree.advance()
		if err != nil || !more {
			d.last = !more
			return err
		}
	}
	more, continued := true, true
	var first error
	for n := 0; n < batchLeaves && more && continued && first == nil; n++ {
		leaf, err := d.tree.leaf()
		if err != nil {
			more, first = false, err
			break
		}
		first = d.eachEntry(leaf, d.addHashed)
		more, continued, err = d.tree.advance()
		if first == nil {
			first = err
		}
	}
	d.last = !more
	// What was read stays in the batch, also with an error: it comes before what follows.
	d.sortHashed(least, start)
	return first
}

// fillLinear adds the entries of the block that byte start lies in, from there on.
func (d *Dir) fillLinear(start uint64) error {
	in := d.in
	if in.HasInlineData() {
		d.last = true
		err := d.eachEntry(0, func(e disk.Dirent, name, _ []byte, off int) { d.addLinear(e, name, uint64(off+inlineShift)) })
		d.dropBefore(start)
		return err
	}
	bits := in.fs.sb.BlockBits()
	blocks := uint64(max(in.Size(), 0)) >> bits
	for b := max(start, d.end) >> bits; ; b++ {
		if b >= blocks || b >= maxLogical {
			d.last = true
			return nil
		}
		// A hole in a directory is passed over, as the kernel does.
		m, err := in.mapOnce(disk.LBlock(b))
		if err != nil {
			d.last = true
			return err
		}
		if m.State != MapWritten {
			b = m.End() - 1
			continue
		}
		d.end = (b + 1) << bits
		err = d.eachEntry(disk.LBlock(b), func(e disk.Dirent, name, _ []byte, off int) { d.addLinear(e, name, b<<bits+uint64(off)) })
		d.dropBefore(start)
		if err != nil || d.at < len(d.batch) {
			return err
		}
	}
}

// addLinear adds an entry to the batch, by where it starts.
func (d *Dir) addLinear(e disk.Dirent, name []byte, place uint64) {
	if disk.IsDot(name) || !d.fitName(name) {
		return
	}
	d.batch = append(d.batch, dirPlace{place: place, ent: DirEntry{
		Name: d.in.shownName(name, 0, 0), Ino: e.Ino, Type: e.Type, Cookie: place + uint64(e.RecLen) + firstCookie - 1,
	}})
}

// eachEntry calls fn for the entries in use of block b, or of the inline data,
// with the byte where they start. A block of entries is listed once: a
// directory that maps one many times would have no end.
func (d *Dir) eachEntry(b disk.LBlock, fn func(e disk.Dirent, name, raw []byte, off int)) error {
	all := func(e disk.Dirent, name, raw []byte, off int) bool { fn(e, name, raw, off); return true }
	d.bad = nil
	var err error
	if d.in.HasInlineData() {
		err = d.in.inlineEntries(all)
	} else {
		var data []byte
		var phys disk.PBlock
		if data, phys, err = d.in.dirBlock(b); err != nil {
			return err
		}
		if d.seen[phys] {
			return d.in.mappedTwice(b, phys)
		}
		n := len(d.batch)
		err = d.in.entries(data, phys, all)
		if len(d.batch) > n {
			if d.seen == nil {
				d.seen = make(map[disk.PBlock]bool)
			}
			d.seen[phys] = true
		}
	}
	if err == nil {
		err = d.bad
	}
	return err
}

// mappedTwice reports block b of the directory, which lies where another block of it does.
func (in *Inode) mappedTwice(b disk.LBlock, phys disk.PBlock) error {
	return &disk.CorruptError{Struct: "block of directory", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
		Field: fmt.Sprintf("block %d", b), Have: fmt.Sprintf("block %d of the device, again", phys), Want: "each block once"}
}

// blockEntries calls fn for each entry in use of block b of the directory,
// with its name, its bytes and where they start, until fn returns false.
func (in *Inode) blockEntries(b disk.LBlock, fn func(e disk.Dirent, name, raw []byte, off int) bool) error {
	data, phys, err := in.dirBlock(b)
	if err != nil {
		return err
	}
	return in.entries(data, phys, fn)
}

// entries walks the chain of entries in data, the start of block phys.
func (in *Inode) entries(data []byte, phys disk.PBlock, fn func(e disk.Dirent, name, raw []byte, off int) bool) error {
	bs, typed := in.fs.sb.BlockSize(), in.fs.sb.Incompat.Has(disk.IncompatFiletype)
	for off := 0; off < len(data); {
		raw := data[off:]
		if len(raw) < disk.DirentHeaderSize {
			return disk.CheckDirent(&in.fs.sb, in.ino, data, phys, off)
		}
		e := disk.DecodeDirent(raw, bs)
		if !in.fs.goodDirent(e, len(raw)) {
			if err := disk.CheckDirent(&in.fs.sb, in.ino, data, phys, off); err != nil {
				return err
			}
		}
		if e.Ino != 0 {
			if !typed {
				e.Type = disk.TypeUnknown
			}
			if !fn(e, raw[disk.DirentHeaderSize:][:e.NameLen], raw[:e.RecLen], off) {
				return nil
			}
		}
		off += e.RecLen
	}
	return nil
}

// goodDirent reports whether entry e, with room bytes to the end of its block,
// is one that [disk.CheckDirent] finds nothing wrong with: quickly, for the many.
func (fs *FS) goodDirent(e disk.Dirent, room int) bool {
	return e.RecLen >= disk.DirentHeaderSize+4 && e.RecLen%4 == 0 && e.RecLen <= room &&
		e.RecLen >= disk.DirentSize(e.NameLen, false) && e.NameLen > 0 && uint32(e.Ino) <= fs.sb.Inodes
}

// inlineDirHead is the inode number of the parent, at the start of an inline directory.
const inlineDirHead = 4

// inlineShift is how much further behind the entries of an inline directory stand
// when it has grown out into a block, behind "." and "..".
const inlineShift = 24 - inlineDirHead

// inlineEntries is blockEntries for a directory whose entries stand in the
// inode: a chain in i_block behind the parent's number, and one in the xattr.
// The latter starts at byte 60.
func (in *Inode) inlineEntries(fn func(e disk.Dirent, name, raw []byte, off int) bool) error {
	parts, err := in.inlineParts()
	if err != nil {
		return err
	}
	stop := false
	for i, part := range [][]byte{parts[0][inlineDirHead:], parts[1]} {
		base := [2]int{inlineDirHead, len(parts[0])}[i]
		err := in.entries(part, in.block, func(e disk.Dirent, name, raw []byte, off int) bool {
			stop = !fn(e, name, raw, base+off)
			return !stop
		})
		var bad *disk.CorruptError
		if i == 0 && errors.As(err, &bad) {
			bad.Off += in.off + disk.IBlockOffset + inlineDirHead
		}
		if err != nil || stop {
			return err
		}
	}
	return nil
}

// dirBlock returns the part of block b that holds entries, and where it lies.
func (in *Inode) dirBlock(b disk.LBlock) ([]byte, disk.PBlock, error) {
	phys, err := in.dirPhysical(b)
	if err != nil {
		return nil, 0, err
	}
	csum := in.fs.sb.MetadataCsum()
	data, err := in.meta(kindDir, phys, in.ino, func(data []byte) error {
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
	m, err := in.mapOnce(b)
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
func (in *Inode) Parent() (parent disk.Ino, err error) {
	err = in.stable(func(now *Inode) (err error) {
		parent, err = now.parent()
		return err
	})
	return parent, err
}

func (in *Inode) parent() (disk.Ino, error) {
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

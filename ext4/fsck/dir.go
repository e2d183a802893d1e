package fsck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"e4go/ext4/disk"
)

// dirScan is the directory that a worker looks at in pass 2, and its buffers.
type dirScan struct {
	windows []window
	info    *dirInfo
	seed    uint32 // of its checksums
	policy  uint64 // by which it is encrypted
	folded  bool   // names are compared and hashed folded
	strict  bool   // names must be UTF-8
	hashed  bool   // entries carry their hashes
	l       uint64 // block of the directory
	blk     disk.PBlock
	base    int // of what is looked at, in the block; an inline directory's lies in the inode
	buf     []byte
	names   nameSet
	tree    dxTree
}

// entryProblem tells of a problem of entry e, at byte off of the block at hand.
func (w *worker) entryProblem(k *Kind, off int, e *disk.Dirent, name []byte, have, want string) {
	d := &w.dir
	at := Place{Dir: d.info.ino, Name: string(name), LBlock: d.l, InFile: true, Block: d.blk, Off: d.base + off, OnBlock: true}
	if e != nil {
		at.Ino = e.Ino
	}
	w.c.rep.add(k, Problem{Place: at, Have: have, Want: want})
}

// blockProblem tells of a problem of the block of the directory at hand.
func (w *worker) blockProblem(k *Kind, off int, have, want string) {
	d := &w.dir
	w.c.rep.add(k, Problem{Have: have, Want: want, Place: Place{
		Ino: d.info.ino, LBlock: d.l, InFile: true, Block: d.blk, Off: d.base + off, OnBlock: d.blk != 0,
	}})
}

// directory checks the directory of rank i.
func (w *worker) directory(i uint32) error {
	c, d := w.c, &w.dir
	t := &c.dirs
	d.info = &t.info[i]
	d.seed = disk.InodeSeed(c.seed, d.info.ino, d.info.generation)
	d.policy = c.policyOf(d.info.ino)
	d.folded = c.inodes.casefold.has(uint64(d.info.ino))
	d.strict = d.folded && c.sb.EncodingFlags&disk.EncodingStrict != 0
	d.hashed = d.folded && d.policy != noPolicy
	d.names.clear()
	if d.info.flags&dirInline != 0 {
		return w.inlineDirectory()
	}
	runs := t.runs[t.first[i]:t.first[i+1]]
	indexed := d.info.flags&dirIndexed != 0 && c.revisits.Load() >= 0 && d.tree.begin(w, runs)
	next := uint64(0)
	for _, r := range runs {
		if uint64(r.l) > next && !c.sb.Incompat.Has(disk.IncompatLargedir) {
			w.hole(next, uint64(r.l))
		}
		next = uint64(r.l) + uint64(r.n)
		for k := range r.n {
			if w.stopped() {
				return nil
			}
			if w.seenOften(r.p + disk.PBlock(k)) {
				return nil // its blocks are others', and there is no end to it
			}
			d.l, d.blk, d.base = uint64(r.l+k), r.p+disk.PBlock(k), 0
			b, err := w.dirBlock()
			if err != nil {
				return err
			}
			if b != nil {
				w.entries(b, indexed)
			}
		}
	}
	if len(runs) == 0 {
		w.hole(0, 1)
	}
	if indexed {
		d.tree.finish(w)
	}
	return nil
}

// hole tells that the blocks [from, end) of the directory are missing.
func (w *worker) hole(from, end uint64) {
	d := &w.dir
	have := dec(from)
	if end-from > 1 {
		have = fmt.Sprintf("%d to %d", from, end-1)
	}
	w.c.rep.add(direntHole, Problem{Place: Place{Ino: d.info.ino, LBlock: from, InFile: true}, Have: have})
}

// seenOften reports whether block b is one that others claim as well, and
// such have been read as often as they may be.
func (w *worker) seenOften(b disk.PBlock) bool {
	c := w.c
	return uint64(b) < c.blocks && c.again.has(c.cluster(b)) && c.revisits.Add(-1) < 0
}

// dirBlock returns the contents of the block at hand, nil if there are none.
func (w *worker) dirBlock() ([]byte, error) {
	c, d := w.c, &w.dir
	if b := w.ahead(d.blk); b != nil {
		return b, nil
	}
	if len(d.buf) != c.bs {
		d.buf = make([]byte, c.bs)
	}
	err := c.read(d.blk, d.buf)
	if errors.Is(err, errBeyond) {
		w.blockProblem(direntUnreadable, 0, "", "")
		return nil, nil
	}
	return d.buf, err
}

// entries checks block b of the directory at hand (check_dir_block).
func (w *worker) entries(b []byte, indexed bool) {
	c, d := w.c, &w.dir
	leaf := true
	if indexed {
		leaf = d.tree.block(w, b)
	}
	area := b
	if leaf && c.sb.MetadataCsum() {
		entries, tail := disk.DirTail(b)
		if tail {
			area = entries
		}
		if err, _ := disk.CheckDirBlock(d.info.ino, b, d.seed, d.blk).(*disk.CorruptError); err != nil {
			k := dirChecksum
			if !tail {
				k = dirNoChecksum
			}
			w.blockProblem(k, err.Off, err.Have, err.Want)
		}
	}
	state := firstEntries
	if d.l != 0 {
		state = otherEntries
	}
	w.chain(area, state, leaf && indexed)
	if indexed && !leaf {
		d.tree.node(w, b)
	}
	if indexed {
		d.names.clear() // equal names are in one leaf, or the tree is wrong
	}
}

// The entries . and .. come first, in the first block.
const (
	firstEntries = iota
	secondEntry
	otherEntries
)

// chain checks the entries in area, of which hashed ones belong to a leaf of
// the index. state says what the first is.
func (w *worker) chain(area []byte, state int, leaf bool) {
	c, d := w.c, &w.dir
	for off := 0; off < len(area); state = min(state+1, otherEntries) {
		hashed := d.hashed && state == otherEntries
		if problem, want := badRecord(area, off, c.bs, hashed); problem != "" {
			at := Place{Ino: d.info.ino, LBlock: d.l, InFile: true, Block: d.blk, Off: d.base + off, OnBlock: d.blk != 0}
			p := Problem{Place: at, Have: problem, Want: want, classes: []Class{direntCorrupt.Class}}
			if c.sb.MetadataCsum() { // e2fsck looks for it behind the last entry
				p.classes = append(p.classes, dirNoChecksum.Class, dirChecksum.Class)
			}
			c.rep.add(direntCorrupt, p)
			d.tree.broken = true
			return
		}
		e := disk.DecodeDirent(area[off:], c.bs)
		name := area[off+disk.DirentHeaderSize:][:e.NameLen]
		w.entry(area, off, &e, name, state, leaf)
		off += e.RecLen
	}
}

// badRecord returns what is wrong with the record at area[off:], or "".
func badRecord(area []byte, off, bs int, hashed bool) (have, want string) {
	if len(area)-off < disk.DirentHeaderSize {
		return fmt.Sprintf("%d bytes are left", len(area)-off), "room for an entry"
	}
	e := disk.DecodeDirent(area[off:], bs)
	least := max(disk.DirentSize(1, hashed), disk.DirentSize(e.NameLen, hashed))
	if e.RecLen < least || e.RecLen%4 != 0 || e.RecLen > len(area)-off {
		return fmt.Sprintf("rec_len is %d with name_len %d", e.RecLen, e.NameLen), fmt.Sprintf("a multiple of 4, %d to %d", least, len(area)-off)
	}
	return "", ""
}

// entry checks one entry, which is as long as it should be.
func (w *worker) entry(area []byte, off int, e *disk.Dirent, name []byte, state int, leaf bool) {
	c, d := w.c, &w.dir
	bad := func(k *Kind, have, want string) { w.entryProblem(k, off, e, name, have, want) }
	switch state {
	case firstEntries:
		w.checkDot(area, off, e, name)
	case secondEntry:
		w.checkDotDot(area, off, e, name)
	}
	if e.Ino == 0 {
		return
	}
	if !w.checkTarget(e, name, state, bad) {
		return
	}
	w.checkFileType(e, bad)
	switch {
	case d.policy != noPolicy:
		if state == otherEntries {
			w.checkEncryptedEntry(e, bad)
		}
	case d.strict && !validName(name):
		bad(direntEncoding, "", "")
	default:
		if bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
			bad(direntName, "", "")
		}
	}
	if leaf && state == otherEntries {
		d.tree.entry(w, area, off, e, name)
	}
	if state == otherEntries {
		if d.info.ino == disk.RootIno && string(name) == lostFoundName {
			c.lostFound.Store(uint32(e.Ino))
		}
		if c.inodes.typeOf(e.Ino) == disk.TypeDir {
			w.setParent(e.Ino, bad)
		}
	}
	if d.names.add(w, name) {
		k := direntDuplicate
		if d.policy != noPolicy {
			k = direntDuplicateE
		}
		bad(k, "", "")
	}
	c.countEntry(e.Ino)
}

// checkDot judges the first entry of a directory.
func (w *worker) checkDot(area []byte, off int, e *disk.Dirent, name []byte) {
	d := &w.dir
	bad := func(k *Kind, have, want string) { w.entryProblem(k, off, nil, name, have, want) }
	switch {
	case e.Ino == 0:
		bad(direntNoDot, "", "")
	case string(name) != ".":
		bad(direntNotDot, fmt.Sprintf("%q", name), "")
	case area[off+disk.DirentHeaderSize+1] != 0:
		bad(direntDotNUL, "", "")
	}
	if e.Ino != d.info.ino {
		bad(direntDotInode, dec(e.Ino), dec(d.info.ino))
	}
	if e.RecLen > 24 {
		bad(direntDotLarge, "", "")
	}
}

// checkDotDot judges the second; whose number it should have pass 3 knows.
func (w *worker) checkDotDot(area []byte, off int, e *disk.Dirent, name []byte) {
	d := &w.dir
	bad := func(k *Kind, have, want string) { w.entryProblem(k, off, nil, name, have, want) }
	switch {
	case e.Ino == 0:
		bad(direntNoDotDot, "", "")
	case string(name) != "..":
		bad(direntNotDotDot, fmt.Sprintf("%q", name), "")
	case area[off+disk.DirentHeaderSize+2] != 0:
		bad(direntDotDotNUL, "", "")
	default:
		d.info.dotdot, d.info.flags = e.Ino, d.info.flags|dirHasDotDot
	}
}

// checkTarget judges the inode that entry e names. It returns false if the
// entry does not count.
func (w *worker) checkTarget(e *disk.Dirent, name []byte, state int, bad func(k *Kind, have, want string)) bool {
	c, d := w.c, &w.dir
	sb := &c.sb
	ino := e.Ino
	other := state == otherEntries
	if other && ino == d.info.ino {
		bad(direntSelf, "", "")
	}
	switch {
	case ino != disk.RootIno && ino < sb.FirstIno, !sb.ValidIno(ino),
		ino == sb.UserQuotaIno, ino == sb.GroupQuotaIno, ino == sb.ProjectQuotaIno, ino == sb.OrphanFileIno:
		bad(direntInode, dec(ino), fmt.Sprintf("one of a file, %d to %d", sb.FirstIno, sb.Inodes))
		return false
	case c.inodes.inBad.has(uint64(ino)):
		bad(direntBadBlock, dec(ino), "")
	case other && string(name) == ".":
		bad(direntDupDot, "", "")
	case other && string(name) == "..":
		bad(direntDupDotDot, "", "")
	case other && ino == disk.RootIno:
		bad(direntRoot, "", "")
	case other && len(name) == 0:
		bad(direntNoName, "", "")
	}
	g, _ := sb.InodeGroup(ino)
	if uint64(g) < uint64(len(c.groups)) {
		switch grp := &c.groups[g]; { // whether or not flags and bg_itable_unused count here
		case grp.Flags&disk.GroupInodeUninit != 0:
			bad(direntUninit, dec(ino), dec(g)) // want is the group, also to fold
		case uint32(ino) > (uint32(g)+1)*sb.InodesPerGroup-grp.ItableUnused: // in 32 bits, as e2fsck has it
			bad(direntUnusedArea, dec(ino), dec(g))
		}
	}
	if !c.inodes.used.has(uint64(ino)) {
		bad(direntUnused, dec(ino), "")
	}
	return true
}

// checkFileType judges file_type of entry e.
func (w *worker) checkFileType(e *disk.Dirent, bad func(k *Kind, have, want string)) {
	c := w.c
	if !c.sb.Incompat.Has(disk.IncompatFiletype) {
		if e.Type != disk.TypeUnknown {
			bad(direntTypeSet, hex(e.Type), "")
		}
		return
	}
	switch want := c.inodes.typeOf(e.Ino); {
	case e.Type == want:
	case !c.inodes.used.has(uint64(e.Ino)):
		// The mode of what is not in use is not known here, and the entry has been told of.
	case e.Type == disk.TypeUnknown:
		bad(direntNoType, "", want.String())
	default:
		bad(direntType, e.Type.String(), want.String())
	}
}

// checkEncryptedEntry judges an entry of an encrypted directory.
func (w *worker) checkEncryptedEntry(e *disk.Dirent, bad func(k *Kind, have, want string)) {
	c, d := w.c, &w.dir
	if e.NameLen < disk.MinEncryptedName {
		bad(direntCryptShort, dec(e.NameLen), "")
	}
	switch policy := c.policyOf(e.Ino); {
	case policy == d.policy:
	case policy == noPolicy:
		t := e.Type
		if t == disk.TypeUnknown {
			t = c.inodes.typeOf(e.Ino)
		}
		if t == disk.TypeReg || t == disk.TypeDir || t == disk.TypeLink {
			bad(direntPlain, "", "")
		}
	default:
		bad(direntPolicy, "", "")
	}
}

// validName reports whether name is UTF-8, as strict casefolding wants.
func validName(name []byte) bool {
	_, ok := disk.Fold(name)
	return ok
}

// setParent notes that the directory at hand has an entry for directory ino.
func (w *worker) setParent(ino disk.Ino, bad func(k *Kind, have, want string)) {
	child := w.c.dirs.of(ino)
	if child == nil {
		return
	}
	if !atomic.CompareAndSwapUint32(&child.parent, 0, uint32(w.dir.info.ino)) {
		bad(direntSecond, dec(ino), dec(atomic.LoadUint32(&child.parent)))
	}
}

// inlineDirectory checks a directory whose entries stand in its inode: the number of
// the parent, then entries in the rest of i_block, then others in an xattr.
func (w *worker) inlineDirectory() error {
	c, d := w.c, &w.dir
	raw, at, ok, err := w.readInode(d.info.ino)
	if err != nil || !ok {
		return err
	}
	w.inode.raw, w.inode.ino, w.inode.at = raw, d.info.ino, at
	w.inode.in = disk.DecodeInode(raw)
	value, problem := w.ibodyValue(disk.XattrSystem, disk.InlineDataName) // a problem was told of in pass 1
	d.l, d.blk, d.base = 0, at.Block, at.Off+disk.IBlockOffset
	if n := disk.IBlockSize + len(value); problem == "" && (n%4 != 0 || n > disk.IBlockSize && n < disk.IBlockSize+12) {
		w.blockProblem(dirInlineSize, 0, dec(n), "a multiple of 4, and room for an entry behind the first 60")
	}
	first := append([]byte(nil), w.inode.in.Block[:]...)
	rest := append([]byte(nil), value...)
	base := bytes.Index(raw, value) // of the value in the inode, for the places of problems
	c.countEntry(d.info.ino)
	parent := disk.Ino(binary.LittleEndian.Uint32(first))
	dotdot := disk.Dirent{Ino: parent, RecLen: 12, NameLen: 2, Type: disk.TypeDir}
	if !c.sb.Incompat.Has(disk.IncompatFiletype) {
		dotdot.Type = disk.TypeUnknown
	}
	w.entry([]byte("\x00\x00\x00\x00\x00\x00\x00\x00..\x00\x00"), 0, &dotdot, []byte(".."), secondEntry, false)
	d.base += 4
	w.chain(first[4:], otherEntries, false)
	d.l, d.base = 1, at.Off+max(base, 0)
	w.chain(rest, otherEntries, false)
	return nil
}

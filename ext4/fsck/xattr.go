package fsck

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// xattrScan is what a worker knows of the xattrs in the inode at hand.
type xattrScan struct {
	clusters uint64 // that its values in EA inodes count for
	inodes   uint64 // EA inodes
	taken    region
}

func (s *xattrScan) reset() { s.clusters, s.inodes = 0, 0 }

// A region knows which bytes of a block or an inode are taken.
type region struct {
	words []uint64
	n     int
}

// clear makes the region one of n free bytes.
func (r *region) clear(n int) {
	if words := (n + 63) / 64; cap(r.words) < words {
		r.words = make([]uint64, words)
	} else {
		r.words = r.words[:words]
		clear(r.words)
	}
	r.n = n
}

// take takes n bytes from at on, and reports whether they were there and free.
func (r *region) take(at, n int) (ok bool) {
	if at < 0 || n < 0 || at > r.n || n > r.n-at {
		return false
	}
	ok = true
	for n > 0 {
		bit := at % 64
		here := min(n, 64-bit)
		mask := ^uint64(0) >> (64 - here) << bit
		if r.words[at/64]&mask != 0 {
			ok = false
		}
		r.words[at/64] |= mask
		at, n = at+here, n-here
	}
	return ok
}

// padded is the room that n bytes take, names and values alike.
func padded(n uint32) int { return int((uint64(n) + 3) &^ 3) }

// lastEntry reports whether a list of xattrs ends at b.
func lastEntry(b []byte) bool { return len(b) < 4 || binary.LittleEndian.Uint32(b) == 0 }

// checkIbody judges the xattrs in the inode at hand; b begins with the magic
// number (check_ea_in_inode). The first problem is the last, as what follows rests upon it.
func (w *worker) checkIbody(b []byte) {
	base := len(w.inode.raw) - len(b)
	if k, off, have, want := w.judgeIbody(b); k != nil {
		w.problem(k, base+off, have, want)
	}
	// References count whether or not something else is wrong.
	for at := disk.XattrIbodyHdrSize; at+disk.XattrEntrySize <= len(b) && !lastEntry(b[at:]); {
		e := disk.DecodeXattrEntry(b[at:])
		at += disk.XattrEntryLen(int(e.NameLen))
		if e.ValueIno != 0 && at < len(b) {
			w.lists.eaRefs = append(w.lists.eaRefs, e.ValueIno)
		}
	}
}

func (w *worker) judgeIbody(b []byte) (k *Kind, off int, have, want string) {
	const hdr = disk.XattrIbodyHdrSize
	s := &w.inode.xattr
	s.taken.clear(len(b))
	s.taken.take(0, hdr)
	room := len(b) - 4 // the list ends with four zero bytes
	at := hdr
	for room >= disk.XattrEntrySize && !lastEntry(b[at:]) {
		if len(b)-at < disk.XattrEntrySize {
			return xattrOverlap, at, dec(at), ""
		}
		e := disk.DecodeXattrEntry(b[at:])
		size := disk.XattrEntryLen(int(e.NameLen))
		if !s.taken.take(at, size) {
			return xattrOverlap, at, dec(at), ""
		}
		room -= disk.XattrEntrySize
		if n := padded(uint32(e.NameLen)); n > room {
			return xattrNameLen, at, dec(e.NameLen), fmt.Sprintf("at most %d", room)
		} else {
			room -= n
		}
		if e.ValueIno != 0 {
			if k, have, want := w.judgeEAInode(e, b[at+disk.XattrEntrySize:][:e.NameLen], w.inode.ino, w.inode.in.Generation, s); k != nil {
				return k, at + 4, have, want
			}
			at += size
			continue
		}
		if uint64(e.ValueSize) > uint64(room) {
			return xattrValueSize, at + 8, dec(e.ValueSize), fmt.Sprintf("at most %d", room)
		}
		value := hdr + int(e.ValueOffset)
		if e.ValueSize != 0 && !s.taken.take(value, padded(e.ValueSize)) {
			return xattrOverlap, at + 2, dec(value), ""
		}
		if e.Hash != 0 {
			name := b[at+disk.XattrEntrySize:][:e.NameLen]
			if want, ok := entryHash(e, name, b, value); !ok {
				return xattrHash, at + 12, hex(e.Hash), hex(want)
			}
		}
		room -= int(e.ValueSize)
		at += size
	}
	if !s.taken.take(at, 4) {
		return xattrOverlap, at, dec(at), ""
	}
	return nil, 0, "", ""
}

// entryHash reports whether e_hash of entry e is right, in either of the ways in
// which it has been computed, and what it should be. The value stands at byte
// at of b; its padding counts.
func entryHash(e disk.XattrEntry, name, b []byte, at int) (want uint32, ok bool) {
	var value []byte
	if e.ValueSize != 0 {
		value = b[at:min(len(b), at+padded(e.ValueSize))]
	}
	want = disk.XattrEntryHash(name, value, false)
	return want, e.Hash == want || e.Hash == disk.XattrEntryHash(name, value, true)
}

// judgeEAInode judges an entry whose value lies in an EA inode
// (check_large_ea_inode). The entry belongs to an inode of that number and generation.
func (w *worker) judgeEAInode(e disk.XattrEntry, name []byte, ino disk.Ino, generation uint32, s *xattrScan) (k *Kind, have, want string) {
	c := w.c
	if !c.sb.Incompat.Has(disk.IncompatEAInode) {
		// e2fsck goes on as if the feature were set; the kernel refuses the file.
		c.rep.add(xattrFeature, Problem{Place: Place{Ino: ino}})
	}
	if e.ValueIno < c.sb.FirstIno || !c.sb.ValidIno(e.ValueIno) {
		return xattrEAInode, dec(e.ValueIno), fmt.Sprintf("%d to %d", c.sb.FirstIno, c.sb.Inodes)
	}
	if e.ValueSize > disk.MaxXattrValue {
		return xattrValueSize, dec(e.ValueSize), fmt.Sprintf("at most %d", disk.MaxXattrValue)
	}
	raw, _, ok, err := w.readInode(e.ValueIno)
	if err != nil {
		w.inodeErr(err)
		return nil, "", ""
	}
	if !ok {
		return xattrEAInode, dec(e.ValueIno), "an inode on the device"
	}
	ea := disk.DecodeInode(raw)
	hash := uint32(ea.Atime.Sec)
	right := disk.XattrInodeEntryHash(name, hash, false)
	switch {
	case e.Hash == right, e.Hash == disk.XattrInodeEntryHash(name, hash, true):
		s.clusters += (uint64(e.ValueSize) + uint64(c.bs)<<c.cbits - 1) >> (c.bits + c.cbits)
	case uint32(ea.Mtime.Sec) == uint32(ino) && ea.Generation == generation:
		// Lustre's: it names its owner, and is not charged.
	case !ea.Flags.Has(disk.FlagEAInode):
		return xattrEAInode, dec(e.ValueIno), "an EA inode"
	default:
		return xattrHash, hex(e.Hash), hex(right)
	}
	s.inodes++
	if e.ValueSize == 0 || uint64(e.ValueSize) != ea.Size {
		return xattrValueSize, dec(e.ValueSize), fmt.Sprintf("%d, the size of inode %d", ea.Size, e.ValueIno)
	}
	if !ea.Flags.Has(disk.FlagEAInode) {
		return xattrEAFlag, dec(e.ValueIno), ""
	}
	return nil, "", ""
}

// inodeErr keeps the device's error where it cannot be returned; the pass ends with it.
func (w *worker) inodeErr(err error) {
	if w.err == nil {
		w.err = err
	}
}

// inlineData returns how many bytes of the inode at hand are inline, or what is
// wrong with the xattr that has those behind i_block.
func (w *worker) inlineData() (n int, problem string) {
	value, problem := w.ibodyValue(disk.XattrSystem, disk.InlineDataName)
	if problem != "" {
		return 0, problem
	}
	return disk.IBlockSize + len(value), ""
}

// noXattrClasses are the classes of an inode of which e2fsck cannot read the xattrs,
// wherever those are that it needs: of inline data, of encryption.
func noXattrClasses(in *disk.Inode) (out []Class) {
	if in.Flags.Has(disk.FlagInlineData) {
		if out = append(out, inlineMissing.Class); in.Mode.Type() == disk.ModeDir {
			out = append(out, inodeSize.Class, treeDotDot.Class, 0x040001, linkUnattached.Class, linkCount.Class)
		}
	}
	if in.Flags.Has(disk.FlagEncrypt) {
		out = append(out, cryptMissing.Class, direntName.Class, direntPlain.Class)
	}
	return out
}

// ibodyValue returns the value of an xattr in the inode at hand, or why there is
// none. Where one entry is broken none is believed.
func (w *worker) ibodyValue(index disk.XattrIndex, name string) (value []byte, problem string) {
	s := &w.inode
	if most := len(s.raw) - disk.GoodOldInodeSize; most > 0 && !extraSizeOK(int(binary.LittleEndian.Uint16(s.raw[0x80:])), most) {
		return nil, "i_extra_isize is wrong"
	}
	p, ok := disk.XattrIbodyPlace(s.ino, s.raw, s.at.Block, s.at.Off)
	if !ok {
		return nil, "there are no xattrs in the inode"
	}
	list, err := p.Xattrs()
	if err != nil {
		return nil, "the xattrs in the inode are damaged"
	}
	found := false
	for _, x := range list {
		if x.ValueIno != 0 {
			continue
		}
		at := p.Base + int(x.ValueOffset)
		if at+int(x.ValueSize) > len(p.Bytes) { // of no bytes: what is read has been looked at
			return nil, "the xattrs in the inode are damaged"
		}
		if _, ok := entryHash(x.XattrEntry, x.Name, p.Bytes, at); x.Hash != 0 && !ok {
			return nil, "the hash of an xattr in the inode is wrong"
		}
		if x.Index == index && string(x.Name) == name && !found {
			value, found = x.Value, true
		}
	}
	if !found {
		return nil, "it is not among the xattrs in the inode"
	}
	return value, ""
}

package ext4

import (
	"errors"
	"sort"

	"e4go/ext4/disk"
)

// MapState says what a run of a file's blocks is.
type MapState uint8

const (
	MapHole      MapState = iota // no blocks: reads as zeros
	MapWritten                   // blocks with data
	MapUnwritten                 // blocks that were never written: reads as zeros
)

func (s MapState) String() string { return [...]string{"hole", "written", "unwritten"}[s] }

// maxLogical is the number of blocks that a file can have at most: logical
// block numbers have 32 bits.
const maxLogical = 1 << 32

// A Mapping is a run of Len blocks of a file, from block Logical on, that are
// in one state and, but for a hole, lie one after the other on the device from Physical on.
type Mapping struct {
	Logical  disk.LBlock
	Len      uint64
	Physical disk.PBlock
	State    MapState
}

// End is the block behind the run.
func (m Mapping) End() uint64 { return uint64(m.Logical) + m.Len }

// mapLeaf is the status of the blocks [first, end) of a file, as one leaf of
// its extent tree or one block of its indirect map gives it: the allocated runs in
// order, neighbours joined. What lies between them is a hole.
type mapLeaf struct {
	owner disk.Ino
	first disk.LBlock
	end   uint64
	runs  []Mapping
}

func (l *mapLeaf) weight() uint32 { return uint32(cap(l.runs))*32 + 64 }

// add appends a run behind the last, or lengthens the last.
func (l *mapLeaf) add(m Mapping) {
	if n := len(l.runs); n > 0 {
		last := &l.runs[n-1]
		if last.End() == uint64(m.Logical) && last.State == m.State && last.Physical+disk.PBlock(last.Len) == m.Physical {
			last.Len += m.Len
			return
		}
	}
	l.runs = append(l.runs, m)
}

// find returns the run or the hole that covers b, which is in the leaf.
func (l *mapLeaf) find(b disk.LBlock) Mapping {
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].End() > uint64(b) })
	hole := Mapping{Logical: l.first}
	if i > 0 {
		hole.Logical = disk.LBlock(l.runs[i-1].End())
	}
	end := l.end
	if i < len(l.runs) {
		if l.runs[i].Logical <= b {
			return l.runs[i]
		}
		end = uint64(l.runs[i].Logical)
	}
	hole.Len = end - uint64(hole.Logical)
	return hole
}

// holeLeaves is how many leaves one look-up goes through to find the end of a hole.
const holeLeaves = 16

// Map returns the whole run of blocks that covers block b of the file. It may
// begin before b. A hole reaches to the next block in use or to 2^32; one that
// spans many leaves of a tree may come in pieces, and so does a run that goes
// on in the next leaf. Map fails with [ErrInline] if the inode has no blocks but holds
// its data itself, and with a *disk.CorruptError.
//
// The first answer from a leaf decodes it; later ones come from the inode or
// the cache and allocate nothing.
func (in *Inode) Map(b disk.LBlock) (Mapping, error) {
	if in.fs.live == nil || in.tx != nil {
		return in.mapOnce(b)
	}
	var m Mapping
	err := in.stable(func(now *Inode) (err error) {
		m, err = now.mapOnce(b)
		return err
	})
	return m, err
}

func (in *Inode) mapOnce(b disk.LBlock) (Mapping, error) {
	if in.HasInlineData() && in.internal() {
		return Mapping{}, &disk.CorruptError{Struct: "inode", Num: uint64(in.ino), Block: in.block, Off: in.off + 0x20, Field: "i_flags",
			Have: "inline_data", Want: "blocks, as all that the file system uses itself has"}
	}
	if in.HasInlineData() {
		return Mapping{}, ErrInline
	}
	if !in.mapped() {
		return Mapping{Len: maxLogical}, nil
	}
	leaf, err := in.mapLeaf(b)
	if err != nil {
		return Mapping{}, err
	}
	m := leaf.find(b)
	for i := 0; i < holeLeaves && m.State == MapHole && m.End() == leaf.end && leaf.end < maxLogical; i++ {
		leaf, err = in.mapLeaf(disk.LBlock(leaf.end))
		if errors.Is(err, disk.ErrCorrupt) {
			// The hole up to here is known; who asks for what follows meets the error.
			return m, nil
		}
		if err != nil {
			return Mapping{}, err
		}
		next := leaf.find(leaf.first)
		if next.State != MapHole {
			break
		}
		m.Len += next.Len
	}
	return m, nil
}

// mapped reports whether i_block leads to blocks: it holds a device number in
// device nodes and the target in short symbolic links.
func (in *Inode) mapped() bool {
	switch in.Type() {
	case disk.ModeReg, disk.ModeDir:
		return true
	case disk.ModeLink:
		return !in.disk.FastSymlink(&in.fs.sb)
	}
	// The journal, the resize inode and the like may have no type at all.
	return in.Type() == 0 && in.ino < in.fs.sb.FirstIno
}

// mapLeaf returns the leaf that covers block b.
func (in *Inode) mapLeaf(b disk.LBlock) (mapLeaf, error) {
	if in.disk.Flags.Has(disk.FlagExtents) {
		return in.extentLeaf(b)
	}
	return in.indirectLeaf(b)
}

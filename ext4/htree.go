package ext4

import (
	"fmt"

	"e4go/ext4/disk"
)

// The index of a directory: a tree of blocks within it that leads from the
// hash of a name to the block that holds its entry.
//
//	block 0: . .. | info | (count) leaf | hash leaf | hash leaf ...
//	interior nodes, one or two levels with large_dir, the same
//	leaves: ordinary blocks of entries, in any order

// entryHash is the hash and minor hash of an entry: of its stored name, or
// carried in the entry in directories that are both encrypted and casefolded.
func (in *Inode) entryHash(e disk.Dirent, name, raw []byte) (hash, minor uint32) {
	if in.encrypted() && in.disk.Flags.Has(disk.FlagCasefold) {
		hash, minor, _ = disk.DirentHash(raw, e.NameLen, e.RecLen)
		return hash, minor
	}
	hash, minor, _ = disk.NameHash(in.hashVersion(), in.fs.sb.HashSeed, in.hashedForm(name))
	return hash, minor
}

// hashVersion is what the directory's names are hashed with: what its root
// says, or the default of the file system while it has none that can be read. (Who
// needs the root itself meets the error.)
func (in *Inode) hashVersion() disk.HashVersion {
	v := disk.HashVersion(in.fs.sb.DefHashVersion)
	if in.disk.Flags.Has(disk.FlagIndex) && !in.HasInlineData() {
		if data, _, err := in.dxBlock(0); err == nil {
			v = disk.DecodeDxRoot(data).HashVersion
		}
	}
	if v > disk.HashTeaUnsigned {
		v = disk.HashHalfMD4
	}
	return in.fs.sb.EffectiveHash(v)
}

// dxBlock returns block b of the index, verified, and where it lies.
func (in *Inode) dxBlock(b disk.LBlock) ([]byte, disk.PBlock, error) {
	phys, err := in.dirPhysical(b)
	if err != nil {
		return nil, 0, err
	}
	data, err := in.fs.meta(kindDx, phys, in.ino, func(data []byte) error {
		if b == 0 {
			if err := disk.CheckDxRoot(&in.fs.sb, in.ino, data, phys); err != nil {
				return err
			}
			return disk.CheckDxNode(&in.fs.sb, in.ino, disk.DxRootNode(data), in.seed, phys)
		}
		if !in.isDxBlock(b, data) {
			return &disk.CorruptError{Struct: "hash tree node of directory", Num: uint64(in.ino), Block: phys, Off: 4,
				Field: "fake.rec_len", Have: fmt.Sprint(disk.DecodeDirent(data, len(data)).RecLen), Want: fmt.Sprintf("one empty entry of %d bytes", len(data))}
		}
		return disk.CheckDxNode(&in.fs.sb, in.ino, disk.DxInnerNode(data), in.seed, phys)
	})
	return data, phys, err
}

// dxWalk goes through the leaves of an index in order of their hashes.
type dxWalk struct {
	in     *Inode
	frames []dxFrame // from the root to the lowest node
	left   uint64    // leaves that there may still be: no more than the directory has blocks
}

type dxFrame struct {
	node disk.DxNode
	at   int
}

// dxWalk returns a walk that stands at the leaf where hash belongs.
func (in *Inode) dxWalk(hash uint32) (*dxWalk, error) {
	w := &dxWalk{in: in, left: uint64(in.Size()) >> in.fs.sb.BlockBits()}
	data, _, err := in.dxBlock(0)
	if err != nil {
		return nil, err
	}
	node := disk.DxRootNode(data)
	for levels := int(disk.DecodeDxRoot(data).Levels); ; levels-- {
		at := node.Find(hash)
		w.frames = append(w.frames, dxFrame{node, at})
		if levels == 0 {
			return w, nil
		}
		if data, _, err = in.dxBlock(node.Entry(at).Block); err != nil {
			return nil, err
		}
		node = disk.DxInnerNode(data)
	}
}

// leaf is the block of the leaf that the walk stands at.
func (w *dxWalk) leaf() (disk.LBlock, error) {
	if w.left == 0 {
		return 0, &disk.CorruptError{Struct: "hash tree of directory", Num: uint64(w.in.ino), Block: w.in.block, Off: w.in.off,
			Field: "leaves", Have: "more than blocks", Want: fmt.Sprintf("at most %d", w.in.Size()>>w.in.fs.sb.BlockBits())}
	}
	w.left--
	f := w.frames[len(w.frames)-1]
	return f.node.Entry(f.at).Block, nil
}

// advance moves to the next leaf. more is false when there is none; continued
// says that it begins with names of the hash that the one before ended with.
func (w *dxWalk) advance() (more, continued bool, err error) {
	i := len(w.frames) - 1
	for ; ; i-- {
		if i < 0 {
			return false, false, nil
		}
		if f := &w.frames[i]; f.at+1 < f.node.Count() {
			f.at++
			break
		}
	}
	e := w.frames[i].node.Entry(w.frames[i].at)
	continued = e.Hash&1 != 0
	for i++; i < len(w.frames); i++ {
		data, _, err := w.in.dxBlock(e.Block)
		if err != nil {
			return true, false, err
		}
		w.frames[i] = dxFrame{disk.DxInnerNode(data), 0}
		e = w.frames[i].node.Entry(0)
	}
	return true, continued, nil
}

package ext4

import (
	"errors"
	"fmt"
	"slices"

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
// v is the directory's hashVersion.
func (in *Inode) entryHash(v disk.HashVersion, e disk.Dirent, name, raw []byte) (hash, minor uint32) {
	if in.hashInDirent() {
		hash, minor, _ = disk.DirentHash(raw, e.NameLen, e.RecLen)
		return hash, minor
	}
	hash, minor, _ = disk.NameHash(v, in.fs.sb.HashSeed, in.hashedForm(name))
	return hash, minor
}

// hashInDirent reports whether the entries carry their hashes (ext4_hash_in_dirent).
func (in *Inode) hashInDirent() bool {
	return in.encrypted() && in.disk.Flags.Has(disk.FlagCasefold)
}

// hashVersion is what the directory's names are hashed with: what its root
// says, or the default of the file system while it has none, or one that is
// corrupt. (Who needs the root itself meets that error.)
func (in *Inode) hashVersion() (disk.HashVersion, error) {
	if v := in.hashKnown.Load(); v > 0 {
		return disk.HashVersion(v - 1), nil
	}
	v := disk.HashVersion(in.fs.sb.DefHashVersion)
	if in.disk.Flags.Has(disk.FlagIndex) && !in.HasInlineData() {
		switch data, err := in.dxRoot(); {
		case err == nil:
			v = disk.DecodeDxRoot(data).HashVersion
		case !errors.Is(err, disk.ErrCorrupt):
			return 0, err
		}
	}
	if v > disk.HashTeaUnsigned {
		v = disk.HashHalfMD4
	}
	v = in.fs.sb.EffectiveHash(v)
	in.hashKnown.Store(uint32(v) + 1)
	return v, nil
}

// dxRoot returns block 0 of the directory, verified as the root of its index.
func (in *Inode) dxRoot() ([]byte, error) {
	phys, err := in.dirPhysical(0)
	if err != nil {
		return nil, err
	}
	return in.meta(kindDxRoot, phys, in.ino, func(data []byte) error {
		if err := disk.CheckDxRoot(&in.fs.sb, in.ino, data, phys); err != nil {
			return err
		}
		// dx_probe: the keyed hash, where and only where entries carry it.
		if v := disk.DecodeDxRoot(data).HashVersion; (v == disk.HashSip) != in.hashInDirent() {
			return &disk.CorruptError{Struct: "hash tree root of directory", Num: uint64(in.ino), Block: phys, Off: 0x1c,
				Field: "hash_version", Have: v.String(), Want: "siphash in encrypted, casefolded directories only"}
		}
		return disk.CheckDxNode(&in.fs.sb, in.ino, disk.DxRootNode(data), in.seed, phys)
	})
}

// dxInner returns the interior node of the index in block b, verified.
func (in *Inode) dxInner(b disk.LBlock) (disk.DxNode, error) {
	phys, err := in.dirPhysical(b)
	if err != nil {
		return disk.DxNode{}, err
	}
	data, err := in.meta(kindDxInner, phys, in.ino, func(data []byte) error {
		if e := disk.DecodeDirent(data, len(data)); e.Ino != 0 || e.RecLen != len(data) || e.NameLen != 0 {
			return &disk.CorruptError{Struct: "hash tree node of directory", Num: uint64(in.ino), Block: phys, Off: 4,
				Field: "fake.rec_len", Have: fmt.Sprint(e.RecLen), Want: fmt.Sprintf("one empty entry of %d bytes", len(data))}
		}
		return disk.CheckDxNode(&in.fs.sb, in.ino, disk.DxInnerNode(data), in.seed, phys)
	})
	if err != nil {
		return disk.DxNode{}, err
	}
	return disk.DxInnerNode(data), nil
}

// dxWalk goes through the leaves of an index in order of their hashes.
type dxWalk struct {
	in     *Inode
	frames []dxFrame // from the root to the lowest node; fewer than levels behind an error
	levels int       // of nodes
	buf    [3]dxFrame
	left   uint64 // leaves that there may still be: no more than the directory has blocks
}

type dxFrame struct {
	node  disk.DxNode
	at    int
	block disk.LBlock // where the node is
}

// dxWalk returns a walk that stands at the leaf where hash belongs. If a node
// on the way there cannot be read, the walk comes with the error, and can go on behind it.
func (in *Inode) dxWalk(hash uint32) (*dxWalk, error) {
	data, err := in.dxRoot()
	if err != nil {
		return nil, err
	}
	w := &dxWalk{
		in: in, levels: int(disk.DecodeDxRoot(data).Levels) + 1,
		left: min(uint64(in.Size())>>in.fs.sb.BlockBits(), in.fs.deviceBlocks()),
	}
	w.frames = w.buf[:0]
	f := dxFrame{node: disk.DxRootNode(data)}
	for {
		f.at = f.node.Find(hash)
		w.frames = append(w.frames, f)
		if len(w.frames) == w.levels {
			return w, nil
		}
		f.block = f.node.Entry(f.at).Block
		if f.node, err = in.dxInner(f.block); err != nil {
			return w, err
		}
	}
}

// leaf is the block of the leaf that the walk stands at.
func (w *dxWalk) leaf() (disk.LBlock, error) {
	if w.left == 0 {
		return 0, w.tooManyLeaves()
	}
	w.left--
	f := w.frames[len(w.frames)-1]
	leaf := f.node.Entry(f.at).Block
	// Without checksums a node looks like a block of entries, which names could be put into.
	if slices.ContainsFunc(w.frames, func(f dxFrame) bool { return f.block == leaf }) {
		return 0, &disk.CorruptError{Struct: "hash tree of directory", Num: uint64(w.in.ino), Block: w.in.block, Off: w.in.off,
			Field: "dx_block", Have: fmt.Sprintf("block %d, a node of the tree", leaf), Want: "a leaf"}
	}
	return leaf, nil
}

func (w *dxWalk) tooManyLeaves() error {
	return &disk.CorruptError{Struct: "hash tree of directory", Num: uint64(w.in.ino), Block: w.in.block, Off: w.in.off,
		Field: "leaves", Have: "more than blocks", Want: fmt.Sprintf("at most %d", w.in.Size()>>w.in.fs.sb.BlockBits())}
}

// advance moves to the next leaf. more is false when there is none; continued
// says that it begins with names of the hash that the one before ended with.
// Behind an error it may be called again, and goes on behind the node that cannot be read.
func (w *dxWalk) advance() (more, continued bool, err error) {
	for {
		if len(w.frames) == 0 {
			return false, false, nil
		}
		if f := &w.frames[len(w.frames)-1]; f.at+1 < f.node.Count() {
			f.at++
			break
		}
		w.frames = w.frames[:len(w.frames)-1]
	}
	f := w.frames[len(w.frames)-1]
	e := f.node.Entry(f.at)
	continued = e.Hash&1 != 0
	for len(w.frames) < w.levels {
		node, err := w.in.dxInner(e.Block)
		if err != nil {
			return true, false, err
		}
		w.frames = append(w.frames, dxFrame{node: node, block: e.Block})
		e = node.Entry(0)
	}
	return true, continued, nil
}

// broken reports whether the walk stands at no leaf, but at a node that cannot be read.
func (w *dxWalk) broken() bool { return len(w.frames) < w.levels }

package ext4

import (
	"bytes"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// blockXattrs returns the xattrs in the inode's xattr block.
func (in *Inode) blockXattrs() ([]disk.Xattr, error) {
	blk := in.disk.XattrBlock(&in.fs.sb)
	if blk == 0 {
		return nil, nil
	}
	data, err := in.xattrBlock(blk)
	if err != nil {
		return nil, err
	}
	return disk.XattrBlockPlace(in.ino, data, blk).Xattrs()
}

// putXattrBlock gives the inode a block of the xattrs of list, in its order,
// in place of that with old: one that has the same already and is shared then; its own, if no
// other inode has it; or a new one (ext4_xattr_block_set). To refs it adds by how much the
// references to EA inodes change.
func (h *Handle) putXattrBlock(in *Inode, old, list []disk.Xattr, refs valueRefs) error {
	was := in.disk.XattrBlock(&h.fs.sb)
	alone := false
	if was != 0 {
		data, err := in.xattrBlock(was)
		if err != nil {
			return err
		}
		head := disk.DecodeXattrHeader(data)
		if head.Refcount == 0 {
			return &disk.CorruptError{Struct: "xattr block of inode", Num: uint64(in.ino), Block: was, Off: 4, Field: "h_refcount", Have: "0", Want: "1 or more"}
		}
		alone = head.Refcount == 1
		if head.Refcount < disk.XattrMaxRefcount {
			h.knowXattrBlock(head.Hash, was)
		}
	}
	if len(list) == 0 {
		in.disk.FileACL = 0
		return h.releaseXattrBlock(in, was, old, refs)
	}
	hash := disk.XattrBlockHash(list)
	same, err := h.sameXattrBlock(in, list, hash, was)
	switch {
	case err != nil:
		return err
	case same != 0:
		if err := h.refXattrBlock(same, 1); err != nil {
			return err
		}
		in.addBlocks(1 << h.fs.sb.ClusterBits())
	case alone:
		refs.add(old, -1)
		refs.add(list, 1)
		return h.writeXattrBlock(in, was, list, hash)
	default:
		if same, err = h.allocFor(in); err != nil {
			return err
		}
		h.fresh(kindXattr, nil, same)
		refs.add(list, 1)
		if err := h.writeXattrBlock(in, same, list, hash); err != nil {
			return err
		}
	}
	in.disk.FileACL = same
	if was == 0 {
		return nil
	}
	return h.releaseXattrBlock(in, was, old, refs)
}

// writeXattrBlock writes list to block n, which one inode has.
func (h *Handle) writeXattrBlock(in *Inode, n disk.PBlock, list []disk.Xattr, hash uint32) error {
	data, err := h.edit(kindXattr, nil, n)
	if err != nil {
		return err
	}
	h.forgetXattrBlock(disk.DecodeXattrHeader(data).Hash, n)
	// The list may be of this very block.
	disk.XattrBlockPlace(in.ino, data, n).Put(list)
	disk.XattrHeader{Magic: disk.XattrMagic, Refcount: 1, Blocks: 1, Hash: hash}.Put(data)
	h.knowXattrBlock(hash, n)
	return nil
}

// refXattrBlock counts one inode more, or less, for block n. With as many as
// it can have it is not to be found any more.
func (h *Handle) refXattrBlock(n disk.PBlock, by int) error {
	data, err := h.edit(kindXattr, nil, n)
	if err != nil {
		return err
	}
	head := disk.DecodeXattrHeader(data)
	head.Refcount = uint32(int(head.Refcount) + by)
	head.Put(data)
	if head.Refcount >= disk.XattrMaxRefcount {
		h.forgetXattrBlock(head.Hash, n)
	} else {
		h.knowXattrBlock(head.Hash, n)
	}
	return nil
}

// releaseXattrBlock gives up the inode's part in block n, and the block if no
// other inode has it (ext4_xattr_release_block).
func (h *Handle) releaseXattrBlock(in *Inode, n disk.PBlock, list []disk.Xattr, refs valueRefs) error {
	data, err := in.xattrBlock(n)
	if err != nil {
		return err
	}
	head := disk.DecodeXattrHeader(data)
	cluster := disk.PBlock(1) << h.fs.sb.ClusterBits()
	if head.Refcount > 1 {
		in.addBlocks(-int64(cluster))
		return h.refXattrBlock(n, -1)
	}
	h.forgetXattrBlock(head.Hash, n)
	refs.add(list, -1)
	return h.freeNode(in, n&^(cluster-1))
}

// sameXattrBlock looks for a block, other than not, that holds what list does
// and that one inode more can have; 0 is none (ext4_xattr_block_cache_find).
func (h *Handle) sameXattrBlock(in *Inode, list []disk.Xattr, hash uint32, not disk.PBlock) (disk.PBlock, error) {
	for _, n := range h.rw.xattrBlocks.numbers(hash) {
		if n == not {
			continue
		}
		data, err := in.xattrBlock(n)
		if err != nil {
			return 0, err
		}
		if r := disk.DecodeXattrHeader(data).Refcount; r == 0 || r >= disk.XattrMaxRefcount {
			continue
		}
		have, err := disk.XattrBlockPlace(in.ino, data, n).Xattrs()
		if err != nil {
			return 0, fmt.Errorf("a block that may be shared: %w", err)
		}
		if slices.EqualFunc(have, list, sameXattr) {
			return n, nil
		}
	}
	return 0, nil
}

func sameXattr(a, b disk.Xattr) bool {
	if a.Hash != b.Hash || a.Index != b.Index || a.ValueIno != b.ValueIno || !bytes.Equal(a.Name, b.Name) {
		return false
	}
	if a.ValueIno != 0 {
		return a.ValueSize == b.ValueSize
	}
	return bytes.Equal(a.Value, b.Value)
}

// knowXattrBlock and forgetXattrBlock keep in mind that block n, with that
// h_hash, can be shared, or cannot any more. A hash of 0 says that it never can.
func (h *Handle) knowXattrBlock(hash uint32, n disk.PBlock) {
	if x := &h.rw.xattrBlocks; hash != 0 && x.add(hash, n) {
		h.undo = append(h.undo, func() { x.remove(hash, n) })
	}
}

func (h *Handle) forgetXattrBlock(hash uint32, n disk.PBlock) {
	if x := &h.rw.xattrBlocks; x.remove(hash, n) {
		h.undo = append(h.undo, func() { x.add(hash, n) })
	}
}

// maxHashes is how many numbers a hashIndex holds.
const maxHashes = 1 << 14

// A hashIndex finds the numbers of what has a hash (mbcache). It holds a
// bounded number of them: what it has forgotten is not shared. The zero value is empty.
type hashIndex[N comparable] struct {
	m map[uint32][]N
	n int
}

func (x *hashIndex[N]) numbers(hash uint32) []N { return x.m[hash] }

// add reports whether the number was not there yet.
func (x *hashIndex[N]) add(hash uint32, n N) bool {
	if slices.Contains(x.m[hash], n) {
		return false
	}
	if x.m == nil {
		x.m = make(map[uint32][]N)
	}
	for other, list := range x.m {
		if x.n < maxHashes {
			break
		}
		x.n -= len(list)
		delete(x.m, other)
	}
	x.m[hash] = append(x.m[hash], n)
	x.n++
	return true
}

// remove reports whether the number was there.
func (x *hashIndex[N]) remove(hash uint32, n N) bool {
	i := slices.Index(x.m[hash], n)
	if i < 0 {
		return false
	}
	x.n--
	if x.m[hash] = slices.Delete(x.m[hash], i, i+1); len(x.m[hash]) == 0 {
		delete(x.m, hash)
	}
	return true
}

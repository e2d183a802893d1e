package fsck

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"e4go/ext4/disk"
)

// xattrUse says that an inode has its xattrs in a block, perhaps with others.
type xattrUse struct {
	block disk.PBlock
	ino   disk.Ino
}

// waiting is an inode of which the blocks can be counted when its block of xattrs has been read.
type waiting struct {
	ino        disk.Ino
	ea         disk.PBlock
	clusters   uint64 // without those of the block's values
	inodes     uint64 // likewise, itself included
	raw        uint64 // i_blocks
	huge, lost bool
	quota      bool // it counts for quotas
	ids        [disk.QuotaTypes]uint32
}

// eaCharge is what the values of a block of xattrs are charged for.
type eaCharge struct {
	block            disk.PBlock
	clusters, inodes uint64
}

// takeXattrBlock notes that the inode at hand has a block of xattrs, and
// returns it, or 0.
func (w *worker) takeXattrBlock() disk.PBlock {
	c := w.c
	b := w.inode.in.XattrBlock(&c.sb)
	if b == 0 || !c.sb.Compat.Has(disk.CompatExtAttr) || !c.legal(b) {
		return 0 // told of with the unused fields
	}
	w.lists.xattrs = append(w.lists.xattrs, xattrUse{b, w.inode.ino})
	return b
}

// checkXattrBlocks reads every block of xattrs once, in the order of the device.
func (c *checker) checkXattrBlocks() error {
	uses := c.scan.xattrs
	var next atomic.Int64 // index into uses
	const some = 64
	err := c.workers((len(uses)+some-1)/some, func(w *worker) error {
		defer w.keep()
		var charges []eaCharge
		defer func() {
			c.mu.Lock()
			c.scan.charges = append(c.scan.charges, charges...)
			c.mu.Unlock()
		}()
		for {
			from := int(next.Add(some) - some)
			if from >= len(uses) || w.stopped() {
				return w.err
			}
			for i := from; i < min(from+some, len(uses)); i++ {
				if i > 0 && uses[i-1].block == uses[i].block {
					continue
				}
				end := i + 1
				for end < len(uses) && uses[end].block == uses[i].block {
					end++
				}
				charge, err := w.xattrBlock(uses[i:end])
				if err != nil {
					return err
				}
				if charge.inodes != 0 {
					charges = append(charges, charge)
				}
			}
		}
	})
	c.scan.xattrs = nil
	if err != nil {
		return err
	}
	return c.countWaiting()
}

// countWaiting judges i_blocks of the inodes that waited for their block of xattrs.
func (c *checker) countWaiting() error {
	s := &c.scan
	slices.SortFunc(s.charges, func(a, b eaCharge) int { return cmp.Compare(a.block, b.block) })
	for i := range s.waiting {
		x := &s.waiting[i]
		if j, ok := slices.BinarySearchFunc(s.charges, x.ea, func(e eaCharge, b disk.PBlock) int { return cmp.Compare(e.block, b) }); ok {
			x.clusters += s.charges[j].clusters
			x.inodes += s.charges[j].inodes
		}
		if x.quota {
			s.quota.add(c, x.ids, x.clusters<<(c.bits+c.cbits), x.inodes)
		}
		at := Place{Ino: x.ino, OnBlock: true}
		at.Block, at.Off, _ = c.findInode(x.ino)
		c.judgeBlocks(at, x.raw, x.huge, x.clusters)
	}
	s.waiting = nil
	return nil
}

// xattrBlock checks one block of xattrs that the inodes of uses have
// (check_ext_attr). It returns what its values are charged for.
func (w *worker) xattrBlock(uses []xattrUse) (eaCharge, error) {
	c := w.c
	blk, owner := uses[0].block, uses[0].ino
	s := &w.inode.xattr
	s.reset()
	c.claim(c.cluster(blk), 1)
	bad := func(k *Kind, off int, have, want string) {
		p := Problem{Place: Place{Ino: owner, Block: blk, Off: off, OnBlock: true}, Have: have, Want: want}
		if k == xattrBlock {
			p.classes = append(p.classes, k.Class)
			if raw, _, ok, err := w.readInode(owner); err == nil && ok {
				in := disk.DecodeInode(raw)
				p.classes = append(p.classes, noXattrClasses(&in)...)
			}
		}
		c.rep.add(k, p)
	}
	cached, err := w.block(blk)
	if errors.Is(err, errBeyond) {
		bad(xattrBlockRead, 0, dec(blk), "")
		return eaCharge{}, nil
	}
	if err != nil {
		return eaCharge{}, fmt.Errorf("xattrs of inode %d: %w", owner, err)
	}
	b := slices.Clone(cached) // its values may lie in inodes that are read meanwhile
	h := disk.DecodeXattrHeader(b)
	if h.Magic != disk.XattrMagic {
		bad(xattrBlock, 0, hex(h.Magic), hex(uint32(disk.XattrMagic)))
	}
	if h.Blocks != 1 {
		bad(xattrBlocks, 8, dec(h.Blocks), "")
	}
	w.judgeXattrBlock(b, owner, bad)
	if sum := disk.XattrBlockChecksum(c.seed, blk, b); c.sb.MetadataCsum() && h.Checksum != sum {
		bad(xattrChecksum, 0x10, hex(h.Checksum), hex(sum))
	}
	if uint64(h.Refcount) != uint64(len(uses)) {
		bad(xattrRefcount, 4, dec(h.Refcount), dec(len(uses)))
	}
	for at := disk.XattrHeaderSize; at+disk.XattrEntrySize <= len(b) && !lastEntry(b[at:]); {
		e := disk.DecodeXattrEntry(b[at:])
		at += disk.XattrEntryLen(int(e.NameLen))
		if e.ValueIno != 0 && at < len(b) {
			w.lists.eaRefs = append(w.lists.eaRefs, e.ValueIno)
		}
	}
	return eaCharge{blk, s.clusters, s.inodes}, nil
}

// judgeXattrBlock goes through the entries of block b.
func (w *worker) judgeXattrBlock(b []byte, owner disk.Ino, bad func(k *Kind, off int, have, want string)) {
	s := &w.inode.xattr
	s.taken.clear(len(b))
	s.taken.take(0, disk.XattrHeaderSize)
	at := disk.XattrHeaderSize
	for ; at < len(b) && !lastEntry(b[at:]); at += disk.XattrEntryLen(int(b[at])) {
		if len(b)-at < disk.XattrEntrySize || !s.taken.take(at, disk.XattrEntryLen(int(b[at]))) {
			bad(xattrBlockOverlap, at, dec(at), "")
			break
		}
		e := disk.DecodeXattrEntry(b[at:])
		name := b[at+disk.XattrEntrySize:][:e.NameLen]
		if e.Index == 0 {
			bad(xattrBlockName, at+1, "0", "")
			break
		}
		if e.ValueIno != 0 {
			generation := uint32(0)
			if raw, _, ok, err := w.readInode(owner); err != nil {
				w.inodeErr(err)
			} else if ok {
				generation = disk.DecodeInode(raw).Generation
			}
			if k, have, want := w.judgeEAInode(e, name, owner, generation, s); k != nil {
				bad(k, at+4, have, want)
			}
			continue
		}
		end := uint64(e.ValueOffset) + uint64(e.ValueSize)
		if e.ValueSize > disk.MaxXattrValue || end > uint64(len(b)) {
			bad(xattrBlockValue, at+2, dec(e.ValueOffset), fmt.Sprintf("%d bytes within the block", e.ValueSize))
			break
		}
		if e.ValueSize != 0 && !s.taken.take(int(e.ValueOffset), padded(e.ValueSize)) {
			bad(xattrBlockOverlap, at+2, dec(e.ValueOffset), "")
		}
		if want, ok := entryHash(e, name, b, int(e.ValueOffset)); !ok {
			bad(xattrHash, at+12, hex(e.Hash), hex(want))
		}
	}
	if !s.taken.take(at, 4) {
		bad(xattrBlockOverlap, at, dec(at), "")
	}
}

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"e4go/ext4/disk"
)

// An EA inode holds the value of an xattr, for all xattrs that have this
// value. In place of times and version it has the hash of the value and the number of
// entries, in inodes and blocks, that name it. Its blocks are its own, and count
// in i_blocks and for the quota of every inode whose xattr it is, too.

// valueRefs is by how much the numbers of references to EA inodes change.
type valueRefs map[disk.Ino]int

// add counts the EA inodes of list by times.
func (r valueRefs) add(list []disk.Xattr, by int) {
	for i := range list {
		if ea := list[i].ValueIno; ea != 0 {
			r[ea] += by
		}
	}
}

// refValues changes the references to the EA inodes of xattrs of in.
func (h *Handle) refValues(in *Inode, refs valueRefs) error {
	for _, ino := range slices.Sorted(maps.Keys(refs)) {
		if refs[ino] == 0 {
			continue
		}
		ea, err := h.eaInode(in, ino)
		if err != nil {
			return err
		}
		n := eaRefs(&ea.disk)
		if ea.isLustreEA(in) {
			n = 1
		}
		if by := refs[ino]; by < 0 && n < uint64(-by) {
			return &disk.CorruptError{Struct: "EA inode", Num: uint64(ino), Block: ea.block, Off: ea.off, Field: "reference count", Have: fmt.Sprint(n), Want: fmt.Sprintf("at least %d", -by)}
		}
		if n += uint64(refs[ino]); n == 0 {
			err = h.freeEAInode(ea)
		} else {
			setEARefs(&ea.disk, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eaRefs is the number of entries that name an EA inode: the low half is
// i_version, the high half i_ctime.
func eaRefs(d *disk.Inode) uint64 { return uint64(uint32(d.Ctime.Sec))<<32 | d.Version&0xffffffff }

func setEARefs(d *disk.Inode, n uint64) {
	d.Ctime, d.Version = disk.Time{Sec: int64(n >> 32)}, n&0xffffffff
}

// eaInode returns EA inode ino of an xattr of in, to be changed.
func (h *Handle) eaInode(in *Inode, ino disk.Ino) (*Inode, error) {
	ea, err := h.fields(ino)
	if err != nil {
		return nil, fmt.Errorf("an xattr of inode %d: %w", in.ino, err)
	}
	if ino == in.ino || !ea.disk.Flags.Has(disk.FlagEAInode) || ea.Type() != disk.ModeReg || ea.disk.Links == 0 {
		return nil, &disk.CorruptError{Struct: "xattr of inode", Num: uint64(in.ino), Block: in.block, Off: in.off, Field: "e_value_inum",
			Have: fmt.Sprint(ino), Want: "an EA inode in use"}
	}
	return h.inode(ino)
}

// isLustreEA reports whether the EA inode is one of Lustre's: it names its one
// owner, and is not charged to it.
func (ea *Inode) isLustreEA(owner *Inode) bool {
	return uint32(ea.disk.Mtime.Sec) == uint32(owner.ino) && ea.disk.Generation == owner.disk.Generation
}

// chargeValue counts the value of x, if an EA inode holds it, among the blocks
// of in, once more or less (ext4_xattr_inode_alloc_quota).
func (h *Handle) chargeValue(in *Inode, x *disk.Xattr, times int64) error {
	if x.ValueIno == 0 {
		return nil
	}
	ea, err := h.peek(x.ValueIno)
	if err != nil {
		return fmt.Errorf("an xattr of inode %d: %w", in.ino, err)
	}
	if ea.isLustreEA(in) {
		return nil
	}
	sb := &h.fs.sb
	bits := sb.BlockBits() + sb.ClusterBits()
	clusters := (int64(x.ValueSize) + 1<<bits - 1) >> bits
	in.addBlocks(times * clusters << sb.ClusterBits())
	if h.eaCharged == nil {
		h.eaCharged = make(map[disk.Ino]int64)
	}
	h.eaCharged[in.ino] += times
	return nil
}

// valueInode returns an EA inode that holds value, whose hash is sum: one that
// there is, or a new one. The reference to it is not counted yet.
func (h *Handle) valueInode(in *Inode, value []byte, sum uint32) (disk.Ino, error) {
	for _, ino := range h.rw.eaInodes.numbers(sum) {
		ea, err := h.peek(ino)
		if err != nil {
			return 0, err
		}
		if !ea.disk.Flags.Has(disk.FlagEAInode) || ea.disk.Links == 0 || ea.Size() != int64(len(value)) || ea.isLustreEA(in) {
			continue
		}
		have := make([]byte, len(value))
		if _, err := ea.readAt(have, 0); err != nil {
			return 0, err
		}
		if bytes.Equal(have, value) {
			return ino, nil
		}
	}
	return h.newEAInode(in, value, sum)
}

// newEAInode makes an EA inode for an xattr of in (ext4_xattr_inode_create).
// The value is written to the device at once: nobody else sees these blocks before the
// update is published, and the commit waits for them.
func (h *Handle) newEAInode(in *Inode, value []byte, sum uint32) (disk.Ino, error) {
	ino, err := h.allocInode(in, false)
	if err != nil {
		return 0, err
	}
	ea, err := h.newInode(ino, rand.Uint32())
	if err != nil {
		return 0, err
	}
	sb := &h.fs.sb
	d := &ea.disk
	d.Mode, d.UID, d.GID, d.Links = disk.ModeReg|0o600, in.disk.UID, in.disk.GID, 1
	d.Flags, d.Size = disk.FlagEAInode, uint64(len(value))
	ea.wantExtraIsize()
	now := h.rw.time()
	d.Atime, d.Mtime, d.Crtime = disk.Time{Sec: int64(sum)}, now, now
	if sb.Incompat.Has(disk.IncompatExtents) {
		d.Flags |= disk.FlagExtents
		fillRoot(d, nil, 0)
	}
	blocks := (uint64(len(value)) + uint64(sb.BlockSize()) - 1) >> sb.BlockBits()
	for at := uint64(0); at < blocks; {
		r, err := h.mapHole(ea, disk.LBlock(at), blocks-at, false)
		if err != nil {
			return 0, err
		}
		part := make([]byte, r.n<<sb.BlockBits())
		copy(part, value[at<<sb.BlockBits():])
		if err := h.fs.writeDevice(part, int64(r.first)<<sb.BlockBits()); err != nil {
			return 0, err
		}
		at += r.n
	}
	if h.rw.eaInodes.add(sum, ino) {
		h.undo = append(h.undo, func() { h.rw.eaInodes.remove(sum, ino) })
	}
	return ino, nil
}

// freeEAInode deletes an EA inode that no xattr names any more. What one update
// cannot take of it is deleted when the file system is closed.
func (h *Handle) freeEAInode(ea *Inode) error {
	if sum := uint32(ea.disk.Atime.Sec); h.rw.eaInodes.remove(sum, ea.ino) {
		h.undo = append(h.undo, func() { h.rw.eaInodes.add(sum, ea.ino) })
	}
	setEARefs(&ea.disk, 0)
	ea.disk.Links = 0
	next, err := h.remove(ea, 0, maxLogical)
	if err != nil {
		return fmt.Errorf("EA inode %d: %w", ea.ino, err)
	}
	if next < maxLogical {
		return h.addOrphan(ea)
	}
	ea.disk.Size = 0
	ea.disk.Dtime = uint32(h.rw.time().Sec)
	return errors.Join(h.removeOrphan(ea), h.freeInode(ea.ino, false))
}

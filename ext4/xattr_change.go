package ext4

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// maxXattrSize is XATTR_SIZE_MAX: the longest value that setxattr(2) takes.
const maxXattrSize = 65536

// Setxattr gives inode ino the xattr name, as setxattr(2) does; an ACL comes
// in the form of that call, and changes the mode. flags are XATTR_CREATE and XATTR_REPLACE. It
// fails with a wrapped EEXIST or ENODATA by them; EOPNOTSUPP for a name in no
// namespace; EINVAL, ERANGE or E2BIG for a name or value that none can have; EPERM; EACCES for a
// default ACL of what is no directory; and ENOSPC if the value fits neither into the inode, nor
// into its xattr block, nor, with the feature, into an inode of its own.
func (fs *FS) Setxattr(ctx context.Context, c Caller, ino disk.Ino, name string, value []byte, flags int) error {
	if value == nil {
		value = []byte{}
	}
	err := unix.EINVAL
	switch {
	case flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
	case len(value) > maxXattrSize:
		err = unix.E2BIG
	default:
		return fs.changeXattr(ctx, c, ino, name, value, flags)
	}
	return fmt.Errorf("set xattr %q of inode %d: %w", name, ino, err)
}

// Removexattr takes xattr name from inode ino, as removexattr(2) does. It
// fails with a wrapped ENODATA if there is none, unless it is an ACL, and otherwise as
// [FS.Setxattr] does.
func (fs *FS) Removexattr(ctx context.Context, c Caller, ino disk.Ino, name string) error {
	return fs.changeXattr(ctx, c, ino, name, nil, unix.XATTR_REPLACE)
}

func (fs *FS) changeXattr(ctx context.Context, c Caller, ino disk.Ino, name string, value []byte, flags int) error {
	index, rest, err := xattrToChange(name)
	if err == nil && fs.hides(index) {
		err = unix.EOPNOTSUPP
	}
	isACL := index == disk.XattrACLAccess || index == disk.XattrACLDefault
	var acl []disk.ACLEntry
	if err == nil && isACL {
		acl, err = decodeACLValue(value)
	}
	if err == nil {
		err = fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			h.limit(c)
			h.unprivileged = !c.mayUseReserved(h.rw)
			if err := h.mayChangeXattr(c, in, index); err != nil {
				return err
			}
			if isACL {
				return h.setACL(c, in, index, acl)
			}
			return h.setXattr(in, index, rest, value, flags)
		})
	}
	if err != nil {
		return fmt.Errorf("change xattr %q of inode %d: %w", name, ino, err)
	}
	return nil
}

// xattrToChange splits name into its namespace and the rest that is stored.
func xattrToChange(name string) (disk.XattrIndex, string, error) {
	switch index, rest, ok := xattrNamespace(name); {
	case name == "" || len(name) > disk.MaxNameLen:
		return 0, "", unix.ERANGE
	case strings.Contains(name, "\x00"):
		return 0, "", unix.EINVAL
	case ok:
		return index, rest, nil
	case index != 0: // the namespace alone
		return 0, "", unix.EINVAL
	}
	return 0, "", unix.EOPNOTSUPP
}

// mayChangeXattr applies the rules that do not depend on permissions to write
// (xattr_permission, vfs_set_acl).
func (h *Handle) mayChangeXattr(c Caller, in *Inode, index disk.XattrIndex) error {
	t := in.Type()
	switch {
	case in.disk.Links == 0 && !h.isOrphan(in.ino):
		return in.stale()
	case in.internal(), in.disk.Flags&(disk.FlagImmutable|disk.FlagAppend) != 0:
		return unix.EPERM
	case index == disk.XattrTrusted && !c.Privileged:
		return unix.EPERM
	case index == disk.XattrUser && t != disk.ModeReg && t != disk.ModeDir:
		return unix.EPERM
	case (index == disk.XattrACLAccess || index == disk.XattrACLDefault) && t == disk.ModeLink:
		return unix.EOPNOTSUPP
	}
	return nil
}

// setXattr gives the inode an xattr, with the value as it is stored, or takes
// it away if value is nil (ext4_xattr_set_handle). A value that it has already changes nothing.
func (h *Handle) setXattr(in *Inode, index disk.XattrIndex, name string, value []byte, flags int) error {
	body, err := in.bodyXattrs()
	if err != nil {
		return err
	}
	block, err := in.blockXattrs()
	if err != nil {
		return err
	}
	i, j := findXattr(body, index, name), findXattr(block, index, name)
	var old *disk.Xattr
	switch {
	case i >= 0:
		old = &body[i]
	case j >= 0:
		old = &block[j]
	}
	switch {
	case old != nil && flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case old == nil && flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	case old == nil && value == nil,
		old != nil && value != nil && old.ValueIno == 0 && bytes.Equal(old.Value, value):
		return nil
	}
	newBody, newBlock := without(body, i), without(block, j)
	if value != nil {
		in.wantExtraIsize()
		x := disk.Xattr{XattrEntry: disk.XattrEntry{Index: index}, Name: []byte(name), Value: value}
		samePlace := j >= 0 && old.ValueIno == 0 && disk.XattrValueLen(len(old.Value)) == disk.XattrValueLen(len(value))
		inBody, err := h.placeXattr(in, &x, newBody, newBlock, samePlace)
		if err != nil {
			return err
		}
		// An entry keeps its place in the inode; in a block it has one.
		if inBody && i >= 0 {
			newBody = slices.Insert(newBody, i, x)
		} else if inBody {
			newBody = append(newBody, x)
		} else {
			at, _ := slices.BinarySearchFunc(newBlock, x, disk.CompareXattrs)
			newBlock = slices.Insert(newBlock, at, x)
			j = at
		}
		if err := h.chargeValue(in, &x, 1); err != nil {
			return err
		}
	}
	if old != nil {
		if err := h.chargeValue(in, old, -1); err != nil {
			return err
		}
	}
	refs := make(valueRefs)
	refs.add(body, -1)
	refs.add(newBody, 1)
	in.putBodyXattrs(newBody)
	if j >= 0 {
		if err := h.putXattrBlock(in, block, newBlock, refs); err != nil {
			return err
		}
	}
	h.needExtAttr()
	in.touch(false)
	return h.refValues(in, refs)
}

// placeXattr decides where x can stand, beside the others of the body or of
// the block: in the inode; in the block; and if it fits nowhere, or is large, with its value in
// an EA inode, which it makes then. samePlace says that the block has a value of the
// same room for it.
func (h *Handle) placeXattr(in *Inode, x *disk.Xattr, body, block []disk.Xattr, samePlace bool) (inBody bool, err error) {
	size := h.fs.sb.BlockSize()
	feature := h.fs.sb.Incompat.Has(disk.IncompatEAInode) && len(x.Value) > 0
	value := x.Value
	// EXT4_XATTR_MIN_LARGE_EA_SIZE
	large := feature && disk.XattrValueLen(len(value)) > size-disk.XattrEntryLen(3)-disk.XattrHeaderSize-4
	for {
		if large {
			x.ValueIno, x.Value = math.MaxUint32, nil // some inode
		}
		room := disk.XattrRoom([]disk.Xattr{*x}) - 4
		// e2fsck takes a link that has i_blocks and no xattr block for a slow one.
		inBody = disk.XattrRoom(body)+room <= in.bodyRoom() && !(large && in.Type() == disk.ModeLink)
		inBlock := disk.XattrRoom(block)+room <= size-disk.XattrHeaderSize
		if feature && !large && !samePlace && size-valuesRoom(block)-disk.XattrValueLen(len(value)) < min(size/8, 1024) {
			inBlock = false // EXT4_XATTR_BLOCK_RESERVE: names that come shall have room
		}
		if inBody || inBlock {
			break
		}
		if large || !feature {
			return false, fmt.Errorf("%d bytes do not fit beside the other xattrs: %w", len(value), unix.ENOSPC)
		}
		large = true
	}
	switch {
	case large:
		sum := disk.EAInodeHash(h.fs.seed, value)
		x.ValueSize, x.Hash = uint32(len(value)), disk.XattrInodeEntryHash(x.Name, sum, false)
		x.ValueIno, err = h.valueInode(in, value, sum)
	case !inBody:
		x.Hash = disk.XattrEntryHash(x.Name, value, false)
	}
	return inBody, err
}

func valuesRoom(list []disk.Xattr) int {
	n := 0
	for _, x := range list {
		n += disk.XattrValueLen(len(x.Value))
	}
	return n
}

func findXattr(list []disk.Xattr, index disk.XattrIndex, name string) int {
	return slices.IndexFunc(list, func(x disk.Xattr) bool { return x.Index == index && string(x.Name) == name })
}

// without is a list of its own that misses entry i; -1 is none.
func without(list []disk.Xattr, i int) []disk.Xattr {
	list = slices.Clone(list)
	if i < 0 {
		return list
	}
	return slices.Delete(list, i, i+1)
}

// body is the place of the xattrs in an inode that is being changed.
func (in *Inode) body() (disk.XattrPlace, bool) {
	in.disk.Put(in.raw)
	return disk.XattrIbodyRoom(in.ino, in.raw, in.block, in.off)
}

// bodyRoom is how many bytes the list of the xattrs in the inode can have.
func (in *Inode) bodyRoom() int {
	p, ok := in.body()
	if !ok {
		return 0
	}
	return len(p.Bytes) - p.Entries
}

// bodyXattrs returns the xattrs that stand in the inode.
func (in *Inode) bodyXattrs() ([]disk.Xattr, error) {
	in.disk.Put(in.raw)
	p, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.block, in.off)
	if !ok {
		return nil, nil
	}
	return p.Xattrs()
}

// putBodyXattrs makes list the xattrs that stand in the inode, which has room
// for them.
func (in *Inode) putBodyXattrs(list []disk.Xattr) {
	p, ok := in.body()
	if !ok {
		return
	}
	p.Put(list)
	disk.PutXattrMagic(p.Bytes, len(list) > 0)
}

// wantExtraIsize gives fields to the bytes behind the first 128, where nobody
// has used them yet: what is behind the fields can hold xattrs then (__ext4_iget).
func (in *Inode) wantExtraIsize() {
	if int(in.fs.sb.InodeSize) > disk.GoodOldInodeSize && in.disk.ExtraIsize == 0 {
		in.disk.ExtraIsize = minExtraIsize
		clear(in.raw[disk.GoodOldInodeSize+minExtraIsize:])
	}
}

// needExtAttr sets the feature that a file system with xattrs has.
func (h *Handle) needExtAttr() {
	if !h.rw.super.Compat.Has(disk.CompatExtAttr) {
		h.after = append(h.after, func() {
			h.rw.super.Compat |= disk.CompatExtAttr
			h.rw.running.super = true
		})
	}
}

// freeXattrs gives back what the xattrs of an inode take that is being
// deleted (ext4_xattr_delete_inode). done is false if there are more EA inodes than one
// update takes: some are gone then, and it is to be called again in the next.
func (h *Handle) freeXattrs(in *Inode) (done bool, err error) {
	if !in.hasXattrs() {
		return true, nil
	}
	own, err := h.ownXattrs(in)
	if err != nil {
		return false, err
	}
	blocks, most := 0, h.rw.handleRoom()/8
	var first []disk.Xattr // what this update takes, should it not be all
	for _, x := range own {
		if x.ValueIno != 0 {
			blocks += int(x.ValueSize)>>h.fs.sb.BlockBits() + 1
		}
		if blocks > most && len(first) > 0 {
			break
		}
		x.Name = bytes.Clone(x.Name) // it moves
		first = append(first, x)
	}
	if len(first) == len(own) {
		return true, h.dropXattrs(in)
	}
	for _, x := range first {
		if err := h.setXattr(in, x.Index, string(x.Name), nil, 0); err != nil {
			return false, err
		}
	}
	return false, nil
}

// dropXattrs takes all xattrs from an inode, and leaves what they were in its body.
func (h *Handle) dropXattrs(in *Inode) error {
	body, err := in.bodyXattrs()
	if err != nil {
		return err
	}
	block, err := in.blockXattrs()
	if err != nil {
		return err
	}
	for _, list := range [][]disk.Xattr{body, block} {
		for i := range list {
			if err := h.chargeValue(in, &list[i], -1); err != nil {
				return err
			}
		}
	}
	refs := make(valueRefs)
	refs.add(body, -1)
	if in.disk.XattrBlock(&h.fs.sb) != 0 {
		if err := h.putXattrBlock(in, block, nil, refs); err != nil {
			return err
		}
	}
	return h.refValues(in, refs)
}

// ownXattrs returns the xattrs of an inode that no other inode shares.
func (h *Handle) ownXattrs(in *Inode) ([]disk.Xattr, error) {
	list, err := in.bodyXattrs()
	if blk := in.disk.XattrBlock(&h.fs.sb); err == nil && blk != 0 {
		var data []byte
		if data, err = in.xattrBlock(blk); err == nil && disk.DecodeXattrHeader(data).Refcount == 1 {
			var block []disk.Xattr
			block, err = in.blockXattrs()
			list = append(list, block...)
		}
	}
	return list, err
}

// dropCapability takes the capabilities of a file whose contents change.
func (h *Handle) dropCapability(in *Inode) error {
	if !in.hasXattrs() {
		return nil
	}
	return h.setXattr(in, disk.XattrSecurity, "capability", nil, 0)
}

package ext4

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// userModifiable are the flags that FS_IOC_SETFLAGS changes
// (EXT4_FL_USER_MODIFIABLE).
const userModifiable disk.FileFlags = 0x624bc0ff

// userVisible are those that it takes at all (EXT4_FL_USER_VISIBLE).
const userVisible disk.FileFlags = 0x725bdfff

// flagsOf are the flags that a file of type t can have (ext4_mask_flags).
func flagsOf(t disk.Mode) disk.FileFlags {
	switch t {
	case disk.ModeDir:
		return ^disk.FileFlags(0)
	case disk.ModeReg:
		return ^(disk.FlagDirsync | disk.FlagTopdir | disk.FlagCasefold | disk.FlagProjInherit)
	}
	return disk.FlagNodump | disk.FlagNoatime
}

// XFlags are fsx_xflags: what all file systems understand by attributes (FS_XFLAG_*).
type XFlags uint32

const (
	xflagReadOnly XFlags = 0x80000002 // FS_XFLAG_RDONLY_MASK: taken, and not heeded
	xflagsKnown   XFlags = 0x8001fffb // FS_XFLAGS_MASK, without that of verity
	xflagExtsize  XFlags = 0x800      // FS_XFLAG_EXTSIZE
	xflagExtszInh XFlags = 0x1000     // FS_XFLAG_EXTSZINHERIT
)

// xflagPairs has the XFlags bit of each inode flag that has one
// (fileattr_fill_flags).
var xflagPairs = []struct {
	flag disk.FileFlags
	x    XFlags
}{
	{disk.FlagSync, 0x20},
	{disk.FlagImmutable, 0x8},
	{disk.FlagAppend, 0x10},
	{disk.FlagNodump, 0x80},
	{disk.FlagNoatime, 0x40},
	{disk.FlagDAX, 0x8000},
	{disk.FlagProjInherit, 0x200},
	{disk.FlagVerity, 0x20000},
}

// FSXattr is struct fsxattr, but for the extent sizes, which ext4 does not have.
type FSXattr struct {
	Flags   XFlags
	Project uint32 // fsx_projid
}

// FlagsShown is what FS_IOC_GETFLAGS tells of the inode (ext4_fileattr_get): of
// files not that projects are inherited.
func (in *Inode) FlagsShown() disk.FileFlags {
	flags := in.disk.Flags.Visible()
	if in.Type() == disk.ModeReg {
		flags &^= disk.FlagProjInherit
	}
	return flags
}

// FSXattr is what FS_IOC_FSGETXATTR tells of the inode.
func (in *Inode) FSXattr() FSXattr {
	x := FSXattr{Project: in.project()}
	flags := in.FlagsShown()
	for _, p := range xflagPairs {
		if flags.Has(p.flag) {
			x.Flags |= p.x
		}
	}
	return x
}

// project is the project that the inode belongs to: 0 without the feature, as
// the bytes have no meaning then.
func (in *Inode) project() uint32 {
	if !in.fs.sb.ROCompat.Has(disk.ROCompatProject) {
		return 0
	}
	return in.disk.ProjID
}

// SetFSXattr changes flags and project of inode ino as FS_IOC_FSSETXATTR
// does: the flags that have an XFlags bit become as x says, the others stay. It fails
// as [FS.SetAttr] does, and with EOPNOTSUPP for unknown bits, and EINVAL for project
// 4294967295 and for what a file of its type cannot have.
func (fs *FS) SetFSXattr(ctx context.Context, c Caller, ino disk.Ino, x FSXattr) error {
	err := fs.changeAttr(ctx, c, ino, func(in *Inode) (SetAttr, error) {
		flags, err := in.fromXFlags(x.Flags)
		return SetAttr{Flags: &flags, Project: &x.Project}, err
	})
	if err != nil {
		return fmt.Errorf("set flags and project of inode %d: %w", ino, err)
	}
	return nil
}

// fromXFlags is the flags that the inode gets with x (fileattr_fill_xflags,
// fileattr_set_prepare).
func (in *Inode) fromXFlags(x XFlags) (disk.FileFlags, error) {
	dir := in.Type() == disk.ModeDir
	switch {
	case x&^xflagsKnown != 0:
		return 0, unix.EOPNOTSUPP
	case x&xflagExtsize != 0 && dir, x&xflagExtszInh != 0 && !dir:
		return 0, unix.EINVAL
	}
	x &^= xflagReadOnly
	flags := in.FlagsShown()
	for _, p := range xflagPairs {
		flags &^= p.flag
		if x&p.x != 0 {
			flags |= p.flag
		}
	}
	return flags, nil
}

// mayFlag says why the inode cannot get flags, and belong to a project unless
// that is nil (fileattr_set_prepare, ext4_fileattr_set, ext4_ioctl_setflags).
func (in *Inode) mayFlag(c Caller, flags disk.FileFlags, project *uint32) error {
	const fixed = disk.FlagImmutable | disk.FlagAppend
	old, t := in.disk.Flags, in.Type()
	moves := project != nil && *project != in.project()
	switch {
	case t != disk.ModeReg && t != disk.ModeDir:
		return unix.EOPNOTSUPP // vfs_fileattr_set
	case (flags^old)&fixed != 0 && !c.Privileged:
		return unix.EPERM
	case in.encrypted() && flags&^old&disk.FlagCasefold != 0:
		return unix.ENOKEY
	case moves && *project == math.MaxUint32:
		return unix.EINVAL
	case flags&^userVisible != 0:
		return unix.EOPNOTSUPP
	}
	flags &= userModifiable
	change := (flags ^ old) & userModifiable
	switch {
	case flags&^flagsOf(t) != 0:
		return unix.EOPNOTSUPP
	case old&flags&disk.FlagImmutable != 0 && (flags != old || moves && in.fs.sb.ROCompat.Has(disk.ROCompatProject)):
		return unix.EPERM // also if what differs is not for users to change (ext4_ioctl_check_immutable)
	case change&disk.FlagJournalData != 0 && !c.Privileged:
		return unix.EPERM
	case !in.mayDAX(flags):
		return unix.EOPNOTSUPP
	case change&disk.FlagCasefold == 0:
		return nil
	case !in.fs.sb.Incompat.Has(disk.IncompatCasefold):
		return unix.EOPNOTSUPP
	case t != disk.ModeDir:
		return unix.ENOTDIR
	}
	empty, err := in.isEmpty()
	if err == nil && !empty {
		err = unix.ENOTEMPTY
	}
	return err
}

// mayDAX reports whether the inode's data can be mapped to memory, or not, as
// flags say (dax_compatible).
func (in *Inode) mayDAX(flags disk.FileFlags) bool {
	excluded := disk.FlagVerity | disk.FlagEncrypt | disk.FlagJournalData
	if in.Type() != disk.ModeDir {
		excluded |= disk.FlagInlineData
	}
	old := in.disk.Flags
	return !(flags.Has(disk.FlagDAX) && old&excluded != 0 || old.Has(disk.FlagDAX) && flags&excluded != 0)
}

// setFlags changes the flags that are for users to change, but for the form of the
// map, which takes more. Without a journal there is nothing that data could go through
// (ext4_change_inode_journal_flag).
func (in *Inode) setFlags(flags disk.FileFlags) {
	change := userModifiable &^ disk.FlagExtents
	if !in.fs.sb.Compat.Has(disk.CompatHasJournal) {
		change &^= disk.FlagJournalData
	}
	in.disk.Flags = in.disk.Flags&^change | flags&change
}

// mayProject says why the inode cannot belong to a project
// (ext4_ioctl_setproject).
func (in *Inode) mayProject(id uint32) error {
	sb := &in.fs.sb
	if id != in.project() && (!sb.ROCompat.Has(disk.ROCompatProject) || sb.InodeSize == disk.GoodOldInodeSize) {
		return unix.EOPNOTSUPP
	}
	return nil
}

// setProject makes the inode belong to a project. Whom its blocks count for
// changes with the same update.
func (h *Handle) setProject(in *Inode, id uint32) error {
	if id == in.project() {
		return nil
	}
	if err := h.expandExtraIsize(in); err != nil {
		return err
	}
	in.disk.ProjID = id
	return nil
}

// expandExtraIsize makes room for all fields behind the first 128 bytes of the
// inode. Xattrs that stand there move to the xattr block if they have to
// (ext4_expand_extra_isize_ea); it fails with a wrapped ENOSPC if they cannot.
func (h *Handle) expandExtraIsize(in *Inode) error {
	if in.disk.ExtraIsize >= minExtraIsize {
		return nil
	}
	body, err := in.bodyXattrs()
	if err != nil {
		return err
	}
	block, err := in.blockXattrs()
	if err != nil {
		return err
	}
	for i := range body { // of the inode's bytes, which change
		body[i].Name, body[i].Value = bytes.Clone(body[i].Name), bytes.Clone(body[i].Value)
	}
	in.disk.Put(in.raw)
	in.disk.ExtraIsize = max(h.fs.sb.WantExtraIsize, minExtraIsize)
	clear(in.raw[disk.GoodOldInodeSize+minExtraIsize:])
	stay, moved := in.splitBody(body)
	for i := range moved {
		x := &moved[i]
		if x.ValueIno == 0 {
			x.Hash = disk.XattrEntryHash(x.Name, x.Value, false)
		}
		at, _ := slices.BinarySearchFunc(block, *x, disk.CompareXattrs)
		block = slices.Insert(block, at, *x)
	}
	size := h.fs.sb.BlockSize() - disk.XattrHeaderSize
	if disk.XattrRoom(stay) > in.bodyRoom() || disk.XattrRoom(block) > size {
		return fmt.Errorf("xattrs of %d bytes leave no room for the project: %w", disk.XattrRoom(body), unix.ENOSPC)
	}
	in.putBodyXattrs(stay)
	if len(moved) == 0 {
		return nil
	}
	old, err := in.blockXattrs()
	if err != nil {
		return err
	}
	refs := make(valueRefs)
	refs.add(moved, -1)
	if err := h.putXattrBlock(in, old, block, refs); err != nil {
		return err
	}
	return h.refValues(in, refs)
}

// splitBody divides xattrs among those that stay in the inode and those that it has no
// room for: the smallest that makes room alone, or else the largest first. Inline data stay.
func (in *Inode) splitBody(body []disk.Xattr) (stay, moved []disk.Xattr) {
	stay = slices.Clone(body)
	for {
		over := disk.XattrRoom(stay) - in.bodyRoom()
		best, most := -1, 0
		for i := range stay {
			x := stay[i : i+1]
			n := disk.XattrRoom(x) - disk.XattrRoom(nil)
			switch {
			case x[0].Index == disk.XattrSystem && string(x[0].Name) == disk.InlineDataName:
			case best < 0, most < over && n > most, n >= over && n < most:
				best, most = i, n
			}
		}
		if over <= 0 || best < 0 {
			return stay, moved
		}
		moved = append(moved, stay[best])
		stay = slices.Delete(stay, best, best+1)
	}
}

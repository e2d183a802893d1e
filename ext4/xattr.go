package ext4

import (
	"fmt"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// An Xattr is one extended attribute of an inode.
type Xattr struct {
	Name  string          // in full: "user.mime_type"
	Index disk.XattrIndex // its namespace
	Value []byte          // as stored: an ACL is in ext4's form
	Where string          // "inode", "block 1041" or "EA inode 17"
	Shown bool            // listxattr(2) shows it
}

// storedXattr is an xattr before its value has been fetched.
type storedXattr struct {
	disk.Xattr
	where string
}

func (x *storedXattr) name() string { return x.Index.Prefix() + string(x.Name) }

// stored returns the xattrs in the inode, then those in its xattr block. With
// a *disk.CorruptError it returns what could be read all the same.
func (in *Inode) stored() ([]storedXattr, error) {
	var out []storedXattr
	add := func(p disk.XattrPlace, where string) error {
		list, err := p.Xattrs()
		for _, x := range list {
			out = append(out, storedXattr{x, where})
		}
		return err
	}
	var first error
	if p, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.block, in.off); ok {
		first = add(p, "inode")
	}
	blk := in.disk.XattrBlock(&in.fs.sb)
	if blk == 0 {
		return out, first
	}
	data, err := in.xattrBlock(blk)
	if err == nil {
		err = add(disk.XattrBlockPlace(in.ino, data, blk), fmt.Sprintf("block %d", blk))
	}
	if first == nil {
		first = err
	}
	return out, first
}

func (in *Inode) xattrBlock(blk disk.PBlock) ([]byte, error) {
	if !in.fs.sb.ValidRange(blk, 1) {
		return nil, &disk.CorruptError{Struct: "inode", Num: uint64(in.ino), Block: in.block, Off: in.off + 0x68, Field: "i_file_acl",
			Have: fmt.Sprint(blk), Want: fmt.Sprintf("below %d", in.fs.sb.Blocks)}
	}
	// The block may be shared, and its checksum does not depend on the inode.
	return in.meta(kindXattr, blk, 0, func(data []byte) error {
		return disk.CheckXattrBlock(&in.fs.sb, in.ino, data, blk)
	})
}

// hasXattrs reports whether the inode may have any.
func (in *Inode) hasXattrs() bool {
	if in.disk.XattrBlock(&in.fs.sb) != 0 {
		return true
	}
	_, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.block, in.off)
	return ok
}

// value fetches what x holds.
func (in *Inode) value(x *storedXattr) ([]byte, error) {
	if x.ValueIno == 0 {
		return x.Value, nil
	}
	bad := func(field, have, want string) error {
		return &disk.CorruptError{Struct: "EA inode", Num: uint64(x.ValueIno), Block: in.block, Off: in.off, Field: field,
			Have: have, Want: fmt.Sprintf("%s, as xattr %q of inode %d says", want, x.name(), in.ino)}
	}
	ea, err := in.fs.Inode(x.ValueIno)
	if err != nil {
		return nil, fmt.Errorf("xattr %q of inode %d: %w", x.name(), in.ino, err)
	}
	if !ea.disk.Flags.Has(disk.FlagEAInode) || ea.Type() != disk.ModeReg {
		return nil, bad("i_flags", fmt.Sprintf("%#x", uint32(ea.disk.Flags)), "ea_inode")
	}
	if ea.Size() != int64(x.ValueSize) {
		return nil, bad("i_size", fmt.Sprint(ea.Size()), fmt.Sprint(x.ValueSize))
	}
	b := make([]byte, x.ValueSize)
	if n, err := ea.readOnce(b, 0); n < len(b) {
		return nil, fmt.Errorf("xattr %q of inode %d: %w", x.name(), in.ino, err)
	}
	// EA inodes of Lustre name their one owner and have no hash.
	if uint32(ea.disk.Mtime.Sec) == uint32(in.ino) && ea.disk.Generation == in.disk.Generation {
		return b, nil
	}
	sum := disk.EAInodeHash(in.fs.seed, b)
	if have := uint32(ea.disk.Atime.Sec); have != sum {
		return nil, bad("i_atime (hash of the value)", fmt.Sprintf("%#08x", have), fmt.Sprintf("%#08x", sum))
	}
	if x.Hash != disk.XattrInodeEntryHash(x.Name, sum, false) && x.Hash != disk.XattrInodeEntryHash(x.Name, sum, true) {
		return nil, bad("e_hash", fmt.Sprintf("%#08x", x.Hash), fmt.Sprintf("%#08x", disk.XattrInodeEntryHash(x.Name, sum, false)))
	}
	return b, nil
}

// maxXattrBytes is how much [Inode.Xattrs] returns: many entries may name the
// same large EA inode, or one that is a hole.
const maxXattrBytes = 2 * disk.MaxXattrValue

// Xattrs returns all xattrs, those of hidden namespaces too. With the first
// *disk.CorruptError met it returns what could be read.
func (in *Inode) Xattrs() (list []Xattr, err error) {
	err = in.stable(func(now *Inode) (err error) {
		list, err = now.xattrs()
		return err
	})
	return list, err
}

func (in *Inode) xattrs() ([]Xattr, error) {
	list, first := in.stored()
	var out []Xattr
	left := uint64(maxXattrBytes)
	for i := range list {
		x := &list[i]
		v, err := []byte(nil), error(nil)
		if size := uint64(x.ValueSize); size > left {
			err = &disk.CorruptError{Struct: "xattr of inode", Num: uint64(in.ino), Block: in.block, Off: in.off, Field: x.name() + " size",
				Have: fmt.Sprint(size), Want: fmt.Sprintf("at most %d bytes in all values together", maxXattrBytes)}
		} else {
			left -= size
			v, err = in.value(x)
		}
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		a := Xattr{Name: x.name(), Index: x.Index, Value: v, Where: x.where, Shown: x.Index.Shown()}
		if x.ValueIno != 0 {
			a.Where = fmt.Sprintf("EA inode %d", x.ValueIno)
		}
		out = append(out, a)
	}
	return out, first
}

// Listxattr returns the names that listxattr(2) shows to root.
func (in *Inode) Listxattr() (names []string, err error) {
	err = in.stable(func(now *Inode) (err error) {
		names, err = now.listxattr()
		return err
	})
	return names, err
}

func (in *Inode) listxattr() ([]string, error) {
	if !in.hasXattrs() {
		return nil, nil
	}
	list, err := in.stored()
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list {
		if list[i].Index.Shown() && !in.fs.hides(list[i].Index) {
			out = append(out, list[i].name())
		}
	}
	return out, nil
}

// Getxattr returns the value of xattr name as getxattr(2) does, ACLs in the
// form of that call. It fails with unix.ENODATA if there is none of that name,
// EOPNOTSUPP if the name is in no namespace that the kernel shows, and EINVAL if it is one and nothing more.
func (in *Inode) Getxattr(name string) (value []byte, err error) {
	err = in.stable(func(now *Inode) (err error) {
		value, err = now.getxattr(name)
		return err
	})
	return value, err
}

func (in *Inode) getxattr(name string) ([]byte, error) {
	index, rest, ok := xattrNamespace(name)
	switch {
	case !ok && index != 0: // the namespace alone
		return nil, unix.EINVAL
	case !ok, in.fs.hides(index):
		return nil, unix.EOPNOTSUPP
	}
	if !in.hasXattrs() {
		return nil, unix.ENODATA
	}
	list, err := in.stored()
	for i := range list {
		x := &list[i]
		if x.Index != index || string(x.Name) != rest {
			continue
		}
		v, err := in.value(x)
		if err != nil || (index != disk.XattrACLAccess && index != disk.XattrACLDefault) {
			return v, err
		}
		acl, err := disk.DecodeACL(v)
		if err != nil {
			return nil, &disk.CorruptError{Struct: "xattr of inode", Num: uint64(in.ino), Block: in.block, Off: in.off, Field: name,
				Have: err.Error(), Want: "a POSIX ACL"}
		}
		return disk.WireACL(acl), nil
	}
	if err != nil {
		return nil, err
	}
	return nil, unix.ENODATA
}

// hides reports whether a mount option makes the namespace as if it was not there.
func (fs *FS) hides(x disk.XattrIndex) bool {
	switch x {
	case disk.XattrUser:
		return fs.opts.NoUserXattr
	case disk.XattrACLAccess, disk.XattrACLDefault:
		return fs.opts.NoACL
	}
	return false
}

// xattrNamespace splits name into a namespace that the kernel shows and the stored rest.
func xattrNamespace(name string) (disk.XattrIndex, string, bool) {
	for _, x := range []disk.XattrIndex{disk.XattrUser, disk.XattrTrusted, disk.XattrSecurity, disk.XattrHurd} {
		if rest, ok := strings.CutPrefix(name, x.Prefix()); ok {
			return x, rest, rest != ""
		}
	}
	for _, x := range []disk.XattrIndex{disk.XattrACLAccess, disk.XattrACLDefault} {
		if name == x.Prefix() {
			return x, "", true
		}
	}
	return 0, "", false
}

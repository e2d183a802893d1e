package disk

import (
	"errors"
	"fmt"
)

// The two forms of a POSIX ACL. On disk entries for the owner, the group, the
// mask and others leave out the id; in the form of system calls every entry is
// eight bytes.
const (
	aclDiskVersion = 1 // EXT4_ACL_VERSION
	aclWireVersion = 2 // POSIX_ACL_XATTR_VERSION
	aclUndefined   = 0xffffffff
)

// The tags of ACL entries (ACL_*).
const (
	ACLUserObj  uint16 = 0x01
	ACLUser     uint16 = 0x02
	ACLGroupObj uint16 = 0x04
	ACLGroup    uint16 = 0x08
	ACLMask     uint16 = 0x10
	ACLOther    uint16 = 0x20
)

// ACLEntry is one entry of a POSIX ACL.
type ACLEntry struct {
	Tag  uint16 // ACLUserObj ...
	Perm uint16 // as in a mode: 4 read, 2 write, 1 execute
	ID   uint32 // for ACLUser and ACLGroup
}

// DecodeACL decodes the value of an ACL xattr as ext4 stores it
// (ext4_acl_from_disk).
func DecodeACL(b []byte) ([]ACLEntry, error) {
	if len(b) < 4 || le.Uint32(b) != aclDiskVersion {
		return nil, fmt.Errorf("POSIX ACL of %d bytes does not start with version 1", len(b))
	}
	var out []ACLEntry
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, fmt.Errorf("POSIX ACL has %d bytes behind its last entry", len(b))
		}
		e := ACLEntry{Tag: le.Uint16(b[0:2]), Perm: le.Uint16(b[2:4]), ID: aclUndefined}
		switch e.Tag {
		case ACLUserObj, ACLGroupObj, ACLMask, ACLOther:
			b = b[4:]
		case ACLUser, ACLGroup:
			if len(b) < 8 {
				return nil, fmt.Errorf("POSIX ACL ends within entry %d", len(out))
			}
			e.ID = le.Uint32(b[4:8])
			b = b[8:]
		default:
			return nil, fmt.Errorf("POSIX ACL entry %d has tag %#x, want one of 1, 2, 4, 8, 0x10, 0x20", len(out), e.Tag)
		}
		out = append(out, e)
	}
	return out, nil
}

// WireACL encodes an ACL as getxattr(2) gives it: a version word, then entries
// of tag, permissions and id (struct posix_acl_xattr_entry).
func WireACL(acl []ACLEntry) []byte {
	b := le.AppendUint32(nil, aclWireVersion)
	for _, e := range acl {
		b = le.AppendUint16(b, e.Tag)
		b = le.AppendUint16(b, e.Perm)
		b = le.AppendUint32(b, e.ID)
	}
	return b
}

// EncodeACL encodes an ACL as ext4 stores it, the inverse of [DecodeACL].
func EncodeACL(acl []ACLEntry) []byte {
	b := le.AppendUint32(nil, aclDiskVersion)
	for _, e := range acl {
		b = le.AppendUint16(b, e.Tag)
		b = le.AppendUint16(b, e.Perm)
		if e.Tag == ACLUser || e.Tag == ACLGroup {
			b = le.AppendUint32(b, e.ID)
		}
	}
	return b
}

// ErrACLVersion is what [DecodeWireACL] fails with for a version that it does not know.
var ErrACLVersion = errors.New("a POSIX ACL of another version than 2")

// DecodeWireACL decodes what setxattr(2) is given, the inverse of [WireACL].
// It does not judge whether the entries make an ACL together: [CheckACL] does. No entries
// at all are none.
func DecodeWireACL(b []byte) ([]ACLEntry, error) {
	switch {
	case len(b) >= 4 && le.Uint32(b) != aclWireVersion:
		return nil, fmt.Errorf("%w: %d", ErrACLVersion, le.Uint32(b))
	case len(b) < 4 || (len(b)-4)%8 != 0:
		return nil, fmt.Errorf("%d bytes are no POSIX ACL", len(b))
	}
	var acl []ACLEntry
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e := ACLEntry{Tag: le.Uint16(b), Perm: le.Uint16(b[2:]), ID: le.Uint32(b[4:])}
		switch e.Tag {
		case ACLUser, ACLGroup:
			if e.ID == aclUndefined {
				return nil, fmt.Errorf("entry %d of the POSIX ACL names nobody", len(acl))
			}
		case ACLUserObj, ACLGroupObj, ACLMask, ACLOther:
			e.ID = aclUndefined
		default:
			return nil, fmt.Errorf("entry %d of the POSIX ACL has tag %#x", len(acl), e.Tag)
		}
		acl = append(acl, e)
	}
	return acl, nil
}

// CheckACL reports the first rule that an ACL with entries breaks, or nil
// (posix_acl_valid): they stand in the order of their tags, those for the owner, the group and others
// once each, and a mask if there are names.
func CheckACL(acl []ACLEntry) error {
	count := make(map[uint16]int)
	for i, e := range acl {
		if e.Perm > 7 {
			return fmt.Errorf("entry %d of the POSIX ACL has permissions %#o", i, e.Perm)
		}
		if i > 0 && acl[i-1].Tag > e.Tag {
			return fmt.Errorf("entry %d of the POSIX ACL, with tag %#x, comes behind one with %#x", i, e.Tag, acl[i-1].Tag)
		}
		count[e.Tag]++
	}
	names := count[ACLUser] + count[ACLGroup]
	if len(acl) > 0 && (count[ACLUserObj] != 1 || count[ACLGroupObj] != 1 || count[ACLOther] != 1 ||
		count[ACLMask] > 1 || names > 0 && count[ACLMask] == 0) {
		return errors.New("the POSIX ACL needs an entry each for the owner, the group and others, and with names one mask")
	}
	return nil
}

// ACLMode is mode with the permissions that an ACL gives the owner, the group
// and others; those of the mask, if there is one, stand for the group's
// (posix_acl_equiv_mode). equal says that the mode tells all of the ACL.
func ACLMode(acl []ACLEntry, mode Mode) (_ Mode, equal bool) {
	equal = true
	for _, e := range acl {
		switch e.Tag {
		case ACLUserObj:
			mode = mode&^0o700 | Mode(e.Perm)<<6
		case ACLGroupObj, ACLMask: // the mask comes last
			mode = mode&^0o070 | Mode(e.Perm)<<3
		case ACLOther:
			mode = mode&^0o007 | Mode(e.Perm)
		}
		equal = equal && (e.Tag == ACLUserObj || e.Tag == ACLGroupObj || e.Tag == ACLOther)
	}
	return mode, equal
}

// ChmodACL makes acl agree with the permissions of mode (posix_acl_chmod).
func ChmodACL(acl []ACLEntry, mode Mode) {
	group := -1
	for i := range acl {
		switch e := &acl[i]; e.Tag {
		case ACLUserObj:
			e.Perm = uint16(mode >> 6 & 7)
		case ACLGroupObj:
			if group < 0 {
				group = i
			}
		case ACLMask:
			group = i
		case ACLOther:
			e.Perm = uint16(mode & 7)
		}
	}
	if group >= 0 {
		acl[group].Perm = uint16(mode >> 3 & 7)
	}
}

// InheritACL makes of a directory's default ACL that of a new file: it allows
// nothing that mode does not, and mode then nothing that the ACL does not
// (posix_acl_create_masq). equal is as with [ACLMode].
func InheritACL(acl []ACLEntry, mode Mode) (_ Mode, equal bool) {
	both, _ := ACLMode(acl, mode)
	both = mode&^0o777 | mode&both&0o777
	ChmodACL(acl, both)
	_, equal = ACLMode(acl, both)
	return both, equal
}

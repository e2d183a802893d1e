package disk

import "fmt"

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

package disk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

var aclTests = []struct {
	name, disk, wire string
	want             []ACLEntry
}{
	{"empty", "01000000", "02000000", nil},
	{"a mode", "01000000" + "01000600" + "04000400" + "20000000",
		"02000000" + "01000600ffffffff" + "04000400ffffffff" + "20000000ffffffff",
		[]ACLEntry{{ACLUserObj, 6, aclUndefined}, {ACLGroupObj, 4, aclUndefined}, {ACLOther, 0, aclUndefined}}},
	{"named", "01000000" + "01000700" + "02000500e8030000" + "04000000" + "08000100ffffff7f" + "10000700" + "20000400",
		"02000000" + "01000700ffffffff" + "02000500e8030000" + "04000000ffffffff" + "08000100ffffff7f" + "10000700ffffffff" + "20000400ffffffff",
		[]ACLEntry{{ACLUserObj, 7, aclUndefined}, {ACLUser, 5, 1000}, {ACLGroupObj, 0, aclUndefined},
			{ACLGroup, 1, 0x7fffffff}, {ACLMask, 7, aclUndefined}, {ACLOther, 4, aclUndefined}}},
}

func TestACL(t *testing.T) {
	for _, tt := range aclTests {
		b, _ := hex.DecodeString(tt.disk)
		got, err := DecodeACL(b)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
		if got := EncodeACL(tt.want); !bytes.Equal(got, b) {
			t.Errorf("%s: encoded % x, want % x", tt.name, got, b)
		}
		if got := hex.EncodeToString(WireACL(tt.want)); got != tt.wire {
			t.Errorf("%s: for system calls %s, want %s", tt.name, got, tt.wire)
		}
	}
	for name, text := range map[string]string{
		"nothing":           "",
		"half a version":    "0100",
		"version 2":         "02000000",
		"half an entry":     "01000000" + "0100",
		"no id":             "01000000" + "02000500",
		"half an id":        "01000000" + "02000500e803",
		"unknown tag":       "01000000" + "40000000",
		"two tags in one":   "01000000" + "03000000",
		"no tag":            "01000000" + "00000000",
		"a good one, a bad": "01000000" + "01000600" + "00010000",
	} {
		b, _ := hex.DecodeString(text)
		if got, err := DecodeACL(b); err == nil || got != nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
}

// FuzzACL: what decodes encodes to the same bytes.
func FuzzACL(f *testing.F) {
	for _, tt := range aclTests {
		b, _ := hex.DecodeString(tt.disk)
		f.Add(b)
	}
	f.Add(bytes.Repeat([]byte{1, 0, 0, 0}, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		acl, err := DecodeACL(b)
		if err != nil {
			return
		}
		if got := EncodeACL(acl); !bytes.Equal(got, b) {
			t.Fatalf("in % x, out % x, via %+v", b, got, acl)
		}
		if n := len(WireACL(acl)); n != 4+8*len(acl) || len(acl) > len(b)/4 {
			t.Fatalf("%d entries of %d bytes are %d for system calls", len(acl), len(b), n)
		}
	})
}

func TestWireACL(t *testing.T) {
	acl := []ACLEntry{
		{ACLUserObj, 7, aclUndefined}, {ACLUser, 6, 1000}, {ACLGroupObj, 5, aclUndefined}, {ACLMask, 7, aclUndefined}, {ACLOther, 0, aclUndefined},
	}
	got, err := DecodeWireACL(WireACL(acl))
	if err != nil || !slices.Equal(got, acl) || CheckACL(got) != nil {
		t.Errorf("%v, %v, %v", got, err, CheckACL(got))
	}
	for _, bad := range [][]ACLEntry{
		{acl[0], acl[1], acl[2], acl[4]}, // names without a mask
		{acl[0], acl[2]},                 // no others
		{acl[2], acl[0], acl[4]},         // order
		{acl[0], acl[0], acl[2], acl[4]}, // twice
		{{ACLUserObj, 8, aclUndefined}, acl[2], acl[4]},
	} {
		if CheckACL(bad) == nil {
			t.Errorf("%v passes", bad)
		}
	}
	if _, err := DecodeWireACL(EncodeACL(acl)); !errors.Is(err, ErrACLVersion) {
		t.Errorf("the form on disk: %v", err)
	}
	if _, err := DecodeWireACL(WireACL([]ACLEntry{{ACLUser, 7, aclUndefined}})); err == nil {
		t.Error("an entry for nobody passes")
	}
}

// A mode and an ACL agree: each gives the other's permissions.
func TestACLMode(t *testing.T) {
	acl := []ACLEntry{{Tag: ACLUserObj, Perm: 6}, {Tag: ACLUser, Perm: 7, ID: 9}, {Tag: ACLGroupObj, Perm: 7}, {Tag: ACLMask, Perm: 4}, {Tag: ACLOther, Perm: 1}}
	if mode, equal := ACLMode(acl, 0o102777); mode != 0o102641 || equal {
		t.Errorf("%#o %t", mode, equal)
	}
	ChmodACL(acl, 0o750)
	if acl[0].Perm != 7 || acl[2].Perm != 7 || acl[3].Perm != 5 || acl[4].Perm != 0 {
		t.Errorf("after chmod: %v", acl)
	}
	small := []ACLEntry{{Tag: ACLUserObj, Perm: 6}, {Tag: ACLGroupObj, Perm: 4}, {Tag: ACLOther, Perm: 7}}
	if mode, equal := InheritACL(small, 0o100755); mode != 0o100645 || !equal {
		t.Errorf("inherited: %#o %t", mode, equal)
	}
}

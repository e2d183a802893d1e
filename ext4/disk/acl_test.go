package disk

import (
	"bytes"
	"encoding/hex"
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

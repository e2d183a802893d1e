package disk

import (
	"bytes"
	"testing"
)

// Names of ASCII hash alike whether char is signed; others do not.
func TestNameHashSigned(t *testing.T) {
	seed := [4]uint32{1, 2, 3, 4}
	for _, v := range []HashVersion{HashLegacy, HashHalfMD4, HashTea} {
		for _, tt := range []struct {
			name string
			same bool
		}{
			{"", true}, {"a", true}, {"lost+found", true}, {"\x7f", true}, {"\x80", false}, {"\xff", false}, {"Straße", false},
		} {
			h1, m1, ok1 := NameHash(v, seed, []byte(tt.name))
			h2, m2, ok2 := NameHash(v+3, seed, []byte(tt.name))
			if !ok1 || !ok2 || (h1 == h2 && m1 == m2) != tt.same {
				t.Errorf("%v of %q: %#x %#x signed, %#x %#x unsigned", v, tt.name, h1, m1, h2, m2)
			}
		}
	}
}

// A seed of zeros is no seed.
func TestNameHashSeed(t *testing.T) {
	for _, v := range []HashVersion{HashHalfMD4, HashTea} {
		none, _, _ := NameHash(v, [4]uint32{}, []byte("name"))
		md4, _, _ := NameHash(v, [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}, []byte("name"))
		last, _, _ := NameHash(v, [4]uint32{3: 1}, []byte("name"))
		if none != md4 || none == last {
			t.Errorf("%v: %#x without a seed, %#x with MD4's, %#x with another", v, none, md4, last)
		}
	}
}

func TestNameHashUnknown(t *testing.T) {
	for _, v := range []HashVersion{HashSip, 7, 255} {
		if h, m, ok := NameHash(v, [4]uint32{1}, []byte("name")); ok || h != 0 || m != 0 {
			t.Errorf("%v: got %#x %#x %t", v, h, m, ok)
		}
	}
}

func TestEffectiveHash(t *testing.T) {
	for _, tt := range []struct {
		flags   SuperFlags
		v, want HashVersion
	}{
		{0, HashTea, HashTea},
		{SuperSignedHash, HashHalfMD4, HashHalfMD4},
		{SuperUnsignedHash, HashLegacy, HashLegacyUnsigned},
		{SuperUnsignedHash, HashHalfMD4, HashHalfMD4Unsigned},
		{SuperUnsignedHash, HashTea, HashTeaUnsigned},
		{SuperUnsignedHash, HashSip, HashSip},
		{SuperUnsignedHash, 9, 9},
	} {
		sb := Superblock{Flags: tt.flags}
		if got := sb.EffectiveHash(tt.v); got != tt.want {
			t.Errorf("s_flags %d, %v: got %v, want %v", tt.flags, tt.v, got, tt.want)
		}
	}
}

// The hash that marks a directory's end is no name's: the legacy hash of this
// name would be it.
func TestNameHashEOF(t *testing.T) {
	name := []byte("c7gVk1")
	if got := legacyHash(name, true); got != hashEOF<<1 {
		t.Fatalf("%s: got %#x, want %#x", name, got, uint32(hashEOF<<1))
	}
	if got, _, _ := NameHash(HashLegacy, [4]uint32{}, name); got != 0xfffffffc {
		t.Errorf("%s: got %#x, want 0xfffffffc", name, got)
	}
}

func FuzzNameHash(f *testing.F) {
	f.Add([]byte("lost+found"), uint8(1))
	f.Add(bytes.Repeat([]byte{0xff}, 255), uint8(2))
	f.Add([]byte{}, uint8(4))
	f.Fuzz(func(t *testing.T, name []byte, v uint8) {
		h, _, ok := NameHash(HashVersion(v), [4]uint32{1, 2, 3, 4}, name)
		if ok != (v < 6) || h&1 != 0 || h == hashEOF<<1 {
			t.Fatalf("%d of %q: got %#x %t", v, name, h, ok)
		}
	})
}

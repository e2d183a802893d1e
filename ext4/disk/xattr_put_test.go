package disk

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// What Put writes is what Xattrs reads, in a block and in an inode, also when
// the list is made of the very bytes that it is written over.
func TestXattrPut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		raw := make([]byte, 1024)
		le.PutUint16(raw[0x80:], 32)
		ibody, ok := XattrIbodyRoom(12, raw, 0, 0)
		if !ok {
			t.Fatal("no room in an inode of 1024 bytes")
		}
		for _, p := range []XattrPlace{ibody, XattrBlockPlace(12, make([]byte, 1024), 7)} {
			var list []Xattr
			for i := range byte(20) {
				x := Xattr{XattrEntry: XattrEntry{Index: XattrUser, Hash: rng.Uint32()}, Name: bytes.Repeat([]byte{'a' + i}, 1+rng.IntN(30)), Value: []byte{}}
				if rng.IntN(5) == 0 {
					x.ValueIno, x.ValueSize, x.Value = 99, 70000, nil
				} else {
					x.Value = bytes.Repeat([]byte{i}, rng.IntN(100))
				}
				if XattrRoom(append(list, x)) > len(p.Bytes)-p.Entries {
					break
				}
				list = append(list, x)
			}
			p.Put(list)
			if p.Base == XattrIbodyHdrSize {
				PutXattrMagic(p.Bytes, true)
				if _, ok := XattrIbodyPlace(12, raw, 0, 0); !ok {
					t.Fatal("no xattrs in the inode")
				}
			}
			check := func(want []Xattr) []Xattr {
				t.Helper()
				got, err := p.Xattrs()
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(got, want, func(a, b Xattr) bool {
					return a.Index == b.Index && a.Hash == b.Hash && a.ValueIno == b.ValueIno && bytes.Equal(a.Name, b.Name) && bytes.Equal(a.Value, b.Value) &&
						(a.ValueIno == 0 || a.ValueSize == b.ValueSize)
				}) {
					t.Fatalf("put %+v, got %+v", want, got)
				}
				return got
			}
			got := check(list)
			slices.Reverse(got) // parts of p.Bytes, in another order
			slices.Reverse(list)
			p.Put(got[1:])
			check(list[1:])
		}
	}
}

func TestXattrPutTooMuch(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a list that does not fit was put")
		}
	}()
	XattrBlockPlace(12, make([]byte, 64), 7).Put([]Xattr{{Name: []byte("a"), Value: make([]byte, 20)}})
}

func TestXattrOrder(t *testing.T) {
	list := []Xattr{
		{XattrEntry: XattrEntry{Index: XattrUser}, Name: []byte("b")},
		{XattrEntry: XattrEntry{Index: XattrUser}, Name: []byte("c")},
		{XattrEntry: XattrEntry{Index: XattrUser}, Name: []byte("aa")},
		{XattrEntry: XattrEntry{Index: XattrTrusted}, Name: []byte("a")},
	}
	if !slices.IsSortedFunc(list, CompareXattrs) {
		t.Error("by namespace, then length, then name")
	}
}

// A block with an entry that has no hash has none.
func TestXattrBlockHash(t *testing.T) {
	list := []Xattr{{XattrEntry: XattrEntry{Hash: 0x12345678}}, {XattrEntry: XattrEntry{Hash: 1}}}
	if got := XattrBlockHash(list); got != 0x56781234^1 {
		t.Errorf("%#x", got)
	}
	list[1].Hash = 0
	if got := XattrBlockHash(list); got != 0 {
		t.Errorf("%#x, want 0", got)
	}
}

package iomap

import (
	"math"
	"slices"
	"testing"
)

func TestTypeNames(t *testing.T) {
	tests := []struct {
		t     Type
		value uint16
		name  string
		dev   bool
	}{
		{TypeHole, 0, "HOLE", false},
		{TypeDelalloc, 1, "DELALLOC", false},
		{TypeMapped, 2, "MAPPED", true},
		{TypeUnwritten, 3, "UNWRITTEN", true},
		{TypeInline, 4, "INLINE", false},
		{TypeNoCache, 253, "NOCACHE", false},
		{TypeRetryCache, 254, "RETRY_CACHE", false},
		{TypePureOverwrite, 255, "PURE_OVERWRITE", false},
	}
	known := 0
	for i := 0; i <= math.MaxUint16; i++ {
		if Type(i).Known() {
			known++
		}
	}
	if known != len(tests) {
		t.Errorf("%d types are Known, want %d", known, len(tests))
	}
	for _, tt := range tests {
		if uint16(tt.t) != tt.value || tt.t.String() != tt.name || !tt.t.Known() || tt.t.HasDevice() != tt.dev {
			t.Errorf("%s: got value %d, known %t, device %t; want %s = %d, known, device %t",
				tt.t, uint16(tt.t), tt.t.Known(), tt.t.HasDevice(), tt.name, tt.value, tt.dev)
		}
		if got, err := ParseType(tt.name); err != nil || got != tt.t {
			t.Errorf("ParseType(%q) = %v, %v", tt.name, got, err)
		}
	}
	if got, err := ParseType("unwritten"); err != nil || got != TypeUnwritten {
		t.Errorf("ParseType(unwritten) = %v, %v", got, err)
	}
	for _, s := range []string{"", "MAPPED ", "0x2", "BLOB"} {
		if got, err := ParseType(s); err == nil {
			t.Errorf("ParseType(%q) = %v, want an error", s, got)
		}
	}
	if got := Type(5).String(); got != "0x5" {
		t.Errorf("type 5 is called %s, want 0x5", got)
	}
}

func TestBitNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{Flags(0).String(), "0"},
		{Flags(0x1).String(), "NEW"},
		{Flags(0x3ff).String(), "NEW|DIRTY|SHARED|MERGED|BOUNDARY|ANON_WRITE|ATOMIC_BIO|WANT_IOMAP_END|SIZE_CHANGED|STALE"},
		{Flags(0x8402).String(), "DIRTY|0x8400"},
		{Op(0).String(), "0"},
		{Op(0x7ff).String(), "WRITE|ZERO|REPORT|FAULT|DIRECT|NOWAIT|OVERWRITE_ONLY|UNSHARE|DAX|ATOMIC|DONTCACHE"},
		{Op(0xc0000000).String(), "SWAPFILE|WRITEBACK"},
		{Op(0x20000800).String(), "0x20000800"},
		{IoendFlags(0).String(), "0"},
		{IoendFlags(0x7f).String(), "SHARED|UNWRITTEN|BOUNDARY|DIRECT|APPEND|WRITEBACK|SWAPOFF"},
		{IoendFlags(0x80).String(), "0x80"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
	if got := Flags(0).Names(); len(got) != 0 {
		t.Errorf("no flags have names %q", got)
	}
	if got, want := (OpWrite | OpDirect).Names(), []string{"WRITE", "DIRECT"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMappingEnds(t *testing.T) {
	const max = math.MaxUint64
	tests := []struct {
		offset, length uint64
		end            uint64
		ok             bool
		in, out        []uint64
	}{
		{0, 4096, 4096, true, []uint64{0, 4095}, []uint64{4096, max}},
		{8192, 4096, 12288, true, []uint64{8192, 12287}, []uint64{0, 8191, 12288}},
		{8192, 0, 8192, true, nil, []uint64{8191, 8192, 8193}},
		{max - 1, 1, max, true, []uint64{max - 1}, []uint64{max - 2, max}},
		{max, 1, 0, false, []uint64{max}, []uint64{0, max - 1}},
		{4096, max, 4095, false, []uint64{4096, max}, []uint64{0, 4095}},
	}
	for _, tt := range tests {
		m := Hole(tt.offset, tt.length)
		if end, ok := m.End(); end != tt.end || ok != tt.ok {
			t.Errorf("%v: End is %d, %t, want %d, %t", m, end, ok, tt.end, tt.ok)
		}
		if _, ok := m.AddrEnd(); ok {
			t.Errorf("%v: has an end on a device", m)
		}
		m.Addr = tt.offset
		if end, ok := m.AddrEnd(); m.Addr != NullAddr && (end != tt.end || ok != tt.ok) {
			t.Errorf("%v: AddrEnd is %d, %t, want %d, %t", m, end, ok, tt.end, tt.ok)
		}
		for _, pos := range tt.in {
			if !m.Covers(pos) {
				t.Errorf("%v: does not cover %d", m, pos)
			}
		}
		for _, pos := range tt.out {
			if m.Covers(pos) {
				t.Errorf("%v: covers %d", m, pos)
			}
		}
	}
}

func TestMappingString(t *testing.T) {
	m := Mapping{Offset: 4096, Length: 8192, Addr: 1 << 20, Type: TypeUnwritten, Flags: FlagNew | FlagDirty, Dev: 1}
	if got, want := m.String(), "UNWRITTEN offset 4096 length 8192 addr 1048576 dev 1 flags NEW|DIRTY"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := Overwrite(m).String(), "PURE_OVERWRITE offset 4096 length 8192 addr NULL_ADDR dev 0 flags 0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

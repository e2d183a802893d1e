package commands

import (
	"strings"

	"e4go/ext4"
)

// An extent is a piece of a file in the one form that all sources share:
// bytes, a state, and the source's flags.
type extent struct {
	logical   uint64
	physical  uint64
	nowhere   bool // physical means nothing
	length    uint64
	state     string // one of the states below
	flags     uint32
	flagNames []string
}

// The states of extents.
const (
	stateWritten   = "written"
	stateUnwritten = "unwritten"
	stateHole      = "hole"
	stateInline    = "inline"
	stateDelalloc  = "delalloc"
	stateEncoded   = "encoded"
	stateIndex     = "index" // a node of the map, not data
	stateCache     = "cache" // an answer of the iomap protocol that is not about data
)

// extent opens an object and writes x into it: the caller adds what its source
// has beside, and ends it.
func (o *output) extent(x extent) {
	o.obj()
	o.kUint("logical", x.logical)
	if x.nowhere {
		o.kNull("physical")
	} else {
		o.kUint("physical", x.physical)
	}
	o.kUint("length", x.length)
	o.kStr("state", x.state)
	o.kUint("flags", uint64(x.flags))
	o.kStrs("flag_names", x.flagNames)
}

// fiemapNames are the FIEMAP_EXTENT_* flags, as filefrag(8) prints them.
var fiemapNames = []struct {
	bit  uint32
	name string
}{
	{0x0001, "last"}, {0x0002, "unknown_loc"}, {0x0004, "delalloc"}, {0x0008, "encoded"}, {0x0080, "encrypted"},
	{0x0100, "not_aligned"}, {0x0200, "inline"}, {0x0400, "tail_packed"}, {0x0800, "unwritten"}, {0x1000, "merged"}, {0x2000, "shared"},
}

// The flags that decide something here.
const (
	fiemapLast      = 0x0001
	fiemapUnknown   = 0x0002
	fiemapDelalloc  = 0x0004
	fiemapEncoded   = 0x0008
	fiemapInline    = 0x0200
	fiemapUnwritten = 0x0800
	fiemapMerged    = 0x1000
)

// fiemapFlagNames are the names of flags; bits without a name come in hexadecimal.
func fiemapFlagNames(flags uint32) []string {
	out := []string{}
	for _, f := range fiemapNames {
		if flags&f.bit != 0 {
			out = append(out, f.name)
			flags &^= f.bit
		}
	}
	if flags != 0 {
		out = append(out, "0x"+strings.TrimLeft(sprintHex(flags), "0"))
	}
	return out
}

func sprintHex(v uint32) string {
	var b [8]byte
	for i := range b {
		b[i] = hexDigits[v>>(28-4*i)&15]
	}
	return string(b[:])
}

// fiemapExtent is what FIEMAP reports, in the common form.
func fiemapExtent(logical, physical, length uint64, flags uint32) extent {
	x := extent{logical: logical, physical: physical, length: length, flags: flags, flagNames: fiemapFlagNames(flags), state: stateWritten}
	switch {
	case flags&fiemapInline != 0:
		x.state = stateInline
	case flags&fiemapDelalloc != 0:
		x.state = stateDelalloc
	case flags&fiemapUnwritten != 0:
		x.state = stateUnwritten
	case flags&fiemapEncoded != 0:
		x.state = stateEncoded
	}
	x.nowhere = flags&fiemapUnknown != 0
	return x
}

// Of what a map on disk says of its extents there is one thing to flag, with the
// number and name that FIEMAP has for it.
var (
	noFlags        = []string{}
	unwrittenFlags = []string{"unwritten"}
)

// rowExtent is a row of a map in the common form.
func rowExtent(r ext4.MapRow, bs uint64) extent {
	x := extent{
		logical: uint64(r.Logical) * bs, physical: uint64(r.Physical) * bs, length: r.Len * bs,
		state: stateWritten, flagNames: noFlags,
	}
	switch {
	case !r.Leaf:
		x.state = stateIndex
	case r.Unwritten:
		x.state, x.flags, x.flagNames = stateUnwritten, fiemapUnwritten, unwrittenFlags
	}
	return x
}

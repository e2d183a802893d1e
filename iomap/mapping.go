// Package iomap has the words of the fuse-iomap protocol: what a FUSE server
// and a Linux kernel with the fuse-iomap series say to each other about where
// a file's bytes lie.
//
//	kernel                               server
//	  BEGIN  Request{Op, Pos, Count}  ->
//	         <-  Reply{Read, Write}      two Mappings that both cover Pos
//	  (I/O straight to the device)
//	  END    how much was done        ->
//	  IOEND  what a write has reached ->
//
// It knows the types, the flags, the operations that ask, and by which rules
// the kernel refuses an answer ([Validate]). It does not know the layout of a
// message in bytes, nor any file system: it imports no other package of the
// module, so that a server and a simulated kernel can both speak through it
// without having met. Nothing here does I/O, keeps state or takes a lock.
//
// Offsets, lengths and addresses are in bytes. Numbers are those of the kernel
// header include/uapi/linux/fuse.h as the series of February 2026 ([V7]) has
// it; [V8] differs in what it refuses, not in the numbers.
package iomap

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

const (
	// NullAddr is FUSE_IOMAP_NULL_ADDR, the Addr of a mapping that lies nowhere on a device.
	NullAddr = ^uint64(0)
	// DevNull is FUSE_IOMAP_DEV_NULL, the Dev of a mapping without a device.
	DevNull uint32 = 0
)

// Mapping is struct fuse_iomap_io: Length bytes of a file from Offset on lie
// on device Dev from Addr on, or are what Type says instead. The zero Mapping
// is not a valid one: a mapping without an address has [NullAddr].
type Mapping struct {
	Offset uint64 // in the file, bytes
	Length uint64 // bytes
	Addr   uint64 // on the device, bytes, or NullAddr
	Type   Type
	Flags  Flags
	Dev    uint32 // a backing id, 1..1024, or DevNull
}

// Hole returns the mapping of a range of a file that has no blocks.
func Hole(offset, length uint64) Mapping {
	return Mapping{Offset: offset, Length: length, Addr: NullAddr, Type: TypeHole, Dev: DevNull}
}

// Overwrite returns the write side of a reply whose read side is m, for every
// request but an out-of-place write: the writes, if any, go where m is.
func Overwrite(m Mapping) Mapping {
	return Mapping{Offset: m.Offset, Length: m.Length, Addr: NullAddr, Type: TypePureOverwrite, Dev: DevNull}
}

// End returns the file offset just past m, and whether there is one: false
// means that Offset + Length does not fit in 64 bits.
func (m Mapping) End() (end uint64, ok bool) { return addFits(m.Offset, m.Length) }

// AddrEnd returns the device address just past m, and whether there is one:
// false means that Addr + Length does not fit in 64 bits, or that Addr is
// [NullAddr].
func (m Mapping) AddrEnd() (end uint64, ok bool) {
	if m.Addr == NullAddr {
		return 0, false
	}
	return addFits(m.Addr, m.Length)
}

// Covers reports whether the byte pos of the file is in m. It is exact for
// every m, also for one whose end does not fit in 64 bits.
func (m Mapping) Covers(pos uint64) bool { return pos >= m.Offset && pos-m.Offset < m.Length }

// String returns m in one line, every field by its name.
func (m Mapping) String() string {
	return fmt.Sprintf("%s offset %d length %d addr %s dev %d flags %s",
		m.Type, m.Offset, m.Length, addrString(m.Addr), m.Dev, m.Flags)
}

// Type is the type field of a mapping, FUSE_IOMAP_TYPE_*.
type Type uint16

// The types, in the order of their numbers. The last three are not about data:
// they are answers of the protocol.
const (
	TypeHole          Type = 0   // no blocks; reads as zeros
	TypeDelalloc      Type = 1   // space promised, blocks not chosen yet
	TypeMapped        Type = 2   // the data is at Addr
	TypeUnwritten     Type = 3   // blocks at Addr that read as zeros until written
	TypeInline        Type = 4   // the server keeps the data; it comes by FUSE_READ and FUSE_WRITE
	TypeNoCache       Type = 253 // in an upsert: leave this side of the cache alone
	TypeRetryCache    Type = 254 // in a reply: look into the mapping cache again
	TypePureOverwrite Type = 255 // as the write side: writes go where the read side is
)

var typeNames = []struct {
	t    Type
	name string
}{
	{TypeHole, "HOLE"},
	{TypeDelalloc, "DELALLOC"},
	{TypeMapped, "MAPPED"},
	{TypeUnwritten, "UNWRITTEN"},
	{TypeInline, "INLINE"},
	{TypeNoCache, "NOCACHE"},
	{TypeRetryCache, "RETRY_CACHE"},
	{TypePureOverwrite, "PURE_OVERWRITE"},
}

// String returns the protocol's name of t, or its number in hexadecimal if it
// has none.
func (t Type) String() string {
	for _, n := range typeNames {
		if n.t == t {
			return n.name
		}
	}
	return fmt.Sprintf("%#x", uint16(t))
}

// Known reports whether t is one of the eight types of the protocol.
func (t Type) Known() bool { return t <= TypeInline || t >= TypeNoCache && t <= TypePureOverwrite }

// HasDevice reports whether a mapping of type t lies on a device.
func (t Type) HasDevice() bool { return t == TypeMapped || t == TypeUnwritten }

// ParseType returns the type whose name is s, in capitals or small letters.
func ParseType(s string) (Type, error) {
	for _, n := range typeNames {
		if strings.EqualFold(n.name, s) {
			return n.t, nil
		}
	}
	names := make([]string, len(typeNames))
	for i, n := range typeNames {
		names[i] = n.name
	}
	return 0, fmt.Errorf("iomap: mapping type is %q, want one of %s", s, strings.Join(names, ", "))
}

// Flags is the flags field of a mapping, FUSE_IOMAP_F_*.
type Flags uint16

// The flags. A server sets bits 0 to 7 ([ServerFlags]); the others come from
// the kernel, in the mapping that an END message echoes.
const (
	FlagNew          Flags = 1 << 0 // blocks just allocated: what is not written must be zeroed
	FlagDirty        Flags = 1 << 1 // metadata not durable yet: a synchronous write needs an FSYNC
	FlagShared       Flags = 1 << 2 // blocks shared with others: copy before writing
	FlagMerged       Flags = 1 << 3 // several records in one answer; for FIEMAP
	FlagBoundary     Flags = 1 << 4 // do not merge completions across the start
	FlagAnonWrite    Flags = 1 << 5 // data goes to storage of no file
	FlagAtomicBio    Flags = 1 << 6 // issue as one atomic write
	FlagWantIomapEnd Flags = 1 << 7 // send an END for this mapping
	FlagSizeChanged  Flags = 1 << 8 // kernel only: the write moved the end of the file
	FlagStale        Flags = 1 << 9 // kernel only: the mapping changed while it was used

	// ServerFlags are the flags that a server may set.
	ServerFlags Flags = 0xff
)

var flagNames = []bitName{
	{uint32(FlagNew), "NEW"},
	{uint32(FlagDirty), "DIRTY"},
	{uint32(FlagShared), "SHARED"},
	{uint32(FlagMerged), "MERGED"},
	{uint32(FlagBoundary), "BOUNDARY"},
	{uint32(FlagAnonWrite), "ANON_WRITE"},
	{uint32(FlagAtomicBio), "ATOMIC_BIO"},
	{uint32(FlagWantIomapEnd), "WANT_IOMAP_END"},
	{uint32(FlagSizeChanged), "SIZE_CHANGED"},
	{uint32(FlagStale), "STALE"},
}

// Names returns the names of the bits set in f, lowest first; bits without a
// name come last, together, in hexadecimal.
func (f Flags) Names() []string { return names(uint32(f), flagNames) }

// String returns the names joined by "|", or "0" if no bit is set.
func (f Flags) String() string { return joined(f.Names()) }

// bitName is the protocol's name of one bit.
type bitName struct {
	bit  uint32
	name string
}

func names(set uint32, table []bitName) []string {
	var out []string
	for _, n := range table {
		if set&n.bit != 0 {
			out = append(out, n.name)
			set &^= n.bit
		}
	}
	if set != 0 {
		out = append(out, fmt.Sprintf("%#x", set))
	}
	return out
}

func joined(names []string) string {
	if len(names) == 0 {
		return "0"
	}
	return strings.Join(names, "|")
}

func addrString(addr uint64) string {
	if addr == NullAddr {
		return "NULL_ADDR"
	}
	return strconv.FormatUint(addr, 10)
}

// addFits returns a + b and whether that is below 2^64.
func addFits(a, b uint64) (sum uint64, ok bool) {
	sum, carry := bits.Add64(a, b, 0)
	return sum, carry == 0
}

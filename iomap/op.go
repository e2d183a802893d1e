package iomap

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Op is opflags, FUSE_IOMAP_OP_*: what the kernel is about to do with the
// mapping it asks for. 0 is a plain read.
type Op uint32

// The opflags.
const (
	OpWrite         Op = 1 << 0  // data will be written
	OpZero          Op = 1 << 1  // a range will be zeroed: holes stay holes
	OpReport        Op = 1 << 2  // only a question: FIEMAP, SEEK_DATA, SEEK_HOLE, bmap
	OpFault         Op = 1 << 3  // a page fault asks
	OpDirect        Op = 1 << 4  // direct I/O
	OpNowait        Op = 1 << 5  // answer EAGAIN rather than wait
	OpOverwriteOnly Op = 1 << 6  // only blocks that are there already
	OpUnshare       Op = 1 << 7  // shared blocks will be given copies
	OpDAX           Op = 1 << 8  // memory of the device will be mapped
	OpAtomic        Op = 1 << 9  // a write that may not tear
	OpDontCache     Op = 1 << 10 // buffered, and dropped from the page cache when done
	OpSwapfile      Op = 1 << 30 // swapon wants to know the whole file
	OpWriteback     Op = 1 << 31 // dirty pages will be written
)

var opNames = []bitName{
	{uint32(OpWrite), "WRITE"},
	{uint32(OpZero), "ZERO"},
	{uint32(OpReport), "REPORT"},
	{uint32(OpFault), "FAULT"},
	{uint32(OpDirect), "DIRECT"},
	{uint32(OpNowait), "NOWAIT"},
	{uint32(OpOverwriteOnly), "OVERWRITE_ONLY"},
	{uint32(OpUnshare), "UNSHARE"},
	{uint32(OpDAX), "DAX"},
	{uint32(OpAtomic), "ATOMIC"},
	{uint32(OpDontCache), "DONTCACHE"},
	{uint32(OpSwapfile), "SWAPFILE"},
	{uint32(OpWriteback), "WRITEBACK"},
}

// IsWrite reports whether o is of the write class: the kernel means to change
// the range, and takes the write side of the reply too.
func (o Op) IsWrite() bool { return o&(OpWrite|OpZero|OpUnshare|OpWriteback) != 0 }

// ParseOp understands opflags as a number, or as names joined by "|" or ",", in
// capitals or small letters.
func ParseOp(s string) (Op, error) {
	if n, err := strconv.ParseUint(s, 0, 32); err == nil {
		return Op(n), nil
	}
	var op Op
	for name := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '|' || r == ',' }) {
		i := slices.IndexFunc(opNames, func(n bitName) bool { return strings.EqualFold(n.name, name) })
		if i < 0 {
			return 0, fmt.Errorf("iomap: opflags have %q, want a number or some of %s", name, strings.Join(Op(opBits).Names(), ", "))
		}
		op |= Op(opNames[i].bit)
	}
	return op, nil
}

// opBits are the opflags that have a name.
const opBits = 1<<11 - 1 | uint32(OpSwapfile|OpWriteback)

// Uncached reports whether the kernel asks the server without having looked
// into the inode's mapping cache.
func (o Op) Uncached() bool { return o&(OpAtomic|OpSwapfile) != 0 }

// Names returns the names of the bits set in o, lowest first; bits without a
// name come last, together, in hexadecimal.
func (o Op) Names() []string { return names(uint32(o), opNames) }

// String returns the names joined by "|", or "0" for a plain read.
func (o Op) String() string { return joined(o.Names()) }

// Opcode is a FUSE request that only an iomap connection has.
type Opcode uint32

// The opcodes. FREEZE_FS and below go to the root inode, CONFIG to node id 0,
// the others to the file.
const (
	OpcodeFreezeFS   Opcode = 4089
	OpcodeUnfreezeFS Opcode = 4090
	OpcodeShutdownFS Opcode = 4091
	OpcodeConfig     Opcode = 4092
	OpcodeIoend      Opcode = 4093
	OpcodeBegin      Opcode = 4094
	OpcodeEnd        Opcode = 4095
)

// String returns the kernel's name of c, or its number.
func (c Opcode) String() string {
	switch c {
	case OpcodeFreezeFS:
		return "FUSE_FREEZE_FS"
	case OpcodeUnfreezeFS:
		return "FUSE_UNFREEZE_FS"
	case OpcodeShutdownFS:
		return "FUSE_SHUTDOWN_FS"
	case OpcodeConfig:
		return "FUSE_IOMAP_CONFIG"
	case OpcodeIoend:
		return "FUSE_IOMAP_IOEND"
	case OpcodeBegin:
		return "FUSE_IOMAP_BEGIN"
	case OpcodeEnd:
		return "FUSE_IOMAP_END"
	}
	return fmt.Sprintf("opcode %d", uint32(c))
}

// NotifyCode is a FUSE notification, from the server to the kernel, that only
// an iomap connection takes.
type NotifyCode int32

// The notifications.
const (
	NotifyDevInval       NotifyCode = 99  // drop a range of the device's own page cache
	NotifyUpsertMappings NotifyCode = 100 // an [Upsert]
	NotifyInvalMappings  NotifyCode = 101 // an [Inval]
)

// String returns the kernel's name of c, or its number.
func (c NotifyCode) String() string {
	switch c {
	case NotifyDevInval:
		return "FUSE_NOTIFY_IOMAP_DEV_INVAL"
	case NotifyUpsertMappings:
		return "FUSE_NOTIFY_IOMAP_UPSERT_MAPPINGS"
	case NotifyInvalMappings:
		return "FUSE_NOTIFY_IOMAP_INVAL_MAPPINGS"
	}
	return fmt.Sprintf("notification %d", int32(c))
}

// Operation is a thing that users of the kernel do, with the BEGIN request it
// makes of it. Of the write class are those whose Op says so ([Op.IsWrite]).
type Operation struct {
	Name  string // what a person types: "dio-read"
	Op    Op     // the opflags of its BEGIN, without NOWAIT and DONTCACHE, which a caller adds
	For   string // what in the kernel sends it
	Range string // what pos and count are, in its first BEGIN
}

// operations is in the order in which help texts list it: those that change
// nothing, then the write class.
var operations = []Operation{
	{"report", OpReport, "FIEMAP", "the range that the caller asks about"},
	{"read", 0, "buffered read, read fault", "a folio: whole pages, may run past the end of the file"},
	{"readahead", 0, "read-ahead", "the window: whole pages, may run past the end of the file"},
	{"dio-read", OpDirect, "direct read", "the caller's range, in logical blocks of the device, before the end of the file"},
	{"bmap", OpReport, "FIBMAP", "one block"},
	{"seek", OpReport, "SEEK_DATA, SEEK_HOLE", "from the offset to the end of the file"},
	{"swapon", OpReport | OpSwapfile, "swapon", "the whole pages of the file"},
	{"write", OpWrite, "buffered write", "the caller's range, to the byte"},
	{"mkwrite", OpWrite | OpFault, "write fault of a mapped page", "a folio, cut at the end of the file"},
	{"writeback", OpWriteback, "write-back of dirty pages", "a dirty run in one folio: whole blocks, up to the block that holds the end of the file"},
	{"dio-write", OpWrite | OpDirect, "direct write", "the caller's range, in logical blocks of the device"},
	{"atomic", OpWrite | OpDirect | OpAtomic, "untorn direct write (RWF_ATOMIC)", "exactly one block"},
	{"zero", OpZero, "truncate, write beyond the end of the file, punched and zeroed ranges", "the range to be zeroed, to the byte, cut at the end of the file"},
}

// Operations returns all operations that have a name.
func Operations() []Operation { return slices.Clone(operations) }

// ParseOperation returns the operation whose name is s, or that is called so
// elsewhere: "fault" for mkwrite, "swapfile" for swapon.
func ParseOperation(s string) (Operation, error) {
	switch s {
	case "fault":
		s = "mkwrite"
	case "swapfile":
		s = "swapon"
	}
	all := make([]string, len(operations))
	for i, o := range operations {
		if o.Name == s {
			return o, nil
		}
		all[i] = o.Name
	}
	return Operation{}, fmt.Errorf("iomap: operation is %q, want one of %s", s, strings.Join(all, ", "))
}

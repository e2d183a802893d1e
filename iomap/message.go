package iomap

// Request is what a BEGIN message asks: the mapping at Pos, for an operation
// on Count bytes.
type Request struct {
	Op    Op
	Pos   uint64 // bytes
	Count uint64 // bytes
}

// Reply is the answer to a BEGIN. Both mappings cover the request's Pos; they
// may start before it, and end before or after Pos + Count.
type Reply struct {
	Read  Mapping
	Write Mapping // Overwrite(Read), unless data is to be written elsewhere
}

// Consumed returns the mappings that the kernel uses of a valid reply: src,
// where data is read from, and dst, where it is written to. They are the same
// unless op is of the write class and the write side is an out-of-place one;
// an operation that writes nothing uses the read side alone.
func Consumed(op Op, reply Reply) (src, dst Mapping) {
	if op.IsWrite() && reply.Write.Type != TypePureOverwrite {
		return reply.Read, reply.Write
	}
	return reply.Read, reply.Read
}

// End is an END message: the kernel is done with a mapping that it got for a
// Request, and has made use of Written bytes from Pos on.
type End struct {
	Op      Op
	AttrIno uint64 // attr.ino of the file, as the server gave it
	Pos     uint64 // bytes
	Count   uint64 // bytes, not past the mapping's end
	Written int64  // bytes
	Map     Mapping
}

// IoendFlags is the flags field of an IOEND message, FUSE_IOMAP_IOEND_*.
type IoendFlags uint32

// The flags of an IOEND. [IoendAppend] comes with failed writes too.
const (
	IoendShared    IoendFlags = 1 << 0 // a copy-on-write was made
	IoendUnwritten IoendFlags = 1 << 1 // blocks were unwritten, and hold data now
	IoendBoundary  IoendFlags = 1 << 2 // the header has it; no known kernel sets it
	IoendDirect    IoendFlags = 1 << 3 // by direct I/O
	IoendAppend    IoendFlags = 1 << 4 // ends past the size that the server has recorded
	IoendWriteback IoendFlags = 1 << 5 // by write-back
	IoendSwapoff   IoendFlags = 1 << 6 // the file is no swap space any more
)

var ioendNames = []bitName{
	{uint32(IoendShared), "SHARED"},
	{uint32(IoendUnwritten), "UNWRITTEN"},
	{uint32(IoendBoundary), "BOUNDARY"},
	{uint32(IoendDirect), "DIRECT"},
	{uint32(IoendAppend), "APPEND"},
	{uint32(IoendWriteback), "WRITEBACK"},
	{uint32(IoendSwapoff), "SWAPOFF"},
}

// Names returns the names of the bits set in f, lowest first; bits without a
// name come last, together, in hexadecimal.
func (f IoendFlags) Names() []string { return names(uint32(f), ioendNames) }

// String returns the names joined by "|", or "0" if no bit is set.
func (f IoendFlags) String() string { return joined(f.Names()) }

// Ioend is an IOEND message: a write has reached the device, or failed to. The
// server answers with the file size that it has recorded after it.
type Ioend struct {
	Flags   IoendFlags
	Error   int32  // 0, or a negative errno: then nothing may change but reservations
	AttrIno uint64 // attr.ino of the file, as the server gave it
	Pos     uint64 // bytes
	NewAddr uint64 // write-back: where on Dev, in 512-byte sectors (the kernel header says bytes); else NullAddr
	Written uint64 // bytes
	Dev     uint32 // write-back: the backing id; else DevNull
}

// Upsert is the notification that puts mappings into an inode's mapping cache.
// A side of type [TypeNoCache] leaves that side of the cache as it is.
type Upsert struct {
	Read  Mapping
	Write Mapping
}

// ToEOF as the Length of a [Range] reaches to the end of the file.
const ToEOF = ^uint64(0)

// Range is a part of a file.
type Range struct {
	Offset uint64 // bytes
	Length uint64 // bytes; 0 for nothing, or ToEOF
}

// Inval is the notification that drops mappings from an inode's mapping cache.
type Inval struct {
	Read  Range
	Write Range
}

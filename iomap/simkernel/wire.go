package simkernel

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"e4go/iomap"
)

// The layouts of include/uapi/linux/fuse.h that this kernel sends and reads.
// They are written by hand, field by field, so that a server whose layouts are
// wrong does not meet the same mistake here.

var le = binary.LittleEndian

// Opcodes of ordinary FUSE.
const (
	opLookup        = 1
	opForget        = 2 // no reply
	opGetattr       = 3
	opSetattr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetxattr      = 21
	opGetxattr      = 22
	opListxattr     = 23
	opRemovexattr   = 24
	opFlush         = 25
	opInit          = 26
	opOpendir       = 27
	opReleasedir    = 29
	opFsyncdir      = 30
	opCreate        = 35
	opDestroy       = 38
	opBatchForget   = 42 // no reply
	opFallocate     = 43
	opReaddirplus   = 44
	opRename2       = 45
	opCopyFileRange = 47
	opSyncfs        = 50
	opTmpfile       = 51
	opStatx         = 52
	opBegin         = uint32(iomap.OpcodeBegin)
	opEnd           = uint32(iomap.OpcodeEnd)
	opIoend         = uint32(iomap.OpcodeIoend)
	opConfig        = uint32(iomap.OpcodeConfig)
	opFreeze        = uint32(iomap.OpcodeFreezeFS)
	opUnfreeze      = uint32(iomap.OpcodeUnfreezeFS)
)

// opNames are the names in traces and counts.
var opNames = map[uint32]string{
	opLookup: "LOOKUP", opForget: "FORGET", opBatchForget: "BATCH_FORGET", opGetattr: "GETATTR", opSetattr: "SETATTR", opReadlink: "READLINK",
	opSymlink: "SYMLINK", opMknod: "MKNOD", opMkdir: "MKDIR", opUnlink: "UNLINK", opRmdir: "RMDIR", opLink: "LINK",
	opOpen: "OPEN", opRead: "READ", opWrite: "WRITE", opStatfs: "STATFS", opRelease: "RELEASE", opFsync: "FSYNC",
	opSetxattr: "SETXATTR", opGetxattr: "GETXATTR", opListxattr: "LISTXATTR", opRemovexattr: "REMOVEXATTR",
	opFlush: "FLUSH", opInit: "INIT", opOpendir: "OPENDIR", opReleasedir: "RELEASEDIR", opFsyncdir: "FSYNCDIR",
	opCreate: "CREATE", opDestroy: "DESTROY", opFallocate: "FALLOCATE", opReaddirplus: "READDIRPLUS",
	opRename2: "RENAME2", opCopyFileRange: "COPY_FILE_RANGE", opSyncfs: "SYNCFS", opTmpfile: "TMPFILE", opStatx: "STATX",
	opBegin: "BEGIN", opEnd: "END", opIoend: "IOEND", opConfig: "CONFIG", opFreeze: "FREEZE_FS", opUnfreeze: "UNFREEZE_FS",
}

func opName(op uint32) string {
	if n := opNames[op]; n != "" {
		return n
	}
	return fmt.Sprintf("opcode %d", op)
}

// Sizes of structures, bytes.
const (
	inHeaderSize  = 40
	outHeaderSize = 16
	attrSize      = 88
	entrySize     = 128
	attrOutSize   = 104
	openSize      = 16
	mappingSize   = 32
)

// setattr's valid bits.
const (
	fattrMode      = 1 << 0
	fattrUID       = 1 << 1
	fattrGID       = 1 << 2
	fattrSize      = 1 << 3
	fattrAtime     = 1 << 4
	fattrMtime     = 1 << 5
	fattrFH        = 1 << 6
	fattrLockowner = 1 << 9
	fattrCtime     = 1 << 10
)

// Bits of fuse_attr.flags.
const (
	attrExclusive = 1 << 2
	attrIomap     = 1 << 3
	attrAtomic    = 1 << 4
)

// Bits of fuse_open_out.open_flags.
const (
	fopenDirectIO  = 1 << 0
	fopenKeepCache = 1 << 1
	fopenRefused   = 1<<2 | 1<<4 | 1<<7 // NONSEEKABLE, STREAM, PASSTHROUGH
)

// A builder appends the fields of a message.
type builder struct{ b []byte }

func (w *builder) u16(v uint16) *builder { w.b = le.AppendUint16(w.b, v); return w }

func (w *builder) u32(v uint32) *builder { w.b = le.AppendUint32(w.b, v); return w }

func (w *builder) u64(v uint64) *builder { w.b = le.AppendUint64(w.b, v); return w }

func (w *builder) zeros(n int) *builder { w.b = append(w.b, make([]byte, n)...); return w }

func (w *builder) name(s string) *builder { w.b = append(append(w.b, s...), 0); return w }

func (w *builder) raw(p []byte) *builder { w.b = append(w.b, p...); return w }

func (w *builder) mapping(m iomap.Mapping) *builder {
	return w.u64(m.Offset).u64(m.Length).u64(m.Addr).u16(uint16(m.Type)).u16(uint16(m.Flags)).u32(m.Dev)
}

func msg() *builder { return &builder{} }

func readMapping(b []byte) iomap.Mapping {
	p := (*[mappingSize]byte)(b)
	return iomap.Mapping{
		Offset: le.Uint64(p[0:]), Length: le.Uint64(p[8:]), Addr: le.Uint64(p[16:]),
		Type: iomap.Type(le.Uint16(p[24:])), Flags: iomap.Flags(le.Uint16(p[26:])), Dev: le.Uint32(p[28:]),
	}
}

// Attr is struct fuse_attr.
type Attr struct {
	Ino                 uint64
	Size, Blocks        uint64
	Atime, Mtime, Ctime Time
	Mode                uint32
	Nlink               uint32
	UID, GID            uint32
	Rdev                uint32
	Blksize             uint32
	Flags               uint32
}

// Time is a time stamp of a file.
type Time struct {
	Sec  int64
	Nsec uint32
}

func timeOf(t time.Time) Time { return Time{t.Unix(), uint32(t.Nanosecond())} }

func readAttr(b []byte) Attr {
	p := (*[attrSize]byte)(b)
	t := func(sec, nsec int) Time { return Time{int64(le.Uint64(p[sec:])), le.Uint32(p[nsec:])} }
	return Attr{
		Ino: le.Uint64(p[0:]), Size: le.Uint64(p[8:]), Blocks: le.Uint64(p[16:]),
		Atime: t(24, 48), Mtime: t(32, 52), Ctime: t(40, 56),
		Mode: le.Uint32(p[60:]), Nlink: le.Uint32(p[64:]), UID: le.Uint32(p[68:]), GID: le.Uint32(p[72:]),
		Rdev: le.Uint32(p[76:]), Blksize: le.Uint32(p[80:]), Flags: le.Uint32(p[84:]),
	}
}

// entry is struct fuse_entry_out, without how long its attributes are good:
// this kernel asks for them each time.
type entry struct {
	nodeid     uint64
	generation uint64
	valid      time.Duration // the name
	attr       Attr
}

func readEntry(b []byte) (entry, error) {
	if len(b) < entrySize {
		return entry{}, syscall.EIO
	}
	const most = 1 << 32 // seconds: what would not fit into a Duration
	valid := time.Duration(min(le.Uint64(b[16:]), most))*time.Second + time.Duration(le.Uint32(b[32:]))
	return entry{le.Uint64(b), le.Uint64(b[8:]), valid, readAttr(b[40:entrySize])}, nil
}

func readAttrOut(b []byte) (Attr, error) {
	if len(b) != attrOutSize {
		return Attr{}, syscall.EIO
	}
	return readAttr(b[16:attrOutSize]), nil
}

type opened struct {
	fh    uint64
	flags uint32
}

func readOpen(b []byte) (opened, error) {
	if len(b) != openSize {
		return opened{}, syscall.EIO
	}
	return opened{le.Uint64(b), le.Uint32(b[8:])}, nil
}

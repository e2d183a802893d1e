package fusesrv

import (
	"fmt"
	"sync"
	"unsafe"

	"e4go/iomap"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The messages of fuse-iomap in bytes, as include/uapi/linux/fuse.h of the
// series of February 2026 has them. What they mean is in package iomap. Numbers are in the
// byte order of the machine. A message has exactly the size given here: the
// kernel takes no other, and sends no other in this version.

const (
	mappingSize   = 32  // struct fuse_iomap_io
	beginSize     = 32  // struct fuse_iomap_begin_in
	replySize     = 64  // struct fuse_iomap_begin_out
	endSize       = 72  // struct fuse_iomap_end_in
	ioendSize     = 48  // struct fuse_iomap_ioend_in
	ioendSizeV6   = 40  // the same in versions before February 2026
	configInSize  = 64  // struct fuse_iomap_config_in
	configOutSize = 104 // struct fuse_iomap_config_out
	devInvalSize  = 24
	upsertSize    = 80
	invalSize     = 48
)

// What INIT says.
const (
	initIomap  = uint64(1) << 43 // FUSE_IOMAP, in flags and flags2 together
	iomapMinor = 99              // with a smaller minor version the kernel asks, and uses no answer
)

// The bits of fuse_attr.flags. The kernel looks at them when it meets an inode
// for the first time, and then no more.
const (
	attrExclusive = 1 << 2 // only this mount changes the inode
	attrIomap     = 1 << 3 // with attrExclusive, of a regular file: its contents go by mappings
	attrAtomic    = 1 << 4 // and one block can be written without being torn
	attrSync      = 1 << 5
	attrImmutable = 1 << 6
	attrAppend    = 1 << 7
)

// statxMore is what a kernel with fuse-iomap reads in the place of the spare end of fuse.Statx,
// from byte statxMoreAt on: the fields of struct statx ("fuse: allow more statx fields", February 2026).
// Others do not look at it.
type statxMore struct {
	mntID                                uint64
	dioMemAlign, dioOffsetAlign          uint32
	subvol                               uint64
	atomicMin, atomicMax, atomicSegments uint32
	dioReadOffsetAlign                   uint32
	atomicMaxOpt                         uint32
	_                                    uint32
	_                                    [8]uint64
}

const statxMoreAt = 0x90

// It ends where fuse.Statx does, or this does not compile.
var _ = [1]struct{}{}[unsafe.Sizeof(fuse.Statx{})-statxMoreAt-unsafe.Sizeof(statxMore{})]

func putMapping(b []byte, m iomap.Mapping) {
	p := (*[mappingSize]byte)(b)
	le.PutUint64(p[0:8], m.Offset)
	le.PutUint64(p[8:16], m.Length)
	le.PutUint64(p[16:24], m.Addr)
	le.PutUint16(p[24:26], uint16(m.Type))
	le.PutUint16(p[26:28], uint16(m.Flags))
	le.PutUint32(p[28:32], m.Dev)
}

func decodeMapping(b []byte) iomap.Mapping {
	p := (*[mappingSize]byte)(b)
	return iomap.Mapping{
		Offset: le.Uint64(p[0:8]), Length: le.Uint64(p[8:16]), Addr: le.Uint64(p[16:24]),
		Type: iomap.Type(le.Uint16(p[24:26])), Flags: iomap.Flags(le.Uint16(p[26:28])), Dev: le.Uint32(p[28:32]),
	}
}

// A wrongSizeError reports a request of another size than the version of the
// protocol has that this server speaks.
type wrongSizeError struct {
	op         iomap.Opcode
	have, want int
}

func (e *wrongSizeError) Error() string {
	s := fmt.Sprintf("%s has %d bytes, want %d: the kernel speaks another version of fuse-iomap", e.op, e.have, e.want)
	if e.op == iomap.OpcodeIoend && e.have == ioendSizeV6 {
		s += ", one of before February 2026"
	}
	return s
}

func checkSize(op iomap.Opcode, b []byte, want int) error {
	if len(b) != want {
		return &wrongSizeError{op, len(b), want}
	}
	return nil
}

// decodeBegin decodes the body of a BEGIN. attrIno is attr.ino of the file.
func decodeBegin(b []byte) (attrIno uint64, r iomap.Request, err error) {
	if err := checkSize(iomap.OpcodeBegin, b, beginSize); err != nil {
		return 0, r, err
	}
	p := (*[beginSize]byte)(b)
	return le.Uint64(p[8:16]), iomap.Request{Op: iomap.Op(le.Uint32(p[0:4])), Pos: le.Uint64(p[16:24]), Count: le.Uint64(p[24:32])}, nil
}

// putReply encodes the answer to a BEGIN.
func putReply(b []byte, r iomap.Reply) {
	p := (*[replySize]byte)(b)
	putMapping(p[0:32], r.Read)
	putMapping(p[32:64], r.Write)
}

func decodeEnd(b []byte) (e iomap.End, err error) {
	if err := checkSize(iomap.OpcodeEnd, b, endSize); err != nil {
		return e, err
	}
	p := (*[endSize]byte)(b)
	return iomap.End{
		Op: iomap.Op(le.Uint32(p[0:4])), AttrIno: le.Uint64(p[8:16]), Pos: le.Uint64(p[16:24]), Count: le.Uint64(p[24:32]),
		Written: int64(le.Uint64(p[32:40])), Map: decodeMapping(p[40:72]),
	}, nil
}

// decodeIoend decodes the body of an IOEND, whose answer is the file's size.
func decodeIoend(b []byte) (e iomap.Ioend, err error) {
	if err := checkSize(iomap.OpcodeIoend, b, ioendSize); err != nil {
		return e, err
	}
	p := (*[ioendSize]byte)(b)
	return iomap.Ioend{
		Flags: iomap.IoendFlags(le.Uint32(p[0:4])), Error: int32(le.Uint32(p[4:8])), AttrIno: le.Uint64(p[8:16]), Pos: le.Uint64(p[16:24]),
		NewAddr: le.Uint64(p[24:32]), Written: le.Uint64(p[32:40]), Dev: le.Uint32(p[40:44]),
	}, nil
}

// The fields of an [iomapConfig] that the kernel knows and the server sets.
const (
	configSID = 1 << iota
	configUUID
	configBlockSize
	configMaxLinks
	configTime
	configMaxBytes
	configCacheBytes
)

// An iomapOffer is what the kernel says with CONFIG.
type iomapOffer struct {
	Fields     uint64 // config bits: what it understands
	MaxBytes   int64  // the size of the largest file that it can have
	CacheBytes uint32 // of mappings kept of each file
}

// An iomapConfig is the answer. Only what Fields names is used.
type iomapConfig struct {
	Fields     uint64
	SID        string   // the name in the kernel's messages: at most 31 bytes
	UUID       [16]byte // with configUUID, all of it
	BlockSize  uint32   // bytes; what offsets and lengths of mappings are multiples of
	MaxLinks   uint32
	TimeGran   uint32 // nanoseconds
	TimeMin    int64  // seconds
	TimeMax    int64  // seconds
	MaxBytes   int64
	CacheBytes uint32
}

func decodeConfig(b []byte) (o iomapOffer, err error) {
	if err := checkSize(iomap.OpcodeConfig, b, configInSize); err != nil {
		return o, err
	}
	p := (*[configInSize]byte)(b)
	return iomapOffer{Fields: le.Uint64(p[0:8]), MaxBytes: int64(le.Uint64(p[8:16])), CacheBytes: le.Uint32(p[16:20])}, nil
}

// put encodes c. A SID that is too long is cut: the kernel wants a zero behind it.
func (c *iomapConfig) put(b []byte) {
	p := (*[configOutSize]byte)(b)
	clear(p[:])
	le.PutUint64(p[0:8], c.Fields)
	copy(p[8:39], c.SID)
	if c.Fields&configUUID != 0 {
		copy(p[40:56], c.UUID[:])
		p[56] = byte(len(c.UUID))
	}
	le.PutUint32(p[60:64], c.BlockSize)
	le.PutUint32(p[64:68], c.MaxLinks)
	le.PutUint32(p[68:72], c.TimeGran)
	le.PutUint64(p[72:80], uint64(c.TimeMin))
	le.PutUint64(p[80:88], uint64(c.TimeMax))
	le.PutUint64(p[88:96], uint64(c.MaxBytes))
	le.PutUint32(p[96:100], c.CacheBytes)
}

// notification makes the header of a message in b, and returns that with the size bytes
// behind it, which are to be filled.
func notification(b []byte, code iomap.NotifyCode, size int) []byte {
	b = b[:outHeaderSize+size]
	le.PutUint32(b[0:4], uint32(len(b)))
	le.PutUint32(b[4:8], uint32(code))
	le.PutUint64(b[8:16], 0)
	return b
}

// upserts has room for notifications of upsert, of which there is one for most BEGINs.
var upserts = sync.Pool{New: func() any { return new([outHeaderSize + upsertSize]byte) }}

// upsert puts mappings into the kernel's cache of a file, of node id node. It
// returns when they are there. ESTALE: the kernel does not know the inode;
// EINVAL: it has not taken them.
func (l *loop) upsert(node, attrIno uint64, u iomap.Upsert) fuse.Status {
	buf := upserts.Get().(*[outHeaderSize + upsertSize]byte)
	defer upserts.Put(buf)
	b := notification(buf[:], iomap.NotifyUpsertMappings, upsertSize)
	p := (*[upsertSize]byte)(b[outHeaderSize:])
	le.PutUint64(p[0:8], node)
	le.PutUint64(p[8:16], attrIno)
	putMapping(p[16:48], u.Read)
	putMapping(p[48:80], u.Write)
	return l.notify(b)
}

// inval drops mappings from the cache.
func (l *loop) inval(node, attrIno uint64, i iomap.Inval) fuse.Status {
	b := notification(make([]byte, outHeaderSize+invalSize), iomap.NotifyInvalMappings, invalSize)
	p := (*[invalSize]byte)(b[outHeaderSize:])
	le.PutUint64(p[0:8], node)
	le.PutUint64(p[8:16], attrIno)
	le.PutUint64(p[16:24], i.Read.Offset)
	le.PutUint64(p[24:32], i.Read.Length)
	le.PutUint64(p[32:40], i.Write.Offset)
	le.PutUint64(p[40:48], i.Write.Length)
	return l.notify(b)
}

// devInval drops a range of a device from that device's own page cache, dirty pages
// too: blocks of metadata that are going to be a file's.
func (l *loop) devInval(dev uint32, offset, length uint64) fuse.Status {
	b := notification(make([]byte, outHeaderSize+devInvalSize), iomap.NotifyDevInval, devInvalSize)
	p := (*[devInvalSize]byte)(b[outHeaderSize:])
	le.PutUint32(p[0:4], dev)
	le.PutUint64(p[8:16], offset)
	le.PutUint64(p[16:24], length)
	return l.notify(b)
}

func (l *loop) notify(b []byte) fuse.Status {
	_, err := l.conn.Write(b)
	if l.trace != nil {
		l.trace.notified(b, err)
	}
	return fuse.ToStatus(err)
}

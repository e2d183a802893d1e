package simkernel

import (
	"fmt"
	"syscall"
)

// Statx is what statx(2) tells and stat(2) does not (struct statx). Fields whose
// bit is not in Mask say nothing.
type Statx struct {
	Mask                                   uint32
	Attributes                             uint64
	Size                                   int64
	Btime                                  Time
	MemAlign, OffsetAlign, ReadOffsetAlign uint32 // of direct I/O, bytes
	AtomicMin, AtomicMax, AtomicSegments   uint32 // of writes that do not tear: bytes, and pieces
}

// Bits of Statx.Mask (STATX_*).
const (
	StatxBasic       = 0x7ff
	StatxBtime       = 0x800
	StatxDIOAlign    = 0x2000
	statxSubvol      = 0x8000
	StatxWriteAtomic = 0x10000
	statxSupported   = StatxBasic | StatxBtime | StatxDIOAlign | statxSubvol | StatxWriteAtomic
)

// Statx is statx(2) with all that the kernel can tell. What is about direct I/O
// it does not keep, so that the server is asked each time (fuse_do_statx).
func (f *File) Statx() (Statx, error) {
	in, k := f.in, f.k
	out, err := k.call(opStatx, in.nodeid, f.cred, msg().u32(0).u32(0).u64(0).u32(0).u32(statxSupported).b)
	if err != nil {
		return Statx{}, err
	}
	b := out[32:] // struct fuse_statx
	s := Statx{
		Mask: le.Uint32(b), Attributes: le.Uint64(b[8:]), Size: int64(le.Uint64(b[40:])),
		Btime:    Time{int64(le.Uint64(b[80:])), le.Uint32(b[88:])},
		MemAlign: le.Uint32(b[0x98:]), OffsetAlign: le.Uint32(b[0x9c:]), ReadOffsetAlign: le.Uint32(b[0xb4:]),
		AtomicMin: le.Uint32(b[0xa8:]), AtomicMax: le.Uint32(b[0xac:]), AtomicSegments: le.Uint32(b[0xb0:]),
	}
	if s.Mask&StatxBasic != StatxBasic {
		return s, k.breach(fmt.Errorf("STATX of node %d: mask is %#x, want all of %#x: %w", in.nodeid, s.Mask, StatxBasic, syscall.EIO))
	}
	s.Mask &= statxSupported
	if in.onIomap {
		in.mu.Lock()
		s.Size = in.size
		in.mu.Unlock()
	}
	return s, nil
}

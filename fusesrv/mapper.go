package fusesrv

import (
	"errors"
	"math"
	"sync"
	"unsafe"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap"
	"e4go/iomap/ext4map"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A mapper serves the contents of regular files by mappings, to a kernel with
// fuse-iomap: it is the iomapServer of a rawFS.
//
//	BEGIN, END, IOEND          ext4map.Server
//	OPEN, RELEASE              who has a file open: what is kept for one goes with the last
//	FLUSH, FSYNC, SYNCFS       the kernel has written back: sizes that it told are recorded
//	SETATTR, FALLOCATE, COPY   change a map: what is pending goes first, or after
//
// Names, attributes of other inodes, directories and the rest are the rawFS's,
// as on a kernel without.
type mapper struct {
	fs       *ext4.FS
	raw      *rawFS
	register func() (Backing, error) // makes the device known to the kernel
	loop     *loop
	maps     *ext4map.Server // immutable after Config
	backing  Backing         // immutable after Config
	noCache  bool            // immutable: without the mapping cache, files are only read by mappings

	mu    sync.Mutex
	opens map[disk.Ino]int // guarded by mu
}

// A Backing is the device by which a kernel reads and writes contents.
type Backing struct {
	ID   uint32 // as BACKING_OPEN has returned it
	Base uint64 // the byte at which the file system begins

	// What direct I/O is aligned to, bytes: the caller's memory, and the place in the file. 0 is
	// unknown.
	MemAlign, OffsetAlign uint32

	// How much the device writes so that a power cut leaves all of it or nothing, bytes: the
	// least and the most. 0 is nothing.
	AtomicMin, AtomicMax uint32
}

// atomic reports whether a block of the file system can be written without being torn. One block is all
// that the kernel asks for.
func (b *Backing) atomic(blockSize uint32) bool {
	return b.AtomicMax >= blockSize && b.AtomicMin <= blockSize && b.Base%uint64(blockSize) == 0
}

// Config names the file system, and the device, to the kernel.
func (m *mapper) Config(o iomapOffer) (iomapConfig, fuse.Status) {
	b, err := m.register()
	if err != nil {
		return iomapConfig{}, m.raw.status(err)
	}
	m.backing = b
	var cache ext4map.Cache = m
	if m.noCache {
		cache = nil
	}
	m.maps = ext4map.NewServer(m.fs, b.ID, b.Base, cache)
	sb := m.fs.Super()
	c := iomapConfig{
		Fields: configSID | configUUID | configBlockSize | configMaxLinks | configTime | configMaxBytes,
		SID:    m.fs.Label(), UUID: sb.UUID, BlockSize: uint32(sb.BlockSize()), MaxLinks: maxLinks,
		TimeGran: 1, TimeMin: math.MinInt32, TimeMax: math.MaxInt32,
		MaxBytes: int64(min(sb.MaxFileSize(true), uint64(o.MaxBytes))),
	}
	if c.SID == "" {
		c.SID = Subtype
	}
	if sb.InodeSize > disk.GoodOldInodeSize { // nanoseconds, and two bits more of seconds (EXT4_EXTRA_TIMESTAMP_MAX)
		c.TimeMax = math.MaxInt32 + 3<<32
	} else {
		c.TimeGran = 1e9
	}
	return c, fuse.OK
}

// maxLinks is EXT4_LINK_MAX.
const maxLinks = 65000

// attrFlags are the bits of fuse_attr.flags of an inode. The kernel looks at them when it
// takes the inode in, so that each answer that may be the first has them.
func (m *mapper) attrFlags(in *ext4.Inode) uint32 {
	if m == nil {
		return 0
	}
	flags := uint32(attrExclusive)
	f := in.Disk().Flags
	if in.Type() == disk.ModeReg && !f.Has(disk.FlagEncrypt) && (!m.noCache || !m.fs.Writable()) {
		flags |= attrIomap
		if m.backing.atomic(uint32(m.fs.Super().BlockSize())) {
			flags |= attrAtomic
		}
	}
	for _, x := range []struct {
		has disk.FileFlags
		bit uint32
	}{{disk.FlagSync, attrSync}, {disk.FlagImmutable, attrImmutable}, {disk.FlagAppend, attrAppend}} {
		if f.Has(x.has) {
			flags |= x.bit
		}
	}
	return flags
}

// keepsTimes reports whether the kernel dates what is done to the file, and sends the times: nobody
// else does then. It also sees to it that nobody sets them where a flag of the inode forbids it.
func (m *mapper) keepsTimes(ino disk.Ino) bool {
	if m == nil {
		return false
	}
	in, err := m.fs.Inode(ino) // whoever needs the inode says why there is none
	return err == nil && m.attrFlags(in)&attrIomap != 0
}

// changer is c as one who changes the contents of ino.
func (m *mapper) changer(c ext4.Caller, ino disk.Ino) ext4.Caller {
	c.KeepTimes = c.KeepTimes || m.keepsTimes(ino)
	return c
}

// statx adds to an answer to STATX what only the server knows of direct I/O, for a file
// whose contents go by mappings.
func (m *mapper) statx(in *ext4.Inode, out *fuse.Statx) {
	flags := m.attrFlags(in)
	if flags&attrIomap == 0 {
		return
	}
	more := (*statxMore)(unsafe.Add(unsafe.Pointer(out), statxMoreAt))
	if b := m.backing; b.MemAlign != 0 && b.OffsetAlign != 0 {
		out.Mask |= unix.STATX_DIOALIGN | unix.STATX_DIO_READ_ALIGN
		more.dioMemAlign, more.dioOffsetAlign, more.dioReadOffsetAlign = b.MemAlign, b.OffsetAlign, b.OffsetAlign
	}
	if flags&attrAtomic != 0 {
		out.Mask |= unix.STATX_WRITE_ATOMIC
		bs := uint32(m.fs.Super().BlockSize())
		more.atomicMin, more.atomicMax, more.atomicSegments = bs, bs, 1
	}
}

func (m *mapper) Begin(h *fuse.InHeader, _ uint64, r iomap.Request) (iomap.Reply, fuse.Status) {
	var c ext4.Caller // whoever reads may be anybody
	if r.Op.IsWrite() {
		c = m.raw.caller(h)
	}
	reply, err := m.maps.Begin(background, c, inoOf(h.NodeId), r)
	return reply, m.raw.status(err)
}

func (m *mapper) End(h *fuse.InHeader, e *iomap.End) fuse.Status {
	return m.raw.status(m.maps.End(inoOf(h.NodeId), *e))
}

func (m *mapper) Ioend(h *fuse.InHeader, e *iomap.Ioend) (uint64, fuse.Status) {
	size, err := m.maps.Ioend(background, inoOf(h.NodeId), *e)
	return uint64(size), m.raw.status(err)
}

// Freeze is told how many deleted files are in use, which a frozen image keeps
// as orphans.
func (m *mapper) Freeze(uint64) fuse.Status {
	if err := m.maps.SettleAll(background); err != nil {
		return m.raw.status(err)
	}
	return m.raw.status(m.fs.Freeze(background))
}

func (m *mapper) Unfreeze() fuse.Status { return m.raw.status(m.fs.Thaw()) }

// Shutdown is told that the device has gone.
func (m *mapper) Shutdown() fuse.Status { return m.raw.status(m.fs.Shutdown(ext4.ShutdownNoLogFlush)) }

// Upsert and Invalidate are the kernel's cache of mappings.
func (m *mapper) Upsert(ino disk.Ino, u iomap.Upsert) error {
	return statusError(m.loop.upsert(nodeOf(ino), uint64(ino), u))
}

func (m *mapper) Invalidate(ino disk.Ino, inv iomap.Inval) error {
	return statusError(m.loop.inval(nodeOf(ino), uint64(ino), inv))
}

func statusError(s fuse.Status) error {
	if s == fuse.OK {
		return nil
	}
	return unix.Errno(s)
}

// opened counts an open file, and tells the kernel where its beginning lies. The inode is in use until
// it is released, also when it is forgotten before: its number must not become another's
// while something is kept for it.
func (m *mapper) opened(ino disk.Ino) error {
	if err := m.fs.Open(ino); err != nil {
		return err
	}
	m.mu.Lock()
	m.opens[ino]++
	m.mu.Unlock()
	m.maps.Preload(ino)
	return nil
}

// released undoes opened. What is kept for a file that nobody has open goes.
func (m *mapper) released(ino disk.Ino) error {
	err := m.maps.Settle(background, ino)
	m.mu.Lock()
	m.opens[ino]--
	last := m.opens[ino] == 0
	if last {
		delete(m.opens, ino)
	}
	m.mu.Unlock()
	if last {
		err = errors.Join(err, m.maps.Released(ino))
	}
	m.raw.nodes.release(ino)
	return err
}

// resize is what SETATTR does to a size.
func (m *mapper) resize(ino disk.Ino, size int64, do func() error) error {
	if m == nil {
		return do()
	}
	return m.maps.Resize(background, ino, size, do)
}

// change is what FALLOCATE and COPY_FILE_RANGE do to the map of bytes [off, off+n).
func (m *mapper) change(ino disk.Ino, off, n uint64, do func() error) error {
	if m == nil || off+n < off || off+n > math.MaxInt64 {
		return do()
	}
	return m.maps.Change(background, ino, int64(off), int64(off+n), do)
}

// writeInline is what WRITE does to bytes [off, off+n).
func (m *mapper) writeInline(ino disk.Ino, off, n uint64, do func() error) error {
	if m == nil || off+n < off || off+n > math.MaxInt64 {
		return do()
	}
	return m.maps.WriteInline(background, ino, int64(off), int64(off+n), do)
}

// copying is called before COPY_FILE_RANGE reads bytes [off, off+n) of ino.
func (m *mapper) copying(ino disk.Ino, off, n uint64) error {
	if m == nil || off+n < off || off+n > math.MaxInt64 {
		return nil
	}
	return m.maps.Reach(background, ino, int64(off+n))
}

// verdict judges an answer as the kernel of February 2026 will. The device is taken to be writable.
func (m *mapper) verdict(r iomap.Request, reply iomap.Reply) iomap.Violations {
	env := ext4map.Env(m.fs)
	env.HasCache = true
	env.Devices = map[uint32]iomap.Device{reply.Read.Dev: {Readable: true, Writable: true, Size: uint64(m.fs.Device().Size())}}
	return iomap.Validate(iomap.V7, r, reply, env)
}

// settle records the size that the kernel told, when it has written ino back.
func (m *mapper) settle(ino disk.Ino) error {
	if m == nil {
		return nil
	}
	return m.maps.Settle(background, ino)
}

// settleAll is settle for all files.
func (m *mapper) settleAll() error {
	if m == nil || m.maps == nil {
		return nil
	}
	return m.maps.SettleAll(background)
}

// readInline answers the READ that a kernel sends for a file whose mapping it was told is
// INLINE: an empty answer would be an error to it.
func (m *mapper) readInline(in *ext4.Inode, buf []byte, off int64) (fuse.ReadResult, fuse.Status) {
	clear(buf)
	if off < in.Size() {
		if n, err := in.ReadAt(buf, off); err != nil && n == 0 {
			return nil, m.raw.status(err)
		}
	}
	n := max(min(int64(len(buf)), int64(m.fs.Super().BlockSize())-off), 0)
	return bytesResult(buf[:n]), fuse.OK
}

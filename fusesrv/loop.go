package fusesrv

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"e4go/iomap"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A loop answers the requests of one FUSE connection. It reads them from the
// descriptor, answers itself what go-fuse's RawFileSystem has no methods for,
// and hands the rest to go-fuse's ProtocolServer:
//
//	/dev/fuse ── read ──> reader ─┬─ BMAP, SYNCFS, DESTROY, fuse-iomap
//	                              ├─ what there is most of (hot.go) ──> RawFileSystem
//	                              └─ ProtocolServer ──> RawFileSystem
//
// The goroutine that has read a request answers it, and then reads the next.
// readers.go has how many there are.
type loop struct {
	conn  conn // immutable; run closes it
	fs    served
	iomap iomapServer // immutable after newLoop: nil where the kernel does without
	proto *fuse.ProtocolServer
	log   *log.Logger
	fault func(v any) fuse.Status // reports a panic
	debug bool
	trace *tracer // immutable after newServer; nil for none

	free chan *buffers
	readers

	forgotten atomic.Uint64 // requests that forget and are done
	removed   atomic.Int64  // when a name was taken away last, in nanoseconds

	busyMu    sync.Mutex
	quiet     sync.Cond // busy has fallen to the one request that waits for it
	busy      int       // guarded by busyMu: requests that are being answered
	destroyed bool      // guarded by busyMu: DESTROY was there; nothing else is answered any more
}

// served is a file system with the requests that RawFileSystem leaves out.
type served interface {
	fuse.RawFileSystem

	// Bmap is FIBMAP: the block of the device that has block number block of
	// the file, both in units of size bytes, or 0.
	Bmap(node, block uint64, size uint32) (uint64, fuse.Status)

	// SyncFS makes durable all that was done before.
	SyncFS() fuse.Status

	// Destroy lets go of the image. It is called once, when no request is
	// being answered and none will be; where the kernel's umount waits for the
	// file system, it waits for this.
	Destroy()
}

const (
	inHeaderSize  = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header
	writeInSize   = 40 // struct fuse_write_in

	// bufferSize has room for the largest request or reply: the payload, whole
	// pages before it for the headers, and what the kernel wants at least.
	bufferSize = maxRead + 2*pageSize
	pageSize   = 4096
)

// Opcodes that are answered here (include/uapi/linux/fuse.h).
const (
	opForget      = 2
	opRead        = 15
	opInit        = 26
	opInterrupt   = 36
	opBmap        = 37
	opDestroy     = 38
	opIoctl       = 39
	opBatchForget = 42
	opSyncfs      = 50

	notifyInvalInode = 2
	invalInodeSize   = 24 // struct fuse_notify_inval_inode_out
	notifyStore      = 4
	storeSize        = 24 // struct fuse_notify_store_out
)

// buffers are a reader's: they begin so that the data of a WRITE request and
// of a READ reply are aligned to pages, for direct I/O. They are large and few, and their
// memory is no business of the garbage collector, which would run for each of them.
type buffers struct {
	in, out []byte
	memory  []byte // both, and the pages before them
	pipe    *pipe  // nil until it is needed
}

// maxFree is how many buffers are kept for the next reader.
const maxFree = 8

func (l *loop) newBuffers() *buffers {
	select {
	case b := <-l.free:
		return b
	default:
	}
	const half = pageSize + bufferSize
	m, err := unix.Mmap(-1, 0, 2*half, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic("fusesrv: no memory for a request: " + err.Error()) // as the runtime does
	}
	in, out := pageSize-inHeaderSize-writeInSize, half+pageSize-outHeaderSize
	return &buffers{in: m[in : in+bufferSize], out: m[out : out+bufferSize], memory: m}
}

// freeBuffers takes back what newBuffers gave.
func (l *loop) freeBuffers(b *buffers) {
	select {
	case l.free <- b:
	default:
		b.unmap()
	}
}

func (b *buffers) unmap() {
	if b.pipe != nil {
		b.pipe.close()
	}
	_ = unix.Munmap(b.memory)
}

// storeFunc puts data into the kernel's cache of a file.
type storeFunc = func(node uint64, off int64, data []byte) fuse.Status

// A conn is a connection to the kernel: each read is a request, each write an answer or a
// notification. Requests end with ENODEV or io.EOF.
type conn interface {
	io.ReadWriteCloser
}

// A device is a conn that is a descriptor: of /dev/fuse, or of a socket whose other
// end plays the kernel.
type device int

func (d device) Read(p []byte) (int, error) {
	n, err := unix.Read(int(d), p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (d device) Write(p []byte) (int, error) { return unix.Write(int(d), p) }
func (d device) Close() error                { return unix.Close(int(d)) }

// newLoop answers the INIT request that waits in c, and takes over c, also when
// it fails. learn is told what the kernel can do before INIT is answered. With
// an iomapServer, the kernel must have fuse-iomap, or it is a *[NoIomapError].
func newLoop(c conn, fs served, mapper iomapServer, o *fuse.MountOptions, learn func(*fuse.InitIn, storeFunc)) (*loop, error) {
	l := &loop{conn: c, fs: fs, iomap: mapper, log: o.Logger, fault: o.PanicHandler, debug: o.Debug}
	l.proto = fuse.NewProtocolServer(fs, o)
	l.free = make(chan *buffers, maxFree)
	l.quiet.L = &l.busyMu
	b := l.newBuffers()
	defer l.freeBuffers(b)
	n, err := l.request(b.in)
	if err == nil {
		err = l.init(b, n, learn)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return l, nil
}

// init answers the first request.
func (l *loop) init(b *buffers, n int, learn func(*fuse.InitIn, storeFunc)) error {
	h := header(b.in)
	if n < inHeaderSize+16 || h.Opcode != opInit {
		return fmt.Errorf("the kernel begins with opcode %d and %d bytes, want INIT", h.Opcode, n)
	}
	var in fuse.InitIn
	body := b.in[inHeaderSize:n]
	in.Major, in.Minor, in.MaxReadAhead, in.Flags = le.Uint32(body), le.Uint32(body[4:]), le.Uint32(body[8:]), le.Uint32(body[12:])
	if len(body) >= 20 && in.Flags&fuse.CAP_INIT_EXT != 0 {
		in.Flags2 = le.Uint32(body[16:])
	}
	learn(&in, l.store)
	m, status := l.proto.HandleRequest([][]byte{b.in[:n]}, [][]byte{b.out})
	if status != fuse.OK || m < outHeaderSize {
		return fmt.Errorf("INIT of protocol %d.%d: %v", in.Major, in.Minor, status)
	}
	if l.iomap != nil && !acceptIomap(&in, b.out[:m]) {
		return &NoIomapError{IomapSupport{Version: IomapV7}}
	}
	if _, err := l.conn.Write(b.out[:m]); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	if errno := le.Uint32(b.out[4:]); errno != 0 {
		return fmt.Errorf("INIT of protocol %d.%d is refused: %w", in.Major, in.Minor, unix.Errno(-int32(errno)))
	}
	return nil
}

// le is the byte order of the protocol: this machine's.
var le = binary.NativeEndian

func header(b []byte) fuse.InHeader {
	return fuse.InHeader{
		Length: le.Uint32(b), Opcode: le.Uint32(b[4:]), Unique: le.Uint64(b[8:]), NodeId: le.Uint64(b[16:]),
		Caller:      fuse.Caller{Owner: fuse.Owner{Uid: le.Uint32(b[24:]), Gid: le.Uint32(b[28:])}, Pid: le.Uint32(b[32:])},
		TotalExtlen: le.Uint16(b[36:]),
	}
}

// run answers requests until the connection ends, then lets go of the file
// system, if no DESTROY has asked for that, and closes the descriptor.
func (l *loop) run() {
	l.serve()
	l.conn.Close()
	l.busyMu.Lock()
	first := !l.destroyed
	l.destroyed = true
	l.busyMu.Unlock()
	if first {
		l.fs.Destroy()
	}
	for len(l.free) > 0 {
		(<-l.free).unmap()
	}
}

// request reads a request.
func (l *loop) request(p []byte) (int, error) {
	for {
		n, err := l.conn.Read(p)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT: // ENOENT: interrupted before it was read
		case err != nil:
			return 0, err
		case n < inHeaderSize:
			return 0, fmt.Errorf("a request of %d bytes: %w", n, unix.EIO)
		default:
			return n, nil
		}
	}
}

// thaw ends a freeze that the kernel cannot end any more: who waits for that is waited for now.
func (l *loop) thaw() {
	if l.iomap != nil {
		l.iomap.Unfreeze() // EINVAL if it is not frozen
	}
}

// answer answers the request in the first n bytes of b.in.
func (l *loop) answer(b *buffers, n int) {
	op := le.Uint32(b.in[4:])
	if op == opDestroy {
		l.thaw()
	}
	l.busyMu.Lock()
	l.busy++
	gone := l.destroyed
	if op == opDestroy && !gone {
		l.destroyed = true
		for l.busy > 1 {
			l.quiet.Wait()
		}
	}
	l.busyMu.Unlock()
	defer l.done()
	var began time.Time
	if l.trace != nil {
		began = time.Now()
	}
	m := l.dispatch(b, n, op, gone)
	if l.trace != nil {
		l.trace.answered(began, op, b.in[:inHeaderSize], b.in[inHeaderSize:n], b.out[:m])
	}
	if m > 0 {
		l.write(b.out[:m], op)
	}
}

func (l *loop) done() {
	l.busyMu.Lock()
	l.busy--
	if l.busy == 1 {
		l.quiet.Signal()
	}
	l.busyMu.Unlock()
}

// dispatch puts the answer to a request into b.out, and returns its size, 0
// for none.
func (l *loop) dispatch(b *buffers, n int, op uint32, gone bool) (size int) {
	since := l.forgotten.Load()
	size = l.dispatchOnce(b, n, op, gone)
	for size >= outHeaderSize && lacksRoom(b.out) && l.moreRoom(&since) {
		size = l.dispatchOnce(b, n, op, gone)
	}
	switch op {
	case opForget, opBatchForget:
		l.forgotten.Add(1)
	case opUnlink, opRmdir, opRename, opRename2:
		l.removed.Store(time.Now().UnixNano())
	}
	return size
}

// forgetSoon is how long a file may take from its deletion until the kernel has forgotten it
// and the server knows.
const forgetSoon = 50 * time.Millisecond

// lacksRoom reports whether an answer says that there is no room.
func lacksRoom(out []byte) bool {
	errno := unix.Errno(-int32(le.Uint32(out[4:])))
	return errno == unix.ENOSPC || errno == unix.EDQUOT
}

// moreRoom reports whether something was forgotten that the kernel still knew when since was counted, and so
// may have been deleted: it waits a little for that, if names were taken away just now. Who has deleted a file may
// use its space at once, but the kernel waits for no answer when it forgets. What has failed for want of room has
// changed nothing and can be done again.
func (l *loop) moreRoom(since *uint64) bool {
	for {
		if n := l.forgotten.Load(); n != *since {
			*since = n
			return true
		}
		if time.Now().UnixNano()-l.removed.Load() > int64(forgetSoon) {
			return false
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// dispatchOnce is dispatch, but for want of room.
func (l *loop) dispatchOnce(b *buffers, n int, op uint32, gone bool) (size int) {
	unique := le.Uint64(b.in[8:])
	defer func() {
		if v := recover(); v != nil {
			size = answerOf(b.out, unique, l.fault(v), 0)
		}
	}()
	body := b.in[inHeaderSize:n]
	switch {
	case op == opInterrupt:
		return 0 // nothing waits so long that it should be given up
	case gone && (op == opForget || op == opBatchForget):
		return 0
	case gone:
		return answerOf(b.out, unique, fuse.ENODEV, 0)
	case op == opDestroy:
		l.fs.Destroy()
		return answerOf(b.out, unique, fuse.OK, 0)
	case op == opSyncfs:
		return answerOf(b.out, unique, l.fs.SyncFS(), 0)
	case op == opBmap:
		if len(body) < 16 {
			return answerOf(b.out, unique, fuse.EIO, 0)
		}
		block, status := l.fs.Bmap(le.Uint64(b.in[16:]), le.Uint64(body), le.Uint32(body[8:]))
		le.PutUint64(b.out[outHeaderSize:], block)
		return answerOf(b.out, unique, status, 8)
	case l.iomap != nil && op >= uint32(iomap.OpcodeFreezeFS) && op <= uint32(iomap.OpcodeEnd):
		return l.answerIomap(b, iomap.Opcode(op), body)
	case op == opIoctl && len(body) >= 32:
		if cmd := le.Uint32(body[12:]); cmd == iocGetVersion || cmd == iocExt4GetVersion {
			le.PutUint32(body[28:], 4) // fuse_ioctl_in.out_size: see there
		}
	case op > opcodeTable:
		return answerOf(b.out, unique, fuse.ENOSYS, 0)
	}
	if size, ok := l.hot(b, n, op); ok {
		return size
	}
	size, status := l.proto.HandleRequest([][]byte{b.in[:n]}, [][]byte{b.out})
	if status != fuse.OK {
		return answerOf(b.out, unique, status, 0)
	}
	return size
}

// opcodeTable is the last opcode that go-fuse may know; it complains of others.
const opcodeTable = 105

// reply makes an answer of what follows its header in out.
func answerOf(out []byte, unique uint64, status fuse.Status, size int) int {
	if status != fuse.OK {
		size = 0
	}
	size += outHeaderSize
	le.PutUint32(out, uint32(size))
	le.PutUint32(out[4:], uint32(-int32(status)))
	le.PutUint64(out[8:], unique)
	return size
}

// write sends an answer. That nobody waits for it any more is no fault.
func (l *loop) write(p []byte, op uint32) {
	_, err := l.conn.Write(p)
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		l.log.Printf("answer opcode %d: %v", op, err)
	}
}

// store puts data, which fits into a buffer, into the kernel's cache of a file.
func (l *loop) store(node uint64, off int64, data []byte) fuse.Status {
	b := l.newBuffers()
	defer l.freeBuffers(b)
	m := notification(b.out, notifyStore, storeSize+len(data))
	p := m[outHeaderSize:]
	le.PutUint64(p, node)
	le.PutUint64(p[8:], uint64(off))
	le.PutUint64(p[16:], uint64(len(data))) // with the padding behind it
	copy(p[storeSize:], data)
	return l.notify(m)
}

// invalidate makes the kernel drop n bytes of its cache of a file, of which it
// writes back what is dirty first. n 0 is all that follow. It must not be called with a
// lock that a READ or WRITE takes.
func (l *loop) invalidate(node uint64, off, n int64) fuse.Status {
	m := notification(make([]byte, outHeaderSize+invalInodeSize), notifyInvalInode, invalInodeSize)
	p := m[outHeaderSize:]
	le.PutUint64(p, node)
	le.PutUint64(p[8:], uint64(off))
	le.PutUint64(p[16:], uint64(n))
	return l.notify(m)
}

// forgetAttributes makes the kernel ask again for the attributes of a node. It takes no lock of
// the kernel's but for a moment, so that a method may call it.
func (l *loop) forgetAttributes(node uint64) {
	l.invalidate(node, -1, 0) // no pages; that the kernel does not know the node any more is as good
}

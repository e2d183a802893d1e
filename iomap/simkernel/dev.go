package simkernel

import (
	"fmt"
	"sync"
	"syscall"

	"e4go/iomap"
)

// Dev is the server's side of the connection: what its /dev/fuse descriptor
// is. Read and Write are read(2) and write(2) of it, one message a call; a
// notification's outcome is Write's error, as it is with the kernel's.
type Dev struct {
	k *Kernel

	mu      sync.Mutex
	arrived sync.Cond // on mu: queue has grown, or closed is set
	queue   [][]byte  // guarded by mu: requests that the server has not read
	waiting map[uint64]*call
	unique  uint64 // guarded by mu
	closed  bool   // guarded by mu: the connection is gone
}

// call is a request whose reply is awaited.
type call struct {
	done  chan struct{}
	op    uint32
	reply []byte
	err   error
}

func newDev(k *Kernel) *Dev {
	d := &Dev{k: k, waiting: map[uint64]*call{}}
	d.arrived.L = &d.mu
	return d
}

// Read waits for a request and copies it to p. It fails with ENODEV when the
// file system is unmounted, and with EINVAL if p is too short.
func (d *Dev) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.closed {
		d.arrived.Wait()
	}
	if len(d.queue) == 0 {
		return 0, syscall.ENODEV
	}
	i := 0
	if len(d.queue) > 1 { // requests of different callers have no order
		i = d.k.pick(len(d.queue))
	}
	m := d.queue[i]
	if len(p) < len(m) {
		return 0, syscall.EINVAL
	}
	if opOf(m) == opForget {
		if n := d.batchForgets(p); n > 0 {
			return n, nil
		}
	}
	d.queue = append(d.queue[:i], d.queue[i+1:]...)
	return copy(p, m), nil
}

func opOf(m []byte) uint32 { return le.Uint32(m[4:]) }

// batchForgets makes one BATCH_FORGET of the FORGETs that wait, as many as p has
// room for, and takes them from the queue. Of one it makes nothing. The caller holds d.mu.
func (d *Dev) batchForgets(p []byte) int {
	const head, one = inHeaderSize + 8, 16 // struct fuse_forget_one
	w := msg().zeros(head)
	count := uint32(0)
	rest := d.queue[:0:0]
	for _, m := range d.queue {
		if opOf(m) != opForget || len(w.b)+one > len(p) {
			rest = append(rest, m)
			continue
		}
		w.u64(le.Uint64(m[16:])).raw(m[inHeaderSize:]) // node id, nlookup
		count++
	}
	if count < 2 {
		return 0
	}
	d.queue = rest
	d.unique += 2
	h := msg().u32(uint32(len(w.b))).u32(opBatchForget).u64(d.unique).zeros(inHeaderSize - 16).u32(count).u32(0)
	copy(w.b, h.b)
	return copy(p, w.b)
}

// Write takes a reply or a notification.
func (d *Dev) Write(p []byte) (int, error) {
	if len(p) < outHeaderSize || int(le.Uint32(p)) != len(p) {
		return 0, d.k.breach(fmt.Errorf("message of %d bytes, or not as many as its header says: %w", len(p), syscall.EINVAL))
	}
	code, unique, body := int32(le.Uint32(p[4:])), le.Uint64(p[8:]), p[outHeaderSize:]
	if unique == 0 {
		if err := d.k.notify(iomap.NotifyCode(code), body); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if code > 0 || code <= -1000 || code != 0 && len(body) > 0 {
		d.k.breach(fmt.Errorf("reply has error %d and %d bytes", code, len(body)))
		return 0, syscall.EINVAL
	}
	d.mu.Lock()
	c := d.waiting[unique]
	delete(d.waiting, unique)
	d.mu.Unlock()
	if c == nil {
		return 0, syscall.ENOENT
	}
	c.reply = append([]byte(nil), body...)
	if code != 0 {
		c.err = syscall.Errno(-code)
	}
	err := d.k.checkLength(c)
	close(c.done)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// send queues a request. With reply set it returns the call to wait for.
func (d *Dev) send(op uint32, nodeid uint64, c Cred, body []byte, reply bool) *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unique += 2
	cl := &call{done: make(chan struct{}), op: op}
	if d.closed {
		cl.err = syscall.ENOTCONN
		close(cl.done)
		return cl
	}
	w := msg().u32(uint32(inHeaderSize + len(body))).u32(op).u64(d.unique).u64(nodeid)
	w.u32(c.UID).u32(c.GID).u32(1).u32(0).raw(body)
	if reply {
		d.waiting[d.unique] = cl
	}
	d.queue = append(d.queue, w.b)
	d.arrived.Signal()
	return cl
}

// abort ends the connection: what waits fails, and the server reads ENODEV.
func (d *Dev) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for u, c := range d.waiting {
		c.err = syscall.ECONNABORTED
		close(c.done)
		delete(d.waiting, u)
	}
	d.arrived.Broadcast()
}

// replyLength is how long the replies are that have one length. The kernel
// fails the server's write, and the request with EIO, when it is another.
var replyLength = map[uint32]int{
	opGetattr: attrOutSize, opSetattr: attrOutSize, opOpen: openSize, opOpendir: openSize, opWrite: 8,
	opCopyFileRange: 8, opCreate: entrySize + openSize, opTmpfile: entrySize + openSize, opLookup: entrySize,
	opMknod: entrySize, opMkdir: entrySize, opSymlink: entrySize, opLink: entrySize,
	opBegin: 2 * mappingSize, opIoend: 8, opEnd: 0, opFsync: 0, opFlush: 0, opRelease: 0, opFallocate: 0,
	opUnlink: 0, opRmdir: 0, opRename2: 0, opSyncfs: 0, opDestroy: 0, opFreeze: 0, opUnfreeze: 0, opStatx: 288,
}

func (k *Kernel) checkLength(c *call) error {
	if want, ok := replyLength[c.op]; ok && c.err == nil && len(c.reply) != want {
		k.breach(fmt.Errorf("reply to %s has %d bytes, want %d", opName(c.op), len(c.reply), want))
		c.err = syscall.EIO
		return syscall.EINVAL
	}
	return nil
}

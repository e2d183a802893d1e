// Package simkernel is the kernel's half of the fuse-iomap protocol, in user
// space: what a Linux kernel with the fuse-iomap series does with a server,
// for tests on kernels that have not got it.
//
//	test: Open, Write, Mmap, Truncate, Fsync, ...      (system calls)
//	  |
//	Kernel: inodes, page cache, mapping cache, write-back, direct I/O
//	  |                                    |
//	  | Dev: requests, replies,            | data, at the addresses that
//	  |      notifications                 | the server's mappings name
//	  v                                    v
//	server under test ---- metadata ----> Device
//
// The server reads and writes messages with [Dev.Read] and [Dev.Write], byte
// for byte as it would with /dev/fuse, and registers devices with
// [Kernel.BackingOpen] in place of the ioctl. Everything that it answers is
// judged by [iomap.Validate]; what breaks a rule fails as it does in the
// kernel and is remembered ([Kernel.Breaches]), and so is what the kernel would do silently and
// a user would call data loss: dirty bytes that write-back was told to skip.
//
// The model has the kernel's order of events, its locks as far as requests
// show them, and its known defects by version ([iomap.V7], [iomap.V8]). With a
// seed it also does what a kernel may do at any moment: write dirty folios
// back, delay and reorder the completions, drop clean folios, push times. With
// one goroutine a run is repeated exactly by its seed, unless the server's own
// goroutines race.
//
// It keeps names (dentry.go) and ACLs (acl.go), and asks for other attributes each
// time. It has no permission checks, no passthrough and no BPF. It imports only
// package iomap, and never meets the server's file system.
//
// Locks, in order: inode.life, inode.rw (i_rwsem), inode.inval (the invalidate lock),
// inode.sending (I_SYNC), folio.mu (the folio lock), inode.mu, mapCache.mu, Kernel.mu,
// Dev.mu. Requests are sent under the first five, as the kernel does, and under no other.
package simkernel

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"e4go/iomap"
)

// PageSize is that of the machine.
const PageSize = 4096

// Device is a block device that holds the files' data.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Size() int64 // bytes
}

// Options say what kind of kernel it is. The zero value is the kernel of
// February 2026 that does nothing on its own.
type Options struct {
	Version iomap.Version // V7 or V8; 0 is V7
	Seed    uint64        // of everything that happens by chance

	// Unrest is the chance, from 0 to 1, that the kernel does something on its
	// own at each of the moments where it may: between a mapping and its use,
	// and after each call.
	Unrest float64

	// Fail is asked before each request is sent, and before each access to the
	// data on the device ("read", "write" in place of a request's name). An
	// error is what the request or the access then has, and the server does not
	// see the request.
	Fail func(what string) error

	Atime    Atime // which reads are kept as times of access
	Lazytime bool  // times alone are not written back until they must be

	// LargeFolios lets folios of the page cache be larger than a page, by chance.
	LargeFolios bool

	// Trace is told of each request and reply, if it is not nil.
	Trace func(Event)

	// Now is the clock; nil is the system's.
	Now func() time.Time

	MaxWrite int // bytes of a request's payload; 0 is 1 MiB
	CacheMax int // bytes of an inode's cached mappings, which CONFIG may change; 0 is 256 KiB
}

// Event is a request with its reply.
type Event struct {
	Op      string
	Opcode  uint32
	NodeID  uint64
	Request []byte // without the header
	Reply   []byte // without the header
	Err     error
}

// Cred is who makes a call.
type Cred struct{ UID, GID, Umask uint32 }

// Kernel is a mounted file system.
type Kernel struct {
	opt Options
	dev *Dev

	// Set by the handshake in Mount, and immutable then.
	iomapOn   bool // the server speaks fuse-iomap
	blockSize int64
	maxBytes  int64
	cacheMax  int
	posixACL  bool
	dontMask  bool // the umask is the server's to apply
	xattrExt  bool // SETXATTR says whether set-group-ID goes

	timeGran         uint32 // ns
	timeMin, timeMax int64  // seconds

	frozen atomic.Bool

	noEnd, noIoend, noFsync, noSyncfs, noFlush atomic.Bool // the server has answered ENOSYS

	mu       sync.Mutex
	rng      *rand.Rand           // guarded by mu
	inodes   map[uint64]*inode    // guarded by mu: by node id
	dentries map[dentryKey]dentry // guarded by mu
	devices  map[uint32]backing   // guarded by mu: by backing id
	counts   map[string]int       // guarded by mu: requests by name
	breaches []error              // guarded by mu
}

type backing struct {
	dev                Device
	readable, writable bool
}

// Kernel limits that CONFIG may lower.
const (
	kernelMaxBytes  = math.MaxInt64
	defaultCacheMax = 256 << 10
	maxBackingID    = 1024
	rootID          = 1
)

// New returns a kernel that has not been mounted: give its [Kernel.Dev] to the
// server, and call [Kernel.Mount].
func New(opt Options) *Kernel {
	if opt.Version == 0 {
		opt.Version = iomap.V7
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.MaxWrite == 0 {
		opt.MaxWrite = 1 << 20
	}
	if opt.CacheMax == 0 {
		opt.CacheMax = defaultCacheMax
	}
	k := &Kernel{
		opt: opt, blockSize: PageSize, maxBytes: kernelMaxBytes, cacheMax: opt.CacheMax,
		rng:      rand.New(rand.NewPCG(opt.Seed, 0x1f0e)),
		timeGran: 1, timeMin: math.MinInt64, timeMax: math.MaxInt64,
		inodes: map[uint64]*inode{}, dentries: map[dentryKey]dentry{}, devices: map[uint32]backing{}, counts: map[string]int{},
	}
	k.dev = newDev(k)
	return k
}

// Dev returns the server's side.
func (k *Kernel) Dev() *Dev { return k.dev }

// INIT's flags that this kernel offers, and those of the first 32 that matter to it.
const (
	initAtomicOTrunc = 1 << 3
	initDontMask     = 1 << 6
	initPosixACL     = 1 << 20
	initMaxPages     = 1 << 22
	initSetxattrExt  = 1 << 29
	initExt          = 1 << 30
	initIomap        = 1 << (43 - 32) // FUSE_IOMAP, in flags2

	kernelMinor    = 99
	minorExclusive = 99 // below it EXCLUSIVE is ignored, and with it iomap
)

// Mount does the handshake: INIT and CONFIG. A server that does not take iomap
// up fails it, as this kernel has nothing else to offer.
func (k *Kernel) Mount() error {
	const offered = 1<<0 | 1<<5 | initDontMask | 1<<13 | 1<<14 | 1<<15 | 1<<18 | initPosixACL | initMaxPages | 1<<23 | initSetxattrExt | initExt
	in := msg().u32(7).u32(kernelMinor).u32(128 << 10).u32(offered).u32(initIomap).zeros(44)
	out, err := k.call(opInit, 0, Cred{}, in.b)
	if err != nil {
		return fmt.Errorf("INIT: %w", err)
	}
	if len(out) != 64 {
		return k.breach(fmt.Errorf("reply to INIT has %d bytes, want 64", len(out)))
	}
	major, minor, flags, flags2 := le.Uint32(out), le.Uint32(out[4:]), le.Uint32(out[12:]), le.Uint32(out[32:])
	switch {
	case major != 7:
		return k.breach(fmt.Errorf("INIT: major version is %d, want 7", major))
	case flags&initExt == 0 || flags2&initIomap == 0:
		return fmt.Errorf("INIT: the server does not speak iomap: flags %#x, flags2 %#x", flags, flags2)
	case minor < minorExclusive:
		return k.breach(fmt.Errorf("INIT: minor version is %d: below %d no inode ever uses iomap", minor, minorExclusive))
	}
	k.posixACL, k.dontMask, k.xattrExt = flags&initPosixACL != 0, flags&initDontMask != 0, flags&initSetxattrExt != 0
	k.iomapOn = true
	return k.configure()
}

// CONFIG's flags.
const (
	configSID = 1 << iota
	configUUID
	configBlockSize
	configMaxLinks
	configTime
	configMaxBytes
	configCacheMax
	configAll = 1<<7 - 1
)

func (k *Kernel) configure() error {
	in := msg().u64(configAll).u64(uint64(k.maxBytes)).u32(uint32(k.cacheMax)).zeros(44)
	out, err := k.call(opConfig, 0, Cred{}, in.b)
	if errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("CONFIG: %w", err)
	}
	bad := func(format string, args ...any) error {
		return k.breach(fmt.Errorf("CONFIG: %s: %w", fmt.Sprintf(format, args...), syscall.EINVAL))
	}
	var b [104]byte
	if copy(b[:], out) < len(out) {
		return bad("reply has %d bytes, want at most %d", len(out), len(b))
	}
	flags := le.Uint64(b[0:])
	switch {
	case flags&^configAll != 0:
		return bad("flags are %#x", flags)
	case b[56] > 16:
		return bad("uuid has %d bytes", b[56])
	case b[57]|b[58]|b[59] != 0:
		return bad("padding is not 0")
	}
	if flags&configBlockSize != 0 {
		bs := int64(le.Uint32(b[60:]))
		if bs < 512 || bs > 64<<10 || bs&(bs-1) != 0 {
			return bad("block size is %d", bs)
		}
		k.blockSize = bs
	}
	if flags&configTime != 0 {
		k.timeGran, k.timeMin, k.timeMax = le.Uint32(b[68:]), int64(le.Uint64(b[72:])), int64(le.Uint64(b[80:]))
		if k.timeGran < 1 || k.timeGran > 1e9 || k.timeMin > k.timeMax {
			return bad("times from %d to %d, granularity %d", k.timeMin, k.timeMax, k.timeGran)
		}
	}
	if flags&configMaxBytes != 0 {
		k.maxBytes = int64(le.Uint64(b[88:]))
		if k.maxBytes < 0 {
			return bad("largest size is %d", k.maxBytes)
		}
	}
	if n := int(le.Uint32(b[96:])); flags&configCacheMax != 0 && n != 0 {
		k.cacheMax = min(max(n, 256), 2<<20)
	}
	// The root is made up before INIT, and so it is never EXCLUSIVE.
	k.inodes[rootID] = &inode{k: k, nodeid: rootID, attrIno: rootID, typ: syscall.S_IFDIR, mode: syscall.S_IFDIR, nlookup: 1, acls: map[string]ACL{}}
	return nil
}

// BackingOpen is the BACKING_OPEN ioctl with type iomap: it registers dev and
// returns its backing id.
func (k *Kernel) BackingOpen(dev Device, readable, writable bool) (uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.iomapOn {
		return 0, syscall.EPERM
	}
	for id := uint32(1); id <= maxBackingID; id++ {
		if _, taken := k.devices[id]; !taken {
			k.devices[id] = backing{dev, readable, writable}
			return id, nil
		}
	}
	return 0, syscall.ENOSPC
}

// call sends a request and waits for its reply.
func (k *Kernel) call(op uint32, nodeid uint64, c Cred, body []byte) ([]byte, error) {
	name := opName(op)
	if k.opt.Fail != nil {
		if err := k.opt.Fail(name); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	k.counts[name]++
	k.mu.Unlock()
	cl := k.dev.send(op, nodeid, c, body, true)
	<-cl.done
	if k.opt.Trace != nil {
		k.opt.Trace(Event{Op: name, Opcode: op, NodeID: nodeid, Request: body, Reply: cl.reply, Err: cl.err})
	}
	return cl.reply, cl.err
}

// Counts returns how many requests of each kind were sent, by name ("BEGIN").
func (k *Kernel) Counts() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]int, len(k.counts))
	for name, n := range k.counts {
		out[name] = n
	}
	return out
}

// ResetCounts begins to count anew.
func (k *Kernel) ResetCounts() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.counts)
}

// Breaches returns what the server did that it must not, in order.
func (k *Kernel) Breaches() []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]error(nil), k.breaches...)
}

// breach remembers err and returns it.
func (k *Kernel) breach(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.breaches = append(k.breaches, err)
	return err
}

// pick returns a number below n.
func (k *Kernel) pick(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rng.IntN(n)
}

// unrest reports whether the kernel does something on its own now.
func (k *Kernel) unrest() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rng.Float64() < k.opt.Unrest
}

func (k *Kernel) env(in *inode) iomap.Env {
	k.mu.Lock()
	defer k.mu.Unlock()
	env := iomap.Env{
		BlockSize: uint64(k.blockSize), MaxBytes: uint64(k.maxBytes), HasCache: in.cache.has(),
		Devices: make(map[uint32]iomap.Device, len(k.devices)),
	}
	for id, d := range k.devices {
		env.Devices[id] = iomap.Device{Readable: d.readable, Writable: d.writable, Size: uint64(d.dev.Size())}
	}
	return env
}

// access reads or writes the data at addr of device id.
func (k *Kernel) access(id uint32, p []byte, addr uint64, write bool) error {
	k.mu.Lock()
	d, ok := k.devices[id]
	k.mu.Unlock()
	what := "read"
	if write {
		what = "write"
	}
	if k.opt.Fail != nil {
		if err := k.opt.Fail(what); err != nil {
			return err
		}
	}
	if !ok || addr > math.MaxInt64 || int64(addr)+int64(len(p)) > d.dev.Size() {
		return k.breach(fmt.Errorf("%s of %d bytes at %d lies outside device %d: %w", what, len(p), addr, id, syscall.EIO))
	}
	if write {
		_, err := d.dev.WriteAt(p, int64(addr))
		return err
	}
	_, err := d.dev.ReadAt(p, int64(addr))
	return err
}

// SyncFS is sync(2): everything is written back, and then the server told.
func (k *Kernel) SyncFS() error {
	var first error
	for _, in := range k.all() {
		if err := in.syncInCore(); err != nil && first == nil {
			first = err
		}
	}
	if !k.noSyncfs.Load() {
		_, err := k.call(opSyncfs, rootID, Cred{}, msg().u64(0).b)
		if errors.Is(err, syscall.ENOSYS) {
			k.noSyncfs.Store(true)
		} else if err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Freeze is FIFREEZE, and Thaw FITHAW.
func (k *Kernel) Freeze() error {
	if err := k.SyncFS(); err != nil {
		return err
	}
	unlinked := 0
	for _, in := range k.all() {
		if in.isUnlinked() {
			unlinked++
		}
	}
	_, err := k.call(opFreeze, rootID, Cred{}, msg().u64(uint64(unlinked)).b)
	if errors.Is(err, syscall.ENOSYS) {
		return syscall.EOPNOTSUPP
	}
	k.frozen.Store(err == nil)
	return err
}

// Thaw ends a freeze.
func (k *Kernel) Thaw() error {
	k.frozen.Store(false)
	_, err := k.call(opUnfreeze, rootID, Cred{}, nil)
	if errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return err
}

// Unmount writes everything back, sends DESTROY, waits for its reply and ends
// the connection. Inodes are not forgotten one by one: DESTROY stands for that.
// Open files must have been closed.
func (k *Kernel) Unmount() error {
	var first error
	if k.pick(2) == 0 { // sync(2) comes in between, or not
		first = k.SyncFS()
	}
	for _, in := range k.all() {
		if err := in.syncInCore(); err != nil && first == nil {
			first = err
		}
	}
	_, err := k.call(opDestroy, 0, Cred{}, nil)
	k.dev.abort()
	if first == nil {
		first = err
	}
	return first
}

// Kill ends the connection at once: nothing is written back, nobody is told.
func (k *Kernel) Kill() { k.dev.abort() }

package simkernel

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"e4go/iomap"
)

// inode is an in-core inode.
type inode struct {
	k       *Kernel
	nodeid  uint64 // immutable
	attrIno uint64 // immutable: the attr.ino of the reply that made it
	typ     uint32 // immutable: S_IFREG and so on
	gen     uint64 // immutable: the generation

	mode uint32 // guarded by mu

	exclusive, onIomap, atomic bool // immutable: the flags of that reply

	rw    sync.RWMutex // i_rwsem
	inval sync.RWMutex // the invalidate lock: faults take it shared

	mu       sync.Mutex
	size     int64            // guarded by mu: i_size
	diskSize int64            // guarded by mu: what the server is believed to have
	nlookup  uint64           // guarded by mu
	nlink    uint32           // guarded by mu
	uid, gid uint32           // guarded by mu
	blocks   uint64           // guarded by mu
	rdev     uint32           // guarded by mu
	atime    Time             // guarded by mu
	mtime    Time             // guarded by mu
	ctime    Time             // guarded by mu
	timeless bool             // guarded by mu: the times are not at the server yet
	dirtier  Cred             // guarded by mu: who has changed them
	acls     map[string]ACL   // guarded by mu: those that are known
	opens    int              // guarded by mu
	folios   map[int64]*folio // guarded by mu: by the number of each of the smallest folios in them
	wbErr    error            // guarded by mu: of write-back, for the next fsync
	pending  []*ioend         // guarded by mu: submitted, not completed
	written  sync.Cond        // on mu: pending has grown, or a folio's writing has changed
	bad      bool             // guarded by mu: a reply was nonsense; everything fails with EIO

	sending sync.Mutex // over each SETATTR, so that none with older times comes later (I_SYNC)

	life sync.RWMutex // shared by who finds it in core and works on it; exclusive for eviction
	gone bool         // guarded by life: evicted

	complete sync.Mutex // taken to complete what is pending
	cache    mapCache
}

// instantiate returns the in-core inode that e names, which the reply has
// made one lookup more of. The flags count only if it is new.
func (k *Kernel) instantiate(e entry) (*inode, error) {
	const fileType = syscall.S_IFMT
	if e.nodeid == 0 {
		return nil, syscall.ENOENT
	}
	k.mu.Lock()
	in := k.inodes[e.nodeid]
	if in == nil {
		a := e.attr
		in = &inode{
			k: k, nodeid: e.nodeid, attrIno: a.Ino, mode: a.Mode, typ: a.Mode & fileType, gen: e.generation,
			exclusive: a.Flags&attrExclusive != 0,
			size:      int64(a.Size), diskSize: int64(a.Size),
			atime: a.Atime, mtime: a.Mtime, ctime: a.Ctime, folios: map[int64]*folio{}, acls: map[string]ACL{},
		}
		in.written.L = &in.mu
		in.onIomap = in.exclusive && a.Flags&attrIomap != 0 && a.Mode&fileType == syscall.S_IFREG
		in.atomic = in.onIomap && a.Flags&attrAtomic != 0
		k.inodes[e.nodeid] = in
	}
	k.mu.Unlock()
	in.mu.Lock()
	in.nlookup++
	in.mu.Unlock()
	if in.typ == syscall.S_IFREG && !in.onIomap {
		k.breach(fmt.Errorf("node %d: regular file without EXCLUSIVE|IOMAP (flags %#x)", e.nodeid, e.attr.Flags))
	}
	if in.attrIno != e.attr.Ino {
		k.breach(fmt.Errorf("node %d: attr.ino was %d and is %d now", e.nodeid, in.attrIno, e.attr.Ino))
	}
	if in.gen != e.generation {
		k.breach(fmt.Errorf("node %d: generation was %d and is %d now, and so it is another file, while this one is in use", e.nodeid, in.gen, e.generation))
	}
	return in, in.apply(e.attr)
}

// apply takes attributes from a reply. The size and times of a file on iomap
// are the kernel's own.
func (in *inode) apply(a Attr) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if a.Mode&syscall.S_IFMT != in.typ || int64(a.Size) < 0 {
		in.bad = true
		return in.k.breach(fmt.Errorf("node %d: attributes with mode %o and size %d: %w", in.nodeid, a.Mode, int64(a.Size), syscall.EIO))
	}
	in.mode, in.nlink, in.uid, in.gid, in.blocks, in.rdev = a.Mode, a.Nlink, a.UID, a.GID, a.Blocks, a.Rdev
	if in.onIomap {
		// The server's size is stored, and then the in-core one over it.
		in.diskSize = in.size
		return nil
	}
	in.size, in.diskSize = int64(a.Size), int64(a.Size)
	in.atime, in.mtime, in.ctime = a.Atime, a.Mtime, a.Ctime
	return nil
}

func (in *inode) isBad() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bad
}

func (in *inode) isUnlinked() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.nlink == 0 && in.typ != syscall.S_IFDIR
}

// i_size.
func (in *inode) isize() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.size
}

func (in *inode) setSize(n int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.size = n
}

// all returns the inodes in core, by node id.
func (k *Kernel) all() []*inode {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*inode
	for _, in := range k.inodes {
		out = append(out, in)
	}
	slices.SortFunc(out, func(a, b *inode) int { return int(int64(a.nodeid) - int64(b.nodeid)) })
	return out
}

// sync writes the inode's data and times back, and waits.
func (in *inode) sync() error {
	if !in.onIomap {
		return nil
	}
	err := in.writeback(0, in.k.maxBytes)
	if terr := in.flushTimes(); err == nil {
		err = terr
	}
	return err
}

// syncInCore is sync for who has not got the inode from a name or a file: it
// may be evicted just now, after which nothing of it is sent.
func (in *inode) syncInCore() error {
	in.life.RLock()
	defer in.life.RUnlock()
	if in.gone {
		return nil
	}
	return in.sync()
}

// takeError returns what write-back has failed with since it was last asked.
func (in *inode) takeError() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	err := in.wbErr
	in.wbErr = nil
	return err
}

// evict drops in, if it is not open. A file without a name takes its dirty
// data with it.
func (in *inode) evict() error {
	in.mu.Lock()
	busy := in.opens > 0 || in.nodeid == rootID
	unlinked := in.nlink == 0
	in.mu.Unlock()
	if busy {
		return nil
	}
	in.life.Lock()
	defer in.life.Unlock()
	if in.gone {
		return nil
	}
	in.gone = true
	var err error
	if !unlinked {
		err = in.sync()
	}
	in.wait()
	in.k.mu.Lock()
	delete(in.k.inodes, in.nodeid)
	for key, d := range in.k.dentries { // names that a directory which is deleted did not have
		if key.dir == in.nodeid || d.in == in {
			delete(in.k.dentries, key)
		}
	}
	in.k.mu.Unlock()
	in.mu.Lock()
	n := in.nlookup
	in.nlookup, in.folios = 0, map[int64]*folio{}
	in.mu.Unlock()
	in.k.mu.Lock()
	in.k.counts["FORGET"]++
	in.k.mu.Unlock()
	in.k.dev.send(opForget, in.nodeid, Cred{}, msg().u64(n).b, false)
	return err
}

// notify takes a notification, and returns what write(2) does.
func (k *Kernel) notify(code iomap.NotifyCode, b []byte) error {
	want := map[iomap.NotifyCode]int{
		iomap.NotifyDevInval: 24, iomap.NotifyUpsertMappings: 80, iomap.NotifyInvalMappings: 48,
	}[code]
	if want == 0 || len(b) != want {
		return k.breach(fmt.Errorf("notification %s with %d bytes, want %d: %w", code, len(b), want, syscall.EINVAL))
	}
	if !k.iomapOn {
		return syscall.EINVAL
	}
	k.mu.Lock()
	k.counts[code.String()]++
	k.mu.Unlock()
	if code == iomap.NotifyDevInval {
		return k.devInval(le.Uint32(b), le.Uint64(b[8:]), le.Uint64(b[16:]))
	}
	k.mu.Lock()
	in := k.inodes[le.Uint64(b)]
	k.mu.Unlock()
	switch {
	case in == nil:
		return syscall.ESTALE
	case in.isBad():
		return syscall.EIO
	case le.Uint64(b[8:]) != in.attrIno, k.opt.Version >= iomap.V8 && !in.onIomap:
		return k.breach(fmt.Errorf("notification %s for node %d names attr.ino %d, want %d, of a file on iomap: %w",
			code, in.nodeid, le.Uint64(b[8:]), in.attrIno, syscall.EINVAL))
	}
	if code == iomap.NotifyInvalMappings {
		inv := iomap.Inval{
			Read:  iomap.Range{Offset: le.Uint64(b[16:]), Length: le.Uint64(b[24:])},
			Write: iomap.Range{Offset: le.Uint64(b[32:]), Length: le.Uint64(b[40:])},
		}
		if vs := iomap.ValidateInval(k.opt.Version, inv, k.env(in)); len(vs) > 0 {
			k.breach(fmt.Errorf("invalidation %+v of node %d: %w", inv, in.nodeid, vs.Err()))
			return vs.Errno()
		}
		in.cache.invalidate(inv)
		return nil
	}
	u := iomap.Upsert{Read: readMapping(b[16:]), Write: readMapping(b[48:])}
	if vs := iomap.ValidateUpsert(k.opt.Version, u, k.env(in)); len(vs) > 0 {
		if !errors.Is(vs.Err(), syscall.EINVAL) { // EINVAL is "declined"
			k.breach(fmt.Errorf("upsert of node %d, read %v, write %v: %w", in.nodeid, u.Read, u.Write, vs.Err()))
		}
		return vs.Errno()
	}
	in.cache.upsert(u, k.cacheMax)
	return nil
}

// devInval drops a range of the device's own page cache, if it has one.
func (k *Kernel) devInval(id uint32, off, length uint64) error {
	k.mu.Lock()
	d, ok := k.devices[id]
	k.mu.Unlock()
	size := uint64(0)
	if ok {
		size = uint64(d.dev.Size())
	}
	if !ok || off >= size || length > size-off {
		return k.breach(fmt.Errorf("invalidation of bytes %d+%d of device %d, which has %d: %w", off, length, id, size, syscall.EINVAL))
	}
	if c, ok := d.dev.(interface{ Invalidate(off, length int64) }); ok {
		c.Invalidate(int64(off), int64(length))
	}
	return nil
}

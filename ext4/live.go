package ext4

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"e4go/ext4/disk"
)

// stripes is how many counters the inodes, and the blocks, share. Two that
// share one cost a needless retry now and then.
const stripes = 4096

// live is what readers and the writer of a file system share: the blocks that
// have changed and are not in their places on the device yet, and counters by which
// a reader sees that what it read has changed under it.
//
// A reader takes no lock for longer than a look into the map, and never waits
// for an update or a commit. It notes the counter of the inode, reads, and
// reads again if the counter has moved ([Inode.stable]). What it loads from the device
// goes into the cache only if the block's counter stands where it stood
// before ([live.keep]).
type live struct {
	mu     sync.RWMutex
	blocks map[disk.PBlock]liveBlock // guarded by mu
	dirty  map[disk.Ino]liveInode    // guarded by mu: inodes, as blocks

	inodes [stripes]atomic.Uint32 // odd while one of these inodes is being published
	loads  [stripes]atomic.Uint32 // changes with each of these blocks; written under mu
}

// liveBlock is a block of metadata as transaction tx leaves it.
type liveBlock struct {
	data  []byte // immutable
	tx    *transaction
	kind  kind     // what it was written as, and is valid as
	owner disk.Ino // whom it belongs to: see [FS.meta]
}

// liveInode is an inode as transaction tx leaves it. Its block of the inode
// table is put together when the transaction is frozen.
type liveInode struct {
	in *Inode
	tx *transaction
}

func newLive() *live {
	return &live{blocks: make(map[disk.PBlock]liveBlock), dirty: make(map[disk.Ino]liveInode)}
}

func (l *live) ofInode(ino disk.Ino) *atomic.Uint32 { return &l.inodes[uint32(ino)%stripes] }

func (l *live) ofBlock(n disk.PBlock) *atomic.Uint32 { return &l.loads[uint64(n)%stripes] }

// get returns block n as it is now, if the device does not have that; data is
// nil if it has.
func (l *live) get(n disk.PBlock) liveBlock {
	if l == nil {
		return liveBlock{}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.blocks[n]
}

// inode returns inode ino as it is now, or nil if the inode table on the
// device, or the cache, has that.
func (l *live) inode(ino disk.Ino) *Inode {
	if l == nil {
		return nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dirty[ino].in
}

// mark is to be taken before block n is looked for, for [live.keep].
func (l *live) mark(n disk.PBlock) uint32 {
	if l == nil {
		return 0
	}
	return l.ofBlock(n).Load()
}

// keep calls put, which caches what was made of block n, unless the block has
// changed since mark.
func (l *live) keep(n disk.PBlock, mark uint32, put func()) {
	if l == nil {
		put()
		return
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.ofBlock(n).Load() == mark {
		put()
	}
}

// retire moves to the cache what no transaction after tx has changed: it is in
// its place.
func (l *live) retire(tx *transaction, c *cache) {
	l.mu.RLock() // no update is published meanwhile
	for n := range tx.blocks {
		if b := l.blocks[n]; b.tx == tx {
			for _, k := range kindsLike(b.kind) {
				if k == b.kind && k.isDir() || k == kindItable {
					c.put(k, uint64(n), &block{b.data, b.owner})
				} else if k != kindMapLeaf && k != kindMapIndex {
					c.drop(k, uint64(n))
				}
			}
		}
	}
	for ino := range tx.inodes {
		if i := l.dirty[ino]; i.tx == tx {
			if i.in.disk.Links > 0 {
				c.put(kindInode, uint64(ino), i.in)
			} else {
				c.drop(kindInode, uint64(ino))
			}
		}
	}
	l.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range tx.blocks {
		if l.blocks[n].tx == tx {
			delete(l.blocks, n)
		}
	}
	for ino := range tx.inodes {
		if l.dirty[ino].tx == tx {
			delete(l.dirty, ino)
		}
	}
}

// stableTries is how often a reader tries before it keeps updates out.
const stableTries = 32

// stable calls fn with the inode as it is now, again if what belongs to it
// has changed meanwhile, or if it finds something corrupt. fn must not mind: it starts over. It
// fails with a wrapped ESTALE if the number is another inode's by now.
func (in *Inode) stable(fn func(*Inode) error) error {
	l := in.fs.live
	if l == nil || in.tx != nil {
		return fn(in)
	}
	seq := l.ofInode(in.ino)
	for range stableTries {
		before := seq.Load()
		if before&1 != 0 {
			runtime.Gosched()
			continue
		}
		now, err := in.current()
		if err == nil {
			err = fn(now)
		}
		if seq.Load() != before {
			continue
		}
		if in.fs.outer != nil || !errors.Is(err, disk.ErrCorrupt) {
			return err
		}
		break
	}
	return in.still(fn)
}

// still calls fn with the inode as it is now, while updates are kept out. What
// is corrupt then is put on record, and leads to what [Options].Errors says.
func (in *Inode) still(fn func(*Inode) error) error {
	rw := in.fs.rw
	fatal, err := func() (bool, error) {
		rw.mu.Lock()
		defer rw.mu.Unlock()
		now, err := in.current()
		if err == nil {
			err = fn(now)
		}
		var bad *disk.CorruptError
		// What is frozen is not changed. Whoever meets it later puts it on record.
		return errors.As(err, &bad) && rw.failed == nil && !rw.frozen && rw.corruptLocked(bad), err
	}()
	if fatal {
		rw.abort(err)
	}
	return err
}

// current is the inode as it was published last.
func (in *Inode) current() (*Inode, error) {
	if in.fs.live == nil || in.tx != nil {
		return in, nil
	}
	now, err := in.fs.Inode(in.ino)
	if err == nil && now.disk.Generation != in.disk.Generation {
		return nil, in.stale()
	}
	return now, err
}

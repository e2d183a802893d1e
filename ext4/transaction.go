package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"e4go/ext4/disk"
	"e4go/ext4/jbd2"

	"golang.org/x/sys/unix"
)

// writer is what a file system has that is open for writing.
type writer struct {
	fs  *FS          // immutable
	log *jbd2.Writer // immutable; nil without a journal. Belongs to the committer, under commitMu
	now func() time.Time

	written atomic.Uint64 // bytes, to the file system's device

	zones zones // immutable
	view  view  // immutable: what updates see

	// mu makes updates run one at a time. Readers do not take it.
	mu         sync.Mutex
	spare      *Handle                 // guarded by mu: for the next update
	changed    *sync.Cond              // of mu: a transaction was frozen, or has become durable
	running    *transaction            // guarded by mu
	committing *transaction            // guarded by mu; nil while no commit is in progress
	groups     map[disk.Group]*group   // guarded by mu
	descs      map[uint64]*descBlock   // guarded by mu
	open       map[disk.Ino]*openInode // guarded by mu
	orphans    map[disk.Ino]orphanSlot // guarded by mu
	super      disk.Superblock         // guarded by mu: as the next transaction writes it
	failed     error                   // guarded by mu: why nothing is written any more
	noted      *disk.CorruptError      // guarded by mu: the corruption that was dealt with last
	ended      bool                    // guarded by mu: not even that, see [writer.end]
	free       uint64                  // guarded by mu: clusters that can be allocated now
	freeDisk   uint64                  // guarded by mu: clusters that the bitmaps have as free
	freeInodes uint32                  // guarded by mu
	closed     bool                    // guarded by mu: there are no more updates
	frozen     bool                    // guarded by mu: updates wait
	longest    map[disk.Group]uint32   // guarded by mu: of groups that are not in groups any more
	groupBytes int                     // guarded by mu: size of the bitmaps in groups
	shrinkAt   int                     // guarded by mu: groupBytes at which some are dropped
	commits    uint64                  // guarded by mu: how many have ended
	tick       uint64                  // guarded by mu: counts updates and reservations
	discarding bool                    // guarded by mu: free clusters are reserved while the device discards them

	closeMu  sync.Mutex      // held while the file system is closed, frozen or thawed; outside all others
	commitMu sync.Mutex      // held over a commit; outside mu
	trimMu   sync.Mutex      // held over a discard of free clusters; outside commitMu
	inodeMu  [256]inodeMutex // by inode number: one change of contents at a time; outside commitMu
	wake     chan struct{}
	stop     chan struct{}
	done     chan struct{}

	// What inodes can share, by h_hash and by the hash of the value.
	xattrBlocks hashIndex[disk.PBlock] // guarded by mu
	eaInodes    hashIndex[disk.Ino]    // guarded by mu
}

// view is the file system, and the device, as updates see them.
type view struct {
	fs *FS
	*updateDevice
}

// A transaction is the updates that become durable together.
type transaction struct {
	blocks  map[disk.PBlock][]byte
	revoked map[disk.PBlock]struct{}
	groups  map[disk.Group]changes
	inodes  map[disk.Ino]*Inode    // as the last update left them
	tables  map[disk.PBlock][]byte // the blocks of the inode table that hold these, as they were before
	frees   []run                  // clusters that may be used again when it is durable
	super   bool
	updates int
	durable chan struct{} // closed when it is, or has failed
	err     error         // immutable once durable is closed
}

// changes says which bitmaps of a group a transaction changes.
type changes uint8

const (
	blocksChanged changes = 1 << iota
	inodesChanged
)

func newTransaction() *transaction {
	return &transaction{
		blocks: make(map[disk.PBlock][]byte), revoked: make(map[disk.PBlock]struct{}),
		groups: make(map[disk.Group]changes), inodes: make(map[disk.Ino]*Inode), tables: make(map[disk.PBlock][]byte), durable: make(chan struct{}),
	}
}

func (tx *transaction) empty() bool { return tx.updates == 0 && !tx.super }

// size is how many blocks the transaction takes in the log, at most.
func (tx *transaction) size() int {
	return len(tx.blocks) + len(tx.tables) + 3*len(tx.groups) + len(tx.revoked)/100 + 2
}

// maxTransaction bounds the memory that a transaction takes, in bytes.
const maxTransaction = 32 << 20

// room is how many blocks a transaction can have.
func (rw *writer) room() int {
	most := maxTransaction >> rw.fs.sb.BlockBits()
	if rw.log != nil {
		most = min(most, rw.log.Room())
	}
	return most
}

// handleRoom is how many of them one update can have. A transaction that has
// no room left for that many takes no more updates.
func (rw *writer) handleRoom() int { return rw.room() / 2 }

// fullLocked reports whether the running transaction takes no more updates.
func (rw *writer) fullLocked() bool { return rw.running.size() > rw.room()-rw.handleRoom() }

// waitLocked waits while the file system is frozen, or what is full, which the
// next commit changes.
func (rw *writer) waitLocked(ctx context.Context, full func() bool) error {
	for waited := false; ; waited = true {
		switch {
		case rw.failed != nil || rw.closed:
			return rw.readOnlyLocked()
		case ctx.Err() != nil:
			return ctx.Err()
		case rw.frozen:
		case !full():
			return nil
		default:
			rw.kick()
		}
		if !waited {
			defer context.AfterFunc(ctx, func() {
				rw.mu.Lock()
				defer rw.mu.Unlock()
				rw.changed.Broadcast()
			})()
		}
		rw.changed.Wait()
	}
}

// readOnlyLocked says why nothing can be changed, or nil.
func (rw *writer) readOnlyLocked() error {
	switch {
	case rw.fs.stopped() != nil:
		return ErrShutdown
	case rw.failed != nil:
		return fmt.Errorf("%w (after %v)", ErrReadOnly, rw.failed)
	case rw.closed:
		return ErrReadOnly
	}
	return nil
}

// publishedLocked is called when an update has joined the running transaction.
func (rw *writer) publishedLocked() {
	rw.running.updates++
	if rw.running.size() > (rw.room()-rw.handleRoom())/2 && rw.committing == nil {
		rw.kick()
	}
}

// kick lets the committer commit what is running.
func (rw *writer) kick() {
	select {
	case rw.wake <- struct{}{}:
	default:
	}
}

// commitLoop commits when it is asked to, and every interval.
func (rw *writer) commitLoop(interval time.Duration) {
	defer close(rw.done)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-rw.stop:
			return
		case <-tick.C:
		case <-rw.wake:
		}
		rw.commitAlone()
	}
}

// commitAlone commits where nobody is called by. Whoever waits for it is told
// by the transaction.
func (rw *writer) commitAlone() {
	defer func() {
		if v := recover(); v != nil {
			rw.fs.Fail(&FaultError{v, debug.Stack()})
		}
	}()
	_ = rw.commit()
}

// commit makes durable what has been published so far.
func (rw *writer) commit() (err error) {
	rw.commitMu.Lock()
	defer rw.commitMu.Unlock()
	if idle, err := rw.idle(); idle {
		return err
	}
	super, err := rw.readSuper()
	tx, t, err := rw.takeRunning(super, err)
	if tx == nil {
		return err
	}
	defer func() {
		if v := recover(); v != nil { // many wait for the commit, and all of them are told
			err = &FaultError{v, debug.Stack()}
		}
		if rw.committed(tx, err) {
			rw.abortCommitting(err)
		}
	}()
	if t != nil {
		err = rw.writeOut(t)
	}
	if err == nil && rw.fs.opts.Discard {
		rw.discardFreed(tx.frees)
	}
	return err
}

// idle reports whether there is nothing to commit, or nothing more will be, and
// why.
func (rw *writer) idle() (bool, error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	return rw.failed != nil || rw.running.empty(), rw.failed
}

// takeRunning makes the running transaction the committing one, and returns it
// and what it writes, nil if that cannot be put together. It returns no transaction if nothing
// more is written.
// super is the block of the superblock as it is, or why it could not be read.
func (rw *writer) takeRunning(super jbd2.Block, superErr error) (tx *transaction, t *jbd2.Transaction, err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if tx = rw.running; rw.failed != nil {
		return nil, nil, rw.failed
	}
	if err = superErr; err == nil {
		t, err = rw.freezeLocked(tx, super)
	}
	rw.committing, rw.running = tx, newTransaction()
	rw.changed.Broadcast() // there is room again
	return tx, t, err
}

// committed is called when the commit of tx has ended. It reports whether
// writing has ended with it, and [writer.abortCommitting] is to be called.
func (rw *writer) committed(tx *transaction, err error) (failed bool) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.committing = nil
	tx.err = err
	close(tx.durable)
	if err != nil {
		// What is published stays to be read; what the device holds nobody knows.
		rw.failLocked(err)
		return true
	}
	rw.commits++
	rw.fs.live.retire(tx, rw.fs.cache)
	rw.releaseLocked(tx.frees)
	rw.shrinkCommitted()
	rw.changed.Broadcast()
	return false
}

// freezeLocked is what tx writes: its blocks, the bitmaps and descriptors of
// its groups, and super with the superblock as it shall be.
func (rw *writer) freezeLocked(tx *transaction, super jbd2.Block) (*jbd2.Transaction, error) {
	t := &jbd2.Transaction{Blocks: make([]jbd2.Block, 0, tx.size())}
	rw.freezeInodes(tx)
	if err := rw.freezeGroups(tx); err != nil {
		return nil, err
	}
	for n, data := range tx.blocks {
		t.Blocks = append(t.Blocks, jbd2.Block{N: n, Data: data})
	}
	rw.putSuper(&rw.super, super.Data[int(rw.fs.super.at)%rw.fs.sb.BlockSize():][:disk.SuperblockSize])
	t.Blocks = append(t.Blocks, super)
	for n := range tx.revoked {
		t.Revokes = append(t.Revokes, n)
	}
	return t, nil
}

// freezeInodes adds to tx the blocks of the inode table that hold its inodes.
func (rw *writer) freezeInodes(tx *transaction) {
	for n, data := range tx.tables {
		tx.tables[n] = bytes.Clone(data)
	}
	for _, in := range tx.inodes {
		copy(tx.tables[in.block][in.off:], in.raw)
	}
	l := rw.fs.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, data := range tx.tables {
		tx.blocks[n] = data
		l.ofBlock(n).Add(1)
		l.blocks[n] = liveBlock{data: data, tx: tx, kind: kindItable}
	}
}

// readSuper is the block of the superblock as the device has it.
func (rw *writer) readSuper() (jbd2.Block, error) {
	b := jbd2.Block{N: rw.fs.super.block(), Data: make([]byte, rw.fs.sb.BlockSize())}
	return b, rw.fs.readBlocks(b.Data, b.N)
}

// putSuper writes a superblock, with the counts as they are, over raw.
func (rw *writer) putSuper(sb *disk.Superblock, raw []byte) {
	sb.FreeBlocks, sb.FreeInodes, sb.Wtime = rw.freeDisk<<sb.ClusterBits(), rw.freeInodes, rw.now().Unix()
	sb.KBytesWritten = rw.fs.sb.KBytesWritten + rw.written.Load()>>10 // what all writers have written
	sb.Put(raw)
	if sb.MetadataCsum() {
		sb.Checksum = disk.SuperblockChecksum(raw)
		sb.Put(raw)
	}
}

// writeOut makes a transaction durable.
func (rw *writer) writeOut(t *jbd2.Transaction) error {
	if rw.log != nil {
		_, err := rw.log.Commit(t)
		return err
	}
	// Without a journal a power cut here leaves what e2fsck has to mend, which the
	// superblock says all the time (its state is not clean). What it will not find is
	// metadata that show blocks before these hold what was written to them.
	if err := rw.fs.dev.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	slices.SortFunc(t.Blocks, func(a, b jbd2.Block) int { return int(int64(a.N) - int64(b.N)) })
	for _, b := range t.Blocks {
		if _, err := rw.fs.dev.WriteAt(b.Data, int64(b.N)<<rw.fs.sb.BlockBits()); err != nil {
			return fmt.Errorf("write block %d: %w", b.N, err)
		}
	}
	if err := rw.fs.dev.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// failLocked ends writing. What the running transaction has will not be on the
// device.
func (rw *writer) failLocked(err error) {
	if rw.failed == nil {
		rw.failed = err
	}
	defer rw.changed.Broadcast()
	if !rw.running.empty() {
		rw.running.err = rw.failed
		close(rw.running.durable)
		rw.running = newTransaction()
	}
}

// Sync makes durable all that was done before.
func (fs *FS) Sync() error {
	if fs.rw == nil {
		return nil
	}
	if err := fs.rw.commit(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return fs.flush()
}

// flush makes durable the data that were written to blocks in use already. If
// it fails, writing ends: what transactions have written to their places may be lost
// too, and no later flush would tell (jbd2_check_fs_dev_write_error).
func (fs *FS) flush() error {
	err := fs.dev.Flush()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("flush: %w", err)
	fs.rw.mu.Lock()
	fs.rw.failLocked(err)
	fs.rw.mu.Unlock()
	fs.rw.abort(err)
	return err
}

// Fsync makes inode ino durable: its contents, and what leads to them. It
// waits for the commit of the last transaction that changed the inode, if that is not
// done yet, and for nothing else. With dataOnly, changes of times alone may be left out.
func (fs *FS) Fsync(ino disk.Ino, dataOnly bool) error {
	rw := fs.rw
	if rw == nil {
		return nil
	}
	rw.mu.Lock()
	failed, waitFor := rw.failed, rw.committing
	_, inRunning := rw.running.inodes[ino]
	if inRunning {
		waitFor = rw.running
	} else if waitFor != nil {
		if _, ok := waitFor.inodes[ino]; !ok {
			waitFor = nil
		}
	}
	if inRunning {
		rw.kick()
	}
	rw.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("fsync inode %d: %w", ino, errors.Join(unix.EIO, failed))
	}
	if waitFor == nil {
		return fs.flush()
	}
	<-waitFor.durable
	if waitFor.err != nil {
		return fmt.Errorf("fsync inode %d: %w", ino, errors.Join(unix.EIO, waitFor.err))
	}
	if !inRunning {
		// Data may have been written since it began to commit.
		return fs.flush()
	}
	return nil
}

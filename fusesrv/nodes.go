package fusesrv

import (
	"context"
	"fmt"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// nodes counts what the kernel knows: an inode that it holds is in use, so
// that one whose last name is deleted goes away when the kernel forgets it, and not
// before. Where nothing is written nothing is counted.
type nodes struct {
	fs     *ext4.FS     // immutable
	failed func(error)  // immutable: told what nobody waits for
	guard  func(func()) // immutable: what each release is made in

	mu     sync.Mutex
	counts map[disk.Ino]uint64 // guarded by mu: how often each was told to the kernel
	gone   []disk.Ino          // guarded by mu: forgotten, to be released; without a limit: see forget
	more   sync.Cond           // on mu: gone has grown, or closed is set
	closed bool                // guarded by mu
	done   chan struct{}       // closed when run has ended
}

// newNodes starts a goroutine, which close ends.
func newNodes(fs *ext4.FS, failed func(error), guard func(func())) *nodes {
	n := &nodes{fs: fs, failed: failed, guard: guard}
	if fs.Writable() {
		n.counts = make(map[disk.Ino]uint64)
		n.more.L = &n.mu
		n.done = make(chan struct{})
		go n.run()
	}
	return n
}

// told notes that the kernel is told of ino. It fails if the inode was deleted
// just now.
func (n *nodes) told(ino disk.Ino) error {
	if n.counts == nil || ino == disk.RootIno {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.counts[ino] == 0 {
		if err := n.fs.Open(ino); err != nil {
			return err
		}
	}
	n.counts[ino]++
	return nil
}

// forget undoes told, times times. The last may delete the inode, here and now: nobody waits for
// the end of a request that forgets, and another goroutine would cost more than most files do. But while the file system
// is frozen nothing is deleted, and those who read requests must be there to hear that it is thawed.
func (n *nodes) forget(ino disk.Ino, times uint64) {
	if n.counts == nil {
		return
	}
	n.mu.Lock()
	have, ok := n.counts[ino]
	last := ok && have <= times
	if last {
		delete(n.counts, ino)
	} else if ok {
		n.counts[ino] = have - times
	}
	n.mu.Unlock()
	switch {
	case !last:
	case n.fs.Frozen():
		n.release(ino)
	default:
		n.undo(ino)
	}
}

// undo undoes an Open of ino. A failure leaves the inode on the orphan record.
func (n *nodes) undo(ino disk.Ino) {
	n.guard(func() {
		if err := n.fs.Release(context.Background(), ino); err != nil {
			n.failed(fmt.Errorf("delete inode %d: %w", ino, err))
		}
	})
}

// release has run undo an Open of ino.
func (n *nodes) release(ino disk.Ino) {
	if n.counts == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.releaseLocked(ino)
}

func (n *nodes) releaseLocked(ino disk.Ino) {
	n.gone = append(n.gone, ino)
	n.more.Signal()
}

// run releases what nobody waits for.
func (n *nodes) run() {
	defer close(n.done)
	for {
		n.mu.Lock()
		for len(n.gone) == 0 && !n.closed {
			n.more.Wait()
		}
		list := n.gone
		n.gone = nil
		n.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, ino := range list {
			n.undo(ino)
		}
	}
}

// close releases everything, when the kernel asks no more.
func (n *nodes) close() {
	if n.counts == nil {
		return
	}
	n.mu.Lock()
	for ino := range n.counts {
		n.releaseLocked(ino)
	}
	clear(n.counts)
	n.closed = true
	n.more.Signal()
	n.mu.Unlock()
	<-n.done
}

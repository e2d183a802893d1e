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
	fs     *ext4.FS    // immutable
	failed func(error) // immutable: told what nobody waits for

	mu     sync.Mutex
	counts map[disk.Ino]uint64 // guarded by mu: how often each was told to the kernel
	gone   chan disk.Ino       // forgotten, to be released
	done   chan struct{}       // closed when run has ended
}

func newNodes(fs *ext4.FS, failed func(error)) *nodes {
	n := &nodes{fs: fs, failed: failed}
	if fs.Writable() {
		n.counts = make(map[disk.Ino]uint64)
		n.gone = make(chan disk.Ino, 1024)
		n.done = make(chan struct{})
	}
	return n
}

// start starts to release. guard is what each call into the file system is made in.
func (n *nodes) start(guard func(func())) {
	if n.counts != nil {
		go n.run(guard)
	}
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

// forget undoes told, times times.
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
	if last {
		n.gone <- ino
	}
}

// run releases what was forgotten, which may mean to delete it. The request
// that forgets has no reply, and is not kept waiting.
func (n *nodes) run(guard func(func())) {
	defer close(n.done)
	for ino := range n.gone {
		// A failure leaves the inode on the orphan record.
		guard(func() {
			if err := n.fs.Release(context.Background(), ino); err != nil {
				n.failed(fmt.Errorf("delete inode %d: %w", ino, err))
			}
		})
	}
}

// close releases everything, when the kernel asks no more.
func (n *nodes) close() {
	if n.counts == nil {
		return
	}
	n.mu.Lock()
	for ino := range n.counts {
		n.gone <- ino
	}
	clear(n.counts)
	n.mu.Unlock()
	close(n.gone)
	<-n.done
}

package ext4

import (
	"context"
	"fmt"

	"e4go/ext4/disk"
)

// An inodeMutex is held over a change of an inode's contents, which takes as
// long as the device does: who waits for it can give up. It is full while it is held.
type inodeMutex chan struct{}

// lock fails with the error of ctx if that ends first.
func (m inodeMutex) lock(ctx context.Context) error {
	if m.tryLock() {
		return nil
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m inodeMutex) tryLock() bool {
	select {
	case m <- struct{}{}:
		return true
	default:
		return false
	}
}

func (m inodeMutex) unlock() { <-m }

// inodeLock is the mutex of inode ino, and of others.
func (rw *writer) inodeLock(ino disk.Ino) inodeMutex {
	return rw.inodeMu[uint32(ino)%uint32(len(rw.inodeMu))]
}

// lockInode locks the mutex of inode ino, which is to be unlocked.
func (rw *writer) lockInode(ctx context.Context, ino disk.Ino) (inodeMutex, error) {
	mu := rw.inodeLock(ino)
	if err := mu.lock(ctx); err != nil {
		return nil, fmt.Errorf("wait for inode %d: %w", ino, err)
	}
	return mu, nil
}

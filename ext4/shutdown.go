package ext4

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A ShutdownKind says what happens to what is not durable yet when a file
// system is shut down. The values are those of EXT4_IOC_SHUTDOWN.
type ShutdownKind uint32

const (
	ShutdownDefault    ShutdownKind = iota // EXT4_GOING_FLAGS_DEFAULT: all is made durable
	ShutdownLogFlush                       // EXT4_GOING_FLAGS_LOGFLUSH: metadata are committed to the journal
	ShutdownNoLogFlush                     // EXT4_GOING_FLAGS_NOLOGFLUSH: it is lost, as in a power cut
)

// Shutdown ends all work at once (EXT4_IOC_SHUTDOWN): every call but Close
// fails with [ErrShutdown] from now on. The device is left as a power cut would leave it,
// but for [ShutdownDefault], after which it is clean. It fails with a wrapped EINVAL
// for other kinds, and with the error of making things durable.
func (fs *FS) Shutdown(kind ShutdownKind) error {
	if kind > ShutdownNoLogFlush {
		return fmt.Errorf("shutdown of kind %d: %w", kind, unix.EINVAL)
	}
	if fs.stopped() != nil {
		return nil
	}
	rw := fs.rw
	if rw == nil {
		fs.dead.Store(true)
		return nil
	}
	var err error
	switch kind {
	case ShutdownDefault:
		if err = fs.Freeze(context.Background()); errors.Is(err, unix.EBUSY) {
			err = nil // it is frozen, and so clean, already
		}
		defer fs.Thaw()
	case ShutdownLogFlush:
		err = rw.commit()
	}
	fs.dead.Store(true)
	rw.end(ErrShutdown)
	return err
}

// end ends writing as a power cut does: nothing more goes to the device, not
// even what has happened.
func (rw *writer) end(err error) {
	rw.mu.Lock()
	rw.failLocked(err)
	rw.ended = true
	rw.mu.Unlock()
	rw.commitMu.Lock()
	defer rw.commitMu.Unlock()
	if rw.log != nil {
		rw.log.Stop(err)
	}
}

// Freeze makes everything durable and the device that of an unmounted file
// system, for a copy of it to be taken, and holds back all changes until [FS.Thaw]
// (ext4_freeze). Reading goes on. It fails with a wrapped EBUSY if the file system is
// frozen already.
func (fs *FS) Freeze(ctx context.Context) error {
	rw := fs.rw
	if rw == nil {
		return nil
	}
	rw.closeMu.Lock()
	defer rw.closeMu.Unlock()
	rw.mu.Lock()
	frozen, closed := rw.frozen, rw.closed
	rw.mu.Unlock()
	switch {
	case frozen:
		return fmt.Errorf("freeze: %w", unix.EBUSY)
	case closed:
		return ErrReadOnly
	}
	// Contents are written with one of these held.
	for i, mu := range rw.inodeMu {
		if err := mu.lock(ctx); err != nil {
			for _, mu := range rw.inodeMu[:i] {
				mu.unlock()
			}
			return fmt.Errorf("freeze: %w", err)
		}
	}
	rw.trimMu.Lock() // what is being discarded is done
	rw.mu.Lock()
	rw.frozen = true
	rw.mu.Unlock()
	rw.trimMu.Unlock()
	err := rw.commit()
	if err == nil {
		err = rw.markClean()
	}
	if err != nil {
		fs.thaw()
		return fmt.Errorf("freeze: %w", err)
	}
	return nil
}

// Frozen reports whether updates wait for [FS.Thaw].
func (fs *FS) Frozen() bool {
	if fs.rw == nil {
		return false
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	return fs.rw.frozen
}

// Thaw lets changes go on after [FS.Freeze] (ext4_unfreeze). It fails with a
// wrapped EINVAL if the file system is not frozen.
func (fs *FS) Thaw() error {
	if fs.rw == nil {
		return nil
	}
	fs.rw.closeMu.Lock()
	defer fs.rw.closeMu.Unlock()
	return fs.thaw()
}

// thaw is [FS.Thaw] for who holds closeMu.
func (fs *FS) thaw() error {
	rw := fs.rw
	rw.mu.Lock()
	frozen, failed := rw.frozen, rw.failed
	rw.mu.Unlock()
	if !frozen {
		return fmt.Errorf("thaw: %w", unix.EINVAL)
	}
	var err error
	if failed == nil {
		err = rw.markInUse()
	}
	rw.mu.Lock()
	rw.frozen = false
	if err != nil {
		rw.failLocked(err)
	}
	rw.changed.Broadcast()
	rw.mu.Unlock()
	for _, mu := range rw.inodeMu {
		mu.unlock()
	}
	return err
}

// markInUse writes the superblock of a file system that is mounted. The log is
// empty.
func (rw *writer) markInUse() error {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.log != nil {
		rw.super.Incompat |= disk.IncompatRecover
	} else {
		rw.super.State &^= disk.StateValid
	}
	if rw.super.Compat.Has(disk.CompatOrphanFile) {
		rw.super.ROCompat |= disk.ROCompatOrphanPresent
	}
	return rw.writeSuper(rw.super)
}

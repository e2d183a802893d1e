package ext4

import (
	"errors"
	"fmt"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// An ErrorPolicy is what happens where the file system is open for writing and
// corruption is met, or an update needs what the device cannot read: the mount option errors=. Its values are those of s_errors.
type ErrorPolicy uint16

const (
	ErrorsDefault   ErrorPolicy = iota // what the superblock says
	ErrorsContinue                     // note it in the superblock, and go on
	ErrorsRemountRO                    // note it, abort the journal, and write nothing more
	ErrorsPanic                        // and answer nothing more: every call fails with EIO
)

// The codes of errors in the superblock (EXT4_ERR_*), and of the journal.
const (
	codeEIO       = 2
	codeCorrupted = 16
)

// ErrShutdown is what every call fails with after [FS.Shutdown], and after an
// error with [ErrorsPanic].
var ErrShutdown = fmt.Errorf("the file system was shut down: %w", unix.EIO)

// errorPolicy is what is asked for, or else what the superblock says, as the
// kernel reads it.
func (fs *FS) errorPolicy() ErrorPolicy {
	if fs.opts.Errors != ErrorsDefault {
		return fs.opts.Errors
	}
	switch p := ErrorPolicy(fs.sb.Errors); p {
	case ErrorsContinue, ErrorsPanic:
		return p
	}
	return ErrorsRemountRO
}

// stopped returns ErrShutdown when nothing is to be answered any more.
func (fs *FS) stopped() error {
	if fs.dead.Load() {
		return ErrShutdown
	}
	return nil
}

// corruptLocked deals with corruption that was met (ext4_error). It reports
// whether the caller has to call [writer.abort] when it has let go of mu.
func (rw *writer) corruptLocked(bad *disk.CorruptError) bool {
	rw.noted = bad
	e := disk.ErrorRecord{Block: bad.Block, Code: codeCorrupted}
	if isInode(bad) {
		e.Ino = disk.Ino(bad.Num)
	}
	return rw.notedLocked(e, bad)
}

// unreadableLocked is corruptLocked for err, of an update that needs a block
// that the device could not read.
func (rw *writer) unreadableLocked(a *readAhead, err error) bool {
	return rw.notedLocked(disk.ErrorRecord{Block: disk.PBlock(a.failedAt >> rw.fs.sb.BlockBits()), Code: codeEIO}, err)
}

// notedLocked puts an error on record and does what follows.
func (rw *writer) notedLocked(e disk.ErrorRecord, err error) bool {
	e.Time, e.Func = rw.now().Unix(), "e4go"
	noteError(&rw.super, e)
	if rw.fs.errorPolicy() == ErrorsContinue {
		rw.running.super = true
		return false
	}
	rw.failLocked(err)
	return true
}

// noteDamage deals with corruption that a change has met outside of an update,
// which does so itself.
func (rw *writer) noteDamage(err error) {
	var bad *disk.CorruptError
	if err == nil || !errors.As(err, &bad) {
		return
	}
	rw.mu.Lock()
	fatal := bad != rw.noted && rw.corruptLocked(bad)
	rw.mu.Unlock()
	if fatal {
		rw.abort(err)
	}
}

// skipDamagedLocked reports whether blocks and inodes are looked for in other groups when
// err says that what is known of one is damaged, which it notes.
func (rw *writer) skipDamagedLocked(err error) bool {
	var bad *disk.CorruptError
	if !errors.As(err, &bad) || rw.fs.errorPolicy() != ErrorsContinue {
		return false
	}
	rw.corruptLocked(bad)
	return true
}

// A FaultError is a panic of this package, met where others wait for the outcome.
type FaultError struct {
	Value any    // of the panic
	Stack []byte // as debug.Stack gives it
}

func (e *FaultError) Error() string { return fmt.Sprintf("a fault of e4go itself: %v", e.Value) }

// Unwrap makes it an EIO.
func (e *FaultError) Unwrap() error { return unix.EIO }

// errFault is why nothing is written any more after an update was half published.
var errFault = errors.New("a fault of e4go itself")

// Fail deals with what a caller has met that must not be. Damage that was found by reading has the
// same consequences as damage that an update meets: see [ErrorPolicy]. Anything else is a fault
// of our own: nothing more is written, since nobody knows what is right in memory.
func (fs *FS) Fail(err error) {
	rw := fs.rw
	if rw == nil || err == nil {
		return
	}
	if rw.failForeign(err) {
		rw.abort(err)
	}
}

// failForeign is [FS.Fail] up to what needs other locks. It reports whether writing ends by it.
func (rw *writer) failForeign(err error) bool {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if rw.closed || rw.failed != nil && rw.failed != errFault {
		return false
	}
	if bad := (*disk.CorruptError)(nil); errors.As(err, &bad) {
		return bad != rw.noted && rw.corruptLocked(bad)
	}
	rw.failLocked(err)
	return true
}

// isInode reports whether the structure is one that is numbered by its inode.
func isInode(bad *disk.CorruptError) bool {
	switch bad.Struct {
	case "inode", "extent tree of inode", "extent node of inode", "indirect block of inode", "map of inode":
		return true
	}
	return false
}

// noteError writes an error into the superblock's records (save_error_info).
func noteError(sb *disk.Superblock, e disk.ErrorRecord) {
	if sb.ErrorCount == 0 {
		sb.FirstError = e
	}
	sb.LastError = e
	sb.ErrorCount++
	sb.State |= disk.StateError
}

// keepErrors brings the errors that from has on record into to (ext4_load_journal:
// what is replayed is older).
func keepErrors(to, from *disk.Superblock) {
	to.State |= from.State & disk.StateError
	if from.ErrorCount > to.ErrorCount {
		to.ErrorCount, to.FirstError, to.LastError = from.ErrorCount, from.FirstError, from.LastError
	}
}

// abort ends writing: the journal is aborted, and the error is put on record in
// its place. rw.failed is set already.
func (rw *writer) abort(err error) {
	rw.commitMu.Lock()
	defer rw.commitMu.Unlock()
	rw.abortCommitting(err)
}

// abortCommitting is [writer.abort] for who holds commitMu.
func (rw *writer) abortCommitting(err error) {
	rw.mu.Lock()
	ended := rw.ended
	rw.mu.Unlock()
	if ended {
		return
	}
	code, errno := uint8(codeEIO), unix.EIO
	if errors.Is(err, disk.ErrCorrupt) {
		code, errno = codeCorrupted, unix.EUCLEAN
	}
	if rw.log != nil {
		rw.log.Abort(err, int32(errno))
	}
	rw.mu.Lock()
	if rw.super.State&disk.StateError == 0 {
		noteError(&rw.super, disk.ErrorRecord{Time: rw.now().Unix(), Func: "e4go", Code: code})
	}
	noted := rw.super
	rw.mu.Unlock()
	_ = writeErrors(rw.fs.dev, rw.fs.super.at, &noted) // the device may be what failed; it is said in the journal, too
	if rw.fs.errorPolicy() == ErrorsPanic {
		rw.fs.dead.Store(true)
	}
}

// writeErrors puts the error records of noted into the superblock at byte at of
// the device, and nothing else: what else is new belongs to a transaction that did not
// happen.
func writeErrors(dev blockdev.Device, at int64, noted *disk.Superblock) error {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, at); err != nil {
		return err
	}
	if err := disk.CheckSuperblock(raw, at); err != nil {
		return err
	}
	sb := disk.DecodeSuperblock(raw)
	keepErrors(&sb, noted)
	sb.Put(raw)
	if sb.MetadataCsum() {
		sb.Checksum = disk.SuperblockChecksum(raw)
		sb.Put(raw)
	}
	if _, err := dev.WriteAt(raw, at); err != nil {
		return err
	}
	return dev.Flush()
}

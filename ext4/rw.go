package ext4

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/jbd2"
)

// DefaultCommitInterval is how long a change waits to become durable when
// nobody asks for it earlier (JBD2_DEFAULT_MAX_COMMIT_AGE).
const DefaultCommitInterval = 5 * time.Second

// writable are the features with which this package writes, beside those that
// it reads.
const (
	writableIncompat = readable
	writableRO       = disk.ROCompatSparseSuper | disk.ROCompatLargeFile | disk.ROCompatHugeFile | disk.ROCompatGDTCsum |
		disk.ROCompatDirNlink | disk.ROCompatExtraIsize | disk.ROCompatBigalloc | disk.ROCompatMetadataCsum | disk.ROCompatOrphanPresent |
		disk.ROCompatQuota | disk.ROCompatProject
)

// CheckWritable returns an [*UnsupportedError] that says why a file system
// can only be read here, or nil.
func CheckWritable(sb *disk.Superblock) error {
	if err := CheckFeatures(sb); err != nil {
		return err
	}
	if no := sb.Incompat &^ writableIncompat; no != 0 {
		return &UnsupportedError{Incompat: no, What: "writing"}
	}
	if no := sb.ROCompat &^ writableRO; no != 0 {
		return &UnsupportedError{ROCompat: no, What: "writing"}
	}
	return nil
}

// mayWrite says why the file system cannot be written, before anything of it
// is: a replay of its journal is a change, too.
func (fs *FS) mayWrite() error {
	if err := CheckWritable(&fs.sb); err != nil {
		return err
	}
	if fs.super.at != disk.SuperblockOffset {
		return &UnsupportedError{What: fmt.Sprintf("writing with the backup superblock at byte %d: repair the primary with e2fsck -b first", fs.super.at)}
	}
	if uint64(fs.dev.Size())>>fs.sb.BlockBits() < fs.sb.Blocks {
		return &UnsupportedError{What: fmt.Sprintf("writing where the device ends at byte %d and the file system at %d", fs.dev.Size(), fs.sb.Blocks<<fs.sb.BlockBits())}
	}
	return nil
}

// openWriter makes the file system, which has been recovered, writable.
func (fs *FS) openWriter(ctx context.Context) error {
	if err := fs.mayWrite(); err != nil {
		return err
	}
	if fs.opts.NoRecovery && fs.journal != nil && fs.journal.Unclean {
		return &UnsupportedError{What: "writing without replaying the journal, which is unclean"}
	}
	if fs.sb.State&disk.StateValid == 0 {
		return &UnsupportedError{What: "writing to a file system that was not unmounted cleanly and has no journal that would tell what is missing: run e2fsck first"}
	}
	if fs.sb.State&disk.StateError != 0 {
		return &UnsupportedError{What: "writing to a file system that is marked as having errors: run e2fsck first"}
	}
	if err := fs.checkQuotaFiles(); err != nil {
		return fmt.Errorf("quota cannot be counted: run e2fsck first: %w", err)
	}
	rw := &writer{
		fs: fs, now: time.Now, running: newTransaction(), super: fs.sb,
		groups: make(map[disk.Group]*group), longest: make(map[disk.Group]uint32), descs: make(map[uint64]*descBlock), open: make(map[disk.Ino]*openInode),
		orphans: make(map[disk.Ino]orphanSlot),
		wake:    make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if fs.opts.Now != nil {
		rw.now = fs.opts.Now
	}
	fs.dev = &countingDevice{Device: fs.dev, bytes: &rw.written}
	rw.changed = sync.NewCond(&rw.mu)
	for i := range rw.inodeMu {
		rw.inodeMu[i] = make(inodeMutex, 1)
	}
	for g := range fs.sb.Groups() {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := fs.groupDesc(disk.Group(g))
		if err != nil {
			return err
		}
		rw.zones.addGroup(&fs.sb, disk.Group(g), &d)
		rw.free += uint64(d.FreeClusters)
		rw.freeInodes += d.FreeInodes
	}
	rw.freeDisk = rw.free
	if fs.sb.Compat.Has(disk.CompatHasJournal) {
		loc, err := fs.journalLocation(fs.sb.JournalIno == 0)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if fs.sb.JournalIno != 0 {
			for _, x := range loc.Extents {
				rw.zones.add(x.Start, uint64(x.Len))
			}
		}
		j, err := jbd2.Load(loc)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if !j.Clean() {
			return &UnsupportedError{What: "writing with a journal that holds transactions, of which the superblock knows nothing: run e2fsck first"}
		}
		if s := j.Super(); s.Errno != 0 {
			return &UnsupportedError{What: fmt.Sprintf("writing with a journal that was aborted with error %d: run e2fsck first", s.Errno)}
		}
		var features disk.JournalFeature
		if fs.sb.MetadataCsum() {
			features |= disk.JournalCsumV3
		}
		if fs.sb.Incompat.Has(disk.Incompat64Bit) {
			features |= disk.Journal64Bit
		}
		if rw.log, err = jbd2.NewWriter(j, fs.dev, features); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	if err := fs.mmp.attach(rw); err != nil {
		return err
	}
	rw.super.Mtime = rw.now().Unix()
	rw.super.MountCount++
	if err := rw.markInUse(); err != nil {
		return err
	}
	rw.zones.sort()
	fs.live, fs.rw = newLive(), rw
	rw.view.fs = fs.forUpdates()
	rw.view.updateDevice = rw.view.fs.dev.(*updateDevice)
	interval := fs.opts.CommitInterval
	if interval <= 0 {
		interval = DefaultCommitInterval
	}
	go rw.commitLoop(interval)
	if err := fs.finishOrphans(ctx); err != nil {
		return errors.Join(fmt.Errorf("finish what was left of deleted files: %w", err), fs.closeWriter())
	}
	return nil
}

// closeWriter makes everything durable and leaves the file system clean,
// unless writing has failed or was shut down.
func (fs *FS) closeWriter() error {
	rw := fs.rw
	rw.closeMu.Lock()
	defer rw.closeMu.Unlock()
	if rw.isClosed() {
		return nil
	}
	_ = fs.thaw() // it need not be frozen; if it was and this fails, rw.failed says so
	err := fs.closeOpen()
	close(rw.stop)
	<-rw.done
	err = errors.Join(err, rw.commit())
	if err == nil {
		err = rw.markClean()
	}
	return err
}

func (rw *writer) isClosed() bool {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	return rw.closed
}

// markClean leaves the device as a file system that was unmounted. Nothing is
// changed meanwhile, and all that was is committed.
func (rw *writer) markClean() error {
	rw.commitMu.Lock()
	defer rw.commitMu.Unlock()
	rw.mu.Lock()
	failed := rw.failed
	rw.mu.Unlock()
	if failed != nil {
		return failed
	}
	if rw.log != nil {
		if err := rw.log.Close(); err != nil {
			return fmt.Errorf("close the journal: %w", err)
		}
	} else if err := rw.fs.dev.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	rw.mu.Lock()
	defer rw.mu.Unlock()
	clean := rw.super
	clean.Incompat &^= disk.IncompatRecover
	clean.State |= disk.StateValid
	if len(rw.orphans) == 0 {
		clean.ROCompat &^= disk.ROCompatOrphanPresent
	}
	return rw.writeSuper(clean)
}

// writeSuper writes a superblock to its place, with the counts as they are,
// and waits until it is durable. It is for when the log is empty: what is in the log
// is newer.
func (rw *writer) writeSuper(sb disk.Superblock) error {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := rw.fs.dev.ReadAt(raw, rw.fs.super.at); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	rw.putSuper(&sb, raw)
	if _, err := rw.fs.dev.WriteAt(raw, rw.fs.super.at); err != nil {
		return fmt.Errorf("write the superblock: %w", err)
	}
	if err := rw.fs.dev.Flush(); err != nil {
		return fmt.Errorf("flush the superblock: %w", err)
	}
	return nil
}

// Writable reports whether the file system was opened for writing.
func (fs *FS) Writable() bool { return fs.rw != nil }

// Time is the time that changes are dated with now.
func (fs *FS) Time() disk.Time { return fs.rw.time() }

// A countingDevice counts what is written to a device, for s_kbytes_written.
type countingDevice struct {
	blockdev.Device
	bytes *atomic.Uint64
}

func (d *countingDevice) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Device.WriteAt(p, off)
	d.bytes.Add(uint64(max(n, 0)))
	return n, err
}

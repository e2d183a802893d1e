// Package ext4 reads and writes ext2, ext3 and ext4 file systems.
//
// [Open] takes any [blockdev.Device] and, without Options.Write, writes not one
// byte to it: a journal that was left unclean is replayed into memory above the device. Everything
// is looked up when it is first asked for, checked against its checksum and
// the rules of the format when it enters the cache, and kept decoded there, so
// that opening takes the same few reads however large the file system is.
//
// With Options.Write every change of metadata is part of an [FS.Update], which
// happens as a whole or not at all, and of the transaction that the update joined, which is
// in the journal as a whole before any of it is in its place:
//
//	Update ── seal, publish ──> running transaction ── commit ──> log, barrier, commit block, barrier, places
//	              └─> readers see it from here on         └─> durable from here on; what it freed may be used again
//
// Data are written to their blocks before the update that maps these.
//
// What is found broken comes out as a [*disk.CorruptError], what this package
// cannot read as an [*UnsupportedError], and what the caller asked for in vain
// as a wrapped unix.Errno: ENOENT, ENOTDIR, ENOKEY, ENODATA.
//
//	path --namei--> Inode --map--> runs of blocks --read--> bytes
//	                  |
//	                  +--dir, htree--> entries     +--xattr--> attributes
//
// # Concurrency
//
// All methods of [FS] and [Inode] may be called from many goroutines; a [Dir]
// belongs to one at a time. An Inode never changes once it is in the cache.
//
// Readers take no lock that is held over I/O, and never wait for an update or a
// commit: they read what is published, and read again if it has changed meanwhile
// (live.go). Updates run one at a time, in memory.
//
// Locks, outermost first:
//
//	writer.inodeMu     one change of an inode's contents; held over writes of data
//	  writer.commitMu  one commit; held over writes of the log and of metadata
//	    writer.mu      the running transaction, groups, orphans, open inodes: one update
//	      live.mu      the blocks that are newer than the device
//	        the cache's own, under which nothing of this package runs
//	FS.statfsMu        the one computation of the overhead; held over reads
package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// DefaultCacheSize is the bytes of metadata that are kept when Options does not say.
const DefaultCacheSize = 64 << 20

// Options say how [Open] opens. The zero value does what mount -o ro does.
type Options struct {
	// Superblock is the byte offset of the superblock to use. 0 takes the
	// primary, and the first good backup if the primary is damaged.
	Superblock int64

	// NoRecovery shows an unclean file system as it lies on the device,
	// without replaying its journal.
	NoRecovery bool

	// Journal is the external journal of a file system that has one. It is
	// written only with Write, and stays the caller's to close.
	Journal blockdev.Device

	// Write opens for writing. What cannot be written safely makes Open fail with an
	// [*UnsupportedError] that says why; it can be opened again without.
	Write bool

	// Errors says what happens when corruption is met, with Write.
	Errors ErrorPolicy

	// CommitInterval is how long a change waits to become durable when nobody
	// asks for it. 0 is [DefaultCommitInterval].
	CommitInterval time.Duration

	// QuotaLimits are the types of quota whose limits are enforced. Usage is
	// counted always, where the file system has the feature.
	QuotaLimits []disk.QuotaType

	// ReservedUID and ReservedGID are who may use the blocks that are kept, beside
	// root. nil is what the superblock says.
	ReservedUID, ReservedGID *uint32

	// Now is the clock of the times that are written. nil is time.Now.
	Now func() time.Time

	// CacheSize bounds the metadata kept in memory, in bytes; while writing,
	// a quarter as much again is for bitmaps. 0 is [DefaultCacheSize].
	CacheSize int64

	// Discard tells the device which blocks were freed, once that is durable. It
	// is also on if the superblock has it among the default mount options, unless NoDiscard.
	Discard, NoDiscard bool

	// NoACL makes POSIX ACLs as if they were not there, in either direction
	// (noacl), and NoUserXattr the xattrs of users (nouser_xattr).
	NoACL, NoUserXattr bool

	// GroupOfDir gives new inodes the group of their directory, as if that had
	// set-group-ID (grpid). It is also on if the superblock says bsdgroups, unless NoGroupOfDir.
	GroupOfDir, NoGroupOfDir bool

	// Dirsync makes changes of directories durable before they return (dirsync).
	Dirsync bool

	// MinixDF makes [FS.Statfs] count the blocks of metadata, too (minixdf).
	MinixDF bool
}

// Bits of s_default_mount_opts (EXT4_DEFM_*).
const (
	defaultBSDGroups = 0x2
	defaultDiscard   = 0x400
)

// withDefaults is o with what the superblock has as default mount options.
func (o Options) withDefaults(sb *disk.Superblock) Options {
	o.Discard = (o.Discard || sb.DefaultMountOpts&defaultDiscard != 0) && !o.NoDiscard
	o.GroupOfDir = (o.GroupOfDir || sb.DefaultMountOpts&defaultBSDGroups != 0) && !o.NoGroupOfDir
	return o
}

// FS is an open file system.
type FS struct {
	dev      blockdev.Device // immutable: the caller's, or an overlay above it after recovery
	live     *live           // immutable; nil unless open for writing
	rw       *writer         // immutable; nil unless open for writing
	sb       disk.Superblock // immutable
	super    superSource     // immutable
	seed     uint32          // immutable: sb.Seed()
	opts     Options         // immutable
	cache    *cache
	journal  *JournalInfo // immutable
	statfsMu sync.Mutex
	overhead *overhead // guarded by statfsMu
	dead     *atomic.Bool
	foreign  *atomic.Bool // others write the files' data: see [FS.DataElsewhere]
	outer    *FS          // immutable: of the one that updates see (forUpdates), the one that readers see; else nil
	mmp      *mmpLock     // immutable once open; nil unless the file system is protected, and open for writing
}

// An UnsupportedError names what a file system has that this package cannot read.
type UnsupportedError struct {
	Incompat disk.Incompat // the feature bits, if that is it
	ROCompat disk.ROCompat // likewise, of those that prevent writing only
	What     string        // what it is, if not, or what they prevent
}

func (e *UnsupportedError) Error() string {
	what := ""
	if e.What != "" {
		what = e.What + ": "
	}
	if e.ROCompat != 0 {
		return fmt.Sprintf("%sunsupported feature: %s (ro_compat %#x)", what, strings.Join(e.ROCompat.Names(), ", "), uint32(e.ROCompat))
	}
	if e.Incompat != 0 {
		return fmt.Sprintf("%sunsupported feature: %s (incompat %#x)", what, strings.Join(e.Incompat.Names(), ", "), uint32(e.Incompat))
	}
	return "unsupported: " + e.What
}

// readable are the features that change how a file system is read, and that
// this package knows. IncompatRecover is dealt with by recovery.
const readable = disk.IncompatFiletype | disk.IncompatRecover | disk.IncompatMetaBG | disk.IncompatExtents | disk.Incompat64Bit |
	disk.IncompatMMP | disk.IncompatFlexBG | disk.IncompatEAInode | disk.IncompatCsumSeed | disk.IncompatLargedir |
	disk.IncompatInlineData | disk.IncompatEncrypt | disk.IncompatCasefold

// CheckFeatures returns an [*UnsupportedError] if the file system has features
// that make it unreadable here. Unknown read-only features are no obstacle.
func CheckFeatures(sb *disk.Superblock) error {
	if sb.Incompat.Has(disk.IncompatJournalDev) {
		return &UnsupportedError{What: "this is an external journal device, not a file system: give it with the file system it belongs to"}
	}
	if unknown := sb.Incompat &^ readable; unknown != 0 {
		return &UnsupportedError{Incompat: unknown}
	}
	return nil
}

// Open opens the file system on dev, which must outlive it and is not written
// without Options.Write. It fails with a *disk.CorruptError if no superblock makes sense,
// with an [*UnsupportedError], with a *jbd2.WrongJournalError if the external journal
// that has to be replayed is missing, or with the device's error.
func Open(dev blockdev.Device, o Options) (*FS, error) {
	return OpenContext(context.Background(), dev, o)
}

// OpenContext is [Open]; ctx can end the replay of a long journal, and the wait
// of multiple mount protection.
func OpenContext(ctx context.Context, dev blockdev.Device, o Options) (*FS, error) {
	if o.CacheSize <= 0 {
		o.CacheSize = DefaultCacheSize
	}
	if o.Write {
		dev = newFlushDevice(dev)
	}
	src, err := findSuper(dev, o)
	if err != nil {
		return nil, err
	}
	if err := CheckFeatures(&src.sb); err != nil {
		return nil, err
	}
	fs := newFS(dev, src, o)
	if o.Write {
		if err := fs.mayWrite(); err != nil {
			fs.Close()
			return nil, err
		}
	}
	if o.Write && src.sb.Incompat.Has(disk.IncompatMMP) {
		if err := fs.takeMMP(ctx); err != nil {
			fs.Close()
			return nil, err
		}
	}
	dst, info, err := fs.recoverJournal(ctx)
	if err != nil {
		fs.Close()
		return nil, err
	}
	if dst != nil {
		again, err := fs.reread(dst)
		if err != nil {
			fs.Close()
			return nil, fmt.Errorf("after journal replay: %w", err)
		}
		fs.cache.close()
		fs = again
	}
	fs.journal = info
	if o.Write {
		if err := fs.openWriter(ctx); err != nil {
			fs.Close()
			return nil, err
		}
	}
	return fs, nil
}

// reread is the file system after replay to dst: what was read so far may have
// been replayed over.
func (fs *FS) reread(dst blockdev.Device) (*FS, error) {
	src, err := readSuperAt(dst, fs.super.at)
	if err == nil {
		err = CheckFeatures(&src.sb)
	}
	if err != nil {
		return nil, err
	}
	src.primaryErr = fs.super.primaryErr
	again := newFS(dst, src, fs.opts)
	again.mmp = fs.mmp
	return again, nil
}

func newFS(dev blockdev.Device, src superSource, o Options) *FS {
	return &FS{dev: dev, sb: src.sb, super: src, seed: src.sb.Seed(), opts: o.withDefaults(&src.sb), cache: newCache(o.CacheSize), dead: new(atomic.Bool), foreign: new(atomic.Bool)}
}

// Close makes durable what was written, marks the file system as clean, and
// drops what is cached. It does not close the device.
func (fs *FS) Close() error {
	var err error
	if fs.rw != nil {
		err = fs.closeWriter()
	}
	err = errors.Join(err, fs.releaseMMP())
	fs.cache.close()
	return err
}

// Super is the superblock in use, as it is after recovery. It must not be changed.
func (fs *FS) Super() *disk.Superblock { return &fs.sb }

// SuperOffset is the byte offset of the superblock in use: another than 1024
// is a backup.
func (fs *FS) SuperOffset() int64 { return fs.super.at }

// PrimaryErr says why a backup superblock is in use, or nil.
func (fs *FS) PrimaryErr() error { return fs.super.primaryErr }

// Device is what the file system is read from: the device it was opened on, or
// a *blockdev.Overlay above it when a journal was replayed. With Options.Write it is
// one above it whose flushes all fail once one has.
func (fs *FS) Device() blockdev.Device { return fs.dev }

// deviceBlocks is the number of blocks that the file system can really have:
// what it claims, or what the device holds if that is less.
func (fs *FS) deviceBlocks() uint64 {
	return min(fs.sb.Blocks, uint64(fs.dev.Size())>>fs.sb.BlockBits())
}

// readBlocks fills p, whole blocks long, from block b on.
func (fs *FS) readBlocks(p []byte, b disk.PBlock) error {
	n, err := fs.dev.ReadAt(p, int64(b)<<fs.sb.BlockBits())
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("read block %d: the device ends at byte %d: %w", b, fs.dev.Size(), io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read block %d: %w", b, err)
}

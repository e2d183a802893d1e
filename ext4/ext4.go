// Package ext4 reads ext2, ext3 and ext4 file systems.
//
// [Open] takes any [blockdev.Device] and writes not one byte to it: a journal
// that was left unclean is replayed into memory above the device. Everything
// is looked up when it is first asked for, checked against its checksum and
// the rules of the format when it enters the cache, and kept decoded there, so
// that opening takes the same few reads however large the file system is.
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
// Locks, outermost first: FS.statfsMu guards the one computation of the
// overhead, and the cache has locks of its own, under which nothing of this
// package runs. No lock is held over a read of the device but statfsMu.
package ext4

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

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

	// Journal is the external journal of a file system that has one. It is not
	// written, and stays the caller's to close.
	Journal blockdev.Device

	// CacheSize bounds the metadata kept in memory, in bytes. 0 is
	// [DefaultCacheSize].
	CacheSize int64
}

// FS is an open file system.
type FS struct {
	dev      blockdev.Device // immutable: the caller's, or an overlay above it after recovery
	sb       disk.Superblock // immutable
	super    superSource     // immutable
	seed     uint32          // immutable: sb.Seed()
	opts     Options         // immutable
	cache    *cache
	journal  *JournalInfo // immutable
	statfsMu sync.Mutex
	overhead *overhead // guarded by statfsMu
}

// An UnsupportedError names what a file system has that this package cannot read.
type UnsupportedError struct {
	Incompat disk.Incompat // the feature bits, if that is it
	What     string        // what it is, if not
}

func (e *UnsupportedError) Error() string {
	if e.Incompat != 0 {
		return fmt.Sprintf("unsupported feature: %s (incompat %#x)", strings.Join(e.Incompat.Names(), ", "), uint32(e.Incompat))
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

// Open opens the file system on dev, which must outlive it and is never
// written. It fails with a *disk.CorruptError if no superblock makes sense,
// with an [*UnsupportedError], with a *jbd2.WrongJournalError if the external journal
// that has to be replayed is missing, or with the device's error.
func Open(dev blockdev.Device, o Options) (*FS, error) {
	return OpenContext(context.Background(), dev, o)
}

// OpenContext is [Open]; ctx can end the replay of a long journal.
func OpenContext(ctx context.Context, dev blockdev.Device, o Options) (*FS, error) {
	if o.CacheSize <= 0 {
		o.CacheSize = DefaultCacheSize
	}
	src, err := findSuper(dev, o)
	if err != nil {
		return nil, err
	}
	if err := CheckFeatures(&src.sb); err != nil {
		return nil, err
	}
	fs := newFS(dev, src, o)
	dst, info, err := fs.recoverJournal(ctx)
	if err != nil {
		fs.Close()
		return nil, err
	}
	if dst != nil {
		// What was read so far may have been replayed over.
		fs.Close()
		if src, err = readSuperAt(dst, src.at); err != nil {
			return nil, fmt.Errorf("after journal replay: %w", err)
		}
		if err := CheckFeatures(&src.sb); err != nil {
			return nil, fmt.Errorf("after journal replay: %w", err)
		}
		src.primaryErr = fs.super.primaryErr
		fs = newFS(dst, src, o)
	}
	fs.journal = info
	return fs, nil
}

func newFS(dev blockdev.Device, src superSource, o Options) *FS {
	return &FS{dev: dev, sb: src.sb, super: src, seed: src.sb.Seed(), opts: o, cache: newCache(o.CacheSize)}
}

// Close drops what is cached. It does not close the device.
func (fs *FS) Close() error {
	fs.cache.close()
	return nil
}

// Super is the superblock in use, as it is after recovery. It must not be changed.
func (fs *FS) Super() *disk.Superblock { return &fs.sb }

// SuperOffset is the byte offset of the superblock in use: another than 1024
// is a backup.
func (fs *FS) SuperOffset() int64 { return fs.super.at }

// PrimaryErr says why a backup superblock is in use, or nil.
func (fs *FS) PrimaryErr() error { return fs.super.primaryErr }

// Device is what the file system is read from: the device it was opened on, or
// a *blockdev.Overlay above it when a journal was replayed.
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

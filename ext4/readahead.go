package ext4

import (
	"errors"

	"e4go/ext4/blockdev"
)

// Updates read what the device has while nobody holds writer.mu: one that
// meets a block that is not in memory is dropped, as one that fails, the block is read, and
// the update's function is called again. It finds the block then, if no
// commit has ended meanwhile, which may have written to it.

// maxReadAhead is how many blocks an update can meet so. Then it reads what it
// needs while others wait, lest it should never end.
const maxReadAhead = 64

// errNotRead is what an update gets in place of a block that is to be read.
var errNotRead = errors.New("the block is read before the update")

// A readAhead is what one update has found to be not in memory.
type readAhead struct {
	have    map[deviceRange]deviceBytes
	missing *deviceRange // to be read next
	commits uint64       // writer.commits when the first of have was missed
	tries   int

	failed   error // of a read, which the update was given
	failedAt int64 // byte of the device
}

// deviceRange is n bytes of the device, from byte off on.
type deviceRange struct {
	off int64
	n   int
}

type deviceBytes struct {
	data []byte
	err  error
}

// fetch reads what was missing, and reports whether there was anything.
func (a *readAhead) fetch(dev blockdev.Device) bool {
	if a.missing == nil {
		return false
	}
	r := *a.missing
	a.missing = nil
	data := make([]byte, r.n)
	n, err := dev.ReadAt(data, r.off)
	if a.have == nil {
		a.have = make(map[deviceRange]deviceBytes)
	}
	a.have[r] = deviceBytes{data[:n], err}
	a.tries++
	return true
}

// An updateDevice is the device as updates see it.
type updateDevice struct {
	blockdev.Device
	ahead *readAhead // guarded by writer.mu: of the update that runs, nil if none does
}

// begin says that what is read from now on is read for a. The caller holds
// writer.mu until it has called end.
func (d *updateDevice) begin(a *readAhead, commits uint64) {
	if a.commits != commits {
		clear(a.have)
		a.commits = commits
	}
	a.failed = nil
	d.ahead = a
}

func (d *updateDevice) end() { d.ahead = nil }

// ReadAt implements [blockdev.Device].
func (d *updateDevice) ReadAt(p []byte, off int64) (int, error) {
	a := d.ahead
	if a == nil {
		return d.Device.ReadAt(p, off)
	}
	r := deviceRange{off, len(p)}
	b, ok := a.have[r]
	switch {
	case ok:
		b = deviceBytes{p[:copy(p, b.data)], b.err}
	case a.tries >= maxReadAhead:
		n, err := d.Device.ReadAt(p, off)
		b = deviceBytes{p[:n], err}
	default:
		if a.missing == nil {
			a.missing = &r
		}
		return 0, errNotRead
	}
	if len(b.data) < len(p) && b.err != nil && a.failed == nil {
		a.failed, a.failedAt = b.err, off
	}
	return len(b.data), b.err
}

// forUpdates is the file system as updates see it: they share everything with
// readers but the device.
func (fs *FS) forUpdates() *FS {
	return &FS{
		dev: &updateDevice{Device: fs.dev}, outer: fs, live: fs.live, rw: fs.rw, sb: fs.sb, super: fs.super, seed: fs.seed, opts: fs.opts,
		cache: fs.cache, journal: fs.journal, dead: fs.dead, foreign: fs.foreign,
	}
}

// shared is the file system that published inodes belong to.
func (fs *FS) shared() *FS {
	if fs.outer != nil {
		return fs.outer
	}
	return fs
}

// within is a published inode as updates see it, not to be changed.
func (in *Inode) within(fs *FS) *Inode {
	out := &Inode{fs: fs, ino: in.ino, disk: in.disk, raw: in.raw, block: in.block, off: in.off, seed: in.seed}
	out.rootLeaf.Store(in.rootLeaf.Load())
	out.rootIndex.Store(in.rootIndex.Load())
	out.hashKnown.Store(in.hashKnown.Load())
	return out
}

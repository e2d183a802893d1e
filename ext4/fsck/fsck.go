// Package fsck checks whole file systems and changes nothing. It shares the
// format (ext4/disk), the device and journal recovery with the rest of e4go,
// and not one line with the code that reads and writes files: it is the judge
// of what that did.
//
// The check goes through the passes of e2fsck, whose problem classes it names:
//
//	setup   superblock, descriptors, backups, journal, MMP, orphans, resize inode
//	pass 1  every inode and its map, xattrs; who uses which block
//	   1B   the owners of blocks that several use
//	pass 2  every directory
//	pass 3  whether each directory hangs on the root
//	pass 4  link counts
//	pass 5  bitmaps and counts
//	end     quota, orphan file; names for the problems, and which follow from which
//
// Passes only report what they see, as rows of the table of problems (problem*.go)
// with a place. What is one problem's consequence is told by [fold] at the end.
//
// # Hostile images
//
// Nothing from the image is believed before it is compared with its limit.
// Blocks that lead to others (nodes of maps, directories) are followed once
// each, and again only as often, in all, as a quarter of the device's blocks. Sets are
// made page by page where something is, problems are counted when there are
// too many to keep. So the time is linear in what the image really holds, and
// memory stays below Options.MemoryLimit or the check ends with a [*MemoryError].
//
// # Concurrency
//
// Passes run one after the other; within passes 1, 2 and 5 workers take pieces
// of the inode tables, directories and groups in the order of the device. What
// they share: sets of blocks and inodes and counters, which are changed atomically;
// the reporter, with its lock; and the lists that a checker's mu guards, to which each
// worker adds its own when it is done.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// Options say how [Run] checks.
type Options struct {
	// Replay judges the state that the next mount will find: with the journal
	// replayed, in memory, and orphans about to be deleted. Without it the
	// state on the device is judged, as e2fsck -n does.
	Replay bool

	// Superblock is the byte offset of the superblock to use. 0 takes the
	// primary, and the first good backup if the primary is damaged.
	Superblock int64

	Journal     blockdev.Device // the external journal, if there is one; only read
	Workers     int             // goroutines; 0 for one a CPU
	MemoryLimit int64           // bytes; 0 is [DefaultMemoryLimit]

	// Progress, unless nil, is called now and then with the share of the pass
	// that is done. It is called from one goroutine at a time.
	Progress func(pass Pass, done float64)
}

// DefaultMemoryLimit is enough for file systems of a petabyte that are mostly empty.
const DefaultMemoryLimit = 2 << 30

// A MemoryError reports that the check would need more memory than it may use.
type MemoryError struct {
	What        string
	Need, Limit int64 // bytes
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%s would take %d bytes of memory, and the limit is %d", e.What, e.Need, e.Limit)
}

// An UnsupportedError names what the file system has that cannot be checked here.
type UnsupportedError struct {
	What string
}

func (e *UnsupportedError) Error() string { return "unsupported: " + e.What }

// A NoFilesystemError reports that there is no ext4 file system on the device.
type NoFilesystemError struct {
	Looks string // what is there instead: "XFS", or ""
}

func (e *NoFilesystemError) Error() string {
	if e.Looks == "" {
		return "no ext2, ext3 or ext4 file system, and no backup superblock where one would be"
	}
	return "no ext4 file system: this looks like " + e.Looks
}

// A checker is one run of the check.
type checker struct {
	ctx   context.Context
	opts  Options
	raw   blockdev.Device // as it was given
	dev   blockdev.Device // raw, or an overlay above it after replay
	rep   reporter
	stats Stats

	sb       disk.Superblock
	superRaw []byte // its bytes
	superAt  int64  // where they are
	seed     uint32 // of metadata checksums
	bs       int    // block size
	bits     uint   // its logarithm
	cbits    uint   // logarithm of the blocks in a cluster
	blocks   uint64 // that the file system has and the device holds
	groups   []group
	badDescs bool // descriptors put metadata where it cannot be

	meta      *bitset // clusters of metadata that is not a file's
	used      *bitset // clusters in use
	again     *bitset // clusters that more than one claims
	inodes    inodeSets
	tables    tables
	scan      scanLists
	dirs      dirTable
	lostFound atomic.Uint32 // the inode of /lost+found, 0 if there is none
	revisits  atomic.Int64  // blocks of maps that may still be followed again
	memory    atomic.Int64  // bytes that lists have taken
	pool      []*worker     // one for each goroutine of a pass; their buffers are used again

	mu   sync.Mutex // guards what follows
	done progress
}

// progress is what [checker.step] knows.
type progress struct {
	pass        Pass
	steps, last int
	total       int
}

// Run checks the file system on dev, which nobody else may write meanwhile.
//
// The report is never nil. With an error it has what was found before: the
// device failed, there is nothing to check ([*NoFilesystemError],
// [*UnsupportedError], a *jbd2.WrongJournalError), or memory is short. When ctx
// ends, Run ends soon, without an error, and the report says so.
func Run(ctx context.Context, dev blockdev.Device, opts Options) (*Report, error) {
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	if opts.MemoryLimit <= 0 {
		opts.MemoryLimit = DefaultMemoryLimit
	}
	c := &checker{ctx: ctx, opts: opts, raw: dev, dev: dev}
	report := new(Report)
	err := c.run(report)
	report.Super, report.SuperOffset = c.sb, c.superAt
	report.Replayed = c.dev != c.raw
	report.Stats = c.stats
	report.Left = c.rep.left
	report.Problems = c.rep.sorted()
	if err == nil {
		start := time.Now()
		err = c.name(report.Problems)
		report.Problems = fold(report.Problems)
		report.Times[PassEnd] += time.Since(start)
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		report.Cancelled, err = true, nil
	}
	return report, err
}

// run goes through the passes, until one of them cannot.
func (c *checker) run(report *Report) error {
	for pass, check := range [passes]func() error{
		PassSetup: c.setup, PassInodes: c.passInodes, PassDirs: c.passDirs, PassTree: c.passTree,
		PassLinks: c.passLinks, PassGroups: c.passGroups, PassEnd: c.passEnd,
	} {
		start := time.Now()
		err := check()
		report.Times[pass] += time.Since(start)
		if err == nil {
			err = c.ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin says that a pass begins, which has so many steps.
func (c *checker) begin(pass Pass, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = progress{pass: pass, total: total, last: -1}
}

// step says that n more steps are done.
func (c *checker) step(n int) {
	if c.opts.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.steps += n
	if percent := 100 * c.done.steps / max(c.done.total, 1); percent != c.done.last {
		c.done.last = percent
		c.opts.Progress(c.done.pass, float64(percent)/100)
	}
}

// take accounts for n bytes of memory, or fails with a *[MemoryError].
func (c *checker) take(what string, n int64) error {
	if total := c.memory.Add(n); total > c.opts.MemoryLimit {
		return &MemoryError{What: what, Need: total, Limit: c.opts.MemoryLimit}
	}
	return nil
}

// workers runs as many goroutines as there may be and as there are pieces of work
// for, this one included, each with a worker of its own, and returns the first error. fn asks the worker for pieces until there are
// none; when one fails, the others find [worker.stopped].
func (c *checker) workers(pieces int, fn func(w *worker) error) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
	)
	for len(c.pool) < c.opts.Workers {
		c.pool = append(c.pool, &worker{c: c})
	}
	run := func(w *worker) {
		w.ctx, w.err, w.accounted = ctx, nil, 0
		if err := fn(w); err != nil {
			once.Do(func() { first = err })
			cancel()
		}
	}
	for _, w := range c.pool[1:min(len(c.pool), max(pieces, 1))] {
		wg.Go(func() { run(w) })
	}
	run(c.pool[0])
	wg.Wait()
	if err := c.ctx.Err(); err != nil {
		return err
	}
	return first
}

// A worker is one goroutine of a pass, with its buffers.
type worker struct {
	c     *checker
	ctx   context.Context
	chunk []byte // of an inode table or of directories
	cache blockCache
	inode inodeScan
	marks inodeMarks
	lists scanLists
	dir   dirScan
	err   error // of the device, where it could not be returned

	accounted int64 // bytes of lists
}

// stopped reports whether the worker should end early.
func (w *worker) stopped() bool { return w.ctx.Err() != nil }

package fusesrv

import (
	"context"
	"maps"
	"sync"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// The kernel leaves times of access to a FUSE server. What it answers from its own
// caches nobody hears of: so an access that counts is one that asks us for contents.

// An atimeWhen says which accesses count.
type atimeWhen int

const (
	atimeRelative atimeWhen = iota // the first after a change, and one a day (relatime)
	atimeAlways                    // strictatime
	atimeNever                     // noatime
)

type atimeRule struct {
	files  atimeWhen
	noDirs bool // nodiratime
}

const (
	// atimeDelay is how long a time of access stays in memory, atimeLazyDelay with
	// lazytime (dirtytime_expire_interval).
	atimeDelay     = 5 * time.Second
	atimeLazyDelay = 12 * time.Hour

	maxAtimes = 64 << 10 // that stay there
)

// atimes keeps times of access until there are some to be written at once.
type atimes struct {
	fs    *ext4.FS      // immutable
	rule  atimeRule     // immutable
	delay time.Duration // immutable
	timer *time.Timer   // immutable: calls write
	mount mountInfo     // immutable once it is served: where accesses come from

	writing sync.Mutex // held over a write, or while somebody sets an atime

	mu      sync.Mutex
	off     bool                   // guarded by mu: no access counts
	pending map[disk.Ino]disk.Time // guarded by mu
}

// newAtimes returns what counts accesses to fs, nil if none is to count.
func newAtimes(fs *ext4.FS, flags Flags, guard func(func())) *atimes {
	if !fs.Writable() || flags.atime.files == atimeNever {
		return nil
	}
	a := &atimes{fs: fs, rule: flags.atime, delay: atimeDelay, pending: make(map[disk.Ino]disk.Time)}
	if flags.lazy {
		a.delay = atimeLazyDelay
	}
	a.timer = time.AfterFunc(a.delay, func() { guard(func() { a.write() }) })
	a.timer.Stop()
	return a
}

// accessed notes that the contents of in were read by a file description with
// the given flags of open(2).
func (a *atimes) accessed(in *ext4.Inode, flags uint32) {
	if a == nil || flags&unix.O_NOATIME != 0 || a.rule.noDirs && in.Type() == disk.ModeDir {
		return
	}
	st := in.Stat()
	if st.Flags.Has(disk.FlagNoatime) {
		return
	}
	now := a.fs.Time()
	ino := in.Ino()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.showLocked(&st)
	if a.off || a.rule.files == atimeRelative && !relativeAtime(&st, now) || !now.After(st.Atime) {
		return
	}
	if len(a.pending) == 0 {
		a.timer.Reset(a.delay)
	}
	a.pending[ino] = now
	if len(a.pending) == maxAtimes {
		a.timer.Reset(0)
	}
}

// relativeAtime reports whether an access counts: the first after a change, and
// one a day (relatime_need_update).
func relativeAtime(st *ext4.Stat, now disk.Time) bool {
	return !st.Atime.After(st.Mtime) || !st.Atime.After(st.Ctime) || now.Sec-st.Atime.Sec >= 24*60*60
}

// show puts into st the time of an access that is not written yet.
func (a *atimes) show(st *ext4.Stat) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.showLocked(st)
}

func (a *atimes) showLocked(st *ext4.Stat) {
	if t, ok := a.pending[disk.Ino(st.Ino)]; ok && t.After(st.Atime) {
		st.Atime = t
	}
}

// set calls fn, which sets the atime of an inode, and forgets accesses before
// that. No write comes in between, which would put one of them over what is set.
func (a *atimes) set(ino disk.Ino, fn func() error) error {
	if a == nil {
		return fn()
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	if err := fn(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, ino)
	return nil
}

// write writes all times. What cannot be written is dropped: the file system
// says why to those whose changes are lost.
func (a *atimes) write() error {
	if a == nil {
		return nil
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	if a.mount.nowReadOnly() { // somebody has remounted it, and not told us
		a.mu.Lock()
		defer a.mu.Unlock()
		clear(a.pending)
		return nil
	}
	a.mu.Lock()
	times := maps.Clone(a.pending)
	a.mu.Unlock()
	err := a.fs.Accessed(context.Background(), times)
	a.mu.Lock()
	defer a.mu.Unlock()
	// They were to be seen here until the file system showed them.
	maps.DeleteFunc(a.pending, func(ino disk.Ino, t disk.Time) bool { return times[ino] == t })
	if len(a.pending) > 0 && !a.off {
		a.timer.Reset(a.delay)
	}
	return err
}

// count starts or stops counting.
func (a *atimes) count(on bool) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.off = !on
}

// stop writes all times and counts no more.
func (a *atimes) stop() {
	if a == nil {
		return
	}
	a.count(false)
	a.timer.Stop()
	a.write()
}

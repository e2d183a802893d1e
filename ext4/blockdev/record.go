package blockdev

import (
	"fmt"
	"slices"
	"sync"
)

// An EventKind says what an [Event] did.
type EventKind int

const (
	EventWrite EventKind = iota
	EventFlush
	EventDiscard
)

func (k EventKind) String() string {
	switch k {
	case EventWrite:
		return "write"
	case EventFlush:
		return "flush"
	case EventDiscard:
		return "discard"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// An Event is one change or barrier that a [Record] passed through.
type Event struct {
	Kind EventKind
	Off  int64  // bytes
	N    int64  // bytes
	Data []byte // what a write wrote; not to be changed
}

// A Record passes everything to its base, and logs in order what changed it.
type Record struct {
	base Device // immutable

	mu  sync.Mutex // guards log; held over changes of base, to keep their order
	log []Event
}

// NewRecord returns a device on base with an empty log.
func NewRecord(base Device) *Record { return &Record{base: base} }

// Log returns the events until now. Calls that failed are not among them, but
// the part that a short write did write is.
func (r *Record) Log() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Replay applies the first n events of the log to onto. It panics if there are
// not as many, and returns onto's first error.
func (r *Record) Replay(onto Device, n int) error {
	for i, e := range r.Log()[:n] {
		var err error
		switch e.Kind {
		case EventWrite:
			_, err = onto.WriteAt(e.Data, e.Off)
		case EventFlush:
			err = onto.Flush()
		case EventDiscard:
			err = onto.Discard(e.Off, e.N)
		}
		if err != nil {
			return fmt.Errorf("replay event %d (%s): %w", i, e.Kind, err)
		}
	}
	return nil
}

// ReadAt implements [Device].
func (r *Record) ReadAt(p []byte, off int64) (int, error) { return r.base.ReadAt(p, off) }

// WriteAt implements [Device].
func (r *Record) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.base.WriteAt(p, off)
	if err == nil || n > 0 {
		r.log = append(r.log, Event{Kind: EventWrite, Off: off, N: int64(n), Data: slices.Clone(p[:n])})
	}
	return n, err
}

// Flush implements [Device].
func (r *Record) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.base.Flush()
	if err == nil {
		r.log = append(r.log, Event{Kind: EventFlush})
	}
	return err
}

// Discard implements [Device].
func (r *Record) Discard(off, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.base.Discard(off, n)
	if err == nil {
		r.log = append(r.log, Event{Kind: EventDiscard, Off: off, N: n})
	}
	return err
}

// Size implements [Device].
func (r *Record) Size() int64 { return r.base.Size() }

// Close closes the base; the log stays.
func (r *Record) Close() error { return r.base.Close() }

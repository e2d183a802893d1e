package blockdev

import "sync/atomic"

// A Fault is a device whose N-th call of ReadAt, WriteAt, Flush or Discard,
// counted from 0, fails with [ErrInjected] and does not reach the Device. All
// others pass. A Fault must not be copied.
type Fault struct {
	Device
	N int

	calls atomic.Int64
}

// Calls returns how many calls there were, with the one that failed.
func (f *Fault) Calls() int { return int(f.calls.Load()) }

func (f *Fault) err() error {
	if f.calls.Add(1)-1 == int64(f.N) {
		return ErrInjected
	}
	return nil
}

// ReadAt implements [Device].
func (f *Fault) ReadAt(p []byte, off int64) (int, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.Device.ReadAt(p, off)
}

// WriteAt implements [Device].
func (f *Fault) WriteAt(p []byte, off int64) (int, error) {
	if err := f.err(); err != nil {
		return 0, err
	}
	return f.Device.WriteAt(p, off)
}

// Flush implements [Device].
func (f *Fault) Flush() error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Device.Flush()
}

// Discard implements [Device].
func (f *Fault) Discard(off, n int64) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Device.Discard(off, n)
}

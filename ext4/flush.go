package ext4

import (
	"sync"

	"e4go/ext4/blockdev"
)

// A flushDevice is a device that several flush at once: those who come while a
// flush is under way share the next. When one has failed all later ones do: the kernel tells
// of a write that was lost once, and it may have been anybody's.
type flushDevice struct {
	blockdev.Device

	mu      sync.Mutex
	changed *sync.Cond // of mu: a flush has ended
	begun   uint64     // guarded by mu: flushes of the device below
	ended   uint64     // guarded by mu
	err     error      // guarded by mu: of the first that failed
}

func newFlushDevice(dev blockdev.Device) *flushDevice {
	d := &flushDevice{Device: dev}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// Flush implements [blockdev.Device].
func (d *flushDevice) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	mine := d.begun + 1 // one that has begun already may have missed something
	for d.ended < mine && d.err == nil {
		if d.begun > d.ended {
			d.changed.Wait()
			continue
		}
		d.flushLocked()
	}
	return d.err
}

// flushLocked flushes, without the lock meanwhile. A panic is the others' error, too.
func (d *flushDevice) flushLocked() {
	d.begun++
	d.mu.Unlock()
	err := errFault
	defer func() {
		d.mu.Lock()
		d.ended++
		if err != nil && d.err == nil {
			d.err = err
		}
		d.changed.Broadcast()
	}()
	err = d.Device.Flush()
}

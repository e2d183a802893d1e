package ext4

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4/blockdev"

	"golang.org/x/sys/unix"
)

// onceDevice fails one flush, as the kernel tells of a write that was lost:
// once, to whoever asks next. Flushes take a while.
type onceDevice struct {
	blockdev.Device
	lost  atomic.Bool
	calls atomic.Int32
}

func (d *onceDevice) Flush() error {
	d.calls.Add(1)
	time.Sleep(5 * time.Millisecond)
	if d.lost.CompareAndSwap(true, false) {
		return unix.EIO
	}
	return d.Device.Flush()
}

// A write that was lost is told to all that flush, not only to the first, and
// those who flush at once do not wait for as many flushes.
func TestFlushTogether(t *testing.T) {
	below := &onceDevice{Device: blockdev.NewMem(4096)}
	d := newFlushDevice(below)
	for _, lost := range []bool{false, true} {
		below.lost.Store(lost)
		below.calls.Store(0)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := d.Flush(); errors.Is(err, unix.EIO) != lost {
					t.Errorf("lost %t: %v", lost, err)
				}
			})
		}
		wg.Wait()
		if n := below.calls.Load(); n > 4 {
			t.Errorf("20 flushes at once became %d", n)
		}
	}
	if err := d.Flush(); !errors.Is(err, unix.EIO) {
		t.Errorf("a later flush: %v, want EIO", err)
	}
}

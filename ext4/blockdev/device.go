// Package blockdev is the storage beneath a file system: bytes with an offset,
// and a barrier. It knows nothing of what the bytes mean, and imports nothing
// of this module.
//
// Devices stack. Those at the bottom hold bytes; the others change what is
// seen of the device below, and close it when they are closed:
//
//	Fault     fails one call            Record   logs writes and barriers
//	   \                                  /
//	  Overlay   keeps writes in memory, above a base that is never written
//	     |
//	  Window    a part of a larger device: one partition of an image
//	     |
//	  File      a regular file or a      Mem     memory that can lose power
//	            block device
//
// The order above the bottom is free. A read-only mount of a partition whose
// journal needs replay is an Overlay on a Window on a File.
//
// # Concurrency
//
// The methods of every device here may be called from many goroutines at once,
// Close excepted: it comes last. Calls on bytes that do not overlap do not see
// each other. A read that overlaps a write in flight returns the old or the new
// value of each byte. Each kind has at most one lock, and holds it for copying
// memory, never for I/O below; Record alone holds its lock over the device
// below, so that its log has the order that this device saw.
package blockdev

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// A Device is a sequence of bytes that can be read, written and made durable.
// Its methods are safe for concurrent use. Its size does not change.
type Device interface {
	// ReadAt is as [os.File.ReadAt]: a short read comes only with an error,
	// which is io.EOF at the end of the device.
	io.ReaderAt

	// WriteAt writes all of p or returns an error. What reaches past the
	// end is a *[RangeError], and then nothing is written.
	WriteAt(p []byte, off int64) (int, error)

	// Flush is a barrier: what was written before is durable when it returns.
	Flush() error

	// Discard lets the contents of n bytes become undefined. It may do nothing.
	Discard(off, n int64) error

	Size() int64 // in bytes
	Close() error
}

// ErrReadOnly is what writes to a device opened for reading return; it is EROFS.
var ErrReadOnly = fmt.Errorf("device is open for reading only: %w", unix.EROFS)

// ErrInjected is the failure of a [Fault].
var ErrInjected = errors.New("injected fault")

// ErrOverlayFull is returned by writes to an [Overlay] that needs more memory
// than its limit. Such a write changes nothing.
var ErrOverlayFull = errors.New("overlay is full")

// A RangeError reports an access to bytes that the device does not have.
type RangeError struct {
	Op   string // "read", "write", "discard", "window"
	Off  int64  // the first byte asked for
	N    int64  // how many bytes
	Size int64  // how many the device has
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%s of %d bytes at %d: want them inside the device's %d bytes", e.Op, e.N, e.Off, e.Size)
}

// checkRange returns a *RangeError unless n bytes at off lie inside size.
func checkRange(op string, off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return &RangeError{Op: op, Off: off, N: n, Size: size}
	}
	return nil
}

// clip returns the part of p that a read at off of a device of size bytes can
// fill, and the error that comes with it: io.EOF when that is not all of p.
func clip(p []byte, off, size int64) ([]byte, error) {
	switch {
	case off < 0:
		return nil, &RangeError{Op: "read", Off: off, N: int64(len(p)), Size: size}
	case len(p) == 0:
		return nil, nil
	case off >= size:
		return nil, io.EOF
	case int64(len(p)) > size-off:
		return p[:size-off], io.EOF
	}
	return p, nil
}

// readFull fills p from d. A reader may say io.EOF along with the last byte;
// readFull does not.
func readFull(d Device, p []byte, off int64) (int, error) {
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	return n, err
}

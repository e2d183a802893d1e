package mkfs

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A patientReader reads what may be long in coming, as from a pipe, and gives
// up when stop is closed.
type patientReader struct {
	f    *os.File
	stop <-chan struct{} // nil: it never gives up
}

var _ io.Reader = (*patientReader)(nil)

// patience is how long one wait is.
const patience = 100 * time.Millisecond

func (r *patientReader) Read(p []byte) (int, error) {
	for r.stop != nil {
		select {
		case <-r.stop:
			return 0, context.Canceled
		default:
		}
		fds := []unix.PollFd{{Fd: int32(r.f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(patience.Milliseconds()))
		if n > 0 || err != nil && err != unix.EINTR {
			break // reading will say what is wrong
		}
	}
	return r.f.Read(p)
}

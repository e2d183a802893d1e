package fusesrv

import (
	"errors"
	"io"
	"log"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// errno is what the kernel is told for err, and whether a person should be
// told more:
//
//	the image is wrong            EUCLEAN, as the kernel's EFSCORRUPTED
//	a feature that we cannot      EOPNOTSUPP
//	an errno, wrapped or not      itself
//	anything else                 EIO
//
// ENOSYS never passes: to the kernel it means that no such request will ever
// be answered.
func errno(err error) (code unix.Errno, tell bool) {
	var (
		unsupported *ext4.UnsupportedError
		e           unix.Errno
	)
	switch {
	case errors.Is(err, disk.ErrCorrupt):
		return unix.EUCLEAN, true
	case errors.As(err, &unsupported):
		return unix.EOPNOTSUPP, false
	case errors.As(err, &e) && e != unix.ENOSYS && e != 0:
		return e, e == unix.EIO
	}
	return unix.EIO, true
}

// maxReports is how many different complaints are logged: a hostile image has
// no end of them.
const maxReports = 1000

// A reporter turns errors into replies and logs those that say more than
// their errno, each text once.
type reporter struct {
	log     *log.Logger // immutable
	damaged func(error) // immutable: is called with damage of the image that nobody has met before

	firstFault sync.Once

	mu   sync.Mutex
	seen map[string]bool // guarded by mu: at most maxReports
}

// status returns the reply for err, OK for nil.
func (r *reporter) status(err error) fuse.Status {
	if err == nil || err == io.EOF {
		return fuse.OK
	}
	if fault := (*ext4.FaultError)(nil); errors.As(err, &fault) {
		r.reportFault(fault)
		return fuse.EIO
	}
	code, tell := errno(err)
	if tell && r.report(err.Error()) && errors.Is(err, disk.ErrCorrupt) {
		r.damaged(err)
	}
	return fuse.Status(code)
}

// report logs text, unless it has been logged, and reports whether it did.
func (r *reporter) report(text string) bool {
	r.mu.Lock()
	if r.seen == nil {
		r.seen = make(map[string]bool)
	}
	n := len(r.seen)
	news := !r.seen[text] && n < maxReports
	if news {
		r.seen[text] = true
	}
	r.mu.Unlock()
	if !news {
		return false
	}
	r.log.Print(text)
	if n+1 == maxReports {
		r.log.Printf("these were %d complaints: further ones are not logged", maxReports)
	}
	return true
}

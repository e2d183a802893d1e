package fusesrv

import (
	"os"

	"golang.org/x/sys/unix"
)

// A pipe carries bytes from the image to the kernel without passing through
// our memory.
type pipe struct {
	r, w int
	size int // bytes it has room for, page by page
}

// newPipe makes a pipe. Without a descriptor for it, nothing fits into it.
func newPipe() *pipe {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return &pipe{r: -1, w: -1}
	}
	return &pipe{r: fd[0], w: fd[1]}
}

// fits reports whether n bytes fit, behind a header in a page of its own, and
// makes room for them if it can.
func (p *pipe) fits(n int) bool {
	n += 2 * os.Getpagesize()
	if p.r >= 0 && n > p.size {
		size, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, n)
		if err != nil {
			return false
		}
		p.size = size
	}
	return n <= p.size
}

// load puts head and the n bytes at off of fd into the empty pipe, and returns
// how many of the latter there were.
func (p *pipe) load(head []byte, fd int, off int64, n int) (int, error) {
	if _, err := unix.Write(p.w, head); err != nil {
		return 0, err
	}
	done := 0
	for done < n {
		m, err := unix.Splice(fd, &off, p.w, nil, n-done, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return done, err
		}
		done += int(m)
	}
	return done, nil
}

func (p *pipe) close() {
	if p.r >= 0 {
		unix.Close(p.r)
		unix.Close(p.w)
	}
	p.r, p.w, p.size = -1, -1, 0
}

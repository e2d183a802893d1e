package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// grow makes the file at least n bytes long.
func (p *treeProgram) grow(n *treeNode, size int64) {
	if size > int64(len(n.data)) {
		n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
	}
	p.fit(n)
}

func (p *treeProgram) fit(n *treeNode) {
	blocks := (len(n.data) + int(p.bs) - 1) / int(p.bs)
	if len(n.blocks) > blocks {
		n.blocks = n.blocks[:blocks:blocks]
	}
	n.blocks = append(n.blocks, make([]byte, blocks-len(n.blocks))...)
}

// mark says what the blocks are that bytes [from, to) touch.
func (p *treeProgram) mark(n *treeNode, from, to int64, state byte) {
	for i := from / p.bs; i*p.bs < to && i < int64(len(n.blocks)); i++ {
		n.blocks[i] = state
	}
}

// markWhole says what the blocks are that lie in [from, to).
func (p *treeProgram) markWhole(n *treeNode, from, to int64, state byte) {
	for i := (from + p.bs - 1) / p.bs; (i+1)*p.bs <= to && i < int64(len(n.blocks)); i++ {
		n.blocks[i] = state
	}
}

// modified dates a change of contents by c.
func (p *treeProgram) modified(n *treeNode, c simkernel.Cred) {
	if c.UID != 0 {
		p.strip(n, c.GID == n.gid)
	}
	p.changed(n)
}

func (p *treeProgram) contents() (what string, err error) {
	if len(p.files) == 0 || p.rng.IntN(8) == 0 {
		path, n := p.pick(isRegular)
		if n == nil {
			return "nothing", nil
		}
		c := p.pickCred()
		flags := unix.O_RDWR
		if p.rng.IntN(10) == 0 {
			flags |= unix.O_TRUNC
		}
		if p.rng.IntN(6) == 0 {
			flags |= unix.O_SYNC
		}
		f, err := p.k.Open(c, path, flags, 0)
		if err == nil {
			if flags&unix.O_TRUNC != 0 {
				if len(n.data) > 0 {
					p.modified(n, c)
				}
				n.data = nil
				p.fit(n)
			}
			err = p.opened(n, c, f)
		}
		return fmt.Sprintf("open %s %#x by %d", path, flags, c.UID), err
	}
	i := p.rng.IntN(len(p.files))
	x := p.files[i]
	if err := p.handles(x); err != nil {
		return "open again", err
	}
	what, err = p.change(i, x)
	what = fmt.Sprintf("%s of %q by %d", what, p.pathOf(x.n), x.c.UID)
	if err == nil {
		err = p.compareContents(x)
	}
	return what, err
}

func (p *treeProgram) change(i int, x *treeFile) (what string, err error) {
	n := x.n
	off, size := p.rng.Int64N(mostBytes), 1+p.rng.Int64N(20_000)
	if p.rng.IntN(4) == 0 {
		off, size = p.rng.Int64N(200), 1+p.rng.Int64N(100) // what may be inline
	}
	fill := func(n int64) []byte { return bytes.Repeat([]byte{byte(1 + p.rng.IntN(255))}, int(n)) }
	wrote := func(off int64, b []byte) {
		p.modified(n, x.c)
		p.grow(n, off+int64(len(b)))
		copy(n.data[off:], b)
		p.mark(n, off, off+int64(len(b)), blockWritten)
	}
	switch p.rng.IntN(20) {
	case 0, 1, 2:
		b := fill(size)
		if _, err = x.f.WriteAt(b, off); err == nil {
			wrote(off, b)
		}
		return fmt.Sprintf("write %d+%d", off, size), err
	case 3, 4:
		if x.d == nil {
			return "nothing", nil
		}
		off, size = off/512*512, (size+511)/512*512
		b := fill(size)
		if _, err = x.d.WriteAt(b, off); err == nil {
			wrote(off, b)
		}
		return fmt.Sprintf("direct write %d+%d", off, size), err
	case 5:
		f := x.f
		if x.d != nil && p.rng.IntN(2) == 0 {
			f, off, size = x.d, off/512*512, (size+511)/512*512
		}
		b := fill(size)
		done, err := f.WriteNowait(b, off)
		what := fmt.Sprintf("write %d+%d without waiting: %d, %v", off, size, done, err)
		if errors.Is(err, unix.EAGAIN) { // a part may have been written: as io_uring does, again
			done, err = f.WriteAt(b, off)
		}
		if done > 0 {
			wrote(off, b[:done])
		}
		return what, err
	case 6, 7:
		if off >= int64(len(n.data)) {
			return "nothing", nil
		}
		b := fill(min(size, int64(len(n.data))-off))
		if err = x.f.Store(b, off); err == nil {
			p.changed(n) // nothing but the times: no call changes contents
			copy(n.data[off:], b)
			end := off + int64(len(b))
			from, to := off/p.largest*p.largest, (end+p.largest-1)/p.largest*p.largest
			for i := from / p.bs; i*p.bs < to && i < int64(len(n.blocks)); i++ {
				if n.blocks[i] == blockHole {
					n.blocks[i] = blockEither
				}
			}
			p.mark(n, off, end, blockWritten)
		}
		return fmt.Sprintf("store %d+%d", off, len(b)), err
	case 8, 9:
		if err = x.f.Truncate(off); err == nil {
			if off != int64(len(n.data)) {
				p.modified(n, x.c)
			}
			p.grow(n, off)
			n.data = n.data[:off:off]
			p.fit(n)
		}
		return fmt.Sprintf("truncate %d", off), err
	case 10, 11:
		if err = x.f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, off, size*3); err == nil {
			p.modified(n, x.c)
			if end, have := off+size*3, int64(len(n.data)); off < have {
				clear(n.data[off:min(have, end)])
				p.markWhole(n, off, end, blockHole)
				if end >= have { // the block of the end may go with what lies behind it
					p.mark(n, have-1, have, blockEither)
				}
			}
		}
		return fmt.Sprintf("punch %d+%d", off, size*3), err
	case 12:
		if !p.extent {
			return "nothing", nil
		}
		if err = x.f.Fallocate(simkernel.FallocZeroRange, off, size*3); err == nil {
			p.modified(n, x.c)
			p.grow(n, off+size*3)
			clear(n.data[off : off+size*3])
			p.markWhole(n, off, off+size*3, blockHole)
		}
		return fmt.Sprintf("zero %d+%d", off, size*3), err
	case 13:
		if !p.extent {
			return "nothing", nil
		}
		mode := uint32(p.rng.IntN(2)) * simkernel.FallocKeepSize
		if err = x.f.Fallocate(mode, off, size*3); err == nil {
			p.modified(n, x.c)
			if mode == 0 {
				p.grow(n, off+size*3)
			}
		}
		return fmt.Sprintf("fallocate %#x %d+%d", mode, off, size*3), err
	case 14:
		return "fsync", x.f.Fsync(p.rng.IntN(2) == 0)
	case 15:
		y := p.files[(i+1)%len(p.files)]
		if y.n == n || len(y.n.data) == 0 {
			return "nothing", nil
		}
		from := p.rng.Int64N(int64(len(y.n.data)))
		size = min(size, int64(len(y.n.data))-from)
		k, err := p.k.CopyFileRange(y.f, from, x.f, off, size)
		if err == nil && k != size {
			err = fmt.Errorf("copied %d of %d bytes", k, size)
		}
		if err == nil {
			p.accessed(y.n, p.atime)
			wrote(off, slices.Clone(y.n.data[from:from+k]))
			p.mark(n, off, off+k, blockEither)
		}
		return fmt.Sprintf("copy %d from %d of another to %d", k, from, off), err
	case 16:
		got := make([]byte, size)
		k, err := x.f.ReadAt(got, off)
		if err == nil {
			p.accessed(n, p.atime)
			have := int64(len(n.data))
			err = differ(got[:k], n.data[min(off, have):min(off+size, have)])
		}
		return fmt.Sprintf("read %d+%d", off, size), err
	case 17:
		f, got := x.f, make([]byte, (size+511)/512*512)
		if x.d != nil && p.rng.IntN(2) == 0 {
			f, off = x.d, off/512*512
		}
		k, err := f.ReadNowait(got, off)
		p.accessed(n, p.atime)
		if have := int64(len(n.data)); k > 0 {
			err = differ(got[:k], n.data[min(off, have):min(off+int64(k), have)])
		}
		if errors.Is(err, unix.EAGAIN) {
			err = nil
		}
		return fmt.Sprintf("read %d+%d without waiting: %d", off, len(got), k), err
	case 18:
		return "seek", p.compareHoles(x)
	}
	return "close", p.close(i)
}

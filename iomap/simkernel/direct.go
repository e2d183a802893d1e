package simkernel

import (
	"errors"
	"fmt"
	"syscall"

	"e4go/iomap"
)

// sector is what direct I/O is aligned to: the device's logical block.
const sector = 512

// directRead reads past the page cache. The caller holds in.rw shared.
func (in *inode) directRead(p []byte, pos int64, op iomap.Op) (int, error) {
	if pos%sector != 0 || len(p)%sector != 0 {
		return 0, syscall.EINVAL
	}
	size := in.isize()
	if pos >= size {
		return 0, nil
	}
	if op&iomap.OpNowait != 0 && in.dirtyIn(pos, pos+int64(len(p))) {
		return 0, syscall.EAGAIN
	}
	if err := in.writeback(pos, pos+int64(len(p))); err != nil {
		return 0, err
	}
	end := min(pos+int64(len(p)), (size+sector-1)/sector*sector)
	for at := pos; at < end; {
		m, err := in.begin(op|iomap.OpDirect, at, end-at)
		if err != nil {
			if at > pos {
				return int(min(at, size) - pos), nil
			}
			return 0, err
		}
		to := m.end(end)
		part := p[at-pos : to-pos]
		switch m.src.Type {
		case iomap.TypeMapped:
			err = in.k.access(m.src.Dev, part, m.src.Addr+uint64(at)-m.src.Offset, false)
		case iomap.TypeInline:
			err = in.readInline(m.src, part, at)
		case iomap.TypeDelalloc:
			err = in.k.breach(fmt.Errorf("BEGIN DIRECT of node %d at %d: the answer is DELALLOC: %w", in.nodeid, at, syscall.EIO))
		default:
			clear(part)
		}
		if ferr := in.finish(op|iomap.OpDirect, at, to-at, to-at, m.src); err == nil {
			err = ferr
		}
		if err != nil {
			return 0, err
		}
		at = to
	}
	return int(min(end, size) - pos), nil
}

// directWrite writes past the page cache. The caller holds in.rw exclusively.
// However many mappings it takes, there is one IOEND.
func (in *inode) directWrite(p []byte, pos int64, op iomap.Op) (int, error) {
	if pos%sector != 0 || len(p)%sector != 0 {
		return 0, syscall.EINVAL
	}
	if op&iomap.OpNowait != 0 && (pos > in.isize() || in.dirtyIn(pos, pos+int64(len(p)))) {
		return 0, syscall.EAGAIN
	}
	if err := in.zeroFromEOF(pos); err != nil {
		return 0, err
	}
	if err := in.unmap(pos, pos+int64(len(p))); err != nil {
		return 0, err
	}
	in.stir()
	done, flags, err := in.directPieces(p, pos, op|iomap.OpWrite|iomap.OpDirect)
	e := iomap.Ioend{Flags: flags | iomap.IoendDirect, Pos: uint64(pos), Written: uint64(done), NewAddr: iomap.NullAddr, Dev: iomap.DevNull}
	if err != nil {
		e.Error = -int32(errnoOf(err))
	}
	if ierr := in.sendIoend(e); err == nil {
		err = ierr
	}
	// What a fault has brought in meanwhile is outdated.
	for _, f := range in.foliosIn(pos, pos+int64(len(p))) {
		f.mu.Lock()
		if !f.gone {
			in.drop(f)
		}
		f.mu.Unlock()
	}
	if err != nil {
		return 0, err
	}
	return int(done), nil
}

func (in *inode) directPieces(p []byte, pos int64, op iomap.Op) (done int64, flags iomap.IoendFlags, err error) {
	for done < int64(len(p)) {
		at := pos + done
		m, err := in.begin(op, at, int64(len(p))-done)
		if err != nil {
			return done, flags, err
		}
		to := m.end(pos + int64(len(p)))
		err = in.directPiece(m, p[done:to-pos], at)
		if m.dst.Type == iomap.TypeUnwritten {
			flags |= iomap.IoendUnwritten
		}
		if m.dst.Flags&iomap.FlagShared != 0 {
			flags |= iomap.IoendShared
		}
		written := to - at
		if err != nil {
			written = 0
		}
		if ferr := in.finish(op, at, to-at, written, m.dst); err == nil {
			err = ferr
		}
		if err != nil {
			return done, flags, err
		}
		done = to - pos
	}
	return done, flags, nil
}

// directPiece writes what one mapping covers. Of blocks that hold nothing yet
// the kernel zeroes what is not written.
func (in *inode) directPiece(m used, p []byte, at int64) error {
	d := m.dst
	switch d.Type {
	case iomap.TypeMapped, iomap.TypeUnwritten:
	case iomap.TypeInline:
		return in.writeInline(p, at)
	default:
		return in.k.breach(fmt.Errorf("BEGIN WRITE|DIRECT of node %d at %d: the answer is %s: %w", in.nodeid, at, d.Type, syscall.EIO))
	}
	addr := func(pos int64) uint64 { return d.Addr + uint64(pos) - d.Offset }
	bs := in.k.blockSize
	end := at + int64(len(p))
	if d.Type == iomap.TypeUnwritten || d.Flags&iomap.FlagNew != 0 {
		if head := at % bs; head != 0 {
			if err := in.k.access(d.Dev, make([]byte, head), addr(at-head), true); err != nil {
				return err
			}
		}
		if tail := end % bs; tail != 0 {
			if err := in.k.access(d.Dev, make([]byte, bs-tail), addr(end), true); err != nil {
				return err
			}
		}
	}
	return in.k.access(d.Dev, p, addr(at), true)
}

// atomicWrite writes one block that may not tear (RWF_ATOMIC).
func (in *inode) atomicWrite(p []byte, pos int64) (int, error) {
	if !in.atomic {
		return 0, syscall.EOPNOTSUPP
	}
	if int64(len(p)) != in.k.blockSize || pos%in.k.blockSize != 0 {
		return 0, syscall.EINVAL
	}
	return in.directWrite(p, pos, iomap.OpAtomic)
}

// fallback reports whether direct I/O that failed with err is done as buffered I/O.
func fallback(err error) bool {
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOTBLK)
}

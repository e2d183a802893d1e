package simkernel

import (
	"slices"
	"syscall"

	"e4go/iomap"
)

// readAhead is how far a buffered read asks beyond the folio that it needs.
const readAhead = 32 * PageSize

// bufferedRead reads through the page cache. The caller holds in.rw. With
// NOWAIT nothing is asked.
func (in *inode) bufferedRead(p []byte, pos int64, op iomap.Op) (int, error) {
	done := 0
	for done < len(p) {
		size := in.isize()
		at := pos + int64(done)
		if at >= size {
			break
		}
		f := in.lockFolio(at, true)
		var err error
		if op&iomap.OpNowait == 0 {
			err = in.fill(f, readAhead)
		} else if slices.Contains(f.uptodate, false) {
			err = syscall.EAGAIN
		}
		n := 0
		if err == nil {
			n = copy(p[done:], f.data[at-f.pos:min(int64(len(f.data)), size-f.pos)])
		}
		f.mu.Unlock()
		if err != nil {
			if done > 0 {
				break
			}
			return 0, err
		}
		done += n
	}
	return done, nil
}

// bufferedWrite writes into the page cache. The caller holds in.rw exclusively.
func (in *inode) bufferedWrite(p []byte, pos int64, op iomap.Op) (int, error) {
	if op&iomap.OpNowait != 0 && pos > in.isize() {
		return 0, syscall.EAGAIN // it would have to zero what lies between
	}
	if err := in.zeroFromEOF(pos); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		n, err := in.writeOnce(p[done:], pos+int64(done), op)
		done += n
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
	}
	return done, nil
}

// writeOnce gets one mapping and writes what it covers. No byte and no error
// means that the mapping was outdated before it was used.
func (in *inode) writeOnce(p []byte, pos int64, op iomap.Op) (int, error) {
	m, err := in.begin(op, pos, int64(len(p)))
	if err != nil {
		return 0, err
	}
	in.stir()
	want := m.end(pos+int64(len(p))) - pos
	done := int64(0)
	var failed error
	for done < want && failed == nil {
		at := pos + done
		f := in.lockFolio(at, true)
		if !in.cache.valid(m.seq) {
			f.mu.Unlock()
			break
		}
		n := min(want-done, f.pos+int64(len(f.data))-at)
		if failed = in.prepare(f, m, at, at+n); failed == nil {
			copy(f.data[at-f.pos:], p[done:done+n])
			in.touch(f, at, at+n, m.dst.Type != iomap.TypeInline)
			done += n
			in.mu.Lock()
			if at+n > in.size {
				in.size = at + n
				m.dst.Flags |= iomap.FlagSizeChanged
			}
			in.mu.Unlock()
		}
		f.mu.Unlock()
	}
	if m.dst.Type == iomap.TypeInline && done > 0 {
		if err := in.writeInline(p[:done], pos); err != nil {
			return 0, err
		}
	}
	if err := in.finish(op, pos, want, done, m.dst); err != nil && failed == nil {
		failed = err
	}
	if done > 0 {
		failed = nil
	}
	return int(done), failed
}

// prepare makes the blocks of f uptodate that [from, to) touches in part: what
// is not written must be what the file has there.
func (in *inode) prepare(f *folio, m used, from, to int64) error {
	bs := in.k.blockSize
	for at := from / bs * bs; at < to; at += bs {
		i := (at - f.pos) / bs
		if f.uptodate[i] || at >= from && at+bs <= to {
			continue
		}
		src := m.src
		if src.Flags&iomap.FlagNew != 0 || at >= in.isize() {
			src = iomap.Hole(uint64(at), uint64(bs)) // nothing that counts is there
		}
		if err := in.readBlocks(f, src, at, at+bs); err != nil {
			return err
		}
	}
	return nil
}

// touch marks the blocks of [from, to) uptodate, and dirty if they are to be written back.
func (in *inode) touch(f *folio, from, to int64, dirty bool) {
	bs := in.k.blockSize
	for i := (from - f.pos) / bs; i < (to-f.pos+bs-1)/bs; i++ {
		f.uptodate[i] = true
		if dirty {
			f.dirty[i] = true
		}
	}
}

// zeroFromEOF zeroes from the end of the file to pos, if pos lies behind it.
func (in *inode) zeroFromEOF(pos int64) error {
	if size := in.isize(); pos > size {
		return in.zeroRange(size, pos)
	}
	return nil
}

// zeroRange makes [from, to) read as zeros through the page cache. Where
// nothing is mapped or written there is nothing to do, once dirty folios over
// it are on the device.
func (in *inode) zeroRange(from, to int64) error {
	flushed := false
	for pos := from; pos < to; {
		m, err := in.begin(iomap.OpZero, pos, to-pos)
		if err != nil {
			return err
		}
		in.stir()
		end := m.end(to)
		done := end - pos
		switch m.src.Type {
		case iomap.TypeHole, iomap.TypeUnwritten:
			if !flushed && in.dirtyIn(pos, end) {
				flushed = true
				if err := in.writeback(pos, end); err != nil {
					return err
				}
				done = 0 // ask again: it may be mapped now
			}
		default:
			done, err = in.zeroMapped(m, pos, end)
			if err != nil {
				return err
			}
		}
		if err := in.finish(iomap.OpZero, pos, end-pos, done, m.dst); err != nil {
			return err
		}
		pos += done
		if done > 0 {
			flushed = false
		}
	}
	return nil
}

func (in *inode) zeroMapped(m used, from, to int64) (int64, error) {
	for at := from; at < to; {
		f := in.lockFolio(at, true)
		if !in.cache.valid(m.seq) {
			f.mu.Unlock()
			return at - from, nil
		}
		end := min(to, f.pos+int64(len(f.data)))
		err := in.prepareZero(f, m, at, end)
		f.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if m.dst.Type == iomap.TypeInline {
			if err := in.writeInline(make([]byte, end-at), at); err != nil {
				return 0, err
			}
		}
		at = end
	}
	return to - from, nil
}

func (in *inode) prepareZero(f *folio, m used, from, to int64) error {
	bs := in.k.blockSize
	for at := from / bs * bs; at < to; at += bs { // blocks that end behind the file hold data before its end
		i := (at - f.pos) / bs
		if !f.uptodate[i] && (at < from || at+bs > to) {
			if err := in.readBlocks(f, m.src, at, at+bs); err != nil {
				return err
			}
		}
	}
	clear(f.data[from-f.pos : to-f.pos])
	in.touch(f, from, to, m.dst.Type != iomap.TypeInline)
	return nil
}

func (in *inode) dirtyIn(from, to int64) bool {
	for _, f := range in.foliosIn(from, to) {
		f.mu.Lock()
		dirty := slices.Contains(f.dirty, true)
		f.mu.Unlock()
		in.mu.Lock()
		dirty = dirty || f.writing > 0
		in.mu.Unlock()
		if dirty {
			return true
		}
	}
	return false
}

// faultRead is a read through a mapping of the file into memory.
func (in *inode) faultRead(p []byte, pos int64) error {
	for done := 0; done < len(p); {
		at := pos + int64(done)
		if at >= (in.isize()+PageSize-1)/PageSize*PageSize {
			return syscall.EFAULT // SIGBUS
		}
		in.inval.RLock()
		f := in.lockFolio(at, true)
		err := in.fill(f, 0)
		if err == nil {
			done += copy(p[done:], f.data[at-f.pos:])
		}
		f.mu.Unlock()
		in.inval.RUnlock()
		if err != nil {
			return syscall.EFAULT
		}
	}
	return nil
}

// faultWrite is a store through a shared mapping: each folio is made writable,
// if it is not, and then changed.
func (in *inode) faultWrite(c Cred, p []byte, pos int64) error {
	for done := 0; done < len(p); {
		n, err := in.storeFolio(c, p[done:], pos+int64(done))
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

func (in *inode) storeFolio(c Cred, p []byte, at int64) (int, error) {
	in.inval.RLock()
	defer in.inval.RUnlock()
	f := in.lockFolio(at, true)
	defer f.mu.Unlock()
	size := in.isize()
	if at >= size {
		if len(f.uptodate) > 0 && !slices.Contains(f.uptodate, true) {
			in.drop(f)
		}
		return 0, syscall.EFAULT // SIGBUS
	}
	if err := in.fill(f, 0); err != nil {
		return 0, syscall.EFAULT
	}
	end := min(f.pos+int64(len(f.data)), size)
	bs := in.k.blockSize
	for pos := f.pos; pos < end; { // page_mkwrite
		if f.dirty[(pos-f.pos)/bs] {
			pos += bs
			continue
		}
		m, err := in.begin(iomap.OpWrite|iomap.OpFault, pos, end-pos)
		if err != nil {
			return 0, syscall.EFAULT
		}
		to := m.end(end)
		in.touch(f, pos, to, true)
		if err := in.finish(iomap.OpWrite|iomap.OpFault, pos, to-pos, to-pos, m.dst); err != nil {
			return 0, syscall.EFAULT
		}
		pos = to
	}
	in.stamp(c, true)
	return copy(f.data[at-f.pos:end-f.pos], p), nil
}

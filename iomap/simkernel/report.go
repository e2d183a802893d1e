package simkernel

import (
	"fmt"
	"slices"
	"syscall"

	"e4go/iomap"
)

// maxReports is how many questions one FIEMAP or SEEK may take here before it
// is called a loop.
const maxReports = 1 << 20

// walk asks for [from, to) with op, and calls fn with each mapping, cut to the
// range, until it returns false.
func (in *inode) walk(op iomap.Op, from, to int64, fn func(m iomap.Mapping, pos, end int64) bool) error {
	n := 0
	for pos := from; pos < to; n++ {
		if n == maxReports {
			return in.k.breach(fmt.Errorf("BEGIN %s of node %d: %d answers and no end", op, in.nodeid, n))
		}
		m, err := in.begin(op, pos, to-pos)
		if err != nil {
			return err
		}
		end := m.end(to)
		if err := in.finish(op, pos, end-pos, end-pos, m.src); err != nil {
			return err
		}
		if !fn(m.src, pos, end) {
			return nil
		}
		pos = end
	}
	return nil
}

// Fiemap returns the extents of [off, off+length), whole mappings as the
// server answers them, without holes.
func (f *File) Fiemap(off, length int64, sync bool) ([]iomap.Mapping, error) {
	in := f.in
	if sync {
		if err := in.writeback(0, in.k.maxBytes); err != nil {
			return nil, err
		}
	}
	in.rw.RLock()
	defer in.rw.RUnlock()
	var out []iomap.Mapping
	err := in.walk(iomap.OpReport, off, min(off+min(length, in.k.maxBytes-off), in.k.maxBytes), func(m iomap.Mapping, _, _ int64) bool {
		if m.Type != iomap.TypeHole {
			out = append(out, m)
		}
		return true
	})
	return out, err
}

// Seek modes.
const (
	SeekData = 3
	SeekHole = 4
)

// Seek is lseek with SEEK_DATA or SEEK_HOLE. What is unwritten counts as data
// where the page cache has some.
func (f *File) Seek(off int64, whence int) (int64, error) {
	in := f.in
	in.rw.RLock()
	defer in.rw.RUnlock()
	size := in.isize()
	if off < 0 || off >= size {
		return 0, syscall.ENXIO
	}
	found := int64(-1)
	err := in.walk(iomap.OpReport, off, size, func(m iomap.Mapping, pos, end int64) bool {
		switch m.Type {
		case iomap.TypeHole, iomap.TypeUnwritten:
			for at := pos; at < end; {
				next := min(end, (at/in.k.blockSize+1)*in.k.blockSize)
				data := m.Type == iomap.TypeUnwritten && in.cached(at)
				if data == (whence == SeekData) {
					found = at
					return false
				}
				at = next
			}
			return true
		}
		if whence == SeekData {
			found = pos
		}
		return whence != SeekData
	})
	switch {
	case err != nil:
		return 0, err
	case found >= 0:
		return found, nil
	case whence == SeekHole:
		return size, nil
	}
	return 0, syscall.ENXIO
}

// cached reports whether the block at pos is in the page cache.
func (in *inode) cached(pos int64) bool {
	f := in.lockFolio(pos, false)
	if f == nil {
		return false
	}
	defer f.mu.Unlock()
	return f.uptodate[(pos-f.pos)/in.k.blockSize]
}

// Swapon asks for the whole file as swapon(2) does, and refuses what cannot be
// swapped to.
func (f *File) Swapon() error {
	in := f.in
	if err := in.sync(); err != nil {
		return err
	}
	var problem error
	size := in.isize() / PageSize * PageSize
	var devs []uint32
	err := in.walk(iomap.OpReport|iomap.OpSwapfile, 0, size, func(m iomap.Mapping, pos, end int64) bool {
		switch {
		case m.Type != iomap.TypeMapped && m.Type != iomap.TypeUnwritten, m.Flags&(iomap.FlagShared|iomap.FlagDirty) != 0:
			problem = fmt.Errorf("swap file has %s at %d: %w", m.Type, pos, syscall.EINVAL)
		case !slices.Contains(devs, m.Dev):
			devs = append(devs, m.Dev)
		}
		return problem == nil
	})
	if err == nil {
		err = problem
	}
	if err == nil && len(devs) != 1 {
		err = syscall.EINVAL
	}
	if err != nil {
		in.sendIoend(iomap.Ioend{Flags: iomap.IoendSwapoff, Error: -int32(errnoOf(err)), NewAddr: iomap.NullAddr})
	}
	return err
}

// Swapoff ends the use as a swap file.
func (f *File) Swapoff() error {
	return f.in.sendIoend(iomap.Ioend{Flags: iomap.IoendSwapoff, NewAddr: iomap.NullAddr})
}

// Bmap returns the address on the device of the block of the file that holds
// pos, in bytes, or 0 (FIBMAP).
func (f *File) Bmap(pos int64) (int64, error) {
	bs := f.in.k.blockSize
	m, err := f.in.begin(iomap.OpReport, pos/bs*bs, bs)
	if err != nil || m.src.Type != iomap.TypeMapped {
		return 0, err
	}
	return int64(m.src.Addr + uint64(pos/bs*bs) - m.src.Offset), nil
}

package simkernel

import (
	"fmt"
	"slices"
	"sync"
	"syscall"

	"e4go/iomap"
)

// folio is a piece of the page cache: a page, or a block if that is larger, or a
// power of two of these.
// State is kept for each block of it, as fs/iomap does.
type folio struct {
	pos int64 // immutable: in the file
	mu  sync.Mutex

	data     []byte // guarded by mu
	uptodate []bool // guarded by mu: a block each
	dirty    []bool // guarded by mu
	gone     bool   // guarded by mu: no longer in the cache
	writing  int    // guarded by inode.mu: ioends that hold it under write-back
}

// folioSize is the size of the smallest folios.
func (in *inode) folioSize() int64 { return max(PageSize, in.k.blockSize) }

// maxFolio is how many of the smallest make the largest.
const maxFolio = 16

// newFolioLocked makes a folio for pos. Its size is a matter of chance, as far as there
// is room between its neighbours; in.mu is held.
func (in *inode) newFolioLocked(pos int64, order int) *folio {
	fs := in.folioSize()
	first, n := pos/fs, int64(1)
	for ; order > 0 && n < maxFolio; order-- {
		from, free := pos/fs/(2*n)*(2*n), true
		for i := from; i < from+2*n; i++ {
			free = free && in.folios[i] == nil
		}
		if !free || (from+2*n)*fs > in.k.maxBytes {
			break
		}
		first, n = from, 2*n
	}
	f := &folio{pos: first * fs, data: make([]byte, n*fs), uptodate: make([]bool, n*fs/in.k.blockSize), dirty: make([]bool, n*fs/in.k.blockSize)}
	for i := range n {
		in.folios[first+i] = f
	}
	return f
}

// lockFolio returns the folio that holds pos, locked; with create it is made if
// it is not there, else the result may be nil.
func (in *inode) lockFolio(pos int64, create bool) *folio {
	fs := in.folioSize()
	order := 0
	if create && in.k.opt.LargeFolios {
		order = in.k.pick(5)
	}
	for {
		in.mu.Lock()
		f := in.folios[pos/fs]
		if f == nil && create {
			f = in.newFolioLocked(pos, order)
		}
		in.mu.Unlock()
		if f == nil {
			return nil
		}
		f.mu.Lock()
		if !f.gone {
			return f
		}
		f.mu.Unlock()
	}
}

// foliosIn returns the folios that [from, to) touches, in order.
func (in *inode) foliosIn(from, to int64) []*folio {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []*folio
	for i, f := range in.folios {
		if i*in.folioSize() == f.pos && f.pos < to && f.pos+int64(len(f.data)) > from {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *folio) int { return int((a.pos - b.pos) / PageSize) })
	return out
}

// drop takes f, which is locked, out of the cache.
func (in *inode) drop(f *folio) {
	if f.gone {
		return
	}
	f.gone = true
	in.mu.Lock()
	for pos := f.pos; pos < f.pos+int64(len(f.data)); pos += in.folioSize() {
		delete(in.folios, pos/in.folioSize())
	}
	in.mu.Unlock()
}

// reclaim drops the clean folios of the file, as memory pressure does.
func (in *inode) reclaim() {
	for _, f := range in.foliosIn(0, in.k.maxBytes) {
		if !f.mu.TryLock() {
			continue
		}
		in.mu.Lock()
		writing := f.writing
		in.mu.Unlock()
		if !f.gone && writing == 0 && !slices.Contains(f.dirty, true) {
			in.drop(f)
		}
		f.mu.Unlock()
	}
}

// truncateCache drops what lies at and after size, without writing it, and
// zeroes the rest of the folio that holds size.
func (in *inode) truncateCache(size int64) {
	for _, f := range in.foliosIn(size, in.k.maxBytes) {
		in.lockWritten(f, &writer{}, true)
		if f.pos >= size {
			in.drop(f)
		} else {
			clear(f.data[size-f.pos:])
			first := (size - f.pos + in.k.blockSize - 1) / in.k.blockSize
			for i := first; i < int64(len(f.dirty)); i++ {
				f.dirty[i] = false
			}
			// A large folio is split, and what lies behind the end goes.
			fs := in.folioSize()
			for at := (size + fs - 1) / fs * fs; at < f.pos+int64(len(f.data)); at += in.k.blockSize {
				f.uptodate[(at-f.pos)/in.k.blockSize] = false
			}
		}
		f.mu.Unlock()
	}
}

// unmap writes [from, to) back, waits, and drops the folios that it touches.
func (in *inode) unmap(from, to int64) error {
	fs := in.folioSize()
	from, to = from/fs*fs, (to+fs-1)/fs*fs
	if err := in.writeback(from, to); err != nil {
		return err
	}
	for _, f := range in.foliosIn(from, to) {
		in.lockWritten(f, &writer{}, true)
		if !f.gone && !slices.Contains(f.dirty, true) {
			in.drop(f)
		}
		f.mu.Unlock()
	}
	return nil
}

// fill makes the blocks of f uptodate, which is locked. It asks for mappings from
// f on as far as ahead bytes.
func (in *inode) fill(f *folio, ahead int64) error {
	bs := in.k.blockSize
	for i := 0; i < len(f.uptodate); i++ {
		if f.uptodate[i] {
			continue
		}
		pos := f.pos + int64(i)*bs
		m, err := in.begin(0, pos, f.pos+max(int64(len(f.data)), ahead)-pos)
		if err != nil {
			return err
		}
		end := m.end(f.pos + int64(len(f.data)))
		if err := in.readBlocks(f, m.src, pos, end); err != nil {
			return err
		}
		if err := in.finish(0, pos, end-pos, end-pos, m.src); err != nil {
			return err
		}
		i = int((end-f.pos)/bs) - 1
	}
	return nil
}

// readBlocks reads [pos, end) of f, which m covers, where it is not uptodate.
func (in *inode) readBlocks(f *folio, m iomap.Mapping, pos, end int64) error {
	bs := in.k.blockSize
	for at := pos; at < end; at += bs {
		i := (at - f.pos) / bs
		if f.uptodate[i] {
			continue
		}
		block := f.data[at-f.pos : at-f.pos+bs]
		switch m.Type {
		case iomap.TypeMapped:
			if err := in.k.access(m.Dev, block, m.Addr+uint64(at)-m.Offset, false); err != nil {
				return err
			}
		case iomap.TypeInline:
			if err := in.readInline(m, block, at); err != nil {
				return err
			}
		default:
			clear(block)
		}
		if over := at + bs - in.isize(); over > 0 && m.Type == iomap.TypeMapped {
			// Bytes behind the end of the file are whatever is on the device; the
			// kernel zeroes them when the file grows over them, or before a page is
			// shown to a process.
			clear(block[max(0, bs-over):])
		}
		f.uptodate[i] = true
	}
	return nil
}

// readInline asks the server for inline data, by node id, with no handle.
func (in *inode) readInline(m iomap.Mapping, p []byte, pos int64) error {
	end, _ := m.End()
	n := min(int64(len(p)), int64(end)-pos)
	body := msg().u64(0).u64(uint64(pos)).u32(uint32(n)).u32(0).u64(0).u32(0).u32(0).b
	out, err := in.k.call(opRead, in.nodeid, Cred{}, body)
	if err != nil {
		return err
	}
	if len(out) == 0 || int64(len(out)) > n {
		return in.k.breach(fmt.Errorf("READ of inline data of node %d at %d+%d: reply has %d bytes: %w", in.nodeid, pos, n, len(out), syscall.EIO))
	}
	clear(p)
	copy(p, out)
	return nil
}

// writeInline hands inline data that was written to the server.
func (in *inode) writeInline(p []byte, pos int64) error {
	body := msg().u64(0).u64(uint64(pos)).u32(uint32(len(p))).u32(0).u64(0).u32(0).u32(0).raw(p).b
	out, err := in.k.call(opWrite, in.nodeid, Cred{}, body)
	if err != nil {
		return err
	}
	if n := le.Uint32(out); int(n) != len(p) {
		return in.k.breach(fmt.Errorf("WRITE of inline data of node %d at %d: %d bytes of %d: %w", in.nodeid, pos, n, len(p), syscall.EIO))
	}
	in.mu.Lock()
	in.diskSize = max(in.diskSize, pos+int64(len(p)))
	in.mu.Unlock()
	in.cache.invalidate(iomap.Inval{Read: iomap.Range{Length: iomap.ToEOF}, Write: iomap.Range{Length: iomap.ToEOF}})
	return nil
}

// stir does what the kernel may do with the inode at any time, by chance:
// write it back, complete what is pending, drop clean folios, send its times.
func (in *inode) stir() {
	if !in.onIomap || !in.k.unrest() {
		return
	}
	switch in.k.pick(5) {
	case 0, 1:
		in.writebackSome()
	case 2:
		in.wait()
		in.reclaim()
	case 3:
		if in.writeback(0, in.k.maxBytes) == nil {
			in.reclaim()
		}
	case 4:
		if !in.k.opt.Lazytime { // with it, only time or somebody who waits makes them go
			in.flushTimes()
		}
	}
}

package simkernel

import (
	"fmt"
	"slices"
	"syscall"

	"e4go/iomap"
)

// ioend is a run of blocks that is being written to the device.
type ioend struct {
	pos    int64
	data   []byte // as it was at submission; it reaches the device at completion
	addr   uint64
	dev    uint32
	flags  iomap.IoendFlags
	size   int64 // of data, less what lies behind the end of the file
	folios []*folio
	err    error
}

// writebackSome writes back a few folios and leaves their completion for later.
func (in *inode) writebackSome() {
	all := in.foliosIn(0, in.k.maxBytes)
	if len(all) == 0 {
		return
	}
	f := all[in.k.pick(len(all))]
	in.submit(f.pos, f.pos+int64(1+in.k.pick(4))*in.folioSize(), false)
	if in.k.pick(2) == 0 {
		in.wait()
	}
}

// writeback writes the dirty folios of [from, to) back, waits for all of the
// file's write-back, and returns what failed.
func (in *inode) writeback(from, to int64) error {
	in.submit(from, to, true)
	in.wait()
	for _, f := range in.foliosIn(from, to) { // what somebody else has submitted
		in.waitFor(f)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.wbErr
}

// submit maps the dirty blocks of [from, to) and makes ioends of them. Without
// all, folios that somebody works with are left for later.
func (in *inode) submit(from, to int64, all bool) {
	var w writer
	for _, f := range in.foliosIn(from, to) {
		if !in.lockWritten(f, &w, all) {
			continue
		}
		if !f.gone && slices.Contains(f.dirty, true) {
			in.submitFolio(f, &w)
		}
		f.mu.Unlock()
	}
	in.flush(&w)
}

// flush gives what w has to the device.
func (in *inode) flush(w *writer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pending = append(in.pending, w.out...)
	w.out = nil
	in.written.Broadcast()
}

// lockWritten locks f when nothing of it is under write-back. It reports whether it has, which without
// all it need not.
func (in *inode) lockWritten(f *folio, w *writer, all bool) bool {
	for {
		if in.isWriting(f) {
			in.flush(w) // for whoever waits for that
			in.waitFor(f)
		}
		if all {
			f.mu.Lock()
		} else if !f.mu.TryLock() {
			return false
		}
		if !in.isWriting(f) {
			return true
		}
		f.mu.Unlock()
	}
}

func (in *inode) isWriting(f *folio) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return f.writing > 0
}

// writer is what one run of write-back goes on with from folio to folio.
type writer struct {
	out  []*ioend
	m    used
	have bool
}

// submitFolio maps the dirty blocks of f, which is locked.
func (in *inode) submitFolio(f *folio, w *writer) {
	bs := in.k.blockSize
	size := in.isize()
	dirty := slices.Clone(f.dirty)
	clear(f.dirty)
	if f.pos >= size {
		return // being cut off
	}
	end := min(f.pos+int64(len(f.data)), size)
	clear(f.data[end-f.pos:])
	end = (end + bs - 1) / bs * bs
	for pos := f.pos; pos < end; pos += bs {
		if !dirty[(pos-f.pos)/bs] {
			continue
		}
		run := pos + bs
		for run < end && dirty[(run-f.pos)/bs] {
			run += bs
		}
		for pos < run {
			if !w.have || !w.m.dst.Covers(uint64(pos)) || !in.cache.valid(w.m.seq) {
				m, err := in.begin(iomap.OpWriteback, pos, run-pos)
				if err == nil {
					err = in.writable(m, pos, run)
				}
				if err != nil {
					in.discard(f, pos, err)
					w.have = false
					return
				}
				w.m, w.have = m, true
			}
			to := w.m.end(run)
			in.add(w, f, pos, to, size)
			pos = to
		}
		pos -= bs // the loop adds it
	}
}

// writable judges a mapping for write-back. A hole is no error to the kernel: it drops the data.
func (in *inode) writable(m used, pos, end int64) error {
	switch m.dst.Type {
	case iomap.TypeMapped, iomap.TypeUnwritten:
		return nil
	case iomap.TypeHole:
		in.k.breach(fmt.Errorf("BEGIN WRITEBACK of node %d at %d+%d: the answer is a hole, and the dirty data is lost", in.nodeid, pos, end-pos))
		return nil
	}
	return in.k.breach(fmt.Errorf("BEGIN WRITEBACK of node %d at %d+%d: the answer is %s: %w", in.nodeid, pos, end-pos, m.dst.Type, syscall.EIO))
}

// add puts [pos, to) of f into the last ioend, or a new one.
func (in *inode) add(w *writer, f *folio, pos, to, size int64) {
	m := w.m.dst
	if m.Type == iomap.TypeHole {
		return
	}
	addr := m.Addr + uint64(pos) - m.Offset
	flags := iomap.IoendWriteback
	if m.Type == iomap.TypeUnwritten {
		flags |= iomap.IoendUnwritten
	}
	if m.Flags&iomap.FlagShared != 0 {
		flags |= iomap.IoendShared
	}
	var e *ioend
	if n := len(w.out); n > 0 {
		e = w.out[n-1]
	}
	if e == nil || e.dev != m.Dev || e.flags != flags || e.pos+int64(len(e.data)) != pos || e.addr+uint64(len(e.data)) != addr {
		e = &ioend{pos: pos, addr: addr, dev: m.Dev, flags: flags}
		w.out = append(w.out, e)
	}
	e.data = append(e.data, f.data[pos-f.pos:to-f.pos]...)
	e.size = min(pos+(to-pos), size) - e.pos
	if !slices.Contains(e.folios, f) {
		e.folios = append(e.folios, f)
		in.mu.Lock()
		f.writing++
		in.mu.Unlock()
	}
}

// discard is what follows when a dirty range cannot be mapped: the rest of the
// folio is given up, the server is told, and the error kept for fsync.
func (in *inode) discard(f *folio, pos int64, err error) {
	errno := errnoOf(err)
	in.sendIoend(iomap.Ioend{
		Error: -int32(errno), Pos: uint64(pos), Written: uint64(f.pos + int64(len(f.data)) - pos),
		NewAddr: iomap.NullAddr, Dev: iomap.DevNull,
	})
	in.fail(err)
}

func (in *inode) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.wbErr == nil {
		in.wbErr = err
	}
}

// wait completes all of the file's write-back.
func (in *inode) wait() {
	in.complete.Lock()
	defer in.complete.Unlock()
	in.mu.Lock()
	todo := in.pending
	in.pending = nil
	in.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	for len(todo) > 0 { // the device is done with some of them, in any order
		n := 1 + in.k.pick(len(todo))
		in.k.shuffle(todo)
		in.completeSome(todo[:n])
		todo = todo[n:]
	}
}

// waitFor completes the write-back that f is under.
func (in *inode) waitFor(f *folio) {
	for {
		in.mu.Lock()
		for f.writing > 0 && len(in.pending) == 0 { // somebody else submits it, or completes it
			in.written.Wait()
		}
		writing := f.writing > 0
		in.mu.Unlock()
		if !writing {
			return
		}
		in.wait()
	}
}

func (k *Kernel) shuffle(e []*ioend) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rng.Shuffle(len(e), func(i, j int) { e[i], e[j] = e[j], e[i] })
}

// completeSome writes the ioends' data, merges those that follow on each
// other, and tells the server.
func (in *inode) completeSome(es []*ioend) {
	for _, e := range es {
		e.err = in.k.access(e.dev, e.data, e.addr, true)
	}
	es = slices.Clone(es)
	slices.SortFunc(es, func(a, b *ioend) int { return int((a.pos - b.pos) / 512) })
	for i := 0; i < len(es); {
		first, total := es[i], es[i].size
		folios := slices.Clone(first.folios)
		j := i + 1
		for ; j < len(es) && mergeable(es[j-1], es[j]); j++ {
			total = es[j].pos + es[j].size - first.pos
			folios = append(folios, es[j].folios...)
		}
		e := iomap.Ioend{
			Flags: first.flags, Pos: uint64(first.pos), Written: uint64(total), Dev: first.dev, NewAddr: first.addr / 512,
		}
		if first.err != nil {
			e.Error = -int32(errnoOf(first.err))
		}
		err := in.sendIoend(e)
		if err != nil && (first.err != nil || in.k.opt.Version >= iomap.V8) { // v7 loses the server's
			in.fail(err)
		}
		in.mu.Lock()
		for _, f := range folios {
			f.writing--
		}
		in.written.Broadcast()
		in.mu.Unlock()
		i = j
	}
}

// mergeable is iomap_ioend_can_merge: blocks that follow on in the file; where
// they lie on the device does not matter.
func mergeable(a, b *ioend) bool {
	return a.err == nil && b.err == nil && a.flags == b.flags && a.pos+int64(len(a.data)) == b.pos && a.size == int64(len(a.data))
}

func errnoOf(err error) syscall.Errno {
	for e := err; e != nil; {
		if errno, ok := e.(syscall.Errno); ok {
			return errno
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	return syscall.EIO
}

package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"e4go/ext4/disk"
)

// dataWriter puts contents into their places. Neighbours go to the device in one write,
// by a goroutine of its own, while the next are read.
type dataWriter struct {
	v      *volume
	gaps   []run // free runs, in order; those before first are used up
	first  int
	buf    []byte
	at     disk.PBlock // where buf goes
	full   chan pending
	empty  chan []byte
	failed chan error
	broken atomic.Bool // a write has failed
	closed bool
	err    error  // what closing returned
	read   []byte // what is being read of a file
}

type pending struct {
	at   disk.PBlock
	data []byte
}

const (
	writeSize    = 1 << 20 // bytes of one write, and of one read
	writeBuffers = 4

	flushSize = 32 << 20 // bytes after which the device is flushed, so that the end is not a long wait
)

func newDataWriter(v *volume) *dataWriter {
	w := &dataWriter{v: v, full: make(chan pending, writeBuffers), empty: make(chan []byte, writeBuffers), failed: make(chan error, 1)}
	for range writeBuffers {
		w.empty <- make([]byte, 0, writeSize)
	}
	w.buf, w.read = <-w.empty, make([]byte, writeSize)
	for b := disk.PBlock(v.sb.FirstDataBlock); ; {
		r, ok := v.space.next(b, v.space.limit)
		if !ok {
			break
		}
		w.gaps = append(w.gaps, r)
		b = r.end
	}
	go w.run()
	return w
}

// run writes what is full, and has the device flushed now and then while it goes on.
func (w *dataWriter) run() {
	var err error
	flushing := make(chan error, 1)
	flushing <- nil
	since := 0 // bytes
	for p := range w.full {
		if err == nil {
			err = w.v.writeBlock(p.at, p.data)
		}
		if since += len(p.data); since >= flushSize && err == nil {
			select {
			case err = <-flushing:
				since = 0
				go func() { flushing <- w.v.dev.Flush() }()
			default: // it takes its time
			}
		}
		w.broken.Store(err != nil)
		w.empty <- p.data[:0]
	}
	if ferr := <-flushing; err == nil {
		err = ferr // the system says it once
	}
	w.failed <- err
}

// flush hands the buffer over.
func (w *dataWriter) flush() {
	if len(w.buf) > 0 {
		w.full <- pending{w.at, w.buf}
		w.buf = <-w.empty
	}
}

// close writes what is left, and returns what went wrong.
func (w *dataWriter) close() error {
	if !w.closed {
		w.closed = true
		w.flush()
		close(w.full)
		w.err = <-w.failed
	}
	return w.err
}

// take returns places for n blocks: one, if there is one that is long enough, else several.
func (w *dataWriter) take(n uint64) ([]run, error) {
	cb := w.v.sb.ClusterBits()
	need := w.v.clusterBlocks(n)
	for w.first < len(w.gaps) && w.gaps[w.first].len() == 0 {
		w.first++
	}
	cut := func(i int, n uint64) run {
		g := &w.gaps[i]
		r := run{g.start, g.start + disk.PBlock(n)}
		g.start = min(g.start+disk.PBlock(w.v.clusterBlocks(n)), g.end)
		w.v.take(r.start, n)
		return r
	}
	for i := w.first; i < len(w.gaps); i++ {
		if w.gaps[i].len() >= need {
			return []run{cut(i, n)}, nil
		}
	}
	var out []run
	for i := w.first; i < len(w.gaps) && n > 0; i++ {
		g := w.gaps[i].len() >> cb << cb
		if g == 0 {
			continue
		}
		m := min(n, g)
		out = append(out, cut(i, m))
		n -= m
	}
	if n > 0 {
		return nil, errNoSpace
	}
	return out, nil
}

// errNoSpace is what contents fail with that do not fit.
var errNoSpace = errors.New("the file system is full: use a larger size")

// release gives a run back that has been written, and clears it: what was in
// it is nobody's business.
func (w *dataWriter) release(r run) {
	n := min(w.v.clusterBlocks(r.len()), uint64(w.v.space.limit-r.start))
	w.v.space.free(r.start, n)
	w.gaps = append(w.gaps, run{r.start, r.start + disk.PBlock(n)})
	bits := w.v.sb.BlockBits()
	for r.len() > 0 {
		n := min(r.len(), uint64(len(zeroMiB)>>bits))
		w.put(r.start, zeroMiB[:n<<bits])
		r.start += disk.PBlock(n)
	}
}

// put adds whole blocks at b to what is to be written.
func (w *dataWriter) put(b disk.PBlock, data []byte) {
	bits := w.v.sb.BlockBits()
	for len(data) > 0 {
		if len(w.buf) > 0 && (w.at+disk.PBlock(len(w.buf)>>bits) != b || len(w.buf) == cap(w.buf)) {
			w.flush()
		}
		if len(w.buf) == 0 {
			w.at = b
		}
		n := min(len(data), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, data[:n]...)
		data = data[n:]
		b += disk.PBlock(n >> bits)
	}
}

// span is a part [start, end) of a file that holds data.
type span struct{ start, end int64 }

// write gives a file its blocks and writes its content.
func (f *Builder) write(ctx context.Context, id nodeID, c Content) (err error) {
	path := f.t.path(id)
	r, err := c.Open()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); cerr != nil {
			err = cerr // the file has changed: that is why
		}
	}()
	if a, ok := r.(attributed); ok {
		n := f.t.node(id)
		if n.flags, n.project, err = a.Attributes(); err != nil {
			return err
		}
	}
	size := f.t.node(id).size
	if uint64(size) > f.v.sb.MaxFileSize(f.v.sb.Incompat.Has(disk.IncompatExtents)) {
		return errPath(path, "it has %d bytes, more than a file of this file system can have", size)
	}
	if f.inline(id, size) {
		return f.readInline(id, r, path)
	}
	spans, err := dataSpans(r, size, int64(f.v.sb.BlockSize()))
	if err != nil {
		return err
	}
	f.sums.begin(size, spans)
	m, err := f.newMapping(id, spans)
	if err != nil {
		return errPath(path, "%w", err)
	}
	for _, s := range spans {
		if err := f.copySpan(ctx, m, r, s, path); err != nil {
			return err
		}
	}
	if err := m.finish(); err != nil {
		return errPath(path, "%w", err)
	}
	f.sums.end(f, id)
	return nil
}

// dataSpans are the parts of a file that are not holes, widened to whole
// blocks and joined.
func dataSpans(r Reader, size, bs int64) ([]span, error) {
	var out []span
	for off := int64(0); off < size; {
		start, end, err := r.Data(off)
		if err != nil {
			return nil, err
		}
		if start >= size {
			break
		}
		start, end = start/bs*bs, min((end+bs-1)/bs*bs, size)
		if end <= off {
			return nil, fmt.Errorf("the data behind byte %d end at %d", off, end)
		}
		if n := len(out); n > 0 && out[n-1].end >= start {
			out[n-1].end = end
		} else {
			out = append(out, span{start, end})
		}
		off = end
	}
	return out, nil
}

// copySpan reads a part of a file and writes it to the blocks that m gives.
func (f *Builder) copySpan(ctx context.Context, m *mapping, r Reader, s span, path string) error {
	if err := r.Skip(s.start); err != nil {
		return err
	}
	bits := f.v.sb.BlockBits()
	bs := int64(f.v.sb.BlockSize())
	buf := f.w.read
	for off := s.start; off < s.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.w.broken.Load() {
			return f.w.close() // no use in reading more
		}
		part := buf[:min(s.end-off, int64(len(buf)))]
		whole := part
		if ahead, ok := r.(*aheadReader); ok {
			whole = ahead.blocks(off, s.end, bs)
			part = whole[:s.end-off]
		} else if n, err := io.ReadFull(r, part); err != nil {
			return readFailed(path, off+int64(n), f.t.node(m.id).size, err)
		} else if rest := int64(n) & (bs - 1); rest != 0 {
			whole = buf[:int64(n)+bs-rest]
			clear(whole[n:])
		}
		f.stats.bytes.Add(uint64(len(part)))
		f.sums.add(off, part)
		off += int64(len(part))
		first := disk.LBlock((off - int64(len(part))) >> bits)
		if err := m.put(first, whole); err != nil {
			return errPath(path, "%w", err)
		}
	}
	return nil
}

// readFailed is the error of reading a file of size bytes, of which n came.
func readFailed(path string, n, size int64, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errPath(path, "it ended at byte %d, and was to have %d: did it change?", n, size)
	}
	return errPath(path, "read: %w", err)
}

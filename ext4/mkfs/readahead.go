package mkfs

import (
	"context"
	"io"
	"sync"

	"e4go/ext4/disk"
)

// A readAhead writes files in order, and reads the small ones before it is their turn, on
// goroutines of its own: what they cost is mostly to open and to close them.
type readAhead struct {
	f       *Builder
	queue   []waiting // those that are being read, and large ones between
	jobs    chan *aheadContent
	buffers chan []byte // as many as may be read ahead
	ended   sync.WaitGroup
}

// waiting is a file and its contents, to be written.
type waiting struct {
	id nodeID
	c  Content
}

const (
	aheadSize  = 64 << 10 // bytes of the largest file that is read ahead
	aheadFiles = 64       // in the queue at most
)

func newReadAhead(f *Builder) *readAhead {
	a := &readAhead{f: f, jobs: make(chan *aheadContent, aheadFiles), buffers: make(chan []byte, aheadFiles)}
	for range aheadFiles {
		a.buffers <- nil
	}
	for range dirWorkers {
		a.ended.Go(func() {
			for c := range a.jobs {
				c.read()
				close(c.done)
			}
		})
	}
	return a
}

// write has a file written when those before it are.
func (a *readAhead) write(ctx context.Context, id nodeID, c Content) error {
	if len(a.queue) == aheadFiles {
		if err := a.next(ctx); err != nil {
			return err
		}
	}
	if f, ok := c.(*fileContent); ok && f.size <= aheadSize {
		ahead := &aheadContent{fileContent: f, a: a, buf: <-a.buffers, done: make(chan struct{})}
		a.jobs <- ahead
		c = ahead
	}
	a.queue = append(a.queue, waiting{id, c})
	return nil
}

// next writes the first file of the queue.
func (a *readAhead) next(ctx context.Context) error {
	w := a.queue[0]
	a.queue = a.queue[1:]
	return a.f.write(ctx, w.id, w.c)
}

// finish writes all that wait.
func (a *readAhead) finish(ctx context.Context) error {
	for len(a.queue) > 0 {
		if err := a.next(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close waits for the goroutines to end.
func (a *readAhead) close() {
	close(a.jobs)
	a.ended.Wait()
}

// aheadContent is a file that is read ahead.
type aheadContent struct {
	*fileContent
	a    *readAhead
	done chan struct{} // closed when what follows is there
	buf  []byte
	data []span // parts of buf that are not holes
	err  error

	flags   disk.FileFlags
	project uint32
}

// read reads all of the file.
func (c *aheadContent) read() {
	r, err := c.fileContent.openFile()
	if err != nil {
		c.err = err
		return
	}
	c.err = c.readFrom(r)
	if err := r.Close(); err != nil {
		c.err = err // it has changed: that is why
	}
}

func (c *aheadContent) readFrom(r *fileReader) (err error) {
	if c.flags, c.project, err = r.Attributes(); err != nil {
		return err
	}
	size := c.size
	if c.buf == nil {
		c.buf = make([]byte, aheadSize)
	}
	for off := int64(0); off < size; {
		start, end, err := r.Data(off)
		if err != nil {
			return err
		}
		start, end = min(start, size), min(end, size)
		clear(c.buf[off:start]) // a hole; the buffer had another file
		if off = end; start == size {
			break
		}
		r.Skip(start)
		if n, err := io.ReadFull(r, c.buf[start:end]); err != nil {
			return readFailed(c.path, start+int64(n), size, err)
		}
		c.data = append(c.data, span{start, end})
	}
	return nil
}

// Open implements [Content].
func (c *aheadContent) Open() (Reader, error) {
	<-c.done
	if c.err != nil {
		return nil, c.err
	}
	return &aheadReader{c: c}, nil
}

// An aheadReader is a file in memory.
type aheadReader struct {
	c  *aheadContent
	at int64
}

// Read implements [Reader].
func (r *aheadReader) Read(p []byte) (int, error) {
	n := copy(p, r.c.buf[min(r.at, r.c.size):r.c.size])
	if r.at += int64(n); n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Data implements [Reader].
func (r *aheadReader) Data(off int64) (start, end int64, err error) {
	for _, d := range r.c.data {
		if off < d.end {
			return max(off, d.start), d.end, nil
		}
	}
	return r.c.size, r.c.size, nil
}

// Skip implements [Reader].
func (r *aheadReader) Skip(off int64) error {
	r.at = off
	return nil
}

// blocks are the bytes [off, end), and zeros up to the end of the block. The file
// is not copied.
func (r *aheadReader) blocks(off, end, bs int64) []byte {
	b := r.c.buf[off : (end+bs-1)/bs*bs]
	clear(b[end-off:])
	return b
}

// Attributes implements [attributed].
func (r *aheadReader) Attributes() (disk.FileFlags, uint32, error) {
	return r.c.flags, r.c.project, nil
}

// Close implements [Reader].
func (r *aheadReader) Close() error {
	r.c.a.buffers <- r.c.buf
	r.c.buf = nil
	return nil
}

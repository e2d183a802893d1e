package mkfs

import (
	"io"
	"sync"

	"e4go/ext4/disk"
)

// A readAhead reads small files before it is their turn, on goroutines of its
// own: what they cost is mostly to open and to close them.
type readAhead struct {
	jobs    chan *aheadContent
	buffers chan []byte // as many as may be read ahead
	ended   sync.WaitGroup
}

const (
	aheadSize  = 64 << 10 // bytes of the largest file that is read ahead
	aheadFiles = 64
)

func newReadAhead() *readAhead {
	a := &readAhead{jobs: make(chan *aheadContent, aheadFiles), buffers: make(chan []byte, aheadFiles)}
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

// start begins to read what can be read ahead. Contents are to be opened in the order in
// which they are started, aheadFiles of them at most not yet closed.
func (a *readAhead) start(c Content) Content {
	f, ok := c.(*fileContent)
	if !ok || f.st.Size > aheadSize {
		return c
	}
	ahead := &aheadContent{fileContent: f, a: a, buf: <-a.buffers, done: make(chan struct{})}
	a.jobs <- ahead
	return ahead
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
	size := c.st.Size
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
	n := copy(p, r.c.buf[min(r.at, r.c.st.Size):r.c.st.Size])
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
	return r.c.st.Size, r.c.st.Size, nil
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

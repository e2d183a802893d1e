package fusesrv

import (
	"io"
	"slices"
	"strings"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// ahead reads ahead from file to file. What a request costs is mostly the way to
// the server and back, not the bytes. The kernel reads ahead in one file that is
// read from front to back; but a program that reads all the small files of a
// directory costs a request, and waits, for each. When two files are read one
// after the other in the order of their directory's listing, of inode numbers or
// of names, those that follow are put into the kernel's page cache.
//
// This is right only because nobody writes: what is stored can be neither old nor
// in the way of something newer.
type ahead struct {
	fs    *ext4.FS
	store func(node uint64, off int64, data []byte) fuse.Status // immutable after Init
	jobs  chan []disk.Ino
	quit  chan struct{} // closed to end run
	done  chan struct{} // closed when run has ended

	mu       sync.Mutex
	listings []*listing         // guarded by mu: at most maxListings, the oldest first
	places   map[disk.Ino]place // guarded by mu: of the files of listings
}

const (
	// smallFile is the size in bytes of the largest file that is read ahead
	// whole: the kernel asks for no more than this at once of a file that it begins.
	smallFile = 64 << 10

	maxListings = 8    // directories, and parts of large ones
	maxListed   = 4096 // files of one listing
	minScan     = 8    // files that are read ahead first; then twice as many each time
	maxScan     = 64

	maxJobs = 16 // waiting; what is more is dropped
)

func newAhead(fs *ext4.FS) *ahead {
	return &ahead{
		fs:     fs,
		jobs:   make(chan []disk.Ino, maxJobs),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
		places: make(map[disk.Ino]place),
	}
}

// run stores what is asked for, until stop.
func (a *ahead) run() {
	defer close(a.done)
	buf := make([]byte, smallFile)
	for {
		select {
		case <-a.quit:
			return
		case job := <-a.jobs:
			for _, ino := range job {
				if !a.fill(ino, buf) {
					break
				}
			}
		}
	}
}

// stop ends run and waits for it.
func (a *ahead) stop() {
	close(a.quit)
	<-a.done
}

// fill stores a file. It reports whether it makes sense to go on: where one file cannot be
// read, or has been forgotten by the kernel, the same is likely of the next.
func (a *ahead) fill(ino disk.Ino, buf []byte) bool {
	in, err := a.fs.Inode(ino)
	if err != nil {
		return false
	}
	n, err := in.ReadAt(buf[:min(in.Size(), int64(len(buf)))], 0)
	return (err == nil || err == io.EOF) && a.store(nodeOf(ino), 0, buf[:n]) == fuse.OK
}

// A listing is the small files of a directory, as far as they were listed.
type listing struct {
	dir    disk.Ino
	files  []listed
	last   int32    // the file that was read last, or -1
	orders [3]order // as listed, by inode, by name; empty until two files were read
}

type listed struct {
	ino  disk.Ino
	name string
}

// An order of the files of a listing, and how far a program that goes through
// them in this order has come.
type order struct {
	at     []int32 // the files in this order
	rank   []int32 // of each file, its place in at
	next   int32   // the place of the file to be read next
	window int32   // files read ahead the last time
}

type place struct {
	l *listing
	i int32
}

// listed notes the small files of a part of a directory that the kernel has
// been told of, which begins at its start if first.
func (a *ahead) listed(dir disk.Ino, first bool, files []listed) {
	if a.store == nil || len(files) == 0 && !first {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.listings, func(l *listing) bool { return l.dir == dir })
	var l *listing
	switch {
	case i >= 0 && !first && len(a.listings[i].files)+len(files) <= maxListed:
		l = a.listings[i]
	case i >= 0:
		a.forget(i)
	case len(a.listings) == maxListings:
		a.forget(0)
	}
	if l == nil {
		l = &listing{dir: dir, last: -1}
		a.listings = append(a.listings, l)
	}
	for i := range files {
		a.places[files[i].ino] = place{l, int32(len(l.files) + i)}
	}
	l.files = append(l.files, files...)
	l.orders = [3]order{}
}

// forget drops listing i. It is called with mu held.
func (a *ahead) forget(i int) {
	l := a.listings[i]
	for _, f := range l.files {
		if a.places[f.ino].l == l {
			delete(a.places, f.ino)
		}
	}
	a.listings = slices.Delete(a.listings, i, i+1)
}

// sort makes the orders.
func (l *listing) sort() {
	by := [3]func(a, b int32) int{
		func(a, b int32) int { return int(a) - int(b) },
		func(a, b int32) int { return int(l.files[a].ino) - int(l.files[b].ino) },
		func(a, b int32) int { return strings.Compare(l.files[a].name, l.files[b].name) },
	}
	for k := range l.orders {
		o := &l.orders[k]
		o.at, o.rank, o.next = make([]int32, len(l.files)), make([]int32, len(l.files)), -1
		for i := range o.at {
			o.at[i] = int32(i)
		}
		slices.SortStableFunc(o.at, by[k])
		for r, i := range o.at {
			o.rank[i] = int32(r)
		}
	}
}

// read notes that file i is read, and returns the files to be read ahead.
func (l *listing) read(i int32) (job []disk.Ino) {
	before := l.last
	l.last = i
	if before < 0 || before == i {
		return nil
	}
	if l.orders[0].at == nil {
		l.sort()
		for k := range l.orders {
			o := &l.orders[k]
			o.next = o.rank[before] + 1
		}
	}
	for k := range l.orders {
		o := &l.orders[k]
		r := o.rank[i]
		if r != o.next || job != nil {
			o.next, o.window = r+1, 0
			continue
		}
		o.window = min(max(minScan, 2*o.window), maxScan)
		o.next = min(r+1+o.window, int32(len(o.at)))
		for _, j := range o.at[r+1 : o.next] {
			job = append(job, l.files[j].ino)
		}
	}
	return job
}

// read notes a READ that begins at off.
func (a *ahead) read(in *ext4.Inode, off int64) {
	if a.store == nil || off != 0 || in.Size() > smallFile {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.places[in.Ino()]
	if !ok {
		return
	}
	job := p.l.read(p.i)
	if len(job) == 0 {
		return
	}
	select {
	case a.jobs <- job:
	default: // busy with too many already
	}
}

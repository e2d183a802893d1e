package fusesrv

import (
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// readers are the goroutines that read requests. Each answers what it has read, and reads
// again. There are as few as do the work: the kernel wakes the one that has waited longest, whose thread
// is the coldest, and a goroutine that is made for a request costs more than most requests. But a request
// that takes long must keep no other waiting. So a watcher looks at them every now and
// then while any might be missing, adds one where they all are busy but not with computing, and takes away what has not
// been needed for a while.
type readers struct {
	waiting atomic.Int32  // how many wait for a request
	number  atomic.Int32  // how many there are
	spare   atomic.Int32  // how many shall end
	look    chan struct{} // has one when the watcher is wanted
	wg      sync.WaitGroup

	mu   sync.Mutex
	all  []*reader // guarded by mu
	over bool      // guarded by mu: the connection has ended
}

type reader struct {
	turns atomic.Uint64 // odd while it answers a request
	seen  uint64        // the watcher's: turns when it looked last
}

// IdleProcs are processors of the Go runtime that a server should have beyond those of the machine. A goroutine that
// waits for a request in read(2) keeps its own as long as another is idle; where none is, the runtime takes it away
// after 20 microseconds, and to look for that and to get one back costs more than most requests.
const IdleProcs = 6

const (
	// fewReaders is how many there are at least: two, so that while one answers, another is there already.
	fewReaders = 2

	// maxReaders bounds the memory of requests: a reader has a buffer of
	// bufferSize each way.
	maxReaders = maxInflight / (2 * bufferSize)

	watchEvery = 2 * time.Millisecond
	watchIdle  = 20  // times, after which the watcher sleeps if nothing happens
	watchCalm  = 3   // times, after which one is added that waits for the disk with the others
	watchSpare = 100 // times, after which those end that always waited, but one
)

// serve runs readers until the connection ends.
func (l *loop) serve() {
	l.look = make(chan struct{}, 1)
	over := make(chan struct{})
	watched := make(chan struct{})
	for range fewReaders {
		l.addReader()
	}
	go func() {
		defer close(watched)
		l.watch(over)
	}()
	l.wg.Wait()
	close(over)
	<-watched
}

// addReader adds one, if there are requests to come. While there are, one
// reader at least is there, which wg counts.
func (l *loop) addReader() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || len(l.all) == maxReaders {
		return
	}
	l.spare.Store(0)
	r := &reader{}
	l.all = append(l.all, r)
	l.number.Add(1)
	l.wg.Add(1)
	go l.read(r)
}

// watch adds and takes away readers.
func (l *loop) watch(over <-chan struct{}) {
	tick := time.NewTimer(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-l.look:
		}
		looks, fewest := 0, maxReaders  // since when, and how many have waited at least
		cpu, calm := processorTime(), 0 // and how often all were busy, but the processors were not
		for idle := 0; idle < watchIdle; {
			tick.Reset(watchEvery)
			select {
			case <-over:
				return
			case <-tick.C:
			}
			able, moved := l.lookAtReaders()
			waiting := int(l.waiting.Load())
			if idle++; moved || waiting == 0 {
				idle = 0
			}
			// Those that wait for the disk, each for a short time only, leave the processors idle.
			used := -cpu
			cpu = processorTime()
			used += cpu
			if calm++; waiting > 0 || used > watchEvery/2 {
				calm = 0
			}
			if waiting == 0 && able < max(fewReaders, runtime.NumCPU()) || calm == watchCalm {
				l.addReader()
				calm = 0
			}
			fewest = min(fewest, waiting)
			if looks++; looks == watchSpare {
				l.spare.Store(int32(max(0, min(fewest-1, int(l.number.Load())-fewReaders))))
				looks, fewest = 0, maxReaders
			}
		}
	}
}

// lookAtReaders returns how many are not busy with a request that they had when it was called before, and
// whether any has done something since.
func (l *loop) lookAtReaders() (able int, moved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.all {
		turns := r.turns.Load()
		if turns%2 == 0 || turns != r.seen {
			able++
		}
		moved = moved || turns != r.seen
		r.seen = turns
	}
	return able, moved
}

// processorTime is what all threads of the process have used.
func processorTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) // it cannot fail
	return time.Duration(t.Nano())
}

// watchSoon wakes the watcher.
func (l *loop) watchSoon() {
	select {
	case l.look <- struct{}{}:
	default:
	}
}

// read answers requests until the connection ends or there are readers enough.
func (l *loop) read(r *reader) {
	ended := false
	defer func() {
		l.mu.Lock()
		l.all = slices.DeleteFunc(l.all, func(o *reader) bool { return o == r })
		l.over = l.over || ended
		l.mu.Unlock()
		l.number.Add(-1)
		l.wg.Done()
	}()
	b := l.newBuffers()
	defer l.freeBuffers(b)
	if d, ok := l.conn.(device); ok && l.iomap != nil {
		// For good: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := setNofs(int(d)); err != nil {
			l.log.Printf("keep the kernel from waiting for its own requests: %v", err)
		}
	}
	for {
		l.waiting.Add(1)
		n, err := l.request(b.in)
		waiting := l.waiting.Add(-1)
		if err != nil {
			if !errors.Is(err, unix.ENODEV) && !errors.Is(err, io.EOF) {
				l.log.Printf("read a request: %v", err)
			}
			l.thaw()
			ended = true
			return
		}
		if waiting == 0 || l.number.Load() > fewReaders {
			l.watchSoon()
		}
		r.turns.Add(1)
		l.answer(b, n)
		r.turns.Add(1)
		if l.isSpare() {
			return
		}
	}
}

// isSpare reports whether a reader shall end. It says so as often as there are to end.
func (l *loop) isSpare() bool {
	for n := l.spare.Load(); n > 0; n = l.spare.Load() {
		if l.spare.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

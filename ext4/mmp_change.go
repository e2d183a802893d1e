package ext4

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// The intervals of multiple mount protection, in seconds (EXT4_MMP_*).
const (
	mmpMinCheck   = 5
	mmpMaxCheck   = 300
	mmpCheckTimes = 2 // a check waits for so many update intervals
)

// mmpSecond is a second, and less in tests.
var mmpSecond = time.Second

// mmpLock keeps other hosts from mounting the file system: a block on the
// device that changes all the time.
type mmpLock struct {
	fs       *FS // immutable: before the journal was replayed, which leaves the block alone
	stop     chan struct{}
	done     chan struct{} // closed when refresh has ended
	released sync.Once

	mu   sync.Mutex
	m    disk.MMP  // guarded by mu: as it was written last
	last time.Time // guarded by mu: when
	rw   *writer   // guarded by mu: nil while the file system is being opened
	lost error     // guarded by mu: another host has it, or may have it
}

// takeMMP makes sure that no other host has the file system mounted, and says
// that this one has (ext4_multi_mount_protect). It may have to wait for twice the
// interval at which the other would have to change the block, since a host that has crashed
// looks like one that works; ctx ends that. It fails with a wrapped EBUSY if the file
// system is in use or being checked.
func (fs *FS) takeMMP(ctx context.Context) error {
	found, err := fs.MMP()
	if err != nil {
		return err
	}
	interval := max(fs.sb.MMPInterval, found.Interval, mmpMinCheck)
	wait := time.Duration(0)
	busy := func(why string) error {
		return fmt.Errorf("%s (host %q, device %q, %s): %w", why, found.Node, found.Dev, time.Unix(int64(found.Time), 0).UTC().Format(time.DateTime), unix.EBUSY)
	}
	switch found.Seq {
	case disk.MMPSeqClean:
	case disk.MMPSeqFsck:
		return busy("the file system is being checked")
	default:
		wait = time.Duration(min(uint32(interval)*2+1, uint32(interval)+60)) * mmpSecond
		if same, err := fs.mmpUnchanged(ctx, wait, found.Seq); err != nil {
			return err
		} else if !same {
			return busy("the file system is in use elsewhere")
		}
	}
	l := &mmpLock{fs: fs, stop: make(chan struct{}), done: make(chan struct{}), m: found}
	l.m.Seq = 1 + rand.Uint32N(disk.MMPSeqMax)
	l.m.Node, _ = os.Hostname()
	l.m.Dev = "e4go"
	if err := l.write(); err != nil {
		return err
	}
	if same, err := fs.mmpUnchanged(ctx, wait, l.m.Seq); err != nil {
		return err
	} else if !same {
		return busy("another host has taken the file system at the same time")
	}
	fs.mmp = l
	go l.refresh() // from now on: a replay may take longer than others wait
	return nil
}

// mmpUnchanged waits, and looks whether the number in the block is still seq.
func (fs *FS) mmpUnchanged(ctx context.Context, wait time.Duration, seq uint32) (bool, error) {
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(wait):
	}
	now, err := fs.MMP()
	return now.Seq == seq, err
}

// write puts the block on the device. The caller holds mu, or nobody else has l.
func (l *mmpLock) write() error {
	dev, sb := l.fs.dev, &l.fs.sb
	data := make([]byte, sb.BlockSize())
	at := int64(sb.MMPBlock) << sb.BlockBits()
	if _, err := dev.ReadAt(data, at); err != nil {
		return fmt.Errorf("read the MMP block %d: %w", sb.MMPBlock, err)
	}
	l.m.Time = uint64(time.Now().Unix())
	l.m.Put(data)
	if sb.MetadataCsum() {
		l.m.Checksum = disk.MMPChecksum(sb.Seed(), data)
		l.m.Put(data)
	}
	if _, err := dev.WriteAt(data, at); err != nil {
		return fmt.Errorf("write the MMP block %d: %w", sb.MMPBlock, err)
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("flush the MMP block %d: %w", sb.MMPBlock, err)
	}
	l.last = time.Now()
	return nil
}

// attach lets rw end if another host takes the file system. It fails if that
// has happened already.
func (l *mmpLock) attach(rw *writer) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rw = rw
	return l.lost
}

// refresh changes the block at each interval until it is told to stop (kmmpd).
// If that was late, and another host has taken the file system meanwhile, writing ends, and with
// it everything: what would be put on record is the other's by now.
func (l *mmpLock) refresh() {
	defer close(l.done)
	interval := time.Duration(max(l.fs.sb.MMPInterval, 1)) * mmpSecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if rw, err := l.refreshOnce(interval); err != nil {
			if rw != nil {
				rw.end(err)
			}
			return
		}
	}
}

// refreshOnce changes the block. It fails if the file system is another's, and
// returns who has to be told.
func (l *mmpLock) refreshOnce(interval time.Duration) (*writer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rw.quiet() {
		return nil, nil
	}
	late := time.Since(l.last)
	if late > max(mmpCheckTimes*interval, mmpMinCheck*mmpSecond) {
		now, err := l.fs.MMP()
		switch {
		case err != nil:
			l.lost = fmt.Errorf("whether another host has taken the file system cannot be seen: %w", err)
		case now.Seq != l.m.Seq || now.Node != l.m.Node:
			l.lost = fmt.Errorf("the file system was taken by host %q while it was in use here: %w", now.Node, unix.EBUSY)
		}
		if l.lost != nil {
			return l.rw, l.lost
		}
	}
	l.m.Interval = uint16(min(max(mmpCheckTimes*uint64(late/mmpSecond), mmpMinCheck), mmpMaxCheck))
	if l.m.Seq++; l.m.Seq > disk.MMPSeqMax {
		l.m.Seq = 1
	}
	_ = l.write() // the next try may go well; if none does, others see that it is late
	return nil, nil
}

// quiet reports whether the device is to be left alone: it is frozen, or as
// after a power cut.
func (rw *writer) quiet() bool {
	if rw == nil {
		return false
	}
	rw.mu.Lock()
	defer rw.mu.Unlock()
	return rw.frozen || rw.fs.stopped() != nil
}

// releaseMMP says that the file system is not mounted any more.
func (fs *FS) releaseMMP() error {
	l := fs.mmp
	if l == nil {
		return nil
	}
	var err error
	l.released.Do(func() {
		close(l.stop)
		<-l.done
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.lost != nil || fs.stopped() != nil {
			return // it is another's, or as after a power cut
		}
		l.m.Seq = disk.MMPSeqClean
		err = l.write()
	})
	return err
}

package ext4

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"e4go/ext4/blockdev"
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
	dev  blockdev.Device // immutable
	sb   disk.Superblock // immutable
	stop chan struct{}
	done chan struct{} // nil until refresh runs

	mu   sync.Mutex
	m    disk.MMP  // guarded by mu: as it was written last
	last time.Time // guarded by mu: when
	lost bool      // guarded by mu: another host has it
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
	l := &mmpLock{dev: fs.dev, sb: fs.sb, stop: make(chan struct{}), m: found}
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
	data := make([]byte, l.sb.BlockSize())
	at := int64(l.sb.MMPBlock) << l.sb.BlockBits()
	if _, err := l.dev.ReadAt(data, at); err != nil {
		return fmt.Errorf("read the MMP block %d: %w", l.sb.MMPBlock, err)
	}
	l.m.Time = uint64(time.Now().Unix())
	l.m.Put(data)
	if l.sb.MetadataCsum() {
		l.m.Checksum = disk.MMPChecksum(l.sb.Seed(), data)
		l.m.Put(data)
	}
	if _, err := l.dev.WriteAt(data, at); err != nil {
		return fmt.Errorf("write the MMP block %d: %w", l.sb.MMPBlock, err)
	}
	if err := l.dev.Flush(); err != nil {
		return fmt.Errorf("flush the MMP block %d: %w", l.sb.MMPBlock, err)
	}
	l.last = time.Now()
	return nil
}

// refreshMMP changes the block at each interval until it is told to stop
// (kmmpd). If that was late, and another host has taken the file system meanwhile,
// writing ends.
func (fs *FS) refreshMMP(l *mmpLock) {
	defer close(l.done)
	interval := time.Duration(max(l.sb.MMPInterval, 1)) * mmpSecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if err := fs.refreshMMPOnce(l, interval); err != nil {
			fs.rw.mu.Lock()
			fs.rw.failLocked(err)
			fs.rw.mu.Unlock()
			fs.rw.abort(err)
			return
		}
	}
}

func (fs *FS) refreshMMPOnce(l *mmpLock, interval time.Duration) error {
	fs.rw.mu.Lock()
	frozen := fs.rw.frozen
	fs.rw.mu.Unlock()
	if frozen || fs.stopped() != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	late := time.Since(l.last)
	if late > max(mmpCheckTimes*interval, mmpMinCheck*mmpSecond) {
		now, err := fs.MMP()
		if err == nil && (now.Seq != l.m.Seq || now.Node != l.m.Node) {
			l.lost = true
			return fmt.Errorf("the file system was taken by host %q while it was in use here: %w", now.Node, unix.EBUSY)
		}
	}
	l.m.Interval = uint16(min(max(mmpCheckTimes*uint64(late/mmpSecond), mmpMinCheck), mmpMaxCheck))
	if l.m.Seq++; l.m.Seq > disk.MMPSeqMax {
		l.m.Seq = 1
	}
	_ = l.write() // the next try may go well; if none does, others see that it is late
	return nil
}

// releaseMMP says that the file system is not mounted any more.
func (fs *FS) releaseMMP() error {
	l := fs.mmp
	if l == nil {
		return nil
	}
	fs.mmp = nil
	close(l.stop)
	if l.done != nil {
		<-l.done
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost || fs.stopped() != nil {
		return nil // it is another's, or as after a power cut
	}
	l.m.Seq = disk.MMPSeqClean
	return l.write()
}

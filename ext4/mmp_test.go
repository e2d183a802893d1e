package ext4

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/mkfs"

	"golang.org/x/sys/unix"
)

// A file system with multiple mount protection is taken by one at a time:
// while that one lives its number changes, and when it goes it says so.
func TestMMPTaken(t *testing.T) {
	old := mmpSecond
	mmpSecond = 2 * time.Millisecond
	defer func() { mmpSecond = old }()
	ci := crashImage{"mmp", 12 << 20, mkfs.Options{BlockSize: 1024, Features: []string{"mmp"}, MMPInterval: 5}, true}
	mem := ci.make(t)
	first, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	before, err := first.MMP()
	if err != nil || before.Seq == disk.MMPSeqClean || before.Seq > disk.MMPSeqMax {
		t.Fatalf("after opening: %+v, %v", before, err)
	}
	time.Sleep(40 * mmpSecond)
	if now, _ := first.MMP(); now.Seq == before.Seq {
		t.Error("the number does not change")
	}
	if _, err := crashOpen(mem); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened twice: %v, want EBUSY", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	second, err := crashOpen(mem)
	if err != nil {
		t.Fatalf("opened after it was closed: %v", err)
	}
	if time.Since(begin) > time.Minute {
		t.Error("a clean file system was waited for")
	}
	// Killed, it looks in use until the number has stood still for long enough.
	close(second.mmp.stop)
	<-second.mmp.done
	second.abandon()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := OpenContext(ctx, mem, Options{Write: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	third, err := crashOpen(mem)
	if err != nil {
		t.Fatalf("opened after a crash: %v", err)
	}
	// Another host that did not wait takes it: nothing more is written here.
	m, _ := third.MMP()
	m.Seq, m.Node = 77, "elsewhere"
	l := mmpLock{fs: third.mmp.fs, m: m}
	third.mmp.mu.Lock()
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
	third.mmp.last = time.Now().Add(-time.Hour)
	theirs := mem.Clone()
	third.mmp.mu.Unlock()
	for i := 0; ; i++ {
		err := third.Update(context.Background(), func(*Handle) error { return nil })
		if errors.Is(err, unix.EROFS) {
			break
		}
		if i == 1000 {
			t.Fatalf("still writing although another host has it: %v", err)
		}
		time.Sleep(mmpSecond)
	}
	if err := third.Close(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("closing what another host has taken: %v, want EBUSY", err)
	}
	if !sameBytes(t, mem, theirs) {
		t.Error("the device has changed although another host has it")
	}
	// A check that goes on elsewhere is respected.
	l.m.Seq = disk.MMPSeqFsck
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := crashOpen(mem); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened while it is checked: %v, want EBUSY", err)
	}
	reader, err := Open(mem, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if m, _ := reader.MMP(); m.Seq != disk.MMPSeqFsck {
		t.Errorf("closing has changed the other's number to %#x", m.Seq)
	}
}

// slowDevice holds back reads of the journal until it is told.
type slowDevice struct {
	blockdev.Device
	from, end int64
	once      sync.Once
	reading   chan struct{} // closed with the first
	goOn      chan struct{}
}

func (d *slowDevice) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.from && off < d.end {
		d.once.Do(func() { close(d.reading) })
		<-d.goOn
	}
	return d.Device.ReadAt(p, off)
}

// While a journal is replayed, however long that takes, others see that the
// file system is in use.
func TestMMPWhileReplaying(t *testing.T) {
	old := mmpSecond
	mmpSecond = 2 * time.Millisecond
	defer func() { mmpSecond = old }()
	mem := crashImage{"mmp", 12 << 20, mkfs.Options{BlockSize: 1024, Features: []string{"mmp"}, MMPInterval: 5}, true}.make(t)
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create(context.Background(), Root, disk.RootIno, "a", disk.ModeReg|0o600); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	loc, err := fs.journalLocation(false)
	if err != nil {
		t.Fatal(err)
	}
	close(fs.mmp.stop)
	<-fs.mmp.done
	fs.abandon()
	dev := &slowDevice{Device: mem, reading: make(chan struct{}), goOn: make(chan struct{})}
	dev.from = int64(loc.Extents[0].Start+1) << 10
	dev.end = dev.from + 10<<10
	opened := make(chan error)
	go func() {
		fs, err := crashOpen(dev)
		if err == nil {
			err = fs.Close()
		}
		opened <- err
	}()
	<-dev.reading
	if _, err := crashOpen(mem); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened while another replays its journal: %v, want EBUSY", err)
	}
	close(dev.goOn)
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

package ext4

import (
	"context"
	"errors"
	"testing"
	"time"

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
	l := mmpLock{dev: mem, sb: third.sb, m: m}
	third.mmp.mu.Lock()
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
	third.mmp.last = time.Now().Add(-time.Hour)
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
	// A check that goes on elsewhere is respected.
	l.m.Seq = disk.MMPSeqFsck
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := crashOpen(mem); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened while it is checked: %v, want EBUSY", err)
	}
	if err := third.Close(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("closing what another host has taken: %v, want EBUSY", err)
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

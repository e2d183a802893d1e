package fsck_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
)

// faulty are images that together are read in all ways.
var faulty = []string{"ext2-1k", "ext4-1k", "inline-data", "ea-inode-1k", "quota", "mmp", "orphan-file-clean", "fast-commit-1k", "encrypted-1k", "orphan-file"}

// TestEveryReadFails lets each read of the device fail once: the error comes
// out, with a report.
func TestEveryReadFails(t *testing.T) {
	for _, name := range faulty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := inMemory(t, name)
			damage(t, mem) // so that owners and names are looked for
			for n := 0; ; n++ {
				dev := &blockdev.Fault{Device: mem, N: n}
				report, err := fsck.Run(context.Background(), dev, fsck.Options{Replay: true, Workers: 1 + n%2})
				if report == nil {
					t.Fatalf("read %d failed: no report", n)
				}
				if dev.Calls() <= n {
					if err != nil || !report.Damaged() {
						t.Fatalf("no read failed: %v, damaged is %t", err, report.Damaged())
					}
					if n < 10 {
						t.Fatalf("only %d reads", n)
					}
					return
				}
				if !errors.Is(err, blockdev.ErrInjected) {
					t.Errorf("read %d failed: %v, damaged is %t", n, err, report.Damaged())
				}
			}
		})
	}
}

// damage lets two files share their blocks, and spoils a link count.
func damage(t *testing.T, mem *blockdev.Mem) {
	v := newVolume(t, mem, mem)
	var first *site
	for ino := v.sb.FirstIno + 1; uint32(ino) <= v.sb.Inodes; ino++ {
		in, err := v.fs.Inode(ino)
		if err != nil || in.Type() != 0o100000 || in.HasInlineData() || in.Size() == 0 || in.Disk().BlocksRaw == 0 {
			continue
		}
		s := v.inodeSite(ino)
		if first == nil {
			first = &s
			v.change(s.at, s.size, func(b []byte) { b[0x1a] = 9 })
		} else {
			v.write(s.at+0x28, v.read(first.at+0x28, 60))
			v.change(s.at, s.size, func(b []byte) {
				copy(b[0x20:0x24], v.read(first.at+0x20, 4))
			})
		}
		s.repair()
		if s.at != first.at {
			return
		}
	}
	t.Fatal("no two files")
}

// cancelling ends a context at the n-th read, and counts those after it.
type cancelling struct {
	blockdev.Device
	n, calls atomic.Int64
	cancel   context.CancelFunc
}

func (c *cancelling) ReadAt(p []byte, off int64) (int, error) {
	if c.calls.Add(1) == c.n.Load() {
		c.cancel()
	}
	return c.Device.ReadAt(p, off)
}

// TestCancel ends the check at each read: few come after it, and the report says so.
func TestCancel(t *testing.T) {
	for _, name := range faulty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := inMemory(t, name)
			damage(t, mem)
			for n := int64(1); ; n++ {
				ctx, cancel := context.WithCancel(context.Background())
				dev := &cancelling{Device: mem, cancel: cancel}
				dev.n.Store(n)
				start := time.Now()
				report, err := fsck.Run(ctx, dev, fsck.Options{Replay: true, Workers: 2})
				cancel()
				if dev.calls.Load() < n {
					if report.Cancelled || err != nil {
						t.Fatalf("not cancelled, and the report says %t, %v", report.Cancelled, err)
					}
					return
				}
				if err != nil || !report.Cancelled {
					t.Errorf("cancelled at read %d: %v, the report says %t", n, err, report.Cancelled)
				}
				if after := dev.calls.Load() - n; after > 40 || time.Since(start) > 5*time.Second {
					t.Errorf("cancelled at read %d: %d more, %v", n, after, time.Since(start))
				}
			}
		})
	}
}

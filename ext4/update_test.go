package ext4

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/mkfs"

	"golang.org/x/sys/unix"
)

// An inode that is deleted is not changed any more: its number, and the blocks that
// it would get, would be nobody's.
func TestDeletedInode(t *testing.T) {
	mem := crashImages()[0].make(t)
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	in, err := fs.Resolve("/f4", false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := fs.Mkdir(ctx, Root, disk.RootIno, "d", disk.ModeDir|0o755)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fs.Unlink(ctx, Root, disk.RootIno, "f4"), fs.Rmdir(ctx, Root, disk.RootIno, "d")); err != nil {
		t.Fatal(err)
	}
	ino, mode, size := in.Ino(), disk.Mode(0o600), int64(99)
	for what, do := range map[string]func() error{
		"write":     func() error { _, err := fs.WriteAt(ctx, Root, ino, make([]byte, 5000), 0); return err },
		"truncate":  func() error { return fs.Truncate(ctx, Root, ino, 12345) },
		"fallocate": func() error { return fs.Fallocate(ctx, Root, ino, 0, 0, 50_000) },
		"chmod":     func() error { return fs.SetAttr(ctx, Root, ino, SetAttr{Mode: &mode}) },
		"size":      func() error { return fs.SetAttr(ctx, Root, ino, SetAttr{Size: &size}) },
		"xattr":     func() error { return fs.Setxattr(ctx, Root, ino, "user.a", []byte("b"), 0) },
		"chmod dir": func() error { return fs.SetAttr(ctx, Root, d.Ino(), SetAttr{Mode: &mode}) },
	} {
		if err := do(); !errors.Is(err, unix.ESTALE) {
			t.Errorf("%s: got %v, want ESTALE", what, err)
		}
	}
	for what, do := range map[string]func() error{
		"create in":   func() error { _, err := fs.Create(ctx, Root, d.Ino(), "x", disk.ModeReg|0o600); return err },
		"unlink in":   func() error { return fs.Unlink(ctx, Root, d.Ino(), "x") },
		"link":        func() error { return fs.Link(ctx, Root, ino, disk.RootIno, "x") },
		"rename into": func() error { return fs.Rename(ctx, Root, disk.RootIno, "f1", d.Ino(), "x", 0) },
	} {
		if err := do(); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: got %v, want ENOENT", what, err)
		}
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

// A panic inside an update, at any of the times that it asks the clock, leaves
// no trace: neither of what it has changed nor of what it has taken.
func TestPanicInUpdate(t *testing.T) {
	ctx := context.Background()
	big := make([]byte, 40_000)
	for _, ci := range crashImages() {
		if ci.name == "64k" {
			continue
		}
		t.Run(ci.name, func(t *testing.T) {
			mem := ci.make(t)
			left := -1 // calls of the clock until it panics
			fs, err := Open(mem, Options{Write: true, CommitInterval: time.Hour, Now: func() time.Time {
				if left--; left == -1 {
					panic("the clock")
				}
				return crashClock()
			}})
			if err != nil {
				t.Fatal(err)
			}
			f5, err := fs.Resolve("/f5", false)
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.Setxattr(ctx, Root, f5.Ino(), "user.long", big[:800], 0); err != nil {
				t.Fatal(err)
			}
			ino := f5.Ino()
			unit := int64(fs.sb.BlockSize()) << fs.sb.ClusterBits()
			ops := []struct {
				name string
				do   func() error
			}{
				{"write", func() error { _, err := fs.WriteAt(ctx, Root, ino, big, 400_000); return err }},
				{"truncate", func() error { return fs.Truncate(ctx, Root, ino, 3000) }},
				{"fallocate", func() error { return fs.Fallocate(ctx, Root, ino, FallocKeepSize, 500_000, 100_000) }},
				{"zero", func() error { return fs.Fallocate(ctx, Root, ino, FallocZeroRange, 65536, 131072) }},
				{"punch", func() error { return fs.Fallocate(ctx, Root, ino, FallocPunchHole|FallocKeepSize, 5000, 100_000) }},
				{"insert", func() error { return fs.Fallocate(ctx, Root, ino, FallocInsertRange, unit, unit) }},
				{"collapse", func() error { return fs.Fallocate(ctx, Root, ino, FallocCollapseRange, unit, unit) }},
				{"create", func() error { _, err := fs.Create(ctx, Root, disk.RootIno, "new", disk.ModeReg|0o600); return err }},
				{"mkdir", func() error { _, err := fs.Mkdir(ctx, Root, disk.RootIno, "newdir", disk.ModeDir|0o700); return err }},
				{"symlink", func() error {
					_, err := fs.Symlink(ctx, Root, disk.RootIno, "link", fmt.Sprintf("%0300d", 1))
					return err
				}},
				{"tmpfile", func() error { _, err := fs.Tmpfile(ctx, Root, disk.RootIno, disk.ModeReg|0o600); return err }},
				{"xattr", func() error { return fs.Setxattr(ctx, Root, ino, "user.long", big[:700], 0) }},
				{"xattr in an inode", func() error {
					err := fs.Setxattr(ctx, Root, ino, "user.huge", big, 0)
					if errors.Is(err, unix.ENOSPC) {
						return nil // without the feature
					}
					return err
				}},
				{"rename", func() error { return fs.Rename(ctx, Root, disk.RootIno, "f3", disk.RootIno, "f4", 0) }},
				{"unlink", func() error { return fs.Unlink(ctx, Root, disk.RootIno, "f5") }},
			}
			for _, op := range ops {
				for n := 0; ; n++ {
					if n > 200 {
						t.Fatalf("%s: there is no end of calls", op.name)
					}
					before, err := readTree(fs)
					if err != nil {
						t.Fatal(err)
					}
					free := fs.taken()
					left = n
					err, panicked := panics(op.do)
					left = -1
					if !panicked {
						if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
							t.Errorf("%s: %v", op.name, err)
						}
						break
					}
					if got := fs.taken(); got != free {
						if op.name == "unlink" && fs.sb.Incompat.Has(disk.IncompatEAInode) {
							break // the file is an orphan, and the rest of it goes with a second update
						}
						t.Fatalf("%s, panic at call %d: %s, before %s", op.name, n, got, free)
					}
					after, err := readTree(fs)
					if err != nil {
						t.Fatalf("%s, panic at call %d: %v", op.name, n, err)
					}
					if err := sameTree(after, before, before); err != nil {
						t.Fatalf("%s, panic at call %d: %v", op.name, n, err)
					}
				}
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			if err := judge(mem, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// taken says what is free, and what is reserved by nobody who is there.
func (fs *FS) taken() string {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	rw := fs.rw
	kept := uint64(0)
	for _, o := range rw.open {
		kept += o.prealloc.n >> fs.sb.ClusterBits()
	}
	return fmt.Sprintf("%d clusters and %d inodes free, %d on the device; %d orphans, %d open, %d xattr blocks, %d EA inodes",
		rw.free+kept, rw.freeInodes, rw.freeDisk, len(rw.orphans), len(rw.open), rw.xattrBlocks.n, rw.eaInodes.n)
}

// panics calls fn and reports whether it has panicked.
func panics(fn func() error) (err error, panicked bool) {
	defer func() { panicked = recover() != nil }()
	return fn(), false
}

// A journal that holds transactions, in a file system that says that it needs
// no recovery (as debugfs can make it), is neither replayed nor emptied: nothing is written, and
// with the flag back everything is there.
func TestJournalNotWanted(t *testing.T) {
	mem := crashImages()[0].make(t)
	ctx := context.Background()
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := fs.Create(ctx, Root, disk.RootIno, fmt.Sprint("a", i), disk.ModeReg|0o600); err != nil {
			t.Fatal(err)
		}
		if err := fs.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	fs.abandon()
	setRecover := func(set bool) {
		raw := readSuperBytes(mem)
		sb := disk.DecodeSuperblock(raw)
		if sb.Incompat &^= disk.IncompatRecover; set {
			sb.Incompat |= disk.IncompatRecover
		}
		sb.Put(raw)
		sb.Checksum = disk.SuperblockChecksum(raw)
		sb.Put(raw)
		mem.WriteAt(raw, disk.SuperblockOffset)
	}
	setRecover(false)
	log := blockdev.NewRecord(mem)
	var unsupported *UnsupportedError
	if _, err := Open(log, Options{Write: true}); !errors.As(err, &unsupported) {
		t.Errorf("open for writing: %v, want an *UnsupportedError", err)
	}
	if n := len(log.Log()); n > 0 {
		t.Errorf("%d writes and flushes, want none", n)
	}
	setRecover(true)
	if fs, err = crashOpen(mem); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Resolve("/a2", false); err != nil {
		t.Error(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

// An update that takes many runs of one group changes that group's bitmap
// once: it fits into the smallest journal.
func TestManyRunsInOneUpdate(t *testing.T) {
	mem := crashImage{"ea_inode, small journal", 8 << 20, mkfs.Options{BlockSize: 1024, JournalMiB: 1, Features: []string{"ea_inode"}}, true}.make(t)
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	in, err := fs.Create(ctx, Root, disk.RootIno, "sieve", disk.ModeReg|0o600)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); ; off += 1 << 20 {
		if err := fs.Fallocate(ctx, Root, in.Ino(), 0, off, 1<<20); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for b := range int64(200) {
		if err := fs.Fallocate(ctx, Root, in.Ino(), FallocPunchHole|FallocKeepSize, 2*b<<10, 1<<10); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := fs.Setxattr(ctx, Root, in.Ino(), "user.big", make([]byte, 60_000), 0); err != nil {
		t.Error(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

// Who waits for a file system that is frozen, for a journal that is full, or
// for a file that somebody changes, can give up.
func TestGiveUpWaiting(t *testing.T) {
	mem := smallJournal.make(t)
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	f5, err := fs.Resolve("/f5", false)
	if err != nil {
		t.Fatal(err)
	}
	ino := f5.Ino()
	bg := context.Background()
	gives := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithCancel(bg)
		done := make(chan error)
		go func() { done <- do(ctx) }()
		select {
		case err := <-done:
			t.Fatalf("%s: did not wait: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want that it was cancelled", what, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: still waiting", what)
		}
	}
	write := func(ctx context.Context) error { _, err := fs.WriteAt(ctx, Root, ino, []byte("x"), 0); return err }
	create := func(ctx context.Context) error {
		_, err := fs.Create(ctx, Root, disk.RootIno, "x", disk.ModeReg|0o600)
		return err
	}
	if err := fs.Freeze(bg); err != nil {
		t.Fatal(err)
	}
	gives("create while frozen", create)
	gives("write while frozen", write)
	gives("truncate while frozen", func(ctx context.Context) error { return fs.Truncate(ctx, Root, ino, 5) })
	gives("trim while frozen", func(ctx context.Context) error { _, err := fs.Trim(ctx, 0, 1<<30, 0); return err })
	if err := fs.Thaw(); err != nil {
		t.Fatal(err)
	}

	mu, err := fs.rw.lockInode(bg, ino)
	if err != nil {
		t.Fatal(err)
	}
	gives("write to a file that is being changed", write)
	gives("freeze while a file is being changed", fs.Freeze)
	mu.unlock()

	// Nothing is committed while this is held.
	fs.rw.commitMu.Lock()
	full := func() bool {
		fs.rw.mu.Lock()
		defer fs.rw.mu.Unlock()
		return fs.rw.fullLocked()
	}
	for i := 0; !full(); i++ {
		if err := fs.Update(bg, func(h *Handle) error {
			n, err := h.allocMeta(disk.PBlock(i))
			if err == nil {
				h.fresh(kindLink, nil, n)
				err = h.free(run{n, 1}, false)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	gives("create while the journal is full", create)
	fs.rw.commitMu.Unlock()
	if err := errors.Join(create(bg), write(bg), fs.Close()); err != nil {
		t.Fatal(err)
	}
	if err := judge(mem, false); err != nil {
		t.Error(err)
	}
}

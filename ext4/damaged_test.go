package ext4

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// An update that meets corruption fails with what is corrupt, changes
// nothing, and leads to what errors= says.
func TestCorruptionWhileWriting(t *testing.T) {
	ci := crashImages()[0]
	base := ci.make(t)
	for _, policy := range []ErrorPolicy{ErrorsContinue, ErrorsRemountRO, ErrorsPanic} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			mem := base.Clone()
			damageBitmaps(t, mem)
			fs, err := Open(mem, Options{Write: true, Errors: policy, Now: crashClock})
			if err != nil {
				t.Fatal(err)
			}
			in, err := fs.Resolve("/f5", false)
			if err != nil {
				t.Fatal(err)
			}
			f0, err := fs.Resolve("/f0", false)
			if err != nil {
				t.Fatal(err)
			}
			touch := func(h *Handle) error {
				in, err := h.inode(f0.Ino())
				if err == nil {
					in.touch(true)
				}
				return err
			}
			// Now the log has a superblock without errors.
			if err := fs.Update(context.Background(), touch); err != nil {
				t.Fatal(err)
			}
			if err := fs.Sync(); err != nil {
				t.Fatal(err)
			}
			err = fs.Truncate(context.Background(), Root, in.Ino(), 0)
			var bad *disk.CorruptError
			if !errors.As(err, &bad) {
				t.Fatalf("truncate with a broken bitmap: %v, want a *disk.CorruptError", err)
			}
			now, err := fs.Inode(in.Ino())
			switch {
			case policy == ErrorsPanic && !errors.Is(err, unix.EIO):
				t.Errorf("a look after panic: %v, want EIO", err)
			case policy != ErrorsPanic && (err != nil || now.Size() != in.Size()):
				t.Errorf("the file after a truncate that failed: %v, %v", now, err)
			}
			// What does not meet it goes on, or not, as the policy is.
			err = fs.Update(context.Background(), touch)
			wantErr := map[ErrorPolicy]error{ErrorsContinue: nil, ErrorsRemountRO: unix.EROFS, ErrorsPanic: unix.EIO}[policy]
			if !errors.Is(err, wantErr) {
				t.Errorf("another update: got %v, want %v", err, wantErr)
			}
			if err := fs.Close(); (err == nil) != (policy == ErrorsContinue) {
				t.Errorf("close: %v", err)
			}
			// Whoever comes next is told; replay does not make it forgotten.
			after, err := Open(mem, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer after.Close()
			raw, _, err := ReadSuper(mem, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if raw.State&disk.StateError == 0 || raw.ErrorCount == 0 || raw.FirstError.Code != codeCorrupted || raw.LastError.Block != bad.Block {
				t.Errorf("the superblock has state %#x, %d errors, the first %+v, the last %+v", raw.State, raw.ErrorCount, raw.FirstError, raw.LastError)
			}
			if errno := after.Journal().Super.Errno; (errno != 0) != (policy != ErrorsContinue) {
				t.Errorf("s_errno of the journal is %d", errno)
			}
			replayed := mem.Clone()
			if _, err := Open(replayed, Options{Write: true}); !errors.As(err, new(*UnsupportedError)) {
				t.Errorf("opened for writing with errors on record: %v", err)
			}
			if sb, _, err := ReadSuper(replayed, Options{}); err != nil || sb.State&disk.StateError == 0 || sb.ErrorCount != raw.ErrorCount {
				t.Errorf("after replay the superblock has state %#x and %d errors, %v", sb.State, sb.ErrorCount, err)
			}
			found, err := readTree(after)
			if err != nil {
				t.Fatal(err)
			}
			if err := findState([]*modelState{crashStart()}, 0, found, 1024); err != nil {
				t.Error(err)
			}
		})
	}
}

// damageBitmaps breaks the checksums of all block bitmaps in use.
func damageBitmaps(t *testing.T, mem *blockdev.Mem) {
	t.Helper()
	fs, err := Open(mem, Options{NoRecovery: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	for g := range fs.sb.Groups() {
		d, err := fs.groupDesc(disk.Group(g))
		if err != nil {
			t.Fatal(err)
		}
		if d.Flags&disk.GroupBlockUninit == 0 {
			flip(mem, int64(d.BlockBitmap)<<fs.sb.BlockBits())
		}
	}
}

func flip(mem *blockdev.Mem, at int64) {
	b := make([]byte, 1)
	mem.ReadAt(b, at)
	b[0] ^= 0x10
	mem.WriteAt(b, at)
	mem.Flush()
}

// Damage at random places never becomes worse: operations on it go well, or
// fail with an error of a known kind, and fsck-lite finds no other kind of problem
// behind them than before.
func TestWritingToDamaged(t *testing.T) {
	ci := crashImages()[0]
	base := ci.make(t)
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		mem := base.Clone()
		for range 1 + rng.IntN(4) {
			flip(mem, rng.Int64N(600<<10)) // bitmaps, descriptors, tables of the first groups
		}
		known, err := problemKinds(mem)
		if err != nil {
			t.Fatal(err)
		}
		fs, err := crashOpen(mem)
		if err != nil {
			continue
		}
		for range 10 {
			path := fmt.Sprintf("/f%d", rng.IntN(6))
			in, err := fs.Resolve(path, false)
			if err != nil {
				continue
			}
			switch rng.IntN(4) {
			case 0:
				_, err = fs.WriteAt(context.Background(), Root, in.Ino(), make([]byte, 5000), rng.Int64N(400_000))
			case 1:
				err = fs.Truncate(context.Background(), Root, in.Ino(), rng.Int64N(400_000))
			case 2:
				_, err = fs.Create(context.Background(), Root, disk.RootIno, fmt.Sprint("c", rng.IntN(99)), disk.ModeReg|0o600)
			case 3:
				err = fs.Unlink(context.Background(), Root, disk.RootIno, path[1:])
			}
			var errno unix.Errno
			if err != nil && !errors.Is(err, disk.ErrCorrupt) && !errors.As(err, &errno) {
				t.Errorf("seed %d: an error of no kind: %v", seed, err)
			}
		}
		_ = fs.Close() // with errors on record it may fail
		found, err := problemKinds(mem)
		if err != nil {
			t.Fatal(err)
		}
		for code := range found {
			if !known[code] {
				t.Errorf("seed %d: %s is new", seed, code)
			}
		}
	}
}

// Inodes damaged so that their checksums are right: opening, or what meets them,
// says what is wrong, and does not go through what is not there.
func TestDamagedInodes(t *testing.T) {
	ci := crashImages()[4] // inline data
	base := ci.make(t)
	fs, err := Open(base, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	list, err := fs.structures()
	if err != nil {
		t.Fatal(err)
	}
	f5 := fs.inoOf(t, "/f5")
	for name, d := range map[string]struct {
		ino    disk.Ino
		field  string
		change func(in *disk.Inode)
	}{
		"an orphan file of 8 TiB":       {fs.sb.OrphanFileIno, "i_size", func(in *disk.Inode) { in.Size = 1 << 43 }},
		"an orphan file of inline data": {fs.sb.OrphanFileIno, "i_flags", func(in *disk.Inode) { in.Flags |= disk.FlagInlineData }},
		"a file of less than nothing":   {f5, "i_size", func(in *disk.Inode) { in.Size |= 0xffff << 48 }},
		"a file of 2 EiB":               {f5, "i_size", func(in *disk.Inode) { in.Size |= 1 << 61 }},
	} {
		t.Run(name, func(t *testing.T) {
			mem := base.Clone()
			s := list[slices.IndexFunc(list, func(s structure) bool { return s.what == fmt.Sprintf("inode %d", d.ino) })]
			b := make([]byte, s.n)
			mem.ReadAt(b, s.at)
			in := disk.DecodeInode(b)
			d.change(&in)
			in.Put(b)
			s.repair(b, mem)
			mem.WriteAt(b, s.at)
			expect := func(what string, err error) {
				t.Helper()
				var bad *disk.CorruptError
				if !errors.As(err, &bad) || bad.Field != d.field {
					t.Errorf("%s: %v, want an error about %s", what, err, d.field)
				}
			}
			start := time.Now()
			fs, err := Open(mem, Options{Write: true, Errors: ErrorsContinue})
			if d.ino != f5 {
				expect("open", err)
			} else if err != nil {
				t.Fatal(err)
			} else {
				ctx := context.Background()
				_, err := fs.WriteAt(ctx, Root, f5, []byte("x"), 0)
				expect("write", err)
				expect("truncate", fs.Truncate(ctx, Root, f5, 5))
				expect("fallocate", fs.Fallocate(ctx, Root, f5, FallocPunchHole|FallocKeepSize, 0, 4096))
				expect("unlink", fs.Unlink(ctx, Root, disk.RootIno, "f5"))
				_ = fs.Close()
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Who reads what is damaged in a file system that is written gets an error, which is put
// on record, and nobody waits for ever.
func TestReadDamaged(t *testing.T) {
	ctx := context.Background()
	base := crashImages()[13].make(t) // with inline data and EA inodes
	noMap := func(in *Inode) { clear(in.disk.Block[:4]) }
	noData := func(in *Inode) { in.disk.Flags |= disk.FlagInlineData }
	link := func(damage func(in *Inode)) func(in *Inode) {
		return func(in *Inode) {
			in.disk.Mode, in.disk.Size = disk.ModeLink|0o777, 100
			damage(in)
		}
	}
	contents := func(in *Inode) error { _, err := in.ReadAt(make([]byte, 100), 0); return err }
	hole := func(in *Inode) error { _, err := in.SeekHole(0); return err }
	target := func(in *Inode) error { _, err := in.Readlink(); return err }
	xattr := func(in *Inode) error { _, err := in.Getxattr("user.big"); return err }
	for name, d := range map[string]struct {
		damage func(in *Inode)
		ofEA   bool // not the file is damaged, but the EA inode of its xattr
		read   func(in *Inode) error
	}{
		"contents":        {noMap, false, contents},
		"inline contents": {noData, false, contents},
		"holes":           {noMap, false, hole},
		"link":            {link(noMap), false, target},
		"inline link":     {link(noData), false, target},
		"large xattr":     {noMap, true, xattr},
	} {
		t.Run(name, func(t *testing.T) {
			fs, err := Open(base.Clone(), Options{Write: true, Errors: ErrorsContinue, Now: crashClock})
			if err != nil {
				t.Fatal(err)
			}
			f5 := fs.inoOf(t, "/f5")
			if err := fs.Setxattr(ctx, Root, f5, "user.big", make([]byte, 9000), 0); err != nil {
				t.Fatal(err)
			}
			err = fs.Update(ctx, func(h *Handle) error {
				in, err := h.inode(f5)
				if err != nil {
					return err
				}
				if d.ofEA {
					list, err := in.stored()
					if err != nil {
						return err
					}
					x := list[slices.IndexFunc(list, func(x storedXattr) bool { return x.ValueIno != 0 })]
					if in, err = h.inode(x.ValueIno); err != nil {
						return err
					}
				}
				d.damage(in)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			in, err := fs.Inode(f5)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- d.read(in) }()
			select {
			case err = <-done:
			case <-time.After(time.Minute):
				t.Fatal("still reading after a minute")
			}
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Errorf("read: %v, want a *disk.CorruptError", err)
			}
			fs.rw.mu.Lock()
			noted := fs.rw.super.ErrorCount
			fs.rw.mu.Unlock()
			if noted == 0 {
				t.Error("the superblock does not know of it")
			}
			if _, err := fs.Create(ctx, Root, disk.RootIno, "new", disk.ModeReg|0o600); err != nil {
				t.Errorf("work goes on: %v", err)
			}
			if err := fs.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A journal that holds transactions, of which the superblock says nothing, is neither
// replayed nor written over.
func TestJournalNotMarked(t *testing.T) {
	ci := crashImages()[0]
	base := ci.make(t)
	fs, err := crashOpen(base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create(context.Background(), Root, disk.RootIno, "new", disk.ModeReg|0o600); err != nil {
		t.Fatal(err)
	}
	if err := fs.Sync(); err != nil {
		t.Fatal(err)
	}
	fs.abandon()
	raw := readSuperBytes(base)
	sb := disk.DecodeSuperblock(raw)
	sb.Incompat &^= disk.IncompatRecover
	sb.Put(raw)
	sb.Checksum = disk.SuperblockChecksum(raw)
	sb.Put(raw)
	base.WriteAt(raw, disk.SuperblockOffset)
	before := base.Clone()
	if _, err := crashOpen(base); !errors.As(err, new(*UnsupportedError)) {
		t.Errorf("opened for writing: %v", err)
	}
	if !sameBytes(t, base, before) {
		t.Error("the image has changed")
	}
}

// Blocks that two extents of a file lead to are not given back twice.
func TestExtentsThatOverlap(t *testing.T) {
	ctx := context.Background()
	mem := crashImages()[0].make(t)
	fs, err := Open(mem, Options{Write: true, Errors: ErrorsContinue, Now: crashClock})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	in, err := fs.Create(ctx, Root, disk.RootIno, "twice", disk.ModeReg|0o644)
	if err != nil {
		t.Fatal(err)
	}
	bs := fs.sb.BlockSize()
	if _, err := fs.WriteAt(ctx, Root, in.ino, make([]byte, 4*bs), 0); err != nil {
		t.Fatal(err)
	}
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(in.ino)
		if err != nil {
			return err
		}
		path, _, err := in.extentPath(0)
		if err != nil {
			return err
		}
		list := extentsOf(path[0].entries)
		again := list[0]
		again.Block, again.Start, again.Len = 10, again.Start+1, 2
		fillRoot(&in.disk, entriesOf(append(list, again)), 0)
		in.disk.Size = uint64(12 * bs)
		in.addBlocks(2)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := fs.rw.freeDisk
	if err := fs.Truncate(ctx, Root, in.ino, 0); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("truncate: %v, want a *disk.CorruptError", err)
	}
	if fs.rw.freeDisk != before {
		t.Errorf("%d clusters are free, %d were", fs.rw.freeDisk, before)
	}
	// One at a time they can go.
	if err := fs.Truncate(ctx, Root, in.ino, int64(10*bs)); err != nil {
		t.Error(err)
	}
}

// An index that names one of its own nodes as a leaf: without checksums that looks like a
// block with room for names, and must not get any.
func TestIndexLeadsToItsRoot(t *testing.T) {
	ctx := context.Background()
	mem := crashImages()[7].make(t) // no checksums
	fs, err := crashOpen(mem)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := fs.Mkdir(ctx, Root, disk.RootIno, "d", disk.ModeDir|0o755)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if _, err := fs.Create(ctx, Root, dir.Ino(), fmt.Sprintf("%0100d", i), disk.ModeReg|0o644); err != nil {
			t.Fatal(err)
		}
	}
	if dir, err = fs.Inode(dir.Ino()); err != nil {
		t.Fatal(err)
	}
	blk, err := dir.dirPhysical(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1024)
	mem.ReadAt(data, int64(blk)*1024)
	n := disk.DxRootNode(data)
	if n.Count() < 2 || fs.sb.MetadataCsum() {
		t.Fatalf("an index of %d leaves, with checksums: %t", n.Count(), fs.sb.MetadataCsum())
	}
	for i := range n.Count() {
		n.SetEntry(i, disk.DxEntry{Hash: n.Entry(i).Hash, Block: 0})
	}
	mem.WriteAt(data, int64(blk)*1024)
	if fs, err = Open(mem, Options{Write: true, Errors: ErrorsContinue}); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Create(ctx, Root, dir.Ino(), "new", disk.ModeReg|0o644); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("a name in the root of the index: %v, want a *disk.CorruptError", err)
	}
	_ = fs.Close()
	after := make([]byte, 1024)
	if mem.ReadAt(after, int64(blk)*1024); string(after) != string(data) {
		t.Error("the root has changed")
	}
}

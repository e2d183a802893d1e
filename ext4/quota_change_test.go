package ext4

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// chown gives an inode to other ids.
func chown(t testing.TB, fs *FS, who Caller, ino disk.Ino, uid, gid, project uint32) error {
	t.Helper()
	return fs.Update(context.Background(), func(h *Handle) error {
		h.limit(who)
		in, err := h.inode(ino)
		if err == nil {
			in.disk.UID, in.disk.GID, in.disk.ProjID = uid, gid, project
		}
		return err
	})
}

// quotaEntry returns the entry of an id.
func quotaEntry(t testing.TB, fs *FS, typ disk.QuotaType, id uint32) (e disk.QuotaEntry) {
	t.Helper()
	changeQuotaEntry(t, fs, typ, id, func(now *disk.QuotaEntry) { e = *now })
	return e
}

func changeQuotaEntry(t testing.TB, fs *FS, typ disk.QuotaType, id uint32, fn func(*disk.QuotaEntry)) {
	t.Helper()
	err := fs.Update(context.Background(), func(h *Handle) error {
		q, err := h.quotaFile(typ)
		if err != nil {
			return err
		}
		b, err := q.entry(id)
		if err != nil {
			return err
		}
		e := disk.DecodeQuotaEntry(b)
		e.ID = id
		fn(&e)
		e.Put(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever is done, the quota files count what e2fsck does.
func TestQuotaUsage(t *testing.T) {
	for i, args := range [][]string{
		{"-O", "quota,project", "-I", "256", "-b", "1024"},
		{"-O", "quota,project,ea_inode,inline_data", "-I", "1024"},
		{"-O", "quota,64bit,ea_inode", "-b", "4096"},
		{"-O", "quota,^has_journal,^metadata_csum", "-E", "quotatype=grpquota"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			image := newImage(t, someFiles, args...)
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			ctx := context.Background()
			project := fs0(t, image).ROCompat.Has(disk.ROCompatProject)
			for range rounds(2) {
				fs, done := openWrite(t, image, Options{QuotaLimits: []disk.QuotaType{disk.QuotaUser, disk.QuotaGroup, disk.QuotaProject}})
				ids := func() uint32 {
					// Close to each other, and spread over the levels of the tree.
					id := uint32(rng.IntN(60))
					return id << (8 * rng.IntN(4))
				}
				for op := range 400 {
					path := someNames[rng.IntN(len(someNames))]
					ino := fs.inoOf(t, "/"+path)
					in, err := fs.Inode(ino)
					if err != nil {
						t.Fatal(err)
					}
					switch k := rng.IntN(6); {
					case k == 0 && in.Type() == disk.ModeReg:
						_, err = fs.WriteAt(ctx, Root, ino, make([]byte, 1+rng.IntN(60000)), int64(rng.IntN(200000)))
					case k == 1 && in.Type() == disk.ModeReg:
						err = fs.Truncate(ctx, Root, ino, int64(rng.IntN(100000)))
					case k == 2:
						err = fs.Setxattr(ctx, Root, ino, "trusted.x", randomValue(rng), 0)
					case k == 3:
						err = fs.Removexattr(ctx, Root, ino, "trusted.x")
					default:
						p := uint32(0)
						if project {
							p = ids()
						}
						err = chown(t, fs, Root, ino, ids(), ids(), p)
					}
					if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOSPC) {
						t.Fatalf("operation %d on %s: %v", op, path, err)
					}
				}
				done()
				checkImage(t, image)
			}
		})
	}
}

// fs0 is the superblock of an image.
func fs0(t testing.TB, image string) *disk.Superblock {
	t.Helper()
	fs, done := openWrite(t, image, Options{})
	defer done()
	return fs.Super()
}

// A tree with more entries than a leaf and a block of the file hold.
func TestQuotaManyIDs(t *testing.T) {
	image := newImage(t, manyFiles(1), "-O", "quota")
	fs, done := openWrite(t, image, Options{})
	ino := fs.inoOf(t, "/0")
	if _, err := fs.WriteAt(context.Background(), Root, ino, make([]byte, 10000), 0); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(1000) {
		if err := chown(t, fs, Root, ino, i*i*5003, i, 0); err != nil {
			t.Fatal(i, err)
		}
	}
	if e := quotaEntry(t, fs, disk.QuotaGroup, 999); e.Space != 10240 || e.Inodes != 1 {
		t.Errorf("group 999 has %d bytes in %d inodes", e.Space, e.Inodes)
	}
	if e := quotaEntry(t, fs, disk.QuotaGroup, 998); e.Space != 0 || e.Inodes != 0 {
		t.Errorf("group 998 has %d bytes in %d inodes", e.Space, e.Inodes)
	}
	done()
	checkImage(t, image)
}

func TestQuotaLimits(t *testing.T) {
	image := newImage(t, manyFiles(3), "-O", "quota", "-b", "1024", "-I", "256")
	now := time.Unix(1700000000, 0)
	fs, done := openWrite(t, image, Options{QuotaLimits: []disk.QuotaType{disk.QuotaUser}, Now: func() time.Time { return now }})
	ctx := context.Background()
	user := Caller{UID: 7, GID: 8}
	ino := fs.inoOf(t, "/0")
	write := func(who Caller, size, at int64) error {
		_, err := fs.WriteAt(ctx, who, ino, make([]byte, size), at)
		return err
	}
	want := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	want("chown", chown(t, fs, Root, ino, 7, 8, 0), nil)
	changeQuotaEntry(t, fs, disk.QuotaUser, 7, func(e *disk.QuotaEntry) { e.BlockSoftLimit, e.BlockHardLimit, e.InodeHardLimit = 10, 20, 2 })
	changeQuotaEntry(t, fs, disk.QuotaGroup, 8, func(e *disk.QuotaEntry) { e.BlockHardLimit = 1 }) // of a type that is not enforced

	want("10 KiB", write(user, 10<<10, 0), nil)
	want("above the soft limit", write(user, 1<<10, 10<<10), nil)
	if e := quotaEntry(t, fs, disk.QuotaUser, 7); e.Space != 11<<10 || e.BlockTime != uint64(now.Unix()+7*24*3600) {
		t.Errorf("%d bytes, time until %d", e.Space, e.BlockTime)
	}
	want("up to the hard limit", write(user, 9<<10, 11<<10), nil)
	want("above it", write(user, 1, 20<<10), unix.EDQUOT)
	want("over what is there", write(user, 20<<10, 0), nil)
	want("above it, root", write(Root, 1, 20<<10), nil)
	if in, _ := fs.Inode(ino); in.Size() != 20<<10+1 {
		t.Errorf("size %d", in.Size())
	}
	want("cut", fs.Truncate(ctx, user, ino, 15<<10), nil)
	want("in time", write(user, 1<<10, 15<<10), nil)
	now = now.Add(8 * 24 * time.Hour)
	want("too late", write(user, 1, 16<<10), unix.EDQUOT)
	want("cut below the soft limit", fs.Truncate(ctx, user, ino, 10<<10), nil)
	if e := quotaEntry(t, fs, disk.QuotaUser, 7); e.Space != 10<<10 || e.BlockTime != 0 {
		t.Errorf("%d bytes, time until %d", e.Space, e.BlockTime)
	}
	want("time runs anew", write(user, 1<<10, 10<<10), nil)
	want("an xattr block", fs.Setxattr(ctx, user, ino, "user.x", make([]byte, 500), 0), nil)

	// As much of a long write as the limit leaves.
	if n, err := fs.WriteAt(ctx, user, ino, make([]byte, 1<<20), 11<<10); n != 8<<10 || err != nil && !errors.Is(err, unix.EDQUOT) {
		t.Errorf("a long write: %d bytes, %v, want %d", n, err, 8<<10)
	}
	want("another's file", chown(t, fs, Root, fs.inoOf(t, "/1"), 7, 8, 0), nil)
	want("one too many", chown(t, fs, user, fs.inoOf(t, "/2"), 7, 8, 0), unix.EDQUOT)
	want("one too many, root", chown(t, fs, Root, fs.inoOf(t, "/2"), 7, 8, 0), nil)
	done()
	checkImage(t, image)
}

// A new file counts, and a deleted one does not any more.
func TestQuotaOfNewAndDeleted(t *testing.T) {
	image := newImage(t, manyFiles(0), "-O", "quota,project,ea_inode")
	fs, done := openWrite(t, image, Options{QuotaLimits: []disk.QuotaType{disk.QuotaUser}})
	ctx := context.Background()
	user := Caller{UID: 7, GID: 8}
	var ino disk.Ino
	create := func() error {
		return fs.Update(ctx, func(h *Handle) error {
			dir, err := h.inode(disk.RootIno)
			if err != nil {
				return err
			}
			in, err := h.newFile(user, dir, disk.ModeReg|0o644)
			if err != nil {
				return err
			}
			ino = in.ino
			return h.addOrphan(in)
		})
	}
	if err := create(); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.WriteAt(ctx, user, ino, make([]byte, 5000), 0); err != nil {
		t.Fatal(err)
	}
	if err := fs.Setxattr(ctx, user, ino, "user.x", make([]byte, 10000), 0); err != nil {
		t.Fatal(err)
	}
	bs := int64(fs.sb.BlockSize())
	want := uint64((5000+bs-1)/bs*bs + (10000+bs-1)/bs*bs)
	for _, e := range []disk.QuotaEntry{quotaEntry(t, fs, disk.QuotaUser, 7), quotaEntry(t, fs, disk.QuotaGroup, 8)} {
		if e.Space != want || e.Inodes != 2 {
			t.Errorf("id %d: %d bytes in %d inodes, want %d in 2", e.ID, e.Space, e.Inodes, want)
		}
	}
	changeQuotaEntry(t, fs, disk.QuotaUser, 7, func(e *disk.QuotaEntry) { e.InodeHardLimit = 2 })
	last := ino
	if err := create(); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("a third inode: %v, want EDQUOT", err)
	}
	if err := fs.evict(ctx, last); err != nil {
		t.Fatal(err)
	}
	if e := quotaEntry(t, fs, disk.QuotaUser, 7); e.Space != 0 || e.Inodes != 0 {
		t.Errorf("after all is deleted: %d bytes in %d inodes", e.Space, e.Inodes)
	}
	done()
	checkImage(t, image)
}

// Blocks that are in no use, and a list of leaves with room, as the kernel
// leaves them when entries go away, are used before the file grows.
func TestQuotaFreeLists(t *testing.T) {
	image := newImage(t, manyFiles(1), "-O", "quota")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	ino := fs.inoOf(t, "/0")
	var before disk.QuotaHeader
	err := fs.Update(ctx, func(h *Handle) error {
		q, err := h.quotaFile(disk.QuotaUser)
		if err != nil {
			return err
		}
		head, err := q.header()
		if err != nil {
			return err
		}
		var n [4]uint32 // two blocks in no use, two leaves
		for i := range n {
			if n[i], err = q.newBlock(&head); err != nil {
				return err
			}
		}
		put := func(n uint32, l disk.QuotaLeafHeader) {
			if b, e := q.edit(n); e != nil {
				err = e
			} else {
				l.Put(b)
			}
		}
		put(n[0], disk.QuotaLeafHeader{NextFree: n[1]})
		put(n[1], disk.QuotaLeafHeader{})
		put(n[2], disk.QuotaLeafHeader{NextFree: n[3]})
		put(n[3], disk.QuotaLeafHeader{PrevFree: n[2], NextFree: head.FreeEntry})
		old := head.FreeEntry
		put(old, func() disk.QuotaLeafHeader {
			b, e := q.read(old)
			if e != nil {
				err = e
				return disk.QuotaLeafHeader{}
			}
			l := disk.DecodeQuotaLeafHeader(b)
			l.PrevFree = n[3]
			return l
		}())
		head.FreeBlock, head.FreeEntry = n[0], n[2]
		before = head
		return errors.Join(err, q.putHeader(head))
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(35) { // two leaves are full then, and half of the third
		if err := chown(t, fs, Root, ino, 1+i%2<<16|i, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	err = fs.Update(ctx, func(h *Handle) error {
		q, err := h.quotaFile(disk.QuotaUser)
		if err != nil {
			return err
		}
		head, err := q.header()
		if head.FreeBlock != 0 || head.Blocks != before.Blocks {
			t.Errorf("%d blocks, free %d; before, %d blocks, free %d", head.Blocks, head.FreeBlock, before.Blocks, before.FreeBlock)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done()
	checkImage(t, image)
}

// A directory whose files inherit a project shows the limits of that, where
// these are enforced.
func TestStatfsOfProject(t *testing.T) {
	image := newImage(t, manyFiles(1), "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota")
	ctx := context.Background()
	for _, enforced := range []bool{false, true} {
		o := Options{}
		if enforced {
			o.QuotaLimits = []disk.QuotaType{disk.QuotaProject}
		}
		fs, done := openWrite(t, image, o)
		const project = 77
		if !enforced {
			dir, err := fs.Mkdir(ctx, Root, disk.RootIno, "project", 0o755)
			if err != nil {
				t.Fatal(err)
			}
			flags, id := dir.FlagsShown()|disk.FlagProjInherit, uint32(project)
			if err := fs.SetAttr(ctx, Root, dir.Ino(), SetAttr{Flags: &flags, Project: &id}); err != nil {
				t.Fatal(err)
			}
			in, err := fs.Create(ctx, Root, dir.Ino(), "file", disk.ModeReg|0o644)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fs.WriteAt(ctx, Root, in.Ino(), make([]byte, 100<<10), 0); err != nil {
				t.Fatal(err)
			}
			changeQuotaEntry(t, fs, disk.QuotaProject, project, func(e *disk.QuotaEntry) {
				e.BlockHardLimit, e.BlockSoftLimit, e.InodeHardLimit = 1<<10, 512, 10 // KiB
			})
		}
		bs := fs.sb.BlockSize()
		all, err := fs.Statfs()
		if err != nil {
			t.Fatal(err)
		}
		used := quotaEntry(t, fs, disk.QuotaProject, project)
		dir := fs.inoOf(t, "/project")
		for _, tt := range []struct {
			name    string
			ino     disk.Ino
			limited bool
		}{{"/project", dir, enforced}, {"/project/file", fs.inoOf(t, "/project/file"), false}, {"/", disk.RootIno, false}} {
			want := all
			if tt.limited {
				want.Blocks = uint64(512 << 10 / bs)
				want.Free = want.Blocks - used.Space/uint64(bs)
				want.Avail, want.Files, want.FreeFiles = want.Free, 10, 10-used.Inodes
			}
			got, err := fs.StatfsOf(tt.ino)
			if err != nil || got != want {
				t.Errorf("%s, enforced %v: %+v, want %+v; %v", tt.name, enforced, got, want, err)
			}
		}
		if enforced {
			// More than the limit is in use, and no limit at all.
			changeQuotaEntry(t, fs, disk.QuotaProject, project, func(e *disk.QuotaEntry) {
				e.BlockHardLimit, e.BlockSoftLimit, e.InodeHardLimit, e.InodeSoftLimit = 8, 0, 0, 0
			})
			got, err := fs.StatfsOf(dir)
			if err != nil || got.Blocks != uint64(8<<10/bs) || got.Free != 0 || got.Avail != 0 || got.Files != all.Files {
				t.Errorf("over the limit: %+v, %v", got, err)
			}
			flags, id := fs.flagsOf(t, "/project"), uint32(99999) // of whom nothing is on record
			if err := fs.SetAttr(ctx, Root, dir, SetAttr{Flags: &flags, Project: &id}); err != nil {
				t.Fatal(err)
			}
			all, err := fs.Statfs() // the quota file has grown
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fs.StatfsOf(dir); err != nil || got != all {
				t.Errorf("a project without limits: %+v, want %+v; %v", got, all, err)
			}
		}
		done()
	}
	checkImage(t, image)
}

func (fs *FS) flagsOf(t *testing.T, path string) disk.FileFlags {
	t.Helper()
	in, err := fs.Resolve(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return in.FlagsShown()
}

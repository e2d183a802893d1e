package ext4_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// fragment gives a file n extents of a block each, with a hole behind each of
// them, from byte at on: so many that its tree has no room left, if n is right.
func fragment(t *testing.T, fs *ext4.FS, f *contents, at int64, n int) {
	t.Helper()
	bs := int64(fs.Super().BlockSize())
	for i := range int64(n) {
		if _, err := fs.WriteAt(context.Background(), ext4.Root, f.ino, []byte{1}, at+2*i*bs); err != nil {
			t.Fatal(err)
		}
		f.fill([]byte{1}, at+2*i*bs)
	}
}

// A write where no block is left for the tree to grow is there whole, also if
// it goes over from one unwritten extent to the next.
func TestZeroOutOfTwoExtents(t *testing.T) {
	ctx := context.Background()
	image := volume{args: "-t ext4 -b 4096 -m 0 -O sparse_super2,^resize_inode -E num_backup_sb=0", size: "600M"}.make(t, "a")
	fs, closeFS := writable(t, image, ext4.Options{})
	f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
	const bs = 4096
	if err := fs.Fallocate(ctx, ext4.Root, f.ino, 0, 0, 100<<10*bs); err != nil {
		t.Fatal(err)
	}
	f.resize(100 << 10 * bs)
	in, err := fs.Inode(f.ino)
	if err != nil {
		t.Fatal(err)
	}
	// Where one extent ends and the run goes on in the next.
	ends, err := in.ExtentEnds(0)
	if err != nil {
		t.Fatal(err)
	}
	border := uint64(0)
	for _, end := range ends {
		m, err := in.Map(disk.LBlock(end - 1))
		if err != nil {
			t.Fatal(err)
		}
		if m.End() > end+20 {
			border = end
		}
	}
	if border == 0 || len(ends) != 4 {
		t.Fatalf("extents end at %d: want four, and two of one run", ends)
	}
	release, err := fs.ReserveAll()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 40*bs)
	for i := range p {
		p[i] = byte(i/bs) + 1
	}
	at := int64(border-20) * bs
	if _, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, at); err != nil {
		t.Fatal(err)
	}
	f.fill(p, at)
	if err := f.check(fs, at-100*bs, 300*bs); err != nil {
		t.Error(err)
	}
	release()
	closeFS()
	sound(t, image)
}

// Where no block is left for the tree to grow, a write to blocks that are kept
// behind the end of a file leaves no written blocks there.
func TestZeroOutBehindTheEnd(t *testing.T) {
	ctx := context.Background()
	image := fullVolumes[0].make(t, "a")
	fs, closeFS := writable(t, image, ext4.Options{})
	f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
	const bs = 4096
	fragment(t, fs, f, 0, 3)
	if err := fs.Fallocate(ctx, ext4.Root, f.ino, ext4.FallocKeepSize, 16*bs, 64*bs); err != nil {
		t.Fatal(err)
	}
	release, err := fs.ReserveAll()
	if err != nil {
		t.Fatal(err)
	}
	n, err := fs.WriteAt(ctx, ext4.Root, f.ino, []byte("data"), 20*bs)
	if n > 0 {
		f.fill([]byte("data")[:n], 20*bs)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) || (n == 4) != (err == nil) {
		t.Fatal(n, err)
	}
	if err := f.check(fs, 0, 1<<20); err != nil {
		t.Error(err)
	}
	release()
	closeFS()
	sound(t, image)
}

// One update maps no more than its transaction takes, also where numbers of
// blocks stand in blocks of their own.
func TestLargeWriteSmallJournal(t *testing.T) {
	ctx := context.Background()
	for _, v := range []volume{
		{name: "ext3", args: "-t ext3 -b 1024 -J size=1", size: "64M"},
		{name: "ext4", args: "-t ext4 -b 1024 -J size=1", size: "64M"},
	} {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a")
			fs, closeFS := writable(t, image, ext4.Options{})
			f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
			p := make([]byte, 20<<20)
			for i := range p {
				p[i] = byte(i >> 8)
			}
			if n, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, 0); err != nil {
				t.Fatal(n, err)
			}
			f.fill(p, 0)
			if err := f.check(fs, 0, int64(len(p))); err != nil {
				t.Error(err)
			}
			closeFS()
			sound(t, image)
		})
	}
}

// A deleted inode takes nothing.
func TestWriteDeleted(t *testing.T) {
	ctx := context.Background()
	image := fullVolumes[0].make(t, "a")
	fs, closeFS := writable(t, image, ext4.Options{})
	in, err := fs.Resolve("/a", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Unlink(ctx, ext4.Root, disk.RootIno, "a"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		fn   func() error
	}{
		{"write", func() error {
			_, err := fs.WriteAt(ctx, ext4.Root, in.Ino(), make([]byte, 10000), 0)
			return err
		}},
		{"truncate", func() error { return fs.Truncate(ctx, ext4.Root, in.Ino(), 10) }},
		{"fallocate", func() error { return fs.Fallocate(ctx, ext4.Root, in.Ino(), 0, 0, 10000) }},
		{"set attributes", func() error {
			size := int64(100)
			return fs.SetAttr(ctx, ext4.Root, in.Ino(), ext4.SetAttr{Size: &size})
		}},
	} {
		if err := tt.fn(); !errors.Is(err, unix.ESTALE) {
			t.Errorf("%s: %v, want ESTALE", tt.name, err)
		}
	}
	closeFS()
	sound(t, image)
}

// Who writes to a file of a group that he is not in takes set-group-ID from
// it, also if it is not one of a program.
func TestWriteClearsSetGID(t *testing.T) {
	ctx := context.Background()
	image := fullVolumes[0].make(t, "a")
	fs, closeFS := writable(t, image, ext4.Options{})
	ino := inos(t, fs, "a")[0]
	if err := fs.Truncate(ctx, ext4.Root, ino, 4<<20); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode, want disk.Mode
		c          ext4.Caller
	}{
		{0o6755, 0o755, ext4.Caller{UID: 5, GID: 5}},
		{0o2644, 0o644, ext4.Caller{UID: 5, GID: 5}},
		{0o2644, 0o2644, ext4.Caller{UID: 5, GID: 0}},
		{0o2654, 0o654, ext4.Caller{UID: 5, GID: 0}},
		{0o6755, 0o6755, ext4.Root},
	} {
		for name, fn := range map[string]func() error{
			"write": func() error {
				_, err := fs.WriteAt(ctx, tt.c, ino, []byte("x"), 0)
				return err
			},
			"truncate": func() error { return fs.Truncate(ctx, tt.c, ino, 4<<20) },
			"hole behind the end": func() error {
				return fs.Fallocate(ctx, tt.c, ino, ext4.FallocPunchHole|ext4.FallocKeepSize, 1<<30, 1)
			},
			"fallocate": func() error { return fs.Fallocate(ctx, tt.c, ino, 0, 0, 1) },
			"copy a hole": func() error {
				n, err := fs.CopyRange(ctx, tt.c, ino, 1<<20, ino, 2<<20, 1<<20)
				if n != 1<<20 {
					t.Errorf("copied %d bytes of a hole", n)
				}
				return err
			},
			"copy": func() error {
				_, err := fs.CopyRange(ctx, tt.c, ino, 0, ino, 2, 1)
				return err
			},
		} {
			if err := fs.SetAttr(ctx, ext4.Root, ino, ext4.SetAttr{Mode: &tt.mode}); err != nil {
				t.Fatal(err)
			}
			if err := fn(); err != nil {
				t.Fatal(err)
			}
			in, err := fs.Inode(ino)
			if err != nil {
				t.Fatal(err)
			}
			if got := in.Disk().Mode & disk.ModePerm; got != tt.want {
				t.Errorf("%s: mode %#o of group 0 becomes %#o, want %#o, for %+v", name, tt.mode, got, tt.want, tt.c)
			}
		}
	}
	closeFS()
	sound(t, image)
}

// A directory gets the last block, although files are kept some to grow.
func TestPreallocationOfOthers(t *testing.T) {
	ctx := context.Background()
	image := volume{args: "-t ext4 -b 1024 -m 0", size: "16M"}.make(t, "a", "b", "c")
	fs, closeFS := writable(t, image, ext4.Options{})
	files := inos(t, fs, "a", "b", "c")
	for _, ino := range files {
		for _, n := range []int64{512 << 10, 1024} { // the second keeps as much as the file has
			in, err := fs.Inode(ino)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fs.WriteAt(ctx, ext4.Root, ino, make([]byte, n), in.Size()); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := fs.Kept()
	release, err := fs.ReserveUnkept()
	if err != nil {
		t.Fatal(err)
	}
	if kept == 0 {
		t.Fatal("nothing is kept for files to grow")
	}
	if _, err := fs.Mkdir(ctx, ext4.Root, disk.RootIno, "dir", 0o755); err != nil {
		t.Errorf("%d clusters are kept for files to grow: %v", kept, err)
	}
	if left := fs.Kept(); left != 0 {
		t.Errorf("%d clusters are kept still", left)
	}
	release()
	closeFS()
	sound(t, image)
}

// breakByte changes a byte of an image.
func breakByte(t *testing.T, image string, at int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[0] ^ 0x10}, at); err != nil {
		t.Fatal(err)
	}
}

// A bitmap whose checksum is wrong is noted, also when blocks are looked for
// outside of an update; with errors=continue they are taken elsewhere, and inodes too.
func TestDamagedBitmapWhenWriting(t *testing.T) {
	ctx := context.Background()
	for _, policy := range []ext4.ErrorPolicy{ext4.ErrorsContinue, ext4.ErrorsRemountRO} {
		for _, inodes := range []bool{false, true} {
			image := volume{args: "-t ext4 -b 1024 -m 0", size: "48M"}.make(t, "a", "b")
			fs, closeFS := writable(t, image, ext4.Options{})
			g, err := fs.Group(0)
			if err != nil {
				t.Fatal(err)
			}
			closeFS()
			bitmap := g.BlockBitmap
			if inodes {
				bitmap = g.InodeBitmap
			}
			breakByte(t, image, int64(bitmap)<<10+30)
			dev, err := blockdev.Open(image, blockdev.Options{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			fs, err = ext4.Open(dev, ext4.Options{Write: true, Errors: policy})
			if err != nil {
				t.Fatal(err)
			}
			files := inos(t, fs, "a", "b")
			change := func(i int) error {
				if inodes {
					_, err := fs.Create(ctx, ext4.Root, disk.RootIno, fmt.Sprint(i), disk.ModeReg|0o644)
					return err
				}
				_, err := fs.WriteAt(ctx, ext4.Root, files[i], make([]byte, 1<<20), 0)
				return err
			}
			err, again := change(0), change(1)
			cerr := fs.Close()
			dev.Close()
			if policy == ext4.ErrorsContinue {
				if err != nil || again != nil || cerr != nil {
					t.Errorf("errors=continue, inodes %v: %v, %v, %v", inodes, err, again, cerr)
				}
			} else if !errors.Is(err, disk.ErrCorrupt) || !errors.Is(again, unix.EROFS) {
				t.Errorf("errors=remount-ro, inodes %v: %v, then %v", inodes, err, again)
			}
			after, err := blockdev.Open(image, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			sb, _, err := ext4.ReadSuper(after, ext4.Options{})
			if err != nil || sb.State&disk.StateError == 0 || sb.ErrorCount == 0 || !inodes && sb.ErrorCount != 1 || sb.FirstError.Block != bitmap {
				t.Errorf("policy %v: the superblock has state %#x, %d errors, the first %+v, %v", policy, sb.State, sb.ErrorCount, sb.FirstError, err)
			}
			after.Close()
		}
	}
}

// Who may have the blocks that are kept is what the options say, or the
// superblock.
func TestReservedOwner(t *testing.T) {
	ctx := context.Background()
	image := volume{args: "-t ext4 -b 1024 -m 20", size: "16M"}.make(t, "a")
	seven := uint32(7)
	for _, tt := range []struct {
		o    ext4.Options
		c    ext4.Caller
		want error
	}{
		{ext4.Options{}, ext4.Caller{UID: 7, GID: 7}, unix.ENOSPC},
		{ext4.Options{}, ext4.Caller{UID: 0, GID: 5}, nil},
		{ext4.Options{}, ext4.Caller{UID: 5, GID: 0}, unix.ENOSPC}, // group 0 is nobody's
		{ext4.Options{ReservedUID: &seven}, ext4.Caller{UID: 7}, nil},
		{ext4.Options{ReservedUID: &seven}, ext4.Caller{UID: 0, GID: 5}, unix.ENOSPC},
		{ext4.Options{ReservedGID: &seven}, ext4.Caller{UID: 8, Groups: []uint32{7}}, nil},
		{ext4.Options{ReservedGID: &seven}, ext4.Caller{UID: 8, GID: 8}, unix.ENOSPC},
	} {
		fs, closeFS := writable(t, image, tt.o)
		ino := inos(t, fs, "a")[0]
		appendAll(t, fs, ext4.Caller{UID: 1000, GID: 1000}, []disk.Ino{ino})
		in, err := fs.Inode(ino)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.WriteAt(ctx, tt.c, ino, make([]byte, 100<<10), in.Size()); !errors.Is(err, tt.want) {
			t.Errorf("%+v, %+v: %v, want %v", tt.o, tt.c, err, tt.want)
		}
		if err := fs.Truncate(ctx, ext4.Root, ino, 0); err != nil {
			t.Fatal(err)
		}
		closeFS()
	}
	sound(t, image)
}

// onErr is a context that does something when it is first asked whether it ended.
type onErr struct {
	context.Context
	fn func()
}

func (c *onErr) Err() error {
	if fn := c.fn; fn != nil {
		c.fn = nil
		fn()
	}
	return c.Context.Err()
}

// A copy ends where its source ends by then.
func TestCopyOfWhatIsCut(t *testing.T) {
	ctx := context.Background()
	image := fullVolumes[0].make(t, "a", "b")
	fs, closeFS := writable(t, image, ext4.Options{})
	files := inos(t, fs, "a", "b")
	if _, err := fs.WriteAt(ctx, ext4.Root, files[0], make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	cut := &onErr{ctx, func() {
		if err := fs.Truncate(ctx, ext4.Root, files[0], 5000); err != nil {
			t.Error(err)
		}
	}}
	n, err := fs.CopyRange(cut, ext4.Root, files[0], 0, files[1], 0, 1<<20)
	if in, ierr := fs.Inode(files[1]); err != nil || ierr != nil || n != 5000 || in.Size() != 5000 {
		t.Errorf("copied %d bytes of 5000, to a file of %d: %v", n, in.Size(), err)
	}
	closeFS()
	sound(t, image)
}

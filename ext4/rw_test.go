package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// volume is a kind of file system that the tests write.
type volume struct {
	name    string
	args    string // of mke2fs
	size    string // as mke2fs takes it
	reach   int64  // bytes that files grow to
	noMount bool   // the kernel here does not take such blocks, or no quota
	options string // of the kernel's mount for writing
}

var volumes = []volume{
	{name: "4k", args: "-t ext4 -b 4096", size: "96M", reach: 24 << 20},
	{name: "1k", args: "-t ext4 -b 1024", size: "48M", reach: 6 << 20},
	{name: "64k", args: "-t ext4 -b 65536", size: "256M", reach: 60 << 20, noMount: true},
	{name: "smalljournal", args: "-t ext4 -b 1024 -J size=1", size: "48M", reach: 6 << 20},
	{name: "ext2", args: "-t ext2 -b 1024", size: "48M", reach: 90 << 20},
	{name: "ext2-4k", args: "-t ext2 -b 4096 -I 128", size: "96M", reach: 24 << 20},
	{name: "ext3", args: "-t ext3 -b 1024", size: "48M", reach: 90 << 20},
	{name: "ext3-64k", args: "-t ext3 -b 65536", size: "256M", reach: 60 << 20, noMount: true},
	{name: "bigalloc-1k", args: "-t ext4 -O bigalloc -b 1024 -C 16384", size: "64M", reach: 3 << 20},
	{name: "bigalloc-4k", args: "-t ext4 -O bigalloc -b 4096 -C 65536", size: "128M", reach: 12 << 20},
	{name: "nocsum", args: "-t ext4 -O ^metadata_csum,^64bit,^uninit_bg", size: "96M", reach: 24 << 20},
	{name: "nohuge", args: "-t ext4 -O ^huge_file,^metadata_csum,uninit_bg", size: "96M", reach: 24 << 20},
	{name: "quota", args: "-t ext4 -b 1024 -O quota,project,inline_data -E quotatype=usrquota:grpquota:prjquota", size: "48M", reach: 6 << 20, noMount: true},
	{name: "inline", args: "-t ext4 -b 4096 -O inline_data -I 256", size: "96M", reach: 1 << 20, options: "data=writeback"},
	{name: "nojournal", args: "-t ext4 -O ^has_journal", size: "96M", reach: 24 << 20},
}

// find returns volumes by name.
func find(names ...string) (out []volume) {
	for _, name := range names {
		out = append(out, volumes[slices.IndexFunc(volumes, func(v volume) bool { return v.name == name })])
	}
	return out
}

// make returns an image with empty files of these names, in a directory of the test.
func (v volume) make(t testing.TB, names ...string) (image string) {
	t.Helper()
	fixtures.Need(t, "mke2fs", "e2fsck")
	src := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(src, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image = filepath.Join(t.TempDir(), "image")
	args := append(strings.Fields("-q -F -d "+src+" -E lazy_itable_init=1 "+v.args), image, v.size)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", args, err, out)
	}
	if strings.Contains(v.args, "quota") {
		// mke2fs has not counted the files; 1 says that this is mended.
		out, err := exec.Command("e2fsck", "-fy", image).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
			t.Fatalf("e2fsck -fy: %v\n%s", err, out)
		}
	}
	return image
}

// writable opens an image for writing, until close is called.
func writable(t testing.TB, image string, o ext4.Options) (fs *ext4.FS, close func()) {
	t.Helper()
	dev, err := blockdev.Open(image, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	o.Write = true
	if fs, err = ext4.Open(dev, o); err != nil {
		t.Fatal(err)
	}
	done := false
	close = func() {
		t.Helper()
		if done {
			return
		}
		done = true
		if err := fs.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(close)
	return fs, close
}

// sound has e2fsck and fsck-lite judge an image that is closed.
func sound(t testing.TB, image string) {
	t.Helper()
	if status, out := fixtures.E2fsck(t, image); status != 0 {
		t.Errorf("e2fsck -fn: status %d\n%s", status, out)
	}
	dev, err := blockdev.Open(image, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	report, err := fsck.Run(context.Background(), dev, fsck.Options{})
	if err != nil {
		t.Fatalf("fsck: %v", err)
	}
	for _, p := range report.Problems {
		if p.Severity != fsck.Note { // such as trees that could be smaller, which the kernel leaves too
			t.Errorf("fsck-lite: %s, %+v: have %s, want %s", p.Code, p.Place, p.Have, p.Want)
		}
	}
}

// A contents is a regular file as it should be.
type contents struct {
	name string
	ino  disk.Ino
	data []byte
}

func (f *contents) resize(n int64) {
	if n <= int64(len(f.data)) {
		f.data = f.data[:n:n]
		return
	}
	f.data = append(f.data, make([]byte, n-int64(len(f.data)))...)
}

// fill makes the bytes from off on p.
func (f *contents) fill(p []byte, off int64) {
	if end := off + int64(len(p)); end > int64(len(f.data)) {
		f.resize(end)
	}
	copy(f.data[off:], p)
}

// check compares n bytes from off on with what the file system has.
func (f *contents) check(fs *ext4.FS, off, n int64) error {
	in, err := fs.Inode(f.ino)
	if err != nil {
		return err
	}
	if in.Size() != int64(len(f.data)) {
		return fmt.Errorf("%s has %d bytes, want %d", f.name, in.Size(), len(f.data))
	}
	off = min(off, int64(len(f.data)))
	want := f.data[off:min(off+n, int64(len(f.data)))]
	got := make([]byte, len(want))
	if k, err := in.ReadAt(got, off); k != len(got) {
		return fmt.Errorf("%s: read %d of %d bytes at %d: %w", f.name, k, len(got), off, err)
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%s: byte %d is %#x, want %#x", f.name, off+int64(i), got[i], want[i])
		}
	}
	return nil
}

// states checks that the blocks that lie in [off, end) are all in one of states.
func states(in *ext4.Inode, off, end, bs int64, states ...ext4.MapState) error {
	for b := (off + bs - 1) / bs; b < end/bs; {
		m, err := in.Map(disk.LBlock(b))
		if err != nil {
			return err
		}
		found := false
		for _, s := range states {
			found = found || s == m.State
		}
		if !found {
			return fmt.Errorf("block %d is %v, want %v", b, m.State, states)
		}
		b = int64(m.End())
	}
	return nil
}

// A churn does random things to files, and the same to its idea of them.
type churn struct {
	rng   *rand.Rand
	fs    *ext4.FS
	files []*contents
	reach int64
	full  bool // running out of space is no error
}

const churnOps = 10

// step does one thing, and says what.
func (c *churn) step() (what string, err error) {
	ctx := context.Background()
	f := c.files[c.rng.IntN(len(c.files))]
	in, err := c.fs.Inode(f.ino)
	if err != nil {
		return "", err
	}
	sb := c.fs.Super()
	bs := int64(sb.BlockSize())
	unit := bs << sb.ClusterBits()
	extents := sb.Incompat.Has(disk.IncompatExtents)
	off := c.rng.Int64N(c.reach)
	if c.rng.IntN(2) == 0 { // where things are
		off = c.rng.Int64N(min(int64(len(f.data))+bs, c.reach))
	}
	n := 1 + c.rng.Int64N(1<<uint(c.rng.IntN(21)))
	if c.rng.IntN(3) == 0 {
		off, n = off/bs*bs, (n+bs-1)/bs*bs
	}
	n = min(n, c.reach-off)
	if n <= 0 {
		off, n = 0, bs
	}
	size := int64(len(f.data))
	enough := func(err error) bool { return c.full && errors.Is(err, unix.ENOSPC) }
	falloc := func(mode ext4.FallocMode, name string) (string, error) {
		what := fmt.Sprintf("%s of %s at %d, %d bytes, size %d", name, f.name, off, n, size)
		err := c.fs.Fallocate(ctx, ext4.Root, f.ino, mode, off, n)
		if !extents && mode&ext4.FallocPunchHole == 0 {
			if !errors.Is(err, unix.EOPNOTSUPP) {
				return what, fmt.Errorf("got %v, want EOPNOTSUPP", err)
			}
			return what, errDone
		}
		if enough(err) { // what was allocated stays, and the size with it
			if mode&ext4.FallocKeepSize == 0 && mode&(ext4.FallocInsertRange|ext4.FallocCollapseRange) == 0 {
				if now, ierr := c.fs.Inode(f.ino); ierr == nil && now.Size() > size {
					f.resize(now.Size())
				}
			}
			return what, errDone
		}
		return what, err
	}
	after := func(what string, err error, want ...ext4.MapState) (string, error) {
		if err != nil {
			return what, err
		}
		if in, err = c.fs.Inode(f.ino); err != nil {
			return what, err
		}
		return what, states(in, off, off+n, bs, want...)
	}
	switch c.rng.IntN(churnOps) {
	case 0:
		to := off
		what = fmt.Sprintf("truncate %s from %d to %d", f.name, size, to)
		if err = c.fs.Truncate(ctx, ext4.Root, f.ino, to); err == nil {
			f.resize(to)
		}
	case 1:
		keep := ext4.FallocMode(c.rng.IntN(2)) * ext4.FallocKeepSize
		if what, err = falloc(keep, fmt.Sprintf("allocation %d", keep)); err == nil {
			if keep == 0 && off+n > size {
				f.resize(off + n)
			}
			what, err = after(what, nil, ext4.MapWritten, ext4.MapUnwritten)
		}
	case 2, 3:
		if what, err = falloc(ext4.FallocPunchHole|ext4.FallocKeepSize, "hole"); err == nil {
			clear(f.data[min(off, size):min(off+n, size)])
			if end := min(off+n, (size+bs-1)/bs*bs); off < size {
				n = end - off
				what, err = after(what, nil, ext4.MapHole)
			}
		}
	case 4:
		keep := ext4.FallocMode(c.rng.IntN(2)) * ext4.FallocKeepSize
		if what, err = falloc(ext4.FallocZeroRange|keep, fmt.Sprintf("zeros %d", keep)); err == nil {
			clear(f.data[min(off, size):min(off+n, size)])
			if keep == 0 && off+n > size {
				f.resize(off + n)
			}
			what, err = after(what, nil, ext4.MapUnwritten)
		}
	case 5:
		off, n = off/unit*unit, max(n/unit*unit, unit)
		if off+n >= size {
			return "", nil
		}
		if what, err = falloc(ext4.FallocCollapseRange, "collapse"); err == nil {
			f.data = append(f.data[:off:off], f.data[off+n:]...)
		}
	case 6:
		off, n = off/unit*unit, max(n/unit*unit, unit)
		if off >= size || size+n > c.reach {
			return "", nil
		}
		if what, err = falloc(ext4.FallocInsertRange, "insert"); err == nil {
			f.data = append(f.data[:off:off], append(make([]byte, n), f.data[off:]...)...)
			what, err = after(what, nil, ext4.MapHole)
		}
	default:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(c.rng.Uint32()) | 1
		}
		what = fmt.Sprintf("write of %d bytes to %s at %d, size %d", n, f.name, off, size)
		var k int
		k, err = c.fs.WriteAt(ctx, ext4.Root, f.ino, p, off)
		if k > 0 {
			f.fill(p[:k], off)
		}
		if enough(err) {
			err = nil
		} else if err == nil && k < len(p) {
			err = fmt.Errorf("wrote %d bytes", k)
		}
	}
	if err == errDone {
		err = nil
	}
	if err == nil {
		// All of it now and then, else round what was changed.
		if c.rng.IntN(20) == 0 {
			off, n = 0, int64(len(f.data))
		}
		err = f.check(c.fs, max(off-2*bs, 0), n+4*bs)
	}
	return what, err
}

var errDone = errors.New("as it should be")

// open looks the files up, and holds some of them open.
func (c *churn) open(t *testing.T, fs *ext4.FS) {
	t.Helper()
	c.fs = fs
	for i, f := range c.files {
		in, err := fs.Resolve("/"+f.name, true)
		if err != nil {
			t.Fatal(err)
		}
		f.ino = in.Ino()
		if i%2 == 0 {
			if err := fs.Open(f.ino); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func newChurn(seed uint64, reach int64, names ...string) *churn {
	c := &churn{rng: rand.New(rand.NewPCG(seed, 1)), reach: reach}
	for _, name := range names {
		c.files = append(c.files, &contents{name: name})
	}
	return c
}

// sweep is how many times longer than usual the random tests run:
// E4GO_RW_SWEEP=n.
func sweep() int {
	n, err := strconv.Atoi(os.Getenv("E4GO_RW_SWEEP"))
	if err != nil {
		return 1
	}
	return n
}

// Files are written, cut, filled with holes and shifted at random, and hold what they
// should all the time, after reopening, and for the kernel; the file
// system is sound.
func TestContents(t *testing.T) {
	for _, v := range volumes {
		for round := range sweep() {
			t.Run(fmt.Sprintf("%s/%d", v.name, round), func(t *testing.T) {
				names := []string{"a", "b", "c"}
				image := v.make(t, names...)
				c := newChurn(uint64(round), v.reach, names...)
				c.full = true
				for range 3 {
					fs, closeFS := writable(t, image, ext4.Options{})
					c.open(t, fs)
					for i := range 60 {
						if what, err := c.step(); err != nil {
							t.Fatalf("operation %d, %s: %v", i, what, err)
						}
					}
					for _, f := range c.files {
						if err := f.check(fs, 0, int64(len(f.data))); err != nil {
							t.Fatal(err)
						}
					}
					closeFS()
					sound(t, image)
					if t.Failed() {
						return
					}
				}
				if !v.noMount {
					c.compareKernel(t, image)
				}
			})
		}
	}
}

// Files are changed by many at once, while others read all of them, commit and trim.
func TestContentsTogether(t *testing.T) {
	for _, v := range find("4k", "smalljournal", "ext3", "bigalloc-1k", "inline") {
		t.Run(v.name, func(t *testing.T) {
			names := []string{"a", "b", "c", "d"}
			image := v.make(t, names...)
			fs, closeFS := writable(t, image, ext4.Options{CommitInterval: 20 * time.Millisecond, Discard: true})
			all := newChurn(0, 3<<20, names...)
			all.open(t, fs)
			var workers, others sync.WaitGroup
			for i, f := range all.files {
				workers.Add(1)
				go func() {
					defer workers.Done()
					c := newChurn(uint64(i), all.reach)
					c.fs, c.files, c.full = fs, []*contents{f}, true
					for j := range 80 {
						if what, err := c.step(); err != nil {
							t.Errorf("operation %d, %s: %v", j, what, err)
							return
						}
					}
				}()
			}
			stop := make(chan struct{})
			for i := range 3 {
				others.Add(1)
				go func() {
					defer others.Done()
					p := make([]byte, 1<<20)
					for j := 0; ; j++ {
						select {
						case <-stop:
							return
						default:
						}
						var err error
						switch i {
						case 0:
							err = fs.Fsync(all.files[j%len(names)].ino, false)
						case 1:
							_, err = fs.Trim(context.Background(), 0, 1<<40, 1<<16)
							time.Sleep(5 * time.Millisecond)
						default:
							in, ierr := fs.Inode(all.files[j%len(names)].ino)
							if err = ierr; err == nil {
								_, err = in.ReadAt(p, int64(j%3)<<20)
							}
							if errors.Is(err, io.EOF) {
								err = nil
							}
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				}()
			}
			workers.Wait()
			close(stop)
			others.Wait()
			for _, f := range all.files {
				if err := f.check(fs, 0, 1<<40); err != nil {
					t.Error(err)
				}
			}
			closeFS()
			sound(t, image)
			all.compareKernel(t, image)
		})
	}
}

// compareKernel compares the files with what the kernel reads from them.
func (c *churn) compareKernel(t *testing.T, image string) {
	t.Helper()
	dir := fixtures.MountKernel(t, image)
	for _, f := range c.files {
		got, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, f.data) {
			t.Errorf("the kernel reads %s otherwise", f.name)
		}
	}
}

// What is written is counted in s_kbytes_written, also over several opens.
func TestLifetimeWrites(t *testing.T) {
	image := makeImage(t, "16M")
	last := uint64(0)
	for i := range 3 {
		dev, err := blockdev.Open(image, blockdev.Options{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.Open(dev, ext4.Options{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		have := fs.Super().KBytesWritten
		if i > 0 && (have < last+2048 || have > last+4096) {
			t.Errorf("open %d: %d KiB were written by all, %d before: want 2048 more, and what their map takes", i, have, last)
		}
		last = have
		in, err := fs.Create(t.Context(), ext4.Root, disk.RootIno, fmt.Sprint("f", i), disk.ModeReg|0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.WriteAt(t.Context(), ext4.Root, in.Ino(), make([]byte, 2<<20), 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(fs.Close(), dev.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if code, out := fixtures.E2fsck(t, image); code != 0 {
		t.Errorf("e2fsck: %s", out)
	}
}

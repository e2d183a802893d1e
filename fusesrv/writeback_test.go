package fusesrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// modelEnv makes the test binary a program that changes files: a directory, one for what
// they should be in the end, and a seed, one after the other. It is a process of its own, since one
// that waits for a page of its own mount may wait for itself.
const modelEnv = "E4GO_FUSESRV_TEST_MODEL"

const (
	modelFiles = 5
	modelSize  = 600_000 // bytes that a file has at most
)

// changeFiles writes, maps, cuts, punches and copies files at random, and
// looks after each step whether they are what a model says.
func changeFiles(arg string) error {
	args := strings.Split(arg, "\n")
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var files [modelFiles]*os.File
	var want [modelFiles][]byte
	for i := range files {
		if files[i], err = os.Create(filepath.Join(args[0], fmt.Sprint(i))); err != nil {
			return err
		}
	}
	for step := range 150 {
		i := rng.IntN(modelFiles)
		if files[i], want[i], err = changeFile(rng, files[i], want[i], files[0], want[0]); err != nil {
			return fmt.Errorf("seed %d, step %d: %w", seed, step, err)
		}
		got, err := os.ReadFile(files[i].Name())
		if err != nil {
			return err
		}
		if at := differAt(got, want[i]); at >= 0 {
			return fmt.Errorf("seed %d, step %d: file %d differs at byte %d of %d and %d", seed, step, i, at, len(got), len(want[i]))
		}
	}
	for i, f := range files {
		if err := errors.Join(os.WriteFile(filepath.Join(args[1], fmt.Sprint(i)), want[i], 0o600), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func differAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// changeFile does one thing to a file that has the bytes want, and returns it
// with those that it should have now.
func changeFile(rng *rand.Rand, f *os.File, want []byte, other *os.File, otherWant []byte) (*os.File, []byte, error) {
	fd := int(f.Fd())
	off, n := rng.IntN(modelSize/2), 1+rng.IntN(1<<rng.IntN(18))
	grow := func(size int) {
		want = append(want, make([]byte, max(0, size-len(want)))...)
	}
	fill := func(b []byte) {
		for i := range b {
			b[i] = byte(1 + (i*7+n)%255)
		}
	}
	var err error
	what := rng.IntN(11)
	switch what {
	case 0, 1, 2: // write
		p := make([]byte, n)
		fill(p)
		_, err = f.WriteAt(p, int64(off))
		grow(off + n)
		copy(want[off:], p)
	case 3, 4: // write through a mapping
		if len(want) == 0 {
			break
		}
		off %= len(want)
		n = min(n, len(want)-off)
		m, merr := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err = merr; err != nil {
			break
		}
		fill(m[off : off+n])
		copy(want[off:], m[off:off+n])
		if rng.IntN(2) == 0 {
			err = unix.Msync(m, unix.MS_SYNC)
		}
		err = errors.Join(err, unix.Munmap(m))
	case 5: // truncate
		err = f.Truncate(int64(off))
		grow(off)
		want = want[:off]
	case 6: // punch
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
		if off < len(want) {
			clear(want[off:min(off+n, len(want))])
		}
	case 7: // zero, allocate
		mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
		if rng.IntN(2) == 0 {
			mode = 0
		}
		if err = unix.Fallocate(fd, mode, int64(off), int64(n)); err == unix.EOPNOTSUPP {
			err = nil // a file without extents
			break
		}
		grow(off + n)
		if mode != 0 {
			clear(want[off : off+n])
		}
	case 8: // copy, as far as the source goes
		if other == f || len(otherWant) == 0 {
			break
		}
		from := int64(rng.IntN(len(otherWant)))
		n = min(n, len(otherWant)-int(from))
		p := bytes.Clone(otherWant[from : from+int64(n)])
		to := int64(off)
		for left := n; left > 0 && err == nil; {
			var k int
			if k, err = unix.CopyFileRange(int(other.Fd()), &from, fd, &to, left, 0); err == nil && k == 0 {
				err = errors.New("copy_file_range copies nothing")
			}
			left -= k
		}
		grow(off + n)
		copy(want[off:], p)
	case 9: // sync, and see whether what is no data is zeros
		if err = f.Sync(); err == nil {
			err = holesAreZeros(fd, want)
		}
	case 10: // close, open to append
		if err = f.Close(); err != nil {
			break
		}
		if f, err = os.OpenFile(f.Name(), os.O_RDWR|os.O_APPEND, 0); err != nil {
			break
		}
		p := make([]byte, n)
		fill(p)
		_, err = f.Write(p)
		want = append(want, p...)
		g, oerr := os.OpenFile(f.Name(), os.O_RDWR, 0)
		err = errors.Join(err, f.Close(), oerr)
		f = g
	}
	if err != nil {
		err = fmt.Errorf("change %d of %d bytes at %d: %w", what, n, off, err)
	}
	return f, want, err
}

func holesAreZeros(fd int, want []byte) error {
	for at := int64(0); at < int64(len(want)); {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data, err = int64(len(want)), nil
		}
		if err != nil {
			return err
		}
		if i := bytes.IndexFunc(want[at:data], func(r rune) bool { return r != 0 }); i >= 0 {
			return fmt.Errorf("byte %d is in a hole from %d to %d, but not 0", at+int64(i), at, data)
		}
		if data == int64(len(want)) {
			break
		}
		if at, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
			return err
		}
	}
	return nil
}

// Files that are written in all ways at once, mappings too, are what a model
// says: while they are, in the image afterwards, and to the kernel's own driver.
func TestCacheModel(t *testing.T) {
	fixtures.Need(t, "loop", "mount")
	self, err := os.Executable()
	check(t, err)
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-b", "1024", "-O", "inline_data,bigalloc", "-C", "8192"}, {"-t", "ext3"}} {
		t.Run(args[len(args)-1], func(t *testing.T) {
			bothWays(t, func(t *testing.T, o Options) {
				m := mountNewWith(t, o, args...)
				model := t.TempDir()
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%s\n%d", modelEnv, m.dir, model, len(args)))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				check(t, m.Unmount())
				m.Wait()
				check(t, m.fs.Sync())
				for i := range modelFiles {
					want, err := os.ReadFile(filepath.Join(model, fmt.Sprint(i)))
					check(t, err)
					in, err := m.fs.Resolve(fmt.Sprint("/", i), false)
					check(t, err)
					got := make([]byte, in.Size())
					if _, err := in.ReadAt(got, 0); err != nil && len(got) > 0 {
						t.Fatal(err)
					}
					if at := differAt(got, want); at >= 0 {
						t.Errorf("file %d in the image differs at byte %d of %d and %d", i, at, len(got), len(want))
					}
				}
				check(t, m.fs.Freeze(background)) // clean, for another driver
				dir := fixtures.MountKernel(t, m.image)
				for i := range modelFiles {
					want, err := os.ReadFile(filepath.Join(model, fmt.Sprint(i)))
					check(t, err)
					got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
					check(t, err)
					if at := differAt(got, want); at >= 0 {
						t.Errorf("file %d to the kernel differs at byte %d of %d and %d", i, at, len(got), len(want))
					}
				}
				check(t, m.fs.Thaw())
			})
		})
	}
}

// A file system that runs full says so to the write that finds no room, and
// every byte that a write took is there. On a full one, blocks that a file has can be written.
func TestNoSpace(t *testing.T) {
	m := mountNewWith(t, Options{}, "-t", "ext4", "-m", "0")
	name := filepath.Join(m.dir, "file")
	f, err := os.Create(name)
	check(t, err)
	defer f.Close()
	p := noise(3, 300_001)
	var want []byte
	for {
		n, err := f.Write(p)
		want = append(want, p[:n]...)
		if err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("write: %v, want ENOSPC", err)
			}
			break
		}
		if len(want) > 128<<20 {
			t.Fatal("more was written than there is room for")
		}
	}
	if len(want) < 100<<20 {
		t.Errorf("full after %d bytes", len(want))
	}
	for i := range 100 { // in place
		off := i * (len(want) / 100)
		copy(want[off:], p[:5000])
		if _, err := f.WriteAt(want[off:off+5000], int64(off)); err != nil {
			t.Fatalf("write over byte %d: %v", off, err)
		}
	}
	check(t, f.Sync())
	check(t, f.Close())
	in, err := m.fs.Resolve("/file", false)
	check(t, err)
	got := make([]byte, in.Size())
	_, err = in.ReadAt(got, 0)
	check(t, err)
	if at := differAt(got, want); at >= 0 {
		t.Errorf("differs at byte %d of %d and %d", at, len(got), len(want))
	}
	check(t, os.Truncate(name, 50<<20))
	if err := os.WriteFile(filepath.Join(m.dir, "other"), want[:20<<20], 0o600); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// With a cache of writes it is fsync that says so, or close.
func TestNoSpaceWriteBack(t *testing.T) {
	m := mountNewWith(t, Options{WriteBack: true}, "-t", "ext4")
	f, err := os.Create(filepath.Join(m.dir, "file"))
	check(t, err)
	p := noise(3, 1<<20)
	synced := 0
	for i := 0; err == nil; i++ {
		if _, err = f.WriteAt(p, int64(i)<<20); err == nil {
			err = f.Sync()
		}
		if err == nil {
			synced++
		}
		if i > 200 {
			t.Fatal("200 MiB fit into 128")
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	in, err := m.fs.Resolve("/file", false)
	check(t, err)
	got := make([]byte, synced<<20)
	if n, err := in.ReadAt(got, 0); n < len(got) {
		t.Errorf("%d of %d bytes: %v", n, len(got), err)
	}
	for i := range synced {
		if !bytes.Equal(got[i<<20:(i+1)<<20], p) {
			t.Errorf("MiB %d was synced, and is not there", i)
		}
	}
	check(t, f.Truncate(0))
	for i := range 200 {
		if _, err := f.WriteAt(p, int64(i)<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("close: %v, want ENOSPC", err)
	}
}

// caches reports whether the kernel keeps what is written to a file: the
// image does not have it then until it is synced.
func caches(t *testing.T, m *mounted) bool {
	t.Helper()
	f, err := os.Create(filepath.Join(m.dir, "probe"))
	check(t, err)
	defer f.Close()
	_, err = f.WriteString("x")
	check(t, err)
	in, err := m.fs.Resolve("/probe", false)
	check(t, err)
	before := in.Size()
	check(t, f.Sync())
	in, err = m.fs.Resolve("/probe", false)
	check(t, err)
	if in.Size() != 1 {
		t.Errorf("%d bytes after fsync, want 1", in.Size())
	}
	return before == 0
}

// Writes are kept where that was asked for, and where nobody's limit is exceeded by it.
func TestWriteBackWhere(t *testing.T) {
	if caches(t, mountNew(t, "-t", "ext4")) {
		t.Error("writes do not go through")
	}
	if !caches(t, mountNewWith(t, Options{WriteBack: true}, "-t", "ext4")) {
		t.Error("writes are not kept")
	}
	m := mountNewWith(t, Options{WriteBack: true}, "-t", "ext4", "-O", "quota")
	if caches(t, m) || !strings.Contains(m.log.String(), "quota") {
		t.Errorf("with quota, writes are kept, or nobody is told why not: %q", m.log.String())
	}
}

// A file that may only be appended to is appended to, and nothing else.
func TestAppendOnly(t *testing.T) {
	bothWays(t, func(t *testing.T, o Options) {
		m := mountNewWith(t, o, "-t", "ext4")
		name := filepath.Join(m.dir, "log")
		check(t, os.WriteFile(name, []byte("first\n"), 0o600))
		in, err := m.fs.Resolve("/log", false)
		check(t, err)
		flags := in.Disk().Flags | disk.FlagAppend
		check(t, m.fs.SetAttr(background, ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}))
		want := "first\n"
		for i := range 3000 {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
			check(t, err)
			line := fmt.Sprintln("line", i)
			_, err = f.WriteString(line)
			check(t, errors.Join(err, f.Close()))
			want += line
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		check(t, err)
		_, err = f.WriteAt([]byte("never"), 1)
		// What a file's cache remembers of an error is whether it was ENOSPC.
		if err = errors.Join(err, f.Close()); !errors.Is(err, unix.EPERM) && !(o.WriteBack && errors.Is(err, unix.EIO)) {
			t.Errorf("written over: %v, want EPERM", err)
		}
		in, err = m.fs.Resolve("/log", false)
		check(t, err)
		got := make([]byte, in.Size())
		_, err = in.ReadAt(got, 0)
		check(t, err)
		if string(got) != want {
			t.Errorf("differs at byte %d of %d and %d", differAt(got, []byte(want)), len(got), len(want))
		}
	})
}

// Sizes and times that were set are those of the image, whoever has set them.
func TestWriteBackTimes(t *testing.T) {
	bothWays(t, func(t *testing.T, o Options) {
		m := mountNewWith(t, o, "-t", "ext4")
		name := filepath.Join(m.dir, "file")
		old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
		f, err := os.Create(name)
		check(t, err)
		_, err = f.WriteString("some bytes")
		check(t, err)
		check(t, os.Chtimes(name, old, old))
		check(t, f.Close())
		stat := func() ext4.Stat {
			in, err := m.fs.Resolve("/file", false)
			check(t, err)
			return in.Stat()
		}
		if st := stat(); st.Mtime.Sec != old.Unix() || st.Mtime.Nsec != 7 || st.Size != 10 {
			t.Errorf("mtime %+v and size %d, want %v and 10", st.Mtime, st.Size, old)
		}
		before := time.Now()
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		check(t, err)
		_, err = f.WriteString(" more")
		check(t, errors.Join(err, f.Close()))
		var st unix.Stat_t
		check(t, unix.Stat(name, &st))
		if in := stat(); in.Mtime.Sec != st.Mtim.Sec || int64(in.Mtime.Nsec) != st.Mtim.Nsec || in.Ctime.Sec != st.Ctim.Sec || in.Mtime.Sec < before.Unix()-1 || in.Size != 15 {
			t.Errorf("in the image mtime %+v, ctime %+v, size %d; the kernel says %+v, %+v", in.Mtime, in.Ctime, in.Size, st.Mtim, st.Ctim)
		}
	})
}

// Making, writing, reading and closing files needs no OPEN, FLUSH or RELEASE, from the
// first file on.
func TestZeroMessageOpen(t *testing.T) {
	m := mountNewWith(t, Options{Debug: true}, "-t", "ext4")
	start := len(m.log.String())
	for i := range 10 {
		name := filepath.Join(m.dir, fmt.Sprint(i))
		check(t, os.WriteFile(name, []byte("x"), 0o600))
		_, err := os.ReadFile(name)
		check(t, err)
	}
	said := m.log.String()[start:]
	if n := strings.Count(said, ": CREATE"); n == 0 {
		t.Fatalf("no CREATE is logged: %s", said)
	}
	for _, op := range []string{": OPEN ", ": FLUSH ", ": RELEASE "} {
		if n := strings.Count(said, op); n > 0 {
			t.Errorf("%d requests%s", n, op)
		}
	}
}

// What waits in the kernel's cache is no hole to who looks for data.
func TestSeekDirty(t *testing.T) {
	bothWays(t, func(t *testing.T, o Options) {
		m := mountNewWith(t, o, "-t", "ext4", "-b", "4096")
		self, err := os.Executable()
		check(t, err)
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), seekEnv+"="+filepath.Join(m.dir, "file"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// seekEnv makes the test binary a program that looks for what it has written
// to a file, and has not synced.
const seekEnv = "E4GO_FUSESRV_TEST_SEEK"

func seekDirty(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := f.Truncate(10 << 20); err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 10<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	m[5<<20+1] = 1
	if _, err := f.WriteAt([]byte("x"), 7<<20); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("x"), 12<<20); err != nil {
		return err
	}
	for _, want := range []struct {
		from   int64
		whence int
		at     int64
		errno  error
	}{
		{0, unix.SEEK_DATA, 5 << 20, nil},
		{5 << 20, unix.SEEK_HOLE, 5<<20 + 4096, nil},
		{5<<20 + 4096, unix.SEEK_DATA, 7 << 20, nil},
		{7 << 20, unix.SEEK_HOLE, 7<<20 + 4096, nil},
		{8 << 20, unix.SEEK_DATA, 12 << 20, nil},
		{12 << 20, unix.SEEK_HOLE, 12<<20 + 1, nil},
		{12<<20 + 1, unix.SEEK_HOLE, 0, unix.ENXIO},
		{12<<20 + 1, unix.SEEK_DATA, 0, unix.ENXIO},
	} {
		at, err := unix.Seek(fd, want.from, want.whence)
		if err != want.errno && !errors.Is(err, want.errno) || err == nil && at != want.at {
			return fmt.Errorf("seek %d from %d: %d, %v; want %d, %v", want.whence, want.from, at, err, want.at, want.errno)
		}
	}
	if m[5<<20+1] != 1 {
		return errors.New("the mapping has lost a byte")
	}
	m[1] = 1
	if at, err := unix.Seek(fd, 0, unix.SEEK_DATA); at != 0 || err != nil {
		return fmt.Errorf("the first page was written, data begin at %d (%v)", at, err)
	}
	return nil
}

// What is written through a mapping takes no capabilities from a file, also when it is written back after they were
// set; what is written by write(2) does (ext4_page_mkwrite, file_remove_privs).
func TestWriteBackKeepsCapability(t *testing.T) {
	const name = "security.capability"
	capability := make([]byte, 20) // struct vfs_cap_data, revision 2: none
	binary.LittleEndian.PutUint32(capability, 0x02000000)
	for _, writeBack := range []bool{false, true} {
		img := madeFS(t, "16M", func(string) {})
		m := mountFile(t, img, 0, Options{Extra: []string{"rw"}, WriteBack: writeBack}, ext4.Options{Write: true})
		f, err := os.OpenFile(filepath.Join(m.dir, "file"), os.O_RDWR|os.O_CREATE, 0o755)
		check(t, err)
		defer f.Close()
		_, err = f.Write(make([]byte, 8192))
		check(t, err)
		check(t, f.Sync())
		pages, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		check(t, err)
		defer unix.Munmap(pages)
		pages[5000] = 1
		check(t, unix.Fsetxattr(int(f.Fd()), name, capability, 0))
		check(t, f.Sync())
		if _, err := unix.Fgetxattr(int(f.Fd()), name, make([]byte, 20)); err != nil {
			t.Errorf("writeback_cache %t: written back: %v", writeBack, err)
		}
		_, err = f.WriteAt([]byte("x"), 0)
		check(t, err)
		check(t, f.Sync())
		if _, err := unix.Fgetxattr(int(f.Fd()), name, make([]byte, 20)); err != unix.ENODATA {
			t.Errorf("writeback_cache %t: written: %v, want ENODATA", writeBack, err)
		}
	}
}

package fusesrv

import (
	"bytes"
	"errors"
	"log"
	"os"
	"slices"
	"sync"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A mounted is an image that e4go has mounted for a test.
type mounted struct {
	*Server
	fs  *ext4.FS
	dev blockdev.Device
	log *syncBuffer
	dir string

	image string // the file
}

// A syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// openFS opens the file system at offset in the file path until the test ends.
func openFS(t testing.TB, path string, offset int64, o ext4.Options) (*ext4.FS, blockdev.Device) {
	t.Helper()
	f, err := blockdev.Open(path, blockdev.Options{Write: o.Write})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	var dev blockdev.Device = f
	if offset != 0 {
		if dev, err = blockdev.NewWindow(f, offset, f.Size()-offset); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := ext4.Open(dev, o)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil && !errors.Is(err, ext4.ErrShutdown) {
			t.Error(err)
		}
	})
	return fs, dev
}

// mountFile mounts the file system at offset in the file path until the test ends.
func mountFile(t testing.TB, path string, offset int64, o Options, eo ext4.Options) *mounted {
	t.Helper()
	fixtures.Need(t, "root", "fuse")
	fs, dev := openFS(t, path, offset, eo)
	m := &mounted{fs: fs, dev: dev, log: &syncBuffer{}, image: path}
	o.FSName, o.Log = path, log.New(m.log, "", 0)
	o.Image = dev
	// Not t.TempDir: the tests with other users must get there.
	dir, err := os.MkdirTemp("", "e4go-fusesrv-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.dir = dir
	if m.Server, err = Mount(fs, dir, o); err != nil {
		t.Fatal(err)
	}
	go m.Serve()
	t.Cleanup(func() {
		if err := m.Unmount(); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
			return // who has the mount in use keeps Serve going
		}
		m.Wait()
		m.Close()
		os.Remove(dir)
		if t.Failed() {
			t.Logf("the server said:\n%s", m.log)
		}
	})
	if err := m.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return m
}

func mountImage(t testing.TB, im fixtures.Image) (*mounted, []fixtures.Entry) {
	t.Helper()
	path, tree := im.Open(t)
	var eo ext4.Options
	if im.Journal != "" {
		j, err := blockdev.Open(im.Journal, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		eo.Journal = j
	}
	return mountFile(t, path, im.Offset, Options{}, eo), tree
}

// What the FUSE driver of the kernel cannot show: attribute bits it drops,
// FIEMAP it does not pass on. And it takes the nanoseconds of a time for less than a
// second, where an inode has room for more: see clampTimes.
var notByFUSE = []string{"attributes", "extents", "fiemaperr"}

func clampTimes(tree []fixtures.Entry) {
	for i := range tree {
		e := &tree[i]
		for _, t := range []*fixtures.Time{&e.Atime, &e.Mtime, &e.Ctime, &e.Btime} {
			t.Nsec = min(t.Nsec, 999_999_999)
		}
	}
}

// Every image of the matrix has the same tree through e4go's mount as through the
// kernel's, and the image is not changed by it.
func TestMatrix(t *testing.T) {
	fixtures.Need(t, "root", "fuse")
	for _, im := range fixtures.Matrix() {
		t.Run(im.Name, func(t *testing.T) {
			m, want := mountImage(t, im)
			path, _ := im.Open(t)
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := fixtures.DumpTree(m.dir, fixtures.Options{Contents: true, Xattrs: true, Seek: true})
			if err != nil {
				t.Fatal(err)
			}
			clampTimes(want)
			for _, line := range fixtures.Diff(want, got, slices.Concat(notByFUSE, im.Ignore)...) {
				t.Error(line)
			}
			after, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if !after.ModTime().Equal(before.ModTime()) || after.Size() != before.Size() {
				t.Errorf("the image changed: it was %v long of %v, is %v of %v", before.Size(), before.ModTime(), after.Size(), after.ModTime())
			}
		})
	}
}

package fusesrv

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4"
	"e4go/fixtures"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// BenchmarkRandomRead reads pages of a file in random order, each once, from a mount
// whose image is in memory, and from a file system that answers every READ
// with the same zeros: what a READ costs before anybody looks at an image.
func BenchmarkRandomRead(b *testing.B) {
	const size = 64 << 20
	b.Run("null", func(b *testing.B) {
		dir := mountNull(b, size)
		randomRead(b, filepath.Join(dir, "file"), size)
	})
	b.Run("e4go", func(b *testing.B) {
		img := madeFS(b, "128M", func(dir string) {
			check(b, os.WriteFile(filepath.Join(dir, "file"), noise(1, size), 0o644))
		})
		m := mountFile(b, img, 0, Options{}, ext4.Options{})
		randomRead(b, filepath.Join(m.dir, "file"), size)
	})
}

func randomRead(b *testing.B, name string, size int) {
	f, err := os.Open(name)
	check(b, err)
	defer f.Close()
	check(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM))
	page := make([]byte, 4096)
	order := rand.New(rand.NewPCG(1, 2)).Perm(size / len(page))
	i := 0
	for b.Loop() {
		if i == len(order) {
			b.StopTimer()
			check(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
			i = 0
			b.StartTimer()
		}
		_, err := f.ReadAt(page, int64(order[i])*int64(len(page)))
		check(b, err)
		i++
	}
}

// nullFS has one file, of zeros.
type nullFS struct {
	fuse.RawFileSystem
	size uint64
}

func (n *nullFS) attr(node uint64, a *fuse.Attr) {
	*a = fuse.Attr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 1}
	if node != fuse.FUSE_ROOT_ID {
		a.Mode, a.Size = unix.S_IFREG|0o644, n.size
	}
}

func (n *nullFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	out.NodeId = 2
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	n.attr(2, &out.Attr)
	return fuse.OK
}

func (n *nullFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(valid)
	n.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (n *nullFS) Read(_ <-chan struct{}, _ *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return bytesResult(buf), fuse.OK
}

func (n *nullFS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }
func (n *nullFS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status              { return fuse.ENOSYS }

func mountNull(b *testing.B, size int) string {
	b.Helper()
	fixtures.Need(b, "root", "fuse")
	dir := b.TempDir()
	fd, err := mountFuse(dir, "null", "fuse.null", &Options{}, Flags{}, nil)
	check(b, err)
	srv, err := fuse.NewServer(&nullFS{fuse.NewDefaultRawFileSystem(), uint64(size)}, fmt.Sprintf("/dev/fd/%d", fd),
		&fuse.MountOptions{MaxWrite: maxRead, ExplicitDataCacheControl: true})
	check(b, err)
	go srv.Serve()
	b.Cleanup(func() {
		check(b, unix.Unmount(dir, 0))
		srv.Wait()
	})
	return dir
}

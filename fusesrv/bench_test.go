package fusesrv

import (
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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
		dir := mountNull(b, newNull(size), true)
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
	made atomic.Uint64
}

func (n *nullFS) attr(node uint64, a *fuse.Attr) {
	*a = fuse.Attr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 1}
	if node != fuse.FUSE_ROOT_ID {
		a.Mode, a.Size = unix.S_IFREG|0o644, n.size
	}
}

func (n *nullFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if strings.HasPrefix(name, "new") {
		return fuse.ENOENT
	}
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

func (n *nullFS) Create(_ <-chan struct{}, _ *fuse.CreateIn, _ string, out *fuse.CreateOut) fuse.Status {
	out.NodeId = 3 + n.made.Add(1)
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	n.attr(out.NodeId, &out.Attr)
	return fuse.OK
}

func (n *nullFS) Write(_ <-chan struct{}, _ *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return uint32(len(data)), fuse.OK
}

func (n *nullFS) Bmap(uint64, uint64, uint32) (uint64, fuse.Status) { return 0, fuse.OK }
func (n *nullFS) SyncFS() fuse.Status                               { return fuse.OK }
func (n *nullFS) Destroy()                                          {}

func newNull(size int) *nullFS {
	return &nullFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), size: uint64(size)}
}

// serveNull mounts fs through our loop, or go-fuse's, with ACLs or without. done is closed when it has
// ended, by an unmount.
func serveNull(b *testing.B, fs served, ours, acl bool) (dir string, done chan struct{}) {
	b.Helper()
	fixtures.Need(b, "root", "fuse")
	dir = b.TempDir()
	fd, err := mountFuse(dir, "null", "fuse.null", &Options{}, Flags{}, nil)
	check(b, err)
	b.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	o := &fuse.MountOptions{MaxWrite: maxRead, MaxBackground: maxBackground, ExplicitDataCacheControl: true, EnableAcl: acl, Logger: log.Default()}
	done = make(chan struct{})
	if ours {
		l, err := newLoop(device(fd), fs, nil, o, func(*fuse.InitIn, storeFunc) {})
		check(b, err)
		go func() { l.run(); close(done) }()
	} else {
		s, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), o)
		check(b, err)
		go func() { s.Serve(); close(done) }()
	}
	return dir, done
}

// mountNull is serveNull until the benchmark ends, for a client in this process.
func mountNull(b *testing.B, fs served, ours bool) string {
	b.Helper()
	dir, done := serveNull(b, fs, ours, false)
	b.Cleanup(func() {
		check(b, unix.Unmount(dir, 0))
		<-done
	})
	// See the package comment: a process that uses its own mount lets the kernel learn first that
	// there is no poll.
	f, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(b, err)
	defer unix.Close(f)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(f), Events: unix.POLLIN}}, 0)
	check(b, err)
	return dir
}

// fileNull answers READ from a file.
type fileNull struct {
	*nullFS
	file *os.File
}

func (f fileNull) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultFd(f.file.Fd(), int64(in.Offset), len(buf)), fuse.OK
}

// BenchmarkLoop measures our loop beside go-fuse's, with file systems that do nothing. The
// caller is in the same process, so cpu-ns/op is what both sides take together; it
// says more than the time where others run too.
func BenchmarkLoop(b *testing.B) {
	const size = 64 << 20
	data, err := os.Create(filepath.Join(b.TempDir(), "data"))
	check(b, err)
	defer data.Close()
	_, err = data.Write(noise(1, size))
	check(b, err)
	each := func(dir, name string, n int, call func(f *os.File, p []byte, off int64) (int, error)) func(*testing.B) {
		return func(b *testing.B) {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
			check(b, err)
			defer f.Close()
			p := make([]byte, n)
			b.SetBytes(size)
			for b.Loop() {
				check(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
				for off := int64(0); off < size; off += int64(n) {
					_, err := call(f, p, off)
					check(b, err)
				}
			}
		}
	}
	for i, round := range []string{"1", "2", "3", "4"} {
		kinds := []string{"go-fuse", "ours"}
		if i%2 == 1 {
			slices.Reverse(kinds) // who is second has more around it
		}
		for _, kind := range kinds {
			run := func(what string, f func(b *testing.B)) {
				b.Run(what+"/"+round+"/"+kind, func(b *testing.B) {
					before := cpuTime(b)
					f(b)
					b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
				})
			}
			dir := mountNull(b, newNull(size), kind == "ours")
			spliced := mountNull(b, fileNull{newNull(size), data}, kind == "ours")
			run("lookup", func(b *testing.B) {
				i := 0
				for b.Loop() {
					i++
					check(b, unix.Access(fmt.Sprint(dir, "/", kind, i), unix.F_OK))
				}
			})
			run("create", func(b *testing.B) {
				i := 0
				for b.Loop() {
					i++
					f, err := os.OpenFile(fmt.Sprint(dir, "/new", b.N, "-", i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
					if err == nil {
						f.Close()
					}
				}
			})
			run("read4k", func(b *testing.B) { randomRead(b, filepath.Join(dir, "file"), size) })
			run("read1m", each(spliced, "file", 1<<20, (*os.File).ReadAt))
			run("write1m", each(dir, "file", 1<<20, (*os.File).WriteAt))
		}
	}
}

func cpuTime(b *testing.B) int64 {
	var r unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_SELF, &r))
	return r.Utime.Nano() + r.Stime.Nano()
}

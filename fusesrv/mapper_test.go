package fusesrv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// mappedKinds are file systems whose files are served by mappings.
var mappedKinds = []struct {
	name string
	args string
	size int64 // MiB
}{
	{"4k", "-t ext4 -b 4096", 32},
	{"1k", "-t ext4 -b 1024", 32},
	{"64k", "-t ext4 -b 65536", 256}, // with room for a journal
	{"indirect", "-t ext3 -b 1024", 32},
	{"bigalloc", "-t ext4 -b 1024 -O bigalloc -C 16384", 32},
	{"inline", "-t ext4 -b 4096 -O inline_data -I 256", 32},
}

// mapped is a file system that a simulated kernel has mounted.
type mapped struct {
	t    *testing.T
	k    *simkernel.Kernel
	s    *Server
	fs   *ext4.FS
	dev  *blockdev.Mem
	stop func() // waits for the server
}

// stale is what the free blocks of small file systems hold: no file ever has it.
const stale = 0xfe

// mkfsMem makes a file system in memory.
func mkfsMem(t testing.TB, size int64, args string) *blockdev.Mem {
	t.Helper()
	fixtures.Need(t, "mke2fs")
	name := filepath.Join(t.TempDir(), "image")
	var before []byte
	if size <= 32<<20 {
		before = bytes.Repeat([]byte{stale}, int(size))
	}
	check(t, os.WriteFile(name, before, 0o600))
	made := append(strings.Fields(args), "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", name, fmt.Sprint(size>>10, "k"))
	if out, err := exec.Command("mke2fs", made...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %s: %v\n%s", args, err, out)
	}
	image, err := os.ReadFile(name)
	check(t, errors.Join(err, os.Remove(name))) // a long run makes many
	dev := blockdev.NewMem(size)
	for off := 0; off < len(image); off += 64 << 10 {
		if part := image[off:min(off+64<<10, len(image))]; bytes.Count(part, []byte{0}) != len(part) {
			_, err := dev.WriteAt(part, int64(off))
			check(t, err)
		}
	}
	check(t, dev.Flush())
	return dev
}

// saveMem writes what is in memory to a file, which who calls removes.
func saveMem(t *testing.T, dev *blockdev.Mem) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "judged")
	f, err := os.Create(name)
	check(t, err)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < dev.Size(); off += int64(len(buf)) {
		n, _ := dev.ReadAt(buf, off)
		if bytes.Count(buf[:n], []byte{0}) != n {
			_, err := f.WriteAt(buf[:n], off)
			check(t, err)
		}
	}
	check(t, errors.Join(f.Truncate(dev.Size()), f.Close()))
	return name
}

// e2fsckMem asks e2fsck about what is in memory. replay lets it recover first.
func e2fsckMem(t *testing.T, dev *blockdev.Mem, replay bool) {
	t.Helper()
	fixtures.Need(t, "e2fsck")
	name := saveMem(t, dev)
	defer os.Remove(name)
	if replay {
		exec.Command("e2fsck", "-fy", "-E", "journal_only", name).Run()
	}
	if out, err := exec.Command("e2fsck", "-fn", name).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

func mountMapped(t *testing.T, dev *blockdev.Mem, o simkernel.Options) *mapped {
	t.Helper()
	return mountThrough(t, dev, dev, dev, o, os.Stderr)
}

// mountThrough mounts what is on dev, where all that the server does to it goes through outer, and
// what the kernel does through data. The server's log goes to logs.
func mountThrough(t *testing.T, dev *blockdev.Mem, outer blockdev.Device, data simkernel.Device, o simkernel.Options, logs io.Writer) *mapped {
	t.Helper()
	return mountMappedWith(t, dev, outer, data, o, ext4.Options{Write: true}, &Options{Log: log.New(logs, "", 0)})
}

// mountMappedWith is mountThrough with options for the file system and the server.
func mountMappedWith(t *testing.T, dev *blockdev.Mem, outer blockdev.Device, data simkernel.Device, o simkernel.Options, eo ext4.Options, so *Options) *mapped {
	t.Helper()
	fs, err := ext4.Open(outer, eo)
	check(t, err)
	k := simkernel.New(o)
	so.Subtype = Subtype
	s, wait := connectKernelTo(t, k, simConn{k.Dev()}, fs, data, so)
	return &mapped{t: t, k: k, s: s, fs: fs, dev: dev, stop: wait}
}

// connectKernelTo has k mount fs, by a server at c, and write contents to data. wait waits for the server's end.
func connectKernelTo(t *testing.T, k *simkernel.Kernel, c conn, fs *ext4.FS, data simkernel.Device, o *Options) (s *Server, wait func()) {
	t.Helper()
	mounted := make(chan error, 1)
	go func() { mounted <- k.Mount() }()
	s, err := newServer(fs, c, o, func() (Backing, error) {
		id, err := k.BackingOpen(data, true, true)
		return Backing{ID: id, MemAlign: 4, OffsetAlign: 512, AtomicMin: 512, AtomicMax: 16 << 10}, err
	})
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(s.Serve)
	check(t, <-mounted)
	return s, wg.Wait
}

// unmount ends it, and says what the kernel has to complain of.
func (m *mapped) unmount() {
	m.t.Helper()
	check(m.t, m.k.Unmount())
	m.stop()
	check(m.t, m.fs.Close())
	for _, b := range m.k.Breaches() {
		m.t.Errorf("the kernel complains: %v", b)
	}
}

var nobody = simkernel.Cred{}

// A program does random things to some files, beside a model of them.
type program struct {
	*mapped
	rng    *rand.Rand
	extent bool // files have extents
	files  []*programFile
	step   int
}

type programFile struct {
	name   string
	f, d   *simkernel.File // buffered and direct; nil: not there
	data   []byte          // what it has
	synced []byte          // what it had when it was last synced, if that was the last change; else nil
	values [256]bool       // that were ever written to it
	known  bool            // its name is durable
}

const mostBytes = 300_000

func newProgram(m *mapped, seed uint64, extents bool) *program {
	p := &program{mapped: m, rng: rand.New(rand.NewPCG(seed, 11)), extent: extents}
	for i := range 3 {
		p.files = append(p.files, &programFile{name: fmt.Sprintf("/f%d", i)})
	}
	return p
}

func (x *programFile) grow(n int) {
	if n > len(x.data) {
		x.data = append(x.data, make([]byte, n-len(x.data))...)
	}
}

// value is a byte that only this file has.
func (p *program) value(i int) byte { return byte(1 + i*80 + p.rng.IntN(80)) }

// run does n things. after is called behind each.
func (p *program) run(n int, after func()) error {
	for range n {
		p.step++
		i := p.rng.IntN(len(p.files))
		what, err := p.act(i, p.files[i])
		if err != nil {
			return fmt.Errorf("step %d: %s of %s: %w", p.step, what, p.files[i].name, err)
		}
		if err := p.compare(p.files[i]); err != nil {
			return fmt.Errorf("step %d: after %s of %s: %w", p.step, what, p.files[i].name, err)
		}
		if after != nil {
			after()
		}
	}
	return nil
}

func (p *program) act(i int, x *programFile) (what string, err error) {
	if x.f == nil {
		f, err := p.k.Open(nobody, x.name, syscall.O_RDWR|syscall.O_CREAT, 0o644)
		if err != nil {
			return "open", err
		}
		if x.d, err = p.k.Open(nobody, x.name, syscall.O_RDWR|syscall.O_DIRECT, 0); err != nil {
			return "open", errors.Join(err, f.Close())
		}
		x.f = f
		return "open", nil
	}
	off, n := p.rng.IntN(mostBytes), 1+p.rng.IntN(20_000)
	if p.rng.IntN(4) == 0 {
		off, n = p.rng.IntN(200), 1+p.rng.IntN(100) // what may be inline
	}
	fill := func(n int) []byte {
		v := p.value(i)
		x.values[v] = true
		return bytes.Repeat([]byte{v}, n)
	}
	changed := true
	defer func() {
		if changed {
			x.synced = nil
		}
	}()
	switch p.rng.IntN(16) {
	case 0, 1, 2:
		b := fill(n)
		if err = writeAll(x.f, b, int64(off)); err == nil {
			x.grow(off + n)
			copy(x.data[off:], b)
		}
		return fmt.Sprintf("write %d+%d", off, n), err
	case 3:
		if bs := p.fs.Super().BlockSize(); bs <= 16<<10 && p.rng.IntN(3) == 0 {
			off = off / bs * bs
			b := fill(bs)
			if _, err = x.d.WriteAtomic(b, int64(off)); err == nil {
				x.grow(off + bs)
				copy(x.data[off:], b)
			}
			return fmt.Sprintf("atomic write %d+%d", off, bs), err
		}
		off, n = off/512*512, (n+511)/512*512
		b := fill(n)
		if err = writeAll(x.d, b, int64(off)); err == nil {
			x.grow(off + n)
			copy(x.data[off:], b)
		}
		return fmt.Sprintf("direct write %d+%d", off, n), err
	case 4:
		if off >= len(x.data) {
			return "nothing", nil
		}
		b := fill(min(n, len(x.data)-off))
		if err = x.f.Store(b, int64(off)); err == nil {
			copy(x.data[off:], b)
		}
		return fmt.Sprintf("store %d+%d", off, len(b)), err
	case 5:
		if err = x.f.Truncate(int64(off)); err == nil {
			x.grow(off)
			x.data = x.data[:off:off]
		}
		return fmt.Sprintf("truncate %d", off), err
	case 6:
		if err = x.f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, int64(off), int64(n*3)); err == nil && off < len(x.data) {
			clear(x.data[off:min(len(x.data), off+n*3)])
		}
		return fmt.Sprintf("punch %d+%d", off, n*3), err
	case 7:
		if !p.extent {
			return "nothing", nil
		}
		if err = x.f.Fallocate(simkernel.FallocZeroRange, int64(off), int64(n*3)); err == nil {
			x.grow(off + n*3)
			clear(x.data[off : off+n*3])
		}
		return fmt.Sprintf("zero %d+%d", off, n*3), err
	case 8:
		if !p.extent {
			return "nothing", nil
		}
		mode, keep := uint32(0), p.rng.IntN(2) == 0
		if keep {
			mode = simkernel.FallocKeepSize
		}
		if err = x.f.Fallocate(mode, int64(off), int64(n*3)); err == nil && !keep {
			x.grow(off + n*3)
		}
		return fmt.Sprintf("fallocate %#x %d+%d", mode, off, n*3), err
	case 9:
		if err = x.f.Fsync(p.rng.IntN(2) == 0); err == nil {
			changed, x.known = false, true
			x.synced = slices.Clone(x.data)
			if x.synced == nil {
				x.synced = []byte{}
			}
		}
		return "fsync", err
	case 10:
		changed = false
		return "drop", x.f.Drop()
	case 11:
		changed = false
		_, err = x.f.Stat()
		return "stat", err
	case 12:
		changed = false
		err = errors.Join(x.f.Close(), x.d.Close(), p.k.Evict())
		x.f, x.d = nil, nil
		return "close and evict", err
	case 13:
		if p.rng.IntN(3) > 0 {
			return "nothing", nil
		}
		if err = p.k.Unlink(nobody, x.name); err == nil {
			_, err = x.f.ReadAt(make([]byte, 10), 0)
		}
		err = errors.Join(err, x.f.Close(), x.d.Close())
		x.f, x.d, x.data, x.known = nil, nil, nil, false
		return "unlink", err
	case 14:
		y := p.files[(i+1)%len(p.files)]
		if y.f == nil || len(y.data) == 0 {
			return "nothing", nil
		}
		from := p.rng.IntN(len(y.data))
		k, err := p.k.CopyFileRange(y.f, int64(from), x.f, int64(off), int64(n))
		if err == nil && k != int64(min(n, len(y.data)-from)) {
			err = fmt.Errorf("copied %d of %d bytes", k, min(n, len(y.data)-from))
		}
		if err == nil {
			x.grow(off + int(k))
			copy(x.data[off:], y.data[from:from+int(k)])
			for v, has := range y.values {
				x.values[v] = x.values[v] || has
			}
		}
		return fmt.Sprintf("copy %d from %d of %s to %d", k, from, y.name, off), err
	}
	changed = false
	if err = p.k.SyncFS(); err == nil {
		for _, x := range p.files {
			if x.f != nil {
				x.synced, x.known = append([]byte{}, x.data...), true
			}
		}
	}
	return "sync", err
}

func writeAll(f *simkernel.File, p []byte, off int64) error {
	n, err := f.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// compare reads the file as a process does.
func (p *program) compare(x *programFile) error {
	if x.f == nil {
		return nil
	}
	if x.f.Size() != int64(len(x.data)) {
		return fmt.Errorf("size is %d, want %d", x.f.Size(), len(x.data))
	}
	got := make([]byte, len(x.data)+10)
	n := 0
	for {
		k, err := x.f.ReadAt(got[n:], int64(n))
		if n += k; err != nil {
			return fmt.Errorf("read behind %d of %d bytes: %w", n, len(x.data), err)
		}
		if k == 0 || n == len(got) {
			return differ(got[:n], x.data)
		}
	}
}

func differ(got, want []byte) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %d, want %d", i, got[i], want[i])
		}
	}
	return nil
}

// onDevice compares with what the file system on dev has, when nothing is in
// memory any more.
func (p *program) onDevice(dev blockdev.Device) {
	p.t.Helper()
	fs, err := ext4.Open(dev, ext4.Options{})
	check(p.t, err)
	defer fs.Close()
	for _, x := range p.files {
		data, err := readWhole(fs, x.name)
		if errors.Is(err, unix.ENOENT) && x.data == nil {
			continue
		}
		check(p.t, err)
		if err := differ(data, x.data); err != nil {
			p.t.Errorf("%s on the device: %v", x.name, err)
		}
	}
}

func readWhole(fs *ext4.FS, name string) ([]byte, error) {
	in, err := fs.Resolve(name, true)
	if err != nil {
		return nil, err
	}
	data := make([]byte, in.Size())
	if n, err := in.ReadAt(data, 0); err != nil && err != io.EOF || n != len(data) {
		return nil, fmt.Errorf("read %d of %d bytes of %s: %w", n, len(data), name, err)
	}
	return data, nil
}

// seeds is how many programs of each kind are run: E4GO_IOMAP_SEEDS of them.
func seeds(t *testing.T, n uint64) uint64 {
	t.Helper()
	if s := os.Getenv("E4GO_IOMAP_SEEDS"); s != "" {
		_, err := fmt.Sscan(s, &n)
		check(t, err)
	} else if testing.Short() {
		n = (n + 1) / 2
	}
	return n
}

// TestMapped: whatever a kernel with fuse-iomap does of its own accord, files
// have what was written to them; nothing is asked or answered against the rules; and
// e2fsck finds nothing.
func TestMapped(t *testing.T) {
	for _, kind := range mappedKinds {
		for _, version := range []iomap.Version{iomap.V7, iomap.V8} {
			t.Run(fmt.Sprintf("%s/%s", kind.name, version), func(t *testing.T) {
				base := mkfsMem(t, kind.size<<20, kind.args)
				for seed := range seeds(t, 2) {
					dev := base.Clone()
					m := mountMapped(t, dev, simkernel.Options{Version: version, Seed: seed, Unrest: 0.2, LargeFolios: seed%2 == 1})
					p := newProgram(m, seed, kind.name != "indirect")
					if err := p.run(200, nil); err != nil {
						t.Fatalf("seed %d: %v\nbreaches: %v", seed, err, m.k.Breaches())
					}
					for _, x := range p.files {
						if x.f != nil {
							check(t, errors.Join(x.f.Close(), x.d.Close()))
						}
					}
					m.unmount()
					p.onDevice(dev)
					e2fsckMem(t, dev, false)
					if t.Failed() {
						t.Fatalf("seed %d", seed)
					}
				}
			})
		}
	}
}

// TestMappedPowerCut: after a power cut at any moment, with writes that had
// not been flushed lost or reordered, the file system is sound, what was synced is there, and
// no file has bytes that are not its own.
func TestMappedPowerCut(t *testing.T) {
	for _, kind := range mappedKinds {
		t.Run(kind.name, func(t *testing.T) {
			base := mkfsMem(t, kind.size<<20, kind.args)
			for seed := range seeds(t, 2) {
				dev := base.Clone()
				m := mountMapped(t, dev, simkernel.Options{Seed: seed, Unrest: 0.3, LargeFolios: seed%2 == 1})
				p := newProgram(m, seed+100, kind.name != "indirect")
				cut := rand.New(rand.NewPCG(seed, 5))
				err := p.run(120, func() {
					if cut.IntN(4) == 0 {
						p.afterCut(dev.Crash(cut), cut.IntN(8) == 0)
					}
				})
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				m.k.Kill()
				m.stop()
				m.fs.Shutdown(ext4.ShutdownNoLogFlush)
				m.fs.Close()
				if t.Failed() {
					t.Fatalf("seed %d, step %d", seed, p.step)
				}
			}
		})
	}
}

// afterCut judges what a power cut has left.
func (p *program) afterCut(dev *blockdev.Mem, fsck bool) {
	p.t.Helper()
	before := dev.Clone()
	fs, err := ext4.Open(dev, ext4.Options{Write: true})
	var bad *disk.CorruptError
	var backup *ext4.UnsupportedError
	if errors.As(err, &bad) && bad.Field == "s_checksum" || errors.As(err, &backup) && strings.Contains(backup.What, "backup superblock") {
		return // a torn superblock, which e2fsck repairs
	}
	check(p.t, err)
	defer fs.Close()
	if fsck {
		e2fsckMem(p.t, before, true)
	}
	for _, x := range p.files {
		data, err := readWhole(fs, x.name)
		switch {
		case errors.Is(err, unix.ENOENT):
			if x.known {
				p.t.Errorf("step %d: %s was synced, and is gone", p.step, x.name)
			}
			continue
		case err != nil:
			p.t.Errorf("step %d: %v", p.step, err)
			continue
		}
		if x.synced != nil {
			if err := differ(data, x.synced); err != nil {
				p.t.Errorf("step %d: %s was synced: %v", p.step, x.name, err)
			}
		}
		for i, b := range data {
			if b != 0 && !x.values[b] {
				p.t.Errorf("step %d: byte %d of %s is %d, which was never written to it", p.step, i, x.name, b)
				break
			}
		}
	}
}

// TestMappedNames: what is not about contents goes through the same server: links are one inode,
// deleted files live until they are closed, listings bring mapped inodes.
func TestMappedNames(t *testing.T) {
	dev := mkfsMem(t, 32<<20, "-t ext4")
	m := mountMapped(t, dev, simkernel.Options{})
	check(t, m.k.Mkdir(nobody, "/d", 0o755))
	f, err := m.k.Open(nobody, "/d/a", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	check(t, err)
	_, err = f.WriteAt([]byte("hello"), 0)
	check(t, err)
	check(t, m.k.Link(nobody, "/d/a", "/b"))
	g, err := m.k.Open(nobody, "/b", syscall.O_RDWR, 0)
	check(t, err)
	p := make([]byte, 10)
	if n, err := g.ReadAt(p, 0); err != nil || string(p[:n]) != "hello" {
		t.Errorf("through the other name: %q, %v", p[:n], err)
	}
	if a, err := g.Stat(); err != nil || a.Nlink != 2 || a.Size != 5 {
		t.Errorf("stat: %+v, %v", a, err)
	}
	if names, err := m.k.Readdir(nobody, "/d"); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("listing: %q, %v", names, err)
	}
	check(t, m.k.Rename(nobody, "/b", "/d/b", 0))
	check(t, m.k.Unlink(nobody, "/d/a"))
	check(t, m.k.Unlink(nobody, "/d/b"))
	if n, err := g.ReadAt(p, 0); err != nil || string(p[:n]) != "hello" {
		t.Errorf("without a name: %q, %v", p[:n], err)
	}
	check(t, errors.Join(f.Close(), g.Close()))
	tmp, err := m.k.Tmpfile(nobody, "/d", 0o600)
	check(t, err)
	_, err = tmp.WriteAt(bytes.Repeat([]byte{7}, 5000), 0)
	check(t, err)
	check(t, m.k.LinkFile(tmp, "/d/named"))
	check(t, tmp.Close())
	check(t, m.k.Chmod(nobody, "/d/named", 0o640))
	check(t, m.k.Chown(nobody, "/d/named", 1000, 1000))
	check(t, m.k.Utimes(nobody, "/d/named", simkernel.Time{Sec: 1}, simkernel.Time{Sec: 2, Nsec: 3}))
	check(t, m.k.Setxattr(nobody, "/d/named", "user.x", []byte("v")))
	if v, err := m.k.Getxattr(nobody, "/d/named", "user.x"); err != nil || string(v) != "v" {
		t.Errorf("xattr: %q, %v", v, err)
	}
	check(t, m.k.Symlink(nobody, "named", "/d/link"))
	check(t, errors.Join(m.k.Freeze(), m.k.Thaw()))
	m.unmount()
	e2fsckMem(t, dev, false)
	fs, err := ext4.Open(dev, ext4.Options{})
	check(t, err)
	defer fs.Close()
	in, err := fs.Resolve("/d/named", true)
	check(t, err)
	st := in.Stat()
	if st.Mode != unix.S_IFREG|0o640 || st.UID != 1000 || st.Size != 5000 || st.Mtime != (disk.Time{Sec: 2, Nsec: 3}) {
		t.Errorf("on the device: %+v", st)
	}
}

// discard takes the data of a test that only counts messages.
type discard struct{ *blockdev.Mem }

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// counted is an empty file of a file system of size bytes, whose data go nowhere.
func counted(t *testing.T, size int64) (*mapped, *simkernel.File) {
	t.Helper()
	dev := mkfsMem(t, size, "-t ext4 -b 4096")
	m := mountThrough(t, dev, dev, discard{dev}, simkernel.Options{}, os.Stderr)
	f, err := m.k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT|syscall.O_DIRECT, 0o644)
	check(t, err)
	t.Cleanup(func() {
		check(t, f.Close())
		m.unmount()
		e2fsckMem(t, dev, false)
	})
	return m, f
}

// TestMappedStream: a stream of writes asks for a mapping once in 64 MiB, and each
// run of write-back is one IOEND.
func TestMappedStream(t *testing.T) {
	const total, piece, run = 1 << 30, 1 << 20, 16 << 20
	m, d := counted(t, 4<<30)
	f, err := m.k.Open(nobody, "/f", syscall.O_RDWR, 0)
	check(t, err)
	p := make([]byte, piece)
	m.k.ResetCounts()
	for off := int64(0); off < total; off += piece {
		_, err := f.WriteAt(p, off)
		check(t, err)
		if (off+piece)%run == 0 {
			check(t, f.Drop())
		}
	}
	check(t, f.Fsync(false))
	c := m.k.Counts()
	t.Logf("buffered: %v", c)
	// A run on the device ends where a mapping does.
	if c["BEGIN"] > total>>26 || c["IOEND"] > total/run+c["BEGIN"] {
		t.Errorf("%d MiB, buffered, took %d BEGIN and %d IOEND", total>>20, c["BEGIN"], c["IOEND"])
	}
	check(t, f.Truncate(0))
	m.k.ResetCounts()
	for off := int64(0); off < total; off += piece {
		_, err := d.WriteAt(p, off)
		check(t, err)
	}
	c = m.k.Counts()
	t.Logf("direct: %v", c)
	if c["BEGIN"] > total>>26 || c["IOEND"] > total/piece {
		t.Errorf("%d MiB, direct, took %d BEGIN and %d IOEND", total>>20, c["BEGIN"], c["IOEND"])
	}
	check(t, f.Close())
}

// TestMappedAgain: what was read or written once is not asked for again.
func TestMappedAgain(t *testing.T) {
	m, d := counted(t, 64<<20)
	const size = 16 << 20
	p := make([]byte, 1<<20)
	f, err := m.k.Open(nobody, "/f", syscall.O_RDWR, 0)
	check(t, err)
	whole := func(do func(p []byte, off int64) (int, error)) {
		t.Helper()
		for off := int64(0); off < size; off += int64(len(p)) {
			_, err := do(p, off)
			check(t, err)
		}
		check(t, f.Drop())
	}
	none := func(what string) {
		t.Helper()
		c := m.k.Counts()
		if c["BEGIN"]+c["END"]+c["IOEND"] > 0 {
			t.Errorf("%s: %v", what, c)
		}
		m.k.ResetCounts()
	}
	whole(f.WriteAt)
	whole(f.ReadAt)
	m.k.ResetCounts()
	whole(f.ReadAt)
	none("reading again")
	whole(f.WriteAt)
	none("writing over, buffered")
	// The kernel forgets the mapping of what it has written, if only that of those blocks.
	whole(d.ReadAt)
	m.k.ResetCounts()
	whole(d.ReadAt)
	none("reading, direct")
	for _, block := range rand.New(rand.NewPCG(1, 1)).Perm(size / 4096)[:1000] {
		_, err := d.WriteAt(p[:4096], int64(block)*4096)
		check(t, err)
	}
	none("writing over, direct")
	check(t, f.Close())
}

// TestMappedPieces: who fills a hole here and there, or in four places at once, asks once in
// 256 KiB, and the file lies in pieces of that size, not of single blocks.
func TestMappedPieces(t *testing.T) {
	const blocks, most = 2048, 2048/64 + 2
	var places []int
	for i := range blocks {
		places = append(places, i%4*(blocks/4)+i/4)
	}
	for _, order := range [][]int{rand.New(rand.NewPCG(1, 1)).Perm(blocks), places} {
		m, d := counted(t, 256<<20)
		for _, flags := range []int{0, syscall.O_DIRECT} {
			f, err := m.k.Open(nobody, fmt.Sprint("/f", flags), syscall.O_RDWR|syscall.O_CREAT|flags, 0o644)
			check(t, err)
			check(t, f.Truncate(blocks*4096))
			m.k.ResetCounts()
			for _, b := range order {
				_, err := f.WriteAt(make([]byte, 4096), int64(b)*4096)
				check(t, err)
			}
			check(t, f.Fsync(false))
			asked := m.k.Counts()["BEGIN"]
			st, err := f.Stat()
			check(t, err)
			in, err := m.fs.Inode(disk.Ino(st.Ino))
			check(t, err)
			runs := 0
			for b := uint64(0); b < blocks; runs++ {
				r, err := in.Map(disk.LBlock(b))
				check(t, err)
				if r.State != ext4.MapWritten {
					t.Fatalf("block %d is not written", b)
				}
				b = r.End()
			}
			if asked > most || runs > most {
				t.Errorf("%d blocks, flags %#x: %d BEGIN, %d runs, want %d at most", blocks, flags, asked, runs, most)
			}
			check(t, f.Close())
		}
		check(t, d.Fsync(false))
	}
}

// TestMappedPreallocated: random direct writes into unwritten space take two
// messages each at most, and less as what lies around them has been written.
func TestMappedPreallocated(t *testing.T) {
	m, d := counted(t, 128<<20)
	const blocks, each = 8192, 4096
	check(t, d.Fallocate(0, 0, blocks*4096))
	p := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	const quarters = 4
	var asked [quarters]int
	for q := range quarters {
		m.k.ResetCounts()
		for range each {
			_, err := d.WriteAt(p, rng.Int64N(blocks)*4096)
			check(t, err)
		}
		c := m.k.Counts()
		t.Logf("quarter %d: %d writes: %v", q+1, each, c)
		asked[q] = c["BEGIN"] + c["END"] + c["IOEND"]
		if asked[q] > 2*each || q > 0 && asked[q] >= asked[q-1] {
			t.Errorf("quarter %d: %d messages for %d writes, before %v", q+1, asked[q], each, asked[:q])
		}
	}
}

// TestMappedAtomic: a block is written without being torn where the device does that for blocks
// of this size; statx tells, and what direct I/O is aligned to.
func TestMappedAtomic(t *testing.T) {
	for _, kind := range mappedKinds {
		for _, version := range []iomap.Version{iomap.V7, iomap.V8} {
			dev := mkfsMem(t, kind.size<<20, kind.args)
			m := mountMapped(t, dev, simkernel.Options{Version: version})
			bs := int64(m.fs.Super().BlockSize())
			can := bs <= 16<<10 // as mountThrough says of the device
			f, err := m.k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
			check(t, err)
			s, err := f.Statx()
			check(t, err)
			want := simkernel.Statx{Mask: simkernel.StatxBasic | simkernel.StatxDIOAlign, MemAlign: 4, OffsetAlign: 512, ReadOffsetAlign: 512}
			if can {
				want.Mask |= simkernel.StatxWriteAtomic
				want.AtomicMin, want.AtomicMax, want.AtomicSegments = uint32(bs), uint32(bs), 1
			}
			got := s
			got.Mask, got.Attributes, got.Btime = s.Mask&^simkernel.StatxBtime, 0, simkernel.Time{}
			if got != want {
				t.Errorf("%s: statx tells %+v, want %+v", kind.name, got, want)
			}
			// Into a hole, over what is written, over what is in the inode, and into unwritten blocks.
			_, err = f.WriteAt([]byte("short"), 0)
			check(t, err)
			if kind.name != "indirect" {
				check(t, f.Fallocate(simkernel.FallocKeepSize, 8*bs, 4*bs))
			}
			block := bytes.Repeat([]byte{7}, int(bs))
			for _, off := range []int64{0, 0, 3 * bs, 9 * bs} {
				n, err := f.WriteAtomic(block, off)
				if can != (err == nil) || can && n != len(block) || !can && !errors.Is(err, unix.EOPNOTSUPP) {
					t.Errorf("%s, %s: atomic write at %d: %d, %v", kind.name, version, off, n, err)
				}
				if !can {
					continue
				}
				p := make([]byte, bs)
				if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, block) {
					t.Errorf("%s, %s: an atomic write at %d is not there: %v", kind.name, version, off, err)
				}
			}
			check(t, f.Close())
			m.unmount()
			e2fsckMem(t, dev, false)
		}
	}
}

// TestBackingLimits: the limits of a device are those that its driver tells.
func TestBackingLimits(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	path := filepath.Join(t.TempDir(), "image")
	check(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	loop, err := blockdev.AttachLoop(path, 0, false)
	check(t, err)
	defer loop.Close()
	sector, err := unix.IoctlGetInt(int(loop.Fd()), unix.BLKSSZGET)
	check(t, err)
	b := backingLimits(int(loop.Fd()))
	if b.MemAlign == 0 || b.OffsetAlign != uint32(sector) {
		t.Errorf("direct I/O is aligned to %d in memory, %d in the file, want something and %d", b.MemAlign, b.OffsetAlign, sector)
	}
	if b.AtomicMax != 0 {
		t.Errorf("%d bytes are written without being torn, by a kernel without fuse-iomap", b.AtomicMax)
	}
	if b := backingLimits(-1); b != (Backing{}) {
		t.Errorf("what is no device has limits: %+v", b)
	}
}

// TestTrace: each message has its line, of which a program can make sense.
func TestTrace(t *testing.T) {
	dev := mkfsMem(t, 32<<20, "-t ext4")
	fs, err := ext4.Open(dev, ext4.Options{Write: true})
	check(t, err)
	k := simkernel.New(simkernel.Options{})
	mounted := make(chan error, 1)
	go func() { mounted <- k.Mount() }()
	var trace bytes.Buffer
	s, err := newServer(fs, simConn{k.Dev()}, &Options{Subtype: Subtype, Log: log.New(os.Stderr, "", 0), Trace: &trace},
		func() (Backing, error) { id, err := k.BackingOpen(dev, true, true); return Backing{ID: id}, err })
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(s.Serve)
	check(t, <-mounted)
	f, err := k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	check(t, err)
	_, err = f.WriteAt(make([]byte, 5000), 0)
	check(t, errors.Join(err, f.Close(), k.Unmount()))
	wg.Wait()
	check(t, fs.Close())
	var ops []string
	for line := range strings.Lines(trace.String()) {
		var l struct {
			Op, Errno string
			Request   struct{ Pos, Count uint64 }
			Reply     struct {
				Read struct{ Type string }
				Size uint64
			}
			Verdict []string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || len(l.Verdict) > 0 {
			t.Errorf("%v: %s", err, line)
		}
		if strings.Contains(l.Op, "IOMAP") && !strings.Contains(l.Op, "CONFIG") {
			ops = append(ops, fmt.Sprintf("%s %d+%d %s%d", strings.TrimPrefix(l.Op, "FUSE_"), l.Request.Pos, l.Request.Count, l.Reply.Read.Type, l.Reply.Size))
		} else {
			ops = append(ops, strings.TrimPrefix(l.Op, "FUSE_"))
		}
	}
	got := strings.Join(ops, "\n")
	for _, want := range []string{
		"LOOKUP\nCREATE\n", "NOTIFY_IOMAP_UPSERT_MAPPINGS 0+0 0\nIOMAP_BEGIN 0+5000 RETRY_CACHE0\nIOMAP_END 0+5000 0\n",
		"IOMAP_IOEND 0+0 5000\n", "FLUSH\n", "\nRELEASE\n",
	} {
		if !strings.Contains(got+"\n", want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestMappedFull: space ends when data are written, not when they are written back.
func TestMappedFull(t *testing.T) {
	dev := mkfsMem(t, 16<<20, "-t ext4 -b 1024")
	m := mountMapped(t, dev, simkernel.Options{})
	f, err := m.k.Open(nobody, "/f", syscall.O_RDWR|syscall.O_CREAT, 0o644)
	check(t, err)
	written := int64(0)
	for err == nil && written < 32<<20 {
		var n int
		n, err = f.WriteAt(bytes.Repeat([]byte{9}, 30_000), written)
		written += int64(n)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full file system: %v", err)
	}
	check(t, f.Fsync(false))
	check(t, f.Close())
	m.unmount()
	e2fsckMem(t, dev, false)
	fs, err := ext4.Open(dev, ext4.Options{})
	check(t, err)
	defer fs.Close()
	data, err := readWhole(fs, "/f")
	check(t, err)
	if int64(len(data)) != written || bytes.Count(data, []byte{9}) != len(data) {
		t.Errorf("%d bytes were accepted, %d of %d are there", written, bytes.Count(data, []byte{9}), len(data))
	}
}

// TestMappedTogether: many callers at once, for the race detector.
func TestMappedTogether(t *testing.T) {
	dev := mkfsMem(t, 64<<20, "-t ext4")
	m := mountMapped(t, dev, simkernel.Options{Unrest: 0.2})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			f, err := m.k.Open(nobody, fmt.Sprintf("/f%d", g%2), syscall.O_RDWR|syscall.O_CREAT, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			rng := rand.New(rand.NewPCG(uint64(g), 2))
			p := bytes.Repeat([]byte{byte(g + 1)}, 20_000)
			for range 60 {
				off := rng.Int64N(200_000)
				switch rng.IntN(5) {
				case 0, 1:
					f.WriteAt(p[:1+rng.IntN(len(p))], off)
				case 2:
					f.ReadAt(make([]byte, 1000), off)
				case 3:
					f.Fsync(false)
				case 4:
					f.Fallocate(simkernel.FallocPunchHole|simkernel.FallocKeepSize, off, 9000)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m.unmount()
	e2fsckMem(t, dev, false)
}

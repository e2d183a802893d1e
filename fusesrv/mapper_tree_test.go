package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// treeKinds are the mappedKinds, and one whose inodes have no room for nanoseconds.
var treeKinds = append(slices.Clone(mappedKinds), struct {
	name string
	args string
	size int64
}{"small-inodes", "-t ext3 -b 1024 -I 128", 32})

// A testClock is the clock of the kernel, and that of the server, which is
// ahead: what one of them dates within a step has one time.
type testClock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) ahead() time.Time { return c.now().Add(1100 * time.Millisecond) }

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A treeNode is an inode of the model.
type treeNode struct {
	typ                 uint32 // S_IFREG and so on
	mode                uint32 // permissions
	uid, gid            uint32
	nlink               uint32
	atime, mtime, ctime simkernel.Time
	xattrs              map[string]string
	access, deflt       []disk.ACLEntry
	target              string               // of a symbolic link
	children            map[string]*treeNode // of a directory
	data                []byte
	blocks              []byte // of data, one each: written, hole, either
	opens               int
}

// What SEEK_DATA says of a block that is nowhere but on the device.
const (
	blockHole    = 0
	blockWritten = 'D'
	blockEither  = '?'
)

// A treeFile is an open file of the model.
type treeFile struct {
	n    *treeNode
	c    simkernel.Cred
	f, d *simkernel.File // buffered and direct
	look *simkernel.File // opened with O_NOATIME
}

// A treeProgram does random things to a tree of files of all types, beside a model of it.
type treeProgram struct {
	*mapped
	rng     *rand.Rand
	clock   *testClock
	gran    uint32 // of times, ns
	bs      int64
	largest int64 // folio, bytes
	atime   simkernel.Atime
	seed    uint64
	extent  bool   // files have extents
	inline  bool   // and may be inline
	base    string // path of root
	alone   bool   // no other program runs: time goes on, and caches are emptied
	root    *treeNode
	files   []*treeFile
	step    int
	log     []string // the last steps
}

var (
	rootCred = simkernel.Cred{}
	userCred = simkernel.Cred{UID: 1000, GID: 1000}
)

// now is the time by which n is dated: the kernel's for the contents of
// regular files, the server's for all else.
func (p *treeProgram) now(n *treeNode) simkernel.Time {
	t := p.clock.ahead()
	if isRegular(n) {
		t = p.clock.now()
	}
	ns := uint32(t.Nanosecond())
	return simkernel.Time{Sec: t.Unix(), Nsec: ns - ns%p.gran}
}

func after(a, b simkernel.Time) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// accessed says what becomes of an atime when a file is read, by the rules of
// mount(8).
func (p *treeProgram) accessed(n *treeNode, rule simkernel.Atime) {
	now := p.now(n)
	fresh := after(n.atime, n.mtime) && after(n.atime, n.ctime) && now.Sec-n.atime.Sec < 24*60*60
	if rule == simkernel.StrictAtime || rule == simkernel.RelativeAtime && !fresh {
		n.atime = now
	}
}

func (p *treeProgram) changed(n *treeNode)  { n.mtime, n.ctime = p.now(n), p.now(n) }
func (p *treeProgram) relinked(n *treeNode) { n.ctime = p.now(n) }

// walk calls fn with each path and its inode, in order.
func (n *treeNode) walk(path string, fn func(path string, n *treeNode)) {
	fn(path, n)
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		n.children[name].walk(path+"/"+name, fn)
	}
}

// pick returns a path whose inode is as wanted, or "".
func (p *treeProgram) pick(want func(n *treeNode) bool) (string, *treeNode) {
	var paths []string
	var nodes []*treeNode
	p.root.walk(p.base, func(path string, n *treeNode) {
		if want == nil || want(n) {
			paths, nodes = append(paths, path), append(nodes, n)
		}
	})
	if len(paths) == 0 {
		return "", nil
	}
	i := p.rng.IntN(len(paths))
	return paths[i], nodes[i]
}

var longName = strings.Repeat("long", 50)

func isDir(n *treeNode) bool     { return n.typ == unix.S_IFDIR }
func isRegular(n *treeNode) bool { return n.typ == unix.S_IFREG }
func notLink(n *treeNode) bool   { return n.typ != unix.S_IFLNK }

// pickName returns a directory and a name for it, that it may have.
func (p *treeProgram) pickName() (dir *treeNode, path, name string) {
	at, dir := p.pick(isDir)
	names := []string{"a", "b", "c", "d", "e", longName}
	name = names[p.rng.IntN(len(names))]
	return dir, at + "/" + name, name
}

func (p *treeProgram) pickCred() simkernel.Cred {
	c := rootCred
	if p.rng.IntN(2) == 0 {
		c = userCred
	}
	c.Umask = []uint32{0o022, 0o027, 0, 0o077}[p.rng.IntN(4)]
	return c
}

// owner is somebody who may change the attributes of n.
func (p *treeProgram) owner(n *treeNode) simkernel.Cred {
	if n.uid == userCred.UID && p.rng.IntN(2) == 0 {
		return userCred
	}
	return rootCred
}

// expect compares the outcome of a call with the model's.
func expect(err error, want error) error {
	if want == nil && err == nil || want != nil && errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("got error %v, want %v", err, want)
}

// run does n things.
func (p *treeProgram) run(n int) error {
	for range n {
		p.step++
		if p.alone {
			p.clock.advance(time.Duration(1+p.rng.IntN(3_000_000_000)) * time.Nanosecond)
			if p.rng.IntN(100) == 0 {
				p.clock.advance(25 * time.Hour)
			}
		}
		what, err := p.act()
		what = strings.ReplaceAll(what, longName, "LONG")
		p.log = append(p.log, fmt.Sprintf("%d: %s", p.step, what))
		if err == nil && p.step%20 == 0 {
			err = p.compare()
		}
		if err != nil {
			return fmt.Errorf("step %d: %s: %w", p.step, what, err)
		}
	}
	return nil
}

func (p *treeProgram) act() (string, error) {
	switch k := p.rng.IntN(100); {
	case k < 12:
		return p.create()
	case k < 17:
		return p.link()
	case k < 24:
		return p.remove()
	case k < 34:
		return p.rename()
	case k < 48:
		return p.attributes()
	case k < 50:
		return p.missing()
	case k < 53:
		return p.global()
	}
	return p.contents()
}

func newTreeProgram(m *mapped, clock *testClock, o simkernel.Options, kind, base string) *treeProgram {
	sb := m.fs.Super()
	p := &treeProgram{
		mapped: m, seed: o.Seed, rng: rand.New(rand.NewPCG(o.Seed, 23)), clock: clock, gran: 1, bs: int64(sb.BlockSize()), atime: o.Atime,
		base: base, alone: base == "", extent: sb.Incompat.Has(disk.IncompatExtents), inline: kind == "inline",
	}
	if sb.InodeSize == disk.GoodOldInodeSize {
		p.gran = 1e9
	}
	p.largest = max(simkernel.PageSize, p.bs)
	if o.LargeFolios {
		p.largest *= 16
	}
	a, err := m.k.Stat(rootCred, base)
	check(m.t, err)
	p.root = &treeNode{
		typ: unix.S_IFDIR, mode: a.Mode &^ unix.S_IFMT, nlink: a.Nlink, atime: a.Atime, mtime: a.Mtime, ctime: a.Ctime,
		xattrs: map[string]string{}, children: map[string]*treeNode{},
	}
	return p
}

// treeOptions are what kind of kernel, by seed.
func treeOptions(version iomap.Version, seed uint64, clock *testClock) simkernel.Options {
	return simkernel.Options{
		Version: version, Seed: seed, Unrest: []float64{0.2, 0, 0.5}[seed%3], Now: clock.now,
		LargeFolios: seed%2 == 1, CacheMax: []int{0, 256, 0, 1024}[seed/2%4], Lazytime: seed%4 >= 2, Atime: simkernel.Atime(seed % 3),
	}
}

// testTree runs one program, and compares with the model: through the kernel as it
// goes, with empty caches at its end, on the device, and through a kernel that mounts it
// read-only and gets mappings without a cache.
func testTree(t *testing.T, dev *blockdev.Mem, kind string, o simkernel.Options, clock *testClock, steps int) {
	t.Helper()
	m := mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)})
	p := newTreeProgram(m, clock, o, kind, "")
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d: %v\n%s\nbreaches: %v", o.Seed, err, strings.Join(p.log[max(0, len(p.log)-40):], "\n"), m.k.Breaches())
		}
	}
	fail(p.run(steps))
	fail(p.compareLookups())
	for len(p.files) > 0 {
		fail(p.close(0))
	}
	fail(p.k.Evict())
	fail(p.compareLookups())
	fail(p.compare())
	m.unmount()
	fail(p.onDevice(dev))
	fail(checkers(t, dev, false))
	if p.bs <= simkernel.PageSize && o.Seed < 4 { // the kernel can mount no larger blocks; some will do
		p.judgeKernel(t, dev)
	}

	o.Atime, o.Unrest = simkernel.NoAtime, 0
	m = mountMappedWith(t, dev, dev, dev, o, ext4.Options{}, &Options{Log: log.New(os.Stderr, "", 0), IomapNoCache: true})
	p.mapped = m
	fail(p.compare())
	m.unmount()
	if t.Failed() {
		t.Fatalf("seed %d", o.Seed)
	}
}

// TestMappedTree: names, links, modes, owners, times, xattrs, ACLs, holes and contents are those of a
// model in memory, whatever a kernel with fuse-iomap does in between.
func TestMappedTree(t *testing.T) {
	first, steps := uint64(0), 250
	if s := os.Getenv("E4GO_IOMAP_TREE"); s != "" {
		_, err := fmt.Sscan(s, &first, &steps)
		check(t, err)
	}
	var done atomic.Int64
	defer func() { t.Logf("%d operations", done.Load()) }()
	for _, kind := range treeKinds {
		for _, version := range []iomap.Version{iomap.V7, iomap.V8} {
			t.Run(fmt.Sprintf("%s/%s", kind.name, version), func(t *testing.T) {
				for seed := range seeds(t, 2) {
					seed = (first+seed)*2 + uint64(version)%2 // each does what the other does not
					dev := mkfsMem(t, kind.size<<20, kind.args)
					clock := &testClock{t: time.Unix(2_000_000_000, 987_654_321)}
					testTree(t, dev, kind.name, treeOptions(version, seed, clock), clock, steps)
					done.Add(int64(steps))
				}
			})
		}
	}
}

// TestMappedTreeTogether: the same with several programs at once, each in a directory of its own.
func TestMappedTreeTogether(t *testing.T) {
	for _, kind := range mappedKinds {
		t.Run(kind.name, func(t *testing.T) {
			for seed := range seeds(t, 1) {
				clock := &testClock{t: time.Unix(2_000_000_000, 987_654_321)}
				o := treeOptions(iomap.V8, seed, clock)
				dev := mkfsMem(t, kind.size<<20, kind.args)
				m := mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)})
				var programs []*treeProgram
				for i := range 4 {
					base := fmt.Sprintf("/p%d", i)
					check(t, m.k.Mkdir(rootCred, base, 0o755))
					o.Seed = seed*4 + uint64(i)
					programs = append(programs, newTreeProgram(m, clock, o, kind.name, base))
				}
				var wg sync.WaitGroup
				for _, p := range programs {
					wg.Go(func() {
						err := p.run(120)
						for len(p.files) > 0 {
							err = errors.Join(err, p.close(0))
						}
						if err != nil {
							t.Errorf("seed %d: %v\n%s", p.seed, err, strings.Join(p.log[max(0, len(p.log)-40):], "\n"))
						}
					})
				}
				wg.Wait()
				check(t, m.k.Evict())
				for _, p := range programs {
					check(t, errors.Join(p.compare(), p.compareLookups()))
				}
				m.unmount()
				for _, p := range programs {
					check(t, p.onDevice(dev))
				}
				check(t, checkers(t, dev, false))
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// TestMappedTreeSynced: after sync(2), a power cut takes nothing: names, attributes, times and contents are
// those of the model.
func TestMappedTreeSynced(t *testing.T) {
	for _, kind := range treeKinds {
		t.Run(kind.name, func(t *testing.T) {
			for seed := range seeds(t, 2) {
				clock := &testClock{t: time.Unix(2_000_000_000, 987_654_321)}
				o := treeOptions(iomap.V7, seed, clock)
				dev := mkfsMem(t, kind.size<<20, kind.args)
				m := mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)})
				p := newTreeProgram(m, clock, o, kind.name, "")
				err := errors.Join(p.run(100), m.k.SyncFS())
				cut := dev.Crash(rand.New(rand.NewPCG(seed, 7)))
				m.k.Kill()
				m.stop()
				m.fs.Shutdown(ext4.ShutdownNoLogFlush)
				m.fs.Close()
				if err == nil {
					var fs *ext4.FS
					if fs, err = ext4.Open(cut, ext4.Options{Write: true}); err == nil {
						err = errors.Join(fs.Close(), p.onDevice(cut), checkers(t, cut, false))
					}
				}
				if err != nil || t.Failed() {
					t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(p.log[max(0, len(p.log)-40):], "\n"))
				}
			}
		})
	}
}

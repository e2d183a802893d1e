package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/ext4/jbd2"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A victim is a sound image whose structures are mutated.
type victim struct {
	ci         crashImage
	mem        *blockdev.Mem
	fs         *FS // of mem, read-only
	structures []structure
	tree       map[string]foundNode
	paths      []string
	unclean    bool // the journal is to be replayed, orphans are to be deleted
}

var victims = sync.OnceValues(func() ([]*victim, error) {
	var out []*victim
	for _, ci := range append(crashImages(), noJournal) {
		for _, unclean := range []bool{false, true} {
			if unclean && ci.name == noJournal.name {
				continue
			}
			v, err := newVictim(ci, unclean)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", ci.name, err)
			}
			out = append(out, v)
		}
	}
	return out, nil
})

// newVictim makes an image with a bit of everything.
func newVictim(ci crashImage, unclean bool) (*victim, error) {
	v := &victim{ci: ci, unclean: unclean, mem: ci.make(quietTB{})}
	fs, err := crashOpen(v.mem)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	must := func(e error) { err = errors.Join(err, e) }
	mkdir := func(parent disk.Ino, name string) disk.Ino {
		in, e := fs.Mkdir(ctx, Root, parent, name, disk.ModeDir|0o755)
		if must(e); e != nil {
			return disk.RootIno
		}
		return in.Ino()
	}
	create := func(parent disk.Ino, name string) disk.Ino {
		in, e := fs.Create(ctx, Root, parent, name, disk.ModeReg|0o644)
		if must(e); e != nil {
			return 0
		}
		return in.Ino()
	}
	indexed := mkdir(disk.RootIno, "indexed")
	for i := range 40 * fs.sb.BlockSize() / 4096 * 4 % 700 {
		create(indexed, fmt.Sprintf("%03d%s", i, strings.Repeat("n", 60)))
	}
	d := mkdir(disk.RootIno, "d")
	inner := mkdir(d, "inner")
	holes := create(d, "holes")
	bs := int64(fs.sb.BlockSize()) << fs.sb.ClusterBits()
	for i := range int64(24) {
		_, e := fs.WriteAt(ctx, Root, holes, pattern(1, int(i), 0, 700), 2*i*bs)
		must(e)
	}
	small := create(inner, "small")
	_, e := fs.WriteAt(ctx, Root, small, []byte("a few bytes"), 0)
	must(e)
	must(fs.Link(ctx, Root, small, d, "linked"))
	_, e = fs.Symlink(ctx, Root, d, "short", "target")
	must(e)
	_, e = fs.Symlink(ctx, Root, d, "long", strings.Repeat("target/", 20))
	must(e)
	_, e = fs.Mknod(ctx, Root, d, "device", disk.ModeChar|0o600, 5, 70_000)
	must(e)
	for i, ino := range []disk.Ino{holes, small, d, inner} {
		must(fs.Setxattr(ctx, Root, ino, "trusted.own", []byte(strings.Repeat(fmt.Sprint(i), 300)), 0))
		must(fs.Setxattr(ctx, Root, ino, "user.same", []byte("same"), 0))
		if fs.sb.Incompat.Has(disk.IncompatEAInode) {
			must(fs.Setxattr(ctx, Root, ino, "user.large", []byte(strings.Repeat(fmt.Sprint(i), 9000)), 0))
		}
	}
	acl := wire("u::rwx u:7:r-x g::r-x m::rwx o::r--")
	must(errors.Join(fs.Setxattr(ctx, Root, inner, defaultACL, acl, 0), fs.Setxattr(ctx, Root, small, accessACL, acl, 0)))
	if unclean {
		must(fs.Sync())
		gone := create(d, "gone")
		_, e = fs.WriteAt(ctx, Root, gone, pattern(2, 0, 0, 30_000), 0)
		must(errors.Join(e, fs.Open(gone), fs.Unlink(ctx, Root, d, "gone"), fs.Truncate(ctx, Root, holes, 5*bs), fs.Sync()))
		fs.abandon()
	} else {
		must(fs.Close())
	}
	if err != nil {
		return nil, err
	}
	v.mem.Flush()
	if err := judge(v.mem, true); err != nil {
		return nil, err
	}
	if v.fs, err = Open(v.mem.Clone(), Options{}); err != nil {
		return nil, err
	}
	if v.structures, err = v.fs.structures(); err != nil {
		return nil, err
	}
	v.tree, err = readTree(v.fs)
	v.paths = slices.Sorted(maps.Keys(v.tree))
	return v, err
}

// quietTB is for what is made once for many tests.
type quietTB struct{ testing.TB }

func (quietTB) Helper()           {}
func (quietTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// owns reports whether the inode is at a path, or above it.
func (v *victim) owns(ino disk.Ino, p string) bool {
	for ; ; p = path.Dir(p) {
		if v.tree[p].ino == ino {
			return true
		}
		if p == "/" {
			return false
		}
	}
}

// A damage is one run: an image that was mutated, and what is done to it.
type damage struct {
	*victim
	t     testing.TB
	rng   *rand.Rand
	fs    *FS
	paths []string // those that are used
	log   []string

	numbers bool // numbers of inodes are used even if they are other files' by now
}

// kindOfError is the errno of an error that callers are told of, or 0.
func kindOfError(err error) (errno unix.Errno, ok bool) {
	var unsupported *UnsupportedError
	var log *jbd2.UnsupportedError
	var journal *jbd2.WrongJournalError
	switch {
	case err == nil:
		return 0, true
	case errors.Is(err, disk.ErrCorrupt):
		return unix.EUCLEAN, true
	case errors.As(err, &errno):
		return errno, true
	}
	return 0, errors.As(err, &unsupported) || errors.As(err, &log) || errors.As(err, &journal) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// operate does n random operations, closes, and returns the errno of each.
func (d *damage) operate(n int) (answers []unix.Errno) {
	note := func(what string, err error) {
		errno, ok := kindOfError(err)
		if !ok {
			d.t.Fatalf("%s: an error of no kind, %T: %v\nafter %q", what, err, err, d.log)
		}
		d.log = append(d.log, fmt.Sprintf("%s: %v", what, err))
		answers = append(answers, errno)
	}
	for i := range n {
		what, err := d.operation(i)
		note(what, err)
	}
	note("close", d.fs.Close())
	return answers
}

// readAll reads of each inode all that readers ask for. What they are told is not compared: it is of a
// known kind, and comes.
func (d *damage) readAll() {
	for _, p := range d.paths {
		ino, err := d.inode(p)
		if err != nil {
			continue
		}
		in, err := d.fs.Inode(ino)
		if err != nil {
			continue
		}
		for what, read := range map[string]func() error{
			"contents": func() error { _, err := in.ReadAt(make([]byte, 300_000), 0); return err },
			"end":      func() error { _, err := in.ReadAt(make([]byte, 5000), in.Size()-4000); return err },
			"data":     func() error { _, err := in.SeekData(0); return err },
			"hole":     func() error { _, err := in.SeekHole(0); return err },
			"target":   func() error { _, err := in.Readlink(); return err },
			"names":    func() error { _, err := in.Listxattr(); return err },
			"xattrs":   func() error { _, err := in.Xattrs(); return err },
			"xattr":    func() error { _, err := in.Getxattr("user.large"); return err },
			"acl":      func() error { _, err := in.Getxattr(accessACL); return err },
			"parent":   func() error { _, err := in.Parent(); return err },
			"missing":  func() error { _, err := d.fs.Lookup(in, "missing"); return err },
		} {
			if err := read(); err != io.EOF {
				if _, ok := kindOfError(err); !ok {
					d.t.Fatalf("%s of %s (%d): an error of no kind, %T: %v\nafter %q", what, p, ino, err, err, d.log)
				}
			}
		}
	}
}

// inode finds what is at a path: by its name, or as somebody who knows its number does.
func (d *damage) inode(p string) (disk.Ino, error) {
	if n, ok := d.tree[p]; ok && d.numbers && d.rng.IntN(2) == 0 {
		return n.ino, nil
	}
	in, err := d.fs.Resolve(p, false)
	if err != nil {
		return 0, err
	}
	return in.Ino(), nil
}

func (d *damage) operation(i int) (what string, err error) {
	ctx, fs, rng := context.Background(), d.fs, d.rng
	p, q := d.paths[rng.IntN(len(d.paths))], d.paths[rng.IntN(len(d.paths))]
	fresh := fmt.Sprintf("new%d%s", i, strings.Repeat("-long", rng.IntN(2)*rng.IntN(40)))
	off, n := rng.Int64N(120_000), 1+rng.Int64N(30_000)
	ino, err := d.inode(p)
	other, otherErr := d.inode(q)
	if err = errors.Join(err, otherErr); err != nil {
		return "look up " + p + " and " + q, err
	}
	parent, name := path.Dir(q), path.Base(q)
	dir, err := d.inode(parent)
	if err != nil {
		return "look up " + parent, err
	}
	k := rng.IntN(22)
	what = fmt.Sprintf("operation %d, %s (%d), %s (%d), %d+%d", k, p, ino, q, other, off, n)
	switch k {
	case 0, 1:
		_, err = fs.WriteAt(ctx, Root, ino, pattern(9, i, off, int(n)), off)
	case 2:
		err = fs.Truncate(ctx, Root, ino, off)
	case 3:
		err = fs.Truncate(ctx, Root, ino, 0)
	case 4:
		modes := []FallocMode{0, FallocKeepSize, FallocPunchHole | FallocKeepSize, FallocZeroRange, FallocCollapseRange, FallocInsertRange}
		unit := int64(fs.sb.BlockSize()) << fs.sb.ClusterBits()
		err = fs.Fallocate(ctx, Root, ino, modes[rng.IntN(len(modes))], off/unit*unit, (n+unit-1)/unit*unit)
	case 5:
		_, err = fs.CopyRange(ctx, Root, ino, 0, other, off, n)
	case 6, 7:
		_, err = fs.Create(ctx, Root, dir, fresh, disk.ModeReg|0o644)
	case 8:
		_, err = fs.Mkdir(ctx, Root, dir, fresh, disk.ModeDir|0o755)
	case 9:
		_, err = fs.Symlink(ctx, Root, dir, fresh, strings.Repeat("x", rng.IntN(200)+1))
	case 10:
		err = fs.Link(ctx, Root, ino, dir, fresh)
	case 11, 12:
		err = fs.Unlink(ctx, Root, dir, name)
	case 13:
		err = fs.Rmdir(ctx, Root, dir, name)
	case 14:
		var from disk.Ino
		if from, err = d.inode(path.Dir(p)); err == nil {
			err = fs.Rename(ctx, Root, from, path.Base(p), dir, name, []uint{0, RenameNoreplace, RenameExchange, RenameWhiteout}[rng.IntN(4)])
		}
	case 15:
		names := []string{"trusted.own", "user.same", "user.new", accessACL, defaultACL}
		err = fs.Setxattr(ctx, Root, ino, names[rng.IntN(3)], pattern(8, i, 0, rng.IntN(3000)), 0)
	case 16:
		err = fs.Removexattr(ctx, Root, ino, []string{"trusted.own", "user.same", "user.large", accessACL, defaultACL}[rng.IntN(5)])
	case 17:
		mode, uid := disk.Mode(0o750), uint32(1000)
		err = fs.SetAttr(ctx, Root, ino, SetAttr{Mode: &mode, UID: &uid})
	case 18:
		var in *Inode
		if in, err = fs.Tmpfile(ctx, Root, dir, disk.ModeReg|0o600); err == nil {
			_, err = fs.WriteAt(ctx, Root, in.Ino(), pattern(7, i, 0, 5000), 0)
			err = errors.Join(err, fs.Release(ctx, in.Ino()))
		}
	case 19:
		if err = fs.Fsync(ino, false); err == nil {
			err = fs.Sync()
		}
	case 20:
		_, err = fs.Trim(ctx, 0, 1<<40, 1)
	case 21: // unlinked while it is open
		if err = fs.Open(other); err == nil {
			err = fs.Unlink(ctx, Root, dir, name)
			_, werr := fs.WriteAt(ctx, Root, other, pattern(6, i, 0, 3000), 0)
			err = errors.Join(err, werr, fs.Release(ctx, other))
		}
	}
	return what, err
}

// A seedOf is a source of randomness of which the first bytes are given: a
// fuzzer that changes one changes one choice.
type seedOf struct {
	b []byte
	*rand.PCG
}

func (s *seedOf) Uint64() uint64 {
	v := s.PCG.Uint64()
	if len(s.b) > 0 {
		v = uint64(s.b[0])<<56 | v>>8
		s.b = s.b[1:]
	}
	return v
}

// runDamage mutates an image and operates on it. Whatever was mutated there is no
// panic and no end, and errors are typed. When all damage is in one file, and the
// operations are about others, everything is as on the sound image, and the
// damaged file as it was. When it is in a directory or in xattrs, no structure is
// worse formed than before.
func runDamage(t testing.TB, v *victim, src *seedOf) {
	rng := rand.New(src)
	dog := time.AfterFunc(time.Minute, func() {
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("ext4: operations on a damaged image of %s have no end\n%s", v.ci.name, stacks[:runtime.Stack(stacks, true)]))
	})
	defer dog.Stop()
	mem := v.mem.Clone()
	d := &damage{victim: v, t: t, rng: rng, paths: v.paths, numbers: true}
	first := &v.structures[rng.IntN(len(v.structures))]
	confined := first.ino != 0 && rng.IntN(2) == 0
	var used []*structure
	for i := range 1 + rng.IntN(3) {
		s := first
		for try := 0; i > 0 && try < 100; try++ {
			if s = &v.structures[rng.IntN(len(v.structures))]; !confined || s.ino == first.ino {
				break
			}
			s = first
		}
		used = append(used, s)
		d.log = append(d.log, s.mutate(mem, &v.fs.sb, rng))
	}
	mem.Flush()
	damaged := mem.Clone()
	if confined = confined && v.confines(first.ino); confined {
		d.numbers = false // directories get numbers at random
		d.paths = slices.DeleteFunc(slices.Clone(v.paths), func(p string) bool { return v.owns(first.ino, p) })
	}
	policy := []ErrorPolicy{ErrorsContinue, ErrorsContinue, ErrorsRemountRO, ErrorsPanic}[rng.IntN(4)]
	seed := rng.Uint64()
	open := func(mem *blockdev.Mem) (err error) {
		d.rng = rand.New(rand.NewPCG(seed, 1))
		d.fs, err = Open(mem, Options{Write: true, CommitInterval: time.Hour, CacheSize: 4 << 20, Now: crashClock, Errors: policy})
		return err
	}
	run := func(mem *blockdev.Mem) ([]unix.Errno, error) {
		if err := open(mem); err != nil {
			return nil, err
		}
		return d.operate(12), nil
	}
	if open(damaged.Clone()) == nil { // another: what readers meet is put on record
		d.readAll()
		_ = d.fs.Close() // as errors= says, it may have ended
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := run(mem)
	runtime.ReadMemStats(&after)
	if _, ok := kindOfError(err); !ok {
		t.Fatalf("open: an error of no kind, %T: %v\nafter %q", err, err, d.log)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
		t.Errorf("%s: %d MiB were allocated\nafter %q", v.ci.name, n>>20, d.log)
	}
	if confined {
		log := d.log
		sound := v.mem.Clone()
		want, soundErr := run(sound)
		if soundErr != nil {
			t.Fatal(soundErr)
		}
		d.log = log
		d.sameButFor(first.ino, used, damaged, mem, sound, err, got, want)
		return
	}
	if err == nil && !slices.ContainsFunc(used, func(s *structure) bool { return !harmless(s.what) }) {
		d.noWorse(damaged, mem)
	}
}

// confines reports whether damage to an inode is nobody else's affair: it is of a
// file or directory that somebody made, and nothing waits to be replayed.
func (v *victim) confines(ino disk.Ino) bool {
	return !v.unclean && ino > v.fs.sb.FirstIno && slices.ContainsFunc(v.paths, func(p string) bool { return v.tree[p].ino == ino })
}

// sameButFor compares what was answered, and what is there, with a sound image
// to which the same was done.
func (d *damage) sameButFor(ino disk.Ino, used []*structure, damaged, mem, sound *blockdev.Mem, err error, got, want []unix.Errno) {
	t := d.t
	bad := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s: %s\nafter %q", d.ci.name, fmt.Sprintf(format, args...), d.log)
	}
	if err != nil {
		bad("open: %v", err)
	}
	if !slices.Equal(got, want) {
		bad("answers %v, to a sound image %v", got, want)
	}
	for _, s := range used {
		a, b := make([]byte, s.n), make([]byte, s.n)
		damaged.ReadAt(a, s.at)
		mem.ReadAt(b, s.at)
		if string(a) != string(b) {
			bad("%s was changed by operations on others", s.what)
		}
	}
	trees := [2]map[string]foundNode{}
	for i, m := range []*blockdev.Mem{mem, sound} {
		fs, err := Open(m, Options{})
		if err != nil {
			bad("%v", err)
		}
		defer fs.Close()
		if fs.sb.ErrorCount != 0 {
			bad("errors are on record: %+v", fs.sb.LastError)
		}
		if trees[i], err = readTreeBut(fs, ino); err != nil {
			bad("%v", err)
		}
	}
	if len(trees[0]) != len(trees[1]) {
		bad("%d files, on the sound image %d", len(trees[0]), len(trees[1]))
	}
	for p, a := range trees[0] {
		b := trees[1][p]
		if a.links != b.links || a.mode != b.mode || a.uid != b.uid || a.flags != b.flags || string(a.data) != string(b.data) || !maps.Equal(a.xattrs, b.xattrs) {
			bad("%s differs: %+v, on the sound image %+v", p, a, b)
		}
	}
}

// harmless structures are those whose damage cannot lead to blocks or inodes
// that belong to others.
func harmless(what string) bool {
	return strings.HasPrefix(what, "xattr block") || strings.HasPrefix(what, "directory")
}

// consequences are the problems that operations on damaged directories
// and xattrs have to leave: what counts what, and which names lead nowhere.
var consequences = []string{"link-count", "block-bitmap", "inode-bitmap", "group-free-", "group-directories", "free-", "blocks-shared", "inode-unattached", "entry-unused",
	"entry-type", "directory-unconnected", "directory-loop", "dotdot-inode", "xattr-block-refcount", "ea-inode-refcount", "quota-usage", "inode-blocks", "entry-second-link",
	"entry-duplicate", "htree-hash-", "lost-found", "super-errors"}

// noWorse compares what fsck-lite finds before and after.
func (d *damage) noWorse(damaged, mem *blockdev.Mem) {
	known, err := problemKinds(damaged)
	if err != nil {
		d.t.Fatal(err)
	}
	found, err := problemKinds(mem)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, code := range slices.Sorted(maps.Keys(found)) {
		if !known[code] && !slices.ContainsFunc(consequences, func(c string) bool { return strings.HasPrefix(code, c) }) {
			d.t.Fatalf("%s: %s is new\nafter %q", d.ci.name, code, d.log)
		}
	}
}

// FuzzDamaged: see [runDamage].
func FuzzDamaged(f *testing.F) {
	for image := range 2*len(crashImages()) + 1 {
		f.Add(uint8(image), uint64(image), []byte{})
	}
	f.Fuzz(func(t *testing.T, image uint8, seed uint64, choices []byte) {
		list, err := victims()
		if err != nil {
			t.Fatal(err)
		}
		runDamage(t, list[int(image)%len(list)], &seedOf{choices, rand.NewPCG(seed, 0)})
	})
}

// Damage whose checksums are right is met by operations, and not made worse: see
// [runDamage]. E4GO_DAMAGED=n does n runs of each image, E4GO_DAMAGED_SEED
// begins with another seed.
func TestOperationsOnDamaged(t *testing.T) {
	list, err := victims()
	if err != nil {
		t.Fatal(err)
	}
	runs, first := 12, 0
	for name, to := range map[string]*int{"E4GO_DAMAGED": &runs, "E4GO_DAMAGED_SEED": &first} {
		if s := os.Getenv(name); s != "" {
			if *to, err = strconv.Atoi(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	for i, v := range list {
		t.Run(fmt.Sprintf("%s/%t", v.ci.name, v.unclean), func(t *testing.T) {
			for seed := first; seed < first+runs; seed++ {
				runDamage(t, v, &seedOf{nil, rand.NewPCG(uint64(seed), uint64(i))})
			}
		})
	}
}

// The images of the corpus that can be opened for writing are operated on.
func TestCorpusOperations(t *testing.T) {
	opened := 0
	for i, image := range fixtures.Corpus(t) {
		t.Run(image.Name, func(t *testing.T) {
			dev, err := blockdev.Open(image.Unpack(t), blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			dog := time.AfterFunc(2*time.Minute, func() { panic("ext4: operations on " + image.Name + " have no end") })
			defer dog.Stop()
			for seed := range uint64(rounds(3)) {
				// Most are marked as having errors, or as in use, which would be the end of it.
				m := blockdev.NewOverlay(dev)
				markValid(t, m)
				fs, err := Open(m, Options{Write: true, CommitInterval: time.Hour, CacheSize: 4 << 20, Now: crashClock, Errors: ErrorsContinue})
				if _, ok := kindOfError(err); !ok {
					t.Fatalf("open: an error of no kind, %T: %v", err, err)
				}
				if err != nil {
					t.Skipf("not to be written: %v", err)
				}
				opened++
				v := &victim{fs: fs, tree: map[string]foundNode{"/": {ino: disk.RootIno}}}
				v.list("/", 3)
				v.paths = slices.Sorted(maps.Keys(v.tree))
				d := &damage{victim: v, t: t, fs: fs, rng: rand.New(rand.NewPCG(seed, uint64(i))), paths: v.paths, numbers: true}
				d.readAll()
				d.operate(25)
			}
		})
	}
	if opened < 100 {
		t.Errorf("only %d images were opened", opened)
	}
}

// list adds what can be read of a directory to the tree, and of those in it.
func (v *victim) list(at string, depth int) {
	in, err := v.fs.Inode(v.tree[at].ino)
	if err != nil || in.Type() != disk.ModeDir || depth == 0 {
		return
	}
	dir, err := v.fs.OpenDir(in)
	for n := 0; err == nil && n < 200; n++ {
		var e DirEntry
		if e, err = dir.Next(); err == nil && e.Name != "." && e.Name != ".." {
			p := path.Join(at, e.Name)
			v.tree[p] = foundNode{ino: e.Ino}
			v.list(p, depth-1)
		}
	}
}

// markValid takes the marks of damage from a superblock that makes sense.
func markValid(t testing.TB, dev blockdev.Device) {
	t.Helper()
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, disk.SuperblockOffset); err != nil {
		return
	}
	sb := disk.DecodeSuperblock(raw)
	if sb.Magic != disk.SuperMagic || disk.CheckSuperblock(raw, disk.SuperblockOffset) != nil {
		return
	}
	sb.State = sb.State&^disk.StateError | disk.StateValid
	if sb.Put(raw); sb.MetadataCsum() {
		sb.Checksum = disk.SuperblockChecksum(raw)
		sb.Put(raw)
	}
	if _, err := dev.WriteAt(raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
}

// problemKinds are the codes of the damage that fsck-lite finds, replaying the
// journal first.
func problemKinds(mem *blockdev.Mem) (map[string]bool, error) {
	r, err := fsck.Run(context.Background(), mem, fsck.Options{Replay: true, Workers: 1})
	if err != nil {
		return nil, err
	}
	codes := map[string]bool{}
	var add func(list []*fsck.Problem)
	add = func(list []*fsck.Problem) {
		for _, p := range list {
			if p.Severity == fsck.Error {
				codes[p.Code] = true
			}
			add(p.Follows)
		}
	}
	add(r.Problems)
	return codes, nil
}

package mounttest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// timeless are the fields in which two file systems that saw the same calls differ.
var timeless = []string{"ino", "blocks", "ctime", "btime", "atime", "mtime", "extents", "fiemaperr", "data", "seekerr"}

// TestDifferential sends the same ops, by root and two users, to e4go's mount and to the
// kernel's ext4, and compares what each call says, and the trees that come out.
//
// E4GO_DIFF_STEPS=n does n ops for each kind of file system, E4GO_DIFF_SEED=n begins with
// that seed, E4GO_DIFF_ROUNDS=n takes so many seeds.
func TestDifferential(t *testing.T) {
	steps := long(t, "E4GO_DIFF_STEPS", 1200)
	seed := uint64(long(t, "E4GO_DIFF_SEED", 1))
	for round := range uint64(long(t, "E4GO_DIFF_ROUNDS", 1)) {
		for _, k := range kinds {
			t.Run(fmt.Sprintf("%s/%d", k.name, seed+round), func(t *testing.T) {
				differential(t, k, seed+round, steps)
			})
		}
	}
}

// TestAsKernel has what differed once.
func TestAsKernel(t *testing.T) {
	file := op{Do: "open", P: "f", Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o666}
	owned := func(uid, gid int, mode uint32) []step {
		return []step{{root, file}, {root, op{Do: "chown", P: "f", UID: uid, GID: gid}}, {root, op{Do: "chmod", P: "f", Mode: mode}}}
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"truncating to the same size changes the times", []step{
			{one, file}, {one, op{Do: "ftruncate"}}, {one, op{Do: "truncate", P: "f"}},
			{one, op{Do: "open", P: "f", Flags: unix.O_RDWR | unix.O_TRUNC}}}},
		{"so does punching behind the end", []step{
			{one, file}, {one, op{Do: "fallocate", Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Off: 1 << 20, N: 4096}}}},
		{"and copying a hole into a hole", []step{
			{one, file}, {one, op{Do: "ftruncate", N: 100_000}}, {one, op{Do: "copy", Off2: 50_000, N: 10_000}}}},
		{"a namespace is no name of an xattr", []step{
			{one, file}, {one, op{Do: "getxattr", P: "f", Name: "user."}}, {one, op{Do: "getxattr", P: "f", Name: "nospace"}}}},
		{"chmod knows all groups", append(owned(1000, 2000, 0o644), step{one, op{Do: "chmod", P: "f", Mode: 0o2755}})},
		{"and refuses set-group-ID of others", append(owned(1000, 1001, 0o644), step{one, op{Do: "chmod", P: "f", Mode: 0o2755}})},
		{"so does making a file in a set-group-ID directory", []step{
			{root, op{Do: "mkdir", P: "d", Mode: 0o777}}, {root, op{Do: "chown", P: "d", GID: 2000}}, {root, op{Do: "chmod", P: "d", Mode: 0o2777}},
			{one, op{Do: "mknod", P: "d/mine", Mode: unix.S_IFREG | 0o2755}}, {two, op{Do: "mknod", P: "d/not", Mode: unix.S_IFREG | 0o2755}},
			{one, op{Do: "open", P: "d/mine2", Flags: unix.O_CREAT | unix.O_RDWR, Mode: 0o2755}},
			{two, op{Do: "open", P: "d/not2", Flags: unix.O_CREAT | unix.O_RDWR, Mode: 0o2755}},
			{one, op{Do: "tmpfile", P: "d", Flags: unix.O_RDWR, Mode: 0o2755}}, {one, op{Do: "fstat"}}}},
		{"and setting an ACL", append(owned(1000, 2000, 0o2755), step{one, op{Do: "setxattr", P: "f", Name: someACL + "access",
			Value: aclBytes([3]uint32{aclUserObj, 7, none}, [3]uint32{aclUser, 7, 1001}, [3]uint32{aclGroupObj, 5, none}, [3]uint32{aclMask, 5, none}, [3]uint32{aclOther, 5, none})}})},
		{"and chown", append(owned(1000, 2000, 0o2644), step{one, op{Do: "chown", P: "f", UID: 1000, GID: 3000}})},
		{"and truncate", append(owned(1000, 1001, 0o2644), step{one, op{Do: "truncate", P: "f", N: 9}})},
		{"and write", append(owned(1000, 1001, 0o2666), step{one, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{one, op{Do: "pwrite", N: 9}})},
		{"of a group that the writer is in", append(owned(1000, 2000, 0o2666), step{one, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{one, op{Do: "pwrite", N: 9}})},
		{"a write of another takes privileges", append(owned(1000, 1000, 0o6777), step{two, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{two, op{Do: "pwrite", N: 9}})},
		{"so does an allocation", append(owned(1000, 1000, 0o6777), step{two, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{two, op{Do: "fallocate", N: 9}})},
		{"but not by one of its group", append(owned(1001, 2000, 0o2666), step{one, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{one, op{Do: "fallocate", N: 9}})},
		{"nor does his copy", append(owned(1001, 2000, 0o2666), step{one, op{Do: "open", P: "f", Flags: unix.O_RDWR}}, step{one, op{Do: "pwrite", N: 9}}, step{one, op{Do: "copy", Off2: 50, N: 9}})},
		{"chown to nobody takes privileges", append(owned(1000, 1000, 0o6777), step{one, op{Do: "chown", P: "f", UID: -1, GID: -1}})},
		{"where there are some, those of others", append(owned(1000, 1000, 0o777), step{two, op{Do: "chown", P: "f", UID: -1, GID: -1}})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, kinds[0], os.ModePerm)
			for _, s := range tt.steps {
				r := p.do(t, s)
				if r[0] != r[1] {
					t.Errorf("%s: %v: the kernel says %v, e4go %v", users[s.who].name, s.op, r[0], r[1])
				}
			}
			p.end(t)
		})
	}
}

// chown(2) that changes nothing does not take the privileges of a file of another's. (The
// kernel's ext4 says EPERM, and FUSE does not tell us that it was chown.)
func TestChownByStranger(t *testing.T) {
	m := serve(t, makeImage(t, kinds[0].args, "32M"))
	name := filepath.Join(m.dir, "f")
	if err := errors.Join(os.WriteFile(name, nil, 0o777), os.Chmod(name, 0o777|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	if _, err := employ(t, users[two], m.dir).do(op{Do: "chown", P: "f", UID: -1, GID: -1}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("the mode is %v (%v), and was set-user-ID", st.Mode(), err)
	}
}

const none = 1<<32 - 1

// The indexes of users.
const root, one, two = 0, 1, 2

// A step is an op of a user.
type step struct {
	who int
	op  op
}

// A pair is two empty file systems of a kind: the first the kernel mounts, the
// second e4go, each with a worker for every user.
type pair struct {
	kind     kind
	images   [2]string
	roots    [2]string
	workers  [2][]*process
	mount    *mount
	unmount  func()
	timeless *strings.Replacer
}

func newPair(t *testing.T, k kind, top os.FileMode) *pair {
	fixtures.Need(t, "root", "loop", "fuse")
	p := &pair{kind: k, timeless: strings.NewReplacer()}
	if k.seconds {
		p.timeless = strings.NewReplacer(" mtime", "", " ctime", "")
	}
	for i := range p.images {
		p.images[i] = makeImage(t, k.args, "96M")
	}
	for _, image := range p.images {
		dir, done := fixtures.MountKernelWrite(t, image, k.options)
		special(t, dir)
		done()
	}
	p.roots[0], p.unmount = fixtures.MountKernelWrite(t, p.images[0], k.options)
	p.mount = serve(t, p.images[1], k.mount)
	p.roots[1] = p.mount.dir
	for i, root := range p.roots {
		if err := os.Chmod(root, top); err != nil {
			t.Fatal(err)
		}
		for _, u := range users {
			p.workers[i] = append(p.workers[i], employ(t, u, root))
		}
	}
	return p
}

// touches says whether a path of o is or begins with one of dirs.
func touches(o op, dirs ...string) bool {
	for _, p := range []string{o.P, o.Q} {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "./"), "/")
		if slices.Contains(dirs, first) {
			return true
		}
	}
	return false
}

// special makes files and directories that are immutable, and append-only ones.
func special(t *testing.T, dir string) {
	t.Helper()
	const immutable, appendOnly = 0x10, 0x20
	for _, x := range []struct {
		name string
		flag int
	}{{"fixed", immutable}, {"grows", appendOnly}} {
		top := filepath.Join(dir, x.name)
		err := errors.Join(os.Mkdir(top, 0o777), os.Chmod(top, 0o777))
		for _, name := range []string{"fixed", "grows", "a"} {
			at := filepath.Join(top, name)
			err = errors.Join(err, os.WriteFile(at, []byte("contents"), 0o666), os.Chmod(at, 0o666), os.Chown(at, 1000, 1000))
		}
		for _, at := range []string{filepath.Join(top, x.name), top} {
			fd, oerr := unix.Open(at, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if oerr != nil {
				t.Fatal(oerr)
			}
			have, gerr := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
			err = errors.Join(err, gerr, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have)|x.flag), unix.Close(fd))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// do has both do the same.
func (p *pair) do(t *testing.T, s step) (r [2]result) {
	t.Helper()
	for i := range r {
		var err error
		if r[i], err = p.workers[i][s.who].do(s.op); err != nil {
			t.Fatal(err)
		}
		r[i].Out = p.timeless.Replace(r[i].Out)
	}
	if strings.Contains(r[0].Out, "wrong") { // the kernel does not find what was mapped and written, and not flushed
		r[0] = r[1]
	}
	return r
}

// compare compares the trees as they are mounted.
func (p *pair) compare(t *testing.T) {
	t.Helper()
	compareTrees(t, p.roots[0], p.roots[1], append([]string{"attributes"}, timeless...)...) // FUSE does not carry these
}

// end unmounts both, and has them judged and compared.
func (p *pair) end(t *testing.T) {
	t.Helper()
	p.compare(t)
	seen := dump(t, p.roots[1])
	for i := range p.workers {
		for _, w := range p.workers[i] {
			w.stop()
		}
	}
	p.mount.umount(t)
	p.unmount()
	p.mount.quiet(t)
	sound(t, p.images[1])
	mine := fixtures.MountKernel(t, p.images[1])
	compareTrees(t, fixtures.MountKernel(t, p.images[0]), mine, timeless...)
	// Nothing that was seen was only in a cache.
	ignore := []string{"atime", "btime", "blocks", "attributes", "extents", "fiemaperr", "data", "seekerr"}
	if strings.Contains(p.kind.mount, "writeback_cache") {
		ignore = append(ignore, "ctime", "mtime") // where the server gives the time, as for direct I/O, the kernel does not ask
	}
	for _, line := range fixtures.Diff(seen, dump(t, mine), ignore...) {
		t.Errorf("through e4go's mount, and then the kernel's: %s", line)
	}
}

func differential(t *testing.T, k kind, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 3))
	p := newPair(t, k, pick(rng, os.ModePerm, os.ModePerm|os.ModeSticky))
	g := newGenerator(seed, []string{".", "d0", "d1", "d0/s", "d1/s"})
	g.blocks, g.flags = k.name == "ext3", os.Getenv("E4GO_DIFF_FLAGS") != ""
	g.dirs, g.names = append(g.dirs, "fixed", "grows"), append(g.names, "fixed", "grows")
	var history []string
	who, bad := 0, 0
	for n := range steps {
		if rng.IntN(4) == 0 {
			who = rng.IntN(len(users))
		}
		o := g.next()
		if o.Do == "open" && (o.P == "fixed/fixed" || o.P == "grows/grows") {
			o.Flags = unix.O_RDONLY // FUSE does not ask us at open: writing is what fails
		}
		if o.Do == "utimes" && o.P == "grows/grows" && k.mount != "" {
			continue // the kernel sends the times of what it has written in the same way
		}
		r := p.do(t, step{who, o})
		if touches(o, "fixed", "grows") && r[0].Errno == unix.EPERM && r[1].Errno != 0 {
			r[1].Errno = r[0].Errno // the kernel's FUSE driver does not know these flags, and so looks at other things first
		}
		history = append(history, fmt.Sprintf("%d %s: %v: %v", n, users[who].name, o, r[0]))
		if r[0] != r[1] {
			t.Errorf("op %d, %s: %v: the kernel says %v, e4go %v; before:\n%s", n, users[who].name, o, r[0], r[1],
				strings.Join(history[max(0, len(history)-8):], "\n"))
			if bad++; bad == 3 || (r[0].Errno != 0) != (r[1].Errno != 0) {
				return // what follows, follows from this
			}
		}
	}
	p.end(t)
}

// compareTrees compares two mounted trees.
func compareTrees(t *testing.T, want, got string, ignore ...string) {
	t.Helper()
	for _, line := range fixtures.Diff(dump(t, want), dump(t, got), ignore...) {
		t.Error(line)
	}
}

func dump(t *testing.T, root string) []fixtures.Entry {
	t.Helper()
	tree, err := fixtures.DumpTree(root, fixtures.Options{Contents: true, Xattrs: true, Seek: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range tree {
		if tree[i].Mode&unix.S_IFMT == unix.S_IFDIR {
			tree[i].Size = 0
		}
	}
	return tree
}

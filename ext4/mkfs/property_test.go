package mkfs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A randomTree fills a directory with whatever its numbers say. Without root it
// leaves out owners, devices and xattrs that only root may set.
type randomTree struct {
	t      testing.TB
	rng    *rand.Rand
	root   bool
	xattrs bool     // this file system has them
	block  int      // bytes of a block of the image: more xattrs or a longer link do not fit
	others []string // all that may have another name
	left   int      // entries that are still to be made
}

func newRandomTree(t testing.TB, seed uint64, block int) *randomTree {
	return &randomTree{t: t, rng: rand.New(rand.NewPCG(seed, 77)), root: os.Geteuid() == 0, xattrs: true, block: block}
}

func (r *randomTree) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// one reports true once in n times.
func (r *randomTree) one(n int) bool { return r.rng.IntN(n) == 0 }

// bytes are n of any value.
func (r *randomTree) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return b
}

// name is a path in dir that is not there yet, of any bytes that a name can have.
func (r *randomTree) name(dir string) string {
	for {
		n := 1 + r.rng.IntN(20)
		switch r.rng.IntN(10) {
		case 0:
			n = 1 + r.rng.IntN(255)
		case 1:
			n = 255
		}
		b := r.bytes(n)
		for i, c := range b {
			switch {
			case c == 0 || c == '/':
				b[i] = '.'
			case c&1 == 0:
				b[i] = 'a' + c>>1%26 // most are easy to read
			}
		}
		p := dir + "/" + string(b)
		switch _, err := os.Lstat(p); {
		case os.IsNotExist(err):
			return p
		case err != nil:
			r.t.Fatal(err)
		}
	}
}

// fill makes entries in dir until they are enough. Each level down is taken with
// a chance of one in wide.
func (r *randomTree) fill(dir string, wide int) {
	for r.left > 0 && !r.one(wide*4) {
		r.left--
		p := r.name(dir)
		switch k := r.rng.IntN(24); {
		case r.one(wide) && len(dir) < 3000: // longer paths are for TestDirDeep
			r.check(os.Mkdir(p, 0o700))
			r.fill(p, wide)
			r.finish(p, disk.ModeDir)
		case k < 9:
			sizes := []int{0, 1, 59, 60, 61, 100, 160, 161, 1023, 1024, 1025, 4095, 4096, 4097, 12345, 200000}
			r.check(os.WriteFile(p, r.bytes(sizes[r.rng.IntN(len(sizes))]), 0o600))
			r.finish(p, disk.ModeReg)
		case k < 12:
			r.sparse(p)
			r.finish(p, disk.ModeReg)
		case k < 16:
			lengths := []int{1, 59, 60, 61, 160, 161, 500, r.block - 1}
			r.check(os.Symlink(strings.Repeat("l", lengths[r.rng.IntN(len(lengths))]), p))
			r.finish(p, disk.ModeLink)
		case k < 17:
			r.check(unix.Mkfifo(p, 0o600))
			r.finish(p, disk.ModeFIFO)
		case k < 18:
			r.check(unix.Mknod(p, unix.S_IFSOCK|0o600, 0))
			r.finish(p, disk.ModeSocket)
		case k < 20 && r.root:
			mode := []uint32{unix.S_IFCHR, unix.S_IFBLK}[r.rng.IntN(2)]
			r.check(unix.Mknod(p, mode|0o600, int(unix.Mkdev(r.rng.Uint32N(1<<12)>>r.rng.IntN(12), r.rng.Uint32N(1<<20)>>r.rng.IntN(20)))))
			r.finish(p, disk.ModeChar)
		case len(r.others) > 0:
			r.check(os.Link(r.others[r.rng.IntN(len(r.others))], p))
		}
	}
}

// sparse makes a file with holes, some of them large.
func (r *randomTree) sparse(p string) {
	f, err := os.Create(p)
	r.check(err)
	size := r.rng.Int64N(1 << (10 + r.rng.IntN(14)))
	if r.one(60) {
		size += fixtures.SumWhole
	}
	for range r.rng.IntN(10) {
		n := 1 + r.rng.Int64N(20000)
		if n < size {
			_, err := f.WriteAt(r.bytes(int(n)), r.rng.Int64N(size-n))
			r.check(err)
		}
	}
	r.check(f.Truncate(size))
	r.check(f.Close())
}

// finish gives an entry an owner, xattrs, a mode and times.
func (r *randomTree) finish(p string, kind disk.Mode) {
	if kind != disk.ModeDir {
		r.others = append(r.others, p)
	}
	if r.root {
		r.check(os.Lchown(p, int(r.rng.Uint32()>>r.rng.IntN(33)&^1), int(r.rng.Uint32()>>r.rng.IntN(33)&^1)))
	}
	if kind != disk.ModeLink {
		least := disk.Mode(0o600) // for whoever runs the test
		if kind == disk.ModeDir {
			least = 0o700
		}
		r.check(unix.Chmod(p, r.rng.Uint32N(0o10000)|uint32(least)))
	}
	if r.one(3) {
		r.setXattrs(p, kind)
	}
	// From 2310 on e2fsck takes times for such before 1970 by a kernel that had them wrong.
	mtime := unix.Timespec{Sec: minTime + 1 + r.rng.Int64N(3<<32-1), Nsec: r.rng.Int64N(1e9)}
	r.check(unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW))
}

// setXattrs sets as many xattrs as fit into a block.
func (r *randomTree) setXattrs(p string, kind disk.Mode) {
	set := func(name string, value []byte) {
		err := unix.Lsetxattr(p, name, value, 0)
		if err == unix.EOPNOTSUPP {
			r.xattrs = false
			return
		}
		if err != unix.ENOSPC { // where the source is
			r.check(err)
		}
	}
	if kind == disk.ModeReg || kind == disk.ModeDir {
		for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			if r.one(3) && (name == "system.posix_acl_access" || kind == disk.ModeDir) {
				set(name, r.acl())
			}
		}
	}
	spaces := []string{}
	if kind == disk.ModeReg || kind == disk.ModeDir {
		spaces = append(spaces, "user.")
	}
	if r.root {
		spaces = append(spaces, "trusted.", "security.e4go.")
	}
	if len(spaces) == 0 {
		return
	}
	room := r.block - 400 // for the ACLs
	for i := range 1 + r.rng.IntN(40) {
		name := fmt.Sprintf("%s%s%d", spaces[r.rng.IntN(len(spaces))], strings.Repeat("n", r.rng.IntN(20)), i)
		value := r.bytes(r.rng.IntN(1 << r.rng.IntN(10)))
		if room -= len(name) + len(value) + 32; room < 0 {
			return
		}
		set(name, value)
	}
}

// acl is a valid POSIX ACL with names.
func (r *randomTree) acl() []byte {
	perm := func() uint16 { return uint16(r.rng.IntN(8)) }
	acl := []disk.ACLEntry{{Tag: disk.ACLUserObj, Perm: 7, ID: 1<<32 - 1}}
	for i := range r.rng.IntN(4) {
		acl = append(acl, disk.ACLEntry{Tag: disk.ACLUser, Perm: perm(), ID: uint32(1000*i) + r.rng.Uint32N(1000)})
	}
	acl = append(acl, disk.ACLEntry{Tag: disk.ACLGroupObj, Perm: perm(), ID: 1<<32 - 1})
	for i := range r.rng.IntN(4) {
		acl = append(acl, disk.ACLEntry{Tag: disk.ACLGroup, Perm: perm(), ID: uint32(1000*i) + r.rng.Uint32N(1000)})
	}
	return disk.WireACL(append(acl, disk.ACLEntry{Tag: disk.ACLMask, Perm: perm(), ID: 1<<32 - 1}, disk.ACLEntry{Tag: disk.ACLOther, Perm: perm(), ID: 1<<32 - 1}))
}

// sameNames compares which names are of one inode.
func sameNames(t testing.TB, want, got []fixtures.Entry) {
	t.Helper()
	first := func(tree []fixtures.Entry) map[string]string {
		seen, out := map[uint64]string{}, map[string]string{}
		for _, e := range tree {
			if _, ok := seen[e.Ino]; !ok {
				seen[e.Ino] = e.Path
			}
			out[e.Path] = seen[e.Ino]
		}
		return out
	}
	w := first(want)
	for p, to := range first(got) {
		if have, ok := w[p]; ok && have != to {
			t.Errorf("%q is the same file as %q, want %q", p, to, have)
		}
	}
}

// compareDumps compares the tree of an image with that of the source. holes
// says whether their files must have the same holes.
func compareDumps(t testing.TB, want, got []fixtures.Entry, holes bool) {
	t.Helper()
	ignore := []string{"ino", "blocks", "atime", "ctime", "btime", "extents", "fiemaperr", "seekerr", "attributes", "/lost+found",
		"/:mode", "/:uid", "/:gid", "/:xattrs", "/:nlink", "/:size"}
	if !holes {
		ignore = append(ignore, "data")
	}
	strip := func(tree []fixtures.Entry) []fixtures.Entry {
		out := append([]fixtures.Entry{}, tree...)
		for i := range out {
			switch {
			case out[i].Mode&unix.S_IFMT == unix.S_IFDIR:
				out[i].Size, out[i].Nlink = 0, 0 // e2fsck looks at these
			case len(out[i].Data) == 0:
				out[i].Data = nil
			}
		}
		return out
	}
	for _, d := range fixtures.Diff(strip(want), strip(got), ignore...) {
		t.Error(d)
	}
	sameNames(t, want, got)
}

// Random trees come back as they went in, through the kernel and through
// package ext4.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 88))
			set := fillSets[rng.IntN(len(fillSets))]
			block := 1024
			if strings.Contains(set, "-b 4096") {
				block = 4096
			}
			src := filepath.Join(t.TempDir(), "src")
			r := newRandomTree(t, seed, block)
			r.check(os.Mkdir(src, 0o755))
			wide := []int{2, 4, 40}[rng.IntN(3)] // deep, mixed, wide
			for r.left = 400; r.left > 0; {
				r.fill(src, wide)
			}
			if !r.xattrs {
				t.Log("SKIPPED: xattrs, which the file system of the source does not have")
			}
			o := parseArgs(t, strings.Fields(set))
			size := int64(0)
			if rng.IntN(2) == 0 {
				size, o.Inodes = 256<<20, 4096
			}
			t.Logf("%s, size %d, one in %d is a directory", set, size, wide)
			dir := t.TempDir()
			img := filepath.Join(dir, "image")
			b, _, err := fill(dir, img, o, size, nil, fromDir(src))
			r.check(err)
			want, err := fixtures.DumpTree(src, fixtures.Options{Contents: true, Xattrs: true, Seek: true})
			r.check(err)
			holes := block == 4096 && !strings.Contains(set, "bigalloc") && !strings.Contains(set, "inline_data")
			compareDumps(t, want, dumpImage(t, img), holes)
			t.Run("kernel", func(t *testing.T) {
				fixtures.Need(t, "root", "loop", "e2fsck")
				mnt := checkImage(t, img)
				got, err := fixtures.DumpTree(mnt, fixtures.Options{Contents: true, Xattrs: true, Seek: true})
				if err != nil {
					t.Fatal(err)
				}
				compareDumps(t, want, got, holes)
				checkManifest(t, b, mnt)
			})
		})
	}
}

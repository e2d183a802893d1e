package ext4_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// attrs is what a namer can do beside names.
type attrs interface {
	namer
	chmod(p string, mode uint32) error
	chown(p string, uid, gid uint32) error
	utimes(p string, atime, mtime int64) error
	touch(p string) error
	flags(p string, set uint32) error
	truncate(p string, size int64) error
}

func (o ours) set(p string, a ext4.SetAttr) error {
	in, err := o.fs.Resolve(p, false)
	if err != nil {
		return err
	}
	return o.fs.SetAttr(context.Background(), o.c, in.Ino(), a)
}

func (o ours) chmod(p string, mode uint32) error {
	m := disk.Mode(mode)
	return o.set(p, ext4.SetAttr{Mode: &m})
}
func (o ours) chown(p string, uid, gid uint32) error {
	return o.set(p, ext4.SetAttr{UID: &uid, GID: &gid})
}
func (o ours) utimes(p string, atime, mtime int64) error {
	return o.set(p, ext4.SetAttr{Atime: &disk.Time{Sec: atime, Nsec: 123456789}, Mtime: &disk.Time{Sec: mtime, Nsec: 987654321}})
}
func (o ours) touch(p string) error { return o.set(p, ext4.SetAttr{Touch: true}) }
func (o ours) flags(p string, set uint32) error {
	in, err := o.fs.Resolve(p, false)
	if err != nil {
		return err
	}
	f := in.Disk().Flags&disk.FlagExtents | disk.FileFlags(set)
	return o.set(p, ext4.SetAttr{Flags: &f})
}
func (o ours) truncate(p string, size int64) error {
	in, err := o.fs.Resolve(p, true)
	if err != nil {
		return err
	}
	return o.fs.SetAttr(context.Background(), o.c, in.Ino(), ext4.SetAttr{Size: &size})
}

func (k kernel) chmod(p string, mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, k.at(p), mode, unix.AT_SYMLINK_NOFOLLOW)
}
func (k kernel) chown(p string, uid, gid uint32) error {
	return unix.Lchown(k.at(p), int(uid), int(gid))
}
func (k kernel) utimes(p string, atime, mtime int64) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, k.at(p), []unix.Timespec{{Sec: atime, Nsec: 123456789}, {Sec: mtime, Nsec: 987654321}}, unix.AT_SYMLINK_NOFOLLOW)
}
func (k kernel) touch(p string) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, k.at(p), nil, unix.AT_SYMLINK_NOFOLLOW)
}
func (k kernel) flags(p string, set uint32) error {
	fd, err := unix.Open(k.at(p), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	old, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, old&int(disk.FlagExtents)|int(set))
}
func (k kernel) truncate(p string, size int64) error { return unix.Truncate(k.at(p), size) }

// errnoCalls are calls that fail, and what they need to fail as they do.
func errnoCalls() (calls []func(n attrs) (string, error)) {
	add := func(what string, do func(n attrs) error) {
		calls = append(calls, func(n attrs) (string, error) { return what, do(n) })
	}
	create := func(p string) { add("create "+p, func(n attrs) error { return n.create(p, unix.S_IFREG|0o2755) }) }
	mkdir := func(p string) {
		p = strings.TrimSuffix(p, "/")
		add("mkdir "+p, func(n attrs) error { return n.mkdir(p, 0o755) })
	}
	unlink := func(p string) { add("unlink "+p, func(n attrs) error { return n.unlink(p) }) }
	rmdir := func(p string) { add("rmdir "+p, func(n attrs) error { return n.rmdir(p) }) }
	link := func(p, q string) { add("link "+p+" "+q, func(n attrs) error { return n.link(p, q) }) }
	symlink := func(k int, p string) {
		add(fmt.Sprintf("symlink %d %s", k, p), func(n attrs) error { return n.symlink(strings.Repeat("t", k), p) })
	}
	rename := func(p, q string, flags uint) {
		add(fmt.Sprintf("rename %s %s %d", p, q, flags), func(n attrs) error { return n.rename(p, q, flags) })
	}
	flags := func(p string, set disk.FileFlags) {
		add(fmt.Sprintf("flags %s %#x", p, uint32(set)), func(n attrs) error { return n.flags(p, uint32(set)) })
	}
	attr := func(p string) {
		add("chmod "+p, func(n attrs) error { return n.chmod(p, 0o6711) })
		add("chown "+p, func(n attrs) error { return n.chown(p, 70000, 80000) })
		add("touch "+p, func(n attrs) error { return n.touch(p) })
		add("truncate "+p, func(n attrs) error { return n.truncate(p, 5) })
		add("utimes "+p, func(n attrs) error { return n.utimes(p, -1<<40, 1<<33) })
	}
	long := strings.Repeat("n", 255)

	for _, d := range []string{"d", "d/sub", "d/empty", "e", "fixed", "fixed/sub", "appending", "g"} {
		mkdir(d)
	}
	for _, f := range []string{"f", "d/f", "d/sub/f", "fixed/f", "appending/f", "ro", "app", "h"} {
		create(f)
	}
	symlink(10, "l")
	// Making.
	for _, p := range []string{"f", "d", "l", "no/x", "f/x", long, long + "n", ".", "..", "d/.", "d/..", "l/x"} {
		create(p)
		mkdir(p)
		link("f", p)
		symlink(5, p)
	}
	for _, k := range []int{59, 60, 61, 1023, 1024, 4095} {
		symlink(k, fmt.Sprintf("s%d", k))
	}
	for i, dev := range [][2]uint32{{0, 0}, {1, 3}, {255, 255}, {256, 0}, {4095, 1 << 19}} {
		add("mknod", func(n attrs) error { return n.mknod(fmt.Sprintf("c%d", i), unix.S_IFCHR|0o600, dev[0], dev[1]) })
		add("mknod", func(n attrs) error { return n.mknod(fmt.Sprintf("b%d", i), unix.S_IFBLK|0o600, dev[0], dev[1]) })
	}
	add("mkfifo", func(n attrs) error { return n.create("p", unix.S_IFIFO|0o644) })
	add("mksock", func(n attrs) error { return n.create("sock", unix.S_IFSOCK|0o644) })
	// Linking.
	for _, p := range []string{"d", "no", "l", "p", "d/f", "f/x"} {
		link(p, "x-"+strings.ReplaceAll(p, "/", "-"))
	}
	// Removing.
	for _, p := range []string{"d", "no", "no/x", "f/x", long + "n", ".", "d/.", "d/..", "f", "x-l", "x-p"} {
		rmdir(p)
		unlink(p)
	}
	create("f")
	// Renaming.
	for _, k := range []uint{3, 6, 7, 8} {
		rename("f", "f", k)
		rename("f", "x", k)
	}
	for _, k := range []uint{0, 1, 2, 4, 5} {
		for i, p := range [][2]string{
			{"f", "f"}, {"f", "d"}, {"d", "f"}, {"d", "d/sub/y"}, {"d", "d/y"}, {"d/sub", "d"}, {"d/sub/f", "d"}, {"d", "d/sub"}, {"d", "d/f"},
			{"no", "f"}, {"no", "no2"}, {"f", "no/x"}, {"f", "f/x"}, {"f", long + "n"}, {long + "n", "f"}, {".", "x"}, {"f", "."}, {"d/..", "x"},
			{"f", "d/.."}, {"d", "d"}, {"h", "d/f"}, {"d/f", "h"}, {"e", "d/empty"}, {"d/empty", "e"}, {"e", "d/sub"}, {"g", "d"}, {"d", "g"}, {"d", "e"}, {"l", "f"},
			{"l", "l2"}, {"f", "l"}, {"d/sub", "g/sub"}, {"h", "h2"}, {"h", "f"}, {"d/f", "d/new"}, {"d/f", "e/new"}, {"d/sub", "e/new"},
		} {
			r := fmt.Sprintf("r%d-%d/", k, i)
			for _, d := range []string{"", "d", "d/sub", "d/empty", "e", "g"} {
				mkdir(r + d)
			}
			for _, f := range []string{"f", "d/f", "d/sub/f", "h"} {
				create(r + f)
			}
			symlink(10, r+"l")
			link(r+"f", r+"f2")
			rename(r+p[0], r+p[1], k)
		}
	}
	// Immutable and append-only.
	create("f")
	mkdir("e")
	flags("fixed", disk.FlagImmutable)
	flags("appending", disk.FlagAppend)
	flags("ro", disk.FlagImmutable)
	flags("app", disk.FlagAppend)
	for _, d := range []string{"fixed", "appending"} {
		create(d + "/f")
		create(d + "/new")
		mkdir(d + "/newdir")
		link("f", d+"/link")
		symlink(3, d+"/l")
		unlink(d + "/f")
		unlink(d + "/no")
		rmdir(d + "/sub")
		rename(d+"/f", "x", 0)
		rename("f", d+"/f", 0)
		rename("f", d+"/x", 0)
		rename("f", d+"/f", 2)
		rename(d+"/f", d+"/f", 0)
		rename("e", d+"/sub", 0)
		rmdir(d)
		attr(d)
		rename(d, "moved", 0)
	}
	for _, f := range []string{"ro", "app"} {
		unlink(f)
		link(f, "x"+f)
		rename(f, "y", 0)
		rename("f", f, 0)
		rename("e", f, 0)
		rename(f, "e", 0)
		rename(f, "f", 2)
		attr(f)
		flags(f, disk.FlagNodump)
		unlink(f)
	}
	flags("fixed", disk.FlagImmutable|disk.FlagNoatime)
	flags("fixed", 0)
	flags("appending", 0)
	// Flags and attributes.
	create("f")
	mkdir("e")
	symlink(4, "l")
	for _, p := range []string{"f", "e"} {
		for _, set := range []disk.FileFlags{disk.FlagDirsync, disk.FlagTopdir, disk.FlagNotail, disk.FlagSync | disk.FlagNoatime, disk.FlagHugeFile,
			disk.FlagVerity, disk.FlagReserved, disk.FlagCasefold, disk.FlagInlineData, disk.FlagIndex, disk.FlagEncrypt, 0} {
			flags(p, set)
		}
	}
	attr("f")
	attr("e")
	attr("l")
	attr("p")
	// A set-group-ID directory.
	mkdir("sgid")
	add("chown", func(n attrs) error { return n.chown("sgid", 0, 77) })
	add("chmod", func(n attrs) error { return n.chmod("sgid", 0o2777) })
	create("sgid/f")
	mkdir("sgid/d")
	symlink(3, "sgid/l")
	flags("sgid", disk.FlagSync|disk.FlagDirsync|disk.FlagNodump|disk.FlagTopdir)
	create("sgid/f2")
	mkdir("sgid/d2")
	symlink(3, "sgid/l2")
	return calls
}

// timeless are the fields in which two file systems that saw the same calls differ.
var timeless = []string{"ino", "blocks", "ctime", "btime", "atime", "mtime", "extents", "fiemaperr"}

// TestNamesErrno does the same calls with the kernel and with us, and compares
// each errno, and the trees that come out.
func TestNamesErrno(t *testing.T) {
	for _, kind := range nameKinds {
		if !kind.mounts || kind.name == "no-journal" { // that is the kernel's ext2 in disguise: nothing else with names
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			for seed, n := range steps(t, 1500) {
				rng := rand.New(rand.NewPCG(uint64(len(kind.name)), 5+seed))
				t.Run(fmt.Sprint(seed), func(t *testing.T) { kind.compareCalls(t, rng, n) })
			}
		})
	}
}

// compareCalls does calls whose errno matters, and n random operations, with the
// kernel and with us.
func (kind nameKind) compareCalls(t *testing.T, rng *rand.Rand, n int) {
	args := append([]string{"-N", "12000"}, kind.args...)
	theirs, mine := makeImage(t, "64M", args...), makeImage(t, "64M", args...)
	unix.Umask(0)
	var options []string
	if strings.HasPrefix(kind.name, "inline") {
		options = []string{"data=writeback"} // the kernel's own bug with data=ordered
	}
	root, unmount := fixtures.MountKernelWrite(t, theirs, options...)
	fs, done := openWrite(t, mine)
	k, o := kernel{root}, ours{fs, ext4.Root}
	for _, call := range errnoCalls() {
		what, want := call(k)
		_, got := call(o)
		if errnoOf(got) != errnoOf(want) {
			t.Errorf("%s: the kernel says %v, we %v", what, want, got)
		}
	}
	compareSetTimes(t, root, fs)
	for range n {
		randomStep(t, rng, k, o)
	}
	unmount()
	done()
	checkImage(t, mine)
	trees := [2][]fixtures.Entry{}
	for i, file := range []string{theirs, mine} {
		tree, err := fixtures.DumpTree(fixtures.MountKernel(t, file), fixtures.Options{Contents: true, Xattrs: true})
		if err != nil {
			t.Fatal(err)
		}
		for j := range tree {
			if tree[j].Mode&unix.S_IFMT == unix.S_IFDIR {
				tree[j].Size = 0 // how full the blocks are is everybody's own affair
			}
		}
		trees[i] = tree
	}
	for _, line := range fixtures.Diff(trees[0], trees[1], timeless...) {
		t.Error(line)
	}
}

// compareSetTimes compares the times of what had them set to the far future,
// beyond what some inodes can hold.
func compareSetTimes(t *testing.T, root string, fs *ext4.FS) {
	t.Helper()
	tree, err := fixtures.DumpTree(root, fixtures.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range tree {
		if e.Mtime.Sec < 1<<31-1 {
			continue
		}
		n++
		in, err := fs.Resolve(e.Path, false)
		if err != nil {
			t.Error(err)
			continue
		}
		if st := in.Stat(); e.Atime != timeOf(st.Atime) || e.Mtime != timeOf(st.Mtime) {
			t.Errorf("%s: times %v %v, want %v %v", e.Path, st.Atime, st.Mtime, e.Atime, e.Mtime)
		}
	}
	if n < 4 {
		t.Errorf("times were set of %d files, want 4 or more", n)
	}
}

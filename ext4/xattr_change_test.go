package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// newImage makes a file system of 24 MiB with mke2fs and its options, which
// has what fill has put into the root directory.
func newImage(t testing.TB, fill func(root string), args ...string) string {
	t.Helper()
	fixtures.Need(t, "mke2fs", "e2fsck")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(root)
	image := filepath.Join(dir, "image")
	args = append(append([]string{"-q", "-F", "-t", "ext4", "-d", root}, args...), image, "24M")
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %s", args, out)
	}
	if strings.Contains(strings.Join(args, " "), "quota") { // mke2fs counts before it fills
		out, err := exec.Command("e2fsck", "-fy", image).CombinedOutput()
		if exit := new(exec.ExitError); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
			t.Fatalf("e2fsck -fy: %s", out)
		}
	}
	return image
}

// someFiles are eight files, two directories, a link and a FIFO.
func someFiles(root string) {
	for i := range 8 {
		os.WriteFile(filepath.Join(root, fmt.Sprint("file", i)), bytes.Repeat([]byte{'x'}, 20*i), 0o644)
	}
	os.Mkdir(filepath.Join(root, "dir0"), 0o755)
	os.Mkdir(filepath.Join(root, "dir1"), 0o755)
	os.Symlink("file0", filepath.Join(root, "link"))
	unix.Mkfifo(filepath.Join(root, "fifo"), 0o644)
}

var someNames = []string{"file0", "file1", "file2", "file3", "file4", "file5", "file6", "file7", "dir0", "dir1", "link", "fifo"}

// openWrite opens an image for writing.
func openWrite(t testing.TB, image string, o Options) (*FS, func()) {
	t.Helper()
	dev, err := blockdev.Open(image, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	o.Write = true
	fs, err := Open(dev, o)
	if err != nil {
		dev.Close()
		t.Fatal(err)
	}
	open := true
	done := func() {
		if !open {
			return
		}
		open = false
		if err := errors.Join(fs.Close(), dev.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(done)
	return fs, done
}

// checkImage lets e2fsck and fsck-lite judge an image.
func checkImage(t testing.TB, image string) {
	t.Helper()
	if status, out := fixtures.E2fsck(t, image); status != 0 {
		t.Errorf("e2fsck -fn: status %d: %s", status, out)
	}
	dev, err := blockdev.Open(image, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	report, err := fsck.Run(context.Background(), dev, fsck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		if p.Severity == fsck.Note {
			continue // such as trees that could be smaller, which the kernel leaves too
		}
		t.Errorf("fsck-lite: %s, have %s, want %s: %+v", p.Text(), p.Have, p.Want, p.Place)
	}
}

func (fs *FS) inoOf(t testing.TB, path string) disk.Ino {
	t.Helper()
	in, err := fs.Resolve(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return in.Ino()
}

// kernelXattrs are the xattrs of a file as the kernel has them.
func kernelXattrs(t testing.TB, path string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	b := make([]byte, 1<<17)
	n, err := unix.Llistxattr(path, b)
	if err != nil {
		t.Fatalf("listxattr %s: %v", path, err)
	}
	for _, name := range strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }) {
		v := make([]byte, 1<<17)
		n, err := unix.Lgetxattr(path, name, v)
		if err != nil {
			t.Fatalf("getxattr %s of %s: %v", name, path, err)
		}
		out[name] = string(v[:n])
	}
	return out
}

// ourXattrs are the same as package ext4 has them.
func ourXattrs(t testing.TB, fs *FS, path string) map[string]string {
	t.Helper()
	in, err := fs.Resolve(path, false)
	if err != nil {
		t.Fatal(err)
	}
	names, err := in.Listxattr()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	out := make(map[string]string)
	for _, name := range names {
		v, err := in.Getxattr(name)
		if err != nil {
			t.Fatalf("%s of %s: %v", name, path, err)
		}
		out[name] = string(v)
	}
	return out
}

func sameMap(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[name]; !ok {
			t.Errorf("%s: %s is missing", what, name)
		} else if v != want[name] {
			t.Errorf("%s: %s has %d bytes %.20q, want %d bytes %.20q", what, name, len(v), v, len(want[name]), want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s should not be there", what, name)
		}
	}
}

// rounds is how often a random test goes on: n times, or many more with
// E4GO_LONG in the environment.
func rounds(n int) int {
	if os.Getenv("E4GO_LONG") != "" {
		return 30 * n
	}
	return n
}

// xattrImages are the kinds of file systems on which xattrs are stored in
// different ways.
var xattrImages = []struct {
	name string
	args []string
}{
	{"128-1k", []string{"-I", "128", "-b", "1024"}},
	{"256-4k", []string{"-I", "256", "-b", "4096"}},
	{"1024-4k", []string{"-I", "1024", "-b", "4096"}},
	{"256-1k-nocsum", []string{"-I", "256", "-b", "1024", "-O", "^metadata_csum"}},
	{"ea_inode-1k", []string{"-I", "256", "-b", "1024", "-O", "ea_inode"}},
	{"ea_inode-4k-128", []string{"-I", "128", "-b", "4096", "-O", "ea_inode,^metadata_csum"}},
	{"inline_data", []string{"-I", "256", "-b", "4096", "-O", "inline_data"}},
	{"inline_data-1024-ea_inode", []string{"-I", "1024", "-b", "1024", "-O", "inline_data,ea_inode"}},
	{"bigalloc", []string{"-b", "1024", "-O", "bigalloc,ea_inode", "-C", "16384"}},
	{"64k", []string{"-b", "65536", "-O", "ea_inode"}},
	{"no-ext_attr", []string{"-b", "1024", "-O", "^ext_attr"}},
	{"nojournal", []string{"-b", "1024", "-O", "^has_journal,ea_inode"}},
}

// randomValue is sometimes one that others have too.
func randomValue(rng *rand.Rand) []byte {
	n := []int{0, 1, 7, 30, 90, 200, 700, 1100, 3900, 4096, 9000, 65536}[rng.IntN(12)]
	if rng.IntN(3) == 0 {
		return bytes.Repeat([]byte{'a'}, n)
	}
	b := make([]byte, max(0, n-rng.IntN(5)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// randomXattrs sets and removes xattrs, and checks each answer against what
// was done before. ENOSPC is no answer to a value that was shorter before.
func randomXattrs(t testing.TB, fs *FS, rng *rand.Rand, model map[string]map[string]string, ops int) {
	names := []string{"user.a", "user.b", "user.a-longer-name", "user." + strings.Repeat("n", 250), "trusted.t", "security.selinux", "security.other", "user.c", "trusted.x"}
	ctx := context.Background()
	stored := 0
	for i := range ops {
		path := someNames[rng.IntN(len(someNames))]
		name := names[rng.IntN(len(names))]
		ino := fs.inoOf(t, "/"+path)
		old, there := model[path][name]
		var want, err error
		if rng.IntN(4) == 0 {
			err = fs.Removexattr(ctx, Root, ino, name)
			if !there {
				want = unix.ENODATA
			}
			if err == nil {
				delete(model[path], name)
			}
		} else {
			value, flags := randomValue(rng), []int{0, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[rng.IntN(5)]
			err = fs.Setxattr(ctx, Root, ino, name, value, flags)
			switch {
			case there && flags == unix.XATTR_CREATE:
				want = unix.EEXIST
			case !there && flags == unix.XATTR_REPLACE:
				want = unix.ENODATA
			case err != nil && errors.Is(err, unix.ENOSPC) && !(there && len(value) <= len(old)):
				want = unix.ENOSPC
			}
			if err == nil {
				model[path][name] = string(value)
				stored++
			}
		}
		if strings.HasPrefix(name, "user.") && (path == "link" || path == "fifo") {
			want = unix.EPERM
		}
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("operation %d on %s of %s: %v, want %v", i, name, path, err, want)
		}
		if i%50 == 0 {
			sameMap(t, path, ourXattrs(t, fs, "/"+path), model[path])
		}
	}
	if stored < ops/5 {
		t.Errorf("only %d of %d operations stored something", stored, ops)
	}
}

// What was set is what is there, for us, for the kernel, and for both again
// after the kernel has changed it; and the checkers find nothing.
func TestXattrsRandomly(t *testing.T) {
	for i, im := range xattrImages {
		t.Run(im.name, func(t *testing.T) {
			image := newImage(t, someFiles, im.args...)
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			model := make(map[string]map[string]string)
			for _, p := range someNames {
				model[p] = make(map[string]string)
			}
			for round := range rounds(2) {
				fs, done := openWrite(t, image, Options{})
				for _, p := range someNames {
					sameMap(t, p, ourXattrs(t, fs, "/"+p), model[p])
				}
				randomXattrs(t, fs, rng, model, 600)
				done()
				checkImage(t, image)
				if im.name == "64k" {
					continue
				}
				var options []string
				if strings.HasPrefix(im.name, "inline_data") {
					options = []string{"data=writeback"}
				}
				if os.Geteuid() != 0 {
					continue // the judges that need no root have spoken
				}
				mnt, unmount := fixtures.MountKernelWrite(t, image, options...)
				for _, p := range someNames {
					sameMap(t, "kernel: "+p, kernelXattrs(t, filepath.Join(mnt, p)), model[p])
				}
				if round%2 == 0 {
					kernelChanges(t, mnt, rng, model, 150)
				}
				unmount()
				checkImage(t, image)
			}
		})
	}
}

// kernelChanges lets the kernel set and remove xattrs.
func kernelChanges(t testing.TB, mnt string, rng *rand.Rand, model map[string]map[string]string, ops int) {
	for range ops {
		path := someNames[rng.IntN(10)] // files and directories
		name := []string{"user.a", "user.b", "trusted.x", "user.kernel"}[rng.IntN(4)]
		if rng.IntN(3) == 0 {
			if unix.Lremovexattr(filepath.Join(mnt, path), name) == nil {
				delete(model[path], name)
			}
			continue
		}
		value := randomValue(rng)
		if unix.Lsetxattr(filepath.Join(mnt, path), name, value, 0) == nil {
			model[path][name] = string(value)
		}
	}
}

// Rules that hold before anything is looked for.
func TestXattrRefusals(t *testing.T) {
	image := newImage(t, someFiles)
	fs, done := openWrite(t, image, Options{})
	defer done()
	ctx := context.Background()
	for i, flag := range []disk.FileFlags{disk.FlagImmutable, disk.FlagAppend} {
		ino := fs.inoOf(t, fmt.Sprint("/file", i))
		err := fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err == nil {
				in.disk.Flags |= flag
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"user.x", "trusted.x", accessACL} {
			if err := fs.Setxattr(ctx, Root, ino, name, wire("u::rw- g::r-- o::r--"), 0); !errors.Is(err, unix.EPERM) {
				t.Errorf("set %s with flag %#x: %v", name, flag, err)
			}
			if err := fs.Removexattr(ctx, Root, ino, name); !errors.Is(err, unix.EPERM) {
				t.Errorf("remove %s with flag %#x: %v", name, flag, err)
			}
		}
	}
	if err := fs.Setxattr(ctx, Caller{UID: 7}, fs.inoOf(t, "/file2"), "trusted.x", nil, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("trusted.x for a user: %v", err)
	}
	gone := fs.inoOf(t, "/file3")
	if err := fs.Update(ctx, func(h *Handle) error { return h.orphanForTest(gone) }); err != nil {
		t.Fatal(err)
	}
	if err := fs.Setxattr(ctx, Root, gone, "user.x", []byte("v"), 0); err != nil {
		t.Errorf("an unlinked file: %v", err)
	}
	if err := fs.evict(ctx, gone); err != nil {
		t.Fatal(err)
	}
	if err := fs.Setxattr(ctx, Root, gone, "user.x", []byte("v"), 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a deleted file: %v", err)
	}
	if err := fs.Setxattr(ctx, Root, fs.sb.JournalIno, "user.x", []byte("v"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("the journal: %v", err)
	}
}

// The bytes behind the fields of an inode that nobody has used yet hold xattrs
// once the fields are said to be there.
func TestXattrWantsExtraIsize(t *testing.T) {
	image := newImage(t, manyFiles(1), "-I", "256")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	ino := fs.inoOf(t, "/0")
	err := fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		if err == nil {
			in.disk.ExtraIsize = 0
			for i := range in.raw[disk.GoodOldInodeSize+minExtraIsize:] {
				in.raw[disk.GoodOldInodeSize+minExtraIsize+i] = 0xa5
			}
		}
		return err
	})
	if err == nil {
		err = fs.Setxattr(ctx, Root, ino, "user.x", []byte("value"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	in, err := fs.Inode(ino)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := in.Xattrs(); err != nil || len(list) != 1 || list[0].Where != "inode" || in.disk.ExtraIsize != minExtraIsize {
		t.Errorf("%+v, %v; i_extra_isize %d", list, err, in.disk.ExtraIsize)
	}
	done()
	checkImage(t, image)
}

// What is broken stops a change, and is not made worse.
func TestXattrChangeOfBroken(t *testing.T) {
	image := newImage(t, manyFiles(2), "-I", "128", "-b", "1024", "-O", "ea_inode")
	fs, done := openWrite(t, image, Options{})
	ctx := context.Background()
	ino := fs.inoOf(t, "/0")
	if err := errors.Join(fs.Setxattr(ctx, Root, ino, "user.big", make([]byte, 5000), 0), fs.Setxattr(ctx, Root, ino, "user.x", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	in, err := fs.Inode(ino)
	if err != nil {
		t.Fatal(err)
	}
	block := in.disk.XattrBlock(&fs.sb)
	list, err := in.stored()
	if err != nil {
		t.Fatal(err)
	}
	ea := list[slices.IndexFunc(list, func(x storedXattr) bool { return x.ValueIno != 0 })].ValueIno
	done()
	breakIt := func(what string, change func(h *Handle) error, field string, try func(fs *FS) error) {
		t.Helper()
		broken := filepath.Join(t.TempDir(), "broken")
		if err := fixtures.CopySparse(broken, image); err != nil {
			t.Fatal(err)
		}
		fs, done := openWrite(t, broken, Options{})
		if err := fs.Update(ctx, change); err != nil {
			t.Fatal(err)
		}
		err := try(fs)
		var bad *disk.CorruptError
		if !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: %v, want an error about %s", what, err, field)
		}
		done()
	}
	remove := func(name string) func(*FS) error {
		return func(fs *FS) error { return fs.Removexattr(ctx, Root, ino, name) }
	}
	breakIt("a block that nobody has", func(h *Handle) error { return h.refXattrBlock(block, -1) }, "h_refcount", remove("user.x"))
	breakIt("an EA inode without references", func(h *Handle) error {
		in, err := h.inode(ea)
		if err == nil {
			setEARefs(&in.disk, 0)
		}
		return err
	}, "reference count", remove("user.big"))
	breakIt("an EA inode that is a file", func(h *Handle) error {
		in, err := h.inode(ea)
		if err == nil {
			in.disk.Flags &^= disk.FlagEAInode
		}
		return err
	}, "e_value_inum", remove("user.big"))
}

// No name leads to an EA inode, nobody writes to one, and it gets no name.
func TestEAInodeIsNobodys(t *testing.T) {
	ctx := context.Background()
	image := newImage(t, manyFiles(2), "-O", "ea_inode")
	fs, done := openWrite(t, image, Options{})
	defer done()
	ino := fs.inoOf(t, "/0")
	if err := fs.Setxattr(ctx, Root, ino, "user.big", make([]byte, 5000), 0); err != nil {
		t.Fatal(err)
	}
	in, err := fs.Inode(ino)
	if err != nil {
		t.Fatal(err)
	}
	list, err := in.stored()
	if err != nil {
		t.Fatal(err)
	}
	ea := list[slices.IndexFunc(list, func(x storedXattr) bool { return x.ValueIno != 0 })].ValueIno
	_, werr := fs.WriteAt(ctx, Root, ea, []byte("x"), 0)
	for what, err := range map[string]error{
		"write":     werr,
		"truncate":  fs.Truncate(ctx, Root, ea, 0),
		"fallocate": fs.Fallocate(ctx, Root, ea, 0, 0, 4096),
		"link":      fs.Link(ctx, Root, ea, disk.RootIno, "name"),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want EPERM", what, err)
		}
	}
	err = fs.Update(ctx, func(h *Handle) error {
		dir, free, err := h.dirForNew(disk.RootIno, "bad")
		if err != nil {
			return err
		}
		return h.addEntry(dir, free, &dirent{"bad", ea, disk.ModeReg.FileType()})
	})
	if err != nil {
		t.Fatal(err)
	}
	_, lerr := fs.Resolve("/bad", false)
	for what, err := range map[string]error{
		"look up": lerr,
		"unlink":  fs.Unlink(ctx, Root, disk.RootIno, "bad"),
		"rename":  fs.Rename(ctx, Root, disk.RootIno, "bad", disk.RootIno, "good", 0),
	} {
		if !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%s: %v, want a *disk.CorruptError", what, err)
		}
	}
	if v, err := in.Getxattr("user.big"); err != nil || len(v) != 5000 {
		t.Errorf("the xattr has %d bytes, %v", len(v), err)
	}
}

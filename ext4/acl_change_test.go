package ext4

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// wire makes an ACL of "u::rwx u:7:r-x g::--- m::rwx o::r--" for setxattr(2).
func wire(text string) []byte {
	var acl []disk.ACLEntry
	for _, field := range strings.Fields(text) {
		part := strings.Split(field, ":")
		e := disk.ACLEntry{ID: 0xffffffff}
		if part[1] != "" {
			fmt.Sscan(part[1], &e.ID)
		}
		e.Tag = map[string]uint16{"u": disk.ACLUserObj, "g": disk.ACLGroupObj, "m": disk.ACLMask, "o": disk.ACLOther}[part[0]]
		if part[1] != "" {
			e.Tag *= 2 // ACL_USER, ACL_GROUP
		}
		for i, c := range "rwx" {
			if part[2][i] == byte(c) {
				e.Perm |= 4 >> i
			}
		}
		acl = append(acl, e)
	}
	return disk.WireACL(acl)
}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// A xattrCall is a call that both the kernel and package ext4 are asked to do.
type xattrCall struct {
	path, name string
	value      []byte // nil: remove
	flags      int
	chmod      int // if not 0: chmod to this instead
}

func (c xattrCall) String() string {
	if c.chmod != 0 {
		return fmt.Sprintf("chmod %#o %s", c.chmod, c.path)
	}
	if c.value == nil {
		return fmt.Sprintf("removexattr %s %q", c.path, c.name)
	}
	return fmt.Sprintf("setxattr %s %.40q %.40x flags %d", c.path, c.name, c.value, c.flags)
}

func (c xattrCall) kernel(root string) error {
	p := filepath.Join(root, c.path)
	switch {
	case c.chmod != 0:
		return unix.Chmod(p, uint32(c.chmod))
	case c.value == nil:
		return unix.Lremovexattr(p, c.name)
	}
	return unix.Lsetxattr(p, c.name, c.value, c.flags)
}

func (c xattrCall) ours(t *testing.T, fs *FS, who Caller) error {
	ctx, ino := context.Background(), fs.inoOf(t, "/"+c.path)
	switch {
	case c.chmod != 0:
		return fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			in.disk.Mode = in.Type() | disk.Mode(c.chmod)
			in.touch(false)
			return h.chmodACL(in)
		})
	case c.value == nil:
		return fs.Removexattr(ctx, who, ino, c.name)
	}
	return fs.Setxattr(ctx, who, ino, c.name, c.value, c.flags)
}

// sameCalls does the calls on two copies of an image, by the kernel and by
// package ext4, and compares each errno and what is there after it.
func sameCalls(t *testing.T, calls []xattrCall, who Caller) {
	fixtures.Need(t, "root", "loop")
	image := newImage(t, func(root string) {
		someFiles(root)
		for _, name := range someNames {
			if name != "link" {
				os.Chmod(filepath.Join(root, name), 0o755|os.ModeSetgid)
			}
			os.Lchown(filepath.Join(root, name), 1000, 2000)
		}
	}, "-O", "ea_inode", "-b", "4096", "-J", "size=8")
	theirs := filepath.Join(t.TempDir(), "kernel")
	if err := fixtures.CopySparse(theirs, image); err != nil {
		t.Fatal(err)
	}
	mnt, unmount := fixtures.MountKernelWrite(t, theirs)
	fs, done := openWrite(t, image, Options{})
	for _, call := range calls {
		var want error
		as(who, func() { want = call.kernel(mnt) })
		got := call.ours(t, fs, who)
		if want == nil && got != nil || want != nil && !errors.Is(got, want) {
			t.Errorf("%v: %v, the kernel says %v", call, got, want)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(mnt, call.path), &st); err != nil {
			t.Fatal(err)
		}
		in, err := fs.Resolve("/"+call.path, false)
		if err != nil {
			t.Fatal(err)
		}
		if now := in.Stat(); now.Mode != st.Mode || now.Blocks != uint64(st.Blocks) {
			t.Errorf("after %v: mode %#o, %d sectors, the kernel has %#o and %d", call, now.Mode, now.Blocks, st.Mode, st.Blocks)
		}
		sameMap(t, "after "+call.String(), ourXattrs(t, fs, "/"+call.path), kernelXattrs(t, filepath.Join(mnt, call.path)))
	}
	unmount()
	done()
	checkImage(t, image)
}

// as calls fn as another user, if who is one.
func as(who Caller, fn func()) {
	if who.Privileged {
		fn()
		return
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	syscall.Setfsgid(int(who.GID))
	syscall.Setfsuid(int(who.UID))
	fn()
	syscall.Setfsuid(0)
	syscall.Setfsgid(0)
	runtime.UnlockOSThread()
}

func TestXattrCallsAsKernel(t *testing.T) {
	big := func(n int) []byte { return []byte(strings.Repeat("v", n)) }
	var calls []xattrCall
	for _, path := range []string{"file1", "dir0", "link", "fifo"} {
		for _, name := range []string{"user.a", "trusted.a", "security.a", "gnu.a"} {
			for _, flags := range []int{unix.XATTR_REPLACE, unix.XATTR_CREATE, unix.XATTR_CREATE, unix.XATTR_REPLACE, 0, 3, 4} {
				calls = append(calls, xattrCall{path: path, name: name, value: big(3 + flags), flags: flags})
			}
			for _, n := range []int{0, 1, 60, 3000, 4000, 4037, 4041, 8000, 65536, 65537, 100, 0} {
				if path == "link" && n > 3000 {
					continue // for e2fsck's sake, EA inodes of links are named in a block
				}
				calls = append(calls, xattrCall{path: path, name: name, value: big(n)})
			}
			calls = append(calls, xattrCall{path: path, name: name}, xattrCall{path: path, name: name})
		}
	}
	for _, name := range []string{"", "user", "user.", "trusted.", "security.", "nothing.a", "system.a", "system.data", "system.posix_acl_access2",
		"user." + strings.Repeat("n", 250), "user." + strings.Repeat("n", 251), "user." + strings.Repeat("n", 300), "system.posix_acl_", "lustre.a"} {
		calls = append(calls, xattrCall{path: "file2", name: name, value: big(5)}, xattrCall{path: "file2", name: name})
	}
	// One that grows in a block that is nearly full, beside others.
	for i := range 12 {
		calls = append(calls, xattrCall{path: "file3", name: fmt.Sprint("user.", i), value: big(200 + 40*i)})
	}
	for _, n := range []int{100, 1000, 2000, 3000, 1500, 50} {
		calls = append(calls, xattrCall{path: "file3", name: "user.5", value: big(n)}, xattrCall{path: "file4", name: "user.5", value: big(n)})
	}
	sameCalls(t, calls, Root)
}

// aclCalls are ACLs good and bad, and changes of modes with and without.
func aclCalls() []xattrCall {
	var calls []xattrCall
	bad := [][]byte{{}, {2}, {1, 0, 0, 0}, {2, 0, 0, 0}, {2, 0, 0, 0, 1}, {3, 0, 0, 0, 1, 0, 7, 0, 0, 0, 0, 0}}
	texts := []string{
		"u::rw- g::r-- o::---", "u::rwx g::rwx o::rwx", "u::rwx u:7:rw- g::r-x m::rwx o::r-x", "u::rwx g::r-x g:8:-w- m::r-- o::---",
		"u::rw- u:7:rwx u:9:--- g::rwx g:8:r-x m::--- o::--x", "u::rwx g::r-x m::rwx o::r-x",
		"u::rwx u:7:rw- g::r-x o::r-x", "g::rwx u::rwx o::r--", "u::rwx o::r--", "u::rwx u::rwx g::rwx o::r--", "u::rwx u:9:rwx u:7:rwx g::rwx m::rwx o::r--",
	}
	for _, path := range []string{"file1", "dir0", "link", "fifo"} {
		for _, name := range []string{accessACL, defaultACL} {
			for _, text := range texts {
				calls = append(calls, xattrCall{path: path, name: name, value: wire(text), flags: unix.XATTR_CREATE})
				if path != "link" {
					calls = append(calls, xattrCall{path: path, chmod: 0o2751}, xattrCall{path: path, chmod: 0o640}, xattrCall{path: path, chmod: 0o2777})
				}
			}
			for _, value := range bad {
				calls = append(calls, xattrCall{path: path, name: name, value: value})
			}
			calls = append(calls, xattrCall{path: path, name: name, value: wire(texts[2])}, xattrCall{path: path, name: name}, xattrCall{path: path, name: name})
		}
	}
	return calls
}

func TestACLsAsKernel(t *testing.T) {
	for name, who := range map[string]Caller{
		"root": Root, "owner": {UID: 1000, GID: 2000}, "owner of another group": {UID: 1000, GID: 3000}, "other": {UID: 4000, GID: 2000},
	} {
		t.Run(name, func(t *testing.T) {
			var calls []xattrCall
			for _, c := range aclCalls() {
				if c.chmod == 0 || who.Privileged {
					calls = append(calls, c)
				}
			}
			sameCalls(t, calls, who)
		})
	}
}

// New files get from a default ACL what the kernel gives them.
func TestInheritACL(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	image := newImage(t, someFiles, "-I", "128")
	fs, done := openWrite(t, image, Options{})
	defer done()
	theirs := filepath.Join(t.TempDir(), "kernel")
	if err := fixtures.CopySparse(theirs, image); err != nil {
		t.Fatal(err)
	}
	mnt, _ := fixtures.MountKernelWrite(t, theirs)
	ctx := context.Background()
	dirIno := fs.inoOf(t, "/dir0")
	for i, text := range []string{"", "u::rw- g::r-- o::r--", "u::rwx u:7:rw- g::r-x m::rwx o::r-x", "u::r-x u:7:rw- g::--x g:1:rwx m::r-x o::-w-", "u::rwx g::rwx m::r-- o::rwx"} {
		if text != "" {
			if err := errors.Join(unix.Setxattr(filepath.Join(mnt, "dir0"), defaultACL, wire(text), 0), fs.Setxattr(ctx, Root, dirIno, defaultACL, wire(text), 0)); err != nil {
				t.Fatal(err)
			}
		}
		for _, mode := range []uint32{0o777, 0o666, 0o640, 0o4711, 0} {
			for _, umask := range []int{0, 0o22, 0o77} {
				for _, typ := range []uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO} {
					what := fmt.Sprintf("%q, mode %#o, umask %#o", text, mode|typ, umask)
					p := filepath.Join(mnt, "dir0", fmt.Sprint(i, mode, umask, typ))
					old := unix.Umask(umask)
					var err error
					if typ == unix.S_IFDIR {
						err = unix.Mkdir(p, mode)
					} else {
						err = unix.Mknod(p, typ|mode, 0)
					}
					unix.Umask(old)
					if err != nil {
						t.Fatal(err)
					}
					var st unix.Stat_t
					if err := unix.Lstat(p, &st); err != nil {
						t.Fatal(err)
					}
					got := make(map[string]string)
					var gotMode disk.Mode
					enough := errors.New("enough")
					err = fs.Update(ctx, func(h *Handle) error {
						dir, err := h.inode(dirIno)
						if err != nil {
							return err
						}
						if typ == unix.S_IFDIR {
							mode &= 0o1777 // mkdir(2)
						}
						in, err := h.newFile(Root, dir, disk.Mode(mode|typ))
						if err != nil {
							return err
						}
						if err := h.inheritACL(Caller{Umask: disk.Mode(umask)}, dir, in); err != nil {
							return err
						}
						gotMode = in.disk.Mode
						list, err := in.xattrs()
						for _, x := range list {
							acl, err := disk.DecodeACL(x.Value)
							if err != nil {
								return err
							}
							got[x.Name] = string(disk.WireACL(acl))
						}
						return errors.Join(err, enough)
					})
					if !errors.Is(err, enough) {
						t.Fatal(err)
					}
					if uint32(gotMode) != st.Mode {
						t.Errorf("%s: mode %#o, the kernel has %#o", what, gotMode, st.Mode)
					}
					sameMap(t, what, got, kernelXattrs(t, p))
				}
			}
		}
	}
}

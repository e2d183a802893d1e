package fusesrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"e4go/ext4"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// madeFS is an image that mke2fs fills with the directory that fill has filled.
func madeFS(t testing.TB, size string, fill func(dir string), args ...string) string {
	t.Helper()
	fixtures.Need(t, "root", "fuse", "mke2fs")
	work := t.TempDir()
	src, img := filepath.Join(work, "src"), filepath.Join(work, "made.img")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(src)
	args = append(append([]string{"-q", "-F", "-t", "ext4"}, args...), "-d", src, img, size)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v: %s", args, err, out)
	}
	return img
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as runs test(1)'s question about path as another user, and reports whether
// the answer is yes.
func as(t *testing.T, uid uint32, groups []uint32, question, path string) bool {
	t.Helper()
	// A shell reads the file really: permission questions of the kernel's
	// access(2) take another way.
	script := map[string]string{"-r": `cat -- "$1"`, "-x": `ls -- "$1/."`, "-w": `: >>"$1"`}[question]
	cmd := exec.Command("/bin/sh", "-c", script, "sh", path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	out, err := cmd.CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("ermission denied")) {
		t.Fatalf("%s %s as %d: %v: %s", question, path, uid, err, out)
	}
	return err == nil
}

func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// The kernel decides by mode, ACL and all groups of the caller.
func TestPermissions(t *testing.T) {
	const userObj, user, groupObj, group, mask, other, none = 1, 2, 4, 8, 16, 32, 1<<32 - 1
	img := madeFS(t, "16M", func(dir string) {
		for name, f := range map[string]struct {
			uid, gid int
			mode     os.FileMode
			acl      []byte
		}{
			"private":    {1000, 1000, 0o600, nil},
			"group":      {0, 7000, 0o640, nil},
			"acl-user":   {0, 0, 0o640, acl([3]uint32{userObj, 6, none}, [3]uint32{user, 4, 2000}, [3]uint32{groupObj, 0, none}, [3]uint32{mask, 4, none}, [3]uint32{other, 0, none})},
			"acl-group":  {0, 0, 0o640, acl([3]uint32{userObj, 6, none}, [3]uint32{groupObj, 0, none}, [3]uint32{group, 4, 7001}, [3]uint32{mask, 4, none}, [3]uint32{other, 0, none})},
			"acl-masked": {0, 0, 0o600, acl([3]uint32{userObj, 6, none}, [3]uint32{user, 4, 2000}, [3]uint32{groupObj, 0, none}, [3]uint32{mask, 0, none}, [3]uint32{other, 0, none})},
			"acl-denies": {0, 0, 0o644, acl([3]uint32{userObj, 6, none}, [3]uint32{user, 0, 2000}, [3]uint32{groupObj, 4, none}, [3]uint32{mask, 4, none}, [3]uint32{other, 4, none})},
		} {
			p := filepath.Join(dir, name)
			check(t, os.WriteFile(p, []byte(name), f.mode))
			check(t, os.Chown(p, f.uid, f.gid))
			check(t, os.Chmod(p, f.mode))
			if f.acl != nil {
				if err := unix.Setxattr(p, "system.posix_acl_access", f.acl, 0); err != nil {
					t.Fatalf("set an ACL below %s (does its file system have them?): %v", dir, err)
				}
			}
		}
		check(t, os.Mkdir(filepath.Join(dir, "closed"), 0o700))
		check(t, os.WriteFile(filepath.Join(dir, "closed", "open"), []byte("x"), 0o644))
	})
	m := mountFile(t, img, 0, Options{}, ext4.Options{})
	tests := []struct {
		question, path string
		uid            uint32
		groups         []uint32
		want           bool
	}{
		{"-r", "private", 1000, nil, true},
		{"-r", "private", 1001, nil, false},
		{"-r", "private", 0, nil, true},
		{"-r", "group", 1000, nil, false},
		{"-r", "group", 1000, []uint32{7000}, true}, // a supplementary group
		{"-r", "acl-user", 2000, nil, true},
		{"-r", "acl-user", 2001, nil, false},
		{"-r", "acl-group", 3000, []uint32{7001}, true},
		{"-r", "acl-group", 3000, []uint32{7002}, false},
		{"-r", "acl-masked", 2000, nil, false},
		{"-r", "acl-denies", 2000, nil, false},
		{"-r", "acl-denies", 2001, nil, true},
		{"-x", "closed", 1000, nil, false},
		{"-r", "closed/open", 1000, nil, false},
		{"-r", "closed/open", 0, nil, true},
	}
	for _, tt := range tests {
		got := as(t, tt.uid, tt.groups, tt.question, filepath.Join(m.dir, tt.path))
		if got != tt.want {
			t.Errorf("%s %s as %d with groups %v: %v, want %v", tt.question, tt.path, tt.uid, tt.groups, got, tt.want)
		}
	}
}

func TestErrnos(t *testing.T) {
	m := mountFile(t, tourFile(t), 0, Options{Block: BlockNever}, ext4.Options{})
	p := func(name string) string { return filepath.Join(m.dir, name) }
	tests := []struct {
		what string
		do   func() error
		want unix.Errno
	}{
		{"stat nothing", func() error { return unix.Stat(p("none"), &unix.Stat_t{}) }, unix.ENOENT},
		{"stat nothing again, from the cache", func() error { return unix.Stat(p("none"), &unix.Stat_t{}) }, unix.ENOENT},
		{"stat below a file", func() error { return unix.Stat(p("README.txt/x"), &unix.Stat_t{}) }, unix.ENOTDIR},
		{"stat a long name", func() error { return unix.Stat(p(strings.Repeat("n", 256)), &unix.Stat_t{}) }, unix.ENAMETOOLONG},
		{"make a file", func() error { return os.WriteFile(p("new"), nil, 0o600) }, unix.EROFS},
		{"open to write", func() error {
			fd, err := unix.Open(p("README.txt"), unix.O_RDWR, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		}, unix.EROFS},
		{"mkdir", func() error { return unix.Mkdir(p("new"), 0o700) }, unix.EROFS},
		{"unlink", func() error { return unix.Unlink(p("README.txt")) }, unix.EROFS},
		{"rename", func() error { return unix.Rename(p("README.txt"), p("x")) }, unix.EROFS},
		{"link", func() error { return unix.Link(p("README.txt"), p("x")) }, unix.EROFS},
		{"symlink", func() error { return unix.Symlink("x", p("x")) }, unix.EROFS},
		{"chmod", func() error { return unix.Chmod(p("README.txt"), 0o777) }, unix.EROFS},
		{"truncate", func() error { return unix.Truncate(p("README.txt"), 0) }, unix.EROFS},
		{"setxattr", func() error { return unix.Setxattr(p("README.txt"), "user.x", nil, 0) }, unix.EROFS},
		{"readlink of a file", func() error { _, err := unix.Readlink(p("README.txt"), make([]byte, 9)); return err }, unix.EINVAL},
		{"getxattr of none", func() error { _, err := unix.Getxattr(p("README.txt"), "user.none", nil); return err }, unix.ENODATA},
		{"getxattr of no namespace", func() error { _, err := unix.Getxattr(p("README.txt"), "nonsense.x", nil); return err }, unix.EOPNOTSUPP},
	}
	for _, tt := range tests {
		if err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, err, tt.want)
		}
	}
	// Who makes the mount writable gets no further. With a block device nobody does:
	// TestBlockReadOnly.
	check(t, unix.Mount("", m.dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""))
	for _, tt := range tests {
		if err := tt.do(); !errors.Is(err, tt.want) {
			if tt.what == "open to write" && err == nil {
				continue // the kernel opens without asking; the write is what fails
			}
			t.Errorf("remounted rw: %s: got %v, want %v", tt.what, err, tt.want)
		}
	}
	f, err := os.OpenFile(p("README.txt"), os.O_WRONLY, 0)
	check(t, err)
	defer f.Close()
	if _, err := f.WriteString("x"); !errors.Is(err, unix.EROFS) {
		t.Errorf("remounted rw: write: got %v, want EROFS", err)
	}
}

// What lsattr and others ask of a mounted file.
func TestLiveIoctls(t *testing.T) {
	m := mountFile(t, tourFile(t), 0, Options{}, ext4.Options{})
	f, err := os.Open(filepath.Join(m.dir, "extents.dat"))
	check(t, err)
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&0x80000 == 0 {
		t.Errorf("FS_IOC_GETFLAGS: %#x, %v, want the extents flag", flags, err)
	}
	label := make([]byte, 256)
	if err := ioctlBytes(f, iocGetFSLabel, label); err != nil {
		t.Errorf("FS_IOC_GETFSLABEL: %v", err)
	}
	if got, want := string(bytes.TrimRight(label, "\x00")), m.fs.Super().Label; got != want {
		t.Errorf("label is %q, want %q", got, want)
	}
	version := []byte("12345678")
	if err := ioctlBytes(f, iocGetVersion, version); err != nil || string(version[4:]) != "5678" {
		t.Errorf("FS_IOC_GETVERSION: %v, wrote % x, want 4 bytes", err, version)
	}
	if _, err := fixtures.Fiemap(f); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("FS_IOC_FIEMAP: %v, want EOPNOTSUPP", err)
	}
	d, err := os.Open(m.dir)
	check(t, err)
	defer d.Close()
	if _, err := unix.IoctlGetUint32(int(d.Fd()), unix.FS_IOC_GETFLAGS); err != nil {
		t.Errorf("FS_IOC_GETFLAGS of a directory: %v", err)
	}
}

func ExampleParseFlags() {
	_, err := ParseFlags([]string{"noexec", "data=journal"})
	fmt.Println(err)
	// Output: mount option "data=journal": unknown
}

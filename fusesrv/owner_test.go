package fusesrv

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// mountForeign mounts an image whose files are another machine's user's: file and dir of 3000:4000.
func mountForeign(t *testing.T, o Options) *mounted {
	t.Helper()
	image := newFSImage(t, "-t", "ext4")
	fs, _ := openFS(t, image, 0, ext4.Options{Write: true})
	c := ext4.Caller{UID: 3000, GID: 4000, Privileged: true}
	_, err := fs.Create(t.Context(), c, disk.RootIno, "file", disk.ModeReg|0o640)
	check(t, err)
	_, err = fs.Mkdir(t.Context(), c, disk.RootIno, "dir", disk.ModeDir|0o755)
	check(t, err)
	check(t, fs.Close())
	o.Extra = []string{"rw"}
	return mountFile(t, image, 0, o, ext4.Options{Write: true})
}

// stored is whom the image has as owner of path, and shown whom the mount shows.
func (m *mounted) stored(t *testing.T, path string) [2]uint32 {
	t.Helper()
	in, err := m.fs.Resolve("/"+path, false)
	check(t, err)
	st := in.Stat()
	return [2]uint32{st.UID, st.GID}
}

func (m *mounted) shown(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(filepath.Join(m.dir, path), &st))
	return [2]uint32{st.Uid, st.Gid}
}

// With uid= and gid= everything is the user's, who may do what an owner may; in the image, what is made is
// its directory's owner's, and nothing changes hands.
func TestOwners(t *testing.T) {
	uid, gid := uint32(1000), uint32(1001)
	m := mountForeign(t, Options{UID: &uid, GID: &gid})
	user, foreign := [2]uint32{1000, 1001}, [2]uint32{3000, 4000}
	want := func(path string, stored [2]uint32) {
		t.Helper()
		if got := m.shown(t, path); got != user {
			t.Errorf("%s is shown as of %v, want %v", path, got, user)
		}
		if got := m.stored(t, path); got != stored {
			t.Errorf("%s is of %v in the image, want %v", path, got, stored)
		}
	}
	want("file", foreign)
	want("lost+found", [2]uint32{0, 0})
	at := func(name string) string { return filepath.Join(m.dir, name) }
	asUser(func() {
		check(t, os.WriteFile(at("file"), []byte("written"), 0))
		check(t, os.WriteFile(at("dir/new"), []byte("x"), 0o600))
		check(t, os.Mkdir(at("dir/newdir"), 0o700))
		check(t, os.Symlink("x", at("dir/link")))
		check(t, unix.Mknod(at("dir/fifo"), unix.S_IFIFO|0o600, 0))
		check(t, os.Chmod(at("file"), 0o600))
		check(t, os.Chown(at("file"), 1000, -1))
		check(t, setFlags(at("file"), 0x40|0x80000))
		check(t, unix.Setxattr(at("file"), aclAccess, userACL(1000), 0))
		if err := os.Chown(at("file"), 1002, -1); !errors.Is(err, unix.EPERM) {
			t.Errorf("chown to another: %v, want EPERM", err)
		}
	})
	for _, name := range []string{"file", "dir/new", "dir/newdir", "dir/link", "dir/fifo"} {
		want(name, foreign)
	}
	check(t, os.WriteFile(at("byroot"), nil, 0o600))
	want("byroot", [2]uint32{0, 0})
	check(t, os.WriteFile(at("dir/byroot"), nil, 0o600))
	want("dir/byroot", foreign)
	if err := os.Chown(at("file"), 0, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("root gives the file away: %v, want EPERM", err)
	}
	check(t, os.Chown(at("file"), 1000, 1001))
}

// userACL is an access ACL with one user more.
func userACL(uid uint32) []byte {
	return disk.WireACL([]disk.ACLEntry{
		{Tag: disk.ACLUserObj, Perm: 6, ID: 1<<32 - 1}, {Tag: disk.ACLUser, Perm: 4, ID: uid}, {Tag: disk.ACLGroupObj, Perm: 4, ID: 1<<32 - 1},
		{Tag: disk.ACLMask, Perm: 4, ID: 1<<32 - 1}, {Tag: disk.ACLOther, Perm: 0, ID: 1<<32 - 1},
	})
}

// One id alone leaves the other as it is.
func TestOwnersUIDOnly(t *testing.T) {
	uid := uint32(1000)
	m := mountForeign(t, Options{UID: &uid})
	if got := m.shown(t, "file"); got != [2]uint32{1000, 4000} {
		t.Errorf("file is shown as of %v", got)
	}
	check(t, os.Chown(filepath.Join(m.dir, "file"), 1000, 77))
	if got := m.stored(t, "file"); got != [2]uint32{3000, 77} {
		t.Errorf("file is of %v in the image", got)
	}
}

// With fakeroot whoever may use the mount may do everything; what he makes is his.
func TestFakeroot(t *testing.T) {
	m := mountForeign(t, Options{Fakeroot: true, AllowOther: true})
	at := func(name string) string { return filepath.Join(m.dir, name) }
	asUser(func() {
		check(t, os.WriteFile(at("file"), []byte("written"), 0))
		check(t, os.WriteFile(at("new"), []byte("x"), 0o600))
		check(t, os.Chown(at("file"), 5000, 6000))
		check(t, os.Chmod(at("file"), 0o000))
		_, err := os.ReadFile(at("file"))
		check(t, err)
	})
	if got := m.stored(t, "file"); got != [2]uint32{5000, 6000} {
		t.Errorf("file is of %v, want 5000:6000", got)
	}
	if got := m.stored(t, "new"); got != [2]uint32{1000, 1000} {
		t.Errorf("new is of %v, want 1000:1000", got)
	}
	info, err := mountAt(m.dir)
	check(t, err)
	if !slices.Contains(info.flags(), "nosuid") || !slices.Contains(info.flags(), "nodev") {
		t.Errorf("mounted with %v", info.flags())
	}
}

package fusesrv

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// tourFile is the tour image in a file.
func tourFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tour image,1.img")
	if err := os.WriteFile(path, tour(), 0o444); err != nil {
		t.Fatal(err)
	}
	return path
}

// Unmount returns when the server has let go, not before.
func TestUnmountWaits(t *testing.T) {
	m := mountFile(t, tourFile(t), 0, Options{}, ext4.Options{})
	result := make(chan error, 1)
	go func() { result <- Unmount(m.dir) }()
	m.Wait()
	select {
	case err := <-result:
		t.Fatalf("Unmount returned %v while the image was held", err)
	case <-time.After(200 * time.Millisecond):
	}
	m.Close()
	select {
	case err := <-result:
		if err != nil {
			t.Errorf("Unmount: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Unmount still waits")
	}
	if err := Unmount(m.dir); !errors.Is(err, ErrNotOurs) {
		t.Errorf("Unmount again: got %v, want %v", err, ErrNotOurs)
	}
}

func TestUnmountRefuses(t *testing.T) {
	m := mountFile(t, tourFile(t), 0, Options{}, ext4.Options{})
	for _, dir := range []string{t.TempDir(), filepath.Join(m.dir, "docs"), "/proc"} {
		if err := Unmount(dir); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: got %v, want %v", dir, err, ErrNotOurs)
		}
	}
	if err := Unmount(filepath.Join(m.dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
	f, err := os.Open(filepath.Join(m.dir, "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Unmount(m.dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a file open: got %v, want EBUSY", err)
	}
	if err := m.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a file open: got %v, want EBUSY", err)
	}
}

// A second mount at the same place hides the first, and goes first. One of the
// same image is a mistake.
func TestUnmountTopmost(t *testing.T) {
	path := tourFile(t)
	below := mountFile(t, path, 0, Options{}, ext4.Options{})
	fs, _ := openFS(t, path, 0, ext4.Options{})
	if s, err := Mount(fs, below.dir, Options{FSName: path}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("the same image: got %v, %v, want EBUSY", s, err)
	}
	above, err := Mount(fs, below.dir, Options{FSName: "another"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { above.Serve(); above.Close() }()
	if err := above.WaitMount(); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(below.dir); err != nil {
		t.Fatal(err)
	}
	above.Wait()
	if _, err := os.Stat(filepath.Join(below.dir, "README.txt")); err != nil {
		t.Errorf("the mount below: %v", err)
	}
}

// umount(8) from outside ends Serve; a bind mount keeps it going.
func TestServeEnds(t *testing.T) {
	m := mountFile(t, tourFile(t), 0, Options{}, ext4.Options{})
	other := t.TempDir()
	if err := unix.Mount(m.dir, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(other, "README.txt")); err != nil {
		t.Error(err)
	}
	select {
	case <-m.done:
		t.Error("Serve ended with a bind mount left")
	default:
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.done:
	case <-time.After(20 * time.Second):
		t.Error("Serve goes on")
	}
}

// What mount(8) and df(1) show.
func TestMountInfo(t *testing.T) {
	path := tourFile(t)
	m := mountFile(t, path, 0, Options{Extra: []string{"suid", "noexec"}, Block: BlockNever}, ext4.Options{})
	info, err := mountAt(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.fstype != "fuse.e4go" || info.source != path {
		t.Errorf("type %q of %q, want fuse.e4go of %q", info.fstype, info.source, path)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		t.Fatal(err)
	}
	const want, mask = unix.ST_RDONLY | unix.ST_NODEV | unix.ST_NOEXEC, unix.ST_RDONLY | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOSUID
	if st.Flags&mask != want {
		t.Errorf("statfs flags are %#x, want %#x", st.Flags&mask, want)
	}
	s, err := m.fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	if st.Blocks != s.Blocks || st.Bfree != s.Free || st.Bavail != s.Avail || st.Files != s.Files || st.Ffree != s.FreeFiles ||
		st.Bsize != s.BlockSize || st.Namelen != 255 {
		t.Errorf("statfs says %+v, ext4 %+v", st, s)
	}
}

// A socket of somebody else under our name is not waited for, and does not
// keep a server from its own.
func TestHolderSquatted(t *testing.T) {
	m := mountInfo{minor: 1<<20 + 77, options: "user_id=4242"} // not us
	h := newHolder(m)
	second := newHolder(m)
	if h == nil || second == nil {
		t.Fatal("no name is free")
	}
	defer second.release(nil)
	if conns := dialHolders(m); len(conns) != 0 {
		t.Errorf("%d sockets of another user are waited for", len(conns))
	}
	m.options = "user_id=" + strconv.Itoa(os.Geteuid())
	conns := dialHolders(m)
	if len(conns) != 2 {
		t.Fatalf("%d of 2 servers found", len(conns))
	}
	h.release(nil)
	conns[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conns[0].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the release was not told: %v", err)
	}
	conns[1].SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conns[1].Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the other server's connection: %v, want to be held", err)
	}
	if c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: m.holderName(0), Net: "unix"}); err == nil {
		c.Close()
		t.Error("a released name still answers")
	}
}

func TestUnmountDeadServer(t *testing.T) {
	fixtures.Need(t, "root", "fuse")
	dir := t.TempDir()
	fd, err := mountFuse(dir, "dead", "fuse."+Subtype, &Options{}, Flags{bits: unix.MS_RDONLY}, nil)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd) // nobody will answer any more
	if err := Unmount(dir); err != nil {
		t.Errorf("%v", err)
		unix.Unmount(dir, unix.MNT_DETACH)
	}
}

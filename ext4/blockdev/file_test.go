package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// image makes a regular file of size zeros, and returns its path.
func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// skip skips t loudly, or fails it where everything must be there.
func skip(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("E4GO_TEST_NEED") == "all" {
		t.Fatalf("missing: %s", missing)
	}
	t.Skipf("SKIPPED, missing: %s", missing)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tests := []struct {
		path, text string
		err        error
	}{
		{dir, "a directory", unix.EISDIR},
		{"/dev/null", "a character device", unix.ENOTBLK},
		{dir + "/fifo", "a FIFO", unix.ENOTBLK},
		{dir + "/socket", "a socket", unix.ENOTBLK},
		{dir + "/missing", "no such file", os.ErrNotExist},
		{"", "no such file", os.ErrNotExist},
	}
	for _, tt := range tests {
		for _, opts := range []Options{{}, {Write: true, Lock: LockExclusive}} {
			f, err := Open(tt.path, opts)
			if f != nil || !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Open(%q): got %v, want %v: %s", tt.path, err, tt.err, tt.text)
			}
		}
		if _, err := Holders(tt.path); !errors.Is(err, tt.err) {
			t.Errorf("Holders(%q): got %v, want %v", tt.path, err, tt.err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	f, err := Open(image(t, 8192), Options{Lock: LockShared})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, werr := f.WriteAt([]byte{1}, 0)
	for op, err := range map[string]error{"write": werr, "discard": f.Discard(0, 4096)} {
		if !errors.Is(err, ErrReadOnly) || !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: got %v, want ErrReadOnly and EROFS", op, err)
		}
	}
	mode, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || mode&unix.O_ACCMODE != unix.O_RDONLY || mode&unix.O_NONBLOCK != 0 {
		t.Errorf("descriptor flags %#x, %v; want O_RDONLY and blocking", mode, err)
	}
	if fl, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor has no FD_CLOEXEC: %#x, %v", fl, err)
	}
	if err := f.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after close: got %v, want os.ErrClosed", err)
	}
}

func TestDirect(t *testing.T) {
	path := image(t, 3*4096+100)
	f, err := Open(path, Options{Write: true, Direct: true})
	if errors.Is(err, unix.EINVAL) {
		skip(t, "O_DIRECT on "+filepath.Dir(path))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	for i := range page {
		page[i] = byte(i)
	}
	if _, err := f.WriteAt(page, 4096); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ off, n int }{{4096, 4096}, {4097, 10}, {4000, 300}, {3 * 4096, 100}, {0, 3*4096 + 100}} {
		want := make([]byte, 3*4096+100)
		copy(want[4096:], page)
		got := make([]byte, r.n)
		if _, err := f.ReadAt(got, int64(r.off)); err != nil || !bytes.Equal(got, want[r.off:r.off+r.n]) {
			t.Errorf("read %d at %d: wrong bytes or %v", r.n, r.off, err)
		}
	}
	if _, err := f.WriteAt([]byte{1}, 1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("write of 1 byte at 1: got %v, want EINVAL", err)
	}
}

func TestDiscard(t *testing.T) {
	f, err := Open(image(t, 5*4096), Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt(bytes.Repeat([]byte{1}, 5*4096), 0)
	if err := f.Discard(4095, 4096+2); err != nil { // one whole page
		t.Fatal(err)
	}
	got := make([]byte, 5*4096)
	f.ReadAt(got, 0)
	for i, b := range got {
		if b != 1 && i/4096 != 1 {
			t.Fatalf("byte %d was discarded, outside of 4095+4098", i)
		}
	}
}

func TestLockFile(t *testing.T) {
	tests := []struct {
		first, second Lock
		ok            bool
	}{
		{LockNone, LockExclusive, true},
		{LockShared, LockShared, true},
		{LockShared, LockExclusive, false},
		{LockExclusive, LockShared, false},
		{LockExclusive, LockExclusive, false},
		{LockExclusive, LockNone, true},
	}
	for _, tt := range tests {
		path := image(t, 4096)
		f, err := Open(path, Options{Lock: tt.first})
		if err != nil {
			t.Fatal(err)
		}
		g, err := Open(path, Options{Lock: tt.second})
		if (err == nil) != tt.ok {
			t.Errorf("%d then %d: got %v, want ok=%t", tt.first, tt.second, err, tt.ok)
		}
		if err == nil {
			g.Close()
		} else {
			checkInUse(t, err, fmt.Sprintf("process %d (", os.Getpid()), "with a lock (flock ")
		}
		f.Close()
		if g, err = Open(path, Options{Lock: LockExclusive}); err != nil {
			t.Errorf("after Close: %v", err)
		} else {
			g.Close()
		}
	}
}

// checkInUse wants err to be an *InUseError whose text has each of texts.
func checkInUse(t *testing.T, err error, texts ...string) {
	t.Helper()
	var in *InUseError
	if !errors.As(err, &in) {
		t.Errorf("got %v, want an *InUseError", err)
		return
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("got %q, want %q in it", err, s)
		}
	}
}

func TestHoldersProcess(t *testing.T) {
	path := image(t, 4096)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.Stdin = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	f.Close()
	hs, err := Holders(path)
	if err != nil || len(hs) != 1 || hs[0] != (Holder{PID: cmd.Process.Pid, Comm: "sleep"}) {
		t.Errorf("got %v, %v; want process %d (sleep)", hs, err, cmd.Process.Pid)
	}
}

func TestParseMount(t *testing.T) {
	tests := []struct {
		line string
		want mount
		ok   bool
	}{
		{`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext4 /dev/root rw,errors=continue`, mount{"98:0", "/mnt2", false}, true},
		{`36 35 7:1 / /a\040b\134c ro - ext4 /dev/loop1 rw`, mount{"7:1", `/a b\c`, false}, true}, // a read-only bind mount
		{`36 35 7:1 / /m\0 rw shared:1 master:2 - ext4  ro,errors=ro`, mount{"7:1", `/m\0`, true}, true},
		{`36 35 7:1 / /m`, mount{}, false},
		{` - `, mount{}, false},
		{``, mount{}, false},
	}
	for _, tt := range tests {
		if got, ok := parseMount(tt.line); got != tt.want || ok != tt.ok {
			t.Errorf("%q: got %+v, %t; want %+v, %t", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}

// The kernel mounts an image through a loop device, read-write and read-only:
// Open refuses what the locks do not allow, and names the mount.
func TestInUseByKernel(t *testing.T) {
	if os.Getuid() != 0 {
		skip(t, "root, for a loop device and a mount")
	}
	for _, tool := range []string{"mke2fs", "losetup", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const size = 4 << 20
	path := image(t, size)
	run("mke2fs", "-q", "-t", "ext4", "-F", path)
	out, err := exec.Command("losetup", "-f", "--show", path).CombinedOutput()
	if err != nil {
		skip(t, "a free loop device: "+strings.TrimSpace(string(out)))
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { run("losetup", "-d", loop) })
	dir := filepath.Join(t.TempDir(), "a mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	check := func(state, path string, l Lock, texts ...string) {
		t.Helper()
		f, err := Open(path, Options{Lock: l})
		if err == nil {
			if f.Size() != size {
				t.Errorf("%s: size %d, want %d", path, f.Size(), size)
			}
			f.Close()
		}
		switch {
		case texts == nil && err != nil:
			t.Errorf("%s: Open(%s, %d): got %v, want no error", state, path, l, err)
		case texts != nil:
			checkInUse(t, err, texts...)
		}
	}

	check("attached", path, LockNone)
	check("attached", path, LockShared)
	check("attached", path, LockExclusive, loop+" is attached to it")
	check("attached", loop, LockExclusive)
	f, err := Open(loop, Options{Write: true, Lock: LockShared})
	if err != nil {
		t.Fatal(err)
	}
	check("claimed", loop, LockNone)
	check("claimed", loop, LockShared, fmt.Sprintf("process %d (", os.Getpid()))
	last := make([]byte, 4096)
	if _, err := f.ReadAt(last, size-4096); err != nil {
		t.Errorf("read of the last block: %v", err)
	}
	if err := errors.Join(f.Discard(size-5000, 5000), f.Flush(), f.Close()); err != nil {
		t.Errorf("discard, flush and close of a block device: %v", err)
	}

	run("mount", loop, dir)
	mounted := true
	defer func() {
		if mounted {
			exec.Command("umount", dir).Run()
		}
	}()
	at := loop + " is mounted at " + dir
	check("mounted", path, LockNone)
	check("mounted", path, LockShared, at)
	check("mounted", path, LockExclusive, at)
	check("mounted", loop, LockNone)
	check("mounted", loop, LockShared, at)

	run("mount", "-o", "remount,ro", dir)
	at = loop + " is mounted read-only at " + dir
	check("read-only", path, LockShared)
	check("read-only", path, LockExclusive, at)
	check("read-only", loop, LockShared, at)

	run("umount", dir)
	mounted = false
	check("unmounted", loop, LockExclusive)
}

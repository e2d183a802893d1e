package commands

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// loopDevice attaches a file to a loop device for the time of the test.
func loopDevice(t *testing.T, file string) string {
	t.Helper()
	fixtures.Need(t, "root", "loop", "losetup")
	out, err := exec.Command("losetup", "-f", "--show", file).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

// mountAt mounts something for the time of the test.
func mountAt(t *testing.T, source, fstype, data string) string {
	t.Helper()
	fixtures.Need(t, "root")
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fstype, 0, data); err != nil {
		t.Fatalf("mount %s: %v", fstype, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func emptyFile(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), ".fuse_hidden") { // libfuse forgets some
			names = append(names, e.Name())
		}
	}
	return names
}

// What cannot be a target is refused, in words and by status, and is as it was.
func TestMkimageRefusesTargets(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	refuse := func(want int, text string, args ...string) {
		t.Helper()
		status, _, errs := e4goStatus(append([]string{"mkimage", "-q"}, args...)...)
		if status != want || !strings.Contains(errs, text) {
			t.Errorf("mkimage %q: exit status %d, %q; want %d and %q", args, status, errs, want, text)
		}
	}
	if err := os.Mkdir(at("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	refuse(2, "it is a directory", "-F", at("dir"), "10m")
	if err := unix.Mkfifo(at("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	refuse(2, "it is a FIFO", "-F", at("fifo"), "10m")
	refuse(2, "it is a character device", "-F", "/dev/null", "10m")
	if err := os.Symlink("self", at("self")); err != nil {
		t.Fatal(err)
	}
	refuse(2, "too many levels", "-F", at("self"), "10m")
	refuse(2, "no such file", "-F", at("no/such"), "10m")
	refuse(2, "not a directory", "-F", at("fifo/below"), "10m")

	// A symbolic link stays, and what it leads to is made or replaced.
	if err := os.Symlink("there", at("link")); err != nil {
		t.Fatal(err)
	}
	for _, size := range []string{"2m", "3m"} {
		if status, _, errs := e4goStatus("mkimage", "-q", "-F", at("link"), size); status != 0 {
			t.Fatalf("symbolic link: exit status %d: %s", status, errs)
		}
		if to, err := os.Readlink(at("link")); err != nil || to != "there" {
			t.Errorf("the symbolic link leads to %q, %v", to, err)
		}
		if st, err := os.Stat(at("there")); err != nil || fmt.Sprintf("%dm", st.Size()>>20) != size {
			t.Errorf("what the symbolic link leads to: %v, %v", st, err)
		}
	}
	if got := namesIn(t, dir); len(got) != 5 {
		t.Errorf("there are %q", got)
	}
}

func TestMkimageRefusesDevicesInUse(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	dir := t.TempDir()
	image := emptyFile(t, filepath.Join(dir, "image"), 8<<20)
	dev := loopDevice(t, image)
	if status, _, errs := e4goStatus("mkimage", "-q", "-F", image); status != 6 || !strings.Contains(errs, dev+" is attached to it") {
		t.Errorf("attached image: exit status %d: %s", status, errs)
	}
	if status, _, errs := e4goStatus("mkimage", "-q", dev); status != 0 {
		t.Fatalf("device: exit status %d: %s", status, errs)
	}
	mnt := mountAt(t, dev, "ext4", "")
	for _, path := range []string{image, dev} {
		if status, _, errs := e4goStatus("mkimage", "-q", "-F", path); status != 6 || !strings.Contains(errs, "mounted at "+mnt) {
			t.Errorf("mounted %s: exit status %d: %s", path, status, errs)
		}
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1); err != nil {
		t.Fatal(err)
	}
	defer unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0) // the device outlives the image
	if status, _, errs := e4goStatus("mkimage", "-q", "-F", dev); status != 2 || strings.Count(errs, "read-only") == 0 {
		t.Errorf("read-only device: exit status %d: %s", status, errs)
	}
	if status, out, errs := e4goStatus("mkimage", "-n", "-F", dev); status != 0 {
		t.Errorf("dry run on a read-only device: exit status %d: %s%s", status, out, errs)
	}
}

// Who may not write, cannot; a file system that is read-only neither.
func TestMkimageWantsPermission(t *testing.T) {
	fixtures.Need(t, "root")
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), programName) // where all may run it
	if err := fixtures.CopySparse(program, self); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	image := emptyFile(t, filepath.Join(dir, "image"), 1<<20)
	as := func(uid uint32, args ...string) (int, string) {
		cmd := exec.Command(program, append([]string{"mkimage", "-q"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for _, args := range [][]string{{filepath.Join(dir, "new"), "3m"}, {"-d", dir, "/new", "3m"}, {"-F", image, "3m"}} {
		if status, out := as(65534, args...); status != 2 || !strings.Contains(out, "permission denied") {
			t.Errorf("%q: exit status %d: %s", args, status, out)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if status, out := as(65534, "-F", image, "3m"); status != 2 || !strings.Contains(out, "permission denied") {
		t.Errorf("a file of root's in a directory for all: exit status %d: %s", status, out)
	}
	if status, out := as(65534, filepath.Join(dir, "new"), "3m"); status != 0 {
		t.Errorf("a new file: exit status %d: %s", status, out)
	}

	// Root replaces what others own, and it stays theirs.
	if err := os.Chown(image, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(image, 0o640); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := e4goStatus("mkimage", "-q", "-F", image, "3m"); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs)
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o640 {
		t.Errorf("the image belongs to %d:%d with mode %o, want 1234:5678 and 640", st.Uid, st.Gid, st.Mode&0o7777)
	}

	ro := mountAt(t, "none", "tmpfs", "ro")
	if status, _, errs := e4goStatus("mkimage", "-q", filepath.Join(ro, "x"), "3m"); status != 2 || !strings.Contains(errs, "read-only") {
		t.Errorf("read-only file system: exit status %d: %s", status, errs)
	}
}

// A file system that becomes full leaves no image, and says whose room was short.
func TestMkimageFullTarget(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte("full"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "archive.tar.gz")
	if out, err := exec.Command("tar", "-C", src, "-czf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	small := emptyFile(t, filepath.Join(t.TempDir(), "small"), 3<<20)
	e4go(t, "mkimage", "-q", "-t", "ext2", small)
	for name, dir := range map[string]string{
		"tmpfs": mountAt(t, "none", "tmpfs", "size=2m"),
		"ext4":  mountAt(t, loopDevice(t, small), "ext4", ""),
	} {
		lost := len(namesIn(t, dir))
		old := filepath.Join(dir, "old")
		e4go(t, "mkimage", "-q", old, "256k")
		before, err := os.ReadFile(old)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"-d", src, old, "20m"}, {"-d", src, "-F", old}, {"-d", archive, "-F", old, "20m"}, {"-d", archive, "-F", old}, {"-d", src, filepath.Join(dir, "new")}} {
			status, _, errs := e4goStatus(append([]string{"mkimage", "-q", "-F"}, args...)...)
			if status != 2 || !strings.Contains(errs, "no space left on device") || !strings.Contains(errs, dir) {
				t.Errorf("%s: %q: exit status %d: %s", name, args, status, errs)
			}
			if after, err := os.ReadFile(old); err != nil || !bytes.Equal(before, after) {
				t.Errorf("%s: %q: the image that was there has changed", name, args)
			}
			if got := namesIn(t, dir); len(got) != lost+1 {
				t.Errorf("%s: %q left %q", name, args, got)
			}
		}
	}
}

// An endlessTar writes an archive that does not end, until whoever reads has
// had enough.
func endlessTar(w io.Writer) {
	z := tar.NewWriter(w)
	data := bytes.Repeat([]byte("tar!"), 5000)
	for i := 0; ; i++ {
		if z.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%d/file%d", i%100, i), Mode: 0o644, Size: int64(len(data))}) != nil {
			return
		}
		if _, err := z.Write(data); err != nil {
			return
		}
	}
}

// Whenever a signal comes, there is either the whole image or none, and no
// other name.
func TestMkimageInterrupted(t *testing.T) {
	src := t.TempDir()
	for i := range 1500 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file", i)), bytes.Repeat([]byte{byte(i)}, 3000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(src, "large"), bytes.Repeat([]byte("large"), 10<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{"here": t.TempDir()}
	if dir, ok := noTmpfile(t); ok {
		dirs["no O_TMPFILE"] = dir
	}
	for where, dir := range dirs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			interruptAt(t, src, dir)
		})
	}
}

// interruptAt interrupts the making of an image in a directory in many ways.
func interruptAt(t *testing.T, src, dir string) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := len(namesIn(t, dir))
	image := filepath.Join(dir, "image")
	for _, test := range []struct {
		name  string
		stdin string
		args  []string
		most  time.Duration
	}{
		{"directory", "", []string{"-d", src, image}, 150 * time.Millisecond},
		{"archive that does not come", "nothing", []string{"-d", "-", image}, 100 * time.Millisecond},
		{"compressed archive that stops", "\x1f\x8b\x08", []string{"-d", "-", image, "20m"}, 100 * time.Millisecond},
		{"archive without an end", "endless", []string{"-d", "-", image}, 200 * time.Millisecond},
		{"archive without an end, size given", "endless", []string{"-d", "-", image, "1t"}, 200 * time.Millisecond},
	} {
		interrupted := 0
		for i := 0; i < 4 || interrupted == 0 && i < 24; i++ { // a busy machine sends signals late
			old := []byte(nil)
			if i%2 == 1 {
				old = bytes.Repeat([]byte("old "), 1000)
				if err := os.WriteFile(image, old, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			wait := time.Duration(rng.Int64N(int64(test.most))) / time.Duration(1+i/4)
			status, errs := interrupt(t, append([]string{"mkimage", "-q", "-F"}, test.args...), test.stdin, wait, i < 2)
			now, err := os.ReadFile(image)
			switch {
			case status == 130 && (old == nil && !os.IsNotExist(err) || old != nil && !bytes.Equal(now, old)):
				t.Errorf("%s: interrupted: there is an image of %d bytes, %v", test.name, len(now), err)
			case status == 130:
				interrupted++
			case status == 0 && test.stdin == "":
				if status, out := fixtures.E2fsck(t, image); status != 0 {
					t.Errorf("%s: not interrupted: e2fsck: exit status %d: %s", test.name, status, out)
				}
			default:
				t.Errorf("%s: exit status %d: %s", test.name, status, errs)
			}
			os.Remove(image)
			if got := namesIn(t, dir); len(got) != names {
				t.Errorf("%s: there are %q", test.name, got)
			}
		}
		if interrupted == 0 {
			t.Errorf("%s: no run was interrupted", test.name)
		}
	}
}

// A device holds no file system when the making of one was interrupted.
func TestMkimageInterruptedOnDevice(t *testing.T) {
	dev := loopDevice(t, emptyFile(t, filepath.Join(t.TempDir(), "image"), 1<<40))
	e4go(t, "mkimage", "-q", dev, "64m")
	for i := range 3 {
		if status, errs := interrupt(t, []string{"mkimage", "-q", "-F", "-d", "-", dev}, "endless", time.Duration(i)*80*time.Millisecond, false); status != 130 {
			t.Errorf("exit status %d: %s", status, errs)
		}
		f, err := os.Open(dev)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2048)
		_, err = f.ReadAt(b, 0)
		f.Close()
		if err == nil && len(bytes.Trim(b[1024:], "\x00")) == 0 {
			continue
		}
		// The signal may have come before anything was done.
		if status, out := fixtures.E2fsck(t, dev); status != 0 {
			t.Errorf("run %d: there is something where a superblock would be (%v): e2fsck: exit status %d: %s", i, err, status, out)
		}
	}
}

// interrupt runs e4go, sends it a signal after a while, and returns its exit
// status and what it said.
func interrupt(t *testing.T, args []string, stdin string, after time.Duration, term bool) (int, string) {
	t.Helper()
	cmd := exec.Command(programName, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if stdin != "" {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		cmd.Stdin = r
		switch stdin {
		case "nothing":
		case "endless":
			go endlessTar(w)
		default:
			w.WriteString(stdin)
		}
		defer r.Close()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20*time.Millisecond + after) // so that it has begun to listen, mostly
	sig := unix.SIGINT
	if term {
		sig = unix.SIGTERM
	}
	cmd.Process.Signal(sig)
	end := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer end.Stop()
	cmd.Wait()
	if w := cmd.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() && w.Signal() == sig {
		return exitInterrupted, errs.String() // it had not begun to listen: a shell shows the same status
	}
	return cmd.ProcessState.ExitCode(), errs.String()
}

// noTmpfile mounts a file system that has no files without a name.
func noTmpfile(t *testing.T) (string, bool) {
	fixtures.Need(t, "root", "fuse", "fuse2fs")
	image := emptyFile(t, filepath.Join(t.TempDir(), "image"), 256<<20)
	e4go(t, "mkimage", "-q", "-O", "^has_journal", image)
	dir := t.TempDir()
	if out, err := exec.Command("fuse2fs", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("fuse2fs: %v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == nil {
		unix.Close(fd)
		t.Log("fuse2fs has learned O_TMPFILE")
		return "", false
	}
	return dir, true
}

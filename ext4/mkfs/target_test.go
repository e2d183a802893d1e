package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

func namesIn(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if name := e.Name(); name != "lost+found" && !strings.HasPrefix(name, ".fuse_hidden") { // libfuse forgets some
			names = append(names, name)
		}
	}
	return names
}

// noTmpfile mounts a file system that has no files without a name.
func noTmpfile(t testing.TB) string {
	t.Helper()
	fixtures.Need(t, "root", "fuse", "fuse2fs")
	image := filepath.Join(t.TempDir(), "image")
	makeImage(t, image, 128<<20, Options{Type: "ext2", BlockSize: 4096, Zeroed: true})
	dir := t.TempDir()
	if out, err := exec.Command("fuse2fs", image, dir).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("fuse2fs: %v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600); err == nil {
		unix.Close(fd)
		t.Skipf("SKIPPED %s: fuse2fs has learned O_TMPFILE", t.Name())
	}
	return dir
}

// makeNew makes an image file as the command does; the device fails as f says.
func makeNew(path string, o Options, src Source, f *failing) (err error) {
	p, err := Resolve(faultSize, o)
	if err != nil {
		return err
	}
	t, err := NewImage(path, faultSize)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Abort())
		}
	}()
	f.Device = t.Dev
	t.Dev = f
	if _, err := Make(context.Background(), t.Dev, p, src); err != nil {
		return err
	}
	if err := t.Dev.Flush(); err != nil {
		return err
	}
	return t.Commit()
}

// When anything fails, there is no image, and what had its name is as it was.
func TestNewImageFailsAtEveryCall(t *testing.T) {
	for _, named := range []bool{false, true} { // the file that is written has a name
		for _, there := range []bool{false, true} {
			t.Run(fmt.Sprintf("named %t there %t", named, there), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if named {
					dir = noTmpfile(t)
				}
				path := filepath.Join(dir, "image")
				old := []byte("what was there")
				if there {
					if err := os.WriteFile(path, old, 0o604); err != nil {
						t.Fatal(err)
					}
				}
				o := parseArgs(t, strings.Fields("-b 4096 -O bigalloc"))
				all := &failing{first: -1}
				if err := makeNew(filepath.Join(t.TempDir(), "image"), o, oddTree(true), all); err != nil {
					t.Fatal(err)
				}
				for n := range all.calls.Load() {
					if !long() && n > 3 && n < all.calls.Load()-3 && n%9 != 0 {
						continue
					}
					if err := makeNew(path, o, oddTree(true), &failing{first: n, err: unix.ENOSPC}); !errors.Is(err, unix.ENOSPC) {
						t.Errorf("call %d failed, and was reported as %v", n, err)
					}
					if got := namesIn(t, dir); len(got) > 0 != there || len(got) > 1 {
						t.Fatalf("call %d failed, and left %q", n, got)
					}
					if now, err := os.ReadFile(path); there && (err != nil || !bytes.Equal(now, old)) {
						t.Fatalf("call %d failed, and left %d bytes in place of the old, %v", n, len(now), err)
					}
				}
			})
		}
	}
}

// If the image cannot take its name, nothing is left of it.
func TestCommitFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	target, err := NewImage(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o755); err != nil { // somebody is faster
		t.Fatal(err)
	}
	err = target.Commit()
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) || strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v", err)
	}
	if err := target.Abort(); err != nil {
		t.Error(err)
	}
	if got := namesIn(t, dir); len(got) != 1 {
		t.Errorf("left %q", got)
	}

	// After a Commit, Abort does nothing.
	path = filepath.Join(dir, "second")
	if target, err = NewImage(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(target.Commit(), target.Abort()); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<20 {
		t.Errorf("got %v, %v", st, err)
	}
}

// Links are followed as open(2) follows them.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	other := t.TempDir()
	for _, d := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(other, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"dirlink": other + "/a/b", "up": "dirlink/../image", "absolute": dir + "/up", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"image": dir + "/image", "up": other + "/a/image", "absolute": other + "/a/image", "dirlink/../x": other + "/a/x",
	} {
		target, err := NewImage(dir+"/"+name, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Commit(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		os.Remove(want)
	}
	if _, err := NewImage(dir+"/loop", 4096); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: got %v", err)
	}
}

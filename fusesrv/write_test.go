package fusesrv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// mountNew mounts an empty file system, to be written until the test ends and
// judged by e2fsck then.
func mountNew(t *testing.T, args ...string) *mounted {
	t.Helper()
	return mountNewWith(t, Options{}, args...)
}

func mountNewWith(t *testing.T, o Options, args ...string) *mounted {
	t.Helper()
	o.Extra = []string{"rw"}
	m := mountFile(t, newFSImage(t, args...), 0, o, ext4.Options{Write: true})
	if err := os.Chmod(m.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return m
}

// newFSImage makes an empty file system, to be judged by e2fsck when the test has ended.
func newFSImage(t *testing.T, args ...string) string {
	t.Helper()
	fixtures.Need(t, "e2fsck")
	image := makeFS(t, args...)
	t.Cleanup(func() {
		if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err != nil {
			t.Errorf("e2fsck -fn: %v\n%s", err, out)
		}
	})
	return image
}

// makeFS makes an empty file system.
func makeFS(t *testing.T, args ...string) string {
	t.Helper()
	fixtures.Need(t, "root", "fuse", "mke2fs")
	image := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("mke2fs", append(args, "-q", "-F", image, "128M")...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return image
}

// bothWays runs a test with writes that go through, and with writes that the
// kernel keeps.
func bothWays(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("through", func(t *testing.T) { test(t, Options{}) })
	t.Run("back", func(t *testing.T) { test(t, Options{WriteBack: true}) })
}

// The suite that go-fuse has for file systems.
func TestPosix(t *testing.T) { bothWays(t, testPosix) }

func testPosix(t *testing.T, o Options) {
	m := mountNewWith(t, o, "-t", "ext4")
	names := make([]string, 0, len(posixtest.All))
	for name := range posixtest.All {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if name == "FcntlFlockLocksFile" {
			continue // on a local file system of Linux, locks of flock(2) and of fcntl(2) do not see each other
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(m.dir, name)
			if err := os.Mkdir(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
		})
	}
}

// Times of append-only files become now, and nothing else; those of immutable files stay.
func TestTouch(t *testing.T) { bothWays(t, testTouch) }

func testTouch(t *testing.T, o Options) {
	m := mountNewWith(t, o, "-t", "ext4")
	for _, tt := range []struct {
		name     string
		flag     disk.FileFlags
		now, set error
	}{{"plain", 0, nil, nil}, {"append", disk.FlagAppend, nil, unix.EPERM}, {"fixed", disk.FlagImmutable, unix.EPERM, unix.EPERM}} {
		path := filepath.Join(m.dir, tt.name)
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, old, 0); err != nil {
			t.Fatal(err)
		}
		in, err := m.fs.Resolve(tt.name, false)
		if err != nil {
			t.Fatal(err)
		}
		flags := in.Disk().Flags | tt.flag
		if err := m.fs.SetAttr(t.Context(), ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}); err != nil {
			t.Fatal(err)
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, old, 0); err != tt.set {
			t.Errorf("%s: setting times: got %v, want %v", tt.name, err, tt.set)
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, 0); err != tt.now {
			t.Errorf("%s: times of now: got %v, want %v", tt.name, err, tt.now)
		}
		if in, err = m.fs.Inode(in.Ino()); err != nil {
			t.Fatal(err)
		}
		st := in.Stat()
		if moved := st.Atime.Sec > 1e9 && st.Mtime.Sec > 1e9; moved != (tt.now == nil) {
			t.Errorf("%s: times are %v and %v", tt.name, st.Atime, st.Mtime)
		}
		if flags = in.Disk().Flags &^ tt.flag; tt.flag != 0 { // so that it can be removed
			if err := m.fs.SetAttr(t.Context(), ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that is deleted while it is open can be read and written until it is
// closed, and leaves nothing.
func TestDeletedWhileOpen(t *testing.T) {
	m := mountNew(t, "-t", "ext4")
	before, err := m.fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for i := range 50 {
		f, err := os.Create(filepath.Join(m.dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Repeat([]byte{byte(i)}, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range files {
		b := make([]byte, 100_000)
		if _, err := f.ReadAt(b, 0); err != nil || b[99_999] != byte(i) {
			t.Errorf("file %d: %v, ends with %d", i, err, b[99_999])
		}
		f.Close()
	}
	// The kernel forgets them when it likes; unmounting makes it.
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	m.Wait()
	if err := m.fs.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := m.fs.Statfs()
	if err != nil {
		t.Fatal(err)
	}
	if after.Free != before.Free || after.FreeFiles != before.FreeFiles {
		t.Errorf("%d blocks and %d inodes are free, %d and %d were", after.Free, after.FreeFiles, before.Free, before.FreeFiles)
	}
}

// Files that are written through the kernel's page cache in pieces, cut and
// written over read as a model says, also through another mount.
func TestWriteModel(t *testing.T) {
	for _, args := range [][]string{{"-t", "ext4"}, {"-t", "ext4", "-b", "1024", "-O", "inline_data"}, {"-t", "ext3"}} {
		t.Run(args[len(args)-1], func(t *testing.T) {
			m := mountNew(t, args...)
			rng := rand.New(rand.NewPCG(1, uint64(len(args))))
			for i := range 8 {
				name := filepath.Join(m.dir, fmt.Sprint("file", i))
				f, err := os.Create(name)
				if err != nil {
					t.Fatal(err)
				}
				var want []byte
				for range 60 {
					off, n := rng.IntN(400_000), 1+rng.IntN(1<<rng.IntN(17))
					if rng.IntN(5) == 0 {
						err = f.Truncate(int64(off))
						want = append(want, make([]byte, max(0, off-len(want)))...)[:off]
					} else {
						p := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, n)
						_, err = f.WriteAt(p, int64(off))
						want = append(want, make([]byte, max(0, off+n-len(want)))...)
						copy(want[off:], p)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %v, differs: %v", name, err, !bytes.Equal(got, want))
				}
				in, err := m.fs.Resolve("/"+filepath.Base(name), false)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(want)) // past the kernel's cache
				if _, err := in.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s in the image: %v, differs: %v", name, err, !bytes.Equal(got, want))
				}
			}
		})
	}
}

// What a write takes away: set-user-ID and capabilities, unless root writes.
func TestWriteDropsPrivileges(t *testing.T) {
	m := mountNew(t, "-t", "ext4")
	name := filepath.Join(m.dir, "program")
	if err := os.WriteFile(name, []byte("x"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(name, 0o6777); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", "echo y >>"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o777 {
		t.Errorf("mode %#o, want 0777", st.Mode&0o7777)
	}
}

package fusesrv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// old is a time of long ago, and older one before it.
var old, older = disk.Time{Sec: 1_600_000_000, Nsec: 5}, disk.Time{Sec: 1_500_000_000, Nsec: 7}

// mountOld mounts a file system with a file, a directory with something in it, and a link whose
// times are old, and of access older, and which the kernel has not cached.
func mountOld(t *testing.T, options ...string) (*mounted, string) {
	t.Helper()
	image := newFSImage(t, "-t", "ext4")
	fs, _ := openFS(t, image, 0, ext4.Options{Write: true})
	ctx, c := context.Background(), ext4.Root
	file, err := fs.Create(ctx, c, disk.RootIno, "file", disk.ModeReg|0o644)
	check(t, err)
	_, err = fs.WriteAt(ctx, c, file.Ino(), []byte("contents"), 0)
	check(t, err)
	dir, err := fs.Mkdir(ctx, c, disk.RootIno, "dir", disk.ModeDir|0o755)
	check(t, err)
	_, err = fs.Symlink(ctx, c, disk.RootIno, "link", "file")
	check(t, err)
	link, err := fs.Resolve("/link", false)
	check(t, err)
	for _, ino := range []disk.Ino{file.Ino(), dir.Ino(), link.Ino()} {
		check(t, fs.SetAttr(ctx, c, ino, ext4.SetAttr{Atime: &older, Mtime: &old, Ctime: &old}))
	}
	check(t, fs.Close())
	return mountFile(t, image, 0, Options{Extra: append([]string{"rw"}, options...)}, ext4.Options{Write: true}), image
}

// access reads the file, the directory and the link of mountOld.
func access(t *testing.T, m *mounted) {
	t.Helper()
	_, err := os.ReadFile(filepath.Join(m.dir, "file"))
	check(t, err)
	_, err = os.ReadDir(filepath.Join(m.dir, "dir"))
	check(t, err)
	_, err = os.Readlink(filepath.Join(m.dir, "link"))
	check(t, err)
}

func atimeOf(t *testing.T, path string) time.Time {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	return time.Unix(st.Atim.Unix())
}

// Which accesses count depends on the option; that they count is seen at once,
// and on the image after the unmount.
func TestAtime(t *testing.T) {
	tests := []struct {
		option          string
		file, dir, link bool // whether the access counts
	}{
		{"relatime", true, true, true},
		{"strictatime", true, true, true},
		{"noatime", false, false, false},
		{"nodiratime", true, false, true},
		{"lazytime", true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.option, func(t *testing.T) {
			m, image := mountOld(t, tt.option)
			start := time.Now().Add(-time.Second)
			access(t, m)
			want := map[string]bool{"file": tt.file, "dir": tt.dir, "link": tt.link}
			for name, counts := range want {
				if at := atimeOf(t, filepath.Join(m.dir, name)); at.After(start) != counts {
					t.Errorf("%s: atime %v, want it to be now: %t", name, at, counts)
				}
			}
			check(t, m.Unmount())
			m.Wait()
			check(t, m.fs.Close())
			fs, _ := openFS(t, image, 0, ext4.Options{})
			for name, counts := range want {
				in, err := fs.Resolve("/"+name, false)
				check(t, err)
				st := in.Stat()
				if time.Unix(st.Atime.Sec, 0).After(start) != counts || st.Ctime != old || st.Mtime != old {
					t.Errorf("%s in the image: atime %v, ctime %v, mtime %v; want an atime of now: %t", name, st.Atime, st.Ctime, st.Mtime, counts)
				}
			}
		})
	}
}

// O_NOATIME, the flags of inodes and relatime's rule leave times as they are.
func TestAtimeDoesNotCount(t *testing.T) {
	m, _ := mountOld(t, "relatime")
	file := filepath.Join(m.dir, "file")
	f, err := os.OpenFile(file, unix.O_NOATIME, 0)
	check(t, err)
	_, err = f.Read(make([]byte, 10))
	check(t, err)
	f.Close()
	if at := atimeOf(t, file); at.Unix() != older.Sec {
		t.Errorf("O_NOATIME: atime %v", at)
	}
	dir := filepath.Join(m.dir, "dir")
	check(t, setFlags(dir, 0x80|0x80000)) // A
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{{Sec: older.Sec}, {Sec: old.Sec}}, 0))
	_, err = os.ReadDir(dir)
	check(t, err)
	if at := atimeOf(t, dir); at.Unix() != older.Sec {
		t.Errorf("chattr +A: atime %v", at)
	}

	day := int64(24 * 60 * 60)
	st := func(a, mt, c int64) *ext4.Stat {
		return &ext4.Stat{Atime: disk.Time{Sec: a}, Mtime: disk.Time{Sec: mt}, Ctime: disk.Time{Sec: c}}
	}
	for _, tt := range []struct {
		st   *ext4.Stat
		now  int64
		want bool
	}{
		{st(100, 50, 50), 200, false},
		{st(100, 100, 50), 200, true},
		{st(100, 50, 100), 200, true},
		{st(100, 150, 50), 200, true},
		{st(100, 50, 50), 100 + day - 1, false},
		{st(100, 50, 50), 100 + day, true},
	} {
		if got := relativeAtime(tt.st, disk.Time{Sec: tt.now}); got != tt.want {
			t.Errorf("atime %v, mtime %v, ctime %v, now %d: counts %t, want %t", tt.st.Atime, tt.st.Mtime, tt.st.Ctime, tt.now, got, tt.want)
		}
	}
}

// A time that is set wins over an access before it, and survives the writing of others.
func TestAtimeSet(t *testing.T) {
	m, image := mountOld(t, "strictatime")
	access(t, m)
	file := filepath.Join(m.dir, "file")
	check(t, os.Chtimes(file, time.Unix(older.Sec, 0), time.Unix(old.Sec, 0)))
	if at := atimeOf(t, file); at.Unix() != older.Sec {
		t.Errorf("atime %v, want what was set", at)
	}
	check(t, m.Unmount())
	m.Wait()
	check(t, m.fs.Close())
	fs, _ := openFS(t, image, 0, ext4.Options{})
	in, err := fs.Resolve("/file", false)
	check(t, err)
	if st := in.Stat(); st.Atime.Sec != older.Sec {
		t.Errorf("atime %v in the image, want what was set", st.Atime)
	}
}

// Remounting read-only stops the counting, and writes what was counted.
func TestRemount(t *testing.T) {
	m, image := mountOld(t, "strictatime", "noexec")
	access(t, m)
	check(t, os.Mkdir(filepath.Join(m.dir, "new"), 0o755))
	f, err := os.Create(filepath.Join(m.dir, "open"))
	check(t, err)
	if err := Remount(m.dir, []string{"ro"}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("read-only while a file is open for writing: %v, want EBUSY", err)
	}
	check(t, f.Close())
	check(t, Remount(m.dir, []string{"ro"}))
	info, err := mountAt(m.dir)
	check(t, err)
	if got := info.flags(); !slices.Contains(got, "ro") || !slices.Contains(got, "noexec") || !slices.Contains(got, "nosuid") {
		t.Errorf("mounted with %v, want ro, noexec and nosuid", got)
	}
	// Everything is in the image, journal and all, as whoever opens it now sees it.
	fs, _ := openFS(t, image, 0, ext4.Options{})
	if _, err := fs.Resolve("/new", false); err != nil {
		t.Errorf("after remount,ro the image lacks what was made: %v", err)
	}
	before, err := os.ReadFile(image)
	check(t, err)
	check(t, unix.Fadvise(int(openPath(t, filepath.Join(m.dir, "file")).Fd()), 0, 0, unix.FADV_DONTNEED))
	access(t, m)
	time.Sleep(10 * time.Millisecond)
	check(t, m.fs.Sync())
	after, err := os.ReadFile(image)
	check(t, err)
	if string(before) != string(after) {
		t.Error("the image has changed after remount,ro")
	}
	if err := os.Mkdir(filepath.Join(m.dir, "more"), 0o755); err == nil {
		t.Error("mkdir on a read-only mount")
	}
	check(t, Remount(m.dir, []string{"rw"}))
	check(t, os.Mkdir(filepath.Join(m.dir, "more"), 0o755))
}

// A kernel that was told to by mount(2) alone is read-only, too.
func TestRemountUntold(t *testing.T) {
	m, _ := mountOld(t, "strictatime")
	access(t, m)
	check(t, unix.Mount("", m.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	before, err := m.fs.Resolve("/file", false)
	check(t, err)
	check(t, m.raw.atimes.write())
	after, err := m.fs.Resolve("/file", false)
	check(t, err)
	if after.Stat().Atime != before.Stat().Atime {
		t.Errorf("atime was %v, and became %v", before.Stat().Atime, after.Stat().Atime)
	}
}

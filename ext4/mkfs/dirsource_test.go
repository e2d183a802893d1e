package mkfs

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A meddler is a source that changes while it is read: do is called once, at
// the path and the moment that are given.
type meddler struct {
	Source
	path, when string
	do         func()
}

// The moments: when the path has been listed, when all has been, when the
// contents of path have been opened, and when the first of them have been read.
const (
	whenListed  = "listed"
	whenScanned = "scanned"
	whenOpened  = "opened"
	whenRead    = "read"
)

func (m *meddler) Next(ctx context.Context) (*Entry, error) {
	e, err := m.Source.Next(ctx)
	switch {
	case err == io.EOF && m.when == whenScanned:
		m.do()
	case err != nil || e.Path != m.path:
	case m.when == whenListed:
		m.do()
	case m.when == whenOpened || m.when == whenRead:
		e.Content = &meddledContent{e.Content, m}
	}
	return e, err
}

type meddledContent struct {
	Content
	m *meddler
}

func (c *meddledContent) Open() (Reader, error) {
	r, err := c.Content.Open()
	if err == nil && c.m.when == whenOpened {
		c.m.do()
	}
	return &meddledReader{r, c.m}, err
}

type meddledReader struct {
	Reader
	m *meddler
}

func (r *meddledReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 4096)])
	if r.m.when == whenRead {
		r.m.when = ""
		r.m.do()
	}
	return n, err
}

// A source that changes while it is read is an error that names the path,
// and there is no image.
func TestDirChanges(t *testing.T) {
	const (
		changed  = "changed while it was being read"
		vanished = "it vanished while the directory was being read"
	)
	rename := func(t *testing.T, from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	write := func(t *testing.T, path string, off, n int64) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(bytes.Repeat([]byte("!"), int(n)), off); err != nil {
			t.Fatal(err)
		}
	}
	setTime := func(t *testing.T, path string) {
		if err := os.Chtimes(path, time.Unix(testTime, 0), time.Unix(testTime, 0)); err != nil {
			t.Fatal(err)
		}
	}
	content := whenListed + " " + whenScanned + " " + whenOpened + " " + whenRead
	tests := []struct {
		name string
		path string // at which the source changes
		when string // one or more moments
		do   func(t *testing.T, root string)
		want string // "" is no error
		who  string // the path that the error names, where it is another
	}{
		{"nothing", "d/file", content, func(t *testing.T, root string) {}, "", ""},
		{"grows", "d/file", content, func(t *testing.T, root string) {
			write(t, root+"/d/file", 1<<20, 1)
		}, changed, ""},
		{"grows by a hole", "d/file", content, func(t *testing.T, root string) {
			if err := os.Truncate(root+"/d/file", 1<<30); err != nil {
				t.Fatal(err)
			}
		}, changed, ""},
		{"shrinks", "d/file", content, func(t *testing.T, root string) {
			if err := os.Truncate(root+"/d/file", 10000); err != nil {
				t.Fatal(err)
			}
		}, "chang", ""},
		{"becomes empty", "d/file", content, func(t *testing.T, root string) {
			if err := os.Truncate(root+"/d/file", 0); err != nil {
				t.Fatal(err)
			}
		}, "chang", ""},
		{"changes and has its time again", "d/file", content, func(t *testing.T, root string) {
			write(t, root+"/d/file", 5000, 1)
			setTime(t, root+"/d/file")
		}, changed, ""},
		{"gets a hole and has its time again", "d/file", content, func(t *testing.T, root string) {
			f, err := os.OpenFile(root+"/d/file", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 64<<10, 128<<10); err == unix.EOPNOTSUPP {
				write(t, root+"/d/file", 64<<10, 128<<10)
			} else if err != nil {
				t.Fatal(err)
			}
			setTime(t, root+"/d/file")
		}, changed, ""},
		{"changes its mode", "d/file", content, func(t *testing.T, root string) {
			if err := os.Chmod(root+"/d/file", 0o600); err != nil {
				t.Fatal(err)
			}
		}, changed, ""},
		{"vanishes", "d/file", whenScanned, func(t *testing.T, root string) {
			if err := os.Remove(root + "/d/file"); err != nil {
				t.Fatal(err)
			}
		}, vanished, ""},
		{"with holes vanishes", "d/holes", whenScanned, func(t *testing.T, root string) {
			if err := os.Remove(root + "/d/holes"); err != nil {
				t.Fatal(err)
			}
		}, vanished, ""},
		{"vanishes when it is open", "d/file", whenOpened + " " + whenRead, func(t *testing.T, root string) {
			if err := os.Remove(root + "/d/file"); err != nil {
				t.Fatal(err)
			}
		}, changed, ""},
		{"is replaced", "d/file", whenScanned, func(t *testing.T, root string) {
			write(t, root+"/new", 0, 1<<20)
			setTime(t, root+"/new")
			rename(t, root+"/new", root+"/d/file")
		}, changed, ""},
		{"is replaced by a link to it", "d/file", whenScanned, func(t *testing.T, root string) {
			rename(t, root+"/d/file", root+"/d/old")
			if err := os.Symlink("old", root+"/d/file"); err != nil {
				t.Fatal(err)
			}
		}, "too many levels of symbolic links", ""},
		{"is replaced by a FIFO", "d/file", whenScanned, func(t *testing.T, root string) {
			rename(t, root+"/d/file", root+"/d/old")
			if err := unix.Mkfifo(root+"/d/file", 0o644); err != nil {
				t.Fatal(err)
			}
		}, changed, ""},
		{"is replaced by a directory", "d/file", whenScanned, func(t *testing.T, root string) {
			rename(t, root+"/d/file", root+"/d/old")
			if err := os.Mkdir(root+"/d/file", 0o755); err != nil {
				t.Fatal(err)
			}
		}, changed, ""},
		{"is in a directory that vanishes", "d/file", whenListed, func(t *testing.T, root string) {
			rename(t, root+"/d", root+"/e")
		}, "chang", "d"},
		{"is in a directory that is replaced", "d/last", whenListed, func(t *testing.T, root string) {
			rename(t, root+"/d", filepath.Dir(root)+"/e")
			if err := os.Mkdir(root+"/d", 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, root+"/d/file", 0, 1<<20)
		}, changed, "d"},
		{"another comes", "d/file", whenListed, func(t *testing.T, root string) {
			write(t, root+"/d/another", 0, 1)
		}, changed, "d"},
		{"another comes into a directory that is empty", "d/empty", whenListed, func(t *testing.T, root string) {
			write(t, root+"/d/empty/another", 0, 1)
		}, changed, "d/empty"},
		{"another comes into the root", "d/file", whenListed, func(t *testing.T, root string) {
			write(t, root+"/another", 0, 1)
		}, changed, "."},
		{"the next vanishes", "d/file", whenListed, func(t *testing.T, root string) {
			if err := os.Remove(root + "/d/last"); err != nil {
				t.Fatal(err)
			}
		}, changed, "d"},
		{"the next directory vanishes", "a", whenListed, func(t *testing.T, root string) {
			if err := os.RemoveAll(root + "/d"); err != nil {
				t.Fatal(err)
			}
		}, vanished, "d"},
		{"the next directory becomes a link", "a", whenListed, func(t *testing.T, root string) {
			rename(t, root+"/d", root+"/e")
			if err := os.Symlink("e", root+"/d"); err != nil {
				t.Fatal(err)
			}
		}, changed, "."},
		{"the directory changes its mode", "d/file", whenListed, func(t *testing.T, root string) {
			if err := os.Chmod(root+"/d", 0o700); err != nil {
				t.Fatal(err)
			}
		}, changed, "d"},
	}
	for _, tt := range tests {
		for _, when := range strings.Fields(tt.when) {
			for how, size := range map[string]int64{"auto": 0, "size": 16 << 20} {
				t.Run(tt.name+" "+when+" "+how, func(t *testing.T) {
					t.Parallel()
					root := filepath.Join(t.TempDir(), "src")
					if err := os.MkdirAll(root+"/d/empty", 0o755); err != nil {
						t.Fatal(err)
					}
					for _, name := range []string{"a", "d/file", "d/last"} {
						write(t, root+"/"+name, 0, 1<<20)
						setTime(t, root+"/"+name)
					}
					if f, err := os.Create(root + "/d/holes"); err != nil {
						t.Fatal(err)
					} else if err = errors.Join(f.Truncate(1<<20), f.Close()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(20 * time.Millisecond) // the kernel's clock for files ticks each 10 ms
					open := func(*Spool) (Source, bool, error) {
						s, err := NewDirSource(root, false)
						return &meddler{s, tt.path, when, func() { tt.do(t, root) }}, true, err
					}
					dir := t.TempDir()
					_, _, err := fill(dir, filepath.Join(dir, "image"), parseArgs(t, nil), size, nil, open)
					list, _ := os.ReadDir(dir)
					if tt.want == "" {
						if err != nil || len(list) != 1 {
							t.Errorf("%v, and %d files", err, len(list))
						}
						return
					}
					who := tt.who
					if who == "" {
						who = tt.path
					}
					if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Join("/", who)) {
						t.Errorf("%v, want %q and %s", err, tt.want, who)
					}
					if len(list) != 0 {
						t.Errorf("it leaves %v", list)
					}
				})
			}
		}
	}
}

// fillDir makes an image of a directory, in a process of its own of a user who may read
// what is not hers only if all may.
func fillDir(t *testing.T, root, dir string, size int64) error {
	if os.Geteuid() != 0 {
		_, _, err := fill(dir, dir+"/image", parseArgs(t, nil), size, nil, fromDir(root))
		return err
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFillDir$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", fillDirEnv, size))
	cmd.Args = append(cmd.Args, root, dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if text, failed := strings.CutPrefix(string(out), "failed: "); failed {
		return errors.New(text)
	}
	return nil
}

const fillDirEnv = "E4GO_TEST_FILL_DIR"

// TestFillDir is the process that [fillDir] starts.
func TestFillDir(t *testing.T) {
	size, err := strconv.ParseInt(os.Getenv(fillDirEnv), 10, 64)
	if err != nil {
		return
	}
	dir := flag.Arg(1)
	if _, _, err := fill(dir, dir+"/image", parseArgs(t, nil), size, nil, fromDir(flag.Arg(0))); err != nil {
		fmt.Println("failed:", err)
	}
	os.Exit(0) // with nothing else on standard output
}

// What cannot be read is an error that names the path, and there is no image.
func TestDirUnreadable(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]os.FileMode // directories end in a slash
		want  string                 // the path of the error, "" is none
	}{
		{"all is readable", map[string]os.FileMode{"d/": 0o755, "d/file=": 0o444, "d/empty": 0o444}, ""},
		{"a file", map[string]os.FileMode{"d/": 0o755, "d/file=": 0o200}, "open ROOT/d/file: permission denied"},
		{"an empty file", map[string]os.FileMode{"d/": 0o755, "d/file": 0}, "open ROOT/d/file: permission denied"},
		{"a directory", map[string]os.FileMode{"d/": 0o333}, "open ROOT/d: permission denied"},
		{"a directory that shows names only", map[string]os.FileMode{"d/": 0o444, "d/file=": 0o444}, "stat ROOT/d/file: permission denied"},
		{"the root", map[string]os.FileMode{"/": 0o333}, "open ROOT: permission denied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top, err := os.MkdirTemp("", "e4go-unreadable-") // t.TempDir is nobody's to look into
			if err != nil {
				t.Fatal(err)
			}
			root, dir := top+"/src", top+"/image"
			t.Cleanup(func() {
				for _, p := range []string{root, root + "/d"} {
					os.Chmod(p, 0o700)
				}
				os.RemoveAll(top)
			})
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(os.Chmod(top, 0o755))
			check(os.Mkdir(root, 0o755))
			check(os.Mkdir(dir, 0o755))
			check(os.Chmod(dir, 0o777))
			for name := range tt.files {
				if strings.HasSuffix(name, "/") && name != "/" {
					check(os.Mkdir(filepath.Join(root, name), 0o755))
				}
			}
			for name := range tt.files {
				if !strings.HasSuffix(name, "/") {
					var data []byte
					if strings.HasSuffix(name, "=") {
						data = []byte("data")
					}
					check(os.WriteFile(filepath.Join(root, strings.TrimSuffix(name, "=")), data, 0o644))
				}
			}
			names := slices.Sorted(maps.Keys(tt.files))
			for _, name := range slices.Backward(names) { // directories last
				check(os.Chmod(filepath.Join(root, strings.TrimSuffix(name, "=")), tt.files[name]))
			}
			for _, size := range []int64{0, 8 << 20} {
				err := fillDir(t, root, dir, size)
				list, _ := os.ReadDir(dir)
				switch want := strings.ReplaceAll(tt.want, "ROOT", root); {
				case want == "" && err == nil:
					check(os.Remove(dir + "/image"))
				case want == "" || err == nil || !strings.Contains(err.Error(), want):
					t.Errorf("size %d: %v, want %q", size, err, want)
				case len(list) != 0:
					t.Errorf("size %d: it leaves %v", size, list)
				}
			}
		})
	}
}

// Names may have 255 bytes, and paths more than a system call takes.
func TestDirDeep(t *testing.T) {
	name := strings.Repeat("n", 255)
	top := t.TempDir()
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var dirs []string // paths
	path := ""
	for range 40 {
		path = filepath.Join(path, name)
		dirs = append(dirs, path)
		if err := root.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{}
	for i, d := range dirs {
		for j, base := range []string{strings.Repeat("f", 1+i*3), name[1:] + "g", fmt.Sprint(i)} {
			p := filepath.Join(d, base)
			want[p] = noise(1 + 700*i + j)
			if err := root.WriteFile(p, []byte(want[p]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A call takes a path of PATH_MAX-1 bytes, and none that is longer.
	for n := unix.PathMax - 3; n < unix.PathMax+4; n++ {
		p := filepath.Join(dirs[14], strings.Repeat("e", max(1, n-15*256)))
		switch {
		case n == unix.PathMax: // would end in a slash
			continue
		case n > unix.PathMax:
			p = filepath.Join(dirs[15], strings.Repeat("e", n-unix.PathMax))
		}
		if len(p) != n {
			t.Fatalf("a path of %d bytes, want %d", len(p), n)
		}
		want[p] = noise(n)
		if err := root.WriteFile(p, []byte(want[p]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.Link(filepath.Join(dirs[39], "39"), filepath.Join(dirs[38], "hard")); err != nil {
		t.Fatal(err)
	}
	want[filepath.Join(dirs[38], "hard")] = want[filepath.Join(dirs[39], "39")]
	if err := root.Symlink(strings.Repeat("t", 1000), filepath.Join(dirs[39], "link")); err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"-b 4096", "-b 1024 -O inline_data"} {
		for _, size := range []int64{0, 16 << 20} {
			dir := t.TempDir()
			img := filepath.Join(dir, "image")
			if _, _, err := fill(dir, img, parseArgs(t, strings.Fields(set)), size, nil, fromDir(top)); err != nil {
				t.Fatalf("%s: %v", set, err)
			}
			fsys := openImage(t, img)
			for p, data := range want {
				in, err := lookupAll(fsys, p)
				if err != nil {
					t.Fatalf("%d bytes: %v", len(p), err)
				}
				got, err := io.ReadAll(io.NewSectionReader(in, 0, in.Size()))
				if err != nil || string(got) != data {
					t.Errorf("a file with a path of %d bytes has %d, %v; want %d", len(p), len(got), err, len(data))
				}
			}
			in, err := lookupAll(fsys, filepath.Join(dirs[39], "link"))
			if err != nil {
				t.Fatal(err)
			}
			if to, err := in.Readlink(); err != nil || to != strings.Repeat("t", 1000) {
				t.Errorf("the link leads to %q, %v", to, err)
			}
		}
	}
}

// Flags and projects of files are taken over, those that a user can set.
func TestDirFlags(t *testing.T) {
	fixtures.Need(t, "chattr")
	src := t.TempDir()
	m := &treeMaker{t: t, rng: rand.New(rand.NewPCG(1, 2))}
	flags := map[string]disk.FileFlags{
		"nodump": disk.FlagNodump, "noatime": disk.FlagNoatime, "both": disk.FlagNodump | disk.FlagNoatime, "none": 0, "empty": disk.FlagNodump, "dir": disk.FlagNodump,
	}
	letters := map[disk.FileFlags]string{disk.FlagNodump: "d", disk.FlagNoatime: "A", disk.FlagNodump | disk.FlagNoatime: "dA"}
	for name, f := range flags {
		path := filepath.Join(src, name)
		switch name {
		case "dir":
			m.check(os.Mkdir(path, 0o755))
		case "empty":
			m.check(os.WriteFile(path, nil, 0o644))
		default:
			m.check(os.WriteFile(path, []byte(name), 0o644))
		}
		if f != 0 {
			if out, err := chattr("+"+letters[f], path); err != nil {
				t.Skipf("SKIPPED %s: chattr: %v: %s", t.Name(), err, out)
			}
		}
	}
	projects := true
	for name := range flags {
		if _, err := chattr("-p", "77", filepath.Join(src, name)); err != nil {
			projects = false // this file system has none
		}
	}
	for _, set := range []string{"-b 4096", "-O project,quota", "-O inline_data,project,quota"} {
		for _, size := range []int64{0, 16 << 20} {
			dir := t.TempDir()
			img := filepath.Join(dir, "image")
			if _, _, err := fill(dir, img, parseArgs(t, strings.Fields(set)), size, nil, fromDir(src)); err != nil {
				t.Fatal(err)
			}
			fixtures.Need(t, "e2fsck")
			if status, out := fixtures.E2fsck(t, img); status != 0 {
				t.Fatalf("%s: e2fsck: exit status %d: %s", set, status, out)
			}
			fsys := openImage(t, img)
			for name, want := range flags {
				in, err := lookupAll(fsys, name)
				if err != nil {
					t.Fatal(err)
				}
				st := in.Stat()
				if got := st.Flags & userFlags; got != want {
					t.Errorf("%s: %s: flags %#x, want %#x", set, name, got, want)
				}
				if strings.Contains(set, "project") && projects && st.Project != 77 {
					t.Errorf("%s: %s: project %d", set, name, st.Project)
				}
			}
		}
	}
}

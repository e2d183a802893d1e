// Package mounttest judges e4go mount as a program sees it: by system calls,
// from many processes and as several users, beside the kernel's ext4 and a model in
// memory, with the server killed, and many times over.
//
// The server is a process of its own, since it is to be killed. What makes system calls
// is one, too: a worker (worker_test.go), which executes the operations (op_test.go) that
// it is sent, with a user and groups of its own. The same operations can be executed
// by a model (model_test.go).
package mounttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"e4go/commands"
	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary be another program.
const roleEnv = "E4GO_MOUNTTEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "e4go":
		os.Exit(commands.Main())
	case "writer":
		logged(os.Stdout)
		os.Exit(0)
	case "syslog":
		os.Exit(syslogged(os.Args[1], os.Args[2]))
	case "worker":
		work(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	code := m.Run()
	if self.dir != "" {
		os.RemoveAll(self.dir)
	}
	os.Exit(code)
}

var self struct {
	once sync.Once
	dir  string
	err  error
}

// program is a copy of the test binary that every user may execute.
func program(t testing.TB) string {
	t.Helper()
	self.once.Do(func() {
		if self.dir, self.err = os.MkdirTemp("", "e4go-mounttest-"); self.err != nil {
			return
		}
		if self.err = os.Chmod(self.dir, 0o755); self.err != nil {
			return
		}
		exe, err := os.Executable()
		if err == nil {
			var b []byte
			if b, err = os.ReadFile(exe); err == nil {
				err = os.WriteFile(filepath.Join(self.dir, "e4go"), b, 0o755)
			}
		}
		self.err = err
	})
	if self.err != nil {
		t.Fatal(self.err)
	}
	return filepath.Join(self.dir, "e4go")
}

// role is a command that runs the test binary as another program.
func role(t testing.TB, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(program(t), args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+name)
	return cmd
}

// long is the number in an environment variable, by which a test is made
// longer, or short.
func long(t testing.TB, variable string, short int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number", variable, s)
	}
	return n
}

// A kind is a sort of file system that is tested.
type kind struct {
	name    string
	args    string // of mke2fs
	options string // of the kernel's mount
	mount   string // options of e4go's
	seconds bool   // times change in steps: there is no room for more, or the kernel's FUSE driver makes them, by the tick
}

var kinds = []kind{
	{name: "4k", args: "-t ext4"},
	{name: "1k", args: "-t ext4 -b 1024"},
	{name: "4k-writeback", args: "-t ext4", mount: "writeback_cache", seconds: true},
	{name: "1k-writeback", args: "-t ext4 -b 1024", mount: "writeback_cache", seconds: true},
	{name: "ext3", args: "-t ext3 -b 1024"},
	{name: "bigalloc", args: "-t ext4 -O bigalloc -C 16384"},
	{name: "nojournal", args: "-t ext4 -O ^has_journal"},
	{name: "ea_inode", args: "-t ext4 -b 1024 -O ea_inode,^metadata_csum -I 128", seconds: true},
}

// makeImage makes an empty file system in a file of the test's.
func makeImage(t testing.TB, args, size string) string {
	t.Helper()
	fixtures.Need(t, "root", "fuse", "mke2fs", "e2fsck")
	image := filepath.Join(t.TempDir(), "image")
	mkfs(t, image, args, size)
	return image
}

func mkfs(t testing.TB, image, args, size string) {
	t.Helper()
	all := append(strings.Fields("-q -F -E lazy_itable_init=1,root_owner=0:0 "+args), image, size)
	if out, err := exec.Command("mke2fs", all...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", all, err, out)
	}
}

// A mount is an image that an e4go process serves.
type mount struct {
	image, dir, log string
	as              user
	cmd             *exec.Cmd
	done            chan error // what the process ended with
	gone            bool
}

// serve mounts image in a process of its own, until the test ends at the latest.
func serve(t testing.TB, image string, options ...string) *mount {
	t.Helper()
	return serveAs(t, users[0], image, options...)
}

// serveAs is serve by a user, who must be able to write to the image.
func serveAs(t testing.TB, u user, image string, options ...string) *mount {
	t.Helper()
	// Not t.TempDir: other users must get there.
	dir, err := os.MkdirTemp("", "e4go-mounttest-")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, int(u.uid), int(u.gid))); err != nil {
		t.Fatal(err)
	}
	m := &mount{image: image, dir: dir, as: u}
	t.Cleanup(func() {
		m.umount(t)
		os.Remove(dir)
		if t.Failed() && m.log != "" {
			if b, err := os.ReadFile(m.log); err == nil && len(b) > 0 {
				t.Logf("the server of %s said:\n%s", image, b)
			}
		}
	})
	m.start(t, options...)
	return m
}

// start starts the server and waits until the mount answers.
func (m *mount) start(t testing.TB, options ...string) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "log-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.log = f.Name()
	m.cmd = role(t, "e4go", "mount", "-f", "--json", "-o", "rw,suid,dev,"+strings.Join(options, ","), m.image, m.dir)
	m.cmd.Stderr = f
	m.as.become(m.cmd)
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.gone, m.done = false, make(chan error, 1)
	said, _ := bufio.NewReader(out).ReadString('\n') // the document comes when the mount answers, or says why not
	go func() {
		_, _ = io.Copy(io.Discard, out)
		m.done <- m.cmd.Wait()
	}()
	if !strings.Contains(said, `"pid":`) {
		err := <-m.done
		m.gone = true
		t.Fatalf("e4go mount %s: %v\n%s", m.image, err, said)
	}
}

// umount unmounts as umount(8) does, and waits for the server to end.
func (m *mount) umount(t testing.TB) {
	t.Helper()
	if m.gone || m.cmd == nil {
		return
	}
	m.gone = true
	m.detach(t)
	select {
	case err := <-m.done:
		if err != nil {
			t.Errorf("the server of %s ended with %v", m.image, err)
		}
	case <-time.After(2 * time.Minute):
		// Its goroutines say where it hangs.
		m.cmd.Process.Signal(unix.SIGQUIT)
		t.Errorf("the server of %s did not end within two minutes of umount: %v", m.image, <-m.done)
	}
}

// detach takes the mount away, waiting a little for whoever is just leaving it.
func (m *mount) detach(t testing.TB) {
	t.Helper()
	err := unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
	for i := 0; errors.Is(err, unix.EBUSY) && i < 100; i++ {
		time.Sleep(20 * time.Millisecond)
		err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		t.Errorf("unmount %s: %v", m.dir, err)
		unix.Unmount(m.dir, unix.MNT_DETACH)
	}
}

// kill ends the server at once. The mount is there, and dead, until detach.
func (m *mount) kill(t testing.TB) {
	t.Helper()
	m.gone = true
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-m.done
}

// quiet fails the test if the server complained of anything.
func (m *mount) quiet(t testing.TB) {
	t.Helper()
	b, err := os.ReadFile(m.log)
	if err != nil {
		t.Fatal(err)
	}
	if b = bytes.TrimSpace(b); len(b) > 0 {
		t.Errorf("the server of %s said:\n%s", m.image, b)
	}
}

// sound has e2fsck and fsck-lite judge an image that nobody has mounted.
func sound(t testing.TB, image string) {
	t.Helper()
	if status, out := fixtures.E2fsck(t, image); status != 0 {
		t.Errorf("e2fsck -fn: status %d\n%s", status, out)
	}
	dev, err := blockdev.Open(image, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	report, err := fsck.Run(context.Background(), dev, fsck.Options{})
	if err != nil {
		t.Fatalf("fsck-lite: %v", err)
	}
	for _, p := range report.Problems {
		if p.Severity != fsck.Note {
			t.Errorf("fsck-lite: %s, %+v: have %s, want %s", p.Code, p.Place, p.Have, p.Want)
		}
	}
}

// A user is somebody whom the kernel lets do less, or more.
type user struct {
	name     string
	uid, gid uint32
	groups   []uint32
}

var users = []user{
	{"root", 0, 0, nil},
	{"one", 1000, 1000, []uint32{2000, 3000}},
	{"two", 1001, 1001, []uint32{3000, 70000}},
}

// become makes cmd run as the user.
func (u user) become(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups},
	}
}

// run runs a line of shell as the user.
func (u user) run(line string) (said string, err error) {
	cmd := exec.Command("sh", "-c", line)
	u.become(cmd)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A process is a worker with an identity, in a directory.
type process struct {
	who  string
	cmd  *exec.Cmd
	in   io.WriteCloser
	wire *wire
}

// employ starts a worker in dir, until stop is called or the test ends.
func employ(t testing.TB, u user, dir string) *process {
	t.Helper()
	cmd := role(t, "worker", dir)
	cmd.Stderr = os.Stderr
	u.become(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{who: u.name, cmd: cmd, in: in, wire: newWire(out, in)}
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	if p.cmd != nil {
		p.in.Close()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// do has the worker execute o.
func (p *process) do(o op) (result, error) {
	if err := p.wire.send(o); err != nil {
		return result{}, fmt.Errorf("worker %s: %w", p.who, err)
	}
	var r result
	if err := p.wire.receive(&r); err != nil {
		return result{}, fmt.Errorf("worker %s, at %v: %w", p.who, o, err)
	}
	return r, nil
}

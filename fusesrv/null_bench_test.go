package fusesrv

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"e4go/ext4"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// clientEnv makes the test binary a client: "operation directory number".
const clientEnv = "E4GO_FUSESRV_BENCH_CLIENT"

// fileOps are what a client does with the files f0, f1 and so on of its directory. Every one needs the ones before.
var fileOps = []struct {
	name string
	op   func(i int) error
}{
	{"create, write 1 KiB, close", func(i int) error {
		fd, err := unix.Open(fileNo(i), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		if _, err = unix.Write(fd, page[:1024]); err != nil {
			return err
		}
		return unix.Close(fd)
	}},
	{"look up what is missing", func(i int) error {
		if err := unix.Access("missing"+strconv.Itoa(i), unix.F_OK); err != unix.ENOENT {
			return fmt.Errorf("access: %v", err)
		}
		return nil
	}},
	{"write 4 KiB over", func(i int) error {
		if clientFD < 0 {
			var err error
			if clientFD, err = unix.Open(fileNo(0), unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
				return err
			}
		}
		_, err := unix.Pwrite(clientFD, page[:], int64(i*7919%1024)*int64(len(page)))
		return err
	}},
	{"rename", func(i int) error { return unix.Rename(fileNo(i), "n"+fileNo(i)) }},
	{"unlink", func(i int) error { return unix.Unlink("n" + fileNo(i)) }},
}

var (
	page     [4096]byte
	clientFD = -1
)

func fileNo(i int) string { return "f" + strconv.Itoa(i) }

// runClient does an operation some times as fast as it can, from the time on that stdin ends.
func runClient(arg string) error {
	op, rest, _ := strings.Cut(arg, "\n")
	dir, number, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(op)
	if err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	runtime.LockOSThread()
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		return fmt.Errorf("stdin does not end")
	}
	start := time.Now()
	for i := range n {
		if err := fileOps[at].op(i); err != nil {
			return fmt.Errorf("file %d: %w", i, err)
		}
	}
	fmt.Println(time.Since(start).Nanoseconds())
	return nil
}

// nullNames is a nullFS that has every name but what a client has not made, and asks for as many
// requests as e4go does.
type nullNames struct{ *nullFS }

func (n nullNames) entry(name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	h := fnv.New64a()
	h.Write([]byte(name))
	out.NodeId = h.Sum64() | 2
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	out.Attr = fuse.Attr{Ino: out.NodeId, Mode: mode, Nlink: 1, Size: 4 << 20}
	return fuse.OK
}

func (n nullNames) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	switch {
	case strings.HasPrefix(name, "dir"):
		return n.entry(name, unix.S_IFDIR|0o755, out)
	case name == "file":
		return n.entry(name, unix.S_IFREG|0o644, out)
	}
	out.SetEntryTimeout(valid) // a missing name is kept, too
	return fuse.OK
}

func (n nullNames) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(valid)
	out.Attr = fuse.Attr{Ino: in.NodeId, Mode: unix.S_IFDIR | 0o755, Nlink: 1}
	return fuse.OK
}

func (n nullNames) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return n.entry(fmt.Sprint(in.NodeId, name), unix.S_IFREG|0o644, &out.EntryOut)
}

func (n nullNames) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENODATA
}
func (n nullNames) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return fuse.OK
}
func (n nullNames) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.OK }

// BenchmarkNull measures operations on files on our mount beside a file system on the same loop that does
// nothing, and answers the same requests: what e4go could reach at most. The clients are processes of their
// own, each in its own directory. ns/op is by the clock, of all clients together.
func BenchmarkNull(b *testing.B) {
	const perClient = 3000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + IdleProcs))
	for _, clients := range []int{1, 4} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			total, cpu := map[string]time.Duration{}, map[string]time.Duration{}
			rounds := 0
			for b.Loop() {
				kinds := []string{"null", "e4go"}
				if rounds%2 == 1 {
					slices.Reverse(kinds)
				}
				for _, kind := range kinds {
					dir, end := mountForNull(b, kind, clients)
					for at, op := range fileOps {
						before := cpuTime(b)
						total[kind+op.name] += runClients(b, at, dir, clients, perClient)
						cpu[kind+op.name] += time.Duration(cpuTime(b) - before)
					}
					end()
				}
				rounds++
			}
			for _, op := range fileOps {
				each := func(of map[string]time.Duration, kind string) float64 {
					return float64(of[kind+op.name].Nanoseconds()) / 1e3 / float64(rounds*perClient*clients)
				}
				null, ours := each(total, "null"), each(total, "e4go")
				b.Logf("%-26s null %5.1f us, e4go %5.1f us: %3.0f %% of its speed; processor time of the server: null %5.1f us, e4go %5.1f us",
					op.name, null, ours, 100*null/ours, each(cpu, "null"), each(cpu, "e4go"))
			}
		})
	}
}

// mountForNull mounts with a directory for each client.
func mountForNull(b *testing.B, kind string, clients int) (dir string, end func()) {
	if kind == "null" {
		return mountNullNames(b)
	}
	img := madeFS(b, "1G", func(dir string) {
		for i := range clients {
			check(b, os.Mkdir(filepath.Join(dir, fmt.Sprint("dir", i)), 0o755))
		}
	})
	fs, dev := openFS(b, img, 0, ext4.Options{Write: true})
	dir = b.TempDir()
	s, err := Mount(fs, dir, Options{FSName: img, Image: dev, Extra: []string{"rw"}})
	check(b, err)
	b.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	go s.Serve()
	check(b, s.WaitMount())
	return dir, func() {
		unmountIdle(b, dir)
		s.Wait()
		check(b, os.Remove(img))
	}
}

func mountNullNames(b *testing.B) (dir string, end func()) {
	dir, done := serveNull(b, nullNames{newNull(0)}, true, true)
	// So that OPEN and FLUSH are not sent, as with ours.
	f, err := unix.Open(filepath.Join(dir, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(b, err)
	unix.Close(f)
	return dir, func() {
		unmountIdle(b, dir)
		<-done
	}
}

// unmountIdle takes away a mount whose users have ended just now.
func unmountIdle(b *testing.B, dir string) {
	b.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return
		}
		if err != unix.EBUSY || time.Since(start) > 10*time.Second {
			b.Fatalf("unmount %s: %v", dir, err)
		}
	}
}

// runClients returns how long clients processes, started together, take for the
// slowest to do operation at n times.
func runClients(b *testing.B, at int, dir string, clients, n int) time.Duration {
	gate, open, err := os.Pipe()
	check(b, err)
	outs := make([]bytes.Buffer, clients)
	cmds := make([]*exec.Cmd, clients)
	for i := range cmds {
		cmds[i] = exec.Command(os.Args[0])
		cmds[i].Env = append(os.Environ(), fmt.Sprintf("%s=%d\n%s\n%d", clientEnv, at, filepath.Join(dir, fmt.Sprint("dir", i)), n))
		cmds[i].Stdin, cmds[i].Stdout, cmds[i].Stderr = gate, &outs[i], &outs[i]
		check(b, cmds[i].Start())
	}
	gate.Close()
	time.Sleep(100 * time.Millisecond)
	open.Close()
	var slowest time.Duration
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			b.Fatalf("client %d: %v: %s", i, err, &outs[i])
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(outs[i].String()), 10, 64)
		check(b, err)
		slowest = max(slowest, time.Duration(ns))
	}
	return slowest
}

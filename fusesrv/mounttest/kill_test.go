package mounttest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// TestKill kills the server in the middle of work, many times, on one image. The next open,
// by turns the kernel's mount and ours, recovers it: everything that an fsync had returned
// for is there, as a log says that is kept outside, and e2fsck and fsck-lite find nothing.
//
// E4GO_KILL_ROUNDS=n kills n times, E4GO_KILL_SEED=n begins with that seed.
func TestKill(t *testing.T) {
	fixtures.Need(t, "root", "loop", "fuse", "sqlite3", "git", "tar")
	rounds, seed := long(t, "E4GO_KILL_ROUNDS", 3), uint64(long(t, "E4GO_KILL_SEED", 1))
	for _, k := range kinds {
		if k.name != "4k-writeback" && k.name != "1k" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			image := makeImage(t, k.args, "1G")
			l := &ledger{hashes: map[string]string{}}
			for i := range (rounds + 1) / 2 {
				if !killRound(t, k, image, l, rand.New(rand.NewPCG(seed+uint64(i), 5)), i) {
					return
				}
			}
			t.Logf("%d files at the end", len(l.hashes))
		})
	}
}

// workloads run until the file system is gone, in a directory of their own, which
// may be there from another time. What they print goes into the ledger.
var workloads = []struct{ name, script string }{
	{"random", ""},
	{"sqlite-wal", sqliteScript("wal")},
	{"sqlite-delete", sqliteScript("delete")},
	{"git", `
git init -q . 2>/dev/null; rm -f .git/*.lock .git/refs/heads/*.lock
git config user.email a@b.c; git config user.name n; git config core.fsync all; git config core.fsyncMethod fsync; git config gc.auto 20
for i in $(seq 1 1000); do
	for j in 1 2 3 4 5; do echo $RANDOM $i $j >f$j.$((RANDOM % 30)) || exit; done
	git add -A && git commit -q -m $i && h=$(git rev-parse HEAD) && sync .git/refs/heads && echo "git $h" || exit # git does not fsync the directory
done`},
	{"tar", `for i in $(seq 1 1000); do rm -rf usr; tar cf - /usr/include/linux /usr/lib/git-core/mergetools 2>/dev/null | tar xf - || exit; done`},
	{"rewrite", `for i in $(seq 1 10000); do dd if=/dev/zero of=big bs=64k count=64 conv=notrunc status=none || exit; truncate -s $((RANDOM * 100)) big || exit; fallocate -p -o $((RANDOM * 8)) -l 100000 big || exit; done`},
}

// sqliteScript commits numbers to a data base, and says each that it has committed.
func sqliteScript(mode string) string {
	return `
{ echo "PRAGMA journal_mode=` + mode + `; PRAGMA synchronous=EXTRA; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x TEXT);"
  for i in $(seq 1 3000); do echo "BEGIN; INSERT INTO t(x) VALUES(hex(randomblob(500))); DELETE FROM t WHERE id % 7 = 3 AND id < (SELECT max(id) FROM t) - 50; COMMIT; SELECT 'db ' || max(id) FROM t;"; done
} | sqlite3 -bail db`
}

// A ledger is what must be there after a crash.
type ledger struct {
	mu     sync.Mutex
	hashes map[string]string // guarded by mu: file, below the mount, to hash of its contents, "" for none
}

// read takes lines: "+ FILE HASH", "- FILE" (from now on nothing is certain), "db N", "git HASH".
func (l *ledger) read(dir string, r io.Reader) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		l.mu.Lock()
		switch {
		case len(f) == 3 && f[0] == "+":
			l.hashes[dir+"/"+f[1]] = f[2]
		case len(f) == 2 && f[0] == "-":
			delete(l.hashes, dir+"/"+f[1])
		case len(f) == 2 && (f[0] == "db" || f[0] == "git"):
			l.hashes[dir+"/"+f[0]] = f[1]
		}
		l.mu.Unlock()
	}
}

func killRound(t *testing.T, k kind, image string, l *ledger, rng *rand.Rand, round int) bool {
	m := serve(t, image, k.mount)
	work := workloads[round%len(workloads)]
	var wg sync.WaitGroup
	var stops []func()
	start := func(dir string, cmd *exec.Cmd) {
		at := filepath.Join(m.dir, dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
		wg.Go(func() {
			l.read(dir, out)
			_ = cmd.Wait()
		})
	}
	for i := range 3 {
		dir := fmt.Sprint("writer", i)
		start(dir, role(t, "writer", filepath.Join(m.dir, dir), fmt.Sprint(rng.Uint32())))
	}
	if work.script != "" {
		cmd := exec.Command("bash", "-c", "cd "+filepath.Join(m.dir, work.name)+" || exit; "+work.script)
		start(work.name, cmd)
	} else {
		if err := os.MkdirAll(filepath.Join(m.dir, work.name), 0o755); err != nil {
			t.Fatal(err)
		}
		w := employ(t, users[0], filepath.Join(m.dir, work.name))
		g := newGenerator(rng.Uint64(), []string{".", "d0", "d1", "d0/s"})
		wg.Go(func() {
			defer w.stop()
			for {
				r, err := w.do(g.next())
				if err != nil || r.Errno == unix.ENOTCONN || r.Errno == unix.ECONNABORTED {
					return
				}
			}
		})
	}
	time.Sleep(time.Duration(100+rng.IntN(2000)) * time.Millisecond)
	m.kill(t)
	for _, stop := range stops {
		stop()
	}
	wg.Wait()
	m.detach(t)

	by := "kernel"
	if round/len(workloads)%2 == round%2 {
		by = "e4go"
	}
	what := fmt.Sprintf("round %d, %s, recovered by %s", round, work.name, by)
	if by == "kernel" {
		dir, done := fixtures.MountKernelWrite(t, image, k.options)
		l.check(t, dir, what)
		done()
	} else {
		m := serve(t, image, k.mount)
		l.check(t, m.dir, what)
		m.umount(t)
		m.quiet(t)
	}
	sound(t, image)
	if t.Failed() {
		t.Logf("%s", what)
		if keep := os.Getenv("E4GO_KEEP"); keep != "" {
			_ = fixtures.CopySparse(keep, image)
		}
	}
	return !t.Failed()
}

// check looks for all that the ledger has below dir.
func (l *ledger) check(t *testing.T, dir, what string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(l.hashes)) {
		want := l.hashes[name]
		at := filepath.Join(dir, name)
		switch filepath.Base(name) {
		case "db":
			out, err := exec.Command("sqlite3", at, "PRAGMA integrity_check; SELECT max(id) FROM t;").CombinedOutput()
			f := strings.Fields(string(out))
			if err != nil || len(f) != 2 || f[0] != "ok" {
				t.Errorf("%s: %s: %v\n%s", what, name, err, out)
				continue
			}
			have, _ := strconv.Atoi(f[1])
			if committed, _ := strconv.Atoi(want); have < committed {
				t.Errorf("%s: %s has rows up to %d, and %d was committed", what, name, have, committed)
			}
		case "git":
			at := filepath.Dir(at)
			out, err := exec.Command("git", "-C", at, "-c", "safe.directory=*", "fsck", "--full", "--strict").CombinedOutput()
			if err != nil {
				t.Errorf("%s: git fsck: %v\n%s", what, err, out)
			}
			if out, err := exec.Command("git", "-C", at, "-c", "safe.directory=*", "merge-base", "--is-ancestor", want, "HEAD").CombinedOutput(); err != nil {
				t.Errorf("%s: commit %s is not in HEAD: %v\n%s", what, want, err, out)
			}
		default:
			b, err := os.ReadFile(at)
			if got := fmt.Sprintf("%x", sha256.Sum256(b)); err != nil || got != want {
				t.Errorf("%s: %s: %v, %d bytes, not those that were fsynced", what, name, err, len(b))
			}
		}
	}
}

// logged writes files in the directory that the command line names, by all ways, and says of
// each what it is when it is durable, until something fails.
func logged(out *os.File) {
	dir := os.Args[1]
	seed, _ := strconv.ParseUint(os.Args[2], 10, 64)
	rng := rand.New(rand.NewPCG(seed, 9))
	have := map[string][]byte{}
	for {
		name := fmt.Sprint("f", rng.IntN(60))
		if err := logOne(rng, out, dir, name, have); err != nil {
			return
		}
	}
}

func logOne(rng *rand.Rand, out *os.File, dir, name string, have map[string][]byte) error {
	say := func(format string, args ...any) error {
		_, err := fmt.Fprintf(out, format+"\n", args...)
		return err
	}
	at := filepath.Join(dir, name)
	data := make([]byte, rng.IntN(1<<uint(4+rng.IntN(16))))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	sync := func(f *os.File) error {
		if rng.IntN(3) == 0 {
			return unix.Fdatasync(int(f.Fd()))
		}
		return f.Sync()
	}
	done := func(f *os.File, data []byte) error {
		err := sync(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		have[name] = data
		return say("+ %s %x", name, sha256.Sum256(data))
	}
	if err := say("- %s", name); err != nil {
		return err
	}
	old, ok := have[name]
	switch what := rng.IntN(6); {
	case what == 0 || !ok: // a new file in its place
		tmp := at + ".tmp"
		if err := errors.Join(writeDurably(tmp, data), os.Rename(tmp, at)); err != nil {
			return err
		}
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return done(d, data)
	case what == 1:
		delete(have, name)
		return os.Remove(at)
	case what == 2: // appended to
		f, err := os.OpenFile(at, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
		return done(f, append(slices.Clip(old), data...))
	case what == 3: // cut, or longer
		f, err := os.OpenFile(at, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		n := rng.IntN(2*len(old) + 1)
		if err := f.Truncate(int64(n)); err != nil {
			return err
		}
		return done(f, append(slices.Clip(old), make([]byte, max(0, n-len(old)))...)[:n])
	case what == 4 && len(old) > 0: // through a mapping
		f, err := os.OpenFile(at, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, len(old), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		data := bytes.Clone(old)
		from := rng.IntN(len(old))
		for i := from; i < len(old); i++ {
			data[i] ^= 0x55
		}
		copy(m[from:], data[from:])
		if err := unix.Munmap(m); err != nil {
			return err
		}
		return done(f, data)
	}
	f, err := os.OpenFile(at, os.O_RDWR, 0) // in the middle
	if err != nil {
		return err
	}
	off := rng.IntN(len(old) + 10_000)
	if _, err := f.WriteAt(data, int64(off)); err != nil {
		return err
	}
	now := append(slices.Clip(old), make([]byte, max(0, off+len(data)-len(old)))...)
	if len(data) == 0 {
		now = old
	}
	copy(now[min(off, len(now)):], data)
	return done(f, now)
}

func writeDurably(name string, data []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

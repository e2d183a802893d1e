package commands

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"e4go/fixtures/tourimage"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary be e4go when a script calls it so.
func TestMain(m *testing.M) {
	main := func() { os.Exit(Main()) }
	testscript.Main(m, map[string]func(){programName: main, "mount.e4go": main, "mount.fuse.e4go": main, "umount.fuse.e4go": main})
}

// TestScripts runs the scripts in testdata/script. With E4GO_UPDATE=1 what they
// compare output with is written.
// Words of ours:
//
//	image FILE            makes the image of e4go tour
//	poke FILE OFF BYTE    changes the byte at OFF
//	fill FILE OFF N BYTE  changes N bytes
//	status N PROG ARGS    runs PROG, which must exit with N
//	clean FILE            e2fsck finds nothing in FILE
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("E4GO_UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Defer(func() { unmountBelow(env.WorkDir) }) // what a script that fails has mounted
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"image": func(ts *testscript.TestScript, neg bool, args []string) {
				wantWords(ts, neg, args, 1)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), tourimage.New(), 0o644))
			},
			"poke": func(ts *testscript.TestScript, neg bool, args []string) {
				wantWords(ts, neg, args, 3)
				change(ts, args[0], args[1], "1", args[2])
			},
			"fill": func(ts *testscript.TestScript, neg bool, args []string) {
				wantWords(ts, neg, args, 4)
				change(ts, args[0], args[1], args[2], args[3])
			},
			"status": status,
			"clean":  clean,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "fuse" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return canMount()
		},
	})
}

// unmountBelow takes all mounts in dir out of the directory tree.
func unmountBelow(dir string) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], dir+"/") {
			unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
}

// canMount reports whether this system lets us mount; it is an error if all
// judges are wanted and it does not.
func canMount() (bool, error) {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	ok := err == nil && os.Geteuid() == 0
	if !ok && os.Getenv("E4GO_TEST_NEED") == "all" {
		return false, fmt.Errorf("mounting needs root and /dev/fuse (%v)", err)
	}
	return ok, nil
}

func wantWords(ts *testscript.TestScript, neg bool, args []string, n int) {
	if neg || len(args) != n {
		ts.Fatalf("got %d words, want %d, and no !", len(args), n)
	}
}

func change(ts *testscript.TestScript, file, off, count, value string) {
	num := func(s string) int64 {
		n, err := strconv.ParseInt(s, 0, 64)
		ts.Check(err)
		return n
	}
	f, err := os.OpenFile(ts.MkAbs(file), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	_, err = f.WriteAt([]byte(strings.Repeat(string([]byte{byte(num(value))}), int(num(count)))), num(off))
	ts.Check(err)
}

// status runs a program whose exit status is given first.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("got %q, want a status and a command", args)
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if want := args[0]; fmt.Sprint(got) != want {
		ts.Fatalf("exit status %d, want %s", got, want)
	}
}

// clean IMAGE wants e2fsck to find nothing.
func clean(ts *testscript.TestScript, neg bool, args []string) {
	wantWords(ts, neg, args, 1)
	if _, err := exec.LookPath("e2fsck"); err != nil && os.Getenv("E4GO_TEST_NEED") == "" {
		ts.Logf("SKIPPED: e2fsck is not here to check %s", args[0])
		return
	}
	out, err := exec.Command("e2fsck", "-fn", ts.MkAbs(args[0])).CombinedOutput()
	if err != nil {
		ts.Fatalf("e2fsck: %v: %s", err, out)
	}
}

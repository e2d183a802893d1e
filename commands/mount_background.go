package commands

import (
	"fmt"
	"io"
	"log"
	"log/syslog"
	"os"
	"runtime"
	"strconv"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// readyEnv numbers the descriptor on which a server in the background says
// that the mount answers.
const readyEnv = "E4GO_MOUNT_READY"

// defaultOOM is the oom_score_adj of a server that writes, if it may have it: what others have
// not made durable yet goes with it.
const defaultOOM = -500

// spare says how soon the kernel is to kill us when memory is short.
func (r *mountRequest) spare() error {
	n := defaultOOM
	if r.oom != nil {
		n = *r.oom
	} else if r.write == writeNever {
		return nil
	}
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(n)), 0)
	if r.oom != nil && err != nil {
		return fmt.Errorf("oom_score_adj=%d: %v: to lower it takes root", n, err)
	}
	return nil
}

// logger is where complaints go once the command line has returned.
func (r *mountRequest) logger(c *cli.Context, background bool) (*log.Logger, func(), error) {
	none := func() {}
	switch {
	case r.log != "":
		f, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, err
		}
		return log.New(f, "", log.LstdFlags), func() { f.Close() }, nil
	case background:
		w, err := syslog.New(syslog.LOG_WARNING|syslog.LOG_DAEMON, programName)
		if err != nil { // no daemon listens: nobody would read it
			return log.New(io.Discard, "", 0), none, nil
		}
		return log.New(w, "", 0), func() { w.Close() }, nil
	}
	return log.New(out(c).stderr, programName+" mount: ", 0), none, nil
}

// readyPipe is the pipe to the process that started us in the background, nil
// in the foreground.
func readyPipe() *os.File {
	if os.Getenv(readyEnv) == "" {
		return nil
	}
	unix.CloseOnExec(3)
	return os.NewFile(3, "ready")
}

// detach tells the waiting process that the mount answers, and leaves its
// terminal and its directory.
func (r *mountRequest) detach(ready *os.File) error {
	if ready == nil {
		return nil
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("report to the waiting process: %w", err)
	}
	if err := ready.Close(); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("leave the terminal: %w", err)
		}
	}
	return os.Chdir("/")
}

// background starts this program again with -f in a session of its own, and
// waits until the mount answers or the program ends.
func background(c *cli.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return exit(mountSystem, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return exit(mountSystem, err)
	}
	defer r.Close()
	args := []string{programName, c.Command.Name, "-f"}
	for _, o := range c.StringSlice("options") {
		args = append(args, "-o", o)
	}
	for _, flag := range []string{"json", "sloppy"} {
		if c.Bool(flag) {
			args = append(args, "--"+flag)
		}
	}
	args = append(append(args, "--"), c.Args().Slice()...)
	// The server must not wait for memory that only it can free, by writing: what this says of a
	// thread is true of its children, and so of all of theirs. It wants CAP_SYS_RESOURCE.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
	p, err := os.StartProcess(exe, args, &os.ProcAttr{
		Env:   append(os.Environ(), readyEnv+"=1"),
		Files: []*os.File{nil, os.Stdout, os.Stderr, w},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return exit(mountSystem, fmt.Errorf("start the server: %w", err))
	}
	if n, _ := r.Read(make([]byte, 1)); n == 1 {
		return p.Release()
	}
	st, err := p.Wait()
	if err != nil {
		return exit(mountSystem, err)
	}
	if st.ExitCode() <= 0 { // killed, or it went without a word
		return exit(mountFailed, fmt.Errorf("the server ended before the mount answered: %v", st))
	}
	return exit(st.ExitCode(), nil) // it has said why
}

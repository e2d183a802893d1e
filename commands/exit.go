package commands

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/ext4/jbd2"
	"e4go/iomap/ext4map"

	"golang.org/x/sys/unix"
)

// The exit statuses. They may be added to, and never change their meaning.
const (
	exitOK          = 0
	exitFindings    = 1
	exitTrouble     = 2
	exitCorrupt     = 4
	exitUnsupported = 5
	exitInUse       = 6
	exitKernel      = 7
	exitInterrupted = 130
	exitPipe        = 141
)

const exitCodesTopic = `Exit status of e4go, except for mount, umount and fsck-lite, which keep the bits of mount(8) and fsck(8):

  0    done
  1    differs, or findings: a comparison or a check has found something
  2    wrong usage, or trouble: no such file, an I/O error, a missing journal
  4    the image is damaged; standard error says where
  5    the image has, or the call needs, something that e4go cannot do
  6    the image is in use by someone else
  7    the kernel lacks what is needed, or refuses it
  130  interrupted
  141  whoever read the output has gone (as for SIGPIPE)

A damaged image takes precedence over findings, unless finding damage is what was asked for (dumpextents --check).
With --json, the "error" object has the status as "exit".
`

// statusError is an error with a status of its own.
type statusError struct {
	status int
	err    error // nil: the output has said it
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// exit returns an error that ends e4go with status; err is what to print, or
// nil if the output has said it.
func exit(status int, err error) error { return &statusError{status, err} }

// errInterrupted is what a run ends with after SIGINT or SIGTERM.
var errInterrupted = errors.New("interrupted")

// usageError is a command line that makes no sense.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

// usageHint is usagef with what to do next.
func usageHint(hint, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), hint: hint}
}

// kernelError is something that this kernel, or the file system driver behind
// a path, does not do.
type kernelError struct {
	err  error
	hint string
}

func (e *kernelError) Error() string { return e.err.Error() }
func (e *kernelError) Unwrap() error { return e.err }

// pathError is an error about a file that the user named.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string {
	text := e.err.Error()
	if strings.HasPrefix(text, e.path+": ") {
		return text // it begins with the path already
	}
	return e.path + ": " + text
}

func (e *pathError) Unwrap() error { return e.err }

// class is what kind of error it is, in one word for programs, with its exit status.
type class struct {
	kind   string
	status int
}

// classify is the one place where errors become exit statuses.
func classify(err error) class {
	var (
		status      *statusError
		usage       *usageError
		kernel      *kernelError
		unsupported *ext4.UnsupportedError
		op          *ext4map.UnsupportedOpError
		inUse       *blockdev.InUseError
		journal     *jbd2.WrongJournalError
		log         *jbd2.UnsupportedError
		check       *fsck.UnsupportedError
		nothing     *fsck.NoFilesystemError
	)
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return class{"", exitOK}
	case errors.As(err, &status):
		c := class{"findings", status.status}
		if status.err != nil {
			c.kind = classify(status.err).kind
		}
		return c
	case is(errInterrupted, context.Canceled):
		return class{"interrupted", exitInterrupted}
	case errors.As(err, &usage):
		return class{"usage", exitTrouble}
	case is(unix.EPIPE):
		return class{"pipe", exitPipe}
	case is(disk.ErrCorrupt), errors.As(err, &nothing):
		return class{"corrupt", exitCorrupt}
	case errors.As(err, &kernel):
		return class{"kernel", exitKernel}
	case errors.As(err, &unsupported), errors.As(err, &op), errors.As(err, &log), errors.As(err, &check):
		return class{"unsupported", exitUnsupported}
	case is(unix.ENOKEY):
		return class{"encrypted", exitUnsupported}
	case errors.As(err, &inUse):
		return class{"in-use", exitInUse}
	case errors.As(err, &journal):
		return class{"journal", exitTrouble}
	case is(unix.ENOENT, fs.ErrNotExist):
		return class{"not-found", exitTrouble}
	case is(unix.EACCES, unix.EPERM):
		return class{"permission", exitTrouble}
	}
	return class{"io", exitTrouble}
}

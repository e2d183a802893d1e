package commands

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/ext4/jbd2"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// finish ends the output of a run that ended with err, and returns the exit
// status: with --json it closes the document, with the error in it; else it
// prints the error to standard error.
func (o *output) finish(cmd *cli.Command, err error) int {
	if err == nil || isSilent(err) {
		if werr := o.close(nil); werr != nil && (err == nil || classify(werr).kind != "pipe") {
			found := classify(err).status
			err = withStatus(cmd, werr)
			if found != 0 && cmd != nil && cmd.Name == "fsck-lite" {
				err = exit(found|classify(err).status, werr) // bits, which add up
			}
		}
		if err == nil || isSilent(err) {
			return classify(err).status
		}
	}
	c := classify(err)
	if c.kind == "pipe" {
		return c.status
	}
	if o.json && o.close(err) == nil {
		return c.status
	}
	o.close(nil) // what was printed before the error is worth seeing
	o.complain(cmd, err)
	return c.status
}

// isSilent reports whether the output has said all there is to say.
func isSilent(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.err == nil
}

// complain prints err to standard error: what, where, why, and what to do next.
func (o *output) complain(cmd *cli.Command, err error) {
	name := programName
	if cmd != nil {
		name += " " + cmd.Name
	}
	fmt.Fprintf(o.stderr, "%s: %s\n", name, o.styles.bad(errorText(err)))
	if next := hint(cmd, err); next != "" {
		fmt.Fprintf(o.stderr, "%s: %s\n", name, next)
	}
}

// warn prints something to standard error that does not end the run.
func (o *output) warn(cmd *cli.Command, format string, args ...any) {
	if o.json {
		return // the document has it
	}
	fmt.Fprintf(o.stderr, "%s %s: %s\n", programName, cmd.Name, fmt.Sprintf(format, args...))
}

// errorText is err in one line.
func errorText(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// mountWords are the options of mount that are flags of other commands.
var mountWords = strings.NewReplacer("--journal PATH", "-o journal=PATH", "--no-recovery", "-o ro,norecovery",
	"--offset", "-o offset=N", "--superblock", "-o ro,sb=N")

// hint says what the user may do about err, or "".
func hint(cmd *cli.Command, err error) string {
	next := anyHint(cmd, err)
	if cmd != nil && cmd.Name == "mount" {
		next = mountWords.Replace(next)
	}
	return next
}

func anyHint(cmd *cli.Command, err error) string {
	var (
		usage       *usageError
		kernel      *kernelError
		journal     *jbd2.WrongJournalError
		unsupported *ext4.UnsupportedError
	)
	switch {
	case errors.As(err, &usage):
		switch {
		case usage.hint != "":
			return usage.hint
		case cmd != nil:
			return "see e4go help " + cmd.Name
		}
		return "see e4go help"
	case errors.As(err, &kernel):
		return kernel.hint
	case errors.As(err, &journal):
		return "give the external journal with --journal PATH, or see the state on the device with --no-recovery"
	case errors.As(err, &unsupported) && (cmd == nil || cmd.Name != "info"):
		return "e4go info still shows the superblock"
	case errors.Is(err, unix.ENOKEY):
		return "ls, stat, dumpextents and fiemap work without the key"
	case isBadMagic(err):
		return "no ext4 here: for a partition of a disk image give its start with --offset, for a damaged superblock a backup with --superblock"
	case errors.Is(err, disk.ErrCorrupt):
		return "e2fsck -fn shows what else is damaged"
	case errors.Is(err, unix.EACCES) && os.Geteuid() != 0:
		return "block devices and images of others want root"
	}
	return ""
}

func isBadMagic(err error) bool {
	var c *disk.CorruptError
	var nothing *fsck.NoFilesystemError
	return errors.As(err, &c) && c.Field == "s_magic" || errors.As(err, &nothing)
}

// errorObject writes err as the object that docs/JSON.md describes.
func (o *output) errorObject(cmd *cli.Command, err error) {
	c := classify(err)
	o.obj()
	o.kStr("kind", c.kind)
	o.kStr("message", errorText(err))
	var corrupt *disk.CorruptError
	var path *pathError
	var osPath *fs.PathError
	if errors.As(err, &path) {
		o.kStr("path", path.path)
	} else if errors.As(err, &osPath) {
		o.kStr("path", osPath.Path)
	}
	if errors.As(err, &corrupt) {
		o.corruptFields(corrupt)
	}
	var unsupported *ext4.UnsupportedError
	if errors.As(err, &unsupported) && unsupported.Incompat != 0 {
		o.kStrs("features", unsupported.Incompat.Names())
	}
	if next := hint(cmd, err); next != "" {
		o.kStr("next", next)
	}
	o.kInt("exit", int64(c.status))
	o.end()
}

// corruptFields writes the fields of a corruption: what, where, have and want.
func (o *output) corruptFields(e *disk.CorruptError) {
	o.kStr("what", fmt.Sprintf("%s %d", e.Struct, e.Num))
	o.key("where")
	o.obj()
	o.kUint("block", uint64(e.Block))
	o.kInt("offset", int64(e.Off))
	o.kStr("field", e.Field)
	o.end()
	o.kStr("have", e.Have)
	o.kStr("want", e.Want)
}

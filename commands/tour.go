package commands

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"e4go/fixtures"

	"github.com/urfave/cli/v2"
)

var tourCommand = &cli.Command{
	Name:  "tour",
	Usage: "show each command on an image made for it",
	Description: `Makes a small image in a temporary directory, whose journal holds a file that
was saved just before a power cut, and shows what each command says of it. Where
/dev/fuse may be used, the image is mounted, listed and unmounted. Everything
that was made is removed. It needs nothing but this program.

Exit status:
  0 done; 2 a step failed.`,
	Action: runTour,
}

// A tourStep is a command of e4go and why one would want it.
type tourStep struct {
	why  string
	line string
}

var tourSteps = []tourStep{
	{"What is in this image? Its journal was not clean: it has been replayed, in memory only.", "info disk.img"},
	{"Look around without mounting.", "ls -l -i disk.img /"},
	{"The file that only the journal knew.", "cat -i disk.img /after-the-crash.txt"},
	{"Everything that an inode holds.", "stat -i disk.img /attributes.txt"},
	{"The first rows of a file's extent tree, for programs.", "dumpextents -i disk.img --leaves --plain /extents.dat"},
	{"Does the tree keep all rules? No line means yes.", "dumpextents -i disk.img --check --plain --internal /extents.dat"},
	{"An indirect map, in the same form.", "dumpextents -i disk.img /indirect.dat"},
	{"What FS_IOC_FIEMAP would say.", "fiemap -i disk.img --holes --length 8k /extents.dat"},
	{"What mapping would an iomap server hand the kernel for a read at byte 18500?", "iomap-probe -i disk.img --op read --count 4096 /extents.dat 18500"},
}

// tourLines is how much of a long answer is shown.
const tourLines = 24

func runTour(c *cli.Context) (err error) {
	dir, err := os.MkdirTemp("", "e4go-tour-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, fixtures.Tour(), 0o644); err != nil {
		return err
	}
	o := out(c)
	for _, s := range tourSteps {
		if err := tourStepRun(c, o, image, s); err != nil {
			return err
		}
	}
	if err := tourMount(c, o, image, filepath.Join(dir, "mnt")); err != nil {
		return err
	}
	o.line("\nThat was the tour. e4go help COMMAND is the manual of each command.")
	return nil
}

// tourStepRun shows a command line and the start of what it prints.
func tourStepRun(c *cli.Context, w io.Writer, image string, s tourStep) error {
	fmt.Fprintf(w, "\n# %s\n$ e4go %s\n", s.why, s.line)
	args := []string{programName}
	for _, word := range strings.Fields(s.line) {
		if word == "disk.img" {
			word = image
		}
		args = append(args, word)
	}
	var text strings.Builder
	if status := run(c.Context, args, &text, out(c).stderr); status != 0 {
		return fmt.Errorf("e4go %s: exit status %d", s.line, status)
	}
	lines := strings.SplitAfter(strings.ReplaceAll(text.String(), image, "disk.img"), "\n")
	for i, line := range lines {
		if i == tourLines && len(lines) > tourLines+2 {
			fmt.Fprintf(w, "... %d more lines\n", len(lines)-tourLines-1)
			break
		}
		io.WriteString(w, line)
	}
	return nil
}

// tourMount mounts the image where that is possible, lists it and unmounts it.
func tourMount(c *cli.Context, w io.Writer, image, mnt string) (err error) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		fmt.Fprintf(w, "\n# Mounting is left out: %v\n", err)
		return nil
	} else if err := f.Close(); err != nil {
		return err
	}
	if err := os.Mkdir(mnt, 0o755); err != nil {
		return err
	}
	fmt.Fprint(w, "\n# Mount it, read-only, and let any program read it.\n$ e4go mount -o ro disk.img mnt\n")
	if status := run(c.Context, []string{programName, "mount", "-o", "ro", image, mnt}, w, out(c).stderr); status != 0 {
		fmt.Fprintf(w, "# This system does not let us mount (exit status %d): left out.\n", status)
		return nil
	}
	defer func() {
		fmt.Fprint(w, "$ e4go umount mnt\n")
		if status := run(c.Context, []string{programName, "umount", mnt}, w, out(c).stderr); status != 0 {
			err = errors.Join(err, fmt.Errorf("e4go umount: exit status %d", status))
		}
	}()
	fmt.Fprint(w, "$ ls mnt; cat mnt/after-the-crash.txt\n")
	list, err := os.ReadDir(mnt)
	if err != nil {
		return err
	}
	for _, e := range list {
		fmt.Fprintf(w, "%s  ", e.Name())
	}
	b, err := os.ReadFile(filepath.Join(mnt, "after-the-crash.txt"))
	fmt.Fprintf(w, "\n%s", b)
	return err
}

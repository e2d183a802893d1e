package commands

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"e4go/fixtures/tourimage"

	"github.com/urfave/cli/v2"
)

var tourCommand = &cli.Command{
	Name:  "tour",
	Usage: "show each command on an image made for it",
	Description: `Makes small images in a temporary directory, one from a directory and one
whose journal holds a file that was saved just before a power cut, and shows what
each command says of them. Where /dev/fuse may be used, the latter is mounted,
listed and unmounted. Everything that was made is removed. It needs nothing but
this program.

Exit status:
  0 done; 2 a step failed.`,
	Flags: []cli.Flag{
		jsonFlag(),
	},
	Action: runTour,
}

// tourSteps are commands of e4go and why one would want them.
var tourSteps = []struct {
	why, line string
	status    int
}{
	{"Make an image that holds a directory, in the smallest size, without root or a mount.", "mkimage -d tree made.img", 0},
	{"It is the same, byte for byte, each time that it is made of the same files.", "ls -R -l -i made.img", 0},
	{"Is it sound? Everything is checked, and nothing is changed.", "fsck-lite made.img", 0},
	{"Another image, after a power cut. Its journal was not clean: it has been replayed, in memory only.", "info disk.img", 0},
	{"Look around without mounting.", "ls -l -i disk.img /", 0},
	{"The file that only the journal knew.", "cat -i disk.img /after-the-crash.txt", 0},
	{"Everything that an inode holds.", "stat -i disk.img /attributes.txt", 0},
	{"The first rows of a file's extent tree, for programs.", "dumpextents -i disk.img --leaves --plain /extents.dat", 0},
	{"Does the tree keep all rules? No line means yes.", "dumpextents -i disk.img --check --plain --internal /extents.dat", 0},
	{"An indirect map, in the same form.", "dumpextents -i disk.img /indirect.dat", 0},
	{"What FS_IOC_FIEMAP would say.", "fiemap -i disk.img --holes --length 8k /extents.dat", 0},
	{"What mapping would an iomap server hand the kernel for a read at byte 18500?", "iomap-probe -i disk.img --op read --count 4096 /extents.dat 18500", 0},
	{"It is sound, too: what its journal will mend is no damage.", "fsck-lite disk.img", 0},
	{"A copy with a few bytes changed: what stands there, what should, whom it harms.", "fsck-lite damaged.img", fsckLeft},
}

// tourLines is how much of a long answer is shown to people.
const tourLines = 24

// A tour shows command lines and what they print.
type tour struct {
	c   *cli.Context
	o   *output
	dir string // where disk.img and mnt are
}

func runTour(c *cli.Context) (err error) {
	dir, err := os.MkdirTemp("", "e4go-tour-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := &tour{c: c, o: out(c), dir: dir}
	if err := os.WriteFile(t.path("disk.img"), tourimage.New(), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(t.path("damaged.img"), tourimage.Damaged(), 0o644); err != nil {
		return err
	}
	if err := t.makeTree(); err != nil {
		return err
	}
	if t.o.json {
		t.o.kArr("steps")
	}
	for _, s := range tourSteps {
		if status, err := t.e4go(s.why, s.line); err != nil {
			return err
		} else if status != s.status {
			return fmt.Errorf("e4go %s: exit status %d, want %d", s.line, status, s.status)
		}
	}
	if err := t.mount(); err != nil {
		return err
	}
	if !t.o.json {
		t.o.line("\nThat was the tour. e4go help COMMAND is the manual of each command.")
	}
	return nil
}

func (t *tour) path(name string) string { return filepath.Join(t.dir, name) }

// makeTree makes the directory that becomes an image.
func (t *tour) makeTree() error {
	when := time.Unix(1_700_000_000, 0)
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"etc", "", os.ModeDir | 0o755},
		{"etc/hostname", "tour\n", 0o644},
		{"bin", "", os.ModeDir | 0o755},
		{"bin/hello", "#!/bin/sh\necho hello\n", 0o755},
		{"", "", os.ModeDir | 0o755},
	} {
		path := filepath.Join(t.path("tree"), f.name)
		var err error
		if f.mode.IsDir() {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(f.text), 0o644)
		}
		if err = errors.Join(err, os.Chmod(path, f.mode)); err != nil {
			return err
		}
		defer os.Chtimes(path, when, when) // last of all in a directory
	}
	return nil
}

// e4go runs a command line of e4go in which the tree, the images and mnt are the tour's,
// and shows what it prints.
func (t *tour) e4go(why, line string) (status int, err error) {
	args := []string{programName}
	for _, word := range strings.Fields(line) {
		switch word {
		case "tree", "made.img", "disk.img", "damaged.img", "mnt":
			word = t.path(word)
		}
		args = append(args, word)
	}
	var text strings.Builder
	status = run(t.c.Context, args, &text, t.o.stderr)
	return status, t.show(why, programName+" "+line, status, strings.ReplaceAll(text.String(), t.dir+"/", ""))
}

// show shows a command line and the start of what it has printed.
func (t *tour) show(why, line string, status int, text string) error {
	o := t.o
	if o.json {
		o.obj()
		o.kStr("why", why)
		o.kStr("command", line)
		o.kInt("status", int64(status))
		o.kStr("output", text)
		o.end()
		return o.fail()
	}
	if why != "" {
		o.line("\n# " + why)
	}
	o.line("$ " + line)
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if i == tourLines && len(lines) > tourLines+2 {
			o.line(fmt.Sprintf("... %d more lines", len(lines)-tourLines-1))
			break
		}
		o.str(line)
		o.lined()
	}
	return o.fail()
}

// mount mounts the image where that is possible, lists it and unmounts it.
func (t *tour) mount() (err error) {
	leftOut := func(why string) error {
		if !t.o.json {
			t.o.line("\n# Mounting is left out: " + why)
		}
		return nil
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return leftOut(err.Error())
	}
	if err := f.Close(); err != nil {
		return err
	}
	mnt := t.path("mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		return err
	}
	status, err := t.e4go("Mount it, read-only, and let any program read it.", "mount -o ro disk.img mnt")
	if err != nil {
		return err
	}
	if status != 0 {
		return leftOut(fmt.Sprintf("this system does not let us (exit status %d)", status))
	}
	defer func() {
		status, uerr := t.e4go("", "umount mnt")
		if status != 0 {
			uerr = errors.Join(uerr, fmt.Errorf("e4go umount: exit status %d", status))
		}
		err = errors.Join(err, uerr)
	}()
	list, err := os.ReadDir(mnt)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, e := range list {
		text.WriteString(e.Name() + "  ")
	}
	b, err := os.ReadFile(filepath.Join(mnt, "after-the-crash.txt"))
	if err != nil {
		return err
	}
	return t.show("", "ls mnt; cat mnt/after-the-crash.txt", 0, text.String()+"\n"+string(b))
}

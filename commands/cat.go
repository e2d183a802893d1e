package commands

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

var catCommand = &cli.Command{
	Name:      "cat",
	Usage:     "print the contents of files",
	ArgsUsage: "FILE...",
	Description: `Copies the contents of each FILE to standard output, holes as zeros. With
--range, only LEN bytes of each from byte START on, or all from there without LEN.

With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number
(12 or <12>); without one, it is a path on a mounted ext4, whose device is then
read. Symbolic links are followed. Directories are refused.

Contents go to standard output as they are; with --json they come as
"encoding" (text or hex) and "value", for files up to 16 MiB.

Examples:
  e4go cat -i disk.img /etc/fstab
  e4go cat -i disk.img --range 1m:512 12 | xxd
  e4go cat -i disk.img /var/log/syslog | tail

Exit status:
  0 printed; 2 trouble; 4 damage was met; 5 contents are encrypted.
  See e4go help exit-codes.`,
	Flags: append(append([]cli.Flag{
		&cli.StringFlag{Name: "range", Usage: "only the bytes `START:LEN`; both may end in k, m, g"},
	}, imageFlags()...), outputFlags(false)...),
	Action: runCat,
}

func runCat(c *cli.Context) error {
	args, err := someArgs(c)
	if err != nil {
		return err
	}
	start, length, err := parseRange(c.String("range"))
	if err != nil {
		return err
	}
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	o := out(c)
	if o.json {
		o.kArr("files")
	}
	for _, a := range args {
		f, err := s.file(a, true)
		if err == nil {
			err = copyFile(o, f, start, length)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseRange understands START:LEN; what is missing is 0 and everything.
func parseRange(s string) (start, length int64, err error) {
	length = math.MaxInt64
	if s == "" {
		return 0, length, nil
	}
	a, b, both := strings.Cut(s, ":")
	n, err := parseSize(a)
	if err != nil {
		return 0, 0, usagef("--range: START: %v", err)
	}
	if both && b != "" {
		m, err := parseSize(b)
		if err != nil {
			return 0, 0, usagef("--range: LEN: %v", err)
		}
		length = int64(m)
	}
	return int64(n), length, nil
}

const (
	catChunk   = 1 << 20
	catJSONMax = 16 << 20
)

// copyFile prints the bytes of f from start on, length at most.
func copyFile(o *output, f *file, start, length int64) error {
	switch f.Type() {
	case disk.ModeReg:
	case disk.ModeDir:
		return &pathError{f.path, fmt.Errorf("it is a directory, want a file: %w", unix.EISDIR)}
	default:
		return &pathError{f.path, fmt.Errorf("it is a %s, want a file: %w", f.Disk().Mode.FileType(), unix.EINVAL)}
	}
	end := f.Size()
	if length < end-start {
		end = start + length
	}
	if o.json {
		return catObject(o, f, start, end)
	}
	buf := make([]byte, min(catChunk, max(1, end-start)))
	for at := start; at < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
		if _, werr := o.Write(buf[:n]); werr != nil {
			return werr
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return &pathError{f.path, fmt.Errorf("read at byte %d: %w", at, err)}
		}
		if !o.ok() {
			return o.fail()
		}
	}
	return nil
}

func catObject(o *output, f *file, start, end int64) error {
	n := max(0, end-start)
	if n > catJSONMax {
		return usageHint("e4go cat without --json, or --range START:LEN", "%s: %d bytes are too many for JSON, want at most %d", f.path, n, catJSONMax)
	}
	data := make([]byte, n)
	got, err := f.ReadAt(data, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return &pathError{f.path, fmt.Errorf("read at byte %d: %w", start+int64(got), err)}
	}
	text, encoding := valueEncoding(data[:got])
	o.obj()
	o.kName("path", f.path)
	o.kUint("ino", uint64(f.Ino()))
	o.kInt("start", start)
	o.kInt("length", int64(got))
	o.kStr("encoding", encoding)
	o.kStr("value", text)
	o.end()
	return nil
}

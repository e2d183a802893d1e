package commands

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
)

var lsCommand = &cli.Command{
	Name:      "ls",
	Usage:     "list directories",
	ArgsUsage: "[FILE...]",
	Description: `Lists the entries of each directory FILE, and other files as themselves; the root
of the image without a FILE. With an image (--image or $E4GO_IMAGE), FILE is a
path in it or an inode number (12 or <12>); without one, it is a path on a
mounted ext4, whose device is then read.

Names are sorted by their bytes. For people, bytes of a name that a terminal
would obey are written \n, \x1b, \xff; with --plain names are raw but for TAB,
newline and backslash. The names . and .. are shown with -a only. Times are UTC.

With -l each line has: mode, links, uid, gid, size (or major, minor), time of
last change, name and the target of symbolic links. With --plain -l: path, inode, mode in
octal, links, uid, gid, size, seconds and nanoseconds of the last change, type,
target.

Damage to one file or directory is reported and the listing goes on.

Examples:
  e4go ls -i disk.img
  e4go ls -lR -i disk.img /etc
  e4go ls --json -lR -i disk.img | jq '.files[] | select(.type=="file").size'
  e4go ls -l /mnt/data

Exit status:
  0 listed; 2 trouble; 4 damage was met. See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.BoolFlag{Name: "long", Aliases: []string{"l"}, Usage: "show mode, links, owner, size and time"},
		&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "list what is below directories too"},
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "list . and .. too"},
		&cli.BoolFlag{Name: "directory", Aliases: []string{"d"}, Usage: "show directories themselves, not what is in them"},
		&cli.BoolFlag{Name: "unsorted", Aliases: []string{"U"}, Usage: "in the order of the directory, which needs no memory for it"},
		&cli.BoolFlag{Name: "inode", Usage: "show inode numbers", Aliases: []string{"I"}},
	),
	Action: runLs,
}

func runLs(c *cli.Context) error {
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	args := c.Args().Slice()
	if len(args) == 0 {
		if s.opts.path == "" {
			return usageHint("e4go ls -i IMAGE, or e4go ls DIR on a mounted ext4", "no image and no FILE")
		}
		args = []string{"/"}
	}
	l := &lister{
		o: out(c), c: c, long: c.Bool("long"), deep: c.Bool("recursive"), dots: c.Bool("all"),
		inode: c.Bool("inode"), unsorted: c.Bool("unsorted"), self: c.Bool("directory"), many: len(args) > 1,
	}
	if l.o.json {
		l.o.kArr("files")
	}
	for _, a := range args {
		f, err := s.file(a, !l.long && !l.self)
		if err != nil {
			if err := l.met(err); err != nil {
				return err
			}
			continue
		}
		l.fs = f.im.fs
		if err := l.argument(f); err != nil {
			return err
		}
	}
	if l.o.json {
		l.o.end()
	}
	l.errors()
	return l.first
}

// A lister prints directories.
type lister struct {
	o                       *output
	c                       *cli.Context
	fs                      *ext4.FS
	long, deep, dots, inode bool
	unsorted, self, many    bool
	headed                  bool // something was printed
	first                   error
	found                   []error // for the JSON document
	ents                    []lsEntry
}

// maxFound is how many errors the JSON document has room for, all but the
// first of which say the same in most cases.
const maxFound = 1000

// met notes an error about one file. It returns those that must end the run.
func (l *lister) met(err error) error {
	if !l.o.ok() {
		return l.o.fail()
	}
	if l.first == nil {
		l.first = exit(classify(err).status, nil)
	}
	if l.o.json {
		if len(l.found) < maxFound {
			l.found = append(l.found, err)
		}
		return nil
	}
	l.o.flush()
	l.o.complain(l.c.Command, err)
	return nil
}

// errors writes what met has noted.
func (l *lister) errors() {
	if !l.o.json || len(l.found) == 0 {
		return
	}
	l.o.kArr("errors")
	for _, err := range l.found {
		l.o.errorObject(l.c.Command, err)
		l.o.comma = true
	}
	l.o.end()
}

func (l *lister) argument(f *file) error {
	if f.Type() != disk.ModeDir || l.self {
		e := lsEntry{name: f.path, path: f.path, ino: f.Ino(), typ: f.Disk().Mode.FileType(), in: f.Inode}
		return l.print([]lsEntry{e})
	}
	return l.directory(f.Inode, f.path)
}

// An lsEntry is one line of a listing.
type lsEntry struct {
	name string
	path string
	ino  disk.Ino
	typ  disk.FileType
	in   *ext4.Inode // nil: not wanted, or it cannot be read
}

// directory lists in, and with -R all below it. A directory that is its own
// ancestor is not listed again.
func (l *lister) directory(root *ext4.Inode, rootPath string) error {
	type dir struct {
		ino  disk.Ino
		path string
		up   int // index of the parent in trail
	}
	todo := []dir{{root.Ino(), rootPath, -1}}
	var trail []dir // of those listed and still needed to see loops
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		trail = append(trail[:d.up+1], d)
		depth := len(trail) - 1
		loop := slices.ContainsFunc(trail[:depth], func(p dir) bool { return p.ino == d.ino })
		if loop {
			if err := l.met(&pathError{d.path, fmt.Errorf("directory %d is inside itself: %w", d.ino, disk.ErrCorrupt)}); err != nil {
				return err
			}
			continue
		}
		in, err := l.fs.Inode(d.ino)
		if err == nil && in.Type() != disk.ModeDir && depth > 0 {
			continue // the entry says directory, the inode does not: ls -l shows which
		}
		if err == nil {
			err = l.one(in, d.path)
		}
		if err != nil {
			if err := l.met(&pathError{d.path, err}); err != nil {
				return err
			}
			continue
		}
		if !l.deep {
			continue
		}
		for i := len(l.ents) - 1; i >= 0; i-- {
			e := &l.ents[i]
			if e.typ == disk.TypeDir && e.name != "." && e.name != ".." {
				todo = append(todo, dir{e.ino, e.path, depth})
			}
		}
	}
	return nil
}

// one lists one directory and leaves its entries in l.ents.
func (l *lister) one(in *ext4.Inode, path string) error {
	d, err := l.fs.OpenDir(in)
	if err != nil {
		return err
	}
	if (l.deep || l.many) && !l.o.json && !l.o.plain {
		if l.headed {
			l.o.line("")
		}
		l.o.line(l.o.styles.name(l.o.name(path) + ":"))
	}
	l.headed = true
	l.ents = l.ents[:0]
	prefix := strings.TrimSuffix(path, "/") + "/"
	failed := 0
	for {
		e, err := d.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if err := l.met(&pathError{path, err}); err != nil {
				return err
			}
			if failed++; !errors.Is(err, disk.ErrCorrupt) || failed > maxFound {
				break
			}
			continue
		}
		if !l.dots && (e.Name == "." || e.Name == "..") {
			continue
		}
		ent := lsEntry{name: e.Name, path: prefix + e.Name, ino: e.Ino, typ: e.Type}
		if l.long || e.Type == disk.TypeUnknown {
			in, err := l.fs.Inode(e.Ino)
			if err != nil {
				if err := l.met(&pathError{ent.path, err}); err != nil {
					return err
				}
			} else {
				ent.in, ent.typ = in, in.Disk().Mode.FileType()
			}
		}
		l.ents = append(l.ents, ent)
		if l.unsorted && !l.deep && len(l.ents) == 4096 {
			if err := l.print(l.ents); err != nil {
				return err
			}
			l.ents = l.ents[:0]
		}
	}
	if !l.unsorted {
		slices.SortFunc(l.ents, func(a, b lsEntry) int { return strings.Compare(a.name, b.name) })
	}
	return l.print(l.ents)
}

// print prints entries of one directory.
func (l *lister) print(ents []lsEntry) error {
	switch {
	case l.o.json:
		for i := range ents {
			l.json(&ents[i])
		}
	case l.long && l.o.plain:
		for i := range ents {
			l.plain(&ents[i])
		}
	case l.long:
		l.table(ents)
	default:
		for i := range ents {
			e := &ents[i]
			if l.inode {
				l.o.buf = strconv.AppendUint(l.o.buf, uint64(e.ino), 10)
				l.o.buf = append(l.o.buf, l.gap())
			}
			if l.o.plain {
				l.o.line(l.o.name(e.path))
			} else {
				l.o.line(l.painted(e, l.o.name(e.name)))
			}
		}
	}
	return l.o.fail()
}

func (l *lister) gap() byte {
	if l.o.plain {
		return '\t'
	}
	return ' '
}

func (l *lister) painted(e *lsEntry, name string) string {
	switch e.typ {
	case disk.TypeDir:
		return l.o.styles.name(name)
	case disk.TypeLink:
		return l.o.styles.good(name)
	}
	return name
}

package commands

import (
	"errors"
	"fmt"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
)

var dumpExtentsCommand = &cli.Command{
	Name:      "dumpextents",
	Usage:     "print the whole extent tree of files, as it stands on disk",
	ArgsUsage: "FILE|INO...",
	Description: `Prints one line for each entry of the map of each FILE, as debugfs's dump_extents:

  Level    the level of the entry's node and that of the leaves; the root is 0
  Entries  which entry of its node it is, of how many
  Logical  the blocks of the file it is about
  Physical the blocks on the device; for an entry of an index, the block of the node
  Length   in blocks
  Flags    Uninit: allocated, never written, reads as zeros
  Node     the block that holds the entry; inode for the root
  Csum     the node's checksum: ok, BAD, or - where there is none

Indirect maps (ext2, ext3) come in the same form: a line for each block of
pointers, and one for each run of blocks. --plain and --json count in bytes;
--plain has path, inode, level, depth, entry, entries, index or leaf state,
logical, physical, length, node (or -), checksum, error.

With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number
(12 or <12>); without one, it is a path on a mounted ext4, whose device is then
read: run sync(1) before, if the file has just been written.

A damaged entry is marked, standard error says what is wrong, and the dump goes
on. --check also compares the sum of all lengths with i_blocks, and exits with
1 if anything is wrong.

Examples:
  e4go dumpextents -i disk.img /var/lib/db
  e4go dumpextents -i disk.img 12 --leaves
  e4go dumpextents -i disk.img --all --check -q
  e4go dumpextents --json /mnt/data/file | jq '.files[0].extents[].length'

Exit status:
  0 printed; 1 with --check: a rule is broken; 2 trouble; 4 damage was met.
  See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.BoolFlag{Name: "leaves", Aliases: []string{"l"}, Usage: "only the entries of leaves"},
		&cli.BoolFlag{Name: "internal", Aliases: []string{"n"}, Usage: "only the entries of index nodes"},
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "every inode in use that has a map"},
		&cli.BoolFlag{Name: "check", Usage: "exit with 1 if a rule is broken, i_blocks included"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no lines for what is in order"},
	),
	Action: runDumpExtents,
}

func runDumpExtents(c *cli.Context) error {
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	d := &dumper{
		o: out(c), c: c, leaves: !c.Bool("internal") || c.Bool("leaves"), nodes: !c.Bool("leaves") || c.Bool("internal"),
		check: c.Bool("check"), quiet: c.Bool("quiet"),
	}
	args := c.Args().Slice()
	switch {
	case c.Bool("all") && len(args) > 0:
		return usagef("--all and FILE exclude each other")
	case !c.Bool("all") && len(args) == 0:
		return usagef("no arguments, want %s", c.Command.ArgsUsage)
	}
	d.many = len(args) != 1
	if d.o.json {
		d.o.kArr("files")
	}
	if c.Bool("all") {
		err = d.all(s)
	} else {
		for _, a := range args {
			f, ferr := s.file(a, true)
			if ferr == nil {
				ferr = d.file(f)
			} else if d.many && d.o.ok() {
				ferr = d.trouble(a, ferr)
			}
			if err = ferr; err != nil {
				break
			}
		}
	}
	if d.o.json {
		for len(d.o.nest) > 1 {
			d.o.end()
		}
		if err == nil {
			d.o.kUint("findings", d.findings)
		}
	}
	switch {
	case err != nil:
		return err
	case d.first == nil:
		return nil
	case d.check:
		return exit(exitFindings, nil)
	}
	return d.first
}

// A dumper prints maps.
type dumper struct {
	o             *output
	c             *cli.Context
	leaves, nodes bool
	check, quiet  bool
	many          bool
	findings      uint64
	first         error // a silent error with the status of the first finding
	f             *file
	rows          mapRows
}

// finding notes a broken rule, which standard error tells.
func (d *dumper) finding(f *file, err error) {
	d.findings++
	if d.first == nil {
		d.first = exit(classify(err).status, nil)
	}
	d.o.flush() // so that the line stands behind the row
	d.o.warn(d.c.Command, "%s: %s", shownName(f.path), d.o.styles.bad(errorText(err)))
}

// trouble notes a file that cannot be dumped at all.
func (d *dumper) trouble(path string, err error) error {
	d.findings++
	if d.first == nil {
		d.first = exit(classify(err).status, nil)
	}
	if d.o.json {
		d.o.obj()
		d.o.kName("path", path)
		d.o.key("error")
		d.o.errorObject(d.c.Command, err)
		d.o.end()
		return nil
	}
	d.o.flush()
	d.o.complain(d.c.Command, err)
	return nil
}

// all dumps every inode in use that has a map, group by group.
func (d *dumper) all(s *images) error {
	im, err := s.main()
	if err != nil {
		return err
	}
	sb := im.fs.Super()
	for g := range sb.Groups() {
		bitmap, err := im.fs.InodeBitmap(disk.Group(g))
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				return err
			}
			if err := d.trouble(fmt.Sprintf("group %d", g), err); err != nil {
				return err
			}
			continue
		}
		for i := range sb.InodesPerGroup {
			if bitmap[i/8]>>(i%8)&1 == 0 {
				continue
			}
			if !d.o.ok() {
				return d.o.fail()
			}
			ino := disk.Ino(uint32(g)*sb.InodesPerGroup + i + 1)
			path := fmt.Sprintf("<%d>", ino)
			in, err := im.fs.Inode(ino)
			if err == nil && (in.Disk().Links == 0 && ino >= sb.FirstIno || in.HasInlineData() || in.Disk().BlocksRaw == 0) {
				continue // nothing is mapped
			}
			if err == nil {
				err = d.file(&file{Inode: in, im: im, path: path})
			} else if errors.Is(err, disk.ErrCorrupt) {
				err = d.trouble(path, err)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// file dumps the map of f.
func (d *dumper) file(f *file) error {
	d.f = f
	o := d.o
	d.rows.begin(d)
	if o.json {
		d.openObject()
	}
	sum, err := f.WalkMap(func(r ext4.MapRow) error {
		if r.Err != nil {
			d.finding(f, r.Err)
		}
		if r.Leaf && !d.leaves || !r.Leaf && !d.nodes {
			if r.Err == nil {
				return nil
			}
		}
		if d.quiet && r.Err == nil {
			return nil
		}
		d.rows.row(&r)
		return o.err
	})
	d.rows.close()
	inline := errors.Is(err, ext4.ErrInline)
	if inline {
		err = d.inline()
	}
	if err != nil {
		if o.json && errors.Is(err, disk.ErrCorrupt) {
			o.end() // extents
			o.key("error")
			o.errorObject(d.c.Command, err)
			o.end()
			d.finding(f, err)
			return nil
		}
		return &pathError{f.path, err}
	}
	var blocks error
	if d.check && !inline {
		if blocks = f.CheckBlocks(sum); blocks != nil {
			d.finding(f, blocks)
		}
	}
	if o.json {
		d.closeObject(sum, inline, blocks)
	}
	return o.fail()
}

// inline is the one row of an inode that holds its data itself.
func (d *dumper) inline() error {
	data, err := d.f.InlineData()
	if err != nil || d.quiet {
		return err
	}
	n := uint64(len(data))
	if d.f.Type() != disk.ModeDir {
		n = uint64(max(0, d.f.Size()))
	}
	switch o := d.o; {
	case o.json:
		o.extent(extent{nowhere: true, length: n, state: stateInline, flags: fiemapInline, flagNames: fiemapFlagNames(fiemapInline)})
		o.end()
	case o.plain:
		o.line(fmt.Sprintf("%s\t%d\t0\t0\t1\t1\t%s\t0\t-\t%d\t-\tnone\t", o.name(d.f.path), d.f.Ino(), stateInline, n))
	default:
		o.line(fmt.Sprintf("%s: %d bytes of inline data, no map", shownName(d.f.path), n))
	}
	return nil
}

func (d *dumper) openObject() {
	o, f := d.o, d.f
	o.obj()
	o.kName("path", f.path)
	o.kUint("ino", uint64(f.Ino()))
	o.kStr("type", f.Disk().Mode.FileType().String())
	o.kInt("size", f.Size())
	o.kInt("block_size", int64(f.im.fs.Super().BlockSize()))
	o.kArr("extents")
}

func (d *dumper) closeObject(sum ext4.MapSummary, inline bool, blocks error) {
	o := d.o
	bs := uint64(d.f.im.fs.Super().BlockSize())
	o.end()
	kind := "extents"
	switch {
	case inline:
		kind = "inline"
	case sum.Indirect:
		kind = "indirect"
	}
	o.kStr("map", kind)
	o.kObj("sum")
	o.kUint("extents", sum.Extents)
	o.kUint("data", sum.Blocks*bs)
	o.kUint("nodes", sum.Nodes*bs)
	o.kUint("sectors", d.f.Disk().Sectors(d.f.im.fs.Super()))
	o.kInt("errors", int64(sum.Errors))
	o.kBool("complete", !sum.Incomplete)
	o.end()
	if blocks != nil {
		o.key("error")
		o.errorObject(d.c.Command, blocks)
	}
	o.end()
}

package commands

import (
	"fmt"
	"math"

	"e4go/ext4"
	"e4go/iomap/ext4map"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

var fiemapCommand = &cli.Command{
	Name:      "fiemap",
	Usage:     "show what FS_IOC_FIEMAP says of a file, or would say",
	ArgsUsage: "FILE",
	Description: `With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number,
and the answer is computed from the image. Without one, FILE is a path, and the
kernel is asked, whatever the file system is.

Columns are those of filefrag -v: offsets and lengths in blocks of the file
system, "expected" where an extent does not follow the one before it on the
device. --bytes, --plain and --json count in bytes; --plain has logical,
physical (or -), length, state, flags as a number, flags by name.

Flags: last unwritten inline not_aligned merged shared encoded delalloc
unknown_loc and others, as in linux/fiemap.h. Neighbouring extents in the same
state come as one; how a kernel cuts them depends on what it has cached.

--compare asks both: FILE is a path on a mounted ext4, whose device is read, or,
with --image, a path on any mount of that image. Both answers are brought into
the same form, neighbours joined, and each difference is printed as one of:
  boundary  an extent begins or ends elsewhere
  state     written here, unwritten or inline there
  physical  the same range lies elsewhere on the device
  hole      blocks here, none there

Examples:
  e4go fiemap -i disk.img /var/lib/db
  e4go fiemap --holes /mnt/data/file
  e4go fiemap --compare /mnt/data/file
  e4go fiemap --xattr --json -i disk.img 12

Exit status:
  0 printed, or the same; 1 --compare found differences; 2 trouble; 4 damage;
  7 the kernel has no FIEMAP for FILE. See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.StringFlag{Name: "start", Usage: "from byte `N` on; may end in k, m, g"},
		&cli.StringFlag{Name: "length", Usage: "for `N` bytes"},
		&cli.BoolFlag{Name: "xattr", Aliases: []string{"x"}, Usage: "where the extended attributes lie"},
		&cli.BoolFlag{Name: "holes", Usage: "show holes too, up to the end of the file"},
		&cli.BoolFlag{Name: "bytes", Aliases: []string{"b"}, Usage: "count in bytes, not in blocks"},
		&cli.BoolFlag{Name: "compare", Usage: "compare the image's answer with the kernel's"},
	),
	Action: runFiemap,
}

// A fiemapQuery is a question.
type fiemapQuery struct {
	start, length uint64 // bytes
	xattr         bool
}

// end is the byte behind the range.
func (q fiemapQuery) end() uint64 {
	if q.length > math.MaxUint64-q.start {
		return math.MaxUint64
	}
	return q.start + q.length
}

// A fiemapAnswer is what one side says.
type fiemapAnswer struct {
	extents []extent
	size    uint64 // of the file, bytes
	block   uint64 // block size, bytes
}

func runFiemap(c *cli.Context) error {
	arg, err := oneArg(c)
	if err != nil {
		return err
	}
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	q := fiemapQuery{xattr: c.Bool("xattr")}
	if q.start, err = sizeFlag(c, "start", 0); err != nil {
		return err
	}
	if q.length, err = sizeFlag(c, "length", math.MaxUint64); err != nil {
		return err
	}
	if q.length == 0 {
		return usagef("--length is 0, want at least 1")
	}
	if c.Bool("compare") {
		return compareFiemap(c, s, arg, q)
	}
	var a fiemapAnswer
	source := "image"
	if s.opts.path == "" {
		source = "kernel"
		a, err = kernelFiemap(c.Context, arg, q)
	} else {
		var f *file
		if f, err = s.file(arg, true); err == nil {
			a, err = imageFiemap(f, q)
		}
	}
	if err != nil {
		return err
	}
	if c.Bool("holes") && !q.xattr {
		a.addHoles(q)
	}
	return printFiemap(c, arg, source, a)
}

// imageFiemap is what FS_IOC_FIEMAP would say of f.
func imageFiemap(f *file, q fiemapQuery) (fiemapAnswer, error) {
	sb := f.im.fs.Super()
	a := fiemapAnswer{size: uint64(max(0, f.Size())), block: uint64(sb.BlockSize())}
	if q.xattr {
		if x, ok := f.FiemapXattr(); ok && q.start < x.Length {
			a.extents = []extent{fiemapExtent(x.Logical, x.Physical, x.Length, uint32(x.Flags))}
		}
		return a, nil
	}
	most := ext4map.OptionsFor(f.im.fs, f.Inode).MaxBytes
	if q.start >= most {
		return a, &pathError{f.path, fmt.Errorf("--start is %d, want less than %d, the largest size of a file: %w", q.start, most, unix.EFBIG)}
	}
	err := f.Fiemap(q.start, min(q.end(), most), func(x ext4.FiemapExtent) bool {
		a.add(fiemapExtent(x.Logical, x.Physical, x.Length, uint32(x.Flags)))
		return true
	})
	if err != nil {
		return a, &pathError{f.path, err}
	}
	return a, nil
}

// add appends x, or joins it with the extent that it continues.
func (a *fiemapAnswer) add(x extent) {
	if n := len(a.extents); n > 0 {
		p := &a.extents[n-1]
		if p.logical+p.length == x.logical && p.physical+p.length == x.physical && (p.flags^x.flags)&^fiemapLast == 0 && !x.nowhere {
			*p = fiemapExtent(p.logical, p.physical, p.length+x.length, p.flags|x.flags)
			return
		}
	}
	a.extents = append(a.extents, x)
}

// addHoles puts the holes in between, up to the end of the file or the query.
func (a *fiemapAnswer) addHoles(q fiemapQuery) {
	var out []extent
	at := q.start / a.block * a.block
	hole := func(to uint64) {
		if to > at {
			out = append(out, extent{logical: at, length: to - at, nowhere: true, state: stateHole, flagNames: noFlags})
		}
	}
	for _, x := range a.extents {
		hole(x.logical)
		out = append(out, x)
		at = x.logical + x.length
		if x.state == stateInline { // the rest of its block is not a hole
			at = (at + a.block - 1) / a.block * a.block
		}
	}
	hole(min((a.size+a.block-1)/a.block*a.block, q.end()))
	a.extents = out
}

func printFiemap(c *cli.Context, arg, source string, a fiemapAnswer) error {
	o := out(c)
	if o.json {
		o.kName("path", arg)
		o.kStr("source", source)
		o.kUint("size", a.size)
		o.kUint("block_size", a.block)
		o.kArr("extents")
		for _, x := range a.extents {
			o.extent(x)
			o.end()
		}
		o.end()
		return o.fail()
	}
	if !o.plain {
		blocks := (a.size + a.block - 1) / a.block
		o.line(fmt.Sprintf("File size of %s is %d (%d blocks of %d bytes), as the %s says", shownName(arg), a.size, blocks, a.block, source))
	}
	unit := a.block
	if c.Bool("bytes") {
		unit = 1
	}
	printExtents(o, a.extents, unit)
	return o.fail()
}

// printExtents prints the columns of filefrag -v, counted in units of unit bytes.
func printExtents(o *output, list []extent, unit uint64) {
	if o.plain {
		for _, x := range list {
			o.num(x.logical, 0)
			o.str("\t")
			if x.nowhere {
				o.str("-")
			} else {
				o.num(x.physical, 0)
			}
			o.str("\t")
			o.num(x.length, 0)
			o.line(fmt.Sprintf("\t%s\t%#x\t%s", x.state, x.flags, joinNames(x.flagNames)))
		}
		return
	}
	t := newTable(o, column{name: "ext:", width: 4}, column{name: "logical_offset:", width: 23}, column{name: "physical_offset:", width: 25},
		column{name: "length:", width: 9}, column{name: "expected:", width: 11}, column{name: "flags:", left: true})
	span := func(first, n uint64) string {
		return fmt.Sprintf("%d..%d", first/unit, max(first, first+n-1)/unit)
	}
	n, next, any := uint64(0), uint64(0), false
	for _, x := range list {
		if x.state == stateHole {
			t.str("")
			t.str(span(x.logical, x.length))
			t.str("-")
			t.uint((x.length + unit - 1) / unit)
			t.str("")
			t.str(o.styles.dim(stateHole))
			t.end()
			continue
		}
		t.uint(n)
		n++
		t.str(span(x.logical, x.length))
		if x.nowhere {
			t.str("-")
		} else {
			t.str(span(x.physical, x.length))
		}
		t.uint((x.length + unit - 1) / unit)
		if any && next != x.physical && !x.nowhere {
			t.uint(next / unit)
		} else {
			t.str("")
		}
		t.str(joinNames(x.flagNames))
		t.end()
		next, any = x.physical+x.length, true
	}
	t.close()
}

func joinNames(names []string) string {
	text := ""
	for i, n := range names {
		if i > 0 {
			text += ","
		}
		text += n
	}
	return text
}

package commands

import (
	"errors"
	"fmt"
	"strconv"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
)

var statCommand = &cli.Command{
	Name:      "stat",
	Usage:     "show everything that an inode holds",
	ArgsUsage: "FILE...",
	Description: `Shows the inode of each FILE: where it lies on the device, mode, flags by name,
times to the nanosecond, generation, project, i_blocks, checksum, the target of a
symbolic link, inline data, extended attributes (ACLs as getfacl(1) prints them),
marks of encryption and verity, and a list of its extents.

With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number
(12 or <12>), also of an inode that is not in use; without one, it is a path on
a mounted ext4. Symbolic links at the end of FILE are not followed without -L.

Examples:
  e4go stat -i disk.img /etc/passwd
  e4go stat -i disk.img 12
  e4go stat --json /mnt/data/file

Exit status:
  0 shown; 2 trouble; 4 damage was met. See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.BoolFlag{Name: "dereference", Aliases: []string{"L"}, Usage: "follow a symbolic link at the end of FILE"},
	),
	Action: runStat,
}

func runStat(c *cli.Context) error {
	args, err := someArgs(c)
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
		defer func() {
			for len(o.nest) > 1 {
				o.end()
			}
		}()
	}
	var first error
	for i, a := range args {
		f, err := s.file(a, c.Bool("dereference"))
		if err == nil {
			if i > 0 && !o.json && !o.plain {
				o.line("")
			}
			err = showInode(o, f)
		}
		if err == nil {
			continue
		}
		if len(args) == 1 || !o.ok() {
			return err
		}
		if first == nil {
			first = exit(classify(err).status, nil)
		}
		if o.json {
			o.obj()
			o.kName("path", a)
			o.key("error")
			o.errorObject(c.Command, err)
			o.end()
			continue
		}
		o.flush()
		o.complain(c.Command, err)
	}
	return first
}

// statFields writes the fields of st, into the object that is open.
func (o *output) statFields(st *ext4.Stat) {
	o.kUint("mode", uint64(st.Mode))
	o.kUint("nlink", uint64(st.Nlink))
	o.kUint("uid", uint64(st.UID))
	o.kUint("gid", uint64(st.GID))
	o.kInt("size", st.Size)
	o.kUint("sectors", st.Blocks)
	if t := disk.Mode(st.Mode).Type(); t == disk.ModeChar || t == disk.ModeBlock {
		o.kUint("major", uint64(st.Major))
		o.kUint("minor", uint64(st.Minor))
	}
	o.kTime("atime", st.Atime)
	o.kTime("mtime", st.Mtime)
	o.kTime("ctime", st.Ctime)
	if st.HasCrtime {
		o.kTime("crtime", st.Crtime)
	}
	o.kUint("flags", uint64(st.Flags))
	o.kStrs("flag_names", st.Flags.Names())
	o.kUint("generation", uint64(st.Generation))
	o.kUint("version", st.Version)
	o.kUint("project", uint64(st.Project))
}

// kTime writes a time as seconds since 1970 and nanoseconds.
func (o *output) kTime(k string, t disk.Time) {
	o.kObj(k)
	o.kInt("sec", t.Sec)
	o.kUint("nsec", uint64(t.Nsec))
	o.end()
}

// showInode prints all about f. It returns the first damage it met, after
// printing what could be read.
func showInode(o *output, f *file) error {
	sb, d, st := f.im.fs.Super(), f.Disk(), f.Stat()
	blk, off := f.Location()
	group, index := sb.InodeGroup(f.Ino())
	var first error
	note := func(err error) {
		if first == nil && err != nil {
			first = &pathError{f.path, err}
		}
	}
	if o.json {
		o.obj()
		defer o.end()
		o.kName("path", f.path)
		o.kUint("ino", uint64(f.Ino()))
		o.kStr("type", d.Mode.FileType().String())
		o.statFields(&st)
	} else {
		o.facts(statFacts(f, &st))
	}
	o.facts([]fact{
		{"Place", "group", uint64(group), fmt.Sprintf("group %d, index %d, block %d, byte %d of it", group, index, blk, off)},
		{"", "index", uint64(index), ""},
		{"", "block", uint64(blk), ""},
		{"", "offset", off, ""},
		{"Raw i_blocks", "i_blocks", d.BlocksRaw, ""},
		{"Extra isize", "extra_isize", int(d.ExtraIsize), ""},
		{"Xattr block", "file_acl", uint64(d.XattrBlock(sb)), ""},
	})
	if d.Dtime != 0 {
		o.facts([]fact{{"Deletion time", "dtime", uint64(d.Dtime), secondsText(int64(d.Dtime))}})
	}
	if sb.MetadataCsum() {
		o.facts([]fact{{"Inode checksum", "checksum", uint64(d.Checksum), fmt.Sprintf("%#08x", d.Checksum)}})
	}
	if f.Type() == disk.ModeLink {
		t, err := f.Readlink()
		note(err)
		if err == nil && o.json {
			o.kName("target", t)
		} else if err == nil {
			o.facts([]fact{{"Target", "target", t, shownName(t)}})
		}
	}
	note(showInline(o, f))
	note(showXattrs(o, f))
	note(showMap(o, f))
	return first
}

// statFacts are the facts of a stat for people and scripts.
func statFacts(f *file, st *ext4.Stat) []fact {
	mode := disk.Mode(st.Mode)
	typ := mode.FileType().String()
	list := []fact{
		{"Path", "path", f.path, shownName(f.path)},
		{"Inode", "ino", uint64(f.Ino()), ""},
		{"Type", "type", typ, ""},
		{"Mode", "mode", "0" + strconv.FormatUint(uint64(st.Mode&0o7777), 8), fmt.Sprintf("%04o (%s)", st.Mode&0o7777, appendMode(nil, mode))},
		{"Flags", "flags", uint64(st.Flags), fmt.Sprintf("%#x %v", uint32(st.Flags), st.Flags.Names())},
		{"Links", "nlink", uint64(st.Nlink), ""},
		{"User", "uid", uint64(st.UID), ""},
		{"Group", "gid", uint64(st.GID), ""},
		{"Project", "project", uint64(st.Project), ""},
		{"Size", "size", st.Size, ""},
		{"Sectors", "sectors", st.Blocks, fmt.Sprintf("%d of 512 bytes", st.Blocks)},
		{"Generation", "generation", uint64(st.Generation), ""},
		{"Version", "version", st.Version, fmt.Sprintf("%#016x", st.Version)},
	}
	if t := mode.Type(); t == disk.ModeChar || t == disk.ModeBlock {
		list = append(list, fact{"Device", "device", fmt.Sprintf("%d:%d", st.Major, st.Minor), ""})
	}
	at := func(label, key string, t disk.Time) {
		list = append(list, fact{label, key, fmt.Sprintf("%d.%09d", t.Sec, t.Nsec), timeText(t)})
	}
	at("Accessed", "atime", st.Atime)
	at("Modified", "mtime", st.Mtime)
	at("Changed", "ctime", st.Ctime)
	if st.HasCrtime {
		at("Created", "crtime", st.Crtime)
	}
	for _, m := range []struct {
		flag disk.FileFlags
		text string
	}{
		{disk.FlagEncrypt, "encrypted: contents cannot be read without the key"},
		{disk.FlagVerity, "fs-verity: contents are protected by a hash tree behind the end of the file"},
		{disk.FlagCasefold, "names in it are compared without case"},
		{disk.FlagIndex, "indexed by hash"},
	} {
		if st.Flags.Has(m.flag) {
			list = append(list, fact{"Mark", "", nil, m.text})
		}
	}
	return list
}

// inlineShown is how many bytes of inline data are shown.
const inlineShown = 4096

// showInline shows the data that the inode itself holds.
func showInline(o *output, f *file) error {
	if !f.HasInlineData() {
		return nil
	}
	data, err := f.InlineData()
	if err != nil {
		return err
	}
	text, encoding := valueEncoding(data[:min(len(data), inlineShown)])
	if o.json {
		o.kObj("inline")
		o.kInt("length", int64(len(data)))
		o.kStr("encoding", encoding)
		o.kStr("value", text)
		o.end()
		return nil
	}
	o.facts([]fact{{"Inline data", "inline", text, fmt.Sprintf("%d bytes: %s", len(data), shownValue(data[:min(len(data), inlineShown)]))}})
	return nil
}

// showMap lists the extents, as debugfs stat does, and the blocks of the map itself.
func showMap(o *output, f *file) error {
	bs := uint64(f.im.fs.Super().BlockSize())
	if o.json {
		o.kArr("extents")
		defer o.end()
	}
	var line []byte
	var broken error
	sum, err := f.WalkMap(func(r ext4.MapRow) error {
		if r.Err != nil && broken == nil {
			broken = r.Err
		}
		switch {
		case o.json:
			if r.Leaf {
				o.extent(rowExtent(r, bs))
				o.end()
			}
		case o.plain:
		default:
			line = appendMapRow(line, r)
			if len(line) > flushAt {
				o.str(string(line))
				line = line[:0]
				o.lined()
			}
		}
		return o.fail()
	})
	switch {
	case errors.Is(err, ext4.ErrInline):
		return nil
	case err != nil:
		return err
	}
	if !o.json && !o.plain && (len(line) > 0 || sum.Extents > 0) {
		kind := "extents"
		if sum.Indirect {
			kind = "runs of an indirect map"
		}
		o.line(fmt.Sprintf("Map: %d %s, %d blocks of data, %d of the map", sum.Extents, kind, sum.Blocks, sum.Nodes))
		o.str("  ")
		o.line(string(line))
	}
	return broken
}

// appendMapRow appends a row as debugfs stat writes it: (0-159):1580-1739, with
// [u] for what is unwritten, and (ETB0) or (IND) for blocks of the map.
func appendMapRow(b []byte, r ext4.MapRow) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	span := func(first, n uint64) {
		b = strconv.AppendUint(b, first, 10)
		if n > 1 {
			b = append(b, '-')
			b = strconv.AppendUint(b, first+n-1, 10)
		}
	}
	if !r.Leaf {
		b = append(b, "(ETB"...)
		b = strconv.AppendInt(b, int64(r.Level), 10)
		b = append(b, "):"...)
		return strconv.AppendUint(b, uint64(r.Physical), 10)
	}
	b = append(b, '(')
	span(uint64(r.Logical), r.Len)
	if r.Unwritten {
		b = append(b, "[u]"...)
	}
	b = append(b, "):"...)
	span(uint64(r.Physical), r.Len)
	return b
}

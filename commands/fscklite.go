package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"

	"github.com/urfave/cli/v2"
)

// The exit statuses of fsck(8), which are added together.
const (
	fsckLeft      = 4
	fsckTrouble   = 8
	fsckUsage     = 16
	fsckCancelled = 32
)

var fsckLiteCommand = &cli.Command{
	Name:      "fsck-lite",
	Usage:     "check a file system, changing nothing",
	ArgsUsage: "IMAGE",
	Description: `Checks all of the ext2, ext3 or ext4 file system in IMAGE, a file or a block
device, as e2fsck -fn does, and writes to nothing. It prints a line for each
problem: severity, code, place, what stands there and what should, and the path
of the file that it harms.

Problems that follow from another are counted on its line, and shown with -v. So
are notes: what sound file systems have, or what the next mount puts right.
"(repairable)" marks problems with one right repair, which loses nothing. e4go
help problems lists the codes.

An unclean journal is replayed in memory, and what is judged is the state after
it: that which the next mount finds. e2fsck -n does not do that, and neither does
--no-replay, with which the bytes on the device are judged. If the primary
superblock is damaged, the first good backup is taken.

An IMAGE that is in use is checked with a warning: what is written meanwhile
looks like damage.

Examples:
  e4go fsck-lite disk.img
  e4go fsck-lite -v /dev/sda2
  e4go fsck-lite --json disk.img | jq '.problems[] | .path, .message'

Exit status, as fsck(8)'s, added together:
  0 no damage; 4 damage; 8 trouble: no file system, an I/O error, something that
  e4go cannot check, too little memory; 16 wrong usage; 32 interrupted: what was
  found before is printed.`,
	Flags: []cli.Flag{
		&cli.BoolFlag{Name: "replay", Value: true, Usage: "judge the state after journal replay, in memory; the default"},
		&cli.BoolFlag{Name: "no-replay", Usage: "judge the state on the device"},
		&cli.BoolFlag{Name: "progress", Aliases: []string{"C"}, Usage: "print PASS PERCENT to standard error, a line each; on a terminal there is progress anyway"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "print notes, what follows from other problems, and all statistics"},
		&cli.StringFlag{Name: "memory", Usage: "use at most `N` bytes for what is found; default 2g"},
		&cli.StringFlag{Name: "offset", Category: imageCategory, Usage: "the file system begins `N` bytes into IMAGE; N may end in k, m, g, t, or s for sectors of 512 bytes"},
		&cli.StringFlag{Name: "superblock", Aliases: []string{"sb"}, Category: imageCategory, Usage: "use the superblock in block `N`, counted in units of 1 KiB as in mount -o sb=N"},
		&cli.StringFlag{Name: "journal", Aliases: []string{"j"}, Category: imageCategory, Usage: "the external journal is in `PATH`"},
		jsonFlag(),
		colorFlag(),
	},
	Action: runFsckLite,
}

// fsckStatus gives err an exit status of fsck(8).
func fsckStatus(err error) error {
	var status *statusError
	switch c := classify(err); {
	case err == nil, errors.As(err, &status), c.kind == "pipe":
		return err
	case c.kind == "usage":
		return exit(fsckUsage, err)
	case c.kind == "interrupted":
		return exit(fsckCancelled, err)
	}
	return exit(fsckTrouble, err)
}

func runFsckLite(c *cli.Context) error {
	image, err := oneArg(c)
	if err != nil {
		return err
	}
	if c.Bool("no-replay") && c.IsSet("replay") {
		return usagef("--replay and --no-replay exclude each other")
	}
	open, err := imageOptionsOf(c)
	if err != nil {
		return err
	}
	memory, err := sizeFlag(c, "memory", 0)
	if err != nil {
		return err
	}
	o := out(c)
	opts := fsck.Options{
		Replay: c.Bool("replay") && !c.Bool("no-replay"), Superblock: open.ext4.Superblock,
		MemoryLimit: int64(memory), Workers: runtime.GOMAXPROCS(0),
	}
	dev, err := open.device(image, blockdev.LockShared)
	var inUse *blockdev.InUseError
	used := errors.As(err, &inUse)
	if used {
		o.warn(c.Command, "warning: %v; changes that are made now look like damage", err)
		dev, err = open.device(image, blockdev.LockNone)
	}
	if err != nil {
		return err
	}
	defer dev.Close()
	if open.journal != "" {
		j, err := blockdev.Open(open.journal, blockdev.Options{})
		if err != nil {
			return err
		}
		defer j.Close()
		opts.Journal = j
	}

	report, err := fsckRun(c, image, dev, opts)
	if nothing := new(fsck.NoFilesystemError); errors.As(err, &nothing) {
		return &pathError{image, err}
	}
	o.ctx = context.Background() // what was found is printed, also after an interruption
	p := &fsckPrinter{o: o, r: report, failed: err != nil, verbose: c.Bool("verbose")}
	if o.json {
		p.json(image, used)
	} else {
		p.text(image)
	}
	status := 0
	if report.Damaged() {
		status |= fsckLeft
	}
	switch {
	case report.Cancelled:
		return exit(status|fsckCancelled, errInterrupted)
	case err != nil:
		return exit(status|fsckTrouble, &pathError{image, err})
	case status != 0:
		return exit(status, nil)
	}
	return nil
}

// fsckRun checks, and shows how far it has come.
func fsckRun(c *cli.Context, image string, dev blockdev.Device, opts fsck.Options) (*fsck.Report, error) {
	o := out(c)
	var mu sync.Mutex
	text := "checking " + shownName(image)
	opts.Progress = func(pass fsck.Pass, done float64) {
		mu.Lock()
		defer mu.Unlock()
		text = fmt.Sprintf("%s: %s, %d%%", shownName(image), passTitle(pass), int(100*done))
		if c.Bool("progress") {
			fmt.Fprintf(o.stderr, "%d %d\n", pass, int(100*done))
		}
	}
	if !c.Bool("progress") {
		line := startProgress(o, func() string {
			mu.Lock()
			defer mu.Unlock()
			return text
		})
		defer line.stop()
	}
	return fsck.Run(c.Context, dev, opts)
}

// passTitle names a pass as e2fsck numbers it.
func passTitle(p fsck.Pass) string {
	if p == fsck.PassSetup || p == fsck.PassEnd {
		return p.String()
	}
	return fmt.Sprintf("pass %d: %s", p, p)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// An fsckPrinter prints a report.
type fsckPrinter struct {
	o       *output
	r       *fsck.Report
	failed  bool // the check could not go to the end
	verbose bool
	pass    fsck.Pass // of the heading that is out
	headed  bool
}

// text prints a line for each problem, and a summary.
func (p *fsckPrinter) text(image string) {
	for _, problem := range p.r.Problems {
		p.problem(problem, 0)
	}
	r := p.r
	if r.Left > 0 {
		p.o.line(fmt.Sprintf("and %d more that are not listed", r.Left))
	}
	errors, warnings, notes := r.Count(fsck.Error), r.Count(fsck.Warning), r.Count(fsck.Note)
	verdict := p.o.styles.good("no damage")
	if r.Damaged() {
		verdict = p.o.styles.bad(counted(uint64(errors)+r.Left, "error", "errors"))
	}
	switch {
	case r.Cancelled:
		verdict = "interrupted; so far " + verdict
	case p.failed:
		verdict = "not checked to the end; so far " + verdict
	}
	if warnings > 0 {
		verdict += ", " + counted(uint64(warnings), "warning", "warnings")
	}
	if notes > 0 {
		verdict += ", " + counted(uint64(notes), "note", "notes")
	}
	p.o.line(shownName(image) + ": " + verdict)
	s := &r.Stats
	if p.verbose {
		p.statistics()
	} else if !r.Cancelled && !p.failed {
		p.o.line(fmt.Sprintf("%d/%d inodes: %s, %s, %s non-contiguous; %d/%d blocks", s.UsedInodes, s.Inodes,
			counted(s.Files, "file", "files"), counted(s.Directories, "directory", "directories"),
			percent(s.FragmentedFiles+s.FragmentedDirs, s.UsedInodes), s.UsedBlocks, s.Blocks))
	}
}

func percent(n, of uint64) string { return fmt.Sprintf("%.1f%%", 100*float64(n)/float64(max(of, 1))) }

// problem prints one problem and, when asked for, what follows from it.
func (p *fsckPrinter) problem(f *fsck.Problem, depth int) {
	if f.Severity == fsck.Note && !p.verbose {
		return
	}
	if depth == 0 && (!p.headed || f.Pass != p.pass) {
		p.o.line(p.o.styles.name(capital(passTitle(f.Pass))))
		p.pass, p.headed = f.Pass, true
	}
	severity := f.Severity.String()
	if f.Severity == fsck.Error {
		severity = p.o.styles.bad(severity)
	}
	line := strings.Repeat("  ", depth+1) + severity + " " + f.Code + ": "
	if place := placeText(&f.Place); place != "" {
		line += place + ": "
	}
	line += shownName(f.Text()) + rangesText(f) + ownersText(f)
	if f.Repair && f.Severity != fsck.Note {
		line += " (repairable)"
	}
	if n := len(f.Follows); n > 0 && !p.verbose {
		line += " (and " + counted(uint64(n), "problem that follows", "problems that follow") + ")"
	}
	p.o.line(line)
	if p.verbose {
		for _, g := range f.Follows {
			p.problem(g, depth+1)
		}
	}
}

// placeText is where a problem is.
func placeText(p *fsck.Place) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if p.InGroup {
		add("group %d", p.Group)
	}
	switch {
	case p.Dir != 0 && p.Path != "":
		add("%s (in directory inode %d)", shownName(p.Path), p.Dir)
	case p.Dir != 0:
		add("entry %s of directory inode %d", shownName(p.Name), p.Dir)
	case p.Ino != 0 && p.Path != "":
		add("%s (inode %d)", shownName(p.Path), p.Ino)
	case p.Ino != 0:
		add("inode %d", p.Ino)
	case p.Path != "":
		add("%s", shownName(p.Path))
	}
	if p.InFile {
		add("file block %d", p.LBlock)
	}
	if p.OnBlock {
		add("block %d+%#x", p.Block, p.Off)
	}
	return strings.Join(parts, ", ")
}

// shownRanges is how many ranges, and how many owners, a line has.
const shownRanges = 10

func rangesText(f *fsck.Problem) string {
	if len(f.Ranges) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(":")
	for _, r := range f.Ranges[:min(shownRanges, len(f.Ranges))] {
		sign := '-' // e2fsck's: to be removed from the bitmap
		if r.Missing {
			sign = '+'
		}
		if fmt.Fprintf(&b, " %c%d", sign, r.First); r.Last > r.First {
			fmt.Fprintf(&b, "..%d", r.Last)
		}
	}
	if n := uint64(max(0, len(f.Ranges)-shownRanges)) + f.More; n > 0 {
		fmt.Fprintf(&b, " and %d more", n)
	}
	return b.String()
}

func ownersText(f *fsck.Problem) string {
	if len(f.Owners) == 0 {
		return ""
	}
	var list []string
	for _, w := range f.Owners[:min(shownRanges, len(f.Owners))] {
		switch {
		case w.Ino == 0:
			list = append(list, "the file system's metadata")
		case w.Path != "":
			list = append(list, fmt.Sprintf("%s (inode %d)", shownName(w.Path), w.Ino))
		default:
			list = append(list, fmt.Sprintf("inode %d", w.Ino))
		}
	}
	if n := len(f.Owners) - shownRanges; n > 0 {
		list = append(list, fmt.Sprintf("%d more", n))
	}
	return "; owners: " + strings.Join(list, ", ")
}

// statistics prints what e2fsck -v prints.
func (p *fsckPrinter) statistics() {
	s := &p.r.Stats
	n := func(v uint64, text string) { p.o.line(fmt.Sprintf("%12d %s", v, text)) }
	n(s.UsedInodes, fmt.Sprintf("inodes used (%s, out of %d)", percent(s.UsedInodes, s.Inodes), s.Inodes))
	n(s.FragmentedFiles, fmt.Sprintf("non-contiguous files (%s)", percent(s.FragmentedFiles, s.UsedInodes)))
	n(s.FragmentedDirs, fmt.Sprintf("non-contiguous directories (%s)", percent(s.FragmentedDirs, s.UsedInodes)))
	p.o.line(fmt.Sprintf("%12s # of inodes with ind/dind/tind blocks: %d/%d/%d", "", s.Indirect[0], s.Indirect[1], s.Indirect[2]))
	depths := make([]string, 0, len(s.ExtentDepth))
	for i, n := range s.ExtentDepth {
		if n > 0 || i == 0 {
			for len(depths) < i {
				depths = append(depths, "0")
			}
			depths = append(depths, fmt.Sprint(n))
		}
	}
	p.o.line(fmt.Sprintf("%12s Extent depth histogram: %s", "", strings.Join(depths, "/")))
	n(s.UsedBlocks, fmt.Sprintf("blocks used (%s, out of %d)", percent(s.UsedBlocks, s.Blocks), s.Blocks))
	n(s.BadBlocks, "bad blocks")
	n(s.LargeFiles, "large files")
	n(s.Files, "regular files")
	n(s.Directories, "directories")
	n(s.CharDevs, "character device files")
	n(s.BlockDevs, "block device files")
	n(s.FIFOs, "fifos")
	n(s.Links, "links")
	n(s.Symlinks, fmt.Sprintf("symbolic links (%d fast symbolic links)", s.FastSymlinks))
	n(s.Sockets, "sockets")
	p.o.line("------------")
	n(s.Files+s.Directories+s.CharDevs+s.BlockDevs+s.FIFOs+s.Links+s.Symlinks+s.Sockets, "files")
}

// json prints the report as one document.
func (p *fsckPrinter) json(image string, inUse bool) {
	o, r, sb := p.o, p.r, &p.r.Super
	o.kName("image", image)
	o.kBool("damaged", r.Damaged())
	o.kBool("complete", !r.Cancelled && !p.failed)
	o.kBool("cancelled", r.Cancelled)
	o.kBool("in_use", inUse)
	o.kBool("replayed", r.Replayed)
	if sb.Magic != 0 {
		o.kObj("super")
		o.kStr("label", sb.Label)
		o.kStr("uuid", uuidText(sb.UUID))
		o.kInt("offset", r.SuperOffset)
		o.kStrs("features", append(append(sb.Compat.Names(), sb.Incompat.Names()...), sb.ROCompat.Names()...))
		o.kUint("block_size", uint64(sb.BlockSize()))
		o.kUint("blocks", sb.Blocks)
		o.kUint("inodes", uint64(sb.Inodes))
		o.end()
	}
	o.kInt("errors", int64(r.Count(fsck.Error)))
	o.kInt("warnings", int64(r.Count(fsck.Warning)))
	o.kInt("notes", int64(r.Count(fsck.Note)))
	o.kUint("errors_not_listed", r.Left)
	o.kArr("problems")
	for _, f := range r.Problems {
		p.problemJSON(f)
	}
	o.end()
	s := &r.Stats
	o.kObj("statistics")
	for _, v := range []struct {
		key string
		n   uint64
	}{
		{"inodes", s.Inodes}, {"inodes_used", s.UsedInodes}, {"blocks", s.Blocks}, {"blocks_used", s.UsedBlocks},
		{"files", s.Files}, {"directories", s.Directories}, {"char_devices", s.CharDevs}, {"block_devices", s.BlockDevs},
		{"fifos", s.FIFOs}, {"sockets", s.Sockets}, {"symlinks", s.Symlinks}, {"fast_symlinks", s.FastSymlinks}, {"links", s.Links},
		{"bad_blocks", s.BadBlocks}, {"large_files", s.LargeFiles}, {"fragmented_files", s.FragmentedFiles}, {"fragmented_directories", s.FragmentedDirs},
	} {
		o.kUint(v.key, v.n)
	}
	counts := func(key string, list []uint64) {
		o.kArr(key)
		for _, n := range list {
			o.elem(n)
		}
		o.end()
	}
	counts("indirect", s.Indirect[:])
	counts("extent_depth", s.ExtentDepth[:])
	o.end()
	o.kArr("passes")
	for pass, d := range r.Times {
		o.obj()
		o.kInt("pass", int64(pass))
		o.kStr("name", fsck.Pass(pass).String())
		o.kInt("microseconds", d.Microseconds())
		o.end()
	}
	o.end()
}

func (p *fsckPrinter) problemJSON(f *fsck.Problem) {
	o, at := p.o, &f.Place
	o.obj()
	o.kStr("code", f.Code)
	o.kStr("severity", f.Severity.String())
	o.kInt("pass", int64(f.Pass))
	var classes []string
	for _, c := range f.Classes() {
		classes = append(classes, c.String())
	}
	o.kStrs("e2fsck", classes)
	o.kBool("repairable", f.Repair)
	o.kStr("message", f.Text())
	if f.Have != "" {
		o.kStr("have", f.Have)
	}
	if f.Want != "" {
		o.kStr("want", f.Want)
	}
	if at.InGroup {
		o.kUint("group", uint64(at.Group))
	}
	if at.Ino != 0 {
		o.kUint("ino", uint64(at.Ino))
	}
	if at.Dir != 0 {
		o.kUint("dir", uint64(at.Dir))
		o.kName("name", at.Name)
	}
	if at.Path != "" {
		o.kName("path", at.Path)
	}
	if at.InFile {
		o.kUint("file_block", at.LBlock)
	}
	if at.OnBlock {
		o.kUint("block", uint64(at.Block))
		o.kInt("offset", int64(at.Off))
	}
	if len(f.Ranges) > 0 {
		o.kArr("ranges")
		for _, r := range f.Ranges {
			o.obj()
			o.kUint("first", r.First)
			o.kUint("last", r.Last)
			o.kBool("missing", r.Missing)
			o.end()
		}
		o.end()
		o.kUint("ranges_not_listed", f.More)
	}
	if len(f.Owners) > 0 {
		o.kArr("owners")
		for _, w := range f.Owners {
			o.obj()
			o.kUint("ino", uint64(w.Ino))
			if w.Path != "" {
				o.kName("path", w.Path)
			}
			o.end()
		}
		o.end()
	}
	if len(f.Follows) > 0 {
		o.kArr("follows")
		for _, g := range f.Follows {
			p.problemJSON(g)
		}
		o.end()
	}
	o.end()
}

// problemsTopic is the table of problems, for e4go help problems.
func problemsTopic() string {
	var b strings.Builder
	b.WriteString(`What fsck-lite finds: code, severity, the problem class of e2fsck (as its -E problem_log prints them) where it has one, and the
sentence. * marks those with one right repair, which loses nothing.
`)
	kinds := slices.Clone(fsck.Kinds())
	slices.SortStableFunc(kinds, func(a, b *fsck.Kind) int { return cmp.Compare(a.Pass, b.Pass) })
	for i, k := range kinds {
		if i == 0 || k.Pass != kinds[i-1].Pass {
			fmt.Fprintf(&b, "\n%s\n", capital(passTitle(k.Pass)))
		}
		class, star := "-", " "
		if k.Class != 0 {
			class = k.Class.String()
		}
		if k.Repair {
			star = "*"
		}
		fmt.Fprintf(&b, "  %-30s %-7s %-8s %s %s\n", k.Code, k.Severity, class, star, k.Sentence)
	}
	return b.String()
}

package commands

import (
	"fmt"
	"strconv"

	"e4go/iomap"
	"e4go/iomap/ext4map"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

var iomapProbeCommand = &cli.Command{
	Name:      "iomap-probe",
	Usage:     "show the mapping that an iomap server would give the kernel",
	ArgsUsage: "FILE OFFSET",
	Description: `Asks for the bytes of FILE from OFFSET on what a kernel with fuse-iomap asks a
FUSE server (FUSE_IOMAP_BEGIN), shows both mappings of the answer, and judges them
by the rules of that kernel. It works on any kernel: nothing is mounted.

OFFSET and --count are bytes and may end in k, m, g. docs/IOMAP.md explains the
words and the rules.

Operations (--op):
  report    FIEMAP, SEEK_DATA, SEEK_HOLE, bmap: only a question (default)
  read      a buffered read or a read fault
  dio-read  a direct read

With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number
(12 or <12>); without one, it is a path on a mounted ext4, whose device is read.

--plain has: op, pos, count, then of the read mapping offset, length, addr (or -), type,
flags, dev, then the same of the write mapping, then the verdict: ok or the numbers of the rules.

Examples:
  e4go iomap-probe -i disk.img /var/lib/db 1m
  e4go iomap-probe -i disk.img --op dio-read --count 64k 12 0
  e4go iomap-probe -i disk.img --walk --plain /var/lib/db 0

Exit status:
  0 the kernel would accept every answer; 1 it would refuse one; 2 trouble;
  4 damage; 5 the operation is not served. See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.StringFlag{Name: "op", Value: "report", Usage: "the `OPERATION` that asks: report, read, dio-read"},
		&cli.StringFlag{Name: "count", Usage: "ask for `N` bytes; default: one block, with --walk up to the end of the file"},
		&cli.BoolFlag{Name: "walk", Usage: "ask again behind each answer until the end, as the kernel does"},
		&cli.StringFlag{Name: "protocol", Value: "v7", Usage: "judge as a kernel of `VERSION` v7 or v8 does"},
	),
	Action: runIomapProbe,
}

func runIomapProbe(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("%d arguments, want two: %s", c.NArg(), c.Command.ArgsUsage)
	}
	pos, err := parseSize(c.Args().Get(1))
	if err != nil {
		return usagef("OFFSET: %v", err)
	}
	op, err := iomap.ParseOperation(c.String("op"))
	if err != nil {
		return usageHint(didYouMean(c.String("op"), probeOps), "--op is %q, want report, read or dio-read", c.String("op"))
	}
	version, err := parseVersion(c.String("protocol"))
	if err != nil {
		return err
	}
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	f, err := s.file(c.Args().First(), true)
	if err != nil {
		return err
	}
	def := uint64(f.im.fs.Super().BlockSize())
	if c.Bool("walk") {
		def = max(1, uint64(max(0, f.Size()))-min(pos, uint64(max(0, f.Size()))))
	}
	count, err := sizeFlag(c, "count", def)
	if err != nil {
		return err
	}
	if count == 0 {
		return usagef("--count is 0, want at least 1")
	}
	p := &prober{o: out(c), f: f, op: op, version: version, env: ext4map.Env(f.im.fs)}
	p.begin()
	req := iomap.Request{Op: op.Op, Pos: pos, Count: count}
	opts := ext4map.OptionsFor(f.im.fs, f.Inode)
	if c.Bool("walk") {
		err = ext4map.Walk(f.Inode, req, opts, p.answer)
	} else {
		var reply iomap.Reply
		if reply, err = ext4map.Begin(f.Inode, req, opts); err == nil {
			err = p.answer(req, reply)
		}
	}
	return p.finish(err)
}

// probeOps are the operations that the command offers.
var probeOps = []string{"report", "read", "dio-read"}

func parseVersion(s string) (iomap.Version, error) {
	switch s {
	case "v7", "7":
		return iomap.V7, nil
	case "v8", "8":
		return iomap.V8, nil
	}
	return 0, usagef("--protocol is %q, want v7 or v8", s)
}

// A prober prints questions and answers.
type prober struct {
	o       *output
	f       *file
	op      iomap.Operation
	version iomap.Version
	env     iomap.Env
	refused int // answers that the kernel would refuse
	asked   int
}

func (p *prober) begin() {
	if !p.o.json {
		return
	}
	p.o.kName("path", p.f.path)
	p.o.kUint("ino", uint64(p.f.Ino()))
	p.o.kInt("size", p.f.Size())
	p.o.kStr("source", "iomap")
	p.o.kStr("protocol", p.version.String())
	p.o.kArr("answers")
}

// answer prints one question, its answer, and the verdict.
func (p *prober) answer(req iomap.Request, reply iomap.Reply) error {
	p.asked++
	found := iomap.Validate(p.version, req, reply, p.env)
	if len(found) > 0 {
		p.refused++
	}
	switch {
	case p.o.json:
		p.json(req, reply, found)
	case p.o.plain:
		p.plain(req, reply, found)
	default:
		p.text(req, reply, found)
	}
	if !p.o.ok() {
		return p.o.fail()
	}
	return nil
}

func (p *prober) finish(err error) error {
	if p.o.json {
		for len(p.o.nest) > 1 {
			p.o.end()
		}
		if err == nil {
			p.o.kBool("ok", p.refused == 0)
		}
	}
	switch {
	case err != nil:
		return &pathError{p.f.path, err}
	case p.refused > 0:
		return exit(exitFindings, nil)
	}
	return p.o.fail()
}

func (p *prober) text(req iomap.Request, reply iomap.Reply, found iomap.Violations) {
	o := p.o
	if p.asked > 1 {
		o.line("")
	}
	o.line(fmt.Sprintf("%s (%s)  opflags %s  pos %d  count %d", iomap.OpcodeBegin, p.op.Name, req.Op, req.Pos, req.Count))
	for _, side := range []struct {
		name string
		m    iomap.Mapping
	}{{"read ", reply.Read}, {"write", reply.Write}} {
		o.line(fmt.Sprintf("  %s  %s", o.styles.name(side.name), side.m))
	}
	if len(found) == 0 {
		o.line("  verdict " + p.version.String() + ": " + o.styles.good("ok"))
		return
	}
	o.line(fmt.Sprintf("  verdict %s: %s: %s", p.version, o.styles.bad("refused"), unix.ErrnoName(found.Errno())))
	for _, v := range found {
		o.line("    " + v.Error())
	}
}

func (p *prober) plain(req iomap.Request, reply iomap.Reply, found iomap.Violations) {
	o := p.o
	o.str(fmt.Sprintf("%s\t%d\t%d", p.op.Name, req.Pos, req.Count))
	for _, m := range []iomap.Mapping{reply.Read, reply.Write} {
		addr := "-"
		if m.Addr != iomap.NullAddr {
			addr = strconv.FormatUint(m.Addr, 10)
		}
		o.str(fmt.Sprintf("\t%d\t%d\t%s\t%s\t%s\t%d", m.Offset, m.Length, addr, m.Type, m.Flags, m.Dev))
	}
	verdict := "ok"
	for i, v := range found {
		if i == 0 {
			verdict = ""
		} else {
			verdict += ","
		}
		verdict += strconv.Itoa(int(v.Rule))
	}
	o.line("\t" + verdict)
}

func (p *prober) json(req iomap.Request, reply iomap.Reply, found iomap.Violations) {
	o := p.o
	o.obj()
	o.kStr("opcode", iomap.OpcodeBegin.String())
	o.kStr("op", p.op.Name)
	o.kUint("opflags", uint64(req.Op))
	o.kStrs("opflag_names", req.Op.Names())
	o.kUint("pos", req.Pos)
	o.kUint("count", req.Count)
	for _, side := range []struct {
		key string
		m   iomap.Mapping
	}{{"read", reply.Read}, {"write", reply.Write}} {
		o.key(side.key)
		o.extent(mappingExtent(side.m))
		o.kStr("type", side.m.Type.String())
		o.kUint("dev", uint64(side.m.Dev))
		o.end()
	}
	o.kBool("ok", len(found) == 0)
	o.kArr("violations")
	for _, v := range found {
		o.obj()
		o.kInt("rule", int64(v.Rule))
		o.kStr("side", v.Side.String())
		o.kStr("field", v.Field)
		o.kStr("have", v.Have)
		o.kStr("want", v.Want)
		o.kStr("errno", unix.ErrnoName(v.Errno))
		o.end()
	}
	o.end()
	o.end()
}

// mappingExtent is a mapping in the common form; its flags are the protocol's.
func mappingExtent(m iomap.Mapping) extent {
	x := extent{
		logical: m.Offset, physical: m.Addr, nowhere: m.Addr == iomap.NullAddr, length: m.Length,
		flags: uint32(m.Flags), flagNames: append([]string{}, m.Flags.Names()...),
	}
	switch m.Type {
	case iomap.TypeHole:
		x.state = stateHole
	case iomap.TypeDelalloc:
		x.state = stateDelalloc
	case iomap.TypeMapped:
		x.state = stateWritten
	case iomap.TypeUnwritten:
		x.state = stateUnwritten
	case iomap.TypeInline:
		x.state = stateInline
	default:
		x.state = stateCache
	}
	return x
}

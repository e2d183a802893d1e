package commands

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

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
  report     FIEMAP: only a question (default)     seek    SEEK_DATA, SEEK_HOLE
  read       a buffered read, a read fault          bmap    FIBMAP
  readahead  read-ahead                             swapon  swapon (also: swapfile)
  dio-read   a direct read
  write      a buffered write                       dio-write  a direct write
  mkwrite    a mapped page is written (also: fault) atomic     a direct write that does not tear
  writeback  dirty pages are written                zero       truncate, punch, write beyond the end

The operations of the last three lines allocate or change what they need. That happens in
memory: the image is never written. An answer RETRY_CACHE sends the kernel to its mapping
cache, and what has been put there is shown with it (cache).

With an image (--image or $E4GO_IMAGE), FILE is a path in it or an inode number
(12 or <12>); without one, it is a path on a mounted ext4, whose device is read.

--plain has: op, pos, count, then of the read mapping offset, length, addr (or -), type,
flags, dev, then the same of the write mapping, then the verdict: ok or the numbers of the rules.

Examples:
  e4go iomap-probe -i disk.img /var/lib/db 1m
  e4go iomap-probe -i disk.img --op dio-read --count 64k 12 0
  e4go iomap-probe -i disk.img --walk --plain /var/lib/db 0
  e4go iomap-probe -i disk.img --op dio-write --count 8k /var/lib/db 1m
  e4go iomap-probe -i disk.img --all-ops /var/lib/db 1m
  e4go iomap-probe -i disk.img --simulate --op write --count 64k /var/lib/db 1m

Exit status:
  0 the kernel would accept every answer; 1 it would refuse one; 2 trouble;
  4 damage; 5 the operation is not served. See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.StringFlag{Name: "op", Value: "report", Usage: "the `OPERATION` that asks"},
		&cli.StringFlag{Name: "opflags", Usage: "ask with these `FLAGS` instead: a number, or names as WRITE|DIRECT"},
		&cli.BoolFlag{Name: "simulate", Usage: "do the operation, on a copy in memory, and show all that is said and what becomes of the file"},
		&cli.BoolFlag{Name: "all-ops", Usage: "ask for each operation, on a fresh copy, and show what it would get"},
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
	op, err := probeOperation(c)
	if err != nil {
		return err
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
	p := &prober{o: out(c), f: f, op: op, version: version}
	if c.Bool("all-ops") {
		if c.Bool("walk") || c.IsSet("op") || c.IsSet("opflags") {
			return usagef("--all-ops asks one question for each operation: it goes without --op, --opflags and --walk")
		}
		return p.allOps(c.Context, pos, count)
	}
	if c.Bool("simulate") {
		return p.simulate(c, pos, count)
	}
	p.begin()
	req := iomap.Request{Op: op.Op, Pos: pos, Count: count}
	if !op.Op.IsWrite() {
		p.env = ext4map.Env(f.im.fs)
		opts := ext4map.OptionsFor(f.im.fs, f.Inode)
		ask := func(req iomap.Request) (iomap.Reply, error) { return ext4map.Begin(f.Inode, req, opts) }
		return p.finish(p.ask(req, c.Bool("walk"), ask))
	}
	p.server, err = newProbeServer(c.Context, f.im, f.Ino())
	if err != nil {
		return p.finish(err)
	}
	defer p.server.close()
	ask := func(req iomap.Request) (iomap.Reply, error) { return p.server.begin(c.Context, req) }
	return p.finish(p.ask(req, c.Bool("walk"), ask))
}

// ask puts the question, and with walk goes on behind each answer as the kernel does.
func (p *prober) ask(req iomap.Request, walk bool, begin func(iomap.Request) (iomap.Reply, error)) error {
	for end := req.Pos + min(req.Count, math.MaxInt64-min(req.Pos, math.MaxInt64)); ; {
		reply, err := begin(req)
		if err != nil {
			return err
		}
		if err := p.answer(req, reply); err != nil || !walk {
			return err
		}
		next, ok := reply.Read.End()
		if !ok || next <= req.Pos || next >= end {
			return nil
		}
		req.Pos, req.Count = next, end-next
	}
}

// probeOperation is the operation that the flags name.
func probeOperation(c *cli.Context) (iomap.Operation, error) {
	if s := c.String("opflags"); s != "" {
		if c.IsSet("op") {
			return iomap.Operation{}, usagef("--op and --opflags both say what to ask: give one of them")
		}
		op, err := iomap.ParseOp(s)
		if err != nil {
			return iomap.Operation{}, usagef("--opflags: %v", err)
		}
		for _, o := range iomap.Operations() {
			if o.Op == op {
				return o, nil
			}
		}
		return iomap.Operation{Name: "opflags", Op: op}, nil
	}
	op, err := iomap.ParseOperation(c.String("op"))
	if err != nil {
		names := probeOps()
		return op, usageHint(didYouMean(c.String("op"), names), "--op is %q, want one of %s", c.String("op"), strings.Join(names, ", "))
	}
	return op, nil
}

// probeOps are the names of the operations.
func probeOps() []string {
	var names []string
	for _, o := range iomap.Operations() {
		names = append(names, o.Name)
	}
	return names
}

// allOps shows what each operation would get, each on a copy of its own. Errors are answers, too.
func (p *prober) allOps(ctx context.Context, pos, count uint64) error {
	p.begin()
	if !p.o.json && !p.o.plain {
		p.rows = newTable(p.o, column{name: "Op", width: 10, left: true}, column{name: "Opflags", width: 20, left: true}, column{name: "Mapping", width: 11, left: true},
			column{name: "Offset", width: 12}, column{name: "Length", width: 12}, column{name: "Address", width: 14},
			column{name: "Flags", width: 11, left: true}, column{name: "Verdict", left: true})
		defer p.rows.close()
	}
	for _, op := range iomap.Operations() {
		if !p.o.ok() {
			break
		}
		p.op = op
		s, err := newProbeServer(ctx, p.f.im, p.f.Ino())
		if err != nil {
			return p.finish(err)
		}
		p.server = s
		req := iomap.Request{Op: op.Op, Pos: pos, Count: count}
		if op.Op&iomap.OpAtomic != 0 { // exactly one block, or the kernel does not ask
			bs := uint64(s.fs.Super().BlockSize())
			req.Pos, req.Count = pos/bs*bs, bs
		}
		reply, err := s.begin(ctx, req)
		if err == nil {
			err = p.answer(req, reply)
		} else {
			p.declined(req, err)
			err = nil
		}
		s.close()
		if err != nil {
			return p.finish(err)
		}
	}
	return p.finish(nil)
}

// declined prints a question that is answered with an error.
func (p *prober) declined(req iomap.Request, err error) {
	p.asked++
	var errno unix.Errno
	name := "EIO"
	if errors.As(err, &errno) {
		name = unix.ErrnoName(errno)
	}
	o := p.o
	switch {
	case o.json:
		p.question(req)
		o.kStr("error", name)
		o.kStr("reason", err.Error())
		o.kBool("ok", true)
		o.end()
	case o.plain:
		o.line(fmt.Sprintf("%s\t%d\t%d%s\t%s", p.op.Name, req.Pos, req.Count, strings.Repeat("\t-", 12), name))
	default:
		p.row(req, name, iomap.Mapping{})
	}
}

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
	server  *probeServer // of operations that write; else nil
	rows    *table       // of all operations; else nil
	refused int          // answers that the kernel would refuse
	asked   int
}

// simulate does the operation.
func (p *prober) simulate(c *cli.Context, pos, count uint64) error {
	if c.Bool("walk") || c.Bool("plain") || p.op.Name == "opflags" {
		return usagef("--simulate does one operation that has a name: it goes without --walk, --plain and other --opflags")
	}
	sim, err := simulate(c.Context, p.f.im, p.f.path, p.f.Ino(), p.op, p.version, pos, count)
	if sim == nil {
		return &pathError{p.f.path, err}
	}
	p.head()
	if p.o.json {
		p.o.kStr("op", p.op.Name)
	}
	p.simulated(sim)
	p.refused = len(sim.breaches)
	return p.finish(err)
}

func (p *prober) begin() {
	if p.o.json {
		p.head()
		p.o.kArr("answers")
	}
}

// head prints what the file is.
func (p *prober) head() {
	if !p.o.json {
		return
	}
	p.o.kName("path", p.f.path)
	p.o.kUint("ino", uint64(p.f.Ino()))
	p.o.kInt("size", p.f.Size())
	p.o.kStr("source", "iomap")
	p.o.kStr("protocol", p.version.String())
}

// answer prints one question, its answer, and the verdict.
func (p *prober) answer(req iomap.Request, reply iomap.Reply) error {
	p.asked++
	if p.server != nil {
		p.env = p.server.env()
	}
	found := iomap.Validate(p.version, req, reply, p.env)
	if len(found) > 0 {
		p.refused++
	}
	switch {
	case p.o.json:
		p.json(req, reply, found)
	case p.o.plain:
		p.plain(req, reply, found)
	case p.rows != nil:
		verdict := p.o.styles.good("ok")
		if len(found) > 0 {
			verdict = p.o.styles.bad(unix.ErrnoName(found.Errno())) + ": " + found[0].Error()
		}
		m := reply.Read
		for _, u := range p.upserts() {
			m = u.Read
		}
		p.row(req, verdict, m)
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
	p.heading(req)
	for _, side := range []struct {
		name string
		m    iomap.Mapping
	}{{"read ", reply.Read}, {"write", reply.Write}} {
		o.line(fmt.Sprintf("  %s  %s", o.styles.name(side.name), side.m))
	}
	for _, u := range p.upserts() {
		o.line(fmt.Sprintf("  %s  %s", o.styles.name("cache"), u.Read))
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

// row prints a question as a row of the table of all operations; the zero mapping is none.
func (p *prober) row(req iomap.Request, verdict string, m iomap.Mapping) {
	t := p.rows
	t.str(p.op.Name)
	t.str(req.Op.String())
	if m.Length == 0 {
		for range 5 {
			t.str("-")
		}
	} else {
		t.str(m.Type.String())
		t.uint(m.Offset)
		t.uint(m.Length)
		if m.Addr == iomap.NullAddr {
			t.str("-")
		} else {
			t.uint(m.Addr)
		}
		t.str(m.Flags.String())
	}
	t.str(verdict)
	t.end()
}

// heading prints a question.
func (p *prober) heading(req iomap.Request) {
	if p.asked > 1 {
		p.o.line("")
	}
	p.o.line(fmt.Sprintf("%s (%s)  opflags %s  pos %d  count %d", iomap.OpcodeBegin, p.op.Name, req.Op, req.Pos, req.Count))
}

// upserts are what the mapping cache was given with the last answer.
func (p *prober) upserts() []iomap.Upsert {
	if p.server == nil {
		return nil
	}
	return p.server.cache
}

func (p *prober) plain(req iomap.Request, reply iomap.Reply, found iomap.Violations) {
	o := p.o
	o.str(fmt.Sprintf("%s\t%d\t%d", p.op.Name, req.Pos, req.Count))
	for _, u := range p.upserts() { // what the kernel will find
		reply = iomap.Reply(u)
	}
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

// question begins the object of a question.
func (p *prober) question(req iomap.Request) {
	o := p.o
	o.obj()
	o.kStr("opcode", iomap.OpcodeBegin.String())
	o.kStr("op", p.op.Name)
	o.kUint("opflags", uint64(req.Op))
	o.kStrs("opflag_names", req.Op.Names())
	o.kUint("pos", req.Pos)
	o.kUint("count", req.Count)
}

func (p *prober) json(req iomap.Request, reply iomap.Reply, found iomap.Violations) {
	o := p.o
	p.question(req)
	for _, side := range []struct {
		key string
		m   iomap.Mapping
	}{{"read", reply.Read}, {"write", reply.Write}} {
		o.key(side.key)
		p.mapping(side.m)
	}
	if u := p.upserts(); len(u) > 0 {
		o.kArr("cache")
		for _, u := range u {
			p.mapping(u.Read)
		}
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

// mapping prints a mapping as an object.
func (p *prober) mapping(m iomap.Mapping) {
	p.o.extent(mappingExtent(m))
	p.o.kStr("type", m.Type.String())
	p.o.kUint("dev", uint64(m.Dev))
	p.o.end()
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

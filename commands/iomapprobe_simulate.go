package commands

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"math"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fusesrv"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// --simulate does the operation on a copy of the file system in memory, under a
// simulated kernel and the server of a mount: BEGIN, the I/O, END, IOEND.

// A simulation is what has been said, and the file before and after it.
type simulation struct {
	events        []simkernel.Event
	before, after fileShape
	breaches      []error
}

// fileShape is what an operation may change of a file.
type fileShape struct {
	size, blocks uint64 // blocks: of 512 bytes
	runs         []ext4.Mapping
	inline       bool
}

// maxShapeRuns bounds what is shown of a map.
const maxShapeRuns = 1000

func shapeOf(fs *ext4.FS, ino disk.Ino) (s fileShape, err error) {
	in, err := fs.Inode(ino)
	if err != nil {
		return s, err
	}
	st := in.Stat()
	s.size, s.blocks, s.inline = uint64(st.Size), st.Blocks, in.HasInlineData()
	for b := uint64(0); !s.inline && b < 1<<32 && len(s.runs) < maxShapeRuns; {
		m, err := in.Map(disk.LBlock(b))
		if err != nil {
			return s, err
		}
		if m.State != ext4.MapHole {
			s.runs = append(s.runs, m)
		}
		b = m.End()
	}
	return s, nil
}

// simulate does op with n bytes at pos of the file at path in im.
func simulate(ctx context.Context, im *image, path string, ino disk.Ino, op iomap.Operation, version iomap.Version, pos, n uint64) (*simulation, error) {
	fs, dev, err := overlaid(ctx, im)
	if err != nil {
		return nil, err
	}
	defer abandon(fs)
	sim := &simulation{}
	if sim.before, err = shapeOf(fs, ino); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	k := simkernel.New(simkernel.Options{Version: version, Trace: func(e simkernel.Event) {
		mu.Lock()
		defer mu.Unlock()
		sim.events = append(sim.events, e)
	}})
	mounted := make(chan error, 1)
	go func() { mounted <- k.Mount() }()
	register := func() (fusesrv.Backing, error) {
		id, err := k.BackingOpen(dev, true, true)
		return fusesrv.Backing{ID: id, AtomicMin: 512, AtomicMax: 64 << 10}, err // as the best devices do
	}
	s, err := fusesrv.Connect(fs, simConn{k.Dev()}, fusesrv.Options{Log: log.New(&bytes.Buffer{}, "", 0)}, register)
	if err != nil {
		k.Kill()
		<-mounted
		return nil, err
	}
	var served sync.WaitGroup
	served.Go(s.Serve)
	defer func() { k.Kill(); served.Wait() }()
	if err := <-mounted; err != nil {
		return nil, err
	}
	flags := unix.O_RDWR
	if op.Op&iomap.OpDirect != 0 {
		flags |= unix.O_DIRECT
	}
	f, err := k.Open(simkernel.Cred{}, path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	mu.Lock()
	sim.events = nil
	mu.Unlock()
	operr := play(f, op, int64(pos), int64(n))
	if operr == nil {
		operr = f.Fsync(false)
	}
	mu.Lock()
	events := sim.events
	sim.events = nil
	for _, e := range events {
		if e.Opcode >= uint32(iomap.OpcodeFreezeFS) {
			sim.events = append(sim.events, e)
		}
	}
	mu.Unlock()
	sim.breaches = k.Breaches()
	if sim.after, err = shapeOf(fs, ino); err == nil {
		err = operr
	}
	return sim, err
}

// play makes the system call that op comes from.
func play(f *simkernel.File, op iomap.Operation, pos, n int64) error {
	const most = 1 << 30
	if n > most || pos > math.MaxInt64-n {
		return fmt.Errorf("%d bytes at %d: --simulate does not move more than %d: %w", n, pos, int64(most), unix.EFBIG)
	}
	p := make([]byte, n)
	var err error
	switch op.Name {
	case "report":
		_, err = f.Fiemap(pos, n, true)
	case "seek":
		if _, err = f.Seek(pos, simkernel.SeekData); err == unix.ENXIO {
			err = nil // there is none
		}
	case "bmap":
		_, err = f.Bmap(pos)
	case "swapon":
		err = f.Swapon()
	case "read", "readahead", "dio-read":
		_, err = f.ReadAt(p, pos)
	case "mkwrite":
		err = f.Store(p, pos)
	case "atomic":
		_, err = f.WriteAtomic(p, pos)
	case "zero":
		err = f.Fallocate(simkernel.FallocZeroRange|simkernel.FallocKeepSize, pos, n)
	default: // write, writeback, dio-write
		_, err = f.WriteAt(p, pos)
	}
	return err
}

// simConn is the server's end of the simulated kernel.
type simConn struct{ *simkernel.Dev }

func (simConn) Close() error { return nil }

// simulated prints a simulation.
func (p *prober) simulated(sim *simulation) {
	o := p.o
	if o.json {
		p.shape("before", sim.before)
		o.kArr("events")
		for _, e := range sim.events {
			p.event(e)
		}
		o.end()
		p.shape("after", sim.after)
		o.kArr("breaches")
		for _, b := range sim.breaches {
			o.sep(false)
			o.buf = appendJSONString(o.buf, b.Error())
			o.comma = true
		}
		o.end()
		return
	}
	p.shape("before", sim.before)
	for _, e := range sim.events {
		p.event(e)
	}
	p.shape("after", sim.after)
	for _, b := range sim.breaches {
		o.line(o.styles.bad("breach") + "  " + b.Error())
	}
}

// event prints a message of the protocol with its answer.
func (p *prober) event(e simkernel.Event) {
	o := p.o
	op := iomap.Opcode(e.Opcode)
	errno := ""
	if e.Err != nil {
		errno = "EIO"
		if n, ok := e.Err.(unix.Errno); ok {
			errno = unix.ErrnoName(n)
		}
	}
	if o.json {
		o.obj()
		o.kStr("opcode", op.String())
		switch op {
		case iomap.OpcodeBegin:
			q := e.Begin()
			o.kStrs("opflag_names", q.Op.Names())
			o.kUint("pos", q.Pos)
			o.kUint("count", q.Count)
			if e.Err == nil {
				r := e.BeginReply()
				o.key("read")
				p.mapping(r.Read)
				o.key("write")
				p.mapping(r.Write)
			}
		case iomap.OpcodeEnd:
			q := e.End()
			o.kStrs("opflag_names", q.Op.Names())
			o.kUint("pos", q.Pos)
			o.kUint("count", q.Count)
			o.kInt("written", q.Written)
			o.key("map")
			p.mapping(q.Map)
		case iomap.OpcodeIoend:
			q := e.Ioend()
			o.kStrs("ioend_flag_names", q.Flags.Names())
			o.kInt("error", int64(q.Error))
			o.kUint("pos", q.Pos)
			o.kUint("written", q.Written)
			if e.Err == nil {
				o.kUint("new_size", e.IoendReply())
			}
		}
		if errno != "" {
			o.kStr("errno", errno)
		}
		o.end()
		return
	}
	text := ""
	switch op {
	case iomap.OpcodeBegin:
		q := e.Begin()
		text = fmt.Sprintf("%s  pos %d  count %d", q.Op, q.Pos, q.Count)
		if e.Err == nil {
			text += "  ->  " + e.BeginReply().Read.String()
		}
	case iomap.OpcodeEnd:
		q := e.End()
		text = fmt.Sprintf("%s  pos %d  written %d of %d  %s", q.Op, q.Pos, q.Written, q.Count, q.Map.Flags)
	case iomap.OpcodeIoend:
		q := e.Ioend()
		text = fmt.Sprintf("%s  pos %d  written %d", q.Flags, q.Pos, q.Written)
		if e.Err == nil {
			text += fmt.Sprintf("  ->  size %d", e.IoendReply())
		}
	}
	if errno != "" {
		text += "  ->  " + o.styles.bad(errno)
	}
	o.line(fmt.Sprintf("%-17s  %s", op, text))
}

// shape prints a file's size and map.
func (p *prober) shape(name string, s fileShape) {
	o := p.o
	bs := uint64(p.f.im.fs.Super().BlockSize())
	if o.json {
		o.kObj(name)
		o.kUint("size", s.size)
		o.kUint("blocks", s.blocks)
		o.kBool("inline", s.inline)
		o.kArr("extents")
		for _, m := range s.runs {
			x := extent{logical: uint64(m.Logical) * bs, physical: uint64(m.Physical) * bs, length: m.Len * bs, state: stateWritten, flagNames: []string{}}
			if m.State == ext4.MapUnwritten {
				x.state = stateUnwritten
			}
			o.extent(x)
			o.end()
		}
		o.end()
		o.end()
		return
	}
	what := fmt.Sprintf("%d extents", len(s.runs))
	if s.inline {
		what = "inline data"
	}
	o.line(fmt.Sprintf("%s  size %d, %d blocks of 512 bytes, %s", o.styles.name(name), s.size, s.blocks, what))
	for _, m := range s.runs {
		o.line(fmt.Sprintf("  %d+%d  %s at %d", uint64(m.Logical)*bs, m.Len*bs, m.State, uint64(m.Physical)*bs))
	}
}

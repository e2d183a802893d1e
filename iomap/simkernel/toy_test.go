package simkernel

import (
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"

	"e4go/iomap"
)

// toy is a file system in memory with one directory, which serves as the
// server of these tests. It does what the protocol asks of a server, but for
// the faults that a test gives it.
type toy struct {
	dev  *Dev
	disk Device
	id   uint32
	bs   int64
	regs func(Device) (uint32, error)

	cache bool   // answer by upsert and RETRY_CACHE
	valid uint64 // seconds that names are good, missing ones too
	fault fault

	mu    sync.Mutex
	next  int64 // guarded by mu: the device is used up to here
	files map[uint64]*toyFile
	names map[string]uint64
	last  uint64
	known map[uint64]int // guarded by mu: lookups that are not forgotten
}

// fault is one thing that a server does wrong.
type fault string

type toyFile struct {
	size   int64
	blocks map[int64]toyBlock
	nlink  uint32
	inline []byte // not nil: the data, instead of blocks
}

type toyBlock struct {
	addr      int64
	unwritten bool
}

// memDisk is a device in memory, filled with what no file may show: unused is
// in every byte that has not been written.
type memDisk struct {
	mu sync.Mutex
	b  []byte // each XORed with unused, so that fresh memory will do
}

const unused = 0xee

func newDisk(size int) *memDisk { return &memDisk{b: make([]byte, size)} }

func (d *memDisk) Size() int64 { return int64(len(d.b)) }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range p {
		p[i] = d.b[off+int64(i)] ^ unused
	}
	return len(p), nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range p {
		d.b[off+int64(i)] = p[i] ^ unused
	}
	return len(p), nil
}

// toyOptions say what kind of server, and of kernel.
type toyOptions struct {
	Options
	bs    int64
	cache bool
	valid uint64
	fault fault
}

// mount returns a kernel with a toy mounted; at the end of the test there must
// be no breach, unless the test has a fault.
func mount(t *testing.T, o toyOptions) *Kernel {
	t.Helper()
	k, _ := mountToy(t, o)
	return k
}

func mountToy(t *testing.T, o toyOptions) (*Kernel, *toy) {
	t.Helper()
	k := New(o.Options)
	disk := newDisk(64 << 20)
	if o.bs == 0 {
		o.bs = 4096
	}
	s := &toy{
		dev: k.Dev(), disk: disk, bs: o.bs, cache: o.cache, valid: o.valid, fault: o.fault, known: map[uint64]int{}, next: 1 << 20,
		files: map[uint64]*toyFile{}, names: map[string]uint64{}, last: rootID,
		regs: func(d Device) (uint32, error) { return k.BackingOpen(d, true, true) },
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(s.serve)
	}
	go func() { wg.Wait(); close(done) }()
	t.Cleanup(func() {
		k.Kill()
		<-done
		if o.fault == "" {
			for _, b := range k.Breaches() {
				t.Errorf("breach: %v", b)
			}
		}
	})
	if err := k.Mount(); err != nil {
		t.Fatal(err)
	}
	return k, s
}

func (s *toy) serve() {
	buf := make([]byte, 2<<20)
	for {
		n, err := s.dev.Read(buf)
		if err != nil {
			return
		}
		m := buf[:n]
		op, unique, node := le.Uint32(m[4:]), le.Uint64(m[8:]), le.Uint64(m[16:])
		if op == opForget || op == opBatchForget {
			s.mu.Lock()
			if op == opForget {
				s.known[node] -= int(le.Uint64(m[inHeaderSize:]))
			}
			for b := m[inHeaderSize+8:]; op == opBatchForget && len(b) > 0; b = b[16:] {
				s.known[le.Uint64(b)] -= int(le.Uint64(b[8:]))
			}
			s.mu.Unlock()
			continue
		}
		out, err := s.handle(op, node, m[inHeaderSize:])
		code := uint32(0)
		if err != nil {
			code, out = uint32(-int32(err.(syscall.Errno))), nil
		}
		s.dev.Write(msg().u32(uint32(outHeaderSize + len(out))).u32(code).u64(unique).raw(out).b)
	}
}

func (s *toy) handle(op uint32, node uint64, in []byte) ([]byte, error) {
	switch op {
	case opInit:
		return msg().u32(7).u32(99).u32(0).u32(initExt).u32(0).u32(1 << 20).u32(1).u32(256).u32(initIomap).zeros(28).b, nil
	case opConfig:
		id, err := s.regs(s.disk)
		s.id = id
		b := msg().u64(configBlockSize | configMaxBytes).zeros(52).u32(uint32(s.bs)).zeros(24).u64(1 << 40).u32(0).u32(0).b
		return b, err
	case opSyncfs, opFsync, opFlush, opRelease, opDestroy, opEnd, opFreeze, opUnfreeze:
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[node]
	str := func(b []byte) string { return string(b[:slices.Index(b, 0)]) }
	switch op {
	case opLookup:
		id := s.names[str(in)]
		if id == 0 && s.valid > 0 {
			return msg().u64(0).u64(0).u64(s.valid).zeros(entrySize - 24).b, nil
		}
		if id == 0 {
			return nil, syscall.ENOENT
		}
		return s.entry(id), nil
	case opCreate:
		s.last++
		s.names[str(in[16:])] = s.last
		s.files[s.last] = &toyFile{blocks: map[int64]toyBlock{}, nlink: 1}
		if s.fault == "inline" {
			s.files[s.last].inline = []byte{}
		}
		return append(s.entry(s.last), msg().u64(0).u32(fopenKeepCache).u32(0).b...), nil
	case opOpen:
		return msg().u64(0).u32(fopenKeepCache).u32(0).b, nil
	case opUnlink:
		s.files[s.names[str(in)]].nlink--
		delete(s.names, str(in))
		return nil, nil
	case opGetattr:
		return msg().zeros(16).raw(s.attr(node)).b, nil
	case opSetattr:
		if le.Uint32(in)&fattrSize != 0 {
			s.truncate(f, int64(le.Uint64(in[16:])))
		}
		return msg().zeros(16).raw(s.attr(node)).b, nil
	case opFallocate:
		return nil, s.fallocate(f, int64(le.Uint64(in[8:])), int64(le.Uint64(in[16:])), le.Uint32(in[24:]))
	case opRead:
		off, n := le.Uint64(in[8:]), le.Uint32(in[16:])
		p := make([]byte, n)
		if off < uint64(len(f.inline)) {
			copy(p, f.inline[off:])
		}
		return p, nil
	case opWrite:
		off, n := le.Uint64(in[8:]), le.Uint32(in[16:])
		f.inline = append(f.inline, make([]byte, max(0, int(off)+int(n)-len(f.inline)))...)
		copy(f.inline[off:], in[40:])
		f.size = max(f.size, int64(off)+int64(n))
		return msg().u32(n).u32(0).b, nil
	case opBegin:
		return s.begin(node, f, iomap.Op(le.Uint32(in)), int64(le.Uint64(in[16:])), int64(le.Uint64(in[24:])))
	case opIoend:
		return s.ioend(f, iomap.IoendFlags(le.Uint32(in)), int32(le.Uint32(in[4:])), int64(le.Uint64(in[16:])), int64(le.Uint64(in[32:])))
	}
	return nil, syscall.ENOSYS
}

func (s *toy) attr(id uint64) []byte {
	f := s.files[id]
	w := msg().u64(id)
	if f == nil {
		return w.u64(0).u64(0).zeros(36).u32(syscall.S_IFDIR | 0o755).u32(2).zeros(16).u32(0).b
	}
	flags := uint32(attrExclusive | attrIomap | attrAtomic)
	if s.fault == "no iomap flag" {
		flags = attrExclusive
	}
	return w.u64(uint64(f.size)).u64(0).zeros(36).u32(syscall.S_IFREG | 0o644).u32(f.nlink).zeros(16).u32(flags).b
}

func (s *toy) entry(id uint64) []byte {
	s.known[id]++
	gen := uint64(1)
	if s.fault == "another generation" {
		gen = uint64(s.known[id])
	}
	return msg().u64(id).u64(gen).u64(s.valid).zeros(16).raw(s.attr(id)).b
}

func (s *toy) truncate(f *toyFile, size int64) {
	for b := range f.blocks {
		if b*s.bs >= size {
			delete(f.blocks, b)
		}
	}
	if f.inline != nil {
		f.inline = append(f.inline, make([]byte, max(0, int(size)-len(f.inline)))...)[:size]
	}
	f.size = size
}

func (s *toy) fallocate(f *toyFile, off, n int64, mode uint32) error {
	end := off + n
	for b := off / s.bs; b*s.bs < end; b++ {
		whole := b*s.bs >= off && (b+1)*s.bs <= end
		switch {
		case mode&FallocPunchHole != 0 && whole:
			delete(f.blocks, b)
		case mode&FallocZeroRange != 0 && whole:
			if x, ok := f.blocks[b]; ok {
				f.blocks[b] = toyBlock{x.addr, true}
			}
		case mode&FallocPunchHole == 0:
			s.alloc(f, b)
		}
	}
	if mode&FallocKeepSize == 0 {
		f.size = max(f.size, end)
	}
	return nil
}

func (s *toy) alloc(f *toyFile, b int64) {
	if _, ok := f.blocks[b]; !ok {
		f.blocks[b] = toyBlock{s.next, true}
		s.next += s.bs
		if s.fault == "mapped" { // new blocks that claim to hold data
			f.blocks[b] = toyBlock{s.next - s.bs, false}
		}
	}
}

func (s *toy) begin(node uint64, f *toyFile, op iomap.Op, pos, count int64) ([]byte, error) {
	first, last := pos/s.bs, (pos+count+s.bs-1)/s.bs
	if f.inline != nil {
		m := iomap.Mapping{Length: uint64(s.bs), Addr: iomap.NullAddr, Type: iomap.TypeInline}
		return msg().mapping(m).mapping(iomap.Overwrite(m)).b, nil
	}
	if op&(iomap.OpWrite|iomap.OpWriteback) != 0 && !(s.fault == "hole at write-back" && op == iomap.OpWriteback) &&
		s.fault != "delayed, never allocated" {
		for b := first; b < last; b++ {
			s.alloc(f, b)
		}
	}
	if s.fault == "hole at write-back" && op == iomap.OpWriteback {
		m := iomap.Hole(uint64(first*s.bs), uint64(s.bs))
		return msg().mapping(m).mapping(iomap.Overwrite(m)).b, nil
	}
	m := s.mapping(f, first, last)
	if op&iomap.OpAtomic != 0 {
		m.Flags |= iomap.FlagAtomicBio
	}
	switch {
	case s.fault == "unaligned":
		m.Length--
	case s.fault == "behind":
		m.Offset += uint64(s.bs)
	}
	w := iomap.Overwrite(m)
	if s.fault == "short reply" {
		return msg().mapping(m).b, nil
	}
	if s.fault == "endless retry" || s.cache && op&(iomap.OpReport|iomap.OpAtomic) == 0 && !(m.Type == iomap.TypeHole && op.IsWrite()) {
		up := msg().u64(node).u64(node).mapping(m).mapping(w)
		n := up.b
		if s.fault == "endless retry" {
			up = msg().u64(node).u64(node).mapping(iomap.Hole(1<<30, uint64(s.bs))).mapping(iomap.Overwrite(iomap.Hole(1<<30, uint64(s.bs))))
			n = up.b
		}
		if _, err := s.dev.Write(msg().u32(uint32(outHeaderSize + len(n))).u32(uint32(iomap.NotifyUpsertMappings)).u64(0).raw(n).b); err == nil {
			m = iomap.Mapping{Offset: m.Offset, Length: m.Length, Addr: iomap.NullAddr, Type: iomap.TypeRetryCache}
			w = iomap.Overwrite(m)
		}
	}
	return msg().mapping(m).mapping(w).b, nil
}

// mapping is the run at block b, within the blocks before last.
func (s *toy) mapping(f *toyFile, b, last int64) iomap.Mapping {
	x, ok := f.blocks[b]
	n := int64(1)
	for ; b+n < last && n < 1<<16; n++ {
		y, yok := f.blocks[b+n]
		if yok != ok || ok && (y.addr != x.addr+n*s.bs || y.unwritten != x.unwritten) {
			break
		}
	}
	if !ok {
		return iomap.Hole(uint64(b*s.bs), uint64(n*s.bs))
	}
	m := iomap.Mapping{Offset: uint64(b * s.bs), Length: uint64(n * s.bs), Addr: uint64(x.addr), Type: iomap.TypeMapped, Dev: s.id}
	if x.unwritten {
		m.Type = iomap.TypeUnwritten
	}
	return m
}

func (s *toy) ioend(f *toyFile, flags iomap.IoendFlags, code int32, pos, n int64) ([]byte, error) {
	if code == 0 && s.fault != "not converted" {
		for b := pos / s.bs; b*s.bs < pos+n; b++ {
			if x, ok := f.blocks[b]; ok {
				f.blocks[b] = toyBlock{x.addr, false}
			}
		}
	}
	if code == 0 && s.fault != "forgets the size" {
		f.size = max(f.size, pos+n)
	}
	return msg().u64(uint64(f.size)).b, nil
}

// The test's device is what the package asks for.
var _ interface {
	io.ReaderAt
	io.WriterAt
} = (*memDisk)(nil)

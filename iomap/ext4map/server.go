package ext4map

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap"

	"golang.org/x/sys/unix"
)

// Cache is the kernel's cache of mappings, as a server reaches it. The
// methods return when the kernel has taken the notification, or refused it.
type Cache interface {
	Upsert(ino disk.Ino, u iomap.Upsert) error
	Invalidate(ino disk.Ino, inv iomap.Inval) error
}

// Server answers BEGIN, END and IOEND for a file system that is open for
// writing.
//
// A write into a hole gets blocks that nothing on the device maps yet
// ([ext4.Pending]), as UNWRITTEN. The kernel puts the data there; the IOEND that
// follows is one transaction, which maps the blocks as written and moves the end of the file. So
// a crash shows neither stale bytes nor a size that is ahead of its data, files
// without extents are served like the others, and nothing is converted but what
// fallocate has left.
//
// Each inode's changes are made one at a time and alone, its other answers together
// (stripes), with the notification that fills the kernel's cache: an answer that is older than a
// change never gets into the cache after it. Nothing waits for the kernel under such a lock but
// notifications, which the kernel takes at any time. Lock order: a stripe, mu, the file system's own.
type Server struct {
	fs    *ext4.FS
	o     Options // but for MaxBytes, which depends on the inode
	cache Cache   // nil: none is used, and only reading is served

	stripes [256]sync.RWMutex // by inode: shared over an answer, exclusive over a change of what is pending

	mu             sync.RWMutex
	files          map[disk.Ino]*file // guarded by mu: those that have anything pending
	ahead, pending uint64             // guarded by mu: the sums of theirs, in blocks
}

// file is what the server keeps of an inode beside the file system. It is
// guarded by the inode's stripe.
type file struct {
	pending []ext4.Pending // in order
	size    int64          // as END told it, if that is more than the inode has; else 0

	blocks uint64 // of pending; guarded by Server.mu
	ahead  uint64 // and those of them behind the end of the file, which were taken in advance; likewise
	lost   error  // of an IOEND, until Settle has told it
}

// NewServer returns a server for fs, whose blocks are on backing device dev
// from byte base on. Contents are the kernel's from now on ([ext4.FS.DataElsewhere]), but
// without a cache, which is nil: then it only answers questions of those who read.
func NewServer(fs *ext4.FS, dev uint32, base uint64, cache Cache) *Server {
	if cache != nil {
		fs.DataElsewhere()
	}
	return &Server{
		fs: fs, cache: cache, files: map[disk.Ino]*file{},
		o: Options{Dev: dev, Base: base, BlockSize: uint64(fs.Super().BlockSize())},
	}
}

func (s *Server) stripe(ino disk.Ino) *sync.RWMutex {
	return &s.stripes[uint32(ino)%uint32(len(s.stripes))]
}

// file returns what is kept of ino, or nil. The caller holds the stripe.
func (s *Server) file(ino disk.Ino) *file {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.files[ino]
}

// keep remembers f, or forgets it if there is nothing to remember.
func (s *Server) keep(ino disk.Ino, f *file) {
	ahead, blocks := s.aheadOf(ino, f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead, f.ahead = s.ahead-f.ahead+ahead, ahead
	s.pending, f.blocks = s.pending-f.blocks+blocks, blocks
	if len(f.pending) == 0 && f.size == 0 && f.lost == nil {
		delete(s.files, ino)
		return
	}
	s.files[ino] = f
}

// Begin answers a BEGIN of file ino, asked for by c. It fails as [Begin] does,
// with EAGAIN for a NOWAIT that would have to change the map or an OVERWRITE_ONLY of what is
// not written, and with what allocating blocks fails with.
func (s *Server) Begin(ctx context.Context, c ext4.Caller, ino disk.Ino, req iomap.Request) (iomap.Reply, error) {
	mu := s.stripe(ino)
	mu.RLock()
	reply, err := s.begin(ctx, c, ino, req, false)
	mu.RUnlock()
	if err == errAlone {
		mu.Lock()
		defer mu.Unlock()
		return s.begin(ctx, c, ino, req, true)
	}
	return reply, err
}

// errAlone says that an answer takes a change, for which the stripe is to be held
// exclusively.
var errAlone = errors.New("this is for one alone")

// begin is Begin with the stripe held: exclusively if alone, else it may fail with errAlone.
func (s *Server) begin(ctx context.Context, c ext4.Caller, ino disk.Ino, req iomap.Request, alone bool) (iomap.Reply, error) {
	in, err := s.fs.Inode(ino)
	if err != nil {
		return iomap.Reply{}, err
	}
	o := s.o
	o.MaxBytes = s.fs.Super().MaxFileSize(in.Disk().Flags.Has(disk.FlagExtents))
	if req.Op&^(served|iomap.OpWrite|iomap.OpZero|iomap.OpOverwriteOnly|iomap.OpUnshare|iomap.OpAtomic|iomap.OpWriteback) != 0 {
		return iomap.Reply{}, &UnsupportedOpError{req.Op}
	}
	if err := check(in, req, o); err != nil {
		return iomap.Reply{}, err
	}
	var m iomap.Mapping
	if req.Op&(iomap.OpWrite|iomap.OpWriteback) != 0 {
		m, err = s.forWrite(ctx, c, in, req, o, alone)
	} else {
		m, err = s.look(in, req, o)
	}
	if err != nil {
		return iomap.Reply{}, err
	}
	s.flagDirty(ino, &m)
	reply := iomap.Reply{Read: m, Write: iomap.Overwrite(m)}
	if !s.cacheable(req, m) {
		return reply, nil
	}
	if err := s.cache.Upsert(ino, iomap.Upsert(reply)); err != nil {
		if req.Op.IsWrite() && m.Type == iomap.TypeUnwritten {
			// Without the cache, nothing would tell the writer that the blocks have become
			// written since: it would put zeros over what they hold.
			return iomap.Reply{}, fmt.Errorf("inode %d: fill the kernel's mapping cache: %w", ino, err)
		}
		return reply, nil
	}
	m = iomap.Mapping{Offset: m.Offset, Length: m.Length, Addr: iomap.NullAddr, Type: iomap.TypeRetryCache, Dev: iomap.DevNull}
	return iomap.Reply{Read: m, Write: iomap.Overwrite(m)}, nil
}

// cacheable reports whether the answer goes into the kernel's cache: the
// kernel looks for it there, and may use it.
func (s *Server) cacheable(req iomap.Request, m iomap.Mapping) bool {
	op := req.Op
	switch {
	case s.cache == nil, op.Uncached(), op&iomap.OpReport != 0, m.Type == iomap.TypeInline:
		return false
	case op.IsWrite() && m.Type == iomap.TypeHole:
		return false // a hole is not used for writing, and what writes has blocks
	case op&iomap.OpDirect != 0 && op.IsWrite() && m.Type == iomap.TypeUnwritten && m.Length < 2*req.Count:
		return false // the most of it is dropped at once, by its IOEND: to fill it in costs more than it saves
	}
	return true
}

// look returns the mapping at req.Pos as it is, with what is pending.
func (s *Server) look(in *ext4.Inode, req iomap.Request, o Options) (iomap.Mapping, error) {
	m, err := mapping(in, req, o)
	if err != nil || m.Type != iomap.TypeHole || req.Op&iomap.OpSwapfile != 0 { // swap goes to what the file has for good
		return m, err
	}
	return s.overlay(in.Ino(), m, req.Pos), nil
}

// overlay returns the run that is pending at pos in hole m, or m as far as
// nothing is pending.
func (s *Server) overlay(ino disk.Ino, m iomap.Mapping, pos uint64) iomap.Mapping {
	f := s.file(ino)
	if f == nil {
		return m
	}
	bs := s.o.BlockSize
	end := m.Offset + m.Length
	for _, p := range f.pending {
		from, to := uint64(p.At)*bs, p.End()*bs
		switch {
		case to <= pos:
			if to > m.Offset {
				m.Offset = to
			}
		case from <= pos:
			return s.unwritten(p)
		default:
			end = min(end, from)
		}
	}
	m.Length = end - m.Offset
	return m
}

func (s *Server) unwritten(p ext4.Pending) iomap.Mapping {
	bs := s.o.BlockSize
	return iomap.Mapping{
		Offset: uint64(p.At) * bs, Length: p.Len * bs, Addr: s.o.Base + uint64(p.Physical)*bs,
		Type: iomap.TypeUnwritten, Dev: s.o.Dev,
	}
}

// forWrite returns a mapping at req.Pos that data can be written to.
func (s *Server) forWrite(ctx context.Context, c ext4.Caller, in *ext4.Inode, req iomap.Request, o Options, alone bool) (iomap.Mapping, error) {
	if s.cache == nil {
		// See Begin: nobody could tell a writer that his mapping is outdated.
		return iomap.Mapping{}, fmt.Errorf("inode %d: writing through iomap needs the kernel's mapping cache: %w", in.Ino(), unix.EOPNOTSUPP)
	}
	if bs := s.o.BlockSize; req.Op&iomap.OpAtomic != 0 && (req.Pos%bs != 0 || req.Count != bs) {
		return iomap.Mapping{}, fmt.Errorf("inode %d: an atomic write of %d bytes at %d, want one block of %d: %w", in.Ino(), req.Count, req.Pos, bs, unix.EINVAL)
	}
	if m, ok, err := s.inline(ctx, c, in, req, alone); ok || err != nil {
		return m, err
	}
	in, err := s.fs.Inode(in.Ino()) // it may have moved out of the inode
	if err != nil {
		return iomap.Mapping{}, err
	}
	asked := req
	req = s.askAhead(in, req)
	m, err := s.look(in, req, o)
	if err != nil {
		return m, err
	}
	switch {
	case req.Op&iomap.OpOverwriteOnly != 0 && m.Type != iomap.TypeMapped:
		return m, fmt.Errorf("inode %d at %d: only written blocks were asked for: %w", in.Ino(), req.Pos, unix.EAGAIN)
	case m.Type == iomap.TypeHole && req.Op&iomap.OpNowait != 0:
		return m, fmt.Errorf("inode %d at %d: blocks have to be allocated: %w", in.Ino(), req.Pos, unix.EAGAIN)
	case m.Type == iomap.TypeHole && !alone:
		return m, errAlone
	case m.Type == iomap.TypeHole:
		hole := m
		span := func(r iomap.Request) (first, end uint64) {
			return r.Pos / o.BlockSize, blocksOf(min(r.Pos+r.Count, hole.Offset+hole.Length), o.BlockSize)
		}
		first, end := span(req)
		if req == asked && !s.fs.LimitsQuota(c) { // all that is pending counts against a limit
			first, end = s.around(in, req.Op, hole, first, end)
		}
		m, err = s.alloc(ctx, c, in, req, first, end)
		if errors.Is(err, unix.EDQUOT) || errors.Is(err, errElsewhere) { // only what was asked for, then
			first, end = span(asked)
			m, err = s.alloc(ctx, c, in, asked, first, end)
		}
		if err != nil {
			return m, err
		}
	}
	if req.Op&iomap.OpAtomic != 0 {
		m.Flags |= iomap.FlagAtomicBio // mappings are of whole blocks, so that it holds all of this one
	}
	return m, nil
}

// inline answers a write to a file that keeps its data in the inode, if that
// can hold them afterwards. Else the data move to a block.
func (s *Server) inline(ctx context.Context, c ext4.Caller, in *ext4.Inode, req iomap.Request, alone bool) (m iomap.Mapping, ok bool, err error) {
	room, err := in.InlineRoom()
	if err != nil || room == 0 {
		return m, false, err
	}
	// Only what the kernel writes by FUSE_WRITE stays: neither pages that a process has mapped, nor direct I/O. A file
	// to which data is on its way already is to have blocks.
	if s.file(in.Ino()) == nil && req.Op&^(iomap.OpNowait|iomap.OpDontCache) == iomap.OpWrite && req.Pos+req.Count <= uint64(room) {
		return iomap.Mapping{Length: s.o.BlockSize, Addr: iomap.NullAddr, Type: iomap.TypeInline, Dev: iomap.DevNull}, true, nil
	}
	if !alone {
		return m, false, errAlone
	}
	return m, false, s.fs.GrowOut(ctx, c, in.Ino())
}

// maxAhead is how many bytes are taken at most for a file that grows at its
// end, beyond what was asked for.
const maxAhead = 128 << 20

// maxAround is how many bytes are taken, with those around it, for a write
// into a hole before the end of a file.
const maxAround = 256 << 10

// around makes of blocks [first, end) in a hole before the end of the file the pieces of maxAround
// that they lie in, as far as the hole goes: who writes here and there, or in several places at once, gets runs
// of that length, and asks less often. Not when space is short, or a sixteenth of what is free is
// pending.
func (s *Server) around(in *ext4.Inode, op iomap.Op, hole iomap.Mapping, first, end uint64) (uint64, uint64) {
	bs := s.o.BlockSize
	n := maxAround / bs
	size := blocksOf(uint64(max(in.Size(), 0)), bs)
	st, err := s.fs.Statfs()
	s.mu.RLock()
	pending := s.pending
	s.mu.RUnlock()
	if op&iomap.OpWriteback != 0 || end > size || err != nil || st.Free < st.Blocks/8 || pending+n > st.Free/16 {
		return first, end
	}
	first = max(first/n*n, hole.Offset/bs)
	return first, max(end, min((end+n-1)/n*n, (hole.Offset+hole.Length)/bs, size))
}

// blocksOf is how many blocks of bs bytes n bytes take.
func blocksOf(n, bs uint64) uint64 { return (n + bs - 1) / bs }

// errElsewhere says that what lies together does not reach to where it is wanted.
var errElsewhere = errors.New("the run ends before the position asked for")

// alloc takes space for blocks [first, end) of a hole, or for as many from first on as lie
// together. It fails with errElsewhere if req.Pos is not among them.
func (s *Server) alloc(ctx context.Context, c ext4.Caller, in *ext4.Inode, req iomap.Request, first, end uint64) (iomap.Mapping, error) {
	f := s.file(in.Ino())
	if f == nil {
		f = &file{}
	}
	if req.Op&iomap.OpWriteback != 0 {
		c = ext4.Root // it was promised when the page was written
	}
	p, err := s.fs.AllocPending(ctx, c, in.Ino(), disk.LBlock(first), end-first, f.pending)
	if err != nil {
		return iomap.Mapping{}, err
	}
	if p.End() <= req.Pos/s.o.BlockSize {
		s.fs.DropPending([]ext4.Pending{p})
		return iomap.Mapping{}, errElsewhere
	}
	s.put(in.Ino(), f, append(f.pending, p))
	return s.unwritten(p), nil
}

// aheadOf is how many pending blocks f has behind its end, and in all.
func (s *Server) aheadOf(ino disk.Ino, f *file) (ahead, blocks uint64) {
	if len(f.pending) == 0 {
		return 0, 0
	}
	size := f.size
	if in, err := s.fs.Inode(ino); err == nil {
		size = max(size, in.Size())
	}
	end := blocksOf(uint64(size), s.o.BlockSize)
	for _, p := range f.pending {
		ahead += p.End() - min(max(end, uint64(p.At)), p.End())
		blocks += p.Len
	}
	return ahead, blocks
}

// askAhead makes of a write behind the end of the file one that asks for four times as much again
// as the file has, but not when space is short, or a sixteenth of it has been given to files in advance:
// that is taken from who has something to write.
func (s *Server) askAhead(in *ext4.Inode, req iomap.Request) iomap.Request {
	size := uint64(max(in.Size(), 0))
	if f := s.file(in.Ino()); f != nil {
		size = max(size, uint64(f.size))
	}
	st, err := s.fs.Statfs()
	if req.Op&iomap.OpWriteback != 0 || req.Pos+req.Count <= size || err != nil || st.Free < st.Blocks/8 {
		return req
	}
	s.mu.RLock()
	most := st.Free/16 - min(s.ahead, st.Free/16)
	s.mu.RUnlock()
	req.Count += min(4*size, maxAhead, most*s.o.BlockSize)
	req.Count = min(req.Count, s.fs.Super().MaxFileSize(in.Disk().Flags.Has(disk.FlagExtents))-req.Pos)
	return req
}

// End takes an END: how far a write has moved the end of the file in the
// kernel. The data may not be on the device yet.
func (s *Server) End(ino disk.Ino, e iomap.End) error {
	if e.Op&iomap.OpWrite == 0 || e.Map.Flags&iomap.FlagSizeChanged == 0 || e.Written <= 0 {
		return nil
	}
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	in, err := s.fs.Inode(ino)
	if err != nil {
		return err
	}
	f := s.file(ino)
	if f == nil {
		f = &file{}
	}
	if size := int64(e.Pos) + e.Written; size > max(in.Size(), f.size) {
		f.size = size
		s.keep(ino, f)
	}
	return nil
}

// Ioend takes an IOEND, and returns the size that the file has then. A
// kernel of February 2026 tells nobody when it fails for what was written back, so that
// [Server.Settle] fails then, too.
func (s *Server) Ioend(ctx context.Context, ino disk.Ino, e iomap.Ioend) (int64, error) {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	in, err := s.fs.Inode(ino)
	if err != nil {
		return 0, err
	}
	if e.Error != 0 || e.Flags&iomap.IoendSwapoff != 0 || e.Written == 0 {
		return in.Size(), nil // what failed has not happened
	}
	if e.Flags&iomap.IoendShared != 0 {
		return 0, fmt.Errorf("inode %d: IOEND says that shared blocks were written, which ext4 has none of: %w", ino, iomap.EFSCORRUPTED)
	}
	if err := s.written(ctx, in, e.Pos, e.Pos+e.Written, e.Flags&iomap.IoendUnwritten != 0); err != nil {
		if e.Flags&iomap.IoendWriteback != 0 {
			s.lose(ino, err)
		}
		return 0, err
	}
	if in, err = s.fs.Inode(ino); err != nil {
		return 0, err
	}
	return in.Size(), nil
}

// lose remembers that what was written back to ino has not become part of it.
func (s *Server) lose(ino disk.Ino, err error) {
	f := s.file(ino)
	if f == nil {
		f = &file{}
	}
	f.lost = err
	s.keep(ino, f)
}

// written maps what is pending of the bytes [pos, end), which are on the
// device now, and makes the file that long.
func (s *Server) written(ctx context.Context, in *ext4.Inode, pos, end uint64, unwritten bool) error {
	bs := s.o.BlockSize
	first, last := pos/bs, (end+bs-1)/bs
	f := s.file(in.Ino())
	if f == nil {
		f = &file{}
	}
	list, rest := s.cut(f, first, last)
	if len(list) == 0 && !unwritten && int64(end) <= in.Size() {
		return nil
	}
	n, err := s.fs.MapPending(ctx, in.Ino(), list, first, last, int64(end))
	if err == nil && int64(end) >= f.size {
		f.size = 0
	}
	s.put(in.Ino(), f, append(rest, list[n:]...))
	return err
}

// Settle makes the file as long as END has told, as far as its blocks are
// written: an append to a block that the file had already has no IOEND if somebody asked for
// the attributes before it was written back. It is called when the kernel has
// written the file back: at FSYNC, FLUSH, RELEASE, SYNCFS, DESTROY. It fails once if an IOEND has failed.
func (s *Server) Settle(ctx context.Context, ino disk.Ino) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil {
		return nil
	}
	lost := f.lost
	f.lost = nil
	err := s.settleSize(ctx, ino, f)
	s.keep(ino, f)
	return errors.Join(lost, err)
}

func (s *Server) settleSize(ctx context.Context, ino disk.Ino, f *file) error {
	if f.size == 0 {
		return nil
	}
	in, err := s.fs.Inode(ino)
	if err != nil {
		return err
	}
	bs := s.o.BlockSize
	size := in.Size()
	for size < f.size && !in.HasInlineData() {
		m, err := in.Map(disk.LBlock(uint64(size) / bs))
		if err != nil {
			return err
		}
		if m.State != ext4.MapWritten {
			break // its IOEND will come
		}
		size = min(f.size, int64(m.End()*bs))
	}
	if size > in.Size() {
		if _, err := s.fs.MapPending(ctx, ino, nil, 0, 0, size); err != nil {
			return err
		}
	}
	if size >= f.size {
		f.size = 0
	}
	return nil
}

// Reach makes the file end at end at least, if END has told that it does: somebody is about to
// read it up to there by the file system, and the kernel has written that part back.
func (s *Server) Reach(ctx context.Context, ino disk.Ino, end int64) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil || f.size == 0 {
		return nil
	}
	_, err := s.fs.MapPending(ctx, ino, nil, 0, 0, min(end, f.size))
	return err
}

// SettleAll is [Server.Settle] for all files.
func (s *Server) SettleAll(ctx context.Context) error {
	s.mu.Lock()
	var inos []disk.Ino
	for ino := range s.files {
		inos = append(inos, ino)
	}
	s.mu.Unlock()
	var errs []error
	for _, ino := range inos {
		errs = append(errs, s.Settle(ctx, ino))
	}
	return errors.Join(errs...)
}

// Resize is what a truncation of ino to size is made with: do does it, and
// what is pending behind the new end is given back. The kernel has written back what stays.
func (s *Server) Resize(ctx context.Context, ino disk.Ino, size int64, do func() error) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil {
		return do()
	}
	bs := s.o.BlockSize
	end := (uint64(size) + bs - 1) / bs
	// The cluster that holds the end goes with its last mapped block, were others pending.
	if err := s.commit(ctx, ino, f, s.cluster(end), end); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	s.drop(f, end, maxBlocks)
	f.size = 0
	s.keep(ino, f)
	return nil
}

// Change is what a change of the map of ino's bytes [pos, end) is made with,
// by fallocate or a copy: what is pending there becomes unwritten blocks of the file
// first, so that do finds a map that has all of it.
func (s *Server) Change(ctx context.Context, ino disk.Ino, pos, end int64, do func() error) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil {
		return do()
	}
	in, err := s.fs.Inode(ino)
	if err != nil {
		return err
	}
	bs := s.o.BlockSize
	first, last := uint64(pos)/bs, (uint64(end)+bs-1)/bs
	if room, err := in.InlineRoom(); err != nil {
		return err
	} else if room > 0 {
		first, last = 0, maxBlocks // lest do puts contents into the inode, which has blocks already
	}
	if in.Disk().Flags.Has(disk.FlagExtents) {
		// With the rest of their clusters, which go with the last block that is mapped.
		if err := s.commit(ctx, ino, f, s.cluster(first), s.cluster(last+1<<s.fs.Super().ClusterBits()-1)); err != nil {
			return err
		}
		return do()
	}
	// No unwritten blocks there: they go. Nothing is on its way to them, as the
	// kernel has written the range back and lets nobody in.
	if err := s.invalidate(ino, first, last); err != nil {
		return err
	}
	s.drop(f, first, last)
	s.keep(ino, f)
	return do()
}

// WriteInline is what a WRITE of ino's bytes [pos, end) is made with, which the kernel sends when it was told that the
// file keeps its data in the inode. If the file has been given blocks in the meantime, as a process has written to a
// page of it, they become the file's first, and the kernel forgets what it knows of those that do writes to.
func (s *Server) WriteInline(ctx context.Context, ino disk.Ino, pos, end int64, do func() error) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil {
		return do()
	}
	in, err := s.fs.Inode(ino)
	if err != nil {
		return err
	}
	if !in.Disk().Flags.Has(disk.FlagExtents) {
		return fmt.Errorf("inode %d: inline data for a file that has got blocks: %w", ino, unix.EIO)
	}
	if err := s.commit(ctx, ino, f, 0, maxBlocks); err != nil {
		return err
	}
	bs := s.o.BlockSize
	return errors.Join(do(), s.invalidate(ino, uint64(pos)/bs, (uint64(end)+bs-1)/bs))
}

// commit maps what is pending of blocks [first, last) as unwritten: for the kernel,
// nothing changes.
func (s *Server) commit(ctx context.Context, ino disk.Ino, f *file, first, last uint64) error {
	list, rest := s.cut(f, first, last)
	if len(list) == 0 {
		return nil
	}
	n, err := s.fs.MapUnwritten(ctx, ino, list)
	s.put(ino, f, append(rest, list[n:]...))
	return err
}

// cut returns what is pending in [first, last), and what is pending elsewhere.
func (s *Server) cut(f *file, first, last uint64) (list, rest []ext4.Pending) {
	for _, p := range f.pending {
		before, part, after := p.Slice(s.fs, first, last)
		list = append(list, part...)
		rest = append(append(rest, before...), after...)
	}
	return list, rest
}

// put makes list what is pending of f.
func (s *Server) put(ino disk.Ino, f *file, list []ext4.Pending) {
	slices.SortFunc(list, func(a, b ext4.Pending) int { return cmp.Compare(a.At, b.At) })
	f.pending = list
	s.keep(ino, f)
}

// Released gives back all that is pending of ino, and forgets the size that was told: what
// of it has not come by now has failed. Nobody has the file open any more, and the kernel has written it back.
func (s *Server) Released(ino disk.Ino) error {
	mu := s.stripe(ino)
	mu.Lock()
	defer mu.Unlock()
	f := s.file(ino)
	if f == nil {
		return nil
	}
	f.size, f.lost = 0, nil
	for _, p := range f.pending {
		if err := s.invalidate(ino, uint64(p.At), p.End()); err != nil {
			return err
		}
	}
	s.drop(f, 0, maxBlocks)
	s.keep(ino, f)
	return nil
}

// invalidate drops blocks [first, last) of ino from the kernel's cache.
func (s *Server) invalidate(ino disk.Ino, first, last uint64) error {
	if s.cache == nil {
		return nil
	}
	r := iomap.Range{Offset: first * s.o.BlockSize, Length: (last - first) * s.o.BlockSize}
	err := s.cache.Invalidate(ino, iomap.Inval{Read: r, Write: r})
	if err != nil && !errors.Is(err, unix.ESTALE) { // it is not in core, and has no cache
		return fmt.Errorf("inode %d: invalidate mappings: %w", ino, err)
	}
	return nil
}

// cluster rounds a block of a file down to the first of its cluster.
func (s *Server) cluster(b uint64) uint64 { return b &^ (1<<s.fs.Super().ClusterBits() - 1) }

// drop gives back what of f is pending in [first, last).
func (s *Server) drop(f *file, first, last uint64) {
	list, rest := s.cut(f, first, last)
	s.fs.DropPending(list)
	f.pending = rest
}

// preload is how many bytes at its start a file is opened with.
const preload = 64 << 10

// Preload puts the first mapping of a file that is opened into the kernel's cache.
// It is only a help: nothing is wrong if it cannot.
func (s *Server) Preload(ino disk.Ino) {
	mu := s.stripe(ino)
	mu.RLock()
	defer mu.RUnlock()
	in, err := s.fs.Inode(ino)
	if err != nil || s.cache == nil || in.Size() == 0 || in.HasInlineData() {
		return
	}
	o := s.o
	o.MaxBytes = s.fs.Super().MaxFileSize(in.Disk().Flags.Has(disk.FlagExtents))
	req := iomap.Request{Count: preload}
	if check(in, req, o) != nil {
		return
	}
	if m, err := s.look(in, req, o); err == nil && s.cacheable(req, m) {
		s.flagDirty(ino, &m)
		_ = s.cache.Upsert(ino, iomap.Upsert{Read: m, Write: iomap.Overwrite(m)})
	}
}

// flagDirty says of blocks that a crash may lose that a synchronous write to
// them needs an FSYNC.
func (s *Server) flagDirty(ino disk.Ino, m *iomap.Mapping) {
	if m.Type == iomap.TypeMapped && !s.fs.Committed(ino) {
		m.Flags |= iomap.FlagDirty
	}
}

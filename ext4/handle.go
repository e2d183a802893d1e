package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A Handle collects what one update changes. Nothing of it is seen by anyone
// before the update ends well, and then all of it at once. It dies with the
// function that it was given to.
type Handle struct {
	fs     *FS // as updates see it
	rw     *writer
	blocks map[disk.PBlock]*staged
	inodes map[disk.Ino]*Inode
	tables map[disk.PBlock][]byte // the blocks of the inode table that hold them, as they were

	unprivileged  bool          // it takes none of the blocks that are kept for root
	allocs        []run         // clusters taken
	frees         []freedRun    // blocks given back
	placed        []disk.PBlock // metadata that the device has already, in blocks taken
	inoNew        []disk.Ino    // inode numbers taken
	newDirs       []disk.Group  // groups that got a directory
	inoFree       []freedInode  // and given back
	orphanChanges []orphanChange
	orphanHead    *disk.Ino          // s_last_orphan, if it changes
	eaCharged     map[disk.Ino]int64 // by how much the number of EA inodes has changed that each inode is charged for
	limited       bool               // quota limits count
	mustNotFail   bool               // blocks may be taken that are kept for splitting extents
	after         []func()           // called when the update is published
	undo          []func()           // called, last first, when it is dropped
}

// staged is a block that an update changes.
type staged struct {
	data []byte
	kind kind
	in   *Inode // whose checksum seed it has; nil for blocks of no inode
}

type freedRun struct {
	run
	meta bool // it was metadata: what the log holds of it must not be written any more
}

type freedInode struct {
	ino disk.Ino
	dir bool
}

// ErrReadOnly is what changing a file system fails with that was opened
// without Options.Write, or that has stopped writing after an error.
var ErrReadOnly = fmt.Errorf("the file system is read-only: %w", unix.EROFS)

// errUpdateTooLarge is the error of an update that one transaction cannot take.
var errUpdateTooLarge = fmt.Errorf("the journal is too small for this change: %w", unix.EFBIG)

// Update runs fn, which changes metadata through its handle, and publishes
// what it did, or nothing of it if it fails or panics. Updates run one at a
// time, in memory; readers are not kept waiting. fn is called again, with nothing of the call before
// in the handle, when a block had to be read first, or when space has become free. What
// was published becomes durable with the transaction that it joined: see [FS.Sync] and [FS.Fsync].
func (fs *FS) Update(ctx context.Context, fn func(*Handle) error) error {
	if fs.rw == nil {
		return ErrReadOnly
	}
	for try := 0; ; try++ {
		coming, err := fs.rw.update(ctx, fn)
		if !coming || !errors.Is(err, unix.ENOSPC) || try == allocTries {
			return err
		}
		// ext4_should_retry_alloc
		if fs.rw.waitForSpace() != nil {
			return err
		}
	}
}

// update is one try of [FS.Update]. With an error it reports whether clusters
// will be free that were not.
func (rw *writer) update(ctx context.Context, fn func(*Handle) error) (coming bool, err error) {
	var a readAhead
	coming, fatal, err := rw.updateInMemory(ctx, &a, fn)
	for a.fetch(rw.fs.dev) {
		coming, fatal, err = rw.updateInMemory(ctx, &a, fn)
	}
	if fatal {
		rw.abort(err)
	}
	return coming, err
}

// updateInMemory does the update, unless it lacks a block, which a knows then.
// fatal says that its error ends writing.
func (rw *writer) updateInMemory(ctx context.Context, a *readAhead, fn func(*Handle) error) (coming, fatal bool, err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	if err := rw.waitLocked(ctx, rw.fullLocked); err != nil {
		return false, false, err
	}
	rw.view.begin(a, rw.commits)
	defer rw.view.end()
	rw.tick++
	h := rw.newHandle()
	published, returned := false, false
	defer func() {
		switch {
		case !published:
			h.drop()
		case !returned:
			rw.failLocked(errFault) // it panics half-way
		}
		rw.spare = h
	}()
	err = fn(h)
	if err == nil {
		err = h.seal()
	}
	if a.missing != nil { // whatever fn made of that
		return false, false, errNotRead
	}
	if err == nil {
		if most := rw.handleRoom(); h.size(most) > most {
			err = fmt.Errorf("%w: %d blocks of at most %d", errUpdateTooLarge, h.size(most), most)
		}
	}
	if err != nil {
		var bad *disk.CorruptError
		switch {
		case errors.As(err, &bad):
			fatal = rw.corruptLocked(bad)
		case a.failed != nil && errors.Is(err, a.failed):
			fatal = rw.unreadableLocked(a, err)
		}
		return rw.spaceComingLocked(), fatal, err
	}
	published = true
	h.publish()
	returned = true
	return false, false, nil
}

// newHandle returns an empty handle. Its maps are used again and again, unless
// one has become large, which it stays.
func (rw *writer) newHandle() *Handle {
	h := rw.spare
	if h == nil || len(h.blocks)+len(h.inodes) > 64 {
		return &Handle{fs: rw.view.fs, rw: rw, blocks: make(map[disk.PBlock]*staged), inodes: make(map[disk.Ino]*Inode), tables: make(map[disk.PBlock][]byte)}
	}
	clear(h.blocks)
	clear(h.inodes)
	clear(h.tables)
	*h = Handle{fs: rw.view.fs, rw: rw, blocks: h.blocks, inodes: h.inodes, tables: h.tables}
	return h
}

// size is how many blocks the update adds to a transaction at most. It is exact
// where that is more than most.
func (h *Handle) size(most int) int {
	if n := len(h.blocks) + len(h.tables) + 3*(len(h.allocs)+len(h.inoNew)+len(h.inoFree)); len(h.frees) == 0 && n <= most {
		return n // each in a group of its own is not too much
	}
	groups := make(map[disk.Group]struct{})
	sb := &h.fs.sb
	for _, r := range h.allocs {
		groups[sb.GroupOf(r.first)] = struct{}{}
	}
	revokes := uint64(0)
	for _, r := range h.frees {
		// A run of more than a group is one of extents that were freed at once.
		for g := sb.GroupOf(r.first); g <= sb.GroupOf(r.first+disk.PBlock(r.n-1)); g++ {
			groups[g] = struct{}{}
		}
		if r.meta {
			revokes += r.n
		}
	}
	for _, ino := range h.inoNew {
		g, _ := sb.InodeGroup(ino)
		groups[g] = struct{}{}
	}
	for _, f := range h.inoFree {
		g, _ := sb.InodeGroup(f.ino)
		groups[g] = struct{}{}
	}
	return len(h.blocks) + len(h.tables) + 3*len(groups) + int(revokes/100)
}

func (h *Handle) drop() {
	for _, f := range slices.Backward(h.undo) {
		f()
	}
}

// inode returns inode ino, to be changed. Changing Disk(), and Raw() behind
// the fields of Disk, is all it takes. It fails with a wrapped ESTALE for one that is deleted:
// what it would get would be nobody's.
func (h *Handle) inode(ino disk.Ino) (*Inode, error) {
	if in, ok := h.inodes[ino]; ok {
		return in, nil
	}
	cur, err := h.fs.published(ino)
	if err == nil {
		err = cur.checkSize()
	}
	if err != nil {
		return nil, err
	}
	if cur.disk.Links == 0 && ino >= h.fs.sb.FirstIno && !h.isOrphan(ino) {
		return nil, cur.stale()
	}
	in := &Inode{fs: h.fs, ino: ino, disk: cur.disk, raw: bytes.Clone(cur.raw), block: cur.block, off: cur.off, seed: cur.seed, tx: h}
	in.hashKnown.Store(cur.hashKnown.Load())
	h.inodes[ino] = in
	return in, nil
}

// peek returns inode ino as it is in this update, not to be changed.
func (h *Handle) peek(ino disk.Ino) (*Inode, error) {
	if in, ok := h.inodes[ino]; ok {
		return in, nil
	}
	return h.fs.Inode(ino)
}

// fields returns inode ino as it is in this update, for a look at what it
// tells of itself: nothing is to be looked up with it.
func (h *Handle) fields(ino disk.Ino) (*Inode, error) {
	if in, ok := h.inodes[ino]; ok {
		return in, nil
	}
	return h.fs.published(ino)
}

// newInode returns inode ino, all zeros, to be filled.
func (h *Handle) newInode(ino disk.Ino, generation uint32) (*Inode, error) {
	blk, off, err := h.fs.inodePlace(ino)
	if err != nil {
		return nil, err
	}
	in := &Inode{fs: h.fs, ino: ino, raw: make([]byte, h.fs.sb.InodeSize), block: blk, off: off, tx: h}
	in.disk.Generation = generation
	in.seed = disk.InodeSeed(h.fs.seed, ino, generation)
	h.inodes[ino] = in
	return in, nil
}

// edit returns the bytes of block n, to be changed. It is of kind k and
// belongs to in (nil: to none); whoever calls has read it by the ways of readers,
// which judge it.
func (h *Handle) edit(k kind, in *Inode, n disk.PBlock) ([]byte, error) {
	if s, ok := h.blocks[n]; ok {
		s.kind, s.in = k, in
		return s.data, nil
	}
	data, err := h.known(k, in, n)
	if err != nil {
		return nil, err
	}
	data = bytes.Clone(data)
	h.blocks[n] = &staged{data, k, in}
	return data, nil
}

// known returns block n as it is now, from memory if it is there.
func (h *Handle) known(k kind, in *Inode, n disk.PBlock) ([]byte, error) {
	if k.isDir() && h.fs.live.get(n).data == nil {
		if b, ok := get[*block](h.fs.cache, k, uint64(n)); ok && b.owner == in.ino {
			return b.data, nil
		}
	}
	return h.fs.bytes(n)
}

// fresh returns block n, all zeros, to be filled.
func (h *Handle) fresh(k kind, in *Inode, n disk.PBlock) []byte {
	data := make([]byte, h.fs.sb.BlockSize())
	h.blocks[n] = &staged{data, k, in}
	return data
}

// seal judges what is given back, counts quota, and puts the inodes into bytes, and the checksums everywhere.
func (h *Handle) seal() error {
	if err := h.checkFrees(); err != nil {
		return err
	}
	if err := h.chargeQuota(); err != nil {
		return err
	}
	for ino, in := range h.inodes {
		in.putRaw()
		if err := h.table(in); err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
	}
	if !h.fs.sb.MetadataCsum() {
		return nil
	}
	for n, s := range h.blocks {
		switch s.kind {
		case kindDir:
			disk.PutDirTail(s.data, s.in.seed)
		case kindDxRoot:
			disk.DxRootNode(s.data).PutChecksum(s.in.seed)
		case kindDxInner:
			disk.DxInnerNode(s.data).PutChecksum(s.in.seed)
		case kindMapNode:
			disk.PutExtentChecksum(s.in.seed, s.data)
		case kindXattr:
			x := disk.DecodeXattrHeader(s.data)
			x.Checksum = disk.XattrBlockChecksum(h.fs.seed, n, s.data)
			x.Put(s.data)
		case kindOrphan:
			disk.PutOrphanChecksum(s.in.seed, n, s.data)
		}
	}
	return nil
}

// putRaw brings the fields of the inode into its bytes, with their checksum.
func (in *Inode) putRaw() {
	in.disk.Put(in.raw)
	if in.fs.sb.MetadataCsum() {
		in.disk.Checksum = disk.InodeChecksum(in.fs.seed, in.ino, in.raw)
		in.disk.Put(in.raw)
	}
}

// table takes along the block of the inode table that holds in, so that its
// transaction has it. Where no inode of it is in use, and none was, it may hold anything: it
// starts as zeros.
func (h *Handle) table(in *Inode) (err error) {
	if h.rw.running.tables[in.block] != nil || h.tables[in.block] != nil {
		return nil
	}
	var data []byte
	if h.rw.unusedItable(in.ino) {
		data = make([]byte, h.fs.sb.BlockSize())
	} else if data, err = h.fs.meta(kindItable, in.block, 0, nil); err != nil {
		return err
	}
	h.tables[in.block] = data
	return nil
}

// kindsLike are the cache's kinds for what a staged block of a kind may have
// been before, or be read as.
func kindsLike(k kind) []kind {
	switch k {
	case kindDir, kindDxRoot, kindDxInner:
		return []kind{kindDir, kindDxRoot, kindDxInner}
	case kindMapNode:
		return []kind{kindMapNode, kindMapLeaf, kindMapIndex}
	case kindIndirect:
		return []kind{kindIndirect, kindMapLeaf}
	}
	return []kind{k}
}

// decodedKinds are the cache's kinds for what was made of a block of a kind,
// and is looked for before the block is.
func decodedKinds(k kind) []kind {
	switch k {
	case kindMapNode:
		return []kind{kindMapLeaf, kindMapIndex}
	case kindIndirect:
		return []kind{kindMapLeaf}
	}
	return nil
}

var allBlockKinds = []kind{kindMapNode, kindMapIndex, kindMapLeaf, kindItable, kindIndirect, kindDir, kindDxRoot, kindDxInner, kindXattr, kindOrphan, kindQuota}

// publish shows readers what the update did, and adds it to the running
// transaction.
func (h *Handle) publish() {
	rw := h.rw
	l, tx := h.fs.live, rw.running
	h.applyGroups()
	seqs := make([]*atomic.Uint32, 0, 8)
	for ino := range h.inodes {
		if s := l.ofInode(ino); !slices.Contains(seqs, s) {
			seqs = append(seqs, s)
			s.Add(1)
		}
	}
	h.show(tx)
	for _, s := range seqs {
		s.Add(1)
	}
	h.applyOrphans()
	for _, f := range h.after {
		f()
	}
	rw.publishedLocked()
}

// show makes what the update did the newest, and part of tx.
func (h *Handle) show(tx *transaction) {
	fs, l := h.fs, h.fs.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range h.frees {
		if f.meta {
			for i := range f.n {
				h.forget(tx, f.first+disk.PBlock(i))
			}
		}
	}
	for _, n := range h.placed {
		l.ofBlock(n).Add(1)
		for _, k := range allBlockKinds {
			fs.cache.drop(k, uint64(n))
		}
	}
	for n, s := range h.blocks {
		l.ofBlock(n).Add(1)
		b := liveBlock{data: s.data, tx: tx, kind: s.kind}
		if s.kind.isDir() || s.kind == kindMapNode {
			b.owner = s.in.ino
		}
		l.blocks[n] = b
		tx.blocks[n] = s.data
		delete(tx.revoked, n)
		for _, k := range decodedKinds(s.kind) {
			fs.cache.drop(k, uint64(n))
		}
	}
	for n, data := range h.tables {
		tx.tables[n] = data
	}
	for ino, in := range h.inodes {
		l.ofBlock(in.block).Add(1)
		in.fs, in.tx = fs.outer, nil // from now on it does not change
		l.dirty[ino] = liveInode{in, tx}
		tx.inodes[ino] = in
	}
}

// forget drops what is known of metadata block n, which is free now. The
// caller holds live.mu.
func (h *Handle) forget(tx *transaction, n disk.PBlock) {
	l := h.fs.live
	l.ofBlock(n).Add(1)
	delete(l.blocks, n)
	delete(tx.blocks, n)
	if h.rw.log != nil {
		tx.revoked[n] = struct{}{}
	}
	for _, k := range allBlockKinds {
		h.fs.cache.drop(k, uint64(n))
	}
}

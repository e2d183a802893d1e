package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// openInode is what the writer keeps of an inode that is in use by somebody.
type openInode struct {
	refs     int    // of [FS.Open]
	linkable bool   // it was made without a name, and may get one
	prealloc run    // blocks behind the end of the file that are kept for it
	at       uint64 // logical block that prealloc continues
}

// Open keeps inode ino: while it is open, deleting its last name leaves it.
func (fs *FS) Open(ino disk.Ino) error {
	if fs.rw == nil {
		return nil
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	if fs.rw.closed {
		return fmt.Errorf("open inode %d: the file system is closed: %w", ino, unix.ESHUTDOWN)
	}
	in, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	if in.disk.Links == 0 && fs.rw.open[ino] == nil {
		return in.stale() // it is deleted, or being deleted
	}
	fs.rw.openLocked(ino).refs++
	return nil
}

func (rw *writer) openLocked(ino disk.Ino) *openInode {
	o := rw.open[ino]
	if o == nil {
		o = &openInode{}
		rw.open[ino] = o
	}
	return o
}

// Release undoes one [FS.Open]. The last gives back what was kept for the
// inode to grow, and deletes it if it has no name any more.
func (fs *FS) Release(ctx context.Context, ino disk.Ino) error {
	rw := fs.rw
	if rw == nil {
		return nil
	}
	rw.mu.Lock()
	o := rw.open[ino]
	if o == nil {
		rw.mu.Unlock()
		return nil
	}
	if o.refs--; o.refs > 0 {
		rw.mu.Unlock()
		return nil
	}
	rw.dropPreallocLocked(o)
	delete(rw.open, ino)
	orphan := rw.isOrphanLocked(ino)
	rw.mu.Unlock()
	if !orphan {
		return nil
	}
	return fs.evict(ctx, ino)
}

// dropPreallocLocked gives back what is kept for an inode to grow.
func (rw *writer) dropPreallocLocked(o *openInode) {
	if o.prealloc.n > 0 {
		rw.unreserve(o.prealloc)
		o.prealloc = run{}
	}
}

// closeOpen ends everybody's use of inodes, and then all updates.
func (fs *FS) closeOpen() error {
	for {
		inos := fs.closeOrphans()
		if len(inos) == 0 {
			return nil
		}
		var err error
		for _, ino := range inos {
			err = errors.Join(err, fs.finishOrphan(context.Background(), ino))
		}
		if err != nil {
			fs.rw.mu.Lock()
			defer fs.rw.mu.Unlock()
			fs.rw.closed = true
			return err
		}
	}
}

// closeOrphans forgets who uses inodes, and returns those to be deleted now,
// with those whose deletion or truncation an error has cut short. When there are none, or
// none can be, it ends all updates.
func (fs *FS) closeOrphans() []disk.Ino {
	rw := fs.rw
	rw.mu.Lock()
	defer rw.mu.Unlock()
	for _, o := range rw.open {
		rw.dropPreallocLocked(o)
	}
	clear(rw.open)
	inos := slices.Sorted(maps.Keys(rw.orphans))
	if len(inos) == 0 || rw.failed != nil {
		rw.closed = true
		rw.changed.Broadcast()
		return nil
	}
	return inos
}

// isOrphanLocked reports whether the inode is one that a crash would leave to
// be deleted or truncated.
func (rw *writer) isOrphanLocked(ino disk.Ino) bool {
	_, ok := rw.orphans[ino]
	return ok
}

// addOrphan puts the inode on record as one to be deleted, or truncated to its
// size, should the update be the last before a crash (ext4_orphan_add).
func (h *Handle) addOrphan(in *Inode) error {
	if h.isOrphan(in.ino) {
		return nil
	}
	slot := orphanSlot{}
	if h.fs.sb.Compat.Has(disk.CompatOrphanFile) {
		var err error
		if slot, err = h.addToOrphanFile(in.ino); err != nil {
			return err
		}
	}
	if slot.block == 0 { // the list: newest first, linked through i_dtime
		in.disk.Dtime = uint32(h.lastOrphan())
		h.setLastOrphan(in.ino)
	}
	h.orphanChanges = append(h.orphanChanges, orphanChange{in.ino, slot, true})
	return nil
}

// removeOrphan takes the inode from the record (ext4_orphan_del).
func (h *Handle) removeOrphan(in *Inode) error {
	slot, ok := h.orphan(in.ino)
	if !ok {
		return nil
	}
	h.orphanChanges = append(h.orphanChanges, orphanChange{in.ino, slot, false})
	if slot.block != 0 {
		return h.clearOrphanSlot(slot)
	}
	next := disk.Ino(in.disk.Dtime)
	in.disk.Dtime = 0
	if h.lastOrphan() == in.ino {
		h.setLastOrphan(next)
		return nil
	}
	for prev := h.lastOrphan(); prev != 0; {
		p, err := h.peek(prev)
		if err != nil {
			return fmt.Errorf("orphan list: %w", err)
		}
		if disk.Ino(p.disk.Dtime) == in.ino {
			if p, err = h.inode(prev); err == nil {
				p.disk.Dtime = uint32(next)
			}
			return err
		}
		prev = disk.Ino(p.disk.Dtime)
	}
	return &disk.CorruptError{Struct: "orphan list", Num: uint64(h.lastOrphan()), Field: "inodes", Have: "no end", Want: fmt.Sprintf("inode %d among them", in.ino)}
}

// orphanSlot is where the orphan file names an inode; the zero value stands
// for the list.
type orphanSlot struct {
	block disk.PBlock
	off   int
}

type orphanChange struct {
	ino   disk.Ino
	slot  orphanSlot
	added bool
}

func (h *Handle) orphan(ino disk.Ino) (orphanSlot, bool) {
	for _, c := range slices.Backward(h.orphanChanges) {
		if c.ino == ino {
			return c.slot, c.added
		}
	}
	s, ok := h.rw.orphans[ino]
	return s, ok
}

func (h *Handle) isOrphan(ino disk.Ino) bool {
	_, ok := h.orphan(ino)
	return ok
}

func (h *Handle) lastOrphan() disk.Ino {
	if h.orphanHead != nil {
		return *h.orphanHead
	}
	return h.rw.super.LastOrphan
}

func (h *Handle) setLastOrphan(ino disk.Ino) { h.orphanHead = &ino }

// applyOrphans makes what the update changed of the orphans so.
func (h *Handle) applyOrphans() {
	for _, c := range h.orphanChanges {
		if c.added {
			h.rw.orphans[c.ino] = c.slot
		} else {
			delete(h.rw.orphans, c.ino)
		}
	}
	if h.orphanHead != nil {
		h.rw.super.LastOrphan = *h.orphanHead
		h.rw.running.super = true
	}
}

// addToOrphanFile takes a free place in the orphan file. block is 0 if there
// is none.
func (h *Handle) addToOrphanFile(ino disk.Ino) (orphanSlot, error) {
	file, err := h.fs.orphanFile()
	if err != nil {
		return orphanSlot{}, err
	}
	for b := range uint64(file.Size()) >> h.fs.sb.BlockBits() {
		m, err := file.mapOnce(disk.LBlock(b))
		if err != nil || m.State != MapWritten {
			return orphanSlot{}, err // the list will do
		}
		n := m.Physical + disk.PBlock(b-uint64(m.Logical))
		data, err := h.orphanBlock(file, n)
		if err != nil {
			return orphanSlot{}, err
		}
		off := disk.OrphanFree(data)
		if off < 0 {
			continue
		}
		if data, err = h.edit(kindOrphan, file, n); err != nil {
			return orphanSlot{}, err
		}
		binary.LittleEndian.PutUint32(data[off:], uint32(ino))
		return orphanSlot{n, off}, nil
	}
	return orphanSlot{}, nil
}

func (h *Handle) orphanBlock(file *Inode, n disk.PBlock) ([]byte, error) {
	if s, ok := h.blocks[n]; ok {
		return s.data, nil
	}
	return h.fs.meta(kindOrphan, n, 0, func(data []byte) error {
		return disk.CheckOrphanBlock(&h.fs.sb, data, file.seed, n)
	})
}

func (h *Handle) clearOrphanSlot(s orphanSlot) error {
	file, err := h.fs.Inode(h.fs.sb.OrphanFileIno)
	if err != nil {
		return fmt.Errorf("orphan file: %w", err)
	}
	data, err := h.edit(kindOrphan, file, s.block)
	if err == nil {
		clear(data[s.off : s.off+4])
	}
	return err
}

// finishOrphans deletes and truncates what the last user of the file system
// has left (ext4_orphan_cleanup).
func (fs *FS) finishOrphans(ctx context.Context) error {
	list, err := fs.storedOrphans()
	if err != nil {
		return err
	}
	slots, err := fs.orphanSlots()
	if err != nil {
		return err
	}
	for _, ino := range list {
		fs.rw.orphans[ino] = slots[ino]
	}
	for _, ino := range list {
		if err := fs.finishOrphan(ctx, ino); err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
	}
	return nil
}

// finishOrphan deletes an orphan, or cuts it at its size.
func (fs *FS) finishOrphan(ctx context.Context, ino disk.Ino) error {
	in, err := fs.Inode(ino)
	if err != nil {
		return err
	}
	if in.disk.Links == 0 {
		return fs.evict(ctx, ino)
	}
	return fs.finishTruncate(ctx, ino)
}

// orphanSlots is where the orphan file names inodes.
func (fs *FS) orphanSlots() (map[disk.Ino]orphanSlot, error) {
	out := make(map[disk.Ino]orphanSlot)
	if !fs.sb.Compat.Has(disk.CompatOrphanFile) {
		return out, nil
	}
	file, err := fs.orphanFile()
	if err != nil {
		return nil, err
	}
	for b := range uint64(file.Size()) >> fs.sb.BlockBits() {
		m, err := file.Map(disk.LBlock(b))
		if err != nil {
			return nil, err
		}
		if m.State != MapWritten {
			continue
		}
		n := m.Physical + disk.PBlock(b-uint64(m.Logical))
		data, err := fs.bytes(n)
		if err != nil {
			return nil, err
		}
		for off := 0; off+4 <= len(data)-8; off += 4 {
			if ino := disk.Ino(binary.LittleEndian.Uint32(data[off:])); ino != 0 {
				out[ino] = orphanSlot{n, off}
			}
		}
	}
	return out, nil
}

package ext4

import (
	"fmt"

	"e4go/ext4/disk"
)

// A quotaFile is a quota file in an update: a tree of blocks of 1 KiB, one
// level for each byte of an id, that leads to leaves with entries.
type quotaFile struct {
	h  *Handle
	t  disk.QuotaType
	in *Inode // as the update has it
}

func (h *Handle) quotaFile(t disk.QuotaType) (*quotaFile, error) {
	in, err := h.peek(h.fs.sb.QuotaIno(t))
	if err != nil {
		return nil, err
	}
	return &quotaFile{h, t, in}, nil
}

// checkQuotaFiles reports what prevents quota from being counted.
func (fs *FS) checkQuotaFiles() error {
	if !fs.sb.ROCompat.Has(disk.ROCompatQuota) {
		return nil
	}
	for t := range disk.QuotaTypes {
		ino := fs.sb.QuotaIno(t)
		if ino == 0 {
			continue
		}
		in, err := fs.Inode(ino)
		if err != nil {
			return err
		}
		head := make([]byte, disk.QuotaBlockSize)
		if in.Type() != disk.ModeReg || in.disk.Links == 0 || in.Size() < int64(len(head)) {
			return &disk.CorruptError{Struct: t.String() + " quota file, inode", Num: uint64(ino), Block: in.block, Off: in.off, Field: "i_mode, i_links_count, i_size",
				Have: fmt.Sprintf("%#o, %d, %d", in.disk.Mode, in.disk.Links, in.Size()), Want: "a regular file in use"}
		}
		if _, err := in.readAt(head, 0); err != nil {
			return err
		}
		if err := disk.CheckQuotaHeader(t, ino, head, uint64(in.Size()), 0); err != nil {
			return err
		}
	}
	return nil
}

func (q *quotaFile) bad(n uint32, field, have, want string) error {
	return &disk.CorruptError{Struct: q.t.String() + " quota file, inode", Num: uint64(q.in.ino), Off: int(n) * disk.QuotaBlockSize, Field: field, Have: have, Want: want}
}

// place is the block of the device that block n of the file lies in, and the byte there.
func (q *quotaFile) place(n uint32) (blk disk.PBlock, off int, err error) {
	at, bits := uint64(n)*disk.QuotaBlockSize, q.h.fs.sb.BlockBits()
	l := at >> bits
	m, err := q.in.mapOnce(disk.LBlock(l))
	if err != nil {
		return 0, 0, err
	}
	if m.State != MapWritten {
		return 0, 0, q.bad(n, fmt.Sprintf("block %d", l), m.State.String(), "written")
	}
	return m.Physical + disk.PBlock(l-uint64(m.Logical)), int(at & (1<<bits - 1)), nil
}

// read returns block n of the file, not to be changed.
func (q *quotaFile) read(n uint32) ([]byte, error) {
	blk, off, err := q.place(n)
	if err != nil {
		return nil, err
	}
	var data []byte
	if s, ok := q.h.blocks[blk]; ok {
		data = s.data
	} else if data, err = q.h.fs.meta(kindQuota, blk, q.in.ino, nil); err != nil {
		return nil, err
	}
	return data[off:][:disk.QuotaBlockSize], nil
}

// edit returns block n of the file, to be changed.
func (q *quotaFile) edit(n uint32) ([]byte, error) {
	blk, off, err := q.place(n)
	if err != nil {
		return nil, err
	}
	data, err := q.h.edit(kindQuota, nil, blk)
	if err != nil {
		return nil, err
	}
	return data[off:][:disk.QuotaBlockSize], nil
}

func (q *quotaFile) header() (disk.QuotaHeader, error) {
	b, err := q.read(0)
	if err != nil {
		return disk.QuotaHeader{}, err
	}
	return disk.DecodeQuotaHeader(b), disk.CheckQuotaHeader(q.t, q.in.ino, b, uint64(q.in.Size()), 0)
}

func (q *quotaFile) putHeader(head disk.QuotaHeader) error {
	b, err := q.edit(0)
	if err == nil {
		head.Put(b)
	}
	return err
}

// slot is where the tree block at depth leads on to id.
func slot(id uint32, depth int) int {
	return int(id >> (8 * (disk.QuotaTreeDepth - 1 - depth)) & 0xff)
}

// follow is where reference i of block n leads to, 0 if nowhere.
func (q *quotaFile) follow(head disk.QuotaHeader, n uint32, i int) (uint32, error) {
	b, err := q.read(n)
	if err != nil {
		return 0, err
	}
	next := disk.QuotaRef(b, i)
	if next != 0 && (next <= disk.QuotaTreeRoot || next >= head.Blocks) {
		return 0, q.bad(n, fmt.Sprintf("reference %d", i), fmt.Sprint(next), fmt.Sprintf("0 or 2 to %d", int64(head.Blocks)-1))
	}
	return next, nil
}

// entry returns the entry of id, to be changed: a new one if there is none.
func (q *quotaFile) entry(id uint32) ([]byte, error) {
	head, err := q.header()
	if err != nil {
		return nil, err
	}
	n := uint32(disk.QuotaTreeRoot)
	for depth := range disk.QuotaTreeDepth {
		next, err := q.follow(head, n, slot(id, depth))
		if err != nil {
			return nil, err
		}
		if next == 0 {
			return q.insert(head, n, depth, id)
		}
		n = next
	}
	b, err := q.edit(n)
	if err != nil {
		return nil, err
	}
	at := disk.QuotaLeafFind(b, id, false)
	if at < 0 {
		return nil, q.bad(n, "entries", "none for "+fmt.Sprint(id), "one, as the tree leads there")
	}
	return b[at:][:disk.QuotaEntrySize], nil
}

// quotaOf is the entry of id as it is now; all zeros if there is none.
func (fs *FS) quotaOf(t disk.QuotaType, id uint32) (disk.QuotaEntry, error) {
	rw := fs.rw
	rw.mu.Lock()
	defer rw.mu.Unlock()
	q, err := rw.newHandle().quotaFile(t)
	if err != nil {
		return disk.QuotaEntry{}, err
	}
	head, err := q.header()
	n := uint32(disk.QuotaTreeRoot)
	for depth := 0; err == nil && n != 0 && depth < disk.QuotaTreeDepth; depth++ {
		n, err = q.follow(head, n, slot(id, depth))
	}
	if err != nil || n == 0 {
		return disk.QuotaEntry{}, err
	}
	b, err := q.read(n)
	if err != nil {
		return disk.QuotaEntry{}, err
	}
	at := disk.QuotaLeafFind(b, id, false)
	if at < 0 {
		return disk.QuotaEntry{}, q.bad(n, "entries", "none for "+fmt.Sprint(id), "one, as the tree leads there")
	}
	return disk.DecodeQuotaEntry(b[at:][:disk.QuotaEntrySize]), nil
}

// insert makes an entry for id, to which block n at depth of the tree is to
// lead, and the blocks between (do_insert_tree).
func (q *quotaFile) insert(head disk.QuotaHeader, n uint32, depth int, id uint32) ([]byte, error) {
	leaf := head.FreeEntry
	var err error
	if leaf == 0 {
		if leaf, err = q.newBlock(&head); err != nil {
			return nil, err
		}
		head.FreeEntry = leaf
	}
	b, err := q.edit(leaf)
	if err != nil {
		return nil, err
	}
	at := disk.QuotaLeafFind(b, id, true)
	if at < 0 {
		return nil, q.bad(leaf, "entries", "no free one", "one, as it is in the list of those with room")
	}
	top := disk.DecodeQuotaLeafHeader(b)
	if top.Entries++; top.Entries >= disk.QuotaLeafEntries {
		// The first of the list, which has no room any more.
		head.FreeEntry = top.NextFree
		if next := top.NextFree; next != 0 {
			if next <= disk.QuotaTreeRoot || next >= head.Blocks {
				return nil, q.bad(leaf, "dqdh_next_free", fmt.Sprint(next), fmt.Sprintf("0 or 2 to %d", int64(head.Blocks)-1))
			}
			nb, err := q.edit(next)
			if err != nil {
				return nil, err
			}
			nh := disk.DecodeQuotaLeafHeader(nb)
			nh.PrevFree = 0
			nh.Put(nb)
		}
		top.NextFree, top.PrevFree = 0, 0
	}
	top.Put(b)
	for ; depth < disk.QuotaTreeDepth; depth++ {
		next := leaf
		if depth < disk.QuotaTreeDepth-1 {
			if next, err = q.newBlock(&head); err != nil {
				return nil, err
			}
		}
		tree, err := q.edit(n)
		if err != nil {
			return nil, err
		}
		disk.PutQuotaRef(tree, slot(id, depth), next)
		n = next
	}
	return b[at:][:disk.QuotaEntrySize], q.putHeader(head)
}

// newBlock takes a block of zeros for the tree: one that is not used any more, or
// one at the end of the file (get_free_dqblk).
func (q *quotaFile) newBlock(head *disk.QuotaHeader) (uint32, error) {
	if n := head.FreeBlock; n != 0 {
		b, err := q.edit(n)
		if err != nil {
			return 0, err
		}
		next := disk.DecodeQuotaLeafHeader(b).NextFree
		if next != 0 && (next <= disk.QuotaTreeRoot || next >= head.Blocks) {
			return 0, q.bad(n, "dqdh_next_free", fmt.Sprint(next), fmt.Sprintf("0 or 2 to %d", int64(head.Blocks)-1))
		}
		head.FreeBlock = next
		clear(b)
		return n, nil
	}
	n := head.Blocks
	in, err := q.h.inode(q.in.ino)
	if err != nil {
		return 0, err
	}
	q.in = in
	at := uint64(n) * disk.QuotaBlockSize
	l := disk.LBlock(at >> q.h.fs.sb.BlockBits())
	m, err := in.mapOnce(l)
	if err != nil {
		return 0, err
	}
	if m.State == MapHole {
		r, err := q.h.mapHole(in, l, 1, false)
		if err != nil {
			return 0, err
		}
		q.h.fresh(kindQuota, nil, r.first)
	}
	in.disk.Size = max(in.disk.Size, at+disk.QuotaBlockSize)
	head.Blocks++
	b, err := q.edit(n)
	if err == nil {
		clear(b)
	}
	return n, err
}

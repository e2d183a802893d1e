package ext4

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// writePart is how many bytes one update maps at most.
const writePart = 8 << 20

// A change is a run of a file's blocks that a write has filled: new ones, or
// such as were unwritten.
type change struct {
	at      disk.LBlock
	run     run
	new     bool // to be inserted; else converted
	cluster bool // new blocks in a cluster that the file has already

	unwritten bool // new blocks that nothing was written to
}

// clusters is all of the clusters that the change's blocks lie in.
func (ch change) clusters(cb uint) run {
	lead := uint64(ch.at) & (1<<cb - 1)
	return run{ch.run.first - disk.PBlock(lead), (ch.run.n + lead + 1<<cb - 1) >> cb << cb}
}

// writePart writes p, or the start of it, and then maps it, so that nobody sees blocks
// before they are filled: neither readers nor, after a crash, whoever comes next.
func (fs *FS) writePart(ctx context.Context, c Caller, ino disk.Ino, p []byte, off int64) (n int, err error) {
	in, err := fs.Inode(ino)
	if err != nil {
		return 0, err
	}
	if err := fs.zeroTail(in, off); err != nil {
		return 0, err
	}
	var changes []change
	mapped := false
	defer func() {
		if !mapped {
			fs.rw.unreserveAll(changes)
		}
	}()
	for n < len(p) && err == nil && len(changes) < fs.rw.maxChanges() {
		var ch change
		var k int
		ch, k, err = fs.writeRun(c, in, p[n:], off+int64(n), changes)
		n += k
		if ch.run.n > 0 {
			changes = append(changes, ch)
		}
	}
	if n == 0 {
		return 0, err
	}
	publish := func(h *Handle) error {
		in, err := h.inode(ino)
		if err != nil {
			return err
		}
		h.limit(c)
		for _, ch := range changes {
			if err := h.apply(in, ch); err != nil {
				return err
			}
		}
		if size := uint64(off) + uint64(n); size > in.disk.Size {
			in.disk.Size = size
			h.needLargeFile(in)
		}
		in.written(c)
		return h.clearPrivileges(c, in)
	}
	uerr := fs.Update(ctx, publish)
	if errors.Is(uerr, unix.ENOSPC) {
		// No block is left for the tree to grow: what was unwritten becomes
		// written in whole extents, which takes none (ext4_split_extent's zeroout).
		eof := (max(uint64(off)+uint64(n), uint64(in.Size())) + 1<<fs.sb.BlockBits() - 1) >> fs.sb.BlockBits()
		if changes, uerr = fs.zeroOut(in, changes, eof); uerr == nil {
			uerr = fs.Update(ctx, publish)
		}
	}
	if uerr != nil {
		return 0, uerr
	}
	mapped = true
	return n, err
}

// partSize is how many bytes of the file one update maps at most: in one
// without extents, each block of numbers is a block of the update.
func (in *Inode) partSize() int {
	if in.disk.Flags.Has(disk.FlagExtents) {
		return writePart
	}
	bits := in.fs.sb.BlockBits()
	return min(writePart, max(in.fs.rw.maxChanges()/2, 1)<<(bits-2+bits))
}

// maxChanges is how many changes of a file's map one update can have: each may
// lie in a group of its own, and behind a node of its own.
func (rw *writer) maxChanges() int { return max(rw.handleRoom()/8, 1) }

// apply maps what a write has filled.
func (h *Handle) apply(in *Inode, ch change) error {
	h.mustNotFail = true
	if !ch.new {
		return h.convertExtents(in, uint64(ch.at), uint64(ch.at)+ch.run.n)
	}
	if !ch.cluster {
		whole := ch.clusters(h.fs.sb.ClusterBits())
		h.use(whole)
		in.addBlocks(int64(whole.n))
	}
	return h.insert(in, ch.at, ch.run, ch.unwritten)
}

// zeroOut returns the changes with those of unwritten blocks widened to whole
// extents, the rest of which it has filled with zeros. Nothing behind block eof, where
// the file ends, becomes written: e2fsck takes the size for wrong then.
func (fs *FS) zeroOut(in *Inode, changes []change, eof uint64) ([]change, error) {
	var out []change
	done := uint64(0) // blocks before this are filled
	for i, ch := range changes {
		if ch.new {
			out = append(out, ch)
			continue
		}
		end, next := uint64(ch.at)+ch.run.n, uint64(maxLogical)
		if i+1 < len(changes) {
			next = uint64(changes[i+1].at)
		}
		for at := uint64(ch.at); at < end; {
			e, err := in.unwrittenAt(disk.LBlock(at))
			if err != nil {
				return changes, err
			}
			// It goes on to where the next of the changes in it begins.
			start, stop := uint64(e.Block), uint64(e.Block)+uint64(e.Len)
			first, last := max(start, done), min(stop, next, max(eof, end))
			filled := min(stop, end) // from at on
			phys := uint64(e.Start) - start
			if err := errors.Join(fs.zeroBlocks(phys+first, at-first), fs.zeroBlocks(phys+filled, last-filled)); err != nil {
				return changes, err
			}
			out = append(out, change{at: disk.LBlock(first), run: run{disk.PBlock(phys + first), last - first}})
			done, at = last, filled
		}
	}
	return out, nil
}

// unwrittenAt is the extent of unwritten blocks that has block b.
func (in *Inode) unwrittenAt(b disk.LBlock) (disk.Extent, error) {
	path, _, err := in.extentPath(b)
	if err != nil {
		return disk.Extent{}, err
	}
	for _, e := range extentsOf(path[len(path)-1].entries) {
		if e.Unwritten && e.Block <= b && uint64(b) < uint64(e.Block)+uint64(e.Len) {
			return e, nil
		}
	}
	return disk.Extent{}, &disk.CorruptError{Struct: "extent tree of inode", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
		Field: fmt.Sprintf("block %d", b), Have: "not unwritten any more", Want: "unwritten"}
}

// zeroBlocks fills n blocks of the device with zeros.
func (fs *FS) zeroBlocks(first, n uint64) error {
	bits := fs.sb.BlockBits()
	zeros := make([]byte, min(n<<bits, 1<<20))
	for at, end := int64(first)<<bits, int64(first+n)<<bits; at < end; {
		k := min(end-at, int64(len(zeros)))
		if err := fs.writeDevice(zeros[:k], at); err != nil {
			return err
		}
		at += k
	}
	return nil
}

// writeRun writes the start of p to the run of blocks at byte off, and
// returns what has to be mapped for it to count, and how much it wrote. before
// are the changes of the same update that were written already.
func (fs *FS) writeRun(c Caller, in *Inode, p []byte, off int64, before []change) (change, int, error) {
	bits := fs.sb.BlockBits()
	at := disk.LBlock(off >> bits)
	m, err := in.mapOnce(at)
	if err != nil {
		return change{}, 0, err
	}
	end := min(off+int64(len(p)), int64(m.End())<<bits)
	p = p[:end-off]
	skip := disk.PBlock(uint64(at) - uint64(m.Logical))
	if m.State == MapWritten {
		if err := fs.writeDevice(p, int64(m.Physical+skip)<<bits+off&(1<<bits-1)); err != nil {
			return change{}, 0, err
		}
		return change{}, len(p), nil
	}
	ch := change{at: at, run: run{m.Physical + skip, uint64(end+1<<bits-1)>>bits - uint64(at)}}
	if m.State == MapHole {
		if ch, err = fs.newBlocks(c, in, ch.at, ch.run.n, before); err != nil {
			return change{}, 0, err
		}
		p = p[:min(int64(len(p)), (int64(at)+int64(ch.run.n))<<bits-off)]
	}
	// The rest of the first and of the last block reads as zeros.
	head, tail := int(off&(1<<bits-1)), 0
	if over := (head + len(p)) & (1<<bits - 1); over > 0 {
		tail = 1<<bits - over
	}
	data := p
	if head > 0 || tail > 0 {
		data = make([]byte, head+len(p)+tail)
		copy(data[head:], p)
	}
	if err := fs.writeDevice(data, int64(ch.run.first)<<bits); err != nil {
		fs.rw.unreserveAll([]change{ch})
		return change{}, 0, err
	}
	return ch, len(p), nil
}

package ext4

import (
	"context"
	"errors"

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
		in.touch(true)
		return h.clearPrivileges(c, in)
	}
	uerr := fs.Update(ctx, publish)
	if errors.Is(uerr, unix.ENOSPC) {
		// No block is left for the tree to grow: what was unwritten becomes
		// written in whole extents, which takes none (ext4_split_extent's zeroout).
		if changes, uerr = fs.zeroOut(in, changes); uerr == nil {
			uerr = fs.Update(ctx, publish)
		}
	}
	if uerr != nil {
		return 0, uerr
	}
	mapped = true
	return n, err
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
// extents, the rest of which it has filled with zeros.
func (fs *FS) zeroOut(in *Inode, changes []change) ([]change, error) {
	bits := fs.sb.BlockBits()
	zeros := make([]byte, 1<<20)
	fill := func(at, end uint64) error {
		for at, end := int64(at)<<bits, int64(end)<<bits; at < end; {
			n := min(end-at, int64(len(zeros)))
			if err := fs.writeDevice(zeros[:n], at); err != nil {
				return err
			}
			at += n
		}
		return nil
	}
	out := append([]change(nil), changes...)
	done := disk.LBlock(0) // blocks before this are filled
	for i, ch := range changes {
		if ch.new {
			continue
		}
		path, _, err := in.extentPath(ch.at)
		if err != nil {
			return changes, err
		}
		for _, e := range extentsOf(path[len(path)-1].entries) {
			if !e.Unwritten || e.Block > ch.at || uint64(ch.at)-uint64(e.Block) >= uint64(e.Len) {
				continue
			}
			// The extent goes on to where the next of the changes in it begins.
			end := uint64(e.Block) + uint64(e.Len)
			if i+1 < len(changes) {
				end = min(end, uint64(changes[i+1].at))
			}
			first := max(e.Block, done)
			phys := uint64(e.Start) + uint64(first) - uint64(e.Block)
			filled := phys + uint64(ch.at) - uint64(first)
			if err := errors.Join(fill(phys, filled), fill(filled+ch.run.n, phys+end-uint64(first))); err != nil {
				return changes, err
			}
			out[i] = change{at: first, run: run{disk.PBlock(phys), end - uint64(first)}}
			done = disk.LBlock(end)
		}
	}
	return out, nil
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

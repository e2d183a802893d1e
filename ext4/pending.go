package ext4

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// Who writes a file's data himself, as a kernel with fuse-iomap does, needs
// the blocks before the data and the map after it:
//
//	AllocPending  blocks are taken for a hole, in memory alone
//	  (data goes to them)
//	MapPending    one update maps them, as written, and moves the end of the file
//	DropPending   or they are given back
//
// Until MapPending nothing on the device knows of the blocks, so that a crash
// at any time shows neither what they held before nor a size without data.

// Pending is a run of Len blocks, from Physical on, that was taken for the
// blocks of a file from At on. Nothing maps it.
type Pending struct {
	At       disk.LBlock
	Len      uint64
	Physical disk.PBlock
	shared   bool // in a cluster that the file has already, by another run
}

// End is the block of the file behind the run.
func (p Pending) End() uint64 { return uint64(p.At) + p.Len }

func (p Pending) change() change {
	return change{at: p.At, run: run{p.Physical, p.Len}, new: true, cluster: p.shared}
}

// Slice returns the part of the run that holds the blocks [from, end) of the
// file, and what is left before and behind it. Clusters that the part shares with
// the others go with the part.
func (p Pending) Slice(fs *FS, from, end uint64) (before, part, after []Pending) {
	cluster := uint64(1) << fs.sb.ClusterBits()
	cut := func(a, b uint64, shared bool) Pending {
		return Pending{disk.LBlock(a), b - a, p.Physical + disk.PBlock(a-uint64(p.At)), shared}
	}
	from, end = max(from, uint64(p.At)), min(end, p.End())
	if from >= end {
		return nil, nil, []Pending{p}
	}
	pieces := func(a, b, inner uint64, innerFirst bool) []Pending {
		var out []Pending
		inner = min(max(inner, a), b)
		if a < inner {
			out = append(out, cut(a, inner, p.shared || innerFirst))
		}
		if inner < b {
			out = append(out, cut(inner, b, p.shared || !innerFirst))
		}
		return out
	}
	before = pieces(uint64(p.At), from, from&^(cluster-1), false)
	after = pieces(end, p.End(), (end+cluster-1)&^(cluster-1), true)
	return before, []Pending{cut(from, end, p.shared)}, after
}

// DataElsewhere says that from now on others write the contents of files on
// the device: nothing here zeroes a part of a block any more, which they do. Inline data stay ours.
func (fs *FS) DataElsewhere() { fs.foreign.Store(true) }

// AllocPending takes blocks for n blocks of file ino from at on, which are a
// hole that no other Pending covers: one run, of as many as lie together, and
// whole clusters, so that it may begin before at. taken are the file's other
// pending runs. It fails as [FS.WriteAt] does, and with [ErrInline].
func (fs *FS) AllocPending(ctx context.Context, c Caller, ino disk.Ino, at disk.LBlock, n uint64, taken []Pending) (Pending, error) {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return Pending{}, err
	}
	defer mu.unlock()
	in, err := fs.writableFile(ino)
	if err != nil {
		return Pending{}, err
	}
	if in.HasInlineData() {
		return Pending{}, ErrInline
	}
	if end := uint64(at) + n; end > maxLogical || (end-1)<<fs.sb.BlockBits() >= in.maxSize() {
		return Pending{}, in.errTooLarge((end - 1) << fs.sb.BlockBits())
	}
	var before []change
	for _, p := range taken {
		if p.End() == uint64(at) {
			before = []change{p.change()}
		}
	}
	ch, err := fs.newBlocks(c, in, at, n, before)
	if err != nil {
		return Pending{}, err
	}
	p := Pending{ch.at, ch.run.n, ch.run.first, ch.cluster}
	if !ch.cluster {
		whole, lead := ch.clusters(fs.sb.ClusterBits()), uint64(0)
		lead = uint64(ch.run.first - whole.first)
		p.At, p.Len, p.Physical = ch.at-disk.LBlock(lead), whole.n, whole.first
	}
	if err := fs.checkLimits(ctx, c, in, append(slices.Clone(taken), p)); err != nil {
		fs.rw.unreserveAll([]change{ch})
		return Pending{}, err
	}
	return p, nil
}

// errOnlyAsked ends an update that only wanted to know whether it would do.
var errOnlyAsked = errors.New("the update was a question")

// LimitsQuota reports whether limits of quota hold for c.
func (fs *FS) LimitsQuota(c Caller) bool { return len(fs.opts.QuotaLimits) > 0 && !c.Privileged }

// checkLimits fails with EDQUOT if the caller's quota has no room for what is
// pending for in.
func (fs *FS) checkLimits(ctx context.Context, c Caller, in *Inode, pending []Pending) error {
	if !fs.LimitsQuota(c) {
		return nil
	}
	err := fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(in.ino)
		if err != nil {
			return err
		}
		h.limit(c)
		for _, p := range pending {
			in.addBlocks(int64(p.Len))
		}
		if err := h.chargeQuota(); err != nil {
			return err
		}
		return errOnlyAsked
	})
	if errors.Is(err, errOnlyAsked) {
		return nil
	}
	return err
}

// DropPending gives pending blocks back. Nobody may be writing to them.
func (fs *FS) DropPending(list []Pending) {
	changes := make([]change, len(list))
	for i, p := range list {
		changes[i] = p.change()
	}
	fs.rw.unreserveAll(changes)
}

// MapPending says that data has been written to the blocks [from, end) of ino:
// the pending runs in list, in order and all in that range, are mapped, what was
// unwritten there becomes written, and the file is at least size bytes long. It
// takes several updates if it has to, the last of which moves the end of the file. It returns how many of the
// runs are mapped, also with an error. Blocks that are written already, and holes that have no
// run, are left as they are. It fails with [ErrInline] for a file whose contents are in the inode.
func (fs *FS) MapPending(ctx context.Context, ino disk.Ino, list []Pending, from, end uint64, size int64) (mapped int, err error) {
	return fs.mapPending(ctx, ino, list, from, end, size, false)
}

// MapUnwritten maps pending runs, in order, as unwritten, as fallocate would:
// nothing has been written to them yet, and may be at any time. The file has extents.
func (fs *FS) MapUnwritten(ctx context.Context, ino disk.Ino, list []Pending) (mapped int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	return fs.mapPending(ctx, ino, list, uint64(list[0].At), list[len(list)-1].End(), 0, true)
}

func (fs *FS) mapPending(ctx context.Context, ino disk.Ino, list []Pending, from, end uint64, size int64, unwritten bool) (mapped int, err error) {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return 0, err
	}
	defer mu.unlock()
	for part, done := end-from, false; !done; {
		stop := min(from+part, end)
		runs := list[mapped:]
		for i, p := range runs {
			if uint64(p.At) >= stop || i == fs.rw.maxChanges() {
				runs, stop = runs[:i], min(stop, uint64(p.At))
				break
			}
		}
		done = stop == end
		err := fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(ino)
			if err != nil {
				return err
			}
			if in.HasInlineData() {
				return ErrInline
			}
			h.mustNotFail = true
			if !unwritten && in.disk.Flags.Has(disk.FlagExtents) && from < stop {
				if err := h.convertExtents(in, from, stop); err != nil {
					return err
				}
			}
			for _, p := range runs {
				ch := p.change()
				ch.unwritten = unwritten
				if err := h.apply(in, ch); err != nil {
					return err
				}
			}
			if done && uint64(size) > in.disk.Size {
				in.disk.Size = uint64(size)
				h.needLargeFile(in)
			}
			return nil
		})
		if errors.Is(err, errUpdateTooLarge) && stop-from > 1 {
			part, done = (stop-from)/2, false
			continue
		}
		if err != nil {
			return mapped, fmt.Errorf("map what was written to inode %d: %w", ino, err)
		}
		mapped, from = mapped+len(runs), stop
	}
	return mapped, nil
}

// GrowOut moves the contents of a file from its inode to blocks.
func (fs *FS) GrowOut(ctx context.Context, c Caller, ino disk.Ino) error {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	in, err := fs.writableFile(ino)
	if err != nil || !in.HasInlineData() {
		return err
	}
	return fs.growOut(ctx, c, in)
}

// InlineRoom returns how many bytes a file can hold in its inode: 0 for one
// that has blocks, or that cannot hold any.
func (in *Inode) InlineRoom() (int, error) {
	if !in.HasInlineData() && !in.mayInline() {
		return 0, nil
	}
	list, err := in.bodyXattrs()
	if err != nil {
		return 0, err
	}
	return in.inlineRoom(list, findXattr(list, disk.XattrSystem, disk.InlineDataName)), nil
}

// Committed reports whether all that changed inode ino is durable.
func (fs *FS) Committed(ino disk.Ino) bool {
	rw := fs.rw
	if rw == nil {
		return true
	}
	rw.mu.Lock()
	defer rw.mu.Unlock()
	for _, tx := range []*transaction{rw.running, rw.committing} {
		if tx != nil {
			if _, ok := tx.inodes[ino]; ok {
				return false
			}
		}
	}
	return true
}

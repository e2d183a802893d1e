package ext4

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// trimPart is how many bytes are kept from being allocated at once, for the
// device to discard them.
const trimPart = 256 << 20

// Trim tells the device that the free blocks in the length bytes from byte
// start of the file system on hold nothing, where minLen bytes or more of them
// lie together, and returns how many bytes that were (FITRIM). It fails with a wrapped
// EINVAL if start lies behind the end, length is less than a block or minLen more than
// a group, and with the device's error.
func (fs *FS) Trim(ctx context.Context, start, length, minLen uint64) (trimmed uint64, err error) {
	rw, sb := fs.rw, &fs.sb
	if rw == nil {
		return 0, ErrReadOnly
	}
	bits, cb := sb.BlockBits(), sb.ClusterBits()
	first := start >> bits
	end := first + length>>bits
	least := max((minLen+1<<(bits+cb)-1)>>(bits+cb), 1) // clusters
	if minLen > 1<<63 || least > uint64(sb.BlocksPerGroup)>>cb || first >= sb.Blocks || length < 1<<bits {
		return 0, fmt.Errorf("trim %d bytes from %d, %d together: %w", length, start, minLen, unix.EINVAL)
	}
	end = min(end, sb.Blocks)
	for at := max(disk.PBlock(first), disk.PBlock(sb.FirstDataBlock)); uint64(at) < end; {
		if err := ctx.Err(); err != nil {
			return trimmed, err
		}
		n, next, err := rw.trimPart(ctx, at, disk.PBlock(end), uint32(least))
		trimmed += n << bits
		if err != nil {
			return trimmed, err
		}
		at = next
	}
	return trimmed, nil
}

// trimPart discards free runs of least clusters or more in the group of block
// at, from there on to before end, and returns how many blocks that were and where to
// go on.
func (rw *writer) trimPart(ctx context.Context, at, end disk.PBlock, least uint32) (n uint64, next disk.PBlock, err error) {
	rw.trimMu.Lock()
	defer rw.trimMu.Unlock()
	var a readAhead
	runs, next, err := rw.takeFree(ctx, at, end, least, &a)
	for a.fetch(rw.fs.dev) {
		runs, next, err = rw.takeFree(ctx, at, end, least, &a)
	}
	defer func() {
		rw.mu.Lock()
		defer rw.mu.Unlock()
		rw.discarding = false
		for _, r := range runs {
			rw.unreserve(r)
		}
	}()
	bits := rw.fs.sb.BlockBits()
	for _, r := range runs {
		if err == nil {
			err = rw.fs.dev.Discard(int64(r.first)<<bits, int64(r.n)<<bits)
		}
		if err == nil {
			n += r.n
		}
	}
	if err != nil {
		err = fmt.Errorf("trim: %w", err)
	}
	return n, next, err
}

// takeFree reserves the free runs that trimPart discards.
func (rw *writer) takeFree(ctx context.Context, at, end disk.PBlock, least uint32, a *readAhead) (runs []run, next disk.PBlock, err error) {
	rw.mu.Lock()
	defer rw.mu.Unlock()
	rw.view.begin(a, rw.commits)
	defer rw.view.end()
	if err := rw.waitLocked(ctx, func() bool { return false }); err != nil {
		return nil, end, err
	}
	rw.tick++
	sb := &rw.fs.sb
	cb := sb.ClusterBits()
	number := sb.GroupOf(at)
	first := sb.FirstBlock(number)
	next = first + disk.PBlock(sb.BlocksInGroup(number))
	d, err := rw.desc(number)
	if err != nil || d.FreeClusters < least {
		return nil, next, err
	}
	g, err := rw.group(number)
	if err != nil {
		return nil, next, err
	}
	from := uint32((uint64(at-first) + 1<<cb - 1) >> cb)
	to := uint32(uint64(min(end, next)-first) >> cb)
	if whole := rw.fs.clusters(number); end >= next {
		to = whole // the last cluster of the file system may lie in it in part
	}
	left := uint32(max(trimPart>>(sb.BlockBits()+cb), uint64(least)))
	for i := g.busy.next(from, to, false); i < to; i = g.busy.next(i, to, false) {
		stop := g.busy.next(i, to, true)
		if n := min(stop-i, left); n >= least {
			runs = append(runs, run{first + disk.PBlock(i)<<cb, uint64(n) << cb})
			if left -= n; left == 0 {
				next = min(first+disk.PBlock(i+n)<<cb, next)
				break
			}
		} else if stop-i >= least {
			next = first + disk.PBlock(i)<<cb
			break
		}
		i = stop
	}
	for i, r := range runs {
		from := uint32(uint64(r.first-first) >> cb)
		n := uint32(r.n >> cb)
		g.busy.set(from, n)
		rw.free -= uint64(n)
		runs[i].n = min(r.n, uint64(sb.BlocksInGroup(number))-uint64(r.first-first))
	}
	rw.discarding = len(runs) > 0
	return runs, next, nil
}

// discardFreed tells the device that runs, which a durable transaction has
// freed, hold nothing. They are not allocated again before that is done. A device that cannot
// do it does without.
func (rw *writer) discardFreed(frees []run) {
	frees = slices.Clone(frees)
	slices.SortFunc(frees, func(a, b run) int { return cmp.Compare(a.first, b.first) })
	bits := rw.fs.sb.BlockBits()
	for i := 0; i < len(frees); {
		r := frees[i]
		for i++; i < len(frees) && frees[i].first == r.first+disk.PBlock(r.n); i++ {
			r.n += frees[i].n
		}
		if rw.fs.dev.Discard(int64(r.first)<<bits, int64(r.n)<<bits) != nil {
			return
		}
	}
}

package mkfs

import (
	"fmt"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A volume is a file system that is being made: where everything lies, and
// what has not been written yet.
type volume struct {
	p     *Params
	sb    disk.Superblock
	dev   blockdev.Device
	space space

	// Where each group's bitmaps and table lie.
	blockBitmap, inodeBitmap, inodeTable []disk.PBlock

	// touched has the groups with a block in use that their own metadata do not
	// account for: their block bitmaps have to be written.
	touched  []bool
	overhead uint64 // clusters of metadata: s_overhead_clusters

	builtin builtin
}

// newVolume lays out the file system that p describes on dev, which it does
// not write to yet.
func newVolume(p *Params, dev blockdev.Device) (*volume, error) {
	groups := p.sb.Groups()
	v := &volume{
		p: p, sb: p.sb, dev: dev,
		blockBitmap: make([]disk.PBlock, groups), inodeBitmap: make([]disk.PBlock, groups), inodeTable: make([]disk.PBlock, groups),
		touched: make([]bool, groups),
	}
	v.space.limit = disk.PBlock(v.sb.Blocks)
	if err := v.takeBadBlocks(); err != nil {
		return nil, err
	}
	bad := v.usedClusters()
	if err := v.placeTables(); err != nil {
		return nil, err
	}
	v.wholeClusters()
	v.overhead = v.usedClusters() - bad
	return v, v.placeBuiltin()
}

// wholeClusters takes the rest of each cluster that is in use in part.
func (v *volume) wholeClusters() {
	if v.sb.ClusterBits() == 0 {
		return
	}
	used := v.space.used
	v.space.used = nil
	for _, r := range used {
		v.cover(r.start, r.len())
	}
}

// usedClusters is how many clusters are in use.
func (v *volume) usedClusters() uint64 {
	var n uint64
	for _, r := range v.space.used {
		n += (r.len() + 1<<v.sb.ClusterBits() - 1) >> v.sb.ClusterBits()
	}
	return n
}

// group g's blocks are [first, end).
func (v *volume) group(g uint64) (first, end disk.PBlock) {
	first = v.sb.FirstBlock(disk.Group(g))
	return first, first + disk.PBlock(v.sb.BlocksInGroup(disk.Group(g)))
}

// noRoom is the error of metadata that do not fit.
func (v *volume) noRoom(what string, n uint64) error {
	return usage("use a larger size", "no room for %s, %d blocks, in a file system of %d blocks", what, n, v.sb.Blocks)
}

// alloc takes n blocks in one piece from goal on, or from the start.
func (v *volume) alloc(what string, goal disk.PBlock, n uint64) (disk.PBlock, error) {
	b, ok := v.space.find(goal, v.space.limit, n)
	if !ok {
		b, ok = v.space.find(disk.PBlock(v.sb.FirstDataBlock), v.space.limit, n)
	}
	if !ok {
		return 0, v.noRoom(what, n)
	}
	v.take(b, n)
	return b, nil
}

// take marks blocks as in use for something that belongs to no group.
func (v *volume) take(b disk.PBlock, n uint64) {
	v.cover(b, n)
	v.touch(b, n)
}

// cover marks blocks as in use; with bigalloc, the whole clusters they lie in.
func (v *volume) cover(b disk.PBlock, n uint64) {
	cb := v.sb.ClusterBits()
	end := (b + disk.PBlock(n) + 1<<cb - 1) >> cb << cb
	b = b >> cb << cb
	v.space.mark(b, uint64(min(end, v.space.limit)-b))
}

// touch notes that the groups of the blocks need a bitmap.
func (v *volume) touch(b disk.PBlock, n uint64) {
	for g := v.sb.GroupOf(b); g <= v.sb.GroupOf(b+disk.PBlock(n)-1); g++ {
		v.touched[g] = true
	}
}

// allocPieces takes n blocks from goal on, in as few pieces as there are.
func (v *volume) allocPieces(what string, goal disk.PBlock, n uint64) ([]run, error) {
	var out []run
	from, end := goal, v.space.limit
	for n > 0 {
		r, ok := v.space.next(from, end)
		if !ok {
			if from = disk.PBlock(v.sb.FirstDataBlock); end == goal || goal == from {
				return nil, v.noRoom(what, n)
			}
			end = goal
			continue
		}
		r.end = min(r.end, r.start+disk.PBlock(n))
		v.take(r.start, r.len())
		out = append(out, r)
		n -= r.len()
		from = r.end
	}
	return out, nil
}

// writeBlock writes whole blocks at b; nothing where there is only a layout.
func (v *volume) writeBlock(b disk.PBlock, data []byte) error {
	if v.dev == nil {
		return nil
	}
	if _, err := v.dev.WriteAt(data, int64(b)<<v.sb.BlockBits()); err != nil {
		return fmt.Errorf("write block %d: %w", b, err)
	}
	return nil
}

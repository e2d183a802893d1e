package ext4

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"e4go/ext4/disk"
)

// The groups that the writer uses are kept in memory, with their bitmaps, as
// the next transaction writes them. Of those that are as the device has them,
// the least recently used are forgotten when there are too many.

// group returns group n, reading its bitmap when it is first used. It stays
// for the rest of the update. The caller holds rw.mu.
func (rw *writer) group(n disk.Group) (*group, error) {
	g, err := rw.load(n)
	if err != nil {
		return nil, err
	}
	return rw.use(g), nil
}

// use keeps g for the rest of the update.
func (rw *writer) use(g *group) *group {
	g.used = rw.tick
	return g
}

// load returns group n, for a look at it.
func (rw *writer) load(n disk.Group) (*group, error) {
	if g, ok := rw.groups[n]; ok {
		return g, nil
	}
	desc, err := rw.view.fs.groupDesc(n)
	if err != nil {
		return nil, err
	}
	b, err := rw.view.fs.blockBitmap(n)
	if err != nil {
		return nil, err
	}
	if _, err := rw.descBlock(uint64(n) / uint64(rw.fs.sb.DescPerBlock())); err != nil { // the commit needs it
		return nil, err
	}
	g := &group{n: n, desc: desc, blocks: append(bitmap(nil), b...), longest: rw.fs.clusters(n)}
	if longest, ok := rw.longest[n]; ok {
		g.longest = longest
	}
	if desc.Flags&disk.GroupBlockUninit != 0 { // ext4_mark_bitmap_end
		g.blocks.set(rw.fs.clusters(n), uint32(len(b))*8-rw.fs.clusters(n))
	}
	g.busy = append(bitmap(nil), g.blocks...)
	if have := g.blocks.zeros(rw.fs.clusters(n)); have != desc.FreeClusters {
		return nil, &disk.CorruptError{Struct: "group descriptor", Num: uint64(n), Block: desc.BlockBitmap, Field: "bg_free_blocks_count",
			Have: fmt.Sprint(desc.FreeClusters), Want: fmt.Sprintf("%d, as the bitmap has it", have)}
	}
	rw.shrinkGroups()
	rw.groups[n] = g
	rw.groupBytes += 2 * len(b)
	return g, nil
}

// longestIn is a bound for the runs of free clusters in group n, if one is
// known.
func (rw *writer) longestIn(n disk.Group) (uint32, bool) {
	if g, ok := rw.groups[n]; ok {
		return g.longest, true
	}
	longest, ok := rw.longest[n]
	return longest, ok
}

// shrinkGroups makes room for another group.
func (rw *writer) shrinkGroups() {
	most := max(int(rw.fs.opts.CacheSize/4), 64*rw.fs.sb.BlockSize())
	if rw.groupBytes < max(most, rw.shrinkAt) {
		return
	}
	var clean []*group
	for _, g := range rw.groups {
		if g.used < rw.tick && rw.onDevice(g) {
			clean = append(clean, g)
		}
	}
	slices.SortFunc(clean, func(a, b *group) int { return cmp.Compare(a.used, b.used) })
	for _, g := range clean {
		if rw.groupBytes <= most*3/4 {
			break
		}
		delete(rw.groups, g.n)
		rw.longest[g.n] = g.longest
		rw.groupBytes -= len(g.blocks) + len(g.busy) + len(g.inodes)
	}
	rw.shrinkAt = rw.groupBytes + most/4 // what could not go is not looked at each time
}

// onDevice reports whether the device has group g as it is here, and nothing
// of it is reserved.
func (rw *writer) onDevice(g *group) bool {
	if _, ok := rw.running.groups[g.n]; ok {
		return false
	}
	if rw.committing != nil {
		if _, ok := rw.committing.groups[g.n]; ok {
			return false
		}
	}
	return bytes.Equal(g.busy, g.blocks)
}

// freezeGroups adds to tx the bitmaps and descriptors of its groups.
func (rw *writer) freezeGroups(tx *transaction) error {
	sb, fs := &rw.fs.sb, rw.fs
	blocks := make(map[disk.PBlock][]byte)
	descs := make(map[uint64]*descBlock)
	per := uint64(sb.DescPerBlock())
	for n, what := range tx.groups {
		g := rw.groups[n]
		if what&blocksChanged != 0 {
			blocks[g.desc.BlockBitmap] = bytes.Clone(g.blocks)
			if sb.MetadataCsum() {
				g.desc.BlockBitmapCsum = disk.BitmapChecksum(sb, g.blocks[:sb.BlocksPerGroup>>sb.ClusterBits()/8])
			}
		}
		if what&inodesChanged != 0 {
			blocks[g.desc.InodeBitmap] = bytes.Clone(g.inodes)
			if sb.MetadataCsum() {
				g.desc.InodeBitmapCsum = disk.BitmapChecksum(sb, g.inodes[:sb.InodesPerGroup/8])
			}
		}
		i := uint64(n) / per
		d, err := rw.descBlock(i)
		if err != nil {
			return err
		}
		raw := d.data[int(uint64(n)%per)*sb.GroupDescSize():][:sb.GroupDescSize()]
		g.desc.Put(raw)
		g.desc.Checksum = disk.GroupDescChecksum(sb, n, raw)
		g.desc.Put(raw)
		descs[i] = d
	}
	for _, d := range descs {
		blocks[d.n] = bytes.Clone(d.data)
	}
	// From here on they are read as tx has them.
	l := fs.live
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, data := range blocks {
		l.ofBlock(n).Add(1)
		l.blocks[n] = liveBlock{data: data, tx: tx, kind: kindBitmap}
		fs.cache.drop(kindBitmap, uint64(n))
	}
	for i, d := range descs {
		l.blocks[d.n] = liveBlock{data: blocks[d.n], tx: tx, kind: kindGroup}
		fs.cache.drop(kindGroup, i)
	}
	maps.Copy(tx.blocks, blocks)
	return nil
}

func (rw *writer) descBlock(i uint64) (*descBlock, error) {
	if d, ok := rw.descs[i]; ok {
		return d, nil
	}
	n := rw.fs.sb.DescBlock(rw.fs.super.block(), i)
	data, err := rw.view.fs.bytes(n)
	if err != nil {
		return nil, fmt.Errorf("group descriptors: %w", err)
	}
	d := &descBlock{n: n, data: bytes.Clone(data)}
	rw.descs[i] = d
	return d, nil
}

// shrinkCommitted forgets what a commit has brought to the device, if there is
// too much. The caller holds rw.mu.
func (rw *writer) shrinkCommitted() {
	rw.tick++
	rw.shrinkAt = 0
	rw.shrinkGroups()
	if len(rw.descs)*rw.fs.sb.BlockSize() > max(int(rw.fs.opts.CacheSize/16), 16*rw.fs.sb.BlockSize()) {
		clear(rw.descs)
	}
}

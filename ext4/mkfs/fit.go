package mkfs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// Free is room that is to be left in a file system whose size follows from
// its contents.
type Free struct {
	Bytes   uint64
	Percent float64 // of the file system
}

// usageBounds are sizes from which mke2fs uses other blocks, and the largest.
var usageBounds = []int64{3 << 20, 512 << 20, 4 << 40, 16 << 40, 1 << 60}

// Fit finds the smallest file system that holds what was scanned, and free.
func (f *Builder) Fit(ctx context.Context, free Free) (*Params, error) {
	if !(free.Percent >= 0 && free.Percent < 100) {
		return nil, usage("", "%g percent of free room: want 0 to less than 100", free.Percent)
	}
	s := &fitter{ctx: ctx, f: f, free: free, known: make(map[needKey]need)}
	var first error
	low := int64(64 << 10)
	for _, end := range usageBounds {
		for high := low; high < end; {
			high = min(2*high, end-4096)
			p, err := s.fits(high)
			if err == nil {
				return s.between(low, high, p)
			}
			if s.failed != nil {
				return nil, s.failed
			}
			if first == nil || errors.Is(err, errDoesNotFit) {
				first = err
			}
			if low = high; high == end-4096 {
				break
			}
		}
		low = end
		if p, err := s.fits(low); err == nil {
			return p, nil
		}
	}
	return nil, first
}

// A fitter tries sizes.
type fitter struct {
	ctx    context.Context
	f      *Builder
	free   Free
	known  map[needKey]need
	least  int   // bytes of the smallest blocks that may do
	failed error // of a source, whatever the size
}

// maxFitBlock is the largest block that sizes are tried with unless another
// was asked for: all kernels have pages as large.
const maxFitBlock = 4096

// between halves the sizes between one that is too small and one that is not.
func (s *fitter) between(low, high int64, best *Params) (*Params, error) {
	for low+4096 < high {
		middle := (low + high) / 2 / 4096 * 4096
		p, err := s.fits(middle)
		switch {
		case s.failed != nil:
			return nil, s.failed
		case err != nil:
			low = middle
		default:
			best, high = p, middle
		}
	}
	return best, nil
}

var errDoesNotFit = errors.New("the contents do not fit")

// fits lays out a file system of a size and compares its free blocks and
// inodes with what is needed.
func (s *fitter) fits(size int64) (*Params, error) {
	f := s.f
	room := s.free.Bytes + uint64(float64(size)*s.free.Percent/100)
	spare := room / defaultInodeRatio // inodes for the free room
	inodes := f.t.nodes.n
	for first := true; ; first = false {
		o := *f.o
		given := o.Inodes != 0 || o.InodeRatio != 0
		if !given {
			o.Inodes = inodes + spare
		}
		o.LeastBlockSize = max(o.LeastBlockSize, s.least)
		p, err := Resolve(size, o)
		if err != nil {
			return nil, err
		}
		v, err := newVolume(p, nil)
		if err != nil {
			return nil, err
		}
		key := needKeyOf(&v.sb)
		n, ok := s.known[key]
		if !ok {
			if n, err = f.need(s.ctx, v); err != nil {
				s.failed = err
				return nil, err
			}
			s.known[key] = n
		}
		if n.block != nil {
			if f.o.BlockSize != 0 || v.sb.BlockSize() >= maxFitBlock {
				s.failed = n.block
				return nil, n.block
			}
			s.least = 2 * v.sb.BlockSize()
			return s.fits(size)
		}
		if first && !given {
			// Each group's share is rounded to a multiple of 8, perhaps down.
			inodes = n.inodes + 8*v.sb.Groups()
			continue
		}
		if uint64(v.sb.Inodes) < n.inodes {
			return nil, fmt.Errorf("%w: %d inodes are needed, there are %d", errDoesNotFit, n.inodes, v.sb.Inodes)
		}
		blocks := n.blocks + (s.free.Bytes+uint64(v.sb.BlockSize())-1)>>v.sb.BlockBits() + uint64(float64(v.sb.Blocks)*s.free.Percent/100)
		// Where files are cut at the edge of free room, their maps may need a node more.
		blocks += uint64(len(v.space.used)+1) << v.sb.ClusterBits()
		if have := v.sb.Blocks - v.usedBlocks(); blocks > have {
			return nil, fmt.Errorf("%w: %d blocks of %d bytes are needed, %d are free", errDoesNotFit, blocks, v.sb.BlockSize(), have)
		}
		return p, nil
	}
}

// need is what a tree takes.
type need struct {
	blocks, inodes uint64
	block          error // what blocks are too small for, which are larger in larger file systems
}

// needKey is what a need depends on.
type needKey struct {
	blockBits, clusterBits uint
	inodeSize              uint16
	features               Features
}

func needKeyOf(sb *disk.Superblock) needKey {
	return needKey{sb.BlockBits(), sb.ClusterBits(), sb.InodeSize, Features{sb.Compat, sb.Incompat, sb.ROCompat}}
}

// need counts the blocks that the tree takes in the volume v; directories by
// the most that they can take, since the order of their hashes is not known. Its errors
// are those of sources, and ctx's.
func (f *Builder) need(ctx context.Context, v *volume) (need, error) {
	n := need{inodes: uint64(v.sb.FirstIno)} // those that are reserved, and the orphan file
	var use usages
	blocks := make(map[uint32]uint64) // by xattr set: inodes that need it in a block
	projects := slices.Contains(v.p.quota, quotaProject)
	add := func(b uint64) { n.blocks += v.clusterBlocks(b) }
	small := func(id nodeID, err error) {
		if err != nil && n.block == nil {
			n.block = errPath(f.t.path(id), "%w", err)
		}
	}
	err := f.t.walk(func(id nodeID) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		x := f.t.node(id)
		if x.state&nodeAlias != 0 {
			return nil
		}
		if id != rootNode {
			n.inodes++
		}
		if projects {
			if err := f.readProject(id); err != nil {
				return err
			}
		}
		use.count(&disk.Inode{UID: x.uid, GID: x.gid, ProjID: x.project}, 0, 1)
		set := f.t.xattrs[x.xattrs]
		room, _ := v.inlineRoom(set)
		inline := false
		switch x.mode.Type() {
		case disk.ModeDir:
			b := f.needDir(v, id)
			if id == rootNode {
				b = max(b, 1) - 1 // it has one
			} else if id == lostFoundNode {
				b = max(b, v.lostFoundBlocks()) - v.lostFoundBlocks()
			}
			add(b)
		case disk.ModeReg:
			if inline = x.size <= int64(room) && x.size > 0; !inline {
				b, err := f.needFile(v, id)
				if err != nil {
					return err
				}
				n.blocks += b
			}
		case disk.ModeLink:
			if x.size >= disk.IBlockSize {
				small(id, v.checkTarget(int(x.size)))
				add(1)
			}
		}
		if set == nil || !inline && xattrRoom(set.list) <= v.ibodyRoom() {
			return nil
		}
		blocks[x.xattrs]++
		if xattrRoom(set.list) > v.blockRoom() {
			list, _, err := v.divide(set.list)
			small(id, err)
			for _, a := range list {
				if a.ea != nil {
					n.inodes++
					add(v.blocksOf(len(a.value)))
				}
			}
		}
		return nil
	})
	for set, inodes := range blocks {
		if xattrRoom(f.t.xattrs[set].list) > v.blockRoom() {
			add(1 * inodes << v.sb.ClusterBits()) // none is shared
			continue
		}
		n.blocks += v.clusterBlocks(1) * ((inodes + maxXattrRefs - 1) / maxXattrRefs)
	}
	for _, t := range v.p.quota {
		add(v.blocksOf(len(encodeQuota(t, use[t]))))
	}
	return n, err
}

// readProject asks for the project of a file that has not been opened yet.
func (f *Builder) readProject(id nodeID) error {
	n := f.t.node(id)
	if n.state&nodeWaits == 0 {
		return nil
	}
	r, err := f.keptContent(id).Open()
	if err != nil {
		return err
	}
	if a, ok := r.(attributed); ok {
		n.flags, n.project, err = a.Attributes()
	}
	return errors.Join(err, r.Close())
}

// needFile is how many blocks a file takes, with those of its map.
func (f *Builder) needFile(v *volume, id nodeID) (uint64, error) {
	x := f.t.node(id)
	if x.size == 0 {
		return 0, nil
	}
	spans := []span{{0, x.size}}
	if x.state&nodeWaits != 0 && f.t.kept.at(x.detail).sparse {
		r, err := f.keptContent(id).Open()
		if err != nil {
			return 0, err
		}
		spans, err = dataSpans(r, x.size, int64(v.sb.BlockSize()))
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return 0, err
		}
	}
	bits, cb := v.sb.BlockBits(), v.sb.ClusterBits()
	var clusters, extents uint64
	last := int64(-1)
	for _, s := range spans {
		first, end := s.start>>bits>>cb, (s.end-1)>>bits>>cb
		clusters += uint64(end - max(first, last+1) + 1)
		last = end
		extents += 1 + uint64((s.end-s.start)>>bits)/disk.MaxExtentLen
	}
	n := clusters << cb
	if !v.sb.Incompat.Has(disk.IncompatExtents) {
		return n + v.pointerBlocksOf(spans), nil
	}
	if extents > 3 { // one more than is expected may be needed
		per := uint64((v.sb.BlockSize() - disk.ExtentHeaderSize) / disk.ExtentSize)
		for level := extents + 1; level > 4; {
			level = (level + per - 1) / per
			n += level << cb
		}
	}
	return n, nil
}

// needDir is the most blocks that a directory can take.
func (f *Builder) needDir(v *volume, id nodeID) uint64 {
	d := &dirWriter{v: v}
	total, largest := dotsSize, 0
	for c := f.t.node(id).child; c != 0; c = f.t.node(c).next {
		size := disk.DirentSize(int(f.t.node(c).nameLen), false)
		total += size
		largest = max(largest, size)
	}
	if total <= d.room() {
		if room, _ := v.inlineRoom(f.t.xattrs[f.t.node(id).xattrs]); id != rootNode && room > 0 && total-dotsSize <= disk.IBlockSize-4 {
			return 0
		}
		return 1
	}
	least := d.room() - largest + 4 // of each leaf that is used
	leaves := uint64((total + least - 1) / least)
	n := leaves + 1
	root, inner := d.limits()
	for level := leaves; level > uint64(root); {
		level = (level + uint64(inner) - 1) / uint64(inner)
		n += level
	}
	return n
}

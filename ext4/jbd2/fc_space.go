package jbd2

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// fcFS is the file system while fast commits are applied to it. Nothing of it
// reaches the device before [fcFS.finish]: a failure leaves the device alone.
type fcFS struct {
	dev     blockdev.Device
	sb      disk.Superblock
	bs      int
	seed    uint32
	stage   map[disk.PBlock][]byte // changed blocks
	groups  map[disk.Group]*fcGroup
	inodes  map[disk.Ino]*fcInode
	dirs    map[disk.Ino]*fcDir
	names   map[disk.Ino]map[string]struct{} // what records call entries, by directory
	regions []Extent                         // blocks that records map, by Start, apart from each other
	freed   []Extent                         // blocks that inodes no longer map
}

// fcGroup is a block group that has been looked at. The bitmaps are nil until
// they are wanted.
type fcGroup struct {
	num    disk.Group
	blk    disk.PBlock // where the descriptor lies
	off    int
	desc   disk.GroupDesc
	blocks []byte
	inodes []byte
	full   bool // the last search found no free cluster
	dirty  bool // descriptor or bitmaps have changed
}

func newFCFS(dev blockdev.Device, blockSize int) (*fcFS, error) {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, disk.SuperblockOffset); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	if err := disk.CheckSuperblock(raw, disk.SuperblockOffset); err != nil {
		return nil, err
	}
	fs := &fcFS{
		dev: dev, sb: disk.DecodeSuperblock(raw),
		stage:  make(map[disk.PBlock][]byte),
		groups: make(map[disk.Group]*fcGroup),
		inodes: make(map[disk.Ino]*fcInode),
		dirs:   make(map[disk.Ino]*fcDir),
		names:  make(map[disk.Ino]map[string]struct{}),
	}
	fs.bs, fs.seed = fs.sb.BlockSize(), fs.sb.Seed()
	if fs.bs != blockSize {
		return nil, &disk.CorruptError{
			Struct: "superblock", Off: disk.SuperblockOffset + 0x18, Field: "s_log_block_size",
			Have: fmt.Sprintf("blocks of %d bytes", fs.bs), Want: fmt.Sprintf("%d, as the journal's", blockSize),
		}
	}
	return fs, nil
}

// exclude keeps the blocks that records map from being allocated.
func (fs *fcFS) exclude(regions []Extent) {
	slices.SortFunc(regions, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	for _, r := range regions {
		if n := len(fs.regions); n > 0 {
			last := &fs.regions[n-1]
			if end := last.Start + disk.PBlock(last.Len); r.Start <= end {
				if more := r.Start + disk.PBlock(r.Len); more > end {
					last.Len = uint32(min(uint64(more-last.Start), 1<<32-1))
				}
				continue
			}
		}
		fs.regions = append(fs.regions, r)
	}
}

// excluded reports whether one of n blocks from b on is mapped by a record.
func (fs *fcFS) excluded(b disk.PBlock, n uint64) bool {
	i, _ := slices.BinarySearchFunc(fs.regions, b+disk.PBlock(n), func(e Extent, b disk.PBlock) int { return cmp.Compare(e.Start, b) })
	return i > 0 && fs.regions[i-1].Start+disk.PBlock(fs.regions[i-1].Len) > b
}

// read returns the bytes of block n as they are now. They must not be changed.
func (fs *fcFS) read(n disk.PBlock) ([]byte, error) {
	if b, ok := fs.stage[n]; ok {
		return b, nil
	}
	b := make([]byte, fs.bs)
	if _, err := fs.dev.ReadAt(b, int64(n)*int64(fs.bs)); err != nil {
		return nil, fmt.Errorf("read block %d: %w", n, err)
	}
	return b, nil
}

// edit returns the bytes of block n to be changed in place.
func (fs *fcFS) edit(n disk.PBlock) ([]byte, error) {
	b, err := fs.read(n)
	if err == nil {
		fs.stage[n] = b
	}
	return b, err
}

// fresh returns zeros to be block n, whatever it held.
func (fs *fcFS) fresh(n disk.PBlock) []byte {
	b := make([]byte, fs.bs)
	fs.stage[n] = b
	return b
}

func (fs *fcFS) group(num disk.Group) (*fcGroup, error) {
	if g, ok := fs.groups[num]; ok {
		return g, nil
	}
	per := uint64(fs.sb.DescPerBlock())
	size := fs.sb.GroupDescSize()
	g := &fcGroup{
		num: num, off: int(uint64(num)%per) * size,
		blk: fs.sb.DescBlock(disk.PBlock(disk.SuperblockOffset/fs.bs), uint64(num)/per),
	}
	b, err := fs.read(g.blk)
	if err != nil {
		return nil, err
	}
	raw := b[g.off : g.off+size]
	if err := disk.CheckGroupDesc(&fs.sb, num, raw, g.blk, g.off); err != nil {
		return nil, err
	}
	g.desc = disk.DecodeGroupDesc(raw)
	fs.groups[num] = g
	return g, nil
}

func bit(b []byte, i uint32) bool { return b[i/8]>>(i%8)&1 != 0 }

func setBit(b []byte, i uint32, v bool) {
	if v {
		b[i/8] |= 1 << (i % 8)
	} else {
		b[i/8] &^= 1 << (i % 8)
	}
}

// clusters is the number of clusters in group g.
func (fs *fcFS) clusters(g disk.Group) uint32 {
	bits := fs.sb.ClusterBits()
	return uint32((uint64(fs.sb.BlocksInGroup(g)) + 1<<bits - 1) >> bits)
}

// loadBlocks reads the block bitmap of g, or makes the one that BLOCK_UNINIT
// stands for (ext4_init_block_bitmap).
func (fs *fcFS) loadBlocks(g *fcGroup) error {
	if g.blocks != nil {
		return nil
	}
	if !fs.sb.DescChecksums() || g.desc.Flags&disk.GroupBlockUninit == 0 {
		b, err := fs.read(g.desc.BlockBitmap)
		if err != nil {
			return err
		}
		g.blocks = slices.Clone(b)
		return fs.checkBitmap(g, "block bitmap of group", "bg_block_bitmap_csum", g.desc.BlockBitmap, fs.blockBitmapSum(g), g.desc.BlockBitmapCsum)
	}
	g.blocks = make([]byte, fs.bs)
	first, cbits := fs.sb.FirstBlock(g.num), fs.sb.ClusterBits()
	mark := func(b disk.PBlock) {
		if b >= first && uint64(b-first) < uint64(fs.sb.BlocksInGroup(g.num)) {
			setBit(g.blocks, uint32((b-first)>>cbits), true)
		}
	}
	for i := range disk.PBlock(fs.sb.BaseMetaBlocks(g.num)) {
		mark(first + i)
	}
	mark(g.desc.BlockBitmap)
	mark(g.desc.InodeBitmap)
	for i := range disk.PBlock(fs.sb.ItableBlocks()) {
		mark(g.desc.InodeTable + i)
	}
	for i := fs.clusters(g.num); i < uint32(fs.bs)*8; i++ {
		setBit(g.blocks, i, true)
	}
	return nil
}

// loadInodes reads the inode bitmap of g, or makes the empty one that
// INODE_UNINIT stands for.
func (fs *fcFS) loadInodes(g *fcGroup) error {
	if g.inodes != nil {
		return nil
	}
	if !fs.sb.DescChecksums() || g.desc.Flags&disk.GroupInodeUninit == 0 {
		b, err := fs.read(g.desc.InodeBitmap)
		if err != nil {
			return err
		}
		g.inodes = slices.Clone(b)
		return fs.checkBitmap(g, "inode bitmap of group", "bg_inode_bitmap_csum", g.desc.InodeBitmap, fs.inodeBitmapSum(g), g.desc.InodeBitmapCsum)
	}
	g.inodes = make([]byte, fs.bs)
	for i := fs.sb.InodesPerGroup; i < uint32(fs.bs)*8; i++ {
		setBit(g.inodes, i, true)
	}
	return nil
}

func (fs *fcFS) blockBitmapSum(g *fcGroup) uint32 {
	return disk.BitmapChecksum(&fs.sb, g.blocks[:fs.sb.BlocksPerGroup>>fs.sb.ClusterBits()/8])
}

func (fs *fcFS) inodeBitmapSum(g *fcGroup) uint32 {
	return disk.BitmapChecksum(&fs.sb, g.inodes[:fs.sb.InodesPerGroup/8])
}

func (fs *fcFS) checkBitmap(g *fcGroup, what, field string, blk disk.PBlock, sum, have uint32) error {
	if fs.sb.GroupDescSize() < disk.GroupDescSize64 {
		sum &= 0xffff
	}
	if !fs.sb.MetadataCsum() || sum == have {
		return nil
	}
	return &disk.CorruptError{
		Struct: what, Num: uint64(g.num), Block: blk, Field: field,
		Have: fmt.Sprintf("%#08x", have), Want: fmt.Sprintf("%#08x", sum),
	}
}

// markBlocks marks the clusters of n blocks from b on, which lie within the
// file system, used or free (ext4_mb_mark_bb).
func (fs *fcFS) markBlocks(b disk.PBlock, n uint64, used bool) error {
	cbits := fs.sb.ClusterBits()
	for n > 0 {
		g, err := fs.group(fs.sb.GroupOf(b))
		if err != nil {
			return err
		}
		if err := fs.loadBlocks(g); err != nil {
			return err
		}
		at := uint64(b - fs.sb.FirstBlock(g.num))
		count := min(n, uint64(fs.sb.BlocksInGroup(g.num))-at)
		for c := uint32(at >> cbits); c <= uint32((at+count-1)>>cbits); c++ {
			if bit(g.blocks, c) == used {
				continue
			}
			setBit(g.blocks, c, used)
			g.dirty = true
			g.desc.Flags &^= disk.GroupBlockUninit
			if used {
				g.desc.FreeClusters--
			} else {
				g.desc.FreeClusters++
				g.full = false
			}
		}
		b, n = b+disk.PBlock(count), n-count
	}
	return nil
}

// allocate finds a free cluster near goal that no record maps, marks it used
// and returns its first block.
func (fs *fcFS) allocate(goal disk.PBlock) (disk.PBlock, error) {
	cbits := fs.sb.ClusterBits()
	total := fs.sb.Groups()
	var start uint64
	if fs.sb.ValidRange(goal, 1) {
		start = uint64(fs.sb.GroupOf(goal))
	}
	for i := range total {
		g, err := fs.group(disk.Group((start + i) % total))
		if err != nil {
			return 0, err
		}
		if g.full || g.desc.FreeClusters == 0 {
			continue
		}
		if err := fs.loadBlocks(g); err != nil {
			return 0, err
		}
		first := fs.sb.FirstBlock(g.num)
		for c := range fs.clusters(g.num) {
			if c%8 == 0 && g.blocks[c/8] == 0xff || bit(g.blocks, c) {
				continue
			}
			b := first + disk.PBlock(c)<<cbits
			if !fs.excluded(b, 1<<cbits) && fs.sb.ValidRange(b, 1<<cbits) {
				return b, fs.markBlocks(b, 1, true)
			}
		}
		g.full = true
	}
	return 0, fmt.Errorf("allocate a block for fast commits: %w", syscall.ENOSPC)
}

// inodeUsed reports whether ino is marked used.
func (fs *fcFS) inodeUsed(ino disk.Ino) (bool, error) {
	num, i := fs.sb.InodeGroup(ino)
	g, err := fs.group(num)
	if err != nil {
		return false, err
	}
	if err := fs.loadInodes(g); err != nil {
		return false, err
	}
	return bit(g.inodes, i), nil
}

// markInode marks ino used or free, and counts it (ext4_mark_inode_used). dir
// says whether it was or becomes a directory.
func (fs *fcFS) markInode(ino disk.Ino, used, dir bool) error {
	num, i := fs.sb.InodeGroup(ino)
	g, err := fs.group(num)
	if err != nil {
		return err
	}
	if err := fs.loadInodes(g); err != nil {
		return err
	}
	if bit(g.inodes, i) == used {
		return nil
	}
	setBit(g.inodes, i, used)
	g.dirty = true
	step := uint32(1)
	if !used {
		step = ^uint32(0)
	}
	g.desc.FreeInodes -= step
	if dir {
		g.desc.UsedDirs += step
	}
	if !used || !fs.sb.DescChecksums() {
		return nil
	}
	g.desc.Flags &^= disk.GroupInodeUninit
	if begun := fs.sb.InodesPerGroup - min(g.desc.ItableUnused, fs.sb.InodesPerGroup); i >= begun {
		if err := fs.zeroInodes(g, begun, i); err != nil {
			return err
		}
		g.desc.ItableUnused = fs.sb.InodesPerGroup - i - 1
	}
	return nil
}

// zeroInodes clears the inodes [from, to) of g, which come into the part of
// the table that is in use, unless it is known to be zero.
func (fs *fcFS) zeroInodes(g *fcGroup, from, to uint32) error {
	if g.desc.Flags&disk.GroupInodeZeroed != 0 {
		return nil
	}
	for i := from; i < to; i++ {
		at := int64(i) * int64(fs.sb.InodeSize)
		b, err := fs.edit(g.desc.InodeTable + disk.PBlock(at/int64(fs.bs)))
		if err != nil {
			return err
		}
		clear(b[at%int64(fs.bs):][:fs.sb.InodeSize])
	}
	return nil
}

// flushGroup stages the bitmaps and the descriptor of g.
func (fs *fcFS) flushGroup(g *fcGroup) error {
	if !g.dirty {
		return nil
	}
	if g.blocks != nil {
		fs.stage[g.desc.BlockBitmap] = g.blocks
		if fs.sb.MetadataCsum() {
			g.desc.BlockBitmapCsum = fs.blockBitmapSum(g)
		}
	}
	if g.inodes != nil {
		fs.stage[g.desc.InodeBitmap] = g.inodes
		if fs.sb.MetadataCsum() {
			g.desc.InodeBitmapCsum = fs.inodeBitmapSum(g)
		}
	}
	b, err := fs.edit(g.blk)
	if err != nil {
		return err
	}
	raw := b[g.off : g.off+fs.sb.GroupDescSize()]
	g.desc.Put(raw)
	g.desc.Checksum = disk.GroupDescChecksum(&fs.sb, g.num, raw)
	g.desc.Put(raw)
	g.dirty = false
	return nil
}

// flushSuper counts what is free anew, as the superblock's own counts are only
// right after a clean unmount, and stages the superblock.
func (fs *fcFS) flushSuper() error {
	var blocks, inodes uint64
	per := uint64(fs.sb.DescPerBlock())
	size := fs.sb.GroupDescSize()
	var b []byte
	for n := range fs.sb.Groups() {
		if n%per == 0 {
			var err error
			if b, err = fs.read(fs.sb.DescBlock(disk.PBlock(disk.SuperblockOffset/fs.bs), n/per)); err != nil {
				return err
			}
		}
		d := disk.DecodeGroupDesc(b[int(n%per)*size:][:size])
		blocks += uint64(d.FreeClusters)
		inodes += uint64(d.FreeInodes)
	}
	b, err := fs.edit(disk.PBlock(disk.SuperblockOffset / fs.bs))
	if err != nil {
		return err
	}
	raw := b[disk.SuperblockOffset%fs.bs:][:disk.SuperblockSize]
	fs.sb.FreeBlocks, fs.sb.FreeInodes = blocks, uint32(inodes)
	fs.sb.Put(raw)
	if fs.sb.MetadataCsum() {
		fs.sb.Checksum = disk.SuperblockChecksum(raw)
		fs.sb.Put(raw)
	}
	return nil
}

// flush writes the staged blocks, in rising order.
func (fs *fcFS) flush() error {
	nums := make([]disk.PBlock, 0, len(fs.stage))
	for n := range fs.stage {
		nums = append(nums, n)
	}
	slices.Sort(nums)
	for _, n := range nums {
		if _, err := fs.dev.WriteAt(fs.stage[n], int64(n)*int64(fs.bs)); err != nil {
			return fmt.Errorf("write block %d: %w", n, err)
		}
	}
	return nil
}

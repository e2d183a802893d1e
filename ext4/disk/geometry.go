package disk

import "math"

// What follows from the superblock alone: where the groups, their descriptors
// and the inodes lie. All of it expects a superblock that [CheckSuperblock]
// passed.

// BlockSize is the size of a block in bytes.
func (sb *Superblock) BlockSize() int { return 1024 << sb.LogBlockSize }

// BlockBits is the binary logarithm of the block size.
func (sb *Superblock) BlockBits() uint { return uint(sb.LogBlockSize) + MinBlockLog }

// ClusterBits is the binary logarithm of the number of blocks in a cluster: 0
// without bigalloc.
func (sb *Superblock) ClusterBits() uint {
	if !sb.ROCompat.Has(ROCompatBigalloc) {
		return 0
	}
	return uint(sb.LogClusterSize - sb.LogBlockSize)
}

// MetadataCsum reports whether metadata carries crc32c checksums.
func (sb *Superblock) MetadataCsum() bool { return sb.ROCompat.Has(ROCompatMetadataCsum) }

// DescChecksums reports whether group descriptors carry a checksum of either
// kind, and so whether their uninit flags and unused counts mean anything.
func (sb *Superblock) DescChecksums() bool {
	return sb.ROCompat&(ROCompatMetadataCsum|ROCompatGDTCsum) != 0
}

// Seed is the crc32c that every metadata checksum but the superblock's starts
// from: s_checksum_seed, or the sum of the UUID where that is not stored.
func (sb *Superblock) Seed() uint32 {
	if sb.Incompat.Has(IncompatCsumSeed) {
		return sb.ChecksumSeed
	}
	return crc32c(^uint32(0), sb.UUID[:])
}

// Groups is the number of block groups.
func (sb *Superblock) Groups() uint64 {
	if sb.BlocksPerGroup == 0 || sb.Blocks <= uint64(sb.FirstDataBlock) {
		return 0
	}
	n := sb.Blocks - uint64(sb.FirstDataBlock)
	return n/uint64(sb.BlocksPerGroup) + min(1, n%uint64(sb.BlocksPerGroup))
}

// GroupDescSize is the size of a group descriptor in bytes.
func (sb *Superblock) GroupDescSize() int {
	if sb.Incompat.Has(Incompat64Bit) {
		return int(sb.DescSize)
	}
	return GroupDescSize32
}

// DescPerBlock is the number of group descriptors in a block.
func (sb *Superblock) DescPerBlock() int { return sb.BlockSize() / sb.GroupDescSize() }

// DescBlocks is the number of blocks that one copy of all descriptors takes.
func (sb *Superblock) DescBlocks() uint64 {
	per := uint64(sb.DescPerBlock())
	return (sb.Groups() + per - 1) / per
}

// InodesPerBlock is the number of inodes in a block of the inode table.
func (sb *Superblock) InodesPerBlock() int { return sb.BlockSize() / int(sb.InodeSize) }

// ItableBlocks is the number of blocks of one group's inode table.
func (sb *Superblock) ItableBlocks() uint32 {
	per := uint32(sb.InodesPerBlock())
	return (sb.InodesPerGroup + per - 1) / per
}

// FirstBlock is the first block of group g.
func (sb *Superblock) FirstBlock(g Group) PBlock {
	return PBlock(uint64(sb.FirstDataBlock) + uint64(g)*uint64(sb.BlocksPerGroup))
}

// BlocksInGroup is the number of blocks of group g: fewer in the last one.
func (sb *Superblock) BlocksInGroup(g Group) uint32 {
	if uint64(g) == sb.Groups()-1 {
		return uint32(sb.Blocks - uint64(sb.FirstBlock(g)))
	}
	return sb.BlocksPerGroup
}

// GroupOf is the group that block b lies in.
func (sb *Superblock) GroupOf(b PBlock) Group {
	return Group((uint64(b) - uint64(sb.FirstDataBlock)) / uint64(sb.BlocksPerGroup))
}

// ValidRange reports whether the n blocks from b on lie within the file
// system, behind the block of the primary superblock.
func (sb *Superblock) ValidRange(b PBlock, n uint64) bool {
	return uint64(b) > uint64(sb.FirstDataBlock) && uint64(b) < sb.Blocks && n <= sb.Blocks-uint64(b)
}

// ValidIno reports whether ino is a number that the file system has an inode for.
func (sb *Superblock) ValidIno(ino Ino) bool { return ino >= 1 && uint32(ino) <= sb.Inodes }

// InodeGroup is the group of inode ino, and its index in that group's table.
func (sb *Superblock) InodeGroup(ino Ino) (g Group, index uint32) {
	n := uint32(ino) - 1
	return Group(n / sb.InodesPerGroup), n % sb.InodesPerGroup
}

// HasSuper reports whether group g holds a copy of the superblock
// (ext4_bg_has_super).
func (sb *Superblock) HasSuper(g Group) bool {
	switch {
	case g == 0:
		return true
	case sb.Compat.Has(CompatSparseSuper2):
		return g == sb.BackupGroups[0] || g == sb.BackupGroups[1]
	case g <= 1 || !sb.ROCompat.Has(ROCompatSparseSuper):
		return true
	case g&1 == 0:
		return false
	}
	return isPower(uint64(g), 3) || isPower(uint64(g), 5) || isPower(uint64(g), 7)
}

func isPower(n, base uint64) bool {
	p := base
	for p < n {
		p *= base
	}
	return p == n
}

// DescBlock is the block that holds descriptors number
// i*DescPerBlock and following in the copy of the descriptors that belongs to
// the superblock in block super (descriptor_loc).
func (sb *Superblock) DescBlock(super PBlock, i uint64) PBlock {
	if !sb.Incompat.Has(IncompatMetaBG) || i < uint64(sb.FirstMetaBG) {
		return super + 1 + PBlock(i)
	}
	g := Group(i * uint64(sb.DescPerBlock()))
	// A backup superblock goes with the second copy in each meta group.
	if super > 1 && uint64(g)+1 < sb.Groups() {
		g++
	}
	b := sb.FirstBlock(g)
	if sb.HasSuper(g) {
		b++
	}
	// With blocks of 1 KiB and bigalloc, group 0 starts at block 0, where the
	// boot block is, and the superblock is block 1.
	if sb.BlockSize() == 1024 && g == 0 && sb.FirstDataBlock == 0 {
		b++
	}
	return b
}

// BaseMetaBlocks is the number of blocks at the start of group g that a copy
// of the superblock, of descriptors and the blocks reserved for descriptors
// take (ext4_num_base_meta_clusters, in blocks).
func (sb *Superblock) BaseMetaBlocks(g Group) uint64 {
	var n uint64
	if sb.HasSuper(g) {
		n = 1
	}
	if !sb.Incompat.Has(IncompatMetaBG) || uint64(g) < uint64(sb.FirstMetaBG)*uint64(sb.DescPerBlock()) {
		if n == 0 {
			return 0
		}
		descs := sb.DescBlocks()
		if sb.Incompat.Has(IncompatMetaBG) {
			descs = uint64(sb.FirstMetaBG)
		}
		return n + descs + uint64(sb.ReservedGDT)
	}
	per := Group(sb.DescPerBlock())
	first := g / per * per
	if g == first || g == first+1 || g == first+per-1 {
		n++
	}
	return n
}

// MaxFileSize is the size in bytes that no file of a file system can exceed: s_maxbytes
// for files mapped by extents, s_bitmap_maxbytes for the others (ext4_max_size
// and ext4_max_bitmap_size in fs/ext4/super.c).
func (sb *Superblock) MaxFileSize(extents bool) uint64 {
	bits := sb.BlockBits()
	huge := sb.ROCompat.Has(ROCompatHugeFile)
	if extents {
		size := uint64(1<<32-1) << bits
		if !huge { // i_blocks counts 512-byte units in 32 bits
			size = min(size, uint64(1<<32-1)>>(bits-9)<<bits)
		}
		return min(size, math.MaxInt64)
	}
	per := uint64(1) << (bits - 2) // block numbers in a block
	limit := uint64(1<<48 - 1)
	if !huge {
		limit = (1<<32 - 1) >> (bits - 9)
	}
	data := DirectBlocks + per + per*per + per*per*per
	meta := 1 + (1 + per) + (1 + per + per*per)
	if data+meta > limit {
		rest := limit - DirectBlocks - per
		meta = 1
		if rest < per*per {
			meta += 1 + ceilDiv(rest, per)
		} else {
			rest -= per * per
			meta += 1 + per + 1 + ceilDiv(rest, per) + ceilDiv(rest, per*per)
		}
		data = limit - meta
	}
	if data > math.MaxInt64>>bits {
		return math.MaxInt64
	}
	return data << bits
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

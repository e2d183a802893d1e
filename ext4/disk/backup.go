package disk

// IsBackupAt reports whether the superblock, found at byte at of the device by
// guessing its place, is a backup of this file system and not a file's
// contents: a group that has backups starts there, and s_block_group_nr is that
// group's number, or 0 as old versions of mke2fs left it.
func (sb *Superblock) IsBackupAt(at int64) bool {
	g := Group(sb.BlockGroup)
	if g == 0 && at > 0 && sb.BlocksPerGroup > 0 {
		g = Group((uint64(at)>>sb.BlockBits() - uint64(sb.FirstDataBlock)) / uint64(sb.BlocksPerGroup))
	}
	return g > 0 && uint64(g) < sb.Groups() && sb.HasSuper(g) && int64(sb.FirstBlock(g))<<sb.BlockBits() == at
}

// BackupOffsets are the bytes where backup superblocks lie on a device of size
// bytes when groups have the size that mke2fs gives them: as many clusters as
// a bitmap block has bits, which is a power of two in bytes, but at most 65528.
// With blocks of 1 KiB, but for bigalloc, groups begin at block 1.
func BackupOffsets(size int64) []int64 {
	const (
		maxClusters   = 65528 // EXT2_MAX_CLUSTERS_PER_GROUP
		leastClusters = 8 << MinBlockLog
	)
	var out []int64
	add := func(at int64) {
		if at > 0 && at <= size-SuperblockSize {
			out = append(out, at)
		}
	}
	groups := []int64{1, 3, 5, 7, 9, 25, 27, 49, 81, 125}
	for _, g := range groups {
		add((1 + g*leastClusters) << MinBlockLog)
	}
	// Larger bitmaps double the bytes of a group just as larger clusters do.
	for bits := MinBlockLog; bits <= MaxClusterLog; bits++ {
		for _, g := range groups {
			add(g * leastClusters << bits)
			add(g * maxClusters << bits)
		}
	}
	return out
}

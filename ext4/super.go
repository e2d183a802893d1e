package ext4

import (
	"errors"
	"fmt"
	"io"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// superSource is a superblock and where it was found.
type superSource struct {
	sb         disk.Superblock
	at         int64 // byte offset
	primaryErr error // why it is not the primary
}

// block is the block that the superblock lies in.
func (s *superSource) block() disk.PBlock { return disk.PBlock(s.at >> s.sb.BlockBits()) }

// ReadSuper finds the superblock that [Open] would use, and its byte offset,
// without judging the features.
func ReadSuper(dev blockdev.Device, o Options) (sb disk.Superblock, at int64, err error) {
	src, err := findSuper(dev, o)
	return src.sb, src.at, err
}

// findSuper reads the superblock that o asks for, or the primary, or the first
// good backup. Its error is the primary's.
func findSuper(dev blockdev.Device, o Options) (superSource, error) {
	if o.Superblock != 0 {
		return readSuperAt(dev, o.Superblock)
	}
	src, err := readSuperAt(dev, disk.SuperblockOffset)
	if err == nil || !errors.Is(err, disk.ErrCorrupt) {
		return src, err
	}
	for _, at := range backupOffsets(dev.Size()) {
		if b, berr := readSuperAt(dev, at); berr == nil && backupFits(&b) {
			b.primaryErr = err
			return b, nil
		}
	}
	return src, err
}

func readSuperAt(dev blockdev.Device, at int64) (superSource, error) {
	raw := make([]byte, disk.SuperblockSize)
	if n, err := dev.ReadAt(raw, at); n < len(raw) {
		if err == io.EOF {
			err = fmt.Errorf("the device ends at byte %d: too small for ext4", dev.Size())
		}
		return superSource{}, fmt.Errorf("read superblock at byte %d: %w", at, err)
	}
	src := superSource{sb: disk.DecodeSuperblock(raw), at: at}
	return src, disk.CheckSuperblock(raw, at)
}

// backupFits reports whether a superblock found by guessing its place is a
// backup of this file system and not a file's contents: it says which group it
// is from, and that group starts there.
func backupFits(s *superSource) bool {
	g := disk.Group(s.sb.BlockGroup)
	return g > 0 && uint64(g) < s.sb.Groups() && int64(s.sb.FirstBlock(g))<<s.sb.BlockBits() == s.at
}

// backupOffsets are the bytes where backups lie when groups have the size that
// mke2fs gives them: as many clusters as a bitmap block has bits, which is a power
// of two in bytes, but at most 65528. With blocks of 1 KiB, but for bigalloc, groups
// begin at block 1.
func backupOffsets(size int64) []int64 {
	const (
		maxClusters   = 65528 // EXT2_MAX_CLUSTERS_PER_GROUP
		leastClusters = 8 << disk.MinBlockLog
	)
	var out []int64
	add := func(at int64) {
		if at > 0 && at <= size-disk.SuperblockSize {
			out = append(out, at)
		}
	}
	groups := []int64{1, 3, 5, 7, 9, 25, 27, 49, 81, 125}
	for _, g := range groups {
		add((1 + g*leastClusters) << disk.MinBlockLog)
	}
	// Larger bitmaps double the bytes of a group just as larger clusters do.
	for bits := disk.MinBlockLog; bits <= disk.MaxClusterLog; bits++ {
		for _, g := range groups {
			add(g * leastClusters << bits)
			add(g * maxClusters << bits)
		}
	}
	return out
}

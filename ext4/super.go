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
	for _, at := range disk.BackupOffsets(dev.Size()) {
		if b, berr := readSuperAt(dev, at); berr == nil && b.sb.IsBackupAt(at) {
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

package mkfs

import (
	"e4go/ext4/disk"
)

const (
	mmpInterval    = 5   // EXT4_MMP_UPDATE_INTERVAL, seconds
	mmpMaxInterval = 300 // EXT4_MMP_MAX_UPDATE_INTERVAL
)

// finishMMP writes the MMP block of a file system that nobody has mounted. It
// names no host and no device, so that it is the same everywhere.
func (v *volume) finishMMP() error {
	if v.builtin.mmp == 0 {
		return nil
	}
	m := disk.MMP{Magic: disk.MMPMagic, Seq: disk.MMPSeqClean, Time: uint64(v.sb.MkfsTime), Interval: v.sb.MMPInterval}
	data := make([]byte, v.sb.BlockSize())
	m.Put(data)
	if v.sb.MetadataCsum() {
		m.Checksum = disk.MMPChecksum(v.sb.Seed(), data)
		m.Put(data)
	}
	return v.writeBlock(v.builtin.mmp, data)
}

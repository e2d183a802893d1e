package mkfs

import (
	"errors"

	"e4go/ext4/disk"
)

const (
	orphanMinBlocks = 32
	orphanMaxBlocks = 512
	orphanPerBlocks = 4096    // blocks of the file system for each of the orphan file
	orphanMaxSize   = 8 << 20 // EXT4_MAX_ORPHAN_FILE_BLOCKS of 16 KiB
)

// planOrphanFile decides on the size of the orphan file.
func (p *Params) planOrphanFile(profile) error {
	sb := &p.sb
	if !sb.Compat.Has(disk.CompatHasJournal) {
		if p.asked.Compat.Has(disk.CompatOrphanFile) {
			return usage("use a larger size", "no room for a journal, which feature orphan_file needs")
		}
		sb.Compat &^= disk.CompatOrphanFile
	}
	if !sb.Compat.Has(disk.CompatOrphanFile) {
		if p.o.OrphanFileSize != 0 {
			return usage("add -O orphan_file", "a size of the orphan file wants feature orphan_file")
		}
		return nil
	}
	n := min(max(sb.Blocks/orphanPerBlocks, orphanMinBlocks), orphanMaxBlocks)
	if size := p.o.OrphanFileSize; size != 0 {
		n = (uint64(size) + uint64(sb.BlockSize()) - 1) >> sb.BlockBits()
		if size < 0 || n > orphanMaxSize>>sb.BlockBits() {
			return usage("", "the orphan file has %d bytes, want at most %d", size, orphanMaxSize)
		}
	}
	p.orphan = uint32(n)
	return nil
}

// finishOrphanFile writes the blocks of the orphan file, none of which names
// an inode, and returns its inode.
func (v *volume) finishOrphanFile() (*inode, error) {
	in := v.newInode(disk.ModeReg|0o600, 1)
	in.Size = uint64(v.p.orphan) << v.sb.BlockBits()
	runs := v.builtin.orphan
	next := sequence(runs)
	if v.sb.Incompat.Has(disk.IncompatExtents) {
		if err := v.mapRuns(in, runs, uint64(v.p.orphan)); err != nil {
			return nil, err
		}
	}
	m := v.newBlockMap(&in.Inode, func() (disk.PBlock, error) { return next(), nil })
	seed := disk.InodeSeed(v.sb.Seed(), v.builtin.orphanIno, 0)
	w := blockRun{v: v}
	for i := range v.p.orphan {
		var b disk.PBlock
		if v.sb.Incompat.Has(disk.IncompatExtents) {
			b = next()
		} else {
			var err error
			if b, err = m.add(disk.LBlock(i)); err != nil {
				return nil, err
			}
		}
		data, err := w.block(b)
		if err != nil {
			return nil, err
		}
		tail := data[len(data)-8:]
		le.PutUint32(tail, disk.OrphanMagic)
		if v.sb.MetadataCsum() {
			le.PutUint32(tail[4:], disk.OrphanBlockChecksum(seed, b, data))
		}
	}
	v.addBlocks(&in.Inode, m.n)
	return in, errors.Join(w.flush(), m.finish())
}

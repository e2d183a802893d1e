package mkfs

import (
	"math/bits"

	"e4go/ext4/disk"
)

// journalSize is a journal in blocks; no blocks, no journal.
type journalSize struct {
	log        uint64 // with the superblock
	fastCommit uint64
}

const (
	maxJournalBlocks   = 10240000
	journalPerFCBlocks = 64 // EXT2_JOURNAL_TO_FC_BLKS_RATIO
)

// defaultJournal is how many blocks the journal of a file system has
// (ext2fs_default_journal_size); 0 where there is no room.
func defaultJournal(blocks uint64) uint64 {
	for _, row := range []struct{ below, blocks uint64 }{
		{2048, 0}, {32 << 10, 1024}, {256 << 10, 4096}, {512 << 10, 8192}, {4 << 20, 16384},
		{8 << 20, 32768}, {16 << 20, 65536}, {32 << 20, 131072},
	} {
		if blocks < row.below {
			return row.blocks
		}
	}
	return 262144
}

// planJournal decides on the journal's size.
func (p *Params) planJournal(profile) error {
	sb := &p.sb
	if !sb.Compat.Has(disk.CompatHasJournal) {
		if p.o.FastCommitMiB > 0 {
			return usage("add -O has_journal", "a size of fast commits wants a journal")
		}
		return nil
	}
	blocksOf := func(mib uint64) (uint64, error) {
		hi, lo := bits.Mul64(mib, 1<<20>>sb.BlockBits())
		if hi != 0 {
			return 0, usage("", "a journal of %d MiB is too large", mib)
		}
		return lo, nil
	}
	j := &p.journal
	fast := sb.Compat.Has(disk.CompatFastCommit)
	total := defaultJournal(sb.Blocks)
	if p.o.JournalMiB == 0 {
		if total == 0 {
			// mke2fs leaves the journal out where it does not fit.
			sb.Compat &^= disk.CompatHasJournal
			return nil
		}
		j.log = total
	} else {
		if sb.Blocks < 2048 {
			return usage("use a larger size, or no journal", "%d blocks have no room for a journal", sb.Blocks)
		}
		var err error
		if j.log, err = blocksOf(p.o.JournalMiB); err != nil {
			return err
		}
	}
	if fast {
		j.fastCommit = j.log / journalPerFCBlocks
	}
	if p.o.FastCommitMiB > 0 {
		if !fast {
			return usage("add -O fast_commit", "a size of fast commits wants feature fast_commit")
		}
		var err error
		if j.fastCommit, err = blocksOf(p.o.FastCommitMiB); err != nil {
			return err
		}
	}
	if n := j.log + j.fastCommit; j.log < disk.JournalMinBlocks || n > maxJournalBlocks {
		return usage("use another -J size", "the journal has %d blocks, want %d to %d", n, disk.JournalMinBlocks, maxJournalBlocks)
	}
	return nil
}

// placeJournal takes the journal's blocks, in the middle of the device or
// where it was asked for, and makes its inode.
func (v *volume) placeJournal() error {
	j := v.p.journal
	n := j.log + j.fastCommit
	if n == 0 {
		return nil
	}
	if free := v.sb.Blocks - v.usedBlocks(); v.p.o.JournalMiB != 0 && n > free/2 {
		return usage("use a smaller -J size", "a journal of %d blocks is more than half of the %d free blocks", n, free)
	}
	goal := v.journalGoal()
	in := v.newInode(disk.ModeReg|0o600, 1)
	in.Size = n << v.sb.BlockBits()
	if v.sb.Incompat.Has(disk.IncompatExtents) {
		runs, err := v.allocPieces("the journal", goal, n)
		if err != nil {
			return err
		}
		v.builtin.journal = runs
		list := extents(0, runs, false)
		setExtents(in, list)
		if in.tree != nil {
			// mke2fs comes to have a node when the inode is full. It takes the block before
			// the journal, and what was in the inode is still there behind the first entry.
			in.node = list[0].Start - 1
			for i, e := range list[1:4] {
				e.Put(disk.ExtentEntry(in.Block[:], 1+i))
			}
		}
		v.addBlocks(&in.Inode, v.clusterBlocks(n))
	} else if err := v.mapJournal(in, n); err != nil {
		return err
	}
	v.builtin.journalIn = in
	v.overhead += v.clusterBlocks(n) >> v.sb.ClusterBits()
	v.sb.JournalIno = journalIno
	return nil
}

const journalIno disk.Ino = 8

// mapJournal gives a journal without extents its blocks, as mke2fs does from
// the start of the device on.
func (v *volume) mapJournal(in *inode, n uint64) error {
	goal := disk.PBlock(v.sb.FirstDataBlock)
	m := v.newBlockMap(&in.Inode, func() (disk.PBlock, error) {
		r, err := v.allocPieces("the journal", goal, 1)
		if err != nil {
			return 0, err
		}
		goal = r[0].end
		return r[0].start, nil
	})
	for b := range n {
		p, err := m.add(disk.LBlock(b))
		if err != nil {
			return err
		}
		if k := len(v.builtin.journal); k > 0 && v.builtin.journal[k-1].end == p {
			v.builtin.journal[k-1].end++
		} else {
			v.builtin.journal = append(v.builtin.journal, run{p, p + 1})
		}
	}
	v.addBlocks(&in.Inode, m.n)
	return m.finish()
}

// journalGoal is the first block of a group near the middle, of those around
// it the one with most free blocks (get_midpoint_journal_block).
func (v *volume) journalGoal() disk.PBlock {
	if v.p.o.JournalLocation != nil {
		return min(max(disk.PBlock(*v.p.o.JournalLocation), disk.PBlock(v.sb.FirstDataBlock)), v.space.limit-1)
	}
	if v.p.o.PackedMeta {
		return disk.PBlock(v.sb.FirstDataBlock)
	}
	groups := v.sb.Groups()
	group := uint64(v.sb.GroupOf(disk.PBlock((v.sb.Blocks - uint64(v.sb.FirstDataBlock)) / 2)))
	start := max(group, 1) - 1
	if flex := uint64(1) << v.sb.LogGroupsPerFlex; v.flexible() && group > flex {
		group &^= flex - 1
		for group < groups && v.freeIn(group) == 0 {
			group++
		}
		if group == groups {
			group = 0
		}
		start = group
	}
	end := group
	if group+1 < groups {
		end++
	}
	best := start
	for g := start + 1; g <= end; g++ {
		if v.freeIn(g) > v.freeIn(best) {
			best = g
		}
	}
	first, _ := v.group(best)
	return first
}

// freeIn is how many blocks of group g are free.
func (v *volume) freeIn(g uint64) uint64 {
	first, end := v.group(g)
	return uint64(end-first) - v.space.usedIn(first, end)
}

// usedBlocks is how many blocks are in use.
func (v *volume) usedBlocks() uint64 {
	n := uint64(v.sb.FirstDataBlock)
	for _, r := range v.space.used {
		n += r.len()
	}
	return n
}

// finishJournal writes the journal's superblock, and zeros behind it where the
// device does not read as such, and notes its inode in the superblock.
func (v *volume) finishJournal() error {
	in := v.builtin.journalIn
	if in == nil {
		return nil
	}
	v.sb.JournalBackup = 1
	for i := range 15 {
		v.sb.JournalBlocks[i] = le.Uint32(in.Block[4*i:])
	}
	v.sb.JournalBlocks[15], v.sb.JournalBlocks[16] = uint32(in.Size>>32), uint32(in.Size)
	j := v.p.journal
	s := disk.JournalSuper{
		Header:    disk.JournalHeader{Magic: disk.JournalMagic, Type: disk.JournalSuperV2},
		BlockSize: uint32(v.sb.BlockSize()), MaxLen: uint32(j.log + j.fastCommit), First: 1, Sequence: 1,
		NrUsers: 1, UUID: v.sb.UUID, NumFCBlocks: uint32(j.fastCommit),
	}
	data := make([]byte, v.sb.BlockSize())
	s.Put(data)
	runs := v.builtin.journal
	if err := v.writeBlock(runs[0].start, data); err != nil {
		return err
	}
	if v.p.o.LazyJournal {
		return nil
	}
	for i, r := range runs {
		if i == 0 {
			r.start++
		}
		if err := v.zero(r); err != nil {
			return err
		}
	}
	return nil
}

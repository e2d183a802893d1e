package fsck

import (
	"fmt"

	"e4go/ext4/disk"
)

// passEnd is what comes last: quota, and the state of the orphan file.
func (c *checker) passEnd() error {
	c.begin(PassEnd, 2)
	if err := c.checkQuota(); err != nil {
		return err
	}
	c.step(1)
	if err := c.checkOrphanFile(); err != nil {
		return err
	}
	c.step(1)
	return nil
}

// checkOrphanFile judges the orphan file (check_init_orphan_file).
func (c *checker) checkOrphanFile() error {
	sb := &c.sb
	present := sb.ROCompat.Has(disk.ROCompatOrphanPresent)
	if !sb.Compat.Has(disk.CompatOrphanFile) {
		if present {
			c.superProblem(orphanPresentAlone, c.superAt, 0x64, "", "")
		}
		return nil
	}
	if !sb.Compat.Has(disk.CompatHasJournal) {
		c.superProblem(orphanFileAlone, c.superAt, 0x5c, "", "")
	}
	w := &worker{c: c, ctx: c.ctx}
	raw, at, ok, err := w.readInode(sb.OrphanFileIno)
	if err != nil || !ok {
		return err
	}
	in := disk.DecodeInode(raw)
	if in.Size == 0 || in.Size%uint64(c.bs) != 0 {
		at.Off += 0x04
		c.rep.add(orphanFileSize, Problem{Place: at, Have: dec(in.Size), Want: fmt.Sprintf("a multiple of %d, and not 0", c.bs)})
		return nil
	}
	var first *Problem // of the blocks that are damaged
	bad := func(l uint64, blk disk.PBlock, off int, have, want string) {
		if first == nil {
			first = c.rep.add(orphanFileBlock, Problem{
				Place: Place{Ino: sb.OrphanFileIno, LBlock: l, InFile: true, Block: blk, Off: off, OnBlock: true}, Have: have, Want: want,
			})
		}
		first.Number++
	}
	seed := disk.InodeSeed(c.seed, sb.OrphanFileIno, in.Generation)
	next, clean := uint64(0), true
	err = w.orphanFile(func(l uint64, blk disk.PBlock, b []byte) error {
		if l != next {
			c.rep.add(orphanFileHole, Problem{Place: Place{Ino: sb.OrphanFileIno}, Have: dec(next)})
		}
		next = l + 1
		if err, _ := disk.CheckOrphanBlock(sb, b, seed, blk).(*disk.CorruptError); err != nil {
			clean = false
			bad(l, blk, err.Off, err.Field+" is "+err.Have, err.Want)
		} else if inos := disk.OrphanInos(b); len(inos) > 0 {
			clean = false
			if !present || !c.opts.Replay {
				bad(l, blk, 0, fmt.Sprintf("%d inodes, the first %d", len(inos), inos[0]), "none")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if end := in.Size >> c.bits; next < end {
		clean = false
		c.rep.add(orphanFileHole, Problem{Place: Place{Ino: sb.OrphanFileIno}, Have: dec(next)})
	}
	if present && clean && !c.opts.Replay {
		c.superProblem(orphanPresentClean, c.superAt, 0x64, "", "")
	}
	return nil
}

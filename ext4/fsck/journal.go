package fsck

import (
	"errors"
	"fmt"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/jbd2"
)

// checkJournal checks the journal's superblock and log and, if the options say
// so, replays what the log holds into memory above the device.
func (c *checker) checkJournal() error {
	sb := &c.sb
	has := sb.Compat.Has(disk.CompatHasJournal)
	external := sb.JournalUUID != [16]byte{}
	if !has {
		if sb.Incompat.Has(disk.IncompatRecover) {
			c.superProblem(journalRecover, c.superAt, 0x60, "", "")
		}
		if external {
			c.superProblem(journalUUID, c.superAt, 0xd0, fmt.Sprintf("%x", sb.JournalUUID), "")
		}
		if sb.JournalIno != 0 {
			c.superProblem(journalUnexpected, c.superAt, 0xe0, dec(sb.JournalIno), "")
			_, _, err := c.journalLocation() // tells if it is none
			return err
		}
		return nil
	}
	if external && sb.JournalIno != 0 {
		c.superProblem(journalUUID, c.superAt, 0xd0, fmt.Sprintf("%x", sb.JournalUUID), "")
	}
	loc, ok, err := c.journalLocation()
	if !ok || err != nil {
		return err
	}
	if ok, err := c.judgeJournalSuper(loc); !ok || err != nil {
		return err
	}
	j, err := jbd2.Load(loc)
	if err != nil {
		return c.journalError(err, journalSuper)
	}
	if errno := j.Super().Errno; errno != 0 {
		c.rep.add(journalErrno, Problem{Place: c.journalPlace(), Have: dec(int(errno))})
	}
	if j.Clean() {
		return nil
	}
	// A backup superblock does not know whether the journal is clean.
	if !sb.Incompat.Has(disk.IncompatRecover) && c.superAt == disk.SuperblockOffset {
		c.rep.add(journalNotMarked, Problem{Place: c.journalPlace()})
		return nil
	}
	if !c.opts.Replay {
		c.rep.add(journalUnclean, Problem{Place: c.journalPlace()})
		return nil
	}
	return c.replay(j)
}

// journalPlace is what problems of the journal are told of.
func (c *checker) journalPlace() Place { return Place{Ino: c.sb.JournalIno} }

// journalError makes a problem of kind k of an error that the journal is the cause of.
func (c *checker) journalError(err error, k *Kind) error {
	var (
		corrupt     *disk.CorruptError
		unsupported *jbd2.UnsupportedError
		foreign     *jbd2.WrongJournalError
	)
	at := c.journalPlace()
	switch {
	case errors.As(err, &foreign):
		c.rep.add(journalForeign, Problem{Have: fmt.Sprintf("%x", foreign.Have), Want: fmt.Sprintf("%x", foreign.Want)})
	case errors.As(err, &corrupt):
		at.Block, at.Off, at.OnBlock = corrupt.Block, corrupt.Off, corrupt.Block != 0
		p := Problem{Place: at, Have: corrupt.Field + " is " + corrupt.Have, Want: corrupt.Want}
		if corrupt.Field == "s_start" && !c.sb.Incompat.Has(disk.IncompatRecover) {
			// e2fsck sees that the log is not empty; the kernel looks where it begins.
			p.classes = append(journalNotMarked.Also, journalNotMarked.Class)
		}
		c.rep.add(k, p)
	case errors.As(err, &unsupported):
		c.rep.add(journalFeatures, Problem{Place: at, Have: unsupported.Error()})
	default:
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// journalLocation finds the journal. ok is false if that cannot be, which has been told.
func (c *checker) journalLocation() (loc jbd2.Location, ok bool, err error) {
	sb := &c.sb
	if sb.JournalIno == 0 {
		if c.opts.Journal == nil && sb.JournalUUID == [16]byte{} && sb.JournalDev == 0 {
			c.superProblem(journalInode, c.superAt, 0xe0, "missing", "an inode or an external journal")
			return loc, false, nil
		}
		if c.opts.Journal == nil {
			want := &jbd2.WrongJournalError{Want: sb.JournalUUID}
			if c.opts.Replay && sb.Incompat.Has(disk.IncompatRecover) {
				return loc, false, want
			}
			c.superProblem(journalAbsent, c.superAt, 0xd0, fmt.Sprintf("%x", sb.JournalUUID), "")
			return loc, false, nil
		}
		loc, err = jbd2.External(c.opts.Journal, sb.JournalUUID, c.bs)
		if err != nil {
			return loc, false, c.journalError(err, journalExternal)
		}
		return loc, true, nil
	}
	w := &worker{c: c, ctx: c.ctx}
	raw, at, found, err := w.readInode(sb.JournalIno)
	if err != nil {
		return loc, false, fmt.Errorf("journal: %w", err)
	}
	bad := func(have, want string) { c.rep.add(journalInode, Problem{Place: at, Have: have, Want: want}) }
	if !found || !sb.ValidIno(sb.JournalIno) {
		bad(fmt.Sprintf("s_journal_inum is %d", sb.JournalIno), "an inode")
		return loc, false, nil
	}
	in := disk.DecodeInode(raw)
	c.journalCopy(&in, at)
	loc, have, want, err := c.journalInode(w, &in)
	if err != nil {
		return loc, false, err
	}
	if sum := disk.InodeChecksum(c.seed, sb.JournalIno, raw); have == "" && c.sb.MetadataCsum() && in.Checksum != sum {
		have, want = "i_checksum is "+hex(in.Checksum), hex(sum)
	}
	if have == "" {
		return loc, true, nil
	}
	bad(have, want)
	if sb.JournalBackup == 1 {
		// The superblock keeps a copy of the journal inode's map.
		if loc, have, _, err := c.journalInode(w, c.journalFromSuper(&in)); have == "" {
			return loc, err == nil, err
		}
	}
	return loc, false, nil
}

// journalInode returns where the journal in inode in lies, or why it is none.
func (c *checker) journalInode(w *worker, in *disk.Inode) (loc jbd2.Location, have, want string, err error) {
	loc = jbd2.Location{Dev: c.dev, BlockSize: c.bs}
	if in.Links == 0 || in.Mode.Type() != disk.ModeReg {
		return loc, fmt.Sprintf("mode %#o with %d links", uint16(in.Mode), in.Links), "a regular file in use", nil
	}
	switch {
	case in.Flags.Has(disk.FlagEncrypt):
		return loc, "it is encrypted", "a plain file", nil
	case in.Flags.Has(disk.FlagInlineData):
		return loc, "it has inline data", "a plain file", nil
	}
	blocks := in.Size >> c.bits
	if blocks < disk.JournalMinBlocks {
		return loc, fmt.Sprintf("i_size is %d blocks", blocks), fmt.Sprintf("at least %d", disk.JournalMinBlocks), nil
	}
	runs, err := w.runs(c.sb.JournalIno, in)
	if err != nil {
		return loc, "", "", fmt.Errorf("journal: %w", err)
	}
	next := uint64(0)
	for _, r := range runs {
		if r.l != next {
			return loc, fmt.Sprintf("a hole at block %d", next), fmt.Sprintf("blocks 0 to %d", blocks-1), nil
		}
		n := r.n
		if uint64(r.p) >= c.blocks || n > c.blocks-uint64(r.p) {
			return loc, fmt.Sprintf("block %d", r.p), "blocks of the device", nil
		}
		loc.Extents = append(loc.Extents, jbd2.Extent{Block: uint32(r.l), Len: uint32(n), Start: r.p})
		if next = r.l + n; next<<c.bits >= in.Size {
			break
		}
	}
	if next<<c.bits < in.Size {
		return loc, fmt.Sprintf("%d blocks for %d bytes", next, in.Size), "as many as i_size says", nil
	}
	return loc, "", "", nil
}

// journalCopy compares the superblock's copy of the journal's map.
func (c *checker) journalCopy(in *disk.Inode, at Place) {
	if c.sb.JournalBackup != 1 {
		return
	}
	if copied := c.journalFromSuper(in); copied.Block != in.Block || copied.Size != in.Size {
		c.rep.add(journalBackup, Problem{Place: at})
	}
}

// journalFromSuper is the journal inode as the superblock remembers it. The
// generation, which the checksums of its nodes start from, is the inode's own.
func (c *checker) journalFromSuper(in *disk.Inode) *disk.Inode {
	jb := &c.sb.JournalBlocks
	out := &disk.Inode{Mode: disk.ModeReg | 0o600, Links: 1, Size: uint64(jb[15])<<32 | uint64(jb[16]), Generation: in.Generation}
	for i := range disk.IBlockSize / 4 {
		for b := range 4 {
			out.Block[4*i+b] = byte(jb[i] >> (8 * b))
		}
	}
	if looksLikeExtents(out) {
		out.Flags = disk.FlagExtents
	}
	return out
}

// judgeJournalSuper looks at the journal's superblock where jbd2 would refuse it
// without a word that tells the cases apart (e2fsck_journal_load).
func (c *checker) judgeJournalSuper(loc jbd2.Location) (ok bool, err error) {
	raw := make([]byte, disk.JournalSuperSize)
	blk := disk.PBlock(loc.Super)
	if !loc.External {
		blk = loc.Extents[0].Start
	}
	if _, err := loc.Dev.ReadAt(raw, int64(blk)*int64(loc.BlockSize)); err != nil {
		return false, fmt.Errorf("journal superblock: %w", err)
	}
	s := disk.DecodeJournalSuper(raw)
	at := c.journalPlace()
	at.Block, at.OnBlock = blk, !loc.External
	switch {
	case s.Header.Magic != disk.JournalMagic:
		return true, nil // for jbd2 to tell
	case s.Version() == 0:
		c.rep.add(journalType, Problem{Place: at, Have: dec(s.Header.Type), Want: "3 or 4"})
		return false, nil
	case s.Version() == 1 && (s.Compat != 0 || s.Incompat != 0 || s.ROCompat != 0 || s.NrUsers != 0):
		c.rep.add(journalOldFields, Problem{Place: at, Have: fmt.Sprintf("features %#x %#x %#x, %d users in version 1", s.Compat, uint32(s.Incompat), s.ROCompat, s.NrUsers), Want: "0"})
	case s.Version() == 2 && s.NrUsers > 1 && !loc.External:
		c.rep.add(journalFields, Problem{Place: at, Have: fmt.Sprintf("%d users of an internal journal", s.NrUsers), Want: "1"})
	case s.Version() == 2 && s.NrUsers > 1:
		c.rep.add(journalUsers, Problem{Place: at, Have: dec(s.NrUsers)})
		return false, nil
	}
	return true, nil
}

// replay brings what the journal holds to its places, in memory.
func (c *checker) replay(j *jbd2.Journal) error {
	over := blockdev.NewOverlayLimit(c.raw, c.opts.MemoryLimit/2)
	_, err := jbd2.Recover(c.ctx, j, over, c.sb.Blocks)
	if err != nil {
		if errors.Is(err, blockdev.ErrOverlayFull) {
			return &MemoryError{What: "what the journal holds", Need: c.opts.MemoryLimit/2 + 1, Limit: c.opts.MemoryLimit / 2}
		}
		if err := c.journalError(err, journalLog); err != nil {
			return err
		}
	}
	c.memory.Add(int64(over.Pages()) * blockdev.OverlayPage)
	c.dev = over
	// What was read so far may have been replayed over.
	raw, ok, err := c.readSuper(c.superAt)
	if err != nil {
		return err
	}
	if bad := disk.CheckSuperblock(raw, c.superAt); !ok || bad != nil {
		c.superError(bad, c.superAt)
		c.dev = c.raw
		return nil
	}
	c.useSuper(raw, c.superAt)
	if err := c.checkFeatures(); err != nil {
		return fmt.Errorf("after journal replay: %w", err)
	}
	c.memory.Add(-int64(len(c.groups)) * 128)
	return c.readGroups()
}

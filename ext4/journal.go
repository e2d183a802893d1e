package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/jbd2"

	"golang.org/x/sys/unix"
)

// JournalInfo is what is known of the journal of an open file system.
type JournalInfo struct {
	External  bool
	Super     disk.JournalSuper // the journal's own superblock, as on the device
	Loaded    bool              // Super was read: not so for an external journal that was not given
	Unclean   bool              // the log held transactions when the file system was opened
	Recovered *jbd2.Stats       // what was replayed, nil if nothing was
	Pending   *jbd2.Pending     // what recovery would replay, with Options.NoRecovery
}

// Journal is what is known of the journal, nil if there is none.
func (fs *FS) Journal() *JournalInfo { return fs.journal }

// recoverJournal replays the journal, if it is unclean, into memory above the
// device, and returns that as a device; nil if there was nothing to replay.
func (fs *FS) recoverJournal(ctx context.Context) (blockdev.Device, *JournalInfo, error) {
	sb := &fs.sb
	if !sb.Compat.Has(disk.CompatHasJournal) {
		if sb.Incompat.Has(disk.IncompatRecover) && !fs.opts.NoRecovery {
			return nil, nil, &disk.CorruptError{Struct: "superblock of group", Num: uint64(sb.BlockGroup), Block: fs.super.block(),
				Off: int(fs.super.at)%sb.BlockSize() + 0x60, Field: "s_feature_incompat", Have: "needs_recovery", Want: "has_journal with it"}
		}
		return nil, nil, nil
	}
	info := &JournalInfo{External: sb.JournalIno == 0}
	// A backup superblock does not know whether the journal is clean.
	wanted := sb.Incompat.Has(disk.IncompatRecover) || fs.super.at != disk.SuperblockOffset
	loc, err := fs.journalLocation(info.External)
	if err == nil {
		var j *jbd2.Journal
		if j, err = jbd2.Load(loc); err == nil {
			info.Super, info.Loaded = j.Super(), true
			return fs.replay(ctx, j, info, wanted)
		}
	}
	if (!wanted || fs.opts.NoRecovery) && !isDeviceErr(err) {
		// Nothing has to be read from it: the file system can do without.
		return nil, info, nil
	}
	if fs.super.at != disk.SuperblockOffset && info.External {
		return nil, info, nil
	}
	return nil, nil, fmt.Errorf("journal: %w", err)
}

func (fs *FS) replay(ctx context.Context, j *jbd2.Journal, info *JournalInfo, wanted bool) (blockdev.Device, *JournalInfo, error) {
	info.Unclean = wanted && !j.Clean()
	if !info.Unclean {
		return nil, info, nil
	}
	if fs.opts.NoRecovery {
		p, err := j.Pending(ctx, int(fs.sb.InodeSize))
		switch {
		case err == nil:
			info.Pending = &p
		case isDeviceErr(err):
			return nil, nil, fmt.Errorf("journal: %w", err)
		}
		return nil, info, nil
	}
	var dst blockdev.Device = fs.dev
	if !fs.opts.Write {
		dst = blockdev.NewOverlay(fs.dev)
	}
	stats, err := jbd2.Recover(ctx, j, dst, fs.sb.Blocks)
	if err == nil && fs.opts.Write && fs.sb.ErrorCount > 0 && fs.super.at == disk.SuperblockOffset {
		err = writeErrors(dst, fs.super.at, &fs.sb)
	}
	if err == nil && fs.opts.Write {
		// What was replayed is in its place before the journal says that it is.
		if err = dst.Flush(); err == nil {
			err = j.MarkClean(j.Location().Dev, stats.Next)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("journal recovery: %w", err)
	}
	info.Recovered = &stats
	return dst, info, nil
}

// isDeviceErr reports whether err comes from the device and not from what it holds.
func isDeviceErr(err error) bool {
	var (
		journal     *jbd2.WrongJournalError
		unsupported *jbd2.UnsupportedError
	)
	return err != nil && !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, unix.ENOENT) &&
		!errors.As(err, &journal) && !errors.As(err, &unsupported)
}

// journalLocation is where the blocks of the journal lie.
func (fs *FS) journalLocation(external bool) (jbd2.Location, error) {
	sb := &fs.sb
	if external {
		if fs.opts.Journal == nil {
			return jbd2.Location{}, &jbd2.WrongJournalError{Want: sb.JournalUUID}
		}
		return jbd2.External(fs.opts.Journal, sb.JournalUUID, sb.BlockSize())
	}
	loc, err := fs.journalExtents(func() (*Inode, error) { return fs.Inode(sb.JournalIno) })
	if errors.Is(err, disk.ErrCorrupt) && sb.JournalBackup == 1 {
		// The superblock keeps a copy of the journal inode's map.
		if b, berr := fs.journalExtents(fs.journalBackup); berr == nil {
			return b, nil
		}
	}
	return loc, err
}

// journalBackup is the journal inode as the superblock remembers it.
func (fs *FS) journalBackup() (*Inode, error) {
	jb := &fs.sb.JournalBlocks
	in := &Inode{fs: fs, ino: fs.sb.JournalIno, raw: make([]byte, fs.sb.InodeSize), block: fs.super.block()}
	in.disk.Mode = disk.ModeReg | 0o600
	in.disk.Links = 1
	in.disk.Size = uint64(jb[15])<<32 | uint64(jb[16])
	for i := range 15 {
		binary.LittleEndian.PutUint32(in.disk.Block[4*i:], jb[i])
	}
	if disk.DecodeExtentHeader(in.disk.Block[:]).Magic == disk.ExtentMagic {
		in.disk.Flags = disk.FlagExtents
	}
	// The generation, which the checksums of extent blocks start from, is the inode's own.
	cur, err := fs.Inode(fs.sb.JournalIno)
	switch {
	case err == nil:
		in.disk.Generation = cur.disk.Generation
	case !errors.Is(err, disk.ErrCorrupt):
		return nil, err
	}
	in.seed = disk.InodeSeed(fs.seed, in.ino, in.disk.Generation)
	return in, nil
}

// maxJournalExtents is how many pieces of a journal are believed: the largest
// that mke2fs makes has ten million blocks, in long runs.
const maxJournalExtents = 1 << 20

func (fs *FS) journalExtents(inode func() (*Inode, error)) (jbd2.Location, error) {
	loc := jbd2.Location{Dev: fs.dev, BlockSize: fs.sb.BlockSize()}
	in, err := inode()
	if err != nil {
		return loc, err
	}
	if in.Type() != disk.ModeReg || in.disk.Links == 0 {
		return loc, &disk.CorruptError{Struct: "journal inode", Num: uint64(in.ino), Block: in.block, Off: in.off, Field: "i_mode",
			Have: fmt.Sprintf("%#o, %d links", uint16(in.disk.Mode), in.disk.Links), Want: "a regular file in use"}
	}
	blocks := uint64(in.Size()) >> fs.sb.BlockBits()
	for b := uint64(0); b < min(blocks, maxLogical); {
		m, err := in.Map(disk.LBlock(b))
		if err != nil {
			return loc, err
		}
		if m.State == MapHole {
			return loc, &disk.CorruptError{Struct: "journal inode", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
				Field: "i_block", Have: fmt.Sprintf("a hole at block %d", b), Want: fmt.Sprintf("blocks 0 to %d", blocks-1)}
		}
		if len(loc.Extents) == maxJournalExtents {
			return loc, &disk.CorruptError{Struct: "journal inode", Num: uint64(in.ino), Block: in.block, Off: in.off + disk.IBlockOffset,
				Field: "i_block", Have: fmt.Sprintf("more than %d pieces", len(loc.Extents)), Want: "a journal of fewer pieces"}
		}
		end := min(m.End(), blocks)
		loc.Extents = append(loc.Extents, jbd2.Extent{
			Block: uint32(b), Len: uint32(end - b), Start: m.Physical + disk.PBlock(b-uint64(m.Logical)),
		})
		b = end
	}
	return loc, nil
}

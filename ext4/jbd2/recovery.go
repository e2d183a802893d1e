package jbd2

import (
	"context"
	"fmt"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// Stats says what [Recover] did.
type Stats struct {
	Clean        bool   // the log was empty: nothing was done
	Start        uint32 // first transaction of the log
	End          uint32 // one behind the last transaction replayed
	Next         uint32 // what the next transaction may be called, for [Journal.MarkClean]
	Transactions int    // replayed
	Blocks       int    // written to their places
	Revokes      int    // revocations found
	Revoked      int    // blocks not written as a later transaction revoked them
	Bad          int    // blocks not written as their checksum or place was wrong
	FastCommit   FastCommitStats
}

// Recover brings the blocks that j logs to their places on dst, which has
// blocks blocks, then replays the fast commits that follow. dst is the file
// system's device or, to leave that alone, an overlay. j itself is only read.
//
// Like the kernel, it ignores the transaction that was being written when the
// power went, replays what comes before damage in the middle of the log, and
// reports that damage, a *disk.CorruptError. Fast commits are replayed only
// where the log before them was sound; Recover fails without replaying any if
// their records ask for something impossible.
//
// What it wrote is not durable until the caller flushes dst.
func Recover(ctx context.Context, j *Journal, dst blockdev.Device, blocks uint64) (Stats, error) {
	if j.Clean() {
		seq := j.super.Sequence
		return Stats{Clean: true, Start: seq, End: seq, Next: seq + 1}, nil
	}
	s, err := j.scan(ctx)
	if err != nil {
		return Stats{}, err
	}
	stats := Stats{
		Start: j.super.Sequence, End: s.end, Next: s.end + 1,
		Transactions: int(s.end - j.super.Sequence), Revokes: s.revokes,
	}
	r := replay{j: j, dst: dst, blocks: min(blocks, uint64(dst.Size())/uint64(j.loc.BlockSize)), stats: &stats, end: s.end}
	r.journal = j.loc.occupied()
	if s.revokes > 0 {
		if r.revoked, err = j.revocations(ctx, s); err != nil {
			return stats, err
		}
	}
	if err := r.run(ctx); err != nil {
		return stats, err
	}
	if s.corrupt != nil {
		return stats, s.corrupt
	}
	if j.feat&disk.JournalFastCommit != 0 {
		err = j.replayFC(ctx, s.end, dst, &stats.FastCommit)
	}
	return stats, err
}

// scanned is what the first pass finds.
type scanned struct {
	end     uint32                   // one behind the last transaction that counts
	logged  map[disk.PBlock]struct{} // every block that has a copy in the log
	blocks  int                      // copies in transactions that count
	revokes int                      // revocations in transactions that count
	corrupt error                    // transaction end is there, and damaged
}

// scan finds the end of the log. It fails where the kernel refuses the journal
// as a whole: damage that is not at the end, in a block without which the rest
// of the log cannot be understood.
func (j *Journal) scan(ctx context.Context) (scanned, error) {
	s := scanned{logged: make(map[disk.PBlock]struct{})}
	c := j.cursor()
	var (
		blocks, revokes int                // of the transaction being read
		lastTime        uint64             // commit time of the one before, in seconds
		damage          error              // a descriptor or revoke block with a wrong sum
		crc             = ^uint32(0)       // checksum v1 of the transaction
		data            []byte             // scratch for that
		failed          *scanned           // set after a bad sum under v1 and async commit
		done            = func() scanned { // the log ends before the current transaction
			if failed != nil { // nothing whole behind it: it was cut short
				failed.corrupt = nil
				return *failed
			}
			s.end = c.tid
			return s
		}
	)
	for {
		h, n, ok, err := c.next(ctx)
		if err != nil {
			return s, err
		}
		if !ok {
			return done(), nil
		}
		switch h.Type {
		case disk.JournalDescriptor:
			if err := j.checkTail("journal descriptor block", n, c.buf); err != nil && damage == nil {
				damage = err
			}
			v1 := j.hasV1() && damage == nil && failed == nil
			if v1 {
				crc = disk.CRC32BE(crc, c.buf)
				if data == nil {
					data = make([]byte, j.loc.BlockSize)
				}
			}
			complete, err := c.tags(func(t disk.JournalTag, n uint32) error {
				s.logged[t.Block] = struct{}{}
				blocks++
				if !v1 {
					return nil
				}
				if err := j.read(n, data); err != nil {
					return err
				}
				crc = disk.CRC32BE(crc, data)
				return nil
			})
			if err != nil {
				return s, err
			}
			if !complete {
				return done(), nil
			}

		case disk.JournalRevokeBlock:
			if err := j.checkTail("journal revoke block", n, c.buf); err != nil && damage == nil {
				damage = err
			}
			disk.JournalRevoked(j.feat, c.buf, func(disk.PBlock) bool { revokes++; return true })

		case disk.JournalCommit:
			cb := disk.DecodeJournalCommit(c.buf)
			// Blocks of an older use of the ring can carry the expected
			// sequence number, but not a later commit time.
			stale := cb.Sec < lastTime
			if damage != nil {
				if stale {
					return done(), nil
				}
				return s, damage
			}
			if j.hasV1() && failed != nil {
				// The one after the damaged one is whole: it was not
				// the power that cut it short.
				return *failed, nil
			}
			if bad := j.checkCommit(n, c.buf, &cb, crc); bad != nil {
				switch {
				case stale:
					return done(), nil
				case j.feat&disk.JournalAsyncCommit == 0:
					s.end, s.corrupt = c.tid, bad
					return s, nil
				case !j.hasV1():
					return done(), nil
				}
				// The commit block was not ordered behind its
				// transaction. What comes next tells.
				f := s
				f.end, f.corrupt = c.tid, bad
				failed = &f
			}
			lastTime, crc = cb.Sec, ^uint32(0)
			if failed == nil {
				s.blocks, s.revokes = s.blocks+blocks, s.revokes+revokes
			}
			blocks, revokes = 0, 0
			c.tid++
		}
	}
}

// checkTail judges the checksum at the end of descriptor or revoke block b.
func (j *Journal) checkTail(what string, n uint32, b []byte) error {
	if !j.feat.HasChecksums() {
		return nil
	}
	have, want := disk.JournalTail(b), disk.JournalTailChecksum(j.seed, b)
	if have == want {
		return nil
	}
	return j.corrupt(what, n, len(b)-disk.JournalTailSize, "t_checksum", have, want)
}

// checkCommit judges commit block b against its own sum, or against crc, that
// of its transaction under checksum v1.
func (j *Journal) checkCommit(n uint32, b []byte, cb *disk.JournalCommitBlock, crc uint32) error {
	switch {
	case j.hasV1() && !cb.ChecksumV1OK(crc):
		return j.corrupt("journal commit block", n, 0x10, "h_chksum", cb.Checksum[0], crc)
	case j.feat.HasChecksums():
		if want := disk.JournalCommitChecksum(j.seed, b); cb.Checksum[0] != want {
			return j.corrupt("journal commit block", n, 0x10, "h_chksum", cb.Checksum[0], want)
		}
	}
	return nil
}

func (j *Journal) corrupt(what string, n uint32, off int, field string, have, want uint32) error {
	blk, _ := j.loc.physical(n)
	return &disk.CorruptError{
		Struct: what, Num: uint64(n), Block: blk, Off: off, Field: field,
		Have: fmt.Sprintf("%#08x", have), Want: fmt.Sprintf("%#08x", want),
	}
}

// tidGeq reports whether transaction a is b or comes after it. Ids wrap.
func tidGeq(a, b uint32) bool { return int32(a-b) >= 0 }

// revocations returns, for each logged block that is revoked, the last
// transaction that does so. Revocations of blocks that the log has no copy of
// are not kept: there can be many times more of them than blocks in the log.
func (j *Journal) revocations(ctx context.Context, s scanned) (map[disk.PBlock]uint32, error) {
	revoked := make(map[disk.PBlock]uint32)
	for c := j.cursor(); !tidGeq(c.tid, s.end); {
		h, n, ok, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("journal block %d changed during recovery", n)
		}
		switch h.Type {
		case disk.JournalDescriptor:
			if _, err := c.tags(func(disk.JournalTag, uint32) error { return nil }); err != nil {
				return nil, err
			}
		case disk.JournalCommit:
			c.tid++
		case disk.JournalRevokeBlock:
			if count, limit := disk.DecodeJournalRevokes(c.buf).Count, disk.JournalRevokeMax(j.feat, len(c.buf)); count > limit {
				blk, _ := j.loc.physical(n)
				return nil, &disk.CorruptError{
					Struct: "journal revoke block", Num: uint64(n), Block: blk, Off: 0xc, Field: "r_count",
					Have: fmt.Sprint(count), Want: fmt.Sprintf("at most %d", limit),
				}
			}
			disk.JournalRevoked(j.feat, c.buf, func(b disk.PBlock) bool {
				if _, ok := s.logged[b]; !ok {
					return true
				}
				if old, ok := revoked[b]; !ok || tidGeq(c.tid, old) {
					revoked[b] = c.tid
				}
				return true
			})
		}
	}
	return revoked, nil
}

// replay is the third pass.
type replay struct {
	j       *Journal
	dst     blockdev.Device
	blocks  uint64 // dst's
	end     uint32
	revoked map[disk.PBlock]uint32
	journal physicalSet
	stats   *Stats
}

// run writes every block that is not revoked. A block that cannot be written
// because the log is damaged is left out, and the first such damage returned
// when all the others are written.
func (r *replay) run(ctx context.Context) error {
	data := make([]byte, r.j.loc.BlockSize)
	var damage error
	for c := r.j.cursor(); !tidGeq(c.tid, r.end); {
		h, n, ok, err := c.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("journal block %d changed during recovery", n)
		}
		switch h.Type {
		case disk.JournalCommit:
			c.tid++
		case disk.JournalDescriptor:
			_, err := c.tags(func(t disk.JournalTag, n uint32) error {
				bad, err := r.block(c.tid, t, n, data)
				if bad != nil {
					r.stats.Bad++
					if damage == nil {
						damage = bad
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return damage
}

// block writes one logged block home. It returns damage of the log apart from
// errors of the devices.
func (r *replay) block(tid uint32, t disk.JournalTag, n uint32, data []byte) (bad, err error) {
	if last, ok := r.revoked[t.Block]; ok && tidGeq(last, tid) {
		r.stats.Revoked++
		return nil, nil
	}
	blk, _ := r.j.loc.physical(n)
	if uint64(t.Block) >= r.blocks || r.journal.has(t.Block) {
		return &disk.CorruptError{
			Struct: "journal data block", Num: uint64(n), Block: blk, Field: "t_blocknr",
			Have: fmt.Sprint(t.Block), Want: fmt.Sprintf("below %d and not the journal's own", r.blocks),
		}, nil
	}
	if err := r.j.read(n, data); err != nil {
		return nil, err
	}
	if sum := disk.JournalTagChecksum(r.j.feat, r.j.seed, tid, data); r.j.feat.HasChecksums() && sum != t.Checksum {
		return r.j.corrupt("journal data block", n, 0, "t_checksum", t.Checksum, sum), nil
	}
	if t.Flags&disk.JournalTagEscape != 0 {
		disk.UnescapeJournalBlock(data)
	}
	if _, err := r.dst.WriteAt(data, int64(t.Block)*int64(len(data))); err != nil {
		return nil, fmt.Errorf("write block %d: %w", t.Block, err)
	}
	r.stats.Blocks++
	return nil, nil
}

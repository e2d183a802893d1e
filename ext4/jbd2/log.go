package jbd2

import (
	"context"
	"iter"
	"slices"

	"e4go/ext4/disk"
)

// A cursor steps through the log, one block that jbd2 wrote about a transaction
// after the other. It goes round the ring once at most, whatever the blocks
// say: a log cannot be longer, and one that claims to be has no end.
type cursor struct {
	j    *Journal
	at   uint32 // the next block
	left uint32 // blocks of the ring not yet seen
	tid  uint32 // the transaction expected there
	buf  []byte // the block last returned by next
}

func (j *Journal) cursor() *cursor {
	return &cursor{
		j: j, at: j.super.Start, left: j.last - j.first, tid: j.super.Sequence,
		buf: make([]byte, j.loc.BlockSize),
	}
}

// step takes the next block of the ring, or reports that there is none.
func (c *cursor) step() (uint32, bool) {
	if c.left == 0 {
		return 0, false
	}
	n := c.at
	c.left--
	if c.at++; c.at >= c.j.last {
		c.at = c.j.first
	}
	return n, true
}

// next reads the next descriptor, revoke or commit block of the transaction
// expected. ok is false where the log ends.
func (c *cursor) next(ctx context.Context) (h disk.JournalHeader, n uint32, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return h, 0, false, err
	}
	if n, ok = c.step(); !ok {
		return h, 0, false, nil
	}
	if err := c.j.read(n, c.buf); err != nil {
		return h, n, false, err
	}
	h = disk.DecodeJournalHeader(c.buf)
	if h.Magic != disk.JournalMagic || h.Sequence != c.tid {
		return h, n, false, nil
	}
	switch h.Type {
	case disk.JournalDescriptor, disk.JournalCommit, disk.JournalRevokeBlock:
		return h, n, true, nil
	}
	return h, n, false, nil
}

// tags calls fn with each tag of the descriptor block just read and the journal
// block that holds its data. It returns false if the ring ends before the data.
func (c *cursor) tags(fn func(t disk.JournalTag, n uint32) error) (complete bool, err error) {
	complete = true
	disk.JournalTags(c.j.feat, c.buf, func(_ int, t disk.JournalTag) bool {
		n, ok := c.step()
		if !ok {
			complete = false
			return false
		}
		err = fn(t, n)
		return err == nil
	})
	return complete, err
}

// A Record is one block that jbd2 wrote about a transaction.
type Record struct {
	Block  uint32 // the journal block
	Header disk.JournalHeader
	// One of these, by Header.Type:
	Tags    []LoggedBlock            // of a descriptor block
	Revoked []disk.PBlock            // of a revoke block
	Commit  *disk.JournalCommitBlock // of a commit block
}

// A LoggedBlock is a tag and the journal block that holds its data.
type LoggedBlock struct {
	disk.JournalTag
	Data uint32
}

// Log yields the records of the log in order, without judging checksums, to
// where the expected sequence of blocks ends: transactions without a commit
// record at the end are there too, [Journal.Pending] tells them apart. An error
// ends it. A clean journal has none.
func (j *Journal) Log(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if j.Clean() {
			return
		}
		c := j.cursor()
		for {
			h, n, ok, err := c.next(ctx)
			if err != nil {
				yield(Record{Block: n}, err)
				return
			}
			if !ok {
				return
			}
			r := Record{Block: n, Header: h}
			switch h.Type {
			case disk.JournalDescriptor:
				_, _ = c.tags(func(t disk.JournalTag, n uint32) error {
					r.Tags = append(r.Tags, LoggedBlock{t, n})
					return nil
				})
			case disk.JournalRevokeBlock:
				r.Revoked = slices.Collect(func(yield func(disk.PBlock) bool) { disk.JournalRevoked(j.feat, c.buf, yield) })
			case disk.JournalCommit:
				cb := disk.DecodeJournalCommit(c.buf)
				r.Commit = &cb
				c.tid++
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Pending says what [Recover] would find, without writing anything.
type Pending struct {
	Start, End   uint32 // transaction ids: the first, and one behind the last that counts
	Transactions int    // how many count
	Blocks       int    // blocks they log, revoked ones included
	Revokes      int    // revocations they hold
	Corrupt      error  // the transaction End is there, but damaged: a *disk.CorruptError
	FastCommit   FastCommitStats
}

// Pending reads the log. For a clean journal all but the transaction ids is zero.
// inodeSize is s_inode_size, which bounds fast-commit records.
func (j *Journal) Pending(ctx context.Context, inodeSize int) (Pending, error) {
	if j.Clean() {
		return Pending{Start: j.super.Sequence, End: j.super.Sequence}, nil
	}
	s, err := j.scan(ctx)
	if err != nil {
		return Pending{}, err
	}
	p := Pending{
		Start: j.super.Sequence, End: s.end, Transactions: int(s.end - j.super.Sequence),
		Blocks: s.blocks, Revokes: s.revokes, Corrupt: s.corrupt,
	}
	if s.corrupt == nil {
		fc, err := j.scanFC(ctx, s.end, inodeSize)
		if err != nil {
			return Pending{}, err
		}
		p.FastCommit = fc.stats
	}
	return p, nil
}

package jbd2

import (
	"context"
	"fmt"

	"e4go/ext4/disk"
)

// FastCommitStats says what the fast commit area holds for the transaction
// after the last one in the log.
type FastCommitStats struct {
	Commits int   // fast commits with a valid tail
	Records int   // records in them, heads, padding and tails included
	Blocks  int   // journal blocks they lie in
	Stop    error // a tail of this transaction with a wrong sum, behind valid ones: a *disk.CorruptError
	Skipped int   // records that could not be applied as their inode is not in use
}

// fcScanned is what the scan of the fast commit area finds.
type fcScanned struct {
	stats   FastCommitStats
	regions []Extent // physical blocks that records map: not to be allocated
}

// fcRecord is one record of the area.
type fcRecord struct {
	block uint32 // journal block
	off   int    // byte offset in it
	tl    disk.FCTL
	raw   []byte // head and value
}

func (r *fcRecord) value() []byte { return r.raw[disk.FCTagSize:] }

// fcRecords calls fn with each record of the fast commit area until it returns
// false, or something stands there that is no record. The bytes of a record are
// good until fn returns.
func (j *Journal) fcRecords(ctx context.Context, inodeSize int, fn func(r *fcRecord) (bool, error)) error {
	buf := make([]byte, j.loc.BlockSize)
	// The kernel leaves one block behind the ring unused (j_fc_first).
	for n := j.last + 1; n < j.super.MaxLen; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := j.read(n, buf); err != nil {
			return err
		}
		for off := 0; off+disk.FCTagSize <= len(buf); {
			r := fcRecord{block: n, off: off, tl: disk.DecodeFCTL(buf[off:])}
			end := off + disk.FCTagSize + int(r.tl.Len)
			if end > len(buf) || !disk.FCLenOK(r.tl.Tag, int(r.tl.Len), inodeSize) {
				return nil
			}
			r.raw = buf[off:end]
			if more, err := fn(&r); !more || err != nil {
				return err
			}
			off = end
		}
	}
	return nil
}

// scanFC finds how many records of the fast commit area are valid: those up to
// the last tail of transaction tid whose sum is right (ext4_fc_replay_scan).
//
// Where the kernel refuses to mount because the very first fast commit has no
// tail, this finds no records: it is what a power cut in the middle of it
// leaves. A first tail whose sum is wrong is damage for both.
func (j *Journal) scanFC(ctx context.Context, tid uint32, inodeSize int) (fcScanned, error) {
	var (
		s       fcScanned
		records int
		crc     uint32
		pending []Extent // regions since the last valid tail
	)
	if j.feat&disk.JournalFastCommit == 0 {
		return s, nil
	}
	err := j.fcRecords(ctx, inodeSize, func(r *fcRecord) (bool, error) {
		if records == 0 && r.tl.Tag != disk.FCHead {
			return false, nil
		}
		switch r.tl.Tag {
		case disk.FCHead:
			h := disk.DecodeFCHead(r.value())
			if h.TID != tid {
				return false, nil // of an earlier round
			}
			if h.Features != 0 {
				return false, &UnsupportedError{What: "fast commit", Features: []string{fmt.Sprintf("fc_features %#x", h.Features)}}
			}
		case disk.FCAddRange:
			v := disk.DecodeFCAddRange(r.value())
			pending = append(pending, Extent{Len: uint32(v.Len), Start: v.Start})
		}
		records++
		crc = disk.FCChecksum(crc, r.raw)
		if r.tl.Tag != disk.FCTail {
			return true, nil
		}
		t := disk.DecodeFCTail(r.value())
		if t.TID != tid {
			return false, nil
		}
		if t.CRC != crc {
			blk, _ := j.loc.physical(r.block)
			bad := &disk.CorruptError{
				Struct: "fast commit tail in journal block", Num: uint64(r.block), Block: blk, Off: r.off + disk.FCTagSize + 4, Field: "fc_crc",
				Have: fmt.Sprintf("%#08x", t.CRC), Want: fmt.Sprintf("%#08x", crc),
			}
			if s.stats.Commits == 0 {
				return false, bad
			}
			s.stats.Stop = bad
			return false, nil
		}
		s.stats.Commits++
		s.stats.Records = records
		s.stats.Blocks = int(r.block - j.last)
		s.regions = append(s.regions, pending...)
		crc, pending = 0, nil
		return true, nil
	})
	return s, err
}

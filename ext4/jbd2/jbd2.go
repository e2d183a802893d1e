// Package jbd2 knows the journal of ext4: how to read its log, and how to bring
// what the log holds to its places after a crash. It does not know inodes by
// name or path; only the replay of fast commits, which are made of changes to
// inodes and directories, looks inside the file system (the fc_*.go files).
//
// A journal is a ring of blocks behind its superblock, and, under the
// fast_commit feature, an area behind the ring:
//
//	| super | first ... ring ... last-1 | unused | fast commits ... maxlen-1 |
//
// The ring holds transactions, each ended by its commit block:
//
//	descriptor  data data data ...  revoke  descriptor  data ...  commit
//
// A transaction counts from its commit block on, and only if each one before
// it counts. The log ends at the first block that is not the next piece of the
// transaction expected there. [Recover] reads it three times, as the kernel
// does: to find that end, to collect revocations, to write the data home.
//
// The rules are those of fs/jbd2/recovery.c and fs/jbd2/journal.c, and of
// fs/ext4/fast_commit.c for the area behind the ring.
//
// A Journal has no lock and changes only in [Journal.MarkClean].
package jbd2

import (
	"bytes"
	"fmt"
	"strings"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// An UnsupportedError reports a journal that is sound but that we cannot read.
type UnsupportedError struct {
	What     string   // "journal", "external journal", "fast commit"
	Features []string // what it uses, by name
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: unsupported %s", e.What, strings.Join(e.Features, " "))
}

// A Journal is a journal whose superblock has been read and checked.
type Journal struct {
	loc   Location
	super disk.JournalSuper
	raw   []byte // the superblock's bytes, disk.JournalSuperSize of them
	feat  disk.JournalFeature
	seed  uint32 // for csum v2 and v3
	first uint32 // first block of the ring
	last  uint32 // end of the ring, not in it (j_last)
}

// Load reads and checks the journal superblock at loc. It fails with a
// *disk.CorruptError, an *[UnsupportedError] naming features, or what the
// device says.
//
// A journal whose [disk.JournalSuper.Errno] is set loads all the same: the
// kernel mounts it and marks the file system as having errors.
func Load(loc Location) (*Journal, error) {
	if err := loc.check(); err != nil {
		return nil, err
	}
	total := loc.total()
	j := &Journal{loc: loc}
	block := make([]byte, loc.BlockSize)
	if err := j.read(loc.Super, block); err != nil {
		return nil, fmt.Errorf("read journal superblock: %w", err)
	}
	j.raw = bytes.Clone(block[:disk.JournalSuperSize])
	j.super = disk.DecodeJournalSuper(j.raw)
	blk, _ := loc.physical(loc.Super)
	if j.super.Header.Magic == disk.JournalMagic && j.super.Version() == 2 {
		if err := checkFeatures(&j.super); err != nil {
			return nil, err
		}
	}
	if err := disk.CheckJournalSuper(j.raw, blk, loc.BlockSize, total); err != nil {
		return nil, err
	}
	if j.super.Version() == 2 { // version 1 has no features, whatever stands there
		j.feat = j.super.Incompat
		if j.feat.HasChecksums() {
			j.seed = disk.JournalSeed(j.super.UUID)
		}
	}
	if loc.External && j.super.NrUsers > 1 {
		return nil, &UnsupportedError{What: "external journal", Features: []string{fmt.Sprintf("sharing by %d file systems", j.super.NrUsers)}}
	}
	j.first = j.super.First
	j.last = j.super.MaxLen - j.super.FastCommitBlocks()
	return j, nil
}

func checkFeatures(s *disk.JournalSuper) error {
	var names []string
	if unknown := s.Incompat &^ disk.JournalKnown; unknown != 0 {
		names = append(names, unknown.String())
	}
	if s.ROCompat != 0 {
		names = append(names, fmt.Sprintf("ro_compat %#x", s.ROCompat))
	}
	if names == nil {
		return nil
	}
	return &UnsupportedError{What: "journal", Features: names}
}

// Super returns the superblock as it was loaded or last marked.
func (j *Journal) Super() disk.JournalSuper { return j.super }

// Location returns where the journal lies.
func (j *Journal) Location() Location { return j.loc }

// Clean reports whether the log is empty: there is nothing to recover, and
// what its blocks hold must not be replayed.
func (j *Journal) Clean() bool { return j.super.Start == 0 }

// hasV1 reports that commit blocks carry a crc32 of their transaction.
func (j *Journal) hasV1() bool {
	return j.super.Version() == 2 && j.super.Compat&disk.JournalChecksum != 0
}

// read fills b with journal block n.
func (j *Journal) read(n uint32, b []byte) error {
	blk, ok := j.loc.physical(n)
	if !ok {
		return &disk.CorruptError{
			Struct: "journal block", Num: uint64(n), Field: "block map",
			Have: "a hole", Want: "a block on the device",
		}
	}
	if _, err := j.loc.Dev.ReadAt(b, int64(blk)*int64(j.loc.BlockSize)); err != nil {
		return fmt.Errorf("read block %d (journal block %d): %w", blk, n, err)
	}
	return nil
}

// MarkClean writes the journal's superblock to dev, saying that the log is
// empty and that the next transaction is sequence, and makes that durable.
// dev is the journal's own device, or an overlay of it. It is for the caller
// to have made the recovered blocks durable before.
func (j *Journal) MarkClean(dev blockdev.Device, sequence uint32) error {
	s := j.super
	s.Start, s.Sequence = 0, sequence
	if s.Version() == 2 {
		s.Head = s.First
	}
	raw := bytes.Clone(j.raw)
	s.Put(raw)
	if j.feat.HasChecksums() {
		s.Checksum = disk.JournalSuperChecksum(raw)
		s.Put(raw)
	}
	blk, _ := j.loc.physical(j.loc.Super)
	if _, err := dev.WriteAt(raw, int64(blk)*int64(j.loc.BlockSize)); err != nil {
		return fmt.Errorf("write journal superblock (block %d): %w", blk, err)
	}
	if err := dev.Flush(); err != nil {
		return fmt.Errorf("flush journal superblock: %w", err)
	}
	j.super, j.raw = s, raw
	return nil
}

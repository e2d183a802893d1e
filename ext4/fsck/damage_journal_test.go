package fsck_test

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// putJournal changes the journal's superblock.
func (v *volume) putJournal(fn func(b []byte)) {
	in, err := v.fs.Inode(v.sb.JournalIno)
	if err != nil {
		v.t.Fatal(err)
	}
	m, err := in.Map(0)
	if err != nil {
		v.t.Fatal(err)
	}
	v.change(int64(m.Physical)*v.bs, disk.JournalSuperSize, func(b []byte) {
		fn(b)
		if s := disk.DecodeJournalSuper(b); s.Incompat&(disk.JournalCsumV2|disk.JournalCsumV3) != 0 {
			binary.BigEndian.PutUint32(b[0xfc:], disk.JournalSuperChecksum(b))
		}
	})
}

// journalField sets 32 bits of the journal's superblock.
func journalField(off int, n uint32) func(v *volume) {
	return func(v *volume) {
		v.putJournal(func(b []byte) { binary.BigEndian.PutUint32(b[off:], n) })
	}
}

// damagedJournals have journals that are not as they should be.
var damagedJournals = []damaging{
	{name: "s_maxlen is above i_size", image: "ext4-4k", change: journalField(0x10, 100_000)},
	{name: "s_maxlen is far above i_size", image: "ext4-4k", change: journalField(0x10, 1<<31)},
	{name: "s_maxlen is below i_size", image: "ext4-4k", change: journalField(0x10, 1024), sound: true},
	{name: "s_maxlen is too small", image: "ext4-4k", change: journalField(0x10, 100), ours: "the kernel does not load it"},
	{name: "s_maxlen is 0", image: "ext4-4k", change: journalField(0x10, 0), ours: "the kernel does not load it"},
	{name: "s_start is behind the end", image: "ext4-4k", change: journalField(0x1c, 100_000), ours: "the kernel does not load it"},
	{name: "s_start is the last block", image: "ext4-4k", change: journalField(0x1c, 1023), sound: true},
	{name: "s_start is set", image: "ext4-4k", change: journalField(0x1c, 1), sound: true},
	{name: "s_start is behind the end", image: "ext3-4k", change: journalField(0x1c, 100_000), ours: "the kernel does not load it"},
	{name: "s_start is behind the end with needs_recovery", image: "ext4-4k", debugfs: "feature needs_recovery", change: journalField(0x1c, 100_000), ours: "the kernel does not load it"},
	{name: "s_start is in the middle with needs_recovery", image: "ext4-4k", debugfs: "feature needs_recovery", change: journalField(0x1c, 500), sound: true},
	{name: "s_first is 0", image: "ext4-4k", change: journalField(0x14, 0), ours: "the kernel does not load it"},
	{name: "s_first is behind the end", image: "ext4-4k", change: journalField(0x14, 100_000), ours: "the kernel does not load it"},
	{name: "s_blocksize is another", image: "ext4-4k", change: journalField(0x0c, 1024)},
	{name: "h_magic is none", image: "ext4-4k", change: journalField(0, 0)},
	{name: "h_blocktype is a descriptor's", image: "ext4-4k", change: journalField(4, 1)},
	{name: "h_blocktype is unknown", image: "ext4-4k", change: journalField(4, 77)},
	{name: "s_sequence is another", image: "ext4-4k", change: journalField(0x18, 77), sound: true},
	{name: "unknown incompatible features", image: "ext4-4k", change: journalField(0x28, 0x8000)},
	{name: "unknown read-only features", image: "ext4-4k", change: journalField(0x2c, 1)},
	{name: "two kinds of checksums", image: "ext4-4k", change: journalField(0x28, 0x1a)},
	{name: "version 1 with features", image: "ext3-4k", change: func(v *volume) {
		v.putJournal(func(b []byte) { b[7], b[0x2b] = 3, 1 })
	}, sound: true, codes: "journal-super-old-fields"},
	{name: "s_nr_users is 5", image: "ext4-4k", change: journalField(0x40, 5)},
	{name: "s_checksum_type is unknown", image: "ext4-4k", change: journalField(0x50, 0x09000000)},
	{name: "the superblock's checksum is wrong", image: "ext4-4k", change: func(v *volume) {
		v.putJournal(func(b []byte) { b[0x30] ^= 1 })
		in, err := v.fs.Inode(v.sb.JournalIno)
		if err != nil {
			v.t.Fatal(err)
		}
		m, err := in.Map(0)
		if err != nil {
			v.t.Fatal(err)
		}
		v.change(int64(m.Physical)*v.bs+0xfc, 4, func(b []byte) { b[0] ^= 1 })
	}},
	{name: "i_size is below s_maxlen", image: "ext4-4k", debugfs: "sif <8> size 2097152"},
	{name: "i_size is too small", image: "ext4-4k", debugfs: "sif <8> size 40960"},
	{name: "i_size is above the blocks", image: "ext4-4k", debugfs: "sif <8> size 41943040"},
	{name: "i_size is below s_maxlen", image: "ext3-4k", debugfs: "sif <8> size 2097152"},
	{name: "a hole", image: "ext3-4k", debugfs: "sif <8> block[5] 0"},
	{name: "a hole in the first block", image: "ext3-4k", debugfs: "sif <8> block[0] 0"},
	{name: "a hole for all behind the first", image: "ext3-4k", debugfs: "sif <8> block[IND] 0"},
	{name: "a block that does not exist", image: "ext3-4k", debugfs: "sif <8> block[5] 99999999"},
	{name: "a block of the inode table", image: "ext3-4k", debugfs: "sif <8> block[5] 6"},
	{name: "no links", image: "ext4-4k", debugfs: "sif <8> links_count 0"},
	{name: "two links", image: "ext4-4k", debugfs: "sif <8> links_count 2", sound: true},
	{name: "the inode is zero", image: "ext4-4k", debugfs: "clri <8>"},
	{name: "s_journal_inum is a file", image: "ext4-4k", debugfs: "ssv journal_inum 12"},
	{name: "s_journal_inum is the root", image: "ext4-4k", debugfs: "ssv journal_inum 2"},
	{name: "s_journal_inum does not exist", image: "ext4-4k", debugfs: "ssv journal_inum 99999999"},
	{name: "s_journal_inum is 0", image: "ext4-4k", debugfs: "ssv journal_inum 0"},
	{name: "s_journal_dev is set", image: "ext4-4k", debugfs: "ssv journal_dev 0x801", sound: true},
	{name: "s_journal_uuid is set", image: "ext4-4k", debugfs: "ssv journal_uuid 11111111-2222-3333-4444-555555555555"},
	{name: "needs_recovery is set", image: "ext4-4k", debugfs: "feature needs_recovery", sound: true},
	{name: "needs_recovery without a journal", image: "ext2-1k", debugfs: "feature needs_recovery"},
	{name: "has_journal without one", image: "ext2-1k", debugfs: "feature has_journal"},
	{name: "has_journal is not set", image: "ext4-4k", debugfs: "feature -has_journal", sound: true},
	{name: "fast_commit is not set", image: "fast-commit-clean", debugfs: "feature -fast_commit", sound: true},
	{name: "fast_commit without a journal", image: "fast-commit-clean", debugfs: "feature -has_journal", sound: true},
	{name: "s_num_fc_blks is too large", image: "fast-commit-clean", change: journalField(0x54, 100_000), sound: true},
	{name: "s_num_fc_blks is all", image: "fast-commit-clean", change: journalField(0x54, 1000), sound: true},
}

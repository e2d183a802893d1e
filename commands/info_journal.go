package commands

import (
	"errors"
	"fmt"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// journalFacts shows the journal's superblock, and what was or would be replayed.
func journalFacts(o *output, sb *disk.Superblock, j *ext4.JournalInfo) {
	if j == nil {
		if o.json {
			o.kNull("journal")
		}
		return
	}
	if o.json {
		o.kObj("journal")
		defer o.end()
	}
	state, text := journalState(j)
	list := []fact{
		{"Journal state", "state", state, text},
		{"", "external", j.External, ""},
	}
	if j.Loaded {
		js := &j.Super
		features := js.Incompat.String()
		if js.Compat&disk.JournalChecksum != 0 {
			features = "journal_checksum " + features
		}
		if features == "" {
			features = "(none)"
		}
		list = append(list,
			fact{"Journal features", "features", features, ""},
			fact{"Total journal blocks", "blocks", uint64(js.MaxLen), ""},
			fact{"Journal block size", "block_size", uint64(js.BlockSize), ""},
			fact{"Fast commit length", "fast_commit_blocks", uint64(js.FastCommitBlocks()), ""},
			fact{"Journal sequence", "sequence", uint64(js.Sequence), fmt.Sprintf("%#08x", js.Sequence)},
			fact{"Journal start", "start", uint64(js.Start), ""},
			fact{"Journal errno", "errno", int64(js.Errno), ""},
			fact{"Journal users", "users", uint64(js.NrUsers), ""},
		)
	}
	o.facts(append(list, replayFacts(j)...))
}

func journalState(j *ext4.JournalInfo) (state, text string) {
	switch {
	case j.Recovered != nil:
		return "replayed", "unclean: replayed in memory; the image is unchanged"
	case j.Unclean:
		return "unclean", "unclean: not replayed"
	case !j.Loaded && j.External:
		return "absent", "external, not given"
	case !j.Loaded:
		return "unreadable", "its superblock cannot be read; nothing has to be replayed"
	}
	return "clean", ""
}

func replayFacts(j *ext4.JournalInfo) []fact {
	if r := j.Recovered; r != nil {
		return []fact{
			{"Transactions replayed", "transactions", r.Transactions, ""},
			{"Blocks replayed", "replayed_blocks", r.Blocks, ""},
			{"Blocks revoked", "revoked_blocks", r.Revoked, ""},
			{"Blocks not replayed", "bad_blocks", r.Bad, ""},
			{"Fast commits replayed", "fast_commits", r.FastCommit.Commits, ""},
			{"", "fast_commit_records", r.FastCommit.Records, ""},
		}
	}
	if p := j.Pending; p != nil {
		list := []fact{
			{"Transactions to replay", "transactions", p.Transactions, ""},
			{"Blocks to replay", "replayed_blocks", p.Blocks, ""},
			{"Fast commits to replay", "fast_commits", p.FastCommit.Commits, ""},
			{"", "fast_commit_records", p.FastCommit.Records, ""},
		}
		if p.Corrupt != nil {
			list = append(list, fact{"Journal damage", "damage", errorText(p.Corrupt), ""})
		}
		return list
	}
	return nil
}

// stateFacts shows what lies elsewhere than in the superblock: the MMP block and the
// orphans. Its error is the first that it met; what can be shown is shown.
func stateFacts(o *output, fs *ext4.FS) error {
	var first error
	if fs.Super().Incompat.Has(disk.IncompatMMP) {
		m, err := fs.MMP()
		first = err
		if err == nil || errors.Is(err, disk.ErrCorrupt) {
			mmpFacts(o, m)
		}
	}
	orphans, err := fs.Orphans()
	if first == nil {
		first = err
	}
	if o.json {
		o.kArr("orphans")
		for _, ino := range orphans {
			o.sep(false)
			o.str(fmt.Sprint(ino))
			o.comma = true
		}
		o.end()
	} else if len(orphans) > 0 {
		o.facts([]fact{{"Orphaned inodes", "orphans", fmt.Sprint(len(orphans)), fmt.Sprintf("%d: %v", len(orphans), someOf(orphans))}})
	}
	return first
}

// someOf is the first few of inos, in words.
func someOf(inos []disk.Ino) string {
	const few = 16
	text := ""
	for i, ino := range inos {
		if i == few {
			return text + " ..."
		}
		if i > 0 {
			text += " "
		}
		text += fmt.Sprint(ino)
	}
	return text
}

func mmpFacts(o *output, m disk.MMP) {
	if o.json {
		o.kObj("mmp")
		defer o.end()
	}
	state := "in use"
	switch m.Seq {
	case disk.MMPSeqClean:
		state = "clean"
	case disk.MMPSeqFsck:
		state = "being checked"
	}
	o.facts([]fact{
		{"MMP state", "mmp_state", state, ""},
		{"MMP sequence", "mmp_sequence", uint64(m.Seq), fmt.Sprintf("%#08x", m.Seq)},
		{"MMP update time", "mmp_time", m.Time, time.Unix(int64(min(m.Time, 1<<40)), 0).UTC().Format("2006-01-02 15:04:05 +0000")},
		{"MMP node name", "mmp_node", m.Node, shownName(m.Node)},
		{"MMP device name", "mmp_device", m.Dev, shownName(m.Dev)},
		{"MMP check interval", "mmp_check_interval", int(m.Interval), ""},
	})
}

package commands

import (
	"fmt"
	"strings"
	"time"

	"e4go/ext4/disk"
)

func sprint(v any) string { return fmt.Sprint(v) }

func revName(rev uint32) string {
	switch rev {
	case 0:
		return "original"
	case 1:
		return "dynamic"
	}
	return "unknown"
}

// bitWords lists the words of the bits set in v, lowest first; others in hexadecimal.
func bitWords(v uint32, words ...string) []string {
	out := []string{}
	for i, w := range words {
		if v&(1<<i) != 0 {
			out = append(out, w)
			v &^= 1 << i
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("%#x", v))
	}
	return out
}

func superFlagNames(f disk.SuperFlags) []string {
	return bitWords(uint32(f), "signed_directory_hash", "unsigned_directory_hash", "test_filesystem")
}

// defaultMountOptions are the names of s_default_mount_opts (EXT4_DEFM_*), where
// two bits are the mode of the journal.
func defaultMountOptions(v uint32) []string {
	out := bitWords(v&0x1f, "debug", "bsdgroups", "user_xattr", "acl", "uid16")
	if mode := v >> 5 & 3; mode != 0 {
		out = append(out, [...]string{"journal_data", "journal_data_ordered", "journal_data_writeback"}[mode-1])
	}
	names := map[int]string{8: "nobarrier", 9: "block_validity", 10: "discard", 11: "nodelalloc"}
	for bit := 7; bit < 32; bit++ {
		if v&(1<<bit) == 0 {
			continue
		}
		if n, ok := names[bit]; ok {
			out = append(out, n)
		} else {
			out = append(out, fmt.Sprintf("%#x", uint32(1)<<bit))
		}
	}
	return out
}

// stateNames are the bits of s_state; no "clean" means that it was not unmounted.
func stateNames(s disk.State) []string {
	return bitWords(uint32(s), "clean", "errors", "orphans", "0x8", "0x10", "fast_commit_replay")
}

func stateText(s disk.State) string {
	text := "not clean"
	if s&disk.StateValid != 0 {
		text = "clean"
	}
	if s&disk.StateError != 0 {
		text += " with errors"
	}
	if s&disk.StateOrphan != 0 {
		text += ", orphans are being recovered"
	}
	if s&disk.StateFCReplay != 0 {
		text += ", fast commits are being replayed"
	}
	return text
}

func errorsName(v uint16) string {
	switch v {
	case 1:
		return "Continue"
	case 2:
		return "Remount read-only"
	case 3:
		return "Panic"
	}
	return fmt.Sprintf("Unknown (%d)", v)
}

func osName(v uint32) string {
	names := []string{"Linux", "GNU/Hurd", "MASIX", "FreeBSD", "Lites"}
	if int64(v) < int64(len(names)) {
		return names[v]
	}
	return fmt.Sprintf("unknown (%d)", v)
}

func hashName(v uint8) string {
	names := []string{"legacy", "half_md4", "tea", "legacy_unsigned", "half_md4_unsigned", "tea_unsigned", "siphash"}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown (%d)", v)
}

// encodingName is the name of s_encoding (EXT4_ENC_*).
func encodingName(v uint16) string {
	if v == 1 {
		return "utf8-12.1"
	}
	return fmt.Sprintf("unknown (%d)", v)
}

// errorCodeName is the name of an EXT4_ERR_* code.
func errorCodeName(v uint8) string {
	names := strings.Fields("- UNKNOWN EIO ENOMEM EFSBADCRC EFSCORRUPTED ENOSPC ENOKEY EROFS EFBIG EEXIST ERANGE EOVERFLOW EBUSY ENOTDIR ENOTEMPTY ESHUTDOWN EFAULT")
	if v == 0 {
		return ""
	}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprint(v)
}

// timeFacts are about the times, counts and special inodes of the superblock.
func timeFacts(sb *disk.Superblock) []fact {
	at := func(label, key string, sec int64) fact { return fact{label, key, sec, secondsText(sec)} }
	list := []fact{
		at("Filesystem created", "created", sb.MkfsTime),
		at("Last mount time", "mounted", sb.Mtime),
		at("Last write time", "written", sb.Wtime),
		{"Mount count", "mount_count", int(sb.MountCount), ""},
		{"Maximum mount count", "max_mount_count", int(sb.MaxMountCount), ""},
		at("Last checked", "checked", sb.LastCheck),
		{"Check interval", "check_interval", uint64(sb.CheckInterval), interval(sb.CheckInterval)},
		{"Lifetime writes", "lifetime_writes", min(sb.KBytesWritten, 1<<53) << 10, fmt.Sprintf("%d kB", sb.KBytesWritten)},
		{"Reserved blocks uid", "reserved_uid", uint64(sb.DefResUID) | uint64(sb.DefResUIDHi)<<16, ""},
		{"Reserved blocks gid", "reserved_gid", uint64(sb.DefResGID) | uint64(sb.DefResGIDHi)<<16, ""},
		{"First inode", "first_inode", uint64(sb.FirstIno), ""},
		{"Inode size", "inode_size", int(sb.InodeSize), ""},
	}
	add := func(f fact, when bool) {
		if when {
			list = append(list, f)
		}
	}
	ino := func(label, key string, n disk.Ino) { add(fact{label, key, uint64(n), ""}, n != 0) }
	add(fact{"Required extra isize", "min_extra_isize", int(sb.MinExtraIsize), ""}, sb.MinExtraIsize != 0)
	add(fact{"Desired extra isize", "want_extra_isize", int(sb.WantExtraIsize), ""}, sb.WantExtraIsize != 0)
	ino("Journal inode", "journal_inode", sb.JournalIno)
	add(fact{"Journal UUID", "journal_uuid", uuidText(sb.JournalUUID), ""}, sb.JournalUUID != [16]byte{})
	add(fact{"Journal device", "journal_device", uint64(sb.JournalDev), fmt.Sprintf("%#04x", sb.JournalDev)}, sb.JournalDev != 0)
	ino("First orphan inode", "first_orphan", sb.LastOrphan)
	add(fact{"Default directory hash", "hash", hashName(sb.DefHashVersion), ""}, sb.Compat.Has(disk.CompatDirIndex))
	add(fact{"Directory Hash Seed", "hash_seed", uuidText(hashSeed(sb)), ""}, sb.HashSeed != [4]uint32{})
	add(fact{"Journal backup", "journal_backup", "inode blocks", ""}, sb.JournalBackup == 1)
	ino("User quota inode", "user_quota_inode", sb.UserQuotaIno)
	ino("Group quota inode", "group_quota_inode", sb.GroupQuotaIno)
	ino("Project quota inode", "project_quota_inode", sb.ProjectQuotaIno)
	ino("Orphan file inode", "orphan_file_inode", sb.OrphanFileIno)
	add(fact{"Character encoding", "encoding", encodingName(sb.Encoding), ""}, sb.Incompat.Has(disk.IncompatCasefold))
	add(fact{"Encoding flags", "encoding_flags", bitWords(uint32(sb.EncodingFlags), "strict"), ""}, sb.Incompat.Has(disk.IncompatCasefold))
	add(fact{"MMP block number", "mmp_block", uint64(sb.MMPBlock), ""}, sb.Incompat.Has(disk.IncompatMMP))
	add(fact{"MMP update interval", "mmp_interval", int(sb.MMPInterval), ""}, sb.Incompat.Has(disk.IncompatMMP))
	if sb.MetadataCsum() {
		kind := "crc32c"
		if sb.ChecksumType != 1 {
			kind = fmt.Sprint(sb.ChecksumType)
		}
		list = append(list, fact{"Checksum type", "checksum_type", kind, ""},
			fact{"Checksum", "checksum", uint64(sb.Checksum), fmt.Sprintf("%#08x", sb.Checksum)})
	}
	add(fact{"Checksum seed", "checksum_seed", uint64(sb.ChecksumSeed), fmt.Sprintf("%#08x", sb.ChecksumSeed)}, sb.Incompat.Has(disk.IncompatCsumSeed))
	if sb.ErrorCount != 0 || sb.FirstError.Time != 0 {
		list = append(list, fact{"FS Error count", "error_count", uint64(sb.ErrorCount), ""})
		list = append(list, errorFacts("First error", "first_error", sb.FirstError)...)
		list = append(list, errorFacts("Last error", "last_error", sb.LastError)...)
	}
	return list
}

// hashSeed is s_hash_seed as the bytes that it is on disk.
func hashSeed(sb *disk.Superblock) (u [16]byte) {
	for i, w := range sb.HashSeed {
		u[4*i], u[4*i+1], u[4*i+2], u[4*i+3] = byte(w), byte(w>>8), byte(w>>16), byte(w>>24)
	}
	return u
}

func interval(sec uint32) string {
	if sec == 0 {
		return "0 (<none>)"
	}
	return fmt.Sprintf("%d (%s)", sec, time.Duration(sec)*time.Second)
}

func errorFacts(label, key string, r disk.ErrorRecord) []fact {
	return []fact{
		{label + " time", key + "_time", r.Time, secondsText(r.Time)},
		{label + " function", key + "_function", r.Func, shownName(r.Func)},
		{label + " line #", key + "_line", uint64(r.Line), ""},
		{label + " inode #", key + "_inode", uint64(r.Ino), ""},
		{label + " block #", key + "_block", uint64(r.Block), ""},
		{label + " err", key + "_code", errorCodeName(r.Code), ""},
	}
}

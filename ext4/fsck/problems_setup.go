package fsck

// Problems of the superblock, its copies, the groups and the journal.
//
// e2fsck -n forgets what it finds here before it gives its exit status (it
// marks the file system valid before pass 1). What is an Error below is what
// keeps the kernel from mounting the file system to be written, or makes it
// harm it; the rest are warnings.
var (
	superUnusable     = row(PassSetup, Error, "super-unusable", "{have}, want {want}", noRepair, 0x000044, 0x000004, 0x00000b)
	superMagic        = row(PassSetup, Error, "super-magic", "no ext4 superblock: s_magic is {have}, want {want}", noRepair, 0x000044, 0x000004)
	superChecksum     = row(PassSetup, Error, "super-checksum", "s_checksum is {have}, want {want}", oneRepair, 0x000044, 0x000004)
	superValue        = row(PassSetup, Error, "super-value", "{have}, want {want}", noRepair, 0x00000b, 0x000004, 0x000007, 0x000044, 0x000045)
	superInodes       = row(PassSetup, Error, "super-inodes-count", "s_inodes_count is {have}, want {want}", oneRepair, 0x00000d, 0x000050, 0x00000b, 0x000004, 0x000044)
	superFirstBlock   = row(PassSetup, Error, "super-first-data-block", "s_first_data_block is {have}, want {want}", oneRepair, 0x000008, 0x000004, 0x000044)
	superSize         = row(PassSetup, Error, "super-size", "s_blocks_count is {have}, and the device ends after {want}", noRepair, 0x000005)
	superMetaBG       = row(PassSetup, Error, "super-first-meta-bg", "s_first_meta_bg is {have}, want {want}", noRepair, 0x000049, 0x000044)
	superMinExtra     = row(PassSetup, Warning, "super-min-extra-isize", "s_min_extra_isize is {have}, want {want}", oneRepair, 0x00004d)
	superWantExtra    = row(PassSetup, Warning, "super-want-extra-isize", "s_want_extra_isize is {have}, want {want}", oneRepair, 0x00004e)
	superTwoChecksums = row(PassSetup, Warning, "super-two-checksums", "the features metadata_csum and uninit_bg are both set: the former supersedes the latter", oneRepair, 0x000046)
	superSeedAlone    = row(PassSetup, Warning, "super-seed-alone", "the feature metadata_csum_seed is set without metadata_csum", oneRepair, 0x00004b)
	superNoExtents    = row(PassSetup, Warning, "super-64bit-alone", "the feature 64bit is set without extent, which reaches the blocks behind 2^32", oneRepair, 0x000048)
	superReserved     = row(PassSetup, Warning, "super-reserved-gdt", "s_reserved_gdt_blocks is {have} without the feature resize_inode, want 0", oneRepair, 0x00002e)
	superResizeMeta   = row(PassSetup, Warning, "super-resize-meta-bg", "the features resize_inode and meta_bg exclude each other", oneRepair, 0x000051)
	superRevision     = row(PassSetup, Note, "super-revision", "revision 0 has no features, and {have} are set", oneRepair, 0x00001a)
	superHurd         = row(PassSetup, Note, "super-hurd-filetype", "the Hurd does not know the feature filetype", oneRepair, 0x00000e)
	superUUID         = row(PassSetup, Note, "super-uuid", "the file system has no UUID", oneRepair, 0x000009)
	superTestFS       = row(PassSetup, Note, "super-test-fs", "s_flags marks a file system for tests", oneRepair, 0x00003b)
	superHashHint     = row(PassSetup, Note, "super-hash-hint", "s_flags does not say whether names were hashed as signed or unsigned characters", oneRepair, 0x000034)
	superMountFuture  = row(PassSetup, Note, "super-mounted-in-future", "s_mtime is {have}, and it is {want} now", oneRepair, 0x000031, 0x00003c)
	superWriteFuture  = row(PassSetup, Note, "super-written-in-future", "s_wtime is {have}, and it is {want} now", oneRepair, 0x000032, 0x00003d)
	superQuotaIno     = row(PassSetup, Error, "super-quota-inode", "{have}, want {want}", oneRepair, 0x00004f)
	superQuotaStray   = row(PassSetup, Warning, "super-quota-inode-alone", "{have}, and the file system has no quota files: want 0", oneRepair, 0x00004f)
	superErrors       = row(PassSetup, Note, "super-errors", "s_state says that errors were found: {have}", noRepair)
	backupSuper       = row(PassSetup, Warning, "backup-super", "the backup superblock differs from the primary: {have}, want {want}", oneRepair)
	backupGroups      = row(PassSetup, Warning, "backup-groups", "the backup of the group descriptors differs: {have}, want {want}", oneRepair)

	groupBlockBitmap = row(PassSetup, Error, "group-block-bitmap-place", "bg_block_bitmap is {have}, want {want}", noRepair,
		0x000001, 0x00000a, 0x000045, 0x010021, 0x050002, 0x050003, 0x050005, 0x050015, 0x050006, 0x05000e, 0x05000f, 0x05001b)
	groupInodeBitmap = row(PassSetup, Error, "group-inode-bitmap-place", "bg_inode_bitmap is {have}, want {want}", noRepair,
		0x000002, 0x00000a, 0x000045, 0x010021, 0x050007, 0x050009, 0x050017, 0x05000a, 0x05000b, 0x05000c, 0x05000d, 0x05001a)
	groupInodeTable  = row(PassSetup, Error, "group-inode-table-place", "bg_inode_table is {have}, want {want}", noRepair, 0x000003, 0x00000a, 0x000045, 0x010021)
	groupOverlap     = row(PassSetup, Error, "groups-overlap", "the descriptors put bitmaps or tables upon each other: {have}", noRepair, 0x000045)
	groupsFromBackup = row(PassSetup, Error, "groups-from-backup", "the primary group descriptors are damaged; those of the backup at block {have} are used", noRepair, 0x000045)
	groupChecksum    = row(PassSetup, Error, "group-checksum", "bg_checksum is {have}, want {want}", oneRepair, 0x000035, 0x00003e)
	groupUninit      = row(PassSetup, Warning, "group-uninit-alone", "bg_flags is {have} with bg_itable_unused {want}, and the file system has no checksums of groups", oneRepair, 0x000036)
	groupUninitLast  = row(PassSetup, Warning, "group-uninit-last", "the block bitmap of the last group is marked uninitialised", oneRepair, 0x000039)
	groupUnused      = row(PassSetup, Error, "group-itable-unused", "bg_itable_unused is {have}, want {want}", oneRepair, 0x000038)
	groupCounts      = row(PassSetup, Error, "group-counts", "{have}, want {want}", oneRepair)

	journalInode      = row(PassSetup, Error, "journal-inode", "the journal's inode is no journal: {have}, want {want}", noRepair, 0x00000f, 0x000015)
	journalSuper      = row(PassSetup, Error, "journal-super", "the journal's superblock is damaged: {have}, want {want}", oneRepair, 0x000015, 0x00000f)
	journalOldFields  = row(PassSetup, Warning, "journal-super-old-fields", "the journal's superblock of version 1 has values that nobody looks at: {have}, want {want}", oneRepair, 0x00002a)
	journalFields     = row(PassSetup, Error, "journal-super-fields", "the journal's superblock has values that its version does not know: {have}, want {want}", oneRepair, 0x00002a)
	journalUsers      = row(PassSetup, Error, "journal-users", "the journal has {have} file systems, want 1", noRepair, 0x000010)
	journalType       = row(PassSetup, Error, "journal-type", "the journal's superblock is of type {have}, want {want}", noRepair, 0x000014, 0x000015, 0x000027)
	journalFeatures   = row(PassSetup, Error, "journal-features", "the journal has features that nobody knows: {have}", noRepair, 0x000026, 0x000025, 0x000027, 0x000015)
	journalUnexpected = row(PassSetup, Warning, "journal-unexpected", "there is a journal, inode {have}, without the feature has_journal", oneRepair, 0x000016)
	journalUUID       = row(PassSetup, Error, "journal-uuid", "s_journal_uuid names an external journal, {have}, and there is none", oneRepair, 0x000011)
	journalRecover    = row(PassSetup, Error, "journal-recover-alone", "the feature needs_recovery is set, and there is no journal", oneRepair, 0x000017)
	journalNotMarked  = row(PassSetup, Warning, "journal-not-marked", "the journal holds transactions, and the feature needs_recovery is not set", noRepair, 0x000018, 0x00002b, 0x000019)
	journalLog        = row(PassSetup, Error, "journal-transaction", "a transaction of the journal is damaged: {have}, want {want}", noRepair, 0x00003a)
	journalUnclean    = row(PassSetup, Note, "journal-unclean", "the journal holds transactions: what they change is not judged", noRepair)
	journalErrno      = row(PassSetup, Note, "journal-errno", "the journal was aborted with errno {have}", oneRepair)
	journalBackup     = row(PassSetup, Note, "journal-backup", "the superblock's copy of the journal's map differs from the inode", oneRepair, 0x00002d)
	journalAbsent     = row(PassSetup, Warning, "journal-absent", "the external journal {have} was not given: it is not checked", noRepair, 0x000011)
	journalExternal   = row(PassSetup, Error, "journal-external", "the external journal is damaged: {have}, want {want}", noRepair, 0x000012, 0x00004a)
	journalForeign    = row(PassSetup, Error, "journal-foreign", "the external journal belongs to another file system: {have}, want {want}", noRepair, 0x000013)

	mmpBlock    = row(PassSetup, Error, "mmp-place", "s_mmp_block is {have}, want {want}", oneRepair, 0x000042)
	mmpMagic    = row(PassSetup, Error, "mmp-magic", "mmp_magic is {have}, want {want}", oneRepair, 0x000043)
	mmpChecksum = row(PassSetup, Error, "mmp-checksum", "mmp_checksum is {have}, want {want}", oneRepair, 0x000047)
	mmpSeq      = row(PassSetup, Error, "mmp-sequence", "mmp_seq is {have}: a check was broken off, and the file system cannot be mounted", oneRepair)
	mmpInUse    = row(PassSetup, Note, "mmp-in-use", "the file system may be mounted by {have}", noRepair)

	resizeMap        = row(PassSetup, Warning, "resize-inode", "the resize inode is not the map of the reserved descriptor blocks: {have}, want {want}", oneRepair, 0x000030)
	resizeUnexpected = row(PassSetup, Warning, "resize-inode-unexpected", "the resize inode has blocks without the feature resize_inode", oneRepair, 0x00002f)

	orphanHead    = row(PassSetup, Error, "orphan-head", "s_last_orphan is {have}, want {want}", oneRepair, 0x000023)
	orphanNext    = row(PassSetup, Error, "orphan-next", "the orphan list goes on with inode {have}, want {want}", noRepair, 0x000024)
	orphanUnused  = row(PassSetup, Error, "orphan-unused", "an inode on the orphan list is not in use", noRepair, 0x000024)
	orphanPending = row(PassSetup, Note, "orphan-pending", "the inode waits to be {have} at the next mount", oneRepair, 0x000020)
	orphanInum    = row(PassSetup, Error, "orphan-file-inode", "s_orphan_file_inum is {have}, want {want}", noRepair)
)

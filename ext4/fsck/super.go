package fsck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"e4go/ext4/disk"
)

// osHurd is s_creator_os of the Hurd, which has other things in some fields.
const osHurd = 1

// The features that the checks know. Others, even those that keep nobody from
// writing, may have structures of their own, which nothing here could judge.
const (
	knownCompat = disk.CompatDirPrealloc | disk.CompatImagicInodes | disk.CompatHasJournal | disk.CompatExtAttr | disk.CompatResizeInode |
		disk.CompatDirIndex | disk.CompatSparseSuper2 | disk.CompatFastCommit | disk.CompatStableInodes | disk.CompatOrphanFile
	knownIncompat = disk.IncompatFiletype | disk.IncompatRecover | disk.IncompatMetaBG | disk.IncompatExtents | disk.Incompat64Bit |
		disk.IncompatMMP | disk.IncompatFlexBG | disk.IncompatEAInode | disk.IncompatCsumSeed | disk.IncompatLargedir |
		disk.IncompatInlineData | disk.IncompatEncrypt | disk.IncompatCasefold
	knownROCompat = disk.ROCompatSparseSuper | disk.ROCompatLargeFile | disk.ROCompatHugeFile | disk.ROCompatGDTCsum | disk.ROCompatDirNlink |
		disk.ROCompatExtraIsize | disk.ROCompatQuota | disk.ROCompatBigalloc | disk.ROCompatMetadataCsum | disk.ROCompatReadonly |
		disk.ROCompatProject | disk.ROCompatSharedBlocks | disk.ROCompatVerity | disk.ROCompatOrphanPresent
)

// setup is all that comes before pass 1.
func (c *checker) setup() error {
	c.begin(PassSetup, 1)
	if err := c.findSuper(); err != nil {
		return err
	}
	if err := c.readGroups(); err != nil {
		return err
	}
	if err := c.checkJournal(); err != nil {
		return err
	}
	c.checkSuper()
	if err := c.checkBackups(); err != nil {
		return err
	}
	c.checkGroups()
	if err := c.makeSets(); err != nil {
		return err
	}
	for _, check := range []func() error{c.checkMMP, c.checkResize, c.findOrphans} {
		if err := check(); err != nil {
			return err
		}
	}
	c.step(1)
	return nil
}

// readSuper reads the superblock at byte at of the device. ok is false if
// the device is shorter.
func (c *checker) readSuper(at int64) (raw []byte, ok bool, err error) {
	raw = make([]byte, disk.SuperblockSize)
	switch err := c.readAt(at, raw); {
	case errors.Is(err, errBeyond):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("superblock: %w", err)
	}
	return raw, true, nil
}

// useSuper makes the superblock in raw, from byte at, the one in use.
func (c *checker) useSuper(raw []byte, at int64) {
	c.superRaw, c.superAt = raw, at
	c.sb = disk.DecodeSuperblock(raw)
	if !c.sb.ROCompat.Has(disk.ROCompatBigalloc) {
		c.sb.ClustersPerGroup = c.sb.BlocksPerGroup // without clusters nobody reads it
	}
	c.seed = c.sb.Seed()
	c.bs, c.bits, c.cbits = c.sb.BlockSize(), c.sb.BlockBits(), c.sb.ClusterBits()
	c.blocks = min(c.sb.Blocks, uint64(c.dev.Size())>>c.bits)
}

// findSuper takes the superblock that the options ask for, or the primary, or
// a backup.
func (c *checker) findSuper() error {
	at := c.opts.Superblock
	if at == 0 {
		at = disk.SuperblockOffset
	}
	raw, ok, err := c.readSuper(at)
	if err != nil {
		return err
	}
	if !ok {
		if at != disk.SuperblockOffset {
			return fmt.Errorf("superblock at byte %d: the device ends at byte %d", at, c.dev.Size())
		}
		c.superProblem(superMagic, at, 0, fmt.Sprintf("a device of %d bytes", c.dev.Size()), "more")
		return &NoFilesystemError{}
	}
	bad := disk.CheckSuperblock(raw, at)
	if bad != nil {
		c.superError(bad, at)
		if c.opts.Superblock == 0 {
			found, err := c.findBackup(0)
			if err != nil || found {
				return err
			}
		}
		if corrupt, _ := bad.(*disk.CorruptError); corrupt.Field != "s_checksum" || !sumAlone(raw, at) {
			return c.noSuper(raw, bad)
		}
	}
	c.useSuper(raw, at)
	return c.checkFeatures()
}

// sumAlone reports whether the superblock in raw would do with another checksum.
func sumAlone(raw []byte, at int64) bool {
	fixed := bytes.Clone(raw)
	sb := disk.DecodeSuperblock(fixed)
	sb.Checksum = disk.SuperblockChecksum(fixed)
	sb.Put(fixed)
	return disk.CheckSuperblock(fixed, at) == nil
}

// findBackup takes the first backup in use that is one, other than that of the
// primary's group; if the primary can be read, it says where backups are.
func (c *checker) findBackup(after int64) (found bool, err error) {
	places := disk.BackupOffsets(c.dev.Size())
	if c.groups != nil { // the primary can be read
		var own []int64
		for g := disk.Group(1); uint64(g) < uint64(len(c.groups)) && len(own) < 3; g++ {
			if c.sb.HasSuper(g) {
				own = append(own, int64(c.sb.FirstBlock(g))<<c.bits)
			}
		}
		places = append(own, places...)
	}
	for _, at := range places {
		if at <= after {
			continue
		}
		raw, ok, err := c.readSuper(at)
		if err != nil {
			return false, err
		}
		if !ok || disk.CheckSuperblock(raw, at) != nil {
			continue
		}
		if sb := disk.DecodeSuperblock(raw); sb.IsBackupAt(at) {
			c.useSuper(raw, at)
			return true, c.checkFeatures()
		}
	}
	return false, nil
}

// superProblem reports a problem of the superblock at byte at; off is the
// field's place in it.
func (c *checker) superProblem(k *Kind, at int64, off int, have, want string) {
	bs := int64(c.bs)
	if bs == 0 {
		bs = 1024
	}
	at += int64(off)
	c.rep.add(k, Problem{Have: have, Want: want, Place: Place{Block: disk.PBlock(at / bs), Off: int(at % bs), OnBlock: true}})
}

// superError reports why the superblock at byte at cannot be used.
func (c *checker) superError(err error, at int64) {
	e, ok := err.(*disk.CorruptError)
	if !ok {
		panic("fsck: CheckSuperblock: " + err.Error())
	}
	k, have := superUnusable, e.Field+" is "+e.Have
	for field, of := range map[string]*Kind{
		"s_magic": superMagic, "s_checksum": superChecksum, "s_inodes_count": superInodes,
		"s_first_data_block": superFirstBlock, "s_first_meta_bg": superMetaBG,
	} {
		if e.Field == field {
			k, have = of, e.Have
		}
	}
	c.rep.add(k, Problem{Have: have, Want: e.Want, Place: Place{Block: e.Block, Off: e.Off, OnBlock: true}})
}

// noSuper is the error of a device without any superblock that can be used.
func (c *checker) noSuper(raw []byte, bad error) error {
	if disk.DecodeSuperblock(raw).Magic == disk.SuperMagic {
		return fmt.Errorf("no superblock can be used, the primary not and no backup: %w", bad)
	}
	looks, err := c.looksLike()
	if err != nil {
		return err
	}
	return &NoFilesystemError{Looks: looks}
}

// looksLike names what is on the device, or "", by the magic numbers of what is
// often taken for ext4.
func (c *checker) looksLike() (string, error) {
	head := make([]byte, min(68<<10, c.dev.Size()))
	if err := c.readAt(0, head); err != nil && !errors.Is(err, errBeyond) && err != io.EOF {
		return "", err
	}
	for _, m := range []struct {
		at          int
		magic, what string
	}{
		{0, "XFSB", "an XFS file system"},
		{0x10040, "_BHRfS_M", "a btrfs file system"},
		{4086, "SWAPSPACE2", "swap space"},
		{4086, "SWAP-SPACE", "swap space"},
		{0, "LUKS\xba\xbe", "a LUKS container"},
		{1024, "\x10\x20\xf5\xf2", "an F2FS file system"},
		{0, "hsqs", "a squashfs image"},
		{3, "NTFS    ", "an NTFS file system"},
		{0x36, "FAT", "a FAT file system"},
		{0x52, "FAT32", "a FAT file system"},
		{512, "EFI PART", "a disk with a partition table: give the partition's start with --offset"},
		{0x218, "LVM2", "an LVM physical volume"},
		{0x200, "LABELONE", "an LVM physical volume"},
		{0x8001, "CD001", "an ISO 9660 image"},
		{0, "\x1f\x8b", "a file compressed by gzip"},
		{0, "\xfd7zXZ", "a file compressed by xz"},
		{0, "\x28\xb5\x2f\xfd", "a file compressed by zstd"},
		{0, "QFI\xfb", "a qcow2 image"},
	} {
		if len(head) >= m.at+len(m.magic) && string(head[m.at:m.at+len(m.magic)]) == m.magic {
			return m.what, nil
		}
	}
	if len(head) >= 512 && binary.LittleEndian.Uint16(head[510:]) == 0xaa55 {
		return "a disk with a partition table: give the partition's start with --offset", nil
	}
	return "", nil
}

func (c *checker) checkFeatures() error {
	if c.sb.Incompat.Has(disk.IncompatJournalDev) {
		return &UnsupportedError{What: "this is an external journal, not a file system: give it with the file system it belongs to"}
	}
	unknown := append((c.sb.Incompat &^ knownIncompat).Names(), (c.sb.ROCompat &^ knownROCompat).Names()...)
	if unknown = append(unknown, (c.sb.Compat &^ knownCompat).Names()...); len(unknown) > 0 {
		return &UnsupportedError{What: "features " + strings.Join(unknown, ", ")}
	}
	if c.sb.Incompat.Has(disk.IncompatCasefold) && c.sb.Encoding != disk.EncodingUTF8 {
		return &UnsupportedError{What: fmt.Sprintf("names in encoding %d", c.sb.Encoding)}
	}
	if c.sb.RevLevel > 1 {
		c.superProblem(superValue, c.superAt, 0x4c, fmt.Sprintf("s_rev_level is %d", c.sb.RevLevel), "0 or 1")
		return &UnsupportedError{What: fmt.Sprintf("revision %d of the format", c.sb.RevLevel)}
	}
	return nil
}

// checkSuper judges values that the rest does not rest upon.
func (c *checker) checkSuper() {
	sb := &c.sb
	value := func(off int, field string, v, least, most uint64) {
		if v < least || v > most {
			c.superProblem(superValue, c.superAt, off, fmt.Sprintf("%s is %d", field, v), fmt.Sprintf("%d to %d", least, most))
		}
	}
	perBlock := uint64(sb.InodesPerBlock())
	bitmap := uint64(8 * c.bs)
	clusters := disk.DecodeSuperblock(c.superRaw).ClustersPerGroup
	value(0x20, "s_blocks_per_group", uint64(sb.BlocksPerGroup), 8, bitmap<<c.cbits)
	if uint64(clusters)<<c.cbits != uint64(sb.BlocksPerGroup) {
		c.superProblem(superValue, c.superAt, 0x24, fmt.Sprintf("s_clusters_per_group is %d", clusters),
			fmt.Sprintf("%d, as many as s_blocks_per_group", sb.BlocksPerGroup>>c.cbits))
	}
	if sb.BlocksPerGroup > 4 {
		value(0x28, "s_inodes_per_group", uint64(sb.InodesPerGroup), perBlock, min(perBlock*uint64(sb.BlocksPerGroup-4), 1<<16-perBlock, bitmap))
	}
	value(0x08, "s_r_blocks_count", sb.ReservedBlocks, 0, sb.Blocks/2)
	if size := uint64(sb.DescSize); size&(size-1) != 0 || size > uint64(c.bs) {
		c.superProblem(superValue, c.superAt, 0xfe, fmt.Sprintf("s_desc_size is %d", size), "a power of two up to the block size")
	}
	value(0xce, "s_reserved_gdt_blocks", uint64(sb.ReservedGDT), 0, uint64(c.bs/4))
	if sb.RevLevel > 0 {
		value(0x54, "s_first_ino", uint64(sb.FirstIno), uint64(disk.GoodOldFirstIno), uint64(sb.Inodes))
	}
	if want := uint32(1); c.cbits > 0 || c.bs > 1024 {
		want = 0
		if sb.FirstDataBlock != want {
			c.superProblem(superFirstBlock, c.superAt, 0x14, dec(sb.FirstDataBlock), dec(want))
		}
	}
	if have := uint64(c.dev.Size()) >> c.bits; sb.Blocks > have {
		c.superProblem(superSize, c.superAt, 0x04, dec(sb.Blocks), fmt.Sprintf("%d blocks", have))
	}
	c.checkExtraSizes()
	c.checkSuperFeatures()
	c.checkSuperState()
}

func (c *checker) checkExtraSizes() {
	if c.sb.InodeSize == disk.GoodOldInodeSize {
		return
	}
	most := int(c.sb.InodeSize) - disk.GoodOldInodeSize
	for _, f := range []struct {
		k    *Kind
		off  int
		have uint16
	}{{superMinExtra, 0x15c, c.sb.MinExtraIsize}, {superWantExtra, 0x15e, c.sb.WantExtraIsize}} {
		if !extraSizeOK(int(f.have), most) {
			c.superProblem(f.k, c.superAt, f.off, dec(f.have), fmt.Sprintf("a multiple of 4 up to %d", most))
		}
	}
}

// extraSizeOK reports whether size is a legal i_extra_isize where most bytes are behind the first 128.
func extraSizeOK(size, most int) bool {
	return size == 0 || size >= 4 && size <= most && size%4 == 0
}

func (c *checker) checkSuperFeatures() {
	sb := &c.sb
	for _, r := range []struct {
		k      *Kind
		off    int
		broken bool
	}{
		{superTwoChecksums, 0x64, sb.MetadataCsum() && sb.ROCompat.Has(disk.ROCompatGDTCsum)},
		{superSeedAlone, 0x60, !sb.MetadataCsum() && sb.Incompat.Has(disk.IncompatCsumSeed)},
		{superNoExtents, 0x60, sb.Incompat.Has(disk.Incompat64Bit) && !sb.Incompat.Has(disk.IncompatExtents)},
		{superResizeMeta, 0x5c, sb.Compat.Has(disk.CompatResizeInode) && sb.Incompat.Has(disk.IncompatMetaBG)},
		{superHurd, 0x60, sb.CreatorOS == osHurd && sb.Incompat.Has(disk.IncompatFiletype)},
		{superUUID, 0x68, sb.UUID == [16]byte{} && !sb.MetadataCsum()},
		{superTestFS, 0x160, sb.Flags&disk.SuperTestFS != 0},
		{superHashHint, 0x160, sb.Compat.Has(disk.CompatDirIndex) && sb.Flags&(disk.SuperSignedHash|disk.SuperUnsignedHash) == 0},
	} {
		if r.broken {
			c.superProblem(r.k, c.superAt, r.off, "", "")
		}
	}
	if sb.RevLevel == 0 && (sb.Compat != 0 || sb.Incompat != 0 || sb.ROCompat != 0) {
		names := append(append(sb.Compat.Names(), sb.Incompat.Names()...), sb.ROCompat.Names()...)
		c.superProblem(superRevision, c.superAt, 0x4c, strings.Join(names, " "), "")
	}
	if sb.ReservedGDT != 0 && !sb.Compat.Has(disk.CompatResizeInode) {
		c.superProblem(superReserved, c.superAt, 0xce, dec(sb.ReservedGDT), "0")
	}
	c.checkQuotaInodes()
}

// checkQuotaInodes judges the numbers of the quota inodes (e2fsck_validate_quota_inodes).
func (c *checker) checkQuotaInodes() {
	k := superQuotaIno
	if !c.sb.ROCompat.Has(disk.ROCompatQuota) {
		k = superQuotaStray
	}
	reserved := [...]disk.Ino{disk.UsrQuotaIno, disk.GrpQuotaIno}
	seen := map[disk.Ino]bool{}
	for q, f := range []struct {
		name string
		off  int
	}{{"s_usr_quota_inum", 0x240}, {"s_grp_quota_inum", 0x244}, {"s_prj_quota_inum", 0x26c}} {
		ino := c.sb.QuotaIno(disk.QuotaType(q))
		want := "0 or a number of its own, of an inode for files"
		if q < len(reserved) {
			want = fmt.Sprintf("0 or %d, or of an inode for files", reserved[q])
		}
		switch {
		case ino == 0, q < len(reserved) && ino == reserved[q]:
		case ino >= c.sb.FirstIno && c.sb.ValidIno(ino) && !seen[ino]:
		default:
			c.superProblem(k, c.superAt, f.off, fmt.Sprintf("%s is %d", f.name, ino), want)
		}
		seen[ino] = true
	}
}

// now is the time that the superblock's times are compared with.
var now = time.Now

func (c *checker) checkSuperState() {
	sb, day := &c.sb, func(t int64) string { return time.Unix(t, 0).UTC().Format("2006-01-02 15:04:05 +0000") }
	today := now().Unix()
	if sb.Mtime > today {
		c.superProblem(superMountFuture, c.superAt, 0x2c, day(sb.Mtime), day(today))
	}
	if sb.Wtime > today {
		c.superProblem(superWriteFuture, c.superAt, 0x30, day(sb.Wtime), day(today))
	}
	if sb.State&disk.StateError != 0 {
		have := fmt.Sprintf("%d, the last in %s, line %d, of inode %d", sb.ErrorCount, sb.LastError.Func, sb.LastError.Line, sb.LastError.Ino)
		c.superProblem(superErrors, c.superAt, 0x3a, have, "")
	}
}

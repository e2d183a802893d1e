package mkfs

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"e4go/ext4/disk"
)

// Params is what [Options] come to for a size: a superblock whose counts and
// times are not yet right, and what mke2fs keeps beside it.
type Params struct {
	sb       disk.Superblock
	asked    Features // by -O itself, not by the type
	size     int64    // bytes asked for
	journal  journalSize
	quota    []quotaType
	orphan   uint32 // blocks of the orphan file
	itable   uint32 // blocks of an inode table
	desc     uint64 // blocks of descriptors
	hashSeed *UUID
	uuid     *UUID
	o        Options
}

// maxUint32 counts that have to fit 32 bits.
const max32 = math.MaxUint32

// usageBySize is the usage type that mke2fs takes for a size in KiB.
func usageBySize(kib uint64) string {
	const mib = 1024
	switch {
	case kib < 3*mib:
		return "floppy"
	case kib < 512*mib:
		return "small"
	case kib < 4*1024*1024*mib:
		return "default"
	case kib < 16*1024*1024*mib:
		return "big"
	}
	return "huge"
}

// profileOf joins the profiles of the usage types: the last that says
// something is heard.
func (o *Options) profileOf(size int64) (profile, error) {
	p := profile{blockSize: defaultBlockSize, inodeSize: defaultInodeSize, inodeRatio: defaultInodeRatio}
	names := o.Usage
	if len(names) == 0 {
		// mke2fs counts blocks of 1 KiB here, or those of -b as if they were.
		names = []string{usageBySize(uint64(size) >> 10)}
	}
	if o.hurd() {
		names = append(slices.Clone(names), "hurd")
	}
	for _, name := range names {
		q, ok := profiles[name]
		if !ok {
			return p, usage("it is one of "+strings.Join(UsageNames(), ", "), "there is no usage type %s", name)
		}
		if q.blockSize != 0 {
			p.blockSize = q.blockSize
		}
		if q.inodeSize != 0 {
			p.inodeSize = q.inodeSize
		}
		if q.inodeRatio != 0 {
			p.inodeRatio = q.inodeRatio
		}
	}
	return p, nil
}

func (o *Options) hurd() bool { return osNumbers[strings.ToLower(o.CreatorOS)] == osHurd }

// Resolve decides what file system of size bytes the options ask for. It
// fails with a [*UsageError] or an [*UnknownFeatureError].
func Resolve(size int64, o Options) (*Params, error) {
	p := &Params{o: o, size: size, hashSeed: o.HashSeed, uuid: o.UUID}
	prof, err := o.profileOf(size)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(profile) error{p.names, p.features, p.blocks, p.inodes, p.extended, p.groups, p.planJournal, p.planOrphanFile} {
		if err := step(prof); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// names takes the texts and numbers that nothing depends on.
func (p *Params) names(profile) error {
	o, sb := &p.o, &p.sb
	sb.Magic, sb.State, sb.RevLevel = disk.SuperMagic, disk.StateValid, 1
	if o.Revision != nil {
		if sb.RevLevel = *o.Revision; sb.RevLevel > 1 {
			return usage("", "revision %d: there are 0 and 1", sb.RevLevel)
		}
	}
	if len(o.Label) > 16 {
		return usage("shorten it", "the label %q has %d bytes, at most 16 fit", o.Label, len(o.Label))
	}
	if len(o.LastMounted) > 64 {
		return usage("shorten it", "the last mounted directory has %d bytes, at most 64 fit", len(o.LastMounted))
	}
	sb.Label, sb.LastMounted = o.Label, o.LastMounted
	var ok bool
	if sb.Errors, ok = errorsNumbers[o.Errors]; !ok {
		return usage("it is continue, remount-ro or panic", "there is no error behaviour %s", o.Errors)
	}
	if o.CreatorOS != "" {
		if sb.CreatorOS, ok = osNumbers[strings.ToLower(o.CreatorOS)]; !ok {
			n, err := strconv.ParseUint(o.CreatorOS, 10, 32)
			if err != nil {
				return usage("it is linux, hurd, freebsd, lites or a number", "there is no creator OS %s", o.CreatorOS)
			}
			sb.CreatorOS = uint32(n)
		}
	}
	hash, ok := hashNumbers[o.HashAlgorithm]
	if !ok {
		return usage("it is legacy, half_md4 or tea", "there is no hash algorithm %s", o.HashAlgorithm)
	}
	sb.DefHashVersion = uint8(hash)
	sb.Flags = disk.SuperSignedHash
	if o.TestFS {
		sb.Flags |= disk.SuperTestFS
	}
	sb.MaxMountCount = -1
	if t := o.Time.Unix(); !o.Time.IsZero() && (t < 0 || t >= 1<<40) {
		return usage("", "the time %s cannot be stored in a superblock", o.Time)
	}
	return nil
}

// features decides on the features.
func (p *Params) features(profile) error {
	o := &p.o
	if o.Type == "" {
		o.Type = "ext4"
	}
	byType, ok := typeFeatures[o.Type]
	if !ok {
		return usage("it is ext2, ext3 or ext4", "there is no file system type %s", o.Type)
	}
	var f Features
	if p.sb.RevLevel > 0 {
		f = baseFeatures
		f.Compat |= byType.Compat
		f.Incompat |= byType.Incompat
		f.ROCompat |= byType.ROCompat
		p.sb.DefaultMountOpts = mountACL | mountXattrUser
	}
	if o.MountOptions != nil {
		p.sb.DefaultMountOpts = 0
		for _, name := range o.MountOptions {
			bit, ok := mountOptionBits[name]
			if !ok {
				return usage("", "there is no default mount option %s", name)
			}
			p.sb.DefaultMountOpts |= bit
		}
	}
	hurdHasNot := Features{
		Incompat: disk.IncompatFiletype | disk.IncompatEAInode | disk.IncompatCasefold,
		ROCompat: disk.ROCompatHugeFile | disk.ROCompatMetadataCsum,
	}
	if o.hurd() {
		f.Incompat &^= hurdHasNot.Incompat
		f.ROCompat &^= hurdHasNot.ROCompat
	}
	if err := f.edit(o.Features); err != nil {
		return err
	}
	if err := p.asked.edit(o.Features); err != nil {
		return err
	}
	if x := (Features{Incompat: f.Incompat & hurdHasNot.Incompat, ROCompat: f.ROCompat & hurdHasNot.ROCompat}); o.hurd() && len(x.Names()) > 0 {
		return usage("", "the Hurd knows no %s", strings.Join(x.Names(), ", "))
	}
	if o.JournalMiB > 0 {
		f.Compat |= disk.CompatHasJournal
	}
	if o.Encoding != "" {
		f.Incompat |= disk.IncompatCasefold
	}
	if err := p.quotaTypes(&f); err != nil {
		return err
	}
	// What comes with the type goes with what it needs.
	if !f.Compat.Has(disk.CompatHasJournal) && !p.asked.Compat.Has(disk.CompatOrphanFile) {
		f.Compat &^= disk.CompatOrphanFile
	}
	if !f.ROCompat.Has(disk.ROCompatMetadataCsum) && !p.asked.Incompat.Has(disk.IncompatCsumSeed) {
		f.Incompat &^= disk.IncompatCsumSeed
	}
	if f.ROCompat.Has(disk.ROCompatMetadataCsum) {
		f.ROCompat &^= disk.ROCompatGDTCsum
	}
	if p.sb.RevLevel == 0 && len(f.Names()) > 0 {
		return usage("use revision 1", "revision 0 has no features, not %s", strings.Join(f.Names(), ", "))
	}
	if err := f.check(); err != nil {
		return err
	}
	p.sb.Compat, p.sb.Incompat, p.sb.ROCompat = f.Compat, f.Incompat, f.ROCompat
	if f.ROCompat.Has(disk.ROCompatMetadataCsum) {
		p.sb.ChecksumType = 1
	}
	if f.ROCompat&(disk.ROCompatHugeFile|disk.ROCompatGDTCsum|disk.ROCompatDirNlink|disk.ROCompatMetadataCsum|disk.ROCompatExtraIsize) != 0 ||
		f.Incompat.Has(disk.IncompatFlexBG) {
		p.sb.KBytesWritten = 1
	}
	if f.Incompat.Has(disk.IncompatEncrypt) {
		p.sb.EncryptAlgos = [4]uint8{1, 4} // AES-256-XTS for contents, AES-256-CTS for names
	}
	if f.Incompat.Has(disk.IncompatCasefold) {
		return p.encoding()
	}
	if len(o.EncodingFlags) > 0 {
		return usage("add -E encoding=utf8", "encoding flags without an encoding")
	}
	return nil
}

func (p *Params) encoding() error {
	switch p.o.Encoding {
	case "", "utf8", "utf8-12.1":
		p.sb.Encoding = disk.EncodingUTF8
	default:
		return usage("it is utf8 or utf8-12.1", "there is no encoding %s", p.o.Encoding)
	}
	for _, name := range p.o.EncodingFlags {
		switch name {
		case "strict":
			p.sb.EncodingFlags |= disk.EncodingStrict
		case "nostrict":
			p.sb.EncodingFlags &^= disk.EncodingStrict
		case "no_compat_fallback":
			p.sb.EncodingFlags |= disk.EncodingNoFallback
		default:
			return usage("it is strict, nostrict or no_compat_fallback", "there is no encoding flag %s", name)
		}
	}
	return nil
}

// blocks decides on the sizes of blocks and clusters, and counts blocks.
func (p *Params) blocks(prof profile) error {
	o, sb := &p.o, &p.sb
	bs := o.BlockSize
	if bs == 0 {
		bs = max(prof.blockSize, o.LeastBlockSize)
	}
	if bs < 1<<disk.MinBlockLog || bs > 1<<disk.MaxBlockLog || bits.OnesCount(uint(bs)) != 1 {
		return usage("", "the block size is %d, want a power of two from 1024 to 65536", bs)
	}
	sb.LogBlockSize = uint32(bits.TrailingZeros(uint(bs))) - disk.MinBlockLog
	sb.LogClusterSize = sb.LogBlockSize
	bigalloc := sb.ROCompat.Has(disk.ROCompatBigalloc)
	switch {
	case bigalloc:
		cs := o.ClusterSize
		if cs == 0 {
			cs = 16 * int64(bs)
		}
		if cs < int64(bs) || cs > 1<<(disk.MaxClusterLog-1) || bits.OnesCount64(uint64(cs)) != 1 {
			return usage("", "the cluster size is %d, want a power of two from the block size, %d, to %d", cs, bs, 1<<(disk.MaxClusterLog-1))
		}
		if cs == 1024 {
			return usage("use -O ^bigalloc", "clusters of 1024 bytes are blocks")
		}
		sb.LogClusterSize = uint32(bits.TrailingZeros64(uint64(cs))) - disk.MinBlockLog
	case o.ClusterSize != 0:
		return usage("add -O bigalloc", "a cluster size wants feature bigalloc")
	}
	blocks := uint64(p.size) / uint64(bs)
	if blocks == 0 {
		return usage("", "%d bytes are no block of %d", p.size, bs)
	}
	if blocks > max32 {
		if !sb.Incompat.Has(disk.Incompat64Bit) {
			return usage("add -O 64bit, or use larger blocks", "%d blocks of %d bytes cannot be numbered in 32 bits", blocks, bs)
		}
		if p.asked.Compat.Has(disk.CompatResizeInode) {
			return usage("leave it out", "feature resize_inode can only be used below 2^32 blocks")
		}
		sb.Compat &^= disk.CompatResizeInode
	}
	if blocks > 1<<48 {
		return usage("use larger blocks", "%d blocks of %d bytes are more than 2^48", blocks, bs)
	}
	sb.Blocks = blocks
	percent := defaultReserved
	if o.Reserved != nil {
		percent = *o.Reserved
	}
	if !(percent >= 0 && percent <= 50) {
		return usage("", "%g percent reserved: want 0 to 50", percent)
	}
	sb.ReservedBlocks = uint64(percent * float64(blocks) / 100)
	return nil
}

// inodes decides on the size and number of inodes.
func (p *Params) inodes(prof profile) error {
	o, sb := &p.o, &p.sb
	size := o.InodeSize
	if size == 0 {
		size = prof.inodeSize
		if sb.ROCompat.Has(disk.ROCompatProject) {
			size = max(size, 2*disk.GoodOldInodeSize)
		}
	}
	sb.FirstIno = disk.GoodOldFirstIno
	if sb.RevLevel == 0 {
		if o.InodeSize != 0 && o.InodeSize != disk.GoodOldInodeSize {
			return usage("leave -I out", "inodes of revision 0 have 128 bytes, not %d", o.InodeSize)
		}
		size = disk.GoodOldInodeSize
	}
	if size < disk.GoodOldInodeSize || size > sb.BlockSize() || bits.OnesCount(uint(size)) != 1 {
		return usage("", "the inode size is %d, want a power of two from 128 to the block size, %d", size, sb.BlockSize())
	}
	sb.InodeSize = uint16(size)
	if size > disk.GoodOldInodeSize {
		sb.MinExtraIsize, sb.WantExtraIsize = extraIsize, extraIsize
	} else {
		for _, f := range []string{"project", "inline_data"} {
			if p.features3().has(f) {
				return usage("use -I 256 or leave the feature out", "inodes of 128 bytes are too small for feature %s", f)
			}
		}
	}
	ratio := o.InodeRatio
	if ratio == 0 {
		ratio = max(prof.inodeRatio, int64(sb.BlockSize()), 1<<(sb.LogClusterSize+disk.MinBlockLog))
	} else if ratio < 1024 || ratio > 65536*1024 {
		return usage("", "an inode for each %d bytes: want 1024 to 67108864", ratio)
	}
	n := o.Inodes
	if n == 0 {
		hi, lo := bits.Mul64(sb.Blocks, uint64(sb.BlockSize()))
		n, _ = bits.Div64(hi, lo, uint64(ratio)) // hi < ratio: there are at most 2^64 bytes
		if n > max32 {
			if !sb.Incompat.Has(disk.Incompat64Bit) {
				return usage("raise -i", "%d inodes are more than 2^32", n)
			}
			n = max32
		}
	} else if n > max32 {
		return usage("", "%d inodes are more than 2^32-1", n)
	}
	sb.Inodes = uint32(n)
	if n*uint64(size) >= sb.Blocks*uint64(sb.BlockSize()) && sb.Blocks < 1<<47 {
		return usage("raise -i or lower -N", "%d inodes of %d bytes leave no room in %d blocks", n, size, sb.Blocks)
	}
	return nil
}

// extraIsize is the size of struct ext4_inode behind the first 128 bytes.
const extraIsize = 32

// features3 is what the superblock has.
func (p *Params) features3() Features { return Features{p.sb.Compat, p.sb.Incompat, p.sb.ROCompat} }

// extended takes the options of -E.
func (p *Params) extended(profile) error {
	o, sb := &p.o, &p.sb
	if o.Stride > math.MaxUint16 {
		return usage("", "the stride is %d blocks, want at most 65535", o.Stride)
	}
	sb.RAIDStride, sb.RAIDStripeWidth = uint16(o.Stride), o.StripeWidth
	sb.MMPInterval = o.MMPInterval
	if sb.Incompat.Has(disk.IncompatMMP) {
		if sb.MMPInterval == 0 {
			sb.MMPInterval = mmpInterval
		} else if sb.MMPInterval > mmpMaxInterval {
			return usage("", "the MMP interval is %d seconds, want at most %d", sb.MMPInterval, mmpMaxInterval)
		}
	}
	if sb.Incompat.Has(disk.Incompat64Bit) {
		sb.DescSize = disk.GroupDescSize64
	}
	if o.DescSize != 0 {
		switch {
		case !sb.Incompat.Has(disk.Incompat64Bit):
			return usage("add -O 64bit", "a descriptor size wants feature 64bit")
		case o.DescSize < disk.GroupDescSize64 || o.DescSize > 1024 || bits.OnesCount(uint(o.DescSize)) != 1:
			return usage("", "the descriptor size is %d, want a power of two from 64 to 1024", o.DescSize)
		}
		sb.DescSize = uint16(o.DescSize)
	}
	if sb.Compat.Has(disk.CompatSparseSuper2) {
		n := 2
		if o.BackupSupers != nil {
			n = *o.BackupSupers
		}
		if n < 0 || n > 2 {
			return usage("", "%d backup superblocks: want 0 to 2", n)
		}
		if n >= 1 {
			sb.BackupGroups[0] = 1
		}
		if n >= 2 {
			sb.BackupGroups[1] = math.MaxUint32 // the last
		}
	} else if o.BackupSupers != nil {
		return usage("add -O sparse_super2", "a number of backup superblocks wants feature sparse_super2")
	}
	if sb.Compat.Has(disk.CompatResizeInode) && !sb.ROCompat.Has(disk.ROCompatSparseSuper) {
		return usage("add -O ^resize_inode", "feature resize_inode needs sparse_super")
	}
	flex := o.FlexGroups
	if !sb.Incompat.Has(disk.IncompatFlexBG) {
		if flex != 0 {
			return usage("add -O flex_bg", "a number of groups whose metadata lie together wants feature flex_bg")
		}
		if o.PackedMeta {
			return usage("add -O flex_bg", "packed_meta_blocks wants feature flex_bg")
		}
		return nil
	}
	if flex == 0 {
		flex = defaultFlexGroups
	}
	if bits.OnesCount32(flex) != 1 {
		return usage("", "%d groups lie together: want a power of two", flex)
	}
	sb.LogGroupsPerFlex = uint8(bits.TrailingZeros32(flex))
	return nil
}

// groups divides the blocks into groups, and the inodes among them, until
// both fit (ext2fs_initialize).
func (p *Params) groups(profile) error {
	sb := &p.sb
	if err := p.groupSize(); err != nil {
		return err
	}
	if sb.LogClusterSize == 0 {
		sb.FirstDataBlock = 1
	}
	asked, askedReserved := sb.Blocks&^(1<<sb.ClusterBits()-1), sb.ReservedBlocks
	sb.Blocks = asked
	if asked <= uint64(sb.FirstDataBlock) {
		return p.tooSmall()
	}
	sb.Inodes = max(sb.Inodes, uint32(sb.FirstIno)+1)
	inodes := sb.Inodes
	for {
		groups := sb.Groups()
		if groups >= max32 {
			return usage("use larger blocks or clusters", "%d blocks are %d groups, 2^32 and more", sb.Blocks, groups)
		}
		per := (uint64(inodes) + groups - 1) / groups
		if per > uint64(8*sb.BlockSize()) {
			if sb.ROCompat.Has(disk.ROCompatBigalloc) || sb.BlocksPerGroup < 256 {
				return usage("raise -i or lower -N", "%d inodes do not fit into %d groups", inodes, groups)
			}
			sb.BlocksPerGroup -= 8
			sb.ClustersPerGroup = sb.BlocksPerGroup
			sb.Blocks = asked
			continue
		}
		if err := p.inodesPerGroup(min(per, 65536-uint64(sb.InodesPerBlock()))); err != nil {
			return err
		}
		p.desc = sb.DescBlocks()
		if err := p.reserveGDT(); err != nil {
			return err
		}
		done, err := p.lastGroup(asked, askedReserved)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	sb.FreeInodes = sb.Inodes
	if sb.Compat.Has(disk.CompatSparseSuper2) {
		p.backupGroups()
	}
	return nil
}

func (p *Params) groupSize() error {
	sb := &p.sb
	const maxClusters = 65528 // EXT2_MAX_CLUSTERS_PER_GROUP
	n := p.o.BlocksPerGroup
	if n != 0 && (n < 256 || n > uint32(8*sb.BlockSize()) || n%8 != 0) {
		return usage("", "%d blocks in a group: want a multiple of 8 from 256 to %d", n, 8*sb.BlockSize())
	}
	if n == 0 {
		n = uint32(8 * sb.BlockSize())
		if sb.ROCompat.Has(disk.ROCompatBigalloc) && sb.LogClusterSize+15 >= 32 {
			n = uint32(8 * (sb.BlockSize() - 1))
		}
	}
	n = min(n, maxClusters)
	blocks := uint64(n) << sb.ClusterBits()
	if blocks > max32 {
		return usage("use smaller clusters, or -g", "%d clusters of %d blocks in a group are more than 2^32 blocks", n, 1<<sb.ClusterBits())
	}
	sb.ClustersPerGroup, sb.BlocksPerGroup = n, uint32(blocks)
	return nil
}

// inodesPerGroup rounds the number of inodes in a group so that they fill
// their table and their bitmap has whole bytes.
func (p *Params) inodesPerGroup(per uint64) error {
	sb := &p.sb
	bs, size := uint64(sb.BlockSize()), uint64(sb.InodeSize)
	for {
		n := (per*size + bs - 1) / bs * bs / size
		n = max(n, 8) &^ 7
		if n*sb.Groups() > max32 {
			if per--; per == 0 {
				return usage("use larger blocks or clusters", "%d groups have no 2^32 inodes to share", sb.Groups())
			}
			continue
		}
		sb.InodesPerGroup = uint32(n)
		sb.Inodes = uint32(n * sb.Groups())
		p.itable = sb.ItableBlocks()
		return nil
	}
}

// reserveGDT decides how many descriptor blocks are kept for growing: enough
// for 1024 times the size, or for what was asked for.
func (p *Params) reserveGDT() error {
	sb := &p.sb
	sb.ReservedGDT = 0
	perBlock := uint64(sb.DescPerBlock())
	pointers := uint64(sb.BlockSize() / 4)
	reserve := func(blocks uint64) uint64 {
		groups := (blocks + uint64(sb.BlocksPerGroup) - 1) / uint64(sb.BlocksPerGroup)
		n := (groups + perBlock - 1) / perBlock
		return min(max(n, p.desc)-p.desc, pointers)
	}
	grown := p.o.Resize
	if grown == 0 {
		grown = p.o.ResizeBytes >> sb.BlockBits()
	}
	switch {
	case grown != 0 || p.o.ResizeBytes != 0:
		if sb.RevLevel == 0 {
			return usage("use revision 1", "file systems of revision 0 cannot be made to grow")
		}
		if grown <= uint64(p.size)/uint64(sb.BlockSize()) {
			return usage("name a larger size", "it is to grow to %d blocks, which is no more than it has", grown)
		}
		if n := reserve(grown); n > 0 {
			sb.Compat |= disk.CompatResizeInode
			sb.ReservedGDT = uint16(n)
		}
	case sb.Compat.Has(disk.CompatResizeInode):
		most := uint64(max32)
		if sb.Blocks < most/1024 {
			most = sb.Blocks * 1024
		}
		sb.ReservedGDT = uint16(reserve(most - uint64(sb.FirstDataBlock)))
	}
	if err := p.features3().check(); err != nil {
		return err
	}
	if uint64(sb.ReservedGDT)+p.desc > uint64(sb.BlocksPerGroup)*3/4 {
		sb.Incompat |= disk.IncompatMetaBG
		sb.Compat &^= disk.CompatResizeInode
		sb.ReservedGDT = 0
	}
	return nil
}

// lastGroup leaves out a last group that has no room for its own metadata and
// 50 blocks, and reports whether that was not necessary.
func (p *Params) lastGroup(asked, askedReserved uint64) (bool, error) {
	sb := &p.sb
	most := 3 + uint64(p.itable) + uint64(sb.ReservedGDT)
	if sb.Incompat.Has(disk.IncompatMetaBG) {
		most++
	} else {
		most += p.desc
	}
	if most > uint64(sb.BlocksPerGroup) {
		return false, usage("raise -i or lower -N", "%d inodes and %d blocks of descriptors leave no room in groups of %d blocks", sb.Inodes, p.desc, sb.BlocksPerGroup)
	}
	groups := sb.Groups()
	least := 2 + uint64(p.itable)
	hasSuper := sb.HasSuper(disk.Group(groups - 1))
	if sb.Compat.Has(disk.CompatSparseSuper2) {
		hasSuper = sb.BackupGroups[1] != 0
		if groups == 2 {
			hasSuper = sb.BackupGroups[0] != 0
		}
	}
	if hasSuper {
		least += 1 + p.desc + uint64(sb.ReservedGDT)
	}
	rest := (sb.Blocks - uint64(sb.FirstDataBlock)) % uint64(sb.BlocksPerGroup)
	switch {
	case rest == 0 || rest >= least+50:
		return true, nil
	case groups == 1:
		return false, p.tooSmall()
	}
	sb.Blocks -= rest
	sb.ReservedBlocks = uint64(100 * float64(askedReserved) / float64(asked) * float64(sb.Blocks) / 100)
	return false, nil
}

func (p *Params) tooSmall() error {
	return usage("use a larger size or fewer inodes", "%d blocks of %d bytes are too small for a file system", p.sb.Blocks, p.sb.BlockSize())
}

// backupGroups turns the wish for backups in group 1 and the last group into
// group numbers.
func (p *Params) backupGroups() {
	sb := &p.sb
	last := disk.Group(sb.Groups() - 1)
	b := &sb.BackupGroups
	b[0], b[1] = min(b[0], last), min(b[1], last)
	if b[0] == b[1] {
		b[1] = 0
	}
	if b[0] > b[1] {
		b[0], b[1] = b[1], b[0]
	}
}

// Check says what else speaks against p, once it is laid out: bad blocks in
// the wrong place, a journal that is too big.
func (p *Params) Check() error {
	_, err := newVolume(p, nil)
	return err
}

// Superblock is what the superblock says of sizes and features; its free
// counts are those of an empty device.
func (p *Params) Superblock() disk.Superblock { return p.sb }

func (p *Params) String() string {
	return fmt.Sprintf("%d blocks of %d bytes, %d inodes of %d", p.sb.Blocks, p.sb.BlockSize(), p.sb.Inodes, p.sb.InodeSize)
}

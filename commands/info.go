package commands

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

var infoCommand = &cli.Command{
	Name:      "info",
	Usage:     "show the superblock, the journal's state and the block groups",
	ArgsUsage: "[IMAGE]",
	Description: `Shows what dumpe2fs(8) shows, under the same names: features, sizes, times, the
state of the journal, which copy of the superblock is in use, recorded errors,
quota inodes, multiple mount protection, orphaned inodes.

IMAGE is a file, a block device, or a directory on a mounted ext4; it may also
be given with --image. Numbers are those after journal replay, which happens
in memory, unless --no-recovery is given.

An image that e4go cannot open (unknown features, a lost external journal)
still has its superblock shown; standard error says why it cannot be opened.

Examples:
  e4go info disk.img
  e4go info /dev/sda2
  e4go info --offset 1m whole-disk.img
  e4go info --groups --plain disk.img
  e4go info --json disk.img | jq .super.features

Exit status:
  0 shown; 2 trouble; 4 the image is damaged; 5 it has features that e4go cannot read.
  See e4go help exit-codes.`,
	Flags: commandFlags(
		&cli.BoolFlag{Name: "groups", Aliases: []string{"g"}, Usage: "show each block group: where its parts lie, and what is free"},
	),
	Action: runInfo,
}

func runInfo(c *cli.Context) error {
	s, err := newImages(c)
	if err != nil {
		return err
	}
	defer s.close()
	live := false
	switch {
	case c.NArg() > 1:
		return usagef("%d arguments, want one: IMAGE", c.NArg())
	case c.NArg() == 1:
		if s.opts.path, live, err = imageArg(c.Args().First()); err != nil {
			return err
		}
	case s.opts.path == "":
		return usageHint("e4go info IMAGE", "no image: want IMAGE, --image or $%s", imageEnv)
	}
	o := out(c)
	im, openErr := s.image(s.opts.path, live)
	if openErr != nil {
		return infoRefused(o, s, openErr)
	}
	if o.json {
		o.kName("image", im.path)
	}
	superFacts(o, im.fs.Super(), im.fs.SuperOffset(), im.fs.PrimaryErr())
	journalFacts(o, im.fs.Super(), im.fs.Journal())
	stateErr := stateFacts(o, im.fs)
	if c.Bool("groups") {
		if err := groupList(o, im.fs); err != nil {
			return err
		}
	}
	return stateErr
}

// imageArg understands what info's argument names: an image, or a directory
// on a mounted file system.
func imageArg(arg string) (path string, live bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(arg, &st); err != nil {
		return "", false, &os.PathError{Op: "open", Path: arg, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return arg, false, nil
	}
	m, err := mountOf(uint64(st.Dev))
	if err == nil {
		path, err = m.device()
	}
	if err != nil {
		return "", false, &pathError{arg, err}
	}
	return path, m.isExt4(), nil
}

// infoRefused shows the superblock of an image that cannot be opened.
func infoRefused(o *output, s *images, openErr error) error {
	var inUse *blockdev.InUseError
	if errors.Is(openErr, os.ErrNotExist) || errors.As(openErr, &inUse) {
		return openErr
	}
	dev, err := s.opts.device(s.opts.path, s.lock)
	if err != nil {
		return openErr
	}
	defer dev.Close()
	sb, at, err := ext4.ReadSuper(dev, s.opts.ext4)
	if sb.Magic != disk.SuperMagic {
		return openErr
	}
	if o.json {
		o.kName("image", s.opts.path)
	}
	if at == 0 && err != nil { // the primary, damaged
		at = disk.SuperblockOffset
	}
	superFacts(o, &sb, at, err)
	return openErr
}

// superFacts shows the superblock, in the order and by the names of dumpe2fs.
func superFacts(o *output, sb *disk.Superblock, at int64, primaryErr error) {
	if o.json {
		o.kObj("super")
		defer o.end()
	}
	or := func(s, empty string) string {
		if s == "" {
			return empty
		}
		return shownName(s)
	}
	features := append(append(sb.Compat.Names(), sb.Incompat.Names()...), sb.ROCompat.Names()...)
	list := []fact{
		{"Filesystem volume name", "label", sb.Label, or(sb.Label, "<none>")},
		{"Last mounted on", "last_mounted", sb.LastMounted, or(sb.LastMounted, "<not available>")},
		{"Filesystem UUID", "uuid", uuidText(sb.UUID), ""},
		{"Filesystem magic number", "magic", int(sb.Magic), fmt.Sprintf("0x%04X", sb.Magic)},
		{"Filesystem revision #", "revision", int(sb.RevLevel), fmt.Sprintf("%d (%s)", sb.RevLevel, revName(sb.RevLevel))},
		{"Filesystem features", "features", features, or(strings.Join(features, " "), "(none)")},
		{"", "features_compat", int64(sb.Compat), ""},
		{"", "features_incompat", int64(sb.Incompat), ""},
		{"", "features_ro_compat", int64(sb.ROCompat), ""},
		{"Filesystem flags", "flags", superFlagNames(sb.Flags), or(strings.Join(superFlagNames(sb.Flags), " "), "(none)")},
		{"Default mount options", "default_mount_options", defaultMountOptions(sb.DefaultMountOpts), or(strings.Join(defaultMountOptions(sb.DefaultMountOpts), " "), "(none)")},
	}
	if sb.MountOpts != "" {
		list = append(list, fact{"Mount options", "mount_options", sb.MountOpts, shownName(sb.MountOpts)})
	}
	list = append(list,
		fact{"Filesystem state", "state", stateNames(sb.State), stateText(sb.State)},
		fact{"Errors behavior", "errors_behavior", errorsName(sb.Errors), ""},
		fact{"Filesystem OS type", "creator_os", osName(sb.CreatorOS), ""},
		fact{"Inode count", "inodes", uint64(sb.Inodes), ""},
		fact{"Block count", "blocks", sb.Blocks, ""},
		fact{"Reserved block count", "reserved_blocks", sb.ReservedBlocks, ""},
		fact{"Overhead clusters", "overhead_clusters", uint64(sb.OverheadClusters), ""},
		fact{"Free blocks", "free_blocks", freeBlocks(sb), ""},
		fact{"Free inodes", "free_inodes", uint64(sb.FreeInodes), ""},
		fact{"First block", "first_block", uint64(sb.FirstDataBlock), ""},
	)
	list = append(list, sizeFacts(sb)...)
	list = append(list, timeFacts(sb)...)
	list = append(list, fact{"Superblock at byte", "superblock_offset", at, superText(sb, at)})
	if primaryErr != nil {
		list = append(list, fact{"Primary superblock", "primary_error", errorText(primaryErr), o.styles.bad(errorText(primaryErr))})
	}
	o.facts(list)
}

func superText(sb *disk.Superblock, at int64) string {
	if at == disk.SuperblockOffset {
		return "1024 (the primary)"
	}
	return fmt.Sprintf("%d (the backup in group %d)", at, sb.BlockGroup)
}

func freeBlocks(sb *disk.Superblock) uint64 {
	if bits := sb.LogClusterSize - sb.LogBlockSize; sb.ROCompat.Has(disk.ROCompatBigalloc) && bits < 32 {
		return sb.FreeBlocks << bits
	}
	return sb.FreeBlocks
}

// sizeFacts are about sizes and numbers per group. The superblock may be one that
// did not pass its check.
func sizeFacts(sb *disk.Superblock) []fact {
	size := func(log uint32) (uint64, string) {
		if log > 30 {
			return 0, fmt.Sprintf("1024 << %d", log)
		}
		return 1024 << log, ""
	}
	bs, bsText := size(sb.LogBlockSize)
	cs, csText := size(sb.LogClusterSize)
	list := []fact{{"Block size", "block_size", bs, bsText}}
	if sb.ROCompat.Has(disk.ROCompatBigalloc) {
		list = append(list, fact{"Cluster size", "cluster_size", cs, csText})
	}
	if sb.Incompat.Has(disk.Incompat64Bit) {
		list = append(list, fact{"Group descriptor size", "desc_size", int(sb.DescSize), ""})
	}
	if sb.ReservedGDT != 0 {
		list = append(list, fact{"Reserved GDT blocks", "reserved_gdt_blocks", int(sb.ReservedGDT), ""})
	}
	list = append(list, fact{"Blocks per group", "blocks_per_group", uint64(sb.BlocksPerGroup), ""})
	if sb.ROCompat.Has(disk.ROCompatBigalloc) {
		list = append(list, fact{"Clusters per group", "clusters_per_group", uint64(sb.ClustersPerGroup), ""})
	}
	list = append(list,
		fact{"Inodes per group", "inodes_per_group", uint64(sb.InodesPerGroup), ""},
		fact{"Groups", "groups", sb.Groups(), ""},
	)
	for _, f := range []struct {
		label, key string
		v          uint64
	}{
		{"First meta block group", "first_meta_bg", uint64(sb.FirstMetaBG)},
		{"RAID stride", "raid_stride", uint64(sb.RAIDStride)},
		{"RAID stripe width", "raid_stripe_width", uint64(sb.RAIDStripeWidth)},
	} {
		if f.v != 0 {
			list = append(list, fact{f.label, f.key, f.v, ""})
		}
	}
	if sb.LogGroupsPerFlex > 0 && sb.LogGroupsPerFlex < 32 {
		list = append(list, fact{"Flex block group size", "flex_bg_size", uint64(1) << sb.LogGroupsPerFlex, ""})
	}
	if sb.Compat.Has(disk.CompatSparseSuper2) {
		list = append(list, fact{"Backup block groups", "backup_groups", fmt.Sprintf("%d %d", sb.BackupGroups[0], sb.BackupGroups[1]), ""})
	}
	return list
}

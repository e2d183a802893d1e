package commands

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/mkfs"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

var mkimageCommand = &cli.Command{
	Name:      "mkimage",
	Usage:     "make a file system in an image or device, empty or filled",
	ArgsUsage: "IMAGE [SIZE]",
	Description: `Makes an ext2, ext3 or ext4 file system in IMAGE, a file or a block device, and
fills it with what -d names, without root, loop devices or a mount. The options
are those of mke2fs(8) with its defaults, except that -t is ext4, not ext2. An
empty file system is the one that mke2fs makes, byte for byte; docs/MKFS.md has
the few differences.

SIZE is bytes with k, m, g, t, or s for sectors of 512 bytes, else a number of
blocks of -b, or of 1 KiB without it. Without SIZE the file system is as large
as IMAGE is; with -d and a file it is "auto": the smallest that holds what is
put into it, and --free.

-d fills the file system from a directory or from a tar archive (ustar, pax or
GNU; plain or compressed with gzip, zstd, xz or bzip2); - is an archive on
standard input. It may be given several times: each source adds to those before
it. Owners, modes, times, hard links, holes, extended attributes, ACLs,
capabilities, inode flags and project ids are kept. Directories are indexed, and
files lie in one piece where they fit. The owner and mode of a directory DIR
itself are not taken: the root belongs to 0:0 with mode 0755, unless -E
root_owner= and root_perms= or an archive's entry for it say otherwise.

The same input and options give the same bytes: UUID and hash seed are derived
from them, and the time of making is that of the newest file, or
$SOURCE_DATE_EPOCH. File systems of the same contents thus have the same UUID;
--random-uuid gives each its own.

An image file gets its name when it is complete, and what had the name before is
replaced then. A device holds no file system until the new one is complete. An
IMAGE that is in use is refused, and without -F one that holds something.

Extended options (-E, separated by commas):
  root_owner=UID:GID        the owner of the root directory; default 0:0
  root_perms=MODE           its mode; default 0755
  root_selinux=LABEL        its SELinux label
  offset=N                  the file system begins N bytes into IMAGE, which exists
  resize=SIZE               keep room to grow to SIZE: blocks, or bytes with a unit
  num_backup_sb=N           0, 1 or 2 backups, with -O sparse_super2
  packed_meta_blocks        all metadata at the beginning
  stride=N, stripe_width=N  the geometry of a RAID, in blocks
  desc_size=N               bytes of a group descriptor
  orphan_file_size=N        bytes of the orphan file
  mmp_update_interval=N     seconds, with -O mmp
  quotatype=T:T             usrquota, grpquota, prjquota, with -O quota
  encoding=utf8, encoding_flags=strict
                            names are case-insensitive where a directory says so
  hash_seed=UUID            instead of one derived from input and options
  lazy_itable_init=0        write all inode tables of a device
  lazy_journal_init         do not clear the journal of a device
  nodiscard                 do not discard the blocks of a device before
  assume_storage_prezeroed  the device is known to be zero
  no_copy_xattrs            leave extended attributes out
  test_fs, revision=N       as in mke2fs(8)

Examples:
  e4go mkimage disk.img 1g
  e4go mkimage -d rootfs/ --free 20% disk.img
  docker export c1 | e4go mkimage -d - -L root disk.img
  e4go mkimage --oci -d layer1.tar.gz -d layer2.tar.gz disk.img
  e4go mkimage -O inline_data,^has_journal -n disk.img 100m

Exit status:
  0 made; 2 wrong usage or trouble; 6 IMAGE is in use; 130 interrupted. Except
  after 0 an image file is as it was, and a device holds no file system.`,
	Flags: append(mkimageFlags(),
		jsonFlag(),
	),
	Action: runMkimage,
}

const (
	formatCategory = "Format"
	fillCategory   = "Fill"
)

func mkimageFlags() []cli.Flag {
	str := func(category, name, usage string, aliases ...string) cli.Flag {
		return &cli.StringFlag{Name: name, Aliases: aliases, Category: category, Usage: usage}
	}
	list := func(category, name, usage string, aliases ...string) cli.Flag {
		return &cli.StringSliceFlag{Name: name, Aliases: aliases, Category: category, Usage: usage}
	}
	yes := func(category, name, usage string, aliases ...string) cli.Flag {
		return &cli.BoolFlag{Name: name, Aliases: aliases, Category: category, Usage: usage}
	}
	return []cli.Flag{
		yes("", "dry-run", "only say what would be made", "n"),
		yes("", "force", "overwrite what IMAGE holds", "F"),
		yes("", "quiet", "print nothing", "q"),
		str(formatCategory, "type", "`TYPE` is ext2, ext3 or ext4; default ext4", "t"),
		str(formatCategory, "usage", "`USE` is one or more of "+strings.Join(mkfs.UsageNames(), ", ")+"; default by the size", "T"),
		str(formatCategory, "block-size", "blocks of `N` bytes, 1024 to 65536; -N is at least so many", "b"),
		str(formatCategory, "cluster-size", "clusters of `N` bytes, with -O bigalloc", "C"),
		str(formatCategory, "inode-size", "inodes of `N` bytes, 128 to a block", "I"),
		str(formatCategory, "bytes-per-inode", "an inode for each `N` bytes", "i"),
		str(formatCategory, "inodes", "`N` inodes", "N"),
		str(formatCategory, "reserved", "keep `PERCENT` of the blocks for root; default 5", "m"),
		str(formatCategory, "blocks-per-group", "groups of `N` blocks; of clusters with bigalloc", "g"),
		str(formatCategory, "flex-groups", "put the metadata of `N` groups together; default 16", "G"),
		str(formatCategory, "label", "the volume `LABEL`, at most 16 bytes", "L"),
		str(formatCategory, "last-mounted", "the `DIR` last mounted on", "M"),
		str(formatCategory, "uuid", "`UUID`, or random, time or clear; default: derived from input and options", "U"),
		yes(formatCategory, "random-uuid", "a new UUID and hash seed each time, and the present time"),
		str(formatCategory, "errors", "on errors continue, remount-ro or panic: `HOW`", "e"),
		str(formatCategory, "creator-os", "`OS` is linux, hurd, freebsd, lites or a number", "o"),
		str(formatCategory, "revision", "format revision `N`, 0 or 1", "r"),
		list(formatCategory, "features", "set `FEATURES`, clear those with ^ before them, all with none", "O"),
		list(formatCategory, "journal-options", "`OPTIONS` size=MIB, fast_commit_size=MIB, location=BLOCK", "J"),
		yes(formatCategory, "journal", "with a journal: -O has_journal", "j"),
		list(formatCategory, "extended", "extended `OPTIONS`; see above", "E"),
		str(formatCategory, "bad-blocks", "do not use the blocks listed in `FILE`", "l"),
		list(fillCategory, "from", "fill from `SOURCE`: a directory, a tar archive, or - for an archive on standard input", "d"),
		yes(fillCategory, "oci", "the archives are layers of a container image, the lowest first"),
		str(fillCategory, "free", "with the size auto, leave `N` bytes or N% free"),
		yes(fillCategory, "root-owner", "everything belongs to 0:0"),
		list(fillCategory, "map-owner", "change owners, but not in ACLs: `FROM=TO` with a user's number, or :FROM=TO with a group's, or * for all"),
		str(fillCategory, "mtime-clamp", "no file is newer than `TIME`, seconds since 1970 or RFC 3339; default $SOURCE_DATE_EPOCH"),
		str(fillCategory, "manifest", "write a line of JSON for each file to `FILE`: path, inode, size, SHA-256, extents; see docs/JSON.md"),
	}
}

// mkimageRequest is what a command line asks for.
type mkimageRequest struct {
	image  string
	size   int64 // bytes; 0 is as large as the image
	auto   bool
	free   mkfs.Free
	o      mkfs.Options
	from   []string
	oci    bool
	noX    bool // no xattrs
	offset int64

	discard  bool
	change   func(*mkfs.Entry)
	manifest string
	dry      bool
	force    bool
	quiet    bool
}

func runMkimage(c *cli.Context) error {
	r, err := parseMkimage(c)
	if err != nil {
		return err
	}
	garbageLimit.Store(24 << 20) // millions of names are no garbage
	err = r.run(c)
	if err != nil && !isSilent(err) && c.Context.Err() != nil {
		return c.Context.Err() // whatever came of it
	}
	var bad *mkfs.UsageError
	var unknown *mkfs.UnknownFeatureError
	switch {
	case errors.As(err, &unknown):
		return usageHint(didYouMean(unknown.Name, mkfs.FeatureNames()), "%v", err)
	case errors.As(err, &bad):
		return usageHint(bad.Hint, "%s", strings.TrimSuffix(err.Error(), ": "+bad.Hint))
	}
	return err
}

// run makes the file system.
func (r *mkimageRequest) run(c *cli.Context) error {
	ctx := c.Context
	old, err := r.look()
	if err != nil {
		return err
	}
	if !old.device && r.offset == 0 {
		r.o.Zeroed = true // it will be a new file
	}
	b, err := mkfs.NewBuilder(r.o, r.change)
	if err != nil {
		return err
	}
	if out(c).json && !r.dry {
		b.HashContents()
	}
	if r.manifest != "" {
		b.HashFiles()
	}
	progress := startProgress(out(c), mkimageProgress(b))
	defer progress.stop()

	var p *mkfs.Params
	var streams []mkfs.Source
	if !r.auto {
		size := r.size
		if size == 0 {
			size = (old.size - r.offset) &^ 4095 // whole pages, as mke2fs does
		}
		// What does not fit is refused before anything is read.
		if p, err = mkfs.Resolve(size, r.o); err != nil {
			return err
		}
	} else if _, err := b.Fit(ctx, r.free); err != nil {
		return err // not even nothing fits
	}
	if r.dry && !r.auto {
		if err := p.Check(); err != nil {
			return err
		}
		return r.report(c, b, &mkfs.Result{Super: p.Superblock()}, 0)
	}
	var spool *mkfs.Spool
	if r.auto && len(r.from) > 0 {
		if spool, err = mkfs.NewSpool(filepath.Dir(r.image)); err != nil {
			return err
		}
		defer spool.Close()
	}
	for _, from := range r.from {
		src, wait, err := r.source(ctx, from, spool)
		if err != nil {
			return err
		}
		defer src.Close()
		_, dir := src.(*mkfs.DirSource)
		alone := dir && len(r.from) == 1 && !r.auto // to be written while it is listed
		if streams != nil || !wait || alone {       // in the order given
			streams = append(streams, src)
			continue
		}
		if err := b.Scan(ctx, src); err != nil {
			return err
		}
	}
	if r.auto {
		if p, err = b.Fit(ctx, r.free); err != nil {
			return err
		}
	}
	if r.dry {
		progress.stop()
		return r.report(c, b, &mkfs.Result{Super: p.Superblock()}, 0)
	}
	return r.write(c, b, p, old, streams, progress)
}

// write writes the file system to its target.
func (r *mkimageRequest) write(c *cli.Context, b *mkfs.Builder, p *mkfs.Params, old existing, streams []mkfs.Source, progress *progress) (err error) {
	ctx := c.Context
	t, err := r.target(p, old)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Abort())
		}
	}()
	if err := t.Wipe(); err != nil {
		return err
	}
	if r.discard && !t.Zeroed {
		if err := t.Dev.Discard(0, t.Dev.Size()); err != nil {
			return err
		}
	}
	begin := time.Now()
	result, err := b.Write(ctx, t.Dev, p, streams...)
	if err != nil {
		return err
	}
	if err := t.Dev.Flush(); err != nil {
		return err
	}
	if r.manifest != "" {
		if err := r.writeManifest(b, result); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := t.Commit(); err != nil {
		return err
	}
	progress.stop()
	if err := r.report(c, b, result, time.Since(begin)); err != nil {
		return err
	}
	return exit(exitOK, nil) // it is too late to be interrupted
}

// existing is what stands under the image's name.
type existing struct {
	there  bool
	device bool
	size   int64
}

// look refuses what must not be overwritten.
func (r *mkimageRequest) look() (existing, error) {
	var st unix.Stat_t
	err := unix.Stat(r.image, &st)
	if errors.Is(err, unix.ENOENT) {
		if r.size == 0 && !r.auto {
			return existing{}, usageHint("e4go mkimage "+r.image+" 1g", "%s does not exist: want a SIZE, or -d", r.image)
		}
		return existing{}, r.mayReplace()
	}
	if err != nil {
		return existing{}, &os.PathError{Op: "stat", Path: r.image, Err: err}
	}
	f, err := blockdev.Open(r.image, blockdev.Options{Write: !r.dry, Lock: blockdev.LockExclusive})
	if err != nil {
		return existing{}, err
	}
	defer f.Close()
	old := existing{there: true, device: st.Mode&unix.S_IFMT == unix.S_IFBLK, size: f.Size()}
	switch {
	case old.device && !r.dry:
		if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err == nil && ro != 0 {
			return old, &os.PathError{Op: "open", Path: r.image, Err: fmt.Errorf("the device is read-only: %w", unix.EROFS)}
		}
	case r.offset == 0:
		if err := r.mayReplace(); err != nil {
			return old, err
		}
	}
	if r.size == 0 && !r.auto && old.size <= r.offset {
		return old, usageHint("name a SIZE", "%s has %d bytes: no room for a file system", r.image, old.size)
	}
	if old.device && r.size > old.size-r.offset {
		return old, usagef("%s has %d bytes, a file system of %d is too large", r.image, old.size, r.size)
	}
	if r.force {
		return old, nil
	}
	rest := max(0, old.size-r.offset)
	part := io.NewSectionReader(f, r.offset, rest)
	what, err := mkfs.Probe(part, rest)
	if err != nil {
		return old, err
	}
	if what == "" && !old.device && !zeroStart(part) {
		what = "data that are no disk image"
	}
	if what != "" {
		return old, usageHint("give -F to overwrite it", "%s holds %s", r.image, what)
	}
	return old, nil
}

// mayReplace reports an error if the directory does not let the image take its
// name: better now than when everything has been read.
func (r *mkimageRequest) mayReplace() error {
	if r.dry {
		return nil
	}
	return mkfs.MayCreate(r.image)
}

// zeroStart reports whether a file begins with nothing.
func zeroStart(r *io.SectionReader) bool {
	b := make([]byte, min(64<<10, r.Size()))
	r.ReadAt(b, 0)
	return len(bytes.Trim(b, "\x00")) == 0
}

// target is where the file system goes.
func (r *mkimageRequest) target(p *mkfs.Params, old existing) (*mkfs.Target, error) {
	sb := p.Superblock()
	size := int64(sb.Blocks) << sb.BlockBits()
	if r.size > size {
		size = r.size // what is left over at the end stays in the image
	}
	switch {
	case old.device, old.there && r.offset > 0:
		if r.size == 0 {
			size = old.size - r.offset // also what is left over at the end is to hold nothing
		}
		if !old.device && old.size < r.offset+size {
			if err := os.Truncate(r.image, r.offset+size); err != nil {
				return nil, err
			}
		}
		return mkfs.InPlace(r.image, r.offset, size)
	case r.offset > 0:
		return nil, usageHint("truncate -s SIZE "+r.image, "%s does not exist: with -E offset= a file system is written into an image", r.image)
	}
	if old.size > size && !r.auto && r.size == 0 {
		size = old.size
	}
	return mkfs.NewImage(r.image, size)
}

// source opens what -d names. wait reports whether its contents can wait until
// all of it has been listed.
func (r *mkimageRequest) source(ctx context.Context, from string, spool *mkfs.Spool) (src mkfs.Source, wait bool, err error) {
	o := mkfs.TarOptions{Spool: spool, Layer: r.oci, NoXattrs: r.noX, Stop: ctx.Done()}
	if from == "-" {
		src, err = mkfs.NewTarSource("standard input", os.Stdin, o)
		return src, spool != nil, err
	}
	st, err := os.Stat(from)
	if err != nil {
		return nil, false, err
	}
	if st.IsDir() {
		if r.oci {
			return nil, false, usagef("-d %s is a directory: layers are archives", from)
		}
		src, err = mkfs.NewDirSource(from, r.noX)
		return src, true, err
	}
	// A FIFO may have nobody at its other end yet.
	f, err := os.OpenFile(from, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, err
	}
	tar, err := mkfs.NewTarSource(from, f, o)
	if err != nil {
		return nil, false, err
	}
	return tar, spool != nil || tar.CanWait(), nil
}

// report says what was made.
func (r *mkimageRequest) report(c *cli.Context, b *mkfs.Builder, result *mkfs.Result, took time.Duration) error {
	o, sb, n := out(c), &result.Super, b.Counts()
	features := append(append(sb.Compat.Names(), sb.Incompat.Names()...), sb.ROCompat.Names()...)
	bs := uint64(sb.BlockSize())
	if o.json {
		o.kName("image", r.image)
		o.kBool("dry_run", r.dry)
		o.kUint("size", sb.Blocks*bs)
		o.kStr("type", r.o.TypeName())
		o.kStr("label", sb.Label)
		o.kStrs("features", features)
		o.kUint("block_size", bs)
		o.kUint("blocks", sb.Blocks)
		o.kUint("groups", sb.Groups())
		o.kUint("inode_size", uint64(sb.InodeSize))
		o.kUint("inodes", uint64(sb.Inodes))
		if !r.dry {
			o.kStr("uuid", uuidText(sb.UUID))
			o.kStr("hash_seed", uuidText(hashSeed(sb)))
			o.kUint("free_blocks", sb.FreeBlocks)
			o.kUint("free_inodes", uint64(sb.FreeInodes))
			o.kStr("content_sha256", hex.EncodeToString(result.Content[:]))
		}
		if r.dry && !r.auto {
			return nil // nothing was read
		}
		o.kUint("files", n.Files)
		o.kUint("directories", n.Dirs)
		o.kUint("others", n.Others)
		o.kUint("hard_links", n.HardLinks)
		if r.dry {
			return nil
		}
		o.kUint("bytes", b.Stats().Bytes)
		o.kArr("phases")
		for _, p := range result.Phases {
			o.obj()
			o.kStr("name", p.Name)
			o.kInt("microseconds", p.Time.Microseconds())
			o.end()
		}
		o.end()
		return nil
	}
	if r.quiet {
		return nil
	}
	verb := "made"
	if r.dry {
		verb = "would make"
	}
	o.line(fmt.Sprintf("%s: %s %s with %d blocks of %d bytes (%s) and %d inodes", shownName(r.image), verb, r.o.TypeName(), sb.Blocks, bs, sizeText(sb.Blocks*bs), sb.Inodes))
	o.line("Features: " + strings.Join(features, " "))
	if r.dry {
		return nil
	}
	o.line("UUID: " + uuidText(sb.UUID))
	if len(r.from) > 0 {
		o.line(fmt.Sprintf("%s, %s: %s in %.1f s", counted(n.Files, "file", "files"), counted(n.Dirs, "directory", "directories"), sizeText(b.Stats().Bytes), took.Seconds()))
		o.line(fmt.Sprintf("%s and %s are free", sizeText(sb.FreeBlocks*bs), counted(uint64(sb.FreeInodes), "inode", "inodes")))
	}
	return nil
}

// writeManifest writes a line of JSON for each file.
func (r *mkimageRequest) writeManifest(b *mkfs.Builder, result *mkfs.Result) (err error) {
	f, err := os.Create(r.manifest)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(r.manifest)
		}
	}()
	o := newOutput(context.Background(), f, os.Stderr)
	o.oneLine = true
	bs := uint64(result.Super.BlockSize())
	err = b.Manifest(func(e *mkfs.ManifestEntry) error {
		o.obj()
		o.kName("path", e.Path)
		o.kUint("ino", uint64(e.Ino))
		o.kStr("type", e.Mode.FileType().String())
		o.kStr("mode", fmt.Sprintf("%04o", uint16(e.Mode&disk.ModePerm)))
		o.kUint("links", uint64(e.Links))
		o.kInt("size", e.Size)
		if e.SHA256 != nil {
			o.kStr("sha256", hex.EncodeToString(e.SHA256[:]))
		}
		if e.Sparse != nil {
			o.kStr("sha256_sparse", hex.EncodeToString(e.Sparse[:]))
		}
		if e.Mode.Type() == disk.ModeReg {
			o.kArr("extents")
			if e.Inline {
				o.extent(extent{nowhere: true, length: uint64(e.Size), state: stateInline, flags: fiemapInline, flagNames: fiemapFlagNames(fiemapInline)})
				o.end()
			}
			for _, x := range e.Extents {
				o.extent(extent{logical: uint64(x.Block) * bs, physical: uint64(x.Start) * bs, length: uint64(x.Len) * bs, state: stateWritten, flagNames: noFlags})
				o.end()
			}
			o.end()
		}
		if e.Target != "" {
			o.kName("target", e.Target)
		}
		o.end()
		o.buf = append(o.buf, '\n')
		o.lined()
		return o.err
	})
	if err != nil {
		return err
	}
	return o.flush()
}

// counted is a number of things.
func counted(n uint64, one, many string) string {
	if n == 1 {
		many = one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// sizeText is a number of bytes for people.
func sizeText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " bytes"
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}

// mkimageProgress says how far b has come.
func mkimageProgress(b *mkfs.Builder) func() string {
	begin := time.Now()
	return func() string {
		s := b.Stats()
		text := fmt.Sprintf("%d entries, %s", s.Entries, sizeText(s.Bytes))
		if s.Total > 0 {
			text += " of " + sizeText(s.Total)
		}
		return text + fmt.Sprintf(", %s/s", sizeText(uint64(float64(s.Bytes)/time.Since(begin).Seconds())))
	}
}

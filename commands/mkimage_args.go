package commands

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"e4go/ext4/disk"
	"e4go/ext4/mkfs"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"
)

// parseMkimage understands a command line.
func parseMkimage(c *cli.Context) (*mkimageRequest, error) {
	if c.NArg() < 1 || c.NArg() > 2 {
		return nil, usagef("%d arguments, want one or two: %s", c.NArg(), c.Command.ArgsUsage)
	}
	r := &mkimageRequest{
		image: c.Args().First(), oci: c.Bool("oci"), manifest: c.String("manifest"),
		dry: c.Bool("dry-run"), force: c.Bool("force"), quiet: c.Bool("quiet"), discard: true,
	}
	r.from = c.StringSlice("from")
	r.o.LazyInodeTables = true
	for _, step := range []func(*cli.Context) error{r.numbers, r.texts, r.journal, r.extendedOptions, r.identity, r.owners, r.times, r.badBlocks, r.sizes} {
		if err := step(c); err != nil {
			return nil, err
		}
	}
	return r, r.inside()
}

// number is the value of a flag that is a number with a unit, 0 without the flag.
func number(c *cli.Context, name string, most uint64) (uint64, error) {
	n, err := sizeFlag(c, name, 0)
	if err != nil {
		return 0, err
	}
	if c.String(name) != "" && n == 0 || n > most {
		return 0, usagef("--%s: %s, want 1 to %d", name, c.String(name), most)
	}
	return n, nil
}

func (r *mkimageRequest) numbers(c *cli.Context) error {
	o := &r.o
	for _, f := range []struct {
		name string
		most uint64
		set  func(uint64)
	}{
		{"cluster-size", 1 << 30, func(n uint64) { o.ClusterSize = int64(n) }},
		{"inode-size", 65536, func(n uint64) { o.InodeSize = int(n) }},
		{"bytes-per-inode", 1 << 40, func(n uint64) { o.InodeRatio = int64(n) }},
		{"inodes", 1<<32 - 1, func(n uint64) { o.Inodes = n }},
		{"blocks-per-group", 1<<32 - 1, func(n uint64) { o.BlocksPerGroup = uint32(n) }},
		{"flex-groups", 1 << 31, func(n uint64) { o.FlexGroups = uint32(n) }},
	} {
		n, err := number(c, f.name, f.most)
		if err != nil {
			return err
		}
		f.set(n)
	}
	s := c.String("block-size")
	n, err := parseSize(strings.TrimPrefix(s, "-"))
	switch {
	case s == "":
	case err != nil:
		return usagef("--block-size: %v", err)
	case n < 1024 || n > 65536 || bits.OnesCount64(n) != 1:
		return usagef("--block-size: %s, want a power of two from 1024 to 65536, or one with a minus for at least so many", s)
	case s[0] == '-':
		o.LeastBlockSize = int(n)
	default:
		o.BlockSize = int(n)
	}
	if s := c.String("reserved"); s != "" {
		v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		if err != nil {
			return usagef("--reserved: %q is no percentage", s)
		}
		o.Reserved = &v
	}
	if s := c.String("revision"); s != "" {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return usagef("--revision: %q is no number", s)
		}
		rev := uint32(v)
		o.Revision = &rev
	}
	return nil
}

func (r *mkimageRequest) texts(c *cli.Context) error {
	o := &r.o
	o.Type, o.Label, o.LastMounted, o.Errors, o.CreatorOS = c.String("type"), c.String("label"), c.String("last-mounted"), c.String("errors"), c.String("creator-os")
	if s := c.String("usage"); s != "" {
		o.Usage = strings.Split(s, ",")
	}
	for _, s := range c.StringSlice("features") {
		o.Features = append(o.Features, strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	if c.Bool("journal") {
		o.Features = append(o.Features, "has_journal")
	}
	return nil
}

// pairs calls fn for each KEY or KEY=VALUE of options separated by commas.
func pairs(lists []string, fn func(key, value string, has bool) error) error {
	for _, list := range lists {
		for p := range strings.SplitSeq(list, ",") {
			if p == "" {
				continue
			}
			key, value, has := strings.Cut(p, "=")
			if err := fn(key, value, has); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *mkimageRequest) journal(c *cli.Context) error {
	o := &r.o
	return pairs(c.StringSlice("journal-options"), func(key, value string, has bool) error {
		n, err := strconv.ParseUint(value, 10, 63)
		bad := func() error { return usagef("-J %s=%s: want a number", key, value) }
		switch key {
		case "size":
			if err != nil || n == 0 {
				return bad()
			}
			o.JournalMiB = n
		case "fast_commit_size":
			if err != nil || n == 0 {
				return bad()
			}
			o.FastCommitMiB = n
		case "location":
			if err != nil {
				return bad()
			}
			o.JournalLocation = &n
		case "device", "v1_superblock":
			return usageHint("use mke2fs", "-J %s: journals on devices of their own are not made here", key)
		default:
			return usageHint(didYouMean(key, []string{"size", "fast_commit_size", "location"}), "-J %s: there is no such option", key)
		}
		return nil
	})
}

// extendedOptions are the keys of -E. A key without a value that wants one is
// an error.
func (r *mkimageRequest) extendedOptions(c *cli.Context) error {
	o := &r.o
	number := func(set func(n uint64), most uint64) func(string) error {
		return func(v string) error {
			n, err := parseSize(v)
			if err != nil {
				return err
			}
			if n > most {
				return fmt.Errorf("%d is more than %d", n, most)
			}
			set(n)
			return nil
		}
	}
	flag := func(set func(bool)) func(string) error {
		return func(v string) error {
			switch v {
			case "", "1":
				set(true)
			case "0":
				set(false)
			default:
				return fmt.Errorf("%q, want 0 or 1", v)
			}
			return nil
		}
	}
	text := func(set func(string)) func(string) error {
		return func(v string) error {
			if v == "" {
				return fmt.Errorf("want a value")
			}
			set(v)
			return nil
		}
	}
	keys := map[string]func(string) error{
		"stride":                   number(func(n uint64) { o.Stride = uint32(n) }, 65535),
		"stripe_width":             number(func(n uint64) { o.StripeWidth = uint32(n) }, 1<<32-1),
		"stripe-width":             number(func(n uint64) { o.StripeWidth = uint32(n) }, 1<<32-1),
		"desc_size":                number(func(n uint64) { o.DescSize = int(n) }, 65536),
		"desc-size":                number(func(n uint64) { o.DescSize = int(n) }, 65536),
		"offset":                   number(func(n uint64) { r.offset = int64(n) }, 1<<62),
		"resize":                   r.resize,
		"mmp_update_interval":      number(func(n uint64) { o.MMPInterval = uint16(n) }, 300),
		"num_backup_sb":            number(func(n uint64) { k := int(n); o.BackupSupers = &k }, 2),
		"orphan_file_size":         number(func(n uint64) { o.OrphanFileSize = int64(n) }, 1<<40),
		"packed_meta_blocks":       flag(func(b bool) { o.PackedMeta = b }),
		"lazy_itable_init":         flag(func(b bool) { o.LazyInodeTables = b }),
		"lazy_journal_init":        flag(func(b bool) { o.LazyJournal = b }),
		"test_fs":                  flag(func(b bool) { o.TestFS = b }),
		"discard":                  flag(func(b bool) { r.discard = b }),
		"nodiscard":                flag(func(b bool) { r.discard = !b }),
		"no_copy_xattrs":           flag(func(b bool) { r.noX = b }),
		"assume_storage_prezeroed": flag(func(b bool) { o.Zeroed = b }),
		"root_owner":               r.rootOwner,
		"root_perms": func(v string) error {
			n, err := strconv.ParseUint(v, 8, 16)
			if err != nil || n > 0o7777 {
				return fmt.Errorf("%q is no mode in octal", v)
			}
			m := uint16(n)
			o.RootPerms = &m
			return nil
		},
		"root_selinux":   text(func(s string) { o.RootSELinux = s }),
		"hash_seed":      func(v string) error { u, err := parseUUID(v); o.HashSeed = &u; return err },
		"hash_alg":       text(func(s string) { o.HashAlgorithm = s }),
		"quotatype":      text(func(s string) { o.QuotaTypes = strings.Split(s, ":") }),
		"encoding":       text(func(s string) { o.Encoding = s }),
		"encoding_flags": text(func(s string) { o.EncodingFlags = strings.Split(s, ":") }),
		"revision": func(v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			rev := uint32(n)
			o.Revision = &rev
			return err
		},
	}
	return pairs(c.StringSlice("extended"), func(key, value string, has bool) error {
		set, ok := keys[key]
		if !ok {
			names := make([]string, 0, len(keys))
			for k := range keys {
				names = append(names, k)
			}
			if key == "android_sparse" {
				return usagef("-E android_sparse: images in Android's sparse format are not made here")
			}
			return usageHint(didYouMean(key, names), "-E %s: there is no such option", key)
		}
		if err := set(value); err != nil {
			return usagef("-E %s: %v", key, err)
		}
		return nil
	})
}

// resize is -E resize=: blocks, or bytes with a unit.
func (r *mkimageRequest) resize(v string) error {
	n, err := parseSize(v)
	if err == nil && n == 0 {
		err = fmt.Errorf("%q is no size to grow to", v)
	}
	if hasUnit(v) {
		r.o.ResizeBytes = n
	} else {
		r.o.Resize = n
	}
	return err
}

func (r *mkimageRequest) rootOwner(v string) error {
	if v == "" {
		r.o.RootUID, r.o.RootGID = uint32(os.Getuid()), uint32(os.Getgid())
		return nil
	}
	u, g, ok := strings.Cut(v, ":")
	uid, err1 := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return fmt.Errorf("%q, want UID:GID", v)
	}
	r.o.RootUID, r.o.RootGID = uint32(uid), uint32(gid)
	return nil
}

func parseUUID(s string) (mkfs.UUID, error) {
	u, err := uuid.Parse(s)
	if err != nil {
		return mkfs.UUID{}, fmt.Errorf("%q is no UUID", s)
	}
	return mkfs.UUID(u), nil
}

// identity takes UUID and hash seed.
func (r *mkimageRequest) identity(c *cli.Context) error {
	random := func() mkfs.UUID {
		var u mkfs.UUID
		rand.Read(u[:])
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		return u
	}
	s := c.String("uuid")
	if c.Bool("random-uuid") {
		if s != "" {
			return usagef("--uuid and --random-uuid exclude each other")
		}
		s = "random"
		if r.o.HashSeed == nil {
			seed := random()
			r.o.HashSeed = &seed
		}
	}
	var u mkfs.UUID
	switch strings.ToLower(s) {
	case "":
		return nil
	case "clear", "null":
	case "random":
		u = random()
	case "time":
		t, err := uuid.NewUUID()
		if err != nil {
			return err
		}
		u = mkfs.UUID(t)
	default:
		var err error
		if u, err = parseUUID(s); err != nil {
			return usageHint("a UUID has the form 01234567-89ab-cdef-0123-456789abcdef", "--uuid: %v", err)
		}
	}
	r.o.UUID = &u
	return nil
}

// times takes what clamps times, and the time of making.
func (r *mkimageRequest) times(c *cli.Context) error {
	s, name := c.String("mtime-clamp"), "--mtime-clamp"
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		n, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || n < 0 {
			return usagef("$SOURCE_DATE_EPOCH is %q, want seconds since 1970", epoch)
		}
		r.o.Time = time.Unix(n, 0)
		if s == "" {
			s, name = epoch, "$SOURCE_DATE_EPOCH"
		}
	} else if c.Bool("random-uuid") {
		r.o.Time = time.Now()
	}
	if s == "" {
		return nil
	}
	clamp, err := parseTime(s)
	if err != nil {
		return usagef("%s: %v", name, err)
	}
	before := r.change
	r.change = func(e *mkfs.Entry) {
		if before != nil {
			before(e)
		}
		if t := time.Unix(e.Mtime.Sec, int64(e.Mtime.Nsec)); t.After(clamp) {
			e.Mtime = disk.Time{Sec: clamp.Unix(), Nsec: uint32(clamp.Nanosecond())}
		}
	}
	return nil
}

func parseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(strings.TrimPrefix(s, "@"), 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither seconds since 1970 nor a time as 2026-01-31T12:00:00Z", s)
	}
	return t, nil
}

// owners takes the changes of owners.
func (r *mkimageRequest) owners(c *cli.Context) error {
	users, groups := map[string]uint32{}, map[string]uint32{}
	for _, s := range c.StringSlice("map-owner") {
		from, to, ok := strings.Cut(s, "=")
		list := users
		if g, group := strings.CutPrefix(from, ":"); group {
			from, list = g, groups
		}
		n, err := strconv.ParseUint(to, 10, 32)
		old, ferr := strconv.ParseUint(from, 10, 32)
		if !ok || err != nil || n == 1<<32-1 || ferr != nil && from != "*" {
			return usagef("--map-owner %s: want FROM=TO for users, :FROM=TO for groups, of numbers below 2^32-1 or * for FROM", s)
		}
		if from != "*" {
			from = strconv.FormatUint(old, 10) // without zeros before it
		}
		list[from] = uint32(n)
	}
	if c.Bool("root-owner") {
		if len(users)+len(groups) > 0 {
			return usagef("--root-owner and --map-owner exclude each other")
		}
		users["*"], groups["*"] = 0, 0
	}
	if len(users)+len(groups) == 0 {
		return nil
	}
	change := func(id *uint32, m map[string]uint32) {
		if to, ok := m[strconv.FormatUint(uint64(*id), 10)]; ok {
			*id = to
		} else if to, ok := m["*"]; ok {
			*id = to
		}
	}
	r.change = func(e *mkfs.Entry) {
		change(&e.UID, users)
		change(&e.GID, groups)
	}
	return nil
}

// badBlocks reads the list of -l.
func (r *mkimageRequest) badBlocks(c *cli.Context) error {
	name := c.String("bad-blocks")
	if name == "" {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		n, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			return usagef("%s: %q is no block number", name, line)
		}
		r.o.BadBlocks = append(r.o.BadBlocks, n)
	}
	return lines.Err()
}

// hasUnit reports whether a size is more than a number.
func hasUnit(s string) bool {
	_, err := strconv.ParseUint(s, 0, 64)
	return err != nil
}

// blocksOrBytes understands a size: with a unit bytes, else blocks.
func (r *mkimageRequest) blocksOrBytes(s string) (int64, error) {
	n, err := parseSize(s)
	if err != nil {
		return 0, err
	}
	if hasUnit(s) {
		return int64(n), nil
	}
	bs := uint64(r.o.BlockSize)
	if bs == 0 {
		bs = 1024
	}
	if n > 1<<62/bs {
		return 0, fmt.Errorf("%s blocks are too many", s)
	}
	return int64(n * bs), nil
}

// sizes takes SIZE and --free.
func (r *mkimageRequest) sizes(c *cli.Context) error {
	switch s := c.Args().Get(1); s {
	case "auto":
		r.auto = true
	case "":
		st, err := os.Stat(r.image)
		r.auto = len(r.from) > 0 && r.offset == 0 && (err != nil || st.Mode().IsRegular())
	default:
		n, err := r.blocksOrBytes(s)
		if err != nil || n == 0 {
			return usageHint("blocks, or bytes as 512m, or auto", "SIZE %q is no size", s)
		}
		r.size = n
	}
	if r.auto && r.offset > 0 {
		return usagef("-E offset= wants a SIZE")
	}
	free := c.String("free")
	if free == "" {
		return nil
	}
	if !r.auto {
		return usagef("--free goes with the size auto")
	}
	if p, ok := strings.CutSuffix(free, "%"); ok {
		v, err := strconv.ParseFloat(p, 64)
		if err != nil || !(v >= 0 && v < 100) {
			return usagef("--free %s: want 0%% to less than 100%%", free)
		}
		r.free.Percent = v
		return nil
	}
	n, err := parseSize(free)
	if err != nil {
		return usagef("--free: %v", err)
	}
	r.free.Bytes = n
	return nil
}

// inside refuses an image that would lie within the directory that fills it.
func (r *mkimageRequest) inside() error {
	dir, err := filepath.Abs(r.image)
	if err == nil {
		dir, err = filepath.EvalSymlinks(filepath.Dir(dir))
	}
	if err != nil {
		return err
	}
	for _, from := range r.from {
		if from == "-" {
			continue
		}
		src, err := filepath.Abs(from)
		if err == nil {
			src, err = filepath.EvalSymlinks(src)
		}
		if err != nil {
			return err
		}
		if st, err := os.Stat(src); err != nil || !st.IsDir() {
			continue
		}
		if rel, err := filepath.Rel(src, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return usageHint("put the image elsewhere", "%s lies within %s, which it is to be filled from", r.image, from)
		}
	}
	return nil
}

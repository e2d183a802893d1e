package commands

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fusesrv"
)

// A mountOption is a word that stands behind -o.
type mountOption struct {
	value valueRule
	take  func(r *mountRequest, value string) error // nil: it has no effect
}

// A valueRule says whether an option has a value behind it.
type valueRule int

const (
	noValue valueRule = iota
	mayHaveValue
	wantsValue
)

// mountOptions are the options that [mountRequest.option] takes itself. Those of mount(8) that
// are about the mount and not the file system, it leaves to [fusesrv.ParseFlags].
var mountOptions = map[string]mountOption{
	"ro":                  {take: setWrite(writeNever)},
	"rw":                  {take: setWrite(writeOrFail)},
	"offset":              {wantsValue, func(r *mountRequest, v string) error { return setBytes(&r.open.offset, v) }},
	"sizelimit":           {wantsValue, func(r *mountRequest, v string) error { return setBytes(&r.open.limit, v) }},
	"sb":                  {wantsValue, takeSuperblock},
	"norecovery":          {take: set(func(r *mountRequest) *bool { return &r.open.ext4.NoRecovery }, true)},
	"noload":              {take: set(func(r *mountRequest) *bool { return &r.open.ext4.NoRecovery }, true)},
	"journal":             {wantsValue, takeJournal},
	"journal_path":        {wantsValue, takeJournal},
	"journal_dev":         {wantsValue, takeJournalDev},
	"cache_size":          {wantsValue, takeCacheSize},
	"commit":              {wantsValue, takeCommit},
	"errors":              {wantsValue, takeErrors},
	"data":                {wantsValue, takeData},
	"discard":             {take: takeDiscard(true)},
	"nodiscard":           {take: takeDiscard(false)},
	"acl":                 {take: setACL(true)},
	"noacl":               {take: setACL(false)},
	"user_xattr":          {take: set(func(r *mountRequest) *bool { return &r.open.ext4.NoUserXattr }, false)},
	"nouser_xattr":        {take: set(func(r *mountRequest) *bool { return &r.open.ext4.NoUserXattr }, true)},
	"grpid":               {take: takeGroupOfDir(true)},
	"bsdgroups":           {take: takeGroupOfDir(true)},
	"nogrpid":             {take: takeGroupOfDir(false)},
	"sysvgroups":          {take: takeGroupOfDir(false)},
	"resuid":              {wantsValue, takeID(func(r *mountRequest) **uint32 { return &r.open.ext4.ReservedUID })},
	"resgid":              {wantsValue, takeID(func(r *mountRequest) **uint32 { return &r.open.ext4.ReservedGID })},
	"minixdf":             {take: set(func(r *mountRequest) *bool { return &r.open.ext4.MinixDF }, true)},
	"bsddf":               {take: set(func(r *mountRequest) *bool { return &r.open.ext4.MinixDF }, false)},
	"usrquota":            {take: takeQuota(disk.QuotaUser)},
	"quota":               {take: takeQuota(disk.QuotaUser)},
	"grpquota":            {take: takeQuota(disk.QuotaGroup)},
	"prjquota":            {take: takeQuota(disk.QuotaProject)},
	"noquota":             {take: takeNoQuota},
	"usrjquota":           {mayHaveValue, takeQuotaFile},
	"grpjquota":           {mayHaveValue, takeQuotaFile},
	"jqfmt":               {wantsValue, takeQuotaFile},
	"writeback_cache":     {take: set(func(r *mountRequest) *bool { return &r.serve.WriteBack }, true)},
	"fuseblk":             {wantsValue, takeBlock},
	"iomap":               {mayHaveValue, takeIomap},
	"noiomap_cache":       {take: set(func(r *mountRequest) *bool { return &r.serve.IomapNoCache }, true)},
	"trace":               {wantsValue, func(r *mountRequest, v string) (err error) { r.trace, err = filepath.Abs(v); return err }},
	"oom_score_adj":       {wantsValue, takeOOM},
	"log":                 {wantsValue, func(r *mountRequest, v string) (err error) { r.log, err = filepath.Abs(v); return err }},
	"allow_other":         {take: set(func(r *mountRequest) *bool { return &r.serve.AllowOther }, true)},
	"fsname":              {wantsValue, func(r *mountRequest, v string) error { r.serve.FSName = v; return nil }},
	"subtype":             {wantsValue, func(r *mountRequest, v string) error { r.serve.Subtype = v; return nil }},
	"uid":                 {wantsValue, takeID(func(r *mountRequest) **uint32 { return &r.serve.UID })},
	"gid":                 {wantsValue, takeID(func(r *mountRequest) **uint32 { return &r.serve.GID })},
	"fakeroot":            {take: set(func(r *mountRequest) *bool { return &r.serve.Fakeroot }, true)},
	"dirsync":             {take: takeSync("dirsync")},
	"sync":                {take: takeSync("sync")},
	"remount":             {take: set(func(r *mountRequest) *bool { return &r.remount }, true)},
	"default_permissions": {}, // the kernel decides here always

	// Of the kernel's ext4, and without a meaning here.
	"debug": {}, "nobarrier": {}, "barrier": {value: mayHaveValue}, "auto_da_alloc": {value: mayHaveValue}, "noauto_da_alloc": {},
	"delalloc": {}, "nodelalloc": {}, "journal_checksum": {}, "nojournal_checksum": {}, "journal_async_commit": {},
	"journal_ioprio": {value: wantsValue}, "data_err": {value: wantsValue}, "block_validity": {}, "noblock_validity": {},
	"dioread_lock": {}, "dioread_nolock": {}, "nodioread_nolock": {}, "max_batch_time": {value: wantsValue}, "min_batch_time": {value: wantsValue},
	"stripe": {value: wantsValue}, "init_itable": {value: mayHaveValue}, "noinit_itable": {}, "inode_readahead_blks": {value: wantsValue},
	"max_dir_size_kb": {value: wantsValue}, "i_version": {}, "nombcache": {}, "no_mbcache": {}, "mb_optimize_scan": {value: wantsValue},
	"prefetch_block_bitmaps": {}, "no_prefetch_block_bitmaps": {},
	"nouid32": {}, "oldalloc": {}, "orlov": {}, "bh": {}, "nobh": {}, "check": {value: mayHaveValue}, "nocheck": {}, "reservation": {}, "noreservation": {},
	"abort": {take: refuse("it would stop the file system at once: use e4go's EXT4_IOC_SHUTDOWN")},
	"dax":   {value: mayHaveValue, take: refuse("there is no DAX behind FUSE")},

	"namespace": {value: wantsValue, take: refuse("run it in that mount namespace instead, as with nsenter -m")},

	// Of mount(8) and fstab(5), which have done what they say.
	"defaults": {}, "auto": {}, "noauto": {}, "user": {value: mayHaveValue}, "nouser": {}, "users": {}, "nousers": {}, "owner": {}, "noowner": {},
	"group": {}, "nogroup": {}, "nofail": {}, "_netdev": {}, "loop": {value: mayHaveValue}, "comment": {value: mayHaveValue},
	"helper": {value: wantsValue}, "uhelper": {value: wantsValue}, "silent": {}, "loud": {},
}

// kernelOptions are what mount(8) finds in the table of mounts, and gives back with remount.
var kernelOptions = []string{"fd", "rootmode", "user_id", "group_id", "max_read", "blksize"}

// superOptions are the options that have an effect when they stand in the superblock, which an image
// that nobody trusts may have, too: ext4's own, without those that name a device.
var superOptions = []string{
	"norecovery", "noload", "commit", "errors", "data", "discard", "nodiscard", "acl", "noacl", "user_xattr", "nouser_xattr",
	"grpid", "bsdgroups", "nogrpid", "sysvgroups", "resuid", "resgid", "minixdf", "bsddf",
	"usrquota", "quota", "grpquota", "prjquota", "noquota", "usrjquota", "grpjquota", "jqfmt", "lazytime", "nolazytime",
}

// mountOptionNames are all names, for who has mistyped one.
func mountOptionNames() []string {
	names := fusesrv.FlagNames()
	for name := range mountOptions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// options takes a list of mount options, separated by commas. sloppy says to pass over those
// that nobody knows.
func (r *mountRequest) options(list string, sloppy bool) error {
	for _, o := range splitOptions(list) {
		if err := r.option(o, sloppy); err != nil {
			return err
		}
	}
	return nil
}

// splitOptions splits at commas, but for those within quotes, as mount(8) does.
func splitOptions(list string) []string {
	var out []string
	start, quoted := 0, false
	for i := range len(list) + 1 {
		switch {
		case i < len(list) && list[i] == '"':
			quoted = !quoted
		case i == len(list) || list[i] == ',' && !quoted:
			if i > start {
				out = append(out, list[start:i])
			}
			start = i + 1
		}
	}
	return out
}

// option takes one mount option.
func (r *mountRequest) option(o string, sloppy bool) error {
	name, value, hasValue := strings.Cut(o, "=")
	if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") {
		return nil // for others: mount(8), systemd, desktops
	}
	m, ok := mountOptions[name]
	switch {
	case r.ofSuper && !slices.Contains(superOptions, name) && (!ok || m.take != nil):
		return usagef("mount option %s is not one for the superblock", name)
	case slices.Contains(kernelOptions, name):
		r.fromKernel = name
		return nil
	case !ok:
		_, err := fusesrv.ParseFlags([]string{o})
		if err == nil && hasValue && !selinux() {
			r.warnf("%s has no effect: SELinux is not enabled here", name)
		} else if err == nil {
			r.serve.Extra = append(r.serve.Extra, o)
		} else if !sloppy {
			return usageHint(didYouMean(name, mountOptionNames()), "%v", err)
		}
		return nil
	case hasValue && m.value == noValue:
		return usagef("mount option %s takes no value", name)
	case m.value == wantsValue && value == "":
		return usagef("mount option %s wants a value: %s=...", name, name)
	case m.take == nil:
		return nil
	}
	if err := m.take(r, value); err != nil {
		return usagef("mount option %s: %v", o, err)
	}
	return nil
}

// selinux reports whether the kernel knows what a context is. Like mount(8) we do not give it one otherwise.
func selinux() bool {
	_, err := os.Stat("/sys/fs/selinux")
	return err == nil
}

func set(field func(r *mountRequest) *bool, to bool) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error { *field(r) = to; return nil }
}

func refuse(why string) func(*mountRequest, string) error {
	return func(*mountRequest, string) error { return errors.New(why) }
}

func setWrite(w writeRule) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error { r.write = w; return nil }
}

func setACL(on bool) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error {
		r.open.ext4.NoACL, r.serve.NoACL = !on, !on
		return nil
	}
}

// takeSync takes what also makes changes of directories durable.
func takeSync(name string) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error {
		r.open.ext4.Dirsync = true
		r.serve.Extra = append(r.serve.Extra, name)
		return nil
	}
}

func setBytes(to *uint64, v string) (err error) {
	*to, err = parseSize(v)
	return err
}

func takeSuperblock(r *mountRequest, v string) error {
	n, err := parseSize(v)
	if err == nil && (n == 0 || n >= 1<<53) {
		err = errors.New("want a block number in units of 1 KiB, at least 1")
	}
	r.open.ext4.Superblock = int64(n) << 10
	return err
}

func takeJournal(r *mountRequest, v string) (err error) {
	r.open.journal, err = filepath.Abs(v)
	return err
}

// takeJournalDev takes the number of a device as the kernel writes it
// (new_decode_dev).
func takeJournalDev(r *mountRequest, v string) error {
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return errors.New("want the number of a device, as 0x801; or journal_path=PATH")
	}
	dev, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", n>>8&0xfff, n&0xff|n>>12&0xfff00))
	if err != nil {
		return fmt.Errorf("%w; or use journal_path=PATH", err)
	}
	return takeJournal(r, "/dev/"+filepath.Base(dev))
}

func takeCacheSize(r *mountRequest, v string) error {
	n, err := parseSize(v)
	r.open.ext4.CacheSize = int64(n)
	return err
}

func takeCommit(r *mountRequest, v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return errors.New("want a number of seconds, up to 65535")
	}
	r.open.ext4.CommitInterval = time.Duration(n) * time.Second // 0 is the default, as in ext4
	return nil
}

func takeErrors(r *mountRequest, v string) error {
	policy, ok := map[string]ext4.ErrorPolicy{
		"continue": ext4.ErrorsContinue, "remount-ro": ext4.ErrorsRemountRO, "panic": ext4.ErrorsPanic,
	}[v]
	if !ok {
		return errors.New("want continue, remount-ro or panic")
	}
	r.open.ext4.Errors = policy
	return nil
}

func takeData(r *mountRequest, v string) error {
	switch {
	case v == "ordered" || v == "writeback": // ordered promises more
	case v == "journal" && !r.ofSuper:
		return errors.New("contents are not journaled here: data=ordered is what there is")
	case v != "journal":
		return errors.New("want ordered or writeback")
	}
	r.journaled = v == "journal"
	return nil
}

func takeDiscard(on bool) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error {
		r.open.ext4.Discard, r.open.ext4.NoDiscard = on, !on
		return nil
	}
}

func takeGroupOfDir(on bool) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error {
		r.open.ext4.GroupOfDir, r.open.ext4.NoGroupOfDir = on, !on
		return nil
	}
}

func takeID(field func(r *mountRequest) **uint32) func(*mountRequest, string) error {
	return func(r *mountRequest, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 1<<32-1 {
			return errors.New("want the number of a user or group")
		}
		id := uint32(n)
		*field(r) = &id
		return nil
	}
}

func takeQuota(q disk.QuotaType) func(*mountRequest, string) error {
	return func(r *mountRequest, _ string) error {
		if !slices.Contains(r.open.ext4.QuotaLimits, q) {
			r.open.ext4.QuotaLimits = append(r.open.ext4.QuotaLimits, q)
		}
		return nil
	}
}

func takeNoQuota(r *mountRequest, _ string) error {
	r.open.ext4.QuotaLimits = nil
	return nil
}

// takeQuotaFile takes the name of a file that has quota, or the format of such files. Without a
// value, the option turns that off.
func takeQuotaFile(r *mountRequest, v string) error {
	r.quotaFiles = r.quotaFiles || v != ""
	return nil
}

func takeIomap(r *mountRequest, v string) error {
	switch v {
	case "", "1":
		support, err := fusesrv.AskIomap()
		if err == nil {
			err = support.Usable()
		}
		if err != nil {
			return fmt.Errorf("%w: iomap=default reads and writes contents by itself", err)
		}
		r.serve.Iomap, r.open.ext4.Now = true, fusesrv.KernelTime
		return nil
	case "0", "default":
		r.serve.Iomap, r.open.ext4.Now = false, nil
		return nil
	}
	return errors.New("want 0, 1 or default")
}

func takeBlock(r *mountRequest, v string) error {
	choice, ok := map[string]fusesrv.BlockChoice{"0": fusesrv.BlockNever, "1": fusesrv.BlockAlways, "default": fusesrv.BlockDefault}[v]
	if !ok {
		return errors.New("want 0, 1 or default")
	}
	r.serve.Block = choice
	return nil
}

func takeOOM(r *mountRequest, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < -1000 || n > 1000 {
		return errors.New("want a number from -1000 to 1000")
	}
	r.oom = &n
	return nil
}

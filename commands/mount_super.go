package commands

import (
	"fmt"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// The mode of the journal in s_default_mount_opts (EXT4_DEFM_JMODE).
const (
	defaultJournalMode = 0x60
	defaultJournalData = 0x20
)

// super is the superblock of what is to be mounted, nil if it cannot be read: opening the
// file system says why. Like the kernel's ext4 we look at it before the journal is replayed.
func (r *mountRequest) super() *disk.Superblock {
	o := r.open
	o.ext4.Write = false
	dev, err := o.device(r.image, blockdev.LockNone)
	if err != nil {
		return nil
	}
	defer dev.Close()
	sb, _, err := ext4.ReadSuper(dev, o.ext4)
	if err != nil {
		return nil
	}
	return &sb
}

// superDefaults takes the mount options that the superblock has: bits of s_default_mount_opts, as far as ext4.Open
// does not, and the text s_mount_opts, as a whole or, with a warning, not at all (ext4_set_def_opts and
// parse_apply_sb_mount_options in fs/ext4/super.c).
func (r *mountRequest) superDefaults(sb *disk.Superblock) {
	r.journaled = sb.DefaultMountOpts&defaultJournalMode == defaultJournalData
	with := *r
	with.ofSuper = true
	if err := with.options(sb.MountOpts, false); err != nil {
		r.warnf("the mount options in the superblock are not used (%s): %v", shownName(sb.MountOpts), err)
		return
	}
	*r = with
	r.ofSuper = false
}

// check warns of what was asked for and does not happen in this file system.
func (r *mountRequest) check(fs *ext4.FS) {
	if !fs.Writable() {
		return
	}
	if r.journaled {
		r.warnf("the superblock says data=journal: contents are not journaled here, it is data=ordered")
	}
	sb := fs.Super()
	counted := func(t disk.QuotaType) bool { return sb.ROCompat.Has(disk.ROCompatQuota) && sb.QuotaIno(t) != 0 }
	for _, t := range r.open.ext4.QuotaLimits {
		if !counted(t) {
			r.warnf("%squota has no effect: the file system does not count what each %s uses; when it is unmounted, tune2fs -O quota -Q %[1]squota lets it", [...]string{"usr", "grp", "prj"}[t], t)
		}
	}
	if r.quotaFiles && !sb.ROCompat.Has(disk.ROCompatQuota) {
		r.warnf("usrjquota=, grpjquota= and jqfmt= have no effect: quota files with names are not kept up here, and want quotacheck before the kernel's ext4 uses them again; when it is unmounted, tune2fs -O quota makes the file system count by itself")
	}
}

func (r *mountRequest) warnf(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

package ext4

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A dquotKey names whose usage an entry of a quota file counts.
type dquotKey struct {
	t  disk.QuotaType
	id uint32
}

// usage is what inodes take, or by how much that changes.
type usage struct {
	space  int64 // bytes
	inodes int64
}

// usages changes by update.
type usages map[dquotKey]usage

func (u usages) add(ids [disk.QuotaTypes]uint32, by usage, times int64) {
	for t, id := range ids {
		k := dquotKey{disk.QuotaType(t), id}
		u[k] = usage{u[k].space + times*by.space, u[k].inodes + times*by.inodes}
	}
}

// limit says that the update is for a caller whose limits count: where it
// would exceed them, it fails with EDQUOT.
func (h *Handle) limit(c Caller) { h.limited = !c.Privileged }

// quotaIDs are the ids that the inode counts for.
func quotaIDs(d *disk.Inode) [disk.QuotaTypes]uint32 {
	return [disk.QuotaTypes]uint32{d.UID, d.GID, d.ProjID}
}

// hasQuota reports whether the inode counts: those of the file system itself
// do not, nor do EA inodes, which whoever names them is charged for. e2fsprogs forget the
// inline links that they make.
func (in *Inode) hasQuota() bool {
	return !in.internal() && !(in.Type() == disk.ModeLink && in.HasInlineData())
}

// usage is what the inode takes, but for the number of EA inodes that it is charged for.
func (in *Inode) usage() usage { return usage{int64(in.disk.Sectors(&in.fs.sb)) << 9, 1} }

// chargeQuota brings what the update changes of anybody's usage into the quota
// files: of each inode that it changes, what that took before is given back, and what it takes
// now charged, to whom it belongs now.
func (h *Handle) chargeQuota() error {
	if !h.fs.sb.ROCompat.Has(disk.ROCompatQuota) {
		return nil
	}
	total := make(usages)
	for _, in := range h.inodes {
		if err := h.countChange(total, in); err != nil {
			return err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(total), func(a, b dquotKey) int { return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.id, b.id)) }) {
		if u := total[k]; u != (usage{}) && h.fs.sb.QuotaIno(k.t) != 0 {
			if err := h.chargeDquot(k, u); err != nil {
				return fmt.Errorf("quota of %s %d: %w", k.t, k.id, err)
			}
		}
	}
	return nil
}

// countChange adds to total what changes with inode in.
func (h *Handle) countChange(total usages, in *Inode) error {
	values := h.eaCharged[in.ino] // EA inodes more than before
	isNew := slices.Contains(h.inoNew, in.ino)
	isFreed := slices.ContainsFunc(h.inoFree, func(f freedInode) bool { return f.ino == in.ino })
	var before *Inode
	if !isNew {
		var err error
		if before, err = h.fs.Inode(in.ino); err != nil {
			return err
		}
	}
	from, to := [disk.QuotaTypes]uint32{}, quotaIDs(&in.disk)
	if before != nil && before.hasQuota() {
		from = quotaIDs(&before.disk)
		total.add(from, before.usage(), -1)
		if isFreed || from == to {
			total.add(from, usage{0, values}, 1)
		} else {
			now, err := in.eaValues()
			if err != nil {
				return err
			}
			total.add(from, usage{0, now - values}, -1)
			total.add(to, usage{0, now}, 1)
		}
	}
	if !isFreed && in.hasQuota() {
		total.add(to, in.usage(), 1)
		if isNew {
			total.add(to, usage{0, values}, 1)
		}
	}
	return nil
}

// eaValues is how many EA inodes the inode is charged for.
func (in *Inode) eaValues() (n int64, err error) {
	if !in.fs.sb.Incompat.Has(disk.IncompatEAInode) || !in.hasXattrs() {
		return 0, nil
	}
	list, err := in.stored()
	for i := range list {
		if list[i].ValueIno != 0 {
			n++
		}
	}
	return n, err
}

// chargeDquot changes the entry of one id (dquot_add_space, dquot_add_inodes
// and their inverse).
func (h *Handle) chargeDquot(k dquotKey, by usage) error {
	q, err := h.quotaFile(k.t)
	if err != nil {
		return err
	}
	b, err := q.entry(k.id)
	if err != nil {
		return err
	}
	e := disk.DecodeQuotaEntry(b)
	e.ID = k.id
	head, err := q.header()
	if err != nil {
		return err
	}
	enforce := slices.Contains(h.fs.opts.QuotaLimits, k.t)
	now := h.rw.now().Unix()
	e.Space, e.BlockTime, err = charge(e.Space, by.space, e.BlockHardLimit<<10, e.BlockSoftLimit<<10, e.BlockTime, now, int64(head.BlockGrace), enforce, h.limited)
	if err != nil {
		return err
	}
	e.Inodes, e.InodeTime, err = charge(e.Inodes, by.inodes, e.InodeHardLimit, e.InodeSoftLimit, e.InodeTime, now, int64(head.InodeGrace), enforce, h.limited)
	if err != nil {
		return err
	}
	e.Put(b)
	disk.KeepQuotaEntry(b)
	return nil
}

// charge is a count of usage, and the time at which it may stay above the soft
// limit no longer, after a change. With enforce, time runs from when the soft limit is
// exceeded; who is limited cannot have more when it is over, nor ever more than the hard limit.
func charge(have uint64, by int64, hard, soft, until uint64, now, grace int64, enforce, limited bool) (uint64, uint64, error) {
	sum := uint64(max(int64(have)+by, 0))
	switch {
	case by == 0:
		return have, until, nil
	case by < 0:
		if sum <= soft {
			until = 0
		}
		return sum, until, nil
	case !enforce:
		return sum, until, nil
	case limited && hard != 0 && sum > hard:
		return 0, 0, fmt.Errorf("%d would be more than the hard limit, %d: %w", sum, hard, unix.EDQUOT)
	case soft != 0 && sum > soft && until == 0:
		return sum, uint64(now + grace), nil
	case limited && soft != 0 && sum > soft && uint64(now) >= until:
		return 0, 0, fmt.Errorf("%d would be more than the soft limit, %d, for too long: %w", sum, soft, unix.EDQUOT)
	}
	return sum, until, nil
}

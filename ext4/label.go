package ext4

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// maxLabel is how long a label can be, in bytes (EXT4_LABEL_MAX).
const maxLabel = 16

// Label is the name of the file system (FS_IOC_GETFSLABEL).
func (fs *FS) Label() string { return fs.superNow().Label }

// UUID is the identity of the file system (EXT4_IOC_GETFSUUID).
func (fs *FS) UUID() [16]byte { return fs.superNow().UUID }

// superNow is the superblock as the last update left it, but for the counts.
func (fs *FS) superNow() disk.Superblock {
	if fs.rw == nil {
		return fs.sb
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	return fs.rw.super
}

// SetLabel names the file system (FS_IOC_SETFSLABEL). It fails with a wrapped EPERM if the
// caller is not privileged, and EINVAL for more than 16 bytes, or a NUL among them.
func (fs *FS) SetLabel(ctx context.Context, c Caller, label string) error {
	err := error(nil)
	switch {
	case !c.Privileged:
		err = unix.EPERM
	case len(label) > maxLabel || strings.Contains(label, "\x00"):
		err = unix.EINVAL
	default:
		err = fs.changeSupers(ctx, func(sb *disk.Superblock) { sb.Label = label })
	}
	if err != nil {
		return fmt.Errorf("set the label to %q: %w", label, err)
	}
	return nil
}

// SetUUID changes the identity of the file system (EXT4_IOC_SETFSUUID). It fails with a
// wrapped EPERM if the caller is not privileged, and EOPNOTSUPP if checksums, or the hashes
// of EA inodes, start from it, or encryption does: tune2fs can compute them anew.
func (fs *FS) SetUUID(ctx context.Context, c Caller, uuid [16]byte) error {
	err := error(nil)
	switch {
	case !c.Privileged:
		err = unix.EPERM
	case fs.needsUUID():
		err = unix.EOPNOTSUPP
	default:
		err = fs.changeSupers(ctx, func(sb *disk.Superblock) { sb.UUID = uuid })
	}
	if err != nil {
		return fmt.Errorf("set the UUID: %w", err)
	}
	return nil
}

// needsUUID reports whether something in the file system is right with this UUID only. The
// kernel forgets EA inodes without checksums, whose values then cannot be read any more, and the
// descriptors' old checksums, which start from the UUID also where there is a seed.
func (fs *FS) needsUUID() bool {
	sb := &fs.sb
	seeded := sb.MetadataCsum() || sb.Incompat.Has(disk.IncompatEAInode)
	return seeded && !sb.Incompat.Has(disk.IncompatCsumSeed) || !sb.MetadataCsum() && sb.DescChecksums() || sb.Compat.Has(disk.CompatStableInodes)
}

// backupsAtOnce is how many backups of the superblock one update changes. All of them
// are in the first, unless every group has one.
const backupsAtOnce = 32

// changeSupers changes the superblock, and its backups (ext4_update_superblocks_fn).
func (fs *FS) changeSupers(ctx context.Context, change func(*disk.Superblock)) error {
	if fs.rw == nil {
		return ErrReadOnly
	}
	var backups []disk.PBlock
	for g := disk.Group(1); uint64(g) < fs.sb.Groups(); g++ {
		if fs.sb.HasSuper(g) {
			backups = append(backups, fs.sb.FirstBlock(g))
		}
	}
	for at := 0; at == 0 || at < len(backups); at += backupsAtOnce {
		part := backups[at:min(at+backupsAtOnce, len(backups))]
		err := fs.Update(ctx, func(h *Handle) error {
			if at == 0 {
				h.after = append(h.after, func() {
					change(&h.rw.super)
					h.rw.running.super = true
				})
			}
			return h.changeBackups(part, change)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changeBackups changes the superblocks that the blocks begin with. What is no superblock
// stays as it is: e2fsck puts one there.
func (h *Handle) changeBackups(blocks []disk.PBlock, change func(*disk.Superblock)) error {
	for _, n := range blocks {
		data, err := h.fs.bytes(n)
		if err != nil {
			return fmt.Errorf("backup of the superblock: %w", err)
		}
		raw := data[:disk.SuperblockSize]
		if err := disk.CheckSuperblock(raw, int64(n)<<h.fs.sb.BlockBits()); errors.Is(err, disk.ErrCorrupt) {
			continue
		}
		if data, err = h.edit(kindSuper, nil, n); err != nil {
			return err
		}
		raw = data[:disk.SuperblockSize]
		sb := disk.DecodeSuperblock(raw)
		change(&sb)
		sb.Put(raw)
		if sb.MetadataCsum() {
			sb.Checksum = disk.SuperblockChecksum(raw)
			sb.Put(raw)
		}
	}
	return nil
}

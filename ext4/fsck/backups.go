package fsck

import (
	"errors"
	"fmt"

	"e4go/ext4/disk"
)

// The features that a kernel sets in the primary superblock alone.
const (
	primaryCompat   = disk.CompatExtAttr
	primaryIncompat = disk.IncompatExtents | disk.IncompatRecover
	primaryROCompat = disk.ROCompatLargeFile | disk.ROCompatDirNlink | disk.ROCompatOrphanPresent
)

// backupDescs is how many backups' descriptors are compared: without
// sparse_super every group has all of them.
const backupDescs = 4

// checkBackups compares the backups with what is in use. They matter when the
// primary is lost: what differs is no damage yet.
func (c *checker) checkBackups() error {
	compared := 0
	for i := 1; i < len(c.groups); i++ {
		g := disk.Group(i)
		if !c.sb.HasSuper(g) {
			continue
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		at := int64(c.sb.FirstBlock(g)) << c.bits
		if at == c.superAt {
			continue
		}
		raw, ok, err := c.readSuper(at)
		if err != nil {
			return err
		}
		if !ok || !c.checkBackup(g, at, raw) || compared >= backupDescs {
			continue
		}
		compared++
		if err := c.checkBackupGroups(g); err != nil {
			return err
		}
	}
	return nil
}

// checkBackup compares the superblock of group g. It returns false if that is none.
func (c *checker) checkBackup(g disk.Group, at int64, raw []byte) bool {
	place := Place{Group: g, InGroup: true, Block: disk.PBlock(at >> c.bits), OnBlock: true}
	differs := func(have, want string) {
		c.rep.add(backupSuper, Problem{Place: place, Have: have, Want: want})
	}
	if err, _ := disk.CheckSuperblock(raw, at).(*disk.CorruptError); err != nil {
		differs(err.Field+" is "+err.Have, err.Want)
		return false
	}
	b, sb := disk.DecodeSuperblock(raw), &c.sb
	for _, f := range []struct {
		name       string
		have, want uint64
	}{
		{"s_inodes_count", uint64(b.Inodes), uint64(sb.Inodes)},
		{"s_blocks_count", b.Blocks, sb.Blocks},
		{"s_log_block_size", uint64(b.LogBlockSize), uint64(sb.LogBlockSize)},
		{"s_log_cluster_size", uint64(b.LogClusterSize), uint64(sb.LogClusterSize)},
		{"s_blocks_per_group", uint64(b.BlocksPerGroup), uint64(sb.BlocksPerGroup)},
		{"s_inodes_per_group", uint64(b.InodesPerGroup), uint64(sb.InodesPerGroup)},
		{"s_inode_size", uint64(b.InodeSize), uint64(sb.InodeSize)},
		{"s_desc_size", uint64(b.DescSize), uint64(sb.DescSize)},
		{"s_feature_compat", uint64(b.Compat &^ primaryCompat), uint64(sb.Compat &^ primaryCompat)},
		{"s_feature_incompat", uint64(b.Incompat &^ primaryIncompat), uint64(sb.Incompat &^ primaryIncompat)},
		{"s_feature_ro_compat", uint64(b.ROCompat &^ primaryROCompat), uint64(sb.ROCompat &^ primaryROCompat)},
	} {
		if f.have != f.want {
			differs(fmt.Sprintf("%s is %#x", f.name, f.have), hex(f.want))
			return true
		}
	}
	if b.UUID != sb.UUID {
		differs(fmt.Sprintf("s_uuid is %x", b.UUID), fmt.Sprintf("%x", sb.UUID))
	}
	return true
}

// checkBackupGroups compares where the descriptors that go with the superblock
// of group g put bitmaps and tables.
func (c *checker) checkBackupGroups(g disk.Group) error {
	size, per := c.sb.GroupDescSize(), c.sb.DescPerBlock()
	buf := make([]byte, c.bs)
	for i := 0; i*per < len(c.groups); i++ {
		blk := c.sb.DescBlock(c.sb.FirstBlock(g), uint64(i))
		switch err := c.read(blk, buf); {
		case errors.Is(err, errBeyond):
			return nil
		case err != nil:
			return fmt.Errorf("backup of the group descriptors: %w", err)
		}
		for j := range min(per, len(c.groups)-i*per) {
			num := i*per + j
			have, want := disk.DecodeGroupDesc(buf[j*size:][:size]), &c.groups[num].GroupDesc
			if have.BlockBitmap != want.BlockBitmap || have.InodeBitmap != want.InodeBitmap || have.InodeTable != want.InodeTable {
				c.rep.add(backupGroups, Problem{
					Place: Place{Group: g, InGroup: true, Block: blk, Off: j * size, OnBlock: true},
					Have:  fmt.Sprintf("bitmaps and table of group %d at %d, %d and %d", num, have.BlockBitmap, have.InodeBitmap, have.InodeTable),
					Want:  fmt.Sprintf("%d, %d and %d", want.BlockBitmap, want.InodeBitmap, want.InodeTable),
				})
				return nil
			}
		}
	}
	return nil
}

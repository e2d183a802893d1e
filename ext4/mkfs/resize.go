package mkfs

import (
	"e4go/ext4/disk"
)

const resizeIno disk.Ino = 7

// finishResizeInode writes the resize inode's map. The blocks that are
// reserved for descriptors behind the primary descriptors are its blocks of pointers,
// each of which leads to the same block of each backup
// (ext2fs_create_resize_inode).
func (v *volume) finishResizeInode() (*inode, error) {
	if v.builtin.resize == 0 {
		return nil, nil
	}
	bs := v.sb.BlockSize()
	per := uint64(bs / 4)
	in := v.newInode(disk.ModeReg|0o600, 1)
	in.Size = (per*per + per + disk.DirectBlocks) << v.sb.BlockBits()
	le.PutUint32(in.Block[4*(disk.DirectBlocks+1):], uint32(v.builtin.resize))
	blocks := uint64(1)

	dind, inds := make([]byte, bs), blockRun{v: v}
	backups := v.superGroups()[1:]
	first := uint64(v.sb.FirstDataBlock) + 1 + v.p.desc
	if v.sb.BlockSize() == 1024 && v.sb.FirstDataBlock == 0 {
		first++ // the boot block
	}
	for i := range uint64(v.sb.ReservedGDT) {
		at := first + i
		ind, err := inds.block(disk.PBlock(at))
		if err != nil {
			return nil, err
		}
		for n, g := range backups {
			le.PutUint32(ind[4*n:], uint32(uint64(v.sb.FirstBlock(g))+at-uint64(v.sb.FirstDataBlock)))
		}
		le.PutUint32(dind[4*((v.p.desc+i)%per):], uint32(at))
		blocks += uint64(1 + len(backups))
	}
	if err := inds.flush(); err != nil {
		return nil, err
	}
	v.addBlocks(&in.Inode, blocks<<v.sb.ClusterBits()) // each block counts as a cluster
	return in, v.writeBlock(v.builtin.resize, dind)
}

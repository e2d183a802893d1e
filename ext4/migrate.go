package ext4

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// SetGeneration gives inode ino another generation (EXT4_IOC_SETVERSION).
// Whoever holds the inode as it was finds it stale, and has to look it up again. It fails with a
// wrapped ENOTTY where metadata have checksums, since these start from the generation.
// Whose the file is, is not asked.
func (fs *FS) SetGeneration(ctx context.Context, ino disk.Ino, generation uint32) error {
	err := fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		switch {
		case err != nil:
			return err
		case fs.sb.MetadataCsum():
			return unix.ENOTTY
		case in.internal():
			return unix.EPERM
		}
		in.disk.Generation = generation
		in.seed = disk.InodeSeed(fs.seed, ino, generation)
		in.touch(false)
		return nil
	})
	if err != nil {
		return fmt.Errorf("set the generation of inode %d: %w", ino, err)
	}
	return nil
}

// Migrate gives inode ino, which has a map of block numbers, one of extents
// (EXT4_IOC_MIGRATE), in one update: after a crash it has the one or the other. It fails
// with a wrapped EINVAL if the inode has extents or inline data already, or the file system
// does not have the feature. A short symbolic link has no map, and stays as it is.
func (fs *FS) Migrate(ctx context.Context, c Caller, ino disk.Ino) error {
	if fs.rw == nil {
		return ErrReadOnly
	}
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		switch {
		case err != nil:
			return err
		case in.internal():
			return unix.EPERM
		}
		h.limit(c)
		if err := h.migrate(c, in, true); err != nil {
			return err
		}
		in.touch(false)
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate inode %d: %w", ino, err)
	}
	return nil
}

// migrate changes the form of an inode's map. The data stay where they are. The caller
// holds the inode's lock.
func (h *Handle) migrate(c Caller, in *Inode, extents bool) error {
	h.unprivileged = !c.mayUseReserved(h.rw)
	if extents {
		return h.toExtents(in)
	}
	return h.toPointers(in)
}

// toExtents is ext4_ext_migrate.
func (h *Handle) toExtents(in *Inode) error {
	switch {
	case !h.fs.sb.Incompat.Has(disk.IncompatExtents), in.disk.Flags.Has(disk.FlagExtents), in.HasInlineData():
		return unix.EINVAL
	case !in.mapped():
		return nil
	}
	list, err := in.shifted(shift{}) // by nothing
	if err != nil {
		return err
	}
	if err := h.freePointers(in); err != nil {
		return err
	}
	in.disk.Flags |= disk.FlagExtents
	return h.putRoot(in, entriesOf(list), 0)
}

// freePointers gives back the blocks of numbers of the inode.
func (h *Handle) freePointers(in *Inode) error {
	var free func(b []byte, i int, n disk.PBlock, off, below int) error
	free = func(b []byte, i int, n disk.PBlock, off, below int) error {
		at, err := in.pointer(b, i, n, off)
		if at == 0 || err != nil {
			return err
		}
		if below > 0 {
			data, err := in.meta(kindIndirect, at, 0, nil)
			if err != nil {
				return err
			}
			for i := range len(data) / 4 {
				if err := free(data, i, at, 0, below-1); err != nil {
					return err
				}
			}
		}
		return h.freeNode(in, at)
	}
	for below := range 3 {
		if err := free(in.disk.Block[:], disk.DirectBlocks+below, in.block, in.off+disk.IBlockOffset, below); err != nil {
			return err
		}
	}
	return nil
}

// toPointers is ext4_ind_migrate: it takes what the direct block numbers hold, in one run,
// and fails with EOPNOTSUPP otherwise.
func (h *Handle) toPointers(in *Inode) error {
	sb := &h.fs.sb
	if !sb.Incompat.Has(disk.IncompatExtents) || !in.disk.Flags.Has(disk.FlagExtents) {
		return unix.EINVAL
	}
	head := disk.DecodeExtentHeader(in.disk.Block[:])
	if sb.ClusterBits() > 0 || sb.Blocks > math.MaxUint32 || head.Depth > 0 || head.Entries > 1 || in.disk.Size > sb.MaxFileSize(false) {
		return unix.EOPNOTSUPP
	}
	m, err := in.mapOnce(0)
	if err == nil && m.State == MapHole && m.End() < disk.DirectBlocks {
		m, err = in.mapOnce(disk.LBlock(m.End()))
	}
	switch {
	case err != nil:
		return err
	case m.State == MapHole && head.Entries > 0, m.State == MapUnwritten, m.State == MapWritten && m.End() > disk.DirectBlocks:
		return unix.EOPNOTSUPP
	}
	in.disk.Flags &^= disk.FlagExtents
	clear(in.disk.Block[:])
	if m.State == MapWritten {
		for i := range m.Len {
			binary.LittleEndian.PutUint32(in.disk.Block[4*(uint64(m.Logical)+i):], uint32(m.Physical)+uint32(i))
		}
	}
	return nil
}

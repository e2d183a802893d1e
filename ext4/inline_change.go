package ext4

import (
	"context"
	"errors"
	"slices"

	"e4go/ext4/disk"
)

// Contents that fit into the inode stand there: 60 bytes in i_block, the rest
// in the xattr system.data, which is always among those in the inode. A regular file gets
// them so with its first write, and loses the form for good when it outgrows it.

// errOutgrown says that contents do not fit into their inode.
var errOutgrown = errors.New("the contents do not fit into the inode")

// inlineRoom is how many bytes of contents the inode can hold beside its other
// xattrs, list without those at place own; 0 if none (ext4_get_max_inline_size).
func (in *Inode) inlineRoom(list []disk.Xattr, own int) int {
	rest := in.bodyRoom() - disk.XattrRoom(without(list, own)) - disk.XattrEntryLen(len(disk.InlineDataName))
	if rest < 0 || rest == 0 && own < 0 {
		return 0
	}
	return disk.IBlockSize + rest&^3
}

// setInline makes data the contents of the inode itself. It fails with
// [errOutgrown] if they do not fit. An inode that had blocks has given them back.
func (h *Handle) setInline(in *Inode, data []byte) error {
	list, err := in.bodyXattrs()
	if err != nil {
		return err
	}
	own := findXattr(list, disk.XattrSystem, disk.InlineDataName)
	if len(data) > in.inlineRoom(list, own) {
		return errOutgrown
	}
	x := disk.Xattr{
		XattrEntry: disk.XattrEntry{Index: disk.XattrSystem}, Name: []byte(disk.InlineDataName), Value: data[min(len(data), disk.IBlockSize):],
	}
	list = without(list, own)
	if own < 0 {
		own = len(list)
	}
	in.putBodyXattrs(slices.Insert(list, own, x))
	clear(in.disk.Block[:])
	copy(in.disk.Block[:], data)
	in.disk.Flags = in.disk.Flags&^disk.FlagExtents | disk.FlagInlineData
	return nil
}

// endInline makes of an inode with inline data one whose map is empty
// (ext4_destroy_inline_data_nolock). The size stays.
func (h *Handle) endInline(in *Inode) error {
	list, err := in.bodyXattrs()
	if err != nil {
		return err
	}
	in.putBodyXattrs(without(list, findXattr(list, disk.XattrSystem, disk.InlineDataName)))
	in.disk.Flags &^= disk.FlagInlineData
	clear(in.disk.Block[:])
	if h.fs.sb.Incompat.Has(disk.IncompatExtents) {
		in.disk.Flags |= disk.FlagExtents
		fillRoot(&in.disk, nil, 0)
	}
	return nil
}

// mayInline reports whether a file that has no blocks can get inline data
// with its first write.
func (in *Inode) mayInline() bool {
	d := &in.disk
	if !in.fs.sb.Incompat.Has(disk.IncompatInlineData) || in.Type() != disk.ModeReg || d.Size != 0 || d.Flags&(disk.FlagDAX|disk.FlagEAInode) != 0 {
		return false
	}
	if d.Flags.Has(disk.FlagExtents) {
		h := disk.DecodeExtentHeader(d.Block[:])
		return h.Magic == disk.ExtentMagic && h.Entries == 0
	}
	return d.Block == [disk.IBlockSize]byte{}
}

// inlineFile returns the contents of a file in an update, which are a copy,
// with n bytes: cut, or followed by zeros.
func (in *Inode) inlineFile(n int) ([]byte, error) {
	out := make([]byte, n)
	if !in.HasInlineData() {
		return out, nil
	}
	data, err := in.inlineData()
	copy(out, data)
	return out, err
}

// changeInline calls fn with a file of inline data in an update; size is what
// the file is to have. done is false if that does not fit into the inode.
func (fs *FS) changeInline(ctx context.Context, ino disk.Ino, size int64, fn func(h *Handle, in *Inode) error) (done bool, err error) {
	if size > int64(disk.IBlockSize)+int64(fs.sb.InodeSize) {
		return false, nil
	}
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		if err != nil {
			return err
		}
		return fn(h, in)
	})
	if errors.Is(err, errOutgrown) {
		return false, nil
	}
	return err == nil, err
}

// writeInline writes to a file that has inline data, or no data yet, if what
// it holds then fits into the inode. Else done is false, and the file is one that has blocks. The
// caller holds the inode's lock.
func (fs *FS) writeInline(ctx context.Context, c Caller, in *Inode, p []byte, off int64) (done bool, err error) {
	if !in.HasInlineData() && !in.mayInline() {
		return false, nil
	}
	end := off + int64(len(p))
	done, err = fs.changeInline(ctx, in.ino, end, func(h *Handle, in *Inode) error {
		data, err := in.inlineFile(int(max(end, in.Size())))
		if err != nil {
			return err
		}
		copy(data[off:], p)
		if err := h.setInline(in, data); err != nil {
			return err
		}
		in.disk.Size = uint64(len(data))
		in.written(c)
		return h.clearPrivileges(c, in)
	})
	if done || err != nil || !in.HasInlineData() {
		return done, err
	}
	return false, fs.growOut(ctx, c, in)
}

// truncateInline gives a file with inline data another size, if what it holds
// then fits into the inode. Else done is false, and the file is one that has blocks. The
// caller holds the inode's lock.
func (fs *FS) truncateInline(ctx context.Context, c Caller, in *Inode, size int64) (done bool, err error) {
	done, err = fs.changeInline(ctx, in.ino, size, func(h *Handle, in *Inode) error {
		data, err := in.inlineFile(int(size))
		if err != nil {
			return err
		}
		if err := h.setInline(in, data); err != nil {
			return err
		}
		in.disk.Size = uint64(size)
		in.written(c)
		return h.clearPrivileges(c, in)
	})
	if done || err != nil {
		return done, err
	}
	return false, fs.growOut(ctx, c, in)
}

// growOut moves the contents of a file from its inode into a block, which is
// written before anything leads to it (ext4_convert_inline_data). The caller holds the inode's lock.
func (fs *FS) growOut(ctx context.Context, c Caller, in *Inode) error {
	data, err := in.inlineData()
	if err != nil {
		return err
	}
	var ch change
	var left []change
	defer func() { fs.rw.unreserveAll(left) }()
	if len(data) > 0 {
		// What the file will be: one with an empty map.
		bare := &Inode{fs: fs, ino: in.ino, disk: in.disk, raw: in.raw, block: in.block, off: in.off, seed: in.seed}
		bare.disk.Flags &^= disk.FlagInlineData | disk.FlagExtents
		bare.disk.Block = [disk.IBlockSize]byte{}
		if ch, err = fs.newBlocks(c, bare, 0, 1, nil); err != nil {
			return err
		}
		left = []change{ch}
		block := make([]byte, fs.sb.BlockSize())
		copy(block, data)
		if err := fs.writeDevice(block, int64(ch.run.first)<<fs.sb.BlockBits()); err != nil {
			return err
		}
	}
	err = fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(in.ino)
		if err != nil {
			return err
		}
		h.limit(c)
		if err := h.endInline(in); err != nil {
			return err
		}
		if ch.run.n == 0 {
			return nil
		}
		return h.apply(in, ch)
	})
	if err == nil {
		left = nil
	}
	return err
}

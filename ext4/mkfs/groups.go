package mkfs

import (
	"context"
	"errors"
	"math"

	"e4go/ext4/disk"
)

// itableWriter writes inodes into their tables, many blocks at a time. They come
// in the order of their numbers, but for the first, which are kept to the end.
type itableWriter struct {
	blockRun
	pinned map[disk.PBlock][]byte
}

// put writes an inode.
func (t *itableWriter) put(ino disk.Ino, in *inode) error {
	v := t.v
	g, index := v.sb.InodeGroup(ino)
	per := uint32(v.sb.InodesPerBlock())
	at := v.inodeTable[g] + disk.PBlock(index/per)
	b := t.pinned[at]
	switch {
	case b != nil:
	case ino-disk.Ino(index%per) < v.builtin.nextIno: // the block has one of the first, too
		if t.pinned == nil {
			t.pinned = make(map[disk.PBlock][]byte)
		}
		b = make([]byte, v.sb.BlockSize())
		t.pinned[at] = b
	default:
		var err error
		if b, err = t.block(at); err != nil {
			return err
		}
	}
	size := int(v.sb.InodeSize)
	raw := b[int(index%per)*size:][:size]
	in.Put(raw)
	if len(in.body) > 0 {
		at := disk.GoodOldInodeSize + int(in.ExtraIsize)
		le.PutUint32(raw[at:], disk.XattrMagic)
		v.putXattrs(raw, at+disk.XattrIbodyHdrSize, at+disk.XattrIbodyHdrSize, in.body)
	}
	if v.sb.MetadataCsum() {
		in.Checksum = disk.InodeChecksum(v.sb.Seed(), ino, raw)
		in.Put(raw)
	}
	return nil
}

// finish writes what is left.
func (t *itableWriter) finish() error {
	for at, b := range t.pinned {
		if err := t.v.writeBlock(at, b); err != nil {
			return err
		}
	}
	return t.flush()
}

// writeGroups writes bitmaps, descriptors and superblocks. Inodes up to last
// are in use.
func (v *volume) writeGroups(ctx context.Context, last disk.Ino, dirs []uint32) error {
	sb := &v.sb
	size, per := sb.GroupDescSize(), uint64(sb.DescPerBlock())
	groups := sb.Groups()
	var freeClusters uint64
	var descs []byte // a few whole blocks
	supers := v.superGroups()
	blocks, inodes := blockRun{v: v}, blockRun{v: v} // bitmaps; with flex_bg they lie together
	for g := range groups {
		if g%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if g%per == 0 {
			descs = append(descs, make([]byte, sb.BlockSize())...)
		}
		d := disk.GroupDesc{BlockBitmap: v.blockBitmap[g], InodeBitmap: v.inodeBitmap[g], InodeTable: v.inodeTable[g], UsedDirs: dirs[g]}
		if err := v.blockBitmapOf(g, &d, &blocks); err != nil {
			return err
		}
		freeClusters += uint64(d.FreeClusters)
		if err := v.inodesOf(g, &d, last, &inodes); err != nil {
			return err
		}
		raw := descs[len(descs)-sb.BlockSize()+int(g%per)*size:][:size]
		d.Put(raw)
		if sb.DescChecksums() {
			d.Checksum = disk.GroupDescChecksum(sb, disk.Group(g), raw)
			d.Put(raw)
		}
		if g%per == per-1 && len(descs) >= runSize || g == groups-1 {
			if err := v.writeDescs(g/per+1, descs, supers); err != nil {
				return err
			}
			descs = descs[:0]
		}
	}
	if err := errors.Join(blocks.flush(), inodes.flush()); err != nil {
		return err
	}
	sb.FreeBlocks = freeClusters << sb.ClusterBits()
	sb.FreeInodes = sb.Inodes - uint32(last)
	return v.writeSupers(supers)
}

// blockBitmapOf fills in what a descriptor says of blocks, and writes the
// group's bitmap unless the kernel can work it out.
func (v *volume) blockBitmapOf(g uint64, d *disk.GroupDesc, bitmaps *blockRun) error {
	sb := &v.sb
	first, end := v.group(g)
	cb := sb.ClusterBits()
	clusters := (uint64(end-first) + 1<<cb - 1) >> cb
	inUse := func(fn func(from, to uint64)) {
		for i := v.space.at(first); i < len(v.space.used) && v.space.used[i].start < end; i++ {
			r := v.space.used[i]
			fn(uint64(max(r.start, first)-first)>>cb, (uint64(min(r.end, end)-first)+1<<cb-1)>>cb)
		}
	}
	used := uint64(0)
	inUse(func(from, to uint64) { used += to - from })
	d.FreeClusters = uint32(clusters - used)
	if sb.DescChecksums() && g != sb.Groups()-1 && !v.touched[g] {
		d.Flags |= disk.GroupBlockUninit
		return nil
	}
	bitmap, err := bitmaps.block(d.BlockBitmap)
	if err != nil {
		return err
	}
	inUse(func(from, to uint64) { setBits(bitmap, from, to) })
	n := uint64(sb.BlocksPerGroup) >> cb
	setBits(bitmap, clusters, uint64(len(bitmap))*8)
	if sb.MetadataCsum() {
		d.BlockBitmapCsum = v.bitmapSum(bitmap[:n/8])
	}
	return nil
}

func (v *volume) bitmapSum(b []byte) uint32 {
	sum := disk.BitmapChecksum(&v.sb, b)
	if v.sb.GroupDescSize() < disk.GroupDescSize64 {
		sum &= 0xffff
	}
	return sum
}

// inodesOf fills in what a descriptor says of inodes, writes the group's
// bitmap, and zeroes of its table what may be read.
func (v *volume) inodesOf(g uint64, d *disk.GroupDesc, last disk.Ino, bitmaps *blockRun) error {
	sb := &v.sb
	per := uint64(sb.InodesPerGroup)
	used := min(max(uint64(last), g*per)-g*per, per)
	d.FreeInodes = uint32(per - used)
	csum := sb.DescChecksums()
	if csum {
		d.ItableUnused = d.FreeInodes
	}
	zeroed := v.p.o.Zeroed
	if !csum || zeroed || !v.p.o.LazyInodeTables { // else the kernel zeroes the rest
		d.Flags |= disk.GroupInodeZeroed
	}
	if !zeroed {
		blocks := uint64(v.p.itable)
		done := (used + uint64(sb.InodesPerBlock()) - 1) / uint64(sb.InodesPerBlock())
		if csum && v.p.o.LazyInodeTables {
			blocks = done
		}
		if err := v.zero(run{d.InodeTable + disk.PBlock(done), d.InodeTable + disk.PBlock(blocks)}); err != nil {
			return err
		}
	}
	if csum && used == 0 {
		d.Flags |= disk.GroupInodeUninit
		return nil
	}
	bitmap, err := bitmaps.block(d.InodeBitmap)
	if err != nil {
		return err
	}
	setBits(bitmap, 0, used)
	setBits(bitmap, per, uint64(len(bitmap))*8)
	if sb.MetadataCsum() {
		d.InodeBitmapCsum = v.bitmapSum(bitmap[:per/8])
	}
	return nil
}

// setBits sets the bits [from, to).
func setBits(b []byte, from, to uint64) {
	for from < to {
		if from%8 == 0 && to-from >= 8 {
			n := (to - from) / 8
			for i := range n {
				b[from/8+i] = 0xff
			}
			from += n * 8
			continue
		}
		b[from/8] |= 1 << (from % 8)
		from++
	}
}

// superGroups are the groups that have a copy of the superblock.
func (v *volume) superGroups() []disk.Group {
	var out []disk.Group
	for g := range v.sb.Groups() {
		if v.sb.HasSuper(disk.Group(g)) {
			out = append(out, disk.Group(g))
		}
	}
	return out
}

// superBlock is the block in which group g's copy of the superblock lies.
func (v *volume) superBlock(g disk.Group) disk.PBlock {
	b := v.sb.FirstBlock(g)
	if g == 0 && v.sb.BlockSize() == 1024 && v.sb.FirstDataBlock == 0 {
		b++ // behind the boot block
	}
	return b
}

// writeDescs writes blocks of the descriptors, up to the one before end, to all their copies.
func (v *volume) writeDescs(end uint64, b []byte, supers []disk.Group) error {
	bits, per := v.sb.BlockBits(), uint64(v.sb.DescPerBlock())
	i := end - uint64(len(b))>>bits
	if v.sb.Incompat.Has(disk.IncompatMetaBG) && end > uint64(v.sb.FirstMetaBG) {
		// Each block is in the first, second and last group of those it describes.
		for i := max(i, uint64(v.sb.FirstMetaBG)); i < end; i++ {
			block := b[len(b)-int(end-i)<<bits:][:1<<bits]
			first := i * per
			for _, g := range []uint64{first, first + 1, first + per - 1} {
				if g >= v.sb.Groups() || g != first && g == first+per-1 && per <= 2 {
					continue
				}
				at, _ := v.group(g)
				if v.sb.HasSuper(disk.Group(g)) {
					at = v.superBlock(disk.Group(g)) + 1
				}
				if err := v.writeBlock(at, block); err != nil {
					return err
				}
			}
		}
		if i >= uint64(v.sb.FirstMetaBG) {
			return nil
		}
		b = b[:int(uint64(v.sb.FirstMetaBG)-i)<<bits]
	}
	for _, g := range supers {
		if err := v.writeBlock(v.superBlock(g)+1+disk.PBlock(i), b); err != nil {
			return err
		}
	}
	return nil
}

// superSector is what a disk writes whole or not at all. The first of a
// superblock has its magic number.
const superSector = 512

// writeSupers writes the superblock and its backups, the first sector of the
// primary last: before that there is no file system on the device.
func (v *volume) writeSupers(supers []disk.Group) error {
	for _, g := range supers[1:] {
		if _, err := v.dev.WriteAt(v.encodeSuper(g), int64(v.superBlock(g))<<v.sb.BlockBits()); err != nil {
			return err
		}
	}
	b := v.encodeSuper(0)
	if _, err := v.dev.WriteAt(b[superSector:], disk.SuperblockOffset+superSector); err != nil {
		return err
	}
	if err := v.dev.Flush(); err != nil {
		return err
	}
	if _, err := v.dev.WriteAt(b[:superSector], disk.SuperblockOffset); err != nil {
		return err
	}
	return v.dev.Flush()
}

// encodeSuper is group g's copy of the superblock.
func (v *volume) encodeSuper(g disk.Group) []byte {
	sb := v.sb
	sb.BlockGroup = uint16(min(g, math.MaxUint16)) // the largest stands for those above, too
	if g != 0 {
		// A backup never says that all is well: whoever uses it has to check.
		sb.State &^= disk.StateValid
	}
	b := make([]byte, disk.SuperblockSize)
	sb.Put(b)
	if sb.RevLevel == 0 { // where these mean nothing, mke2fs writes them all the same
		le.PutUint32(b[0x54:], uint32(sb.FirstIno))
		le.PutUint16(b[0x58:], sb.InodeSize)
	}
	if sb.MetadataCsum() {
		sb.Checksum = disk.SuperblockChecksum(b)
		sb.Put(b)
	}
	return b
}

// zero makes blocks read as zeros.
func (v *volume) zero(r run) error {
	if v.p.o.Zeroed {
		return nil
	}
	return v.zeroAlways(r)
}

func (v *volume) zeroAlways(r run) error {
	bits := v.sb.BlockBits()
	for r.len() > 0 {
		n := min(r.len(), uint64(len(zeroMiB)>>bits))
		if err := v.writeBlock(r.start, zeroMiB[:n<<bits]); err != nil {
			return err
		}
		r.start += disk.PBlock(n)
	}
	return nil
}

var zeroMiB = make([]byte, 1<<20)

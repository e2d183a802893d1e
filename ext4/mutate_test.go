package ext4

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A structure is one of those of an image that is mutated, checksums repaired
// afterwards, so that the damage gets past them.
type structure struct {
	what   string
	ino    disk.Ino // whose it is, and nobody else's; 0 if there is none such
	at     int64    // bytes
	n      int      // bytes
	repair func(b []byte, mem *blockdev.Mem)
}

// structures are those of a sound image; large directories and maps have a few.
func (fs *FS) structures() (out []structure, err error) {
	bits, seed := fs.sb.BlockBits(), fs.seed
	block := func(what string, ino disk.Ino, blk disk.PBlock, repair func(b []byte, mem *blockdev.Mem)) {
		out = append(out, structure{what, ino, int64(blk) << bits, fs.sb.BlockSize(), repair})
	}
	out = append(out, structure{"superblock", 0, disk.SuperblockOffset, disk.SuperblockSize, func(b []byte, _ *blockdev.Mem) {
		sb := disk.DecodeSuperblock(b)
		sb.Checksum = disk.SuperblockChecksum(b)
		sb.Put(b)
	}})
	for g := range disk.Group(fs.sb.Groups()) {
		d, err := fs.groupDesc(g)
		if err != nil {
			return nil, err
		}
		at, size := fs.descAt(g), fs.sb.GroupDescSize()
		repair := func(b []byte, _ *blockdev.Mem) {
			d := disk.DecodeGroupDesc(b)
			d.Checksum = disk.GroupDescChecksum(&fs.sb, g, b)
			d.Put(b)
		}
		out = append(out, structure{fmt.Sprintf("descriptor %d", g), 0, at, size, repair})
		bitmap := func(what string, blk disk.PBlock, n uint32, put func(d *disk.GroupDesc, sum uint32)) {
			block(fmt.Sprintf("%s bitmap %d", what, g), 0, blk, func(b []byte, mem *blockdev.Mem) {
				desc := make([]byte, size)
				mem.ReadAt(desc, at)
				d := disk.DecodeGroupDesc(desc)
				put(&d, disk.BitmapChecksum(&fs.sb, b[:n/8]))
				d.Put(desc)
				repair(desc, nil)
				mem.WriteAt(desc, at)
			})
			out[len(out)-1].n = int(n / 8)
		}
		bitmap("block", d.BlockBitmap, fs.sb.ClustersPerGroup, func(d *disk.GroupDesc, sum uint32) { d.BlockBitmapCsum = sum })
		bitmap("inode", d.InodeBitmap, fs.sb.InodesPerGroup, func(d *disk.GroupDesc, sum uint32) { d.InodeBitmapCsum = sum })
	}
	for ino := disk.Ino(1); uint32(ino) <= fs.sb.Inodes; ino++ {
		in, err := fs.Inode(ino)
		if err != nil {
			return nil, err
		}
		if in.disk.Links == 0 && in.disk.Mode == 0 {
			continue
		}
		out = append(out, structure{fmt.Sprintf("inode %d", ino), ino, int64(in.block)<<bits + int64(in.off), int(fs.sb.InodeSize), func(b []byte, _ *blockdev.Mem) {
			d := disk.DecodeInode(b)
			d.Checksum = disk.InodeChecksum(seed, ino, b)
			d.Put(b)
		}})
		if err := fs.structuresOf(in, block); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (fs *FS) descAt(g disk.Group) int64 {
	per := uint64(fs.sb.DescPerBlock())
	blk := fs.sb.DescBlock(disk.PBlock(disk.SuperblockOffset/fs.sb.BlockSize()), uint64(g)/per)
	return int64(blk)<<fs.sb.BlockBits() + int64(uint64(g)%per)*int64(fs.sb.GroupDescSize())
}

// structuresOf calls add with the blocks of metadata that an inode has.
func (fs *FS) structuresOf(in *Inode, add func(what string, ino disk.Ino, blk disk.PBlock, repair func([]byte, *blockdev.Mem))) error {
	put := binary.LittleEndian.PutUint32
	if blk := in.disk.XattrBlock(&fs.sb); blk != 0 {
		owner, data := in.ino, make([]byte, fs.sb.BlockSize())
		if _, err := fs.dev.ReadAt(data, int64(blk)<<fs.sb.BlockBits()); err != nil {
			return err
		}
		if disk.DecodeXattrHeader(data).Refcount > 1 {
			owner = 0
		}
		add(fmt.Sprintf("xattr block of inode %d", in.ino), owner, blk, func(b []byte, _ *blockdev.Mem) { put(b[16:], disk.XattrBlockChecksum(fs.seed, blk, b)) })
	}
	if in.HasInlineData() || in.Type() != disk.ModeReg && in.Type() != disk.ModeDir {
		return nil
	}
	nodes := map[disk.PBlock]bool{}
	var blocks []disk.PBlock
	_, err := in.WalkMap(func(r MapRow) error {
		if r.Node != 0 && !nodes[r.Node] && len(nodes) < 4 {
			nodes[r.Node] = true
			add(fmt.Sprintf("map of inode %d", in.ino), in.ino, r.Node, func(b []byte, _ *blockdev.Mem) {
				if h := disk.DecodeExtentHeader(b); in.disk.Flags.Has(disk.FlagExtents) && int(h.Max)*disk.ExtentSize+disk.ExtentHeaderSize <= len(b)-4 {
					disk.PutExtentChecksum(in.seed, b)
				}
			})
		}
		for i := uint64(0); r.Leaf && i < r.Len && len(blocks) < 12; i++ {
			blocks = append(blocks, r.Physical+disk.PBlock(i))
		}
		return nil
	})
	if err != nil {
		return err
	}
	what := ""
	repair := func(b []byte, _ *blockdev.Mem) {}
	switch {
	case in.Type() == disk.ModeDir:
		what = "directory"
	case in.ino == fs.sb.JournalIno:
		what = "journal"
	case in.ino == fs.sb.OrphanFileIno:
		what = "orphan file"
	case in.ino < fs.sb.FirstIno && in.ino != disk.ResizeIno:
		what = "quota file"
	default:
		return nil
	}
	for i, blk := range blocks {
		if what == "journal" && i > 0 {
			break
		}
		switch {
		case what == "directory":
			repair = func(b []byte, _ *blockdev.Mem) { repairDirBlock(in, b, i == 0) }
		case what == "journal":
			repair = func(b []byte, _ *blockdev.Mem) {
				binary.BigEndian.PutUint32(b[0xfc:], disk.JournalSuperChecksum(b[:disk.JournalSuperSize]))
			}
		case what == "orphan file":
			repair = func(b []byte, _ *blockdev.Mem) { put(b[len(b)-4:], disk.OrphanBlockChecksum(in.seed, blk, b)) }
		}
		add(fmt.Sprintf("%s, block %d of inode %d", what, i, in.ino), in.ino, blk, repair)
	}
	return nil
}

// repairDirBlock sums a block of a directory: a leaf, or a node of the index.
func repairDirBlock(in *Inode, b []byte, first bool) {
	if _, ok := disk.DirTail(b); ok {
		disk.PutDirTail(b, in.seed)
		return
	}
	n := disk.DxInnerNode(b)
	if first {
		n = disk.DxRootNode(b)
	}
	if in.disk.Flags.Has(disk.FlagIndex) && n.Limit() == n.DxLimit(true) && n.Count() <= n.Limit() {
		n.PutChecksum(in.seed)
	}
}

// mutate changes a few bytes of a structure, and says which.
func (s *structure) mutate(mem *blockdev.Mem, sb *disk.Superblock, rng *rand.Rand) string {
	b := make([]byte, s.n)
	mem.ReadAt(b, s.at)
	width := []int{1, 2, 4}[rng.IntN(3)]
	reach := s.n
	if s.n > 256 && rng.IntN(3) > 0 {
		reach = 256 // where the fields are
	}
	off := rng.IntN(reach) &^ (width - 1)
	field := b[off : off+width]
	old := fmt.Sprintf("%x", field)
	var value uint64
	for i, c := range field {
		value |= uint64(c) << (8 * i)
	}
	switch rng.IntN(9) {
	case 0:
		value = 0
	case 1:
		value = ^uint64(0)
	case 2:
		value++
	case 3:
		value--
	case 4:
		value ^= 1 << rng.IntN(8*width)
	case 5:
		value = uint64(rng.Uint32())
	case 6:
		value = uint64(rng.IntN(64))
	case 7: // a block, perhaps one in use
		value = rng.Uint64N(min(sb.Blocks, 4096))
	case 8:
		value = uint64(rng.IntN(int(sb.Inodes)))
	}
	for i := range field {
		field[i] = byte(value >> (8 * i))
	}
	if s.repair != nil && sb.MetadataCsum() {
		s.repair(b, mem)
	}
	mem.WriteAt(b, s.at)
	return fmt.Sprintf("%s: bytes %d+%d from %s to %x", s.what, off, width, old, b[off:off+width])
}

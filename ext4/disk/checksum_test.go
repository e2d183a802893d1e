package disk_test

import (
	"bytes"
	"fmt"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// Every checksum in images that mke2fs, debugfs and the kernel made is the one
// we make, and one flipped bit is noticed. summed are the kinds of structures
// that the image must have, so that it cannot pass by having none.
func TestChecksumsOfImages(t *testing.T) {
	fixtures.Need(t, "mke2fs", "debugfs", "root", "loop")
	const all = "superblock, descriptor, block bitmap, inode bitmap, inode, directory block"
	tests := []struct{ image, summed string }{
		{"ext4-1k", all},
		{"ext4-4k", all},
		{"ext4-64k", all},
		{"inode-128", all},
		{"inode-64k", all},
		{"desc-32", all},
		{"desc-32-groups", all},
		{"desc-128", all},
		{"meta-bg", all},
		{"bigalloc-16k", all},
		{"uninit-groups", all},
		{"csum-seed", all},
		{"htree-4k", all + ", tree root"},
		{"htree-64k", all + ", tree root"},
		{"htree-3-levels", all + ", tree root, tree node"},
		{"extents-deep", all + ", extent node"},
		{"xattr-block", all + ", xattr block"},
		{"xattr-inode", all + ", xattr block"},
		{"ea-inode", all + ", value inode"},
		{"mmp", all + ", MMP block"},
		{"orphan-file", all + ", orphan block"},
		{"gdt-csum", "descriptor"},
		{"gdt-csum-32", "descriptor"},
	}
	for _, tt := range tests {
		t.Run(tt.image, func(t *testing.T) {
			file, _ := fixtures.Find(t, tt.image).Open(t)
			s := summer{volume: openVolume(t, file), seen: map[string]int{}}
			s.super()
			s.groups()
			if s.sb.MetadataCsum() {
				s.eachInode(s.inode)
				s.mmp()
				s.orphans()
			}
			for _, kind := range bytes.Split([]byte(tt.summed), []byte(", ")) {
				if s.seen[string(kind)] == 0 {
					t.Errorf("no %s was summed: %v", kind, s.seen)
				}
			}
		})
	}
}

// A summer verifies every checksum of a volume.
type summer struct {
	*volume
	seen map[string]int
}

// sum checks b, and that check notices a flipped bit: another one each time, among the first n bytes of b.
func (s *summer) sum(kind string, b []byte, n int, check func(b []byte) error) {
	s.t.Helper()
	if err := check(b); err != nil {
		s.t.Errorf("%s: %v", kind, err)
		return
	}
	s.seen[kind]++
	bit := s.seen[kind] * 7919 % (8 * n)
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	if check(b) == nil {
		s.t.Errorf("%s: bit %d of byte %#x flipped, and nobody noticed", kind, bit%8, bit/8)
	}
}

func (s *summer) super() {
	b := s.read(disk.SuperblockOffset, disk.SuperblockSize)
	if !s.sb.MetadataCsum() {
		return
	}
	for bit := range 8 * disk.SuperblockSize {
		if bit == 8*0x65+2 { // metadata_csum itself
			continue
		}
		b[bit/8] ^= 1 << (bit % 8)
		if disk.CheckSuperblock(b, disk.SuperblockOffset) == nil {
			s.t.Errorf("superblock: bit %d of byte %#x flipped, and nobody noticed", bit%8, bit/8)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	s.seen["superblock"]++
}

func (s *summer) groups() {
	for g := range disk.Group(s.sb.Groups()) {
		b, blk, off := s.desc(g)
		if !s.sb.DescChecksums() {
			return
		}
		s.sum("descriptor", b, len(b), func(b []byte) error { return disk.CheckGroupDesc(&s.sb, g, b, blk, off) })
		d := disk.DecodeGroupDesc(b)
		if !s.sb.MetadataCsum() {
			continue
		}
		mask := ^uint32(0)
		if s.sb.GroupDescSize() < disk.GroupDescSize64 {
			mask = 0xffff
		}
		for _, bm := range []struct {
			kind   string
			uninit disk.GroupFlags
			blk    disk.PBlock
			n      uint32 // bits
			want   uint32
		}{
			{"block bitmap", disk.GroupBlockUninit, d.BlockBitmap, s.sb.ClustersPerGroup, d.BlockBitmapCsum},
			{"inode bitmap", disk.GroupInodeUninit, d.InodeBitmap, s.sb.InodesPerGroup, d.InodeBitmapCsum},
		} {
			if d.Flags&bm.uninit != 0 {
				continue
			}
			s.sum(bm.kind, s.block(bm.blk)[:bm.n/8], int(bm.n/8), func(b []byte) error {
				if got := disk.BitmapChecksum(&s.sb, b) & mask; got != bm.want {
					return fmt.Errorf("group %d: got %#x, want %#x", g, got, bm.want)
				}
				return nil
			})
		}
	}
}

func (s *summer) inode(in rawInode) {
	s.sum("inode", in.raw, len(in.raw), func(b []byte) error { return disk.CheckInode(&s.sb, in.ino, b, in.blk, in.off) })
	var extents []disk.Extent
	if in.Flags.Has(disk.FlagExtents) && !in.Flags.Has(disk.FlagInlineData) && in.Links > 0 {
		extents = s.extents(in, func(b []byte, depth int, blk disk.PBlock) {
			n := disk.ExtentHeaderSize + int(disk.DecodeExtentHeader(b).Max)*disk.ExtentSize + disk.ExtentTailSize
			s.sum("extent node", b, n, func(b []byte) error {
				if err := disk.CheckExtentHeader(in.ino, b, depth, blk, 0); err != nil {
					return err
				}
				return disk.CheckExtentChecksum(in.ino, in.seed, b, blk)
			})
		})
	}
	if len(extents) > 0 && in.Mode.Type() == disk.ModeDir {
		s.directory(in)
	}
	if blk := in.XattrBlock(&s.sb); blk != 0 && in.Links > 0 {
		b := s.block(blk)
		s.sum("xattr block", b, len(b), func(b []byte) error { return disk.CheckXattrBlock(&s.sb, in.ino, b, blk) })
		s.xattrs(disk.XattrBlockPlace(in.ino, b, blk))
	}
	if place, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.blk, in.off); ok {
		s.xattrs(place)
	}
}

// directory sums the blocks of a directory: those of the hash tree that the
// root leads to, and all others as blocks of entries.
func (s *summer) directory(in rawInode) {
	list, at := s.blocks(in)
	nodes := map[disk.LBlock]bool{}
	node := func(kind string, l disk.LBlock, of func(b []byte) disk.DxNode) disk.DxNode {
		nodes[l] = true
		b := s.block(at[l])
		n := of(b)
		first := len(b) - 8 - 8*n.Limit()
		s.sum(kind, b, first+8*n.Count(), func(b []byte) error {
			if kind == "tree root" {
				if err := disk.CheckDxRoot(&s.sb, in.ino, b, at[l]); err != nil {
					return err
				}
			}
			return disk.CheckDxNode(&s.sb, in.ino, of(b), in.seed, at[l])
		})
		return n
	}
	if in.Flags.Has(disk.FlagIndex) {
		level := []disk.DxNode{node("tree root", 0, disk.DxRootNode)}
		for range disk.DecodeDxRoot(s.block(at[0])).Levels {
			var below []disk.DxNode
			for _, n := range level {
				for i := range n.Count() {
					below = append(below, node("tree node", n.Entry(i).Block, disk.DxInnerNode))
				}
			}
			level = below
		}
	}
	for _, l := range list {
		if !nodes[l] {
			b := s.block(at[l])
			s.sum("directory block", b, len(b), func(b []byte) error { return disk.CheckDirBlock(in.ino, b, in.seed, at[l]) })
		}
	}
}

// xattrs compares the hashes of entries and of values in inodes of their own.
func (s *summer) xattrs(p disk.XattrPlace) {
	list, err := p.Xattrs()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range list {
		var signed, unsigned uint32
		if x.ValueIno != 0 {
			ea := s.volume.inode(x.ValueIno)
			var value []byte
			for _, e := range s.extents(ea, nil) {
				for i := range e.Len {
					value = append(value, s.block(e.Start+disk.PBlock(i))...)
				}
			}
			value = value[:ea.FileSize(&s.sb)]
			s.sum("value inode", value, len(value), func(b []byte) error {
				if got := disk.EAInodeHash(s.seed, b); got != uint32(ea.Atime.Sec) {
					return fmt.Errorf("inode %d: got %#x, want %#x", x.ValueIno, got, uint32(ea.Atime.Sec))
				}
				return nil
			})
			hash := disk.EAInodeHash(s.seed, value)
			signed, unsigned = disk.XattrInodeEntryHash(x.Name, hash, true), disk.XattrInodeEntryHash(x.Name, hash, false)
		} else {
			signed, unsigned = disk.XattrEntryHash(x.Name, x.Value, true), disk.XattrEntryHash(x.Name, x.Value, false)
		}
		if inInode := p.Entries == disk.XattrIbodyHdrSize; inInode && x.Hash == 0 {
			continue // the kernel hashes only what lies in blocks or other inodes
		}
		if x.Hash != signed && x.Hash != unsigned {
			s.t.Errorf("inode %d, %q: e_hash is %#x, want %#x or %#x", p.Owner, x.Name, x.Hash, signed, unsigned)
		}
		s.seen["xattr hash"]++
	}
}

func (s *summer) mmp() {
	if !s.sb.Incompat.Has(disk.IncompatMMP) {
		return
	}
	b := s.block(s.sb.MMPBlock)
	s.sum("MMP block", b, disk.MMPSize, func(b []byte) error { return disk.CheckMMP(&s.sb, b, s.sb.MMPBlock) })
}

func (s *summer) orphans() {
	if !s.sb.Compat.Has(disk.CompatOrphanFile) {
		return
	}
	in := s.volume.inode(s.sb.OrphanFileIno)
	list, at := s.blocks(in)
	for _, l := range list {
		b := s.block(at[l])
		s.sum("orphan block", b, len(b), func(b []byte) error { return disk.CheckOrphanBlock(&s.sb, b, in.seed, at[l]) })
	}
}

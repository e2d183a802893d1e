package disk_test

import (
	"os"
	"testing"

	"e4go/ext4/disk"
)

// A volume reads an image with this package's decoders and nothing else, and
// fails its test where one of the checks does.
type volume struct {
	t    *testing.T
	f    *os.File
	sb   disk.Superblock
	seed uint32
}

func openVolume(t *testing.T, file string) *volume {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	v := &volume{t: t, f: f}
	b := v.read(disk.SuperblockOffset, disk.SuperblockSize)
	if err := disk.CheckSuperblock(b, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	v.sb = disk.DecodeSuperblock(b)
	v.seed = v.sb.Seed()
	return v
}

func (v *volume) read(off int64, n int) []byte {
	v.t.Helper()
	b := make([]byte, n)
	if _, err := v.f.ReadAt(b, off); err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *volume) block(blk disk.PBlock) []byte {
	v.t.Helper()
	return v.read(int64(blk)*int64(v.sb.BlockSize()), v.sb.BlockSize())
}

// super is the block of the primary superblock.
func (v *volume) super() disk.PBlock { return disk.PBlock(1024 / v.sb.BlockSize()) }

// desc is the descriptor of group g, and where it lies.
func (v *volume) desc(g disk.Group) (b []byte, blk disk.PBlock, off int) {
	v.t.Helper()
	per := v.sb.DescPerBlock()
	blk = v.sb.DescBlock(v.super(), uint64(g)/uint64(per))
	off = int(g) % per * v.sb.GroupDescSize()
	return v.block(blk)[off:][:v.sb.GroupDescSize()], blk, off
}

// A rawInode is an inode of a table, and where it lies.
type rawInode struct {
	disk.Inode
	ino  disk.Ino
	raw  []byte
	blk  disk.PBlock
	off  int
	seed uint32
}

// inode is inode ino.
func (v *volume) inode(ino disk.Ino) rawInode {
	v.t.Helper()
	g, i := v.sb.InodeGroup(ino)
	desc, _, _ := v.desc(g)
	table := disk.DecodeGroupDesc(desc).InodeTable
	per := uint32(v.sb.InodesPerBlock())
	blk, off := table+disk.PBlock(i/per), int(i%per)*int(v.sb.InodeSize)
	return v.inodeIn(ino, v.block(blk)[off:][:v.sb.InodeSize], blk, off)
}

func (v *volume) inodeIn(ino disk.Ino, raw []byte, blk disk.PBlock, off int) rawInode {
	in := disk.DecodeInode(raw)
	return rawInode{in, ino, raw, blk, off, disk.InodeSeed(v.seed, ino, in.Generation)}
}

// eachInode calls fn for the inodes in use, of which there is a sign in the
// inode itself: a mode.
func (v *volume) eachInode(fn func(in rawInode)) {
	v.t.Helper()
	per := v.sb.InodesPerBlock()
	for g := range disk.Group(v.sb.Groups()) {
		b, _, _ := v.desc(g)
		d := disk.DecodeGroupDesc(b)
		n := v.sb.InodesPerGroup
		if v.sb.DescChecksums() {
			if d.Flags&disk.GroupInodeUninit != 0 {
				continue
			}
			n -= d.ItableUnused
		}
		for i := uint32(0); i < n; i += uint32(per) {
			blk := d.InodeTable + disk.PBlock(i/uint32(per))
			b := v.block(blk)
			for j := range min(uint32(per), n-i) {
				off := int(j) * int(v.sb.InodeSize)
				in := v.inodeIn(disk.Ino(uint32(g)*v.sb.InodesPerGroup+i+j+1), b[off:][:v.sb.InodeSize], blk, off)
				if in.Mode != 0 {
					fn(in)
				}
			}
		}
	}
}

// extents is the leaf entries of in's extent tree; node is called for each
// node outside the inode.
func (v *volume) extents(in rawInode, node func(b []byte, depth int, blk disk.PBlock)) []disk.Extent {
	v.t.Helper()
	if !in.Flags.Has(disk.FlagExtents) {
		return nil
	}
	var out []disk.Extent
	var walk func(b []byte, depth int, bounds disk.ExtentBounds, blk disk.PBlock, off int)
	walk = func(b []byte, depth int, bounds disk.ExtentBounds, blk disk.PBlock, off int) {
		if err := disk.CheckExtentHeader(in.ino, b, depth, blk, off); err != nil {
			v.t.Fatal(err)
		}
		h := disk.DecodeExtentHeader(b)
		for i := range int(h.Entries) {
			if err := disk.CheckExtentEntry(&v.sb, in.ino, b, i, bounds, blk, off); err != nil {
				v.t.Fatal(err)
			}
			e := disk.ExtentEntry(b, i)
			if h.Depth == 0 {
				out = append(out, disk.DecodeExtent(e))
				continue
			}
			x := disk.DecodeExtentIdx(e)
			child := v.block(x.Leaf)
			if node != nil {
				node(child, int(h.Depth)-1, x.Leaf)
			}
			walk(child, int(h.Depth)-1, disk.ChildBounds(b, i, bounds), x.Leaf, 0)
		}
	}
	walk(in.Block[:], -1, disk.AllExtents, in.blk, in.off+disk.IBlockOffset)
	return out
}

// blocks is the blocks of in, in the file's order, with a map from file blocks.
func (v *volume) blocks(in rawInode) (list []disk.LBlock, at map[disk.LBlock]disk.PBlock) {
	v.t.Helper()
	at = map[disk.LBlock]disk.PBlock{}
	end := disk.LBlock((in.FileSize(&v.sb) + uint64(v.sb.BlockSize()) - 1) / uint64(v.sb.BlockSize()))
	for _, e := range v.extents(in, nil) {
		for i := range disk.LBlock(e.Len) {
			if e.Block+i < end {
				list = append(list, e.Block+i)
				at[e.Block+i] = e.Start + disk.PBlock(i)
			}
		}
	}
	return list, at
}

// eachHashTree calls fn for the root of each hash-indexed directory; leaf gives
// the directory's blocks. It returns how many there are.
func (v *volume) eachHashTree(fn func(root []byte, leaf func(disk.LBlock) []byte)) (n int) {
	v.t.Helper()
	v.eachInode(func(in rawInode) {
		if in.Mode.Type() != disk.ModeDir || !in.Flags.Has(disk.FlagIndex|disk.FlagExtents) || in.Flags.Has(disk.FlagInlineData) {
			return
		}
		_, at := v.blocks(in)
		root := v.block(at[0])
		if err := disk.CheckDxRoot(&v.sb, in.ino, root, at[0]); err != nil {
			v.t.Fatal(err)
		}
		n++
		fn(root, func(l disk.LBlock) []byte { return v.block(at[l]) })
	})
	return n
}

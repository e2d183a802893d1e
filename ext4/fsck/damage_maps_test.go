package fsck_test

import (
	"encoding/binary"
	"strings"

	"e4go/ext4/disk"
)

// putNode changes node n of the extent tree of an inode, in the order of the
// walk and without the root, and repairs its checksum.
func (v *volume) putNode(path string, n int, fn func(b []byte)) {
	in, err := v.fs.Resolve(path, false)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, s := range v.mapSites(in) {
		if !strings.HasPrefix(s.what, "extent node") && !strings.HasPrefix(s.what, "indirect") {
			continue
		}
		if n--; n < 0 {
			v.change(s.at, s.size, fn)
			if s.repair != nil {
				s.repair()
			}
			return
		}
	}
	v.t.Fatalf("%s has no such node", path)
}

// nodeField sets 32 bits of a node of the extent tree, entryField 32 bits of entry i.
func nodeField(path string, node, off int, value uint32) func(v *volume) {
	return func(v *volume) {
		v.putNode(path, node, func(b []byte) { binary.LittleEndian.PutUint32(b[off:], value) })
	}
}

func nodeHalf(path string, node, off int, value uint16) func(v *volume) {
	return func(v *volume) {
		v.putNode(path, node, func(b []byte) { binary.LittleEndian.PutUint16(b[off:], value) })
	}
}

// rootHalf sets 16 bits of i_block.
func rootHalf(path string, off int, value uint16) func(v *volume) {
	return func(v *volume) {
		v.putAt(path, func(in *disk.Inode) { binary.LittleEndian.PutUint16(in.Block[off:], value) })
	}
}

// An entry of an extent node begins at byte 12+12*i: block, then of leaves the
// length and the high half of the start, then the low half.
var damagedMaps = []damaging{
	{name: "an extent in the inode has no length", image: "ext4-4k", change: rootHalf("/blocks-300", 12+4, 0)},
	{name: "the extent of a directory has no length", image: "ext4-4k", change: rootHalf("/dir", 12+4, 0)},
	{name: "the extent of a link has no length", image: "ext4-4k", change: rootHalf("/symlinks/61", 12+4, 0)},
	{name: "the first extent below an index has no length", image: "extents-deep", change: nodeHalf("/depth-1", 0, 12+4, 0)},
	{name: "the second extent below an index has no length", image: "extents-deep", change: nodeHalf("/depth-1", 0, 24+4, 0)},
	{name: "the last extent below an index has no length", image: "extents-deep", change: func(v *volume) {
		v.putNode("/depth-1", 0, func(b []byte) {
			n := int(binary.LittleEndian.Uint16(b[2:]))
			binary.LittleEndian.PutUint16(b[12*n+4:], 0)
		})
	}},
	{name: "an extent of a leaf of three levels has no length", image: "extents-deep", change: nodeHalf("/depth-3", 2, 12+4, 0)},
	{name: "an extent in the second node is very long", image: "extents-deep", change: nodeHalf("/depth-2", 1, 12+4, 0x7fff)},
	{name: "an extent in a node is behind those of the next", image: "extents-deep", change: nodeField("/depth-2", 1, 24, 0x00ffffff)},
	{name: "an extent in a node is for block 2^32-1", image: "extents-deep", change: nodeField("/depth-1", 0, 24, 0xffffffff), unnamed: "0x01007d"},
	{name: "an extent of a file with verity ends behind block 2^32", image: "verity", change: func(v *volume) {
		v.putAt("/verity", func(in *disk.Inode) { binary.LittleEndian.PutUint32(in.Block[24:], 0xffffffff) })
	}, ours: "invalid extent"},
	{name: "an extent lies behind the end", image: "extents-deep", change: nodeField("/depth-1", 0, 24+8, 0xfffffff0)},
	{name: "an extent lies at block 2^47", image: "extents-deep", change: nodeHalf("/depth-1", 0, 24+6, 0x8000)},
	{name: "an extent lies on the superblock", image: "extents-deep", change: nodeField("/depth-1", 0, 24+8, 1)},
	{name: "an extent lies at block 0", image: "extents-deep", change: nodeField("/depth-1", 0, 24+8, 0)},
	{name: "an index leads to itself", image: "extents-deep", change: func(v *volume) {
		v.putNode("/depth-3", 0, func(b []byte) { copy(b[12+4:12+10], b[24+4:24+10]) })
	}},
	{name: "an index leads behind the end", image: "extents-deep", change: nodeField("/depth-3", 0, 12+4, 0xfffffff0)},
	{name: "an index leads to the superblock", image: "extents-deep", change: nodeField("/depth-3", 0, 12+4, 1), unnamed: "0x014006"},
	{name: "an index leads to an inode table", image: "extents-deep", change: func(v *volume) {
		info, err := v.fs.Group(0)
		if err != nil {
			v.t.Fatal(err)
		}
		nodeField("/depth-3", 0, 12+4, uint32(info.InodeTable))(v)
	}, unnamed: "0x014006"},
	{name: "eh_entries is 0", image: "extents-deep", change: nodeHalf("/depth-3", 1, 2, 0), unnamed: "0x014006"},
	{name: "eh_entries of the root is 0", image: "extents-deep", change: rootHalf("/depth-3", 2, 0)},
	{name: "eh_entries is above eh_max", image: "extents-deep", change: nodeHalf("/depth-3", 1, 2, 0xffff)},
	{name: "eh_max is small", image: "extents-deep", change: nodeHalf("/depth-3", 1, 4, 4)},
	{name: "eh_depth is 0 in an index", image: "extents-deep", change: nodeHalf("/depth-3", 0, 6, 0), ours: "unexpected eh_depth"},
	{name: "eh_depth of the root is 6", image: "extents-deep", change: rootHalf("/depth-3", 6, 6)},
	{name: "eh_depth of the root is smaller", image: "extents-deep", change: rootHalf("/depth-3", 6, 2)},
	{name: "eh_magic is none", image: "extents-deep", change: nodeHalf("/depth-3", 1, 0, 0)},
	{name: "eh_magic of a root is none beside files that share blocks", image: "ext4-4k", change: func(v *volume) {
		v.putAt("/blocks-300", func(in *disk.Inode) { in.Block[0], in.Block[2] = 0, 200 })
		v.putAt("/text", func(text *disk.Inode) {
			v.putAt("/one", func(one *disk.Inode) { one.Block = text.Block })
		})
	}},
	{name: "eh_magic of the root is none", image: "extents-deep", change: rootHalf("/depth-3", 0, 0)},
	{name: "ei_block is not the node's first", image: "extents-deep", change: nodeField("/depth-3", 0, 24, 1)},
	{name: "all of a node is zero", image: "extents-deep", change: func(v *volume) { v.putNode("/depth-3", 2, func(b []byte) { clear(b) }) }},

	{name: "a block of an indexed directory is missing", image: "htree-4k", change: nodeZero},
	{name: "single block of a directory is number 0", image: "ext2-1k", debugfs: "sif /lost+found block[3] 0"},
	{name: "a block of a directory is illegal", image: "ext2-1k", debugfs: "sif /lost+found block[3] 99999999"},
	{name: "block 3 of an indexed directory is illegal", image: "hash-legacy-signed", change: nodeFour},

	{name: "one cluster less", image: "bigalloc-16k", debugfs: "clri /block"},
	{name: "a file of one cluster has no extent", image: "bigalloc-16k", change: rootHalf("/block", 2, 0)},
	{name: "a file of many clusters has no extent", image: "bigalloc-16k", change: rootHalf("/blocks-300", 2, 0)},
	{name: "the extent is one block longer", image: "bigalloc-16k", change: rootHalf("/block", 12+4, 2), sound: true},
	{name: "the extent is a cluster longer", image: "bigalloc-16k", change: rootHalf("/block", 12+4, 5)},
	{name: "the extent is a block shorter", image: "bigalloc-16k", change: rootHalf("/blocks-300", 12+4, 299), sound: true},
	{name: "the extent is a cluster shorter", image: "bigalloc-16k", change: rootHalf("/blocks-300", 12+4, 296)},
	{name: "the extent is shorter by an odd number", image: "bigalloc-16k", change: rootHalf("/blocks-300", 12+4, 294)},
	{name: "a directory has no extent", image: "bigalloc-16k", change: rootHalf("/dir", 2, 0)},
	{name: "the extent is misaligned", image: "bigalloc-16k", change: func(v *volume) {
		v.putAt("/blocks-300", func(in *disk.Inode) { in.Block[12+8]++ })
	}},
	{name: "the extent lies a cluster further", image: "bigalloc-16k", change: func(v *volume) {
		v.putAt("/blocks-300", func(in *disk.Inode) { in.Block[12+8] += 4 })
	}},
	{name: "a bit of the bitmap is missing", image: "bigalloc-16k", debugfs: "freeb 1300"},
	{name: "five bits of the bitmap are missing", image: "bigalloc-16k", debugfs: "freeb 1300 20"},
	{name: "a bit of the bitmap is too many", image: "bigalloc-16k", debugfs: "setb 30000"},
	{name: "a bit of the inode bitmap is missing", image: "bigalloc-16k", debugfs: "freei /text"},
	{name: "a bit of the inode bitmap is too many", image: "bigalloc-16k", debugfs: "seti <1000>"},
}

// nodeZero takes away the extent of an indexed directory that is for its block 1
// and more.
func nodeZero(v *volume) {
	ino := v.largestDir()
	v.put(ino, func(in *disk.Inode) { binary.LittleEndian.PutUint16(in.Block[12+4:], 1) })
}

func nodeFour(v *volume) {
	ino := v.largestDir()
	v.put(ino, func(in *disk.Inode) { binary.LittleEndian.PutUint32(in.Block[12+8:], 0xfffffff0) })
}

// largestDir is the directory of the root with most blocks.
func (v *volume) largestDir() (out disk.Ino) {
	size := int64(0)
	for ino := v.sb.FirstIno; uint32(ino) <= v.sb.Inodes; ino++ {
		if in, err := v.fs.Inode(ino); err == nil && in.Type() == disk.ModeDir && in.Disk().Links > 0 && in.Size() > size {
			out, size = ino, in.Size()
		}
	}
	return out
}

package fsck_test

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// putXattrs changes the block of xattrs of the file at a path, and repairs its checksum.
func (v *volume) putXattrs(path string, fn func(b []byte)) {
	in, err := v.fs.Resolve(path, false)
	if err != nil {
		v.t.Fatal(err)
	}
	blk := in.Disk().XattrBlock(&v.sb)
	if blk == 0 {
		v.t.Fatalf("%s has no block of xattrs", path)
	}
	v.change(int64(blk)*v.bs, int(v.bs), func(b []byte) {
		fn(b)
		if v.sb.MetadataCsum() {
			binary.LittleEndian.PutUint32(b[0x10:], disk.XattrBlockChecksum(v.seed, blk, b))
		}
	})
}

func xattrWord(path string, off int, value uint32) func(v *volume) {
	return func(v *volume) {
		v.putXattrs(path, func(b []byte) { binary.LittleEndian.PutUint32(b[off:], value) })
	}
}

func xattrByte(path string, off int, c byte) func(v *volume) {
	return func(v *volume) { v.putXattrs(path, func(b []byte) { b[off] = c }) }
}

// ibody changes the xattrs in the inode of a path, from their magic number on.
func ibody(path string, fn func(b []byte)) func(v *volume) {
	return func(v *volume) {
		ino := v.ino(path)
		v.change(v.inodeAt(ino), int(v.sb.InodeSize), func(raw []byte) {
			p, ok := disk.XattrIbodyPlace(ino, raw, 0, 0)
			if !ok {
				v.t.Fatalf("%s has no xattrs in the inode", path)
			}
			fn(p.Bytes)
		})
		v.fixInode(ino)
	}
}

// The first entry begins at byte 32 of a block and at byte 4 of an inode's: name
// length, index, offset of the value in two bytes, inode of the value at 4, size
// at 8, hash at 12, name at 16.
var damagedXattrs = []damaging{
	{name: "h_magic is none", image: "xattr-block", change: xattrWord(blockXattrs, 0, 0)},
	{name: "h_magic is ext2's", image: "xattr-block", change: xattrWord(blockXattrs, 0, 0xea010000)},
	{name: "h_refcount is 0", image: "xattr-block", change: xattrWord(blockXattrs, 4, 0)},
	{name: "h_refcount is 9", image: "xattr-block", change: xattrWord(blockXattrs, 4, 9)},
	{name: "h_blocks is 2", image: "xattr-block", change: xattrWord(blockXattrs, 8, 2)},
	{name: "h_hash is another", image: "xattr-block", change: xattrWord(blockXattrs, 12, 77), sound: true},
	{name: "h_reserved is set", image: "xattr-block", change: xattrWord(blockXattrs, 20, 77), sound: true},
	{name: "e_name_len is 0", image: "xattr-block", change: xattrByte(blockXattrs, 32, 0)},
	{name: "e_name_len is 255", image: "xattr-block", change: xattrByte(blockXattrs, 32, 255)},
	{name: "e_name_index is 0", image: "xattr-block", change: xattrByte(blockXattrs, 33, 0)},
	{name: "e_name_index is 77", image: "xattr-block", change: xattrByte(blockXattrs, 33, 77), sound: true},
	{name: "e_value_offs is behind the end", image: "xattr-block", change: xattrByte(blockXattrs, 35, 0xff)},
	{name: "e_value_offs is in the header", image: "xattr-block", change: func(v *volume) {
		v.putXattrs(blockXattrs, func(b []byte) { binary.LittleEndian.PutUint16(b[34:], 0) })
	}, sound: true},
	{name: "e_value_inum is set", image: "xattr-block", change: xattrWord(blockXattrs, 36, 12)},
	{name: "e_value_size is large", image: "xattr-block", change: xattrWord(blockXattrs, 40, 0x7fffffff)},
	{name: "e_value_size is one more", image: "xattr-block", change: func(v *volume) {
		v.putXattrs(blockXattrs, func(b []byte) { b[40]++ })
	}},
	{name: "e_hash is another", image: "xattr-block", change: xattrWord(blockXattrs, 44, 77)},
	{name: "a name is another", image: "xattr-block", change: xattrByte(blockXattrs, 48, 'Z')},
	{name: "the block is zero", image: "xattr-block", change: func(v *volume) { v.putXattrs(blockXattrs, func(b []byte) { clear(b) }) }},
	{name: "the list is empty", image: "xattr-block", change: xattrWord(blockXattrs, 32, 0), sound: true},
	{name: "the block is a directory's", image: "xattr-block", change: func(v *volume) {
		root, err := v.fs.Inode(disk.RootIno)
		if err != nil {
			v.t.Fatal(err)
		}
		m, err := root.Map(0)
		if err != nil {
			v.t.Fatal(err)
		}
		v.putAt(blockXattrs, func(in *disk.Inode) { in.FileACL = m.Physical })
	}},
	{name: "no file has the block any more", image: "xattr-block", change: func(v *volume) {
		v.putAt(blockXattrs, func(in *disk.Inode) { in.FileACL = 0 })
	}},

	{name: "the magic number is none", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[0] = 1 }), sound: true},
	{name: "e_name_len is 0", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[4] = 0 }), sound: true},
	{name: "e_name_len is 255", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[4] = 255 })},
	{name: "e_name_index is 77", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[5] = 77 }), sound: true},
	{name: "e_value_offs is large", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[7] = 0x7f })},
	{name: "e_value_offs is on the names", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[6], b[7] = 0, 0 })},
	{name: "e_value_inum is set", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[8] = 12 })},
	{name: "e_value_size is large", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[13] = 0x7f })},
	{name: "e_hash is set", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) { b[16] = 0x77 })},
	{name: "all is ones", image: "xattr-inode", change: ibody(inodeXattrs, func(b []byte) {
		for i := range b[4:] {
			b[4+i] = 0xff
		}
	})},

	{name: "the value of inline data is nothing at a far place", image: "inline-data", change: ibody("/holes", func(b []byte) { b[7] = 0x80 })},
	{name: "the name of inline data ends with NUL", image: "inline-data", change: ibody("/one", func(b []byte) { b[4]++ }), ours: "the kernel does not find it"},
	{name: "the name of inline data is another", image: "inline-data", change: ibody("/one", func(b []byte) { b[20] = 'x' })},
	{name: "the index of an encryption context is unknown", image: "encrypted", change: ibody("/encrypted", func(b []byte) { b[5] = 0x89 }), ours: "the kernel does not find it"},

	{name: "the EA inode is another", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) { binary.LittleEndian.PutUint32(e[4:], 12) })},
	{name: "the EA inode is free", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) { binary.LittleEndian.PutUint32(e[4:], 2000) })},
	{name: "the EA inode does not exist", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) { binary.LittleEndian.PutUint32(e[4:], 0xfffffff0) })},
	{name: "the value is of another size", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) { e[8]++ }), ours: "ea_inode file size differs from entry size"},
	{name: "the value has another hash", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) { e[12]++ })},
	{name: "the EA inode has no flag", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Flags &^= disk.FlagEAInode })
	})},
	{name: "the EA inode has another hash", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Atime.Sec ^= 1 })
	})},
	{name: "the EA inode counts more references", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Version += 5 })
	})},
	{name: "the EA inode has no links", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Links = 0 })
	})},
	{name: "the EA inode is a directory", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Mode = disk.ModeDir | 0o755 })
	})},
	{name: "the EA inode is zero", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.change(v.inodeAt(ea), int(v.sb.InodeSize), func(b []byte) { clear(b) })
	})},
	{name: "the EA inode has no blocks", image: "ea-inode", change: eaInode(func(v *volume, ea disk.Ino, e []byte) {
		v.put(ea, func(in *disk.Inode) { in.Block[2] = 0 })
	})},
}

const (
	blockXattrs = "/many" // has a block of xattrs
	inodeXattrs = "/acl"
)

// eaInode changes the first entry of a list whose value lies in an EA inode, or that
// inode.
func eaInode(fn func(v *volume, ea disk.Ino, e []byte)) func(v *volume) {
	return func(v *volume) {
		done := false
		change := func(b []byte, at int) {
			for ; !done && at+disk.XattrEntrySize <= len(b) && binary.LittleEndian.Uint32(b[at:]) != 0; at += disk.XattrEntryLen(int(b[at])) {
				if e := disk.DecodeXattrEntry(b[at:]); e.ValueIno != 0 {
					fn(v, e.ValueIno, b[at:])
					done = true
				}
			}
		}
		for ino := v.sb.FirstIno; uint32(ino) <= v.sb.Inodes; ino++ {
			v.change(v.inodeAt(ino), int(v.sb.InodeSize), func(raw []byte) {
				if p, ok := disk.XattrIbodyPlace(ino, raw, 0, 0); ok {
					change(p.Bytes, p.Entries)
				}
			})
			if done {
				v.fixInode(ino)
				return
			}
		}
		v.t.Fatal("no value lies in an EA inode")
	}
}

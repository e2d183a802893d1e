package fsck_test

import (
	"bytes"
	"encoding/binary"

	"e4go/ext4/disk"
)

// putDir changes block l of a directory, and repairs its checksum.
func (v *volume) putDir(path string, l uint64, fn func(b []byte)) {
	in, err := v.fs.Resolve(path, false)
	if err != nil {
		v.t.Fatal(err)
	}
	m, err := in.Map(disk.LBlock(l))
	if err != nil {
		v.t.Fatal(err)
	}
	blk := m.Physical + disk.PBlock(l-uint64(m.Logical))
	seed := disk.InodeSeed(v.seed, in.Ino(), in.Disk().Generation)
	v.change(int64(blk)*v.bs, int(v.bs), func(b []byte) {
		fn(b)
		if !v.sb.MetadataCsum() {
			return
		}
		if _, ok := disk.DirTail(b); ok {
			disk.PutDirTail(b, seed)
			return
		}
		n := disk.DxInnerNode(b)
		if l == 0 {
			n = disk.DxRootNode(b)
		}
		if n.Limit() == n.DxLimit(true) && n.Count() <= n.Limit() {
			n.PutChecksum(seed)
		}
	})
}

// entry is the offset of the entry of that name in block b.
func (v *volume) entry(b []byte, name string) int {
	for off := 0; off+disk.DirentHeaderSize <= len(b); {
		e := disk.DecodeDirent(b[off:], int(v.bs))
		if string(b[off+disk.DirentHeaderSize:][:e.NameLen]) == name && e.Ino != 0 {
			return off
		}
		if e.RecLen < disk.DirentHeaderSize {
			break
		}
		off += e.RecLen
	}
	v.t.Fatalf("there is no entry %q", name)
	return 0
}

// onEntry changes the entry of a name in the first block of a directory.
func onEntry(dir, name string, fn func(v *volume, e []byte)) func(v *volume) {
	return func(v *volume) {
		v.putDir(dir, 0, func(b []byte) { fn(v, b[v.entry(b, name):]) })
	}
}

func setIno(path string) func(v *volume, e []byte) {
	return func(v *volume, e []byte) { binary.LittleEndian.PutUint32(e, uint32(v.ino(path))) }
}

func setNumber(ino uint32) func(v *volume, e []byte) {
	return func(v *volume, e []byte) { binary.LittleEndian.PutUint32(e, ino) }
}

func setByte(off int, c byte) func(v *volume, e []byte) {
	return func(v *volume, e []byte) { e[off] = c }
}

func setRecLen(n uint16) func(v *volume, e []byte) {
	return func(v *volume, e []byte) { binary.LittleEndian.PutUint16(e[4:], n) }
}

// dxHalf sets 16 bits of the index of the largest directory, in its block l.
func dxHalf(l uint64, off int, value uint16) func(v *volume) {
	return func(v *volume) {
		v.putLargest(l, func(b []byte) { binary.LittleEndian.PutUint16(b[off:], value) })
	}
}

func dxWord(l uint64, off int, value uint32) func(v *volume) {
	return func(v *volume) {
		v.putLargest(l, func(b []byte) { binary.LittleEndian.PutUint32(b[off:], value) })
	}
}

func dxByte(off int, c byte) func(v *volume) {
	return func(v *volume) { v.putLargest(0, func(b []byte) { b[off] = c }) }
}

// putLargest changes a block of the largest directory of the root.
func (v *volume) putLargest(l uint64, fn func(b []byte)) {
	in, err := v.fs.Inode(v.largestDir())
	if err != nil {
		v.t.Fatal(err)
	}
	root, err := v.fs.Inode(disk.RootIno)
	if err != nil {
		v.t.Fatal(err)
	}
	d, err := v.fs.OpenDir(root)
	if err != nil {
		v.t.Fatal(err)
	}
	for {
		e, err := d.Next()
		if err != nil {
			v.t.Fatal(err)
		}
		if e.Ino == in.Ino() {
			v.putDir("/"+e.Name, l, fn)
			return
		}
	}
}

// An entry has its inode in bytes 0 to 3, rec_len in 4 and 5, name_len in 6,
// file_type in 7, the name from 8 on. An index has in its root hash_version at
// byte 28, info_length at 29, indirect_levels at 30, unused_flags at 31, limit at
// 32, count at 34, the first block at 36, then hash and block of each other entry; in
// other nodes limit stands at 8.
var damagedDirs = []damaging{
	{name: "entry of no inode", image: "ext4-4k", change: onEntry("/", "text", setNumber(0))},
	{name: "entry of a free inode", image: "ext4-4k", change: onEntry("/", "text", setNumber(900))},
	{name: "entry of an inode behind the last", image: "ext4-4k", change: onEntry("/", "text", setNumber(0xfffffff0))},
	{name: "entry of the journal", image: "ext4-4k", change: onEntry("/", "text", setNumber(8))},
	{name: "entry of the bad blocks", image: "ext4-4k", change: onEntry("/", "text", setNumber(1))},
	{name: "entry of the root", image: "ext4-4k", change: onEntry("/", "text", setNumber(2))},
	{name: "entry of another file", image: "ext4-4k", change: onEntry("/", "text", setIno("/one"))},
	{name: "entry of a directory", image: "ext4-4k", change: onEntry("/", "text", setIno("/dir/sub"))},
	{name: "entry of the directory itself", image: "ext4-4k", change: onEntry("/dir", "sub", setIno("/dir"))},
	{name: "entry of the directory above", image: "ext4-4k", change: onEntry("/dir", "sub", setIno("/"))},
	{name: "two directories in each other", image: "ext4-4k", change: func(v *volume) {
		dir, sub := v.ino("/dir"), v.ino("/dir/sub")
		v.putDir("/", 0, func(b []byte) { binary.LittleEndian.PutUint32(b[v.entry(b, "dir"):], uint32(v.ino("/holes"))) })
		v.putDir("/dir/sub", 0, func(b []byte) { binary.LittleEndian.PutUint32(b[v.entry(b, "file"):], uint32(dir)) })
		_ = sub
	}},
	{name: ". is another", image: "ext4-4k", change: onEntry("/dir", ".", setIno("/"))},
	{name: ".. is another", image: "ext4-4k", change: onEntry("/dir", "..", setIno("/holes"))},
	{name: ".. is a file", image: "ext4-4k", change: onEntry("/dir", "..", setIno("/text"))},
	{name: ".. of the root is another", image: "ext4-4k", change: onEntry("/", "..", setIno("/dir"))},
	{name: ".. is no inode", image: "ext4-4k", change: onEntry("/dir", "..", setNumber(0))},
	{name: ". has another name", image: "ext4-4k", change: onEntry("/dir", ".", setByte(8, 'x'))},
	{name: ".. has another name", image: "ext4-4k", change: onEntry("/dir", "..", setByte(9, 'x'))},
	{name: ". does not end with NUL", image: "ext4-4k", change: onEntry("/dir", ".", setByte(9, 'x'))},
	{name: ".. does not end with NUL", image: "ext4-4k", change: onEntry("/dir", "..", setByte(10, 'x'))},
	{name: ". is longer", image: "ext4-4k", change: onEntry("/dir", ".", setRecLen(24))},
	{name: "rec_len is 0", image: "ext4-4k", change: onEntry("/", "text", setRecLen(0))},
	{name: "rec_len is 7", image: "ext4-4k", change: onEntry("/", "text", setRecLen(7))},
	{name: "rec_len is 8", image: "ext4-4k", change: onEntry("/", "text", setRecLen(8))},
	{name: "rec_len is beyond the block", image: "ext4-4k", change: onEntry("/", "text", setRecLen(4096))},
	{name: "rec_len of the last is short", image: "ext2-1k", change: onEntry("/", "dir", setRecLen(12)), sound: true},
	{name: "name_len is 0", image: "ext4-4k", change: onEntry("/", "text", setByte(6, 0))},
	{name: "name_len is 255", image: "ext4-4k", change: onEntry("/", "text", setByte(6, 255))},
	{name: "name_len is one more", image: "ext4-4k", change: onEntry("/", "text", setByte(6, 5))},
	{name: "file_type is a directory", image: "ext4-4k", change: onEntry("/", "text", setByte(7, 2))},
	{name: "file_type is unknown", image: "ext4-4k", change: onEntry("/", "text", setByte(7, 0)), sound: true},
	{name: "file_type is none", image: "ext4-4k", change: onEntry("/", "text", setByte(7, 8))},
	{name: "file_type is an EA inode", image: "ext4-4k", change: onEntry("/", "text", setByte(7, 0xff))},
	{name: "a name with a slash", image: "ext4-4k", change: onEntry("/", "text", setByte(9, '/'))},
	{name: "a name with NUL", image: "ext4-4k", change: onEntry("/", "text", setByte(9, 0))},
	{name: "a name twice", image: "ext4-4k", change: onEntry("/", "empty", func(v *volume, e []byte) { copy(e[6:], "\x03\x01one") })},
	{name: "a second .", image: "ext4-4k", change: onEntry("/", "one", func(v *volume, e []byte) { e[6], e[8] = 1, '.' })},
	{name: "a second ..", image: "ext4-4k", change: onEntry("/", "one", func(v *volume, e []byte) { e[6], e[8], e[9] = 2, '.', '.' })},
	{name: "lost+found has another name", image: "ext4-4k", change: onEntry("/", "lost+found", setByte(8, 'L')), sound: true},
	{name: "lost+found is a file", image: "ext4-4k", change: onEntry("/", "lost+found", setIno("/text"))},
	{name: "the block is zero", image: "ext4-4k", change: func(v *volume) { v.putDir("/dir", 0, func(b []byte) { clear(b) }) }},
	{name: "the block is zero", image: "ext2-1k", change: func(v *volume) { v.putDir("/dir", 0, func(b []byte) { clear(b) }) }},
	{name: "a later block is zero", image: "ext4-4k", change: func(v *volume) { v.putDir("/lost+found", 1, func(b []byte) { clear(b) }) }},
	{name: "the block is all ones", image: "ext2-1k", change: func(v *volume) {
		v.putDir("/dir", 0, func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, len(b))) })
	}},
	{name: "the checksum is wrong", image: "ext4-4k", change: func(v *volume) {
		v.putDir("/dir", 0, func(b []byte) {})
		in, _ := v.fs.Resolve("/dir", false)
		m, _ := in.Map(0)
		v.change(int64(m.Physical)*v.bs+v.bs-4, 4, func(b []byte) { b[0] ^= 1 })
	}, codes: "directory-checksum"},
	{name: "the tail is missing", image: "ext4-4k", change: func(v *volume) {
		v.putDir("/dir", 0, func(b []byte) { clear(b[len(b)-12:]) })
	}},
	{name: "i_size of a directory is larger", image: "ext4-4k", debugfs: "sif /dir size 8192"},
	{name: "i_size of a directory is 0", image: "ext4-4k", debugfs: "sif /dir size 0"},
	{name: "i_size of a directory is odd", image: "ext4-4k", debugfs: "sif /dir size 4095"},
	{name: "i_size of a directory is over 4 GiB", image: "ext4-4k", debugfs: "sif /dir size_hi 1"},
	{name: "a directory is a file", image: "ext4-4k", debugfs: "sif /dir mode 0100644"},
	{name: "a file is a directory", image: "ext4-4k", debugfs: "sif /text mode 040755"},
	{name: "a directory is a FIFO", image: "ext4-4k", debugfs: "sif /dir mode 010644"},
	{name: "a directory is a link", image: "ext4-4k", debugfs: "sif /dir mode 0120777"},
	{name: "a directory has no type", image: "ext4-4k", debugfs: "sif /dir mode 0755"},
	{name: "a file has no type", image: "ext4-4k", debugfs: "sif /text mode 0644"},
	{name: "a file is of type 15", image: "ext4-4k", debugfs: "sif /text mode 0170644"},
	{name: "a link is a file", image: "ext4-4k", debugfs: "sif /symlinks/1 mode 0100644"},
	{name: "a device is a file", image: "ext4-4k", debugfs: "sif /special/null mode 0100644"},
	{name: "a device is a directory", image: "ext4-4k", debugfs: "sif /special/null mode 040755"},
	{name: "a socket is a device", image: "ext4-4k", debugfs: "sif /special/socket mode 020644"},
	{name: "the link count of a file is 0", image: "ext4-4k", debugfs: "sif /text links_count 0"},
	{name: "the link count of a file is 65535", image: "ext4-4k", debugfs: "sif /text links_count 65535"},
	{name: "the link count of a directory is 1", image: "ext4-4k", debugfs: "sif /dir links_count 1"},
	{name: "the link count of a directory is 0", image: "ext4-4k", debugfs: "sif /dir links_count 0"},
	{name: "the root is zero", image: "ext4-4k", debugfs: "clri <2>"},
	{name: "lost+found is zero", image: "ext4-4k", debugfs: "clri <11>"},
	{name: "a directory of directories is zero", image: "ext4-4k", debugfs: "clri /dir"},
	{name: "a directory is not named any more", image: "ext4-4k", debugfs: "unlink /dir"},
	{name: "a directory is named twice", image: "ext4-4k", debugfs: "ln /dir /second"},
	{name: "a file is named once more", image: "ext4-4k", debugfs: "ln /text /third"},
	{name: "the target of a link is shorter", image: "ext4-4k", debugfs: "sif /symlinks/59 size 20"},
	{name: "the target of a link is longer", image: "ext4-4k", debugfs: "sif /symlinks/59 size 61"},
	{name: "the target of a link is empty", image: "ext4-4k", debugfs: "sif /symlinks/59 size 0"},
	{name: "the target of a long link is over a block", image: "ext4-4k", debugfs: "sif /symlinks/1000 size 5000"},
	{name: "the target of a long link is short", image: "ext4-4k", debugfs: "sif /symlinks/1000 size 30"},

	{name: "hash_version is another", image: "htree-4k", change: dxByte(28, 2)},
	{name: "hash_version is unknown", image: "htree-4k", change: dxByte(28, 9)},
	{name: "hash_version is SipHash", image: "htree-4k", change: dxByte(28, 6)},
	{name: "info_length is 9", image: "htree-4k", change: dxByte(29, 9)},
	{name: "info_length is 255", image: "htree-4k", change: dxByte(29, 255)},
	{name: "indirect_levels is 1", image: "htree-4k", change: dxByte(30, 1)},
	{name: "indirect_levels is 2", image: "htree-4k", change: dxByte(30, 2)},
	{name: "indirect_levels is 9", image: "htree-4k", change: dxByte(30, 9)},
	{name: "unused_flags is 1", image: "htree-4k", change: dxByte(31, 1)},
	{name: "limit is smaller", image: "htree-4k", change: dxHalf(0, 32, 100)},
	{name: "limit is 0", image: "htree-4k", change: dxHalf(0, 32, 0)},
	{name: "count is smaller", image: "htree-4k", change: dxHalf(0, 34, 2)},
	{name: "count is 0", image: "htree-4k", change: dxHalf(0, 34, 0)},
	{name: "count is above limit", image: "htree-4k", change: dxHalf(0, 34, 600)},
	{name: "the first block is the root", image: "htree-4k", change: dxWord(0, 36, 0)},
	{name: "the first block does not exist", image: "htree-4k", change: dxWord(0, 36, 9999)},
	{name: "the second block is the first", image: "htree-4k", change: dxWord(0, 44, 1)},
	{name: "a hash is larger than the next", image: "htree-4k", change: dxWord(0, 40, 0xf0000000)},
	{name: "a hash is 0", image: "htree-4k", change: dxWord(0, 48, 0)},
	{name: "a leaf is a node", image: "htree-4k", change: func(v *volume) {
		v.putLargest(3, func(b []byte) { clear(b[:8]); binary.LittleEndian.PutUint16(b[4:], uint16(len(b))) })
	}},
	{name: "the index's checksum is wrong", image: "htree-4k", change: func(v *volume) {
		in, _ := v.fs.Inode(v.largestDir())
		m, _ := in.Map(0)
		v.change(int64(m.Physical)*v.bs+v.bs-4, 4, func(b []byte) { b[0] ^= 1 })
	}},
	{name: "the flag index is missing", image: "htree-4k", change: func(v *volume) {
		v.put(v.largestDir(), func(in *disk.Inode) { in.Flags &^= disk.FlagIndex })
	}},
	{name: "dir_index is not set", image: "htree-4k", debugfs: "feature -dir_index"},
	{name: "large_dir is not set", image: "htree-3-levels", debugfs: "feature -large_dir"},
	{name: "the first block does not exist", image: "htree-3-levels", change: dxWord(0, 36, 0x00ffffff)},
	{name: "s_hash_seed is another", image: "htree-4k", debugfs: "ssv hash_seed 01234567-89ab-cdef-0123-456789abcdef"},
	{name: "s_def_hash_version is another", image: "htree-4k", debugfs: "ssv def_hash_version tea", sound: true},

	{name: "s_encoding is another", image: "casefold", debugfs: "ssv encoding 2"},
	{name: "casefold is not set", image: "casefold", debugfs: "feature -casefold"},
}

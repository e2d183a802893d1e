package mkfs

import (
	"io"

	"e4go/ext4/disk"
)

// inlineName is the xattr that what does not fit into i_block stands in.
const inlineName = "data"

// inlineRoom is how many bytes of contents an inode can hold beside the
// xattrs, which go to a block if that helps; 0 if none.
func (v *volume) inlineRoom(x *xattrs) (n int, xattrsInBody bool) {
	if !v.sb.Incompat.Has(disk.IncompatInlineData) {
		return 0, false
	}
	own := disk.XattrEntryLen(len(inlineName))
	rest := v.ibodyRoom() - own - 4
	if rest < 0 {
		return 0, false
	}
	if x == nil {
		return disk.IBlockSize + rest&^3, true
	}
	if with := rest - (xattrRoom(x.list) - 4); with >= 0 {
		return disk.IBlockSize + with&^3, true
	}
	if xattrRoom(x.list) <= v.blockRoom() {
		return disk.IBlockSize + rest&^3, false
	}
	return 0, false
}

// inline reports whether a file's contents fit into its inode.
func (f *Builder) inline(id nodeID, size int64) bool {
	n, _ := f.v.inlineRoom(f.t.xattrs[f.t.node(id).xattrs])
	return size <= int64(n)
}

// readInline reads the contents of a file that go into its inode.
func (f *Builder) readInline(id nodeID, r Reader, path string) error {
	data := make([]byte, f.t.node(id).size)
	if n, err := io.ReadFull(r, data); err != nil {
		return readFailed(path, int64(n), int64(len(data)), err)
	}
	f.stats.bytes.Add(uint64(len(data)))
	f.sums.begin(int64(len(data)), []span{{0, int64(len(data))}})
	f.sums.add(0, data)
	f.sums.end(f, id)
	n := f.t.node(id)
	n.where = f.t.text.add(data)
	n.state |= nodeInline
	return nil
}

// setInline puts contents into an inode, and returns what goes into the xattr
// beside them.
func setInline(in *inode, data []byte) xattr {
	in.Flags |= disk.FlagInlineData
	n := copy(in.Block[:], data)
	return xattr{index: disk.XattrSystem, name: inlineName, value: data[n:]}
}

// inlineDir is the contents of a directory whose entries fit into n bytes, or
// nil: the parent's number, and entries up to the end of i_block; more entries
// behind that.
func (d *dirWriter) inlineDir(n int) []byte {
	const first = disk.IBlockSize - 4
	starts := []int{0}
	rooms := []int{first, n - disk.IBlockSize}
	used := 0
	for i := range d.entries {
		size := d.entries[i].size()
		for used+size > rooms[len(starts)-1] {
			if len(starts) == len(rooms) {
				return nil
			}
			starts = append(starts, i)
			used = 0
		}
		used += size
	}
	if n < disk.IBlockSize {
		return nil
	}
	end := disk.IBlockSize
	if len(starts) > 1 {
		end += used // the second part has no room to spare
	}
	b := make([]byte, end)
	le.PutUint32(b, uint32(d.parent))
	starts = append(starts, len(d.entries))
	for k, at := range []int{4, disk.IBlockSize}[:len(starts)-1] {
		list := d.entries[starts[k]:starts[k+1]]
		stop := disk.IBlockSize
		if k == 1 {
			stop = end
		}
		if len(list) == 0 {
			(disk.Dirent{RecLen: stop - at}).Put(b[at:], d.v.sb.BlockSize())
		}
		for i := range list {
			size := list[i].size()
			if i == len(list)-1 {
				size = stop - at
			}
			d.put(b, at, size, &list[i])
			at += size
		}
	}
	return b
}

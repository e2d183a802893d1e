package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// zones are the blocks of the file system's own structures, which no file may
// lead to (ext4_setup_system_zone): runs in order, apart from one another.
type zones []run

// add adds n blocks from first on, which most often come next to those that
// were added last.
func (z *zones) add(first disk.PBlock, n uint64) {
	if n == 0 {
		return
	}
	if k := len(*z); k > 0 && (*z)[k-1].first+disk.PBlock((*z)[k-1].n) == first {
		(*z)[k-1].n += n
		return
	}
	*z = append(*z, run{first, n})
}

// sort brings the runs into order, and joins what lies together.
func (z *zones) sort() {
	slices.SortFunc(*z, func(a, b run) int { return cmp.Compare(a.first, b.first) })
	out := (*z)[:0]
	for _, r := range *z {
		if k := len(out); k > 0 && out[k-1].first+disk.PBlock(out[k-1].n) >= r.first {
			out[k-1].n = max(out[k-1].n, uint64(r.first-out[k-1].first)+r.n)
			continue
		}
		out = append(out, r)
	}
	*z = slices.Clip(out)
}

// overlap returns the first zone that has one of the n blocks from first on.
func (z zones) overlap(first disk.PBlock, n uint64) (run, bool) {
	i, _ := slices.BinarySearchFunc(z, first, func(r run, b disk.PBlock) int {
		if r.first+disk.PBlock(r.n) <= b {
			return -1
		}
		return 1
	})
	if i < len(z) && z[i].first < first+disk.PBlock(n) {
		return z[i], true
	}
	return run{}, false
}

// addGroup adds the metadata of group g.
func (z *zones) addGroup(sb *disk.Superblock, g disk.Group, d *disk.GroupDesc) {
	z.add(sb.FirstBlock(g), sb.BaseMetaBlocks(g))
	z.add(d.BlockBitmap, 1)
	z.add(d.InodeBitmap, 1)
	z.add(d.InodeTable, uint64(sb.ItableBlocks()))
}

// checkBlocks returns a *disk.CorruptError if n blocks from first on, to which
// the map in block blk leads, are the file system's own: who writes must not
// take them for the file's (ext4_inode_block_valid).
func (in *Inode) checkBlocks(first disk.PBlock, n uint64, blk disk.PBlock, off int) error {
	rw := in.fs.rw
	if rw == nil || in.ino < in.fs.sb.FirstIno {
		return nil
	}
	z, bad := rw.zones.overlap(first, n)
	if !bad {
		return nil
	}
	return &disk.CorruptError{Struct: "map of inode", Num: uint64(in.ino), Block: blk, Off: off, Field: "blocks",
		Have: fmt.Sprintf("%d to %d", first, uint64(first)+n-1),
		Want: fmt.Sprintf("none of the file system's own, such as %d to %d", z.first, uint64(z.first)+z.n-1)}
}

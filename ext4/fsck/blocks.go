package fsck

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// checkBlocks takes the blocks of the inode at hand and compares them with its size
// and count (check_blocks). An orphan may have blocks behind its end: they are what it is an orphan for.
func (w *worker) checkBlocks(orphan bool) error {
	c, s := w.c, &w.inode
	in, ino := &s.in, s.ino
	m := w.walkMap(ino, in, s.at)
	m.claim, m.rootOK = s.claimer, s.tree
	if ino == disk.ResizeIno {
		m.claim = func(first, n uint64, node bool) bool { return c.ownsResize(in, first) && s.claimer(first, n, node) }
	}
	ea := w.takeXattrBlock()
	inline := in.Flags.Has(disk.FlagInlineData) && c.sb.Incompat.Has(disk.IncompatInlineData)
	s.dirRuns = len(w.lists.runs)
	if m.isDir {
		m.run = w.addDirRun
	}
	if !inline && w.hasBlocks() {
		if err := m.walk(); err != nil {
			return fmt.Errorf("map of inode %d: %w", ino, err)
		}
	}
	if m.fragmented && m.clusters < uint64(c.sb.BlocksPerGroup) {
		if m.isDir {
			w.lists.stats.FragmentedDirs++
		} else {
			w.lists.stats.FragmentedFiles++
		}
	}
	if in.Flags.Has(disk.FlagExtents) && !inline && s.tree {
		if d := disk.DecodeExtentHeader(in.Block[:]).Depth; int(d) < len(w.lists.stats.ExtentDepth) {
			w.lists.stats.ExtentDepth[d]++
		}
	}
	if in.Flags.Has(disk.FlagIndex) {
		if err := w.checkIndexFlag(m); err != nil {
			return err
		}
	}
	if m.isDir && m.clusters == 0 && ea == 0 && !in.Flags.Has(disk.FlagInlineData) && !orphan {
		w.problem(inodeEmptyDir, disk.IBlockOffset, "", "")
	}
	if !orphan {
		w.checkSize(m)
	}
	if m.isReg && in.Size >= 1<<31 {
		w.lists.large = true
		w.lists.stats.LargeFiles++
	}
	w.countBlocks(m, ea)
	if c.sb.ROCompat.Has(disk.ROCompatBigalloc) && (m.isReg || m.isDir) && m.clusters > 0 && (ino == disk.RootIno || ino >= c.sb.FirstIno) &&
		in.Flags&(disk.FlagExtents|disk.FlagInlineData) == 0 {
		w.problem(inodeBigalloc, 0x20, "", "")
	}
	return nil
}

// ownsResize reports whether a cluster of the resize inode is its own: that is
// its double indirect block, and all others are reserved descriptor blocks, which
// are the file system's already.
func (c *checker) ownsResize(in *disk.Inode, cluster uint64) bool {
	dind := disk.PBlock(binary.LittleEndian.Uint32(in.Block[4*(disk.DirectBlocks+1):]))
	return c.legal(dind) && cluster == c.cluster(dind)
}

// checkSize compares i_size with the map.
func (w *worker) checkSize(m *mapWalk) {
	c, in := w.c, &w.inode.in
	size := in.Size
	if in.Mode.Type() == disk.ModeLink {
		return
	}
	bad := func(want string) { w.problem(inodeSize, 0x04, dec(size), want) }
	if m.isDir {
		blocks := int64(size >> c.bits)
		switch n, problem := 0, ""; {
		case in.Flags.Has(disk.FlagInlineData):
			if n, problem = w.inlineData(); problem != "" || uint64(n) != size {
				bad(dec(n))
			}
		case size%uint64(c.bs) != 0, blocks > m.last+1, blocks < m.last+1 && m.last+1-blocks > int64(c.sb.PreallocDirs):
			bad(dec((m.last + 1) << c.bits))
		}
		return
	}
	extents := c.sb.Incompat.Has(disk.IncompatExtents) && in.Flags.Has(disk.FlagExtents)
	switch {
	case m.lastInit >= 0 && size < uint64(m.lastInit)<<c.bits && !in.Flags.Has(disk.FlagVerity):
		bad(fmt.Sprintf("more than %d, as there are blocks behind it", uint64(m.lastInit)<<c.bits))
	case !extents && size > blockMapSize(c.bits):
		bad(fmt.Sprintf("at most %d", blockMapSize(c.bits)))
	case extents && size > 1<<(32+c.bits)-1:
		bad(fmt.Sprintf("at most %d", uint64(1)<<(32+c.bits)-1))
	}
}

// blockMapSize is the size of the largest file that a map of blocks of numbers can hold.
func blockMapSize(bits uint) uint64 {
	per := uint64(1) << (bits - 2)
	return (disk.DirectBlocks + per + per*per + per*per*per) << bits
}

// countBlocks compares i_blocks with what the inode takes: its map, a block of
// xattrs, and the values in EA inodes, for which it is charged.
func (w *worker) countBlocks(m *mapWalk, ea disk.PBlock) {
	c, s := w.c, &w.inode
	in, ino := &s.in, s.ino
	clusters := m.clusters
	inodes := uint64(1)
	if ea != 0 {
		clusters++
	}
	clusters += s.xattr.clusters
	inodes += s.xattr.inodes
	counted := ino != c.sb.ProjectQuotaIno && ino != c.sb.OrphanFileIno && (ino == disk.RootIno || ino >= c.sb.FirstIno) && !in.Flags.Has(disk.FlagEAInode) &&
		!(in.Mode.Type() == disk.ModeLink && in.Flags.Has(disk.FlagInlineData)) // mke2fs and e2fsck forget these, and the kernel makes none
	if ea != 0 && (c.sb.Incompat.Has(disk.IncompatEAInode) || counted && c.sb.ROCompat.Has(disk.ROCompatQuota)) {
		// What the block's values take is known when it has been read.
		w.lists.waiting = append(w.lists.waiting, waiting{
			ino: ino, ea: ea, clusters: clusters, inodes: inodes, raw: in.BlocksRaw, huge: in.Flags.Has(disk.FlagHugeFile), lost: m.lost,
			quota: counted, ids: w.quotaIDs(),
		})
		return
	}
	if counted {
		w.lists.quota.add(c, w.quotaIDs(), clusters<<(c.bits+c.cbits), inodes)
	}
	c.judgeBlocks(s.at, in.BlocksRaw, in.Flags.Has(disk.FlagHugeFile), clusters)
}

// quotaIDs are the ids that the inode at hand counts for.
func (w *worker) quotaIDs() [disk.QuotaTypes]uint32 {
	in := &w.inode.in
	ids := [disk.QuotaTypes]uint32{in.UID, in.GID, in.ProjID}
	if disk.GoodOldInodeSize+int(in.ExtraIsize) < 0xa0 {
		ids[disk.QuotaProject] = 0 // i_projid is not there
	}
	return ids
}

// judgeBlocks compares raw, an inode's i_blocks, with the clusters it has.
func (c *checker) judgeBlocks(at Place, raw uint64, hugeFlag bool, clusters uint64) {
	huge := c.sb.ROCompat.Has(disk.ROCompatHugeFile)
	want := clusters << c.cbits
	if !huge || !hugeFlag {
		want <<= c.bits - 9
	}
	have := raw
	if !huge {
		have &= 0xffffffff
	}
	if c.sb.CreatorOS == osHurd {
		return // the Hurd has other things in the high half
	}
	if have != want || huge && hugeFlag && have>>32 != 0 {
		at.Off += 0x1c
		c.rep.add(inodeBlocks, Problem{Place: at, Have: dec(have), Want: dec(want)})
	}
}

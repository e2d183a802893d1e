package jbd2

import (
	"fmt"

	"e4go/ext4/disk"
)

// fcKind says what i_block holds.
type fcKind int

const (
	kindPlain    fcKind = iota // no blocks: a short symlink, a device, inline data, a free inode
	kindExtents                // an extent tree
	kindIndirect               // direct and indirect block numbers
)

// fcInode is an inode that records speak of.
type fcInode struct {
	ino    disk.Ino
	blk    disk.PBlock // where it lies
	off    int
	raw    []byte // its s_inode_size bytes, behind in
	in     disk.Inode
	seed   uint32 // for the checksums of what belongs to it
	used   bool   // marked in the bitmap
	kind   fcKind
	fcMap         // empty until loadMap; of kindExtents and kindIndirect
	mapped bool   // fcMap is what i_block says, or what records made of it
	before uint64 // sectors that i_blocks counted on the device
	other  uint64 // those of them that the map does not explain: xattrs
	orphan bool   // had no links before: it waits for its deletion already
	dirty  bool   // to be written
	doomed bool   // lost its last link, unless an INODE record says otherwise
}

func (n *fcInode) isDir() bool { return n.in.Mode.Type() == disk.ModeDir }

// inode returns inode ino, whatever its state.
func (fs *fcFS) inode(ino disk.Ino) (*fcInode, error) {
	if n, ok := fs.inodes[ino]; ok {
		return n, nil
	}
	num, i := fs.sb.InodeGroup(ino)
	g, err := fs.group(num)
	if err != nil {
		return nil, err
	}
	at := uint64(i) * uint64(fs.sb.InodeSize)
	n := &fcInode{ino: ino, blk: g.desc.InodeTable + disk.PBlock(at/uint64(fs.bs)), off: int(at % uint64(fs.bs))}
	b, err := fs.read(n.blk)
	if err != nil {
		return nil, err
	}
	n.raw = append(n.raw, b[n.off:n.off+int(fs.sb.InodeSize)]...)
	if n.used, err = fs.inodeUsed(ino); err != nil {
		return nil, err
	}
	if n.used {
		if err := disk.CheckInode(&fs.sb, ino, n.raw, n.blk, n.off); err != nil {
			return nil, err
		}
		n.decode(fs)
		n.orphan = n.in.Links == 0
		n.before = n.in.Sectors(&fs.sb)
	}
	fs.inodes[ino] = n
	return n, nil
}

// lookup returns inode ino for a record that needs it to exist, or nil.
func (fs *fcFS) lookup(ino disk.Ino) (*fcInode, error) {
	if !fs.valid(ino) {
		return nil, nil
	}
	n, err := fs.inode(ino)
	if err != nil || !n.used {
		return nil, err
	}
	return n, nil
}

// valid reports whether records may speak of ino: the root and what is not
// reserved.
func (fs *fcFS) valid(ino disk.Ino) bool {
	return fs.sb.ValidIno(ino) && (ino == disk.RootIno || ino >= fs.sb.FirstIno)
}

func (n *fcInode) decode(fs *fcFS) {
	n.in = disk.DecodeInode(n.raw)
	n.seed = disk.InodeSeed(fs.seed, n.ino, n.in.Generation)
	n.kind = fs.kindOf(&n.in)
}

// kindOf says what i_block of in holds.
func (fs *fcFS) kindOf(in *disk.Inode) fcKind {
	switch t := in.Mode.Type(); {
	case in.Flags.Has(disk.FlagInlineData):
		return kindPlain
	case in.Flags.Has(disk.FlagExtents):
		return kindExtents
	case t == disk.ModeReg, t == disk.ModeDir, t == disk.ModeLink && !in.FastSymlink(&fs.sb):
		return kindIndirect
	}
	return kindPlain
}

// loadMap reads the block map of n, which i_block holds still as it was on the
// device. Inodes whose blocks no record speaks of do not come here.
func (fs *fcFS) loadMap(n *fcInode) (err error) {
	if n.mapped {
		return nil
	}
	switch n.kind {
	case kindExtents:
		n.fcMap, err = fs.readTree(n)
	case kindIndirect:
		n.fcMap, err = fs.readIndirect(n)
	}
	if err != nil {
		return err
	}
	n.mapped = true
	if own := fs.sectors(n); n.before > own {
		n.other = n.before - own
	}
	return nil
}

// sectors is what the map of n adds to i_blocks.
func (fs *fcFS) sectors(n *fcInode) uint64 {
	return n.clusters(fs.sb.ClusterBits()) << (fs.sb.ClusterBits() + fs.sb.BlockBits() - 9)
}

// setMap is [fcMap.set], with bookkeeping.
func (fs *fcFS) setMap(n *fcInode, e fcExtent) error {
	if n.kind == kindPlain {
		return &disk.CorruptError{
			Struct: "fast commit record of inode", Num: uint64(n.ino), Block: n.blk, Off: n.off + 0x20, Field: "i_flags",
			Have: fmt.Sprintf("%#x", uint32(n.in.Flags)), Want: "a file with blocks",
		}
	}
	if err := fs.loadMap(n); err != nil {
		return err
	}
	if n.kind == kindIndirect && e.start != 0 {
		if err := fs.checkIndirect(n, e); err != nil {
			return err
		}
	}
	fs.freed = append(fs.freed, n.set(e)...)
	n.dirty = true
	return nil
}

// dropMap frees all blocks that n maps.
func (fs *fcFS) dropMap(n *fcInode) error {
	if err := fs.loadMap(n); err != nil {
		return err
	}
	for _, e := range n.ext {
		for e.len > 0 {
			c := min(e.len, 1<<31)
			fs.freed = append(fs.freed, Extent{Start: e.start, Len: uint32(c)})
			e = fcExtent{start: e.start + disk.PBlock(c), len: e.len - c}
		}
	}
	for _, b := range n.nodes {
		fs.freed = append(fs.freed, Extent{Start: b, Len: 1})
	}
	n.fcMap = fcMap{changed: true}
	return nil
}

// replayInode applies an INODE record (ext4_fc_replay_inode): all of the inode
// but what describes its blocks, which other records do.
func (fs *fcFS) replayInode(v disk.FCInodeValue) error {
	if !fs.valid(v.Ino) {
		return &disk.CorruptError{
			Struct: "fast commit record of inode", Num: uint64(v.Ino), Field: "fc_ino",
			Have: fmt.Sprint(v.Ino), Want: fmt.Sprintf("2 or %d..%d", fs.sb.FirstIno, fs.sb.Inodes),
		}
	}
	n, err := fs.inode(v.Ino)
	if err != nil {
		return err
	}
	rec := disk.DecodeInode(v.Raw)
	wasDir := n.used && n.isDir()
	fresh := !n.used || n.in.Generation != rec.Generation
	if fresh {
		// Another file than the one that had this number: nothing of
		// the old one may show through.
		if n.used {
			if err := fs.dropXattrs(n); err != nil {
				return err
			}
			if err := fs.dropMap(n); err != nil {
				return err
			}
		}
		clear(n.raw)
		delete(fs.dirs, n.ino)
		n.kind, n.fcMap, n.mapped = kindPlain, fcMap{}, true
		n.before, n.other, n.orphan = 0, 0, false
	}
	block, dtime := n.in.Block, n.in.Dtime
	if n.kind != kindPlain && n.kind != fs.kindOf(&rec) {
		// The old blocks are looked up where they still can be.
		if err := fs.dropMap(n); err != nil {
			return err
		}
		n.kind = kindPlain
	}
	had := n.kind != kindPlain
	const gen = disk.IBlockOffset + disk.IBlockSize
	copy(n.raw[:disk.IBlockOffset], v.Raw)
	copy(n.raw[gen:], v.Raw[gen:])
	copy(n.raw[disk.IBlockOffset:gen], v.Raw[disk.IBlockOffset:])
	n.decode(fs)
	switch {
	case n.kind == kindPlain: // i_block holds the contents itself, and the record has them
		n.fcMap, n.mapped = fcMap{}, true
	case had:
		n.in.Block = block
	default:
		n.fcMap, n.mapped = fcMap{changed: true}, true
	}
	if n.orphan && n.in.Links == 0 {
		n.in.Dtime = dtime // links the orphan list as it is on the device
	}
	n.doomed, n.dirty = false, true
	if !n.used {
		n.used = true
		return fs.markInode(n.ino, true, n.isDir())
	}
	if dir := n.isDir(); dir != wasDir {
		return fs.countDir(n.ino, dir)
	}
	return nil
}

// countDir counts ino, which stays in use, as a directory or no longer.
func (fs *fcFS) countDir(ino disk.Ino, dir bool) error {
	num, _ := fs.sb.InodeGroup(ino)
	g, err := fs.group(num)
	if err != nil {
		return err
	}
	if dir {
		g.desc.UsedDirs++
	} else {
		g.desc.UsedDirs--
	}
	g.dirty = true
	return nil
}

// release deletes n, which has no links (ext4_free_inode). Its blocks are
// freed with the others.
func (fs *fcFS) release(n *fcInode) error {
	if err := fs.dropXattrs(n); err != nil {
		return err
	}
	if err := fs.dropMap(n); err != nil {
		return err
	}
	if err := fs.markInode(n.ino, false, n.isDir()); err != nil {
		return err
	}
	n.used, n.dirty, n.other = false, true, 0
	n.in.Links, n.in.Size, n.in.FileACL = 0, 0, 0
	// No record says when. A time as small as an inode number would be read
	// as a link of the orphan list.
	for _, t := range []int64{n.in.Ctime.Sec, fs.sb.Wtime, 1<<31 - 1} {
		if n.in.Dtime = uint32(t); n.in.Dtime > fs.sb.Inodes {
			break
		}
	}
	return nil
}

// flushInode stages n.
func (fs *fcFS) flushInode(n *fcInode) error {
	if n.changed {
		var err error
		switch n.kind {
		case kindExtents:
			err = fs.writeTree(n)
		case kindIndirect:
			err = fs.writeIndirect(n)
		}
		if err != nil {
			return err
		}
	}
	if n.mapped {
		fs.setSectors(n, fs.sectors(n)+n.other)
	}
	n.in.Put(n.raw)
	if fs.sb.MetadataCsum() {
		n.in.Checksum = disk.InodeChecksum(fs.seed, n.ino, n.raw)
		n.in.Put(n.raw)
	}
	b, err := fs.edit(n.blk)
	if err != nil {
		return err
	}
	copy(b[n.off:], n.raw)
	return nil
}

// setSectors stores i_blocks (ext4_inode_blocks_set).
func (fs *fcFS) setSectors(n *fcInode, sectors uint64) {
	n.in.Flags &^= disk.FlagHugeFile
	if sectors >= 1<<48 {
		n.in.Flags |= disk.FlagHugeFile
		sectors >>= fs.sb.BlockBits() - 9
	}
	n.in.BlocksRaw = sectors
}

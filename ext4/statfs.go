package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"e4go/ext4/disk"
)

// Statfs is what statfs(2) tells of a file system.
type Statfs struct {
	BlockSize int64  // bytes
	Blocks    uint64 // without the overhead of metadata
	Free      uint64 // blocks
	Avail     uint64 // blocks, less what is reserved
	Files     uint64 // inodes
	FreeFiles uint64
	FSID      [2]uint32
	NameLen   int
}

// overhead is what a walk over all groups adds up.
type overhead struct {
	metaClusters uint64 // clusters of metadata: what bsddf leaves out
	freeClusters uint64 // when it was added up
	freeInodes   uint64
}

// Statfs returns the numbers that the kernel shows for a mount with bsddf, or
// minixdf if that is asked for (ext4_statfs). The first call reads all group descriptors.
func (fs *FS) Statfs() (Statfs, error) {
	fs.statfsMu.Lock()
	defer fs.statfsMu.Unlock()
	sb := &fs.sb
	if fs.overhead == nil {
		o, err := fs.addUp()
		if err != nil {
			return Statfs{}, err
		}
		fs.overhead = o
	}
	cb := sb.ClusterBits()
	freeClusters, freeInodes := fs.overhead.freeClusters, fs.overhead.freeInodes
	if fs.rw != nil {
		fs.rw.mu.Lock()
		freeClusters, freeInodes = fs.rw.freeDisk, uint64(fs.rw.freeInodes)
		fs.rw.mu.Unlock()
	}
	overhead := min(sb.Blocks, fs.overhead.metaClusters<<cb)
	if fs.opts.MinixDF {
		overhead = 0
	}
	st := Statfs{
		BlockSize: int64(sb.BlockSize()),
		Blocks:    sb.Blocks - overhead,
		Free:      freeClusters << cb,
		Files:     uint64(sb.Inodes), FreeFiles: freeInodes,
		NameLen: disk.MaxNameLen,
	}
	reserved := sb.ReservedBlocks + splitReserve(sb)<<cb
	st.Avail = st.Free - min(st.Free, reserved)
	uuid := fs.UUID()
	id := binary.LittleEndian.Uint64(uuid[0:8]) ^ binary.LittleEndian.Uint64(uuid[8:16])
	st.FSID = [2]uint32{uint32(id), uint32(id >> 32)}
	return st, nil
}

// StatfsOf is [FS.Statfs] as seen from inode ino: a directory whose new files
// inherit its project shows what the limits of that project leave, if these are enforced
// (ext4_statfs_project).
func (fs *FS) StatfsOf(ino disk.Ino) (Statfs, error) {
	st, err := fs.Statfs()
	if err != nil || fs.rw == nil || !slices.Contains(fs.opts.QuotaLimits, disk.QuotaProject) || fs.sb.QuotaIno(disk.QuotaProject) == 0 {
		return st, err
	}
	in, err := fs.Inode(ino)
	if err != nil || in.Type() != disk.ModeDir || !in.disk.Flags.Has(disk.FlagProjInherit) {
		return st, err
	}
	e, err := fs.quotaOf(disk.QuotaProject, in.project())
	if err != nil {
		return st, fmt.Errorf("statfs: %w", err)
	}
	if limit := lowerLimit(e.BlockSoftLimit<<10, e.BlockHardLimit<<10) >> fs.sb.BlockBits(); limit != 0 {
		left := limit - min(limit, e.Space>>fs.sb.BlockBits())
		st.Blocks, st.Free, st.Avail = min(st.Blocks, limit), min(st.Free, left), min(st.Avail, left)
	}
	if limit := lowerLimit(e.InodeSoftLimit, e.InodeHardLimit); limit != 0 {
		st.Files, st.FreeFiles = min(st.Files, limit), min(st.FreeFiles, limit-min(limit, e.Inodes))
	}
	return st, nil
}

// lowerLimit is the lower of two limits; 0 is none.
func lowerLimit(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func (fs *FS) addUp() (*overhead, error) {
	sb := &fs.sb
	o := &overhead{metaClusters: uint64(sb.FirstDataBlock) >> sb.ClusterBits()}
	bigalloc := sb.ClusterBits() > 0
	for g := range sb.Groups() {
		d, err := fs.groupDesc(disk.Group(g))
		if err != nil {
			return nil, fmt.Errorf("statfs: %w", err)
		}
		o.freeClusters += uint64(d.FreeClusters)
		o.freeInodes += uint64(d.FreeInodes)
		if !bigalloc {
			o.metaClusters += sb.BaseMetaBlocks(disk.Group(g)) + uint64(sb.ItableBlocks()) + 2
		}
	}
	if bigalloc {
		if sb.OverheadClusters != 0 && uint64(sb.OverheadClusters) <= sb.Blocks {
			o.metaClusters = uint64(sb.OverheadClusters)
			return o, nil
		}
		if err := fs.addBigallocOverhead(o); err != nil {
			return nil, fmt.Errorf("statfs: %w", err)
		}
	}
	if sb.Compat.Has(disk.CompatHasJournal) && sb.JournalIno != 0 {
		blocks := uint64(0)
		if fs.journal != nil && fs.journal.Loaded {
			blocks = uint64(fs.journal.Super.MaxLen)
		} else if in, err := fs.Inode(sb.JournalIno); err == nil {
			blocks = uint64(in.Size()) >> sb.BlockBits()
		}
		o.metaClusters += (blocks + 1<<sb.ClusterBits() - 1) >> sb.ClusterBits()
	}
	return o, nil
}

// addBigallocOverhead counts the clusters that metadata touch: several kinds
// may share one, and with flex_bg those of one group lie in another.
func (fs *FS) addBigallocOverhead(o *overhead) error {
	sb := &fs.sb
	type run struct{ first, last uint64 } // clusters
	var runs []run
	add := func(b disk.PBlock, n uint64) {
		if n == 0 {
			return
		}
		at := uint64(b) - uint64(sb.FirstDataBlock)
		runs = append(runs, run{at >> sb.ClusterBits(), (at + n - 1) >> sb.ClusterBits()})
	}
	for g := range sb.Groups() {
		d, err := fs.groupDesc(disk.Group(g))
		if err != nil {
			return err
		}
		add(sb.FirstBlock(disk.Group(g)), min(sb.BaseMetaBlocks(disk.Group(g)), uint64(sb.BlocksInGroup(disk.Group(g)))))
		add(d.BlockBitmap, 1)
		add(d.InodeBitmap, 1)
		add(d.InodeTable, uint64(sb.ItableBlocks()))
	}
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.first, b.first) })
	next := uint64(0) // the first cluster that is not counted
	for _, r := range runs {
		if r.last >= next {
			o.metaClusters += r.last + 1 - max(r.first, next)
			next = r.last + 1
		}
	}
	return nil
}

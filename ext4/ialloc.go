package ext4

import (
	"fmt"
	"math/rand/v2"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// inodeBit is where inode ino stands in the bitmap of its group.
func (rw *writer) inodeGroup(ino disk.Ino) (*group, uint32, error) {
	n, i := rw.fs.sb.InodeGroup(ino)
	g, err := rw.withInodes(n)
	return g, i, err
}

// allocInode takes an inode number for a file, or a directory, in parent.
func (h *Handle) allocInode(parent *Inode, dir bool) (disk.Ino, error) {
	rw := h.rw
	if rw.freeInodes == 0 {
		return 0, fmt.Errorf("allocate an inode: %w", unix.ENOSPC)
	}
	home, _ := rw.fs.sb.InodeGroup(parent.ino)
	var err error
	if dir {
		if home, err = rw.dirGroup(parent, home); err != nil {
			return 0, err
		}
	}
	sb := &rw.fs.sb
	groups := disk.Group(sb.Groups())
	for i := range groups {
		n := (home + i) % groups
		d, err := rw.desc(n)
		if err != nil {
			return 0, err
		}
		if d.FreeInodes == 0 {
			continue
		}
		g, err := rw.withInodes(n)
		if err != nil && rw.skipDamagedLocked(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		from := uint32(0)
		if n == 0 {
			from = uint32(sb.FirstIno) - 1
		}
		bit := g.inodes.next(from, sb.InodesPerGroup, false)
		if bit == sb.InodesPerGroup {
			continue
		}
		ino := disk.Ino(uint32(n)*sb.InodesPerGroup + bit + 1)
		g.inodes.set(bit, 1) // so that this update does not take it twice
		h.undo = append(h.undo, func() { g.inodes.clear(bit, 1) })
		h.inoNew = append(h.inoNew, ino)
		if dir {
			h.newDirs = append(h.newDirs, n)
		}
		return ino, nil
	}
	return 0, fmt.Errorf("allocate an inode: %w", unix.ENOSPC)
}

// dirGroup is where a new directory goes: near its parent, or, at the top of
// the tree, where there is most room and there are fewest directories
// (find_group_orlov). It looks at one group of each flex group.
func (rw *writer) dirGroup(parent *Inode, home disk.Group) (disk.Group, error) {
	sb := &rw.fs.sb
	groups := sb.Groups()
	top := parent.ino == disk.RootIno || parent.disk.Flags.Has(disk.FlagTopdir)
	avgInodes := uint64(rw.freeInodes) / groups
	avgFree := rw.free / groups
	start := uint64(home)
	if top {
		start = rand.Uint64N(groups)
	}
	best, found, leastDirs := home, false, uint32(0)
	for i := range min(groups, 64) {
		n := disk.Group((start + i) % groups)
		d, err := rw.desc(n)
		if err != nil {
			return 0, err
		}
		if uint64(d.FreeInodes) < max(avgInodes/2, 1) || uint64(d.FreeClusters) < avgFree/2 {
			continue
		}
		if !top {
			return n, nil
		}
		if !found || d.UsedDirs < leastDirs {
			best, found, leastDirs = n, true, d.UsedDirs
		}
	}
	return best, nil
}

// freeInode gives back an inode number.
func (h *Handle) freeInode(ino disk.Ino, dir bool) error {
	g, bit, err := h.rw.inodeGroup(ino)
	if err != nil {
		return err
	}
	if !g.inodes.get(bit) {
		return &disk.CorruptError{Struct: "inode bitmap of group", Num: uint64(g.n), Block: g.desc.InodeBitmap, Field: fmt.Sprintf("bit %d", bit),
			Have: "free", Want: fmt.Sprintf("in use: inode %d is being freed", ino)}
	}
	h.inoFree = append(h.inoFree, freedInode{ino, dir})
	return nil
}

// applyInodes brings the inode numbers taken and given back into the bitmaps
// and descriptors.
func (h *Handle) applyInodes() {
	rw, tx := h.rw, h.rw.running
	sb := &rw.fs.sb
	for _, ino := range h.inoNew {
		n, bit := sb.InodeGroup(ino)
		g := rw.groups[n]
		g.inodes.set(bit, 1)
		g.desc.FreeInodes--
		rw.freeInodes--
		tx.groups[n] |= inodesChanged
		if sb.DescChecksums() {
			g.desc.Flags &^= disk.GroupInodeUninit
			g.desc.ItableUnused = min(g.desc.ItableUnused, sb.InodesPerGroup-bit-1)
			if g.desc.Flags&disk.GroupBlockUninit != 0 {
				g.desc.Flags &^= disk.GroupBlockUninit
				tx.groups[n] |= blocksChanged
			}
		}
	}
	for _, f := range h.inoFree {
		n, bit := sb.InodeGroup(f.ino)
		g := rw.groups[n]
		g.inodes.clear(bit, 1)
		g.desc.FreeInodes++
		rw.freeInodes++
		if f.dir {
			g.desc.UsedDirs--
		}
		tx.groups[n] |= inodesChanged
	}
	for _, n := range h.newDirs {
		rw.groups[n].desc.UsedDirs++
	}
}

// unusedItable reports whether no inode in the block of the inode table that
// holds ino is in use, or was ever.
func (rw *writer) unusedItable(ino disk.Ino) bool {
	sb := &rw.fs.sb
	n, i := sb.InodeGroup(ino)
	g := rw.groups[n]
	return sb.DescChecksums() && g != nil && i-i%uint32(sb.InodesPerBlock()) >= sb.InodesPerGroup-g.desc.ItableUnused
}

// newFile makes an inode in directory parent, with mode and owner as the
// caller's call makes them: the group of a set-group-ID directory, and the flags that
// are inherited (__ext4_new_inode). It has no name yet, and no links.
func (h *Handle) newFile(c Caller, parent *Inode, mode disk.Mode) (*Inode, error) {
	h.limit(c)
	ino, err := h.allocInode(parent, mode.Type() == disk.ModeDir)
	if err != nil {
		return nil, err
	}
	in, err := h.newInode(ino, rand.Uint32())
	if err != nil {
		return nil, err
	}
	sb := &h.fs.sb
	d := &in.disk
	d.Mode, d.UID, d.GID = mode, c.UID, c.GID
	if h.fs.opts.GroupOfDir {
		d.GID = parent.disk.GID
	} else if parent.disk.Mode&unix.S_ISGID != 0 {
		d.GID = parent.disk.GID
		if mode.Type() == disk.ModeDir {
			d.Mode |= unix.S_ISGID
		}
	}
	if sb.InodeSize > disk.GoodOldInodeSize {
		d.ExtraIsize = max(sb.WantExtraIsize, minExtraIsize)
	}
	now := h.rw.time()
	d.Atime, d.Ctime, d.Mtime, d.Crtime = now, now, now, now
	d.Version = 1
	d.Flags = parent.disk.Flags & disk.FlagsInherited & flagsOf(mode.Type())
	if parent.disk.Flags.Has(disk.FlagProjInherit) {
		d.ProjID = parent.project()
	}
	if t := mode.Type(); sb.Incompat.Has(disk.IncompatExtents) && (t == disk.ModeReg || t == disk.ModeDir || t == disk.ModeLink) {
		d.Flags |= disk.FlagExtents
		fillRoot(d, nil, 0)
	}
	return in, nil
}

// minExtraIsize is how many bytes behind the first 128 have names.
const minExtraIsize = 32

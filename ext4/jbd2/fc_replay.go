package jbd2

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// replayFC applies the fast commits of transaction tid to the file system on
// dst, all of them or, if one cannot be, none.
//
// The kernel applies record by record and repairs bitmaps and counts at the
// end. So does this, but what a record means is taken from what the record was
// written for where the kernel's replay falls short: a new directory counts as
// a link of its parent, a removed one is freed, short symlinks and devices get
// the i_block of their record, and the xattr space of a new inode is empty.
func (j *Journal) replayFC(ctx context.Context, tid uint32, dst blockdev.Device, stats *FastCommitStats) error {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dst.ReadAt(raw, disk.SuperblockOffset); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	sb := disk.DecodeSuperblock(raw)
	scan, err := j.scanFC(ctx, tid, int(sb.InodeSize))
	*stats = scan.stats
	if err != nil || stats.Commits == 0 {
		return err
	}
	fs, err := newFCFS(dst, j.loc.BlockSize)
	if err != nil {
		return err
	}
	fs.exclude(scan.regions)
	err = j.validRecords(ctx, scan, &fs.sb, func(r *fcRecord) error {
		switch r.tl.Tag {
		case disk.FCCreat, disk.FCLink, disk.FCUnlink:
			v := disk.DecodeFCDentry(r.value())
			if fs.names[v.Parent] == nil {
				fs.names[v.Parent] = make(map[string]struct{})
			}
			fs.names[v.Parent][string(v.Name)] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = j.validRecords(ctx, scan, &fs.sb, func(r *fcRecord) error {
		applied, err := fs.apply(r)
		if !applied && err == nil {
			stats.Skipped++
		}
		if err != nil {
			return fmt.Errorf("replay fast commit %s (journal block %d+%#x): %w", r.tl.Tag, r.block, r.off, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fs.finish()
}

// validRecords calls fn with the records that the scan found valid.
func (j *Journal) validRecords(ctx context.Context, scan fcScanned, sb *disk.Superblock, fn func(*fcRecord) error) error {
	left := scan.stats.Records
	return j.fcRecords(ctx, int(sb.InodeSize), func(r *fcRecord) (bool, error) {
		if left == 0 {
			return false, nil
		}
		left--
		err := fn(r)
		return err == nil, err
	})
}

// apply applies one record. It returns false if the record speaks of an inode
// that is not in use: its file was deleted later in the same transaction.
func (fs *fcFS) apply(r *fcRecord) (bool, error) {
	switch r.tl.Tag {
	case disk.FCInode:
		return true, fs.replayInode(disk.DecodeFCInode(r.value()))
	case disk.FCAddRange:
		v := disk.DecodeFCAddRange(r.value())
		if v.Len == 0 || !fs.sb.ValidRange(v.Start, uint64(v.Len)) || uint64(v.Block)+uint64(v.Len) > 1<<32-1 {
			return false, fs.badRecord(v.Ino, "fc_ex", fmt.Sprintf("%d blocks at %d, file block %d", v.Len, v.Start, v.Block),
				fmt.Sprintf("blocks below %d", fs.sb.Blocks))
		}
		n, err := fs.lookup(v.Ino)
		if err != nil || n == nil || n.doomed {
			return false, err
		}
		delete(fs.dirs, n.ino)
		return true, fs.setMap(n, fcExtent{uint64(v.Block), uint64(v.Len), v.Start, v.Unwritten})
	case disk.FCDelRange:
		v := disk.DecodeFCDelRange(r.value())
		n, err := fs.lookup(v.Ino)
		if err != nil || n == nil || n.doomed {
			return false, err
		}
		if v.Len == 0 || n.kind == kindPlain {
			return true, nil
		}
		delete(fs.dirs, n.ino)
		return true, fs.setMap(n, fcExtent{block: uint64(v.Block), len: uint64(v.Len)})
	case disk.FCCreat, disk.FCLink, disk.FCUnlink:
		return fs.replayDentry(r.tl.Tag, disk.DecodeFCDentry(r.value()))
	}
	return true, nil // heads, tails, padding
}

func (fs *fcFS) badRecord(ino disk.Ino, field, have, want string) error {
	return &disk.CorruptError{Struct: "fast commit record of inode", Num: uint64(ino), Field: field, Have: have, Want: want}
}

// replayDentry applies a CREAT, LINK or UNLINK.
func (fs *fcFS) replayDentry(tag disk.FastCommitTag, v disk.FCDentryValue) (bool, error) {
	name := string(v.Name)
	if disk.IsDot(v.Name) || bytes.ContainsAny(v.Name, "/\x00") {
		return false, fs.badRecord(v.Ino, "fc_dname", fmt.Sprintf("%q", name), "a name without / and NUL, not . or ..")
	}
	child, err := fs.lookup(v.Ino)
	if err != nil || child == nil {
		return false, err
	}
	parent, err := fs.lookup(v.Parent)
	if err != nil || parent == nil || parent.doomed {
		return false, err
	}
	if !parent.isDir() || parent == child {
		return false, fs.badRecord(v.Ino, "fc_parent_ino", fmt.Sprint(v.Parent), "another inode, a directory")
	}
	if tag == disk.FCCreat && child.isDir() && child.kind != kindPlain && child.mapped && len(child.ext) == 0 {
		if err := fs.initDir(child, parent); err != nil {
			return false, err
		}
	}
	d, err := fs.dir(parent)
	if err != nil {
		return false, err
	}
	have, err := fs.has(d, name)
	if err != nil {
		return false, err
	}
	if tag == disk.FCUnlink {
		if have == 0 && parent.in.Flags.Has(disk.FlagCasefold) {
			if name, err = fs.folded(d, name, child.ino); err != nil {
				return false, err
			}
			have, _ = fs.has(d, name)
		}
		if have != child.ino {
			return true, nil // gone already, or another file's by now
		}
		if err := fs.removeEntry(d, name, child.ino); err != nil {
			return false, err
		}
		fs.unlinked(parent, child)
		return true, nil
	}
	if have != 0 {
		return true, nil // the directory's block was written before the crash
	}
	if err := fs.addEntry(d, name, child); err != nil {
		return false, err
	}
	switch {
	case child.isDir():
		if parent.in.Links++; parent.in.Flags.Has(disk.FlagIndex) && (parent.in.Links > maxLinks || parent.in.Links == 2) {
			parent.in.Links = 1 // more than can be counted
		}
	case tag == disk.FCCreat:
		child.in.Links = 1
	case child.in.Links < 1<<16-1:
		child.in.Links++
	}
	child.doomed, child.dirty = false, true
	fs.touch(parent, child)
	return true, nil
}

// maxLinks is EXT4_LINK_MAX.
const maxLinks = 65000

// unlinked takes the link of a removed entry away.
func (fs *fcFS) unlinked(parent, child *fcInode) {
	switch {
	case child.isDir(): // it was empty, or rmdir would not have been logged
		child.in.Links, child.doomed = 0, true
		if parent.in.Links > 2 {
			parent.in.Links--
		}
	case child.in.Links > 0:
		child.in.Links--
		child.doomed = child.in.Links == 0
	}
	child.dirty = true
	fs.touch(parent, child)
}

// touch sets the times of a changed directory. No record has them; the change
// time of the child is the nearest that is known.
func (fs *fcFS) touch(parent, child *fcInode) {
	parent.dirty = true
	t, old := child.in.Ctime, parent.in.Ctime
	if t.Sec > old.Sec || t.Sec == old.Sec && t.Nsec > old.Nsec {
		parent.in.Ctime, parent.in.Mtime = t, t
	}
}

// folded finds the entry of inode ino whose name differs from name in case
// only, and returns its name.
func (fs *fcFS) folded(d *fcDir, name string, ino disk.Ino) (found string, err error) {
	for l := range disk.LBlock(d.blocks(fs)) {
		blk, ok := d.n.lookup(uint64(l))
		if !ok {
			continue
		}
		b, err := fs.read(blk)
		if err != nil {
			return "", err
		}
		err = fs.entries(d.n.ino, fs.area(b), blk, func(_ int, e disk.Dirent, have []byte) bool {
			if e.Ino == ino && strings.EqualFold(string(have), name) {
				found = string(have)
				d.where[found] = l
			}
			return found == ""
		})
		if err != nil || found != "" {
			return found, err
		}
	}
	return "", nil
}

// finish brings bitmaps, counts and inodes in line with what was applied, and
// writes everything.
func (fs *fcFS) finish() error {
	released := make(map[disk.Ino]bool)
	for again := true; again; { // releasing one inode may doom an EA inode
		again = false
		for _, ino := range slices.Sorted(maps.Keys(fs.inodes)) {
			n := fs.inodes[ino]
			if released[ino] || !n.used || !n.dirty || !n.doomed && (n.in.Links > 0 || n.orphan) {
				continue
			}
			if err := fs.release(n); err != nil {
				return err
			}
			released[ino], again = true, true
		}
	}
	for _, e := range fs.freed {
		if err := fs.markBlocks(e.Start, uint64(e.Len), false); err != nil {
			return err
		}
	}
	inodes := slices.Sorted(maps.Keys(fs.inodes))
	for _, ino := range inodes {
		n := fs.inodes[ino]
		if !n.used {
			continue
		}
		for _, e := range n.ext {
			if err := fs.markBlocks(e.start, e.len, true); err != nil {
				return err
			}
		}
		for _, b := range n.nodes {
			if err := fs.markBlocks(b, 1, true); err != nil {
				return err
			}
		}
	}
	for _, ino := range inodes {
		if n := fs.inodes[ino]; n.dirty {
			if err := fs.flushInode(n); err != nil {
				return err
			}
		}
	}
	for _, num := range slices.Sorted(maps.Keys(fs.groups)) {
		if err := fs.flushGroup(fs.groups[num]); err != nil {
			return err
		}
	}
	if err := fs.flushSuper(); err != nil {
		return err
	}
	return fs.flush()
}

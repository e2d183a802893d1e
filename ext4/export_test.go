package ext4

import (
	"errors"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// ReserveAll takes all blocks that are free, also those that are kept for
// splitting extents, until release is called.
func (fs *FS) ReserveAll() (release func(), err error) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	var runs []run
	for {
		r, err := fs.rw.reserve(allocRequest{want: 1 << 20, least: 1})
		if errors.Is(err, unix.ENOSPC) {
			return func() { fs.rw.unreserveRuns(runs) }, nil
		}
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
}

// GroupBytes is how much memory the bitmaps of groups take.
func (fs *FS) GroupBytes() (total int) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	for _, g := range fs.rw.groups {
		total += len(g.blocks) + len(g.busy) + len(g.inodes)
	}
	if total != fs.rw.groupBytes {
		panic("ext4: groupBytes is wrong")
	}
	return total
}

// Kept is how many blocks are kept for files to grow.
func (fs *FS) Kept() (n uint64) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	for _, o := range fs.rw.open {
		n += o.prealloc.n
	}
	return n
}

// ReserveUnkept takes all blocks that anybody may have and that no file is kept, until
// release is called.
func (fs *FS) ReserveUnkept() (release func(), err error) {
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	var runs []run
	for kept := fs.rw.kept(true); fs.rw.free > kept; {
		r, err := fs.rw.reserve(allocRequest{want: (fs.rw.free - kept) << fs.sb.ClusterBits(), least: 1, kept: kept})
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return func() { fs.rw.unreserveRuns(runs) }, nil
}

// ExtentEnds are the blocks behind the extents that lie in one node with block b.
func (in *Inode) ExtentEnds(b disk.LBlock) (out []uint64, err error) {
	path, _, err := in.extentPath(b)
	if err != nil {
		return nil, err
	}
	for _, e := range extentsOf(path[len(path)-1].entries) {
		out = append(out, uint64(e.Block)+uint64(e.Len))
	}
	return out, nil
}

package ext4

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// ErrInline is what asking for the blocks of an inode fails with whose data
// stand in the inode itself.
var ErrInline = errors.New("the inode holds its data itself")

// An Inode is an inode in memory, decoded and verified, as it was when it was
// asked for. It may be used by many goroutines, and never changes: where the file
// system is written, what it tells of itself (Disk, Raw, Type, Size) is what it
// was; what has to be looked up (Stat, ReadAt, Map, names, xattrs) is what it is now.
type Inode struct {
	fs    *FS         // immutable
	ino   disk.Ino    // immutable
	disk  disk.Inode  // immutable
	raw   []byte      // immutable: s_inode_size bytes
	block disk.PBlock // immutable: where raw was read from
	off   int         // immutable
	seed  uint32      // immutable: the disk.InodeSeed of what belongs to it

	// tx is the update that may change all of the above; nil in all that are published.
	tx *Handle

	// What i_block says, decoded by the first who asks: a leaf, or the index
	// node above the leaves. Both are small, and once stored never change.
	rootLeaf  atomic.Pointer[mapLeaf]
	rootIndex atomic.Pointer[mapIndex]
	// The leaf below that whoever made this inode has put blocks into, if it is
	// small: where the file goes on growing.
	grown atomic.Pointer[mapLeaf]

	hashKnown atomic.Uint32 // hashVersion of a directory plus 1; 0 before somebody asks
}

// weight counts what of the map hangs on the inode, too.
func (in *Inode) weight() uint32 {
	n := uint32(len(in.raw)) + 512
	if l := in.grown.Load(); l != nil {
		n += l.weight()
	}
	return n
}

// Inode returns inode number ino, in use or not. It fails with a wrapped
// ENOENT if the file system has no such number, and with a *disk.CorruptError
// if the inode's checksum is wrong.
func (fs *FS) Inode(ino disk.Ino) (*Inode, error) {
	in, err := fs.published(ino)
	if err == nil && fs.outer != nil {
		in = in.within(fs)
	}
	return in, err
}

// published is [FS.Inode], as readers see it.
func (fs *FS) published(ino disk.Ino) (*Inode, error) {
	if err := fs.stopped(); err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	if in := fs.live.inode(ino); in != nil {
		return in, nil
	}
	if in, ok := get[*Inode](fs.cache, kindInode, uint64(ino)); ok {
		return in, nil
	}
	if !fs.sb.ValidIno(ino) {
		return nil, fmt.Errorf("inode %d: the file system has inodes 1 to %d: %w", ino, fs.sb.Inodes, unix.ENOENT)
	}
	blk, off, err := fs.inodePlace(ino)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	mark := fs.live.mark(blk)
	table, err := fs.meta(kindItable, blk, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	raw := table[off : off+int(fs.sb.InodeSize)]
	if err := disk.CheckInode(&fs.sb, ino, raw, blk, off); err != nil {
		return nil, err
	}
	in := &Inode{
		fs: fs.shared(), ino: ino, disk: disk.DecodeInode(raw), raw: append([]byte(nil), raw...), block: blk, off: off,
	}
	in.seed = disk.InodeSeed(fs.seed, ino, in.disk.Generation)
	fs.live.keep(blk, mark, func() { fs.cache.put(kindInode, uint64(ino), in) })
	return in, nil
}

// stale is the error of using an inode whose number is another's by now.
func (in *Inode) stale() error {
	return fmt.Errorf("inode %d was deleted, and its number is used again: %w", in.ino, unix.ESTALE)
}

// inodePlace is the block of the inode table that holds ino, and the byte in it.
func (fs *FS) inodePlace(ino disk.Ino) (disk.PBlock, int, error) {
	g, index := fs.sb.InodeGroup(ino)
	d, err := fs.groupDesc(g)
	if err != nil {
		return 0, 0, err
	}
	per := uint32(fs.sb.InodesPerBlock())
	return d.InodeTable + disk.PBlock(index/per), int(index%per) * int(fs.sb.InodeSize), nil
}

// ParseInode understands an inode number as debugfs writes it, <12>, or bare.
func ParseInode(s string) (disk.Ino, bool) {
	if t, ok := strings.CutPrefix(s, "<"); ok {
		if s, ok = strings.CutSuffix(t, ">"); !ok {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return disk.Ino(n), err == nil && n > 0
}

// Ino is the inode's number.
func (in *Inode) Ino() disk.Ino { return in.ino }

// Disk is the inode as it stands on disk. It must not be changed.
func (in *Inode) Disk() *disk.Inode { return &in.disk }

// Raw is the inode's bytes. They must not be changed.
func (in *Inode) Raw() []byte { return in.raw }

// Location is the block and the byte in it that the inode was read from.
func (in *Inode) Location() (disk.PBlock, int) { return in.block, in.off }

// Type is the file type part of the mode.
func (in *Inode) Type() disk.Mode { return in.disk.Mode.Type() }

// Size is the size in bytes.
func (in *Inode) Size() int64 { return int64(in.disk.FileSize(&in.fs.sb)) }

// encrypted reports whether contents and names are encrypted.
func (in *Inode) encrypted() bool { return in.disk.Flags.Has(disk.FlagEncrypt) }

// Stat is what stat(2) and its relatives tell of an inode.
type Stat struct {
	Ino          uint64
	Mode         uint32 // st_mode
	Nlink        uint32
	UID, GID     uint32
	Major, Minor uint32 // of a device
	Size         int64  // bytes
	Blocks       uint64 // of 512 bytes
	BlockSize    int64  // bytes
	Atime        disk.Time
	Mtime        disk.Time
	Ctime        disk.Time
	Crtime       disk.Time
	HasCrtime    bool
	Flags        disk.FileFlags
	Generation   uint32
	Project      uint32
	Version      uint64
}

// Stat returns the inode's attributes as the kernel's stat shows them.
func (in *Inode) Stat() Stat {
	if now, err := in.current(); err == nil {
		in = now
	}
	d := &in.disk
	st := Stat{
		Ino: uint64(in.ino), Mode: uint32(d.Mode), Nlink: uint32(d.Links), UID: d.UID, GID: d.GID,
		Size: in.Size(), Blocks: d.Sectors(&in.fs.sb), BlockSize: int64(in.fs.sb.BlockSize()),
		Atime: d.Atime, Mtime: d.Mtime, Ctime: d.Ctime,
		Flags: d.Flags, Generation: d.Generation, Version: d.Version,
	}
	if d.HasCrtime(&in.fs.sb) {
		st.Crtime, st.HasCrtime = d.Crtime, true
	}
	// Without the feature the bytes have no meaning, and the kernel shows 0.
	if in.fs.sb.ROCompat.Has(disk.ROCompatProject) {
		st.Project = d.ProjID
	}
	if t := in.Type(); t == disk.ModeChar || t == disk.ModeBlock {
		st.Major, st.Minor = d.Dev()
	}
	// The size of an encrypted link is that of its encoded name.
	if in.Type() == disk.ModeLink && in.encrypted() {
		if target, err := in.Readlink(); err == nil {
			st.Size = int64(len(target))
		}
	}
	// Inline data take no blocks, but tools take a file with a size and no
	// blocks for all hole: the kernel shows the sectors they would fill.
	if in.Type() == disk.ModeReg && in.HasInlineData() {
		st.Blocks += uint64(st.Size+511) >> 9
	}
	return st
}

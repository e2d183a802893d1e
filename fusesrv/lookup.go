package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"sync"

	"e4go/ext4"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// rawFS answers requests for fs. What it has no method for is refused by the
// RawFileSystem that it embeds, with ENOSYS; what writes is in write.go.
type rawFS struct {
	fuse.RawFileSystem

	maps     *mapper  // immutable; nil where contents pass through here
	fs       *ext4.FS // immutable
	image    image    // immutable
	ahead    *ahead
	nodes    *nodes
	atimes   *atimes // nil: accesses are not counted
	owners   owners
	fakeroot bool   // immutable: every caller may do everything
	noACL    bool   // immutable: there are none
	reserve  uint32 // immutable: the group that may use the blocks that are kept, of which we are not told who is in it
	sync     bool   // immutable: writes are durable when they return
	reporter
	dirs     dirStreams
	release  func() error // immutable: closes the image; or nil
	released error        // what release has returned, after Destroy

	// primer is a name in the root directory that nobody knows but
	// [Server.WaitMount]: a file that can be opened, whatever the image has.
	primer string // immutable

	// invalidate makes the kernel write back and drop a part of its cache of a file
	// (loop.invalidate). nil where nothing is written. Immutable after newServer.
	invalidate func(node uint64, off, n int64) fuse.Status

	settling sync.Map // disk.Ino of files that are written back before they take no more, and are dated by that

	writeBack bool // immutable after Init: the kernel keeps what is written, and sizes and times with it
	// notify makes the kernel forget the attributes of a node. Immutable.
	notify func(node uint64)

	syncWrites     bool // immutable after Init: the kernel does not send FSYNC for O_SYNC and sync
	declineOpen    bool // immutable after Init: OPEN is answered with ENOSYS
	declineOpenDir bool // immutable after Init: and OPENDIR
}

func newRawFS(fs *ext4.FS, o *Options, logger *log.Logger) *rawFS {
	r := &rawFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		fs:            fs,
		image:         newImage(fs, o.Image),
		ahead:         newAhead(fs),
		release:       o.Release,
		primer:        fmt.Sprintf(".e4go-%016x", rand.Uint64()),
		writeBack:     mayWriteBack(fs, o, logger),
		owners:        owners{o.UID, o.GID},
		fakeroot:      o.Fakeroot,
		reserve:       fs.ReservedGID(),
		noACL:         o.NoACL,
		sync:          o.flags.sync,
		reporter:      reporter{log: logger, damaged: fs.Fail},
	}
	r.nodes = newNodes(fs, func(err error) { r.status(err) }, r.guard)
	r.atimes = newAtimes(fs, o.flags, r.guard)
	return r
}

// primerNode is the node of the primer, which is no inode number.
const primerNode = 1 << 62

func (r *rawFS) String() string { return Subtype }

// syncedMinor is the version of the protocol with whose kernels O_SYNC was seen to come as FSYNC behind the
// WRITE. Older ones may, which costs a second flush.
const syncedMinor = 45

// learn takes note of what the kernel can do, before the first request but
// INIT. store puts data into the kernel's cache of a file.
func (r *rawFS) learn(in *fuse.InitIn, store func(node uint64, off int64, data []byte) fuse.Status) {
	caps := in.Flags64()
	r.declineOpen = caps&fuse.CAP_NO_OPEN_SUPPORT != 0 && !hasEncrypt(r.fs) && r.maps == nil
	r.writeBack = r.writeBack && caps&fuse.CAP_WRITEBACK_CACHE != 0
	r.syncWrites = in.Minor < syncedMinor
	r.declineOpenDir = caps&fuse.CAP_NO_OPENDIR_SUPPORT != 0
	if in.SupportsNotify(fuse.NOTIFY_STORE_CACHE) && !r.fs.Writable() && r.maps == nil {
		r.ahead.store = store
	}
}

// Destroy lets go of the image, when no request is left and none will come.
// What goes wrong, the log is told, and who waits in [Unmount].
func (r *rawFS) Destroy() {
	r.ahead.stop()
	r.dirs.clear()
	if err := r.maps.settleAll(); err != nil {
		r.log.Printf("record the sizes of files: %v", err)
	}
	r.atimes.stop()
	r.nodes.close()
	if r.release == nil {
		return
	}
	err := r.release()
	if errors.Is(err, ext4.ErrShutdown) {
		err = nil // whoever shut it down has said what is to be lost
	}
	if r.released = err; err != nil {
		r.log.Printf("close the image: %v: what was not durable may be lost; check it with e2fsck", err)
	}
}

// Forget undoes what the kernel was told. Nodes are inode numbers, so there is
// nothing else to forget.
func (r *rawFS) Forget(nodeid, nlookup uint64) { r.nodes.forget(inoOf(nodeid), nlookup) }

// Lookup finds name in a directory. A missing name is an answer too, which
// the kernel keeps. NFS servers make the kernel ask for "." of any node, and
// for ".." of directories.
func (r *rawFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == r.primer && h.NodeId == fuse.FUSE_ROOT_ID && r.declineOpen {
		*out = fuse.EntryOut{NodeId: primerNode, Attr: fuse.Attr{Ino: primerNode, Mode: unix.S_IFREG | 0o400, Nlink: 1}}
		out.Uid = uint32(os.Geteuid())
		out.SetAttrTimeout(valid)
		return fuse.OK
	}
	dir, err := r.inode(h.NodeId)
	if err != nil {
		return r.status(err)
	}
	in := dir
	if name != "." {
		in, err = r.fs.Lookup(dir, name)
		if errors.Is(err, unix.ENOENT) {
			*out = fuse.EntryOut{}
			out.SetEntryTimeout(valid)
			return fuse.OK
		}
		if err != nil {
			return r.status(err)
		}
	}
	st := r.stat(in)
	if name == "." && st.Nlink == 0 {
		return r.status(fmt.Errorf("inode %d is deleted: %w", in.Ino(), unix.ESTALE))
	}
	if err := checkAttr(in, &st); err != nil {
		return r.status(err)
	}
	if err := r.nodes.told(in.Ino()); err != nil {
		return r.status(err)
	}
	r.fillEntry(in, &st, out)
	return fuse.OK
}

// GetAttr answers stat.
func (r *rawFS) GetAttr(_ <-chan struct{}, i *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	st := r.stat(in)
	if err := checkAttr(in, &st); err != nil {
		return r.status(err)
	}
	fillAttr(&st, &out.Attr)
	out.Attr.Flags = r.maps.attrFlags(in)
	out.SetTimeout(valid)
	return fuse.OK
}

// Statx answers statx when the time of creation is wanted. The kernel keeps
// that time, and drops the attribute bits.
func (r *rawFS) Statx(_ <-chan struct{}, i *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	in, err := r.inode(i.NodeId)
	if err != nil {
		return r.status(err)
	}
	st := r.stat(in)
	if err := checkAttr(in, &st); err != nil {
		return r.status(err)
	}
	fillStatx(&st, &out.Statx)
	r.maps.statx(in, &out.Statx)
	out.SetTimeout(valid)
	return fuse.OK
}

// Access is not asked: with default_permissions the kernel decides by the mode
// and the ACL, with all groups of the caller.
func (r *rawFS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Readlink returns the target of a symbolic link.
func (r *rawFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	in, err := r.inode(h.NodeId)
	if err != nil {
		return nil, r.status(err)
	}
	target, err := in.Readlink()
	if err != nil {
		return nil, r.status(err)
	}
	r.atimes.accessed(in, 0)
	return []byte(target), fuse.OK
}

// StatFs answers statfs with the numbers that the kernel's own driver gives.
func (r *rawFS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	in, err := r.inode(h.NodeId)
	if err != nil {
		return r.status(err)
	}
	s, err := r.fs.StatfsOf(in.Ino())
	if err != nil {
		return r.status(err)
	}
	*out = fuse.StatfsOut{
		Blocks:  s.Blocks,
		Bfree:   s.Free,
		Bavail:  s.Avail,
		Files:   s.Files,
		Ffree:   s.FreeFiles,
		Bsize:   uint32(s.BlockSize),
		Frsize:  uint32(s.BlockSize),
		NameLen: uint32(s.NameLen),
	}
	return fuse.OK
}

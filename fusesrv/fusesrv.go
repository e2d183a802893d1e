// Package fusesrv stands between the kernel and package ext4: it mounts a file
// system through the kernel's FUSE driver and answers its requests.
// It knows the FUSE protocol and mounting; the format it leaves to ext4.
//
//	process ── system call ──> kernel ── /dev/fuse ──> loop ─ go-fuse ─> rawFS ──> ext4.FS
//	                             │ caches: names, attributes, directory
//	                             │ listings, link targets, ACLs, pages
//	                             └ decides: permissions, from mode and ACL
//
// Nobody else changes the image, so that the kernel may keep what it was told
// once, until it changes it itself: every answer is valid for a year, those about missing names too. There are no
// handles: files and directories are read by inode number, and OPEN and OPENDIR
// are declined in a way that tells the kernel not to ask again (only an image
// with encrypted files is asked at open, which must fail without a key). So
// there is nothing that a kernel could forget to release.
//
// A node id of the protocol is an inode number. The protocol wants its root to be
// 1 and ext4 has its root at 2, so these two are exchanged at this border and
// nowhere else. Hard links are one node. Where the file system is written, an inode
// that the kernel knows is in use (nodes.go), so that a file is deleted when the kernel
// forgets it; elsewhere FORGET is nothing to us.
//
// Writes go through to the file system before they return, and are durable with
// fsync or the next commit. Only what is written through a mapping waits in the kernel's page
// cache first, and with Options.WriteBack everything (writeback.go).
//
// # Concurrency
//
// Many requests are answered at once, each by the goroutine that has read it (readers.go).
// The methods share an ext4.FS, which is safe for that, and seven things with a
// lock each, none of which is held while another is taken, over I/O, or over
// a call into the kernel:
//
//	dirStreams.mu   listings that wait for their next READDIR
//	ahead.mu        the small files of directories that were listed
//	atimes.mu       times of access that are not written yet
//	nodes.mu        what the kernel knows; held over ext4's Open, which does no I/O but to read an inode
//	reporter.mu     which complaints have been logged
//	holder.mu       who waits for the server to let go
//	loop.busyMu     how many requests are being answered
//	readers.mu      which goroutines read requests
//
// Rules against deadlock with the kernel: no method opens, stats or reads
// anything below its own mount point, and none
// waits for another request. Notifications are sent by ahead's goroutine,
// which holds nothing while the kernel waits for a page that a READ has locked, and by
// Lseek and the ioctls that make a file immutable, which hold nothing while the kernel writes back: it takes no
// lock for that which it has when it asks. A process that serves and uses the mount itself
// must have called [Server.WaitMount], after which the kernel asks nothing at
// epoll_ctl, where a Go program waits without giving its processor away.
package fusesrv

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Subtype is the part of the file system type behind "fuse.", unless
// [Options] say otherwise.
const Subtype = "e4go"

const (
	// valid is how long the kernel may keep names and attributes.
	valid = 365 * 24 * time.Hour

	// maxRead is the size in bytes of the largest READ. One of twice the size
	// would no longer fit into a pipe with its header (see image.max).
	maxRead = 512 << 10

	// maxBackground is how many read-ahead requests may be under way.
	maxBackground = 64

	// readAheadKB is what a mount by root asks the kernel to read ahead: two
	// requests, so that one is under way while the other is copied.
	readAheadKB = 2 * maxRead >> 10

	// maxInflight bounds the memory of requests, in bytes.
	maxInflight = 256 << 20
)

// Options of [Mount]. The zero value is what `mount -o ro` does.
type Options struct {
	AllowOther bool     // other users may use the mount; always so when root mounts without Fakeroot
	Debug      bool     // log every request
	FSName     string   // the mount's source as mount(8) and df(1) show it: the image
	Subtype    string   // "" is [Subtype]
	Extra      []string // mount options: see [ParseFlags]
	WriteBack  bool     // the kernel may keep what is written for a while: see writeback.go
	NoACL      bool     // as in ext4.Options: POSIX ACLs are as if they were not there

	// UID and GID are the user and the group that everything is shown to
	// belong to; nil is whom the image says.
	UID, GID *uint32

	// Fakeroot leaves permissions unchecked: every caller whom the kernel lets in may do
	// everything, as root may. Set-user-ID and devices have no effect.
	Fakeroot bool

	// Image is the device that the file system was opened on: a *blockdev.File, or a
	// *blockdev.Window of one. Reads then go past our memory, if nothing in memory
	// stands above it, and root's mount is one of a block device, if Block
	// allows it: Image itself, or a loop device.
	Image blockdev.Device
	Block BlockChoice

	// Release closes the file system and its device. It is called once, when the
	// last request has been answered; the umount of a mount of a block device waits for it.
	// nil leaves that to the caller, behind [Server.Serve].
	Release func() error

	// Iomap serves contents by mappings, which takes root and a kernel with fuse-iomap: else
	// the mount fails. IomapNoCache leaves the kernel's cache of mappings empty; files are then
	// only read so, and written as without Iomap.
	Iomap        bool
	IomapNoCache bool

	// Trace is written a line of JSON for each request and notification; nil for none. It is
	// used by one goroutine at a time.
	Trace io.Writer

	flags Flags // what Extra says

	Log *log.Logger // complaints about the image and our own faults; nil is stderr
}

// A Server answers the kernel for one mount.
type Server struct {
	dir    string // immutable: the mount point, with no symbolic links
	direct bool   // immutable: mounted by mount(2), not by fusermount3
	loop   *loop
	raw    *rawFS // immutable
	hold   *holder
	done   chan struct{} // closed when Serve ends

	releases bool // immutable: Serve closes the image
}

// Mount mounts fs at dir, which must be a directory. When it returns, the mount
// is there and waits for [Server.Serve]. fs and its device must stay open until
// [Options].Release is called, or Serve has returned. Errors name the path or program that was in the way; an
// errno is wrapped.
func Mount(fs *ext4.FS, dir string, o Options) (*Server, error) {
	if _, err := fs.Root(); err != nil {
		return nil, err // nothing could be looked at
	}
	flags, err := ParseFlags(o.Extra)
	if err != nil {
		return nil, err
	}
	if o.Fakeroot {
		flags.bits |= unix.MS_NOSUID | unix.MS_NODEV
	}
	if o.Subtype == "" {
		o.Subtype = Subtype
	}
	if o.FSName == "" {
		o.FSName = o.Subtype
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	if m, err := mountAt(dir); err == nil && m.image() == o.FSName && m.isType(o.Subtype) {
		return nil, fmt.Errorf("mount %s on %s: it is mounted there already: %w", o.FSName, dir, unix.EBUSY)
	}
	if o.Iomap {
		if err := checkIomap(&o); err != nil {
			return nil, err
		}
		o.Block = BlockNever // the kernel sends DESTROY and SYNCFS all the same
	}
	direct := os.Geteuid() == 0
	var fd int
	if direct {
		o.AllowOther = o.AllowOther || !o.Fakeroot
		fd, err = mountDirect(dir, &o, flags, o.logger())
	} else if o.Block == BlockAlways {
		return nil, fmt.Errorf("mount %s: a mount of a block device takes root: %w", dir, unix.EPERM)
	} else {
		fd, err = mountHelper(dir, &o, flags)
	}
	if errors.Is(err, ErrClaimLost) {
		err = errors.Join(err, fs.Shutdown(ext4.ShutdownNoLogFlush))
	}
	if err != nil {
		return nil, err
	}
	o.flags = flags
	var register func() (Backing, error)
	if o.Iomap {
		register = func() (Backing, error) { return registerLoop(fd, &o, !fs.Writable()) }
	}
	s, err := newServer(fs, device(fd), &o, register)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), unmount(dir, direct, false))
	}
	s.dir, s.direct = dir, direct
	if m, err := mountAt(dir); err == nil {
		if direct {
			setReadAhead(m)
		}
		s.hold = newHolder(m)
		if s.raw.atimes != nil {
			s.raw.atimes.mount = m
		}
	}
	return s, nil
}

func (o *Options) logger() *log.Logger {
	if o.Log != nil {
		return o.Log
	}
	return log.New(os.Stderr, "e4go: ", 0)
}

// Connect serves fs by mappings to whoever is at the other end of c, as Mount does to a
// kernel with fuse-iomap: one message each read and write. register makes the device known there. The other end must have sent INIT.
func Connect(fs *ext4.FS, c io.ReadWriteCloser, o Options, register func() (Backing, error)) (*Server, error) {
	if o.Subtype == "" {
		o.Subtype = Subtype
	}
	return newServer(fs, c, &o, register)
}

// newServer answers the INIT request that waits in c, and takes over c. If register, which
// makes the device known to the kernel, is not nil, contents go by mappings.
func newServer(fs *ext4.FS, c conn, o *Options, register func() (Backing, error)) (*Server, error) {
	logger := o.logger()
	raw := newRawFS(fs, o, logger)
	var maps iomapServer
	if register != nil {
		raw.maps = &mapper{fs: fs, raw: raw, register: register, noCache: o.IomapNoCache, opens: make(map[disk.Ino]int)}
		maps = raw.maps
		raw.writeBack = false // that is the kernel's own, beside FUSE's
	}
	extra := uint64(0)
	if fs.Writable() {
		// A write tells whether it has to drop privileges, which saves asking for
		// them before each.
		extra = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT
	}
	if raw.writeBack {
		extra |= fuse.CAP_WRITEBACK_CACHE
	}
	l, err := newLoop(c, raw, maps, &fuse.MountOptions{
		Debug:                o.Debug,
		Logger:               logger,
		MaxWrite:             maxRead, // it is the limit of reads too
		MaxBackground:        maxBackground,
		EnableSymlinkCaching: true,
		EnableAcl:            !o.NoACL && !o.Fakeroot, // with ACLs the kernel checks permissions

		ExplicitDataCacheControl: true,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH, // it would cost overlayfs one of its two levels
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO |
			fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_EXPORT_SUPPORT | extra,
		PanicHandler: raw.fault,
	}, raw.learn)
	if err != nil {
		return nil, err
	}
	l.trace = newTracer(o.Trace, raw.maps.verdict)
	if raw.maps != nil {
		raw.maps.loop = l
	}
	if fs.Writable() {
		raw.invalidate = l.invalidate
	}
	raw.notify = l.forgetAttributes
	return &Server{loop: l, raw: raw, done: make(chan struct{}), releases: o.Release != nil}, nil
}

// Serve answers requests until the file system has been unmounted, by
// whomever, and has released the image. It must be called once.
func (s *Server) Serve() {
	defer close(s.done)
	go s.raw.guard(s.raw.ahead.run)
	s.loop.run()
	if s.releases {
		s.Close()
	}
}

// Wait returns when Serve has.
func (s *Server) Wait() { <-s.done }

// WaitMount returns when the mount answers, which needs Serve to run.
func (s *Server) WaitMount() error {
	// A name that go-fuse answers by itself. Polling it once makes the
	// kernel learn that poll is not implemented.
	fd, err := unix.Open(filepath.Join(s.dir, hackName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES):
		return nil // an answer too: the root directory is not for us
	case err != nil:
		return fmt.Errorf("mount %s does not answer: %w", s.dir, err)
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("mount %s does not answer: %w", s.dir, err)
	}
	// Until the kernel has heard that OPEN and FLUSH are declined it sends a
	// RELEASE for each file that it makes: it hears of that now.
	if fd, err := unix.Open(filepath.Join(s.dir, s.raw.primer), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	}
	return nil
}

// Dir is the mount point.
func (s *Server) Dir() string { return s.dir }

// Unmount takes the mount away, upon which Serve ends. It fails with EBUSY
// while the mount is in use.
func (s *Server) Unmount() error { return unmount(s.dir, s.direct, false) }

// Detach takes the mount out of the directory tree. Serve ends when nobody uses
// it any more.
func (s *Server) Detach() error { return unmount(s.dir, s.direct, true) }

// Close tells those who wait in [Unmount] that the image is free. Without
// [Options].Release it belongs behind Serve and the closing of the image; the end of
// the process does it too.
func (s *Server) Close() {
	if s.hold != nil {
		s.hold.release(s.raw.released)
	}
}

// ReleaseErr is what [Options].Release has returned, when Serve has.
func (s *Server) ReleaseErr() error { return s.raw.released }

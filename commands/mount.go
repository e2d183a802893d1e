package commands

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fusesrv"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// The exit statuses of mount(8) and umount(8).
const (
	mountUsage       = 1
	mountSystem      = 2
	mountInterrupted = 8
	mountFailed      = 32
)

var mountCommand = &cli.Command{
	Name:      "mount",
	Usage:     "mount a file system",
	ArgsUsage: "IMAGE DIR",
	Description: `Mounts the ext2, ext3 or ext4 file system in IMAGE, a file or a block device,
at the directory DIR, through the kernel's FUSE driver. Root needs nothing
else; other users need fusermount3.

The mount is read-write. Where IMAGE cannot be written, or has features that
do not allow it, it is mounted read-only and a warning says why; with -o rw it
is refused instead. An unclean journal is replayed first, and every change of
metadata goes through the journal, as with the kernel's own ext4 and
data=ordered: what fsync has returned for survives a power cut, and the file
system is sound after one.

With -o ro not one byte of IMAGE is written: an unclean journal is replayed in
memory. Use it for every IMAGE that you do not trust or want to keep as it is.

e4go mount returns when the mount answers, and serves it in the background;
with -f it stays in the foreground. Unmount with e4go umount DIR, with umount(8)
or with fusermount3 -u. A SIGTERM, SIGINT or SIGHUP to the server unmounts,
too: if the mount is in use it leaves the directory tree at once, and its users
keep it until they are done. A second signal ends it, as cleanly as an unmount
for the image.

Root's mount is one of a block device: of IMAGE if it is one, else of a loop
device that goes when the mount does. Its type is fuseblk.e4go. umount(8) and
e4go umount DIR return when everything is durable and IMAGE is closed; sync(2)
and syncfs(2) make everything durable, on Linux 6.18 and later; FIBMAP answers;
and nothing else can claim the device. Where that is not possible, and for
ordinary users, the type is fuse.e4go: e4go umount DIR waits until IMAGE is
free, umount(8) and fusermount3 -u do not, and what sync(2) is to make durable
is durable after commit=N seconds. fsync(2) does what it says in either case.

The kernel checks permissions, by mode and ACL. It caches what it was told for
as long as it likes, since nobody else changes the image: IMAGE must not be
written by others while it is mounted. An IMAGE that is in use is refused.

The kernel does not ask when a file is opened, unless the file system has the feature encrypt, and
does not know which are immutable or append-only (chattr +i, +a): unlike with its own ext4, these can be
opened for writing, and it is write(2), truncate(2) and so on that fail with EPERM. What is written by a
mapping, or with writeback_cache, is refused when the kernel writes it back, which msync(2), fsync(2)
and close(2) tell. What a file had before chattr is in it.

Options (-o, separated by commas):
  ro                        read-only, and not one byte is written
  rw                        read-write, or not at all
  remount                   change ro, rw and the flags of a mount that is there; wants root.
                            After remount,ro everything is durable and nothing more is written

  offset=N                  the file system begins N bytes into IMAGE
  sizelimit=N               and has N bytes at most
  sb=N                      use the superblock in block N, in units of 1 KiB; wants ro
  norecovery, noload        do not replay the journal; if it is unclean, wants ro
  journal=PATH, journal_path=PATH, journal_dev=NUMBER
                            the external journal
  cache_size=N              bytes of metadata kept in memory; default 64m

  writeback_cache           the kernel keeps what is written for a while, which is faster for
                            small writes, and slower for deleting and renaming. That there is no room is
                            then told by fsync and close, as with NFS; without it, by write
  commit=N                  changes become durable after N seconds at the latest; default 5
  sync                      what write(2) has written is durable when it returns; implies dirsync
  dirsync                   changes of directories are durable when they return
  data=ordered|writeback    both are ordered; data=journal is refused
  discard, nodiscard        tell the device which blocks were freed; default: as the superblock says
  errors=continue|remount-ro|panic
                            what to do when damage is met; default: as the superblock says.
                            remount-ro: writing fails with EROFS from then on; panic: everything fails with EIO

  relatime                  a file's first access after a change counts, and one a day; the default
  strictatime               every access counts that the kernel asks for contents at
  noatime, nodiratime       none counts, or none of a directory
  lazytime                  times of access are kept in memory for up to 12 hours

  allow_other               let other users in; always so for root
  uid=N, gid=N              show everything as owned by user N, group N: a view, for images whose users
                            are another machine's. What is made belongs in the image to the owner of its
                            directory; what is there keeps its owner, and cannot be given to others
  fakeroot                  whoever may use the mount may do everything, as root would, but for what takes
                            the kernel's own privileges; new files are the caller's. Implies nosuid, nodev
  acl, noacl                POSIX ACLs, the default, or as if there were none
  user_xattr, nouser_xattr  xattrs named user.*, the default, or as if there were none
  grpid, bsdgroups          new files get the group of their directory; nogrpid, sysvgroups: only if
                            that has set-group-ID; default: as the superblock says
  resuid=N, resgid=N        who may use the blocks kept for root, instead of whom the superblock names
  usrquota, quota, grpquota, prjquota
                            enforce the limits of quota; usage is counted without, too. noquota: do not.
                            Without the feature (tune2fs -O quota) they have no effect, and a warning says
                            so. Nor ever have usrjquota=, grpjquota= and jqfmt=, whose files are not kept up
  bsddf, minixdf            statfs leaves out what metadata take, the default, or counts it

  log=FILE                  append complaints to FILE; default: the system log, with -f standard error
  oom_score_adj=N           when to kill the server if memory is short; default -500 where it writes and may
  iomap=0|1|default         1: the kernel moves contents itself, by mappings (docs/IOMAP.md); it is refused, with
                            what is missing, by a kernel without fuse-iomap. 0 and default: the server does
  noiomap_cache             with iomap=1, use mappings only to read
  trace=FILE                write a line of JSON for each message of the kernel to FILE
  fuseblk=0|1|default       mount without a block device, with one or not at all, or with one
                            where that is possible
  fsname=NAME, subtype=T    the source, if there is no block device, and the type that mount(8) shows
  nosuid, nodev             the default of e4go mount; suid, dev: that of mount(8)
  noexec, nosymfollow, context=...
                            as in mount(8): contexts have an effect where SELinux is enabled, and only
                            root may give them

Default mount options that the superblock has (tune2fs -o, and -E mount_opts=) hold
unless the command line says otherwise, as with the kernel's ext4. Of the latter those are
taken that are ext4's own and name no file or device, all of them or, with a warning, none.
data=journal among either is data=ordered, with a warning.

Ioctls of ext4 that the mount answers: FS_IOC_GETFLAGS and SETFLAGS, FSGETXATTR and
FSSETXATTR (lsattr, chattr, projects), GETVERSION and SETVERSION, EXT4_IOC_MIGRATE; for root and
for whoever has mounted it FITRIM (fstrim), FS_IOC_GETFSLABEL and SETFSLABEL, EXT4_IOC_GETFSUUID
and SETFSUUID, EXT4_IOC_SHUTDOWN, EXT4_IOC_CHECKPOINT. The kernel does not let FIEMAP,
FS_IOC_GETFSUUID and GETFSSYSFSPATH through.

Options without effect, since they are of the kernel's ext4 and concern what is done
otherwise here, or not at all:
  barrier, nobarrier        barriers are always used
  auto_da_alloc, noauto_da_alloc, delalloc, nodelalloc
  journal_checksum, nojournal_checksum, journal_async_commit, journal_ioprio, data_err
  block_validity, noblock_validity, debug
  dioread_lock, dioread_nolock, nodioread_nolock
  max_batch_time, min_batch_time, stripe, inode_readahead_blks, max_dir_size_kb
  init_itable, noinit_itable, i_version, nombcache, no_mbcache, mb_optimize_scan
  prefetch_block_bitmaps, no_prefetch_block_bitmaps
  nouid32, oldalloc, orlov, bh, nobh, check, nocheck, reservation, noreservation

Options of mount(8) and fstab(5), and all that begin with x- or X-, are passed over:
  defaults, auto, noauto, user, nouser, users, nousers, owner, noowner, group, nogroup
  nofail, _netdev, loop, comment, helper, uhelper, silent, loud, default_permissions

For mount(8) and fstab(5), let it be found under the names of their helpers:
  ln -s /usr/local/bin/e4go /sbin/mount.fuse.e4go
  ln -s /usr/local/bin/e4go /sbin/mount.fuseblk.e4go
  ln -s /usr/local/bin/e4go /sbin/mount.e4go
  ln -s /usr/local/bin/e4go /sbin/umount.fuse.e4go
  mount -t e4go disk.img /mnt
  /srv/disk.img /mnt fuse.e4go noauto,user,ro 0 0
The second is for mount -o remount, the last for umount(8) to return when IMAGE is free also
where it is no block device. As a helper, rw means what neither rw nor ro means otherwise, and
suid and dev are on unless fstab(5) or the command line say nosuid, nodev, or user. -N is
refused, by umount(8), too: what runs in another mount namespace is to be started there (nsenter -m).

Examples:
  e4go mount disk.img /mnt
  e4go mount -o ro untrusted.img /mnt
  e4go mount -f -o ro,offset=1m disk.img /mnt
  e4go mount -o uid=1000,gid=1000 stick.img /mnt
  e4go mount -o remount,ro disk.img /mnt
  e4go umount /mnt

Exit status, as mount(8)'s:
  0 mounted; 1 wrong usage; 2 system error; 8 interrupted; 32 the mount failed.`,
	Flags: []cli.Flag{
		&cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "mount `OPTIONS`, separated by commas"},
		&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"}, Usage: "serve in the foreground"},
		&cli.BoolFlag{Name: "debug", Usage: "log every request; wants -f"},
		&cli.BoolFlag{Name: "sloppy", Usage: "ignore mount options that are not known"},
		&cli.BoolFlag{Name: "fake", Usage: "check the command line, and do nothing"},
		jsonFlag(),
	},
	Action: runMount,
}

// mountStatus gives err an exit status of mount(8).
func mountStatus(err error) error {
	if err == nil {
		return nil
	}
	var status *statusError
	switch c := classify(err); {
	case errors.As(err, &status):
		return err
	case c.kind == "usage":
		return exit(mountUsage, err)
	case c.kind == "interrupted":
		return exit(mountInterrupted, err)
	}
	return exit(mountFailed, err)
}

// mountRequest is what a mount command line asks for.
type mountRequest struct {
	image, dir string // absolute
	open       imageOptions
	serve      fusesrv.Options
	write      writeRule
	log, trace string
	oom        *int   // nil: the default
	remount    bool   // change a mount that is there
	fromKernel string // an option that only a mount has that is there

	ofSuper    bool     // options are being read that stand in the superblock
	journaled  bool     // the superblock says data=journal, and nobody else anything else
	quotaFiles bool     // usrjquota=, grpjquota= or jqfmt= has a value
	warnings   []string // what of it does not happen
}

// A writeRule says whether a file system is mounted read-write.
type writeRule int

const (
	writeIfCan  writeRule = iota // read-only, with a warning, where it cannot be
	writeNever                   // ro
	writeOrFail                  // rw
)

func runMount(c *cli.Context) error {
	r, err := parseMount(c, nil)
	switch {
	case err != nil:
		return err
	case r.remount:
		return r.change()
	case c.Bool("fake"):
		return nil
	case !c.Bool("foreground"):
		return background(c)
	}
	if r, err = parseMount(c, r.super()); err != nil {
		return err
	}
	return r.run(c)
}

// parseMount reads the command line, whose options win over those of the superblock, if that is given.
func parseMount(c *cli.Context, sb *disk.Superblock) (*mountRequest, error) {
	if c.NArg() != 2 {
		return nil, usagef("%d arguments, want two: %s", c.NArg(), c.Command.ArgsUsage)
	}
	r := &mountRequest{serve: fusesrv.Options{Debug: c.Bool("debug")}}
	var err error
	if r.image, err = filepath.Abs(c.Args().Get(0)); err != nil {
		return nil, err
	}
	if r.dir, err = filepath.Abs(c.Args().Get(1)); err != nil {
		return nil, err
	}
	if r.serve.Debug && !c.Bool("foreground") {
		return nil, usagef("--debug wants -f")
	}
	r.serve.FSName = r.image
	if sb != nil {
		r.superDefaults(sb)
	}
	if err := r.options(strings.Join(c.StringSlice("options"), ","), c.Bool("sloppy")); err != nil {
		return nil, err
	}
	if r.fromKernel != "" && !r.remount {
		return nil, usagef("mount option %s is the kernel's own, which nobody can give", r.fromKernel)
	}
	return r, nil
}

// mountGarbage is how many bytes of garbage a server may have. By GOGC it would be as much as
// its caches, and what the kernel knows of them.
const mountGarbage = 48 << 20

// run mounts, serves until the file system is unmounted, and lets go of the image.
func (r *mountRequest) run(c *cli.Context) error {
	garbageLimit.Store(mountGarbage)
	ready := readyPipe()
	if err := r.spare(); err != nil {
		return err
	}
	im, err := r.openImage(c)
	if err != nil {
		return err
	}
	defer im.close()
	r.check(im.fs)
	for _, w := range r.warnings {
		out(c).warn(c.Command, "WARNING: %s", w)
	}
	if r.trace != "" {
		f, err := os.OpenFile(r.trace, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		r.serve.Trace = f
	}
	logger, closeLog, err := r.logger(c, ready != nil)
	if err != nil {
		return err
	}
	defer closeLog()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + fusesrv.IdleProcs)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	r.serve.Log = logger
	release := sync.OnceValue(im.close)
	r.serve.Image, r.serve.Release = im.dev, release
	srv, err := fusesrv.Mount(im.fs, r.dir, r.serve)
	if err != nil {
		return &pathError{r.image, err}
	}
	served := make(chan struct{})
	go func() {
		srv.Serve()
		close(served)
	}()
	if err := r.answers(c, srv, im, ready); err != nil {
		return errors.Join(err, srv.Detach()) // nobody was told that it is there
	}
	r.wait(srv, served, signals, logger)
	if err := release(); err != nil && !errors.Is(err, ext4.ErrShutdown) { // the server has said it, or is cut off
		return exit(mountFailed, err)
	}
	return exit(exitOK, nil) // also when a signal ended it: that is how one unmounts
}

// answers waits until the mount answers, and says so.
func (r *mountRequest) answers(c *cli.Context, srv *fusesrv.Server, im *image, ready *os.File) error {
	if err := srv.WaitMount(); err != nil {
		return err
	}
	if o := out(c); o.json {
		o.kStr("image", r.image)
		o.kStr("dir", r.dir)
		o.kBool("read_only", !im.fs.Writable())
		o.kInt("pid", int64(os.Getpid()))
		if r.warnings != nil {
			o.kStrs("warnings", r.warnings)
		}
		if err := o.close(nil); err != nil {
			return err
		}
	}
	return r.detach(ready)
}

// wait returns when the file system is served no more: when it has been unmounted, or at the second
// signal. The first unmounts it; while somebody uses it, that takes it out of the tree only.
func (r *mountRequest) wait(srv *fusesrv.Server, served chan struct{}, signals chan os.Signal, logger *log.Logger) {
	select {
	case <-served:
		return
	case <-signals:
	}
	err := srv.Unmount()
	if errors.Is(err, unix.EBUSY) {
		logger.Printf("unmount %s: it is in use: it is out of the directory tree, and served until its last user has gone; a second signal ends it at once", r.dir)
		err = srv.Detach()
	}
	if err != nil {
		logger.Printf("%v: still serving; a second signal ends it without unmounting", err)
	}
	select {
	case <-served:
	case <-signals:
		logger.Printf("%s: ended while in use", r.dir)
	}
}

// openImage opens what is to be mounted.
func (r *mountRequest) openImage(c *cli.Context) (*image, error) {
	s := &images{c: c, opts: r.open, open: map[string]*image{}}
	open := func(write bool) (*image, error) {
		s.opts.ext4.Write, s.lock = write, blockdev.LockShared
		if write {
			s.lock = blockdev.LockExclusive
		}
		return s.image(r.image, false)
	}
	im, err := open(r.write != writeNever)
	var cannot *ext4.UnsupportedError
	if r.write == writeIfCan && (errors.As(err, &cannot) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		why := err
		if im, err = open(false); err == nil {
			r.warnf("mounted read-only: %s", errorText(why))
		}
	}
	if err != nil {
		return nil, err
	}
	if j := im.fs.Journal(); r.open.journal != "" && (j == nil || !j.External) {
		return nil, errors.Join(fmt.Errorf("%s is given as external journal, and %s has none: leave journal= out", r.open.journal, r.image), im.close())
	}
	mode := "ro"
	if im.fs.Writable() {
		mode = "rw"
	}
	r.serve.Extra = append(r.serve.Extra, mode)
	return im, nil
}

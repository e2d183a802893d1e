package commands

import (
	"errors"
	"fmt"
	"io"
	"log"
	"log/syslog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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

// readyEnv numbers the descriptor on which a server in the background says
// that the mount answers.
const readyEnv = "E4GO_MOUNT_READY"

var mountCommand = &cli.Command{
	Name:      "mount",
	Usage:     "mount a file system",
	ArgsUsage: "IMAGE DIR",
	Description: `Mounts the ext2, ext3 or ext4 file system in IMAGE, a file or a block device,
at the directory DIR, through the kernel's FUSE driver. Root needs nothing
else; other users need fusermount3.

Without -o rw the mount is read-only, and not one byte of IMAGE is written: an
unclean journal is replayed in memory. With it, an unclean journal is replayed
first, and every change of metadata goes through the journal, as with the
kernel's own ext4 and data=ordered: what fsync has returned for survives a
power cut, and the file system is sound after one. What cannot be written
safely is refused, and says why.

e4go mount returns when the mount answers, and serves it in the background;
with -f it stays in the foreground until the file system is unmounted, or a
SIGINT or SIGTERM unmounts it.

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

Options (-o, separated by commas):
  ro                        read-only; the default
  rw                        read-write
  commit=N                  with rw: changes become durable after N seconds at the latest; default 5
  discard                   with rw: tell the device which blocks were freed
  errors=continue|remount-ro|panic
                            with rw: what to do when damage is met; default: as the superblock says
  usrquota, grpquota, prjquota
                            with rw: the limits of users, groups, projects count; usage is counted always
  resuid=N, resgid=N        with rw: who may have the blocks that are kept; default: as the superblock says
  offset=N                  the file system begins N bytes into IMAGE
  sb=N                      use the superblock in block N, in units of 1 KiB
  norecovery, noload        do not replay the journal
  journal=PATH              the external journal
  cache_size=N              bytes of metadata kept in memory; default 64m
  writeback_cache           with rw: the kernel keeps what is written for a while, which is faster for
                            small writes, and slower for deleting and renaming. That there is no room is
                            then told by fsync and close, as with NFS; without it, by write
  log=FILE                  append complaints to FILE; default: the system log, with -f standard error
  allow_other               let other users in; always so for root
  fuseblk=0|1|default       mount without a block device, with one or not at all, or with one
                            where that is possible
  fsname=NAME, subtype=T    the source, if there is no block device, and the type that mount(8) shows
  suid, dev, noexec, noatime, nosymfollow, context=...
                            as in mount(8); nosuid and nodev are the default
  acl, user_xattr, data=, barrier, delalloc, journal_checksum and the other
  options of ext4 that concern writing
                            accepted, without effect

Examples:
  e4go mount -o ro disk.img /mnt
  e4go mount -o rw disk.img /mnt
  e4go mount -f -o ro,offset=1m disk.img /mnt
  e4go umount /mnt

Exit status, as mount(8)'s:
  0 mounted; 1 wrong usage; 2 system error; 8 interrupted; 32 the mount failed.`,
	Flags: []cli.Flag{
		&cli.StringSliceFlag{Name: "options", Aliases: []string{"o"}, Usage: "mount `OPTIONS`, separated by commas"},
		&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"}, Usage: "serve in the foreground"},
		&cli.BoolFlag{Name: "debug", Usage: "log every request; wants -f"},
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
	log        string
}

func runMount(c *cli.Context) error {
	r, err := parseMount(c)
	if err != nil {
		return err
	}
	if !c.Bool("foreground") {
		return background(c)
	}
	return r.run(c)
}

func parseMount(c *cli.Context) (*mountRequest, error) {
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
	for o := range strings.SplitSeq(strings.Join(c.StringSlice("options"), ","), ",") {
		if o == "" {
			continue
		}
		if err := r.option(o); err != nil {
			return nil, err
		}
	}
	if _, err := fusesrv.ParseFlags(r.serve.Extra); err != nil {
		var bad *fusesrv.OptionError
		if errors.As(err, &bad) {
			name, _, _ := strings.Cut(bad.Option, "=")
			return nil, usageHint(didYouMean(name, mountOptionNames()), "%v", err)
		}
		return nil, err
	}
	return r, nil
}

// idle are the options of the kernel's ext4 that concern writing, or that are
// always on here.
var idle = []string{
	"acl", "user_xattr", "data", "barrier", "nobarrier", "delalloc", "nodelalloc",
	"journal_checksum", "nojournal_checksum", "journal_async_commit", "auto_da_alloc", "noauto_da_alloc", "block_validity",
	"noblock_validity", "dioread_lock", "dioread_nolock", "lazytime", "nolazytime", "init_itable", "noinit_itable", "stripe",
	"max_batch_time", "min_batch_time", "journal_ioprio", "max_dir_size_kb", "i_version", "nombcache", "jqfmt",
	"inode_readahead_blks", "bsddf", "data_err", "mb_optimize_scan", "prefetch_block_bitmaps",
	"defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev", "loop",
}

// ours are the options that [mountRequest.option] knows.
var ours = []string{"ro", "rw", "commit", "discard", "nodiscard", "errors", "usrquota", "grpquota", "prjquota", "quota", "noquota", "resuid", "resgid", "offset", "sb", "norecovery", "noload", "journal", "journal_path", "cache_size", "writeback_cache", "log", "allow_other", "fuseblk", "fsname", "subtype"}

func mountOptionNames() []string {
	return append(append([]string{"suid", "nosuid", "dev", "nodev", "noexec", "noatime", "relatime", "nosymfollow", "context"}, ours...), idle...)
}

// option takes one mount option.
func (r *mountRequest) option(o string) error {
	name, value, hasValue := strings.Cut(o, "=")
	size := func() (uint64, error) {
		n, err := parseSize(value)
		if err != nil {
			return 0, usagef("mount option %s: %v", name, err)
		}
		return n, nil
	}
	var n uint64
	var err error
	switch name {
	case "":
	case "rw", "ro":
		r.open.ext4.Write = name == "rw"
		r.serve.Extra = append(r.serve.Extra, name)
	case "discard", "nodiscard":
		r.open.ext4.Discard = name == "discard"
	case "errors":
		policy, ok := map[string]ext4.ErrorPolicy{
			"continue": ext4.ErrorsContinue, "remount-ro": ext4.ErrorsRemountRO, "panic": ext4.ErrorsPanic,
		}[value]
		if !ok {
			return usagef("mount option errors=%s: want continue, remount-ro or panic", value)
		}
		r.open.ext4.Errors = policy
	case "usrquota", "quota", "grpquota", "prjquota":
		t := map[string]disk.QuotaType{"grpquota": disk.QuotaGroup, "prjquota": disk.QuotaProject}[name] // else disk.QuotaUser
		r.open.ext4.QuotaLimits = append(r.open.ext4.QuotaLimits, t)
	case "resuid", "resgid":
		id, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return usagef("mount option %s=%s: want a number, up to 4294967295", name, value)
		}
		owner := uint32(id)
		if name == "resuid" {
			r.open.ext4.ReservedUID = &owner
		} else {
			r.open.ext4.ReservedGID = &owner
		}
	case "noquota":
		r.open.ext4.QuotaLimits = nil
	case "commit":
		if n, err = strconv.ParseUint(value, 10, 16); err != nil {
			return usagef("mount option commit=%s: want a number of seconds, up to 65535", value)
		}
		r.open.ext4.CommitInterval = time.Duration(n) * time.Second
	case "offset":
		r.open.offset, err = size()
	case "sb":
		if n, err = size(); err == nil && (n == 0 || n >= 1<<53) {
			err = usagef("mount option sb=%s: want a block number in units of 1 KiB, at least 1", value)
		}
		r.open.ext4.Superblock = int64(n) << 10
	case "cache_size":
		n, err = size()
		r.open.ext4.CacheSize = int64(n)
	case "writeback_cache":
		r.serve.WriteBack = true
	case "norecovery", "noload":
		r.open.ext4.NoRecovery = true
	case "journal", "journal_path":
		if !hasValue || value == "" {
			return usagef("mount option %s wants the path of a journal device", name)
		}
		r.open.journal, err = filepath.Abs(value)
	case "log":
		r.log, err = filepath.Abs(value)
	case "allow_other":
		r.serve.AllowOther = true
	case "fuseblk":
		choice, ok := map[string]fusesrv.BlockChoice{
			"0": fusesrv.BlockNever, "1": fusesrv.BlockAlways, "default": fusesrv.BlockDefault,
		}[value]
		if !ok {
			return usagef("mount option fuseblk=%s: want 0, 1 or default", value)
		}
		r.serve.Block = choice
	case "fsname":
		r.serve.FSName = value
	case "subtype":
		r.serve.Subtype = value
	default:
		if !slices.Contains(idle, name) {
			r.serve.Extra = append(r.serve.Extra, o)
		}
	}
	return err
}

// run mounts, serves until the file system is unmounted, and lets go of the image.
func (r *mountRequest) run(c *cli.Context) error {
	ready := readyPipe()
	s := &images{c: c, opts: r.open, open: map[string]*image{}, lock: blockdev.LockShared}
	if r.open.ext4.Write {
		s.lock = blockdev.LockExclusive
	}
	im, err := s.image(r.image, false)
	if err != nil {
		return err
	}
	defer s.close()
	logger, closeLog, err := r.logger(c, ready != nil)
	if err != nil {
		return err
	}
	defer closeLog()
	r.serve.Log = logger
	r.serve.Image, r.serve.Release = im.dev, s.close
	srv, err := fusesrv.Mount(im.fs, r.dir, r.serve)
	if err != nil {
		return &pathError{r.image, err}
	}
	served := make(chan struct{})
	go func() {
		srv.Serve()
		close(served)
	}()
	if err := srv.WaitMount(); err != nil {
		return fmt.Errorf("mount %s: %w", r.dir, err)
	}
	if o := out(c); o.json {
		o.kStr("image", r.image)
		o.kStr("dir", r.dir)
		o.kInt("pid", int64(os.Getpid()))
		if err := o.close(nil); err != nil {
			return err
		}
	}
	if err := r.detach(ready); err != nil {
		return err
	}
	select {
	case <-served:
	case <-c.Context.Done():
		if err := srv.Unmount(); err != nil {
			logger.Printf("unmount %s: %v: still serving; send the signal again to end without unmounting", r.dir, err)
		}
		<-served
	}
	return exit(exitOK, nil) // also when a signal ended it: that is how one unmounts
}

// logger is where complaints go once the command line has returned.
func (r *mountRequest) logger(c *cli.Context, background bool) (*log.Logger, func(), error) {
	none := func() {}
	switch {
	case r.log != "":
		f, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, err
		}
		return log.New(f, "", log.LstdFlags), func() { f.Close() }, nil
	case background:
		w, err := syslog.New(syslog.LOG_WARNING|syslog.LOG_DAEMON, programName)
		if err != nil { // no daemon listens: nobody would read it
			return log.New(io.Discard, "", 0), none, nil
		}
		return log.New(w, "", 0), func() { w.Close() }, nil
	}
	return log.New(out(c).stderr, programName+" mount: ", 0), none, nil
}

// readyPipe is the pipe to the process that started us in the background, nil
// in the foreground.
func readyPipe() *os.File {
	if os.Getenv(readyEnv) == "" {
		return nil
	}
	unix.CloseOnExec(3)
	return os.NewFile(3, "ready")
}

// detach tells the waiting process that the mount answers, and leaves its
// terminal and its directory.
func (r *mountRequest) detach(ready *os.File) error {
	if ready == nil {
		return nil
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("report to the waiting process: %w", err)
	}
	if err := ready.Close(); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("leave the terminal: %w", err)
		}
	}
	return os.Chdir("/")
}

// background starts this program again with -f in a session of its own, and
// waits until the mount answers or the program ends.
func background(c *cli.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return exit(mountSystem, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return exit(mountSystem, err)
	}
	defer r.Close()
	args := []string{os.Args[0], c.Command.Name, "-f"}
	for _, o := range c.StringSlice("options") {
		args = append(args, "-o", o)
	}
	if out(c).json {
		args = append(args, "--json")
	}
	args = append(append(args, "--"), c.Args().Slice()...)
	p, err := os.StartProcess(exe, args, &os.ProcAttr{
		Env:   append(os.Environ(), readyEnv+"=1"),
		Files: []*os.File{nil, os.Stdout, os.Stderr, w},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		return exit(mountSystem, fmt.Errorf("start the server: %w", err))
	}
	if n, _ := r.Read(make([]byte, 1)); n == 1 {
		return p.Release()
	}
	st, err := p.Wait()
	if err != nil {
		return exit(mountSystem, err)
	}
	if st.ExitCode() <= 0 { // killed, or it went without a word
		return exit(mountFailed, fmt.Errorf("the server ended before the mount answered: %v", st))
	}
	return exit(st.ExitCode(), nil) // it has said why
}

package commands

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// An image is an open file system and where it came from.
type image struct {
	fs      *ext4.FS
	dev     blockdev.Device // what fs was opened on
	path    string
	opts    ext4.Options // with which fs was opened
	live    bool         // it is mounted
	closers []func() error
}

// close closes the file system and its devices, once. Only where something was
// written can it fail.
func (im *image) close() error {
	var errs []error
	for _, c := range slices.Backward(im.closers) {
		errs = append(errs, c())
	}
	im.closers = nil
	return errors.Join(errs...)
}

// images opens the file systems that the arguments of one run are about: the one of
// --image, or those that the paths lie on.
type images struct {
	c    *cli.Context
	opts imageOptions
	open map[string]*image
	lock blockdev.Lock // whom to keep out of what is opened: for looking, nobody
}

// imageOptions are the values of the image flags.
type imageOptions struct {
	path    string // "": arguments are paths of mounted file systems
	offset  uint64
	limit   uint64 // bytes from offset on that are the file system's; 0: all
	journal string
	ext4    ext4.Options
}

func imageOptionsOf(c *cli.Context) (imageOptions, error) {
	o := imageOptions{path: c.String("image"), journal: c.String("journal")}
	if err := checkForm(c); err != nil {
		return o, err
	}
	var err error
	if o.offset, err = sizeFlag(c, "offset", 0); err != nil {
		return o, err
	}
	cache, err := sizeFlag(c, "cache-size", 0)
	if err != nil {
		return o, err
	}
	o.ext4 = ext4.Options{NoRecovery: c.Bool("no-recovery"), CacheSize: int64(cache)}
	if s := c.String("superblock"); s != "" {
		n, err := parseSize(s)
		if err != nil || n == 0 || n >= 1<<53 {
			return o, usageHint("dumpe2fs IMAGE | grep superblock lists them; for blocks of 4 KiB, --superblock 131072 is block 32768",
				"--superblock is %q, want a block number in units of 1 KiB, at least 1", s)
		}
		o.ext4.Superblock = int64(n) << 10
	}
	return o, nil
}

func newImages(c *cli.Context) (*images, error) {
	o, err := imageOptionsOf(c)
	return &images{c: c, opts: o, open: map[string]*image{}}, err
}

// close closes all that was opened.
func (s *images) close() error {
	var errs []error
	for _, im := range s.open {
		errs = append(errs, im.close())
	}
	return errors.Join(errs...)
}

// device opens the device at path, cut to the file system in it.
func (o *imageOptions) device(path string, lock blockdev.Lock) (blockdev.Device, error) {
	f, err := blockdev.Open(path, blockdev.Options{Lock: lock, Write: o.ext4.Write})
	if err != nil {
		return nil, err
	}
	if o.offset == 0 && o.limit == 0 {
		return f, nil
	}
	w, err := blockdev.NewWindow(f, int64(o.offset), int64(o.limit))
	if err != nil {
		f.Close()
		return nil, &pathError{path, fmt.Errorf("offset %d: %w", o.offset, err)}
	}
	return w, nil
}

// image opens the file system in path. live says that it is mounted: then what
// the kernel's buffers of the device hold is newer than its journal.
func (s *images) image(path string, live bool) (*image, error) {
	if im, ok := s.open[path]; ok {
		return im, nil
	}
	im := &image{path: path, live: live}
	dev, err := s.opts.device(path, s.lock)
	if err != nil {
		return nil, err
	}
	im.dev = dev
	im.closers = append(im.closers, dev.Close)
	opts := s.opts.ext4
	opts.NoRecovery = opts.NoRecovery || live
	if s.opts.journal != "" {
		j, err := blockdev.Open(s.opts.journal, blockdev.Options{Lock: s.lock, Write: s.opts.ext4.Write})
		if err != nil {
			im.close()
			return nil, err
		}
		im.closers = append(im.closers, j.Close)
		opts.Journal = j
	}
	fs, err := ext4.OpenContext(s.c.Context, dev, opts)
	if err != nil {
		im.close()
		return nil, &pathError{path, err}
	}
	im.fs, im.opts = fs, opts
	im.closers = append(im.closers, fs.Close)
	s.open[path] = im
	return im, nil
}

// main opens the image of --image.
func (s *images) main() (*image, error) {
	if s.opts.path == "" {
		return nil, usageHint("e4go "+s.c.Command.Name+" -i IMAGE ...", "no image: want --image or $%s", imageEnv)
	}
	return s.image(s.opts.path, false)
}

// A file is an inode that an argument names.
type file struct {
	*ext4.Inode
	im   *image
	path string // as the user gave it
	live bool   // path can be opened: it is on a mounted file system
}

// file finds the inode that arg names: inside the image of --image a path or an
// inode number, else the path of a file on a mounted ext4. follow says what to do
// with a symbolic link at the end.
func (s *images) file(arg string, follow bool) (*file, error) {
	if s.opts.path == "" {
		return s.liveFile(arg, follow)
	}
	im, err := s.main()
	if err != nil {
		return nil, err
	}
	var in *ext4.Inode
	if ino, ok := ext4.ParseInode(arg); ok {
		in, err = im.fs.Inode(ino)
	} else {
		in, err = im.fs.Resolve(arg, follow)
	}
	if err != nil {
		return nil, &pathError{arg, err}
	}
	return &file{Inode: in, im: im, path: arg}, nil
}

// liveFile finds the inode of a file on a mounted ext4, in the device below.
func (s *images) liveFile(path string, follow bool) (*file, error) {
	st, err := statPath(path, follow)
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	m, err := mountOf(uint64(st.Dev))
	if err != nil {
		return nil, &pathError{path, err}
	}
	dev, err := m.device()
	if err != nil {
		return nil, &pathError{path, err}
	}
	im, err := s.image(dev, m.isExt4())
	if err != nil {
		return nil, &pathError{path, err}
	}
	return s.byNumber(im, path, st.Ino)
}

// liveFileIn is liveFile with the image given: path is mounted somehow, and its
// inode number is one of the image of --image.
func (s *images) liveFileIn(path string) (*file, error) {
	st, err := statPath(path, true)
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	im, err := s.main()
	if err != nil {
		return nil, err
	}
	return s.byNumber(im, path, st.Ino)
}

func (s *images) byNumber(im *image, path string, ino uint64) (*file, error) {
	if ino > uint64(^uint32(0)) {
		return nil, &pathError{path, fmt.Errorf("inode number is %d, want one of 32 bits", ino)}
	}
	in, err := im.fs.Inode(disk.Ino(ino))
	if err != nil {
		return nil, &pathError{path, err}
	}
	return &file{Inode: in, im: im, path: path, live: true}, nil
}

func statPath(path string, follow bool) (st unix.Stat_t, err error) {
	if follow {
		err = unix.Stat(path, &st)
	} else {
		err = unix.Lstat(path, &st)
	}
	return st, err
}

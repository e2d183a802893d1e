package mkfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A Target is what a file system is written to. Nobody sees it before Commit.
type Target struct {
	Dev    blockdev.Device
	Zeroed bool // what is not written reads as zeros

	path   string
	file   *os.File // a file without a name, or with name
	name   string   // "" once it is gone
	window bool     // a part of something larger, written in place
	done   bool     // Commit or Abort was called
}

// NewImage makes an image file of size bytes that takes the name path, and
// the place of what has that name now, when it is complete. Until then, and if it
// never is, it has no name where the file system can do that. A symbolic link stays: the
// name is the one that it leads to, if there is anything or not.
func NewImage(path string, size int64) (*Target, error) {
	path, err := follow(path)
	if err != nil {
		return nil, err
	}
	t := &Target{path: path, Zeroed: true}
	fd, err := unix.Open(dirOf(path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		t.file = os.NewFile(uintptr(fd), path)
	} else {
		if t.file, err = os.CreateTemp(dirOf(path), ".e4go-image-"); err != nil {
			return nil, &fs.PathError{Op: "make a file beside", Path: path, Err: underlying(err)}
		}
		t.name = t.file.Name()
	}
	if err = errors.Join(t.dress(), t.file.Truncate(size)); err == nil {
		t.Dev, err = blockdev.NewFile(t.file, path, blockdev.Options{Write: true})
	}
	if err != nil {
		t.Abort()
		return nil, fmt.Errorf("image of %d bytes: %w", size, err)
	}
	return t, nil
}

// MayCreate reports an error if [NewImage] would not be allowed to give the name path.
func MayCreate(path string) error {
	path, err := follow(path)
	if err != nil {
		return err
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dirOf(path), unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "make a file beside", Path: path, Err: err}
	}
	return nil
}

// follow is the name that symbolic links lead to.
func follow(path string) (string, error) {
	for range 40 { // as the kernel does
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil // what is wrong will be seen when it is opened
		}
		if !filepath.IsAbs(to) {
			to = dirOf(path) + "/" + to // not cleaned: a directory may be a link, too
		}
		path = to
	}
	return "", &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// dirOf is the directory of a path, whose name is left as it stands.
func dirOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	switch i {
	case -1:
		return "."
	case 0:
		return "/"
	}
	return path[:i]
}

// underlying is what a PathError that names a file of ours has to say.
func underlying(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// dress gives the image the mode of what it replaces, and the owner where that
// is allowed; else the mode of a new file.
func (t *Target) dress() error {
	var st unix.Stat_t
	if unix.Stat(t.path, &st) != nil {
		mask := unix.Umask(0)
		unix.Umask(mask)
		return t.file.Chmod(0o666 &^ fs.FileMode(mask))
	}
	if err := t.file.Chown(int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	return t.file.Chmod(fs.FileMode(st.Mode & 0o777))
}

// InPlace writes to the size bytes at offset of an existing device or image.
// Its first act is to make sure that what is there now is no file system any more. A
// size of 0 is all that there is.
func InPlace(path string, offset, size int64) (*Target, error) {
	f, err := blockdev.Open(path, blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
	if err != nil {
		return nil, err
	}
	w, err := blockdev.NewWindow(f, offset, size)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Target{path: path, Dev: w, window: true}, nil
}

// What tells one kind of contents from another lies near the beginning, near
// the end (software RAID, ZFS, backups of GPT), or at a few powers of two (LUKS, VMFS).
const (
	wipeHead = 1 << 20
	wipeTail = 1 << 20
	wipePage = 4096
)

var wipeAlso = []int64{1 << 20, 2 << 20, 4 << 20}

// Wipe clears the places by which a device is known for what it was before. It
// goes by the superblock of ext4 first: if the power fails, what was there is
// there still, or nothing is.
func (t *Target) Wipe() error {
	if !t.window {
		return nil
	}
	if err := t.unmake(); err != nil {
		return err
	}
	size := t.Dev.Size()
	clear := func(at, n int64) error {
		at = min(max(at, 0), size)
		_, err := t.Dev.WriteAt(zeroMiB[:min(n, size-at)], at)
		return err
	}
	for _, at := range wipeAlso {
		if err := clear(at, wipePage); err != nil {
			return err
		}
	}
	if err := clear(size-wipeTail, wipeTail); err != nil {
		return err
	}
	if err := clear(0, wipeHead); err != nil {
		return err
	}
	return t.Dev.Flush()
}

// unmake clears the sector that has the magic number of ext4's superblock.
func (t *Target) unmake() error {
	if t.Dev.Size() < disk.SuperblockOffset+superSector {
		return nil
	}
	_, err := t.Dev.WriteAt(zeroMiB[:superSector], disk.SuperblockOffset)
	return errors.Join(err, t.Dev.Flush())
}

// Commit gives the image its name.
func (t *Target) Commit() error {
	if t.window {
		t.done = true
		return t.Dev.Close()
	}
	if err := t.link(); err != nil {
		return err
	}
	t.done = true
	return errors.Join(syncDir(dirOf(t.path)), t.Dev.Close())
}

func (t *Target) link() error {
	if t.name == "" {
		from := fmt.Sprintf("/proc/self/fd/%d", t.file.Fd())
		err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, t.path, unix.AT_SYMLINK_FOLLOW)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return &fs.PathError{Op: "name", Path: t.path, Err: err}
		}
		// Something has the name: another name first, which then takes its place.
		for i := 0; ; i++ {
			t.name = fmt.Sprintf("%s/.e4go-image-%d-%d", dirOf(t.path), os.Getpid(), i)
			err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, t.name, unix.AT_SYMLINK_FOLLOW)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EEXIST) {
				t.name = ""
				return &fs.PathError{Op: "name", Path: t.path, Err: err}
			}
		}
	}
	if err := os.Rename(t.name, t.path); err != nil {
		return &fs.PathError{Op: "replace", Path: t.path, Err: err.(*os.LinkError).Err}
	}
	t.name = ""
	return nil
}

// Abort throws away what was written; a device holds no file system then. After
// Commit it does nothing, unless that could not give the name.
func (t *Target) Abort() error {
	if t.done {
		return nil
	}
	t.done = true
	if t.window {
		return errors.Join(t.unmake(), t.Dev.Close())
	}
	err := t.file.Close()
	if t.name != "" {
		err = errors.Join(err, os.Remove(t.name))
	}
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

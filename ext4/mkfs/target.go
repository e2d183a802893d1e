package mkfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	name   string
	window bool // a part of something larger, written in place
}

// NewImage makes an image file of size bytes that takes the name path, and
// the place of what has that name now, when it is complete. Until then, and if it
// never is, it has no name where the file system can do that.
func NewImage(path string, size int64) (*Target, error) {
	mode := fs.FileMode(0o644)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
		// A symbolic link stays, and what it leads to is replaced.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	} else {
		mask := unix.Umask(0)
		unix.Umask(mask)
		mode &^= fs.FileMode(mask)
	}
	t := &Target{path: path, Zeroed: true}
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		t.file = os.NewFile(uintptr(fd), path)
	} else {
		if t.file, err = os.CreateTemp(dir, "."+filepath.Base(path)+"-"); err != nil {
			return nil, err
		}
		t.name = t.file.Name()
	}
	if err = errors.Join(t.file.Chmod(mode), t.file.Truncate(size)); err == nil {
		t.Dev, err = blockdev.NewFile(t.file, path, blockdev.Options{Write: true})
	}
	if err != nil {
		t.Abort()
		return nil, fmt.Errorf("image of %d bytes: %w", size, err)
	}
	return t, nil
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
		return t.Dev.Close()
	}
	err := t.link()
	if err == nil {
		err = syncDir(filepath.Dir(t.path))
	}
	return errors.Join(err, t.Dev.Close())
}

func (t *Target) link() error {
	if t.name == "" {
		from := fmt.Sprintf("/proc/self/fd/%d", t.file.Fd())
		err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, t.path, unix.AT_SYMLINK_FOLLOW)
		if err == nil || !errors.Is(err, unix.EEXIST) {
			return err
		}
		// Something has the name: another name first, which then takes its place.
		for i := 0; ; i++ {
			t.name = filepath.Join(filepath.Dir(t.path), fmt.Sprintf(".%s-%d-%d", filepath.Base(t.path), os.Getpid(), i))
			err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, t.name, unix.AT_SYMLINK_FOLLOW)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	if err := os.Rename(t.name, t.path); err != nil {
		os.Remove(t.name)
		return err
	}
	return nil
}

// Abort throws away what was written; a device holds no file system then.
func (t *Target) Abort() error {
	if t.window {
		return errors.Join(t.unmake(), t.Dev.Close())
	}
	if t.name != "" {
		os.Remove(t.name)
	}
	return t.file.Close()
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

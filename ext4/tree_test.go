package ext4_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// openImage opens a fixture as a user would, and checks at the end that not
// one byte of it changed.
func openImage(t testing.TB, im fixtures.Image) (*ext4.FS, []fixtures.Entry) {
	t.Helper()
	file, tree := im.Open(t)
	f, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var dev blockdev.Device = f
	if im.Offset != 0 {
		if dev, err = blockdev.NewWindow(f, im.Offset, 0); err != nil {
			t.Fatal(err)
		}
	}
	var opts ext4.Options
	if im.Journal != "" {
		j, err := blockdev.Open(im.Journal, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		opts.Journal = j
	}
	fs, err := ext4.Open(dev, opts)
	if err != nil {
		t.Fatalf("open %s: %v", im.Name, err)
	}
	t.Cleanup(func() {
		fs.Close()
		f.Close()
	})
	return fs, tree
}

// libTree is the tree of fs as package ext4 reads it.
func libTree(fs *ext4.FS) ([]fixtures.Entry, error) {
	var out []fixtures.Entry
	first := map[disk.Ino]int{}
	var walk func(p string, in *ext4.Inode) error
	walk = func(p string, in *ext4.Inode) error {
		e := entryOf(p, in)
		if i, ok := first[in.Ino()]; ok {
			f := out[i]
			e.Target, e.SHA256, e.ReadErr, e.Xattrs, e.XattrErr = f.Target, f.SHA256, f.ReadErr, f.Xattrs, f.XattrErr
			e.Extents, e.Data = f.Extents, f.Data
		} else {
			fillEntry(&e, in)
			first[in.Ino()] = len(out)
		}
		out = append(out, e)
		if in.Type() != disk.ModeDir {
			return nil
		}
		d, err := fs.OpenDir(in)
		if err != nil {
			return err
		}
		var names []string
		for {
			ent, err := d.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return fmt.Errorf("list %s: %w", p, err)
			}
			if ent.Name != "." && ent.Name != ".." {
				names = append(names, ent.Name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			child, err := fs.Lookup(in, name)
			if err != nil {
				return fmt.Errorf("look up %s in %s: %w", name, p, err)
			}
			if err := walk(path.Join(p, "x")[:len(path.Join(p, "x"))-1]+name, child); err != nil {
				return err
			}
		}
		return nil
	}
	root, err := fs.Inode(disk.RootIno)
	if err != nil {
		return nil, err
	}
	err = walk("/", root)
	return out, err
}

func timeOf(t disk.Time) fixtures.Time { return fixtures.Time{Sec: t.Sec, Nsec: t.Nsec} }

func entryOf(p string, in *ext4.Inode) fixtures.Entry {
	st := in.Stat()
	e := fixtures.Entry{
		Path: p, Ino: st.Ino, Mode: st.Mode, Nlink: st.Nlink, UID: st.UID, GID: st.GID,
		Rdev: unix.Mkdev(st.Major, st.Minor), Size: st.Size, Blocks: int64(st.Blocks),
		Atime: timeOf(st.Atime), Mtime: timeOf(st.Mtime), Ctime: timeOf(st.Ctime), HasBtime: st.HasCrtime,
	}
	if st.HasCrtime {
		e.Btime = timeOf(st.Crtime)
	}
	for flag, attr := range map[disk.FileFlags]uint64{
		disk.FlagCompr: unix.STATX_ATTR_COMPRESSED, disk.FlagImmutable: unix.STATX_ATTR_IMMUTABLE, disk.FlagAppend: unix.STATX_ATTR_APPEND,
		disk.FlagNodump: unix.STATX_ATTR_NODUMP, disk.FlagEncrypt: unix.STATX_ATTR_ENCRYPTED, disk.FlagVerity: unix.STATX_ATTR_VERITY,
	} {
		if st.Flags.Has(flag) {
			e.Attributes |= attr
		}
	}
	return e
}

func errnoName(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.Is(err, disk.ErrCorrupt):
		return "EUCLEAN"
	}
	return err.Error()
}

func fillEntry(e *fixtures.Entry, in *ext4.Inode) {
	encrypted := in.Disk().Flags.Has(disk.FlagEncrypt)
	switch in.Type() {
	case disk.ModeLink:
		var err error
		e.Target, err = in.Readlink()
		e.ReadErr = errnoName(err)
	case disk.ModeReg:
		if encrypted { // the kernel does not even open it, so it tells nothing of its map
			_, err := in.ReadAt(make([]byte, 1), 0)
			e.ReadErr = errnoName(err)
			break
		}
		for off := int64(0); ; {
			data, err := in.SeekData(off)
			if err != nil {
				break
			}
			hole, err := in.SeekHole(data)
			if err != nil {
				break
			}
			e.Data = append(e.Data, fixtures.Range{Start: data, End: hole})
			off = hole
		}
		ranges := e.Data
		if ranges == nil {
			ranges = []fixtures.Range{}
		}
		sum, err := fixtures.Sum(in, in.Size(), ranges)
		e.SHA256, e.ReadErr = sum, errnoName(err)
	}
	if in.Type() == disk.ModeDir || in.Type() == disk.ModeReg && !encrypted {
		err := in.Fiemap(0, 1<<63, func(x ext4.FiemapExtent) bool {
			e.Extents = append(e.Extents, fixtures.Extent{Logical: x.Logical, Physical: x.Physical, Length: x.Length, Flags: uint32(x.Flags)})
			return true
		})
		e.FiemapErr = errnoName(err)
	}
	names, err := in.Listxattr()
	e.XattrErr = errnoName(err)
	for _, name := range names {
		v, err := in.Getxattr(name)
		if err != nil {
			e.XattrErr = errnoName(err)
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = hex.EncodeToString(v)
	}
}

// TestTree compares the whole tree of every image with what the kernel or,
// where it cannot mount the image, debugfs says.
func TestTree(t *testing.T) {
	for _, im := range fixtures.Matrix() {
		t.Run(im.Name, func(t *testing.T) {
			fs, want := openImage(t, im)
			file, _ := im.Open(t)
			before, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := libTree(fs)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range fixtures.Diff(want, got, im.Ignore...) {
				t.Error(line)
			}
			if after, err := os.Stat(file); err != nil || after.ModTime() != before.ModTime() {
				t.Errorf("the image changed: %v", err)
			}
		})
	}
}

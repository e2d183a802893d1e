package mkfs

import (
	"encoding/hex"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// openImage opens an image with package ext4, which has no code of mkfs.
func openImage(t testing.TB, img string) *ext4.FS {
	t.Helper()
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	fsys, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// lookupAll finds a path of any length.
func lookupAll(fsys *ext4.FS, path string) (*ext4.Inode, error) {
	in, err := fsys.Inode(disk.RootIno)
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return nil, err
		}
		in, err = fsys.Lookup(in, name)
	}
	return in, err
}

// dumpImage is the tree of an image as package ext4 reads it.
func dumpImage(t testing.TB, img string) []fixtures.Entry {
	t.Helper()
	fsys := openImage(t, img)
	var out []fixtures.Entry
	check := func(p string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
	var walk func(p string, in *ext4.Inode)
	walk = func(p string, in *ext4.Inode) {
		st := in.Stat()
		e := fixtures.Entry{
			Path: p, Ino: st.Ino, Mode: st.Mode, Nlink: st.Nlink, UID: st.UID, GID: st.GID, Rdev: unix.Mkdev(st.Major, st.Minor),
			Size: st.Size, Mtime: fixtures.Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
		}
		names, err := in.Listxattr()
		check(p, err)
		for _, name := range names {
			value, err := in.Getxattr(name)
			check(p+" "+name, err)
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = hex.EncodeToString(value)
		}
		switch in.Type() {
		case disk.ModeLink:
			e.Target, err = in.Readlink()
			check(p, err)
		case disk.ModeReg:
			for off := int64(0); off < in.Size(); {
				data, err := in.SeekData(off)
				if errors.Is(err, unix.ENXIO) {
					break
				}
				check(p, err)
				off, err = in.SeekHole(data)
				check(p, err)
				e.Data = append(e.Data, fixtures.Range{Start: data, End: off})
			}
			e.SHA256, err = fixtures.Sum(in, in.Size(), append([]fixtures.Range{}, e.Data...))
			check(p, err)
		}
		out = append(out, e)
		if in.Type() != disk.ModeDir {
			return
		}
		d, err := fsys.OpenDir(in)
		check(p, err)
		for {
			entry, err := d.Next()
			if err == io.EOF {
				return
			}
			check(p, err)
			if entry.Name == "." || entry.Name == ".." {
				continue
			}
			child, err := fsys.Lookup(in, entry.Name) // by the index, if there is one
			check(path.Join(p, entry.Name), err)
			if child.Ino() != entry.Ino {
				t.Errorf("%s/%s: inode %d in the list, %d when looked up", p, entry.Name, entry.Ino, child.Ino())
			}
			walk(strings.TrimSuffix(p, "/")+"/"+entry.Name, child)
		}
	}
	root, err := fsys.Inode(disk.RootIno)
	check("/", err)
	walk("/", root)
	fixtures.SortTree(out)
	return out
}

// chattr changes the flags of a file as e2fsprogs do.
func chattr(args ...string) ([]byte, error) { return exec.Command("chattr", args...).CombinedOutput() }

package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/fixtures"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// judgeKernel mounts what is on dev with the kernel's own ext4, and compares all that it shows with the
// model.
func (p *treeProgram) judgeKernel(t *testing.T, dev *blockdev.Mem) {
	t.Run(fmt.Sprintf("kernel%d", p.seed), func(t *testing.T) {
		mount := fixtures.MountKernel(t, saveMem(t, dev))
		read := map[*treeNode]bool{} // under another name: SEEK calls what is in the page cache data
		p.root.walk("", func(path string, n *treeNode) {
			if err := p.compareMounted(filepath.Join(mount, path), n, read[n]); err != nil {
				t.Errorf("%q through the kernel's ext4: %v", path, err)
			}
			read[n] = true
		})
	})
}

func (p *treeProgram) compareMounted(name string, n *treeNode, read bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return err
	}
	at := func(t unix.Timespec) simkernel.Time { return simkernel.Time{Sec: t.Sec, Nsec: uint32(t.Nsec)} }
	err := n.compareStat(simkernel.Attr{
		Size: uint64(st.Size), Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink),
		Atime: at(st.Atim), Mtime: at(st.Mtim), Ctime: at(st.Ctim),
	})
	if err != nil {
		return err
	}
	switch n.typ {
	case unix.S_IFDIR:
		entries, err := os.ReadDir(name)
		if have := len(slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "lost+found" })); err != nil || have != len(n.children) {
			return fmt.Errorf("has %d names, want %d: %w", have, len(n.children), err)
		}
	case unix.S_IFLNK:
		if target, err := os.Readlink(name); err != nil || target != n.target {
			return fmt.Errorf("leads to %q, want %q: %w", target, n.target, err)
		}
		return nil
	case unix.S_IFREG:
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := p.holes(n, func(off int64, whence int) (int64, error) { return f.Seek(off, whence) })
		if err == nil {
			err = p.judgeHoles(n, data, !p.inline && !read)
		}
		if err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		got, err := io.ReadAll(f)
		if err = errors.Join(err, differ(got, n.data)); err != nil {
			return err
		}
	}
	list := make([]byte, 4096)
	k, err := unix.Llistxattr(name, list)
	if err != nil {
		return err
	}
	want := n.allXattrs()
	if have := bytes.Count(list[:k], []byte{0}); have != len(want) {
		return fmt.Errorf("has xattrs %q, want %q", list[:k], want)
	}
	for attr, value := range want {
		k, err := unix.Lgetxattr(name, attr, list)
		if err != nil || string(list[:k]) != value {
			return fmt.Errorf("xattr %s: %w, want %q", attr, err, value)
		}
	}
	return nil
}

package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// compareContents reads what is open, without leaving a trace.
func (p *treeProgram) compareContents(x *treeFile) error {
	f := x.look
	if f == nil || x.n.opens == 0 {
		return nil
	}
	if f.Size() != int64(len(x.n.data)) {
		return fmt.Errorf("size is %d, want %d", f.Size(), len(x.n.data))
	}
	got := make([]byte, len(x.n.data)+10)
	n, err := f.ReadAt(got, 0)
	if err != nil {
		return err
	}
	return differ(got[:n], x.n.data)
}

// compareHoles compares what SEEK_DATA, SEEK_HOLE and FIEMAP say of x with what was
// written: first with all that the page cache has, where a block with other bytes
// than zeros must be data, and then of the device alone, where it is certain.
func (p *treeProgram) compareHoles(x *treeFile) error {
	n := x.n
	for _, dropped := range []bool{false, true} {
		if dropped {
			if err := x.f.Drop(); err != nil {
				return err
			}
		}
		data, err := p.holes(n, x.f.Seek)
		if err == nil {
			err = p.judgeHoles(n, data, dropped && !p.inline)
		}
		if err != nil {
			return err
		}
	}
	if p.inline {
		return nil
	}
	extents, err := x.f.Fiemap(0, int64(len(n.data)), true)
	if err != nil {
		return err
	}
	mapped := make([]bool, len(n.blocks))
	for _, e := range extents {
		for i := e.Offset / uint64(p.bs); i*uint64(p.bs) < e.Offset+e.Length && i < uint64(len(mapped)); i++ {
			mapped[i] = e.Type == iomap.TypeMapped
		}
	}
	for i, state := range n.blocks {
		if state != blockEither && mapped[i] != (state == blockWritten) {
			return fmt.Errorf("block %d of %d: FIEMAP says mapped %t, want %t", i, len(n.blocks), mapped[i], !mapped[i])
		}
	}
	return nil
}

// holes asks seek which blocks of n have data.
func (p *treeProgram) holes(n *treeNode, seek func(off int64, whence int) (int64, error)) ([]bool, error) {
	data := make([]bool, len(n.blocks))
	for off := int64(0); off < int64(len(n.data)); {
		from, err := seek(off, simkernel.SeekData)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil || from < off {
			return nil, fmt.Errorf("SEEK_DATA at %d: %d, %w", off, from, err)
		}
		to, err := seek(from, simkernel.SeekHole)
		if err != nil || to <= from {
			return nil, fmt.Errorf("SEEK_HOLE at %d: %d, %w", from, to, err)
		}
		for i := from / p.bs; i*p.bs < to; i++ {
			data[i] = true
		}
		off = to
	}
	return data, nil
}

// judgeHoles compares which blocks have data with what was written to n. It is
// certain where nothing is in the page cache.
func (p *treeProgram) judgeHoles(n *treeNode, data []bool, certain bool) error {
	for i, state := range n.blocks {
		block := n.data[int64(i)*p.bs : min(int64(i+1)*p.bs, int64(len(n.data)))]
		nothing := bytes.Count(block, []byte{0}) == len(block)
		switch {
		case !data[i] && (!nothing || certain && state == blockWritten):
			return fmt.Errorf("block %d of %d was written, and SEEK says that it is a hole", i, len(n.blocks))
		case data[i] && certain && state == blockHole:
			return fmt.Errorf("block %d of %d was not written, and SEEK says that it has data", i, len(n.blocks))
		}
	}
	return nil
}

// compare compares the whole tree as processes see it.
func (p *treeProgram) compare() error {
	var first error
	p.root.walk(p.base, func(path string, n *treeNode) {
		if first == nil {
			if err := p.compareNode(path, n); err != nil {
				first = fmt.Errorf("%q: %w", path, err)
			}
		}
	})
	return first
}

func (p *treeProgram) compareNode(path string, n *treeNode) error {
	a, err := p.k.Stat(rootCred, path)
	if err != nil {
		return err
	}
	if err := n.compareStat(a); err != nil {
		return err
	}
	switch n.typ {
	case unix.S_IFDIR:
		names, err := p.k.Readdir(rootCred, path)
		slices.Sort(names)
		if n == p.root && p.base == "" {
			names = slices.DeleteFunc(names, func(s string) bool { return s == "lost+found" })
		}
		if want := slices.Sorted(maps.Keys(n.children)); err != nil || !slices.Equal(names, want) {
			return fmt.Errorf("has names %q, want %q: %w", names, want, err)
		}
		p.accessed(n, simkernel.RelativeAtime)
	case unix.S_IFLNK:
		if target, err := p.k.Readlink(rootCred, path); err != nil || target != n.target {
			return fmt.Errorf("leads to %q, want %q: %w", target, n.target, err)
		}
		p.accessed(n, simkernel.RelativeAtime)
		return nil
	case unix.S_IFREG:
		f, err := p.k.Open(rootCred, path, unix.O_RDONLY|unix.O_NOATIME, 0)
		if err != nil {
			return err
		}
		got := make([]byte, len(n.data)+10)
		k, err := f.ReadAt(got, 0)
		if err == nil {
			err = differ(got[:k], n.data)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return p.compareXattrs(path, n)
}

func (n *treeNode) compareStat(a simkernel.Attr) error {
	size := a.Size
	switch n.typ {
	case unix.S_IFREG:
		size = uint64(len(n.data))
	case unix.S_IFLNK:
		size = uint64(len(n.target))
	}
	got := fmt.Sprintf("mode %o, owner %d:%d, links %d, size %d, atime %v, mtime %v, ctime %v", a.Mode, a.UID, a.GID, a.Nlink, a.Size, a.Atime, a.Mtime, a.Ctime)
	want := fmt.Sprintf("mode %o, owner %d:%d, links %d, size %d, atime %v, mtime %v, ctime %v", n.typ|n.mode, n.uid, n.gid, n.nlink, size, n.atime, n.mtime, n.ctime)
	if got != want {
		return fmt.Errorf("is\n\t%s\nwant\n\t%s", got, want)
	}
	return nil
}

// allXattrs are the attributes that listxattr and getxattr show, ACLs among them.
func (n *treeNode) allXattrs() map[string]string {
	want := maps.Clone(n.xattrs)
	if n.access != nil {
		want[simkernel.ACLAccess] = string(disk.WireACL(n.access))
	}
	if n.deflt != nil {
		want[simkernel.ACLDefault] = string(disk.WireACL(n.deflt))
	}
	return want
}

func (p *treeProgram) compareXattrs(path string, n *treeNode) error {
	want := n.allXattrs()
	names, err := p.k.Listxattr(rootCred, path)
	if sorted := slices.Sorted(maps.Keys(want)); err != nil || !slices.Equal(names, sorted) {
		return fmt.Errorf("has xattrs %q, want %q: %w", names, sorted, err)
	}
	for name, value := range want {
		if got, err := p.k.Getxattr(rootCred, path, name); err != nil || string(got) != value {
			return fmt.Errorf("xattr %s is %q, want %q: %w", name, got, value, err)
		}
	}
	for name, acl := range map[string][]disk.ACLEntry{simkernel.ACLAccess: n.access, simkernel.ACLDefault: n.deflt} {
		if got, err := p.k.GetACL(rootCred, path, name); err != nil || !slices.Equal(got, toKernel(acl)) {
			return fmt.Errorf("%s is %v, want %v: %w", name, got, acl, err)
		}
	}
	return nil
}

// compareLookups compares how often the server thinks that the kernel knows each
// inode with the kernel's own count.
func (p *treeProgram) compareLookups() error {
	var got, want map[uint64]uint64
	for range 200 { // FORGET has no answer to wait for
		want, got = p.k.Lookups(), map[uint64]uint64{}
		nodes := p.s.raw.nodes
		nodes.mu.Lock()
		for ino, count := range nodes.counts {
			got[nodeOf(ino)] = count
		}
		nodes.mu.Unlock()
		if maps.Equal(got, want) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("lookups by node: the server counts %v, the kernel %v", got, want)
}

// onDevice compares with what the file system on dev has, when nothing is in
// memory any more.
func (p *treeProgram) onDevice(dev blockdev.Device) error {
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return err
	}
	defer fs.Close()
	var first error
	p.root.walk(p.base, func(path string, n *treeNode) {
		if first != nil {
			return
		}
		in, err := fs.Resolve("/"+path, false)
		if err == nil {
			t := func(t disk.Time) simkernel.Time { return simkernel.Time{Sec: t.Sec, Nsec: t.Nsec} }
			st := in.Stat()
			err = n.compareStat(simkernel.Attr{
				Size: uint64(st.Size), Mode: st.Mode, UID: st.UID, GID: st.GID, Nlink: st.Nlink,
				Atime: t(st.Atime), Mtime: t(st.Mtime), Ctime: t(st.Ctime),
			})
		}
		if err == nil && isRegular(n) {
			var data []byte
			if data, err = readWhole(fs, "/"+path); err == nil {
				err = differ(data, n.data)
			}
		}
		if err == nil && n.typ != unix.S_IFLNK {
			for name, value := range n.allXattrs() {
				if got, xerr := in.Getxattr(name); xerr != nil || string(got) != value {
					err = fmt.Errorf("xattr %s is %q, want %q: %w", name, got, value, xerr)
				}
			}
		}
		if err != nil {
			first = fmt.Errorf("%q on the device: %w", path, err)
		}
	})
	return first
}

package fsck

import (
	"fmt"
	"slices"
	"strings"

	"e4go/ext4/disk"
)

// name gives the problems their paths. Names are not kept while checking:
// once it is known which inodes are told of, all directories are read once more for the
// entries that lead to them and to their parents.
func (c *checker) name(problems []*Problem) error {
	if len(problems) == 0 || len(c.dirs.info) == 0 {
		return nil
	}
	n := naming{c: c, wanted: newBitset(c.inodes.used.n), names: map[disk.Ino]nameOf{}}
	for _, p := range problems {
		n.want(p.Place.Ino)
		n.want(p.Place.Dir)
		for _, o := range p.Owners {
			n.want(o.Ino)
		}
	}
	if n.count == 0 {
		return nil
	}
	if err := n.search(); err != nil {
		return err
	}
	for _, p := range problems {
		switch {
		case p.Place.Dir != 0:
			if dir := n.path(p.Place.Dir); dir != "" {
				p.Place.Path = join(dir, p.Place.Name)
			}
		case p.Place.Ino != 0:
			p.Place.Path = n.path(p.Place.Ino)
		}
		for i := range p.Owners {
			p.Owners[i].Path = n.path(p.Owners[i].Ino)
		}
		if p.Kind == linkCount && c.inodes.twice.has(uint64(p.Place.Ino)) {
			p.Want = dec(n.names[p.Place.Ino].entries)
		}
	}
	return nil
}

// maxNamed bounds the inodes that get a name, and so memory.
const maxNamed = 20_000

// nameOf is the first entry that leads to an inode, and how many do.
type nameOf struct {
	parent  disk.Ino
	name    string
	entries int
}

type naming struct {
	c      *checker
	wanted *bitset
	count  int
	names  map[disk.Ino]nameOf
}

// want asks for the name of inode ino and those of the directories above it.
func (n *naming) want(ino disk.Ino) {
	for ino != 0 && ino != disk.RootIno && n.count < maxNamed && uint64(ino) < n.wanted.n && !n.wanted.add(uint64(ino)) {
		n.count++
		d := n.c.dirs.of(ino)
		if d == nil {
			return
		}
		ino = disk.Ino(d.parent)
	}
}

// search reads the directories in the order of the device.
func (n *naming) search() error {
	c, t := n.c, &n.c.dirs
	w := &worker{c: c, ctx: c.ctx}
	c.revisits.Store(c.mayRevisit())
	for from := 0; from < len(t.order); from += dirBatch {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		batch := t.order[from:min(from+dirBatch, len(t.order))]
		if err := w.readAhead(batch); err != nil {
			return err
		}
		for _, i := range batch {
			if err := n.directory(w, i); err != nil {
				return fmt.Errorf("directory %d: %w", t.info[i].ino, err)
			}
		}
	}
	return nil
}

// directory looks through one directory, as far as it can be read.
func (n *naming) directory(w *worker, i uint32) error {
	c, t := n.c, &n.c.dirs
	w.dir.info = &t.info[i]
	if w.dir.info.flags&dirInline != 0 {
		raw, at, ok, err := w.readInode(w.dir.info.ino)
		if err != nil || !ok {
			return err
		}
		w.inode.raw, w.inode.ino, w.inode.at = raw, w.dir.info.ino, at
		w.inode.in = disk.DecodeInode(raw)
		value, _ := w.ibodyValue(disk.XattrSystem, disk.InlineDataName)
		n.entries(w.dir.info.ino, w.inode.in.Block[4:])
		n.entries(w.dir.info.ino, value)
		return nil
	}
	for _, r := range t.runs[t.first[i]:t.first[i+1]] {
		for k := range r.n {
			if w.stopped() {
				return nil
			}
			w.dir.l, w.dir.blk = uint64(r.l+k), r.p+disk.PBlock(k)
			if uint64(w.dir.blk) >= c.blocks {
				continue
			}
			if w.seenOften(w.dir.blk) {
				return nil
			}
			b, err := w.dirBlock()
			if err != nil {
				return err
			}
			if b != nil {
				n.entries(w.dir.info.ino, b)
			}
		}
	}
	return nil
}

// entries notes the names in area that are wanted.
func (n *naming) entries(dir disk.Ino, area []byte) {
	for off := 0; off < len(area); {
		if problem, _ := badRecord(area, off, n.c.bs, false); problem != "" {
			return
		}
		e := disk.DecodeDirent(area[off:], n.c.bs)
		name := area[off+disk.DirentHeaderSize:][:e.NameLen]
		off += e.RecLen
		if e.Ino == 0 || uint64(e.Ino) >= n.wanted.n || !n.wanted.has(uint64(e.Ino)) || disk.IsDot(name) {
			continue
		}
		have, ok := n.names[e.Ino]
		have.entries++
		if d := n.c.dirs.of(e.Ino); !ok || d != nil && disk.Ino(d.parent) == dir {
			have.parent, have.name = dir, string(name)
		}
		n.names[e.Ino] = have
	}
}

// path is where inode ino is, "" if that is not known.
func (n *naming) path(ino disk.Ino) string {
	var parts []string
	for range disk.MaxNameLen * 4 { // deeper than that are only loops
		if ino == disk.RootIno {
			slices.Reverse(parts)
			return "/" + strings.Join(parts, "/")
		}
		have, ok := n.names[ino]
		if !ok || have.name == "" {
			return ""
		}
		parts = append(parts, have.name)
		ino = have.parent
	}
	return ""
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

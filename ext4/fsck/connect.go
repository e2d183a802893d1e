package fsck

import (
	"fmt"

	"e4go/ext4/disk"
)

// passTree is pass 3: whether each directory hangs on the root, and whether
// its .. says so.
func (c *checker) passTree() error {
	t := &c.dirs
	c.begin(PassTree, 1)
	root := t.of(disk.RootIno)
	if !c.inodes.used.has(uint64(disk.RootIno)) {
		c.rep.add(treeNoRoot, Problem{Place: Place{Ino: disk.RootIno}})
	}
	if root != nil {
		root.flags |= dirDone
	}
	for i := range t.info {
		if d := &t.info[i]; c.orphanDir(d) {
			d.flags |= dirDone
			if parent := t.of(d.dotdot); parent != nil && parent.seen > 0 {
				parent.seen-- // its ..
			}
		}
	}
	var way []*dirInfo
	for i := range t.info {
		if i%4096 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		way = c.climb(&t.info[i], way[:0])
	}
	for i := range t.info {
		c.checkParent(&t.info[i])
	}
	c.checkLostFound()
	c.step(1)
	return nil
}

// orphanDir reports whether d was removed while somebody had it open: the next mount deletes
// it, and no entry leads to it until then.
func (c *checker) orphanDir(d *dirInfo) bool {
	return c.opts.Replay && d.links == 0 && d.parent == 0 && c.inodes.orphan.has(uint64(d.ino))
}

// climb follows the parents of d to one that is known to lead to the root, and
// tells where that fails. Each directory is passed once.
func (c *checker) climb(d *dirInfo, way []*dirInfo) []*dirInfo {
	for d.flags&dirDone == 0 {
		if d.flags&dirOnWay != 0 {
			c.rep.add(treeLoop, Problem{Place: Place{Ino: d.ino}})
			break
		}
		d.flags |= dirOnWay
		way = append(way, d)
		parent := c.dirs.of(disk.Ino(d.parent))
		if parent == nil {
			c.unconnected(d)
			break
		}
		d = parent
	}
	for _, d := range way {
		d.flags = d.flags&^dirOnWay | dirDone
	}
	return way
}

func (c *checker) unconnected(d *dirInfo) {
	p := Problem{Place: Place{Ino: d.ino}, Have: "missing"}
	if d.flags&dirHasDotDot != 0 {
		p.Have = dec(d.dotdot)
		p.classes = []Class{0x030003, 0x030005}
	}
	c.rep.add(treeUnconnected, p)
}

// checkParent compares the .. of d with the directory that has an entry for it.
func (c *checker) checkParent(d *dirInfo) {
	if d.parent == 0 || d.flags&dirHasDotDot != 0 && d.dotdot == disk.Ino(d.parent) {
		return
	}
	have := "missing"
	if d.flags&dirHasDotDot != 0 {
		have = dec(d.dotdot)
	}
	c.rep.add(treeDotDot, Problem{Place: Place{Ino: d.ino}, Have: have, Want: dec(d.parent)})
}

// lostFoundName is the directory that e2fsck puts into what it finds.
const lostFoundName = "lost+found"

func (c *checker) checkLostFound() {
	ino := disk.Ino(c.lostFound.Load())
	if ino == 0 {
		if c.dirs.of(disk.RootIno) != nil {
			c.rep.add(treeNoLostFound, Problem{Place: Place{Ino: disk.RootIno}})
		}
		return
	}
	d := c.dirs.of(ino)
	switch {
	case d == nil:
		c.rep.add(treeLostFound, Problem{Place: Place{Ino: ino}, Have: fmt.Sprintf("a %s", c.inodes.typeOf(ino))})
	case d.flags&dirInline != 0:
		c.rep.add(treeLostFound, Problem{Place: Place{Ino: ino}, Have: "an inline directory"})
	case c.policyOf(ino) != noPolicy:
		c.rep.add(treeLostFound, Problem{Place: Place{Ino: ino}, Have: "encrypted"})
	}
}

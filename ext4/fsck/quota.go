package fsck

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"e4go/ext4/disk"
)

// usage is what one id uses.
type usage struct {
	space, inodes uint64 // bytes, and how many
}

// quotaCounts is what pass 1 has counted for each id, of the types that the
// file system has quota files for.
type quotaCounts [disk.QuotaTypes]map[uint32]usage

// quotaEntryBytes is what an entry of such a map takes, about.
const quotaEntryBytes = 64

func (q *quotaCounts) add(c *checker, ids [disk.QuotaTypes]uint32, space, inodes uint64) {
	if !c.sb.ROCompat.Has(disk.ROCompatQuota) {
		return
	}
	for t := range q {
		if c.sb.QuotaIno(disk.QuotaType(t)) == 0 {
			continue
		}
		if q[t] == nil {
			q[t] = make(map[uint32]usage)
		}
		u := q[t][ids[t]]
		q[t][ids[t]] = usage{u.space + space, u.inodes + inodes}
	}
}

func (q *quotaCounts) merge(o *quotaCounts) {
	for t := range q {
		if q[t] == nil {
			q[t] = o[t]
			continue
		}
		for id, u := range o[t] {
			old := q[t][id]
			q[t][id] = usage{old.space + u.space, old.inodes + u.inodes}
		}
	}
}

// bytes is the memory that the counts take.
func (q *quotaCounts) bytes() (n int64) {
	for t := range q {
		n += int64(len(q[t])) * quotaEntryBytes
	}
	return n
}

// checkQuota compares the quota files with what was counted.
func (c *checker) checkQuota() error {
	if !c.sb.ROCompat.Has(disk.ROCompatQuota) {
		return nil
	}
	for t := range disk.QuotaTypes {
		ino := c.sb.QuotaIno(t)
		if ino == 0 {
			continue
		}
		q := quotaFileWalk{c: c, w: &worker{c: c, ctx: c.ctx}, kind: t, ino: ino, counted: c.scan.quota[t]}
		if err := q.check(); err != nil {
			return fmt.Errorf("%s quota: %w", t, err)
		}
	}
	return nil
}

// A quotaFileWalk goes through one quota file: a tree of four levels of blocks
// of 1 KiB, with the ids' entries in its leaves.
type quotaFileWalk struct {
	c       *checker
	w       *worker
	kind    disk.QuotaType
	ino     disk.Ino
	size    uint64
	runs    []run
	counted map[uint32]usage
	seen    map[uint32]bool
	visited *bitset // blocks of the file
	header  disk.QuotaHeader
}

func (q *quotaFileWalk) bad(have, want string) {
	q.c.rep.add(quotaFile, Problem{Place: Place{Ino: q.ino}, Have: have, Want: want})
}

func (q *quotaFileWalk) check() error {
	raw, _, ok, err := q.w.readInode(q.ino)
	if err != nil {
		return err
	}
	if !ok {
		q.bad(fmt.Sprintf("inode %d", q.ino), "one on the device")
		return nil
	}
	in := disk.DecodeInode(raw)
	if in.Mode.Type() != disk.ModeReg || in.Links == 0 {
		q.bad(fmt.Sprintf("mode %#o with %d links", uint16(in.Mode), in.Links), "a regular file in use")
		return nil
	}
	q.size = in.Size
	if q.runs, err = q.w.runs(q.ino, &in); err != nil {
		return err
	}
	head, ok, err := q.block(0)
	if err != nil {
		return err
	}
	if !ok {
		q.bad("no first block", "the head of the file")
		return nil
	}
	if err, _ := disk.CheckQuotaHeader(q.kind, q.ino, head, q.size, 0).(*disk.CorruptError); err != nil {
		q.bad(err.Field+" is "+err.Have, err.Want)
		return nil
	}
	q.header = disk.DecodeQuotaHeader(head)
	q.seen = make(map[uint32]bool)
	q.visited = newBitset(uint64(q.header.Blocks))
	if err := q.tree(disk.QuotaTreeRoot, disk.QuotaTreeDepth); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(q.counted)) {
		if u := q.counted[id]; !q.seen[id] && u != (usage{}) {
			q.differs(id, usage{}, u)
		}
	}
	return nil
}

// differs tells that the file counts otherwise than the checker.
func (q *quotaFileWalk) differs(id uint32, have, want usage) {
	text := func(u usage) string { return fmt.Sprintf("%d bytes in %d inodes", u.space, u.inodes) }
	q.c.rep.add(quotaUsage, Problem{Place: Place{Ino: q.ino, Off: int(id)}, Number: uint64(id), Have: text(have), Want: text(want)})
}

// block returns block n of the file, in units of [disk.QuotaBlockSize]. ok is false
// where there is none.
func (q *quotaFileWalk) block(n uint64) (b []byte, ok bool, err error) {
	at := n * disk.QuotaBlockSize
	l := at >> q.c.bits
	for _, r := range q.runs {
		if l < r.l || l >= r.l+r.n {
			continue
		}
		b = make([]byte, disk.QuotaBlockSize)
		if r.unwritten {
			return b, true, nil
		}
		p := r.p + disk.PBlock(l-r.l)
		if uint64(p) >= q.c.blocks {
			return nil, false, nil
		}
		err := q.c.readAt(int64(p)<<q.c.bits+int64(at&uint64(q.c.bs-1)), b)
		if errors.Is(err, errBeyond) {
			return nil, false, nil
		}
		return b, err == nil, err
	}
	return nil, false, nil
}

// tree goes through block n, which is depth levels above the leaves. No block is
// visited twice.
func (q *quotaFileWalk) tree(n uint32, depth int) error {
	if err := q.c.ctx.Err(); err != nil {
		return err
	}
	if n >= q.header.Blocks || q.visited.add(uint64(n)) {
		if depth == 0 && n < q.header.Blocks {
			return nil // a leaf holds the entries of several ids, each of which leads to it
		}
		q.bad(fmt.Sprintf("a reference to block %d", n), fmt.Sprintf("one of %d, once", q.header.Blocks))
		return nil
	}
	b, ok, err := q.block(uint64(n))
	if err != nil {
		return err
	}
	if !ok {
		q.bad(fmt.Sprintf("no block %d", n), "a part of the tree")
		return nil
	}
	if depth == 0 {
		disk.QuotaLeaf(b, func(e disk.QuotaEntry) bool {
			q.entry(e)
			return true
		})
		return nil
	}
	for i := range disk.QuotaRefs {
		if ref := disk.QuotaRef(b, i); ref != 0 {
			if err := q.tree(ref, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *quotaFileWalk) entry(e disk.QuotaEntry) {
	if q.seen[e.ID] {
		q.bad(fmt.Sprintf("two entries for %s %d", q.kind, e.ID), "one")
		return
	}
	q.seen[e.ID] = true
	if have, want := (usage{e.Space, e.Inodes}), q.counted[e.ID]; have != want {
		q.differs(e.ID, have, want)
	}
}

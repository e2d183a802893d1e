package fsck

import (
	"cmp"
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
// of 1 KiB, one for each byte of an id, with the ids' entries in its leaves.
type quotaFileWalk struct {
	c       *checker
	w       *worker
	kind    disk.QuotaType
	ino     disk.Ino
	runs    []run
	counted map[uint32]usage
	entries map[uint32]quotaPlace
	trees   *bitset // blocks of the file that have references
	leaves  *bitset // blocks that have entries
	header  disk.QuotaHeader
}

// quotaPlace says which leaf the entry of an id is in, and whether the tree leads there.
type quotaPlace struct {
	leaf uint32
	led  bool
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
	if err, _ := disk.CheckQuotaHeader(q.kind, q.ino, head, in.Size, 0).(*disk.CorruptError); err != nil {
		q.bad(err.Field+" is "+err.Have, err.Want)
		return nil
	}
	q.header = disk.DecodeQuotaHeader(head)
	q.entries = make(map[uint32]quotaPlace)
	q.trees, q.leaves = newBitset(uint64(q.header.Blocks)), newBitset(uint64(q.header.Blocks))
	if err := q.tree(disk.QuotaTreeRoot, disk.QuotaTreeDepth, 0); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(q.entries)) {
		if p := q.entries[id]; !p.led {
			q.bad(fmt.Sprintf("an entry for %s %d in block %d", q.kind, id, p.leaf), "a reference to it")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(q.counted)) {
		if _, ok := q.entries[id]; !ok && q.counted[id] != (usage{}) {
			q.differs(id, usage{}, q.counted[id])
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
	i, found := slices.BinarySearchFunc(q.runs, l, func(r run, l uint64) int { return cmp.Compare(r.l, l) })
	if !found {
		i--
	}
	if i < 0 || l-q.runs[i].l >= q.runs[i].n {
		return nil, false, nil
	}
	b = make([]byte, disk.QuotaBlockSize)
	r := q.runs[i]
	if r.unwritten {
		return b, true, nil
	}
	p := r.p + disk.PBlock(l-r.l)
	if uint64(p) >= q.c.blocks {
		return nil, false, nil
	}
	err = q.c.readAt(int64(p)<<q.c.bits+int64(at&uint64(q.c.bs-1)), b)
	if errors.Is(err, errBeyond) {
		return nil, false, nil
	}
	return b, err == nil, err
}

// tree goes through block n, which is depth levels above the leaves, for ids that
// begin with the bytes of prefix. No block is read twice.
func (q *quotaFileWalk) tree(n uint32, depth int, prefix uint32) error {
	if err := q.c.ctx.Err(); err != nil {
		return err
	}
	if n < disk.QuotaTreeRoot || n >= q.header.Blocks || q.leaves.has(uint64(n)) || q.trees.add(uint64(n)) {
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
	for i := range disk.QuotaRefs {
		ref := disk.QuotaRef(b, i)
		if ref == 0 {
			continue
		}
		if id := prefix<<8 | uint32(i); depth > 1 {
			err = q.tree(ref, depth-1, id)
		} else {
			err = q.leaf(ref, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaf looks for the entry of id in block n, which other ids may lead to as well.
func (q *quotaFileWalk) leaf(n, id uint32) error {
	if n <= disk.QuotaTreeRoot || n >= q.header.Blocks || q.trees.has(uint64(n)) {
		q.bad(fmt.Sprintf("a reference to block %d for %s %d", n, q.kind, id), fmt.Sprintf("one of %d, with entries", q.header.Blocks))
		return nil
	}
	if !q.leaves.add(uint64(n)) {
		b, ok, err := q.block(uint64(n))
		if err != nil {
			return err
		}
		if !ok {
			q.bad(fmt.Sprintf("no block %d", n), "a part of the tree")
			return nil
		}
		disk.QuotaLeaf(b, func(e disk.QuotaEntry) bool {
			q.entry(n, e)
			return true
		})
	}
	p, ok := q.entries[id]
	if !ok || p.leaf != n {
		q.bad(fmt.Sprintf("no entry for %s %d in block %d", q.kind, id, n), "one, as the tree leads there")
		return nil
	}
	q.entries[id] = quotaPlace{leaf: n, led: true}
	return nil
}

func (q *quotaFileWalk) entry(leaf uint32, e disk.QuotaEntry) {
	if _, ok := q.entries[e.ID]; ok {
		q.bad(fmt.Sprintf("two entries for %s %d", q.kind, e.ID), "one")
		return
	}
	q.entries[e.ID] = quotaPlace{leaf: leaf}
	if have, want := (usage{e.Space, e.Inodes}), q.counted[e.ID]; have != want {
		q.differs(e.ID, have, want)
	}
}

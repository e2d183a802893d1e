package simkernel

import (
	"slices"
	"sync"

	"e4go/iomap"
)

// recordSize is what a cached mapping counts against the limit, bytes.
const recordSize = 32

// mapCache is an inode's cache of mappings (fs/fuse/fuse_iomap_cache.c): what
// the server has upserted, for reads and, once it has sent another kind of
// write mapping than PURE_OVERWRITE, for writes.
type mapCache struct {
	mu        sync.Mutex
	exists    bool            // guarded by mu: an upsert has succeeded
	read      []iomap.Mapping // guarded by mu: in order, without overlap
	write     []iomap.Mapping // guarded by mu
	writeUsed bool            // guarded by mu
	seq       uint64          // guarded by mu: the validity counter; 0 before the first upsert
}

// lookup returns the mapping to use for op at pos, as a reply, and the
// validity counter that goes with it.
func (c *mapCache) lookup(op iomap.Op, pos uint64) (iomap.Reply, uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := find(c.read, pos)
	if !ok {
		return iomap.Reply{}, 0, false
	}
	reply := iomap.Reply{Read: r, Write: iomap.Overwrite(r)}
	if op.IsWrite() && c.writeUsed {
		w, ok := find(c.write, pos)
		if !ok {
			return iomap.Reply{}, 0, false
		}
		reply.Write = w
	}
	_, dst := iomap.Consumed(op, reply)
	switch {
	case op.IsWrite() && dst.Type == iomap.TypeHole && op&(iomap.OpZero|iomap.OpUnshare) == 0,
		dst.Type == iomap.TypeDelalloc && op&(iomap.OpDirect|iomap.OpWriteback) != 0:
		return iomap.Reply{}, 0, false
	}
	return reply, c.seq, true
}

func find(tree []iomap.Mapping, pos uint64) (iomap.Mapping, bool) {
	i, ok := slices.BinarySearchFunc(tree, pos, func(m iomap.Mapping, pos uint64) int {
		switch {
		case m.Covers(pos):
			return 0
		case m.Offset > pos:
			return 1
		}
		return -1
	})
	if !ok {
		return iomap.Mapping{}, false
	}
	return tree[i], true
}

// valid reports whether a mapping that was looked up at counter seq still
// holds. One that came straight from a BEGIN has 0 and is never questioned.
func (c *mapCache) valid(seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return seq == 0 || seq == c.seq
}

func (c *mapCache) has() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exists
}

// upsert puts u in. A tree that is past limit bytes is dropped whole first.
func (c *mapCache) upsert(u iomap.Upsert, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.exists {
		c.exists, c.seq = true, 1
	}
	if u.Read.Type != iomap.TypeNoCache {
		c.read = put(c.read, u.Read, limit)
		c.seq++
	}
	switch u.Write.Type {
	case iomap.TypeNoCache:
		return
	case iomap.TypePureOverwrite:
		if !c.writeUsed {
			return
		}
	}
	c.writeUsed = true
	c.write = put(c.write, u.Write, limit)
	c.seq++
}

func put(tree []iomap.Mapping, m iomap.Mapping, limit int) []iomap.Mapping {
	tree, _ = cut(tree, m.Offset, m.Length)
	if len(tree)*recordSize > limit {
		tree = tree[:0]
	}
	i, _ := slices.BinarySearchFunc(tree, m.Offset, func(x iomap.Mapping, off uint64) int {
		if x.Offset < off {
			return -1
		}
		return 1
	})
	tree = slices.Insert(tree, i, m)
	if i+1 < len(tree) && follows(tree[i], tree[i+1]) {
		tree[i].Length += tree[i+1].Length
		tree = slices.Delete(tree, i+1, i+2)
	}
	if i > 0 && follows(tree[i-1], tree[i]) {
		tree[i-1].Length += tree[i].Length
		tree = slices.Delete(tree, i, i+1)
	}
	return tree
}

// follows reports whether b goes on where a ends, in the file and on the device.
func follows(a, b iomap.Mapping) bool {
	if a.Type != b.Type || a.Flags != b.Flags || a.Dev != b.Dev || a.Offset+a.Length != b.Offset {
		return false
	}
	return a.Addr == iomap.NullAddr && b.Addr == iomap.NullAddr || a.Addr != iomap.NullAddr && a.Addr+a.Length == b.Addr
}

// cut removes [off, off+length) from tree, length may be [iomap.ToEOF].
func cut(tree []iomap.Mapping, off, length uint64) (out []iomap.Mapping, changed bool) {
	end := off + length
	if length == iomap.ToEOF || end < off {
		end = iomap.ToEOF
	}
	for _, m := range tree {
		mEnd := m.Offset + m.Length
		if mEnd <= off || m.Offset >= end {
			out = append(out, m)
			continue
		}
		changed = true
		if m.Offset < off {
			head := m
			head.Length = off - m.Offset
			out = append(out, head)
		}
		if mEnd > end {
			tail := m
			tail.Offset, tail.Length = end, mEnd-end
			if tail.Addr != iomap.NullAddr {
				tail.Addr += end - m.Offset
			}
			out = append(out, tail)
		}
	}
	return out, changed
}

// invalidate drops the ranges.
func (c *mapCache) invalidate(inv iomap.Inval) {
	c.mu.Lock()
	defer c.mu.Unlock()
	drop := func(tree []iomap.Mapping, r iomap.Range) []iomap.Mapping {
		if r.Length == 0 {
			return tree
		}
		if r.Offset == 0 && r.Length == iomap.ToEOF {
			return nil // a whole tree is dropped without moving the counter, as the kernel read does
		}
		out, changed := cut(tree, r.Offset, r.Length)
		if changed {
			c.seq++
		}
		return out
	}
	c.read = drop(c.read, inv.Read)
	c.write = drop(c.write, inv.Write)
}

package mkfs

import "slices"

// kept is what a source needs to open a file again when it has gone on. There may
// be one for each of millions of files: no path is kept, and nothing with a pointer.
type kept struct {
	key    uint64 // the source's own, as is sub
	sub    uint32
	origin nodeID // the node that the source named; another may have its contents by now
	from   uint16 // in tree.keepers
	sparse bool
}

// A keeper makes contents again from what was kept of them.
type keeper interface {
	content(path string, size int64, k kept) Content
}

// keepable is [Content] of which a few numbers are enough to make it again.
type keepable interface {
	Content
	keep() (from keeper, key uint64, sub uint32)
}

// others keeps contents that are not keepable, by their number.
type others struct{ list []Content }

func (o *others) content(_ string, _ int64, k kept) Content { return o.list[k.key] }

// keep lets the contents of a node wait.
func (f *Builder) keep(id nodeID, c Content) {
	var from keeper
	k := kept{origin: id, sparse: c.Sparse()}
	if again, ok := c.(keepable); ok {
		from, k.key, k.sub = again.keep()
	} else {
		from, k.key = &f.others, uint64(len(f.others.list))
		f.others.list = append(f.others.list, c)
	}
	i := slices.Index(f.t.keepers, from)
	if i < 0 {
		i = len(f.t.keepers)
		f.t.keepers = append(f.t.keepers, from)
	}
	k.from = uint16(i)
	n := f.t.node(id)
	n.detail = f.t.kept.add(k)
	n.state |= nodeWaits
}

// keptContent returns the contents of a node that waits.
func (f *Builder) keptContent(id nodeID) Content {
	n := f.t.node(id)
	k := f.t.kept.at(n.detail)
	return f.t.keepers[k.from].content(f.t.path(k.origin)[1:], n.size, *k)
}

package mkfs

import "e4go/ext4/disk"

// forget removes a node, and gives back the blocks of what has no other name.
func (f *Builder) forget(id nodeID) {
	f.lastID = 0 // it may be gone, or found in another place
	var drop func(nodeID)
	drop = func(id nodeID) {
		n := f.t.node(id)
		for c := n.child; c != 0; c = f.t.node(c).next {
			drop(c)
		}
		n.state |= nodeDead
		switch {
		case n.state&nodeAlias != 0:
			f.t.node(f.t.target(id)).links--
		case n.links > 1 && n.mode.Type() != disk.ModeDir:
			f.promote(id)
		default:
			f.release(n)
		}
	}
	drop(id)
	f.t.remove(id)
}

// promote makes another name of an inode the one that owns it.
func (f *Builder) promote(id nodeID) {
	t := f.t
	if f.aliases == nil {
		f.aliases = make(map[nodeID][]nodeID)
		for i := range nodeID(t.nodes.n) {
			if n := t.node(i); n.state&nodeAlias != 0 && n.state&nodeDead == 0 {
				to := nodeID(n.where)
				f.aliases[to] = append(f.aliases[to], i)
			}
		}
	}
	var heir nodeID
	var rest []nodeID
	for _, a := range f.aliases[id] {
		switch n := t.node(a); {
		case n.state&nodeAlias == 0 || n.state&nodeDead != 0 || nodeID(n.where) != id:
		case heir == 0:
			heir = a
		default:
			n.where = uint64(heir)
			rest = append(rest, a)
		}
	}
	delete(f.aliases, id)
	f.aliases[heir] = rest
	old, h := *t.node(id), t.node(heir)
	place := *h
	*h = old
	h.name, h.nameLen, h.parent, h.next, h.prev = place.name, place.nameLen, place.parent, place.next, place.prev
	h.state &^= nodeDead
	h.links--
	t.node(id).detail = 0
	f.sums.move(id, heir)
}

// release gives back the blocks of a file that was written and is replaced.
func (f *Builder) release(n *node) {
	if f.v == nil || n.mode.Type() != disk.ModeReg {
		return
	}
	if n.blocks > 0 {
		f.w.release(run{disk.PBlock(n.where), disk.PBlock(n.where) + disk.PBlock(n.blocks)})
	}
	if n.detail == 0 || n.state&nodeWaits != 0 {
		return
	}
	d := f.t.details.at(n.detail)
	for _, r := range d.taken {
		f.w.release(r)
	}
	if d.iblock != nil {
		return
	}
	for _, e := range d.extents {
		f.w.release(run{e.Start, e.Start + disk.PBlock(e.Len)})
	}
}

// whiteout removes what earlier sources have: the name itself, or what is in a
// directory. What the source at hand has named stays, in whatever order it
// says so.
func (f *Builder) whiteout(e *Entry) error {
	var id nodeID
	var err error
	if e.Opaque {
		id, err = f.existing(e.Path)
	} else {
		id, err = f.lookup(e.Path)
	}
	switch {
	case err != nil: // it was not there
	case e.Opaque:
		f.clear(id)
	default:
		f.hide(id)
	}
	return nil
}

// clear removes from a directory what earlier sources have put into it.
func (f *Builder) clear(dir nodeID) {
	var next nodeID
	for c := f.t.node(dir).child; c != 0; c = next {
		next = f.t.node(c).next
		f.hide(c)
	}
}

// hide removes a name that earlier sources have, and what they have below it.
func (f *Builder) hide(id nodeID) {
	named := id >= f.first || f.touched[id]
	n := f.t.node(id)
	switch {
	case n.mode.Type() != disk.ModeDir:
		if !named {
			f.forget(id)
		}
	case named || id == rootNode || id == lostFoundNode:
		f.clear(id)
	case f.newBelow(id): // a directory that nobody has described
		f.clear(id)
		n.mode, n.uid, n.gid = disk.ModeDir|0o755, 0, 0
		n.xattrs, n.flags, n.project = 0, 0, 0
		n.state &^= nodeExplicit
	default:
		f.forget(id)
	}
}

// newBelow reports whether the source at hand has put anything into a directory.
func (f *Builder) newBelow(id nodeID) bool {
	for c := f.t.node(id).child; c != 0; c = f.t.node(c).next {
		if c >= f.first || f.touched[c] || f.newBelow(c) {
			return true
		}
	}
	return false
}

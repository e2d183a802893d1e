package mkfs

import (
	"e4go/ext4/disk"
)

// A mapping gives the blocks of a file their places, front to back.
type mapping struct {
	f  *Builder
	id nodeID

	places []run // whole clusters that are not used yet, the first from its start
	list   []disk.Extent

	// With bigalloc blocks of one cluster of the file share one of the device.
	last     int64       // the cluster of the file that was given a place last, or -1
	lastAt   disk.PBlock // its place
	blockMap *blockMap   // without extents
	taken    []run       // all places of blockMap
	iblock   disk.Inode  // i_block and i_blocks of blockMap
}

// newMapping takes places for a file that has data in spans.
func (f *Builder) newMapping(id nodeID, spans []span) (*mapping, error) {
	m := &mapping{f: f, id: id, last: -1}
	bits, cb := f.v.sb.BlockBits(), f.v.sb.ClusterBits()
	extents := f.v.sb.Incompat.Has(disk.IncompatExtents)
	var n uint64
	last := int64(-1)
	for _, s := range spans {
		first, end := s.start>>bits>>cb, (s.end-1)>>bits>>cb
		n += uint64(end - max(first, last+1) + 1)
		last = end
	}
	n <<= cb
	if !extents {
		n += f.v.pointerBlocksOf(spans)
		m.blockMap = f.v.newBlockMap(&m.iblock, m.nextBlock)
		m.blockMap.write = func(b disk.PBlock, data []byte) error {
			f.w.put(b, data) // behind the contents that were there before
			return nil
		}
	}
	if n == 0 {
		return m, nil
	}
	var err error
	m.places, err = f.w.take(n)
	if !extents {
		m.taken = append(m.taken, m.places...)
	}
	return m, err
}

// nextBlock takes one block of the places, for a map without extents.
func (m *mapping) nextBlock() (disk.PBlock, error) {
	if len(m.places) == 0 {
		return 0, errNoSpace
	}
	b := m.places[0].start
	m.places[0].start++
	if m.places[0].len() == 0 {
		m.places = m.places[1:]
	}
	return b, nil
}

// put writes whole blocks from block first of the file on.
func (m *mapping) put(first disk.LBlock, data []byte) error {
	bits := m.f.v.sb.BlockBits()
	for len(data) > 0 {
		at, n, err := m.place(first, uint64(len(data)>>bits))
		if err != nil {
			return err
		}
		m.f.w.put(at, data[:n<<bits])
		m.note(first, at, n)
		data = data[n<<bits:]
		first += disk.LBlock(n)
	}
	return nil
}

// place is where block first of the file goes, and how many of the n blocks
// from there on go behind it.
func (m *mapping) place(first disk.LBlock, n uint64) (disk.PBlock, uint64, error) {
	if m.blockMap != nil {
		at, err := m.blockMap.add(first)
		return at, 1, err
	}
	cb := m.f.v.sb.ClusterBits()
	cluster, within := int64(first>>cb), disk.PBlock(first&(1<<cb-1))
	if cluster == m.last {
		n = min(n, 1<<cb-uint64(within)) // to the end of the cluster
		return m.lastAt + within, n, nil
	}
	if len(m.places) == 0 {
		return 0, 0, errNoSpace
	}
	p := &m.places[0]
	at := p.start + within
	n = min(n, uint64(p.end-at))
	m.last = int64((uint64(first) + n - 1) >> cb)
	m.lastAt = (at + disk.PBlock(n) - 1) >> cb << cb
	p.start = min(m.lastAt+1<<cb, p.end)
	if p.len() == 0 {
		m.places = m.places[1:]
	}
	return at, n, nil
}

// note adds n blocks to the file's extents, or lengthens the last.
func (m *mapping) note(first disk.LBlock, at disk.PBlock, n uint64) {
	if k := len(m.list); k > 0 {
		e := &m.list[k-1]
		if uint64(e.Block)+uint64(e.Len) == uint64(first) && e.Start+disk.PBlock(e.Len) == at {
			more := min(n, disk.MaxExtentLen-uint64(e.Len))
			e.Len += uint16(more)
			n -= more
			first += disk.LBlock(more)
			at += disk.PBlock(more)
		}
	}
	if n > 0 {
		m.list = append(m.list, extents(first, []run{{at, at + disk.PBlock(n)}}, false)...)
	}
}

// finish notes in the tree where the file lies.
func (m *mapping) finish() error {
	n := m.f.t.node(m.id)
	one, ok := joined(m.list)
	if m.blockMap != nil && (!ok || one.len() > disk.DirectBlocks) {
		if err := m.blockMap.finish(); err != nil {
			return err
		}
		d := m.f.t.detailOf(m.id)
		d.iblock, d.sectors = &m.iblock.Block, m.blockMap.n<<(m.f.v.sb.BlockBits()-9)
		d.extents, d.taken = m.list, m.taken
		return nil
	}
	if ok {
		n.where, n.blocks = uint64(one.start), uint32(one.len())
		return nil
	}
	if len(m.list) > 0 {
		m.f.t.detailOf(m.id).extents = m.list
	}
	return nil
}

// joined is the one run that extents make that begin with block 0 of the
// file, are in order and lie one behind the other.
func joined(list []disk.Extent) (run, bool) {
	if len(list) == 0 {
		return run{}, false
	}
	r := run{list[0].Start, list[0].Start}
	for _, e := range list {
		if uint64(e.Block) != r.len() || e.Start != r.end {
			return run{}, false
		}
		r.end += disk.PBlock(e.Len)
	}
	return r, r.len() < 1<<32
}

// pointerBlocksOf is how many blocks of pointers the map of a file takes that
// has data in spans.
func (v *volume) pointerBlocksOf(spans []span) uint64 {
	bits := v.sb.BlockBits()
	per := int64(v.sb.BlockSize() / 4)
	var n uint64
	for level, first, reach := 1, int64(disk.DirectBlocks), per; level <= 3; level++ {
		// Blocks [first, first+reach) have level blocks of pointers above them, each of which covers span.
		for span := per; span <= reach; span *= per {
			last := int64(-1)
			for _, s := range spans {
				from, to := max(s.start>>bits, first), min((s.end-1)>>bits, first+reach-1)
				if from > to {
					continue
				}
				a, b := (from-first)/span, (to-first)/span
				n += uint64(b - max(a, last+1) + 1)
				last = b
			}
		}
		first += reach
		reach *= per
	}
	return n
}

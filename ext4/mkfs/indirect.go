package mkfs

import (
	"encoding/binary"

	"e4go/ext4/disk"
)

// A blockMap builds the indirect map of a file, block after block. Its blocks
// of pointers are taken from the same source as the file's own, each before
// the first block that it leads to, and written when they are full.
type blockMap struct {
	v    *volume
	in   *disk.Inode
	next func() (disk.PBlock, error)
	// pointer gives blocks of pointers, where they come from elsewhere; else nil.
	pointer func() (disk.PBlock, error)
	write   func(disk.PBlock, []byte) error // a block of pointers
	n       uint64                          // blocks taken, data and pointers

	// The pointer block of each level that is being filled.
	open [3]struct {
		at   disk.PBlock
		data []byte
		used bool
	}
}

func (v *volume) newBlockMap(in *disk.Inode, next func() (disk.PBlock, error)) *blockMap {
	return &blockMap{v: v, in: in, next: next, write: v.writeBlock}
}

var le = binary.LittleEndian

// add maps block b of the file, which must lie behind those before, and
// returns where it goes.
func (m *blockMap) add(b disk.LBlock) (disk.PBlock, error) {
	if b < disk.DirectBlocks {
		p, err := m.take()
		le.PutUint32(m.in.Block[4*b:], uint32(p))
		return p, err
	}
	per := uint64(m.v.sb.BlockSize() / 4)
	rest := uint64(b) - disk.DirectBlocks
	level, span := 1, per // levels of pointers, and the blocks they reach
	for rest >= span {
		rest -= span
		level, span = level+1, span*per
	}
	slot := m.in.Block[4*(disk.DirectBlocks+level-1):][:4]
	for ; level > 0; level-- {
		span /= per
		i := rest / span
		rest %= span
		block := &m.open[level-1]
		p := disk.PBlock(le.Uint32(slot))
		if p == 0 {
			if err := m.close(level - 1); err != nil {
				return 0, err
			}
			var err error
			if p, err = m.takePointer(); err != nil {
				return 0, err
			}
			le.PutUint32(slot, uint32(p))
			block.at, block.used = p, true
			if block.data == nil {
				block.data = make([]byte, m.v.sb.BlockSize())
			}
			clear(block.data)
		}
		slot = block.data[4*i:][:4]
	}
	p, err := m.take()
	le.PutUint32(slot, uint32(p))
	return p, err
}

func (m *blockMap) take() (disk.PBlock, error) {
	m.n++
	return m.next()
}

func (m *blockMap) takePointer() (disk.PBlock, error) {
	if m.pointer == nil {
		return m.take()
	}
	m.n++
	return m.pointer()
}

// close writes the pointer block of a level.
func (m *blockMap) close(level int) error {
	if b := &m.open[level]; b.used {
		b.used = false
		return m.write(b.at, b.data)
	}
	return nil
}

// finish writes what is left.
func (m *blockMap) finish() error {
	for level := range m.open {
		if err := m.close(level); err != nil {
			return err
		}
	}
	return nil
}

package fsck

import (
	"encoding/binary"
	"fmt"

	"e4go/ext4/disk"
)

// indirect goes through a map of blocks of numbers (process_block): the first
// 12 blocks of the file, then those that a tree of one, two and three levels names.
func (m *mapWalk) indirect() error {
	at := m.at.Off + disk.IBlockOffset
	for i := range disk.DirectBlocks {
		m.pointer(disk.PBlock(binary.LittleEndian.Uint32(m.in.Block[4*i:])), int64(i), m.at.Block, at+4*i)
	}
	l := uint64(disk.DirectBlocks)
	for level := 1; level <= 3; level++ {
		i := disk.DirectBlocks + level - 1
		err := m.numbers(disk.PBlock(binary.LittleEndian.Uint32(m.in.Block[4*i:])), l, level, m.at.Block, at+4*i)
		if err != nil {
			return err
		}
		l += uint64(1) << (uint(level) * (m.c.bits - 2))
	}
	if m.c.sb.CreatorOS == osHurd {
		if p := disk.PBlock(uint32(m.in.Version)); m.pointer(p, -4, m.at.Block, m.at.Off+0x24) {
			m.claim(m.c.cluster(p), 1, false) // of the translator: h_i_translator
		}
	}
	m.flushRun()
	m.lastInit = m.last // nothing here is unwritten
	return nil
}

// numbers goes through block b of numbers, on the given level above the
// file's blocks, for those from l on. Its number stands in block blk at byte off.
func (m *mapWalk) numbers(b disk.PBlock, l uint64, level int, blk disk.PBlock, off int) error {
	if b == 0 {
		return nil
	}
	c := m.c
	if !m.pointer(b, -int64(level), blk, off) {
		m.lost = true
		return nil
	}
	m.flushRun()
	lvl := &m.w.inode.nodes[level]
	if len(*lvl) != c.bs {
		*lvl = make([]byte, c.bs)
	}
	if !m.mayFollow(m.claim(c.cluster(b), 1, true), blk, off) {
		return nil
	}
	ok, err := m.load(b, *lvl, blk, off)
	if !ok || err != nil {
		return err
	}
	span := uint64(1) << (uint(level-1) * (c.bits - 2))
	buf := *lvl
	for i := 0; i < len(buf); i += 4 {
		p := disk.PBlock(binary.LittleEndian.Uint32(buf[i:]))
		if p != 0 {
			if level == 1 {
				m.pointer(p, int64(l), b, i)
			} else if err := m.numbers(p, l, level-1, b, i); err != nil {
				return err
			}
		}
		l += span
	}
	return nil
}

// pointer takes block p of the device as block l of the file; a negative l is
// the level of a block of numbers. It reports whether p is legal.
func (m *mapWalk) pointer(p disk.PBlock, l int64, blk disk.PBlock, off int) (ok bool) {
	if p == 0 {
		return false
	}
	c := m.c
	if m.previous != 0 && m.previous+1 != p && m.ino != disk.ResizeIno {
		m.fragmented = true
	}
	if k, want := m.judgePointer(p, l); k != nil {
		if m.illegal++; m.illegal > illegalShown {
			m.tooMany()
			return false
		}
		have := dec(p)
		if k != blockIllegal {
			have = dec(max(l, 0))
		}
		m.problem(k, blk, off, have, want)
		return false
	}
	if l < 0 {
		m.onMetadata(p, blk, off)
	}
	switch same := c.cbits > 0 && m.previous != 0 && c.cluster(p) == c.cluster(m.previous); {
	case m.ino == disk.ResizeIno:
		m.clusters++
	case same && l >= 0 && uint64(p)&(1<<c.cbits-1) == uint64(l)&(1<<c.cbits-1):
		if m.misaligned(uint64(l), p) {
			m.problem(blockMisaligned, blk, off, dec(l), dec(p))
		}
	case l < 0: // claimed when it is followed
		m.clusters++
	default:
		m.clusters++
		m.addToRun(c.cluster(p))
	}
	if l >= 0 {
		m.last = l
		if m.run != nil {
			m.run(uint64(l), p, 1, false)
		}
	}
	m.previous = p
	return true
}

// illegalShown is how many illegal numbers of one map are told of singly.
const illegalShown = 11

// tooMany says how many numbers are illegal: all further ones are one problem.
func (m *mapWalk) tooMany() {
	switch {
	case m.quiet:
	case m.tooManyIs == nil:
		m.tooManyIs = m.c.rep.add(blockTooMany, Problem{Place: m.at, Number: uint64(m.illegal)})
	default:
		m.tooManyIs.Number = uint64(m.illegal)
	}
}

// judgePointer returns what is wrong with block p as block l of the file, or nil.
func (m *mapWalk) judgePointer(p disk.PBlock, l int64) (k *Kind, want string) {
	c := m.c
	most := uint64(1) << (31 - c.sb.LogBlockSize)
	dirMost := int64(1) << (21 - c.sb.LogBlockSize)
	switch {
	case !c.legal(p):
		return blockIllegal, c.wantLegal()
	case m.isDir && !c.sb.Incompat.Has(disk.IncompatLargedir) && m.in.Size>>32 == 0 && l > dirMost:
		return blockTooBigDir, fmt.Sprintf("at most %d", dirMost)
	case m.isDir && m.clusters+1 >= most:
		return blockTooBigDir, fmt.Sprintf("fewer than %d blocks", most)
	case m.isReg && m.clusters+1 >= most:
		return blockTooBigFile, fmt.Sprintf("fewer than %d blocks", most)
	case !m.isDir && !m.isReg && l > 0:
		return blockTooBigLink, "0"
	}
	return nil, ""
}

// addToRun collects clusters that lie behind each other, to claim them at once.
func (m *mapWalk) addToRun(cluster uint64) {
	if m.pending > 0 && m.pendingAt+m.pending == cluster {
		m.pending++
		return
	}
	m.flushRun()
	m.pendingAt, m.pending = cluster, 1
}

func (m *mapWalk) flushRun() {
	if m.pending > 0 {
		m.claim(m.pendingAt, m.pending, false)
		m.pending = 0
	}
}

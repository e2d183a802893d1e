package ext4

import (
	"encoding/binary"
	"fmt"
	"math"

	"e4go/ext4/disk"
)

// A pointerPlace is where the number of a file's block stands: in i_block or
// in a block of numbers. Zero numbers lead nowhere.
type pointerPlace struct {
	n     disk.PBlock // the block of numbers; 0 is the inode
	data  []byte      // the numbers that stand there; not to be changed
	index int         // the one for the block
}

// place is where the number of block b stands. Blocks of numbers that are
// missing on the way are added.
func (h *Handle) place(in *Inode, b disk.LBlock) (pointerPlace, error) {
	if b < disk.DirectBlocks {
		return pointerPlace{data: in.disk.Block[:4*disk.DirectBlocks], index: int(b)}, nil
	}
	perBits := in.fs.sb.BlockBits() - 2
	level := uint(1)
	for ; level < 3 && uint64(b) >= indirectBase(int(level)+1, in.fs.sb.BlockBits()); level++ {
	}
	rel := uint64(b) - indirectBase(int(level), in.fs.sb.BlockBits())
	if rel>>(perBits*level) != 0 {
		return pointerPlace{}, in.errTooLarge((uint64(b) + 1) << in.fs.sb.BlockBits())
	}
	at := pointerPlace{data: in.disk.Block[:], index: disk.DirectBlocks + int(level) - 1}
	for below := level; below > 0; below-- {
		n, err := in.pointer(at.data, at.index, at.n, 0)
		if err != nil {
			return at, err
		}
		if n == 0 {
			if n, err = h.allocFor(in); err != nil {
				return at, err
			}
			h.fresh(kindIndirect, in, n)
			if err := h.setPointers(in, &at, at.index, run{n, 1}); err != nil {
				return at, err
			}
		}
		data, err := in.meta(kindIndirect, n, 0, nil)
		if err != nil {
			return at, err
		}
		at = pointerPlace{n: n, data: data, index: int(rel>>(perBits*(below-1))) & (1<<perBits - 1)}
	}
	return at, nil
}

// setPointers makes the numbers from index on those of the blocks of r; 0 for
// r.first makes them lead nowhere.
func (h *Handle) setPointers(in *Inode, p *pointerPlace, index int, r run) error {
	if p.n != 0 {
		data, err := h.edit(kindIndirect, in, p.n)
		if err != nil {
			return err
		}
		p.data = data
	}
	for i := range r.n {
		b := r.first + disk.PBlock(i)
		if r.first == 0 {
			b = 0
		}
		binary.LittleEndian.PutUint32(p.data[4*(index+int(i)):], uint32(b))
	}
	return nil
}

// lowBlocks is where blocks of files without extents, and of their maps, have
// to end: their numbers have 32 bits (EXT4_MAX_BLOCK_FILE_PHYS).
const lowBlocks = math.MaxUint32

// insertPointers maps the blocks from at on, which are a hole, to r.
func (h *Handle) insertPointers(in *Inode, at disk.LBlock, r run) error {
	if uint64(r.first)+r.n-1 > lowBlocks {
		panic(fmt.Sprintf("ext4: blocks from %d on for inode %d, which has no extents", r.first, in.ino))
	}
	for r.n > 0 {
		p, err := h.place(in, at)
		if err != nil {
			return err
		}
		n := min(r.n, uint64(len(p.data)/4-p.index))
		for i := range int(n) {
			if binary.LittleEndian.Uint32(p.data[4*(p.index+i):]) != 0 {
				return &disk.CorruptError{Struct: "block map of inode", Num: uint64(in.ino), Block: p.n, Off: 4 * (p.index + i),
					Field: fmt.Sprintf("block %d", uint64(at)+uint64(i)), Have: "mapped", Want: "a hole"}
			}
		}
		if err := h.setPointers(in, &p, p.index, run{r.first, n}); err != nil {
			return err
		}
		at, r.first, r.n = at+disk.LBlock(n), r.first+disk.PBlock(n), r.n-n
	}
	return nil
}

// removePointers unmaps the blocks [from, end) and gives them back, and with
// them the blocks of numbers in which none is left.
func (h *Handle) removePointers(in *Inode, from, end uint64) error {
	root := pointerPlace{data: in.disk.Block[:4*disk.DirectBlocks]}
	if _, err := h.clearPointers(in, &root, 0, 0, from, end); err != nil {
		return err
	}
	for level := 1; level <= 3; level++ {
		root := pointerPlace{data: in.disk.Block[:]}
		i := disk.DirectBlocks + level - 1
		n, err := in.pointer(root.data, i, in.block, in.off+disk.IBlockOffset)
		if err != nil {
			return err
		}
		base := indirectBase(level, in.fs.sb.BlockBits())
		if n == 0 || base >= end {
			continue
		}
		gone, err := h.clearTree(in, n, uint(level)-1, base, from, end)
		if err != nil {
			return err
		}
		if gone {
			if err := h.setPointers(in, &root, i, run{0, 1}); err != nil {
				return err
			}
		}
	}
	return nil
}

// clearTree is [Handle.clearPointers] for block of numbers n, and gives it back
// if nothing is left in it.
func (h *Handle) clearTree(in *Inode, n disk.PBlock, below uint, base, from, end uint64) (gone bool, err error) {
	data, err := in.meta(kindIndirect, n, 0, nil)
	if err != nil {
		return false, err
	}
	p := pointerPlace{n: n, data: data}
	gone, err = h.clearPointers(in, &p, below, base, from, end)
	if err == nil && gone {
		err = h.freeNode(in, n)
	}
	return gone, err
}

// clearPointers unmaps those of the blocks [from, end) that the numbers of p
// lead to, through below more levels. The first of them leads to block base. It
// reports whether all are zeros then.
func (h *Handle) clearPointers(in *Inode, p *pointerPlace, below uint, base, from, end uint64) (gone bool, err error) {
	shift := (in.fs.sb.BlockBits() - 2) * below
	first := (max(from, base) - base) >> shift
	var r run // blocks to be given back together
	free := func() error {
		if r.n == 0 {
			return nil
		}
		in.addBlocks(-int64(r.n))
		return h.free(r, in.Type() != disk.ModeReg)
	}
	for i := int(min(first, uint64(len(p.data)/4))); i < len(p.data)/4; i++ {
		at := base + uint64(i)<<shift
		if at >= end {
			break
		}
		n, err := in.pointer(p.data, i, p.n, 0)
		if err != nil {
			return false, err
		}
		if n == 0 {
			continue
		}
		if below > 0 {
			if gone, err := h.clearTree(in, n, below-1, at, from, end); err != nil {
				return false, err
			} else if !gone {
				continue
			}
		} else if r.n > 0 && r.first+disk.PBlock(r.n) == n {
			r.n++
		} else {
			if err := free(); err != nil {
				return false, err
			}
			r = run{n, 1}
		}
		if err := h.setPointers(in, p, i, run{0, 1}); err != nil {
			return false, err
		}
	}
	if err := free(); err != nil {
		return false, err
	}
	for i := range len(p.data) / 4 {
		if binary.LittleEndian.Uint32(p.data[4*i:]) != 0 {
			return false, nil
		}
	}
	return true, nil
}

package mkfs

import "e4go/ext4/disk"

// A blockRun collects blocks that lie behind each other, and writes them together.
type blockRun struct {
	v     *volume
	first disk.PBlock
	data  []byte
}

const runSize = 128 << 10 // bytes of one write

// block returns the block at, to be filled: zeros, or if it is the last one, what is there.
func (r *blockRun) block(at disk.PBlock) ([]byte, error) {
	bs := r.v.sb.BlockSize()
	end := r.first + disk.PBlock(len(r.data)/bs)
	if len(r.data) > 0 && at == end-1 {
		return r.data[len(r.data)-bs:], nil
	}
	if r.data == nil {
		r.data = make([]byte, 0, max(bs, runSize))
	}
	if at != end || len(r.data) == cap(r.data) {
		if err := r.flush(); err != nil {
			return nil, err
		}
		r.first = at
	}
	r.data = append(r.data, make([]byte, bs)...)
	return r.data[len(r.data)-bs:], nil
}

// flush writes what there is.
func (r *blockRun) flush() error {
	if len(r.data) == 0 {
		return nil
	}
	err := r.v.writeBlock(r.first, r.data)
	r.data = r.data[:0]
	return err
}

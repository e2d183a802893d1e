package fsck

import (
	"errors"
	"fmt"
	"io"

	"e4go/ext4/disk"
)

// errBeyond is the answer to a read behind the end of the device, which is the
// image's fault and not the device's.
var errBeyond = errors.New("behind the end of the device")

// read fills p, whole blocks long, from block b on. It fails with errBeyond, or
// with the device's error.
func (c *checker) read(b disk.PBlock, p []byte) error {
	if uint64(b) >= c.blocks || uint64(len(p))>>c.bits > c.blocks-uint64(b) {
		return errBeyond
	}
	return c.readAt(int64(b)<<c.bits, p)
}

// readAt fills p from byte at on, which the device has. It fails once the check is cancelled.
func (c *checker) readAt(at int64, p []byte) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	n, err := c.dev.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return errBeyond
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), at, err)
}

// legal reports whether b is a number that a file's block may have (and
// e2fsck: from s_first_data_block on, though the block there is the superblock's).
func (c *checker) legal(b disk.PBlock) bool {
	return uint64(b) >= uint64(c.sb.FirstDataBlock) && uint64(b) < c.sb.Blocks
}

// wantLegal is what legal wants, in words.
func (c *checker) wantLegal() string {
	return fmt.Sprintf("%d to %d", max(c.sb.FirstDataBlock, 1), c.sb.Blocks-1)
}

// cluster is the number of the cluster of block b, counted as bitmaps do.
func (c *checker) cluster(b disk.PBlock) uint64 {
	return (uint64(b) - uint64(c.sb.FirstDataBlock)) >> c.cbits
}

// clusterBlock is the first block of cluster n.
func (c *checker) clusterBlock(n uint64) disk.PBlock {
	return disk.PBlock(n<<c.cbits + uint64(c.sb.FirstDataBlock))
}

// clusters is how many clusters there are.
func (c *checker) clusters() uint64 {
	return (c.blocks - uint64(c.sb.FirstDataBlock) + 1<<c.cbits - 1) >> c.cbits
}

// cachedBlocks is how many blocks a worker keeps, of those that maps and xattrs
// lie in.
const cachedBlocks = 32

// A blockCache holds the last blocks that a worker read singly. A block that a
// caller holds stays until cachedBlocks others were read.
type blockCache struct {
	at   [cachedBlocks]disk.PBlock
	data [cachedBlocks][]byte
	next int
}

// block returns the contents of block b, which are good until some more were read.
func (w *worker) block(b disk.PBlock) ([]byte, error) {
	k := &w.cache
	for i, at := range k.at {
		if at == b && k.data[i] != nil {
			return k.data[i], nil
		}
	}
	i := k.next
	k.next = (i + 1) % cachedBlocks
	if k.data[i] == nil {
		k.data[i] = make([]byte, w.c.bs)
	}
	k.at[i] = b
	if err := w.c.read(b, k.data[i]); err != nil {
		k.at[i], k.data[i] = 0, nil
		return nil, err
	}
	return k.data[i], nil
}

package ext4

import (
	"e4go/ext4/disk"

	"github.com/maypok86/otter/v2"
)

// kind says what a cache entry is: what its number counts, and its type.
type kind uint8

const (
	kindInode    kind = iota // *Inode, by inode number
	kindGroup                // *groupBlock, by index of the descriptor block
	kindMapIndex             // *mapIndex, by block
	kindMapLeaf              // *mapLeaf, by block
	kindItable               // *block of the inode table
	kindBitmap               // *block of a bitmap
	kindIndirect             // *block of block numbers
	kindDir                  // *block of directory entries
	kindDxRoot               // *block that is the root of a hash tree
	kindDxInner              // *block that is an interior node of a hash tree
	kindXattr                // *block of xattrs
)

type cacheKey struct {
	kind kind
	n    uint64
}

// A cached value says how much memory it takes, in bytes.
type cached interface{ weight() uint32 }

// cache holds what was read and verified, up to a number of bytes. What it
// holds is clean: it may forget anything at any time.
type cache struct {
	c *otter.Cache[cacheKey, cached]
}

// cacheOverhead is about what an entry takes beside its value.
const cacheOverhead = 128

func newCache(bytes int64) *cache {
	return &cache{otter.Must(&otter.Options[cacheKey, cached]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(_ cacheKey, v cached) uint32 { return v.weight() + cacheOverhead },
	})}
}

func (c *cache) close() {
	c.c.InvalidateAll()
	c.c.StopAllGoroutines()
}

// get returns the value of type T under the key, if it is there.
func get[T cached](c *cache, k kind, n uint64) (T, bool) {
	v, ok := c.c.GetIfPresent(cacheKey{k, n})
	if !ok {
		var zero T
		return zero, false
	}
	return v.(T), true
}

func (c *cache) put(k kind, n uint64, v cached) { c.c.Set(cacheKey{k, n}, v) }

// A block is one block of metadata, verified as part of owner.
type block struct {
	data  []byte
	owner disk.Ino
}

func (b *block) weight() uint32 { return uint32(len(b.data)) }

// meta returns block n, which is of kind k and belongs to owner (0: to none).
// verify judges it once, when it enters the cache; a block that two inodes claim is
// judged for each.
func (fs *FS) meta(k kind, n disk.PBlock, owner disk.Ino, verify func(data []byte) error) ([]byte, error) {
	if b, ok := get[*block](fs.cache, k, uint64(n)); ok && b.owner == owner {
		return b.data, nil
	}
	data := make([]byte, fs.sb.BlockSize())
	if err := fs.readBlocks(data, n); err != nil {
		return nil, err
	}
	if verify != nil {
		if err := verify(data); err != nil {
			return nil, err
		}
	}
	fs.cache.put(k, uint64(n), &block{data, owner})
	return data, nil
}

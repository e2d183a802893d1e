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
	kindMapNode              // *block that is a node of an extent tree; only while writing
	kindOrphan               // *block of the orphan file; only while writing
	kindLink                 // the block of a symbolic link; is not cached
	kindQuota                // *block of a quota file; only while writing
	kindSuper                // the block of a backup of the superblock; is not cached
)

// isDir reports whether blocks of the kind are parts of directories.
func (k kind) isDir() bool { return k == kindDir || k == kindDxRoot || k == kindDxInner }

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

// drop forgets what is under the key.
func (c *cache) drop(k kind, n uint64) {
	// Most of what is dropped is not there, which to see costs much less.
	if _, ok := c.c.GetEntryQuietly(cacheKey{k, n}); ok {
		c.c.Invalidate(cacheKey{k, n})
	}
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
	if b := fs.live.get(n); b.data != nil {
		if b.kind == k && b.owner == owner || verify == nil {
			return b.data, nil
		}
		return b.data, verify(b.data)
	}
	if b, ok := get[*block](fs.cache, k, uint64(n)); ok && b.owner == owner {
		return b.data, nil
	}
	mark := fs.live.mark(n)
	data, err := fs.bytes(n)
	if err != nil {
		return nil, err
	}
	if verify != nil {
		if err := verify(data); err != nil {
			return nil, err
		}
	}
	fs.live.keep(n, mark, func() { fs.cache.put(k, uint64(n), &block{data, owner}) })
	return data, nil
}

// bytes returns block n as it was published last. They must not be changed.
func (fs *FS) bytes(n disk.PBlock) ([]byte, error) {
	for {
		mark := fs.live.mark(n)
		if b := fs.live.get(n); b.data != nil {
			return b.data, nil
		}
		data := make([]byte, fs.sb.BlockSize())
		err := fs.readBlocks(data, n)
		if fs.live.mark(n) == mark {
			return data, err
		}
		// It was published meanwhile, and may have been written to its place while it was read.
	}
}

// changes reports whether the update that in belongs to has changed block n.
func (in *Inode) changes(n disk.PBlock) bool {
	return in.tx != nil && in.tx.blocks[n] != nil
}

// bytes is [FS.bytes], with what the update has changed already.
func (in *Inode) bytes(n disk.PBlock) ([]byte, error) {
	if in.changes(n) {
		return in.tx.blocks[n].data, nil
	}
	return in.fs.bytes(n)
}

// keep caches v, which was made of block n since mark.
func (in *Inode) keep(k kind, n disk.PBlock, mark uint32, v cached) {
	if !in.changes(n) {
		in.fs.live.keep(n, mark, func() { in.fs.cache.put(k, uint64(n), v) })
	}
}

// meta is [FS.meta] for a block that belongs to the inode. In an update, what
// that has changed already is seen, and its checksum not looked at.
func (in *Inode) meta(k kind, n disk.PBlock, owner disk.Ino, verify func(data []byte) error) ([]byte, error) {
	if in.changes(n) {
		return in.tx.blocks[n].data, nil
	}
	return in.fs.meta(k, n, owner, verify)
}

package mkfs

import (
	"crypto/sha256"

	"e4go/ext4/disk"
)

// A ManifestEntry is a name of a file system that was made, and where its
// contents lie.
type ManifestEntry struct {
	Path    string // with a slash before it
	Ino     disk.Ino
	Mode    disk.Mode
	Size    int64
	Links   uint32
	SHA256  *[sha256.Size]byte // of a regular file, unless its holes are too large
	Sparse  *[sha256.Size]byte // of one whose holes are: a SHA-256 that leaves out blocks of zeros, see docs/JSON.md
	Target  string             // of a symbolic link
	Inline  bool               // the contents stand in the inode
	Extents []disk.Extent      // of a regular file
}

// Manifest calls fn for each name, in order, after [Builder.Write]. [Builder.HashFiles] must
// have come before that.
func (f *Builder) Manifest(fn func(*ManifestEntry) error) error {
	return f.t.walk(func(id nodeID) error {
		to := f.t.target(id)
		n := f.t.node(to)
		e := &ManifestEntry{Path: f.t.path(id), Ino: n.ino, Mode: n.mode, Size: n.size, Links: n.links}
		switch n.mode.Type() {
		case disk.ModeReg:
			if sum, ok := f.sums.plains[to]; ok {
				e.SHA256 = &sum
			} else if sum, ok := f.sums.sparses[to]; ok && n.size > 0 {
				e.Sparse = &sum
			} else {
				sum = sha256.Sum256(nil) // it is empty
				e.SHA256 = &sum
			}
			e.Inline, e.Extents = n.state&nodeInline != 0, f.t.extentsOf(n)
		case disk.ModeLink:
			e.Target = string(f.t.targetOf(n))
		}
		return fn(e)
	})
}

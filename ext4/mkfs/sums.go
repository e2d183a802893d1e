package mkfs

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"e4go/ext4/disk"
)

// sums tells contents apart: by a crc32c each, which the UUID is derived
// from, and by a SHA-256 each where a manifest is wanted.
type sums struct {
	crc  uint32
	at   int64 // up to where the crc goes
	sha  hash.Hash
	list map[nodeID][sha256.Size]byte // nil: not wanted
}

// add sums a part of a file, behind those before.
func (s *sums) add(off int64, data []byte) {
	if off != s.at {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(off))
		s.crc = disk.CRC32C(s.crc, b[:])
		s.skip(off)
	}
	s.crc = disk.CRC32C(s.crc, data)
	if s.sha != nil {
		s.sha.Write(data)
	}
	s.at = off + int64(len(data))
}

// skip sums the zeros of a hole.
func (s *sums) skip(to int64) {
	for s.sha != nil && s.at < to {
		n := min(to-s.at, int64(len(zeroMiB)))
		s.sha.Write(zeroMiB[:n])
		s.at += n
	}
	s.at = to
}

// end stores the sums of a file and begins the next.
func (s *sums) end(f *Builder, id nodeID) {
	n := f.t.node(id)
	s.skip(n.size)
	n.crc = s.crc
	if s.list != nil {
		s.list[id] = [sha256.Size]byte(s.sha.Sum(nil))
		s.sha.Reset()
	}
	s.crc, s.at = 0, 0
}

// digest is a hash of all that the tree says, contents by their SHA-256 or,
// if not full, by their crc32c.
func (f *Builder) digest(full bool) [sha256.Size]byte {
	h := sha256.New()
	var b []byte
	u := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	bytes := func(p []byte) { u(uint64(len(p))); b = append(b, p...) }
	keys := make([][]byte, len(f.t.xattrs))
	for i, x := range f.t.xattrs {
		if x != nil {
			sum := sha256.Sum256([]byte(x.key()))
			keys[i] = sum[:]
		}
	}
	depth := func(id nodeID) (d uint64) {
		for ; id != rootNode; id = f.t.node(id).parent {
			d++
		}
		return d
	}
	f.t.walk(func(id nodeID) error {
		n := f.t.node(id)
		b = b[:0]
		u(depth(id))
		bytes(f.t.nameOf(n))
		if n.state&nodeAlias != 0 {
			bytes([]byte(f.t.path(f.t.target(id))))
			h.Write(b)
			return nil
		}
		u(uint64(n.mode) | uint64(n.flags)<<32)
		u(uint64(n.uid) | uint64(n.gid)<<32)
		u(uint64(n.project) | uint64(n.nsec)<<32)
		u(uint64(n.mtime))
		u(uint64(n.size))
		bytes(keys[n.xattrs])
		if full {
			sum := f.sums.list[id]
			b = append(b, sum[:]...)
		} else {
			u(uint64(n.crc))
		}
		switch n.mode.Type() {
		case disk.ModeLink:
			bytes(f.t.targetOf(n))
		case disk.ModeChar, disk.ModeBlock:
			u(n.where) // major and minor number
		}
		h.Write(b)
		return nil
	})
	return [sha256.Size]byte(h.Sum(nil))
}

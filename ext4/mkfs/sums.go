package mkfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"e4go/ext4/disk"
)

// sums tells contents apart: by a crc32c each, which the UUID is derived
// from, and by a SHA-256 each where these are wanted.
type sums struct {
	crc  uint32
	at   int64 // up to where the sums go
	size int64

	contents, files bool      // what is wanted: see HashContents and HashFiles
	plain, sparse   hash.Hash // of the file at hand; nil: not wanted
	number          [8]byte
	plains          fileSums // of whole files
	sparses         fileSums // likewise, see sparseSum
}

type fileSums map[nodeID][sha256.Size]byte

// moreHole is how many bytes the holes of a file may take before zeros are not
// summed any more, unless its data are as many.
const moreHole = 64 << 20

// begin begins a file that has data in spans.
func (s *sums) begin(size int64, spans []span) {
	var data int64
	for _, p := range spans {
		data += p.end - p.start
	}
	s.crc, s.at, s.size = 0, 0, size
	s.plain, s.sparse = nil, nil
	hollow := size-data > max(data, moreHole)
	if s.files && !hollow {
		s.plain = sha256.New()
	}
	if s.contents || s.files && hollow {
		s.sparse = sha256.New()
	}
}

// add sums a part of the file, behind those before. It begins with a block.
func (s *sums) add(off int64, data []byte) {
	if off != s.at {
		s.crc = disk.CRC32C(s.crc, s.le(off))
		s.skip(off)
	}
	s.crc = disk.CRC32C(s.crc, data)
	s.at = off + int64(len(data))
	if s.plain != nil {
		s.plain.Write(data)
	}
	for s.sparse != nil && len(data) > 0 {
		b := data[:min(len(data), sparseBlock)]
		if !bytes.Equal(b, zeroMiB[:len(b)]) {
			s.sparse.Write(s.le(off))
			s.sparse.Write(b)
		}
		off += int64(len(b))
		data = data[len(b):]
	}
}

// sparseBlock is the unit of the sum that takes no time over holes: of each block of as many bytes
// that has one that is not zero, in order, the offset and the bytes, and at the end the size of the
// file. Numbers are 8 bytes, little-endian. It does not depend on where the holes are.
const sparseBlock = 1024

func (s *sums) le(n int64) []byte {
	binary.LittleEndian.PutUint64(s.number[:], uint64(n))
	return s.number[:]
}

// skip sums the zeros of a hole.
func (s *sums) skip(to int64) {
	for s.plain != nil && s.at < to {
		n := min(to-s.at, int64(len(zeroMiB)))
		s.plain.Write(zeroMiB[:n])
		s.at += n
	}
	s.at = to
}

// end stores the sums of the file.
func (s *sums) end(f *Builder, id nodeID) {
	s.skip(s.size)
	f.t.node(id).crc = s.crc
	if s.plain != nil {
		s.plains[id] = [sha256.Size]byte(s.plain.Sum(nil))
	}
	if s.sparse != nil {
		s.sparse.Write(s.le(s.size))
		s.sparses[id] = [sha256.Size]byte(s.sparse.Sum(nil))
	}
}

// move gives the sums of a file to another node.
func (s *sums) move(from, to nodeID) {
	for _, list := range []fileSums{s.plains, s.sparses} {
		if sum, ok := list[from]; ok {
			list[to] = sum
		}
	}
}

// digest is a hash of all that the tree says, contents by their sparse sums or,
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
			sum := f.sums.sparses[id]
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

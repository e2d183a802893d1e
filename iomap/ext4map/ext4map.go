// Package ext4map answers what a fuse-iomap kernel asks about the files of an
// ext4 file system: where the bytes of a file lie. It turns the runs of blocks
// that package ext4 finds into the mappings that package iomap defines.
//
//	iomap.Request --Begin--> ext4.Inode.Map --> iomap.Reply
//
// [Begin] serves the operations that change nothing. It keeps no state, takes
// no lock and writes nothing, so that any number of requests can be answered at
// once. [Server] serves all, for a file system that is open for writing.
// [Env] gives what [iomap.Validate] needs to judge an answer.
package ext4map

import (
	"errors"
	"fmt"
	"math"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap"

	"golang.org/x/sys/unix"
)

// Options are what the answers depend on beside the inode.
type Options struct {
	Dev       uint32 // the backing id of the device, 1 to 1024
	BlockSize uint64 // of the file system, bytes
	MaxBytes  uint64 // the largest size of this inode, bytes: see [disk.Superblock.MaxFileSize]
	Base      uint64 // byte of the backing device at which the file system begins
}

// OptionsFor returns the options for inode in of fs, on the first device.
func OptionsFor(fs *ext4.FS, in *ext4.Inode) Options {
	sb := fs.Super()
	return Options{
		Dev: 1, BlockSize: uint64(sb.BlockSize()),
		MaxBytes: sb.MaxFileSize(in.Disk().Flags.Has(disk.FlagExtents)),
	}
}

// An UnsupportedOpError says that an operation is not served.
type UnsupportedOpError struct {
	Op iomap.Op
}

func (e *UnsupportedOpError) Error() string {
	return fmt.Sprintf("iomap operation %s is not served: it is unknown, needs DAX, or changes a file system that is open for reading", e.Op)
}

// Unwrap returns what the kernel is told.
func (e *UnsupportedOpError) Unwrap() error { return unix.EOPNOTSUPP }

// served are the opflags of the operations that change nothing, with what a
// caller may add to them.
const served = iomap.OpReport | iomap.OpSwapfile | iomap.OpDirect | iomap.OpFault | iomap.OpNowait | iomap.OpDontCache

// Begin answers a BEGIN. The mapping is the whole run of blocks in one state
// that holds req.Pos; it may start before it.
//
// A hole reaches to the next extent. Past the last one it reaches to the end
// of the file or of the query, whichever is later, rounded up to a block: the
// kernel would ask again for what is missing. The write side is always
// PURE_OVERWRITE, since ext4 never writes out of place.
//
// It fails with an [*UnsupportedOpError], with EINVAL for an empty request or
// what is no regular file, with EFBIG for a position that no file of this kind
// can have, with ENOKEY for the contents of encrypted files (the kernel would
// read them without decrypting), and with what the inode's map says.
func Begin(in *ext4.Inode, req iomap.Request, o Options) (iomap.Reply, error) {
	if req.Op&^served != 0 {
		return iomap.Reply{}, &UnsupportedOpError{req.Op}
	}
	if err := check(in, req, o); err != nil {
		return iomap.Reply{}, err
	}
	m, err := mapping(in, req, o)
	if err != nil {
		return iomap.Reply{}, err
	}
	return iomap.Reply{Read: m, Write: iomap.Overwrite(m)}, nil
}

// check judges a question.
func check(in *ext4.Inode, req iomap.Request, o Options) error {
	d := in.Disk()
	switch {
	case in.Type() != disk.ModeReg:
		return fmt.Errorf("inode %d is a %s, want a regular file: %w", in.Ino(), d.Mode.FileType(), unix.EINVAL)
	case req.Count == 0:
		return fmt.Errorf("count is 0, want at least one byte: %w", unix.EINVAL)
	case req.Pos >= o.MaxBytes:
		return fmt.Errorf("pos is %d, want less than %d, the largest size of a file: %w", req.Pos, o.MaxBytes, unix.EFBIG)
	case d.Flags.Has(disk.FlagEncrypt) && req.Op&iomap.OpReport == 0:
		return fmt.Errorf("contents of inode %d are encrypted: %w", in.Ino(), unix.ENOKEY)
	}
	return nil
}

func mapping(in *ext4.Inode, req iomap.Request, o Options) (iomap.Mapping, error) {
	bs := o.BlockSize
	if in.HasInlineData() {
		if req.Pos < bs {
			return iomap.Mapping{Offset: 0, Length: bs, Addr: iomap.NullAddr, Type: iomap.TypeInline, Dev: iomap.DevNull}, nil
		}
		return iomap.Hole(bs, holeEnd(in, req, bs)-bs), nil
	}
	run, err := in.Map(disk.LBlock(req.Pos / bs))
	if err != nil {
		return iomap.Mapping{}, err
	}
	m := iomap.Mapping{
		Offset: uint64(run.Logical) * bs, Length: run.Len * bs,
		Addr: o.Base + uint64(run.Physical)*bs, Dev: o.Dev,
	}
	if !in.Disk().Flags.Has(disk.FlagExtents) {
		m.Flags = iomap.FlagMerged // single blocks, joined
	}
	switch run.State {
	case ext4.MapWritten:
		m.Type = iomap.TypeMapped
	case ext4.MapUnwritten:
		m.Type = iomap.TypeUnwritten
	case ext4.MapHole:
		return hole(in, run, req, o)
	}
	return m, nil
}

// hole answers with the hole run, which holds req.Pos, and those that follow on
// it: a hole in a large map comes in pieces. It is put together as far as the
// query reaches, and ends there if what follows is one more piece.
func hole(in *ext4.Inode, run ext4.Mapping, req iomap.Request, o Options) (iomap.Mapping, error) {
	first, wanted := uint64(run.Logical)*o.BlockSize, holeEnd(in, req, o.BlockSize)
	for end := run.End(); end < maxBlocks; {
		next, err := in.Map(disk.LBlock(end))
		if err != nil {
			return iomap.Mapping{}, err
		}
		if next.State != ext4.MapHole {
			return iomap.Hole(first, end*o.BlockSize-first), nil
		}
		if end*o.BlockSize >= wanted {
			break
		}
		end = next.End()
	}
	return iomap.Hole(first, wanted-first), nil
}

// maxBlocks is how many blocks a file can have: their numbers have 32 bits.
const maxBlocks = 1 << 32

// holeEnd is where a hole ends that no extent follows: it is behind req.Pos.
func holeEnd(in *ext4.Inode, req iomap.Request, bs uint64) uint64 {
	const highest = math.MaxInt64 // the largest file offset of Linux
	end := req.Pos + min(req.Count, highest-req.Pos)
	end = max(end, uint64(max(in.Size(), 0)))
	return (end + bs - 1) / bs * bs // below 2^64: end is at most 2^63-1
}

// Env is what the kernel knows of fs when it judges an answer: block size and
// largest file size as CONFIG has told them, and one device, open for reading.
func Env(fs *ext4.FS) iomap.Env {
	sb := fs.Super()
	return iomap.Env{
		BlockSize: uint64(sb.BlockSize()),
		MaxBytes:  sb.MaxFileSize(true),
		Devices:   map[uint32]iomap.Device{1: {Readable: true, Size: sb.Blocks << sb.BlockBits()}},
	}
}

// Walk asks as the kernel does for all of the bytes [pos, pos+count): each
// next question begins where the answer before it ended. fn is called with
// each question and its answer; its error ends the walk.
func Walk(in *ext4.Inode, req iomap.Request, o Options, fn func(iomap.Request, iomap.Reply) error) error {
	end := req.Pos + min(req.Count, math.MaxInt64-min(req.Pos, math.MaxInt64))
	for pos := req.Pos; pos < end; {
		q := iomap.Request{Op: req.Op, Pos: pos, Count: end - pos}
		reply, err := Begin(in, q, o)
		if err != nil {
			return err
		}
		if err := fn(q, reply); err != nil {
			return err
		}
		next, ok := reply.Read.End()
		if !ok || next <= pos {
			return errNoProgress
		}
		pos = next
	}
	return nil
}

var errNoProgress = errors.New("iomap: the mapping does not reach beyond the position asked for")

package simkernel

import (
	"errors"
	"fmt"
	"syscall"

	"e4go/iomap"
)

// used is a mapping that an operation works with.
type used struct {
	src, dst iomap.Mapping
	seq      uint64 // the validity counter, or 0 for what came straight from a BEGIN
}

// end returns where u's target ends, cut at limit.
func (u used) end(limit int64) int64 {
	if end, ok := u.dst.End(); ok && end < uint64(limit) {
		return int64(end)
	}
	return limit
}

// maxRetries is how often BEGIN is sent for one position before the kernel
// here gives up; the real one goes on until a signal comes.
const maxRetries = 64

// begin gets the mapping for op at pos: from the mapping cache, or from the server.
func (in *inode) begin(op iomap.Op, pos, count int64) (used, error) {
	k := in.k
	if in.isBad() {
		return used{}, syscall.EIO
	}
	req := iomap.Request{Op: op, Pos: uint64(pos), Count: uint64(count)}
	for range maxRetries {
		if !op.Uncached() {
			if reply, seq, ok := in.cache.lookup(op, req.Pos); ok {
				return consume(op, reply, seq), nil
			}
			if k.opt.Version >= iomap.V8 && op&iomap.OpNowait != 0 {
				return used{}, syscall.EAGAIN
			}
		}
		body := msg().u32(uint32(op)).u32(0).u64(in.attrIno).u64(req.Pos).u64(req.Count).b
		out, err := k.call(opBegin, in.nodeid, Cred{}, body)
		if err != nil {
			return used{}, err
		}
		reply := iomap.Reply{Read: readMapping(out), Write: readMapping(out[mappingSize:])}
		if vs := iomap.Validate(k.opt.Version, req, reply, k.env(in)); len(vs) > 0 {
			k.breach(fmt.Errorf("BEGIN %s of node %d at %d+%d, read %v, write %v: %w", op, in.nodeid, pos, count, reply.Read, reply.Write, vs.Err()))
			return used{}, vs.Errno()
		}
		if reply.Read.Type == iomap.TypeRetryCache || k.opt.Version >= iomap.V8 && reply.Write.Type == iomap.TypeRetryCache {
			continue
		}
		return consume(op, reply, 0), nil
	}
	return used{}, k.breach(fmt.Errorf("BEGIN %s of node %d at %d+%d: told to look into the mapping cache %d times, and it is not there: %w",
		op, in.nodeid, pos, count, maxRetries, syscall.EINTR))
}

func consume(op iomap.Op, reply iomap.Reply, seq uint64) used {
	src, dst := iomap.Consumed(op, reply)
	return used{src, dst, seq}
}

// finish sends END for a mapping that is done with, if the kernel does for
// what happened: written of count bytes from pos on were used.
func (in *inode) finish(op iomap.Op, pos, count, written int64, m iomap.Mapping) error {
	k := in.k
	wanted := m.Flags&iomap.FlagWantIomapEnd != 0
	if k.opt.Version == iomap.V7 {
		wanted = m.Flags&iomap.FlagAnonWrite != 0 // the wrong bit is tested
	}
	switch {
	case k.noEnd.Load() || m.Type == iomap.TypeInline:
		return nil
	case wanted:
	case !op.IsWrite():
		return nil
	case m.Flags&iomap.FlagSizeChanged != 0 || written < count:
	default:
		return nil
	}
	body := msg().u32(uint32(op)).u32(0).u64(in.attrIno).u64(uint64(pos)).u64(uint64(count)).u64(uint64(written)).mapping(m).b
	_, err := k.call(opEnd, in.nodeid, Cred{}, body)
	if errors.Is(err, syscall.ENOSYS) {
		k.noEnd.Store(true)
		return nil
	}
	if written > 0 { // fs/iomap drops the error if there was progress
		return nil
	}
	return err
}

// sendIoend tells the server that a write has reached the device, or has
// failed, if the kernel does for this one, and takes what it answers.
func (in *inode) sendIoend(e iomap.Ioend) error {
	k := in.k
	end := int64(e.Pos + e.Written)
	in.mu.Lock()
	if e.Flags&iomap.IoendSwapoff == 0 && end > in.diskSize {
		e.Flags |= iomap.IoendAppend
	}
	in.mu.Unlock()
	e.AttrIno = in.attrIno
	send := e.Error != 0 ||
		e.Written > 0 && e.Flags&(iomap.IoendShared|iomap.IoendUnwritten|iomap.IoendAppend) != 0
	if e.Flags&iomap.IoendSwapoff != 0 {
		send = true
	}
	if k.noIoend.Load() && (e.Flags&iomap.IoendSwapoff == 0 || k.opt.Version == iomap.V7) {
		send = false
	}
	in.mu.Lock()
	newSize := max(in.diskSize, end)
	in.mu.Unlock()
	if send {
		body := msg().u32(uint32(e.Flags)).u32(uint32(e.Error)).u64(e.AttrIno).u64(e.Pos).u64(e.NewAddr).u64(e.Written).u32(e.Dev).u32(0).b
		out, err := k.call(opIoend, in.nodeid, Cred{}, body)
		switch {
		case e.Error != 0: // nothing else happens
		case errors.Is(err, syscall.ENOSYS):
			k.noIoend.Store(true)
		case err != nil:
			return err
		default:
			newSize = int64(le.Uint64(out))
			if newSize < end && e.Flags&iomap.IoendSwapoff == 0 {
				k.breach(fmt.Errorf("IOEND of node %d, %s, for %d+%d: the server's size is %d, and so part of what was written is behind the end",
					in.nodeid, e.Flags, e.Pos, e.Written, newSize))
			}
		}
	}
	if e.Error != 0 {
		return syscall.Errno(-e.Error)
	}
	if e.Flags&iomap.IoendSwapoff != 0 {
		return nil
	}
	in.mu.Lock()
	if k.opt.Version >= iomap.V8 {
		newSize = max(newSize, in.diskSize)
	}
	in.diskSize = newSize
	if e.Flags&iomap.IoendDirect != 0 {
		in.size = max(in.size, end)
	}
	in.mu.Unlock()
	if e.Written > 0 {
		in.dropMappings(int64(e.Pos), end)
	}
	return nil
}

// dropMappings drops the cached mappings of the blocks that [from, to) touches.
func (in *inode) dropMappings(from, to int64) {
	bs := in.k.blockSize
	r := iomap.Range{Offset: uint64(from / bs * bs)}
	r.Length = uint64((to+bs-1)/bs*bs) - r.Offset
	if to >= in.k.maxBytes {
		r.Length = iomap.ToEOF
	}
	in.cache.invalidate(iomap.Inval{Read: r, Write: r})
}

package fusesrv

import (
	"bytes"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The requests that there are most of are decoded and answered here, in the buffers that they are read
// into and written from, as go-fuse's server does: ProtocolServer makes a kilobyte of garbage
// for each.

// Opcodes (include/uapi/linux/fuse.h).
const (
	opLookup   = 1
	opGetattr  = 3
	opSetattr  = 4
	opUnlink   = 10
	opRmdir    = 11
	opRename   = 12
	opWrite    = 16
	opRelease  = 18
	opGetxattr = 22
	opCreate   = 35
	opRename2  = 45
)

// hackNode is the node id of a file that go-fuse makes up, for a process that uses its own
// mount; hackName is its name, in the root directory.
const (
	hackNode = ^uint64(0)
	hackName = ".go-fuse-epoll-hack"
)

// hot answers the request in the first n bytes of b.in, if it is one of these and well-formed. It returns
// the size of the answer, 0 for none.
func (l *loop) hot(b *buffers, n int, op uint32) (size int, ok bool) {
	in, out := b.in[:n], b.out[outHeaderSize:]
	h := (*fuse.InHeader)(unsafe.Pointer(&in[0]))
	if l.debug || h.NodeId == hackNode || h.TotalExtlen != 0 {
		return 0, false
	}
	var status fuse.Status
	switch op {
	case opLookup:
		name, ok := nameAt(in, inHeaderSize)
		if !ok || name == hackName {
			return 0, false
		}
		o := overlay[fuse.EntryOut](out)
		*o = fuse.EntryOut{}
		status, size = l.fs.Lookup(nil, h, name, o), int(unsafe.Sizeof(*o))
	case opGetattr:
		if !holds[fuse.GetAttrIn](in) {
			return 0, false
		}
		o := overlay[fuse.AttrOut](out)
		*o = fuse.AttrOut{}
		status, size = l.fs.GetAttr(nil, overlay[fuse.GetAttrIn](in), o), int(unsafe.Sizeof(*o))
	case opSetattr:
		if !holds[fuse.SetAttrIn](in) {
			return 0, false
		}
		o := overlay[fuse.AttrOut](out)
		*o = fuse.AttrOut{}
		status, size = l.fs.SetAttr(nil, overlay[fuse.SetAttrIn](in), o), int(unsafe.Sizeof(*o))
	case opUnlink:
		name, ok := nameAt(in, inHeaderSize)
		if !ok {
			return 0, false
		}
		status = l.fs.Unlink(nil, h, name)
	case opCreate:
		const head = int(unsafe.Sizeof(fuse.CreateIn{}))
		name, ok := nameAt(in, head)
		if !ok {
			return 0, false
		}
		o := overlay[fuse.CreateOut](out)
		*o = fuse.CreateOut{}
		status, size = l.fs.Create(nil, overlay[fuse.CreateIn](in), name, o), int(unsafe.Sizeof(*o))
	case opRename, opRename2:
		i := fuse.RenameIn{InHeader: *h}
		head := inHeaderSize + 8 // struct fuse_rename_in
		if op == opRename2 {
			head += 8 // struct fuse_rename2_in
		}
		from, ok := nameAt(in, head)
		if !ok {
			return 0, false
		}
		to, ok := nameAt(in, head+len(from)+1)
		if !ok {
			return 0, false
		}
		i.Newdir = le.Uint64(in[inHeaderSize:])
		if op == opRename2 {
			i.Flags = le.Uint32(in[inHeaderSize+8:])
		}
		status = l.fs.Rename(nil, &i, from, to)
	case opGetxattr:
		const head = int(unsafe.Sizeof(fuse.GetXAttrIn{}))
		name, ok := nameAt(in, head)
		if !ok || le.Uint32(in[inHeaderSize:]) > maxRead {
			return 0, false
		}
		room := le.Uint32(in[inHeaderSize:])
		var n uint32
		n, status = l.fs.GetXAttr(nil, h, name, out[:room])
		size = int(n)
		if room == 0 { // only the size is asked for
			if status == fuse.ERANGE {
				status = fuse.OK
			}
			*overlay[fuse.GetXAttrOut](out) = fuse.GetXAttrOut{Size: n}
			size = int(unsafe.Sizeof(fuse.GetXAttrOut{}))
		}
	case opRead:
		if !holds[fuse.ReadIn](in) {
			return 0, false
		}
		return l.readFile(b, overlay[fuse.ReadIn](in)), true
	case opWrite:
		i := overlay[fuse.WriteIn](in)
		if !holds[fuse.WriteIn](in) || n-inHeaderSize-writeInSize < int(i.Size) {
			return 0, false
		}
		o := overlay[fuse.WriteOut](out)
		*o = fuse.WriteOut{}
		o.Size, status = l.fs.Write(nil, i, in[inHeaderSize+writeInSize:][:i.Size])
		size = int(unsafe.Sizeof(*o))
	case opForget:
		if !holds[fuse.ForgetIn](in) {
			return 0, false
		}
		l.fs.Forget(h.NodeId, overlay[fuse.ForgetIn](in).Nlookup)
		return 0, true
	case opBatchForget:
		const one = 16 // struct fuse_forget_one
		list := in[inHeaderSize:]
		if len(list) < 8 || (len(list)-8)/one < int(le.Uint32(list)) {
			return 0, false
		}
		for range le.Uint32(list) {
			l.fs.Forget(le.Uint64(list[8:]), le.Uint64(list[16:]))
			list = list[one:]
		}
		return 0, true
	case opRelease:
		if !holds[fuse.ReleaseIn](in) {
			return 0, false
		}
		l.fs.Release(nil, overlay[fuse.ReleaseIn](in))
	default:
		return 0, false
	}
	return answerOf(b.out, h.Unique, status, size), true
}

// holds reports whether b has a whole T.
func holds[T any](b []byte) bool { return len(b) >= int(unsafe.Sizeof(*new(T))) }

// overlay is a T at the start of b, one of our buffers, which are larger than any
// T and aligned for it. The layouts of go-fuse's types are the protocol's.
func overlay[T any](b []byte) *T { return (*T)(unsafe.Pointer(&b[0])) }

// nameAt returns the name that ends with a zero behind the first head bytes of a request.
func nameAt(in []byte, head int) (string, bool) {
	if len(in) < head {
		return "", false
	}
	end := bytes.IndexByte(in[head:], 0)
	if end < 0 {
		return "", false
	}
	return string(in[head : head+end]), true
}

// readFile answers READ, which may go from the image to the kernel by itself.
func (l *loop) readFile(b *buffers, in *fuse.ReadIn) int {
	if in.Size > maxRead {
		return answerOf(b.out, in.Unique, fuse.EINVAL, 0)
	}
	buf := b.out[outHeaderSize : outHeaderSize+in.Size]
	res, status := l.fs.Read(nil, in, buf)
	if status != fuse.OK {
		return answerOf(b.out, in.Unique, status, 0)
	}
	defer res.Done()
	if at, ok := res.(seekable); ok {
		if d, ok := l.conn.(device); ok && l.splice(int(d), b, in.Unique, at) {
			return 0
		}
	}
	data, status := res.Bytes(buf)
	return answerOf(b.out, in.Unique, status, copy(buf, data))
}

// seekable is what go-fuse's ReadResultFd is.
type seekable interface {
	Seekable() (fd uintptr, off int64, size int)
}

// splice answers a READ at device dev from a descriptor through b's pipe, so that the bytes
// are copied once, by the kernel. It reports whether it has; if not, nothing was sent.
func (l *loop) splice(dev int, b *buffers, unique uint64, at seekable) bool {
	fd, off, size := at.Seekable()
	if b.pipe == nil {
		b.pipe = newPipe()
	}
	total := answerOf(b.out, unique, fuse.OK, size)
	if !b.pipe.fits(total) {
		return false
	}
	n, err := b.pipe.load(b.out[:outHeaderSize], int(fd), off, size)
	if err != nil || n != size {
		b.pipe.close() // with what is in it
		b.pipe = nil
		return false
	}
	m, err := unix.Splice(b.pipe.r, nil, dev, nil, total, 0)
	if err != nil || int(m) != total {
		b.pipe.close()
		b.pipe = nil
		// An answer that was not taken as a whole was not taken. ENOENT: nobody waits for it.
		return err == unix.ENOENT || err == unix.ENODEV
	}
	return true
}

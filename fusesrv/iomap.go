package fusesrv

import (
	"errors"
	"fmt"
	"unsafe"

	"e4go/iomap"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The ioctls of /dev/fuse.
const (
	iocBackingOpen  = 0x4010e501 // struct fuse_backing_map; returns the backing id
	iocSupportV3    = 0x8010e504 // IOMAP_SUPPORT of July 2025
	iocIomapSupport = 0x8010e563 // struct fuse_iomap_support
	iocSetNofs      = 0x4004e564 // uint32: 1 on, 0 off; since February 2026

	backingIomap = 1 // the type of an iomap device in fuse_backing_map.flags
)

// The bits of IomapSupport.Flags.
const (
	IomapFileIO = 1 << 0 // contents of files by mappings
	IomapAtomic = 1 << 1 // and writes that do not tear
)

// IomapVersion is what a kernel knows of fuse-iomap.
type IomapVersion int

const (
	IomapNone IomapVersion = iota // nothing, as every kernel that is not patched
	IomapV3                       // the series of July 2025
	IomapV6                       // the series of September and October 2025
	IomapV7                       // the series of February 2026, or a later one
)

// An IomapSupport is what the kernel offers to who asks.
type IomapSupport struct {
	Version IomapVersion
	Flags   uint64 // IomapFileIO, IomapAtomic
}

// A NoIomapError says why the kernel's fuse-iomap cannot be used.
type NoIomapError struct {
	Support IomapSupport
}

func (e *NoIomapError) Error() string {
	s := e.Support
	switch {
	case s.Version == IomapNone:
		return "this kernel has no fuse-iomap: it is a patch series that Linux has not taken yet"
	case s.Version == IomapV3:
		return "this kernel has the fuse-iomap of July 2025, whose messages are others: want that of February 2026 or later"
	case s.Version == IomapV6:
		return "this kernel has the fuse-iomap of autumn 2025, whose IOEND carries neither device nor size: want that of February 2026 or later"
	}
	return "this kernel has fuse-iomap and does not offer it: that takes CAP_SYS_RAWIO, and enable_iomap=1 of module fuse"
}

// Usable returns nil, or a *[NoIomapError].
func (s IomapSupport) Usable() error {
	if s.Version != IomapV7 || s.Flags&IomapFileIO == 0 {
		return &NoIomapError{s}
	}
	return nil
}

// AskIomap asks the kernel, without mounting anything. It fails if /dev/fuse
// cannot be opened, or answers with what no known kernel does.
func AskIomap() (IomapSupport, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return IomapSupport{}, fmt.Errorf("open /dev/fuse (does the kernel have FUSE?): %w", err)
	}
	defer unix.Close(fd)
	return askIomap(func(request uintptr, arg []byte) error { return ioctl(fd, request, arg) })
}

func ioctl(fd int, request uintptr, arg []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&arg[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// askIomap tells the versions apart by which ioctls they have.
func askIomap(ioctl func(request uintptr, arg []byte) error) (IomapSupport, error) {
	arg := make([]byte, 16)
	err := ioctl(iocIomapSupport, arg)
	if unknown(err) {
		switch err := ioctl(iocSupportV3, arg); {
		case unknown(err):
			return IomapSupport{}, nil
		case err != nil:
			return IomapSupport{}, fmt.Errorf("ask for fuse-iomap (ioctl %#x): %w", iocSupportV3, err)
		}
		return IomapSupport{IomapV3, le.Uint64(arg)}, nil
	}
	if err != nil {
		return IomapSupport{}, fmt.Errorf("ask for fuse-iomap (ioctl %#x): %w", iocIomapSupport, err)
	}
	s := IomapSupport{IomapV7, le.Uint64(arg)}
	// To switch off what is off changes nothing; refusing it is an answer, too.
	if unknown(ioctl(iocSetNofs, make([]byte, 4))) {
		s.Version = IomapV6
	}
	return s, nil
}

// unknown reports whether err is that of an ioctl which the driver does not have.
func unknown(err error) bool { return errors.Is(err, unix.ENOTTY) }

// backingOpen registers the block device whose descriptor is dev for mappings to name. It may
// be called when INIT has been answered, and returns the backing id.
func backingOpen(fuseFd, dev int) (uint32, error) {
	arg := make([]byte, 16)
	le.PutUint32(arg, uint32(dev))
	le.PutUint32(arg[4:], backingIomap)
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fuseFd), iocBackingOpen, uintptr(unsafe.Pointer(&arg[0])))
	if errno != 0 {
		return 0, fmt.Errorf("register the device with fuse-iomap: %w", errno)
	}
	return uint32(id), nil
}

// setNofs keeps the kernel from calling file systems to free memory for the calling thread:
// what it is answering may be what that memory waits for.
func setNofs(fuseFd int) error {
	arg := make([]byte, 4)
	le.PutUint32(arg, 1)
	return ioctl(fuseFd, iocSetNofs, arg)
}

// iomapServer is a file system that answers by mappings. Each method may be called
// while others are, for the same file too.
type iomapServer interface {
	// Config is asked once, before anything else.
	Config(iomapOffer) (iomapConfig, fuse.Status)

	Begin(h *fuse.InHeader, attrIno uint64, r iomap.Request) (iomap.Reply, fuse.Status)
	End(h *fuse.InHeader, e *iomap.End) fuse.Status

	// Ioend returns the size that the file has then.
	Ioend(h *fuse.InHeader, e *iomap.Ioend) (size uint64, status fuse.Status)

	// Freeze makes everything durable and holds back changes until Unfreeze;
	// unlinked is how many files without a name are open. Shutdown is told that the
	// device has gone.
	Freeze(unlinked uint64) fuse.Status
	Unfreeze() fuse.Status
	Shutdown() fuse.Status
}

// acceptIomap changes the answer to INIT, so that it takes what the kernel offers.
// It reports whether that is iomap.
func acceptIomap(in *fuse.InitIn, answer []byte) bool {
	if in.Flags64()&initIomap == 0 || in.Minor < iomapMinor || len(answer) < outHeaderSize+36 || le.Uint32(answer[4:]) != 0 {
		return false
	}
	p := answer[outHeaderSize:]
	le.PutUint32(p[4:], iomapMinor)
	le.PutUint32(p[12:], le.Uint32(p[12:])|fuse.CAP_INIT_EXT)
	le.PutUint32(p[32:], le.Uint32(p[32:])|uint32(initIomap>>32))
	return true
}

// answerIomap puts the answer to a request of an iomap connection into b.out, and
// returns its size. What is not of the known size is refused, since the kernel
// would do I/O by what was misunderstood.
func (l *loop) answerIomap(b *buffers, op iomap.Opcode, body []byte) (size int) {
	h := (*fuse.InHeader)(unsafe.Pointer(&b.in[0]))
	out := b.out[outHeaderSize:]
	status := fuse.OK
	var err error
	switch op {
	case iomap.OpcodeConfig:
		var offer iomapOffer
		var c iomapConfig
		if offer, err = decodeConfig(body); err == nil {
			c, status = l.iomap.Config(offer)
			c.Fields &= offer.Fields
			c.put(out)
			size = configOutSize
		}
	case iomap.OpcodeBegin:
		var ino uint64
		var r iomap.Request
		var answer iomap.Reply
		if ino, r, err = decodeBegin(body); err == nil {
			answer, status = l.iomap.Begin(h, ino, r)
			putReply(out, answer)
			size = replySize
		}
	case iomap.OpcodeEnd:
		var e iomap.End
		if e, err = decodeEnd(body); err == nil {
			status = l.iomap.End(h, &e)
		}
	case iomap.OpcodeIoend:
		var e iomap.Ioend
		if e, err = decodeIoend(body); err == nil {
			var n uint64
			n, status = l.iomap.Ioend(h, &e)
			le.PutUint64(out, n)
			size = 8
		}
	case iomap.OpcodeFreezeFS:
		if err = checkSize(op, body, 8); err == nil {
			status = l.iomap.Freeze(le.Uint64(body))
		}
	case iomap.OpcodeUnfreezeFS:
		status = l.iomap.Unfreeze()
	case iomap.OpcodeShutdownFS:
		status = l.iomap.Shutdown()
	}
	if err != nil {
		l.log.Print(err)
		status = fuse.Status(unix.EPROTO)
	}
	return answerOf(b.out, h.Unique, status, size)
}

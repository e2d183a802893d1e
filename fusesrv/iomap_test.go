package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/iomap"
	"e4go/iomap/simkernel"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Each version of fuse-iomap is told by its ioctls.
func TestAskIomap(t *testing.T) {
	answers := func(known map[uintptr]error, flags uint64) func(uintptr, []byte) error {
		return func(request uintptr, arg []byte) error {
			if request == iocSetNofs && le.Uint32(arg) != 0 {
				t.Error("asking has switched something on")
			}
			err, ok := known[request]
			if !ok {
				return unix.ENOTTY
			}
			if err == nil && len(arg) == 16 {
				le.PutUint64(arg, flags)
			}
			return err
		}
	}
	tests := []struct {
		what  string
		known map[uintptr]error
		flags uint64
		want  IomapSupport
		says  string // "": usable
	}{
		{"not patched", nil, 0, IomapSupport{}, "no fuse-iomap"},
		{"July 2025", map[uintptr]error{iocSupportV3: nil}, 3, IomapSupport{IomapV3, 3}, "July 2025"},
		{"October 2025", map[uintptr]error{iocIomapSupport: nil}, 1, IomapSupport{IomapV6, 1}, "autumn 2025"},
		{"February 2026", map[uintptr]error{iocIomapSupport: nil, iocSetNofs: nil}, 3, IomapSupport{IomapV7, 3}, ""},
		{"to who may not set NOFS", map[uintptr]error{iocIomapSupport: nil, iocSetNofs: unix.EPERM}, 1, IomapSupport{IomapV7, 1}, ""},
		{"switched off", map[uintptr]error{iocIomapSupport: nil, iocSetNofs: unix.EPERM}, 0, IomapSupport{IomapV7, 0}, "enable_iomap"},
	}
	for _, tt := range tests {
		got, err := askIomap(answers(tt.known, tt.flags))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.what, got, err, tt.want)
		}
		var no *NoIomapError
		switch err := got.Usable(); {
		case tt.says == "" && err != nil:
			t.Errorf("%s: %v", tt.what, err)
		case tt.says != "" && (!errors.As(err, &no) || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: %v, want %q", tt.what, err, tt.says)
		}
	}
	for _, request := range []uintptr{iocIomapSupport, iocSupportV3} {
		if _, err := askIomap(answers(map[uintptr]error{request: unix.EFAULT}, 0)); !errors.Is(err, unix.EFAULT) {
			t.Errorf("ioctl %#x fails: %v", request, err)
		}
	}
	if _, err := os.Stat("/dev/fuse"); err == nil && os.Geteuid() == 0 {
		got, err := AskIomap()
		if err != nil {
			t.Error(err)
		}
		t.Logf("this kernel: %+v", got)
		fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		check(t, err)
		defer unix.Close(fd)
		var errno unix.Errno
		if id, err := backingOpen(fd, fd); !errors.As(err, &errno) { // neither mounted nor a block device
			t.Errorf("BACKING_OPEN: id %d, %v", id, err)
		}
	}
}

// identity serves one file by mappings: byte n of it is byte n of the device. Blocks are
// unwritten until an IOEND.
type identity struct {
	slowFS
	kernel *simkernel.Kernel
	dev    *blockdev.Mem
	loop   *loop

	mu      sync.Mutex
	id      uint32 // of dev
	size    uint64
	written [identityBlocks]bool
	ends    int
	frozen  bool
}

const (
	identityBlocks = 256
	identityBlock  = 1024
	identityNode   = 77
	identityIno    = 78 // attr.ino, which may differ from the node
)

func (f *identity) fill(a *fuse.Attr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*a = fuse.Attr{Ino: identityIno, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: f.size, Flags: attrExclusive | attrIomap}
}

func (f *identity) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	out.NodeId = identityNode
	f.fill(&out.Attr)
	return fuse.OK
}

func (f *identity) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.fill(&out.Attr)
	return fuse.OK
}

func (f *identity) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if size, ok := in.GetSize(); ok {
		f.mu.Lock()
		f.size = size
		for i := (size + identityBlock - 1) / identityBlock; i < identityBlocks; i++ {
			f.written[i] = false
		}
		f.mu.Unlock()
	}
	return f.GetAttr(nil, nil, out)
}

func (f *identity) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *identity) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }
func (f *identity) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

func (f *identity) Config(o iomapOffer) (iomapConfig, fuse.Status) {
	id, err := f.kernel.BackingOpen(f.dev, true, true)
	if err != nil {
		return iomapConfig{}, fuse.ToStatus(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.id = id
	return iomapConfig{Fields: configSID | configBlockSize | configMaxBytes | 1<<60, SID: "identity", BlockSize: identityBlock,
		MaxBytes: min(o.MaxBytes, identityBlocks*identityBlock)}, fuse.OK
}

// mapping is the run of blocks in one state that begins at pos. mu is held.
func (f *identity) mapping(pos uint64) iomap.Mapping {
	from := min(pos/identityBlock, identityBlocks-1)
	to := from + 1
	for to < identityBlocks && f.written[to] == f.written[from] {
		to++
	}
	m := iomap.Mapping{Offset: from * identityBlock, Length: (to - from) * identityBlock, Addr: from * identityBlock, Type: iomap.TypeUnwritten, Dev: f.id}
	if f.written[from] {
		m.Type = iomap.TypeMapped
	}
	return m
}

func (f *identity) Begin(h *fuse.InHeader, attrIno uint64, r iomap.Request) (iomap.Reply, fuse.Status) {
	if h.NodeId != identityNode || attrIno != identityIno {
		f.t.Errorf("BEGIN of node %d, attr.ino %d", h.NodeId, attrIno)
	}
	if r.Pos >= identityBlocks*identityBlock {
		return iomap.Reply{}, fuse.Status(unix.EFBIG)
	}
	f.mu.Lock()
	m := f.mapping(r.Pos)
	f.mu.Unlock()
	u := iomap.Upsert{Read: m, Write: iomap.Overwrite(m)}
	if !r.Op.Uncached() && r.Op&iomap.OpReport == 0 && f.loop.upsert(identityNode, identityIno, u) == fuse.OK {
		u.Read.Type, u.Read.Dev, u.Read.Addr = iomap.TypeRetryCache, iomap.DevNull, iomap.NullAddr
	}
	return iomap.Reply(u), fuse.OK
}

func (f *identity) End(_ *fuse.InHeader, e *iomap.End) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends++
	if e.AttrIno != identityIno || !e.Map.Covers(e.Pos) || e.Map.Addr != e.Map.Offset || e.Map.Dev != f.id {
		f.t.Errorf("END %+v", e)
	}
	if e.Map.Flags&iomap.FlagSizeChanged != 0 {
		f.size = max(f.size, e.Pos+uint64(e.Written))
	}
	return fuse.OK
}

func (f *identity) Ioend(_ *fuse.InHeader, e *iomap.Ioend) (uint64, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Error == 0 {
		for i := e.Pos / identityBlock; i*identityBlock < e.Pos+e.Written; i++ {
			f.written[i] = true
		}
		f.size = max(f.size, e.Pos+e.Written)
	}
	return f.size, fuse.OK
}

func (f *identity) Freeze(n uint64) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = n == 0
	return fuse.OK
}

func (f *identity) Unfreeze() fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = false
	return fuse.OK
}

func (f *identity) Shutdown() fuse.Status { return fuse.OK }

// simConn is the server's end of a simulated kernel.
type simConn struct{ *simkernel.Dev }

func (simConn) Close() error { return nil }

// A kernel with fuse-iomap, of either version, that another hand has written takes every
// message of ours as it should, and we its: contents, sizes, freezing, unmounting.
func TestIomapWithKernel(t *testing.T) {
	for _, version := range []iomap.Version{iomap.V7, iomap.V8} {
		for seed := range uint64(5) {
			testIomapWithKernel(t, version, seed)
		}
	}
}

func testIomapWithKernel(t *testing.T, version iomap.Version, seed uint64) {
	k := simkernel.New(simkernel.Options{Version: version, Seed: seed, Unrest: 0.2})
	f := &identity{kernel: k, dev: blockdev.NewMem(identityBlocks * identityBlock)}
	f.RawFileSystem, f.t = fuse.NewDefaultRawFileSystem(), t
	mounted := make(chan error, 1)
	go func() { mounted <- k.Mount() }()
	logger := log.New(os.Stderr, "", 0)
	l, err := newLoop(simConn{k.Dev()}, f, f, &fuse.MountOptions{Logger: logger, MaxWrite: maxRead}, func(*fuse.InitIn, storeFunc) {})
	check(t, err)
	f.loop = l
	var done sync.WaitGroup
	done.Go(l.run)
	check(t, <-mounted)

	rng := rand.New(rand.NewPCG(seed, uint64(version)))
	var model []byte
	file, err := k.Open(simkernel.Cred{}, "/file", syscall.O_RDWR, 0)
	check(t, err)
	direct, err := k.Open(simkernel.Cred{}, "/file", syscall.O_RDWR|syscall.O_DIRECT, 0)
	check(t, err)
	for range 60 {
		at, n := rng.IntN(100_000), 1+rng.IntN(30_000)
		switch rng.IntN(5) {
		case 0:
			check(t, file.Truncate(int64(at)))
			model = append(model, make([]byte, max(0, at-len(model)))...)[:at]
		case 1:
			check(t, file.Fsync(false))
		default:
			w := file
			if rng.IntN(2) == 0 {
				w, at, n = direct, at&^4095, n&^4095+4096
			}
			p := noise(rng.Uint64(), n)
			_, err := w.WriteAt(p, int64(at))
			check(t, err)
			model = append(model, make([]byte, max(0, at+n-len(model)))...)
			copy(model[at:], p)
		}
	}
	got := make([]byte, len(model))
	if _, err := file.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, model) || file.Size() != int64(len(model)) {
		t.Errorf("version %v, seed %d: %v; %d bytes, want %d; equal: %v", version, seed, err, file.Size(), len(model), bytes.Equal(got, model))
	}
	if _, err := file.WriteAt([]byte("x"), identityBlocks*identityBlock); !errors.Is(err, unix.EFBIG) {
		t.Errorf("a write behind the largest size: %v, want EFBIG", err)
	}
	check(t, k.Freeze())
	if !f.frozen {
		t.Error("FREEZE_FS has not arrived")
	}
	check(t, k.Thaw())
	if f.frozen {
		t.Error("UNFREEZE_FS has not arrived")
	}
	check(t, file.Close())
	check(t, direct.Close())
	check(t, k.Unmount())
	done.Wait()
	if f.destroyed.Load() != 1 {
		t.Errorf("the file system was let go %d times", f.destroyed.Load())
	}
	onDisk := make([]byte, len(model))
	f.dev.ReadAt(onDisk, 0)
	for i := range f.written {
		if lo := i * identityBlock; !f.written[i] && lo < len(onDisk) {
			clear(onDisk[lo:min(lo+identityBlock, len(onDisk))])
		}
	}
	if !bytes.Equal(onDisk, model) || f.size != uint64(len(model)) {
		t.Errorf("version %v, seed %d: the device has not what was written; size %d, want %d", version, seed, f.size, len(model))
	}
	if b := k.Breaches(); len(b) > 0 {
		t.Errorf("version %v, seed %d: the kernel complains: %v", version, seed, errors.Join(b...))
	}
	if f.ends == 0 || k.Counts()["IOEND"] == 0 || k.Counts()["BEGIN"] == 0 || !slices.Contains(f.written[:], true) {
		t.Errorf("version %v, seed %d: requests were %v", version, seed, k.Counts())
	}
}

// Without iomap in INIT nobody is served by it, and a message of an unknown size is
// refused, in words.
func TestIomapRefused(t *testing.T) {
	k := connectKernel(t, allCaps) // of minor version 40
	f := &identity{}
	f.RawFileSystem = fuse.NewDefaultRawFileSystem()
	var no *NoIomapError
	_, err := newLoop(device(k.theirs), f, f, &fuse.MountOptions{Logger: log.New(k.log, "", 0)}, func(*fuse.InitIn, storeFunc) {})
	if !errors.As(err, &no) {
		t.Errorf("a kernel without iomap: %v", err)
	}
	unix.Close(k.fd)

	var to recorder
	var said syncBuffer
	l := &loop{conn: &to, iomap: f, fs: f, log: log.New(&said, "", 0)}
	b := l.newBuffers()
	defer b.unmap()
	for _, op := range []iomap.Opcode{iomap.OpcodeConfig, iomap.OpcodeBegin, iomap.OpcodeEnd, iomap.OpcodeIoend, iomap.OpcodeFreezeFS} {
		le.PutUint32(b.in, inHeaderSize+40)
		le.PutUint32(b.in[4:], uint32(op))
		to.Reset()
		l.answer(b, inHeaderSize+40)
		if got := to.Bytes(); len(got) != outHeaderSize || int32(le.Uint32(got[4:])) != -int32(unix.EPROTO) {
			t.Errorf("%s of 40 bytes: % x, want EPROTO", op, got)
		}
		if want := fmt.Sprintf("%s has 40 bytes", op); !strings.Contains(said.String(), want) {
			t.Errorf("the log has no %q: %q", want, said.String())
		}
	}
}

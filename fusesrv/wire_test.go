package fusesrv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures"
	"e4go/fixtures/tourimage"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes of the protocol (include/uapi/linux/fuse.h).
const (
	opReadlink = 5
	opMknod    = 8
	opMkdir    = 9
	opOpen     = 14

	opStatfs    = 17
	opListxattr = 23

	opOpendir = 27
	opReaddir = 28

	opReaddirplus = 44
	opLseek       = 46

	opStatx = 52
)

// A kernel is one end of a socket pair whose other end is a Server: it plays
// the FUSE driver, without a mount, root or /dev/fuse.
type kernel struct {
	t      testing.TB
	fd     int
	theirs int // the server's end
	server *Server
	log    *syncBuffer
	unique uint64
	reply  []byte // reused
}

var tour = sync.OnceValue(tourimage.New)

// newKernel serves the tour image, whose journal is replayed, and has
// answered INIT.
func newKernel(t testing.TB, caps uint64) *kernel {
	t.Helper()
	img := tour()
	dev := blockdev.NewMem(int64(len(img)))
	if _, err := dev.WriteAt(img, 0); err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return serveKernel(t, fs, caps)
}

func serveKernel(t testing.TB, fs *ext4.FS, caps uint64) *kernel {
	t.Helper()
	k := connectKernel(t, caps)
	var err error
	k.server, err = newServer(fs, device(k.theirs), &Options{Subtype: Subtype, Log: log.New(k.log, "", 0)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.run(k.server.Serve)
	return k
}

// connectKernel makes the socket pair, and sends INIT.
func connectKernel(t testing.TB, caps uint64) *kernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: pair[0], theirs: pair[1], log: &syncBuffer{}, reply: make([]byte, 2<<20)}
	init := fuse.InitIn{Major: 7, Minor: 40, MaxReadAhead: 128 << 10, Flags: uint32(caps) | fuse.CAP_INIT_EXT, Flags2: uint32(caps >> 32)}
	k.send(opInit, 0, encode(&init)[40:])
	return k
}

// run serves until the end of the test, and takes the answer to INIT.
func (k *kernel) run(serve func()) {
	t := k.t
	t.Helper()
	var done sync.WaitGroup
	done.Go(serve)
	t.Cleanup(func() {
		unix.Close(k.fd)
		done.Wait()
		if t.Failed() {
			t.Logf("the server said:\n%s", k.log)
		}
	})
	if errno, body := k.receive(); errno != 0 || len(body) < 24 {
		t.Fatalf("INIT: errno %v, %d bytes", errno, len(body))
	}
}

func encode(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func decode(t testing.TB, b []byte, v any) {
	t.Helper()
	if _, err := binary.Decode(b, binary.NativeEndian, v); err != nil {
		t.Fatalf("reply of %d bytes for %T: %v", len(b), v, err)
	}
}

// send sends a request of root.
func (k *kernel) send(opcode uint32, node uint64, body []byte) {
	k.t.Helper()
	k.unique++
	k.sendRaw(opcode, node, 0, body, 40+len(body))
}

func (k *kernel) sendRaw(opcode uint32, node uint64, uid uint32, body []byte, length int) {
	k.t.Helper()
	b := binary.NativeEndian.AppendUint32(nil, uint32(length))
	b = binary.NativeEndian.AppendUint32(b, opcode)
	b = binary.NativeEndian.AppendUint64(b, k.unique)
	b = binary.NativeEndian.AppendUint64(b, node)
	b = binary.NativeEndian.AppendUint32(b, uid)
	b = append(b, make([]byte, 12)...) // gid, pid, extension and padding
	if _, err := unix.Write(k.fd, append(b, body...)); err != nil {
		k.t.Fatalf("send opcode %d: %v", opcode, err)
	}
}

// receive returns the reply to the last request.
func (k *kernel) receive() (unix.Errno, []byte) {
	k.t.Helper()
	n, err := unix.Read(k.fd, k.reply)
	for err == unix.EINTR { // with a timeout set, a read is not restarted after a signal
		n, err = unix.Read(k.fd, k.reply)
	}
	if err != nil {
		k.t.Fatalf("no answer: %v", err)
	}
	if n < 16 {
		k.t.Fatalf("the answer has %d bytes", n)
	}
	var h fuse.OutHeader
	decode(k.t, k.reply[:16], &h)
	if int(h.Length) != n || h.Unique != k.unique || h.Status > 0 || h.Status != 0 && n != 16 {
		k.t.Fatalf("header %+v of an answer of %d bytes to request %d", h, n, k.unique)
	}
	return unix.Errno(-h.Status), k.reply[16:n]
}

func (k *kernel) ask(opcode uint32, node uint64, body []byte) (unix.Errno, []byte) {
	k.t.Helper()
	k.send(opcode, node, body)
	return k.receive()
}

func (k *kernel) lookup(dir uint64, name string) fuse.EntryOut {
	k.t.Helper()
	errno, body := k.ask(opLookup, dir, append([]byte(name), 0))
	if errno != 0 {
		k.t.Fatalf("LOOKUP %q: %v", name, errno)
	}
	var e fuse.EntryOut
	decode(k.t, body, &e)
	return e
}

func readBody(off uint64, size uint32) []byte {
	return encode(&fuse.ReadIn{Offset: off, Size: size})[40:]
}

const allCaps = fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_READDIRPLUS | fuse.CAP_POSIX_ACL

func TestWireLookup(t *testing.T) {
	k := newKernel(t, allCaps)
	docs := k.lookup(fuse.FUSE_ROOT_ID, "docs")
	guide := k.lookup(docs.NodeId, "guide.txt")
	readme := k.lookup(fuse.FUSE_ROOT_ID, "README.txt")
	if guide.NodeId != readme.NodeId || guide.Ino != guide.NodeId || guide.Nlink != 2 {
		t.Errorf("a hard link is node %d, inode %d, with %d links; the other name node %d", guide.NodeId, guide.Ino, guide.Nlink, readme.NodeId)
	}
	if guide.EntryTimeout() < time.Hour || guide.AttrTimeout() < time.Hour {
		t.Errorf("valid for %v and %v, want long", guide.EntryTimeout(), guide.AttrTimeout())
	}
	none := k.lookup(fuse.FUSE_ROOT_ID, "no such name")
	if none.NodeId != 0 || none.EntryTimeout() < time.Hour {
		t.Errorf("a missing name is node %d, valid for %v", none.NodeId, none.EntryTimeout())
	}
	if dot := k.lookup(guide.NodeId, "."); dot.NodeId != guide.NodeId || dot.Generation != guide.Generation {
		t.Errorf(`"." of a file is node %d, generation %d`, dot.NodeId, dot.Generation)
	}
	if up := k.lookup(docs.NodeId, ".."); up.NodeId != fuse.FUSE_ROOT_ID || up.Ino != 2 {
		t.Errorf(`".." of a directory in the root is node %d, inode %d`, up.NodeId, up.Ino)
	}
}

func TestWireRead(t *testing.T) {
	k := newKernel(t, allCaps)
	file := k.lookup(fuse.FUSE_ROOT_ID, "README.txt")
	errno, whole := k.ask(opRead, file.NodeId, readBody(0, 128<<10))
	if errno != 0 || uint64(len(whole)) != file.Size {
		t.Fatalf("READ: %v, %d bytes of %d", errno, len(whole), file.Size)
	}
	whole = bytes.Clone(whole)
	tests := []struct {
		off   uint64
		size  uint32
		want  []byte
		errno unix.Errno
	}{
		{0, 5, whole[:5], 0},
		{3, 4, whole[3:7], 0},
		{file.Size - 1, 4096, whole[file.Size-1:], 0},
		{file.Size, 4096, nil, 0},
		{1 << 62, 4096, nil, 0},
		{1<<63 - 1, 4096, nil, 0},
		{1 << 63, 4096, nil, unix.EINVAL},
		{1<<64 - 1, 1, nil, unix.EINVAL},
		{0, 0, nil, 0},
	}
	for _, tt := range tests {
		errno, got := k.ask(opRead, file.NodeId, readBody(tt.off, tt.size))
		if errno != tt.errno || !bytes.Equal(got, tt.want) {
			t.Errorf("READ of %d at %d: got %v and %q, want %v and %q", tt.size, tt.off, errno, got, tt.errno, tt.want)
		}
	}
}

// No request, however odd, is left without an answer.
func TestWireHostile(t *testing.T) {
	k := newKernel(t, allCaps)
	file := k.lookup(fuse.FUSE_ROOT_ID, "README.txt").NodeId
	dir := k.lookup(fuse.FUSE_ROOT_ID, "docs").NodeId
	name := []byte("x\x00")
	big := bytes.Repeat([]byte{0xff}, 512)
	lseek := func(off uint64, whence uint32) []byte {
		return encode(&fuse.LseekIn{Offset: off, Whence: whence, Fh: 99})[40:]
	}
	tests := []struct {
		what   string
		opcode uint32
		node   uint64
		body   []byte
		want   unix.Errno
	}{
		{"node 0", opGetattr, 0, big[:16], unix.ESTALE},
		{"node beyond the inodes", opGetattr, 1 << 31, big[:16], unix.ENOENT},
		{"node beyond 32 bits", opGetattr, 1 << 40, big[:16], unix.ESTALE},
		{"node of all ones but one", opGetattr, 1<<64 - 2, big[:16], unix.ESTALE},
		{"unused inode", opGetattr, 200, big[:16], unix.EUCLEAN},
		{"look up in a file", opLookup, file, name, unix.ENOTDIR},
		{"look up a long name", opLookup, 1, append(bytes.Repeat([]byte("n"), 256), 0), unix.ENAMETOOLONG},
		{"look up no name", opLookup, 1, nil, 0},
		{"read a directory", opRead, dir, readBody(0, 4096), unix.EISDIR},
		{"list a file", opReaddir, file, readBody(0, 4096), unix.ENOTDIR},
		{"list a file with attributes", opReaddirplus, file, readBody(0, 4096), unix.ENOTDIR},
		{"list from nowhere", opReaddir, dir, readBody(1<<63, 4096), 0},
		{"list into too little", opReaddir, dir, readBody(0, 8), unix.EINVAL},
		{"read the link that is none", opReadlink, file, nil, unix.EINVAL},
		{"seek behind the end", opLseek, file, lseek(1<<40, unix.SEEK_DATA), unix.ENXIO},
		{"seek before the start", opLseek, file, lseek(1<<63, unix.SEEK_HOLE), unix.ENXIO},
		{"seek by nonsense", opLseek, file, lseek(0, 77), unix.EINVAL},
		{"open", opOpen, file, big[:8], unix.ENOSYS},
		{"open a directory", opOpendir, dir, big[:8], unix.ENOSYS},
		{"flush", 25, file, big[:24], unix.ENOSYS},
		{"fsync", 20, file, big[:16], unix.ENOSYS},
		{"fsync of a directory", 30, dir, big[:16], unix.ENOSYS},
		{"write", opWrite, file, big, unix.EROFS},
		{"set attributes", opSetattr, file, big[:88], unix.EROFS},
		{"make a node", opMknod, dir, append(make([]byte, 16), name...), unix.EROFS},
		{"make a directory", opMkdir, dir, append(make([]byte, 8), name...), unix.EROFS},
		{"unlink", opUnlink, dir, name, unix.EROFS},
		{"ioctl of all ones", opIoctl, file, append(bytes.Repeat([]byte{0xff}, 24), make([]byte, 8)...), unix.ENOTTY},
		{"xattr of no name", opGetxattr, file, append(make([]byte, 8), 0), unix.EOPNOTSUPP},
		{"short lookup", opGetattr, file, nil, unix.EIO},
		{"bmap of block 2^64-1", opBmap, file, big[:16], unix.EINVAL},
		{"bmap of blocks of no size", opBmap, file, make([]byte, 16), unix.EINVAL},
		{"bmap without a block", opBmap, file, big[:8], unix.EIO},
		{"bmap of a directory", opBmap, dir, append(make([]byte, 8), 0, 16, 0, 0, 0, 0, 0, 0), unix.EINVAL},
		{"syncfs", opSyncfs, 1, big[:8], unix.ENOSYS},
		{"opcode 99", 99, 1, big, unix.ENOSYS},
		{"opcode 106, behind go-fuse's table", 106, 1, big, unix.ENOSYS},
		{"opcode of iomap", 4095, 1, big, unix.ENOSYS},
		{"opcode of all ones", 1<<32 - 1, 1, nil, unix.ENOSYS},
	}
	for _, tt := range tests {
		if got, _ := k.ask(tt.opcode, tt.node, tt.body); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.what, got, tt.want)
		}
	}
	k.send(opForget, file, big[:8]) // has no answer
	if k.lookup(1, "README.txt").NodeId != file {
		t.Error("the server is not what it was")
	}
}

// A kernel that knows nothing of going without OPEN gets handles, and the same
// listing.
func TestWireOldKernel(t *testing.T) {
	k := newKernel(t, 0)
	var o fuse.OpenOut
	errno, body := k.ask(opOpen, k.lookup(1, "README.txt").NodeId, make([]byte, 8))
	if errno != 0 {
		t.Fatalf("OPEN: %v", errno)
	}
	decode(t, body, &o)
	if o.OpenFlags != fuse.FOPEN_KEEP_CACHE {
		t.Errorf("OPEN: flags %#x", o.OpenFlags)
	}
	if errno, _ := k.ask(opOpen, k.lookup(1, "README.txt").NodeId, encode(&fuse.OpenIn{Flags: unix.O_RDWR})[40:]); errno != unix.EROFS {
		t.Errorf("OPEN for writing: %v, want EROFS", errno)
	}
	if errno, body = k.ask(opOpendir, 1, make([]byte, 8)); errno != 0 {
		t.Fatalf("OPENDIR: %v", errno)
	}
	decode(t, body, &o)
	if o.OpenFlags != fuse.FOPEN_CACHE_DIR|fuse.FOPEN_KEEP_CACHE {
		t.Errorf("OPENDIR: flags %#x", o.OpenFlags)
	}
}

// readdir lists node from a cookie on until the end, in pieces of size bytes.
func (k *kernel) readdir(node, cookie uint64, size uint32) []fuse.DirEntry {
	k.t.Helper()
	var all []fuse.DirEntry
	for {
		errno, body := k.ask(opReaddir, node, readBody(cookie, size))
		if errno != 0 {
			k.t.Fatalf("READDIR at %#x: %v", cookie, errno)
		}
		part, err := fuse.ParseDirEntries(body)
		if err != nil {
			k.t.Fatal(err)
		}
		if len(part) == 0 {
			return all
		}
		all = append(all, part...)
		cookie = part[len(part)-1].Off
	}
}

// From the cookie of each entry a listing goes on with the one behind it.
func TestWireReaddirCookies(t *testing.T) {
	k := newKernel(t, allCaps)
	many := k.lookup(1, "many").NodeId
	all := k.readdir(many, 0, 64<<10)
	if len(all) < 20 || all[0].Name != "." || all[1].Name != ".." {
		t.Fatalf("a listing of %d entries", len(all))
	}
	seen := map[string]bool{}
	for i, e := range all {
		if seen[e.Name] {
			t.Fatalf("%q is there twice", e.Name)
		}
		seen[e.Name] = true
		rest := k.readdir(many, e.Off, 300)
		if len(rest) != len(all)-i-1 || len(rest) > 0 && rest[0] != all[i+1] {
			t.Fatalf("behind %q at %#x are %d entries, want %d", e.Name, e.Off, len(rest), len(all)-i-1)
		}
	}
	if again := k.readdir(many, 0, 1000); len(again) != len(all) {
		t.Errorf("rewound, it has %d entries of %d", len(again), len(all))
	}
}

func TestWireReaddirplus(t *testing.T) {
	k := newKernel(t, allCaps)
	errno, body := k.ask(opReaddirplus, 1, readBody(0, 64<<10))
	if errno != 0 {
		t.Fatal(errno)
	}
	names, entries, err := fuse.ParseDirLookupEntries(bytes.Clone(body))
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range names {
		if d.Name == "." || d.Name == ".." {
			if entries[i].NodeId != 0 {
				t.Errorf("%q has node %d: the kernel must not count a look-up", d.Name, entries[i].NodeId)
			}
			continue
		}
		if want := k.lookup(1, d.Name); entries[i] != want {
			t.Errorf("%q: %+v by READDIRPLUS, %+v by LOOKUP", d.Name, entries[i], want)
		}
	}
	if len(names) < 8 {
		t.Errorf("%d names in the root", len(names))
	}
}

// Listings that nobody goes on with do not add up.
func TestWireStreamsBounded(t *testing.T) {
	k := newKernel(t, allCaps)
	many := k.lookup(1, "many").NodeId
	for i := range 3 * maxStreams {
		k.ask(opReaddir, many, readBody(uint64(i), 300))
	}
	var dirs dirStreams
	for i := range 3 * maxStreams {
		dirs.keep(&stream{ino: 5, cookie: uint64(i)})
	}
	if n := len(dirs.list); n != maxStreams {
		t.Errorf("%d listings are kept, want %d", n, maxStreams)
	}
	if dirs.take(5, 3*maxStreams-1) == nil || dirs.take(5, 0) != nil || dirs.take(6, 3*maxStreams-2) != nil {
		t.Error("not the newest are kept")
	}
}

func TestWireXattrsOfTrusted(t *testing.T) {
	k := newKernel(t, allCaps)
	file := k.lookup(1, "attributes.txt").NodeId
	size := encode(&fuse.GetXAttrIn{Size: 4096})[40:]
	list := func(uid uint32) string {
		k.unique++
		k.sendRaw(opListxattr, file, uid, size, 40+len(size))
		errno, body := k.receive()
		if errno != 0 {
			t.Fatalf("LISTXATTR as %d: %v", uid, errno)
		}
		return string(body)
	}
	root, other := list(0), list(1000)
	if !bytes.Contains([]byte(root), []byte("user.")) || bytes.Contains([]byte(other), []byte("trusted.")) {
		t.Errorf("root sees %q, another %q", root, other)
	}
	if errno, body := k.ask(opListxattr, file, make([]byte, 8)); errno != 0 || binary.NativeEndian.Uint32(body) != uint32(len(root)) {
		t.Errorf("size of the list: %v, % x, want %d", errno, body, len(root))
	}
	if errno, _ := k.ask(opListxattr, file, encode(&fuse.GetXAttrIn{Size: 1})[40:]); errno != unix.ERANGE {
		t.Errorf("list into 1 byte: %v, want ERANGE", errno)
	}
	name := root[strings.Index(root, "user."):]
	name = name[:strings.IndexByte(name, 0)+1]
	get := func(size uint32) (unix.Errno, []byte) {
		return k.ask(opGetxattr, file, append(encode(&fuse.GetXAttrIn{Size: size})[40:], name...))
	}
	errno, value := get(4096)
	if errno != 0 || len(value) < 2 {
		t.Fatalf("%q: %v, % x", name, errno, value)
	}
	n := uint32(len(value))
	if errno, same := get(n); errno != 0 || !bytes.Equal(same, value) {
		t.Errorf("%q into %d bytes: %v, % x, want % x", name, n, errno, same, value)
	}
	if errno, _ := get(n - 1); errno != unix.ERANGE {
		t.Errorf("%q into %d bytes: %v, want ERANGE", name, n-1, errno)
	}
	if errno, body := get(0); errno != 0 || len(body) != 8 || binary.NativeEndian.Uint32(body) != n {
		t.Errorf("size of %q: %v, % x, want %d", name, errno, body, n)
	}
	if errno, _ := k.ask(opGetxattr, k.lookup(1, "README.txt").NodeId, append(encode(&fuse.GetXAttrIn{Size: 100})[40:], "user.none\x00"...)); errno != unix.ENODATA {
		t.Errorf("missing xattr: %v, want ENODATA", errno)
	}
}

func TestWireIoctls(t *testing.T) {
	k := newKernel(t, allCaps)
	file := k.lookup(1, "README.txt").NodeId
	tests := []struct {
		what string
		cmd  uint32
		size uint32
		want unix.Errno
	}{
		{"FS_IOC_GETFLAGS", iocGetFlags, 4, 0},
		{"FS_IOC_GETFLAGS into too little", iocGetFlags, 2, unix.EINVAL},
		{"FS_IOC32_GETVERSION", iocGetVersion32, 4, 0},
		{"FS_IOC_FSGETXATTR", iocFSGetXattr, 28, 0},
		{"FS_IOC_GETFSLABEL", iocGetFSLabel, 256, 0},
		{"FS_IOC_SETFLAGS without flags", iocSetFlags, 0, unix.EINVAL},
		{"FS_IOC_GETFSUUID", iocGetFSUUID, 17, 0},
		{"EXT4_IOC_GETFSUUID of a process that is not there", iocExt4GetFSUUID, 8, unix.ENOTTY},
		{"EXT4_IOC_RESIZE_FS", 0x40086610, 0, unix.ENOTTY},
	}
	for _, tt := range tests {
		body := encode(&fuse.IoctlIn{Cmd: tt.cmd, OutSize: tt.size})[40:]
		errno, out := k.ask(opIoctl, file, body)
		if errno != tt.want || errno == 0 && len(out) != 16+int(tt.size) {
			t.Errorf("%s: got %v and %d bytes, want %v", tt.what, errno, len(out), tt.want)
		}
	}
	for _, cmd := range []uint32{iocGetVersion, iocExt4GetVersion} { // they say 8 bytes, and there is room for 4
		errno, out := k.ask(opIoctl, file, encode(&fuse.IoctlIn{Cmd: cmd, OutSize: 8})[40:])
		if errno != 0 || len(out) != 16+4 {
			t.Errorf("ioctl %#x: got %v and %d bytes, want 4 behind the head", cmd, errno, len(out)-16)
		}
	}
}

// The end of the connection ends Serve, without being told.
func TestWireGone(t *testing.T) {
	k := newKernel(t, allCaps)
	if err := unix.Shutdown(k.fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { k.server.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Serve goes on")
	}
}

// A fault of ours is an answer too, and is reported.
func TestWirePanic(t *testing.T) {
	k := serveKernel(t, new(ext4.FS), 0) // a file system that is none
	if errno, _ := k.ask(opGetattr, 1, make([]byte, 16)); errno != unix.EIO {
		t.Errorf("got %v, want EIO", errno)
	}
	if !bytes.Contains([]byte(k.log.String()), []byte("fault of e4go")) {
		t.Errorf("the log has no report: %q", k.log)
	}
}

// Any request has an answer that is well-formed.
func FuzzRequest(f *testing.F) {
	f.Add(uint32(opLookup), uint64(1), []byte("README.txt\x00"))
	f.Add(uint32(opRead), uint64(13), readBody(1, 100))
	f.Add(uint32(opReaddirplus), uint64(1), readBody(0, 4096))
	f.Add(uint32(opStatx), uint64(12), make([]byte, 24))
	f.Add(uint32(opStatfs), uint64(1), []byte{})
	f.Add(uint32(opIoctl), uint64(12), encode(&fuse.IoctlIn{Cmd: iocFSGetXattr, OutSize: 28})[40:])
	f.Add(uint32(opGetxattr), uint64(12), append(encode(&fuse.GetXAttrIn{Size: 64})[40:], "system.posix_acl_access\x00"...))
	k := newKernel(f, allCaps)
	f.Fuzz(func(t *testing.T, opcode uint32, node uint64, body []byte) {
		if len(body) > 4096 {
			t.Skip()
		}
		switch opcode {
		case opForget, 41, 42, 100, 101, 102, 103, 104, 105, 36, opInit:
			t.Skip() // have no answer, or are go-fuse's own business
		case opRead, opReaddir, opReaddirplus, opGetxattr, opListxattr, opIoctl:
			// The kernel asks for no more than max_read and what fits its buffers.
			at := map[uint32]int{opGetxattr: 0, opListxattr: 0, opIoctl: 28}[opcode]
			if opcode == opRead || opcode == opReaddir || opcode == opReaddirplus {
				at = 16
			}
			if len(body) >= at+4 {
				binary.NativeEndian.PutUint32(body[at:], binary.NativeEndian.Uint32(body[at:])%(64<<10))
			}
		}
		k.t = t
		k.ask(opcode, node, body)
	})
}

func TestMountNeedsDirectory(t *testing.T) {
	fixtures.Need(t, "root", "fuse")
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fs, _ := openFS(t, madeFS(t, "16M", func(string) {}), 0, ext4.Options{})
	tests := []struct {
		dir  string
		want error
	}{
		{file, unix.ENOTDIR},
		{file + "-is-not", os.ErrNotExist},
	}
	for _, tt := range tests {
		if _, err := Mount(fs, tt.dir, Options{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.dir, err, tt.want)
		}
	}
	var bad *OptionError
	if _, err := Mount(fs, t.TempDir(), Options{Extra: []string{"ro", "frobnicate"}}); !errors.As(err, &bad) || bad.Option != "frobnicate" {
		t.Errorf("unknown option: %v", err)
	}
}

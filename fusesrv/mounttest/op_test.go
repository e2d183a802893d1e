package mounttest

import (
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"golang.org/x/sys/unix"
)

// An op is one thing that a program asks of a file system. What the fields
// mean, Do decides; paths are relative to where the worker is.
type op struct {
	Do            string
	P, Q          string // paths; Q is a symbolic link's target, too
	Slot, From    int    // open files of the worker
	Flags         int
	Mode          uint32
	UID, GID      int
	Off, Off2, N  int64
	Seed          byte
	Name          string // of an xattr
	Value         []byte
	Atime, Mtime_ unix.Timespec
	Bare          bool // only what the call itself says
}

func (o op) String() string {
	s := o.Do
	add := func(format string, args ...any) { s += " " + fmt.Sprintf(format, args...) }
	if o.P != "" {
		add("%s", short(o.P))
	}
	if o.Q != "" {
		add("-> %s", short(o.Q))
	}
	switch o.Do {
	case "open", "tmpfile":
		add("#%d flags %#x mode %#o", o.Slot, o.Flags, o.Mode)
	case "close", "fsync", "fdatasync", "fstat", "linkfd":
		add("#%d", o.Slot)
	case "copy":
		add("#%d %d to #%d %d, %d bytes", o.From, o.Off, o.Slot, o.Off2, o.N)
	case "read", "write", "pread", "pwrite", "mmapwrite", "mmapread", "ftruncate", "truncate", "data", "hole":
		add("#%d at %d, %d bytes of %d", o.Slot, o.Off, o.N, o.Seed)
	case "fallocate":
		add("#%d mode %#x at %d, %d bytes", o.Slot, o.Mode, o.Off, o.N)
	case "mkdir", "mknod", "chmod", "fchmod", "access", "umask":
		add("#%d %#o %d", o.Slot, o.Mode, o.N)
	case "chown", "fchown":
		add("#%d %d:%d", o.Slot, o.UID, o.GID)
	case "rename", "setflags":
		add("%#x", o.Flags)
	case "utimes":
		add("%v %v", o.Atime, o.Mtime_)
	case "setxattr", "getxattr", "removexattr":
		add("%s=%d bytes %.60q flags %d", short(o.Name), len(o.Value), o.Value, o.Flags)
	}
	return s
}

// short cuts a long path.
func short(p string) string { return p[:min(len(p), 20)] }

// A result is what an op comes to: an errno, and whatever else a program can
// see, as text.
type result struct {
	Errno unix.Errno
	Out   string
}

func (r result) String() string {
	if r.Errno == 0 {
		return fmt.Sprintf("ok %s", r.Out)
	}
	return fmt.Sprintf("%s %s", unix.ErrnoName(r.Errno), r.Out)
}

// A wire carries ops one way and results the other.
type wire struct {
	enc *gob.Encoder
	dec *gob.Decoder
}

func newWire(r io.Reader, w io.Writer) *wire { return &wire{gob.NewEncoder(w), gob.NewDecoder(r)} }

func (w *wire) send(v any) error    { return w.enc.Encode(v) }
func (w *wire) receive(v any) error { return w.dec.Decode(v) }

const slots = 4

// A generator makes random ops, without looking at what becomes of them. The same
// seed makes the same ops.
type generator struct {
	rng    *rand.Rand
	reach  int64    // how long files become, in bytes
	dirs   []string // where names are; they are made first
	names  []string
	shared string // a directory that others use, too, and that stays; or ""
	made   int    // of dirs
	blocks bool   // files are mapped by blocks, not extents: nothing can be allocated unwritten
	flags  bool   // FS_IOC_SETFLAGS, which a model does not know
}

func newGenerator(seed uint64, dirs []string) *generator {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 7)), reach: 300_000, dirs: dirs}
	g.names = []string{"a", "b", "c", "d", "e", strings.Repeat("long", 60), "ünïcode space"}
	return g
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (g *generator) path() string {
	switch g.rng.IntN(60) {
	case 0:
		return strings.Repeat("x", 256)
	case 1:
		return pick(g.rng, g.dirs...)
	}
	dir := pick(g.rng, g.dirs...)
	if g.shared != "" && g.rng.IntN(4) == 0 {
		dir = g.shared
	}
	return dir + "/" + pick(g.rng, g.names...)
}

func (g *generator) slot() int { return g.rng.IntN(slots) }

// offset is a place in a file, often at the border of a block.
func (g *generator) offset() int64 {
	at := g.rng.Int64N(1 << uint(8+g.rng.IntN(11)))
	switch g.rng.IntN(4) {
	case 0:
		at = at / 4096 * 4096
	case 1:
		at = at / 16384 * 16384
	}
	return min(at, g.reach)
}

func (g *generator) length() int64 {
	n := 1 + g.rng.Int64N(1<<uint(g.rng.IntN(17)))
	if g.rng.IntN(3) == 0 {
		n = (n + 4095) / 4096 * 4096
	}
	return n
}

func (g *generator) mode() uint32 {
	return pick[uint32](g.rng, 0o644, 0o600, 0o640, 0o660, 0o666, 0o755, 0o777, 0o700, 0, 0o400, 0o111, 0o750,
		0o4755, 0o2755, 0o6755, 0o2770, 0o1777, 0o3777, 0o2644, 0o6777)
}

// The modes of fallocate(2) that FUSE carries, and two that are refused. Collapsing and
// inserting ranges the kernel's driver refuses by itself: EOPNOTSUPP.
var fallocModes = []uint32{
	0, 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE,
	unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
	unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
	unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_COLLAPSE_RANGE | unix.FALLOC_FL_KEEP_SIZE,
}

const (
	direct  = unix.O_DIRECT
	someACL = "system.posix_acl_"
)

// next makes the next op.
func (g *generator) next() op {
	r := g.rng
	if g.made < len(g.dirs) {
		g.made++
		return op{Do: "mkdir", P: g.dirs[g.made-1], Mode: 0o777}
	}
	switch n := r.IntN(108); {
	case n >= 100 || n < 14:
		flags := pick(r, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR, unix.O_RDWR)
		if r.IntN(3) > 0 {
			flags |= unix.O_CREAT
		}
		flags |= pick(r, 0, 0, 0, 0, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, direct, unix.O_NOFOLLOW, unix.O_DIRECTORY, unix.O_SYNC)
		if r.IntN(20) == 0 {
			return op{Do: "tmpfile", P: pick(r, g.dirs...), Slot: g.slot(), Flags: pick(r, unix.O_RDWR, unix.O_WRONLY, unix.O_RDWR|unix.O_EXCL), Mode: g.mode()}
		}
		return op{Do: "open", P: g.path(), Slot: g.slot(), Flags: flags, Mode: g.mode()}
	case n < 16:
		return op{Do: "close", Slot: g.slot()}
	case n < 26:
		return op{Do: pick(r, "pwrite", "pwrite", "write", "mmapwrite"), Slot: g.slot(), Off: g.offset(), N: g.length(), Seed: byte(r.Uint32())}
	case n < 32:
		return op{Do: pick(r, "pread", "read", "mmapread"), Slot: g.slot(), Off: g.offset(), N: g.length()}
	case n < 36:
		if r.IntN(2) == 0 {
			return op{Do: "truncate", P: g.path(), N: g.offset()}
		}
		return op{Do: "ftruncate", Slot: g.slot(), N: g.offset()}
	case n < 41:
		o := op{Do: "fallocate", Slot: g.slot(), Mode: pick(r, fallocModes...), Off: g.offset(), N: g.length()}
		if g.blocks { // the kernel updates the times before it refuses the others
			o.Mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		}
		return o
	case n < 43:
		return op{Do: pick(r, "data", "hole"), Slot: g.slot(), Off: g.offset()}
	case n < 45:
		return op{Do: "copy", Slot: g.slot(), From: g.slot(), Off: g.offset(), Off2: g.offset(), N: g.length()}
	case n < 46:
		return op{Do: pick(r, "fsync", "fdatasync"), Slot: g.slot()}
	case n < 51:
		if r.IntN(3) == 0 {
			return op{Do: "mkdir", P: pick(r, g.dirs...), Mode: g.mode() | 0o700}
		}
		return op{Do: "mkdir", P: g.path(), Mode: g.mode()}
	case n < 53:
		return op{Do: "rmdir", P: g.path()}
	case n < 57:
		return op{Do: "unlink", P: g.path()}
	case n < 63:
		return op{Do: "rename", P: g.path(), Q: g.path(),
			Flags: pick(r, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE)}
	case n < 66:
		if r.IntN(4) == 0 {
			return op{Do: "linkfd", Slot: g.slot(), Q: g.path()}
		}
		return op{Do: "link", P: g.path(), Q: g.path()}
	case n < 69:
		return op{Do: "symlink", P: g.path(), Q: pick(r, "a", "b", "d0/a", "nowhere", strings.Repeat("t", 59), strings.Repeat("t", 60), strings.Repeat("t/", 500), "")}
	case n < 70:
		return op{Do: "readlink", P: g.path()}
	case n < 72:
		return op{Do: "mknod", P: g.path(), Mode: pick[uint32](r, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK) | g.mode(),
			N: pick(r, int64(unix.Mkdev(240, 7)), int64(unix.Mkdev(240, 700000)), int64(unix.Mkdev(0, 0)))}
	case n < 77:
		if r.IntN(4) == 0 {
			return op{Do: "fchmod", Slot: g.slot(), Mode: g.mode()}
		}
		return op{Do: "chmod", P: g.path(), Mode: g.mode()}
	case n < 79:
		return g.owner()
	case n < 81:
		o := op{Do: "utimes", P: g.path()}
		for _, t := range []*unix.Timespec{&o.Atime, &o.Mtime_} {
			*t = unix.Timespec{Sec: pick[int64](r, 1_000_000_000, 0, -5, 1<<31+5, 1<<33), Nsec: pick[int64](r, 0, 999_999_999, 123_456_789, unix.UTIME_OMIT, unix.UTIME_NOW)}
		}
		return o
	case n < 88:
		return g.xattr()
	case n < 90:
		return op{Do: "readdir", P: pick(r, g.dirs...)}
	case n < 95:
		if r.IntN(4) == 0 {
			return op{Do: "fstat", Slot: g.slot()}
		}
		return op{Do: "stat", P: g.path()}
	case n < 96:
		return op{Do: "access", P: g.path(), Mode: uint32(r.IntN(8))}
	case n < 98:
		if g.flags {
			return op{Do: pick(r, "getflags", "setflags"), P: g.path(), Flags: g.inodeFlags()}
		}
		return op{Do: "stat", P: g.path()}
	}
	return op{Do: "umask", Mode: pick[uint32](r, 0o022, 0, 0o077, 0o027, 0o002)}
}

// inodeFlags are those of FS_IOC_SETFLAGS. Immutable and append-only ones go soon,
// so that something can still happen.
func (g *generator) inodeFlags() int {
	const immutable, appendOnly, nodump, noatime, sync, dirsync, topdir = 0x10, 0x20, 0x40, 0x80, 0x8, 0x10000, 0x20000
	return pick(g.rng, 0, 0, 0, immutable, appendOnly, nodump, noatime, sync, nodump|noatime, dirsync, topdir)
}

func (g *generator) owner() op {
	id := func() int { return pick(g.rng, 0, 1000, 1001, -1) }
	o := op{Do: "chown", P: g.path(), UID: id(), GID: pick(g.rng, 0, 1000, 1001, 2000, 3000, 70000, -1)}
	if o.UID == -1 && o.GID == -1 {
		o.UID = 1000
	}
	if g.rng.IntN(4) == 0 {
		o.Do, o.P, o.Slot = "fchown", "", g.slot()
	}
	return o
}

func (g *generator) xattr() op {
	r := g.rng
	o := op{P: g.path()}
	o.Name = pick(r, "user.a", "user.b", "user.c", "user."+strings.Repeat("n", 200), "trusted.t", "security.capability", "security.other",
		someACL+"access", someACL+"access", someACL+"default", someACL+"default", "nospace", "user.")
	switch r.IntN(8) {
	case 0:
		o.Do = "getxattr"
		return o
	case 1:
		o.Do = "listxattr"
		return o
	case 2:
		o.Do = "removexattr"
		return o
	}
	o.Do = "setxattr"
	o.Flags = pick(r, 0, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
	switch {
	case strings.HasPrefix(o.Name, someACL):
		o.Value = g.acl()
	case o.Name == "security.capability":
		o.Value = make([]byte, 20)
		binary.LittleEndian.PutUint32(o.Value, 0x02000000|uint32(r.IntN(2)))
		binary.LittleEndian.PutUint32(o.Value[4:], 1<<10)
		if r.IntN(6) == 0 {
			o.Value = []byte("no capability")
		}
	default:
		o.Value = make([]byte, pick(r, 0, 1, 20, 100, 500, 900, 2000, 3900, 5000))
		for i := range o.Value {
			o.Value[i] = 'a' + byte(i+r.IntN(2))%26
		}
	}
	return o
}

// The tags of ACL entries (include/uapi/linux/posix_acl.h).
const aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther = 1, 2, 4, 8, 16, 32

func aclBytes(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

func (g *generator) acl() []byte {
	r := g.rng
	perm := func() uint32 { return pick[uint32](r, 0, 4, 5, 6, 7, 7) }
	list := [][3]uint32{{aclUserObj, perm(), none}}
	named := false
	for _, id := range []uint32{1000, 1001} {
		if r.IntN(3) == 0 {
			list, named = append(list, [3]uint32{aclUser, perm(), id}), true
		}
	}
	list = append(list, [3]uint32{aclGroupObj, perm(), none})
	for _, id := range []uint32{2000, 3000} {
		if r.IntN(3) == 0 {
			list, named = append(list, [3]uint32{aclGroup, perm(), id}), true
		}
	}
	if named || r.IntN(3) == 0 {
		list = append(list, [3]uint32{aclMask, perm(), none})
	}
	list = append(list, [3]uint32{aclOther, perm(), none})
	switch r.IntN(20) {
	case 0: // one too few
		list = append(list[:1], list[2:]...)
	case 1:
		return nil
	case 2:
		return aclBytes()
	}
	return aclBytes(list...)
}

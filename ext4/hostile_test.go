package ext4_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures/tourimage"

	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// hostile is the image that code makes, without checksums, for a test to break.
type hostile struct {
	t     *testing.T
	image []byte
	bs    int
}

func newHostile(t *testing.T) *hostile {
	image := tourimage.New()
	noChecksums(image)
	sb := disk.DecodeSuperblock(image[disk.SuperblockOffset:])
	return &hostile{t, image, sb.BlockSize()}
}

func (h *hostile) open() *ext4.FS {
	h.t.Helper()
	fs, err := ext4.Open(memOf(h.t, h.image), ext4.Options{NoRecovery: true, CacheSize: 4 << 20})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { fs.Close() })
	return fs
}

func (h *hostile) inode(path string) *ext4.Inode {
	h.t.Helper()
	in, err := h.open().Resolve(path, false)
	if err != nil {
		h.t.Fatal(err)
	}
	return in
}

// raw is the bytes of the inode at path.
func (h *hostile) raw(path string) []byte {
	h.t.Helper()
	in := h.inode(path)
	blk, off := in.Location()
	return h.image[int(blk)*h.bs+off:][:len(in.Raw())]
}

// block is the bytes of block b of the file at path.
func (h *hostile) block(path string, b disk.LBlock) []byte {
	h.t.Helper()
	m, err := h.inode(path).Map(b)
	if err != nil || m.State != ext4.MapWritten {
		h.t.Fatalf("block %d of %s: %+v, %v", b, path, m, err)
	}
	return h.image[(int(m.Physical)+int(b-m.Logical))*h.bs:][:h.bs]
}

// list lists the directory at path until it ends, and looks each name up.
func (h *hostile) list(path string) (names []string, errs []error) {
	h.t.Helper()
	fs := h.open()
	in, err := fs.Resolve(path, true)
	if err != nil {
		h.t.Fatal(err)
	}
	d, err := fs.OpenDir(in)
	if err != nil {
		h.t.Fatal(err)
	}
	for last := uint64(0); ; {
		e, err := d.Next()
		if err == io.EOF {
			return names, errs
		}
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				h.t.Fatalf("list %s: %v", path, err)
			}
			errs = append(errs, err)
			continue
		}
		if e.Cookie <= last {
			h.t.Fatalf("cookie %d of %q behind %d", e.Cookie, e.Name, last)
		}
		last = e.Cookie
		names = append(names, e.Name)
		fs.Lookup(in, e.Name)
	}
}

// indexed is the directory of the tour that has a hash tree.
const indexed = "/many"

func (h *hostile) root() disk.DxNode {
	h.t.Helper()
	n := disk.DxRootNode(h.block(indexed, 0))
	if !h.inode(indexed).Disk().Flags.Has(disk.FlagIndex) || n.Limit() != n.DxLimit(false) {
		h.t.Fatalf("%s has no index", indexed)
	}
	return n
}

// The root of an index is no node below itself: read as one, its entry "."
// holds the count of entries.
func TestIndexThatLeadsToItsRoot(t *testing.T) {
	h := newHostile(t)
	whole, _ := h.list(indexed)
	node := h.root()
	b := h.block(indexed, 0)
	r := disk.DecodeDxRoot(b)
	r.Levels = 1
	r.Put(b)
	for i := range node.Count() {
		node.SetEntry(i, disk.DxEntry{Hash: node.Entry(i).Hash, Block: 0})
	}
	for _, count := range []uint16{0, 1, 0xffff} {
		le.PutUint16(b[8+2:], count)
		le.PutUint16(b[8:], 0xffff)
		b[0x8] = '.'
		names, _ := h.list(indexed)
		slices.Sort(names)
		slices.Sort(whole)
		if !slices.Equal(names, whole) {
			t.Errorf("count %d: %d names, want the %d of the blocks as they lie", count, len(names), len(whole))
		}
		if _, err := h.open().Resolve(indexed+"/name-299", true); err != nil {
			t.Errorf("count %d: %v", count, err)
		}
	}
}

// An index whose every entry leads to the same leaf lists that once, and ends.
func TestIndexThatLeadsToOneLeafOnly(t *testing.T) {
	for _, continued := range []uint32{0, 1} {
		h := newHostile(t)
		node := h.root()
		for i := range node.Limit() {
			node.SetEntry(i, disk.DxEntry{Hash: uint32(i)<<20 | continued, Block: 1})
		}
		node.SetCount(node.Limit(), node.Limit())
		names, errs := h.list(indexed)
		if len(errs) == 0 || len(names) == 0 {
			t.Errorf("continued %d: %d names, %d errors", continued, len(names), len(errs))
		}
		seen := map[string]bool{}
		for _, n := range names {
			if seen[n] {
				t.Fatalf("%q twice", n)
			}
			seen[n] = true
		}
	}
}

// A directory that maps one block a thousand times lists it once, also when it
// claims to be of any size.
func TestDirectoryOfOneBlockManyTimes(t *testing.T) {
	h := newHostile(t)
	raw := h.raw(indexed)
	in := disk.DecodeInode(raw)
	m, err := h.inode(indexed).Map(1)
	if err != nil {
		t.Fatal(err)
	}
	phys := m.Physical + disk.PBlock(1-m.Logical)
	in.Flags &^= disk.FlagIndex | disk.FlagExtents
	in.Size = 0xffffffff &^ uint64(h.bs-1)
	// The last blocks of the image become blocks of numbers, each entry the same.
	last := len(h.image)/h.bs - 4
	for i := range 12 {
		le.PutUint32(in.Block[4*i:], uint32(phys))
	}
	for level := range 3 {
		le.PutUint32(in.Block[4*(12+level):], uint32(last+level))
		to := uint32(phys)
		if level > 0 {
			to = uint32(last + level - 1)
		}
		for i := range h.bs / 4 {
			le.PutUint32(h.image[(last+level)*h.bs+4*i:], to)
		}
	}
	in.Put(raw)
	start := time.Now()
	names, errs := h.list(indexed)
	if len(errs) == 0 || len(errs) > 5000 || len(names) > 1000 {
		t.Errorf("%d names, %d errors", len(names), len(errs))
	}
	fs := h.open()
	if _, err := fs.Resolve(indexed+"/not there", true); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("look-up of what is not there: %v", err)
	}
	if _, err := fs.IOFS().ReadDir(indexed[1:]); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("ReadDir: %v", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
}

// A name with a slash or a NUL is no name: whoever joins it to a path would be
// led elsewhere.
func TestNamesThatNoFileCanHave(t *testing.T) {
	for _, c := range []byte{'/', 0} {
		h := newHostile(t)
		b := h.block("/docs", 0)
		at := strings.Index(string(b), "guide.txt")
		if at < 0 {
			t.Fatal("no guide.txt")
		}
		b[at+2] = c
		names, errs := h.list("/docs")
		if len(errs) != 1 || slices.ContainsFunc(names, func(n string) bool { return strings.IndexByte(n, c) >= 0 }) {
			t.Errorf("%q: names %q, errors %v", c, names, errs)
		}
		if !slices.Contains(names, "fast") {
			t.Errorf("%q: the other names are missing: %q", c, names)
		}
	}
}

// An entry may not lead to its own directory, which would make a walk endless,
// to an inode that is reserved, or to one that is deleted.
func TestEntriesThatLeadWhereTheyMayNot(t *testing.T) {
	h := newHostile(t)
	deleted := h.inode("/tiny.txt").Ino()
	self := h.inode("/docs").Ino()
	le.PutUint16(h.raw("/tiny.txt")[0x1a:], 0)
	b := h.block("/docs", 0)
	at := strings.Index(string(b), "guide.txt")
	for _, ino := range []disk.Ino{self, disk.JournalIno, disk.ResizeIno, deleted} {
		le.PutUint32(b[at-disk.DirentHeaderSize:], uint32(ino))
		if _, err := h.open().Resolve("/docs/guide.txt", true); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("inode %d: got %v", ino, err)
		}
	}
}

// Links that lead in a circle, or are longer than a path may be, end.
func TestLinksThatLeadNowhere(t *testing.T) {
	h := newHostile(t)
	raw := h.raw("/docs/fast")
	in := disk.DecodeInode(raw)
	for _, tt := range []struct {
		target string
		want   error
	}{
		{"fast", unix.ELOOP},
		{"/docs/fast/x", unix.ELOOP},
		{"../docs/../docs/./fast", unix.ELOOP},
		{"../../../../docs/guide.txt", nil},
		{"nosuch", unix.ENOENT},
		{"guide.txt/x", unix.ENOTDIR},
		{"guide.txt/", unix.ENOTDIR},
	} {
		clear(in.Block[:])
		copy(in.Block[:], tt.target)
		in.Size = uint64(len(tt.target))
		in.Put(raw)
		if _, err := h.open().Resolve("/docs/fast", true); !errors.Is(err, tt.want) {
			t.Errorf("link to %q: got %v, want %v", tt.target, err, tt.want)
		}
	}
}

// A size that no file can have is an error, and not a file that has no end.
func TestSizesThatNoFileHas(t *testing.T) {
	h := newHostile(t)
	raw := h.raw("/README.txt")
	in := disk.DecodeInode(raw)
	for _, size := range []uint64{1<<63 + 5, 1 << 62, 1 << 56} {
		in.Size = size
		in.Put(raw)
		fs := h.open()
		got, err := fs.Resolve("/README.txt", true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := got.ReadAt(make([]byte, 10), 0); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("size %#x: read: %v", size, err)
		}
		if _, err := fs.IOFS().ReadFile("README.txt"); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("size %#x: ReadFile: %v", size, err)
		}
		got.SeekHole(0)
		got.SeekData(0)
		got.Stat()
	}
}

// The orphan list may be a circle or lead outside; both end with an error.
func TestOrphanListThatIsNone(t *testing.T) {
	h := newHostile(t)
	sb := disk.DecodeSuperblock(h.image[disk.SuperblockOffset:])
	ino := h.inode("/README.txt").Ino()
	raw := h.raw("/README.txt")
	for _, next := range []uint32{uint32(ino), sb.Inodes + 1, 0xffffffff} {
		sb.LastOrphan = ino
		sb.Put(h.image[disk.SuperblockOffset:])
		le.PutUint32(raw[0x14:], next)
		got, err := h.open().Orphans()
		if !errors.Is(err, disk.ErrCorrupt) || len(got) != 1 {
			t.Errorf("next %d: %v, %v", next, got, err)
		}
	}
}

// Many xattrs that name the same huge value take no more memory than the limit.
func TestXattrsThatNameOneHugeValue(t *testing.T) {
	h := newHostile(t)
	sb := disk.DecodeSuperblock(h.image[disk.SuperblockOffset:])
	sb.Incompat |= disk.IncompatEAInode
	sb.Put(h.image[disk.SuperblockOffset:])
	// README.txt becomes the EA inode: 16 MiB of hole, with the hash of that.
	ea := h.inode("/README.txt").Ino()
	raw := h.raw("/README.txt")
	in := disk.DecodeInode(raw)
	const size = disk.MaxXattrValue
	sum := disk.EAInodeHash(sb.Seed(), make([]byte, size))
	in.Flags = disk.FlagEAInode
	clear(in.Block[:])
	in.Size, in.Atime.Sec = size, int64(int32(sum))
	in.Put(raw)
	// The block in front of the last belongs to nobody: it becomes an xattr block.
	blk := disk.PBlock(len(h.image)/h.bs - 2)
	b := h.image[int(blk)*h.bs:][:h.bs]
	clear(b)
	(disk.XattrHeader{Magic: disk.XattrMagic, Refcount: 1, Blocks: 1}).Put(b)
	n := 0
	for at := disk.XattrHeaderSize; at+disk.XattrEntryLen(4)+4 <= len(b); at += disk.XattrEntryLen(4) {
		name := fmt.Sprintf("%04d", n)
		disk.XattrEntry{NameLen: 4, Index: disk.XattrUser, ValueIno: ea, ValueSize: size,
			Hash: disk.XattrInodeEntryHash([]byte(name), sum, false)}.Put(b[at:])
		copy(b[at+disk.XattrEntrySize:], name)
		n++
	}
	target := h.raw("/tiny.txt")
	tin := disk.DecodeInode(target)
	tin.FileACL = blk
	tin.Put(target)
	got, err := h.inode("/tiny.txt").Xattrs()
	total := 0
	for _, x := range got {
		total += len(x.Value)
	}
	if !errors.Is(err, disk.ErrCorrupt) || total < size || total > 2*size {
		t.Errorf("%d entries: %d values of %d bytes, %v", n, len(got), total, err)
	}
}

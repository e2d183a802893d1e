package disk

import (
	"bytes"
	"math"
	"slices"
	"testing"
)

// FuzzInode: every inode of every size, whatever its i_extra_isize says.
func FuzzInode(f *testing.F) {
	for _, size := range []int{128, 256, 512, 1024} {
		f.Add(bytes.Repeat([]byte{0xff}, size))
		f.Add(bytes.Repeat([]byte{0xa5}, size))
		for _, extra := range []uint16{0, 1, 3, 4, 8, 23, 24, 28, 32, 36, uint16(size - 127)} {
			b := bytes.Repeat([]byte{0x81}, size)
			if size > 128 {
				le.PutUint16(b[0x80:], extra)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 128
		for size*2 <= len(b) && size < 65536 {
			size *= 2
		}
		if len(b) < size {
			t.Skip()
		}
		b = b[:size]
		roundTrip(t, b, DecodeInode, func(in Inode, b []byte) { in.Put(b) })
		in := DecodeInode(b)
		sb := legalSuper(6)
		sb.InodeSize = uint16(min(size, 32768))
		_, _, _, _ = in.Sectors(&sb), in.FastSymlink(&sb), in.HasCrtime(&sb), InodeChecksum(1, 2, b)
		_, _ = in.Flags.Names(), in.Mode.FileType().String()
		if err := CheckInode(&sb, 12, b, 1, 0); err != nil {
			return
		}
		if place, ok := XattrIbodyPlace(12, b, 1, 0); ok {
			_, _ = place.Xattrs()
		}
	})
}

func TestCheckInode(t *testing.T) {
	csum := legalSuper(2)
	none := csum
	none.ROCompat = 0
	tests := []struct {
		name  string
		sb    *Superblock
		size  int
		extra uint16
		edit  func(b []byte) // after the checksum was made
		field string
		at    int
	}{
		{"legal", &csum, 256, 32, nil, "", 0},
		{"legal, 128 bytes", &csum, 128, 0, nil, "", 0},
		{"legal, half a checksum", &csum, 256, 0, nil, "", 0},
		{"legal, full", &csum, 256, 128, nil, "", 0},
		{"never used", &csum, 256, 0, func(b []byte) { clear(b) }, "", 0},
		{"no checksums", &none, 256, 32, func(b []byte) { b[5] ^= 1 }, "", 0},
		{"extra beyond the end", &csum, 256, 132, nil, "i_extra_isize", 0x80},
		{"odd extra", &csum, 256, 30, nil, "i_extra_isize", 0x80},
		{"extra beyond the end, no checksums", &none, 256, 132, nil, "i_extra_isize", 0x80},
		{"first byte", &csum, 256, 32, func(b []byte) { b[0] ^= 0x80 }, "i_checksum", 0x7c},
		{"low half", &csum, 256, 32, func(b []byte) { b[0x7d] ^= 0x80 }, "i_checksum", 0x7c},
		{"high half", &csum, 256, 32, func(b []byte) { b[0x83] ^= 1 }, "i_checksum", 0x7c},
		{"after the high half", &csum, 256, 32, func(b []byte) { b[0x84] ^= 1 }, "i_checksum", 0x7c},
		{"last byte", &csum, 256, 32, func(b []byte) { b[0xff] ^= 1 }, "i_checksum", 0x7c},
		{"last byte, 128 bytes", &csum, 128, 0, func(b []byte) { b[0x7f] ^= 1 }, "i_checksum", 0x7c},
		{"last byte, half a checksum", &csum, 256, 0, func(b []byte) { b[0xff] ^= 1 }, "i_checksum", 0x7c},
		{"bytes of no high half", &csum, 256, 0, func(b []byte) { b[0x82] ^= 1 }, "i_checksum", 0x7c},
	}
	for _, tt := range tests {
		b := bytes.Repeat([]byte{0x11}, tt.size)
		if tt.size > 128 {
			le.PutUint16(b[0x80:], tt.extra)
		}
		in := DecodeInode(b)
		in.Checksum = InodeChecksum(tt.sb.Seed(), 12, b)
		in.Put(b)
		if tt.edit != nil {
			tt.edit(b)
		}
		wantCorrupt(t, tt.name, CheckInode(tt.sb, 12, b, 99, 0xb00), tt.field, 99, 0xb00+tt.at)
		if tt.field == "" && tt.sb == &csum && !allZero(b) {
			wantCorrupt(t, tt.name+", other inode", CheckInode(tt.sb, 13, b, 99, 0), "i_checksum", 99, 0x7c)
		}
	}
}

// The fields behind the first 128 bytes exist as far as i_extra_isize reaches.
func TestInodeExtra(t *testing.T) {
	full := Inode{Ctime: Time{1 << 33, 1}, Mtime: Time{1 << 33, 2}, Atime: Time{1 << 33, 3}, Crtime: Time{1<<33 + 5, 4},
		Version: 7<<32 | 8, ProjID: 9, Checksum: 0x12345678, ExtraIsize: 32}
	tests := []struct {
		extra, wantExtra uint16
		want             Inode
	}{
		{4, 4, Inode{Checksum: 0x12345678, Version: 8}},
		{8, 8, Inode{Checksum: 0x12345678, Version: 8, Ctime: full.Ctime}},
		{12, 12, Inode{Checksum: 0x12345678, Version: 8, Ctime: full.Ctime, Mtime: full.Mtime}},
		{16, 16, Inode{Checksum: 0x12345678, Version: 8, Ctime: full.Ctime, Mtime: full.Mtime, Atime: full.Atime}},
		{20, 20, Inode{Checksum: 0x12345678, Version: 8, Ctime: full.Ctime, Mtime: full.Mtime, Atime: full.Atime, Crtime: Time{5, 0}}},
		{24, 24, Inode{Checksum: 0x12345678, Version: 8, Ctime: full.Ctime, Mtime: full.Mtime, Atime: full.Atime, Crtime: full.Crtime}},
		{28, 28, Inode{Checksum: 0x12345678, Version: 7<<32 | 8, Ctime: full.Ctime, Mtime: full.Mtime, Atime: full.Atime, Crtime: full.Crtime}},
		{32, 32, full},
		{96, 96, full}, // a longer inode of the future
		{0, 0, Inode{Checksum: 0x5678, Version: 7<<32 | 8, Ctime: full.Ctime, Mtime: full.Mtime, Atime: full.Atime, Crtime: full.Crtime, ProjID: 9}},
	}
	sb := legalSuper(2)
	for _, tt := range tests {
		b := make([]byte, 256)
		full.Put(b)
		le.PutUint16(b[0x80:], tt.extra)
		tt.want.ExtraIsize = tt.wantExtra
		got := DecodeInode(b)
		if got != tt.want {
			t.Errorf("i_extra_isize %d: got %+v, want %+v", tt.extra, got, tt.want)
		}
		if has := tt.extra == 0 || tt.extra >= 20; got.HasCrtime(&sb) != has {
			t.Errorf("i_extra_isize %d: HasCrtime is %t", tt.extra, !has)
		}
	}
	sb.InodeSize = 128
	if full.HasCrtime(&sb) {
		t.Error("an inode of 128 bytes says when it was created")
	}
}

func TestTime(t *testing.T) {
	tests := []struct {
		sec, extra uint32
		want       Time
	}{
		{0x80000000, 0, Time{math.MinInt32, 0}}, // 1901-12-13
		{0xffffffff, 0, Time{-1, 0}},            // the last second of 1969
		{0, 0, Time{0, 0}},
		{0x7fffffff, 0, Time{math.MaxInt32, 0}},           // 2038-01-19
		{0x80000000, 1, Time{1 << 31, 0}},                 // the second after
		{0xffffffff, 1, Time{1<<32 - 1, 0}},               // 2106-02-07
		{0, 1, Time{1 << 32, 0}},                          // the second after
		{0x7fffffff, 1, Time{1<<32 + 1<<31 - 1, 0}},       // 2174-02-25
		{0x80000000, 2, Time{1<<32 + 1<<31, 0}},           // the second after
		{0x7fffffff, 2, Time{2<<32 + 1<<31 - 1, 0}},       // 2310-04-04
		{0x80000000, 3, Time{2<<32 + 1<<31, 0}},           // the second after
		{0x7fffffff, 3, Time{3<<32 + 1<<31 - 1, 0}},       // 2446-05-10, the end
		{0xffffffff, 999999999 << 2, Time{-1, 999999999}}, // just before 1970
		{1, 999999999<<2 | 3, Time{3<<32 + 1, 999999999}}, // both in one word
		{5, 0xfffffffc, Time{5, 1<<30 - 1}},               // more than a second: kept as it stands
		{0x80000000, 1 << 2, Time{math.MinInt32, 1}},      // nanoseconds count forwards
		{0x12345678, 0x9abcdef0, Time{0x12345678, 0x26af37bc}},
	}
	for _, tt := range tests {
		if got := decodeTime(tt.sec, tt.extra); got != tt.want {
			t.Errorf("%#x, %#x: got %+v, want %+v", tt.sec, tt.extra, got, tt.want)
		}
		if sec, extra := tt.want.encode(true); sec != tt.sec || extra != tt.extra {
			t.Errorf("%+v: got %#x, %#x, want %#x, %#x", tt.want, sec, extra, tt.sec, tt.extra)
		}
	}
}

// Times that 32 bits cannot hold do not become others where there is no room for more.
func TestTimeWithoutRoom(t *testing.T) {
	in := Inode{Atime: Time{Sec: 1 << 32, Nsec: 5}, Mtime: Time{Sec: -1 << 32}, Ctime: Time{Sec: 1<<31 + 7, Nsec: 9}, ExtraIsize: 8}
	b := make([]byte, 256)
	in.Put(b)
	got := DecodeInode(b)
	if want := (Time{Sec: math.MaxInt32}); got.Atime != want {
		t.Errorf("atime is %v, want %v", got.Atime, want)
	}
	if want := (Time{Sec: math.MinInt32}); got.Mtime != want {
		t.Errorf("mtime is %v, want %v", got.Mtime, want)
	}
	if got.Ctime != in.Ctime {
		t.Errorf("ctime, which has room, is %v, want %v", got.Ctime, in.Ctime)
	}
}

func TestDev(t *testing.T) {
	tests := []struct {
		major, minor uint32
		word0, word1 uint32
	}{
		{0, 0, 0, 0},
		{0, 1, 1, 0},
		{8, 1, 0x0801, 0},
		{255, 255, 0xffff, 0},
		{256, 0, 0, 0x10000},
		{0, 256, 0, 0x100000},
		{1, 256, 0, 0x100100},
		{0xfff, 0xfffff, 0, 0xffffffff},
		{0x123, 0x45678, 0, 0x45612378},
	}
	for _, tt := range tests {
		in := Inode{Block: [IBlockSize]byte(bytes.Repeat([]byte{0xff}, IBlockSize))}
		in.SetDev(tt.major, tt.minor)
		if w0, w1, w2 := le.Uint32(in.Block[0:]), le.Uint32(in.Block[4:]), le.Uint32(in.Block[8:]); w0 != tt.word0 || w1 != tt.word1 || w2 != 0 {
			t.Errorf("%d:%d: stored %#x %#x %#x, want %#x %#x 0", tt.major, tt.minor, w0, w1, w2, tt.word0, tt.word1)
		}
		if major, minor := in.Dev(); major != tt.major || minor != tt.minor {
			t.Errorf("%d:%d: got %d:%d back", tt.major, tt.minor, major, minor)
		}
	}
}

func TestFileFlags(t *testing.T) {
	all := FileFlags(math.MaxUint32)
	if got, want := all.Visible(), FileFlags(0x725BDFFF); got != want { // EXT4_FL_USER_VISIBLE
		t.Errorf("visible: got %#x, want %#x", got, want)
	}
	for _, tt := range []struct {
		flags FileFlags
		want  []string
	}{
		{0, nil},
		{FlagExtents | FlagImmutable, []string{"immutable", "extents"}},
		{FlagSecrm | FlagAppend | FlagNodump | FlagNoatime | FlagEncrypt | FlagIndex, []string{"secrm", "append", "nodump", "noatime", "encrypt", "index"}},
		{FlagJournalData | FlagNotail | FlagDirsync | FlagTopdir | FlagHugeFile, []string{"journal_data", "notail", "dirsync", "topdir", "huge_file"}},
		{FlagVerity | FlagEAInode | FlagEOFBlocks | FlagDAX, []string{"verity", "ea_inode", "eofblocks", "dax"}},
		{FlagInlineData | FlagProjInherit | FlagCasefold | FlagReserved, []string{"inline_data", "projinherit", "casefold", "reserved"}},
		{0x00800000 | 0x05000000 | 0x08000000, []string{"0x800000", "0x1000000", "0x4000000", "0x8000000"}},
	} {
		if got := tt.flags.Names(); !slices.Equal(got, tt.want) {
			t.Errorf("%#x: got %q, want %q", uint32(tt.flags), got, tt.want)
		}
	}
}

func TestModes(t *testing.T) {
	for _, tt := range []struct {
		mode Mode
		kind FileType
		name string
	}{
		{0x1000, 5, "fifo"}, {0x2000, 3, "chardev"}, {0x4000, 2, "directory"}, {0x6000, 4, "blockdev"},
		{0x8000, 1, "file"}, {0xa000, 7, "symlink"}, {0xc000, 6, "socket"},
	} {
		if got := (tt.mode | 0o7777).FileType(); got != tt.kind || got.String() != tt.name || got.Mode() != tt.mode {
			t.Errorf("%#x: got %d %q of mode %#x", tt.mode, got, got, got.Mode())
		}
	}
	if Mode(0xf000).FileType() != TypeUnknown || Mode(0o644).FileType() != TypeUnknown || FileType(8).Mode() != 0 || FileType(0xde).String() != "0xde" {
		t.Error("what is no file type is taken for one")
	}
}

func TestInodeSizes(t *testing.T) {
	huge := Superblock{LogBlockSize: 2, ROCompat: ROCompatHugeFile}
	small := Superblock{LogBlockSize: 2}
	for _, tt := range []struct {
		sb    *Superblock
		raw   uint64
		flags FileFlags
		want  uint64
	}{
		{&huge, 8, 0, 8},
		{&huge, 8, FlagHugeFile, 64},
		{&huge, 1<<48 - 1, 0, 1<<48 - 1},
		{&small, 1<<32 | 8, FlagHugeFile, 8}, // the high half is not i_blocks' without the feature
	} {
		in := Inode{BlocksRaw: tt.raw, Flags: tt.flags}
		if got := in.Sectors(tt.sb); got != tt.want {
			t.Errorf("i_blocks %d, %v: got %d sectors, want %d", tt.raw, tt.flags.Names(), got, tt.want)
		}
	}
	for _, tt := range []struct {
		mode     Mode
		incompat Incompat
		want     uint64
	}{
		{ModeReg, 0, 5<<32 | 6},
		{ModeDir, 0, 6},
		{ModeDir, IncompatLargedir, 5<<32 | 6},
		{ModeLink, 0, 6},
	} {
		in := Inode{Mode: tt.mode, Size: 5<<32 | 6}
		if got := in.FileSize(&Superblock{Incompat: tt.incompat}); got != tt.want {
			t.Errorf("mode %#x, features %v: got %d, want %d", tt.mode, tt.incompat, got, tt.want)
		}
	}
	in := Inode{FileACL: 5<<32 | 6}
	if got := in.XattrBlock(&Superblock{}); got != 6 {
		t.Errorf("xattr block without 64bit: got %d, want 6", got)
	}
	if got := in.XattrBlock(&Superblock{Incompat: Incompat64Bit}); got != 5<<32|6 {
		t.Errorf("xattr block with 64bit: got %d, want %d", got, uint64(5<<32|6))
	}
}

func TestFastSymlink(t *testing.T) {
	sb := legalSuper(2)
	ea, cluster := sb, sb
	ea.Incompat |= IncompatEAInode
	bigalloc(&cluster)
	for _, tt := range []struct {
		name string
		sb   *Superblock
		in   Inode
		want bool
	}{
		{"short", &sb, Inode{Mode: ModeLink, Size: 59}, true},
		{"too long", &sb, Inode{Mode: ModeLink, Size: 60}, false},
		{"a file", &sb, Inode{Mode: ModeReg, Size: 5}, false},
		{"in a block", &sb, Inode{Mode: ModeLink, Size: 5, BlocksRaw: 8}, false},
		{"with an xattr block", &sb, Inode{Mode: ModeLink, Size: 5, BlocksRaw: 8, FileACL: 9}, true},
		{"in a block with an xattr block", &sb, Inode{Mode: ModeLink, Size: 5, BlocksRaw: 16, FileACL: 9}, false},
		{"with an xattr cluster", &cluster, Inode{Mode: ModeLink, Size: 5, BlocksRaw: 128, FileACL: 9}, true},
		{"inline", &sb, Inode{Mode: ModeLink, Size: 5, Flags: FlagInlineData}, false},
		{"short, ea_inode", &ea, Inode{Mode: ModeLink, Size: 59}, true},
		{"i_blocks counts a value in an inode of its own", &ea, Inode{Mode: ModeLink, Size: 5, BlocksRaw: 24, FileACL: 9}, true},
		{"too long, ea_inode", &ea, Inode{Mode: ModeLink, Size: 60, BlocksRaw: 8}, false},
		{"empty, ea_inode", &ea, Inode{Mode: ModeLink}, false},
		{"inline, ea_inode", &ea, Inode{Mode: ModeLink, Size: 5, Flags: FlagInlineData}, false},
	} {
		if got := tt.in.FastSymlink(tt.sb); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

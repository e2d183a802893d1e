package jbd2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// fcLog writes fast commits into the journal of an image, behind a log that
// holds one empty transaction.
type fcLog struct {
	t     testing.TB
	dev   blockdev.Device
	loc   Location
	sb    disk.Superblock
	tid   uint32
	at    uint32 // journal block that buf goes to
	buf   []byte
	crc   uint32
	inode int // s_inode_size
}

const fcArea = 4000 // blocks kept for fast commits

func newFCLog(t testing.TB, dev blockdev.Device, area uint32) *fcLog {
	loc, err := internal(dev)
	if err != nil {
		t.Fatal(err)
	}
	l := &fcLog{t: t, dev: dev, loc: loc, sb: superblock(dev), tid: 2}
	l.inode = int(l.sb.InodeSize)
	b := make([]byte, loc.BlockSize)
	if err := (&Journal{loc: loc}).read(0, b); err != nil {
		t.Fatal(err)
	}
	s := disk.DecodeJournalSuper(b)
	s.Incompat = disk.JournalRevoke | disk.JournalFastCommit
	area = min(area, s.MaxLen-disk.JournalMinBlocks-10)
	s.NumFCBlocks = area
	s.Start, s.Sequence = s.First, 1
	s.Put(b)
	l.write(0, b)
	clear(b)
	disk.JournalHeader{Magic: disk.JournalMagic, Type: disk.JournalCommit, Sequence: 1}.Put(b)
	l.write(s.First, b)
	l.at = s.MaxLen - area + 1
	head := make([]byte, disk.FCHeadSize)
	disk.FCHeadValue{TID: l.tid}.Put(head)
	l.add(disk.FCHead, head)
	return l
}

func (l *fcLog) write(n uint32, b []byte) {
	blk, ok := l.loc.physical(n)
	if !ok {
		l.t.Fatalf("journal has no block %d", n)
	}
	if _, err := l.dev.WriteAt(b, int64(blk)*int64(l.loc.BlockSize)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *fcLog) raw(tag disk.FastCommitTag, value []byte) {
	b := make([]byte, disk.FCTagSize, disk.FCTagSize+len(value))
	disk.FCTL{Tag: tag, Len: uint16(len(value))}.Put(b)
	b = append(b, value...)
	l.crc = disk.FCChecksum(l.crc, b)
	l.buf = append(l.buf, b...)
}

// fill ends the block.
func (l *fcLog) fill(tag disk.FastCommitTag, value []byte) {
	l.raw(tag, append(value, make([]byte, l.loc.BlockSize-len(l.buf)-disk.FCTagSize-len(value))...))
	l.write(l.at, l.buf)
	l.at++
	l.buf = nil
}

// add writes a record, in the next block if this one has no room.
func (l *fcLog) add(tag disk.FastCommitTag, value []byte) {
	if len(l.buf)+2*disk.FCTagSize+len(value) > l.loc.BlockSize {
		l.fill(disk.FCPad, nil)
	}
	l.raw(tag, value)
}

// tail ends a fast commit.
func (l *fcLog) tail() {
	if len(l.buf)+disk.FCTagSize+disk.FCTailSize > l.loc.BlockSize {
		l.fill(disk.FCPad, nil)
	}
	v := make([]byte, disk.FCTailSize)
	binary.LittleEndian.PutUint32(v, l.tid)
	head := make([]byte, disk.FCTagSize)
	disk.FCTL{Tag: disk.FCTail, Len: uint16(l.loc.BlockSize - len(l.buf) - disk.FCTagSize)}.Put(head)
	sum := disk.FCChecksum(l.crc, append(head, v...))
	disk.FCTailValue{TID: l.tid, CRC: sum}.Put(v)
	l.fill(disk.FCTail, v)
	l.crc = 0
}

func (l *fcLog) dentry(tag disk.FastCommitTag, parent, ino disk.Ino, name string) {
	v := disk.FCDentryValue{Parent: parent, Ino: ino, Name: []byte(name)}
	b := make([]byte, disk.FCDentrySize+len(name))
	v.Put(b)
	l.add(tag, b)
}

// file logs a new inode.
func (l *fcLog) file(ino disk.Ino, mode disk.Mode, edit func(in *disk.Inode)) {
	in := disk.Inode{Mode: mode | 0o644, Links: 1, ExtraIsize: 32, Generation: 77, Ctime: disk.Time{Sec: 1700000000}}
	if t := mode.Type(); (t == disk.ModeReg || t == disk.ModeDir) && l.sb.Incompat.Has(disk.IncompatExtents) {
		in.Flags = disk.FlagExtents
	}
	if edit != nil {
		edit(&in)
	}
	n := 160
	if l.inode == 128 {
		n = 128
	}
	raw := make([]byte, l.inode)
	in.Put(raw)
	b := make([]byte, disk.FCInodeSize+n)
	disk.FCInodeValue{Ino: ino, Raw: raw[:n]}.Put(b)
	l.add(disk.FCInode, b)
}

func (l *fcLog) add1(v disk.FCAddRangeValue) {
	b := make([]byte, disk.FCAddRangeSize)
	v.Put(b)
	l.add(disk.FCAddRange, b)
}

func (l *fcLog) del(v disk.FCDelRangeValue) {
	b := make([]byte, disk.FCDelRangeSize)
	v.Put(b)
	l.add(disk.FCDelRange, b)
}

// inodeOf finds an inode number by path, as debugfs does.
func inodeOf(t *testing.T, image, path string) disk.Ino {
	t.Helper()
	out := run(t, nil, "debugfs", "-R", "stat "+path, image)
	i := strings.Index(out, "Inode: ")
	var n disk.Ino
	if i < 0 {
		t.Fatalf("stat %s: %s", path, out)
	}
	if _, err := fmt.Sscanf(out[i:], "Inode: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// populate makes an image whose files come from a script.
func populate(t *testing.T, size, script string, mkfsArgs ...string) string {
	t.Helper()
	src := t.TempDir()
	sh(t, src, script)
	return mkfs(t, size, append([]string{"-J", "size=8", "-d", src}, mkfsArgs...)...)
}

// Records that the kernel does not log here, or not so many of, at once.
func TestReplayRecords(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	const files = `mkdir d; for i in $(seq 100); do echo $i >d/$(printf %0100d $i); done`
	long := func(i int) string { return fmt.Sprintf("new-%0190d", i) }
	tests := []struct {
		name   string
		files  string
		mkfs   []string
		tune   func(t *testing.T, image string)
		log    func(t *testing.T, image string, l *fcLog)
		check  string // a debugfs command
		expect string // what its output must contain
	}{
		{
			name: "index grows", files: files, mkfs: []string{"-b", "1024", "-N", "8192"},
			tune: func(t *testing.T, image string) { run(t, []int{1}, "e2fsck", "-fyD", image) },
			log: func(t *testing.T, image string, l *fcLog) {
				d := inodeOf(t, image, "/d")
				for i := range 2000 {
					ino := disk.Ino(3000 + i)
					l.file(ino, disk.ModeReg, nil)
					l.dentry(disk.FCCreat, d, ino, long(i))
				}
				for i := range 500 {
					l.dentry(disk.FCUnlink, d, disk.Ino(3000+3*i), long(3*i))
				}
			},
			check: "htree_dump /d", expect: "Indirect levels: 1",
		},
		{
			name: "linear", files: "mkdir d", mkfs: []string{"-b", "1024", "-N", "8192", "-O", "^dir_index"},
			log: func(t *testing.T, image string, l *fcLog) {
				d := inodeOf(t, image, "/d")
				for i := range 300 {
					ino := disk.Ino(3000 + i)
					l.file(ino, disk.ModeReg, nil)
					l.dentry(disk.FCCreat, d, ino, long(i))
				}
				for i := range 250 {
					l.dentry(disk.FCUnlink, d, disk.Ino(3000+i), long(i))
				}
				for i := range 100 {
					l.dentry(disk.FCLink, d, 3299, fmt.Sprintf("link%d", i))
				}
			},
			check: "stat <3299>", expect: "Links: 101",
		},
		{
			name: "links and devices", files: "mkdir d", mkfs: []string{"-b", "4096"},
			log: func(t *testing.T, image string, l *fcLog) {
				d := inodeOf(t, image, "/d")
				l.file(500, disk.ModeLink, func(in *disk.Inode) { in.Size = uint64(copy(in.Block[:], "the target")) })
				l.dentry(disk.FCCreat, d, 500, "link")
				l.file(501, disk.ModeBlock, func(in *disk.Inode) { in.SetDev(8, 300) })
				l.dentry(disk.FCCreat, d, 501, "dev")
				l.file(502, disk.ModeFIFO, nil)
				l.dentry(disk.FCCreat, d, 502, "fifo")
			},
			check: "stat d/link", expect: "the target",
		},
		{
			name: "EA inodes", files: "echo a >a; echo b >b", mkfs: []string{"-b", "4096", "-O", "ea_inode"},
			tune: func(t *testing.T, image string) {
				value := filepath.Join(t.TempDir(), "value")
				if err := os.WriteFile(value, bytes.Repeat([]byte("v"), 9000), 0o600); err != nil {
					t.Fatal(err)
				}
				debugfs(t, image, "ea_set -f "+value+" a user.big", "ea_set a user.mid "+strings.Repeat("m", 400))
			},
			log: func(t *testing.T, image string, l *fcLog) {
				l.dentry(disk.FCUnlink, disk.RootIno, inodeOf(t, image, "/a"), "a")
			},
			check: "ls", expect: "b",
		},
		{
			name: "indirect", files: "mkdir d; head -c 2000000 /dev/urandom >d/big; echo a >d/a; ln -s " + strings.Repeat("x/", 50) + " d/l", mkfs: []string{"-b", "1024", "-O", "^extents,^64bit,^metadata_csum"},
			log: func(t *testing.T, image string, l *fcLog) {
				d := inodeOf(t, image, "/d")
				l.dentry(disk.FCUnlink, d, inodeOf(t, image, "/d/big"), "big")
				l.dentry(disk.FCUnlink, d, inodeOf(t, image, "/d/l"), "l")
				a := inodeOf(t, image, "/d/a")
				l.dentry(disk.FCLink, d, a, "b")
				// Up to the triple indirect block, then a part of it away.
				l.add1(disk.FCAddRangeValue{Ino: a, Block: 1, Len: 900, Start: 50000})
				l.add1(disk.FCAddRangeValue{Ino: a, Block: 66000, Len: 700, Start: 51000})
				l.del(disk.FCDelRangeValue{Ino: a, Block: 100, Len: 300})
				l.file(a, disk.ModeReg, func(in *disk.Inode) { in.Size, in.Links, in.Generation = 66700*1024, 2, 0 })
				l.file(500, disk.ModeDir, func(in *disk.Inode) { in.Links, in.Size = 2, 1024 })
				l.dentry(disk.FCCreat, d, 500, "new")
				for i := range 60 {
					l.dentry(disk.FCLink, 500, a, long(i))
				}
				l.file(a, disk.ModeReg, func(in *disk.Inode) { in.Size, in.Links, in.Generation = 66700*1024, 62, 0 })
			},
			check: "stat d/b", expect: "(TIND):",
		},
		{
			name: "inline spills", files: "mkdir d; echo a >d/a; echo b >d/b", mkfs: []string{"-b", "1024", "-O", "inline_data", "-I", "256"},
			log: func(t *testing.T, image string, l *fcLog) {
				d, a := inodeOf(t, image, "/d"), inodeOf(t, image, "/d/a")
				l.dentry(disk.FCUnlink, d, inodeOf(t, image, "/d/b"), "b")
				for i := range 40 {
					l.dentry(disk.FCLink, d, a, fmt.Sprintf("a-link-with-a-name-%d", i))
				}
				l.dentry(disk.FCUnlink, d, a, "a")
			},
			check: "stat d/a-link-with-a-name-39", expect: "Links: 40",
		},
		{
			name: "directories", files: "mkdir d d/e d/f", mkfs: []string{"-b", "1024"},
			log: func(t *testing.T, image string, l *fcLog) {
				d := inodeOf(t, image, "/d")
				l.dentry(disk.FCUnlink, d, inodeOf(t, image, "/d/e"), "e")
				l.file(500, disk.ModeDir, func(in *disk.Inode) { in.Links, in.Size = 3, 1024 })
				l.dentry(disk.FCCreat, d, 500, "new")
				l.file(501, disk.ModeDir, func(in *disk.Inode) { in.Links, in.Size = 2, 1024 })
				l.dentry(disk.FCCreat, 500, 501, "newer")
				l.tail()
				l.dentry(disk.FCUnlink, 500, 501, "newer")
				// The number of the directory comes back as a file.
				l.file(501, disk.ModeReg, func(in *disk.Inode) { in.Generation = 78 })
				l.dentry(disk.FCCreat, 500, 501, "file")
			},
			check: "stat d", expect: "Links: 4",
		},
		{
			name: "a deep tree", files: "echo a >f", mkfs: []string{"-b", "1024", "-N", "2048"},
			log: func(t *testing.T, image string, l *fcLog) {
				ino := inodeOf(t, image, "/f")
				for i := range 3000 { // each apart from the next on both sides
					l.add1(disk.FCAddRangeValue{Ino: ino, Block: disk.LBlock(10 + 2*i), Len: 1, Unwritten: i%3 == 0, Start: disk.PBlock(42000 + 2*i)})
				}
				l.del(disk.FCDelRangeValue{Ino: ino, Block: 1000, Len: 500})
				l.add1(disk.FCAddRangeValue{Ino: ino, Block: 100, Len: 300, Start: 60000})
				// Written what was not, and moved what was there.
				l.add1(disk.FCAddRangeValue{Ino: ino, Block: 10, Len: 1, Start: 42000})
				l.add1(disk.FCAddRangeValue{Ino: ino, Block: 12, Len: 1, Start: 60500})
				l.file(ino, disk.ModeReg, func(in *disk.Inode) { in.Size = 6009 * 1024; in.Generation = 0 })
			},
			check: "dump_extents f", expect: "60000 - ",
		},
		{
			name: "rename over", files: "echo a >a; head -c 100000 /dev/urandom >b", mkfs: []string{"-b", "1024"},
			log: func(t *testing.T, image string, l *fcLog) {
				a, b := inodeOf(t, image, "/a"), inodeOf(t, image, "/b")
				l.dentry(disk.FCUnlink, disk.RootIno, b, "b")
				l.dentry(disk.FCLink, disk.RootIno, a, "b")
				l.dentry(disk.FCUnlink, disk.RootIno, a, "a")
				l.tail()
				// Records of what is there already change nothing.
				l.dentry(disk.FCLink, disk.RootIno, a, "b")
				l.dentry(disk.FCUnlink, disk.RootIno, a, "a")
			},
			check: "stat b", expect: "Size: 2",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := populate(t, "64M", tt.files, tt.mkfs...)
			if tt.tune != nil {
				tt.tune(t, image)
			}
			dev := load(t, image)
			l := newFCLog(t, dev, fcArea)
			tt.log(t, image, l)
			l.tail()
			got, stats, err := recoverImage(t, dev)
			if err != nil {
				t.Fatal(err)
			}
			if stats.FastCommit.Commits == 0 || stats.FastCommit.Skipped != 0 || stats.FastCommit.Stop != nil {
				t.Errorf("%+v", stats)
			}
			path := checkClean(t, got)
			if out := run(t, nil, "debugfs", "-R", tt.check, path); !strings.Contains(out, tt.expect) {
				t.Errorf("%s: want %q in\n%.2000s", tt.check, tt.expect, out)
			}
		})
	}
}

// A hash tree that can grow no more becomes a plain directory, complete.
func TestUnindex(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	for _, features := range []string{"metadata_csum", "^metadata_csum"} {
		image := populate(t, "64M", `mkdir d; for i in $(seq 1000); do echo >d/$(printf %0200d $i); done`, "-b", "1024", "-N", "8192", "-O", features)
		run(t, []int{1}, "e2fsck", "-fyD", image)
		dev := load(t, image)
		fs, err := newFCFS(dev, 1024)
		if err != nil {
			t.Fatal(err)
		}
		n, err := fs.lookup(inodeOf(t, image, "/d"))
		if err != nil || !n.in.Flags.Has(disk.FlagIndex) {
			t.Fatalf("%+v, %v: want an indexed directory", n, err)
		}
		d, err := fs.dir(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.unindex(d); err != nil {
			t.Fatal(err)
		}
		if err := fs.finish(); err != nil {
			t.Fatal(err)
		}
		path := checkClean(t, dev)
		if out := run(t, nil, "debugfs", "-R", "ls -l d", path); strings.Count(out, "\n") < 1002 {
			t.Errorf("%d entries", strings.Count(out, "\n"))
		}
	}
}

// Which records count: those up to the last good tail of the right transaction.
func TestFastCommitScan(t *testing.T) {
	need(t, "mke2fs", "debugfs")
	image := populate(t, "64M", "echo a >a", "-b", "1024")
	a := inodeOf(t, image, "/a")
	tests := []struct {
		name    string
		log     func(l *fcLog)
		commits int
		stop    bool // a damaged tail behind good ones
		field   string
	}{
		{"torn first", func(l *fcLog) { l.dentry(disk.FCLink, 2, a, "b"); l.fill(disk.FCPad, nil) }, 0, false, ""},
		{"torn second", func(l *fcLog) {
			l.dentry(disk.FCLink, 2, a, "b")
			l.tail()
			l.dentry(disk.FCLink, 2, a, "c")
			l.fill(disk.FCPad, nil)
		}, 1, false, ""},
		{"bad first", func(l *fcLog) { l.crc++; l.tail() }, 0, false, "fc_crc"},
		{"bad second", func(l *fcLog) { l.tail(); l.crc++; l.tail() }, 1, true, ""},
		{"old tail", func(l *fcLog) { l.tail(); l.tid--; l.tail() }, 1, false, ""},
		{"unknown record", func(l *fcLog) { l.tail(); l.add(99, nil); l.tail() }, 1, false, ""},
		{"outside", func(l *fcLog) { l.add1(disk.FCAddRangeValue{Ino: a, Len: 100, Start: 65500}); l.tail() }, 1, false, "fc_ex"},
		{"length 0", func(l *fcLog) { l.add1(disk.FCAddRangeValue{Ino: a, Start: 65500}); l.tail() }, 1, false, "fc_ex"},
		{"name", func(l *fcLog) { l.dentry(disk.FCLink, 2, a, "x/y"); l.tail() }, 1, false, "fc_dname"},
		{"dots", func(l *fcLog) { l.dentry(disk.FCUnlink, 2, 2, ".."); l.tail() }, 1, false, "fc_dname"},
		{"file as directory", func(l *fcLog) { l.dentry(disk.FCLink, a, 2, "x"); l.tail() }, 1, false, "fc_parent_ino"},
		{"reserved inode", func(l *fcLog) { l.file(8, disk.ModeReg, nil); l.tail() }, 1, false, "fc_ino"},
		{"no such inode", func(l *fcLog) { l.dentry(disk.FCLink, 2, 1<<31, "x"); l.tail() }, 1, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dev := load(t, image)
			l := newFCLog(t, dev, fcArea)
			tt.log(l)
			before := contents(t, dev)
			over, stats, err := recoverImage(t, dev)
			var c *disk.CorruptError
			if tt.field == "" && err != nil || tt.field != "" && (!errors.As(err, &c) || c.Field != tt.field) {
				t.Errorf("got error %v, want field %q", err, tt.field)
			}
			if stats.FastCommit.Commits != tt.commits || stats.FastCommit.Stop != nil != tt.stop {
				t.Errorf("got %+v", stats.FastCommit)
			}
			if err != nil && !bytes.Equal(contents(t, over), before) {
				t.Error("a replay that failed has written")
			}
		})
	}
}

// fuzzImage is a small file system for fuzzing, made once.
func fuzzImage(f *testing.F, features string) *blockdev.Mem {
	need(f, "mke2fs")
	src := f.TempDir()
	for _, d := range []string{"d", "d/e", "inline"} {
		if err := os.Mkdir(filepath.Join(src, d), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(src, "d", fmt.Sprintf("%060d", i)), make([]byte, i*100), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	path := filepath.Join(f.TempDir(), "image")
	args := []string{"-q", "-F", "-t", "ext4", "-b", "1024", "-N", "256", "-O", features, "-J", "size=2", "-d", src, path, "8M"}
	if err := command("mke2fs", args...); err != nil {
		f.Fatal(err)
	}
	return load(f, path)
}

// FuzzReplayFastCommits: valid records that say anything at all, on a file
// system with bytes changed, end in a result or a typed error.
func FuzzReplayFastCommits(f *testing.F) {
	// Without checksums a changed byte is not found out at once.
	images := []*blockdev.Mem{fuzzImage(f, "inline_data,metadata_csum"), fuzzImage(f, "inline_data,^metadata_csum,^uninit_bg"), fuzzImage(f, "^metadata_csum,^extents,^64bit")}
	rec := func(tag disk.FastCommitTag, v []byte) []byte { return append([]byte{byte(tag), byte(len(v))}, v...) }
	dentry := func(parent, ino byte, name string) []byte {
		return append([]byte{parent, 0, 0, 0, ino, 0, 0, 0}, name...)
	}
	inode := append([]byte{80, 0, 0, 0, 0xa4, 0x81}, make([]byte, 158)...)
	f.Add(rec(disk.FCInode, inode), uint32(0), byte(0))
	f.Add(append(rec(disk.FCInode, inode), rec(disk.FCCreat, dentry(12, 80, "new"))...), uint32(9000), byte(3))
	f.Add(rec(disk.FCLink, dentry(2, 14, "link")), uint32(1024+0x60), byte(0xff))
	f.Add(rec(disk.FCLink, dentry(12, 14, "link")), uint32(1<<24+1024+0x60), byte(0))
	f.Add(rec(disk.FCUnlink, dentry(12, 14, strings.Repeat("0", 60))), uint32(2<<24+70000), byte(1))
	f.Add(rec(disk.FCUnlink, dentry(12, 14, strings.Repeat("0", 60))), uint32(70000), byte(1))
	f.Add(rec(disk.FCAddRange, []byte{14, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0xff, 0xe, 0, 0}), uint32(5), byte(5))
	f.Add(rec(disk.FCDelRange, []byte{20, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}), uint32(5), byte(5))
	f.Fuzz(func(t *testing.T, records []byte, at uint32, v byte) {
		image := images[at>>24%3]
		dev := blockdev.NewOverlay(image)
		l := newFCLog(t, dev, 256)
		for len(records) >= 2 && l.at < l.loc.total()-2 {
			n := min(int(records[1]), len(records)-2)
			l.add(disk.FastCommitTag(records[0]), records[2:2+n])
			records = records[2+n:]
		}
		l.tail()
		loc := l.loc
		if _, err := dev.WriteAt([]byte{v}, int64(at%(1<<20))); err != nil {
			t.Fatal(err)
		}
		j, err := Load(loc)
		if err != nil {
			return
		}
		over := blockdev.NewOverlay(dev)
		_, err = Recover(context.Background(), j, over, uint64(image.Size()/1024))
		if err == nil && superblock(dev).Blocks != superblock(over).Blocks {
			t.Error("the file system changed its size")
		}
	})
}

package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/ext4/mkfs"
)

// A crashImage is a set of features that the judges of writing go through.
type crashImage struct {
	name   string
	size   int64
	opts   mkfs.Options
	kernel bool // the kernel here can mount it
}

func crashImages() []crashImage {
	feat := func(f ...string) mkfs.Options { return mkfs.Options{Features: f} }
	block := func(bs int, o mkfs.Options) mkfs.Options {
		o.BlockSize = bs
		return o
	}
	return []crashImage{
		{"1k", 12 << 20, block(1024, mkfs.Options{}), true},
		{"4k", 24 << 20, block(4096, mkfs.Options{}), true},
		{"64k", 160 << 20, block(65536, mkfs.Options{}), false},
		{"bigalloc", 24 << 20, mkfs.Options{BlockSize: 1024, ClusterSize: 8192, Features: []string{"bigalloc"}}, true},
		{"inline", 12 << 20, block(1024, feat("inline_data")), true},
		{"32bit", 12 << 20, block(1024, feat("^64bit")), true},
		{"orphan list", 12 << 20, block(1024, feat("^orphan_file")), true},
		{"no csum", 12 << 20, block(1024, feat("^metadata_csum", "uninit_bg", "^orphan_file")), true},
		{"ea_inode", 12 << 20, block(1024, feat("ea_inode")), true},
		{"quota", 12 << 20, block(1024, feat("quota")), false}, // the kernel may lack QFMT_V2
		{"casefold", 12 << 20, mkfs.Options{BlockSize: 1024, Encoding: "utf8"}, false},
		{"indirect", 12 << 20, mkfs.Options{Type: "ext3", BlockSize: 1024}, true},
		{"small inodes", 12 << 20, mkfs.Options{BlockSize: 1024, InodeSize: 128}, true},
		{"all", 16 << 20, mkfs.Options{BlockSize: 1024, InodeSize: 512, QuotaTypes: []string{"usrquota", "grpquota", "prjquota"}, Encoding: "utf8",
			Features: []string{"inline_data", "ea_inode", "quota", "project", "large_dir", "metadata_csum_seed"}}, false},
	}
}

// noJournal is made apart: a power cut leaves it to e2fsck.
var noJournal = crashImage{"no journal", 12 << 20, mkfs.Options{BlockSize: 1024, Features: []string{"^has_journal"}}, true}

// crashStart is what the images hold at first.
func crashStart() *modelState {
	s := &modelState{names: map[string]int{"/": 0}, nodes: map[int]*modelNode{0: {mode: disk.ModeDir | 0o755}}}
	for i, size := range []int{0, 1, 700, 5000, 70_000, 300_000} {
		s.names[fmt.Sprintf("/f%d", i)] = i + 1
		s.nodes[i+1] = &modelNode{id: i + 1, mode: disk.ModeReg | 0o644, data: pattern(i+1, -1, 0, size)}
	}
	return s
}

// pattern is what operation op writes to file id at off: no zeros, and other
// bytes for other files, operations and sectors.
func pattern(id, op int, off int64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(id*53+op*29+int((off+int64(i))>>9)*7) | 1
	}
	return p
}

// A modelSource gives a state to mkfs.
type modelSource struct {
	names []string
	state *modelState
}

func (s *modelSource) Next(context.Context) (*mkfs.Entry, error) {
	if len(s.names) == 0 {
		return nil, io.EOF
	}
	n := s.state.node(s.names[0])
	e := &mkfs.Entry{Path: s.names[0][1:], Mode: n.mode, Size: int64(len(n.data)), Content: modelContent(n.data)}
	s.names = s.names[1:]
	return e, nil
}

func (s *modelSource) Close() error { return nil }

type modelContent []byte

func (c modelContent) Open() (mkfs.Reader, error) {
	return &modelReader{bytes.NewReader(c), int64(len(c))}, nil
}
func (c modelContent) Later() bool  { return true }
func (c modelContent) Sparse() bool { return true }

type modelReader struct {
	*bytes.Reader
	size int64
}

func (r *modelReader) Close() error { return nil }
func (r *modelReader) Data(off int64) (start, end int64, e error) {
	return min(off, r.size), r.size, nil
}
func (r *modelReader) Skip(off int64) error {
	_, err := r.Seek(off, io.SeekStart)
	return err
}

// make makes the image with the start state. Its free blocks are full of what
// no file ever has, so that a block that is shown before it is written is found out.
func (ci crashImage) make(t testing.TB) *blockdev.Mem {
	t.Helper()
	mem := blockdev.NewMem(ci.size)
	o := ci.opts
	o.Zeroed = true
	p, err := mkfs.Resolve(ci.size, o)
	if err != nil {
		t.Fatal(err)
	}
	src := &modelSource{state: crashStart()}
	for i := range 6 {
		src.names = append(src.names, fmt.Sprintf("/f%d", i))
	}
	if _, err := mkfs.Make(context.Background(), mem, p, src); err != nil {
		t.Fatal(err)
	}
	fs, err := Open(mem, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	var no *UnsupportedError
	if err := CheckWritable(fs.Super()); errors.As(err, &no) {
		t.Skip(err)
	}
	stale := bytes.Repeat([]byte{0xee}, fs.sb.BlockSize())
	for g := range fs.sb.Groups() {
		b, err := fs.BlockBitmap(disk.Group(g))
		if err != nil {
			t.Fatal(err)
		}
		for c := range fs.clusters(disk.Group(g)) {
			for i := range uint32(1) << fs.sb.ClusterBits() {
				n := c<<fs.sb.ClusterBits() + i
				if !bitmap(b).get(c) && n < fs.sb.BlocksInGroup(disk.Group(g)) {
					mem.WriteAt(stale, int64(fs.sb.FirstBlock(disk.Group(g))+disk.PBlock(n))<<fs.sb.BlockBits())
				}
			}
		}
	}
	mem.Flush()
	return mem
}

// judge is fsck-lite's verdict on a device: nil, or what it found. Notes, as
// of inodes that wait to be deleted, are no findings.
func judge(dev blockdev.Device, replay bool) error {
	r, err := fsck.Run(context.Background(), dev, fsck.Options{Replay: replay, Workers: 1})
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		if p.Severity == fsck.Note {
			continue
		}
		err = errors.Join(err, fmt.Errorf("%s (%+v)", p.Text(), p.Place))
	}
	return err
}

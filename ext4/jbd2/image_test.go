package jbd2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// need skips the test unless each of the programs, or "root", is there. With
// E4GO_TEST_NEED=all it fails instead.
func need(t testing.TB, what ...string) {
	t.Helper()
	for _, w := range what {
		missing := ""
		if w == "root" {
			if os.Getuid() != 0 {
				missing = "root"
			}
		} else if _, err := exec.LookPath(w); err != nil {
			missing = w
		}
		if missing == "" {
			continue
		}
		if os.Getenv("E4GO_TEST_NEED") == "all" {
			t.Fatalf("missing: %s", missing)
		}
		t.Skipf("SKIPPED: %s is missing", missing)
	}
}

// run runs a program that must end with status 0 or one of ok.
func run(t *testing.T, ok []int, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	status := 0
	if e, is := err.(*exec.ExitError); is {
		status = e.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(ok, 0) {
		if s == status {
			return string(out)
		}
	}
	t.Fatalf("%s %s: exit status %d\n%s", name, strings.Join(args, " "), status, out)
	return ""
}

// command runs a program outside of a test.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil && len(out) > 0 {
		return fmt.Errorf("%w: %s", err, out)
	}
	return err
}

// mkfs makes an image of size (as mke2fs reads it) and returns its path.
func mkfs(t *testing.T, size string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	args = append([]string{"-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0"}, args...)
	run(t, nil, "mke2fs", append(args, path, size)...)
	return path
}

// debugfs runs commands on the image.
func debugfs(t *testing.T, path string, commands ...string) string {
	t.Helper()
	cmd := exec.Command("debugfs", "-w", "-f", "-", path)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs %q: %v\n%s", commands, err, out)
	}
	return string(out)
}

// load reads an image into memory.
func load(t testing.TB, path string) *blockdev.Mem {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := blockdev.NewMem(int64(len(b)))
	if _, err := m.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return m
}

// save writes a device to a file.
func save(t *testing.T, d blockdev.Device, path string) {
	t.Helper()
	b := contents(t, d)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, d blockdev.Device) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func superblock(d blockdev.Device) disk.Superblock {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := d.ReadAt(raw, disk.SuperblockOffset); err != nil && err != io.EOF {
		panic(err)
	}
	return disk.DecodeSuperblock(raw)
}

// internal finds the journal of the file system on d, whose inode maps it by
// extents in the inode itself or in one block below.
func internal(d blockdev.Device) (Location, error) {
	sb := superblock(d)
	bs := sb.BlockSize()
	loc := Location{Dev: d, BlockSize: bs}
	g, index := sb.InodeGroup(sb.JournalIno)
	desc := make([]byte, sb.GroupDescSize())
	at := int64(sb.DescBlock(disk.PBlock(sb.FirstDataBlock), 0))*int64(bs) + int64(g)*int64(len(desc))
	if _, err := d.ReadAt(desc, at); err != nil {
		return loc, err
	}
	gd := disk.DecodeGroupDesc(desc)
	raw := make([]byte, sb.InodeSize)
	if _, err := d.ReadAt(raw, int64(gd.InodeTable)*int64(bs)+int64(index)*int64(sb.InodeSize)); err != nil {
		return loc, err
	}
	in := disk.DecodeInode(raw)
	if !in.Flags.Has(disk.FlagExtents) {
		fs, err := newFCFS(d, bs)
		if err != nil {
			return loc, err
		}
		m, err := fs.readIndirect(&fcInode{in: in})
		for _, e := range m.ext {
			loc.Extents = append(loc.Extents, Extent{Block: uint32(e.block), Len: uint32(e.len), Start: e.start})
		}
		return loc, err
	}
	return loc, journalExtents(d, &loc, in.Block[:], 0)
}

func journalExtents(d blockdev.Device, loc *Location, node []byte, level int) error {
	h := disk.DecodeExtentHeader(node)
	if level > 5 || 12+12*int(h.Entries) > len(node) {
		return fmt.Errorf("journal extents: level %d with %d entries", level, h.Entries)
	}
	for i := range int(h.Entries) {
		e := node[12+12*i:]
		if h.Depth == 0 {
			x := disk.DecodeExtent(e)
			loc.Extents = append(loc.Extents, Extent{Block: uint32(x.Block), Len: uint32(x.Len), Start: x.Start})
			continue
		}
		child := make([]byte, loc.BlockSize)
		if _, err := d.ReadAt(child, int64(disk.DecodeExtentIdx(e).Leaf)*int64(loc.BlockSize)); err != nil {
			return err
		}
		if err := journalExtents(d, loc, child, level+1); err != nil {
			return err
		}
	}
	return nil
}

// recoverImage recovers the image's own journal onto an overlay and marks it clean
// there, as mounting does.
func recoverImage(t *testing.T, d blockdev.Device) (*blockdev.Overlay, Stats, error) {
	t.Helper()
	loc, err := internal(d)
	if err != nil {
		t.Fatal(err)
	}
	over := blockdev.NewOverlay(d)
	j, err := Load(loc)
	if err != nil {
		return over, Stats{}, err
	}
	sb := superblock(d)
	stats, err := Recover(context.Background(), j, over, sb.Blocks)
	if err != nil {
		return over, stats, err
	}
	if err := j.MarkClean(over, stats.Next); err != nil {
		t.Fatal(err)
	}
	clearNeedsRecovery(t, over)
	return over, stats, nil
}

func clearNeedsRecovery(t *testing.T, d blockdev.Device) {
	t.Helper()
	raw := make([]byte, disk.SuperblockSize)
	if _, err := d.ReadAt(raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	sb := disk.DecodeSuperblock(raw)
	sb.Incompat &^= disk.IncompatRecover
	sb.Put(raw)
	if sb.MetadataCsum() {
		sb.Checksum = disk.SuperblockChecksum(raw)
		sb.Put(raw)
	}
	if _, err := d.WriteAt(raw, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
}

// journalBlocks is the set of blocks that the image's journal takes.
func journalBlocks(t *testing.T, d blockdev.Device) map[disk.PBlock]bool {
	t.Helper()
	loc, err := internal(d)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[disk.PBlock]bool)
	for _, e := range loc.Extents {
		for i := range e.Len {
			m[e.Start+disk.PBlock(i)] = true
		}
	}
	return m
}

// sameBlocks compares two images but for the journal and the superblock.
func sameBlocks(t *testing.T, got, want blockdev.Device) {
	t.Helper()
	sb := superblock(want)
	bs := sb.BlockSize()
	skip := journalBlocks(t, want)
	g, w := contents(t, got), contents(t, want)
	if len(g) != len(w) {
		t.Fatalf("image has %d bytes, want %d", len(g), len(w))
	}
	blank := func(b []byte, at int) {
		if at <= disk.SuperblockOffset && disk.SuperblockOffset < at+bs {
			clear(b[disk.SuperblockOffset-at:][:disk.SuperblockSize])
		}
	}
	// e2fsck tidies what descriptors say of unused inodes while it is there.
	gdt := sb.DescBlock(disk.PBlock(disk.SuperblockOffset/bs), 0)
	untidy := func(b []byte, n disk.PBlock) {
		if n < gdt || uint64(n-gdt) >= sb.DescBlocks() {
			return
		}
		for off := 0; off < bs; off += sb.GroupDescSize() {
			d := disk.DecodeGroupDesc(b[off:][:sb.GroupDescSize()])
			d.Flags &^= disk.GroupInodeUninit | disk.GroupBlockUninit
			d.ItableUnused, d.Checksum = 0, 0
			d.Put(b[off:][:sb.GroupDescSize()])
		}
	}
	differ := 0
	for at := 0; at+bs <= len(w); at += bs {
		n := disk.PBlock(at / bs)
		if skip[n] {
			continue
		}
		x, y := bytes.Clone(g[at:at+bs]), bytes.Clone(w[at:at+bs])
		blank(x, at)
		blank(y, at)
		untidy(x, n)
		untidy(y, n)
		if !bytes.Equal(x, y) {
			if differ++; differ <= 10 {
				i := 0
				for x[i] == y[i] {
					i++
				}
				t.Errorf("block %d+%#x differs: got % x..., want % x...", n, i, x[i:min(bs, i+16)], y[i:min(bs, i+16)])
			}
		}
	}
	if differ > 10 {
		t.Errorf("%d blocks differ", differ)
	}
}

package ext4

import (
	"context"
	"errors"
	"testing"

	"e4go/ext4/disk"
)

// TestTwoNodesLeadToOne: a leaf that an update has written is not judged entry
// by entry again, but what leads to it is.
func TestTwoNodesLeadToOne(t *testing.T) {
	ctx := context.Background()
	fs, done := openWrite(t, newImage(t, func(string) {}, "-b", "1024"), Options{})
	in, err := fs.Create(ctx, Root, disk.RootIno, "f", disk.ModeReg|0o644)
	if err != nil {
		t.Fatal(err)
	}
	const blocks = 250 // as many extents, of which a leaf has 84
	if err := fs.Fallocate(ctx, Root, in.ino, 0, 0, blocks<<10); err != nil {
		t.Fatal(err)
	}
	written := func(b uint64) error {
		_, err := fs.MapPending(ctx, in.ino, nil, b, b+1, 0)
		return err
	}
	for b := uint64(0); b < blocks; b += 2 {
		if err := written(b); err != nil {
			t.Fatal(err)
		}
	}
	var second disk.ExtentIdx
	redirect := func(to func(first, second disk.ExtentIdx) disk.ExtentIdx) {
		t.Helper()
		err := fs.Update(ctx, func(h *Handle) error {
			in, err := h.inode(in.ino)
			if err != nil {
				return err
			}
			node := in.disk.Block[:]
			if hdr := disk.DecodeExtentHeader(node); hdr.Depth != 1 || hdr.Entries < 2 {
				t.Fatalf("the tree has %d levels and %d nodes", hdr.Depth, hdr.Entries)
			}
			first := disk.DecodeExtentIdx(disk.ExtentEntry(node, 0))
			to(first, disk.DecodeExtentIdx(disk.ExtentEntry(node, 1))).Put(disk.ExtentEntry(node, 1))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	redirect(func(first, old disk.ExtentIdx) disk.ExtentIdx {
		second = old
		return disk.ExtentIdx{Block: old.Block, Leaf: first.Leaf}
	})
	if err := written(uint64(second.Block) + 1); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("two nodes lead to one leaf: %v", err)
	}
	redirect(func(_, _ disk.ExtentIdx) disk.ExtentIdx { return second })
	done()
}

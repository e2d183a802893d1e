package disk_test

import (
	"bytes"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// The quota files that mke2fs makes are where we look for them, and say what they count.
func TestQuotaFile(t *testing.T) {
	img := mkfs(t, 16<<20, "-b", "1024", "-O", "quota,^has_journal,extents", "-E", "quotatype=usrquota:grpquota")
	sb := disk.DecodeSuperblock(bytesAt(t, img, disk.SuperblockOffset, disk.SuperblockSize))
	for _, q := range []disk.QuotaType{disk.QuotaUser, disk.QuotaGroup} {
		ino := sb.QuotaIno(q)
		g := disk.DecodeGroupDesc(bytesAt(t, img, 2*1024, sb.GroupDescSize()))
		raw := bytesAt(t, img, int64(g.InodeTable)*1024+int64(ino-1)*int64(sb.InodeSize), int(sb.InodeSize))
		in := disk.DecodeInode(raw)
		block := func(n uint32) []byte {
			e := disk.DecodeExtent(disk.ExtentEntry(in.Block[:], 0))
			return bytesAt(t, img, (int64(e.Start)+int64(n))*1024, 1024)
		}
		if err := disk.CheckQuotaHeader(q, ino, block(0), in.Size, 0); err != nil {
			t.Errorf("%s: %v", q, err)
		}
		n := uint32(disk.QuotaTreeRoot)
		for range disk.QuotaTreeDepth {
			n = disk.QuotaRef(block(n), 0)
		}
		var got []disk.QuotaEntry
		disk.QuotaLeaf(block(n), func(e disk.QuotaEntry) bool { got = append(got, e); return true })
		if len(got) != 1 || got[0].ID != 0 || got[0].Inodes != 2 || got[0].Space != 13<<10 { // root and lost+found
			t.Errorf("%s: %+v", q, got)
		}
		if want := "13312        0        0           2"; q == disk.QuotaUser && !strings.Contains(fixtures.Debugfs(t, img, "lq user"), want) {
			t.Errorf("debugfs has %q", fixtures.Debugfs(t, img, "lq user"))
		}
	}
}

func TestCheckQuotaHeader(t *testing.T) {
	good := disk.QuotaHeader{Magic: 0xd9c01f11, Version: 1, Blocks: 6, FreeBlock: 2, FreeEntry: 5}
	for _, tt := range []struct {
		field string // of the error, or "" for none
		edit  func(*disk.QuotaHeader)
	}{
		{"", func(h *disk.QuotaHeader) {}},
		{"dqh_magic", func(h *disk.QuotaHeader) { h.Magic = 0xd9c01927 }},
		{"dqh_version", func(h *disk.QuotaHeader) { h.Version = 0 }},
		{"dqi_blocks", func(h *disk.QuotaHeader) { h.Blocks = 7 }},
		{"dqi_free_blk", func(h *disk.QuotaHeader) { h.FreeBlock = 1 }},
		{"dqi_free_entry", func(h *disk.QuotaHeader) { h.FreeEntry = 6 }},
	} {
		h := good
		tt.edit(&h)
		b := make([]byte, disk.QuotaBlockSize)
		h.Put(b)
		err := disk.CheckQuotaHeader(disk.QuotaUser, 3, b, 6*disk.QuotaBlockSize, 77)
		c, _ := err.(*disk.CorruptError)
		if (err == nil) != (tt.field == "") || c != nil && c.Field != tt.field {
			t.Errorf("%q: got %v", tt.field, err)
		}
	}
}

// FuzzQuota: heads and entries round-trip, and no leaf makes us panic.
func FuzzQuota(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0xa5}, disk.QuotaBlockSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < disk.QuotaBlockSize {
			t.Skip()
		}
		out := bytes.Clone(b)
		disk.DecodeQuotaHeader(b).Put(out)
		disk.DecodeQuotaEntry(b[100:]).Put(out[100:])
		if !bytes.Equal(out, b) {
			t.Fatal("decode and put changed the bytes")
		}
		disk.QuotaLeaf(b, func(e disk.QuotaEntry) bool { return e.ID != 1 })
	})
}

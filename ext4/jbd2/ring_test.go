package jbd2

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A ring is a journal made by the test, alone on a device.
type ring struct {
	t     testing.TB
	dev   *blockdev.Mem
	super disk.JournalSuper
	v1    bool
	at    uint32
	tid   uint32
	sec   uint64
	crc   uint32
	wrote []uint32 // the journal blocks of the transaction being written
}

const (
	ringBlock = 1024
	ringLen   = 1100
	ringFS    = 64 // blocks of the file system to recover to
)

func newRing(t testing.TB, compat disk.JournalCompat, feat disk.JournalFeature, start, tid uint32) *ring {
	r := &ring{t: t, dev: blockdev.NewMem(ringLen * ringBlock), at: start, tid: tid, sec: 1000, crc: ^uint32(0)}
	r.v1 = compat&disk.JournalChecksum != 0
	r.super = disk.JournalSuper{
		Header:    disk.JournalHeader{Magic: disk.JournalMagic, Type: disk.JournalSuperV2},
		BlockSize: ringBlock, MaxLen: ringLen, First: 1, Sequence: tid, Start: start,
		Compat: compat, Incompat: feat | disk.JournalRevoke, NrUsers: 1, UUID: [16]byte{1, 2, 3},
	}
	if feat.HasChecksums() {
		r.super.ChecksumType = disk.JournalCRC32C
	}
	r.putSuper()
	return r
}

func (r *ring) putSuper() {
	b := make([]byte, disk.JournalSuperSize)
	r.super.Put(b)
	r.super.Checksum = disk.JournalSuperChecksum(b)
	r.super.Put(b)
	r.write(0, b)
}

func (r *ring) write(n uint32, b []byte) {
	if _, err := r.dev.WriteAt(b, int64(n)*ringBlock); err != nil {
		r.t.Fatal(err)
	}
}

// next writes b to the next block of the ring.
func (r *ring) next(b []byte) {
	r.write(r.at, b)
	r.wrote = append(r.wrote, r.at)
	if r.at++; r.at == r.super.MaxLen-r.super.FastCommitBlocks() {
		r.at = r.super.First
	}
}

func (r *ring) header(kind disk.JournalBlockType) []byte {
	b := make([]byte, ringBlock)
	disk.JournalHeader{Magic: disk.JournalMagic, Type: kind, Sequence: r.tid}.Put(b)
	return b
}

func (r *ring) seed() uint32 { return disk.JournalSeed(r.super.UUID) }

// data is a block that is all c.
func data(c byte) []byte { return bytes.Repeat([]byte{c}, ringBlock) }

// log writes a descriptor block and the data of blocks.
func (r *ring) log(blocks ...any) {
	f := r.super.Incompat
	d := r.header(disk.JournalDescriptor)
	var contents [][]byte
	off := disk.JournalHeaderSize
	for i := 0; i < len(blocks); i += 2 {
		b := bytes.Clone(blocks[i+1].([]byte))
		tag := disk.JournalTag{Block: disk.PBlock(blocks[i].(int)), Flags: disk.JournalTagSameUUID}
		if i == 0 {
			tag.Flags = 0
		}
		if i+2 >= len(blocks) {
			tag.Flags |= disk.JournalTagLast
		}
		if disk.DecodeJournalHeader(b).Magic == disk.JournalMagic {
			clear(b[:4])
			tag.Flags |= disk.JournalTagEscape
		}
		tag.Checksum = disk.JournalTagChecksum(f, r.seed(), r.tid, b)
		tag.Put(f, d[off:])
		off += disk.JournalTagSize(f)
		if i == 0 {
			off += 16
		}
		contents = append(contents, b)
	}
	if f.HasChecksums() {
		disk.PutJournalTail(d, disk.JournalTailChecksum(r.seed(), d))
	}
	for _, b := range append([][]byte{d}, contents...) {
		r.crc = disk.CRC32BE(r.crc, b)
		r.next(b)
	}
}

func (r *ring) revoke(blocks ...disk.PBlock) {
	f := r.super.Incompat
	b := r.header(disk.JournalRevokeBlock)
	for i, n := range blocks {
		disk.PutJournalRevoked(f, b, i, n)
	}
	h := disk.DecodeJournalRevokes(b)
	h.Count = uint32(disk.JournalRevokeHeaderSize + len(blocks)*disk.JournalRevokeSize(f))
	h.Put(b)
	if f.HasChecksums() {
		disk.PutJournalTail(b, disk.JournalTailChecksum(r.seed(), b))
	}
	r.next(b)
}

// commit ends the transaction and returns the journal blocks it lies in.
func (r *ring) commit() []uint32 {
	b := r.header(disk.JournalCommit)
	c := disk.DecodeJournalCommit(b)
	c.Sec = r.sec
	if r.v1 {
		c.ChecksumType, c.ChecksumSize, c.Checksum[0] = disk.JournalCRC32, disk.JournalCRC32Size, r.crc
	}
	c.Put(b)
	if r.super.Incompat.HasChecksums() {
		c.Checksum[0] = disk.JournalCommitChecksum(r.seed(), b)
		c.Put(b)
	}
	r.next(b)
	wrote := r.wrote
	r.tid, r.crc, r.wrote = r.tid+1, ^uint32(0), nil
	r.sec += 10
	return wrote
}

// poke changes a byte of journal block n.
func (r *ring) poke(n uint32, off int) {
	var b [1]byte
	if _, err := r.dev.ReadAt(b[:], int64(n)*ringBlock+int64(off)); err != nil {
		r.t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := r.dev.WriteAt(b[:], int64(n)*ringBlock+int64(off)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *ring) location() Location {
	return Location{Dev: r.dev, BlockSize: ringBlock, Extents: []Extent{{Len: ringLen}}, External: true}
}

// recover returns the first byte of each block of the file system.
func (r *ring) recover() ([]byte, Stats, error) {
	j, err := Load(r.location())
	if err != nil {
		r.t.Fatal(err)
	}
	fs := blockdev.NewMem(ringFS * ringBlock)
	stats, err := Recover(context.Background(), j, fs, ringFS)
	out := make([]byte, ringFS)
	for i := range out {
		if _, e := fs.ReadAt(out[i:i+1], int64(i)*ringBlock+8); e != nil {
			r.t.Fatal(e)
		}
	}
	return out, stats, err
}

var ringKinds = []struct {
	name   string
	compat disk.JournalCompat
	feat   disk.JournalFeature
}{
	{"plain", 0, 0},
	{"64bit", 0, disk.Journal64Bit},
	{"v1", disk.JournalChecksum, 0},
	{"v2", 0, disk.JournalCsumV2},
	{"v2,64bit", 0, disk.JournalCsumV2 | disk.Journal64Bit},
	{"v3", 0, disk.JournalCsumV3},
	{"v3,64bit", 0, disk.JournalCsumV3 | disk.Journal64Bit},
}

// Transactions that go round the ring's end, with ids that go round too, and
// revocations on both sides of that.
func TestRecoverWraps(t *testing.T) {
	for _, k := range ringKinds {
		t.Run(k.name, func(t *testing.T) {
			r := newRing(t, k.compat, k.feat, ringLen-6, ^uint32(0)-1)
			magic := data('m')
			disk.UnescapeJournalBlock(magic)
			r.log(5, data('a'), 6, data('a'), 7, magic)
			r.commit()
			r.log(6, data('b'), 8, data('b'))
			r.revoke(5)
			r.commit()
			r.log(9, data('c'), 8, data('c'))
			r.revoke(1<<31-1, 6)
			r.commit()
			r.log(6, data('d'))
			r.commit()
			r.log(5, data('x')) // never committed
			got, stats, err := r.recover()
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, ringFS)
			copy(want[6:], "dmcc")
			if !bytes.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			wantStats := Stats{Start: ^uint32(0) - 1, End: 2, Next: 3, Transactions: 4, Blocks: 5, Revokes: 3, Revoked: 3}
			if stats != wantStats {
				t.Errorf("got %+v, want %+v", stats, wantStats)
			}
		})
	}
}

// Damage at each place of a transaction, in the middle of the log and at its end.
func TestRecoverDamage(t *testing.T) {
	const (
		descriptor = iota
		block
		commit
	)
	corrupt := func(field string) func(error) bool {
		return func(err error) bool {
			var c *disk.CorruptError
			return errors.As(err, &c) && c.Field == field
		}
	}
	none := func(err error) bool { return err == nil }
	v1, v3, async := disk.JournalChecksum, disk.JournalCsumV3, disk.JournalAsyncCommit
	tests := []struct {
		name   string
		compat disk.JournalCompat
		feat   disk.JournalFeature
		hit    int  // of transaction 2
		third  bool // whether transaction 3 follows
		stale  bool // whether transaction 2 is older than 1: a leftover
		want   string
		ok     func(error) bool
	}{
		{"v1 data, last", v1, 0, block, false, false, "1", corrupt("h_chksum")},
		{"v1 data, middle", v1, 0, block, true, false, "1", corrupt("h_chksum")},
		{"v1 data, stale", v1, 0, block, true, true, "1", none},
		{"v1 async data, last", v1, async, block, false, false, "1", none},
		{"v1 async data, middle", v1, async, block, true, false, "1", corrupt("h_chksum")},
		{"v3 descriptor, last", 0, v3, descriptor, false, false, "1", corrupt("t_checksum")},
		{"v3 descriptor, stale", 0, v3, descriptor, true, true, "1", none},
		{"v3 data, middle", 0, v3, block, true, false, "1.3", corrupt("t_checksum")},
		{"v3 commit, last", 0, v3, commit, false, false, "1", corrupt("h_chksum")},
		{"v3 commit, middle", 0, v3, commit, true, false, "1", corrupt("h_chksum")},
		{"v3 commit, stale", 0, v3, commit, true, true, "1", none},
		{"v3 async commit, last", 0, v3 | async, commit, false, false, "1", none},
		{"v3 async commit, middle", 0, v3 | async, commit, true, false, "1", none},
		{"plain data", 0, 0, block, true, false, "123", none}, // nothing can tell
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRing(t, tt.compat, tt.feat, 1, 7)
			r.log(1, data('1'))
			r.commit()
			if tt.stale {
				r.sec = 500
			}
			r.log(2, data('2'))
			second := r.commit()
			if tt.third {
				r.log(3, data('3'))
				r.commit()
			}
			r.poke(second[tt.hit], map[int]int{descriptor: 40, block: 100, commit: 0x12}[tt.hit])
			got, _, err := r.recover()
			if !tt.ok(err) {
				t.Errorf("got error %v", err)
			}
			want := make([]byte, ringFS)
			for i, c := range []byte(tt.want) {
				if c != '.' {
					want[1+i] = c
				}
			}
			if tt.want == "1" && tt.name == "v3 descriptor, last" {
				clear(want) // refused as a whole
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %q, want %q", got[:5], want[:5])
			}
		})
	}
}

// What a log may say that it must not.
func TestRecoverHostile(t *testing.T) {
	t.Run("no commit all round the ring", func(t *testing.T) {
		r := newRing(t, 0, 0, 1, 7)
		for range ringLen/2 + 10 {
			r.log(1, data('x'))
		}
		got, stats, err := r.recover()
		if err != nil || stats.Transactions != 0 || !bytes.Equal(got, make([]byte, ringFS)) {
			t.Errorf("got %q, %+v, %v", got, stats, err)
		}
	})
	t.Run("block outside", func(t *testing.T) {
		r := newRing(t, 0, disk.Journal64Bit, 1, 7)
		r.log(1, data('1'), 1<<40, data('x'), ringFS, data('x'), 2, data('2'))
		r.commit()
		got, stats, err := r.recover()
		var c *disk.CorruptError
		if !errors.As(err, &c) || c.Field != "t_blocknr" || stats.Bad != 2 || string(got[1:3]) != "12" {
			t.Errorf("got %q, %+v, %v", got[:4], stats, err)
		}
	})
	t.Run("revoke count", func(t *testing.T) {
		r := newRing(t, 0, 0, 1, 7)
		r.log(1, data('1'))
		r.revoke(9)
		r.commit()
		r.poke(3, 0xd) // r_count
		_, _, err := r.recover()
		var c *disk.CorruptError
		if !errors.As(err, &c) || c.Field != "r_count" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("clean", func(t *testing.T) {
		r := newRing(t, 0, 0, 1, 7)
		r.log(1, data('1'))
		r.commit()
		r.super.Start = 0
		r.putSuper()
		got, stats, err := r.recover()
		if err != nil || !stats.Clean || got[1] != 0 {
			t.Errorf("replayed a clean journal: %q, %+v, %v", got[:3], stats, err)
		}
	})
	t.Run("the journal's own blocks", func(t *testing.T) {
		r := newRing(t, 0, 0, 1, 7)
		r.log(1, data('x'))
		r.commit()
		loc := r.location()
		loc.External = false
		j, err := Load(loc)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Recover(context.Background(), j, blockdev.NewOverlay(r.dev), ringLen)
		var c *disk.CorruptError
		if !errors.As(err, &c) || c.Field != "t_blocknr" {
			t.Errorf("got %v", err)
		}
	})
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name  string
		field string // of a CorruptError, or "" for an UnsupportedError
		edit  func(s *disk.JournalSuper)
	}{
		{"magic", "h_magic", func(s *disk.JournalSuper) { s.Header.Magic++ }},
		{"type", "h_blocktype", func(s *disk.JournalSuper) { s.Header.Type = disk.JournalCommit }},
		{"block size", "s_blocksize", func(s *disk.JournalSuper) { s.BlockSize = 4096 }},
		{"too long", "s_maxlen", func(s *disk.JournalSuper) { s.MaxLen = ringLen + 1 }},
		{"too short", "s_maxlen", func(s *disk.JournalSuper) { s.MaxLen = 1023 }},
		{"first", "s_first", func(s *disk.JournalSuper) { s.First = 0 }},
		{"start", "s_start", func(s *disk.JournalSuper) { s.Start = ringLen }},
		{"fast commit blocks", "s_num_fc_blks", func(s *disk.JournalSuper) { s.Incompat |= disk.JournalFastCommit; s.NumFCBlocks = 100 }},
		{"v2 and v3", "s_feature_incompat", func(s *disk.JournalSuper) { s.Incompat |= disk.JournalCsumV2 | disk.JournalCsumV3 }},
		{"v1 and v3", "s_feature_compat", func(s *disk.JournalSuper) {
			s.Incompat |= disk.JournalCsumV3
			s.Compat |= disk.JournalChecksum
			s.ChecksumType = 4
		}},
		{"checksum type", "s_checksum_type", func(s *disk.JournalSuper) { s.Incompat |= disk.JournalCsumV3; s.ChecksumType = 1 }},
		{"unknown incompat", "", func(s *disk.JournalSuper) { s.Incompat |= 1 << 20 }},
		{"unknown ro_compat", "", func(s *disk.JournalSuper) { s.ROCompat = 1 }},
		{"two users", "", func(s *disk.JournalSuper) { s.NrUsers = 2 }},
	}
	for _, tt := range tests {
		r := newRing(t, 0, 0, 1, 7)
		tt.edit(&r.super)
		r.putSuper()
		_, err := Load(r.location())
		var c *disk.CorruptError
		var u *UnsupportedError
		if tt.field == "" && !errors.As(err, &u) || tt.field != "" && (!errors.As(err, &c) || c.Field != tt.field) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	r := newRing(t, 0, disk.JournalCsumV3, 1, 7)
	r.poke(0, 0x60)
	var c *disk.CorruptError
	if _, err := Load(r.location()); !errors.As(err, &c) || c.Field != "s_checksum" {
		t.Errorf("checksum: got %v", err)
	}
}

// The log as records: what logdump would show.
func TestLog(t *testing.T) {
	r := newRing(t, 0, disk.JournalCsumV3, 1, 7)
	r.log(1, data('1'), 2, data('2'))
	r.revoke(4, 5)
	r.commit()
	r.log(3, data('3'))
	j, err := Load(r.location())
	if err != nil {
		t.Fatal(err)
	}
	var kinds []disk.JournalBlockType
	for rec, err := range j.Log(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, rec.Header.Type)
		if rec.Header.Type == disk.JournalDescriptor && rec.Header.Sequence == 7 && (len(rec.Tags) != 2 || rec.Tags[1].Block != 2 || rec.Tags[1].Data != 3) {
			t.Errorf("tags %+v", rec.Tags)
		}
		if rec.Header.Type == disk.JournalRevokeBlock && len(rec.Revoked) != 2 {
			t.Errorf("revoked %v", rec.Revoked)
		}
	}
	want := []disk.JournalBlockType{disk.JournalDescriptor, disk.JournalRevokeBlock, disk.JournalCommit, disk.JournalDescriptor}
	if len(kinds) != len(want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	p, err := j.Pending(context.Background(), 256)
	if err != nil || p != (Pending{Start: 7, End: 8, Transactions: 1, Blocks: 2, Revokes: 2}) {
		t.Errorf("got %+v, %v", p, err)
	}
}

// Every error of a device reaches the caller.
func TestRecoverFailsAtEveryCall(t *testing.T) {
	r := newRing(t, 0, disk.JournalCsumV3, 1, 7)
	r.log(1, data('1'), 2, data('2'))
	r.revoke(4)
	r.commit()
	for n := 0; ; n++ {
		loc := r.location()
		fault := &blockdev.Fault{Device: r.dev, N: n}
		loc.Dev = fault
		j, err := Load(loc)
		if err == nil {
			_, err = Recover(context.Background(), j, blockdev.NewMem(ringFS*ringBlock), ringFS)
		}
		if fault.Calls() <= n {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, blockdev.ErrInjected) {
			t.Errorf("call %d failed, Recover said %v", n, err)
		}
	}
}

// FuzzRecover: whatever the journal holds, recovery ends, in time that its
// length bounds, and writes inside the file system only.
func FuzzRecover(f *testing.F) {
	for i, k := range ringKinds {
		f.Add(i, uint16(1), byte(7), uint16(700), byte(255))
		f.Add(i, uint16(1024), byte(2), uint16(4096), byte(1))
		_ = k
	}
	f.Fuzz(func(t *testing.T, kind int, at1 uint16, v1 byte, at2 uint16, v2 byte) {
		k := ringKinds[int(uint(kind)%uint(len(ringKinds)))]
		r := newRing(t, k.compat, k.feat, ringLen-6, 7)
		r.log(5, data('a'), 6, data('a'))
		r.commit()
		r.log(6, data('b'), 8, data('b'))
		r.revoke(5)
		r.commit()
		blocks := []uint32{0, ringLen - 6, ringLen - 3, ringLen - 2, 1, 2, 3, 4}
		for _, p := range []struct {
			at uint16
			v  byte
		}{{at1, v1}, {at2, v2}} {
			n := blocks[int(p.at)/ringBlock%len(blocks)]
			if _, err := r.dev.WriteAt([]byte{p.v}, int64(n)*ringBlock+int64(p.at)%ringBlock); err != nil {
				t.Fatal(err)
			}
		}
		j, err := Load(r.location())
		if err != nil {
			return
		}
		stats, err := Recover(context.Background(), j, blockdev.NewMem(ringFS*ringBlock), ringFS)
		if err == nil && stats.Bad != 0 || stats.Blocks > ringLen {
			t.Errorf("%+v without an error", stats)
		}
		for range j.Log(context.Background()) {
		}
	})
}

package fsck_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures/tourimage"
)

// fuzzed are small images that together have all features.
var fuzzed = []string{
	"ext2-1k", "ext4-1k", "ext2-rev0", "small-groups", "bigalloc-1k-64k", "inline-data", "ea-inode-1k", "quota", "mmp",
	"orphan-file-clean", "casefold", "encrypted-1k", "indirect-1k", "meta-bg", "hash-legacy-signed", "fast-commit-1k", "verity",
}

// A fuzzTarget is an image in memory, and where its structures are.
type fuzzTarget struct {
	mem   *blockdev.Mem
	v     *volume
	sites []site
}

func fuzzTargets(t testing.TB) (out []*fuzzTarget) {
	add := func(mem *blockdev.Mem) {
		v := newVolume(t, mem, mem)
		out = append(out, &fuzzTarget{mem, v, v.sites()})
	}
	tour := tourimage.New()
	mem := blockdev.NewMem(int64(len(tour)))
	if _, err := mem.WriteAt(tour, 0); err != nil {
		t.Fatal(err)
	}
	add(mem)
	for _, name := range fuzzed {
		add(inMemory(t, name))
	}
	return out
}

// change interprets data as changes: ten bytes each. It returns what takes them back.
//
//	site, 2 bytes | place in it, 2 | bit 7: repair checksums, bits 0 to 2: length - 1 | value, 5
func (f *fuzzTarget) change(data []byte) (undo func()) {
	type saved struct {
		at int64
		b  []byte
	}
	var list []saved
	for n := 0; len(data) >= 10 && n < 12; data, n = data[10:], n+1 {
		s := &f.sites[int(binary.LittleEndian.Uint16(data))%len(f.sites)]
		off := int(binary.LittleEndian.Uint16(data[2:]))
		if len(s.fields) > 0 && off&0x8000 != 0 {
			off = s.fields[off%len(s.fields)].off // more often what means something
		}
		off %= s.size
		k := min(1+int(data[4]&7), s.size-off)
		list = append(list, saved{s.at, f.v.read(s.at, s.size)})
		for _, a := range s.also {
			list = append(list, saved{a[0], f.v.read(a[0], int(a[1]))})
		}
		var value [8]byte
		copy(value[:], data[5:10])
		f.v.write(s.at+int64(off), value[:k])
		if data[4]&0x80 != 0 && s.repair != nil {
			s.repair()
		}
	}
	return func() {
		for i := len(list) - 1; i >= 0; i-- {
			f.v.write(list[i].at, list[i].b)
		}
		f.mem.Flush()
	}
}

// FuzzRun: no image makes the checker fail, hang, or take more memory than it may.
func FuzzRun(f *testing.F) {
	targets := fuzzTargets(f)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range targets {
		for _, n := range []int{0, 10, 40} {
			data := make([]byte, n)
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
			f.Add(byte(i), byte(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, image, how byte, data []byte) {
		target := targets[int(image)%len(targets)]
		undo := target.change(data)
		defer undo()
		start := time.Now()
		opts := fsck.Options{Replay: how&1 != 0, Workers: 1 + int(how>>1&1), MemoryLimit: 64 << 20}
		report, err := fsck.Run(context.Background(), target.mem, opts)
		if report == nil {
			t.Fatal("no report")
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		for _, p := range report.Problems {
			if p.Text() == "" {
				t.Errorf("%s has no text", p.Code)
			}
		}
		opts.Workers = 3 - opts.Workers
		again, err2 := fsck.Run(context.Background(), target.mem, opts)
		if report.Damaged() != again.Damaged() || (err == nil) != (err2 == nil) {
			t.Errorf("damaged is %t (%v) and, with %d workers, %t (%v)", report.Damaged(), err, opts.Workers, again.Damaged(), err2)
		}
	})
}

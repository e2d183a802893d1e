package fsck_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"e4go/ext4/disk"
	"e4go/ext4/fsck"
)

// put changes inode ino, and repairs its checksum.
func (v *volume) put(ino disk.Ino, fn func(in *disk.Inode)) {
	v.change(v.inodeAt(ino), int(v.sb.InodeSize), func(b []byte) {
		in := disk.DecodeInode(b)
		fn(&in)
		in.Put(b)
	})
	v.fixInode(ino)
}

// extentNode returns a node in the size of b: n entries, each made by entry.
func extentNode(b []byte, depth, n int, entry func(i int) []byte) {
	clear(b)
	most := (len(b) - disk.ExtentHeaderSize) / disk.ExtentSize
	le := binary.LittleEndian
	le.PutUint16(b[0:], disk.ExtentMagic)
	le.PutUint16(b[2:], uint16(min(n, most)))
	le.PutUint16(b[4:], uint16(most))
	le.PutUint16(b[6:], uint16(depth))
	for i := range min(n, most) {
		copy(b[disk.ExtentHeaderSize+i*disk.ExtentSize:], entry(i))
	}
}

func extentIdx(l, leaf uint32) []byte {
	b := make([]byte, disk.ExtentSize)
	binary.LittleEndian.PutUint32(b, l)
	binary.LittleEndian.PutUint32(b[4:], leaf)
	return b
}

func extentLeaf(l uint32, n uint16, p uint32) []byte {
	b := make([]byte, disk.ExtentSize)
	binary.LittleEndian.PutUint32(b, l)
	binary.LittleEndian.PutUint16(b[4:], n)
	binary.LittleEndian.PutUint32(b[8:], p)
	return b
}

// files gives many inodes the same map: all that the first group has but the first few.
func (v *volume) files(mode disk.Mode, flags disk.FileFlags, size uint64, block func(b []byte)) {
	for ino := v.sb.FirstIno + 2; uint32(ino) <= v.sb.InodesPerGroup; ino++ {
		v.put(ino, func(in *disk.Inode) {
			*in = disk.Inode{Mode: mode, Links: 1, Size: size, Flags: flags, ExtraIsize: in.ExtraIsize}
			block(in.Block[:])
		})
	}
}

// hostile are images that are made to keep a checker busy.
var hostile = []struct {
	name, image string
	make        func(v *volume)
}{
	{"extent nodes that lead to themselves", "ext4-1k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		v.change(int64(at)*v.bs, int(v.bs), func(b []byte) { extentNode(b, 4, 100, func(i int) []byte { return extentIdx(uint32(i), at) }) })
		v.files(disk.ModeReg|0o644, disk.FlagExtents, 1<<30, func(b []byte) {
			extentNode(b, 5, 4, func(i int) []byte { return extentIdx(uint32(i), at) })
		})
	}},
	{"extent nodes of five levels, each of which leads to the next many times", "ext4-1k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		for level := range uint32(5) {
			v.change(int64(at+level)*v.bs, int(v.bs), func(b []byte) {
				extentNode(b, 4-int(level), 100, func(i int) []byte {
					if level == 4 {
						return extentLeaf(uint32(i)*32768, 32768, 1)
					}
					return extentIdx(uint32(i)*32768, at+level+1)
				})
			})
		}
		v.files(disk.ModeReg|0o644, disk.FlagExtents, 1<<40, func(b []byte) {
			extentNode(b, 5, 4, func(i int) []byte { return extentIdx(uint32(i)<<20, at) })
		})
	}},
	{"the same of directories", "ext4-4k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		v.change(int64(at)*v.bs, int(v.bs), func(b []byte) {
			extentNode(b, 0, 400, func(i int) []byte { return extentLeaf(uint32(i)*1000, 1000, 1000) })
		})
		v.files(disk.ModeDir|0o755, disk.FlagExtents|disk.FlagIndex, 400*1000*4096, func(b []byte) {
			extentNode(b, 1, 1, func(i int) []byte { return extentIdx(0, at) })
		})
	}},
	{"triple indirect blocks full of one number", "ext2-1k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		for level := range uint32(3) {
			v.change(int64(at+level)*v.bs, int(v.bs), func(b []byte) {
				for i := 0; i < len(b); i += 4 {
					binary.LittleEndian.PutUint32(b[i:], at+level+1)
				}
			})
		}
		v.files(disk.ModeReg|0o644, 0, 1<<34, func(b []byte) { binary.LittleEndian.PutUint32(b[56:], at) })
	}},
	{"directories of one block, many times", "ext2-1k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		v.change(int64(at)*v.bs, int(v.bs), func(b []byte) {
			for i := 0; i < len(b); i += 4 {
				binary.LittleEndian.PutUint32(b[i:], at+1)
			}
		})
		v.change(int64(at+1)*v.bs, int(v.bs), func(b []byte) { // entries to all inodes
			clear(b)
			for i := 0; i+12 <= len(b); i += 12 {
				binary.LittleEndian.PutUint32(b[i:], uint32(12+i/12))
				copy(b[i+4:], []byte{12, 0, 2, 2, byte('a' + i%26), byte('a' + i/26%26)})
			}
			binary.LittleEndian.PutUint16(b[len(b)-len(b)%12-12+4:], uint16(12+len(b)%12))
		})
		v.files(disk.ModeDir|0o755, 0, 268*1024, func(b []byte) { binary.LittleEndian.PutUint32(b[48:], at) })
	}},
	{"a superblock that counts 2^32 of all", "ext4-4k", func(v *volume) {
		v.change(disk.SuperblockOffset, disk.SuperblockSize, func(b []byte) {
			sb := disk.DecodeSuperblock(b)
			sb.Blocks = 1 << 44
			sb.Inodes = 1<<32 - 1
			sb.Put(b)
			sb.Checksum = disk.SuperblockChecksum(b)
			sb.Put(b)
		})
	}},
	{"as many inodes as blocks of a large device", "ext4-4k", func(v *volume) {
		v.change(disk.SuperblockOffset, disk.SuperblockSize, func(b []byte) {
			sb := disk.DecodeSuperblock(b)
			sb.Blocks = uint64(sb.BlocksPerGroup) * 100_000
			sb.Inodes = sb.InodesPerGroup * 100_000
			sb.Put(b)
			sb.Checksum = disk.SuperblockChecksum(b)
			sb.Put(b)
		})
	}},
	{"EA inodes of each other, from all inodes", "ea-inode-1k", func(v *volume) {
		at := uint32(v.sb.Blocks) - 8
		v.change(int64(at)*v.bs, int(v.bs), func(b []byte) {
			clear(b)
			binary.LittleEndian.PutUint32(b, disk.XattrMagic)
			binary.LittleEndian.PutUint32(b[4:], 1024)
			binary.LittleEndian.PutUint32(b[8:], 1)
			for i, at := 0, disk.XattrHeaderSize; at+24 <= len(b); i, at = i+1, at+20 {
				b[at], b[at+1] = 1, 1
				binary.LittleEndian.PutUint32(b[at+4:], uint32(12+i))
				binary.LittleEndian.PutUint32(b[at+8:], 65536)
				b[at+16] = 'x'
			}
			binary.LittleEndian.PutUint32(b[0x10:], disk.XattrBlockChecksum(v.seed, disk.PBlock(at), b))
		})
		for ino := v.sb.FirstIno + 1; uint32(ino) <= v.sb.InodesPerGroup; ino++ {
			v.put(ino, func(in *disk.Inode) {
				in.Mode, in.Links, in.Flags, in.FileACL = disk.ModeReg|0o600, 1, disk.FlagEAInode, disk.PBlock(at)
			})
		}
	}},
}

// TestHostile: the time that a check takes depends on what an image holds, not
// on what it says, and so does the memory.
func TestHostile(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			mem := inMemory(t, h.image)
			h.make(newVolume(t, mem, mem))
			for _, replay := range []bool{false, true} {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				start := time.Now()
				report, err := fsck.Run(context.Background(), mem, fsck.Options{Replay: replay, MemoryLimit: 128 << 20})
				took := time.Since(start)
				runtime.ReadMemStats(&after)
				if err == nil && !report.Damaged() {
					t.Errorf("nothing is damaged")
				}
				if grown := int64(after.Sys) - int64(before.Sys); took > time.Minute || grown > 400<<20 {
					t.Errorf("took %v and %d MiB", took, grown>>20)
				}
				t.Logf("%v, %d MiB allocated: %v, %d problems", took, (after.TotalAlloc-before.TotalAlloc)>>20, err, len(report.Problems))
			}
		})
	}
}

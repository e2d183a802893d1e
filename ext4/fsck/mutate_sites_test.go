package fsck_test

import (
	"encoding/binary"
	"fmt"
	"strings"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// A site is one structure on an image whose fields are mutated.
type site struct {
	what   string      // "inode 12"
	at     int64       // bytes
	size   int         // bytes
	fields []field     // relative to at
	also   [][2]int64  // what else a repair writes: place and length
	repair func() bool // of checksums; false where there is none
}

// A field is n bytes of a structure.
type field struct {
	name   string
	off, n int
}

// fieldsOf parses a table of "name offset size", one a line.
func fieldsOf(text string) (out []field) {
	for line := range strings.Lines(text) {
		var f field
		if n, err := fmt.Sscanf(line, "%s %v %d", &f.name, &f.off, &f.n); n == 3 {
			out = append(out, f)
		} else if strings.TrimSpace(line) != "" {
			panic(fmt.Sprintf("%q: %v", line, err))
		}
	}
	return out
}

func (v *volume) superSite() site {
	return site{what: "superblock", at: disk.SuperblockOffset, size: disk.SuperblockSize, fields: superFields, repair: func() bool {
		ok := false
		v.change(disk.SuperblockOffset, disk.SuperblockSize, func(b []byte) {
			sb := disk.DecodeSuperblock(b)
			if ok = sb.MetadataCsum() || v.sb.MetadataCsum(); ok {
				sb.Checksum = disk.SuperblockChecksum(b)
				sb.Put(b)
			}
		})
		return ok
	}}
}

// descAt is where the descriptor of group g is.
func (v *volume) descAt(g disk.Group) int64 {
	per := uint64(v.sb.DescPerBlock())
	blk := v.sb.DescBlock(disk.PBlock(disk.SuperblockOffset/v.bs), uint64(g)/per)
	return int64(blk)*v.bs + int64(uint64(g)%per)*int64(v.sb.GroupDescSize())
}

func (v *volume) fixDesc(g disk.Group) bool {
	v.change(v.descAt(g), v.sb.GroupDescSize(), func(b []byte) {
		d := disk.DecodeGroupDesc(b)
		d.Checksum = disk.GroupDescChecksum(&v.sb, g, b)
		d.Put(b)
	})
	return v.sb.DescChecksums()
}

func (v *volume) descSite(g disk.Group) site {
	s := site{what: fmt.Sprintf("descriptor %d", g), at: v.descAt(g), size: v.sb.GroupDescSize(), repair: func() bool { return v.fixDesc(g) }}
	for _, f := range descFields {
		if f.off+f.n <= s.size {
			s.fields = append(s.fields, f)
		}
	}
	return s
}

// bitmapSites are the bitmaps of group g, of which single bits are flipped.
func (v *volume) bitmapSites(g disk.Group) []site {
	info, err := v.fs.Group(g)
	if err != nil {
		v.t.Fatal(err)
	}
	desc := [2]int64{v.descAt(g), int64(v.sb.GroupDescSize())}
	fix := func(blk disk.PBlock, nbytes int, put func(d *disk.GroupDesc, sum uint32)) func() bool {
		return func() bool {
			b := v.read(int64(blk)*v.bs, nbytes)
			v.change(desc[0], int(desc[1]), func(raw []byte) {
				d := disk.DecodeGroupDesc(raw)
				put(&d, disk.BitmapChecksum(&v.sb, b))
				d.Put(raw)
			})
			return v.fixDesc(g) && v.sb.MetadataCsum()
		}
	}
	bits := func(n int, step int) (out []field) {
		for i := 0; i < n; i += step {
			out = append(out, field{fmt.Sprintf("byte-%d", i), i, 1})
		}
		return append(out, field{"last", n - 1, 1}, field{"block-end", int(v.bs) - 1, 1})
	}
	cpg, ipg := int(v.sb.ClustersPerGroup/8), int(v.sb.InodesPerGroup/8)
	return []site{
		{fmt.Sprintf("block bitmap %d", g), int64(info.BlockBitmap) * v.bs, int(v.bs), bits(cpg, max(1, cpg/6)), [][2]int64{desc},
			fix(info.BlockBitmap, cpg, func(d *disk.GroupDesc, sum uint32) { d.BlockBitmapCsum = sum })},
		{fmt.Sprintf("inode bitmap %d", g), int64(info.InodeBitmap) * v.bs, int(v.bs), bits(ipg, max(1, ipg/6)), [][2]int64{desc},
			fix(info.InodeBitmap, ipg, func(d *disk.GroupDesc, sum uint32) { d.InodeBitmapCsum = sum })},
	}
}

// inodeAt is where inode ino is.
func (v *volume) inodeAt(ino disk.Ino) int64 {
	g, index := v.sb.InodeGroup(ino)
	info, err := v.fs.Group(g)
	if err != nil {
		v.t.Fatal(err)
	}
	return int64(info.InodeTable)*v.bs + int64(index)*int64(v.sb.InodeSize)
}

func (v *volume) fixInode(ino disk.Ino) bool {
	if !v.sb.MetadataCsum() {
		return false
	}
	v.change(v.inodeAt(ino), int(v.sb.InodeSize), func(b []byte) {
		in := disk.DecodeInode(b)
		in.Checksum = disk.InodeChecksum(v.seed, ino, b)
		in.Put(b)
	})
	return true
}

func (v *volume) inodeSite(ino disk.Ino) site {
	s := site{what: fmt.Sprintf("inode %d", ino), at: v.inodeAt(ino), size: int(v.sb.InodeSize), repair: func() bool { return v.fixInode(ino) }}
	for _, f := range inodeFields {
		if f.off+f.n <= s.size {
			s.fields = append(s.fields, f)
		}
	}
	raw := v.read(s.at, s.size)
	in := disk.DecodeInode(raw)
	if in.Flags.Has(disk.FlagExtents) {
		s.fields = append(s.fields, extentFields(raw[disk.IBlockOffset:][:disk.IBlockSize], disk.IBlockOffset)...)
	}
	if p, ok := disk.XattrIbodyPlace(ino, raw, 0, 0); ok {
		s.fields = append(s.fields, xattrFields(raw, p.Off+p.Entries, p.Off+p.Base, s.size)...)
	}
	return s
}

// extentFields are the fields of a node of an extent tree at byte off.
func extentFields(b []byte, off int) (out []field) {
	for _, f := range fieldsOf("eh_magic 0 2\neh_entries 2 2\neh_max 4 2\neh_depth 6 2\neh_generation 8 4") {
		out = append(out, field{f.name, off + f.off, f.n})
	}
	h := disk.DecodeExtentHeader(b)
	entry := fieldsOf("ee_block 0 4\nee_len 4 2\nee_start_hi 6 2\nee_start_lo 8 4")
	if h.Depth > 0 {
		entry = fieldsOf("ei_block 0 4\nei_leaf_lo 4 4\nei_leaf_hi 8 2\nei_unused 10 2")
	}
	for _, i := range some(int(h.Entries)+1, 4) { // and one that is free
		for _, f := range entry {
			out = append(out, field{fmt.Sprintf("%s[%d]", f.name, i), off + disk.ExtentHeaderSize + i*disk.ExtentSize + f.off, f.n})
		}
	}
	return out
}

// some returns at most k numbers below n: the first, the last, and others.
func some(n, k int) (out []int) {
	if n <= k {
		for i := range n {
			out = append(out, i)
		}
		return out
	}
	for i := range k {
		out = append(out, i*(n-1)/(k-1))
	}
	return out
}

// xattrFields are the fields of the entries from byte first of b on; values
// are counted from base.
func xattrFields(b []byte, first, base, end int) (out []field) {
	for at := first; at+disk.XattrEntrySize <= end && binary.LittleEndian.Uint32(b[at:]) != 0; {
		e := disk.DecodeXattrEntry(b[at:])
		for _, f := range xattrEntryFields {
			out = append(out, field{f.name, at + f.off, f.n})
		}
		out = append(out, field{"e_name", at + disk.XattrEntrySize, 1})
		if e.ValueIno == 0 && e.ValueSize > 0 {
			out = append(out, field{"value", base + int(e.ValueOffset), 1})
		}
		at += disk.XattrEntryLen(int(e.NameLen))
	}
	return out
}

// mapSites are the blocks of the map of an inode.
func (v *volume) mapSites(in *ext4.Inode) (out []site) {
	seen := map[disk.PBlock]bool{}
	seed := disk.InodeSeed(v.seed, in.Ino(), in.Disk().Generation)
	_, err := in.WalkMap(func(r ext4.MapRow) error {
		if r.Node == 0 || seen[r.Node] || len(out) >= 3 {
			return nil
		}
		seen[r.Node] = true
		at := int64(r.Node) * v.bs
		if !in.Disk().Flags.Has(disk.FlagExtents) {
			s := site{what: fmt.Sprintf("indirect block of %d", in.Ino()), at: at, size: int(v.bs)}
			for _, i := range some(int(v.bs/4), 6) {
				s.fields = append(s.fields, field{fmt.Sprintf("pointer[%d]", i), 4 * i, 4})
			}
			out = append(out, s)
			return nil
		}
		b := v.read(at, int(v.bs))
		s := site{what: fmt.Sprintf("extent node of %d", in.Ino()), at: at, size: int(v.bs), fields: extentFields(b, 0), repair: func() bool {
			v.change(at, int(v.bs), func(b []byte) {
				if h := disk.DecodeExtentHeader(b); int(h.Max)*disk.ExtentSize+disk.ExtentHeaderSize <= len(b)-4 {
					disk.PutExtentChecksum(seed, b)
				}
			})
			return v.sb.MetadataCsum()
		}}
		s.fields = append(s.fields, field{"et_checksum", disk.ExtentHeaderSize + int(disk.DecodeExtentHeader(b).Max)*disk.ExtentSize, 4})
		out = append(out, s)
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// dirSites are the blocks of a directory.
func (v *volume) dirSites(in *ext4.Inode) (out []site) {
	if in.HasInlineData() {
		return v.inlineDirSites(in)
	}
	seed := disk.InodeSeed(v.seed, in.Ino(), in.Disk().Generation)
	blocks := int(in.Size() / v.bs)
	for _, l := range some(blocks, 4) {
		m, err := in.Map(disk.LBlock(l))
		if err != nil {
			v.t.Fatal(err)
		}
		at := int64(m.Physical) * v.bs
		b := v.read(at, int(v.bs))
		var node *disk.DxNode
		hash := 0
		if in.Disk().Flags.Has(disk.FlagIndex) {
			e := disk.DecodeDirent(b, int(v.bs))
			if l == 0 {
				n := disk.DxRootNode(b)
				node, hash = &n, 24+8
			} else if e.Ino == 0 && e.RecLen == int(v.bs) {
				n := disk.DxInnerNode(b)
				node, hash = &n, 8
			}
		}
		s := site{what: fmt.Sprintf("block %d of directory %d", l, in.Ino()), at: at, size: int(v.bs)}
		if node != nil {
			if l == 0 {
				s.fields = append(s.fields, dxRootFields...)
			}
			s.fields = append(s.fields, field{"dx_limit", hash, 2}, field{"dx_count", hash + 2, 2}, field{"dx_block[0]", hash + 4, 4})
			for _, i := range some(node.Count(), 3) {
				if i > 0 {
					s.fields = append(s.fields, field{fmt.Sprintf("dx_hash[%d]", i), hash + 8*i, 4}, field{fmt.Sprintf("dx_block[%d]", i), hash + 8*i + 4, 4})
				}
			}
			s.fields = append(s.fields, field{"dt_reserved", hash + 8*node.Limit(), 4}, field{"dt_checksum", hash + 8*node.Limit() + 4, 4})
			s.what = "index " + s.what
			s.repair = func() bool {
				v.change(at, int(v.bs), func(b []byte) {
					n := disk.DxInnerNode(b)
					if l == 0 {
						n = disk.DxRootNode(b)
					}
					if n.Limit() == n.DxLimit(true) && n.Count() <= n.Limit() {
						n.PutChecksum(seed)
					}
				})
				return v.sb.MetadataCsum()
			}
		} else {
			s.fields = direntFields(b, int(v.bs))
			s.repair = func() bool {
				v.change(at, int(v.bs), func(b []byte) {
					if _, ok := disk.DirTail(b); ok {
						disk.PutDirTail(b, seed)
					}
				})
				return v.sb.MetadataCsum()
			}
		}
		out = append(out, s)
	}
	return out
}

// direntFields are the fields of some of the entries in b.
func direntFields(b []byte, bs int) (out []field) {
	var offs []int
	for off := 0; off+disk.DirentHeaderSize <= len(b); {
		e := disk.DecodeDirent(b[off:], bs)
		if e.RecLen < disk.DirentHeaderSize {
			break
		}
		offs = append(offs, off)
		off += e.RecLen
	}
	for _, i := range some(len(offs), 6) {
		off := offs[i]
		for _, f := range fieldsOf("inode 0 4\nrec_len 4 2\nname_len 6 1\nfile_type 7 1\nname 8 1\nname2 9 1") {
			if off+f.off+f.n <= len(b) {
				out = append(out, field{fmt.Sprintf("%s[%d]", f.name, i), off + f.off, f.n})
			}
		}
	}
	return append(out, field{"last4", len(b) - 4, 4})
}

func (v *volume) inlineDirSites(in *ext4.Inode) []site {
	at := v.inodeAt(in.Ino())
	s := site{what: fmt.Sprintf("inline directory %d", in.Ino()), at: at, size: int(v.sb.InodeSize), repair: func() bool { return v.fixInode(in.Ino()) }}
	raw := v.read(at, s.size)
	s.fields = append(s.fields, field{"parent", disk.IBlockOffset, 4})
	for _, f := range direntFields(raw[disk.IBlockOffset+4:][:disk.IBlockSize-4], int(v.bs)) {
		s.fields = append(s.fields, field{f.name, f.off + disk.IBlockOffset + 4, f.n})
	}
	return []site{s}
}

func (v *volume) xattrSites(in *ext4.Inode) []site {
	blk := in.Disk().XattrBlock(&v.sb)
	if blk == 0 {
		return nil
	}
	at := int64(blk) * v.bs
	b := v.read(at, int(v.bs))
	s := site{what: fmt.Sprintf("xattr block of %d", in.Ino()), at: at, size: int(v.bs), repair: func() bool {
		v.change(at, int(v.bs), func(b []byte) {
			binary.LittleEndian.PutUint32(b[0x10:], disk.XattrBlockChecksum(v.seed, blk, b))
		})
		return v.sb.MetadataCsum()
	}}
	s.fields = append(s.fields, fieldsOf("h_magic 0 4\nh_refcount 4 4\nh_blocks 8 4\nh_hash 12 4\nh_checksum 16 4\nh_reserved 20 4")...)
	s.fields = append(s.fields, xattrFields(b, disk.XattrHeaderSize, 0, int(v.bs))...)
	return []site{s}
}

// block is a site of one block of a file, with fields of its own.
func (v *volume) block(in *ext4.Inode, what string, l uint64, fields []field, fix func(b []byte, blk disk.PBlock) bool) site {
	m, err := in.Map(disk.LBlock(l))
	if err != nil {
		v.t.Fatal(err)
	}
	blk := m.Physical + disk.PBlock(l-uint64(m.Logical))
	at := int64(blk) * v.bs
	s := site{what: what, at: at, size: int(v.bs), fields: fields}
	if fix != nil {
		s.repair = func() (ok bool) {
			v.change(at, int(v.bs), func(b []byte) { ok = fix(b, blk) })
			return ok
		}
	}
	return s
}

// otherSites are the structures that a feature has.
func (v *volume) otherSites() (out []site) {
	inode := func(ino disk.Ino) *ext4.Inode {
		in, err := v.fs.Inode(ino)
		if err != nil {
			v.t.Fatal(err)
		}
		return in
	}
	if ino := v.sb.JournalIno; v.sb.Compat.Has(disk.CompatHasJournal) && ino != 0 {
		out = append(out, v.block(inode(ino), "journal superblock", 0, journalFields, func(b []byte, _ disk.PBlock) bool {
			s := disk.DecodeJournalSuper(b)
			if s.Incompat&(disk.JournalCsumV2|disk.JournalCsumV3) == 0 {
				return false
			}
			binary.BigEndian.PutUint32(b[0xfc:], disk.JournalSuperChecksum(b[:disk.JournalSuperSize]))
			return true
		}))
	}
	if v.sb.Incompat.Has(disk.IncompatMMP) {
		at := int64(v.sb.MMPBlock) * v.bs
		out = append(out, site{what: "MMP block", at: at, size: int(v.bs), fields: mmpFields, repair: func() bool {
			v.change(at, int(v.bs), func(b []byte) { binary.LittleEndian.PutUint32(b[0x3fc:], disk.MMPChecksum(v.seed, b)) })
			return v.sb.MetadataCsum()
		}})
	}
	if v.sb.Compat.Has(disk.CompatOrphanFile) {
		in := inode(v.sb.OrphanFileIno)
		seed := disk.InodeSeed(v.seed, in.Ino(), in.Disk().Generation)
		fields := []field{{"ob_entry[0]", 0, 4}, {"ob_entry[1]", 4, 4}, {"ob_magic", int(v.bs) - 8, 4}, {"ob_checksum", int(v.bs) - 4, 4}}
		out = append(out, v.block(in, "orphan file", 0, fields, func(b []byte, blk disk.PBlock) bool {
			binary.LittleEndian.PutUint32(b[v.bs-4:], disk.OrphanBlockChecksum(seed, blk, b))
			return v.sb.MetadataCsum()
		}))
	}
	if v.sb.ROCompat.Has(disk.ROCompatQuota) {
		for q := range disk.QuotaTypes {
			if ino := v.sb.QuotaIno(q); ino != 0 {
				out = append(out, v.quotaSites(inode(ino))...)
			}
		}
	}
	return out
}

// quotaSites are the blocks of a quota file.
func (v *volume) quotaSites(in *ext4.Inode) (out []site) {
	for l := range uint64(in.Size()) / disk.QuotaBlockSize {
		at := l * disk.QuotaBlockSize
		var fields []field
		switch {
		case l == 0:
			fields = quotaHeaderFields
		default:
			fields = fieldsOf("word0 0 4\nword1 4 4\nword2 8 4\nword3 12 4\nid 16 4\ninodes 40 8\nihard 24 8\nspace 64 8\nbtime 72 8\nitime 80 8\nlast 1020 4")
		}
		s := v.block(in, fmt.Sprintf("quota file %d block %d", in.Ino(), l), at/uint64(v.bs), fields, nil)
		s.at += int64(at % uint64(v.bs))
		s.size = disk.QuotaBlockSize
		out = append(out, s)
	}
	return out
}

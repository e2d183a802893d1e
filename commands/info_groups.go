package commands

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// groupList shows the block groups one by one, as dumpe2fs does. Damage is shown
// with the group, and the first is returned when all groups were seen.
func groupList(o *output, fs *ext4.FS) error {
	if o.json {
		o.kArr("groups")
		defer o.end()
	}
	var first error
	for g := range fs.Super().Groups() {
		if !o.ok() {
			return o.fail()
		}
		info, err := fs.Group(disk.Group(g))
		if err != nil && !errors.Is(err, disk.ErrCorrupt) {
			return err
		}
		gr := groupReport{fs: fs, info: info, err: err}
		gr.readFree()
		switch {
		case o.json:
			gr.json(o)
		case o.plain:
			gr.plain(o)
		default:
			gr.text(o)
		}
		if first == nil {
			first = gr.err
		}
	}
	return first
}

// A groupReport is what is known of one group.
type groupReport struct {
	fs         *ext4.FS
	info       ext4.GroupInfo
	blocks     []span // free
	inodes     []span // free
	blocksKnow bool
	inodesKnow bool
	err        error // the first damage
}

// A span is the numbers from first to last.
type span struct{ first, last uint64 }

// readFree reads the bitmaps.
func (r *groupReport) readFree() {
	sb := r.fs.Super()
	if r.err != nil {
		return // the descriptor, and so the place of the bitmaps, is not to be trusted
	}
	bm, err := r.fs.BlockBitmap(r.info.Number)
	if err == nil {
		cb := sb.ClusterBits()
		n := (uint64(r.info.LastBlock-r.info.FirstBlock) + 1<<cb) >> cb
		r.blocks, r.blocksKnow = zeroRuns(bm, n), true
		for i := range r.blocks {
			b := &r.blocks[i]
			b.first = uint64(r.info.FirstBlock) + b.first<<cb
			b.last = min(uint64(r.info.FirstBlock)+(b.last+1)<<cb-1, uint64(r.info.LastBlock))
		}
	}
	r.err = err
	im, err := r.fs.InodeBitmap(r.info.Number)
	if err == nil {
		r.inodes, r.inodesKnow = zeroRuns(im, uint64(sb.InodesPerGroup)), true
		for i := range r.inodes {
			start := uint64(r.info.Number)*uint64(sb.InodesPerGroup) + 1
			r.inodes[i].first += start
			r.inodes[i].last += start
		}
	}
	if r.err == nil {
		r.err = err
	}
}

// zeroRuns returns the runs of clear bits among the first n of bitmap.
func zeroRuns(bitmap []byte, n uint64) []span {
	n = min(n, uint64(len(bitmap))*8)
	var out []span
	for i := uint64(0); i < n; {
		if i%8 == 0 && bitmap[i/8] == 0xff {
			i += 8
			continue
		}
		if bitmap[i/8]>>(i%8)&1 != 0 {
			i++
			continue
		}
		first := i
		for i < n && bitmap[i/8]>>(i%8)&1 == 0 {
			if i%8 == 0 {
				if b := bitmap[i/8]; b == 0 {
					i += 8
					continue
				} else if z := bits.TrailingZeros8(b); z > 0 {
					i += uint64(z)
					continue
				}
			}
			i++
		}
		i = min(i, n)
		out = append(out, span{first, i - 1})
	}
	return out
}

func appendRuns(b []byte, runs []span) []byte {
	for i, r := range runs {
		if i > 0 {
			b = append(b, ',', ' ')
		}
		b = strconv.AppendUint(b, r.first, 10)
		if r.last > r.first {
			b = append(b, '-')
			b = strconv.AppendUint(b, r.last, 10)
		}
	}
	return b
}

// checksumState is what the descriptor's own checksum is worth.
func (r *groupReport) checksumState() string {
	var c *disk.CorruptError
	switch {
	case !r.fs.Super().DescChecksums():
		return "none"
	case errors.As(r.err, &c) && c.Field == "bg_checksum":
		return "bad"
	}
	return "ok"
}

// place is block b relative to the group, as dumpe2fs writes it: (+3), or
// (bg #2 + 3).
func (r *groupReport) place(b disk.PBlock) string {
	sb := r.fs.Super()
	if b >= r.info.FirstBlock && b <= r.info.LastBlock {
		return fmt.Sprintf("(+%d)", b-r.info.FirstBlock)
	}
	if uint64(b) < uint64(sb.FirstDataBlock) || uint64(b) >= sb.Blocks {
		return "(outside the file system)"
	}
	g := sb.GroupOf(b)
	return fmt.Sprintf("(bg #%d + %d)", g, b-sb.FirstBlock(g))
}

func (r *groupReport) text(o *output) {
	sb, i := r.fs.Super(), &r.info
	var line []byte
	line = fmt.Appendf(line, "\nGroup %d: (Blocks %d-%d)", i.Number, i.FirstBlock, i.LastBlock)
	if sb.DescChecksums() {
		line = fmt.Appendf(line, " csum %#04x", i.Checksum)
		if r.checksumState() == "bad" {
			line = append(line, " (BAD)"...)
		}
	}
	if i.Flags != 0 {
		line = fmt.Appendf(line, " [%s]", i.Flags)
	}
	o.line(string(line))
	if i.HasSuper {
		kind, at := "Backup", uint64(i.FirstBlock)
		if i.Number == 0 {
			kind = "Primary"
			at = disk.SuperblockOffset / uint64(sb.BlockSize())
		}
		text := fmt.Sprintf("  %s superblock at %d", kind, at)
		if i.DescLast != 0 {
			text += fmt.Sprintf(", Group descriptors at %d-%d", i.DescFirst, i.DescLast)
		}
		o.line(text)
	} else if i.DescLast != 0 {
		o.line(fmt.Sprintf("  Group descriptors at %d-%d", i.DescFirst, i.DescLast))
	}
	if i.ReservedLast != 0 {
		o.line(fmt.Sprintf("  Reserved GDT blocks at %d-%d", i.ReservedFirst, i.ReservedLast))
	}
	csum := func(v uint32) string {
		if sb.MetadataCsum() {
			return fmt.Sprintf(", csum %#08x", v)
		}
		return ""
	}
	o.line(fmt.Sprintf("  Block bitmap at %d %s%s", i.BlockBitmap, r.place(i.BlockBitmap), csum(i.BlockBitmapCsum)))
	o.line(fmt.Sprintf("  Inode bitmap at %d %s%s", i.InodeBitmap, r.place(i.InodeBitmap), csum(i.InodeBitmapCsum)))
	o.line(fmt.Sprintf("  Inode table at %d-%d %s", i.InodeTable, uint64(i.InodeTable)+uint64(sb.ItableBlocks())-1, r.place(i.InodeTable)))
	counts := fmt.Sprintf("  %d free %s, %d free inodes, %d directories", i.FreeClusters, unitName(sb), i.FreeInodes, i.UsedDirs)
	if i.ItableUnused != 0 {
		counts += fmt.Sprintf(", %d unused inodes", i.ItableUnused)
	}
	o.line(counts)
	if r.blocksKnow {
		o.buf = appendRuns(append(o.buf, "  Free blocks: "...), r.blocks)
		o.line("")
	}
	if r.inodesKnow {
		o.buf = appendRuns(append(o.buf, "  Free inodes: "...), r.inodes)
		o.line("")
	}
	if r.err != nil {
		o.line("  " + o.styles.bad("Damaged: "+errorText(r.err)))
	}
}

func unitName(sb *disk.Superblock) string {
	if sb.ClusterBits() > 0 {
		return "clusters"
	}
	return "blocks"
}

// plain prints one line: what dumpe2fs -g has, then the counts.
func (r *groupReport) plain(o *output) {
	i := &r.info
	for n, v := range []uint64{
		uint64(i.Number), uint64(i.FirstBlock), uint64(i.LastBlock), uint64(i.DescFirst), uint64(i.DescLast),
		uint64(i.BlockBitmap), uint64(i.InodeBitmap), uint64(i.InodeTable),
		uint64(i.FreeClusters), uint64(i.FreeInodes), uint64(i.UsedDirs), uint64(i.ItableUnused),
	} {
		if n > 0 {
			o.buf = append(o.buf, '\t')
		}
		o.buf = strconv.AppendUint(o.buf, v, 10)
	}
	o.line(fmt.Sprintf("\t%#x\t%s", uint16(i.Flags), r.checksumState()))
}

func (r *groupReport) json(o *output) {
	i := &r.info
	o.obj()
	o.kUint("group", uint64(i.Number))
	o.kUint("first_block", uint64(i.FirstBlock))
	o.kUint("last_block", uint64(i.LastBlock))
	o.kInt("flags", int64(i.Flags))
	o.kStrs("flag_names", bitWords(uint32(i.Flags), "inode_uninit", "block_uninit", "itable_zeroed"))
	o.kStr("checksum", r.checksumState())
	o.kBool("superblock", i.HasSuper)
	if i.DescLast != 0 {
		o.kUint("desc_first", uint64(i.DescFirst))
		o.kUint("desc_last", uint64(i.DescLast))
	}
	if i.ReservedLast != 0 {
		o.kUint("reserved_gdt_first", uint64(i.ReservedFirst))
		o.kUint("reserved_gdt_last", uint64(i.ReservedLast))
	}
	o.kUint("block_bitmap", uint64(i.BlockBitmap))
	o.kUint("inode_bitmap", uint64(i.InodeBitmap))
	o.kUint("inode_table", uint64(i.InodeTable))
	o.kUint("free_clusters", uint64(i.FreeClusters))
	o.kUint("free_inodes", uint64(i.FreeInodes))
	o.kUint("directories", uint64(i.UsedDirs))
	o.kUint("unused_inodes", uint64(i.ItableUnused))
	if r.blocksKnow {
		o.kRuns("free_block_runs", r.blocks)
	}
	if r.inodesKnow {
		o.kRuns("free_inode_runs", r.inodes)
	}
	if r.err != nil {
		o.key("error")
		o.errorObject(o.cmd, r.err)
	}
	o.end()
}

// kRuns writes runs as pairs of numbers.
func (o *output) kRuns(k string, runs []span) {
	o.kArr(k)
	for _, r := range runs {
		o.arr()
		o.buf = strconv.AppendUint(o.buf, r.first, 10)
		o.buf = append(o.buf, ',')
		o.buf = strconv.AppendUint(o.buf, r.last, 10)
		o.end()
	}
	o.end()
}

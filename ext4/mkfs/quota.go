package mkfs

import (
	"maps"
	"slices"

	"e4go/ext4/disk"
)

// quotaType says whose usage a quota file counts.
type quotaType int

const (
	quotaUser quotaType = iota
	quotaGroup
	quotaProject
	quotaTypes
)

var quotaInos = [quotaTypes]disk.Ino{3, 4, 0} // the third has no number of its own

// The quota file is a tree of four levels, an id's byte each, in blocks of
// 1 KiB, whose leaves hold 14 entries (fs/quota/quota_tree.h, quota_v2).
const (
	quotaBlock      = 1024
	quotaDepth      = 4
	quotaVersion    = 1
	quotaGrace      = 7 * 24 * 3600 // seconds
	quotaEntrySize  = 72
	quotaLeafHeader = 16
	quotaPerLeaf    = (quotaBlock - quotaLeafHeader) / quotaEntrySize
	emptyQuotaSize  = 6 * quotaBlock // header, four levels, one leaf
)

var quotaMagics = [quotaTypes]uint32{0xd9c01f11, 0xd9c01927, 0xd9c03f14}

// quotaTypes decides which quota files there are.
func (p *Params) quotaTypes(f *Features) error {
	types := []quotaType{quotaUser, quotaGroup}
	if p.o.QuotaTypes != nil {
		types = nil
		for _, name := range p.o.QuotaTypes {
			t, ok := quotaNumbers[name]
			if !ok {
				return usage("it is usrquota, grpquota or prjquota", "there is no quota type %s", name)
			}
			if t == quotaProject {
				f.ROCompat |= disk.ROCompatProject
			}
			types = append(types, t)
		}
	}
	if f.ROCompat.Has(disk.ROCompatProject) {
		types = append(types, quotaProject)
	}
	if !f.ROCompat.Has(disk.ROCompatQuota) {
		return nil
	}
	slices.Sort(types)
	p.quota = slices.Compact(types)
	return nil
}

// A usage is what the files of one id take.
type usageCount struct{ space, inodes uint64 }

// usages counts by type and id.
type usages [quotaTypes]map[uint32]usageCount

// count adds an inode.
func (u *usages) count(in *disk.Inode, sectors uint64, inodes uint64) {
	for t, id := range [quotaTypes]uint32{in.UID, in.GID, in.ProjID} {
		if u[t] == nil {
			u[t] = make(map[uint32]usageCount)
		}
		c := u[t][id]
		c.space += sectors << 9
		c.inodes += inodes
		u[t][id] = c
	}
}

// quotaFile builds a quota file.
type quotaFile struct {
	blocks [][]byte
	leaf   uint32 // the leaf with room, or 0
}

func (q *quotaFile) grow() uint32 {
	q.blocks = append(q.blocks, make([]byte, quotaBlock))
	return uint32(len(q.blocks) - 1)
}

// encodeQuota is the contents of a quota file of the usages.
func encodeQuota(t quotaType, m map[uint32]usageCount) []byte {
	q := &quotaFile{}
	header, root := q.grow(), q.grow()
	for _, id := range slices.Sorted(maps.Keys(m)) {
		q.add(root, id, m[id])
	}
	h := q.blocks[header]
	le.PutUint32(h[0:], quotaMagics[t])
	le.PutUint32(h[4:], quotaVersion)
	le.PutUint32(h[8:], quotaGrace)
	le.PutUint32(h[12:], quotaGrace)
	le.PutUint32(h[20:], uint32(len(q.blocks)))
	le.PutUint32(h[28:], q.leaf)
	return slices.Concat(q.blocks...)
}

// add puts an entry into the leaf with room, and the way to it into the tree.
func (q *quotaFile) add(block uint32, id uint32, c usageCount) {
	if q.leaf == 0 {
		q.leaf = q.grow()
	}
	for depth := range quotaDepth {
		slot := q.blocks[block][4*(id>>(8*(quotaDepth-1-depth))&0xff):][:4]
		next := le.Uint32(slot)
		if depth == quotaDepth-1 {
			le.PutUint32(slot, q.leaf)
			break
		}
		if next == 0 {
			next = q.grow()
			le.PutUint32(slot, next)
		}
		block = next
	}
	b := q.blocks[q.leaf]
	n := le.Uint16(b[8:])
	le.PutUint16(b[8:], n+1)
	e := b[quotaLeafHeader+int(n)*quotaEntrySize:]
	le.PutUint32(e[0:], id)
	le.PutUint64(e[24:], c.inodes)
	le.PutUint64(e[48:], c.space)
	if n+1 == quotaPerLeaf {
		q.leaf = 0
	}
}

// quotaIno is the inode of a quota file.
func (v *volume) quotaIno(t quotaType) disk.Ino {
	if t == quotaProject {
		return v.builtin.projectIno
	}
	return quotaInos[t]
}

// finishQuota writes the quota files and adds their inodes to fixed.
func (v *volume) finishQuota(u *usages, fixed map[disk.Ino]*inode) error {
	for _, t := range v.p.quota {
		data := encodeQuota(t, u[t])
		runs := v.builtin.quota[t]
		need := (uint64(len(data)) + uint64(v.sb.BlockSize()) - 1) >> v.sb.BlockBits()
		for _, r := range runs {
			need -= min(need, r.len())
		}
		if need > 0 {
			more, err := v.allocPieces("a quota file", runs[len(runs)-1].end, need)
			if err != nil {
				return err
			}
			runs = append(runs, more...)
		}
		in := v.newInode(disk.ModeReg|0o600, 1)
		in.Size = uint64(len(data))
		in.Flags |= disk.FlagImmutable
		if err := v.storeAt(in, runs, data); err != nil {
			return err
		}
		ino := v.quotaIno(t)
		fixed[ino] = in
		switch t {
		case quotaUser:
			v.sb.UserQuotaIno = ino
		case quotaGroup:
			v.sb.GroupQuotaIno = ino
		case quotaProject:
			v.sb.ProjectQuotaIno = ino
		}
	}
	return nil
}

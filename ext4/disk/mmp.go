package disk

import "fmt"

const (
	MMPMagic    = 0x004D4D50 // EXT4_MMP_MAGIC
	MMPSeqClean = 0xFF4D4D50 // unmounted cleanly
	MMPSeqFsck  = 0xE24D4D50 // being checked
	MMPSeqMax   = 0xE24D4D4F // the largest number of a mounted file system
	MMPSize     = 1024
	mmpCsumAt   = 0x3fc
)

// MMP is struct mmp_struct: who has the file system mounted.
type MMP struct {
	Magic    uint32 // mmp_magic
	Seq      uint32 // mmp_seq: changes while mounted
	Time     uint64 // mmp_time: seconds, of the last change
	Node     string // mmp_nodename: the host
	Dev      string // mmp_bdevname: the device there
	Interval uint16 // mmp_check_interval: seconds
	Checksum uint32 // mmp_checksum
}

// DecodeMMP decodes the MMP block at the start of b.
func DecodeMMP(b []byte) MMP {
	p := (*[MMPSize]byte)(b)
	return MMP{
		Magic: le.Uint32(p[0:4]), Seq: le.Uint32(p[4:8]), Time: le.Uint64(p[8:16]),
		Node: cutNUL(p[16:80]), Dev: cutNUL(p[80:112]), Interval: le.Uint16(p[112:114]), Checksum: le.Uint32(p[mmpCsumAt:]),
	}
}

// Put writes m into b, the inverse of [DecodeMMP].
func (m *MMP) Put(b []byte) {
	p := (*[MMPSize]byte)(b)
	le.PutUint32(p[0:4], m.Magic)
	le.PutUint32(p[4:8], m.Seq)
	le.PutUint64(p[8:16], m.Time)
	putText(p[16:80], m.Node)
	putText(p[80:112], m.Dev)
	le.PutUint16(p[112:114], m.Interval)
	le.PutUint32(p[mmpCsumAt:], m.Checksum)
}

// MMPChecksum is mmp_checksum of the MMP block b (ext4_mmp_csum).
func MMPChecksum(seed uint32, b []byte) uint32 { return crc32c(seed, b[:mmpCsumAt]) }

// CheckMMP reports the first rule that the MMP block b breaks, or nil.
func CheckMMP(sb *Superblock, b []byte, blk PBlock) error {
	bad := func(at int, field, have, want string) error {
		return &CorruptError{Struct: "MMP block", Num: uint64(blk), Block: blk, Off: at, Field: field, Have: have, Want: want}
	}
	m := DecodeMMP(b)
	if m.Magic != MMPMagic {
		return bad(0, "mmp_magic", fmt.Sprintf("%#08x", m.Magic), "0x004d4d50")
	}
	if sum := MMPChecksum(sb.Seed(), b); sb.MetadataCsum() && m.Checksum != sum {
		return bad(mmpCsumAt, "mmp_checksum", fmt.Sprintf("%#08x", m.Checksum), fmt.Sprintf("%#08x", sum))
	}
	return nil
}

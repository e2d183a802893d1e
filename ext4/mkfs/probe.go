package mkfs

import (
	"bytes"
	"fmt"
	"io"

	"e4go/ext4/disk"
)

// A signature is what something else has at a fixed place.
type signature struct {
	what  string
	at    int64 // negative: from the end
	magic string
}

// signatures are of what people would not want to lose.
var signatures = []signature{
	{"an XFS file system", 0, "XFSB"},
	{"a btrfs file system", 0x10040, "_BHRfS_M"},
	{"a bcachefs file system", 0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"an F2FS file system", 0x400, "\x10\x20\xf5\xf2"},
	{"an EROFS file system", 0x400, "\xe2\xe1\xf5\xe0"},
	{"a squashfs file system", 0, "hsqs"},
	{"a cramfs file system", 0, "\x45\x3d\xcd\x28"},
	{"an NTFS file system", 3, "NTFS    "},
	{"an exFAT file system", 3, "EXFAT   "},
	{"a FAT file system", 82, "FAT32   "},
	{"a FAT file system", 54, "FAT16   "},
	{"a FAT file system", 54, "FAT12   "},
	{"an ISO 9660 file system", 0x8001, "CD001"},
	{"a UDF file system", 0x8001, "BEA01"},
	{"a JFS file system", 0x8000, "JFS1"},
	{"a ReiserFS file system", 0x10034, "ReIsEr"},
	{"a GFS2 file system", 0x10000, "\x01\x16\x19\x70"},
	{"an OCFS2 file system", 0x2000, "OCFSV2"},
	{"a Minix file system", 0x410, "\x7f\x13"},
	{"a Minix file system", 0x410, "\x68\x24"},
	{"an HFS+ file system", 0x400, "H+\x00\x04"},
	{"an APFS container", 0x20, "NXSB"},
	{"swap space", 4086, "SWAPSPACE2"},
	{"swap space", 4086, "SWAP-SPACE"},
	{"a hibernation image", 4086, "S1SUSPEND"},
	{"an LVM physical volume", 0x218, "LVM2 001"},
	{"an LVM physical volume", 0x18, "LVM2 001"},
	{"a LUKS container", 0, "LUKS\xba\xbe"},
	{"a BitLocker volume", 3, "-FVE-FS-"},
	{"a member of a software RAID", 0x1000, "\xfc\x4e\x2b\xa9"},
	{"a member of a software RAID", 0, "\xfc\x4e\x2b\xa9"},
	{"a bcache device", 0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"a VDO volume", 0, "dmvdo001"},
	{"a ZFS member", 0x20000, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"a QCOW image", 0, "QFI\xfb"},
	{"a VMDK image", 0, "KDMV"},
	{"a VDI image", 0x40, "\x7f\x10\xda\xbe"},
	{"a VHDX image", 0, "vhdxfile"},
	{"a GPT partition table", 512, "EFI PART"},
	{"a GPT partition table", 4096, "EFI PART"},
	{"a backup GPT partition table", -512, "EFI PART"},
}

// Probe says what is on a device of size bytes, or "" if nothing is known.
func Probe(r io.ReaderAt, size int64) (string, error) {
	super := make([]byte, disk.SuperblockSize)
	if ok, err := readAt(r, super, disk.SuperblockOffset, size); err != nil {
		return "", err
	} else if ok {
		if sb := disk.DecodeSuperblock(super); sb.Magic == disk.SuperMagic {
			return describe(&sb), nil
		}
	}
	for _, s := range signatures {
		at := s.at
		if at < 0 {
			at += size
		}
		b := make([]byte, len(s.magic))
		ok, err := readAt(r, b, at, size)
		if err != nil {
			return "", err
		}
		if ok && string(b) == s.magic {
			return s.what, nil
		}
	}
	// A partition table of the old kind has a mark that boot sectors have, too:
	// it is one if a partition is in it.
	mbr := make([]byte, 512)
	if ok, err := readAt(r, mbr, 0, size); err != nil {
		return "", err
	} else if ok && mbr[510] == 0x55 && mbr[511] == 0xaa {
		for i := range 4 {
			if e := mbr[446+16*i:][:16]; e[0]&0x7f == 0 && e[4] != 0 && !bytes.Equal(e[8:16], make([]byte, 8)) {
				return "an MBR partition table", nil
			}
		}
		return "a boot sector", nil
	}
	return "", nil
}

func readAt(r io.ReaderAt, b []byte, at, size int64) (bool, error) {
	if at < 0 || at+int64(len(b)) > size {
		return false, nil
	}
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		err = nil
	}
	if err != nil {
		return false, fmt.Errorf("look at what is there: %w", err)
	}
	return true, nil
}

// describe names an ext file system.
func describe(sb *disk.Superblock) string {
	kind := "ext2"
	switch {
	case sb.Incompat.Has(disk.IncompatJournalDev):
		return "an external ext4 journal"
	case sb.Incompat&(disk.IncompatExtents|disk.Incompat64Bit|disk.IncompatFlexBG) != 0:
		kind = "ext4"
	case sb.Compat.Has(disk.CompatHasJournal):
		kind = "ext3"
	}
	what := "an " + kind + " file system"
	if sb.Label != "" {
		what += fmt.Sprintf(" labelled %q", sb.Label)
	}
	if sb.LastMounted != "" {
		what += fmt.Sprintf(", last mounted on %s", sb.LastMounted)
	}
	return what
}

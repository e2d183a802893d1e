package mkfs

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"

	"e4go/ext4/disk"
)

// A signature is what something else has at a fixed place.
type signature struct {
	what  string
	magic string
	at    []int64 // negative: from the end
	align int64   // of the end that is counted from; 0: none
}

// signatures are of what people would not want to lose.
var signatures = []signature{
	{"an XFS file system", "XFSB", []int64{0}, 0},
	{"a btrfs file system", "_BHRfS_M", []int64{0x10040}, 0},
	{"a bcachefs file system", "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", []int64{0x1018}, 0},
	{"an F2FS file system", "\x10\x20\xf5\xf2", []int64{0x400}, 0},
	{"an EROFS file system", "\xe2\xe1\xf5\xe0", []int64{0x400}, 0},
	{"a squashfs file system", "hsqs", []int64{0}, 0},
	{"a cramfs file system", "\x45\x3d\xcd\x28", []int64{0}, 0},
	{"a romfs file system", "-rom1fs-", []int64{0}, 0},
	{"a zonefs file system", "SFOZ", []int64{0}, 0},
	{"a UBI volume", "UBI#", []int64{0}, 0},
	{"a UBIFS file system", "\x31\x18\x10\x06", []int64{0}, 0},
	{"an NTFS file system", "NTFS    ", []int64{3}, 0},
	{"an exFAT file system", "EXFAT   ", []int64{3}, 0},
	{"a FAT file system", "FAT32   ", []int64{82}, 0},
	{"a FAT file system", "FAT16   ", []int64{54}, 0},
	{"a FAT file system", "FAT12   ", []int64{54}, 0},
	{"an ISO 9660 file system", "CD001", []int64{0x8001}, 0},
	{"a UDF file system", "BEA01", []int64{0x8001}, 0},
	{"a JFS file system", "JFS1", []int64{0x8000}, 0},
	{"a ReiserFS file system", "ReIsEr", []int64{0x10034}, 0},
	{"a NILFS2 file system", "\x34\x34", []int64{0x406}, 0},
	{"a GFS2 file system", "\x01\x16\x19\x70", []int64{0x10000}, 0},
	{"an OCFS2 file system", "OCFSV2", []int64{0x400, 0x800, 0x1000, 0x2000}, 0},
	{"a VMFS volume", "\x0d\xd0\x01\xc0", []int64{1 << 20}, 0},
	{"a VMFS file system", "\x5e\xf1\xab\x2f", []int64{2 << 20}, 0},
	{"a Minix file system", "\x7f\x13", []int64{0x410}, 0},
	{"a Minix file system", "\x68\x24", []int64{0x410}, 0},
	{"an HFS+ file system", "H+\x00\x04", []int64{0x400}, 0},
	{"an HFS+ file system", "HX\x00\x05", []int64{0x400}, 0},
	{"an APFS container", "NXSB", []int64{0x20}, 0},
	{"a BeFS file system", "1SFB", []int64{32, 544}, 0},
	{"a VxFS file system", "\xf5\xfc\x01\xa5", []int64{0x400}, 0},
	{"swap space", "SWAPSPACE2", swapAt, 0},
	{"swap space", "SWAP-SPACE", swapAt, 0},
	{"a hibernation image", "S1SUSPEND", swapAt, 0},
	{"an LVM physical volume", "LVM2 001", []int64{0x18, 0x218, 0x418, 0x618}, 0},
	{"a LUKS container", "LUKS\xba\xbe", []int64{0}, 0},
	{"a LUKS container", "SKUL\xba\xbe", []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}, 0},
	{"a BitLocker volume", "-FVE-FS-", []int64{3}, 0},
	{"a dm-integrity device", "integrt\x00", []int64{0}, 0},
	{"a dm-verity hash tree", "verity\x00\x00", []int64{0}, 0},
	{"a member of a software RAID", "\xfc\x4e\x2b\xa9", []int64{0, 0x1000}, 0},
	{"a member of a software RAID", "\xfc\x4e\x2b\xa9", []int64{-8192}, 4096},
	{"a member of a software RAID", "\xfc\x4e\x2b\xa9", []int64{-65536}, 65536},
	{"a member of a software RAID", "\xa9\x2b\x4e\xfc", []int64{-65536}, 65536},
	{"a member of a BIOS RAID", "\xde\x11\xde\x11", []int64{-512}, 512},
	{"a member of a BIOS RAID", "Intel Raid ISM Cfg Sig. ", []int64{-1024}, 512},
	{"a DRBD device", "\x83\x74\x02\x6b", []int64{60 - 4096}, 0},
	{"a bcache device", "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", []int64{0x1018}, 0},
	{"a VDO volume", "dmvdo001", []int64{0}, 0},
	{"a Ceph device", "bluestore block device", []int64{0}, 0},
	{"a member of a Stratis pool", "!Stra0tis\x86\xff\x02^\x41rh", []int64{0x204, 0x1204}, 0},
	{"a QCOW image", "QFI\xfb", []int64{0}, 0},
	{"a VMDK image", "KDMV", []int64{0}, 0},
	{"a VDI image", "\x7f\x10\xda\xbe", []int64{0x40}, 0},
	{"a VHDX image", "vhdxfile", []int64{0}, 0},
	{"a GPT partition table", "EFI PART", []int64{512, 4096}, 0},
	{"a backup GPT partition table", "EFI PART", []int64{-512, -4096}, 0},
}

// swapAt is where swap space says so: at the end of its first page.
var swapAt = []int64{4096 - 10, 8192 - 10, 16384 - 10, 32768 - 10, 65536 - 10}

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
		for _, at := range s.at {
			if at < 0 {
				end := size
				if s.align > 0 {
					end = size / s.align * s.align
				}
				at += end
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
	}
	if ok, err := probeZFS(r, size); ok || err != nil {
		return "a member of a ZFS pool", err
	}
	return probeBootSector(r, size)
}

// probeZFS looks for the superblocks of ZFS: in four labels of 256 KiB, two at each
// end, each has a ring of them, of which the newest may be anywhere.
func probeZFS(r io.ReaderAt, size int64) (bool, error) {
	const label, ring, slot = 256 << 10, 128 << 10, 1 << 10
	end := size / label * label
	b := make([]byte, label-ring)
	for _, at := range []int64{0, label, end - 2*label, end - label} {
		ok, err := readAt(r, b, at+ring, size)
		if err != nil {
			return false, err
		}
		for i := 0; ok && i < len(b); i += slot {
			if m := le.Uint64(b[i:]); m == zfsMagic || m == bits.ReverseBytes64(zfsMagic) {
				return true, nil
			}
		}
	}
	return false, nil
}

const zfsMagic = 0x00bab10c

// probeBootSector tells a partition table of the old kind from a boot sector, which has the same
// mark: it is one if a partition is in it.
func probeBootSector(r io.ReaderAt, size int64) (string, error) {
	mbr := make([]byte, 512)
	if ok, err := readAt(r, mbr, 0, size); err != nil || !ok || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return "", err
	}
	for i := range 4 {
		if e := mbr[446+16*i:][:16]; e[0]&0x7f == 0 && e[4] != 0 && !bytes.Equal(e[8:16], make([]byte, 8)) {
			return "an MBR partition table", nil
		}
	}
	return "a boot sector", nil
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

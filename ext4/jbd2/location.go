package jbd2

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// An Extent says where Len blocks of a journal lie, from journal block Block on.
type Extent struct {
	Block uint32
	Len   uint32
	Start disk.PBlock
}

// A Location says where a journal is: in an inode of the file system, whose
// blocks the caller has looked up, or on a device of its own ([External]).
type Location struct {
	Dev       blockdev.Device // holds the journal; never written by this package but in MarkClean
	BlockSize int             // bytes; the file system's
	Extents   []Extent        // in rising order of Block, without overlap
	Super     uint32          // journal block of the superblock: 0 in an inode
	External  bool            // Dev is not the file system's
}

// check judges what comes from the image before anything is read through it.
func (l *Location) check() error {
	if l.BlockSize < 1024 || l.BlockSize > 65536 || l.BlockSize&(l.BlockSize-1) != 0 {
		panic(fmt.Sprintf("jbd2: block size %d", l.BlockSize))
	}
	bad := func(e Extent, field, want string) error {
		return &disk.CorruptError{
			Struct: "journal block map at block", Num: uint64(e.Block), Block: e.Start, Field: field,
			Have: fmt.Sprintf("%d blocks from %d on", e.Len, e.Start), Want: want,
		}
	}
	blocks := uint64(l.Dev.Size()) / uint64(l.BlockSize)
	var end uint64
	for _, e := range l.Extents {
		switch {
		case uint64(e.Block) < end:
			return bad(e, "ee_block", fmt.Sprintf("from block %d on, behind the extent before", end))
		case uint64(e.Block)+uint64(e.Len) > math.MaxUint32:
			return bad(e, "ee_len", "an end below 2^32")
		case uint64(e.Start) > blocks || uint64(e.Len) > blocks-uint64(e.Start):
			return bad(e, "ee_start", fmt.Sprintf("inside the device's %d blocks", blocks))
		}
		end = uint64(e.Block) + uint64(e.Len)
	}
	if _, ok := l.physical(l.Super); !ok {
		return &disk.CorruptError{Struct: "journal block", Num: uint64(l.Super), Field: "block map", Have: "a hole", Want: "the journal superblock"}
	}
	return nil
}

// total is the number of blocks, holes included, to the end of the last extent.
func (l *Location) total() uint32 {
	if len(l.Extents) == 0 {
		return 0
	}
	e := l.Extents[len(l.Extents)-1]
	return e.Block + e.Len
}

// physical is the block on Dev that holds journal block n.
func (l *Location) physical(n uint32) (disk.PBlock, bool) {
	i, exact := slices.BinarySearchFunc(l.Extents, n, func(e Extent, n uint32) int { return cmp.Compare(e.Block, n) })
	if !exact {
		i--
	}
	if i < 0 || n-l.Extents[i].Block >= l.Extents[i].Len {
		return 0, false
	}
	return l.Extents[i].Start + disk.PBlock(n-l.Extents[i].Block), true
}

// physicalSet holds the blocks of the file system that are the journal itself.
type physicalSet []Extent

func (l *Location) occupied() physicalSet {
	if l.External {
		return nil
	}
	s := slices.Clone(l.Extents)
	slices.SortFunc(s, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
	return s
}

func (s physicalSet) has(b disk.PBlock) bool {
	i, exact := slices.BinarySearchFunc(s, b, func(e Extent, b disk.PBlock) int { return cmp.Compare(e.Start, b) })
	if !exact {
		i--
	}
	return i >= 0 && b-s[i].Start < disk.PBlock(s[i].Len)
}

// A WrongJournalError reports that a file system needs an external journal
// that is not the one at hand, or that none is at hand.
type WrongJournalError struct {
	Want [16]byte // s_journal_uuid
	Have [16]byte // the device's s_uuid; all zero if there is no device
}

func (e *WrongJournalError) Error() string {
	if e.Have == [16]byte{} {
		return fmt.Sprintf("needs its external journal, the device with UUID %s", uuidText(e.Want))
	}
	return fmt.Sprintf("external journal has UUID %s, want %s", uuidText(e.Have), uuidText(e.Want))
}

func uuidText(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// External looks at a journal device: it begins with an ext4 superblock that
// says journal_dev, and the journal follows. want is s_journal_uuid of the file
// system, whose blocks are blockSize bytes long.
//
// It fails with a *[WrongJournalError] if dev is another journal, and with a
// *disk.CorruptError if dev is none.
func External(dev blockdev.Device, want [16]byte, blockSize int) (Location, error) {
	raw := make([]byte, disk.SuperblockSize)
	if _, err := dev.ReadAt(raw, disk.SuperblockOffset); err != nil && err != io.EOF {
		return Location{}, fmt.Errorf("read superblock of journal device: %w", err)
	}
	sb := disk.DecodeSuperblock(raw)
	bad := func(at int, field, have, want string) error {
		return &disk.CorruptError{
			Struct: "superblock of journal device", Block: disk.PBlock(disk.SuperblockOffset / blockSize),
			Off: disk.SuperblockOffset%blockSize + at, Field: field, Have: have, Want: want,
		}
	}
	switch {
	case sb.Magic != disk.SuperMagic:
		return Location{}, bad(0x38, "s_magic", fmt.Sprintf("%#04x", sb.Magic), fmt.Sprintf("%#04x", disk.SuperMagic))
	case !sb.Incompat.Has(disk.IncompatJournalDev):
		return Location{}, bad(0x60, "s_feature_incompat", sb.Incompat.String(), "journal_dev")
	case sb.MetadataCsum() && disk.SuperblockChecksum(raw) != sb.Checksum:
		return Location{}, bad(0x3fc, "s_checksum", fmt.Sprintf("%#08x", sb.Checksum), fmt.Sprintf("%#08x", disk.SuperblockChecksum(raw)))
	case sb.LogBlockSize > disk.MaxBlockLog-disk.MinBlockLog || sb.BlockSize() != blockSize:
		return Location{}, bad(0x18, "s_log_block_size", fmt.Sprint(sb.LogBlockSize), fmt.Sprintf("blocks of %d bytes, as the file system's", blockSize))
	case sb.UUID != want:
		return Location{}, &WrongJournalError{Want: want, Have: sb.UUID}
	case sb.Blocks > math.MaxUint32 || sb.Blocks > uint64(dev.Size())/uint64(blockSize):
		return Location{}, bad(0x04, "s_blocks_count", fmt.Sprint(sb.Blocks), fmt.Sprintf("at most %d, the device's", dev.Size()/int64(blockSize)))
	}
	// Block numbers count from the device's start, so the journal's superblock
	// is not block 0 but the one behind the ext4 superblock.
	return Location{
		Dev: dev, BlockSize: blockSize, External: true,
		Extents: []Extent{{Len: uint32(sb.Blocks)}},
		Super:   uint32(disk.SuperblockOffset/blockSize) + 1,
	}, nil
}

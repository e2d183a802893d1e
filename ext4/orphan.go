package ext4

import (
	"fmt"
	"maps"
	"slices"

	"e4go/ext4/disk"
)

// maxOrphanFile is the size in bytes that an orphan file has at most: 512 of
// the largest blocks, the most that mke2fs makes.
const maxOrphanFile = 512 << disk.MaxBlockLog

// Orphans returns the inodes that were unlinked while open, or being
// truncated, when the file system was last used: those of the list that starts
// in the superblock and goes on through i_dtime, then those of the orphan file.
// Opened for reading they are left as they are. Opened for writing, those were
// finished, and the orphans are those of now, by number.
func (fs *FS) Orphans() ([]disk.Ino, error) {
	if fs.rw == nil {
		return fs.storedOrphans()
	}
	fs.rw.mu.Lock()
	defer fs.rw.mu.Unlock()
	return slices.Sorted(maps.Keys(fs.rw.orphans)), nil
}

func (fs *FS) storedOrphans() ([]disk.Ino, error) {
	var out []disk.Ino
	seen := make(map[disk.Ino]bool)
	for ino := fs.sb.LastOrphan; ino != 0; {
		if !fs.sb.ValidIno(ino) || seen[ino] {
			return out, &disk.CorruptError{Struct: "orphan list", Num: uint64(fs.sb.LastOrphan), Block: fs.super.block(), Field: "next inode",
				Have: fmt.Sprint(ino), Want: fmt.Sprintf("at most %d, each once", fs.sb.Inodes)}
		}
		seen[ino] = true
		out = append(out, ino)
		in, err := fs.Inode(ino)
		if err != nil {
			return out, fmt.Errorf("orphan list: %w", err)
		}
		ino = disk.Ino(in.disk.Dtime)
	}
	if !fs.sb.Compat.Has(disk.CompatOrphanFile) || !fs.sb.ROCompat.Has(disk.ROCompatOrphanPresent) {
		return out, nil
	}
	file, err := fs.orphanFile()
	if err != nil {
		return out, err
	}
	data := make([]byte, fs.sb.BlockSize())
	for b := int64(0); b < file.Size()>>fs.sb.BlockBits(); b++ {
		m, err := file.mapAt(b << fs.sb.BlockBits())
		if err != nil {
			return out, fmt.Errorf("orphan file: %w", err)
		}
		if m.State != MapWritten {
			return out, &disk.CorruptError{Struct: "orphan file", Num: uint64(file.ino), Block: file.block, Off: file.off + disk.IBlockOffset,
				Field: fmt.Sprintf("block %d", b), Have: m.State.String(), Want: "a written block"}
		}
		phys := m.Physical + disk.PBlock(b-int64(m.Logical))
		if err := fs.readBlocks(data, phys); err != nil {
			return out, fmt.Errorf("orphan file: %w", err)
		}
		if err := disk.CheckOrphanBlock(&fs.sb, data, file.seed, phys); err != nil {
			return out, err
		}
		for _, ino := range disk.OrphanInos(data) {
			if !fs.sb.ValidIno(ino) || seen[ino] {
				return out, &disk.CorruptError{Struct: "orphan file block", Num: uint64(b), Block: phys, Field: "inode",
					Have: fmt.Sprint(ino), Want: fmt.Sprintf("at most %d, each once", fs.sb.Inodes)}
			}
			seen[ino] = true
			out = append(out, ino)
		}
	}
	return out, nil
}

// orphanFile is the inode of the orphan file, which is no larger than it may be.
func (fs *FS) orphanFile() (*Inode, error) {
	file, err := fs.Inode(fs.sb.OrphanFileIno)
	if err != nil {
		return nil, fmt.Errorf("orphan file: %w", err)
	}
	if file.Size() < 0 || file.Size() > maxOrphanFile {
		return nil, file.corruptSize(fmt.Sprintf("at most %d for the orphan file", maxOrphanFile))
	}
	return file, nil
}

// MMP returns what multiple mount protection says of who has the file system
// mounted. It fails with an [*UnsupportedError] if the file system has none.
func (fs *FS) MMP() (disk.MMP, error) {
	if !fs.sb.Incompat.Has(disk.IncompatMMP) {
		return disk.MMP{}, &UnsupportedError{What: "multiple mount protection: the file system does not have the mmp feature"}
	}
	if !fs.sb.ValidRange(fs.sb.MMPBlock, 1) {
		return disk.MMP{}, &disk.CorruptError{Struct: "superblock of group", Num: uint64(fs.sb.BlockGroup), Block: fs.super.block(),
			Off: int(fs.super.at)%fs.sb.BlockSize() + 0x168, Field: "s_mmp_block", Have: fmt.Sprint(fs.sb.MMPBlock), Want: fmt.Sprintf("below %d", fs.sb.Blocks)}
	}
	// Another host may change it at any time: it is not cached.
	data := make([]byte, fs.sb.BlockSize())
	if err := fs.readBlocks(data, fs.sb.MMPBlock); err != nil {
		return disk.MMP{}, err
	}
	return disk.DecodeMMP(data), disk.CheckMMP(&fs.sb, data, fs.sb.MMPBlock)
}

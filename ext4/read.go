package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// ReadAt reads the contents of a regular file. Holes and blocks that were
// never written read as zeros. It fails with a wrapped EISDIR for directories,
// EINVAL for what has no contents and ENOKEY for encrypted files; at the end
// with io.EOF, as io.ReaderAt wants.
func (in *Inode) ReadAt(p []byte, off int64) (int, error) {
	switch in.Type() {
	case disk.ModeReg:
	case disk.ModeDir:
		return 0, fmt.Errorf("read inode %d: %w", in.ino, unix.EISDIR)
	default:
		return 0, fmt.Errorf("read inode %d: not a regular file: %w", in.ino, unix.EINVAL)
	}
	if in.encrypted() {
		return 0, fmt.Errorf("read inode %d: the contents are encrypted: %w", in.ino, unix.ENOKEY)
	}
	now, err := in.current()
	if err != nil {
		return 0, err
	}
	return now.readAt(p, off)
}

// readAt reads what the inode's map or inline data hold, up to its size. Who calls it
// from within stable would wait for himself, and takes readOnce.
func (in *Inode) readAt(p []byte, off int64) (int, error) {
	return in.readRuns(p, off, func(p []byte, off int64) (n int, err error) {
		err = in.stable(func(now *Inode) (err error) {
			n, err = now.readRun(p, off)
			return err
		})
		return n, err
	})
}

// readOnce is readAt of the inode as it is.
func (in *Inode) readOnce(p []byte, off int64) (int, error) { return in.readRuns(p, off, in.readRun) }

// readRuns fills p from byte off on by calls of run, which fills p or the start of it.
func (in *Inode) readRuns(p []byte, off int64, run func(p []byte, off int64) (int, error)) (int, error) {
	size := in.Size()
	if off < 0 {
		return 0, fmt.Errorf("read inode %d at %d: %w", in.ino, off, unix.EINVAL)
	}
	if size < 0 || uint64(size) > maxLogical<<in.fs.sb.BlockBits() {
		return 0, in.corruptSize("at most 2^32 blocks")
	}
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	for done := 0; done < len(p); {
		n, err := run(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return len(p), eof
}

// readRun fills p, or the start of it, from byte off of the file's blocks or
// inline data. What lies behind them is zeros.
func (in *Inode) readRun(p []byte, off int64) (int, error) {
	if in.HasInlineData() {
		data, err := in.inlineData()
		if err != nil {
			return 0, err
		}
		n := 0
		if off < int64(len(data)) {
			n = copy(p, data[off:])
		}
		clear(p[n:])
		return len(p), nil
	}
	bits := in.fs.sb.BlockBits()
	m, err := in.mapOnce(disk.LBlock(off >> bits))
	if err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), int64(m.End())<<bits-off)]
	if m.State != MapWritten {
		clear(p)
		return len(p), nil
	}
	from := int64(m.Physical)<<bits + off - int64(m.Logical)<<bits
	if r, err := in.fs.dev.ReadAt(p, from); r < len(p) {
		if err == io.EOF {
			err = fmt.Errorf("the device ends at byte %d: %w", in.fs.dev.Size(), io.ErrUnexpectedEOF)
		}
		return r, fmt.Errorf("read inode %d at byte %d (device byte %d): %w", in.ino, off, from, err)
	}
	return len(p), nil
}

// mapAt is the run of blocks at byte off.
func (in *Inode) mapAt(off int64) (Mapping, error) {
	b := off >> in.fs.sb.BlockBits()
	if b >= maxLogical {
		return Mapping{}, in.corruptSize("at most 2^32 blocks")
	}
	return in.Map(disk.LBlock(b))
}

// Readlink returns the target of a symbolic link. That of an encrypted one is
// encoded as the kernel shows it without the key. It fails with a wrapped
// EINVAL if the inode is no symbolic link.
func (in *Inode) Readlink() (target string, err error) {
	err = in.stable(func(now *Inode) (err error) {
		target, err = now.readlink()
		return err
	})
	return target, err
}

func (in *Inode) readlink() (string, error) {
	if in.Type() != disk.ModeLink {
		return "", fmt.Errorf("read link inode %d: %w", in.ino, unix.EINVAL)
	}
	size := in.Size()
	if limit := int64(in.fs.sb.BlockSize()); size <= 0 || size > limit {
		return "", in.corruptSize(fmt.Sprintf("1 to %d for a symbolic link", limit))
	}
	target := make([]byte, size)
	if in.disk.FastSymlink(&in.fs.sb) {
		copy(target, in.disk.Block[:])
	} else if err := in.readTarget(target); err != nil {
		return "", err
	}
	if in.encrypted() {
		// struct fscrypt_symlink_data: a length, then that many bytes.
		if size < 2 {
			return "", in.corruptSize("at least 3 for an encrypted symbolic link")
		}
		n := int(binary.LittleEndian.Uint16(target))
		if n == 0 || n > len(target)-2 {
			return "", in.corruptSize(fmt.Sprintf("at least %d for an encrypted link of that length", n+2))
		}
		return nokeyName(target[2:][:n], 0, 0), nil
	}
	for i, c := range target {
		if c == 0 {
			return string(target[:i]), nil
		}
	}
	return string(target), nil
}

// readTarget reads what a long symbolic link holds: a block that is metadata,
// and may not be in its place yet, or inline data.
func (in *Inode) readTarget(target []byte) error {
	if in.HasInlineData() {
		if _, err := in.readOnce(target, 0); err != io.EOF {
			return err
		}
		return nil
	}
	m, err := in.mapOnce(0)
	if err != nil || m.State != MapWritten {
		return err
	}
	data, err := in.bytes(m.Physical)
	if err != nil {
		return fmt.Errorf("read link inode %d: %w", in.ino, err)
	}
	copy(target, data)
	return nil
}

// checkSize fails for an inode that is larger than any can be, or smaller than
// nothing (__ext4_iget): what is to be changed is not computed with such a size.
func (in *Inode) checkSize() error {
	if most := in.fs.sb.MaxFileSize(true); in.disk.FileSize(&in.fs.sb) > most {
		return in.corruptSize(fmt.Sprintf("at most %d", most))
	}
	return nil
}

func (in *Inode) corruptSize(want string) error {
	return &disk.CorruptError{Struct: "inode", Num: uint64(in.ino), Block: in.block, Off: in.off + 4, Field: "i_size",
		Have: fmt.Sprint(in.Size()), Want: want}
}

// SeekData returns the first byte from off on that is not in a hole, and
// SeekHole the first that is; unwritten blocks count as holes. Both fail with
// a wrapped ENXIO beyond the end of the file, SeekData also when only a hole follows.
func (in *Inode) SeekData(off int64) (int64, error) { return in.seek(off, true) }

// SeekHole is described at [Inode.SeekData].
func (in *Inode) SeekHole(off int64) (int64, error) { return in.seek(off, false) }

func (in *Inode) seek(off int64, data bool) (int64, error) {
	in, err := in.current()
	if err != nil {
		return 0, err
	}
	size := in.Size()
	if off < 0 || off >= size {
		return 0, fmt.Errorf("seek in inode %d to %d: %w", in.ino, off, unix.ENXIO)
	}
	bits := in.fs.sb.BlockBits()
	for at := off; at < size; {
		m, err := in.mapAt(at)
		if errors.Is(err, ErrInline) {
			m, err = Mapping{Len: maxLogical, State: MapWritten}, nil
		}
		if err != nil {
			return 0, err
		}
		if (m.State == MapWritten) == data {
			return at, nil
		}
		at = int64(m.End()) << bits
	}
	if data {
		return 0, fmt.Errorf("seek in inode %d to %d: only a hole follows: %w", in.ino, off, unix.ENXIO)
	}
	return size, nil
}

package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// copyPart is how many bytes are read and written at once.
const copyPart = 4 << 20

// CopyRange copies n bytes from byte srcOff of regular file src to byte dstOff of
// dst, as copy_file_range(2) does, and returns how many; less at the end of src. Where
// src has a hole, dst keeps the holes that it has. It fails with a wrapped EINVAL for
// what is no file and for ranges of one file that overlap, EISDIR, EOVERFLOW, and with
// what [FS.WriteAt] fails with.
func (fs *FS) CopyRange(ctx context.Context, c Caller, src disk.Ino, srcOff int64, dst disk.Ino, dstOff, n int64) (done int64, err error) {
	if fs.rw == nil {
		return 0, ErrReadOnly
	}
	in, err := fs.Inode(src)
	if err != nil {
		return 0, err
	}
	out, err := fs.writableFile(dst)
	if err != nil {
		return 0, err
	}
	fail := func(err error) (int64, error) {
		return done, fmt.Errorf("copy %d bytes from %d of inode %d to %d of inode %d: %w", n, srcOff, src, dstOff, dst, err)
	}
	switch t := in.Type(); {
	case t == disk.ModeDir:
		return fail(unix.EISDIR)
	case t != disk.ModeReg, srcOff < 0 || dstOff < 0 || n < 0:
		return fail(unix.EINVAL)
	case srcOff+n < 0 || dstOff+n < 0:
		return fail(unix.EOVERFLOW)
	}
	n = min(n, max(in.Size()-srcOff, 0))
	if src == dst && srcOff < dstOff+n && dstOff < srcOff+n {
		return fail(unix.EINVAL)
	}
	if n > 0 && uint64(dstOff+n) > out.maxSize() {
		if uint64(dstOff) >= out.maxSize() {
			return fail(unix.EFBIG)
		}
		n = int64(out.maxSize()) - dstOff
	}
	buf := make([]byte, min(n, copyPart))
	for done < n {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		now, err := in.current()
		if err != nil {
			return fail(err)
		}
		if n = min(n, max(now.Size()-srcOff, done)); n == done {
			break // src has become shorter: what was cut off is no hole
		}
		part, data, err := in.extentAt(srcOff+done, n-done)
		if err != nil {
			return fail(err)
		}
		k := part
		if data {
			p := buf[:min(part, int64(len(buf)))]
			k, err = fs.copyData(ctx, c, in, srcOff+done, dst, dstOff+done, p)
		} else {
			err = fs.writeZeros(ctx, c, out, dstOff+done, part, buf)
		}
		done += k
		if err != nil {
			return fail(err)
		}
		if k == 0 {
			break // src has become shorter
		}
	}
	if done == 0 {
		return 0, nil
	}
	return done, fs.copied(ctx, c, dst, dstOff+done)
}

func (fs *FS) copyData(ctx context.Context, c Caller, in *Inode, srcOff int64, dst disk.Ino, dstOff int64, p []byte) (int64, error) {
	k, err := in.ReadAt(p, srcOff)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	k, err = fs.WriteAt(ctx, c, dst, p[:k], dstOff)
	return int64(k), err
}

// extentAt returns how many of the n bytes from off on have data, or have
// none: whatever the first of them is.
func (in *Inode) extentAt(off, n int64) (int64, bool, error) {
	m, err := in.mapAt(off)
	if errors.Is(err, ErrInline) {
		return n, true, nil
	}
	return min(n, int64(m.End())<<in.fs.sb.BlockBits()-off), m.State == MapWritten, err
}

// writeZeros makes the n bytes of a file from off on zeros, as far as it has
// data there. buf is room for zeros.
func (fs *FS) writeZeros(ctx context.Context, c Caller, in *Inode, off, n int64, buf []byte) error {
	for n > 0 {
		now, err := in.current()
		if err != nil {
			return err
		}
		n = min(n, now.Size()-off)
		if n <= 0 {
			return nil
		}
		part, data, err := now.extentAt(off, n)
		if err != nil {
			return err
		}
		if data {
			part = min(part, int64(len(buf)))
			clear(buf[:part])
			if _, err := fs.WriteAt(ctx, c, in.ino, buf[:part], off); err != nil {
				return err
			}
		}
		off, n = off+part, n-part
	}
	return nil
}

// copied makes a regular file, to which was copied, at least size bytes long. It is
// written to also if there were only holes.
func (fs *FS) copied(ctx context.Context, c Caller, ino disk.Ino, size int64) error {
	mu, err := fs.rw.lockInode(ctx, ino)
	if err != nil {
		return err
	}
	defer mu.unlock()
	in, err := fs.writableFile(ino)
	if err != nil {
		return err
	}
	if size > in.Size() {
		return fs.resize(ctx, c, in, size)
	}
	return fs.Update(ctx, func(h *Handle) error {
		in, err := h.inode(ino)
		if err != nil {
			return err
		}
		in.written(c)
		return h.clearPrivileges(c, in)
	})
}

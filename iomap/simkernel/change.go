package simkernel

import (
	"errors"
	"syscall"
)

// truncate is a size change through SETATTR.
func (in *inode) truncate(c Cred, size int64, fh *uint64) error {
	if size < 0 {
		return syscall.EINVAL
	}
	if size > in.k.maxBytes {
		return syscall.EFBIG
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	in.inval.Lock()
	defer in.inval.Unlock()
	old := in.isize()
	s := setattr{valid: fattrSize | fattrLockowner, size: size}
	if fh != nil {
		s.valid, s.fh = s.valid|fattrFH, *fh
	}
	if in.onIomap {
		if err := in.resizeCache(old, size); err != nil {
			return err
		}
		if size != old {
			in.sending.Lock()
			defer in.sending.Unlock()
			in.stamp(c, true)
			mode, stripped := in.strippedMode(c)
			in.mu.Lock()
			s.valid |= fattrMtime | fattrCtime
			if stripped {
				s.valid, s.mode = s.valid|fattrMode, mode
			}
			s.mtime, s.ctime = in.mtime, in.ctime
			in.mu.Unlock()
		}
	}
	out, err := in.k.call(opSetattr, in.nodeid, c, s.encode())
	if err != nil {
		return err // what was done before is not undone
	}
	a, err := readAttrOut(out)
	if err != nil {
		return err
	}
	if err := in.apply(a); err != nil {
		return err
	}
	if in.onIomap {
		in.mu.Lock()
		in.size, in.diskSize = int64(a.Size), int64(a.Size)
		in.mu.Unlock()
		in.dropMappings(size, in.k.maxBytes)
	}
	return nil
}

// resizeCache is what the kernel does before the server hears of the new size.
func (in *inode) resizeCache(old, size int64) error {
	bs := in.k.blockSize
	if size > old {
		if err := in.zeroRange(old, size); err != nil {
			return err
		}
	} else if size%bs != 0 {
		if err := in.zeroRange(size, (size+bs-1)/bs*bs); err != nil {
			return err
		}
	}
	in.setSize(size)
	in.truncateCache(size)
	return in.writeback(0, in.k.maxBytes)
}

// Modes of fallocate that the kernel passes on for a file on iomap.
const (
	FallocKeepSize  = 0x01
	FallocPunchHole = 0x02
	FallocZeroRange = 0x10
)

func (in *inode) fallocate(c Cred, mode uint32, off, length int64, fh uint64) error {
	if off < 0 || length <= 0 {
		return syscall.EINVAL
	}
	if mode&^(FallocKeepSize|FallocPunchHole|FallocZeroRange) != 0 || mode&FallocPunchHole != 0 && mode&FallocKeepSize == 0 {
		return syscall.EOPNOTSUPP
	}
	if off > in.k.maxBytes-length {
		return syscall.EFBIG
	}
	in.rw.Lock()
	defer in.rw.Unlock()
	in.inval.Lock()
	defer in.inval.Unlock()
	end, old := off+length, in.isize()
	remap := mode&(FallocPunchHole|FallocZeroRange) != 0
	if remap {
		if err := in.unmap(off, end); err != nil {
			return err
		}
	}
	if err := in.stripPrivileges(c); err != nil {
		return err
	}
	in.stamp(c, true)
	in.stir()
	if _, err := in.k.call(opFallocate, in.nodeid, c, msg().u64(fh).u64(uint64(off)).u64(uint64(length)).u32(mode).u32(0).b); err != nil {
		if errors.Is(err, syscall.ENOSYS) {
			return syscall.EOPNOTSUPP
		}
		return err
	}
	in.dropMappings(off, end)
	if remap {
		if cut := min(end, old); off < cut {
			if err := in.zeroRange(off, cut); err != nil {
				return err
			}
		}
	}
	if mode&FallocKeepSize == 0 && end > old {
		if err := in.zeroRange(old, end); err != nil {
			return err
		}
		in.mu.Lock()
		in.size, in.diskSize = end, end
		in.mu.Unlock()
		if err := in.writeback(old/PageSize*PageSize, end); err != nil {
			return err
		}
	}
	return in.flushTimes()
}

// CopyFileRange copies n bytes within the file system, by the server.
func (k *Kernel) CopyFileRange(from *File, fromOff int64, to *File, toOff, n int64) (int64, error) {
	src, dst := from.in, to.in
	if src == dst && fromOff < toOff+n && toOff < fromOff+n {
		return 0, syscall.EINVAL
	}
	src.rw.Lock()
	err := src.unmap(fromOff, fromOff+n)
	src.rw.Unlock()
	if err != nil {
		return 0, err
	}
	dst.rw.Lock()
	defer dst.rw.Unlock()
	dst.inval.Lock()
	defer dst.inval.Unlock()
	if fromOff >= src.isize() {
		return 0, nil
	}
	n = min(n, src.isize()-fromOff)
	if err := dst.zeroFromEOF(toOff); err != nil {
		return 0, err
	}
	if err := dst.unmap(toOff, toOff+n); err != nil {
		return 0, err
	}
	if err := dst.stripPrivileges(to.cred); err != nil {
		return 0, err
	}
	dst.stamp(to.cred, true)
	dst.stir()
	body := msg().u64(from.fh).u64(uint64(fromOff)).u64(dst.nodeid).u64(to.fh).u64(uint64(toOff)).u64(uint64(n)).u64(0).b
	out, err := k.call(opCopyFileRange, src.nodeid, to.cred, body)
	if err != nil {
		return 0, err
	}
	done := int64(le.Uint32(out))
	if done > 0 {
		dst.dropMappings(toOff, toOff+done)
	}
	dst.mu.Lock()
	if done > 0 && toOff+done > dst.size {
		dst.size, dst.diskSize = toOff+done, toOff+done
	}
	dst.mu.Unlock()
	src.accessed(from.cred, from.flags)
	return done, dst.flushTimes()
}

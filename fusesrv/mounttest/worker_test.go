package mounttest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// work executes ops below the directory that the command line names, until in ends.
func work(in io.Reader, out io.Writer) {
	runtime.LockOSThread() // for the umask of nobody else
	w := &worker{}
	if err := unix.Chdir(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "worker: chdir %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	unix.Umask(0o022)
	wire := newWire(in, out)
	for {
		var o op
		if err := wire.receive(&o); err != nil {
			return
		}
		var r result
		before := w.look(o)
		text, err := w.do(o)
		r.Out = text
		if !o.Bare {
			r.Out += changes(before, w.look(o))
		}
		if err != nil {
			if !errors.As(err, &r.Errno) {
				r = result{unix.EIO, err.Error()}
			}
		}
		if err := wire.send(r); err != nil {
			fmt.Fprintf(os.Stderr, "worker: %v\n", err)
			os.Exit(1)
		}
	}
}

// A worker is what it has open.
type worker struct {
	files [slots]struct {
		fd     int // 0: closed
		direct bool
	}
}

// blockSize is what direct I/O is aligned to.
const blockSize = 4096

// pattern is what a write writes.
func pattern(seed byte, n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = seed + byte(i>>8) | 1
	}
	return p
}

// digest stands for bytes that were read.
func digest(p []byte) string {
	if len(p) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d %x", len(p), sha256.Sum256(p))[:min(30, 30)]
}

// aligned is n bytes that direct I/O takes.
func aligned(n int64) []byte {
	b := make([]byte, n+blockSize)
	at := blockSize - int64(uintptr(unsafe.Pointer(&b[0]))%blockSize)
	return b[at%blockSize:][:n]
}

// span is where and how much an op reads or writes: with O_DIRECT whole blocks.
func (o op) span(direct bool) (off, n int64) {
	if direct {
		return o.Off / blockSize * blockSize, (o.N + blockSize - 1) / blockSize * blockSize
	}
	return o.Off, o.N
}

func (w *worker) do(o op) (string, error) {
	f := &w.files[o.Slot]
	switch o.Do {
	case "open", "tmpfile":
		flags := o.Flags | unix.O_CLOEXEC | unix.O_NONBLOCK
		if o.Do == "tmpfile" {
			flags |= unix.O_TMPFILE
		}
		fd, err := unix.Open(o.P, flags, o.Mode)
		if err != nil {
			return "", err
		}
		if f.fd != 0 {
			unix.Close(f.fd)
		}
		f.fd, f.direct = fd, o.Flags&direct != 0
		return "", nil
	case "mkdir":
		return "", unix.Mkdir(o.P, o.Mode)
	case "rmdir":
		return "", unix.Rmdir(o.P)
	case "unlink":
		return "", unix.Unlink(o.P)
	case "rename":
		return "", unix.Renameat2(unix.AT_FDCWD, o.P, unix.AT_FDCWD, o.Q, uint(o.Flags))
	case "link":
		return "", unix.Link(o.P, o.Q)
	case "symlink":
		return "", unix.Symlink(o.Q, o.P)
	case "readlink":
		return os.Readlink(o.P)
	case "mknod":
		return "", unix.Mknod(o.P, o.Mode, int(o.N))
	case "chmod":
		return "", unix.Chmod(o.P, o.Mode)
	case "chown":
		return "", unix.Lchown(o.P, o.UID, o.GID)
	case "utimes":
		return "", unix.UtimesNanoAt(unix.AT_FDCWD, o.P, []unix.Timespec{o.Atime, o.Mtime_}, unix.AT_SYMLINK_NOFOLLOW)
	case "truncate":
		return "", unix.Truncate(o.P, o.N)
	case "access":
		return "", unix.Access(o.P, o.Mode)
	case "umask":
		return fmt.Sprintf("%#o", unix.Umask(int(o.Mode))), nil
	case "stat":
		var st unix.Stat_t
		if err := unix.Lstat(o.P, &st); err != nil {
			return "", err
		}
		return statText(&st), nil
	case "readdir":
		return list(o.P)
	case "setxattr":
		return "", unix.Lsetxattr(o.P, o.Name, o.Value, o.Flags)
	case "removexattr":
		return "", unix.Lremovexattr(o.P, o.Name)
	case "getxattr":
		b := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(o.P, o.Name, b)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %q", n, b[:min(n, 100)]), nil
	case "listxattr":
		b := make([]byte, 1<<16)
		n, err := unix.Llistxattr(o.P, b)
		if err != nil {
			return "", err
		}
		names := strings.Split(string(b[:n]), "\x00")
		slices.Sort(names)
		return strings.Join(names, " "), nil
	case "getflags", "setflags":
		return inodeFlags(o)
	}
	if f.fd == 0 {
		return "closed", unix.EBADF
	}
	off, n := o.span(f.direct)
	var st unix.Stat_t
	switch o.Do {
	case "close":
		err := unix.Close(f.fd)
		f.fd = 0
		return "", err
	case "linkfd":
		return "", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.fd), unix.AT_FDCWD, o.Q, unix.AT_SYMLINK_FOLLOW)
	case "pwrite", "write", "data", "hole":
		if unix.Fstat(f.fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return "", nil // the kernel's own affair: a FIFO's times, a directory's places
		}
		if o.Do == "data" || o.Do == "hole" {
			return seek(f.fd, o, st.Size)
		}
		p := aligned(n)
		copy(p, pattern(o.Seed, n))
		return w.write(f.fd, p, off, o.Do == "write", f.direct)
	case "pread":
		p := aligned(n)
		got, err := unix.Pread(f.fd, p, off)
		if err != nil {
			return "", err
		}
		return digest(p[:got]), nil
	case "read":
		if f.direct { // the place might be no block's
			return "", nil
		}
		p := make([]byte, n)
		got, err := unix.Read(f.fd, p)
		if err != nil {
			return "", err
		}
		at, err := unix.Seek(f.fd, 0, io.SeekCurrent)
		return fmt.Sprintf("%s then at %d", digest(p[:got]), at), err
	case "mmapwrite", "mmapread":
		return mapped(f.fd, o)
	case "ftruncate":
		return "", unix.Ftruncate(f.fd, o.N)
	case "fallocate":
		return "", unix.Fallocate(f.fd, o.Mode, o.Off, o.N)
	case "fchmod":
		return "", unix.Fchmod(f.fd, o.Mode)
	case "fchown":
		return "", unix.Fchown(f.fd, o.UID, o.GID)
	case "fsync":
		return "", unix.Fsync(f.fd)
	case "fdatasync":
		return "", unix.Fdatasync(f.fd)
	case "fstat":
		if err := unix.Fstat(f.fd, &st); err != nil {
			return "", err
		}
		return statText(&st), nil
	case "copy":
		return w.copy(o)
	}
	return "", fmt.Errorf("no op %q", o.Do)
}

func (w *worker) write(fd int, p []byte, off int64, here, direct bool) (string, error) {
	if !here {
		n, err := unix.Pwrite(fd, p, off)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(n), nil
	}
	if direct {
		return "", nil
	}
	n, err := unix.Write(fd, p)
	if err != nil {
		return "", err
	}
	at, err := unix.Seek(fd, 0, io.SeekCurrent)
	return fmt.Sprintf("%d then at %d", n, at), err
}

// statText is what of a struct stat two file systems have in common.
func statText(st *unix.Stat_t) string {
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0 // how full the blocks are is everybody's own affair
	}
	return fmt.Sprintf("%#o %d:%d links %d size %d rdev %#x", st.Mode, st.Uid, st.Gid, st.Nlink, size, st.Rdev)
}

// look stats what o is about: its paths, the directories of these, its file.
func (w *worker) look(o op) (out [5]unix.Stat_t) {
	for i, p := range []string{o.P, o.Q} {
		if p != "" && (i == 0 || o.Do != "symlink") {
			_ = unix.Lstat(p, &out[i])
			_ = unix.Lstat(path.Dir(p), &out[i+2])
		}
	}
	if fd := w.files[o.Slot].fd; fd != 0 && o.P == "" {
		_ = unix.Fstat(fd, &out[4])
	}
	return out
}

// changes says what is there after an op, and which times of what was there before have changed.
func changes(before, after [5]unix.Stat_t) (out string) {
	for i, what := range []string{"P", "Q", "P's", "Q's", "#"} {
		b, a := &before[i], &after[i]
		if a.Ino == 0 {
			continue
		}
		out += fmt.Sprintf("; %s %s", what, statText(a))
		if b.Ino != a.Ino {
			continue
		}
		if b.Mtim != a.Mtim {
			out += " mtime"
		}
		if b.Ctim != a.Ctim {
			out += " ctime"
		}
	}
	return out
}

func list(p string) (string, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return strings.Join(names, "|"), err
}

// seek asks for data or a hole, and checks the answer against the contents,
// as which blocks are allocated is the file system's affair.
func seek(fd int, o op, size int64) (string, error) {
	whence := map[string]int{"data": unix.SEEK_DATA, "hole": unix.SEEK_HOLE}[o.Do]
	back, err := unix.Seek(fd, 0, io.SeekCurrent)
	if err != nil {
		return "", err
	}
	at, err := unix.Seek(fd, o.Off, whence)
	if _, err := unix.Seek(fd, back, io.SeekStart); err != nil {
		return "", err
	}
	zero := func(from, to int64) bool {
		p := aligned((to - from/blockSize*blockSize + blockSize - 1) / blockSize * blockSize)
		n, err := unix.Pread(fd, p, from/blockSize*blockSize)
		if err != nil {
			return true // not open for reading
		}
		p = p[:min(int64(n), to-from/blockSize*blockSize)]
		return !slices.ContainsFunc(p[min(int64(len(p)), from%blockSize):], func(b byte) bool { return b != 0 })
	}
	ok := true
	switch {
	case o.Off >= size:
		return fmt.Sprint(at), err
	case errors.Is(err, unix.ENXIO):
		ok = o.Do == "data" && zero(o.Off, size)
	case err != nil:
		return "", err
	case at < o.Off || at > size:
		ok = false
	case o.Do == "data":
		ok = at < size && zero(o.Off, at)
	case at < size:
		ok = zero(at, min(size, at+1))
	}
	if !ok {
		return fmt.Sprintf("from %d of %d: %d, %v: wrong", o.Off, size, at, err), nil
	}
	return "", nil
}

// mapped writes or reads through a mapping what lies before the end of the file.
func mapped(fd int, o op) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", unix.ENODEV
	}
	end := min(o.Off+o.N, st.Size)
	if end <= o.Off {
		return "0", nil
	}
	from := o.Off / blockSize * blockSize
	prot := unix.PROT_READ
	if o.Do == "mmapwrite" {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(fd, from, int(end-from), prot, unix.MAP_SHARED)
	if err != nil {
		return "", err
	}
	defer unix.Munmap(m)
	if o.Do == "mmapread" {
		return digest(m[o.Off-from:]), nil
	}
	copy(m[o.Off-from:], pattern(o.Seed, end-o.Off))
	if o.Seed%3 == 0 {
		return fmt.Sprint(end - o.Off), unix.Msync(m, unix.MS_SYNC)
	}
	return fmt.Sprint(end - o.Off), nil
}

// copy is copy_file_range until it does no more.
func (w *worker) copy(o op) (string, error) {
	from := w.files[o.From].fd
	if from == 0 {
		return "closed", unix.EBADF
	}
	if w.files[o.From].direct || w.files[o.Slot].direct { // through a pipe, it might be unaligned
		return "", nil
	}
	total := 0
	off, off2 := o.Off, o.Off2
	for total < int(o.N) {
		n, err := unix.CopyFileRange(from, &off, w.files[o.Slot].fd, &off2, int(o.N)-total, 0)
		if err != nil && total == 0 {
			return "", err
		}
		if n <= 0 {
			break
		}
		total += n
	}
	return fmt.Sprint(total), nil
}

// inodeFlags is FS_IOC_GETFLAGS or FS_IOC_SETFLAGS, of which the set ones are
// changed that the op names and could.
func inodeFlags(o op) (string, error) {
	const ours = 0x10 | 0x20 | 0x40 | 0x80 | 0x8 | 0x10000 | 0x20000
	fd, err := unix.Open(o.P, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	have, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return "", err
	}
	if o.Do == "getflags" {
		return fmt.Sprintf("%#x", have&ours), nil
	}
	return "", unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have&^ours|uint32(o.Flags)))
}

package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"e4go/ext4"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// Reads of every size and offset, by splice and by copy, buffered and direct,
// from many goroutines at once, give the bytes that were written.
func TestReads(t *testing.T) {
	files := map[string][]byte{
		"large": noise(1, 9<<20+123),
		"small": noise(2, 5000),
		"gap":   slices.Concat(noise(3, 1<<20), make([]byte, 3<<20), noise(4, 1<<20+1)),
	}
	img := madeFS(t, "64M", func(dir string) {
		for name, b := range files {
			f, err := os.Create(filepath.Join(dir, name))
			check(t, err)
			for at := 0; at < len(b); at += 1 << 20 { // leave holes
				part := b[at:min(at+1<<20, len(b))]
				if !bytes.Equal(part, make([]byte, len(part))) {
					_, err := f.WriteAt(part, int64(at))
					check(t, err)
				}
			}
			check(t, f.Close())
		}
	})
	m := mountFile(t, img, 0, Options{}, ext4.Options{})
	if m.fs.Device() != m.dev {
		t.Fatal("the image has been replayed: nothing will be spliced")
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			buf := make([]byte, 3<<20)
			for i := range 60 {
				name := []string{"large", "small", "gap"}[r.IntN(3)]
				want := files[name]
				flags, align := unix.O_RDONLY, 1
				if i%2 == 1 {
					flags, align = flags|unix.O_DIRECT, 4096
				}
				f, err := os.OpenFile(filepath.Join(m.dir, name), flags, 0)
				if err != nil {
					t.Error(err)
					return
				}
				off := r.IntN(len(want)+5000) / align * align
				n := (r.IntN(len(buf)) + align) / align * align
				n = min(n, len(buf))
				got, err := f.ReadAt(buf[:n], int64(off))
				f.Close()
				wantPart := want[min(off, len(want)):min(off+n, len(want))]
				if err != nil && err != io.EOF || !bytes.Equal(buf[:got], wantPart) {
					t.Errorf("%s: read of %d at %d (flags %#x): %d bytes, %v, and not those that were written", name, n, off, flags, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if s := m.log.String(); s != "" {
		t.Errorf("the server complained: %s", s)
	}
}

// piece chooses what can be spliced: one written piece of a regular file,
// large enough and not too large.
func TestPiece(t *testing.T) {
	img := madeFS(t, "64M", func(dir string) {
		check(t, os.WriteFile(filepath.Join(dir, "f"), noise(5, 2<<20+7), 0o644))
		check(t, os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644))
		check(t, os.Truncate(filepath.Join(dir, "hole"), 4<<20))
	})
	fs, dev := openFS(t, img, 0, ext4.Options{})
	im := newImage(fs, dev)
	tests := []struct {
		path    string
		off     int64
		n, want int // bytes; 0: not spliced
	}{
		{"/f", 0, maxRead, maxRead},
		{"/f", 8192, maxRead, maxRead},
		{"/f", 2<<20 - 300<<10, maxRead, 300<<10 + 7}, // to the end
		{"/f", 0, minSplice - 1, 0},
		{"/f", 2 << 20, maxRead, 0}, // 7 bytes
		{"/f", 1 << 40, maxRead, 0},
		{"/hole", 0, maxRead, 0},
		{"/", 0, maxRead, 0},
	}
	for _, tt := range tests {
		in, err := fs.Resolve(tt.path, true)
		check(t, err)
		got := 0
		if r := im.piece(in, tt.off, tt.n); r != nil {
			got = r.Size()
			b, status := r.Bytes(make([]byte, got))
			want := make([]byte, got)
			n, err := in.ReadAt(want, tt.off)
			if !status.Ok() || err != nil && err != io.EOF || !bytes.Equal(b, want[:n]) {
				t.Errorf("%s at %d: the piece is not what the file holds there (%v, %v)", tt.path, tt.off, status, err)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %d at %d: %d bytes spliced, want %d", tt.path, tt.n, tt.off, got, tt.want)
		}
	}
	inode, err := fs.Resolve("/f", true)
	check(t, err)
	if r := (&image{}).piece(inode, 0, maxRead); r != nil {
		t.Error("a piece of no descriptor")
	}
}

// A listing of 200,000 entries has each once, also when it is left and taken
// up at a position, and however many read it.
func TestLargeDirectory(t *testing.T) {
	m, tree := mountImage(t, fixtures.Find(t, "dir-200k"))
	count := map[string]int{}
	for _, e := range tree {
		if d := filepath.Dir(e.Path); d != e.Path {
			count[d]++
		}
	}
	large := "/"
	for d, n := range count {
		if n > count[large] {
			large = d
		}
	}
	if count[large] < 200_000 {
		t.Fatalf("the largest directory has %d entries", count[large])
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := listTwice(filepath.Join(m.dir, large), count[large]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// listTwice lists dir, then again from positions in it.
func listTwice(dir string, want int) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	type mark struct {
		pos int64
		n   int // names before it
	}
	var marks []mark
	var names []string
	seen := make(map[string]bool, want)
	buf := make([]byte, 64<<10)
	for {
		pos, err := unix.Seek(fd, 0, io.SeekCurrent)
		if err != nil {
			return err
		}
		marks = append(marks, mark{pos, len(names)})
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		before := len(names)
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		for _, name := range names[before:] {
			if seen[name] {
				return fmt.Errorf("%q is listed twice", name)
			}
			seen[name] = true
		}
	}
	if len(names) != want {
		return fmt.Errorf("%d names listed, want %d", len(names), want)
	}
	for i := 0; i < len(marks); i += 1 + len(marks)/7 {
		if _, err := unix.Seek(fd, marks[i].pos, io.SeekStart); err != nil {
			return err
		}
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return err
		}
		_, _, got := unix.ParseDirent(buf[:n], -1, nil)
		if w := names[marks[i].n:]; len(got) > len(w) || !slices.Equal(got, w[:len(got)]) || len(got) == 0 && len(w) > 0 {
			return fmt.Errorf("from position %#x come %d names, and not those behind it", marks[i].pos, len(got))
		}
	}
	return nil
}

func TestDeepDirectory(t *testing.T) {
	const depth = 300
	img := madeFS(t, "16M", func(dir string) {
		for range depth {
			dir = filepath.Join(dir, "deeper")
		}
		check(t, os.MkdirAll(dir, 0o755))
	})
	m := mountFile(t, img, 0, Options{}, ext4.Options{})
	fd, err := unix.Open(m.dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(t, err)
	for i := range depth {
		next, err := unix.Openat(fd, "deeper", unix.O_DIRECTORY|unix.O_RDONLY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatalf("at depth %d: %v", i, err)
		}
		fd = next
	}
	var here, up unix.Stat_t
	check(t, unix.Fstatat(fd, "../deeper", &here, 0))
	check(t, unix.Fstat(fd, &up))
	unix.Close(fd)
	if here.Ino != up.Ino {
		t.Errorf("../deeper is inode %d, want %d", here.Ino, up.Ino)
	}
}

// SEEK_DATA and SEEK_HOLE tell of holes; unwritten blocks are holes too.
func TestSeek(t *testing.T) {
	img := madeFS(t, "16M", func(dir string) {
		f, err := os.Create(filepath.Join(dir, "f"))
		check(t, err)
		_, err = f.WriteAt(noise(6, 4096), 64<<10)
		check(t, err)
		check(t, f.Truncate(256<<10))
		check(t, f.Close())
	})
	m := mountFile(t, img, 0, Options{}, ext4.Options{})
	f, err := os.Open(filepath.Join(m.dir, "f"))
	check(t, err)
	defer f.Close()
	tests := []struct {
		off    int64
		whence int
		want   int64
		errno  unix.Errno
	}{
		{0, unix.SEEK_DATA, 64 << 10, 0},
		{0, unix.SEEK_HOLE, 0, 0},
		{64<<10 + 5, unix.SEEK_DATA, 64<<10 + 5, 0},
		{64<<10 + 5, unix.SEEK_HOLE, 68 << 10, 0},
		{68 << 10, unix.SEEK_DATA, 0, unix.ENXIO},
		{256<<10 - 1, unix.SEEK_HOLE, 256<<10 - 1, 0},
		{256 << 10, unix.SEEK_HOLE, 0, unix.ENXIO},
		{1 << 50, unix.SEEK_DATA, 0, unix.ENXIO},
	}
	for _, tt := range tests {
		got, err := unix.Seek(int(f.Fd()), tt.off, tt.whence)
		if tt.errno != 0 {
			if !errors.Is(err, tt.errno) {
				t.Errorf("%d whence %d: got %d, %v, want %v", tt.off, tt.whence, got, err, tt.errno)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%d whence %d: got %d, %v, want %d", tt.off, tt.whence, got, err, tt.want)
		}
	}
}

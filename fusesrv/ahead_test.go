package fusesrv

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Who reads two files one after the other in some order gets those that follow
// in this order; who does not gets none.
func TestListingOrders(t *testing.T) {
	// Listed in this order; the number is the inode, the letter the name. No two
	// follow each other in two orders.
	files := []listed{{14, "e"}, {11, "c"}, {18, "b"}, {12, "f"}, {16, "d"}, {13, "a"}}
	type step struct {
		read disk.Ino
		want []disk.Ino // read ahead
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"as listed", []step{{14, nil}, {11, []disk.Ino{18, 12, 16, 13}}, {18, nil}}},
		{"by inode", []step{{11, nil}, {12, []disk.Ino{13, 14, 16, 18}}}},
		{"by name", []step{{13, nil}, {18, []disk.Ino{11, 16, 14, 12}}}},
		{"one file twice", []step{{14, nil}, {14, nil}}},
		{"jumping", []step{{14, nil}, {13, nil}, {11, nil}, {14, nil}, {18, nil}, {16, nil}, {11, nil}}},
		{"found late", []step{{16, nil}, {12, nil}, {14, nil}, {11, []disk.Ino{18, 12, 16, 13}}}},
	}
	for _, tt := range tests {
		l := &listing{files: files, last: -1}
		for i, s := range tt.steps {
			at := slices.IndexFunc(files, func(f listed) bool { return f.ino == s.read })
			if got := l.read(int32(at)); !slices.Equal(got, s.want) {
				t.Errorf("%s: read %d, inode %d: %d are read ahead, want %d", tt.name, i, s.read, got, s.want)
			}
		}
	}
}

// A program that goes on where reading ahead ended gets more each time, up to a limit.
func TestListingWindow(t *testing.T) {
	l := &listing{last: -1}
	for i := range 400 {
		l.files = append(l.files, listed{disk.Ino(i + 20), fmt.Sprintf("%04d", i)})
	}
	l.read(0)
	at := 1
	for _, want := range []int{8, 16, 32, 64, 64, 64, 64, 64, 14} {
		got := l.read(int32(at))
		if len(got) != want {
			t.Fatalf("at file %d %d are read ahead, want %d", at, len(got), want)
		}
		at += len(got) + 1
	}
	if at != 400 {
		t.Errorf("%d files in all, want 400", at)
	}
}

// The listings that are kept, and the files that are known, have a bound.
func TestListingsAreBounded(t *testing.T) {
	a := newAhead(nil)
	a.store = func(uint64, int64, []byte) fuse.Status { return fuse.OK }
	ino := disk.Ino(100)
	for dir := range disk.Ino(40) {
		for part := range 30 {
			files := make([]listed, 300)
			for i := range files {
				files[i] = listed{ino, "name"}
				ino++
			}
			a.listed(dir+2, part == 0, files)
		}
	}
	known := 0
	for _, l := range a.listings {
		known += len(l.files)
	}
	if len(a.listings) != maxListings || known > maxListings*maxListed || len(a.places) != known {
		t.Errorf("%d listings with %d files, and %d places, want %d with %d each at most, and as many places", len(a.listings), known, len(a.places), maxListings, maxListed)
	}
	// A directory that is listed again counts once.
	n := len(a.listings)
	a.listed(a.listings[n-1].dir, true, []listed{{7, "x"}})
	if len(a.listings) != n || len(a.listings[n-1].files) != 1 || a.places[7].l != a.listings[n-1] {
		t.Errorf("a second listing of a directory has not taken the place of the first")
	}
}

// On a real mount the pages of files that follow are there before they are
// read, and are those that a READ would have brought.
func TestReadAheadAcrossFiles(t *testing.T) {
	const files = 40
	content := func(i int) []byte { return noise(uint64(i+1), 1+i*977%smallFile) }
	img := madeFS(t, "64M", func(dir string) {
		for i := range files {
			check(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i)), content(i), 0o644))
		}
	})
	m := mountFile(t, img, 0, Options{}, ext4.Options{})
	// The order of the listing is that of the names' hashes, with a seed that mke2fs
	// has drawn. In another order two files may follow each other in this one, too,
	// and it is this one that goes on.
	names := listedNames(t, m.dir)
	if len(names) != files {
		t.Fatalf("%d files, want %d", len(names), files)
	}
	read := func(name string) {
		got, err := os.ReadFile(filepath.Join(m.dir, name))
		check(t, err)
		i, err := strconv.Atoi(name[1:])
		check(t, err)
		if !slices.Equal(got, content(i)) {
			t.Fatalf("%s does not hold what was written", name)
		}
	}
	read(names[0])
	if resident(t, filepath.Join(m.dir, names[minScan+1])) {
		t.Fatalf("%s is in memory before anything could have asked for it", names[minScan+1])
	}
	read(names[1])
	for _, name := range names[2 : 2+minScan] {
		for start := time.Now(); !resident(t, filepath.Join(m.dir, name)); time.Sleep(time.Millisecond) {
			if time.Since(start) > time.Minute {
				t.Fatalf("%s has not been read ahead", name)
			}
		}
	}
	for _, name := range names {
		read(name)
	}
	if s := m.log.String(); s != "" {
		t.Errorf("the server complained: %s", s)
	}
}

// listedNames are the names in a directory but lost+found, in the order of the listing.
func listedNames(t *testing.T, dir string) []string {
	t.Helper()
	d, err := os.Open(dir)
	check(t, err)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	check(t, err)
	return slices.DeleteFunc(names, func(name string) bool { return name == "lost+found" })
}

// resident reports whether all pages of a file are in the page cache.
func resident(t *testing.T, name string) bool {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	defer f.Close()
	st, err := f.Stat()
	check(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	defer unix.Munmap(b)
	page := os.Getpagesize()
	in := make([]byte, (len(b)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	return !slices.ContainsFunc(in, func(v byte) bool { return v&1 == 0 })
}

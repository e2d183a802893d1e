package fusesrv

import (
	"fmt"
	"syscall"
	"testing"

	"e4go/iomap/simkernel"
)

// TestFrozenForgets: what is deleted, closed and forgotten while the file system is frozen waits
// for the thaw, however much it is, and does not keep the server from hearing of that.
func TestFrozenForgets(t *testing.T) {
	defer watch("thawing")()
	dev := mkfsMem(t, 64<<20, "-t ext4 -N 4096")
	m := mountMapped(t, dev, simkernel.Options{})
	open := func(i int) *simkernel.File {
		f, err := m.k.Open(nobody, fmt.Sprintf("/f%d", i), syscall.O_RDWR|syscall.O_CREAT, 0o644)
		check(t, err)
		return f
	}
	for i := range 1500 { // more than any queue has room for
		check(t, open(i).Close())
	}
	var files []*simkernel.File
	for i := range 100 {
		f := open(i)
		check(t, writeAll(f, make([]byte, 5000), 0))
		check(t, m.k.Unlink(nobody, fmt.Sprintf("/f%d", i)))
		files = append(files, f)
	}
	check(t, m.k.Freeze())
	for _, f := range files {
		check(t, f.Close())
	}
	check(t, m.k.Evict())
	for range 200 { // until the server has read what was forgotten
		_, err := m.k.Stat(nobody, "/")
		check(t, err)
	}
	check(t, m.k.Thaw())
	m.unmount()
	if err := checkers(t, dev, false); err != nil {
		t.Error(err)
	}
}

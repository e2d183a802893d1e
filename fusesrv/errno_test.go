package fusesrv

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func TestErrno(t *testing.T) {
	corrupt := &disk.CorruptError{Struct: "inode", Num: 12, Block: 99, Off: 0x100, Field: "i_mode", Have: "0", Want: "a type"}
	tests := []struct {
		err  error
		want unix.Errno
		tell bool
	}{
		{corrupt, unix.EUCLEAN, true},
		{fmt.Errorf("look up: %w", corrupt), unix.EUCLEAN, true},
		{errors.Join(unix.ENOENT, corrupt), unix.EUCLEAN, true}, // damage is never just a missing name
		{&ext4.UnsupportedError{What: "x"}, unix.EOPNOTSUPP, false},
		{unix.ENOENT, unix.ENOENT, false},
		{fmt.Errorf("open: %w", unix.ENOKEY), unix.ENOKEY, false},
		{fmt.Errorf("read block 7: %w", unix.EIO), unix.EIO, true},
		{&os.PathError{Op: "read", Path: "x", Err: unix.ENXIO}, unix.ENXIO, false},
		{fmt.Errorf("read block 7: %w", io.ErrUnexpectedEOF), unix.EIO, true},
		{errors.New("anything"), unix.EIO, true},
		{unix.ENOSYS, unix.EIO, true}, // would switch the operation off
		{unix.Errno(0), unix.EIO, true},
	}
	for _, tt := range tests {
		if got, tell := errno(tt.err); got != tt.want || tell != tt.tell {
			t.Errorf("%v: got %v, told %v; want %v, %v", tt.err, got, tell, tt.want, tt.tell)
		}
	}
	r := reporter{log: log.New(io.Discard, "", 0), damaged: func(error) {}}
	if got := r.status(nil); got != fuse.OK {
		t.Errorf("no error: got %v", got)
	}
}

// Each complaint is logged once, and there is an end of them.
func TestReporter(t *testing.T) {
	var out strings.Builder
	met := 0
	r := reporter{log: log.New(&out, "", 0), damaged: func(error) { met++ }}
	for range 5 {
		r.status(&disk.CorruptError{Struct: "inode", Num: 12, Field: "i_mode"})
		r.status(unix.ENOENT)
	}
	if got := strings.Count(out.String(), "\n"); got != 1 || !strings.Contains(out.String(), "inode 12") {
		t.Errorf("the same complaint 5 times logged %q, want one line", out.String())
	}
	if met != 1 {
		t.Errorf("the file system was told %d times of one damage", met)
	}
	for i := range 3 * maxReports {
		r.report(fmt.Sprint("complaint ", i))
	}
	if got := strings.Count(out.String(), "\n"); got != maxReports+1 {
		t.Errorf("%d lines, want %d and one that says so", got, maxReports)
	}
}

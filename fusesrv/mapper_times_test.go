package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// TestKernelTime: our clock is not ahead of the one by which the kernel dates a file afterwards.
func TestKernelTime(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		before := KernelTime()
		name := filepath.Join(dir, fmt.Sprint(i))
		check(t, os.WriteFile(name, nil, 0o644))
		fi, err := os.Stat(name)
		check(t, err)
		if m := fi.ModTime(); m.Before(before) {
			t.Fatalf("a file made after %v is dated %v", before, m)
		}
	}
}

// mappedTimes mounts a file system with a kernel whose clock is a second behind the
// server's.
func mappedTimes(t *testing.T, o simkernel.Options) (*mapped, *testClock) {
	t.Helper()
	clock := &testClock{t: time.Unix(2_000_000_000, 123_456_789)}
	o.Now = clock.now
	dev := mkfsMem(t, 32<<20, "-t ext4")
	return mountMappedWith(t, dev, dev, dev, o, ext4.Options{Write: true, Now: clock.ahead}, &Options{Log: log.New(os.Stderr, "", 0)}), clock
}

// TestMappedAppendOnly: the times of files that nobody may change otherwise are recorded, whatever the
// kernel has dated: what is appended, read, or was written before the flag was set.
func TestMappedAppendOnly(t *testing.T) {
	m, clock := mappedTimes(t, simkernel.Options{})
	for name, flag := range map[string]disk.FileFlags{"/append": disk.FlagAppend, "/immutable": disk.FlagImmutable} {
		f, err := m.k.Open(rootCred, name, unix.O_RDWR|unix.O_CREAT|unix.O_APPEND, 0o644)
		check(t, err)
		_, err = f.WriteAt([]byte("one"), 0)
		check(t, errors.Join(err, f.Fsync(false)))
		clock.advance(time.Hour)
		_, err = f.WriteAt([]byte("two"), 0)
		check(t, err)
		in, err := m.fs.Resolve(name, false)
		check(t, err)
		flags := in.Disk().Flags | flag
		check(t, m.fs.SetAttr(background, ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}))
		want := simkernel.Time{Sec: clock.now().Unix(), Nsec: 123_456_789}
		if err := errors.Join(f.Fsync(false), f.Close(), m.k.Evict()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if a, err := m.k.Stat(rootCred, name); err != nil || a.Mtime != want || a.Ctime != want || a.Size != 6 {
			t.Errorf("%s: %+v, %v; want mtime and ctime %v", name, a, err, want)
		}
		clock.advance(48 * time.Hour)
		f, err = m.k.Open(rootCred, name, unix.O_RDONLY, 0)
		check(t, err)
		_, err = f.ReadAt(make([]byte, 10), 0)
		if err := errors.Join(err, f.Close(), m.k.Evict()); err != nil {
			t.Errorf("read %s: %v", name, err)
		}
		if a, err := m.k.Stat(rootCred, name); err != nil || a.Atime.Sec != clock.now().Unix() {
			t.Errorf("%s was read: atime %v, %v", name, a.Atime, err)
		}
	}
	m.unmount()
	e2fsckMem(t, m.dev, false)
}

// TestMappedTimes: what the kernel dates it sends as one SETATTR of three times, at the moments
// that the protocol names and at no others; the server dates nothing of it, and keeps what it was told.
func TestMappedTimes(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    simkernel.Options
		do   func(m *mapped, f *simkernel.File) error
		want string // SETATTRs by their valid bits
	}{
		{"relatime: the first read after a write", simkernel.Options{}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			err = errors.Join(err, f.Fsync(false))
			for range 3 {
				_, rerr := f.ReadAt(make([]byte, 10), 0)
				err = errors.Join(err, rerr, m.k.SyncFS())
			}
			return err
		}, "0x430 0x430"},
		{"noatime", simkernel.Options{Atime: simkernel.NoAtime}, func(m *mapped, f *simkernel.File) error {
			_, err := f.ReadAt(make([]byte, 10), 0)
			return errors.Join(err, f.Close())
		}, ""},
		{"strictatime", simkernel.Options{Atime: simkernel.StrictAtime}, func(m *mapped, f *simkernel.File) error {
			_, err := f.ReadAt(make([]byte, 10), 0)
			return errors.Join(err, m.k.SyncFS(), f.Close())
		}, "0x430"},
		{"lazytime keeps them", simkernel.Options{Lazytime: true, Unrest: 1}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return err
		}, ""},
		{"lazytime until fsync", simkernel.Options{Lazytime: true, Unrest: 1}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return errors.Join(err, f.Fsync(false))
		}, "0x430"},
		{"lazytime until sync", simkernel.Options{Lazytime: true, Unrest: 1}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return errors.Join(err, m.k.SyncFS())
		}, "0x430"},
		{"close", simkernel.Options{}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return errors.Join(err, f.Close())
		}, "0x430"},
		{"link", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return m.k.Link(userCred, "/f", "/g") }, "0x430"},
		{"rename", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return m.k.Rename(userCred, "/f", "/g", 0) }, "0x430"},
		{"unlink", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return m.k.Unlink(userCred, "/f") }, "0x430"},
		{"fallocate", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return f.Fallocate(0, 0, 100_000) }, "0x430"},
		{"truncate", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return f.Truncate(3) }, "0x668"},
		{"truncate to the same size", simkernel.Options{}, func(m *mapped, f *simkernel.File) error { return f.Truncate(10_000) }, "0x248"},
		{"chmod after a write", simkernel.Options{}, func(m *mapped, f *simkernel.File) error {
			_, err := f.WriteAt([]byte("x"), 0)
			return errors.Join(err, m.k.Chmod(rootCred, "/f", 0o600))
		}, "0x430 0x401"},
		{"utimes", simkernel.Options{}, func(m *mapped, f *simkernel.File) error {
			return m.k.Utimes(rootCred, "/f", simkernel.Time{Sec: 1}, simkernel.Time{Sec: 2})
		}, "0x430"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent, asking := "", false
			tt.o.Trace = func(e simkernel.Event) {
				if e.Op == "SETATTR" && asking {
					if sent != "" {
						sent += " "
					}
					sent += fmt.Sprintf("%#x", le.Uint32(e.Request))
				}
			}
			m, clock := mappedTimes(t, tt.o)
			f, err := m.k.Open(rootCred, "/f", unix.O_RDWR|unix.O_CREAT, 0o666)
			check(t, err)
			_, err = f.WriteAt(make([]byte, 10_000), 0)
			check(t, errors.Join(err, f.Fsync(false)))
			clock.advance(time.Hour)
			asking = true
			check(t, tt.do(m, f))
			asking = false
			if sent != tt.want {
				t.Errorf("sent SETATTR %q, want %q", sent, tt.want)
			}
			want, err := f.Stat() // the kernel's
			check(t, err)
			in, err := m.fs.Inode(disk.Ino(want.Ino))
			check(t, err)
			st := in.Stat()
			got := []disk.Time{st.Atime, st.Mtime, st.Ctime}
			kept := []disk.Time{disk.Time(want.Atime), disk.Time(want.Mtime), disk.Time(want.Ctime)}
			if same := fmt.Sprint(got) == fmt.Sprint(kept); same != (tt.name != "lazytime keeps them") {
				t.Errorf("the server has times %v, the kernel %v", got, kept)
			}
			m.k.Kill()
			m.stop()
			m.fs.Close()
		})
	}
}

// TestAtimeSetMeanwhile: an atime that somebody sets stays, whatever of earlier accesses is being written.
func TestAtimeSetMeanwhile(t *testing.T) {
	m, _ := mappedTimes(t, simkernel.Options{})
	check(t, m.k.Mkdir(rootCred, "/d", 0o755))
	in, err := m.fs.Resolve("/d", false)
	check(t, err)
	a, ino := m.s.raw.atimes, in.Ino()
	a.mu.Lock()
	a.pending[ino] = disk.Time{Sec: 2_000_000_000}
	a.mu.Unlock()
	want := disk.Time{Sec: 7}
	written := make(chan error, 1)
	check(t, a.set(ino, func() error {
		err := m.fs.SetAttr(background, ext4.Root, ino, ext4.SetAttr{Atime: &want})
		go func() { written <- a.write() }()
		select {
		case err := <-written:
			written <- err
		case <-time.After(100 * time.Millisecond): // it waits, as it should
		}
		return err
	}))
	check(t, <-written)
	in, err = m.fs.Inode(ino)
	check(t, err)
	if st := m.s.raw.stat(in); st.Atime != want {
		t.Errorf("atime is %v, want %v, which was set last", st.Atime, want)
	}
	m.unmount()
}

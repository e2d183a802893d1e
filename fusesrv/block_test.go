package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// emptyImage makes an empty ext4 file system in a file.
func emptyImage(t testing.TB, args ...string) string {
	t.Helper()
	fixtures.Need(t, "root", "fuse", "loop", "mke2fs", "e2fsck")
	path := filepath.Join(t.TempDir(), "an image.img")
	if out, err := exec.Command("mke2fs", append(args, "-q", "-F", "-t", "ext4", path, "64M")...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return path
}

func e2fsck(t testing.TB, path string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn %s: %v\n%s", path, err, out)
	}
}

// loopsOf returns the loop devices that are made of path.
func loopsOf(t testing.TB, path string) (out []string) {
	t.Helper()
	holders, err := blockdev.Holders(path)
	check(t, err)
	for _, h := range holders {
		if h.Device != "" {
			out = append(out, h.String())
		}
	}
	return out
}

// serveBlock mounts the file system at offset in path read-write with a block device. Its
// release takes a while. No part of it is left to the end of the test.
func serveBlock(t *testing.T, path string, offset int64) (m *mounted) {
	t.Helper()
	f, err := blockdev.Open(path, blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
	check(t, err)
	var dev blockdev.Device = f
	if offset != 0 {
		dev, err = blockdev.NewWindow(f, offset, 0)
		check(t, err)
	}
	fs, err := ext4.Open(dev, ext4.Options{Write: true, CommitInterval: time.Hour})
	check(t, err)
	m = &mounted{fs: fs, dev: dev, log: &syncBuffer{}, dir: t.TempDir()}
	m.Server, err = Mount(fs, m.dir, Options{
		FSName: path, Log: log.New(m.log, "", 0), Image: dev, Block: BlockAlways, Extra: []string{"rw"},
		Release: func() error {
			time.Sleep(100 * time.Millisecond)
			return errors.Join(fs.Close(), f.Close())
		},
	})
	check(t, err)
	go m.Serve()
	t.Cleanup(func() { unix.Unmount(m.dir, unix.MNT_DETACH) })
	check(t, m.WaitMount())
	return m
}

// umount(2) returns when all that was done is durable, the image is closed, and
// the loop device has gone. The image is at an offset, or not.
func TestBlockUmountWaits(t *testing.T) {
	for _, offset := range []int64{0, 1 << 20} {
		path := emptyImage(t)
		if offset != 0 {
			b, err := os.ReadFile(path)
			check(t, err)
			check(t, os.WriteFile(path, append(make([]byte, offset), b...), 0o600))
		}
		for i := range 5 {
			m := serveBlock(t, path, offset)
			info, err := mountAt(m.dir)
			check(t, err)
			if info.fstype != "fuseblk.e4go" || !strings.HasPrefix(info.source, "/dev/loop") || info.image() != path {
				t.Fatalf("mounted as %+v, an image of %q", info, info.image())
			}
			check(t, os.WriteFile(fmt.Sprintf("%s/file%d", m.dir, i), noise(uint64(i), 300_000), 0o644))
			// A second user of the image is told who has it.
			var inUse *blockdev.InUseError
			if _, err := blockdev.Open(path, blockdev.Options{Write: true, Lock: blockdev.LockExclusive}); !errors.As(err, &inUse) {
				t.Errorf("open the mounted image: %v", err)
			}
			check(t, unix.Unmount(m.dir, 0))
			for n := 0; n < 100 && loopsOf(t, path) != nil; n++ {
				time.Sleep(20 * time.Millisecond) // somebody looks at all loop devices just now
			}
			f, err := blockdev.Open(path, blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
			if err != nil {
				t.Errorf("behind umount: %v", err)
			} else {
				f.Close()
			}
			if l := loopsOf(t, path); l != nil {
				t.Errorf("behind umount: %q", l)
			}
			m.Wait()
			if s := m.log.String(); s != "" {
				t.Errorf("the server said: %s", s)
			}
		}
		dev, err := blockdev.Open(path, blockdev.Options{})
		check(t, err)
		image := filepath.Join(t.TempDir(), "cut")
		b := make([]byte, dev.Size()-offset)
		_, err = dev.ReadAt(b, offset)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		check(t, dev.Close())
		check(t, os.WriteFile(image, b, 0o600))
		e2fsck(t, image)
		fs, _ := openFS(t, image, 0, ext4.Options{NoRecovery: true})
		for i := range 5 {
			sameFile(t, fs, fmt.Sprintf("/file%d", i), noise(uint64(i), 300_000))
		}
	}
}

func sameFile(t testing.TB, fs *ext4.FS, name string, want []byte) {
	t.Helper()
	in, err := fs.Resolve(name, true)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	got := make([]byte, in.Size())
	if _, err := in.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
		t.Errorf("%s: %v; what was written is there: %v", name, err, bytes.Equal(got, want))
	}
}

// syncsBlock reports whether the kernel asks file systems of block devices to sync.
func syncsBlock(t *testing.T) bool {
	var u unix.Utsname
	check(t, unix.Uname(&u))
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 18
}

// syncfs(2) makes durable what was done before it: what the image holds then, as after a
// power cut, has it.
func TestBlockSync(t *testing.T) {
	if !syncsBlock(t) {
		t.Skipf("SKIPPED %s: wants Linux 6.18, the first that syncs FUSE on block devices", t.Name())
	}
	path := emptyImage(t)
	m := serveBlock(t, path, 0)
	cut := filepath.Join(t.TempDir(), "cut")
	lookup := func() error {
		b, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(cut, b, 0o600))
		dev, err := blockdev.Open(cut, blockdev.Options{})
		check(t, err)
		defer dev.Close()
		fs, err := ext4.Open(dev, ext4.Options{})
		check(t, err)
		defer fs.Close()
		if _, err = fs.Resolve("/file", true); err == nil {
			sameFile(t, fs, "/file", noise(1, 1<<20))
		}
		return err
	}
	check(t, os.WriteFile(m.dir+"/file", noise(1, 1<<20), 0o644))
	if err := lookup(); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("before syncfs: %v; then this test shows nothing", err)
	}
	d, err := os.Open(m.dir)
	check(t, err)
	check(t, unix.Syncfs(int(d.Fd())))
	d.Close()
	if err := lookup(); err != nil {
		t.Errorf("behind syncfs: %v", err)
	}
	check(t, unix.Unmount(m.dir, 0))
	e2fsck(t, path)
}

// fibmap asks for the blocks of a file, n of them.
func fibmap(t *testing.T, name string, n int) (out []uint32) {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	defer f.Close()
	for i := range n {
		b := le.AppendUint32(nil, uint32(i))
		if err := ioctlBytes(f, 1, b); err != nil { // FIBMAP
			t.Fatalf("FIBMAP of %s: %v", name, err)
		}
		out = append(out, le.Uint32(b))
	}
	return out
}

// FIBMAP says what the kernel's ext4 says, of written blocks, unwritten ones, holes,
// what is behind the end, and short files in their inode.
func TestBlockFibmap(t *testing.T) {
	path := emptyImage(t, "-b", "4096", "-O", "inline_data")
	m := serveBlock(t, path, 0)
	f, err := os.Create(m.dir + "/file")
	check(t, err)
	for _, at := range []int64{0, 1, 5, 6, 20} {
		_, err := f.WriteAt(noise(1, 4096), at*4096)
		check(t, err)
	}
	check(t, unix.Fallocate(int(f.Fd()), 0, 30*4096, 4*4096))
	check(t, f.Close())
	check(t, os.WriteFile(m.dir+"/short", []byte("short"), 0o644))
	check(t, os.WriteFile(m.dir+"/odd", noise(2, 5000), 0o644))
	names := []string{"/file", "/short", "/odd"}
	var got [][]uint32
	for _, name := range names {
		got = append(got, fibmap(t, m.dir+name, 40))
	}
	check(t, unix.Unmount(m.dir, 0))
	kernel := fixtures.MountKernel(t, path)
	for i, name := range names {
		if name == "/short" { // the kernel's ext4 has no FIBMAP of it
			if got[i][0] != 0 {
				t.Errorf("%s: %v, want no blocks", name, got[i])
			}
			continue
		}
		if want := fibmap(t, kernel+name, 40); fmt.Sprint(got[i]) != fmt.Sprint(want) {
			t.Errorf("%s: FIBMAP says\n%v, the kernel's ext4\n%v", name, got[i], want)
		}
	}
}

// Read-only means the device too: nobody makes the mount writable.
func TestBlockReadOnly(t *testing.T) {
	path := emptyImage(t)
	before, err := os.ReadFile(path)
	check(t, err)
	m := mountFile(t, path, 0, Options{Block: BlockAlways}, ext4.Options{})
	if err := unix.Mount("", m.dir, "", unix.MS_REMOUNT, ""); !errors.Is(err, unix.EACCES) {
		t.Errorf("remount rw: %v, want EACCES", err)
	}
	info, err := mountAt(m.dir)
	check(t, err)
	if dev, err := os.OpenFile(info.source, os.O_RDWR, 0); err == nil {
		_, err = dev.WriteAt(make([]byte, 4096), 0)
		dev.Close()
		if err == nil {
			t.Error("the loop device can be written to")
		}
	}
	check(t, unix.Unmount(m.dir, 0))
	after, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the image has changed")
	}
}

// A real block device is the mount's source, and nobody else's while it is mounted.
func TestBlockDevice(t *testing.T) {
	path := emptyImage(t)
	disk, err := blockdev.AttachLoop(path, 0, false)
	check(t, err)
	node := disk.Name()
	defer disk.Close()
	for i := range 3 {
		m := serveBlock(t, node, 0)
		info, err := mountAt(m.dir)
		check(t, err)
		if info.source != node || info.fstype != "fuseblk.e4go" {
			t.Errorf("mounted as %+v, want %s", info, node)
		}
		check(t, os.WriteFile(fmt.Sprintf("%s/file%d", m.dir, i), noise(uint64(i), 300_000), 0o644))
		var inUse *blockdev.InUseError
		if _, err := blockdev.Open(node, blockdev.Options{Lock: blockdev.LockShared}); !errors.As(err, &inUse) || !strings.Contains(err.Error(), m.dir) {
			t.Errorf("open the mounted device: %v, want to be told where it is mounted", err)
		}
		if err := unix.Mount(node, t.TempDir(), "ext4", unix.MS_RDONLY, ""); !errors.Is(err, unix.EBUSY) {
			t.Errorf("the kernel's ext4 mounts it too: %v", err)
		}
		check(t, unix.Unmount(m.dir, 0))
		f, err := blockdev.Open(node, blockdev.Options{Lock: blockdev.LockExclusive})
		if err != nil {
			t.Errorf("behind umount: %v", err)
		} else {
			f.Close()
		}
	}
	e2fsck(t, node)
	fs, _ := openFS(t, node, 0, ext4.Options{NoRecovery: true})
	for i := range 3 {
		sameFile(t, fs, fmt.Sprintf("/file%d", i), noise(uint64(i), 300_000))
	}
}

// When the kernel does not take the device, our claim is back.
func TestBlockRefused(t *testing.T) {
	path := emptyImage(t)
	disk, err := blockdev.AttachLoop(path, 0, false)
	check(t, err)
	defer disk.Close()
	f, err := blockdev.Open(disk.Name(), blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
	check(t, err)
	defer f.Close()
	fs, err := ext4.Open(f, ext4.Options{Write: true})
	check(t, err)
	defer fs.Close()
	o := Options{Image: f, Block: BlockAlways, Extra: []string{"rw"}}
	if _, err := Mount(fs, filepath.Join(t.TempDir(), "none"), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount on nothing: %v", err)
	}
	o.Extra = append(o.Extra, "fscontext=nonsense") // refused by the kernel
	if _, err := Mount(fs, t.TempDir(), o); err == nil || errors.Is(err, ErrClaimLost) {
		t.Fatalf("mount: %v, want to be refused", err)
	}
	if _, err := unix.Open(disk.Name(), unix.O_RDONLY|unix.O_EXCL, 0); err != unix.EBUSY {
		t.Errorf("claim the device: %v, want EBUSY", err)
	}
}

// Without a block device the mount is an ordinary one, unless it must not be, and
// the log says what that means.
func TestBlockFallback(t *testing.T) {
	fixtures.Need(t, "root", "fuse")
	img := tour()
	mem := blockdev.NewMem(int64(len(img)))
	_, err := mem.WriteAt(img, 0)
	check(t, err)
	fs, err := ext4.Open(mem, ext4.Options{})
	check(t, err)
	defer fs.Close()
	dir := t.TempDir()
	if _, err := Mount(fs, dir, Options{Image: mem, Block: BlockAlways}); !errors.Is(err, unix.ENOTBLK) {
		t.Errorf("with a block device: %v, want ENOTBLK", err)
	}
	var said syncBuffer
	s, err := Mount(fs, dir, Options{Image: mem, Log: log.New(&said, "", 0)})
	check(t, err)
	go s.Serve()
	check(t, s.WaitMount())
	if info, err := mountAt(dir); err != nil || info.fstype != "fuse.e4go" {
		t.Errorf("mounted as %+v, %v", info, err)
	}
	check(t, s.Unmount())
	s.Wait()
	s.Close()
	if !strings.Contains(said.String(), "umount(8) does not wait") {
		t.Errorf("the log says %q", said.String())
	}
}

// A server that is killed leaves a mount that is dead, an image that is in use, and
// when that is unmounted nothing.
func TestBlockKilled(t *testing.T) {
	path := emptyImage(t)
	dir := t.TempDir()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), userEnv+"="+path+"\n"+dir)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	check(t, cmd.Process.Kill())
	cmd.Wait()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Access(dir+"/lost+found", unix.F_OK); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("the dead mount: %v, want ENOTCONN", err)
	}
	_, err = blockdev.Open(path, blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("open the image: %v, want to be told of %s", err, dir)
	}
	check(t, Unmount(dir))
	if l := loopsOf(t, path); l != nil {
		t.Errorf("behind umount: %q", l)
	}
}

// When another program gets the device in the moment in which nobody has it, the mount
// fails and nothing more is written, not even by Close.
func TestBlockClaimLost(t *testing.T) {
	path := emptyImage(t)
	disk, err := blockdev.AttachLoop(path, 0, false)
	check(t, err)
	defer disk.Close()
	f, err := blockdev.Open(disk.Name(), blockdev.Options{Write: true, Lock: blockdev.LockExclusive})
	check(t, err)
	defer f.Close()
	fs, err := ext4.Open(f, ext4.Options{Write: true, CommitInterval: time.Hour})
	check(t, err)
	_, err = fs.Mkdir(background, ext4.Caller{Privileged: true}, 2, "dir", 0o755)
	check(t, err)
	check(t, fs.Sync())
	_, err = fs.Mkdir(background, ext4.Caller{Privileged: true}, 2, "another", 0o755) // not durable
	check(t, err)

	stop, won := make(chan struct{}), make(chan int)
	go func() {
		defer close(won)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if fd, err := unix.Open(disk.Name(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0); err == nil {
				won <- fd
				return
			}
		}
	}()
	dir, o := t.TempDir(), Options{Image: f, Extra: []string{"rw", "fscontext=nonsense"}, Log: log.New(io.Discard, "", 0)}
	for deadline := time.Now().Add(time.Minute); ; {
		_, err = Mount(fs, dir, o)
		if errors.Is(err, ErrClaimLost) {
			break
		}
		if err == nil || time.Now().After(deadline) {
			close(stop)
			t.Fatalf("mount: %v, want %v", err, ErrClaimLost)
		}
	}
	defer unix.Close(<-won)
	before, err := os.ReadFile(disk.Name())
	check(t, err)
	if err := fs.Sync(); !errors.Is(err, ext4.ErrShutdown) {
		t.Errorf("sync: %v, want %v", err, ext4.ErrShutdown)
	}
	fs.Close()
	after, err := os.ReadFile(disk.Name())
	check(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the device of another was written to")
	}
}

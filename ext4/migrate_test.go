package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

const (
	iocMigrate    = 0x6609     // EXT4_IOC_MIGRATE
	iocSetVersion = 0x40086604 // EXT4_IOC_SETVERSION
)

// pointed makes a file system with extents on which files, a directory and a
// symbolic link have maps of block numbers.
func pointed(t *testing.T) (image string, files []*contents) {
	t.Helper()
	ctx := context.Background()
	image = volume{args: "-t ext3 -b 1024 -I 256", size: "48M"}.make(t, "empty", "small", "late", "large", "sparse", "other")
	fs, closeFS := writable(t, image, ext4.Options{})
	names := []string{"empty", "small", "late", "large", "sparse", "other"}
	for i, ino := range inos(t, fs, names...) {
		files = append(files, &contents{name: names[i], ino: ino})
	}
	write := func(f *contents, n, off int64) {
		p := bytes.Repeat([]byte{byte(off>>10) | 1}, int(n))
		if _, err := fs.WriteAt(ctx, ext4.Root, f.ino, p, off); err != nil {
			t.Fatal(err)
		}
		f.fill(p, off)
	}
	write(files[1], 5000, 0)
	write(files[2], 3000, 9<<10)
	for off := int64(0); off < 2<<20; off += 96 << 10 { // in pieces, as the other is between
		write(files[3], 96<<10, off)
		write(files[5], 1<<10, off/48)
	}
	for _, off := range []int64{3 << 10, 200 << 10, 500 << 10, 510 << 10, 30 << 20, 66 << 20, 70 << 20} {
		write(files[4], 1500, off)
	}
	dir, err := fs.Mkdir(ctx, ext4.Root, disk.RootIno, "dir", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := fs.Create(ctx, ext4.Root, dir.Ino(), fmt.Sprintf("%d with a name that takes room in the directory %s", i, strings.Repeat("x", 40)), disk.ModeReg|0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"long": strings.Repeat("target/", 30), "short": "target"} {
		if _, err := fs.Symlink(ctx, ext4.Root, disk.RootIno, name, target); err != nil {
			t.Fatal(err)
		}
	}
	closeFS()
	for _, args := range [][]string{{"tune2fs", "-O", "extents", image}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	sound(t, image)
	return image, files
}

// A map of block numbers becomes one of extents, and back where the direct
// ones hold it; what it leads to stays.
func TestMigrate(t *testing.T) {
	ctx := context.Background()
	image, files := pointed(t)
	fs, closeFS := writable(t, image, ext4.Options{})
	flag := func(ino disk.Ino) bool {
		in, err := fs.Inode(ino)
		if err != nil {
			t.Fatal(err)
		}
		return in.Disk().Flags.Has(disk.FlagExtents)
	}
	setFlag := func(ino disk.Ino, on bool) error {
		in, err := fs.Inode(ino)
		if err != nil {
			t.Fatal(err)
		}
		flags := in.FlagsShown() &^ disk.FlagExtents
		if on {
			flags |= disk.FlagExtents
		}
		return fs.SetAttr(ctx, ext4.Root, ino, ext4.SetAttr{Flags: &flags})
	}
	check := func() {
		t.Helper()
		for _, f := range files {
			if err := f.check(fs, 0, 1<<40); err != nil {
				t.Error(err)
			}
		}
	}
	for i, f := range files {
		err := error(nil)
		if i%2 == 0 {
			err = fs.Migrate(ctx, ext4.Root, f.ino)
		} else {
			err = setFlag(f.ino, true)
		}
		if err != nil || !flag(f.ino) {
			t.Errorf("%s: %v, extents %v", f.name, err, flag(f.ino))
		}
		if err := fs.Migrate(ctx, ext4.Root, f.ino); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s once more: %v, want EINVAL", f.name, err)
		}
	}
	check()
	for _, name := range []string{"/dir", "/long", "/short", "/lost+found"} {
		in, err := fs.Resolve(name, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Migrate(ctx, ext4.Root, in.Ino()); err != nil || flag(in.Ino()) != (name != "/short") {
			t.Errorf("%s: %v, extents %v", name, err, flag(in.Ino()))
		}
	}
	if _, err := fs.Resolve("/dir/299 with a name that takes room in the directory "+strings.Repeat("x", 40), true); err != nil {
		t.Error(err)
	}
	if in, err := fs.Resolve("/long", false); err != nil {
		t.Error(err)
	} else if target, err := in.Readlink(); target != strings.Repeat("target/", 30) {
		t.Errorf("%q, %v", target, err)
	}
	// They are written as any with extents are.
	if err := fs.Truncate(ctx, ext4.Root, files[3].ino, 1<<20); err != nil {
		t.Error(err)
	}
	files[3].resize(1 << 20)
	check()
	// And back.
	for _, f := range files {
		want := error(nil)
		if f.name != "empty" && f.name != "small" && f.name != "late" {
			want = unix.EOPNOTSUPP
		}
		if err := setFlag(f.ino, false); !errors.Is(err, want) || flag(f.ino) != (want != nil) {
			t.Errorf("%s back: %v, want %v; extents %v", f.name, err, want, flag(f.ino))
		}
	}
	unwritten := files[0]
	if err := setFlag(unwritten.ino, true); err != nil {
		t.Error(err)
	}
	if err := fs.Fallocate(ctx, ext4.Root, unwritten.ino, 0, 0, 1000); err != nil {
		t.Error(err)
	}
	unwritten.resize(1000)
	if err := setFlag(unwritten.ino, false); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("unwritten blocks back: %v, want EOPNOTSUPP", err)
	}
	check()
	closeFS()
	sound(t, image)
}

// The kernel says the same of each file.
func TestMigrateAsKernel(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	ctx := context.Background()
	image, files := pointed(t)
	other := filepath.Join(t.TempDir(), "image")
	if err := fixtures.CopySparse(other, image); err != nil {
		t.Fatal(err)
	}
	fs, closeFS := writable(t, image, ext4.Options{})
	dir, umount := fixtures.MountKernelWrite(t, other)
	defer umount()
	errnoOf := func(err error) (e unix.Errno) {
		errors.As(err, &e)
		return e
	}
	for round := range 3 {
		for i, f := range files {
			file, err := os.Open(filepath.Join(dir, f.name))
			if err != nil {
				t.Fatal(err)
			}
			in, err := fs.Inode(f.ino)
			if err != nil {
				t.Fatal(err)
			}
			flags := in.FlagsShown() ^ disk.FlagExtents
			var ours, kernels error
			if (round+i)%3 == 0 {
				ours = fs.Migrate(ctx, ext4.Root, f.ino)
				kernels = unix.IoctlSetInt(int(file.Fd()), iocMigrate, 0)
			} else {
				ours = fs.SetAttr(ctx, ext4.Root, f.ino, ext4.SetAttr{Flags: &flags})
				kernels = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
			}
			if errnoOf(ours) != errnoOf(kernels) {
				t.Errorf("round %d, %s: %v, the kernel says %v", round, f.name, ours, kernels)
			}
			have, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
			if in, err2 := fs.Inode(f.ino); err != nil || err2 != nil || int(in.FlagsShown()) != have {
				t.Errorf("round %d, %s: flags %#x, the kernel's %#x", round, f.name, uint32(in.FlagsShown()), have)
			}
			file.Close()
		}
	}
	closeFS()
	sound(t, image)
}

// The generation can be set where nothing depends on it, as the kernel has it.
func TestSetGeneration(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount")
	ctx := context.Background()
	for _, v := range []volume{
		{name: "csum", args: "-t ext4 -b 4096", size: "16M"},
		{name: "nocsum", args: "-t ext4 -b 4096 -O ^metadata_csum", size: "16M"},
	} {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t, "a")
			fs, closeFS := writable(t, image, ext4.Options{})
			f := &contents{name: "a", ino: inos(t, fs, "a")[0]}
			fragment(t, fs, f, 0, 10)
			ours := fs.SetGeneration(ctx, f.ino, 12345)
			if err := f.check(fs, 0, 1<<20); err != nil {
				t.Error(err)
			}
			closeFS()
			sound(t, image)
			dir, umount := fixtures.MountKernelWrite(t, image)
			file, err := os.Open(filepath.Join(dir, "a"))
			if err != nil {
				t.Fatal(err)
			}
			have, err := unix.IoctlGetUint32(int(file.Fd()), 0x80086603) // EXT4_IOC_GETVERSION
			if (have == 12345) != (ours == nil) {
				t.Errorf("%v; the generation is %d then, %v", ours, have, err)
			}
			kernels := unix.IoctlSetPointerInt(int(file.Fd()), iocSetVersion, 7)
			file.Close()
			umount()
			if (ours == nil) != (kernels == nil) || ours != nil && !errors.Is(ours, kernels) {
				t.Errorf("%v, the kernel says %v", ours, kernels)
			}
		})
	}
}

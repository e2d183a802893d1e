package fsck_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// A use is a file system that the kernel uses hard.
type use struct {
	name  string
	size  string   // as mke2fs takes it
	mkfs  string   // options of mke2fs
	mount string   // options of mount
	then  []string // commands between two rounds; IMAGE stands for the file
	short bool     // part of plain go test
}

// uses has no fast_commit beside files with maps of blocks, as Linux 6.18 crashes,
// and no inline_data with data=ordered, as the thread of its journal waits for itself.
var uses = []use{
	{name: "default", size: "96M", mkfs: "-t ext4 -b 4096", short: true},
	{name: "1k", size: "64M", mkfs: "-t ext4 -b 1024", short: true},
	{name: "2k-small-inodes", size: "64M", mkfs: "-t ext4 -b 2048 -I 128"},
	{name: "ext2", size: "48M", mkfs: "-t ext2 -b 1024", short: true},
	{name: "ext2-4k", size: "64M", mkfs: "-t ext2 -b 4096"},
	{name: "ext3", size: "64M", mkfs: "-t ext3 -b 1024"},
	{name: "ext3-4k", size: "64M", mkfs: "-t ext3 -b 4096"},
	{name: "ext3-to-ext4", size: "64M", mkfs: "-t ext3 -b 4096", then: []string{"tune2fs -O extent,uninit_bg,dir_nlink,extra_isize,huge_file IMAGE", "e2fsck -fyD IMAGE"}},
	{name: "gdt-csum", size: "64M", mkfs: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit"},
	{name: "no-csum", size: "64M", mkfs: "-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg"},
	{name: "no-journal", size: "64M", mkfs: "-t ext4 -b 4096 -O ^has_journal"},
	{name: "no-flex", size: "64M", mkfs: "-t ext4 -b 1024 -O ^flex_bg"},
	{name: "meta-bg", size: "128M", mkfs: "-t ext4 -b 1024 -O meta_bg,^resize_inode", short: true},
	{name: "sparse-super2", size: "96M", mkfs: "-t ext4 -b 1024 -O sparse_super2"},
	{name: "small-groups", size: "32M", mkfs: "-t ext4 -b 1024 -g 1024 -N 4096"},
	{name: "inode-1024", size: "96M", mkfs: "-t ext4 -b 4096 -I 1024"},
	{name: "quota", size: "96M", mkfs: "-t ext4 -b 4096 -O quota,project -E quotatype=usrquota:grpquota:prjquota", mount: "prjquota", short: true},
	{name: "quota-1k", size: "64M", mkfs: "-t ext4 -b 1024 -O quota -E quotatype=usrquota:grpquota"},
	{name: "inline", size: "96M", mkfs: "-t ext4 -b 4096 -O inline_data", mount: "data=writeback", short: true},
	{name: "inline-1k-512", size: "64M", mkfs: "-t ext4 -b 1024 -I 512 -O inline_data,quota", mount: "data=writeback"},
	{name: "ea-inode", size: "96M", mkfs: "-t ext4 -b 4096 -O ea_inode", short: true},
	{name: "ea-inode-inline", size: "64M", mkfs: "-t ext4 -b 1024 -I 256 -O ea_inode,inline_data", mount: "data=writeback"},
	{name: "bigalloc", size: "256M", mkfs: "-t ext4 -b 4096 -O bigalloc -C 16384", short: true},
	{name: "bigalloc-1k-quota", size: "256M", mkfs: "-t ext4 -b 1024 -O bigalloc,quota -C 65536"},
	{name: "orphan-file", size: "96M", mkfs: "-t ext4 -b 4096 -O orphan_file", short: true},
	{name: "fast-commit", size: "96M", mkfs: "-t ext4 -b 4096 -O fast_commit", short: true},
	{name: "large-dir", size: "96M", mkfs: "-t ext4 -b 1024 -O large_dir,metadata_csum_seed"},
	{name: "mmp", size: "64M", mkfs: "-t ext4 -b 4096 -O mmp"},
	{name: "encrypted", size: "96M", mkfs: "-t ext4 -b 4096 -O encrypt", mount: "test_dummy_encryption", short: true},
	{name: "data-journal", size: "96M", mkfs: "-t ext4 -b 4096", mount: "data=journal"},
	{name: "stride", size: "96M", mkfs: "-t ext4 -b 4096 -E stride=8,stripe_width=32,lazy_itable_init=1,packed_meta_blocks=1"},
	{name: "grow", size: "64M", mkfs: "-t ext4 -b 1024", then: []string{"e2fsck -fy IMAGE", "resize2fs IMAGE 150M"}, short: true},
	{name: "grow-far", size: "32M", mkfs: "-t ext4 -b 4096", then: []string{"e2fsck -fy IMAGE", "resize2fs IMAGE 2000M"}},
	{name: "shrink", size: "160M", mkfs: "-t ext4 -b 4096", then: []string{"e2fsck -fy IMAGE", "resize2fs -M IMAGE", "resize2fs IMAGE 100M"}, short: true},
	{name: "shrink-1k", size: "200M", mkfs: "-t ext4 -b 1024", then: []string{"e2fsck -fy IMAGE", "resize2fs IMAGE 90M"}},
	{name: "shrink-quota", size: "160M", mkfs: "-t ext4 -b 1024 -O quota", then: []string{"e2fsck -fy IMAGE", "resize2fs IMAGE 90M"}},
	{name: "to-64bit", size: "96M", mkfs: "-t ext4 -b 4096 -O ^64bit,^metadata_csum", then: []string{"e2fsck -fy IMAGE", "resize2fs -b IMAGE", "tune2fs -O metadata_csum IMAGE"}},
	{name: "to-no-csum", size: "96M", mkfs: "-t ext4 -b 4096", then: []string{"e2fsck -fy IMAGE", "tune2fs -O ^metadata_csum IMAGE"}},
	{name: "new-uuid", size: "96M", mkfs: "-t ext4 -b 4096 -O quota", then: []string{"e2fsck -fyD IMAGE", "tune2fs -f -U random IMAGE"}},
	{name: "quota-later", size: "96M", mkfs: "-t ext4 -b 4096 -I 256", then: []string{"e2fsck -fy IMAGE", "tune2fs -O project,quota -Q usrquota,grpquota,prjquota IMAGE"}},
	{name: "no-journal-later", size: "96M", mkfs: "-t ext4 -b 4096", then: []string{"tune2fs -O ^has_journal IMAGE"}},
	{name: "orphan-file-later", size: "96M", mkfs: "-t ext4 -b 4096", then: []string{"e2fsck -fy IMAGE", "tune2fs -O orphan_file IMAGE"}},
}

// TestKernelUse checks file systems that the kernel has filled, emptied and worn:
// there is nothing to say of them, neither when they are unmounted nor, with
// replay, of what lies on the device while they are not. It takes a few;
// E4GO_FSCK_USE=1 in the environment takes all, a larger number as many rounds
// of each, and names behind a colon ("3:quota,bigalloc") only those.
func TestKernelUse(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mke2fs", "e2fsck", "resize2fs", "tune2fs")
	rounds, names, only := 1, "", false
	long := os.Getenv("E4GO_FSCK_USE")
	if long != "" {
		_, names, only = strings.Cut(long, ":")
		if _, err := fmt.Sscan(long, &rounds); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range uses {
		if only && !slices.Contains(strings.Split(names, ","), u.name) || long == "" && !u.short {
			continue
		}
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			for i := range rounds {
				u.test(t, uint64(i), long == "")
			}
		})
	}
}

func (u *use) test(t *testing.T, seed uint64, short bool) {
	image := filepath.Join(t.TempDir(), "image")
	mustRun(t, "mke2fs "+u.mkfs+" -q -F "+image+" "+u.size)
	rng := rand.New(rand.NewPCG(seed, uint64(len(u.name))))
	n := 3000
	if short {
		n = 700
	}
	u.round(t, image, rng, n)
	if len(u.then) == 0 && short {
		return
	}
	for _, c := range u.then {
		mustRun(t, strings.ReplaceAll(c, "IMAGE", image))
	}
	u.sound(t, image, "after "+strings.Join(u.then, ", "), fsck.Options{Replay: true})
	u.round(t, image, rng, n)
}

// round mounts the image, works on it, and checks it in between and after.
func (u *use) round(t *testing.T, image string, rng *rand.Rand, n int) {
	dir := filepath.Join(filepath.Dir(image), "mnt")
	os.MkdirAll(dir, 0o755)
	options := "loop"
	if u.mount != "" {
		options += "," + u.mount
	}
	if out, err := exec.Command("mount", "-t", "ext4", "-o", options, image, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED %s: this kernel does not mount it: %s", t.Name(), out)
	}
	mounted := true
	defer func() {
		if mounted {
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	w := wear{t: t, dir: dir, rng: rng}
	w.work(n)
	if hasJournal(t, image) {
		// What a power cut would leave now: all is written, and in the journal.
		w.syncfs()
		crashed := image + ".crashed"
		if err := fixtures.CopySparse(crashed, image); err != nil {
			t.Fatal(err)
		}
		u.sound(t, crashed, "mounted", fsck.Options{Replay: true})
		os.Remove(crashed)
	}
	w.close()
	err := unix.Unmount(dir, 0)
	for i := 0; errors.Is(err, unix.EBUSY) && i < 50; i++ { // a program that another test starts has not closed its files yet
		time.Sleep(100 * time.Millisecond)
		err = unix.Unmount(dir, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	mounted = false
	u.sound(t, image, "unmounted", fsck.Options{Replay: true})
	u.sound(t, image, "unmounted, as it is", fsck.Options{})
	// With ea_inode e2fsck 1.47.0 takes a symbolic link for one with blocks, if an EA inode counts in its i_blocks.
	if code, out := fixtures.E2fsck(t, image); code != 0 && !(strings.Contains(u.mkfs, "ea_inode") && strings.Contains(out, "Illegal block #0")) {
		keep := filepath.Join(os.TempDir(), "e4go-use-"+u.name+"-e2fsck.img")
		fixtures.CopySparse(keep, image)
		t.Errorf("e2fsck -fn: %d, kept as %s\n%s", code, keep, out)
	}
}

func hasJournal(t *testing.T, image string) bool {
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, disk.SuperblockSize)
	if _, err := f.ReadAt(b, disk.SuperblockOffset); err != nil {
		t.Fatal(err)
	}
	sb := disk.DecodeSuperblock(b)
	return sb.Compat.Has(disk.CompatHasJournal)
}

func (u *use) sound(t *testing.T, image, when string, opts fsck.Options) {
	t.Helper()
	report, err := check(t, image, opts)
	if err != nil || report.Damaged() || report.Count(fsck.Warning) > 0 {
		text := describeAll(report.Problems, "  ")
		keep := filepath.Join(os.TempDir(), "e4go-use-"+u.name+".img")
		fixtures.CopySparse(keep, image)
		t.Errorf("%s: %v, kept as %s:%s", when, err, keep, text[:min(len(text), 3000)])
	}
}

func mustRun(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && f[0] == "e2fsck" && exit.ExitCode() < 4 {
		err = nil
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// wear uses a mounted file system without mercy. Errors are part of it: the
// disk is full, names are there already or not any more.
type wear struct {
	t     *testing.T
	dir   string
	rng   *rand.Rand
	names []string // relative
	dirs  []string
	open  []*os.File
	files int
}

func (w *wear) syncfs() {
	f, err := os.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wear) close() {
	for _, f := range w.open {
		f.Close()
	}
	w.open = nil
}

func (w *wear) path(rel string) string { return filepath.Join(w.dir, rel) }

func (w *wear) pick() string { return w.names[w.rng.IntN(len(w.names))] }

// fresh is a name for something new.
func (w *wear) fresh() string {
	w.files++
	dir := ""
	if len(w.dirs) > 0 && w.rng.IntN(8) > 0 {
		dir = w.dirs[w.rng.IntN(len(w.dirs))]
	}
	return filepath.Join(dir, fmt.Sprintf("%s%d", strings.Repeat("n", w.rng.IntN(1+w.rng.IntN(200))), w.files))
}

// work does n things, of which some are many.
func (w *wear) work(n int) {
	w.dirs = append(w.dirs, "")
	w.names = append(w.names, "lost+found")
	for i := range n {
		w.one()
		if i == n/2 {
			w.crowd(400 + w.rng.IntN(2000))
			w.fill()
		}
	}
	w.crowd(300)
}

func (w *wear) one() {
	rng := w.rng
	switch rng.IntN(24) {
	case 0, 1, 2, 3:
		w.create()
	case 4, 5, 6:
		w.write(w.pick())
	case 7:
		os.Truncate(w.path(w.pick()), rng.Int64N(3<<20))
	case 8, 9:
		w.fallocate(w.pick())
	case 10, 11:
		p := w.fresh()
		if os.Mkdir(w.path(p), 0o755) == nil {
			w.names, w.dirs = append(w.names, p), append(w.dirs, p)
		}
	case 12, 13:
		p := w.pick()
		if p != "lost+found" {
			os.Remove(w.path(p)) // directories stay while they have something in them
		}
	case 14:
		if p := w.pick(); p != "lost+found" {
			to := w.fresh()
			if rng.IntN(3) == 0 {
				to = w.pick()
			}
			if to != "lost+found" && os.Rename(w.path(p), w.path(to)) == nil {
				w.names = append(w.names, to)
			}
		}
	case 15:
		to := w.fresh()
		if os.Link(w.path(w.pick()), w.path(to)) == nil {
			w.names = append(w.names, to)
		}
	case 16:
		to := w.fresh()
		if os.Symlink(strings.Repeat("t", 1+rng.IntN(300)), w.path(to)) == nil {
			w.names = append(w.names, to)
		}
	case 17, 18, 19:
		w.xattr(w.pick())
	case 20:
		p := w.path(w.pick())
		os.Lchown(p, rng.IntN(70000), rng.IntN(20))
		w.project(p, uint32(rng.IntN(5)))
	case 21:
		to := w.fresh()
		kind := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK}[rng.IntN(4)]
		if unix.Mknod(w.path(to), kind|0o600, int(unix.Mkdev(uint32(rng.IntN(5000)), uint32(rng.IntN(70000))))) == nil {
			w.names = append(w.names, to)
		}
	case 22:
		w.unlinked()
	case 23:
		if f, err := os.OpenFile(w.path(w.pick()), os.O_RDWR, 0); err == nil {
			f.Sync()
			f.Close()
		}
	}
}

func (w *wear) create() {
	p := w.fresh()
	b := make([]byte, w.rng.IntN(1<<w.rng.IntN(18)))
	if os.WriteFile(w.path(p), b, 0o644) == nil {
		w.names = append(w.names, p)
	}
}

func (w *wear) regular(p string, fn func(f *os.File)) {
	if st, err := os.Lstat(w.path(p)); err != nil || !st.Mode().IsRegular() {
		return
	}
	if f, err := os.OpenFile(w.path(p), os.O_RDWR, 0); err == nil {
		fn(f)
		f.Close()
	}
}

func (w *wear) write(p string) {
	w.regular(p, func(f *os.File) {
		for range 1 + w.rng.IntN(20) {
			at := w.rng.Int64N(1 << (10 + w.rng.IntN(15)))
			f.WriteAt(make([]byte, 1+w.rng.IntN(9000)), at)
		}
	})
}

func (w *wear) fallocate(p string) {
	modes := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE,
		unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE}
	w.regular(p, func(f *os.File) {
		for range 1 + w.rng.IntN(6) {
			mode := modes[w.rng.IntN(len(modes))]
			at, n := w.rng.Int64N(2<<20), 1+w.rng.Int64N(1<<(8+w.rng.IntN(12)))
			if mode == unix.FALLOC_FL_COLLAPSE_RANGE || mode == unix.FALLOC_FL_INSERT_RANGE {
				at, n = at&^0xffff, (n+0xffff)&^0xffff
			}
			unix.Fallocate(int(f.Fd()), mode, at, n)
		}
	})
}

func (w *wear) xattr(p string) {
	full := w.path(p)
	name := fmt.Sprintf("%s%d", []string{"user.", "trusted.", "security.x"}[w.rng.IntN(3)], w.rng.IntN(12))
	switch w.rng.IntN(5) {
	case 0:
		unix.Lremovexattr(full, name)
	case 1: // an ACL: the owner, somebody, the group, a mask and the rest
		acl := []byte{2, 0, 0, 0}
		for _, e := range [][3]byte{{1, 7, 0xff}, {2, 6, 1}, {4, 5, 0xff}, {16, 7, 0xff}, {32, 4, 0xff}} {
			id := e[2]
			high := byte(0)
			if id == 0xff {
				high = 0xff
			}
			acl = append(acl, e[0], 0, e[1], 0, id, high, high, high)
		}
		unix.Lsetxattr(full, "system.posix_acl_access", acl, 0)
		unix.Lsetxattr(full, "system.posix_acl_default", acl, 0)
	case 2: // of what many have, so that it is shared
		unix.Lsetxattr(full, "trusted.shared", []byte(strings.Repeat("s", 300)), 0)
	default:
		unix.Lsetxattr(full, name, []byte(strings.Repeat("v", w.rng.IntN(1<<w.rng.IntN(17)))), 0)
	}
}

// project gives the file a project, FS_IOC_FSSETXATTR.
func (w *wear) project(p string, id uint32) {
	st, err := os.Lstat(p)
	if err != nil || !st.Mode().IsRegular() && !st.IsDir() {
		return
	}
	f, err := os.Open(p)
	if err != nil {
		return
	}
	defer f.Close()
	attr := [28]byte{12: byte(id)}
	if id == 3 && st.IsDir() {
		attr[1] = 2 // FS_XFLAG_PROJINHERIT
	}
	unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x401c5820, uintptr(unsafe.Pointer(&attr)))
}

// unlinked makes files without names, which stay open for a while.
func (w *wear) unlinked() {
	if fd, err := unix.Open(w.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
		f := os.NewFile(uintptr(fd), "")
		f.Write(make([]byte, w.rng.IntN(100000)))
		w.open = append(w.open, f)
	}
	p := w.pick()
	w.regular(p, func(f *os.File) {
		if fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			w.open = append(w.open, os.NewFile(uintptr(fd), ""))
			os.Remove(w.path(p))
		}
	})
	if len(w.open) > 20 {
		w.close()
	}
}

// crowd fills one directory with n entries and takes most of them away.
func (w *wear) crowd(n int) {
	dir := w.fresh()
	if os.Mkdir(w.path(dir), 0o755) != nil {
		return
	}
	w.dirs, w.names = append(w.dirs, dir), append(w.names, dir)
	var made []string
	for i := range n {
		p := filepath.Join(dir, fmt.Sprintf("%0*d", 1+i%100, i))
		if i%50 == 0 {
			os.Mkdir(w.path(p), 0o700)
		} else if f, err := os.Create(w.path(p)); err == nil {
			f.Close()
		} else if errors.Is(err, unix.ENOSPC) {
			break
		}
		made = append(made, p)
	}
	w.rng.Shuffle(len(made), func(i, j int) { made[i], made[j] = made[j], made[i] })
	for _, p := range made[:len(made)*w.rng.IntN(10)/10] {
		os.Remove(w.path(p))
	}
}

// fill writes until nothing is free, and removes much of it.
func (w *wear) fill() {
	var made []string
	for {
		p := w.fresh()
		err := os.WriteFile(w.path(p), make([]byte, 1<<(8+w.rng.IntN(14))), 0o600)
		made = append(made, p)
		if err != nil {
			break
		}
	}
	w.rng.Shuffle(len(made), func(i, j int) { made[i], made[j] = made[j], made[i] })
	for i, p := range made {
		if i%3 == 0 {
			w.names = append(w.names, p)
		} else {
			os.Remove(w.path(p))
		}
	}
}

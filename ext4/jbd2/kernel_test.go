package jbd2

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// mount mounts the image with the kernel's ext4 and returns where.
func mount(t *testing.T, image, options string) string {
	t.Helper()
	dir := t.TempDir()
	if options != "" {
		options = "loop," + options
	} else {
		options = "loop"
	}
	run(t, nil, "mount", "-t", "ext4", "-o", options, image, dir)
	return dir
}

func umount(t *testing.T, dir string) {
	t.Helper()
	run(t, nil, "umount", dir)
}

// EXT4_IOC_SHUTDOWN and its argument that drops what is not in the log yet.
const (
	iocShutdown = 0x8004587d
	noLogFlush  = 2
	logFlush    = 1
)

// cut makes the file system on dir stop at once, as if the power had gone.
func cut(t *testing.T, dir string, how int) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), iocShutdown, how); err != nil {
		t.Fatalf("shutdown: %v", err)
	}
}

// tree describes every file below dir, one line each.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s ino %d mode %o links %d uid %d gid %d rdev %#x", rel, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d mtime %d.%d blocks %d sum %x", st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Blocks, sha256.Sum256(b))
		case syscall.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t *testing.T, who string, got, want []string) {
	t.Helper()
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%s lacks  %s", who, l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("%s has    %s", who, l)
		}
	}
}

// sh runs a script in dir.
func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func fsync(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// A log that the kernel wrote, replayed by us and by e2fsck.
func TestRecoverKernelLog(t *testing.T) {
	need(t, "root", "mke2fs", "e2fsck", "mount")
	for _, tt := range []struct {
		name    string
		mkfs    []string
		options string
	}{
		{"csum v3, 64bit", []string{"-O", "64bit,metadata_csum", "-J", "size=4"}, ""},
		{"no csum, 32bit", []string{"-O", "^64bit,^metadata_csum", "-J", "size=4"}, ""},
		{"journal_checksum", []string{"-O", "^metadata_csum", "-J", "size=4"}, "journal_checksum"},
		{"async commit", []string{"-O", "metadata_csum", "-J", "size=4"}, "journal_async_commit,data=writeback"},
		{"data journal", []string{"-O", "metadata_csum", "-b", "1024", "-J", "size=4"}, "data=journal"},
		{"wrapped", []string{"-O", "metadata_csum", "-b", "1024", "-J", "size=1"}, "data=journal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := mkfs(t, "64M", tt.mkfs...)
			dir := mount(t, image, tt.options)
			rounds := 4
			if tt.name == "wrapped" {
				rounds = 40
			}
			for i := range rounds {
				sh(t, dir, fmt.Sprintf(`
					mkdir d%[1]d; head -c 40000 /dev/urandom >d%[1]d/f
					for i in $(seq 50); do echo $i >d%[1]d/n$i; done; sync -f .
					rm d%[1]d/n1*; sync -f .; [ %[1]d = 0 ] || rm -r d$((%[1]d-1)); sync -f .`, i))
			}
			// A block that begins with the journal's magic, logged as data.
			sh(t, dir, `printf '\300\073\071\230' >magic; head -c 5000 /dev/zero >>magic; sync -f .`)
			cut(t, dir, logFlush)
			umount(t, dir)
			dev := load(t, image)
			got, stats, err := recoverImage(t, dev)
			if err != nil {
				t.Fatal(err)
			}
			if stats.Clean || stats.Transactions == 0 || stats.Blocks == 0 {
				t.Fatalf("nothing to recover: %+v", stats)
			}
			t.Logf("%+v", stats)
			run(t, []int{1}, "e2fsck", "-fy", "-E", "journal_only", image)
			sameBlocks(t, got, load(t, image))
			checkClean(t, got)
		})
	}
}

// checkClean lets e2fsck judge what we made.
func checkClean(t *testing.T, d blockdev.Device) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ours")
	save(t, d, path)
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		if keep := os.Getenv("E4GO_TEST_KEEP"); keep != "" {
			save(t, d, filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "_")))
		}
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
	return path
}

type fcCase struct {
	name   string
	mkfs   []string
	before string // made durable by a full commit
	steps  []string
}

func fcCases() []fcCase {
	base := []string{"-O", "metadata_csum,64bit,fast_commit", "-b", "4096", "-J", "size=8"}
	return []fcCase{
		{"create", base, `mkdir d`, []string{`echo one >d/one; echo two >two`, `head -c 100000 /dev/urandom >d/big`}},
		{"append", base, `echo a >f`, []string{`head -c 9000 /dev/urandom >>f`, `head -c 9000 /dev/urandom >>f`}},
		{"truncate", base, `head -c 400000 /dev/urandom >f`, []string{`truncate -s 5000 f`, `truncate -s 0 f; echo again >f`}},
		{"unlink", base, `mkdir d; echo a >d/a; head -c 100000 /dev/urandom >d/b; ln d/b c`, []string{`rm d/a; echo x >x`, `rm d/b; echo y >y`, `rm c`}},
		{"rename", base, `mkdir d e; echo a >d/a; echo b >e/b; head -c 90000 /dev/zero >e/c`, []string{`mv d/a e/a`, `mv e/a e/b`, `mv e/b d/z; mv d/z e/c`}},
		{"link", base, `echo a >a; mkdir d`, []string{`ln a b`, `ln b d/c; rm a`}},
		{"symlink", base, `mkdir d`, []string{`ln -s short d/s`, `ln -s ` + strings.Repeat("long/", 30) + ` d/l`, `rm d/s; ln -s other d/s`}},
		{"special", base, `mkdir d`, []string{`mkfifo d/p; mknod d/c c 5 300; mknod d/b b 8 1`}},
		{"mkdir", base, `echo a >a`, []string{`mkdir d; echo x >d/x`, `mkdir d/e; echo y >d/e/y`, `mkdir d/f; rmdir d/f`}},
		{"rmdir", base, `mkdir d d/e; echo a >d/a`, []string{`rmdir d/e; echo x >x`, `rm d/a; rmdir d`}},
		{"many", base, `mkdir d; for i in $(seq 100); do echo $i >d/old-file-with-a-long-name-$i; done`,
			[]string{`for i in $(seq 300); do echo $i >d/new-file-with-a-long-name-$i; done`, `rm d/old-*5`}},
		{"sparse", base, `echo a >f`, []string{`for i in $(seq 1 2 40); do dd if=/dev/urandom of=f bs=4096 count=1 seek=$i conv=notrunc 2>/dev/null; done`}},
		{"fragments", base, `head -c 8000000 /dev/zero >f`, []string{`for i in $(seq 1 2 1500); do echo ; done >g; i=1; while [ $i -lt 60 ]; do fallocate -p -o $((i*8192)) -l 4096 f; i=$((i+1)); done`}},
		{"fallocate", base, `echo a >f`, []string{`fallocate -l 1000000 f; echo x >>f`, `fallocate -l 300000 g; printf abc | dd of=g bs=1 seek=9000 conv=notrunc 2>/dev/null`}},
		{"1k", []string{"-O", "metadata_csum,64bit,fast_commit", "-b", "1024", "-J", "size=8"}, `mkdir d`,
			[]string{`for i in $(seq 60); do echo $i >d/file-with-a-long-name-$i; done`, `mkdir d/e; head -c 70000 /dev/urandom >d/e/x`}},
		{"no csum", []string{"-O", "^metadata_csum,^64bit,fast_commit", "-b", "4096", "-J", "size=8"}, `mkdir d; echo a >d/a`,
			[]string{`echo b >d/b; mkdir d/c`, `rm d/a; for i in $(seq 400); do echo $i >d/c/file-with-a-long-name-$i; done`}},
		{"inline", []string{"-O", "metadata_csum,64bit,fast_commit,inline_data", "-I", "256", "-b", "4096", "-J", "size=8"}, `mkdir d; echo a >d/a`,
			[]string{`echo b >d/b`, `mkdir d/c; echo x >d/c/x`, `for i in $(seq 20); do echo $i >d/c/file-with-a-name-$i; done; rm d/a`}},
		{"bigalloc", []string{"-O", "metadata_csum,64bit,fast_commit,bigalloc", "-C", "16384", "-b", "4096", "-J", "size=8"}, `mkdir d; head -c 50000 /dev/urandom >f`,
			[]string{`echo b >d/b; head -c 70000 /dev/urandom >d/c`, `for i in $(seq 200); do echo $i >d/file-with-a-long-name-$i; done; rm f`}},
		{"indirect", []string{"-O", "^extents,^64bit,^metadata_csum,fast_commit", "-b", "1024", "-J", "size=8"}, `mkdir d; head -c 100000 /dev/urandom >f`,
			[]string{`head -c 500000 /dev/urandom >>f; echo b >d/b`, `truncate -s 3000 f; mkdir d/e; echo x >d/e/x`, `rm f; head -c 300000 /dev/urandom >g`}},
		{"128", []string{"-O", "metadata_csum,fast_commit", "-I", "128", "-b", "4096", "-J", "size=8"}, `mkdir d; echo a >d/a`,
			[]string{`echo b >d/b; rm d/a; ln d/b c`}},
		{"uninit", []string{"-O", "^metadata_csum,uninit_bg,fast_commit", "-b", "1024", "-g", "1024", "-J", "size=8"}, `mkdir d; echo a >d/a`,
			[]string{`for i in $(seq 40); do mkdir e$i; head -c 20000 /dev/urandom >e$i/f; done`}},
	}
}

// Fast commits that the kernel made, replayed by us: the files are those that
// were there when the last fsync returned, and e2fsck finds nothing. The
// kernel's own replay is no judge: it miscounts the links of directories, and
// stops at a BUG() where a file has no extents.
func TestReplayFastCommits(t *testing.T) {
	need(t, "root", "mke2fs", "e2fsck", "mount")
	for _, tt := range fcCases() {
		t.Run(tt.name, func(t *testing.T) {
			image := mkfs(t, "64M", tt.mkfs...)
			dir := mount(t, image, "")
			sh(t, dir, "echo . >sync; "+tt.before+"; sync -f .")
			for _, s := range tt.steps {
				sh(t, dir, s+"; echo . >>sync")
				// fsync of one file commits what came before it.
				fsync(t, filepath.Join(dir, "sync"))
				for _, f := range regular(t, dir) {
					fsync(t, f)
				}
			}
			want := tree(t, dir)
			cut(t, dir, noLogFlush)
			umount(t, dir)
			dev := load(t, image)
			got, stats, err := recoverImage(t, dev)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", stats)
			if stats.FastCommit.Commits == 0 {
				t.Log("the kernel made no fast commits")
			}
			path := checkClean(t, got)
			ours := mount(t, path, "ro")
			sameTree(t, "our replay", tree(t, ours), want)
			umount(t, ours)
		})
	}
}

func regular(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A log on a device of its own, written by the kernel.
func TestRecoverExternal(t *testing.T) {
	need(t, "root", "mke2fs", "e2fsck", "mount", "losetup")
	attach := func(path string) string {
		dev := strings.TrimSpace(run(t, nil, "losetup", "-f", "--show", path))
		t.Cleanup(func() { run(t, nil, "losetup", "-d", dev) })
		return dev
	}
	for _, bs := range []string{"1024", "4096"} {
		t.Run(bs, func(t *testing.T) {
			log := mkfs(t, "16M", "-O", "journal_dev", "-b", bs)
			logDev := attach(log)
			image := mkfs(t, "32M", "-b", bs, "-J", "device="+logDev)
			dir := mount(t, image, "")
			sh(t, dir, `mkdir d; for i in $(seq 100); do echo $i >d/$i; done; sync -f .; rm d/1*; sync -f .`)
			want := tree(t, dir)
			cut(t, dir, logFlush)
			umount(t, dir)

			dev, journal := load(t, image), load(t, log)
			sb := superblock(dev)
			loc, err := External(journal, sb.JournalUUID, sb.BlockSize())
			if err != nil {
				t.Fatal(err)
			}
			j, err := Load(loc)
			if err != nil {
				t.Fatal(err)
			}
			over := blockdev.NewOverlay(dev)
			stats, err := Recover(context.Background(), j, over, sb.Blocks)
			if err != nil || stats.Blocks == 0 {
				t.Fatalf("%+v, %v", stats, err)
			}
			if err := j.MarkClean(journal, stats.Next); err != nil {
				t.Fatal(err)
			}
			clearNeedsRecovery(t, over)
			save(t, over, image)
			save(t, journal, log) // the loop device shows it
			run(t, nil, "e2fsck", "-fn", "-j", logDev, image)
			dir = mount(t, image, "ro")
			sameTree(t, "our recovery", tree(t, dir), want)
			umount(t, dir)

			var wrong *WrongJournalError
			if _, err := External(journal, [16]byte{1}, sb.BlockSize()); !errors.As(err, &wrong) {
				t.Errorf("another journal: got %v", err)
			}
			var bad *disk.CorruptError
			if _, err := External(dev, sb.JournalUUID, sb.BlockSize()); !errors.As(err, &bad) {
				t.Errorf("no journal: got %v", err)
			}
		})
	}
}

package mounttest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// An ordinary user mounts an image of his own through fusermount3, with the options of a mount.
func TestMountAsUser(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "fusermount3", "mke2fs")
	if st, err := os.Stat("/dev/fuse"); err != nil || st.Mode().Perm()&0o006 != 0o006 {
		fixtures.Need(t, "a /dev/fuse for everybody (chmod 666 /dev/fuse)")
	}
	home, err := os.MkdirTemp("", "e4go-mounttest-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	one, two := users[1], users[2]
	image := filepath.Join(home, "image")
	mkfs(t, image, "-t ext4 -E root_owner=0:0,lazy_itable_init=1", "32M")
	for _, name := range []string{home, image} {
		if err := errors.Join(os.Chmod(name, 0o755), os.Chown(name, int(one.uid), int(one.gid))); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		options string
		line    string // what he does in the mount
		fails   string // and what it says if it has to fail
	}{
		{"noatime", "echo x >f", "Permission denied"}, // the root directory is root's
		{"fakeroot", "echo x >f && chown 7:8 f && chmod 4755 f && mkdir d && chown 1000:1000 . && test $(stat -c %u:%g f) = 7:8", ""},
		{"", "echo y >own && test $(stat -c %u own) = 1000", ""},
		{"", "chown 7 own", "not permitted"},
		{"uid=1000,gid=1000", "echo z >>f && mkdir d/e && test $(stat -c %u:%g f) = 1000:1000", ""},
		{"uid=77", "echo z >>f", "Permission denied"},
		{"noatime,nodiratime,noexec,sync,dirsync", "echo '#!/bin/sh' >e && chmod 755 e && ./e", "Permission denied"},
		{"strictatime,lazytime,writeback_cache,suid,dev", "rm e", ""},
	} {
		m := serveAs(t, one, image, tt.options)
		for _, u := range []user{users[0], two} {
			if said, err := u.run("ls " + m.dir); err == nil {
				t.Errorf("%s: %s looks into it: %s", tt.options, u.name, said)
			}
		}
		said, err := one.run("cd " + m.dir + " && " + tt.line)
		if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(said, tt.fails)) {
			t.Errorf("%s: %s: %v, %q; want %q", tt.options, tt.line, err, said, tt.fails)
		}
		m.umount(t)
		m.quiet(t)
		sound(t, image)
	}

	m := serveAs(t, one, image, "ro")
	if said, err := one.run("cd " + m.dir + " && cat own && echo z >own"); err == nil || !strings.Contains(said, "y\n") || !strings.Contains(said, "Read-only") {
		t.Errorf("ro: %v, %q", err, said)
	}
	m.umount(t)
	for options, want := range map[string]string{
		"fuseblk=1": "takes root", "oom_score_adj=-600": "takes root", "remount,ro": "not a mount point", "allow_other": "user_allow_other",
	} {
		cmd := role(t, "e4go", "mount", "-o", options, image, m.dir)
		one.become(cmd)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %q; want %q in it", options, err, out, want)
		}
	}
}

// With -o discard, what is freed is no part of the image file any more, once that is durable.
func TestDiscardOption(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs")
	for _, options := range []string{"discard", "nodiscard"} {
		image := makeImage(t, "-t ext4", "64M")
		m := serve(t, image, options)
		name := filepath.Join(m.dir, "f")
		if err := writeDurably(name, pattern(1, 20<<20)); err != nil {
			t.Fatal(err)
		}
		full := allocated(t, image)
		if err := errors.Join(os.Remove(name), syncDir(m.dir)); err != nil {
			t.Fatal(err)
		}
		m.umount(t)
		if freed := full - allocated(t, image); (freed > 19<<20) != (options == "discard") {
			t.Errorf("%s: %d bytes of the image were freed with a file of 20 MiB", options, freed)
		}
		sound(t, image)
	}
}

func allocated(t *testing.T, name string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	return err
}

// resuid and resgid say who may use the blocks that are kept, also by a group that is not the process's first.
func TestReservedOptions(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs")
	image := makeImage(t, "-t ext4 -m 20", "16M")
	for _, tt := range []struct {
		options string
		may     [3]bool // of users
	}{
		{"", [3]bool{true, false, false}},
		{"resuid=1000", [3]bool{true, true, false}},
		{"resgid=1001", [3]bool{true, false, true}},  // the first group of two
		{"resgid=2000", [3]bool{true, true, false}},  // another group of one
		{"resgid=3000", [3]bool{true, true, true}},   // of both
		{"resgid=4000", [3]bool{true, false, false}}, // of nobody
	} {
		m := serve(t, image, tt.options)
		if err := os.Chmod(m.dir, 0o777); err != nil {
			t.Fatal(err)
		}
		nobody := user{uid: 5000, gid: 5000}
		if said, err := nobody.run("cat /dev/zero >" + m.dir + "/full"); err == nil || !strings.Contains(said, "No space") {
			t.Errorf("%s: filling it: %v, %q", tt.options, err, said)
		}
		for i, u := range users {
			said, err := u.run("cd " + m.dir + " && head -c 300000 /dev/zero >more; a=$?; rm more; exit $a")
			if got := err == nil; got != tt.may[i] {
				t.Errorf("%s: %s may use what is kept: %t, want %t (%s)", tt.options, u.name, got, tt.may[i], said)
			}
		}
		if err := os.Remove(filepath.Join(m.dir, "full")); err != nil {
			t.Error(err)
		}
		m.umount(t)
		sound(t, image)
	}
}

// Limits of quota hold through the mount, where the options say so.
func TestQuotaOptions(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs", "debugfs")
	image := makeImage(t, "-t ext4 -O quota", "32M")
	one := users[1]
	m := serve(t, image)
	if err := errors.Join(os.Chmod(m.dir, 0o777), os.Mkdir(filepath.Join(m.dir, "d"), 0o777), os.Chown(filepath.Join(m.dir, "d"), int(one.uid), int(one.gid))); err != nil {
		t.Fatal(err)
	}
	m.umount(t)
	limitQuota(t, image, disk.QuotaUser, one.uid, func(e *disk.QuotaEntry) { e.BlockHardLimit, e.InodeHardLimit = 1000, 10 })
	limitQuota(t, image, disk.QuotaGroup, one.gid, func(e *disk.QuotaEntry) { e.BlockHardLimit = 500 })
	for _, tt := range []struct {
		options string
		kib     int64 // that may be written
		files   int   // that may be made
	}{
		{"usrquota", 1000, 9}, {"grpquota", 500, 50}, {"usrquota,grpquota", 500, 9}, {"usrquota,noquota", 2000, 50}, {"usrquota,writeback_cache", 1000, 9},
	} {
		m.start(t, tt.options)
		said, err := one.run("cd " + m.dir + "/d && head -c 2000k /dev/zero >f")
		if limited := tt.kib < 2000; (err != nil) != limited || limited && !strings.Contains(said, "quota exceeded") {
			t.Errorf("%s: write: %v, %q", tt.options, err, said)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(m.dir, "d/f"), &st); err != nil || st.Blocks/2 > tt.kib || st.Blocks/2 < tt.kib-8 {
			t.Errorf("%s: %d KiB are allocated (%v), want %d", tt.options, st.Blocks/2, err, tt.kib)
		}
		if said, err := one.run("cd " + m.dir + "/d && rm f && for i in $(seq 50); do : >$i || exit 1; done"); (err != nil) != (tt.files < 50) || err != nil && !strings.Contains(said, "quota exceeded") {
			t.Errorf("%s: files: %v, %q", tt.options, err, said)
		}
		if files, err := os.ReadDir(filepath.Join(m.dir, "d")); err != nil || len(files) != tt.files {
			t.Errorf("%s: %d files (%v), want %d", tt.options, len(files), err, tt.files)
		}
		if said, err := users[0].run("rm " + m.dir + "/d/*"); err != nil {
			t.Error(said, err)
		}
		m.umount(t)
		sound(t, image)
	}
}

// limitQuota changes the entry of an id in a quota file, where it is, which has no checksum.
func limitQuota(t *testing.T, image string, q disk.QuotaType, id uint32, change func(*disk.QuotaEntry)) {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", fmt.Sprintf("blocks <%d>", 3+q), image).Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const blockSize, head = 1024, 16
	for s := range strings.FieldsSeq(string(out)) {
		var block int64
		if _, err := fmt.Sscan(s, &block); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, blockSize)
		if _, err := f.ReadAt(b, block*blockSize); err != nil {
			t.Fatal(err)
		}
		for at := head; at+disk.QuotaEntrySize <= len(b); at += disk.QuotaEntrySize {
			if e := disk.DecodeQuotaEntry(b[at:]); e.ID == id && e.Space != 0 {
				change(&e)
				e.Put(b[at:])
				if _, err := f.WriteAt(b, block*blockSize); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("the quota of %s %d is in none of the blocks %s", q, id, out)
}

// A file system with its journal elsewhere is mounted with that, recovered with it after the server was killed, and
// with no other.
func TestExternalJournal(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "loop", "mke2fs", "losetup")
	dir := t.TempDir()
	image, journal, other := filepath.Join(dir, "image"), filepath.Join(dir, "journal"), filepath.Join(dir, "other")
	mkfs(t, journal, "-O journal_dev -b 4096", "8M")
	mkfs(t, other, "-O journal_dev -b 4096", "8M")
	out, err := exec.Command("losetup", "-f", "--show", journal).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", loop).Run()
	mkfs(t, image, "-t ext4 -b 4096 -J device="+loop, "32M")

	refused := func(image, options, want string) {
		t.Helper()
		out, err := role(t, "e4go", "mount", "-o", options, image, dir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %q; want %q in it", options, err, out, want)
		}
	}
	refused(image, "rw", "give the external journal with -o journal=PATH")
	refused(image, "journal="+other, "external journal has UUID")
	var st unix.Stat_t
	if err := unix.Stat(loop, &st); err != nil {
		t.Fatal(err)
	}
	number := fmt.Sprintf("journal_dev=%#x", unix.Minor(st.Rdev)|unix.Major(st.Rdev)<<8) // for minor numbers below 256
	m := serve(t, image, number, "commit=3600")
	if err := errors.Join(writeDurably(filepath.Join(m.dir, "f"), []byte("in the journal")), syncDir(m.dir)); err != nil {
		t.Fatal(err)
	}
	m.kill(t)
	m.detach(t)
	refused(image, "ro", "give the external journal with -o journal=PATH")
	if out, err := exec.Command("losetup", "-d", loop).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, options := range []string{"ro,journal_path=" + journal, "journal=" + journal} {
		m.start(t, options)
		if b, err := os.ReadFile(filepath.Join(m.dir, "f")); err != nil || string(b) != "in the journal" {
			t.Errorf("%s: %q, %v", options, b, err)
		}
		m.umount(t)
	}
	if out, err := exec.Command("e2fsck", "-fn", "-j", journal, image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}

	refused(makeImage(t, "-t ext4", "16M"), "journal="+journal, "leave journal= out")
}

// A server in the background complains to the system log: here to a program that stands in for it, with a /run of its
// own.
func TestSyslog(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "mke2fs", "debugfs")
	image := makeImage(t, "-t ext4 -b 4096", "16M")
	out, err := exec.Command("debugfs", "-w", "-R", "mkdir d", image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err = exec.Command("debugfs", "-R", "blocks d", image).Output(); err != nil {
		t.Fatal(err)
	}
	var block int64
	if _, err := fmt.Sscan(string(out), &block); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(pattern(9, 4096), block*4096); err != nil {
		t.Fatal(err)
	}
	f.Close()
	cmd := role(t, "syslog", image, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err = cmd.CombinedOutput()
	want := fmt.Sprintf("block of directory 12 (block %d", block)
	if err != nil || !strings.HasPrefix(string(out), "<28>") || !strings.Contains(string(out), "e4go[") || !strings.Contains(string(out), want) {
		t.Errorf("the system log got %q (%v), want priority 28, e4go and %q", out, err, want)
	}
}

// syslogged mounts image at dir in the background, looks into its directory d, which is damaged, and prints
// what the system log is sent.
func syslogged(image, dir string) int {
	err := func() error {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			return err
		}
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/log", Net: "unixgram"})
		if err != nil {
			return err
		}
		if st, err := os.Lstat("/dev/log"); err == nil && st.Mode()&os.ModeSocket != 0 {
			if err := unix.Mount("/run/log", "/dev/log", "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		e4go := func(args ...string) error {
			cmd := exec.Command(self, args...)
			cmd.Env = append(os.Environ(), roleEnv+"=e4go")
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%v: %s", err, out)
			}
			return err
		}
		if err := e4go("mount", image, dir); err != nil {
			return err
		}
		_, readErr := os.ReadDir(filepath.Join(dir, "d"))
		err = e4go("umount", dir)
		if !errors.Is(readErr, unix.EUCLEAN) {
			err = errors.Join(err, fmt.Errorf("read the directory: %v, want EUCLEAN", readErr))
		}
		if err != nil {
			return err
		}
		b := make([]byte, 4096)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(b)
		fmt.Printf("%s", b[:n])
		return err
	}()
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

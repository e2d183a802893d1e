package mounttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"e4go/fixtures"
)

// Many images are mounted at once, and each is itself.
func TestManyMounts(t *testing.T) {
	n := long(t, "E4GO_MANY", 5)
	var mounts []*mount
	for range n {
		mounts = append(mounts, serve(t, makeImage(t, kinds[0].args, "16M")))
	}
	write := func(name string) {
		for i, m := range mounts {
			if err := os.WriteFile(filepath.Join(m.dir, name), fmt.Append(nil, name, i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("a")
	write("b")
	for i, m := range mounts {
		for _, name := range []string{"a", "b"} {
			if b, err := os.ReadFile(filepath.Join(m.dir, name)); err != nil || string(b) != fmt.Sprint(name, i) {
				t.Errorf("mount %d: %s has %q (%v)", i, name, b, err)
			}
		}
	}
	for _, m := range mounts {
		m.umount(t)
		m.quiet(t)
		sound(t, m.image)
	}
}

// An image that is mounted is not mounted again, by e4go or the kernel's loop device, and the error says
// who has it.
func TestMountedTwice(t *testing.T) {
	image := makeImage(t, kinds[0].args, "16M")
	m := serve(t, image)
	link := filepath.Join(t.TempDir(), "another name")
	if err := os.Link(image, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{image, link} {
		for _, mode := range []string{"rw", "ro"} {
			out, err := role(t, "e4go", "mount", "-o", mode, name, t.TempDir()).CombinedOutput()
			if err == nil {
				t.Errorf("mounted %s a second time, %s", name, mode)
				continue
			}
			if !strings.Contains(string(out), "in use") || !strings.Contains(string(out), strconv.Itoa(m.cmd.Process.Pid)) && !strings.Contains(string(out), "/dev/loop") {
				t.Errorf("%s: the error names neither process %d nor a loop device: %s", mode, m.cmd.Process.Pid, out)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "f"), []byte("still there"), 0o644); err != nil {
		t.Error(err)
	}
	m.umount(t)
	sound(t, image)
}

// Mounting and unmounting leaves nothing: no process, descriptor, loop device or mount, and a
// server no more memory at the end than at first. Each second time what e4go umount does is done.
func TestMountOften(t *testing.T) {
	fixtures.Need(t, "root", "fuse")
	n := long(t, "E4GO_MOUNT_OFTEN", 20)
	image := makeImage(t, kinds[0].args, "16M")
	m := serve(t, image) // makes what is made once
	m.umount(t)
	before := left(t, m.dir)
	var first, last int
	for i := range n {
		m.start(t)
		name := filepath.Join(m.dir, "count")
		b, err := os.ReadFile(name)
		if i > 0 && (err != nil || string(b) != fmt.Sprint(i-1)) {
			t.Fatalf("mount %d: count is %q (%v)", i, b, err)
		}
		if err := os.WriteFile(name, fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		last = resident(t, m.cmd.Process.Pid, "VmRSS:")
		if i == 0 {
			first = last
		}
		if i%2 == 0 {
			m.umount(t)
			continue
		}
		if out, err := role(t, "e4go", "umount", m.dir).CombinedOutput(); err != nil {
			t.Fatalf("e4go umount: %v: %s", err, out)
		}
		m.gone = true
		if err := <-m.done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if i%50 == 1 {
			sound(t, image)
		}
	}
	sound(t, image)
	if after := left(t, m.dir); after != before {
		t.Errorf("after %d mounts there is\n%s\nand before there was\n%s", n, after, before)
	}
	if last > first+16<<10 {
		t.Errorf("the first server had %d KiB, the last %d", first, last)
	}
}

// A server has 150 MiB beside its caches at most, while many files are made, listed and deleted, and a large one is written
// and read.
func TestMemory(t *testing.T) {
	files, mib := long(t, "E4GO_MEMORY_FILES", 10_000), long(t, "E4GO_MEMORY_MIB", 128)
	const cache, most = 64, 64 + 150 // MiB: the default of cache_size
	image := makeImage(t, fmt.Sprintf("-t ext4 -N %d", files+1000), fmt.Sprintf("%dM", 256+files/1000+mib*5/4))
	m := serve(t, image, fmt.Sprintf("cache_size=%dm", cache))
	check := func(what string) {
		t.Helper()
		got := resident(t, m.cmd.Process.Pid, "VmHWM:") >> 10
		if t.Logf("%s: %d MiB", what, got); got > most {
			t.Errorf("%s: the server had %d MiB, want %d at most", what, got, most)
		}
	}
	const perDir = 5000
	for i := range files {
		dir := filepath.Join(m.dir, fmt.Sprint("dir", i/perDir))
		if i%perDir == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("file", i)))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	check("made")
	run := func(line, when string) {
		t.Helper()
		if said, err := users[0].run("cd " + m.dir + " && " + line); err != nil {
			t.Errorf("%s: %v: %s", line, err, said)
		}
		check(line + when)
	}
	for _, line := range []string{
		"dd if=/dev/zero of=big bs=1M status=none count=" + strconv.Itoa(mib), "sync -d big && dd if=big of=big oflag=nocache conv=notrunc,fdatasync count=0 status=none",
		"cat big >/dev/null", "find . -size +1M",
	} {
		run(line, "")
	}
	m.umount(t)
	m.start(t, fmt.Sprintf("cache_size=%dm", cache))
	run("find . -size +1M", ", mounted anew")
	run("rm -r dir*", ", mounted anew")
	m.umount(t)
	sound(t, image)
}

// left is what is there of us: processes, our own descriptors, loop devices of our images, mounts at dir.
func left(t *testing.T, dir string) string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	loops := 0
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range backing {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "TestMountOften") {
			loops++
		}
	}
	out, _ := exec.Command("pgrep", "-c", "-f", program(t)).Output()
	return fmt.Sprintf("%d descriptors, %d mounts, %d loop devices, %s processes", len(fds),
		strings.Count(string(mounts), dir), loops, strings.TrimSpace(string(out)))
}

// resident is the resident set of a process, in KiB.
// resident is the memory of a process in KiB, now (VmRSS) or at most until now (VmHWM).
func resident(t *testing.T, pid int, which string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), which)
	f := strings.Fields(rest)
	n, err := strconv.Atoi(f[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

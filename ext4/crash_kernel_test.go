package ext4

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/fixtures"
)

// saveImage writes a device to a file.
func saveImage(t testing.TB, dev blockdev.Device, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	zeros := make([]byte, len(buf))
	for off := int64(0); off < dev.Size(); off += int64(len(buf)) {
		n, _ := dev.ReadAt(buf, off)
		if string(buf[:n]) == string(zeros[:n]) {
			continue
		}
		if _, err := f.WriteAt(buf[:n], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(dev.Size()); err != nil {
		t.Fatal(err)
	}
}

// orphanBlock is what e2fsck 1.47.0 says when it has dealt with an orphan of the
// orphan file: it leaves the file as it was. It says so of the kernel's images, too.
var orphanBlock = regexp.MustCompile(`(?m)^Orphan file \(inode \d+\) block \d+ is not clean\.\nClear\? yes\n`)

// onlyReplayed returns the lines of what e2fsck -fy printed that tell of more
// than the replay of the journal and the orphans. That the orphan file may be in use
// is what a file system says while it is mounted, the kernel's too.
func onlyReplayed(out string) string {
	var more []string
	out = strings.ReplaceAll(out, "Feature orphan_present is set but orphan file is clean.\nClear? yes\n", "")
	if strings.Contains(out, " orphaned inode ") {
		out = orphanBlock.ReplaceAllString(out, "")
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		expected := line == ""
		for _, ok := range []string{"e2fsck ", "Pass ", "Clearing orphaned inode", "Truncating orphaned inode", "/", "***** FILE SYSTEM WAS MODIFIED", "Setting free "} {
			expected = expected || strings.HasPrefix(line, ok)
		}
		if !expected && !strings.HasSuffix(line, "recovering journal") {
			more = append(more, line)
		}
	}
	return strings.Join(more, "\n")
}

// After a sample of power cuts e2fsck finds nothing to repair but what the
// journal and the orphans tell it, and the kernel mounts what it finds, which is one of
// the trees that it may be.
func TestCrashOutside(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	total, seed := crashStates(t, 12)
	images := crashImages()
	total = max(total/1000, min(total, len(images)))
	dir := t.TempDir()
	for _, ci := range images {
		t.Run(ci.name, func(t *testing.T) {
			if ci.kernel {
				fixtures.Need(t, "root", "loop", "mount")
			}
			base := ci.make(t)
			done := 0
			for s := seed; done < total/len(images); s++ {
				rng := rand.New(rand.NewPCG(s, 3))
				r := ci.record(t, base, s, 12)
				at := rng.IntN(len(r.rec.Log()) + 1)
				m, what := r.cutAt(t, base, at, rng)
				done++
				r.askOutside(t, ci, m, at, what, filepath.Join(dir, fmt.Sprintf("%d.img", s)))
			}
		})
	}
}

// cutAt is the device after a power cut at one place.
func (r *crashRun) cutAt(t testing.TB, base *blockdev.Mem, at int, rng *rand.Rand) (*blockdev.Mem, string) {
	t.Helper()
	m := base.Clone()
	super := readSuperBytes(m)
	var pending []blockdev.Event
	for _, e := range r.rec.Log()[:at] {
		switch e.Kind {
		case blockdev.EventWrite:
			m.WriteAt(e.Data, e.Off)
			pending = append(pending, e)
		case blockdev.EventFlush:
			m.Flush()
			super, pending = readSuperBytes(m), nil
		case blockdev.EventDiscard:
			m.Discard(e.Off, e.N)
			pending = append(pending, e)
		}
	}
	return cutPower(m, super, pending, rng), "cut"
}

func (r *crashRun) askOutside(t testing.TB, ci crashImage, m *blockdev.Mem, at int, what, file string) {
	t.Helper()
	first, last := r.bounds(at)
	bad := func(stage string, err any) {
		t.Helper()
		t.Fatalf("%s: after event %d of %d (%s): %s: %v\nstates %d to %d of %q", ci.name, at, len(r.rec.Log()), what, stage, err, first, last, r.log)
	}
	defer os.Remove(file)
	same := func(stage string) {
		t.Helper()
		dev, err := blockdev.Open(file, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		fs, err := Open(dev, Options{})
		if err != nil {
			bad(stage, err)
		}
		defer fs.Close()
		found, err := readTree(fs)
		if err != nil {
			bad(stage, err)
		}
		if err := findState(r.states[:last+1], first, found, int64(fs.sb.BlockSize())); err != nil {
			bad(stage, err)
		}
	}
	saveImage(t, m, file)
	out, err := exec.Command("e2fsck", "-fy", file).CombinedOutput()
	if more := onlyReplayed(string(out)); more != "" {
		bad("e2fsck -fy", fmt.Sprintf("%v: %s", err, out))
	}
	same("the tree that e2fsck leaves")
	if status, out := fixtures.E2fsck(t, file); status != 0 {
		bad("e2fsck -fn after -fy", out)
	}
	if !ci.kernel {
		return
	}
	saveImage(t, m, file)
	// Some kernels write inline data in ordered mode where they must not.
	_, umount := fixtures.MountKernelWrite(t, file, "data=writeback")
	umount()
	same("the tree that the kernel leaves")
	if status, out := fixtures.E2fsck(t, file); status != 0 {
		bad("e2fsck -fn after the kernel's mount", out)
	}
}

// Without a journal a power cut leaves what e2fsck repairs, and what is not
// opened for writing before.
func TestCrashNoJournal(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	base := noJournal.make(t)
	dir := t.TempDir()
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 5))
		r := noJournal.record(t, base, seed, 15)
		// The first event marks the file system as in use, the second makes that durable.
		m, _ := r.cutAt(t, base, 2+rng.IntN(len(r.rec.Log())-3), rng)
		if _, err := crashOpen(m); !errors.As(err, new(*UnsupportedError)) {
			t.Fatalf("seed %d: opened for writing: %v", seed, err)
		}
		file := filepath.Join(dir, "img")
		saveImage(t, m, file)
		out, err := exec.Command("e2fsck", "-fy", file).CombinedOutput()
		if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
			t.Fatalf("seed %d: e2fsck -fy: %v: %s", seed, err, out)
		}
		if status, out := fixtures.E2fsck(t, file); status != 0 {
			t.Fatalf("seed %d: e2fsck -fn after -fy: %d: %s", seed, status, out)
		}
		dev, err := blockdev.Open(file, blockdev.Options{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		fs, err := crashOpen(dev)
		if err != nil {
			t.Fatalf("seed %d: open after the repair: %v", seed, err)
		}
		if err := fs.Close(); err != nil {
			t.Fatal(err)
		}
		dev.Close()
	}
}

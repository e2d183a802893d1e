package ext4

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// stateOf makes a state of a tree that was found.
func stateOf(found map[string]foundNode) *modelState {
	s := &modelState{names: map[string]int{}, nodes: map[int]*modelNode{}}
	for p, f := range found {
		s.names[p] = f.id
		s.nodes[f.id] = &f.modelNode
	}
	return s
}

// An image goes from e4go to the kernel and back, again and again, each time
// left as by one that was killed: e4go without a Close, the kernel by a copy of
// the image while it is mounted. Each finds what the other left.
func TestHandOver(t *testing.T) {
	fixtures.Need(t, "root", "loop", "mount", "e2fsck")
	rounds := 2
	if os.Getenv("E4GO_CRASH_STATES") != "" {
		rounds = 20
	}
	for _, ci := range []crashImage{crashImages()[0], crashImages()[1], crashImages()[6]} {
		t.Run(ci.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "0.img")
			saveImage(t, ci.make(t), file)
			for i := range rounds {
				rng := rand.New(rand.NewPCG(uint64(i), 4))
				ci.e4goTurn(t, file, rng)
				next := filepath.Join(dir, fmt.Sprintf("%d.img", i+1))
				kernelTurn(t, file, next, rng)
				os.Remove(file)
				file = next
			}
		})
	}
}

// e4goTurn opens an image, changes it, and is killed or closes. What the next
// finds is one of the states that it may.
func (ci crashImage) e4goTurn(t *testing.T, file string, rng *rand.Rand) {
	t.Helper()
	dev, err := blockdev.Open(file, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r := &crashRun{t: t, ci: ci, rec: blockdev.NewRecord(dev), rng: rng, began: []int{0}, nextID: 1 << 20}
	if r.fs, err = crashOpen(r.rec); err != nil {
		t.Fatal(err)
	}
	found, err := readTree(r.fs)
	if err != nil {
		t.Fatal(err)
	}
	r.states = []*modelState{stateOf(found)}
	for range 25 {
		r.random()
	}
	if rng.IntN(3) == 0 {
		if err := r.fs.Close(); err != nil {
			t.Fatal(err)
		}
		r.marks = append(r.marks, crashMark{len(r.rec.Log()), len(r.states) - 1})
	} else {
		r.fs.abandon()
	}
	ro, err := Open(dev, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if found, err = readTree(ro); err != nil {
		t.Fatal(err)
	}
	first, _ := r.bounds(len(r.rec.Log()))
	if err := findState(r.states, first, found, int64(ro.sb.BlockSize())); err != nil {
		t.Fatalf("after e4go was killed: %v\nafter %q", err, r.log)
	}
}

// kernelTurn mounts an image, changes it, and copies it to next while it is
// mounted.
func kernelTurn(t *testing.T, file, next string, rng *rand.Rand) {
	t.Helper()
	mnt, umount := fixtures.MountKernelWrite(t, file, "data=writeback")
	defer umount()
	for i := range 6 {
		p := filepath.Join(mnt, fmt.Sprintf("kernel-%d", rng.IntN(5)))
		var err error
		switch {
		case i%3 == 2:
			if err = os.Remove(p); os.IsNotExist(err) {
				err = nil
			}
		default:
			err = os.WriteFile(p, bytes.Repeat([]byte{byte(i + 1)}, rng.IntN(60_000)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Syncfs(int(d.Fd()))
	d.Close()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, file, next)
	want, err := fixtures.DumpTree(mnt, fixtures.Options{Contents: true, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	umount()
	if status, out := fixtures.E2fsck(t, file); status != 0 {
		t.Fatalf("e2fsck -fn after the kernel: %d: %s", status, out)
	}
	dev, err := blockdev.Open(next, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	fs, err := crashOpen(dev)
	if err != nil {
		t.Fatal(err)
	}
	if info := fs.Journal(); info == nil || !info.Unclean {
		t.Errorf("the copy of a mounted image has a clean journal")
	}
	found, err := readTree(fs)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, w := range want {
		if w.Path == "/lost+found" {
			continue
		}
		seen++
		f, ok := found[w.Path]
		if !ok || uint32(f.mode) != w.Mode || f.mode.Type() != disk.ModeDir && f.links != int(w.Nlink) || f.mode.Type() == disk.ModeReg && (int64(len(f.data)) != w.Size || sum(t, f.data) != w.SHA256) {
			t.Fatalf("%s: e4go has mode %#o, %d links, %d bytes; the kernel %+v", w.Path, f.mode, f.links, len(f.data), w)
		}
	}
	if seen != len(found) {
		t.Errorf("e4go sees %d files, the kernel %d", len(found), seen)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if status, out := fixtures.E2fsck(t, next); status != 0 {
		t.Fatalf("e2fsck -fn after e4go: %d: %s", status, out)
	}
}

func sum(t *testing.T, data []byte) string {
	t.Helper()
	s, err := fixtures.Sum(bytes.NewReader(data), int64(len(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// A power cut while the fast commits of the kernel are replayed leaves what
// can be replayed again: names, links, contents and counts are the same.
func TestFastCommitTwice(t *testing.T) {
	for _, name := range []string{"fast-commit", "fast-commit-1k", "fast-commit-nocsum", "fast-commit-mixed"} {
		t.Run(name, func(t *testing.T) {
			image, _ := fixtures.Find(t, name).Open(t)
			raw, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			base := blockdev.NewMem(int64(len(raw)))
			for off := 0; off < len(raw); off += 1 << 16 {
				if part := raw[off:min(off+1<<16, len(raw))]; len(bytes.Trim(part, "\x00")) > 0 {
					base.WriteAt(part, int64(off))
				}
			}
			base.Flush()
			rec := blockdev.NewRecord(base.Clone())
			fs, err := crashOpen(rec)
			if err != nil {
				t.Fatal(err)
			}
			want, err := readTree(fs)
			if err != nil {
				t.Fatal(err)
			}
			if s := fs.Journal().Recovered; s == nil || s.FastCommit.Records == 0 {
				t.Fatalf("nothing was replayed: %+v", s)
			}
			if err := fs.Close(); err != nil {
				t.Fatal(err)
			}
			cuts := 3
			if os.Getenv("E4GO_CRASH_STATES") != "" {
				cuts = 50
			}
			rng := rand.New(rand.NewPCG(3, 3))
			m := base.Clone()
			super, pending := readSuperBytes(m), []blockdev.Event(nil)
			for at, e := range rec.Log() {
				switch e.Kind {
				case blockdev.EventWrite:
					m.WriteAt(e.Data, e.Off)
					pending = append(pending, e)
				case blockdev.EventFlush:
					m.Flush()
					super, pending = readSuperBytes(m), nil
				}
				for range cuts {
					again := cutPower(m, super, pending, rng)
					fs, err := crashOpen(again)
					if err != nil {
						t.Fatalf("event %d of %d: %v", at, len(rec.Log()), err)
					}
					got, err := readTree(fs)
					if err == nil {
						err = sameTree(got, want, want)
					}
					if err == nil {
						err = fs.Close()
					}
					if err == nil {
						err = judge(again, false)
					}
					if err != nil {
						t.Fatalf("event %d of %d: %v", at, len(rec.Log()), err)
					}
				}
			}
		})
	}
}

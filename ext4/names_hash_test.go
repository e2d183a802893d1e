package ext4_test

import (
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// sameHash are names of one legacy hash: four of them fill a block of 1 KiB.
func sameHash() (names []string) {
	for _, end := range strings.Fields("cJAt5y d7KIuf jtVx3B l4RSmA ndxpbM tEt6p1 uNSZkK u40GzS v3nyh4 wF0Syn wIx2L4 wUQG3F TKmPrX UcWjzn UE4FQ5 0zzrQy 3KwxJM") {
		names = append(names, strings.Repeat("a", 190)+end)
	}
	return names
}

// More names of one hash than a leaf of the index holds go on in the next, and the next: all are found
// and listed once, from any cookie, by us and by the kernel, which add and remove in turns.
func TestNamesOfOneHash(t *testing.T) {
	fixtures.Need(t, "debugfs", "root", "loop")
	file := makeImage(t, "16M", "-b", "1024")
	if out, err := exec.Command("debugfs", "-w", "-R", "ssv def_hash_version legacy", file).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %s", out)
	}
	same := sameHash()
	for _, name := range same {
		hash, _, _ := disk.NameHash(disk.HashLegacy, [4]uint32{}, []byte(name))
		first, _, _ := disk.NameHash(disk.HashLegacy, [4]uint32{}, []byte(same[0]))
		if hash != first {
			t.Fatalf("%q has hash %#x, want %#x", name, hash, first)
		}
	}
	there := map[string]bool{}
	change := func(n namer, names []string, add bool) {
		t.Helper()
		for _, name := range names {
			err := error(nil)
			if add {
				err = n.create("d/"+name, unix.S_IFREG|0o644)
			} else {
				err = n.unlink("d/" + name)
			}
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if there[name] = add; !add {
				delete(there, name)
			}
		}
	}
	check := func() {
		t.Helper()
		checkImage(t, file)
		if tree := checkTree(t, file, true); len(tree) != len(there)+3 {
			t.Errorf("the tree has %d entries, want %d", len(tree), len(there)+3)
		}
		fs, done := openWrite(t, file)
		defer done()
		d, err := fs.Resolve("d", true)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for cookie := uint64(0); ; {
			l, err := fs.OpenDir(d)
			if err != nil {
				t.Fatal(err)
			}
			l.Seek(cookie)
			e, err := l.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			cookie = e.Cookie
			seen[e.Name]++
		}
		for _, name := range same {
			_, err := fs.Lookup(d, name)
			if there[name] != (err == nil) || there[name] != (seen[name] == 1) || seen[name] > 1 {
				t.Errorf("%q is there: %t; look-up says %v, and it is listed %d times", name, there[name], err, seen[name])
			}
		}
	}
	var others []string
	for i := range 60 {
		others = append(others, fmt.Sprintf("%0100d", i))
	}
	ours1 := func(do func(o ours)) {
		fs, done := openWrite(t, file)
		do(ours{fs, ext4.Root})
		done()
	}
	ours1(func(o ours) {
		if err := o.mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		change(o, others[:30], true)
		change(o, same[:11], true)
	})
	check()
	kernelDoes := func(do func(k kernel)) {
		root, unmount := fixtures.MountKernelWrite(t, file)
		do(kernel{root})
		unmount()
	}
	kernelDoes(func(k kernel) {
		change(k, same[11:], true)
		change(k, []string{same[1], same[5], same[9]}, false)
		change(k, others[30:], true)
	})
	check()
	ours1(func(o ours) {
		change(o, []string{same[9], same[1]}, true)
		change(o, others[10:50], false)
		change(o, slices.Concat(same[2:5], same[6:8]), false)
	})
	check()
	kernelDoes(func(k kernel) { change(k, same[2:5], true) })
	ours1(func(o ours) {
		change(o, same[5:8], true)
		change(o, others[10:50], true)
	})
	check()
}

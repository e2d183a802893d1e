package mounttest

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// TestModel has many processes do random things at once, each in a directory of its
// own and in one that all share, and compares what they see with a model, and the whole
// tree, also as the kernel's ext4 sees it when it is unmounted.
//
// E4GO_MODEL_STEPS=n does n ops in each process, E4GO_MODEL_SEED=n begins with that seed,
// E4GO_MODEL_PROCESSES=n takes so many processes.
func TestModel(t *testing.T) {
	all := append([]kind{
		{name: "inline", args: "-t ext4 -O inline_data -I 256"},
		{name: "inline-writeback", args: "-t ext4 -O inline_data -I 256", mount: "writeback_cache"},
	}, kinds...)
	steps, processes := long(t, "E4GO_MODEL_STEPS", 400), long(t, "E4GO_MODEL_PROCESSES", 6)
	seed := uint64(long(t, "E4GO_MODEL_SEED", 1))
	for _, k := range all {
		if testing.Short() && k.name != "inline" && k.name != "1k-writeback" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			image := makeImage(t, k.args, "512M")
			m := serve(t, image, k.mount)
			if err := os.Mkdir(filepath.Join(m.dir, "shared"), 0o755); err != nil {
				t.Fatal(err)
			}
			models := make([]*model, processes)
			var wg sync.WaitGroup
			for i := range models {
				own := fmt.Sprint("w", i)
				w := employ(t, users[0], m.dir)
				models[i] = newModel()
				models[i].add(models[i].root, "shared", unix.S_IFDIR|0o777)
				wg.Go(func() { modelProcess(t, k, w, models[i], own, seed*1000+uint64(i), steps) })
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			want := map[string]string{}
			for _, mo := range models {
				mo.entries("/", mo.root, want)
			}
			delete(want, "/") // which nobody alone has changed
			delete(want, "/shared")
			compareModel(t, "through the mount", want, m.dir)
			m.umount(t)
			m.quiet(t)
			sound(t, image)
			if !t.Failed() {
				compareModel(t, "through the kernel's mount", want, fixtures.MountKernel(t, image))
			}
		})
	}
}

// modelProcess does steps ops in own and in shared, with names of its own.
func modelProcess(t *testing.T, k kind, w *process, m *model, own string, seed uint64, steps int) {
	g := newGenerator(seed, []string{own, own + "/d0", own + "/d1", own + "/d0/s"})
	g.made = 0
	g.shared = "shared"
	for i := range g.names {
		g.names[i] = own + "-" + g.names[i]
	}
	g.blocks = k.name == "ext3"
	var history []string
	for n := range steps {
		o := g.next()
		o.Bare = true
		o.Mode &^= unix.S_ISVTX             // what may be opened and followed there is a matter of sysctls
		if o.Do == "symlink" && o.Q != "" { // in the shared directory, too, a link leads to nobody else's
			o.Q = own + "-" + o.Q
		}
		if m.skips(o) {
			continue
		}
		for _, o := range append([]op{o}, looks(o)...) {
			got, err := w.do(o)
			if err != nil {
				t.Error(err)
				return
			}
			if got.Errno == unix.ENOSPC && m.mayLack(o) {
				break
			}
			var want result
			if want.Out, err = m.do(o); err != nil {
				want.Errno = err.(unix.Errno)
			}
			history = append(history, fmt.Sprintf("%d: %v: %v", n, o, got))
			if got != want {
				t.Errorf("%s, op %d: %v: got %v, want %v; before:\n%s", own, n, o, got, want, strings.Join(history[max(0, len(history)-12):], "\n"))
				return
			}
		}
	}
	w.stop()
}

// looks are ops that look at what o was about.
func looks(o op) (out []op) {
	for _, p := range []string{o.P, o.Q} {
		if p != "" && (o.Do != "symlink" || p != o.Q) {
			out = append(out, op{Do: "stat", P: p, Bare: true}, op{Do: "readlink", P: p, Bare: true})
		}
	}
	if o.P == "" && o.Do != "umask" {
		out = append(out, op{Do: "fstat", Slot: o.Slot, Bare: true}, op{Do: "pread", Slot: o.Slot, N: 1 << 19, Bare: true})
	}
	return out
}

// compareModel compares the tree below root with what models say.
func compareModel(t *testing.T, where string, want map[string]string, root string) {
	t.Helper()
	left := len(want)
	bad := 0
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := path.Join("/", strings.TrimPrefix(p, root))
		if at == "/" || at == "/shared" || at == "/lost+found" {
			if at == "/lost+found" {
				return filepath.SkipDir
			}
			return nil
		}
		got, err := describeFile(p)
		if err != nil {
			return err
		}
		if w, ok := want[at]; !ok || w != got {
			if bad++; bad < 20 {
				t.Errorf("%s, %s is\n%s, want\n%s", where, at, got, w)
			}
			return nil
		}
		left--
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if left != 0 {
		t.Errorf("%s, %d of %d files are not as they should be, or are not there", where, left, len(want))
	}
}

func describeFile(p string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return "", err
	}
	var data []byte
	target := ""
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err = os.ReadFile(p)
	case unix.S_IFLNK:
		target, err = os.Readlink(p)
	}
	if err != nil {
		return "", err
	}
	xattrs := map[string][]byte{}
	b := make([]byte, 1<<16)
	n, err := unix.Llistxattr(p, b)
	if err != nil {
		return "", err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v := make([]byte, 1<<16)
		k, err := unix.Lgetxattr(p, name, v)
		if err != nil {
			return "", fmt.Errorf("%s of %s: %w", name, p, err)
		}
		xattrs[name] = v[:k]
	}
	return describe(statText(&st), target, data, xattrs), nil
}

package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// TestUnlinkedOpen holds that a file without a name is there as long as
// somebody has it open, and gone with all its blocks afterwards: also after Close.
func TestUnlinkedOpen(t *testing.T) {
	for _, features := range []string{"orphan_file", "^orphan_file"} {
		t.Run(features, func(t *testing.T) {
			file := makeImage(t, "16M", "-O", features)
			fs, done := openWrite(t, file)
			ctx, o := t.Context(), ours{fs, ext4.Root}
			before, err := fs.Statfs()
			if err != nil {
				t.Fatal(err)
			}
			var open []disk.Ino
			for i := range 20 {
				name := fmt.Sprintf("f%d", i)
				in, err := fs.Create(ctx, ext4.Root, disk.RootIno, name, disk.ModeReg|0o600)
				if err != nil {
					t.Fatal(err)
				}
				if err := fs.Open(in.Ino()); err != nil {
					t.Fatal(err)
				}
				if err := o.unlink(name); err != nil {
					t.Fatal(err)
				}
				data := bytes.Repeat([]byte{byte(i + 1)}, 50000)
				if _, err := fs.WriteAt(ctx, ext4.Root, in.Ino(), data, 0); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(data))
				if _, err := in.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("read an unlinked file: %v", err)
				}
				if st := in.Stat(); st.Nlink != 0 {
					t.Errorf("an unlinked file has %d links", st.Nlink)
				}
				if err := fs.Link(ctx, ext4.Root, in.Ino(), disk.RootIno, "back"); !errors.Is(err, unix.ENOENT) {
					t.Errorf("link of an unlinked file: got %v, want ENOENT", err)
				}
				open = append(open, in.Ino())
			}
			for _, ino := range open[:10] {
				if err := fs.Release(ctx, ino); err != nil {
					t.Fatal(err)
				}
				if err := fs.Open(ino); !errors.Is(err, unix.ESTALE) {
					t.Errorf("open a deleted inode: got %v, want ESTALE", err)
				}
			}
			done() // with ten of them open
			checkImage(t, file)
			fs, done = openWrite(t, file)
			defer done()
			if after, err := fs.Statfs(); err != nil || after.Free != before.Free || after.FreeFiles != before.FreeFiles {
				t.Errorf("free %d blocks and %d inodes, want %d and %d (%v)", after.Free, after.FreeFiles, before.Free, before.FreeFiles, err)
			}
		})
	}
}

// TestTmpfile holds that a file made without a name can get one, and goes if it does not.
func TestTmpfile(t *testing.T) {
	file := makeImage(t, "16M")
	fs, done := openWrite(t, file)
	ctx := t.Context()
	var inos []disk.Ino
	for range 3 {
		in, err := fs.Tmpfile(ctx, ext4.Root, disk.RootIno, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		if in.Stat().Nlink != 0 {
			t.Errorf("a new file without a name has %d links", in.Stat().Nlink)
		}
		if _, err := fs.WriteAt(ctx, ext4.Root, in.Ino(), []byte("contents"), 0); err != nil {
			t.Fatal(err)
		}
		inos = append(inos, in.Ino())
	}
	for _, name := range []string{"named", "twice"} {
		if err := fs.Link(ctx, ext4.Root, inos[0], disk.RootIno, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, ino := range inos[:2] {
		if err := fs.Release(ctx, ino); err != nil {
			t.Fatal(err)
		}
	}
	done()
	checkImage(t, file)
	tree := checkTree(t, file, true)
	if len(tree) != 4 || tree[2].Path != "/named" || tree[2].Nlink != 2 || tree[2].Size != 8 {
		t.Errorf("the tree is %+v", tree)
	}
}

// TestLinkLimits holds that links are counted as the kernel counts them where
// they are at their most.
func TestLinkLimits(t *testing.T) {
	for _, tt := range []struct {
		features string
		want     error // of one more subdirectory, and that of an indexed directory
		indexed  error
	}{{"dir_nlink", unix.EMLINK, nil}, {"^dir_nlink", unix.EMLINK, unix.EMLINK}} {
		t.Run(tt.features, func(t *testing.T) {
			file := makeImage(t, "16M", "-b", "1024", "-O", tt.features)
			fs, done := openWrite(t, file)
			o := ours{fs, ext4.Root}
			for _, err := range []error{o.mkdir("d", 0o755), o.mkdir("x", 0o755), o.mkdir("sub", 0o755), o.create("f", unix.S_IFREG)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for i := range 100 {
				if err := o.create(fmt.Sprintf("x/%d", i), unix.S_IFREG); err != nil {
					t.Fatal(err)
				}
			}
			done()
			for _, name := range []string{"d", "x", "f"} {
				if out, err := exec.Command("debugfs", "-w", "-R", "sif "+name+" links_count 65000", file).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			fs, done = openWrite(t, file)
			defer done()
			o = ours{fs, ext4.Root}
			if err := o.link("f", "f2"); errnoOf(err) != unix.EMLINK {
				t.Errorf("link: got %v, want EMLINK", err)
			}
			if err := o.mkdir("d/new", 0o755); !errors.Is(err, tt.want) {
				t.Errorf("mkdir: got %v, want %v", err, tt.want)
			}
			if err := o.rename("sub", "d/sub", 0); !errors.Is(err, tt.want) {
				t.Errorf("rename: got %v, want %v", err, tt.want)
			}
			if err := o.create("d/file", unix.S_IFREG); err != nil {
				t.Errorf("create: %v", err)
			}
			if err := o.rename("sub", "d/file", unix.RENAME_EXCHANGE); !errors.Is(err, tt.want) {
				t.Errorf("exchange: got %v, want %v", err, tt.want)
			}
			err := o.mkdir("x/new", 0o755)
			if !errors.Is(err, tt.indexed) {
				t.Fatalf("mkdir in an indexed directory: got %v, want %v", err, tt.indexed)
			}
			if err != nil {
				return
			}
			for range 2 {
				if _, n, _, err := o.stat("x"); n != 1 || err != nil {
					t.Errorf("a directory of more than 65000 links says %d (%v), want 1", n, err)
				}
				if err := o.mkdir("x/another", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := o.rmdir("x/another"); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestIndexGrows fills the index of a directory of 1 KiB blocks until it has
// all its levels, and without large_dir until it takes no more.
func TestIndexGrows(t *testing.T) {
	pad := strings.Repeat("n", 240) // three names a leaf
	for _, tt := range []struct {
		features string
		levels   uint8
		full     bool
	}{{"^large_dir", 1, true}, {"large_dir", 2, false}} {
		t.Run(tt.features, func(t *testing.T) {
			t.Parallel()
			file := makeImage(t, "64M", "-b", "1024", "-N", "1000", "-O", tt.features)
			fs, done := openWrite(t, file)
			in, err := fs.Create(t.Context(), ext4.Root, disk.RootIno, "f", disk.ModeReg|0o644)
			if err != nil {
				t.Fatal(err)
			}
			dirs := []*ext4.Inode{}
			for _, name := range []string{"d", "e"} {
				dir, err := fs.Mkdir(t.Context(), ext4.Root, disk.RootIno, name, 0o755)
				if err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, dir)
			}
			made := 0
			for ; made < 40000; made++ {
				if err = fs.Link(t.Context(), ext4.Root, in.Ino(), dirs[0].Ino(), fmt.Sprintf("%s%06d", pad, made)); err != nil {
					break
				}
			}
			if tt.full != errors.Is(err, unix.ENOSPC) || !tt.full && err != nil {
				t.Fatalf("after %d names: %v", made, err)
			}
			if made < 15000 {
				t.Errorf("the index was full at %d names", made)
			}
			if err := fs.Link(t.Context(), ext4.Root, in.Ino(), dirs[1].Ino(), "elsewhere"); err != nil {
				t.Errorf("another directory: %v", err)
			}
			for i := range made {
				if _, err := fs.LookupIno(dirs[0], fmt.Sprintf("%s%06d", pad, i)); err != nil {
					t.Fatal(i, err)
				}
			}
			if got := in.Stat().Nlink; int(got) != made+2 {
				t.Errorf("%d links, want %d", got, made+2)
			}
			done()
			checkImage(t, file)
			out, err := exec.Command("debugfs", "-R", "htree_dump d", file).Output()
			if want := fmt.Sprintf("Indirect levels: %d", tt.levels); err != nil || !strings.Contains(string(out), want) {
				t.Errorf("htree_dump does not say %q: %v\n%.300s", want, err, out)
			}
		})
	}
}

// TestReadersWhileNamesChange lists, looks up and stats while another changes
// names: what is there all the time must always be found, and once.
func TestReadersWhileNamesChange(t *testing.T) {
	for _, kind := range nameKinds {
		switch kind.name {
		case "4k", "1k", "no-index", "inline", "casefold":
		default:
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			file := makeImage(t, "32M", append([]string{"-N", "4000"}, kind.args...)...)
			fs, done := openWrite(t, file)
			defer checkImage(t, file)
			defer done()
			dir, err := fs.Mkdir(t.Context(), ext4.Root, disk.RootIno, "d", 0o755)
			if err != nil {
				t.Fatal(err)
			}
			o := ours{fs, ext4.Root}
			const stay = 3 // few, so that they are there before the directory grows out of the inode
			for i := range stay {
				if err := o.create(fmt.Sprintf("d/s%d", i), unix.S_IFREG|0o644); err != nil {
					t.Fatal(err)
				}
			}
			var stop atomic.Bool
			var wg sync.WaitGroup
			var rounds atomic.Int64
			for r := range 3 {
				wg.Go(func() {
					for ; !stop.Load(); rounds.Add(1) {
						if err := readAll(fs, dir, stay, r); err != nil {
							t.Errorf("reader %d: %v", r, err)
							return
						}
					}
				})
			}
			const n = 300
			for round := 0; (round < 3 || rounds.Load() < 10) && !t.Failed(); round++ {
				for i := range n {
					if err := o.create(fmt.Sprintf("d/n%d", i), unix.S_IFREG|0o644); err != nil {
						t.Error(err)
						break
					}
					if i%3 == 0 {
						if err := o.rename(fmt.Sprintf("d/n%d", i), fmt.Sprintf("d/n%d", i+n), 0); err != nil {
							t.Error(err)
						}
					}
				}
				for i := range n {
					if i%3 == 0 {
						i += n
					}
					if err := o.unlink(fmt.Sprintf("d/n%d", i)); err != nil {
						t.Error(err)
						break
					}
				}
			}
			stop.Store(true)
			wg.Wait()
			if rounds.Load() == 0 {
				t.Error("no reader came through")
			}
		})
	}
}

// readAll reads directory dir in one way or another, and says what is wrong
// with the files that stay.
func readAll(fs *ext4.FS, dir *ext4.Inode, stay, way int) error {
	for i := range stay {
		in, err := fs.Lookup(dir, fmt.Sprintf("s%d", i))
		if err != nil {
			return err
		}
		if st := in.Stat(); st.Nlink != 1 {
			return fmt.Errorf("s%d has %d links", i, st.Nlink)
		}
	}
	if _, err := fs.Lookup(dir, "n1"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	seen := map[string]int{}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	for {
		e, err := d.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		seen[e.Name]++
		if way == 1 { // as a server does between two calls
			if d, err = fs.OpenDir(dir); err != nil {
				return err
			}
			d.Seek(e.Cookie)
		}
	}
	for i := range stay {
		if n := seen[fmt.Sprintf("s%d", i)]; n != 1 {
			return fmt.Errorf("s%d was listed %d times among %d", i, n, len(seen))
		}
	}
	return nil
}

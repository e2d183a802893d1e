package mkfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// Layers and what they make together, in words: "d/" is a directory, "f=1" a
// file, "l->f" a symbolic link, "h==f" a hard link, "p|" a FIFO, and anything
// else an empty file.
var ociTests = []struct {
	name   string
	layers string // separated by ;
	want   string
}{
	{"one layer", "a=1 d/ d/b=2 d/l->../a h==a", "a=1 d/ d/b=2 d/l->../a h==a"},
	{"a later file", "a=1; a=2", "a=2"},
	{"a deleted file", "a=1 b=2; .wh.a", "b=2"},
	{"a deleted link", "a=1 l->a p|; .wh.l .wh.p", "a=1"},
	{"deleted and not there", "a=1; .wh.b x/.wh.y a/.wh.z", "a=1"},
	{"a deleted tree", "d/ d/e/ d/e/f=1 d/g=2 k=3; .wh.d", "k=3"},
	{"deleted by the layer after next", "a=1; b=2; .wh.a", "b=2"},
	{"deleted and there again later", "a=1; .wh.a; a=2", "a=2"},
	{"deleted, then made", "a=1 d/ d/x=2; .wh.a a=3 .wh.d d/ d/y=4", "a=3 d/ d/y=4"},
	{"made, then deleted below", "a=1 d/ d/x=2; a=3 .wh.a d/ d/y=4 .wh.d", "a=3 d/ d/y=4"},
	{"made without its directory, then deleted below", "d/ d/x=2; d/y=4 .wh.d", "d/ d/y=4"},
	{"a whiteout of the same layer's", "k=1; a=2 .wh.a d/ d/x=3 .wh.d", "a=2 d/ d/x=3 k=1"},
	{"a directory becomes a file", "d/ d/x=1 d/e/ d/e/y=2; d=3", "d=3"},
	{"a file becomes a directory", "d=1; d/ d/x=2", "d/ d/x=2"},
	{"a directory becomes a link", "d/ d/x=1 e/; d->e", "d->e e/"},
	{"a link becomes a directory", "d->e e/ e/x=1; d/ d/y=2", "d/ d/y=2 e/ e/x=1"},
	{"a deleted directory becomes a file", "d/ d/x=1; .wh.d d=2", "d=2"},
	{"a file, then a whiteout of the directory", "d/ d/x=1; d=2 .wh.d", "d=2"},
	{"opaque first", "d/ d/a=1 d/e/ d/e/b=2; d/ d/.wh..wh..opq d/c=3", "d/ d/c=3"},
	{"opaque last", "d/ d/a=1 d/e/ d/e/b=2; d/ d/c=3 d/.wh..wh..opq", "d/ d/c=3"},
	{"opaque before the directory", "d/ d/a=1; d/.wh..wh..opq d/c=3 d/", "d/ d/c=3"},
	{"opaque with what stays below", "d/ d/e/ d/e/a=1 d/e/b=2 d/f/ d/f/c=3; d/e/b=4 d/.wh..wh..opq", "d/ d/e/ d/e/b=4"},
	{"opaque with a directory again", "d/ d/e/ d/e/a=1; d/ d/e/ d/.wh..wh..opq", "d/ d/e/"},
	{"opaque and whiteout", "d/ d/a=1; d/.wh.a d/.wh..wh..opq d/.wh.a d/a=2", "d/ d/a=2"},
	{"opaque where nothing is", "a=1; d/.wh..wh..opq a/.wh..wh..opq", "a=1"},
	{"a deleted name of two", "a=1 b==a; .wh.a", "b=1"},
	{"another deleted name of two", "a=1 b==a; .wh.b", "a=1"},
	{"deleted names of three", "a=1 b==a c==b; .wh.a; .wh.b", "c=1"},
	{"all names deleted", "a=1 b==a k=2; .wh.a .wh.b", "k=2"},
	{"a tree with names of what lives", "d/ d/a=1 d/b==d/a c==d/a; .wh.d", "c=1"},
	{"a tree with names of each other", "d/ d/a=1 d/b==d/a d/e/ d/e/c==d/b k=2; .wh.d", "k=2"},
	{"a tree with other names of what lives", "c=1 d/ d/a==c d/b==c e==c; .wh.d", "c=1 e==c"},
	{"a tree with the first of many names", "d/ d/z=1 a==d/z b==a d/y==b; .wh.d; .wh.a", "b=1"},
	{"a replaced name of two", "a=1 b==a; a=2", "a=2 b=1"},
	{"a link to a lower layer's", "a=1; b==a; .wh.a", "b=1"},
	{"a link, then its target deleted", "a=1; b==a .wh.a", "b=1"},
	{"the same link again", "a=1 b==a; .wh.b b==a; b==a .wh.b", "a=1 b==a"},
	{"the same link again, opaque", "d/ d/a=1 d/b==d/a; d/b==d/a d/.wh..wh..opq", "d/ d/b=1"},
	{"linked names become files", "a=1 b==a c==b; c=2 a=3", "a=3 b=1 c=2"},
	{"aufs keeps things", "a=1; .wh..wh.plnk/ .wh..wh.plnk/1.2=3 .wh..wh.aufs .wh..wh.orph/ b=4 d/ d/.wh..wh.plnk/3=5", "a=1 b=4 d/"},
	{"through a link", "usr/ usr/lib/ usr/lib/x=1 usr/lib/k=2 lib->usr/lib; lib/.wh.x lib/y=3", "lib->usr/lib usr/ usr/lib/ usr/lib/k=2 usr/lib/y=3"},
	{"opaque through a link", "e/ e/x=1 d->e; d/y=2 d/.wh..wh..opq", "d->e e/ e/y=2"},
	{"a link to nowhere is deleted", "d->e; .wh.d d/ d/x=1", "d/ d/x=1"},
}

// ociData is what a file of a test has in it: a mark of its own.
func ociData(test, word string) string {
	n := 300 + 9000*(len(test)%3)
	return strings.Repeat("<"+test+":"+word+">", n/(len(test)+4)+1)
}

// ociLayer adds the words of a layer, below the directory of the test.
func ociLayer(w *rawTar, test, words string) {
	for _, word := range strings.Fields(words) {
		path := func(s string) string { return test + "/" + s }
		if name, to, ok := strings.Cut(word, "->"); ok {
			w.header(path(name), '2', "", linked(to))
		} else if name, to, ok := strings.Cut(word, "=="); ok {
			w.header(path(name), '1', "", linked(path(to)))
		} else if name, data, ok := strings.Cut(word, "="); ok {
			w.header(path(name), '0', ociData(test, data))
		} else if name, ok := strings.CutSuffix(word, "|"); ok {
			w.header(path(name), '6', "")
		} else if strings.HasSuffix(word, "/") {
			w.header(path(word), '5', "", at(100, "0000700\x00"))
		} else {
			w.header(path(word), '0', "")
		}
	}
}

// ociWords describes a directory of a mounted image as the tests do.
func ociWords(t testing.TB, dir, test string) string {
	var out []string
	seen := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			out = append(out, name+"/")
			return nil
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			out = append(out, name+"->"+to)
			return err
		}
		if first, ok := seen[st.Ino]; ok {
			out = append(out, name+"=="+first)
			return nil
		}
		seen[st.Ino] = name
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		_, data, _ := strings.Cut(string(b), ":")
		data, _, _ = strings.Cut(data, ">")
		if string(b) != ociData(test, data) {
			t.Errorf("%s/%s: %d bytes that nobody wrote", test, name, len(b))
		}
		out = append(out, name+"="+data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// Layers are applied as the specification of OCI images says, whatever the
// order within a layer; of what is gone nothing is left in the image.
func TestLayers(t *testing.T) {
	fixtures.Need(t, "root", "loop", "e2fsck")
	var writers []*rawTar
	for i, tt := range ociTests {
		for k, words := range strings.Split(tt.layers, ";") {
			if k == len(writers) {
				writers = append(writers, &rawTar{})
			}
			ociLayer(writers[k], fmt.Sprintf("%02d", i), words)
		}
	}
	var layers [][]byte
	for _, w := range writers {
		layers = append(layers, w.end())
	}
	for _, set := range []string{"-b 4096", "-b 1024 -O bigalloc -C 16384", "-t ext2 -b 1024 -I 256", "-b 4096 -O inline_data"} {
		for _, how := range []string{"auto", "file", "pipe"} {
			t.Run(set+" "+how, func(t *testing.T) {
				t.Parallel()
				var open []opener
				size := int64(32 << 20)
				for _, data := range layers {
					if how == "pipe" {
						open = append(open, fromPipe(data, TarOptions{Layer: true}))
						continue
					}
					open = append(open, fromFile(writeFile(t, "layer", data), TarOptions{Layer: true}))
				}
				if how == "auto" {
					size = 0
				}
				dir := t.TempDir()
				img := filepath.Join(dir, "image")
				b, _, err := fill(dir, img, parseArgs(t, strings.Fields(set)), size, nil, open...)
				if err != nil {
					t.Fatal(err)
				}
				mnt := checkImage(t, img)
				data, err := os.ReadFile(img)
				if err != nil {
					t.Fatal(err)
				}
				for i, tt := range ociTests {
					test := fmt.Sprintf("%02d", i)
					if got := ociWords(t, filepath.Join(mnt, test), test); got != tt.want {
						t.Errorf("%s: %s:\n got %s\nwant %s", tt.name, tt.layers, got, tt.want)
					}
					for _, word := range strings.Fields(strings.ReplaceAll(tt.layers, ";", " ")) {
						_, mark, ok := strings.Cut(word, "=")
						if !ok || strings.HasPrefix(mark, "=") || strings.Contains(" "+tt.want+" ", "="+mark+" ") {
							continue
						}
						if mark = "<" + test + ":" + mark + ">"; bytes.Contains(data, []byte(mark)) {
							t.Errorf("%s: %s is still in the image", tt.name, word)
						}
					}
				}
				checkManifest(t, b, mnt)
			})
		}
	}
}

// checkManifest compares what a manifest says of files with a mounted image.
func checkManifest(t testing.TB, b *Builder, mnt string) {
	t.Helper()
	err := b.Manifest(func(e *ManifestEntry) error {
		var st unix.Stat_t
		if err := unix.Lstat(mnt+e.Path, &st); err != nil {
			return err
		}
		if st.Ino != uint64(e.Ino) || st.Nlink != uint64(e.Links) || st.Size != e.Size {
			t.Errorf("manifest: %s: inode %d, %d links, %d bytes; the kernel says %d, %d, %d", e.Path, e.Ino, e.Links, e.Size, st.Ino, st.Nlink, st.Size)
		}
		if e.SHA256 != nil {
			sum, err := fixtures.FileSHA(mnt + e.Path)
			if err != nil {
				return err
			}
			if got := fmt.Sprintf("%x", *e.SHA256); got != sum {
				t.Errorf("manifest: %s: %s, it is %s", e.Path, got, sum)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The root may be opaque; lost+found stays, empty.
func TestLayerOverRoot(t *testing.T) {
	fixtures.Need(t, "root", "loop", "e2fsck")
	first := new(rawTar).header("./", '5', "", at(100, "0001777\x00")).header("a", '0', "1").header("lost+found/old", '0', "2").header("d/e/f", '0', "3").end()
	for name, second := range map[string][]byte{
		"opaque":     new(rawTar).header("d/e/k", '0', "4").header(".wh..wh..opq", '0', "").end(),
		"lost+found": new(rawTar).header(".wh.lost+found", '0', "").header(".wh.a", '0', "").header(".wh.d", '0', "").header("d/e/k", '0', "4").end(),
	} {
		dir := t.TempDir()
		img := filepath.Join(dir, "image")
		o := TarOptions{Layer: true}
		if _, _, err := fill(dir, img, parseArgs(t, nil), 0, nil, fromPipe(first, o), fromPipe(second, o)); err != nil {
			t.Fatal(err)
		}
		mnt := checkImage(t, img)
		got := string(command(t, "find", mnt, "-mindepth", "1", "-printf", "%P %m\n"))
		lines := strings.Split(strings.TrimSpace(got), "\n")
		slices.Sort(lines)
		if got, want := strings.Join(lines, ", "), "d 755, d/e 755, d/e/k 644, lost+found 700"; got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		var st unix.Stat_t
		if err := unix.Stat(mnt, &st); err != nil || st.Mode != unix.S_IFDIR|0o1777 {
			t.Errorf("%s: mode of the root: %#o, %v", name, st.Mode, err)
		}
	}
}

// Whiteouts that name nothing that can be, and files in one, are refused.
func TestLayerRefused(t *testing.T) {
	for name, want := range map[string]string{
		".wh.": "it deletes \"\"", "d/.wh.": "it deletes \"\"", ".wh..": "it deletes \".\"", "d/.wh...": "it deletes \"..\"",
		"d/.wh.e/f": "it is in \".wh.e\"", "d/.wh.e/.wh..wh..opq": "it is in \".wh.e\"",
	} {
		dir := t.TempDir()
		data := new(rawTar).header("d/f", '0', "1").header(name, '0', "").end()
		_, _, err := fill(dir, filepath.Join(dir, "image"), parseArgs(t, nil), 0, nil, fromPipe(data, TarOptions{Layer: true}))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q: %s", name, want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

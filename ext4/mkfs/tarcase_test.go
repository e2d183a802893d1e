package mkfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e4go/fixtures"
)

// An opener opens a source. wait reports whether its contents can wait until
// all sources have been listed.
type opener func(*Spool) (src Source, wait bool, err error)

// fill makes an image of sources as the command does: of size bytes, or as
// small as it can be.
func fill(dir, img string, o Options, size int64, change func(*Entry), open ...opener) (*Builder, *Result, error) {
	ctx := context.Background()
	b, err := NewBuilder(o, change)
	if err != nil {
		return nil, nil, err
	}
	b.HashContents()
	b.HashFiles()
	var spool *Spool
	if size == 0 {
		if spool, err = NewSpool(dir); err != nil {
			return nil, nil, err
		}
		defer spool.Close()
	}
	var streams []Source
	for _, open := range open {
		src, wait, err := open(spool)
		if err != nil {
			return nil, nil, err
		}
		defer src.Close()
		if streams != nil || !wait {
			streams = append(streams, src)
		} else if err := b.Scan(ctx, src); err != nil {
			return nil, nil, err
		}
	}
	var p *Params
	if size == 0 {
		p, err = b.Fit(ctx, Free{})
	} else {
		p, err = Resolve(size, o)
	}
	if err != nil {
		return nil, nil, err
	}
	target, err := NewImage(img, int64(p.sb.Blocks)<<p.sb.BlockBits())
	if err != nil {
		return nil, nil, err
	}
	r, err := b.Write(ctx, target.Dev, p, streams...)
	if err != nil {
		return nil, nil, errors.Join(err, target.Abort())
	}
	return b, r, target.Commit()
}

// fromDir opens a directory.
func fromDir(dir string) opener {
	return func(*Spool) (Source, bool, error) {
		s, err := NewDirSource(dir, false)
		return s, true, err
	}
}

// fromFile opens an archive that can be read again.
func fromFile(path string, o TarOptions) opener {
	return func(spool *Spool) (Source, bool, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, false, err
		}
		o.Spool = spool
		s, err := NewTarSource("archive", f, o)
		if err != nil {
			return nil, false, err
		}
		return s, spool != nil || s.CanWait(), nil
	}
}

// fromPipe opens an archive that comes once.
func fromPipe(data []byte, o TarOptions) opener {
	return func(spool *Spool) (Source, bool, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, false, err
		}
		go func() {
			w.Write(data) // fails when nobody reads on
			w.Close()
		}()
		o.Spool = spool
		s, err := NewTarSource("archive", r, o)
		if err != nil {
			return nil, false, err
		}
		return s, spool != nil, nil
	}
}

// writeFile writes a file of the test.
func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs a program of the test.
func command(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, errs.Bytes())
	}
	return out.Bytes()
}

// extract unpacks an archive with GNU tar.
func extract(t testing.TB, archive string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "extracted")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "-C", dir, "-xpf", archive, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--warning=no-timestamp", "--warning=no-alone-zero-block", "--warning=no-unknown-keyword")
	return dir
}

// checkImage has the judges look at an image, and returns where it is mounted.
func checkImage(t testing.TB, img string) string {
	t.Helper()
	if status, out := fixtures.E2fsck(t, img); status != 0 {
		t.Fatalf("e2fsck: exit status %d: %s", status, out)
	}
	return fixtures.MountKernel(t, img)
}

// compareTrees compares a mounted image with the directory that it is to be, but
// for the roots and what is in ignore.
func compareTrees(t testing.TB, src, mnt string, ignore ...string) {
	t.Helper()
	o := fixtures.Options{Contents: true, Xattrs: true, Seek: true}
	want, err := fixtures.DumpTree(src, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fixtures.DumpTree(mnt, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if want[i].Path == "/" {
			want[i] = got[0]
			want[i].Path = "/"
		}
	}
	ignore = append(ignore, "ino", "blocks", "atime", "ctime", "btime", "extents", "fiemaperr", "seekerr", "/lost+found")
	for i := range got {
		if got[i].Mode>>12 == 4 {
			ignore = append(ignore, got[i].Path+":size", got[i].Path+":attributes")
		}
	}
	for _, d := range fixtures.Diff(want, got, ignore...) {
		t.Error(d)
	}
}

// A rawTar is an archive that is written block by block.
type rawTar struct{ bytes.Buffer }

// header adds a header of ustar with the type kind and, behind the contents of
// size bytes, what fills their block. change may change it before it is summed.
func (w *rawTar) header(name string, kind byte, data string, change ...func(b []byte)) *rawTar {
	b := make([]byte, tarBlock)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", len(data)))
	copy(b[136:], fmt.Sprintf("%011o\x00", testTime))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	for _, c := range change {
		c(b)
	}
	sumTar(b)
	w.Write(b)
	w.WriteString(data)
	w.Write(make([]byte, tarPad(int64(len(data)))))
	return w
}

// sumTar gives a header its checksum.
func sumTar(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// end adds the blocks that end an archive.
func (w *rawTar) end() []byte {
	w.Write(make([]byte, 2*tarBlock))
	return w.Bytes()
}

// pax is records of the pairs of a key and a value.
func pax(pairs ...string) string {
	var out strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		rest := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		n := len(rest) + 1
		for len(fmt.Sprint(n))+len(rest) != n {
			n = len(fmt.Sprint(n)) + len(rest)
		}
		fmt.Fprintf(&out, "%d%s", n, rest)
	}
	return out.String()
}

// at overwrites a field of a header.
func at(off int, text string) func([]byte) {
	return func(b []byte) { copy(b[off:], text) }
}

// linked is a link's target.
func linked(target string) func([]byte) { return at(157, target) }

// gnuMagic makes a header one of GNU's.
func gnuMagic(b []byte) { copy(b[257:], "ustar  \x00") }

// goTar is an archive that archive/tar writes, contents behind their headers.
func goTar(t testing.TB, format tar.Format, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i++ {
		h := entries[i].(tar.Header)
		h.Format = format
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(testTime, 0)
		}
		var data string
		if i+1 < len(entries) {
			if s, ok := entries[i+1].(string); ok {
				data = s
				i++
			}
		}
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise is n bytes that are the same each time.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

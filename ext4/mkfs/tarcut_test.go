package mkfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e4go/fixtures"
)

// cutTar is a small archive that has headers of all forms.
func cutTar(t testing.TB) []byte {
	data := goTar(t, tar.FormatPAX,
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o644}, noise(3000),
		tar.Header{Name: "d/whole", Typeflag: tar.TypeReg, Mode: 0o644}, noise(1024),
		tar.Header{Name: strings.Repeat("n", 200), Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": noise(700)}}, noise(1),
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "d"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "d/file"},
	)
	w := new(rawTar)
	w.Write(data[:len(data)-1024])
	w.header("g", 'g', pax("uid", "5"))
	w.header("././@LongLink", 'L', strings.Repeat("l/", 300)+"x\x00", gnuMagic)
	w.header("l", '0', "1", gnuMagic)
	// Parts in the header and in two blocks behind it.
	list := func(b []byte, at int, n int) []byte {
		for i := range n {
			copy(b[24*i:], tarOctal(int64(at+i)*4096)+tarOctal(1))
		}
		return b
	}
	w.header("holes", 'S', "", gnuMagic, at(386, string(list(make([]byte, 96), 0, 4))), at(482, "\x01"), at(483, tarOctal(46*4096)), at(124, tarOctal(46)))
	more := list(make([]byte, tarBlock), 4, 21)
	more[504] = 1
	w.Write(more)
	w.Write(list(make([]byte, tarBlock), 25, 21))
	w.WriteString(noise(46))
	w.Write(make([]byte, tarPad(46)))
	w.header("r", 'x', pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "lines", "GNU.sparse.realsize", "9000"))
	w.header("f", '0', "1\n8192\n600\n"+strings.Repeat("\x00", 512-11)+noise(600))
	w.header("last", '0', "")
	return w.end()
}

// tarOctal is a number of twelve bytes.
func tarOctal(n int64) string {
	b := []byte("00000000000\x00")
	for i := 10; n > 0; i, n = i-1, n>>3 {
		b[i] = byte('0' + n&7)
	}
	return string(b)
}

// listTar reads all of a source, and counts what it has.
func listTar(open opener) (n int, err error) {
	src, _, err := open(nil)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	for {
		e, err := src.Next(context.Background())
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if n++; e.Content == nil {
			continue
		}
		r, err := e.Content.Open()
		if err != nil {
			return n, err
		}
		got, err := io.Copy(io.Discard, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return n, err
		}
		if got != e.Size {
			return n, errors.New("not all was read")
		}
	}
}

// An archive that ends early, wherever that is, is an error, and there is no
// image. It is whole with the first of the blocks that end it.
func TestTarEndsEarly(t *testing.T) {
	whole := cutTar(t)
	for cut := 0; cut <= len(whole); cut += 256 {
		data := whole[:cut]
		good := cut == len(whole) || cut == len(whole)-tarBlock
		for how, open := range map[string]opener{
			"file": fromFile(writeFile(t, "archive", data), TarOptions{}),
			"pipe": fromPipe(data, TarOptions{}),
		} {
			for _, size := range []int64{0, 4 << 20} {
				dir := t.TempDir()
				_, _, err := fill(dir, filepath.Join(dir, "image"), parseArgs(t, nil), size, nil, open)
				list, _ := os.ReadDir(dir)
				switch {
				case good && (err != nil || len(list) != 1):
					t.Errorf("%s of size %d with %d of %d bytes: %v", how, size, cut, len(whole), err)
				case good:
				case err == nil || !strings.Contains(err.Error(), "archive: ") || !strings.Contains(err.Error(), "early") && cut > 0:
					t.Errorf("%s of size %d with %d of %d bytes: %v", how, size, cut, len(whole), err)
				case len(list) != 0:
					t.Errorf("%s of size %d with %d of %d bytes: it leaves %v", how, size, cut, len(whole), list)
				}
			}
		}
	}
}

// So is a compressed stream that ends early, or whose archive does.
func TestTarCompressedEndsEarly(t *testing.T) {
	whole := cutTar(t)
	want, err := listTar(fromPipe(whole, TarOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"gzip"}, {"zstd", "-q"}, {"zstd", "-q", "--no-check"}, {"xz"}, {"bzip2"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			fixtures.Need(t, args[0])
			pack := func(data []byte) []byte {
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Stdin = bytes.NewReader(data)
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			packed := pack(whole)
			if n, err := listTar(fromPipe(packed, TarOptions{})); n != want || err != nil {
				t.Fatalf("%d entries, %v; want %d", n, err, want)
			}
			if args[0] == "xz" { // may have zeros behind it
				if n, err := listTar(fromPipe(append(bytes.Clone(packed), make([]byte, 400)...), TarOptions{})); n != want || err != nil {
					t.Errorf("with zeros behind it: %d entries, %v; want %d", n, err, want)
				}
			}
			for cut := 0; cut < len(packed); cut += 61 {
				if n, err := listTar(fromPipe(packed[:cut], TarOptions{})); err == nil {
					t.Errorf("%d of %d bytes: %d entries and no error", cut, len(packed), n)
				}
			}
			for cut := len(packed) - 60; cut < len(packed); cut++ {
				if n, err := listTar(fromPipe(packed[:cut], TarOptions{})); err == nil {
					t.Errorf("%d of %d bytes: %d entries and no error", cut, len(packed), n)
				}
			}
			for _, cut := range []int{512, len(whole) / 2 / 512 * 512, len(whole) - 2*tarBlock - 512, len(whole) - 2*tarBlock} {
				if n, err := listTar(fromPipe(pack(whole[:cut]), TarOptions{})); !errors.Is(err, errTarShort) {
					t.Errorf("an archive of %d of %d bytes: %d entries and %v", cut, len(whole), n, err)
				}
			}
		})
	}
}

// So is one that changes, or is replaced in place, after it was listed.
func TestTarChanges(t *testing.T) {
	whole := cutTar(t)
	for name, do := range map[string]func(path string) error{
		"nothing":   func(string) error { return nil },
		"grows":     func(path string) error { return os.WriteFile(path, append(bytes.Clone(whole), 0), 0o600) },
		"shrinks":   func(path string) error { return os.Truncate(path, 2048) },
		"is again":  func(path string) error { return os.WriteFile(path, whole, 0o600) },
		"is erased": func(path string) error { return os.Truncate(path, 0) },
		"has its time again": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("!"), 2000)
			return errors.Join(err, f.Close(), os.Chtimes(path, time.Unix(testTime, 0), time.Unix(testTime, 0)))
		},
	} {
		for _, when := range []string{whenListed, whenScanned, whenOpened, whenRead} {
			for _, size := range []int64{0, 4 << 20} {
				path := writeFile(t, "archive", whole)
				if err := os.Chtimes(path, time.Unix(testTime, 0), time.Unix(testTime, 0)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond) // the kernel's clock for files ticks each 10 ms
				open := func(spool *Spool) (Source, bool, error) {
					src, wait, err := fromFile(path, TarOptions{})(spool)
					return &meddler{src, "d/file", when, func() {
						if err := do(path); err != nil {
							t.Error(err)
						}
					}}, wait, err
				}
				dir := t.TempDir()
				_, _, err := fill(dir, filepath.Join(dir, "image"), parseArgs(t, nil), size, nil, open)
				list, _ := os.ReadDir(dir)
				switch {
				case name == "nothing" && err == nil && len(list) == 1:
				case name == "nothing" || err == nil || !strings.Contains(err.Error(), "archive changed while") && !strings.Contains(err.Error(), "/d/file: it ended at"):
					t.Errorf("%s when %s, size %d: %v", name, when, size, err)
				case len(list) != 0:
					t.Errorf("%s when %s, size %d: it leaves %v", name, when, size, list)
				}
			}
		}
	}
}

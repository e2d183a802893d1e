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

	"golang.org/x/sys/unix"
)

// A tarCase is an archive that tar(1) extracts without complaint.
type tarCase struct {
	name   string
	data   func(t testing.TB) []byte
	ignore []string // what tar(1) makes up, for [fixtures.Diff]
}

func raw(build func(w *rawTar)) func(testing.TB) []byte {
	return func(testing.TB) []byte {
		var w rawTar
		build(&w)
		return w.end()
	}
}

// everyKind is entries of all kinds that a format can have.
func everyKind(format tar.Format) func(testing.TB) []byte {
	long := strings.Repeat("directory/", 12) + strings.Repeat("n", 99)
	return func(t testing.TB) []byte {
		uid := 1<<21 - 1
		if format != tar.FormatUSTAR {
			uid = 1<<32 - 2
		}
		entries := []any{
			tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 7, Gid: 8},
			tar.Header{Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: uid, Gid: uid - 1}, noise(70000),
			tar.Header{Name: "d/empty", Typeflag: tar.TypeReg, Mode: 0o600},
			tar.Header{Name: "d/block", Typeflag: tar.TypeReg, Mode: 0}, noise(tarBlock),
			tar.Header{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/file", Mode: 0o644},
			tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "d/file", Mode: 0o777},
			tar.Header{Name: "char", Typeflag: tar.TypeChar, Mode: 0o620, Devmajor: 5, Devminor: 300},
			tar.Header{Name: "block", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 300, Devminor: 70000},
			tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o640, Uid: 3},
		}
		parents(&entries, long)
		entries = append(entries, tar.Header{Name: long, Typeflag: tar.TypeReg, Mode: 0o644}, "prefix and name")
		if format == tar.FormatUSTAR {
			return goTar(t, format, entries...)
		}
		deep := strings.Repeat(strings.Repeat("p", 200)+"/", 15) + "x"
		parents(&entries, deep)
		entries = append(entries,
			tar.Header{Name: deep, Typeflag: tar.TypeReg, Mode: 0o644}, "path",
			tar.Header{Name: strings.Repeat("l", 255), Typeflag: tar.TypeReg, Mode: 0o644}, "long",
			tar.Header{Name: "to" + strings.Repeat("l", 253), Typeflag: tar.TypeLink, Linkname: strings.Repeat("l", 255)},
			tar.Header{Name: "far", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 4095), Mode: 0o777},
			tar.Header{Name: "s1023", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 1023), Mode: 0o777},
			tar.Header{Name: "new\nline", Typeflag: tar.TypeReg, Mode: 0o644}, "1",
			tar.Header{Name: "ÄÖ ß", Typeflag: tar.TypeReg, Mode: 0o644}, "2",
			tar.Header{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-1<<31, 0)},
			tar.Header{Name: "before", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-1<<31-1000, 0)},
			tar.Header{Name: "2446", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(15032385535, 0)},
			tar.Header{Name: "2500", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(16725225600, 0)},
		)
		if format == tar.FormatGNU {
			entries = append(entries, tar.Header{Name: "\x80\xff", Typeflag: tar.TypeReg, Mode: 0o644}, "3")
			return goTar(t, format, entries...)
		}
		return goTar(t, format, append(entries,
			tar.Header{Name: "nano", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1e9, 123456789)},
			tar.Header{Name: "minus", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-2, 1)},
			tar.Header{Name: "xattrs", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{
				"SCHILY.xattr.user.binary":         "\x00\x01\n=\xff",
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
				"SCHILY.xattr.trusted.t":           "t",
			}},
		)...)
	}
}

// parents adds the directories above a path.
func parents(entries *[]any, path string) {
	for i, c := range path {
		if c == '/' {
			*entries = append(*entries, tar.Header{Name: path[:i+1], Typeflag: tar.TypeDir, Mode: 0o755})
		}
	}
}

// gnuTar has GNU tar archive what build puts into a directory.
func gnuTar(build func(m *treeMaker, dir string), args ...string) func(testing.TB) []byte {
	return func(t testing.TB) []byte {
		dir := filepath.Join(t.TempDir(), "made")
		m := &treeMaker{t: t, rng: rand.New(rand.NewPCG(11, 12))}
		m.check(os.Mkdir(dir, 0o755))
		build(m, dir)
		out := filepath.Join(t.TempDir(), "made.tar")
		command(t, "tar", append([]string{"-C", dir, "-cf", out, "--sort=name"}, append(args, ".")...)...)
		data, err := os.ReadFile(out)
		m.check(err)
		return data
	}
}

// holes are files with holes in all places.
func holes(m *treeMaker, dir string) {
	file := func(name string, size int64, parts ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		m.check(err)
		for i := 0; i < len(parts); i += 2 {
			_, err := f.WriteAt(m.bytes(int(parts[i+1])), parts[i])
			m.check(err)
		}
		m.check(f.Truncate(size))
		m.check(f.Close())
	}
	file("start", 100000, 90000, 10000)
	file("middle", 100000, 0, 10000, 90000, 10000)
	file("end", 100000, 0, 10000)
	file("only", 100000)
	file("mebi", 8<<20+77, 4<<20, 3, 8<<20, 77)
	file("whole", 100000, 0, 100000)
	file("odd", 1234567, 4097, 1, 500000, 12345, 1234560, 7)
	var many []int64
	for i := range int64(100) {
		many = append(many, i*20000+i, 4000)
	}
	file("many", 3000000, many...)
	file("small", 9)
}

// odd is xattrs and ACLs of all kinds.
func odd(m *treeMaker, dir string) {
	file := filepath.Join(dir, "file")
	sub := filepath.Join(dir, "sub")
	m.check(os.WriteFile(file, []byte("x"), 0o640))
	m.check(os.Mkdir(sub, 0o755))
	for name, value := range map[string]string{
		"user.a=b%c": "d", "user.%3D": "e", "user.empty": "", "user.binary": "\x00\n\xff=", "user." + strings.Repeat("n", 250): "long",
		"trusted.t": "t", "security.other": "s", "user.large": noise(1500),
		"security.capability": "\x01\x00\x00\x02\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		m.check(unix.Setxattr(file, name, []byte(value), 0))
	}
	m.check(unix.Setxattr(sub, "user.dir", []byte("d"), 0))
	command(m.t, "setfacl", "-m", "u:root:rw,u:1234:r,u:4294967294:-,g:77:rwx", file)
	command(m.t, "setfacl", "-m", "g:77:x", "-d", "-m", "u:1234:r,m:rx", sub)
}

// tarCases are archives of all forms.
func tarCases() []tarCase {
	dir := func(w *rawTar, name string) { w.header(name, '5', "", at(100, "0000755\x00")) }
	cases := []tarCase{
		{name: "ustar", data: everyKind(tar.FormatUSTAR)},
		{name: "pax", data: everyKind(tar.FormatPAX)},
		{name: "gnu", data: everyKind(tar.FormatGNU)},
		{name: "nothing", data: raw(func(w *rawTar) {})},
		{name: "names", data: raw(func(w *rawTar) {
			dir(w, "./")
			w.header("./dot", '0', "1")
			w.header("/absolute", '0', "2")
			dir(w, "a")
			w.header("a//b", '0', "3")
			w.header("./a/./c", '0', "4")
			w.header("a/old/", '0', "")
			w.header("a/older/", 0, "")
			w.header("hard", '1', "", linked("/absolute"))
			w.header("a/hard", '1', "", linked("./a//b"))
			w.header("BZh", '0', "5")
		}), ignore: []string{"/a:mtime"}},
		{name: "a name that begins as bzip2", data: raw(func(w *rawTar) { w.header("BZh91AY&SY", '0', "5") })},
		{name: "a name that begins as gzip", data: raw(func(w *rawTar) { w.header("\x1f\x8b\x08", '0', "5") })},
		{name: "no parents", data: raw(func(w *rawTar) {
			w.header("x/y/file", '0', "1")
			w.header("x/z/", '5', "")
			w.header("x/later/file", '0', "1")
			w.header("x/later", '5', "", at(100, "0000700\x00"))
		}), ignore: []string{"/x:mtime", "/x/y:mtime"}},
		{name: "hard links", data: raw(func(w *rawTar) {
			dir(w, "a")
			dir(w, "b")
			w.header("a/one", '0', "contents")
			w.header("b/two", '1', "", linked("a/one"))
			w.header("three", '1', "", linked("b/two"), at(124, "00000000010\x00")) // a size, and nothing there
			w.header("sym", '2', "", linked("nowhere"))
			w.header("sym2", '1', "", linked("sym"))
			w.header("fifo", '6', "")
			w.header("fifo2", '1', "", linked("fifo"))
		}), ignore: []string{"/a:mtime", "/b:mtime"}},
		{name: "the same again", data: raw(func(w *rawTar) {
			w.header("f", '0', "old contents that are long")
			w.header("f", '0', "new", at(100, "0000600\x00"))
			w.header("file then dir", '0', "1")
			dir(w, "file then dir")
			w.header("file then dir/x", '0', "2")
			dir(w, "dir then file")
			w.header("dir then file", '0', "3")
			dir(w, "dir then link")
			w.header("dir then link", '2', "", linked("f"))
			w.header("link then file", '2', "", linked("f"))
			w.header("link then file", '0', "4")
			w.header("d", '5', "", at(100, "0000700\x00"))
			w.header("d/kept", '0', "5")
			w.header("d", '5', "", at(100, "0000755\x00"), at(136, "00000000001\x00"))
			w.header("h1", '0', "6")
			w.header("h2", '1', "", linked("h1"))
			w.header("h1", '0', "7")
			w.header("h3", '1', "", linked("h2"))
			w.header("h3", '1', "", linked("h1"))
		})},
		{name: "below a link", data: raw(func(w *rawTar) {
			dir(w, "usr")
			dir(w, "usr/lib")
			w.header("lib", '2', "", linked("usr/lib"))
			w.header("lib/file", '0', "1")
			w.header("usr/up", '2', "", linked("lib"))
			w.header("usr/up/file2", '0', "2")
			w.header("hard", '1', "", linked("usr/up/file"))
			w.header("usr/up/new/file", '0', "3")
		}), ignore: []string{"/usr:mtime", "/usr/lib:mtime", "/usr/lib/new:mtime"}},
		{name: "old headers", data: raw(func(w *rawTar) {
			v7 := func(b []byte) { clear(b[257:]) }
			w.header("v7", 0, "1", v7)
			w.header("v7 dir/", 0, "", v7)
			w.header("contiguous", '7', "2")
			w.header("mode with type", '0', "3", at(100, "0100600\x00"))
			w.header("spaces", '0', "4", at(100, "   644 "), at(108, "     7 "))
			w.header("link without a mode", '2', "", linked("v7"), at(100, "0000000\x00"))
			w.header("dump", 'D', "Yfile\x00\x00", gnuMagic)
			w.header("star", '0', "5", at(345, "from star"), at(476, "00000000001\x0000000000001\x00"), at(508, "tar\x00"))
			w.header("volume", 'V', "", gnuMagic)
			w.header("garbage in devices", '0', "6", at(329, "garbage"))
		}), ignore: []string{"/from star:mtime"}},
		{name: "old Solaris records", data: raw(func(w *rawTar) {
			w.header("records", 'X', pax("mtime", "5.5"))
			w.header("solaris", '0', "1")
		})},
		{name: "global records", data: raw(func(w *rawTar) {
			w.header("global", 'g', pax("comment", "0123456789", "uid", "1234", "mtime", "1000.5", "VENDOR.odd", "1"))
			w.header("one", '0', "1")
			w.header("records", 'x', pax("uid", "5"))
			w.header("two", '0', "2")
			w.header("global", 'g', pax("gid", "77", "mtime", "2000"))
			w.header("three", '0', "3")
		}), ignore: []string{"/three:uid"}}, // GNU tar forgets all that the first one said
		{name: "half an end", data: func(testing.TB) []byte {
			return append(new(rawTar).header("f", '0', "1").Bytes(), make([]byte, tarBlock)...)
		}},
		{name: "more behind the end", data: func(testing.TB) []byte {
			return append(new(rawTar).header("f", '0', "1").end(), noise(100000)...)
		}},
		{name: "xattrs and ACLs of GNU tar", data: gnuTar(odd, "--format=pax", "--xattrs", "--acls")},
		{name: "ACLs with numbers", data: raw(func(w *rawTar) {
			w.header("r", 'x', pax("SCHILY.acl.access", "user::rw-,user:someone:r--:1234,group::r--,mask::rwx,other::---"))
			w.header("f", '0', "1", at(100, "0000674\x00"))
			w.header("r", 'x', pax("SCHILY.acl.access", "user::rwx\ngroup::r-x\nother::--x\n"))
			w.header("only a mode", '0', "2")
			w.header("r", 'x', pax("SCHILY.acl.default", "user::rwx\nuser:99:r-x\t#effective:r-x\ngroup::r-x\nmask::r-x\nother::--x\n"))
			w.header("d", '5', "")
		}), ignore: []string{"/f:mode", "/f:xattrs"}}, // "someone" is nobody here
	}
	for _, args := range []string{"--format=gnu", "--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		cases = append(cases, tarCase{name: "holes " + args, data: gnuTar(holes, append(strings.Fields(args), "-S")...)})
	}
	return cases
}

// An image of an archive is what tar(1) makes of the archive, in whichever way it is read.
func TestTarIsExtracted(t *testing.T) {
	fixtures.Need(t, "root", "loop", "e2fsck", "tar", "setfacl")
	for _, tt := range tarCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			data := tt.data(t)
			archive := writeFile(t, "archive", data)
			want := extract(t, archive)
			o := parseArgs(t, []string{"-b", "4096", "-O", "ea_inode"})
			dir := t.TempDir()
			images := map[string][]byte{}
			for _, how := range []struct {
				name string
				size int64
				open opener
			}{
				{"file, auto", 0, fromFile(archive, TarOptions{})},
				{"pipe, auto", 0, fromPipe(data, TarOptions{})},
				{"file, size", 16 << 20, fromFile(archive, TarOptions{})},
				{"pipe, size", 16 << 20, fromPipe(data, TarOptions{})},
			} {
				img := filepath.Join(dir, "image")
				if _, _, err := fill(dir, img, o, how.size, nil, how.open); err != nil {
					t.Fatalf("%s: %v", how.name, err)
				}
				b, err := os.ReadFile(img)
				if err != nil {
					t.Fatal(err)
				}
				images[how.name] = b
				switch {
				case how.name == "pipe, auto":
					if !bytes.Equal(b, images["file, auto"]) {
						t.Errorf("%s: another image than of a file", how.name)
					}
					continue
				case how.name == "file, size":
					continue // nearly as auto
				}
				compareTrees(t, want, checkImage(t, img), tt.ignore...)
			}
		})
	}
}

// What is no archive, or says what cannot be, is an error that says where.
func TestTarIsRefused(t *testing.T) {
	one := func(name string, kind byte, data string, change ...func([]byte)) []byte {
		return new(rawTar).header(name, kind, data, change...).end()
	}
	long := strings.Repeat("n", 256)
	whole := new(rawTar).header("first", '0', "1").header("dir/second", '0', noise(3000)).end()
	records := func(pairs ...string) []byte {
		return new(rawTar).header("records", 'x', pax(pairs...)).header("f", '0', "1").end()
	}
	sparse := func(realsize string, parts ...string) []byte {
		return one("holes", 'S', "12345", gnuMagic, at(386, strings.Join(parts, "")), at(483, realsize))
	}
	tests := []struct {
		name string
		data []byte
		want string // of the error
	}{
		{"nothing at all", nil, "the archive is empty"},
		{"no archive", []byte("dear diary"), "ends early"},
		{"no archive of a block", bytes.Repeat([]byte("dear diary"), 100), "the header at byte 0: the checksum is wrong"},
		{"no end", whole[:len(whole)-1024], "the archive ends early: nothing stands at byte 4608, behind \"dir/second\""},
		{"an end between two entries", whole[:1024], "the archive ends early: nothing stands at byte 1024, behind \"first\""},
		{"end in a header", whole[:1024+100], "ends early"},
		{"end in contents", whole[:1024+512+1000], "the archive ends early"},
		{"end before contents", whole[:1024+512], "dir/second"},
		{"end in the padding of the last", whole[:1024+512+3000+17], "\"dir/second\": the archive ends early"},
		{"end in the padding of another", whole[:512+1], "\"first\": the archive ends early"},
		{"a wrong checksum", append(append([]byte{}, whole[:1024]...), append(bytes.Repeat([]byte{'x'}, 512), whole[1536:]...)...), "the header at byte 1024: the checksum is wrong"},
		{"zeros in the middle", append(append(append([]byte{}, whole[:1024]...), make([]byte, 512)...), whole[1024:]...), "at byte 1024 is one block of zeros"},
		{"records for nothing", new(rawTar).header("records", 'x', pax("uid", "1")).end(), "ends early"},
		{"out of the tree", one("a/../../b", '0', ""), "\"a/../../b\": the path leads out"},
		{"out of a directory", one("a/../b", '0', ""), "\"a/../b\": the path leads out"},
		{"a link out", new(rawTar).header("f", '0', "").header("l", '1', "", linked("../f")).end(), "\"l\": hard link to \"../f\""},
		{"a link before its target", new(rawTar).header("l", '1', "", linked("f")).header("f", '0', "").end(), "l: hard link to f: no such entry before it"},
		{"a link to itself", one("l", '1', "", linked("l")), "l: hard link to l"},
		{"a link to a directory", new(rawTar).header("d", '5', "").header("l", '1', "", linked("d")).end(), "l: hard link to d, a directory"},
		{"a link to the root", one("l", '1', "", linked("/")), "hard link to \"/\": it leads to the root"},
		{"a link over what holds its target", new(rawTar).header("d", '5', "").header("d/f", '0', "").header("d", '1', "", linked("d/f")).end(), "d: hard link to d/f: no such entry"},
		{"the root is a file", one("./.", '0', "x"), "\"./.\": it is to be the root"},
		{"the root is a link", one("/", '2', "", linked("x")), "\"/\": it is to be the root"},
		{"a long name", records("path", "dir/"+long), "the name has 256 bytes"},
		{"a long name in a path", records("path", long+"/f"), "the name has 256 bytes"},
		{"a link to nowhere", one("l", '2', ""), "l: the target of the symbolic link has 0 bytes"},
		{"a long target", new(rawTar).header("r", 'x', pax("linkpath", strings.Repeat("t", 4096))).header("l", '2', "").end(), "l: the target of the symbolic link has 4096 bytes"},
		{"below a file", new(rawTar).header("f", '0', "1").header("f/g", '0', "").end(), "f: /f is no directory"},
		{"below a link to nowhere", new(rawTar).header("l", '2', "", linked("gone")).header("l/g", '0', "").end(), "/l is a symbolic link to gone"},
		{"below a link to itself", new(rawTar).header("l", '2', "", linked("l")).header("l/g", '0', "").end(), "circles"},
		{"below links that lead on and on", new(rawTar).header("a", '2', "", linked("b")).header("b", '2', "", linked("a/a")).header("a/g", '0', "").end(), "circles"},
		{"lost+found is a file", one("lost+found", '0', "1"), "lost+found: every file system has a directory"},
		{"lost+found is a link", new(rawTar).header("f", '0', "1").header("lost+found", '1', "", linked("f")).end(), "lost+found: every file system has a directory"},
		{"an unknown type", one("odd", 'Z', ""), "\"odd\": it is of type 'Z'"},
		{"a rest of a volume", one("rest", 'M', "x", gnuMagic), "\"rest\": it begins in another archive"},
		{"a rest of a volume by pax", new(rawTar).header("g", 'g', pax("GNU.volume.filename", "f")).end(), "single volume"},
		{"a global path", new(rawTar).header("g", 'g', pax("path", "f")).end(), "cannot be for all entries"},
		{"a whiteout", one("d/.wh.f", '0', ""), "give --oci"},
		{"an owner that is none", records("uid", "4294967295"), "\"f\": owner 4294967295:0"},
		{"a negative owner", one("f", '0', "", at(108, "\xff\xff\xff\xff\xff\xff\xff\xfe")), "owner -2"},
		{"an owner that is no number", records("uid", "root"), "the pax record uid is \"root\""},
		{"a size that is no number", one("f", '0', "", at(124, "many")), "size: \"many"},
		{"a negative size", one("f", '0', "", at(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0")), "size: -16"},
		{"a negative size by pax", records("size", "-5"), "its size is -5"},
		{"a size past all", records("size", "9223372036854775807"), "its size is"},
		{"a size that is not there", records("size", "1000000"), "ends early"},
		{"a number of too many bits", one("f", '0', "", at(136, "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), "time: "},
		{"a time that is none", records("mtime", "1.x"), "the pax record mtime is \"1.x\""},
		{"a device number", one("dev", '3', "", at(329, "0010000\x00")), "device 4096:0"},
		{"a record without a length", new(rawTar).header("r", 'x', "uid=5\n").end(), "no proper length"},
		{"a record of a wrong length", new(rawTar).header("r", 'x', "9 uid=5\n").end(), "no proper length"},
		{"a record without a key", new(rawTar).header("r", 'x', "5 =5\n").end(), "no key"},
		{"too many records", new(rawTar).header("r", 'x', "", at(124, "77777777777\x00")).end(), "bytes for names or records"},
		{"an xattr of another system", records("SCHILY.xattr.com.apple.x", "1"), "give -E no_copy_xattrs"},
		{"a long xattr name", records("SCHILY.xattr.user."+long, "1"), "the name has 256 bytes"},
		{"a long xattr", records("SCHILY.xattr.user.x", noise(65537)), "f: extended attribute user.x: it has 65537 bytes"},
		{"an xattr that is no base64", records("LIBARCHIVE.xattr.user.x", "!"), "record LIBARCHIVE.xattr.user.x"},
		{"an ACL without others", records("SCHILY.acl.access", "user::rwx,group::rwx"), "the POSIX ACL needs"},
		{"an ACL without a mask", records("SCHILY.acl.access", "user::rwx,user:5:r--,group::rwx,other::---"), "the POSIX ACL needs"},
		{"an ACL with a name", records("SCHILY.acl.access", "user::rwx,user:someone:r--,group::rwx,mask::rwx,other::---"), "archive with --xattrs too"},
		{"an ACL that is none", records("SCHILY.acl.access", "user::rwx,what"), "record SCHILY.acl.access"},
		{"a binary ACL that is none", records("SCHILY.xattr.system.posix_acl_access", "x"), "no POSIX ACL"},
		{"a sparse file of no known form", one("holes", 'S', ""), "a form that is not known"},
		{"a sparse file of a later version", records("GNU.sparse.major", "2", "GNU.sparse.minor", "0"), "version 2.0 of sparse files"},
		{"parts past the end", sparse("00000000003\x00", "00000000000\x0000000000005\x00"), "part 0 of the sparse file"},
		{"parts out of order", sparse("00000010000\x00", "00000001000\x0000000000003\x00", "00000000000\x0000000000002\x00"), "part 1 of the sparse file"},
		{"parts of more than is there", sparse("00000010000\x00", "00000000000\x0000000000006\x00"), "more than its contents"},
		{"parts of less than is there", sparse("00000010000\x00", "00000000000\x0000000000004\x00"), "1 bytes of the contents"},
		{"a negative sparse size", sparse("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "its size is -1"},
		{"parts in a block that is not there", new(rawTar).header("holes", 'S', "", gnuMagic, at(482, "\x01")).Bytes(), "\"holes\": the archive ends early"},
		{"an odd list of parts", records("GNU.sparse.map", "0,1,2", "GNU.sparse.numblocks", "1"), "3 numbers for \"1\" parts"},
		{"parts out of turn", new(rawTar).header("r", 'x', pax("GNU.sparse.numbytes", "1")).end(), "not where it belongs"},
		{"lines that end early", records("GNU.sparse.major", "1", "GNU.sparse.minor", "0"), "the map of the sparse file is longer"},
		{"very many parts", new(rawTar).header("r", 'x', pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0")).header("f", '0', "9999999999\n").end(), "more than 1048576 parts"},
		{"lz4", append([]byte("\x04\x22\x4d\x18"), whole...), "lz4, which is not understood"},
		{"lzip", append([]byte("LZIP"), whole...), "lzip, which is not understood"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for how, size := range map[string]int64{"file": 0, "pipe": 0, "pipe, size": 4 << 20, "file, size": 4 << 20} {
				open := fromPipe(tt.data, TarOptions{})
				if strings.HasPrefix(how, "file") {
					open = fromFile(writeFile(t, "archive", tt.data), TarOptions{})
				}
				dir := t.TempDir()
				o := parseArgs(t, nil)
				_, _, err := fill(dir, filepath.Join(dir, "image"), o, size, nil, open)
				var text string
				var bad *UsageError
				if err != nil {
					text = err.Error()
				}
				if errors.As(err, &bad) {
					text += " " + bad.Hint
				}
				if !strings.Contains(text, tt.want) {
					t.Errorf("%s: %q, want %q", how, text, tt.want)
				}
				if list, _ := os.ReadDir(dir); len(list) != 0 {
					t.Errorf("%s: it leaves %v", how, list)
				}
			}
		})
	}
}

// A stream is known by its contents, in whatever pieces it was compressed; one
// that ends early or is damaged, be it behind the archive, is an error.
func TestTarCompressed(t *testing.T) {
	fixtures.Need(t, "gzip", "zstd", "xz", "bzip2")
	var entries rawTar
	for i := range 40 {
		entries.header(fmt.Sprintf("file %d", i), '0', noise(3000+i))
	}
	data := entries.end()
	half := len(data) / 1024 * 512
	ctx := context.Background()
	list := func(data []byte) (n int, err error) {
		src, _, err := fromPipe(data, TarOptions{})(nil)
		if err != nil {
			return 0, err
		}
		defer src.Close()
		for {
			e, err := src.Next(ctx)
			if err == io.EOF {
				return n, nil
			}
			if err != nil {
				return n, err
			}
			r, err := e.Content.Open()
			if err != nil {
				return n, err
			}
			b, err := io.ReadAll(r)
			if err != nil {
				return n, err
			}
			if string(b) != noise(3000+n) {
				return n, errors.New("wrong contents")
			}
			n++
		}
	}
	compress := func(data []byte, command ...string) []byte {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, command := range []string{"gzip", "zstd -q", "zstd -q --ultra -22 --long=27", "xz", "xz -C sha256", "bzip2"} {
		args := strings.Fields(command)
		packed := compress(data, args...)
		if n, err := list(packed); n != 40 || err != nil {
			t.Errorf("%s: %d entries, %v", command, n, err)
		}
		two := append(compress(data[:half], args...), compress(data[half:], args...)...)
		if n, err := list(two); n != 40 || err != nil {
			t.Errorf("%s in two streams: %d entries, %v", command, n, err)
		}
		for _, cut := range []int{1, 4, 8, 20, len(packed) / 2, len(packed) - 20} {
			if n, err := list(packed[:len(packed)-cut]); err == nil {
				t.Errorf("%s, %d bytes less: %d entries and no error", command, cut, n)
			}
		}
		for _, at := range []int{len(packed) / 3, len(packed) - 6} {
			bad := bytes.Clone(packed)
			bad[at] ^= 0x10
			if n, err := list(bad); err == nil {
				t.Errorf("%s, byte %d changed: %d entries and no error", command, at, n)
			}
		}
		if n, err := list(compress(nil, args...)); err == nil {
			t.Errorf("%s of nothing: %d entries and no error", command, n)
		}
	}
	// Something to be skipped comes first, as pzstd has it.
	skip := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), compress(data, "zstd", "-q")...)
	if n, err := list(skip); n != 40 || err != nil {
		t.Errorf("a frame to be skipped: %d entries, %v", n, err)
	}
}

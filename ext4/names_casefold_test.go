package ext4_test

import (
	"fmt"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// casefoldDir makes a directory in which the case of names does not matter.
func casefoldDir(t *testing.T, fs *ext4.FS, name string) *ext4.Inode {
	t.Helper()
	in, err := fs.Mkdir(t.Context(), ext4.Root, disk.RootIno, name, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	flags := in.Disk().Flags | disk.FlagCasefold
	if err := fs.SetAttr(t.Context(), ext4.Root, in.Ino(), ext4.SetAttr{Flags: &flags}); err != nil {
		t.Fatal(err)
	}
	return in
}

// A strict file system refuses what is no UTF-8 in casefolded directories, whatever is done with the
// name, and nowhere else; another takes it, as it is (Documentation/admin-guide/ext4.rst).
func TestCasefoldStrict(t *testing.T) {
	for _, strict := range []bool{true, false} {
		t.Run(fmt.Sprint(strict), func(t *testing.T) {
			args := []string{"-O", "casefold", "-b", "1024"}
			if strict {
				args = append(args, "-E", "encoding_flags=strict,lazy_itable_init=1")
			}
			file := makeImage(t, "16M", args...)
			fs, done := openWrite(t, file)
			if got := fs.Super().EncodingFlags & disk.EncodingStrict; got != 0 != strict {
				t.Fatalf("s_encoding_flags is %#x", got)
			}
			casefoldDir(t, fs, "fold")
			o := ours{fs, ext4.Root}
			for _, err := range []error{o.create("good", unix.S_IFREG|0o644), o.mkdir("plain", 0o755), o.create("fold/good", unix.S_IFREG|0o644), o.mkdir("fold/dir", 0o755)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for i, bad := range []string{"\xff", "caf\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "cut\xe2\x82"} {
				d := fmt.Sprintf("plain/%d", i)
				want := map[string]error{}
				do := func(what string, err, otherwise error) {
					t.Helper()
					want[what] = otherwise
					if strict {
						want[what] = unix.EINVAL
					}
					if errnoOf(err) != errnoOf(want[what]) {
						t.Errorf("%q: %s: got %v, want %v", bad, what, err, want[what])
					}
				}
				_, err := fs.Resolve("fold/"+bad, false)
				do("look up", err, unix.ENOENT)
				do("create", o.create("fold/"+bad, unix.S_IFREG|0o644), nil)
				do("create again", o.create("fold/"+bad, unix.S_IFREG|0o644), unix.EEXIST)
				do("mkdir", o.mkdir("fold/d"+bad, 0o755), nil)
				do("symlink", o.symlink("target", "fold/s"+bad), nil)
				do("link", o.link("good", "fold/l"+bad), nil)
				do("rename to it", o.rename("fold/good", "fold/r"+bad, 0), nil)
				do("rename from it", o.rename("fold/r"+bad, "fold/good", 0), nil)
				do("exchange", o.rename("fold/good", "fold/"+bad, ext4.RenameExchange), nil)
				do("unlink", o.unlink("fold/"+bad), nil)
				do("rmdir", o.rmdir("fold/d"+bad), nil)
				for _, err := range []error{o.create("plain/"+bad, unix.S_IFREG|0o644), o.rename("plain/"+bad, d, 0), o.unlink(d)} {
					if err != nil {
						t.Errorf("%q where case matters: %v", bad, err)
					}
				}
			}
			if !strict {
				// What is no UTF-8 has no case.
				if err := o.create("fold/A\xff", unix.S_IFREG|0o644); err != nil {
					t.Error(err)
				}
				if _, err := fs.Resolve("fold/a\xff", false); errnoOf(err) != unix.ENOENT {
					t.Errorf("the other case: got %v, want ENOENT", err)
				}
			}
			if _, err := fs.Resolve("FOLD/GOOD", false); errnoOf(err) != unix.ENOENT {
				t.Errorf("FOLD, whose directory is not folded: %v", err)
			}
			if _, err := fs.Resolve("fold/GOOD", false); err != nil {
				t.Error(err)
			}
			done()
			checkImage(t, file)
		})
	}
}

// Names in an index stand where e2fsck, whose tables are the kernel's, looks for
// them; also those that newer tables, or others', fold in another way.
func TestCasefoldIndex(t *testing.T) {
	file := makeImage(t, "16M", "-O", "casefold", "-b", "1024")
	fs, done := openWrite(t, file)
	d := casefoldDir(t, fs, "d")
	odd := []rune{0xe9, 0xdf, 0x130, 0x345, 0x13a0, 0xab71, 0x13f8, 0x1f80, 0x1fb7, 0x1e9e, 0x1abf, 0x2c2f, 0xa7c0, 0xa7f5, 0x10570, 0x11938, 0xad, 0x200d, 0xd55c, 0x1fac0}
	for i := range 400 {
		name := fmt.Sprintf("Name%d\u0301%c\u0323-%c", i, odd[i%len(odd)], odd[i/len(odd)])
		if _, err := fs.Create(t.Context(), ext4.Root, d.Ino(), name, disk.ModeReg|0o644); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		other := "nAME" + name[4:]
		if _, err := fs.Lookup(d, other); err != nil {
			t.Errorf("%q by another case: %v", name, err)
		}
	}
	done()
	checkImage(t, file)
}

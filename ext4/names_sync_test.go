package ext4_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// What is done in a directory with the dirsync flag, or the sync flag, is durable when the call
// returns: the image as it is then, taken away, has it after recovery. In another directory it is not yet.
func TestDirsync(t *testing.T) {
	file := makeImage(t, "16M")
	dev, err := blockdev.Open(file, blockdev.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	fs, err := ext4.Open(dev, ext4.Options{Write: true, CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	o := ours{fs, ext4.Root}
	n := 0
	// cut returns the file system that a power cut would leave now.
	cut := func() (*ext4.FS, func()) {
		n++
		copied := filepath.Join(t.TempDir(), fmt.Sprint(n))
		if err := fixtures.CopySparse(copied, file); err != nil {
			t.Fatal(err)
		}
		return openWrite(t, copied)
	}
	for dir, flag := range map[string]disk.FileFlags{"plain": 0, "dirsync": disk.FlagDirsync, "sync": disk.FlagSync} {
		for _, err := range []error{o.mkdir(dir, 0o755), o.mkdir(dir+"-other", 0o755), o.create(dir+"/old", unix.S_IFREG|0o644), o.mkdir(dir+"/olddir", 0o755),
			o.create(dir+"-other/f", unix.S_IFREG|0o644), o.create(dir+"/leaves", unix.S_IFREG|0o644), o.flags(dir, uint32(flag)), fs.Sync()} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, tt := range []struct {
			what, path string
			there      bool
			err        func() error
		}{
			{"create", "/new", true, func() error { return o.create(dir+"/new", unix.S_IFREG|0o644) }},
			{"mkdir", "/newdir", true, func() error { return o.mkdir(dir+"/newdir", 0o755) }},
			{"symlink", "/newlink", true, func() error { return o.symlink("t", dir+"/newlink") }},
			{"link", "/newname", true, func() error { return o.link(dir+"/old", dir+"/newname") }},
			{"unlink", "/old", false, func() error { return o.unlink(dir + "/old") }},
			{"rmdir", "/olddir", false, func() error { return o.rmdir(dir + "/olddir") }},
			{"rename into", "/came", true, func() error { return o.rename(dir+"-other/f", dir+"/came", 0) }},
			{"rename out of", "/leaves", false, func() error { return o.rename(dir+"/leaves", dir+"-other/left", 0) }},
		} {
			if err := tt.err(); err != nil {
				t.Fatalf("%s: %s: %v", dir, tt.what, err)
			}
			after, end := cut()
			_, err := after.Resolve(dir+tt.path, false)
			end()
			if there := err == nil; there != tt.there && flag != 0 {
				t.Errorf("%s: after %s and a power cut, %s is there: %t", dir, tt.what, tt.path, there)
			} else if there == tt.there && flag == 0 && tt.what == "create" {
				t.Errorf("%s is durable without being asked for: the test sees nothing", tt.what)
			}
		}
	}
}

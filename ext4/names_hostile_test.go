package ext4

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// A name that leads to an EA inode, or to one that the file system has for itself, is an error
// for whoever follows it or takes it away: the links of an EA inode are counted elsewhere.
func TestNamesOfInternalInodes(t *testing.T) {
	fixtures.Need(t, "debugfs")
	image := newImage(t, someFiles, "-O", "ea_inode,orphan_file,quota,project,^metadata_csum")
	value := bytes.Repeat([]byte("v"), 9000)
	fs, done := openWrite(t, image, Options{})
	if err := fs.Setxattr(t.Context(), Root, fs.inoOf(t, "/file1"), "user.big", value, 0); err != nil {
		t.Fatal(err)
	}
	list, err := fs.inodeOf(t, "/file1").stored()
	if err != nil || len(list) != 1 || list[0].ValueIno == 0 {
		t.Fatalf("stored as %+v, %v", list, err)
	}
	inos := []disk.Ino{list[0].ValueIno, fs.sb.OrphanFileIno, fs.sb.ProjectQuotaIno}
	done()
	for i, ino := range inos {
		if out, err := exec.Command("debugfs", "-w", "-R", fmt.Sprintf("ln <%d> evil%d", ino, i), image).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %s", out)
		}
	}
	fs, done = openWrite(t, image, Options{Errors: ErrorsContinue})
	for i, ino := range inos {
		name := fmt.Sprint("evil", i)
		if _, err := fs.Resolve(name, false); err == nil {
			t.Errorf("%s leads to inode %d", name, ino)
		}
		wantErr(t, "unlink "+name, fs.Unlink(t.Context(), Root, disk.RootIno, name), disk.ErrCorrupt)
		wantErr(t, "rename "+name, fs.Rename(t.Context(), Root, disk.RootIno, name, disk.RootIno, "x", 0), disk.ErrCorrupt)
		wantErr(t, "rename to "+name, fs.Rename(t.Context(), Root, disk.RootIno, "file2", disk.RootIno, name, 0), disk.ErrCorrupt)
		if err := fs.Link(t.Context(), Root, ino, disk.RootIno, "y"); err == nil {
			t.Errorf("inode %d has got one more name", ino)
		}
		mode := disk.Mode(0o777)
		if err := fs.SetAttr(t.Context(), Root, ino, SetAttr{Mode: &mode}); err == nil {
			t.Errorf("inode %d has got another mode", ino)
		}
	}
	if got, err := fs.inodeOf(t, "/file1").Getxattr("user.big"); err != nil || !bytes.Equal(got, value) {
		t.Errorf("the value is %d bytes, %v", len(got), err)
	}
	done()
}

// A directory whose links are as many as the field holds does not become one without any.
func TestLinksOverflow(t *testing.T) {
	fixtures.Need(t, "debugfs")
	image := newImage(t, someFiles, "-b", "1024", "-O", "^metadata_csum")
	fs, done := openWrite(t, image, Options{})
	for i := range 100 {
		if _, err := fs.Create(t.Context(), Root, disk.RootIno, fmt.Sprintf("%060d", i), disk.ModeReg|0o644); err != nil {
			t.Fatal(err)
		}
	}
	done()
	if out, err := exec.Command("debugfs", "-w", "-R", "sif <2> links_count 65535", image).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %s", out)
	}
	fs, done = openWrite(t, image, Options{})
	defer done()
	if root := fs.inodeOf(t, "/"); !root.indexed() || root.disk.Links != 65535 {
		t.Fatalf("indexed: %t, %d links", root.indexed(), root.disk.Links)
	}
	for range 2 {
		if _, err := fs.Mkdir(t.Context(), Root, disk.RootIno, fmt.Sprint("new", fs.inodeOf(t, "/").disk.Links), 0o755); err != nil {
			t.Fatal(err)
		}
		if n := fs.inodeOf(t, "/").disk.Links; n != 1 {
			t.Errorf("%d links, want 1, which is many", n)
		}
	}
}

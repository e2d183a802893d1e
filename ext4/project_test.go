package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// setProject gives an inode to a project, and its flags away but for flags.
func setProject(t testing.TB, fs *FS, c Caller, path string, flags XFlags, project uint32) error {
	t.Helper()
	return fs.SetFSXattr(t.Context(), c, fs.inoOf(t, path), FSXattr{flags, project})
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

const xProjInherit = XFlags(0x200)

// A file that goes to another project is charged to it in the same update, and
// what is made in a directory that gives its project on has that; neither name nor file can
// leave or enter such a directory otherwise.
func TestProject(t *testing.T) {
	image := newImage(t, someFiles, "-O", "quota,project,casefold", "-b", "1024", "-I", "256")
	fs, done := openWrite(t, image, Options{QuotaLimits: []disk.QuotaType{disk.QuotaProject}})
	ctx := t.Context()
	user := Caller{UID: 5, GID: 6}
	wantErr(t, "a file to project 70000", setProject(t, fs, user, "/file7", 0, 70000), nil)
	if e := quotaEntry(t, fs, disk.QuotaProject, 70000); e.Space != 1024 || e.Inodes != 1 {
		t.Errorf("project 70000 has %d bytes, %d inodes", e.Space, e.Inodes)
	}
	wantErr(t, "to no project", setProject(t, fs, user, "/file7", 0, 1<<32-1), unix.EINVAL)
	changeQuotaEntry(t, fs, disk.QuotaProject, 9, func(e *disk.QuotaEntry) { e.InodeHardLimit = 1 })
	wantErr(t, "one file", setProject(t, fs, user, "/file1", 0, 9), nil)
	wantErr(t, "one too many", setProject(t, fs, user, "/file2", 0x40, 9), unix.EDQUOT)
	if x := fs.inodeOf(t, "/file2").FSXattr(); x != (FSXattr{}) {
		t.Errorf("after an error the file has %+v", x)
	}
	wantErr(t, "a directory", setProject(t, fs, user, "/dir0", xProjInherit, 12), nil)
	wantErr(t, "a file cannot give on", setProject(t, fs, user, "/file3", xProjInherit, 12), unix.EOPNOTSUPP)
	d, other := fs.inoOf(t, "/dir0"), fs.inoOf(t, "/dir1")
	in, err := fs.Create(ctx, user, d, "f", disk.ModeReg|0o644)
	if err != nil || in.FSXattr() != (FSXattr{0, 12}) {
		t.Errorf("a new file has %+v, %v", in.FSXattr(), err)
	}
	in, err = fs.Mkdir(ctx, user, d, "d", 0o755)
	if err != nil || in.FSXattr() != (FSXattr{xProjInherit, 12}) {
		t.Errorf("a new directory has %+v, %v", in.FSXattr(), err)
	}
	wantErr(t, "link into it", fs.Link(ctx, user, fs.inoOf(t, "/file3"), d, "l"), unix.EXDEV)
	wantErr(t, "rename into it", fs.Rename(ctx, user, disk.RootIno, "file3", d, "l", 0), unix.EXDEV)
	wantErr(t, "exchange with it", fs.Rename(ctx, user, disk.RootIno, "file3", d, "f", RenameExchange), unix.EXDEV)
	wantErr(t, "exchange from it", fs.Rename(ctx, user, d, "f", disk.RootIno, "file3", RenameExchange), unix.EXDEV)
	wantErr(t, "rename out of it", fs.Rename(ctx, user, d, "f", other, "f", 0), nil)
	wantErr(t, "and back", fs.Rename(ctx, user, other, "f", d, "f", 0), nil)
	wantErr(t, "a file that is fixed", setProject(t, fs, Root, "/file4", 0x8, 0), nil)
	wantErr(t, "to another project", setProject(t, fs, Root, "/file4", 0x8, 5), unix.EPERM)
	wantErr(t, "and not fixed", setProject(t, fs, Root, "/file4", 0, 5), nil)
	if e := quotaEntry(t, fs, disk.QuotaProject, 12); e.Inodes != 3 {
		t.Errorf("project 12 has %d inodes", e.Inodes)
	}
	done()
	checkImage(t, image)
}

// What stands where the project would has no meaning without the feature.
func TestProjectWithoutFeature(t *testing.T) {
	image := newImage(t, someFiles, "-O", "^metadata_csum", "-I", "256")
	for _, change := range []string{"sif dir0 projid 7", "sif dir0 flags 0x20080000", "sif file1 projid 9"} {
		fixtures.Need(t, "debugfs")
		if out, err := exec.Command("debugfs", "-w", "-R", change, image).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %s", out)
		}
	}
	fs, done := openWrite(t, image, Options{})
	d := fs.inoOf(t, "/dir0")
	wantErr(t, "link", fs.Link(t.Context(), Root, fs.inoOf(t, "/file1"), d, "l"), nil)
	wantErr(t, "rename", fs.Rename(t.Context(), Root, disk.RootIno, "file2", d, "r", 0), nil)
	in, err := fs.Create(t.Context(), Root, d, "f", disk.ModeReg|0o644)
	if err != nil || in.disk.ProjID != 0 {
		t.Errorf("a new file has project %d, %v", in.disk.ProjID, err)
	}
	wantErr(t, "project 0", setProject(t, fs, Root, "/file1", 0, 0), nil)
	wantErr(t, "project 1", setProject(t, fs, Root, "/file1", 0, 1), unix.EOPNOTSUPP)
	done()
	checkImage(t, image)
}

// An inode whose fields end before the project gets room for it, and its xattrs
// move into their block if they must.
func TestProjectNeedsRoom(t *testing.T) {
	for _, fill := range []int{0, 1, 2, 3} {
		for _, options := range []string{"project,^metadata_csum", "project,ea_inode,inline_data,^metadata_csum"} {
			t.Run(fmt.Sprint(options, fill), func(t *testing.T) {
				image := newImage(t, someFiles, "-O", options, "-I", "256", "-b", "1024")
				fixtures.Need(t, "debugfs")
				if out, err := exec.Command("debugfs", "-w", "-R", "sif fifo extra_isize 24", image).CombinedOutput(); err != nil {
					t.Fatalf("debugfs: %s", out)
				}
				fs, done := openWrite(t, image, Options{})
				ino := fs.inoOf(t, "/fifo")
				values := map[string][]byte{}
				set := func(name string, n int) {
					v := bytes.Repeat([]byte(name), n)[:n]
					values["trusted."+name] = v
					if err := fs.Setxattr(t.Context(), Root, ino, "trusted."+name, v, 0); err != nil {
						t.Fatal(err)
					}
				}
				switch fill {
				case 1: // the inode is full, and a small one makes room
					set("a", 24)
					set("b", 28)
				case 2: // and so is a part of the block
					set("a", 76)
					set("big", 700)
				case 3: // and all of the block, unless an EA inode has the large one
					set("a", 76)
					set("big", 900)
				}
				err := fs.SetAttr(t.Context(), Root, ino, SetAttr{Project: ptr(uint32(44))})
				want := uint32(44)
				if fill == 3 && !fs.sb.Incompat.Has(disk.IncompatEAInode) {
					wantErr(t, "no room", err, unix.ENOSPC)
					want = 0
				} else {
					wantErr(t, "project 44", err, nil)
				}
				in := fs.inodeOf(t, "/fifo")
				if in.FSXattr().Project != want || want != 0 && in.disk.ExtraIsize != 32 {
					t.Errorf("it has project %d, i_extra_isize %d", in.FSXattr().Project, in.disk.ExtraIsize)
				}
				for name, v := range values {
					if got, err := in.Getxattr(name); err != nil || !bytes.Equal(got, v) {
						t.Errorf("%s: got %q, %v", name, got, err)
					}
				}
				done()
				checkImage(t, image)
			})
		}
	}
}

func ptr[T any](v T) *T { return &v }

func (fs *FS) inodeOf(t testing.TB, path string) *Inode {
	t.Helper()
	in, err := fs.Inode(fs.inoOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

package ext4_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

const (
	iocSetLabel = 0x41009432 // FS_IOC_SETFSLABEL
	iocSetUUID  = 0x4008662c // EXT4_IOC_SETFSUUID
)

// supers are label and UUID in each superblock of an image that is closed, by the block it is in.
func supers(t *testing.T, file string) (out []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, disk.SuperblockSize)
	at := int64(disk.SuperblockOffset)
	if _, err := f.ReadAt(raw, at); err != nil {
		t.Fatal(err)
	}
	first := disk.DecodeSuperblock(raw)
	for g := range disk.Group(first.Groups()) {
		if g > 0 {
			at = int64(first.FirstBlock(g)) << first.BlockBits()
		}
		if !first.HasSuper(g) {
			continue
		}
		if _, err := f.ReadAt(raw, at); err != nil {
			t.Fatal(err)
		}
		if err := disk.CheckSuperblock(raw, at); err != nil {
			t.Error(err)
		}
		sb := disk.DecodeSuperblock(raw)
		out = append(out, fmt.Sprintf("group %d: %q %x", g, sb.Label, sb.UUID))
	}
	return out
}

// Label and UUID are set as the kernel does it: the same errno, and the same in
// the superblock and all of its backups.
func TestLabelAsKernel(t *testing.T) {
	for _, args := range [][]string{
		{"-b", "1024"},
		{"-b", "1024", "-O", "metadata_csum_seed"},
		{"-b", "1024", "-O", "^metadata_csum,^uninit_bg,^sparse_super,^resize_inode", "-g", "256"},
		{"-b", "4096", "-O", "^metadata_csum,uninit_bg", "-g", "1024"},
		{"-b", "4096", "-O", "sparse_super2,meta_bg,^resize_inode,metadata_csum_seed", "-g", "512"},
		{"-b", "1024", "-O", "metadata_csum_seed,stable_inodes"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			args = append(args, "-U", "00112233-4455-6677-8899-aabbccddeeff", "-L", "before")
			theirs, mine := makeImage(t, "40M", args...), makeImage(t, "40M", args...)
			root, unmount := fixtures.MountKernelWrite(t, theirs)
			fs, done := openWrite(t, mine)
			fd, err := unix.Open(root, unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			user := ext4.Caller{UID: 1000, GID: 1000}
			label := func(c ext4.Caller, label string) {
				arg := make([]byte, 256)
				copy(arg, label)
				want := error(nil)
				set := func() { want = ioctl(fd, iocSetLabel, arg) }
				if set2 := set; !c.Privileged {
					set = func() { asUser(1000, set2) }
				}
				set()
				if got := fs.SetLabel(t.Context(), c, label); errnoOf(got) != errnoOf(want) {
					t.Errorf("label %q: the kernel says %v, we %v", label, want, got)
				} else if got == nil && fs.Label() != label {
					t.Errorf("label %q: it is %q", label, fs.Label())
				}
			}
			uuid := func(c ext4.Caller, uuid [16]byte) {
				arg := binary.NativeEndian.AppendUint32(nil, 16)
				arg = append(append(arg, 0, 0, 0, 0), uuid[:]...)
				want := error(nil)
				set := func() { want = ioctl(fd, iocSetUUID, arg) }
				if set2 := set; !c.Privileged {
					set = func() { asUser(1000, set2) }
				}
				set()
				if got := fs.SetUUID(t.Context(), c, uuid); errnoOf(got) != errnoOf(want) {
					t.Errorf("uuid %x: the kernel says %v, we %v", uuid, want, got)
				} else if got == nil && fs.UUID() != uuid {
					t.Errorf("uuid %x: it is %x", uuid, fs.UUID())
				}
				var st unix.Statfs_t
				if err := unix.Fstatfs(fd, &st); err != nil {
					t.Fatal(err)
				}
				if mine, err := fs.Statfs(); err != nil || mine.FSID != [2]uint32{uint32(st.Fsid.Val[0]), uint32(st.Fsid.Val[1])} {
					t.Errorf("uuid %x: statfs has id %v, want %v (%v)", uuid, mine.FSID, st.Fsid.Val, err)
				}
			}
			label(ext4.Root, "a label too long!")
			label(user, "no")
			label(ext4.Root, "sixteen bytes ok")
			label(ext4.Root, "")
			label(ext4.Root, "short")
			uuid(user, [16]byte{1})
			uuid(ext4.Root, [16]byte{15: 7, 0: 9})
			unix.Close(fd)
			unmount()
			done()
			want, got := supers(t, theirs), supers(t, mine)
			if strings.Join(want, "\n") != strings.Join(got, "\n") {
				t.Errorf("%d superblocks are\n%s\nthe kernel's\n%s", len(got), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if len(got) < 3 {
				t.Errorf("only %d superblocks", len(got))
			}
			checkImage(t, mine)
		})
	}
}

// A UUID that EA inodes start their hashes from stays: the kernel lets it go, and
// cannot read their values any more.
func TestUUIDOfEAInodes(t *testing.T) {
	file := makeImage(t, "16M", "-O", "ea_inode,^metadata_csum,^uninit_bg")
	fs, done := openWrite(t, file)
	defer done()
	if err := fs.SetUUID(t.Context(), ext4.Root, [16]byte{1}); errnoOf(err) != unix.EOPNOTSUPP {
		t.Errorf("got %v, want EOPNOTSUPP", err)
	}
}

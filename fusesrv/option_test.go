package fusesrv

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseFlags(t *testing.T) {
	const base = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	tests := []struct {
		options string
		bits    uintptr
		words   string // for fusermount3
		bad     string
	}{
		{"", base, "ro nosuid nodev", ""},
		{"ro", base, "ro nosuid nodev", ""},
		{"suid,dev", unix.MS_RDONLY, "ro suid dev", ""},
		{"suid,nosuid", base, "ro nosuid nodev", ""},
		{"noexec,exec", base, "ro nosuid nodev", ""},
		{"noexec,noatime", base | unix.MS_NOEXEC | unix.MS_NOATIME, "ro nosuid nodev noexec noatime", ""},
		{"nosymfollow", base | unix.MS_NOSYMFOLLOW, "ro nosuid nodev nosymfollow", ""},
		{"context=system_u:object_r:x", base, "ro nosuid nodev context=system_u:object_r:x", ""},
		{"rw", unix.MS_NOSUID | unix.MS_NODEV, "rw nosuid nodev", ""},
		{"ro,allow_otter", 0, "", "allow_otter"},
		{"fd=7", 0, "", "fd=7"}, // would be the kernel's, and ours
	}
	for _, tt := range tests {
		var list []string
		if tt.options != "" {
			list = strings.Split(tt.options, ",")
		}
		f, err := ParseFlags(list)
		var bad *OptionError
		if errors.As(err, &bad) != (tt.bad != "") || bad != nil && bad.Option != tt.bad {
			t.Errorf("%q: got error %v, want one about %q", tt.options, err, tt.bad)
			continue
		}
		if tt.bad == "" && (f.bits != tt.bits || strings.Join(f.words(), " ") != tt.words) {
			t.Errorf("%q: got %#x and %q, want %#x and %q", tt.options, f.bits, f.words(), tt.bits, tt.words)
		}
	}
}

func TestParseMountLine(t *testing.T) {
	tests := []struct {
		line string
		want mountInfo
	}{
		{"36 35 0:45 / /mnt rw,noatime - fuse.e4go /a.img ro,user_id=0",
			mountInfo{36, 0, 45, "/mnt", "fuse.e4go", "/a.img", "ro,user_id=0", "rw,noatime"}},
		{"40 35 8:1 / /a\\040b\\134c rw shared:1 master:2 - ext4 /dev/sda\\0111 rw",
			mountInfo{40, 8, 1, `/a b\c`, "ext4", "/dev/sda\t1", "rw", "rw"}},
		{"41 35 0:45 / /mnt rw - fuse.e4go  ro", mountInfo{41, 0, 45, "/mnt", "fuse.e4go", "", "ro", "rw"}},
	}
	for _, tt := range tests {
		got, err := parseMountLine(tt.line)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q:\ngot  %+v, %v\nwant %+v", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{"", "36 35 0:45 / /mnt rw", "x 35 0:45 / /mnt rw - a b c", "36 35 045 / /mnt rw - a b c", "- - -"} {
		if got, err := parseMountLine(line); err == nil {
			t.Errorf("%q: got %+v, want an error", line, got)
		}
	}
	m := mountInfo{options: "ro,user_id=1000,group_id=x"}
	if n, ok := m.option("user_id"); n != 1000 || !ok {
		t.Errorf("user_id is %d, %v", n, ok)
	}
	if n, ok := m.option("group_id"); ok {
		t.Errorf("group_id is %d", n)
	}
}

func TestEscapeOption(t *testing.T) {
	if got, want := escapeOption(`a,b\c d`), `a\,b\\c d`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParseMountLine(f *testing.F) {
	f.Add("36 35 0:45 / /mnt rw,noatime shared:1 - fuse.e4go /a\\040.img ro,user_id=0")
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parseMountLine(line)
		if err == nil && len(m.point) > len(line) {
			t.Fatalf("%q has grown to %q", line, m.point)
		}
	})
}

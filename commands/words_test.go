package commands

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"e4go/ext4/disk"
)

func TestParseLine(t *testing.T) {
	app := newApp()
	for _, tt := range []struct{ line, want string }{
		{"ls /", "ls -- /"},
		{"ls / -lR", "ls -l -R -- /"},
		{"-i x ls --long", "ls --i=x --long --"},
		{"--image=x ls -a /", "ls --image=x --a -- /"},
		{"ls -ix /", "ls -i=x -- /"},
		{"ls -lRi x /", "ls -l -R -i=x -- /"},
		{"ls -- -l", "ls -- -l"},
		{"ls -l --help", "help ls"},
		{"--version", "version"},
	} {
		_, words, err := parseLine(app, strings.Fields(tt.line))
		if got := strings.Join(words, " "); err != nil || got != tt.want {
			t.Errorf("%q: got %q, %v, want %q", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{"", "lss", "ls --nosuch", "ls -lX", "ls --image", "-i x"} {
		if _, words, err := parseLine(app, strings.Fields(line)); classify(err).kind != "usage" {
			t.Errorf("%q: got %q, %v, want a usage error", line, words, err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"info", "ls", "stat", "dumpextents", "iomap-probe"}
	for w, want := range map[string]string{
		"inof": "info", "dumpextent": "dumpextents", "dump": "dumpextents", "iomapprobe": "iomap-probe", "zzz": "", "ll": "ls", "sl": "ls",
	} {
		if got := nearest(w, words); got != want {
			t.Errorf("nearest(%q) is %q, want %q", w, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "12": 12, "0x10": 16, "4k": 4096, "4K": 4096, "1m": 1 << 20, "3s": 1536, "2t": 2 << 40} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("parseSize(%q) is %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "-1", "1x", "1_0", "9223372036854775808", "8388608t", " 1"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) is %d, want an error", s, got)
		}
	}
}

func TestShownName(t *testing.T) {
	for s, want := range map[string]string{
		"plain": "plain", "é日": "é日", "a\nb": `a\nb`, "\x1b[31m": `\x1b[31m`, "\xff": `\xff`, `back\slash`: `back\\slash`,
		"a\u202eb": `a\u202eb`, "\x7f": `\x7f`,
	} {
		if got := shownName(s); got != want {
			t.Errorf("shownName(%q) is %s, want %s", s, got, want)
		}
	}
}

func TestAppendMode(t *testing.T) {
	for m, want := range map[disk.Mode]string{
		disk.ModeDir | 0o1777: "drwxrwxrwt", disk.ModeReg | 0o4755: "-rwsr-xr-x", disk.ModeReg | 0o2644: "-rw-r-Sr--",
		disk.ModeLink | 0o777: "lrwxrwxrwx", disk.ModeChar: "c---------", disk.ModeReg | 0o1640: "-rw-r----T", 0: "?---------",
	} {
		if got := string(appendMode(nil, m)); got != want {
			t.Errorf("%#o: got %s, want %s", uint16(m), got, want)
		}
	}
}

func TestZeroRuns(t *testing.T) {
	for _, tt := range []struct {
		bitmap []byte
		n      uint64
		want   []span
	}{
		{[]byte{0xff, 0xff}, 16, nil},
		{[]byte{0, 0, 0}, 24, []span{{0, 23}}},
		{[]byte{0, 0, 0}, 20, []span{{0, 19}}},
		{[]byte{0x0f, 0xf8}, 16, []span{{4, 10}}},
		{[]byte{0xfe, 0x7f, 0xff}, 24, []span{{0, 0}, {15, 15}}},
		{[]byte{0x00}, 100, []span{{0, 7}}},
		{[]byte{0xaa}, 8, []span{{0, 0}, {2, 2}, {4, 4}, {6, 6}}},
	} {
		if got := zeroRuns(tt.bitmap, tt.n); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%x, %d: got %v, want %v", tt.bitmap, tt.n, got, tt.want)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	got, ok := parseMountinfo(`36 35 8:2 / /mnt/a\040b rw,noatime shared:1 - ext4 /dev/sda2 rw,errors=continue` + "\n")
	if want := (mountPoint{dev: "8:2", dir: "/mnt/a b", fsType: "ext4", source: "/dev/sda2"}); !ok || got != want {
		t.Errorf("got %+v, %t, want %+v", got, ok, want)
	}
	if _, ok := parseMountinfo("36 35 8:2 / /mnt\n"); ok {
		t.Errorf("a line without a type was understood")
	}
}

// The exit statuses are a promise.
func TestClassify(t *testing.T) {
	corrupt := &disk.CorruptError{Struct: "inode", Field: "i_mode"}
	for _, tt := range []struct {
		err    error
		kind   string
		status int
	}{
		{nil, "", 0},
		{exit(1, nil), "findings", 1},
		{usagef("x"), "usage", 2},
		{fmt.Errorf("open: %w", corrupt), "corrupt", 4},
		{&pathError{"x", corrupt}, "corrupt", 4},
		{exit(8, corrupt), "corrupt", 8},
		{&kernelError{fmt.Errorf("x"), ""}, "kernel", 7},
		{errInterrupted, "interrupted", 130},
		{fmt.Errorf("x"), "io", 2},
	} {
		if got := classify(tt.err); got != (class{tt.kind, tt.status}) {
			t.Errorf("%v: got %v, want %s, %d", tt.err, got, tt.kind, tt.status)
		}
	}
}

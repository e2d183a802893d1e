package commands

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures/tourimage"
)

// A documented key of a section of docs/JSON.md.
type documented struct {
	types    []string
	optional bool
}

var keyRow = regexp.MustCompile("^\\| `([^`]+)` \\|([^|]*)\\|([^|]*)")

// readJSONPage returns the keys of each section of docs/JSON.md, those that stand for
// others (STAT, EXTENT) replaced by them.
func readJSONPage(t *testing.T) map[string]map[string]documented {
	b, err := os.ReadFile("../docs/JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	page := map[string]map[string]documented{}
	section := ""
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(name)
			page[section] = map[string]documented{}
		}
		if m := keyRow.FindStringSubmatch(line); m != nil {
			page[section][m[1]] = documented{strings.Split(strings.TrimSpace(m[2]), " or "), strings.Contains(m[3], "*opt*")}
		}
	}
	for _, keys := range page {
		for k, d := range maps.Clone(keys) {
			for word, from := range map[string]string{".STAT": "stat fields", ".EXTENT": "extents", ".PROBLEM": "problems"} {
				if prefix, ok := strings.CutSuffix(k, word); ok {
					delete(keys, k)
					for name, x := range page[from] {
						x.optional = x.optional || d.optional
						keys[prefix+"."+name] = x
					}
				}
			}
		}
	}
	return page
}

// collect notes the type of each key of v.
func collect(into map[string]string, prefix string, v any) {
	note := func(k, typ string) {
		if old, ok := into[k]; !ok || old == "null" {
			into[k] = typ
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			key := k
			if prefix != "" {
				key = prefix + "." + k
			}
			typ := ""
			switch x.(type) {
			case nil:
				typ = "null"
			case bool:
				typ = "bool"
			case string:
				typ = "string"
			case json.Number:
				typ = "int"
			case []any:
				typ = "array"
			default:
				typ = "object"
			}
			note(key, typ)
			collect(into, key, x)
		}
	case []any:
		for _, x := range v {
			collect(into, prefix+"[]", x)
		}
	}
}

var underError = regexp.MustCompile(`(^|\.)(error|errors\[\])\.`)

// Every key of every document is in docs/JSON.md, with its type, and those that are
// not optional are there.
func TestJSONIsDocumented(t *testing.T) {
	page := readJSONPage(t)
	dir := t.TempDir()
	image, broken := filepath.Join(dir, "disk.img"), filepath.Join(dir, "broken.img")
	bytes := tourimage.New()
	if err := os.WriteFile(image, bytes, 0o644); err != nil {
		t.Fatal(err)
	}
	bytes[1407*1024+9] ^= 0xff // the generation of a node of /extents.dat: its checksum is wrong
	if err := os.WriteFile(broken, bytes, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "TREE"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeTwice(t, dir)
	lines := []struct {
		status int
		line   string
	}{
		{0, "info disk.img"}, {0, "info --groups disk.img"}, {0, "info --no-recovery disk.img"},
		{0, "ls -lR -i disk.img"}, {0, "ls -i disk.img"}, {2, "ls -i disk.img /nosuch"},
		{0, "stat -i disk.img /attributes.txt /tiny.txt /docs/fast /null /extents.dat"}, {2, "stat -i disk.img / /nosuch"},
		{0, "cat -i disk.img /README.txt"}, {2, "cat -i disk.img /docs"},
		{0, "dumpextents -i disk.img /extents.dat /tiny.txt /indirect.dat"}, {4, "dumpextents -i broken.img /extents.dat"},
		{1, "dumpextents --check --all -i broken.img"}, {2, "dumpextents -i disk.img /nosuch /tiny.txt"},
		{0, "fiemap --holes -i disk.img /extents.dat"}, {0, "fiemap -i disk.img /tiny.txt"},
		{0, "iomap-probe --walk -i disk.img /extents.dat 0"}, {0, "iomap-probe -i disk.img /tiny.txt 0"},
		{0, "iomap-probe --op write -i disk.img /tiny.txt 0"}, {0, "iomap-probe --op write --count 8k -i disk.img /README.txt 0"},
		{0, "iomap-probe --all-ops -i disk.img /README.txt 8k"}, {2, "iomap-probe --opflags write,nowait -i disk.img /README.txt 8k"},
		{0, "iomap-probe --simulate --op write --count 8k -i disk.img /README.txt 0"},
		{0, "mkimage -n new.img 100m"}, {0, "mkimage new.img 2m"}, {0, "mkimage -F -d TREE new.img"}, {0, "mkimage -n -d TREE another.img"}, {2, "mkimage new.img"},
		{0, "fsck-lite disk.img"}, {4, "fsck-lite broken.img"}, {4, "fsck-lite twice.img"}, {8, "fsck-lite nosuch.img"}, {16, "fsck-lite"},
		{0, "version"}, {0, "help"}, {0, "help exit-codes"}, {0, "completion zsh"}, {0, "man ls"}, {2, "help nosuch"}, {2, "ls --nosuch"},
	}
	for _, l := range lines {
		words := append(strings.Fields(l.line), "--json")
		for i, w := range words {
			if strings.HasSuffix(w, ".img") || w == "TREE" {
				words[i] = filepath.Join(dir, w)
			}
		}
		status, out, errs := e4goStatus(words...)
		if status != l.status || errs != "" {
			t.Errorf("%s: exit status %d, want %d; standard error has %q", l.line, status, l.status, errs)
		}
		section := words[0]
		if section == "man" || section == "completion" {
			section = "help"
		}
		checkDocument(t, l.line, out, page, section)
	}
}

// What mount and umount print is documented, too.
func TestMountJSONIsDocumented(t *testing.T) {
	if ok, err := canMount(); err != nil {
		t.Fatal(err)
	} else if !ok {
		t.Skip("SKIPPED: mounting needs root and /dev/fuse")
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "disk.img"), filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(image, tourimage.New(), 0o644), os.Mkdir(mnt, 0o755)); err != nil {
		t.Fatal(err)
	}
	defer unmountBelow(dir)
	page := readJSONPage(t)
	for _, line := range []string{"mount --json -o usrquota " + image + " " + mnt, "umount --json " + mnt} {
		cmd := exec.Command("/proc/self/exe", strings.Fields(line)...)
		cmd.Args[0] = programName // see TestMain
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		section, _, _ := strings.Cut(line, " ")
		checkDocument(t, line, string(out), page, section)
		if section == "mount" && !strings.Contains(string(out), `"warnings":["usrquota has no effect`) {
			t.Errorf("%s: no warning in %s", line, out)
		}
	}
}

// writeTwice makes twice.img, in which a file has the block of another, and entries
// of a directory break off.
func writeTwice(t *testing.T, dir string) {
	t.Helper()
	tree, image := filepath.Join(dir, "two files"), filepath.Join(dir, "twice.img")
	if err := os.MkdirAll(filepath.Join(tree, "d\xff"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d\xff/one", "two"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, errs := e4goStatus("mkimage", "-q", "-b", "1024", "-O", "^metadata_csum,^has_journal", "-d", tree, image); status != 0 {
		t.Fatal(errs)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	bs := 1024
	desc := disk.DecodeGroupDesc(b[2*bs:][:disk.GroupDescSize64])
	inode := func(ino int) []byte { return b[int(desc.InodeTable)*bs+(ino-1)*256:][:256] }
	const one, two, d = 13, 14, 12
	copy(inode(two)[40:100], inode(one)[40:100]) // the map
	start := func(ino int) int { return int(disk.DecodeExtent(disk.ExtentEntry(inode(ino)[40:], 0)).Start) }
	b[start(d)*bs+24+4] = 3 // rec_len of the first entry behind the dots
	b[int(desc.BlockBitmap)*bs] = 0
	if err := os.WriteFile(image, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// So are those of the lines of a manifest.
func TestManifestIsDocumented(t *testing.T) {
	page := readJSONPage(t)
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(filepath.Join(src, "dir\xff"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "tiny"), []byte("tiny"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "large"), make([]byte, 70000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tiny", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "list")
	if status, _, errs := e4goStatus("mkimage", "-O", "inline_data", "-d", src, "--manifest", list, filepath.Join(dir, "a.img")); status != 0 {
		t.Fatalf("exit status %d: %s", status, errs)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(b)) {
		lines++
		checkDocument(t, "--manifest", line, page, "manifest")
	}
	if lines != 6 {
		t.Errorf("got %d lines, want 6: %s", lines, b)
	}
}

func checkDocument(t *testing.T, line, out string, page map[string]map[string]documented, section string) {
	d := json.NewDecoder(strings.NewReader(out))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil || d.More() {
		t.Errorf("%s: not one JSON document: %v: %.200s", line, err, out)
		return
	}
	got := map[string]string{}
	collect(got, "", doc)
	for _, k := range slices.Sorted(maps.Keys(got)) {
		want, ok := page[section][k]
		if loc := underError.FindStringIndex(k); loc != nil {
			want, ok = page["errors"][k[loc[1]:]]
		} else if !ok {
			want, ok = page["every document"][k]
		}
		if !ok {
			t.Errorf("%s: key %s is not in section %q of docs/JSON.md", line, k, section)
		} else if !slices.Contains(want.types, got[k]) {
			t.Errorf("%s: key %s is %s, docs/JSON.md says %v", line, k, got[k], want.types)
		}
	}
	if _, failed := got["error"]; failed {
		return
	}
	for k, d := range page[section] {
		if d.optional || strings.Contains(k, ".") && !hasParent(got, k) {
			continue
		}
		if _, ok := got[k]; !ok && !strings.Contains(k, "[]") {
			t.Errorf("%s: key %s is missing", line, k)
		}
	}
}

func hasParent(got map[string]string, k string) bool {
	parent := k[:strings.LastIndex(k, ".")]
	return got[parent] == "object"
}

// Documents keep their form: those of the tour's image are in testdata/json.
// With E4GO_UPDATE=1 they are written.
func TestJSONGolden(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, tourimage.New(), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"info":        "info --groups",
		"ls":          "ls -l /docs",
		"stat":        "stat /attributes.txt /tiny.txt",
		"cat":         "cat --range 0:40 /README.txt",
		"dumpextents": "dumpextents /indirect.dat /tiny.txt",
		"fiemap":      "fiemap --holes --length 20k /extents.dat",
		"iomap-probe": "iomap-probe --walk --count 4k /extents.dat 17k",
		"error":       "stat /nosuch",
	} {
		words := append(strings.Fields(line), "--json", "-i", image)
		_, out, _ := e4goStatus(words...)
		got := []byte(strings.ReplaceAll(out, image, "disk.img"))
		file := filepath.Join("testdata", "json", name+".json")
		if os.Getenv("E4GO_UPDATE") != "" {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", line, got, want)
		}
	}
}

func TestAppendJSONString(t *testing.T) {
	for _, s := range []string{"", "plain", "quote\" back\\slash", "\n\t\x00\x1f\x7f", "é日本", "bad\xff\xfeend", "\xed\xa0\x80", "\ufffd"} {
		b := appendJSONString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Errorf("%q: %s: %v", s, b, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); len([]rune(got)) != len([]rune(s)) || !strings.ContainsRune(s, 0xfffd) && strings.ToValidUTF8(got, "") != got {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
	if got := string(appendJSONString(nil, "a\xffb")); got != "\"a\ufffdb\"" {
		t.Errorf("got %s", got)
	}
}

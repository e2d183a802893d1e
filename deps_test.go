package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// imports says which packages of this module each may import. It is a
// statement of policy: a change that needs a new arrow argues for it here.
var imports = map[string]string{
	"ext4/disk":          "",
	"ext4/blockdev":      "",
	"ext4/jbd2":          "ext4/blockdev ext4/disk",
	"ext4/fsck":          "ext4/blockdev ext4/disk ext4/jbd2", // never ext4: it judges what that wrote
	"ext4/mkfs":          "ext4/blockdev ext4/disk",           // never ext4, which reads what it makes
	"ext4":               "ext4/blockdev ext4/disk ext4/jbd2",
	"iomap":              "",                     // the words of the protocol
	"iomap/ext4map":      "ext4 ext4/disk iomap", // speaks them for the server
	"iomap/simkernel":    "iomap",                // speaks them for the kernel, and never meets ext4
	"fusesrv":            "ext4 ext4/blockdev ext4/disk iomap iomap/ext4map",
	"fixtures":           "ext4/blockdev ext4/disk",           // never ext4: not built by what it tests
	"fixtures/tourimage": "ext4/blockdev ext4/disk ext4/mkfs", // never ext4
	"commands":           "ext4 ext4/blockdev ext4/disk ext4/fsck ext4/jbd2 ext4/mkfs fixtures/tourimage fusesrv iomap iomap/ext4map iomap/simkernel",
	"":                   "commands",
}

// restricted are the packages from outside that only some of ours may import.
// A name ending in "/..." has the packages below it too.
var restricted = []struct {
	name string
	only string // the packages that may, apart from tests
	why  string
}{
	{"C", "", "cgo would need a C compiler to build and a C library to run, and C code can break the memory of all of e4go"},
	{"unsafe", "fusesrv commands fixtures ext4/mkfs", "a hostile image must not be able to break our memory: only the glue to the kernel may go round the types; mkfs reads no images"},
	{"os/exec", "fusesrv fixtures", "e4go runs no tools of others on an image: only mounting as a user (fusermount3) and the judges of the tests are programs"},
	{"testing/...", "fixtures", "testing registers its flags in whatever program imports it: it belongs into _test.go files"},
}

// TestImports reads the import clauses of every file, for whatever system or
// build tag it is, which go list would not.
func TestImports(t *testing.T) {
	for _, problem := range checkImports(os.DirFS(".")) {
		t.Error(problem)
	}
}

// checkImports says what imports in the module at the root of fsys are not allowed.
func checkImports(fsys fs.FS) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	unlisted := map[string]bool{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name != "." && (base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
				return fs.SkipDir // the go command ignores these too
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(path.Dir(name), ".")
		allowed, ok := imports[pkg]
		if !ok && !unlisted[pkg] {
			unlisted[pkg] = true
			bad("package %q is not in the table of deps_test.go: say there what it may import", pkg)
		}
		for _, spec := range file.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if ours, ok := strings.CutPrefix(p, "e4go/"); ok || p == "e4go" {
				if !slices.Contains(strings.Fields(allowed), ours) {
					bad("%s: package %q imports %s; the table allows it %q: packages know as few others as they can, so that each can be tested and read alone", name, pkg, p, allowed)
				}
			}
			for _, r := range restricted {
				if matches(p, r.name) && !slices.Contains(strings.Fields(r.only), pkg) {
					bad("%s: package %q imports %s, which only %q may: %s", name, pkg, p, r.only, r.why)
				}
			}
		}
		return nil
	})
	if err != nil {
		bad("%v", err)
	}
	return problems
}

func matches(p, pattern string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == tree || strings.HasPrefix(p, tree+"/")
	}
	return p == pattern
}

// A module that breaks a rule is found out.
func TestImportsFindsBreaches(t *testing.T) {
	tests := []struct {
		file, imports string
		want          string // part of the one problem, or "" for none
	}{
		{"main.go", `"e4go/commands"`, ""},
		{"main.go", `"e4go/ext4"`, `package "" imports e4go/ext4;`},
		{"ext4/super.go", `"e4go/ext4/jbd2"; "errors"`, ""},
		{"ext4/super.go", `d "e4go/iomap"`, `package "ext4" imports e4go/iomap;`},
		{"ext4/super_windows.go", `_ "e4go/fixtures"`, `imports e4go/fixtures;`},
		{"ext4/disk/disk.go", `"e4go/ext4"`, `imports e4go/ext4;`},
		{"iomap/mapping.go", `"e4go/ext4/disk"`, `imports e4go/ext4/disk;`},
		{"iomap/mapping_test.go", `"e4go/ext4/disk"; "testing"; "os/exec"`, ""},
		{"fusesrv/server.go", `"unsafe"; "os/exec"`, ""},
		{"fusesrv/server.go", `"C"`, "cgo"},
		{"ext4/fast.go", `"unsafe"`, "imports unsafe"},
		{"commands/run.go", `"os/exec"`, "imports os/exec"},
		{"fixtures/oracle.go", `"os/exec"; "testing"`, ""},
		{"fixtures/testdata/x.go", `"C"`, ""},
		{"commands/run.go", `"testing"`, "imports testing,"},
		{"ext4/walk.go", `"testing/fstest"`, "imports testing/fstest,"},
		{"util/util.go", `"errors"`, `package "util" is not in the table`},
	}
	for _, tt := range tests {
		src := "package p\nimport (" + tt.imports + ")\n"
		got := checkImports(fstest.MapFS{tt.file: {Data: []byte(src)}})
		switch {
		case tt.want == "" && len(got) == 0:
		case tt.want != "" && len(got) == 1 && strings.Contains(got[0], tt.want):
		default:
			t.Errorf("%s with %s: got %q, want %q", tt.file, tt.imports, got, tt.want)
		}
	}
	got := checkImports(fstest.MapFS{"ext4/bad.go": {Data: []byte("package p\nimport (\n")}})
	if len(got) != 1 || !strings.Contains(got[0], "ext4/bad.go") {
		t.Errorf("a file that cannot be read: got %q", got)
	}
}

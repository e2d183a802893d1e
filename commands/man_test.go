package commands

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The pages in docs/man are those that e4go man --write docs/man makes.
func TestManPages(t *testing.T) {
	const dir = "../docs/man"
	pages := manPages(newApp())
	names := map[string]bool{}
	for _, p := range pages {
		names[p.file] = true
		got, err := os.ReadFile(filepath.Join(dir, p.file))
		if err != nil {
			t.Errorf("%v: run e4go man --write docs/man", err)
		} else if string(got) != p.text {
			t.Errorf("docs/man/%s is not what the usage texts say: run e4go man --write docs/man", p.file)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if !names[e.Name()] {
			t.Errorf("docs/man/%s is the page of no command", e.Name())
		}
	}
}

// Each mount option stands in the manual of mount.
func TestMountOptionsAreDocumented(t *testing.T) {
	words := strings.FieldsFunc(mountCommand.Description, func(r rune) bool { return strings.ContainsRune(" ,\n;:=|", r) })
	for name := range mountOptions {
		if name == "abort" || name == "dax" || name == "namespace" {
			continue // refused, with a reason
		}
		if !slices.Contains(words, name) {
			t.Errorf("the manual of mount does not have the option %s", name)
		}
	}
	for _, name := range []string{"lazytime", "strictatime", "noatime", "nodiratime", "relatime", "suid", "nosuid", "nodev", "noexec", "nosymfollow", "context"} {
		if !slices.Contains(words, name) {
			t.Errorf("the manual of mount does not have the option %s", name)
		}
	}
}

package commands

import (
	"os"
	"path/filepath"
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

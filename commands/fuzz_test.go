package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e4go/fixtures/tourimage"
)

// FuzzCommands: whatever stands in an image, each command ends in time, with a
// status that it documents and a JSON document that is one.
func FuzzCommands(f *testing.F) {
	lines := []string{
		"info --groups", "ls -lR", "stat 2 8 12 16 17 18 19", "dumpextents --all --check", "dumpextents 16 17 18",
		"fiemap --holes 16", "fiemap --xattr 19", "iomap-probe --walk 16 0", "cat --range 0:1m 16",
	}
	tour := tourimage.New()
	for _, at := range []uint32{0x400, 0x438, 0x460, 0x800, 0x81e, 7*1024 + 0x28, 9 * 1024, 1406 * 1024, 1407*1024 + 9, 1399 * 1024, 1403 * 1024} {
		for which := range uint8(len(lines)) {
			f.Add(at, which, []byte{0xff, 0xff, 0xff, 0xff})
			f.Add(at, which, []byte{0, 0, 0, 0, 0, 0, 0, 0})
		}
	}
	f.Fuzz(func(t *testing.T, at uint32, which uint8, b []byte) {
		if len(b) > 4096 {
			t.Skip()
		}
		image := bytes.Clone(tour)
		copy(image[int(at)%len(image):], b)
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		line := lines[int(which)%len(lines)]
		for _, more := range [][]string{nil, {"--json"}, {"--no-recovery"}} {
			words := append(append([]string{programName, "--image=" + path}, strings.Fields(line)...), more...)
			var out, errs bytes.Buffer
			start := time.Now()
			status := run(context.Background(), words, &out, &errs)
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("%q took %v", words, d)
			}
			switch status {
			case exitOK, exitFindings, exitTrouble, exitCorrupt, exitUnsupported:
			default:
				t.Errorf("%q: exit status %d: %s", words, status, errs.String())
			}
			if status != exitOK && errs.Len() == 0 && len(more) == 0 && !strings.Contains(out.String(), "DAMAGED") {
				t.Errorf("%q: exit status %d without a word", words, status)
			}
			if len(more) == 1 && more[0] == "--json" {
				var doc map[string]any
				if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
					t.Errorf("%q: %v", words, err)
				}
			}
		}
	})
}

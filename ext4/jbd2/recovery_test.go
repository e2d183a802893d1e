package jbd2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/disk"
)

// writer makes files for debugfs's journal_write: its jw logs blocks of a file.
type writer struct {
	t    *testing.T
	bs   int
	seed byte
}

// file holds n blocks, each different; the first starts with the journal's
// magic if escape is set.
func (w *writer) file(n int, escape bool) string {
	var b bytes.Buffer
	for i := range n {
		w.seed++
		block := bytes.Repeat([]byte{w.seed, byte(i)}, w.bs/2)
		if escape && i == 0 {
			binary.BigEndian.PutUint32(block, disk.JournalMagic)
		}
		b.Write(block)
	}
	path := filepath.Join(w.t.TempDir(), fmt.Sprintf("data%d", w.seed))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// A journal case: how the image is made, how its log is opened, and what is in it.
type logCase struct {
	name   string
	mkfs   []string
	open   string // journal_open options
	blocks int    // block size
	script func(w *writer) []string
	want   Stats
}

func logCases() []logCase {
	var cases []logCase
	plain := func(w *writer) []string {
		return []string{
			"jw -b 3000,3001,3002 " + w.file(3, false),
			"jw -b 3001 " + w.file(1, true),
			"jw -r 3000",
			"jw -b 3005,3006 " + w.file(2, false),
			"jw -r 3006",
			"jw -b 3006 " + w.file(1, false),
		}
	}
	// The sums that debugfs puts into commit blocks cover revoke blocks too,
	// which those of the kernel do not.
	whole := func(w *writer) []string {
		return []string{
			"jw -b 3000,3001,3002 " + w.file(3, false),
			"jw -b 3001 " + w.file(1, true),
			"jw -b 3005,3006 " + w.file(2, false),
		}
	}
	for _, bits := range []string{"64bit", "^64bit"} {
		for _, sum := range []struct{ name, feature, open string }{
			{"none", "^metadata_csum", ""},
			{"v1", "^metadata_csum", "-c"},
			{"v2", "metadata_csum", "-c -v 2"},
			{"v3", "metadata_csum", "-c -v 3"},
		} {
			for _, bs := range []int{1024, 4096} {
				script, want := plain, Stats{Transactions: 6, Blocks: 5, Revokes: 2, Revoked: 2}
				if sum.name == "v1" {
					script, want = whole, Stats{Transactions: 3, Blocks: 6}
				}
				cases = append(cases, logCase{
					name:   fmt.Sprintf("%s/%s/%d", bits, sum.name, bs),
					mkfs:   []string{"-O", bits + "," + sum.feature, "-b", fmt.Sprint(bs), "-J", "size=4"},
					open:   sum.open,
					blocks: bs,
					script: script,
					want:   want,
				})
			}
		}
	}
	const v3 = "^64bit,metadata_csum"
	cases = append(cases,
		logCase{
			name: "uncommitted", mkfs: []string{"-O", v3, "-b", "1024", "-J", "size=4"}, open: "-c -v 3", blocks: 1024,
			script: func(w *writer) []string {
				return []string{"jw -b 3000 " + w.file(1, false), "jw -b 3001 -c " + w.file(1, false)}
			},
			want: Stats{Transactions: 1, Blocks: 1},
		},
		logCase{
			name: "many tags", mkfs: []string{"-O", v3, "-b", "1024", "-J", "size=4"}, open: "-c -v 3", blocks: 1024,
			script: func(w *writer) []string {
				var list []string
				for i := range 200 { // more than a descriptor block holds
					list = append(list, fmt.Sprint(8000+i))
				}
				return []string{"jw -b " + strings.Join(list, ",") + " " + w.file(200, true), "jw -r 8010,8011,8012"}
			},
			want: Stats{Transactions: 2, Blocks: 197, Revokes: 3, Revoked: 3},
		},
		logCase{
			name: "64 KiB", mkfs: []string{"-O", "64bit,metadata_csum", "-b", "65536", "-J", "size=64"}, open: "-c -v 3", blocks: 65536,
			script: func(w *writer) []string {
				return []string{"jw -b 1500,1501 " + w.file(2, true), "jw -r 1500"}
			},
			want: Stats{Transactions: 2, Blocks: 1, Revokes: 1, Revoked: 1},
		},
	)
	return cases
}

// What e2fsck makes of a log that debugfs wrote is what we make of it.
func TestRecoverAgreesWithE2fsck(t *testing.T) {
	need(t, "mke2fs", "debugfs", "e2fsck")
	for _, tt := range logCases() {
		t.Run(tt.name, func(t *testing.T) {
			size := "24M"
			if tt.blocks == 65536 {
				size = "160M"
			}
			path := mkfs(t, size, tt.mkfs...)
			w := &writer{t: t, bs: tt.blocks}
			out := debugfs(t, path, append(append([]string{"jo " + tt.open}, tt.script(w)...), "jc")...)
			if strings.Contains(out, "while") {
				t.Fatalf("debugfs: %s", out)
			}
			dev := load(t, path)
			before := contents(t, dev)
			got, stats, err := recoverImage(t, dev)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(contents(t, dev), before) {
				t.Error("recovery changed the image below the overlay")
			}
			run(t, []int{1}, "e2fsck", "-fy", "-E", "journal_only", path)
			sameBlocks(t, got, load(t, path))
			stats.Start, stats.End, stats.Next = 0, 0, 0
			if stats != tt.want {
				t.Errorf("got %+v, want %+v", stats, tt.want)
			}
			out2 := filepath.Join(t.TempDir(), "recovered")
			save(t, got, out2)
			if s := run(t, nil, "dumpe2fs", "-h", out2); strings.Contains(s, "needs_recovery") {
				t.Error("still needs recovery")
			}
		})
	}
}

package commands

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"e4go/fixtures"
)

// BenchmarkDumpExtents prints a tree of 300,000 extents, opening included.
func BenchmarkDumpExtents(b *testing.B) {
	image, _ := fixtures.Find(b, "extents-300k").Open(b)
	benchmarkRun(b, "dumpextents", "-i", image, "/fragmented")
}

// BenchmarkInfo opens a file system of 1 TiB and shows its superblock.
func BenchmarkInfo(b *testing.B) {
	image, _ := fixtures.Find(b, "tib").Open(b)
	benchmarkRun(b, "info", image)
}

// BenchmarkLs lists a tree of 20,000 files with all that stat knows.
func BenchmarkLs(b *testing.B) {
	image, _ := fixtures.Find(b, "tree-20000").Open(b)
	benchmarkRun(b, "ls", "-R", "-l", "--json", "-i", image)
}

func benchmarkRun(b *testing.B, args ...string) {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		var complaints bytes.Buffer
		if status := run(context.Background(), append([]string{programName}, args...), io.Writer(f), &complaints); status != 0 {
			b.Fatalf("exit status %d: %s", status, complaints.String())
		}
	}
}

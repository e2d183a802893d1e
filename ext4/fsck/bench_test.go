package fsck_test

import (
	"context"
	"os"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// BenchmarkRun checks the image that E4GO_FSCK_BENCH names, or a fixture with
// 200,000 names, whose blocks are in the page cache.
func BenchmarkRun(b *testing.B) {
	file := os.Getenv("E4GO_FSCK_BENCH")
	if file == "" {
		file, _ = fixtures.Find(b, "dir-200k").Open(b)
	}
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	b.ReportAllocs()
	for b.Loop() {
		report, err := fsck.Run(context.Background(), dev, fsck.Options{Replay: true})
		if err != nil || report.Damaged() {
			b.Fatalf("%v, damaged is %t", err, report.Damaged())
		}
	}
}

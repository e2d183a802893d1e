package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/fixtures"
	"e4go/fixtures/tourimage"

	"golang.org/x/sys/unix"
)

// An interrupted check says so, with what it had found, in the form that was asked for.
func TestFsckLiteInterrupted(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, tourimage.New(), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{programName, "fsck-lite", image}, &stdout, &stderr); status != fsckCancelled {
		t.Errorf("exit status %d, want %d", status, fsckCancelled)
	}
	if got, want := stderr.String(), "e4go fsck-lite: interrupted\n"; got != want || !strings.Contains(stdout.String(), "disk.img: interrupted; so far no damage\n") {
		t.Errorf("standard output %q, standard error %q, want %q", stdout.String(), got, want)
	}
	stdout.Reset()
	if status := run(ctx, []string{programName, "fsck-lite", "--json", image}, &stdout, &stderr); status != fsckCancelled {
		t.Errorf("exit status %d, want %d", status, fsckCancelled)
	}
	var doc struct {
		Cancelled bool
		Complete  bool
		Error     struct{ Kind string }
	}
	if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil || !doc.Cancelled || doc.Complete || doc.Error.Kind != "interrupted" {
		t.Errorf("%v: %s", err, stdout.String())
	}
}

// An image that is mounted is checked, with a warning.
func TestFsckLiteInUse(t *testing.T) {
	fixtures.Need(t, "root", "loop")
	image := filepath.Join(t.TempDir(), "disk.img")
	if status, _, errs := e4goStatus("mkimage", image, "8m"); status != 0 {
		t.Fatal(errs)
	}
	dir := t.TempDir()
	if err := unix.Mount(loopDevice(t, image), dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	status, out, errs := e4goStatus("fsck-lite", image)
	if status != 0 || !strings.Contains(errs, "warning: ") || !strings.Contains(errs, "is in use") {
		t.Errorf("exit status %d, standard output %q, standard error %q", status, out, errs)
	}
	if _, out, _ = e4goStatus("fsck-lite", "--json", image); !strings.Contains(out, `"in_use":true`) {
		t.Errorf("got %s", out)
	}
}

// What cannot be printed is trouble, whether or not there is damage.
func TestFsckLiteOutputFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("SKIPPED %s: %v", t.Name(), err)
	}
	defer full.Close()
	image := filepath.Join(t.TempDir(), "disk.img")
	sound := tourimage.New()
	broken := bytes.Clone(sound)
	broken[1024+0x68] ^= 1 // s_uuid, and so the checksum
	for _, raw := range [][]byte{sound, broken} {
		if err := os.WriteFile(image, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, flag := range []string{"--verbose", "--json"} {
			var stderr bytes.Buffer
			status := run(context.Background(), []string{programName, "fsck-lite", flag, image}, full, &stderr)
			if status&fsckTrouble == 0 || !strings.Contains(stderr.String(), "no space left on device") {
				t.Errorf("%s: exit status %d, standard error %q", flag, status, stderr.String())
			}
		}
	}
}

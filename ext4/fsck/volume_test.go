package fsck_test

import (
	"bytes"
	"io"
	"os"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures"
)

// A volume is an image that is mutated.
type volume struct {
	t    testing.TB
	f    volumeFile
	fs   *ext4.FS
	sb   disk.Superblock
	seed uint32
	bs   int64
}

// volumeFile is where its bytes are.
type volumeFile interface {
	io.ReaderAt
	io.WriterAt
}

func openVolume(t testing.TB, file string) *volume {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return newVolume(t, f, dev)
}

// newVolume is the volume in f, which dev reads.
func newVolume(t testing.TB, f volumeFile, dev blockdev.Device) *volume {
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sb := *fs.Super()
	return &volume{t: t, f: f, fs: fs, sb: sb, seed: sb.Seed(), bs: int64(sb.BlockSize())}
}

// inMemory reads a fixture into memory.
func inMemory(t testing.TB, name string) *blockdev.Mem {
	file, _ := fixtures.Find(t, name).Open(t)
	f, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem := blockdev.NewMem(f.Size())
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < f.Size(); at += int64(len(buf)) {
		n, err := f.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := mem.WriteAt(buf[:n], at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := mem.Flush(); err != nil {
		t.Fatal(err)
	}
	return mem
}

func (v *volume) read(at int64, n int) []byte {
	b := make([]byte, n)
	if _, err := v.f.ReadAt(b, at); err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v *volume) write(at int64, b []byte) {
	if _, err := v.f.WriteAt(b, at); err != nil {
		v.t.Fatal(err)
	}
}

// change applies fn to n bytes at at.
func (v *volume) change(at int64, n int, fn func(b []byte)) {
	b := v.read(at, n)
	fn(b)
	v.write(at, b)
}

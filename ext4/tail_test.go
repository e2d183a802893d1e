package ext4_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"e4go/ext4"
)

// What another writer has left behind the end of a file, in its last block, is
// never shown: it reads as zeros when the file goes on behind it.
func TestGarbageBehindTheEnd(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		grow func(fs *ext4.FS, in *ext4.Inode) error
		want []byte
	}{
		{"write behind it", func(fs *ext4.FS, in *ext4.Inode) error {
			_, err := fs.WriteAt(ctx, ext4.Root, in.Ino(), []byte("end"), 500)
			return err
		}, append(append([]byte("start"), make([]byte, 495)...), "end"...)},
		{"truncate", func(fs *ext4.FS, in *ext4.Inode) error {
			return fs.Truncate(ctx, ext4.Root, in.Ino(), 700)
		}, append([]byte("start"), make([]byte, 695)...)},
		{"fallocate", func(fs *ext4.FS, in *ext4.Inode) error {
			return fs.Fallocate(ctx, ext4.Root, in.Ino(), 0, 0, 600)
		}, append([]byte("start"), make([]byte, 595)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := volumes[0].make(t, "a")
			fs, closeFS := writable(t, image, ext4.Options{})
			ino := inos(t, fs, "a")[0]
			if _, err := fs.WriteAt(ctx, ext4.Root, ino, []byte("start"), 0); err != nil {
				t.Fatal(err)
			}
			in, err := fs.Inode(ino)
			if err != nil {
				t.Fatal(err)
			}
			m, err := in.Map(0)
			if err != nil {
				t.Fatal(err)
			}
			at := int64(m.Physical) << fs.Super().BlockBits()
			closeFS()

			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, 900), at+5); err != nil {
				t.Fatal(err)
			}
			f.Close()

			fs, closeFS = writable(t, image, ext4.Options{})
			if in, err = fs.Inode(ino); err != nil {
				t.Fatal(err)
			}
			if err := tt.grow(fs, in); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(tt.want))
			if _, err := in.ReadAt(got, 0); err != nil || !bytes.Equal(got, tt.want) {
				t.Errorf("%v; %q, want %q", err, got, tt.want)
			}
			closeFS()
			sound(t, image)
		})
	}
}

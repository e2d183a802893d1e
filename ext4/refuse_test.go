package ext4

import (
	"bytes"
	"errors"
	"testing"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/fixtures/tourimage"
)

// What may not be written is refused before a byte of it is: its unclean
// journal is not replayed either.
func TestRefusedToWrite(t *testing.T) {
	super := func(change func(*disk.Superblock)) func([]byte) {
		return func(image []byte) {
			raw := image[disk.SuperblockOffset:][:disk.SuperblockSize]
			sb := disk.DecodeSuperblock(raw)
			change(&sb)
			sb.Put(raw)
			sb.Checksum = disk.SuperblockChecksum(raw)
			sb.Put(raw)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(image []byte) // nil: its end is missing
		o      Options
	}{
		{"a feature that forbids it", super(func(sb *disk.Superblock) { sb.ROCompat |= 1 << 30 }), Options{Write: true}},
		{"no recovery", func([]byte) {}, Options{Write: true, NoRecovery: true}},
		{"a device that is too short", nil, Options{Write: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := bytes.Clone(tourimage.New())
			if tt.damage == nil {
				image = image[:len(image)-100<<10]
			} else {
				tt.damage(image)
			}
			dev := blockdev.NewMem(int64(len(image)))
			if _, err := dev.WriteAt(image, 0); err != nil {
				t.Fatal(err)
			}
			fs, err := Open(dev, tt.o)
			if err == nil {
				fs.Close()
				t.Fatal("it was opened for writing")
			}
			var no *UnsupportedError
			if !errors.As(err, &no) {
				t.Errorf("got %v, want an UnsupportedError", err)
			}
			after := make([]byte, len(image))
			if _, err := dev.ReadAt(after, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(after, image) {
				t.Error("it was written all the same")
			}
		})
	}
}

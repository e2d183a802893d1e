package ext4_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/jbd2"
	"e4go/fixtures"
	"e4go/fixtures/tourimage"

	"golang.org/x/sys/unix"
)

// walkEverything uses all that can be read of a file system, within limits
// that a sound small image does not reach. It returns the errors met, by kind.
func walkEverything(fs *ext4.FS, inodes uint32) (errs []error) {
	note := func(err error) {
		if err != nil && err != io.EOF {
			errs = append(errs, err)
		}
	}
	sb := fs.Super()
	for g := uint64(0); g < min(sb.Groups(), 64); g++ {
		_, err := fs.Group(disk.Group(g))
		note(err)
		_, err = fs.InodeBitmap(disk.Group(g))
		note(err)
		_, err = fs.BlockBitmap(disk.Group(g))
		note(err)
	}
	_, err := fs.Orphans()
	note(err)
	_, err = fs.MMP()
	note(err)
	if sb.Groups() < 1<<16 {
		_, err = fs.Statfs()
		note(err)
	}
	buf := make([]byte, 64<<10)
	for ino := disk.Ino(1); uint32(ino) <= min(sb.Inodes, inodes); ino++ {
		in, err := fs.Inode(ino)
		if note(err); err != nil {
			continue
		}
		in.Stat()
		_, err = in.Xattrs()
		note(err)
		names, err := in.Listxattr()
		note(err)
		for _, name := range names {
			_, err := in.Getxattr(name)
			note(err)
		}
		rows := 0
		sum, err := in.WalkMap(func(r ext4.MapRow) error {
			note(r.Err)
			if rows++; rows > 1<<16 {
				return errEnough
			}
			return nil
		})
		note(err)
		in.CheckBlocks(sum)
		for b, n := uint64(0), 0; b < 1<<32 && n < 256; n++ {
			m, err := in.Map(disk.LBlock(b))
			if err != nil {
				note(err)
				break
			}
			if m.End() <= b || uint64(m.Logical) > b {
				panic(fmt.Sprintf("inode %d: Map(%d) is %+v", ino, b, m))
			}
			b = m.End()
		}
		switch in.Type() {
		case disk.ModeLink:
			_, err := in.Readlink()
			note(err)
		case disk.ModeReg:
			for off := int64(0); off < min(in.Size(), 1<<20); off += int64(len(buf)) {
				_, err := in.ReadAt(buf, off)
				note(err)
			}
			_, err = in.SeekHole(0)
			note(err)
		case disk.ModeDir:
			errs = append(errs, listAll(fs, in)...)
		}
	}
	return errs
}

var errEnough = errors.New("enough")

func listAll(fs *ext4.FS, in *ext4.Inode) (errs []error) {
	d, err := fs.OpenDir(in)
	if err != nil {
		return []error{err}
	}
	for range 1 << 14 {
		e, err := d.Next()
		if err == io.EOF {
			return errs
		}
		if err != nil {
			if errs = append(errs, err); len(errs) > 1<<10 {
				return errs
			}
			continue
		}
		if _, err := fs.Lookup(in, e.Name); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// typed reports whether err is of a kind that callers are told of.
func typed(err error) bool {
	var (
		unsupported *ext4.UnsupportedError
		log         *jbd2.UnsupportedError
		journal     *jbd2.WrongJournalError
		errno       unix.Errno
	)
	return errors.Is(err, disk.ErrCorrupt) || errors.As(err, &unsupported) || errors.As(err, &log) || errors.As(err, &journal) ||
		errors.As(err, &errno) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ext4.ErrInline) || errors.Is(err, errEnough) ||
		errors.Is(err, blockdev.ErrOverlayFull) || strings.Contains(err.Error(), "more nodes than the device has blocks")
}

func TestCorpus(t *testing.T) {
	for _, image := range fixtures.Corpus(t) {
		t.Run(image.Name, func(t *testing.T) {
			dev, err := blockdev.Open(image.Unpack(t), blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { dev.Close() })
			before := sumOf(t, dev)
			start := time.Now()
			var m0, m1 runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m0)
			fs, err := ext4.Open(dev, ext4.Options{CacheSize: 16 << 20})
			if err != nil {
				if !typed(err) {
					t.Errorf("open: untyped error %T: %v", err, err)
				}
				return
			}
			defer fs.Close()
			for _, err := range walkEverything(fs, 20000) {
				if !typed(err) {
					t.Errorf("untyped error %T: %v", err, err)
				}
			}
			runtime.ReadMemStats(&m1)
			if d := time.Since(start); d > 60*time.Second {
				t.Errorf("took %v", d)
			}
			if grown := int64(m1.HeapAlloc) - int64(m0.HeapAlloc); grown > 256<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if sumOf(t, dev) != before {
				t.Error("the image changed")
			}
		})
	}
}

func sumOf(t *testing.T, dev blockdev.Device) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(dev, 0, dev.Size())); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A patch is bytes that a mutated image has instead of its own.
type patch struct {
	at    int64
	bytes []byte
}

// flips are a few changes to image, more often where metadata lie.
func flips(image []byte, rng *rand.Rand) (out []patch) {
	for range 1 + rng.IntN(8) {
		at := rng.IntN(len(image) - 4)
		switch rng.IntN(4) {
		case 0:
			at = 1024 + rng.IntN(3*1024) // superblock, descriptors, bitmap
		case 1:
			at = 5*1024 + rng.IntN(60*256) // inodes in use
		case 2:
			at = 133*1024 + rng.IntN(1200*1024) // journal
		}
		b := append([]byte(nil), image[at:at+4]...)
		switch rng.IntN(4) {
		case 0:
			b[0] ^= 1 << rng.IntN(8)
		case 1:
			b[0] = byte(rng.Uint32())
		case 2:
			clear(b)
		case 3:
			b = []byte{0xff, 0xff, 0xff, 0xff}
		}
		out = append(out, patch{int64(at), b})
	}
	return out
}

// FuzzOpen mutates the image that code makes, with checksums off in half of
// the runs so that damage gets past them, and reads everything.
func FuzzOpen(f *testing.F) {
	image := tourimage.New()
	summed := memOf(f, image)
	noChecksums(image)
	bare := memOf(f, image)
	for seed := range uint64(16) {
		f.Add(seed, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, csum bool) {
		base := bare
		if csum {
			base = summed
		}
		checkMutated(t, base, flips(image, rand.New(rand.NewPCG(seed, 0))))
	})
}

// noChecksums turns the feature off in the superblock, and gives indexes of
// directories the room that their checksums took: they stay sound.
func noChecksums(image []byte) {
	sb := disk.DecodeSuperblock(image[disk.SuperblockOffset:])
	sb.ROCompat &^= disk.ROCompatMetadataCsum
	sb.Put(image[disk.SuperblockOffset:])
	for bs := sb.BlockSize(); len(image) >= bs; image = image[bs:] {
		b := image[:bs]
		dot, dotdot := disk.DecodeDirent(b, bs), disk.DecodeDirent(b[12:], bs)
		if dot.RecLen == 12 && dot.NameLen == 1 && dotdot.RecLen == bs-12 && disk.DecodeDxRoot(b).InfoLength == 8 {
			n := disk.DxRootNode(b)
			n.SetCount(n.Count(), n.DxLimit(false))
		}
	}
}

func checkMutated(t *testing.T, base blockdev.Device, patches []patch) {
	dev := blockdev.NewOverlay(base)
	for _, p := range patches {
		if _, err := dev.WriteAt(p.bytes, p.at); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := ext4.Open(dev, ext4.Options{CacheSize: 4 << 20})
	if err != nil {
		if !typed(err) {
			t.Fatalf("open: untyped error %T: %v", err, err)
		}
		return
	}
	defer fs.Close()
	for _, err := range walkEverything(fs, 64) {
		if !typed(err) {
			t.Fatalf("untyped error %T: %v", err, err)
		}
	}
}

// FuzzImage takes bytes of its own choice into the image: at places that it
// chooses, too.
func FuzzImage(f *testing.F) {
	image := tourimage.New()
	noChecksums(image)
	base := memOf(f, image)
	f.Add([]byte{0, 4, 0, 1, 2, 3, 4, 5})
	f.Add([]byte{0, 0x14, 0x28, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var patches []patch
		for ; len(b) >= 8 && len(patches) < 64; b = b[8:] {
			at := (int64(b[0])<<16 | int64(b[1])<<8 | int64(b[2])) % int64(len(image)-5)
			patches = append(patches, patch{at, b[3:8]})
		}
		checkMutated(t, base, patches)
	})
}

// A superblock that is damaged is replaced by a backup, and the caller can
// tell. (TestTree compares what is read then.)
func TestBackupSuperblock(t *testing.T) {
	fs, _ := openImage(t, fixtures.Find(t, "bad-primary"))
	if fs.PrimaryErr() == nil || fs.SuperOffset() == 1024 {
		t.Errorf("PrimaryErr %v, SuperOffset %d", fs.PrimaryErr(), fs.SuperOffset())
	}
}

// The backup is found whatever the size of the groups.
func TestBackupSuperblockPlaces(t *testing.T) {
	fixtures.Need(t, "mke2fs")
	for _, args := range []string{
		"-b 1024 ^ 20M", "-b 2048 ^ 70M", "-b 4096 ^ 300M", "-b 65536 ^ 40G",
		"-b 1024 -O bigalloc -C 2048 ^ 40M", "-b 1024 -O bigalloc -C 65536 ^ 2G", "-b 4096 -O bigalloc -C 16384 ^ 1200M", "-b 8192 ^ 600M", "-b 65536 -O bigalloc -C 262144 ^ 20G",
	} {
		img := filepath.Join(t.TempDir(), "image")
		args := strings.Fields("-q -F -t ext4 " + strings.Replace(args, "^", img, 1))
		if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs %q: %v: %s", args, err, out)
		}
		if f, err := os.OpenFile(img, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		} else if _, err := f.WriteAt(make([]byte, 1024), 1024); err != nil {
			t.Fatal(err)
		} else {
			f.Close()
		}
		dev, err := blockdev.Open(img, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.Open(dev, ext4.Options{})
		if err != nil {
			t.Errorf("mke2fs %q: %v", args, err)
		} else {
			if fs.PrimaryErr() == nil || fs.SuperOffset() == 1024 {
				t.Errorf("mke2fs %q: PrimaryErr %v, SuperOffset %d", args, fs.PrimaryErr(), fs.SuperOffset())
			}
			fs.Close()
		}
		dev.Close()
	}
}

// Every read that fails comes out as that error, whichever it is.
func TestReadErrorsComeOut(t *testing.T) {
	image := tourimage.New()
	for n := 0; ; n++ {
		dev := &blockdev.Fault{Device: memOf(t, image), N: n}
		fs, err := ext4.Open(dev, ext4.Options{})
		if err == nil {
			for _, e := range walkEverything(fs, 64) {
				if errors.Is(e, blockdev.ErrInjected) {
					err = e
				}
			}
			fs.Close()
		}
		if dev.Calls() <= n {
			if n < 50 {
				t.Errorf("only %d calls", n)
			}
			return
		}
		if !errors.Is(err, blockdev.ErrInjected) {
			t.Fatalf("call %d failed, and nobody heard of it: %v", n, err)
		}
	}
}

package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// A filling uses a file system up, in one way after the other.
type filling struct {
	t   *testing.T
	fs  *ext4.FS
	c   ext4.Caller
	rng *rand.Rand
	dir disk.Ino // all of it is in this directory
	n   int      // names given
}

func (f *filling) name() string {
	f.n++
	return fmt.Sprintf("%d%s", f.n, strings.Repeat("-", f.rng.IntN(1+f.rng.IntN(200))))
}

// file makes one more file, in the directory or one below it.
func (f *filling) file() (disk.Ino, error) {
	in, err := f.fs.Create(context.Background(), f.c, f.dir, f.name(), disk.ModeReg|0o644)
	if err != nil {
		return 0, err
	}
	return in.Ino(), nil
}

// fillings are the ways to use a file system up: what each does ends with ENOSPC
// when it is done often enough.
var fillings = map[string]func(f *filling) error{
	"small files": func(f *filling) error {
		ino, err := f.file()
		if err == nil {
			_, err = f.fs.WriteAt(context.Background(), f.c, ino, make([]byte, 1+f.rng.IntN(9000)), 0)
		}
		return err
	},
	"empty files": func(f *filling) error {
		_, err := f.file()
		return err
	},
	"directories": func(f *filling) error {
		_, err := f.fs.Mkdir(context.Background(), f.c, f.dir, f.name(), disk.ModeDir|0o755)
		return err
	},
	"links": func(f *filling) error {
		_, err := f.fs.Symlink(context.Background(), f.c, f.dir, f.name(), strings.Repeat("t", 1+f.rng.IntN(900)))
		return err
	},
	"names": func(f *filling) error {
		ino, err := f.file()
		for range 200 {
			if err == nil {
				err = f.fs.Link(context.Background(), f.c, ino, f.dir, f.name())
			}
		}
		return err
	},
	"xattrs": func(f *filling) error {
		ino, err := f.file()
		for i := range 3 {
			if err == nil {
				err = f.fs.Setxattr(context.Background(), f.c, ino, fmt.Sprintf("user.%d", i), bytes.Repeat([]byte{byte(f.n), byte(f.n >> 8)}, 50+f.rng.IntN(200)), 0)
			}
		}
		return err
	},
	"large xattrs": func(f *filling) error {
		ino, err := f.file()
		if err != nil || !f.fs.Super().Incompat.Has(disk.IncompatEAInode) {
			return err
		}
		return f.fs.Setxattr(context.Background(), f.c, ino, "user.large", bytes.Repeat([]byte{byte(f.n), byte(f.n >> 8)}, 2000+f.rng.IntN(20_000)), 0)
	},
	"holes": func(f *filling) error {
		ino, err := f.file()
		for range 60 {
			if err == nil {
				_, err = f.fs.WriteAt(context.Background(), f.c, ino, []byte{1}, f.rng.Int64N(1<<26))
			}
		}
		return err
	},
	"allocation": func(f *filling) error {
		ino, err := f.file()
		if err == nil {
			err = f.fs.Fallocate(context.Background(), f.c, ino, ext4.FallocMode(f.rng.IntN(2))*ext4.FallocKeepSize, f.rng.Int64N(1<<20), 1+f.rng.Int64N(1<<20))
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			_, err = f.fs.WriteAt(context.Background(), f.c, ino, make([]byte, 50_000), 0)
		}
		return err
	},
	"unlinked and open": func(f *filling) error {
		in, err := f.fs.Tmpfile(context.Background(), f.c, f.dir, disk.ModeReg|0o600)
		if err != nil {
			return err
		}
		_, err = f.fs.WriteAt(context.Background(), f.c, in.Ino(), make([]byte, 20_000), 0)
		if f.rng.IntN(3) > 0 || err != nil {
			return errors.Join(err, f.fs.Release(context.Background(), in.Ino()))
		}
		err = f.fs.Link(context.Background(), f.c, in.Ino(), f.dir, f.name())
		return errors.Join(err, f.fs.Release(context.Background(), in.Ino()))
	},
}

// fill does what way does until there is no space for it. What stays free then is
// what the file system keeps back, or there are no inodes.
func (f *filling) fill(way string) {
	f.t.Helper()
	failed := 0
	for i := range 200_000 {
		err := fillings[way](f)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EMLINK) {
			f.t.Fatalf("%s, operation %d: %v", way, i, err)
		}
		if failed++; failed == 20 { // what wants less may still find it
			return
		}
	}
	if way != "large xattrs" && way != "unlinked and open" {
		f.t.Errorf("%s: there is no end of space", way)
	}
}

// empty removes all that was made. Nothing of it needs space.
func (f *filling) empty(dir disk.Ino) {
	f.t.Helper()
	ctx := context.Background()
	in, err := f.fs.Inode(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	names := namesOf(f.t, f.fs, in)
	f.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		child, err := f.fs.Lookup(in, name)
		if err == nil && child.Type() == disk.ModeDir {
			f.empty(child.Ino())
			err = f.fs.Rmdir(ctx, ext4.Root, dir, name)
		} else if err == nil {
			err = f.fs.Unlink(ctx, ext4.Root, dir, name)
		}
		if err != nil {
			f.t.Fatalf("remove %s: %v", name, err)
		}
	}
}

// fullFor is how long each file system is filled and emptied: E4GO_FULL=20m.
func fullFor(t *testing.T) time.Duration {
	s := os.Getenv("E4GO_FULL")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("E4GO_FULL: %v", err)
	}
	return d
}

// A file system is filled to the last block or inode, in one way or in several, and
// emptied, again and again: what is free then is what was free before.
func TestFullEveryWay(t *testing.T) {
	list := append(slices.Clone(fullVolumes),
		volume{name: "all", args: "-t ext4 -b 1024 -I 256 -O inline_data,ea_inode,quota", size: "16M"},
		volume{name: "64k", args: "-t ext4 -b 65536 -O ea_inode", size: "96M"})
	long := fullFor(t)
	for i, v := range list {
		t.Run(v.name, func(t *testing.T) {
			image := v.make(t)
			rng := rand.New(rand.NewPCG(uint64(i), 21))
			ways := slices.Sorted(maps.Keys(fillings))
			rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
			knowQuota(t, image)
			start := time.Now()
			for round := 0; round < 2 || time.Since(start) < long; round++ {
				fs, closeFS := writable(t, image, ext4.Options{})
				f := &filling{t: t, fs: fs, c: ext4.Root, rng: rng}
				for range 3 {
					f.once(ways)
					if t.Failed() {
						return
					}
					if long == 0 {
						break
					}
					rng.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
				}
				closeFS()
				sound(t, image)
				ways = append(ways[3:], ways[:3]...)
			}
		})
	}
}

// knowQuota gives the quota files room for those who fill the file system: they keep it.
func knowQuota(t *testing.T, image string) {
	fs, done := openWrite(t, image)
	defer done()
	ctx := context.Background()
	_, err := fs.Mkdir(ctx, ext4.Caller{UID: 1000, GID: 1000}, disk.RootIno, "known", disk.ModeDir|0o755)
	if err := errors.Join(err, fs.Rmdir(ctx, ext4.Root, disk.RootIno, "known")); err != nil {
		t.Fatal(err)
	}
}

// once fills in up to three ways, then to the last block, and empties.
func (f *filling) once(ways []string) {
	t, ctx := f.t, context.Background()
	before := statfs(t, f.fs)
	forRoot := before.Free - before.Avail - f.fs.Super().ReservedBlocks
	dir, err := f.fs.Mkdir(ctx, ext4.Root, disk.RootIno, "full", disk.ModeDir|0o777)
	if err != nil {
		t.Fatal(err)
	}
	f.dir = dir.Ino()
	var last [2]disk.Ino
	for i := range last {
		if last[i], err = f.file(); err != nil {
			t.Fatal(err)
		}
	}
	chosen := ways[:1+f.rng.IntN(3)]
	for _, way := range chosen {
		f.c = ext4.Root
		if f.rng.IntN(2) == 0 {
			f.c = ext4.Caller{UID: 1000, GID: 1000}
		}
		f.fill(way)
	}
	if f.rng.IntN(2) == 0 {
		if err := f.fs.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, f.fs, ext4.Root, last[:1])
	appendAll(t, f.fs, ext4.Root, last[1:]) // the block that the map of the first would have needed besides
	if st := statfs(t, f.fs); st.Free > forRoot {
		t.Errorf("%q: full, with %d blocks of which %d are kept", chosen, st.Free, forRoot)
	}
	f.empty(f.dir)
	if err := f.fs.Rmdir(ctx, ext4.Root, disk.RootIno, "full"); err != nil {
		t.Fatal(err)
	}
	if err := f.fs.Sync(); err != nil {
		t.Fatal(err)
	}
	if st := statfs(t, f.fs); st.Free != before.Free || st.FreeFiles != before.FreeFiles {
		t.Errorf("%q: %d blocks and %d inodes are free, %d and %d were", chosen, st.Free, st.FreeFiles, before.Free, before.FreeFiles)
	}
}

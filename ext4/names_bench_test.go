package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// nameNames is how many names the benchmarks of names have in one directory.
const nameNames = 40000

// BenchmarkNames makes, looks up and unlinks files in one directory: ours, and
// the kernel through system calls. Before they are first looked up the file system is
// closed and opened again, so that they have to be found; later the kernel
// has them in its cache of names. One operation is one name.
func BenchmarkNames(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		file := makeImage(b, "1G")
		fs, done := openWrite(b, file)
		defer func() { done() }()
		dir, err := fs.Mkdir(b.Context(), ext4.Root, disk.RootIno, "d", 0o755)
		if err != nil {
			b.Fatal(err)
		}
		benchNames(b, func(name string) error {
			_, err := fs.Create(b.Context(), ext4.Root, dir.Ino(), name, disk.ModeReg|0o644)
			return err
		}, func() {
			done()
			fs, done = openWrite(b, file)
			if dir, err = fs.Inode(dir.Ino()); err != nil {
				b.Fatal(err)
			}
		}, func(name string) error {
			in, err := fs.Lookup(dir, name)
			if err == nil {
				_ = in.Stat()
			}
			return err
		}, func(name string) error {
			return fs.Unlink(b.Context(), ext4.Root, dir.Ino(), name)
		})
	})
	b.Run("kernel", func(b *testing.B) {
		fixtures.Need(b, "root", "loop", "mount", "umount")
		file := makeImage(b, "1G")
		var fd int
		unmount := func() {}
		mount := func() {
			var root string
			var err error
			root, unmount = fixtures.MountKernelWrite(b, file)
			if fd, err = unix.Open(root, unix.O_DIRECTORY|unix.O_RDONLY, 0); err != nil {
				b.Fatal(err)
			}
		}
		mount()
		defer func() {
			unix.Close(fd)
			unmount()
		}()
		benchNames(b, func(name string) error {
			return unix.Mknodat(fd, name, unix.S_IFREG|0o644, 0)
		}, func() {
			unix.Close(fd)
			unmount()
			mount()
		}, func(name string) error {
			var st unix.Stat_t
			return unix.Fstatat(fd, name, &st, 0)
		}, func(name string) error {
			return unix.Unlinkat(fd, name, 0)
		})
	})
}

func benchNames(b *testing.B, create func(name string) error, again func(), lookup, unlink func(name string) error) {
	names := make([]string, nameNames)
	for i := range names {
		names[i] = fmt.Sprintf("file-%06d.txt", i)
	}
	random := append([]string(nil), names...)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(random), func(i, j int) { random[i], random[j] = random[j], random[i] })
	for _, part := range []struct {
		name  string
		names []string
		do    func(string) error
	}{{"create", names, create}, {"lookup", random, lookup}, {"lookup-again", random, lookup}, {"unlink", names, unlink}} {
		if part.name == "lookup" {
			again()
		}
		b.Run(part.name, func(b *testing.B) {
			if b.N > 1 {
				b.Skip("all names are made once: use -benchtime=1x")
			}
			cpu := cpuTime()
			for _, name := range part.names {
				if err := part.do(name); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(len(part.names)), "ns/name")
			b.ReportMetric(float64(cpuTime()-cpu)/float64(len(part.names)), "cpu-ns/name")
		})
	}
}

// cpuTime is what the process has used of all processors, in nanoseconds: of
// ours everything, of the kernel what it does in the calls, and not its threads that
// write the journal.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// smallFiles are how many files BenchmarkSmallFiles writes, in how many
// directories, of how many bytes.
const (
	smallFiles = 20_000
	smallDirs  = 200
	smallBytes = 4096
)

// BenchmarkSmallFiles creates and writes 20,000 files of 4 KiB, makes them durable, and
// unlinks them: ours, and the kernel through system calls. One operation is one file.
func BenchmarkSmallFiles(b *testing.B) {
	data := make([]byte, smallBytes)
	rand.NewChaCha8([32]byte{1}).Read(data)
	b.Run("ours", func(b *testing.B) {
		fs, done := openWrite(b, makeImage(b, "1G"))
		defer done()
		var dirs [smallDirs]disk.Ino
		for i := range dirs {
			dir, err := fs.Mkdir(b.Context(), ext4.Root, disk.RootIno, fmt.Sprint("d", i), 0o755)
			if err != nil {
				b.Fatal(err)
			}
			dirs[i] = dir.Ino()
		}
		benchSmall(b, func(dir int, name string) error {
			in, err := fs.Create(b.Context(), ext4.Root, dirs[dir], name, disk.ModeReg|0o644)
			if err == nil {
				_, err = fs.WriteAt(b.Context(), ext4.Root, in.Ino(), data, 0)
			}
			return err
		}, fs.Sync, func(dir int, name string) error { return fs.Unlink(b.Context(), ext4.Root, dirs[dir], name) })
	})
	b.Run("kernel", func(b *testing.B) {
		fixtures.Need(b, "root", "loop", "mount", "umount")
		root, unmount := fixtures.MountKernelWrite(b, makeImage(b, "1G"))
		defer unmount()
		var dirs [smallDirs]int
		for i := range dirs {
			p := fmt.Sprintf("%s/d%d", root, i)
			err := unix.Mkdir(p, 0o755)
			if err == nil {
				dirs[i], err = unix.Open(p, unix.O_DIRECTORY|unix.O_RDONLY, 0)
			}
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(dirs[i])
		}
		benchSmall(b, func(dir int, name string) error {
			fd, err := unix.Openat(dirs[dir], name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Pwrite(fd, data, 0)
			return err
		}, func() error { return unix.Syncfs(dirs[0]) }, func(dir int, name string) error { return unix.Unlinkat(dirs[dir], name, 0) })
	})
}

func benchSmall(b *testing.B, create func(dir int, name string) error, sync func() error, unlink func(dir int, name string) error) {
	each := func(do func(dir int, name string) error) func() error {
		return func() error {
			for i := range smallFiles {
				if err := do(i*smallDirs/smallFiles, fmt.Sprintf("file-%06d", i)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, part := range []struct {
		name string
		do   func() error
	}{{"create", each(create)}, {"sync", sync}, {"unlink", each(unlink)}, {"sync-again", sync}} {
		b.Run(part.name, func(b *testing.B) {
			if b.N > 1 {
				b.Skip("all files are made once: use -benchtime=1x")
			}
			cpu := cpuTime()
			if err := part.do(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/smallFiles, "ns/file")
			b.ReportMetric(float64(cpuTime()-cpu)/smallFiles, "cpu-ns/file")
		})
	}
}

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

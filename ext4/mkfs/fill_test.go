package mkfs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// A treeMaker fills a directory with what is odd.
type treeMaker struct {
	t   testing.TB
	rng *rand.Rand
	n   int
}

func (m *treeMaker) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// finish gives a file an owner, a mode, times and sometimes xattrs.
func (m *treeMaker) finish(path string, mode os.FileMode, link bool) {
	m.check(os.Lchown(path, m.rng.IntN(3)*70000, m.rng.IntN(3)*1000))
	if !link {
		m.check(unix.Chmod(path, uint32(mode)))
	}
	if m.rng.IntN(4) == 0 && !link {
		m.xattrs(path)
	}
	t := unix.Timespec{Sec: 1e9 + m.rng.Int64N(3e9), Nsec: m.rng.Int64N(1e9)}
	m.check(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

func (m *treeMaker) xattrs(path string) {
	for i := range m.rng.IntN(4) {
		name := []string{"user.a", "user.comment", "trusted.t", "security.s", "user." + strings.Repeat("n", 200)}[(i+m.rng.IntN(2))%5]
		value := bytes.Repeat([]byte{byte('a' + i)}, []int{0, 1, 3, 60, 300}[m.rng.IntN(5)])
		m.check(unix.Lsetxattr(path, name, value, 0))
	}
	if m.rng.IntN(3) == 0 {
		acl := disk.WireACL([]disk.ACLEntry{
			{Tag: disk.ACLUserObj, Perm: 6, ID: 1<<32 - 1}, {Tag: disk.ACLUser, Perm: 4, ID: 1000},
			{Tag: disk.ACLGroupObj, Perm: 4, ID: 1<<32 - 1}, {Tag: disk.ACLMask, Perm: 4, ID: 1<<32 - 1}, {Tag: disk.ACLOther, Perm: 0, ID: 1<<32 - 1},
		})
		m.check(unix.Lsetxattr(path, "system.posix_acl_access", acl, 0))
	}
}

// name is a name that has not been used.
func (m *treeMaker) name() string {
	m.n++
	switch m.rng.IntN(8) {
	case 0:
		return fmt.Sprintf("%d%s", m.n, strings.Repeat("x", 255-len(fmt.Sprint(m.n))))
	case 1:
		return fmt.Sprintf("\x80\xff odd\n%d", m.n)
	case 2:
		return fmt.Sprintf("ÄÖ ß %d", m.n)
	}
	return fmt.Sprintf("f%d", m.n)
}

func (m *treeMaker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return b
}

func (m *treeMaker) fill(dir string, depth, files int) {
	var regular []string
	for range files {
		path := filepath.Join(dir, m.name())
		switch k := m.rng.IntN(20); {
		case k < 10:
			n := []int{0, 1, 59, 60, 61, 128, 1000, 1024, 4096, 4097, 30000, 70000}[m.rng.IntN(12)]
			m.check(os.WriteFile(path, m.bytes(n), 0o600))
			m.finish(path, os.FileMode(m.rng.IntN(0o10000)), false)
			regular = append(regular, path)
		case k < 12: // sparse
			f, err := os.Create(path)
			m.check(err)
			for range m.rng.IntN(12) {
				_, err := f.WriteAt(m.bytes(1+m.rng.IntN(9000)), m.rng.Int64N(700<<10))
				m.check(err)
			}
			m.check(f.Truncate(m.rng.Int64N(1 << 20)))
			m.check(f.Close())
			m.finish(path, 0o644, false)
		case k < 14:
			n := []int{1, 5, 59, 60, 61, 200, 1023}[m.rng.IntN(7)]
			m.check(os.Symlink(strings.Repeat("t", n), path))
			m.finish(path, 0, true)
		case k < 15:
			m.check(unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(m.rng.IntN(400)), uint32(m.rng.IntN(400))))))
			m.finish(path, 0o600, true)
		case k < 16:
			m.check(unix.Mkfifo(path, 0o640))
			m.finish(path, 0o640, true)
		case k < 18 && len(regular) > 0:
			m.check(os.Link(regular[m.rng.IntN(len(regular))], path))
		case depth > 0:
			m.check(os.Mkdir(path, 0o755))
			m.fill(path, depth-1, m.rng.IntN(files+1))
			m.finish(path, os.FileMode(0o500+m.rng.IntN(0o300)), false)
		}
	}
}

// dumpTree lists a tree with contents, xattrs and holes.
func dumpTree(t testing.TB, dir string) []fixtures.Entry {
	t.Helper()
	tree, err := fixtures.DumpTree(dir, fixtures.Options{Contents: true, Xattrs: true, Seek: true})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// sameTree compares a mounted image with the tree that it was made of.
func sameTree(t testing.TB, want []fixtures.Entry, mnt string) {
	t.Helper()
	got := dumpTree(t, mnt)
	strip := func(tree []fixtures.Entry) (out []fixtures.Entry) {
		for _, e := range tree {
			if e.Path == "/lost+found" || e.Path == "/" {
				continue
			}
			if e.Mode&unix.S_IFMT == unix.S_IFDIR {
				e.Size = 0
			}
			out = append(out, e)
		}
		return out
	}
	for _, d := range fixtures.Diff(strip(want), strip(got), "ino", "blocks", "atime", "ctime", "btime", "extents", "fiemaperr", "data", "seekerr", "attributes") {
		t.Error(d)
	}
}

// fillSets are the options with which trees are made.
var fillSets = []string{
	"-t ext4",
	"-t ext4 -b 1024",
	"-t ext4 -b 4096",
	"-t ext4 -b 4096 -O inline_data",
	"-t ext4 -b 4096 -O inline_data -I 1024",
	"-t ext4 -b 4096 -O bigalloc",
	"-t ext4 -b 1024 -O bigalloc -C 4096",
	"-t ext4 -b 4096 -O ea_inode,large_dir",
	"-t ext4 -b 4096 -O quota,project",
	"-t ext4 -b 4096 -O ^metadata_csum,uninit_bg",
	"-t ext4 -b 4096 -O ^metadata_csum",
	"-t ext4 -b 4096 -O ^has_journal,^resize_inode,meta_bg",
	"-t ext4 -b 4096 -O ^dir_index",
	"-t ext4 -b 4096 -O ^flex_bg,^64bit",
	"-t ext4 -b 4096 -O ^extent,^64bit",
	"-t ext4 -b 4096 -O encrypt,verity,mmp,fast_commit,stable_inodes",
	"-t ext4 -b 4096 -O ^metadata_csum_seed,^orphan_file",
	"-t ext3 -b 1024",
	"-t ext3 -b 4096",
	"-t ext2 -b 1024 -I 256",
	"-t ext2 -b 4096 -I 256",
}

// A tree comes back from the kernel as it went in, for every set of options,
// with the size given and with the smallest.
func TestFill(t *testing.T) {
	fixtures.Need(t, "root", "loop", "e2fsck")
	src := filepath.Join(t.TempDir(), "src")
	m := &treeMaker{t: t, rng: rand.New(rand.NewPCG(3, 4))}
	m.check(os.Mkdir(src, 0o755))
	m.fill(src, 3, 60)
	large := filepath.Join(src, "large")
	m.check(os.Mkdir(large, 0o755))
	for i := range 3000 {
		m.check(os.WriteFile(filepath.Join(large, fmt.Sprintf("entry number %d", i)), nil, 0o644))
	}
	want := dumpTree(t, src)
	for _, set := range fillSets {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			for _, auto := range []bool{false, true} {
				img := filepath.Join(t.TempDir(), "image")
				o := parseArgs(t, strings.Fields(set))
				if !auto {
					o.Inodes = 8192 // more than clusters of 64 KiB would give
				}
				fillImage(t, img, o, src, auto)
				if status, out := fixtures.E2fsck(t, img); status != 0 {
					t.Fatalf("auto %t: e2fsck: exit status %d: %s", auto, status, out)
				}
				sameTree(t, want, fixtures.MountKernel(t, img))
			}
		})
	}
}

// fillImage makes an image of a directory, of 256 MiB or as small as it can be.
func fillImage(t testing.TB, img string, o Options, src string, auto bool) (*Builder, *Result) {
	t.Helper()
	ctx := context.Background()
	b, err := NewBuilder(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewDirSource(src, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := b.Scan(ctx, s); err != nil {
		t.Fatal(err)
	}
	var p *Params
	if auto {
		p, err = b.Fit(context.Background(), Free{})
	} else {
		p, err = Resolve(256<<20, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	target, err := NewImage(img, int64(p.sb.Blocks)<<p.sb.BlockBits())
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Write(ctx, target.Dev, p)
	if err != nil {
		target.Abort()
		t.Fatal(err)
	}
	if err := target.Commit(); err != nil {
		t.Fatal(err)
	}
	return b, r
}

package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// Names and attributes of files whose flags come and go, changed at random: each errno is the
// kernel's, and so are mode, links, flags, xattrs, and which times move.
func TestAttributesRandomly(t *testing.T) {
	for _, args := range [][]string{{"-b", "1024"}, {"-O", "ea_inode", "-I", "512"}, {"-I", "128", "-O", "^dir_index"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			theirs, mine := makeImage(t, "24M", args...), makeImage(t, "24M", args...)
			unix.Umask(0)
			root, unmount := fixtures.MountKernelWrite(t, theirs)
			fs, done := openWrite(t, mine)
			for seed, n := range steps(t, 2500) {
				rng := rand.New(rand.NewPCG(seed, 77))
				p := attrPair{t, fs, kernel{root}, ours{fs, ext4.Root}}
				for i := range n {
					p.step(rng, i)
				}
			}
			unmount()
			done()
			checkImage(t, mine)
		})
	}
}

type attrPair struct {
	t  *testing.T
	fs *ext4.FS
	k  kernel
	o  ours
}

func (p attrPair) step(rng *rand.Rand, i int) {
	dirs := []string{"", "a/", "b/", "a/c/"}
	path := func() string { return dirs[rng.IntN(len(dirs))] + string('a'+rune(rng.IntN(5))) }
	x, y := path(), path()
	value := make([]byte, []int{0, 1, 30, 90, 300, 700, 2500, 5000}[rng.IntN(8)])
	name := []string{"user.a", "user.b", "trusted.c", "security.d"}[rng.IntN(4)]
	how := rng.IntN(4)
	if how == 3 {
		how = 0
	}
	mode, id := rng.Uint32N(0o10000), rng.Uint32N(3)*1000
	var do func(n attrs) error
	what := ""
	switch rng.IntN(16) {
	case 0, 1:
		what, do = fmt.Sprintf("create %s %o", x, mode), func(n attrs) error { return n.create(x, unix.S_IFREG|mode) }
	case 2:
		what, do = fmt.Sprintf("mkdir %s %o", x, mode), func(n attrs) error { return n.mkdir(x, mode) }
	case 3:
		what, do = "link "+x+" "+y, func(n attrs) error { return n.link(x, y) }
	case 4:
		flags := []uint{0, 0, 1, 2, 4, 5}[rng.IntN(6)]
		what, do = fmt.Sprint("rename ", x, " ", y, " ", flags), func(n attrs) error { return n.rename(x, y, flags) }
	case 5:
		what, do = "unlink "+x, func(n attrs) error { return n.unlink(x) }
	case 6:
		what, do = "rmdir "+x, func(n attrs) error { return n.rmdir(x) }
	case 7:
		what, do = fmt.Sprintf("chmod %s %o", x, mode), func(n attrs) error { return n.chmod(x, mode) }
	case 8:
		what, do = fmt.Sprint("chown ", x, " ", id), func(n attrs) error { return n.chown(x, id, 3000-id) }
	case 9:
		what, do = "utimes "+x, func(n attrs) error { return n.utimes(x, int64(id)<<24, int64(mode)) }
	case 10:
		what, do = "touch "+x, func(n attrs) error { return n.touch(x) }
	case 11:
		what, do = "truncate "+x, func(n attrs) error { return n.truncate(x, int64(mode)) }
	case 12, 13:
		all := []disk.FileFlags{0, 0, 0, disk.FlagImmutable, disk.FlagAppend, disk.FlagNodump | disk.FlagSync, disk.FlagDirsync, disk.FlagTopdir | disk.FlagNoatime, disk.FlagProjInherit}
		flags := all[rng.IntN(len(all))]
		if in, err := p.fs.Resolve(x, false); err == nil && in.Type() != disk.ModeReg && in.Type() != disk.ModeDir {
			return // a whiteout, which nobody can open
		}
		what, do = fmt.Sprintf("flags %s %#x", x, uint32(flags)), func(n attrs) error { return n.flags(x, uint32(flags)) }
	case 14:
		what, do = fmt.Sprint("setxattr ", x, " ", name, " ", len(value), " ", how), func(n attrs) error {
			if k, ok := n.(kernel); ok {
				return unix.Lsetxattr(k.at(x), name, value, how)
			}
			in, err := p.fs.Resolve(x, false)
			if err == nil {
				err = p.fs.Setxattr(p.t.Context(), ext4.Root, in.Ino(), name, value, how)
			}
			return err
		}
	case 15:
		what, do = fmt.Sprint("removexattr ", x, " ", name), func(n attrs) error {
			if k, ok := n.(kernel); ok {
				return unix.Lremovexattr(k.at(x), name)
			}
			in, err := p.fs.Resolve(x, false)
			if err == nil {
				err = p.fs.Removexattr(p.t.Context(), ext4.Root, in.Ino(), name)
			}
			return err
		}
	}
	look := []string{x, y, "a", "b", "a/c", ""}
	before := [2]map[string][2]string{p.seen(look, true), p.seen(look, false)}
	want, got := do(p.k), do(p.o)
	if errnoOf(want) != errnoOf(got) {
		p.t.Fatalf("step %d: %s: the kernel says %v, we %v", i, what, want, got)
	}
	after := [2]map[string][2]string{p.seen(look, true), p.seen(look, false)}
	for _, path := range look {
		a, b := after[0][path], after[1][path]
		if a[0] != b[0] {
			p.t.Fatalf("step %d: %s (%v): %s is %s, the kernel has %s", i, what, want, path, b[0], a[0])
		}
		// Inodes of 128 bytes know seconds only, which pass at any moment; and a rename of the kernel's that
		// fails may have dated its directory.
		if want != nil {
			continue
		}
		if theirs, ours := before[0][path][1] != a[1], before[1][path][1] != b[1]; theirs != ours && p.fs.Super().InodeSize > disk.GoodOldInodeSize {
			p.t.Errorf("step %d: %s (%v): times of %s: they move %t, the kernel's %t", i, what, want, path, ours, theirs)
		}
	}
}

// seen is what paths are, and whose times, and which.
func (p attrPair) seen(paths []string, theirs bool) map[string][2]string {
	out := make(map[string][2]string)
	for _, path := range paths {
		if theirs {
			var st unix.Stat_t
			if err := unix.Lstat(p.k.at(path), &st); err != nil {
				continue
			}
			flags := 0
			if fd, err := unix.Open(p.k.at(path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
				flags, _ = unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
				unix.Close(fd)
			}
			b := make([]byte, 4096)
			n, _ := unix.Llistxattr(p.k.at(path), b)
			out[path] = [2]string{
				fmt.Sprintf("%#o %d %d:%d %#x %s", st.Mode, st.Nlink, st.Uid, st.Gid, flags&^int(disk.FlagIndex), names(string(b[:max(n, 0)]))),
				fmt.Sprint(st.Ino, st.Mtim, st.Ctim),
			}
			continue
		}
		in, err := p.fs.Resolve(path, false)
		if err != nil {
			continue
		}
		st := in.Stat()
		flags := uint32(0)
		if t := in.Type(); t == disk.ModeReg || t == disk.ModeDir {
			flags = uint32(in.FlagsShown() &^ disk.FlagIndex)
		}
		list, err := in.Listxattr()
		if err != nil {
			p.t.Fatal(err)
		}
		slices.Sort(list)
		out[path] = [2]string{fmt.Sprintf("%#o %d %d:%d %#x %v", st.Mode, st.Nlink, st.UID, st.GID, flags, list), fmt.Sprint(st.Ino, st.Mtime, st.Ctime)}
	}
	return out
}

// names are those of a list that ends each with a NUL, sorted.
func names(list string) []string {
	out := []string{}
	for at := 0; at < len(list); {
		end := at + slices.Index([]byte(list[at:]), 0)
		out = append(out, list[at:end])
		at = end + 1
	}
	slices.Sort(out)
	return out
}

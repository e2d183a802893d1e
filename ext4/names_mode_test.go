package ext4_test

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"e4go/ext4"
	"e4go/ext4/disk"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// asCaller does something with the caller's user and groups, and without capabilities if it
// is not privileged. The thread is not used again.
func asCaller(c ext4.Caller, do func()) {
	if c.Privileged {
		do()
		return
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		same := ^uintptr(0)
		unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(unsafe.Pointer(unsafe.SliceData(c.Groups))), 0)
		unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(c.GID), same)
		unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(c.UID), same)
		do()
	}()
	<-done
}

// set-user-ID and set-group-ID of files and directories after each change of mode, owner,
// group or contents, by root, by the owner and by another, are what the kernel leaves.
func TestModesAsKernel(t *testing.T) {
	theirs, mine := makeImage(t, "32M", "-N", "8000"), makeImage(t, "32M", "-N", "8000")
	unix.Umask(0)
	root, unmount := fixtures.MountKernelWrite(t, theirs)
	fs, done := openWrite(t, mine)
	k := kernel{root}
	owner := ext4.Caller{UID: 1000, GID: 1000, Groups: []uint32{2000}}
	other := ext4.Caller{UID: 1001, GID: 1001, Groups: []uint32{2000}}
	n := 0
	check := func(what, path string, theirErr, ourErr error) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(k.at(path), &st); err != nil {
			st = unix.Stat_t{}
		}
		got := ext4.Stat{}
		if in, err := fs.Resolve(path, false); err == nil {
			got = in.Stat()
		}
		if errnoOf(theirErr) != errnoOf(ourErr) || got.Mode != st.Mode || got.UID != st.Uid || got.GID != st.Gid {
			t.Errorf("%s: the kernel has %#o %d:%d (%v), we %#o %d:%d (%v)", what, st.Mode, st.Uid, st.Gid, theirErr, got.Mode, got.UID, got.GID, ourErr)
		}
	}
	type change struct {
		name  string
		files bool // not for directories
		who   []ext4.Caller
		their func(path string) error
		our   func(c ext4.Caller, ino disk.Ino) error
	}
	var changes []change
	all, users := []ext4.Caller{ext4.Root, owner}, []ext4.Caller{ext4.Root, owner, other}
	for _, m := range []uint32{0o644, 0o2644, 0o2755, 0o6755, 0o7777} {
		mode := disk.Mode(m)
		changes = append(changes, change{fmt.Sprintf("chmod %o", m), false, all,
			func(p string) error { return unix.Chmod(p, m) },
			func(c ext4.Caller, ino disk.Ino) error {
				return fs.SetAttr(t.Context(), c, ino, ext4.SetAttr{Mode: &mode})
			}})
	}
	for _, ids := range [][2]int{{-1, 1000}, {-1, 2000}, {1000, -1}, {1000, 2000}} {
		changes = append(changes, change{fmt.Sprint("chown ", ids), false, all,
			func(p string) error { return unix.Chown(p, ids[0], ids[1]) },
			func(c ext4.Caller, ino disk.Ino) error {
				var a ext4.SetAttr
				uid, gid := uint32(ids[0]), uint32(ids[1])
				if ids[0] >= 0 {
					a.UID = &uid
				}
				if ids[1] >= 0 {
					a.GID = &gid
				}
				return fs.SetAttr(t.Context(), c, ino, a)
			}})
	}
	open := func(p string, do func(fd int) error) error {
		fd, err := unix.Open(p, unix.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(fd)
	}
	changes = append(changes,
		change{"write", true, users,
			func(p string) error {
				return open(p, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
			},
			func(c ext4.Caller, ino disk.Ino) error {
				_, err := fs.WriteAt(t.Context(), c, ino, []byte("x"), 0)
				return err
			}},
		change{"truncate", true, users,
			func(p string) error { return unix.Truncate(p, 7) },
			func(c ext4.Caller, ino disk.Ino) error { return fs.Truncate(t.Context(), c, ino, 7) }},
		change{"fallocate", true, users,
			func(p string) error { return open(p, func(fd int) error { return unix.Fallocate(fd, 0, 0, 4096) }) },
			func(c ext4.Caller, ino disk.Ino) error { return fs.Fallocate(t.Context(), c, ino, 0, 0, 4096) }},
	)
	for _, dir := range []bool{false, true} {
		for _, mode := range []uint32{0o666, 0o2666, 0o2676, 0o4666, 0o6666, 0o6777, 0o1666} {
			for _, gid := range []uint32{1000, 2000, 3000} {
				for _, ch := range changes {
					for _, c := range ch.who {
						if dir && ch.files {
							continue
						}
						n++
						path := fmt.Sprint("f", n)
						for _, x := range []namer{k, ours{fs, ext4.Root}} {
							err := error(nil)
							if dir {
								err = x.mkdir(path, 0o700)
							} else {
								err = x.create(path, unix.S_IFREG|0o600)
							}
							if err == nil {
								err = x.(attrs).chown(path, 1000, gid)
							}
							if err == nil {
								err = x.(attrs).chmod(path, mode)
							}
							if err != nil {
								t.Fatal(err)
							}
						}
						in, err := fs.Resolve(path, false)
						if err != nil {
							t.Fatal(err)
						}
						var want error
						asCaller(c, func() { want = ch.their(k.at(path)) })
						check(fmt.Sprintf("%s by %d of a file with %#o, group %d (directory: %t)", ch.name, c.UID, mode, gid, dir), path, want, ch.our(c, in.Ino()))
					}
				}
			}
		}
	}
	// New ones, in directories that hand their group on.
	for i, mode := range []uint32{0o777, 0o2777, 0o3777} {
		for _, gid := range []uint32{1000, 2000, 3000} {
			d := fmt.Sprintf("d%d-%d", i, gid)
			for _, x := range []namer{k, ours{fs, ext4.Root}} {
				for _, err := range []error{x.mkdir(d, 0o700), x.(attrs).chown(d, 0, gid), x.(attrs).chmod(d, mode)} {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, m := range []uint32{0o644, 0o2755, 0o7777} {
				for j, umask := range []int{0, 0o111} {
					for _, c := range all {
						c.Umask = disk.Mode(umask)
						o := ours{fs, c}
						for what, do := range map[string]func(x namer, p string) error{
							"mkdir":   func(x namer, p string) error { return x.mkdir(p, m) },
							"create":  func(x namer, p string) error { return x.create(p, unix.S_IFREG|m) },
							"mkfifo":  func(x namer, p string) error { return x.create(p, unix.S_IFIFO|m) },
							"symlink": func(x namer, p string) error { return x.symlink("t", p) },
						} {
							path := fmt.Sprintf("%s/%s%d-%o-%d", d, what, c.UID, m, j)
							var want error
							unix.Umask(umask)
							asCaller(c, func() { want = do(k, path) })
							unix.Umask(0)
							check(fmt.Sprintf("%s %#o by %d, umask %o, in a directory with %#o, group %d", what, m, c.UID, umask, mode, gid), path, want, do(o, path))
						}
					}
				}
			}
		}
	}
	unmount()
	done()
	checkImage(t, mine)
}

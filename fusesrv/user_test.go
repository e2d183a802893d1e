package fusesrv

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/fixtures"

	"golang.org/x/sys/unix"
)

// userEnv makes the test binary a server that mounts the image and directory
// which the variable names, one after the other.
const userEnv = "E4GO_FUSESRV_TEST_MOUNT"

func TestMain(m *testing.M) {
	if arg, ok := os.LookupEnv(userEnv); ok {
		if err := serveAsUser(arg); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if arg, ok := os.LookupEnv(modelEnv); ok {
		if err := changeFiles(arg); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if name, ok := os.LookupEnv(seekEnv); ok {
		if err := seekDirty(name); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if arg, ok := os.LookupEnv(clientEnv); ok {
		if err := runClient(arg); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveAsUser says "mounted" and what it reads of its own mount, and serves
// until it is unmounted.
func serveAsUser(arg string) error {
	img, dir, _ := strings.Cut(arg, "\n")
	dev, err := blockdev.Open(img, blockdev.Options{})
	if err != nil {
		return err
	}
	fs, err := ext4.Open(dev, ext4.Options{})
	if err != nil {
		return err
	}
	s, err := Mount(fs, dir, Options{FSName: img, Image: dev})
	if err != nil {
		return err
	}
	go func() {
		if err := s.WaitMount(); err != nil {
			fmt.Println("error:", err)
		}
		_, err := os.ReadFile(filepath.Join(dir, "README.txt"))
		fmt.Println("mounted", err)
	}()
	s.Serve()
	err = errors.Join(fs.Close(), dev.Close())
	s.Close()
	return err
}

// An ordinary user mounts through fusermount3, and keeps others out, root too.
func TestMountAsUser(t *testing.T) {
	fixtures.Need(t, "root", "fuse", "fusermount3")
	if st, err := os.Stat("/dev/fuse"); err != nil || st.Mode().Perm()&0o006 != 0o006 {
		fixtures.Need(t, "a /dev/fuse for everybody (chmod 666 /dev/fuse)")
	}
	const nobody = 65534
	work, err := os.MkdirTemp("", "e4go-user-")
	check(t, err)
	defer os.RemoveAll(work)
	check(t, os.Chmod(work, 0o755))
	self, err := os.Executable()
	check(t, err)
	program, img, dir := filepath.Join(work, "server"), filepath.Join(work, "a, b.img"), filepath.Join(work, "mnt point")
	b, err := os.ReadFile(self)
	check(t, err)
	check(t, os.WriteFile(program, b, 0o755))
	check(t, os.WriteFile(img, tour(), 0o644))
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.Chown(dir, nobody, nobody))

	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), userEnv+"="+img+"\n"+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "mounted <nil>\n" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the server said %q (%v)", line, err)
	}
	info, err := mountAt(dir)
	if err != nil || info.fstype != "fuse.e4go" || info.source != img {
		t.Errorf("mounted as %+v, %v", info, err)
	}
	if err := unix.Stat(filepath.Join(dir, "README.txt"), &unix.Stat_t{}); !errors.Is(err, unix.EACCES) {
		t.Errorf("root looks into it: %v, want EACCES", err)
	}
	if err := Unmount(dir); err != nil {
		t.Errorf("%v", err)
		unix.Unmount(dir, unix.MNT_DETACH)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// A mount point that the user may not mount on is refused in fusermount3's words.
func TestHelperRefuses(t *testing.T) {
	fixtures.Need(t, "fusermount3")
	_, err := mountHelper("/proc/nowhere", &Options{FSName: "x", Subtype: Subtype}, Flags{})
	var he *HelperError
	if !errors.As(err, &he) || !strings.Contains(he.Said, "/proc/nowhere") {
		t.Errorf("got %v, want a *HelperError that names the path", err)
	}
}

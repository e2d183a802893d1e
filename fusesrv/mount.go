package fusesrv

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// A HelperError is what fusermount3 said when it refused.
type HelperError struct {
	Program string
	Said    string
}

func (e *HelperError) Error() string { return e.Program + ": " + e.Said }

// ErrNoHelper is returned when fusermount3 is not to be found, without which
// only root can mount.
var ErrNoHelper = errors.New("fusermount3 is needed to mount as an ordinary user: install fuse3, or mount as root")

// mountDirect mounts by mount(2) and returns the descriptor of the
// connection. The mount is one of a block device where o allows that and it can be.
func mountDirect(dir string, o *Options, flags Flags, logger *log.Logger) (int, error) {
	var blockErr error
	if o.Image != nil && o.Block != BlockNever {
		fd, err := mountBlock(dir, o.Image, o, flags)
		if err == nil || o.Block == BlockAlways || errors.Is(err, ErrClaimLost) {
			return fd, err
		}
		blockErr = err
	}
	fd, err := mountFuse(dir, o.FSName, "fuse."+o.Subtype, o, flags, nil)
	if err == nil && blockErr != nil {
		logger.Printf("%s is mounted without a block device, so that umount(8) does not wait until the image is free, as e4go umount does: %v", dir, blockErr)
	}
	return fd, err
}

// mountFuse mounts source at dir as a file system of type fstype.
func mountFuse(dir, source, fstype string, o *Options, flags Flags, options []string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, fmt.Errorf("mount point %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, fmt.Errorf("mount point %s: %w", dir, unix.ENOTDIR)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse (does the kernel have FUSE?): %w", err)
	}
	data := append([]string{
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", st.Mode&unix.S_IFMT),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()),
		fmt.Sprintf("max_read=%d", maxRead),
	}, options...)
	if !o.Fakeroot {
		data = append(data, "default_permissions")
	}
	data = append(data, flags.data...)
	if o.AllowOther {
		data = append(data, "allow_other")
	}
	if err := unix.Mount(source, dir, fstype, flags.bits, strings.Join(data, ",")); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount %s on %s: %w", source, dir, err)
	}
	return fd, nil
}

// mountHelper lets fusermount3 mount, and returns the descriptor of the
// connection that it hands over.
func mountHelper(dir string, o *Options, flags Flags) (int, error) {
	program, err := helper()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "socketpair")
	defer theirs.Close()

	options := append(flags.words(),
		"fsname="+escapeOption(o.FSName),
		"subtype="+escapeOption(o.Subtype),
		fmt.Sprintf("max_read=%d", maxRead))
	if !o.Fakeroot {
		options = append(options, "default_permissions")
	}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	cmd := exec.Command(program, "-o", strings.Join(options, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return -1, helperError(program, out, err)
	}
	theirs.Close()
	fd, err := receiveFd(pair[0])
	if err != nil {
		return -1, fmt.Errorf("%s: %w", program, err)
	}
	return fd, nil
}

// helper finds fusermount3, which may stand where no ordinary user's PATH leads.
func helper() (string, error) {
	for _, name := range []string{"fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoHelper
}

func helperError(program string, out []byte, err error) error {
	said := strings.TrimSpace(string(out))
	if said == "" {
		return fmt.Errorf("%s: %w", program, err)
	}
	return &HelperError{program, strings.TrimPrefix(said, program+": ")}
}

// escapeOption protects what separates options from each other.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// receiveFd receives one descriptor over a unix socket.
func receiveFd(sock int) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(sock, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive the connection: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, fmt.Errorf("receive the connection: %w", err)
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("receive the connection: the message has no descriptor")
}

// setReadAhead raises the limit of 128 KiB that the kernel gives to every FUSE
// mount. Who may not, reads ahead less.
func setReadAhead(m mountInfo) {
	name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", m.major, m.minor)
	if strings.HasPrefix(m.fstype, "fuseblk") {
		name = fmt.Sprintf("/sys/class/bdi/%d:%d-fuseblk/read_ahead_kb", m.major, m.minor)
	}
	_ = os.WriteFile(name, []byte(fmt.Sprint(readAheadKB)), 0)
}

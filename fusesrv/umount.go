package fusesrv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// letGo is how long [Unmount] waits for the server.
const letGo = 30 * time.Second

// ErrHeld is returned by [Unmount] when the mount point is free and the server
// still goes on, as for a mount that another namespace has too.
var ErrHeld = errors.New("unmounted here, but its server still has the image open: is it mounted in another place?")

// ErrNotOurs is returned by [Unmount] for what e4go has not mounted.
var ErrNotOurs = errors.New("not a mount point of e4go")

// unmount takes a mount away: directly, or by fusermount3. lazy takes one that is in use out of the
// directory tree only.
func unmount(dir string, direct, lazy bool) error {
	if direct {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	program, err := helper()
	if err != nil {
		return err
	}
	args := []string{"-u", "--", dir}
	if lazy {
		args = append([]string{"-z"}, args...)
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		err = helperError(program, out, err)
		if strings.Contains(string(out), "busy") {
			err = fmt.Errorf("%w: %w", err, unix.EBUSY)
		}
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// Unmount unmounts the e4go mount at dir and returns when its server has let
// go of the image, so that the image may be used for something else. It fails
// with [ErrNotOurs], with EBUSY while the mount is in use, with [ErrHeld], and with what the
// server says that went wrong when it closed the image.
//
// It asks nothing of the server before, so that a mount whose server hangs or
// is dead can be unmounted too.
func Unmount(dir string) error { return unmountOurs(dir, false) }

// UnmountLazy is Unmount of a mount that may be in use: it is taken out of the
// directory tree, and nobody is waited for.
func UnmountLazy(dir string) error { return unmountOurs(dir, true) }

func unmountOurs(dir string, lazy bool) error {
	m, err := fuseMount(dir)
	if err != nil {
		return err
	}
	waits := dialHolders(m)
	defer func() {
		for _, c := range waits {
			c.Close()
		}
	}()
	if !m.isType(Subtype) && len(waits) == 0 {
		return fmt.Errorf("%s: %w", dir, ErrNotOurs)
	}
	if err := unmount(m.point, os.Geteuid() == 0, lazy); err != nil || lazy {
		return err
	}
	deadline := time.Now().Add(letGo)
	for _, c := range waits {
		if err := c.SetReadDeadline(deadline); err != nil {
			return err
		}
		// The server writes nothing unless closing fails: this ends when it closes.
		said, err := io.ReadAll(io.LimitReader(c, maxSaid))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%s: %w", m.source, ErrHeld)
		}
		if len(said) > 0 {
			return fmt.Errorf("%s: %q: check it with e2fsck: %w", m.source, said, unix.EIO)
		}
	}
	return nil
}

// fuseMount finds the FUSE mount whose mount point dir is.
func fuseMount(dir string) (mountInfo, error) {
	// A statx that asks for nothing is answered by the kernel alone, for
	// everybody.
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, 0, &st)
	if err != nil {
		return mountInfo{}, fmt.Errorf("%s: %w", dir, err)
	}
	all, err := mounts()
	if err != nil {
		return mountInfo{}, err
	}
	for _, m := range all {
		if m.id == st.Mnt_id && strings.HasPrefix(m.fstype, "fuse") && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return m, nil
		}
	}
	return mountInfo{}, fmt.Errorf("%s: %w", dir, ErrNotOurs)
}

// maxSaid is how much a server may say of why closing failed, in bytes.
const maxSaid = 2000

// maxHolders is how many servers may claim one device number: that of a mount
// which is gone is given out again before its server is.
const maxHolders = 8

func (m mountInfo) holderName(i int) string {
	return fmt.Sprintf("@e4go/%d:%d/%d", m.major, m.minor, i)
}

// A holder is a socket by which others learn when a server has let go of its
// image: who connects is not answered until then, when the connection ends.
type holder struct {
	listener *net.UnixListener // immutable

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
	gone  bool       // guarded by mu
}

// newHolder listens under a name that the device number of the mount gives.
// Without a free name it returns nil: nobody can wait then, nothing else is lost.
func newHolder(m mountInfo) *holder {
	for i := range maxHolders {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: m.holderName(i), Net: "unix"})
		if err != nil {
			continue
		}
		h := &holder{listener: l}
		go h.accept()
		return h
	}
	return nil
}

// maxWaiting bounds the connections that a holder keeps.
const maxWaiting = 64

func (h *holder) accept() {
	for {
		c, err := h.listener.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		if h.gone || len(h.conns) == maxWaiting {
			c.Close()
		} else {
			h.conns = append(h.conns, c)
		}
		h.mu.Unlock()
	}
}

// release ends the waiting of all; err is what they are told, if anything.
func (h *holder) release(err error) {
	h.listener.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	for _, c := range h.conns {
		if err != nil {
			text := err.Error()
			c.SetWriteDeadline(time.Now().Add(time.Second))
			c.Write([]byte(text[:min(len(text), maxSaid)]))
		}
		c.Close()
	}
	h.conns = nil
}

// dialHolders connects to the servers of a mount. Sockets of users other than
// the mount's are not listened to: anybody can make one.
func dialHolders(m mountInfo) []net.Conn {
	user, ok := m.option("user_id")
	if !ok {
		return nil
	}
	var out []net.Conn
	for i := range maxHolders {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: m.holderName(i), Net: "unix"})
		if err != nil {
			continue
		}
		if uid, err := peerUser(c); err != nil || uint64(uid) != user {
			c.Close()
			continue
		}
		out = append(out, c)
	}
	return out
}

// peerUser is the user who listens at the other end.
func peerUser(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

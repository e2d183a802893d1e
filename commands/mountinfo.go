package commands

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"e4go/ext4/blockdev"

	"golang.org/x/sys/unix"
)

// A mountPoint is a line of /proc/self/mountinfo; see proc_pid_mountinfo(5).
type mountPoint struct {
	dev    string // major:minor, as st_dev of the files in it
	dir    string
	fsType string
	source string
}

// The types that our own mounts have: without a block device, and with one.
const (
	fuseType    = "fuse.e4go"
	fuseblkType = "fuseblk.e4go"
)

// isOurs reports whether e4go serves the mount.
func (m mountPoint) isOurs() bool { return m.fsType == fuseType || m.fsType == fuseblkType }

// mountOf finds the mount whose files have the device number dev.
func mountOf(dev uint64) (mountPoint, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountPoint{}, err
	}
	want := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for line := range strings.Lines(string(b)) {
		if m, ok := parseMountinfo(line); ok && m.dev == want {
			return m, nil
		}
	}
	return mountPoint{}, fmt.Errorf("no mount has device number %s", want)
}

func parseMountinfo(line string) (mountPoint, bool) {
	left, right, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(left), strings.Fields(right)
	if !ok || len(f) < 5 || len(g) < 2 {
		return mountPoint{}, false
	}
	return mountPoint{dev: f[2], dir: unescapeMount(f[4]), fsType: g[0], source: unescapeMount(g[1])}, true
}

// unescapeMount undoes the \040 and the like that stand for blanks.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isExt4 reports whether the kernel's ext4 driver serves the mount.
func (m mountPoint) isExt4() bool {
	return m.fsType == "ext4" || m.fsType == "ext3" || m.fsType == "ext2"
}

// device returns the path of the block device or image behind the mount.
func (m mountPoint) device() (string, error) {
	switch {
	case m.fsType == fuseType:
		return m.source, nil
	case m.fsType == fuseblkType:
		// The file, and not the loop device, has what e4go writes: the kernel may keep
		// older bytes of that.
		if image, offset, ok := blockdev.LoopFile(m.dev); ok && offset == 0 {
			return image, nil
		}
	case !m.isExt4():
		return "", &kernelError{
			err:  fmt.Errorf("%s is mounted as %s, want ext2, ext3, ext4 or %s", m.dir, m.fsType, fuseType),
			hint: "for a file inside an image, name the image with --image or $" + imageEnv,
		}
	}
	if isNode(m.source, m.dev) {
		return m.source, nil
	}
	// The source may be /dev/root, or a name of another mount namespace.
	link, err := filepath.EvalSymlinks("/sys/dev/block/" + m.dev)
	if err == nil {
		node := "/dev/" + strings.ReplaceAll(filepath.Base(link), "!", "/")
		if isNode(node, m.dev) {
			return node, nil
		}
	}
	return "", fmt.Errorf("the device %s behind %s has no node in /dev: want %s", m.dev, m.dir, m.source)
}

// isNode reports whether path is a block device with the number dev.
func isNode(path, dev string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK &&
		fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) == dev
}

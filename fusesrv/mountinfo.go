package fusesrv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"e4go/ext4/blockdev"
)

// A mountInfo is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mountInfo struct {
	id           uint64 // as statx gives it
	major, minor uint32 // st_dev of what is mounted
	point        string
	fstype       string
	source       string
	options      string // of the file system
	mountOptions string // of the mount itself
}

// isType reports whether m is of our type with this subtype, on a block device or
// without one.
func (m mountInfo) isType(subtype string) bool {
	return m.fstype == "fuse."+subtype || m.fstype == "fuseblk."+subtype
}

// image is the path of the image: what is behind the loop device, if there is one.
func (m mountInfo) image() string {
	if strings.HasPrefix(m.fstype, "fuseblk") {
		if file, _, ok := blockdev.LoopFile(fmt.Sprintf("%d:%d", m.major, m.minor)); ok {
			return file
		}
	}
	return m.source
}

// nowReadOnly reports whether the file system that m is a mount of is read-only to the kernel
// now, as far as our mount namespace shows it.
func (m *mountInfo) nowReadOnly() bool {
	all, err := mounts()
	if err != nil {
		return false
	}
	for _, x := range all {
		if x.major == m.major && x.minor == m.minor {
			return strings.HasPrefix(x.options+",", "ro,")
		}
	}
	return false
}

// errNotMounted is returned when no line of mountinfo fits.
var errNotMounted = errors.New("not mounted")

// mounts returns the mounts of our mount namespace, the topmost last.
func mounts() ([]mountInfo, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountInfo(f)
}

// mountAt returns the topmost mount at dir, a path without symbolic links.
func mountAt(dir string) (mountInfo, error) {
	all, err := mounts()
	if err != nil {
		return mountInfo{}, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].point == dir {
			return all[i], nil
		}
	}
	return mountInfo{}, fmt.Errorf("%s: %w", dir, errNotMounted)
}

func parseMountInfo(r io.Reader) ([]mountInfo, error) {
	var out []mountInfo
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, err := parseMountLine(lines.Text())
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, lines.Err()
}

// parseMountLine reads, for example,
//
//	36 35 0:45 / /mnt rw,noatime shared:1 - fuse.e4go /a.img ro,user_id=0
//
// where any number of fields stand before the dash.
func parseMountLine(line string) (mountInfo, error) {
	bad := func(what string) (mountInfo, error) {
		return mountInfo{}, fmt.Errorf("mountinfo: %s in line %q", what, line)
	}
	head, tail, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(head), strings.Split(tail, " ")
	if !ok || len(f) < 6 || len(g) < 3 {
		return bad("missing fields")
	}
	major, minor, _ := strings.Cut(f[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return bad("no device number")
	}
	id, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return bad("no mount id")
	}
	return mountInfo{
		id:    id,
		major: uint32(ma), minor: uint32(mi),
		point: unescapeMount(f[4]), fstype: unescapeMount(g[0]), source: unescapeMount(g[1]), options: g[2], mountOptions: f[5],
	}, nil
}

// unescapeMount undoes the octal numbers by which space, tab, newline and
// backslash are written.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// option returns the number of a file system option, such as user_id=0.
func (m mountInfo) option(name string) (uint64, bool) {
	for o := range strings.SplitSeq(m.options, ",") {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			n, err := strconv.ParseUint(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

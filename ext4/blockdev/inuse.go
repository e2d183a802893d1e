package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An InUseError says that [Open] was kept out, and by whom as far as can be
// seen: another user's processes are visible to root only.
type InUseError struct {
	Path    string
	Holders []Holder
	Err     error // EBUSY, or EWOULDBLOCK from flock
}

func (e *InUseError) Error() string {
	const most = 5
	var who []string
	for i, h := range e.Holders {
		if i == most {
			who = append(who, fmt.Sprintf("and %d more", len(e.Holders)-most))
			break
		}
		who = append(who, h.String())
	}
	if who == nil {
		who = []string{"by a holder that this user cannot see"}
	}
	return fmt.Sprintf("%s is in use: %s: %v", e.Path, strings.Join(who, "; "), e.Err)
}

func (e *InUseError) Unwrap() error { return e.Err }

// A Holder is one user of a file or block device: a process, or a block device
// that is made of it, which may be mounted.
type Holder struct {
	PID  int    // the process; 0 if Holder is a device
	Comm string // its name, as in /proc/PID/comm
	Lock string // the kind and mode of its lock, as "flock write", or empty

	Device   string // the device: a loop device, a partition, a mapping, or the file itself
	Mount    string // where it is mounted, or empty
	ReadOnly bool   // the mounted file system itself is read-only, for all its mounts
}

func (h Holder) String() string {
	switch {
	case h.PID != 0:
		s := fmt.Sprintf("process %d (%s) has it open", h.PID, h.Comm)
		if h.Lock != "" {
			s += " with a lock (" + h.Lock + ")"
		}
		return s
	case h.Mount != "" && h.ReadOnly:
		return fmt.Sprintf("%s is mounted read-only at %s", h.Device, h.Mount)
	case h.Mount != "":
		return fmt.Sprintf("%s is mounted at %s", h.Device, h.Mount)
	}
	return h.Device + " is attached to it"
}

// Holders returns who uses the regular file or block device at path, this
// process included. It sees what /proc and /sys show to this user; its error
// is about path alone.
func Holders(path string) ([]Holder, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if err == nil {
		err = checkKind(&st)
	}
	if err != nil {
		return nil, &os.PathError{Op: "holders of", Path: path, Err: err}
	}
	return holders(&st), nil
}

func holders(st *unix.Stat_t) []Holder { return append(deviceHolders(st), processHolders(st)...) }

// same reports whether a and b are one file, or nodes of one block device.
func same(a, b *unix.Stat_t) bool {
	if isBlock(a) && isBlock(b) {
		return a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Mode&unix.S_IFMT == b.Mode&unix.S_IFMT
}

// deviceHolders returns the mounts of st and of the devices made of it, and
// those of these devices that are not mounted.
func deviceHolders(st *unix.Stat_t) []Holder {
	devs := make(map[string]string)
	self := ""
	if isBlock(st) {
		self = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		addDevices(devs, "/sys/dev/block/"+self)
	} else {
		for _, loop := range loops() {
			var b unix.Stat_t
			if unix.Stat(readLine(loop+"/loop/backing_file"), &b) == nil && same(st, &b) {
				addDevices(devs, loop)
			}
		}
	}
	if len(devs) == 0 {
		return nil
	}
	var hs []Holder
	mounted := make(map[string]bool)
	for _, m := range mounts() {
		if name, ok := devs[m.dev]; ok {
			mounted[m.dev] = true
			hs = append(hs, Holder{Device: name, Mount: m.dir, ReadOnly: m.readOnly})
		}
	}
	for dev, name := range devs {
		if !mounted[dev] && dev != self {
			hs = append(hs, Holder{Device: name})
		}
	}
	slices.SortStableFunc(hs, func(a, b Holder) int { return strings.Compare(a.Device, b.Device) })
	return hs
}

// loops returns the directories of loop devices in sysfs. [filepath.Glob] would
// read each of them.
func loops() (out []string) {
	const dir = "/sys/block"
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "loop") {
			out = append(out, dir+"/"+name)
		}
	}
	return out
}

// addDevices adds the block device at sys, a directory of sysfs, its
// partitions, and what device mapper and md have made of them: "major:minor" to
// the path of the node.
func addDevices(devs map[string]string, sys string) {
	dev := readLine(filepath.Join(sys, "dev"))
	if _, seen := devs[dev]; seen || dev == "" {
		return
	}
	real, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return
	}
	devs[dev] = "/dev/" + strings.ReplaceAll(filepath.Base(real), "!", "/") // sysfs writes / as !
	parts, _ := filepath.Glob(filepath.Join(real, "*", "partition"))
	for _, p := range parts {
		addDevices(devs, filepath.Dir(p))
	}
	above, _ := filepath.Glob(filepath.Join(real, "holders", "*"))
	for _, h := range above {
		addDevices(devs, h)
	}
}

// A mount is one line of mountinfo; see proc_pid_mountinfo(5).
type mount struct {
	dev, dir string
	readOnly bool // by the options of the super block, not of this mount
}

// mounts returns the mounts of all mount namespaces that can be seen, ours first.
func mounts() []mount {
	pids, _ := filepath.Glob("/proc/[0-9]*")
	var ms []mount
	seen := make(map[string]bool)
	for _, p := range append([]string{"/proc/self"}, pids...) {
		ns, err := os.Readlink(p + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		b, err := os.ReadFile(p + "/mountinfo")
		if err != nil {
			continue
		}
		seen[ns] = true
		for line := range strings.Lines(string(b)) {
			if m, ok := parseMount(line); ok && !slices.Contains(ms, m) {
				ms = append(ms, m)
			}
		}
	}
	return ms
}

func parseMount(line string) (mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	f, super := strings.Fields(left), strings.Fields(right)
	if !ok || len(f) < 6 || len(super) == 0 {
		return mount{}, false
	}
	// The options are the last word: type and source may be empty.
	opts := strings.Split(super[len(super)-1], ",")
	return mount{dev: f[2], dir: unescape(f[4]), readOnly: slices.Contains(opts, "ro")}, true
}

// unescape undoes the \040 and the like that stand for blanks in mountinfo.
func unescape(s string) string {
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

// processHolders returns the processes that have st open or locked.
func processHolders(st *unix.Stat_t) []Holder {
	locks := make(map[int]string)
	b, _ := os.ReadFile("/proc/locks")
	for line := range strings.Lines(string(b)) {
		if pid, lock, ok := parseLock(line, st); ok {
			locks[pid] = lock
		}
	}
	pids := make(map[int]bool)
	for pid := range locks {
		pids[pid] = true
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		var f unix.Stat_t
		if unix.Stat(fd, &f) == nil && same(st, &f) {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2]) // the pattern has begun it with a digit
			pids[pid] = true
		}
	}
	var hs []Holder
	for pid := range pids {
		if comm := readLine(fmt.Sprintf("/proc/%d/comm", pid)); comm != "" { // else it has ended
			hs = append(hs, Holder{PID: pid, Comm: comm, Lock: locks[pid]})
		}
	}
	slices.SortFunc(hs, func(a, b Holder) int { return a.PID - b.PID })
	return hs
}

// parseLock returns the owner and kind of the lock in a line of /proc/locks,
// if it is held (and not waited for) on st; see proc_locks(5).
func parseLock(line string, st *unix.Stat_t) (pid int, lock string, ok bool) {
	f := strings.Fields(line)
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	if len(f) < 6 || f[1] == "->" || f[5] != want {
		return 0, "", false
	}
	pid, err := strconv.Atoi(f[4])
	return pid, strings.ToLower(f[1] + " " + f[3]), err == nil && pid > 0
}

// readLine returns the first line of a file, or nothing if it cannot be read.
func readLine(path string) string {
	b, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

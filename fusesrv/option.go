package fusesrv

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags are mount options that are no business of the file system.
type Flags struct {
	bits uintptr  // MS_*
	data []string // what the kernel wants to have as text
}

// flagBits are the options that have a bit in mount(2), or clear one.
var flagBits = map[string]struct {
	set, clear uintptr
}{
	"ro":          {set: unix.MS_RDONLY},
	"rw":          {clear: unix.MS_RDONLY},
	"suid":        {clear: unix.MS_NOSUID},
	"nosuid":      {set: unix.MS_NOSUID},
	"dev":         {clear: unix.MS_NODEV},
	"nodev":       {set: unix.MS_NODEV},
	"exec":        {clear: unix.MS_NOEXEC},
	"noexec":      {set: unix.MS_NOEXEC},
	"sync":        {},
	"async":       {},
	"dirsync":     {},
	"atime":       {clear: unix.MS_NOATIME},
	"noatime":     {set: unix.MS_NOATIME},
	"diratime":    {clear: unix.MS_NODIRATIME},
	"nodiratime":  {set: unix.MS_NODIRATIME},
	"relatime":    {},
	"strictatime": {},
	"nosymfollow": {set: unix.MS_NOSYMFOLLOW},
}

// flagData are the options with a value that the kernel's security modules read.
var flagData = []string{"context=", "fscontext=", "defcontext=", "rootcontext="}

// An OptionError is a mount option that [Mount] does not take.
type OptionError struct {
	Option string
	Why    string
}

func (e *OptionError) Error() string { return fmt.Sprintf("mount option %q: %s", e.Option, e.Why) }

// ParseFlags reads mount options: ro and rw, those of mount(8) that concern the
// mount and not the file system (nosuid and nodev, which are set unless suid
// and dev are given, noexec, noatime and so on), and SELinux contexts. Any
// other is an *[OptionError].
func ParseFlags(options []string) (Flags, error) {
	f := Flags{bits: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV}
	for _, o := range options {
		if b, ok := flagBits[o]; ok {
			f.bits = f.bits&^b.clear | b.set
			continue
		}
		known := false
		for _, prefix := range flagData {
			known = known || strings.HasPrefix(o, prefix)
		}
		if !known {
			return Flags{}, &OptionError{o, "unknown"}
		}
		f.data = append(f.data, o)
	}
	return f, nil
}

// words are the bits as fusermount3 wants them.
func (f Flags) words() []string {
	out := []string{"rw"}
	if f.bits&unix.MS_RDONLY != 0 {
		out[0] = "ro"
	}
	for _, w := range []struct {
		bit      uintptr
		set, not string
	}{
		{unix.MS_NOSUID, "nosuid", "suid"},
		{unix.MS_NODEV, "nodev", "dev"},
		{unix.MS_NOEXEC, "noexec", ""},
		{unix.MS_NOATIME, "noatime", ""},
		{unix.MS_NODIRATIME, "nodiratime", ""},
		{unix.MS_NOSYMFOLLOW, "nosymfollow", ""},
	} {
		switch {
		case f.bits&w.bit != 0:
			out = append(out, w.set)
		case w.not != "":
			out = append(out, w.not)
		}
	}
	return append(out, f.data...)
}

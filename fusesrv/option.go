package fusesrv

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Flags are mount options that are no business of the file system's format.
type Flags struct {
	bits  uintptr  // MS_*
	data  []string // what the kernel wants to have as text
	atime atimeRule
	lazy  bool // times of access may stay in memory for long
	sync  bool // what write(2) has written is durable when it returns
}

// flagBits are the options that have a bit in mount(2), or clear one.
var flagBits = map[string]struct {
	set, clear uintptr
}{
	"ro":            {set: unix.MS_RDONLY},
	"rw":            {clear: unix.MS_RDONLY},
	"suid":          {clear: unix.MS_NOSUID},
	"nosuid":        {set: unix.MS_NOSUID},
	"dev":           {clear: unix.MS_NODEV},
	"nodev":         {set: unix.MS_NODEV},
	"exec":          {clear: unix.MS_NOEXEC},
	"noexec":        {set: unix.MS_NOEXEC},
	"sync":          {set: unix.MS_SYNCHRONOUS},
	"async":         {clear: unix.MS_SYNCHRONOUS},
	"dirsync":       {set: unix.MS_DIRSYNC},
	"atime":         {clear: unix.MS_NOATIME},
	"noatime":       {set: unix.MS_NOATIME, clear: unix.MS_STRICTATIME},
	"diratime":      {clear: unix.MS_NODIRATIME},
	"nodiratime":    {set: unix.MS_NODIRATIME},
	"relatime":      {clear: unix.MS_NOATIME | unix.MS_STRICTATIME},
	"strictatime":   {set: unix.MS_STRICTATIME, clear: unix.MS_NOATIME},
	"nostrictatime": {clear: unix.MS_STRICTATIME},
	"lazytime":      {set: unix.MS_LAZYTIME},
	"nolazytime":    {clear: unix.MS_LAZYTIME},
	"symfollow":     {clear: unix.MS_NOSYMFOLLOW},
	"nosymfollow":   {set: unix.MS_NOSYMFOLLOW},
}

// flagData are the options with a value that the kernel's security modules read.
var flagData = []string{"context=", "fscontext=", "defcontext=", "rootcontext="}

// FlagNames are the names of the options that [ParseFlags] knows.
func FlagNames() []string {
	names := slices.Collect(maps.Keys(flagBits))
	for _, d := range flagData {
		names = append(names, strings.TrimSuffix(d, "="))
	}
	return names
}

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
	switch {
	case f.bits&unix.MS_NOATIME != 0:
		f.atime.files = atimeNever
	case f.bits&unix.MS_STRICTATIME != 0:
		f.atime.files = atimeAlways
	}
	f.atime.noDirs = f.bits&unix.MS_NODIRATIME != 0
	f.lazy = f.bits&unix.MS_LAZYTIME != 0
	f.sync = f.bits&unix.MS_SYNCHRONOUS != 0
	return f, nil
}

// words are the bits as fusermount3 wants them. It knows nothing of nodiratime, which the server sees to.
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
		{unix.MS_SYNCHRONOUS, "sync", ""},
		{unix.MS_DIRSYNC, "dirsync", ""},
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

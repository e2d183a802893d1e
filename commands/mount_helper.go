package commands

import (
	"path/filepath"
	"slices"
	"strings"

	"e4go/fusesrv"
)

// helperLine makes a command line of e4go of one that mount(8) or umount(8) calls a helper with.
// args begin with the program's name, by which they are known: as mount.TYPE or umount.TYPE
//
//	mount.e4go SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
//	umount.e4go DIR [-nlfvr] [-N NAMESPACE] [-t TYPE]
//
// or, from mount.fuse3(8), without a command and with a path in its place:
//
//	e4go SOURCE DIR -o OPTIONS
//
// Any other line is returned as it is. mount(8) says rw where nobody has said ro, and means what e4go
// means by neither.
func helperLine(args []string) []string {
	name := filepath.Base(args[0])
	words := args[1:]
	switch {
	case strings.HasPrefix(name, "mount."):
		return helperMount(words, "suid,dev,") // what others have to switch off, as fstab(5) says of its defaults
	case strings.HasPrefix(name, "umount."):
		return helperUmount(words)
	case len(words) > 2 && strings.Contains(words[0], "/") && !strings.HasPrefix(words[0], "-") && slices.Contains(words, "-o"):
		return helperMount(words, "")
	}
	return args
}

func helperMount(words []string, options string) []string {
	line := []string{programName, mountCommand.Name}
	var names []string
	for i := 0; i < len(words); i++ {
		value := func() string {
			if i++; i < len(words) {
				return words[i]
			}
			return ""
		}
		switch w := words[i]; {
		case w == "-o":
			options += value() + ","
		case w == "-t":
			value()
		case w == "-N":
			options += "namespace=" + value() + ","
		case len(w) > 1 && w[0] == '-':
			for _, letter := range w[1:] {
				switch letter {
				case 's':
					line = append(line, "--sloppy")
				case 'f':
					line = append(line, "--fake")
				}
			}
		default:
			names = append(names, w)
		}
	}
	return append(append(line, "-o", strings.Join(unsayWrite(splitOptions(options)), ","), "--"), names...)
}

// unsayWrite takes rw out of options, unless it is to change a mount that is there.
func unsayWrite(options []string) []string {
	write := false
	for _, o := range options {
		if o == "ro" || o == "rw" {
			write = o == "rw"
		}
	}
	if !write || slices.Contains(options, "remount") {
		return options
	}
	return slices.DeleteFunc(options, func(o string) bool { return o == "ro" || o == "rw" })
}

func helperUmount(words []string) []string {
	line := []string{programName, umountCommand.Name}
	var names []string
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "-t":
			i++
		case w == "-N" && i+1 < len(words):
			i++
			line = append(line, "--namespace="+words[i])
		case len(w) > 1 && w[0] == '-':
			if strings.Contains(w, "l") {
				line = append(line, "--lazy")
			}
		default:
			names = append(names, w)
		}
	}
	return append(append(line, "--"), names...)
}

// change changes a mount that is there, as remount asks.
func (r *mountRequest) change() error {
	options := r.serve.Extra
	switch r.write {
	case writeOrFail:
		options = append(options, "rw")
	case writeNever:
		options = append(options, "ro")
	}
	if err := fusesrv.Remount(r.dir, options); err != nil {
		return &pathError{r.dir, err}
	}
	return nil
}

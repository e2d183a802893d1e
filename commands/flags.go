package commands

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// The groups of options in help texts.
const (
	imageCategory  = "Image"
	outputCategory = "Output"
)

// imageEnv names the image for all commands that are not given one.
const imageEnv = "E4GO_IMAGE"

// imageFlags say which file system is meant. They may also stand before the
// subcommand.
func imageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "image", Aliases: []string{"i"}, Category: imageCategory, EnvVars: []string{imageEnv},
			Usage: "the file system is in `IMAGE`, a file or block device; default $" + imageEnv},
		&cli.StringFlag{Name: "offset", Category: imageCategory,
			Usage: "it begins `N` bytes into the image; N may end in k, m, g, t, or s for sectors of 512 bytes"},
		&cli.StringFlag{Name: "superblock", Aliases: []string{"sb"}, Category: imageCategory,
			Usage: "use the superblock in block `N`, counted in units of 1 KiB as in mount -o sb=N"},
		&cli.StringFlag{Name: "journal", Category: imageCategory,
			Usage: "the external journal is in `PATH`"},
		&cli.BoolFlag{Name: "no-recovery", Category: imageCategory,
			Usage: "do not replay an unclean journal in memory: show what is on the device"},
		&cli.StringFlag{Name: "cache-size", Category: imageCategory,
			Usage: "keep up to `N` bytes of metadata in memory; default 64m"},
	}
}

// outputFlags choose the form of the output. tables is for commands that print tables.
func outputFlags(tables bool) []cli.Flag {
	out := []cli.Flag{jsonFlag(), colorFlag()}
	if tables {
		out = append(out, &cli.BoolFlag{Name: "plain", Category: outputCategory,
			Usage: "print values separated by TABs, one record a line, without headings"})
	}
	return out
}

// commandFlags are own flags, then those for the image and the output.
func commandFlags(own ...cli.Flag) []cli.Flag {
	return append(append(own, imageFlags()...), outputFlags(true)...)
}

// sizeUnits are the letters that a number of bytes may end in.
var sizeUnits = map[byte]uint64{'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30, 't': 1 << 40, 's': 512}

// parseSize understands a number of bytes: decimal, or hexadecimal with 0x, and a unit.
func parseSize(s string) (uint64, error) {
	digits, unit := s, uint64(1)
	if n := len(s); n > 1 && !strings.HasPrefix(s, "0x") {
		if u, ok := sizeUnits[s[n-1]|0x20]; ok {
			digits, unit = s[:n-1], u
		}
	}
	n, err := strconv.ParseUint(digits, 0, 64)
	if err != nil || strings.Contains(digits, "_") {
		return 0, fmt.Errorf("%q is no number of bytes: want digits and perhaps k, m, g, t or s", s)
	}
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is too large: want less than 2^63 bytes", s)
	}
	return n * unit, nil
}

// sizeFlag returns the value of a flag that is a number of bytes, or def
// without the flag.
func sizeFlag(c *cli.Context, name string, def uint64) (uint64, error) {
	s := c.String(name)
	if s == "" {
		return def, nil
	}
	n, err := parseSize(s)
	if err != nil {
		return 0, usagef("--%s: %v", name, err)
	}
	return n, nil
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Category: outputCategory, Usage: "print one JSON document, errors included; see docs/JSON.md"}
}

func colorFlag() cli.Flag {
	return &cli.StringFlag{Name: "color", Category: outputCategory, Value: "auto",
		Usage: "colours and frames: `WHEN` is auto (on a terminal, unless NO_COLOR is set), always or never"}
}

package commands

import (
	"runtime"
	"runtime/debug"

	"e4go/ext4"
	"e4go/ext4/disk"

	"github.com/urfave/cli/v2"
)

var versionCommand = &cli.Command{
	Name:  "version",
	Usage: "show the version, how it was built, and the features it reads",
	Description: `Prints the version of e4go and of the Go toolchain, the commit it was built from
where that is known, and the features of file systems that it reads. Unknown
compatible and read-only features do not hinder it.

Exit status:
  0.`,
	Flags:  outputFlags(true),
	Action: runVersion,
}

func runVersion(c *cli.Context) error {
	if err := checkForm(c); err != nil {
		return err
	}
	version, commit, modified := "(devel)", "", false
	if b, ok := debug.ReadBuildInfo(); ok {
		if v := b.Main.Version; v != "" {
			version = v
		}
		for _, s := range b.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value
			case "vcs.modified":
				modified = s.Value == "true"
			}
		}
	}
	o := out(c)
	o.facts([]fact{
		{"e4go", "version", version, ""},
		{"Go", "go", runtime.Version(), ""},
		{"Platform", "platform", runtime.GOOS + "/" + runtime.GOARCH, ""},
	})
	if commit != "" {
		o.facts([]fact{{"Commit", "commit", commit, ""}, {"Modified", "modified", modified, ""}})
	}
	o.facts([]fact{
		{"Reads features", "features", readFeatures(), ""},
		{"Judges iomap answers as", "iomap_protocols", []string{"v7", "v8"}, ""},
	})
	return o.fail()
}

// readFeatures are the incompatible features that do not keep e4go from reading.
func readFeatures() []string {
	var known disk.Incompat
	for bit := disk.Incompat(1); bit != 0; bit <<= 1 {
		if ext4.CheckFeatures(&disk.Superblock{Incompat: bit}) == nil {
			known |= bit
		}
	}
	return known.Names()
}

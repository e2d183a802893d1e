package commands

import (
	"e4go/fusesrv"

	"github.com/urfave/cli/v2"
)

var umountCommand = &cli.Command{
	Name:      "umount",
	Usage:     "unmount what e4go mounted, and wait until the image is free",
	ArgsUsage: "DIR...",
	Description: `Unmounts the file systems that e4go mount has mounted at each DIR, and returns
when their servers have let go of the images. A mount whose server was killed
or hangs is unmounted too. A DIR in use is refused.

Exit status, as umount(8)'s:
  0 unmounted; 1 wrong usage; 32 a DIR could not be unmounted.`,
	Flags: []cli.Flag{
		&cli.BoolFlag{Name: "lazy", Aliases: []string{"l"}, Usage: "take a DIR that is in use out of the directory tree, and do not wait for its users"},
		&cli.StringFlag{Name: "namespace", Usage: "as umount -N; refused: run it in that mount `NAMESPACE`, as with nsenter -m"},
		&cli.BoolFlag{Name: "json", Category: outputCategory, Usage: "print one JSON document, errors included; see docs/JSON.md"},
	},
	Action: runUmount,
}

func runUmount(c *cli.Context) error {
	dirs, err := someArgs(c)
	if err != nil {
		return err
	}
	if ns := c.String("namespace"); ns != "" {
		return usageHint("nsenter --mount=NAMESPACE e4go umount DIR", "umounting in another mount namespace (-N %s) is not done from outside of it", ns)
	}
	unmount := fusesrv.Unmount
	if c.Bool("lazy") {
		unmount = fusesrv.UnmountLazy
	}
	o := out(c)
	if o.json {
		o.kArr("unmounted")
	}
	for _, dir := range dirs {
		if err := unmount(dir); err != nil {
			return &pathError{dir, err}
		}
		if o.json {
			o.obj()
			o.kStr("dir", dir)
			o.end()
		}
	}
	return nil
}

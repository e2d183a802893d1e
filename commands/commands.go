// Package commands is the command line of e4go. Each subcommand is a file: its
// usage text, which is its manual, and a run function that parses, opens, calls
// one thing of another package and prints. Nothing here decides anything about
// a file system.
//
// What a command writes goes through an [output]: text for people, lines with
// TABs for scripts (--plain), or one JSON document (--json, see docs/JSON.md).
// Data goes to standard output and everything else to standard error. Exit
// statuses are chosen in exit.go alone.
//
// A command runs on one goroutine, but for the line that shows its progress, and
// keeps no state between runs.
package commands

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"syscall"

	"github.com/urfave/cli/v2"
)

// all are the subcommands, in the order of the help text. They are listed in
// init, since some of them look at the list themselves.
var all []*cli.Command

func init() {
	all = []*cli.Command{
		infoCommand,
		lsCommand,
		statCommand,
		catCommand,
		dumpExtentsCommand,
		fiemapCommand,
		iomapProbeCommand,
		mkimageCommand,
		fsckLiteCommand,
		mountCommand,
		umountCommand,
		tourCommand,
		versionCommand,
		completionCommand,
		manCommand,
		helpCommand,
	}
}

// Main runs the command line of this process and returns its exit status.
func Main() int {
	collectLater()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return run(ctx, helperLine(os.Args), os.Stdout, os.Stderr)
}

// collectLater keeps the garbage collector from starting before the heap has
// 32 MiB instead of 4: most runs are over by then.
func collectLater() {
	if os.Getenv("GOGC") != "" {
		return
	}
	afterCollection(debug.SetGCPercent(800))
}

// afterCollection has the next collection followed by a setting of GOGC: to the usual one, or
// each time to what the garbageLimit means by then.
func afterCollection(usual int) {
	runtime.SetFinalizer(new([64]byte), func(*[64]byte) {
		most := garbageLimit.Load()
		if most == 0 {
			debug.SetGCPercent(usual)
			return
		}
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(int(min(800, max(5, 100*most/max(1, live[0].Value.Uint64())))))
		afterCollection(usual)
	})
}

// garbageLimit is how many bytes of garbage there may be in commands that keep much in memory,
// which half as much again would be too much of. 0 is none: GOGC decides.
var garbageLimit atomic.Uint64

// outputKey is where the [output] of a run hangs in the App.
const outputKey = "output"

// run runs the command line args, whose first word is the program's name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp()
	o := newOutput(ctx, stdout, stderr)
	app.Writer, app.ErrWriter = o, stderr
	app.Metadata = map[string]any{outputKey: o}
	cmd, words, err := parseLine(app, args[1:])
	o.setUp(cmd, args[1:])
	if err == nil {
		err = app.RunContext(ctx, append(args[:1:1], words...))
		err = rewordParseError(err)
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = errInterrupted
	}
	return o.finish(cmd, withStatus(cmd, err))
}

// withStatus gives the errors of commands that have exit statuses of their own, those of
// the command line included, one of these.
func withStatus(cmd *cli.Command, err error) error {
	if cmd == nil {
		return err
	}
	switch cmd.Name {
	case "mount", "umount":
		return mountStatus(err)
	case "fsck-lite":
		return fsckStatus(err)
	}
	return err
}

func newApp() *cli.App {
	app := &cli.App{
		Name:            programName,
		Usage:           "ext4 in user space: inspect, explain, make, check and mount file systems",
		HideHelp:        true,
		HideHelpCommand: true,
		HideVersion:     true,
		// A comma may be part of a path.
		DisableSliceFlagSeparator: true,
		Commands:                  all,
		ExitErrHandler:            func(*cli.Context, error) {}, // run has the status
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return err },
		Action:                    func(c *cli.Context) error { return printTopHelp(c) },
	}
	for _, c := range all {
		c.HideHelp, c.HideHelpCommand = true, true
		c.OnUsageError = app.OnUsageError
	}
	return app
}

const programName = "e4go"

// out returns the output of c's run.
func out(c *cli.Context) *output { return c.App.Metadata[outputKey].(*output) }

// oneArg returns the one argument that c has.
func oneArg(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", usagef("%d arguments, want one: %s", c.NArg(), c.Command.ArgsUsage)
	}
	return c.Args().First(), nil
}

// someArgs returns c's arguments, of which there must be one.
func someArgs(c *cli.Context) ([]string, error) {
	if c.NArg() == 0 {
		return nil, usagef("no arguments, want %s", c.Command.ArgsUsage)
	}
	return c.Args().Slice(), nil
}

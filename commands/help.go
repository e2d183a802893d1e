package commands

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

var helpCommand = &cli.Command{
	Name:      "help",
	Usage:     "show the manual of a command or topic",
	ArgsUsage: "[COMMAND|TOPIC]",
	Description: `Without an argument, lists the commands. With one, shows its manual: what
e4go COMMAND --help shows.

Topics:
  exit-codes  what the exit statuses mean
  json        the form of the JSON documents`,
	Flags:  outputFlags(false),
	Action: runHelp,
}

const jsonTopic = `With --json, a command prints one JSON document to standard output, and nothing else there, whatever happens.

The document is an object with "schema": 1. New keys may appear; a key that is there keeps its meaning as long as the
schema keeps its number. docs/JSON.md lists every key of every command.

Errors: a run that fails has "error" in the document: an object with "kind", "message", "exit" (the exit status) and,
where they are known, "path", "what", "where" (block, offset, field), "have", "want", "next". Commands that go on after
damage put such objects beside what they are about, too.

Numbers are integers. Offsets, lengths and addresses of extents are in bytes. Names and paths are text; when their bytes
are not UTF-8, what is not is replaced, and all bytes follow in hexadecimal under the same key with "_hex" behind it.

Extents have one form, whatever says them: "logical", "physical" (null where there is none), "length", "state" (written,
unwritten, hole, inline, delalloc, encoded; index for nodes of a map), "flags", "flag_names". The flags are those of
FIEMAP in dumpextents, stat and fiemap, and those of the iomap protocol in iomap-probe.
`

// topics are the manuals that belong to no command.
var topics = []struct {
	name string
	text func() string
}{
	{"exit-codes", func() string { return exitCodesTopic }},
	{"json", func() string { return jsonTopic }},
	{"problems", problemsTopic},
}

func runHelp(c *cli.Context) error {
	if c.NArg() > 1 {
		return usagef("%d arguments, want one: COMMAND or TOPIC", c.NArg())
	}
	if c.NArg() == 0 {
		return printTopHelp(c)
	}
	name := c.Args().First()
	text := ""
	names := commandNames(c.App)
	for _, t := range topics {
		if t.name == name {
			text = t.text()
		}
		names = append(names, t.name)
	}
	if cmd := c.App.Command(name); cmd != nil {
		text = manualText(cmd)
	}
	if text == "" {
		return usageHint(didYouMean(name, names), "no command or topic %q", name)
	}
	return printHelp(c, name, text)
}

// printHelp prints a manual; in JSON it is a string.
func printHelp(c *cli.Context, name, text string) error {
	o := out(c)
	if o.json {
		o.kStr("topic", name)
		o.kStr("text", text)
	} else {
		o.str(text)
	}
	return o.fail()
}

func printTopHelp(c *cli.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s - %s\n\nUsage: %s COMMAND [OPTIONS] [ARGUMENTS]\n\nCommands:\n", c.App.Name, c.App.Usage, c.App.Name)
	var rows [][2]string
	for _, cmd := range c.App.Commands {
		if !cmd.Hidden {
			rows = append(rows, [2]string{cmd.Name, cmd.Usage})
		}
	}
	definitions(&b, rows)
	b.WriteString("\nThe image, for all commands that inspect one (also before COMMAND):\n")
	definitions(&b, flagRows(imageFlags()))
	fmt.Fprintf(&b, `
Examples:
  e4go info disk.img
  e4go ls -l -i disk.img /etc
  e4go mount -o ro disk.img /mnt
  e4go tour

e4go help COMMAND shows a command's manual; e4go help exit-codes and e4go help json are about all of them.
`)
	return printHelp(c, programName, b.String())
}

// manualText is the manual of cmd: usage, description, options by their groups.
func manualText(cmd *cli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s - %s\n\nUsage: %s\n\n%s\n", programName, cmd.Name, cmd.Usage, usageLine(cmd), cmd.Description)
	for _, g := range flagGroups(cmd) {
		fmt.Fprintf(&b, "\n%s:\n", g.title)
		definitions(&b, g.rows)
	}
	return b.String()
}

func usageLine(cmd *cli.Command) string {
	line := programName + " " + cmd.Name
	if len(cmd.Flags) > 0 {
		line += " [OPTIONS]"
	}
	if cmd.ArgsUsage != "" {
		line += " " + cmd.ArgsUsage
	}
	return line
}

// A flagGroup is the options of one category.
type flagGroup struct {
	title string
	rows  [][2]string
}

// flagGroups has the categories in the order in which cmd lists them.
func flagGroups(cmd *cli.Command) []flagGroup {
	var order []string
	byCategory := make(map[string][]cli.Flag)
	for _, f := range cmd.Flags {
		cat := f.(cli.CategorizableFlag).GetCategory()
		if byCategory[cat] == nil {
			order = append(order, cat)
		}
		byCategory[cat] = append(byCategory[cat], f)
	}
	var out []flagGroup
	for _, cat := range order {
		title := "Options"
		if cat != "" {
			title = cat + " options"
		}
		out = append(out, flagGroup{title, flagRows(byCategory[cat])})
	}
	return out
}

// flagRows has, for each flag, its names with the value's name, and what it does.
func flagRows(flags []cli.Flag) [][2]string {
	var rows [][2]string
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, value := unquote(d.GetUsage())
		var names []string
		for _, n := range f.Names() {
			if len(n) == 1 {
				names = append(names, "-"+n)
			} else {
				names = append(names, "--"+n)
			}
		}
		slices.SortStableFunc(names, func(a, b string) int { return min(len(a), 3) - min(len(b), 3) })
		text := strings.Join(names, ", ")
		if d.TakesValue() {
			text += " " + value
		}
		rows = append(rows, [2]string{text, usage})
	}
	return rows
}

// unquote takes the value's name out of a usage text, where it is quoted.
func unquote(usage string) (text, value string) {
	before, rest, ok := strings.Cut(usage, "`")
	value, after, ok2 := strings.Cut(rest, "`")
	if !ok || !ok2 {
		return usage, "VALUE"
	}
	return before + value + after, value
}

// definitions writes rows of a word and what it means, aligned.
func definitions(b *strings.Builder, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "  %-*s  %s\n", width, r[0], r[1])
	}
}

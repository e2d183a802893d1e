package commands

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

var manCommand = &cli.Command{
	Name:      "man",
	Usage:     "print manual pages for man(1)",
	ArgsUsage: "[COMMAND]",
	Description: `Prints the manual page of e4go or of one of its commands, as man(1) wants it.
With --write, writes all pages into a directory, which must exist: e4go.1, e4go-ls.1, ...

Examples:
  e4go man ls | man -l -
  e4go man --write /usr/local/share/man/man1

Exit status:
  0 done; 2 trouble.`,
	Flags: append([]cli.Flag{
		&cli.StringFlag{Name: "write", Usage: "write all pages into the directory `DIR`"},
	}, outputFlags(false)...),
	Action: runMan,
}

func runMan(c *cli.Context) error {
	if c.NArg() > 1 {
		return usagef("%d arguments, want one: COMMAND", c.NArg())
	}
	pages := manPages(c.App)
	if dir := c.String("write"); dir != "" {
		for _, p := range pages {
			if err := os.WriteFile(filepath.Join(dir, p.file), []byte(p.text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	file := programName + ".1"
	if c.NArg() == 1 {
		file = programName + "-" + c.Args().First() + ".1"
	}
	for _, p := range pages {
		if p.file == file {
			return printHelp(c, file, p.text)
		}
	}
	return usageHint(didYouMean(c.Args().First(), commandNames(c.App)), "no command %q", c.Args().First())
}

// A manPage is one manual page in roff.
type manPage struct {
	file string
	text string
}

// manPages are the pages of app and of its commands.
func manPages(app *cli.App) []manPage {
	var b strings.Builder
	head := func(name, usage string) {
		fmt.Fprintf(&b, ".TH %s 1 \"\" e4go \"User commands\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(name), roff(usage))
	}
	head(programName, app.Usage)
	b.WriteString(".SH SYNOPSIS\n.B e4go\nCOMMAND [OPTIONS] [ARGUMENTS]\n.SH COMMANDS\n")
	for _, cmd := range app.Commands {
		if !cmd.Hidden {
			roffItem(&b, programName+"-"+cmd.Name+"(1)", cmd.Usage)
		}
	}
	b.WriteString(".SH IMAGE OPTIONS\n")
	for _, r := range flagRows(imageFlags()) {
		roffItem(&b, r[0], r[1])
	}
	b.WriteString(".SH EXIT STATUS\n")
	roffBody(&b, exitCodesTopic)
	b.WriteString(".SH JSON\n")
	roffBody(&b, jsonTopic)
	pages := []manPage{{programName + ".1", b.String()}}
	for _, cmd := range app.Commands {
		if cmd.Hidden {
			continue
		}
		b.Reset()
		name := programName + "-" + cmd.Name
		head(name, cmd.Usage)
		fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.SH DESCRIPTION\n", roff(usageLine(cmd)))
		roffBody(&b, cmd.Description)
		for _, g := range flagGroups(cmd) {
			fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(g.title))
			for _, r := range g.rows {
				roffItem(&b, r[0], r[1])
			}
		}
		b.WriteString(".SH SEE ALSO\n.BR e4go (1)\n")
		pages = append(pages, manPage{name + ".1", b.String()})
	}
	return pages
}

// roffBody writes a text: paragraphs, headings that end in a colon, and, kept
// line by line, what is indented.
func roffBody(b *strings.Builder, text string) {
	kept := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		indented := strings.HasPrefix(line, "  ")
		if kept && !indented {
			b.WriteString(".fi\n.RE\n")
			kept = false
		}
		switch {
		case indented && !kept:
			b.WriteString(".RS 2\n.nf\n" + roff(line[2:]) + "\n")
			kept = true
		case indented:
			b.WriteString(roff(line[2:]) + "\n")
		case line == "":
			b.WriteString(".PP\n")
		default:
			b.WriteString(roff(line) + "\n")
		}
	}
	if kept {
		b.WriteString(".fi\n.RE\n")
	}
}

func roffItem(b *strings.Builder, term, text string) {
	fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(term), roff(text))
}

// roff escapes what troff would take for itself.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

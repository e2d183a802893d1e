package commands

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// parseLine brings the words of a command line into the order that package cli
// wants: the subcommand, its flags, "--", its arguments. People write flags before the
// subcommand, behind the arguments, and several in one word (-lR). It returns the
// subcommand too, nil without one, also with an error: a usage error that
// names what was meant.
func parseLine(app *cli.App, args []string) (*cli.Command, []string, error) {
	cmd, before, after := splitCommand(app, args)
	if cmd == nil {
		return topLevel(app, args)
	}
	known := flagsOf(cmd)
	var flags, words []string
	all := append(before, after...)
	for i := 0; i < len(all); i++ {
		w := all[i]
		if w == "--" {
			words = append(words, all[i+1:]...)
			break
		}
		if len(w) < 2 || w[0] != '-' {
			words = append(words, w)
			continue
		}
		if w == "-h" || w == "--help" || w == "-help" {
			return cmd, []string{helpCommand.Name, cmd.Name}, nil
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
		f, ok := known[name]
		switch {
		case ok && hasValue:
			flags = append(flags, "--"+name+"="+value)
		case ok && !takesValue(f):
			flags = append(flags, "--"+name)
		case ok:
			if i++; i == len(all) {
				return cmd, nil, usagef("option %s needs a value", w)
			}
			flags = append(flags, "--"+name+"="+all[i])
		default:
			short, n, err := shortFlags(known, all[i:])
			if err != nil {
				return cmd, nil, unknownFlag(app, cmd, w, known)
			}
			flags = append(flags, short...)
			i += n
		}
	}
	line := append([]string{cmd.Name}, flags...)
	return cmd, append(append(line, "--"), words...), nil
}

// splitCommand finds the subcommand in args, and what stands before and behind it.
func splitCommand(app *cli.App, args []string) (cmd *cli.Command, before, after []string) {
	known := map[string]cli.Flag{}
	for _, f := range append(imageFlags(), outputFlags(true)...) {
		for _, n := range f.Names() {
			known[n] = f
		}
	}
	for i := 0; i < len(args); i++ {
		w := args[i]
		if len(w) < 2 || w[0] != '-' {
			return app.Command(w), args[:i:i], args[i+1:]
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
		if f, ok := known[name]; ok && takesValue(f) && !hasValue {
			i++
		}
	}
	return nil, nil, nil
}

// topLevel is parseLine for a line without a known subcommand.
func topLevel(app *cli.App, args []string) (*cli.Command, []string, error) {
	for i, w := range args {
		switch {
		case w == "-h" || w == "--help" || w == "-help":
			return helpCommand, []string{helpCommand.Name}, nil
		case w == "--version" || w == "-version" || w == "-V":
			return versionCommand, append([]string{versionCommand.Name}, jsonWord(args)...), nil
		case !strings.HasPrefix(w, "-"):
			if i == 0 || !strings.HasPrefix(args[0], "-") || app.Command(w) == nil {
				return nil, nil, usageHint(didYouMean(w, commandNames(app)), "unknown command %q", w)
			}
		}
	}
	return nil, nil, usagef("no command")
}

func jsonWord(args []string) []string {
	if slices.Contains(args, "--json") {
		return []string{"--json"}
	}
	return nil
}

func commandNames(app *cli.App) []string {
	var out []string
	for _, c := range app.Commands {
		if !c.Hidden {
			out = append(out, c.Names()...)
		}
	}
	return out
}

// flagsOf has the flags of cmd by all their names.
func flagsOf(cmd *cli.Command) map[string]cli.Flag {
	out := map[string]cli.Flag{}
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			out[n] = f
		}
	}
	return out
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// shortFlags takes apart the first of words: -lR, or -iIMAGE. The last letter
// may take the rest, or the next word, as its value; n is how many words beside the
// first it took.
func shortFlags(known map[string]cli.Flag, words []string) (flags []string, n int, err error) {
	w := words[0]
	if strings.HasPrefix(w, "--") {
		return nil, 0, errNoSuchFlag
	}
	for i := 1; i < len(w); i++ {
		f, ok := known[w[i:i+1]]
		switch {
		case !ok:
			return nil, 0, errNoSuchFlag
		case !takesValue(f):
			flags = append(flags, "-"+w[i:i+1])
		case i+1 < len(w):
			return append(flags, "-"+w[i:i+1]+"="+w[i+1:]), 0, nil
		case len(words) > 1:
			return append(flags, "-"+w[i:]+"="+words[1]), 1, nil
		default:
			return nil, 0, errNoSuchFlag
		}
	}
	return flags, 0, nil
}

var errNoSuchFlag = usagef("no such option")

// unknownFlag says what may have been meant by w.
func unknownFlag(app *cli.App, cmd *cli.Command, w string, known map[string]cli.Flag) error {
	name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
	var names []string
	for n := range known {
		if len(n) > 1 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = "did you mean --" + near + "?"
	} else {
		hint = fmt.Sprintf("see e4go help %s", cmd.Name)
	}
	return usageHint(hint, "unknown option %s", w)
}

// rewordParseError makes a usage error of what package cli and package flag say about
// the value of a flag.
func rewordParseError(err error) error {
	if err == nil {
		return nil
	}
	s := err.Error()
	for _, start := range []string{"invalid value", "invalid boolean value", "flag provided but not defined", "Required flag"} {
		if strings.HasPrefix(s, start) {
			return usagef("%s", strings.NewReplacer("for flag -", "for option --", ": parse error", "").Replace(s))
		}
	}
	return err
}

// didYouMean is the hint for the word w that is none of words, "" for the usual one.
func didYouMean(w string, words []string) string {
	if near := nearest(w, words); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// nearest returns the word that takes the fewest edits to become w, or "" if
// they are many for its length.
func nearest(w string, words []string) string {
	best, least := "", 0
	for _, x := range words {
		if d := edits(w, x); d <= max(1, len(x)/3) && (best == "" || d < least) {
			best, least = x, d
		}
		if len(w) >= 3 && strings.HasPrefix(x, w) && best == "" {
			best, least = x, len(x)-len(w)
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that make b of a (optimal string alignment).
func edits(a, b string) int {
	const longest = 64 // no word of ours is longer
	if len(a) > longest || len(b) > longest {
		return longest
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

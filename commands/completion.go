package commands

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

var completionCommand = &cli.Command{
	Name:      "completion",
	Usage:     "print the completion script of a shell",
	ArgsUsage: "bash|zsh|fish|powershell",
	Description: `Prints a script that makes the shell complete commands, options and file names.

Examples:
  source <(e4go completion bash)
  e4go completion zsh >~/.zfunc/_e4go
  e4go completion fish >~/.config/fish/completions/e4go.fish
  e4go completion powershell | Out-String | Invoke-Expression

Exit status:
  0 printed; 2 unknown shell.`,
	Flags:  outputFlags(false),
	Action: runCompletion,
}

var shells = []string{"bash", "zsh", "fish", "powershell"}

func runCompletion(c *cli.Context) error {
	shell, err := oneArg(c)
	if err != nil {
		return err
	}
	words := completionWords(c.App)
	var text string
	switch shell {
	case "bash":
		text = bashCompletion(words)
	case "zsh":
		text = zshCompletion(words)
	case "fish":
		text = fishCompletion(words)
	case "powershell":
		text = powershellCompletion(words)
	default:
		return usageHint(didYouMean(shell, shells), "shell is %q, want one of %s", shell, strings.Join(shells, ", "))
	}
	return printHelp(c, shell, text)
}

// values are the words that options and arguments can be.
var values = map[string][]string{
	"--color":    {"auto", "always", "never"},
	"--op":       probeOps(),
	"--protocol": {"v7", "v8"},
	"completion": shells,
}

// completionWord is a command with its options.
type completionWord struct {
	name, usage string
	flags       [][2]string // as typed, and what they do
	args        []string    // what its argument can be, if not a file
}

func completionWords(app *cli.App) []completionWord {
	var out []completionWord
	for _, cmd := range app.Commands {
		if cmd.Hidden {
			continue
		}
		w := completionWord{name: cmd.Name, usage: cmd.Usage, args: values[cmd.Name]}
		if cmd == helpCommand || cmd == manCommand {
			w.args = commandNames(app)
		}
		if cmd == helpCommand {
			for _, t := range topics {
				w.args = append(w.args, t.name)
			}
		}
		for _, f := range cmd.Flags {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok {
				continue
			}
			usage, _ := unquote(d.GetUsage())
			for _, n := range f.Names() {
				dash := "--"
				if len(n) == 1 {
					dash = "-"
				}
				w.flags = append(w.flags, [2]string{dash + n, usage})
			}
		}
		w.flags = append(w.flags, [2]string{"--help", "show the manual"})
		out = append(out, w)
	}
	return out
}

func commandWords(words []completionWord) string {
	var names []string
	for _, w := range words {
		names = append(names, w.name)
	}
	return strings.Join(names, " ")
}

func (w completionWord) flagWords() string {
	var names []string
	for _, f := range w.flags {
		names = append(names, f[0])
	}
	return strings.Join(names, " ")
}

// valueOptions are the options with a list of values, sorted.
func valueOptions() []string {
	var out []string
	for k := range values {
		if strings.HasPrefix(k, "-") {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func bashCompletion(words []completionWord) string {
	var b strings.Builder
	fmt.Fprintf(&b, `_e4go() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd= i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		%s) cmd=${COMP_WORDS[i]}; break ;;
		esac
	done
	COMPREPLY=()
	case $prev in
`, strings.ReplaceAll(commandWords(words), " ", "|"))
	for _, k := range valueOptions() {
		fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", k, strings.Join(values[k], " "))
	}
	b.WriteString("\tesac\n\tcase $cmd in\n")
	fmt.Fprintf(&b, "\t'') [[ $cur == -* ]] || COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", commandWords(words))
	for _, w := range words {
		fmt.Fprintf(&b, "\t%s)\n\t\tif [[ $cur == -* ]]; then COMPREPLY=($(compgen -W %q -- \"$cur\")); return; fi\n", w.name, w.flagWords())
		if w.args != nil {
			fmt.Fprintf(&b, "\t\tCOMPREPLY=($(compgen -W %q -- \"$cur\")); return\n", strings.Join(w.args, " "))
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString("\tesac\n}\ncomplete -o default -F _e4go e4go\n")
	return b.String()
}

func zshCompletion(words []completionWord) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer("'", `'\''`, ":", `\:`, "[", `\[`, "]", `\]`).Replace(s) + "'"
	}
	var b strings.Builder
	b.WriteString("#compdef e4go\n_e4go() {\n\tlocal -a commands options args\n\tcommands=(\n")
	for _, w := range words {
		fmt.Fprintf(&b, "\t\t%s:%s\n", w.name, quote(w.usage))
	}
	b.WriteString("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[CURRENT-1] in\n")
	for _, k := range valueOptions() {
		fmt.Fprintf(&b, "\t%s) args=(%s); _describe value args; return ;;\n", k, strings.Join(values[k], " "))
	}
	b.WriteString("\tesac\n\tcase $words[2] in\n")
	for _, w := range words {
		fmt.Fprintf(&b, "\t%s)\n\t\toptions=(\n", w.name)
		for _, f := range w.flags {
			fmt.Fprintf(&b, "\t\t\t%s:%s\n", f[0], quote(f[1]))
		}
		b.WriteString("\t\t)\n")
		if w.args != nil {
			fmt.Fprintf(&b, "\t\targs=(%s)\n", strings.Join(w.args, " "))
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString("\tesac\n\tif [[ $words[CURRENT] == -* ]]; then\n\t\t_describe option options\n" +
		"\telif (( $#args )); then\n\t\t_describe argument args\n\telse\n\t\t_files\n\tfi\n}\n" +
		"if [ \"$funcstack[1]\" = _e4go ]; then\n\t_e4go \"$@\"\nelse\n\tcompdef _e4go e4go\nfi\n")
	return b.String()
}

func fishCompletion(words []completionWord) string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
	}
	var b strings.Builder
	for _, w := range words {
		fmt.Fprintf(&b, "complete -c e4go -f -n __fish_use_subcommand -a %s -d %s\n", w.name, quote(w.usage))
	}
	for _, w := range words {
		when := quote("__fish_seen_subcommand_from " + w.name)
		for _, f := range w.flags {
			name := "-l " + strings.TrimPrefix(f[0], "--")
			if len(f[0]) == 2 {
				name = "-s " + f[0][1:]
			}
			extra := ""
			if v := values[f[0]]; v != nil {
				extra = " -x -a " + quote(strings.Join(v, " "))
			}
			fmt.Fprintf(&b, "complete -c e4go -n %s %s -d %s%s\n", when, name, quote(f[1]), extra)
		}
		if w.args != nil {
			fmt.Fprintf(&b, "complete -c e4go -f -n %s -a %s\n", when, quote(strings.Join(w.args, " ")))
		}
	}
	return b.String()
}

func powershellCompletion(words []completionWord) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	list := func(words []string) string {
		q := make([]string, len(words))
		for i, w := range words {
			q[i] = quote(w)
		}
		return strings.Join(q, ", ")
	}
	var b strings.Builder
	b.WriteString("Register-ArgumentCompleter -Native -CommandName e4go -ScriptBlock {\n\tparam($word, $ast, $position)\n\t$options = @{\n")
	var names []string
	for _, w := range words {
		names = append(names, w.name)
		all := strings.Fields(w.flagWords())
		fmt.Fprintf(&b, "\t\t%s = @(%s)\n", quote(w.name), list(append(all, w.args...)))
	}
	fmt.Fprintf(&b, "\t}\n\t$values = @{\n")
	for _, k := range valueOptions() {
		fmt.Fprintf(&b, "\t\t%s = @(%s)\n", quote(k), list(values[k]))
	}
	fmt.Fprintf(&b, `	}
	$elements = @($ast.CommandElements | ForEach-Object { $_.ToString() })
	$before = if ($word -eq '') { $elements[-1] } else { $elements[-2] }
	$command = $elements | Select-Object -Skip 1 | Where-Object { $options.ContainsKey($_) } | Select-Object -First 1
	$found = if ($values.ContainsKey($before)) { $values[$before] } elseif ($command -and $command -ne $word) { $options[$command] } else { @(%s) }
	$found | Where-Object { $_ -like "$word*" } | ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
}
`, list(names))
	return b.String()
}

package commands

import (
	"bytes"
	"context"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// An output is where a command prints to: standard output through a buffer, in the
// form that the flags ask for. Its first error stays: later writes do nothing,
// and commands with much to say ask [output.ok] and stop.
type output struct {
	ctx    context.Context // ends a stream early
	stdout io.Writer
	stderr io.Writer
	cmd    *cli.Command // nil until it is known
	json   bool         // --json
	plain  bool         // --plain
	frames bool         // tables with frames: on a terminal
	width  int          // columns of the terminal
	styles styles
	buf    []byte
	err    error

	oneLine bool   // no line breaks in JSON
	nest    []byte // of the JSON document: the brackets that are open
	comma   bool   // what comes next in it wants a comma before it
}

// flushAt is how many bytes are collected for one write.
const flushAt = 64 << 10

func newOutput(ctx context.Context, stdout, stderr io.Writer) *output {
	return &output{ctx: ctx, stdout: stdout, stderr: stderr, buf: make([]byte, 0, flushAt+4096), width: 80}
}

// setUp takes the form of the output from the words of a command line as they were
// typed, also from those that cannot be parsed.
func (o *output) setUp(cmd *cli.Command, words []string) {
	o.cmd = cmd
	color := "auto"
	for i, w := range words {
		if w == "--" {
			break
		}
		if w == "--color" && i+1 < len(words) {
			w += "=" + words[i+1]
		}
		switch w {
		case "--json", "-json", "--json=true":
			o.json = true
		case "--plain", "-plain", "--plain=true":
			o.plain = true
		case "--color=always":
			color = "always"
		case "--color=never":
			color = "never"
		}
	}
	tty := isTerminal(o.stdout)
	if f, ok := o.stdout.(*os.File); ok && tty {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			o.width = w
		}
	}
	colored := color == "always" ||
		color == "auto" && tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	o.frames = (tty || color == "always") && !o.plain && !o.json
	o.styles = newStyles(colored && !o.plain && !o.json)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// checkForm is the usage error of flags that contradict each other.
func checkForm(c *cli.Context) error {
	if c.Bool("json") && c.Bool("plain") {
		return usagef("--json and --plain exclude each other")
	}
	switch w := c.String("color"); w {
	case "auto", "always", "never", "":
		return nil
	default:
		return usageHint(didYouMean(w, []string{"auto", "always", "never"}), "--color is %q, want auto, always or never", w)
	}
}

// ok reports whether it is worth printing more: nobody interrupted, and
// whoever reads is still there.
func (o *output) ok() bool { return o.err == nil && o.ctx.Err() == nil }

// fail is the error that ended the output, or nil.
func (o *output) fail() error {
	if o.err == nil && o.ctx.Err() != nil {
		o.err = errInterrupted
	}
	return o.err
}

// flush writes what is collected.
func (o *output) flush() error {
	if o.err == nil && len(o.buf) > 0 {
		_, o.err = o.stdout.Write(o.buf)
	}
	o.buf = o.buf[:0]
	return o.fail()
}

// lined is called after each record: it writes when enough has been collected.
func (o *output) lined() {
	if len(o.buf) >= flushAt {
		o.flush()
	}
}

// Write implements io.Writer, for text.
func (o *output) Write(p []byte) (int, error) {
	if len(o.buf)+len(p) >= flushAt {
		if err := o.flush(); err != nil {
			return 0, err
		}
		if len(p) >= flushAt {
			var n int
			n, o.err = o.stdout.Write(p)
			return n, o.err
		}
	}
	o.buf = append(o.buf, p...)
	return len(p), o.err
}

// str appends text.
func (o *output) str(s string) { o.buf = append(o.buf, s...) }

// line appends text and ends the line.
func (o *output) line(s string) {
	o.buf = append(append(o.buf, s...), '\n')
	o.lined()
}

// close ends the JSON document, with err in it unless that is nil, and writes
// what is left. It returns the error of writing.
func (o *output) close(err error) error {
	if o.json && (err != nil || len(o.nest) > 0) {
		o.doc()
		for len(o.nest) > 1 {
			o.end()
		}
		if err != nil {
			o.key("error")
			o.errorObject(o.cmd, err)
		}
		o.end()
		o.buf = append(o.buf, '\n')
		if o.err == errInterrupted {
			o.err = nil
		}
		if o.err == nil {
			_, o.err = o.stdout.Write(o.buf)
		}
		o.buf = o.buf[:0]
		return o.err
	}
	if o.err == nil && len(bytes.TrimSpace(o.buf)) > 0 {
		_, o.err = o.stdout.Write(o.buf)
	}
	o.buf = o.buf[:0]
	return o.err
}

package commands

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/lipgloss"
	lgtable "github.com/charmbracelet/lipgloss/table"
	"github.com/muesli/termenv"
)

// styles are the colours of a terminal, or nothing elsewhere.
type styles struct {
	good, bad, dim, name func(string) string
}

func newStyles(colored bool) styles {
	plain := func(s string) string { return s }
	if !colored {
		return styles{plain, plain, plain, plain}
	}
	r := lipgloss.NewRenderer(nil)
	r.SetColorProfile(termenv.ANSI)
	paint := func(color string, bold bool) func(string) string {
		st := r.NewStyle().Foreground(lipgloss.Color(color)).Bold(bold)
		return func(s string) string { return st.Render(s) }
	}
	return styles{good: paint("2", false), bad: paint("1", true), dim: paint("8", false), name: paint("4", true)}
}

// A column of a table.
type column struct {
	name  string
	width int  // least, where columns are aligned by blanks
	left  bool // text; numbers are aligned to the right
}

// A table is printed row by row: with frames on a terminal, aligned by
// blanks elsewhere, and with TABs and no heading for --plain. Cells are
// appended one after the other, and end ends the row.
type table struct {
	o       *output
	columns []column
	n       int        // cells of the row so far
	started bool       // the heading is out
	row     []string   // with frames
	rows    [][]string // with frames, until [framedRows] are there
}

// framedRows is how many rows go into one frame, which takes its widths from all
// of them. What is longer comes in several frames.
const framedRows = 5000

func newTable(o *output, columns ...column) *table { return &table{o: o, columns: columns} }

func (t *table) heading() {
	t.started = true
	if t.o.plain || t.o.frames {
		return
	}
	for i, c := range t.columns {
		t.aligned(i, c.name)
	}
	t.newline()
}

// str appends a cell of text.
func (t *table) str(s string) {
	if !t.started {
		t.heading()
	}
	switch {
	case t.o.frames:
		t.row = append(t.row, s)
	case t.o.plain:
		if t.n > 0 {
			t.o.buf = append(t.o.buf, '\t')
		}
		t.o.str(s)
	default:
		t.aligned(t.n, s)
	}
	t.n++
}

// uint appends a cell with a number.
func (t *table) uint(v uint64) {
	if t.o.frames {
		t.str(strconv.FormatUint(v, 10))
		return
	}
	var b [20]byte
	t.str(string(strconv.AppendUint(b[:0], v, 10)))
}

// blanks are for padding.
const blanks = "                                                                "

// pad appends n blanks.
func (o *output) pad(n int) {
	for ; n > len(blanks); n -= len(blanks) {
		o.str(blanks)
	}
	if n > 0 {
		o.str(blanks[:n])
	}
}

func (t *table) aligned(i int, s string) {
	c := t.columns[i]
	if i > 0 {
		t.o.buf = append(t.o.buf, ' ')
	}
	n := c.width - utf8.RuneCountInString(s)
	if !c.left {
		t.o.pad(n)
	}
	t.o.str(s)
	if c.left && i < len(t.columns)-1 {
		t.o.pad(n)
	}
}

// end ends the row.
func (t *table) end() {
	t.n = 0
	if t.o.frames {
		t.rows = append(t.rows, t.row)
		t.row = nil
		if len(t.rows) == framedRows {
			t.render()
		}
		return
	}
	t.newline()
}

func (t *table) newline() {
	for n := len(t.o.buf); n > 0 && t.o.buf[n-1] == ' '; n-- {
		t.o.buf = t.o.buf[:n-1]
	}
	t.o.buf = append(t.o.buf, '\n')
	t.o.lined()
}

// close prints what is left. A table without rows prints nothing.
func (t *table) close() {
	if len(t.rows) > 0 {
		t.render()
	}
}

func (t *table) render() {
	cell := lipgloss.NewStyle().Padding(0, 1)
	align := make([]lipgloss.Style, len(t.columns))
	head := make([]string, len(t.columns))
	for i, c := range t.columns {
		align[i] = cell.Align(lipgloss.Right)
		if c.left {
			align[i] = cell.Align(lipgloss.Left)
		}
		head[i] = t.o.styles.name(strings.TrimRight(c.name, ":"))
	}
	frame := lgtable.New().Border(lipgloss.RoundedBorder()).Wrap(false).Headers(head...).Rows(t.rows...).
		StyleFunc(func(_, column int) lipgloss.Style { return align[column] })
	t.rows = t.rows[:0]
	t.o.str(frame.String())
	t.o.str("\n")
	t.o.lined()
}

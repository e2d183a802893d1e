package commands

import (
	"encoding/binary"
	"errors"
	"strconv"
	"sync"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// mapRows prints the rows of one map. There may be hundreds of thousands: the
// rows of text are put together by hand.
type mapRows struct {
	d      *dumper
	bs     uint64
	lw, pw int // digits of logical and physical block numbers
	headed bool
	framed *table
	model  rowModel
}

func (m *mapRows) begin(d *dumper) {
	fs := d.f.im.fs
	m.d, m.bs, m.headed, m.framed = d, uint64(fs.Super().BlockSize()), false, nil
	m.model.of = ext4.MapRow{}
	m.lw = max(5, digits((uint64(max(0, d.f.Size()))+m.bs-1)/m.bs))
	m.pw = max(5, digits(fs.Super().Blocks))
	if d.o.json || d.o.plain || d.quiet {
		return
	}
	m.head()
}

// head prints what stands above the rows of a file.
func (m *mapRows) head() {
	o := m.d.o
	m.headed = true
	if m.d.many {
		o.line(o.styles.name(shownName(m.d.f.path) + ": inode " + strconv.FormatUint(uint64(m.d.f.Ino()), 10)))
	}
	if o.frames {
		m.framed = newTable(o, column{name: "Level"}, column{name: "Entries"}, column{name: "Logical"}, column{name: "Physical"},
			column{name: "Length"}, column{name: "Flags", left: true}, column{name: "Node"}, column{name: "Csum", left: true})
		return
	}
	o.str("Level Entries ")
	o.right("Logical", 2*m.lw+3)
	o.str(" ")
	o.right("Physical", 2*m.pw+3)
	o.str(" Length Flags ")
	o.right("Node", m.pw)
	o.line(" Csum")
}

func digits(n uint64) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// right appends s, aligned to the right in width columns.
func (o *output) right(s string, width int) {
	o.pad(width - len(s))
	o.str(s)
}

// num appends v, aligned to the right in width columns.
func (o *output) num(v uint64, width int) {
	var a [20]byte
	i := len(a)
	for {
		i--
		a[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			break
		}
	}
	for n := len(a) - i; n < width; n++ {
		o.buf = append(o.buf, ' ')
	}
	o.buf = append(o.buf, a[i:]...)
}

func (m *mapRows) row(r *ext4.MapRow) {
	o := m.d.o
	switch {
	case o.json:
		m.json(r)
	case o.plain:
		m.plain(r)
	default:
		if !m.headed {
			m.head()
		}
		if m.framed != nil {
			m.frame(r)
			return
		}
		m.text(r)
	}
}

func (m *mapRows) close() {
	if m.framed != nil {
		m.framed.close()
	}
}

// last is the last of n numbers from first on; debugfs prints it so for 0, too.
func last(first, n uint64) uint64 { return first + n - 1 }

// logicalEnd is the last block of the row: that of a node reaches, where
// nothing follows, to the end of the file.
func (m *mapRows) logicalEnd(r *ext4.MapRow) uint64 {
	n := m.length(r)
	if n == 0 {
		return uint64(r.Logical)
	}
	return last(uint64(r.Logical), n)
}

// length is the length of the row in blocks, cut for nodes at the end of the file as
// debugfs does.
func (m *mapRows) length(r *ext4.MapRow) uint64 {
	if r.Leaf || uint64(r.Logical)+r.Len < 1<<32 {
		return r.Len
	}
	end := (uint64(max(0, m.d.f.Size())) + m.bs - 1) / m.bs
	if end <= uint64(r.Logical) {
		return r.Len
	}
	return end - uint64(r.Logical)
}

// text prints a row as debugfs does. Rows of one node differ in six numbers
// alone, so those that follow its first are copies of it with other digits.
func (m *mapRows) text(r *ext4.MapRow) {
	if !m.model.fits(r) || !m.copyRow(r) {
		m.slowText(r)
		m.model.of = *r
	}
	m.d.o.lined()
}

// A rowModel is a row to be copied.
type rowModel struct {
	of     ext4.MapRow
	line   []byte
	fields [6]rowField // entry, logical, its end, physical, its end, length
	n      int         // fields noted so far
}

// A rowField is the place of a number in a row.
type rowField struct {
	end   int    // where it ends
	limit uint64 // the least number that has too many digits for it
	old   uint64 // the eight bytes up to end, those of the number blanked out
}

// fits reports whether r is a leaf in order, as the model is, of the same node and kind.
func (mo *rowModel) fits(r *ext4.MapRow) bool {
	p := &mo.of
	return r.Leaf && p.Leaf && r.Err == nil && p.Err == nil && r.Node == p.Node && r.Entries == p.Entries &&
		r.Level == p.Level && r.Depth == p.Depth && r.Unwritten == p.Unwritten && r.Checksum == p.Checksum
}

// copyRow prints a row like the model. It prints nothing if a number has more
// digits than there is room for.
func (m *mapRows) copyRow(r *ext4.MapRow) bool {
	o, mo := m.d.o, &m.model
	at := len(o.buf)
	o.buf = append(o.buf, mo.line...)
	row := o.buf[at:]
	v := [...]uint64{
		uint64(r.Entry), uint64(r.Logical), last(uint64(r.Logical), max(1, r.Len)),
		uint64(r.Physical), last(uint64(r.Physical), max(1, r.Len)), r.Len,
	}
	digits := fourDigits()
	// From the right: each number spoils up to seven bytes before it, which are made good
	// from the model, or are the next number's.
	for i := len(v) - 1; i >= 0; i-- {
		f := &mo.fields[i]
		if v[i] >= f.limit {
			o.buf = o.buf[:at]
			return false
		}
		binary.LittleEndian.PutUint64(row[f.end-8:f.end], f.old|digits.word(v[i]))
	}
	return true
}

// maxWord is the least number that [digitTable.word] cannot take.
const maxWord = 1e8

// A digitTable has the digits of 0 to 9999, four bytes each, less a blank in
// each byte: with blanks and with zeros before them.
type digitTable struct{ blank, zero [10000]uint32 }

var fourDigits = sync.OnceValue(func() *digitTable {
	t := new(digitTable)
	for v := range uint32(10000) {
		const zeros = 0x10101010 // less a blank each
		t.zero[v] = zeros | v/1000 | v/100%10<<8 | v/10%10<<16 | v%10<<24
		switch digits(uint64(v)) {
		case 4:
			t.blank[v] = t.zero[v]
		case 3:
			t.blank[v] = t.zero[v] &^ 0xff
		case 2:
			t.blank[v] = t.zero[v] &^ 0xffff
		case 1:
			t.blank[v] = t.zero[v] &^ 0xffffff
		}
	}
	return t
})

// word is v below [maxWord] as eight characters with blanks before it, each less a blank.
func (t *digitTable) word(v uint64) uint64 {
	high, low := v/10000, v%10000
	if high == 0 {
		return uint64(t.blank[low]) << 32
	}
	return uint64(t.blank[high%10000]) | uint64(t.zero[low])<<32
}

// field prints a number and notes where, for the model.
func (m *mapRows) field(line int, v uint64, width int) {
	o, mo := m.d.o, &m.model
	start := len(o.buf)
	o.num(v, width)
	end := len(o.buf)
	f := &mo.fields[mo.n]
	mo.n++
	f.end, f.limit = end-line, maxWord
	old := [8]byte(o.buf[end-8 : end]) // level and depth stand before the first number
	for i := range 8 {
		if i >= 8-(end-start) {
			old[i] = ' '
		}
	}
	for n := end - start; n < 8; n++ {
		f.limit /= 10
	}
	f.old = binary.LittleEndian.Uint64(old[:])
}

// slowText prints any row, and makes it the model.
func (m *mapRows) slowText(r *ext4.MapRow) {
	o := m.d.o
	line := len(o.buf)
	m.model.n = 0
	o.num(uint64(r.Level), 2)
	o.buf = append(o.buf, '/')
	o.num(uint64(r.Depth), 2)
	o.buf = append(o.buf, ' ')
	m.field(line, uint64(r.Entry), 3)
	o.buf = append(o.buf, '/')
	o.num(uint64(r.Entries), 3)
	o.buf = append(o.buf, ' ')
	m.field(line, uint64(r.Logical), m.lw)
	o.buf = append(o.buf, " - "...)
	m.field(line, m.logicalEnd(r), m.lw)
	o.buf = append(o.buf, ' ')
	m.field(line, uint64(r.Physical), m.pw)
	if r.Leaf {
		o.buf = append(o.buf, " - "...)
		m.field(line, last(uint64(r.Physical), max(1, r.Len)), m.pw)
	} else {
		o.pad(m.pw + 3)
	}
	o.buf = append(o.buf, ' ')
	if r.Leaf {
		m.field(line, m.length(r), 6)
	} else {
		o.num(m.length(r), 6)
	}
	if r.Unwritten {
		o.buf = append(o.buf, " Uninit "...)
	} else {
		o.buf = append(o.buf, "        "...)
	}
	if r.Node == 0 {
		o.pad(m.pw - 5)
		o.buf = append(o.buf, "inode"...)
	} else {
		o.num(uint64(r.Node), m.pw)
	}
	o.buf = append(o.buf, ' ')
	o.buf = append(o.buf, checkText(r.Checksum)...)
	if r.Err != nil {
		o.str(" ")
		o.str(o.styles.bad("DAMAGED: " + broken(r.Err)))
	}
	o.buf = append(o.buf, '\n')
	if r.Leaf && r.Err == nil {
		m.model.line = append(m.model.line[:0], o.buf[line:]...)
	}
}

// checkText is the state of a node's checksum for people.
func checkText(s ext4.CheckState) string {
	switch s {
	case ext4.CheckOK:
		return "ok"
	case ext4.CheckBad:
		return "BAD"
	}
	return "-"
}

// broken is the rule that err says is broken, in few words.
func broken(err error) string {
	var c *disk.CorruptError
	if errors.As(err, &c) {
		return c.Field + " is " + c.Have
	}
	return errorText(err)
}

func (m *mapRows) frame(r *ext4.MapRow) {
	t := m.framed
	u := func(v uint64) string { return strconv.FormatUint(v, 10) }
	t.str(u(uint64(r.Level)) + "/" + u(uint64(r.Depth)))
	t.str(u(uint64(r.Entry)) + "/" + u(uint64(r.Entries)))
	t.str(u(uint64(r.Logical)) + " - " + u(m.logicalEnd(r)))
	if r.Leaf {
		t.str(u(uint64(r.Physical)) + " - " + u(last(uint64(r.Physical), max(1, r.Len))))
	} else {
		t.str(u(uint64(r.Physical)))
	}
	t.uint(m.length(r))
	flags := ""
	if r.Unwritten {
		flags = "Uninit"
	}
	if r.Err != nil {
		flags = m.d.o.styles.bad("DAMAGED: " + broken(r.Err))
	}
	t.str(flags)
	if r.Node == 0 {
		t.str("inode")
	} else {
		t.uint(uint64(r.Node))
	}
	t.str(m.check(r.Checksum))
	t.end()
}

// check is checkText in colour.
func (m *mapRows) check(s ext4.CheckState) string {
	st := &m.d.o.styles
	switch s {
	case ext4.CheckOK:
		return st.good("ok")
	case ext4.CheckBad:
		return st.bad("BAD")
	}
	return "-"
}

func (m *mapRows) plain(r *ext4.MapRow) {
	o := m.d.o
	o.str(o.name(m.d.f.path))
	for _, v := range [...]uint64{uint64(m.d.f.Ino()), uint64(r.Level), uint64(r.Depth), uint64(r.Entry), uint64(r.Entries)} {
		o.buf = append(o.buf, '\t')
		o.num(v, 0)
	}
	o.buf = append(o.buf, '\t')
	switch {
	case !r.Leaf:
		o.str(stateIndex)
	case r.Unwritten:
		o.str(stateUnwritten)
	default:
		o.str(stateWritten)
	}
	for _, v := range [...]uint64{uint64(r.Logical) * m.bs, uint64(r.Physical) * m.bs, m.length(r) * m.bs} {
		o.buf = append(o.buf, '\t')
		o.num(v, 0)
	}
	o.buf = append(o.buf, '\t')
	if r.Node == 0 {
		o.buf = append(o.buf, '-')
	} else {
		o.num(uint64(r.Node)*m.bs, 0)
	}
	o.buf = append(o.buf, '\t')
	o.str(r.Checksum.String())
	o.buf = append(o.buf, '\t')
	if r.Err != nil {
		o.str(o.name(errorText(r.Err)))
	}
	o.buf = append(o.buf, '\n')
	o.lined()
}

func (m *mapRows) json(r *ext4.MapRow) {
	o := m.d.o
	x := rowExtent(*r, m.bs)
	x.length = m.length(r) * m.bs
	o.extent(x)
	o.kUint("level", uint64(r.Level))
	o.kUint("depth", uint64(r.Depth))
	o.kUint("entry", uint64(r.Entry))
	o.kUint("entries", uint64(r.Entries))
	if r.Node == 0 {
		o.kNull("node")
	} else {
		o.kUint("node", uint64(r.Node)*m.bs)
	}
	o.kStr("checksum", r.Checksum.String())
	if r.Err != nil {
		o.key("error")
		o.errorObject(m.d.c.Command, r.Err)
	}
	o.end()
}

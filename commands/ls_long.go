package commands

import (
	"strconv"
	"strings"
	"time"

	"e4go/ext4/disk"
)

// target is the target of a symbolic link, and whether e is one that can be read.
func (l *lister) target(e *lsEntry) (string, bool) {
	if e.in == nil || e.in.Type() != disk.ModeLink {
		return "", false
	}
	s, err := e.in.Readlink()
	if err != nil {
		l.met(&pathError{e.path, err})
		return "", false
	}
	return s, true
}

// table prints ents as ls -l does, in columns as wide as they have to be.
func (l *lister) table(ents []lsEntry) {
	var b []byte
	cells := make([][7]string, len(ents))
	var width [7]int
	for i := range ents {
		e := &ents[i]
		c := &cells[i]
		if l.inode {
			c[0] = strconv.FormatUint(uint64(e.ino), 10)
		}
		if e.in == nil {
			c[1] = "??????????"
		} else {
			st := e.in.Stat()
			b = appendMode(b[:0], disk.Mode(st.Mode))
			c[1] = string(b)
			c[2] = strconv.FormatUint(uint64(st.Nlink), 10)
			c[3] = strconv.FormatUint(uint64(st.UID), 10)
			c[4] = strconv.FormatUint(uint64(st.GID), 10)
			c[5] = strconv.FormatInt(st.Size, 10)
			if t := e.in.Type(); t == disk.ModeChar || t == disk.ModeBlock {
				c[5] = strconv.Itoa(int(st.Major)) + ", " + strconv.Itoa(int(st.Minor))
			}
			b = time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)).UTC().AppendFormat(b[:0], "2006-01-02 15:04")
			c[6] = string(b)
		}
		for j := range c {
			width[j] = max(width[j], len(c[j]))
		}
	}
	for i := range ents {
		e := &ents[i]
		for j, s := range cells[i] {
			if width[j] == 0 {
				continue
			}
			if j != 1 {
				l.o.pad(width[j] - len(s))
			}
			l.o.str(s)
			l.o.str(" ")
		}
		l.o.str(l.painted(e, shownName(e.name)))
		if t, ok := l.target(e); ok {
			l.o.str(" -> " + shownName(t))
		}
		l.o.line("")
	}
}

// plain prints a line of fields.
func (l *lister) plain(e *lsEntry) {
	o := l.o
	o.str(o.name(e.path))
	tab := func() { o.buf = append(o.buf, '\t') }
	uint := func(v uint64) { tab(); o.buf = strconv.AppendUint(o.buf, v, 10) }
	uint(uint64(e.ino))
	if e.in == nil {
		o.line(strings.Repeat("\t", 9))
		return
	}
	st := e.in.Stat()
	tab()
	o.buf = strconv.AppendUint(o.buf, uint64(st.Mode), 8)
	uint(uint64(st.Nlink))
	uint(uint64(st.UID))
	uint(uint64(st.GID))
	tab()
	o.buf = strconv.AppendInt(o.buf, st.Size, 10)
	tab()
	o.buf = strconv.AppendInt(o.buf, st.Mtime.Sec, 10)
	uint(uint64(st.Mtime.Nsec))
	tab()
	o.str(e.typ.String())
	tab()
	if t, ok := l.target(e); ok {
		o.str(o.name(t))
	}
	o.line("")
}

// json writes an object of the array "files".
func (l *lister) json(e *lsEntry) {
	o := l.o
	o.obj()
	o.kName("path", e.path)
	o.kName("name", e.name)
	o.kUint("ino", uint64(e.ino))
	o.kStr("type", e.typ.String())
	if l.long && e.in != nil {
		st := e.in.Stat()
		o.statFields(&st)
		if t, ok := l.target(e); ok {
			o.kName("target", t)
		}
	}
	o.end()
}

package commands

import (
	"strings"
)

// A fact is a name and a value: a line of text or a key of JSON.
type fact struct {
	label string // for people; "" keeps the fact out of the text
	key   string // in JSON and for --plain; "" keeps it out of these
	value any    // as output.kVal takes it
	text  string // for people; "" takes the value as it is
}

// factWidth is the column in which the values of facts begin, as in dumpe2fs.
const factWidth = 26

// facts prints them: aligned lines, KEY TAB VALUE, or keys of the open object.
func (o *output) facts(list []fact) {
	for _, f := range list {
		switch {
		case o.json:
			if f.key != "" {
				o.kVal(f.key, f.value)
			}
		case o.plain:
			if f.key != "" {
				o.str(f.key)
				o.str("\t")
				o.line(o.name(valueText(f.value)))
			}
		case f.label != "":
			text := f.text
			if text == "" {
				text = valueText(f.value)
			}
			label := f.label + ":"
			o.str(o.styles.name(label))
			o.pad(max(1, factWidth-len(label)))
			o.line(text)
		}
	}
}

func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []string:
		return strings.Join(v, " ")
	case string:
		return v
	}
	return sprint(v)
}

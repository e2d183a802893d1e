package commands

import (
	"encoding/hex"
	"strconv"
	"unicode/utf8"
)

// schema is the number of the JSON documents' form. It changes when a key
// loses its meaning; new keys do not change it.
const schema = 1

// The JSON document is written as it comes, so that no output is too long for
// memory. It is one object, opened by the first value and closed by
// [output.close], whatever happened in between.

// doc opens the document, unless it is open.
func (o *output) doc() {
	if len(o.nest) == 0 {
		o.nest, o.comma = append(o.nest, '}'), false
		o.buf = append(o.buf, '{')
		o.kInt("schema", schema)
	}
}

// sep puts the comma before a value of an array, and a line break before an
// object of one: a line for each record can be read and compared.
func (o *output) sep(object bool) {
	if n := len(o.nest); n == 0 || o.nest[n-1] == '}' {
		return // the key has it
	}
	if o.comma {
		o.buf = append(o.buf, ',')
	}
	if object && !o.oneLine {
		o.buf = append(o.buf, '\n')
		o.lined()
	}
}

func (o *output) obj() {
	o.sep(true)
	o.buf = append(o.buf, '{')
	o.nest, o.comma = append(o.nest, '}'), false
}

func (o *output) arr() {
	o.sep(false)
	o.buf = append(o.buf, '[')
	o.nest, o.comma = append(o.nest, ']'), false
}

// end closes the innermost object or array.
func (o *output) end() {
	n := len(o.nest) - 1
	o.buf = append(o.buf, o.nest[n])
	o.nest, o.comma = o.nest[:n], true
}

// key writes the key of the value that follows.
func (o *output) key(k string) {
	o.doc()
	if o.comma {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, k...)
	o.buf = append(o.buf, '"', ':')
	o.comma = true
}

func (o *output) kObj(k string) { o.key(k); o.obj() }
func (o *output) kArr(k string) { o.key(k); o.arr() }

func (o *output) kUint(k string, v uint64) { o.key(k); o.buf = strconv.AppendUint(o.buf, v, 10) }
func (o *output) kInt(k string, v int64)   { o.key(k); o.buf = strconv.AppendInt(o.buf, v, 10) }
func (o *output) kBool(k string, v bool)   { o.key(k); o.buf = strconv.AppendBool(o.buf, v) }
func (o *output) kNull(k string)           { o.key(k); o.buf = append(o.buf, "null"...) }
func (o *output) kStr(k, v string)         { o.key(k); o.buf = appendJSONString(o.buf, v) }

// kName writes a name or path. Bytes that are not UTF-8 are replaced in it, and
// then all bytes follow in hexadecimal as k_hex.
func (o *output) kName(k, v string) {
	o.kStr(k, v)
	if !utf8.ValidString(v) {
		o.kStr(k+"_hex", hex.EncodeToString([]byte(v)))
	}
}

// elem writes a number in an array.
func (o *output) elem(v uint64) {
	o.sep(false)
	o.buf = strconv.AppendUint(o.buf, v, 10)
	o.comma = true
}

func (o *output) kStrs(k string, v []string) {
	o.kArr(k)
	for _, s := range v {
		o.sep(false)
		o.buf = appendJSONString(o.buf, s)
		o.comma = true
	}
	o.end()
}

// kVal writes a value of one of the types that facts have.
func (o *output) kVal(k string, v any) {
	switch v := v.(type) {
	case nil:
		o.kNull(k)
	case string:
		o.kStr(k, v)
	case []string:
		o.kStrs(k, v)
	case bool:
		o.kBool(k, v)
	case int:
		o.kInt(k, int64(v))
	case int64:
		o.kInt(k, v)
	case uint64:
		o.kUint(k, v)
	default:
		panic("commands: no JSON for a value of this type")
	}
}

const hexDigits = "0123456789abcdef"

// appendJSONString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, "\ufffd"...)
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

package commands

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"e4go/ext4"
	"e4go/ext4/disk"
)

// xattrShown is how many bytes of a value are shown to people.
const xattrShown = 256

// showXattrs shows the extended attributes, those too that listxattr(2) hides.
func showXattrs(o *output, f *file) error {
	list, err := f.Xattrs()
	if o.json {
		o.kArr("xattrs")
	}
	for _, x := range list {
		switch {
		case o.json:
			xattrObject(o, x)
		case o.plain:
			o.line("xattr." + o.name(x.Name) + "\t" + hex.EncodeToString(x.Value))
		default:
			o.line(fmt.Sprintf("Xattr %s (%d bytes, %s%s): %s", shownName(x.Name), len(x.Value), x.Where, hidden(x), xattrText(x)))
		}
	}
	if o.json {
		o.end()
	}
	return err
}

func hidden(x ext4.Xattr) string {
	if x.Shown {
		return ""
	}
	return ", hidden"
}

func isACL(x ext4.Xattr) bool {
	return x.Index == disk.XattrACLAccess || x.Index == disk.XattrACLDefault
}

// xattrText is the value for people: an ACL as getfacl prints it, text, or
// hexadecimal.
func xattrText(x ext4.Xattr) string {
	if isACL(x) {
		if acl, err := disk.DecodeACL(x.Value); err == nil {
			return aclText(acl)
		}
	}
	cut := x.Value[:min(len(x.Value), xattrShown)]
	text := shownValue(cut)
	if len(cut) < len(x.Value) {
		text += "..."
	}
	return text
}

// aclText is an ACL in the short form of getfacl(1): user::rwx,group::r-x.
func aclText(acl []disk.ACLEntry) string {
	var b []byte
	for i, e := range acl {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, aclEntryText(e)...)
	}
	return string(b)
}

func aclEntryText(e disk.ACLEntry) string {
	perm := []byte("---")
	for i, c := range "rwx" {
		if e.Perm&(4>>i) != 0 {
			perm[i] = byte(c)
		}
	}
	switch e.Tag {
	case disk.ACLUserObj:
		return "user::" + string(perm)
	case disk.ACLUser:
		return fmt.Sprintf("user:%d:%s", e.ID, perm)
	case disk.ACLGroupObj:
		return "group::" + string(perm)
	case disk.ACLGroup:
		return fmt.Sprintf("group:%d:%s", e.ID, perm)
	case disk.ACLMask:
		return "mask::" + string(perm)
	}
	return "other::" + string(perm)
}

// valueEncoding is b as text if that is what it is, or in hexadecimal.
func valueEncoding(b []byte) (text, encoding string) {
	if utf8.Valid(b) && !bytes.ContainsFunc(b, unprintable) {
		return string(b), "text"
	}
	return hex.EncodeToString(b), "hex"
}

// unprintable reports whether r stands in no text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' }

// shownValue is b as people read it: quoted text, or hexadecimal after 0x.
func shownValue(b []byte) string {
	text, encoding := valueEncoding(b)
	if encoding == "hex" {
		return "0x" + text
	}
	return strconv.QuoteToGraphic(text)
}

func xattrObject(o *output, x ext4.Xattr) {
	o.obj()
	o.kName("name", x.Name)
	o.kStr("where", x.Where)
	o.kBool("shown", x.Shown)
	o.kInt("length", int64(len(x.Value)))
	text, encoding := valueEncoding(x.Value)
	o.kStr("encoding", encoding)
	o.kStr("value", text)
	if isACL(x) {
		if acl, err := disk.DecodeACL(x.Value); err == nil {
			var lines []string
			for _, e := range acl {
				lines = append(lines, aclEntryText(e))
			}
			o.kStrs("acl", lines)
		}
	}
	o.end()
}

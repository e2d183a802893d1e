package mkfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"

	"e4go/ext4/disk"
)

const (
	tarBlock   = 512     // headers take one, contents as many as they need
	maxTarMeta = 4 << 20 // bytes of a long name or of pax records
)

// A tarHeader is what an archive says of an entry, in headers of all kinds.
//
//	0    name 100      mode 8  uid 8  gid 8  size 12  mtime 12
//	148  checksum 8    type 1  link 100      magic 8
//	265  names 64      major 8 minor 8
//	345  prefix 155 of the name (ustar), or 131 (star); GNU has its sparse map here
type tarHeader struct {
	name, link   string
	kind         byte
	mode         int64
	uid, gid     int64
	size         int64 // of the file, bytes
	mtime        disk.Time
	major, minor int64
	records      map[string]string // of pax; not to be changed

	stored int64  // bytes that the archive has of the file
	parts  []span // where in the file they belong, if it has holes; else nil
}

// The kinds of entries that are not of archive/tar's list.
const (
	tarOldFile = 0
	tarDumpDir = 'D' // a directory with a list of names, which tar(1) ignores, too
	tarLabel   = 'V' // the name of a volume
	tarVolume  = 'M' // the rest of a file that begins in another archive
	tarSunPax  = 'X' // pax records, before pax was a standard
)

// errTarShort says that an archive has not all that its headers promise.
var errTarShort = errors.New("the archive ends early")

// A tarReader reads an archive from header to header: those of ustar, star,
// pax, GNU, and of tar before all of them.
//
// It is not archive/tar's: that one fills holes with zeros and keeps to itself
// where they are, so that a hole of a tebibyte would have to be read, and could
// not be told from zeros that somebody wrote; it does not say where contents lie in
// the archive, to read them when their place is known; and it takes an archive
// that has no end for one that is complete.
type tarReader struct {
	r      *bufio.Reader
	file   *os.File // what r reads, if parts of it can be read again; else nil
	end    int64    // of file
	at     int64    // bytes up to here were read or skipped
	left   int64    // bytes of the contents of the entry that were not read yet
	pad    int64    // bytes behind them
	last   string   // the name of the entry
	begun  bool
	global map[string]string // pax records for all entries to come
	block  [tarBlock]byte
}

// next goes on to the next entry. At the end of the archive it returns io.EOF.
func (t *tarReader) next(ctx context.Context) (*tarHeader, error) {
	if err := t.skip(ctx, t.left+t.pad); err != nil {
		return nil, fmt.Errorf("%q: %w", t.last, err)
	}
	t.left, t.pad = 0, 0
	var own map[string]string
	var name, link string // by GNU's entries for long ones
	for meta := false; ; meta = true {
		place := t.at
		fail := func(err error) error { return fmt.Errorf("the header at byte %d: %w", place, err) }
		err := t.readHeader()
		if err == io.EOF && meta {
			err = fail(errTarShort) // it is for an entry that is not there
		}
		if err != nil {
			return nil, err
		}
		h, err := decodeTarHeader(&t.block)
		if err != nil {
			return nil, fail(err)
		}
		switch h.kind {
		case 'x', 'g', tarSunPax, 'L', 'K', tarLabel:
			b, err := t.meta(ctx, h)
			if err != nil {
				return nil, fail(err)
			}
			switch h.kind {
			case 'L':
				name = cString(b)
			case 'K':
				link = cString(b)
			case 'g':
				err = t.setGlobal(b)
			case 'x', tarSunPax:
				own, err = parsePax(b)
			}
			if err != nil {
				return nil, fail(err)
			}
			continue
		}
		if h.records = own; len(t.global) > 0 {
			h.records = maps.Clone(t.global)
			maps.Copy(h.records, own)
		}
		if err := h.apply(); err != nil {
			return nil, fail(err)
		}
		if name != "" {
			h.name = name
		}
		if link != "" {
			h.link = link
		}
		if err := t.contents(h); err != nil {
			return nil, fmt.Errorf("%q: %w", h.name, err)
		}
		t.last = h.name
		return h, nil
	}
}

// readHeader reads a block that is no end of the archive, which is two blocks
// of zeros, or one at the end of all. An archive without them is one that ends early, if
// between two entries, though tar(1) does not mind.
func (t *tarReader) readHeader() error {
	place := t.at
	err := t.readBlock()
	switch {
	case err == io.EOF && !t.begun:
		return errors.New("the archive is empty")
	case err == io.EOF:
		return fmt.Errorf("%w: nothing stands at byte %d, behind %q, want blocks of zeros at the end", errTarShort, place, t.last)
	}
	t.begun = true
	if err != nil || t.block != [tarBlock]byte{} {
		return err
	}
	if err := t.readBlock(); err != nil {
		return err
	}
	if t.block != [tarBlock]byte{} {
		return fmt.Errorf("at byte %d is one block of zeros: want none, or two at the end", place)
	}
	return io.EOF
}

// readBlock reads a whole block. It returns io.EOF if there is not a byte more.
func (t *tarReader) readBlock() error {
	n, err := io.ReadFull(t.r, t.block[:])
	t.at += int64(n)
	if err == io.ErrUnexpectedEOF && n > 0 {
		return errTarShort
	}
	return err
}

// skip leaves n bytes out.
func (t *tarReader) skip(ctx context.Context, n int64) error {
	if t.file != nil && n > int64(t.r.Buffered()) {
		if n > t.end-t.at {
			return errTarShort
		}
		if _, err := t.file.Seek(t.at+n, io.SeekStart); err != nil {
			return err
		}
		t.r.Reset(t.file)
		t.at += n
		return nil
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := t.r.Discard(int(min(n, 1<<20)))
		t.at += int64(k)
		n -= int64(k)
		if err == io.EOF {
			err = errTarShort
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// drain reads what stands behind the end of the archive: a compressed stream
// has its checksum there, and whoever writes into a pipe wants to get rid of it.
func (t *tarReader) drain(ctx context.Context) error {
	for t.file == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := t.r.Discard(1 << 20); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// meta returns the contents of an entry that says something of the next.
func (t *tarReader) meta(ctx context.Context, h *tarHeader) ([]byte, error) {
	if h.size > maxTarMeta {
		return nil, fmt.Errorf("%d bytes for names or records, at most %d are understood", h.size, maxTarMeta)
	}
	t.left, t.pad = h.size, tarPad(h.size)
	b := make([]byte, h.size)
	if _, err := io.ReadFull(t, b); err != nil {
		return nil, err
	}
	err := t.skip(ctx, t.pad)
	t.pad = 0
	return b, err
}

// Read reads the contents of the entry, without holes.
func (t *tarReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	n, err := t.r.Read(p[:min(int64(len(p)), t.left)])
	t.at += int64(n)
	t.left -= int64(n)
	if err == io.EOF {
		err = errTarShort
	}
	return n, err
}

// contents finds out which bytes behind the header are the entry's.
func (t *tarReader) contents(h *tarHeader) error {
	h.stored = h.size
	switch h.kind {
	case '1', '2', '3', '4', '5', '6': // these have none, whatever they say
		h.stored, h.size = 0, 0
	}
	if h.size < 0 || h.size > 1<<62 {
		return fmt.Errorf("its size is %d", h.size)
	}
	t.left, t.pad = h.stored, tarPad(h.stored)
	return t.sparse(h)
}

// tarPad is how many bytes behind n bytes of contents fill their last block.
func tarPad(n int64) int64 { return -n & (tarBlock - 1) }

// decodeTarHeader decodes one block.
func decodeTarHeader(b *[tarBlock]byte) (*tarHeader, error) {
	if !tarChecksum(b) {
		return nil, errors.New("the checksum is wrong: this is no header of a tar archive")
	}
	h := &tarHeader{kind: b[156], name: cString(b[0:100]), link: cString(b[157:257])}
	type field struct {
		name  string
		value *int64
		b     []byte
	}
	fields := []field{
		{"mode", &h.mode, b[100:108]}, {"uid", &h.uid, b[108:116]}, {"gid", &h.gid, b[116:124]},
		{"size", &h.size, b[124:136]}, {"time", &h.mtime.Sec, b[136:148]},
	}
	if posix, gnu := string(b[257:263]) == "ustar\x00", isGNUHeader(b); posix || gnu {
		if h.kind == '3' || h.kind == '4' {
			fields = append(fields, field{"major", &h.major, b[329:337]}, field{"minor", &h.minor, b[337:345]})
		}
		prefix := ""
		switch {
		case gnu:
		case string(b[508:512]) == "tar\x00": // star has times behind a shorter one
			prefix = cString(b[345:476])
		default:
			prefix = cString(b[345:500])
		}
		if prefix != "" {
			h.name = prefix + "/" + h.name
		}
	}
	for _, f := range fields {
		var err error
		if *f.value, err = tarNumber(f.b); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if h.size < 0 {
		return nil, fmt.Errorf("size: %d", h.size)
	}
	return h, nil
}

func isGNUHeader(b *[tarBlock]byte) bool { return string(b[257:265]) == "ustar  \x00" }

// tarChecksum reports whether a block has the checksum of a header. There are
// those who sum bytes that have signs.
func tarChecksum(b *[tarBlock]byte) bool {
	want, err := tarNumber(b[148:156])
	if err != nil {
		return false
	}
	var sum, signed int64
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int64(c)
		signed += int64(int8(c))
	}
	return want == sum || want == signed
}

// cString is what stands before the first NUL.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// tarNumber decodes a number: octal digits, or, with the highest bit set, the
// binary form that GNU has for large and for negative ones.
func tarNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		text := cString(bytes.Trim(b, " \x00"))
		if text == "" {
			return 0, nil
		}
		n, err := strconv.ParseUint(text, 8, 63)
		if err != nil {
			return 0, fmt.Errorf("%q is no number in octal", text)
		}
		return int64(n), nil
	}
	n := int64(int8(b[0]<<1)) >> 1 // seven bits with a sign
	for _, c := range b[1:] {
		if n != n<<8>>8 {
			return 0, fmt.Errorf("%x has more than 64 bits", b)
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}

// parsePax decodes pax records, each "LENGTH KEY=VALUE\n".
func parsePax(b []byte) (map[string]string, error) {
	records := make(map[string]string)
	var sparse []string // numbers of format 0.0, which repeats its keys
	for len(b) > 0 {
		digits, _, ok := bytes.Cut(b[:min(len(b), 20)], []byte(" "))
		n, err := strconv.ParseUint(string(digits), 10, 31)
		if !ok || err != nil || n > uint64(len(b)) || n <= uint64(len(digits)+1) || b[n-1] != '\n' {
			return nil, fmt.Errorf("the pax record that begins with %q has no proper length", b[:min(len(b), 20)])
		}
		record := b[len(digits)+1 : n-1]
		b = b[n:]
		k, v, ok := bytes.Cut(record, []byte("="))
		key, value := string(k), string(v)
		switch {
		case !ok || key == "" || strings.Contains(key, "\x00"):
			return nil, fmt.Errorf("the pax record %.100q has no key", record)
		case (key == "path" || key == "linkpath") && strings.Contains(value, "\x00"):
			return nil, fmt.Errorf("the pax record %s has a NUL", key)
		case key == "GNU.sparse.offset" && len(sparse)%2 == 0, key == "GNU.sparse.numbytes" && len(sparse)%2 == 1:
			sparse = append(sparse, value)
		case key == "GNU.sparse.offset", key == "GNU.sparse.numbytes":
			return nil, fmt.Errorf("the pax record %s is not where it belongs", key)
		default:
			records[key] = value
		}
	}
	if len(sparse) > 0 {
		records["GNU.sparse.map"] = strings.Join(sparse, ",")
	}
	return records, nil
}

// setGlobal takes pax records for all entries to come.
func (t *tarReader) setGlobal(b []byte) error {
	records, err := parsePax(b)
	if err != nil {
		return err
	}
	for key := range records {
		switch {
		case key == "GNU.volume.filename":
			return errors.New("the archive continues another: want one of a single volume")
		case key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, "GNU.sparse."):
			return fmt.Errorf("the pax record %s cannot be for all entries", key)
		}
	}
	if t.global == nil {
		t.global = make(map[string]string)
	}
	maps.Copy(t.global, records)
	return nil
}

// apply takes over what pax records say. One without a value says nothing.
func (h *tarHeader) apply() error {
	for key, value := range h.records {
		if value == "" {
			continue
		}
		var err error
		switch key {
		case "path":
			h.name = value
		case "linkpath":
			h.link = value
		case "uid":
			h.uid, err = strconv.ParseInt(value, 10, 64)
		case "gid":
			h.gid, err = strconv.ParseInt(value, 10, 64)
		case "size":
			h.size, err = strconv.ParseInt(value, 10, 64)
		case "mtime":
			h.mtime, err = parsePaxTime(value)
		}
		if err != nil {
			return fmt.Errorf("the pax record %s is %q, want a number", key, value)
		}
	}
	return nil
}

// parsePaxTime understands seconds with any number of digits behind the point.
func parsePaxTime(text string) (disk.Time, error) {
	whole, fraction, _ := strings.Cut(text, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.Trim(fraction, "0123456789") != "" {
		return disk.Time{}, errors.New("no time")
	}
	fraction = (fraction + "000000000")[:9]
	nsec, _ := strconv.ParseUint(fraction, 10, 32) // it has digits alone
	if nsec > 0 && strings.HasPrefix(whole, "-") {
		sec, nsec = sec-1, 1e9-nsec // down, not towards zero
	}
	return disk.Time{Sec: sec, Nsec: uint32(nsec)}, nil
}

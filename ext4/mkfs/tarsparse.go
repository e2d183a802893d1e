package mkfs

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxTarParts is how many parts between holes are understood of a file.
const maxTarParts = 1 << 20

// sparse reads the map of a file with holes, in whichever of four forms it has
// one: GNU's own in headers (old GNU), in pax records with the parts each in a record
// or all in one (0.0 and 0.1), or before the contents (1.0).
func (t *tarReader) sparse(h *tarHeader) error {
	version := h.records["GNU.sparse.major"] + "." + h.records["GNU.sparse.minor"]
	var numbers []int64
	var err error
	switch list := h.records["GNU.sparse.map"]; {
	case h.kind == 'S':
		numbers, err = t.oldSparse(h)
	case version == "1.0":
		numbers, err = t.sparseLines()
	case version == "0.0" || version == "0.1" || version == "." && list != "":
		numbers, err = sparseList(list, h.records["GNU.sparse.numblocks"])
	case version == ".":
		return nil
	default:
		err = fmt.Errorf("version %s of sparse files is not known", version)
	}
	if err != nil {
		return err
	}
	if h.kind != 'S' {
		if h.kind != '0' && h.kind != tarOldFile && h.kind != '7' {
			return fmt.Errorf("it is of type %q, and is to have holes", h.kind)
		}
		if name := h.records["GNU.sparse.name"]; name != "" {
			h.name = name
		}
		for _, key := range []string{"GNU.sparse.realsize", "GNU.sparse.size"} {
			if value := h.records[key]; value != "" {
				if h.size, err = strconv.ParseInt(value, 10, 64); err != nil {
					return fmt.Errorf("the pax record %s is %q, want a number", key, value)
				}
			}
		}
	}
	h.stored = t.left
	return h.setParts(numbers)
}

// setParts takes the map of a file: where each part begins, and its length.
func (h *tarHeader) setParts(numbers []int64) error {
	if h.size < 0 || h.size > 1<<62 {
		return fmt.Errorf("its size is %d", h.size)
	}
	h.parts = []span{}
	rest, end := h.stored, int64(0)
	for i := 0; i < len(numbers); i += 2 {
		start, n := numbers[i], numbers[i+1]
		switch {
		case n < 0 || start < end || start > h.size || n > h.size-start:
			return fmt.Errorf("part %d of the sparse file is %d bytes at %d, of %d, and %d is the end of the part before", i/2, n, start, h.size, end)
		case n > rest:
			return errors.New("the parts of the sparse file are more than its contents")
		}
		rest -= n
		if end = start + n; n > 0 {
			h.parts = append(h.parts, span{start, end})
		}
	}
	if rest > 0 {
		return fmt.Errorf("%d bytes of the contents belong to no part of the sparse file", rest)
	}
	return nil
}

// oldSparse reads the map that begins in the header: four parts there and 21 in
// each block behind it that is announced.
func (t *tarReader) oldSparse(h *tarHeader) ([]int64, error) {
	if !isGNUHeader(&t.block) {
		return nil, errors.New("it is a sparse file in a form that is not known")
	}
	var err error
	if h.size, err = tarNumber(t.block[483:495]); err != nil {
		return nil, fmt.Errorf("size: %w", err)
	}
	var numbers []int64
	list, more := t.block[386:482], t.block[482]
	for {
		for ; len(list) >= 24 && list[0] != 0; list = list[24:] {
			for _, field := range [][]byte{list[:12], list[12:24]} {
				n, err := tarNumber(field)
				if err != nil {
					return nil, fmt.Errorf("the map of the sparse file: %w", err)
				}
				numbers = append(numbers, n)
			}
		}
		if more == 0 {
			return numbers, nil
		}
		if len(numbers) >= 2*maxTarParts {
			return nil, errTarParts
		}
		if err := t.readBlock(); err != nil {
			if err == io.EOF {
				err = errTarShort
			}
			return nil, err
		}
		list, more = t.block[:504], t.block[504]
	}
}

var errTarParts = fmt.Errorf("it has more than %d parts between holes", maxTarParts)

// sparseList understands "OFFSET,LENGTH,OFFSET,LENGTH...".
func sparseList(list, count string) ([]int64, error) {
	var numbers []int64
	for text := range strings.SplitSeq(list, ",") {
		if list == "" {
			break
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the map of the sparse file has %q, want a number", text)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) > 2*maxTarParts {
		return nil, errTarParts
	}
	if n, err := strconv.ParseInt(count, 10, 64); err != nil || n < 0 || n != int64(len(numbers)/2) || len(numbers)%2 != 0 {
		return nil, fmt.Errorf("the map of the sparse file has %d numbers for %q parts", len(numbers), count)
	}
	return numbers, nil
}

// sparseLines reads the map that stands before the contents: lines with a
// number each, the first how many parts there are, in blocks of their own.
func (t *tarReader) sparseLines() ([]int64, error) {
	begin := t.left
	line := func() (int64, error) {
		var text []byte
		for {
			var c [1]byte
			if _, err := io.ReadFull(t, c[:]); err != nil {
				if err == io.EOF {
					err = errors.New("the map of the sparse file is longer than its contents")
				}
				return 0, err
			}
			if c[0] == '\n' {
				break
			}
			if text = append(text, c[0]); len(text) > 20 {
				break
			}
		}
		n, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the map of the sparse file has %q, want a number", text)
		}
		return n, nil
	}
	count, err := line()
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxTarParts {
		return nil, errTarParts
	}
	var numbers []int64
	for range 2 * count {
		n, err := line()
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	rest := make([]byte, min(tarPad(begin-t.left), t.left))
	_, err = io.ReadFull(t, rest)
	return numbers, err
}
